// Links as a table of models: who sends how many bytes and from when on, out when the last one
// arrives. Times are of the run's clock, which goes on from round to round and after a resume; what
// a link does at a time follows from the seed, the client and that time alone, so that any rank can
// ask. One link per client and direction; the same function serves modelled time, the simulated
// transport and the pacer.
#ifndef FSTQ_NET_LINK_H
#define FSTQ_NET_LINK_H

#include "base/opt.h"
#include "net/loss.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct link_params { // [net], the keys that shape links
    char link[256];  // NAME[:key=value,...], a row of link_table and its options
    char trace[512]; // of the row that reads one
    char loss[96];
    double up_bps, down_bps;
    int64_t latency_ns, jitter_ns;
    int32_t delivery; // LINK_*
    bool blocks;      // datagrams: messages that can are cut so that a part of them counts
};
enum { LINK_RELIABLE, LINK_DATAGRAM };
extern const char *const link_delivery_names[];

struct link_row;

struct link_model { // a row, ready for use
    const struct link_row *row;
    const struct link_params *params;
    uint64_t seed;
    struct loss_model loss;
    void *opt;   // (row->option_bytes) or NULL
    void *state; // of the row
};

struct link_state {  // of one client's link in one direction; all zero: idle
    int64_t free_ns; // when the last byte it carries has left
};

struct link_transfer {               // one message
    uint32_t client, round, attempt; // attempt: of this client in this round, the same way
    bool up;                         // from client to server
    int64_t t_ready_ns, bytes;
};

struct link_result {
    bool delivered, whole;            // at all; all of it
    int64_t t_start_ns, t_deliver_ns; // t_deliver_ns: or when it was given up; INT64_MAX = never
    int64_t latency_ns;               // of this, jitter and waits for what is sent again
    int64_t bytes_sent;               // with those that were sent again
    int64_t lost_segments;            // when first sent; a datagram lacks them
    double rate_bps;                  // mean while they left; infinity = no limit
};

struct link_piece { // of a rate that is constant from one time to another
    double bps;
    int64_t until_ns; // INT64_MAX = for ever
};
struct link_delay {
    int64_t latency_ns, jitter_ns; // jitter: at most, evenly drawn per message
};

struct link_row {
    const char *name, *help;
    const struct opt *options; // its own, in net.link = NAME:key=value
    int n_options;
    size_t option_bytes;
    bool varies;                                        // with time
    bool reads_trace;                                   // net.trace
    int (*open)(struct link_model *m, struct err *err); // NULL = nothing to make ready
    void (*close)(struct link_model *m);                // NULL = nothing to give back
    // What the link of x->client carries x->up at t_ns.
    struct link_piece (*piece)(const struct link_model *m, const struct link_transfer *x,
                               int64_t t_ns);
    struct link_delay (*delay)(const struct link_model *m, uint32_t client, bool up);
    // When bytes that begin to leave at t_ns have left, INT64_MAX = never; NULL = piece by piece.
    int64_t (*leave)(const struct link_model *m, const struct link_transfer *x, int64_t t_ns,
                     int64_t bytes);
};

extern const struct link_row *const link_table[]; // NULL-terminated

int link_open(struct link_model *m, const struct link_params *p, uint64_t seed, struct err *err);
void link_close(struct link_model *m);
// t_deliver = max(t_ready, link free) + bytes / rate + latency + jitter; moves s->free_ns.
struct link_result link_carry(const struct link_model *m, struct link_state *s,
                              const struct link_transfer *x);
// The losses that link_carry counts, segment by segment: a bit per one that arrived.
void link_arrived(const struct link_model *m, const struct link_transfer *x, uint8_t *map);

// When bytes that begin to leave at t_ns have left, INT64_MAX = never: without loss and latency.
int64_t link_leave(const struct link_model *m, const struct link_transfer *x, int64_t t_ns,
                   int64_t bytes);

// For rows.
int64_t link_add_ns(int64_t a, int64_t b); // saturates at INT64_MAX, which is never
// What a client's link is, drawn once for the run; part: a number per use.
struct rng link_stream(const struct link_model *m, uint32_t client, uint32_t part);
enum { LINK_DRAW_CLASS, LINK_DRAW_OFFSET, LINK_DRAW_STATES, LINK_DRAW_DEAL };

#endif
