// The parts that codecs are made of: bit cursor, integer codes, packing, rANS, positions, random
// words.
#include "base/half.h"
#include "codec/bits.h"
#include "codec/entropy.h"
#include "codec/positions.h"
#include "codec_cases.h"

static struct rng test_rng(uint32_t a)
{
    return rng_stream(99, RNG_TEST, a, 0, 0);
}

static void each_isa(void (*fn)(void))
{
    for (int isa = SIMD_BASE; isa < SIMD_ISA_COUNT; isa++) {
        simd_limit((enum simd_isa)isa);
        fn();
    }
    simd_limit(SIMD_AVX512);
}

// Bit cursor.

static void test_cursor_reads_what_it_wrote(void **state)
{
    (void)state;
    struct rng r = test_rng(1);
    uint8_t *buf = mem_alloc(MEM_CODEC, 8 * 4096);
    uint64_t v[4096];
    unsigned w[4096];
    size_t bits = 0;
    struct bits_out o;
    bits_out_init(&o, buf, 8 * 4096);
    for (int i = 0; i < 4096; i++) {
        w[i] = rng_below(&r, BITS_PUT_MAX + 1);
        v[i] = ((uint64_t)rng_u32(&r) << 32 | rng_u32(&r)) & ((UINT64_C(1) << w[i]) - 1);
        bits_put(&o, v[i], w[i]);
        bits += w[i];
    }
    size_t len = bits_out_end(&o);
    assert_int_equal(len, (bits + 7) / 8);
    assert_false(o.full);
    struct bits_in in;
    bits_in_init(&in, buf, len);
    for (int i = 0; i < 4096; i++)
        assert_int_equal(bits_get(&in, w[i]), v[i]);
    assert_true(bits_in_ended(&in));
    bits_get(&in, 9);
    assert_true(in.bad);

    bits_out_init(&o, buf, len - 1);
    for (int i = 0; i < 4096; i++)
        bits_put(&o, v[i], w[i]);
    bits_out_end(&o);
    assert_true(o.full);
    mem_free(buf);
}

// Code words of Elias 1975, first bit first.
static void check_word(void (*put)(struct bits_out *, uint64_t), uint64_t v, const char *bits)
{
    uint8_t buf[16] = {0};
    struct bits_out o;
    bits_out_init(&o, buf, sizeof buf);
    put(&o, v);
    size_t len = strlen(bits);
    assert_int_equal(bits_out_end(&o), (len + 7) / 8);
    for (size_t i = 0; i < len; i++)
        if ((buf[i / 8] >> (i % 8) & 1) != bits[i] - '0')
            fail_msg("code word of %llu differs at bit %zu", (unsigned long long)v, i);
}

static void test_integer_codes(void **state)
{
    (void)state;
    check_word(gamma_put, 1, "1");
    check_word(gamma_put, 2, "010");
    check_word(gamma_put, 3, "011");
    check_word(gamma_put, 8, "0001000");
    check_word(delta_put, 1, "1");
    check_word(delta_put, 2, "0100");
    check_word(delta_put, 9, "00100100"); // low bits first: 1 of 9 = 1001 is followed by 1,0,0
    check_word(omega_put, 1, "0");
    check_word(omega_put, 2, "100");
    check_word(omega_put, 4, "101000");
    static uint8_t buf[1 << 16];
    struct rng r = test_rng(2);
    for (int code = 0; code < 3; code++) {
        uint64_t v[2000];
        struct bits_out o;
        bits_out_init(&o, buf, sizeof buf);
        for (int i = 0; i < 2000; i++) {
            v[i] = i < 1000 ? (uint64_t)i + 1
                            : 1 + (((uint64_t)rng_u32(&r) << 24 | 1) >> rng_below(&r, 50));
            (code == 0 ? gamma_put : code == 1 ? delta_put : omega_put)(&o, v[i]);
        }
        size_t len = bits_out_end(&o);
        assert_false(o.full);
        struct bits_in in;
        bits_in_init(&in, buf, len);
        for (int i = 0; i < 2000; i++)
            assert_int_equal((code == 0   ? gamma_get
                              : code == 1 ? delta_get
                                          : omega_get)(&in),
                             v[i]);
        assert_true(bits_in_ended(&in));
    }
    memset(buf, 0, 64); // endless zeros: no code word
    struct bits_in in;
    bits_in_init(&in, buf, 64);
    gamma_get(&in);
    assert_true(in.bad);
    memset(buf, 0xff, 64); // omega: groups of ones grow beyond any size
    bits_in_init(&in, buf, 64);
    omega_get(&in);
    assert_true(in.bad);
}

