// Which tokens shape the local loss: sources score the tokens of an answer, a mask keeps the best
// of them until the next refresh (Fed-FSTQ, Li et al. 2026, equations 16 to 18).
//
// Row r of a batch reads tokens[r] and predicts targets[r]. The mask gates the loss on a token, so
// the score of the token that row r predicts decides about row r; gate=emitted lets the token that
// row r reads decide. The end of an answer is never read, has no embedding gradient and so no
// score: it is always kept, for a model that never learns to stop answers nothing.
#ifndef FSTQ_MODEL_TOKENS_H
#define FSTQ_MODEL_TOKENS_H

#include "base/opt.h"
#include "base/rng.h"
#include "model/model.h"

#include <stdbool.h>
#include <stdint.h>

enum token_needs { // outputs of a model_job that a refresh reads
    TOKEN_SQ = 1,
    TOKEN_LOSS = 2,
    TOKEN_RECEIVED = 4,
};

struct token_source {
    const char *name, *help;
    unsigned needs;
    // The raw score of a token, from the row that reads it (or, for losses, that predicts it).
    double (*value)(double raw);
    bool predicted; // raw values belong to the row that predicts the token
    bool fresh;     // drawn anew at each refresh, not averaged
    bool all;       // keeps every token
    bool oracle;    // asks for gradients by example instead, for the codec
    bool merges;    // all count, and merge on the way through the layers
    const struct opt *options;
    int n_options; // of struct token_opts
};

extern const struct token_source *const token_table[]; // NULL-terminated; the first is the default

enum { TOKEN_KEY_POSITION, TOKEN_KEY_ANSWER, TOKEN_KEY_VOCAB };
enum { TOKEN_GATE_ON, TOKEN_GATE_EMITTED };
enum { TOKEN_LOSS_MEAN, TOKEN_LOSS_SUM };

struct token_opts {
    double keep, rho;
    int32_t every, key, gate, loss;
    bool soft;
    struct model_merge merge;
};

const struct token_source *token_find(const char *name); // NULL = there is none

extern const struct opt token_options[]; // all sources' own: keep=0.5,every=10,...
extern const int token_option_count;

// Scores and mask of one client in one round.
struct token_tracker {
    const struct token_source *source;
    const struct token_opts *opt;
    int32_t n_keys;
    float *score, *fresh; // (n_keys): moving average, may be set after a reset; this minibatch
    int32_t *count;       // (n_keys)
    int32_t step;         // of the round, from 1
    bool masked;          // a refresh has been
    struct rng rng;
};

// memory: token_tracker_floats(n_keys) floats, the tracker's until the next reset.
size_t token_tracker_floats(int32_t n_keys);
void token_reset(struct token_tracker *t, const struct token_source *source,
                 const struct token_opts *opt, int32_t n_keys, float *memory, struct rng rng);
// Call once a step, before it: is this a refresh step (full loss, scores wanted)?
bool token_step(struct token_tracker *t);
// Weights of the step's rows: 1 everywhere on refresh steps and before the first refresh, else the
// mask.
void token_weights(const struct token_tracker *t, const struct model_batch *batch, bool refresh,
                   float *weights);
// After a refresh step: raw (rows) as the source needs. The mask acts from the next step on.
void token_update(struct token_tracker *t, const struct model_batch *batch, const float *raw);

// The k-th largest of n values, none a NaN, in expected linear time; reorders them.
float token_kth_largest(float *x, int32_t n, int32_t k);

// Token Recall: of the ceil(p n) tokens of each answer with the largest reference score, ties to
// the earlier, how many a mask that gates the loss on tokens keeps. The n tokens of an answer are
// those before its end; reference (rows) is by the row that reads a token, as token_sq is.
struct token_recall {
    int64_t top, kept; // summed; recall is kept / top
};
void token_recall_add(struct token_recall *t, const struct model_batch *batch,
                      const float *reference, const float *weights, double p);

#endif
