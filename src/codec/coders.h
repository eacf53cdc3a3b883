// A run of small codes as bytes of a message, by one of several coders: at fixed width, by their
// frequency (entropy.h), or by codes that are made for zeros in the middle or for three levels.
#ifndef FSTQ_CODEC_CODERS_H
#define FSTQ_CODEC_CODERS_H

#include "codec/message.h"

enum coder {
    CODER_FIXED,
    CODER_RANS,
    CODER_GAMMA, // Elias's, of gaps and levels
    CODER_DELTA,
    CODER_OMEGA,
    CODER_BASE3, // five codes per byte
    CODER_RUNS,  // the same, and runs of zero bytes in one
};
extern const char *const coder_choices[]; // the names, for OPT_ENUM

// What its time is booked under.
static inline enum stage coder_stage(enum coder coder)
{
    return coder == CODER_FIXED || coder == CODER_BASE3 ? STAGE_PACK : STAGE_ENTROPY;
}

int coder_check(enum coder coder, unsigned kinds, struct err *err);
size_t coder_bound(enum coder coder, size_t n, unsigned kinds);
// Booked as values. Codes lie in [0, kinds), kinds < 256; scratch: entropy_scratch(n) bytes. -1:
// the buffer is full.
int coder_put(struct msg_out *o, enum coder coder, const uint8_t *code, size_t n, unsigned kinds,
              void *scratch);
int coder_get(struct msg_in *m, enum coder coder, uint8_t *code, size_t n, unsigned kinds,
              void *scratch, struct err *err);

#endif
