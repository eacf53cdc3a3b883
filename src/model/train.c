// Forward, backward and update of a batch, slice by slice.
#include "base/clock.h"
#include "base/mem.h"
#include "model/inner.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum mode { MODE_EVALUATE, MODE_TRAIN, MODE_FULL };

struct work {
    struct model *m;
    struct model_job *jobs;
    enum mode mode;
    size_t n_grad;
    bool sums; // gradients of several slices are summed
};

static void grads_reserve(struct model *m, size_t n_grad, bool several, size_t job_floats)
{
    for (int32_t i = 0; i < m->dev->threads && several; i++)
        if (m->lane[i].grad_cap < n_grad) {
            mem_free(m->lane[i].grad);
            m->lane[i].grad = mem_alloc(MEM_OPTIMIZER, n_grad * sizeof(float));
            m->lane[i].grad_cap = n_grad;
        }
    if (m->grads_cap < job_floats) {
        mem_free(m->grads);
        m->grads = mem_alloc(MEM_OPTIMIZER, job_floats * sizeof *m->grads);
        m->grads_cap = job_floats;
    }
}

void model_reserve(struct model *m, int32_t longest, int32_t jobs)
{
    // A slice ends with the sequence that crosses its even share.
    int32_t rows = MODEL_SLICE_TOKENS + longest;
    lanes_reserve(m, rows, longest, acts_bytes(m, rows, true));
    grads_reserve(m, m->shape.n_values, true, (size_t)jobs * m->shape.n_values);
}

float *model_gradient(struct model *m, struct model_job *jobs, int32_t job)
{
    return jobs[job].grad ? jobs[job].grad : m->grads + (size_t)job * m->shape.n_values;
}

// Slices.

static void cut(struct model *m, const struct model_batch *b, int32_t job)
{
    int32_t total = b->start[b->n_seqs];
    int32_t parts = (total + MODEL_SLICE_TOKENS - 1) / MODEL_SLICE_TOKENS;
    parts += parts > 1 && parts % 2; // an even number keeps two or four lanes busy to the end
    int32_t seq = 0, first = m->n_slices;
    for (int32_t p = 0; p < parts && seq < b->n_seqs; p++) {
        int32_t from = seq;
        int64_t until = (int64_t)total * (p + 1) / parts;
        do
            seq++;
        while (seq < b->n_seqs && b->start[seq + 1] <= until);
        if (p == parts - 1)
            seq = b->n_seqs;
        if (m->n_slices == m->slice_cap) {
            int32_t cap = m->slice_cap ? 2 * m->slice_cap : 64;
            struct slice *more = mem_alloc(MEM_OTHER, (size_t)cap * sizeof *more);
            if (m->slice)
                memcpy(more, m->slice, (size_t)m->n_slices * sizeof *more);
            mem_free(m->slice);
            m->slice = more;
            m->slice_cap = cap;
        }
        m->slice[m->n_slices++] = (struct slice){.job = job,
                                                 .seq0 = from,
                                                 .seqs = seq - from,
                                                 .row0 = b->start[from],
                                                 .rows = b->start[seq] - b->start[from]};
    }
    if (m->n_slices - first == 1)
        m->slice[first].alone = true;
}

// Cuts all batches and makes room.
static void prepare(struct work *w, int32_t n)
{
    struct model *m = w->m;
    int32_t rows = 1, longest = 1;
    bool several = false;
    m->n_slices = 0;
    for (int32_t j = 0; j < n; j++) {
        struct model_job *job = &w->jobs[j];
        const struct model_batch *b = job->batch;
        double weight = 0;
        assert(b->n_seqs >= 1 && b->start[0] == 0);
        assert(!job->merge || !(job->token_loss || job->token_sq || job->embed_grad ||
                                job->received || job->best));
        for (int32_t s = 0; s < b->n_seqs; s++) {
            int32_t len = b->start[s + 1] - b->start[s];
            assert(len >= 1);
            longest = len > longest ? len : longest;
        }
        assert((!job->cut || w->mode == MODE_EVALUATE) && !(job->merge && b->from));
        for (int32_t i = 0; i < b->start[b->n_seqs]; i++) {
            assert(b->from || (b->tokens[i] >= 0 && b->tokens[i] < m->cfg.vocab));
            assert(b->targets[i] < m->cfg.vocab);
            if (b->from && b->from->pos[i] >= longest)
                longest = b->from->pos[i] + 1;
            if (b->targets[i] >= 0)
                weight += b->weights ? (double)b->weights[i] : 1.0;
        }
        job->weight = weight;
        job->loss = 0;
        job->rows_left = 0;
        int32_t first = m->n_slices;
        cut(m, b, j);
        several |= m->n_slices - first > 1;
    }
    for (int32_t i = 0; i < m->n_slices; i++)
        rows = m->slice[i].rows > rows ? m->slice[i].rows : rows;
    w->sums = several && w->mode != MODE_EVALUATE;
    if (w->mode != MODE_EVALUATE) {
        bool own = w->mode == MODE_TRAIN;
        grads_reserve(m, w->n_grad, several, own ? (size_t)n * w->n_grad : 0);
    }
    lanes_reserve(m, rows, longest, acts_bytes(m, rows, w->mode != MODE_EVALUATE));
}

