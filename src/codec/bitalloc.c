#include "codec/bitalloc.h"

#include "base/fmath.h"
#include "kernels/kernels_codec.h"

#include <string.h>

const char *const bitalloc_importances[] = {
    [IMPORTANCE_FISHER] = "fisher", [IMPORTANCE_MAGNITUDE] = "magnitude",
    [IMPORTANCE_RANDOM] = "random", [IMPORTANCE_UNIFORM] = "uniform",
    [IMPORTANCE_GD] = "gd",         [IMPORTANCE_ABSGD] = "absgd",
    [BITALLOC_FEDSRD] = "fedsrd",   NULL};
const char *const bitalloc_norms[] = {
    [NORM_NONE] = "none", [NORM_TENSOR] = "tensor", [NORM_CLASS] = "class", NULL};
const char *const bitalloc_policies[] = {
    [POLICY_PERCENTILE] = "percentile", [POLICY_GREEDY] = "greedy", [POLICY_RD] = "rd", NULL};

#define CLASSES 3

static size_t tensor_values(const struct shape_tensor *t)
{
    return (size_t)t->rows * t->cols;
}

// |dA| times the norm of a column of B, |dB| times that of a row of A: as F D^2, of squared norms.
struct alloc_rule bitalloc_rule(const struct bitalloc *a)
{
    if (a->importance == BITALLOC_FEDSRD)
        return (struct alloc_rule){IMPORTANCE_FISHER, 16};
    return (struct alloc_rule){(enum alloc_importance)a->importance, a->gamma16};
}

bool bitalloc_needs_sens(const struct bitalloc *a)
{
    const struct alloc_rule rule = bitalloc_rule(a);
    return alloc_needs_sens(&rule);
}

bool bitalloc_needs_grad(const struct bitalloc *a)
{
    const struct alloc_rule rule = bitalloc_rule(a);
    return alloc_needs_grad(&rule);
}

// Importance.

static float inverse_mean(double sum, double n)
{
    double mul = sum > 0 ? n / sum : 0;
    return mul < 0x1p120 ? (float)mul : 0x1p120f;
}

void bitalloc_factors(const struct bitalloc *a, const double *sens_sum, float *mul)
{
    const struct shape *s = a->shape;
    double sum[CLASSES] = {0}, n[CLASSES] = {0};
    // Squared norms compare across matrices as they are.
    bool none = !bitalloc_needs_sens(a) || a->norm == NORM_NONE || a->importance == BITALLOC_FEDSRD;
    for (uint32_t t = 0; t < s->n_tensors && !none; t++) {
        sum[s->tensors[t].kind] += sens_sum[t];
        n[s->tensors[t].kind] += (double)tensor_values(&s->tensors[t]);
    }
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        uint32_t kind = s->tensors[t].kind;
        mul[t] = none ? 1
                 : a->norm == NORM_CLASS
                     ? inverse_mean(sum[kind], n[kind])
                     : inverse_mean(sens_sum[t], (double)tensor_values(&s->tensors[t]));
    }
}

// Thresholds.

static bool fits(double target, bitalloc_cost *cost, const void *arg,
                 const int64_t count[ALLOC_LEVELS])
{
    return target < 0 || cost(arg, count) <= target;
}

// Algorithm 1 of Fed-FSTQ as it is written: in order of importance, each coordinate gets the
// largest width that still fits. The cost never falls as a count grows, so that this is: as many of
// the largest width as fit, n_K = max {m: cost(0, ..., m) <= B}; of those left as many of the next;
// ...
static void plan_greedy(const struct bitalloc *a, double target, bitalloc_cost *cost,
                        const void *arg, int64_t count[ALLOC_LEVELS])
{
    for (int k = a->count - 1; k > 0; k--) {
        int64_t low = 0, high = count[0] + 1, rest = count[0];
        while (high - low > 1) {
            int64_t mid = low + (high - low) / 2;
            count[k] = mid;
            count[0] = rest - mid;
            if (fits(target, cost, arg, count))
                low = mid;
            else
                high = mid;
        }
        count[k] = low;
        count[0] = rest - low;
    }
}

// n_k = p s_k n of each width, rounded, the largest width first: the shares of (23), of all
// coordinates, scaled by p.
static void scale_shares(const struct bitalloc *a, double part, int64_t count[ALLOC_LEVELS])
{
    int64_t n = (int64_t)a->shape->n_values;
    count[0] = n;
    for (int k = a->count - 1; k > 0; k--) {
        int64_t want = (int64_t)(part * a->share[k] * (double)n + 0.5);
        count[k] = want < count[0] ? want : count[0];
        count[0] -= count[k];
    }
}

// The largest p at which that fits, by halving; p = 1 without a budget.
static void plan_shares(const struct bitalloc *a, double target, bitalloc_cost *cost,
                        const void *arg, int64_t count[ALLOC_LEVELS])
{
    double low = 0, high = 0, sum = 0;
    for (int k = 1; k < a->count; k++)
        sum += a->share[k];
    high = sum > 0 ? 1 / sum : 1;
    if (target < 0)
        low = 1;
    for (int i = 0; i < 60 && target >= 0; i++) {
        double mid = i ? (low + high) / 2 : high;
        scale_shares(a, mid, count);
        if (fits(target, cost, arg, count))
            low = mid;
        else
            high = mid;
    }
    scale_shares(a, low, count);
}

