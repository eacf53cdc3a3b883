// The side network: against PyTorch (tests/golden/make_side.py), against differences of its loss,
// and what side-tuning rests on: rows that do not see each other, targets that say enough.
#include "base/rng.h"
#include "model/side.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LAYERS = 2, CLASSES = 4, ROWS = 6, SCORED = 3, MANY = 2048 };
static const struct side_config small = {.layers = LAYERS,
                                         .width = 5,
                                         .rank = 3,
                                         .classes = CLASSES,
                                         .types = 2,
                                         .dim = {4, 5},
                                         .project = true};
static const int32_t scored[SCORED] = {1, 4, 5}, label[SCORED] = {3, 0, 2};
static const struct optim_params adamw = {.kind = OPTIM_ADAMW,
                                          .lr = 0.01,
                                          .beta1 = 0.9,
                                          .beta2 = 0.999,
                                          .eps = 1e-8,
                                          .weight_decay = 0.02};

static struct dev dev;

static int open_dev(void **state)
{
    struct err err;
    (void)state;
    return dev_open(&dev, 0, 1, &err);
}

static int close_dev(void **state)
{
    (void)state;
    dev_close(&dev);
    return 0;
}

static void noise(uint32_t stream, size_t n, float *x)
{
    struct rng r = rng_stream(7, RNG_TEST, stream, 0, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(0.5 * rng_normal(&r));
}

// x: (layers, rows, dim)
static void put_rows(struct side *s, const struct side_batch *b, const float *x)
{
    const struct side_config *c = side_config(s);
    size_t dim = (size_t)c->dim[b->type];
    for (int32_t l = 0; l < c->layers; l++) {
        float *to = side_input(s, b, l);
        for (int32_t r = 0; r < b->rows; r++, x += dim)
            memcpy(to + r * side_stride(s, b->type), x, dim * sizeof *x);
    }
}

// A block of the fixture; how many numbers it has.
static size_t block(const char *name, float *to)
{
    FILE *f = fopen("tests/golden/side.txt", "r");
    char at[32];
    size_t n = 0, found = 0;
    assert_non_null(f);
    while (!found && fscanf(f, "%31s %zu", at, &n) == 2)
        for (size_t i = 0; i < n; i++) {
            float v;
            assert_int_equal(fscanf(f, "%f", &v), 1);
            if (strcmp(at, name) == 0)
                to[i] = v, found = n;
        }
    fclose(f);
    assert_true(found > 0);
    return found;
}

static void close_to(const char *what, const float *x, const float *y, size_t n, double bound)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)x[i] - (double)y[i]) <= bound * (1 + fabs((double)y[i]))))
            fail_msg("%s, value %zu: %g is not %g", what, i, (double)x[i], (double)y[i]);
}

static void test_pytorch(void **state)
{
    static const char *const losses[] = {"l2", "ce"};
    static float x[MANY], target[MANY], want[MANY];
    char name[32];
    (void)state;
    block("x", x);
    block("target", target);
    for (int32_t k = 0; k < 2; k++) {
        struct side *s = side_open(&dev, &small);
        struct side_batch b = {.rows = ROWS, .scored = SCORED, .row = scored};
        struct side_answer a = {
            .loss = k ? SIDE_CE : SIDE_L2, .target = k ? NULL : target, .label = k ? label : NULL};
        const float *grad;
        side_init(s, 1);
        size_t n = side_shape(s)->n_values;
        assert_int_equal(block("weights", side_state(s)), n);
        put_rows(s, &b, x);
        double loss = side_gradient(s, &b, &a, &grad);
        snprintf(name, sizeof name, "%s.loss", losses[k]);
        block(name, want);
        float got = (float)loss;
        close_to(name, &got, want, 1, 1e-5);
        snprintf(name, sizeof name, "%s.y", losses[k]);
        block(name, want);
        for (int32_t r = 0; r < SCORED; r++)
            close_to(name, side_forward(s, &b) + r * side_out_stride(s), want + r * CLASSES,
                     CLASSES, 1e-5);
        snprintf(name, sizeof name, "%s.grad", losses[k]);
        assert_int_equal(block(name, want), n);
        close_to(name, grad, want, n, 1e-5);
        for (int i = 0; i < 3; i++)
            side_step(s, &b, &a, &adamw);
        assert_int_equal(*side_steps(s, 0), 3);
        snprintf(name, sizeof name, "%s.after", losses[k]);
        block(name, want);
        close_to(name, side_state(s), want, n, 1e-4);
        side_close(s);
    }
}

