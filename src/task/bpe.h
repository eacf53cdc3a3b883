// Byte-level byte-pair encoding (GPT-2, Llama 3, Qwen, SmolLM): text is cut by a pretoken row, each
// byte of a piece is a character of an alphabet of bytes, pairs merge by rank. What makes the
// vocabulary is a reader's: tokenizer_gguf.c, tokenizer_json.c.
#ifndef FSTQ_TASK_BPE_H
#define FSTQ_TASK_BPE_H

#include "base/gguf.h"
#include "task/pretoken.h"
#include "task/tokenizer.h"

#define BPE_MAX_VOCAB (1 << 22)

// What a file says. Texts are in the alphabet of bytes.
struct bpe_vocabulary {
    int32_t n;
    struct gguf_text *token; // (n)
    uint8_t *kind;           // (n) BPE_*
    int64_t n_merges;
    struct gguf_text (*merge)[2]; // (n_merges)
    bool whole;
    const struct pretoken *pretoken;
    int32_t bos, eos, pad;
};
enum { BPE_NORMAL, BPE_CONTROL, BPE_ADDED };

// Fills t; the texts may go afterwards. -1 with what does not fit.
int bpe_build(struct tokenizer *t, const struct bpe_vocabulary *v, struct err *err);
void bpe_vocabulary_free(struct bpe_vocabulary *v); // the lists, not the texts
// Cells of a row.
void bpe_close(struct tokenizer *t);
int32_t bpe_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *ids,
                   int32_t cap);
const char *bpe_piece(const struct tokenizer *t, int32_t previous, int32_t id, size_t *n);

#endif
