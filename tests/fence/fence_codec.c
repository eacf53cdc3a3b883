// The codecs' stages of the row `fence`: the CPU's, on memory that can be touched for as long as
// the call takes, after a look at whose each pointer is. Subnormal numbers are kept, as the codecs'
// bytes need it.
#include "fence.h"

#include "codec/bits.h"
#include "kernels/stages.h"

static void enter(const struct kernel_ctx *cx)
{
    fence_enter(cx->stream);
}

// Dense scalar quantisers.

static void fit(const struct kernel_ctx *cx, const float *x, const struct quant_run *run,
                size_t runs, unsigned wanted, struct quant_stats *stats, uint8_t *signs)
{
    fence_check("fit", x);
    fence_check_host("fit", stats);
    fence_check_host("fit", signs);
    enter(cx);
    quant_stages_cpu.fit(NULL, x, run, runs, wanted, stats, signs);
    fence_leave();
}

static void code(const struct kernel_ctx *cx, const float *x, const struct quant_run *run,
                 size_t runs, const struct quant_rule *rule, const float *scale, uint8_t *out)
{
    fence_check("code", x);
    fence_check_host("code", scale);
    fence_check_host("code", out);
    enter(cx);
    quant_stages_cpu.code(NULL, x, run, runs, rule, scale, out);
    fence_leave();
}

static void give(const struct kernel_ctx *cx, const uint8_t *in, const struct quant_run *run,
                 size_t runs, const struct quant_rule *rule, const float *scale,
                 struct quant_sink to, bool stream)
{
    fence_check_host("give", in);
    fence_check_host("give", scale);
    fence_check("give", to.to);
    enter(cx);
    quant_stages_cpu.give(NULL, in, run, runs, rule, scale, to, stream);
    fence_leave();
}

static void centre(const struct kernel_ctx *cx, const float *x, const uint8_t *codes,
                   const struct quant_run *run, size_t runs, int q, struct quant_centres *centres)
{
    fence_check("centre", x);
    fence_check_host("centre", codes);
    fence_check_host("centre", centres);
    enter(cx);
    quant_stages_cpu.centre(NULL, x, codes, run, runs, q, centres);
    fence_leave();
}

static void turn(const struct kernel_ctx *cx, const float *x, const struct quant_matrix *m,
                 size_t matrices, float *y)
{
    fence_check("turn", x);
    fence_check("turn", y);
    enter(cx);
    quant_stages_cpu.turn(NULL, x, m, matrices, y);
    fence_leave();
}

static void turn_back(const struct kernel_ctx *cx, const float *y, const struct quant_matrix *m,
                      size_t matrices, struct quant_sink to)
{
    fence_check("turn_back", y);
    fence_check("turn_back", to.to);
    enter(cx);
    quant_stages_cpu.turn_back(NULL, y, m, matrices, to);
    fence_leave();
}

static const struct quant_stages quant = {fit, code, give, centre, turn, turn_back};

// Bit allocation.

static void check_vectors(const struct alloc_vectors *v)
{
    fence_check("x", v->x);
    fence_check("sens", v->sens);
    fence_check("grad", v->grad);
}

static void look(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                 const struct alloc_rule *rule, const struct alloc_run *run, size_t runs,
                 bool squares, struct alloc_facts *facts)
{
    check_vectors(v);
    fence_check_host("look", facts);
    enter(cx);
    alloc_stages_cpu.look(NULL, v, rule, run, runs, squares, facts);
    fence_leave();
}

static void score(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                  const struct alloc_rule *rule, const struct alloc_run *run, size_t runs, float *u)
{
    check_vectors(v);
    fence_check("score", u);
    enter(cx);
    alloc_stages_cpu.score(NULL, v, rule, run, runs, u);
    fence_leave();
}