// One slice on one lane.

// Which rows have a loss, and their targets and weights, divided by the batch's sum.
static void choose_top(struct run *r)
{
    const struct model_job *job = r->job;
    const struct model_batch *b = job->batch;
    const int32_t *targets = b->targets + r->slice->row0;
    const float *weights = b->weights ? b->weights + r->slice->row0 : NULL;
    bool all = job->token_loss || job->best;
    double by = b->sum ? 1.0 : job->weight > 0 ? 1.0 / job->weight : 0.0;
    if (r->merge) {
        merge_labels(r);
        targets = r->a.target; // read ahead of where it is written
        weights = r->a.weight;
    }
    r->n_top = 0;
    for (int32_t i = 0; i < r->rows; i++) {
        float w = weights ? weights[i] : 1.0f;
        if (targets[i] < 0 || (w == 0.0f && !all))
            continue;
        r->a.row[r->n_top] = i;
        r->a.target[r->n_top] = targets[i];
        r->a.weight[r->n_top++] = (float)(w * by);
    }
    r->few = r->n_top <= r->rows / 2;
}

static void head_outputs(struct run *r)
{
    struct model_job *job = r->job;
    int32_t row0 = r->slice->row0;
    double loss = 0;
    for (int32_t i = 0; i < r->rows; i++) {
        if (job->token_loss)
            job->token_loss[row0 + i] = 0;
        if (job->best)
            job->best[row0 + i] = -1;
    }
    for (int32_t i = 0; i < r->n_top; i++) {
        loss += (double)r->a.weight[i] * (double)r->a.loss[i];
        if (job->token_loss)
            job->token_loss[row0 + r->a.row[i]] = r->a.loss[i];
        if (job->best)
            job->best[row0 + r->a.row[i]] = r->a.best[i];
    }
    r->slice->loss = loss;
}

// Loss at the chosen rows; with a backward also dx of the last layer's output.
static void head(struct run *r, bool backward)
{
    const struct model *m = r->m;
    const struct model_config *c = &m->cfg;
    struct acts *a = &r->a;
    int32_t n = r->n_top;
    const float *top = a->x[c->layers];
    float *dtop = r->few ? a->dx : a->dtop;
    if (!r->few) {
        r->op->gather_rows(r->cx, top, a->ld_dim, a->row, n, c->dim, a->top, a->ld_dim);
        top = a->top;
    }
    r->op->rmsnorm_fwd(r->cx, top, a->ld_dim, m->norm_final, n, c->dim, (float)c->norm_eps, a->h,
                       a->ld_dim, a->rstd_top);
    r->op->ce_head(r->cx, &m->head, a->h, a->ld_dim, n, a->target, a->weight, a->loss,
                   r->job->best ? a->best : NULL, backward ? a->dh : NULL, a->ld_dim,
                   r->full ? r->grad + m->head_at : NULL);
    if (!backward)
        return;
    memset(dtop, 0, (size_t)n * (size_t)a->ld_dim * sizeof *dtop);
    float *dw = r->full ? r->grad + m->n_matrix + (m->norm_final - m->norms) : NULL;
    r->op->rmsnorm_bwd(r->cx, a->dh, a->ld_dim, top, a->ld_dim, m->norm_final, a->rstd_top, n,
                       c->dim, dtop, a->ld_dim, dw);
    if (!r->few)
        r->op->scatter_rows(r->cx, dtop, a->ld_dim, a->row, n, c->dim, a->dx, a->ld_dim, r->rows);
}

// Must the gradient go below this projection of this layer?
static bool needed_below(const struct run *r, int32_t l, int lin)
{
    if (l > r->first || r->full || r->token_grads)
        return true;
    for (int i = 0; i < lin; i++)
        if (r->m->layer[l].lin[i].n_lora > 0)
            return true;
    return false;
}

