// Which coordinate gets how many bits: importance of each, a policy, a budget. It knows
// sensitivities, never a model; what a message costs is told by a callback, so that metadata
// counts.
#ifndef FSTQ_CODEC_BITALLOC_H
#define FSTQ_CODEC_BITALLOC_H

#include "codec/codec.h"

enum bitalloc_importance {
    IMPORTANCE_FISHER,    // F^gamma D^2 (21)
    IMPORTANCE_MAGNITUDE, // D^2
    IMPORTANCE_RANDOM,    // drawn from the key: other coordinates for every client and round
    IMPORTANCE_UNIFORM,   // the same for all: an even comb over the coordinates
    IMPORTANCE_GD,        // -g D, what the loss falls by to first order; 0 where it rises
    IMPORTANCE_ABSGD,     // |g D|
};
extern const char *const bitalloc_importances[];

enum bitalloc_norm { NORM_NONE, NORM_TENSOR, NORM_CLASS }; // F over its mean in the tensor or class
extern const char *const bitalloc_norms[];

enum bitalloc_policy {
    POLICY_PERCENTILE, // fixed shares of the coordinates by rank (23); with a budget, all scaled
                       // alike
    POLICY_GREEDY,     // in order of importance the largest width that still fits (Algorithm 1)
    POLICY_RD,         // least weighted squared error at the budget (12)-(15)
};
extern const char *const bitalloc_policies[];

struct bitalloc {
    const struct shape *shape;
    int count; // of widths, ascending; the first is 0
    int bits[ALLOC_LEVELS];
    int32_t importance, norm, policy;
    int gamma16; // gamma in sixteenths: roots, not powers, give the same bits everywhere
    double share[ALLOC_LEVELS]; // percentile: of all coordinates, by width
};

// Bytes of a message with count[k] values of width k; must not fall when a value gets a larger
// width.
typedef double bitalloc_cost(const void *arg, const int64_t count[ALLOC_LEVELS]);

#define BITALLOC_BINS 2048
#define BITALLOC_FINE (3 * 256)
struct bitalloc_run { // one update, between prepare and as many assigns as it takes
    const struct bitalloc *a;
    const float *x;
    float *u;                          // (n) importance; under RD the weight of a squared error
    const struct alloc_levels *levels; // RD: of each group
    const uint32_t *group;             // RD: (n_tensors) group of a tensor
    // RD. coarse: changes of the counts by the upper bits of the slope, from every stride-th tile.
    // fine: the same from all of them, for three coarse bins from fine_at on (-1: not counted yet);
    // above: counts once every steeper step is taken.
    int32_t (*coarse)[ALLOC_LEVELS], (*fine)[ALLOC_LEVELS];
    int64_t above[ALLOC_LEVELS];
    uint8_t *sure; // (n) tags once every steeper step is taken, marked where a step lies in fine
    size_t stride;
    int fine_at;
};

bool bitalloc_needs_sens(const struct bitalloc *a);
bool bitalloc_needs_grad(const struct bitalloc *a);
size_t bitalloc_scratch(const struct bitalloc *a); // bytes, beside u
// Checks the sensitivities, fills u and the first histogram. x has been checked.
int bitalloc_prepare(struct bitalloc_run *r, const struct bitalloc *a, const struct codec_input *in,
                     const struct alloc_levels *levels, const uint32_t *group, float *u,
                     void *scratch, struct err *err);
// Tags (index of the width) such that the cost stays at or below target bytes and is as near as it
// can be; target < 0: no budget, percentile only. Tags of tensor t begin at tag[place[t]].
void bitalloc_assign(struct bitalloc_run *r, double target, bitalloc_cost *cost, const void *arg,
                     const size_t *place, uint8_t *tag);

#endif
