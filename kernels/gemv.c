// A few rows times a weight that is held as blocks, as decoding has it, one row a sequence: blocks
// of 16 rows of W are turned in bytes and decoded in registers, where gemm would decode a panel,
// turn it in floats and read it once. Every element of C is the same chain of the same operations
// as there, so the bits are the same.
#ifdef SIMD_LANES // read for each instruction set

#define gemv       SIMD_NAME(gemv)
#define half_words SIMD_NAME(half_words)
#define turn_words SIMD_NAME(turn_words)
#define gemv_word  SIMD_NAME(gemv_word)

typedef uint32_t gemv_word __attribute__((vector_size(4 * SIMD_LANES), aligned(4), may_alias));

// The product is rounded before it is added to: this file's chains are fused, decoding is not.
#undef ROUNDED
#if defined(__x86_64__) && SIMD_LANES == 16
#define ROUNDED(v) __asm__("" : "+v"(v))
#elif defined(__x86_64__)
#define ROUNDED(v) __asm__("" : "+x"(v))
#elif defined(__aarch64__)
#define ROUNDED(v) __asm__("" : "+w"(v))
#else
#define ROUNDED(v) (void)(v)
#endif

// Of each of 16 rows the two halves that its block at x begins with, the second for Q4_1 alone.
SIMD_INLINE void SIMD_NAME(scales)(const uint8_t *x, size_t stride, struct turned *t)
{
#if SIMD_X86 && SIMD_LANES == 16
    const __m512i row =
        _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                           _mm512_set1_epi32((int)stride));
    __m512i both = _mm512_i32gather_epi32(row, x, 1);
    _mm512_storeu_ps(t->d, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both)));
    _mm512_storeu_ps(t->m, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16))));
#elif SIMD_X86 && SIMD_LANES == 8
    for (size_t i = 0; i < 16; i += 8, x += 8 * stride) {
        const __m256i both = _mm256_setr_epi32(int_at(x), int_at(x + stride),
                                               int_at(x + 2 * stride), int_at(x + 3 * stride),
                                               int_at(x + 4 * stride), int_at(x + 5 * stride),
                                               int_at(x + 6 * stride), int_at(x + 7 * stride));
        const __m256i half[2] = {_mm256_and_si256(both, _mm256_set1_epi32(0xffff)),
                                 _mm256_srli_epi32(both, 16)};
        float *const to[2] = {t->d + i, t->m + i};
        for (int k = 0; k < 2; k++)
            _mm256_storeu_ps(
                to[k], _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(half[k]),
                                                        _mm256_extracti128_si256(half[k], 1))));
    }
#else
    for (size_t i = 0; i < 16; i++) {
        const uint32_t both = (uint32_t)int_at(x + i * stride);
        t->d[i] = f16_to_f32((uint16_t)both);
        t->m[i] = f16_to_f32((uint16_t)(both >> 16));
    }
#endif
}

