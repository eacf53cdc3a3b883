// Philox streams, the choices made with them, and our own exp, log, sin and cos.
#include "base/bytes.h"
#include "base/check.h"
#include "base/fmath.h"
#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include <cmocka.h>

// Philox4x32-10 vectors published with Random123.
static void philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t ctr[4], key[2], want[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t k = 0; k < ARRAY_LEN(kat); k++) {
        struct rng r = {.key = {kat[k].key[0], kat[k].key[1]}};
        for (int i = 1; i < 4; i++)
            r.ctr[i] = kat[k].ctr[i];
        for (uint32_t i = 0; i < 4; i++)
            assert_int_equal(rng_at(&r, 4 * (uint64_t)kat[k].ctr[0] + i), kat[k].want[i]);
    }
}

static void at_is_the_stream(void **state)
{
    (void)state;
    struct rng r = rng_stream(7, RNG_TEST, 1, 2, 3), same = r;
    for (uint64_t i = 0; i < 1000; i++) {
        uint32_t w = rng_u32(&r);
        assert_int_equal(w, rng_at(&same, i));
        assert_int_equal(w, rng_at(&r, i)); // whatever has been drawn
    }
}

// Every part of a stream's name counts, in its own place.
static void streams_differ(void **state)
{
    (void)state;
    const struct rng r[] = {
        rng_stream(1, RNG_TEST, 0, 0, 0),          rng_stream(2, RNG_TEST, 0, 0, 0),
        rng_stream(1ull << 32, RNG_TEST, 0, 0, 0), rng_stream(1, RNG_SAMPLE, 0, 0, 0),
        rng_stream(1, RNG_TEST, 1, 0, 0),          rng_stream(1, RNG_TEST, 0, 1, 0),
        rng_stream(1, RNG_TEST, 0, 0, 1),
    };
    for (size_t i = 0; i < ARRAY_LEN(r); i++)
        for (size_t j = 0; j < i; j++)
            for (uint64_t k = 0; k < 4; k++)
                assert_int_not_equal(rng_at(&r[i], k), rng_at(&r[j], k));
}

// The draws are part of every seed's meaning: these values never change, on any machine.
static void golden_draws(void **state)
{
    (void)state;
    struct rng r = rng_stream(42, RNG_TEST, 1, 2, 3);
    static const uint32_t words[] = {0x51da450b, 0x274e97fd, 0xaf78c85b,
                                     0x4959b4ac, 0xa3334fda, 0xa20a1558};
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        assert_int_equal(rng_u32(&r), words[i]);
    uint8_t bytes[8];
    XXH3_state_t *h = XXH3_createState();
    assert_non_null(h);
    XXH3_64bits_reset(h);
    for (int i = 0; i < 20000; i++) {
        double p[5], v[6];
        v[0] = rng_unit(&r);
        v[1] = rng_normal(&r);
        v[2] = rng_gamma(&r, 0.3);
        v[3] = rng_gamma(&r, 2.5);
        v[4] = rng_below(&r, 1000003);
        rng_dirichlet(&r, 0.1, 5, p);
        v[5] = p[0];
        for (size_t k = 0; k < ARRAY_LEN(v); k++) {
            put_f64(bytes, v[k]);
            XXH3_64bits_update(h, bytes, 8);
        }
    }
    assert_int_equal(XXH3_64bits_digest(h), 0x80e36a6392f55b04ull);
    XXH3_freeState(h);
}

static void golden_choices(void **state)
{
    (void)state;
    struct rng r = rng_stream(42, RNG_SAMPLE, 0, 0, 0);
    uint32_t v[10];
    static const uint32_t chosen[] = {12, 21, 33, 40, 49, 51, 60, 67, 89, 92},
                          shuffled[] = {5, 9, 7, 1, 3, 8, 4, 0, 6, 2};
    rng_choose(&r, 100, 10, v);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(v[i], chosen[i]);
    for (uint32_t i = 0; i < 10; i++)
        v[i] = i;
    rng_shuffle(&r, v, 10);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(v[i], shuffled[i]);
}

