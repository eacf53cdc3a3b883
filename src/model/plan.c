// What the host decides about a slice before it runs, and what it makes of the results. Nothing
// here touches the device's memory.
#include "base/fmath.h"
#include "base/mem.h"
#include "model/inner.h"

#include <string.h>
#include <xxhash.h>

static struct slice *next_slice(struct model *m)
{
    m->slice = mem_grow(MEM_OTHER, m->slice, (size_t)m->n_slices, (size_t)m->n_slices + 1,
                        &m->slice_cap, sizeof *m->slice);
    return &m->slice[m->n_slices++];
}

void plan_slices(struct model *m, const struct model_batch *b, int32_t job)
{
    int32_t total = b->start[b->n_seqs], most = m->dev->row->slice_tokens;
    int32_t parts = total / most + (total % most > 0);
    parts += parts > 1 && parts % 2; // an even number keeps two or four lanes busy to the end
    int32_t seq = 0, first = m->n_slices;
    for (int32_t p = 0; p < parts && seq < b->n_seqs; p++) {
        int32_t from = seq;
        int64_t until = (int64_t)total * (p + 1) / parts;
        do // to the end of a sequence that is nearest
            seq++;
        while (seq < b->n_seqs && b->start[seq + 1] - until <= until - b->start[seq]);
        if (p == parts - 1)
            seq = b->n_seqs;
        *next_slice(m) = (struct slice){.job = job,
                                        .seq0 = from,
                                        .seqs = seq - from,
                                        .row0 = b->start[from],
                                        .rows = b->start[seq] - b->start[from]};
    }
    if (m->n_slices - first == 1)
        m->slice[first].alone = true;
}

struct layers layers_of(const struct model *m, const struct model_job *job)
{
    return (struct layers){.first = job->batch->from ? job->batch->from->layer : 0,
                           .end = job->cut    ? job->cut->layer
                                  : job->back ? job->back->layer
                                  : job->tap  ? tap_layers(m, job->tap)
                                              : m->cfg.layers};
}

void plan_top(struct launch *r)
{
    const struct model_job *job = r->job;
    const struct model_batch *b = job->batch;
    const int32_t *targets = b->targets + r->slice->row0;
    const float *weights = b->weights ? b->weights + r->slice->row0 : NULL;
    bool all = job->token_loss || job->best;
    double by = b->sum ? 1.0 : job->weight > 0 ? 1.0 / job->weight : 0.0;
    if (r->merge) {
        merge_labels(r);
        targets = r->host.target; // read ahead of where it is written
        weights = r->host.weight;
    }
    r->n_top = 0;
    for (int32_t i = 0; i < r->rows; i++) {
        float w = weights ? weights[i] : 1.0f;
        if (targets[i] < 0 || (w == 0.0f && !all))
            continue;
        r->host.row[r->n_top] = i;
        r->host.target[r->n_top] = targets[i];
        r->host.weight[r->n_top++] = (float)(w * by);
    }
    r->few = r->n_top <= r->rows / 2 && !(job->tap && job->tap->all);
}

// Only tokens that are predicted are ever scored: the prompt's rows, most of the batch, are left
// out.
static void plan_scored(struct launch *r)
{
    const int32_t *targets = r->job->batch->targets + r->slice->row0;
    r->n_scored = 0;
    for (int32_t i = 0; i < r->rows && r->token_grads; i++)
        if (targets[i] >= 0 || r->job->embed_grad)
            r->host.scored[r->n_scored++] = i;
}

// Where rows come from another model, that says where they stand and for how many tokens.
static void plan_rows(struct launch *r)
{
    const struct model_batch *b = r->job->batch;
    const struct slice *s = r->slice;
    const int32_t *from = b->start + s->seq0;
    r->seqs = (struct kernel_seqs){.n = s->seqs, .rows = s->rows, .start = r->dev.start};
    r->pos = r->dev.pos;
    for (int32_t q = 0; q <= s->seqs; q++)
        r->host.start[q] = from[q] - s->row0;
    for (int32_t q = 0; q < s->seqs; q++) {
        int32_t len = from[q + 1] - from[q];
        r->seqs.longest = len > r->seqs.longest ? len : r->seqs.longest;
        for (int32_t i = 0; i < len; i++)
            r->host.pos[r->host.start[q] + i] = i;
    }
    if (!b->from) {
        memcpy(r->host.token, b->tokens + s->row0, (size_t)s->rows * sizeof *r->host.token);
        return;
    }
    for (int32_t i = 0; i < s->rows; i++) {
        r->host.pos[i] = b->from->pos[s->row0 + i];
        r->host.log_size[i] = (float)fmath_log((double)b->from->size[s->row0 + i]);
    }
    r->log_size = r->dev.log_size;
}

void plan_slice(struct launch *r)
{
    plan_rows(r);
    plan_scored(r);
    if (r->merge)
        merge_begin(r); // the rows with a loss are known when all merging is
    else if (!r->job->cut && !r->job->back)
        plan_top(r);
}

// All that the operations of a slice and their arguments depend on.
struct key {
    const void *model, *adapter, *grad;
    int32_t rows, seqs, longest, n_top, n_scored, first, end, lane;
    uint32_t model_moves, dev_moves;
    uint64_t tap;
    uint8_t backward, full, cut, token_sq, embed_grad, received, best, log_size;
};

