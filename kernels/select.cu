// Sparsifiers: the choices of select.c and sparsify.c.
#include "gpu.h"
#include "gpu_codes.h"
#include "gpu_stages.h"

enum { SELECT_THREADS = 128, SELECT_WARPS = SELECT_THREADS / 32, PLACE_THREADS = 256 };

// Bits of |x|; a side that x is not on counts as zero.
static __device__ __forceinline__ unsigned magnitude_on(float x, int side)
{
    unsigned u = __float_as_uint(x), a = u & 0x7fffffffu;
    return side == SELECT_ABS || (side == SELECT_NEGATIVE) == (u >> 31 != 0) ? a : 0;
}

// Histograms.

// Upper bits, in shared memory, and how many values are not zero, or NULL.
static __global__ void __launch_bounds__(SELECT_THREADS)
    count_upper(const float *__restrict__ x, size_t n, int side, unsigned *__restrict__ count,
                unsigned *__restrict__ have)
{
    SHARED(unsigned, own, [SELECT_BINS]);
    unsigned some = 0;
    for (int b = (int)threadIdx.x; b < SELECT_BINS; b += SELECT_THREADS)
        own[b] = 0;
    __syncthreads();
    size_t at = (size_t)blockIdx.x * SELECT_TILE, step = (size_t)gridDim.x * SELECT_TILE;
    for (; at < n; at += step)
        for (size_t i = at + threadIdx.x; i < min(n, at + SELECT_TILE); i += SELECT_THREADS) {
            unsigned a = magnitude_on(x[i], side);
            atomicAdd(&own[a >> 20], 1u);
            some += a > 0;
        }
    __syncthreads();
    for (int b = (int)threadIdx.x; b < SELECT_BINS; b += SELECT_THREADS)
        if (own[b])
            atomicAdd(&count[b], own[b]);
    if (have && some)
        atomicAdd(have, some);
}

// Lower bits of values whose upper bits are one of the prefixes, which few are.
static __global__ void __launch_bounds__(SELECT_THREADS)
    count_within(const float *__restrict__ x, size_t n, int side, unsigned shift,
                 const struct gpu_alloc_cuts *__restrict__ c, unsigned *__restrict__ count)
{
    size_t i = (size_t)blockIdx.x * SELECT_THREADS + threadIdx.x;
    unsigned a = i < n ? magnitude_on(x[i], side) : 0;
    for (int k = 0; k < c->n && i < n; k++)
        if (a >> (shift + 10) == c->bits[k])
            atomicAdd(&count[k * SELECT_BINS + (int)(a >> shift & 1023)], 1u);
}

// Sixteen values in every 16 stride of a run, into the bins of its group.
static __global__ void __launch_bounds__(SELECT_THREADS)
    sample_runs(const float *__restrict__ x, const struct select_run *__restrict__ run,
                const size_t *__restrict__ stride, int side, unsigned *__restrict__ bins)
{
    SHARED(unsigned, own, [SELECT_BINS]);
    const struct select_run &r = run[blockIdx.x];
    const unsigned g = r.group - run[0].group;
    const size_t every = stride[g];
    const size_t n = every && r.n >= 16 ? 16 * ((r.n - 16) / (16 * every) + 1) : 0;
    if ((size_t)blockIdx.y * SELECT_TILE >= n)
        return;
    for (int b = (int)threadIdx.x; b < SELECT_BINS; b += SELECT_THREADS)
        own[b] = 0;
    __syncthreads();
    size_t at = (size_t)blockIdx.y * SELECT_TILE, step = (size_t)gridDim.y * SELECT_TILE;
    for (; at < n; at += step)
        for (size_t i = at + threadIdx.x; i < min(n, at + SELECT_TILE); i += SELECT_THREADS)
            atomicAdd(&own[magnitude_on(x[r.at + i / 16 * 16 * every + i % 16], side) >> 20], 1u);
    __syncthreads();
    for (int b = (int)threadIdx.x; b < SELECT_BINS; b += SELECT_THREADS)
        if (own[b])
            atomicAdd(&bins[(size_t)g * SELECT_BINS + (unsigned)b], own[b]);
}

// What is taken, in its order: tiles count theirs, one block says where each tile's begin, and
// tiles write them there. A warp takes a tile.

struct cut {
    unsigned least, tie; // taken is what is at least the one, and of what is the other some
    int side;
};
// What all groups take, or each its own.
static __device__ cut cut_of(const struct gpu_select_cuts &c, unsigned group)
{
    if (c.least)
        return {c.least[group], 0xffffffffu, SELECT_ABS};
    const struct select_choice &own = c.choice[group - c.group0];
    return {own.threshold.prefix + 1, own.threshold.prefix, own.side};
}

