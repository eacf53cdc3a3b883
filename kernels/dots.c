// Rows times a weight that is held as blocks, in whole numbers (KERNEL_MATH_INT8): a row of A is
// rounded to int8 by blocks of 32 with a scale each, as llama.cpp does it, and a block's products
// are summed exactly. With x = s q of A and w = d v + m of W a block adds
//
//   d s sum(q v) + m s sum(q)
//
// in this order of operations, block after block: the same bits with every instruction set, and a
// row of C depends on its row of A alone. Where groups of 16 have a d and an m each, the sums are
// over halves of a block, first those with d, then those with m.
#ifdef SIMD_LANES // read for each instruction set

// One row of k values. A scale is not finite where a value is not.
SIMD_KERNEL void SIMD_NAME(round_row)(const float *x, int32_t blocks, const struct rounded *to)
{
    for (int32_t b = 0; b < blocks; b++, x += 32) {
        uint32_t most = 0;
        for (int i = 0; i < 32; i++) {
            uint32_t bits = f32_bits(x[i]) & 0x7fffffff; // order as the magnitudes do, NaN on top
            most = bits > most ? bits : most;
        }
        float top = f32_from_bits(most), inverse = top > 1e-30f ? 127.0f / top : 0.0f;
        for (int half = 0; half < 2; half++) {
            int32_t sum = 0;
            for (int i = 16 * half; i < 16 * half + 16; i++) {
                // Adding 1.5 * 2^23 leaves the nearest whole number, ties to even, in the low bits.
                int32_t q = (int32_t)f32_bits(x[i] * inverse + 12582912.0f) - 0x4b400000;
                to->q[32 * b + i] = (int8_t)q;
                sum += (int8_t)q;
            }
            to->sum[2 * b + half] = sum;
        }
        to->scale[b] = top * (1.0f / 127);
        to->offset[b] = to->scale[b] * (float)(to->sum[2 * b] + to->sum[2 * b + 1]);
    }
}

#else

#include "base/half.h"
#include "gemm.h"
#include "simd.h"
#include "whole.h"
#include "words.h"

#include <assert.h>
#include <string.h>

// CHUNK blocks of COLUMNS rows of W are turned at a time and stay in L1 while all rows of A pass.
enum { COLUMNS = 16, CHUNK = 8, ROUNDED_BYTES = 32 + 4 * 4 };

// Rows of A: whole numbers, and by block their scale, the sums of its halves, and the sum of all
// times the scale.
struct rounded {
    int8_t *q;
    float *scale, *offset;
    int32_t *sum;
};

// One block of each of 16 rows of W: byte 4 r + i of w[j] is value 4 j + i of row r, more by 128
// where bytes have a sign and VNNI multiplies them; then d and m, of halves or the first alone.
struct turned {
    uint8_t w[8][4 * COLUMNS];
    float d[2][COLUMNS], m[2][COLUMNS];
};

// A chunk of W and some rows of A on their way into C.
struct chunk {
    const struct turned *w;
    int32_t blocks, rows;
    const int8_t *q; // each row behind the last
    const float *scale, *offset;
    const int32_t *sum;
    ptrdiff_t ldq, ld; // from row to row, of q and of the others
    const struct whole_row *type;
    float *c;
    ptrdiff_t ldc;
};

#define SIMD_FILE "dots.c"
#include "simd_each.h"

static inline uint32_t word_at(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return f16_to_f32(h);
}

// d and m where a block has one of them, see whole.h.
static void scales_base(const struct whole_row *type, const uint8_t *x, size_t stride,
                        struct turned *t)
{
    for (int r = 0; r < COLUMNS; r++, x += stride) {
        t->d[0][r] = half_at(x) * type->by;
        t->m[0][r] = type->m_of_d < 0 ? t->d[0][r] * type->m_of_d : half_at(x + 2);
    }
}

