// Kernels of bit allocation: importance of coordinates, the lower convex hull of their
// rate-distortion points, tags.
#ifdef SIMD_LANES // read for each instruction set

// Importance. Nothing here is NaN: factors are finite, and 0 is multiplied by |x| before |x| could
// overflow.

SIMD_KERNEL void SIMD_NAME(alloc_magnitude)(const float *x, size_t n, float *u)
{
    for (size_t i = 0; i < n; i++)
        u[i] = x[i] * x[i];
}

// Negative sensitivities, which no estimator gives, count as 0.
SIMD_KERNEL void SIMD_NAME(alloc_fisher)(const float *x, const float *sens, size_t n, float mul,
                                         int gamma16, float *u)
{
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        size_t m = n - begin < BLOCK ? n - begin : BLOCK;
        float f[BLOCK], p[BLOCK];
        for (size_t i = 0; i < m; i++) {
            float v = sens[begin + i] * mul;
            f[i] = v > 0 ? v : 0;
            p[i] = gamma16 == 16 ? f[i] : 1;
        }
        // f^(1/2), f^(1/4), ... by the binary digits of gamma
        for (int bit = 8; gamma16 & (2 * bit - 1) & 15; bit /= 2) {
            for (size_t i = 0; i < m; i++)
                f[i] = __builtin_sqrtf(f[i]);
            for (size_t i = 0; i < m && (gamma16 & bit); i++)
                p[i] *= f[i];
        }
        for (size_t i = 0; i < m; i++) {
            float a = magnitude(x[begin + i]);
            u[begin + i] = p[i] * a * a;
        }
    }
}

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

// tag = how many of the ascending cuts the bits of u reach; true when some u equals a cut.
SIMD_KERNEL bool SIMD_NAME(alloc_tags)(const float *u, size_t n, const uint32_t *cut, int cuts,
                                       uint8_t *tag)
{
    int equal = 0;
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        size_t m = n - begin < BLOCK ? n - begin : BLOCK;
        uint8_t t[BLOCK] = {0};
        for (int k = 0; k < cuts; k++) {
            uint8_t same = 0;
            for (size_t i = 0; i < m; i++) {
                uint32_t bits = f32_bits(u[begin + i]);
                t[i] = (uint8_t)(t[i] + (bits >= cut[k]));
                same |= bits == cut[k];
            }
            equal |= same;
        }
        memcpy(tag + begin, t, m);
    }
    return equal;
}