// The first of a run's tiles: runs ascend, and each has one more than whole ones at most.
static __device__ __forceinline__ size_t tile_of(const struct select_run *run, size_t r)
{
    return (run[r].at - run[0].at) / SELECT_TILE + r;
}

static __global__ void __launch_bounds__(SELECT_THREADS)
    count_tiles(const float *__restrict__ x, const struct select_run *__restrict__ run,
                struct gpu_select_cuts cuts, struct gpu_select_tile *__restrict__ tile)
{
    const struct select_run &r = run[blockIdx.x];
    const cut c = cut_of(cuts, r.group);
    const size_t first = tile_of(run, blockIdx.x);
    size_t t = (size_t)blockIdx.y * SELECT_WARPS + threadIdx.x / 32;
    for (; t * SELECT_TILE < r.n; t += (size_t)gridDim.y * SELECT_WARPS) {
        size_t end = min(r.n, (t + 1) * SELECT_TILE);
        unsigned above = 0, ties = 0;
        for (size_t i = t * SELECT_TILE + threadIdx.x % 32; i < end; i += 32) {
            unsigned a = magnitude_on(x[r.at + i], c.side);
            above += a >= c.least;
            ties += a == c.tie;
        }
        unsigned both = warp_sum(above << 16 | ties);
        if (threadIdx.x % 32 == 0) {
            tile[first + t].n = both >> 16;
            tile[first + t].ties = both & 0xffff;
        }
    }
}

// How many ties each tile keeps: of each group the first ones.
static __device__ void share_ties(const struct select_run *run, size_t runs,
                                  const struct gpu_select_cuts &cuts, struct gpu_select_tile *tile,
                                  unsigned *few)
{
    for (size_t r = 0; r < runs; r++) {
        size_t begin = tile_of(run, r), end = begin + (run[r].n + SELECT_TILE - 1) / SELECT_TILE;
        size_t *left = &cuts.choice[run[r].group - cuts.group0].threshold.left;
        for (size_t at = begin; at < end; at += PLACE_THREADS) {
            size_t t = at + threadIdx.x;
            few[threadIdx.x] = t < end ? tile[t].ties : 0;
            __syncthreads();
            for (unsigned i = 0; threadIdx.x == 0 && i < PLACE_THREADS; i++) {
                few[i] = (unsigned)min((size_t)few[i], *left);
                *left -= few[i];
            }
            __syncthreads();
            if (t < end) {
                tile[t].ties = few[threadIdx.x];
                tile[t].n += few[threadIdx.x];
            }
        }
    }
}

// A thread adds up tiles that lie together.
static __global__ void __launch_bounds__(PLACE_THREADS)
    place_tiles(const struct select_run *__restrict__ run, size_t runs,
                struct gpu_select_cuts cuts, size_t tiles, struct gpu_select_tile *tile,
                size_t *__restrict__ total)
{
    SHARED(unsigned, part, [PLACE_THREADS]);
    if (cuts.choice) {
        share_ties(run, runs, cuts, tile, part);
        __syncthreads();
    }
    size_t each = (tiles + PLACE_THREADS - 1) / PLACE_THREADS;
    size_t begin = min(tiles, threadIdx.x * each), end = min(tiles, begin + each);
    unsigned sum = 0;
    for (size_t t = begin; t < end; t++)
        sum += tile[t].n;
    part[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned i = 0, at = 0; threadIdx.x == 0 && i < PLACE_THREADS; i++) {
        unsigned own = part[i];
        part[i] = at;
        at += own;
        *total = at;
    }
    __syncthreads();
    unsigned at = part[threadIdx.x];
    for (size_t t = begin; t < end; t++) {
        tile[t].to = at;
        at += tile[t].n;
    }
}

// Those whose place is in [from, to): positions, or NULL, and values.
static __global__ void __launch_bounds__(SELECT_THREADS)
    fill_tiles(const float *__restrict__ x, const struct select_run *__restrict__ run,
               struct gpu_select_cuts cuts, const struct gpu_select_tile *__restrict__ tile,
               size_t from, size_t to, unsigned *__restrict__ at, float *__restrict__ v)
{
    const struct select_run &r = run[blockIdx.x];
    const cut c = cut_of(cuts, r.group);
    const size_t first = tile_of(run, blockIdx.x);
    const unsigned lane = threadIdx.x % 32, before = (1u << lane) - 1;
    size_t t = (size_t)blockIdx.y * SELECT_WARPS + threadIdx.x / 32;
    for (; t * SELECT_TILE < r.n; t += (size_t)gridDim.y * SELECT_WARPS) {
        const struct gpu_select_tile own = tile[first + t];
        size_t end = min(r.n, (t + 1) * SELECT_TILE), place = own.to;
        if (place >= to || place + own.n <= from)
            continue;
        unsigned ties = 0;
        for (size_t step = t * SELECT_TILE; step < end; step += 32) {
            size_t i = step + lane;
            float value = i < end ? x[r.at + i] : 0;
            unsigned a = i < end ? magnitude_on(value, c.side) : 0;
            bool hit = i < end && a >= c.least;
            if (own.ties) { // the same for the warp
                bool tie = i < end && a == c.tie;
                unsigned same = __ballot_sync(GPU_ALL, tie);
                hit |= tie && ties + (unsigned)__popc(same & before) < own.ties;
                ties += (unsigned)__popc(same);
            }
            unsigned hits = __ballot_sync(GPU_ALL, hit);
            size_t p = place + (unsigned)__popc(hits & before);
            if (hit && p >= from && p < to) {
                if (at)
                    at[p - from] = (unsigned)(r.at + i);
                v[p - from] = value;
            }
            place += (unsigned)__popc(hits);
        }
    }
}

