// Entropy coding by itself: symbols per second and bits against the entropy, for sources from
// nearly constant to uniform.
#include "base/check.h"
#include "base/fmath.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/bench.h"
#include "kernels/kernels_codec.h"
#include "kernels/simd.h"

#include <string.h>

struct rans_params {
    int64_t values;
};

static struct rans_params params;

static const struct opt options[] = {
    OPT(struct rans_params, values, "rans.values", "4194304", 64, 1e9, "",
        "symbols that are coded"),
};

struct stream {
    size_t n, len;
    uint8_t *code, *back, *buf;
    struct rans_encoder enc;
    struct rans_decoder dec;
    int bad;
};

static void encode_loop(void *arg, int64_t n)
{
    struct stream *s = arg;
    for (int64_t i = 0; i < n; i++)
        s->len = rans_encode(&s->enc, s->code, s->n, s->buf);
}

static void decode_loop(void *arg, int64_t n)
{
    struct stream *s = arg;
    for (int64_t i = 0; i < n; i++)
        s->bad |= rans_decode(&s->dec, s->buf + rans_bound(s->n) - s->len, s->len, s->back, s->n);
}

// Geometric symbols below kinds; a ratio of 1 is uniform. Returns the entropy in bits.
static double draw(struct stream *s, unsigned kinds, double ratio)
{
    struct rng r = rng_stream(1, RNG_TEST, kinds, 0, 0);
    for (size_t i = 0; i < s->n; i++) {
        unsigned v = ratio == 1 ? rng_below(&r, kinds) : 0;
        while (ratio < 1 && v + 1 < kinds && rng_unit(&r) < ratio)
            v++;
        s->code[i] = (uint8_t)v;
    }
    s->code[0] = 0;
    s->code[1] = 1; // at least two kinds
    uint64_t count[256];
    uint16_t freq[256];
    double bits = 0;
    pack_count_u8(s->code, s->n, count);
    for (int k = 0; k < 256; k++)
        if (count[k])
            bits -= (double)count[k] / (double)s->n * fmath_log((double)count[k] / (double)s->n) /
                    fmath_log(2);
    rans_frequencies(count, freq);
    rans_encoder_init(&s->enc, freq);
    rans_decoder_init(&s->dec, freq);
    return bits;
}

static void measure(struct bench_ctx *c, const struct table *t, struct stream *s, unsigned kinds,
                    double ratio)
{
    double entropy = draw(s, kinds, ratio);
    struct bench_case cases[] = {{"encode", NULL, encode_loop, s},
                                 {"decode", NULL, decode_loop, s}};
    char cell[4 + 2 * SIMD_ISA_COUNT][32];
    const char *cells[TABLE_COLS];
    bool ok = true;
    for (int isa = 0; isa < SIMD_ISA_COUNT; isa++) {
        struct bench_result r[2];
        simd_limit((enum simd_isa)isa);
        cells[4 + 2 * isa] = cells[4 + 2 * isa + 1] = "-"; // not on this processor
        if (simd_isa() != (enum simd_isa)isa)
            continue;
        encode_loop(s, 1);
        s->bad = 0;
        bench_measure(c, cases, 2, r);
        ok &= !s->bad && memcmp(s->code, s->back, s->n) == 0;
        for (int k = 0; k < 2; k++) {
            char row[64];
            const struct bench_counter bits = {"bits_per_symbol",
                                               8 * (double)s->len / (double)s->n};
            fmt_fixed(cell[4 + 2 * isa + k], (double)s->n / r[k].ns.median * 1e3, 9, 0);
            cells[4 + 2 * isa + k] = cell[4 + 2 * isa + k];
            snprintf(row, sizeof row, "rans/%u/%g/%s/%s", kinds, ratio, cases[k].name,
                     simd_isa_name[isa]);
            bench_report(c, row, &r[k], (int64_t)s->n, &bits, 1, ok ? NULL : "symbols differ");
        }
    }
    simd_limit(SIMD_AVX512);
    snprintf(cell[0], sizeof cell[0], "%u", kinds);
    fmt_fixed(cell[1], ratio, 7, 3);
    fmt_fixed(cell[2], entropy, 8, 4);
    fmt_fixed(cell[3], 8 * (double)s->len / (double)s->n, 8, 4);
    for (int k = 0; k < 4; k++)
        cells[k] = cell[k];
    cells[4 + 2 * SIMD_ISA_COUNT] = bench_check(c, ok);
    bench_row(c, t, cells);
}

static void run(struct bench_ctx *c)
{
    static const struct {
        unsigned kinds;
        double ratio;
    } sources[] = {{2, .001}, {2, .05}, {3, .3}, {4, .5}, {15, .7}, {15, 1}, {255, .9}, {255, 1}};
    const struct table t = {.out = c->out,
                            .n_cols = 11,
                            .col = {{"Kinds", "", 6, TABLE_LEFT},
                                    {"ratio", "", 7, TABLE_RIGHT},
                                    {"entropy", "bits", 8, TABLE_RIGHT},
                                    {"coded", "bits", 8, TABLE_RIGHT},
                                    {"encode", "base", 9, TABLE_RIGHT},
                                    {"decode", "base", 9, TABLE_RIGHT},
                                    {"encode", "avx2", 9, TABLE_RIGHT},
                                    {"decode", "avx2", 9, TABLE_RIGHT},
                                    {"encode", "avx512", 9, TABLE_RIGHT},
                                    {"decode", "avx512", 9, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    size_t n = (size_t)params.values;
    struct stream *s = mem_alloc(MEM_CODEC, sizeof *s);
    s->n = n;
    s->code = mem_alloc(MEM_CODEC, n);
    s->back = mem_alloc(MEM_CODEC, n);
    s->buf = mem_alloc(MEM_CODEC, rans_bound(n));
    fprintf(c->out, "# %zu symbols, geometric with this ratio (1 = uniform); millions per second\n",
            n);
    bench_size(c, (int64_t)n, "symbols that are coded");
    bench_leave_out(c, 1 << 6 | 1 << 7); // avx2
    bench_head(c, &t);
    for (size_t k = 0; k < ARRAY_LEN(sources); k++)
        measure(c, &t, s, sources[k].kinds, sources[k].ratio);
    mem_free(s->code);
    mem_free(s->back);
    mem_free(s->buf);
    mem_free(s);
}

const struct bench bench_rans = {
    .name = "rans",
    .help = "interleaved rANS: speed and bits against the entropy, by instruction set",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
