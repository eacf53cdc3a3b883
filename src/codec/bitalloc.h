// Which coordinate gets how many bits: importance of each, a policy, a budget. It knows
// sensitivities, never a model; what a message costs is told by a callback, so that metadata
// counts.
#ifndef FSTQ_CODEC_BITALLOC_H
#define FSTQ_CODEC_BITALLOC_H

#include "codec/codec.h"
#include "kernels/stages.h"

// enum alloc_importance, then this one.
enum { BITALLOC_FEDSRD = IMPORTANCE_ABSGD + 1 };
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

bool bitalloc_needs_sens(
    const struct bitalloc *a); // Fisher's, or the reach where that is asked for
bool bitalloc_needs_grad(const struct bitalloc *a);
// What F of each tensor is multiplied by, from the sums of its sensitivities.
void bitalloc_factors(const struct bitalloc *a, const double *sens_sum, float *mul);
struct alloc_rule bitalloc_rule(const struct bitalloc *a);
// Percentile and greedy: tags (index of the width) by rank of u (n) such that the cost stays at or
// below target bytes and is as near as it can be; target < 0: no budget, percentile only. run: all
// tensors, in their order, for ties go to the first. u and tag are the device's.
struct bitalloc_on {
    const struct alloc_stages *stages;
    const struct kernel_ctx *cx;
    const struct alloc_run *run; // (n_tensors)
};
void bitalloc_ranks(const struct bitalloc *a, const struct bitalloc_on *on, const float *u,
                    double target, bitalloc_cost *cost, const void *arg, uint8_t *tag);

// Rate-distortion: the multiplier lambda of (13) at which a cost lies in [want - slack, want]. The
// cost falls as lambda grows, in steps, and is told for one lambda after another.
enum bitalloc_verdict {
    SEARCH_ON,      // tell the cost at the next lambda
    SEARCH_MET,     // this one will do, or all errors are as small as they can be
    SEARCH_BETWEEN, // no float lies between one that costs too much and one that leaves too much
    SEARCH_HOPELESS // the least that can be said costs too much
};
struct bitalloc_side {
    bool known;
    double at, cost;
};
struct bitalloc_search {
    double want, slack;
    double slope;                     // by how much the cost falls as log lambda grows by 1
    double at;                        // log lambda
    struct bitalloc_side dear, cheap; // nearest ones above want and below
    int turns;
    bool patient; // goes on until there is a verdict, and where nothing changes, by halves
};
void bitalloc_search_begin(struct bitalloc_search *s, double want, double slack, double lambda,
                           double slope);
float bitalloc_search_lambda(const struct bitalloc_search *s);
enum bitalloc_verdict bitalloc_search_tell(struct bitalloc_search *s, double cost);

#endif
