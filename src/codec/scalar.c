// Dense scalar quantisers: one code per coordinate, one or two scales per group.
#include "codec/quantiser.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

#include <math.h>

// int: largest magnitude to the largest code, round to nearest.

struct int_opt {
    struct q_common common;
    int32_t bits;
};

static const struct opt int_options[] = {
    OPT(struct int_opt, bits, "bits", "8", 2, 8, "bits", "bits of a value; q = 2^(bits-1) - 1"),
    Q_OPT_BLOCK("256"),
    Q_OPT_GROUP("tensor", "what shares a scale"),
    Q_OPT_SCALE("fp32"),
    Q_OPT_CODER("fixed"),
};

static int int_q(const void *opt)
{
    return (1 << (((const struct int_opt *)opt)->bits - 1)) - 1;
}

static void int_rule(const void *opt, struct quant_rule *r)
{
    r->kind = QUANT_NEAREST;
    r->q = int_q(opt);
}

static void int_fit(const void *opt, const struct q_stats *s, float *scale)
{
    *scale = s->max / (float)int_q(opt);
}

static const struct quantiser int_quantiser = {
    .scales = 1,
    .rule = int_rule,
    .fit = int_fit,
};

const struct codec codec_int = {
    .name = "int",
    .help = "integers scaled by the largest value of a block, round to nearest",
    .source = "block-wise absmax, e.g. Dettmers et al. 2022",
    .options = int_options,
    .n_options = ARRAY_LEN(int_options),
    .option_bytes = sizeof(struct int_opt),
    .flags = CODEC_SELF_CHECK,
    QUANTISER_ROW(int_quantiser, quantiser_check),
};

// nf4: quantiles of a normal distribution.

struct nf4_opt {
    struct q_common common;
};

static const struct opt nf4_options[] = {
    Q_OPT_BLOCK("64"),
    Q_OPT_SCALE("fp32"),
    Q_OPT_CODER("fixed"),
};

// Quantiles of N(0, 1) at equal steps of probability, eight above zero and seven below, scaled to
// [-1, 1].
static const float nf4_table[16] = {
    -1.0f,     -0.696193f, -0.525073f, -0.394917f, -0.284441f, -0.184773f, -0.091050f, 0.0f,
    0.079580f, 0.160930f,  0.246112f,  0.337915f,  0.440710f,  0.562617f,  0.722957f,  1.0f};

static void nf4_rule(const void *opt, struct quant_rule *r)
{
    (void)opt;
    r->kind = QUANT_BOUNDS;
    r->kinds = 16;
    for (int i = 0; i < 16; i++)
        r->level[i] = nf4_table[i];
    for (int i = 0; i < 15; i++)
        r->bound[i] = (nf4_table[i] + nf4_table[i + 1]) * 0.5f;
}

static void nf4_fit(const void *opt, const struct q_stats *s, float *scale)
{
    (void)opt;
    *scale = s->max;
}

static const struct quantiser nf4_quantiser = {
    .scales = 1,
    .rule = nf4_rule,
    .fit = nf4_fit,
};

const struct codec codec_nf4 = {
    .name = "nf4",
    .help = "4-bit normal-float blocks; scale=log8 codes the scales in 8 bits once more",
    .source = "Dettmers et al. 2023 (QLoRA)",
    .options = nf4_options,
    .n_options = ARRAY_LEN(nf4_options),
    .option_bytes = sizeof(struct nf4_opt),
    .flags = CODEC_SELF_CHECK,
    QUANTISER_ROW(nf4_quantiser, quantiser_check),
};

// QSGD. l = floor(s |v| / norm + u); v_hat = sign(v) norm l / s. What is sent as the scale is norm
// / s.

enum { QSGD_L2, QSGD_MAX };
static const char *const qsgd_norms[] = {"l2", "max", NULL};

struct qsgd_opt {
    struct q_common common;
    int32_t bits, levels, norm;
};

static const struct opt qsgd_options[] = {
    OPT(struct qsgd_opt, bits, "bits", "4", 2, 8, "bits", "bits of a code; s = 2^(bits-1) - 1"),
    OPT(struct qsgd_opt, levels, "levels", "0", 0, 127, "", "s itself; 0 = from bits"),
    OPT(struct q_common, block, "bucket", "512", 0, 1 << 20, "values",
        "values that share a norm; 0 = a tensor"),
    OPT_ENUM(struct qsgd_opt, norm, "norm", "l2", qsgd_norms, "what levels are fractions of"),
    Q_OPT_CODER("fixed"),
};

