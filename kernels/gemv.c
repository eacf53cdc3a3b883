// A few rows times a weight that is held as blocks, as decoding has it, one row a sequence: blocks
// of a panel's rows of W are turned by words and decoded in registers, where gemm would decode a
// panel, turn it in floats and read it once. Every element of C is the same chain of the same
// operations as there, so the bits are the same.
#ifdef SIMD_LANES // read for each instruction set

#define gemv       SIMD_NAME(gemv)
#define turn_words SIMD_NAME(turn_words)
#define gemv_word  SIMD_NAME(gemv_word)

typedef uint32_t gemv_word __attribute__((vector_size(4 * SIMD_LANES), aligned(4), may_alias));

// NF4's levels of the nibbles of a word: byte i of a level comes from table i, and the bytes of
// four are put together. AVX2 has no look-up of floats among sixteen; the word's bytes are in the
// order that this wants (turn_words).
#if SIMD_X86 && SIMD_LANES == 8
SIMD_INLINE void SIMD_NAME(nf4_values)(const struct few *f, const gemv_word *code, simd_f w[4])
{
    __m256i byte[4], pair[4];
    for (int i = 0; i < 4; i++)
        byte[i] =
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(words_at(f->level[i])), (__m256i)*code);
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
SIMD_INLINE void SIMD_NAME(nf4_values)(const struct few *f, const gemv_word *code, simd_f w[4])
{
    (void)f;
    for (int b = 0; b < 4; b++) {
        const simd_i one = (simd_i)(*code >> (8 * b));
#if SIMD_X86 && SIMD_LANES == 16
        w[b] = (simd_f)_mm512_permutexvar_ps((__m512i)one, _mm512_loadu_ps(block_nf4)); // & 15
#else
        float level[SIMD_LANES];
        for (int i = 0; i < SIMD_LANES; i++)
            level[i] = block_nf4[one[i] & 15];
        w[b] = *simd_of(level);
#endif
    }
}
#endif

// Byte b of word k of Q4_1, of columns from c on. A nibble is left in its place and the scale is
// divided instead: their product has 15 bits and is exact, and so its sum with m is rounded once,
// as where the weight is decoded.
SIMD_INLINE simd_f SIMD_NAME(nibble_value)(const struct turned *t, int k, int b, int c, simd_f *m)
{
    const gemv_word word = *(const gemv_word *)(const void *)(t->word[k] + c);
    const simd_i nibble = (simd_i)(word & (15u << 8 * b));
    return __builtin_convertvector(nibble, simd_f) * *simd_of(t->d[b] + c) + *m;
}

// Four of the other types.
SIMD_INLINE void SIMD_NAME(word_values)(const int type, const struct few *f, const struct turned *t,
                                        int k, int c, simd_f w[4])
{
    const gemv_word word = *(const gemv_word *)(const void *)(t->word[k] + c);
    if (type == BLOCK_NF4)
        SIMD_NAME(nf4_values)(f, &word, w);
    for (int b = 0; b < 4; b++) {
        if (type == BLOCK_Q8_0)
            w[b] = __builtin_convertvector((simd_i)(word << (24 - 8 * b)) >> 24, simd_f);
        w[b] *= *simd_of(t->d[0] + c);
    }
}

// The chains of mr rows of C in `pieces` vectors of columns, the first at c, go on through a block.
// They stay in registers. What an empty asm might have moved is read anew each time round: kept in
// registers, scales would push chains out of them.
SIMD_INLINE void SIMD_NAME(chains)(const int mr, const int pieces, const int type,
                                   const struct few *f, const struct turned *t, int c,
                                   const float *a, ptrdiff_t rsa, float (*r)[AT_ONCE])
{
    simd_f sum[4][4], m[4];
    for (int p = 0; p < pieces; p++) {
        m[p] = type == BLOCK_Q4_1 ? *simd_of(t->m + c + p * SIMD_LANES) : (simd_f){0};
        for (int i = 0; i < mr; i++)
            sum[i][p] = *simd_of(r[i] + c + p * SIMD_LANES);
    }
    for (int k = 0; k < BLOCK_WORDS(type); k++, a += 4) {
        for (int b = 0; b < 4 && type == BLOCK_Q4_1; b++) {
            __asm__("" : "+r"(t));
            for (int p = 0; p < pieces; p++) {
                const simd_f w = SIMD_NAME(nibble_value)(t, k, b, c + p * SIMD_LANES, &m[p]);
                for (int i = 0; i < mr; i++)
                    sum[i][p] += a[i * rsa + b] * w;
            }
        }
        for (int p = 0; p < pieces && type != BLOCK_Q4_1; p++) {
            simd_f w[4];
            __asm__("" : "+r"(t), "+r"(a));
            SIMD_NAME(word_values)(type, f, t, k, c + p * SIMD_LANES, w);
            for (int b = 0; b < 4; b++)
                for (int i = 0; i < mr; i++)
                    sum[i][p] += a[i * rsa + b] * w[b];
        }
    }
    for (int i = 0; i < mr; i++)
        for (int p = 0; p < pieces; p++)
            *simd_at(r[i] + c + p * SIMD_LANES) = sum[i][p];
}

