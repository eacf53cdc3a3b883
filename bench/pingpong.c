#include "bench/pingpong.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/mem.h"
#include "net/comm_mpi.h"

#include <string.h>

// An order from rank 0: FRAME_TASK, version = mode, reason = what, samples = low half of the count.
enum { ORDER_LOOP, ORDER_CHECK };
enum { WAIT_NS = 100 * 1000 * 1000 };

void pingpong_open(struct pingpong *p, size_t max_bytes)
{
    memset(p, 0, sizeof *p);
    opt_defaults(net_options, net_option_count, &p->net);
    struct err err;
    if (transport_open(&p->t, &p->net, 1, &err) != 0)
        die(STATUS_ENV, "%s", err.text);
    p->t.limits.max_payload_bytes = max_bytes > 64 ? max_bytes : 64;
    p->raw_out = mem_alloc(MEM_NET, max_bytes + 1);
    p->raw_in = mem_alloc(MEM_NET, max_bytes + 1);
    p->ping = transport_buf(&p->t, max_bytes);
}

void pingpong_close(struct pingpong *p)
{
    transport_unref(&p->t, p->ping);
    mem_free(p->raw_out);
    mem_free(p->raw_in);
    transport_close(&p->t, true);
}

static struct net_msg next(struct pingpong *p)
{
    struct net_msg m;
    while (!transport_poll(&p->t, &m, transport_now(&p->t) + WAIT_NS))
        ;
    return m;
}

// Sends a frame over what lies in the ping buffer.
static void post(struct pingpong *p, int to, uint8_t kind, size_t bytes)
{
    struct netbuf *b = p->ping;
    // A buffer that is still shared would keep its hash: what is measured is a frame with a hash of
    // its own.
    while (b->refs > 1)
        transport_flush(&p->t, transport_now(&p->t) + WAIT_NS);
    struct frame f = {.kind = kind, .version = p->turn++, .payload_bytes = bytes};
    transport_send(&p->t, comm_get()->rank, to, &f, b, 0);
}

static void take_frame(struct pingpong *p, size_t bytes)
{
    struct net_msg m = next(p);
    p->bad += m.verdict != FRAME_GOOD || m.frame.payload_bytes != bytes;
    transport_unref(&p->t, m.buf);
}

static void order(struct pingpong *p, int what, enum pingpong_mode mode, size_t bytes, int64_t n)
{
    struct netbuf *b = transport_buf(&p->t, 24);
    uint8_t *o = netbuf_payload(b);
    put_u32(o, (uint32_t)what);
    put_u32(o + 4, (uint32_t)mode);
    put_u64(o + 8, bytes);
    put_u64(o + 16, (uint64_t)n);
    struct frame f = {.kind = FRAME_TASK, .payload_bytes = 24};
    p->net.checksum = true;
    transport_send(&p->t, 0, 1, &f, b, 0);
    transport_unref(&p->t, b);
    struct net_msg m = next(p); // it stands ready
    p->bad += m.verdict != FRAME_GOOD || m.frame.kind != FRAME_ACK;
    transport_unref(&p->t, m.buf);
    p->net.checksum = mode == PINGPONG_HASHED;
}

static void answer(struct pingpong *p, uint8_t reason)
{
    struct netbuf *b = transport_buf(&p->t, 0);
    struct frame f = {.kind = FRAME_ACK, .reason = reason};
    transport_send(&p->t, 1, 0, &f, b, 0);
    transport_unref(&p->t, b);
}

static void serve_loop(struct pingpong *p, enum pingpong_mode mode, size_t bytes, int64_t n)
{
    answer(p, 0);
    for (int64_t i = 0; i < n; i++) {
        if (mode == PINGPONG_RAW) {
            comm_raw_recv(0, p->raw_in, bytes);
            comm_raw_send(0, p->raw_out, bytes);
        } else {
            take_frame(p, bytes);
            post(p, 0, FRAME_UPDATE, bytes);
        }
    }
}

