// Bytes of rows that lie apart become words of a register, a row a lane: for kernels that read
// weights as they are stored. See simd.h for what the instruction sets are called.
#ifndef FSTQ_KERNELS_WORDS_H
#define FSTQ_KERNELS_WORDS_H

#include "simd.h"

#include <stddef.h>
#include <stdint.h>

#if defined(__clang__) || __GNUC__ >= 12
#define MIX4(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIX4(a, b, ...) __builtin_shuffle(a, b, (words4){__VA_ARGS__})
#endif

typedef uint32_t words4 __attribute__((vector_size(16), aligned(1), may_alias));

// r[j]: word j of 16 bytes of each of 4 rows, the first at x.
static inline __attribute__((always_inline)) void words_turn_base(const uint8_t *x, size_t stride,
                                                                  words4 r[4])
{
    words4 t[4];
    for (size_t i = 0; i < 4; i++)
        r[i] = *(const words4 *)(const void *)(x + i * stride);
    for (int i = 0; i < 4; i += 2) {
        t[i] = MIX4(r[i], r[i + 1], 0, 4, 1, 5);
        t[i + 1] = MIX4(r[i], r[i + 1], 2, 6, 3, 7);
    }
    for (int i = 0; i < 2; i++) {
        r[2 * i] = MIX4(t[i], t[i + 2], 0, 1, 4, 5);
        r[2 * i + 1] = MIX4(t[i], t[i + 2], 2, 3, 6, 7);
    }
}

#if SIMD_X86

#include <immintrin.h>

// Of each 128 bits of r[t], row t of four, word j goes to r[j].
#define TURN_WORDS(v, bits)                                                                        \
    do {                                                                                           \
        v a = _mm##bits##_unpacklo_epi32(r[0], r[1]), b = _mm##bits##_unpackhi_epi32(r[0], r[1]);  \
        v c = _mm##bits##_unpacklo_epi32(r[2], r[3]), d = _mm##bits##_unpackhi_epi32(r[2], r[3]);  \
        r[0] = _mm##bits##_unpacklo_epi64(a, c);                                                   \
        r[1] = _mm##bits##_unpackhi_epi64(a, c);                                                   \
        r[2] = _mm##bits##_unpacklo_epi64(b, d);                                                   \
        r[3] = _mm##bits##_unpackhi_epi64(b, d);                                                   \
    } while (0)

static inline __m128i words_at(const uint8_t *x)
{
    return _mm_loadu_si128((const __m128i *)(const void *)x);
}

// Of each of 8 rows.
TARGET_AVX2 static inline __attribute__((always_inline)) void
words_turn_avx2(const uint8_t *x, size_t stride, __m256i r[4])
{
    for (size_t t = 0; t < 4; t++)
        r[t] = _mm256_inserti128_si256(_mm256_castsi128_si256(words_at(x + t * stride)),
                                       words_at(x + (t + 4) * stride), 1);
    TURN_WORDS(__m256i, 256);
}

// Of each of 16 rows.
TARGET_AVX512 static inline __attribute__((always_inline)) void
words_turn_avx512(const uint8_t *x, size_t stride, __m512i r[4])
{
    for (size_t t = 0; t < 4; t++) {
        r[t] = _mm512_castsi128_si512(words_at(x + t * stride));
        r[t] = _mm512_inserti32x4(r[t], words_at(x + (t + 4) * stride), 1);
        r[t] = _mm512_inserti32x4(r[t], words_at(x + (t + 8) * stride), 2);
        r[t] = _mm512_inserti32x4(r[t], words_at(x + (t + 12) * stride), 3);
    }
    TURN_WORDS(__m512i, 512);
}

#endif
#endif
