// Kernels of bit allocation: importance of coordinates, and what is done with their tags.
#ifdef SIMD_LANES // read for each instruction set

// Importance. Nothing here is NaN: factors are finite, and 0 is multiplied by |x| before |x| could
// overflow.

SIMD_KERNEL void SIMD_NAME(alloc_magnitude)(const float *x, size_t n, float *u)
{
    for (size_t i = 0; i < n; i++)
        u[i] = x[i] * x[i];
}

// p = (F mul)^(gamma16 / 16) by the binary digits of gamma: f^(1/2), f^(1/4), ... Roots, not
// powers, give the same bits everywhere. Negative sensitivities, which no estimator gives, count as
// 0.
SIMD_INLINE void SIMD_NAME(powers)(const float *sens, size_t n, float mul, int gamma16, float *p)
{
    float f[BLOCK];
    for (size_t i = 0; i < n; i++) {
        float v = sens[i] * mul;
        f[i] = v > 0 ? v : 0;
        p[i] = gamma16 == 16 ? f[i] : 1;
    }
    for (int bit = 8; bit > 0 && (gamma16 & (2 * bit - 1) & 15); bit /= 2) {
        for (size_t i = 0; i < n; i++)
            f[i] = __builtin_sqrtf(f[i]);
        for (size_t i = 0; i < n && (gamma16 & bit); i++)
            p[i] *= f[i];
    }
}

SIMD_KERNEL void SIMD_NAME(alloc_power)(const float *sens, size_t n, float mul, int gamma16,
                                        float *w)
{
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        size_t m = n - begin < BLOCK ? n - begin : BLOCK;
        float p[BLOCK];
        SIMD_NAME(powers)(sens + begin, m, mul, gamma16, p);
        memcpy(w + begin, p, m * sizeof *p);
    }
}

SIMD_KERNEL void SIMD_NAME(alloc_fisher)(const float *x, const float *sens, size_t n, float mul,
                                         int gamma16, float *u)
{
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        size_t m = n - begin < BLOCK ? n - begin : BLOCK;
        float p[BLOCK];
        SIMD_NAME(powers)(sens + begin, m, mul, gamma16, p);
        for (size_t i = 0; i < m; i++) {
            float a = magnitude(x[begin + i]);
            u[begin + i] = p[i] * a * a;
        }
    }
}

// The loss at theta + D, to first order: L(theta + D) - L(theta) = sum g_i D_i. u = -g D is what
// coordinate i takes off it, 0 where it adds; absolute: |g D|, as in pruning by Taylor expansion
// (Molchanov et al. 2017).
SIMD_KERNEL void SIMD_NAME(alloc_first_order)(const float *x, const float *grad, size_t n,
                                              bool absolute, float *u)
{
    for (size_t i = 0; i < n; i++) {
        float v = -(grad[i] * x[i]);
        float a = absolute ? magnitude(v) : v;
        u[i] = a > 0 ? a : 0;
    }
}

SIMD_KERNEL void SIMD_NAME(alloc_words)(const uint32_t *word, size_t n, float *u)
{
    for (size_t i = 0; i < n; i++)
        u[i] = ((float)(int32_t)(word[i] >> 8) + 0.5f) * 0x1p-24f;
}

// What a squared error of 1 costs: u / x^2.
SIMD_KERNEL void SIMD_NAME(alloc_weight)(const float *x, size_t n, float *u)
{
    for (size_t i = 0; i < n; i++) {
        float x2 = x[i] * x[i], w = u[i] / x2;
        u[i] = x2 >= 0x1p-120f && w < 0x1p100f ? w : 0;
    }
}

// Tags from thresholds.

// (23) by thresholds instead of ranks: tag_i = #{k: u_i >= c_k}, c ascending, c_k the least
// importance that gets width k. Bits of floats that are not negative order as the floats do. True
// when some u equals a threshold, for then it may be that not all of them get the width.
SIMD_KERNEL bool SIMD_NAME(alloc_tags)(const float *u, size_t n, const uint32_t *threshold,
                                       int thresholds, uint8_t *tag)
{
    int equal = 0;
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        size_t m = n - begin < BLOCK ? n - begin : BLOCK;
        uint8_t t[BLOCK] = {0};
        for (int k = 0; k < thresholds; k++) {
            uint8_t same = 0;
            for (size_t i = 0; i < m; i++) {
                uint32_t bits = f32_bits(u[begin + i]);
                t[i] = (uint8_t)(t[i] + (bits >= threshold[k]));
                same |= bits == threshold[k];
            }
            equal |= same;
        }
        memcpy(tag + begin, t, m);
    }
    return equal;
}

