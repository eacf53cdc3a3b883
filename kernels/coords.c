// Values by their positions, which ascend.
#include "kernels_codec.h"

#include <string.h>

void coords_gather(const float *x, const uint32_t *at, size_t n, float *v)
{
    for (size_t i = 0; i < n; i++)
        v[i] = x[at[i]];
}

void coords_give(const uint32_t *at, const float *v, size_t n, struct quant_sink to)
{
    for (size_t i = 0; i < n && to.add; i++)
        to.to[at[i]] += to.weight * v[i];
    for (size_t i = 0; i < n && !to.add; i++)
        to.to[at[i]] = v[i];
}

void coords_clear(const uint32_t *at, size_t n, float *x)
{
    for (size_t i = 0; i < n; i++)
        x[at[i]] = 0;
}

void coords_map(const uint32_t *from, uint32_t *at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        at[i] = from[at[i]];
}

void coords_vote(const uint32_t *at, const float *v, size_t n, float *sum, uint32_t *senders)
{
    for (size_t i = 0; i < n; i++) {
        sum[at[i]] += v[i];
        senders[at[i]]++;
    }
}

size_t coords_below(const uint32_t *at, size_t n, size_t pos)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (at[mid] < pos)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

// A tile of zeros takes its values, is copied out, and is zero again.
void coords_stream(const uint32_t *at, const float *v, size_t n, size_t begin, size_t end,
                   float *to)
{
    enum { TILE = 4096 };
    float tile[TILE] = {0};
    size_t i = coords_below(at, n, begin);
    for (size_t from = begin; from < end; from += TILE) {
        size_t m = end - from < TILE ? end - from : TILE, first = i;
        for (; i < n && at[i] < from + m; i++)
            tile[at[i] - from] = v[i];
        quant_stream(tile, m, to + from);
        for (; first < i; first++)
            tile[at[first] - from] = 0;
    }
}

// Algorithm S (Knuth, The Art of Computer Programming 2, 3.4.2): value i is taken with probability
// left / (n - i).
void coords_draw(const uint32_t key[2], const uint32_t ctr[4], size_t n, size_t k, uint32_t base,
                 uint32_t *at)
{
    enum { DRAWS = 256 };
    uint32_t word[DRAWS];
    size_t found = 0;
    for (size_t i = 0; i < n && found < k; i++) {
        if (i % DRAWS == 0)
            philox_words(key, ctr, i, DRAWS, word);
        at[found] = base + (uint32_t)i;
        found += ((uint64_t)word[i % DRAWS] * (n - i)) >> 32 < k - found;
    }
}
