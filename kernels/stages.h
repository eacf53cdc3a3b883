// What a device fills for the codecs: their whole-vector passes, one table of functions a family,
// under the host logic of src/codec. A stage goes over a list of runs. A device is given all runs
// of an update in one call; the CPU is given pieces that stay in its caches, by whichever thread
// takes them.
//
// The update and what is as long as it lie on the device (x, y, u, v, out of sums, to); all else is
// the host's: what goes out (sums, codes, positions) is there when the stage returns. Every column
// gives the same bits.
#ifndef FSTQ_KERNELS_STAGES_H
#define FSTQ_KERNELS_STAGES_H

#include "kernels/kernels_codec.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kernel_ctx; // kernels.h; NULL on the CPU

// Dense scalar quantisers: groups of values that have scales of their own.

// Values [at, at + n) in groups of `group`, the last one shorter. first: the number of its first
// group; out: where its codes begin, a whole byte.
struct quant_run {
    size_t at, n, group, first, out;
    uint32_t key[2], ctr[4]; // of its random words (base/rng.h), one per value
    size_t drawn;            // the number of its first value's
};

// How values become codes, and what these mean.
enum quant_kind {
    QUANT_NEAREST,    // q + the nearest of -q..q
    QUANT_STOCHASTIC, // q + one of the two around it, unbiased
    QUANT_DEADZONE, // q + sign floor(|x| / scale + round); with three scales these are the step and
                    // by how much codes of magnitude 1, and of 2 and more, lie beyond it
    QUANT_DITHER,   // q + the nearest to the value and a random part, which the receiver takes off
    QUANT_SIGN,     // 1 where x >= 0
    QUANT_COIN,     // 1 with probability (x / scale + 1) / 2
    QUANT_BOUNDS,   // how many of the bounds are at or below x / scale
    QUANT_POWERS,   // q + sign and power of two: 0, 2^(1-q), ..., 1/2, 1 times the scale, unbiased
    QUANT_FP16,     // x times the scale; its reciprocal is the receiver's
    QUANT_BF16,
    QUANT_FP32,
};
struct quant_rule {
    enum quant_kind kind;
    int q;
    unsigned kinds;   // of codes
    unsigned width;   // bits of a code as it is packed; 8: a byte
    unsigned scales;  // floats per group: 2 are the two levels of a sign, 3 a step and its centres
    float round;      // QUANT_DEADZONE
    float bound[16];  // QUANT_BOUNDS: kinds - 1, ascending
    float level[256]; // QUANT_BOUNDS and _POWERS: (kinds), times the scale; linear codes and signs
                      // have none
};

// Sums over a group's values by the magnitude of their codes, for where each magnitude's values
// have their mean.
struct quant_centres {
    double one, more;             // of |x| where the magnitude is 1, and where it is 2 or more
    uint64_t ones, mores, levels; // how many, and the sum of the latter magnitudes
};

// A matrix (rows, cols) at this place of the flat vector.
struct quant_matrix {
    size_t at, rows, cols;
};

struct quant_stages {
    // Sums and extremes of every group, into stats[first...]. With QUANT_NO_MAX the largest
    // magnitude is looked for only where the sum does not show that it is below 2^100. signs: the
    // codes of QUANT_SIGN on the way, a bit each, or NULL.
    void (*fit)(const struct kernel_ctx *cx, const float *x, const struct quant_run *run,
                size_t runs, unsigned wanted, struct quant_stats *stats, uint8_t *signs);
    void (*code)(const struct kernel_ctx *cx, const float *x, const struct quant_run *run,
                 size_t runs, const struct quant_rule *rule, const float *scale, uint8_t *out);
    void (*give)(const struct kernel_ctx *cx, const uint8_t *in, const struct quant_run *run,
                 size_t runs, const struct quant_rule *rule, const float *scale,
                 struct quant_sink to, bool stream);
    // Of codes q + magnitude or q - magnitude, a byte each, into centres[first...].
    void (*centre)(const struct kernel_ctx *cx, const float *x, const uint8_t *code,
                   const struct quant_run *run, size_t runs, int q, struct quant_centres *centres);
    // Matrices (rows, cols) to (cols, rows) at the same place, and back into the sink.
    void (*turn)(const struct kernel_ctx *cx, const float *x, const struct quant_matrix *m,
                 size_t matrices, float *y);
    void (*turn_back)(const struct kernel_ctx *cx, const float *y, const struct quant_matrix *m,
                      size_t matrices, struct quant_sink to);
};

