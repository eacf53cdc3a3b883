// The two-dimensional cosine transform of small blocks. Sums are in the order of k whatever the
// vector width.
#ifdef SIMD_LANES // read for each instruction set

// out (r, c) = left (r, r) x (r, c) right (c, c), rows of x are stride apart.
SIMD_KERNEL void SIMD_NAME(sandwich)(const float *left, const float *x, size_t stride,
                                     const float *right, size_t r, size_t c, float *out)
{
    float mid[DCT_MOST * DCT_MOST] = {0};
    for (size_t i = 0; i < r; i++)
        for (size_t k = 0; k < r; k++)
            for (size_t j = 0; j < c; j++)
                mid[i * c + j] += left[i * r + k] * x[k * stride + j];
    memset(out, 0, r * c * sizeof *out);
    for (size_t i = 0; i < r; i++)
        for (size_t k = 0; k < c; k++)
            for (size_t j = 0; j < c; j++)
                out[i * c + j] += mid[i * c + k] * right[k * c + j];
}

#else

#include "kernels_codec.h"

#include <string.h>

#define SIMD_FILE "dct.c"
#include "simd_each.h"

static size_t block_at(const struct dct_blocks *b, size_t i)
{
    return i / b->across * b->r * b->across * b->c + i % b->across * b->c;
}

void dct_forward(const struct dct_blocks *b, const struct dct_basis *down,
                 const struct dct_basis *across, const float *x, float *y)
{
    for (size_t i = 0; i < b->down * b->across; i++)
        SIMD_PICK(sandwich, (down->d, x + block_at(b, i), b->across * b->c, across->t, b->r, b->c,
                             y + i * b->r * b->c));
}

void dct_backward(const struct dct_blocks *b, const struct dct_basis *down,
                  const struct dct_basis *across, const float *y, struct quant_sink to)
{
    float x[DCT_MOST * DCT_MOST];
    size_t size = b->r * b->c, stride = b->across * b->c;
    for (size_t i = 0; i < b->down * b->across; i++) {
        bool zero = quant_absmax_bits(y + i * size, size) == 0;
        if (zero && to.add)
            continue;
        memset(x, 0, size * sizeof *x);
        if (!zero)
            SIMD_PICK(sandwich, (down->t, y + i * size, b->c, across->d, b->r, b->c, x));
        for (size_t r = 0; r < b->r; r++)
            quant_f32_give(x + r * b->c, b->c, quant_sink_at(to, block_at(b, i) + r * stride));
    }
}

#endif
