#include "fed/global.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static size_t keep_floats(const struct view_part *part)
{
    const struct codec_agg *agg = part->codec->row->agg;
    return agg && agg->keep_floats ? agg->keep_floats(part->codec, part->shape.n_values) : 0;
}

static void open_parts(struct global *g, const struct view_inst *v, size_t keep_at)
{
    g->part = mem_alloc(MEM_SERVER, v->n_parts * sizeof *g->part);
    for (uint32_t p = 0; p < v->n_parts; p++) {
        const struct codec_inst *c = v->part[p].codec;
        size_t keep = keep_floats(&v->part[p]);
        g->part[p].sum = g->sum + v->part[p].at;
        g->part[p].agg_keep = keep ? g->state + keep_at : NULL;
        if (c->row->agg)
            g->part[p].agg_state =
                mem_alloc(MEM_SERVER, c->row->agg->state_bytes(c, v->part[p].shape.n_values));
        keep_at += keep;
    }
}

int global_open(struct global *g, const struct fed_env *env, struct err *err)
{
    const struct scheme *scheme = env->method->scheme;
    const struct view_inst *view = &env->method->view;
    *g = (struct global){.env = env, .n = env->work->shape.n_values};
    size_t own = g->n * (size_t)scheme->state_vectors;
    g->n_state = own;
    for (uint32_t p = 0; p < view->n_parts; p++)
        g->n_state += keep_floats(&view->part[p]);
    g->n_model = fed_model_floats(env);
    g->theta = mem_alloc(MEM_SERVER, g->n_model * sizeof *g->theta);
    g->sum = mem_alloc(MEM_SERVER, g->n * sizeof *g->sum);
    g->delta = view->whole ? g->sum : mem_alloc(MEM_SERVER, g->n * sizeof *g->delta);
    g->state = g->n_state ? mem_alloc(MEM_SERVER, g->n_state * sizeof *g->state) : NULL;
    size_t scratch = view_decode_scratch(view);
    g->scratch = scratch ? mem_alloc(MEM_CODEC, scratch) : NULL;
    open_parts(g, view, own);
    env->work->row->initial(env->work, g->theta);
    if (g->n_state && scheme->init)
        scheme->init(env->method->scheme_opt, g->state, g->n);
    return scheme->open ? scheme->open(g, err) : 0;
}

void global_close(struct global *g)
{
    if (!g->env)
        return;
    const struct scheme *scheme = g->env->method->scheme;
    if (scheme->close && g->own)
        scheme->close(g);
    for (uint32_t p = 0; g->part && p < g->env->method->view.n_parts; p++)
        mem_free(g->part[p].agg_state);
    mem_free(g->part);
    if (g->delta != g->sum)
        mem_free(g->delta);
    mem_free(g->sum);
    mem_free(g->theta);
    mem_free(g->state);
    mem_free(g->scratch);
    memset(g, 0, sizeof *g);
}

void global_begin(struct global *g, uint32_t version)
{
    const struct scheme *scheme = g->env->method->scheme;
    const struct view_inst *view = &g->env->method->view;
    g->weight = g->loss = 0;
    g->arrived = 0;
    memset(g->sum, 0, g->n * sizeof *g->sum);
    for (uint32_t p = 0; p < view->n_parts; p++) {
        const struct codec_inst *c = view->part[p].codec;
        g->part[p].weight = 0;
        if (c->row->agg)
            c->row->agg->begin(c, g->part[p].agg_state, view->part[p].shape.n_values);
    }
    if (scheme->fresh)
        g->env->work->row->fresh(g->env->work, version, g->theta);
    if (scheme->begin)
        scheme->begin(g);
}

