// The codecs' loops over values: mixes, positions, sketches, transforms, factors, against what
// their formulas say.
#include "base/half.h"
#include "codec_cases.h"

enum { N = 1237 }; // no multiple of anything

static float x[N], y[N];
static uint32_t at[N], words[N];

static void draw_all(void)
{
    struct rng r = rng_stream(5, RNG_TEST, 1, 2, 3);
    fill(x, N, DIST_NORMAL, 1);
    fill(y, N, DIST_LAPLACE, 2);
    for (int i = 0; i < N; i++) {
        at[i] = (uint32_t)(2 * i + (i % 3 == 0));
        words[i] = rng_u32(&r);
    }
    x[7] = 0;
    x[8] = -0.0f;
    x[100] = x[200] = x[300] = 0.5f; // ties
}

static void each_isa(void (*fn)(void))
{
    draw_all();
    for (int isa = SIMD_BASE; isa < SIMD_ISA_COUNT; isa++) {
        simd_limit((enum simd_isa)isa);
        fn();
    }
    simd_limit(SIMD_AVX512);
}

static void same(const float *got, const float *want, size_t n)
{
    assert_memory_equal(got, want, n * sizeof *got);
}

static void mixes(void)
{
    float got[N], want[N], u[N], v[N];
    for (int i = 0; i < N; i++)
        want[i] = 0.25f * x[i] + -3.0f * y[i];
    mix_sum(0.25f, x, -3.0f, y, N, got);
    same(got, want, N);
    mix_fill(2, N, got);
    mix_scale(1.5f, N, got);
    assert_true(got[0] == 3 && got[N - 1] == 3);
    for (int nesterov = 0; nesterov < 2; nesterov++) {
        const struct mix_momentum m = {0.9f, 0.5f, nesterov};
        mix_momentum(&m, x, y, got, N, u, v);
        for (int i = 0; i < N; i++) {
            float s = x[i] * 0.5f;
            float uu = nesterov ? 0.9f * (y[i] + s) : 0.9f * y[i] + s;
            float vv = got[i] + (nesterov ? uu + s : uu);
            assert_true(u[i] == uu && v[i] == vv);
        }
    }
    memcpy(got, x, sizeof got);
    mix_sign(0.1f, N, got);
    for (int i = 0; i < N; i++)
        assert_true(got[i] == (x[i] > 0 ? 0.1f : x[i] < 0 ? -0.1f : 0));
    for (int i = 0; i < N; i++)
        got[i] = y[i];
    words[3] = 0;
    mix_mean(words, N, got);
    for (int i = 0; i < N; i++)
        assert_true(got[i] == (words[i] ? y[i] / (float)words[i] : 0));
}

static void votes(void)
{
    int32_t sum[N] = {0};
    uint8_t code[N];
    float out[N];
    for (int i = 0; i < N; i++)
        code[i] = words[i] & 1;
    mix_votes(code, N, sum);
    code[5] ^= 1; // an even vote
    mix_votes(code, N, sum);
    mix_majority(sum, N, 2, 7, out);
    for (int i = 0; i < N; i++)
        assert_true(out[i] == (i == 5 ? 7 : code[i] ? 2 : -2));
}

static void test_mixes(void **state)
{
    (void)state;
    each_isa(mixes);
    each_isa(votes);
    assert_true(mix_finite(x, y, N));
    const float most = 0x1.fffffep127f;
    float a[N] = {0}, b[N] = {0};
    a[N - 1] = b[N - 1] = most; // each is finite, the sum is not
    assert_false(mix_finite(a, b, N));
    b[N - 1] = NAN;
    assert_false(mix_finite(a, b, N));
}

// Dead zones.

