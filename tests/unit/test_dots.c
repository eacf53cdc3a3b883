// Rows times blocks of a weight in whole numbers (dev.math = int8): every instruction set gives the
// same bits, however many rows and threads there are, and they are the sums that the rounded values
// have.
#include "base/half.h"
#include "base/pool.h"
#include "base/rng.h"
#include "dev/dev.h"
#include "kernels/block.h"
#include "kernels/simd.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { COLS = 512, KINDS = 13, PART = 48, ROWS = KINDS * PART, MANY = 7, RANK = 3, LD = ROWS };
enum { CPU };

// Kinds of blocks, where their scales are, as halves, and columns that are not whole chunks, or
// that are whole blocks of 256.
static const struct kind {
    int32_t id, scale, scales;
} kinds[KINDS] = {{BLOCK_Q4_0, 0, 1},   {BLOCK_Q8_0, 0, 1},   {BLOCK_Q4_1, 0, 2},
                  {BLOCK_Q5_0, 0, 1},   {BLOCK_Q5_1, 0, 2},   {BLOCK_IQ4_NL, 0, 1},
                  {BLOCK_NF4, 0, 1},    {BLOCK_Q4_K, 0, 2},   {BLOCK_Q5_K, 0, 2},
                  {BLOCK_IQ4_XS, 0, 1}, {BLOCK_Q6_K, 208, 1}, {BLOCK_Q2_K, 80, 2},
                  {BLOCK_Q3_K, 108, 1}};
static const struct set {
    int32_t kinds, cols;
} sets[] = {{6, 352}, {KINDS, COLS}};
static int32_t cols, rows; // of the set

static uint8_t bytes[KINDS][PART * COLS / 32 * 34];
static float x[MANY * LD], base[MANY * LD], adapter[RANK * COLS + ROWS * RANK];
static struct block_rows parts[KINDS];
static struct kernel_linear linear = {
    .w = {.blocks = parts}, .lora = {{.rank = RANK}}, .n_lora = 1, .ranks = RANK, .scale = 0.5f};

// Any bytes are blocks, but for scales that are too large.
static void make_parts(struct rng *r, const struct set *set)
{
    cols = set->cols;
    rows = set->kinds * PART;
    linear.w.rows = linear.lora[0].rows = rows;
    linear.w.cols = linear.w.ld = cols;
    linear.lora[0].b = (size_t)(RANK * cols);
    for (int p = 0; p < set->kinds; p++) {
        parts[p] = (struct block_rows){block_find(kinds[p].id), bytes[p], PART, cols};
        const size_t each = (size_t)parts[p].type->bytes;
        const size_t n = (size_t)(PART * cols / parts[p].type->values);
        for (size_t i = 0; i < n; i++) {
            uint8_t *b = bytes[p] + i * each;
            for (size_t k = 0; k < each; k++)
                b[k] = (uint8_t)rng_below(r, 256);
            for (int k = 0; k < kinds[p].scales; k++) {
                uint16_t half = f16_from_f32((float)rng_normal(r) * 0.1f);
                memcpy(b + kinds[p].scale + 2 * k, &half, sizeof half);
            }
        }
    }
    memset(bytes[1] + 2, 0x80, 32); // -128 everywhere: products at their largest
}

static void make_rows(struct rng *r)
{
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        x[i] = (float)rng_normal(r);
    for (size_t i = 0; i < sizeof base / sizeof *base; i++)
        base[i] = (float)rng_normal(r);
    for (size_t i = 0; i < sizeof adapter / sizeof *adapter; i++)
        adapter[i] = (float)rng_normal(r) * 0.1f;
    for (int k = 0; k < 32; k++) {
        x[k] = k % 2 ? -2.0f : 2.0f; // all at the largest, against the -128
        x[LD + k] = 0;
        x[2 * LD + k] = k ? 1e-40f : 0;
        x[3 * LD + 32 + k] = 1e-6f * (float)k;
    }
}

static float *run(struct dev *d, int32_t m, bool adapted, float *y)
{
    static float u[MANY * 16];
    memset(y, 0, MANY * LD * sizeof *y);
    d->ops->linear_fwd(&d->lane[0].cx, &linear, adapted ? adapter : NULL, (kernel_act *)(void *)x,
                       LD, m, (kernel_act *)(void *)base, (kernel_act *)(void *)y, LD,
                       (kernel_act *)(void *)u, 16);
    return y;
}

// Levels of NF4 count as the nearest 127th.
static void whole_row(int32_t n, float *row)
{
    int32_t at = n;
    const struct block_rows *part = block_part(parts, &at);
    kernel_weight_row(&linear.w, n, row);
    for (int32_t c = 0; c < cols && part->type->id == BLOCK_NF4; c++) {
        uint16_t half;
        memcpy(&half, part->at + (size_t)at * block_row_bytes(part) + (size_t)(c / 64 * 34),
               sizeof half);
        const float d = f16_to_f32(half);
        row[c] = d != 0 ? rintf(row[c] / d * 127) / 127 * d : 0;
    }
}

