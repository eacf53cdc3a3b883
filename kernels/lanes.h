// What AVX2 lacks beside AVX-512: eight lanes spread to where a mask has its bits, and lanes of a
// mask moved together, by tables of 2 KiB.
#ifndef FSTQ_KERNELS_LANES_H
#define FSTQ_KERNELS_LANES_H

#include "simd.h"

#include <stdint.h>

#if SIMD_X86
#include <immintrin.h>

extern const uint8_t lanes_spread_from[256][8]; // lane i takes what stands at the bits below it
extern const uint8_t lanes_close_from[256][8];  // lane i takes the i-th lane of the mask

TARGET_AVX2 static inline __attribute__((always_inline)) __m256i lanes_of_row(const uint8_t *row)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)row));
}
TARGET_AVX2 static inline __attribute__((always_inline)) __m256i lanes_spread(__m256i v,
                                                                              unsigned mask)
{
    return _mm256_permutevar8x32_epi32(v, lanes_of_row(lanes_spread_from[mask]));
}
TARGET_AVX2 static inline __attribute__((always_inline)) __m256i lanes_close(__m256i v,
                                                                             unsigned mask)
{
    return _mm256_permutevar8x32_epi32(v, lanes_of_row(lanes_close_from[mask]));
}
// The mask's lanes, count in number, as the last ones; below them stands anything. Reads from the
// row before what it takes less than a row.
TARGET_AVX2 static inline __attribute__((always_inline)) __m256i
lanes_close_up(__m256i v, unsigned mask, unsigned count)
{
    const uint8_t *row = lanes_close_from[0] + 8 * mask;
    return _mm256_permutevar8x32_epi32(v, lanes_of_row(row - (-count & 7)));
}
#endif
#endif
