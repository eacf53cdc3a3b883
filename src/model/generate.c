// Greedy generation: prompts go through the layers, many at once, and leave their keys and values
// in caches; then one token per sequence and step. Sequences are taken in groups, one lane each.
#include "base/clock.h"
#include "base/mem.h"
#include "model/inner.h"

#include <assert.h>
#include <string.h>

enum { GROUP_SEQS = 64, CHUNK_ROWS = 512 };
// Memory for the caches of a group, where no more is there already: each step decodes all weights
// once for a group, so that a few sequences more make it cheaper.
#define GROUP_BYTES  ((size_t)48 << 20)
#define GROUP_DEVICE ((size_t)1 << 30)

struct group {
    int32_t seq0, n;
    int32_t rows; // of its largest chunk
    size_t cache; // values
};

struct generation {
    struct model *m;
    const struct model_gen *g;
    const float *adapter; // lent
    struct group *group;
    int64_t begin_ns;
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
    struct control host, dev; // of a chunk: sequences whose prompts are read at once
    struct step here, there;
    struct results out, dev_out;
    size_t control_bytes, step_bytes, results_bytes;
    kernel_act *cache; // the device's
    size_t *at;        // (n) of each sequence's keys in a layer's part of the cache
    int32_t *seq;      // (n) which sequence is active
    int32_t *room;     // (n) rows of each sequence's cache
    int32_t *have;     // (n) and those filled
    int64_t begin_ns;  // of the call
};

static int32_t length_of(const struct model_gen *g, int32_t q)
{
    return g->start[q + 1] - g->start[q];
}

static int32_t prompt_of(const struct model_gen *g, int32_t q)
{
    return g->answer ? g->answer[q] : length_of(g, q);
}

// Rows that are read of a sequence: the last token of an answer predicts nothing.
static int32_t read_of(const struct model_gen *g, int32_t q)
{
    return length_of(g, q) - (g->answer != NULL);
}

static int32_t room_of(const struct model_gen *g, int32_t q)
{
    int32_t whole = prompt_of(g, q) + g->max_new;
    return whole > read_of(g, q) ? whole : read_of(g, q);
}

