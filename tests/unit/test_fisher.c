// What clients of a language model measure for a codec: averages of squared gradients, the oracle,
// what is kept between rounds; and that a mask which keeps all tokens, or comes too late, changes
// nothing.
#include "base/mem.h"
#include "base/rng.h"
#include "fed/workload.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct fed_params fed;
static struct fisher_params fisher;
static struct task_params task;
static struct model_params model;
static struct optim_params optim;
static struct recorder rec;
static struct workload work;
static float *theta;
static size_t n;

// A client's round and what it left.
struct round {
    struct train_job job;
    float *delta, *sens, *grad;
};

static int setup(void **state)
{
    (void)state;
    opt_defaults(fed_options, fed_option_count, &fed);
    opt_defaults(task_options, task_option_count, &task);
    opt_defaults(model_options, model_option_count, &model);
    opt_defaults(optim_options, optim_option_count, &optim);
    task.client_min = task.client_max = 7;
    task.test = 4;
    snprintf(model.path, sizeof model.path, "builtin");
    model.lora_rank = 2;
    fed.clients = 3;
    fed.clients_per_round = 3; // the oracle takes 3 examples at a time: 3, 3, 1
    fed.batch = 2;
    recorder_init(&rec, 4096, 0, false);
    struct workload_env env = {.fed = &fed,
                               .fisher = &fisher,
                               .task = &task,
                               .model = &model,
                               .optim = &optim,
                               .threads = 2,
                               .seed = 5,
                               .worker = true};
    struct err err = {""};
    if (workload_open(&work, &env, &err)) {
        print_error("%s\n", err.text);
        return -1;
    }
    n = work.shape.n_values;
    theta = mem_alloc(MEM_ADAPTER, n * sizeof *theta);
    work.row->initial(&work, theta);
    struct rng r = rng_stream(5, RNG_TEST, 0, 0, 0);
    for (size_t i = 0; i < n; i++) // so that A and B both have gradients
        theta[i] += (float)(0.05 * (rng_unit(&r) - 0.5));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mem_free(theta);
    workload_close(&work);
    recorder_free(&rec);
    return 0;
}

static const struct token_source *source(const char *name)
{
    for (int i = 0; token_table[i]; i++)
        if (strcmp(token_table[i]->name, name) == 0)
            return token_table[i];
    fail_msg("no source %s", name);
    return NULL;
}

// One client's round under [fisher] as it stands.
static struct round train(const char *tokens, const char *opts, int32_t steps, uint32_t at,
                          float *kept)
{
    static struct token_opts o;
    struct err err;
    opt_defaults(token_options, token_option_count, &o);
    assert_int_equal(opt_set_list(token_options, token_option_count, &o, opts, &err), 0);
    struct round r = {.delta = mem_alloc(MEM_ADAPTER, n * sizeof(float)),
                      .sens = mem_alloc(MEM_ADAPTER, n * sizeof(float)),
                      .grad = mem_alloc(MEM_ADAPTER, n * sizeof(float))};
    r.job = (struct train_job){.client = 1,
                               .steps = steps,
                               .round = at,
                               .theta = theta,
                               .delta = r.delta,
                               .sens = r.sens,
                               .grad = r.grad,
                               .kept = kept,
                               .tokens = source(tokens),
                               .token_opt = &o};
    work.row->train(&work, &r.job, 1, &rec);
    assert_false(r.job.failed);
    return r;
}

static void round_free(struct round *r)
{
    mem_free(r->delta);
    mem_free(r->sens);
    mem_free(r->grad);
}

static void close_to(const float *a, const float *b, double scale, double tolerance)
{
    double diff = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        diff += pow((double)a[i] - scale * (double)b[i], 2);
        all += pow(scale * (double)b[i], 2);
    }
    assert_true(all > 0);
    assert_true(sqrt(diff / all) < tolerance);
}

static void use(int32_t accumulate, int32_t persist)
{
    fisher = (struct fisher_params){.rho = 0.9, .accumulate = accumulate, .persist = persist};
}

