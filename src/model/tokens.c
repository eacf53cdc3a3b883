#include "model/tokens.h"

#include "base/check.h"
#include "model/model.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static double value_as_is(double raw)
{
    return raw;
}

static double value_root(double raw)
{
    return sqrt(raw);
}

static const char *const key_names[] = {[TOKEN_KEY_POSITION] = "position",
                                        [TOKEN_KEY_ANSWER] = "answer",
                                        [TOKEN_KEY_VOCAB] = "vocab",
                                        NULL};
static const char *const gate_names[] = {
    [TOKEN_GATE_ON] = "on", [TOKEN_GATE_EMITTED] = "emitted", NULL};
static const char *const loss_names[] = {
    [TOKEN_LOSS_MEAN] = "mean", [TOKEN_LOSS_SUM] = "sum", NULL};

const struct opt token_options[] = {
    OPT(struct token_opts, keep, "keep", "0.5", 1e-6, 1, "", "part of an answer's tokens kept"),
    OPT(struct token_opts, every, "every", "10", 1, 1e6, "steps", "steps between refreshes"),
    OPT(struct token_opts, rho, "rho", "0.9", 0, 0.999999, "", "decay of the average"),
    OPT_ENUM(struct token_opts, key, "key", "position", key_names,
             "what a score belongs to: position in the sequence (literal), in the answer, or "
             "vocabulary id"),
    OPT_ENUM(struct token_opts, gate, "gate", "on", gate_names,
             "a token's score gates the loss on it, or the loss emitted at it"),
    OPT_ENUM(struct token_opts, loss, "loss", "mean", loss_names,
             "filtered loss: mean over kept tokens, or plain sum (18)"),
    OPT(struct token_opts, soft, "soft", "off", 0, 0, "",
        "weights proportional to the score instead of a mask"),
    OPT(struct token_opts, merge.ratio, "ratio", "0.25", 0, 0.5, "",
        "part of the tokens that may merge, merged in each layer but the last"),
    OPT(struct token_opts, merge.window, "window", "8", 1, 1e6, "",
        "places that a token looks ahead for the one it merges into"),
    OPT(struct token_opts, merge.protect, "protect", "on", 0, 0, "",
        "answers do not merge; off: what an early token sees depends on later ones, too"),
};
const int token_option_count = ARRAY_LEN(token_options);
enum { MASK_OPTIONS = 7, MERGE_OPTIONS = ARRAY_LEN(token_options) - MASK_OPTIONS };
#define MASK .options = token_options, .n_options = MASK_OPTIONS

static const struct token_source uniform = {
    .name = "uniform", .help = "every token of the answer counts alike", .all = true};
static const struct token_source fisher = {
    .name = "fisher",
    .help =
        "squared norm of the loss gradient at the token's embedding, averaged (the paper's 16, 17)",
    .needs = TOKEN_SQ,
    .value = value_as_is,
    MASK};
static const struct token_source gradnorm = {.name = "gradnorm",
                                             .help = "norm of that gradient, averaged",
                                             .needs = TOKEN_SQ,
                                             .value = value_root,
                                             MASK};
static const struct token_source attention = {.name = "attention",
                                              .help = "attention the token receives, averaged",
                                              .needs = TOKEN_RECEIVED,
                                              .value = value_as_is,
                                              MASK};
static const struct token_source loss = {.name = "loss",
                                         .help = "loss on the token, averaged",
                                         .needs = TOKEN_LOSS,
                                         .value = value_as_is,
                                         .predicted = true,
                                         MASK};
static const struct token_source random_tokens = {
    .name = "random", .help = "drawn anew at each refresh: the control", .fresh = true, MASK};

static const struct token_source tome = {
    .name = "tome",
    .help = "every token counts; alike ones of the prompt merge inside the layers (ToMe)",
    .all = true,
    .merges = true,
    .options = token_options + MASK_OPTIONS,
    .n_options = MERGE_OPTIONS};

static const struct token_source oracle = {
    .name = "oracle",
    .help = "every token; the codec gets fisher.accumulate = oracle: the control",
    .all = true,
    .oracle = true};

const struct token_source *const token_table[] = {
    &uniform, &fisher, &gradnorm, &attention, &loss, &random_tokens, &oracle, &tome, NULL};

const struct token_source *token_find(const char *name)
{
    for (int i = 0; token_table[i]; i++)
        if (strcmp(token_table[i]->name, name) == 0)
            return token_table[i];
    return NULL;
}

size_t token_tracker_floats(int32_t n_keys)
{
    return 3 * (size_t)n_keys;
}

void token_reset(struct token_tracker *t, const struct token_source *source,
                 const struct token_opts *opt, int32_t n_keys, float *memory, struct rng rng)
{
    _Static_assert(sizeof(int32_t) == sizeof(float), "counts share the floats' memory");
    memset(memory, 0, token_tracker_floats(n_keys) * sizeof *memory);
    *t = (struct token_tracker){.source = source,
                                .opt = opt,
                                .n_keys = n_keys,
                                .score = memory,
                                .fresh = memory + n_keys,
                                .count = (int32_t *)(void *)(memory + 2 * (size_t)n_keys),
                                .rng = rng};
}

static bool acts(const struct token_tracker *t)
{
    return !t->source->all && t->opt->keep < 1;
}

bool token_step(struct token_tracker *t)
{
    t->step++;
    return acts(t) && t->step % t->opt->every == 0;
}

// Rows of an answer.
struct answer {
    int32_t first, n, start; // start: of its sequence
};

