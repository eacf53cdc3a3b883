// Measured energy by stage and client. Until each reading a board drew what that reading says; at
// any moment this is shared in equal parts by the spans that the ranks of its host were in.
#include "report/report.h"

#include "base/mem.h"
#include "base/power.h"
#include "base/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct point { // of a rail: what it has drawn since its first reading
    int64_t t_ns;
    double joule;
};

struct rail {
    char name[24];
    struct point *p;
    size_t n;
};

struct board { // what one rank reads: its host's
    int32_t rank;
    char host[64];
    struct rail rail[POWER_RAILS];
    int n;
    double joule, shared_j; // since the first reading; in spans
    size_t readings;
};

struct edge { // a span begins or ends
    int64_t t_ns;
    size_t event;
    bool end;
};

static const char *host_of(const struct trace_file *f, int32_t rank)
{
    size_t n;
    const struct rec_rank *r = report_rows(f, REC_RANKS, &n);
    for (size_t i = 0; i < n; i++)
        if (r[i].rank == rank)
            return r[i].host;
    return "";
}

static struct rail *rail_of(struct board *b, const char *name)
{
    for (int i = 0; i < b->n; i++)
        if (strcmp(b->rail[i].name, name) == 0)
            return &b->rail[i];
    if (b->n == POWER_RAILS)
        return NULL;
    snprintf(b->rail[b->n].name, sizeof b->rail->name, "%s", name);
    return &b->rail[b->n++];
}

// The rails that make up the board, in the order of their readings.
static void read_board(struct board *b, const struct trace_file *f, int32_t run)
{
    size_t n;
    const struct rec_sensor *r = report_rows(f, REC_SENSORS, &n);
    enum power_kind want = POWER_SHARE;
    for (size_t i = 0; i < n; i++)
        if (r[i].run == run && r[i].rank == b->rank && power_kind_of(r[i].rail) == POWER_TOTAL)
            want = POWER_TOTAL;
    for (size_t i = 0; i < n; i++) {
        struct rail *rail = NULL;
        if (r[i].run == run && r[i].rank == b->rank && power_kind_of(r[i].rail) == want)
            rail = rail_of(b, r[i].rail);
        if (!rail || !(r[i].milliwatt >= 0 && r[i].milliwatt < 1e12))
            continue;
        if (!rail->p)
            rail->p = mem_alloc(MEM_TRACE, n * sizeof *rail->p);
        struct point *last = rail->n ? &rail->p[rail->n - 1] : NULL;
        double since_s = last ? ((double)r[i].t_ns - (double)last->t_ns) * 1e-9 : 0;
        if (last && since_s <= 0)
            continue;
        double joule = last ? last->joule + since_s * r[i].milliwatt * 1e-3 : 0;
        rail->p[rail->n++] = (struct point){r[i].t_ns, joule};
        b->readings++;
    }
    for (int i = 0; i < b->n; i++)
        b->joule += b->rail[i].n ? b->rail[i].p[b->rail[i].n - 1].joule : 0;
}

static double rail_until(const struct rail *r, int64_t t_ns)
{
    size_t low = 0, high = r->n;
    if (r->n == 0 || t_ns <= r->p[0].t_ns)
        return 0;
    while (high - low > 1) { // p[low] is at or before t
        size_t mid = low + (high - low) / 2;
        if (r->p[mid].t_ns <= t_ns)
            low = mid;
        else
            high = mid;
    }
    if (high == r->n)
        return r->p[low].joule;
    const struct point *a = &r->p[low], *z = &r->p[high];
    double part = ((double)t_ns - (double)a->t_ns) / ((double)z->t_ns - (double)a->t_ns);
    return a->joule + part * (z->joule - a->joule);
}

static double board_until(const struct board *b, int64_t t_ns)
{
    double joule = 0;
    for (int i = 0; i < b->n; i++)
        joule += rail_until(&b->rail[i], t_ns);
    return joule;
}

static int by_time(const void *a, const void *b)
{
    const struct edge *x = a, *y = b;
    if (x->t_ns != y->t_ns)
        return x->t_ns < y->t_ns ? -1 : 1;
    return (int)y->end - (int)x->end;
}

