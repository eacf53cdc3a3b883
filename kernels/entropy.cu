// Codes and tags into bytes of a message: the bits of rans.c, pack.c and codec/positions.c.
#include "gpu.h"
#include "gpu_stages.h"

enum { CODE_THREADS = 256, CODE_TILE = 4096, TAG_TILE = GPU_TAG_TILE };

static __global__ void __launch_bounds__(CODE_THREADS)
    count_codes(const uint8_t *__restrict__ code, size_t n, unsigned long long *__restrict__ count)
{
    SHARED(unsigned, own, [CODE_THREADS]);
    own[threadIdx.x] = 0;
    __syncthreads();
    const size_t step = (size_t)gridDim.x * CODE_TILE;
    for (size_t at = (size_t)blockIdx.x * CODE_TILE; at < n; at += step)
        for (size_t i = at + threadIdx.x; i < min(n, at + CODE_TILE); i += CODE_THREADS)
            atomicAdd(&own[code[i]], 1u);
    __syncthreads();
    if (own[threadIdx.x])
        atomicAdd(&count[threadIdx.x], (unsigned long long)own[threadIdx.x]);
}

// rANS. A warp a chunk, its lanes those of the stream: what they shed in a step goes before what
// was shed so far, the last lane's word last.

static __device__ __forceinline__ void encode_step(const struct rans_encoder &t, unsigned code,
                                                   bool active, uint32_t *x, uint8_t **p)
{
    const uint32_t step = t.step[code];
    const bool shed = active && *x >= RANS_STEP_FREQ(step) << RANS_FULL_SHIFT;
    const unsigned all = __ballot_sync(GPU_ALL, shed);
    if (shed) {
        uint8_t *to = *p - 2 * __popc(all >> threadIdx.x);
        *reinterpret_cast<uint16_t *>(to) = (uint16_t)*x;
        *x >>= 16;
    }
    *p -= 2 * __popc(all);
    uint32_t q = (uint32_t)((uint64_t)*x * t.reciprocal[code] >> 32) >> RANS_STEP_SHIFT(step);
    if (active)
        *x = *x + RANS_STEP_START(step) + q * (step & 0x1fffu);
}

// Streams end where their rooms end. lanes: of whole chunks, and of the last one.
static __global__ void __launch_bounds__(32)
    encode_chunks(const struct rans_encoder *__restrict__ e, const uint8_t *__restrict__ code,
                  size_t n, size_t chunk, unsigned lanes, unsigned last_lanes, size_t room,
                  uint8_t *__restrict__ streams, uint32_t *__restrict__ len)
{
    const size_t AHEAD = 8; // codes that are read before they are wanted
    SHARED(struct rans_encoder, t, [1]);
    for (unsigned i = threadIdx.x; i < 256; i += 32) {
        t[0].step[i] = e->step[i];
        t[0].reciprocal[i] = e->reciprocal[i];
    }
    __syncwarp();
    const size_t begin = (size_t)blockIdx.x * chunk, m = min(chunk, n - begin);
    const unsigned lane = threadIdx.x, l = begin + chunk < n ? lanes : last_lanes;
    const bool one = lane < l;
    const size_t steps = m / l, rest = m % l;
    uint8_t *end = streams + (blockIdx.x + 1) * room, *p = end;
    uint32_t x = RANS_STATE_LOW;
    code += begin;
    encode_step(t[0], lane < rest ? code[steps * l + lane] : 0, lane < rest, &x, &p);
    for (size_t at = steps; at > 0;) {
        unsigned some[8];
        GPU_UNROLL(8)
        for (unsigned j = 0; j < AHEAD; j++)
            some[j] = one && j < at ? code[(at - 1 - j) * l + lane] : 0;
        GPU_UNROLL(8)
        for (unsigned j = 0; j < AHEAD; j++)
            if (j < at)
                encode_step(t[0], some[j], one, &x, &p);
        at -= at < AHEAD ? at : AHEAD;
    }
    p -= 4 * l;
    if (one) {
        uint16_t *to = reinterpret_cast<uint16_t *>(p + 4 * lane);
        to[0] = (uint16_t)x;
        to[1] = (uint16_t)(x >> 16);
    }
    if (lane == 0)
        len[blockIdx.x] = (uint32_t)(end - p);
}