static int qsgd_s(const void *opt)
{
    const struct qsgd_opt *o = opt;
    return o->levels ? o->levels : (1 << (o->bits - 1)) - 1;
}

static void qsgd_rule(const void *opt, struct quant_rule *r)
{
    r->kind = QUANT_STOCHASTIC;
    r->q = qsgd_s(opt);
}

static void qsgd_fit(const void *opt, const struct q_stats *s, float *scale)
{
    const struct qsgd_opt *o = opt;
    float norm = o->norm == QSGD_MAX ? s->max : (float)sqrt(s->sq);
    *scale = norm / (float)qsgd_s(opt);
}

// E ||v_hat - v||^2 <= min(d / s^2, sqrt(d) / s) ||v||^2 under the L2 norm, and nearly reached.
static unsigned qsgd_flags(const struct codec_inst *c)
{
    const struct qsgd_opt *o = c->opt;
    double d = o->common.block, s = qsgd_s(o);
    for (uint32_t t = 0; t < c->shape->n_tensors && o->common.block == 0; t++) {
        double n = (double)c->shape->tensors[t].rows * c->shape->tensors[t].cols;
        d = n > d ? n : d;
    }
    bool diverges = o->norm == QSGD_L2 && d >= s * s && sqrt(d) >= s;
    return c->row->flags | (diverges ? CODEC_NO_EF : 0u);
}

static const struct quantiser qsgd_quantiser = {
    .scales = 1,
    .stats = STAT_SQ,
    .rule = qsgd_rule,
    .fit = qsgd_fit,
};

const struct codec codec_qsgd = {
    .name = "qsgd",
    .help =
        "stochastic levels of a bucket's norm; sparse codes with code=gamma, delta, omega or rans",
    .source = "Alistarh et al. 2017",
    .options = qsgd_options,
    .n_options = ARRAY_LEN(qsgd_options),
    .option_bytes = sizeof(struct qsgd_opt),
    .flags = CODEC_SELF_CHECK | CODEC_UNBIASED | CODEC_RANDOM,
    .flags_of = qsgd_flags,
    QUANTISER_ROW(qsgd_quantiser, quantiser_check),
};

// TernGrad. Clip at c standard deviations, s = the largest magnitude left, P(+-s) = |v| / s.

struct terngrad_opt {
    struct q_common common;
    double clip;
};

static const struct opt terngrad_options[] = {
    OPT(struct terngrad_opt, clip, "clip", "2.5", 0, 100, "sigma", "standard deviations; 0 = none"),
    Q_OPT_BLOCK("0"),
    Q_OPT_CODER("fixed"),
};

static void terngrad_rule(const void *opt, struct quant_rule *r)
{
    (void)opt;
    r->kind = QUANT_STOCHASTIC;
    r->q = 1;
}

static void terngrad_fit(const void *opt, const struct q_stats *s, float *scale)
{
    double clip = ((const struct terngrad_opt *)opt)->clip, n = (double)s->n;
    double mean = s->sum / n, var = s->sq / n - mean * mean;
    *scale = s->max;
    if (clip > 0 && var > 0 && clip * sqrt(var) < (double)s->max)
        *scale = (float)(clip * sqrt(var));
}

static unsigned terngrad_flags(const struct codec_inst *c)
{
    bool clips = ((const struct terngrad_opt *)c->opt)->clip > 0;
    return c->row->flags | (clips ? 0u : CODEC_UNBIASED);
}

static const struct quantiser terngrad_quantiser = {
    .scales = 1,
    .stats = STAT_SUM | STAT_SQ,
    .rule = terngrad_rule,
    .fit = terngrad_fit,
};

const struct codec codec_terngrad = {
    .name = "terngrad",
    .help = "-s, 0 or s at random; 2 bits, base 3 (code=base3) or rANS",
    .source = "Wen et al. 2017",
    .options = terngrad_options,
    .n_options = ARRAY_LEN(terngrad_options),
    .option_bytes = sizeof(struct terngrad_opt),
    .flags = CODEC_SELF_CHECK | CODEC_RANDOM | CODEC_NO_EF,
    .flags_of = terngrad_flags,
    QUANTISER_ROW(terngrad_quantiser, quantiser_check),
};

// sign. One bit and the mean magnitude: EF-signSGD's compressor per tensor, "sgn2" per class of A
// and B.

struct sign_opt {
    struct q_common common;
};

static const struct opt sign_options[] = {
    Q_OPT_GROUP("tensor", "what shares a scale"),
    Q_OPT_BLOCK("0"),
    Q_OPT_SCALE("fp32"),
};

static void sign_fit(const void *opt, const struct q_stats *s, float *scale)
{
    (void)opt;
    *scale = (float)(s->abs / (double)s->n);
}

