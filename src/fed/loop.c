#include "fed/loop.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define WORKER_POLL_NS   100000000           // of a process without the server
#define EVENTS_MAX_BYTES ((uint64_t)8 << 20) // a worker's spans in one frame

static int open_worker(struct loop *l, int e, size_t spans, struct err *err)
{
    recorder_init(&l->own_rec[e], spans, l->env->rank, l->env->rec->cpu);
    l->own_rec[e].origin_ns = 0; // the server puts its spans on rank 0's clock
    l->own_env[e] = *l->env;
    l->own_env[e].rec = &l->own_rec[e];
    if (l->server) // it reads this host's sensors
        l->own_env[e].power = NULL;
    l->worker[e] = worker_open(&l->own_env[e], e, err);
    return l->worker[e] ? 0 : -1;
}

// Workers are alike: what the first one took, the others will.
static int open_workers(struct loop *l, size_t spans, struct err *err)
{
    char what[64];
    size_t before = mem_booked();
    int hosted = 0, opened = 0;
    for (int e = 1; e < l->n_endpoints; e++)
        hosted += transport_hosts(l->env->transport, e);
    snprintf(what, sizeof what, "net.sim_workers = %d", hosted);
    for (int e = 1; e < l->n_endpoints; e++) {
        if (!transport_hosts(l->env->transport, e))
            continue;
        if (open_worker(l, e, spans, err))
            return -1;
        size_t each = mem_booked() - before;
        if (opened++ == 0 && mem_fits((double)each * (hosted - 1), what, err))
            return -1;
    }
    return 0;
}

int loop_open(struct loop *l, const struct fed_env *env, const struct fed_sink *sink, size_t spans,
              struct err *err)
{
    struct transport *t = env->transport;
    size_t n = (size_t)t->n_endpoints;
    *l = (struct loop){.env = env, .n_endpoints = t->n_endpoints};
    l->worker = mem_alloc(MEM_OTHER, n * sizeof *l->worker);
    l->own_env = mem_alloc(MEM_OTHER, n * sizeof *l->own_env);
    l->own_rec = mem_alloc(MEM_OTHER, n * sizeof *l->own_rec);
    t->limits.max_payload_bytes = fed_payload_bound(env);
    if (t->limits.max_payload_bytes < EVENTS_MAX_BYTES)
        t->limits.max_payload_bytes = EVENTS_MAX_BYTES;
    if (transport_hosts(t, 0)) {
        l->server = server_open(env, sink, err);
        if (!l->server)
            goto failed;
    }
    if (open_workers(l, spans, err))
        goto failed;
    return 0;
failed:
    loop_close(l);
    return -1;
}

void loop_close(struct loop *l)
{
    for (int e = 1; e < l->n_endpoints; e++) {
        worker_close(l->worker[e]);
        recorder_free(&l->own_rec[e]);
    }
    server_close(l->server);
    mem_free(l->worker);
    mem_free(l->own_env);
    mem_free(l->own_rec);
    memset(l, 0, sizeof *l);
}

static struct worker *busy_worker(const struct loop *l)
{
    for (int e = 1; e < l->n_endpoints; e++)
        if (l->worker[e] && worker_busy(l->worker[e]))
            return l->worker[e];
    return NULL;
}

static bool over(const struct loop *l)
{
    if (l->server)
        return server_done(l->server);
    for (int e = 1; e < l->n_endpoints; e++)
        if (l->worker[e] && !l->worker[e]->stop)
            return false;
    return true;
}

static void dispatch(struct loop *l, struct net_msg *m)
{
    if (m->dst == 0 && l->server)
        server_message(l->server, m);
    else if (m->dst > 0 && m->dst < l->n_endpoints && l->worker[m->dst])
        worker_message(l->worker[m->dst], m);
    transport_unref(l->env->transport, m->buf);
}

// What has arrived comes first, then a piece of some worker's computing; the server's timers run
// when nobody computes, for while a rank computes it hears nobody.
static void turn(struct loop *l)
{
    struct transport *t = l->env->transport;
    struct worker *busy = busy_worker(l);
    int64_t now = transport_now(t), until = now;
    struct net_msg m;
    if (!busy)
        until = l->server ? server_next_timer(l->server) : now + WORKER_POLL_NS;
    if (transport_poll(t, &m, until)) {
        dispatch(l, &m);
        return;
    }
    if (busy)
        worker_step(busy);
    now = transport_now(t);
    for (int e = 1; e < l->n_endpoints; e++)
        if (l->worker[e])
            worker_timer(l->worker[e], now);
    if (l->server && !busy)
        server_timer(l->server, now);
}

void loop_run(struct loop *l, const volatile sig_atomic_t *stop)
{
    for (int e = 1; e < l->n_endpoints; e++)
        if (l->worker[e])
            worker_start(l->worker[e]);
    if (l->server)
        l->server->stop = stop;
    while (!over(l))
        turn(l);
}

bool loop_clean(const struct loop *l)
{
    if (l->server)
        return !l->server->unclean;
    for (int e = 1; e < l->n_endpoints; e++)
        if (l->worker[e] && !l->worker[e]->clean_stop)
            return false;
    return true;
}
