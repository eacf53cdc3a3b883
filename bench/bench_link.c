// Links: what their model says of a transfer, and what it takes when frames go at that pace between
// ranks 0 and 1. The clock runs from the send on rank 0 until rank 1's word that all is there, less
// half of a short round trip.
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/table.h"
#include "bench/bench.h"
#include "net/comm_mpi.h"
#include "net/transport.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct link_bench {
    char links[512];
    double min_s, max_s;
    int64_t max_bytes;
};

static struct link_bench params;

static const struct opt options[] = {
    OPT_STRING(
        struct link_bench, links, "link.links",
        "lte-20:latency=0,up=0.5;lte-20:latency=0,up=10;lte-20;lte-20:latency=0,up=100;"
        "ethernet-1g;lte-hetero;5g",
        "links (fstq list links) with their options, separated by ';'; the uplink of client 0"),
    OPT(struct link_bench, min_s, "link.min_s", "0.1", 1e-4, 1e3, "s",
        "the smallest frame is what the link carries in this time"),
    OPT(struct link_bench, max_s, "link.max_s", "1", 1e-4, 1e3, "s",
        "the largest is what it carries in this one; sizes grow tenfold"),
    OPT(struct link_bench, max_bytes, "link.max_bytes", "268435456", 1, 1e10, "B",
        "but no payload is longer than this"),
};

static const struct table_col columns[] = {
    {"Size", "B", 11, TABLE_LEFT},          {"link", "", 24, TABLE_LEFT},
    {"rate", "Mbit/s", 9, TABLE_RIGHT},     {"modelled", "ms", 10, TABLE_RIGHT},
    {"real", "ms", 10, TABLE_RIGHT},        {"error", "%", 8, TABLE_RIGHT},
    {"goodput", "Mbit/s", 9, TABLE_RIGHT},  {"cpu send", "% core", 8, TABLE_RIGHT},
    {"cpu recv", "% core", 8, TABLE_RIGHT}, {"slipped", "ms", 8, TABLE_RIGHT},
    {"Validation", "", 10, TABLE_RIGHT},
};

enum { WAIT_NS = 100 * 1000 * 1000, ORDER_BYTES = 16 };

struct pair {
    struct net_params net;
    struct transport t;
    struct netbuf *data;
    uint32_t turn;
};

static struct net_msg next(struct pair *p)
{
    struct net_msg m;
    while (!transport_poll(&p->t, &m, transport_now(&p->t) + WAIT_NS))
        continue;
    return m;
}

// Rank 1: is told how long and which pattern the next frame is, takes it, and says what it cost.
static void serve(struct pair *p)
{
    for (;;) {
        struct net_msg m = next(p);
        bool stop = m.verdict == FRAME_GOOD && m.frame.kind == FRAME_STOP;
        uint32_t salt = m.frame.version;
        transport_unref(&p->t, m.buf);
        if (stop)
            return;
        int64_t cpu = clock_cpu_ns();
        m = next(p);
        int64_t at = clock_ns();
        cpu = clock_cpu_ns() - cpu;
        bool ok =
            m.verdict == FRAME_GOOD && bench_same(m.payload, (size_t)m.frame.payload_bytes, salt);
        transport_unref(&p->t, m.buf);
        struct netbuf *b = transport_buf(&p->t, ORDER_BYTES);
        put_u64(netbuf_payload(b), (uint64_t)cpu);
        put_u64(netbuf_payload(b) + 8, (uint64_t)(clock_ns() - at));
        struct frame f = {.kind = FRAME_ACK, .reason = ok, .payload_bytes = ORDER_BYTES};
        transport_send(&p->t, 1, 0, &f, b, 0);
        transport_unref(&p->t, b);
    }
}

struct sent {
    double ns, cpu_ns, peer_cpu_ns;
    bool ok;
};

