#include "fed/product.h"

#include "base/mem.h"

#include <string.h>

// "layers.0.q.A" and "layers.0.q.B" differ in their last letter.
static bool partners(const struct shape_tensor *a, const struct shape_tensor *b)
{
    size_t n = strlen(a->name);
    return b->kind == SHAPE_LORA_B && strlen(b->name) == n && n > 0 &&
           strncmp(a->name, b->name, n - 1) == 0 && a->rows == b->cols;
}

int products_open(struct products *p, const struct shape *shape, struct err *err)
{
    memset(p, 0, sizeof *p);
    p->pair = mem_alloc(MEM_SERVER, (shape->n_tensors + 1) * sizeof *p->pair);
    for (uint32_t i = 0; i < shape->n_tensors; i++) {
        const struct shape_tensor *a = &shape->tensors[i], *b = shape->tensors;
        const struct shape_tensor *end = b + shape->n_tensors;
        if (a->kind != SHAPE_LORA_A)
            continue;
        while (b < end && !partners(a, b))
            b++;
        if (b == end) {
            products_close(p);
            return err_set(err, "%s has no B to multiply it by", a->name);
        }
        p->pair[p->n_pairs++] =
            (struct product_pair){a->offset, b->offset, p->n, a->rows, b->rows, a->cols};
        p->n += (size_t)b->rows * a->cols;
    }
    if (p->n_pairs == 0) {
        products_close(p);
        return err_set(err, "this task has no low-rank adapter");
    }
    return 0;
}

void products_close(struct products *p)
{
    mem_free(p->pair);
    memset(p, 0, sizeof *p);
}

void products_add(const struct products *p, const float *theta, const float *delta, float weight,
                  float *sum)
{
    for (uint32_t i = 0; i < p->n_pairs; i++) {
        const struct product_pair *q = &p->pair[i];
        for (size_t row = 0; row < q->rows; row++) {
            float *to = sum + q->at + row * q->cols;
            for (size_t k = 0; k < q->rank; k++) {
                size_t at_b = q->b + row * q->rank + k, at_a = q->a + k * q->cols;
                float b = weight * (delta ? theta[at_b] + delta[at_b] : theta[at_b]);
                const float *a = theta + at_a, *da = delta ? delta + at_a : NULL;
                for (size_t c = 0; c < q->cols; c++)
                    to[c] += b * (da ? a[c] + da[c] : a[c]);
            }
        }
    }
}

void products_mean(const struct products *p, const float *theta, double weight_sum, double lr,
                   float *sum)
{
    float scale = (float)(lr / weight_sum);
    for (size_t i = 0; i < p->n; i++)
        sum[i] *= scale;
    if (lr != 1)
        products_add(p, theta, NULL, (float)(1 - lr), sum);
}

void products_rest(const struct products *p, const float *theta, float *sum, float *backbone)
{
    products_add(p, theta, NULL, -1.0f, sum);
    for (size_t i = 0; i < p->n; i++)
        backbone[i] += sum[i];
}
