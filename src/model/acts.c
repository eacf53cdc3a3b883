// The memory of a slice: activations, what the host decides, and what comes back.
#include "base/fmath.h"
#include "base/mem.h"
#include "model/inner.h"

static kernel_act *take(const struct model *m, struct bump *b, int32_t rows, int32_t ld)
{
    return bump_take(b, (size_t)rows * (size_t)ld + KERNEL_SLACK, kernel_dtype_bytes(m->dev->act));
}

static float *take_floats(struct bump *b, size_t n)
{
    return bump_take(b, n + KERNEL_SLACK, sizeof(float));
}

static int32_t *take_ints(struct bump *b, int32_t n)
{
    return bump_take(b, (size_t)n, sizeof(int32_t));
}

static void take_kept(const struct model *m, const struct acts *a, struct kept *k, int32_t rows,
                      struct bump *b)
{
    size_t n = (size_t)rows;
    struct kept t = {.qkv = take(m, b, rows, a->ld_qkv),
                     .att = take(m, b, rows, a->ld_q),
                     .lse = take_floats(b, n * (size_t)m->cfg.heads),
                     .mid = take(m, b, rows, a->ld_dim),
                     .gu = take(m, b, rows, a->ld_gu),
                     .rstd_att = take_floats(b, n),
                     .rstd_mlp = take_floats(b, n)};
    const struct model_traits *has = &m->cfg.traits;
    for (int i = 0; i < LINS; i++)
        t.u[i] = take(m, b, rows, a->ld_u[i]);
    if (has->head_norm)
        t.raw = take(m, b, rows, a->ld_qkv);
    if (has->out_norm) {
        t.att_out = take(m, b, rows, a->ld_dim);
        t.mlp_out = take(m, b, rows, a->ld_dim);
        t.rstd_att_out = take_floats(b, n);
        t.rstd_mlp_out = take_floats(b, n);
    }
    if (k)
        *k = t;
}

// Three uses of one place.
static void take_shared(const struct model *m, struct acts *a, int32_t rows, bool train,
                        struct bump *b)
{
    size_t mark = b->used, most;
    a->act = take(m, b, rows, a->ld_hidden);
    a->dact = train ? take(m, b, rows, a->ld_hidden) : NULL;
    most = b->used;
    b->used = mark;
    a->top = take(m, b, rows, a->ld_dim);
    a->dtop = train ? take(m, b, rows, a->ld_dim) : NULL;
    most = b->used > most ? b->used : most;
    b->used = mark;
    if (train) {
        a->dqkv = take(m, b, rows, a->ld_qkv);
        a->datt = take(m, b, rows, a->ld_q);
    }
    b->used = b->used > most ? b->used : most;
}

static struct acts acts_strides(const struct model *m, bool train)
{
    const struct model_config *c = &m->cfg;
    struct acts a = {.ld_dim = stride(c->dim),
                     .ld_q = stride(model_q_cols(c)),
                     .ld_qkv = stride(model_qkv_cols(c)),
                     .ld_gu = stride(2 * c->hidden),
                     .ld_hidden = stride(c->hidden),
                     .shared = !train || m->params.recompute == MODEL_KEEP_LAYER};
    for (int i = 0; i < LINS; i++)
        a.ld_u[i] = (m->layer[0].lin[i].ranks + 15) / 16 * 16;
    return a;
}

void acts_take(const struct model *m, const struct model_lane *lane, struct acts *a, int32_t rows,
               struct layers of, bool train, struct bump *b)
{
    const struct model_config *c = &m->cfg;
    *a = acts_strides(m, train);
    a->x = lane ? lane->x : NULL;
    a->kept = lane ? lane->kept : NULL;
    for (int32_t l = 0; l <= c->layers; l++) {
        bool own = train ? l >= of.first && l <= of.end : l < 2;
        kernel_act *x = own ? take(m, b, rows, a->ld_dim) : NULL;
        if (a->x)
            a->x[l] = own || train ? x : a->x[l - 2];
    }
    for (int32_t l = of.first; l < of.end; l++)
        if (l == of.first || !a->shared)
            take_kept(m, a, a->kept ? &a->kept[l] : NULL, rows, b);
        else if (a->kept)
            a->kept[l] = a->kept[of.first];
    a->h = take(m, b, rows, a->ld_dim);
    a->rstd_top = take_floats(b, (size_t)rows);
    a->x_few = take(m, b, train ? rows / 2 : rows, a->ld_dim);
    a->att_few = take(m, b, train ? rows / 2 : rows, a->ld_q);
    if (train) {
        a->datt_few = take(m, b, rows / 2, a->ld_q);
        a->dh = take(m, b, rows, a->ld_dim);
        a->dx = take(m, b, rows, a->ld_dim);
        if (c->traits.out_norm)
            a->dout = take(m, b, rows, a->ld_dim);
    }
    take_shared(m, a, rows, train, b);
}

