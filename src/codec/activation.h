// Rows of activations, or of their gradients, through a codec of the table: matrices of one width
// whose number of rows is another each time. A codec that only writes numbers of one format is
// written bare; the message of any other follows its length as a varint.
#ifndef FSTQ_CODEC_ACTIVATION_H
#define FSTQ_CODEC_ACTIVATION_H

#include "codec/dense.h"

struct act_codec {
    bool dense;
    enum dense_format format;
    struct codec_inst *codec;
    int32_t most, dim;   // rows at most
    struct shape *shape; // (most) of 1, 2, ... rows; NULL where it is dense
    size_t bound;        // of what is written for so many rows or fewer
    void *scratch;
};

// text: of a codec that needs nothing but the values and keeps nothing: each matrix stands alone.
int act_codec_open(struct act_codec *a, const char *text, int32_t most, int32_t dim,
                   struct err *err);
void act_codec_close(struct act_codec *a); // also of one that was never opened
// The same key on both sides, another one for each matrix. 0, -1 when the message is full, or
// CODEC_NONFINITE.
int act_put(struct msg_out *o, const struct act_codec *a, const struct codec_key *key,
            const float *x, int32_t rows, struct err *err);
// Trusts nothing in the bytes. 0, -1 or CODEC_NONFINITE.
int act_get(struct msg_in *m, const struct act_codec *a, const struct codec_key *key, float *x,
            int32_t rows, struct err *err);

#endif
