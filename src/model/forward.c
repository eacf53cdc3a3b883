// Operations of the way forward, which training, evaluation and generation share.
#include "model/inner.h"

#include <math.h>

struct kernel_rope rope_of(const struct model *m, int32_t layer, float sign)
{
    bool windowed = m->layer[layer].windowed;
    return (struct kernel_rope){.cosine = m->cosine[windowed],
                                .sine = m->sine[windowed],
                                .heads = m->cfg.heads + m->cfg.kv_heads,
                                .head_dim = m->cfg.head_dim,
                                .style = m->cfg.rope_style,
                                .sign = sign};
}

struct kernel_attn attn_of(const struct launch *r, int32_t layer)
{
    const struct model_config *c = &r->m->cfg;
    float scale = c->attn_scale > 0 ? (float)c->attn_scale : 1.0f / sqrtf((float)c->head_dim);
    return (struct kernel_attn){.heads = c->heads,
                                .kv_heads = c->kv_heads,
                                .head_dim = c->head_dim,
                                .window = r->m->layer[layer].windowed ? c->window : 0,
                                .scale = scale,
                                .log_size = r->log_size};
}

void embed_forward(struct launch *r, const int32_t *tokens)
{
    const struct model_config *c = &r->m->cfg;
    r->op->embed_fwd(r->cx, &r->m->embed, tokens, r->rows, r->a.x[0], r->a.ld_dim);
    if (c->traits.scaled_embed)
        r->op->scale_rows(r->cx, sqrtf((float)c->dim), r->rows, c->dim, r->a.x[0], r->a.ld_dim);
}

void gate_forward(struct launch *r, int32_t l, int32_t rows)
{
    const struct model_config *c = &r->m->cfg;
    (c->traits.gelu ? r->op->geglu_fwd : r->op->swiglu_fwd)(
        r->cx, r->a.kept[l].gu, r->a.ld_gu, rows, c->hidden, r->a.act, r->a.ld_hidden);
}

// y = y0 + x W^T, or, where there is a norm, y = y0 + norm(x W^T), which leaves x W^T in out.
static void project_sum(struct launch *r, int32_t l, int lin, const float *norm,
                        const kernel_act *x, int32_t ldx, int32_t rows, const kernel_act *y0,
                        kernel_act *y, kernel_act *out, float *rstd)
{
    const struct model_config *c = &r->m->cfg;
    struct acts *a = &r->a;
    r->op->linear_fwd(r->cx, &r->m->layer[l].lin[lin], r->adapter, x, ldx, rows, norm ? NULL : y0,
                      norm ? out : y, a->ld_dim, a->kept[l].u[lin], a->ld_u[lin]);
    if (norm)
        r->op->norm_sum_fwd(r->cx, out, a->ld_dim, norm, rows, c->dim, (float)c->norm_eps, y0, y,
                            a->ld_dim, rstd);
}

// The layer's queries, keys and values, of h, not yet turned.
static void query(struct launch *r, int32_t l)
{
    const struct model_config *c = &r->m->cfg;
    const struct layer *y = &r->m->layer[l];
    struct acts *a = &r->a;
    struct kept *k = &a->kept[l];
    kernel_act *qkv = y->norm_heads ? k->raw : k->qkv;
    r->op->linear_fwd(r->cx, &y->lin[LIN_QKV], r->adapter, a->h, a->ld_dim, r->rows, NULL, qkv,
                      a->ld_qkv, k->u[LIN_QKV], a->ld_u[LIN_QKV]);
    if (y->bias)
        r->op->bias_rows(r->cx, y->bias, r->rows, model_qkv_cols(c), qkv, a->ld_qkv);
    if (y->norm_heads) {
        struct kernel_heads heads = {c->heads, c->kv_heads, c->head_dim, (float)c->norm_eps};
        r->op->head_norm_fwd(r->cx, &heads, y->norm_heads, qkv, a->ld_qkv, r->rows, k->qkv,
                             a->ld_qkv);
    }
}

// Keys are known before they are turned by their place, which is when merging looks at them.
static void attend(struct launch *r, int32_t l, float *received)
{
    struct acts *a = &r->a;
    struct kept *k = &a->kept[l];
    struct kernel_rope rope = rope_of(r->m, l, 1.0f);
    struct kernel_attn attn = attn_of(r, l);
    merge_plan(r, l);
    r->op->rope(r->cx, &rope, r->pos, r->rows, k->qkv, a->ld_qkv);
    if (r->cache.k) {
        r->op->attention_step(r->cx, &attn, &r->cache, r->rows, k->qkv, a->ld_qkv, k->att, a->ld_q);
    } else {
        r->op->attention_fwd(r->cx, &attn, &r->seqs, k->qkv, a->ld_qkv, k->att, a->ld_q, k->lse,
                             received);
    }
}