static void draw(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                 const struct alloc_rule *rule, const struct alloc_run *run,
                 const struct alloc_draw *some, size_t runs, float *x, float *w)
{
    check_vectors(v);
    fence_check_host("draw", x);
    fence_check_host("draw", w);
    enter(cx);
    alloc_stages_cpu.draw(NULL, v, rule, run, some, runs, x, w);
    fence_leave();
}

static void top(const struct kernel_ctx *cx, const float *u, size_t n, size_t k,
                uint32_t count[SELECT_BINS])
{
    fence_check("top", u);
    fence_check_host("top", count);
    enter(cx);
    alloc_stages_cpu.top(NULL, u, n, k, count);
    fence_leave();
}

static void within(const struct kernel_ctx *cx, const float *u, size_t n, int level,
                   const uint32_t *prefix, int prefixes, uint32_t count[][SELECT_BINS])
{
    fence_check("within", u);
    fence_check_host("within", count);
    enter(cx);
    alloc_stages_cpu.within(NULL, u, n, level, prefix, prefixes, count);
    fence_leave();
}

static void tags(const struct kernel_ctx *cx, const float *u, const struct alloc_run *run,
                 size_t runs, const uint32_t *threshold, int thresholds, size_t *ties, uint8_t *tag)
{
    fence_check("tags", u);
    fence_check("tags", tag);
    enter(cx);
    alloc_stages_cpu.tags(NULL, u, run, runs, threshold, thresholds, ties, tag);
    fence_leave();
}

static void choose(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                   const struct alloc_rule *rule, const struct alloc_run *run, size_t runs,
                   const struct alloc_levels *levels, size_t from, size_t to, uint8_t *tag,
                   int64_t (*counts)[ALLOC_LEVELS])
{
    check_vectors(v);
    fence_check("choose", tag);
    fence_check_host("choose", counts);
    enter(cx);
    alloc_stages_cpu.choose(NULL, v, rule, run, runs, levels, from, to, tag, counts);
    fence_leave();
}

static void count(const struct kernel_ctx *cx, const uint8_t *tag, const struct alloc_run *run,
                  size_t runs, int levels, int64_t (*counts)[ALLOC_LEVELS])
{
    fence_check("count", tag);
    fence_check_host("count", counts);
    enter(cx);
    alloc_stages_cpu.count(NULL, tag, run, runs, levels, counts);
    fence_leave();
}

static void spans(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                  const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                  struct alloc_tier (*tier)[ALLOC_LEVELS])
{
    fence_check("spans", x);
    fence_check("spans", tag);
    fence_check_host("spans", tier);
    enter(cx);
    alloc_stages_cpu.spans(NULL, x, tag, run, runs, widths, tier);
    fence_leave();
}

static void bins(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                 const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                 struct alloc_tier (*tier)[ALLOC_LEVELS])
{
    fence_check("bins", x);
    fence_check("bins", tag);
    fence_check_host("bins", tier);
    enter(cx);
    alloc_stages_cpu.bins(NULL, x, tag, run, runs, widths, tier);
    fence_leave();
}

static void code_widths(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                        const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                        float (*scale)[ALLOC_LEVELS], int64_t (*counts)[ALLOC_LEVELS],
                        size_t (*start)[ALLOC_LEVELS], uint8_t *out)
{
    fence_check("code", x);
    fence_check("code", tag);
    fence_check("code", out);
    enter(cx);
    alloc_stages_cpu.code(NULL, x, tag, run, runs, widths, scale, counts, start, out);
    fence_leave();
}

static void give_widths(const struct kernel_ctx *cx, const struct alloc_codes *codes,
                        const uint8_t *tag, const struct alloc_run *run, size_t runs,
                        const struct alloc_widths *widths, float (*scale)[ALLOC_LEVELS],
                        size_t (*start)[ALLOC_LEVELS], struct quant_sink to)
{
    for (int k = 1; k < widths->count; k++)
        fence_check_host("give", codes->from[k]);
    fence_check_host("give", tag);
    fence_check("give", to.to);
    enter(cx);
    alloc_stages_cpu.give(NULL, codes, tag, run, runs, widths, scale, start, to);
    fence_leave();
}