static void back_linear(struct run *r, int32_t l, int lin, int32_t rows, const float *dy,
                        int32_t lddy, const float *x, int32_t ldx, float *dx, bool grads)
{
    const struct layer *y = &r->m->layer[l];
    float *grad = r->full || !grads ? NULL : r->grad;
    float *dw = r->full && grads ? r->grad + y->at[lin] : NULL;
    r->op->linear_bwd(r->cx, &y->lin[lin], r->adapter, dy, lddy, x, ldx, r->a.kept[l].u[lin],
                      r->a.ld_u[lin], rows, NULL, dx, ldx, grad, dw);
}

static float *norm_grad(const struct run *r, const float *norm)
{
    return r->full ? r->grad + r->m->n_matrix + (norm - r->m->norms) : NULL;
}

// dx of x[l + 1] becomes dx of mid. False: nothing below needs it.
static bool mlp_backward(struct run *r, int32_t l)
{
    const struct model_config *c = &r->m->cfg;
    const struct layer *y = &r->m->layer[l];
    struct acts *a = &r->a;
    struct kept *k = &a->kept[l];
    int32_t rows = rows_after(r, l);
    bool below = needed_below(r, l, LIN_DOWN);
    r->op->swiglu_fwd(r->cx, k->gu, a->ld_gu, rows, c->hidden, a->act, a->ld_hidden);
    back_linear(r, l, LIN_DOWN, rows, a->dx, a->ld_dim, a->act, a->ld_hidden,
                below ? a->dact : NULL, true);
    if (!below)
        return false;
    r->op->swiglu_bwd(r->cx, k->gu, a->ld_gu, a->dact, a->ld_hidden, rows, c->hidden, k->gu);
    r->op->rmsnorm_fwd(r->cx, k->mid, a->ld_dim, y->norm_mlp, rows, c->dim, (float)c->norm_eps,
                       a->h, a->ld_dim, NULL);
    below = needed_below(r, l, LIN_GU);
    back_linear(r, l, LIN_GU, rows, k->gu, a->ld_gu, a->h, a->ld_dim, below ? a->dh : NULL, true);
    if (below)
        r->op->rmsnorm_bwd(r->cx, a->dh, a->ld_dim, k->mid, a->ld_dim, y->norm_mlp, k->rstd_mlp,
                           rows, c->dim, a->dx, a->ld_dim, norm_grad(r, y->norm_mlp));
    return below;
}

// The last step of a layer's backward: dqkv to dx of the layer's input, on the first `rows` rows.
static void input_backward(struct run *r, int32_t l, int32_t rows, bool grads)
{
    const struct layer *y = &r->m->layer[l];
    struct acts *a = &r->a;
    back_linear(r, l, LIN_QKV, rows, a->dqkv, a->ld_qkv, a->h, a->ld_dim, a->dh, grads);
    r->op->rmsnorm_bwd(r->cx, a->dh, a->ld_dim, a->x[l], a->ld_dim, y->norm_att,
                       a->kept[l].rstd_att, rows, r->m->cfg.dim, a->dx, a->ld_dim,
                       norm_grad(r, y->norm_att));
}

static void pick_rows(const struct run *r, float *x, int32_t ld, int32_t cols)
{
    for (int32_t i = 0; i < r->n_embed; i++)
        if (r->a.target[i] > i)
            memcpy(x + (ptrdiff_t)i * ld, x + (ptrdiff_t)r->a.target[i] * ld,
                   (size_t)cols * sizeof *x);
}

// Only tokens that are predicted are ever scored: the prompt's rows, most of the batch, are left
// out. Nothing needs these arrays in their old order any more.
static void keep_scored(struct run *r)
{
    struct acts *a = &r->a;
    int32_t dim = r->m->cfg.dim;
    const int32_t *targets = r->job->batch->targets + r->slice->row0;
    r->n_embed = 0;
    for (int32_t i = 0; i < r->rows; i++)
        if (targets[i] >= 0 || r->job->embed_grad)
            a->target[r->n_embed++] = i;
    if (r->n_embed == r->rows)
        return;
    pick_rows(r, a->dqkv, a->ld_qkv, model_qkv_cols(&r->m->cfg));
    pick_rows(r, a->x[0], a->ld_dim, dim);
    pick_rows(r, a->dx, a->ld_dim, dim);
    pick_rows(r, a->kept[0].rstd_att, 1, 1);
}

