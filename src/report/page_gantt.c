// One round by client: the one in the middle of the run's, by how long they took.
#include "report/page.h"

#include "base/mem.h"
#include "report/report.h"

#include <stdlib.h>
#include <string.h>

struct bars {
    struct jsonw *j;
    int32_t seen[PAGE_CLIENTS]; // clients, as they come
    int n_seen;
};

static int64_t length(const struct rec_round *r)
{
    return r->time_modelled_ns > 0 ? r->time_modelled_ns : r->time_measured_ns;
}

static int by_length(const void *a, const void *b)
{
    const struct rec_round *x = *(const struct rec_round *const *)a,
                           *y = *(const struct rec_round *const *)b;
    if (length(x) != length(y))
        return length(x) < length(y) ? -1 : 1;
    return x->version < y->version ? -1 : x->version > y->version;
}

static const struct rec_round *middle_round(const struct trace_file *f, int32_t run)
{
    size_t n, of_run = 0;
    const struct rec_round *r = report_rows(f, REC_ROUNDS, &n), *middle = NULL;
    const struct rec_round **sorted = mem_alloc(MEM_TRACE, (n + 1) * sizeof *sorted);
    for (size_t i = 0; i < n; i++)
        if (r[i].run == run && r[i].version > 0 && length(&r[i]) > 0)
            sorted[of_run++] = &r[i];
    if (of_run) {
        qsort(sorted, of_run, sizeof *sorted, by_length);
        middle = sorted[of_run / 2];
    }
    mem_free(sorted);
    return middle;
}

static bool shown(struct bars *b, int32_t client)
{
    for (int i = 0; i < b->n_seen; i++)
        if (b->seen[i] == client)
            return true;
    if (client < 0 || b->n_seen == PAGE_CLIENTS)
        return false;
    b->seen[b->n_seen++] = client;
    return true;
}

static void put_bar(struct bars *b, int32_t client, int32_t rank, const char *part, int64_t start,
                    int64_t end, int64_t bytes)
{
    struct jsonw *j = b->j;
    if (end <= start || !shown(b, client))
        return;
    const struct {
        const char *name;
        int64_t v;
    } ints[] = {
        {"client", client}, {"rank", rank}, {"start_ns", start}, {"end_ns", end}, {"bytes", bytes}};
    jsonw_object(j);
    jsonw_key(j, "part");
    jsonw_text(j, part);
    for (size_t i = 0; i < ARRAY_LEN(ints); i++) {
        jsonw_key(j, ints[i].name);
        jsonw_int(j, ints[i].v);
    }
    jsonw_end(j);
}

// By the model a client downloads, computes, uploads, and waits for the others.
static void put_modelled(struct bars *b, const struct trace_file *f, const struct rec_round *r)
{
    size_t n;
    const struct rec_link *l = report_rows(f, REC_LINKS, &n);
    int64_t downloaded = 0;
    for (size_t i = 0; i < n; i++) {
        if (l[i].run != r->run || l[i].version != r->version)
            continue;
        if (!l[i].up) {
            downloaded = l[i].t_deliver_ns > 0 ? l[i].t_deliver_ns : 0;
            put_bar(b, l[i].client, -1, "download", l[i].t_ready_ns, downloaded, l[i].bytes);
            continue;
        }
        bool paired = i && !l[i - 1].up && l[i - 1].client == l[i].client;
        if (paired)
            put_bar(b, l[i].client, -1, "compute", downloaded, l[i].t_ready_ns, -1);
        put_bar(b, l[i].client, -1, "transfer", l[i].t_ready_ns, l[i].t_deliver_ns, l[i].bytes);
        if (l[i].t_deliver_ns >= 0)
            put_bar(b, l[i].client, -1, "wait", l[i].t_deliver_ns, r->time_modelled_ns, -1);
    }
}

static const char *part_of(const struct rec_event *e)
{
    switch (e->stage) {
    case STAGE_TRAIN:
    case STAGE_ORACLE:
        return "compute";
    case STAGE_ENCODE:
    case STAGE_PRIVACY:
        return "encode";
    case STAGE_DOWNLOAD:
        return "download";
    case STAGE_UPLOAD:
        return "transfer";
    case STAGE_DECODE:
        return "decode";
    default:
        return NULL;
    }
}

// Where spans of it lay on the clock, from the beginning of the round on.
static void put_measured(struct bars *b, const struct trace_file *f, const struct rec_round *r)
{
    size_t n;
    const struct rec_event *e = report_rows(f, REC_EVENTS, &n);
    int64_t origin = INT64_MAX;
    for (size_t i = 0; i < n; i++)
        if (e[i].run == r->run && e[i].version == r->version && e[i].client >= 0 && part_of(&e[i]))
            origin = e[i].t_start_ns < origin ? e[i].t_start_ns : origin;
    for (size_t i = 0; i < n; i++) {
        int64_t start, end;
        if (e[i].run != r->run || e[i].version != r->version || e[i].client < 0 ||
            e[i].flags & (EVENT_MODELLED | EVENT_SUMMED) || !part_of(&e[i]) ||
            __builtin_sub_overflow(e[i].t_start_ns, origin, &start) ||
            __builtin_add_overflow(start, e[i].dur_ns, &end))
            continue;
        put_bar(b, e[i].client, e[i].rank, part_of(&e[i]), start, end,
                e[i].stage == STAGE_UPLOAD ? e[i].bytes_out : -1);
    }
}

void page_gantt_json(struct jsonw *j, const struct trace_file *f, int32_t run)
{
    const struct rec_round *r = middle_round(f, run);
    const struct {
        const char *name;
        void (*put)(struct bars *, const struct trace_file *, const struct rec_round *);
    } kinds[] = {{"modelled", put_modelled}, {"measured", put_measured}};
    if (!r) {
        jsonw_text(j, NULL);
        return;
    }
    jsonw_object(j);
    jsonw_key(j, "version");
    jsonw_int(j, r->version);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct bars b = {.j = j};
        jsonw_key(j, kinds[i].name);
        jsonw_array(j);
        j->compact = true;
        kinds[i].put(&b, f, r);
        j->compact = false;
        jsonw_end(j);
    }
    jsonw_end(j);
}
