// Bit allocation: the bits of widths.c, alloc.c, choose.c, quant.c and sums.c. Compiled without
// fused multiply-adds.
#include "gpu.h"
#include "gpu_codes.h"
#include "gpu_stages.h"

enum { ALLOC_THREADS = 128, RUN_THREADS = 128, RUN_WARPS = RUN_THREADS / 32, ALLOC_TILE = 1024 };
enum { SPAN_WARPS = ALLOC_LEVELS - 1 };

static __device__ __forceinline__ unsigned magnitude_bits(float x)
{
    return __float_as_uint(x) & 0x7fffffffu;
}

// Importance (21).

// (F mul)^(gamma16 / 16) by square roots.
static __device__ float power_of(float sens, float mul, int gamma16)
{
    float v = sens * mul, f = v > 0 ? v : 0, p = gamma16 == 16 ? f : 1;
    for (int bit = 8; bit > 0 && (gamma16 & (2 * bit - 1) & 15); bit /= 2) {
        f = sqrtf(f);
        if (gamma16 & bit)
            p *= f;
    }
    return p;
}

static __device__ __forceinline__ float word_value(unsigned word)
{
    return ((float)(int)(word >> 8) + 0.5f) * 5.9604644775390625e-8f; // 2^-24
}

// Of value i of a run.
static __device__ float score_of(const struct alloc_vectors &v, const struct alloc_rule &rule,
                                 const struct alloc_run &r, size_t i)
{
    float x = v.x[r.at + i];
    switch (rule.importance) {
    case IMPORTANCE_FISHER: {
        if (rule.gamma16 == 0)
            return x * x;
        float a = __uint_as_float(magnitude_bits(x));
        return power_of(v.sens[r.at + i], r.factor, rule.gamma16) * a * a;
    }
    case IMPORTANCE_MAGNITUDE:
        return x * x;
    case IMPORTANCE_RANDOM:
        return word_value(random_word(r.key, r.ctr, r.first + i));
    case IMPORTANCE_UNIFORM:
        return word_value((unsigned)(r.at + i) * 2654435769u);
    default: {
        float g = -(v.grad[r.at + i] * x);
        if (rule.importance == IMPORTANCE_ABSGD)
            g = __uint_as_float(magnitude_bits(g));
        return g > 0 ? g : 0;
    }
    }
}

// The weight of a squared error (10).
static __device__ float weight_of(const struct alloc_vectors &v, const struct alloc_rule &rule,
                                  const struct alloc_run &r, size_t i)
{
    if (rule.importance == IMPORTANCE_FISHER && rule.gamma16 > 0)
        return power_of(v.sens[r.at + i], r.factor, rule.gamma16);
    if (rule.importance <= IMPORTANCE_MAGNITUDE)
        return 1;
    float x = v.x[r.at + i], square = x * x, w = score_of(v, rule, r, i) / square;
    return square >= 0x1p-120f && w < 0x1p100f ? w : 0;
}

// The first of the tiles that a block takes of its run; every gridDim.y-th is its own.
static __device__ __forceinline__ size_t first_tile()
{
    return (size_t)blockIdx.y * ALLOC_TILE;
}
static __device__ __forceinline__ size_t tile_step()
{
    return (size_t)gridDim.y * ALLOC_TILE;
}

static __global__ void __launch_bounds__(ALLOC_THREADS)
    score_runs(struct alloc_vectors v, struct alloc_rule rule,
               const struct alloc_run *__restrict__ run, float *__restrict__ u)
{
    const struct alloc_run &r = run[blockIdx.x];
    for (size_t at = first_tile(); at < r.n; at += tile_step())
        for (size_t i = at + threadIdx.x; i < min(r.n, at + ALLOC_TILE); i += ALLOC_THREADS)
            u[r.at + i] = score_of(v, rule, r, i);
}

