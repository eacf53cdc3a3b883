// The transform codec: directions as small integers, what energies that are not equal save, and
// what its options do.
#include "codec_cases.h"

#include "codec/basis.h"

// Directions.

static void test_directions_by_hand(void **state)
{
    (void)state;
    struct basis b;
    double u[2];
    basis_begin(&b, 2);
    basis_take(&b, (const int[]){3, 4}, u);
    assert_true(fabs(u[0] - 0.6) < 1e-15 && fabs(u[1] - 0.8) < 1e-15);
    basis_take(&b, (const int[]){1}, u);
    assert_true(fabs(fabs(u[0]) - 0.8) < 1e-15 && fabs(u[0] * 0.6 + u[1] * 0.8) < 1e-15);
    int q[2];
    basis_begin(&b, 2);
    basis_round(&b, (const double[]){-0.6, 0.8}, 0.3, q); // the first one positive
    assert_true(q[0] == 2 && q[1] == -3);
    basis_round(&b, (const double[]){0, 0}, 0.3, q); // never all zero
    assert_true(q[0] == 1 && q[1] == 0);
}

static void test_directions_are_orthonormal(void **state)
{
    (void)state;
    enum { DIM = 23 };
    static double u[DIM][DIM];
    struct rng r = rng_stream(6, RNG_TEST, 1, 0, 0);
    struct basis b;
    basis_begin(&b, DIM);
    for (int k = 0; k < DIM; k++) {
        int q[DIM] = {1};
        for (int i = 0; i < basis_left(&b) && basis_left(&b) > 1; i++)
            q[i] = (int)(rng_u32(&r) % 7) - 3 + 4 * (i == 0);
        basis_take(&b, q, u[k]);
    }
    for (int k = 0; k < DIM; k++)
        for (int l = 0; l <= k; l++) {
            double dot = 0;
            for (int i = 0; i < DIM; i++)
                dot += u[k][i] * u[l][i];
            assert_true(fabs(dot - (k == l)) < 1e-13);
        }
}

static void test_eigenvectors(void **state)
{
    (void)state;
    enum { DIM = 17 };
    static double g[DIM * DIM], v[DIM * DIM], value[DIM];
    struct rng r = rng_stream(6, RNG_TEST, 2, 0, 0);
    basis_eigen((const double[]){2, 1, 0, 2}, 2, v, value); // upper triangle
    assert_true(fabs(value[0] - 3) < 1e-9 && fabs(value[1] - 1) < 1e-9);
    assert_true(fabs(v[0] - v[1]) < 1e-9);
    for (int i = 0; i < DIM; i++)
        for (int j = 0; j <= i; j++)
            g[i * DIM + j] = g[j * DIM + i] = rng_normal(&r);
    for (int i = 0; i < DIM; i++)
        g[i * DIM + i] += 20;
    basis_eigen(g, DIM, v, value);
    for (int k = 0; k < DIM; k++) {
        assert_true(k == 0 || value[k] <= value[k - 1]);
        for (int i = 0; i < DIM; i++) {
            double sum = 0;
            for (int j = 0; j < DIM; j++)
                sum += g[i * DIM + j] * v[k * DIM + j];
            assert_true(fabs(sum - value[k] * v[k * DIM + i]) < 1e-3 * value[0]);
        }
    }
}

// Updates whose matrices have these shares of their energy along eight directions that differ from
// matrix to matrix: the ones measured on kept updates.
enum { RANK = 8, LONG = 4096, PAIRS = 8 };

