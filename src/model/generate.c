// Greedy generation: prompts go through the layers at once and leave their keys and values in
// caches; then one token a sequence and step. Sequences are taken in groups, a lane each.
#include "base/mem.h"
#include "model/inner.h"

#include <assert.h>
#include <string.h>

enum { GROUP_SEQS = 64, GROUP_ROWS = MODEL_SLICE_TOKENS };

struct group {
    int32_t seq0, n, rows; // rows: of its prompts
};

struct generation {
    struct model *m;
    const struct model_gen *g;
    struct group *group;
};

// What one group works in, beside its activations. Lists of caches are those of the first layer.
struct desk {
    float **all_k, **all_v;        // (n) of every sequence
    float **k, **v;                // (n) of the active ones
    int32_t *len;                  // (n) rows in the cache of each sequence
    int32_t *active, *token, *seq; // (n) their rows, newest token, and which sequence
};

static int32_t room_of(const struct group *p, const struct model_gen *g)
{
    return p->rows + p->n * g->max_new;
}

static void desk_take(const struct model *m, const struct model_gen *g, const struct group *p,
                      struct desk *d, struct acts *a, struct bump *b)
{
    int32_t rows = p->rows > p->n ? p->rows : p->n;
    size_t n = (size_t)p->n, layers = (size_t)m->cfg.layers;
    size_t row = (size_t)model_kv_cols(&m->cfg);
    acts_take(m, a, rows, false, b);
    float ***list[] = {&d->all_k, &d->all_v, &d->k, &d->v};
    for (size_t i = 0; i < ARRAY_LEN(list); i++)
        *list[i] = bump_take(b, n, sizeof **list[i]);
    int32_t **whole[] = {&d->len, &d->active, &d->token, &d->seq};
    for (size_t i = 0; i < ARRAY_LEN(whole); i++)
        *whole[i] = bump_take(b, n, sizeof **whole[i]);
    float *keys = bump_take(b, layers * (size_t)room_of(p, g) * row * 2, sizeof *keys);
    if (!b->base)
        return;
    for (int32_t i = 0; i < p->n; i++) {
        const int32_t *s = g->start + p->seq0 + i;
        size_t room = (size_t)(s[1] - s[0] + g->max_new) * row;
        d->all_k[i] = keys;
        d->all_v[i] = keys + room;
        d->len[i] = s[1] - s[0];
        keys += 2 * room;
    }
}

// The most likely next token after each of the first n rows of the last layer's output.
static void next_tokens(struct run *r, int32_t n, int32_t *token)
{
    const struct model *m = r->m;
    struct acts *a = &r->a;
    int32_t dim = m->cfg.dim;
    for (int32_t i = 0; i < n; i++)
        a->target[i] = -1;
    r->op->rmsnorm_fwd(r->cx, a->x[m->cfg.layers], a->ld_dim, m->norm_final, n, dim,
                       (float)m->cfg.norm_eps, a->h, a->ld_dim, NULL);
    r->op->ce_head(r->cx, &m->head, a->h, a->ld_dim, n, a->target, NULL, NULL, token, NULL, 0,
                   NULL);
}

static void read_prompts(struct run *r, const struct model_gen *g, const struct group *p,
                         struct desk *d)
{
    const int32_t *from = g->start + p->seq0;
    r->rows = p->rows;
    struct kernel_cache cache = {.k = d->all_k, .v = d->all_v};
    struct kernel_attn attn = attn_of(r);
    r->seqs = (struct kernel_seqs){.n = p->n, .rows = p->rows, .start = r->a.start};
    for (int32_t q = 0; q <= p->n; q++)
        r->a.start[q] = from[q] - from[0];
    for (int32_t q = 0; q < p->n; q++) {
        int32_t len = from[q + 1] - from[q];
        r->seqs.longest = len > r->seqs.longest ? len : r->seqs.longest;
        r->a.row[q] = r->a.start[q + 1] - 1;
        for (int32_t i = r->a.start[q]; i < r->a.start[q + 1]; i++)
            r->a.pos[i] = i - r->a.start[q];
    }
    r->n_top = p->n; // only the last rows' outputs are of use
    r->few = p->n < p->rows;
    r->op->embed_fwd(r->cx, &r->m->embed, g->tokens + from[0], p->rows, r->a.x[0], r->a.ld_dim);
    for (int32_t l = 0; l < r->m->cfg.layers; l++) {
        layer_forward(r, l, NULL);
        cache.skip = (size_t)l * r->cache_layer;
        r->op->cache_rows(r->cx, &attn, &r->seqs, r->a.kept[l].qkv, r->a.ld_qkv, &cache);
    }
    next_tokens(r, p->n, d->token);
    r->few = false;
}

