// Philox4x32-10 (Salmon et al. 2011), the generator of base/rng.h, many counters at a time.
#include "kernels_codec.h"
#include "simd.h"

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

#define PHILOX_M0     0xD2511F53u
#define PHILOX_M1     0xCD9E8D57u
#define PHILOX_W0     0x9E3779B9u
#define PHILOX_W1     0xBB67AE85u
#define PHILOX_ROUNDS 10

static void philox_block(const uint32_t key[2], const uint32_t ctr[4], uint32_t block,
                         uint32_t out[4])
{
    uint32_t c0 = block, c1 = ctr[1], c2 = ctr[2], c3 = ctr[3], k0 = key[0], k1 = key[1];
    for (int r = 0; r < PHILOX_ROUNDS; r++, k0 += PHILOX_W0, k1 += PHILOX_W1) {
        uint64_t p0 = (uint64_t)PHILOX_M0 * c0, p1 = (uint64_t)PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static void philox_tail(const uint32_t key[2], const uint32_t ctr[4], uint64_t first, size_t i,
                        size_t n, uint32_t *out)
{
    for (; i < n; i += 4) {
        uint32_t word[4];
        philox_block(key, ctr, (uint32_t)((first + i) / 4), word);
        memcpy(out + i, word, (n - i < 4 ? n - i : 4) * sizeof *out);
    }
}

static void philox_words_base(const uint32_t key[2], const uint32_t ctr[4], uint64_t first,
                              size_t n, uint32_t *out)
{
    philox_tail(key, ctr, first, 0, n, out);
}

// A vector holds one counter word of many blocks. With AVX2 block 2 k + L sits in element k of
// 128-bit lane L, so that transposing 4 x 4 inside the lanes puts the words into the stream's
// order.
#if SIMD_X86

#define MUL_HI_LO(m, c, hi, lo, P, MASK)                                                           \
    do {                                                                                           \
        even_ = P##mul_epu32(m, c);                                                                \
        odd_ = P##mul_epu32(m, P##srli_epi64(c, 32));                                              \
        (hi) = MASK(odd_, P##srli_epi64(even_, 32));                                               \
        (lo) = MASK(P##slli_epi64(odd_, 32), even_);                                               \
    } while (0)

#define PHILOX_ROUND(P, XOR, MASK)                                                                 \
    do {                                                                                           \
        V even_, odd_, hi0, lo0, hi1, lo1;                                                         \
        MUL_HI_LO(m0, c0, hi0, lo0, P, MASK);                                                      \
        MUL_HI_LO(m1, c2, hi1, lo1, P, MASK);                                                      \
        c0 = XOR(XOR(hi1, c1), P##set1_epi32((int)k0));                                            \
        c1 = lo1;                                                                                  \
        c2 = XOR(XOR(hi0, c3), P##set1_epi32((int)k1));                                            \
        c3 = lo0;                                                                                  \
        k0 += PHILOX_W0;                                                                           \
        k1 += PHILOX_W1;                                                                           \
    } while (0)

#define PHILOX_STORE(P, STORE, WIDTH)                                                              \
    do {                                                                                           \
        V a = P##unpacklo_epi32(c0, c1), b = P##unpackhi_epi32(c0, c1);                            \
        V c = P##unpacklo_epi32(c2, c3), d = P##unpackhi_epi32(c2, c3);                            \
        STORE(out + i, P##unpacklo_epi64(a, c));                                                   \
        STORE(out + i + (WIDTH), P##unpackhi_epi64(a, c));                                         \
        STORE(out + i + 2 * (WIDTH), P##unpacklo_epi64(b, d));                                     \
        STORE(out + i + 3 * (WIDTH), P##unpackhi_epi64(b, d));                                     \
    } while (0)

TARGET_AVX2 static void philox_words_avx2(const uint32_t key[2], const uint32_t ctr[4],
                                          uint64_t first, size_t n, uint32_t *out)
{
    typedef __m256i V;
    const V m0 = _mm256_set1_epi32((int)PHILOX_M0), m1 = _mm256_set1_epi32((int)PHILOX_M1);
    const V order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        V c0 = _mm256_add_epi32(_mm256_set1_epi32((int)(uint32_t)((first + i) / 4)), order);
        V c1 = _mm256_set1_epi32((int)ctr[1]), c2 = _mm256_set1_epi32((int)ctr[2]),
          c3 = _mm256_set1_epi32((int)ctr[3]);
        uint32_t k0 = key[0], k1 = key[1];
#define MERGE(odd, even) _mm256_blend_epi32(even, odd, 0xaa)
#define STORE(p, v)      _mm256_storeu_si256((__m256i *)(void *)(p), v)
        for (int r = 0; r < PHILOX_ROUNDS; r++)
            PHILOX_ROUND(_mm256_, _mm256_xor_si256, MERGE);
        PHILOX_STORE(_mm256_, STORE, 8);
#undef MERGE
#undef STORE
    }
    philox_tail(key, ctr, first, i, n, out);
}

// A word of eight counters, each in the lower half of 64 bits: products need no merging, and nobody
// looks at the upper halves.
struct counters_512 {
    __m512i c0, c1, c2, c3;
};

// keys: of all rounds, the two in turn.
TARGET_AVX512 static inline __attribute__((always_inline)) struct counters_512
philox_rounds_512(struct counters_512 c, const __m512i keys[2 * PHILOX_ROUNDS])
{
    const __m512i m0 = _mm512_set1_epi32((int)PHILOX_M0), m1 = _mm512_set1_epi32((int)PHILOX_M1);
    for (int r = 0; r < PHILOX_ROUNDS; r++) {
        const __m512i p0 = _mm512_mul_epu32(m0, c.c0), p1 = _mm512_mul_epu32(m1, c.c2);
        const __m512i h0 = _mm512_srli_epi64(p0, 32), h1 = _mm512_srli_epi64(p1, 32);
        c.c0 = _mm512_ternarylogic_epi64(h1, c.c1, keys[2 * r], 0x96); // a ^ b ^ c
        c.c1 = p1;
        c.c2 = _mm512_ternarylogic_epi64(h0, c.c3, keys[2 * r + 1], 0x96);
        c.c3 = p0;
    }
    return c;
}

// The words of blocks 2 L, or those of blocks 2 L + 1, fill 128-bit lanes L: hence the order.
TARGET_AVX512 static inline __attribute__((always_inline)) void
philox_store_512(struct counters_512 c, uint32_t out[32])
{
    const __m512i c01 = _mm512_mask_shuffle_epi32(c.c0, 0xaaaa, c.c1, _MM_PERM_CCAA);
    const __m512i c23 = _mm512_mask_shuffle_epi32(c.c2, 0xaaaa, c.c3, _MM_PERM_CCAA);
    _mm512_storeu_si512(out, _mm512_unpacklo_epi64(c01, c23));
    _mm512_storeu_si512(out + 16, _mm512_unpackhi_epi64(c01, c23));
}

TARGET_AVX512 static void philox_words_avx512(const uint32_t key[2], const uint32_t ctr[4],
                                              uint64_t first, size_t n, uint32_t *out)
{
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    struct counters_512 c = {.c1 = _mm512_set1_epi32((int)ctr[1]),
                             .c2 = _mm512_set1_epi32((int)ctr[2]),
                             .c3 = _mm512_set1_epi32((int)ctr[3])};
    __m512i keys[2 * PHILOX_ROUNDS];
    size_t i = 0;
    for (uint32_t r = 0; r < PHILOX_ROUNDS; r++) {
        keys[2 * r] = _mm512_set1_epi32((int)(key[0] + r * PHILOX_W0));
        keys[2 * r + 1] = _mm512_set1_epi32((int)(key[1] + r * PHILOX_W1));
    }
    for (; i + 64 <= n; i += 64) {
        const uint32_t block = (uint32_t)((first + i) / 4);
        c.c0 = _mm512_add_epi32(_mm512_set1_epi32((int)block), order);
        philox_store_512(philox_rounds_512(c, keys), out + i);
        c.c0 = _mm512_add_epi32(_mm512_set1_epi32((int)(block + 8)), order);
        philox_store_512(philox_rounds_512(c, keys), out + i + 32);
    }
    philox_tail(key, ctr, first, i, n, out);
}
#endif

void philox_uniform(const uint32_t key[2], const uint32_t ctr[4], size_t n, float *v)
{
    enum { TILE = 256 };
    uint32_t word[TILE];
    for (size_t at = 0; at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        philox_words(key, ctr, at, m, word);
        for (size_t i = 0; i < m; i++)
            v[at + i] = (float)(int32_t)(word[i] & 0xffffff00u) * 0x1p-31f;
    }
}

void philox_words(const uint32_t key[2], const uint32_t ctr[4], uint64_t first, size_t n,
                  uint32_t *out)
{
    SIMD_PICK(philox_words, (key, ctr, first, n, out));
}