// A bit for every tag that is not 0.
SIMD_KERNEL void SIMD_NAME(alloc_bitmap)(const uint8_t *tag, size_t n, uint8_t *bits)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t v;
        memcpy(&v, tag + i, 8);
        // 0x80 in every byte that is not 0, then the eight top bits to one byte.
        v = ((v & UINT64_C(0x7f7f7f7f7f7f7f7f)) + UINT64_C(0x7f7f7f7f7f7f7f7f)) | v;
        v &= UINT64_C(0x8080808080808080);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        v = __builtin_bswap64(v);
#endif
        bits[i / 8] = (uint8_t)((v >> 7) * UINT64_C(0x0102040810204080) >> 56);
    }
    if (n % 8) {
        unsigned byte = 0;
        for (size_t i = n & ~(size_t)7; i < n; i++)
            byte |= (unsigned)(tag[i] != 0) << (i % 8);
        bits[n / 8] = (uint8_t)byte;
    }
}

#else

#include "kernels_codec.h"
#include "lanes.h"

#include "base/half.h"

#include <string.h>

#define BLOCK 256
#define AHEAD 1024 // values that come while what was kept of those before them is coded

SIMD_PART float magnitude(float x)
{
    return f32_from_bits(f32_bits(x) & 0x7fffffffu);
}

#define SIMD_FILE "alloc.c"
#include "simd_each.h"

void alloc_magnitude(const float *x, size_t n, float *u)
{
    SIMD_PICK(alloc_magnitude, (x, n, u));
}

void alloc_fisher(const float *x, const float *sens, size_t n, float mul, int gamma16, float *u)
{
    SIMD_PICK(alloc_fisher, (x, sens, n, mul, gamma16, u));
}

void alloc_power(const float *sens, size_t n, float mul, int gamma16, float *w)
{
    SIMD_PICK(alloc_power, (sens, n, mul, gamma16, w));
}

void alloc_first_order(const float *x, const float *grad, size_t n, bool absolute, float *u)
{
    SIMD_PICK(alloc_first_order, (x, grad, n, absolute, u));
}

void alloc_words(const uint32_t *word, size_t n, float *u)
{
    SIMD_PICK(alloc_words, (word, n, u));
}

void alloc_weight(const float *x, size_t n, float *u)
{
    SIMD_PICK(alloc_weight, (x, n, u));
}

void alloc_drawn(const uint32_t key[2], const uint32_t ctr[4], size_t first, size_t n, float *u)
{
    uint32_t word[4 * BLOCK];
    for (size_t at = 0; at < n; at += 4 * BLOCK) {
        size_t m = n - at < 4 * BLOCK ? n - at : 4 * BLOCK;
        philox_words(key, ctr, first + at, m, word);
        alloc_words(word, m, u + at);
    }
}

// Multiples of the golden ratio, 2^32 / 1.618...: any share of them is spread evenly (Knuth, The
// Art of Computer Programming 3, 6.4).
void alloc_comb(uint32_t first, size_t n, float *u)
{
    uint32_t word[BLOCK];
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t m = n - at < BLOCK ? n - at : BLOCK;
        for (size_t i = 0; i < m; i++)
            word[i] = (first + (uint32_t)(at + i)) * 2654435769u;
        alloc_words(word, m, u + at);
    }
}

bool alloc_tags(const float *u, size_t n, const uint32_t *threshold, int thresholds, uint8_t *tag)
{
    return SIMD_PICK(alloc_tags, (u, n, threshold, thresholds, tag));
}

void alloc_ties(const float *u, size_t n, const uint32_t *threshold, int thresholds, size_t *ties,
                uint8_t *tag)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = f32_bits(u[i]);
        for (int k = 0; k < thresholds; k++) {
            if (bits != threshold[k])
                continue;
            if (ties[k] > 0)
                ties[k]--;
            else
                tag[i]--;
        }
    }
}

// Tags.

void alloc_bitmap(const uint8_t *tag, size_t n, uint8_t *bits)
{
    SIMD_PICK(alloc_bitmap, (tag, n, bits));
}