// Positions.

static size_t random_set(uint32_t *at, size_t n, double p, uint32_t stream)
{
    struct rng r = test_rng(100 + stream);
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        if (rng_unit(&r) < p)
            at[count++] = (uint32_t)i;
    return count;
}

// Rice with the best parameter: 4.76, 5.79, 8.11 and 11.5 bits a position.
static void test_rice_costs(void **state)
{
    (void)state;
    static const double density[] = {.1, .05, .01, .001}, bits[] = {4.76, 5.79, 8.11, 11.5};
    static const size_t n = 4000000;
    uint32_t *at = mem_alloc(MEM_CODEC, 4 * n);
    for (int k = 0; k < 4; k++) {
        size_t count = random_set(at, n, density[k], (uint32_t)k);
        uint64_t cost;
        rice_best(at, count, 0, &cost);
        double got = (double)cost / (double)count;
        if (fabs(got / bits[k] - 1) > 0.01)
            fail_msg("p = %g: %.3f bits a position, want %.2f", density[k], got, bits[k]);
        double estimate = (double)positions_estimate(count, n, POSITIONS_RICE);
        assert_true(fabs(estimate / ((double)cost / 8) - 1) < 0.02);
    }
    mem_free(at);
}

static void test_positions_trip(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 3, 8, 9, 64, 1000, 5003};
    static const double density[] = {0, .001, .02, .3, .9, 1};
    static uint32_t at[5003], back[5003];
    static uint8_t buf[4 * 5003 + 2];
    for (size_t k = 0; k < ARRAY_LEN(sizes); k++)
        for (size_t d = 0; d < ARRAY_LEN(density); d++)
            for (int code = POSITIONS_AUTO; code <= POSITIONS_RAW32; code++) {
                size_t n = sizes[k], count = random_set(at, n, density[d], (uint32_t)(10 * k + d));
                struct codec_report report = {0};
                struct msg_out o;
                msg_init(&o, buf, positions_bound(count, n, (enum positions_code)code), &report);
                assert_int_equal(positions_put(&o, at, count, 0, n, (enum positions_code)code), 0);
                struct msg_in m = {buf, buf + msg_len(&o)};
                struct err err;
                if (positions_get(&m, back, count, 0, n, &err))
                    fail_msg("n = %zu, %zu positions, %s: %s", n, count, positions_choices[code],
                             err.text);
                assert_ptr_equal(m.p, m.end);
                assert_memory_equal(at, back, 4 * count);
                for (size_t cut = 0; cut < (size_t)msg_len(&o); cut++) {
                    m = (struct msg_in){buf, buf + cut};
                    assert_int_equal(positions_get(&m, back, count, 0, n, &err), -1);
                }
            }
}

// Packing.

static void pack_sweep(void)
{
    enum { MOST = 300 };
    struct rng r = test_rng(3);
    uint8_t code8[MOST], back8[MOST + 1];
    uint16_t code16[MOST], back16[MOST + 1];
    for (unsigned w = 1; w <= 16; w++)
        for (size_t n = 0; n <= MOST; n += n < 70 ? 1 : 23) {
            size_t len = pack_bytes(n, w);
            assert_int_equal(len, (n * w + 7) / 8);
            uint8_t *out = mem_alloc(MEM_CODEC, len); // exact, for the sanitizer
            for (size_t i = 0; i < n; i++) {
                code16[i] = (uint16_t)rng_below(&r, 1u << w);
                code8[i] = (uint8_t)code16[i];
            }
            back8[n] = 0xa5;
            back16[n] = 0xa5a5;
            if (w <= 8) {
                pack_u8(code8, n, w, out);
                unpack_u8(out, n, w, back8);
                assert_memory_equal(code8, back8, n);
            } else {
                pack_u16(code16, n, w, out);
                unpack_u16(out, n, w, back16);
                assert_memory_equal(code16, back16, 2 * n);
            }
            assert_true(back8[n] == 0xa5 && back16[n] == 0xa5a5);
            for (size_t i = 0; i < n; i++) // the layout, bit by bit
                for (unsigned b = 0; b < w; b++)
                    assert_int_equal(out[(i * w + b) / 8] >> ((i * w + b) % 8) & 1,
                                     code16[i] >> b & 1);
            mem_free(out);
        }
}

