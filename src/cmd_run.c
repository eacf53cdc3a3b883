#include "base/fsio.h"
#include "base/job.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/power.h"
#include "base/stop.h"
#include "base/table.h"
#include "base/topo.h"
#include "cmd.h"
#include "config.h"
#include "dev/dev.h"
#include "fed/fault.h"
#include "fed/loop.h"
#include "fed/product.h"
#include "machine.h"
#include "model/update_file.h"
#include "net/comm_mpi.h"
#include "trace/figures.h"
#include "trace/tally.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RUN_SPANS      65536
#define RUN_TABLE_ROWS 40

// Everything of one run in one process: the server if this is rank 0, and the workers it hosts.
struct run {
    struct config cfg;
    const struct comm *comm;
    struct transport transport;
    struct workload work;
    struct profile_model profile;
    struct presence presence;
    struct method method;
    struct fed_env env;
    struct recorder server_rec;
    struct loop loop;
    struct trace *trace;
    struct fed_sink sink;
    struct tally tally;
    struct figures figures;
    struct rec_round last; // newest row, and the newest values in it that are known
    struct power_watch power;
    int64_t begun_ns, start_ns, rounds_done; // of the command, of its rounds
    int lock_fd, table_every;
    FILE *progress; // NULL = nobody watches
    int64_t progress_ns;
    bool progress_shown;
    char cpuset[64], gpu[64], run_dir[240];
    int64_t update_round; // the last of which an update was kept, -1 = none
};

// rows.

static void sink_rows(void *arg, enum record_id id, const void *rows, size_t n)
{
    struct run *r = arg;
    if (id == REC_EVENTS)
        tally_add(&r->tally, rows, n);
    figures_add(&r->figures, id, rows, n);
    if (r->trace && n)
        trace_append(r->trace, id, rows, n);
}

static void sink_commit(void *arg, int32_t version)
{
    struct run *r = arg;
    if (!r->trace)
        return;
    struct span span = span_begin(&r->server_rec);
    int64_t before, after;
    trace_time_ns(r->trace, &before);
    trace_commit(r->trace, version);
    trace_time_ns(r->trace, &after);
    recorder_put(&r->server_rec, STAGE_SYNC, -1, clock_ns() - (after - before), after - before, -1,
                 0, 0, 0);
    span_end(&r->server_rec, span, STAGE_TRACE, -1, 0, 0);
}

static const struct table_col round_cols[] = {
    {"round", "", 7, TABLE_RIGHT},     {"arrived", "", 8, TABLE_RIGHT},
    {"lost", "", 6, TABLE_RIGHT},      {"loss", "", 11, TABLE_RIGHT},
    {"score", "", 11, TABLE_RIGHT},    {"uplink", "total", 11, TABLE_RIGHT},
    {"measured", "", 11, TABLE_RIGHT}, {"modelled", "", 11, TABLE_RIGHT}};

static struct table round_table(void)
{
    struct table t = {.out = stdout, .n_cols = (int)ARRAY_LEN(round_cols)};
    memcpy(t.col, round_cols, sizeof round_cols);
    return t;
}

static char *fmt_number(char buf[32], double v)
{
    if (isnan(v))
        snprintf(buf, 32, "-");
    else
        snprintf(buf, 32, v == 0 || (fabs(v) >= 1e-3 && fabs(v) < 1e5) ? "%.5f" : "%.4e", v);
    return buf;
}

static void print_round(const struct rec_round *row)
{
    char t[6][32], arrived[32], lost[32];
    struct table table = round_table();
    snprintf(arrived, sizeof arrived, "%d/%d", row->arrived, row->sampled);
    snprintf(lost, sizeof lost, "%d", row->lost + row->rejected);
    const char *cells[] = {fmt_count(t[0], row->version),
                           arrived,
                           lost,
                           fmt_number(t[1], row->train_loss),
                           fmt_number(t[2], row->score),
                           fmt_bytes(t[3], row->uplink_total_bytes),
                           fmt_time(t[4], row->time_measured_ns),
                           fmt_time(t[5], row->time_modelled_ns)};
    table_row(&table, cells);
}