// NF4's levels of the nibbles of a word: byte i of a level comes from table i, and the bytes of
// four are put together. AVX2 has no look-up of floats among sixteen; the word's bytes are in the
// order that this wants (turn_words).
#if SIMD_X86 && SIMD_LANES == 8
SIMD_INLINE void SIMD_NAME(nf4_values)(const struct few *f, const gemv_word *word, const int high,
                                       simd_f w[4])
{
    const __m256i code = (__m256i)(*word >> (4 * high)) & _mm256_set1_epi8(15);
    __m256i byte[4], pair[4];
    for (int i = 0; i < 4; i++)
        byte[i] = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(words_at(f->level[i])), code);
    for (int i = 0; i < 2; i++) {
        pair[i] = _mm256_unpacklo_epi8(byte[2 * i], byte[2 * i + 1]);
        pair[2 + i] = _mm256_unpackhi_epi8(byte[2 * i], byte[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        w[2 * i] = (simd_f)_mm256_unpacklo_epi16(pair[2 * i], pair[2 * i + 1]);
        w[2 * i + 1] = (simd_f)_mm256_unpackhi_epi16(pair[2 * i], pair[2 * i + 1]);
    }
}
#else
SIMD_INLINE void SIMD_NAME(nf4_values)(const struct few *f, const gemv_word *word, const int high,
                                       simd_f w[4])
{
    (void)f;
    for (int b = 0; b < 4; b++) {
        const simd_i code = (simd_i)(*word >> (8 * b + 4 * high));
#if SIMD_X86 && SIMD_LANES == 16
        w[b] = (simd_f)_mm512_permutexvar_ps((__m512i)code, _mm512_loadu_ps(block_nf4)); // & 15
#else
        float level[SIMD_LANES];
        for (int i = 0; i < SIMD_LANES; i++)
            level[i] = block_nf4[code[i] & 15];
        w[b] = *simd_of(level);
#endif
    }
}
#endif

// What the words of a piece of 16 rows stand for: signed bytes, or low or high nibbles. d q of Q4_1
// is exact, 11 bits by 4: fused or not, its sum with m is rounded once.
SIMD_INLINE void SIMD_NAME(word_values)(const int type, const struct few *f, const struct turned *t,
                                        const gemv_word *word, const int high, const int p,
                                        simd_f w[4])
{
    const simd_f d = *simd_of(t->d + p * SIMD_LANES);
    if (type == BLOCK_Q4_1) {
        for (int b = 0; b < 4; b++) {
            const simd_i code = (simd_i)(*word >> (8 * b + 4 * high)) & 15;
            w[b] = d * __builtin_convertvector(code, simd_f) + *simd_of(t->m + p * SIMD_LANES);
        }
        return;
    }
    if (type == BLOCK_NF4)
        SIMD_NAME(nf4_values)(f, word, high, w);
    for (int b = 0; b < 4; b++) {
        if (type == BLOCK_Q8_0)
            w[b] = __builtin_convertvector((simd_i)(*word << (24 - 8 * b)) >> 24, simd_f);
        w[b] *= d;
        ROUNDED(w[b]);
    }
}

// The chains go on through the bytes of a block, or the low or high halves of them.
SIMD_INLINE void half_words(const int mr, const int groups, const int type, const int high,
                            const struct few *f, const struct turned *t, const float *a,
                            ptrdiff_t rsa, simd_f r[4][4][SIMD_PIECES])
{
    for (int32_t k = 0; k < TURNED_BYTES(type); k += 4)
        for (int j = 0; j < groups; j++)
            for (int p = 0; p < SIMD_PIECES; p++) {
                simd_f w[4];
                SIMD_NAME(word_values)
                (type, f, &t[j],
                 (const gemv_word *)(const void *)(t[j].word[k / 4] + p * SIMD_LANES), high, p, w);
                for (int b = 0; b < 4; b++)
                    for (int i = 0; i < mr; i++)
                        r[i][j][p] += a[i * rsa + k + b] * w[b];
            }
}

// A block of each of 16 rows, the first at x, as words; then its scales.
SIMD_INLINE void turn_words(const int type, const uint8_t *x, size_t stride, struct turned *t)
{
    const size_t head = type == BLOCK_Q4_1 ? 4 : 2;
    SIMD_NAME(scales)(x, stride, t);
    for (int h = 0; h < TURNED_BYTES(type); h += 16) {
        const uint8_t *from = x + head + h;
        uint32_t(*to)[16] = t->word + h / 4;
#if SIMD_X86 && SIMD_LANES == 16
        __m512i r[4];
        words_turn_avx512(from, stride, r);
        for (int j = 0; j < 4; j++)
            _mm512_storeu_si512(to[j], r[j]);
#elif SIMD_X86 && SIMD_LANES == 8
        for (size_t i = 0; i < 16; i += 8) {
            __m256i r[4];
            words_turn_avx2(from + i * stride, stride, r);
            for (int j = 0; j < 4; j++) {
                if (type == BLOCK_NF4) // byte b of four rows side by side
                    r[j] = _mm256_shuffle_epi8(
                        r[j], _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2,
                                                                        6, 10, 14, 3, 7, 11, 15)));
                _mm256_storeu_si256((__m256i *)(void *)(to[j] + i), r[j]);
            }
        }
#else
        for (size_t i = 0; i < 16; i += 4)
            turn4(from + i * stride, stride, to[0] + i);
#endif
    }
}

