#include "report/page.h"

#include "base/mem.h"
#include "base/stats.h"
#include "base/table.h"
#include "report/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *setting(const struct trace_file *f, const char *name)
{
    for (int i = 0; i < f->n_config; i++)
        if (strcmp(f->config[i].name, name) == 0)
            return f->config[i].text;
    return "";
}

static const struct rec_run *run_row(const struct trace_file *f, int32_t run)
{
    size_t n;
    const struct rec_run *r = report_rows(f, REC_RUNS, &n);
    for (size_t i = 0; i < n; i++)
        if (r[i].run == run)
            return &r[i];
    return NULL;
}

// Rounds by column; times are summed, for a curve over time needs no more.
enum column { VERSION, SCORE, LOSS, UPLINK, MEASURED, MODELLED, ENERGY, ENERGY_MODELLED, COLUMNS };
static const char *const column_name[COLUMNS] = {"version",           "score",
                                                 "train_loss",        "uplink_bytes",
                                                 "time_measured_ns",  "time_modelled_ns",
                                                 "energy_measured_j", "energy_modelled_j"};

static double column_of(const struct rec_round *r, enum column k, double *sum)
{
    switch (k) {
    case VERSION:
        return r->version;
    case SCORE:
        return r->score;
    case LOSS:
        return r->train_loss;
    case UPLINK:
        return (double)r->uplink_total_bytes;
    case MEASURED:
        return *sum += (double)(r->time_measured_ns > 0 ? r->time_measured_ns : 0);
    case MODELLED:
        return *sum += (double)(r->time_modelled_ns > 0 ? r->time_modelled_ns : 0);
    case ENERGY:
        return *sum += isfinite(r->energy_j) ? r->energy_j : 0;
    case ENERGY_MODELLED:
        return *sum += isfinite(r->energy_modelled_j) ? r->energy_modelled_j : 0;
    case COLUMNS:
        break;
    }
    return (double)NAN;
}

static void put_rounds(struct jsonw *j, const struct trace_file *f, int32_t run)
{
    size_t n;
    const struct rec_round *r = report_rows(f, REC_ROUNDS, &n);
    jsonw_key(j, "rounds");
    jsonw_object(j);
    j->compact = true;
    for (enum column k = 0; k < COLUMNS; k++) {
        double sum = 0;
        jsonw_key(j, column_name[k]);
        jsonw_array(j);
        for (size_t i = 0; i < n; i++)
            if (r[i].run == run)
                jsonw_num(j, column_of(&r[i], k, &sum));
        jsonw_end(j);
    }
    j->compact = false;
    jsonw_end(j);
}

// Stages that are no part of another, by rank; waiting apart, for it is no work.
static void put_stages_of(struct jsonw *j, const struct trace_file *f, int32_t run, int32_t rank)
{
    size_t n;
    const struct rec_event *e = report_rows(f, REC_EVENTS, &n);
    int64_t time[STAGE_COUNT] = {0}, count[STAGE_COUNT] = {0};
    for (size_t i = 0; i < n; i++) {
        if (e[i].run != run || e[i].rank != rank || stage_table[e[i].stage].inner)
            continue;
        stats_add(&time[e[i].stage], e[i].dur_ns > 0 ? e[i].dur_ns : 0);
        count[e[i].stage]++;
    }
    for (int s = STAGE_PAD + 1; s < STAGE_COUNT; s++) {
        if (!count[s] || s == STAGE_ROUND)
            continue;
        jsonw_object(j);
        jsonw_key_int(j, "rank", rank);
        jsonw_key_text(j, "stage", stage_table[s].name);
        jsonw_key_text(j, "lane", lane_name[stage_table[s].lane]);
        jsonw_key_int(j, "count", count[s]);
        jsonw_key_int(j, "time_ns", time[s]);
        jsonw_end(j);
    }
}

static void put_stages(struct jsonw *j, const struct trace_file *f, int32_t run)
{
    size_t n;
    const struct rec_rank *r = report_rows(f, REC_RANKS, &n);
    jsonw_key(j, "stages");
    jsonw_array(j);
    j->compact = true;
    for (size_t i = 0; i < n; i++)
        put_stages_of(j, f, run, r[i].rank);
    if (!n)
        put_stages_of(j, f, run, 0);
    j->compact = false;
    jsonw_end(j);
}

static void put_bytes(struct jsonw *j, const struct trace_file *f, int32_t run)
{
    struct report_bytes b = report_sum_bytes(f, run);
    jsonw_key(j, "bytes");
    jsonw_object(j);
    jsonw_key_int(j, "frames", b.frames);
    jsonw_key_int(j, "total", b.total);
    jsonw_key_int(j, "values_told", b.values);
    jsonw_key_num(j, "nmse_median", b.nmse_median);
    jsonw_key(j, "parts");
    jsonw_object(j);
    for (int k = 0; k < 6; k++)
        jsonw_key_int(j, report_part_name[k], b.part[k]);
    jsonw_end(j);
    jsonw_end(j);
}

