// What measuring costs: a recorded span, and the commit of a round to HDF5 and journal. The clock
// itself is the floor row; waiting for the disk (fdatasync) stands apart, for that is the disk's
// time.
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/table.h"
#include "bench/bench.h"
#include "trace/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct trace_bench {
    int32_t clients, events;
    char dir[200];
};

static struct trace_bench params;

static const struct opt options[] = {
    OPT(struct trace_bench, clients, "trace.clients", "10", 1, 10000, "", "clients per round"),
    OPT(struct trace_bench, events, "trace.events", "12", 1, 1000, "",
        "spans per client and round"),
    OPT_STRING(struct trace_bench, dir, "trace.dir", ".", "where the files are written"),
};

// Spans.

static void clock_loop(void *arg, int64_t n)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += clock_ns();
    *(int64_t *)arg = sum;
    bench_use(arg);
}

static void clock_cpu_loop(void *arg, int64_t n)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += clock_cpu_ns();
    *(int64_t *)arg = sum;
    bench_use(arg);
}

static void span_loop(void *arg, int64_t n)
{
    struct recorder *r = arg;
    for (int64_t i = 0; i < n; i++)
        span_end(r, span_begin(r), STAGE_ENCODE, 1, 100, 100);
    bench_use(r->ring);
}

// Rounds.

#define ROUNDS_KEPT 8192 // of the newest commits

struct rounds {
    struct trace *trace;
    char path[240];
    int32_t version, clients, events;
    int64_t committed;
    double write_ns[ROUNDS_KEPT],
        sync_ns[ROUNDS_KEPT]; // of a commit with its appends, without sync
};

static void append_client(struct rounds *r, int32_t client)
{
    const int64_t t = (int64_t)r->version * 1000000000;
    for (int k = 0; k < r->events; k++) {
        struct rec_event e = {.t_start_ns = t + 1000003LL * (client * r->events + k),
                              .dur_ns = 2500000 + 7919 * (k + client),
                              .cpu_ns = 2400000 + 6571 * (k + client),
                              .bytes_out = 4096,
                              .energy_uj = -1,
                              .version = r->version,
                              .client = client,
                              .rank = 1 + client % 3,
                              .stage = (uint8_t)(STAGE_ROUND + (k + 1) % (STAGE_COUNT - 1))};
        trace_append(r->trace, REC_EVENTS, &e, 1);
    }
    struct rec_message m = {.frame_bytes = 1000064,
                            .header_bytes = 64,
                            .values_bytes = 1000000,
                            .nmse = 0.01,
                            .weight = 50 + client,
                            .version = r->version,
                            .client = client,
                            .rank = 1 + client % 3};
    m.kept[4] = 2000000;
    trace_append(r->trace, REC_MESSAGES, &m, 1);
    for (int32_t up = 0; up < 2; up++) {
        struct rec_link l = {.bytes = 1000064,
                             .bytes_sent = 1000064,
                             .t_ready_ns = up * 900000000LL + client,
                             .t_deliver_ns = up * 900000000LL + 400000000 + 977 * client,
                             .latency_ns = 10000000,
                             .rate_bps = 2e7,
                             .version = r->version,
                             .client = client,
                             .up = up};
        trace_append(r->trace, REC_LINKS, &l, 1);
    }
}

static void commit_loop(void *arg, int64_t n)
{
    struct rounds *r = arg;
    for (int64_t i = 0; i < n; i++) {
        int64_t t = clock_ns(), sync_before, sync_after;
        trace_time_ns(r->trace, &sync_before);
        for (int32_t c = 0; c < r->clients; c++)
            append_client(r, c);
        struct rec_round row = {.uplink_bytes = 10000640,
                                .train_loss = exp(-1e-3 * r->version),
                                .score = 0.5,
                                .eval_loss = (double)NAN,
                                .version = r->version,
                                .sampled = r->clients,
                                .arrived = r->clients};
        trace_append(r->trace, REC_ROUNDS, &row, 1);
        trace_commit(r->trace, r->version++);
        trace_time_ns(r->trace, &sync_after);
        int64_t sync = sync_after - sync_before, kept = r->committed++ % ROUNDS_KEPT;
        r->write_ns[kept] = (double)(clock_ns() - t - sync);
        r->sync_ns[kept] = (double)sync;
    }
}

static bool open_rounds(struct rounds *r, const char *dir, bool journal, struct err *err)
{
    struct trace_params p = {.journal = journal, .events_per_round = 256};
    const struct trace_meta meta = {.command_line = "fstq bench trace"};
    *r = (struct rounds){.clients = params.clients, .events = params.events};
    snprintf(p.file, sizeof p.file, "%.200s/%s.h5", dir, journal ? "journal" : "plain");
    snprintf(r->path, sizeof r->path, "%s", p.file);
    r->trace = trace_open(&p, &meta, false, err);
    return r->trace != NULL;
}

