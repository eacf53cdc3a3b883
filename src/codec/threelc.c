// 3LC: round to -1, 0 or 1 times a multiple of the largest value, five of them per byte, runs of
// zero bytes in one. Rounding is to the nearest: without error feedback most of an update is lost.
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

static void threelc_rule(const void *opt, struct quant_rule *r)
{
    (void)opt;
    r->kind = QUANT_NEAREST;
    r->q = 1;
}

static void threelc_fit(const void *opt, const struct q_stats *s, float *scale)
{
    *scale = (float)((double)s->max * ((const struct threelc_opt *)opt)->sparsity);
}

static const struct quantiser threelc_quantiser = {
    .scales = 1,
    .rule = threelc_rule,
    .fit = threelc_fit,
};

const struct codec codec_threelc = {
    .name = "threelc",
    .help = "ternary by the largest value, five values per byte, runs of zero bytes; wants +ef",
    .source = "Lim et al. 2019 (3LC)",
    .options = threelc_options,
    .n_options = ARRAY_LEN(threelc_options),
    .option_bytes = sizeof(struct threelc_opt),
    .flags = CODEC_SELF_CHECK,
    QUANTISER_ROW(threelc_quantiser, quantiser_check),
};
