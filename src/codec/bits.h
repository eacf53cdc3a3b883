// A bit cursor over bytes, low bits first, and the integer codes of sparse messages: Rice and
// Elias's gamma, delta and omega. Writers note when they run out of room, readers when they run
// past the end; both then go on harmlessly, so that a loop needs one check at its end.
#ifndef FSTQ_CODEC_BITS_H
#define FSTQ_CODEC_BITS_H

#include "base/bytes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BITS_PUT_MAX 56 // most bits of one put or get

struct bits_out {
    uint8_t *begin, *p, *end;
    uint64_t acc; // bits not yet stored, fewer than 8 between calls
    unsigned n;
    bool full;
};

struct bits_in {
    const uint8_t *p, *end;
    uint64_t acc;
    unsigned n;
    bool bad; // read past the end
};

static inline void bits_out_init(struct bits_out *b, uint8_t *out, size_t cap)
{
    *b = (struct bits_out){.begin = out, .p = out, .end = out + cap};
}

static inline void bits_out_store(struct bits_out *b)
{
    if (b->end - b->p >= 8) {
        put_u64(b->p, b->acc);
        b->p += b->n >> 3;
        b->acc >>= b->n & ~7u;
        b->n &= 7;
        return;
    }
    while (b->n >= 8) {
        if (b->p < b->end)
            *b->p++ = (uint8_t)b->acc;
        else
            b->full = true;
        b->acc >>= 8;
        b->n -= 8;
    }
}

// The low width bits of v, which has no others; width <= BITS_PUT_MAX.
static inline void bits_put(struct bits_out *b, uint64_t v, unsigned width)
{
    b->acc |= v << b->n;
    b->n += width;
    bits_out_store(b);
}

// Pads with zero bits to a whole byte and returns the bytes written.
static inline size_t bits_out_end(struct bits_out *b)
{
    if (b->n)
        bits_put(b, 0, (8 - b->n) & 7);
    return (size_t)(b->p - b->begin);
}

static inline void bits_in_init(struct bits_in *b, const uint8_t *in, size_t len)
{
    *b = (struct bits_in){.p = in, .end = in + len};
}

// After it at least 56 bits are in acc (fewer than 64), or all that is left.
static inline void bits_in_fill(struct bits_in *b)
{
    if (b->end - b->p >= 8) {
        b->acc |= get_u64(b->p) << b->n;
        b->p += (63 - b->n) >> 3;
        b->n |= 56;
        return;
    }
    while (b->n < 56 && b->p < b->end) {
        b->acc |= (uint64_t)*b->p++ << b->n;
        b->n += 8;
    }
}

static inline void bits_skip(struct bits_in *b, unsigned width)
{
    if (width > b->n) {
        b->bad = true;
        b->acc = 0;
        b->n = 0;
        return;
    }
    b->acc >>= width;
    b->n -= width;
}

static inline uint64_t bits_get(struct bits_in *b, unsigned width)
{
    bits_in_fill(b);
    uint64_t v = b->acc & ((UINT64_C(1) << width) - 1);
    bits_skip(b, width);
    return v;
}

// All consumed: nothing but zero bits up to the end.
static inline bool bits_in_ended(const struct bits_in *b)
{
    return !b->bad && b->p == b->end && b->n < 8 && b->acc == 0;
}

static inline unsigned bits_log2(uint64_t v) // floor, v > 0
{
    return 63u - (unsigned)__builtin_clzll(v);
}

// Unary: q zeros and a one.

static inline void bits_put_unary(struct bits_out *b, uint64_t q)
{
    for (; q >= 32; q -= 32)
        bits_put(b, 0, 32);
    bits_put(b, UINT64_C(1) << q, (unsigned)q + 1);
}

