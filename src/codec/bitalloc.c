#include "codec/bitalloc.h"

#include "base/fmath.h"
#include "base/rng.h"
#include "kernels/kernels_codec.h"

#include <string.h>

const char *const bitalloc_importances[] = {"fisher", "magnitude", "random", "uniform",
                                            "gd",     "absgd",     NULL};
const char *const bitalloc_norms[] = {"none", "tensor", "class", NULL};
const char *const bitalloc_policies[] = {"percentile", "greedy", "rd", NULL};

#define CLASSES 3

static size_t tensor_values(const struct shape_tensor *t)
{
    return (size_t)t->rows * t->cols;
}

bool bitalloc_needs_sens(const struct bitalloc *a)
{
    return a->importance == IMPORTANCE_FISHER && a->gamma16 > 0;
}

bool bitalloc_needs_grad(const struct bitalloc *a)
{
    return a->importance == IMPORTANCE_GD || a->importance == IMPORTANCE_ABSGD;
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
    bool none = !bitalloc_needs_sens(a) || a->norm == NORM_NONE;
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

void bitalloc_score(const struct bitalloc *a, const struct codec_input *in, uint32_t t, float mul,
                    size_t from, size_t n, float *u)
{
    const size_t at = a->shape->tensors[t].offset + from;
    struct rng r;
    switch ((enum bitalloc_importance)a->importance) {
    case IMPORTANCE_FISHER:
        if (a->gamma16 > 0)
            alloc_fisher(in->x + at, in->sens + at, n, mul, a->gamma16, u);
        else
            alloc_magnitude(in->x + at, n, u);
        break;
    case IMPORTANCE_MAGNITUDE:
        alloc_magnitude(in->x + at, n, u);
        break;
    case IMPORTANCE_RANDOM:
        r = rng_stream(in->key.seed, RNG_CODEC, in->key.client, in->key.version, t);
        alloc_drawn(r.key, r.ctr, from, n, u);
        break;
    case IMPORTANCE_UNIFORM:
        alloc_comb((uint32_t)at, n, u);
        break;
    case IMPORTANCE_GD:
    case IMPORTANCE_ABSGD:
        alloc_first_order(in->x + at, in->grad + at, n, a->importance == IMPORTANCE_ABSGD, u);
        break;
    }
}

void bitalloc_weigh(const struct bitalloc *a, const struct codec_input *in, uint32_t t, float mul,
                    size_t from, size_t n, float *w)
{
    const size_t at = a->shape->tensors[t].offset + from;
    if (bitalloc_needs_sens(a)) {
        alloc_power(in->sens + at, n, mul, a->gamma16, w);
    } else if (a->importance == IMPORTANCE_FISHER || a->importance == IMPORTANCE_MAGNITUDE) {
        mix_fill(1, n, w);
    } else {
        bitalloc_score(a, in, t, mul, from, n, w);
        alloc_weight(in->x + at, n, w);
    }
}

// Thresholds.

static bool fits(double target, bitalloc_cost *cost, const void *arg,
                 const int64_t count[ALLOC_LEVELS])
{
    return target < 0 || cost(arg, count) <= target;
}

// Algorithm 1 as it is written: in order of importance, each gets the largest width that still
// fits.
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

// Upper bits of the largest values, at least of the k largest. No importance is below 0.
static void count_top(const struct bitalloc *a, const float *u, size_t k,
                      uint32_t count[SELECT_BINS])
{
    size_t n = a->shape->n_values, sum = 0;
    memset(count, 0, SELECT_BINS * sizeof *count);
    size_t seen = select_sample(u, n, SELECT_ABS, SELECT_STRIDE, count);
    uint32_t floor_bin = select_floor(count, seen, n, k);
    memset(count, 0, SELECT_BINS * sizeof *count);
    select_count(u, n, SELECT_ABS, 0, floor_bin, count);
    for (int b = 0; b < SELECT_BINS; b++)
        sum += count[b];
    if (sum < k) { // the sample was wrong
        memset(count, 0, SELECT_BINS * sizeof *count);
        select_count(u, n, SELECT_ABS, 0, 0, count);
    }
}

// cut[k - 1]: bits of the least importance that gets width k, and how many of its ties do.
static void find_cuts(const struct bitalloc *a, const float *u, const int64_t count[ALLOC_LEVELS],
                      uint32_t *cut, size_t *ties)
{
    size_t n = a->shape->n_values, reached = n - (size_t)count[0];
    uint32_t bins[ALLOC_LEVELS][SELECT_BINS], prefix[ALLOC_LEVELS];
    struct select_cut c[ALLOC_LEVELS];
    int cuts = a->count - 1;
    count_top(a, u, reached, bins[0]);
    for (int k = 0; k < cuts; k++) {
        select_cut_begin(&c[k], reached);
        select_cut_next(&c[k], bins[0]);
        reached -= (size_t)count[k + 1];
    }
    for (int level = 1; level < SELECT_LEVELS; level++) {
        for (int k = 0; k < cuts; k++)
            prefix[k] = c[k].prefix;
        memset(bins, 0, sizeof bins);
        select_count_many(u, n, SELECT_ABS, level, prefix, cuts, bins);
        for (int k = 0; k < cuts; k++)
            select_cut_next(&c[k], bins[k]);
    }
    reached = 0;
    for (int k = cuts - 1; k >= 0; k--) {
        reached += (size_t)count[k + 1];
        cut[k] = reached ? c[k].prefix : UINT32_MAX;
        ties[k] = c[k].left;
        if (cut[k] == 0) { // no importance, no bits
            cut[k] = 1;
            ties[k] = SIZE_MAX;
        }
    }
}

void bitalloc_ranks(const struct bitalloc *a, const float *u, double target, bitalloc_cost *cost,
                    const void *arg, const size_t *place, uint8_t *tag)
{
    int64_t count[ALLOC_LEVELS] = {(int64_t)a->shape->n_values};
    uint32_t cut[ALLOC_LEVELS];
    size_t ties[ALLOC_LEVELS];
    int cuts = a->count - 1;
    if (a->policy == POLICY_GREEDY)
        plan_greedy(a, target, cost, arg, count);
    else
        plan_shares(a, target, cost, arg, count);
    find_cuts(a, u, count, cut, ties);
    for (uint32_t t = 0; t < a->shape->n_tensors; t++) {
        const struct shape_tensor *row = &a->shape->tensors[t];
        size_t n = tensor_values(row);
        if (alloc_tags(u + row->offset, n, cut, cuts, tag + place[t]))
            alloc_ties(u + row->offset, n, cut, cuts, ties, tag + place[t]);
    }
}

// Rate and distortion.

#define LOG_LEAST (-87.0) // beyond these a multiplier is no float
#define LOG_MOST  87.0
#define LOG_NEXT  0x1p-24 // nearer ones may be the same float

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

// Between two sides: where the line through both reaches the aim, every third time in the middle.
static void search_in(struct bitalloc_search *s)
{
    double part = (s->dear.cost - search_aim(s)) / (s->dear.cost - s->cheap.cost);
    part = s->turns % 3 == 2 ? 0.5 : part < 0.02 ? 0.02 : part > 0.98 ? 0.98 : part;
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
    *side = (struct bitalloc_side){true, s->at, cost};
    s->turns++; // the first step trusts the slope
    if (!s->dear.known || !s->cheap.known) {
        search_out(s, cost);
        return SEARCH_ON;
    }
    if (s->cheap.at - s->dear.at <= LOG_NEXT)
        return SEARCH_BETWEEN;
    search_in(s);
    return SEARCH_ON;
}