// threshold[k - 1]: bits of the least importance that gets width k, and how many of its ties do.
static void find_thresholds(const struct bitalloc *a, const struct bitalloc_on *on, const float *u,
                            const int64_t count[ALLOC_LEVELS], uint32_t *threshold, size_t *ties)
{
    size_t n = a->shape->n_values, reached = n - (size_t)count[0];
    uint32_t bins[ALLOC_LEVELS][SELECT_BINS], prefix[ALLOC_LEVELS];
    struct select_threshold c[ALLOC_LEVELS];
    int thresholds = a->count - 1;
    on->stages->top(on->cx, u, n, reached, bins[0]);
    for (int k = 0; k < thresholds; k++) {
        select_threshold_begin(&c[k], reached);
        select_threshold_next(&c[k], bins[0]);
        reached -= (size_t)count[k + 1];
    }
    for (int level = 1; level < SELECT_LEVELS; level++) {
        for (int k = 0; k < thresholds; k++)
            prefix[k] = c[k].prefix;
        on->stages->within(on->cx, u, n, level, prefix, thresholds, bins);
        for (int k = 0; k < thresholds; k++)
            select_threshold_next(&c[k], bins[k]);
    }
    reached = 0;
    for (int k = thresholds - 1; k >= 0; k--) {
        reached += (size_t)count[k + 1];
        threshold[k] = reached ? c[k].prefix : UINT32_MAX;
        ties[k] = c[k].left;
        if (threshold[k] == 0) { // no importance, no bits
            threshold[k] = 1;
            ties[k] = SIZE_MAX;
        }
    }
}

void bitalloc_ranks(const struct bitalloc *a, const struct bitalloc_on *on, const float *u,
                    double target, bitalloc_cost *cost, const void *arg, uint8_t *tag)
{
    int64_t count[ALLOC_LEVELS] = {(int64_t)a->shape->n_values};
    uint32_t threshold[ALLOC_LEVELS];
    size_t ties[ALLOC_LEVELS];
    if (a->policy == POLICY_GREEDY)
        plan_greedy(a, target, cost, arg, count);
    else
        plan_shares(a, target, cost, arg, count);
    find_thresholds(a, on, u, count, threshold, ties);
    on->stages->tags(on->cx, u, on->run, a->shape->n_tensors, threshold, a->count - 1, ties, tag);
}

// Rate and distortion.

#define LOG_LEAST (-87.0) // beyond these a multiplier is no float
#define LOG_MOST  87.0
#define SMOOTH    6       // turns in which the line is trusted whatever comes of it
#define LOG_NEXT  0x1p-16 // nearer ones are as good, and the same float in the end

void bitalloc_search_begin(struct bitalloc_search *s, double want, double slack, double lambda,
                           double slope)
{
    double at = lambda > 0 ? fmath_log(lambda) : 0;
    *s = (struct bitalloc_search){.want = want, .slack = slack, .slope = slope};
    s->at = at < LOG_LEAST ? LOG_LEAST : at > LOG_MOST ? LOG_MOST : at;
}

float bitalloc_search_lambda(const struct bitalloc_search *s)
{
    return (float)fmath_exp(s->at);
}

// What will do is reached best in its upper third.
static double search_aim(const struct bitalloc_search *s)
{
    return s->want - s->slack / 3;
}

// One side is not known yet: along the slope, and faster each time.
static void search_out(struct bitalloc_search *s, double cost)
{
    double step = (cost - search_aim(s)) / (s->slope > 0 ? s->slope : cost + 1);
    double least = s->turns > 1 ? 0.01 * (double)(1 << (s->turns < 9 ? s->turns : 9)) : 0;
    step = cost > s->want ? (step > least ? step : least) : (step < -least ? step : -least);
    step = step > 4 ? 4 : step < -4 ? -4 : step;
    s->at += step;
    s->at = s->at < LOG_LEAST ? LOG_LEAST : s->at > LOG_MOST ? LOG_MOST : s->at;
}

// Between two sides: where the line through both reaches the aim; every third time, and where the
// cost stays what it was, in the middle.
static void search_in(struct bitalloc_search *s, bool flat)
{
    double part = (s->dear.cost - search_aim(s)) / (s->dear.cost - s->cheap.cost);
    part = flat || s->turns % 3 == 2 ? 0.5 : part < 0.02 ? 0.02 : part > 0.98 ? 0.98 : part;
    s->at = s->dear.at + part * (s->cheap.at - s->dear.at);
}

enum bitalloc_verdict bitalloc_search_tell(struct bitalloc_search *s, double cost)
{
    bool dear = cost > s->want;
    if (!dear && (cost >= s->want - s->slack || s->at <= LOG_LEAST))
        return SEARCH_MET;
    if (dear && s->at >= LOG_MOST)
        return SEARCH_HOPELESS;
    struct bitalloc_side *side = dear ? &s->dear : &s->cheap;
    const bool flat = s->patient && s->turns >= SMOOTH && side->known && side->cost == cost;
    *side = (struct bitalloc_side){true, s->at, cost};
    s->turns++; // the first step trusts the slope
    if (!s->dear.known || !s->cheap.known) {
        search_out(s, cost);
        return SEARCH_ON;
    }
    if (s->cheap.at - s->dear.at <= LOG_NEXT)
        return SEARCH_BETWEEN;
    search_in(s, flat);
    return SEARCH_ON;
}
