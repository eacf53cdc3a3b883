// The CPU's column of bit allocation's stages: runs of one tensor's values, a tile at a time.
#include "stages.h"

#include "base/half.h"

#include <string.h>

#define TILE 1024

static size_t tile(size_t n, size_t at)
{
    return n - at < TILE ? n - at : TILE;
}

// Importance.

// Of values [at, at + n) of a run, at a multiple of 4.
static void score_tile(const struct alloc_vectors *v, const struct alloc_rule *rule,
                       const struct alloc_run *r, size_t at, size_t n, float *u)
{
    const float *x = v->x + r->at + at;
    switch (rule->importance) {
    case IMPORTANCE_FISHER:
        if (rule->gamma16 > 0)
            alloc_fisher(x, v->sens + r->at + at, n, r->factor, rule->gamma16, u);
        else
            alloc_magnitude(x, n, u);
        break;
    case IMPORTANCE_MAGNITUDE:
        alloc_magnitude(x, n, u);
        break;
    case IMPORTANCE_RANDOM:
        alloc_drawn(r->key, r->ctr, r->first + at, n, u);
        break;
    case IMPORTANCE_UNIFORM:
        alloc_comb((uint32_t)(r->at + at), n, u);
        break;
    case IMPORTANCE_GD:
    case IMPORTANCE_ABSGD:
        alloc_first_order(x, v->grad + r->at + at, n, rule->importance == IMPORTANCE_ABSGD, u);
        break;
    }
}

// The weight of a squared error (10): F^gamma, 1, or where the importance is not F D^2 what of it
// D^2 leaves.
static void weigh_tile(const struct alloc_vectors *v, const struct alloc_rule *rule,
                       const struct alloc_run *r, size_t at, size_t n, float *w)
{
    if (alloc_needs_sens(rule)) {
        alloc_power(v->sens + r->at + at, n, r->factor, rule->gamma16, w);
    } else if (rule->importance <= IMPORTANCE_MAGNITUDE) {
        mix_fill(1, n, w);
    } else {
        score_tile(v, rule, r, at, n, w);
        alloc_weight(v->x + r->at + at, n, w);
    }
}

static void look(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                 const struct alloc_rule *rule, const struct alloc_run *run, size_t runs,
                 bool squares, struct alloc_facts *facts)
{
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++) {
        struct quant_stats x = {0}, sens = {0};
        quant_stats(v->x + run->at, run->n, squares ? QUANT_SQ : 0, &x);
        if (alloc_needs_sens(rule))
            quant_stats(v->sens + run->at, run->n, QUANT_SUM, &sens);
        facts[i] = (struct alloc_facts){
            .max_bits = x.max_bits, .sq = x.sq, .sens_bits = sens.max_bits, .sens = sens.sum};
        if (alloc_needs_grad(rule))
            facts[i].grad_bits = quant_absmax_bits(v->grad + run->at, run->n);
    }
}

static void score(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                  const struct alloc_rule *rule, const struct alloc_run *run, size_t runs, float *u)
{
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++)
        score_tile(v, rule, run, 0, run->n, u + run->at);
}

// Which of the runs [every j, every (j + 1)) is drawn: multiples of the golden ratio, so that no
// length of a row keeps step with it.
static size_t drawn_run(size_t j, size_t every)
{
    return j * every + (size_t)(((uint64_t)((uint32_t)j * 2654435769u) * every) >> 32);
}

// Begins to load values that lie where nothing else of the sample does.
static void fetch_drawn(const struct alloc_vectors *v, const struct alloc_run *r, size_t at)
{
    if (at >= r->n)
        return;
    __builtin_prefetch(v->x + r->at + at);
    if (v->sens)
        __builtin_prefetch(v->sens + r->at + at);
}

