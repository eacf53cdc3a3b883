// The loop: a federation from greeting to goodbye in one process, and how it ends early.
#include "federation.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct federation fed;

static const char *const small[] = {
    "task.name=quadratic", "task.features=8", "task.outputs=2", "task.samples=10",
    "optim.kind=sgd",      "optim.lr=0.01",   "fed.clients=7",  "fed.clients_per_round=4",
    "fed.rounds=12",       "trace.file=",     "net.link=fixed", "net.up_bps=1e6"};

static void begin(const char *key)
{
    const char *keys[ARRAY_LEN(small) + 1];
    struct err err = {""};
    memcpy(keys, small, sizeof small);
    keys[ARRAY_LEN(small)] = key;
    if (federation_open(&fed, ARRAY_LEN(keys), keys, &err))
        fail_msg("%s", err.text);
}

static int end(void **state)
{
    (void)state;
    federation_close(&fed);
    return mem_now(MEM_NET) == 0 && mem_now(MEM_SERVER) == 0 ? 0 : -1; // all came back
}

static void test_every_round_runs_and_everybody_leaves(void **state)
{
    (void)state;
    begin("net.sim_workers=3");
    assert_int_equal(fed.loop.n_endpoints, 4);
    federation_run(&fed);
    assert_true(server_done(fed.loop.server) && loop_clean(&fed.loop));
    for (int e = 1; e < 4; e++)
        assert_true(fed.loop.worker[e]->stop && fed.loop.server->peer[e].bye);
    assert_int_equal(fed.n_rounds, 13); // the score before anything is learned, too
    for (int i = 0; i < 13; i++) {
        assert_int_equal(fed.round[i].version, i);
        assert_int_equal(fed.round[i].arrived, i ? 4 : 0);
    }
    assert_true(fed.round[12].score < 0.9 * fed.round[0].score);
    assert_int_equal(fed.n_messages, 12 * 4);
}

static uint64_t adapter_of(const char *key)
{
    begin(key);
    federation_run(&fed);
    uint64_t hash = fed.round[fed.n_rounds - 1].adapter_xxh3;
    end(NULL);
    return hash;
}

static void test_workers_do_not_change_the_result(void **state)
{
    (void)state;
    uint64_t one = adapter_of("net.sim_workers=1");
    assert_true(adapter_of("net.sim_workers=2") == one);
    assert_true(adapter_of("net.sim_workers=7") == one);
}

// A frame of two vectors is two rows, which add up to the uplink; the server's control is the mean
// of the clients', as long as nothing is lost on the way.
static void test_control_variates_travel(void **state)
{
    (void)state;
    begin("fed.method=scaffold/fp32;fp16");
    federation_run(&fed);
    assert_true(server_done(fed.loop.server) && loop_clean(&fed.loop));
    assert_int_equal(fed.n_messages, 12 * 4 * 2);
    int64_t rows = 0, uplink = 0, up = 64 + 8 + 1 + 4 * 16, control = 1 + 2 * 16;
    for (int i = 0; i < fed.n_messages; i++) {
        const struct rec_message *m = &fed.message[i];
        assert_int_equal(m->vector, i % 2);
        assert_int_equal(m->status, MESSAGE_OK);
        assert_int_equal(m->header_bytes + m->directory_bytes + m->scales_bytes + m->indices_bytes +
                             m->tags_bytes + m->values_bytes,
                         m->frame_bytes);
        assert_true(m->frame_bytes >= (m->vector ? control - 1 : up - 1));
        rows += m->frame_bytes;
    }
    for (int i = 0; i < fed.n_rounds; i++)
        uplink += fed.round[i].uplink_bytes;
    assert_int_equal(rows, uplink);
    const struct global *g = &fed.loop.server->global;
    assert_true(g->n_state == g->n && g->state[0] != 0);
    uint64_t hash = global_hash(g);
    assert_int_equal(fed.round[1].downlink_bytes, 4 * (64 + 2 * 4 * 16)); // c goes down, too
    end(NULL);
    assert_true(hash != adapter_of("fed.method=fedavg/fp32"));
}

static struct { // of the round that a test looks at
    double steps, per_step[16];
    int n, most, least;
} nova;

