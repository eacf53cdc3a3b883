// Fed-FSTQ's passes over all values, on the CPU; and over all codes, to decode. Threads take a
// tensor or a piece each.
#include "base/half.h"
#include "base/pool.h"
#include "codec/fstq.h"
#include "kernels/kernels_codec.h"

#include <math.h>

#define TILE         1024
#define F32_INF_BITS 0x7f800000u

static void each_tensor(struct fstq_encoder *e, void (*fn)(void *arg, uint32_t t))
{
    pool_each(e->w.c->shape->n_values, e->w.c->shape->n_tensors, fn, e);
}

static void each_piece(const struct fstq_work *w, void (*fn)(void *arg, uint32_t i), void *arg)
{
    pool_each(w->c->shape->n_values, w->pieces, fn, arg);
}

// Facts.

static void look_at(void *arg, uint32_t t)
{
    struct fstq_encoder *e = arg;
    const size_t at = e->w.c->shape->tensors[t].offset, n = fstq_tensor_values(&e->w, t);
    struct quant_stats x = {0}, sens = {0};
    struct fstq_facts *f = &e->facts[t];
    quant_stats(e->in->x + at, n, e->w.a.policy == POLICY_RD ? QUANT_SQ : 0, &x);
    f->max = f32_from_bits(x.max_bits < F32_INF_BITS ? x.max_bits : F32_INF_BITS);
    f->sq = x.sq;
    if (bitalloc_needs_sens(&e->w.a))
        quant_stats(e->in->sens + at, n, QUANT_SUM, &sens);
    e->sens_sum[t] = sens.max_bits < F32_INF_BITS ? sens.sum : (double)INFINITY;
    f->grad_finite =
        !bitalloc_needs_grad(&e->w.a) || quant_absmax_bits(e->in->grad + at, n) < F32_INF_BITS;
}

static void look(struct fstq_encoder *e)
{
    each_tensor(e, look_at);
}

static void score_tensor(void *arg, uint32_t t)
{
    struct fstq_encoder *e = arg;
    bitalloc_score(&e->w.a, e->in, t, e->factor[t], 0, fstq_tensor_values(&e->w, t),
                   e->u + e->w.c->shape->tensors[t].offset);
}

static void score(struct fstq_encoder *e)
{
    each_tensor(e, score_tensor);
}

// The sample.

// Which of the runs [every j, every (j + 1)) is drawn: multiples of the golden ratio, so that no
// length of a row keeps step with it.
static size_t drawn_run(size_t j, size_t every)
{
    return j * every + (size_t)(((uint64_t)((uint32_t)j * 2654435769u) * every) >> 32);
}

static void draw_tensor(void *arg, uint32_t place)
{
    struct fstq_encoder *e = arg;
    const struct fstq_sample *s = &e->sample;
    const uint32_t t = e->w.order[place];
    const float *x = e->in->x + e->w.c->shape->tensors[t].offset;
    float *to = s->x + s->at[place], *w = s->w + s->at[place];
    size_t n = s->at[place + 1] - s->at[place], every = s->every[t];
    if (every == 1) {
        memcpy(to, x, n * sizeof *x);
        bitalloc_weigh(&e->w.a, e->in, t, e->factor[t], 0, n, w);
        return;
    }
    for (size_t j = 0; 16 * j < n; j++) {
        size_t from = 16 * drawn_run(j, every);
        memcpy(to + 16 * j, x + from, 16 * sizeof *x);
        bitalloc_weigh(&e->w.a, e->in, t, e->factor[t], from, 16, w + 16 * j);
    }
}

static void draw(struct fstq_encoder *e)
{
    pool_each(e->sample.n, e->w.c->shape->n_tensors, draw_tensor, e);
}

// Tags.

static void count_piece(void *arg, uint32_t i)
{
    struct fstq_work *w = arg;
    memset(w->count[i], 0, sizeof w->count[i]);
    alloc_count(w->tag + w->piece[i].place, w->piece[i].n, w->a.count, w->count[i]);
}

static void count(struct fstq_work *w)
{
    each_piece(w, count_piece, w);
}

struct choice {
    struct fstq_encoder *e;
    size_t from, to;
};