void control_take(struct control *c, int32_t rows, struct bump *b)
{
    int32_t **whole[] = {&c->pos, &c->token, &c->row, &c->target, &c->scored, &c->free};
    c->start = take_ints(b, rows + 1);
    for (size_t i = 0; i < ARRAY_LEN(whole); i++)
        *whole[i] = take_ints(b, rows);
    c->weight = bump_take(b, (size_t)rows, sizeof *c->weight);
    c->log_size = bump_take(b, (size_t)rows, sizeof *c->log_size);
}

static void results_take_tap(const struct model *m, const struct model_tap *t, struct results *r,
                             int32_t rows, struct bump *b)
{
    size_t n = (size_t)(t->rows < rows ? t->rows : rows), vocab = (size_t)m->cfg.vocab;
    r->tap = bump_take(b, (size_t)t->n * n * (size_t)m->cfg.dim, sizeof *r->tap);
    if (!t->logits)
        return;
    r->logits = take_floats(b, n * vocab);
    if (m->dev->act != KERNEL_F32)
        r->wide = take(m, b, (int32_t)n, m->cfg.vocab);
}

void results_take(const struct model *m, const struct model_job *job, struct results *r,
                  int32_t rows, struct bump *b)
{
    size_t n = (size_t)rows;
    bool x = job && (job->embed_grad || job->cut || job->back || job->batch->from);
    *r = (struct results){.loss = bump_take(b, n, sizeof *r->loss)};
    if (!job || job->best)
        r->best = take_ints(b, rows);
    if (!job || job->token_sq)
        r->token_sq = bump_take(b, n, sizeof *r->token_sq);
    if (!job || job->received)
        r->received = bump_take(b, n, sizeof *r->received);
    if (x)
        r->x = bump_take(b, n * (size_t)m->cfg.dim, sizeof *r->x);
    if (job && job->tap)
        results_take_tap(m, job->tap, r, rows, b);
}

// The last layer merges nothing: what follows its attention is done for rows with a loss alone.
void levels_take(const struct model *m, struct level *level, const struct control *host,
                 const struct control *dev, int32_t rows, struct bump *host_bump,
                 struct bump *dev_bump, int32_t **place)
{
    const struct control *first[] = {host, dev};
    struct bump *bump[] = {host_bump, dev_bump};
    for (int32_t l = 0; l < m->cfg.layers; l++) {
        size_t begin = dev_bump->used;
        for (int k = 0; k < 2; k++) {
            struct level_lists here = {0}, next = {0};
            if (l < m->cfg.layers - 1) {
                here.into = take_ints(bump[k], rows);
                here.share = bump_take(bump[k], (size_t)rows, sizeof *here.share);
                next.start = take_ints(bump[k], rows + 1);
                next.pos = take_ints(bump[k], rows);
                next.log_size = bump_take(bump[k], (size_t)rows, sizeof *next.log_size);
                next.free = take_ints(bump[k], rows);
            }
            if (!level)
                continue;
            struct level_lists *y = k ? &level[l].dev : &level[l].host;
            if (l == 0)
                *y = (struct level_lists){
                    .start = first[k]->start, .pos = first[k]->pos, .free = first[k]->free};
            y->into = here.into;
            y->share = here.share;
            if (l < m->cfg.layers - 1)
                *(k ? &level[l + 1].dev : &level[l + 1].host) = next;
        }
        float *size = bump_take(host_bump, (size_t)rows, sizeof *size);
        if (level) {
            level[l].size = size;
            level[l].block_bytes = dev_bump->used - begin;
        }
    }
    *place = take_ints(host_bump, rows);
}

struct lane_bytes slice_bytes(const struct model *m, const struct model_job *job, int32_t rows,
                              bool train)
{
    struct bump acts = {0}, control = {0}, levels = {0}, results = {0};
    struct acts a;
    struct control c;
    struct results r;
    int32_t *place;
    acts_take(m, NULL, &a, rows, job ? layers_of(m, job) : layers_all(m), train, &acts);
    control_take(&c, rows, &control);
    results_take(m, job, &r, rows, &results);
    if (!job || job->merge)
        levels_take(m, NULL, NULL, NULL, rows, &control, &levels, &place);
    return (struct lane_bytes){
        {[LANE_ACTS] = acts.used, [LANE_CONTROL] = control.used, [LANE_RESULTS] = results.used}};
}

size_t model_kept_bytes(const struct model *m, int32_t tokens)
{
    struct acts a = acts_strides(m, true);
    struct bump all = {0}, one = {0};
    take_kept(m, &a, NULL, tokens, &one);
    for (int32_t l = 0; l <= m->cfg.layers; l++)
        take(m, &all, tokens, a.ld_dim);
    return all.used + one.used * (size_t)(a.shared ? 1 : m->cfg.layers);
}

