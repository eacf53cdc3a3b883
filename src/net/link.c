#include "net/link.h"

#include <math.h>

static double loopback_rate_bps(const struct link_params *p, uint64_t seed, uint32_t client,
                                bool up, int64_t t_ns)
{
    (void)p, (void)seed, (void)client, (void)up, (void)t_ns;
    return (double)INFINITY;
}

static int64_t loopback_latency_ns(const struct link_params *p, uint64_t seed, uint32_t client,
                                   bool up)
{
    (void)p, (void)seed, (void)client, (void)up;
    return 0;
}

static double fixed_rate_bps(const struct link_params *p, uint64_t seed, uint32_t client, bool up,
                             int64_t t_ns)
{
    (void)seed, (void)client, (void)t_ns;
    return up ? p->up_bps : p->down_bps;
}

static int64_t fixed_latency_ns(const struct link_params *p, uint64_t seed, uint32_t client,
                                bool up)
{
    (void)seed, (void)client, (void)up;
    return p->latency_ns;
}

static const struct link_row link_loopback = {
    .name = "loopback",
    .help = "no limit and no latency: the floor that every other link is read against",
    .rate_bps = loopback_rate_bps,
    .latency_ns = loopback_latency_ns,
};

static const struct link_row link_fixed = {
    .name = "fixed",
    .help = "the same constant rates for every client: net.up_bps, net.down_bps, net.latency_ns",
    .rate_bps = fixed_rate_bps,
    .latency_ns = fixed_latency_ns,
};

const struct link_row *const link_table[] = {&link_loopback, &link_fixed, NULL};
const char *const link_names[] = {"loopback", "fixed", NULL};

// Saturates: a link that would need more than 292 years delivers never.
static int64_t add_ns(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

// In double, because bits times 10^9 of a terabyte do not fit 64 bits: + - * / of IEEE doubles are
// the same on every machine, and 53 bits hold a transfer of 100 days to the nanosecond.
static int64_t transfer_ns(int64_t bytes, double rate_bps)
{
    if (bytes <= 0 || rate_bps == (double)INFINITY)
        return 0;
    double ns = (double)bytes * 8e9 / rate_bps;
    return ns < 0x1p63 ? (int64_t)(ns + 0.5)
                       : INT64_MAX; // also where the rate is 0 or not a number
}

int64_t link_deliver(const struct link_params *p, struct link_state *link, uint64_t seed,
                     uint32_t client, bool up, int64_t t_ready_ns, int64_t bytes)
{
    const struct link_row *row = link_table[p->link];
    int64_t start = t_ready_ns > link->free_ns ? t_ready_ns : link->free_ns;
    // Rates are constant here, so one division is the integral over the transfer; a row whose rate
    // changes needs the time of its next change and a loop over the pieces at this place.
    double rate_bps = row->rate_bps(p, seed, client, up, start);
    link->free_ns = add_ns(start, transfer_ns(bytes, rate_bps));
    return add_ns(link->free_ns, row->latency_ns(p, seed, client, up));
}
