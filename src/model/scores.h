// What tokens of a vocabulary are worth, learned where there are gradients and kept for where there
// are none: of each id a moving average of ||dL/de||^2 at its embedding (Fed-FSTQ, Li et al. 2026,
// equations 16 and 17) and of its root. In the file they are tensors "fisher" and "gradnorm"
// (vocab), F32.
#ifndef FSTQ_MODEL_SCORES_H
#define FSTQ_MODEL_SCORES_H

#include "model/model.h"

#include <stdint.h>

#define TOKEN_SCORES_FILE "token_scores.safetensors" // beside an adapter

enum { SCORES_FISHER, SCORES_GRADNORM, SCORES };

struct token_scores {
    int32_t vocab;
    float *table[SCORES]; // (vocab)
    int64_t *seen;        // (vocab) minibatches in which an id was
    double *fresh;        // (SCORES, vocab) of the minibatch in hand
    int32_t *count;       // (vocab) likewise
};

void token_scores_open(struct token_scores *s, int32_t vocab);
void token_scores_close(struct token_scores *s); // also of one that was never opened
void token_scores_clear(struct token_scores *s); // as it was opened
// A minibatch: embed_grad (rows, dim) as a backward left it. An average begins with the first mean
// over the id's rows, so that rare ids are not worth less for being rare.
void token_scores_add(struct token_scores *s, const struct model_batch *b, const float *embed_grad,
                      int32_t dim, double rho);
// The mean of what clients learned, each weighted by the minibatches in which it saw an id: join
// all, then finish. An id that nobody saw gets the mean of all others; returns how many were seen.
void token_scores_join(struct token_scores *all, const struct token_scores *client);
int32_t token_scores_finish(struct token_scores *all);

int token_scores_write(const struct token_scores *s, const char *path, struct err *err);
// Opens s for this vocabulary, or leaves nothing to close and says what is wrong with the file.
int token_scores_read(struct token_scores *s, int32_t vocab, const char *path, struct err *err);
// Those beside an adapter go with it to another folder: 1 = they do, 0 = there are none.
int token_scores_copy(const char *from_dir, const char *to_dir, struct err *err);
// From the file's bytes; for the above, the tests and the fuzzer.
int token_scores_parse(struct token_scores *s, int32_t vocab, const uint8_t *bytes, size_t n,
                       struct err *err);

#endif
