// Greedy generation: prompts go through the layers at once and leave their keys and values in
// caches; then one token a sequence and step. Sequences are taken in groups, a lane each.
#include "base/mem.h"
#include "model/inner.h"

#include <assert.h>
#include <string.h>

enum { GROUP_SEQS = 64, GROUP_ROWS = 512 };

struct group {
    int32_t seq0, n, rows; // rows: of its prompts
};

struct generation {
    struct model *m;
    const struct model_gen *g;
    const float *adapter; // lent
    struct group *group;
};

// What a step reads of the host's, in one piece; the host and the device have a copy each. Caches
// are those of the first layer.
struct step {
    kernel_act **k, **v; // (n) caches of the active sequences
    int32_t *len;        // (n) rows in them, which is the place of the newest token
    int32_t *token;      // (n) the newest token, and then the next one
    int32_t *target;     // (n) none
};

// What one group works in, beside its activations.
struct desk {
    struct control host, dev; // of the prompts
    struct step here, there;
    size_t control_bytes, step_bytes;
    kernel_act *cache; // the device's
    size_t *at;        // (n) of each sequence's keys in a layer's part of the cache
    int32_t *seq;      // (n) which sequence is active
    int32_t *room;     // (n) rows of each sequence's cache
    int32_t *have;     // (n) and those filled
};

static int32_t room_of(const struct group *p, const struct model_gen *g)
{
    return p->rows + p->n * g->max_new;
}

static int32_t rows_of(const struct group *p)
{
    return p->rows > p->n ? p->rows : p->n;
}

static void step_take(struct step *s, size_t n, struct bump *b)
{
    s->k = bump_take(b, n, sizeof *s->k);
    s->v = bump_take(b, n, sizeof *s->v);
    s->len = bump_take(b, n, sizeof *s->len);
    s->token = bump_take(b, n, sizeof *s->token);
    s->target = bump_take(b, n, sizeof *s->target);
}

static void desk_take(const struct model *m, const struct model_gen *g, const struct group *p,
                      struct desk *d, struct bump *host, struct bump *dev, struct bump *acts)
{
    size_t n = (size_t)p->n, row = 2 * (size_t)model_kv_cols(&m->cfg);
    int32_t rows = rows_of(p);
    control_take(&d->host, rows, host);
    control_take(&d->dev, rows, dev);
    d->control_bytes = dev->used;
    step_take(&d->here, n, host);
    step_take(&d->there, n, dev);
    d->step_bytes = dev->used - d->control_bytes;
    d->at = bump_take(host, n, sizeof *d->at);
    d->seq = bump_take(host, n, sizeof *d->seq);
    d->room = bump_take(host, n, sizeof *d->room);
    d->have = bump_take(host, n, sizeof *d->have);
    d->cache = bump_take(acts, (size_t)m->cfg.layers * (size_t)room_of(p, g) * row,
                         kernel_dtype_bytes(m->dev->row->act));
}

static struct lane_bytes group_bytes(const struct model *m, const struct model_gen *g,
                                     const struct group *p)
{
    struct desk d;
    struct acts a;
    struct bump host = {0}, dev = {0}, acts = {0};
    acts_take(m, NULL, &a, rows_of(p), false, &acts);
    desk_take(m, g, p, &d, &host, &dev, &acts);
    return (struct lane_bytes){
        {[LANE_ACTS] = acts.used, [LANE_CONTROL] = host.used > dev.used ? host.used : dev.used}};
}

// The most likely next token after each of the first n rows of the last layer's output.
static void next_tokens(struct run *r, int32_t n, struct desk *d)
{
    const struct model *m = r->m;
    struct acts *a = &r->a;
    r->op->rmsnorm_fwd(r->cx, a->x[m->cfg.layers], a->ld_dim, m->norm_final, n, m->cfg.dim,
                       (float)m->cfg.norm_eps, a->h, a->ld_dim, NULL);
    r->op->ce_head(r->cx, &m->head, a->h, a->ld_dim, n, d->there.target, NULL, NULL, d->there.token,
                   NULL, 0, NULL);
    run_get(r, d->here.token, d->there.token, (size_t)n * sizeof *d->here.token);
    run_wait(r);
}

