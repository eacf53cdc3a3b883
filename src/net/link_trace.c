// Links as files tell of them: traces of rates over time, or tables of devices. Clients are dealt
// the files (or the rows of a table) in an order drawn from the seed, and begin each at a place of
// its own in its trace, which goes on from round to round and begins again at its end.
#include "base/fmath.h"
#include "base/mem.h"
#include "net/link_rows.h"
#include "net/rate.h"

#include <string.h>

struct trace_opt {
    int32_t format;
    double step_s, latency_ms, jitter_ms;
    bool offset;
};

static const char *format_name(int32_t i)
{
    if (i == 0)
        return "auto";
    return rate_reader_table[i - 1] ? rate_reader_table[i - 1]->name : NULL;
}

static const struct opt options[] = {
    OPT_ROW(struct trace_opt, format, "format", "auto", format_name,
            "of the files; auto tells it from their bytes"),
    OPT(struct trace_opt, step_s, "step", "1", 1e-3, 1e6, "s", "between the lines of format mbps"),
    OPT(struct trace_opt, latency_ms, "latency", "-1", -1, 1e6, "ms",
        "one way; -1 = half of what the file calls a round trip, or 30"),
    LINK_MS_OPT(struct trace_opt, jitter_ms, "jitter", "0", "on top of it, at most"),
    OPT(struct trace_opt, offset, "offset", "on", 0, 0, "",
        "each client begins somewhere in its trace; off: all at its start"),
};

struct trace {
    struct rate_set set;
    uint32_t *deal; // (set.n) an order of the sources
};

static void trace_close(struct link_model *m)
{
    struct trace *s = m->state;
    if (!s)
        return;
    rate_close(&s->set);
    mem_free(s->deal);
    mem_free(s);
}

static int trace_open(struct link_model *m, struct err *err)
{
    const struct trace_opt *o = m->opt;
    struct rate_how how = {.format = o->format - 1, .step_s = o->step_s};
    struct err why = {""};
    if (!*m->params->trace)
        return err_set(err, "net.link = %.80s: net.trace names no file or folder", m->params->link);
    struct trace *s = m->state = mem_alloc(MEM_NET, sizeof *s);
    if (rate_load(&s->set, m->params->trace, &how, &why))
        return err_set(err, "net.trace: %.480s", why.text);
    s->deal = mem_alloc(MEM_NET, s->set.n * sizeof *s->deal);
    for (size_t i = 0; i < s->set.n; i++)
        s->deal[i] = (uint32_t)i;
    struct rng r = rng_stream(m->seed, RNG_LINK, 0, 0, LINK_DRAW_DEAL);
    rng_shuffle(&r, s->deal, (uint32_t)s->set.n);
    return 0;
}

static const struct rate_source *source_of(const struct link_model *m, uint32_t client)
{
    const struct trace *s = m->state;
    return &s->set.source[s->deal[client % s->set.n]];
}

static const struct rate_trace *way_of(const struct rate_source *s, bool up)
{
    return up || s->down.n == 0 ? &s->up : &s->down;
}

// Where in its trace a client is at t_ns. Both directions of a pair were recorded together, and
// begin together.
static int64_t place(const struct link_model *m, const struct rate_source *s,
                     const struct rate_trace *t, uint32_t client, int64_t t_ns)
{
    const struct trace_opt *o = m->opt;
    if (!o->offset)
        return t_ns;
    struct rng r = link_stream(m, client, LINK_DRAW_OFFSET);
    int64_t offset = (int64_t)(rng_unit(&r) * (double)rate_trace_period_ns(&s->up));
    return t_ns % rate_trace_period_ns(t) + offset;
}

// From a table: drawn per message, as what no client gets less than a hundredth of.
static double drawn_bps(const struct link_model *m, const struct rate_source *s,
                        const struct link_transfer *x)
{
    double mean = x->up ? s->up_bps : s->down_bps;
    double sigma = x->up ? s->up_sigma_bps : s->down_sigma_bps;
    struct rng r =
        rng_stream(m->seed, RNG_LINK, x->client, x->round, x->attempt * 8 + 4 + (uint32_t)x->up);
    for (int i = 0; i < 64; i++) {
        double bps = mean + sigma * rng_normal(&r);
        if (bps >= mean / 100)
            return bps;
    }
    return mean;
}

static struct link_piece trace_piece(const struct link_model *m, const struct link_transfer *x,
                                     int64_t t_ns)
{
    const struct rate_source *s = source_of(m, x->client);
    const struct rate_trace *t = way_of(s, x->up);
    if (t->n == 0)
        return (struct link_piece){drawn_bps(m, s, x), INT64_MAX};
    int64_t at = place(m, s, t, x->client, t_ns), until;
    double bps = rate_trace_bps(t, at, &until);
    return (struct link_piece){bps, link_add_ns(t_ns, until - at)};
}

static int64_t trace_leave(const struct link_model *m, const struct link_transfer *x, int64_t t_ns,
                           int64_t bytes)
{
    const struct rate_source *s = source_of(m, x->client);
    const struct rate_trace *t = way_of(s, x->up);
    if (t->n == 0) {
        double ns = bytes > 0 ? (double)bytes * 8e9 / drawn_bps(m, s, x) : 0;
        return ns < 0x1p62 ? link_add_ns(t_ns, (int64_t)(ns + 0.5)) : INT64_MAX;
    }
    int64_t at = place(m, s, t, x->client, t_ns), end = rate_trace_leave(t, at, (double)bytes * 8);
    return end == INT64_MAX ? end : link_add_ns(t_ns, end - at);
}

static struct link_delay trace_delay(const struct link_model *m, uint32_t client, bool up)
{
    (void)up;
    const struct trace_opt *o = m->opt;
    double rtt = source_of(m, client)->rtt_ms;
    double latency = o->latency_ms >= 0 ? o->latency_ms : rtt >= 0 ? rtt / 2 : 30;
    return link_delay_of_ms(latency, o->jitter_ms);
}

const struct link_row link_trace = {
    .name = "trace",
    .help = "rates from net.trace: a file, or a folder whose files are dealt to the clients",
    .options = options,
    .n_options = (int)ARRAY_LEN(options),
    .option_bytes = sizeof(struct trace_opt),
    .varies = true,
    .reads_trace = true,
    .open = trace_open,
    .close = trace_close,
    .piece = trace_piece,
    .delay = trace_delay,
    .leave = trace_leave,
};
