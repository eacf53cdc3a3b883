// Where text is cut before byte-pair merging: the patterns that models were trained with, without a
// regex engine. Classes of code points are those of Unicode.
#ifndef FSTQ_TASK_PRETOKEN_H
#define FSTQ_TASK_PRETOKEN_H

#include <stddef.h>
#include <stdint.h>

struct pretoken {
    const char *name;  // as GGUF's tokenizer.ggml.pre says it
    const char *regex; // as tokenizer.json says it; NULL = as other parts
    // The length of the piece that begins at `at` < n.
    size_t (*next)(const char *s, size_t n, size_t at);
};

extern const struct pretoken *const pretoken_table[];               // NULL-terminated
const struct pretoken *pretoken_find(const char *name, size_t len); // NULL = none of that name
const struct pretoken *pretoken_by_regex(const char *regex);

#endif