// Takes every step whose key (upper bits of the slope) is above the cut; true when a key equals it.
// Masks of bytes: a loop that mixes words and bytes is not made into vectors.
SIMD_KERNEL bool SIMD_NAME(alloc_take)(const struct alloc_step *step, int steps, size_t n,
                                       uint32_t cut, uint8_t *tag)
{
    uint8_t t[BLOCK] = {0}, above[BLOCK];
    int32_t equal = 0, at = (int32_t)cut;
    for (int s = 0; s < steps; s++) {
        for (size_t i = 0; i < n; i++) {
            int32_t key = (int32_t)(step[s].slope[i] >> ALLOC_KEY_SHIFT);
            above[i] = (uint8_t) - (key > at);
            equal |= key == at;
        }
        for (size_t i = 0; i < n; i++)
            t[i] = (uint8_t)((t[i] & ~above[i]) | (step[s].to[i] & above[i]));
    }
    memcpy(tag, t, n);
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

bool alloc_tags(const float *u, size_t n, const uint32_t *cut, int cuts, uint8_t *tag)
{
    return SIMD_PICK(alloc_tags, (u, n, cut, cuts, tag));
}

// Rate-distortion hull.

// The squared error of every level. Level 0 sends nothing.
SIMD_PART void level_errors(const float *x, size_t m, const struct alloc_levels *l,
                            float e[ALLOC_LEVELS][BLOCK])
{
    for (size_t i = 0; i < m; i++)
        e[0][i] = x[i] * x[i];
    for (int k = 1; k < l->count; k++) {
        float scale = l->scale[k], inv = l->inverse[k], q = l->q[k];
        if (l->kind[k] == ALLOC_FP16) {
            for (size_t i = 0; i < m; i++) {
                uint32_t u = f32_bits(x[i]);
                uint32_t normal = (u + 0xfffu + (u >> 13 & 1u)) & 0xffffe000u;
                // Halves below 2^-14 are multiples of 2^-24. Chosen by a mask: no vectors
                // otherwise.
                uint32_t tiny = f32_bits((x[i] + 0.75f) - 0.75f);
                uint32_t small = 0u - ((int32_t)(u & 0x7fffffffu) < 0x38800000);
                float d = x[i] - f32_from_bits((tiny & small) | (normal & ~small));
                e[k][i] = d * d;
            }
        } else if (l->kind[k] == ALLOC_SIGN) {
            for (size_t i = 0; i < m; i++) {
                float d = magnitude(x[i]) - scale;
                e[k][i] = d * d;
            }
        } else {
            for (size_t i = 0; i < m; i++) {
                float v = magnitude(x[i]) * inv;
                v = (v < q ? v : q) + 8388608.0f; // to the nearest integer, ties to even
                float d = magnitude(x[i]) - (v - 8388608.0f) * scale;
                e[k][i] = d * d;
            }
        }
    }
}

// After s steps a coordinate is at level s or above. Arrays of our own, so that the compiler knows
// that none overlaps another.
SIMD_PART void hull_body(const float *x, const float *w, size_t n, const struct alloc_levels *l,
                         struct alloc_step *step)
{
    float e[ALLOC_LEVELS][BLOCK], weight[BLOCK], best[BLOCK];
    int32_t now[BLOCK], next[BLOCK];
    level_errors(x, n, l, e);
    memcpy(weight, w, n * sizeof *w);
    memset(next, 0, sizeof next);
    for (int s = 0; s + 1 < l->count; s++) {
        memcpy(now, next, sizeof now);
        memset(best, 0, sizeof best);
        const int last = s ? l->count - 2 : 0; // before the first step all are at level 0
        for (int c = s; c <= last; c++)
            for (int b = c + 1; b < l->count; b++) {
                const float inv = l->per_bit[c][b];
                for (size_t i = 0; i < n; i++) {
                    float slope = (e[c][i] - e[b][i]) * weight[i] * inv;
                    bool better = (now[i] == c) & (slope > best[i]);
                    best[i] = better ? slope : best[i];
                    next[i] = better ? b : next[i];
                }
            }
        memcpy(step[s].slope, best, n * sizeof *best);
        uint8_t to[BLOCK];
        for (size_t i = 0; i < n; i++)
            to[i] = (uint8_t)next[i];
        memcpy(step[s].to, to, n);
    }
}

static void alloc_hull_base(const float *x, const float *w, size_t n, const struct alloc_levels *l,
                            struct alloc_step *step)
{
    hull_body(x, w, n, l, step);
}

#if SIMD_X86
// Eight coordinates in registers; with a constant number of levels all loops unroll.
TARGET_AVX2 static inline __attribute__((always_inline)) void
hull_8(float e[ALLOC_LEVELS][BLOCK], const float *w, size_t n, const struct alloc_levels *l,
       const int levels, struct alloc_step *step)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i low_bytes = _mm256_set1_epi32(0x0c080400);
    for (size_t i = 0; i < n; i += 8) { // what lies behind n in e and step is nobody's
        __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n - i)), lane);
        __m256 weight = _mm256_maskload_ps(w + i, inside), error[ALLOC_LEVELS];
        __m256i now = _mm256_setzero_si256();
        for (int k = 0; k < levels; k++)
            error[k] = _mm256_load_ps(e[k] + i);
        for (int s = 0; s + 1 < levels; s++) {
            __m256 best = _mm256_setzero_ps();
            __m256i next = now;
            for (int c = s; c + 1 < (s ? levels : 2); c++) { // at first all are at level 0
                __m256i here = _mm256_cmpeq_epi32(now, _mm256_set1_epi32(c));
                for (int b = c + 1; b < levels; b++) {
                    __m256 fall = _mm256_mul_ps(_mm256_sub_ps(error[c], error[b]), weight);
                    __m256 slope = _mm256_mul_ps(fall, _mm256_set1_ps(l->per_bit[c][b]));
                    __m256 better = _mm256_cmp_ps(slope, best, _CMP_GT_OQ);
                    better = _mm256_and_ps(better, _mm256_castsi256_ps(here));
                    best = _mm256_blendv_ps(best, slope, better);
                    next =
                        _mm256_blendv_epi8(next, _mm256_set1_epi32(b), _mm256_castps_si256(better));
                }
            }
            _mm256_storeu_ps((float *)step[s].slope + i, best);
            __m256i to = _mm256_shuffle_epi8(next, low_bytes);
            uint32_t half[2] = {(uint32_t)_mm256_extract_epi32(to, 0),
                                (uint32_t)_mm256_extract_epi32(to, 4)};
            memcpy(step[s].to + i, half, sizeof half);
            now = next;
        }
    }
}