static void clear_progress(struct run *r)
{
    if (!r->progress_shown)
        return;
    fputs("\r\033[K", r->progress);
    fflush(r->progress);
    r->progress_shown = false;
}

// One line that is written over, ten times a second at most.
static void show_progress(struct run *r)
{
    int64_t now = clock_ns(), spent = now - r->start_ns;
    if (!r->progress || now - r->progress_ns < 100000000)
        return;
    r->progress_ns = now;
    char t[4][32];
    int64_t left = spent / r->rounds_done * (r->cfg.fed.rounds - r->last.version);
    fprintf(r->progress, "\r\033[K# round %d/%d  loss %s  %s %s  uplink %s  left %s",
            r->last.version, r->cfg.fed.rounds, fmt_number(t[0], r->last.train_loss),
            r->work.row->score_name(&r->work), fmt_number(t[1], r->last.score),
            fmt_bytes(t[2], r->last.uplink_total_bytes), fmt_time(t[3], left));
    fflush(r->progress);
    r->progress_shown = true;
}

static void sink_progress(void *arg, const struct rec_round *row)
{
    struct run *r = arg;
    double score = isnan(row->score) ? r->last.score : row->score;
    double loss = isnan(row->train_loss) ? r->last.train_loss : row->train_loss;
    r->last = *row;
    r->last.score = score;
    r->last.train_loss = loss;
    r->rounds_done += row->version > 0; // 0: the score before anything is learned
    int32_t rounds = r->cfg.fed.rounds;
    if (row->version % r->table_every == 0 || row->version == rounds) {
        clear_progress(r);
        print_round(row);
        fflush(stdout);
    }
    if (row->version > 0 && row->version < rounds)
        show_progress(r);
}

// setting up.

// The same configuration everywhere: rank 0's.
static void share_config(struct run *r)
{
    uint64_t len = 0;
    char *text = NULL;
    struct err err;
    if (r->comm->rank == 0) {
        text = config_text(&r->cfg);
        len = strlen(text) + 1;
    }
    comm_broadcast(&len, sizeof len);
    if (r->comm->rank != 0)
        text = mem_alloc(MEM_OTHER, len);
    comm_broadcast(text, len);
    if (r->comm->rank != 0 && config_apply_text(&r->cfg, text, &err))
        die(STATUS_ENV, "cannot read rank 0's configuration: %s; run the same build on every host",
            err.text);
    mem_free(text);
}

// A run directory belongs to one run at a time; rank 0 holds the lock for all of them.
static void take_run_dir(struct run *r)
{
    struct err err;
    char path[300];
    snprintf(r->run_dir, sizeof r->run_dir, "%s", r->cfg.run.dir);
    if (!*r->run_dir)
        return;
    if (fsio_mkdirs(r->run_dir, &err))
        die(STATUS_ENV, "run.dir: %s", err.text);
    if (r->comm->rank == 0) {
        snprintf(path, sizeof path, "%s/lock", r->run_dir);
        r->lock_fd = fsio_lock(path, &err);
        if (r->lock_fd < 0)
            die(STATUS_USAGE, "run.dir = %s: %s; one run at a time in a directory", r->run_dir,
                err.text);
    }
    char ok = 1;
    comm_broadcast(&ok, 1); // nobody touches the directory before rank 0 has it
}

static void describe_self(struct run *r, int *threads)
{
    struct topo topo;
    struct err err;
    int pus = 1, cores = 1;
    snprintf(r->cpuset, sizeof r->cpuset, "?");
    if (topo_load(&topo, &err)) {
        warn("topology: %s", err.text);
    } else {
        topo_current(&topo, r->cpuset, sizeof r->cpuset);
        pus = topo_allowed_pus(&topo);
        cores = topo.cores < pus ? topo.cores : pus;
        topo_free(&topo);
    }
    int ranks = r->comm->compute_local > 0 ? r->comm->compute_local : 1;
    *threads = r->cfg.dev.threads ? r->cfg.dev.threads : cores / ranks > 1 ? cores / ranks : 1;
    if (ranks * *threads > cores && r->comm->local_rank == 0)
        printf("# time not comparable: %d ranks x %d threads share %d cores of %s\n", ranks,
               *threads, cores, r->comm->host);
}

