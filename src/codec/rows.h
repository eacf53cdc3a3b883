// The rows of the codec table, each defined beside its code.
#ifndef FSTQ_CODEC_ROWS_H
#define FSTQ_CODEC_ROWS_H

#include "codec/codec.h"

extern const struct codec codec_raw, codec_fp32, codec_fp16, codec_bf16; // dense.c
extern const struct codec codec_int, codec_qsgd, codec_terngrad, codec_sign, codec_onebit,
    codec_fedbat, codec_uniform, codec_nf4; // scalar.c
extern const struct codec codec_natural;    // natural.c
extern const struct codec codec_threelc;    // threelc.c
extern const struct codec codec_fetchsgd;   // sketch.c
extern const struct codec codec_cocktail;   // cocktail.c
extern const struct codec codec_demo;       // demo.c
extern const struct codec codec_eden;       // rotated.c
extern const struct codec codec_topk, codec_randk, codec_stc, codec_sbc, codec_dgc,
    codec_ecolora;                                                             // sparse.c
extern const struct codec codec_signsgd;                                       // vote.c
extern const struct codec codec_powersgd;                                      // lowrank.c
extern const struct codec wrapper_ef, wrapper_rans, wrapper_zstd, wrapper_lz4; // wrap.c
extern const struct codec wrapper_ef21;                                        // ef21.c
extern const struct codec codec_klt;                                           // klt.c
extern const struct codec codec_tcq;                                           // tcq.c
extern const struct codec codec_fstq;                                          // fstq.c

#endif