static const struct alloc_stages alloc = {look,   score, draw,  top,  within,      tags,
                                          choose, count, spans, bins, code_widths, give_widths};

// Entropy coding: one value after another.

static void count_codes(const struct kernel_ctx *cx, const uint8_t *c, size_t n, uint64_t sum[256])
{
    fence_check("count", c);
    fence_check_host("count", sum);
    enter(cx);
    for (size_t i = 0; i < n; i++)
        sum[c[i]]++;
    fence_leave();
}

static void rans(const struct kernel_ctx *cx, const struct rans_encoder *e, const uint8_t *c,
                 size_t n, size_t chunk, uint8_t *streams, size_t room, size_t *len)
{
    fence_check("rans", c);
    fence_check_host("rans", streams);
    enter(cx);
    for (size_t k = 0; k * chunk < n; k++) {
        size_t m = n - k * chunk < chunk ? n - k * chunk : chunk;
        len[k] = rans_encode(e, c + k * chunk, m, streams + (k + 1) * room - rans_bound(m));
    }
    fence_leave();
}

static void pack(const struct kernel_ctx *cx, const uint8_t *c, size_t n, unsigned width,
                 uint8_t *out)
{
    fence_check("pack", c);
    fence_check_host("pack", out);
    enter(cx);
    pack_u8(c, n, width, out);
    fence_leave();
}

static void bitmap(const struct kernel_ctx *cx, const uint8_t *tag, size_t n, uint8_t *out)
{
    fence_check("bitmap", tag);
    fence_check_host("bitmap", out);
    enter(cx);
    alloc_bitmap(tag, n, out);
    fence_leave();
}

static void kept(const struct kernel_ctx *cx, const uint8_t *tag, size_t n, unsigned width,
                 uint8_t *out)
{
    struct bits_out b;
    size_t some = 0;
    fence_check("kept", tag);
    fence_check_host("kept", out);
    enter(cx);
    for (size_t i = 0; i < n; i++)
        some += tag[i] > 0;
    bits_out_init(&b, out, pack_bytes(some, width));
    for (size_t i = 0; i < n; i++)
        if (tag[i])
            bits_put(&b, tag[i] - 1u, width);
    bits_out_end(&b);
    fence_leave();
}

static uint64_t rice(const struct kernel_ctx *cx, const uint8_t *tag, size_t n, unsigned k,
                     uint8_t *out)
{
    struct bits_out b;
    uint64_t bits = 0;
    fence_check("rice", tag);
    fence_check_host("rice", out);
    enter(cx);
    for (size_t i = 0, next = 0; i < n; i++)
        if (tag[i]) {
            bits += ((i - next) >> k) + 1 + k;
            next = i + 1;
        }
    bits_out_init(&b, out, (size_t)((bits + 7) / 8));
    for (size_t i = 0, next = 0; i < n && out; i++)
        if (tag[i]) {
            rice_put(&b, i - next, k);
            next = i + 1;
        }
    if (out)
        bits_out_end(&b);
    fence_leave();
    return bits;
}

static const struct entropy_stages entropy = {count_codes, rans, pack, bitmap, kept, rice};

// Rotated quantisers.

static void code_slices(const struct kernel_ctx *cx, const float *x,
                        const struct rotate_slice *slice, size_t slices, struct rotate_facts *facts,
                        uint8_t *out)
{
    fence_check("code", x);
    fence_check_host("code", facts);
    fence_check_host("code", out);
    enter(cx);
    rotate_stages_cpu.code(NULL, x, slice, slices, facts, out);
    fence_leave();
}

static void give_slices(const struct kernel_ctx *cx, const uint8_t *in,
                        const struct rotate_slice *slice, size_t slices, const float *scale,
                        struct quant_sink to)
{
    fence_check_host("give", in);
    fence_check_host("give", scale);
    fence_check("give", to.to);
    enter(cx);
    rotate_stages_cpu.give(NULL, in, slice, slices, scale, to);
    fence_leave();
}

