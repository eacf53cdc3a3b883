// Tokens that merge on the way through the layers: which rows enter each layer, and what becomes of
// them after its attention. Which merge is seen from their keys, so the host decides in between.
#include "base/fmath.h"
#include "model/inner.h"

#include <assert.h>
#include <string.h>

static struct level *first_level(struct launch *r)
{
    struct level *y = &r->level[0];
    y->rows = r->rows;
    for (int32_t i = 0; i < r->rows; i++)
        y->size[i] = 1;
    return y;
}

void merge_rows_begin(struct launch *r)
{
    struct level *y = first_level(r);
    for (int32_t q = 0; q < r->seqs.n; q++)
        y->host.free[q] = y->host.start[q + 1] - y->host.start[q] - 1;
}

void merge_begin(struct launch *r)
{
    const struct model_batch *b = r->job->batch;
    struct level *y = first_level(r);
    for (int32_t q = 0; q < r->seqs.n; q++) {
        int32_t n = 0, len = y->host.start[q + 1] - y->host.start[q];
        const int32_t *targets = b->targets + r->slice->row0 + y->host.start[q];
        while (n < len && (targets[n] < 0 || !r->merge->protect))
            n++;
        y->host.free[q] = n;
    }
}

void merge_enter(struct launch *r, int32_t l)
{
    if (!r->merge)
        return;
    const struct level *y = &r->level[l];
    r->rows = y->rows;
    r->seqs.start = y->dev.start;
    r->seqs.rows = y->rows;
    r->pos = y->dev.pos;
    r->log_size = y->dev.log_size;
}

// Rows that stay keep their order and position; one that merges goes where its partner stays.
static void lay_out(struct launch *r, struct level *from, struct level *to)
{
    const struct level_lists *f = &from->host;
    const struct level_lists *t = &to->host;
    int32_t *place = r->place, n = 0;
    for (int32_t q = 0; q < r->seqs.n; q++) {
        int32_t first = f->start[q], end = f->start[q + 1], was = n;
        t->start[q] = n;
        for (int32_t i = first; i < end; i++)
            if (f->into[i] == i) {
                t->pos[n] = f->pos[i];
                to->size[n] = 0;
                place[i] = n++;
            }
        t->free[q] = f->free[q] - (end - first - (n - was));
    }
    t->start[r->seqs.n] = to->rows = n;
    for (int32_t i = 0; i < from->rows; i++) {
        f->into[i] = place[f->into[i]];
        to->size[f->into[i]] += from->size[i];
    }
    for (int32_t i = 0; i < from->rows; i++)
        f->share[i] = from->size[i] / to->size[f->into[i]];
    for (int32_t i = 0; i < n; i++)
        t->log_size[i] = (float)fmath_log((double)to->size[i]);
}

static void same_lists(const struct level_lists *from, struct level_lists *to)
{
    to->start = from->start;
    to->pos = from->pos;
    to->free = from->free;
    to->log_size = from->log_size;
}

static void merge_mark(struct launch *r)
{
    launch_mark(r, MARK_MERGE + r->merge_marks++);
}

// Where keys are not finite too few may have found a partner; the first ones go to their
// neighbours then, so that as many merge as were asked for.
static void merge_the_rest(const struct level_lists *y, int32_t q, int32_t most)
{
    int32_t first = y->start[q], end = first + y->free[q];
    for (int32_t i = first; i < end; i++)
        most -= y->into[i] != i;
    for (int32_t i = first + 2; i + 1 < end && most > 0; i += 2)
        if (y->into[i] == i) {
            y->into[i] = i + 1;
            most--;
        }
}

