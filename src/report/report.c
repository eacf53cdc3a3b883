#include "report/report.h"

#include "base/mem.h"
#include "base/stats.h"
#include "base/table.h"
#include "trace/figures.h"
#include "trace/tally.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const report_part_name[6] = {"header",  "directory", "scales",
                                         "indices", "tags",      "values"};

size_t report_run_count(const struct trace_file *f)
{
    return f->n[REC_RUNS] ? f->n[REC_RUNS] : 1;
}

int32_t report_run_id(const struct trace_file *f, size_t i)
{
    size_t n;
    const struct rec_run *rows = report_rows(f, REC_RUNS, &n);
    return i < n ? rows[i].run : 0;
}

const char *report_method(const struct trace_file *f, int32_t run)
{
    size_t n;
    const struct rec_run *rows = report_rows(f, REC_RUNS, &n);
    for (size_t i = 0; i < n; i++)
        if (rows[i].run == run)
            return rows[i].method;
    return "";
}

// Sums.

struct report_bytes report_sum_bytes(const struct trace_file *f, int32_t run)
{
    struct report_bytes b = {.nmse_median = NAN};
    size_t n, measured = 0;
    const struct rec_message *m = report_rows(f, REC_MESSAGES, &n);
    double *nmse = mem_alloc(MEM_TRACE, (n + 1) * sizeof *nmse);
    for (size_t i = 0; i < n; i++) {
        if (m[i].run != run || m[i].status == MESSAGE_LOST || m[i].frame_bytes <= 0)
            continue;
        const int64_t part[6] = {m[i].header_bytes,  m[i].directory_bytes, m[i].scales_bytes,
                                 m[i].indices_bytes, m[i].tags_bytes,      m[i].values_bytes};
        b.frames += m[i].vector == 0;
        if (m[i].coded_on[0] && !b.coded_on[0])
            memcpy(b.coded_on, m[i].coded_on, sizeof b.coded_on);
        else if (m[i].coded_on[0] && strcmp(b.coded_on, m[i].coded_on) != 0)
            strcpy(b.coded_on, "several devices");
        stats_add(&b.total, m[i].frame_bytes);
        for (int k = 0; k < 6; k++)
            stats_add(&b.part[k], part[k] > 0 ? part[k] : 0);
        for (int k = 0; k < RECORD_WIDTHS; k++) {
            stats_add(&b.kept[k], m[i].kept[k] > 0 ? m[i].kept[k] : 0);
            stats_add(&b.values, m[i].kept[k] > 0 ? m[i].kept[k] : 0);
        }
        if (m[i].vector == 0 && isfinite(m[i].nmse))
            nmse[measured++] = m[i].nmse;
    }
    if (measured)
        b.nmse_median = stats_of(nmse, measured).median;
    mem_free(nmse);
    return b;
}

static int by_client(const void *a, const void *b)
{
    const struct report_client *x = a, *y = b;
    return x->client < y->client ? -1 : x->client > y->client;
}

static void add_figures(const struct trace_file *f, int32_t run, struct report_client *c, size_t n)
{
    size_t n_links, n_known;
    const struct rec_link *l = report_rows(f, REC_LINKS, &n_links);
    struct figures sums = {0};
    for (size_t i = 0; i < n_links; i++)
        if (l[i].run == run)
            figures_add(&sums, REC_LINKS, &l[i], 1);
    struct figures_client *known = figures_clients(&sums, &n_known);
    for (size_t i = 0, k = 0; i < n; i++) {
        while (k < n_known && known[k].client < c[i].client)
            k++;
        bool here = k < n_known && known[k].client == c[i].client;
        bool both = here && known[k].compute_ns > 0 && known[k].comm_ns > 0;
        c[i].g = both ? known[k].compute_ns / known[k].comm_ns : (double)NAN;
        c[i].energy_j = here ? known[k].compute_j + known[k].send_j : (double)NAN;
    }
    mem_free(known);
    figures_free(&sums);
}

