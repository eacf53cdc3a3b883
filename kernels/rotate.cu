// Rotated quantisers: the bits of rotate.c and rotation.c. A slice of d values is rotated in two
// passes over work memory: strides of 1024 and more, then those below within tiles of 1024. Each
// value comes out of the same additions as on the CPU. Compiled without fused multiply-adds.
#include "gpu.h"
#include "gpu_codes.h"
#include "gpu_stages.h"

enum { ROTATE_THREADS = 128, ROTATE_WARPS = ROTATE_THREADS / 32, ROTATE_TILE = 1024 };
#define ROTATE_LIMIT 0x71800000u // bits of 2^100

// Lloyd-Max levels of N(0, 1) for 1 to 4 bits (Max 1960, table 1): the upper half, ascending.
static __device__ const float centroid[5][8] = {
    {0},
    {0.797884561f},
    {0.452780035f, 1.510417608f},
    {0.245094179f, 0.756005281f, 1.343909279f, 2.151945705f},
    {0.128395030f, 0.388048299f, 0.656759119f, 0.942340456f, 1.256231197f, 1.618046386f,
     2.069017227f, 2.732589571f},
};
static __device__ __forceinline__ float level_of(unsigned bits, unsigned code)
{
    unsigned half = 1u << (bits - 1);
    return code >= half ? centroid[bits][code - half] : -centroid[bits][half - 1 - code];
}

// Where slice i begins in y: slices ascend, and each is padded by less than 64.
static __device__ __forceinline__ size_t place_of(const struct rotate_slice *slice, size_t i)
{
    return ((slice[i].at - slice[0].at) / 64 + 2 * i) * 64;
}
// The word of random signs for 32 values of a slice.
static __device__ __forceinline__ unsigned signs_of(const struct rotate_slice &s, size_t i)
{
    return random_word(s.key, s.ctr, s.first / 32 + i / 32);
}
static __device__ __forceinline__ float with_sign(float x, unsigned word, unsigned i)
{
    return __uint_as_float(__float_as_uint(x) ^ (word >> i % 32 & 1u) << 31);
}
static __device__ __forceinline__ void add_and_subtract(float &x, float &y)
{
    float a = x, b = y;
    x = a + b;
    y = a - b;
}

// Sums over x, a warp 1024 values: lane l of either half takes value l of each sixteen.
static __global__ void __launch_bounds__(ROTATE_THREADS)
    look_at_slices(const float *__restrict__ x, const struct rotate_slice *__restrict__ slice,
                   struct gpu_rotate_part *__restrict__ part)
{
    const struct rotate_slice &s = slice[blockIdx.x];
    const unsigned p = blockIdx.y * ROTATE_WARPS + threadIdx.x / 32;
    const size_t at = (size_t)p * ROTATE_TILE, end = min(s.n, at + ROTATE_TILE);
    if (at >= s.n)
        return;
    double sum = 0;
    unsigned max = 0;
    for (size_t i = at + threadIdx.x % SUM_LANES; i < end; i += SUM_LANES) {
        float v = x[s.at + i];
        unsigned bits = __float_as_uint(v) & 0x7fffffffu;
        sum += (double)v * (double)v;
        max = bits > max ? bits : max;
    }
    sum = half_sum(sum);
    max = half_max(max);
    if (threadIdx.x % 32 == 0) {
        struct gpu_rotate_part *own = &part[(size_t)blockIdx.x * ROTATE_PARTS + p];
        own->dot = sum;
        own->max_bits = max;
    }
}

static __global__ void __launch_bounds__(ROTATE_THREADS)
    sum_slices(const struct rotate_slice *__restrict__ slice, size_t slices,
               const struct gpu_rotate_part *__restrict__ part,
               struct rotate_facts *__restrict__ facts, float *__restrict__ inverse)
{
    size_t i = (size_t)blockIdx.x * ROTATE_THREADS + threadIdx.x;
    if (i >= slices)
        return;
    double sum = 0;
    unsigned max = 0;
    part += i * ROTATE_PARTS;
    for (size_t p = 0; p * ROTATE_TILE < slice[i].n; p++) {
        sum += part[p].dot;
        max = part[p].max_bits > max ? part[p].max_bits : max;
    }
    facts[i].max_bits = max;
    facts[i].norm_sq = max < ROTATE_LIMIT ? sum : 0;
    facts[i].dot = 0;
    facts[i].level_sq = 0;
    inverse[i] = facts[i].norm_sq > 0x1p-200 ? (float)(1 / sqrt(sum)) : 0.0f;
}

