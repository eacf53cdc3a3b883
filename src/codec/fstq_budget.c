// Fed-FSTQ's search for the budget. Lengths are predicted from counts and histograms: a message is
// written once, when its length is known within a few bytes.
#include "codec/fstq.h"
#include "kernels/kernels_codec.h"

#include <math.h>

// A message that is at most this much shorter than the budget is good enough.
static double slack_of(double budget)
{
    return 0.005 * budget > 16 ? 0.005 * budget : 16;
}

static void code_all(struct fstq_encoder *e, bool fit)
{
    lap(e->in->laps, STAGE_ALLOC);
    if (fit)
        fstq_fit(e);
    fstq_code(e);
    lap(e->in->laps, STAGE_QUANTISE);
}

// Rate and distortion.

static double cost_now(const struct fstq_encoder *e)
{
    struct fstq_counts count;
    for (uint32_t class = 0; class < e->w.classes; class ++)
        for (int k = 0; k < ALLOC_LEVELS; k++)
            count.of[class][k] = (double)e->w.of_class[class][k];
    return fstq_cost(e, &count);
}

// Costs of places [from, to) at lambda, of the others as they are.
static double choose(struct fstq_encoder *e, float lambda, size_t from, size_t to)
{
    fstq_set_costs(e, lambda);
    fstq_choose(e, from, to);
    fstq_sum_counts(&e->w);
    return cost_now(e);
}

// For updates with many equal coordinates: of two neighbouring lambdas one makes the message too
// long
// ("dear") and the other too short by more than the slack ("cheap"). The first coordinates take the
// widths of the dear one, as many of them as fit into the budget; the rest take the cheap one's.
static void share_out(struct fstq_encoder *e, struct bitalloc_search *s)
{
    size_t from = 0, to = e->w.c->shape->n_values;
    s->at = s->cheap.at;
    const float cheap = bitalloc_search_lambda(s);
    s->at = s->dear.at;
    const float dear = bitalloc_search_lambda(s);
    choose(e, dear, from, to);
    code_all(e, e->w.opt->scale == SCALE_TIER);
    fstq_see_values(e); // how the codes compress that will be there
    choose(e, cheap, from, to);
    while (to - from > 1) {
        size_t mid = from + (to - from) / 2;
        if (choose(e, dear, from, mid) <= s->want) {
            from = mid;
        } else {
            choose(e, cheap, from, mid);
            to = mid;
        }
    }
    code_all(e, e->w.opt->scale == SCALE_TIER);
}

// Two searches for lambda. The first predicts the length from the counts of widths alone, with the
// rates that the design found on its sample: one pass over the values per lambda. The second makes
// the codes and predicts from their histograms, until the length is right.
static void meet_by_lambda(struct fstq_encoder *e, double budget)
{
    enum { TRIES = 12 };
    const double spare = 0.0002 * budget > 6 ? 0.0002 * budget : 6; // for what is predicted wrongly
    const double near = 0.0025 * budget > 12 ? 0.0025 * budget : 12;
    const size_t n = e->w.c->shape->n_values;
    struct bitalloc_search s;
    enum bitalloc_verdict verdict = SEARCH_ON;
    double slope;
    float lambda = fstq_design(e, budget - spare - near / 3, &slope);
    bitalloc_search_begin(&s, budget - spare, near, lambda, slope);
    for (int i = 0; i < TRIES && verdict == SEARCH_ON; i++) {
        lambda = bitalloc_search_lambda(&s); // of the tags there are
        verdict = bitalloc_search_tell(&s, choose(e, lambda, 0, n));
    }
    bitalloc_search_begin(&s, budget - spare / 2, slack_of(budget) - spare / 2, lambda, slope);
    s.patient = true;
    for (;;) {
        code_all(e, e->w.opt->scale == SCALE_TIER);
        verdict = bitalloc_search_tell(&s, fstq_length(e));
        if (verdict != SEARCH_ON)
            break;
        choose(e, bitalloc_search_lambda(&s), 0, n);
    }
    if (verdict == SEARCH_BETWEEN)
        share_out(e, &s);
}