static void tell(struct pair *p, enum frame_kind kind, uint32_t salt)
{
    struct netbuf *b = transport_buf(&p->t, 0);
    struct frame f = {.kind = (uint8_t)kind, .version = salt};
    transport_send(&p->t, 0, 1, &f, b, 0);
    transport_unref(&p->t, b);
    transport_flush(&p->t, transport_now(&p->t) + WAIT_NS);
}

// One frame to rank 1 and its answer. x: at the pace of a link, NULL = as fast as it goes.
static struct sent send_one(struct pair *p, size_t n, const struct link_transfer *x)
{
    uint32_t salt = ++p->turn;
    bench_fill(netbuf_payload(p->data), n, salt);
    tell(p, FRAME_TASK, salt);
    struct frame f = {.kind = FRAME_UPDATE, .version = salt, .payload_bytes = n};
    p->net.pace = x ? NET_PACE_REAL : NET_PACE_MODEL;
    int64_t t = clock_ns(), cpu = clock_cpu_ns();
    transport_send_over(&p->t, 0, 1, &f, p->data, 0, x);
    struct net_msg m = next(p);
    struct sent s = {.ns = (double)(clock_ns() - t), .cpu_ns = (double)(clock_cpu_ns() - cpu)};
    s.ok = m.verdict == FRAME_GOOD && m.frame.kind == FRAME_ACK && m.frame.reason == 1;
    if (s.ok) {
        s.peer_cpu_ns = (double)get_u64(m.payload);
        s.ns -= (double)get_u64(m.payload + 8); // looking at what it got
    }
    transport_unref(&p->t, m.buf);
    return s;
}

static double half_trip_ns(struct pair *p)
{
    double best = INFINITY;
    for (int i = 0; i < 20; i++) {
        double ns = send_one(p, 0, NULL).ns / 2;
        best = ns < best ? ns : best;
    }
    return best;
}

// What waiting costs: the time of a paced transfer's CPU beyond that of the same bytes at once.
static double waiting(double paced_ns, double plain_ns, double wall_ns)
{
    return paced_ns > plain_ns ? 100 * (paced_ns - plain_ns) / wall_ns : 0;
}

static void measure(struct bench_ctx *c, const struct table *t, struct pair *p, const char *link,
                    size_t n, double half_ns)
{
    struct link_transfer x = {.round = 1, .up = true};
    struct link_state idle = {0};
    struct bench_result res = {0};
    char cell[11][32], row[600];
    x.bytes = (int64_t)(n + FRAME_HEADER_BYTES);
    struct link_result model = link_carry(&p->t.link, &idle, &x);
    double want = (double)model.t_deliver_ns, cpu = 0, peer = 0;
    struct sent plain = send_one(p, n, NULL);
    bool ok = plain.ok;
    int64_t slipped = p->t.pacer.slipped_ns;
    res.samples = c->samples < 3 ? c->samples : 3;
    for (int i = 0; i < res.samples; i++) {
        struct noise_mark begun = noise_begin();
        struct sent s = send_one(p, n, &x);
        bench_noise(c, &begun, &res, i);
        ok &= s.ok;
        res.sample_ns[i] = s.ns - half_ns;
        res.sample_cpu_ns[i] = s.cpu_ns;
        cpu += waiting(s.cpu_ns, plain.cpu_ns, s.ns) / res.samples;
        peer += waiting(s.peer_cpu_ns, plain.peer_cpu_ns, s.ns) / res.samples;
    }
    double sorted[3];
    memcpy(sorted, res.sample_ns, sizeof sorted);
    res.ns = stats_of(sorted, (size_t)res.samples);
    double error = 100 * (res.ns.median / want - 1);
    double late = (double)(p->t.pacer.slipped_ns - slipped) * 1e-6;
    snprintf(cell[0], sizeof cell[0], "%zu", n);
    fmt_fixed(cell[1], model.rate_bps * 1e-6, 9, 2);
    fmt_fixed(cell[2], want * 1e-6, 10, 3);
    fmt_fixed(cell[3], res.ns.median * 1e-6, 10, 3);
    fmt_fixed(cell[4], error, 8, 3);
    fmt_fixed(cell[5], (double)n * 8e3 / res.ns.median, 9, 2);
    fmt_fixed(cell[6], cpu, 8, 2);
    fmt_fixed(cell[7], peer, 8, 2);
    fmt_fixed(cell[8], late, 8, 2);
    const char *cells[] = {cell[0], link,    cell[1], cell[2], cell[3],           cell[4],
                           cell[5], cell[6], cell[7], cell[8], bench_check(c, ok)};
    bench_row(c, t, cells);
    fflush(c->out);
    const struct bench_counter counters[] = {{"modelled_ns", want},
                                             {"pace_error_percent", error},
                                             {"cpu_send_percent", cpu},
                                             {"cpu_receive_percent", peer},
                                             {"slipped_ms", late}};
    snprintf(row, sizeof row, "%s/%zu", link, n);
    bench_report(c, row, &res, (int64_t)n, counters, (int)ARRAY_LEN(counters),
                 ok ? NULL : "bytes differ");
}