// The weights of a tile are made and used in the first-level cache.
static void choose_piece(void *arg, uint32_t i)
{
    const struct choice *c = arg;
    const size_t from = c->from, to = c->to;
    struct fstq_encoder *e = c->e;
    struct fstq_work *w = &e->w;
    const struct fstq_piece *p = &w->piece[i];
    if (p->place >= to || p->place + p->n <= from)
        return;
    const float *x = e->in->x + w->c->shape->tensors[p->tensor].offset + p->at;
    size_t begin = from > p->place ? from - p->place : 0;
    size_t end = to - p->place < p->n ? to - p->place : p->n;
    float weight[TILE];
    for (size_t at = begin & ~(size_t)(TILE - 1); at < end; at += TILE) {
        size_t m = p->n - at < TILE ? p->n - at : TILE;
        uint8_t tag[TILE], *to_tag = w->tag + p->place + at;
        bitalloc_weigh(&w->a, e->in, p->tensor, e->factor[p->tensor], p->at + at, m, weight);
        if (at >= begin && at + m <= end) {
            alloc_choose(x + at, weight, m, &e->levels[w->group[p->tensor]], to_tag);
            continue;
        }
        alloc_choose(x + at, weight, m, &e->levels[w->group[p->tensor]], tag);
        size_t first = at > begin ? 0 : begin - at, last = at + m < end ? m : end - at;
        memcpy(to_tag + first, tag + first, last - first);
    }
    count_piece(w, i);
}

static void choose(struct fstq_encoder *e, size_t from, size_t to)
{
    struct choice c = {e, from, to};
    pool_each(to - from, e->w.pieces, choose_piece, &c);
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
            at += k ? (size_t)w->count[i][k] * (w->a.bits[k] == 16 ? 2 : 1) : 0;
        }
}

// Values of one width.

// The values of width k in the tile of a piece that begins at at; v has room for TILE + 16.
static size_t kept(const struct fstq_encoder *e, const struct fstq_piece *p, int k, size_t at,
                   float *v)
{
    const float *x = e->in->x + e->w.c->shape->tensors[p->tensor].offset + p->at;
    size_t m = p->n - at < TILE ? p->n - at : TILE;
    return alloc_gather(x + at, e->w.tag + p->place + at, m, (uint8_t)k, v);
}

static void span_piece(void *arg, uint32_t i)
{
    struct fstq_encoder *e = arg;
    for (int k = 1; k < e->w.a.count; k++) {
        struct fstq_tier *tier = &e->tier[i][k];
        struct quant_stats s = {0};
        float v[TILE + 16];
        for (size_t at = 0; at < e->w.piece[i].n; at += TILE)
            quant_stats(v, kept(e, &e->w.piece[i], k, at, v), QUANT_ABS, &s);
        tier->max = f32_from_bits(s.max_bits);
        tier->abs = s.abs;
        tier->n = e->w.count[i][k];
    }
}

static void spans(struct fstq_encoder *e)
{
    each_piece(&e->w, span_piece, e);
}

static void bin_piece(void *arg, uint32_t i)
{
    struct fstq_encoder *e = arg;
    for (int k = 1; k < e->w.a.count; k++) {
        struct fstq_tier *tier = &e->tier[i][k];
        float v[TILE + 16], inv = tier->max >= 0x1p-100f ? FSTQ_BINS / tier->max : 0;
        memset(tier->bin, 0, sizeof tier->bin);
        if (!fstq_has_scale(e->w.opt, e->w.a.bits[k]) || tier->n == 0)
            continue;
        for (size_t at = 0; at < e->w.piece[i].n; at += TILE)
            alloc_bins(v, kept(e, &e->w.piece[i], k, at, v), inv, FSTQ_BINS, tier->bin);
    }
}

static void bins(struct fstq_encoder *e)
{
    each_piece(&e->w, bin_piece, e);
}

