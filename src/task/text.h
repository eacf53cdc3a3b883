// Text as the scores see it, the same whatever the locale: words in lower case.
#ifndef FSTQ_TASK_TEXT_H
#define FSTQ_TASK_TEXT_H

#include <stddef.h>
#include <stdint.h>

struct text_word {
    uint64_t hash;
    const char *s; // in the list's own buffer, not terminated
    uint32_t n;
};

struct text_words {
    int32_t n;
    struct text_word *v;
    char *buffer;
};

uint32_t text_lower(uint32_t cp); // Latin, Greek, Cyrillic, full-width Latin; final sigma is sigma
// Whether the code point ends a word and is no part of one: spaces, punctuation, symbols.
int text_is_break(uint32_t cp);
int text_is_single(uint32_t cp); // a word of its own: Han, kana, Thai

struct text_words text_split(const char *utf8);
void text_free(struct text_words *w);

static inline int text_same(const struct text_word *a, const struct text_word *b)
{
    return a->hash == b->hash && a->n == b->n && !__builtin_memcmp(a->s, b->s, a->n);
}

#endif
