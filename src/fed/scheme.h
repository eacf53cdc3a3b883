// Federated schemes as a table. A row is a set of server handlers plus `commit`, what the server
// does with the weighted mean of the updates.
#ifndef FSTQ_FED_SCHEME_H
#define FSTQ_FED_SCHEME_H

#include "base/check.h"
#include "base/opt.h"
#include "base/shape.h"

#include <stddef.h>
#include <stdint.h>

enum scheme_flags {
    SCHEME_NO_TRAIN = 1, // clients return a zero update: what the machinery alone costs
    // The weights themselves move by server_lr times the mean change of the clients' products B A,
    // exactly; what the adapter after commit does not hold goes to the backbone. Downlinks carry
    // that whole: clients that sat rounds out need all of it.
    SCHEME_PRODUCTS = 2,
    SCHEME_FRESH = 4,  // adapters begin anew each round, from the seed: they do not travel down
    SCHEME_BINARY = 8, // clients learn +-alpha (binary.h); options are struct binary_opt
    // Clients send activations and the server trains with them (split.h); options are struct
    // split_opt. Nothing but the task travels down.
    SCHEME_SPLIT = 16,
};

struct server_handlers;                          // server.h
extern const struct server_handlers server_sync; // synchronous rounds

struct scheme {
    const char *name, *help, *source;
    const struct opt *options;
    int n_options;
    size_t option_bytes;
    unsigned flags;
    const struct server_handlers *server; // how rounds go: synchronous, ...
    int state_vectors;                    // of n floats each, kept by the server and its checkpoint
    void (*init)(const void *opt, float *state, size_t n); // NULL = zero
    // theta += ... in the range; delta is the weighted mean over what arrived. All have n values,
    // state has state_vectors of them.
    void (*commit)(const void *opt, float *theta, const float *delta, float *state, size_t n,
                   struct shape_range range, double lr);
};

extern const struct scheme *const scheme_table[]; // NULL-terminated
const struct scheme *scheme_find(const char *name);

#endif