#if SIMD_X86
// Which of 32 tags are the wanted one.
TARGET_AVX2 static inline unsigned tags_equal(const uint8_t *tag, __m256i want)
{
    __m256i t = _mm256_loadu_si256((const __m256i *)(const void *)tag);
    return (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(t, want));
}
#endif

static void count_base(const uint8_t *tag, size_t n, int levels, int64_t *count)
{
    for (int k = 0; k < levels; k++) {
        uint16_t found = 0;
        for (size_t i = 0; i < n; i++)
            found = (uint16_t)(found + (tag[i] == k));
        count[k] += found;
    }
}

#if SIMD_X86
// Of four tags from `first` on at a time: a byte of each lane counts up to 255 steps.
TARGET_AVX2 static void count_four(const uint8_t *tag, size_t n, int first, int64_t four[4])
{
    enum { STEPS = 255 * 32 };
    for (size_t at = 0; at < n; at += STEPS) {
        const size_t end = n - at < STEPS ? n : at + STEPS;
        __m256i found[4] = {_mm256_setzero_si256()};
        found[1] = found[2] = found[3] = found[0];
        for (size_t i = at; i < end; i += 32) {
            __m256i t = _mm256_loadu_si256((const __m256i *)(const void *)(tag + i));
            for (int k = 0; k < 4; k++) {
                __m256i same = _mm256_cmpeq_epi8(t, _mm256_set1_epi8((char)(first + k)));
                found[k] = _mm256_sub_epi8(found[k], same);
            }
        }
        for (int k = 0; k < 4; k++) {
            int64_t part[4];
            __m256i sum = _mm256_sad_epu8(found[k], _mm256_setzero_si256());
            memcpy(part, &sum, sizeof part);
            four[k] += part[0] + part[1] + part[2] + part[3];
        }
    }
}

TARGET_AVX2 static void count_avx2(const uint8_t *tag, size_t n, int levels, int64_t *count)
{
    const size_t whole = n & ~(size_t)31;
    for (int k = 0; k < levels; k += 4) {
        int64_t four[4] = {0};
        count_four(tag, whole, k, four);
        for (int j = 0; j < 4 && k + j < levels; j++)
            count[k + j] += four[j];
    }
    count_base(tag + whole, n - whole, levels, count);
}

// Of the last tags none beyond n counts.
TARGET_AVX512 static void count_avx512(const uint8_t *tag, size_t n, int levels, int64_t *count)
{
    size_t whole = n & ~(size_t)63;
    const __mmask64 in = (UINT64_C(1) << (n - whole)) - 1;
    const __m512i last = _mm512_maskz_loadu_epi8(in, tag + whole);
    for (int k = 0; k < levels; k++) {
        const __m512i want = _mm512_set1_epi8((char)k);
        long long found = __builtin_popcountll(_mm512_mask_cmpeq_epi8_mask(in, last, want));
        for (size_t i = 0; i < whole; i += 64)
            found +=
                __builtin_popcountll(_mm512_cmpeq_epi8_mask(_mm512_loadu_si512(tag + i), want));
        count[k] += found;
    }
}
#endif

void alloc_count(const uint8_t *tag, size_t n, int levels, int64_t *count)
{
    SIMD_PICK(count, (tag, n, levels, count));
}

static size_t merge_base(uint8_t *tag, size_t n, const uint8_t *kept)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t on = tag[i] != 0;
        tag[i] = (uint8_t)((kept[used] + 1) * on);
        used += on;
    }
    return used;
}

#if SIMD_X86
// Eight tags a word: the bytes of kept deposited where tags are 1.
TARGET_AVX2 static size_t merge_avx2(uint8_t *tag, size_t n, const uint8_t *kept)
{
    size_t i = 0, used = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t ones, next;
        memcpy(&ones, tag + i, 8);
        memcpy(&next, kept + used, 8);
        next = _pdep_u64(next, ones * 0xff) + ones;
        memcpy(tag + i, &next, 8);
        used += (unsigned)__builtin_popcountll(ones);
    }
    return used + merge_base(tag + i, n - i, kept + used);
}
#define merge_avx512 merge_avx2
#endif

size_t alloc_merge(uint8_t *tag, size_t n, const uint8_t *kept)
{
    return SIMD_PICK(merge, (tag, n, kept));
}

