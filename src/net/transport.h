// Transports as a table: mpi moves real bytes between ranks, sim runs every endpoint in one process
// on an event heap in virtual time. Endpoint 0 is the server, endpoints 1..W are workers. Nothing
// above this header knows MPI.
#ifndef FSTQ_NET_TRANSPORT_H
#define FSTQ_NET_TRANSPORT_H

#include "net/link.h"
#include "net/pacer.h"
#include "net/transport_row.h"

struct net_params { // [net]
    struct link_params link;
    char relay_link[256];              // of relays to the server, as link.link
    double port_up_bps, port_down_bps; // of the server, shared by its clients; 0 = no limit
    int32_t transport, pace;           // rows of transport_table; NET_PACE_*
    bool checksum;                     // XXH3 over payloads
    double timeout_s;                  // silence after which a worker is suspected
    int64_t arena_bytes;               // frames that may wait at the server for their turn
    int32_t sim_workers;               // endpoints of the simulated transport
    // Probabilities per frame, sim only.
    double sim_drop, sim_corrupt, sim_delay, sim_duplicate, sim_reorder;
};
enum { NET_PACE_MODEL, NET_PACE_REAL, NET_PACE_NONE };

extern const struct opt net_options[];
extern const int net_option_count;
// Combinations that make no sense ("net.pace = real" before it exists, faults without sim).
int net_check(const struct net_params *p, struct err *err);

// What sim did on purpose.
struct net_faults {
    int64_t dropped, corrupted, delayed, duplicated, reordered;
};

#define FRAME_PAYLOAD_UNAGREED ((uint64_t)1 << 20) // enough for hello and welcome

struct transport {
    const struct transport_row *row;
    const struct net_params *params;
    uint64_t seed;
    int n_endpoints;        // 1 + workers
    struct link_model link; // of the clients
    struct link_params relay_params;
    struct link_model relay_link; // of their relays
    struct pacer pacer;           // of net.pace = real
    struct frame_limits limits;
    struct netbuf_pool pool;
    // Physical, headers included: what left endpoints of this process and what came from others.
    // With every endpoint in one process each copy counts once; so it does at the server of a star.
    int64_t bytes_moved, frames_moved;
    int64_t mpi_errors; // sends and receives that MPI refused; the frame is lost
    struct net_faults faults;
    void *state;
};

extern const struct transport_row transport_mpi, transport_sim; // comm_mpi.c, sim.c
extern const struct transport_row *const transport_table[];     // NULL-terminated

// limits start at FRAME_PAYLOAD_UNAGREED and no registry; set t->limits once they are agreed.
int transport_open(struct transport *t, const struct net_params *params, uint64_t seed,
                   struct err *err);
bool transport_hosts(const struct transport *t, int endpoint); // is this endpoint in this process?
// One reference, the caller's.
struct netbuf *transport_buf(struct transport *t, size_t payload_cap);
void transport_ref(struct netbuf *b);
void transport_unref(struct transport *t, struct netbuf *b);
// Seals f over the payload already in b (f->payload_bytes of it) and sends. Does not block; keeps
// its own reference until the bytes have left. t_deliver_ns: virtual delivery time, used by sim,
// ignored by mpi.
void transport_send(struct transport *t, int src, int dst, struct frame *f, struct netbuf *b,
                    int64_t t_deliver_ns);
// The same at the pace of a client's link where net.pace = real, else as transport_send; what is
// sent to dst later comes later. over->bytes is the frame's.
void transport_send_over(struct transport *t, int src, int dst, struct frame *f, struct netbuf *b,
                         int64_t t_deliver_ns, const struct link_transfer *over);
// When the last of what goes at the pace of a link is due, at least now.
int64_t transport_paced_ns(const struct transport *t);
// The next message for an endpoint of this process, or false once now() reaches until_ns. Messages
// whose frame is not good are handed over too, with their verdict.
bool transport_poll(struct transport *t, struct net_msg *m, int64_t until_ns);
int64_t transport_now(const struct transport *t);
void transport_forget(struct transport *t, int endpoint);
// Waits for own sends; false = some never left.
bool transport_flush(struct transport *t, int64_t until_ns);
void transport_close(struct transport *t, bool clean);

#endif
