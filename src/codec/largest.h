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
    struct select_threshold threshold;
    if (k == 0 || n == 0)
        return 0;
    select_threshold_begin(&threshold, k < n ? k : n);
    for (int level = 0; level < SELECT_LEVELS; level++) {
        memset(count, 0, sizeof count);
        select_count(x, n, SELECT_ABS, level, threshold.prefix, count);
        select_threshold_next(&threshold, count);
    }
    if (threshold.prefix == 0)
        threshold.left = 0;
    return select_take(x, n, SELECT_ABS, threshold.prefix, &threshold.left, base, at);
}

#endif
