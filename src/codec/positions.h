// Which coordinates a sparse message holds: ascending positions below n, as 32-bit numbers, as
// numbers of ceil(log2 n) bits, as a bitmap, or as Rice-coded gaps.
#ifndef FSTQ_CODEC_POSITIONS_H
#define FSTQ_CODEC_POSITIONS_H

#include "codec/message.h"

enum positions_code {
    POSITIONS_AUTO, // the smallest of the others; the message says which
    POSITIONS_RICE,
    POSITIONS_BITMAP,
    POSITIONS_LOG2,
    POSITIONS_RAW32,
};
extern const char *const positions_choices[]; // the names, for OPT_ENUM

size_t positions_bound(size_t most, size_t n, enum positions_code code);
// Positions lie in [base, base + n). One byte of coding, then the positions. -1: the buffer is
// full.
int positions_put(struct msg_out *o, const uint32_t *at, size_t count, size_t base, size_t n,
                  enum positions_code code);
// Ascending and in range, or an error.
int positions_get(struct msg_in *m, uint32_t *at, size_t count, size_t base, size_t n,
                  struct err *err);
// Rice-coded ones as marks: 1 in mark (n), which was 0.
int positions_mark(struct msg_in *m, uint8_t *mark, size_t count, size_t n, struct err *err);
// Bytes that positions_put would take for a random set of this size, within a few per cent.
size_t positions_estimate(size_t count, size_t n, enum positions_code code);

// The Rice parameter that costs least for these gaps, and its cost in bits.
unsigned rice_best(const uint32_t *at, size_t count, size_t base, uint64_t *bits);
// The same of `count` gaps up to `span` values, by their cost at a parameter.
typedef uint64_t rice_cost_fn(const void *arg, unsigned k);
unsigned rice_search(size_t count, uint64_t span, rice_cost_fn *cost, const void *arg,
                     uint64_t *bits);
// Room for so many bits of Rice codes, behind the byte that says so; NULL: the buffer is full.
uint8_t *rice_room(struct msg_out *o, unsigned k, uint64_t bits);

#endif
