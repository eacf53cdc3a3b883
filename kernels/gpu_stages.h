// Parts of the codecs' stages (stages.h) that run on a GPU: launchers of kernels/quantise.cu,
// entropy.cu, mix.cu, rotate.cu, select.cu and widths.cu, whose arrays all lie on the device.
// src/dev moves what the host has.
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
// As mix_momentum.
typedef void gpu_mix_momentum_fn(void *stream, const struct mix_momentum *m, const float *x,
                                 const float *u0, const float *v0, size_t n, float *u, float *v);

// Bit allocation (kernels/widths.cu): runs, widths, cuts and places lie on the device, too, and
// what goes with each run or group; longest: values of the longest run.
struct gpu_alloc_cuts {
    int n;
    uint32_t bits[ALLOC_LEVELS];
};
// Codes of a width that lie at first bytes (of all codes) are from at on here; give: skip codes
// further, for packed ones begin with a whole byte.
struct gpu_alloc_places {
    size_t first[ALLOC_LEVELS], at[ALLOC_LEVELS], skip[ALLOC_LEVELS];
    bool packed[ALLOC_LEVELS];
};
typedef void gpu_alloc_score_fn(void *stream, const struct alloc_vectors *v,
                                const struct alloc_rule *rule, const struct alloc_run *run,
                                size_t runs, size_t longest, float *u);
// x, w: from value `base` of the sample on; longest: of what is drawn.
typedef void gpu_alloc_draw_fn(void *stream, const struct alloc_vectors *v,
                               const struct alloc_rule *rule, const struct alloc_run *run,
                               const struct alloc_draw *draw, size_t runs, size_t longest,
                               size_t base, float *x, float *w);
// Of one run. equal, keep: (tiles of 1024, ALLOC_LEVELS)
typedef void gpu_alloc_cut_fn(void *stream, const float *u, size_t n,
                              const struct gpu_alloc_cuts *cut, uint8_t *tag, uint32_t *equal);
typedef void gpu_alloc_drop_fn(void *stream, const float *u, size_t n,
                               const struct gpu_alloc_cuts *cut, const uint32_t *keep,
                               uint8_t *tag);
// levels: by group; NULL: only counts. count: (runs, ALLOC_LEVELS)
typedef void gpu_alloc_choose_fn(void *stream, const struct alloc_vectors *v,
                                 const struct alloc_rule *rule, const struct alloc_run *run,
                                 size_t runs, size_t longest, const struct alloc_levels *levels,
                                 size_t from, size_t to, uint8_t *tag, int64_t *count);
// tier: (runs, ALLOC_LEVELS); bins adds.
typedef void gpu_alloc_spans_fn(void *stream, const float *x, const uint8_t *tag,
                                const struct alloc_run *run, size_t runs, int levels,
                                struct alloc_tier *tier);
typedef void gpu_alloc_bins_fn(void *stream, const float *x, const uint8_t *tag,
                               const struct alloc_run *run, size_t runs, size_t longest,
                               const struct alloc_widths *widths, struct alloc_tier *tier);
// scale: (groups, ALLOC_LEVELS); start: (runs, ALLOC_LEVELS)
typedef void gpu_alloc_code_fn(void *stream, const float *x, const uint8_t *tag,
                               const struct alloc_run *run, size_t runs,
                               const struct alloc_widths *widths, const float *scale,
                               const size_t *start, uint8_t *out);
// tag: from place first_place on.
typedef void gpu_alloc_give_fn(void *stream, const uint8_t *in, const uint8_t *tag,
                               size_t first_place, const struct alloc_run *run, size_t runs,
                               const struct alloc_widths *widths, const float *scale,
                               const size_t *start, const struct gpu_alloc_places *places,
                               struct quant_sink sink);

// Codes and tags as bytes (kernels/entropy.cu).
typedef void gpu_entropy_count_fn(void *stream, const uint8_t *code, size_t n,
                                  unsigned long long *count);
// e: on the device. Stream k ends at streams + (k + 1) room, an even number. len: (chunks)
typedef void gpu_entropy_rans_fn(void *stream, const struct rans_encoder *e, const uint8_t *code,
                                 size_t n, size_t chunk, size_t room, uint8_t *streams,
                                 uint32_t *len);
// kept: of tags a bit each, 1 where it is not 0.
typedef void gpu_entropy_pack_fn(void *stream, const uint8_t *code, size_t n, unsigned width,
                                 bool kept, uint8_t *out);
// Tags are coded tile by tile: of each how many bits it takes, later where these begin, and one
// more than the place of the last tag that is kept, 0 where none is.
#define GPU_TAG_TILE 1024
struct gpu_tag_tile {
    unsigned long long bits;
    uint32_t last;
};
// Kept tags at k bits, or Rice codes by parameter k; skipped: tags since the last kept one before.
struct gpu_tag_code {
    bool rice;
    unsigned k;
    uint64_t skipped;
};
// tile: (n / GPU_TAG_TILE, rounded up)
typedef void gpu_entropy_measure_fn(void *stream, const uint8_t *tag, size_t n,
                                    const struct gpu_tag_code *c, struct gpu_tag_tile *tile);
// word: zeros
typedef void gpu_entropy_put_fn(void *stream, const uint8_t *tag, size_t n,
                                const struct gpu_tag_code *c, const struct gpu_tag_tile *tile,
                                uint32_t *word);

