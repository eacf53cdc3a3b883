// Forward gradients: an estimate that is right on average, in the directions that are trained
// alone.
#include "fed/local.h"
#include "fed/method.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { N = 24 };
static struct shape shape;

struct bowl { // L(x) = 1/2 sum a_i x_i^2
    double a[N];
    int asked;
};

static double loss_at(void *arg, const float *x)
{
    struct bowl *b = arg;
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += b->a[i] * (double)x[i] * (double)x[i] / 2;
    b->asked++;
    return sum;
}

// What a method's rule makes of the bowl at x, in step 0 of a client's round.
static double gradient(const char *method, const struct train_job *job, struct bowl *b,
                       const float *x, float *g)
{
    struct method m;
    struct err err;
    const struct local_setup setup = {.shape = &shape, .seed = 5};
    struct local_chain c;
    assert_int_equal(method_open(&m, method, &shape, &err), 0);
    const struct local_use use = {m.scheme->local, m.scheme_opt};
    assert_int_equal(local_open(&c, &setup, &use, 1, 1, &err), 0);
    assert_true(local_asks(&c));
    local_begin(&c, 0, job);
    assert_ptr_equal(local_before(&c, 0, 0), job->delta);
    double loss = local_gradient(&c, 0, 0, x, (struct local_loss){loss_at, b}, g);
    local_after(&c, 0, 0, g);
    local_close(&c);
    method_close(&m);
    return loss;
}

static void fill(struct bowl *b, float *x)
{
    *b = (struct bowl){.asked = 0};
    for (int i = 0; i < N; i++) {
        b->a[i] = 1 + i % 5;
        x[i] = (float)(i % 7 - 3);
    }
}

// Of D draws each value is off by sqrt(sum of the others' squares / D), on average.
static void right_on_average(void **state)
{
    (void)state;
    static const char *const noises[] = {"sign", "normal"};
    for (size_t k = 0; k < ARRAY_LEN(noises); k++) {
        char method[96];
        float x[N], g[N];
        struct bowl b;
        double squares = 0, off = 0;
        fill(&b, x);
        struct train_job job = {.client = 1, .round = 2, .delta = x};
        snprintf(method, sizeof method, "fwdllm:draws=4096,noise=%s/fp32", noises[k]);
        double loss = gradient(method, &job, &b, x, g), asked = b.asked;
        assert_true(fabs(loss - loss_at(&b, x)) < 1e-3 * loss);
        assert_true(asked == 2 * 4096);
        for (int i = 0; i < N; i++) {
            double right = b.a[i] * (double)x[i];
            squares += right * right;
            off += ((double)g[i] - right) * ((double)g[i] - right);
        }
        assert_true(off < 1.5 * squares * (N + 1) / 4096);
        assert_true(off > 0);
    }
}

// One draw: the slope along v, times v; and what is not trained has no part in it.
static void one_direction(void **state)
{
    (void)state;
    float x[N], g[N], again[N];
    struct bowl b;
    struct shape_range trained[] = {{3, 7}, {20, 22}};
    fill(&b, x);
    struct train_job job = {
        .client = 1, .round = 2, .delta = x, .trained = trained, .n_trained = 2};
    gradient("fwdllm:draws=1/fp32", &job, &b, x, g);
    double slope = 0, size = fabs((double)g[3]);
    assert_true(size > 0);
    for (int i = 0; i < N; i++) {
        bool in = (i >= 3 && i < 7) || (i >= 20 && i < 22);
        assert_true(fabs((double)g[i]) == (in ? size : 0));
        slope += in ? b.a[i] * (double)x[i] * (g[i] > 0 ? 1 : -1) : 0;
    }
    assert_true(fabs(fabs(slope) - size) < 1e-2 * size);
    gradient("fwdllm:draws=1/fp32", &job, &b, x, again);
    assert_memory_equal(again, g, sizeof g);
    job.round = 3; // another round, other directions
    gradient("fwdllm:draws=1/fp32", &job, &b, x, again);
    assert_memory_not_equal(again, g, sizeof g);
}

static int open_shape(void **state)
{
    (void)state;
    shape_init(&shape);
    shape_add(&shape, "x", 1, N, SHAPE_OTHER);
    shape_seal(&shape);
    return 0;
}

static int close_shape(void **state)
{
    (void)state;
    shape_free(&shape);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_on_average),
        cmocka_unit_test(one_direction),
    };
    return cmocka_run_group_tests_name("perturb", tests, open_shape, close_shape);
}
