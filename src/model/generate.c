// Greedy generation: prompts go through the layers, many at once, and leave their keys and values
// in caches (prefill.c); then one token per sequence and step. Sequences are taken in groups, one
// lane each.
#include "model/generate.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

enum { GROUP_SEQS = 64 };
// Memory for the caches of a group, where no more is there already: each step decodes all weights
// once for a group, so that a few sequences more make it cheaper.
#define GROUP_BYTES  ((size_t)48 << 20)
#define GROUP_DEVICE ((size_t)1 << 30)
// Places that a token looks ahead for the one it merges into, as in training.
enum { MERGE_WINDOW = 8 };

// Rows of a sequence's cache in the layers of a tier.
static int32_t room_of(const struct generation *w, int32_t q, int32_t t)
{
    const struct model_gen *g = w->g;
    int32_t prompt = prompt_of(g, q), whole = prompt + g->max_new;
    whole = whole > read_of(g, q) ? whole : read_of(g, q);
    return whole - prompt + reduce_rows(g->reduce, prompt, w->tier[t].layer0);
}

// Values of a sequence's caches in all layers.
static size_t cache_of(const struct generation *w, int32_t q)
{
    size_t rows = 0;
    for (int32_t t = 0; t < w->n_tiers; t++)
        rows += (size_t)room_of(w, q, t) * (size_t)w->tier[t].layers;
    return 2 * rows * (size_t)model_kv_cols(&w->m->cfg);
}

static size_t sizes_of(const struct generation *w, int32_t q)
{
    size_t rows = 0;
    for (int32_t t = 0; t < w->n_tiers && merges_rows(w->g); t++)
        rows += (size_t)room_of(w, q, t);
    return rows;
}

static int32_t rows_of(const struct group *p)
{
    return p->rows > p->n ? p->rows : p->n;
}

static void step_take(const struct generation *w, struct step *s, size_t n, struct bump *b)
{
    size_t all = n * (size_t)w->n_tiers;
    s->k = bump_take(b, all, sizeof *s->k);
    s->v = bump_take(b, all, sizeof *s->v);
    s->log_size = bump_take(b, all, sizeof *s->log_size);
    s->len = bump_take(b, all, sizeof *s->len);
    s->pos = bump_take(b, n, sizeof *s->pos);
    s->token = bump_take(b, n, sizeof *s->token);
    s->target = bump_take(b, n, sizeof *s->target);
}

struct bumps {
    struct bump host, dev, out, dev_out, acts;
};

// What the host alone works with.
static void desk_take_host(const struct generation *w, struct desk *d, size_t n, size_t rows,
                           struct bump *b)
{
    size_t all = n * (size_t)w->n_tiers;
    d->at = bump_take(b, all, sizeof *d->at);
    d->size_at = bump_take(b, all, sizeof *d->size_at);
    d->layer = bump_take(b, (size_t)w->n_tiers, sizeof *d->layer);
    d->room = bump_take(b, all, sizeof *d->room);
    d->have = bump_take(b, all, sizeof *d->have);
    d->place = bump_take(b, n, sizeof *d->place);
    d->seq = bump_take(b, n, sizeof *d->seq);
    if (!w->g->reduce)
        return;
    d->kept = bump_take(b, rows, sizeof *d->kept);
    d->merges = bump_take(b, n, sizeof *d->merges);
    d->worth = bump_take(b, 2 * rows, sizeof *d->worth);
}

// level, place: as levels_take has them.
static void desk_take(const struct generation *w, const struct group *p, struct level *level,
                      struct desk *d, struct bumps *b, int32_t **place)
{
    const struct model *m = w->m;
    int32_t rows = rows_of(p);
    *d = (struct desk){.w = w, .group = p};
    control_take(&d->host, rows, &b->host);
    control_take(&d->dev, rows, &b->dev);
    d->control_bytes = b->dev.used;
    step_take(w, &d->here, (size_t)p->n, &b->host);
    step_take(w, &d->there, (size_t)p->n, &b->dev);
    d->step_bytes = b->dev.used - d->control_bytes;
    if (merges_rows(w->g))
        levels_take(m, level, &d->host, &d->dev, rows, &b->host, &b->dev, place);
    results_take(m, NULL, &d->out, rows, &b->out);
    results_take(m, NULL, &d->dev_out, rows, &b->dev_out);
    d->results_bytes = b->dev_out.used;
    desk_take_host(w, d, (size_t)p->n, (size_t)rows, &b->host);
    d->cache = bump_take(&b->acts, p->cache, kernel_dtype_bytes(m->dev->act));
    d->sizes = bump_take(&b->acts, p->sizes, sizeof *d->sizes);
}

