#include "fed/middle.h"

#include "base/rng.h"

#include <math.h>
#include <string.h>

void middle_draw(const struct products *p, uint64_t seed, float *frozen)
{
    for (uint32_t i = 0; i < p->n_pairs; i++) {
        const struct product_pair *q = &p->pair[i];
        struct rng r = rng_stream(seed, RNG_INIT, i, 2, 0);
        double sigma = 1.0 / sqrt((double)q->rows);
        for (size_t j = 0; j < (size_t)q->rows * q->rank; j++)
            frozen[q->b + j] = (float)(sigma * rng_normal(&r));
    }
}

void middle_expand(const struct products *p, const float *frozen, const float *z, float *adapter)
{
    for (uint32_t i = 0; i < p->n_pairs; i++) {
        const struct product_pair *q = &p->pair[i];
        size_t rank = q->rank;
        const float *r = z + q->b; // (rank, rank)
        memcpy(adapter + q->a, z + q->a, rank * q->cols * sizeof *adapter);
        memset(adapter + q->b, 0, q->rows * rank * sizeof *adapter);
        for (size_t row = 0; row < q->rows; row++) {
            const float *b0 = frozen + q->b + row * rank;
            float *b = adapter + q->b + row * rank;
            for (size_t j = 0; j < rank; j++)
                for (size_t k = 0; k < rank; k++)
                    b[k] += b0[j] * r[j * rank + k];
        }
    }
}

void middle_gradient(const struct products *p, const float *frozen, float *grad, float *scratch)
{
    for (uint32_t i = 0; i < p->n_pairs; i++) {
        const struct product_pair *q = &p->pair[i];
        size_t rank = q->rank;
        memset(scratch, 0, rank * rank * sizeof *scratch);
        for (size_t row = 0; row < q->rows; row++) {
            const float *b0 = frozen + q->b + row * rank, *db = grad + q->b + row * rank;
            for (size_t j = 0; j < rank; j++)
                for (size_t k = 0; k < rank; k++)
                    scratch[j * rank + k] += b0[j] * db[k];
        }
        memcpy(grad + q->b, scratch, rank * rank * sizeof *grad);
    }
}