// A network in the midst of training: nothing in it is zero.
static struct side *trained(const struct side_config *c)
{
    struct side *s = side_open(&dev, c);
    side_init(s, 3);
    noise(1, side_shape(s)->n_values, side_state(s));
    return s;
}

// Central differences; alpha of the first layer has none.
static void test_differences(void **state)
{
    static float x[MANY], base[MANY], grad[MANY];
    (void)state;
    noise(2, MANY, x);
    noise(3, MANY, base);
    const struct side_answer answers[] = {
        {.loss = SIDE_L2, .target = base},
        {.loss = SIDE_L2, .label = label, .base = base},
        {.loss = SIDE_CE, .label = label, .base = base},
    };
    for (size_t k = 0; k < ARRAY_LEN(answers); k++)
        for (int32_t type = 0; type < 2; type++) {
            struct side *s = trained(&small);
            struct side_batch b = {.type = type, .rows = ROWS, .scored = SCORED, .row = scored};
            size_t n = side_shape(s)->n_values;
            const float *g;
            float *w = side_state(s);
            put_rows(s, &b, x);
            side_gradient(s, &b, &answers[k], &g);
            memcpy(grad, g, n * sizeof *grad);
            double worst = 0;
            for (size_t i = 0; i < n; i++) {
                const float was = w[i], h = 1e-3f;
                double up, down;
                w[i] = was + h;
                side_forward(s, &b);
                up = side_loss_of(s, &b, &answers[k]);
                w[i] = was - h;
                side_forward(s, &b);
                down = side_loss_of(s, &b, &answers[k]);
                double slope = (up - down) / ((double)(was + h) - (double)(was - h));
                double miss = fabs(slope - (double)grad[i]) / (0.1 + fabs((double)grad[i]));
                w[i] = was;
                worst = miss > worst ? miss : worst;
            }
            assert_true(worst < 5e-3);
            side_close(s);
        }
}

static void train(struct side *s, const struct side_batch *b, const float *x,
                  const struct side_answer *a, int steps)
{
    put_rows(s, b, x);
    for (int i = 0; i < steps; i++)
        assert_true(isfinite(side_step(s, b, a, &adamw)));
}

// The server learns as much from (1 at the label) - y_b as from the label and y_b.
static void test_differences_say_enough(void **state)
{
    static float x[MANY], base[SCORED * CLASSES], target[SCORED * CLASSES];
    (void)state;
    noise(2, MANY, x);
    noise(3, SCORED * CLASSES, base);
    for (int32_t i = 0; i < SCORED * CLASSES; i++)
        target[i] = (float)(label[i / CLASSES] == i % CLASSES) - base[i];
    struct side_batch b = {.rows = ROWS, .scored = SCORED, .row = scored};
    struct side_answer open = {.loss = SIDE_L2, .label = label, .base = base},
                       shut = {.loss = SIDE_L2, .target = target};
    struct side *s = trained(&small), *t = trained(&small);
    train(s, &b, x, &open, 20);
    train(t, &b, x, &shut, 20);
    assert_memory_equal(side_state(s), side_state(t), 3 * side_shape(s)->n_values * sizeof(float));
    side_close(s);
    side_close(t);
}