static void low_rank(struct shape *s, float **x)
{
    static const double energy[RANK] = {.37, .22, .14, .10, .07, .05, .03, .02};
    shape_init(s);
    for (int t = 0; t < PAIRS; t++) {
        shape_add(s, "A", RANK, LONG, SHAPE_LORA_A);
        shape_add(s, "B", LONG, RANK, SHAPE_LORA_B);
    }
    shape_seal(s);
    *x = mem_alloc(MEM_CODEC, s->n_values * sizeof **x);
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        struct rng r = rng_stream(6, RNG_TEST, 3, t, 0);
        struct basis b;
        double u[RANK][RANK];
        basis_begin(&b, RANK);
        for (int k = 0; k < RANK; k++) {
            int q[RANK];
            for (int i = 0; i < RANK; i++)
                q[i] = (int)(rng_u32(&r) % 2001) - 1000;
            q[0] = q[0] ? q[0] : 1;
            basis_take(&b, q, u[k]);
        }
        float *to = *x + s->tensors[t].offset;
        for (int j = 0; j < LONG; j++) {
            double y[RANK];
            for (int k = 0; k < RANK; k++)
                y[k] = 1e-3 * sqrt(RANK * energy[k]) * rng_normal(&r);
            for (int i = 0; i < RANK; i++) {
                double sum = 0;
                for (int k = 0; k < RANK; k++)
                    sum += u[k][i] * y[k];
                to[t % 2 ? j * RANK + i : i * LONG + j] = (float)sum;
            }
        }
    }
}

struct rd {
    double bits, nmse;
};

static struct rd rate(const char *text, const struct shape *shape, const float *x)
{
    struct session s = {.shape = *shape};
    session_open(&s, text);
    double len = (double)session_trip(&s, x, key_of(0));
    struct rd r = {8 * len / (double)shape->n_values, codec_nmse(x, s.x_hat, shape->n_values)};
    session_close(&s);
    return r;
}

static void near(const char *what, double got, double want, double tol)
{
    if (fabs(got - want) > tol * want)
        fail_msg("%s: %.5g, want %.5g within %g %%", what, got, want, 100 * tol);
}

// Bits and error by numeric integration over the eight Gaussians, directions exact and free.
static void test_bits_and_error_of_known_energies(void **state)
{
    (void)state;
    struct shape shape;
    float *x;
    low_rank(&shape, &x);
    struct rd coarse = rate("klt:step=2.5,basis=0.05", &shape, x);
    struct rd fine = rate("klt:step=1,basis=0.05", &shape, x);
    near("bits at 2.5", coarse.bits, .5429, .03);
    near("NMSE at 2.5", coarse.nmse, .4103, .03);
    near("bits at 1", fine.bits, 1.7098, .03);
    near("NMSE at 1", fine.nmse, .0915, .03);
    // Directions in steps of .3 cost little, and beside them one threshold for all much more.
    struct rd usual = rate("klt:step=2.5", &shape, x);
    assert_true(usual.bits < 1.03 * coarse.bits && usual.nmse < 1.06 * coarse.nmse);
    struct rd plain = rate("uniform:step=2.4,dead=0.1,value=centre", &shape, x);
    assert_true(plain.nmse > usual.nmse && plain.bits > 1.3 * usual.bits);
    mem_free(x);
    shape_free(&shape);
}

// Each option does what it says.

static void test_rdoq_trades_error_for_bits(void **state)
{
    (void)state;
    struct shape shape;
    float *x;
    low_rank(&shape, &x);
    const double lambda = .1 * 2 * 2; // in squares of the root mean square
    struct rd a = rate("klt:step=2,dead=0", &shape, x);
    struct rd b = rate("klt:step=2,dead=0,rdoq=0.1", &shape, x);
    assert_true(b.bits < .95 * a.bits && b.nmse > a.nmse);
    assert_true(b.nmse + lambda * b.bits < a.nmse + lambda * a.bits);
    mem_free(x);
    shape_free(&shape);
}

// <x_hat, x> / <x, x>: what is left of the length along the update.
static double along(const char *text, const struct shape *shape, const float *x)
{
    struct session s = {.shape = *shape};
    session_open(&s, text);
    session_trip(&s, x, key_of(0));
    double r = quant_dot(x, s.x_hat, shape->n_values) / quant_sum_sq(x, shape->n_values);
    session_close(&s);
    return r;
}

static void test_unbiased_directions(void **state)
{
    (void)state;
    struct shape shape;
    float *x;
    low_rank(&shape, &x);
    assert_true(along("klt:step=2.5,keep=0.001", &shape, x) < .65);
    // Directions that are not sent have a few percent of the energy; a gain is in eighths of an
    // octave.
    near("along the update", along("klt:step=2.5,unbiased=1,keep=0.001", &shape, x), 1, .045);
    double half = along("klt:step=2.5,unbiased=0.5,keep=0.001", &shape, x);
    assert_true(half > .7 && half < .9);
    mem_free(x);
    shape_free(&shape);
}

