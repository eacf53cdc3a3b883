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

// A vector holds a word of as many counters as it has 64-bit lanes, each in the lower half of one:
// products need no merging, and nobody looks at the upper halves.
#if SIMD_X86

struct counters_256 {
    __m256i c0, c1, c2, c3;
};

// keys: of all rounds, the two in turn.
TARGET_AVX2 static inline __attribute__((always_inline)) void
philox_round_256(struct counters_256 *c, const __m256i keys[2])
{
    const __m256i m0 = _mm256_set1_epi32((int)PHILOX_M0), m1 = _mm256_set1_epi32((int)PHILOX_M1);
    __m256i k0 = _mm256_xor_si256(c->c1, keys[0]), k1 = _mm256_xor_si256(c->c3, keys[1]);
    __asm__(""
            : "+x"(k0), "+x"(k1)); // or compilers put keys last, where the products wait for them
    const __m256i p0 = _mm256_mul_epu32(m0, c->c0), p1 = _mm256_mul_epu32(m1, c->c2);
    c->c0 = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), k0);
    c->c1 = p1;
    c->c2 = _mm256_xor_si256(_mm256_srli_epi64(p0, 32), k1);
    c->c3 = p0;
}

// The words of blocks 2 L, or those of blocks 2 L + 1, fill 128-bit lanes L: hence the order.
TARGET_AVX2 static inline __attribute__((always_inline)) void
philox_store_256(const struct counters_256 *c, uint32_t out[16])
{
    const __m256i c01 = _mm256_blend_epi32(c->c0, _mm256_slli_epi64(c->c1, 32), 0xaa);
    const __m256i c23 = _mm256_blend_epi32(c->c2, _mm256_slli_epi64(c->c3, 32), 0xaa);
    __m256i *to = (__m256i *)(void *)out;
    _mm256_storeu_si256(to, _mm256_unpacklo_epi64(c01, c23));
    _mm256_storeu_si256(to + 1, _mm256_unpackhi_epi64(c01, c23));
}

// Two vectors in turn, since each waits for its own products.
TARGET_AVX2 static size_t philox_whole_avx2(const uint32_t key[2], const uint32_t ctr[4],
                                            uint64_t first, size_t n, uint32_t *out)
{
    const __m256i order = _mm256_setr_epi64x(0, 2, 1, 3);
    const struct counters_256 begin = {.c1 = _mm256_set1_epi32((int)ctr[1]),
                                       .c2 = _mm256_set1_epi32((int)ctr[2]),
                                       .c3 = _mm256_set1_epi32((int)ctr[3])};
    __m256i keys[2 * PHILOX_ROUNDS];
    size_t i = 0;
    for (uint32_t r = 0; r < PHILOX_ROUNDS; r++) {
        keys[2 * r] = _mm256_set1_epi32((int)(key[0] + r * PHILOX_W0));
        keys[2 * r + 1] = _mm256_set1_epi32((int)(key[1] + r * PHILOX_W1));
    }
    for (; i + 32 <= n; i += 32) {
        const uint32_t block = (uint32_t)((first + i) / 4);
        struct counters_256 a = begin, b = begin;
        a.c0 = _mm256_add_epi32(_mm256_set1_epi32((int)block), order);
        b.c0 = _mm256_add_epi32(_mm256_set1_epi32((int)(block + 4)), order);
        for (int r = 0; r < PHILOX_ROUNDS; r++) {
            philox_round_256(&a, keys + 2 * r);
            philox_round_256(&b, keys + 2 * r);
        }
        philox_store_256(&a, out + i);
        philox_store_256(&b, out + i + 16);
    }
    return i;
}

TARGET_AVX2 static void philox_words_avx2(const uint32_t key[2], const uint32_t ctr[4],
                                          uint64_t first, size_t n, uint32_t *out)
{
    size_t i = n < 32 ? 0 : philox_whole_avx2(key, ctr, first, n, out);
    philox_tail(key, ctr, first, i, n, out);
}

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