static void turn_base(const struct whole_row *row, const uint8_t *x, size_t stride,
                      struct turned *t)
{
    const int type = row->id;
    scales_base(row, x, stride, t);
    x += type == BLOCK_Q4_1 ? 4 : 2;
    for (int r = 0; r < COLUMNS; r++, x += stride)
        for (int j = 0; j < 8; j++) {
            uint32_t v = word_at(x + 4 * (type == BLOCK_Q8_0 ? j : j % 4));
            v = type == BLOCK_Q8_0 ? v : v >> (j < 4 ? 0 : 4) & 0x0f0f0f0f;
            memcpy(t->w[j] + 4 * r, &v, sizeof v);
        }
}

// Bytes of a block of 16 rows, a row every `stride`: turned, and codes are looked up.
static void weave_base(const struct whole_row *type, const uint8_t *x, size_t stride,
                       struct turned *t)
{
    for (int r = 0; r < COLUMNS; r++, x += stride)
        for (int k = 0; k < 32; k++)
            t->w[k / 4][4 * r + k % 4] = type->level ? (uint8_t)type->level[x[k]] : x[k];
}

static void product_base(const struct chunk *g)
{
    for (int32_t i = 0; i < g->rows; i++)
        for (int32_t b = 0; b < g->blocks; b++) {
            const struct turned *t = &g->w[b];
            const int8_t *q = g->q + i * g->ldq + 32 * b;
            const int32_t *all = g->sum + 2 * (i * g->ld + b);
            const float scale = g->scale[i * g->ld + b], offset = g->offset[i * g->ld + b];
            for (int r = 0; r < COLUMNS; r++) {
                int32_t sum[2] = {0, 0};
                for (int k = 0; k < 32; k++)
                    sum[k / 16] += q[k] * (int8_t)t->w[k / 4][4 * r + k % 4];
                float *c = &g->c[i * g->ldc + r];
                for (int h = 0; h < 2 && g->type->halves; h++)
                    *c = *c + (float)sum[h] * (t->d[h][r] * scale);
                for (int h = 0; h < 2 && g->type->halves && g->type->has_m; h++)
                    *c = *c + t->m[h][r] * (scale * (float)all[h]);
                if (g->type->halves)
                    continue;
                *c = *c + (float)(sum[0] + sum[1]) * (t->d[0][r] * scale);
                *c = g->type->has_m ? *c + t->m[0][r] * offset : *c;
            }
        }
}

#if SIMD_X86

TARGET_AVX2 static inline __attribute__((always_inline)) void
scales_avx2(const struct whole_row *type, const uint8_t *x, size_t stride, struct turned *t)
{
    for (int r = 0; r < COLUMNS; r += 8, x += 8 * stride) {
        const __m256i both =
            _mm256_setr_epi32((int)word_at(x), (int)word_at(x + stride),
                              (int)word_at(x + 2 * stride), (int)word_at(x + 3 * stride),
                              (int)word_at(x + 4 * stride), (int)word_at(x + 5 * stride),
                              (int)word_at(x + 6 * stride), (int)word_at(x + 7 * stride));
        const __m256i low = _mm256_and_si256(both, _mm256_set1_epi32(0xffff));
        const __m256i high = _mm256_srli_epi32(both, 16);
        const __m256 d =
            _mm256_mul_ps(_mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low),
                                                           _mm256_extracti128_si256(low, 1))),
                          _mm256_set1_ps(type->by));
        _mm256_storeu_ps(t->d[0] + r, d);
        if (!type->has_m)
            continue;
        const __m256 m = _mm256_cvtph_ps(
            _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
        _mm256_storeu_ps(t->m[0] + r,
                         type->m_of_d < 0 ? _mm256_mul_ps(d, _mm256_set1_ps(type->m_of_d)) : m);
    }
}