// The share that survives of a matrix's weakest rows, which are its directions here.
static double weak_share(const char *text)
{
    enum { N = RANK * LONG };
    struct session s;
    static float x[N];
    fill(x, N, DIST_NORMAL, 12);
    for (int i = 0; i < RANK; i++)
        for (int j = 0; j < LONG; j++)
            x[i * LONG + j] *= (float)(1 << (RANK - 1 - i)) / 16;
    open_one(&s, RANK, LONG, text);
    session_trip(&s, x, key_of(0));
    const float *weak = x + 4 * LONG, *got = s.x_hat + 4 * LONG;
    double r = quant_dot(weak, got, LONG) / quant_sum_sq(weak, LONG);
    close_one(&s);
    return r;
}

static void test_steps_that_follow_the_direction(void **state)
{
    (void)state;
    double one = weak_share("klt:step=0.5"), half = weak_share("klt:step=0.5,gamma=0.5");
    assert_true(one < .5 && half > .7);
    expect_error("klt:gamma=0.3", "1/16");
}

// A message keeps to its budget, and nearly fills it.
static void test_budgets(void **state)
{
    (void)state;
    struct shape shape;
    struct codec_report report;
    float *x;
    low_rank(&shape, &x);
    struct session s = {.shape = shape};
    session_open(&s, "klt");
    assert_true(codec_budgets(s.c));
    for (int64_t budget = 4000; budget <= 256000; budget *= 4) {
        const struct codec_input in = {.x = x, .key = key_of(0), .budget_bytes = budget};
        int64_t len = codec_encode(s.c, &in, s.msg, codec_bound(s.c), s.scratch, &report, &s.err);
        assert_true(len <= budget && len > budget * 9 / 10);
    }
    const struct codec_input none = {.x = x, .key = key_of(0), .budget_bytes = 3};
    assert_int_equal(codec_encode(s.c, &none, s.msg, codec_bound(s.c), s.scratch, &report, &s.err),
                     3);
    session_close(&s);
    mem_free(x);
    shape_free(&shape);
}

// What has no short side is coded by one threshold: as uniform does it with three centres.
static void test_square_matrices_fall_back(void **state)
{
    (void)state;
    enum { SIDE = 300 };
    static float x[SIDE * SIDE];
    struct shape shape;
    fill(x, SIDE * SIDE, DIST_LAPLACE, 13);
    shape_one(&shape, SIDE, SIDE);
    struct rd own = rate("klt:step=1.5", &shape, x);
    struct rd same = rate("uniform:step=1.5,dead=0.1,value=centre", &shape, x);
    near("bits", own.bits, same.bits, .01);
    near("NMSE", own.nmse, same.nmse, .02);
    shape_free(&shape);
    shape_one(&shape, 20, 64); // too short for its directions
    struct rd brief = rate("klt:step=1.5,basis=0.05", &shape, x);
    assert_true(brief.bits < 2);
    shape_free(&shape);
}

// Fed-FSTQ on coefficients: less error at equal bytes, and F is met where it is.

static double weighted_error(const char *text, const struct shape *shape, const float *x,
                             const float *f, double *nmse)
{
    struct session s = {.shape = *shape};
    double err = 0, all = 0;
    session_open(&s, text);
    memcpy(s.sens, f, shape->n_values * sizeof *f);
    session_trip(&s, x, key_of(0));
    for (size_t i = 0; i < shape->n_values; i++) {
        const double d = (double)x[i] - (double)s.x_hat[i];
        err += (double)f[i] * d * d;
        all += (double)f[i] * (double)x[i] * (double)x[i];
    }
    *nmse = codec_nmse(x, s.x_hat, shape->n_values);
    session_close(&s);
    return err / all;
}