// mr rows of C, 16 columns for each of `groups` groups; mr, groups and type are constants where
// this is inlined.
SIMD_INLINE void gemv(const int mr, const int groups, const int type, const struct few *f,
                      int32_t row0, int32_t n0)
{
    const struct gemm *g = f->g;
    const int32_t values = type == BLOCK_NF4 ? 64 : 32;
    simd_f r[4][4][SIMD_PIECES];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < groups * SIMD_PIECES; j++)
            r[i][j / SIMD_PIECES][j % SIMD_PIECES] =
                g->c0 ? *simd_of(g->c0 + (row0 + i) * g->ldc0 + n0 + j * SIMD_LANES) : (simd_f){0};
    for (int32_t k0 = 0; k0 < g->k; k0 += values) {
        struct turned t[4];
        fetch_ahead(f, n0, 16 * groups, k0 / values);
        for (int j = 0; j < groups; j++) {
            size_t stride;
            const uint8_t *x = block_at(f, n0 + 16 * j, k0 / values, &stride);
            turn_words(type, x, stride, &t[j]);
        }
        half_words(mr, groups, type, 0, f, t, g->a + row0 * g->rsa + k0, g->rsa, r);
        if (type != BLOCK_Q8_0)
            half_words(mr, groups, type, 1, f, t, g->a + row0 * g->rsa + k0 + TURNED_BYTES(type),
                       g->rsa, r);
    }
    for (int j = 0; j < groups; j++) {
        int32_t n = n0 + 16 * j;
        const struct gemm_range *range = g->e ? &g->range[n / GEMM_PANEL] : NULL;
        ptrdiff_t lde = g->lde ? g->lde : gemm_width(g->n, n / GEMM_PANEL);
        for (int i = 0; i < mr; i++)
            for (int p = 0; p < SIMD_PIECES; p++) {
                const int at = p * SIMD_LANES;
                simd_f sum = r[i][j][p];
                for (int32_t q = 0; range && q < range->n; q++)
                    sum += g->u[(row0 + i) * g->ldu + range->lo + q] *
                           *simd_of(g->e + range->at + q * lde + n % GEMM_PANEL + at);
                *simd_at(g->c + (row0 + i) * g->ldc + n + at) = sum * g->alpha;
            }
    }
}

#define GEMV_ROWS(type)                                                                            \
    switch (mr) {                                                                                  \
    case 1:                                                                                        \
        gemv(1, GROUPS, type, f, row0, n0);                                                        \
        break;                                                                                     \
    case 2:                                                                                        \
        gemv(2, GROUPS, type, f, row0, n0);                                                        \
        break;                                                                                     \
    case 3:                                                                                        \
        gemv(3, GROUPS, type, f, row0, n0);                                                        \
        break;                                                                                     \
    default:                                                                                       \
        gemv(4, GROUPS, type, f, row0, n0);                                                        \
    }

SIMD_KERNEL void SIMD_NAME(few_rows)(const struct few *f, int type, int mr, int32_t row0,
                                     int32_t n0)
{
    if (type == BLOCK_Q4_1)
        GEMV_ROWS(BLOCK_Q4_1)
    else if (type == BLOCK_NF4)
        GEMV_ROWS(BLOCK_NF4)
    else
        GEMV_ROWS(BLOCK_Q8_0)
}

#undef GEMV_ROWS

#else

#include "base/half.h"
#include "gemm.h"
#include "simd.h"
#include "words.h"

#include <string.h>

// Columns of C at a time, in groups of 16: chains enough to hide that each waits for itself.
enum { GROUPS = 2, ROWS_AT_ONCE = 4, MOST_ROWS = 16 };

// One block of each of 16 rows: bytes 4 i to 4 i + 3 of all of them, scales, and what is added.
struct turned {
    uint32_t word[8][16];
    float d[16], m[16];
};

