// Low rank: M (rows, cols) as P Q^T. Factors are stored column after column; sums are in double, in
// quant_dot's order. And products of stacks of factors by narrow matrices: a value is one chain of
// fused multiply-adds in the order of terms, the same bits with every instruction set.
#ifdef SIMD_LANES // read for each instruction set

#define stack_rows SIMD_NAME(stack_rows)
// Sums fill three quarters of the registers, and no more than an adapter's usual rank.
#define STACK_FILL (SIMD_REGISTERS * 3 / 4 / SIMD_PIECES)
#define STACK_ROWS (STACK_FILL < 16 ? STACK_FILL : 16)
#define STACK_FEW  (STACK_FILL < 6 ? 2 : 4) // of 16, 160 or 256 rows sixes leave four

// Of a register: zeros, loaded, stored, and x v + sum rounded once. By intrinsics and their types,
// or else GCC keeps the sums in memory.
#undef STACK_TYPE
#undef STACK_ZERO
#undef STACK_LOAD
#undef STACK_STORE
#undef STACK_ADD
#if SIMD_LANES == 16
#define STACK_TYPE           __m512
#define STACK_ZERO           _mm512_setzero_ps()
#define STACK_LOAD(from)     _mm512_loadu_ps(from)
#define STACK_STORE(to, v)   _mm512_storeu_ps(to, v)
#define STACK_ADD(x, v, sum) _mm512_fmadd_ps(_mm512_set1_ps(x), v, sum)
#elif SIMD_LANES == 8
#define STACK_TYPE           __m256
#define STACK_ZERO           _mm256_setzero_ps()
#define STACK_LOAD(from)     _mm256_loadu_ps(from)
#define STACK_STORE(to, v)   _mm256_storeu_ps(to, v)
#define STACK_ADD(x, v, sum) _mm256_fmadd_ps(_mm256_set1_ps(x), v, sum)
#else
#define STACK_TYPE         simd_f
#define STACK_ZERO         ((simd_f){0})
#define STACK_LOAD(from)   (*simd_of(from))
#define STACK_STORE(to, v) (*simd_at(to) = (v))
#define STACK_ADD(x, v, sum)                                                                       \
    ((simd_f){__builtin_fmaf(x, (v)[0], (sum)[0]), __builtin_fmaf(x, (v)[1], (sum)[1]),            \
              __builtin_fmaf(x, (v)[2], (sum)[2]), __builtin_fmaf(x, (v)[3], (sum)[3])})
#endif

// Rows [row, row + rows) of 16 columns.
SIMD_INLINE void stack_rows(const struct factor_stack *s, size_t row, const int rows,
                            const float *b, size_t width, float *c)
{
    STACK_TYPE sum[STACK_ROWS][SIMD_PIECES];
    for (int i = 0; i < rows; i++)
        for (int p = 0; p < SIMD_PIECES; p++)
            sum[i][p] = STACK_ZERO;
    for (size_t t = 0; t < s->n; t++) {
        const float *a = s->at[t] + row * s->row;
        for (size_t j = 0; j < s->each; j++, a += s->col, b += width) {
            STACK_TYPE v[SIMD_PIECES];
            for (int p = 0; p < SIMD_PIECES; p++)
                v[p] = STACK_LOAD(b + p * SIMD_LANES);
            for (int i = 0; i < rows; i++) {
                const float x = a[(size_t)i * s->row];
                for (int p = 0; p < SIMD_PIECES; p++)
                    sum[i][p] = STACK_ADD(x, v[p], sum[i][p]);
            }
        }
    }
    for (int i = 0; i < rows; i++)
        for (int p = 0; p < SIMD_PIECES; p++)
            STACK_STORE(c + (row + (size_t)i) * width + (size_t)p * SIMD_LANES, sum[i][p]);
}

SIMD_KERNEL void SIMD_NAME(factor_product)(const struct factor_stack *s, size_t m, const float *b,
                                           size_t width, float *c)
{
    for (size_t g = 0; g < width; g += SIMD_WIDE) {
        size_t i = 0;
        for (; i + STACK_ROWS <= m; i += STACK_ROWS)
            stack_rows(s, i, STACK_ROWS, b + g, width, c + g);
        for (; i + STACK_FEW <= m; i += STACK_FEW)
            stack_rows(s, i, STACK_FEW, b + g, width, c + g);
        for (; i < m; i++)
            stack_rows(s, i, 1, b + g, width, c + g);
    }
}

#undef stack_rows
#undef STACK_FILL
#undef STACK_ROWS
#undef STACK_FEW

#else

#include "kernels_codec.h"
#include "simd.h"

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

#define SIMD_FILE "factor.c"
#include "simd_each.h"

void factor_product(const struct factor_stack *s, size_t m, const float *b, size_t width, float *c)
{
    SIMD_PICK(factor_product, (s, m, b, width, c));
}

// Gram-Schmidt.
void factor_orthonormalise(float *v, size_t n, size_t rank)
{
    for (size_t k = 0; k < rank; k++) {
        float *a = v + k * n;
        double before = quant_sum_sq(a, n);
        for (size_t j = 0; j < k; j++) {
            const float *b = v + j * n;
            quant_f32_give(b, n, (struct quant_sink){a, -(float)quant_dot(a, b, n), true});
        }
        double after = quant_sum_sq(a, n);
        bool own = after > before * 1e-10 && after > 0x1p-200;
        mix_scale(own ? (float)(1 / __builtin_sqrt(after)) : 0, n, a);
    }
}

void factor_times(const float *m, size_t rows, size_t cols, const float *q, size_t rank, float *p)
{
    for (size_t k = 0; k < rank; k++)
        for (size_t i = 0; i < rows; i++)
            p[k * rows + i] = (float)quant_dot(m + i * cols, q + k * cols, cols);
}

void factor_times_turned(const float *m, size_t rows, size_t cols, const float *p, size_t rank,
                         float *q)
{
    memset(q, 0, cols * rank * sizeof *q);
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < rank; k++) {
            struct quant_sink add = {q + k * cols, p[k * rows + i], true};
            quant_f32_give(m + i * cols, cols, add); // Q_k += P_ik M_i
        }
}

void factor_give(const float *p, const float *q, size_t rows, size_t cols, size_t rank, float *row,
                 struct quant_sink to)
{
    for (size_t i = 0; i < rows; i++) {
        memset(row, 0, cols * sizeof *row);
        for (size_t k = 0; k < rank; k++) {
            struct quant_sink add = {row, p[k * rows + i], true};
            quant_f32_give(q + k * cols, cols, add);
        }
        quant_f32_give(row, cols, quant_sink_at(to, i * cols));
    }
}

#endif
