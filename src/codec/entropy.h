// A run of small codes (fewer than 256 kinds) in as few bytes as order 0 allows: one value for all,
// rANS with its table, or fixed width, whichever is smallest; the first byte says which.
#ifndef FSTQ_CODEC_ENTROPY_H
#define FSTQ_CODEC_ENTROPY_H

#include "codec/message.h"

struct codec_device; // NULL = the host

size_t entropy_bound(size_t n, unsigned kinds);
size_t entropy_scratch(size_t n);       // bytes, for entropy_put and entropy_get
size_t entropy_get_scratch(size_t n);   // for entropy_get alone
unsigned entropy_width(unsigned kinds); // bits of one code at fixed width

// Codes lie in [0, kinds), kinds <= 256. -1: the buffer is full.
int entropy_put(struct msg_out *o, enum part part, const uint8_t *code, size_t n, unsigned kinds,
                void *scratch);
// The same where it is known how many codes of each kind there are. on: where they lie.
int entropy_put_counted(struct msg_out *o, enum part part, const struct codec_device *on,
                        const uint8_t *code, size_t n, unsigned kinds, const uint64_t count[256],
                        void *scratch);
// Bytes that entropy_put will take, within a few; count has n codes in all.
double entropy_estimate(const uint64_t count[256], size_t n, unsigned kinds);
// The same of codes ENTROPY_MIDDLE plus or minus a magnitude, either sign being as likely: the
// table has frequencies of magnitudes. Its frequencies, and bytes that entropy_put_even will take.
#define ENTROPY_MIDDLE 127
int entropy_put_even(struct msg_out *o, enum part part, const uint8_t *code, size_t n,
                     const uint64_t count[256], void *scratch);
int entropy_get_even(struct msg_in *m, uint8_t *code, size_t n, void *scratch, struct err *err);
void entropy_even(const uint64_t count[256], uint16_t freq[256]); // two kinds of codes at least
double entropy_estimate_even(const uint64_t count[256], size_t n);
int entropy_get(struct msg_in *m, uint8_t *code, size_t n, unsigned kinds, void *scratch,
                struct err *err);

#endif