// Rows without a loss change nothing: what travels of a sequence may be its pivot alone.
static void test_pivot_is_enough(void **state)
{
    static float x[MANY], few[MANY], target[SCORED * CLASSES];
    const struct side_config c = {
        .layers = LAYERS, .width = 21, .rank = 4, .classes = CLASSES, .types = 1, .dim = {21}};
    (void)state;
    noise(2, MANY, x);
    noise(3, SCORED * CLASSES, target);
    for (int32_t l = 0; l < LAYERS; l++)
        for (int32_t i = 0; i < SCORED; i++)
            memcpy(few + (l * SCORED + i) * 21, x + (l * ROWS + scored[i]) * 21, 21 * sizeof *x);
    struct side_answer a = {.loss = SIDE_L2, .target = target};
    struct side_batch all = {.rows = ROWS, .scored = SCORED, .row = scored},
                      pivot = {.rows = SCORED, .scored = SCORED};
    struct side *s = trained(&c), *t = trained(&c);
    put_rows(s, &all, x);
    put_rows(t, &pivot, few);
    const float *y = side_forward(s, &all), *z = side_forward(t, &pivot);
    for (int32_t r = 0; r < SCORED; r++)
        assert_memory_equal(y + r * side_out_stride(s), z + r * side_out_stride(t),
                            CLASSES * sizeof *y);
    train(s, &all, x, &a, 20);
    train(t, &pivot, few, &a, 20);
    close_to("weights", side_state(s), side_state(t), side_shape(s)->n_values, 1e-5);
    side_close(s);
    side_close(t);
}

// One backbone as wide as the network: with a projection that is the identity it says the same.
static void test_identity(void **state)
{
    static float x[MANY];
    struct side_config c = {
        .layers = LAYERS, .width = 21, .rank = 4, .classes = CLASSES, .types = 1, .dim = {21}};
    struct side_batch b = {.rows = ROWS, .scored = ROWS};
    (void)state;
    noise(2, MANY, x);
    struct side *s = side_open(&dev, &c);
    c.project = true;
    struct side *t = side_open(&dev, &c);
    side_init(s, 5);
    side_init(t, 5);
    struct side *both[] = {s, t};
    for (int i = 0; i < 2; i++) { // the head, which is zero
        size_t behind = LAYERS + CLASSES + CLASSES * 21;
        noise(4, CLASSES * 21, side_state(both[i]) + side_shape(both[i])->n_values - behind);
    }
    put_rows(s, &b, x);
    put_rows(t, &b, x);
    const float *y = side_forward(s, &b), *z = side_forward(t, &b);
    for (int32_t r = 0; r < ROWS; r++)
        assert_memory_equal(y + r * side_out_stride(s), z + r * side_out_stride(t),
                            CLASSES * sizeof *y);
    side_close(s);
    side_close(t);
}

// Rows of several backbones in one batch: what each says alone, the gradients of both, and in a
// step the projection of one that is not there stays as it is.
static void test_mixed(void **state)
{
    static float x[MANY], y[MANY], target[MANY], one[MANY], two[MANY], was[MANY];
    const int32_t of[2] = {2, 3};
    struct side_batch a = {.type = 0, .rows = 2, .scored = 2},
                      b = {.type = 1, .rows = 3, .scored = 3},
                      both = {.rows = 5, .scored = 5, .of = of};
    struct side_answer wa = {.target = target}, wb = {.target = target + 2 * CLASSES}, w = wa;
    const float *g;
    (void)state;
    noise(2, MANY, x);
    noise(5, MANY, y);
    noise(3, MANY, target);
    struct side *s = trained(&small);
    size_t n = side_shape(s)->n_values;
    put_rows(s, &a, x);
    double la = side_gradient(s, &a, &wa, &g);
    memcpy(one, g, n * sizeof *g);
    put_rows(s, &b, y);
    double lb = side_gradient(s, &b, &wb, &g);
    memcpy(two, g, n * sizeof *g);
    for (int32_t l = 0; l < LAYERS; l++) {
        float *to = side_input(s, &both, l);
        for (int32_t r = 0; r < 2; r++)
            memcpy(to + r * side_stride(s, 0), x + (l * 2 + r) * 4, 4 * sizeof *x);
        for (int32_t r = 0; r < 3; r++)
            memcpy(to + (2 + r) * side_stride(s, 1), y + (l * 3 + r) * 5, 5 * sizeof *y);
    }
    double l = side_gradient(s, &both, &w, &g);
    assert_true(fabs(l - (2 * la + 3 * lb) / 5) < 1e-6);
    for (size_t i = 0; i < n; i++)
        one[i] = (2 * one[i] + 3 * two[i]) / 5;
    close_to("gradient of both", g, one, n, 1e-5);
    for (int32_t i = 0; i < side_counts(s); i++)
        assert_int_equal(*side_steps(s, i), 0);
    put_rows(s, &b, y);
    memcpy(was, side_state(s), n * sizeof *was);
    side_step(s, &b, &wb, &adamw);
    size_t at = 3 * 5 + 5 * 3; // of the first layer, behind down and up
    assert_memory_equal(was + at, side_state(s) + at, 4 * 5 * sizeof *was);
    assert_true(memcmp(was + at + 4 * 5, side_state(s) + at + 4 * 5, 5 * 5 * sizeof *was) != 0);
    assert_true(memcmp(was, side_state(s), at * sizeof *was) != 0);
    assert_int_equal(*side_steps(s, 0), 1);
    assert_int_equal(*side_steps(s, 1), 0);
    assert_int_equal(*side_steps(s, 2), 1);
    side_close(s);
}

