#include "codec/bitalloc.h"

#include "base/rng.h"
#include "codec/message.h"
#include "kernels/kernels_codec.h"

#include <assert.h>

const char *const bitalloc_importances[] = {"fisher", "magnitude", "random", "uniform",
                                            "gd",     "absgd",     NULL};
const char *const bitalloc_norms[] = {"none", "tensor", "class", NULL};
const char *const bitalloc_policies[] = {"percentile", "greedy", "rd", NULL};

#define TILE         1024
#define CLASSES      3
#define F32_INF_BITS 0x7f800000u

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

size_t bitalloc_scratch(const struct bitalloc *a)
{
    if (a->policy != POLICY_RD)
        return 0;
    return SCRATCH_ROUND(BITALLOC_BINS * sizeof(int32_t[ALLOC_LEVELS])) +
           SCRATCH_ROUND(BITALLOC_FINE * sizeof(int32_t[ALLOC_LEVELS])) +
           SCRATCH_ROUND(a->shape->n_values);
}

// Importance.

struct sens_sum {
    double sum, n;
};

// Adds the sensitivities of a tensor and looks whether they are finite, in one pass.
static int add_sens(const struct shape_tensor *t, const float *sens, struct sens_sum *to,
                    struct err *err)
{
    struct quant_stats s = {0};
    quant_stats(sens + t->offset, tensor_values(t), QUANT_SUM, &s);
    if (s.max_bits >= F32_INF_BITS)
        return err_set(err, "the sensitivities are not finite");
    to->sum += s.sum;
    to->n += (double)tensor_values(t);
    return 0;
}

static float inverse_mean(const struct sens_sum *s)
{
    double mul = s->sum > 0 ? s->n / s->sum : 0;
    return mul < 0x1p120 ? (float)mul : 0x1p120f;
}

static void score_words(const struct bitalloc *a, const struct codec_key *key, uint32_t t, size_t n,
                        float *u)
{
    struct rng r = rng_stream(key->seed, RNG_CODEC, key->client, key->version, t);
    uint32_t word[TILE], at0 = (uint32_t)a->shape->tensors[t].offset;
    for (size_t at = 0; at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        if (a->importance == IMPORTANCE_RANDOM)
            philox_words(r.key, r.ctr, at, m, word);
        else // multiples of the golden ratio: any share of them is spread evenly
            for (size_t i = 0; i < m; i++)
                word[i] = (at0 + (uint32_t)(at + i)) * 2654435769u;
        alloc_words(word, m, u + at);
    }
}

static void score_tensor(const struct bitalloc *a, const struct codec_input *in, uint32_t t,
                         float mul, float *u)
{
    const struct shape_tensor *row = &a->shape->tensors[t];
    size_t n = tensor_values(row), at = row->offset;
    switch ((enum bitalloc_importance)a->importance) {
    case IMPORTANCE_FISHER:
        if (a->gamma16 > 0)
            alloc_fisher(in->x + at, in->sens + at, n, mul, a->gamma16, u + at);
        else
            alloc_magnitude(in->x + at, n, u + at);
        break;
    case IMPORTANCE_MAGNITUDE:
        alloc_magnitude(in->x + at, n, u + at);
        break;
    case IMPORTANCE_RANDOM:
    case IMPORTANCE_UNIFORM:
        score_words(a, &in->key, t, n, u + at);
        break;
    case IMPORTANCE_GD:
    case IMPORTANCE_ABSGD:
        alloc_first_order(in->x + at, in->grad + at, n, a->importance == IMPORTANCE_ABSGD, u + at);
        break;
    }
    if (a->policy == POLICY_RD)
        alloc_weight(in->x + at, n, u + at);
}

// F is divided by its mean over the tensor or the class. A tensor is looked at just before it is
// scored: then it is in the cache.
static int score_all(const struct bitalloc *a, const struct codec_input *in, float *u,
                     struct err *err)
{
    const struct shape *s = a->shape;
    struct sens_sum of_class[CLASSES] = {{0}};
    bool sens = bitalloc_needs_sens(a), by_class = a->norm == NORM_CLASS;
    if (sens && !in->sens)
        return err_set(err, "this importance needs the sensitivities, and there are none");
    if (bitalloc_needs_grad(a) && !in->grad)
        return err_set(err, "this importance needs the gradients, and there are none");
    if (bitalloc_needs_grad(a) && quant_absmax_bits(in->grad, s->n_values) >= F32_INF_BITS)
        return err_set(err, "the gradients are not finite");
    for (uint32_t t = 0; t < s->n_tensors && sens && by_class; t++)
        if (add_sens(&s->tensors[t], in->sens, &of_class[s->tensors[t].kind], err))
            return -1;
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        struct sens_sum own = {0}, *of = by_class ? &of_class[s->tensors[t].kind] : &own;
        if (sens && !by_class && add_sens(&s->tensors[t], in->sens, &own, err))
            return -1;
        score_tensor(a, in, t, sens && a->norm != NORM_NONE ? inverse_mean(of) : 1, u);
    }
    return 0;
}

