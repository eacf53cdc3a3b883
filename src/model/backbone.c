// Weights that change after loading: a backbone that moves between rounds, W = W0 + scale * P,
// where P has the size of B A, for every projection with an adapter; and an adapter merged for
// good, W + scale * B A.
#include "base/mem.h"
#include "model/inner.h"

#include <string.h>

// A projection with an adapter: n values of its W, the at-th and what follows of all such values.
struct target {
    const struct kernel_linear *k;
    const struct kernel_lora *lora;
    int32_t rank0; // of its A among those that share the input
    size_t n, at;
};
typedef void target_fn(struct model *m, const struct target *t, float *w, const void *arg);

static size_t largest_target(const struct model *m)
{
    size_t most = 0;
    for (int i = 0; i < LINS; i++) // all layers are alike
        for (int t = 0; t < m->layer[0].lin[i].n_lora; t++) {
            const struct kernel_linear *k = &m->layer[0].lin[i];
            size_t n = (size_t)k->lora[t].rows * (size_t)k->w.cols;
            most = n > most ? n : most;
        }
    return most;
}

// Calls fn on the rows of W of every target, in the order of their A; at counts the values.
static size_t each_target(struct model *m, target_fn *fn, const void *arg)
{
    size_t at = 0;
    float *room = fn ? dev_room(m->dev, largest_target(m) * sizeof *room) : NULL;
    for (int32_t l = 0; l < m->cfg.layers; l++)
        for (int i = 0; i < LINS; i++) {
            const struct kernel_linear *k = &m->layer[l].lin[i];
            int32_t rank0 = 0;
            for (int t = 0; t < k->n_lora; rank0 += k->lora[t++].rank) {
                size_t cols = (size_t)k->w.cols, n = (size_t)k->lora[t].rows * cols;
                float *w = (float *)m->weights + m->layer[l].at[i] + (size_t)k->lora[t].row0 * cols;
                if (fn) {
                    float *here = dev_take(m->dev, w, n * sizeof *w, room);
                    struct target it = {k, &k->lora[t], rank0, n, at};
                    fn(m, &it, here, arg);
                    dev_give(m->dev, w, n * sizeof *w, room);
                }
                at += n;
            }
        }
    if (room)
        m->dev->row->unstage(m->dev, room);
    return at;
}

static void keep(struct model *m, const struct target *t, float *w, const void *arg)
{
    (void)arg;
    memcpy(m->start + t->at, w, t->n * sizeof *w);
}

static void move(struct model *m, const struct target *t, float *w, const void *arg)
{
    const float *p = arg, *start = m->start + t->at;
    for (size_t i = 0; i < t->n; i++)
        w[i] = p ? start[i] + t->k->scale * p[t->at + i] : start[i];
}

static void fold(struct model *m, const struct target *t, float *w, const void *arg)
{
    const float *adapter = arg, *b = adapter + t->lora->b;
    size_t cols = (size_t)t->k->w.cols;
    const float *a = adapter + t->k->a + (size_t)t->rank0 * cols;
    (void)m;
    for (int32_t row = 0; row < t->lora->rows; row++, w += cols, b += t->lora->rank)
        for (int32_t r = 0; r < t->lora->rank; r++)
            for (size_t c = 0; c < cols; c++)
                w[c] += t->k->scale * b[r] * a[(size_t)r * cols + c];
}

size_t model_product_values(struct model *m)
{
    return each_target(m, NULL, NULL);
}

int model_backbone_open(struct model *m, struct err *err)
{
    if (m->dtype != KERNEL_F32)
        return err_set(err, "a backbone that moves is fp32: set model.dtype = fp32");
    if (m->start)
        return 0;
    m->start = mem_alloc(MEM_WEIGHTS, model_product_values(m) * sizeof *m->start);
    each_target(m, keep, NULL);
    return 0;
}

void model_backbone_move(struct model *m, const float *products)
{
    if (!m->start)
        return;
    each_target(m, move, products);
    model_ready(m);
}

int model_fold(struct model *m, const float *adapter, struct err *err)
{
    if (m->dtype != KERNEL_F32)
        return err_set(err, "an adapter is merged into fp32 weights: set model.dtype = fp32");
    each_target(m, fold, adapter);
    model_ready(m);
    return 0;
}
