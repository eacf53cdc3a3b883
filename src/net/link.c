#include "net/link.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int64_t loopback_leave(const struct link_model *m, const struct link_transfer *x,
                              int64_t t_ns, int64_t bytes, double *rate_bps)
{
    (void)m, (void)x, (void)bytes;
    *rate_bps = (double)INFINITY;
    return t_ns;
}

static int64_t loopback_latency_ns(const struct link_model *m, uint32_t client, bool up)
{
    (void)m, (void)client, (void)up;
    return 0;
}

static int64_t fixed_leave(const struct link_model *m, const struct link_transfer *x, int64_t t_ns,
                           int64_t bytes, double *rate_bps)
{
    *rate_bps = x->up ? m->params->up_bps : m->params->down_bps;
    return link_add_ns(t_ns, link_constant_ns(bytes, *rate_bps));
}

static int64_t fixed_latency_ns(const struct link_model *m, uint32_t client, bool up)
{
    (void)client, (void)up;
    return m->params->latency_ns;
}

static const struct link_row link_loopback = {
    .name = "loopback",
    .help = "no limit and no latency: the floor that every other link is read against",
    .leave = loopback_leave,
    .latency_ns = loopback_latency_ns,
};

static const struct link_row link_fixed = {
    .name = "fixed",
    .help = "the same constant rates for every client: net.up_bps, net.down_bps, net.latency_ns",
    .leave = fixed_leave,
    .latency_ns = fixed_latency_ns,
};

const struct link_row *const link_table[] = {&link_loopback, &link_fixed, NULL};

int64_t link_add_ns(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

// In double, because bits times 10^9 of a terabyte do not fit 64 bits: + - * / of IEEE doubles are
// the same on every machine, and 53 bits hold a transfer of 100 days to the nanosecond.
int64_t link_constant_ns(int64_t bytes, double rate_bps)
{
    if (bytes <= 0 || rate_bps == (double)INFINITY)
        return 0;
    double ns = (double)bytes * 8e9 / rate_bps;
    return ns < 0x1p63 ? (int64_t)(ns + 0.5)
                       : INT64_MAX; // also where the rate is 0 or not a number
}

static int unknown(const char *name, struct err *err)
{
    char list[256] = "";
    struct opt_guess guess = {.text = name};
    for (const struct link_row *const *r = link_table; *r; r++) {
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "", (*r)->name);
        opt_guess(&guess, (*r)->name);
    }
    if (guess.name)
        return err_set(err, "net.link = %.80s: unknown; did you mean %s? There are %s", name,
                       guess.name, list);
    return err_set(err, "net.link = %.80s: unknown; there are %s", name, list);
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

struct link_result link_carry(const struct link_model *m, struct link_state *s,
                              const struct link_transfer *x)
{
    struct link_result r = {.bytes_sent = x->bytes};
    r.t_start_ns = x->t_ready_ns > s->free_ns ? x->t_ready_ns : s->free_ns;
    s->free_ns = m->row->leave(m, x, r.t_start_ns, r.bytes_sent, &r.rate_bps);
    r.latency_ns = m->row->latency_ns(m, x->client, x->up);
    r.t_deliver_ns = link_add_ns(s->free_ns, r.latency_ns);
    r.delivered = r.t_deliver_ns < INT64_MAX;
    return r;
}
