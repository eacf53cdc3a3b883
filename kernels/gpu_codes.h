// What the codecs' .cu files share: random words, rounding and half precision, with the CPU's bits.
// For files that are compiled without fused multiply-adds.
#ifndef FSTQ_KERNELS_GPU_CODES_H
#define FSTQ_KERNELS_GPU_CODES_H

#include "gpu_stages.h"
#include "stored.h"

// Word i of a stream: Philox4x32-10 (Salmon et al. 2011), as base/rng.h has it.
static inline __device__ unsigned random_word(const uint32_t key[2], const uint32_t ctr[4],
                                              size_t i)
{
    unsigned c0 = (unsigned)(i / 4), c1 = ctr[1], c2 = ctr[2], c3 = ctr[3];
    unsigned k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c1 = (unsigned)p1;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    switch (i % 4) {
    case 0:
        return c0;
    case 1:
        return c1;
    case 2:
        return c2;
    default:
        return c3;
    }
}

static __device__ __forceinline__ float clip(float v, float most)
{
    v = v < most ? v : most;
    return v > -most ? v : -most;
}
// Ties to even: the low bits of a float near 1.5 * 2^23.
static __device__ __forceinline__ int nearest_int(float v)
{
    return (int)__float_as_uint(v + 12582912.0f) - 0x4b400000;
}

// fp16, rounded to even, of a value within its range.
static inline __device__ unsigned half_bits(float x)
{
    unsigned u = __float_as_uint(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a < 0x33000000u)
        return sign;
    if (a < 0x38800000u) { // below the least normal one
        unsigned shift = 126u - (a >> 23), m = (a & 0x7fffffu) | 0x800000u, q = m >> shift;
        unsigned rest = m & ((1u << shift) - 1u), middle = 1u << (shift - 1u);
        return sign | (q + (rest > middle || (rest == middle && (q & 1u))));
    }
    unsigned q = a - 0x38000000u;
    return sign | (q + 0xfffu + (q >> 13 & 1u)) >> 13;
}

static __device__ __forceinline__ float within_half(float v)
{
    return v > 65504.0f ? 65504.0f : v < -65504.0f ? -65504.0f : v;
}

static __device__ __forceinline__ void give_value(struct quant_sink to, size_t i, float v)
{
    to.to[i] = to.add ? to.to[i] + to.weight * v : v;
}

// Code i of a width, packed or not.
static __device__ __forceinline__ unsigned get_code(const uint8_t *in, int bits, bool packed,
                                                    size_t i)
{
    if (bits == 16)
        return in[2 * i] | (unsigned)in[2 * i + 1] << 8;
    if (!packed)
        return in[i];
    unsigned skip = (unsigned)(i * (unsigned)bits % 8), code = 0;
    in += i * (unsigned)bits / 8;
    code = in[0] >> skip;
    if (skip + (unsigned)bits > 8)
        code |= (unsigned)in[1] << (8 - skip);
    return code & ((1u << bits) - 1);
}

// Sums over the lanes of either half of a warp, by the tree of sums.c.
enum { SUM_LANES = 16 };
template <class T> static __device__ __forceinline__ T half_sum(T v)
{
    for (int d = SUM_LANES / 2; d > 0; d /= 2)
        v += __shfl_xor_sync(GPU_ALL, v, d);
    return v;
}
static __device__ __forceinline__ unsigned half_max(unsigned v)
{
    for (int d = SUM_LANES / 2; d > 0; d /= 2) {
        unsigned other = __shfl_xor_sync(GPU_ALL, v, d);
        v = other > v ? other : v;
    }
    return v;
}

#endif
