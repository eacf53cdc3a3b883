#include "trace/tally.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/stats.h"
#include "base/table.h"

#include <math.h>
#include <string.h>

#define TALLY_MOST_NS ((int64_t)1 << 62) // as a double, still within int64_t

// Bin of a duration: octave by leading zeros, step by the five bits below the leading one.
static int tally_bin(int64_t ns)
{
    if (ns < TALLY_STEPS)
        return ns < 0 ? 0 : (int)ns;
    int octave = 63 - __builtin_clzll((unsigned long long)ns);
    return (octave - 4) * TALLY_STEPS + (int)((ns >> (octave - 5)) & (TALLY_STEPS - 1));
}

static double tally_value(int bin)
{
    if (bin < TALLY_STEPS)
        return bin;
    int octave = bin / TALLY_STEPS + 4;
    return ldexp(TALLY_STEPS + bin % TALLY_STEPS + 0.5, octave - 5);
}

void tally_add(struct tally *t, const struct rec_event *e, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (e[i].stage == STAGE_PAD || e[i].stage >= STAGE_COUNT)
            continue;
        struct stage_tally *s = &t->stage[e[i].stage];
        if (!s->bins)
            s->bins = mem_alloc(MEM_TRACE, TALLY_BINS * sizeof *s->bins);
        s->count++;
        stats_add(&s->dur_ns, e[i].dur_ns);
        int64_t dur_ns = e[i].dur_ns < TALLY_MOST_NS ? e[i].dur_ns : TALLY_MOST_NS;
        s->max_ns = dur_ns > s->max_ns ? dur_ns : s->max_ns;
        if (e[i].cpu_ns >= 0) {
            stats_add(&s->cpu_ns, e[i].cpu_ns);
            s->cpu_known = true;
        }
        stats_add(&s->bytes_in, e[i].bytes_in > 0 ? e[i].bytes_in : 0);
        stats_add(&s->bytes_out, e[i].bytes_out > 0 ? e[i].bytes_out : 0);
        s->bins[tally_bin(e[i].dur_ns)]++;
    }
}

double tally_percentile(const struct stage_tally *s, double p)
{
    if (s->count == 0)
        return NAN;
    double want = p / 100.0 * (double)(s->count - 1);
    int64_t seen = 0;
    for (int b = 0; b < TALLY_BINS; b++) {
        seen += s->bins[b];
        if ((double)seen > want) {
            double v = tally_value(b);
            return v < (double)s->max_ns ? v : (double)s->max_ns;
        }
    }
    return (double)s->max_ns;
}

// ROUND spans the others, and WAIT is the server seeing its clients work: neither adds to the
// whole.
static bool counts(enum stage stage)
{
    return !stage_table[stage].inner && stage != STAGE_ROUND && stage != STAGE_WAIT;
}

void tally_print(const struct tally *t, FILE *out)
{
    static const struct table_col cols[] = {
        {"stage", "", 12, TABLE_LEFT},  {"lane", "", 8, TABLE_LEFT},
        {"count", "", 10, TABLE_RIGHT}, {"time", "", 10, TABLE_NS},
        {"share", "%", 6, TABLE_RIGHT}, {"cpu", "", 10, TABLE_NS},
        {"p50", "", 10, TABLE_NS},      {"p95", "", 10, TABLE_NS},
        {"in", "", 10, TABLE_BYTES},    {"out", "", 10, TABLE_BYTES}};
    struct table table = {.out = out, .n_cols = (int)ARRAY_LEN(cols)};
    memcpy(table.col, cols, sizeof cols);
    int64_t whole = 0;
    for (int i = 1; i < STAGE_COUNT; i++)
        stats_add(&whole, counts((enum stage)i) ? t->stage[i].dur_ns : 0);
    table_head(&table);
    enum stage order[STAGE_COUNT];
    int depth[STAGE_COUNT], n = stage_order(order, depth);
    for (int k = 0; k < n; k++) {
        enum stage i = order[k];
        const struct stage_tally *s = &t->stage[i];
        char name[32], text[8][32];
        if (s->count == 0)
            continue;
        snprintf(name, sizeof name, "%*s%s", depth[k] ? depth[k] : !counts(i), "",
                 stage_table[i].name);
        const char *cells[] = {
            name,
            lane_name[stage_table[i].lane],
            fmt_count(text[0], s->count),
            fmt_whole(text[1], s->dur_ns),
            (counts(i) || depth[k] || i == STAGE_FISHER) && whole > 0
                ? fmt_fixed(text[2], 100.0 * (double)s->dur_ns / (double)whole, 6, 1)
                : "-",
            s->cpu_known ? fmt_whole(text[3], s->cpu_ns) : "-",
            fmt_whole(text[4], (int64_t)tally_percentile(s, 50)),
            fmt_whole(text[5], (int64_t)tally_percentile(s, 95)),
            s->bytes_in ? fmt_whole(text[6], s->bytes_in) : "-",
            s->bytes_out ? fmt_whole(text[7], s->bytes_out) : "-"};
        table_row(&table, cells);
    }
}

void tally_free(struct tally *t)
{
    for (int i = 0; i < STAGE_COUNT; i++)
        mem_free(t->stage[i].bins);
    memset(t, 0, sizeof *t);
}
