// What the files of Fed-FSTQ's codec share: fstq.c (options, the row), fstq_budget.c (the search
// for the budget), fstq_design.c (scales and rates, from a sample), fstq_stages.c (passes over all
// values, by the stages of a device), fstq_message.c (the bytes), fstq_axes.c (coefficients along
// principal axes instead of values).
//
// Message: header (its flags say how tags are coded), tags or positions, scales of every width in
// use in every group, values of the first width, of the second, ... Coordinates are taken class by
// class (all A, all B, all others), because their tags have different statistics; inside a class in
// the order of the update.
#ifndef FSTQ_CODEC_FSTQ_H
#define FSTQ_CODEC_FSTQ_H

#include "codec/bitalloc.h"
#include "codec/bits.h"
#include "codec/message.h"

enum { SCALE_GROUP, SCALE_TIER, SCALE_MSE };
enum { GROUP_TENSOR, GROUP_CLASS };
enum { FORMAT_FP32, FORMAT_BF16 };
enum fstq_tags { TAGS_AUTO, TAGS_BITMAP, TAGS_DENSE, TAGS_RICE, TAGS_RANS };
enum { VALUES_AUTO, VALUES_PACKED };
enum { TOP_FP16, TOP_INT16 };
enum { TRANSFORM_NONE, TRANSFORM_KLT };
#define FSTQ_KINDS   3 // classes of an update as it is
#define FSTQ_CLASSES 8 // and at most
#define FSTQ_LOG_2   0.69314718055994531

struct fstq_opt {
    char widths[32], shares[96];
    int32_t policy, importance, norm, group, scale, format, tags, values, top, transform;
    double gamma, budget, bits, upload_s;
    int64_t bytes;
};

// Values that are counted and placed by themselves: a run of one tensor's, in the order of the
// message.
#define FSTQ_PIECE ((size_t)1 << 14)

// Everything that both directions need, in scratch. Classes stand in the order of the message.
struct fstq_work {
    const struct codec_inst *c;
    const struct fstq_opt *opt;
    struct bitalloc a;
    struct alloc_widths widths;
    const struct codec_device *on; // NULL = the host
    bool whole;                    // all runs in one call
    const struct alloc_stages *stages;
    const struct kernel_ctx *cx;
    uint32_t groups, pieces, classes;
    uint32_t *group; // (n_tensors)
    size_t *place;   // (n_tensors) where a tensor's tags begin
    uint32_t *order; // (n_tensors) class by class
    size_t class_at[FSTQ_CLASSES + 1];
    float (*scale)[ALLOC_LEVELS];   // (groups)
    struct alloc_run *piece;        // (pieces) in the order of the message
    struct alloc_run *tensor;       // (n_tensors) whole ones, in the order of the update
    int64_t (*count)[ALLOC_LEVELS]; // (pieces) values of each width
    size_t (*start)[ALLOC_LEVELS];  // (pieces) where a piece's codes of a width begin in code
    int64_t (*of_group)[ALLOC_LEVELS], of_class[FSTQ_CLASSES][ALLOC_LEVELS], total[ALLOC_LEVELS];
    uint8_t *tag;       // (n) class by class
    uint8_t *stage_tag; // (n) where stages write and read them: tag, or the device's
    // Codes of the first width, of the second, ...; 16-bit ones as two bytes. An encoder has room
    // for 2 n bytes, of the device where its tags are there; a decoder for n, of those that were
    // entropy-coded.
    uint8_t *code;
    const uint8_t *from[ALLOC_LEVELS]; // decoder: where a width's codes lie, in code or the message
    void *rest;                        // scratch left over
};

// An update in small, for the design of scales and rates: runs of 16 values, tensor after tensor in
// the order of the message.
struct fstq_sample {
    size_t n;
    size_t *at;              // (n_tensors + 1) by place in the order
    struct alloc_draw *draw; // (n_tensors)
    float *x, *w;            // (n) and the weights of their squared errors
    uint8_t *tag;            // (n)
};

