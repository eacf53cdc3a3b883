// What generate.c and prefill.c share: how a group of sequences is laid out on its lane.
#ifndef FSTQ_MODEL_GENERATE_H
#define FSTQ_MODEL_GENERATE_H

#include "model/inner.h"
#include "model/reduce.h"

// Layers that the same rows of a prompt go through; a reduction of prompts begins a new one. A
// merging that has to halve the rows again and again makes most of them.
struct tier {
    int32_t layer0, layers;
};
enum { TIERS_MAX = 34 };

struct group {
    int32_t seq0, n;
    int32_t rows; // of its largest chunk
    size_t cache; // values
    size_t sizes; // floats of the sizes of cached rows, where rows merge
};

struct generation {
    struct model *m;
    const struct model_gen *g;
    const float *adapter; // lent
    struct group *group;
    struct tier tier[TIERS_MAX];
    int32_t n_tiers;
    int64_t begin_ns;
};

// What a step reads of the host's, in one piece; the host and the device have a copy each. A tier's
// lists are those of its first layer.
struct step {
    kernel_act **k, **v; // (tiers, n) caches of the active sequences
    float **log_size;    // (tiers, n) and of how many tokens their rows stand for, where rows merge
    int32_t *len;        // (tiers, n) rows in them
    int32_t *pos;        // (n) position of the newest token, where rows keep theirs
    int32_t *token;      // (n) the newest token, and then the next one
    int32_t *target;     // (n) none
};

// What one group works in, beside its activations.
struct desk {
    const struct generation *w;
    const struct group *group;
    struct control host, dev; // of a chunk: sequences whose prompts are read at once
    struct step here, there;
    struct results out, dev_out;
    size_t control_bytes, step_bytes, results_bytes;
    struct model_merge merge; // of rows that merge
    kernel_act *cache;        // the device's
    float *sizes;             // the device's: logs of the sizes of cached rows
    size_t *at, *size_at; // (tiers, n) of each sequence's keys, and sizes, in a tier's first layer
    size_t *layer;        // (tiers) elements from a layer's cache to the next one's
    int32_t *room, *have; // (tiers, n) rows of each sequence's cache, and those filled
    int32_t *place;       // (n) position of each sequence's next token
    int32_t *seq;         // (n) which sequence is active
    int32_t *kept;        // (rows) of a prompt that is chosen from
    int32_t *merges;      // (n) rows to merge of each sequence of a chunk
    float *worth;         // (2 rows)
};

static inline int32_t length_of(const struct model_gen *g, int32_t q)
{
    return g->start[q + 1] - g->start[q];
}

static inline int32_t prompt_of(const struct model_gen *g, int32_t q)
{
    return g->answer ? g->answer[q] : length_of(g, q);
}

// Rows that are read of a sequence: the last token of an answer predicts nothing.
static inline int32_t read_of(const struct model_gen *g, int32_t q)
{
    return length_of(g, q) - (g->answer != NULL);
}

static inline bool merges_rows(const struct model_gen *g)
{
    return g->reduce && g->reduce->row->needs & REDUCE_MERGES;
}

// generate.c
// The lists of tier t, whose first m sequences are those of the next rows, for its layer l.
struct kernel_cache tier_cache(const struct desk *d, int32_t t, int32_t l);
// The caches of sequence q as those of the i-th of the next rows.
void plan_cache(const struct launch *r, struct desk *d, int32_t i, int32_t q);
// The likeliest next token after each of the first n rows of the last layer's output, and the loss
// of targets.
void next_tokens(struct launch *r, int32_t n, const int32_t *target, float *loss, int32_t *best);
// The next token of sequence q is known now.
void stamp(const struct model_gen *g, int32_t q, int64_t ns);

// prefill.c
// Sequences from q on that are read at once.
int32_t chunk_end(const struct group *p, const struct model_gen *g, int32_t q);
// Reads the prompts of sequences [q0, q1), fills their caches; returns how many are active now.
int32_t read_chunk(struct launch *r, struct desk *d, int32_t q0, int32_t q1, int32_t active);

#endif