// To the host's into: which row of the layer each row goes to.
static void match(struct launch *r, struct kernel_merge *g, const kernel_act *key,
                  struct level *from)
{
    const struct level_lists *here = &from->host, *there = &from->dev;
    if (!r->merges)
        r->op->merge_match(r->cx, g, &r->seqs, there->free, key, r->a.ld_qkv, there->into);
    for (int32_t q = 0; q < r->seqs.n && r->merges; q++) {
        struct kernel_seqs one = {.n = 1,
                                  .rows = from->rows,
                                  .longest = here->start[q + 1] - here->start[q],
                                  .start = there->start + q};
        g->ratio = here->free[q] > 0 ? (r->merges[q] + 0.5) / here->free[q] : 0;
        r->op->merge_match(r->cx, g, &one, there->free + q, key, r->a.ld_qkv, there->into);
    }
    launch_get(r, here->into, there->into, (size_t)from->rows * sizeof *here->into);
    launch_wait(r);
    for (int32_t q = 0; q < r->seqs.n && r->merges; q++)
        merge_the_rest(here, q, r->merges[q]);
}

// Generation says how many rows go; where that is none there is nothing to look for.
static bool wants_none(const struct launch *r)
{
    for (int32_t q = 0; q < r->seqs.n && r->merges; q++)
        if (r->merges[q] > 0)
            return false;
    return r->merges != NULL;
}

void merge_plan(struct launch *r, int32_t l)
{
    const struct model_config *c = &r->m->cfg;
    if (!r->merge || l != r->planned || l == c->layers - 1)
        return;
    merge_mark(r);
    struct level *from = &r->level[l], *to = &r->level[l + 1];
    struct kernel_merge g = {.kv_heads = c->kv_heads,
                             .head_dim = c->head_dim,
                             .window = r->merge->window,
                             .ratio = r->merge->ratio};
    const kernel_act *key = kernel_act_at(r->cx, r->a.kept[l].qkv, (size_t)model_q_cols(c));
    int32_t stay = wants_none(r) ? from->rows : 0;
    if (stay == 0) {
        match(r, &g, key, from);
        for (int32_t i = 0; i < from->rows; i++)
            stay += from->host.into[i] == i;
    }
    from->merges = stay < from->rows;
    if (from->merges) {
        lay_out(r, from, to);
        launch_put(r, from->dev.into, from->host.into, from->block_bytes);
    } else {
        to->rows = from->rows;
        to->size = from->size;
        same_lists(&from->host, &to->host);
        same_lists(&from->dev, &to->dev);
    }
    r->planned++;
    merge_mark(r);
}

void merge_forward(struct launch *r, int32_t l, const kernel_act *x, kernel_act *y)
{
    const struct level *from = &r->level[l];
    merge_mark(r);
    r->op->merge_rows(r->cx, x, r->a.ld_dim, from->dev.into, from->dev.share, from->rows,
                      r->m->cfg.dim, y, r->a.ld_dim, r->level[l + 1].rows);
    merge_mark(r);
}

void merge_backward(struct launch *r, int32_t l, const kernel_act *dy, kernel_act *dx)
{
    const struct level *from = &r->level[l];
    merge_mark(r);
    r->op->merge_rows_bwd(r->cx, dy, r->a.ld_dim, from->dev.into, from->dev.share, from->rows,
                          r->m->cfg.dim, dx, r->a.ld_dim);
    merge_mark(r);
}

// A row's label is that of the last of its tokens, which has the weight of all: the sum of weights
// stays as it was.
void merge_labels(struct launch *r)
{
    const struct model_batch *b = r->job->batch;
    int32_t row0 = r->slice->row0;
    for (int32_t i = 0; i < r->rows; i++) {
        r->host.target[i] = -1;
        r->host.weight[i] = 0;
    }
    for (int32_t i = 0; i < r->slice->rows; i++) {
        int32_t at = i;
        if (b->targets[row0 + i] < 0)
            continue;
        for (int32_t l = 0; l < r->planned; l++)
            at = r->level[l].merges ? r->level[l].host.into[at] : at;
        r->host.target[at] = b->targets[row0 + i];
        r->host.weight[at] += b->weights ? b->weights[row0 + i] : 1;
    }
}
