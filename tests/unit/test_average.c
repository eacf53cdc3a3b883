// What is evaluated where fed.average says so: averages of the versions that runs of so many rounds
// end with, made here one after another; and coded versions, of which the server keeps the whole.
#include "federation.h"

#include "base/rng.h"
#include "fed/downlink.h"
#include "fed/turn.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { ROUNDS = 6, VALUES = 16 };

static struct federation fed;

static void begin(int n, const char *const *more)
{
    const char *keys[24] = {"task.name=quadratic", "task.features=8",        "task.outputs=2",
                            "task.samples=10",     "optim.kind=sgd",         "optim.lr=0.01",
                            "fed.clients=7",       "fed.clients_per_round=4"};
    struct err err = {""};
    for (int i = 0; i < n; i++)
        keys[8 + i] = more[i];
    if (federation_open(&fed, 8 + n, keys, &err))
        fail_msg("%s", err.text);
    assert_int_equal(fed.work.shape.n_values, VALUES);
}

static void end(void)
{
    federation_update = NULL;
    federation_close(&fed);
    assert_true(mem_now(MEM_SERVER) == 0 && mem_now(MEM_NET) == 0);
}

// version[r] is that after round r; the rounds before the last do not know how many there are.
static void versions(const char *method, float version[][VALUES])
{
    for (int r = 1; r <= ROUNDS; r++) {
        char rounds[32];
        snprintf(rounds, sizeof rounds, "fed.rounds=%d", r);
        begin(2, (const char *const[]){method, rounds});
        federation_run(&fed);
        memcpy(version[r], fed.loop.server->global.theta, sizeof version[r]);
        end();
    }
}

static void check_score(const float *average)
{
    struct eval_result want = {0};
    const struct rec_round *last = &fed.round[fed.n_rounds - 1];
    workload_evaluate(&fed.work, average, &want);
    assert_true(fabs(last->score - want.score) < 1e-6 * want.score);
}

static void test_averages_are_what_is_evaluated(void **state)
{
    (void)state;
    const char *const methods[] = {"fed.method=fedavg/fp32", "fed.method=scaffold/qsgd",
                                   "fed.method=fedadam/topk:ratio=0.2+ef"};
    for (size_t m = 0; m < ARRAY_LEN(methods); m++) {
        static float version[ROUNDS + 1][VALUES];
        float ema[VALUES], last[VALUES] = {0};
        versions(methods[m], version);
        memcpy(ema, version[1], sizeof ema);
        for (int r = 2; r <= ROUNDS; r++)
            for (int i = 0; i < VALUES; i++) {
                ema[i] = 0.7f * ema[i] + 0.3f * version[r][i];
                last[i] += r > ROUNDS - 4 ? version[r][i] / 4 : 0;
            }
        const char *const rules[][2] = {{"fed.average=ema", "fed.average_decay=0.7"},
                                        {"fed.average=last", "fed.average_last=4"},
                                        {"fed.average=none", "fed.average_last=4"}};
        const float *want[] = {ema, last, version[ROUNDS]};
        for (int k = 0; k < 3; k++) {
            begin(4, (const char *const[]){methods[m], "fed.rounds=6", rules[k][0], rules[k][1]});
            federation_run(&fed);
            const struct global *g = &fed.loop.server->global;
            for (int i = 0; i < VALUES; i++)
                assert_true(fabsf(global_evaluated(g)[i] - want[k][i]) < 1e-5f);
            assert_memory_equal(g->theta, version[ROUNDS], sizeof version[0]);
            check_score(want[k]);
            end();
        }
    }
}

// Before the last rounds begin there is nothing to average.
static void test_the_version_counts_until_then(void **state)
{
    (void)state;
    begin(3, (const char *const[]){"fed.rounds=6", "fed.average=last", "fed.average_last=1"});
    fed.stop_after = 3;
    federation_run(&fed);
    assert_true(global_evaluated(&fed.loop.server->global) == fed.loop.server->global.theta);
    check_score(fed.loop.server->global.theta);
    end();
}

// FLASC: clients begin with the largest values of the version, and what they learn goes into the
// whole one.
static float begun[VALUES], sum[VALUES], weight;
static uint32_t last_round;