static void add_energy(const struct trace_file *f, int32_t run, struct report_client *c, size_t n)
{
    size_t n_events;
    const struct rec_event *e = report_rows(f, REC_EVENTS, &n_events);
    struct report_energy sum;
    double *joule = report_energy_events(f, run, &sum);
    for (size_t i = 0; i < n; i++)
        c[i].measured_j = sum.boards && sum.joule > 0 ? 0 : (double)NAN;
    for (size_t i = 0; i < n_events && n; i++) {
        struct report_client key = {.client = e[i].client}, *hit = NULL;
        if (joule[i] > 0 && e[i].run == run)
            hit = bsearch(&key, c, n, sizeof *c, by_client);
        if (hit)
            hit->measured_j += joule[i];
    }
    mem_free(joule);
}

struct report_client *report_sum_clients(const struct trace_file *f, int32_t run, size_t *n_out)
{
    size_t n, n_events, n_clients = 0;
    const struct rec_message *m = report_rows(f, REC_MESSAGES, &n);
    const struct rec_event *e = report_rows(f, REC_EVENTS, &n_events);
    struct report_client *c = mem_alloc(MEM_TRACE, (n + 1) * sizeof *c);
    for (size_t i = 0; i < n; i++)
        if (m[i].run == run && m[i].client >= 0)
            c[n_clients++] = (struct report_client){
                .client = m[i].client,
                .rank = m[i].rank,
                .asked = m[i].vector == 0,
                .ok = m[i].vector == 0 && m[i].status == MESSAGE_OK,
                .lost = m[i].status == MESSAGE_LOST,
                .refused = m[i].status != MESSAGE_OK && m[i].status != MESSAGE_LOST,
                .bytes = m[i].frame_bytes > 0 ? m[i].frame_bytes : 0};
    if (n_clients)
        qsort(c, n_clients, sizeof *c, by_client);
    size_t kept = 0;
    for (size_t i = 0; i < n_clients; i++) {
        if (kept && c[kept - 1].client == c[i].client) {
            c[kept - 1].asked += c[i].asked;
            c[kept - 1].ok += c[i].ok;
            c[kept - 1].lost += c[i].lost;
            c[kept - 1].refused += c[i].refused;
            stats_add(&c[kept - 1].bytes, c[i].bytes);
        } else {
            c[kept++] = c[i];
        }
    }
    for (size_t i = 0; i < n_events; i++) {
        struct report_client key = {.client = e[i].client}, *hit = NULL;
        if (kept && e[i].run == run && e[i].stage == STAGE_TRAIN)
            hit = bsearch(&key, c, kept, sizeof *c, by_client);
        if (hit) {
            stats_add(&hit->train_ns, e[i].dur_ns);
            hit->trained++;
        }
    }
    add_figures(f, run, c, kept);
    add_energy(f, run, c, kept);
    *n_out = kept;
    return c;
}

void report_tally(const struct trace_file *f, int32_t run, struct tally *t)
{
    size_t n;
    const struct rec_event *e = report_rows(f, REC_EVENTS, &n);
    memset(t, 0, sizeof *t);
    for (size_t i = 0; i < n; i++)
        if (e[i].run == run)
            tally_add(t, &e[i], 1);
}

// Sections.

static void print_table(FILE *out, const struct table_col *cols, size_t n, struct table *t)
{
    *t = (struct table){.out = out, .n_cols = (int)n};
    memcpy(t->col, cols, n * sizeof *cols);
    table_head(t);
}

void report_head(FILE *out, const struct trace_file *f, const char *path)
{
    size_t n;
    const struct rec_rank *ranks = report_rows(f, REC_RANKS, &n);
    size_t hosts = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < i && strcmp(ranks[k].host, ranks[i].host) != 0)
            k++;
        hosts += k == i;
    }
    fprintf(out, "# trace %s\n", path);
    fprintf(out, "# written by fstq %s (%s), begun %s\n", f->suite_version, f->git_rev,
            f->created_utc);
    if (f->command_line[0])
        fprintf(out, "# command %s\n", f->command_line);
    fprintf(out, "# %zu run%s, %lld rounds committed", report_run_count(f),
            report_run_count(f) == 1 ? "" : "s", (long long)f->rounds_committed);
    if (n)
        fprintf(out, ", %zu rank%s on %zu host%s", n, n == 1 ? "" : "s", hosts,
                hosts == 1 ? "" : "s");
    fprintf(out, "\n");
}

