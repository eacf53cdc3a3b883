// Dense quantisers: the bytes of quant.c, pack.c and sums.c. Compiled without fused multiply-adds.
#include "gpu.h"
#include "gpu_codes.h"
#include "gpu_stages.h"

enum { QUANT_THREADS = 128, PART_VALUES = 1024, LANES = SUM_LANES };
#define QUANT_LIMIT 0x1p100 // magnitudes below it are sound

// Fitting. A warp a part: value i goes to lane i % 16 of either half, and a fixed tree adds the
// lanes; one half sums values and magnitudes, the other one squares.
static __global__ void __launch_bounds__(QUANT_THREADS)
    fit_parts(const float *__restrict__ x, size_t n, size_t group, size_t parts, size_t each,
              struct gpu_quant_part *__restrict__ part)
{
    size_t p = (size_t)blockIdx.x * (QUANT_THREADS / 32) + threadIdx.x / 32;
    int lane = (int)(threadIdx.x % 32), l = lane % LANES, square = lane / LANES;
    if (p >= parts)
        return;
    size_t begin = p / each * group, at = begin + p % each * PART_VALUES;
    size_t end = min(min(begin + group, n), at + (size_t)PART_VALUES);
    double sum = 0, abs = 0;
    unsigned count = 0, max = 0;
    for (size_t i = at + (size_t)l; i < end; i += LANES) {
        float v = x[i];
        unsigned bits = __float_as_uint(v) & 0x7fffffffu;
        sum += square ? (double)v * (double)v : (double)v;
        abs += (double)__uint_as_float(bits);
        count += v >= 0;
        max = bits > max ? bits : max;
    }
    sum = half_sum(sum);
    abs = half_sum(abs);
    count = half_sum(count);
    max = half_max(max);
    double sq = __shfl_xor_sync(GPU_ALL, sum, LANES);
    if (lane == 0) {
        part[p].sum = sum;
        part[p].abs = abs;
        part[p].sq = sq;
        part[p].nonneg = count;
        part[p].max_bits = max;
    }
}

// A thread a group, its parts in their order.
static __global__ void __launch_bounds__(QUANT_THREADS)
    fit_groups(const struct gpu_quant_part *__restrict__ part, size_t groups, size_t each,
               unsigned wanted, struct quant_stats *__restrict__ stats)
{
    size_t g = (size_t)blockIdx.x * QUANT_THREADS + threadIdx.x;
    if (g >= groups)
        return;
    double sum = 0, abs = 0, sq = 0;
    size_t nonneg = 0;
    unsigned max = 0;
    for (size_t p = g * each; p < (g + 1) * each; p++) {
        sum += part[p].sum;
        abs += part[p].abs;
        sq += part[p].sq;
        nonneg += part[p].nonneg;
        max = part[p].max_bits > max ? part[p].max_bits : max;
    }
    bool sound = (wanted & QUANT_NO_MAX) && (!(wanted & QUANT_ABS) || abs < QUANT_LIMIT);
    stats[g].sum = wanted & QUANT_SUM ? sum : 0;
    stats[g].abs = wanted & QUANT_ABS ? abs : 0;
    stats[g].sq = wanted & QUANT_SQ ? sq : 0;
    stats[g].nonneg = wanted & QUANT_NONNEG ? nonneg : 0;
    stats[g].max_bits = sound ? 0 : max;
}

static __global__ void __launch_bounds__(QUANT_THREADS)
    sign_bits(const float *__restrict__ x, size_t n, uint8_t *__restrict__ out)
{
    size_t i = (size_t)blockIdx.x * QUANT_THREADS + threadIdx.x, at = 8 * i;
    unsigned bits = 0;
    for (int k = 0; k < 8 && at + (size_t)k < n; k++)
        bits |= (unsigned)(x[at + (size_t)k] >= 0) << k;
    if (at < n)
        out[i] = (uint8_t)bits;
}

static __device__ __forceinline__ unsigned drawn_word(const struct quant_run &r, size_t i)
{
    return random_word(r.key, r.ctr, r.drawn + i);
}

static __device__ __forceinline__ float unit_of(unsigned word)
{
    return (float)(int)(word >> 8) * 5.9604644775390625e-8f; // 2^-24
}
static __device__ unsigned power_code(float x, float inv, int q, unsigned word)
{
    float up = __uint_as_float((unsigned)(q - 1 + 127) << 23);
    float t = __uint_as_float(__float_as_uint(x) & 0x7fffffffu) * inv * up;
    int coin = unit_of(word) < t;
    int octave = (int)((__float_as_uint(t) + (word >> 9)) >> 23) - 126;
    octave = octave < q ? octave : q;
    int level = t < 1 ? coin : octave;
    return (unsigned)(__float_as_uint(x) >> 31 ? q - level : q + level);
}

