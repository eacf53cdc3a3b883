#include "net/link.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char *const link_delivery_names[] = {
    [LINK_RELIABLE] = "reliable", [LINK_DATAGRAM] = "datagram", NULL};

int64_t link_add_ns(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

struct rng link_stream(const struct link_model *m, uint32_t client, uint32_t part)
{
    return rng_stream(m->seed, RNG_LINK, client, 0, part); // rounds count from 1
}

static const char *row_name(int32_t i)
{
    return link_table[i] ? link_table[i]->name : NULL;
}

static int unknown(const char *name, struct err *err)
{
    char tail[400];
    return err_set(err, "net.link = %.80s: unknown%s", name,
                   opt_choices(name, row_name, tail, sizeof tail));
}

static int parse(struct link_model *m, const char *text, struct err *err)
{
    char name[sizeof m->params->link];
    struct err why = {""};
    size_t n = strcspn(text, ":");
    memcpy(name, text, n);
    name[n] = '\0';
    const struct link_row *const *r = link_table;
    while (*r && strcmp((*r)->name, name) != 0)
        r++;
    m->row = *r;
    if (!m->row)
        return unknown(name, err);
    if (m->row->option_bytes) {
        m->opt = mem_alloc(MEM_NET, m->row->option_bytes);
        opt_defaults(m->row->options, m->row->n_options, m->opt);
    }
    if (text[n] && opt_set_list(m->row->options, m->row->n_options, m->opt, text + n + 1, &why))
        return err_set(err, "net.link = %.80s: %.300s", text, why.text);
    return 0;
}

int link_open(struct link_model *m, const struct link_params *p, uint64_t seed, struct err *err)
{
    *m = (struct link_model){.params = p, .seed = seed};
    int rc = parse(m, p->link, err);
    if (rc == 0 && *p->loss)
        rc = loss_parse(&m->loss, p->loss, err);
    if (rc == 0 && *p->trace && !m->row->reads_trace)
        rc = err_set(err,
                     "net.trace = %.200s, but net.link = %.80s reads no trace: set net.link = "
                     "trace, or leave net.trace out",
                     p->trace, p->link);
    if (rc == 0 && m->row->open)
        rc = m->row->open(m, err);
    if (rc)
        link_close(m);
    return rc;
}

void link_close(struct link_model *m)
{
    if (m->row && m->row->close)
        m->row->close(m);
    mem_free(m->opt);
    *m = (struct link_model){0};
}

// In double, because bits times 10^9 of a terabyte do not fit 64 bits: + - * / of IEEE doubles are
// the same on every machine, and 53 bits hold a transfer of 100 days to the nanosecond.
static int64_t transfer_ns(double bytes, double bps)
{
    if (bytes <= 0 || bps == (double)INFINITY)
        return 0;
    double ns = bytes * 8e9 / bps;
    return ns < 0x1p63 ? (int64_t)(ns + 0.5)
                       : INT64_MAX; // also where the rate is 0 or not a number
}

// Piece by piece, until the rest fits into one.
int64_t link_leave(const struct link_model *m, const struct link_transfer *x, int64_t t_ns,
                   int64_t bytes)
{
    if (m->row->leave)
        return m->row->leave(m, x, t_ns, bytes);
    double left = (double)bytes;
    for (;;) {
        struct link_piece p = m->row->piece(m, x, t_ns);
        int64_t end = link_add_ns(t_ns, transfer_ns(left, p.bps));
        if (end <= p.until_ns || p.until_ns == INT64_MAX)
            return end;
        left -= p.bps * ((double)(p.until_ns - t_ns) * 1e-9) / 8;
        t_ns = p.until_ns;
    }
}

static struct rng message_stream(const struct link_model *m, const struct link_transfer *x,
                                 uint32_t use)
{
    return rng_stream(m->seed, RNG_LINK, x->client, x->round, x->attempt * 8 + use * 2 + x->up);
}

static int64_t jitter_of(const struct link_model *m, const struct link_transfer *x, int64_t most_ns)
{
    if (most_ns <= 0)
        return 0;
    struct rng r = message_stream(m, x, 0);
    return (int64_t)(rng_unit(&r) * (double)most_ns);
}

// Only what clients send can go as a datagram: without its model nobody trains.
static bool datagram(const struct link_model *m, const struct link_transfer *x)
{
    return x->up && m->params->delivery == LINK_DATAGRAM;
}

static struct loss_cost losses(const struct link_model *m, const struct link_transfer *x,
                               uint8_t *map)
{
    struct loss_chain chain;
    if (!m->loss.on)
        return (struct loss_cost){0};
    loss_begin(&chain, &m->loss, message_stream(m, x, 1));
    if (datagram(m, x))
        return loss_datagram(&chain, x->bytes, map);
    int64_t rtt = m->row->delay(m, x->client, true).latency_ns +
                  m->row->delay(m, x->client, false).latency_ns;
    return loss_reliable(&chain, x->bytes, rtt);
}

void link_arrived(const struct link_model *m, const struct link_transfer *x, uint8_t *map)
{
    memset(map, 0xff, (size_t)(loss_segments(x->bytes) + 7) / 8);
    if (datagram(m, x))
        losses(m, x, map);
}

// The mean of a transfer, or what the link does where nothing is sent.
static double mean_bps(const struct link_model *m, const struct link_transfer *x, int64_t bytes,
                       int64_t start_ns, int64_t left_ns)
{
    struct link_piece p = m->row->piece(m, x, start_ns);
    bool constant = left_ns <= p.until_ns;
    return constant ? p.bps : (double)bytes * 8e9 / (double)(left_ns - start_ns);
}

struct link_result link_carry(const struct link_model *m, struct link_state *s,
                              const struct link_transfer *x)
{
    struct link_delay delay = m->row->delay(m, x->client, x->up);
    struct loss_cost loss = losses(m, x, NULL);
    struct link_result r = {.bytes_sent = x->bytes + loss.again_bytes, .lost_segments = loss.lost};
    r.t_start_ns = x->t_ready_ns > s->free_ns ? x->t_ready_ns : s->free_ns;
    int64_t left_ns = link_leave(m, x, r.t_start_ns, r.bytes_sent);
    r.rate_bps = mean_bps(m, x, r.bytes_sent, r.t_start_ns, left_ns);
    s->free_ns = link_add_ns(left_ns, loss.wait_ns);
    r.latency_ns = delay.latency_ns + jitter_of(m, x, delay.jitter_ns) + loss.wait_ns;
    r.t_deliver_ns = link_add_ns(left_ns, r.latency_ns);
    r.delivered = r.t_deliver_ns < INT64_MAX && !loss.given_up;
    r.whole = r.delivered && !(datagram(m, x) && loss.lost > 0);
    return r;
}