// Lines of a text, each behind a '#'.
static void print_text(FILE *out, const char *head, const char *text)
{
    if (!text || !text[0])
        return;
    fprintf(out, "# %s\n", head);
    for (const char *line = text; *line;) {
        int len = (int)strcspn(line, "\n");
        fprintf(out, "#   %.*s\n", len, line);
        line += len;
        line += *line == '\n';
    }
}

static void print_memory(FILE *out, const struct rec_rank *r)
{
    bool any = false;
    for (int k = 0; k < MEM_PURPOSES; k++) {
        char text[32];
        if (r->mem_peak_bytes[k] <= 0)
            continue;
        if (!any)
            fprintf(out, "# memory at most booked by rank %d:", r->rank);
        fprintf(out, "%s %s %s", any ? "," : "", mem_purpose_name[k],
                fmt_mib(text, (uint64_t)r->mem_peak_bytes[k]));
        any = true;
    }
    if (any)
        fprintf(out, "\n");
}

void report_meta(FILE *out, const struct trace_file *f)
{
    static const struct table_col cols[] = {{"rank", "", 5, TABLE_RIGHT},
                                            {"host", "", 16, TABLE_LEFT},
                                            {"role", "", 7, TABLE_LEFT},
                                            {"threads", "", 7, TABLE_RIGHT},
                                            {"cpuset", "", 12, TABLE_LEFT},
                                            {"gpu", "", 12, TABLE_LEFT},
                                            {"pid", "", 8, TABLE_RIGHT},
                                            {"clock", "at start, ns", 12, TABLE_RIGHT},
                                            {"clock", "at end, ns", 10, TABLE_RIGHT},
                                            {"+-", "", 10, TABLE_NS},
                                            {"peak", "MiB", 9, TABLE_RIGHT}};
    size_t n;
    const struct rec_rank *r = report_rows(f, REC_RANKS, &n);
    struct table t;
    if (n)
        print_table(out, cols, ARRAY_LEN(cols), &t);
    for (size_t i = 0; i < n; i++) {
        char text[7][32];
        snprintf(text[0], sizeof text[0], "%d", r[i].rank);
        snprintf(text[1], sizeof text[1], "%d", r[i].threads);
        snprintf(text[2], sizeof text[2], "%lld", (long long)r[i].pid);
        snprintf(text[3], sizeof text[3], "%lld", (long long)r[i].clock_offset_start_ns);
        snprintf(text[4], sizeof text[4], "%lld", (long long)r[i].clock_offset_end_ns);
        fmt_whole(text[5], r[i].clock_rtt_ns >= 0 ? r[i].clock_rtt_ns / 2 : -1);
        fmt_mib(text[6], r[i].rss_peak_bytes > 0 ? (uint64_t)r[i].rss_peak_bytes : 0);
        table_row(&t, (const char *[]){text[0], r[i].host, r[i].role, text[1], r[i].cpuset,
                                       r[i].gpu, text[2], text[3], text[4], text[5],
                                       r[i].rss_peak_bytes > 0 ? text[6] : "-"});
    }
    for (size_t i = 0; i < n; i++)
        print_memory(out, &r[i]);
    fprintf(out, "# config\n");
    for (int i = 0; i < f->n_config; i++)
        fprintf(out, "#   %s = %s\n", f->config[i].name, f->config[i].text);
    print_text(out, "environment", f->environment);
    print_text(out, "build", f->build);
    print_text(out, "machine", f->machine);
}

static const struct rec_round *last_round(const struct trace_file *f, int32_t run, size_t *count)
{
    size_t n;
    const struct rec_round *r = report_rows(f, REC_ROUNDS, &n), *last = NULL;
    *count = 0;
    for (size_t i = 0; i < n; i++) {
        if (r[i].run != run)
            continue;
        (*count)++;
        if (!last || r[i].version >= last->version)
            last = &r[i];
    }
    return last;
}