// Ranks.

struct rank_cost {
    const struct fstq_work *w;
    double value_ratio; // of entropy-coded to packed values, as last seen
};

static double rank_cost(const void *arg, const int64_t count[ALLOC_LEVELS])
{
    const struct rank_cost *c = arg;
    return fstq_plain_cost(c->w, count, c->value_ratio);
}

// One try: a target of the model, whether scales were fitted anew, and the length that came of it.
struct attempt {
    double target;
    bool fit;
    double len; // < 0: none yet
};

static void try_target(struct fstq_encoder *e, const struct rank_cost *cost, struct attempt *a)
{
    fstq_rank(e, a->target, rank_cost, cost);
    fstq_count(&e->w);
    fstq_sum_counts(&e->w);
    code_all(e, a->fit);
    a->len = fstq_length(e);
}

// Predicted length of the values over their packed length, for the next try.
static double value_ratio(const struct fstq_encoder *e, double last)
{
    double packed = 0, coded = 0;
    for (int k = 1; k < e->w.a.count; k++)
        if (e->w.a.bits[k] < 16) {
            size_t n = (size_t)e->w.total[k];
            packed += ceil((double)n * e->w.a.bits[k] / 8);
            coded += fstq_values_length(e, k);
        }
    double ratio = packed > 0 ? coded / packed : last;
    return ratio < 0.02 ? 0.02 : ratio > 1 ? 1 : ratio;
}

// The target for the next try: where the line through the best try below and the one above reaches
// the wanted length. With one of them only, the target moves by as many bytes as are missing.
static double next_target(const struct attempt *below, const struct attempt *above, double want)
{
    if (below->len < 0)
        return above->target - (above->len - want) * 1.05;
    if (above->len < 0)
        return below->target + (want - below->len);
    double part = (want - below->len) / (above->len - below->len);
    part = part < 0.02 ? 0.02 : part > 0.98 ? 0.98 : part;
    return below->target + part * (above->target - below->target);
}

// The cost function knows counts only, not how positions cluster nor how well values compress. A
// first try shows how well they do; then the target given to it is moved until the message is as
// long as the budget allows. Later tries keep the scales, because a scale that jumps makes the
// length jump. When all tries are used up, the longest message that fitted is made again, or an
// empty one.
static void meet_by_rank(struct fstq_encoder *e, double budget)
{
    enum { TRIES = 8, REFITS = 3 };
    struct rank_cost cost = {&e->w, e->w.opt->values == VALUES_PACKED ? 1 : 0.9};
    struct attempt now = {budget, true, -1}, best = {0, true, -1};
    struct attempt below = {0, true, -1}, above = {0, true, -1};
    const double slack = slack_of(budget);
    for (int i = 0; i < TRIES; i++) {
        try_target(e, &cost, &now);
        bool ok = now.len <= budget;
        if (ok && (now.len >= budget - slack || e->w.total[0] == 0))
            return;
        if (ok && now.len > best.len)
            best = now;
        double ratio = value_ratio(e, cost.value_ratio);
        if (i == 0 && fabs(ratio - cost.value_ratio) > 0.01) { // what was tried is void
            cost.value_ratio = ratio;
            best.len = -1;
            now.target = rank_cost(&cost, e->w.total) + (budget - now.len);
            continue;
        }
        *(ok ? &below : &above) = now;
        now.target = next_target(&below, &above, budget - slack * 0.3);
        if (i == REFITS) {
            now.fit = false;
            below.len = above.len = -1;
        }
    }
    if (now.len == best.len)
        return;
    if (best.len < 0)
        best = (struct attempt){0, true, -1};
    try_target(e, &cost, &best);
}

void fstq_meet(struct fstq_encoder *e, int64_t budget, double less)
{
    if (e->w.a.policy == POLICY_RD) {
        meet_by_lambda(e, (double)budget - less);
    } else if (budget >= 0) {
        meet_by_rank(e, (double)budget - less);
    } else {
        struct attempt all = {-1, true, -1};
        struct rank_cost none = {&e->w, 1};
        try_target(e, &none, &all);
    }
}
