// The simulated transport: every endpoint in one process, messages on a heap ordered by (time,
// client, sequence), time that jumps. What goes wrong is drawn from (seed, sequence) alone, so a
// failing run is replayed by its seed, under a debugger as well.
#include "base/bytes.h"
#include "base/mem.h"
#include "base/rng.h"
#include "net/transport.h"

#include <assert.h>
#include <string.h>

struct sim_event {
    int64_t t_ns;
    uint64_t seq;
    uint32_t client_key;
    int src, dst;
    struct netbuf *buf;
};

struct sim {
    int64_t now_ns;
    uint64_t n_sent;
    struct sim_event *heap;
    size_t n, cap;
};

static struct sim *sim_of(const struct transport *t)
{
    return t->state;
}

// Start-up and farewell arrive: a worker that never came is a matter of the launcher, not of a
// round.
static bool may_fail(uint8_t kind)
{
    switch (kind) {
    case FRAME_HELLO:
    case FRAME_WELCOME:
    case FRAME_REFUSE:
    case FRAME_STOP:
    case FRAME_BYE:
    case FRAME_SLOTS:
    case FRAME_PARCEL:
        return false;
    default:
        return true;
    }
}

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    if (a->t_ns != b->t_ns)
        return a->t_ns < b->t_ns;
    if (a->client_key != b->client_key)
        return a->client_key < b->client_key;
    return a->seq < b->seq;
}