TARGET_AVX2 static void turn_avx2(const struct whole_row *row, const uint8_t *x, size_t stride,
                                  struct turned *t)
{
    const int type = row->id;
    const __m256i low = _mm256_set1_epi8(15);
    scales_avx2(row, x, stride, t);
    x += type == BLOCK_Q4_1 ? 4 : 2;
    for (int half = 0; half < 2; half++, x += 8 * stride)
        for (int piece = 0; piece < (type == BLOCK_Q8_0 ? 2 : 1); piece++) {
            __m256i r[4];
            words_turn_avx2(x + 16 * piece, stride, r);
            for (int j = 0; j < 4; j++) {
                __m256i *to = (__m256i *)(void *)(t->w[4 * piece + j] + 32 * half);
                __m256i *high = (__m256i *)(void *)(t->w[4 + j] + 32 * half);
                if (type == BLOCK_Q8_0) {
                    _mm256_storeu_si256(to, r[j]);
                    continue;
                }
                _mm256_storeu_si256(to, _mm256_and_si256(r[j], low));
                _mm256_storeu_si256(high, _mm256_and_si256(_mm256_srli_epi16(r[j], 4), low));
            }
        }
}

// Of signed bytes the magnitudes, at most 128, are multiplied and the signs given to A: no pair of
// products, at most 2 * 128 * 127, leaves 16 bits.
TARGET_AVX2 static inline __attribute__((always_inline)) __m256i
dot_avx2(const bool wide, __m256i sum, __m256i w, __m256i x)
{
    if (wide) {
        x = _mm256_sign_epi8(x, w);
        w = _mm256_abs_epi8(w);
    }
    __m256i pairs = _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

TARGET_AVX2 static void weave_avx2(const struct whole_row *type, const uint8_t *x, size_t stride,
                                   struct turned *t)
{
    const __m256i level =
        type->level
            ? _mm256_broadcastsi128_si256(words_at((const uint8_t *)(const void *)type->level))
            : _mm256_setzero_si256();
    for (int half = 0; half < 2; half++, x += 8 * stride)
        for (int piece = 0; piece < 2; piece++) {
            __m256i r[4];
            words_turn_avx2(x + 16 * piece, stride, r);
            for (int j = 0; j < 4; j++)
                _mm256_storeu_si256((__m256i *)(void *)(t->w[4 * piece + j] + 32 * half),
                                    type->level ? _mm256_shuffle_epi8(level, r[j]) : r[j]);
        }
}

// 32 bytes of 16 rows become two blocks, of low and of high nibbles.
TARGET_AVX2 static void nibbles_avx2(const struct whole_row *type, const uint8_t *x, size_t stride,
                                     struct turned *t)
{
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i level =
        type->level
            ? _mm256_broadcastsi128_si256(words_at((const uint8_t *)(const void *)type->level))
            : _mm256_setr_epi64x(0x0706050403020100, 0x0f0e0d0c0b0a0908, 0x0706050403020100,
                                 0x0f0e0d0c0b0a0908);
    for (int half = 0; half < 2; half++, x += 8 * stride)
        for (int piece = 0; piece < 2; piece++) {
            __m256i r[4];
            words_turn_avx2(x + 16 * piece, stride, r);
            for (int j = 0; j < 4; j++) {
                __m256i code[2] = {_mm256_and_si256(r[j], low),
                                   _mm256_and_si256(_mm256_srli_epi16(r[j], 4), low)};
                for (int k = 0; k < 2; k++)
                    _mm256_storeu_si256((__m256i *)(void *)(t[k].w[4 * piece + j] + 32 * half),
                                        _mm256_shuffle_epi8(level, code[k]));
            }
        }
}

// c += whole d by
TARGET_AVX2 static inline __attribute__((always_inline)) __m256 add_avx2(__m256 c, __m256i whole,
                                                                         const float *d, __m256 by)
{
    return _mm256_add_ps(
        c, _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_mul_ps(_mm256_loadu_ps(d), by)));
}

