#include "fed/middle.h"

#include "base/mem.h"
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

// The rule. What all clients share is B0; memory of a client is the adapter its model runs with.

struct middle {
    struct products pairs;
    float *frozen, *square;
};

static void rule_close(void *shared)
{
    struct middle *m = shared;
    products_close(&m->pairs);
    mem_free(m->frozen);
    mem_free(m->square);
    mem_free(m);
}

static int rule_open(const struct local_setup *s, const void *opt, void **shared, struct err *err)
{
    struct middle *m = mem_alloc(MEM_ADAPTER, sizeof *m);
    (void)opt;
    *shared = m;
    if (products_open(&m->pairs, s->shape, err))
        return -1;
    const size_t rank = m->pairs.rank;
    m->frozen = mem_alloc(MEM_ADAPTER, s->shape->n_values * sizeof *m->frozen);
    m->square = mem_alloc(MEM_ADAPTER, rank * rank * sizeof *m->square);
    middle_draw(&m->pairs, s->seed, m->frozen);
    return 0;
}

static size_t rule_bytes(const struct local_setup *s)
{
    return s->shape->n_values * sizeof(float);
}

static void rule_expand(void *shared, const float *x, float *adapter)
{
    const struct middle *m = shared;
    middle_expand(&m->pairs, m->frozen, x, adapter);
}

static const float *rule_before(struct local *l, int32_t step, const float *x)
{
    (void)step;
    rule_expand(l->shared, x, l->memory);
    return l->memory;
}

static void rule_after(struct local *l, int32_t step, float *grad)
{
    const struct middle *m = l->shared;
    (void)step;
    middle_gradient(&m->pairs, m->frozen, grad, m->square);
}

const struct local_rule middle_rule = {
    .open = rule_open,
    .close = rule_close,
    .size_bytes = rule_bytes,
    .expand = rule_expand,
    .before = rule_before,
    .after = rule_after,
};