// Values of one tag.

static size_t gather_base(const float *x, const uint8_t *tag, size_t n, uint8_t want, float *out)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        out[found] = x[i];
        found += tag[i] == want;
    }
    return found;
}

static size_t keep_base(const float *x, const uint8_t *tag, size_t n, float *v, uint8_t *kept)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        v[found] = x[i];
        kept[found] = tag[i];
        found += tag[i] != 0;
    }
    return found;
}

static size_t scatter_base(const float *v, const uint8_t *tag, size_t n, uint8_t want,
                           struct quant_sink to)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++)
        if (tag[i] == want) {
            to.to[i] = to.add ? to.to[i] + to.weight * v[used] : v[used];
            used++;
        }
    return used;
}

#if SIMD_X86
// 64 at a time, for of rare tags there are mostly none.
TARGET_AVX512 static size_t gather_avx512(const float *x, const uint8_t *tag, size_t n,
                                          uint8_t want, float *out)
{
    const __m512i w = _mm512_set1_epi8((char)want);
    size_t i = 0, found = 0;
    for (; i + 64 <= n; i += 64) {
        const __mmask64 all = _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(tag + i), w);
        if (!all)
            continue;
        for (int h = 0; h < 4; h++) {
            const __mmask16 m = (__mmask16)(all >> 16 * h);
            __m512 v = _mm512_maskz_compress_ps(m, _mm512_loadu_ps(x + i + 16 * h));
            _mm512_storeu_ps(out + found, v);
            found += (unsigned)__builtin_popcount(m);
        }
    }
    return found + gather_base(x + i, tag + i, n - i, want, out + found);
}

TARGET_AVX512 static size_t keep_avx512(const float *x, const uint8_t *tag, size_t n, float *v,
                                        uint8_t *kept)
{
    size_t i = 0, found = 0;
    for (; i + 16 <= n; i += 16) {
        __m128i t = _mm_loadu_si128((const __m128i *)(const void *)(tag + i));
        __mmask16 m = _mm_test_epi8_mask(t, t);
        _mm_prefetch((const char *)(x + i + AHEAD), _MM_HINT_T0);
        __m512i close = _mm512_maskz_compress_epi32(m, _mm512_cvtepu8_epi32(t));
        _mm512_storeu_ps(v + found, _mm512_maskz_compress_ps(m, _mm512_loadu_ps(x + i)));
        _mm_storeu_si128((__m128i *)(void *)(kept + found), _mm512_cvtepi32_epi8(close));
        found += (unsigned)__builtin_popcount(m);
    }
    return found + keep_base(x + i, tag + i, n - i, v + found, kept + found);
}

TARGET_AVX512 static size_t scatter_avx512(const float *v, const uint8_t *tag, size_t n,
                                           uint8_t want, struct quant_sink to)
{
    const __m128i w = _mm_set1_epi8((char)want);
    const __m512 weight = _mm512_set1_ps(to.weight);
    size_t i = 0, used = 0;
    for (; i + 16 <= n; i += 16) {
        __m128i t = _mm_loadu_si128((const __m128i *)(const void *)(tag + i));
        __mmask16 m = _mm_cmpeq_epi8_mask(t, w);
        if (!m)
            continue;
        __m512 part = _mm512_maskz_expandloadu_ps(m, v + used);
        used += (unsigned)__builtin_popcount(m);
        if (to.add)
            part = _mm512_add_ps(_mm512_maskz_loadu_ps(m, to.to + i), _mm512_mul_ps(weight, part));
        _mm512_mask_storeu_ps(to.to + i, m, part);
    }
    return used + scatter_base(v + used, tag + i, n - i, want, quant_sink_at(to, i));
}

// Moves the values of a mask together, and returns how many. Without branches, which would be taken
// at random; writes up to 8 values beyond.
TARGET_AVX2 static inline __attribute__((always_inline)) size_t close_32(const float *x, unsigned m,
                                                                         float *out)
{
    size_t found = 0;
    for (int k = 0; k < 4; k++, m >>= 8) {
        __m256i part = _mm256_loadu_si256((const __m256i *)(const void *)(x + 8 * k));
        __m256i *to = (__m256i *)(void *)(out + found);
        _mm256_storeu_si256(to, lanes_close(part, m & 0xff));
        found += (unsigned)__builtin_popcount(m & 0xff);
    }
    return found;
}