extern const struct quant_stages quant_stages_cpu; // quantise.c

// Bit allocation: a tag for every value, the number of its width in a list of widths.

enum alloc_importance {
    IMPORTANCE_FISHER,    // F^gamma D^2 (21)
    IMPORTANCE_MAGNITUDE, // D^2
    IMPORTANCE_RANDOM,    // drawn from the key: other coordinates for every client and round
    IMPORTANCE_UNIFORM,   // the same for all: an even comb over the coordinates
    IMPORTANCE_GD,        // -g D, what the loss falls by to first order; 0 where it rises
    IMPORTANCE_ABSGD,     // |g D|
};

// Whole vectors of the device; NULL where the rule does not need one.
struct alloc_vectors {
    const float *x, *sens, *grad;
};
struct alloc_rule {
    enum alloc_importance importance;
    int gamma16; // gamma in sixteenths; 0: magnitudes
};
static inline bool alloc_needs_sens(const struct alloc_rule *r)
{
    return r->importance == IMPORTANCE_FISHER && r->gamma16 > 0;
}
static inline bool alloc_needs_grad(const struct alloc_rule *r)
{
    return r->importance == IMPORTANCE_GD || r->importance == IMPORTANCE_ABSGD;
}

// Values [at, at + n) of the update, all of one tensor, from its value `first` on, a multiple of
// 1024. Runs of less than 65536 values where their tags are counted.
struct alloc_run {
    size_t at, n, first;
    size_t place;            // of its first tag
    uint32_t tensor, group;  // group: of what shares scales
    float factor;            // of F
    uint32_t key[2], ctr[4]; // of the tensor's random words
};

struct alloc_facts {
    uint32_t max_bits, sens_bits, grad_bits; // of the largest magnitudes; 0 where not looked for
    double sq, sens;                         // sums of x^2 and of F
};

struct alloc_widths {
    int count;
    int bits[ALLOC_LEVELS];
    enum alloc_kind kind[ALLOC_LEVELS];
};
// Codes lie in [0, kinds): q + v with |v| <= q; signs for one bit.
static inline int alloc_q(int bits)
{
    return bits == 1 ? 0 : (1 << (bits - 1)) - 1;
}
static inline size_t alloc_code_bytes(int bits) // unpacked
{
    return bits == 16 ? 2 : 1;
}

// Of a run n values, sixteen in every 16 times so many (1: the first n), to place `to` of a sample.
struct alloc_draw {
    size_t every, n, to;
};

// The values of one width in a run, or in several.
#define ALLOC_BINS 128
struct alloc_tier {
    float max;
    double abs;
    int64_t n;
    uint32_t bin[ALLOC_BINS]; // of magnitudes up to max
};

// What a decoder has of each width: its codes, packed or unpacked, from code `first` on.
struct alloc_codes {
    const uint8_t *from[ALLOC_LEVELS];
    bool packed[ALLOC_LEVELS];
    size_t first[ALLOC_LEVELS];
};