// The key that decides about row i of an answer; -1 = none, the row is kept.
static int32_t key_of(const struct token_tracker *t, const struct model_batch *b,
                      const struct answer *a, int32_t i)
{
    bool on = t->opt->gate == TOKEN_GATE_ON;
    if (on && i == a->n - 1 && !t->source->predicted && !t->source->fresh)
        return -1; // the end: read by no row
    int32_t r = a->first + i, key = i;
    if (t->opt->key == TOKEN_KEY_POSITION)
        key = r - a->start + on;
    else if (t->opt->key == TOKEN_KEY_VOCAB)
        key = on ? b->targets[r] : b->tokens[r];
    assert(key >= 0);
    return key < t->n_keys ? key : -1;
}

// The rows that predict an answer: from the first with a target to the last.
static struct answer answer_of(const struct model_batch *b, int32_t seq)
{
    int32_t r = b->start[seq];
    while (r < b->start[seq + 1] && b->targets[r] < 0)
        r++;
    return (struct answer){.first = r, .n = b->start[seq + 1] - r, .start = b->start[seq]};
}

float token_kth_largest(float *x, int32_t n, int32_t k)
{
    int32_t from = 0, to = n - 1, at = k - 1;
    while (from < to) {
        float pivot = x[from + (to - from) / 2];
        int32_t i = from, j = to;
        while (i <= j) {
            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i <= j) {
                float t = x[i];
                x[i++] = x[j];
                x[j--] = t;
            }
        }
        if (at <= j)
            to = j;
        else if (at >= i)
            from = i;
        else
            break;
    }
    return x[at];
}

// The K = ceil(keep n) best rows by score, ties to the earlier; rows without a key come first.
static void mask_answer(const struct token_tracker *t, const struct model_batch *b,
                        const struct answer *a, float *weights)
{
    int32_t left = (int32_t)ceil(t->opt->keep * a->n - 1e-9);
    float *score = t->fresh; // free between refreshes
    assert(a->n <= t->n_keys);
    if (a->n == 0)
        return;
    for (int32_t i = 0; i < a->n; i++) {
        int32_t key = key_of(t, b, a, i);
        float s = key < 0 ? INFINITY : t->score[key];
        score[i] = weights[i] = s >= 0 ? s : -1; // a NaN is worst
    }
    float least = token_kth_largest(score, a->n, left);
    for (int32_t i = 0; i < a->n; i++)
        left -= weights[i] > least;
    for (int32_t i = 0; i < a->n; i++) {
        bool tie = weights[i] == least && left > 0;
        left -= tie;
        weights[i] = tie || weights[i] > least ? 1 : 0;
    }
}

// Weights in proportion to the score, 1 on average; an answer without any score counts alike.
static void soft_answer(const struct token_tracker *t, const struct model_batch *b,
                        const struct answer *a, float *weights)
{
    double sum = 0;
    int32_t known = 0;
    for (int32_t i = 0; i < a->n; i++) {
        int32_t key = key_of(t, b, a, i);
        if (key >= 0) {
            sum += (double)t->score[key];
            known++;
        }
    }
    for (int32_t i = 0; i < a->n; i++) {
        int32_t key = key_of(t, b, a, i);
        weights[i] = key < 0 || !(sum > 0) ? 1 : (float)((double)t->score[key] * known / sum);
    }
}

void token_weights(const struct token_tracker *t, const struct model_batch *b, bool refresh,
                   float *weights)
{
    bool act = acts(t) && t->masked && !refresh;
    for (int32_t s = 0; s < b->n_seqs; s++) {
        struct answer a = answer_of(b, s);
        for (int32_t r = a.start; r < a.first; r++)
            weights[r] = 0;
        if (act && t->opt->soft)
            soft_answer(t, b, &a, weights + a.first);
        else if (act)
            mask_answer(t, b, &a, weights + a.first);
        else
            for (int32_t i = 0; i < a.n; i++)
                weights[a.first + i] = 1;
    }
}

void token_update(struct token_tracker *t, const struct model_batch *b, const float *raw)
{
    bool on = t->opt->gate == TOKEN_GATE_ON;
    memset(t->fresh, 0, (size_t)t->n_keys * sizeof *t->fresh);
    memset(t->count, 0, (size_t)t->n_keys * sizeof *t->count);
    for (int32_t s = 0; s < b->n_seqs && !t->source->fresh; s++) {
        struct answer a = answer_of(b, s);
        for (int32_t i = 0; i < a.n; i++) {
            int32_t key = key_of(t, b, &a, i);
            if (key < 0)
                continue;
            int32_t row = a.first + i + (on && !t->source->predicted ? 1 : 0); // reads the token
            t->fresh[key] += (float)t->source->value((double)raw[row]);
            t->count[key]++;
        }
    }
    float rho = (float)t->opt->rho;
    for (int32_t k = 0; k < t->n_keys; k++) {
        if (t->source->fresh)
            t->score[k] = (float)rng_unit(&t->rng);
        else if (t->count[k])
            t->score[k] = rho * t->score[k] + (1 - rho) * t->fresh[k] / (float)t->count[k];
    }
    t->masked = true;
}

void token_recall_add(struct token_recall *t, const struct model_batch *b, const float *reference,
                      const float *weights, double p)
{
    for (int32_t s = 0; s < b->n_seqs; s++) {
        struct answer a = answer_of(b, s);
        int32_t n = a.n - 1, top = n > 0 ? (int32_t)ceil(p * n - 1e-9) : 0;
        const float *score =
            reference + a.first + 1; // row first + i + 1 reads what first + i predicts
        for (int32_t i = 0; i < n; i++) {
            int32_t better = 0;
            for (int32_t j = 0; j < n; j++)
                better += score[j] > score[i] || (score[j] == score[i] && j < i);
            t->kept += better < top && weights[a.first + i] > 0;
        }
        t->top += top;
    }
}
