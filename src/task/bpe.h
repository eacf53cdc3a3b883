// Byte-pair encoding, of two kinds. Byte-level (GPT-2, Llama 3, Qwen, SmolLM): text is cut by a
// pretoken row, each byte of a piece is a character of an alphabet of bytes, pairs merge by rank.
// SentencePiece (Llama 2, Mistral, Gemma): what merges are characters, U+2581 stands for a space,
// and a character that is no token falls back to the tokens of its bytes. What makes the vocabulary
// is a reader's: tokenizer_gguf.c, tokenizer_json.c.
#ifndef FSTQ_TASK_BPE_H
#define FSTQ_TASK_BPE_H

#include "base/gguf.h"
#include "task/pretoken.h"
#include "task/tokenizer.h"

#define BPE_MAX_VOCAB (1 << 22)

enum { BPE_NORMAL, BPE_CONTROL, BPE_ADDED, BPE_BYTE };

// A space that SentencePiece puts in front, so that the first word is like the others.
enum bpe_space {
    BPE_SPACE_NONE,
    BPE_SPACE_TEXT,  // of the whole text
    BPE_SPACE_PARTS, // of every part between added tokens
    BPE_SPACE_WORDS, // likewise, unless it begins with one
    BPE_SPACE_WORD,  // of the part that the text begins with, unless that begins with one
};

// What a file says. Texts are in the alphabet of bytes, or SentencePiece's.
struct bpe_vocabulary {
    int32_t n;
    struct gguf_text *token; // (n)
    uint8_t *kind;           // (n) BPE_*
    int64_t n_merges;
    struct gguf_text (*merge)[2]; // (n_merges) by rank
    float *score;                 // (n) instead: pairs merge by the score of what they make
    bool whole;
    const struct pretoken *pretoken; // NULL = of SentencePiece
    enum bpe_space space;
    bool nfc;   // text is brought into Unicode's form NFC first
    bool apart; // each space begins a word of its own, also behind another
    int32_t bos, eos, pad;
};

// Fills t; the texts may go afterwards. -1 with what does not fit.
int bpe_build(struct tokenizer *t, const struct bpe_vocabulary *v, struct err *err);
void bpe_vocabulary_free(struct bpe_vocabulary *v); // the lists, not the texts
// Cells of a row.
void bpe_close(struct tokenizer *t);
int32_t bpe_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *ids,
                   int32_t cap);
const char *bpe_piece(const struct tokenizer *t, int32_t previous, int32_t id, size_t *n);
int32_t bpe_control(const struct tokenizer *t, const char *text);
bool bpe_puts_space(const struct tokenizer *t); // in front of the first word

#endif