void report_runs(FILE *out, const struct trace_file *f)
{
    static const struct table_col cols[] = {
        {"run", "", 4, TABLE_RIGHT},        {"seed", "", 8, TABLE_RIGHT},
        {"rounds", "", 7, TABLE_RIGHT},     {"loss", "last", 11, TABLE_RIGHT},
        {"score", "last", 11, TABLE_RIGHT}, {"uplink", "total", 11, TABLE_BYTES},
        {"method", "", 40, TABLE_LEFT},     {"setting", "", 20, TABLE_LEFT}};
    size_t n;
    const struct rec_run *runs = report_rows(f, REC_RUNS, &n);
    struct table t;
    print_table(out, cols, ARRAY_LEN(cols), &t);
    for (size_t i = 0; i < n; i++) {
        char text[6][32];
        size_t rounds;
        const struct rec_round *last = last_round(f, runs[i].run, &rounds);
        snprintf(text[0], sizeof text[0], "%d", runs[i].run);
        snprintf(text[1], sizeof text[1], "%lld", (long long)runs[i].seed);
        fmt_count(text[2], (int64_t)rounds);
        fmt_fixed(text[3], last ? last->train_loss : NAN, 11, 6);
        fmt_fixed(text[4], last ? last->score : NAN, 11, 6);
        fmt_whole(text[5], last ? last->uplink_total_bytes : -1);
        table_row(&t, (const char *[]){text[0], text[1], text[2], text[3], text[4], text[5],
                                       runs[i].method, runs[i].setting});
    }
}

void report_summary(FILE *out, const struct trace_file *f, int32_t run)
{
    static const struct table_col cols[] = {{"figure", "", 28, TABLE_LEFT},
                                            {"value", "", 14, TABLE_RIGHT},
                                            {"unit", "", 8, TABLE_LEFT}};
    size_t n;
    const struct rec_summary *s = report_rows(f, REC_SUMMARY, &n);
    struct table t;
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        char text[32];
        if (s[i].run != run)
            continue;
        if (!any)
            print_table(out, cols, ARRAY_LEN(cols), &t);
        any = true;
        bool ns = strcmp(s[i].unit, "ns") == 0, bytes = strncmp(s[i].unit, "byte", 4) == 0;
        bool scaled = (ns || bytes) && table_for_people() && s[i].value >= 0;
        if (scaled && ns)
            fmt_time(text, (int64_t)s[i].value);
        else if (scaled)
            fmt_bytes(text, (int64_t)s[i].value);
        else if (ns || bytes)
            fmt_whole(text, (int64_t)s[i].value);
        else
            fmt_fixed(text, s[i].value, 14, s[i].value == floor(s[i].value) ? 0 : 6);
        table_row(&t, (const char *[]){s[i].key, text, scaled ? "" : s[i].unit});
    }
}

// Is row i of n among the `most` that a condensed table shows: first, last, evenly between?
static bool shown(size_t i, size_t n, size_t most)
{
    if (!most || n <= most)
        return true;
    return i == 0 || i * (most - 1) / (n - 1) != (i - 1) * (most - 1) / (n - 1);
}

static const struct table_col round_cols[] = {
    {"round", "", 7, TABLE_RIGHT},        {"sampled", "", 7, TABLE_RIGHT},
    {"arrived", "", 7, TABLE_RIGHT},      {"lost", "", 5, TABLE_RIGHT},
    {"refused", "", 7, TABLE_RIGHT},      {"loss", "", 11, TABLE_RIGHT},
    {"score", "", 11, TABLE_RIGHT},       {"uplink", "", 10, TABLE_BYTES},
    {"uplink", "total", 10, TABLE_BYTES}, {"time", "measured", 10, TABLE_NS},
    {"time", "modelled", 10, TABLE_NS},   {"energy", "J", 9, TABLE_RIGHT}};

