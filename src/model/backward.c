// Operations of the way back. Weights are frozen but for training of all of them, so gradients go
// no lower than the lowest adapter, or than the embeddings where tokens are scored.
#include "model/inner.h"

// Must the gradient go below this projection of this layer?
static bool needed_below(const struct launch *r, int32_t l, int lin)
{
    if (l > r->first || r->full || r->token_grads)
        return true;
    for (int i = 0; i < lin; i++)
        if (r->m->layer[l].lin[i].n_lora > 0)
            return true;
    return false;
}

static void back_linear(struct launch *r, int32_t l, int lin, int32_t rows, const kernel_act *dy,
                        int32_t lddy, const kernel_act *x, int32_t ldx, kernel_act *dx, bool grads)
{
    const struct layer *y = &r->m->layer[l];
    float *grad = r->full || !grads ? NULL : r->grad;
    float *dw = r->full && grads ? r->grad + y->at[lin] : NULL;
    r->op->linear_bwd(r->cx, &y->lin[lin], r->adapter, dy, lddy, x, ldx, r->a.kept[l].u[lin],
                      r->a.ld_u[lin], rows, NULL, dx, ldx, grad, dw);
}

static float *norm_grad(const struct launch *r, const float *norm)
{
    return r->full ? r->grad + r->m->n_matrix + (norm - r->m->norms) : NULL;
}

// d of a sum's second part, where it was normalised before it was added: dx without its norm.
static const kernel_act *out_backward(struct launch *r, const float *norm, const kernel_act *out,
                                      const float *rstd, int32_t rows)
{
    struct acts *a = &r->a;
    if (!norm)
        return a->dx;
    launch_zero(r, a->dout, (size_t)rows * (size_t)a->ld_dim * kernel_dtype_bytes(r->cx->act));
    r->op->rmsnorm_bwd(r->cx, a->dx, a->ld_dim, out, a->ld_dim, norm, rstd, rows, r->m->cfg.dim,
                       a->dout, a->ld_dim, NULL);
    return a->dout;
}

// dx of x[l + 1] becomes dx of mid. False: nothing below needs it.
static bool mlp_backward(struct launch *r, int32_t l)
{
    const struct model_config *c = &r->m->cfg;
    const struct layer *y = &r->m->layer[l];
    struct acts *a = &r->a;
    struct kept *k = &a->kept[l];
    int32_t rows = rows_after(r, l);
    bool below = needed_below(r, l, LIN_DOWN);
    gate_forward(r, l, rows);
    const kernel_act *dout = out_backward(r, y->norm_mlp_out, k->mlp_out, k->rstd_mlp_out, rows);
    back_linear(r, l, LIN_DOWN, rows, dout, a->ld_dim, a->act, a->ld_hidden, below ? a->dact : NULL,
                true);
    if (!below)
        return false;
    (c->traits.gelu ? r->op->geglu_bwd : r->op->swiglu_bwd)(r->cx, k->gu, a->ld_gu, a->dact,
                                                            a->ld_hidden, rows, c->hidden, k->gu);
    r->op->rmsnorm_fwd(r->cx, k->mid, a->ld_dim, y->norm_mlp, rows, c->dim, (float)c->norm_eps,
                       a->h, a->ld_dim, NULL);
    below = needed_below(r, l, LIN_GU);
    back_linear(r, l, LIN_GU, rows, k->gu, a->ld_gu, a->h, a->ld_dim, below ? a->dh : NULL, true);
    if (below)
        r->op->rmsnorm_bwd(r->cx, a->dh, a->ld_dim, k->mid, a->ld_dim, y->norm_mlp, k->rstd_mlp,
                           rows, c->dim, a->dx, a->ld_dim, norm_grad(r, y->norm_mlp));
    return below;
}

// The last step of a layer's backward: dqkv to dx of the layer's input.
static void input_backward(struct launch *r, int32_t l)
{
    const struct layer *y = &r->m->layer[l];
    struct acts *a = &r->a;
    back_linear(r, l, LIN_QKV, r->rows, a->dqkv, a->ld_qkv, a->h, a->ld_dim, a->dh, true);
    r->op->rmsnorm_bwd(r->cx, a->dh, a->ld_dim, a->x[l], a->ld_dim, y->norm_att,
                       a->kept[l].rstd_att, r->rows, r->m->cfg.dim, a->dx, a->ld_dim,
                       norm_grad(r, y->norm_att));
}

static void swap(kernel_act **a, kernel_act **b)
{
    kernel_act *t = *a;
    *a = *b;
    *b = t;
}

// The same below the lowest adapter, for the embeddings alone and so for the scored rows alone.
// Nothing needs x[l + 1], h and the layer's qkv any more: the rows gather there.
static void scored_backward(struct launch *r, int32_t l)
{
    const struct model_config *c = &r->m->cfg;
    const struct layer *y = &r->m->layer[l];
    struct acts *a = &r->a;
    struct kept *k = &a->kept[l];
    int32_t n = r->n_scored;
    const kernel_act *dqkv = a->dqkv, *x = a->x[l];
    if (n < r->rows) {
        r->op->gather_rows(r->cx, dqkv, a->ld_qkv, r->dev.scored, n, model_qkv_cols(c), k->qkv,
                           a->ld_qkv);
        r->op->gather_rows(r->cx, x, a->ld_dim, r->dev.scored, n, c->dim, a->x[l + 1], a->ld_dim);
        r->op->gather_rows(r->cx, a->dx, a->ld_dim, r->dev.scored, n, c->dim, a->h, a->ld_dim);
        swap(&a->dx, &a->h);
        dqkv = k->qkv;
        x = a->x[l + 1];
        r->op->rmsnorm_fwd(r->cx, x, a->ld_dim, y->norm_att, n, c->dim, (float)c->norm_eps, a->h,
                           a->ld_dim, k->rstd_att);
    }
    back_linear(r, l, LIN_QKV, n, dqkv, a->ld_qkv, a->h, a->ld_dim, a->dh, false);
    r->op->rmsnorm_bwd(r->cx, a->dh, a->ld_dim, x, a->ld_dim, y->norm_att, k->rstd_att, n, c->dim,
                       a->dx, a->ld_dim, NULL);
}

