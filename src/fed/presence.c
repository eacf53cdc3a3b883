#include "fed/presence.h"

#include "base/fsio.h"
#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct rng own_stream(const struct presence *p, uint32_t client)
{
    return rng_stream(p->seed, RNG_DEVICE, client, 1, 0);
}

// A day cycle.

struct day_opt {
    double on, period_s;
};

static const struct opt day_options[] = {
    OPT(struct day_opt, on, "on", "0.5", 0, 1, "", "part of the period that a client is there"),
    OPT(struct day_opt, period_s, "period", "86400", 1e-3, 1e9, "s",
        "after which its day begins again; where it begins is drawn per client"),
};

static bool day_at(const struct presence *p, uint32_t client, double run_s)
{
    const struct day_opt *o = p->opt;
    struct rng r = own_stream(p, client);
    double turns = run_s / o->period_s + rng_unit(&r);
    return turns - floor(turns) < o->on;
}

// By chance.

struct onoff_opt {
    double share, stay_s;
};

static const struct opt onoff_options[] = {
    OPT(struct onoff_opt, share, "share", "0.8", 0, 1, "", "of its time that a client is there"),
    OPT(struct onoff_opt, stay_s, "stay", "600", 1e-3, 1e9, "s",
        "mean time until it is drawn anew whether it is there"),
};

enum { SLOTS_A_STAY = 8 };

static bool onoff_at(const struct presence *p, uint32_t client, double run_s)
{
    const struct onoff_opt *o = p->opt;
    struct rng r = own_stream(p, client);
    // As link_markov.c has it: the state is that of the last slot in which it was drawn anew.
    uint64_t slot = (uint64_t)(run_s * SLOTS_A_STAY / o->stay_s) & UINT32_MAX;
    while (slot > 0 && rng_at(&r, 2 * slot) >= UINT32_MAX / SLOTS_A_STAY)
        slot--;
    return (double)rng_at(&r, 2 * slot + 1) < o->share * 0x1p32;
}

// As recorded in a file.

enum { INTERVALS_MAX = 1 << 20 };
#define FILE_MAX_BYTES ((size_t)16 << 20)

struct line { // of a file, ended by a NUL; its comment is cut off
    const char *where;
    size_t number;
    char *text;
};

static bool number_at(char **p, double *v)
{
    char *end;
    size_t n = strspn(*p, "0123456789.eE+");
    *v = strtod(*p, &end);
    bool good = n > 0 && end == *p + n && isfinite(*v) && *v <= 1e9;
    *p = end;
    return good;
}

static int read_period(const struct line *l, struct presence_trace *t, struct err *err)
{
    static const char word[] = "period ";
    char *p = l->text + strlen(word);
    if (strncmp(l->text, word, strlen(word)) != 0 || !number_at(&p, &t->period_s) ||
        p[strspn(p, " \t")] || t->period_s < 1e-3)
        return err_set(err, "%s:%zu: the first line is 'period SECONDS', of at least 0.001",
                       l->where, l->number);
    return 0;
}

static int read_device(const struct line *l, struct presence_trace *t, size_t *n_edges,
                       struct err *err)
{
    char *p = l->text;
    double last = 0;
    bool never = p[0] == '-' && !p[1 + strspn(p + 1, " \t")];
    for (p += never; *(p += strspn(p, " \t"));) {
        double from, to;
        bool good = number_at(&p, &from) && *p++ == '-' && number_at(&p, &to) &&
                    (!*p || strchr(" \t", *p)) && from >= last && to > from && to <= t->period_s;
        if (!good)
            return err_set(err,
                           "%s:%zu: not 'FROM-TO FROM-TO ...' in seconds, ascending and within "
                           "the period of %g s, nor '-'",
                           l->where, l->number, t->period_s);
        if (*n_edges + 2 > 2 * (size_t)INTERVALS_MAX)
            return err_set(err, "%s: more than %d intervals", l->where, INTERVALS_MAX);
        t->edge[(*n_edges)++] = from;
        t->edge[(*n_edges)++] = last = to;
    }
    t->first[++t->n] = *n_edges;
    return 0;
}

int presence_read(const char *where, const char *bytes, size_t n, struct presence_trace *t,
                  struct err *err)
{
    size_t n_lines = 1, n_edges = 0, dashes = 0;
    for (size_t i = 0; i < n; i++) {
        n_lines += bytes[i] == '\n';
        dashes += bytes[i] == '-';
    }
    char *text = mem_alloc(MEM_OTHER, n + 1);
    memcpy(text, bytes, n);
    text[n] = '\0';
    *t = (struct presence_trace){0};
    t->edge = mem_alloc(MEM_OTHER, (2 * dashes + 1) * sizeof *t->edge);
    t->first = mem_alloc(MEM_OTHER, (n_lines + 1) * sizeof *t->first);
    int rc = memchr(bytes, '\0', n) ? err_set(err, "%s: not a text", where) : 0;
    struct line l = {.where = where, .text = text};
    for (char *end; rc == 0 && l.text < text + n; l.text = end + 1) {
        end = l.text + strcspn(l.text, "\n");
        *end = '\0';
        l.number++;
        l.text[strcspn(l.text, "#\r")] = '\0';
        if (!l.text[strspn(l.text, " \t")])
            continue;
        rc = t->period_s > 0 ? read_device(&l, t, &n_edges, err) : read_period(&l, t, err);
    }
    if (rc == 0 && t->n == 0)
        rc = err_set(err, "%s: no device: a line 'period SECONDS', then one line for each", where);
    mem_free(text);
    if (rc)
        presence_trace_free(t);
    return rc;
}