static void sign_rule(const void *opt, struct quant_rule *r)
{
    (void)opt;
    r->kind = QUANT_SIGN;
}

static const struct quantiser sign_quantiser = {
    .scales = 1,
    .stats = STAT_ABS | STAT_NO_MAX,
    .rule = sign_rule,
    .fit = sign_fit,
};

const struct codec codec_sign = {
    .name = "sign",
    .help = "one bit per value, scaled by the mean magnitude of its tensor or class",
    .source = "Karimireddy et al. 2019 (EF-signSGD, with +ef)",
    .options = sign_options,
    .n_options = ARRAY_LEN(sign_options),
    .option_bytes = sizeof(struct sign_opt),
    .flags = CODEC_SELF_CHECK,
    QUANTISER_ROW(sign_quantiser, quantiser_check),
};

// 1-bit SGD. Two means per column, of the values >= 0 and of those below. A column is a rank
// component: a row of A, a column of B (rows of B have only r values, two scales would double
// them).

struct onebit_opt {
    struct q_common common;
};

static const struct opt onebit_options[] = {
    Q_OPT_GROUP("rank", "what shares its two means"),
    Q_OPT_SCALE("fp32"),
};

static void onebit_fit(const void *opt, const struct q_stats *s, float *scale)
{
    (void)opt;
    size_t below = s->n - s->nonneg;
    scale[0] = below ? (float)((s->sum - s->abs) / 2 / (double)below) : 0;
    scale[1] = s->nonneg ? (float)((s->sum + s->abs) / 2 / (double)s->nonneg) : 0;
}

static const struct quantiser onebit_quantiser = {
    .scales = 2,
    .stats = STAT_SUM | STAT_ABS | STAT_NONNEG | STAT_NO_MAX,
    .rule = sign_rule,
    .fit = onebit_fit,
};

static int onebit_check(const struct codec_inst *c, struct err *err)
{
    if (((const struct onebit_opt *)c->opt)->common.scale == Q_LOG8)
        return err_set(err, "scale=log8 is for scales above zero; give fp32 or bf16");
    return quantiser_check(c, err);
}

const struct codec codec_onebit = {
    .name = "onebit",
    .help = "one bit per value, two means per column (rank component)",
    .source = "Seide et al. 2014",
    .options = onebit_options,
    .n_options = ARRAY_LEN(onebit_options),
    .option_bytes = sizeof(struct onebit_opt),
    .flags = CODEC_SELF_CHECK,
    QUANTISER_ROW(onebit_quantiser, onebit_check),
};

// FedBAT, post-training. alpha = mean |m| within bounds; P(+alpha) = clip((m / alpha + 1) / 2),
// unbiased where |m| <= alpha.

struct fedbat_opt {
    struct q_common common;
    double alpha_min, alpha_max;
};

static const struct opt fedbat_options[] = {
    OPT(struct fedbat_opt, alpha_min, "alpha_min", "0", 0, 1, "", "least alpha; 5e-4 in the paper"),
    OPT(struct fedbat_opt, alpha_max, "alpha_max", "1", 0, 1e6, "", "most; 5e-2 in the paper"),
    Q_OPT_SCALE("fp32"),
};

static void fedbat_fit(const void *opt, const struct q_stats *s, float *scale)
{
    const struct fedbat_opt *o = opt;
    double alpha = s->abs / (double)s->n;
    if (s->max > 0 && alpha < o->alpha_min)
        alpha = o->alpha_min;
    *scale = (float)(alpha > o->alpha_max ? o->alpha_max : alpha);
}

static void fedbat_rule(const void *opt, struct quant_rule *r)
{
    (void)opt;
    r->kind = QUANT_COIN;
}

static const struct quantiser fedbat_quantiser = {
    .scales = 1,
    .stats = STAT_ABS,
    .rule = fedbat_rule,
    .fit = fedbat_fit,
};

static int fedbat_check(const struct codec_inst *c, struct err *err)
{
    const struct fedbat_opt *o = c->opt;
    if (o->alpha_min > o->alpha_max)
        return err_set(err, "alpha_min=%g is above alpha_max=%g", o->alpha_min, o->alpha_max);
    return quantiser_check(c, err);
}

const struct codec codec_fedbat = {
    .name = "fedbat",
    .help = "stochastic sign times alpha, after training (the wire of FedBAT)",
    .source = "Li et al. 2024",
    .options = fedbat_options,
    .n_options = ARRAY_LEN(fedbat_options),
    .option_bytes = sizeof(struct fedbat_opt),
    .flags = CODEC_SELF_CHECK | CODEC_RANDOM,
    QUANTISER_ROW(fedbat_quantiser, fedbat_check),
};

