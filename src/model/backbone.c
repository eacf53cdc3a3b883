// A backbone that moves between rounds: W = W0 + scale * P, where P has the size of B A, for every
// projection with an adapter.
#include "base/mem.h"
#include "model/inner.h"

#include <string.h>

typedef void target_fn(struct model *m, const struct kernel_linear *k, float *w, size_t n,
                       size_t at, const void *arg);

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
            for (int t = 0; t < k->n_lora; t++) {
                size_t cols = (size_t)k->w.cols, n = (size_t)k->lora[t].rows * cols;
                float *w = (float *)m->weights + m->layer[l].at[i] + (size_t)k->lora[t].row0 * cols;
                if (fn) {
                    float *here = dev_take(m->dev, w, n * sizeof *w, room);
                    fn(m, k, here, n, at, arg);
                    dev_give(m->dev, w, n * sizeof *w, room);
                }
                at += n;
            }
        }
    if (room)
        m->dev->row->unstage(m->dev, room);
    return at;
}

static void keep(struct model *m, const struct kernel_linear *k, float *w, size_t n, size_t at,
                 const void *arg)
{
    (void)k;
    (void)arg;
    memcpy(m->start + at, w, n * sizeof *w);
}

static void move(struct model *m, const struct kernel_linear *k, float *w, size_t n, size_t at,
                 const void *arg)
{
    const float *p = arg;
    for (size_t i = 0; i < n; i++)
        w[i] = p ? m->start[at + i] + k->scale * p[at + i] : m->start[at + i];
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
