// That a scheme can run without rounds: handlers of its own, in a file of their own. Its server
// makes a version of every two updates, takes those of any older version, and gives a client new
// work as soon as it is done; its clients send two messages each time.
#include "federation.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { CLIENTS = 5, PER_TASK = 2, PER_VERSION = 2, VERSIONS = 30 };

struct async {
    int sent[CLIENTS]; // messages of a client's task that have come
    int taken, lag_most, lag_sum;
};

static void async_open(struct server *s)
{
    s->rounds = mem_alloc(MEM_SERVER, sizeof(struct async));
}

static void async_close(struct server *s)
{
    mem_free(s->rounds);
}

// The model is the task; the frame says for whom.
static void dispatch(struct server *s, uint32_t client)
{
    struct netbuf *b = server_pack_model(s, s->global.theta);
    struct frame f = {.kind = FRAME_MODEL,
                      .client = client,
                      .vectors = 1,
                      .values = (uint32_t)fed_down_floats(s->env),
                      .payload_bytes = 4 * fed_down_floats(s->env)};
    server_send(s, fed_owner(client, s->workers), &f, b, transport_now(s->env->transport), NULL);
    transport_unref(s->env->transport, b);
}

static void async_begin(struct server *s, int64_t now)
{
    s->deadline_ns = now + (int64_t)1e15;
    s->round = 1;
    global_begin(&s->global, s->round);
    for (uint32_t c = 0; c < CLIENTS; c++)
        dispatch(s, c);
}

static void next_version(struct server *s)
{
    double norm;
    assert_true(global_commit(&s->global, s->round, 1, &norm));
    s->row = (struct rec_round){.version = (int32_t)s->round,
                                .arrived = PER_VERSION,
                                .adapter_xxh3 = global_hash(&s->global)};
    s->sink->rows(s->sink->arg, REC_ROUNDS, &s->row, 1);
    if (s->round < VERSIONS)
        global_begin(&s->global, ++s->round);
    else
        server_finish(s);
}

static void async_message(struct server *s, const struct net_msg *m)
{
    struct async *a = s->rounds;
    struct err err;
    if (m->verdict != FRAME_GOOD || m->frame.kind != FRAME_UPDATE)
        return;
    int lag = (int)(s->round - m->frame.version);
    a->lag_sum += lag;
    a->lag_most = lag > a->lag_most ? lag : a->lag_most;
    a->taken++;
    struct update u = {.client = m->frame.client,
                       .version = m->frame.version,
                       .bytes = m->payload,
                       .len = m->frame.payload_bytes,
                       .weight = 1,
                       .scale = 1,
                       .loss = (double)m->frame.loss};
    if (global_add(&s->global, &u, &err))
        fail_msg("%s", err.text);
    if (s->global.arrived == PER_VERSION)
        next_version(s);
    if (++a->sent[m->frame.client] == PER_TASK && s->phase == SERVER_ROUNDS) {
        a->sent[m->frame.client] = 0;
        dispatch(s, m->frame.client);
    }
}

static void async_timer(struct server *s, int64_t now)
{
    (void)s;
    (void)now;
}

static struct rec_message *no_row(struct server *s, const struct rec_message *report)
{
    (void)s;
    (void)report;
    return NULL;
}

static const struct server_handlers server_test = {.name = "async",
                                                   .open = async_open,
                                                   .close = async_close,
                                                   .begin = async_begin,
                                                   .message = async_message,
                                                   .timer = async_timer,
                                                   .row = no_row};

// The worker: versions wait side by side, one a client.

struct waiting {
    int n;
    struct frame frame[CLIENTS];
    struct netbuf *model[CLIENTS];
};

static void work_open(struct worker *w)
{
    w->rounds = mem_alloc(MEM_OTHER, sizeof(struct waiting));
}

static void work_close(struct worker *w)
{
    struct waiting *q = w->rounds;
    for (int i = 0; i < q->n; i++)
        transport_unref(w->env->transport, q->model[i]);
    mem_free(q);
}

static void work_message(struct worker *w, const struct net_msg *m)
{
    struct waiting *q = w->rounds;
    if (m->frame.kind != FRAME_MODEL)
        return;
    assert_true(q->n < CLIENTS);
    q->frame[q->n] = m->frame;
    q->model[q->n++] = m->buf;
    transport_ref(m->buf);
}

static bool work_busy(const struct worker *w)
{
    return ((const struct waiting *)w->rounds)->n > 0;
}

// The last comes first, and slow clients' messages arrive late: versions overtake each other.
static void work_step(struct worker *w)
{
    struct waiting *q = w->rounds;
    struct frame f = q->frame[--q->n], head;
    struct netbuf *b;
    struct err err;
    const struct client_task task = {.client = f.client};
    assert_true(clients_take_model(&w->clients, &f, netbuf_payload(q->model[q->n])));
    transport_unref(w->env->transport, q->model[q->n]);
    for (int i = 1; i <= PER_TASK; i++) {
        clients_train(&w->clients, &task, 1);
        assert_int_equal(clients_pack(&w->clients, 0, 0, &head, &b, &err), MESSAGE_OK);
        w->clients.n_reports = 0;
        int64_t spent = i * (int64_t)(1 + 3 * f.client) * 1000000;
        worker_send(w, &head, b, transport_now(w->env->transport) + spent);
        transport_unref(w->env->transport, b);
    }
}

static const struct worker_handlers worker_test = {.name = "async",
                                                   .open = work_open,
                                                   .close = work_close,
                                                   .message = work_message,
                                                   .busy = work_busy,
                                                   .step = work_step};

static const struct scheme scheme_test = {
    .name = "async", .server = &server_test, .worker = &worker_test, .commit = scheme_mean};

static struct federation fed;

static uint64_t run(const char *workers)
{
    const char *const keys[] = {"task.name=quadratic", "task.features=8",
                                "task.outputs=2",      "task.samples=10",
                                "optim.kind=sgd",      "optim.lr=0.01",
                                "fed.clients=5",       "fed.clients_per_round=5",
                                "trace.file=",         workers};
    struct err err = {""};
    federation_scheme = &scheme_test;
    if (federation_open(&fed, ARRAY_LEN(keys), keys, &err))
        fail_msg("%s", err.text);
    server_evaluate(fed.loop.server);
    double before = fed.loop.server->eval.score;
    federation_run(&fed);
    const struct server *s = fed.loop.server;
    const struct async *a = s->rounds;
    assert_true(server_done(s) && loop_clean(&fed.loop));
    assert_int_equal(fed.n_rounds, VERSIONS);
    assert_true(a->taken >= VERSIONS * PER_VERSION);
    assert_true(a->lag_most >= 3 && a->lag_sum > VERSIONS); // old versions are taken as they come
    server_evaluate(fed.loop.server);
    assert_true(s->eval.score < 0.8 * before);
    uint64_t hash = global_hash(&s->global);
    federation_close(&fed);
    assert_int_equal(mem_now(MEM_NET), 0);
    return hash;
}

static void test_a_scheme_without_rounds(void **state)
{
    (void)state;
    uint64_t once = run("net.sim_workers=2");
    assert_true(run("net.sim_workers=2") == once);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_scheme_without_rounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
