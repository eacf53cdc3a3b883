// Fed-FSTQ's passes over all values, by the stages of a device: all runs in one call where it wants
// that, else a tensor or a piece by whichever thread takes it.
#include "base/half.h"
#include "base/pool.h"
#include "codec/fstq.h"
#include "dev/dev.h"

#include <math.h>

#define F32_INF_BITS 0x7f800000u

typedef void pass(void *arg, uint32_t at, size_t runs);
struct passing {
    pass *fn;
    void *arg;
};

static void pass_one(void *arg, uint32_t i)
{
    const struct passing *p = arg;
    p->fn(p->arg, i, 1);
}

// Over n_values values in n runs.
static void pass_all(const struct fstq_work *w, size_t n_values, uint32_t n, pass *fn, void *arg)
{
    struct passing p = {fn, arg};
    if (w->whole)
        fn(arg, 0, n);
    else
        pool_each(n_values, n, pass_one, &p);
}

static void each_tensor(struct fstq_encoder *e, pass *fn)
{
    pass_all(&e->w, e->w.c->shape->n_values, e->w.c->shape->n_tensors, fn, e);
}

static void each_piece(const struct fstq_work *w, pass *fn, void *arg)
{
    pass_all(w, w->c->shape->n_values, w->pieces, fn, arg);
}

// Facts, importance, the sample.

static void look(void *arg, uint32_t at, size_t runs)
{
    struct fstq_encoder *e = arg;
    e->w.stages->look(e->w.cx, &e->v, &e->rule, e->w.tensor + at, runs, e->w.a.policy == POLICY_RD,
                      e->facts + at);
}

void fstq_look(struct fstq_encoder *e)
{
    each_tensor(e, look);
    for (uint32_t t = 0; t < e->w.c->shape->n_tensors; t++)
        e->sens_sum[t] = e->facts[t].sens_bits < F32_INF_BITS ? e->facts[t].sens : (double)INFINITY;
}

static void score(void *arg, uint32_t at, size_t runs)
{
    struct fstq_encoder *e = arg;
    e->w.stages->score(e->w.cx, &e->v, &e->rule, e->w.tensor + at, runs, e->u);
}

void fstq_score(struct fstq_encoder *e)
{
    each_tensor(e, score);
}

static void draw(void *arg, uint32_t at, size_t runs)
{
    struct fstq_encoder *e = arg;
    e->w.stages->draw(e->w.cx, &e->v, &e->rule, e->w.tensor + at, e->sample.draw + at, runs,
                      e->sample.x, e->sample.w);
}

void fstq_draw(struct fstq_encoder *e)
{
    pass_all(&e->w, e->sample.n, e->w.c->shape->n_tensors, draw, e);
}

// Tags.

static void count(void *arg, uint32_t at, size_t runs)
{
    struct fstq_work *w = arg;
    w->stages->count(w->cx, w->stage_tag, w->piece + at, runs, w->a.count, w->count + at);
}

void fstq_count(struct fstq_work *w)
{
    each_piece(w, count, w);
}

// Tags from a message are the host's, wherever its values go.
static void count_read(void *arg, uint32_t i)
{
    struct fstq_work *w = arg;
    alloc_stages_cpu.count(NULL, w->tag, w->piece + i, 1, w->a.count, w->count + i);
}

void fstq_count_read(struct fstq_work *w)
{
    pool_each(w->c->shape->n_values, w->pieces, count_read, w);
}

struct choice {
    struct fstq_encoder *e;
    size_t from, to;
};

static void choose(void *arg, uint32_t at, size_t runs)
{
    const struct choice *c = arg;
    struct fstq_work *w = &c->e->w;
    w->stages->choose(w->cx, &c->e->v, &c->e->rule, w->piece + at, runs, c->e->levels, c->from,
                      c->to, w->stage_tag, w->count + at);
}

void fstq_choose(struct fstq_encoder *e, size_t from, size_t to)
{
    struct choice c = {e, from, to};
    pass_all(&e->w, to - from, e->w.pieces, choose, &c);
}

void fstq_rank(struct fstq_encoder *e, double target, bitalloc_cost *cost, const void *arg)
{
    const struct bitalloc_on on = {e->w.stages, e->w.cx, e->w.tensor};
    bitalloc_ranks(&e->w.a, &on, e->u, target, cost, arg, e->w.stage_tag);
}

