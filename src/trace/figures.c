#include "trace/figures.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/stats.h"
#include "base/table.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct figures_client *find(struct figures_client *slot, size_t cap, int32_t client)
{
    size_t i = ((uint32_t)client * 2654435761u) & (cap - 1);
    while (slot[i].rounds && slot[i].client != client)
        i = (i + 1) & (cap - 1);
    return &slot[i];
}

static struct figures_client *client_of(struct figures *f, int32_t client)
{
    if (2 * (f->n + 1) > f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 64;
        struct figures_client *more = mem_alloc(MEM_TRACE, cap * sizeof *more);
        for (size_t i = 0; i < f->cap; i++)
            if (f->slot[i].rounds)
                *find(more, cap, f->slot[i].client) = f->slot[i];
        mem_free(f->slot);
        f->slot = more;
        f->cap = cap;
    }
    struct figures_client *c = find(f->slot, f->cap, client);
    f->n += c->rounds == 0;
    c->client = client;
    return c;
}

// A client's two transfers of a round lie side by side, down before up; the time between them is
// its own.
static void add_link(struct figures *f, const struct rec_link *l)
{
    const struct rec_link *d = &f->down;
    bool pair = l->up && d->client == l->client && d->version == l->version && d->run == l->run &&
                d->attempt == l->attempt && d->t_deliver_ns >= 0 && l->t_deliver_ns >= 0 &&
                d->bytes > 0 && l->client >= 0;
    if (!l->up)
        f->down = *l;
    if (!pair)
        return;
    struct figures_client *c = client_of(f, l->client);
    c->rounds += c->rounds < INT32_MAX;
    double said = (double)l->said_ns;
    c->compute_ns += (double)l->t_ready_ns - (double)d->t_deliver_ns - said;
    c->comm_ns +=
        (double)d->t_deliver_ns + said + ((double)l->t_deliver_ns - (double)l->t_ready_ns);
    c->compute_j += l->compute_j;
    c->send_j += l->send_j;
    f->client_rounds++;
}

static void add_round(struct figures *f, const struct rec_round *r)
{
    if (r->version <= 0)
        return;
    f->rounds++;
    stats_add(&f->measured_ns, r->time_measured_ns > 0 ? r->time_measured_ns : 0);
    stats_add(&f->modelled_ns, r->time_modelled_ns > 0 ? r->time_modelled_ns : 0);
    if (!(r->energy_j >= 0))
        return;
    f->metered++;
    f->measured_j += r->energy_j;
}

void figures_add(struct figures *f, enum record_id id, const void *rows, size_t n)
{
    const struct rec_event *event = rows;
    const struct rec_link *link = rows;
    const struct rec_round *round = rows;
    for (size_t i = 0; i < n; i++) {
        if (id == REC_EVENTS && event[i].flags & EVENT_TOKENS && event[i].bytes_in > 0)
            stats_add(&f->tokens, event[i].bytes_in / (int64_t)sizeof(int32_t));
        else if (id == REC_LINKS)
            add_link(f, &link[i]);
        else if (id == REC_ROUNDS)
            add_round(f, &round[i]);
    }
}

static int by_client(const void *a, const void *b)
{
    const struct figures_client *x = a, *y = b;
    return x->client < y->client ? -1 : x->client > y->client;
}

struct figures_client *figures_clients(const struct figures *f, size_t *n)
{
    struct figures_client *c = mem_alloc(MEM_TRACE, (f->n + 1) * sizeof *c);
    *n = 0;
    for (size_t i = 0; i < f->cap; i++)
        if (f->slot[i].rounds)
            c[(*n)++] = f->slot[i];
    if (*n)
        qsort(c, *n, sizeof *c, by_client);
    return c;
}

static void put(struct rec_summary *out, size_t *n, const char *key, double value, const char *unit)
{
    if (!isfinite(value))
        return;
    out[*n] = (struct rec_summary){.value = value};
    snprintf(out[*n].key, sizeof out->key, "%s", key);
    snprintf(out[*n].unit, sizeof out->unit, "%s", unit);
    (*n)++;
}