// dx of mid becomes dx of x[l]. Below the lowest adapter it is only done for the embeddings, and
// timed apart.
static void attention_backward(struct run *r, int32_t l)
{
    const struct model *m = r->m;
    const struct model_config *c = &m->cfg;
    struct acts *a = &r->a;
    struct kept *k = &a->kept[l];
    struct kernel_rope rope = rope_of(m, -1.0f);
    struct kernel_attn attn = attn_of(r);
    int32_t rows = r->rows;
    bool below = needed_below(r, l, LIN_O), few = rows_attended(r, l) < rows;
    float *datt = few ? a->datt_few : a->datt;
    if (merges_at(r, l)) {
        memcpy(a->dh, a->dx, (size_t)rows_after(r, l) * (size_t)a->ld_dim * sizeof *a->dh);
        merge_backward(r, l, a->dh, a->dx);
    }
    back_linear(r, l, LIN_O, rows_attended(r, l), a->dx, a->ld_dim, few ? a->att_few : k->att,
                a->ld_q, below ? datt : NULL, true);
    if (!below)
        return;
    if (few) { // from here on there are all rows again
        r->op->scatter_rows(r->cx, datt, a->ld_q, a->row, r->n_top, model_q_cols(c), a->datt,
                            a->ld_q, rows);
        memcpy(a->dh, a->dx, (size_t)r->n_top * (size_t)a->ld_dim * sizeof *a->dh);
        r->op->scatter_rows(r->cx, a->dh, a->ld_dim, a->row, r->n_top, c->dim, a->dx, a->ld_dim,
                            rows);
    }
    r->op->attention_bwd(r->cx, &attn, &r->seqs, k->qkv, a->ld_qkv, k->att, a->datt, a->ld_q,
                         k->lse, a->dqkv);
    r->op->rope(r->cx, &rope, a->pos, rows, a->dqkv, a->ld_qkv);
    r->op->rmsnorm_fwd(r->cx, a->x[l], a->ld_dim, m->layer[l].norm_att, rows, c->dim,
                       (float)c->norm_eps, a->h, a->ld_dim, NULL);
    if (l > r->first || r->full) {
        input_backward(r, l, r->rows, true);
        return;
    }
    back_linear(r, l, LIN_QKV, r->rows, a->dqkv, a->ld_qkv, a->h, a->ld_dim, NULL, true);
    if (r->token_grads) {
        int64_t t = clock_ns();
        keep_scored(r);
        if (r->n_embed > 0)
            input_backward(r, l, r->n_embed, false);
        r->times.embed_ns += clock_ns() - t;
    }
}

static void embed_backward(struct run *r)
{
    const struct model *m = r->m;
    struct model_job *job = r->job;
    int32_t row0 = r->slice->row0, rows = r->rows, dim = m->cfg.dim;
    int64_t t = clock_ns();
    float *sq = r->a.loss; // free by now
    r->op->embed_bwd(r->cx, r->a.dx, r->a.ld_dim, job->batch->tokens + row0,
                     r->full ? rows : r->n_embed, dim, sq, r->full ? r->grad + m->embed_at : NULL);
    if (job->token_sq) {
        memset(job->token_sq + row0, 0, (size_t)rows * sizeof *job->token_sq);
        for (int32_t i = 0; i < r->n_embed; i++) {
            int32_t at = row0 + r->a.target[i];
            job->token_sq[at] = job->batch->targets[at] >= 0 ? sq[i] : 0;
        }
    }
    for (int32_t i = 0; i < rows && job->embed_grad; i++)
        m->dev->row->get(m->dev, job->embed_grad + (ptrdiff_t)(row0 + i) * dim,
                         r->a.dx + (ptrdiff_t)i * r->a.ld_dim, (size_t)dim * sizeof(float));
    r->times.embed_ns += clock_ns() - t;
}

static void slice_backward(struct run *r)
{
    const struct model *m = r->m;
    int32_t lowest = r->full || r->token_grads || m->shape.n_values > 0 ? r->first : m->cfg.layers;
    for (int32_t l = m->cfg.layers - 1; l >= lowest; l--) {
        merge_enter(r, l);
        if (r->a.shared && l < m->cfg.layers - 1) // the last layer's are still there
            layer_forward(r, l, NULL);
        if (mlp_backward(r, l))
            attention_backward(r, l);
    }
    if (r->token_grads || r->full)
        embed_backward(r);
}