static void watch(void *arg, uint32_t version, uint32_t client, const struct shape *s,
                  const float *x, const float *adapter)
{
    (void)arg;
    (void)client;
    (void)s;
    if (version != last_round)
        return;
    for (int i = 0; i < VALUES; i++) {
        begun[i] = adapter[i];
        sum[i] += x[i];
    }
    weight += 1;
}

static void test_versions_go_down_sparse_and_stay_whole(void **state)
{
    (void)state;
    static float version[2][VALUES];
    for (last_round = 1; last_round <= 4; last_round++) {
        char rounds[32];
        snprintf(rounds, sizeof rounds, "fed.rounds=%u", last_round);
        memset(sum, 0, sizeof sum);
        weight = 0;
        federation_update = watch;
        begin(5, (const char *const[]){rounds, "fed.weights=equal", "fed.server_lr=0.5",
                                       "fed.downlink=topk:ratio=0.25,value=fp32",
                                       "fed.downlink_of=version"});
        federation_run(&fed);
        int kept = 0;
        memcpy(version[last_round % 2], fed.loop.server->global.theta, sizeof version[0]);
        float *was = version[1 - last_round % 2], least = INFINITY, most = 0;
        for (int i = 0; i < VALUES && last_round > 1; i++) {
            kept += begun[i] != 0;
            assert_true(begun[i] == 0 || begun[i] == was[i]);
            if (begun[i] != 0)
                least = fminf(least, fabsf(was[i]));
            else
                most = fmaxf(most, fabsf(was[i]));
        }
        assert_true(last_round == 1 || (kept == VALUES / 4 && least >= most));
        for (int i = 0; i < VALUES; i++)
            assert_true(fabsf(version[last_round % 2][i] - (last_round > 1 ? was[i] : 0) -
                              0.5f * sum[i] / weight) < 1e-5f);
        // All are sent the message, however much they missed: shorter than the version.
        const struct rec_round *r = &fed.round[fed.n_rounds - 1];
        assert_true(r->downlink_bytes % 4 == 0 && r->downlink_bytes / 4 < 64 + 4 * VALUES);
        end();
    }
}

static void test_any_workers_come_to_the_same(void **state)
{
    (void)state;
    uint64_t hash[2];
    int64_t bytes[2];
    for (int k = 0; k < 2; k++) {
        begin(6, (const char *const[]){"fed.method=fedadam/topk:ratio=0.25+ef", "fed.rounds=8",
                                       "fed.downlink=topk:ratio=0.25", "fed.downlink_of=version",
                                       "fed.average=ema",
                                       k ? "net.sim_workers=1" : "net.sim_workers=4"});
        federation_run(&fed);
        hash[k] = fed.round[fed.n_rounds - 1].adapter_xxh3;
        bytes[k] = fed.loop.server->totals.downlink_bytes;
        end();
    }
    assert_true(hash[0] == hash[1] && bytes[0] == bytes[1]);
}

// Nothing is trained on that is not a whole message.
static void test_damaged_versions_are_refused(void **state)
{
    (void)state;
    begin(4, (const char *const[]){"fed.rounds=3", "fed.downlink=topk:ratio=0.25,value=fp32",
                                   "fed.downlink_of=version", "net.sim_workers=1"});
    federation_run(&fed);
    struct clients *c = &fed.loop.worker[1]->clients;
    struct downlink *d = fed.loop.server->down;
    downlink_begin(d, &fed.loop.server->global, 4);
    size_t len = (size_t)downlink_peer_bytes(d, 1), refused = 0, kept = 0;
    uint8_t good[256], bad[256];
    struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
    assert_true(len < sizeof good && !downlink_whole(d, 1));
    downlink_put(d, 1, good);
    for (int i = 0; i < 4000; i++) {
        struct frame f = {.version = 4,
                          .payload_bytes = i % 3 ? len : rng_below(&r, (uint32_t)len)};
        memcpy(bad, good, len);
        for (int k = 0; k < 2; k++)
            bad[rng_below(&r, (uint32_t)len)] ^= (uint8_t)(1u << rng_below(&r, 8));
        refused += !clients_take_model(c, &f, bad);
    }
    assert_true(refused > 1500);
    struct frame f = {.version = 4, .payload_bytes = len};
    assert_true(clients_take_model(c, &f, good));
    for (int i = 0; i < VALUES; i++) {
        assert_true(c->theta[i] == 0 || c->theta[i] == fed.loop.server->global.theta[i]);
        kept += c->theta[i] != 0;
    }
    assert_int_equal(kept, VALUES / 4);
    end();
}

