// Tokens that merge on the way through the layers: which rows enter each layer, and what becomes of
// them after its attention.
#include "base/clock.h"
#include "base/fmath.h"
#include "model/inner.h"

#include <assert.h>
#include <string.h>

// The last layer merges nothing: what follows its attention is done for rows with a loss alone.
void levels_take(struct acts *a, int32_t layers, int32_t rows, struct bump *b)
{
    size_t n = (size_t)rows;
    a->level = bump_take(b, (size_t)layers, sizeof *a->level);
    a->free = bump_take(b, n, sizeof *a->free);
    for (int32_t l = 0; l < layers; l++) {
        struct level y = {.start = l ? bump_take(b, n + 1, sizeof *y.start) : a->start,
                          .pos = l ? bump_take(b, n, sizeof *y.pos) : a->pos,
                          .size = bump_take(b, n, sizeof *y.size),
                          .log_size = l ? bump_take(b, n, sizeof *y.log_size) : NULL};
        if (l < layers - 1) {
            y.into = bump_take(b, n, sizeof *y.into);
            y.share = bump_take(b, n, sizeof *y.share);
        }
        if (a->level)
            a->level[l] = y;
    }
}

void merge_begin(struct run *r)
{
    const struct model_batch *b = r->job->batch;
    struct level *y = &r->a.level[0];
    y->rows = r->rows;
    for (int32_t i = 0; i < r->rows; i++)
        y->size[i] = 1;
    for (int32_t q = 0; q < r->seqs.n; q++) {
        int32_t n = 0, len = y->start[q + 1] - y->start[q];
        const int32_t *targets = b->targets + r->slice->row0 + y->start[q];
        while (n < len && (targets[n] < 0 || !r->merge->protect))
            n++;
        r->a.free[q] = n;
    }
}

void merge_enter(struct run *r, int32_t l)
{
    if (!r->merge)
        return;
    const struct level *y = &r->a.level[l];
    r->rows = y->rows;
    r->seqs.start = y->start;
    r->seqs.rows = y->rows;
    r->a.pos = y->pos;
    r->log_size = y->log_size;
}

// Rows that stay keep their order and position; one that merges goes where its partner stays.
static void lay_out(struct run *r, struct level *from, struct level *to)
{
    int32_t *place = r->a.row, n = 0; // free until the rows with a loss are chosen
    for (int32_t q = 0; q < r->seqs.n; q++) {
        int32_t first = from->start[q], end = from->start[q + 1], was = n;
        to->start[q] = n;
        for (int32_t i = first; i < end; i++)
            if (from->into[i] == i) {
                to->pos[n] = from->pos[i];
                to->size[n] = 0;
                place[i] = n++;
            }
        r->a.free[q] -= end - first - (n - was);
    }
    to->start[r->seqs.n] = to->rows = n;
    for (int32_t i = 0; i < from->rows; i++) {
        from->into[i] = place[from->into[i]];
        to->size[from->into[i]] += from->size[i];
    }
    for (int32_t i = 0; i < from->rows; i++)
        from->share[i] = from->size[i] / to->size[from->into[i]];
    for (int32_t i = 0; i < n; i++)
        to->log_size[i] = (float)fmath_log((double)to->size[i]);
}

void merge_plan(struct run *r, int32_t l)
{
    const struct model_config *c = &r->m->cfg;
    if (!r->merge || l != r->planned || l == c->layers - 1)
        return;
    int64_t t = clock_ns();
    struct level *from = &r->a.level[l], *to = &r->a.level[l + 1];
    struct kernel_merge g = {.kv_heads = c->kv_heads,
                             .head_dim = c->head_dim,
                             .window = r->merge->window,
                             .ratio = r->merge->ratio};
    int32_t stay = 0;
    r->op->merge_match(r->cx, &g, &r->seqs, r->a.free, r->a.kept[l].qkv + model_q_cols(c),
                       r->a.ld_qkv, from->into);
    for (int32_t i = 0; i < from->rows; i++)
        stay += from->into[i] == i;
    from->merges = stay < from->rows;
    if (from->merges) {
        lay_out(r, from, to);
    } else {
        to->rows = from->rows;
        to->start = from->start;
        to->pos = from->pos;
        to->size = from->size;
        to->log_size = from->log_size;
    }
    r->planned++;
    r->times.merge_ns += clock_ns() - t;
}

void merge_forward(struct run *r, int32_t l, const float *x, float *y)
{
    const struct level *from = &r->a.level[l];
    int64_t t = clock_ns();
    r->op->merge_rows(r->cx, x, r->a.ld_dim, from->into, from->share, from->rows, r->m->cfg.dim, y,
                      r->a.ld_dim, r->a.level[l + 1].rows);
    r->times.merge_ns += clock_ns() - t;
}

void merge_backward(struct run *r, int32_t l, const float *dy, float *dx)
{
    const struct level *from = &r->a.level[l];
    int64_t t = clock_ns();
    r->op->merge_rows_bwd(r->cx, dy, r->a.ld_dim, from->into, from->share, from->rows,
                          r->m->cfg.dim, dx, r->a.ld_dim);
    r->times.merge_ns += clock_ns() - t;
}

// A row's label is that of the last of its tokens, which has the weight of all: the sum of weights
// stays as it was.
void merge_labels(struct run *r)
{
    const struct model_batch *b = r->job->batch;
    int32_t row0 = r->slice->row0;
    for (int32_t i = 0; i < r->rows; i++) {
        r->a.target[i] = -1;
        r->a.weight[i] = 0;
    }
    for (int32_t i = 0; i < r->slice->rows; i++) {
        int32_t at = i;
        if (b->targets[row0 + i] < 0)
            continue;
        for (int32_t l = 0; l < r->planned; l++)
            at = r->a.level[l].merges ? r->a.level[l].into[at] : at;
        r->a.target[at] = b->targets[row0 + i];
        r->a.weight[at] += b->weights ? b->weights[row0 + i] : 1;
    }
}

void cut_load(struct run *r)
{
    const struct model_cut *from = r->job->batch->from;
    int32_t row0 = r->slice->row0, dim = r->m->cfg.dim;
    float *log_size = r->a.level[r->first].log_size;
    for (int32_t i = 0; i < r->rows; i++) {
        r->a.pos[i] = from->pos[row0 + i];
        log_size[i] = (float)fmath_log((double)from->size[row0 + i]);
        memcpy(r->a.x[r->first] + (ptrdiff_t)i * r->a.ld_dim, from->x + (ptrdiff_t)(row0 + i) * dim,
               (size_t)dim * sizeof(float));
    }
    r->log_size = log_size;
}

void cut_store(struct run *r)
{
    struct model_cut *cut = r->job->cut;
    const struct model_batch *b = r->job->batch;
    int32_t dim = r->m->cfg.dim;
    merge_enter(r, cut->layer);
    for (int32_t q = 0; q < r->seqs.n; q++) {
        int32_t to = b->start[r->slice->seq0 + q], first = r->seqs.start[q];
        int32_t n = r->seqs.start[q + 1] - first;
        cut->len[r->slice->seq0 + q] = n;
        for (int32_t i = 0; i < n; i++) {
            int32_t at = first + i;
            cut->pos[to + i] = r->a.pos[at];
            cut->size[to + i] = r->merge ? (int32_t)r->a.level[cut->layer].size[at] : 1;
            memcpy(cut->x + (ptrdiff_t)(to + i) * dim,
                   r->a.x[cut->layer] + (ptrdiff_t)at * r->a.ld_dim, (size_t)dim * sizeof(float));
        }
    }
}