TARGET_AVX2 static size_t gather_avx2(const float *x, const uint8_t *tag, size_t n, uint8_t want,
                                      float *out)
{
    const __m256i w = _mm256_set1_epi8((char)want);
    size_t i = 0, found = 0;
    for (; i + 32 <= n; i += 32)
        found += close_32(x + i, tags_equal(tag + i, w), out + found);
    return found + gather_base(x + i, tag + i, n - i, want, out + found);
}

TARGET_AVX2 static size_t keep_avx2(const float *x, const uint8_t *tag, size_t n, float *v,
                                    uint8_t *kept)
{
    const __m256i none = _mm256_setzero_si256();
    size_t i = 0, found = 0;
    for (; i + 32 <= n; i += 32) {
        const unsigned m = ~tags_equal(tag + i, none);
        uint8_t *to = kept + found;
        __builtin_prefetch(x + i + AHEAD);
        __builtin_prefetch(x + i + AHEAD + 16);
        for (int k = 0; k < 4; k++) {
            uint64_t eight;
            memcpy(&eight, tag + i + 8 * k, 8);
            eight = _pext_u64(eight, _pdep_u64(m >> 8 * k, 0x0101010101010101u) * 0xff);
            memcpy(to, &eight, 8);
            to += __builtin_popcount(m >> 8 * k & 0xff);
        }
        found += close_32(x + i, m, v + found);
    }
    return found + keep_base(x + i, tag + i, n - i, v + found, kept + found);
}

// A blend and a whole store: masked stores are slow on some machines, and all eight lanes are ours.
TARGET_AVX2 static size_t scatter_avx2(const float *v, const uint8_t *tag, size_t n, uint8_t want,
                                       struct quant_sink to)
{
    const __m256i w = _mm256_set1_epi8((char)want);
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256 weight = _mm256_set1_ps(to.weight);
    size_t i = 0, used = 0;
    for (; i + 32 <= n; i += 32) {
        float *here = to.to + i;
        for (unsigned m = tags_equal(tag + i, w); m; m >>= 8, here += 8) {
            __m256i lane = _mm256_and_si256(_mm256_set1_epi32((int)m), bit);
            __m256i from = _mm256_loadu_si256((const __m256i *)(const void *)(v + used));
            __m256 part = _mm256_castsi256_ps(lanes_spread(from, m & 0xff));
            __m256 old = _mm256_loadu_ps(here);
            used += (unsigned)__builtin_popcount(m & 0xff);
            if (to.add)
                part = _mm256_add_ps(old, _mm256_mul_ps(weight, part));
            lane = _mm256_cmpeq_epi32(lane, bit);
            _mm256_storeu_ps(here, _mm256_blendv_ps(old, part, _mm256_castsi256_ps(lane)));
        }
    }
    return used + scatter_base(v + used, tag + i, n - i, want, quant_sink_at(to, i));
}
#endif

size_t alloc_gather(const float *x, const uint8_t *tag, size_t n, uint8_t want, float *out)
{
    return SIMD_PICK(gather, (x, tag, n, want, out));
}

size_t alloc_keep(const float *x, const uint8_t *tag, size_t n, float *v, uint8_t *kept)
{
    return SIMD_PICK(keep, (x, tag, n, v, kept));
}

size_t alloc_scatter(const float *v, const uint8_t *tag, size_t n, uint8_t want,
                     struct quant_sink to)
{
    return SIMD_PICK(scatter, (v, tag, n, want, to));
}

// Branches would be taken at random: what is not kept is written over.
size_t alloc_positions(const uint8_t *tag, size_t n, uint32_t base, uint32_t *at)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        at[found] = base + (uint32_t)i;
        found += tag[i] != 0;
    }
    return found;
}

size_t alloc_kept(const uint8_t *tag, size_t n, uint8_t *kept)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        kept[found] = (uint8_t)(tag[i] - 1);
        found += tag[i] != 0;
    }
    return found;
}

void alloc_bins(const float *v, size_t n, float inv, int bins, uint32_t *bin)
{
    const float last = (float)(bins - 1);
    for (size_t i = 0; i < n; i++) {
        float at = magnitude(v[i]) * inv;
        bin[at < last ? (int)at : bins - 1]++;
    }
}

#endif