// Word k of a block, or what its low and its high nibbles become.
SIMD_INLINE void SIMD_NAME(put_word)(const int type, gemv_word word, struct turned *t, int k, int c)
{
    const uint32_t mask = type == BLOCK_NF4 ? 0x0f0f0f0f : ~0u;
    *(gemv_word *)(void *)(t->word[k] + c) = word & mask;
    if (type != BLOCK_Q8_0)
        *(gemv_word *)(void *)(t->word[BLOCK_BYTES(type) / 4 + k] + c) = word >> 4 & mask;
}

#if SIMD_X86 && SIMD_LANES == 8
// Of 8 rows the two halves of a word, the second for Q4_1 alone.
SIMD_INLINE void SIMD_NAME(scales)(const int type, __m256i both, float *d, float *m)
{
    const __m256i apart = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    const __m256i half = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(both, apart), 0xd8);
    _mm256_storeu_ps(d, _mm256_cvtph_ps(_mm256_castsi256_si128(half)));
    if (type == BLOCK_Q4_1)
        _mm256_storeu_ps(m, _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1)));
}
#endif

// A block of each of 16 rows, the first at x, as words of the columns from c on; and its scales.
SIMD_INLINE void turn_words(const int type, const uint8_t *x, size_t stride, struct turned *t,
                            int c)
{
    const int words = BLOCK_BYTES(type) / 4;
#if SIMD_X86 && SIMD_LANES == 16
    const __m512i row =
        _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                           _mm512_set1_epi32((int)stride));
    const __m512i both = _mm512_i32gather_epi32(row, x, 1);
    _mm512_storeu_ps(t->d[0] + c, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both)));
    _mm512_storeu_ps(t->m + c, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16))));
    for (int k = 0; k < words; k += 4) {
        __m512i r[4];
        words_turn_avx512(x + BLOCK_HEAD(type) + 4 * k, stride, r);
        for (int j = 0; j < 4; j++)
            SIMD_NAME(put_word)(type, (gemv_word)r[j], t, k + j, c);
    }
#elif SIMD_X86 && SIMD_LANES == 8
    // What begins with the scales is turned with them; of what else is turned a word is used.
    for (int i = c; i < c + 16; i += 8, x += 8 * stride) {
        __m256i word[9], last[4];
        words_turn_avx2(x, stride, word);
        SIMD_NAME(scales)(type, word[0], t->d[0] + i, t->m + i);
        if (type == BLOCK_Q4_1) {
            words_turn_avx2(x + 4, stride, last);
            word[4] = last[3];
        } else {
            words_turn_avx2(x + 2, stride, word + 1);
            words_turn_avx2(x + 18, stride, word + 5);
        }
        for (int k = 0; k < words; k++) {
            if (type == BLOCK_NF4) // byte b of four rows side by side
                word[k + 1] = _mm256_shuffle_epi8(
                    word[k + 1], _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                     0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
            SIMD_NAME(put_word)(type, (gemv_word)word[k + 1], t, k, i);
        }
    }
#else
    for (int i = c; i < c + 16; i += 4) {
        for (int k = 0; k < words; k += 4) {
            words4 r[4];
            words_turn_base(x + (size_t)(i - c) * stride + BLOCK_HEAD(type) + 4 * k, stride, r);
            for (int j = 0; j < 4; j++)
                SIMD_NAME(put_word)(type, (gemv_word)r[j], t, k + j, i);
        }
        for (int j = i; j < i + 4; j++) {
            const uint32_t both = (uint32_t)int_at(x + (size_t)(j - c) * stride);
            t->d[0][j] = f16_to_f32((uint16_t)both);
            t->m[j] = f16_to_f32((uint16_t)(both >> 16));
        }
    }
#endif
    for (int i = c; i < c + 16 && type == BLOCK_Q4_1; i += SIMD_LANES)
        for (int b = 1; b < 4; b++)
            *simd_at(t->d[b] + i) = *simd_of(t->d[0] + i) * (1.0f / (float)(1 << 8 * b));
}

