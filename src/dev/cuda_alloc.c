// Bit allocation's stages on a GPU: what the host has of runs goes there, and what comes of it
// back, by way of the lane's work memory. Each stage is a few launches over all runs, or over as
// many as there is room for.
#include "dev/cuda.h"

#include <string.h>

#define LEVELS ALLOC_LEVELS
#define TILE   1024

#define put_score  GPU(gpu_alloc_score)
#define put_draw   GPU(gpu_alloc_draw)
#define put_upper  GPU(gpu_select_upper)
#define put_within GPU(gpu_select_within)
#define put_cut    GPU(gpu_alloc_cut)
#define put_drop   GPU(gpu_alloc_drop)
#define put_choose GPU(gpu_alloc_choose)
#define put_spans  GPU(gpu_alloc_spans)
#define put_bins   GPU(gpu_alloc_bins)
#define put_code   GPU(gpu_alloc_code)
#define put_give   GPU(gpu_alloc_give)
#define put_fit    GPU(gpu_quant_fit)

#define FEW_BYTES 4096 // widths, places, and what is lost between arrays

static size_t longest(const struct alloc_run *run, size_t runs)
{
    size_t most = 0;
    for (size_t i = 0; i < runs; i++)
        most = run[i].n > most ? run[i].n : most;
    return most;
}

static size_t groups_of(const struct alloc_run *run, size_t runs)
{
    size_t most = 0;
    for (size_t i = 0; i < runs; i++)
        most = run[i].group >= most ? run[i].group + 1u : most;
    return most;
}

// Facts.

// Sums and extremes of a run of a vector.
static void fit(struct room r, const float *x, const struct alloc_run *run, unsigned wanted,
                struct quant_stats *to)
{
    const struct quant_run whole = {.n = run->n, .group = run->n};
    if (run->n == 0)
        return;
    struct gpu_quant_part *part = room_take(&r, gpu_quant_parts(&whole) * sizeof *part);
    put_fit(r.cx->stream, x + run->at, &whole, wanted, part, to, NULL);
}

static void look(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                 const struct alloc_rule *rule, const struct alloc_run *run, size_t runs,
                 bool squares, struct alloc_facts *facts)
{
    enum { MOST = 64 };
    struct quant_stats s[MOST][3];
    for (size_t from = 0; from < runs; from += MOST) {
        const size_t n = runs - from < MOST ? runs - from : MOST;
        struct room r = room_of(cx);
        memset(s, 0, sizeof s);
        struct quant_stats(*own)[3] = room_put(&r, s, n * sizeof *s);
        for (size_t i = 0; i < n; i++) {
            fit(r, v->x, run + from + i, squares ? QUANT_SQ : 0, &own[i][0]);
            if (alloc_needs_sens(rule))
                fit(r, v->sens, run + from + i, QUANT_SUM, &own[i][1]);
            if (alloc_needs_grad(rule))
                fit(r, v->grad, run + from + i, 0, &own[i][2]);
        }
        gpu_move(cx, s, own, n * sizeof *s, false);
        gpu_settle(cx);
        for (size_t i = 0; i < n; i++)
            facts[from + i] = (struct alloc_facts){.max_bits = s[i][0].max_bits,
                                                   .sq = s[i][0].sq,
                                                   .sens_bits = s[i][1].max_bits,
                                                   .sens = s[i][1].sum,
                                                   .grad_bits = s[i][2].max_bits};
    }
}

static void score(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                  const struct alloc_rule *rule, const struct alloc_run *run, size_t runs, float *u)
{
    struct room r = room_of(cx);
    if (runs)
        put_score(cx->stream, v, rule, room_put(&r, run, runs * sizeof *run), runs,
                  longest(run, runs), u);
    gpu_settle(cx);
}

