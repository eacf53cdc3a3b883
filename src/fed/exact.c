#include "fed/exact.h"

#include <math.h>
#include <string.h>

// v below EXACT_MAX, cut off behind the last bit.
static exact_int fixed(float v)
{
    int e;
    int32_t m = (int32_t)(frexpf(v, &e) * 0x1p24f); // v = m 2^(e - 24)
    int shift = e - 24 + EXACT_POINT;
    if (shift >= 0)
        return (exact_int)m * ((exact_int)1 << shift);
    return shift > -31 ? m / (1 << -shift) : 0;
}

int exact_add(exact_int *sum, const float *x, size_t n, float weight, struct err *err)
{
    bool good = true;
    for (size_t i = 0; i < n; i++)
        good &= fabsf(weight * x[i]) < EXACT_MAX; // false for NaN
    if (!good)
        return err_set(err, "a value is too large for fed.sum = exact: with its weight it is not "
                            "below 2^34");
    for (size_t i = 0; i < n; i++)
        sum[i] += fixed(weight * x[i]);
    return 0;
}

void exact_mean(const exact_int *sum, double weight, size_t n, float *mean)
{
    for (size_t i = 0; i < n; i++)
        mean[i] = weight > 0 ? (float)((double)sum[i] * 0x1p-72 / weight) : 0;
}

// Bytes.

// Bits of the run's numbers: how many at the end are 0 in all of them, and how many are left, the
// sign among them.
static unsigned run_width(const exact_int *v, size_t n, unsigned *zeros)
{
    exact_bits any = 0, span = 0;
    for (size_t i = 0; i < n; i++) {
        any |= (exact_bits)v[i];
        span |= (exact_bits)(v[i] < 0 ? ~v[i] : v[i]);
    }
    unsigned low = 0, high = 0;
    for (; any && !(any >> low & 1); low++)
        continue;
    for (; span >> high && high < 127; high++)
        continue;
    *zeros = low;
    return any ? high + 1 - low : 0;
}

static size_t run_bytes(size_t n, unsigned width)
{
    return 2 + (n * width + 7) / 8;
}

size_t exact_bound(size_t n)
{
    return n / EXACT_RUN * run_bytes(EXACT_RUN, 128) + run_bytes(n % EXACT_RUN, 128);
}

size_t exact_put(const exact_int *sum, size_t n, uint8_t *out)
{
    uint8_t *p = out;
    for (size_t at = 0; at < n; at += EXACT_RUN) {
        const size_t m = n - at < EXACT_RUN ? n - at : EXACT_RUN;
        unsigned zeros, width = run_width(sum + at, m, &zeros);
        size_t bit = 0;
        *p++ = (uint8_t)zeros;
        *p++ = (uint8_t)width;
        memset(p, 0, (m * width + 7) / 8);
        for (size_t i = 0; i < m; i++) {
            exact_bits v = (exact_bits)sum[at + i] >> zeros;
            for (unsigned left = width; left > 0;) {
                unsigned room = 8 - (unsigned)(bit % 8), take = left < room ? left : room;
                unsigned part = (unsigned)v & ((1u << take) - 1);
                p[bit / 8] = (uint8_t)(p[bit / 8] | part << (bit % 8));
                v >>= take;
                bit += take;
                left -= take;
            }
        }
        p += (m * width + 7) / 8;
    }
    return (size_t)(p - out);
}

int64_t exact_check(const uint8_t *in, size_t len, size_t n, struct err *err)
{
    size_t used = 0;
    for (size_t at = 0; at < n; at += EXACT_RUN) {
        const size_t m = n - at < EXACT_RUN ? n - at : EXACT_RUN;
        if (len - used < 2)
            return err_set(err, "a partial sum ends too early");
        unsigned zeros = in[used], width = in[used + 1];
        if (zeros + width > 128)
            return err_set(err, "a partial sum has numbers of %u bits", zeros + width);
        if (len - used < run_bytes(m, width))
            return err_set(err, "a partial sum ends too early");
        used += run_bytes(m, width);
    }
    return (int64_t)used;
}

void exact_get_add(const uint8_t *in, size_t n, exact_int *sum)
{
    for (size_t at = 0; at < n; at += EXACT_RUN) {
        const size_t m = n - at < EXACT_RUN ? n - at : EXACT_RUN;
        const unsigned zeros = in[0], width = in[1];
        const uint8_t *p = in + 2;
        size_t bit = 0;
        for (size_t i = 0; i < m; i++) {
            exact_bits v = 0;
            for (unsigned have = 0; have < width;) {
                unsigned left = width - have, room = 8 - (unsigned)(bit % 8);
                unsigned take = left < room ? left : room;
                unsigned part = (unsigned)p[bit / 8] >> (bit % 8) & ((1u << take) - 1);
                v |= (exact_bits)part << have;
                have += take;
                bit += take;
            }
            if (width && v >> (width - 1) & 1 && width < 128)
                v |= ~(exact_bits)0 << width; // the sign
            if (zeros < 128)                  // unsigned, so that no bytes overflow it
                sum[at + i] = (exact_int)((exact_bits)sum[at + i] + (v << zeros));
        }
        in += run_bytes(m, width);
    }
}