static void code_tile(const struct fstq_work *w, int k, float scale, const float *v, size_t n,
                      uint8_t *to)
{
    int bits = w->a.bits[k];
    float inv = scale > 0 ? 1 / scale : 0;
    enum alloc_kind kind = fstq_kind(w->opt, bits);
    if (kind == ALLOC_FP16)
        quant_f16_to_le(v, n, 1, to);
    else if (kind == ALLOC_SIGN)
        quant_sign_u8(v, n, to);
    else if (bits == 16)
        quant_i16_to_le(v, n, inv, to);
    else
        quant_nearest_u8(v, n, inv, fstq_q(bits), to);
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

static void code_piece(void *arg, uint32_t i)
{
    struct fstq_encoder *e = arg;
    struct fstq_work *w = &e->w;
    const struct fstq_piece *p = &w->piece[i];
    for (int k = 1; k < w->a.count; k++) {
        uint8_t *to = w->code + w->start[i][k];
        float v[TILE + 16];
        for (size_t at = 0; at < p->n && w->count[i][k] > 0; at += TILE) {
            size_t found = kept(e, p, k, at, v);
            code_tile(w, k, w->scale[w->group[p->tensor]][k], v, found, to);
            to += found * (w->a.bits[k] == 16 ? 2 : 1);
        }
    }
}

static void code(struct fstq_encoder *e)
{
    struct fstq_work *w = &e->w;
    memset(e->hist, 0, sizeof e->hist);
    each_piece(w, code_piece, e);
    for (int k = 1; k < w->a.count; k++)
        for (uint32_t i = 0; i < w->pieces && fstq_entropy_coded(w->opt, w->a.bits[k]); i++)
            fstq_count_codes(w->code + w->start[i][k], (size_t)w->count[i][k], w->a.bits[k],
                             e->hist[k]);
}

const struct fstq_stages fstq_cpu = {
    .name = "cpu",
    .look = look,
    .score = score,
    .draw = draw,
    .choose = choose,
    .count = count,
    .spans = spans,
    .bins = bins,
    .code = code,
};

// Decoding.

// The values of width k in a tile, from their codes.
static void values_of(const struct fstq_opt *o, int bits, float s, const uint8_t *codes, size_t n,
                      float *v)
{
    struct quant_sink set = {v, 1, false};
    if (fstq_kind(o, bits) == ALLOC_FP16) {
        quant_f16_from_le(codes, n, 1, set);
    } else if (bits == 1) {
        const float table[16] = {-s, s};
        quant_table_from_u8(codes, n, table, set);
    } else if (bits < 16) {
        quant_linear_from_u8(codes, n, fstq_q(bits), s, set);
    } else {
        quant_i16_from_le(codes, n, s, v);
    }
}

// Codes [at, at + n) of a width, n <= TILE, unpacked into buf where they are packed.
static const uint8_t *codes_of(const struct fstq_work *w, int k, size_t at, size_t n, uint8_t *buf)
{
    int bits = w->a.bits[k];
    if (bits == 16 || fstq_entropy_coded(w->opt, bits))
        return w->from[k] + at * (bits == 16 ? 2 : 1);
    size_t skip = at % 8; // packed codes begin with a byte every eight
    unpack_u8(w->from[k] + at / 8 * (unsigned)bits, skip + n, (unsigned)bits, buf);
    return buf + skip;
}

struct give {
    const struct fstq_work *w;
    struct quant_sink to;
};

// Every tile: how many tags of each width, their codes, their values, to their places. All but the
// look at the tags costs as much as was kept.
static void give_piece(void *arg, uint32_t i)
{
    const struct give *g = arg;
    const struct fstq_work *w = g->w;
    const struct quant_sink to = g->to;
    const struct fstq_piece *p = &w->piece[i];
    const uint8_t *tag = w->tag + p->place;
    size_t next[ALLOC_LEVELS], offset = w->c->shape->tensors[p->tensor].offset + p->at;
    float v[TILE + 16];
    uint8_t buf[TILE + 8];
    for (int k = 1; k < w->a.count; k++)
        next[k] = (w->start[i][k] - fstq_first_code(w, k)) / (w->a.bits[k] == 16 ? 2 : 1);
    for (size_t at = 0; at < p->n; at += TILE) {
        size_t m = p->n - at < TILE ? p->n - at : TILE;
        struct quant_sink here = quant_sink_at(to, offset + at);
        int64_t of_tile[ALLOC_LEVELS] = {0};
        if (!to.add)
            memset(here.to, 0, m * sizeof *here.to);
        alloc_count(tag + at, m, w->a.count, of_tile);
        for (int k = 1; k < w->a.count; k++) {
            size_t kept = (size_t)of_tile[k];
            if (kept == 0)
                continue;
            const uint8_t *codes = codes_of(w, k, next[k], kept, buf);
            values_of(w->opt, w->a.bits[k], w->scale[w->group[p->tensor]][k], codes, kept, v);
            next[k] += kept;
            alloc_scatter(v, tag + at, m, (uint8_t)k, here);
        }
    }
}

void fstq_give(const struct fstq_work *w, struct quant_sink to)
{
    struct give g = {w, to};
    each_piece(w, give_piece, &g);
}
