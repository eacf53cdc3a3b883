// Links as a table of models: bytes and a ready time in, a delivery time out, closed form. One link
// a client and direction; the same function serves modelled time, the simulated transport and
// (later) the pacer.
#ifndef FSTQ_NET_LINK_H
#define FSTQ_NET_LINK_H

#include "base/opt.h"

#include <stdbool.h>
#include <stdint.h>

struct link_params { // [net], the keys that shape links
    int32_t link;    // row of link_table
    double up_bps, down_bps;
    int64_t latency_ns;
};

struct link_state {
    int64_t free_ns; // when the link has finished what it carries
};

struct link_row {
    const char *name, *help;
    // Bits per second of this client's link at time t, infinity = no limit.
    double (*rate_bps)(const struct link_params *p, uint64_t seed, uint32_t client, bool up,
                       int64_t t_ns);
    int64_t (*latency_ns)(const struct link_params *p, uint64_t seed, uint32_t client, bool up);
};

extern const struct link_row *const link_table[]; // NULL-terminated
// NULL-terminated, same order: choices of net.link.
extern const char *const link_names[];

// t_deliver = max(t_ready, link free) + bytes / rate + latency; moves link->free_ns.
int64_t link_deliver(const struct link_params *p, struct link_state *link, uint64_t seed,
                     uint32_t client, bool up, int64_t t_ready_ns, int64_t bytes);

#endif
