// A few rows times a weight that is held as fp32, bf16 or fp16, as decoding has it: lines of as
// many rows of W as a vector has lanes are widened and turned in registers, where gemm would go
// through memory twice. Every element of C is the same chain of the same operations as there, so
// the bits are the same.
#ifdef SIMD_LANES // read for each instruction set

#include "simd_turn.h"

#define half_columns SIMD_NAME(half_columns)

// 2 SIMD_LANES values of a row: a has those before b has, or for bf16, where that is less work, a
// has every other one.
SIMD_INLINE void SIMD_NAME(widen)(const int32_t dtype, const void *at, simd_f *a, simd_f *b)
{
    const uint16_t *x = at;
    if (dtype == KERNEL_F32) {
        *a = *simd_of(at);
        *b = *simd_of((const float *)at + SIMD_LANES);
        return;
    }
    if (dtype == KERNEL_BF16) {
        simd_i both = *(const simd_i *)at;
        *a = (simd_f)(both << 16);
        *b = (simd_f)(both & (int32_t)0xffff0000);
        return;
    }
#if SIMD_X86 && SIMD_LANES == 16
    *a = (simd_f)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)x));
    *b = (simd_f)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(x + 16)));
#elif SIMD_X86 && SIMD_LANES == 8
    *a = (simd_f)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)x));
    *b = (simd_f)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x + 8)));
#else
    for (int i = 0; i < SIMD_LANES; i++) {
        (*a)[i] = f16_to_f32(x[i]);
        (*b)[i] = f16_to_f32(x[SIMD_LANES + i]);
    }
#endif
}

// mr rows of C, AT_ONCE columns of it; mr and dtype are constants where this is inlined. Of a row
// of W at least a line of 64 bytes is used before the next one's: where rows lie a power of two
// apart, a cache has room for few of them.
SIMD_INLINE void half_columns(const int mr, const int32_t dtype, const struct gemm *g, int32_t row0,
                              int32_t n0)
{
    enum { GROUPS = AT_ONCE / SIMD_LANES, PIECE = 2 * SIMD_LANES };
    const int32_t size = dtype == KERNEL_F32 ? 4 : 2;
    const int32_t step = 64 / size > PIECE ? 64 / size : PIECE;
    const uint8_t *w0 = (const uint8_t *)g->b.w + n0 * g->b.ld * size;
    simd_f r[MR][GROUPS];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < GROUPS; j++)
            r[i][j] =
                g->c0 ? *simd_of(g->c0 + (row0 + i) * g->ldc0 + n0 + j * SIMD_LANES) : (simd_f){0};
    for (int32_t k0 = 0; k0 < g->k; k0 += step) {
        const ptrdiff_t soon = soon_from(g, n0, k0 * size, size);
        for (int j = 0; j < GROUPS; j++) {
            const uint8_t *x = w0 + j * SIMD_LANES * g->b.ld * size;
            for (int i = 0; i < SIMD_LANES; i++)
                for (int32_t line = 0; line < step * size; line += 64)
                    __builtin_prefetch(x + i * g->b.ld * size + soon + line, 0, 2);
            for (int32_t p = k0; p < k0 + step; p += PIECE) {
                simd_f w[2][SIMD_LANES];
                for (int i = 0; i < SIMD_LANES; i++)
                    SIMD_NAME(widen)(dtype, x + (i * g->b.ld + p) * size, &w[0][i], &w[1][i]);
                simd_transpose(w[0]);
                simd_transpose(w[1]);
                for (int k = 0; k < PIECE; k++) {
                    const simd_f *v = dtype == KERNEL_BF16 ? &w[k % 2][k / 2]
                                                           : &w[k / SIMD_LANES][k % SIMD_LANES];
                    for (int i = 0; i < mr; i++)
                        r[i][j] += g->a[(row0 + i) * g->rsa + p + k] * *v;
                }
            }
        }
    }
    const struct gemm_range *range = g->e ? &g->range[n0 / GEMM_PANEL] : NULL;
    ptrdiff_t lde = g->lde ? g->lde : gemm_width(g->n, n0 / GEMM_PANEL);
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < GROUPS; j++) {
            const int at = j * SIMD_LANES;
            for (int32_t q = 0; range && q < range->n; q++)
                r[i][j] += g->u[(row0 + i) * g->ldu + range->lo + q] *
                           *simd_of(g->e + range->at + q * lde + at);
            *simd_at(g->c + (row0 + i) * g->ldc + n0 + at) = r[i][j] * g->alpha;
        }
}

#define HALF_ROWS(dtype)                                                                           \
    do {                                                                                           \
        if (mr == 1)                                                                               \
            half_columns(1, dtype, g, row0, n0);                                                   \
        else                                                                                       \
            half_columns(MR, dtype, g, row0, n0);                                                  \
    } while (0)

SIMD_KERNEL void SIMD_NAME(half_rows)(const struct gemm *g, int mr, int32_t row0, int32_t n0)
{
    if (g->b.dtype == KERNEL_F32)
        HALF_ROWS(KERNEL_F32);
    else if (g->b.dtype == KERNEL_BF16)
        HALF_ROWS(KERNEL_BF16);
    else
        HALF_ROWS(KERNEL_F16);
}

#undef HALF_ROWS

#else

#include "base/half.h"
#include "gemm.h"
#include "simd.h"

#if SIMD_X86
#include <immintrin.h>
#endif

// Columns of C at a time, a panel; rows together, unless they go one by one.
enum { AT_ONCE = GEMM_PANEL, MR = 4, MOST_ROWS = 8, AHEAD = 256 };

// How far from the beginning of its row, in bytes, is what is asked for now that byte `at` is used:
// AHEAD further on, or in the row that comes AT_ONCE later.
static inline ptrdiff_t soon_from(const struct gemm *g, int32_t n0, int32_t at, int32_t size)
{
    ptrdiff_t row = (ptrdiff_t)g->k * size, soon = at + AHEAD;
    if (soon < row)
        return soon;
    return n0 + 2 * AT_ONCE <= g->n ? AT_ONCE * g->b.ld * size + soon - row : at;
}

#define SIMD_FILE "halves.c"
#include "simd_each.h"

static void some_columns(void *arg, int32_t n0, int32_t n_columns, float *work)
{
    const struct gemm *g = arg;
    (void)work;
    for (int32_t n = n0; n < n0 + n_columns; n += AT_ONCE)
        for (int32_t i = 0, mr; i < g->m; i += mr) {
            mr = g->m - i < MR ? 1 : MR;
            SIMD_PICK(half_rows, (g, mr, i, n));
        }
}

bool gemm_few_halves(const struct gemm *g)
{
    const struct gemm_mat *w = &g->b;
    if (w->blocks || !w->trans || w->packed || g->bf16 || g->m < 1 || g->m > MOST_ROWS ||
        g->csa != 1 || g->n % AT_ONCE || g->k % 32)
        return false;
    struct gemm whole = *g;
    gemm_share(g, some_columns, &whole, NULL);
    return true;
}

#endif
