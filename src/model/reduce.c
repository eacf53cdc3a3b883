#include "model/reduce.h"

#include "model/tokens.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

static float worth_score(const struct model_reduce *r, struct reduce_prompt *p, int32_t i)
{
    return r->scores->table[r->row->scores][p->token[i]];
}

static float worth_received(const struct model_reduce *r, struct reduce_prompt *p, int32_t i)
{
    (void)r;
    return p->received[i];
}

static float worth_random(const struct model_reduce *r, struct reduce_prompt *p, int32_t i)
{
    (void)r;
    (void)i;
    return (float)rng_unit(&p->rng);
}

static float worth_early(const struct model_reduce *r, struct reduce_prompt *p, int32_t i)
{
    (void)r;
    (void)p;
    return (float)-i;
}

static float worth_late(const struct model_reduce *r, struct reduce_prompt *p, int32_t i)
{
    (void)r;
    (void)p;
    return (float)i;
}

static const struct reduction none = {.name = "none",
                                      .help = "every token goes through all layers"};
static const struct reduction fisher = {
    .name = "fisher",
    .help = "those of the highest Fisher score in training stay, by vocabulary id",
    .scores = SCORES_FISHER,
    .needs = REDUCE_SCORES,
    .worth = worth_score};
static const struct reduction gradnorm = {
    .name = "gradnorm",
    .help = "those of the largest gradient norm in training stay, by vocabulary id",
    .scores = SCORES_GRADNORM,
    .needs = REDUCE_SCORES,
    .worth = worth_score};
static const struct reduction attention = {
    .name = "attention",
    .help = "those that get the most attention in the layers below stay",
    .needs = REDUCE_RECEIVED,
    .first_layer = 1,
    .worth = worth_received};
static const struct reduction random_tokens = {
    .name = "random", .help = "drawn at random: the control", .worth = worth_random};
static const struct reduction merge = {
    .name = "merge",
    .help = "alike tokens merge (ToMe, Bolya et al. 2023), from the layer below on",
    .needs = REDUCE_MERGES,
    .first_layer = 1};
static const struct reduction first = {.name = "first",
                                       .help = "the prompt's beginning stays, and its last token",
                                       .worth = worth_early};
static const struct reduction last = {
    .name = "last", .help = "the prompt's end stays", .worth = worth_late};

const struct reduction *const reduction_table[] = {
    &none, &fisher, &gradnorm, &attention, &random_tokens, &merge, &first, &last, NULL};

const struct reduction *reduction_find(const char *name)
{
    for (int i = 0; reduction_table[i]; i++)
        if (strcmp(reduction_table[i]->name, name) == 0)
            return reduction_table[i];
    return NULL;
}

// Of n rows, the last of which stays: every second one from the third on has one to merge into.
static int32_t most_merged(int32_t n)
{
    return n >= 5 ? (n - 3) / 2 : 0;
}

static int32_t wanted(const struct model_reduce *r, int32_t n)
{
    int32_t k = (int32_t)ceil(r->keep * n - 1e-9);
    return k < 1 ? 1 : k > n ? n : k;
}

int32_t reduce_rows(const struct model_reduce *r, int32_t n, int32_t layer)
{
    if (!r || layer < r->layer)
        return n;
    int32_t want = wanted(r, n);
    if (r->row->worth)
        return want;
    for (int32_t l = r->layer; l <= layer && r->row->needs & REDUCE_MERGES && n > want; l++) {
        int32_t some = most_merged(n);
        if (some == 0)
            break;
        n -= some < n - want ? some : n - want;
    }
    return n;
}

int model_reduce_check(const struct model *m, const struct model_reduce *r, int32_t longest,
                       struct err *err)
{
    const struct model_config *c = model_config(m);
    const char *name = r->row->name;
    if (!r->row->worth && !(r->row->needs & REDUCE_MERGES))
        return 0;
    if (r->layer < r->row->first_layer)
        return err_set(err,
                       "%s: needs what layer %d makes; tokens can leave before layer %d at "
                       "the earliest",
                       name, r->row->first_layer - 1, r->row->first_layer);
    if (r->layer >= c->layers)
        return err_set(err, "%s before layer %d: the model's last layer is %d", name, r->layer,
                       c->layers - 1);
    if (c->window > 0)
        return err_set(err,
                       "%s: layers of this model see a window of %d tokens (sliding_window), "
                       "which counts those that are there: not supported together",
                       name, c->window);
    if (r->row->needs & REDUCE_SCORES && !r->scores)
        return err_set(err, "%s: there are no scores of the vocabulary", name);
    if (!(r->row->needs & REDUCE_MERGES))
        return 0;
    if (r->compact)
        return err_set(err, "%s: merged tokens keep their positions", name);
    int32_t left = reduce_rows(r, longest, c->layers - 1);
    if (left > wanted(r, longest) && most_merged(left) > 0)
        return err_set(err,
                       "%s before layer %d: at most half of the tokens merge in a layer; the "
                       "layers that are left get %d tokens down to %d, not to %d",
                       name, r->layer, longest, left, wanted(r, longest));
    return 0;
}

int32_t reduce_choose(const struct model_reduce *r, struct reduce_prompt *p, int32_t *kept,
                      float *work)
{
    int32_t n = p->n, left = wanted(r, n), k = 0;
    uint64_t text = XXH3_64bits(p->token, (size_t)n * sizeof *p->token);
    p->rng = rng_stream(r->seed, RNG_INFER, (uint32_t)text, (uint32_t)(text >> 32), (uint32_t)n);
    float *worth = work, *sorted = work + n;
    for (int32_t i = 0; i < n; i++) {
        float w = i == n - 1 ? INFINITY : r->row->worth(r, p, i);
        worth[i] = sorted[i] = isnan(w) ? -INFINITY : w;
    }
    float least = token_kth_largest(sorted, n, left);
    for (int32_t i = 0; i < n; i++)
        left -= worth[i] > least;
    for (int32_t i = 0; i < n; i++) {
        bool tie = worth[i] == least && left > 0;
        left -= tie;
        if (tie || worth[i] > least)
            kept[k++] = i;
    }
    return k;
}