// Radians that a position turns pair i. Scaled as Llama 3 is: long waves by the factor, short ones
// not, those between by something between.
static double rope_speed(const struct model_config *c, bool windowed, int32_t i)
{
    const struct model_rope *r = &c->rope;
    double f = fmath_pow(windowed ? c->window_theta : c->rope_theta, -2.0 * i / c->head_dim);
    if (windowed || r->kind == MODEL_ROPE_PLAIN)
        return f;
    if (r->kind == MODEL_ROPE_LINEAR)
        return f / r->factor;
    if (r->kind == MODEL_ROPE_DIVISORS)
        return f / (double)r->divisor[i];
    double waves = r->original * f / 6.283185307179586477; // within the original positions
    double s = (waves - r->low) / (r->high - r->low);
    s = s < 0 ? 0 : s > 1 ? 1 : s;
    return f * ((1 - s) / r->factor + s);
}

// One table: its cosines, its sines.
static void position_table(struct model *m, int32_t n, bool windowed)
{
    const struct dev_row *row = m->dev->row;
    int32_t half = m->cfg.head_dim / 2;
    size_t bytes = (size_t)n * (size_t)half * sizeof(float);
    const double turn = 0.15915494309189533577; // 1 / (2 pi)
    float *cosine = row->stage(m->dev, bytes), *sine = row->stage(m->dev, bytes);
    for (int32_t i = 0; i < half; i++) {
        double speed = rope_speed(&m->cfg, windowed, i);
        for (int32_t p = 0; p < n; p++) {
            cosine[p * half + i] = (float)fmath_cos2pi(p * speed * turn);
            sine[p * half + i] = (float)fmath_sin2pi(p * speed * turn);
        }
    }
    float **to[] = {&m->cosine[windowed], &m->sine[windowed]}, *from[] = {cosine, sine};
    for (size_t i = 0; i < ARRAY_LEN(to); i++) {
        if (*to[i])
            row->free(m->dev, *to[i]);
        *to[i] = row->alloc(m->dev, MEM_WEIGHTS, bytes);
        dev_put(m->dev, *to[i], from[i], bytes);
        row->unstage(m->dev, from[i]);
    }
}

void model_positions(struct model *m, int32_t n)
{
    if (n <= m->positions)
        return;
    position_table(m, n, false);
    if (m->cfg.window > 0)
        position_table(m, n, true);
    m->positions = n;
    m->moves++;
}

void lanes_open(struct model *m)
{
    size_t layers = (size_t)m->cfg.layers;
    m->lane = mem_alloc(MEM_OTHER, (size_t)m->dev->lanes * sizeof *m->lane);
    for (int32_t i = 0; i < m->dev->lanes; i++) {
        struct model_lane *lane = &m->lane[i];
        lane->x = mem_alloc(MEM_OTHER, (layers + 1) * sizeof *lane->x);
        lane->kept = mem_alloc(MEM_OTHER, layers * sizeof *lane->kept);
        lane->level = mem_alloc(MEM_OTHER, layers * sizeof *lane->level);
    }
}

static void lane_free_block(struct model *m, struct model_lane *lane, int b)
{
    if (lane->block[b])
        m->dev->row->free(m->dev, lane->block[b]);
    if (lane->twin[b])
        m->dev->row->unstage(m->dev, lane->twin[b]);
}

static void block_grow(struct model *m, int b, size_t size_bytes)
{
    const struct dev_row *row = m->dev->row;
    if (size_bytes <= m->bytes.of[b])
        return;
    m->bytes.of[b] = size_bytes;
    m->moves++;
    for (int32_t i = 0; i < m->dev->lanes; i++) {
        struct model_lane *lane = &m->lane[i];
        lane_free_block(m, lane, b);
        lane->block[b] = row->alloc(m->dev, MEM_ACTIVATIONS, size_bytes);
        lane->twin[b] = b == LANE_ACTS ? NULL : row->stage(m->dev, size_bytes);
    }
}

void lanes_reserve(struct model *m, int32_t rows, int32_t longest, struct lane_bytes bytes)
{
    const struct model_config *c = &m->cfg;
    int32_t ranks = 0;
    for (int i = 0; i < LINS; i++)
        ranks = m->layer[0].lin[i].ranks > ranks ? m->layer[0].lin[i].ranks : ranks;
    int32_t widest = 2 * c->hidden > model_qkv_cols(c) ? 2 * c->hidden : model_qkv_cols(c);
    dev_reserve(m->dev, kernel_work_floats(rows, longest, widest, ranks, c->head_dim),
                MARK_MERGE + 2 * MERGES_PER_LAYER * c->layers);
    model_positions(m, longest);
    for (int b = 0; b < LANE_BLOCKS; b++)
        block_grow(m, b, bytes.of[b]);
}

void lanes_free(struct model *m)
{
    for (int32_t i = 0; i < m->dev->lanes; i++) {
        struct model_lane *lane = &m->lane[i];
        for (int b = 0; b < LANE_BLOCKS; b++)
            lane_free_block(m, lane, b);
        if (lane->grad)
            m->dev->row->free(m->dev, lane->grad);
        mem_free(lane->x);
        mem_free(lane->kept);
        mem_free(lane->level);
    }
    mem_free(m->lane);
}