// A failure costs the file, not the run.
static void keep_file(const struct run *r, uint32_t version, const char *of, const struct shape *s,
                      const float *x)
{
    char path[320];
    struct err err = {""};
    snprintf(path, sizeof path, "%s.updates", r->cfg.trace.file);
    int bad = fsio_mkdirs(path, &err);
    snprintf(path, sizeof path, "%s.updates/r%04u-%s.safetensors", r->cfg.trace.file, version, of);
    if (strcmp(of, "adapter") == 0 && access(path, F_OK) == 0)
        return; // another rank's, and the same
    if (bad || update_file_write(path, s, x, &err))
        warn("trace.updates: %s", err.text);
}

// One update per rank and round, or every one.
static void keep_update(void *arg, uint32_t version, uint32_t client, const struct shape *s,
                        const float *x, const float *adapter)
{
    struct run *r = arg;
    char name[32];
    bool first = r->update_round != (int64_t)version;
    bool all = r->cfg.trace.updates_of == TRACE_UPDATES_ALL;
    if (version > (uint32_t)r->cfg.trace.updates || (!first && !all))
        return;
    r->update_round = version;
    snprintf(name, sizeof name, "c%04u", client);
    keep_file(r, version, name, s, x);
    if (first && all)
        keep_file(r, version, "adapter", &r->work.shape, adapter);
}

static void open_env(struct run *r, int threads)
{
    struct err err;
    const struct config *c = &r->cfg;
    struct fed_env env = {.fed = &c->fed,
                          .client = &c->client,
                          .net = &c->net,
                          .seed = (uint64_t)c->run.seed,
                          .config_hash = config_hash(c),
                          .run_dir = r->run_dir,
                          .resume = c->run.resume,
                          .lose_slots = c->run.slots == RUN_SLOTS_LOSE,
                          .virtual_time = r->transport.row == &transport_sim,
                          .rank = r->comm->rank,
                          .threads = threads,
                          .host = r->comm->host,
                          .cpuset = r->cpuset,
                          .gpu = r->gpu,
                          .transport = &r->transport,
                          .link = &r->transport.link,
                          .backhaul = &r->transport.relay_link,
                          .profile = &r->profile,
                          .work = &r->work,
                          .method = &r->method,
                          .rec = &r->server_rec,
                          .start_ns = r->begun_ns};
    r->update_round = -1;
    if (profile_open(&r->profile, &c->client, env.seed, &err) ||
        presence_open(&r->presence, &c->client, env.seed, &err))
        die(STATUS_USAGE, "%s", err.text);
    env.presence = &r->presence;
    if (c->trace.updates > 0 && !*c->trace.file)
        die(STATUS_USAGE,
            "trace.updates = %d: the files are named after trace.file, which is empty",
            c->trace.updates);
    if (c->trace.updates > 0) {
        env.update = keep_update;
        env.update_arg = r;
    }
    r->env = env;
    if (r->comm->local_rank == 0) {
        power_watch_open(&r->power);
        r->env.power = &r->power;
    }
    if (fed_prepare(&r->env, &err))
        die(STATUS_USAGE, "%s", err.text);
}

// Codecs that look at the product of an adapter's matrices.
static void check_pairs(const struct run *r)
{
    struct products pairs;
    struct err err;
    if (!(codec_needs(r->method.codec) & CODEC_REACH))
        return;
    if (products_open(&pairs, &r->work.shape, &err))
        die(STATUS_USAGE, "fed.method = %s: %s; give another importance", r->method.text, err.text);
    products_close(&pairs);
}

// What a method is likely to do, or cannot keep to.
static void check_method(const struct run *r)
{
    const char *inner = codec_diverges(r->method.codec);
    if (inner && r->comm->rank == 0)
        warn("fed.method: the error of %s can exceed the update; what is fed back may grow without "
             "bound",
             inner);
    if (r->cfg.fed.uplink_per_round > 0 && !codec_budgets(r->method.codec))
        die(STATUS_USAGE,
            "fed.uplink_per_round: %s keeps to no budget; give fstq, klt, topk or another of which "
            "fstq list codecs says so, or 0",
            r->method.codec->text);
    check_pairs(r);
}