static void below_is_uniform(void **state)
{
    (void)state;
    struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
    enum { N = 7, DRAWS = 70000 };
    int hits[N] = {0};
    for (int i = 0; i < DRAWS; i++)
        hits[rng_below(&r, N)]++;
    double chi2 = 0;
    for (int i = 0; i < N; i++)
        chi2 += pow(hits[i] - DRAWS / N, 2) / (DRAWS / (double)N);
    assert_true(chi2 < 22.46); // 99.9% of chi-squared with 6 degrees
    for (int i = 0; i < 100; i++)
        assert_int_equal(rng_below(&r, 1), 0);
    // 3/4 of 2^32: without rejection the first third would come up twice as often.
    int low = 0;
    for (int i = 0; i < 30000; i++)
        low += rng_below(&r, 0xc0000000u) < 0x40000000u;
    assert_in_range(low, 9600, 10400);
}

// Mean, variance, and kurtosis against the law's, each within 4.5 standard errors of n draws.
static void moments(const double *v, int n, double mean, double var, double fourth)
{
    double m = 0, s = 0;
    for (int i = 0; i < n; i++)
        m += v[i] / n;
    for (int i = 0; i < n; i++)
        s += (v[i] - mean) * (v[i] - mean) / n;
    if (fabs(m - mean) > 4.5 * sqrt(var / n) ||
        fabs(s - var) > 4.5 * sqrt((fourth - var * var) / n))
        fail_msg("mean %g, wanted %g; variance %g, wanted %g", m, mean, s, var);
}

enum { DRAWS = 100000 };
static double draws[DRAWS];

static void unit_moments(void **state)
{
    (void)state;
    struct rng r = rng_stream(3, RNG_TEST, 0, 0, 0);
    for (int i = 0; i < DRAWS; i++) {
        draws[i] = rng_unit(&r);
        assert_true(draws[i] >= 0 && draws[i] < 1);
    }
    moments(draws, DRAWS, 0.5, 1.0 / 12, 1.0 / 80);
}

static void normal_moments(void **state)
{
    (void)state;
    struct rng r = rng_stream(3, RNG_TEST, 1, 0, 0);
    int beyond = 0;
    for (int i = 0; i < DRAWS; i++) {
        draws[i] = rng_normal(&r);
        beyond += fabs(draws[i]) > 1.959964;
    }
    moments(draws, DRAWS, 0, 1, 3);
    assert_in_range(beyond, 4700, 5300);
}

static void gamma_moments(void **state)
{
    (void)state;
    static const double shapes[] = {0.05, 0.3, 1, 2.5, 30};
    for (size_t k = 0; k < ARRAY_LEN(shapes); k++) {
        double a = shapes[k];
        struct rng r = rng_stream(3, RNG_TEST, 2, (uint32_t)k, 0);
        for (int i = 0; i < DRAWS; i++) {
            draws[i] = rng_gamma(&r, a);
            assert_true(draws[i] >= 0 && isfinite(draws[i]));
        }
        moments(draws, DRAWS, a, a, 3 * a * a + 6 * a);
    }
}

static void dirichlet_moments(void **state)
{
    (void)state;
    static const double alphas[] = {0.1, 1, 10};
    enum { N = 4, ROUNDS = 20000 };
    for (size_t k = 0; k < ARRAY_LEN(alphas); k++) {
        double a = alphas[k], a0 = N * a, mean = 1.0 / N;
        double var = mean * (1 - mean) / (a0 + 1);
        struct rng r = rng_stream(3, RNG_TEST, 3, (uint32_t)k, 0);
        double p[N], sum[N] = {0}, square = 0;
        for (int i = 0; i < ROUNDS; i++) {
            rng_dirichlet(&r, a, N, p);
            double total = 0;
            for (int j = 0; j < N; j++) {
                total += p[j];
                sum[j] += p[j];
                square += (p[j] - mean) * (p[j] - mean);
            }
            assert_true(fabs(total - 1) < 1e-12);
        }
        for (int j = 0; j < N; j++)
            assert_true(fabs(sum[j] / ROUNDS - mean) < 4.5 * sqrt(var / ROUNDS));
        assert_true(fabs(square / ROUNDS / N / var - 1) < 0.05);
    }
}