TARGET_AVX2 static inline __attribute__((always_inline)) void
rows_avx2(const bool wide, const bool halves, const int rows, const struct chunk *g, int32_t i0,
          int half)
{
    __m256 c[2];
    float *to = g->c + i0 * g->ldc + 8 * half;
    for (int i = 0; i < rows; i++)
        c[i] = _mm256_loadu_ps(to + i * g->ldc);
    for (int32_t b = 0; b < g->blocks; b++) {
        const struct turned *t = &g->w[b];
        for (int i = 0; i < rows; i++) {
            const int8_t *q = g->q + (i0 + i) * g->ldq + 32 * b;
            const ptrdiff_t at = (i0 + i) * g->ld + b;
            __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            for (int j = 0; j < 8; j++) {
                __m256i w =
                    _mm256_loadu_si256((const __m256i *)(const void *)(t->w[j] + 32 * half));
                const int s = halves ? j / 4 : j % 2;
                sum[s] = dot_avx2(wide, sum[s], w, _mm256_set1_epi32((int)word_at(q + 4 * j)));
            }
            const __m256 by = _mm256_set1_ps(g->scale[at]);
            if (!halves) {
                c[i] = add_avx2(c[i], _mm256_add_epi32(sum[0], sum[1]), t->d[0] + 8 * half, by);
                if (g->type->has_m)
                    c[i] = _mm256_add_ps(c[i], _mm256_mul_ps(_mm256_loadu_ps(t->m[0] + 8 * half),
                                                             _mm256_set1_ps(g->offset[at])));
                continue;
            }
            for (int h = 0; h < 2; h++)
                c[i] = add_avx2(c[i], sum[h], t->d[h] + 8 * half, by);
            for (int h = 0; h < 2 && g->type->has_m; h++)
                c[i] = _mm256_add_ps(
                    c[i], _mm256_mul_ps(_mm256_loadu_ps(t->m[h] + 8 * half),
                                        _mm256_set1_ps(g->scale[at] * (float)g->sum[2 * at + h])));
        }
    }
    for (int i = 0; i < rows; i++)
        _mm256_storeu_ps(to + i * g->ldc, c[i]);
}

TARGET_AVX2 static inline __attribute__((always_inline)) void
all_rows_avx2(const bool wide, const bool halves, const struct chunk *g)
{
    for (int half = 0; half < 2; half++) {
        int32_t i = 0;
        for (; i + 2 <= g->rows; i += 2)
            rows_avx2(wide, halves, 2, g, i, half);
        if (i < g->rows)
            rows_avx2(wide, halves, 1, g, i, half);
    }
}

// A kind each by itself: together they have too few registers.
TARGET_AVX2 static __attribute__((noinline)) void product_wide_avx2(const struct chunk *g)
{
    all_rows_avx2(true, false, g);
}

TARGET_AVX2 static __attribute__((noinline)) void product_wide_halves_avx2(const struct chunk *g)
{
    all_rows_avx2(true, true, g);
}

TARGET_AVX2 static __attribute__((noinline)) void product_halves_avx2(const struct chunk *g)
{
    all_rows_avx2(false, true, g);
}

TARGET_AVX2 static __attribute__((noinline)) void product_plain_avx2(const struct chunk *g)
{
    all_rows_avx2(false, false, g);
}

TARGET_AVX2 static void product_avx2(const struct chunk *g)
{
    if (g->type->wide)
        (g->type->halves ? product_wide_halves_avx2 : product_wide_avx2)(g);
    else
        (g->type->halves ? product_halves_avx2 : product_plain_avx2)(g);
}

// Bytes of W without a sign times bytes of A with one, in fours: signed ones are given 128 more, of
// which A's sum frees the result.
TARGET_VNNI static inline __attribute__((always_inline)) void
scales_vnni(const struct whole_row *type, const uint8_t *x, size_t stride, struct turned *t)
{
    const __m512i row =
        _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                           _mm512_set1_epi32((int)stride));
    const __m512i both = _mm512_i32gather_epi32(row, x, 1);
    const __m512 d =
        _mm512_mul_ps(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(both)), _mm512_set1_ps(type->by));
    const __m512 m = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
    _mm512_storeu_ps(t->d[0], d);
    _mm512_storeu_ps(t->m[0],
                     type->m_of_d < 0 ? _mm512_mul_ps(d, _mm512_set1_ps(type->m_of_d)) : m);
}