TARGET_AVX2 static void alloc_hull_avx2(const float *x, const float *w, size_t n,
                                        const struct alloc_levels *l, struct alloc_step *step)
{
    _Alignas(32) float e[ALLOC_LEVELS][BLOCK];
    level_errors(x, n, l, e);
    if (l->count == 4)
        hull_8(e, w, n, l, 4, step);
    else
        hull_8(e, w, n, l, l->count, step);
}

// The lanes of up to sixteen coordinates.
static inline __mmask16 lanes_of(size_t left)
{
    return (__mmask16)(left < 16 ? (1u << left) - 1 : 0xffffu);
}

// Sixteen coordinates in registers; with a constant number of levels all loops unroll.
TARGET_AVX512 static inline __attribute__((always_inline)) void
hull_16(float e[ALLOC_LEVELS][BLOCK], const float *w, size_t n, const struct alloc_levels *l,
        const int levels, struct alloc_step *step)
{
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 inside = lanes_of(n - i);
        __m512 weight = _mm512_maskz_loadu_ps(inside, w + i), error[ALLOC_LEVELS];
        __m512i now = _mm512_setzero_si512();
        for (int k = 0; k < levels; k++)
            error[k] = _mm512_maskz_loadu_ps(inside, e[k] + i);
        for (int s = 0; s + 1 < levels; s++) {
            __m512 best = _mm512_setzero_ps();
            __m512i next = now;
            for (int c = s; c + 1 < levels; c++) {
                __mmask16 here = _mm512_cmpeq_epi32_mask(now, _mm512_set1_epi32(c));
                for (int b = c + 1; b < levels; b++) {
                    __m512 fall = _mm512_mul_ps(_mm512_sub_ps(error[c], error[b]), weight);
                    __m512 slope = _mm512_mul_ps(fall, _mm512_set1_ps(l->per_bit[c][b]));
                    __mmask16 better = _mm512_mask_cmp_ps_mask(here, slope, best, _CMP_GT_OQ);
                    best = _mm512_mask_mov_ps(best, better, slope);
                    next = _mm512_mask_mov_epi32(next, better, _mm512_set1_epi32(b));
                }
            }
            _mm512_mask_storeu_ps(step[s].slope + i, inside, best);
            _mm_mask_storeu_epi8(step[s].to + i, inside, _mm512_cvtepi32_epi8(next));
            now = next;
        }
    }
}