static void plan_prompts(struct run *r, const struct model_gen *g, const struct group *p,
                         struct desk *d)
{
    const int32_t *from = g->start + p->seq0;
    size_t at = 0, row = (size_t)model_kv_cols(&r->m->cfg);
    r->rows = p->rows;
    r->seqs = (struct kernel_seqs){.n = p->n, .rows = p->rows, .start = d->dev.start};
    r->pos = d->dev.pos;
    memcpy(d->host.token, g->tokens + from[0], (size_t)p->rows * sizeof *d->host.token);
    for (int32_t q = 0; q <= p->n; q++)
        d->host.start[q] = from[q] - from[0];
    for (int32_t q = 0; q < p->n; q++) {
        int32_t len = from[q + 1] - from[q];
        r->seqs.longest = len > r->seqs.longest ? len : r->seqs.longest;
        d->host.row[q] = d->host.start[q + 1] - 1;
        for (int32_t i = 0; i < len; i++)
            d->host.pos[d->host.start[q] + i] = i;
        d->seq[q] = p->seq0 + q;
        d->have[q] = len;
        d->room[q] = len + g->max_new;
        d->at[q] = at;
        at += 2 * (size_t)d->room[q] * row;
        d->here.target[q] = -1;
    }
    r->cache_layer = at;
}

// The caches of the first n active sequences, for the next rows of each.
static void plan_step(struct run *r, const struct group *p, struct desk *d, int32_t n)
{
    size_t row = (size_t)model_kv_cols(&r->m->cfg);
    for (int32_t i = 0; i < n; i++) {
        int32_t q = d->seq[i] - p->seq0;
        d->here.k[i] = kernel_act_at(r->cx, d->cache, d->at[q]);
        d->here.v[i] = kernel_act_at(r->cx, d->cache, d->at[q] + (size_t)d->room[q] * row);
        d->here.len[i] = d->have[q];
    }
    run_put(r, d->there.k, d->here.k, d->step_bytes);
}

static void read_prompts(struct run *r, const struct model_gen *g, const struct group *p,
                         struct desk *d)
{
    struct kernel_attn attn = attn_of(r);
    plan_prompts(r, g, p, d);
    run_put(r, d->dev.start, d->host.start, d->control_bytes);
    plan_step(r, p, d, p->n);
    r->dev = d->dev;
    r->n_top = p->n; // only the last rows' outputs are of use
    r->few = p->n < p->rows;
    r->op->embed_fwd(r->cx, &r->m->embed, d->dev.token, p->rows, r->a.x[0], r->a.ld_dim);
    for (int32_t l = 0; l < r->m->cfg.layers; l++) {
        struct kernel_cache cache = {
            .k = d->there.k, .v = d->there.v, .skip = (size_t)l * r->cache_layer};
        layer_forward(r, l, NULL);
        r->op->cache_rows(r->cx, &attn, &r->seqs, r->a.kept[l].qkv, r->a.ld_qkv, &cache);
    }
    next_tokens(r, p->n, d);
    r->few = false;
}

// Takes the newest tokens; returns how many sequences go on, and gathers those at the front.
static int32_t accept(const struct model_gen *g, struct desk *d, int32_t active)
{
    int32_t go = 0;
    for (int32_t i = 0; i < active; i++) {
        int32_t q = d->seq[i], t = d->here.token[i];
        if (t == g->end) {
            if (g->ended)
                g->ended[q] = true;
            continue;
        }
        g->out[(ptrdiff_t)q * g->max_new + g->out_len[q]++] = t;
        if (g->out_len[q] == g->max_new)
            continue;
        d->seq[go] = q;
        d->here.token[go++] = t;
    }
    return go;
}