TARGET_VNNI static void turn_vnni(const struct whole_row *row, const uint8_t *x, size_t stride,
                                  struct turned *t)
{
    const int type = row->id;
    const __m512i low = _mm512_set1_epi8(15), bias = _mm512_set1_epi8(-128);
    __m512i r[4];
    scales_vnni(row, x, stride, t);
    x += type == BLOCK_Q4_1 ? 4 : 2;
    words_turn_avx512(x, stride, r);
    for (int j = 0; j < 4; j++)
        _mm512_storeu_si512(t->w[j], type == BLOCK_Q8_0 ? _mm512_xor_si512(r[j], bias)
                                                        : _mm512_and_si512(r[j], low));
    if (type == BLOCK_Q8_0)
        words_turn_avx512(x + 16, stride, r);
    for (int j = 0; j < 4; j++)
        _mm512_storeu_si512(t->w[4 + j], type == BLOCK_Q8_0
                                             ? _mm512_xor_si512(r[j], bias)
                                             : _mm512_and_si512(_mm512_srli_epi16(r[j], 4), low));
}

TARGET_VNNI static void weave_vnni(const struct whole_row *type, const uint8_t *x, size_t stride,
                                   struct turned *t)
{
    const __m512i bias = _mm512_set1_epi8(type->wide ? -128 : 0);
    const __m512i level =
        type->level ? _mm512_broadcast_i32x4(words_at((const uint8_t *)(const void *)type->level))
                    : _mm512_setzero_si512();
    for (int piece = 0; piece < 2; piece++) {
        __m512i r[4];
        words_turn_avx512(x + 16 * piece, stride, r);
        for (int j = 0; j < 4; j++) {
            r[j] = type->level ? _mm512_shuffle_epi8(level, r[j]) : r[j];
            _mm512_storeu_si512(t->w[4 * piece + j], _mm512_xor_si512(r[j], bias));
        }
    }
}

// 32 bytes of 16 rows become two blocks, of low and of high nibbles.
TARGET_VNNI static void nibbles_vnni(const struct whole_row *type, const uint8_t *x, size_t stride,
                                     struct turned *t)
{
    const __m512i low = _mm512_set1_epi8(15), bias = _mm512_set1_epi8(type->wide ? -128 : 0);
    const __m512i own =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    const __m512i level =
        type->level ? _mm512_broadcast_i32x4(words_at((const uint8_t *)(const void *)type->level))
                    : own;
    for (int piece = 0; piece < 2; piece++) {
        __m512i r[4];
        words_turn_avx512(x + 16 * piece, stride, r);
        for (int j = 0; j < 4; j++) {
            __m512i code[2] = {_mm512_and_si512(r[j], low),
                               _mm512_and_si512(_mm512_srli_epi16(r[j], 4), low)};
            for (int k = 0; k < 2; k++)
                _mm512_storeu_si512(t[k].w[4 * piece + j],
                                    _mm512_xor_si512(_mm512_shuffle_epi8(level, code[k]), bias));
        }
    }
}

// c += whole d by
TARGET_VNNI static inline __attribute__((always_inline)) __m512 add_vnni(__m512 c, __m512i whole,
                                                                         const float *d, __m512 by)
{
    return _mm512_add_ps(
        c, _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_mul_ps(_mm512_loadu_ps(d), by)));
}

