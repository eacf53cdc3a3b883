// The codecs' stages of the row `fence`: the CPU's, on memory that can be touched for as long as
// the call takes, after a look at whose each pointer is. Subnormal numbers are kept, as the codecs'
// bytes need it.
#include "fence.h"

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

static const struct quant_stages quant = {fit, code, give, turn, turn_back};

const struct codec_stages fence_codec = {
    .name = "fence",
    .whole = true,
    .quant = &quant,
};