static void test_packing(void **state)
{
    (void)state;
    each_isa(pack_sweep);
}

static void test_base3(void **state)
{
    (void)state;
    struct rng r = test_rng(4);
    uint8_t code[101], back[101], out[21];
    for (size_t n = 0; n <= 101; n++) {
        for (size_t i = 0; i < n; i++)
            code[i] = (uint8_t)rng_below(&r, 3);
        pack_base3(code, n, out);
        unpack_base3(out, n, back);
        assert_memory_equal(code, back, n);
    }
    memset(out, 243, sizeof out);
    unpack_base3(out, 101, back);
    assert_true(pack_max_u8(back, 101) > 2);
}

// rANS.

static double entropy_of(const uint64_t count[256], size_t n)
{
    double bits = 0;
    for (int s = 0; s < 256; s++)
        if (count[s])
            bits -= (double)count[s] * fmath_log((double)count[s] / (double)n) / fmath_log(2);
    return bits;
}

// Geometric codes below kinds; ratio 1 is uniform.
static void draw_codes(uint8_t *code, size_t n, unsigned kinds, double ratio, uint32_t stream)
{
    struct rng r = test_rng(200 + stream);
    for (size_t i = 0; i < n; i++) {
        unsigned s = ratio == 1 ? rng_below(&r, kinds) : 0;
        while (ratio < 1 && s + 1 < kinds && rng_unit(&r) < ratio)
            s++;
        code[i] = (uint8_t)s;
    }
}

static void rans_sweep(void)
{
    static const size_t sizes[] = {2, 3, 100, 16383, 16384, 16389, 262144, 262175, 300001};
    static const double ratios[] = {.001, .05, .4, .9, 1};
    static const unsigned kinds[] = {2, 7, 15, 31, 256};
    uint8_t *code = mem_alloc(MEM_CODEC, 300001), *back = mem_alloc(MEM_CODEC, 300001);
    uint8_t *buf = mem_alloc(MEM_CODEC, rans_bound(300001));
    static uint64_t hash[9][5][5];
    for (size_t a = 0; a < ARRAY_LEN(sizes); a++)
        for (size_t b = 0; b < ARRAY_LEN(ratios); b++)
            for (size_t c = 0; c < ARRAY_LEN(kinds); c++) {
                size_t n = sizes[a];
                draw_codes(code, n, kinds[c], ratios[b], (uint32_t)(a + 10 * b));
                code[0] = 0;
                code[1] = (uint8_t)(kinds[c] - 1); // at least two kinds
                const unsigned lowest = (unsigned)(a % 3) * ((256 - kinds[c]) / 2);
                for (size_t i = 0; i < n; i++)
                    code[i] = (uint8_t)(code[i] + lowest);
                uint64_t count[256];
                uint16_t freq[256];
                struct rans_encoder e;
                struct rans_decoder d;
                pack_count_u8(code, n, count);
                rans_frequencies(count, freq);
                rans_encoder_init(&e, freq);
                assert_int_equal(rans_decoder_init(&d, freq), 0);
                size_t len = rans_encode(&e, code, n, buf);
                assert_true(len <= rans_bound(n));
                const uint8_t *p = buf + rans_bound(n) - len;
                assert_int_equal(rans_decode(&d, p, len, back, n), 0);
                assert_memory_equal(code, back, n);
                double ideal = entropy_of(count, n) / 8 + 4 * rans_lanes(n);
                if (n > 200000 && ratios[b] > .001 && (double)len > 1.01 * ideal)
                    fail_msg("n = %zu, %u kinds, ratio %g: %zu bytes, entropy %.0f", n, kinds[c],
                             ratios[b], len, ideal);
                uint64_t h = 1469598103934665603u;
                for (size_t i = 0; i < len; i++)
                    h = (h ^ p[i]) * 1099511628211u;
                if (simd_isa() == SIMD_BASE)
                    hash[a][b][c] = h;
                assert_true(hash[a][b][c] == h);
                if (len > 6) {
                    assert_int_equal(rans_decode(&d, p, len - 2, back, n), -1);
                    assert_int_equal(rans_decode(&d, p, 3, back, n), -1);
                }
            }
    mem_free(code);
    mem_free(back);
    mem_free(buf);
}

