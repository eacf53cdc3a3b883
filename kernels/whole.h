// Blocks of quantised weights as whole numbers, for products with whole numbers (dots.c): value i
// of 32 is d q[i] + m, or two groups of 16 have a d and an m each.
#ifndef FSTQ_KERNELS_WHOLE_H
#define FSTQ_KERNELS_WHOLE_H

#include "block.h"

#include <stdbool.h>

struct whole_row {
    int32_t id;
    bool wide;           // q are bytes with a sign; else from 0 to 127
    bool has_m, halves;  // there is an m; groups are of 16
    const int8_t *level; // q are these, by codes of 4 bits; or NULL
    // Where in the block bytes begin of which each 32 have groups 2 k and 2 k + 1 of 32 as their
    // low and high nibbles; 0: codes are elsewhere.
    int32_t nibbles_at;
    // Of one block: its q, or their codes. NULL: dots.c knows them.
    void (*codes[BLOCK_COPIES])(const uint8_t *x, uint8_t *q);
    // A d and an m for each group. NULL: for all groups one d, `by` times the half that the block
    // begins with, and for m the next half, or m_of_d times d where that is not 0.
    void (*scales[BLOCK_COPIES])(const uint8_t *x, float *d, float *m);
    float by, m_of_d;
};

const struct whole_row *whole_find(int32_t id); // NULL: has no such form

#endif
