// What goes up at a cut of the model: what enters the layer above, with places and labels. A
// message is a header byte, then one record an example:
//
//     varint rows, varint rows that have a label: the last ones
//     for each row: varint position less the one before (the first's own), varint tokens it is
//     for each label: varint token
//     rows x dim values as the codec of activations writes them (codec/activation.h)
//
// In the scheme split that is all: a client runs the layers below the cut, which nobody trains,
// over the batches of its round, and the server trains those above. In splitlora (splitlora.c) a
// message has one batch, and gradients of its rows come back: a header byte, then the rows x dim
// values of each example.
#ifndef FSTQ_FED_SPLIT_H
#define FSTQ_FED_SPLIT_H

#include "base/check.h"
#include "codec/activation.h"
#include "fed/env.h"

#include <stddef.h>
#include <stdint.h>

struct split_form { // what both sides know of every message
    struct cut_form cut;
    struct act_codec up, down; // activations; gradients, where they come back
};

// Does the run suit a scheme that cuts between layers?
int split_check_cut(const struct fed_env *env, struct err *err);

// Opens form->cut and the codec of activations; what was open before is closed.
int split_form_open(const struct fed_env *env, int32_t layer, const char *up,
                    struct split_form *form, struct err *err);
void split_forget(void *form);
size_t split_bound(const struct split_form *f, int32_t examples); // longest message of so many
// The stream of a matrix: vector 1 goes up, 2 comes down; examples count through the round.
struct codec_key split_key(const struct fed_env *env, uint32_t client, uint32_t round, int vector,
                           int64_t example);
// 0, -1 when the message is full, CODEC_NONFINITE when a value cannot be written.
int split_put(struct msg_out *o, const struct split_form *f, const struct codec_key *key,
              const struct cut_example *e, struct err *err);
// Trusts nothing in the bytes. 0, -1 or CODEC_NONFINITE.
int split_get(struct msg_in *m, const struct split_form *f, const struct codec_key *key,
              struct cut_example *e, struct err *err);

#endif
