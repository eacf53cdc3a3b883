// Messages of server-assisted side-tuning, client to server: what layers of the frozen backbone put
// out for the client's examples. A message is a header byte and
//
//     varint examples that the client has in all, varint place of the first, varint how many
//
// the place counting on from epoch to epoch, then one record an example:
//
//     id u64                       a hash that says nothing of the example (side_id)
//     type u8                      of the backbone, where a federation has several
//     varint rows - 1              of each layer
//     varint rows that have a loss - 1, the last ones        unless rows are pivots: all have one
//     labels: varint token of each                           where labels travel
//     length u32, and so many bytes of the method's codec:   layers x rows x dim activations, then,
//                                                            where differences travel, rows that
//                                                            have a loss x classes
//
// Of a prediction difference the server gets the values alone: no struct here has a field for the
// label of an example whose differences travel (MobiLLM's labels are an array of their own).
#ifndef FSTQ_FED_SIDE_MESSAGE_H
#define FSTQ_FED_SIDE_MESSAGE_H

#include "codec/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct side_form { // what both sides know of every message
    int32_t layers, dim, classes;
    int32_t rows, scored; // of an example, at most
    int32_t examples;     // of a message, at most
    int32_t type, types;  // of the client's backbone, of how many; types at most 1: there is one
    bool pivot, labels;
    size_t scratch, record; // bytes: of the codec, of a record; by side_measure
};

struct side_head {
    uint32_t held, from, count;
};

struct side_example {
    uint64_t id;
    int32_t rows, scored;
    // (layers, rows, dim), then (scored, classes) where differences travel; capacity: side_floats
    // of the largest.
    float *x;
};

uint64_t side_id(uint64_t seed, uint32_t client, uint32_t place);
size_t side_floats(const struct side_form *f, int32_t rows, int32_t scored);

// The method's codec, ready for examples of any size.
struct side_coder {
    const struct side_form *form;
    struct codec_inst *codec;
    struct shape shape;
    uint64_t seed;
    void *scratch;
};

// Before any coder is opened. text: of a codec. Refuses one that needs what there is not, by its
// name.
int side_measure(struct side_form *f, const char *text, struct err *err);
int side_coder_open(struct side_coder *c, const struct side_form *f, const char *text,
                    uint64_t seed, struct err *err);
void side_coder_close(struct side_coder *c);  // also of one that was never opened
size_t side_bound(const struct side_form *f); // longest message

int side_put_head(struct msg_out *o, const struct side_head *h, struct err *err);
// 0, -1 when the message is full, CODEC_NONFINITE when a value cannot be written. label: (scored)
// where labels travel, else NULL.
int side_put(struct msg_out *o, struct side_coder *c, const struct side_example *e,
             const int32_t *label, struct err *err);

// Trusts nothing in the bytes.
int side_get_head(struct msg_in *m, const struct side_form *f, struct side_head *h,
                  struct err *err);
// A record without its values: fills e but x, which is not looked at; *values are those bytes.
struct side_values {
    const uint8_t *bytes;
    size_t len;
};
int side_get(struct msg_in *m, const struct side_form *f, struct side_example *e, int32_t *label,
             struct side_values *values, struct err *err);
// The backbone of a record that side_get has taken before, from its bytes.
int32_t side_type_of(const struct side_form *f, const uint8_t *record);
// And its values to e->x: 0, -1 or CODEC_NONFINITE.
int side_decode(struct side_coder *c, const struct side_example *e,
                const struct side_values *values, struct err *err);

#endif