// uniform: a fixed step, the rate adapts. step is in units of the group's root mean square, so that
// one setting fits every tensor; a group whose largest value lies beyond code 126 gets a coarser
// step.

enum { UNIFORM_NEAREST, UNIFORM_STOCHASTIC, UNIFORM_DITHER };
static const char *const uniform_roundings[] = {"nearest", "stochastic", "dither", NULL};
enum { UNIFORM_MIDDLE, UNIFORM_CENTRE };
static const char *const uniform_values[] = {"middle", "centre", NULL};

struct uniform_opt {
    struct q_common common;
    double step, dead;
    int32_t rounding, value;
};

static const struct opt uniform_options[] = {
    OPT(struct uniform_opt, step, "step", "1", 1e-3, 1e3, "rms", "width of a step"),
    OPT_ENUM(struct uniform_opt, rounding, "round", "nearest", uniform_roundings,
             "dither: subtractive, the receiver draws the same numbers"),
    OPT(struct uniform_opt, dead, "dead", "0", 0, 0.49, "steps",
        "by how much a value must lie beyond the middle between two to become the larger"),
    OPT_ENUM(struct uniform_opt, value, "value", "middle", uniform_values,
             "what a code means; centre: the mean of a group's values that have it, sent for "
             "magnitudes 1 and 2 and up"),
    Q_OPT_GROUP("tensor", "what shares a step"),
    Q_OPT_BLOCK("0"),
    Q_OPT_SCALE("fp32"),
    Q_OPT_CODER("rans"),
};

#define UNIFORM_ZERO 127

static void uniform_rule(const void *opt, struct quant_rule *r)
{
    static const enum quant_kind kinds[] = {[UNIFORM_NEAREST] = QUANT_NEAREST,
                                            [UNIFORM_STOCHASTIC] = QUANT_STOCHASTIC,
                                            [UNIFORM_DITHER] = QUANT_DITHER};
    const struct uniform_opt *o = opt;
    bool dead = o->dead > 0 || o->value == UNIFORM_CENTRE;
    r->kind = dead ? QUANT_DEADZONE : kinds[o->rounding];
    r->q = UNIFORM_ZERO;
    r->round = 0.5f - (float)o->dead;
}

static bool uniform_centred(const void *opt)
{
    return ((const struct uniform_opt *)opt)->value == UNIFORM_CENTRE;
}

static void uniform_fit(const void *opt, const struct q_stats *s, float *scale)
{
    double step = ((const struct uniform_opt *)opt)->step * sqrt(s->sq / (double)s->n);
    double least = (double)s->max / (UNIFORM_ZERO - 1);
    *scale = (float)(step > least ? step : least);
}

// Error: up to step^2 / 4 when rounding at random, step^2 / 12 when dithering.
static unsigned uniform_flags(const struct codec_inst *c)
{
    const struct uniform_opt *o = c->opt;
    unsigned flags = c->row->flags;
    if (o->rounding != UNIFORM_NEAREST)
        flags |= CODEC_UNBIASED | CODEC_RANDOM;
    if (o->rounding == UNIFORM_STOCHASTIC && o->step >= 2)
        flags |= CODEC_NO_EF;
    if (o->rounding == UNIFORM_DITHER && o->step >= 3.4)
        flags |= CODEC_NO_EF;
    return flags;
}

static int uniform_check(const struct codec_inst *c, struct err *err)
{
    const struct uniform_opt *o = c->opt;
    if (o->rounding != UNIFORM_NEAREST && (o->dead > 0 || o->value == UNIFORM_CENTRE))
        return err_set(err, "dead and value=centre go with round=nearest only, not with round=%s",
                       uniform_roundings[o->rounding]);
    return quantiser_check(c, err);
}

static const struct quantiser uniform_quantiser = {
    .scales = 1,
    .stats = STAT_SQ,
    .centred = uniform_centred,
    .rule = uniform_rule,
    .fit = uniform_fit,
};

const struct codec codec_uniform = {
    .name = "uniform",
    .help =
        "a fixed step and entropy coding; nearest, stochastic or dithered rounding, a dead zone",
    .source = "Mitchell et al. 2022 (rate-distortion view)",
    .options = uniform_options,
    .n_options = ARRAY_LEN(uniform_options),
    .option_bytes = sizeof(struct uniform_opt),
    .flags = CODEC_SELF_CHECK,
    .flags_of = uniform_flags,
    QUANTISER_ROW(uniform_quantiser, uniform_check),
};