static void group_run(void *arg, int32_t item, int32_t lane)
{
    struct generation *w = arg;
    struct model *m = w->m;
    const struct model_gen *g = w->g;
    const struct group *p = &w->group[item];
    struct model_lane *ml = &m->lane[lane];
    struct run r = {.m = m,
                    .lane = lane,
                    .cx = &m->dev->lane[lane].cx,
                    .op = m->dev->ops,
                    .adapter = w->adapter};
    struct bump acts = {.base = ml->block[LANE_ACTS]};
    struct bump dev = {.base = ml->block[LANE_CONTROL]}, host = {.base = ml->twin[LANE_CONTROL]};
    struct desk d;
    acts_take(m, ml, &r.a, rows_of(p), false, &acts);
    desk_take(m, g, p, &d, &host, &dev, &acts);
    read_prompts(&r, g, p, &d);
    int32_t active = p->n;
    while ((active = accept(g, &d, active)) > 0) {
        plan_step(&r, p, &d, active);
        r.rows = active;
        r.pos = d.there.len;
        r.cache = (struct kernel_cache){.k = d.there.k, .v = d.there.v, .n = d.there.len};
        r.op->embed_fwd(r.cx, &m->embed, d.there.token, active, r.a.x[0], r.a.ld_dim);
        for (int32_t l = 0; l < m->cfg.layers; l++)
            layer_forward(&r, l, NULL);
        for (int32_t i = 0; i < active; i++)
            d.have[d.seq[i] - p->seq0]++;
        next_tokens(&r, active, &d);
    }
}

// Cuts the prompts into groups; returns how many, and the longest prompt.
static int32_t make_groups(const struct model *m, const struct model_gen *g, struct group *group,
                           int32_t *longest)
{
    int32_t n = 0;
    *longest = 1;
    for (int32_t q = 0; q < g->n_seqs; q++) {
        int32_t len = g->start[q + 1] - g->start[q];
        struct group *p = &group[n > 0 ? n - 1 : 0];
        assert(len >= 1);
        for (int32_t i = g->start[q]; i < g->start[q + 1]; i++)
            assert(g->tokens[i] >= 0 && g->tokens[i] < m->cfg.vocab);
        if (n == 0 || p->n == GROUP_SEQS ||
            room_of(p, g) + len + g->max_new > GROUP_ROWS + g->max_new)
            group[n++] = (struct group){.seq0 = q, .n = 1, .rows = len};
        else {
            p->n++;
            p->rows += len;
        }
        *longest = len > *longest ? len : *longest;
        g->out_len[q] = 0;
        if (g->ended)
            g->ended[q] = false;
    }
    return n;
}

void model_generate(struct model *m, const struct model_gen *g)
{
    assert(g->max_new >= 1);
    size_t bytes = m->shape.n_values * sizeof(float);
    struct generation w = {
        .m = m, .g = g, .adapter = loan_lend(m, &m->gen_loan, g->adapter, bytes)};
    int32_t rows = 1, longest;
    struct lane_bytes most = {{0}};
    w.group = mem_alloc(MEM_OTHER, (size_t)(g->n_seqs + 1) * sizeof *w.group);
    int32_t n = make_groups(m, g, w.group, &longest);
    for (int32_t i = 0; i < n; i++) {
        struct lane_bytes b = group_bytes(m, g, &w.group[i]);
        for (int k = 0; k < LANE_BLOCKS; k++)
            most.of[k] = b.of[k] > most.of[k] ? b.of[k] : most.of[k];
        rows = rows_of(&w.group[i]) > rows ? rows_of(&w.group[i]) : rows;
    }
    lanes_reserve(m, rows, longest + g->max_new, most);
    dev_parallel(m->dev, n, group_run, NULL, &w);
    mem_free(w.group);
}