// Which GPU, for the trace; and that ranks share one.
static void describe_device(struct run *r)
{
    struct dev *d = r->work.row->device ? r->work.row->device(&r->work) : NULL;
    r->gpu[0] = '\0';
    if (d && d->row->describe)
        d->row->describe(d, r->gpu, sizeof r->gpu);
    if (r->comm->local_rank == 0 && strstr(r->gpu, " ranks"))
        printf("# time not comparable: %s: %s\n", r->comm->host, r->gpu);
}

static void open_all(struct run *r)
{
    struct err err;
    int threads;
    describe_self(r, &threads);
    dev_take_place(r->comm->local_rank, r->comm->local_size, r->comm->local_cpus);
    pool_open(threads);
    recorder_init(&r->server_rec, RUN_SPANS, r->comm->rank, r->cfg.trace.cpu);
    r->server_rec.origin_ns = r->begun_ns;
    if (transport_open(&r->transport, &r->cfg.net, (uint64_t)r->cfg.run.seed, &err))
        die(STATUS_USAGE, "%s", err.text);
    bool server = transport_hosts(&r->transport, 0),
         worker = r->comm->rank > 0 || r->comm->size == 1;
    struct workload_env wenv = {.fed = &r->cfg.fed,
                                .fisher = &r->cfg.fisher,
                                .task = &r->cfg.task,
                                .model = &r->cfg.model,
                                .optim = &r->cfg.optim,
                                .dev_kind = config_dev_kind(&r->cfg),
                                .threads = threads,
                                .math = r->cfg.dev.math,
                                .buffers = r->cfg.dev.buffers,
                                .at_once = r->cfg.dev.clients,
                                .seed = (uint64_t)r->cfg.run.seed,
                                .server = server,
                                .worker = worker};
    if (workload_open(&r->work, &wenv, &err) ||
        method_open(&r->method, r->cfg.fed.method, &r->work.shape, &err))
        die(STATUS_USAGE, "%s", err.text);
    check_method(r);
    describe_device(r);
    open_env(r, threads);
    r->sink = (struct fed_sink){r, sink_rows, sink_commit, sink_progress};
    if (loop_open(&r->loop, &r->env, &r->sink, RUN_SPANS / 4, &err))
        die(STATUS_USAGE, "%s", err.text);
}

// trace and header.

static void print_row(void *arg, const struct opt *row, const char *value)
{
    (void)arg;
    if (!opt_is_default(row, value))
        printf("# %s = %s%s%s\n", row->name, value, *row->unit ? " " : "", row->unit);
}

static void print_header(struct run *r, int argc, char **argv)
{
    const struct fed_params *f = &r->cfg.fed;
    printf("# fstq run:");
    for (int i = 1; i < argc; i++)
        printf(" %s", argv[i]);
    printf("\n# method %s\n", r->method.text);
    printf("# ranks %d (%s), clients %d, %d per round, rounds %d\n", r->comm->size,
           r->transport.row->name, f->clients, f->clients_per_round, f->rounds);
    config_each(&r->cfg, print_row, NULL);
    if (r->loop.server->round > 0)
        printf("# resumed after round %u\n", r->loop.server->round);
    r->table_every = (f->rounds + RUN_TABLE_ROWS - 1) / RUN_TABLE_ROWS;
    struct table t = round_table();
    table_head(&t);
    fflush(stdout);
}

struct attr_list {
    struct trace_attr *attr;
    int n, cap;
};

static void add_attr(void *arg, const struct opt *row, const char *value)
{
    struct attr_list *l = arg;
    if (l->n == l->cap)
        return;
    size_t len = strlen(value) + 1;
    char *copy = mem_alloc(MEM_TRACE, len);
    memcpy(copy, value, len);
    l->attr[l->n++] = (struct trace_attr){row->name, copy};
}

