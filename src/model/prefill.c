// Prompts on their way through the layers, many at once; their keys and values go to the caches.
#include "model/generate.h"

#include "base/clock.h"

enum { CHUNK_ROWS = 512 };

int32_t chunk_end(const struct group *p, const struct model_gen *g, int32_t q)
{
    int32_t rows = read_of(g, q++);
    while (q < p->seq0 + p->n && rows + read_of(g, q) <= CHUNK_ROWS)
        rows += read_of(g, q++);
    return q;
}

static const struct model_gen *gen_of(const struct desk *d)
{
    return d->w->g;
}

// Whether tokens are left out before this layer.
static bool drops_at(const struct model_gen *g, int32_t layer)
{
    return g->reduce && g->reduce->row->worth && g->reduce->layer == layer;
}

// Tokens of prompt q that stay, to d->kept; received: of its rows, or NULL.
static int32_t choose(struct desk *d, int32_t q, const float *received)
{
    const struct model_gen *g = gen_of(d);
    struct reduce_prompt p = {
        .token = g->tokens + g->start[q], .n = length_of(g, q), .received = received};
    return reduce_choose(g->reduce, &p, d->kept, d->worth);
}

// Rows of the chunk and how they are divided among its sequences.
static void set_rows(struct launch *r, struct desk *d, int32_t rows, int32_t n_seqs)
{
    const int32_t *start = d->host.start;
    r->rows = rows;
    r->seqs = (struct kernel_seqs){.n = n_seqs, .rows = rows, .start = d->dev.start};
    for (int32_t q = 0; q < n_seqs; q++)
        if (start[q + 1] - start[q] > r->seqs.longest)
            r->seqs.longest = start[q + 1] - start[q];
    r->pos = d->dev.pos;
    r->dev = d->dev;
    r->few = r->n_top < rows;
}

// The rows of a chunk, and those of them whose next token is asked for.
static void plan_chunk(struct launch *r, struct desk *d, int32_t q0, int32_t q1)
{
    const struct model_gen *g = gen_of(d);
    struct control *c = &d->host;
    int32_t at = 0;
    bool drops = drops_at(g, 0);
    r->n_top = 0;
    c->start[0] = 0;
    for (int32_t q = q0; q < q1; q++) {
        const int32_t *token = g->tokens + g->start[q];
        int32_t n = drops ? choose(d, q, NULL) : read_of(g, q), prompt = prompt_of(g, q);
        for (int32_t k = 0; k < n; k++, at++) {
            int32_t i = drops ? d->kept[k] : k;
            c->pos[at] = drops && g->reduce->compact ? k : i;
            c->token[at] = token[i];
            if (i + 1 < prompt)
                continue;
            c->row[r->n_top] = at;
            c->target[r->n_top++] = g->answer ? token[i + 1] : -1;
        }
        c->start[q - q0 + 1] = at;
    }
    set_rows(r, d, at, q1 - q0);
}

// Only the rows of tokens that are worth it go on; those that predict are the last ones.
static void drop_rows(struct launch *r, struct desk *d, int32_t layer, int32_t q0, int32_t q1)
{
    const struct model_gen *g = gen_of(d);
    struct control *c = &d->host;
    bool received = g->reduce->row->needs & REDUCE_RECEIVED;
    int32_t at = 0;
    if (received)
        launch_get(r, d->out.received, d->dev_out.received,
                   (size_t)r->rows * sizeof *d->out.received);
    launch_wait(r); // the device has the lists that change now
    for (int32_t q = q0; q < q1; q++) {
        int32_t first = c->start[q - q0];
        int32_t n = choose(d, q, received ? d->out.received + first : NULL);
        c->start[q - q0] = at;
        for (int32_t k = 0; k < n; k++, at++) {
            c->scored[at] = first + d->kept[k];
            c->pos[at] = g->reduce->compact ? k : d->kept[k];
        }
        c->row[q - q0] = at - 1;
    }
    c->start[q1 - q0] = at;
    launch_put(r, d->dev.start, d->host.start, d->control_bytes);
    kernel_act *x = r->a.x[layer], *other = r->a.x[layer + 1];
    r->op->gather_rows(r->cx, x, r->a.ld_dim, d->dev.scored, at, r->m->cfg.dim, other, r->a.ld_dim);
    r->m->dev->row->copy(r->m->dev, r->lane, x, other,
                         (size_t)at * (size_t)r->a.ld_dim * kernel_dtype_bytes(r->cx->act));
    set_rows(r, d, at, q1 - q0);
}

// How many rows of each sequence merge on their way from this layer to the next one.
static void plan_merges(struct launch *r, struct desk *d, int32_t layer, int32_t q0)
{
    const struct model_gen *g = gen_of(d);
    for (int32_t s = 0; s < r->seqs.n; s++) {
        int32_t n = length_of(g, q0 + s);
        d->merges[s] = reduce_rows(g->reduce, n, layer) - reduce_rows(g->reduce, n, layer + 1);
    }
    r->merges = d->merges;
}

