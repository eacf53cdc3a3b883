// A few rows times a weight that is held as bf16 or fp16, as decoding has it: a line of each of as
// many rows of W as a vector has lanes is widened and turned in registers, where gemm would go
// through memory twice. Every element of C is the same chain of the same operations as there, so
// the bits are the same.
#ifdef SIMD_LANES // read for each instruction set

#include "simd_turn.h"

#define half_columns SIMD_NAME(half_columns)

// 2 SIMD_LANES values of a row: a has those before b has, or for bf16, where that is less work, a
// has every other one.
SIMD_INLINE void SIMD_NAME(widen)(const bool bf16, const uint16_t *x, simd_f *a, simd_f *b)
{
    if (bf16) {
        simd_i both = *(const simd_i *)(const void *)x;
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

// mr rows of C, AT_ONCE columns of it; mr and bf16 are constants where this is inlined.
SIMD_INLINE void half_columns(const int mr, const bool bf16, const struct gemm *g, int32_t row0,
                              int32_t n0)
{
    enum { GROUPS = AT_ONCE / SIMD_LANES };
    simd_f r[MR][GROUPS];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < GROUPS; j++)
            r[i][j] =
                g->c0 ? *simd_of(g->c0 + (row0 + i) * g->ldc0 + n0 + j * SIMD_LANES) : (simd_f){0};
    for (int32_t k0 = 0; k0 < g->k; k0 += 2 * SIMD_LANES)
        for (int j = 0; j < GROUPS; j++) {
            const uint16_t *x = (const uint16_t *)g->b.w + (n0 + j * SIMD_LANES) * g->b.ld + k0;
            simd_f w[2][SIMD_LANES];
            for (int i = 0; i < SIMD_LANES; i++)
                SIMD_NAME(widen)(bf16, x + i * g->b.ld, &w[0][i], &w[1][i]);
            simd_transpose(w[0]);
            simd_transpose(w[1]);
            for (int k = 0; k < 2 * SIMD_LANES; k++) {
                const simd_f *v = bf16 ? &w[k % 2][k / 2] : &w[k / SIMD_LANES][k % SIMD_LANES];
                for (int i = 0; i < mr; i++)
                    r[i][j] += g->a[(row0 + i) * g->rsa + k0 + k] * *v;
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

SIMD_KERNEL void SIMD_NAME(half_rows)(const struct gemm *g, int mr, int32_t row0, int32_t n0)
{
    const bool bf16 = g->b.dtype == KERNEL_BF16;
    if (mr == 1 && bf16)
        half_columns(1, true, g, row0, n0);
    else if (mr == 1)
        half_columns(1, false, g, row0, n0);
    else if (bf16)
        half_columns(MR, true, g, row0, n0);
    else
        half_columns(MR, false, g, row0, n0);
}

#else

#include "base/half.h"
#include "gemm.h"
#include "simd.h"

#if SIMD_X86
#include <immintrin.h>
#endif

// Columns of C at a time, a panel; rows together, unless they go one by one.
enum { AT_ONCE = GEMM_PANEL, MR = 4, MOST_ROWS = 8 };

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
    if (w->blocks || !w->trans || w->packed || w->dtype == KERNEL_F32 || g->bf16 || g->m < 1 ||
        g->m > MOST_ROWS || g->csa != 1 || g->n % AT_ONCE || g->k % 32)
        return false;
    struct gemm whole = *g;
    gemm_share(g, some_columns, &whole, NULL);
    return true;
}

#endif
