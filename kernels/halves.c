// A few rows times a weight that is held as fp32, bf16 or fp16, as decoding has it: lines of 16
// rows of W are turned by words, which stay in the first cache, where gemm would go through memory
// with a panel of floats. Every element of C is the same chain of the same operations as there, so
// the bits are the same.
#ifdef SIMD_LANES // read for each instruction set

#define half_columns SIMD_NAME(half_columns)

// n halves of a row as floats, n a multiple of SIMD_LANES.
SIMD_INLINE void SIMD_NAME(widen)(const uint16_t *x, int32_t n, float *to)
{
    for (int32_t k = 0; k < n; k += SIMD_LANES)
#if SIMD_X86 && SIMD_LANES == 16
        _mm512_storeu_ps(
            to + k, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(x + k))));
#elif SIMD_X86 && SIMD_LANES == 8
        _mm256_storeu_ps(to + k,
                         _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x + k))));
#else
        for (int i = 0; i < SIMD_LANES; i++)
            to[k + i] = f16_to_f32(x[k + i]);
#endif
}

// The first n words of SIMD_LANES rows, a row a lane.
SIMD_INLINE void SIMD_NAME(turn)(const uint8_t *x, size_t stride, int32_t n,
                                 uint32_t (*to)[AT_ONCE])
{
    for (int32_t k = 0; k < n; k += 4) {
#if SIMD_X86 && SIMD_LANES == 16
        __m512i r[4];
        words_turn_avx512(x + 4 * k, stride, r);
        for (int j = 0; j < 4; j++)
            _mm512_storeu_si512(to[k + j], r[j]);
#elif SIMD_X86 && SIMD_LANES == 8
        __m256i r[4];
        words_turn_avx2(x + 4 * k, stride, r);
        for (int j = 0; j < 4; j++)
            _mm256_storeu_si256((__m256i *)(void *)to[k + j], r[j]);
#else
        words4 r[4];
        words_turn_base(x + 4 * k, stride, r);
        for (int j = 0; j < 4; j++)
            *(words4 *)(void *)to[k + j] = r[j];
#endif
    }
}

// A line of SIMD_LANES rows.
SIMD_INLINE void SIMD_NAME(turn_line)(const int32_t dtype, const uint8_t *x, size_t stride,
                                      uint32_t (*to)[AT_ONCE])
{
    float wide[SIMD_LANES][LINE / 2];
    if (dtype != KERNEL_F16) {
        SIMD_NAME(turn)(x, stride, LINE / 4, to);
        return;
    }
    for (size_t i = 0; i < SIMD_LANES; i++)
        SIMD_NAME(widen)((const uint16_t *)(const void *)(x + i * stride), LINE / 2, wide[i]);
    SIMD_NAME(turn)((const uint8_t *)wide, sizeof *wide, LINE / 2, to);
}

// Value k of a line, of those rows.
SIMD_INLINE simd_f SIMD_NAME(value)(const int32_t dtype, uint32_t (*line)[AT_ONCE], int32_t k,
                                    int32_t row)
{
    if (dtype != KERNEL_BF16)
        return *(const simd_f *)(const void *)(line[k] + row);
    const simd_i both = *(const simd_i *)(const void *)(line[k / 2] + row);
    if (k % 2)
        return (simd_f)(both & (int32_t)0xffff0000);
    return (simd_f)(both << 16);
}

// mr rows of C, AT_ONCE columns of it; mr and dtype are constants where this is inlined. A line of
// each row of W is turned before the next: where rows lie a power of two apart, a cache has room
// for few of them. Chains of a row of A go on side by side, or those of rows of A.
SIMD_INLINE void half_columns(const int mr, const int32_t dtype, const struct gemm *g, int32_t row0,
                              int32_t n0)
{
    enum { GROUPS = AT_ONCE / SIMD_LANES };
    const int32_t size = dtype == KERNEL_F32 ? 4 : 2, step = LINE / size;
    const size_t stride = (size_t)g->b.ld * (size_t)size;
    const uint8_t *w = (const uint8_t *)g->b.w + (size_t)n0 * stride;
    uint32_t line[LINE / 2][AT_ONCE];
    simd_f r[MR][GROUPS];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < GROUPS; j++)
            r[i][j] =
                g->c0 ? *simd_of(g->c0 + (row0 + i) * g->ldc0 + n0 + j * SIMD_LANES) : (simd_f){0};
    for (int32_t k0 = 0; k0 < g->k; k0 += step, w += LINE) {
        const float *a = g->a + row0 * g->rsa + k0;
        for (size_t j = 0; j < AT_ONCE; j += SIMD_LANES) {
            uint32_t(*to)[AT_ONCE] = (uint32_t(*)[AT_ONCE])(void *)(line[0] + j);
            SIMD_NAME(turn_line)(dtype, w + j * stride, stride, to);
        }
        for (int first = 0; first < GROUPS; first += mr == 1 ? GROUPS : 1)
            for (int32_t k = 0; k < step; k++)
                for (int j = first; j < (mr == 1 ? GROUPS : first + 1); j++) {
                    const simd_f v = SIMD_NAME(value)(dtype, line, k, j * SIMD_LANES);
                    for (int i = 0; i < mr; i++)
                        r[i][j] += a[i * g->rsa + k] * v;
                }
    }
    const struct gemm_range *range = g->e ? &g->range[n0 / GEMM_PANEL] : NULL;
    ptrdiff_t lde = g->lde ? g->lde : gemm_width(g->n, n0 / GEMM_PANEL);
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < GROUPS; j++) {
            const int at = j * SIMD_LANES;
            for (int32_t q = 0; range && q < range->n; q++)
                r[i][j] += g->u[(row0 + i) * g->ldu + range->lo + q] *
                           *simd_of(g->e + range->at + q * lde + n0 % GEMM_PANEL + at);
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
#include "words.h"

// Columns of C at a time: more rows of W than these a CPU does not see coming, and two chains of
// AVX2 hide that each waits for itself; rows together, unless they go one by one; bytes of a line.
enum { AT_ONCE = 16, MR = 4, MOST_ROWS = 8, LINE = 64 };

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