static void test_what_does_not_go_together_is_named(void **state)
{
    (void)state;
    const char *const bad[][3] = {
        {"fed.method=fedavg/fp32", "fed.downlink=", "there is no codec for it"},
        {"fed.method=fedavg/fp32", "fed.downlink=topk+ef", "without state"},
        {"fed.method=scaffold/fp32", "fed.downlink=topk", "sends nothing else down"}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const char *const keys[] = {"task.name=quadratic", "optim.kind=sgd", bad[i][0], bad[i][1],
                                    "fed.downlink_of=version"};
        struct err err = {""};
        assert_int_equal(federation_open(&fed, ARRAY_LEN(keys), keys, &err), -1);
        if (!strstr(err.text, bad[i][2]))
            fail_msg("'%s' has no '%s'", err.text, bad[i][2]);
        federation_close(&fed);
    }
}

// A subspace that is everything is no subspace: Subspace-SCAFFOLD is SCAFFOLD then.
static void test_a_basis_is_orthonormal(void **state)
{
    (void)state;
    enum { N = 100 };
    static float q[N * N], other[N * N];
    turn_draw(1, N, q);
    turn_draw(2, N, other);
    assert_memory_not_equal(q, other, sizeof q);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double along = 0;
            for (int k = 0; k < N; k++)
                along += (double)q[i * N + k] * (double)q[j * N + k];
            assert_true(fabs(along - (i == j)) < 1e-6);
        }
}

// Turned by a basis, all of it trained, SGD goes the same way; of a part only its directions do.
static void test_any_basis_of_all_is_scaffold(void **state)
{
    (void)state;
    float plain[VALUES], turned[VALUES], before[VALUES];
    begin(2, (const char *const[]){"fed.method=scaffold/fp32", "fed.rounds=12"});
    federation_run(&fed);
    memcpy(plain, fed.loop.server->global.theta, sizeof plain);
    end();
    begin(2, (const char *const[]){"fed.method=scaffold/gauss:parts=1@fp32", "fed.rounds=12"});
    federation_run(&fed);
    memcpy(turned, local_expand(&fed.work.rules, fed.loop.server->global.theta), sizeof turned);
    assert_memory_not_equal(turned, fed.loop.server->global.theta, sizeof turned);
    end();
    for (int i = 0; i < VALUES; i++)
        assert_true(fabsf(plain[i] - turned[i]) < 1e-5f);
    for (int rounds = 3; rounds <= 4; rounds++) {
        char key[32];
        snprintf(key, sizeof key, "fed.rounds=%d", rounds);
        begin(2, (const char *const[]){"fed.method=scaffold/gauss:parts=4@fp32", key});
        federation_run(&fed);
        const float *now = fed.loop.server->global.theta;
        const struct view_part *p = &fed.method.view.part[view_turn(&fed.method.view, 0, 4)];
        int same = 0, inside = 0;
        for (int i = 0; i < VALUES && rounds == 4; i++)
            same += now[i] == before[i];
        for (int r = 0; r < p->n_ranges && rounds == 4; r++)
            for (size_t i = p->range[r].from; i < p->range[r].to; i++)
                inside += now[i] != before[i];
        assert_true(rounds == 3 || (inside == VALUES / 4 && same == VALUES - inside));
        memcpy(before, now, sizeof before);
        end();
    }
}

// Who sat out replays what changed in the subspaces since, or is sent the version: the same way,
// with less.
static void test_who_sat_out_catches_up(void **state)
{
    (void)state;
    const char *const methods[] = {"fed.method=ssf",
                                   "fed.method=scaffold:control=replace/gauss:parts=4@fp32",
                                   "fed.method=scaffold:backfill=off/sub:parts=3,stay=2@fp32"};
    for (size_t m = 0; m < ARRAY_LEN(methods); m++) {
        uint64_t hash[2];
        int64_t bytes[2];
        for (int k = 0; k < 2; k++) {
            begin(3, (const char *const[]){methods[m], "fed.rounds=30",
                                           k ? "fed.downlink=fp32" : "fed.downlink="});
            federation_run(&fed);
            hash[k] = fed.round[fed.n_rounds - 1].adapter_xxh3;
            bytes[k] = fed.loop.server->totals.downlink_bytes;
            end();
        }
        assert_true(hash[0] == hash[1] && bytes[1] < bytes[0]);
    }
}

