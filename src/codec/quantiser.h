// What dense scalar quantisers share: coordinates in groups that have scales of their own, one
// small code per coordinate, the codes packed or entropy-coded. A quantiser says how to fit a
// group's scales and by which rule of kernels/stages.h values become codes; the rest (message,
// threads, error paths) is here once.
//
// Message: header, scales of all groups, centres of all groups (two bytes each) where codes mean
// these, codes of all coordinates in order.
#ifndef FSTQ_CODEC_QUANTISER_H
#define FSTQ_CODEC_QUANTISER_H

#include "codec/blocks.h"
#include "codec/coders.h"
#include "kernels/stages.h"

enum q_group {
    Q_TENSOR, // one group per tensor, or blocks inside it where q_common.block > 0
    Q_CLASS,  // all A, all B, all others
    Q_RANK,   // one per rank component: the rows of A, the columns of B and of others
};
enum q_scale { Q_FP32, Q_BF16, Q_LOG8 };
extern const char *const q_group_choices[], *const q_scale_choices[];

// The first member of every quantiser's options. What a row does not offer stays 0.
struct q_common {
    int32_t group, block, coder, scale;
};
#define Q_OPT_BLOCK(dflt)                                                                          \
    OPT(struct q_common, block, "block", dflt, 0, 1 << 20, "values",                               \
        "values that share a scale; 0 = the whole group")
#define Q_OPT_GROUP(dflt, what)                                                                    \
    OPT_ENUM(struct q_common, group, "group", dflt, q_group_choices, what)
#define Q_OPT_CODER(dflt)                                                                          \
    OPT_ENUM(struct q_common, coder, "code", dflt, coder_choices, "coding of the codes")
#define Q_OPT_SCALE(dflt)                                                                          \
    OPT_ENUM(struct q_common, scale, "scale", dflt, q_scale_choices, "format of the scales")

// Sums over a group, as far as asked for.
enum {
    STAT_SUM = QUANT_SUM,
    STAT_ABS = QUANT_ABS,
    STAT_SQ = QUANT_SQ,
    STAT_NONNEG = QUANT_NONNEG,
    STAT_NO_MAX = QUANT_NO_MAX, // fit does not read max; goes with STAT_ABS
};
struct q_stats {
    double sum, abs, sq;
    size_t n, nonneg; // nonneg: values >= 0
    float max;        // of |x|
};

#define Q_SCALES_MAX 2
// Below this a group is sent as zeros: reciprocals of scales stay finite.
#define Q_TINY 0x1p-110f

#define Q_CENTRES 2 // of magnitude 1, and of 2 and more

struct quantiser {
    unsigned scales; // floats per group
    unsigned stats;  // STAT_* that fit reads
    // Whether centres are fitted, by rules whose codes are QUANT_DEADZONE's and take a byte; NULL =
    // never.
    bool (*centred)(const void *opt);
    // How values become codes and what these mean: kind, q where levels have one, kinds where there
    // are bounds, and the tables.
    void (*rule)(const void *opt, struct quant_rule *rule);
    void (*fit)(const void *opt, const struct q_stats *s, float scale[Q_SCALES_MAX]);
};

// The functions of a row whose family points to a struct quantiser.
int quantiser_check(const struct codec_inst *c, struct err *err);
size_t quantiser_scratch(const struct codec_inst *c);
size_t quantiser_stage(const struct codec_inst *c);
size_t quantiser_device(const struct codec_inst *c);
size_t quantiser_bound(const struct codec_inst *c);
int64_t quantiser_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                         size_t cap, void *scratch, struct codec_report *report, struct err *err);
int quantiser_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                     size_t len, struct codec_output to, void *scratch, struct err *err);

#define QUANTISER_ROW(q, own_check)                                                                \
    .stages = CODEC_ON_QUANT, .check = own_check, .scratch_bytes = quantiser_scratch,              \
    .stage_bytes = quantiser_stage, .device_bytes = quantiser_device, .bound = quantiser_bound,    \
    .encode = quantiser_encode, .decode = quantiser_decode, .blocks = &blocks_quantiser,           \
    .family = &(q)

#endif