// U^(1/alpha) underflows here: the shares must still be shares.
static void dirichlet_tiny_alpha(void **state)
{
    (void)state;
    struct rng r = rng_stream(3, RNG_TEST, 4, 0, 0);
    for (int i = 0; i < 1000; i++) {
        double p[3], total = 0;
        rng_dirichlet(&r, 1e-4, 3, p);
        for (int j = 0; j < 3; j++)
            total += p[j];
        assert_true(fabs(total - 1) < 1e-12);
    }
    double one;
    rng_dirichlet(&r, 0.5, 1, &one);
    assert_true(one == 1);
}

static void shuffle_is_uniform(void **state)
{
    (void)state;
    struct rng r = rng_stream(3, RNG_TEST, 5, 0, 0);
    int hits[27] = {0};
    for (int i = 0; i < 6000; i++) {
        uint32_t v[3] = {0, 1, 2};
        rng_shuffle(&r, v, 3);
        hits[v[0] * 9 + v[1] * 3 + v[2]]++;
    }
    int seen = 0;
    for (int i = 0; i < 27; i++)
        if (hits[i]) {
            assert_in_range(hits[i], 860, 1140);
            seen++;
        }
    assert_int_equal(seen, 6);
}

static void choose_is_uniform(void **state)
{
    (void)state;
    struct rng r = rng_stream(3, RNG_TEST, 6, 0, 0);
    int hits[10] = {0}, pairs = 0;
    for (int i = 0; i < 10000; i++) {
        uint32_t v[4];
        rng_choose(&r, 10, 4, v);
        for (int k = 0; k < 4; k++) {
            hits[v[k]]++;
            assert_true(v[k] < 10 && (k == 0 || v[k] > v[k - 1]));
        }
        pairs += v[0] == 0 && v[1] == 1;
    }
    for (int i = 0; i < 10; i++)
        assert_in_range(hits[i], 3780, 4220);
    assert_in_range(pairs, 1200, 1470); // 4*3/(10*9) of 10000
}

static void choose_all_and_none(void **state)
{
    (void)state;
    struct rng r = rng_stream(3, RNG_TEST, 7, 0, 0);
    uint32_t v[100];
    rng_choose(&r, 100, 100, v);
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(v[i], i);
    v[0] = 99;
    rng_choose(&r, 100, 0, v);
    assert_int_equal(v[0], 99);
}

// The larger of two errors; unlike fmax it lets a NaN stand.
static double worse(double worst, double error)
{
    return error > worst || error != error ? error : worst;
}

static void exp_and_log_are_close(void **state)
{
    (void)state;
    struct rng r = rng_stream(5, RNG_TEST, 0, 0, 0);
    double worst_exp = 0, worst_log = 0, worst_pow = 0;
    for (int i = 0; i < 300000; i++) {
        double scale = i % 3 == 0 ? 1400 : i % 3 == 1 ? 2 : 1e-3;
        double x = (rng_unit(&r) - 0.5) * scale;
        worst_exp = worse(worst_exp, fabs(fmath_exp(x) / exp(x) - 1));
        double y = exp(x);
        if (y != 1)
            worst_log = worse(worst_log, fabs(fmath_log(y) / log(y) - 1));
        double e = (rng_unit(&r) - 0.5) * 20, base = exp(x / 30);
        worst_pow = worse(worst_pow, fabs(fmath_pow(base, e) / pow(base, e) - 1));
    }
    print_message("# worst relative error: exp %.2g, log %.2g, pow %.2g\n", worst_exp, worst_log,
                  worst_pow);
    assert_true(worst_exp < 1e-14);
    assert_true(worst_log < 1e-14);
    assert_true(worst_pow < 1e-12);
}