// Takes the newest tokens; returns how many sequences go on, and gathers those at the front.
static int32_t accept(const struct model_gen *g, struct desk *d, int32_t active)
{
    int32_t go = 0;
    for (int32_t i = 0; i < active; i++) {
        int32_t q = d->seq[i], t = d->token[i];
        if (t == g->end) {
            if (g->ended)
                g->ended[q] = true;
            continue;
        }
        g->out[(ptrdiff_t)q * g->max_new + g->out_len[q]++] = t;
        if (g->out_len[q] == g->max_new)
            continue;
        d->seq[go] = q;
        d->token[go++] = t;
    }
    return go;
}

static void group_run(void *arg, int32_t item, int32_t lane)
{
    struct generation *w = arg;
    struct model *m = w->m;
    const struct model_gen *g = w->g;
    const struct group *p = &w->group[item];
    struct arena *arena = &m->lane[lane].acts;
    size_t mark = arena_mark(arena);
    struct bump b = {.base = arena_take(arena, m->acts_bytes)};
    size_t row = (size_t)model_kv_cols(&m->cfg);
    struct run r = {.m = m,
                    .cx = &m->dev->lane[lane].cx,
                    .op = m->dev->ops,
                    .adapter = g->adapter,
                    .cache_layer = (size_t)room_of(p, g) * row * 2};
    struct desk d;
    desk_take(m, g, p, &d, &r.a, &b);
    read_prompts(&r, g, p, &d);
    int32_t active = p->n;
    for (int32_t i = 0; i < p->n; i++)
        d.seq[i] = p->seq0 + i;
    while ((active = accept(g, &d, active)) > 0) {
        r.rows = active;
        r.cache = (struct kernel_cache){.k = d.k, .v = d.v, .n = d.active};
        for (int32_t i = 0; i < active; i++) {
            int32_t at = d.seq[i] - p->seq0;
            d.k[i] = d.all_k[at];
            d.v[i] = d.all_v[at];
            r.a.pos[i] = d.active[i] = d.len[at]++;
        }
        r.op->embed_fwd(r.cx, &m->embed, d.token, active, r.a.x[0], r.a.ld_dim);
        for (int32_t l = 0; l < m->cfg.layers; l++)
            layer_forward(&r, l, NULL);
        next_tokens(&r, active, d.token);
    }
    arena_release(arena, mark);
}

void model_generate(struct model *m, const struct model_gen *g)
{
    assert(g->max_new >= 1);
    struct generation w = {.m = m, .g = g};
    int32_t n = 0, longest = 1, rows = 1;
    size_t bytes = 0;
    w.group = mem_alloc(MEM_OTHER, (size_t)(g->n_seqs + 1) * sizeof *w.group);
    for (int32_t q = 0; q < g->n_seqs; q++) {
        int32_t len = g->start[q + 1] - g->start[q];
        struct group *p = &w.group[n > 0 ? n - 1 : 0];
        assert(len >= 1);
        for (int32_t i = g->start[q]; i < g->start[q + 1]; i++)
            assert(g->tokens[i] >= 0 && g->tokens[i] < m->cfg.vocab);
        if (n == 0 || p->n == GROUP_SEQS ||
            room_of(p, g) + len + g->max_new > GROUP_ROWS + g->max_new)
            w.group[n++] = (struct group){.seq0 = q, .n = 1, .rows = len};
        else {
            p->n++;
            p->rows += len;
        }
        longest = len > longest ? len : longest;
        g->out_len[q] = 0;
        if (g->ended)
            g->ended[q] = false;
    }
    for (int32_t i = 0; i < n; i++) {
        struct desk d;
        struct acts a;
        struct bump b = {0};
        desk_take(m, g, &w.group[i], &d, &a, &b);
        bytes = b.used > bytes ? b.used : bytes;
        rows = w.group[i].rows > rows ? w.group[i].rows : rows;
        rows = w.group[i].n > rows ? w.group[i].n : rows;
    }
    lanes_reserve(m, rows, longest + g->max_new, bytes);
    dev_parallel(m->dev, n, group_run, NULL, &w);
    mem_free(w.group);
}