// u, tag where it is no const, and what code puts out are the device's; facts, counts, tiers,
// samples and what is given are the host's. [i] of an array that goes with runs is run i's.
struct alloc_stages {
    void (*look)(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                 const struct alloc_rule *rule, const struct alloc_run *run, size_t runs,
                 bool squares, struct alloc_facts *facts);
    // u = importance (21).
    void (*score)(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                  const struct alloc_rule *rule, const struct alloc_run *run, size_t runs,
                  float *u);
    // A sample of the values, and the weights of their squared errors (10).
    void (*draw)(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                 const struct alloc_rule *rule, const struct alloc_run *run,
                 const struct alloc_draw *some, size_t runs, float *x, float *w);
    // The largest of u (n): their upper bits, of at least the k largest; lower bits within several
    // prefixes (select.c, levels 1 and 2); tags by thresholds, whose ties go down.
    void (*top)(const struct kernel_ctx *cx, const float *u, size_t n, size_t k,
                uint32_t count[SELECT_BINS]);
    void (*within)(const struct kernel_ctx *cx, const float *u, size_t n, int level,
                   const uint32_t *prefix, int prefixes, uint32_t count[][SELECT_BINS]);
    void (*tags)(const struct kernel_ctx *cx, const float *u, const struct alloc_run *run,
                 size_t runs, const uint32_t *threshold, int thresholds, size_t *ties,
                 uint8_t *tag);
    // Tags of places [from, to) by levels, group by group (14), and the counts of the runs that
    // have a part in them.
    void (*choose)(const struct kernel_ctx *cx, const struct alloc_vectors *v,
                   const struct alloc_rule *rule, const struct alloc_run *run, size_t runs,
                   const struct alloc_levels *levels, size_t from, size_t to, uint8_t *tag,
                   int64_t (*count)[ALLOC_LEVELS]);
    void (*count)(const struct kernel_ctx *cx, const uint8_t *tag, const struct alloc_run *run,
                  size_t runs, int levels, int64_t (*count)[ALLOC_LEVELS]);
    // max, abs and n of tiers; then their bins, by the max that is there.
    void (*spans)(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                  const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                  struct alloc_tier (*tier)[ALLOC_LEVELS]);
    void (*bins)(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                 const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                 struct alloc_tier (*tier)[ALLOC_LEVELS]);
    // The count[i][k] codes of width k of run i, from out + start[i][k] on, by the group's scales.
    void (*code)(const struct kernel_ctx *cx, const float *x, const uint8_t *tag,
                 const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                 float (*scale)[ALLOC_LEVELS], int64_t (*count)[ALLOC_LEVELS],
                 size_t (*start)[ALLOC_LEVELS], uint8_t *out);
    // And back, by tags of the host.
    void (*give)(const struct kernel_ctx *cx, const struct alloc_codes *codes, const uint8_t *tag,
                 const struct alloc_run *run, size_t runs, const struct alloc_widths *widths,
                 float (*scale)[ALLOC_LEVELS], size_t (*start)[ALLOC_LEVELS], struct quant_sink to);
};

extern const struct alloc_stages alloc_stages_cpu; // widths.c

// Codes and tags, a byte each, that lie on a device, into bytes of a message, which is the host's.
struct entropy_stages {
    // Adds how many codes there are of each kind.
    void (*count)(const struct kernel_ctx *cx, const uint8_t *code, size_t n, uint64_t count[256]);
    // Of each `chunk` codes a stream, as rans_encode makes it, that ends at streams + (k + 1) room
    // and has len[k] bytes.
    void (*rans)(const struct kernel_ctx *cx, const struct rans_encoder *e, const uint8_t *code,
                 size_t n, size_t chunk, uint8_t *streams, size_t room, size_t *len);
    // As pack_u8.
    void (*pack)(const struct kernel_ctx *cx, const uint8_t *code, size_t n, unsigned width,
                 uint8_t *out);
    // Of tags: a bit for each, 1 where it is kept, not 0; the kept ones less 1, at this width.
    void (*bitmap)(const struct kernel_ctx *cx, const uint8_t *tag, size_t n, uint8_t *out);
    void (*kept)(const struct kernel_ctx *cx, const uint8_t *tag, size_t n, unsigned width,
                 uint8_t *out);
    // Rice codes by parameter k of the gaps before those that are kept; returns their bits. out
    // NULL: nothing but that.
    uint64_t (*rice)(const struct kernel_ctx *cx, const uint8_t *tag, size_t n, unsigned k,
                     uint8_t *out);
};

// Rotated quantisers (DRIVE, EDEN).