// Sequences from q on that are read at once.
static int32_t chunk_end(const struct group *p, const struct model_gen *g, int32_t q)
{
    int32_t rows = read_of(g, q++);
    while (q < p->seq0 + p->n && rows + read_of(g, q) <= CHUNK_ROWS)
        rows += read_of(g, q++);
    return q;
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

struct bumps {
    struct bump host, dev, out, dev_out, acts;
};

static void desk_take(const struct model *m, const struct group *p, struct desk *d, struct bumps *b)
{
    size_t n = (size_t)p->n;
    int32_t rows = rows_of(p);
    control_take(&d->host, rows, &b->host);
    control_take(&d->dev, rows, &b->dev);
    d->control_bytes = b->dev.used;
    step_take(&d->here, n, &b->host);
    step_take(&d->there, n, &b->dev);
    d->step_bytes = b->dev.used - d->control_bytes;
    results_take(m, NULL, &d->out, rows, &b->out);
    results_take(m, NULL, &d->dev_out, rows, &b->dev_out);
    d->results_bytes = b->dev_out.used;
    d->at = bump_take(&b->host, n, sizeof *d->at);
    d->seq = bump_take(&b->host, n, sizeof *d->seq);
    d->room = bump_take(&b->host, n, sizeof *d->room);
    d->have = bump_take(&b->host, n, sizeof *d->have);
    d->cache = bump_take(&b->acts, p->cache, kernel_dtype_bytes(m->dev->row->act));
}

static struct lane_bytes group_bytes(const struct model *m, const struct group *p)
{
    struct desk d;
    struct acts a;
    struct bumps b = {.acts = {0}};
    acts_take(m, NULL, &a, rows_of(p), false, &b.acts);
    desk_take(m, p, &d, &b);
    return (struct lane_bytes){
        {[LANE_ACTS] = b.acts.used,
         [LANE_CONTROL] = b.host.used > b.dev.used ? b.host.used : b.dev.used,
         [LANE_RESULTS] = b.out.used > b.dev_out.used ? b.out.used : b.dev_out.used}};
}

// The rows of a chunk, and those of them whose next token is asked for.
static void plan_chunk(struct launch *r, const struct model_gen *g, const struct group *p,
                       struct desk *d, int32_t q0, int32_t q1)
{
    struct control *c = &d->host;
    int32_t at = 0;
    r->seqs = (struct kernel_seqs){.n = q1 - q0, .start = d->dev.start};
    r->n_top = 0;
    c->start[0] = 0;
    for (int32_t q = q0; q < q1; q++) {
        const int32_t *token = g->tokens + g->start[q];
        int32_t n = read_of(g, q), prompt = prompt_of(g, q);
        r->seqs.longest = n > r->seqs.longest ? n : r->seqs.longest;
        for (int32_t i = 0; i < n; i++, at++) {
            c->pos[at] = i;
            c->token[at] = token[i];
            if (i + 1 < prompt)
                continue;
            c->row[r->n_top] = at;
            c->target[r->n_top++] = g->answer ? token[i + 1] : -1;
        }
        c->start[q - q0 + 1] = at;
        d->have[q - p->seq0] = prompt;
    }
    r->rows = r->seqs.rows = at;
    r->pos = d->dev.pos;
    r->dev = d->dev;
    r->few = r->n_top < at;
    launch_put(r, d->dev.start, d->host.start, d->control_bytes);
}

// The cache of sequence q as the i-th of the next rows.
static void plan_cache(struct launch *r, const struct group *p, struct desk *d, int32_t i,
                       int32_t q)
{
    size_t row = (size_t)model_kv_cols(&r->m->cfg);
    q -= p->seq0;
    d->here.k[i] = kernel_act_at(r->cx, d->cache, d->at[q]);
    d->here.v[i] = kernel_act_at(r->cx, d->cache, d->at[q] + (size_t)d->room[q] * row);
    d->here.len[i] = d->have[q];
}

// The likeliest next token after each of the first n rows of the last layer's output, and the loss
// of targets.
static void next_tokens(struct launch *r, int32_t n, const int32_t *target, float *loss,
                        int32_t *best)
{
    const struct model *m = r->m;
    struct acts *a = &r->a;
    r->op->rmsnorm_fwd(r->cx, a->x[m->cfg.layers], a->ld_dim, m->norm_final, n, m->cfg.dim,
                       (float)m->cfg.norm_eps, a->h, a->ld_dim, NULL);
    r->op->ce_head(r->cx, &m->head, a->h, a->ld_dim, n, target, NULL, loss, best, NULL, 0, NULL);
}

// The next token of sequence q is known now.
static void stamp(const struct model_gen *g, int32_t q, int64_t ns)
{
    if (g->token_ns)
        g->token_ns[(ptrdiff_t)q * g->max_new + g->out_len[q]] = ns;
}

// What the model makes of a chunk: losses, which answers are right, and, of all others, the first
// token. Returns how many sequences are active now.
static int32_t chunk_outcome(const struct model_gen *g, struct desk *d, int32_t q0, int32_t q1,
                             int32_t active)
{
    int64_t ns = clock_ns() - d->begin_ns;
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

static int32_t read_chunk(struct launch *r, const struct model_gen *g, const struct group *p,
                          struct desk *d, int32_t q0, int32_t q1, int32_t active)
{
    plan_chunk(r, g, p, d, q0, q1);
    for (int32_t q = q0; q < q1; q++)
        plan_cache(r, p, d, q - q0, q);
    launch_put(r, d->there.k, d->here.k, d->step_bytes);
    embed_forward(r, d->dev.token);
    for (int32_t l = 0; l < r->m->cfg.layers; l++) {
        struct kernel_cache cache = {
            .k = d->there.k, .v = d->there.v, .skip = (size_t)l * r->cache_layer};
        struct kernel_attn attn = attn_of(r, l);
        layer_forward(r, l, NULL);
        r->op->cache_rows(r->cx, &attn, &r->seqs, r->a.kept[l].qkv, r->a.ld_qkv, &cache);
    }
    next_tokens(r, r->n_top, d->dev.target, d->dev_out.loss, d->dev_out.best);
    launch_get(r, d->out.loss, d->dev_out.loss, d->results_bytes);
    launch_wait(r);
    r->few = false;
    return chunk_outcome(g, d, q0, q1, active);
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

static void launch_step(struct launch *r, const struct model_gen *g, const struct group *p,
                        struct desk *d, int32_t active)
{
    const struct model *m = r->m;
    for (int32_t i = 0; i < active; i++) {
        plan_cache(r, p, d, i, d->seq[i]);
        d->here.target[i] = -1;
    }
    launch_put(r, d->there.k, d->here.k, d->step_bytes);
    r->rows = active;
    r->pos = d->there.len;
    r->cache = (struct kernel_cache){.k = d->there.k, .v = d->there.v, .n = d->there.len};
    embed_forward(r, d->there.token);
    for (int32_t l = 0; l < m->cfg.layers; l++)
        layer_forward(r, l, NULL);
    for (int32_t i = 0; i < active; i++)
        d->have[d->seq[i] - p->seq0]++;
    next_tokens(r, active, d->there.target, NULL, d->there.token);
    launch_get(r, d->here.token, d->there.token, (size_t)active * sizeof *d->here.token);
    launch_wait(r);
    int64_t ns = clock_ns() - d->begin_ns;
    for (int32_t i = 0; i < active; i++)
        stamp(g, d->seq[i], ns);
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
                       .adapter = w->adapter};
    struct bumps b = {.host = {.base = ml->twin[LANE_CONTROL]},
                      .dev = {.base = ml->block[LANE_CONTROL]},
                      .out = {.base = ml->twin[LANE_RESULTS]},
                      .dev_out = {.base = ml->block[LANE_RESULTS]},
                      .acts = {.base = ml->block[LANE_ACTS]}};
    struct desk d;
    size_t row = 2 * (size_t)model_kv_cols(&m->cfg);
    int32_t active = 0;
    acts_take(m, ml, &r.a, rows_of(p), false, &b.acts);
    desk_take(m, p, &d, &b);
    d.begin_ns = w->begin_ns;
    for (int32_t q = 0; q < p->n; q++) {
        d.room[q] = room_of(g, p->seq0 + q);
        d.at[q] = r.cache_layer;
        r.cache_layer += (size_t)d.room[q] * row;
    }
    for (int32_t q = p->seq0, end; q < p->seq0 + p->n; q = end) {
        end = chunk_end(p, g, q);
        active = read_chunk(&r, g, p, &d, q, end, active);
    }
    while ((active = accept(g, &d, active)) > 0)
        launch_step(&r, g, p, &d, active);
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

// Cuts the sequences into groups, at least one a lane where there are as many; returns how many,
// and the longest sequence. No result depends on the groups.
static int32_t make_groups(const struct model *m, const struct model_gen *g, struct group *group,
                           int32_t *longest)
{
    size_t value = kernel_dtype_bytes(m->dev->row->act), most = GROUP_DEVICE / value;
    size_t row = 2 * (size_t)model_kv_cols(&m->cfg) * (size_t)m->cfg.layers;
    int32_t n = 0, each = (g->n_seqs + m->dev->lanes - 1) / m->dev->lanes;
    if (m->dev->row->host) // half of what training has is for the activations here
        most =
            (m->bytes.of[LANE_ACTS] / 2 > GROUP_BYTES ? m->bytes.of[LANE_ACTS] / 2 : GROUP_BYTES) /
            value;
    *longest = 1;
    for (int32_t q = 0; q < g->n_seqs; q++) {
        size_t cache = (size_t)room_of(g, q) * row;
        struct group *p = &group[n > 0 ? n - 1 : 0];
        check_sequence(m, g, q);
        if (n == 0 || p->n == GROUP_SEQS || p->n >= each || p->cache + cache > most) {
            group[n] = (struct group){.seq0 = q};
            p = &group[n++];
        }
        p->n++;
        p->cache += cache;
        *longest = room_of(g, q) > *longest ? room_of(g, q) : *longest;
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
    assert(g->max_new >= 1);
    size_t bytes = m->shape.n_values * sizeof(float);
    struct generation w = {
        .m = m, .g = g, .adapter = loan_lend(m, &m->gen_loan, g->adapter, bytes)};
    int32_t rows = 1, longest;
    struct lane_bytes most = {{0}};
    w.group = mem_alloc(MEM_OTHER, (size_t)(g->n_seqs + 1) * sizeof *w.group);
    int32_t n = make_groups(m, g, w.group, &longest);
    for (int32_t i = 0; i < n; i++) {
        struct lane_bytes b = group_bytes(m, &w.group[i]);
        for (int k = 0; k < LANE_BLOCKS; k++)
            most.of[k] = b.of[k] > most.of[k] ? b.of[k] : most.of[k];
        rows = rows_of(&w.group[i]) > rows ? rows_of(&w.group[i]) : rows;
    }
    if (g->cache_bytes)
        *g->cache_bytes = 0;
    for (int32_t i = 0; i < n && g->cache_bytes; i++)
        *g->cache_bytes += (int64_t)(w.group[i].cache * kernel_dtype_bytes(m->dev->row->act));
    lanes_reserve(m, rows, longest, most);
    w.begin_ns = clock_ns();
    dev_parallel(m->dev, n, group_run, NULL, &w);
    mem_free(w.group);
}