void fstq_drop(struct fstq_encoder *e)
{
    const size_t n = e->w.c->shape->n_values;
    if (fstq_away(&e->w))
        e->w.on->dev->row->zero(e->w.on->dev, e->w.on->lane, e->w.stage_tag, n);
    else
        memset(e->w.tag, 0, n);
    fstq_count(&e->w);
    fstq_sum_counts(&e->w);
}

// Codes of a width lie together, piece after piece.
void fstq_sum_counts(struct fstq_work *w)
{
    size_t at = 0;
    memset(w->total, 0, sizeof w->total);
    memset(w->of_class, 0, sizeof w->of_class);
    memset(w->of_group, 0, w->groups * sizeof *w->of_group);
    for (int k = 0; k < w->a.count; k++)
        for (uint32_t i = 0; i < w->pieces; i++) {
            uint32_t t = w->piece[i].tensor;
            w->total[k] += w->count[i][k];
            w->of_class[fstq_class(w, t)][k] += w->count[i][k];
            w->of_group[w->group[t]][k] += w->count[i][k];
            w->start[i][k] = at;
            at += k ? (size_t)w->count[i][k] * alloc_code_bytes(w->a.bits[k]) : 0;
        }
}

// Values of one width.

static void spans(void *arg, uint32_t at, size_t runs)
{
    struct fstq_encoder *e = arg;
    e->w.stages->spans(e->w.cx, e->v.x, e->w.stage_tag, e->w.piece + at, runs, &e->w.widths,
                       e->tier + at);
}

void fstq_spans(struct fstq_encoder *e)
{
    each_piece(&e->w, spans, e);
}

static void bins(void *arg, uint32_t at, size_t runs)
{
    struct fstq_encoder *e = arg;
    e->w.stages->bins(e->w.cx, e->v.x, e->w.stage_tag, e->w.piece + at, runs, &e->w.widths,
                      e->tier + at);
}

void fstq_bins(struct fstq_encoder *e)
{
    each_piece(&e->w, bins, e);
}

// Few kinds of codes are counted by comparing, many by a table.
void fstq_count_codes(const uint8_t *code, size_t n, int bits, uint64_t hist[256])
{
    enum { FEW = 16 };
    unsigned kinds = fstq_kinds(bits);
    if (kinds <= FEW) {
        int64_t few[FEW] = {0};
        alloc_count(code, n, (int)kinds, few);
        for (unsigned c = 0; c < kinds; c++)
            hist[c] += (uint64_t)few[c];
    } else {
        uint64_t all[256];
        pack_count_u8(code, n, all);
        for (int c = 0; c < 256; c++)
            hist[c] += all[c];
    }
}

static void code(void *arg, uint32_t at, size_t runs)
{
    struct fstq_encoder *e = arg;
    struct fstq_work *w = &e->w;
    w->stages->code(w->cx, e->v.x, w->stage_tag, w->piece + at, runs, &w->widths, w->scale,
                    w->count + at, w->start + at, w->code);
}

void fstq_code(struct fstq_encoder *e)
{
    struct fstq_work *w = &e->w;
    const struct codec_device *away = fstq_away(w);
    memset(e->hist, 0, sizeof e->hist);
    each_piece(w, code, e);
    for (int k = 1; k < w->a.count; k++) {
        if (!fstq_entropy_coded(w->opt, w->a.bits[k]))
            continue;
        if (away)
            codec_column(away)->entropy->count(w->cx, w->code + fstq_first_code(w, k),
                                               (size_t)w->total[k], e->hist[k]);
        for (uint32_t i = 0; i < w->pieces && !away; i++)
            fstq_count_codes(w->code + w->start[i][k], (size_t)w->count[i][k], w->a.bits[k],
                             e->hist[k]);
    }
}

// Decoding.

struct give {
    const struct fstq_work *w;
    struct alloc_codes codes;
    struct quant_sink to;
};

static void give(void *arg, uint32_t at, size_t runs)
{
    const struct give *g = arg;
    const struct fstq_work *w = g->w;
    w->stages->give(w->cx, &g->codes, w->tag, w->piece + at, runs, &w->widths, w->scale,
                    w->start + at, g->to);
}

void fstq_give(const struct fstq_work *w, struct quant_sink to)
{
    struct give g = {.w = w, .to = to};
    for (int k = 1; k < w->a.count; k++) {
        g.codes.from[k] = w->from[k];
        g.codes.packed[k] = w->a.bits[k] < 16 && !fstq_entropy_coded(w->opt, w->a.bits[k]);
        g.codes.first[k] = fstq_first_code(w, k);
    }
    each_piece(w, give, &g);
}
