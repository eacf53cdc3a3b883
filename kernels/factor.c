// Low rank: M (rows, cols) as P Q^T. Factors are stored column after column; sums are in double, in
// quant_dot's order.
#include "kernels_codec.h"

#include <string.h>

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