static const struct rotate_stages rotate = {code_slices, give_slices};

// Sparsifiers.

static void sample(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                   size_t runs, enum select_side side, const size_t *stride, size_t *seen,
                   uint32_t (*bin)[SELECT_BINS])
{
    fence_check("sample", x);
    fence_check_host("sample", bin);
    enter(cx);
    select_stages_cpu.sample(NULL, x, run, runs, side, stride, seen, bin);
    fence_leave();
}

static size_t collect(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                      size_t runs, const uint32_t *least, uint32_t *at, float *v, size_t room)
{
    fence_check("collect", x);
    fence_check_host("collect", at);
    fence_check_host("collect", v);
    enter(cx);
    size_t found = select_stages_cpu.collect(NULL, x, run, runs, least, at, v, room);
    fence_leave();
    return found;
}

static size_t count_sizes(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                          size_t runs, enum select_side side, int level, uint32_t prefix,
                          uint32_t bin[SELECT_BINS])
{
    fence_check("count", x);
    fence_check_host("count", bin);
    enter(cx);
    size_t have = select_stages_cpu.count(NULL, x, run, runs, side, level, prefix, bin);
    fence_leave();
    return have;
}

static size_t sum_sizes(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                        size_t runs, enum select_side side,
                        const struct select_threshold *threshold, double *sum)
{
    fence_check("sum", x);
    fence_check_host("sum", sum);
    enter(cx);
    size_t taken = select_stages_cpu.sum(NULL, x, run, runs, side, threshold, sum);
    fence_leave();
    return taken;
}

static size_t take(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                   size_t runs, struct select_choice *choice, uint32_t *at)
{
    fence_check("take", x);
    fence_check_host("take", at);
    enter(cx);
    size_t taken = select_stages_cpu.take(NULL, x, run, runs, choice, at);
    fence_leave();
    return taken;
}

static void gather(const struct kernel_ctx *cx, const float *x, const uint32_t *at, size_t n,
                   float *v)
{
    fence_check("gather", x);
    fence_check_host("gather", v);
    enter(cx);
    select_stages_cpu.gather(NULL, x, at, n, v);
    fence_leave();
}

static void clear(const struct kernel_ctx *cx, const uint32_t *at, size_t n, float *x)
{
    fence_check("clear", x);
    enter(cx);
    select_stages_cpu.clear(NULL, at, n, x);
    fence_leave();
}

static void momentum(const struct kernel_ctx *cx, const struct mix_momentum *m, const float *x,
                     const float *u0, const float *v0, size_t n, float *u, float *v)
{
    const float *const there[] = {x, u0, v0, u, v};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        fence_check("momentum", there[i]);
    enter(cx);
    select_stages_cpu.momentum(NULL, m, x, u0, v0, n, u, v);
    fence_leave();
}

static void give_some(const struct kernel_ctx *cx, const uint32_t *at, const float *v, size_t n,
                      size_t values, struct quant_sink to)
{
    fence_check_host("give", v);
    fence_check("give", to.to);
    enter(cx);
    select_stages_cpu.give(NULL, at, v, n, values, to);
    fence_leave();
}

static const struct select_stages select_some = {sample, collect, count_sizes, sum_sizes, take,
                                                 gather, clear,   momentum,    give_some};

static void sum(const struct kernel_ctx *cx, float a, const float *x, float b, const float *y,
                size_t n, float *out)
{
    fence_check("sum", x);
    fence_check("sum", y);
    fence_check("sum", out);
    enter(cx);
    mix_stages_cpu.sum(NULL, a, x, b, y, n, out);
    fence_leave();
}

static const struct mix_stages mix = {sum};

const struct codec_stages fence_codec = {
    .name = "fence",
    .whole = true,
    .quant = &quant,
    .alloc = &alloc,
    .entropy = &entropy,
    .rotate = &rotate,
    .select = &select_some,
    .mix = &mix,
};
