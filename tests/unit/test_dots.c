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

enum { COLS = 352, BLOCKS = COLS / 32, PART = 48, ROWS = 3 * PART, MANY = 7, RANK = 3, LD = 368 };
enum { CPU };

static uint8_t bytes[3][PART * BLOCKS * 34];
static float x[MANY * LD], base[MANY * LD], adapter[RANK * COLS + ROWS * RANK];
static struct block_rows parts[3];
static struct kernel_linear linear = {
    .w = {.blocks = parts, .rows = ROWS, .cols = COLS, .ld = COLS},
    .lora = {{.rows = ROWS, .rank = RANK, .b = RANK * COLS}},
    .n_lora = 1,
    .ranks = RANK,
    .scale = 0.5f};

// Any bytes are blocks, but for scales that are too large.
static void make_parts(struct rng *r)
{
    const int32_t id[] = {BLOCK_Q4_0, BLOCK_Q8_0, BLOCK_Q4_1};
    for (int p = 0; p < 3; p++) {
        parts[p] = (struct block_rows){block_find(id[p]), bytes[p], PART, COLS};
        const size_t each = (size_t)parts[p].type->bytes;
        for (size_t i = 0; i < PART * BLOCKS; i++) {
            uint8_t *b = bytes[p] + i * each;
            for (size_t k = 0; k < each; k++)
                b[k] = (uint8_t)rng_below(r, 256);
            for (int k = 0; k < (id[p] == BLOCK_Q4_1 ? 2 : 1); k++) {
                uint16_t half = f16_from_f32((float)rng_normal(r) * 0.1f);
                memcpy(b + 2 * k, &half, sizeof half);
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
            for (int c = 0; c < COLS; c++)
                sum += (double)x[i * LD + c] * (double)adapter[k * COLS + c];
            u[k] = (float)(0.5 * sum);
        }
        for (int32_t n = 0; n < ROWS; n++) {
            double q[32], want = (double)base[i * LD + n], size = fabs(want);
            kernel_weight_row(&linear.w, n, row);
            for (int b = 0; b < BLOCKS; b++) {
                rounded(x + i * LD + 32 * b, q);
                for (int k = 0; k < 32; k++) {
                    want += q[k] * (double)row[32 * b + k];
                    size += fabs(q[k] * (double)row[32 * b + k]);
                }
            }
            for (int k = 0; adapted && k < RANK; k++)
                want += (double)u[k] * (double)adapter[RANK * COLS + n * RANK + k];
            if (!(fabs((double)y[i * LD + n] - want) <= 1e-5 * size))
                fail_msg("row %d, column %d: %g, not %g", i, n, (double)y[i * LD + n], want);
        }
    }
}

static void every_way_gives_the_same_bits(void **state)
{
    (void)state;
    static float first[2][MANY * LD], y[MANY * LD];
    struct rng r = rng_stream(6, RNG_TEST, 0, 0, 0);
    struct dev d, three;
    struct err err;
    make_parts(&r);
    make_rows(&r);
    assert_int_equal(dev_open(&d, CPU, 1, &err), 0);
    assert_int_equal(dev_math(&d, KERNEL_MATH_INT8, &err), 0);
    dev_reserve(&d, kernel_work_floats(MANY, MANY, COLS, RANK, 8), 1);
    assert_int_equal(dev_open(&three, CPU, 3, &err), 0);
    assert_int_equal(dev_math(&three, KERNEL_MATH_INT8, &err), 0);
    dev_reserve(&three, kernel_work_floats(MANY, MANY, COLS, RANK, 8), 1);
    pool_share_all();
    for (int isa = SIMD_BASE; isa < SIMD_ISA_COUNT; isa++) {
        simd_limit((enum simd_isa)isa);
        for (int adapted = 0; adapted < 2; adapted++) {
            run(&d, MANY, adapted, isa ? y : first[adapted]);
            if (isa == SIMD_BASE)
                check_sums(first[adapted], adapted);
            for (int32_t i = 0; isa && !adapted && i < MANY; i++)
                assert_memory_equal(y + i * LD, first[0] + i * LD, ROWS * sizeof *y);
            for (int32_t m = 1; m < MANY && isa; m++) {
                static float few[MANY * LD];
                run(m % 2 ? &three : &d, m, adapted, few);
                for (int32_t i = 0; i < m; i++)
                    assert_memory_equal(few + i * LD, y + i * LD, ROWS * sizeof *few);
            }
        }
    }
    simd_limit(SIMD_AVX512);
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
    dev_reserve(&d, kernel_work_floats(MANY, MANY, COLS, RANK, 8), 1);
    x[40] = NAN;
    x[LD + 3] = INFINITY;
    for (int isa = SIMD_BASE; isa < SIMD_ISA_COUNT; isa++) {
        simd_limit((enum simd_isa)isa);
        run(&d, 3, false, y);
        for (int32_t n = 0; n < ROWS; n++)
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