static void put_partition(void *arg, const struct rec_partition *row)
{
    trace_append(arg, REC_PARTITION, row, 1);
}

// What the machine is, as "group.name=value" lines.
static void add_machine(void *arg, const char *group, const char *name, const char *value)
{
    fprintf(arg, "%s.%s=%s\n", group, name, value);
}

static char *machine_text(void)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return NULL;
    machine_each(add_machine, out);
    fclose(out);
    return text;
}

static void open_trace(struct run *r, int argc, char **argv)
{
    struct err err;
    struct trace_attr attr[256];
    struct attr_list list = {attr, 0, (int)ARRAY_LEN(attr)};
    char command[1024] = "fstq";
    if (!*r->cfg.trace.file)
        return;
    for (int i = 0; i < argc; i++) {
        size_t at = strlen(command);
        snprintf(command + at, sizeof command - at, " %s", argv[i]);
    }
    config_each(&r->cfg, add_attr, &list);
    struct topo topo;
    size_t xml_len;
    char *xml = NULL, *text = config_text(&r->cfg), *machine = machine_text();
    bool have_topo = topo_load(&topo, &err) == 0;
    if (have_topo)
        xml = topo_xml(&topo, &xml_len);
    struct trace_meta meta = {.command_line = command,
                              .config_text = text,
                              .hwloc_xml = xml,
                              .machine = machine,
                              .config = attr,
                              .n_config = list.n};
    r->trace = trace_open(&r->cfg.trace, &meta, (int32_t)r->loop.server->round, &err);
    if (!r->trace)
        die(STATUS_ENV, "%s", err.text);
    int32_t attempt = trace_attempt(r->trace);
    r->server_rec.attempt = attempt;
    if (have_topo) {
        topo_xml_free(&topo, xml);
        topo_free(&topo);
    }
    mem_free(text);
    free(machine);
    for (int i = 0; i < list.n; i++)
        mem_free((void *)(uintptr_t)attr[i].text);
    struct rec_run run = {.seed = r->cfg.run.seed};
    _Static_assert(sizeof run.method >= sizeof r->method.text, "a method is never cut");
    snprintf(run.method, sizeof run.method, "%s", r->method.text);
    if (attempt == 0)
        trace_append(r->trace, REC_RUNS, &run, 1);
    if (attempt == 0 && r->work.row->partition)
        r->work.row->partition(&r->work, put_partition, r->trace);
    double plain_ns, cpu_ns;
    trace_measure_overhead(&plain_ns, &cpu_ns);
    struct rec_summary rows[2] = {{.value = plain_ns, .key = "span_overhead", .unit = "ns"},
                                  {.value = cpu_ns, .key = "span_overhead_cpu", .unit = "ns"}};
    trace_append(r->trace, REC_SUMMARY, rows, 2);
}

// the end.

static void add_summary(struct run *r, const char *key, double value, const char *unit)
{
    struct rec_summary row = {.value = value};
    snprintf(row.key, sizeof row.key, "%s", key);
    snprintf(row.unit, sizeof row.unit, "%s", unit);
    sink_rows(r, REC_SUMMARY, &row, 1);
}

static void add_figures(struct run *r)
{
    struct rec_summary row[FIGURES_MAX];
    size_t n = figures_list(&r->figures, row);
    sink_rows(r, REC_SUMMARY, row, n);
    const struct scheme *scheme = r->method.scheme;
    n = scheme->figures ? scheme->figures(&r->loop.server->global, row) : 0;
    if (n > 0)
        sink_rows(r, REC_SUMMARY, row, n);
}

static void print_scheme_figures(const struct run *r)
{
    struct rec_summary row[SCHEME_FIGURES];
    const struct scheme *scheme = r->method.scheme;
    size_t n = scheme->figures ? scheme->figures(&r->loop.server->global, row) : 0;
    for (size_t i = 0; i < n; i++)
        printf("%s%s %.0f", i ? ", " : "# ", row[i].key, row[i].value);
    if (n > 0)
        printf("\n");
}