// Fixed width. A thread packs eight codes, or of tags whether they are kept.

static __global__ void __launch_bounds__(CODE_THREADS)
    pack_codes(const uint8_t *__restrict__ code, size_t n, unsigned width, bool kept,
               uint8_t *__restrict__ out)
{
    const size_t i = ((size_t)blockIdx.x * CODE_THREADS + threadIdx.x) * 8;
    unsigned some = i >= n ? 0 : n - i < 8 ? (unsigned)(n - i) : 8;
    uint64_t bits = 0;
    for (unsigned j = 0; j < some; j++) {
        unsigned v = code[i + j];
        bits |= (uint64_t)(kept ? v > 0 : v) << width * j;
    }
    for (unsigned b = 0; 8 * b < some * width; b++)
        out[i / 8 * width + b] = (uint8_t)(bits >> 8 * b);
}

// What each kept tag becomes: itself less 1 at a width, or the Rice code of the gap before it. A
// warp a tile.

static __global__ void __launch_bounds__(32)
    find_last(const uint8_t *__restrict__ tag, size_t n, struct gpu_tag_tile *__restrict__ tile)
{
    const size_t begin = (size_t)blockIdx.x * TAG_TILE, end = min(n, begin + TAG_TILE);
    unsigned last = 0;
    for (size_t at = begin; at < end; at += 32) {
        size_t i = at + threadIdx.x;
        unsigned all = __ballot_sync(GPU_ALL, i < end && tag[i] > 0);
        if (all)
            last = (unsigned)at + 32 - (unsigned)__clz((int)all);
    }
    if (threadIdx.x == 0)
        tile[blockIdx.x].last = last;
}

// What follows the last kept tag before a tile, from the first tile's begin on; negative where that
// was before the first tile.
static __device__ int64_t next_of(const struct gpu_tag_tile *tile, struct gpu_tag_code c)
{
    for (unsigned i = blockIdx.x; i-- > 0;)
        if (tile[i].last)
            return tile[i].last;
    return -(int64_t)c.skipped;
}

// Of a tag at place i, if it is kept: the bits of its code. all: which of its 32 are.
struct tag_bits {
    uint64_t zeros; // before the others
    uint64_t value;
    unsigned width; // of the value
};
static __device__ __forceinline__ struct tag_bits bits_of(struct gpu_tag_code c, unsigned tag,
                                                          size_t i, unsigned all, int64_t next)
{
    if (!c.rice)
        return {0, tag - 1, c.k};
    const unsigned lane = (unsigned)(i % 32), before = all & ((1u << lane) - 1);
    if (before)
        next = (int64_t)(i - lane) + 32 - __clz((int)before);
    const uint64_t gap = (uint64_t)((int64_t)i - next);
    return {gap >> c.k, (gap & ((1ull << c.k) - 1)) << 1 | 1, c.k + 1};
}

static __global__ void __launch_bounds__(32)
    count_bits(const uint8_t *__restrict__ tag, size_t n, struct gpu_tag_code c,
               struct gpu_tag_tile *__restrict__ tile)
{
    const size_t begin = (size_t)blockIdx.x * TAG_TILE, end = min(n, begin + TAG_TILE);
    int64_t next = next_of(tile, c);
    unsigned long long sum = 0;
    for (size_t at = begin; at < end; at += 32) {
        size_t i = at + threadIdx.x;
        unsigned t = i < end ? tag[i] : 0, all = __ballot_sync(GPU_ALL, t > 0);
        if (t > 0) {
            struct tag_bits b = bits_of(c, t, i, all, next);
            sum += b.zeros + b.width;
        }
        next = all ? (int64_t)at + 32 - __clz((int)all) : next;
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0)
        tile[blockIdx.x].bits = sum;
}