static void circle_is_close(void **state)
{
    (void)state;
    struct rng r = rng_stream(5, RNG_TEST, 1, 0, 0);
    const long double two_pi = 6.283185307179586476925286766559L;
    double worst = 0;
    for (int i = 0; i < 200000; i++) {
        double t = (rng_unit(&r) - 0.5) * (i % 2 ? 2 : 1000);
        long double turn = (long double)t - floorl((long double)t);
        worst = worse(worst, fabs(fmath_sin2pi(t) - (double)sinl(two_pi * turn)));
        worst = worse(worst, fabs(fmath_cos2pi(t) - (double)cosl(two_pi * turn)));
    }
    print_message("# worst absolute error: %.2g\n", worst);
    assert_true(worst < 1e-15);
}

static void fmath_edges(void **state)
{
    (void)state;
    const double inf = (double)INFINITY, nan = (double)NAN;
    assert_true(fmath_exp(0) == 1 && fmath_exp(-inf) == 0 && fmath_exp(inf) == inf);
    assert_true(isnan(fmath_exp(nan)) && isinf(fmath_exp(710)) && fmath_exp(-746) == 0);
    assert_true(fmath_exp(-745) == 0x1p-1074 && isfinite(fmath_exp(709.7)));
    assert_true(fabs(fmath_exp(-740) / exp(-740) - 1) < 1e-2); // subnormal: few bits left
    assert_true(fmath_log(1) == 0 && fmath_log(0) == -inf && fmath_log(inf) == inf);
    assert_true(isnan(fmath_log(-1)) && isnan(fmath_log(nan)) && isnan(fmath_log(-inf)));
    assert_true(fabs(fmath_log(0x1p-1074) + 1074 * log(2)) < 1e-12);
    assert_true(fabs(fmath_log(1 + 0x1p-52) / 0x1p-52 - 1) < 1e-14);
    assert_true(fmath_sin2pi(0) == 0 && fmath_sin2pi(0.25) == 1 && fmath_sin2pi(-0.25) == -1);
    assert_true(fmath_cos2pi(0) == 1 && fmath_cos2pi(0.5) == -1 && fmath_cos2pi(1e300) == 1);
    assert_true(fmath_sin2pi(1e300) == 0 && fmath_cos2pi(-3.75) == 0 && fmath_cos2pi(0.75) == 0);
    assert_true(isnan(fmath_sin2pi(inf)) && isnan(fmath_cos2pi(nan)));
    assert_true(fabs(fmath_pow(2, 10) - 1024) < 1e-10 && fmath_pow(5, 0) == 1);
    assert_true(fmath_pow(0, 2) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),  cmocka_unit_test(at_is_the_stream),
        cmocka_unit_test(streams_differ),        cmocka_unit_test(golden_draws),
        cmocka_unit_test(golden_choices),        cmocka_unit_test(below_is_uniform),
        cmocka_unit_test(unit_moments),          cmocka_unit_test(normal_moments),
        cmocka_unit_test(gamma_moments),         cmocka_unit_test(dirichlet_moments),
        cmocka_unit_test(dirichlet_tiny_alpha),  cmocka_unit_test(shuffle_is_uniform),
        cmocka_unit_test(choose_is_uniform),     cmocka_unit_test(choose_all_and_none),
        cmocka_unit_test(exp_and_log_are_close), cmocka_unit_test(circle_is_close),
        cmocka_unit_test(fmath_edges),
    };
    return cmocka_run_group_tests_name("base rng", tests, NULL, NULL);
}