static void test_a_subspace_of_all_is_scaffold(void **state)
{
    (void)state;
    const char *const methods[] = {"fed.method=scaffold:control=replace/fp32",
                                   "fed.method=scaffold:control=replace/sub:parts=1@fp32",
                                   "fed.method=scaffold:control=replace/sub:parts=2@fp32"};
    float version[3][VALUES];
    for (int k = 0; k < 3; k++) {
        begin(2, (const char *const[]){methods[k], "fed.rounds=12"});
        federation_run(&fed);
        memcpy(version[k], fed.loop.server->global.theta, sizeof version[k]);
        end();
    }
    for (int i = 0; i < VALUES; i++)
        assert_true(fabsf(version[0][i] - version[1][i]) < 1e-6f);
    assert_memory_not_equal(version[0], version[2], sizeof version[0]);
}

// A codec that asks for sensitivities gets what was walked: one step is -lr g, and later ones count
// by the average; what is kept goes on from the round before.
static void test_sensitivities_are_squared_steps(void **state)
{
    (void)state;
    float theta[VALUES] = {0}, delta[2][VALUES], sens[VALUES], kept[VALUES] = {0};
    begin(3, (const char *const[]){"fed.method=fedavg/fstq", "fisher.rho=0.75",
                                   "fisher.persist=keep"});
    assert_int_equal(fed.work.row->fisher_floats(&fed.work, token_table[0], true, false), VALUES);
    for (int32_t steps = 1; steps <= 2; steps++) {
        struct train_job job = {.client = 3,
                                .round = 1,
                                .theta = theta,
                                .delta = delta[steps - 1],
                                .sens = sens,
                                .kept = steps == 2 ? kept : NULL,
                                .tokens = token_table[0],
                                .steps = steps};
        fed.work.row->train(&fed.work, &job, 1, &fed.rec);
        for (int i = 0; i < VALUES; i++) {
            double first = (double)delta[0][i] / 0.01;
            double second = ((double)delta[1][i] - (double)delta[0][i]) / 0.01;
            double want = 0.25 * first * first;
            want = steps == 1 ? want : 0.75 * want + 0.25 * second * second;
            assert_true(fabs((double)sens[i] - want) < 1e-3 * want + 1e-6);
        }
    }
    assert_memory_equal(kept, sens, sizeof sens);
    struct train_job job = {.client = 3,
                            .round = 1,
                            .theta = theta,
                            .delta = delta[0],
                            .sens = sens,
                            .kept = kept,
                            .tokens = token_table[0],
                            .steps = 1};
    fed.work.row->train(&fed.work, &job, 1, &fed.rec);
    for (int i = 0; i < VALUES; i++)
        assert_true(sens[i] > 0 && kept[i] == sens[i]);
    end();
    struct err err = {""};
    const char *const keys[] = {"task.name=quadratic", "optim.kind=sgd",
                                "fed.method=fedavg~random:keep=0.5/fp32"};
    assert_int_equal(federation_open(&fed, ARRAY_LEN(keys), keys, &err), -1);
    assert_non_null(strstr(err.text, "no tokens"));
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_averages_are_what_is_evaluated),
        cmocka_unit_test(test_the_version_counts_until_then),
        cmocka_unit_test(test_versions_go_down_sparse_and_stay_whole),
        cmocka_unit_test(test_any_workers_come_to_the_same),
        cmocka_unit_test(test_damaged_versions_are_refused),
        cmocka_unit_test(test_what_does_not_go_together_is_named),
        cmocka_unit_test(test_a_basis_is_orthonormal),
        cmocka_unit_test(test_any_basis_of_all_is_scaffold),
        cmocka_unit_test(test_who_sat_out_catches_up),
        cmocka_unit_test(test_sensitivities_are_squared_steps),
        cmocka_unit_test(test_a_subspace_of_all_is_scaffold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