// Rate-distortion steps.

struct tile { // of one group
    size_t at, n;
    const struct alloc_levels *levels;
};

static bool next_tile(const struct bitalloc_run *r, uint32_t t, size_t *at, struct tile *tile)
{
    const struct shape_tensor *row = &r->a->shape->tensors[t];
    size_t n = tensor_values(row);
    if (*at >= n)
        return false;
    tile->at = row->offset + *at;
    tile->n = n - *at < ALLOC_TILE ? n - *at : ALLOC_TILE;
    tile->levels = &r->levels[r->group[t]];
    *at += tile->n;
    return true;
}

#define SAMPLE_FROM   ((size_t)1 << 20) // values from which on only some tiles are looked at first
#define SAMPLE_STRIDE 16

// Where step s of coordinate i begins.
static int step_from(const struct alloc_step *step, int s, size_t i)
{
    return s ? step[s - 1].to[i] : 0;
}

// Which slopes matter is seen from a part of the tiles.
static void sample_steps(struct bitalloc_run *r)
{
    struct alloc_step step[ALLOC_LEVELS];
    size_t turn = 0;
    r->stride = r->a->shape->n_values < SAMPLE_FROM ? 1 : SAMPLE_STRIDE;
    r->fine_at = -1;
    memset(r->coarse, 0, BITALLOC_BINS * sizeof *r->coarse);
    for (uint32_t t = 0; t < r->a->shape->n_tensors; t++) {
        struct tile tile;
        for (size_t at = 0; next_tile(r, t, &at, &tile);) {
            if (turn++ % r->stride)
                continue;
            alloc_hull(r->x + tile.at, r->u + tile.at, tile.n, tile.levels, step);
            for (int s = 0; s + 1 < r->a->count; s++)
                for (size_t i = 0; i < tile.n; i++)
                    if (step[s].slope[i]) {
                        r->coarse[step[s].slope[i] >> 20][step[s].to[i]]++;
                        r->coarse[step[s].slope[i] >> 20][step_from(step, s, i)]--;
                    }
        }
    }
}

#define FINE_KEY(bin) ((uint32_t)(bin) << (20 - ALLOC_KEY_SHIFT))

// Everything, for three bins from fine_at on.
static void count_fine(struct bitalloc_run *r)
{
    uint32_t low = FINE_KEY(r->fine_at), high = low + BITALLOC_FINE - 1;
    int steps = r->a->count - 1;
    memset(r->fine, 0, BITALLOC_FINE * sizeof *r->fine);
    memset(r->above, 0, sizeof r->above);
    for (uint32_t t = 0; t < r->a->shape->n_tensors; t++) {
        struct alloc_step step[ALLOC_LEVELS];
        uint16_t hit[ALLOC_HITS];
        struct tile tile;
        for (size_t at = 0; next_tile(r, t, &at, &tile);) {
            uint8_t *tag = r->sure + tile.at;
            alloc_hull(r->x + tile.at, r->u + tile.at, tile.n, tile.levels, step);
            alloc_take(step, steps, tile.n, high, tag);
            alloc_count(tag, tile.n, r->a->count, r->above);
            size_t hits = alloc_range(step, steps, tile.n, low, high, hit);
            for (size_t k = 0; k < hits; k++) {
                int s = hit[k] / ALLOC_TILE;
                unsigned i = hit[k] % ALLOC_TILE;
                int32_t *bin = r->fine[(step[s].slope[i] >> ALLOC_KEY_SHIFT) - low];
                bin[step[s].to[i]]++;
                bin[step_from(step, s, i)]--;
                tag[i] |= ALLOC_MARK;
            }
        }
    }
}

static bool add_bin(int64_t count[ALLOC_LEVELS], const int32_t *delta, int64_t times)
{
    int32_t any = 0;
    for (int k = 0; k < ALLOC_LEVELS; k++) {
        count[k] += delta[k] * times;
        any |= delta[k];
    }
    return any != 0;
}

