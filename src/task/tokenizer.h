// Text to token ids and back. A row of tokenizer_table makes one; which row suits a model is for
// the user to say (task.tokenizer), the vocabulary's size is checked against the model's by fed.
#ifndef FSTQ_TASK_TOKENIZER_H
#define FSTQ_TASK_TOKENIZER_H

#include "base/check.h"

#include <stddef.h>
#include <stdint.h>

struct tokenizer;

struct tokenizer_row {
    const char *name, *help;
    bool needs_file; // task.vocab
    // Fills t; on error nothing is kept.
    int (*open)(struct tokenizer *t, const char *path, struct err *err);
    void (*close)(struct tokenizer *t);
    // Appends at most cap ids and returns how many the text has (more than cap = cut short).
    int32_t (*encode)(const struct tokenizer *t, const char *text, size_t n, int32_t *out,
                      int32_t cap);
    // The bytes of one id that follows previous (-1 = none); not terminated.
    const char *(*piece)(const struct tokenizer *t, int32_t previous, int32_t id, size_t *n);
};

struct tokenizer {
    const struct tokenizer_row *row;
    int32_t vocab;
    int32_t bos, eos, pad; // -1 = this vocabulary has none
    void *state;
};

extern const struct tokenizer_row *const tokenizer_table[]; // NULL-terminated
extern const char *const tokenizer_names[];                 // the same rows, for task.tokenizer

struct tokenizer *tokenizer_open(const char *name, const char *path, struct err *err);
void tokenizer_close(struct tokenizer *t);
// No BOS or EOS is added: callers do.
int32_t tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *out,
                         int32_t cap);
// Writes valid UTF-8 (broken sequences become U+FFFD), terminated, cut at out_size; specials are
// left out. Returns the length.
size_t tokenizer_decode(const struct tokenizer *t, const int32_t *ids, int32_t n, char *out,
                        size_t out_size);

#endif