static void heap_push(struct sim *s, struct sim_event e)
{
    s->heap = mem_grow(MEM_NET, s->heap, s->n, s->n + 1, &s->cap, sizeof *s->heap);
    size_t i = s->n++;
    for (; i > 0 && before(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = e;
}

static void sift_down(struct sim *s, size_t i)
{
    struct sim_event e = s->heap[i];
    for (size_t child; (child = 2 * i + 1) < s->n; i = child) {
        if (child + 1 < s->n && before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!before(&s->heap[child], &e))
            break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = e;
}

static struct sim_event heap_pop(struct sim *s)
{
    struct sim_event e = s->heap[0];
    s->heap[0] = s->heap[--s->n];
    if (s->n > 0)
        sift_down(s, 0);
    return e;
}

// A copy, for others may share the buffer: the sender for one, who would resend it.
static struct netbuf *damaged(struct transport *t, struct netbuf *b, struct rng *r)
{
    size_t len = b->len;
    struct netbuf *bad = transport_buf(t, len - FRAME_HEADER_BYTES);
    memcpy(bad->bytes, b->bytes, len);
    bad->len = len;
    if (rng_below(r, 4) == 0) {
        bad->len = (size_t)(rng_unit(r) * (double)len); // the tail is cut off
    } else {
        size_t at = (size_t)(rng_unit(r) * (double)len);
        bad->bytes[at] = (uint8_t)(bad->bytes[at] ^ (1u << rng_below(r, 8)));
    }
    transport_unref(t, b);
    return bad;
}

static int64_t extra_ns(struct rng *r, double up_to_s)
{
    return (int64_t)(rng_unit(r) * up_to_s * 1e9);
}

// Five draws a frame, always in this order, so that raising one probability leaves the others'
// victims where they were. A dropped frame is gone; any other mix of faults may meet.
static void send_with_faults(struct transport *t, struct sim_event e)
{
    const struct net_params *p = t->params;
    struct net_faults *count = &t->faults;
    struct rng r = rng_stream(t->seed, RNG_SIM, (uint32_t)e.seq, (uint32_t)(e.seq >> 32), 0);
    bool drop = rng_unit(&r) < p->sim_drop, corrupt = rng_unit(&r) < p->sim_corrupt;
    bool delay = rng_unit(&r) < p->sim_delay, duplicate = rng_unit(&r) < p->sim_duplicate;
    bool reorder = rng_unit(&r) < p->sim_reorder;
    if (drop) {
        count->dropped++;
        transport_unref(t, e.buf);
        return;
    }
    if (duplicate) { // the twin is sound and comes up to 10 ms later
        struct sim_event twin = e;
        twin.t_ns += extra_ns(&r, 0.010);
        transport_ref(twin.buf);
        heap_push(sim_of(t), twin);
        count->duplicated++;
    }
    if (corrupt) {
        e.buf = damaged(t, e.buf, &r);
        count->corrupted++;
    }
    if (delay) {
        e.t_ns += extra_ns(&r, 2 * p->timeout_s);
        count->delayed++;
    }
    if (reorder) {
        e.t_ns += extra_ns(&r, 0.010);
        count->reordered++;
    }
    heap_push(sim_of(t), e);
}

static int sim_open(struct transport *t, struct err *err)
{
    (void)err;
    t->state = mem_alloc(MEM_NET, sizeof(struct sim));
    t->n_endpoints = 1 + t->params->sim_workers;
    return 0;
}

static void sim_send(struct transport *t, int src, int dst, struct netbuf *b, int64_t t_deliver_ns)
{
    struct sim *s = sim_of(t);
    // At the same instant frames of no client (UINT32_MAX wraps to 0) come first: a model before
    // the tasks that need it. Then by client, so that the order does not depend on who shares a
    // worker.
    struct sim_event e = {
        .t_ns = t_deliver_ns > s->now_ns ? t_deliver_ns : s->now_ns,
        .seq = s->n_sent++,
        .client_key = get_u32(b->bytes + FRAME_AT_CLIENT) + 1,
        .src = src,
        .dst = dst,
        .buf = b,
    };
    const struct net_params *p = t->params;
    bool faults = p->sim_drop > 0 || p->sim_corrupt > 0 || p->sim_delay > 0 ||
                  p->sim_duplicate > 0 || p->sim_reorder > 0;
    if (faults && may_fail(b->bytes[FRAME_AT_KIND]))
        send_with_faults(t, e);
    else
        heap_push(s, e);
}

// Never waits: the clock jumps to the next delivery or to until_ns, whichever is first. With
// nothing under way and no deadline (INT64_MAX) it stays, and false says that nothing will ever
// happen.
static bool sim_poll(struct transport *t, struct net_msg *m, int64_t until_ns)
{
    struct sim *s = sim_of(t);
    if (s->n == 0 || s->heap[0].t_ns > until_ns) {
        if (until_ns != INT64_MAX && until_ns > s->now_ns)
            s->now_ns = until_ns;
        return false;
    }
    struct sim_event e = heap_pop(s);
    if (e.t_ns > s->now_ns)
        s->now_ns = e.t_ns;
    m->src = e.src;
    m->dst = e.dst;
    m->buf = e.buf;
    m->t_ns = s->now_ns;
    return true;
}

static int64_t sim_now(const struct transport *t)
{
    return sim_of(t)->now_ns;
}

static bool sim_hosts(const struct transport *t, int endpoint)
{
    (void)t, (void)endpoint;
    return true;
}

static void sim_forget(struct transport *t, int endpoint)
{
    struct sim *s = sim_of(t);
    size_t kept = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->heap[i].dst == endpoint)
            transport_unref(t, s->heap[i].buf);
        else
            s->heap[kept++] = s->heap[i];
    }
    s->n = kept;
    for (size_t i = s->n / 2; i-- > 0;)
        sift_down(s, i);
}

static void sim_close(struct transport *t, bool clean)
{
    (void)clean;
    struct sim *s = sim_of(t);
    for (size_t i = 0; i < s->n; i++)
        transport_unref(t, s->heap[i].buf);
    mem_free(s->heap);
    mem_free(s);
}

const struct transport_row transport_sim = {
    .name = "sim",
    .help = "every endpoint in one process on an event heap, in virtual time, with seeded faults",
    .open = sim_open,
    .send = sim_send,
    .poll = sim_poll,
    .now = sim_now,
    .hosts = sim_hosts,
    .forget = sim_forget,
    .close = sim_close,
};
