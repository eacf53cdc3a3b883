// What coding on the host and on devices needs, for the codecs' own files.
#ifndef FSTQ_CODEC_CODING_H
#define FSTQ_CODEC_CODING_H

#include "codec/codec.h"

// Why this update cannot be coded, naming the tensor and the coordinate; for codecs that check
// themselves. on: where x lies.
int codec_bad_input(const struct codec_inst *c, const float *x, const struct codec_device *on,
                    struct err *err);
// -1 with the reason when a value of x (n) is not finite or too large for this codec.
int codec_check_limit(const struct codec_inst *c, const float *x, const struct codec_device *on,
                      struct err *err);
// The table of stages to go by, and what they are given first.
const struct codec_stages *codec_column(const struct codec_device *on);
const struct kernel_ctx *codec_context(const struct codec_device *on);
// A wrapper's inner codec, without codec_encode's checks; what its laps leave open is closed.
int64_t codec_encode_inner(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err);

// The same device for a wrapper's inner codec, in *inner, with the memory that is behind what the
// wrapper takes; NULL on the host.
const struct codec_device *codec_behind(const struct codec_inst *c, const struct codec_device *on,
                                        struct codec_device *inner);

// Carves 64-byte aligned pieces out of a scratch block; the twin of SCRATCH_ROUND in scratch_bytes.
#define SCRATCH_ROUND(bytes) (((size_t)(bytes) + 63u) & ~(size_t)63u)
static inline void *scratch_take(void **scratch, size_t size_bytes)
{
    uint8_t *p = *scratch;
    *scratch = p + SCRATCH_ROUND(size_bytes);
    return p;
}

#endif