// By positions.

static __global__ void __launch_bounds__(SELECT_THREADS)
    gather_values(const float *__restrict__ x, const unsigned *__restrict__ at, size_t n,
                  float *__restrict__ v)
{
    size_t i = (size_t)blockIdx.x * SELECT_THREADS + threadIdx.x;
    if (i < n)
        v[i] = x[at[i]];
}

// v NULL: zeros
static __global__ void __launch_bounds__(SELECT_THREADS)
    scatter_values(const unsigned *__restrict__ at, const float *__restrict__ v, size_t n,
                   struct quant_sink sink)
{
    size_t i = (size_t)blockIdx.x * SELECT_THREADS + threadIdx.x;
    if (i < n)
        give_value(sink, at[i], v ? v[i] : 0.0f);
}

// Launchers.

static dim3 blocks_of(size_t runs, size_t longest, size_t each)
{
    size_t n = (longest + each - 1) / each;
    return dim3((unsigned)runs, (unsigned)(n < 1 ? 1 : n < 65535 ? n : 65535));
}

extern "C" void GPU_OP(gpu_select_upper)(void *stream, const float *x, size_t n, int side,
                                         uint32_t *count, uint32_t *have)
{
    size_t tiles = (n + SELECT_TILE - 1) / SELECT_TILE;
    LAUNCH(count_upper, (unsigned)(tiles < 4096 ? tiles : 4096), SELECT_THREADS, 0, stream, x, n,
           side, count, have);
}

extern "C" void GPU_OP(gpu_select_within)(void *stream, const float *x, size_t n, int side,
                                          unsigned shift, const struct gpu_alloc_cuts *prefix,
                                          uint32_t *count)
{
    LAUNCH(count_within, gpu_blocks(n, SELECT_THREADS), SELECT_THREADS, 0, stream, x, n, side,
           shift, prefix, count);
}

extern "C" void GPU_OP(gpu_select_sample)(void *stream, const float *x,
                                          const struct select_run *run, size_t runs, size_t longest,
                                          const size_t *stride, int side, uint32_t *bins)
{
    LAUNCH(sample_runs, blocks_of(runs, longest, SELECT_TILE), SELECT_THREADS, 0, stream, x, run,
           stride, side, bins);
}

extern "C" void GPU_OP(gpu_select_count)(void *stream, const float *x,
                                         const struct select_run *run, size_t runs, size_t longest,
                                         const struct gpu_select_cuts *cuts, size_t tiles,
                                         struct gpu_select_tile *tile, size_t *total)
{
    LAUNCH(count_tiles, blocks_of(runs, longest, SELECT_TILE * SELECT_WARPS), SELECT_THREADS, 0,
           stream, x, run, *cuts, tile);
    LAUNCH(place_tiles, 1, PLACE_THREADS, 0, stream, run, runs, *cuts, tiles, tile, total);
}

extern "C" void GPU_OP(gpu_select_fill)(void *stream, const float *x, const struct select_run *run,
                                        size_t runs, size_t longest,
                                        const struct gpu_select_cuts *cuts,
                                        const struct gpu_select_tile *tile, size_t from, size_t to,
                                        uint32_t *at, float *v)
{
    LAUNCH(fill_tiles, blocks_of(runs, longest, SELECT_TILE * SELECT_WARPS), SELECT_THREADS, 0,
           stream, x, run, *cuts, tile, from, to, at, v);
}

extern "C" void GPU_OP(gpu_select_gather)(void *stream, const float *x, const uint32_t *at,
                                          size_t n, float *v)
{
    LAUNCH(gather_values, gpu_blocks(n, SELECT_THREADS), SELECT_THREADS, 0, stream, x, at, n, v);
}

extern "C" void GPU_OP(gpu_select_scatter)(void *stream, const uint32_t *at, const float *v,
                                           size_t n, struct quant_sink sink)
{
    LAUNCH(scatter_values, gpu_blocks(n, SELECT_THREADS), SELECT_THREADS, 0, stream, at, v, n,
           sink);
}