static void put_rank(struct run *r, const struct hello *h, const struct bye *b, const char *role,
                     const struct server_peer *clock)
{
    struct rec_rank row = {.pid = h->pid, .rank = h->rank, .threads = h->threads};
    bool told = b->rss_peak_bytes > 0;
    row.rss_peak_bytes = told ? b->rss_peak_bytes : -1;
    for (int i = 0; i < MEM_PURPOSES; i++)
        row.mem_peak_bytes[i] = told ? b->mem_peak_bytes[i] : -1;
    if (clock) {
        row.clock_offset_start_ns = clock->offset_start_ns;
        row.clock_offset_end_ns = clock->offset_end_ns;
        row.clock_rtt_ns = clock->rtt_ns;
    }
    snprintf(row.host, sizeof row.host, "%s", h->host);
    snprintf(row.role, sizeof row.role, "%s", role);
    snprintf(row.cpuset, sizeof row.cpuset, "%s", h->cpuset);
    snprintf(row.gpu, sizeof row.gpu, "%s", h->gpu);
    sink_rows(r, REC_RANKS, &row, 1);
}

static void trace_ranks(struct run *r)
{
    const struct server *s = r->loop.server;
    struct hello own = {.rank = 0, .threads = r->env.threads};
    struct bye mem;
    bool alone = r->loop.worker[1] != NULL;
    hello_local(&own);
    bye_local(&mem);
    snprintf(own.host, sizeof own.host, "%s", r->comm->host);
    snprintf(own.cpuset, sizeof own.cpuset, "%s", r->cpuset);
    put_rank(r, &own, &mem, alone ? "both" : "server", NULL);
    for (int e = 1; e <= s->workers && !alone; e++)
        put_rank(r, &s->peer[e].hello, &s->peer[e].last, s->peer[e].dead ? "lost" : "worker",
                 &s->peer[e]);
}

