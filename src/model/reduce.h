// Fewer tokens at inference: before a layer, tokens of the prompt are left out of all layers from
// there on, or merge into others, and with them go their keys and values. What is generated stays.
//
// At most ceil(keep * n) of a prompt's n tokens go on; its last one always does, for the answer
// begins at it. They keep their positions, or are numbered anew (compact). Which stay depends on
// the prompt alone, not on those beside it. Merging is that of struct model_merge: in the layer
// before, and in those that follow for as long as there are too many, for at most every second
// token of a layer can merge; each merged row keeps the position of the last of its tokens.
#ifndef FSTQ_MODEL_REDUCE_H
#define FSTQ_MODEL_REDUCE_H

#include "base/rng.h"
#include "model/model.h"
#include "model/scores.h"

#include <stdbool.h>
#include <stdint.h>

enum reduction_needs {
    REDUCE_SCORES = 1,   // of the vocabulary, learned before
    REDUCE_RECEIVED = 2, // attention in the layers below
    REDUCE_MERGES = 4,   // tokens merge instead of being left out
};

// A prompt whose tokens are to be chosen among.
struct reduce_prompt {
    const int32_t *token; // (n)
    int32_t n;
    const float *received; // (n) attention each token got in the layers below, or NULL
    struct rng rng;
};

struct reduction {
    const char *name, *help;
    unsigned needs;
    int32_t first_layer; // the lowest that it can act before
    int32_t scores;      // which of the vocabulary's (scores.h), where it needs any
    // How much token i is worth; the best stay, ties to the earlier. NULL: none is left out.
    float (*worth)(const struct model_reduce *r, struct reduce_prompt *p, int32_t i);
};
extern const struct reduction *const reduction_table[]; // NULL-terminated; the first is none
const struct reduction *reduction_find(const char *name);

struct model_reduce {
    const struct reduction *row;
    double keep;                       // in (0, 1]
    int32_t layer;                     // that fewer tokens enter; 0 = they are not even embedded
    bool compact;                      // positions are numbered anew
    uint64_t seed;                     // of random choices
    const struct token_scores *scores; // where the row needs them, else NULL
};

// Whether it makes sense for this model and prompts of up to so many tokens.
int model_reduce_check(const struct model *m, const struct model_reduce *r, int32_t longest,
                       struct err *err);
// How many of a prompt's n tokens enter a layer; r NULL: all.
int32_t reduce_rows(const struct model_reduce *r, int32_t n, int32_t layer);
// The tokens that stay, ascending, to kept (n); returns how many. work: 2 n floats.
int32_t reduce_choose(const struct model_reduce *r, struct reduce_prompt *p, int32_t *kept,
                      float *work);

#endif