static void nova_update(void *arg, uint32_t version, uint32_t client, const struct shape *s,
                        const float *x, const float *adapter)
{
    (void)adapter;
    const struct federation *f = arg;
    int steps = fed_steps(&f->cfg.fed, f->env.seed, version, client);
    assert_int_equal(s->n_values, 16);
    nova.n++;
    nova.steps += steps;
    nova.most = steps > nova.most ? steps : nova.most;
    nova.least = steps < nova.least ? steps : nova.least;
    for (int i = 0; i < 16; i++)
        nova.per_step[i] += (double)x[i] / steps;
}

// A round of unequal work: the mean update per step, walked as often as the clients did on average.
static void test_unequal_work_is_evened_out(void **state)
{
    const char *keys[ARRAY_LEN(small) + 4];
    struct err err = {""};
    nova.n = nova.most = 0;
    nova.least = 100;
    memcpy(keys, small, sizeof small);
    keys[ARRAY_LEN(small)] = "fed.method=fednova/fp32";
    keys[ARRAY_LEN(small) + 1] = "fed.rounds=1";
    keys[ARRAY_LEN(small) + 2] = "fed.local_steps_min=2";
    keys[ARRAY_LEN(small) + 3] = "fed.local_steps=9";
    federation_update = nova_update;
    assert_int_equal(federation_open(&fed, ARRAY_LEN(keys), keys, &err), 0);
    federation_run(&fed);
    assert_true(nova.n == 4 && nova.least >= 2 && nova.least < nova.most && nova.most <= 9);
    const float *theta = fed.loop.server->global.theta;
    for (int i = 0; i < 16; i++) {
        double want = nova.steps / 4 * nova.per_step[i] / 4;
        assert_true(want != 0 && fabs((double)theta[i] - want) < 1e-6 * (fabs(want) + 0.01));
    }
    federation_update = NULL;
    end(state);
}

static void test_stop_ends_with_the_round(void **state)
{
    (void)state;
    begin("net.sim_workers=2");
    fed.stop_after = 5;
    federation_run(&fed);
    assert_true(server_done(fed.loop.server) && loop_clean(&fed.loop));
    assert_int_equal(fed.loop.server->round, 5);
    assert_int_equal(fed.round[fed.n_rounds - 1].version, 5);
}

static void test_stop_before_anything_runs_nothing(void **state)
{
    (void)state;
    begin("net.sim_workers=2");
    fed.stop = 1;
    federation_run(&fed);
    assert_true(server_done(fed.loop.server));
    assert_int_equal(fed.loop.server->round, 0);
}

// Frames that a worker never sends, in every round but the first; whose client was not asked.
enum hostile {
    LATE_ROUND,
    NEXT_ROUND,
    OTHER_PROTOCOL,
    TOO_LONG,
    CUT_SHORT,
    OTHER_SHAPE,
    NOT_ASKED
};
enum { HOSTILE = NOT_ASKED + 1 };
static const struct {
    enum message_status want;
    const char *what;
} hostile[HOSTILE] = {
    [LATE_ROUND] = {MESSAGE_STALE, "an update of the round before"},
    [NEXT_ROUND] = {MESSAGE_STALE, "an update of a round to come"},
    [OTHER_PROTOCOL] = {MESSAGE_VERSION, "a frame of another protocol"},
    [TOO_LONG] = {MESSAGE_SIZE, "a frame longer than was agreed"},
    [CUT_SHORT] = {MESSAGE_SIZE, "a frame that is not as long as it says"},
    [OTHER_SHAPE] = {MESSAGE_SHAPE, "an update of another shape registry"},
    [NOT_ASKED] = {MESSAGE_UNEXPECTED, "an update that nobody asked for"},
};

static uint32_t idle_client(uint32_t round)
{
    uint32_t asked[16], client = 0;
    uint32_t n = (uint32_t)fed.cfg.fed.clients_per_round;
    fed_sample(fed.env.seed, round, (uint32_t)fed.cfg.fed.clients, n, 0, asked);
    for (uint32_t i = 0; i < n && asked[i] == client; i++)
        client++;
    return client;
}