// Unknown where nothing was computed in the model, or nothing sent.
static void put_clients(const struct figures *f, struct rec_summary *out, size_t *at)
{
    size_t n, known = 0;
    struct figures_client *c = figures_clients(f, &n);
    double *g = mem_alloc(MEM_TRACE, (n + 1) * sizeof *g), compute_j = 0, send_j = 0;
    for (size_t i = 0; i < n; i++) {
        compute_j += c[i].compute_j;
        send_j += c[i].send_j;
        if (c[i].compute_ns > 0 && c[i].comm_ns > 0)
            g[known++] = c[i].compute_ns / c[i].comm_ns;
    }
    if (known) {
        struct stats s = stats_of(g, known);
        put(out, at, "G_modelled_median", s.median, "1");
        put(out, at, "G_modelled_min", s.min, "1");
        put(out, at, "G_modelled_max", s.max, "1");
        put(out, at, "G_clients", (double)known, "1");
    }
    double all_j = n ? compute_j + send_j : NAN;
    put(out, at, "energy_modelled", all_j, "J");
    put(out, at, "energy_modelled_compute", n ? compute_j : NAN, "J");
    put(out, at, "energy_modelled_send", n ? send_j : NAN, "J");
    put(out, at, "energy_modelled_round", all_j / (double)f->rounds, "J");
    put(out, at, "energy_modelled_client_round", all_j / (double)f->client_rounds, "J");
    if (f->tokens && all_j > 0)
        put(out, at, "tokens_per_J_modelled", (double)f->tokens / all_j, "1/J");
    mem_free(g);
    mem_free(c);
}

size_t figures_list(const struct figures *f, struct rec_summary out[FIGURES_MAX])
{
    size_t n = 0;
    double tokens = f->tokens ? (double)f->tokens : NAN;
    put(out, &n, "tokens", tokens, "1");
    if (f->measured_ns > 0)
        put(out, &n, "tokens_per_s_measured", tokens * 1e9 / (double)f->measured_ns, "1/s");
    if (f->modelled_ns > 0)
        put(out, &n, "tokens_per_s_modelled", tokens * 1e9 / (double)f->modelled_ns, "1/s");
    if (f->metered > 0) {
        put(out, &n, "energy_measured", f->measured_j, "J");
        put(out, &n, "energy_measured_round", f->measured_j / (double)f->metered, "J");
        put(out, &n, "tokens_per_J_measured", tokens / f->measured_j, "1/J");
    }
    put_clients(f, out, &n);
    assert(n <= FIGURES_MAX);
    return n;
}

static double value_of(const struct rec_summary *s, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(s[i].key, key) == 0)
            return s[i].value;
    return NAN;
}

struct part { // of a line: what stands before the value, its key, and what stands behind
    const char *before, *key, *after;
};

static void line(FILE *out, const struct rec_summary *s, size_t n, const struct part *p, size_t len)
{
    bool any = false;
    for (size_t i = 0; i < len; i++) {
        char text[32];
        double v = value_of(s, n, p[i].key);
        if (!isfinite(v))
            continue;
        snprintf(text, sizeof text, "%.6g", v);
        fprintf(out, "%s%s %s%s%s", any ? " " : "# ", p[i].before, text, *p[i].after ? " " : "",
                p[i].after);
        any = true;
    }
    if (any)
        fprintf(out, "\n");
}

void figures_print(const struct figures *f, FILE *out)
{
    static const struct part tokens[] = {
        {"tokens trained on:", "tokens", ""},
        {"=", "tokens_per_s_measured", "/s measured"},
        {"=", "tokens_per_s_modelled", "/s modelled"},
        {"=", "tokens_per_J_measured", "/J measured"},
        {"=", "tokens_per_J_modelled", "/J modelled"},
    };
    static const struct part measured[] = {
        {"energy measured:", "energy_measured", "J"},
        {"=", "energy_measured_round", "J per round"},
    };
    static const struct part modelled[] = {
        {"energy modelled:", "energy_modelled", "J"},
        {"=", "energy_modelled_compute", "J computing"},
        {"+", "energy_modelled_send", "J sending"},
        {"=", "energy_modelled_round", "J per round"},
        {"=", "energy_modelled_client_round", "J per client and round"},
    };
    static const struct part g[] = {
        {"G = T_comp / T_comm of a client, modelled: median", "G_modelled_median", ""},
        {"from", "G_modelled_min", ""},
        {"to", "G_modelled_max", ""},
        {"over", "G_clients", "clients"},
    };
    struct rec_summary s[FIGURES_MAX];
    size_t n = figures_list(f, s);
    line(out, s, n, tokens, ARRAY_LEN(tokens));
    line(out, s, n, measured, ARRAY_LEN(measured));
    line(out, s, n, modelled, ARRAY_LEN(modelled));
    line(out, s, n, g, ARRAY_LEN(g));
}

void figures_free(struct figures *f)
{
    mem_free(f->slot);
    memset(f, 0, sizeof *f);
}