static void put_widths(struct jsonw *j, const struct trace_file *f, int32_t run)
{
    size_t rows = f->n[REC_ALLOC];
    struct rec_alloc *sum = mem_alloc(MEM_TRACE, (rows + 1) * sizeof *sum);
    int32_t n = report_sum_tensors(f, run, sum, (int32_t)rows);
    jsonw_key(j, "widths");
    jsonw_array(j);
    j->compact = true;
    for (int32_t i = 0; i < n; i++) {
        double all = 0, bits = 0;
        jsonw_object(j);
        jsonw_key_text(j, "tensor", sum[i].name);
        jsonw_key(j, "values_by_width");
        jsonw_object(j);
        for (int k = 0; k < RECORD_WIDTHS; k++) {
            char width[16];
            all += (double)sum[i].kept[k];
            bits += (double)sum[i].kept[k] * record_width_bits[k];
            snprintf(width, sizeof width, "%d", record_width_bits[k]);
            if (sum[i].kept[k])
                jsonw_key_int(j, width, sum[i].kept[k]);
        }
        jsonw_end(j);
        jsonw_key_num(j, "mean_bits", bits / all);
        jsonw_end(j);
    }
    j->compact = false;
    jsonw_end(j);
    mem_free(sum);
}

// Links as they were applied: of every client and way the rates, and what they carried.
struct way {
    int32_t client, up;
    int64_t n, bytes, lost;
    double least, most, sum, latency_ns;
};

static int by_way(const void *a, const void *b)
{
    const struct way *x = a, *y = b;
    if (x->client != y->client)
        return x->client < y->client ? -1 : 1;
    return x->up < y->up ? -1 : x->up > y->up;
}

static size_t sum_ways(const struct trace_file *f, int32_t run, struct way *w)
{
    size_t n, kept = 0, at = 0;
    const struct rec_link *l = report_rows(f, REC_LINKS, &n);
    for (size_t i = 0; i < n; i++)
        if (l[i].run == run && l[i].rate_bps > 0)
            w[at++] = (struct way){l[i].client,
                                   l[i].up,
                                   1,
                                   l[i].bytes,
                                   l[i].lost > 0 ? l[i].lost : 0,
                                   l[i].rate_bps,
                                   l[i].rate_bps,
                                   l[i].rate_bps,
                                   (double)l[i].latency_ns};
    if (at)
        qsort(w, at, sizeof *w, by_way);
    for (size_t i = 0; i < at; i++) {
        if (!kept || by_way(&w[kept - 1], &w[i]) != 0) {
            w[kept++] = w[i];
            continue;
        }
        struct way *x = &w[kept - 1];
        x->n++;
        stats_add(&x->bytes, w[i].bytes);
        stats_add(&x->lost, w[i].lost);
        x->least = w[i].least < x->least ? w[i].least : x->least;
        x->most = w[i].most > x->most ? w[i].most : x->most;
        x->sum += w[i].sum;
        x->latency_ns += w[i].latency_ns;
    }
    return kept;
}

static void put_links(struct jsonw *j, const struct trace_file *f, int32_t run)
{
    struct way *w = mem_alloc(MEM_TRACE, (f->n[REC_LINKS] + 1) * sizeof *w);
    size_t n = sum_ways(f, run, w);
    jsonw_key(j, "links");
    jsonw_array(j);
    j->compact = true;
    for (size_t i = 0; i < n; i++) {
        jsonw_object(j);
        jsonw_key_int(j, "client", w[i].client);
        jsonw_key_text(j, "way", w[i].up ? "up" : "down");
        jsonw_key_int(j, "transfers", w[i].n);
        jsonw_key_int(j, "bytes", w[i].bytes);
        jsonw_key_int(j, "lost", w[i].lost);
        jsonw_key_num(j, "rate_mean_bps", w[i].sum / (double)w[i].n);
        jsonw_key_num(j, "rate_min_bps", w[i].least);
        jsonw_key_num(j, "rate_max_bps", w[i].most);
        jsonw_key_num(j, "latency_mean_ns", w[i].latency_ns / (double)w[i].n);
        jsonw_end(j);
    }
    j->compact = false;
    jsonw_end(j);
    mem_free(w);
}

static void put_energy(struct jsonw *j, const struct trace_file *f, int32_t run)
{
    struct report_energy sum;
    double *joule = report_energy_events(f, run, &sum), stage_j[STAGE_COUNT] = {0};
    double compute = 0, send = 0;
    size_t n, n_links, told = 0;
    const struct rec_event *e = report_rows(f, REC_EVENTS, &n);
    const struct rec_link *l = report_rows(f, REC_LINKS, &n_links);
    for (size_t i = 0; i < n; i++)
        stage_j[e[i].stage] += joule[i];
    mem_free(joule);
    for (size_t i = 0; i < n_links; i++)
        if (l[i].run == run && l[i].up && isfinite(l[i].compute_j) && isfinite(l[i].send_j)) {
            compute += l[i].compute_j;
            send += l[i].send_j;
            told++;
        }
    bool measured = sum.boards && sum.joule > 0;
    jsonw_key(j, "energy");
    jsonw_object(j);
    jsonw_key_num(j, "modelled_compute_j", told ? compute : (double)NAN);
    jsonw_key_num(j, "modelled_send_j", told ? send : (double)NAN);
    jsonw_key_num(j, "measured_j", measured ? sum.joule : (double)NAN);
    jsonw_key(j, "measured_by_stage_j");
    jsonw_object(j);
    for (int s = STAGE_PAD + 1; s < STAGE_COUNT && measured; s++)
        if (stage_j[s] > 0)
            jsonw_key_num(j, stage_table[s].name, stage_j[s]);
    if (measured)
        jsonw_key_num(j, "(no span)", sum.joule - sum.shared_j);
    jsonw_end(j);
    jsonw_end(j);
}