static void post_hostile(enum hostile what, uint32_t round)
{
    struct transport *t = &fed.transport;
    uint64_t most = t->limits.max_payload_bytes;
    struct frame f = {.kind = FRAME_UPDATE,
                      .flags = FRAME_CHECKSUM,
                      .vectors = 1,
                      .version = round - (what == LATE_ROUND) + (what == NEXT_ROUND),
                      .client = idle_client(round),
                      .samples = 3,
                      .registry = fed.work.shape.hash + (what == OTHER_SHAPE),
                      .values = (uint32_t)fed.work.shape.n_values,
                      .payload_bytes = what == TOO_LONG ? most + 1 : 64};
    f.flags |= what == OTHER_PROTOCOL ? 0x80 : 0;
    struct netbuf *b = transport_buf(t, f.payload_bytes);
    memset(netbuf_payload(b), 1, f.payload_bytes);
    frame_seal(&f, b->bytes, netbuf_payload(b));
    b->len = FRAME_HEADER_BYTES + f.payload_bytes - (what == CUT_SHORT);
    t->row->send(t, fed_owner(f.client, 2), 0, b, transport_now(t));
}

static void send_hostile(void *arg, int32_t version)
{
    federation_commit(arg, version);
    for (int i = 0; version >= 1 && version < fed.cfg.fed.rounds && i < HOSTILE; i++)
        post_hostile((enum hostile)i, (uint32_t)version + 1);
}

static void test_hostile_frames_change_nothing(void **state)
{
    (void)state;
    uint64_t want = adapter_of("net.sim_workers=2");
    begin("net.sim_workers=2");
    fed.sink.commit = send_hostile;
    federation_run(&fed);
    assert_int_equal(fed.n_rounds, 13);
    assert_true(fed.round[12].adapter_xxh3 == want);
    int found[HOSTILE] = {0}, others = 0, good = 0;
    for (int i = 0; i < fed.n_messages; i++) {
        const struct rec_message *m = &fed.message[i];
        good += m->status == MESSAGE_OK;
        others += m->status != MESSAGE_OK;
        for (int k = 0; k < HOSTILE; k++)
            found[k] += m->status == (int32_t)hostile[k].want;
    }
    assert_int_equal(good, 12 * 4);
    assert_int_equal(others, 11 * HOSTILE);
    for (int k = 0; k < HOSTILE; k++) {
        bool twice = hostile[k].want == MESSAGE_STALE || hostile[k].want == MESSAGE_SIZE;
        if (found[k] != 11 * (1 + twice))
            fail_msg("%s: told apart %d times", hostile[k].what, found[k]);
    }
    assert_int_equal(fed.round[5].rejected, HOSTILE);
    end(NULL);
}

// How a process ends whose worker has heard nothing for an hour: from a server that is the process
// itself, or that lives elsewhere on this host.
static int status_of_silence(bool own)
{
    struct net_params net = {.timeout_s = 1e-3};
    struct fed_env env = {.net = &net};
    struct worker w = {.env = &env, .welcome = true};
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        hello_local(&w.server);
        if (!own)
            w.server.pid = getppid();
        w.last_heard_ns = clock_ns() - (int64_t)3600 * 1000000000;
        if (!freopen("/dev/null", "w", stderr))
            _exit(99);
        worker_timer(&w, clock_ns());
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_silence_ends_a_worker_unless_it_is_the_server_itself(void **state)
{
    (void)state;
    assert_int_equal(status_of_silence(false), STATUS_ENV);
    assert_int_equal(status_of_silence(true), 0);
}

static void test_what_cannot_open_leaves_nothing(void **state)
{
    (void)state;
    struct err err = {""};
    const char *const keys[] = {"task.name=quadratic", "optim.kind=sgd",
                                "trace.file=", "fed.method=split/fp16"};
    assert_int_equal(federation_open(&fed, ARRAY_LEN(keys), keys, &err), -1);
    assert_non_null(strstr(err.text, "no layers to cut"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_every_round_runs_and_everybody_leaves, end),
        cmocka_unit_test(test_workers_do_not_change_the_result),
        cmocka_unit_test(test_control_variates_travel),
        cmocka_unit_test(test_unequal_work_is_evened_out),
        cmocka_unit_test(test_hostile_frames_change_nothing),
        cmocka_unit_test_teardown(test_stop_ends_with_the_round, end),
        cmocka_unit_test_teardown(test_stop_before_anything_runs_nothing, end),
        cmocka_unit_test_teardown(test_what_cannot_open_leaves_nothing, end),
        cmocka_unit_test(test_silence_ends_a_worker_unless_it_is_the_server_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