static inline int32_t int_at(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

// Bytes of a block that values are in: a byte each, or two.
#define TURNED_BYTES(type) ((type) == BLOCK_Q4_1 ? 16 : 32)

struct few {
    const struct gemm *g;
    const struct block_rows *part; // that has column 0
    int32_t row0;                  // of the part
    uint8_t level[4][16];          // byte i of NF4's levels, the lowest first
};

#if defined(__clang__) || __GNUC__ >= 12
#define MIX4(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIX4(a, b, ...) __builtin_shuffle(a, b, (words4){__VA_ARGS__})
#endif

typedef uint32_t words4 __attribute__((vector_size(16), aligned(1), may_alias));

// Four rows of four words become four words of four rows.
static inline __attribute__((always_inline)) void turn4(const uint8_t *x, size_t stride,
                                                        uint32_t *to)
{
    words4 r[4], t[4];
    for (size_t i = 0; i < 4; i++)
        r[i] = *(const words4 *)(const void *)(x + i * stride);
    for (int i = 0; i < 4; i += 2) {
        t[i] = MIX4(r[i], r[i + 1], 0, 4, 1, 5);
        t[i + 1] = MIX4(r[i], r[i + 1], 2, 6, 3, 7);
    }
    for (int i = 0; i < 2; i++) {
        *(words4 *)(void *)(to + 32 * i) = MIX4(t[i], t[i + 2], 0, 1, 4, 5);
        *(words4 *)(void *)(to + 32 * i + 16) = MIX4(t[i], t[i + 2], 2, 3, 6, 7);
    }
}

// Where block b of row n of W is, and how far it is to the same of the next row.
static inline const uint8_t *block_at(const struct few *f, int32_t n, int32_t b, size_t *stride)
{
    int32_t row = f->row0 + n;
    const struct block_rows *part = block_part(f->part, &row);
    *stride = block_row_bytes(part);
    return part->at + (size_t)row * *stride + (size_t)b * (size_t)part->type->bytes;
}

// A block of each of these rows is about to be read, of rows that lie far apart; those that come
// after all of them lie in one piece, of which as much is asked for now.
static inline void fetch_ahead(const struct few *f, int32_t n, int32_t rows, int32_t b)
{
    int32_t row = f->row0 + n;
    const struct block_rows *part = block_part(f->part, &row);
    size_t bytes = (size_t)rows * (size_t)part->type->bytes;
    const uint8_t *next = part->at + (size_t)(row + rows) * block_row_bytes(part);
    if (row + rows >= part->rows)
        return;
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(next + (size_t)b * bytes + i, 0, 2);
}

#define SIMD_FILE "gemv.c"
#include "simd_each.h"

static bool takes(const struct gemm *g, const struct block_rows *p)
{
    int32_t id = p->type->id;
    return (id == BLOCK_Q4_1 || id == BLOCK_Q8_0 || id == BLOCK_NF4) &&
           p->rows % (16 * GROUPS) == 0 && g->k % p->type->values == 0;
}

// Whether every group of columns lies in one part, and in whole blocks.
static bool can(const struct gemm *g, struct few *f)
{
    const struct gemm_mat *w = &g->b;
    if (!w->blocks || !w->trans || w->packed || g->bf16 || g->m < 1 || g->m > MOST_ROWS ||
        g->csa != 1 || g->n % (16 * GROUPS))
        return false;
    *f = (struct few){.g = g, .row0 = w->row0};
    f->part = block_part(w->blocks, &f->row0);
    for (int i = 0; i < 64; i++)
        f->level[i % 4][i / 4] = (uint8_t)(f32_bits(block_nf4[i / 4]) >> (8 * (i % 4)));
    int32_t left = g->n + f->row0;
    if (f->row0 % 16)
        return false;
    for (const struct block_rows *p = f->part; left > 0; left -= p++->rows)
        if (!takes(g, p))
            return false;
    return true;
}

static void few_columns(void *arg, int32_t n0, int32_t n_columns, float *work)
{
    const struct few *f = arg;
    (void)work;
    for (int32_t n = n0; n < n0 + n_columns; n += 16 * GROUPS) {
        int32_t row = f->row0 + n;
        const struct block_rows *part = block_part(f->part, &row);
        for (int32_t i = 0; i < f->g->m; i += ROWS_AT_ONCE) {
            int mr = f->g->m - i < ROWS_AT_ONCE ? f->g->m - i : ROWS_AT_ONCE;
            SIMD_PICK(few_rows, (f, part->type->id, mr, i, n));
        }
    }
}

bool gemm_few(const struct gemm *g)
{
    struct few f;
    if (!can(g, &f))
        return false;
    gemm_share(g, few_columns, &f, NULL);
    return true;
}

#endif
