// What tokens of the vocabulary are worth (model/scores.h), learned in the federation: in every
// fisher.scores-th version clients average over their own steps, and send what they saw behind
// their update's messages; the server averages over clients and goes on with a moving average by
// vocabulary id, kept in its checkpoint and, as the file that `fstq infer` reads, beside it.
//
// Behind the messages of an UPDATE, ids ascending:
//   id less the one before, less 1; minibatches it was in, less 1: LEB128, shortest form
//   mean squared norm of its embedding's gradient, and mean norm: bf16
// and last the bytes of all that, u32.
#ifndef FSTQ_FED_WORTH_H
#define FSTQ_FED_WORTH_H

#include "model/scores.h"

struct worth { // of the server
    int32_t vocab;
    float *table[SCORES],
        *seen; // (vocab) in the server's state: averages, and versions behind them
    double *sum[SCORES], *count; // (vocab) of the version being made
    uint32_t saved;              // version of the file, 0 = none yet
    uint32_t fresh;              // version that last brought something, 0 = none has
};

// vocab 0: nobody ever sends scores.
size_t worth_bound(int32_t vocab);  // bytes behind a message, at most
size_t worth_floats(int32_t vocab); // of the server's state

size_t worth_put(const struct token_scores *s, uint8_t *out);
// Bytes of a payload that stand before the scores; -1 with err where it does not end in any.
int64_t worth_before(int32_t vocab, const uint8_t *payload, size_t len, struct err *err);

void worth_open(struct worth *w, int32_t vocab, float *state); // worth_floats, zero
void worth_close(struct worth *w);
void worth_begin(struct worth *w);
// Of a payload of len bytes for which worth_before said `before`.
void worth_add(struct worth *w, const uint8_t *payload, size_t before, size_t len);
void worth_commit(struct worth *w, double rho, uint32_t version);
// The file in dir, where something is new since the last.
int worth_save(struct worth *w, const char *dir, struct err *err);

#endif
