// Layers read on the way forward. A layer's output stands in one of two places that layers use in
// turn, so what is read of it is copied at once, row by row as asked for.
#include "model/inner.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

static int32_t targets_in(const struct model_batch *b, int32_t from, int32_t to)
{
    int32_t n = 0;
    for (int32_t i = from; i < to; i++)
        n += b->targets[i] >= 0;
    return n;
}

void tap_check(const struct model *m, const struct model_job *job)
{
    const struct model_tap *t = job->tap;
    const struct model_batch *b = job->batch;
    int32_t rows = b->start[b->n_seqs];
    assert(t->n >= 1 && t->rows == (t->all ? rows : targets_in(b, 0, rows)) && t->rows >= 1);
    for (int32_t k = 0; k < t->n; k++)
        assert(t->layer[k] >= 0 && t->layer[k] < m->cfg.layers &&
               (k == 0 || t->layer[k] > t->layer[k - 1]));
}

uint64_t tap_key(const struct model_tap *t)
{
    uint64_t seed = (uint64_t)(t->all | (t->logits != NULL) << 1) + 4;
    return XXH3_64bits_withSeed(t->layer, (size_t)t->n * sizeof *t->layer, seed);
}

// The last layer may have gone on with the rows that have a target alone.
void tap_layer(struct launch *r, int32_t l)
{
    const struct model_tap *t = r->job->tap;
    const int32_t dim = r->m->cfg.dim, n = t->all ? r->rows : r->n_top;
    const kernel_act *x = r->a.x[l + 1];
    int32_t k = 0;
    while (k < t->n && t->layer[k] < l)
        k++;
    if (k == t->n || t->layer[k] != l || n == 0)
        return;
    bool few = r->few && l == r->m->cfg.layers - 1;
    if (!t->all && !few) {
        r->op->gather_rows(r->cx, x, r->a.ld_dim, r->dev.row, n, dim, r->a.x_few, r->a.ld_dim);
        x = r->a.x_few;
    }
    r->op->widen_rows(r->cx, x, r->a.ld_dim, n, dim,
                      r->dev_out.tap + (size_t)k * (size_t)n * (size_t)dim);
}

// Logits of the rows that have a target.
void tap_head(struct launch *r)
{
    const struct model *m = r->m;
    const struct kernel_linear head = {.w = m->head};
    struct acts *a = &r->a;
    const kernel_act *top = a->x[m->cfg.layers];
    int32_t n = r->n_top, vocab = m->cfg.vocab;
    kernel_act *to = r->dev_out.wide ? r->dev_out.wide : (kernel_act *)r->dev_out.logits;
    if (!r->job->tap->logits || n == 0)
        return;
    if (!r->few) {
        r->op->gather_rows(r->cx, top, a->ld_dim, r->dev.row, n, m->cfg.dim, a->top, a->ld_dim);
        top = a->top;
    }
    r->op->rmsnorm_fwd(r->cx, top, a->ld_dim, m->norm_final, n, m->cfg.dim, (float)m->cfg.norm_eps,
                       a->h, a->ld_dim, a->rstd_top);
    r->op->linear_fwd(r->cx, &head, NULL, a->h, a->ld_dim, n, NULL, to, vocab, NULL, 0);
    if (r->dev_out.wide)
        r->op->widen_rows(r->cx, to, vocab, n, vocab, r->dev_out.logits);
}

void tap_outcome(struct launch *r)
{
    const struct model_tap *t = r->job->tap;
    const size_t dim = (size_t)r->m->cfg.dim, vocab = (size_t)r->m->cfg.vocab;
    size_t n = (size_t)(t->all ? r->rows : r->n_top), top = (size_t)r->n_top;
    size_t before = (size_t)targets_in(r->job->batch, 0, r->slice->row0);
    size_t at = t->all ? (size_t)r->slice->row0 : before;
    for (size_t k = 0; k < (size_t)t->n; k++)
        memcpy(t->x + (k * (size_t)t->rows + at) * dim, r->out.tap + k * n * dim,
               n * dim * sizeof *t->x);
    if (t->logits)
        memcpy(t->logits + before * vocab, r->out.logits, top * vocab * sizeof *t->logits);
}