// Few neighbours anywhere, a stranger now and then, and what comes after a misleading beginning.
static void count_sweep(void)
{
    enum { N = 3 * 4096 + 77 };
    static uint8_t code[N];
    struct rng r = test_rng(8);
    for (int turn = 0; turn < 40; turn++) {
        unsigned low = rng_below(&r, 256), kinds = 1 + rng_below(&r, 40);
        size_t n = turn % 8 ? N : rng_below(&r, 4200);
        uint64_t count[256], want[256] = {0};
        for (size_t i = 0; i < n; i++) {
            bool strange = turn % 4 == 1 && rng_below(&r, 1000) == 0;
            bool late = turn % 4 == 2 && i > 5000;
            code[i] = (uint8_t)(strange || late ? rng_below(&r, 256) : low + rng_below(&r, kinds));
            want[code[i]]++;
        }
        pack_count_u8(code, n, count);
        assert_memory_equal(count, want, sizeof want);
    }
}

static void test_counts(void **state)
{
    (void)state;
    each_isa(count_sweep);
}

static void test_rans(void **state)
{
    (void)state;
    each_isa(rans_sweep);
}

static void test_rans_tables(void **state)
{
    (void)state;
    struct rng r = test_rng(5);
    for (int k = 0; k < 300; k++) {
        uint64_t count[256] = {0};
        uint16_t freq[256];
        unsigned kinds = 2 + rng_below(&r, 255);
        for (unsigned s = 0; s < kinds; s++)
            count[s] = rng_below(&r, 3) ? (uint64_t)rng_u32(&r) >> rng_below(&r, 32) : 0;
        count[0] += 1 + (uint64_t)(k % 2) * 1000000000000u;
        count[kinds - 1] += 1;
        rans_frequencies(count, freq);
        unsigned sum = 0;
        for (int s = 0; s < 256; s++) {
            assert_true((count[s] > 0) == (freq[s] > 0));
            sum += freq[s];
        }
        assert_int_equal(sum, 1 << RANS_PROB_BITS);
    }
    uint16_t freq[256] = {2000, 2000};
    struct rans_decoder d;
    assert_int_equal(rans_decoder_init(&d, freq), -1);
    freq[2] = 97;
    assert_int_equal(rans_decoder_init(&d, freq), -1);
    freq[2] = 96;
    assert_int_equal(rans_decoder_init(&d, freq), 0);
}