static void dead_zone(void)
{
    uint8_t code[N];
    float set[N], added[N];
    const float scale[3] = {2e-3f, 1e-4f, -3e-4f}, inv = 500;
    quant_deadzone_u8(x, N, inv, 0.3f, 3, code);
    memcpy(added, y, sizeof y);
    quant_centred_from_u8(code, N, 3, scale, (struct quant_sink){set, 1, false});
    quant_centred_from_u8(code, N, 3, scale, (struct quant_sink){added, 0.5f, true});
    for (int i = 0; i < N; i++) {
        int m = (int)(fabsf(x[i] * inv) + 0.3f), s = x[i] < 0 ? -1 : 1;
        m = m > 3 ? 3 : m;
        assert_int_equal(code[i], 3 + s * m);
        float v = (float)(s * m) * scale[0];
        v += m == 0 ? 0 : (float)s * (m == 1 ? scale[1] : scale[2]);
        assert_true(set[i] == v && added[i] == y[i] + 0.5f * v);
    }
}

// A code means the mean of the values that have it, to half of what a centre's byte can say.
static void test_centres_are_means(void **state)
{
    (void)state;
    struct session s;
    each_isa(dead_zone);
    shape_two(&s.shape);
    session_open(&s, "uniform:step=1.5,dead=0.1,value=centre");
    const size_t n = s.shape.n_values;
    float *v = mem_alloc(MEM_CODEC, n * sizeof *v);
    fill(v, n, DIST_LAPLACE, 8);
    session_trip(&s, v, key_of(0));
    for (uint32_t t = 0; t < s.shape.n_tensors; t++) {
        const struct shape_tensor *row = &s.shape.tensors[t];
        const float *own = v + row->offset, *got = s.x_hat + row->offset;
        double sq = 0, sum[2] = {0}, decoded[2] = {0}, count[2] = {0};
        const size_t m = (size_t)row->rows * row->cols;
        for (size_t i = 0; i < m; i++)
            sq += (double)own[i] * (double)own[i];
        const double step = 1.5 * sqrt(sq / (double)m);
        for (size_t i = 0; i < m; i++) {
            int level = (int)(fabs((double)own[i]) / step + 0.4), k = level > 1;
            assert_true((level == 0) == (got[i] == 0));
            sum[k] += level ? fabs((double)own[i]) : 0;
            decoded[k] += level ? fabs((double)got[i]) : 0;
            count[k] += level > 0;
        }
        for (int k = 0; k < 2; k++)
            assert_true(fabs(sum[k] - decoded[k]) / count[k] <= step / 256 * 1.001);
    }
    mem_free(v);
    session_close(&s);
    shape_free(&s.shape);
    expect_error("uniform:round=dither,dead=0.1", "round=nearest only");
    expect_error("uniform:round=stochastic,value=centre", "round=nearest only");
}

// Positions.

static void test_positions(void **state)
{
    (void)state;
    static float wide[2 * N + 2], to[2 * N + 2], out[2 * N + 2], v[N], sum[2 * N + 2];
    static uint32_t senders[2 * N + 2];
    size_t n = 2 * N + 2;
    draw_all();
    fill(wide, n, DIST_NORMAL, 9);
    coords_gather(wide, at, N, v);
    for (int i = 0; i < N; i++)
        assert_true(v[i] == wide[at[i]]);
    memcpy(to, wide, sizeof to);
    coords_give(at, v, N, (struct quant_sink){to, 0.5f, true});
    for (int i = 0; i < N; i++)
        assert_true(to[at[i]] == wide[at[i]] + 0.5f * v[i]);
    coords_clear(at, N, to);
    coords_give(at, x, N, (struct quant_sink){to, 1, false});
    for (size_t i = 0, k = 0; i < n; i++) {
        bool hit = k < N && at[k] == i;
        assert_true(to[i] == (hit ? x[k] : wide[i]));
        assert_int_equal(coords_below(at, N, i), k);
        k += hit;
    }
    coords_stream(at, x, N, 0, 1000, out);
    coords_stream(at, x, N, 1000, n, out);
    memset(to, 0, sizeof to);
    coords_give(at, x, N, (struct quant_sink){to, 1, false});
    same(out, to, n);
    coords_vote(at, x, N, sum, senders);
    coords_vote(at, x, 5, sum, senders);
    assert_true(sum[at[0]] == 2 * x[0] && senders[at[4]] == 2 && senders[at[5]] == 1);
    uint32_t map[3] = {2, 0, 9};
    coords_map(at, map, 3);
    assert_true(map[0] == at[2] && map[1] == at[0] && map[2] == at[9]);
}

