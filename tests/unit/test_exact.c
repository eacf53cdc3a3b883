// Sums in integers: any order and any grouping comes to the same bits, and to what long double
// says.
#include "fed/exact.h"

#include "base/bytes.h"
#include "base/fsio.h"
#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 700, CLIENTS = 60 };

struct clients {
    float x[CLIENTS][N], weight[CLIENTS];
};

// Magnitudes from 2^-40 to 2^10, zeros, and a run that is all zero.
static void draw(struct clients *c)
{
    for (uint32_t k = 0; k < CLIENTS; k++) {
        struct rng r = rng_stream(11, RNG_TEST, k, 0, 0);
        c->weight[k] = (float)(1 + rng_below(&r, 5000));
        for (int i = 0; i < N; i++) {
            float v = (float)ldexp(rng_unit(&r) - 0.5, (int)rng_below(&r, 50) - 40);
            c->x[k][i] = i / EXACT_RUN == 1 || rng_below(&r, 9) == 0 ? 0 : v;
        }
    }
}

static void add_all(const struct clients *c, exact_int *sum, int from, int step)
{
    struct err err;
    for (int k = from; k < CLIENTS; k += step)
        assert_int_equal(exact_add(sum, c->x[k], N, c->weight[k], &err), 0);
}

static void test_any_tree_comes_to_the_same(void **state)
{
    (void)state;
    static struct clients c;
    static exact_int flat[N], back[N], tree[N], part[N];
    static uint8_t bytes[N * 18];
    struct err err;
    draw(&c);
    add_all(&c, flat, 0, 1);
    for (int k = CLIENTS; k-- > 0;)
        assert_int_equal(exact_add(back, c.x[k], N, c.weight[k], &err), 0);
    assert_memory_equal(flat, back, sizeof flat);
    for (int relays = 2; relays < 8; relays++) {
        memset(tree, 0, sizeof tree);
        for (int r = relays; r-- > 0;) {
            memset(part, 0, sizeof part);
            add_all(&c, part, r, relays);
            size_t len = exact_put(part, N, bytes);
            assert_true(len <= exact_bound(N) && len <= sizeof bytes);
            assert_int_equal(exact_check(bytes, len, N, &err), (int64_t)len);
            exact_get_add(bytes, N, tree);
        }
        assert_memory_equal(flat, tree, sizeof flat);
    }
}

static void test_the_mean_is_right(void **state)
{
    (void)state;
    static struct clients c;
    static exact_int sum[N];
    static float mean[N];
    double weight = 0;
    draw(&c);
    add_all(&c, sum, 0, 1);
    for (int k = 0; k < CLIENTS; k++)
        weight += (double)c.weight[k];
    exact_mean(sum, weight, N, mean);
    for (int i = 0; i < N; i++) {
        long double want = 0;
        for (int k = 0; k < CLIENTS; k++)
            want += (long double)(c.weight[k] * c.x[k][i]);
        want /= (long double)weight;
        assert_true(fabs((double)(want - (long double)mean[i])) <=
                    fabs((double)want) * 0x1p-23 + 0x1p-70);
    }
}

static void test_by_hand(void **state)
{
    (void)state;
    const float x[] = {1, -1.5f, 0x1p-72f, -0x1p-73f, 0x1p33f, 0};
    exact_int sum[6] = {0};
    float mean[6];
    struct err err;
    uint8_t bytes[128];
    assert_int_equal(exact_add(sum, x, 6, 1, &err), 0);
    assert_true(sum[0] == (exact_int)1 << 72 && sum[1] == -((exact_int)3 << 71));
    assert_true(sum[2] == 1 && sum[3] == 0 && sum[4] == (exact_int)1 << 105 && sum[5] == 0);
    exact_mean(sum, 1, 6, mean);
    assert_true(mean[0] == 1 && mean[1] == -1.5f && mean[2] == 0x1p-72f && mean[4] == 0x1p33f);
    assert_int_equal(exact_put(sum, 6, bytes), 2 + (6 * 107 + 7) / 8);
    const exact_int quarters[] = {((exact_int)3) << 70, -((exact_int)1 << 71)};
    assert_int_equal(exact_put(quarters, 2, bytes), 2 + 1);
    assert_int_equal(bytes[0], 70);
    assert_int_equal(bytes[1], 3);
    assert_int_equal(bytes[2], 3 | 6 << 3);
}

static void test_refusals(void **state)
{
    (void)state;
    exact_int sum[3] = {7, 8, 9}, least[1] = {(exact_int)((exact_bits)1 << 127)}, got[1] = {0};
    const float bad[][3] = {{1, NAN, 1}, {1, 1, INFINITY}, {0x1p34f, 0, 0}, {0, -0x1p34f, 0}};
    struct err err;
    uint8_t bytes[64];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(exact_add(sum, bad[i], 3, 1, &err), -1);
        assert_true(sum[0] == 7 && sum[1] == 8 && sum[2] == 9);
    }
    size_t len = exact_put(sum, 3, bytes);
    for (size_t n = 0; n < len; n++)
        assert_int_equal(exact_check(bytes, n, 3, &err), -1);
    bytes[0] = 100;
    bytes[1] = 29;
    assert_int_equal(exact_check(bytes, sizeof bytes, 3, &err), -1);
    assert_int_equal(exact_put(least, 1, bytes), 3);
    exact_get_add(bytes, 1, got);
    assert_true(got[0] == least[0]);
}

// FSTQ_GOLDEN_WRITE=1: seeds of fuzz_relay, whose update has 520 values in two parts.
static void write_seeds(void **state)
{
    (void)state;
    static struct clients c;
    static exact_int sum[N];
    static uint8_t bytes[8 + 2 * 24 + 17 * N];
    struct err err;
    draw(&c);
    for (int i = 0; getenv("FSTQ_GOLDEN_WRITE") && i < 3; i++) {
        uint32_t clients = (uint32_t)i;
        char path[64];
        put_u32(bytes, 1);
        put_u32(bytes + 4, clients);
        for (uint32_t k = 0; k < clients; k++) {
            uint8_t *p = bytes + 8 + 24 * k;
            put_u32(p, 1 + 4 * k);
            put_u32(p + 4, 9);
            put_f32(p + 8, 0.5f);
            put_u32(p + 12, 0);
            put_u64(p + 16, 500);
            assert_int_equal(exact_add(sum, c.x[k], 520, c.weight[k], &err), 0);
        }
        size_t at = 8 + 24 * clients;
        at += exact_put(sum, 260, bytes + at);
        at += exact_put(sum + 260, 260, bytes + at);
        snprintf(path, sizeof path, "tests/fuzz/corpus/relay/case%d", i);
        assert_int_equal(fsio_replace(path, bytes, at, &err), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_tree_comes_to_the_same),
        cmocka_unit_test(test_the_mean_is_right),
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(write_seeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