TARGET_VNNI static inline __attribute__((always_inline)) void
rows_vnni(const bool wide, const bool halves, const int rows, const struct chunk *g, int32_t i0)
{
    __m512 c[4];
    float *to = g->c + i0 * g->ldc;
    for (int i = 0; i < rows; i++)
        c[i] = _mm512_loadu_ps(to + i * g->ldc);
    for (int32_t b = 0; b < g->blocks; b++) {
        const struct turned *t = &g->w[b];
        for (int i = 0; i < rows; i++) {
            const int8_t *q = g->q + (i0 + i) * g->ldq + 32 * b;
            const ptrdiff_t at = (i0 + i) * g->ld + b;
            const int32_t *all = g->sum + 2 * at;
            const int32_t first = halves ? all[0] : all[0] + all[1], second = halves ? all[1] : 0;
            __m512i sum[2] = {_mm512_set1_epi32(wide ? -128 * first : 0),
                              _mm512_set1_epi32(wide ? -128 * second : 0)};
            for (int j = 0; j < 8; j++) {
                const int s = halves ? j / 4 : j % 2;
                sum[s] = _mm512_dpbusd_epi32(sum[s], _mm512_loadu_si512(t->w[j]),
                                             _mm512_set1_epi32((int)word_at(q + 4 * j)));
            }
            const __m512 by = _mm512_set1_ps(g->scale[at]);
            if (!halves) {
                c[i] = add_vnni(c[i], _mm512_add_epi32(sum[0], sum[1]), t->d[0], by);
                if (!wide && g->type->has_m)
                    c[i] = _mm512_add_ps(c[i], _mm512_mul_ps(_mm512_loadu_ps(t->m[0]),
                                                             _mm512_set1_ps(g->offset[at])));
                continue;
            }
            for (int h = 0; h < 2; h++)
                c[i] = add_vnni(c[i], sum[h], t->d[h], by);
            for (int h = 0; h < 2 && !wide && g->type->has_m; h++)
                c[i] = _mm512_add_ps(c[i],
                                     _mm512_mul_ps(_mm512_loadu_ps(t->m[h]),
                                                   _mm512_set1_ps(g->scale[at] * (float)all[h])));
        }
    }
    for (int i = 0; i < rows; i++)
        _mm512_storeu_ps(to + i * g->ldc, c[i]);
}

TARGET_VNNI static inline __attribute__((always_inline)) void
all_rows_vnni(const bool wide, const bool halves, const struct chunk *g)
{
    int32_t i = 0;
    for (; i + 4 <= g->rows; i += 4)
        rows_vnni(wide, halves, 4, g, i);
    for (; i < g->rows; i++)
        rows_vnni(wide, halves, 1, g, i);
}

TARGET_VNNI static void product_vnni(const struct chunk *g)
{
    if (g->type->wide && g->type->halves)
        all_rows_vnni(true, true, g);
    else if (g->type->wide)
        all_rows_vnni(true, false, g);
    else if (g->type->halves)
        all_rows_vnni(false, true, g);
    else
        all_rows_vnni(false, false, g);
}

#endif

static const struct dots {
    void (*scales)(const struct whole_row *type, const uint8_t *x, size_t stride, struct turned *t);
    // Of a kind without codes of its own, scales and all.
    void (*turn)(const struct whole_row *type, const uint8_t *x, size_t stride, struct turned *t);
    void (*weave)(const struct whole_row *type, const uint8_t *x, size_t stride, struct turned *t);
    void (*nibbles)(const struct whole_row *type, const uint8_t *x, size_t stride,
                    struct turned *t); // or NULL: through weave
    void (*product)(const struct chunk *g);
} dots_base = {scales_base, turn_base, weave_base, NULL, product_base}
#if SIMD_X86
,
  dots_avx2 = {scales_avx2, turn_avx2, weave_avx2, nibbles_avx2, product_avx2},
  dots_vnni = {scales_vnni, turn_vnni, weave_vnni, nibbles_vnni, product_vnni}
#endif
;

static const struct dots *pick(void)
{
#if SIMD_X86
    if (simd_vnni())
        return &dots_vnni;
    if (simd_isa() >= SIMD_AVX2)
        return &dots_avx2;
#endif
    return &dots_base;
}

