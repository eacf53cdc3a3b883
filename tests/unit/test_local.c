// Rules of local training: how they compose, and that one which does nothing changes nothing.
#include "base/mem.h"
#include "fed/local.h"
#include "fed/scheme.h"
#include "fed/workload.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define N 3

static void shape_of(struct shape *s)
{
    shape_init(s);
    shape_add(s, "X", 1, N, SHAPE_OTHER);
    shape_seal(s);
}

// The model runs with `times` x; opt: the factor.

static size_t scaled_bytes(const struct local_setup *s)
{
    return s->shape->n_values * sizeof(float);
}

static void scaled_expand(void *shared, const float *x, float *adapter)
{
    for (int i = 0; i < N; i++)
        adapter[i] = *(float *)shared * x[i];
}

static int scaled_open(const struct local_setup *s, const void *opt, void **shared, struct err *err)
{
    (void)s;
    float times = *(const float *)opt, *own = mem_alloc(MEM_OTHER, sizeof *own);
    *own = times;
    *shared = own;
    return times == 0 ? err_set(err, "no factor") : 0;
}

static const float *scaled_before(struct local *l, int32_t step, const float *x)
{
    (void)step;
    scaled_expand(l->shared, x, l->memory);
    return l->memory;
}

static void scaled_after(struct local *l, int32_t step, float *grad)
{
    (void)step;
    for (int i = 0; i < N; i++)
        grad[i] *= *(float *)l->shared;
}

static const struct local_rule scaled = {.open = scaled_open,
                                         .close = mem_free,
                                         .size_bytes = scaled_bytes,
                                         .expand = scaled_expand,
                                         .before = scaled_before,
                                         .after = scaled_after};

// The gradient has the step's number added.

static void numbered_after(struct local *l, int32_t step, float *grad)
{
    (void)l;
    for (int i = 0; i < N; i++)
        grad[i] += (float)step;
}

static const struct local_rule numbered = {.after = numbered_after};

// The update is what opt says.

static const float *fixed_end(struct local *l)
{
    return l->opt;
}

static const struct local_rule fixed = {.end = fixed_end};

static void test_rules_compose(void **state)
{
    (void)state;
    struct shape shape;
    struct err err;
    struct local_chain c;
    shape_of(&shape);
    const struct local_setup setup = {.shape = &shape, .seed = 1};
    const float two = 2, five = 5;
    const struct local_use use[] = {{&numbered, NULL}, {&scaled, &two}, {&scaled, &five}};
    assert_int_equal(local_open(&c, &setup, use, 3, 2, &err), 0);
    const float theta[N] = {1, 0, -1};
    float delta[N] = {3, 0.5f, -2};
    struct train_job job = {.theta = theta, .delta = delta};
    for (int i = 0; i < 2; i++) { // each client of the group has memory of its own
        local_begin(&c, i, &job);
        const float *x = local_before(&c, i, 7);
        assert_true(x[0] == 30 && x[1] == 5 && x[2] == -20);
        float grad[N] = {1, 2, 3}; // times 5, times 2, plus 7
        local_after(&c, i, 7, grad);
        assert_true(grad[0] == 17 && grad[1] == 27 && grad[2] == 37);
    }
    const float *adapter = local_expand(&c, theta);
    assert_true(adapter[0] == 10 && adapter[1] == 0 && adapter[2] == -10);
    local_end(&c, 1, &job);
    assert_true(delta[0] == 2 && delta[1] == 0.5f && delta[2] == -1);
    local_close(&c);
    shape_free(&shape);
}

static void test_a_rule_may_make_the_update(void **state)
{
    (void)state;
    struct shape shape;
    struct err err;
    struct local_chain c;
    shape_of(&shape);
    const struct local_setup setup = {.shape = &shape, .seed = 1};
    const float own[N] = {9, 8, 7}, theta[N] = {1, 1, 1};
    const struct local_use use[] = {{&fixed, own}, {&numbered, NULL}};
    float delta[N] = {3, 3, 3};
    struct train_job job = {.theta = theta, .delta = delta};
    assert_int_equal(local_open(&c, &setup, use, 2, 1, &err), 0);
    local_begin(&c, 0, &job);
    assert_ptr_equal(local_before(&c, 0, 0), delta); // nobody has another form
    local_end(&c, 0, &job);
    assert_memory_equal(delta, own, sizeof own);
    assert_ptr_equal(local_expand(&c, theta), theta);
    local_close(&c);
    shape_free(&shape);
}

static void test_a_rule_that_cannot_open_is_named(void **state)
{
    (void)state;
    struct shape shape;
    struct err err = {""};
    struct local_chain c;
    shape_of(&shape);
    const struct local_setup setup = {.shape = &shape, .seed = 1};
    const float two = 2, zero = 0;
    const struct local_use use[] = {{&scaled, &two}, {&scaled, &zero}, {&scaled, &two}};
    assert_int_equal(local_open(&c, &setup, use, 3, 1, &err), -1);
    assert_string_equal(err.text, "no factor");
    assert_int_equal(c.n, 0); // nothing is left open
    shape_free(&shape);
}