// As often as any other, ascending, in range; all of them where k = n.
static void test_drawn_positions(void **state)
{
    (void)state;
    enum { OF = 40, K = 10, TIMES = 8000 };
    int hits[OF] = {0};
    for (uint32_t t = 0; t < TIMES; t++) {
        struct rng r = rng_stream(1, RNG_TEST, t, 0, 0);
        uint32_t drawn[K];
        coords_draw(r.key, r.ctr, OF, K, 100, drawn);
        for (int i = 0; i < K; i++) {
            assert_true(drawn[i] >= 100 && drawn[i] < 100 + OF &&
                        (i == 0 || drawn[i] > drawn[i - 1]));
            hits[drawn[i] - 100]++;
        }
    }
    for (int i = 0; i < OF; i++) // mean 2000, five standard deviations
        assert_in_range(hits[i], 2000 - 194, 2000 + 194);
    struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
    uint32_t all[OF];
    coords_draw(r.key, r.ctr, OF, OF, 0, all);
    for (uint32_t i = 0; i < OF; i++)
        assert_int_equal(all[i], i);
}

// What the largest k are, by a threshold that has been found.
static void thresholds(void)
{
    struct select_threshold threshold;
    size_t k = 500;
    select_threshold_begin(&threshold, k);
    for (int level = 0; level < SELECT_LEVELS; level++) {
        uint32_t count[SELECT_BINS] = {0};
        select_count(x, N, SELECT_ABS, level, threshold.prefix, count);
        select_threshold_next(&threshold, count);
    }
    struct select_threshold again = threshold;
    double sum = 0, want = 0;
    float v[N];
    uint32_t pos[N], taken[N + 16];
    size_t left = threshold.left;
    assert_int_equal(select_take(x, N, SELECT_ABS, threshold.prefix, &left, 0, taken), k);
    assert_int_equal(select_sum(x, N, SELECT_ABS, &again, &sum), k);
    for (size_t i = 0; i < k; i++)
        want += fabs((double)x[taken[i]]);
    assert_true(sum == want);
    for (uint32_t i = 0; i < N; i++) {
        pos[i] = i;
        v[i] = x[i];
    }
    assert_int_equal(select_thin(pos, v, N, SELECT_ABS, &threshold), k);
    for (size_t i = 0; i < k; i++)
        assert_true(pos[i] == taken[i] && v[i] == x[taken[i]]);
    size_t reach[3] = {0};
    for (int i = 0; i < N; i++) {
        reach[SELECT_ABS] += fabsf(x[i]) >= 0x1p-11f;
        reach[SELECT_POSITIVE] += x[i] >= 0x1p-11f;
        reach[SELECT_NEGATIVE] += x[i] <= -0x1p-11f;
    }
    for (int side = 0; side < 3; side++)
        assert_int_equal(select_reach(x, N, (enum select_side)side, f32_bits(0x1p-11f)),
                         reach[side]);
}

static void test_thresholds(void **state)
{
    (void)state;
    each_isa(thresholds);
}

// Ties of two thresholds: the first of each keep the width.
static void test_ties(void **state)
{
    (void)state;
    const float u[] = {1, 4, 1, 4, 4, 1, 2, 1};
    const uint32_t threshold[] = {f32_bits(1), f32_bits(4)};
    const uint8_t want[] = {1, 2, 1, 1, 1, 0, 1, 0};
    size_t ties[] = {2, 1};
    uint8_t tag[8];
    assert_true(alloc_tags(u, 8, threshold, 2, tag));
    alloc_ties(u, 8, threshold, 2, ties, tag);
    assert_memory_equal(tag, want, sizeof tag);
    assert_true(ties[0] == 0 && ties[1] == 0);
}

// Words.