static struct lane_bytes group_bytes(const struct generation *w, const struct group *p)
{
    struct desk d;
    struct acts a;
    struct bumps b = {.acts = {0}};
    int32_t *place;
    acts_take(w->m, NULL, &a, rows_of(p), layers_all(w->m), false, &b.acts);
    desk_take(w, p, NULL, &d, &b, &place);
    return (struct lane_bytes){
        {[LANE_ACTS] = b.acts.used,
         [LANE_CONTROL] = b.host.used > b.dev.used ? b.host.used : b.dev.used,
         [LANE_RESULTS] = b.out.used > b.dev_out.used ? b.out.used : b.dev_out.used}};
}

// Where each sequence's keys, values and sizes lie: by tier, then layer, then sequence.
static void lay_out_caches(const struct generation *w, struct desk *d)
{
    const struct group *p = d->group;
    size_t row = 2 * (size_t)model_kv_cols(&w->m->cfg), at = 0, size_at = 0;
    for (int32_t t = 0; t < w->n_tiers; t++) {
        d->layer[t] = 0;
        for (int32_t s = 0; s < p->n; s++) {
            int32_t i = t * p->n + s;
            d->room[i] = room_of(w, p->seq0 + s, t);
            d->at[i] = at + d->layer[t];
            d->layer[t] += (size_t)d->room[i] * row;
            d->size_at[i] = size_at;
            size_at += (size_t)d->room[i];
        }
        at += d->layer[t] * (size_t)w->tier[t].layers;
    }
}

struct kernel_cache tier_cache(const struct desk *d, int32_t t, int32_t l)
{
    size_t at = (size_t)t * (size_t)d->group->n;
    return (struct kernel_cache){.k = d->there.k + at,
                                 .v = d->there.v + at,
                                 .log_size = merges_rows(d->w->g) ? d->there.log_size + at : NULL,
                                 .n = d->there.len + at,
                                 .skip = (size_t)(l - d->w->tier[t].layer0) * d->layer[t]};
}

void plan_cache(const struct launch *r, struct desk *d, int32_t i, int32_t q)
{
    size_t row = (size_t)model_kv_cols(&r->m->cfg);
    int32_t n = d->group->n, s = q - d->group->seq0;
    for (int32_t t = 0; t < d->w->n_tiers; t++) {
        int32_t from = t * n + s, to = t * n + i;
        d->here.k[to] = kernel_act_at(r->cx, d->cache, d->at[from]);
        d->here.v[to] = kernel_act_at(r->cx, d->cache, d->at[from] + (size_t)d->room[from] * row);
        d->here.log_size[to] = d->sizes + d->size_at[from];
        d->here.len[to] = d->have[from];
    }
    d->here.pos[i] = d->place[s];
}

void next_tokens(struct launch *r, int32_t n, const int32_t *target, float *loss, int32_t *best)
{
    const struct model *m = r->m;
    struct acts *a = &r->a;
    r->op->rmsnorm_fwd(r->cx, a->x[m->cfg.layers], a->ld_dim, m->norm_final, n, m->cfg.dim,
                       (float)m->cfg.norm_eps, a->h, a->ld_dim, NULL);
    r->op->ce_head(r->cx, &m->head, a->h, a->ld_dim, n, target, NULL, loss, best, NULL, 0, NULL);
}

