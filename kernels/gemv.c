// A few rows times a weight that is held as blocks, as decoding has it, one row a sequence: blocks
// of 16 rows of W are turned in bytes and decoded in registers, where gemm would decode a panel,
// turn it in floats and read it once. Every element of C is the same chain of the same operations
// as there, so the bits are the same.
#ifdef SIMD_LANES // read for each instruction set

#define simd_b SIMD_NAME(simd_b)
#define gemv   SIMD_NAME(gemv)

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

SIMD_INLINE void SIMD_NAME(halves)(const uint16_t *half, float *y)
{
#if SIMD_X86 && SIMD_LANES == 16
    _mm512_storeu_ps(y, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)half)));
#elif SIMD_X86 && SIMD_LANES == 8
    for (int i = 0; i < 16; i += 8)
        _mm256_storeu_ps(
            y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(half + i))));
#else
    for (int i = 0; i < 16; i++)
        y[i] = f16_to_f32(half[i]);
#endif
}

// Value k of each of 16 rows, in SIMD_PIECES vectors.
SIMD_INLINE void SIMD_NAME(q4_1_values)(const struct turned *t, int32_t k, simd_f *w)
{
    for (int p = 0; p < SIMD_PIECES; p++) {
        simd_b b = *(const simd_b *)(t->byte[k % 16] + p * SIMD_LANES);
        if (k < 16)
            b &= 15;
        else
            b >>= 4;
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

// mr rows of C, 16 columns for each of `groups` groups; mr, groups and type are constants where
// this is inlined.
SIMD_INLINE void gemv(const int mr, const int groups, const int type, const struct few *f,
                      int32_t row0, int32_t n0)
{
    const struct gemm *g = f->g;
    simd_f r[4][4][SIMD_PIECES];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < groups * SIMD_PIECES; j++)
            r[i][j / SIMD_PIECES][j % SIMD_PIECES] =
                g->c0 ? *simd_of(g->c0 + (row0 + i) * g->ldc0 + n0 + j * SIMD_LANES) : (simd_f){0};
    for (int32_t k0 = 0; k0 < g->k; k0 += 32) {
        struct turned t[4];
        fetch_ahead(f, n0, 16 * groups, k0 / 32);
        for (int j = 0; j < groups; j++)
            turn_blocks(type, f, n0 + 16 * j, k0 / 32, &t[j]);
        for (int j = 0; j < groups; j++) {
            SIMD_NAME(halves)(t[j].half[0], t[j].d);
            if (type == BLOCK_Q4_1)
                SIMD_NAME(halves)(t[j].half[1], t[j].m);
        }
        const float *a = g->a + row0 * g->rsa + k0;
        for (int32_t k = 0; k < 32; k++)
            for (int j = 0; j < groups; j++) {
                simd_f w[SIMD_PIECES];
                if (type == BLOCK_Q4_1)
                    SIMD_NAME(q4_1_values)(&t[j], k, w);
                else
                    SIMD_NAME(q8_0_values)(&t[j], k, w);
                for (int i = 0; i < mr; i++)
                    for (int p = 0; p < SIMD_PIECES; p++)
                        r[i][j][p] += a[i * g->rsa + k] * w[p];
            }
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
    uint16_t half[2][16];
    float d[16], m[16]; // these halves as floats
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

// Blocks b of 16 rows of W, from row n on.
static inline __attribute__((always_inline)) void
turn_blocks(const int type, const struct few *f, int32_t n, int32_t b, struct turned *t)
{
    const struct block_rows *part = f->part;
    int32_t row = f->row0 + n;
    for (; row >= part->rows; part++)
        row -= part->rows;
    size_t stride = block_row_bytes(part);
    const uint8_t *x = part->at + (size_t)row * stride + (size_t)b * (size_t)part->type->bytes;
    const int values = type == BLOCK_Q4_1 ? 4 : 2, halves = type == BLOCK_Q4_1 ? 1 : 2;
    for (int h = 0; h < halves; h++) {
        bytes16 r[16];
        for (int i = 0; i < 16; i++)
            r[i] = *(const bytes16 *)(x + (size_t)i * stride + values + 16 * h);
        turn16(r);
        memcpy(t->byte[16 * h], r, sizeof r);
    }
    for (int i = 0; i < 16; i++) {
        memcpy(&t->half[0][i], x + (size_t)i * stride, sizeof t->half[0][i]);
        memcpy(&t->half[1][i], x + (size_t)i * stride + 2, sizeof t->half[1][i]);
    }
}

// A block of each of these rows is about to be read, of rows that lie far apart; those that come
// after all of them lie in one piece, of which as much is asked for now.
static inline void fetch_ahead(const struct few *f, int32_t n, int32_t rows, int32_t b)
{
    const struct block_rows *part = f->part;
    int32_t row = f->row0 + n;
    for (; row >= part->rows; part++)
        row -= part->rows;
    size_t bytes = (size_t)rows * (size_t)part->type->bytes;
    const uint8_t *next = part->at + (size_t)(row + rows) * block_row_bytes(part);
    if (row + rows >= part->rows)
        return;
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(next + (size_t)b * bytes + i);
}

#define SIMD_FILE "gemv.c"
#include "simd_each.h"

// Whether every group of columns lies in one part, and in blocks of 32.
static bool can(const struct gemm *g, struct few *f)
{
    const struct gemm_mat *w = &g->b;
    if (!w->blocks || !w->trans || w->packed || g->bf16 || g->m < 1 || g->m > MOST_ROWS ||
        g->csa != 1 || g->n % (16 * GROUPS) || g->k % 32)
        return false;
    *f = (struct few){.g = g, .part = w->blocks, .row0 = w->row0};
    for (; f->row0 >= f->part->rows; f->part++)
        f->row0 -= f->part->rows;
    int32_t left = g->n + f->row0;
    if (f->row0 % 16)
        return false;
    for (const struct block_rows *p = f->part; left > 0; left -= p++->rows)
        if ((p->type->id != BLOCK_Q4_1 && p->type->id != BLOCK_Q8_0) || p->rows % (16 * GROUPS))
            return false;
    return true;
}

bool gemm_few(const struct gemm *g)
{
    struct few f;
    if (!can(g, &f))
        return false;
    for (int32_t n = 0; n < g->n; n += 16 * GROUPS) {
        const struct block_rows *part = f.part;
        int32_t row = f.row0 + n;
        for (; row >= part->rows; part++)
            row -= part->rows;
        for (int32_t i = 0; i < g->m; i += ROWS_AT_ONCE) {
            int mr = g->m - i < ROWS_AT_ONCE ? g->m - i : ROWS_AT_ONCE;
            SIMD_PICK(few_rows, (&f, part->type->id, mr, i, n));
        }
    }
    return true;
}

#endif