static void put_memory(struct jsonw *j, const struct trace_file *f)
{
    size_t n;
    const struct rec_rank *r = report_rows(f, REC_RANKS, &n);
    jsonw_key(j, "memory");
    jsonw_array(j);
    j->compact = true;
    for (size_t i = 0; i < n; i++) {
        jsonw_object(j);
        jsonw_key_int(j, "rank", r[i].rank);
        jsonw_key_text(j, "host", r[i].host);
        jsonw_key_text(j, "role", r[i].role);
        jsonw_key_text(j, "gpu", r[i].gpu);
        jsonw_key_int(j, "rss_peak_bytes", r[i].rss_peak_bytes);
        jsonw_key(j, "booked_peak_bytes");
        jsonw_object(j);
        for (int k = 0; k < MEM_PURPOSES; k++)
            if (r[i].mem_peak_bytes[k] > 0)
                jsonw_key_int(j, mem_purpose_name[k], r[i].mem_peak_bytes[k]);
        jsonw_end(j);
        jsonw_end(j);
    }
    j->compact = false;
    jsonw_end(j);
}

void page_sentence(const struct page_run *p, char *out, size_t size)
{
    size_t n, rounds = 0;
    const struct rec_round *r = report_rows(p->f, REC_ROUNDS, &n), *last = NULL;
    struct report_bytes b = report_sum_bytes(p->f, p->run);
    int64_t measured = 0, modelled = 0;
    double score = (double)NAN;
    char text[5][32];
    for (size_t i = 0; i < n; i++) {
        if (r[i].run != p->run)
            continue;
        last = &r[i];
        rounds += r[i].version > 0;
        score = isfinite(r[i].score) ? r[i].score : score;
        stats_add(&measured, r[i].time_measured_ns > 0 ? r[i].time_measured_ns : 0);
        stats_add(&modelled, r[i].time_modelled_ns > 0 ? r[i].time_modelled_ns : 0);
    }
    if (!last) {
        snprintf(out, size, "%s: no round yet.", p->label);
        return;
    }
    fmt_fixed(text[0], score, 12, 4);
    fmt_bytes(text[1], last->uplink_total_bytes);
    fmt_time(text[2], modelled);
    fmt_time(text[3], measured);
    fmt_count(text[4], b.frames ? (b.total + b.frames / 2) / b.frames : -1);
    snprintf(out, size,
             "%s: %s B per message; score %s after %zu round%s and %s of uplink%s%s%s%s%s%s.",
             p->label, text[4], text[0], rounds, rounds == 1 ? "" : "s", text[1],
             modelled > 0 ? "; " : "", modelled > 0 ? text[2] : "", modelled > 0 ? " modelled" : "",
             measured > 0 ? modelled > 0 ? ", " : "; " : "", measured > 0 ? text[3] : "",
             measured > 0 ? " measured" : "");
}

void page_run_json(struct jsonw *j, const struct page_run *p)
{
    const struct trace_file *f = p->f;
    const struct rec_run *row = run_row(f, p->run);
    char sentence[1536];
    page_sentence(p, sentence, sizeof sentence);
    const struct {
        const char *name, *text;
    } texts[] = {{"label", p->label},
                 {"file", p->path},
                 {"verdict", sentence},
                 {"method", row ? row->method : ""},
                 {"setting", row ? row->setting : ""},
                 {"command_line", f->command_line},
                 {"suite_version", f->suite_version},
                 {"git_rev", f->git_rev},
                 {"created_utc", f->created_utc},
                 {"pace", setting(f, "net.pace")},
                 {"link", setting(f, "net.link")},
                 {"transport", setting(f, "net.transport")}};
    jsonw_object(j);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        jsonw_key_text(j, texts[i].name, texts[i].text);
    jsonw_key_int(j, "run", p->run);
    jsonw_key_int(j, "seed", row ? row->seed : -1);
    jsonw_key(j, "complete");
    jsonw_bool(j, f->complete);
    jsonw_key_int(j, "damaged", f->damaged);
    put_rounds(j, f, p->run);
    put_stages(j, f, p->run);
    jsonw_key(j, "gantt");
    page_gantt_json(j, f, p->run);
    put_bytes(j, f, p->run);
    put_widths(j, f, p->run);
    put_links(j, f, p->run);
    put_energy(j, f, p->run);
    put_memory(j, f);
    jsonw_end(j);
}