static void test_words(void **state)
{
    (void)state;
    struct rng r = rng_stream(3, RNG_TEST, 4, 5, 6), from = r;
    float u[N], v[N];
    philox_uniform(r.key, r.ctr, N, v);
    for (int i = 0; i < N; i++)
        assert_true(v[i] == (float)((int32_t)(rng_u32(&from) & 0xffffff00u)) * 0x1p-31f);
    alloc_drawn(r.key, r.ctr, 8, N, u);
    for (uint64_t i = 0; i < N; i++)
        assert_true(u[i] == ((float)(rng_at(&r, 8 + i) >> 8) + 0.5f) * 0x1p-24f);
    alloc_comb(11, N, u);
    for (uint32_t i = 0; i < N; i++)
        assert_true(u[i] == ((float)(((11 + i) * 2654435769u) >> 8) + 0.5f) * 0x1p-24f);
    uint8_t bits[N / 8 + 1];
    quant_pack_sign(x, N, bits);
    quant_signs_from_bits(bits, 3, N - 3, 2, v);
    for (int i = 3; i < N; i++)
        assert_true(v[i - 3] == (x[i] >= 0 ? 2 : -2));
}

// Sketches: cells by hand, exact estimates where nothing collides, cleared ones.
static void test_sketches(void **state)
{
    (void)state;
    enum { ROWS = 3, COLS = 100003 };
    struct hash_row row[ROWS];
    struct rng stream[ROWS];
    float *cells = mem_alloc(MEM_CODEC, sizeof *cells * ROWS * COLS);
    float got[64] = {0};
    for (uint32_t r = 0; r < ROWS; r++) {
        stream[r] = rng_stream(8, RNG_TEST, r, 0, 0);
        memcpy(row[r].key, stream[r].key, sizeof row[r].key);
        memcpy(row[r].ctr, stream[r].ctr, sizeof row[r].ctr);
        hash_add(&row[r], y, 64, COLS, cells + r * COLS);
        for (uint64_t i = 0; i < 64; i++) {
            uint32_t w = rng_at(&stream[r], i);
            size_t cell = (size_t)((uint64_t)(w >> 1) * COLS >> 31);
            assert_true(cells[r * COLS + cell] == (w & 1 ? -y[i] : y[i]));
        }
    }
    hash_estimate(row, ROWS, cells, COLS, 4, 60, got + 4);
    hash_estimate(row, ROWS, cells, COLS, 0, 4, got);
    same(got, y, 64);
    const uint32_t gone[] = {0, 5, 63};
    hash_clear(row, ROWS, COLS, gone, 3, cells);
    hash_estimate(row, ROWS, cells, COLS, 0, 64, got);
    for (uint32_t i = 0; i < 64; i++)
        assert_true(got[i] == (i == 0 || i == 5 || i == 63 ? 0 : y[i]));
    mem_free(cells);
}

// Blocks of 6 x 5, two down and three across: sums as the formula has them, and back.
static void transforms(void)
{
    enum { R = 6, C = 5, DOWN = 2, ACROSS = 3, SIZE = R * C * DOWN * ACROSS };
    static struct dct_basis down, across;
    const struct dct_blocks b = {R, C, DOWN, ACROSS};
    const size_t n[2] = {R, C};
    struct dct_basis *basis[2] = {&down, &across};
    for (int s = 0; s < 2; s++)
        for (size_t k = 0; k < n[s]; k++)
            for (size_t j = 0; j < n[s]; j++) {
                double turn = (double)(2 * j + 1) * (double)k / (double)(4 * n[s]);
                float v = (float)(fmath_cos2pi(turn) * sqrt((k ? 2.0 : 1.0) / (double)n[s]));
                basis[s]->d[k * n[s] + j] = basis[s]->t[j * n[s] + k] = v;
            }
    float coef[SIZE], back[SIZE];
    dct_forward(&b, &down, &across, x, coef);
    const size_t block = 4; // the second row of blocks, the second of it
    for (size_t k = 0; k < R; k++)
        for (size_t l = 0; l < C; l++) {
            double sum = 0;
            for (size_t i = 0; i < R; i++)
                for (size_t j = 0; j < C; j++)
                    sum += (double)down.d[k * R + i] * (double)across.d[l * C + j] *
                           (double)x[(R + i) * C * ACROSS + C + j];
            assert_true(fabs(sum - (double)coef[block * R * C + k * C + l]) < 1e-6);
        }
    dct_backward(&b, &down, &across, coef, (struct quant_sink){back, 1, false});
    for (int i = 0; i < SIZE; i++)
        assert_true(fabsf(back[i] - x[i]) < 1e-6f);
    memset(coef, 0, 5 * R * C * sizeof *coef); // the last block alone
    dct_backward(&b, &down, &across, coef, (struct quant_sink){back, -1, true});
    for (int i = 0; i < SIZE; i++) {
        bool last = i / (C * ACROSS) >= R && i % (C * ACROSS) >= 2 * C;
        assert_true(last ? fabsf(back[i]) < 1e-6f : fabsf(back[i] - x[i]) < 1e-8f);
    }
}