// Code i of a slice, and what it means.
static __device__ float meaning_at(const struct rotate_slice &s, const uint8_t *in, size_t i,
                                   float scale)
{
    if (i < s.n_high)
        return level_of(s.high, get_code(in, (int)s.high, true, i)) * scale;
    if (i >= s.n_high + s.n_low)
        return 0;
    in += (s.n_high * s.high + 7) / 8;
    return level_of(s.low, get_code(in, (int)s.low, true, i - s.n_high)) * scale;
}

// 32 columns of the slice as a matrix (d / 1024, 1024): of x with its signs, or of what codes mean.
// First a thread's rows are four apart, then they are neighbours.
template <bool GIVE>
static __global__ void __launch_bounds__(ROTATE_THREADS)
    rotate_far(const float *__restrict__ x, const uint8_t *__restrict__ in,
               const float *__restrict__ scale, const struct rotate_slice *__restrict__ slice,
               float *__restrict__ y)
{
    SHARED(float, tile, [64][32]);
    SHARED(unsigned, word, [ROTATE_WARPS][16]);
    const struct rotate_slice &s = slice[blockIdx.x];
    const unsigned lane = threadIdx.x % 32, w = threadIdx.x / 32;
    const unsigned rows = s.d > ROTATE_TILE ? (unsigned)(s.d / ROTATE_TILE) : 1;
    const size_t col = blockIdx.y * 32 + lane, from = blockIdx.y * 32;
    float v[16];
    if (from >= s.d)
        return;
    if (!GIVE) {
        if (lane < 16 && w + 4 * lane < rows)
            word[w][lane] = signs_of(s, (w + 4 * lane) * (size_t)ROTATE_TILE + from);
        __syncwarp();
    }
    GPU_UNROLL(16)
    for (unsigned k = 0; k < 16; k++) {
        size_t i = (w + 4 * k) * (size_t)ROTATE_TILE + col;
        v[k] = 0;
        if (w + 4 * k < rows && GIVE)
            v[k] = meaning_at(s, in + (s.out - slice[0].out), i, scale[blockIdx.x]);
        else if (w + 4 * k < rows && i < s.n)
            v[k] = with_sign(x[s.at + i], word[w][k], lane);
    }
    GPU_UNROLL(4)
    for (unsigned h = 8; h > 0; h /= 2)
        GPU_UNROLL(16)
        for (unsigned k = 0; k < 16; k++)
            if (!(k & h) && 4 * h < rows)
                add_and_subtract(v[k], v[k | h]);
    GPU_UNROLL(16)
    for (unsigned k = 0; k < 16; k++)
        tile[w + 4 * k][lane] = v[k];
    __syncthreads();
    GPU_UNROLL(16)
    for (unsigned k = 0; k < 16; k++)
        v[k] = tile[16 * w + k][lane];
    GPU_UNROLL(2)
    for (unsigned h = 2; h > 0; h /= 2)
        GPU_UNROLL(16)
        for (unsigned k = 0; k < 16; k++)
            if (!(k & h) && h < rows)
                add_and_subtract(v[k], v[k | h]);
    y += place_of(slice, blockIdx.x) + col;
    GPU_UNROLL(16)
    for (unsigned k = 0; k < 16; k++)
        if (16 * w + k < rows && col < s.d)
            y[(16 * w + k) * (size_t)ROTATE_TILE] = v[k];
}