// Sixteen values in every 16 times so many: multiples of the golden ratio say which.
static __global__ void __launch_bounds__(ALLOC_THREADS)
    draw_runs(struct alloc_vectors v, struct alloc_rule rule,
              const struct alloc_run *__restrict__ run, const struct alloc_draw *__restrict__ draw,
              size_t base, float *__restrict__ x, float *__restrict__ w)
{
    const struct alloc_run &r = run[blockIdx.x];
    const struct alloc_draw &d = draw[blockIdx.x];
    for (size_t at = first_tile(); at < d.n; at += tile_step())
        for (size_t j = at + threadIdx.x; j < min(d.n, at + ALLOC_TILE); j += ALLOC_THREADS) {
            uint64_t turn = (uint64_t)((unsigned)(j / 16) * 2654435769u) * d.every >> 32;
            size_t i = d.every == 1 ? j : 16 * (j / 16 * d.every + (size_t)turn) + j % 16;
            x[d.to - base + j] = v.x[r.at + i];
            w[d.to - base + j] = weight_of(v, rule, r, i);
        }
}

// Ranks.

// Tags by cuts, a warp a tile, and how many values of it equal each cut.
static __global__ void __launch_bounds__(32)
    cut_tiles(const float *__restrict__ u, size_t n, const struct gpu_alloc_cuts *__restrict__ c,
              uint8_t *__restrict__ tag, unsigned *__restrict__ equal)
{
    size_t at = (size_t)blockIdx.x * ALLOC_TILE, end = min(n, at + ALLOC_TILE);
    for (int k = 0; k < c->n; k++) {
        unsigned found = 0;
        for (size_t i = at + threadIdx.x; i < end; i += 32)
            found += __float_as_uint(u[i]) == c->bits[k];
        found = warp_sum(found);
        if (threadIdx.x == 0)
            equal[blockIdx.x * ALLOC_LEVELS + (unsigned)k] = found;
    }
    for (size_t i = at + threadIdx.x; i < end; i += 32) {
        unsigned t = 0;
        for (int k = 0; k < c->n; k++)
            t += __float_as_uint(u[i]) >= c->bits[k];
        tag[i] = (uint8_t)t;
    }
}

// Of a tile's values that equal cut k the first keep[k] keep the width, the others get the one
// below.
static __global__ void __launch_bounds__(32)
    drop_ties(const float *__restrict__ u, size_t n, const struct gpu_alloc_cuts *__restrict__ c,
              const unsigned *__restrict__ keep, uint8_t *__restrict__ tag)
{
    size_t begin = (size_t)blockIdx.x * ALLOC_TILE, end = min(n, begin + ALLOC_TILE);
    const unsigned before = (1u << threadIdx.x) - 1;
    for (int k = 0; k < c->n; k++) {
        const unsigned most = keep[blockIdx.x * ALLOC_LEVELS + (unsigned)k];
        unsigned seen = 0;
        for (size_t at = begin; at < end; at += 32) {
            size_t i = at + threadIdx.x;
            bool same = i < end && __float_as_uint(u[i]) == c->bits[k];
            unsigned all = __ballot_sync(GPU_ALL, same);
            if (same && seen + (unsigned)__popc(all & before) >= most)
                tag[i]--;
            seen += (unsigned)__popc(all);
        }
    }
}

// Rate and distortion.

static __device__ float half_of(float a)
{
    a = a < 65504.0f ? a : 65504.0f;
    return half_value(half_bits(a));
}

// (14): the level of least w e^2 + cost, the narrower of equal ones.
static __device__ unsigned choice_of(float x, float w, const struct alloc_levels &l)
{
    float a = __uint_as_float(magnitude_bits(x)), best = a * a * w;
    unsigned at = 0;
    for (int k = 1; k < l.count; k++) {
        float e, v = a * l.inverse[k];
        if (l.kind[k] == ALLOC_FP16) {
            e = a - half_of(a);
        } else if (l.kind[k] == ALLOC_SIGN) {
            e = a - l.scale[k];
        } else {
            v = (v < l.q[k] ? v : l.q[k]) + 8388608.0f; // to the nearest integer, ties to even
            e = a - (v - 8388608.0f) * l.scale[k];
        }
        float j = e * e * w + l.cost[k];
        at = j < best ? (unsigned)k : at;
        best = j < best ? j : best;
    }
    return at;
}