TARGET_AVX512 static void alloc_hull_avx512(const float *x, const float *w, size_t n,
                                            const struct alloc_levels *l, struct alloc_step *step)
{
    float e[ALLOC_LEVELS][BLOCK];
    level_errors(x, n, l, e);
    if (l->count == 4)
        hull_16(e, w, n, l, 4, step);
    else
        hull_16(e, w, n, l, l->count, step);
}
#endif

void alloc_hull(const float *x, const float *w, size_t n, const struct alloc_levels *l,
                struct alloc_step *step)
{
    SIMD_PICK(alloc_hull, (x, w, n, l, step));
}

bool alloc_take(const struct alloc_step *step, int steps, size_t n, uint32_t cut, uint8_t *tag)
{
    return SIMD_PICK(alloc_take, (step, steps, n, cut, tag));
}

// Tags.

void alloc_bitmap(const uint8_t *tag, size_t n, uint8_t *bits)
{
    SIMD_PICK(alloc_bitmap, (tag, n, bits));
}

static size_t range_base(const struct alloc_step *step, int steps, size_t n, uint32_t low,
                         uint32_t high, uint16_t *hit)
{
    size_t found = 0;
    for (int s = 0; s < steps; s++)
        for (size_t i = 0; i < n; i++) {
            hit[found] = (uint16_t)((size_t)s * BLOCK + i);
            found += (step[s].slope[i] >> ALLOC_KEY_SHIFT) - low <= high - low;
        }
    return found;
}

#if SIMD_X86
TARGET_AVX512 static size_t range_avx512(const struct alloc_step *step, int steps, size_t n,
                                         uint32_t low, uint32_t high, uint16_t *hit)
{
    const __m512i from = _mm512_set1_epi32((int)low), span = _mm512_set1_epi32((int)(high - low));
    size_t found = 0;
    for (int s = 0; s < steps; s++)
        for (size_t i = 0; i < n; i += 16) {
            const __mmask16 inside = lanes_of(n - i);
            __m512i key = _mm512_srli_epi32(_mm512_maskz_loadu_epi32(inside, step[s].slope + i),
                                            ALLOC_KEY_SHIFT);
            unsigned m = _mm512_mask_cmple_epu32_mask(inside, _mm512_sub_epi32(key, from), span);
            for (; m; m &= m - 1)
                hit[found++] = (uint16_t)((size_t)s * BLOCK + i + (unsigned)__builtin_ctz(m));
        }
    return found;
}

TARGET_AVX2 static size_t range_avx2(const struct alloc_step *step, int steps, size_t n,
                                     uint32_t low, uint32_t high, uint16_t *hit)
{
    const __m256i from = _mm256_set1_epi32((int)low), span = _mm256_set1_epi32((int)(high - low));
    size_t found = 0, whole = n & ~(size_t)7;
    for (int s = 0; s < steps; s++) {
        const uint32_t *slope = step[s].slope;
        for (size_t i = 0; i < whole; i += 8) {
            __m256i key = _mm256_loadu_si256((const __m256i *)(const void *)(slope + i));
            key = _mm256_sub_epi32(_mm256_srli_epi32(key, ALLOC_KEY_SHIFT), from);
            __m256i in = _mm256_cmpeq_epi32(_mm256_min_epu32(key, span), key);
            unsigned m = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(in));
            for (; m; m &= m - 1)
                hit[found++] = (uint16_t)((size_t)s * BLOCK + i + (unsigned)__builtin_ctz(m));
        }
        for (size_t i = whole; i < n; i++) {
            hit[found] = (uint16_t)((size_t)s * BLOCK + i);
            found += (slope[i] >> ALLOC_KEY_SHIFT) - low <= high - low;
        }
    }
    return found;
}
#endif

