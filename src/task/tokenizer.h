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
    bool needs_file;    // task.vocab
    bool head;          // the beginning of a large file is enough
    const char *ending; // of its files, by which auto knows them; NULL = any other
    // Fills t from the bytes of the file (or NULL); on error nothing is kept.
    int (*open)(struct tokenizer *t, const uint8_t *bytes, size_t n, struct err *err);
    // What files beside this one say of t, where there are any; NULL = none ever does.
    int (*beside)(struct tokenizer *t, const char *path, struct err *err);
    void (*close)(struct tokenizer *t);
    // Writes at most cap ids; returns how many the whole text has.
    int32_t (*encode)(const struct tokenizer *t, const char *text, size_t n, int32_t *out,
                      int32_t cap);
    // The bytes of one id that follows previous (-1 = none); not terminated.
    const char *(*piece)(const struct tokenizer *t, int32_t previous, int32_t id, size_t *n);
    // The id of a control token, which no text has; -1 = there is none. NULL = none at all.
    int32_t (*control)(const struct tokenizer *t, const char *text);
};

struct tokenizer {
    const struct tokenizer_row *row;
    int32_t vocab;
    int32_t bos, eos, pad; // -1 = this vocabulary has none
    bool space_first;      // encode itself puts a space before the first word
    void *state;
};

extern const struct tokenizer_row tokenizer_llama2c, tokenizer_json, tokenizer_gguf;
extern const struct tokenizer_row *const tokenizer_table[]; // NULL-terminated
const char *tokenizer_name(int32_t i); // of task.tokenizer: auto, then the rows'

// What auto means for a file, "" = none.
const char *tokenizer_auto(const char *path);

// err names the file and the offset or key at fault.
struct tokenizer *tokenizer_open(const char *name, const char *path, struct err *err);
struct tokenizer *tokenizer_open_bytes(const struct tokenizer_row *row, const uint8_t *bytes,
                                       size_t n, struct err *err);
void tokenizer_close(struct tokenizer *t);
// No BOS or EOS is added: callers do. Writes at most cap ids; returns how many the whole text has.
int32_t tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *out,
                         int32_t cap);
// Writes valid UTF-8 (broken sequences and NUL become U+FFFD), terminated, cut at out_size;
// specials are left out. Returns the length.
size_t tokenizer_decode(const struct tokenizer *t, const int32_t *ids, int32_t n, char *out,
                        size_t out_size);

#endif