// One step: the average of one square is a tenth of it (19), the sum is it (20), and the gradient's
// average tells which gradient it was.
static void test_ema_and_sum_of_one_step(void **state)
{
    (void)state;
    use(FISHER_EMA, FED_STATE_RESET);
    struct round ema = train("uniform", "keep=0.5", 1, 1, NULL);
    use(FISHER_SUM, FED_STATE_RESET);
    struct round sum = train("uniform", "keep=0.5", 1, 1, NULL);
    close_to(ema.sens, sum.sens, 0.1, 1e-6);
    assert_memory_equal(ema.grad, sum.grad, n * sizeof(float));
    float *square = mem_alloc(MEM_ADAPTER, n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        square[i] = 100 * sum.grad[i] * sum.grad[i]; // grad = 0.1 g
    close_to(sum.sens, square, 1, 1e-5);
    mem_free(square);
    round_free(&ema);
    round_free(&sum);
}

// Two steps: ema = 0.9 * 0.1 g1^2 + 0.1 g2^2, sum = g1^2 + g2^2.
static void test_ema_and_sum_of_two_steps(void **state)
{
    (void)state;
    use(FISHER_SUM, FED_STATE_RESET);
    struct round one = train("uniform", "keep=0.5", 1, 1, NULL);
    struct round two = train("uniform", "keep=0.5", 2, 1, NULL);
    use(FISHER_EMA, FED_STATE_RESET);
    struct round ema = train("uniform", "keep=0.5", 2, 1, NULL);
    for (size_t i = 0; i < n; i++) {
        float second = two.sens[i] - one.sens[i];
        one.sens[i] = 0.09f * one.sens[i] + 0.1f * second;
    }
    close_to(ema.sens, one.sens, 1, 1e-5);
    round_free(&one);
    round_free(&two);
    round_free(&ema);
}

// Mean over the client's examples of the squared gradient of the whole answer's -log p, computed
// here one example at a time at the trained adapter.
static void test_oracle_is_the_mean_of_squared_gradients_by_example(void **state)
{
    (void)state;
    struct err err;
    struct dev dev;
    assert_int_equal(dev_open(&dev, 0, 1, &err), 0);
    struct model *m = model_open(&dev, &model, &err);
    struct task *t = task_open(&task, 5, fed.clients, &err);
    assert_true(m && t);
    use(FISHER_ORACLE, FED_STATE_RESET);
    struct round r = train("fisher", "keep=0.5,every=2", 3, 1, NULL);
    float *want = mem_alloc(MEM_ADAPTER, n * sizeof *want);
    float *grad = mem_alloc(MEM_ADAPTER, n * sizeof *grad);
    for (size_t i = 0; i < n; i++)
        r.delta[i] += theta[i];
    const struct examples *own = task_client(t, 1);
    assert_int_equal(own->n, 7);
    for (int32_t e = 0; e < own->n; e++) {
        const struct example *x = &own->v[e];
        int32_t targets[512], start[] = {0, x->n - 1};
        for (int32_t i = 0; i + 1 < x->n; i++)
            targets[i] = i + 1 >= x->answer ? x->tokens[i + 1] : -1;
        struct model_batch b = {
            .n_seqs = 1, .start = start, .tokens = x->tokens, .targets = targets, .sum = true};
        struct model_job job = {.batch = &b, .adapter = r.delta, .grad = grad};
        model_backward(m, &job, 1, NULL);
        for (size_t i = 0; i < n; i++)
            want[i] += grad[i] * grad[i] / 7;
    }
    close_to(r.sens, want, 1, 1e-4);
    // The source of that name: all tokens, whatever [fisher] says.
    use(FISHER_EMA, FED_STATE_RESET);
    struct round plain = train("uniform", "keep=0.5", 3, 1, NULL);
    struct round named = train("oracle", "keep=0.5,every=1", 3, 1, NULL);
    use(FISHER_ORACLE, FED_STATE_RESET);
    struct round same = train("uniform", "keep=0.5", 3, 1, NULL);
    assert_memory_equal(named.delta, plain.delta, n * sizeof(float));
    assert_memory_equal(named.grad, plain.grad, n * sizeof(float));
    assert_memory_equal(named.sens, same.sens, n * sizeof(float));
    struct round *all[] = {&r, &plain, &named, &same};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        round_free(all[i]);
    mem_free(want);
    mem_free(grad);
    task_close(t);
    model_close(m);
    dev_close(&dev);
}

static size_t kept_floats(const char *tokens)
{
    return work.row->fisher_floats(&work, source(tokens), true, true);
}

// Sums over two rounds are the first round's plus the second's own; token scores go on, too.
static void test_averages_are_kept_between_rounds(void **state)
{
    (void)state;
    use(FISHER_SUM, FED_STATE_KEEP);
    size_t keys = kept_floats("fisher") - kept_floats("random");
    assert_int_equal(kept_floats("uniform"), 2 * n);
    assert_int_equal(kept_floats("random"), 2 * n);
    assert_int_equal(kept_floats("oracle"), n); // anew each round; the gradient's average is not
    assert_true(keys >= 100);
    float *kept = mem_alloc(MEM_ADAPTER, kept_floats("fisher") * sizeof *kept);
    struct round first = train("fisher", "keep=0.5,every=4,key=answer", 4, 1, kept);
    assert_memory_equal(kept, first.sens, n * sizeof(float));
    assert_memory_equal(kept + n, first.grad, n * sizeof(float));
    float score = kept[2 * n]; // of an answer's first token, the refresh of step 4
    assert_true(score > 0);
    struct round fresh = train("fisher", "keep=0.5,every=4,key=answer", 4, 2, NULL);
    struct round second = train("fisher", "keep=0.5,every=4,key=answer", 4, 2, kept);
    // The mask waits for the round's own refresh: the same training.
    assert_memory_equal(fresh.delta, second.delta, n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        fresh.sens[i] += first.sens[i];
    close_to(second.sens, fresh.sens, 1, 1e-5);
    assert_memory_equal(kept, second.sens, n * sizeof(float));
    assert_true(kept[2 * n] > 0.9f * score);
    round_free(&first);
    round_free(&fresh);
    round_free(&second);
    mem_free(kept);
}

static void same_update(const char *tokens, const char *opts, int32_t steps, bool same)
{
    struct round all = train("uniform", "keep=0.5", steps, 1, NULL);
    struct round masked = train(tokens, opts, steps, 1, NULL);
    assert_true((memcmp(all.delta, masked.delta, n * sizeof(float)) == 0) == same);
    assert_true((memcmp(all.grad, masked.grad, n * sizeof(float)) == 0) == same);
    if (strcmp(tokens, "oracle") != 0) // whose sensitivities are others
        assert_true((memcmp(all.sens, masked.sens, n * sizeof(float)) == 0) == same);
    round_free(&all);
    round_free(&masked);
}

static void test_keep_one_is_uniform_to_the_bit(void **state)
{
    (void)state;
    use(FISHER_EMA, FED_STATE_RESET);
    for (int i = 0; token_table[i]; i++)
        same_update(token_table[i]->name, "keep=1,every=2,ratio=0", 6, true);
}

static void test_a_mask_acts_after_its_first_refresh(void **state)
{
    (void)state;
    use(FISHER_EMA, FED_STATE_RESET);
    for (int i = 0; token_table[i]; i++) {
        same_update(token_table[i]->name, "keep=0.3,every=5,ratio=0", 5, true);
        same_update(token_table[i]->name, "keep=0.3,every=5,ratio=0", 6, token_table[i]->all);
    }
}

// Spans of a round of 7 steps, refreshed every 3: what Fisher work costs is told apart.
static void test_costs_are_spans_of_their_own(void **state)
{
    (void)state;
    static struct rec_event e[4096];
    int count[STAGE_COUNT] = {0};
    use(FISHER_ORACLE, FED_STATE_RESET);
    recorder_drain(&rec, e, ARRAY_LEN(e));
    struct round r = train("fisher", "keep=0.5,every=3", 7, 1, NULL);
    size_t got = recorder_drain(&rec, e, ARRAY_LEN(e));
    for (size_t i = 0; i < got; i++)
        count[e[i].stage]++;
    assert_int_equal(count[STAGE_TRAIN], 1);
    assert_int_equal(count[STAGE_BACKWARD], 7);
    assert_int_equal(count[STAGE_MASK], 7);
    assert_int_equal(count[STAGE_EMBED_GRAD], 2); // steps 3 and 6 only
    assert_int_equal(count[STAGE_REFRESH], 2);
    assert_int_equal(count[STAGE_ACCUMULATE], 7); // the mean gradient
    assert_int_equal(count[STAGE_FISHER], 1);
    round_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ema_and_sum_of_one_step),
        cmocka_unit_test(test_ema_and_sum_of_two_steps),
        cmocka_unit_test(test_oracle_is_the_mean_of_squared_gradients_by_example),
        cmocka_unit_test(test_averages_are_kept_between_rounds),
        cmocka_unit_test(test_keep_one_is_uniform_to_the_bit),
        cmocka_unit_test(test_a_mask_acts_after_its_first_refresh),
        cmocka_unit_test(test_costs_are_spans_of_their_own),
    };
    return cmocka_run_group_tests_name("fisher", tests, setup, teardown);
}