// The last layer goes on with the last row of each sequence, and merging has moved these.
static void enter_last(struct launch *r, struct desk *d, int32_t layer)
{
    const struct level *y = &r->level[layer];
    launch_wait(r);
    for (int32_t s = 0; s < r->seqs.n; s++)
        d->host.row[s] = y->host.start[s + 1] - 1;
    launch_put(r, d->dev.start, d->host.start, d->control_bytes);
    r->few = r->n_top < y->rows;
}

// Of how many tokens the cached rows of a tier stand for.
static void keep_sizes(struct launch *r, struct desk *d, int32_t t, int32_t layer, int32_t q0)
{
    const struct level *y = &r->level[layer];
    for (int32_t s = 0; s < r->seqs.n && y->dev.log_size; s++) {
        int32_t from = y->host.start[s], n = y->host.start[s + 1] - from;
        size_t at = d->size_at[t * d->group->n + q0 - d->group->seq0 + s];
        r->m->dev->row->copy(r->m->dev, r->lane, d->sizes + at, y->dev.log_size + from,
                             (size_t)n * sizeof *d->sizes);
    }
}

// The layers of a tier. Rows that merge do so within a layer; others leave before one.
static void run_tier(struct launch *r, struct desk *d, int32_t t, int32_t q0, int32_t q1)
{
    const struct model_gen *g = gen_of(d);
    const struct tier *tier = &d->w->tier[t];
    int32_t layers = r->m->cfg.layers;
    bool received = g->reduce && g->reduce->row->needs & REDUCE_RECEIVED;
    for (int32_t l = tier->layer0; l < tier->layer0 + tier->layers; l++) {
        struct kernel_cache cache = tier_cache(d, t, l);
        if (l > 0 && drops_at(g, l))
            drop_rows(r, d, l, q0, q1);
        if (r->merge)
            plan_merges(r, d, l, q0);
        if (r->merge && l == layers - 1)
            enter_last(r, d, l);
        layer_forward(r, l, received && t == 0 ? d->dev_out.received : NULL);
        struct kernel_attn attn = attn_of(r, l);
        r->op->cache_rows(r->cx, &attn, &r->seqs, r->a.kept[l].qkv, r->a.ld_qkv, &cache);
        if (r->merge && l == tier->layer0)
            keep_sizes(r, d, t, l, q0);
    }
}

// What the model makes of a chunk: losses, which answers are right, and, of all others, the first
// token. Returns how many sequences are active now.
static int32_t chunk_outcome(struct desk *d, int32_t q0, int32_t q1, int32_t active)
{
    const struct model_gen *g = gen_of(d);
    int64_t ns = clock_ns() - d->w->begin_ns;
    for (int32_t q = q0, i = 0; q < q1; q++) {
        bool right = g->answer != NULL;
        int32_t first = d->out.best[i], n = g->answer ? read_of(g, q) - prompt_of(g, q) + 1 : 1;
        double loss = 0;
        for (int32_t k = 0; k < n; k++, i++) {
            loss += (double)d->out.loss[i];
            right = right && d->out.best[i] == d->host.target[i];
        }
        if (g->answer) {
            g->loss[q] = loss;
            g->right[q] = right;
        }
        if (right)
            continue;
        stamp(g, q, ns);
        d->seq[active] = q;
        d->here.token[active++] = first;
    }
    return active;
}

// Before the first layer: the rows, their lists and their caches.
static void begin_chunk(struct launch *r, struct desk *d, int32_t q0, int32_t q1)
{
    const struct model_gen *g = gen_of(d);
    int32_t n = d->group->n;
    plan_chunk(r, d, q0, q1);
    for (int32_t q = q0; q < q1; q++) {
        int32_t s = q - d->group->seq0;
        for (int32_t t = 0; t < d->w->n_tiers; t++)
            d->have[t * n + s] = reduce_rows(g->reduce, prompt_of(g, q), d->w->tier[t].layer0);
        d->place[s] = prompt_of(g, q);
        plan_cache(r, d, q - q0, q);
    }
    if (merges_rows(g)) {
        r->merge = &d->merge;
        r->planned = 0;
        merge_rows_begin(r);
    }
    launch_put(r, d->dev.start, d->host.start, d->control_bytes);
    launch_put(r, d->there.k, d->here.k, d->step_bytes);
    if (g->reduce && g->reduce->row->needs & REDUCE_RECEIVED)
        launch_zero(r, d->dev_out.received, (size_t)r->rows * sizeof *d->dev_out.received);
}

int32_t read_chunk(struct launch *r, struct desk *d, int32_t q0, int32_t q1, int32_t active)
{
    begin_chunk(r, d, q0, q1);
    embed_forward(r, d->dev.token);
    for (int32_t t = 0; t < d->w->n_tiers; t++)
        run_tier(r, d, t, q0, q1);
    next_tokens(r, r->n_top, d->dev.target, d->dev_out.loss, d->dev_out.best);
    launch_get(r, d->out.loss, d->dev_out.loss, d->results_bytes);
    launch_wait(r);
    r->few = false;
    r->merge = NULL;
    r->merges = NULL;
    r->log_size = NULL;
    return chunk_outcome(d, q0, q1, active);
}