// As many runs at a time as their samples have room for.
static void draw(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                 const struct alloc_rule *rule, const struct alloc_run *run,
                 const struct alloc_draw *some, size_t runs, float *x, float *w)
{
    for (size_t from = 0, to; from < runs; from = to) {
        struct room r = room_of(cx);
        size_t least = SIZE_MAX, end = 0, most = 0;
        for (to = from; to < runs; to++) { // the samples of neighbours lie together, in any order
            const struct alloc_draw *d = &some[to];
            size_t low = d->to < least ? d->to : least, high = d->to + d->n;
            high = high > end ? high : end;
            size_t size =
                2 * (high - low) * sizeof *x + (to + 1 - from) * (sizeof *run + sizeof *some) + 256;
            if (to > from && size > room_left(&r))
                break;
            least = low;
            end = high;
            most = d->n > most ? d->n : most;
        }
        const struct alloc_run *own = room_put(&r, run + from, (to - from) * sizeof *run);
        const struct alloc_draw *own_draw = room_put(&r, some + from, (to - from) * sizeof *some);
        float *own_x = room_take(&r, (end - least) * sizeof *x);
        float *own_w = room_take(&r, (end - least) * sizeof *w);
        put_draw(cx->stream, v, rule, own, own_draw, to - from, most, least, own_x, own_w);
        for (size_t i = from; i < to; i++) {
            size_t at = some[i].to - least, bytes = some[i].n * sizeof *x;
            gpu_move(cx, x + some[i].to, own_x + at, bytes, false);
            gpu_move(cx, w + some[i].to, own_w + at, bytes, false);
        }
        gpu_settle(cx);
    }
}

// Ranks.

static void top(const struct kernel_ctx *cx, const float *u, size_t n, size_t k,
                uint32_t count[SELECT_BINS])
{
    struct room r = room_of(cx);
    (void)k; // all are counted
    memset(count, 0, SELECT_BINS * sizeof *count);
    uint32_t *own = room_put(&r, count, SELECT_BINS * sizeof *count);
    if (n)
        put_upper(cx->stream, u, n, SELECT_ABS, own, NULL);
    gpu_move(cx, count, own, SELECT_BINS * sizeof *count, false);
    gpu_settle(cx);
}

static void within(const struct kernel_ctx *cx, const float *u, size_t n, int level,
                   const uint32_t *prefix, int prefixes, uint32_t count[][SELECT_BINS])
{
    struct room r = room_of(cx);
    struct gpu_alloc_cuts c = {.n = prefixes};
    const size_t size = (size_t)prefixes * sizeof *count;
    memcpy(c.bits, prefix, (size_t)prefixes * sizeof *prefix);
    memset(count, 0, size);
    uint32_t *own = room_put(&r, count, size);
    if (n)
        put_within(cx->stream, u, n, SELECT_ABS, level == 1 ? 10 : 0, room_put(&r, &c, sizeof c),
                   own);
    gpu_move(cx, count, own, size, false);
    gpu_settle(cx);
}

// How many ties of each tile keep the width; false where all do.
static bool share_ties(uint32_t (*tile)[LEVELS], size_t tiles, int cuts, size_t *ties)
{
    bool some = false;
    for (size_t i = 0; i < tiles; i++)
        for (int k = 0; k < cuts; k++) {
            uint32_t keep = ties[k] < tile[i][k] ? (uint32_t)ties[k] : tile[i][k];
            some |= keep < tile[i][k];
            tile[i][k] = keep;
            ties[k] -= keep;
        }
    return some;
}

static void tags(const struct kernel_ctx *cx, const float *u, const struct alloc_run *run,
                 size_t runs, const uint32_t *cut, int cuts, size_t *ties, uint8_t *tag)
{
    enum { MOST = 1024 };
    uint32_t tile[MOST][LEVELS];
    struct gpu_alloc_cuts c = {.n = cuts};
    memcpy(c.bits, cut, (size_t)cuts * sizeof *cut);
    for (size_t i = 0; i < runs; i++, run++)
        for (size_t at = 0; at < run->n; at += (size_t)MOST * TILE) {
            struct room r = room_of(cx);
            size_t n = run->n - at < (size_t)MOST * TILE ? run->n - at : (size_t)MOST * TILE;
            const size_t tiles = (n + TILE - 1) / TILE, size = tiles * sizeof *tile;
            memset(tile, 0, size);
            uint32_t *own = room_put(&r, tile, size);
            const struct gpu_alloc_cuts *own_c = room_put(&r, &c, sizeof c);
            put_cut(cx->stream, u + run->at + at, n, own_c, tag + run->place + at, own);
            gpu_move(cx, tile, own, size, false);
            gpu_settle(cx);
            if (!share_ties(tile, tiles, cuts, ties))
                continue;
            gpu_move(cx, own, tile, size, true);
            put_drop(cx->stream, u + run->at + at, n, own_c, own, tag + run->place + at);
            gpu_settle(cx);
        }
}

