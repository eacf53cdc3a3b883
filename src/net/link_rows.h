// The rows of link_table, and what several of them share.
#ifndef FSTQ_NET_LINK_ROWS_H
#define FSTQ_NET_LINK_ROWS_H

#include "net/link.h"

extern const struct link_row link_ethernet_1g, link_lte_20, link_satellite; // link_preset.c
extern const struct link_row link_lte_hetero, link_edge_mixed;
extern const struct link_row link_markov, link_wifi, link_5g; // link_markov.c
extern const struct link_row link_trace;                      // link_trace.c

// Options in the units that people write.
#define LINK_MBPS_OPT(T, f, n, d, h) OPT(T, f, n, d, 1e-6, 1e7, "Mbit/s", h)
#define LINK_MS_OPT(T, f, n, d, h)   OPT(T, f, n, d, 0, 1e6, "ms", h)

static inline struct link_delay link_delay_of_ms(double latency_ms, double jitter_ms)
{
    return (struct link_delay){(int64_t)(latency_ms * 1e6 + 0.5), (int64_t)(jitter_ms * 1e6 + 0.5)};
}

#endif