static void test_fstq_over_coefficients(void **state)
{
    (void)state;
    struct shape shape;
    float *x, *f;
    double plain, turned, by_f;
    low_rank(&shape, &x);
    f = mem_alloc(MEM_CODEC, shape.n_values * sizeof *f);
    for (size_t i = 0; i < shape.n_values; i++) // columns of A and rows of A differ in F
        f[i] = (i / 64) % 4 == 0 ? 16 : 1;
    weighted_error("fstq:budget=0.0435,importance=magnitude", &shape, x, f, &plain);
    double even = weighted_error("fstq:budget=0.0435,importance=magnitude,transform=klt", &shape, x,
                                 f, &turned);
    double met = weighted_error("fstq:budget=0.0435,gamma=1,transform=klt", &shape, x, f, &by_f);
    assert_true(turned < .75 * plain && by_f > turned && met < .9 * even);
    mem_free(f);
    mem_free(x);
    shape_free(&shape);
}

static void test_fstq_meets_budgets(void **state)
{
    (void)state;
    struct shape shape;
    float *x;
    low_rank(&shape, &x);
    struct session s = {.shape = shape};
    session_open(&s, "fstq:transform=klt,importance=magnitude");
    for (int64_t budget = 1; budget <= 65536; budget *= 4) {
        const struct codec_input in = {.x = x, .key = key_of(0), .budget_bytes = budget};
        int64_t len = codec_encode(s.c, &in, s.msg, codec_bound(s.c), s.scratch, &s.report, &s.err);
        assert_true(len > 0 && len <= budget && (budget < 1024 || len > budget * 9 / 10));
        assert_int_equal(codec_decode(s.c, &in.key, s.msg, (size_t)len, s.x_hat, s.scratch, &s.err),
                         0);
        int64_t kept = 0;
        for (int w = 0; w < RECORD_WIDTHS; w++)
            kept += s.report.kept[w];
        assert_int_equal(kept, shape.n_values);
    }
    session_close(&s);
    mem_free(x);
    shape_free(&shape);
}

// Matrices that are not turned are one direction each: the bytes of fstq on a row, and a few more.
static void test_fstq_leaves_square_matrices(void **state)
{
    (void)state;
    enum { SIDE = 200 };
    static float x[SIDE * SIDE];
    struct shape shape;
    fill(x, SIDE * SIDE, DIST_LAPLACE, 13);
    shape_one(&shape, SIDE, SIDE);
    struct rd own = rate("fstq:importance=magnitude,budget=0.1,transform=klt", &shape, x);
    struct rd same = rate("fstq:importance=magnitude,budget=0.1", &shape, x);
    near("bits", own.bits, same.bits, .01);
    near("NMSE", own.nmse, same.nmse, .01);
    shape_free(&shape);
}

static void test_nothing_and_extremes(void **state)
{
    (void)state;
    enum { N = 8 * 100 };
    static float x[N];
    struct session s;
    open_one(&s, 8, 100, "klt");
    assert_int_equal(session_trip(&s, x, key_of(0)), 3); // header and a step of 0
    for (int i = 0; i < N; i++)
        assert_true(s.x_hat[i] == 0);
    fill(x, N, DIST_STUDENT3, 14);
    for (int big = 0; big < 2; big++) { // any scale, and one value far beyond the others
        for (int i = 0; i < N; i++)
            x[i] *= big ? 0x1p100f : 0x1p-60f;
        x[77] = big ? 0x1.8p99f : 0x1p-64f;
        session_trip(&s, x, key_of(0));
        assert_true(codec_nmse(x, s.x_hat, N) < .5);
    }
    close_one(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_directions_by_hand),
        cmocka_unit_test(test_directions_are_orthonormal),
        cmocka_unit_test(test_eigenvectors),
        cmocka_unit_test(test_bits_and_error_of_known_energies),
        cmocka_unit_test(test_rdoq_trades_error_for_bits),
        cmocka_unit_test(test_unbiased_directions),
        cmocka_unit_test(test_steps_that_follow_the_direction),
        cmocka_unit_test(test_square_matrices_fall_back),
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_fstq_over_coefficients),
        cmocka_unit_test(test_fstq_meets_budgets),
        cmocka_unit_test(test_fstq_leaves_square_matrices),
        cmocka_unit_test(test_nothing_and_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