void report_rounds(FILE *out, const struct trace_file *f, int32_t run, size_t most)
{
    size_t n, of_run, at = 0, printed = 0;
    const struct rec_round *r = report_rows(f, REC_ROUNDS, &n);
    struct table t;
    if (!last_round(f, run, &of_run)) {
        fprintf(out, "# no rounds\n");
        return;
    }
    print_table(out, round_cols, ARRAY_LEN(round_cols), &t);
    for (size_t i = 0; i < n; i++) {
        char text[12][32];
        if (r[i].run != run || !shown(at++, of_run, most))
            continue;
        snprintf(text[0], sizeof text[0], "%d", r[i].version);
        snprintf(text[1], sizeof text[1], "%d", r[i].sampled);
        snprintf(text[2], sizeof text[2], "%d", r[i].arrived);
        snprintf(text[3], sizeof text[3], "%d", r[i].lost);
        snprintf(text[4], sizeof text[4], "%d", r[i].rejected);
        fmt_fixed(text[5], r[i].train_loss, 11, 6);
        fmt_fixed(text[6], r[i].score, 11, 6);
        fmt_whole(text[7], r[i].uplink_bytes);
        fmt_whole(text[8], r[i].uplink_total_bytes);
        fmt_whole(text[9], r[i].time_measured_ns);
        fmt_whole(text[10], r[i].time_modelled_ns);
        fmt_fixed(text[11], r[i].energy_j, 9, 3);
        table_row(&t, (const char *[]){text[0], text[1], text[2], text[3], text[4], text[5],
                                       text[6], text[7], text[8], text[9], text[10], text[11]});
        printed++;
    }
    if (printed < of_run)
        fprintf(out, "# %zu of %zu rounds; --rounds prints all\n", printed, of_run);
}

void report_stages(FILE *out, const struct trace_file *f, int32_t run)
{
    struct tally t;
    report_tally(f, run, &t);
    tally_print(&t, out);
    tally_free(&t);
}

void report_bytes(FILE *out, const struct trace_file *f, int32_t run)
{
    static const struct table_col cols[] = {{"part", "", 12, TABLE_LEFT},
                                            {"bytes", "", 14, TABLE_RIGHT},
                                            {"share", "%", 7, TABLE_RIGHT},
                                            {"a frame", "B", 12, TABLE_RIGHT},
                                            {"a value", "bit", 9, TABLE_RIGHT}};
    struct report_bytes b = report_sum_bytes(f, run);
    struct table t;
    char text[4][32];
    if (!b.frames) {
        fprintf(out, "# no update frames\n");
        return;
    }
    print_table(out, cols, ARRAY_LEN(cols), &t);
    for (int k = 0; k <= 6; k++) {
        double bytes = (double)(k < 6 ? b.part[k] : b.total);
        fmt_count(text[0], k < 6 ? b.part[k] : b.total);
        fmt_fixed(text[1], 100.0 * bytes / (double)b.total, 7, 2);
        fmt_fixed(text[2], bytes / (double)b.frames, 12, 1);
        fmt_fixed(text[3], b.values ? 8.0 * bytes / (double)b.values : NAN, 9, 4);
        table_row(&t, (const char *[]){k < 6 ? report_part_name[k] : "frame", text[0], text[1],
                                       text[2], text[3]});
    }
    fprintf(out, "# %s update frames; values by width:", fmt_count(text[0], b.frames));
    for (int k = 0; k < RECORD_WIDTHS; k++)
        if (b.kept[k])
            fprintf(out, "  %s at %d bit", fmt_count(text[0], b.kept[k]), record_width_bits[k]);
    if (isfinite(b.nmse_median))
        fprintf(out, "; median NMSE %.3g", b.nmse_median);
    if (b.coded_on[0])
        fprintf(out, "; coded on %s", b.coded_on);
    fprintf(out, "\n");
}

// Tensors are few, so rows of one tensor are found by looking at all.
int32_t report_sum_tensors(const struct trace_file *f, int32_t run, struct rec_alloc *sum,
                           int32_t most)
{
    size_t n;
    const struct rec_alloc *a = report_rows(f, REC_ALLOC, &n);
    int32_t tensors = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t t = 0;
        if (a[i].run != run)
            continue;
        while (t < tensors && sum[t].tensor != a[i].tensor)
            t++;
        if (t == most)
            continue;
        if (t == tensors)
            sum[tensors++] = (struct rec_alloc){.tensor = a[i].tensor};
        memcpy(sum[t].name, a[i].name, sizeof sum[t].name);
        int64_t messages = (int64_t)sum[t].messages + (a[i].messages > 0 ? a[i].messages : 0);
        sum[t].messages = messages < INT32_MAX ? (int32_t)messages : INT32_MAX;
        for (int k = 0; k < RECORD_WIDTHS; k++)
            stats_add(&sum[t].kept[k], a[i].kept[k]);
    }
    return tensors;
}

