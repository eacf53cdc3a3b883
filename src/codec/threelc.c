// 3LC: round to -1, 0 or 1 times a multiple of the largest value, five of them a byte, runs of zero
// bytes in one. Rounding is to the nearest: without error feedback most of an update is lost.
#include "codec/quantiser.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

struct threelc_opt {
    struct q_common common;
    double sparsity;
};

static const struct opt threelc_options[] = {
    OPT(struct threelc_opt, sparsity, "sparsity", "1", 1, 1.999, "",
        "s: values below s/2 of the largest become 0"),
    Q_OPT_BLOCK("0"),
    Q_OPT_CODER("runs"),
};

static unsigned threelc_kinds(const void *opt)
{
    (void)opt;
    return 3;
}

static void threelc_fit(const void *opt, const struct q_stats *s, float *scale)
{
    *scale = (float)((double)s->max * ((const struct threelc_opt *)opt)->sparsity);
}

static void threelc_encode(const void *opt, const float *scale, const float *x, const uint32_t *rnd,
                           size_t n, uint8_t *code)
{
    (void)opt, (void)rnd;
    quant_nearest_u8(x, n, *scale != 0 ? 1 / *scale : 0, 1, code);
}

static void threelc_levels(const void *opt, const float *scale, struct q_levels *l)
{
    (void)opt;
    l->linear = true;
    l->zero = 1;
    l->step = *scale;
}

static const struct quantiser threelc_quantiser = {
    .scales = 1,
    .kinds = threelc_kinds,
    .fit = threelc_fit,
    .encode = threelc_encode,
    .levels = threelc_levels,
};

const struct codec codec_threelc = {
    .name = "threelc",
    .help = "ternary by the largest value, five values a byte, runs of zero bytes; wants +ef",
    .source = "Lim et al. 2019 (3LC)",
    .options = threelc_options,
    .n_options = ARRAY_LEN(threelc_options),
    .option_bytes = sizeof(struct threelc_opt),
    .flags = CODEC_SELF_CHECK,
    QUANTISER_ROW(threelc_quantiser),
};