size_t alloc_range(const struct alloc_step *step, int steps, size_t n, uint32_t low, uint32_t high,
                   uint16_t *hit)
{
    return SIMD_PICK(range, (step, steps, n, low, high, hit));
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
TARGET_AVX2 static void count_avx2(const uint8_t *tag, size_t n, int levels, int64_t *count)
{
    size_t whole = n & ~(size_t)31;
    for (int k = 0; k < levels; k++) {
        const __m256i want = _mm256_set1_epi8((char)k);
        uint32_t found = 0;
        for (size_t i = 0; i < whole; i += 32)
            found += (unsigned)__builtin_popcount(tags_equal(tag + i, want));
        count[k] += found;
    }
    count_base(tag + whole, n - whole, levels, count);
}
#define count_avx512 count_avx2
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

// Those from one on, when so many were found before it.
static size_t marked_rest(const uint8_t *tag, size_t from, size_t n, size_t found, uint8_t *to,
                          uint16_t *which)
{
    for (size_t i = from; i < n; i++) {
        which[found] = (uint16_t)i;
        found += (tag[i] & ALLOC_MARK) != 0;
        to[i] = tag[i] & (uint8_t)~ALLOC_MARK;
    }
    return found;
}

static size_t marked_base(const uint8_t *tag, size_t n, uint8_t *to, uint16_t *which)
{
    return marked_rest(tag, 0, n, 0, to, which);
}

#if SIMD_X86
TARGET_AVX2 static size_t marked_avx2(const uint8_t *tag, size_t n, uint8_t *to, uint16_t *which)
{
    const __m256i low = _mm256_set1_epi8((char)~ALLOC_MARK);
    size_t found = 0, i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i t = _mm256_loadu_si256((const __m256i *)(const void *)(tag + i));
        _mm256_storeu_si256((__m256i *)(void *)(to + i), _mm256_and_si256(t, low));
        for (unsigned m = (unsigned)_mm256_movemask_epi8(t); m; m &= m - 1)
            which[found++] = (uint16_t)(i + (unsigned)__builtin_ctz(m));
    }
    return marked_rest(tag, i, n, found, to, which);
}
#define marked_avx512 marked_avx2
#endif

size_t alloc_marked(const uint8_t *tag, size_t n, uint8_t *to, uint16_t *which)
{
    return SIMD_PICK(marked, (tag, n, to, which));
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
TARGET_AVX512 static size_t gather_avx512(const float *x, const uint8_t *tag, size_t n,
                                          uint8_t want, float *out)
{
    const __m128i w = _mm_set1_epi8((char)want);
    size_t i = 0, found = 0;
    for (; i + 16 <= n; i += 16) {
        __m128i t = _mm_loadu_si128((const __m128i *)(const void *)(tag + i));
        __mmask16 m = _mm_cmpeq_epi8_mask(t, w);
        if (!m)
            continue;
        _mm512_storeu_ps(out + found, _mm512_maskz_compress_ps(m, _mm512_loadu_ps(x + i)));
        found += (unsigned)__builtin_popcount(m);
    }
    return found + gather_base(x + i, tag + i, n - i, want, out + found);
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

TARGET_AVX2 static size_t gather_avx2(const float *x, const uint8_t *tag, size_t n, uint8_t want,
                                      float *out)
{
    const __m256i w = _mm256_set1_epi8((char)want);
    size_t i = 0, found = 0;
    for (; i + 32 <= n; i += 32) {
        const float *here = x + i;
        for (unsigned m = tags_equal(tag + i, w); m; m >>= 8, here += 8) {
            __m256i part = _mm256_loadu_si256((const __m256i *)(const void *)here);
            __m256i *to = (__m256i *)(void *)(out + found);
            _mm256_storeu_si256(to, lanes_close(part, m & 0xff));
            found += (unsigned)__builtin_popcount(m & 0xff);
        }
    }
    return found + gather_base(x + i, tag + i, n - i, want, out + found);
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

size_t alloc_scatter(const float *v, const uint8_t *tag, size_t n, uint8_t want,
                     struct quant_sink to)
{
    return SIMD_PICK(scatter, (v, tag, n, want, to));
}

#endif