static void test_transforms(void **state)
{
    (void)state;
    each_isa(transforms);
}

static void factors(void)
{
    enum { ROWS = 17, COLS = 31, RANK = 3 };
    float p[ROWS * RANK], q[COLS * RANK], row[COLS], m[ROWS * COLS], back[COLS * RANK];
    memcpy(q, y, sizeof q);
    memcpy(q + 2 * COLS, q, COLS * sizeof *q); // depends on the first
    factor_orthonormalise(q, COLS, RANK);
    for (int a = 0; a < RANK; a++)
        for (int b = 0; b < RANK; b++)
            assert_true(fabs(quant_dot(q + a * COLS, q + b * COLS, COLS) - (a == b && a < 2)) <
                        1e-6);
    memcpy(q + 2 * COLS, x, COLS * sizeof *q);
    factor_times(x, ROWS, COLS, q, RANK, p);
    factor_times_turned(x, ROWS, COLS, p, RANK, back);
    factor_give(p, q, ROWS, COLS, RANK, row, (struct quant_sink){m, 1, false});
    for (int i = 0; i < ROWS; i++) {
        double want = 0;
        for (int j = 0; j < COLS; j++)
            want += (double)x[i * COLS + j] * (double)q[COLS + j];
        assert_true(fabs((double)p[ROWS + i] - want) < 1e-8);
        for (int j = 0; j < COLS; j++) {
            want = 0;
            for (int k = 0; k < RANK; k++)
                want += (double)p[k * ROWS + i] * (double)q[k * COLS + j];
            assert_true(fabs((double)m[i * COLS + j] - want) < 1e-8);
        }
    }
    for (int j = 0; j < COLS; j++) {
        double want = 0;
        for (int i = 0; i < ROWS; i++)
            want += (double)x[i * COLS + j] * (double)p[2 * ROWS + i];
        assert_true(fabs((double)back[2 * COLS + j] - want) < 1e-8);
    }
}

static void test_factors(void **state)
{
    (void)state;
    each_isa(factors);
}

// Two terms, whose rows lie apart and whose values do, times two matrices of 32 columns.
static void stacks(void)
{
    enum { M = 13, EACH = 5, WIDE = 32, APART = 3, ROW = 17 };
    const float *const terms[] = {x, x + 400};
    const struct factor_stack s = {terms, 2, EACH, ROW, APART};
    float c[(M + 1) * WIDE];
    c[M * WIDE] = 7;
    factor_product(&s, M, y, WIDE, c);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < WIDE; j++) {
            float want = 0;
            for (int k = 0; k < 2 * EACH; k++)
                want = fmaf(terms[k / EACH][i * ROW + k % EACH * APART], y[k * WIDE + j], want);
            same(&c[i * WIDE + j], &want, 1);
        }
    assert_true(c[M * WIDE] == 7);
}

static void test_stacks(void **state)
{
    (void)state;
    each_isa(stacks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixes),      cmocka_unit_test(test_centres_are_means),
        cmocka_unit_test(test_positions),  cmocka_unit_test(test_drawn_positions),
        cmocka_unit_test(test_thresholds), cmocka_unit_test(test_ties),
        cmocka_unit_test(test_words),      cmocka_unit_test(test_sketches),
        cmocka_unit_test(test_transforms), cmocka_unit_test(test_factors),
        cmocka_unit_test(test_stacks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
