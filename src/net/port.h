// The server's own port, which all clients' transfers one way have to share: whoever is active gets
// an even share of it, and who cannot use his leaves the rest to the others (max-min fairness).
#ifndef FSTQ_NET_PORT_H
#define FSTQ_NET_PORT_H

#include "net/link.h"

struct port_flow {
    struct link_transfer x; // from x.t_ready_ns on; x.bytes: all that is sent, also again
    int64_t left_ns;        // out: when the last byte left, INT64_MAX = never
    // While it is computed.
    double left_bits, bps;
    struct link_piece piece;
};

// bps > 0. Flows may be in any order; the result does not depend on it.
void port_share(const struct link_model *m, double bps, struct port_flow *flow, size_t n);

#endif