// Rotated quantisers (kernels/rotate.cu): slices, which ascend, lie on the device, and their codes
// from the first one's on; most: of their d.
#define ROTATE_PARTS (ROTATE_MOST / 1024 + 1) // of a slice, and one more where two widths meet
struct gpu_rotate_part {
    double dot, level_sq;
    uint32_t max_bits;
};
// Where slice i begins in y: each is padded by less than 64.
static inline size_t gpu_rotate_place(const struct rotate_slice *slice, size_t i)
{
    return ((slice[i].at - slice->at) / 64 + 2 * i) * 64;
}
typedef void gpu_rotate_code_fn(void *stream, const float *x, const struct rotate_slice *slice,
                                size_t slices, size_t most, struct gpu_rotate_part *part,
                                float *inverse, float *y, struct rotate_facts *facts, uint8_t *out);
typedef void gpu_rotate_give_fn(void *stream, const uint8_t *in, const struct rotate_slice *slice,
                                size_t slices, size_t most, const float *scale, float *y,
                                struct quant_sink sink);

// Sparsifiers (kernels/select.cu): runs lie on the device, and what goes with each group. Counts of
// upper and of lower bits (select_count), which add; have: and of what is not zero, or NULL.
typedef void gpu_select_upper_fn(void *stream, const float *x, size_t n, int side, uint32_t *count,
                                 uint32_t *have);
typedef void gpu_select_within_fn(void *stream, const float *x, size_t n, int side, unsigned shift,
                                  const struct gpu_alloc_cuts *prefix, uint32_t *count);
// stride, bins: of groups, from the first run's on; longest: of what is looked at.
typedef void gpu_select_sample_fn(void *stream, const float *x, const struct select_run *run,
                                  size_t runs, size_t longest, const size_t *stride, int side,
                                  uint32_t *bins);

// What is taken of a group: all from some magnitude on, or what a choice says, whose ties go down.
struct gpu_select_cuts {
    const uint32_t *least; // by group, or NULL
    struct select_choice *choice;
    uint32_t group0; // choice's first
};
#define SELECT_TILE 1024
struct gpu_select_tile {
    uint32_t n, ties, to; // are taken, ties among them; where they begin
};
// Tiles of runs that ascend, some of which are no run's: to be zero before.
static inline size_t gpu_select_tiles(const struct select_run *run, size_t runs)
{
    const struct select_run *last = &run[runs - 1];
    return (last->at - run->at) / SELECT_TILE + runs + (last->n + SELECT_TILE - 1) / SELECT_TILE;
}
typedef void gpu_select_count_fn(void *stream, const float *x, const struct select_run *run,
                                 size_t runs, size_t longest, const struct gpu_select_cuts *cuts,
                                 size_t tiles, struct gpu_select_tile *tile, size_t *total);
// Those in places [from, to); at: or NULL.
typedef void gpu_select_fill_fn(void *stream, const float *x, const struct select_run *run,
                                size_t runs, size_t longest, const struct gpu_select_cuts *cuts,
                                const struct gpu_select_tile *tile, size_t from, size_t to,
                                uint32_t *at, float *v);
typedef void gpu_select_gather_fn(void *stream, const float *x, const uint32_t *at, size_t n,
                                  float *v);
typedef void gpu_select_scatter_fn(void *stream, const uint32_t *at, const float *v, size_t n,
                                   struct quant_sink sink); // v NULL: zeros

#define GPU_STAGES(OP)                                                                             \
    OP(gpu_quant_fit)                                                                              \
    OP(gpu_quant_code)                                                                             \
    OP(gpu_quant_give)                                                                             \
    OP(gpu_quant_centre)                                                                           \
    OP(gpu_turn_matrix)                                                                            \
    OP(gpu_mix_sum)                                                                                \
    OP(gpu_mix_momentum)                                                                           \
    OP(gpu_alloc_score)                                                                            \
    OP(gpu_alloc_draw)                                                                             \
    OP(gpu_alloc_cut)                                                                              \
    OP(gpu_alloc_drop)                                                                             \
    OP(gpu_alloc_choose)                                                                           \
    OP(gpu_alloc_spans)                                                                            \
    OP(gpu_alloc_bins)                                                                             \
    OP(gpu_alloc_code)                                                                             \
    OP(gpu_alloc_give)                                                                             \
    OP(gpu_entropy_count)                                                                          \
    OP(gpu_entropy_rans)                                                                           \
    OP(gpu_entropy_pack)                                                                           \
    OP(gpu_entropy_measure)                                                                        \
    OP(gpu_entropy_put)                                                                            \
    OP(gpu_rotate_code)                                                                            \
    OP(gpu_rotate_give)                                                                            \
    OP(gpu_select_upper)                                                                           \
    OP(gpu_select_within)                                                                          \
    OP(gpu_select_sample)                                                                          \
    OP(gpu_select_count)                                                                           \
    OP(gpu_select_fill)                                                                            \
    OP(gpu_select_gather)                                                                          \
    OP(gpu_select_scatter)

#define GPU_STAGES_DECLARE(name) name##_fn name##_cuda, name##_emu;
GPU_STAGES(GPU_STAGES_DECLARE)
#undef GPU_STAGES_DECLARE

#ifdef __cplusplus
}
#endif

#endif