static __device__ __forceinline__ bool takes_part(const struct alloc_run &r, size_t from, size_t to)
{
    return r.place < to && r.place + r.n > from;
}

static __global__ void __launch_bounds__(ALLOC_THREADS)
    clear_counts(const struct alloc_run *__restrict__ run, size_t runs, size_t from, size_t to,
                 unsigned long long *__restrict__ count)
{
    size_t i = (size_t)blockIdx.x * ALLOC_THREADS + threadIdx.x;
    for (int k = 0; k < ALLOC_LEVELS && i < runs && takes_part(run[i], from, to); k++)
        count[i * ALLOC_LEVELS + (size_t)k] = 0;
}

// Tags of places [from, to), where there are levels, and the counts of the runs that have a part in
// them. A thread's counts, at most 8 each, lie in one word, a warp's in two.
static __global__ void __launch_bounds__(ALLOC_THREADS)
    choose_runs(struct alloc_vectors v, struct alloc_rule rule,
                const struct alloc_run *__restrict__ run,
                const struct alloc_levels *__restrict__ levels, size_t from, size_t to,
                uint8_t *__restrict__ tag, unsigned long long *__restrict__ count)
{
    const struct alloc_run &r = run[blockIdx.x];
    if (!takes_part(r, from, to))
        return;
    for (size_t at = first_tile(); at < r.n; at += tile_step()) {
        unsigned long long few = 0, low = 0, high = 0;
        for (size_t i = at + threadIdx.x; i < min(r.n, at + ALLOC_TILE); i += ALLOC_THREADS) {
            size_t place = r.place + i;
            unsigned t;
            if (levels && place >= from && place < to) {
                t = choice_of(v.x[r.at + i], weight_of(v, rule, r, i), levels[r.group]);
                tag[place] = (uint8_t)t;
            } else {
                t = tag[place];
            }
            few += 1ull << 4 * t;
        }
        for (int k = 0; k < 5; k++) {
            low |= (few >> 4 * k & 15) << 12 * k;
            high |= (few >> 4 * (k + 5) & 15) << 12 * k;
        }
        low = warp_sum(low);
        high = warp_sum(high);
        unsigned k = threadIdx.x % 32;
        if (k < ALLOC_LEVELS) {
            unsigned long long found = (k < 5 ? low >> 12 * k : high >> 12 * (k - 5)) & 0xfff;
            if (found)
                atomicAdd(&count[(size_t)blockIdx.x * ALLOC_LEVELS + k], found);
        }
    }
}

// Values of one width.

// A warp a width goes through the run, a tile at a time: what is kept of it together, then summed.
static __global__ void __launch_bounds__(32 * SPAN_WARPS)
    span_runs(const float *__restrict__ x, const uint8_t *__restrict__ tag,
              const struct alloc_run *__restrict__ run, int levels,
              struct alloc_tier *__restrict__ tier)
{
    SHARED(float, kept, [SPAN_WARPS][ALLOC_TILE]);
    const struct alloc_run &r = run[blockIdx.x];
    const unsigned lane = threadIdx.x % 32, w = threadIdx.x / 32, k = w + 1;
    if (k >= (unsigned)levels)
        return;
    double abs = 0;
    unsigned max = 0;
    size_t n = 0;
    for (size_t begin = 0; begin < r.n; begin += ALLOC_TILE) {
        size_t end = min(r.n, begin + ALLOC_TILE);
        unsigned found = 0;
        for (size_t at = begin; at < end; at += 32) {
            size_t i = at + lane;
            bool is = i < end && tag[r.place + i] == k;
            unsigned all = __ballot_sync(GPU_ALL, is);
            if (is)
                kept[w][found + (unsigned)__popc(all & ((1u << lane) - 1))] = x[r.at + i];
            found += (unsigned)__popc(all);
        }
        __syncwarp();
        double sum = 0;
        for (unsigned i = lane % SUM_LANES; i < found; i += SUM_LANES) {
            unsigned bits = magnitude_bits(kept[w][i]);
            sum += (double)__uint_as_float(bits);
            max = bits > max ? bits : max;
        }
        abs += half_sum(sum);
        n += found;
        __syncwarp();
    }
    max = half_max(max);
    if (lane == 0) {
        struct alloc_tier *t = &tier[(size_t)blockIdx.x * ALLOC_LEVELS + k];
        t->max = __uint_as_float(max);
        t->abs = abs;
        t->n = (int64_t)n;
    }
}

