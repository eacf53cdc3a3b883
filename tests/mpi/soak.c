// Every kind of frame, in many sizes, from the server to each worker and back, a few under way at a
// time: fields, bytes and order are checked on both sides. Runs over any transport:
//   soak mpi [FRAMES]   under mpirun with any number of ranks, or alone
//   soak sim [FRAMES]   three workers in one process
#include "base/clock.h"
#include "net/comm_mpi.h"
#include "net/transport.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW      5
#define MAX_WORKERS 64
enum { LAST = 99 }; // reason of the STOP that ends it

static const size_t sizes[] = {0,    1,    63,    64,    65,    255,         1000,
                               4032, 4096, 16384, 65536, 70001, 1024 * 1024, 3000003};

static struct transport t;
static uint32_t n_frames = 280;
static int failures;
static uint32_t sent[MAX_WORKERS + 1], answered[MAX_WORKERS + 1], served[MAX_WORKERS + 1];
static bool said_bye[MAX_WORKERS + 1], stopped[MAX_WORKERS + 1];

static void expect(bool ok, const char *what, int src, int dst, uint32_t i)
{
    if (ok)
        return;
    failures++;
    fprintf(stderr, "rank %d: %s, frame %u from %d to %d\n", comm_get()->rank, what, i, src, dst);
}

static size_t size_of(uint32_t i)
{
    return sizes[(i * 7 + i / 14) % ARRAY_LEN(sizes)];
}

static void fill(uint8_t *p, size_t n, uint32_t salt)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 7 + (i >> 8) * 13 + salt * 31);
}

static bool same(const uint8_t *p, size_t n, uint32_t salt)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != (uint8_t)(i * 7 + (i >> 8) * 13 + salt * 31))
            return false;
    return true;
}

static void post(int src, int dst, uint8_t kind, uint32_t i, size_t n, uint32_t salt,
                 uint8_t reason)
{
    struct netbuf *b = transport_buf(&t, n);
    fill(netbuf_payload(b), n, salt);
    struct frame f = {.kind = kind,
                      .version = i,
                      .client = (uint32_t)(src + dst),
                      .reason = reason,
                      .samples = 17 * i,
                      .values = ~i,
                      .loss = (float)i / 4,
                      .payload_bytes = n};
    transport_send(&t, src, dst, &f, b, transport_now(&t));
    transport_unref(&t, b);
}

static void server_sends(int worker)
{
    for (; sent[worker] < n_frames && sent[worker] < answered[worker] + WINDOW; sent[worker]++) {
        uint32_t i = sent[worker];
        post(0, worker, (uint8_t)(1 + i % (FRAME_KIND_COUNT - 1)), i, size_of(i), i, 0);
    }
    if (answered[worker] == n_frames)
        post(0, worker, FRAME_STOP, n_frames, 0, 0, LAST);
}

static void server_gets(const struct net_msg *m)
{
    uint32_t i = answered[m->src];
    if (m->frame.kind == FRAME_BYE && m->frame.reason == LAST) {
        expect(i == n_frames, "bye before the last answer", m->src, m->dst, i);
        said_bye[m->src] = true;
        return;
    }
    expect(m->frame.version == i, "answers out of order", m->src, m->dst, m->frame.version);
    expect(m->frame.kind == 1 + i % (FRAME_KIND_COUNT - 1), "kind", m->src, m->dst, i);
    expect(m->frame.payload_bytes == size_of(i + 3), "size", m->src, m->dst, i);
    expect(same(m->payload, m->frame.payload_bytes, i + 1000), "bytes", m->src, m->dst, i);
    answered[m->src]++;
    server_sends(m->src);
}

static void worker_gets(const struct net_msg *m)
{
    int me = m->dst;
    uint32_t i = served[me];
    if (m->frame.kind == FRAME_STOP && m->frame.reason == LAST) {
        expect(i == n_frames, "stop before the last frame", m->src, me, i);
        post(me, 0, FRAME_BYE, n_frames, 0, 0, LAST);
        stopped[me] = true;
        return;
    }
    expect(m->src == 0 && m->frame.version == i, "frames out of order", m->src, me, i);
    expect(m->frame.payload_bytes == size_of(i), "size", m->src, me, i);
    expect(m->frame.samples == 17 * i && m->frame.values == ~i && m->frame.loss == (float)i / 4 &&
               m->frame.client == (uint32_t)me,
           "fields", m->src, me, i);
    expect(same(m->payload, m->frame.payload_bytes, i), "bytes", m->src, me, i);
    post(me, 0, m->frame.kind, i, size_of(i + 3), i + 1000, 0);
    served[me]++;
}

static bool finished(void)
{
    for (int w = 1; w < t.n_endpoints; w++)
        if ((transport_hosts(&t, 0) && !said_bye[w]) || (transport_hosts(&t, w) && !stopped[w]))
            return false;
    return true;
}

int main(int argc, char **argv)
{
    bool sim = argc > 1 && strcmp(argv[1], "sim") == 0;
    if (argc > 2)
        n_frames = (uint32_t)atoi(argv[2]);
    if (!sim)
        comm_start(&argc, &argv);
    struct net_params p;
    opt_defaults(net_options, net_option_count, &p);
    p.transport = sim ? 1 : 0;
    p.sim_workers = 3;
    struct err err;
    if (transport_open(&t, &p, 1, &err) != 0)
        die(STATUS_ENV, "%s", err.text);
    t.limits.max_payload_bytes = 4 << 20;
    for (int w = 1; w < t.n_endpoints && transport_hosts(&t, 0); w++)
        server_sends(w);
    int64_t deadline_ns = clock_ns() + 60000000000;
    while (!finished() && failures == 0 && clock_ns() < deadline_ns) {
        struct net_msg m;
        if (!transport_poll(&t, &m, sim ? INT64_MAX : transport_now(&t) + 100000000))
            continue;
        expect(m.verdict == FRAME_GOOD, frame_verdict_name[m.verdict], m.src, m.dst, 0);
        if (m.verdict == FRAME_GOOD && m.dst == 0)
            server_gets(&m);
        else if (m.verdict == FRAME_GOOD)
            worker_gets(&m);
        transport_unref(&t, m.buf);
    }
    expect(finished(), "not finished", -1, -1, 0);
    expect(transport_flush(&t, transport_now(&t) + 5000000000), "not flushed", -1, -1, 0);
    if (transport_hosts(&t, 0)) {
        int64_t frames = 2 * (int64_t)(n_frames + 1) * (t.n_endpoints - 1);
        expect(t.frames_moved == frames, "frames counted wrongly", -1, -1, 0);
        printf("# %d workers, %lld frames, %lld bytes\n", t.n_endpoints - 1, (long long)frames,
               (long long)t.bytes_moved);
    }
    transport_close(&t, failures == 0);
    if (sim)
        return failures ? 1 : 0;
    comm_exit(failures ? 1 : 0, failures == 0);
}