static void serve_check(struct pingpong *p, enum pingpong_mode mode, size_t bytes, uint32_t salt)
{
    answer(p, 0);
    bool ok;
    if (mode == PINGPONG_RAW) {
        comm_raw_recv(0, p->raw_in, bytes);
        ok = bench_same(p->raw_in, bytes, salt);
        bench_fill(p->raw_out, bytes, salt + 1);
        comm_raw_send(0, p->raw_out, bytes);
    } else {
        struct net_msg m = next(p);
        ok = m.verdict == FRAME_GOOD && m.frame.payload_bytes == bytes &&
             bench_same(m.payload, bytes, salt);
        transport_unref(&p->t, m.buf);
        bench_fill(netbuf_payload(p->ping), bytes, salt + 1);
        post(p, 0, FRAME_UPDATE, bytes);
    }
    answer(p, !ok || p->bad > 0);
    p->bad = 0;
}

void pingpong_serve(struct pingpong *p)
{
    for (;;) {
        struct net_msg m = next(p);
        bool stop = m.verdict == FRAME_GOOD && m.frame.kind == FRAME_STOP;
        bool task =
            m.verdict == FRAME_GOOD && m.frame.kind == FRAME_TASK && m.frame.payload_bytes == 24;
        uint8_t o[24] = {0};
        if (task)
            memcpy(o, m.payload, sizeof o);
        transport_unref(&p->t, m.buf);
        if (stop)
            return;
        if (!task)
            die(STATUS_ENV, "an order of rank 0 arrived damaged");
        enum pingpong_mode mode = (enum pingpong_mode)get_u32(o + 4);
        p->net.checksum = mode == PINGPONG_HASHED;
        if (get_u32(o) == ORDER_LOOP)
            serve_loop(p, mode, get_u64(o + 8), (int64_t)get_u64(o + 16));
        else
            serve_check(p, mode, get_u64(o + 8), (uint32_t)get_u64(o + 16));
    }
}

void pingpong_stop(struct pingpong *p)
{
    for (int to = 1; to < p->t.n_endpoints; to++) {
        struct netbuf *b = transport_buf(&p->t, 0);
        struct frame f = {.kind = FRAME_STOP};
        transport_send(&p->t, 0, to, &f, b, 0);
        transport_unref(&p->t, b);
    }
    transport_flush(&p->t, transport_now(&p->t) + WAIT_NS);
}

void pingpong_prepare(void *arg, int64_t n)
{
    const struct pingpong_arg *a = arg;
    order(a->p, ORDER_LOOP, a->mode, a->bytes, n);
}

void pingpong_loop(void *arg, int64_t n)
{
    const struct pingpong_arg *a = arg;
    struct pingpong *p = a->p;
    for (int64_t i = 0; i < n; i++) {
        if (a->mode == PINGPONG_RAW) {
            comm_raw_send(1, p->raw_out, a->bytes);
            comm_raw_recv(1, p->raw_in, a->bytes);
        } else {
            post(p, 1, FRAME_UPDATE, a->bytes);
            take_frame(p, a->bytes);
        }
    }
}

bool pingpong_intact(struct pingpong *p, enum pingpong_mode mode, size_t bytes)
{
    uint32_t salt = ++p->turn;
    p->bad = 0;
    order(p, ORDER_CHECK, mode, bytes, salt);
    bool ok;
    if (mode == PINGPONG_RAW) {
        bench_fill(p->raw_out, bytes, salt);
        comm_raw_send(1, p->raw_out, bytes);
        memset(p->raw_in, 0, bytes);
        comm_raw_recv(1, p->raw_in, bytes);
        ok = bench_same(p->raw_in, bytes, salt + 1);
    } else {
        bench_fill(netbuf_payload(p->ping), bytes, salt);
        post(p, 1, FRAME_UPDATE, bytes);
        struct net_msg m = next(p);
        ok = m.verdict == FRAME_GOOD && m.frame.payload_bytes == bytes &&
             bench_same(m.payload, bytes, salt + 1);
        transport_unref(&p->t, m.buf);
    }
    struct net_msg m = next(p);
    ok = ok && m.verdict == FRAME_GOOD && m.frame.kind == FRAME_ACK && m.frame.reason == 0;
    transport_unref(&p->t, m.buf);
    return ok && p->bad == 0;
}