// mid = x[l] + attention's output, for the rows that go on.
static void project(struct launch *r, int32_t l)
{
    const struct model_config *c = &r->m->cfg;
    struct acts *a = &r->a;
    struct kept *k = &a->kept[l];
    const kernel_act *att = k->att, *x = a->x[l];
    int32_t rows = rows_attended(r, l);
    if (rows < r->rows) {
        r->op->gather_rows(r->cx, att, a->ld_q, r->dev.row, rows, model_q_cols(c), a->att_few,
                           a->ld_q);
        r->op->gather_rows(r->cx, x, a->ld_dim, r->dev.row, rows, c->dim, a->x_few, a->ld_dim);
        att = a->att_few;
        x = a->x_few;
    }
    bool merges = merges_at(r, l);
    kernel_act *mid = merges ? a->x[l + 1] : k->mid; // whose place is free until the layer ends
    project_sum(r, l, LIN_O, r->m->layer[l].norm_att_out, att, a->ld_q, rows, x, mid, k->att_out,
                k->rstd_att_out);
    if (merges)
        merge_forward(r, l, mid, k->mid);
}

void layer_forward(struct launch *r, int32_t l, float *received)
{
    const struct model_config *c = &r->m->cfg;
    const struct layer *y = &r->m->layer[l];
    struct acts *a = &r->a;
    struct kept *k = &a->kept[l];
    float eps = (float)c->norm_eps;
    merge_enter(r, l);
    r->op->rmsnorm_fwd(r->cx, a->x[l], a->ld_dim, y->norm_att, r->rows, c->dim, eps, a->h,
                       a->ld_dim, k->rstd_att);
    query(r, l);
    attend(r, l, received);
    project(r, l);
    int32_t rows = rows_after(r, l);
    r->op->rmsnorm_fwd(r->cx, k->mid, a->ld_dim, y->norm_mlp, rows, c->dim, eps, a->h, a->ld_dim,
                       k->rstd_mlp);
    r->op->linear_fwd(r->cx, &y->lin[LIN_GU], r->adapter, a->h, a->ld_dim, rows, NULL, k->gu,
                      a->ld_gu, k->u[LIN_GU], a->ld_u[LIN_GU]);
    gate_forward(r, l, rows);
    project_sum(r, l, LIN_DOWN, y->norm_mlp_out, a->act, a->ld_hidden, rows, k->mid, a->x[l + 1],
                k->mlp_out, k->rstd_mlp_out);
}

// Loss at the chosen rows; with a backward also dx of the last layer's output.
static void head(struct launch *r)
{
    const struct model *m = r->m;
    const struct model_config *c = &m->cfg;
    struct acts *a = &r->a;
    int32_t n = r->n_top;
    const kernel_act *top = a->x[c->layers];
    kernel_act *dtop = r->few ? a->dx : a->dtop;
    if (!r->few) {
        r->op->gather_rows(r->cx, top, a->ld_dim, r->dev.row, n, c->dim, a->top, a->ld_dim);
        top = a->top;
    }
    r->op->rmsnorm_fwd(r->cx, top, a->ld_dim, m->norm_final, n, c->dim, (float)c->norm_eps, a->h,
                       a->ld_dim, a->rstd_top);
    r->op->ce_head(r->cx, &m->head, a->h, a->ld_dim, n, r->dev.target, r->dev.weight,
                   r->dev_out.loss, r->dev_out.best, r->backward ? a->dh : NULL, a->ld_dim,
                   r->full ? r->grad + m->head_at : NULL);
    if (!r->backward)
        return;
    launch_zero(r, dtop, (size_t)n * (size_t)a->ld_dim * kernel_dtype_bytes(r->cx->act));
    float *dw = r->full ? r->grad + m->n_matrix + (m->norm_final - m->norms) : NULL;
    r->op->rmsnorm_bwd(r->cx, a->dh, a->ld_dim, top, a->ld_dim, m->norm_final, a->rstd_top, n,
                       c->dim, dtop, a->ld_dim, dw);
    if (!r->few)
        r->op->scatter_rows(r->cx, dtop, a->ld_dim, r->dev.row, n, c->dim, a->dx, a->ld_dim,
                            r->rows);
}

// The last layer goes on with the rows that have a loss, which merging decides as it goes.
static void enter_last(struct launch *r, int32_t l)
{
    merge_enter(r, l);
    plan_top(r);
    launch_put(r, r->dev.start, r->host.start, r->control_bytes);
}

void launch_forward(struct launch *r)
{
    const struct model *m = r->m;
    const struct model_job *job = r->job;
    int32_t layers = r->end;
    if (job->batch->from)
        r->op->narrow_rows(r->cx, r->dev_out.x, r->rows, m->cfg.dim, r->a.x[r->first], r->a.ld_dim);
    else
        embed_forward(r, r->dev.token);
    if (job->received)
        launch_zero(r, r->dev_out.received, (size_t)r->rows * sizeof *r->dev_out.received);
    for (int32_t l = r->first; l < layers; l++) {
        if (r->merge && l == m->cfg.layers - 1)
            enter_last(r, l);
        layer_forward(r, l, job->received ? r->dev_out.received : NULL);
        if (job->tap)
            tap_layer(r, l);
    }
    if (job->cut || job->back)
        merge_enter(r, layers);
    if (job->cut)
        r->op->widen_rows(r->cx, r->a.x[layers], r->a.ld_dim, r->rows, m->cfg.dim, r->dev_out.x);
    else if (job->tap)
        tap_head(r);
    else if (!job->back)
        head(r);
}