// Adds bins from the top while the cost allows; returns the first that does not fit, -1 when all
// do.
static int fill_bins(int32_t bins[][ALLOC_LEVELS], int n, int64_t times, double target,
                     bitalloc_cost *cost, const void *arg, int64_t count[ALLOC_LEVELS])
{
    for (int b = n - 1; b >= 0; b--) {
        int64_t next[ALLOC_LEVELS];
        memcpy(next, count, sizeof next);
        if (!add_bin(next, bins[b], times))
            continue;
        if (cost(arg, next) > target)
            return b;
        memcpy(count, next, sizeof next);
    }
    return -1;
}

// How many steps of a bin fit, when they come in equal proportions.
static int64_t fill_part(const int32_t *bin, double target, bitalloc_cost *cost, const void *arg,
                         const int64_t count[ALLOC_LEVELS])
{
    int64_t steps = 0;
    for (int k = 0; k < ALLOC_LEVELS; k++)
        steps += bin[k] > 0 ? bin[k] : 0;
    int64_t low = 0, high = steps + 1;
    while (high - low > 1) {
        int64_t mid = low + (high - low) / 2, next[ALLOC_LEVELS];
        for (int k = 0; k < ALLOC_LEVELS; k++)
            next[k] = count[k] + (int64_t)((double)bin[k] * (double)mid / (double)steps);
        if (cost(arg, next) <= target)
            low = mid;
        else
            high = mid;
    }
    return low;
}

// The key at which the cost reaches the target, and how many steps at the key itself still fit. The
// sample says where to count; where it was wrong, the window moves.
static uint32_t find_cut(struct bitalloc_run *r, double target, bitalloc_cost *cost,
                         const void *arg, int64_t *left)
{
    int64_t count[ALLOC_LEVELS] = {(int64_t)r->a->shape->n_values};
    *left = 0;
    if (r->fine_at < 0) {
        int bin = fill_bins(r->coarse, BITALLOC_BINS, (int64_t)r->stride, target, cost, arg, count);
        r->fine_at = bin < 2 ? 0 : bin - 1;
        count_fine(r);
    }
    for (int moved = 0;;) {
        int way = 0, sub = 0;
        memcpy(count, r->above, sizeof count);
        if (cost(arg, count) > target)
            way = 3;
        else if ((sub = fill_bins(r->fine, BITALLOC_FINE, 1, target, cost, arg, count)) < 0)
            way = -3;
        // A cost that falls where a width grows could send the window to and fro.
        if (way == 0 || way * moved < 0 || (way < 0 && r->fine_at == 0) ||
            (way > 0 && r->fine_at + way >= BITALLOC_BINS)) {
            if (way > 0) // not even the steepest steps fit
                return FINE_KEY(r->fine_at) + BITALLOC_FINE - 1;
            if (way < 0)
                return r->fine_at == 0 ? 0 : FINE_KEY(r->fine_at) - 1;
            *left = fill_part(r->fine[sub], target, cost, arg, count);
            return FINE_KEY(r->fine_at) + (uint32_t)sub;
        }
        moved = way;
        r->fine_at = r->fine_at + way < 0 ? 0 : r->fine_at + way;
        count_fine(r);
    }
}

// Steps at the cut itself: the first in order of the coordinates, as many as left says.
static void take_ties(const struct alloc_step *step, int steps, size_t n, uint32_t cut,
                      int64_t *left, uint8_t *tag)
{
    for (size_t i = 0; i < n; i++)
        for (int s = 0; s<steps && * left> 0; s++)
            if (step[s].slope[i] && step[s].slope[i] >> ALLOC_KEY_SHIFT == cut &&
                tag[i] == step_from(step, s, i)) {
                tag[i] = step[s].to[i];
                --*left;
            }
}

