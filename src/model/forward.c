// Activations of a slice, and the way through the layers that training, evaluation and generation
// share.
#include "base/fmath.h"
#include "base/mem.h"
#include "model/inner.h"

#include <math.h>

void *bump_take(struct bump *b, size_t count, size_t size)
{
    size_t at = b->used;
    b->used += (count * size + 63) / 64 * 64;
    return b->base ? b->base + at : NULL;
}

static float *take(struct bump *b, int32_t rows, int32_t ld)
{
    return bump_take(b, (size_t)rows * (size_t)ld + KERNEL_SLACK, sizeof(float));
}

static void take_kept(const struct model *m, struct acts *a, struct kept *k, int32_t rows,
                      struct bump *b)
{
    struct kept t = {.qkv = take(b, rows, a->ld_qkv),
                     .att = take(b, rows, a->ld_q),
                     .lse = take(b, rows, m->cfg.heads),
                     .mid = take(b, rows, a->ld_dim),
                     .gu = take(b, rows, a->ld_gu),
                     .rstd_att = take(b, rows, 1),
                     .rstd_mlp = take(b, rows, 1)};
    for (int i = 0; i < LINS; i++)
        t.u[i] = take(b, rows, a->ld_u[i]);
    if (k)
        *k = t;
}

void acts_take(const struct model *m, struct acts *a, int32_t rows, bool train, struct bump *b)
{
    const struct model_config *c = &m->cfg;
    bool shared = !train || m->params.recompute == MODEL_KEEP_LAYER;
    *a = (struct acts){.ld_dim = stride(c->dim),
                       .ld_q = stride(model_q_cols(c)),
                       .ld_qkv = stride(model_qkv_cols(c)),
                       .ld_gu = stride(2 * c->hidden),
                       .ld_hidden = stride(c->hidden),
                       .shared = shared};
    for (int i = 0; i < LINS; i++)
        a->ld_u[i] = (m->layer[0].lin[i].ranks + 15) / 16 * 16;
    size_t layers = (size_t)c->layers;
    a->x = bump_take(b, layers + 1, sizeof *a->x);
    a->kept = bump_take(b, layers, sizeof *a->kept);
    for (int32_t l = 0; l <= c->layers; l++) {
        float *x = train || l < 2 ? take(b, rows, a->ld_dim) : NULL;
        if (a->x)
            a->x[l] = train || l < 2 ? x : a->x[l - 2];
    }
    for (int32_t l = 0; l < c->layers; l++)
        if (l == 0 || !shared)
            take_kept(m, a, a->kept ? &a->kept[l] : NULL, rows, b);
        else if (a->kept)
            a->kept[l] = a->kept[0];
    a->h = take(b, rows, a->ld_dim);
    a->start = bump_take(b, (size_t)rows + 1, sizeof *a->start);
    a->pos = bump_take(b, (size_t)rows, sizeof *a->pos);
    a->row = bump_take(b, (size_t)rows, sizeof *a->row);
    a->target = bump_take(b, (size_t)rows, sizeof *a->target);
    a->best = bump_take(b, (size_t)rows, sizeof *a->best);
    levels_take(a, c->layers, rows, b);
    a->rstd_top = take(b, rows, 1);
    a->loss = take(b, rows, 1);
    a->weight = take(b, rows, 1);
    a->x_few = take(b, train ? rows / 2 : rows, a->ld_dim);
    a->att_few = take(b, train ? rows / 2 : rows, a->ld_q);
    if (train) {
        a->datt_few = take(b, rows / 2, a->ld_q);
        a->dh = take(b, rows, a->ld_dim);
        a->dx = take(b, rows, a->ld_dim);
    }
    // Three uses of one place.
    size_t mark = b->used, most;
    a->act = take(b, rows, a->ld_hidden);
    a->dact = train ? take(b, rows, a->ld_hidden) : NULL;
    most = b->used;
    b->used = mark;
    a->top = take(b, rows, a->ld_dim);
    a->dtop = train ? take(b, rows, a->ld_dim) : NULL;
    most = b->used > most ? b->used : most;
    b->used = mark;
    if (train) {
        a->dqkv = take(b, rows, a->ld_qkv);
        a->datt = take(b, rows, a->ld_q);
    }
    b->used = b->used > most ? b->used : most;
}

size_t acts_bytes(const struct model *m, int32_t rows, bool train)
{
    struct acts a;
    struct bump b = {0};
    acts_take(m, &a, rows, train, &b);
    return b.used;
}

size_t model_kept_bytes(const struct model *m, int32_t tokens)
{
    struct acts a;
    struct bump all = {0}, one = {0};
    acts_take(m, &a, 0, true, &all); // for the strides
    all.used = 0;
    take_kept(m, &a, NULL, tokens, &one);
    for (int32_t l = 0; l <= m->cfg.layers; l++)
        take(&all, tokens, a.ld_dim);
    return all.used + one.used * (size_t)(a.shared ? 1 : m->cfg.layers);
}

void model_positions(struct model *m, int32_t n)
{
    if (n <= m->positions)
        return;
    int32_t half = m->cfg.head_dim / 2;
    mem_free(m->cosine);
    mem_free(m->sine);
    m->cosine = mem_alloc(MEM_WEIGHTS, (size_t)n * (size_t)half * sizeof *m->cosine);
    m->sine = mem_alloc(MEM_WEIGHTS, (size_t)n * (size_t)half * sizeof *m->sine);
    m->positions = n;
    const double turn = 0.15915494309189533577; // 1 / (2 pi)
    for (int32_t i = 0; i < half; i++) {
        double speed = fmath_pow(m->cfg.rope_theta, -2.0 * i / m->cfg.head_dim);
        for (int32_t p = 0; p < n; p++) {
            m->cosine[p * half + i] = (float)fmath_cos2pi(p * speed * turn);
            m->sine[p * half + i] = (float)fmath_sin2pi(p * speed * turn);
        }
    }
}