static void draw(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                 const struct alloc_rule *rule, const struct alloc_run *run,
                 const struct alloc_draw *some, size_t runs, float *x, float *w)
{
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++) {
        size_t n = some[i].n, at = some[i].to;
        if (some[i].every == 1) {
            memcpy(x + at, v->x + run->at, n * sizeof *x);
            weigh_tile(v, rule, run, 0, n, w + at);
            continue;
        }
        for (size_t j = 0; 16 * j < n; j++, at += 16) {
            size_t from = 16 * drawn_run(j, some[i].every);
            fetch_drawn(v, run, 16 * drawn_run(j + 8, some[i].every));
            memcpy(x + at, v->x + run->at + from, 16 * sizeof *x);
            weigh_tile(v, rule, run, from, 16, w + at);
        }
    }
}

// Ranks.

static void top(const struct kernel_ctx *cx, const float *u, size_t n, size_t k,
                uint32_t count[SELECT_BINS])
{
    size_t sum = 0;
    (void)cx;
    memset(count, 0, SELECT_BINS * sizeof *count);
    size_t seen = select_sample(u, n, SELECT_ABS, SELECT_STRIDE, count);
    uint32_t floor_bin = select_floor(count, seen, n, k);
    memset(count, 0, SELECT_BINS * sizeof *count);
    select_count(u, n, SELECT_ABS, 0, floor_bin, count);
    for (int b = 0; b < SELECT_BINS; b++)
        sum += count[b];
    if (sum < k) { // the sample was wrong
        memset(count, 0, SELECT_BINS * sizeof *count);
        select_count(u, n, SELECT_ABS, 0, 0, count);
    }
}

static void within(const struct kernel_ctx *cx, const float *u, size_t n, int level,
                   const uint32_t *prefix, int prefixes, uint32_t count[][SELECT_BINS])
{
    (void)cx;
    memset(count, 0, (size_t)prefixes * sizeof *count);
    select_count_many(u, n, SELECT_ABS, level, prefix, prefixes, count);
}

static void tags(const struct kernel_ctx *cx, const float *u, const struct alloc_run *run,
                 size_t runs, const uint32_t *threshold, int thresholds, size_t *ties, uint8_t *tag)
{
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++)
        if (alloc_tags(u + run->at, run->n, threshold, thresholds, tag + run->place))
            alloc_ties(u + run->at, run->n, threshold, thresholds, ties, tag + run->place);
}

// Tags.

static void count(const struct kernel_ctx *cx, const uint8_t *tag, const struct alloc_run *run,
                  size_t runs, int levels, int64_t (*count)[ALLOC_LEVELS])
{
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++) {
        memset(count[i], 0, sizeof count[i]);
        alloc_count(tag + run->place, run->n, levels, count[i]);
    }
}

// Roots that a power of F is made of, where it is nothing but roots, else -1.
static int roots_of(const struct alloc_rule *rule)
{
    for (int roots = 0; roots <= 4 && alloc_needs_sens(rule); roots++)
        if (rule->gamma16 == 16 >> roots)
            return roots;
    return -1;
}

// Of values [begin, end) of a run. Weights that are more than roots are made for a tile and used in
// the first-level cache.
static void choose_run(const struct alloc_vectors *v, const struct alloc_rule *rule,
                       const struct alloc_run *r, const struct alloc_levels *l, size_t begin,
                       size_t end, uint8_t *tag, int64_t counts[ALLOC_LEVELS])
{
    const float *x = v->x + r->at;
    float weight[TILE];
    struct alloc_weights w = {weight, roots_of(rule), r->factor};
    if (w.roots >= 0) {
        w.of = v->sens + r->at + begin;
        alloc_choose(x + begin, &w, end - begin, l, tag + begin, counts);
        return;
    }
    for (size_t at = begin & ~(size_t)(TILE - 1); at < end; at += TILE) {
        size_t m = tile(r->n, at), first = at > begin ? 0 : begin - at;
        size_t last = at + m < end ? m : end - at;
        weigh_tile(v, rule, r, at, m, weight);
        w.of = weight + first;
        alloc_choose(x + at + first, &w, last - first, l, tag + at + first, counts);
    }
}