// The layout of the slice and the rows of its first layer.
static void enter_slice(struct run *r)
{
    const struct model_batch *b = r->job->batch;
    const struct slice *s = r->slice;
    const int32_t *from = b->start + s->seq0;
    r->seqs = (struct kernel_seqs){.n = s->seqs, .rows = s->rows, .start = r->a.start};
    for (int32_t q = 0; q <= s->seqs; q++)
        r->a.start[q] = from[q] - s->row0;
    for (int32_t q = 0; q < s->seqs; q++) {
        int32_t len = from[q + 1] - from[q];
        r->seqs.longest = len > r->seqs.longest ? len : r->seqs.longest;
        for (int32_t i = 0; i < len; i++)
            r->a.pos[r->a.start[q] + i] = i;
    }
}

static void slice_work(struct run *r, bool backward)
{
    const struct model *m = r->m;
    struct model_job *job = r->job;
    int32_t row0 = r->slice->row0, layers = job->cut ? job->cut->layer : m->cfg.layers;
    int64_t t0 = clock_ns();
    if (job->batch->from)
        cut_load(r);
    else
        r->op->embed_fwd(r->cx, &m->embed, job->batch->tokens + row0, r->rows, r->a.x[0],
                         r->a.ld_dim);
    for (int32_t i = 0; i < r->rows && job->received; i++)
        job->received[row0 + i] = 0;
    if (r->merge)
        merge_begin(r);
    for (int32_t l = r->first; l < layers; l++) {
        if (l == m->cfg.layers - 1) {
            merge_enter(r, l);
            choose_top(r);
        }
        layer_forward(r, l, job->received ? job->received + row0 : NULL);
    }
    if (job->cut) {
        cut_store(r);
    } else {
        head(r, backward);
        head_outputs(r);
    }
    r->slice->rows_left = r->rows;
    int64_t t1 = clock_ns(), merged_ns = r->times.merge_ns;
    if (backward)
        slice_backward(r);
    int64_t t2 = clock_ns();
    r->times.forward_ns = t1 - t0 - merged_ns;
    r->times.backward_ns = t2 - t1 - r->times.embed_ns - (r->times.merge_ns - merged_ns);
}

static void slice_run(void *arg, int32_t item, int32_t lane)
{
    struct work *w = arg;
    struct model *m = w->m;
    struct slice *s = &m->slice[item];
    struct model_job *job = &w->jobs[s->job];
    bool backward = w->mode != MODE_EVALUATE;
    struct run r = {.m = m,
                    .job = job,
                    .slice = s,
                    .rows = s->rows,
                    .cx = &m->dev->lane[lane].cx,
                    .op = m->dev->ops,
                    .adapter = job->adapter,
                    .full = w->mode == MODE_FULL,
                    .merge = job->merge,
                    .first = job->batch->from ? job->batch->from->layer : 0,
                    .token_grads = w->mode == MODE_TRAIN && (job->token_sq || job->embed_grad)};
    struct arena *arena = &m->lane[lane].acts;
    size_t mark = arena_mark(arena);
    struct bump b = {.base = arena_take(arena, m->acts_bytes)};
    acts_take(m, &r.a, s->rows, backward, &b);
    if (backward) {
        r.grad = !s->alone              ? m->lane[lane].grad
                 : w->mode == MODE_FULL ? m->full_grad
                                        : model_gradient(m, w->jobs, s->job);
        memset(r.grad, 0, w->n_grad * sizeof *r.grad);
    }
    enter_slice(&r);
    slice_work(&r, backward);
    s->times = r.times;
    arena_release(arena, mark);
}

// In the order of slices: a sum that must not depend on the number of lanes.
static void slice_add(void *arg, int32_t item, int32_t lane)
{
    struct work *w = arg;
    struct model *m = w->m;
    struct slice *s = &m->slice[item];
    if (s->alone)
        return;
    float *to = w->mode == MODE_FULL ? m->full_grad : model_gradient(m, w->jobs, s->job);
    if (s->seq0 == 0)
        memcpy(to, m->lane[lane].grad, w->n_grad * sizeof *to);
    else
        m->dev->ops->add(&m->dev->lane[lane].cx, m->lane[lane].grad, w->n_grad, to);
}

// The calls.