static void measure_link(struct bench_ctx *c, const struct table *t, struct pair *p,
                         const char *link, double half_ns)
{
    struct err err;
    snprintf(p->net.link.link, sizeof p->net.link.link, "%s", link);
    link_close(&p->t.link);
    if (link_open(&p->t.link, &p->net.link, 1, &err))
        die(STATUS_USAGE, "link.links: %s", err.text);
    struct link_transfer x = {.round = 1, .up = true, .bytes = 1};
    double bps = p->t.link.row->piece(&p->t.link, &x, 0).bps;
    for (double s = params.min_s; s < params.max_s * 1.001; s *= 10) {
        double bytes = bps * s / 8;
        if (bytes > (double)params.max_bytes)
            bytes = (double)params.max_bytes;
        measure(c, t, p, link, (size_t)bytes, half_ns);
    }
}

static void run_rows(struct bench_ctx *c, struct pair *p)
{
    struct table t = {.out = c->out, .n_cols = (int)ARRAY_LEN(columns)};
    char list[sizeof params.links], *save = NULL;
    for (int i = 0; i < t.n_cols; i++)
        t.col[i] = columns[i];
    double half = half_trip_ns(p);
    fprintf(
        c->out,
        "# frames from rank 0 to rank 1 at the pace of client 0's uplink; real: to the answer,\n"
        "# less %.1f us; cpu: beyond that of the same bytes at full speed; slipped: the machine\n"
        "# woke the sender later than the pacer makes good (%d ms)\n",
        half * 1e-3, PACER_CREDIT_NS / 1000000);
    bench_leave_out(c, 1 << 6 | 1 << 9); // goodput, slipped
    bench_head(c, &t);
    snprintf(list, sizeof list, "%s", params.links);
    for (char *link = strtok_r(list, ";", &save); link; link = strtok_r(NULL, ";", &save))
        measure_link(c, &t, p, link, half);
    tell(p, FRAME_STOP, 0);
}

static void run(struct bench_ctx *c)
{
    struct pair p = {.turn = 0};
    struct err err;
    opt_defaults(net_options, net_option_count, &p.net);
    if (transport_open(&p.t, &p.net, 1, &err))
        die(STATUS_ENV, "%s", err.text);
    p.t.limits.max_payload_bytes = (uint64_t)params.max_bytes + 64;
    p.data = transport_buf(&p.t, (size_t)params.max_bytes);
    if (c->rank == 0)
        run_rows(c, &p);
    else if (c->rank == 1)
        serve(&p);
    transport_unref(&p.t, p.data);
    transport_close(&p.t, true);
}

const struct bench bench_link = {
    .name = "link",
    .help = "links: modelled and real time of frames at their pace, error, CPU of waiting",
    .ranks = 2,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
