// What the files of Fed-FSTQ's codec share: fstq.c (options, budget, the row), fstq_values.c
// (scales and codes), fstq_message.c (the bytes).
//
// Message: header (its flags say how tags are coded), tags or positions, scales of every width in
// use in every group, values of the first width, of the second, ... Coordinates are taken class by
// class (all A, all B, all others), because their tags have different statistics; inside a class in
// the order of the update.
#ifndef FSTQ_CODEC_FSTQ_H
#define FSTQ_CODEC_FSTQ_H

#include "codec/bitalloc.h"
#include "codec/message.h"

enum { SCALE_GROUP, SCALE_TIER, SCALE_MSE };
enum { GROUP_TENSOR, GROUP_CLASS };
enum { FORMAT_FP32, FORMAT_BF16 };
enum fstq_tags { TAGS_AUTO, TAGS_BITMAP, TAGS_DENSE, TAGS_RICE, TAGS_RANS };
enum { VALUES_AUTO, VALUES_PACKED };
enum { TOP_FP16, TOP_INT16 };
#define FSTQ_CLASSES 3

struct fstq_opt {
    char widths[32], shares[96];
    int32_t policy, importance, norm, group, scale, format, tags, values, top;
    double gamma, budget, bits, upload_s;
    int64_t bytes;
};

// Everything that both directions need, in scratch.
struct fstq_work {
    const struct codec_inst *c;
    const struct fstq_opt *opt;
    struct bitalloc a;
    uint32_t groups;
    uint32_t *group; // (n_tensors)
    size_t *place;   // (n_tensors) where a tensor's tags begin
    uint32_t *order; // (n_tensors) class by class
    size_t class_at[FSTQ_CLASSES + 1];
    float (*scale)[ALLOC_LEVELS];   // (groups)
    int64_t (*count)[ALLOC_LEVELS]; // (n_tensors) values of each width
    size_t (*start)[ALLOC_LEVELS];  // (n_tensors) where a tensor's codes of a width begin in code
    int64_t total[ALLOC_LEVELS];
    uint8_t *tag; // (n) class by class
    // Codes of the first width, of the second, ...; 16-bit ones as two bytes. An encoder has room
    // for 2 n bytes; a decoder for n, of those that were entropy-coded.
    uint8_t *code;
    const uint8_t *from[ALLOC_LEVELS]; // decoder: where a width's codes lie, in code or the message
    void *rest;                        // scratch left over
};

static inline size_t fstq_tensor_values(const struct fstq_work *w, uint32_t t)
{
    return (size_t)w->c->shape->tensors[t].rows * w->c->shape->tensors[t].cols;
}

// Codes lie in [0, kinds): q + v with |v| <= q; signs for one bit.
static inline int fstq_q(int bits)
{
    return bits == 1 ? 0 : (1 << (bits - 1)) - 1;
}
static inline unsigned fstq_kinds(int bits)
{
    return bits == 1 ? 2 : 2 * (unsigned)fstq_q(bits) + 1;
}
static inline enum alloc_kind fstq_kind(const struct fstq_opt *o, int bits)
{
    bool fp16 = bits == 16 && o->top == TOP_FP16;
    return bits == 0 ? ALLOC_NONE : bits == 1 ? ALLOC_SIGN : fp16 ? ALLOC_FP16 : ALLOC_INT;
}
static inline bool fstq_has_scale(const struct fstq_opt *o, int bits)
{
    return bits > 0 && fstq_kind(o, bits) != ALLOC_FP16;
}
static inline bool fstq_entropy_coded(const struct fstq_opt *o, int bits) // values of this width
{
    return bits < 16 && o->values == VALUES_AUTO;
}
// Where the codes of a width begin in code.
static inline size_t fstq_first_code(const struct fstq_work *w, int k)
{
    return w->c->shape->n_tensors ? w->start[w->order[0]][k] : 0;
}
static inline size_t fstq_scale_bytes(const struct fstq_opt *o)
{
    return o->format == FORMAT_FP32 ? 4 : 2;
}

// fstq_values.c. Counts the tags and lays out the codes.
void fstq_count(struct fstq_work *w);
// A scale as it will be sent; 0 where its reciprocal would overflow.
float fstq_rounded(const struct fstq_opt *o, float s);
size_t fstq_values_scratch(const struct codec_inst *c);
// Scales of the widths in use (unless they are kept from the last time) and codes of all values.
void fstq_quantise(struct fstq_work *w, const float *x, const float *group_max, bool fit,
                   void *scratch);
void fstq_give(const struct fstq_work *w, struct quant_sink to); // the decoded values

// fstq_message.c. Bytes of the tags as far as counts tell, for any coding or one.
double fstq_tags_cost(const struct fstq_work *w, enum fstq_tags tags, const int64_t *count);
size_t fstq_message_bound(const struct codec_inst *c, const struct bitalloc *a);
size_t fstq_message_scratch(const struct codec_inst *c); // of fstq_write
size_t fstq_read_scratch(const struct codec_inst *c);
int fstq_write(const struct fstq_work *w, struct msg_out *o, void *scratch); // -1: full
int fstq_read(struct fstq_work *w, const uint8_t *in, size_t len, struct err *err);

#endif