// mu = 0.5: the gradient has half the way from the round's model added.
static void test_proximal_by_hand(void **state)
{
    (void)state;
    const struct scheme *s = scheme_find("fedprox");
    struct shape shape;
    struct err err;
    struct local_chain c;
    double mu;
    shape_of(&shape);
    assert_int_equal(opt_set_list(s->options, s->n_options, &mu, "mu=0.5", &err), 0);
    const struct local_setup setup = {.shape = &shape, .seed = 1};
    const struct local_use use = {s->local, &mu};
    const float theta[N] = {1, 1, 1};
    float delta[N] = {3, 1.5f, 0}, grad[N] = {1, 2, 3};
    struct train_job job = {.theta = theta, .delta = delta};
    assert_int_equal(local_open(&c, &setup, &use, 1, 1, &err), 0);
    local_begin(&c, 0, &job);
    assert_ptr_equal(local_before(&c, 0, 0), delta);
    local_after(&c, 0, 0, grad);
    assert_true(grad[0] == 2 && grad[1] == 2.25f && grad[2] == 2.5f);
    local_close(&c);
    shape_free(&shape);
}

// Two steps with c_i = (1, 0, -1) and c = 1/2: g - c_i + c; then c_i is the mean of the gradients,
// its change goes up, and the server of 4 clients takes a quarter of it. What a view does not train
// keeps its control.
static void test_control_variates_by_hand(void **state)
{
    (void)state;
    const struct scheme *s = scheme_find("scaffold");
    struct shape shape;
    struct err err;
    struct local_chain c;
    shape_of(&shape);
    const struct local_setup setup = {.shape = &shape, .seed = 1};
    int32_t incr[4] = {0};
    const struct local_use use = {s->local, incr};
    const struct shape_range trained = {0, 2};
    const float theta[N] = {0}, down[N] = {0.5f, 0.5f, 0.5f};
    float delta[N] = {0}, own[N] = {1, 0, -1}, up[N] = {9, 9, 9};
    struct train_job job = {.steps = 2,
                            .theta = theta,
                            .delta = delta,
                            .own = {own},
                            .down = {down},
                            .up = {up},
                            .trained = &trained,
                            .n_trained = 1};
    assert_int_equal(local_open(&c, &setup, &use, 1, 1, &err), 0);
    for (int round = 0; round < 2; round++) { // nothing is left of an earlier one
        float first[N] = {1, 2, 3}, second[N] = {3, 2, 1};
        memcpy(own, (const float[N]){1, 0, -1}, sizeof own);
        local_begin(&c, 0, &job);
        local_after(&c, 0, 0, first);
        local_after(&c, 0, 1, second);
        local_end(&c, 0, &job);
        assert_true(first[0] == 0.5f && first[1] == 2.5f && first[2] == 4.5f);
        assert_true(second[0] == 2.5f && second[1] == 2.5f && second[2] == 2.5f);
    }
    assert_true(own[0] == 2 && own[1] == 2 && own[2] == -1);
    assert_true(up[0] == 1 && up[1] == 2 && up[2] == 0);
    float model[N] = {0}, control[N] = {1, 1, 1};
    const float mean[N] = {2, 4, 8}, *const ups[] = {up};
    const struct step step = {.theta = model,
                              .delta = mean,
                              .up = ups,
                              .state = control,
                              .n = N,
                              .range = {0, 2},
                              .lr = 0.5,
                              .arrived = 1,
                              .clients = 4};
    s->commit(incr, &step);
    assert_true(model[0] == 1 && model[1] == 2 && model[2] == 0);
    assert_true(control[0] == 1.25f && control[1] == 1.5f && control[2] == 1);
    local_close(&c);
    shape_free(&shape);
}

// Stepping under a rule that does nothing is quadratic_train to the bit, momentum and all.
static void test_no_rule_and_an_idle_rule_train_alike(void **state)
{
    (void)state;
    struct fed_params fed;
    struct task_params task;
    struct optim_params optim;
    opt_defaults(fed_options, fed_option_count, &fed);
    opt_defaults(task_options, task_option_count, &task);
    opt_defaults(optim_options, optim_option_count, &optim);
    assert_int_equal(
        opt_set_list(task_options, task_option_count, &task, "task.name=quadratic", NULL), 0);
    task.quadratic =
        (struct quadratic_params){.features = 7, .outputs = 3, .samples = 9, .het = 0.5};
    optim.kind = OPTIM_SGD;
    optim.lr = 0.01;
    optim.momentum = 0.9;
    struct workload_env env = {
        .fed = &fed, .task = &task, .optim = &optim, .threads = 1, .seed = 4, .worker = true};
    static const struct local_rule idle = {0};
    const struct local_use use = {&idle, NULL};
    struct workload w;
    struct recorder rec;
    struct err err = {""};
    float theta[21], plain[21], ruled[21];
    recorder_init(&rec, 64, 0, false);
    assert_int_equal(workload_open(&w, &env, &err), 0);
    for (int i = 0; i < 21; i++)
        theta[i] = 0.1f * (float)i;
    struct train_job job = {
        .client = 1, .round = 2, .steps = fed.local_steps, .theta = theta, .delta = plain};
    w.row->train(&w, &job, 1, &rec);
    double loss = job.loss;
    assert_int_equal(workload_prepare(&w, false, &use, 1, &err), 0);
    job.delta = ruled;
    w.row->train(&w, &job, 1, &rec);
    assert_memory_equal(plain, ruled, sizeof plain);
    assert_true(job.loss == loss && plain[0] != 0);
    workload_close(&w);
    recorder_free(&rec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules_compose),
        cmocka_unit_test(test_a_rule_may_make_the_update),
        cmocka_unit_test(test_a_rule_that_cannot_open_is_named),
        cmocka_unit_test(test_proximal_by_hand),
        cmocka_unit_test(test_control_variates_by_hand),
        cmocka_unit_test(test_no_rule_and_an_idle_rule_train_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