static void add_text(char *text, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void add_text(char *text, size_t size, const char *fmt, ...)
{
    size_t at = strlen(text);
    va_list args;
    va_start(args, fmt);
    vsnprintf(text + at, size - at, fmt, args);
    va_end(args);
}

static void how_to_go_on(const struct run *r, char *text, size_t size)
{
    const struct server_kept *k = &r->loop.server->kept;
    if (!*r->run_dir)
        add_text(text, size, "without run.dir it cannot be resumed");
    else if (!k->failing)
        add_text(text, size, "run.resume=on goes on");
    else if (k->round == 0)
        add_text(text, size, "there is no checkpoint to resume from: %s", k->why);
    else
        add_text(text, size,
                 "run.resume=on goes on after round %u, for later ones have no checkpoint: %s",
                 k->round, k->why);
}

// What was lost, as " this; that;".
static void put_losses(const struct run *r, char *text, size_t size)
{
    const struct server *s = r->loop.server;
    const struct checkpoint_totals *all = &s->totals;
    const char *trace = r->trace ? trace_degraded(r->trace) : NULL;
    char names[SLOTS_NAMES];
    if (all->lost || all->rejected)
        add_text(text, size, " %lld updates lost, %lld rejected;", (long long)all->lost,
                 (long long)all->rejected);
    int slots = server_slots_lost(s, names);
    if (slots)
        add_text(text, size, " the state of %d clients was lost: %s;", slots, names);
    if (s->failure[0])
        add_text(text, size, " %s;", s->failure);
    if (s->kept.missed)
        add_text(text, size, " no checkpoint of %d of %u rounds: %s;", s->kept.missed, s->round,
                 s->kept.why);
    if (trace)
        add_text(text, size, " trace: %s;", trace);
}

static enum status verdict(const struct run *r, char *text, size_t size)
{
    const struct server *s = r->loop.server;
    char losses[1024] = "";
    *text = '\0';
    put_losses(r, losses, sizeof losses);
    bool unscored = stop_asked() && isnan(r->last.score);
    if (((int32_t)s->round < r->cfg.fed.rounds || unscored) && !s->failure[0]) {
        add_text(text, size, "INTERRUPTED: after round %u of %d; ", s->round, r->cfg.fed.rounds);
        how_to_go_on(r, text, size);
        return STATUS_INTERRUPTED;
    }
    if (isnan(r->last.score) || !isfinite(r->last.score)) {
        add_text(text, size, "INVALID: the final score is not finite");
        return STATUS_CHECK;
    }
    if (*losses) {
        losses[strlen(losses) - 1] = '\0';
        add_text(text, size, "DEGRADED:%s", losses);
        return STATUS_DEGRADED;
    }
    add_text(text, size, "VALID");
    return STATUS_VALID;
}

// The final score of each group: a language, a topic.
static void print_groups(const struct run *r)
{
    const char *metric = r->work.row->score_name(&r->work);
    const struct eval_result *e = &r->loop.server->eval;
    char v[32];
    int shown = 0;
    for (int i = 0; i < e->n_rows; i++) {
        if (strcmp(e->rows[i].metric, metric) != 0 || strcmp(e->rows[i].set, "all") == 0)
            continue;
        printf("%s%s %s", shown++ ? ", " : "# ", e->rows[i].set,
               fmt_fixed(v, e->rows[i].value, 8, 3));
    }
    if (shown)
        putchar('\n');
}

// What the process has booked, beside what the system says it took.
static void print_memory(void)
{
    char t[2][32];
    size_t booked = 0;
    printf("# memory of rank 0:");
    for (int i = 0; i < MEM_PURPOSES; i++) {
        size_t peak = mem_peak((enum mem_purpose)i);
        booked += peak;
        if (peak >= (size_t)1 << 20)
            printf(" %s %s,", mem_purpose_name[i], fmt_mib(t[0], peak));
    }
    printf(" booked %s in all, resident at most %s\n", fmt_mib(t[0], booked),
           fmt_mib(t[1], mem_rss_peak()));
}

// On a busy machine times are those of fewer threads than were asked for.
static void print_threads(void)
{
    if (pool_alone() > 0.1)
        printf(
            "# threads of rank 0: in %.0f%% of the loops' time one worked alone; the others would "
            "have gained nothing on this busy machine\n",
            100 * pool_alone());
}

static enum status conclude(struct run *r)
{
    struct server *s = r->loop.server;
    char text[1100], t[5][32];
    s->totals.control_bytes += s->row.control_bytes; // the farewell
    s->totals.control_up_bytes += s->row.control_up_bytes;
    s->totals.wire_bytes += server_take_wire(s);
    clear_progress(r);
    if (r->rounds_done == 0) { // resumed after the last round, or stopped before the first
        if (!stop_asked()) {
            server_evaluate(s);
            r->last.score = s->eval.score;
        }
        r->last.adapter_xxh3 = global_hash(&s->global);
    }
    add_summary(r, "score", r->last.score, "1");
    add_summary(r, "uplink", (double)s->totals.uplink_bytes, "byte");
    add_summary(r, "downlink", (double)s->totals.downlink_bytes, "byte");
    add_summary(r, "control", (double)s->totals.control_bytes, "byte");
    add_summary(r, "control_up", (double)s->totals.control_up_bytes, "byte");
    add_summary(r, "wire", (double)s->totals.wire_bytes, "byte");
    add_summary(r, "adapter_values", (double)s->global.n, "1");
    add_summary(r, "client_state", 4 * (double)fed_state_floats(&r->env), "byte");
    add_summary(r, "time_measured", (double)s->totals.measured_ns, "ns");
    add_summary(r, "time_modelled", (double)s->totals.modelled_ns, "ns");
    add_figures(r);
    add_summary(r, "status", (double)verdict(r, text, sizeof text), "");
    trace_ranks(r);
    server_flush_events(r->loop.server);
    if (r->trace)
        trace_commit(r->trace, (int32_t)s->round);
    tally_print(&r->tally, stdout);
    printf("# %s %s, loss %s\n", r->work.row->score_name(&r->work), fmt_number(t[0], r->last.score),
           fmt_number(t[1], r->last.train_loss));
    print_groups(r);
    printf("# uplink %s, ", fmt_bytes(t[0], s->totals.uplink_bytes));
    printf("downlink %s, ", fmt_bytes(t[0], s->totals.downlink_bytes));
    printf("control %s, %s of it up; ", fmt_bytes(t[0], s->totals.control_bytes),
           fmt_bytes(t[1], s->totals.control_up_bytes));
    printf("rounds took %s measured, ", fmt_time(t[0], s->totals.measured_ns));
    printf("%s modelled\n", fmt_time(t[0], s->totals.modelled_ns));
    if (s->env->fed->relays > 0) {
        printf("# relays %d: %s up to the server ", s->env->fed->relays,
               fmt_bytes(t[0], s->relay_up_bytes));
        printf("and %s down, since the program started\n", fmt_bytes(t[0], s->relay_down_bytes));
    }
    figures_print(&r->figures, stdout);
    print_scheme_figures(r);
    print_memory();
    print_threads();
    enum status status = verdict(r, text, sizeof text);
    if (r->trace) {
        bool whole = trace_close(r->trace, status != STATUS_INTERRUPTED);
        r->trace = NULL;
        if (!whole && status == STATUS_VALID) {
            status = STATUS_DEGRADED;
            snprintf(text, sizeof text, "DEGRADED: trace: %s could not be ended",
                     r->cfg.trace.file);
        }
        printf("# trace %s%s\n", r->cfg.trace.file, whole ? "" : " (not whole)");
    }
    printf("# adapter xxh3:%016llx\n# %s\n", (unsigned long long)r->last.adapter_xxh3, text);
    fflush(stdout);
    return status;
}

static void load_config(struct run *r, int argc, char **argv)
{
    const char *path = argc > 1 && !strchr(argv[1], '=') ? argv[1] : NULL;
    int first = path ? 2 : 1;
    int mistakes = config_load(&r->cfg, path, argc - first, argv + first);
    if (mistakes)
        exit(STATUS_USAGE);
}

static int run_main(int argc, char **argv)
{
    struct run *r = mem_alloc(MEM_OTHER, sizeof *r);
    r->begun_ns = clock_ns();
    load_config(r, argc, argv);
    fault_load();
    stop_listen();
    r->comm = comm_start(&argc, &argv);
    share_config(r);
    take_run_dir(r);
    r->last.score = r->last.train_loss = NAN;
    r->progress = r->comm->rank == 0 ? job_progress() : NULL;
    open_all(r);
    if (r->loop.server) {
        open_trace(r, argc, argv);
        print_header(r, argc, argv);
    }
    r->start_ns = clock_ns();
    power_watch_start(&r->power);
    loop_run(&r->loop, stop_flag());
    enum status status = r->loop.server ? conclude(r) : STATUS_VALID;
    power_watch_stop(&r->power);
    bool clean = loop_clean(&r->loop);
    transport_flush(&r->transport, transport_now(&r->transport) + 2000000000);
    transport_close(&r->transport, clean);
    pool_close();
    comm_exit((int)status, clean);
}

const struct cmd cmd_run = {
    .name = "run",
    .usage = "[CONFIG] [section.key=value ...]",
    .help = "one method, one seed: rounds, live progress, summary, trace file",
    .details =
        "CONFIG is an ini file; what it leaves out has its default, and an argument\n"
        "section.key=value overrides both. All mistakes are reported before anything starts.\n"
        "The last lines are '# adapter xxh3:HASH', equal for equal results, and the verdict:\n"
        "# VALID, # INVALID: why, # DEGRADED: what was lost, or # INTERRUPTED: how to go on.\n\n"
        "SIGINT, SIGTERM and SIGUSR1 stop the run at the end of its round.\n\n"
        "  fstq run configs/quadratic.ini\n"
        "  fstq run configs/quadratic.ini fed.method=fedavg/fp16 run.seed=7\n"
        "  fstq run configs/quadratic.ini net.transport=sim fed.clients=1000\n"
        "  fstq-run -np 3 run configs/quadratic.ini run.dir=q1            with checkpoints\n"
        "  fstq-run -np 3 run configs/quadratic.ini run.dir=q1 run.resume=on\n",
    .run = run_main,
};