// Tags.

static void choose_or_count(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                            const struct alloc_rule *rule, const struct alloc_run *run, size_t runs,
                            const struct alloc_levels *levels, size_t from, size_t to, uint8_t *tag,
                            int64_t (*count)[LEVELS])
{
    struct room r = room_of(cx);
    if (runs == 0)
        return;
    const struct alloc_run *own = room_put(&r, run, runs * sizeof *run);
    int64_t *own_count = room_put(&r, count, runs * sizeof *count);
    const struct alloc_levels *own_levels =
        levels ? room_put(&r, levels, groups_of(run, runs) * sizeof *levels) : NULL;
    put_choose(cx->stream, v, rule, own, runs, longest(run, runs), own_levels, from, to, tag,
               own_count);
    gpu_move(cx, count, own_count, runs * sizeof *count, false);
    gpu_settle(cx);
}

static void choose(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                   const struct alloc_rule *rule, const struct alloc_run *run, size_t runs,
                   const struct alloc_levels *levels, size_t from, size_t to, uint8_t *tag,
                   int64_t (*count)[LEVELS])
{
    choose_or_count(cx, v, rule, run, runs, levels, from, to, tag, count);
}

static void count_tags(const struct kernel_ctx *cx, const uint8_t *tag, const struct alloc_run *run,
                       size_t runs, int levels, int64_t (*count)[LEVELS])
{
    const struct alloc_vectors none = {NULL, NULL, NULL};
    const struct alloc_rule any = {IMPORTANCE_MAGNITUDE, 0};
    (void)levels;
    choose_or_count(cx, &none, &any, run, runs, NULL, 0, SIZE_MAX, (uint8_t *)(uintptr_t)tag,
                    count);
}

// Values of one width.

static size_t tier_batch(const struct room *r, size_t runs)
{
    size_t most =
        (room_left(r) - FEW_BYTES) / (sizeof(struct alloc_tier[LEVELS]) + sizeof(struct alloc_run));
    return runs < most ? runs : most;
}

static void spans(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                  const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                  struct alloc_tier (*tier)[LEVELS])
{
    for (size_t n; runs; run += n, tier += n, runs -= n) {
        struct room r = room_of(cx);
        n = tier_batch(&r, runs);
        const struct alloc_run *own = room_put(&r, run, n * sizeof *run);
        struct alloc_tier *own_tier = room_put(&r, tier, n * sizeof *tier);
        put_spans(cx->stream, x, tag, own, n, widths->count, own_tier);
        gpu_move(cx, tier, own_tier, n * sizeof *tier, false);
        gpu_settle(cx);
    }
}

static void bins(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                 const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                 struct alloc_tier (*tier)[LEVELS])
{
    for (size_t n; runs; run += n, tier += n, runs -= n) {
        struct room r = room_of(cx);
        n = tier_batch(&r, runs);
        for (size_t i = 0; i < n; i++)
            for (int k = 1; k < widths->count; k++)
                memset(tier[i][k].bin, 0, sizeof tier[i][k].bin);
        const struct alloc_run *own = room_put(&r, run, n * sizeof *run);
        struct alloc_tier *own_tier = room_put(&r, tier, n * sizeof *tier);
        put_bins(cx->stream, x, tag, own, n, longest(run, n), room_put(&r, widths, sizeof *widths),
                 own_tier);
        gpu_move(cx, tier, own_tier, n * sizeof *tier, false);
        gpu_settle(cx);
    }
}

// Codes.

// A batch of runs, and where in the work memory their codes of each width lie.
struct batch {
    const struct alloc_run *run;
    const struct alloc_widths *widths;
    const float *scale;
    const size_t *start;
    struct gpu_alloc_places places;
    uint8_t *codes;
};

// What of a run takes room beside its codes: it and its starts.
#define RUN_BYTES (sizeof(struct alloc_run) + sizeof(size_t[LEVELS]))