// Everything committed is in the file; then it goes.
static const char *close_rounds(struct rounds *r)
{
    struct trace_file f;
    struct err err;
    const char *wrong = trace_degraded(r->trace) ? "the trace was degraded" : NULL;
    trace_close(r->trace, true);
    if (trace_read(r->path, &f, &err) < 0)
        return "the trace cannot be read back";
    if (!wrong && ((int64_t)f.n[REC_ROUNDS] != r->committed ||
                   (int64_t)f.n[REC_EVENTS] != r->committed * r->clients * r->events))
        wrong = "rows are missing in the trace";
    trace_file_free(&f);
    unlink(r->path);
    return wrong;
}

// Table.

static void put_row(struct bench_ctx *c, const struct table *t, const char *name,
                    const struct stats *ns, double cpu_ns, const char *wrong)
{
    char cell[5][32];
    fmt_fixed(cell[0], ns->median / 1e3, 11, 3);
    fmt_fixed(cell[1], ns->ci_low / 1e3, 11, 3);
    fmt_fixed(cell[2], ns->ci_high / 1e3, 11, 3);
    fmt_fixed(cell[3], cpu_ns / 1e3, 11, 3);
    fmt_fixed(cell[4], ns->median / 1e9 * 100, 10, 5);
    bench_row(c, t,
              (const char *[]){name, cell[0], cell[1], cell[2], cell[3], cell[4],
                               bench_check(c, !wrong)});
}

static void measure_spans(struct bench_ctx *c, const struct table *t)
{
    static const char *const names[] = {"clock", "clock_cpu", "span", "span_cpu"};
    struct recorder plain, cpu;
    int64_t sums[2];
    struct bench_result r[4];
    recorder_init(&plain, 4096, 0, false);
    recorder_init(&cpu, 4096, 0, true);
    const struct bench_case cases[] = {{names[0], NULL, clock_loop, &sums[0]},
                                       {names[1], NULL, clock_cpu_loop, &sums[1]},
                                       {names[2], NULL, span_loop, &plain},
                                       {names[3], NULL, span_loop, &cpu}};
    bench_measure(c, cases, 4, r);
    bool ok = plain.n == plain.cap && plain.ring[0].dur_ns >= 0 && plain.ring[0].cpu_ns == -1 &&
              cpu.ring[0].cpu_ns >= 0;
    for (int k = 0; k < 4; k++) {
        const char *wrong = ok || k < 2 ? NULL : "a span is not as recorded";
        put_row(c, t, names[k], &r[k].ns, r[k].cpu_ns, wrong);
        bench_report(c, names[k], &r[k], 0, NULL, 0, wrong);
    }
    recorder_free(&plain);
    recorder_free(&cpu);
}

static void measure_commits(struct bench_ctx *c, const struct table *t, const char *dir)
{
    static const char *const names[] = {"commit", "commit_journal"};
    struct rounds *rounds = mem_alloc(MEM_OTHER, 2 * sizeof *rounds);
    struct bench_result r[2];
    struct err err;
    for (int k = 0; k < 2; k++)
        if (!open_rounds(&rounds[k], dir, k == 1, &err))
            die(STATUS_ENV, "%s", err.text);
    const struct bench_case cases[] = {{names[0], NULL, commit_loop, &rounds[0]},
                                       {names[1], NULL, commit_loop, &rounds[1]}};
    bench_measure(c, cases, 2, r);
    for (int k = 0; k < 2; k++) {
        const char *wrong = close_rounds(&rounds[k]);
        size_t n = (size_t)(rounds[k].committed < ROUNDS_KEPT ? rounds[k].committed : ROUNDS_KEPT);
        struct stats write = stats_of(rounds[k].write_ns, n);
        struct stats sync = stats_of(rounds[k].sync_ns, n);
        put_row(c, t, names[k], &write, r[k].cpu_ns, wrong);
        if (k == 1)
            put_row(c, t, "fdatasync", &sync, (double)NAN, NULL);
        const struct bench_counter counters[] = {{"write_ns", write.median},
                                                 {"fdatasync_ns", sync.median}};
        bench_report(c, names[k], &r[k], 0, counters, 2, wrong);
    }
    mem_free(rounds);
}

static void run(struct bench_ctx *c)
{
    const struct table t = {.out = c->out,
                            .n_cols = 7,
                            .col = {{"What", "", 14, TABLE_LEFT},
                                    {"time", "us", 11, TABLE_RIGHT},
                                    {"95% low", "us", 11, TABLE_RIGHT},
                                    {"95% high", "us", 11, TABLE_RIGHT},
                                    {"cpu", "us", 11, TABLE_RIGHT},
                                    {"1 s round", "%", 10, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    char dir[240];
    snprintf(dir, sizeof dir, "%s/fstq-bench-XXXXXX", params.dir);
    if (!mkdtemp(dir))
        die(STATUS_ENV, "trace.dir = %s: nothing can be written there", params.dir);
    fprintf(c->out, "# a span recorded; a round of %d clients x %d spans committed to HDF5 in %s\n",
            params.clients, params.events, params.dir);
    bench_size(c, 1, "spans");
    bench_head(c, &t);
    measure_spans(c, &t);
    bench_size(c, (int64_t)params.clients * params.events, "spans");
    measure_commits(c, &t, dir);
    rmdir(dir);
}

const struct bench bench_trace = {
    .name = "trace",
    .help = "what measuring costs: a span, a round's commit to HDF5, the journal, fdatasync",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