static int add_message(struct global *g, const struct update *u, struct err *err)
{
    const struct view_inst *view = &g->env->method->view;
    uint32_t p = view_turn(view, u->client, u->version);
    const struct codec_inst *c = view->part[p].codec;
    struct codec_key key = view_key(view, g->env->seed, u->client, u->version);
    int rc;
    if (c->row->agg)
        rc = c->row->agg->add(c, &key, u->bytes, u->len, (double)u->weight, g->part[p].agg_state,
                              err);
    else
        rc =
            codec_decode_add(c, &key, u->bytes, u->len, u->weight, g->part[p].sum, g->scratch, err);
    if (rc == 0)
        g->part[p].weight += (double)u->weight;
    return rc;
}

int global_add(struct global *g, struct update *u, struct err *err)
{
    const struct scheme *scheme = g->env->method->scheme;
    struct recorder *rec = g->env->rec;
    struct span span = span_begin(rec);
    int rc = scheme->add ? scheme->add(g, u, err) : add_message(g, u, err);
    if (!scheme->pack) // what is no update is timed by whom knows it
        span_end(rec, span, STAGE_DECODE, (int32_t)u->client, (int64_t)u->len, (int64_t)(4 * g->n));
    if (rc)
        return rc;
    g->weight += (double)u->weight;
    g->loss += (double)u->weight * u->loss;
    g->arrived++;
    return 0;
}

// The mean of each part, over those who sent it.
static void close_sums(struct global *g)
{
    const struct view_inst *view = &g->env->method->view;
    for (uint32_t p = 0; p < view->n_parts; p++) {
        const struct codec_inst *codec = view->part[p].codec;
        struct part_sum *part = &g->part[p];
        size_t n = view->part[p].shape.n_values;
        if (part->weight <= 0)
            continue;
        if (codec->row->agg) {
            codec->row->agg->finish(codec, part->agg_state, part->agg_keep, part->weight, part->sum,
                                    n);
        } else {
            float inverse = (float)(1.0 / part->weight);
            for (size_t i = 0; i < n; i++)
                part->sum[i] *= inverse;
        }
    }
}

// Only what was sent moves: a part without a turn keeps its values and the server's state of them.
static void step_parts(struct global *g, double lr)
{
    const struct method *m = g->env->method;
    struct step step = {.theta = g->theta,
                        .delta = g->delta,
                        .state = g->state,
                        .n = g->n,
                        .lr = lr,
                        .arrived = g->arrived,
                        .clients = g->env->fed->clients};
    for (uint32_t p = 0; p < m->view.n_parts; p++) {
        const struct view_part *part = &m->view.part[p];
        if (g->part[p].weight <= 0)
            continue;
        if (!m->view.whole)
            view_scatter(part, g->part[p].sum, g->delta);
        for (int i = 0; i < part->n_ranges; i++) {
            step.range = part->range[i];
            m->scheme->commit(m->scheme_opt, &step);
        }
    }
}

bool global_finite(const float *v, size_t n)
{
    float worst = 0;
    for (size_t i = 0; i < n; i++)
        worst += v[i] * 0.0f; // NaN as soon as one is not finite
    return worst == 0;
}

bool global_commit(struct global *g, uint32_t version, double lr, double *norm)
{
    const struct scheme *scheme = g->env->method->scheme;
    struct recorder *rec = g->env->rec;
    int64_t bytes = (int64_t)(4 * g->n);
    struct span span = span_begin(rec);
    close_sums(g);
    bool own = !scheme->mean || scheme->mean(g, lr);
    span_end(rec, span, STAGE_AGGREGATE, -1, 0, bytes);
    if (!global_finite(g->sum, g->n) || !own)
        return false;
    double squares = 0;
    for (size_t i = 0; i < g->n; i++)
        squares += (double)g->sum[i] * (double)g->sum[i];
    *norm = sqrt(squares);
    span = span_begin(rec);
    step_parts(g, lr);
    if (scheme->after)
        scheme->after(g, version);
    span_end(rec, span, STAGE_COMMIT, -1, 0, bytes);
    return true;
}

uint64_t global_hash(const struct global *g)
{
    return XXH3_64bits(g->theta, 4 * g->n_model);
}