static __global__ void __launch_bounds__(ALLOC_THREADS)
    bin_runs(const float *__restrict__ x, const uint8_t *__restrict__ tag,
             const struct alloc_run *__restrict__ run,
             const struct alloc_widths *__restrict__ widths,
             struct alloc_tier *__restrict__ tier)
{
    const struct alloc_run &r = run[blockIdx.x];
    for (size_t at = first_tile(); at < r.n; at += tile_step())
        for (size_t i = at + threadIdx.x; i < min(r.n, at + ALLOC_TILE); i += ALLOC_THREADS) {
            unsigned k = tag[r.place + i];
            if (k == 0 || widths->kind[k] == ALLOC_FP16)
                continue;
            struct alloc_tier *t = &tier[(size_t)blockIdx.x * ALLOC_LEVELS + k];
            float inv = t->max >= 0x1p-100f ? ALLOC_BINS / t->max : 0;
            float bin = __uint_as_float(magnitude_bits(x[r.at + i])) * inv;
            atomicAdd(&t->bin[bin < (float)(ALLOC_BINS - 1) ? (int)bin : ALLOC_BINS - 1], 1u);
        }
}

// Codes. A block a run: where a thread's value of width k stands among those of its width is known
// from the warps before its own and the lanes before it.

static __device__ void count_lanes(unsigned t, int levels, unsigned (*part)[RUN_WARPS],
                                   unsigned *before)
{
    const unsigned lane = threadIdx.x % 32, w = threadIdx.x / 32;
    *before = 0;
    for (unsigned k = 1; k < (unsigned)levels; k++) {
        unsigned all = __ballot_sync(GPU_ALL, t == k);
        if (lane == 0)
            part[k][w] = (unsigned)__popc(all);
        if (t == k)
            *before = (unsigned)__popc(all & ((1u << lane) - 1));
    }
    __syncthreads();
    for (unsigned i = 0; i < w && t > 0; i++)
        *before += part[t][i];
}

// Between two steps: next goes on by what the step had.
static __device__ void go_on(int levels, unsigned (*part)[RUN_WARPS], size_t *next)
{
    __syncthreads();
    if (threadIdx.x >= 1 && threadIdx.x < (unsigned)levels)
        for (int w = 0; w < RUN_WARPS; w++)
            next[threadIdx.x] += part[threadIdx.x][w];
}

// alloc_q and alloc_code_bytes.
static __device__ __forceinline__ int largest_of(int bits)
{
    return bits == 1 ? 0 : (1 << (bits - 1)) - 1;
}
static __device__ __forceinline__ size_t bytes_of(int bits)
{
    return bits == 16 ? 2 : 1;
}

static __device__ void put_code(enum alloc_kind kind, int bits, float scale, float x, uint8_t *to)
{
    float inv = scale > 0 ? 1 / scale : 0;
    int q = largest_of(bits);
    unsigned code = kind == ALLOC_FP16   ? half_bits(within_half(x))
                    : kind == ALLOC_SIGN ? (unsigned)(x >= 0)
                                         : (unsigned)(nearest_int(clip(x * inv, (float)q)) + q);
    to[0] = (uint8_t)code;
    if (bits == 16)
        to[1] = (uint8_t)(code >> 8);
}