static __device__ unsigned code_of(const struct quant_run &r, const struct quant_rule &rule,
                                   float x, float scale, size_t i)
{
    float inv = scale != 0 ? 1 / scale : 0, v = x * inv;
    int q = rule.q;
    unsigned count = 0;
    switch (rule.kind) {
    case QUANT_NEAREST:
        return (unsigned)(nearest_int(clip(v, (float)q)) + q);
    case QUANT_STOCHASTIC: {
        float a = (v < 0 ? -v : v) + unit_of(drawn_word(r, i));
        int level = (int)(a < (float)q ? a : (float)q);
        return (unsigned)(v < 0 ? q - level : q + level);
    }
    case QUANT_DEADZONE: {
        float a = (v < 0 ? -v : v) + rule.round;
        int level = (int)(a < (float)q ? a : (float)q);
        return (unsigned)(v < 0 ? q - level : q + level);
    }
    case QUANT_DITHER:
        return (unsigned)(int)(clip(v, (float)q - 1) + unit_of(drawn_word(r, i)) + (float)q);
    case QUANT_SIGN:
        return x >= 0;
    case QUANT_COIN:
        return unit_of(drawn_word(r, i)) < v * 0.5f + 0.5f;
    case QUANT_BOUNDS:
        for (unsigned b = 0; b + 1 < rule.kinds; b++)
            count += v >= rule.bound[b];
        return count;
    default:
        return power_code(x, inv, q, drawn_word(r, i));
    }
}

