// Edge servers (fed.relays): clients k, k + R, ... send to relay k mod R, which adds up what comes
// and sends one message on, with the names of those it holds. Sums are exact (exact.h), so that the
// adapter is the one that the same clients come to without relays, to the bit. A relay lives on the
// worker that has its clients: what they send it is serialised, decoded and counted, and does not
// leave the process; what it sends to the server does.
//
// SUM: relay u32, clients u32; of each client u32, samples u32, loss f32, status u32, bytes of its
// frame u64; then of every part of the view the sum (exact.h).
#ifndef FSTQ_FED_RELAY_H
#define FSTQ_FED_RELAY_H

#include "fed/env.h"
#include "fed/exact.h"

struct relay_client {
    uint32_t client, samples;
    float loss;
    enum message_status status;
    int64_t frame_bytes;
};

static inline uint32_t relay_of(const struct fed_env *env, uint32_t client)
{
    return client % (uint32_t)env->fed->relays;
}

// On a worker: what came for one relay in this round.
struct relay {
    uint32_t number;
    uint32_t n_clients;
    struct relay_client *client; // (policy_sampled)
    exact_int *sum;              // (n) part after part of the view
    int64_t arrives_ns;          // the last of them, on the transport's clock
};
struct relays { // of a worker
    const struct fed_env *env;
    uint32_t n, first, step; // the i-th is number first + i step
    struct relay *relay;
    size_t n_values;
    float *one;    // (n_values)
    void *scratch; // of decoders
};
void relays_open(struct relays *r, const struct fed_env *env, int endpoint);
void relays_close(struct relays *r);
void relays_begin(struct relays *r); // a round
// Takes a client's frame as it came over its link: what is not sound, or did not come whole, counts
// by its bytes alone.
void relays_take(struct relays *r, const struct frame *head, const uint8_t *payload,
                 const struct link_result *up, int64_t arrives_ns);
size_t relay_put(const struct relays *r, const struct relay *relay, uint8_t *out);

// On the server.
struct relay_sum {
    uint32_t number, n_clients;
    const uint8_t *clients, *sums;
};
// Trusts nothing; -1 with err.
int relay_get(const struct fed_env *env, const uint8_t *in, size_t len, struct relay_sum *s,
              struct err *err);
struct relay_client relay_client_at(const struct relay_sum *s, uint32_t i);

// Modelled times: a version goes to the relays first, and what they send on when the last of theirs
// has come goes over net.relay_link; the server's port is the relays'.
struct relay_round {
    uint32_t number;
    int64_t down_bytes, up_bytes; // up_bytes 0: it sends nothing
    int64_t down_ns, total_ns;    // out: from the start of the round
};
void relay_down_times(const struct fed_env *env, const struct round_start *start,
                      struct relay_round *r, size_t n);
// ready_ns of each: when its last client's frame has come.
void relay_up_times(const struct fed_env *env, const struct round_start *start,
                    struct relay_round *r, const int64_t *ready_ns, size_t n);

#endif