// Laid end to end; returns where the last one ends.
static int64_t put_spans(struct recorder *rec, const struct model *m, const struct model_job *job,
                         const struct model_times *t, int64_t t0)
{
    int64_t row_bytes = m->cfg.dim * (int64_t)sizeof(float);
    int64_t rows = job->batch->start[job->batch->n_seqs];
    recorder_put(rec, STAGE_FORWARD, job->client, t0, t->forward_ns, -1, 0, 0, 0);
    t0 += t->forward_ns;
    recorder_put(rec, STAGE_BACKWARD, job->client, t0, t->backward_ns, -1, 0, 0, 0);
    t0 += t->backward_ns;
    if (t->embed_ns > 0)
        recorder_put(rec, STAGE_EMBED_GRAD, job->client, t0, t->embed_ns, -1, 0, 0, 0);
    t0 += t->embed_ns;
    if (job->merge)
        recorder_put(rec, STAGE_MERGE, job->client, t0, t->merge_ns, -1, rows * row_bytes,
                     job->rows_left * row_bytes, 0);
    return t0 + t->merge_ns;
}

static void run_slices(struct work *w, int32_t n, struct recorder *rec)
{
    struct model *m = w->m;
    prepare(w, n);
    int64_t t0 = clock_ns();
    dev_parallel(m->dev, m->n_slices, slice_run, w->sums ? slice_add : NULL, w);
    int64_t wall = clock_ns() - t0, all = 0;
    for (int32_t i = 0; i < m->n_slices; i++) {
        const struct slice *s = &m->slice[i];
        w->jobs[s->job].loss += s->loss;
        w->jobs[s->job].rows_left += s->rows_left;
        all += s->times.forward_ns + s->times.backward_ns + s->times.embed_ns + s->times.merge_ns;
    }
    // Lanes work side by side: each phase gets its share of the wall time.
    double share = all > 0 ? (double)wall / (double)all : 0;
    m->times = (struct model_times){0};
    for (int32_t i = 0, j = 0; j < n; j++) {
        struct model_times t = {0};
        for (; i < m->n_slices && m->slice[i].job == j; i++) {
            t.forward_ns += (int64_t)(share * (double)m->slice[i].times.forward_ns);
            t.backward_ns += (int64_t)(share * (double)m->slice[i].times.backward_ns);
            t.embed_ns += (int64_t)(share * (double)m->slice[i].times.embed_ns);
            t.merge_ns += (int64_t)(share * (double)m->slice[i].times.merge_ns);
        }
        m->times.forward_ns += t.forward_ns;
        m->times.backward_ns += t.backward_ns;
        m->times.embed_ns += t.embed_ns;
        m->times.merge_ns += t.merge_ns;
        if (rec)
            t0 = put_spans(rec, m, &w->jobs[j], &t, t0);
    }
}

void model_evaluate(struct model *m, struct model_job *jobs, int32_t n)
{
    struct work w = {.m = m, .jobs = jobs, .mode = MODE_EVALUATE};
    run_slices(&w, n, NULL);
}

void model_backward(struct model *m, struct model_job *jobs, int32_t n, struct recorder *rec)
{
    struct work w = {.m = m, .jobs = jobs, .mode = MODE_TRAIN, .n_grad = m->shape.n_values};
    run_slices(&w, n, rec);
}

size_t optim_floats(int32_t kind, size_t n)
{
    return kind == OPTIM_ADAMW ? 2 * n : n;
}

// The optimizer works in pieces of fixed size, so that a large adapter is stepped by all lanes, and
// in a piece by strips that stay in L2, so that averages cost no second pass over the gradient.
enum { PIECE = 1 << 16, STRIP = 1 << 13 };

struct update {
    struct model *m;
    struct model_job *jobs;
    const struct optim_params *p;
    int32_t pieces;
    size_t n;
    float *full; // all weights, or NULL
};

static float *update_target(const struct update *u, int32_t job)
{
    return u->full ? u->full : u->jobs[job].adapter;
}

static float *update_grad(const struct update *u, int32_t job)
{
    return u->full ? u->m->full_grad : model_gradient(u->m, u->jobs, job);
}

// Calls fn on what is trained of values [from, to).
static void each_trained(const struct update *u, int32_t job, size_t from, size_t to,
                         void (*fn)(const struct update *u, int32_t job, size_t at, size_t n,
                                    int32_t lane, void *arg),
                         int32_t lane, void *arg)
{
    const struct model_job *j = &u->jobs[job];
    if (!j->trained) {
        fn(u, job, from, to - from, lane, arg);
        return;
    }
    for (int32_t i = 0; i < j->n_trained; i++) {
        size_t a = j->trained[i].from > from ? j->trained[i].from : from;
        size_t b = j->trained[i].to < to ? j->trained[i].to : to;
        if (a < b)
            fn(u, job, a, b - a, lane, arg);
    }
}

