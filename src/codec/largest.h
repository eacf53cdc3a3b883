// The k largest magnitudes of one array: what select.c does in steps.
#ifndef FSTQ_CODEC_LARGEST_H
#define FSTQ_CODEC_LARGEST_H

#include "kernels/kernels_codec.h"

#include <string.h>

// Appends base + i of the k largest of x (n), ascending, ties from the lowest; zeros are left out.
// at has room for k + 16. Returns how many.
static inline size_t largest(const float *x, size_t n, size_t k, uint32_t base, uint32_t *at)
{
    uint32_t count[SELECT_BINS];
    struct select_cut cut;
    if (k == 0 || n == 0)
        return 0;
    select_cut_begin(&cut, k < n ? k : n);
    for (int level = 0; level < SELECT_LEVELS; level++) {
        memset(count, 0, sizeof count);
        select_count(x, n, SELECT_ABS, level, cut.prefix, count);
        select_cut_next(&cut, count);
    }
    if (cut.prefix == 0)
        cut.left = 0;
    return select_take(x, n, SELECT_ABS, cut.prefix, &cut.left, base, at);
}

#endif
