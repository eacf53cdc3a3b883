// Models of clients' own: fedsa, of which A travels and B does not, and the scores that clients
// tell of what they have trained.
#include "fed/personal.h"

#include "federation.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { CLIENTS = 6, SAMPLED = 3 };

static struct federation fed;

static void begin(const char *a, const char *b, const char *c)
{
    const char *const keys[] = {"task.name=synth-qa",
                                "model.path=builtin",
                                "model.lora_rank=4",
                                "fed.clients=6",
                                "fed.clients_per_round=3",
                                "task.test=16",
                                "fed.local_steps=2",
                                "fed.batch=2",
                                "optim.lr=4e-3",
                                "fed.evaluate=personal",
                                "fed.eval_every=2",
                                "fed.rounds=3",
                                a,
                                b,
                                c};
    struct err err = {""};
    if (federation_open(&fed, ARRAY_LEN(keys), keys, &err))
        fail_msg("%s", err.text);
}

static const struct rec_round *last_round(void)
{
    return &fed.round[fed.n_rounds - 1];
}

// What the server has of one kind of matrix, and that times itself.
static double norm_sq(enum shape_kind kind)
{
    const struct shape *s = &fed.work.shape;
    double sum = 0;
    for (uint32_t i = 0; i < s->n_tensors; i++)
        for (size_t k = 0; s->tensors[i].kind == (uint32_t)kind &&
                           k < (size_t)s->tensors[i].rows * s->tensors[i].cols;
             k++) {
            double v = (double)fed.loop.server->global.theta[s->tensors[i].offset + k];
            sum += v * v;
        }
    return sum;
}

static void test_only_a_travels(void **state)
{
    (void)state;
    uint64_t hash[2];
    double score[2], loss[2];
    for (int k = 0; k < 2; k++) {
        begin("fed.method=fedsa-lora", k ? "net.sim_workers=1" : "net.sim_workers=3", "run.seed=1");
        federation_run(&fed);
        assert_true(server_done(fed.loop.server) && loop_clean(&fed.loop));
        const struct view_part *a = &fed.method.view.part[0];
        int64_t each = FRAME_HEADER_BYTES + 4 * (int64_t)a->shape.n_values;
        assert_true(a->shape.n_values < fed.work.shape.n_values);
        assert_true(last_round()->uplink_bytes >= SAMPLED * each);
        assert_true(last_round()->uplink_bytes < SAMPLED * (each + 64)); // fp32's own head
        assert_true(last_round()->downlink_bytes == SAMPLED * each);
        assert_true(fed_own_floats(fed.loop.server->env) == // B alone
                    fed.work.shape.n_values - a->shape.n_values);
        assert_true(norm_sq(SHAPE_LORA_B) == 0 && norm_sq(SHAPE_LORA_A) > 0);
        assert_true(fed.loop.server->personal != NULL);
        hash[k] = last_round()->adapter_xxh3;
        score[k] = last_round()->score;
        loss[k] = last_round()->eval_loss;
        federation_close(&fed);
    }
    assert_true(hash[0] == hash[1]);
    assert_true(score[0] == score[1] && loss[0] == loss[1] && isfinite(loss[0]));
}

// Alone, a client that keeps its B goes where one goes whose B the server keeps for it.
static void test_one_client_is_fedavg(void **state)
{
    (void)state;
    const char *const method[] = {"fed.method=fedsa/A@raw", "fed.method=fedavg/raw"};
    double a[2], loss[2];
    for (int k = 0; k < 2; k++) {
        begin(method[k], "fed.clients=1", "fed.clients_per_round=1");
        federation_run(&fed);
        a[k] = norm_sq(SHAPE_LORA_A);
        loss[k] = last_round()->eval_loss;
        assert_true((norm_sq(SHAPE_LORA_B) == 0) == (k == 0));
        federation_close(&fed);
    }
    assert_true(fabs(a[0] - a[1]) < 1e-5 * a[1]);
    assert_true(fabs(loss[0] - loss[1]) < 1e-4 * loss[1]);
    begin("fed.method=fedsa/A@raw", "fed.clients=1", "fed.clients_per_round=1");
    fed.cfg.fed.local_steps = 1; // another way ends elsewhere
    federation_run(&fed);
    assert_true(fabs(last_round()->eval_loss - loss[1]) > 1e-3 * loss[1]);
    federation_close(&fed);
}