// What a block's values are rounded to, in double.
static void rounded(const float *from, double *to)
{
    double most = 0;
    for (int k = 0; k < 32; k++)
        most = fabs((double)from[k]) > most ? fabs((double)from[k]) : most;
    for (int k = 0; k < 32; k++)
        to[k] = most > 1e-30 ? rint((double)from[k] * (127 / most)) * (most / 127) : 0;
}

static void check_sums(const float *y, bool adapted)
{
    float row[COLS], u[RANK];
    for (int32_t i = 0; i < MANY; i++) {
        for (int k = 0; k < RANK; k++) {
            double sum = 0;
            for (int c = 0; c < cols; c++)
                sum += (double)x[i * LD + c] * (double)adapter[k * cols + c];
            u[k] = (float)(0.5 * sum);
        }
        for (int32_t n = 0; n < rows; n++) {
            double q[32], want = (double)base[i * LD + n], size = fabs(want);
            whole_row(n, row);
            for (int b = 0; b < cols / 32; b++) {
                rounded(x + i * LD + 32 * b, q);
                for (int k = 0; k < 32; k++) {
                    want += q[k] * (double)row[32 * b + k];
                    size += fabs(q[k] * (double)row[32 * b + k]);
                }
            }
            for (int k = 0; adapted && k < RANK; k++)
                want += (double)u[k] * (double)adapter[RANK * cols + n * RANK + k];
            if (!(fabs((double)y[i * LD + n] - want) <= 1e-5 * size))
                fail_msg("row %d, column %d: %g, not %g", i, n, (double)y[i * LD + n], want);
        }
    }
}

static void compare_ways(struct dev *d, struct dev *three)
{
    static float first[2][MANY * LD], y[MANY * LD], few[MANY * LD];
    for (int isa = SIMD_BASE; isa < SIMD_ISA_COUNT; isa++) {
        simd_limit((enum simd_isa)isa);
        for (int adapted = 0; adapted < 2; adapted++) {
            run(d, MANY, adapted, isa ? y : first[adapted]);
            if (isa == SIMD_BASE)
                check_sums(first[adapted], adapted);
            for (int32_t i = 0; isa && !adapted && i < MANY; i++)
                assert_memory_equal(y + i * LD, first[0] + i * LD, (size_t)rows * sizeof *y);
            for (int32_t m = 1; m < MANY && isa; m++) {
                run(m % 2 ? three : d, m, adapted, few);
                for (int32_t i = 0; i < m; i++)
                    assert_memory_equal(few + i * LD, y + i * LD, (size_t)rows * sizeof *few);
            }
        }
    }
    simd_limit(SIMD_AVX512);
}

static void every_way_gives_the_same_bits(void **state)
{
    (void)state;
    struct rng r = rng_stream(6, RNG_TEST, 0, 0, 0);
    struct dev d, three;
    struct err err;
    make_rows(&r);
    assert_int_equal(dev_open(&d, CPU, 1, &err), 0);
    assert_int_equal(dev_math(&d, KERNEL_MATH_INT8, &err), 0);
    dev_reserve(&d, kernel_work_floats(MANY, MANY, ROWS, RANK, 8), 1);
    assert_int_equal(dev_open(&three, CPU, 3, &err), 0);
    assert_int_equal(dev_math(&three, KERNEL_MATH_INT8, &err), 0);
    dev_reserve(&three, kernel_work_floats(MANY, MANY, ROWS, RANK, 8), 1);
    pool_share_all();
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        make_parts(&r, &sets[i]);
        compare_ways(&d, &three);
    }
    dev_close(&d);
    dev_close(&three);
}

// What is not finite comes out as such, and stays in its row.
static void what_is_not_finite_shows(void **state)
{
    (void)state;
    static float y[MANY * LD];
    struct dev d;
    struct err err;
    assert_int_equal(dev_open(&d, CPU, 1, &err), 0);
    assert_int_equal(dev_math(&d, KERNEL_MATH_INT8, &err), 0);
    dev_reserve(&d, kernel_work_floats(MANY, MANY, ROWS, RANK, 8), 1);
    x[40] = NAN;
    x[LD + 3] = INFINITY;
    for (int isa = SIMD_BASE; isa < SIMD_ISA_COUNT; isa++) {
        simd_limit((enum simd_isa)isa);
        run(&d, 3, false, y);
        for (int32_t n = 0; n < rows; n++)
            assert_true(isnan(y[n]) && !isfinite(y[LD + n]) && isfinite(y[2 * LD + n]));
    }
    simd_limit(SIMD_AVX512);
    dev_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_gives_the_same_bits),
        cmocka_unit_test(what_is_not_finite_shows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