// Adds a value to bits that are 0.
static __device__ __forceinline__ void put_bits(unsigned *word, uint64_t at, uint64_t value)
{
    value <<= at % 32;
    if ((unsigned)value)
        atomicAdd(&word[at / 32], (unsigned)value);
    if (value >> 32)
        atomicAdd(&word[at / 32 + 1], (unsigned)(value >> 32));
}

// tile[].bits: where each one's begin. Words are 0 before.
static __global__ void __launch_bounds__(32)
    put_tags(const uint8_t *__restrict__ tag, size_t n, struct gpu_tag_code c,
             const struct gpu_tag_tile *__restrict__ tile, unsigned *__restrict__ word)
{
    const size_t begin = (size_t)blockIdx.x * TAG_TILE, end = min(n, begin + TAG_TILE);
    const int lane = (int)threadIdx.x;
    int64_t next = next_of(tile, c);
    unsigned long long to = tile[blockIdx.x].bits;
    for (size_t at = begin; at < end; at += 32) {
        size_t i = at + threadIdx.x;
        unsigned t = i < end ? tag[i] : 0, all = __ballot_sync(GPU_ALL, t > 0);
        struct tag_bits b = {0, 0, 0};
        if (t > 0)
            b = bits_of(c, t, i, all, next);
        unsigned long long own = b.zeros + b.width, sum = own;
        for (int d = 1; d < 32; d *= 2) {
            unsigned long long before = __shfl_sync(GPU_ALL, sum, lane - d);
            sum += lane >= d ? before : 0;
        }
        if (t > 0)
            put_bits(word, to + sum - own + b.zeros, b.value);
        to += __shfl_sync(GPU_ALL, sum, 31);
        next = all ? (int64_t)at + 32 - __clz((int)all) : next;
    }
}

// Launchers.

extern "C" void GPU_OP(gpu_entropy_count)(void *stream, const uint8_t *code, size_t n,
                                          unsigned long long *count)
{
    unsigned blocks = gpu_blocks(n, CODE_TILE);
    LAUNCH(count_codes, blocks < 1024 ? blocks : 1024, CODE_THREADS, 0, stream, code, n, count);
}

extern "C" void GPU_OP(gpu_entropy_rans)(void *stream, const struct rans_encoder *e,
                                         const uint8_t *code, size_t n, size_t chunk, size_t room,
                                         uint8_t *streams, uint32_t *len)
{
    const size_t chunks = (n + chunk - 1) / chunk;
    LAUNCH(encode_chunks, (unsigned)chunks, 32, 0, stream,
e, code, n, chunk, rans_lanes(chunk),
           rans_lanes(n - (chunks - 1) * chunk), room, streams, len);
}

extern "C" void GPU_OP(gpu_entropy_pack)(void *stream, const uint8_t *code, size_t n,
                                         unsigned width, bool kept, uint8_t *out)
{
    LAUNCH(pack_codes, gpu_blocks(n, 8 * CODE_THREADS), CODE_THREADS, 0, stream, code, n, width,
           kept, out);
}

extern "C" void GPU_OP(gpu_entropy_measure)(void *stream, const uint8_t *tag, size_t n,
                                            const struct gpu_tag_code *c,
                                            struct gpu_tag_tile *tile)
{
    LAUNCH(find_last, gpu_blocks(n, TAG_TILE), 32, 0, stream, tag, n, tile);
    LAUNCH(count_bits, gpu_blocks(n, TAG_TILE), 32, 0, stream, tag, n, *c, tile);
}

extern "C" void GPU_OP(gpu_entropy_put)(void *stream, const uint8_t *tag, size_t n,
                                        const struct gpu_tag_code *c,
                                        const struct gpu_tag_tile *tile, uint32_t *word)
{
    LAUNCH(put_tags, gpu_blocks(n, TAG_TILE), 32, 0, stream, tag, n, *c, tile, word);
}
