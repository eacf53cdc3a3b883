#include "fed/global.h"

#include "base/mem.h"
#include "fed/datagram.h"
#include "fed/protocol.h"

#include <math.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static size_t keep_floats(const struct codec_inst *c)
{
    const struct codec_agg *agg = c->row->agg;
    return agg && agg->keep_floats ? agg->keep_floats(c, c->shape->n_values) : 0;
}

struct part_sum *global_sum(const struct global *g, uint32_t part, int vector)
{
    return &g->part[(int)part * g->env->method->view.n_vectors + vector];
}

static size_t grains(const struct codec_inst *c)
{
    return (c->shape->n_values + BLOCK_GRAIN - 1) / BLOCK_GRAIN;
}

static void open_parts(struct global *g, const struct view_inst *v, size_t keep_at)
{
    g->part = mem_alloc(MEM_SERVER, v->n_parts * (size_t)v->n_vectors * sizeof *g->part);
    for (uint32_t p = 0; p < v->n_parts; p++)
        for (int k = 0; k < v->n_vectors; k++) {
            const struct codec_inst *c = v->part[p].vector[k].codec;
            struct part_sum *part = global_sum(g, p, k);
            size_t keep = keep_floats(c);
            part->sum = g->sum[k] + v->part[p].at;
            part->agg_keep = keep ? g->state + keep_at : NULL;
            if (c->row->agg)
                part->agg_state =
                    mem_alloc(MEM_SERVER, c->row->agg->state_bytes(c, c->shape->n_values));
            keep_at += keep;
            if (g->env->fed->sum == FED_SUM_EXACT)
                part->exact = mem_alloc(MEM_SERVER, c->shape->n_values * sizeof *part->exact);
            if (datagram_on(g->env->method, g->env->link))
                part->grain = mem_alloc(MEM_SERVER, grains(c) * sizeof *part->grain);
        }
}

