// Parts of the codecs' stages (stages.h) that run on a GPU: launchers of kernels/quantise.cu and
// mix.cu, each for one run, matrix or vector, whose arrays all lie on the device. src/dev moves
// what the host has.
#ifndef FSTQ_KERNELS_GPU_STAGES_H
#define FSTQ_KERNELS_GPU_STAGES_H

#include "kernels.h"
#ifdef __cplusplus // to which a struct and a function of one name are too many
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#include "stages.h"
#pragma GCC diagnostic pop
#else
#include "stages.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

// Of at most 1024 values of a group.
struct gpu_quant_part {
    double sum, abs, sq;
    uint32_t nonneg, max_bits;
};
// A run has so many groups, and parts of them.
static inline size_t gpu_quant_groups(const struct quant_run *r)
{
    return r->group < r->n ? (r->n + r->group - 1) / r->group : 1;
}
static inline size_t gpu_quant_parts(const struct quant_run *r)
{
    return gpu_quant_groups(r) * (((r->group < r->n ? r->group : r->n) + 1023) / 1024);
}

// x: from the run's first value on. stats: (groups). signs: a bit a value of the run, or NULL.
typedef void gpu_quant_fit_fn(void *stream, const float *x, const struct quant_run *r,
                              unsigned wanted, struct gpu_quant_part *part,
                              struct quant_stats *stats, uint8_t *signs);
// Values [from, to) of the run, from a multiple of 8; scale: the run's; bytes: of these values.
typedef void gpu_quant_code_fn(void *stream, const float *x, const struct quant_run *r,
                               const struct quant_rule *rule, const float *scale, size_t from,
                               size_t to, uint8_t *bytes);
typedef void gpu_quant_give_fn(void *stream, const uint8_t *bytes, const struct quant_run *r,
                               const struct quant_rule *rule, const float *scale, size_t from,
                               size_t to, struct quant_sink sink);
// Parts [from, to) of the run; bytes: the codes from the first one's first value on. part: (parts);
// once the last one is there, centres: (groups).
typedef void gpu_quant_centre_fn(void *stream, const float *x, const uint8_t *bytes,
                                 const struct quant_run *r, size_t from, size_t to, int q,
                                 struct quant_centres *part, struct quant_centres *centres);
// A matrix (rows, cols) to (cols, rows).
typedef void gpu_turn_matrix_fn(void *stream, const float *x, size_t rows, size_t cols,
                                struct quant_sink sink);

// out = a x + b y
typedef void gpu_mix_sum_fn(void *stream, float a, const float *x, float b, const float *y,
                            size_t n, float *out);

#define GPU_STAGES(OP)                                                                             \
    OP(gpu_quant_fit)                                                                              \
    OP(gpu_quant_code)                                                                             \
    OP(gpu_quant_give)                                                                             \
    OP(gpu_quant_centre)                                                                           \
    OP(gpu_turn_matrix)                                                                            \
    OP(gpu_mix_sum)

#define GPU_STAGES_DECLARE(name) name##_fn name##_cuda, name##_emu;
GPU_STAGES(GPU_STAGES_DECLARE)
#undef GPU_STAGES_DECLARE

#ifdef __cplusplus
}
#endif

#endif