static void put_batch(struct room *r, const struct alloc_run *run, size_t runs,
                      const struct alloc_widths *widths, float (*scale)[LEVELS],
                      size_t (*start)[LEVELS], struct batch *b)
{
    b->widths = room_put(r, widths, sizeof *widths);
    b->run = room_put(r, run, runs * sizeof *run);
    b->start = room_put(r, start, runs * sizeof *start);
    b->scale = room_put(r, scale, groups_of(run, runs) * sizeof *scale);
}

// Into the device's memory: as many runs at a time as there is room for.
static void code(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                 const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                 float (*scale)[LEVELS], int64_t (*count)[LEVELS], size_t (*start)[LEVELS],
                 uint8_t *out)
{
    (void)count;
    for (size_t n; runs; run += n, start += n, runs -= n) {
        struct room r = room_of(cx);
        struct batch b = {0};
        const size_t few = groups_of(run, runs) * sizeof *scale + FEW_BYTES;
        assert(few + RUN_BYTES <= room_left(&r));
        n = (room_left(&r) - few) / RUN_BYTES;
        n = n < runs ? n : runs;
        put_batch(&r, run, n, widths, scale, start, &b);
        put_code(cx->stream, x, tag, b.run, n, b.widths, b.scale, b.start, out);
        gpu_settle(cx);
    }
}

// Codes of width k, n of them from number `first` on, as they are in the message.
static void put_codes(struct room *r, const struct alloc_codes *c, int k, int bits, size_t first,
                      size_t n, struct batch *b)
{
    const size_t skip = c->packed[k] ? first % 8 : 0, begin = first - skip;
    const uint8_t *from = c->packed[k] ? c->from[k] + begin / 8 * (size_t)bits
                                       : c->from[k] + begin * alloc_code_bytes(bits);
    size_t bytes = c->packed[k] ? ((skip + n) * (size_t)bits + 7) / 8 : n * alloc_code_bytes(bits);
    uint8_t *to = room_take(r, bytes);
    if (n)
        gpu_move(r->cx, to, from, bytes, true);
    b->places.at[k] = (size_t)(to - b->codes);
    b->places.packed[k] = c->packed[k];
    b->places.skip[k] = skip;
}

static void give(const struct kernel_ctx *cx, const struct alloc_codes *codes, const uint8_t *tag,
                 const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                 float (*scale)[LEVELS], size_t (*start)[LEVELS], struct quant_sink to_all)
{
    for (size_t from = 0, to; from < runs; from = to) {
        struct room r = room_of(cx);
        struct batch b = {0};
        size_t size = groups_of(run, runs) * sizeof *scale + FEW_BYTES, values = 0;
        int64_t last[LEVELS] = {0};
        for (to = from; to < runs; to++) {
            size_t more = RUN_BYTES + 3 * run[to].n;
            assert(run[to].place == run[from].place + values); // run after run
            if (to > from && size + more > room_left(&r))
                break;
            size += more;
            values += run[to].n;
        }
        alloc_count(tag + run[to - 1].place, run[to - 1].n, widths->count, last);
        put_batch(&r, run + from, to - from, widths, scale, start + from, &b);
        const uint8_t *own_tag = room_put(&r, tag + run[from].place, values);
        b.codes = r.at;
        for (int k = 1; k < widths->count; k++) {
            const size_t each = alloc_code_bytes(widths->bits[k]);
            size_t n = (start[to - 1][k] - start[from][k]) / each + (size_t)last[k];
            b.places.first[k] = start[from][k];
            put_codes(&r, codes, k, widths->bits[k], (start[from][k] - codes->first[k]) / each, n,
                      &b);
        }
        put_give(cx->stream, b.codes, own_tag, run[from].place, b.run, to - from, b.widths, b.scale,
                 b.start, room_put(&r, &b.places, sizeof b.places), to_all);
        gpu_settle(cx);
    }
}

const struct alloc_stages gpu_alloc_row = {
    .look = look,
    .score = score,
    .draw = draw,
    .top = top,
    .within = within,
    .tags = tags,
    .choose = choose,
    .count = count_tags,
    .spans = spans,
    .bins = bins,
    .code = code,
    .give = give,
};
