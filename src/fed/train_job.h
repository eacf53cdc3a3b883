#ifndef FSTQ_FED_TRAIN_JOB_H
#define FSTQ_FED_TRAIN_JOB_H

#include "base/shape.h"
#include "fed/fed.h"
#include "model/scores.h"
#include "model/tokens.h"

#include <stdbool.h>
#include <stdint.h>

// What lies on the workload's device, until the next training; NULL = nothing does.
struct train_there {
    const float *delta, *sens, *grad; // the same as the job's
};

// One client's local training on one version. Vectors are caller's.
struct train_job {
    uint32_t client, round;
    const float *theta; // (n) the version's adapter, then (n_backbone) what moves the backbone
    float *delta;       // (n) out: trained minus theta
    float *state;       // (state_floats) in and out, NULL when nothing is kept
    float *kept;        // (fisher_floats) in and out, NULL when nothing is kept
    float *sens;        // (n) out: diagonal Fisher of the adapter, or NULL
    float *grad;        // (n) out: moving average of the gradient, or NULL
    // Of the scheme, (n) each: what the client keeps, in and out; what came with the version; what
    // travels up beside delta, out.
    float *own[FED_VECTORS];
    const float *down[FED_VECTORS];
    float *up[FED_VECTORS];
    bool moved; // own is of another part of the adapter than has its turn, or of an earlier turn
    const struct shape_range *trained; // what may change, ascending; NULL = all
    int n_trained;
    int32_t steps; // of the optimizer
    void *talker;  // where the scheme talks: of its own
    int32_t said;  // and times that it was answered
    uint32_t ask;  // what the scheme's ask said of this client
    const struct token_source *tokens;
    const struct token_opts *token_opt;
    struct token_scores *scores; // out: what tokens of the vocabulary are worth, or NULL
    bool lend;                   // there is asked for
    bool lend_alone;             // and sens and grad are read nowhere else, where they lie there
    int32_t samples;             // out: weight of this client
    double loss;                 // out: mean local loss
    int64_t dur_ns, cpu_ns;
    bool failed;              // out: no update from this client
    struct train_there there; // out
};

#endif