static __device__ unsigned number_bits(enum quant_kind kind, float x, float scale)
{
    unsigned u = __float_as_uint(x);
    float v = x * scale;
    if (kind == QUANT_FP32)
        return u;
    if (kind == QUANT_BF16)
        return (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    return half_bits(within_half(v));
}

static __device__ __forceinline__ size_t group_of(const struct quant_run &r, size_t i)
{
    return r.group < r.n ? i / r.group : 0;
}

// Eight values per thread, whose codes are whole bytes.
static __global__ void __launch_bounds__(QUANT_THREADS)
    code_values(const float *__restrict__ x, struct quant_run r, struct quant_rule rule,
                const float *__restrict__ scale, size_t from, size_t to, uint8_t *__restrict__ out)
{
    size_t k = (size_t)blockIdx.x * QUANT_THREADS + threadIdx.x, at = from + 8 * k;
    uint64_t codes = 0;
    if (at >= to)
        return;
    unsigned n = to - at < 8 ? (unsigned)(to - at) : 8;
    for (unsigned j = 0; j < n; j++) {
        float own = scale[group_of(r, at + j) * rule.scales];
        codes |= (uint64_t)(code_of(r, rule, x[at + j], own, at + j) & 0xff) << j * rule.width;
    }
    out += k * rule.width;
    for (unsigned b = 0; 8 * b < n * rule.width; b++)
        out[b] = (uint8_t)(codes >> 8 * b);
}

static __global__ void __launch_bounds__(QUANT_THREADS)
    code_numbers(const float *__restrict__ x, struct quant_run r, enum quant_kind kind,
                 const float *__restrict__ scale, size_t from, size_t to, uint8_t *__restrict__ out)
{
    size_t k = (size_t)blockIdx.x * QUANT_THREADS + threadIdx.x, at = from + k;
    unsigned size = kind == QUANT_FP32 ? 4 : 2;
    if (at >= to)
        return;
    unsigned bits = number_bits(kind, x[at], scale[group_of(r, at)]);
    for (unsigned b = 0; b < size; b++)
        out[k * size + b] = (uint8_t)(bits >> 8 * b);
}

// Meaning.

static __device__ float meaning_of(const struct quant_run &r, const struct quant_rule &rule,
                                   unsigned code, const float *scale, size_t i)
{
    if (rule.kind == QUANT_DITHER)
        return ((float)((int)code - rule.q) + (0.5f - unit_of(drawn_word(r, i)))) * *scale;
    if (rule.kind == QUANT_DEADZONE && rule.scales == 3) {
        int m = (int)code - rule.q, a = m < 0 ? -m : m;
        float off = a > 1 ? scale[2] : a ? scale[1] : 0;
        return (float)m * *scale + (m < 0 ? -off : off);
    }
    if (rule.kind < QUANT_DITHER)
        return (float)((int)code - rule.q) * *scale;
    if (rule.kinds <= 16)
        code &= 15; // what no sender makes means 0
    if (rule.kind == QUANT_SIGN || rule.kind == QUANT_COIN)
        return code > 1 ? 0.0f : rule.scales == 2 ? scale[code] : code ? *scale : -*scale;
    return code < rule.kinds ? rule.level[code] * *scale : 0.0f;
}

static __global__ void __launch_bounds__(QUANT_THREADS)
    give_values(const uint8_t *__restrict__ in, struct quant_run r, struct quant_rule rule,
                const float *__restrict__ scale, size_t from, size_t to, struct quant_sink sink)
{
    size_t k = (size_t)blockIdx.x * QUANT_THREADS + threadIdx.x, at = from + 8 * k;
    uint64_t codes = 0;
    if (at >= to)
        return;
    unsigned n = to - at < 8 ? (unsigned)(to - at) : 8;
    in += k * rule.width;
    for (unsigned b = 0; 8 * b < n * rule.width; b++)
        codes |= (uint64_t)in[b] << 8 * b;
    for (unsigned j = 0; j < n; j++) {
        unsigned code = (unsigned)(codes >> j * rule.width) & ((1u << rule.width) - 1);
        const float *own = scale + group_of(r, at + j) * rule.scales;
        give_value(sink, at + j, meaning_of(r, rule, code, own, at + j));
    }
}

static __global__ void __launch_bounds__(QUANT_THREADS)
    give_numbers(const uint8_t *__restrict__ in, struct quant_run r, enum quant_kind kind,
                 const float *__restrict__ scale, size_t from, size_t to, struct quant_sink sink)
{
    size_t k = (size_t)blockIdx.x * QUANT_THREADS + threadIdx.x, at = from + k;
    unsigned size = kind == QUANT_FP32 ? 4 : 2, bits = 0;
    if (at >= to)
        return;
    for (unsigned b = 0; b < size; b++)
        bits |= (unsigned)in[k * size + b] << 8 * b;
    float v = kind == QUANT_FP32   ? __uint_as_float(bits)
              : kind == QUANT_BF16 ? __uint_as_float(bits << 16)
                                   : half_value(bits) * scale[group_of(r, at)];
    give_value(sink, at, v);
}

// Centres. As fit_parts; parts [from, to) of the run, whose codes begin with the first one's.
static __global__ void __launch_bounds__(QUANT_THREADS)
    centre_parts(const float *__restrict__ x, const uint8_t *__restrict__ code, size_t n,
                 size_t group, size_t each, size_t from, size_t to, int q,
                 struct quant_centres *__restrict__ part)
{
    size_t p = from + (size_t)blockIdx.x * (QUANT_THREADS / 32) + threadIdx.x / 32;
    int lane = (int)(threadIdx.x % 32), l = lane % LANES, mores = lane / LANES;
    if (p >= to)
        return;
    size_t first = from / each * group + from % each * PART_VALUES;
    size_t begin = p / each * group, at = begin + p % each * PART_VALUES;
    size_t end = begin + group < n ? begin + group : n;
    end = at + PART_VALUES < end ? at + PART_VALUES : end;
    double sum = 0;
    unsigned count = 0, levels = 0;
    for (size_t i = at + (size_t)l; i < end; i += LANES) {
        int m = (int)code[i - first] - q;
        m = m < 0 ? -m : m;
        int mine = mores ? m > 1 : m == 1;
        sum += mine ? (double)__uint_as_float(__float_as_uint(x[i]) & 0x7fffffffu) : 0.0;
        count += (unsigned)mine;
        levels += mine ? (unsigned)m : 0;
    }
    sum = half_sum(sum);
    count = half_sum(count);
    levels = half_sum(levels);
    double more = __shfl_xor_sync(GPU_ALL, sum, LANES);
    unsigned n_more = __shfl_xor_sync(GPU_ALL, count, LANES);
    levels = __shfl_xor_sync(GPU_ALL, levels, LANES);
    if (lane == 0) {
        part[p].one = sum;
        part[p].more = more;
        part[p].ones = count;
        part[p].mores = n_more;
        part[p].levels = levels;
    }
}

static __global__ void __launch_bounds__(QUANT_THREADS)
    centre_groups(const struct quant_centres *__restrict__ part, size_t groups, size_t each,
                  struct quant_centres *__restrict__ centres)
{
    size_t g = (size_t)blockIdx.x * QUANT_THREADS + threadIdx.x;
    if (g >= groups)
        return;
    double one = 0, more = 0;
    uint64_t ones = 0, mores = 0, levels = 0;
    for (size_t p = g * each; p < (g + 1) * each; p++) {
        one += part[p].one;
        more += part[p].more;
        ones += part[p].ones;
        mores += part[p].mores;
        levels += part[p].levels;
    }
    centres[g].one = one;
    centres[g].more = more;
    centres[g].ones = ones;
    centres[g].mores = mores;
    centres[g].levels = levels;
}

// Value i of the result lies at row i % rows, column i / rows of the matrix.
static __global__ void __launch_bounds__(QUANT_THREADS)
    turn_matrix(const float *__restrict__ x, size_t rows, size_t cols, struct quant_sink sink)
{
    size_t i = (size_t)blockIdx.x * QUANT_THREADS + threadIdx.x;
    if (i < rows * cols)
        give_value(sink, i, x[i % rows * cols + i / rows]);
}

// Launchers.

extern "C" void GPU_OP(gpu_quant_fit)(void *stream, const float *x, const struct quant_run *r,
                                      unsigned wanted, struct gpu_quant_part *part,
                                      struct quant_stats *stats, uint8_t *signs)
{
    size_t groups = gpu_quant_groups(r), parts = gpu_quant_parts(r);
    if (r->n == 0)
        return;
    LAUNCH(fit_parts, gpu_blocks(parts, QUANT_THREADS / 32), QUANT_THREADS, 0, stream, x, r->n,
           min(r->group, r->n), parts, parts / groups, part);
    LAUNCH(fit_groups, gpu_blocks(groups, QUANT_THREADS), QUANT_THREADS, 0, stream, part, groups,
           parts / groups, wanted, stats);
    if (signs)
        LAUNCH(sign_bits, gpu_blocks((r->n + 7) / 8, QUANT_THREADS), QUANT_THREADS, 0, stream, x,
               r->n, signs);
}

extern "C" void GPU_OP(gpu_quant_code)(void *stream, const float *x, const struct quant_run *r,
                                       const struct quant_rule *rule, const float *scale,
                                       size_t from, size_t to, uint8_t *bytes)
{
    if (from < to && rule->kind >= QUANT_FP16)
        LAUNCH(code_numbers, gpu_blocks(to - from, QUANT_THREADS), QUANT_THREADS, 0, stream, x, *r,
               rule->kind, scale, from, to, bytes);
    else if (from < to)
        LAUNCH(code_values, gpu_blocks((to - from + 7) / 8, QUANT_THREADS), QUANT_THREADS, 0,
               stream, x, *r, *rule, scale, from, to, bytes);
}

extern "C" void GPU_OP(gpu_quant_give)(void *stream, const uint8_t *bytes,
                                       const struct quant_run *r, const struct quant_rule *rule,
                                       const float *scale, size_t from, size_t to,
                                       struct quant_sink sink)
{
    if (from < to && rule->kind >= QUANT_FP16)
        LAUNCH(give_numbers, gpu_blocks(to - from, QUANT_THREADS), QUANT_THREADS, 0, stream, bytes,
               *r, rule->kind, scale, from, to, sink);
    else if (from < to)
        LAUNCH(give_values, gpu_blocks((to - from + 7) / 8, QUANT_THREADS), QUANT_THREADS, 0,
               stream, bytes, *r, *rule, scale, from, to, sink);
}

extern "C" void GPU_OP(gpu_quant_centre)(void *stream, const float *x, const uint8_t *bytes,
                                         const struct quant_run *r, size_t from, size_t to, int q,
                                         struct quant_centres *part, struct quant_centres *centres)
{
    size_t groups = gpu_quant_groups(r), parts = gpu_quant_parts(r);
    if (from < to)
        LAUNCH(centre_parts, gpu_blocks(to - from, QUANT_THREADS / 32), QUANT_THREADS, 0, stream, x,
               bytes, r->n, min(r->group, r->n), parts / groups, from, to, q, part);
    if (to == parts)
        LAUNCH(centre_groups, gpu_blocks(groups, QUANT_THREADS), QUANT_THREADS, 0, stream, part,
               groups, parts / groups, centres);
}

extern "C" void GPU_OP(gpu_turn_matrix)(void *stream, const float *x, size_t rows, size_t cols,
                                        struct quant_sink sink)
{
    if (rows && cols)
        LAUNCH(turn_matrix, gpu_blocks(rows * cols, QUANT_THREADS), QUANT_THREADS, 0, stream, x,
               rows, cols, sink);
}