// Values [at, at + n) of the update, padded to d, a power of two, that are rotated at once: value
// `first` of a tensor's and those after it, a multiple of 64. Of the d coordinates the first n_high
// have codes of `high` bits, the next n_low of `low`; their bytes begin at out.
#define ROTATE_MOST 65536
struct rotate_slice {
    size_t at, n, d, first, out;
    unsigned high, low;
    size_t n_high, n_low;
    uint32_t key[2], ctr[4]; // of the tensor's random signs
};

// Sums over a slice x: |x|^2, <y, l> and |l|^2, y being sqrt(d) times the rotated slice and l the
// levels of its codes. Above 2^100 no sum is made.
struct rotate_facts {
    uint32_t max_bits;
    double norm_sq, dot, level_sq;
};

struct rotate_stages {
    void (*code)(const struct kernel_ctx *cx, const float *x, const struct rotate_slice *slice,
                 size_t slices, struct rotate_facts *facts, uint8_t *out);
    // scale: of each slice's levels.
    void (*give)(const struct kernel_ctx *cx, const uint8_t *in, const struct rotate_slice *slice,
                 size_t slices, const float *scale, struct quant_sink to);
};

extern const struct rotate_stages rotate_stages_cpu; // rotation.c

// Sparsifiers: of each group of values the largest.

// Values [at, at + n) of the update.
struct select_run {
    size_t at, n;
    uint32_t group;
};
struct select_choice { // of a group
    enum select_side side;
    struct select_threshold threshold;
};

// Positions and values are the host's, and the results of groups.
struct select_stages {
    // Of runs that lie group by group; the arrays begin with the first run's group. One sixteen in
    // every stride of them (0: none), by its upper bits: adds to bins, and to seen how many.
    void (*sample)(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                   size_t runs, enum select_side side, const size_t *stride, size_t *seen,
                   uint32_t (*bins)[SELECT_BINS]);
    // Of runs that ascend: values whose magnitude has at least the bits least[group], as far as
    // there is room; returns how many there are, or as soon as there are more than room, that.
    size_t (*collect)(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                      size_t runs, const uint32_t *least, uint32_t *at, float *v, size_t room);
    // Of runs of one group: adds to the bins of a level (select_count), and at level 0 returns how
    // many values there are on the side; the sum of the magnitudes that a threshold takes, and how
    // many.
    size_t (*count)(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                    size_t runs, enum select_side side, int level, uint32_t prefix,
                    uint32_t count[SELECT_BINS]);
    size_t (*sum)(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                  size_t runs, enum select_side side, const struct select_threshold *threshold,
                  double *sum);
    // Of runs that ascend: the positions that each group's threshold takes, whose ties go down;
    // returns how many.
    size_t (*take)(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                   size_t runs, struct select_choice *choice, uint32_t *at);
    void (*gather)(const struct kernel_ctx *cx, const float *x, const uint32_t *at, size_t n,
                   float *v);
    void (*clear)(const struct kernel_ctx *cx, const uint32_t *at, size_t n, float *x);
    void (*momentum)(const struct kernel_ctx *cx, const struct mix_momentum *m, const float *x,
                     const float *u0, const float *v0, size_t n, float *u, float *v);
    // Into an update of `values` values, which is 0 elsewhere unless the sink adds.
    void (*give)(const struct kernel_ctx *cx, const uint32_t *at, const float *v, size_t n,
                 size_t values, struct quant_sink to);
};

extern const struct select_stages select_stages_cpu; // sparsify.c

// Vectors added value by value.
struct mix_stages {
    // out = a x + b y; out may be x or y.
    void (*sum)(const struct kernel_ctx *cx, float a, const float *x, float b, const float *y,
                size_t n, float *out);
};

extern const struct mix_stages mix_stages_cpu; // mix.c

// One column.
struct codec_stages {
    const char *name;
    bool whole;                       // everything in one call, else pieces
    const struct quant_stages *quant; // NULL = not on this device
    const struct alloc_stages *alloc;
    const struct entropy_stages *entropy; // NULL on the CPU, too: its threads code what they made
    const struct rotate_stages *rotate;
    const struct select_stages *select;
    const struct mix_stages *mix;
};
extern const struct codec_stages codec_stages_cpu;

#ifdef __cplusplus
}
#endif
#endif
