#include "codec/rows.h"

#include <stddef.h>

const struct codec *const codec_table[] = {
    &codec_raw,     &codec_fp32,     &codec_fp16,     &codec_bf16,     // dense
    &codec_int,     &codec_nf4,      &codec_qsgd,     &codec_terngrad, // scalar
    &codec_sign,    &codec_onebit,   &codec_fedbat,   &codec_uniform,  //
    &codec_natural, &codec_threelc,  &codec_eden,                      // rotated
    &codec_topk,    &codec_randk,    &codec_stc,      &codec_sbc,      // sparse
    &codec_dgc,     &codec_ecolora,  &codec_cocktail,                  //
    &codec_signsgd, &codec_powersgd, &codec_fetchsgd, &codec_demo,     //
    &codec_klt,     &codec_tcq,      &codec_fstq,     NULL,
};

const struct codec *const wrapper_table[] = {
    &wrapper_ef, &wrapper_ef21, &wrapper_rans, &wrapper_zstd, &wrapper_lz4, NULL,
};