uint64_t plan_key(const struct launch *r)
{
    const struct model_job *job = r->job;
    struct key k;
    memset(&k, 0, sizeof k);
    k.model = r->m;
    k.adapter = r->adapter;
    k.grad = r->grad;
    k.rows = r->rows;
    k.seqs = r->seqs.n;
    k.longest = r->seqs.longest;
    k.n_top = r->n_top;
    k.n_scored = r->n_scored;
    k.first = r->first;
    k.end = r->end;
    k.cut = job->cut != NULL;
    k.tap = job->tap ? tap_key(job->tap) : 0;
    k.lane = r->lane;
    k.model_moves = r->m->moves;
    k.dev_moves = r->m->dev->moves;
    k.backward = r->backward;
    k.full = r->full;
    k.token_sq = job->token_sq != NULL;
    k.embed_grad = job->embed_grad != NULL;
    k.received = job->received != NULL;
    k.best = job->best != NULL;
    k.log_size = r->log_size != NULL;
    return XXH3_64bits(&k, sizeof k);
}

static void head_outcome(struct launch *r)
{
    struct model_job *job = r->job;
    int32_t row0 = r->slice->row0;
    double loss = 0;
    for (int32_t i = 0; i < r->slice->rows; i++) {
        if (job->token_loss)
            job->token_loss[row0 + i] = 0;
        if (job->best)
            job->best[row0 + i] = -1;
    }
    for (int32_t i = 0; i < r->n_top; i++) {
        loss += (double)r->host.weight[i] * (double)r->out.loss[i];
        if (job->token_loss)
            job->token_loss[row0 + r->host.row[i]] = r->out.loss[i];
        if (job->best)
            job->best[row0 + r->host.row[i]] = r->out.best[i];
    }
    r->slice->loss = loss;
}

// Of a gradient, from what a device has to what it is, or back.
static void scale(float *x, size_t n, float by)
{
    for (size_t i = 0; i < n && by != 1; i++)
        x[i] *= by;
}

void plan_back(struct launch *r)
{
    const struct model_job *job = r->job;
    const int32_t *start = r->merge ? r->level[r->end].host.start : r->host.start;
    size_t dim = (size_t)r->m->cfg.dim;
    for (int32_t q = 0; q < r->seqs.n; q++) {
        size_t first = (size_t)start[q], n = (size_t)(start[q + 1] - start[q]);
        const float *from = job->back->x + (size_t)job->batch->start[r->slice->seq0 + q] * dim;
        memcpy(r->out.x + first * dim, from, n * dim * sizeof *from);
        scale(r->out.x + first * dim, n * dim, r->cx->grad_scale);
    }
    launch_put(r, r->dev_out.x, r->out.x, (size_t)start[r->seqs.n] * dim * sizeof *r->out.x);
}

// What left for another model: the rows that enter its first layer.
static void cut_outcome(struct launch *r)
{
    struct model_cut *cut = r->job->cut;
    const struct model_batch *b = r->job->batch;
    const struct level *y = r->merge ? &r->level[cut->layer] : NULL;
    const int32_t *start = y ? y->host.start : r->host.start;
    const int32_t *pos = y ? y->host.pos : r->host.pos;
    size_t dim = (size_t)r->m->cfg.dim;
    for (int32_t q = 0; q < r->seqs.n; q++) {
        int32_t to = b->start[r->slice->seq0 + q], first = start[q], n = start[q + 1] - first;
        cut->len[r->slice->seq0 + q] = n;
        for (int32_t i = 0; i < n; i++) {
            cut->pos[to + i] = pos[first + i];
            cut->size[to + i] = y ? (int32_t)y->size[first + i] : 1;
        }
        memcpy(cut->x + (size_t)to * dim, r->out.x + (size_t)first * dim,
               (size_t)n * dim * sizeof *cut->x);
    }
}

static void token_outcome(struct launch *r)
{
    struct model_job *job = r->job;
    int32_t row0 = r->slice->row0, rows = r->slice->rows;
    size_t dim = (size_t)r->m->cfg.dim;
    if (job->received)
        memcpy(job->received + row0, r->out.received, (size_t)rows * sizeof *job->received);
    if (!r->backward)
        return;
    if (job->token_sq) {
        memset(job->token_sq + row0, 0, (size_t)rows * sizeof *job->token_sq);
        for (int32_t i = 0; i < r->n_scored; i++) {
            int32_t at = row0 + r->host.scored[i];
            job->token_sq[at] = job->batch->targets[at] >= 0 ? r->out.token_sq[i] : 0;
        }
    }
    if (job->embed_grad) {
        memcpy(job->embed_grad + (size_t)row0 * dim, r->out.x,
               (size_t)rows * dim * sizeof *job->embed_grad);
        scale(job->embed_grad + (size_t)row0 * dim, (size_t)rows * dim, 1 / r->cx->grad_scale);
    }
}

void plan_outcome(struct launch *r)
{
    if (r->job->cut)
        cut_outcome(r);
    else if (r->job->tap)
        tap_outcome(r);
    else if (!r->job->back)
        head_outcome(r);
    token_outcome(r);
}