// The cut lies among the fine bins or at their edge: only what is marked has to be looked at again.
static void assign_rd(struct bitalloc_run *r, double target, bitalloc_cost *cost, const void *arg,
                      const size_t *place, uint8_t *tag)
{
    int64_t left;
    uint32_t cut = find_cut(r, target, cost, arg, &left);
    int steps = r->a->count - 1;
    for (uint32_t t = 0; t < r->a->shape->n_tensors; t++) {
        struct alloc_step step[ALLOC_LEVELS];
        uint16_t which[ALLOC_TILE];
        uint8_t few[ALLOC_TILE];
        float x[ALLOC_TILE], u[ALLOC_TILE];
        struct tile tile;
        for (size_t at = 0; next_tile(r, t, &at, &tile);) {
            uint8_t *to = tag + place[t] + (at - tile.n);
            size_t n = alloc_marked(r->sure + tile.at, tile.n, to, which);
            for (size_t k = 0; k < n; k++) {
                x[k] = r->x[tile.at + which[k]];
                u[k] = r->u[tile.at + which[k]];
            }
            alloc_hull(x, u, n, tile.levels, step);
            if (alloc_take(step, steps, n, cut, few) && left > 0)
                take_ties(step, steps, n, cut, &left, few);
            for (size_t k = 0; k < n; k++)
                to[which[k]] = few[k];
        }
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
static void count_top(const struct bitalloc_run *r, size_t k, uint32_t count[SELECT_BINS])
{
    size_t n = r->a->shape->n_values, sum = 0;
    memset(count, 0, SELECT_BINS * sizeof *count);
    size_t seen = select_sample(r->u, n, SELECT_ABS, SELECT_STRIDE, count);
    uint32_t floor_bin = select_floor(count, seen, n, k);
    memset(count, 0, SELECT_BINS * sizeof *count);
    select_count(r->u, n, SELECT_ABS, 0, floor_bin, count);
    for (int b = 0; b < SELECT_BINS; b++)
        sum += count[b];
    if (sum < k) { // the sample was wrong
        memset(count, 0, SELECT_BINS * sizeof *count);
        select_count(r->u, n, SELECT_ABS, 0, 0, count);
    }
}

// cut[k - 1]: bits of the least importance that gets width k, and how many of its ties do.
static void find_cuts(const struct bitalloc_run *r, const int64_t count[ALLOC_LEVELS],
                      uint32_t *cut, size_t *ties)
{
    size_t n = r->a->shape->n_values, reached = n - (size_t)count[0];
    uint32_t bins[ALLOC_LEVELS][SELECT_BINS], prefix[ALLOC_LEVELS];
    struct select_cut c[ALLOC_LEVELS];
    int cuts = r->a->count - 1;
    count_top(r, reached, bins[0]);
    for (int k = 0; k < cuts; k++) {
        select_cut_begin(&c[k], reached);
        select_cut_next(&c[k], bins[0]);
        reached -= (size_t)count[k + 1];
    }
    for (int level = 1; level < SELECT_LEVELS; level++) {
        for (int k = 0; k < cuts; k++)
            prefix[k] = c[k].prefix;
        memset(bins, 0, sizeof bins);
        select_count_many(r->u, n, SELECT_ABS, level, prefix, cuts, bins);
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

static void settle_ties(const float *u, size_t n, const uint32_t *cut, int cuts, size_t *ties,
                        uint8_t *tag)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, u + i, sizeof bits);
        for (int k = 0; k < cuts; k++) {
            if (bits != cut[k])
                continue;
            if (ties[k] > 0)
                ties[k]--;
            else
                tag[i]--;
        }
    }
}

static void assign_ranks(struct bitalloc_run *r, double target, bitalloc_cost *cost,
                         const void *arg, const size_t *place, uint8_t *tag)
{
    const struct bitalloc *a = r->a;
    int64_t count[ALLOC_LEVELS] = {(int64_t)a->shape->n_values};
    uint32_t cut[ALLOC_LEVELS];
    size_t ties[ALLOC_LEVELS];
    int cuts = a->count - 1;
    if (a->policy == POLICY_GREEDY)
        plan_greedy(a, target, cost, arg, count);
    else
        plan_shares(a, target, cost, arg, count);
    find_cuts(r, count, cut, ties);
    for (uint32_t t = 0; t < a->shape->n_tensors; t++) {
        const struct shape_tensor *row = &a->shape->tensors[t];
        size_t n = tensor_values(row);
        if (alloc_tags(r->u + row->offset, n, cut, cuts, tag + place[t]))
            settle_ties(r->u + row->offset, n, cut, cuts, ties, tag + place[t]);
    }
}

// The run.

int bitalloc_prepare(struct bitalloc_run *r, const struct bitalloc *a, const struct codec_input *in,
                     const struct alloc_levels *levels, const uint32_t *group, float *u,
                     void *scratch, struct err *err)
{
    *r = (struct bitalloc_run){.a = a, .x = in->x, .u = u, .levels = levels, .group = group};
    if (score_all(a, in, u, err))
        return -1;
    if (a->policy == POLICY_RD) {
        r->coarse = scratch_take(&scratch, BITALLOC_BINS * sizeof *r->coarse);
        r->fine = scratch_take(&scratch, BITALLOC_FINE * sizeof *r->fine);
        r->sure = scratch_take(&scratch, a->shape->n_values);
        sample_steps(r);
    }
    return 0;
}

void bitalloc_assign(struct bitalloc_run *r, double target, bitalloc_cost *cost, const void *arg,
                     const size_t *place, uint8_t *tag)
{
    if (r->a->policy == POLICY_RD)
        assign_rd(r, target, cost, arg, place, tag);
    else
        assign_ranks(r, target, cost, arg, place, tag);
}
