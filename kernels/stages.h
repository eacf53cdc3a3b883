// What a device fills for the codecs: their whole-vector passes, one table of functions a family,
// under the host logic of src/codec. A stage goes over a list of runs. A device is given all runs
// of an update in one call; the CPU is given pieces that stay in its caches, by whichever thread
// takes them.
//
// The update and what is as long as it lie on the device (x, y, u, v, to); all else is the host's:
// what goes out (sums, codes, positions) is there when the stage returns. Every column gives the
// same bits.
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
    uint32_t key[2], ctr[4]; // of its random words (base/rng.h), one a value
    size_t drawn;            // the number of its first value's
};

// How values become codes, and what these mean.
enum quant_kind {
    QUANT_NEAREST,    // q + the nearest of -q..q
    QUANT_STOCHASTIC, // q + one of the two around it, unbiased
    QUANT_DITHER, // q + the nearest to the value and a random part, which the receiver takes off
    QUANT_SIGN,   // 1 where x >= 0
    QUANT_COIN,   // 1 with probability (x / scale + 1) / 2
    QUANT_BOUNDS, // how many of the bounds are at or below x / scale
    QUANT_POWERS, // q + sign and power of two: 0, 2^(1-q), ..., 1/2, 1 times the scale, unbiased
    QUANT_FP16,   // x times the scale; its reciprocal is the receiver's
    QUANT_BF16,
    QUANT_FP32,
};
struct quant_rule {
    enum quant_kind kind;
    int q;
    unsigned kinds;   // of codes
    unsigned width;   // bits of a code as it is packed; 8: a byte
    unsigned scales;  // floats a group: 2 are the two levels of a sign, else one
    float bound[16];  // QUANT_BOUNDS: kinds - 1, ascending
    float level[256]; // QUANT_BOUNDS and _POWERS: (kinds), times the scale; linear codes and signs
                      // have none
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
    // Matrices (rows, cols) to (cols, rows) at the same place, and back into the sink.
    void (*turn)(const struct kernel_ctx *cx, const float *x, const struct quant_matrix *m,
                 size_t matrices, float *y);
    void (*turn_back)(const struct kernel_ctx *cx, const float *y, const struct quant_matrix *m,
                      size_t matrices, struct quant_sink to);
};

extern const struct quant_stages quant_stages_cpu; // quantise.c

// One column.
struct codec_stages {
    const char *name;
    bool whole; // everything in one call, else pieces
    const struct quant_stages *quant;
};
extern const struct codec_stages codec_stages_cpu;

#ifdef __cplusplus
}
#endif
#endif