static __global__ void __launch_bounds__(RUN_THREADS)
    code_runs(const float *__restrict__ x, const uint8_t *__restrict__ tag,
              const struct alloc_run *__restrict__ run,
              const struct alloc_widths *__restrict__ widths,
              const float *__restrict__ scale, const size_t *__restrict__ start,
              uint8_t *__restrict__ out)
{
    SHARED(unsigned, part, [2][ALLOC_LEVELS][RUN_WARPS]);
    SHARED(size_t, next, [ALLOC_LEVELS]);
    const struct alloc_run &r = run[blockIdx.x];
    if (threadIdx.x < ALLOC_LEVELS)
        next[threadIdx.x] = 0; // seen by all from the first step's barrier on
    for (size_t at = 0, step = 0; at < r.n; at += RUN_THREADS, step ^= 1) {
        size_t i = at + threadIdx.x;
        unsigned t = i < r.n ? tag[r.place + i] : 0, before;
        count_lanes(t, widths->count, part[step], &before);
        if (t > 0) {
            int bits = widths->bits[t];
            size_t begin = start[(size_t)blockIdx.x * ALLOC_LEVELS + t];
            put_code(widths->kind[t], bits, scale[r.group * ALLOC_LEVELS + t], x[r.at + i],
                     out + begin + (next[t] + before) * bytes_of(bits));
        }
        go_on(widths->count, part[step], next);
    }
}

static __device__ float code_value(enum alloc_kind kind, int bits, float scale, unsigned code)
{
    if (kind == ALLOC_FP16)
        return half_value(code);
    if (bits == 1)
        return (code & 15) > 1 ? 0.0f : code & 1 ? scale : -scale;
    return (float)((int)code - largest_of(bits)) * scale;
}

static __global__ void __launch_bounds__(RUN_THREADS)
    give_runs(const uint8_t *__restrict__ in, const uint8_t *__restrict__ tag, size_t first_place,
              const struct alloc_run *__restrict__ run,
              const struct alloc_widths *__restrict__ widths,
              const float *__restrict__ scale, const size_t *__restrict__ start,
              const struct gpu_alloc_places *__restrict__ p, struct quant_sink sink)
{
    SHARED(unsigned, part, [2][ALLOC_LEVELS][RUN_WARPS]);
    SHARED(size_t, next, [ALLOC_LEVELS]);
    const struct alloc_run &r = run[blockIdx.x];
    if (threadIdx.x < ALLOC_LEVELS)
        next[threadIdx.x] = 0; // seen by all from the first step's barrier on
    for (size_t at = 0, step = 0; at < r.n; at += RUN_THREADS, step ^= 1) {
        size_t i = at + threadIdx.x;
        unsigned t = i < r.n ? tag[r.place - first_place + i] : 0, before;
        count_lanes(t, widths->count, part[step], &before);
        if (t > 0) {
            int bits = widths->bits[t];
            size_t begin = start[(size_t)blockIdx.x * ALLOC_LEVELS + t] - p->first[t];
            size_t own = begin / bytes_of(bits) + next[t] + before;
            unsigned code = get_code(in + p->at[t], bits, p->packed[t], own + p->skip[t]);
            give_value(sink, r.at + i,
                       code_value(widths->kind[t], bits, scale[r.group * ALLOC_LEVELS + t], code));
        } else if (i < r.n && !sink.add) {
            sink.to[r.at + i] = 0;
        }
        go_on(widths->count, part[step], next);
    }
}

// Launchers.

static dim3 tiles_of(size_t runs, size_t longest)
{
    size_t tiles = (longest + ALLOC_TILE - 1) / ALLOC_TILE;
    return dim3((unsigned)runs, (unsigned)(tiles < 1 ? 1 : tiles < 65535 ? tiles : 65535));
}