static void open_vectors(struct global *g, const struct view_inst *v)
{
    size_t bytes = g->n * sizeof(float);
    g->n_sum = v->row->nested ? v->n_sum : g->n;
    g->cover = v->row->nested ? mem_alloc(MEM_SERVER, bytes) : NULL;
    for (int k = 0; k < v->n_vectors; k++) {
        g->sum[k] = mem_alloc(MEM_SERVER, g->n_sum * sizeof(float));
        g->mean[k] = v->whole ? g->sum[k] : mem_alloc(MEM_SERVER, bytes);
        bool exact = g->env->fed->sum == FED_SUM_EXACT;
        g->one[k] = k || exact ? mem_alloc(MEM_SERVER, bytes) : NULL;
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
        for (int k = 0; k < view->n_vectors; k++)
            g->n_state += keep_floats(view->part[p].vector[k].codec);
    g->n_model = fed_model_floats(env);
    size_t average = g->n_state;
    if (env->fed->average != FED_AVERAGE_NONE)
        g->n_state += 1 + g->n_model;
    size_t worth = g->n_state;
    g->n_state += worth_floats(fed_scores_vocab(env));
    g->theta = mem_alloc(MEM_SERVER, g->n_model * sizeof *g->theta);
    open_vectors(g, view);
    g->state = g->n_state ? mem_alloc(MEM_SERVER, g->n_state * sizeof *g->state) : NULL;
    g->average = worth > average ? g->state + average : NULL;
    worth_open(&g->worth, fed_scores_vocab(env), g->n_state > worth ? g->state + worth : NULL);
    size_t scratch = datagram_on(env->method, env->link) ? datagram_read_scratch(view)
                                                         : view_decode_scratch(view);
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
    const struct view_inst *view = &g->env->method->view;
    for (uint32_t p = 0; g->part && p < view->n_parts; p++)
        for (int k = 0; k < view->n_vectors; k++) {
            mem_free(global_sum(g, p, k)->agg_state);
            mem_free(global_sum(g, p, k)->grain);
            mem_free(global_sum(g, p, k)->exact);
        }
    for (int k = 0; k < view->n_vectors; k++) {
        if (g->mean[k] != g->sum[k])
            mem_free(g->mean[k]);
        mem_free(g->sum[k]);
        mem_free(g->one[k]);
    }
    worth_close(&g->worth);
    mem_free(g->part);
    mem_free(g->cover);
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
    worth_begin(&g->worth);
    for (int k = 0; k < view->n_vectors; k++)
        memset(g->sum[k], 0, g->n_sum * sizeof *g->sum[k]);
    for (uint32_t p = 0; p < view->n_parts; p++)
        for (int k = 0; k < view->n_vectors; k++) {
            const struct codec_inst *c = view->part[p].vector[k].codec;
            struct part_sum *part = global_sum(g, p, k);
            part->weight = 0;
            if (c->row->agg)
                c->row->agg->begin(c, part->agg_state, c->shape->n_values);
            if (part->exact)
                memset(part->exact, 0, c->shape->n_values * sizeof *part->exact);
            if (part->grain)
                memset(part->grain, 0, grains(c) * sizeof *part->grain);
        }
    if (scheme->fresh)
        g->env->work->row->fresh(g->env->work, version, g->theta);
    if (scheme->begin)
        scheme->begin(g);
}

static int add_exactly(struct global *g, const struct codec_inst *c, const struct codec_key *key,
                       const uint8_t *bytes, size_t len, float weight, struct part_sum *part,
                       struct err *err)
{
    int rc = codec_decode(c, key, bytes, len, g->one[0], g->scratch, err);
    if (rc == 0 && exact_add(part->exact, g->one[0], c->shape->n_values, weight, err))
        rc = CODEC_NONFINITE;
    return rc;
}

// The update itself; on any error its sum is as it was.
static int add_first(struct global *g, const struct update *u, uint32_t p, const uint8_t *bytes,
                     size_t len, struct err *err)
{
    const struct view_inst *view = &g->env->method->view;
    const struct codec_inst *c = view->part[p].vector[0].codec;
    struct codec_key key = view_key(view, g->env->seed, u->client, u->version, 0);
    struct part_sum *part = global_sum(g, p, 0);
    float weight = u->weight * u->scale;
    int rc =
        c->row->agg   ? c->row->agg->add(c, &key, bytes, len, (double)weight, part->agg_state, err)
        : part->exact ? add_exactly(g, c, &key, bytes, len, weight, part, err)
                      : codec_decode_add(c, &key, bytes, len, weight, part->sum, g->scratch, err);
    if (rc == 0)
        part->weight += (double)u->weight;
    return rc;
}

// One that arrived. Blocks come in the order of the update, so that none counts twice.
static bool add_block(struct global *g, const struct update *u, uint32_t p,
                      struct datagram_block *b, size_t *end)
{
    const struct view_inst *view = &g->env->method->view;
    const struct up_vector *up = g->env->method->scheme->up;
    struct err err;
    if (b->client != u->client || b->version != u->version || b->samples != u->samples ||
        b->vector >= view->n_vectors || b->run.from < end[b->vector])
        return false;
    const struct codec_inst *c = view->part[p].vector[b->vector].codec;
    struct codec_key key = view_key(view, g->env->seed, u->client, u->version, b->vector);
    struct part_sum *part = global_sum(g, p, b->vector);
    float weight = b->vector && up[b->vector - 1].equal ? 1 : u->weight;
    const size_t n = c->shape->n_values;
    struct shape_range run = b->run;
    if (run.to > n && run.to - n < BLOCK_GRAIN)
        run.to = n;
    if (run.from >= run.to ||
        blocks_decode(c, &key, run, b->bytes, b->len,
                      (struct quant_sink){part->sum, weight * u->scale, true}, g->scratch, &err))
        return false;
    for (size_t i = run.from / BLOCK_GRAIN; i * BLOCK_GRAIN < run.to; i++)
        part->grain[i] += (double)weight;
    if (end[b->vector] == 0)
        part->weight += (double)weight;
    end[b->vector] = b->run.to;
    return true;
}

// What did not arrive of an update is as if its client had not been there: of each coordinate the
// mean is over those whose block arrived. So a message of one block is one that is lost or not, and
// where nothing is lost the sums are those of whole messages.
static int add_blocks(struct global *g, struct update *u, struct err *err)
{
    struct datagram_reader r = {u->bytes, u->len, u->heard, g->env->work->shape.hash, 0};
    struct datagram_reader all = r;
    struct datagram_block b;
    size_t end[FED_VECTORS] = {0};
    uint32_t p = view_turn(&g->env->method->view, u->client, u->version);
    int taken = 0;
    while (datagram_next(&r, &b))
        if (add_block(g, u, p, &b, end)) {
            u->loss = (double)b.loss;
            taken++;
        }
    memset(u->vector_len, 0, sizeof u->vector_len);
    all.heard = NULL; // for the books: all of it was sent
    while (datagram_next(&all, &b))
        u->vector_len[b.vector < FED_VECTORS ? b.vector : 0] += b.size;
    return taken ? 0 : err_set(err, "none of its blocks can be read");
}

// What travels beside the update is read first and added last, so that a frame counts as a whole or
// not at all.
int global_add_update(struct global *g, struct update *u, struct err *err)
{
    const struct view_inst *view = &g->env->method->view;
    const struct up_vector *up = g->env->method->scheme->up;
    uint32_t p = view_turn(view, u->client, u->version);
    const uint8_t *at[FED_VECTORS];
    if (datagram_on(g->env->method, g->env->link))
        return add_blocks(g, u, err);
    if (vectors_get(u->bytes, u->len, view->n_vectors, at, u->vector_len))
        return err_set(err, "its parts are not those of %d vectors", view->n_vectors);
    for (int k = 1; k < view->n_vectors; k++) {
        struct codec_key key = view_key(view, g->env->seed, u->client, u->version, k);
        int rc = codec_decode(view->part[p].vector[k].codec, &key, at[k], u->vector_len[k],
                              g->one[k], g->scratch, err);
        if (rc)
            return rc;
    }
    int rc = add_first(g, u, p, at[0], u->vector_len[0], err);
    for (int k = 1; k < view->n_vectors && rc == 0; k++) {
        struct part_sum *part = global_sum(g, p, k);
        float weight = up[k - 1].equal ? 1 : u->weight;
        part->weight += (double)weight;
        for (size_t i = 0; i < view->part[p].shape.n_values; i++)
            part->sum[i] += weight * u->scale * g->one[k][i];
    }
    return rc;
}

// What tokens are worth counts where its update does.
static int add_whole(struct global *g, struct update *u, struct err *err)
{
    const struct scheme *scheme = g->env->method->scheme;
    const size_t len = u->len;
    const bool worth = fed_scores_due(g->env, u->version);
    int64_t before = worth ? worth_before(g->worth.vocab, u->bytes, len, err) : (int64_t)len;
    if (before < 0)
        return -1;
    u->len = (size_t)before;
    int rc = scheme->add ? scheme->add(g, u, err) : global_add_update(g, u, err);
    u->len = len;
    if (rc == 0 && worth)
        worth_add(&g->worth, u->bytes, (size_t)before, len);
    return rc;
}

int global_add(struct global *g, struct update *u, struct err *err)
{
    const struct scheme *scheme = g->env->method->scheme;
    struct recorder *rec = g->env->rec;
    struct span span = span_begin(rec);
    int rc = add_whole(g, u, err);
    if (!scheme->pack) // what is no update is timed by whom knows it
        span_end(rec, span, STAGE_DECODE, (int32_t)u->client, (int64_t)u->len, (int64_t)(4 * g->n));
    if (rc)
        return rc;
    g->weight += (double)u->weight;
    g->loss += (double)u->weight * u->loss;
    g->arrived++;
    return 0;
}

void global_add_sums(struct global *g, const uint8_t *sums, size_t len, const double *weight)
{
    const struct view_inst *view = &g->env->method->view;
    struct span span = span_begin(g->env->rec);
    struct err err;
    size_t at = 0;
    for (uint32_t p = 0; p < view->n_parts; p++) {
        const size_t n = view->part[p].shape.n_values;
        struct part_sum *part = global_sum(g, p, 0);
        exact_get_add(sums + at, n, part->exact);
        part->weight += weight[p];
        at += (size_t)exact_check(sums + at, len - at, n, &err);
    }
    span_end(g->env->rec, span, STAGE_DECODE, -1, (int64_t)len, (int64_t)(4 * g->n));
}

// The mean of each part, over those who sent it.
static void close_sum(struct part_sum *part, const struct codec_inst *c)
{
    size_t n = c->shape->n_values;
    if (part->weight <= 0)
        return;
    if (part->exact) {
        exact_mean(part->exact, part->weight, n, part->sum);
    } else if (part->grain) {
        for (size_t i = 0; i < n; i++) {
            double weight = part->grain[i / BLOCK_GRAIN];
            part->sum[i] *= weight > 0 ? (float)(1.0 / weight) : 0;
        }
    } else if (c->row->agg) {
        c->row->agg->finish(c, part->agg_state, part->agg_keep, part->weight, part->sum, n);
    } else {
        float inverse = (float)(1.0 / part->weight);
        for (size_t i = 0; i < n; i++)
            part->sum[i] *= inverse;
    }
}

// The mean of each value, over those whose part holds it.
static void close_nested(struct global *g)
{
    const struct view_inst *view = &g->env->method->view;
    float *mean = g->mean[0];
    memset(mean, 0, g->n * sizeof *mean);
    memset(g->cover, 0, g->n * sizeof *g->cover);
    for (uint32_t p = 0; p < view->n_parts; p++) {
        const struct part_sum *part = global_sum(g, p, 0);
        const struct view_part *at = &view->part[p];
        const float *from = part->sum;
        for (int r = 0; r < at->n_ranges && part->weight > 0; r++)
            for (size_t i = at->range[r].from; i < at->range[r].to; i++) {
                mean[i] += *from++;
                g->cover[i] += (float)part->weight;
            }
    }
    for (size_t i = 0; i < g->n; i++)
        mean[i] *= g->cover[i] > 0 ? (float)(1.0 / (double)g->cover[i]) : 0;
}

static void close_sums(struct global *g)
{
    const struct view_inst *view = &g->env->method->view;
    if (view->row->nested) {
        close_nested(g);
        return;
    }
    for (uint32_t p = 0; p < view->n_parts; p++)
        for (int k = 0; k < view->n_vectors; k++)
            close_sum(global_sum(g, p, k), view->part[p].vector[k].codec);
}

// Only what was sent moves: a part without a turn keeps its values and the server's state of them.
static void step_parts(struct global *g, double lr)
{
    const struct method *m = g->env->method;
    struct step step = {.theta = g->theta,
                        .delta = g->mean[0],
                        .up = (const float *const *)g->mean + 1,
                        .state = g->state,
                        .n = g->n,
                        .lr = lr,
                        .arrived = g->arrived,
                        .clients = g->env->fed->clients};
    const bool nested = m->view.row->nested;
    for (uint32_t p = m->view.n_parts; p-- > 0;) {
        const struct view_part *part = &m->view.part[p];
        if (global_sum(g, p, 0)->weight <= 0)
            continue;
        for (int k = 0; k < m->view.n_vectors && !m->view.whole && !nested; k++)
            view_scatter(part, global_sum(g, p, k)->sum, g->mean[k]);
        for (int i = 0; i < part->n_ranges; i++) {
            step.range = part->range[i];
            m->scheme->commit(m->scheme_opt, &step);
        }
        if (nested) // the largest of them holds the others
            return;
    }
}

static bool sums_finite(const struct global *g)
{
    bool finite = true;
    for (int k = 0; k < g->env->method->view.n_vectors; k++)
        finite &= global_finite(g->sum[k], g->n_sum);
    return finite;
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
    if (!sums_finite(g) || !own)
        return false;
    const float *mean = g->cover ? g->mean[0] : g->sum[0];
    double squares = 0;
    for (size_t i = 0; i < g->n; i++)
        squares += (double)mean[i] * (double)mean[i];
    *norm = sqrt(squares);
    span = span_begin(rec);
    step_parts(g, lr);
    if (scheme->after)
        scheme->after(g, version);
    worth_commit(&g->worth, g->env->work->env.fisher->rho, version);
    span_end(rec, span, STAGE_COMMIT, -1, 0, bytes);
    return true;
}

void global_average(struct global *g, uint32_t version)
{
    const struct fed_params *fed = g->env->fed;
    if (!g->average || (fed->average == FED_AVERAGE_LAST &&
                        (int64_t)version <= (int64_t)fed->rounds - fed->average_last))
        return;
    float *mean = g->average + 1, n = g->average[0] += 1;
    float own = fed->average == FED_AVERAGE_LAST ? 1 / n : (float)(1 - fed->average_decay);
    for (size_t i = 0; i < g->n_model; i++)
        mean[i] = n == 1 ? g->theta[i] : mean[i] + own * (g->theta[i] - mean[i]);
}

const float *global_evaluated(const struct global *g)
{
    return g->average && g->average[0] > 0 ? g->average + 1 : g->theta;
}

void global_evaluate(struct global *g, struct eval_result *r)
{
    const struct scheme *scheme = g->env->method->scheme;
    if (scheme->evaluate)
        scheme->evaluate(g, r);
    else
        workload_evaluate(g->env->work, global_evaluated(g), r);
}

uint64_t global_hash(const struct global *g)
{
    const struct scheme *scheme = g->env->method->scheme;
    return scheme->hash ? scheme->hash(g) : XXH3_64bits(g->theta, 4 * g->n_model);
}