void stamp(const struct model_gen *g, int32_t q, int64_t ns)
{
    if (g->token_ns)
        g->token_ns[(ptrdiff_t)q * g->max_new + g->out_len[q]] = ns;
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

// All that the operations of a step and their arguments depend on.
struct decode_key {
    const void *model, *adapter;
    struct step there;
    int32_t active, rows, seqs, lane, n_tiers;
    uint32_t model_moves, dev_moves;
    bool compact, merges;
    struct tier tier[TIERS_MAX];
    size_t layer[TIERS_MAX];
};

static uint64_t decode_key(const struct launch *r, const struct desk *d)
{
    const struct generation *w = d->w;
    struct decode_key k;
    memset(&k, 0, sizeof k);
    k.model = r->m;
    k.adapter = r->adapter;
    k.there = d->there;
    k.active = r->rows;
    k.rows = rows_of(d->group);
    k.seqs = d->group->n;
    k.lane = r->lane;
    k.n_tiers = w->n_tiers;
    k.model_moves = r->m->moves;
    k.dev_moves = r->m->dev->moves;
    k.compact = w->g->reduce && w->g->reduce->compact;
    k.merges = merges_rows(w->g);
    memcpy(k.tier, w->tier, (size_t)w->n_tiers * sizeof *k.tier);
    memcpy(k.layer, d->layer, (size_t)w->n_tiers * sizeof *k.layer);
    return XXH3_64bits(&k, sizeof k);
}

// From the newest tokens to the next ones: operations that only the device's memory tells apart
// from those of the step before.
static void step_forward(struct launch *r, const struct desk *d)
{
    const struct generation *w = d->w;
    bool compact = w->g->reduce && w->g->reduce->compact;
    embed_forward(r, d->there.token);
    for (int32_t t = 0; t < w->n_tiers; t++)
        for (int32_t l = w->tier[t].layer0; l < w->tier[t].layer0 + w->tier[t].layers; l++) {
            r->cache = tier_cache(d, t, l);
            r->pos = compact ? r->cache.n : d->there.pos;
            layer_forward(r, l, NULL);
        }
    next_tokens(r, r->rows, d->there.target, NULL, d->there.token);
}

static void launch_step(struct launch *r, struct desk *d, int32_t active)
{
    const struct generation *w = d->w;
    const struct dev_row *row = r->m->dev->row;
    for (int32_t i = 0; i < active; i++) {
        plan_cache(r, d, i, d->seq[i]);
        d->here.target[i] = -1;
    }
    launch_put(r, d->there.k, d->here.k, d->step_bytes);
    r->rows = active;
    uint64_t key = decode_key(r, d);
    if (!row->replay(r->m->dev, r->lane, key)) {
        row->record(r->m->dev, r->lane, key);
        step_forward(r, d);
        row->record_end(r->m->dev, r->lane);
    }
    for (int32_t i = 0; i < active; i++) {
        int32_t s = d->seq[i] - d->group->seq0;
        d->place[s]++;
        for (int32_t t = 0; t < w->n_tiers; t++)
            d->have[t * d->group->n + s]++;
    }
    launch_get(r, d->here.token, d->there.token, (size_t)active * sizeof *d->here.token);
    launch_wait(r);
    int64_t ns = clock_ns() - w->begin_ns;
    for (int32_t i = 0; i < active; i++)
        stamp(w->g, d->seq[i], ns);
}

static void group_run(void *arg, int32_t item, int32_t lane)
{
    struct generation *w = arg;
    struct model *m = w->m;
    const struct model_gen *g = w->g;
    const struct group *p = &w->group[item];
    struct model_lane *ml = &m->lane[lane];
    struct launch r = {.m = m,
                       .lane = lane,
                       .cx = &m->dev->lane[lane].cx,
                       .op = m->dev->ops,
                       .level = ml->level,
                       .adapter = w->adapter};
    struct bumps b = {.host = {.base = ml->twin[LANE_CONTROL]},
                      .dev = {.base = ml->block[LANE_CONTROL]},
                      .out = {.base = ml->twin[LANE_RESULTS]},
                      .dev_out = {.base = ml->block[LANE_RESULTS]},
                      .acts = {.base = ml->block[LANE_ACTS]}};
    struct desk d;
    int32_t active = 0;
    acts_take(m, ml, &r.a, rows_of(p), layers_all(m), false, &b.acts);
    desk_take(w, p, ml->level, &d, &b, &r.place);
    d.merge = (struct model_merge){.window = MERGE_WINDOW};
    lay_out_caches(w, &d);
    if (merges_rows(g))
        launch_zero(&r, d.sizes, p->sizes * sizeof *d.sizes);
    for (int32_t q = p->seq0, end; q < p->seq0 + p->n; q = end) {
        end = chunk_end(p, g, q);
        active = read_chunk(&r, &d, q, end, active);
    }
    while ((active = accept(g, &d, active)) > 0)
        launch_step(&r, &d, active);
}

static void check_sequence(const struct model *m, const struct model_gen *g, int32_t q)
{
    int32_t len = length_of(g, q);
    assert(len >= 1 && (!g->answer || (g->answer[q] >= 1 && g->answer[q] < len)));
    for (int32_t i = g->start[q]; i < g->start[q + 1]; i++)
        assert(g->tokens[i] >= 0 && g->tokens[i] < m->cfg.vocab);
    g->out_len[q] = 0;
    if (g->ended)
        g->ended[q] = false;
}

// A tier ends where some prompt loses rows.
static bool rows_change(const struct model_gen *g, int32_t layer)
{
    for (int32_t q = 0; q < g->n_seqs && g->reduce; q++) {
        int32_t n = prompt_of(g, q);
        if (reduce_rows(g->reduce, n, layer) != reduce_rows(g->reduce, n, layer - 1))
            return true;
    }
    return false;
}

static void make_tiers(struct generation *w)
{
    w->n_tiers = 0;
    for (int32_t l = 0; l < w->m->cfg.layers; l++) {
        if (l == 0 || rows_change(w->g, l)) {
            assert(w->n_tiers < TIERS_MAX);
            w->tier[w->n_tiers++].layer0 = l;
            w->tier[w->n_tiers - 1].layers = 0;
        }
        w->tier[w->n_tiers - 1].layers++;
    }
}

// Cuts the sequences into groups, at least one a lane where there are as many; returns how many,
// and the longest sequence. No result depends on the groups.
static int32_t make_groups(struct generation *w, int32_t *longest)
{
    const struct model *m = w->m;
    const struct model_gen *g = w->g;
    struct group *group = w->group;
    size_t value = kernel_dtype_bytes(m->dev->act), most = GROUP_DEVICE / value;
    int32_t n = 0, each = (g->n_seqs + m->dev->lanes - 1) / m->dev->lanes;
    if (m->dev->row->host) // half of what training has is for the activations here
        most =
            (m->bytes.of[LANE_ACTS] / 2 > GROUP_BYTES ? m->bytes.of[LANE_ACTS] / 2 : GROUP_BYTES) /
            value;
    for (int32_t q = 0; q < g->n_seqs; q++) {
        size_t cache = cache_of(w, q);
        int32_t whole = prompt_of(g, q) + g->max_new;
        struct group *p = &group[n > 0 ? n - 1 : 0];
        if (n == 0 || p->n == GROUP_SEQS || p->n >= each || p->cache + cache > most) {
            group[n] = (struct group){.seq0 = q};
            p = &group[n++];
        }
        p->n++;
        p->cache += cache;
        p->sizes += sizes_of(w, q);
        whole = whole > read_of(g, q) ? whole : read_of(g, q);
        *longest = whole > *longest ? whole : *longest;
    }
    for (int32_t i = 0; i < n; i++)
        for (int32_t q = group[i].seq0, end; q < group[i].seq0 + group[i].n; q = end) {
            int32_t rows = 0;
            end = chunk_end(&group[i], g, q);
            for (int32_t k = q; k < end; k++)
                rows += read_of(g, k);
            group[i].rows = rows > group[i].rows ? rows : group[i].rows;
        }
    return n;
}

void model_generate(struct model *m, const struct model_gen *g)
{
    assert(g->max_new >= 1 && (!g->reduce || !g->answer));
    size_t bytes = m->shape.n_values * sizeof(float);
    struct generation w = {
        .m = m, .g = g, .adapter = loan_lend(m, &m->gen_loan, g->adapter, bytes)};
    int32_t rows = 1, longest = 1;
    struct lane_bytes most = {{0}};
    for (int32_t q = 0; q < g->n_seqs; q++)
        check_sequence(m, g, q);
    make_tiers(&w);
    w.group = mem_alloc(MEM_OTHER, (size_t)(g->n_seqs + 1) * sizeof *w.group);
    int32_t n = make_groups(&w, &longest);
    if (g->cache_bytes)
        *g->cache_bytes = 0;
    for (int32_t i = 0; i < n; i++) {
        struct lane_bytes b = group_bytes(&w, &w.group[i]);
        for (int k = 0; k < LANE_BLOCKS; k++)
            most.of[k] = b.of[k] > most.of[k] ? b.of[k] : most.of[k];
        rows = rows_of(&w.group[i]) > rows ? rows_of(&w.group[i]) : rows;
        if (g->cache_bytes)
            *g->cache_bytes += (int64_t)(w.group[i].cache * kernel_dtype_bytes(m->dev->act));
    }
    lanes_reserve(m, rows, longest, most);
    w.begin_ns = clock_ns();
    dev_parallel(m->dev, n, group_run, NULL, &w);
    mem_free(w.group);
}