// Shares in percent, then the mean.
static void print_widths(struct table *t, const struct rec_alloc *a, const bool *used)
{
    char text[RECORD_WIDTHS + 1][32];
    const char *cells[RECORD_WIDTHS + 2] = {a->name};
    double all = 0, bits = 0;
    int n = 1;
    for (int k = 0; k < RECORD_WIDTHS; k++) {
        all += (double)a->kept[k];
        bits += (double)a->kept[k] * record_width_bits[k];
    }
    for (int k = 0; k < RECORD_WIDTHS; k++)
        if (used[k])
            cells[n++] = fmt_fixed(text[k], 100 * (double)a->kept[k] / all, 7, 2);
    cells[n] = fmt_fixed(text[RECORD_WIDTHS], bits / all, 7, 3);
    table_row(t, cells);
}

void report_widths(FILE *out, const struct trace_file *f, int32_t run, size_t most)
{
    struct table_col cols[RECORD_WIDTHS + 2] = {{"tensor", "", 24, TABLE_LEFT}};
    char head[RECORD_WIDTHS][16];
    bool used[RECORD_WIDTHS] = {false};
    size_t rows = f->n[REC_ALLOC];
    if (!rows)
        return;
    struct rec_alloc *sum = mem_alloc(MEM_TRACE, rows * sizeof *sum);
    int32_t tensors = report_sum_tensors(f, run, sum, (int32_t)rows), n = 1;
    for (int32_t i = 0; i < tensors; i++)
        for (int k = 0; k < RECORD_WIDTHS; k++)
            used[k] |= sum[i].kept[k] > 0;
    for (int k = 0; k < RECORD_WIDTHS; k++)
        if (used[k]) {
            snprintf(head[k], sizeof head[k], "%d bit", record_width_bits[k]);
            cols[n++] = (struct table_col){head[k], "%", 7, TABLE_RIGHT};
        }
    cols[n++] = (struct table_col){"mean", "bit", 7, TABLE_RIGHT};
    struct table t;
    if (tensors)
        print_table(out, cols, (size_t)n, &t);
    for (int32_t i = 0; i < tensors; i++)
        if (shown((size_t)i, (size_t)tensors, most))
            print_widths(&t, &sum[i], used);
    mem_free(sum);
}

void report_sensors(FILE *out, const struct trace_file *f, int32_t run)
{
    static const struct table_col cols[] = {{"rail", "", 24, TABLE_LEFT},
                                            {"rank", "", 5, TABLE_RIGHT},
                                            {"readings", "", 9, TABLE_RIGHT},
                                            {"mean", "W", 9, TABLE_RIGHT},
                                            {"most", "W", 9, TABLE_RIGHT}};
    size_t n;
    const struct rec_sensor *r = report_rows(f, REC_SENSORS, &n);
    struct table t;
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        bool first = r[i].run == run;
        for (size_t k = 0; k < i && first; k++)
            first = r[k].run != run || r[k].rank != r[i].rank || strcmp(r[k].rail, r[i].rail) != 0;
        if (!first)
            continue;
        double sum = 0, top = 0;
        int64_t count = 0;
        for (size_t k = i; k < n; k++) {
            if (r[k].run != run || r[k].rank != r[i].rank || strcmp(r[k].rail, r[i].rail) != 0)
                continue;
            count++;
            sum += r[k].milliwatt;
            top = r[k].milliwatt > top ? r[k].milliwatt : top;
        }
        char text[4][32];
        if (!any)
            print_table(out, cols, ARRAY_LEN(cols), &t);
        any = true;
        snprintf(text[0], sizeof text[0], "%d", r[i].rank);
        table_row(&t, (const char *[]){r[i].rail, text[0], fmt_count(text[1], count),
                                       fmt_fixed(text[2], sum / (double)count / 1000, 9, 3),
                                       fmt_fixed(text[3], top / 1000, 9, 3)});
    }
}