static void test_the_score_is_the_mean_of_the_rounds_clients(void **state)
{
    (void)state;
    begin("fed.method=fedavg/fp32", "fed.dropout=0.3", "net.sim_workers=2");
    federation_run(&fed);
    const struct personal_score *p = fed.loop.server->personal->of;
    double score = 0, loss = 0;
    int n = 0;
    for (int i = 0; i < CLIENTS; i++)
        if (!isnan(p[i].loss)) {
            score += p[i].score;
            loss += p[i].loss;
            n++;
        }
    assert_true(n > 0 && n == last_round()->arrived);
    assert_true(last_round()->score == score / n && last_round()->eval_loss == loss / n);
    for (int i = 0; i < fed.n_rounds; i++) // every second round, the last, and before the first
        assert_true(isnan(fed.round[i].eval_loss) == (fed.round[i].version == 1));
    federation_close(&fed);
}

static void test_rows_of_nobody_are_left_out(void **state)
{
    (void)state;
    begin("fed.method=fedavg/fp32", "fed.dropout=0", "net.sim_workers=1");
    struct personal *p = fed.loop.server->personal;
    personal_begin(p, 4);
    static const char *const set[] = {"client 6",  "client -1", "client", "client x",
                                      "client 1x", "client  1", "all",    "client 99999999999999",
                                      "",          "client 0x1"};
    struct rec_eval row = {.value = 1, .version = 4};
    snprintf(row.metric, sizeof row.metric, "loss");
    for (size_t i = 0; i < ARRAY_LEN(set); i++) {
        memset(row.set, 'x', sizeof row.set);
        memcpy(row.set, set[i], strlen(set[i]) + 1);
        personal_take(p, &row);
    }
    snprintf(row.set, sizeof row.set, "client 5");
    row.value = NAN;
    personal_take(p, &row);
    row.value = 1;
    row.version++;
    personal_take(p, &row);
    memset(row.set, '1', sizeof row.set); // not ended
    personal_take(p, &row);
    for (int i = 0; i < CLIENTS; i++)
        assert_true(isnan(p->of[i].loss) && isnan(p->of[i].score));
    row.version--;
    snprintf(row.set, sizeof row.set, "client 5");
    personal_take(p, &row);
    assert_true(p->of[5].loss == 1);
    federation_close(&fed);
}

static void test_what_does_not_go_together_is_refused(void **state)
{
    (void)state;
    const char *const bad[][3] = {
        {"fed.method=fedsa-lora", "fed.evaluate=global", "fed.evaluate = personal"},
        {"fed.method=fedsa/fp32", "fed.evaluate=personal", "fedsa/A@fp32"},
        {"fed.method=fedavg/A@fp32", "fed.evaluate=personal", "view A"},
        {"fed.method=fedbuff/fp32", "fed.evaluate=personal", "synchronous"},
        {"fed.method=split/fp16", "fed.evaluate=personal", "whole adapter"},
        {"fed.method=fedavg/fp32", "fed.average=ema", "fed.average"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const char *const keys[] = {"task.name=synth-qa",
                                    "model.path=builtin",
                                    "task.test=4",
                                    "fed.evaluate=personal",
                                    bad[i][0],
                                    bad[i][1]};
        struct err err = {""};
        assert_int_equal(federation_open(&fed, ARRAY_LEN(keys), keys, &err), -1);
        if (!strstr(err.text, bad[i][2]))
            fail_msg("%s, %s: '%s' does not say '%s'", bad[i][0], bad[i][1], err.text, bad[i][2]);
        federation_close(&fed);
    }
    const char *const keys[] = {"task.name=quadratic", "optim.kind=sgd", "fed.evaluate=personal"};
    struct err err = {""};
    assert_int_equal(federation_open(&fed, ARRAY_LEN(keys), keys, &err), -1);
    assert_non_null(strstr(err.text, "quadratic"));
    federation_close(&fed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_a_travels),
        cmocka_unit_test(test_one_client_is_fedavg),
        cmocka_unit_test(test_the_score_is_the_mean_of_the_rounds_clients),
        cmocka_unit_test(test_rows_of_nobody_are_left_out),
        cmocka_unit_test(test_what_does_not_go_together_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
