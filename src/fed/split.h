// Split learning in one direction: a client runs the layers below a cut, which nobody trains, over
// the batches of its round and sends what enters the layer above; the server trains that layer and
// those above it with them. A message is a header byte, then one record an example:
//
//     varint rows, varint rows that have a label: the last ones
//     for each row: varint position less the one before (the first's own), varint tokens it is
//     for each label: varint token
//     rows x dim values, fp16 or fp32, little-endian
#ifndef FSTQ_FED_SPLIT_H
#define FSTQ_FED_SPLIT_H

#include "base/check.h"
#include "codec/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct split_opt { // of the scheme
    int32_t cut;
};

// What both sides know of every message.
struct split_form {
    int32_t cut;      // the first layer of the server
    int32_t examples; // of a round
    int32_t longest;  // tokens of an example, at most
    int32_t dim, vocab;
    bool half; // values are fp16
};

// One example. Capacity of each array: form.longest rows.
struct split_example {
    int32_t rows, labels;
    int32_t *pos, *size; // (rows)
    int32_t *label;      // (labels) of the last rows
    float *x;            // (rows, dim)
};

size_t split_bound(const struct split_form *f); // longest message
// 0, -1 when the message is full, CODEC_NONFINITE when a value cannot be written.
int split_put(struct msg_out *o, const struct split_form *f, const struct split_example *e,
              struct err *err);
// Trusts nothing in the bytes. 0, -1 or CODEC_NONFINITE.
int split_get(struct msg_in *m, const struct split_form *f, struct split_example *e,
              struct err *err);

#endif