static int by_trouble(const void *a, const void *b)
{
    const struct report_client *x = a, *y = b;
    int32_t tx = x->lost + x->refused, ty = y->lost + y->refused;
    if (tx != ty)
        return tx > ty ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return by_client(a, b);
}

void report_clients(FILE *out, const struct trace_file *f, int32_t run, size_t most)
{
    static const struct table_col cols[] = {{"client", "", 7, TABLE_RIGHT},
                                            {"rank", "", 5, TABLE_RIGHT},
                                            {"asked", "", 7, TABLE_RIGHT},
                                            {"arrived", "", 7, TABLE_RIGHT},
                                            {"lost", "", 6, TABLE_RIGHT},
                                            {"refused", "", 7, TABLE_RIGHT},
                                            {"uplink", "", 10, TABLE_BYTES},
                                            {"train", "mean", 10, TABLE_NS},
                                            {"G", "modelled", 9, TABLE_RIGHT},
                                            {"energy", "J modelled", 10, TABLE_RIGHT},
                                            {"energy", "J measured", 10, TABLE_RIGHT}};
    size_t n;
    struct report_client *c = report_sum_clients(f, run, &n);
    struct table t;
    if (!n)
        fprintf(out, "# no clients\n");
    else
        print_table(out, cols, ARRAY_LEN(cols), &t);
    bool few = !most || n <= most;
    if (!few)
        qsort(c, n, sizeof *c, by_trouble);
    for (size_t i = 0; i < (few ? n : most); i++) {
        char text[11][32];
        snprintf(text[0], sizeof text[0], "%d", c[i].client);
        snprintf(text[1], sizeof text[1], "%d", c[i].rank);
        fmt_count(text[2], c[i].asked);
        fmt_count(text[3], c[i].ok);
        fmt_count(text[4], c[i].lost);
        fmt_count(text[5], c[i].refused);
        fmt_whole(text[6], c[i].bytes);
        fmt_whole(text[7], c[i].trained ? c[i].train_ns / c[i].trained : -1);
        fmt_fixed(text[8], c[i].g, 9, 4);
        fmt_fixed(text[9], c[i].energy_j, 10, 3);
        fmt_fixed(text[10], c[i].measured_j, 10, 3);
        table_row(&t, (const char *[]){text[0], text[1], text[2], text[3], text[4], text[5],
                                       text[6], text[7], text[8], text[9], text[10]});
    }
    if (!few)
        fprintf(out,
                "# %zu of %zu clients, those with most losses and bytes; --clients prints all\n",
                most, n);
    mem_free(c);
}

// Verdict.

static double summary_value(const struct trace_file *f, const char *key)
{
    size_t n;
    double v = NAN;
    const struct rec_summary *s = report_rows(f, REC_SUMMARY, &n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(s[i].key, key) == 0)
            v = s[i].value;
    return v;
}

int report_verdict(FILE *out, const struct trace_file *f)
{
    size_t runs = report_run_count(f), rounds;
    const struct rec_round *last = last_round(f, report_run_id(f, runs - 1), &rounds);
    double status = summary_value(f, "status");
    if (last)
        fprintf(out, "# adapter xxh3:%016llx\n", (unsigned long long)last->adapter_xxh3);
    if (f->damaged)
        fprintf(out,
                "# DAMAGED: %lld parts of the file could not be read; where its journal is "
                "left, --recover rebuilds it\n",
                (long long)f->damaged);
    else if (!f->complete)
        fprintf(out,
                "# INCOMPLETE: the run goes on, was interrupted or was killed; what is here was "
                "committed\n");
    else if (status == STATUS_CHECK)
        fprintf(out, "# INVALID: a check failed\n");
    else if (status == STATUS_DEGRADED)
        fprintf(out, "# DEGRADED: clients or trace were lost\n");
    else if (status == STATUS_VALID)
        fprintf(out, "# VALID\n");
    else
        fprintf(out, "# COMPLETE\n");
    return f->damaged ? STATUS_DEGRADED : STATUS_VALID;
}