static void choose(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                   const struct alloc_rule *rule, const struct alloc_run *run, size_t runs,
                   const struct alloc_levels *levels, size_t from, size_t to, uint8_t *tag,
                   int64_t (*counts)[ALLOC_LEVELS])
{
    for (size_t i = 0; i < runs; i++, run++) {
        const struct alloc_levels *l = &levels[run->group];
        if (run->place >= to || run->place + run->n <= from)
            continue;
        size_t begin = from > run->place ? from - run->place : 0;
        size_t end = to - run->place < run->n ? to - run->place : run->n;
        memset(counts[i], 0, sizeof counts[i]);
        choose_run(v, rule, run, l, begin, end, tag + run->place, counts[i]);
        if (end - begin < run->n) // what the others have is not known
            count(cx, tag, run, 1, l->count, counts + i);
    }
}

// Values of one width.

// The values of width k in the tile of a run that begins at at; v has room for TILE + 16.
static size_t kept(const float *x, const uint8_t *tag, const struct alloc_run *r, int k, size_t at,
                   float *v)
{
    return alloc_gather(x + r->at + at, tag + r->place + at, tile(r->n, at), (uint8_t)k, v);
}

static void spans(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                  const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                  struct alloc_tier (*tier)[ALLOC_LEVELS])
{
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++)
        for (int k = 1; k < widths->count; k++) {
            struct quant_stats s = {0};
            float v[TILE + 16];
            tier[i][k].n = 0;
            for (size_t at = 0; at < run->n; at += TILE) {
                size_t n = kept(x, tag, run, k, at, v);
                quant_stats(v, n, QUANT_ABS, &s);
                tier[i][k].n += (int64_t)n;
            }
            tier[i][k].max = f32_from_bits(s.max_bits);
            tier[i][k].abs = s.abs;
        }
}

static void bins(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                 const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                 struct alloc_tier (*tier)[ALLOC_LEVELS])
{
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++)
        for (int k = 1; k < widths->count; k++) {
            struct alloc_tier *t = &tier[i][k];
            float v[TILE + 16], inv = t->max >= 0x1p-100f ? ALLOC_BINS / t->max : 0;
            memset(t->bin, 0, sizeof t->bin);
            if (widths->kind[k] == ALLOC_FP16 || t->n == 0)
                continue;
            for (size_t at = 0; at < run->n; at += TILE)
                alloc_bins(v, kept(x, tag, run, k, at, v), inv, ALLOC_BINS, t->bin);
        }
}

static void code_tile(enum alloc_kind kind, int bits, float scale, const float *v, size_t n,
                      uint8_t *to)
{
    float inv = scale > 0 ? 1 / scale : 0;
    if (kind == ALLOC_FP16)
        quant_f16_to_le(v, n, 1, to);
    else if (kind == ALLOC_SIGN)
        quant_sign_u8(v, n, to);
    else if (bits == 16)
        quant_i16_to_le(v, n, inv, to);
    else
        quant_nearest_u8(v, n, inv, alloc_q(bits), to);
}

// What is kept of a tile, then of that the values of each width, to where their codes go.
static void code_run(const float *x, const uint8_t *tag, const struct alloc_run *r,
                     const struct alloc_widths *widths, const float scale[ALLOC_LEVELS],
                     const int64_t counts[ALLOC_LEVELS], uint8_t *to[ALLOC_LEVELS])
{
    float kept_x[TILE + 64], v[TILE + 64];
    uint8_t kept_tag[TILE + 64];
    for (size_t at = 0; at < r->n; at += TILE) {
        size_t n = alloc_keep(x + at, tag + at, tile(r->n, at), kept_x, kept_tag);
        memset(kept_tag + n, ALLOC_LEVELS, 64); // none: whole vectors
        for (int k = 1; k < widths->count; k++) {
            if (counts[k] == 0)
                continue;
            size_t found = alloc_gather(kept_x, kept_tag, (n + 63) & ~(size_t)63, (uint8_t)k, v);
            code_tile(widths->kind[k], widths->bits[k], scale[k], v, found, to[k]);
            to[k] += found * alloc_code_bytes(widths->bits[k]);
        }
    }
}