bool gemm_dots_takes(int32_t id)
{
    return whole_find(id) != NULL;
}

// Rows of A that are rounded at a time, in GEMM_WORK floats; 0 = B is none that is taken here.
static int32_t rows_at_once(const struct gemm *g)
{
    const struct gemm_mat *w = &g->b;
    int32_t row = w->row0, left;
    if (!w->blocks || !w->trans || w->packed || g->csa != 1 || g->n % COLUMNS || g->k % 32)
        return 0;
    const struct block_rows *p = block_part(w->blocks, &row);
    for (left = g->n + row; left > 0 && row % COLUMNS == 0; left -= p++->rows)
        if (!gemm_dots_takes(p->type->id) || p->rows % COLUMNS || g->k % p->type->values)
            return 0;
    return left > 0 ? 0
                    : (int32_t)(GEMM_WORK * sizeof(float) / (ROUNDED_BYTES * ((size_t)g->k / 32)));
}

// The rows after these lie in one piece, of which as much is asked for as is being read.
static inline void ask_for(const uint8_t *x, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(x + i);
}

static void turn_scales(const struct dots *by, const struct whole_row *type, int32_t blocks,
                        const uint8_t *x, size_t stride, struct turned *t)
{
    float d[COLUMNS][BLOCK_VALUES / 16], m[COLUMNS][BLOCK_VALUES / 16];
    const int groups = type->halves ? 2 : 1;
    if (!type->scales[0]) {
        by->scales(type, x, stride, t);
        for (int32_t b = 1; b < blocks; b++) {
            memcpy(t[b].d, t->d, sizeof t->d[0]);
            if (type->has_m)
                memcpy(t[b].m, t->m, sizeof t->m[0]);
        }
        return;
    }
    for (int r = 0; r < COLUMNS; r++)
        type->scales[simd_isa()](x + (size_t)r * stride, d[r], m[r]);
    for (int32_t b = 0; b < blocks; b++)
        for (int h = 0; h < groups; h++)
            for (int r = 0; r < COLUMNS; r++) {
                t[b].d[h][r] = d[r][groups * b + h];
                t[b].m[h][r] = type->has_m ? m[r][groups * b + h] : 0;
            }
}

// One block of each of 16 rows, of 32 values or more.
static void turn(const struct dots *by, const struct whole_row *type, int32_t values,
                 const uint8_t *x, size_t stride, struct turned *t)
{
    uint8_t q[COLUMNS][BLOCK_VALUES];
    if (!type->codes[0]) {
        by->turn(type, x, stride, t);
        return;
    }
    turn_scales(by, type, values / 32, x, stride, t);
    if (type->nibbles_at && by->nibbles) {
        for (int32_t b = 0; b < values / 32; b += 2)
            by->nibbles(type, x + type->nibbles_at + 16 * b, stride, &t[b]);
    } else {
        for (int r = 0; r < COLUMNS; r++)
            type->codes[simd_isa()](x + (size_t)r * stride, q[r]);
        for (int32_t b = 0; b < values / 32; b++)
            by->weave(type, q[0] + 32 * b, sizeof q[0], &t[b]);
    }
}

// What stands in C when the first chunk comes, and what is left to do after the last.
static void begin_columns(const struct gemm *g, int32_t row0, int32_t rows, int32_t n0)
{
    for (int32_t i = row0; i < row0 + rows; i++)
        for (int32_t j = n0; j < n0 + COLUMNS; j++)
            g->c[i * g->ldc + j] = g->c0 ? g->c0[i * g->ldc0 + j] : 0.0f;
}