struct fstq_encoder {
    struct fstq_work w;
    const struct codec_input *in;
    struct alloc_vectors v;
    struct alloc_rule rule;
    struct alloc_facts *facts;               // (n_tensors)
    double *sens_sum;                        // (n_tensors) not finite where a sensitivity is not
    float *factor;                           // (n_tensors) of F
    float *group_max, *group_rms;            // (groups)
    struct alloc_levels *levels;             // (groups)
    struct fstq_sample sample;               // rate-distortion only
    float *u;                                // (n) importance; the other policies only
    struct alloc_tier (*tier)[ALLOC_LEVELS]; // (pieces) where scales are fitted to all values
    uint64_t hist[ALLOC_LEVELS][256];        // of codes of fewer than 16 bits
    double rate[FSTQ_CLASSES][ALLOC_LEVELS]; // bits that a coordinate at this width adds
    double value_bits[ALLOC_LEVELS];         // of one value of this width, as last seen
};

struct fstq_counts { // of values by class and width; in a sample, of what they stand for
    double of[FSTQ_CLASSES][ALLOC_LEVELS];
};

static inline size_t fstq_tensor_values(const struct fstq_work *w, uint32_t t)
{
    return (size_t)w->c->shape->tensors[t].rows * w->c->shape->tensors[t].cols;
}
static inline uint32_t fstq_class(const struct fstq_work *w, uint32_t t)
{
    return (w->c->shape->tensors[t].kind + w->classes - 1) % w->classes; // A, B, others
}

