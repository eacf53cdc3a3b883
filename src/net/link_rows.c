#include "net/link_rows.h"

#include <math.h>

static struct link_piece loopback_piece(const struct link_model *m, const struct link_transfer *x,
                                        int64_t t_ns)
{
    (void)m, (void)x, (void)t_ns;
    return (struct link_piece){(double)INFINITY, INT64_MAX};
}

static struct link_delay loopback_delay(const struct link_model *m, uint32_t client, bool up)
{
    (void)m, (void)client, (void)up;
    return (struct link_delay){0};
}

static struct link_piece fixed_piece(const struct link_model *m, const struct link_transfer *x,
                                     int64_t t_ns)
{
    (void)t_ns;
    return (struct link_piece){x->up ? m->params->up_bps : m->params->down_bps, INT64_MAX};
}

static struct link_delay fixed_delay(const struct link_model *m, uint32_t client, bool up)
{
    (void)client, (void)up;
    return (struct link_delay){m->params->latency_ns, m->params->jitter_ns};
}

static const struct link_row link_loopback = {
    .name = "loopback",
    .help = "no limit and no latency: the floor that every other link is read against",
    .piece = loopback_piece,
    .delay = loopback_delay,
};

static const struct link_row link_fixed = {
    .name = "fixed",
    .help = "the same constant rates for every client: net.up_bps, net.down_bps, net.latency_ns, "
            "net.jitter_ns",
    .piece = fixed_piece,
    .delay = fixed_delay,
};

const struct link_row *const link_table[] = {&link_loopback, &link_fixed,      &link_ethernet_1g,
                                             &link_wifi,     &link_lte_20,     &link_lte_hetero,
                                             &link_5g,       &link_edge_mixed, &link_satellite,
                                             &link_markov,   &link_trace,      NULL};