static void finish_columns(const struct gemm *g, int32_t row0, int32_t rows, int32_t n0)
{
    const int32_t panel = n0 / GEMM_PANEL;
    const struct gemm_range *range = g->e ? &g->range[panel] : NULL;
    ptrdiff_t lde = g->lde ? g->lde : gemm_width(g->n, panel);
    for (int32_t i = row0; i < row0 + rows && (range || g->alpha != 1); i++) {
        float *c = g->c + i * g->ldc + n0;
        for (int32_t q = 0; range && q < range->n; q++) {
            const float u = g->u[i * g->ldu + range->lo + q];
            const float *e = g->e + range->at + (size_t)(q * lde) + n0 % GEMM_PANEL;
            for (int j = 0; j < COLUMNS; j++)
                c[j] += u * e[j];
        }
        for (int j = 0; j < COLUMNS; j++)
            c[j] *= g->alpha;
    }
}

// `rows` rows of C from row0 on, of A as it was rounded, in 16 columns.
static void columns(const struct gemm *g, const struct dots *by, const struct rounded *a,
                    int32_t row0, int32_t rows, int32_t n0)
{
    struct turned t[CHUNK];
    int32_t row = g->b.row0 + n0, blocks = g->k / 32;
    const struct block_rows *part = block_part(g->b.blocks, &row);
    const size_t stride = block_row_bytes(part), bytes = (size_t)part->type->bytes;
    const int32_t each = part->type->values / 32;
    const uint8_t *x = part->at + (size_t)row * stride;
    const uint8_t *next = x + COLUMNS * stride;
    const bool more = row + COLUMNS < part->rows;
    struct chunk c = {.w = t,
                      .rows = rows,
                      .ldq = g->k,
                      .ld = blocks,
                      .type = whole_find(part->type->id),
                      .c = g->c + row0 * g->ldc + n0,
                      .ldc = g->ldc};
    begin_columns(g, row0, rows, n0);
    for (int32_t b = 0; b < blocks; b += CHUNK) {
        c.blocks = blocks - b < CHUNK ? blocks - b : CHUNK;
        c.q = a->q + 32 * b;
        c.scale = a->scale + b;
        c.offset = a->offset + b;
        c.sum = a->sum + 2 * b;
        for (int32_t i = 0; i < c.blocks; i += each, x += bytes, next += COLUMNS * bytes) {
            if (more)
                ask_for(next, COLUMNS * bytes);
            turn(by, c.type, part->type->values, x, stride, &t[i]);
        }
        by->product(&c);
    }
    finish_columns(g, row0, rows, n0);
}

// Some rows of A, rounded, on their way into all columns.
struct rounded_rows {
    const struct gemm *g;
    const struct dots *by;
    struct rounded a;
    int32_t row0, rows;
};

static void some_columns(void *arg, int32_t n0, int32_t n_columns, float *work)
{
    const struct rounded_rows *r = arg;
    (void)work;
    for (int32_t n = n0; n < n0 + n_columns; n += COLUMNS)
        columns(r->g, r->by, &r->a, r->row0, r->rows, n);
}

bool gemm_dots(const struct gemm *g, float *work)
{
    const struct dots *by = pick();
    const int32_t blocks = g->k / 32, most = rows_at_once(g);
    if (most == 0)
        return false;
    for (int32_t row0 = 0; row0 < g->m; row0 += most) {
        const int32_t rows = g->m - row0 < most ? g->m - row0 : most;
        const size_t n = (size_t)rows * (size_t)blocks;
        struct rounded a = {.scale = work,
                            .offset = work + n,
                            .sum = (int32_t *)(void *)(work + 2 * n),
                            .q = (int8_t *)(void *)(work + 4 * n)};
        for (int32_t i = 0; i < rows; i++) {
            const struct rounded to = {.scale = a.scale + i * blocks,
                                       .offset = a.offset + i * blocks,
                                       .sum = a.sum + (ptrdiff_t)2 * i * blocks,
                                       .q = a.q + (ptrdiff_t)i * g->k};
            SIMD_PICK(round_row, (g->a + (row0 + i) * g->rsa, blocks, &to));
        }
        struct rounded_rows r = {g, by, a, row0, rows};
        gemm_share(g, some_columns, &r, NULL);
    }
    return true;
}

#endif