static void test_entropy_trip(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 2, 7, 1000, 20000, (1 << 20) + 5, (2 << 20) + 70000};
    static const double ratios[] = {0, .01, .5, 1};
    size_t most = sizes[ARRAY_LEN(sizes) - 1];
    uint8_t *code = mem_alloc(MEM_CODEC, most), *back = mem_alloc(MEM_CODEC, most);
    uint8_t *buf = mem_alloc(MEM_CODEC, entropy_bound(most, 16));
    void *scratch = mem_alloc(MEM_CODEC, entropy_scratch(most));
    for (size_t a = 0; a < ARRAY_LEN(sizes); a++)
        for (size_t b = 0; b < ARRAY_LEN(ratios); b++) {
            size_t n = sizes[a];
            draw_codes(code, n, 16, ratios[b], (uint32_t)(50 + a));
            struct codec_report report = {0};
            struct msg_out o;
            struct err err;
            msg_init(&o, buf, entropy_bound(n, 16), &report);
            assert_int_equal(entropy_put(&o, PART_TAGS, code, n, 16, scratch), 0);
            struct msg_in m = {buf, buf + msg_len(&o)};
            if (entropy_get(&m, back, n, 16, scratch, &err))
                fail_msg("n = %zu: %s", n, err.text);
            assert_ptr_equal(m.p, m.end);
            assert_memory_equal(code, back, n);
            if (ratios[b] == 0)
                assert_true(msg_len(&o) <= 2);
            if (n) {
                m = (struct msg_in){buf, buf + msg_len(&o) - 1};
                assert_int_equal(entropy_get(&m, back, n, 16, scratch, &err), -1);
                msg_init(&o, buf, (size_t)msg_len(&o) - 1, &report);
                assert_int_equal(entropy_put(&o, PART_TAGS, code, n, 16, scratch), -1);
            }
        }
    mem_free(code);
    mem_free(back);
    mem_free(buf);
    mem_free(scratch);
}

// Random words.

static void philox_sweep(void)
{
    struct rng r = rng_stream(0x123456789abcdefu, RNG_CODEC, 5, 6, 7);
    uint32_t out[200];
    for (size_t n = 0; n < 200; n += 7)
        for (uint64_t first = 0; first < 300; first += 60) {
            philox_words(r.key, r.ctr, first, n, out);
            for (size_t i = 0; i < n; i++)
                assert_int_equal(out[i], rng_at(&r, first + i));
        }
}

static void test_philox_is_the_stream(void **state)
{
    (void)state;
    each_isa(philox_sweep);
}

// Floats to packed codes and back against the two steps, on every path.

#define PACK_MOST 4200

struct packing {
    float *x, *got, *want;
    uint32_t *rnd;
    uint8_t *code, *packed, *wanted;
    float scale[PACK_MOST / 8 + 1];
};

// One width, length and group: n values from x, which may be odd in memory.
static void check_pack(struct packing *p, const float *x, size_t n, size_t group, unsigned width,
                       bool random)
{
    int q = (1 << (width - 1)) - 1;
    const uint32_t *rnd = random ? p->rnd : NULL;
    size_t bytes = pack_bytes(n, width);
    for (size_t at = 0, g = 0; at < n; at += group, g++) {
        size_t m = n - at < group ? n - at : group;
        float max = f32_from_bits(quant_absmax_bits(x + at, m));
        // one scale of nothing, one rounded down so that the largest is clipped
        p->scale[g] = g % 5 == 4 ? 0 : max / (float)q * (g % 3 == 2 ? 0.99f : 1);
        float inv = p->scale[g] != 0 ? 1 / p->scale[g] : 0;
        if (random)
            quant_stochastic_u8(x + at, rnd + at, m, inv, q, p->code + at);
        else
            quant_nearest_u8(x + at, m, inv, q, p->code + at);
    }
    pack_u8(p->code, n, width, p->wanted);
    memset(p->packed, 0x5a, bytes + 1);
    quant_pack(x, x + n, rnd, n, group, p->scale, q, width, p->packed);
    assert_memory_equal(p->packed, p->wanted, bytes);
    assert_int_equal(p->packed[bytes], 0x5a);

    for (int how = 0; how < 3; how++) { // set, set past the caches, add
        struct quant_sink got = {p->got, 0.3f, how == 2}, want = {p->want, 0.3f, how == 2};
        for (size_t i = 0; i <= n; i++)
            p->got[i] = p->want[i] = (float)i;
        quant_unpack(p->packed, n, width, group, p->scale, q, got, how == 1);
        for (size_t at = 0, g = 0; at < n; at += group, g++)
            quant_linear_from_u8(p->code + at, n - at < group ? n - at : group, q, p->scale[g],
                                 quant_sink_at(want, at));
        assert_memory_equal(p->got, p->want, (n + 1) * sizeof(float));
        if (width > 4)
            continue;
        quant_unpack_table(p->packed, n, width, x, got, how == 1);
        quant_table_from_u8(p->code, n, x, want);
        assert_memory_equal(p->got, p->want, (n + 1) * sizeof(float));
    }
}