static void fisher_strip(struct model *m, int32_t lane, const struct kernel_fisher *fisher,
                         const float *grad, size_t at, size_t n)
{
    struct kernel_fisher f = *fisher;
    f.ema = f.ema ? f.ema + at : NULL;
    f.sum = f.sum ? f.sum + at : NULL;
    f.grad = f.grad ? f.grad + at : NULL;
    m->dev->ops->fisher(&m->dev->lane[lane].cx, &f, grad + at, n);
}

static void update_strip(const struct update *u, int32_t job, int32_t lane, size_t at, size_t n)
{
    struct model *m = u->m;
    struct model_job *j = &u->jobs[job];
    const struct optim_params *p = u->p;
    float *w = update_target(u, job) + at, *moments = j->optim->moments + at;
    const float *g = update_grad(u, job) + at;
    double scale = p->clip > 0 && j->grad_norm > p->clip ? p->clip / (j->grad_norm + 1e-6) : 1.0;
    if (p->kind == OPTIM_ADAMW) {
        double step = j->optim->step;
        struct kernel_adamw h = {.lr = (float)p->lr,
                                 .beta1 = (float)p->beta1,
                                 .beta2 = (float)p->beta2,
                                 .eps = (float)p->eps,
                                 .weight_decay = (float)p->weight_decay,
                                 .correct1 = (float)(1.0 / (1.0 - pow(p->beta1, step))),
                                 .correct2 = (float)(1.0 / (1.0 - pow(p->beta2, step))),
                                 .grad_scale = (float)scale};
        m->dev->ops->adamw(&m->dev->lane[lane].cx, &h, w, moments, moments + u->n, g, n);
    } else {
        struct kernel_sgd h = {.lr = (float)p->lr,
                               .momentum = (float)p->momentum,
                               .weight_decay = (float)p->weight_decay,
                               .grad_scale = (float)scale};
        m->dev->ops->sgd(&m->dev->lane[lane].cx, &h, w, moments, g, n);
    }
}

// Averages come from memory while the optimizer divides and takes roots.
static void fetch_strip(const struct kernel_fisher *f, size_t at, size_t n)
{
    const float *const x[] = {f->ema, f->sum, f->grad};
    for (size_t k = 0; k < ARRAY_LEN(x); k++)
        for (size_t i = 0; x[k] && i < n; i += 16)
            __builtin_prefetch(x[k] + at + i, 1, 2);
}

static void update_values(const struct update *u, int32_t job, size_t at, size_t n, int32_t lane,
                          void *arg)
{
    (void)arg;
    const struct kernel_fisher *fisher = u->jobs[job].fisher;
    struct model_lane *l = &u->m->lane[lane];
    int64_t t = clock_ns();
    for (size_t end = at + n; at < end; at += STRIP) {
        size_t some = end - at < STRIP ? end - at : STRIP;
        if (fisher)
            fetch_strip(fisher, at, some);
        update_strip(u, job, lane, at, some);
        int64_t stepped = clock_ns();
        l->update_ns += stepped - t;
        t = stepped;
        if (!fisher)
            continue;
        fisher_strip(u->m, lane, fisher, update_grad(u, job), at, some);
        t = clock_ns();
        l->fisher_ns += t - stepped;
    }
}

static void update_piece(void *arg, int32_t item, int32_t lane)
{
    const struct update *u = arg;
    size_t at = (size_t)(item % u->pieces) * PIECE, n = u->n - at < PIECE ? u->n - at : PIECE;
    each_trained(u, item / u->pieces, at, at + n, update_values, lane, NULL);
}

static void sum_values(const struct update *u, int32_t job, size_t at, size_t n, int32_t lane,
                       void *arg)
{
    double part, *sum = arg;
    u->m->dev->ops->sum_squares(&u->m->dev->lane[lane].cx, update_grad(u, job) + at, n, &part);
    *sum += part;
}

// Norms from t0, then pieces from t1: lanes work side by side, each part gets its share of the wall
// time.
static void update_times(struct update *u, int32_t n, int64_t t0, int64_t t1, struct recorder *rec)
{
    struct model *m = u->m;
    int64_t end = clock_ns(), all = 0, fisher = 0;
    for (int32_t i = 0; i < m->dev->threads; i++) {
        all += m->lane[i].update_ns + m->lane[i].fisher_ns;
        fisher += m->lane[i].fisher_ns;
    }
    m->times.fisher_ns = all > 0 ? (int64_t)((double)(end - t1) * (double)fisher / (double)all) : 0;
    m->times.optimizer_ns = end - t0 - m->times.fisher_ns;
    for (int32_t j = 0; j < n && rec; j++) {
        int64_t each = m->times.optimizer_ns / n, kept = m->times.fisher_ns / n;
        int32_t client = u->jobs[j].client;
        recorder_put(rec, STAGE_OPTIMIZER, client, t0, each, -1, 0, 0, 0);
        if (u->jobs[j].fisher)
            recorder_put(rec, STAGE_ACCUMULATE, client, t0 + each, kept, -1, 0, 0, 0);
        t0 += each + kept;
    }
}

