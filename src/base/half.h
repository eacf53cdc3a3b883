// fp16 and bf16, round half to even, in integer arithmetic: the same bits on every machine and on
// CUDA.
#ifndef FSTQ_BASE_HALF_H
#define FSTQ_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float f32_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline uint16_t bf16_from_f32(float x)
{
    uint32_t u = f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u); // stays a NaN
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float bf16_to_f32(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t f16_from_f32(float x)
{
    uint32_t u = f32_bits(x);
    uint32_t sign = (u >> 16) & 0x8000u;
    uint32_t a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu)); // NaN
    if (a >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u); // rounds to infinity
    if (a < 0x38800000u) {                 // subnormal half or zero
        if (a < 0x33000000u)
            return (uint16_t)sign;
        uint32_t shift = 126u - (a >> 23);
        uint32_t m = (a & 0x7fffffu) | 0x800000u;
        uint32_t q = m >> shift;
        uint32_t rest = m & ((1u << shift) - 1u);
        uint32_t half = 1u << (shift - 1u);
        q += (rest > half) || (rest == half && (q & 1u));
        return (uint16_t)(sign | q);
    }
    uint32_t q = a - 0x38000000u;
    q += 0xfffu + ((q >> 13) & 1u);
    return (uint16_t)(sign | (q >> 13));
}

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t e = (h >> 10) & 0x1fu;
    uint32_t m = h & 0x3ffu;
    if (e == 31)
        return f32_from_bits(sign | 0x7f800000u | (m << 13));
    if (e == 0) { // value = m * 2^-24, exact in float
        float v = (float)m * 0x1p-24f;
        return sign ? -v : v;
    }
    return f32_from_bits(sign | ((e + 112u) << 23) | (m << 13));
}

#endif