void lanes_reserve(struct model *m, int32_t rows, int32_t longest, size_t acts_bytes)
{
    const struct model_config *c = &m->cfg;
    int32_t ranks = 0;
    for (int i = 0; i < LINS; i++)
        ranks = m->layer[0].lin[i].ranks > ranks ? m->layer[0].lin[i].ranks : ranks;
    int32_t widest = 2 * c->hidden > model_qkv_cols(c) ? 2 * c->hidden : model_qkv_cols(c);
    dev_reserve(m->dev, kernel_work_floats(rows, longest, widest, ranks, c->head_dim));
    model_positions(m, longest);
    if (acts_bytes <= m->acts_bytes)
        return;
    m->acts_bytes = acts_bytes;
    for (int32_t i = 0; i < m->dev->threads; i++) {
        if (m->lane[i].acts.base)
            arena_free(&m->lane[i].acts);
        arena_init(&m->lane[i].acts, MEM_ACTIVATIONS, "activations of a slice", acts_bytes);
    }
}

struct kernel_rope rope_of(const struct model *m, float sign)
{
    return (struct kernel_rope){.cosine = m->cosine,
                                .sine = m->sine,
                                .heads = m->cfg.heads + m->cfg.kv_heads,
                                .head_dim = m->cfg.head_dim,
                                .style = m->cfg.rope_style,
                                .sign = sign};
}

struct kernel_attn attn_of(const struct run *r)
{
    const struct model_config *c = &r->m->cfg;
    return (struct kernel_attn){.heads = c->heads,
                                .kv_heads = c->kv_heads,
                                .head_dim = c->head_dim,
                                .scale = 1.0f / sqrtf((float)c->head_dim),
                                .log_size = r->log_size};
}

// x[l] -> x[l + 1]; what backward needs goes to kept[l]. received only on the first way through.
void layer_forward(struct run *r, int32_t l, float *received)
{
    const struct model *m = r->m;
    const struct model_config *c = &m->cfg;
    const struct layer *y = &m->layer[l];
    struct acts *a = &r->a;
    struct kept *k = &a->kept[l];
    merge_enter(r, l);
    struct kernel_rope rope = rope_of(m, 1.0f);
    struct kernel_attn attn = attn_of(r);
    int32_t rows = r->rows;
    float eps = (float)c->norm_eps;
    r->op->rmsnorm_fwd(r->cx, a->x[l], a->ld_dim, y->norm_att, rows, c->dim, eps, a->h, a->ld_dim,
                       k->rstd_att);
    r->op->linear_fwd(r->cx, &y->lin[LIN_QKV], r->adapter, a->h, a->ld_dim, rows, NULL, k->qkv,
                      a->ld_qkv, k->u[LIN_QKV], a->ld_u[LIN_QKV]);
    merge_plan(r, l);
    r->op->rope(r->cx, &rope, a->pos, rows, k->qkv, a->ld_qkv);
    if (r->cache.k) {
        struct kernel_cache cache = r->cache;
        cache.skip = (size_t)l * r->cache_layer;
        r->op->attention_step(r->cx, &attn, &cache, rows, k->qkv, a->ld_qkv, k->att, a->ld_q);
    } else {
        r->op->attention_fwd(r->cx, &attn, &r->seqs, k->qkv, a->ld_qkv, k->att, a->ld_q, k->lse,
                             received);
    }
    const float *att = k->att, *x = a->x[l];
    if (rows_attended(r, l) < rows) {
        r->op->gather_rows(r->cx, k->att, a->ld_q, a->row, r->n_top, model_q_cols(c), a->att_few,
                           a->ld_q);
        r->op->gather_rows(r->cx, x, a->ld_dim, a->row, r->n_top, c->dim, a->x_few, a->ld_dim);
        att = a->att_few;
        x = a->x_few;
        rows = r->n_top;
    }
    bool merges = merges_at(r, l);
    float *mid = merges ? a->x[l + 1] : k->mid; // whose place is free until the layer ends
    r->op->linear_fwd(r->cx, &y->lin[LIN_O], r->adapter, att, a->ld_q, rows, x, mid, a->ld_dim,
                      k->u[LIN_O], a->ld_u[LIN_O]);
    if (merges) {
        merge_forward(r, l, mid, k->mid);
        rows = rows_after(r, l);
    }
    r->op->rmsnorm_fwd(r->cx, k->mid, a->ld_dim, y->norm_mlp, rows, c->dim, eps, a->h, a->ld_dim,
                       k->rstd_mlp);
    r->op->linear_fwd(r->cx, &y->lin[LIN_GU], r->adapter, a->h, a->ld_dim, rows, NULL, k->gu,
                      a->ld_gu, k->u[LIN_GU], a->ld_u[LIN_GU]);
    r->op->swiglu_fwd(r->cx, k->gu, a->ld_gu, rows, c->hidden, a->act, a->ld_hidden);
    r->op->linear_fwd(r->cx, &y->lin[LIN_DOWN], r->adapter, a->act, a->ld_hidden, rows, k->mid,
                      a->x[l + 1], a->ld_dim, k->u[LIN_DOWN], a->ld_u[LIN_DOWN]);
}