extern "C" void GPU_OP(gpu_alloc_score)(void *stream, const struct alloc_vectors *v,
                                        const struct alloc_rule *rule, const struct alloc_run *run,
                                        size_t runs, size_t longest, float *u)
{
    LAUNCH(score_runs, tiles_of(runs, longest), ALLOC_THREADS, 0, stream, *v, *rule, run, u);
}

extern "C" void GPU_OP(gpu_alloc_draw)(void *stream, const struct alloc_vectors *v,
                                       const struct alloc_rule *rule, const struct alloc_run *run,
                                       const struct alloc_draw *draw, size_t runs, size_t longest,
                                       size_t base, float *x, float *w)
{
    LAUNCH(draw_runs, tiles_of(runs, longest), ALLOC_THREADS, 0, stream, *v, *rule, run, draw, base,
           x, w);
}

extern "C" void GPU_OP(gpu_alloc_cut)(void *stream, const float *u, size_t n,
                                      const struct gpu_alloc_cuts *cut, uint8_t *tag,
                                      uint32_t *equal)
{
    LAUNCH(cut_tiles, gpu_blocks(n, ALLOC_TILE), 32, 0, stream, u, n, cut, tag, equal);
}

extern "C" void GPU_OP(gpu_alloc_drop)(void *stream, const float *u, size_t n,
                                       const struct gpu_alloc_cuts *cut, const uint32_t *keep,
                                       uint8_t *tag)
{
    LAUNCH(drop_ties, gpu_blocks(n, ALLOC_TILE), 32, 0, stream, u, n, cut, keep, tag);
}

extern "C" void GPU_OP(gpu_alloc_choose)(void *stream, const struct alloc_vectors *v,
                                         const struct alloc_rule *rule, const struct alloc_run *run,
                                         size_t runs, size_t longest,
                                         const struct alloc_levels *levels, size_t from, size_t to,
                                         uint8_t *tag, int64_t *count)
{
    unsigned long long *counts = (unsigned long long *)(void *)count;
    LAUNCH(clear_counts, gpu_blocks(runs, ALLOC_THREADS), ALLOC_THREADS, 0, stream, run, runs, from,
           to, counts);
    LAUNCH(choose_runs, tiles_of(runs, longest), ALLOC_THREADS, 0, stream, *v, *rule, run, levels,
           from, to, tag, counts);
}

extern "C" void GPU_OP(gpu_alloc_spans)(void *stream, const float *x, const uint8_t *tag,
                                        const struct alloc_run *run, size_t runs, int levels,
                                        struct alloc_tier *tier)
{
    LAUNCH(span_runs, (unsigned)runs, 32 * SPAN_WARPS, 0, stream, x, tag, run, levels, tier);
}

extern "C" void GPU_OP(gpu_alloc_bins)(void *stream, const float *x, const uint8_t *tag,
                                       const struct alloc_run *run, size_t runs, size_t longest,
                                       const struct alloc_widths *widths, struct alloc_tier *tier)
{
    LAUNCH(bin_runs, tiles_of(runs, longest), ALLOC_THREADS, 0, stream, x, tag, run, widths, tier);
}

extern "C" void GPU_OP(gpu_alloc_code)(void *stream, const float *x, const uint8_t *tag,
                                       const struct alloc_run *run, size_t runs,
                                       const struct alloc_widths *widths, const float *scale,
                                       const size_t *start, uint8_t *out)
{
    LAUNCH(code_runs, (unsigned)runs, RUN_THREADS, 0, stream, x, tag, run, widths, scale, start,
           out);
}

extern "C" void GPU_OP(gpu_alloc_give)(void *stream, const uint8_t *in, const uint8_t *tag,
                                       size_t first_place, const struct alloc_run *run, size_t runs,
                                       const struct alloc_widths *widths, const float *scale,
                                       const size_t *start, const struct gpu_alloc_places *places,
                                       struct quant_sink sink)
{
    LAUNCH(give_runs, (unsigned)runs, RUN_THREADS, 0, stream, in, tag, first_place, run, widths,
           scale, start, places, sink);
}