// At most limit zeros; more, or the end of the bytes, is bad.
static inline uint64_t bits_get_unary(struct bits_in *b, uint64_t limit)
{
    uint64_t q = 0;
    for (;;) {
        bits_in_fill(b);
        uint64_t have = b->acc & ((UINT64_C(1) << b->n) - 1); // acc can hold bits not yet counted
        if (have) {
            unsigned z = (unsigned)__builtin_ctzll(have);
            q += z;
            bits_skip(b, z + 1);
            break;
        }
        q += b->n;
        bool ended = b->n == 0 || q > limit;
        bits_skip(b, b->n);
        if (ended) {
            b->bad = true;
            break;
        }
    }
    b->bad |= q > limit;
    return q > limit ? limit : q;
}

// Rice (Golomb with a power of two): quotient in unary, k low bits.

#define RICE_K_MAX 31

static inline void rice_put(struct bits_out *b, uint64_t v, unsigned k)
{
    uint64_t q = v >> k, low = v & ((UINT64_C(1) << k) - 1);
    if (q + 1 + k <= BITS_PUT_MAX) {
        bits_put(b, (low << 1 | 1) << q, (unsigned)q + 1 + k);
        return;
    }
    bits_put_unary(b, q);
    bits_put(b, low, k);
}

// A value of at most limit; a larger one is bad.
static inline uint64_t rice_get(struct bits_in *b, unsigned k, uint64_t limit)
{
    bits_in_fill(b);
    uint64_t v, have = b->acc & ((UINT64_C(1) << b->n) - 1);
    unsigned q = have ? (unsigned)__builtin_ctzll(have) : b->n;
    if (q + 1 + k <= b->n) { // all of it is here
        v = (uint64_t)q << k | (have >> q >> 1 & ((UINT64_C(1) << k) - 1));
        b->acc >>= q + 1 + k;
        b->n -= q + 1 + k;
    } else {
        v = bits_get_unary(b, limit >> k) << k;
        v |= bits_get(b, k);
    }
    b->bad |= v > limit;
    return v > limit ? limit : v;
}

// Elias 1975: positive integers.

static inline void gamma_put(struct bits_out *b, uint64_t v) // 1 <= v < 2^56
{
    unsigned low = bits_log2(v);
    bits_put_unary(b, low);
    bits_put(b, v ^ (UINT64_C(1) << low), low);
}

static inline uint64_t gamma_get(struct bits_in *b)
{
    unsigned low = (unsigned)bits_get_unary(b, BITS_PUT_MAX - 1);
    return UINT64_C(1) << low | bits_get(b, low);
}

static inline unsigned gamma_bits(uint64_t v)
{
    return 2 * bits_log2(v) + 1;
}

static inline void delta_put(struct bits_out *b, uint64_t v)
{
    unsigned low = bits_log2(v);
    gamma_put(b, low + 1);
    bits_put(b, v ^ (UINT64_C(1) << low), low);
}

static inline uint64_t delta_get(struct bits_in *b)
{
    uint64_t low = gamma_get(b) - 1;
    if (low >= BITS_PUT_MAX) {
        b->bad = true;
        return 1;
    }
    return UINT64_C(1) << low | bits_get(b, (unsigned)low);
}

// Groups, each announced by a one bit and as long as the group before it says; a zero bit ends.
static inline void omega_put(struct bits_out *b, uint64_t v)
{
    uint64_t group[8];
    int n = 0;
    for (; v > 1; v = bits_log2(v))
        group[n++] = v;
    while (n-- > 0) {
        unsigned low = bits_log2(group[n]);
        bits_put(b, 1, 1);
        bits_put(b, group[n] ^ (UINT64_C(1) << low), low);
    }
    bits_put(b, 0, 1);
}

static inline uint64_t omega_get(struct bits_in *b)
{
    uint64_t v = 1;
    while (bits_get(b, 1)) {
        if (v >= BITS_PUT_MAX) {
            b->bad = true;
            return 1;
        }
        v = UINT64_C(1) << v | bits_get(b, (unsigned)v);
    }
    return v;
}

#endif