// A warp a tile: first a lane's values are 32 apart, then they are neighbours. y in its place, or
// with the signs into the sink.
template <bool GIVE>
static __global__ void __launch_bounds__(ROTATE_THREADS)
    rotate_near(const struct rotate_slice *__restrict__ slice, float *__restrict__ y,
                struct quant_sink sink)
{
    SHARED(float, kept, [ROTATE_WARPS][33 * 32]);
    SHARED(unsigned, word, [ROTATE_WARPS][32]);
    const struct rotate_slice &s = slice[blockIdx.x];
    const unsigned lane = threadIdx.x % 32, w = threadIdx.x / 32;
    const size_t from = (size_t)(blockIdx.y * ROTATE_WARPS + w) * ROTATE_TILE;
    const unsigned d = (unsigned)min(s.d, (size_t)ROTATE_TILE);
    float v[32];
    if (from >= s.d)
        return;
    y += place_of(slice, blockIdx.x) + from;
    if (GIVE && 32 * lane < d)
        word[w][lane] = signs_of(s, from + 32 * lane);
    GPU_UNROLL(32)
    for (unsigned r = 0; r < 32; r++)
        v[r] = 32 * r + lane < d ? y[32 * r + lane] : 0;
    GPU_UNROLL(5)
    for (unsigned h = 16; h > 0; h /= 2)
        GPU_UNROLL(32)
        for (unsigned r = 0; r < 32; r++)
            if (!(r & h) && 32 * h < d)
                add_and_subtract(v[r], v[r | h]);
    GPU_UNROLL(32)
    for (unsigned r = 0; r < 32; r++)
        kept[w][33 * r + lane] = v[r];
    __syncwarp();
    GPU_UNROLL(32)
    for (unsigned r = 0; r < 32; r++)
        v[r] = kept[w][33 * lane + r];
    GPU_UNROLL(5)
    for (unsigned h = 16; h > 0; h /= 2)
        GPU_UNROLL(32)
        for (unsigned r = 0; r < 32; r++)
            if (!(r & h) && h < d)
                add_and_subtract(v[r], v[r | h]);
    GPU_UNROLL(32)
    for (unsigned r = 0; r < 32; r++)
        kept[w][33 * lane + r] = v[r];
    __syncwarp();
    for (unsigned r = 0; r < 32; r++) {
        unsigned i = 32 * r + lane;
        float value = kept[w][33 * r + lane];
        if (!GIVE && i < d)
            y[i] = value;
        else if (GIVE && from + i < s.n)
            give_value(sink, s.at + from + i, with_sign(value, word[w][r], lane));
    }
}

// Codes. A warp takes 1024 coordinates of one width: eight a lane for whole bytes, then all again
// for the sums, <y, l> in one half and |l|^2 in the other.

static __device__ __forceinline__ unsigned nearest_code(const float *bound, unsigned bits, float v)
{
    unsigned code = 0;
    for (unsigned b = 0; b + 1 < 1u << bits; b++)
        code += v >= bound[b];
    return code;
}

static __global__ void __launch_bounds__(ROTATE_THREADS)
    code_parts(const float *__restrict__ y, const struct rotate_slice *__restrict__ slice,
               const float *__restrict__ inverse, struct gpu_rotate_part *__restrict__ part,
               uint8_t *__restrict__ out)
{
    SHARED(float, level, [2][16]);
    SHARED(float, bound, [2][16]);
    const struct rotate_slice &s = slice[blockIdx.x];
    const unsigned lane = threadIdx.x % 32, l = lane % SUM_LANES;
    const unsigned high = (unsigned)((s.n_high + ROTATE_TILE - 1) / ROTATE_TILE);
    const unsigned p = blockIdx.y * ROTATE_WARPS + threadIdx.x / 32, low = p >= high;
    if (threadIdx.x < 32) {
        unsigned bits = threadIdx.x / 16 ? s.low : s.high, i = threadIdx.x % 16;
        float own = i < 1u << bits && bits ? level_of(bits, i) : 0;
        level[threadIdx.x / 16][i] = own;
        bound[threadIdx.x / 16][i] =
            i + 1 < 1u << bits ? (own + level_of(bits, i + 1)) * 0.5f : 0.0f;
    }
    __syncthreads();
    const size_t most = low ? s.n_low : s.n_high, at = (size_t)(low ? p - high : p) * ROTATE_TILE;
    if (at >= most)
        return;
    const unsigned bits = low ? s.low : s.high, n = (unsigned)min(most - at, (size_t)ROTATE_TILE);
    const float inv = inverse[blockIdx.x];
    y += place_of(slice, blockIdx.x) + (low ? s.n_high : 0) + at;
    out += s.out - slice[0].out + (low ? (s.n_high * s.high + 7) / 8 : 0) + at / 8 * bits;
    for (unsigned i = 8 * lane; i < n; i += 8 * 32) {
        unsigned codes = 0, few = min(n - i, 8u);
        for (unsigned k = 0; k < few; k++)
            codes |= nearest_code(bound[low], bits, y[i + k] * inv) << k * bits;
        for (unsigned b = 0; 8 * b < few * bits; b++)
            out[i / 8 * bits + b] = (uint8_t)(codes >> 8 * b);
    }
    double sum = 0;
    for (unsigned i = l; i < n; i += SUM_LANES) {
        double of = (double)level[low][nearest_code(bound[low], bits, y[i] * inv)];
        sum += of * (lane < SUM_LANES ? (double)y[i] : of);
    }
    sum = half_sum(sum);
    double square = __shfl_xor_sync(GPU_ALL, sum, SUM_LANES);
    if (lane == 0) {
        struct gpu_rotate_part *own = &part[(size_t)blockIdx.x * ROTATE_PARTS + p];
        own->dot = sum;
        own->level_sq = square;
    }
}

