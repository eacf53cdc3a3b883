// A few rows times a weight that is held as blocks, as decoding has it, one row a sequence: blocks
// of 16 rows of W are turned in bytes and decoded in registers, where gemm would decode a panel,
// turn it in floats and read it once. Every element of C is the same chain of the same operations
// as there, so the bits are the same.
#ifdef SIMD_LANES // read for each instruction set

#define simd_b      SIMD_NAME(simd_b)
#define gemv        SIMD_NAME(gemv)
#define half_blocks SIMD_NAME(half_blocks)

typedef uint8_t simd_b __attribute__((vector_size(SIMD_LANES), aligned(1), may_alias));

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
#else
    uint16_t half[2][16];
    for (int i = 0; i < 16; i++) {
        memcpy(&half[0][i], x + (size_t)i * stride, sizeof half[0][i]);
        memcpy(&half[1][i], x + (size_t)i * stride + 2, sizeof half[1][i]);
    }
#if SIMD_X86 && SIMD_LANES == 8
    for (int i = 0; i < 16; i += 8) {
        _mm256_storeu_ps(t->d + i, _mm256_cvtph_ps(*(const __m128i_u *)(void *)(half[0] + i)));
        _mm256_storeu_ps(t->m + i, _mm256_cvtph_ps(*(const __m128i_u *)(void *)(half[1] + i)));
    }
#else
    for (int i = 0; i < 16; i++) {
        t->d[i] = f16_to_f32(half[0][i]);
        t->m[i] = f16_to_f32(half[1][i]);
    }
#endif
#endif
}

// Value k of each of 16 rows, in SIMD_PIECES vectors; high: k is one of the last 16.
SIMD_INLINE void SIMD_NAME(q4_1_values)(const struct turned *t, int32_t k, const bool high,
                                        simd_f *w)
{
    for (int p = 0; p < SIMD_PIECES; p++) {
        simd_b b = *(const simd_b *)(t->byte[k % 16] + p * SIMD_LANES);
        if (high)
            b >>= 4;
        else
            b &= 15;
        simd_f v = *simd_of(t->d + p * SIMD_LANES) *
                   __builtin_convertvector(__builtin_convertvector(b, simd_i), simd_f);
        ROUNDED(v);
        w[p] = v + *simd_of(t->m + p * SIMD_LANES);
    }
}

SIMD_INLINE void SIMD_NAME(q8_0_values)(const struct turned *t, int32_t k, simd_f *w)
{
    for (int p = 0; p < SIMD_PIECES; p++) {
        simd_b b =
            *(const simd_b *)(t->byte[k] + p * SIMD_LANES) ^ 128; // GCC widens no signed ones
        simd_i q = __builtin_convertvector(b, simd_i) - 128;
        w[p] = *simd_of(t->d + p * SIMD_LANES) * __builtin_convertvector(q, simd_f);
    }
}

// Codes of NF4: the low nibbles of 32 bytes, then the high ones.
SIMD_INLINE void SIMD_NAME(nf4_values)(const struct turned *t, int32_t k, const bool high,
                                       simd_f *w)
{
    for (int p = 0; p < SIMD_PIECES; p++) {
        simd_b b = *(const simd_b *)(t->byte[k % 32] + p * SIMD_LANES);
        simd_f level;
        if (high)
            b >>= 4;
        else
            b &= 15;
        simd_i code = __builtin_convertvector(b, simd_i);
#if SIMD_X86 && SIMD_LANES == 16
        level = (simd_f)_mm512_permutexvar_ps((__m512i)code, _mm512_loadu_ps(block_nf4));
#elif SIMD_X86 && SIMD_LANES == 8
        level = (simd_f)_mm256_blendv_ps(
            _mm256_permutevar8x32_ps(_mm256_loadu_ps(block_nf4), (__m256i)code),
            _mm256_permutevar8x32_ps(_mm256_loadu_ps(block_nf4 + 8), (__m256i)code),
            (__m256)(code << 28)); // by bit 3
#else
        for (int i = 0; i < SIMD_LANES; i++)
            level[i] = block_nf4[code[i]];
#endif
        w[p] = *simd_of(t->d + p * SIMD_LANES) * level;
    }
}