static inline unsigned fstq_kinds(int bits)
{
    return bits == 1 ? 2 : 2 * (unsigned)alloc_q(bits) + 1;
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
static inline unsigned fstq_tag_bits(const struct bitalloc *a) // of one of the kept coordinates
{
    return a->count <= 2 ? 0 : bits_log2((uint64_t)a->count - 2) + 1;
}
// Where the codes of a width begin in code.
static inline size_t fstq_first_code(const struct fstq_work *w, int k)
{
    return w->pieces ? w->start[0][k] : 0;
}
// What values stay below. Coefficients grow with the root of the rows at most.
static inline float fstq_limit(const struct fstq_opt *o)
{
    return o->transform == TRANSFORM_NONE ? CODEC_LIMIT : 8 * CODEC_LIMIT;
}
static inline size_t fstq_scale_bytes(const struct fstq_opt *o)
{
    return o->format == FORMAT_FP32 ? 4 : 2;
}
// A scale as it will be sent; 0 where its reciprocal would overflow.
float fstq_rounded(const struct fstq_opt *o, float s);

// Where an encoder's tags and codes lie, and who makes bytes of them; NULL: the host.
static inline const struct codec_device *fstq_away(const struct fstq_work *w)
{
    return w->stage_tag != w->tag ? w->on : NULL;
}

// fstq.c. Looks at the vectors and gets ready to allocate; -1 or CODEC_NONFINITE where it cannot.
int fstq_begin(const struct codec_inst *c, const struct codec_input *in, void *scratch,
               struct fstq_encoder *e, struct err *err);

int fstq_read_plan(const struct codec_inst *c, struct bitalloc *a, struct err *err);
// A message of a vector as it is, within a budget; < 0: none. And back, w being laid by it.
size_t fstq_plain_scratch(const struct codec_inst *c);
size_t fstq_plain_decode_scratch(const struct codec_inst *c);
size_t fstq_plain_bound(const struct codec_inst *c);
int64_t fstq_plain_encode(const struct codec_inst *c, const struct codec_input *in, int64_t budget,
                          uint8_t *out, size_t cap, void *scratch, struct codec_report *report,
                          struct err *err);
int fstq_plain_read(const struct codec_inst *c, const struct codec_device *on, struct fstq_work *w,
                    const uint8_t *in, size_t len, void *scratch, struct err *err);

// fstq_axes.c: of an update turned into its principal axes, with F turned alike.
size_t fstq_axes_scratch(const struct codec_inst *c);
size_t fstq_axes_decode_scratch(const struct codec_inst *c);
size_t fstq_axes_bound(const struct codec_inst *c);
int64_t fstq_axes_encode(const struct codec_inst *c, const struct codec_input *in, int64_t budget,
                         uint8_t *out, size_t cap, void *scratch, struct codec_report *report,
                         struct err *err);
int fstq_axes_decode(const struct codec_inst *c, const uint8_t *in, size_t len,
                     struct codec_output to, void *scratch, struct err *err);

// Room for one of the codec's own messages with these codes, on the host.
int fstq_lay(const struct codec_inst *c, struct fstq_work *w, size_t code_bytes, void *scratch,
             struct err *err);
size_t fstq_lay_bytes(const struct codec_inst *c, size_t code_bytes);

// fstq_stages.c: passes over all values.
void fstq_look(struct fstq_encoder *e);  // facts
void fstq_score(struct fstq_encoder *e); // u
void fstq_draw(struct fstq_encoder *e);  // x and w of the sample
// Tags of places [from, to) by levels, and the counts of the pieces that have a part in them.
void fstq_choose(struct fstq_encoder *e, size_t from, size_t to);
void fstq_drop(struct fstq_encoder *e); // all tags are 0
void fstq_rank(struct fstq_encoder *e, double target, bitalloc_cost *cost, const void *arg);
void fstq_count(struct fstq_work *w);                            // of all pieces, from their tags
void fstq_spans(struct fstq_encoder *e);                         // max, abs and n of tiers
void fstq_bins(struct fstq_encoder *e);                          // and their bins
void fstq_code(struct fstq_encoder *e);                          // codes by scale, and hist
void fstq_give(const struct fstq_work *w, struct quant_sink to); // the decoded values
void fstq_count_read(struct fstq_work *w);                       // as fstq_count, of tags just read
// Adds codes of fewer than 16 bits to the histogram.
void fstq_count_codes(const uint8_t *code, size_t n, int bits, uint64_t hist[256]);
// Adds the counts of pieces and lays out the codes.
void fstq_sum_counts(struct fstq_work *w);

// fstq_design.c. Scratch of the sample, for its shape.
size_t fstq_sample_bytes(const struct codec_inst *c);
void fstq_sample_lay(struct fstq_encoder *e, void **scratch);
// Scales, rates and value_bits for messages of so many bytes. Returns the lambda for it, and by how
// much the bytes fall as log lambda grows by 1.
float fstq_design(struct fstq_encoder *e, double bytes, double *slope);
void fstq_set_costs(struct fstq_encoder *e, float lambda); // of levels, by the rates
void fstq_see_values(struct fstq_encoder *e);              // value_bits by hist
// Scales of least error, of tiers or of groups, fitted to all values that have the width.
void fstq_fit(struct fstq_encoder *e);

// fstq_budget.c. Tags, scales and codes of a message that is as long as the budget (< 0: none) less
// so many bytes.
void fstq_meet(struct fstq_encoder *e, int64_t budget, double less);

// fstq_message.c. Bytes of a message with so many values of each class and width, as far as counts
// tell; by total counts; and once all codes are known, within a few bytes.
double fstq_cost(const struct fstq_encoder *e, const struct fstq_counts *count);
double fstq_plain_cost(const struct fstq_work *w, const int64_t count[ALLOC_LEVELS],
                       double value_ratio);
double fstq_length(const struct fstq_encoder *e);
double fstq_values_length(const struct fstq_encoder *e, int k); // of them, the values of width k
size_t fstq_message_bound(const struct codec_inst *c, const struct bitalloc *a);
size_t fstq_message_scratch(const struct codec_inst *c); // of fstq_write
size_t fstq_read_scratch(const struct codec_inst *c);
int fstq_write(const struct fstq_encoder *e, struct msg_out *o, void *scratch); // -1: full
int fstq_read(struct fstq_work *w, const uint8_t *in, size_t len, struct err *err);

#endif
