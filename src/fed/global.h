// The global model on the server: its versions, the sums of the updates that arrive for the next
// one, and the step that makes it.
#ifndef FSTQ_FED_GLOBAL_H
#define FSTQ_FED_GLOBAL_H

#include "fed/env.h"
#include "fed/exact.h"
#include "fed/worth.h"

#include <stdbool.h>

struct update {               // one client's message
    uint32_t client, version; // version: that it was trained on
    const uint8_t *bytes;     // of all its vectors
    size_t len;
    size_t vector_len[FED_VECTORS]; // out: of each
    float weight;
    float scale;          // of what it says, 1 = as it is; its weight in the mean stays
    uint32_t samples;     // as its frame has it
    const uint8_t *heard; // of datagrams: a bit per segment of the frame that arrived; NULL = all
    const float *base;    // (n_model) what it was trained on, NULL where nobody keeps that
    double loss;          // mean of its training; whoever unpacks it may know better
};

struct part_sum {     // what arrived of one vector of one part of the view
    float *sum;       // (part.n_values) weighted; later the mean
    void *agg_state;  // where its codec adds up its own way
    float *agg_keep;  // in state, behind the scheme's
    double weight;    // of all that sent something of it
    exact_int *exact; // (n_values) fed.sum = exact: the sum, and sum the mean of it; else NULL
    double *grain;    // (n_values / BLOCK_GRAIN, up) of datagrams: weight of what arrived; or NULL
};

struct global {
    const struct fed_env *env;
    size_t n, n_model, n_state; // n_model: the adapter, then what moves the backbone
    size_t n_sum;               // of all parts of the view
    float *theta, *state;       // (n_model), (n_state)
    float *average;             // (1 + n_model) in state: of how many versions, their average; NULL
    // By vector, (n) each: sums of the parts one after another; their means, laid out as the
    // adapter.
    float *sum[FED_VECTORS], *mean[FED_VECTORS];
    float *one[FED_VECTORS]; // one client's vectors beside the update
    float *cover;            // (n) weight behind each value of the mean, where parts are nested
    struct part_sum *part;   // (view.n_parts, view.n_vectors)
    struct worth worth;      // what tokens are worth; in state, behind the average
    void *scratch;           // of decoders
    void *own;               // of the scheme's hooks
    int32_t arrived;
    double weight, loss; // of what arrived: sum of weights, weighted sum of losses
};

int global_open(struct global *g, const struct fed_env *env, struct err *err);
void global_close(struct global *g); // also after a failure
// Empty sums, for the version after this one.
void global_begin(struct global *g, uint32_t version);
// Adds an update, or returns a codec's error and leaves the sums as they were. Fills u->loss where
// the server learns it.
int global_add(struct global *g, struct update *u, struct err *err);
// What global_add does where a scheme has no way of its own, for those that have.
int global_add_update(struct global *g, struct update *u, struct err *err);
struct part_sum *global_sum(const struct global *g, uint32_t part, int vector);
// Adds the sums of a relay (exact.h), which were checked; weight: of part p in them, by part.
void global_add_sums(struct global *g, const uint8_t *sums, size_t len, const double *weight);
// The sum's step of size lr; needs at least one update. False: the sum is not finite, though each
// update was, and the model stays as it is. norm: of the mean update.
bool global_commit(struct global *g, uint32_t version, double lr, double *norm);
// The version that was committed goes into the average, where one is kept.
void global_average(struct global *g, uint32_t version);
const float *global_evaluated(const struct global *g); // (n_model)
void global_evaluate(struct global *g, struct eval_result *r);
uint64_t global_hash(const struct global *g); // XXH3 of theta, or as the scheme has it
bool global_finite(const float *v, size_t n); // for the schemes' hooks

#endif
