// Split learning in one direction: a client runs the layers below a cut, which nobody trains, over
// the batches of its round and sends what enters the layer above; the server trains that layer and
// those above it with them. A message is a header byte, then one record an example:
//
//     varint rows, varint rows that have a label: the last ones
//     for each row: varint position less the one before (the first's own), varint tokens it is
//     for each label: varint token
//     rows x dim values as the method's codec writes them, one after another
#ifndef FSTQ_FED_SPLIT_H
#define FSTQ_FED_SPLIT_H

#include "base/check.h"
#include "codec/dense.h"
#include "fed/workload.h"

#include <stddef.h>
#include <stdint.h>

struct split_form { // what both sides know of every message
    struct cut_form cut;
    enum dense_format values;
};

size_t split_bound(const struct split_form *f); // longest message
// 0, -1 when the message is full, CODEC_NONFINITE when a value cannot be written.
int split_put(struct msg_out *o, const struct split_form *f, const struct cut_example *e,
              struct err *err);
// Trusts nothing in the bytes. 0, -1 or CODEC_NONFINITE.
int split_get(struct msg_in *m, const struct split_form *f, struct cut_example *e, struct err *err);

#endif