// At the start it adds nothing, and a loss that is no number moves nothing.
static void test_start_and_broken(void **state)
{
    static float x[MANY], was[MANY];
    struct side_batch b = {.rows = ROWS, .scored = SCORED, .row = scored};
    struct side_answer a = {.loss = SIDE_CE, .label = label};
    int32_t best[SCORED];
    float base[SCORED * CLASSES] = {0, 2, 1, 2, 5, 0, 0, 5, -3, -2, -1, -1};
    (void)state;
    noise(2, MANY, x);
    struct side *s = side_open(&dev, &small);
    side_init(s, 5);
    put_rows(s, &b, x);
    const float *y = side_forward(s, &b);
    for (int32_t r = 0; r < SCORED; r++)
        for (int32_t k = 0; k < CLASSES; k++)
            assert_true(y[r * side_out_stride(s) + k] == 0);
    side_best(s, &b, base, best);
    assert_int_equal(best[0], 1);
    assert_int_equal(best[1], 0);
    assert_int_equal(best[2], 2);
    x[0] = INFINITY;
    noise(1, side_shape(s)->n_values, side_state(s));
    memcpy(was, side_state(s), side_shape(s)->n_values * sizeof *was);
    b.row = NULL;
    b.scored = b.rows = SCORED;
    put_rows(s, &b, x);
    assert_true(isnan(side_step(s, &b, &a, &adamw)));
    assert_memory_equal(was, side_state(s), side_shape(s)->n_values * sizeof *was);
    assert_int_equal(*side_steps(s, 0), 0);
    side_close(s);
}

// With norm a row comes in with a mean square of 1, whatever its size; without as it is.
static void test_norm(void **state)
{
    (void)state;
    for (int32_t norm = 0; norm < 2; norm++) {
        struct side_config c = small;
        float x[2][4] = {{3, -4, 12, 0}, {300, -400, 1200, 0}}, y[2][4];
        c.norm = norm;
        struct side *s = side_open(&dev, &c);
        for (int32_t r = 0; r < 2; r++)
            side_put_row(s, 0, x[r], y[r]);
        for (int32_t k = 0; k < 4; k++) { // a mean square of 42.25
            assert_float_equal(y[0][k], norm ? x[0][k] / 6.5f : x[0][k], 1e-6);
            assert_float_equal(y[1][k], norm ? y[0][k] : x[1][k], 1e-6);
        }
        side_close(s);
    }
}

static void test_refused(void **state)
{
    struct err err;
    struct side_config c = small;
    (void)state;
    assert_int_equal(side_check(&c, &err), 0);
    c.project = false;
    assert_int_equal(side_check(&c, &err), -1);
    assert_non_null(strstr(err.text, "projection"));
    c = small;
    c.types = SIDE_TYPES + 1;
    assert_int_equal(side_check(&c, &err), -1);
    c = small;
    c.layers = 0;
    assert_int_equal(side_check(&c, &err), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pytorch),
        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_differences_say_enough),
        cmocka_unit_test(test_pivot_is_enough),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_start_and_broken),
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, open_dev, close_dev);
}
