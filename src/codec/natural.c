// Natural compression and natural dithering: magnitudes rounded at random to a power of two below a
// norm, so that a code is a sign and an exponent. The levels are 0, 2^(1-s), ..., 1/2, 1 times the
// norm; with a power of two above the largest value as the norm and s = 127 they are the powers of
// two themselves, and s = 127 octaves below the largest are all that eight bits can say.
#include "base/half.h"
#include "codec/quantiser.h"
#include "codec/rows.h"

#include <math.h>

enum { NATURAL_POW2, NATURAL_MAX, NATURAL_L2 };
static const char *const natural_norms[] = {"pow2", "max", "l2", NULL};

struct natural_opt {
    struct q_common common;
    int32_t levels, norm;
};

static const struct opt natural_options[] = {
    OPT(struct natural_opt, levels, "levels", "127", 1, 127, "", "s, powers of two below the norm"),
    OPT_ENUM(struct natural_opt, norm, "norm", "pow2", natural_norms,
             "what levels are fractions of; pow2: the power of two at or above the largest value"),
    OPT(struct q_common, block, "bucket", "0", 0, 1 << 20, "values",
        "values that share a norm; 0 = a tensor"),
    Q_OPT_CODER("fixed"),
};

static int natural_s(const void *opt)
{
    return ((const struct natural_opt *)opt)->levels;
}

static void natural_fit(const void *opt, const struct q_stats *s, float *scale)
{
    int norm = ((const struct natural_opt *)opt)->norm;
    uint32_t mantissa = (1u << 23) - 1;
    *scale = norm == NATURAL_L2 ? (float)sqrt(s->sq) : s->max;
    if (norm == NATURAL_POW2 && s->max > 0)
        *scale = f32_from_bits((f32_bits(s->max) + mantissa) & ~mantissa);
}

static float exp2_of(int e) // 2^e, e in [-126, 127]
{
    return f32_from_bits((uint32_t)(e + 127) << 23);
}

static void natural_rule(const void *opt, struct quant_rule *r)
{
    int s = natural_s(opt);
    r->kind = QUANT_POWERS;
    r->q = s;
    r->level[s] = 0;
    for (int k = 1; k <= s; k++) {
        r->level[s + k] = exp2_of(k - s);
        r->level[s - k] = -exp2_of(k - s);
    }
}

// The rounding's variance is at most 1/8 of the square, and that of the least level min(d h^2,
// sqrt(d) h) under the L2 norm, h = 2^(1-s).
static unsigned natural_flags(const struct codec_inst *c)
{
    const struct natural_opt *o = c->opt;
    double d = o->common.block, h = (double)exp2_of(1 - natural_s(o));
    for (uint32_t t = 0; t < c->shape->n_tensors && o->common.block == 0; t++) {
        double n = (double)c->shape->tensors[t].rows * c->shape->tensors[t].cols;
        d = n > d ? n : d;
    }
    double least = d * h * h < sqrt(d) * h ? d * h * h : sqrt(d) * h;
    return c->row->flags | (least + 0.125 >= 1 ? CODEC_NO_EF : 0u);
}

static const struct quantiser natural_quantiser = {
    .scales = 1,
    .stats = STAT_SQ,
    .rule = natural_rule,
    .fit = natural_fit,
};

const struct codec codec_natural = {
    .name = "natural",
    .help = "random rounding to powers of two (C_nat); with bucket, levels and a norm, natural "
            "dithering",
    .source = "Horvath et al. 2019",
    .options = natural_options,
    .n_options = ARRAY_LEN(natural_options),
    .option_bytes = sizeof(struct natural_opt),
    .flags = CODEC_SELF_CHECK | CODEC_UNBIASED | CODEC_RANDOM,
    .flags_of = natural_flags,
    QUANTISER_ROW(natural_quantiser, quantiser_check),
};