static void code(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                 const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                 float (*scale)[ALLOC_LEVELS], int64_t (*counts)[ALLOC_LEVELS],
                 size_t (*start)[ALLOC_LEVELS], uint8_t *out)
{
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++) {
        uint8_t *to[ALLOC_LEVELS];
        for (int k = 0; k < widths->count; k++)
            to[k] = out + start[i][k];
        code_run(x + run->at, tag + run->place, run, widths, scale[run->group], counts[i], to);
    }
}

// Decoding.

// The values of width k in a tile, from their codes.
static void values_of(enum alloc_kind kind, int bits, float s, const uint8_t *codes, size_t n,
                      float *v)
{
    struct quant_sink set = {v, 1, false};
    if (kind == ALLOC_FP16) {
        quant_f16_from_le(codes, n, 1, set);
    } else if (bits == 1) {
        const float table[16] = {-s, s};
        quant_table_from_u8(codes, n, table, set);
    } else if (bits < 16) {
        quant_linear_from_u8(codes, n, alloc_q(bits), s, set);
    } else {
        quant_i16_from_le(codes, n, s, v);
    }
}

// Codes [at, at + n) of a width, n <= TILE, unpacked into buf where they are packed.
static const uint8_t *codes_of(const struct alloc_codes *c, int k, int bits, size_t at, size_t n,
                               uint8_t *buf)
{
    if (!c->packed[k])
        return c->from[k] + at * alloc_code_bytes(bits);
    size_t skip = at % 8; // packed codes begin with a byte every eight
    unpack_u8(c->from[k] + at / 8 * (unsigned)bits, skip + n, (unsigned)bits, buf);
    return buf + skip;
}

// Every tile: how many tags of each width, their codes, their values, to their places. All but the
// look at the tags costs as much as was kept.
static void give_run(const struct alloc_codes *codes, const uint8_t *tag, const struct alloc_run *r,
                     const struct alloc_widths *widths, const float scale[ALLOC_LEVELS],
                     const size_t start[ALLOC_LEVELS], struct quant_sink to)
{
    size_t next[ALLOC_LEVELS];
    float v[TILE + 16];
    uint8_t buf[TILE + 8];
    for (int k = 1; k < widths->count; k++)
        next[k] = (start[k] - codes->first[k]) / alloc_code_bytes(widths->bits[k]);
    for (size_t at = 0; at < r->n; at += TILE) {
        size_t m = tile(r->n, at);
        struct quant_sink here = quant_sink_at(to, r->at + at);
        int64_t of_tile[ALLOC_LEVELS] = {0};
        if (!to.add)
            memset(here.to, 0, m * sizeof *here.to);
        alloc_count(tag + at, m, widths->count, of_tile);
        for (int k = 1; k < widths->count; k++) {
            size_t n = (size_t)of_tile[k];
            if (n == 0)
                continue;
            const uint8_t *from = codes_of(codes, k, widths->bits[k], next[k], n, buf);
            values_of(widths->kind[k], widths->bits[k], scale[k], from, n, v);
            next[k] += n;
            alloc_scatter(v, tag + at, m, (uint8_t)k, here);
        }
    }
}

static void give(const struct kernel_ctx *cx, const struct alloc_codes *codes, const uint8_t *tag,
                 const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                 float (*scale)[ALLOC_LEVELS], size_t (*start)[ALLOC_LEVELS], struct quant_sink to)
{
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++)
        give_run(codes, tag + run->place, run, widths, scale[run->group], start[i], to);
}

const struct alloc_stages alloc_stages_cpu = {
    .look = look,
    .score = score,
    .draw = draw,
    .top = top,
    .within = within,
    .tags = tags,
    .choose = choose,
    .count = count,
    .spans = spans,
    .bins = bins,
    .code = code,
    .give = give,
};
