// Values as numbers of one format, one after another: what dense codecs send, and what is sent that
// is no update (activations).
#ifndef FSTQ_CODEC_DENSE_H
#define FSTQ_CODEC_DENSE_H

#include "codec/message.h"

enum dense_format { DENSE_FP32, DENSE_FP16, DENSE_BF16, DENSE_FORMATS };

size_t dense_bytes(enum dense_format f, size_t n);
unsigned dense_bits(enum dense_format f); // of a value
// How a codec writes its values where that is all it does; -1 where it is another kind of codec.
int dense_format_of(const struct codec_inst *c, enum dense_format *f);
// n values as they are, booked as values; adds to the report's counts by width. -1: the buffer is
// full. CODEC_NONFINITE: one of them is not finite, or too large for the format.
int dense_put(struct msg_out *o, enum dense_format f, const float *x, size_t n, struct err *err);
// Trusts nothing: -1 when they are cut off, CODEC_NONFINITE when one is not finite; then the sink
// is as it was.
int dense_get(struct msg_in *m, enum dense_format f, struct quant_sink to, size_t n,
              struct err *err);

#endif