static __global__ void __launch_bounds__(ROTATE_THREADS)
    sum_codes(const struct rotate_slice *__restrict__ slice, size_t slices,
              const struct gpu_rotate_part *__restrict__ part,
              struct rotate_facts *__restrict__ facts)
{
    size_t i = (size_t)blockIdx.x * ROTATE_THREADS + threadIdx.x;
    if (i >= slices || facts[i].max_bits >= ROTATE_LIMIT)
        return;
    const struct rotate_slice &s = slice[i];
    size_t high = (s.n_high + ROTATE_TILE - 1) / ROTATE_TILE;
    size_t all = high + (s.n_low + ROTATE_TILE - 1) / ROTATE_TILE;
    double dot = 0, dot_low = 0, level_sq = 0;
    part += i * ROTATE_PARTS;
    for (size_t p = 0; p < all; p++) {
        dot += p < high ? part[p].dot : 0;
        dot_low += p < high ? 0 : part[p].dot;
        level_sq += part[p].level_sq;
    }
    facts[i].dot = dot + dot_low;
    facts[i].level_sq = level_sq;
}

// Launchers. most: of the slices' d.

static size_t columns_of(size_t most)
{
    return most < ROTATE_TILE ? most : (size_t)ROTATE_TILE;
}
static dim3 slice_blocks(size_t slices, size_t n, size_t each)
{
    return dim3((unsigned)slices, (unsigned)((n + each - 1) / each));
}

extern "C" void GPU_OP(gpu_rotate_code)(void *stream, const float *x,
                                        const struct rotate_slice *slice, size_t slices,
                                        size_t most, struct gpu_rotate_part *part, float *inverse,
                                        float *y, struct rotate_facts *facts, uint8_t *out)
{
    const size_t tiles = ROTATE_TILE * ROTATE_WARPS;
    const struct quant_sink none = {nullptr, 1, false};
    LAUNCH(look_at_slices, slice_blocks(slices, most, tiles), ROTATE_THREADS, 0, stream, x, slice,
           part);
    LAUNCH(sum_slices, gpu_blocks(slices, ROTATE_THREADS), ROTATE_THREADS, 0, stream, slice, slices,
           part, facts, inverse);
    LAUNCH(rotate_far<false>, slice_blocks(slices, columns_of(most), 32),
           ROTATE_THREADS, 0, stream, x, nullptr, nullptr, slice, y);
    LAUNCH(rotate_near<false>, slice_blocks(slices, most, tiles), ROTATE_THREADS, 0, stream, slice,
           y, none);
    LAUNCH(code_parts, slice_blocks(slices, most + ROTATE_TILE, tiles), ROTATE_THREADS, 0, stream,
           y, slice, inverse, part, out);
    LAUNCH(sum_codes, gpu_blocks(slices, ROTATE_THREADS), ROTATE_THREADS, 0, stream, slice, slices,
           part, facts);
}

extern "C" void GPU_OP(gpu_rotate_give)(void *stream, const uint8_t *in,
                                        const struct rotate_slice *slice, size_t slices,
                                        size_t most, const float *scale, float *y,
                                        struct quant_sink sink)
{
    LAUNCH(rotate_far<true>, slice_blocks(slices, columns_of(most), 32),
           ROTATE_THREADS, 0, stream, nullptr, in, scale, slice, y);
    LAUNCH(rotate_near<true>, slice_blocks(slices, most, ROTATE_TILE * ROTATE_WARPS),
           ROTATE_THREADS, 0, stream, slice, y, sink);
}
