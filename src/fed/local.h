// Rules of local training. A client trains a vector x that begins as the round's version; the model
// may run with another one. Rules stand in a chain between the two:
//
//     x -> before of the first rule -> ... -> before of the last -> what the model runs with
//     its gradient -> after of the last -> ... -> after of the first -> the optimizer steps x
//
// so that they compose: corrections of the gradient stand first, next to the optimizer; another
// form of the adapter stands last, next to the model. A rule may also make the gradient itself, of
// losses alone: then nothing goes backward through the model.
#ifndef FSTQ_FED_LOCAL_H
#define FSTQ_FED_LOCAL_H

#include "base/check.h"
#include "base/shape.h"
#include "fed/train_job.h"
#include "model/model.h"

#include <stddef.h>
#include <stdint.h>

struct local_setup { // what holds for every client of a run
    const struct shape *shape;
    const struct optim_params *optim;
    uint64_t seed;
};

struct local { // one client in training under one rule
    const struct local_setup *setup;
    const void *opt;             // of the scheme or view that brings the rule
    void *shared, *memory;       // what open made; size_bytes, the client's until its round ends
    const struct train_job *job; // job->delta is x until the round ends
};

struct local_loss { // of the step's batch
    double (*at)(void *arg, const float *adapter);
    void *arg;
};

struct local_rule {
    // NULL = nothing is shared.
    int (*open)(const struct local_setup *s, const void *opt, void **shared, struct err *err);
    void (*close)(void *shared);
    size_t (*size_bytes)(const struct local_setup *s); // of memory; NULL = none
    // The adapter that x stands for, also outside of training; NULL = x itself.
    void (*expand)(void *shared, const float *x, float *adapter);
    void (*begin)(struct local *l);
    // What comes after x on the way to the model: x itself or in memory. NULL = x.
    const float *(*before)(struct local *l, int32_t step, const float *x);
    // Instead of the model's: the gradient at x, of losses at and near x; returns that at x, or
    // what is near it. Of a rule alone: no other form of the adapter stands behind it.
    double (*gradient)(struct local *l, int32_t step, const float *x, struct local_loss loss,
                       float *grad);
    void (*after)(struct local *l, int32_t step, float *grad);
    // The client's update where it is not x less theta, in memory; or NULL.
    const float *(*end)(struct local *l);
};

struct local_use {
    const struct local_rule *rule;
    const void *opt;
};

#define LOCAL_RULES 4 // in a chain, at most

struct local_chain {
    struct local_setup setup;
    int n, at_once; // rules; clients in training at once
    struct local_use use[LOCAL_RULES];
    void *shared[LOCAL_RULES];
    struct local *client;      // (at_once, n)
    float *expanded, *between; // (n_values) each, where a rule has another form
};

// shape and optim outlive the chain.
int local_open(struct local_chain *c, const struct local_setup *s, const struct local_use *use,
               int n, int at_once, struct err *err);
void local_close(struct local_chain *c);

// For client i of those in this order; before and after once a step, and only where there are
// rules.
void local_begin(struct local_chain *c, int i, const struct train_job *job);
const float *local_before(struct local_chain *c, int i, int32_t step);
// Whether a rule makes the gradient; then by this, at what local_before has returned.
bool local_asks(const struct local_chain *c);
double local_gradient(struct local_chain *c, int i, int32_t step, const float *x,
                      struct local_loss loss, float *grad);
void local_after(struct local_chain *c, int i, int32_t step, float *grad);
// delta becomes the update: x less theta, or false: what a rule has instead.
bool local_end(struct local_chain *c, int i, struct train_job *job);

// The adapter of a version, outside of training: x itself, or in the chain until the next call.
const float *local_expand(struct local_chain *c, const float *x);

#endif