// Spans of the board's ranks that are no part of another, by their ends. Waiting is none.
static struct edge *edges_of(const struct board *b, const struct trace_file *f, int32_t run,
                             size_t *n_out)
{
    size_t n, at = 0;
    const struct rec_event *e = report_rows(f, REC_EVENTS, &n);
    struct edge *edge = mem_alloc(MEM_TRACE, (2 * n + 1) * sizeof *edge);
    int32_t rank = -1;
    bool here = false;
    for (size_t i = 0; i < n; i++) {
        const struct stage_row *s = &stage_table[e[i].stage];
        if (e[i].run != run || s->inner || e[i].stage == STAGE_WAIT || e[i].dur_ns <= 0 ||
            e[i].flags & (EVENT_MODELLED | EVENT_SUMMED))
            continue;
        if (e[i].rank != rank)
            here = e[i].rank == b->rank || strcmp(host_of(f, e[i].rank), b->host) == 0;
        rank = e[i].rank;
        if (!here)
            continue;
        int64_t end = e[i].t_start_ns;
        if (__builtin_add_overflow(end, e[i].dur_ns, &end))
            continue;
        edge[at++] = (struct edge){e[i].t_start_ns, i, false};
        edge[at++] = (struct edge){end, i, true};
    }
    if (at)
        qsort(edge, at, sizeof *edge, by_time);
    *n_out = at;
    return edge;
}

// Adds to joule[event].
static void share_out(struct board *b, const struct trace_file *f, int32_t run, double *joule)
{
    size_t n, n_active = 0;
    struct edge *edge = edges_of(b, f, run, &n);
    size_t *active = mem_alloc(MEM_TRACE, (n + 1) * sizeof *active);
    double last = 0;
    for (size_t i = 0; i < n; i++) {
        double now = board_until(b, edge[i].t_ns);
        for (size_t k = 0; k < n_active; k++)
            joule[active[k]] += (now - last) / (double)n_active;
        b->shared_j += n_active ? now - last : 0;
        last = now;
        size_t k = 0;
        if (!edge[i].end) {
            active[n_active++] = edge[i].event;
            continue;
        }
        while (active[k] != edge[i].event)
            k++;
        active[k] = active[--n_active];
    }
    mem_free(active);
    mem_free(edge);
}

double *report_energy_events(const struct trace_file *f, int32_t run, struct report_energy *sum)
{
    size_t n, n_events = f->n[REC_EVENTS];
    const struct rec_sensor *r = report_rows(f, REC_SENSORS, &n);
    double *joule = mem_alloc(MEM_TRACE, (n_events + 1) * sizeof *joule);
    *sum = (struct report_energy){0};
    for (size_t i = 0; i < n; i++) {
        bool first = r[i].run == run;
        for (size_t k = 0; k < i && first; k++)
            first = r[k].run != run || r[k].rank != r[i].rank;
        if (!first)
            continue;
        struct board b = {.rank = r[i].rank};
        snprintf(b.host, sizeof b.host, "%s", host_of(f, b.rank));
        read_board(&b, f, run);
        share_out(&b, f, run, joule);
        sum->boards++;
        sum->readings += b.readings;
        sum->joule += b.joule;
        sum->shared_j += b.shared_j;
        for (int k = 0; k < b.n; k++)
            mem_free(b.rail[k].p);
    }
    return joule;
}

void report_energy(FILE *out, const struct trace_file *f, int32_t run)
{
    static const struct table_col cols[] = {{"stage", "", 12, TABLE_LEFT},
                                            {"energy", "J measured", 11, TABLE_RIGHT},
                                            {"share", "%", 7, TABLE_RIGHT},
                                            {"a span", "J", 11, TABLE_RIGHT}};
    struct report_energy sum;
    double *joule = report_energy_events(f, run, &sum), stage_j[STAGE_COUNT] = {0};
    const struct rec_event *e = report_rows(f, REC_EVENTS, &(size_t){0});
    int64_t spans[STAGE_COUNT] = {0};
    struct table t = {.out = out, .n_cols = (int)ARRAY_LEN(cols)};
    for (size_t i = 0; i < f->n[REC_EVENTS]; i++) {
        stage_j[e[i].stage] += joule[i];
        spans[e[i].stage] += e[i].run == run;
    }
    mem_free(joule);
    if (!sum.boards || !(sum.joule > 0))
        return;
    memcpy(t.col, cols, sizeof cols);
    table_head(&t);
    for (int i = STAGE_PAD + 1; i <= STAGE_COUNT; i++) {
        char text[3][32];
        bool rest = i == STAGE_COUNT;
        double j = rest ? sum.joule - sum.shared_j : stage_j[i];
        if (!rest && !(j > 0))
            continue;
        fmt_fixed(text[0], j, 11, 4);
        fmt_fixed(text[1], 100 * j / sum.joule, 7, 2);
        fmt_fixed(text[2], rest ? (double)NAN : j / (double)spans[i], 11, 5);
        table_row(&t, (const char *[]){rest ? "(no span)" : stage_table[i].name, text[0], text[1],
                                       text[2]});
    }
    char text[32];
    fprintf(out, "# %.4f J of %d board%s by %s readings; spans at once share alike\n", sum.joule,
            sum.boards, sum.boards == 1 ? "" : "s", fmt_count(text, (int64_t)sum.readings));
}