// mr rows of C, AT_ONCE columns; mr and type are constants where this is inlined.
SIMD_INLINE void gemv(const int mr, const int type, const struct few *f, int32_t row0, int32_t n0)
{
    enum { PIECES = AT_ONCE / SIMD_LANES, TOGETHER = PIECES < 4 ? PIECES : 4 };
    const struct gemm *g = f->g;
    const int32_t values = type == BLOCK_NF4 ? 64 : 32;
    const int pieces = mr == 1 ? TOGETHER : mr == 2 || type == BLOCK_Q4_1 ? 2 : 1;
    const struct lines lines[2] = {lines_at(f, n0), lines_at(f, n0 + 16)};
    float r[4][AT_ONCE];
    for (int i = 0; i < mr; i++)
        for (int c = 0; c < AT_ONCE; c++)
            r[i][c] = g->c0 ? g->c0[(row0 + i) * g->ldc0 + n0 + c] : 0;
    for (int32_t b = 0; b < g->k / values; b++) {
        struct turned t;
        for (int j = 0; j < 2; j++) {
            fetch_ahead(&lines[j], b);
            turn_words(type, lines[j].x + (size_t)b * lines[j].bytes, lines[j].stride, &t, 16 * j);
        }
        for (int p = 0; p < PIECES; p += pieces) {
            const float *a = g->a + row0 * g->rsa + b * values;
            SIMD_NAME(chains)(mr, pieces, type, f, &t, p * SIMD_LANES, a, g->rsa, r);
        }
    }
    const int32_t panel = n0 / GEMM_PANEL;
    const struct gemm_range *range = g->e ? &g->range[panel] : NULL;
    ptrdiff_t lde = g->lde ? g->lde : gemm_width(g->n, panel);
    for (int i = 0; i < mr; i++) {
        for (int32_t q = 0; range && q < range->n; q++) {
            const float u = g->u[(row0 + i) * g->ldu + range->lo + q];
            const float *e = g->e + range->at + q * lde + n0 % GEMM_PANEL;
            for (int c = 0; c < AT_ONCE; c += SIMD_LANES)
                *simd_at(r[i] + c) += u * *simd_of(e + c);
        }
        for (int c = 0; c < AT_ONCE; c++)
            g->c[(row0 + i) * g->ldc + n0 + c] = r[i][c] * g->alpha;
    }
}

#define GEMV_ROWS(type)                                                                            \
    switch (mr) {                                                                                  \
    case 1:                                                                                        \
        gemv(1, type, f, row0, n0);                                                                \
        break;                                                                                     \
    case 2:                                                                                        \
        gemv(2, type, f, row0, n0);                                                                \
        break;                                                                                     \
    case 3:                                                                                        \
        gemv(3, type, f, row0, n0);                                                                \
        break;                                                                                     \
    default:                                                                                       \
        gemv(4, type, f, row0, n0);                                                                \
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

// Columns of C at a time: chains enough to hide that each waits for itself.
enum { AT_ONCE = 32, ROWS_AT_ONCE = 4, MOST_ROWS = 16 };

// One block of each of as many rows of W: bytes 4 i to 4 i + 3 of all of them, scales, those over
// 256 and so on, and what is added.
struct turned {
    uint32_t word[16][AT_ONCE];
    float d[4][AT_ONCE], m[AT_ONCE];
};

static inline int32_t int_at(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

// Bytes of a block before its values.
#define BLOCK_HEAD(type)  ((type) == BLOCK_Q4_1 ? 4 : 2)
// Bytes of a block that values are in: a byte each, or two.
#define BLOCK_BYTES(type) ((type) == BLOCK_Q4_1 ? 16 : 32)
// Words of four values in a block.
#define BLOCK_WORDS(type) ((type) == BLOCK_NF4 ? 16 : 8)

struct few {
    const struct gemm *g;
    const struct block_rows *part; // that has column 0
    int32_t row0;                  // of the part
    uint8_t level[4][16];          // byte i of NF4's levels, the lowest first
};

// 16 rows of W: the first, how far the next one is, and the bytes of a block. next: those that come
// AT_ONCE later lie in one piece, or NULL.
struct lines {
    const uint8_t *x, *next;
    size_t stride, bytes;
};

static inline struct lines lines_at(const struct few *f, int32_t n)
{
    int32_t row = f->row0 + n;
    const struct block_rows *part = block_part(f->part, &row);
    const size_t stride = block_row_bytes(part);
    const uint8_t *x = part->at + (size_t)row * stride;
    return (struct lines){.x = x,
                          .next = row + AT_ONCE < part->rows ? x + AT_ONCE * stride : NULL,
                          .stride = stride,
                          .bytes = (size_t)part->type->bytes};
}

// Block b of each row is about to be read, of rows that lie far apart: as much is asked for of
// those that come later.
static inline void fetch_ahead(const struct lines *l, int32_t b)
{
    for (size_t i = 0; l->next && i < 16 * l->bytes; i += 64)
        __builtin_prefetch(l->next + (size_t)b * 16 * l->bytes + i, 0, 2);
}

#define SIMD_FILE "gemv.c"
#include "simd_each.h"

static bool takes(const struct gemm *g, const struct block_rows *p)
{
    int32_t id = p->type->id;
    return (id == BLOCK_Q4_1 || id == BLOCK_Q8_0 || id == BLOCK_NF4) && p->rows % (AT_ONCE) == 0 &&
           g->k % p->type->values == 0;
}

// Whether every group of columns lies in one part, and in whole blocks.
static bool can(const struct gemm *g, struct few *f)
{
    const struct gemm_mat *w = &g->b;
    if (!w->blocks || !w->trans || w->packed || g->bf16 || g->m < 1 || g->m > MOST_ROWS ||
        g->csa != 1 || g->n % (AT_ONCE))
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
    for (int32_t n = n0; n < n0 + n_columns; n += AT_ONCE) {
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