static void update_all(struct update *u, int32_t n, struct recorder *rec)
{
    struct model *m = u->m;
    int64_t t0 = clock_ns();
    u->pieces = (int32_t)((u->n + PIECE - 1) / PIECE);
    for (int32_t j = 0; j < n; j++) {
        double sum = 0;
        for (size_t at = 0; at < u->n; at += PIECE)
            each_trained(u, j, at, u->n - at < PIECE ? u->n : at + PIECE, sum_values, 0, &sum);
        u->jobs[j].grad_norm = sqrt(sum);
        u->jobs[j].optim->step++;
    }
    for (int32_t i = 0; i < m->dev->threads; i++)
        m->lane[i].update_ns = m->lane[i].fisher_ns = 0;
    int64_t t1 = clock_ns();
    dev_parallel(m->dev, n * u->pieces, update_piece, NULL, u);
    update_times(u, n, t0, t1, rec);
}

void model_update(struct model *m, struct model_job *jobs, int32_t n, const struct optim_params *p,
                  struct recorder *rec)
{
    struct update u = {.m = m, .jobs = jobs, .p = p, .n = m->shape.n_values};
    update_all(&u, n, rec);
}

struct accumulation {
    struct model *m;
    struct model_job *jobs;
    int32_t n;
    const struct kernel_fisher *f;
};

static void accumulate_strip(void *arg, int32_t item, int32_t lane)
{
    const struct accumulation *a = arg;
    size_t at = (size_t)item * STRIP, rest = a->m->shape.n_values - at;
    for (int32_t j = 0; j < a->n; j++)
        fisher_strip(a->m, lane, a->f, model_gradient(a->m, a->jobs, j), at,
                     rest < STRIP ? rest : STRIP);
}

void model_accumulate(struct model *m, struct model_job *jobs, int32_t n,
                      const struct kernel_fisher *f)
{
    struct accumulation a = {.m = m, .jobs = jobs, .n = n, .f = f};
    dev_parallel(m->dev, (int32_t)((m->shape.n_values + STRIP - 1) / STRIP), accumulate_strip, NULL,
                 &a);
}

void model_train_step(struct model *m, struct model_job *jobs, int32_t n,
                      const struct optim_params *p, struct recorder *rec)
{
    model_backward(m, jobs, n, rec);
    model_update(m, jobs, n, p, rec);
}

int32_t model_slice_rows(const struct model *m)
{
    int32_t rows = 0;
    for (int32_t i = 0; i < m->n_slices; i++)
        rows = m->slice[i].rows > rows ? m->slice[i].rows : rows;
    return rows;
}

struct model_times model_times(const struct model *m)
{
    return m->times;
}

// All weights.

int model_full_begin(struct model *m, struct err *err)
{
    if (m->shape.n_values > 0)
        return err_set(err, "all weights are trained without an adapter: set model.lora_rank = 0");
    if (m->dtype != KERNEL_F32 || !m->dev->row->host)
        return err_set(err, "all weights are trained in fp32 on the CPU: set model.dtype = fp32");
    if (!m->full_grad)
        m->full_grad = mem_alloc(MEM_OPTIMIZER, model_weight_count(m) * sizeof *m->full_grad);
    return 0;
}

void model_full_backward(struct model *m, struct model_job *job)
{
    assert(m->full_grad && !job->token_sq && !job->embed_grad);
    struct work w = {.m = m, .jobs = job, .mode = MODE_FULL, .n_grad = model_weight_count(m)};
    run_slices(&w, 1, NULL);
}

void model_full_update(struct model *m, struct model_job *job, const struct optim_params *p)
{
    struct update u = {
        .m = m, .jobs = job, .p = p, .n = model_weight_count(m), .full = model_full_weights(m)};
    update_all(&u, 1, NULL);
    model_full_changed(m);
}

float *model_full_weights(struct model *m)
{
    assert(m->dtype == KERNEL_F32);
    return m->weights;
}

float *model_full_gradient(struct model *m)
{
    return m->full_grad;
}

void model_full_changed(struct model *m)
{
    model_ready(m);
}