// The chains go on through the first, or last, half of the values of a block.
SIMD_INLINE void half_blocks(const int mr, const int groups, const int type, const bool high,
                             const struct turned *t, const float *a, ptrdiff_t rsa,
                             simd_f r[4][4][SIMD_PIECES])
{
    const int32_t half = type == BLOCK_NF4 ? 32 : 16;
    for (int32_t k = half * high; k < half + half * high; k++)
        for (int j = 0; j < groups; j++) {
            simd_f w[SIMD_PIECES];
            if (type == BLOCK_Q4_1)
                SIMD_NAME(q4_1_values)(&t[j], k, high, w);
            else if (type == BLOCK_NF4)
                SIMD_NAME(nf4_values)(&t[j], k, high, w);
            else
                SIMD_NAME(q8_0_values)(&t[j], k, w);
            for (int i = 0; i < mr; i++)
                for (int p = 0; p < SIMD_PIECES; p++)
                    r[i][j][p] += a[i * rsa + k] * w[p];
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
            turn_blocks(type, x, stride, &t[j]);
            SIMD_NAME(scales)(x, stride, &t[j]);
        }
        for (int high = 0; high < 2; high++)
            half_blocks(mr, groups, type, high, t, g->a + row0 * g->rsa + k0, g->rsa, r);
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

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

// Columns of C at a time, in groups of 16: chains enough to hide that each waits for itself.
enum { GROUPS = 2, ROWS_AT_ONCE = 4, MOST_ROWS = 16 };

typedef uint8_t bytes16 __attribute__((vector_size(16), aligned(1), may_alias));

// One block of each of 16 rows: byte i of all of them, scales, and what is added.
struct turned {
    uint8_t byte[32][16];
    float d[16], m[16];
};

struct few {
    const struct gemm *g;
    const struct block_rows *part; // that has column 0
    int32_t row0;                  // of the part
};

#if defined(__clang__) || __GNUC__ >= 12
#define MIX16(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIX16(a, b, ...) __builtin_shuffle(a, b, (bytes16){__VA_ARGS__})
#endif

// Transposes 16 rows of 16 bytes: four perfect shuffles.
static inline __attribute__((always_inline)) void turn16(bytes16 *r)
{
    for (int round = 0; round < 4; round++) {
        bytes16 to[16];
        for (int i = 0; i < 8; i++) {
            to[2 * i] =
                MIX16(r[i], r[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            to[2 * i + 1] =
                MIX16(r[i], r[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(r, to, sizeof to);
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

// The bytes of a block at x and of those of the next 15 rows.
static inline __attribute__((always_inline)) void turn_blocks(const int type, const uint8_t *x,
                                                              size_t stride, struct turned *t)
{
    const int values = type == BLOCK_Q4_1 ? 4 : 2, halves = type == BLOCK_Q4_1 ? 1 : 2;
    for (int h = 0; h < halves; h++) {
        bytes16 r[16];
        for (int i = 0; i < 16; i++)
            r[i] = *(const bytes16 *)(x + (size_t)i * stride + values + 16 * h);
        turn16(r);
        memcpy(t->byte[16 * h], r, sizeof r);
    }
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
        __builtin_prefetch(next + (size_t)b * bytes + i);
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
    int32_t left = g->n + f->row0;
    if (f->row0 % 16)
        return false;
    for (const struct block_rows *p = f->part; left > 0; left -= p++->rows)
        if (!takes(g, p))
            return false;
    return true;
}

bool gemm_few(const struct gemm *g)
{
    struct few f;
    if (!can(g, &f))
        return false;
    for (int32_t n = 0; n < g->n; n += 16 * GROUPS) {
        int32_t row = f.row0 + n;
        const struct block_rows *part = block_part(f.part, &row);
        for (int32_t i = 0; i < g->m; i += ROWS_AT_ONCE) {
            int mr = g->m - i < ROWS_AT_ONCE ? g->m - i : ROWS_AT_ONCE;
            SIMD_PICK(few_rows, (&f, part->type->id, mr, i, n));
        }
    }
    return true;
}

#endif