void presence_trace_free(struct presence_trace *t)
{
    mem_free(t->edge);
    mem_free(t->first);
    *t = (struct presence_trace){0};
}

static int trace_open(struct presence *p, struct err *err)
{
    const char *path = p->params->presence;
    uint8_t *bytes;
    size_t n;
    struct err why = {""};
    if (!*path)
        return err_set(err, "client.availability = trace: client.presence names no file");
    if (fsio_read(path, FILE_MAX_BYTES, MEM_OTHER, &bytes, &n, &why))
        return err_set(err, "client.presence: %.480s", why.text);
    p->state = mem_alloc(MEM_OTHER, sizeof(struct presence_trace));
    int rc = presence_read(path, (const char *)bytes, n, p->state, &why);
    mem_free(bytes);
    return rc ? err_set(err, "client.presence: %.480s", why.text) : 0;
}

static void trace_close(struct presence *p)
{
    if (p->state)
        presence_trace_free(p->state);
    mem_free(p->state);
}

static bool trace_at(const struct presence *p, uint32_t client, double run_s)
{
    const struct presence_trace *t = p->state;
    struct rng r = own_stream(p, client);
    size_t device = rng_below(&r, (uint32_t)t->n);
    double s = fmod(run_s, t->period_s);
    size_t low = t->first[device], high = t->first[device + 1]; // the first edge after s
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (t->edge[mid] <= s)
            low = mid + 1;
        else
            high = mid;
    }
    return (low - t->first[device]) % 2 == 1;
}

// The rows.

static const struct presence_row always = {.name = "always", .help = "a client is always there"};
static const struct presence_row day = {
    .name = "day",
    .help = "for a part of each day, which begins at a time of its own",
    .options = day_options,
    .n_options = (int)ARRAY_LEN(day_options),
    .option_bytes = sizeof(struct day_opt),
    .at = day_at,
};
static const struct presence_row onoff = {
    .name = "onoff",
    .help = "comes and goes by chance",
    .options = onoff_options,
    .n_options = (int)ARRAY_LEN(onoff_options),
    .option_bytes = sizeof(struct onoff_opt),
    .at = onoff_at,
};
static const struct presence_row recorded = {
    .name = "trace",
    .help = "client.presence: a file of times, of which each client is dealt a line",
    .open = trace_open,
    .close = trace_close,
    .at = trace_at,
};
const struct presence_row *const presence_table[] = {&always, &day, &onoff, &recorded, NULL};

static const char *row_name(int32_t i)
{
    return presence_table[i] ? presence_table[i]->name : NULL;
}

static int find_row(struct presence *p, const char *text, size_t n, struct err *err)
{
    char name[96], tail[256];
    snprintf(name, sizeof name, "%.*s", (int)n, text);
    for (const struct presence_row *const *r = presence_table; *r; r++)
        if (!*name || strcmp((*r)->name, name) == 0) {
            p->row = *r; // nothing said: the first
            return 0;
        }
    return err_set(err, "client.availability = %.80s: unknown%s", text,
                   opt_choices(name, row_name, tail, sizeof tail));
}

int presence_open(struct presence *p, const struct client_params *params, uint64_t seed,
                  struct err *err)
{
    const char *text = params->availability;
    size_t n = strcspn(text, ":");
    struct err why = {""};
    *p = (struct presence){.params = params, .seed = seed};
    if (find_row(p, text, n, err))
        return -1;
    if (*params->presence && p->row != &recorded)
        return err_set(err,
                       "client.presence = %.200s, but client.availability = %.80s reads no file: "
                       "set client.availability = trace, or leave client.presence out",
                       params->presence, text);
    if (p->row->option_bytes) {
        p->opt = mem_alloc(MEM_OTHER, p->row->option_bytes);
        opt_defaults(p->row->options, p->row->n_options, p->opt);
    }
    const char *list = text[n] ? text + n + 1 : "";
    int rc = opt_set_list(p->row->options, p->row->n_options, p->opt, list, &why);
    if (rc)
        err_set(err, "client.availability = %.80s: %.300s", text, why.text);
    if (rc == 0 && p->row->open)
        rc = p->row->open(p, err);
    if (rc)
        presence_close(p);
    return rc;
}

void presence_close(struct presence *p)
{
    if (p->row && p->row->close)
        p->row->close(p);
    mem_free(p->opt);
    *p = (struct presence){0};
}

bool presence_at(const struct presence *p, uint32_t client, int64_t run_ns)
{
    return !p->row || !p->row->at || p->row->at(p, client, (double)run_ns * 1e-9);
}

// Batteries.

static double flown_j(const struct client_params *p, int64_t run_ns)
{
    return p->charge_w * ((double)run_ns * 1e-9);
}

double battery_full(const struct client_params *p)
{
    return p->battery_j;
}

double battery_j(const struct client_params *p, double kept, int64_t run_ns)
{
    double j = kept + flown_j(p, run_ns);
    return j < p->battery_j ? j : p->battery_j;
}

double battery_draw(const struct client_params *p, double kept, double joule, int64_t run_ns)
{
    double left = battery_j(p, kept, run_ns) - joule;
    return (left > 0 ? left : 0) - flown_j(p, run_ns);
}