static void check_signs(struct packing *p, const float *x, size_t n)
{
    double total = 1, sums = 1;
    struct quant_stats stats = {.abs = 1};
    quant_sign_u8(x, n, p->code);
    pack_u8(p->code, n, 1, p->wanted);
    quant_pack_sign(x, n, p->packed);
    assert_memory_equal(p->packed, p->wanted, pack_bytes(n, 1));
    memset(p->packed, 0, pack_bytes(n, 1));
    quant_pack_sign_abs(x, n, p->packed, &total);
    assert_memory_equal(p->packed, p->wanted, pack_bytes(n, 1));
    for (size_t at = 0; at < n; at += 1024)
        sums += quant_sum_abs(x + at, n - at < 1024 ? n - at : 1024);
    quant_stats(x, n, QUANT_ABS, &stats);
    assert_memory_equal(&total, &sums, sizeof sums);
    assert_memory_equal(&stats.abs, &sums, sizeof sums);
    assert_int_equal(stats.max_bits, quant_absmax_bits(x, n));
}

static struct packing *packing_open(void)
{
    struct packing *p = mem_alloc(MEM_CODEC, sizeof *p);
    struct rng r = test_rng(8);
    p->x = mem_alloc(MEM_CODEC, (PACK_MOST + 16) * sizeof(float));
    p->got = mem_alloc(MEM_CODEC, (PACK_MOST + 16) * sizeof(float));
    p->want = mem_alloc(MEM_CODEC, (PACK_MOST + 16) * sizeof(float));
    p->rnd = mem_alloc(MEM_CODEC, (PACK_MOST + 16) * sizeof(uint32_t));
    p->code = mem_alloc(MEM_CODEC, PACK_MOST + 16);
    p->packed = mem_alloc(MEM_CODEC, PACK_MOST + 16);
    p->wanted = mem_alloc(MEM_CODEC, PACK_MOST + 16);
    for (int i = 0; i < PACK_MOST + 16; i++) {
        p->x[i] = i % 11 == 3 ? 0.0f : i % 13 == 5 ? -0.0f : (float)rng_normal(&r);
        p->rnd[i] = i % 17 == 2 ? UINT32_MAX : rng_u32(&r);
    }
    return p;
}

static void packing_close(struct packing *p)
{
    mem_free(p->x);
    mem_free(p->got);
    mem_free(p->want);
    mem_free(p->rnd);
    mem_free(p->code);
    mem_free(p->packed);
    mem_free(p->wanted);
    mem_free(p);
}

static void quant_pack_sweep(void)
{
    static const size_t lengths[] = {0,  1,  7,  8,   15,  16,   17,   31,   32,       33,
                                     63, 64, 65, 129, 511, 1023, 1024, 1025, PACK_MOST};
    static const size_t groups[] = {8, 24, 64, 72, 256, 512, 1024, PACK_MOST};
    struct packing *p = packing_open();
    for (size_t k = 0; k < ARRAY_LEN(lengths); k++) {
        check_signs(p, p->x + k % 3, lengths[k]);
        for (size_t g = 0; g < ARRAY_LEN(groups); g++)
            for (unsigned width = 2; width <= 8; width++)
                for (int random = 0; random < 2; random++)
                    check_pack(p, p->x + k % 3, lengths[k], groups[g], width, random);
    }
    packing_close(p);
}

static void test_floats_to_packed_codes(void **state)
{
    (void)state;
    each_isa(quant_pack_sweep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cursor_reads_what_it_wrote),
        cmocka_unit_test(test_integer_codes),
        cmocka_unit_test(test_rice_costs),
        cmocka_unit_test(test_positions_trip),
        cmocka_unit_test(test_packing),
        cmocka_unit_test(test_base3),
        cmocka_unit_test(test_floats_to_packed_codes),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_rans),
        cmocka_unit_test(test_rans_tables),
        cmocka_unit_test(test_entropy_trip),
        cmocka_unit_test(test_philox_is_the_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