// dx of mid, or of what its rows merged into, becomes d of the attention's output.
static bool project_backward(struct launch *r, int32_t l)
{
    const struct model_config *c = &r->m->cfg;
    struct acts *a = &r->a;
    bool below = needed_below(r, l, LIN_O), few = rows_attended(r, l) < r->rows;
    kernel_act *datt = few ? a->datt_few : a->datt;
    if (merges_at(r, l)) {
        merge_backward(r, l, a->dx, a->dh);
        swap(&a->dx, &a->dh);
    }
    const kernel_act *dout = out_backward(r, r->m->layer[l].norm_att_out, a->kept[l].att_out,
                                          a->kept[l].rstd_att_out, rows_attended(r, l));
    back_linear(r, l, LIN_O, rows_attended(r, l), dout, a->ld_dim,
                few ? a->att_few : a->kept[l].att, a->ld_q, below ? datt : NULL, true);
    if (below && few) { // from here on there are all rows again
        r->op->scatter_rows(r->cx, datt, a->ld_q, r->dev.row, r->n_top, model_q_cols(c), a->datt,
                            a->ld_q, r->rows);
        r->op->scatter_rows(r->cx, a->dx, a->ld_dim, r->dev.row, r->n_top, c->dim, a->dh, a->ld_dim,
                            r->rows);
        swap(&a->dx, &a->dh);
    }
    return below;
}

// dx of mid becomes dx of x[l]. Below the lowest adapter it is only done for the embeddings, and
// timed apart.
static void attention_backward(struct launch *r, int32_t l)
{
    const struct model *m = r->m;
    const struct model_config *c = &m->cfg;
    struct acts *a = &r->a;
    struct kept *k = &a->kept[l];
    struct kernel_rope rope = rope_of(m, l, -1.0f);
    struct kernel_attn attn = attn_of(r, l);
    if (!project_backward(r, l))
        return;
    r->op->attention_bwd(r->cx, &attn, &r->seqs, k->qkv, a->ld_qkv, k->att, a->datt, a->ld_q,
                         k->lse, a->dqkv);
    r->op->rope(r->cx, &rope, r->pos, r->rows, a->dqkv, a->ld_qkv);
    if (m->layer[l].norm_heads) {
        struct kernel_heads heads = {c->heads, c->kv_heads, c->head_dim, (float)c->norm_eps};
        r->op->head_norm_bwd(r->cx, &heads, m->layer[l].norm_heads, k->raw, a->ld_qkv, r->rows,
                             a->dqkv, a->ld_qkv);
    }
    r->op->rmsnorm_fwd(r->cx, a->x[l], a->ld_dim, m->layer[l].norm_att, r->rows, c->dim,
                       (float)c->norm_eps, a->h, a->ld_dim, NULL);
    if (l > r->first || r->full) {
        input_backward(r, l);
        return;
    }
    back_linear(r, l, LIN_QKV, r->rows, a->dqkv, a->ld_qkv, a->h, a->ld_dim, NULL, true);
    launch_mark(r, MARK_EMBED);
    if (r->token_grads && r->n_scored > 0)
        scored_backward(r, l);
}

static void embed_backward(struct launch *r)
{
    const struct model *m = r->m;
    const struct model_job *job = r->job;
    if (r->full) {
        launch_mark(r, MARK_EMBED);
        r->op->embed_bwd(r->cx, r->a.dx, r->a.ld_dim, r->dev.token, r->rows, m->cfg.dim, NULL,
                         r->grad + m->embed_at);
        return;
    }
    if (job->token_sq)
        r->op->embed_bwd(r->cx, r->a.dx, r->a.ld_dim, r->dev.token, r->n_scored, m->cfg.dim,
                         r->dev_out.token_sq, NULL);
    if (job->embed_grad)
        r->op->widen_rows(r->cx, r->a.dx, r->a.ld_dim, r->rows, m->cfg.dim, r->dev_out.x);
}

// dx of what left at the cut. Only merging knows by now how many rows those are.
static void back_enter(struct launch *r)
{
    if (r->merge)
        plan_back(r);
    r->op->narrow_rows(r->cx, r->dev_out.x, r->rows, r->m->cfg.dim, r->a.dx, r->a.ld_dim);
}

void launch_backward(struct launch *r)
{
    const struct model *m = r->m;
    int32_t lowest = r->full || r->token_grads || m->shape.n_values > 0 ? r->first : r->end;
    launch_mark(r, MARK_FORWARD);
    if (r->job->back)
        back_enter(r);
    for (int32_t l = r->end - 1; l >= lowest; l--) {
        merge_enter(r, l);
        if (r->a.shared && l < r->end - 1) // the last layer's are still there
            layer_forward(r, l, NULL);
        if (mlp_backward(r, l))
            attention_backward(r, l);
    }
    if (r->token_grads || r->full)
        embed_backward(r);
}
