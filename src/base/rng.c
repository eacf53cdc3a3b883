#include "base/rng.h"

#include "base/fmath.h"

#include <Random123/philox.h>
#include <assert.h>
#include <math.h>
#include <string.h>

static void philox(const uint32_t key[2], const uint32_t ctr[4], uint32_t out[4])
{
    philox4x32_ctr_t c;
    philox4x32_key_t k;
    memcpy(c.v, ctr, sizeof c.v);
    memcpy(k.v, key, sizeof k.v);
    c = philox4x32(c, k);
    memcpy(out, c.v, sizeof c.v);
}

// The counter has room for a, b, c and the block; the use goes into the key, which is the first two
// words of the block (use, 0, 0, "fstq") under the seed. So streams of two uses never overlap by
// shift.
struct rng rng_stream(uint64_t seed, enum rng_use use, uint32_t a, uint32_t b, uint32_t c)
{
    struct rng r = {.ctr = {0, a, b, c}};
    const uint32_t seed_key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t use_ctr[4] = {(uint32_t)use, 0, 0, 0x66737471u};
    uint32_t derived[4];
    philox(seed_key, use_ctr, derived);
    memcpy(r.key, derived, sizeof r.key);
    return r;
}

uint32_t rng_at(const struct rng *stream, uint64_t i)
{
    assert(i / 4 <= UINT32_MAX);
    const uint32_t ctr[4] = {(uint32_t)(i / 4), stream->ctr[1], stream->ctr[2], stream->ctr[3]};
    uint32_t word[4];
    philox(stream->key, ctr, word);
    return word[i % 4];
}

uint32_t rng_u32(struct rng *r)
{
    if (r->left == 0) {
        philox(r->key, r->ctr, r->word);
        r->ctr[0]++;
        assert(r->ctr[0] != 0 && "a stream has 2^34 words");
        r->left = 4;
    }
    return r->word[4 - r->left--];
}

uint32_t rng_below(struct rng *r, uint32_t n)
{
    assert(n > 0);
    uint32_t biased =
        (uint32_t)-n % n; // 2^32 mod n: the first words, which would favour small results
    uint32_t x;
    do
        x = rng_u32(r);
    while (x < biased);
    return x % n;
}

double rng_unit(struct rng *r)
{
    uint64_t high = rng_u32(r) >> 5, low = rng_u32(r) >> 6;
    return (double)(high << 26 | low) * 0x1p-53;
}

double rng_normal(struct rng *r)
{
    if (r->has_spare) {
        r->has_spare = 0;
        return r->spare;
    }
    double radius = sqrt(-2 * fmath_log(1 - rng_unit(r)));
    double turn = rng_unit(r);
    r->spare = radius * fmath_sin2pi(turn);
    r->has_spare = 1;
    return radius * fmath_cos2pi(turn);
}

double rng_gamma(struct rng *r, double shape)
{
    assert(shape > 0);
    if (shape < 1) { // Gamma(a) = Gamma(a + 1) U^(1/a)
        double g = rng_gamma(r, shape + 1);
        return g * fmath_pow(1 - rng_unit(r), 1 / shape);
    }
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = rng_normal(r), t = 1 + c * x;
        if (t <= 0)
            continue;
        double v = t * t * t, u = 1 - rng_unit(r);
        if (fmath_log(u) < 0.5 * x * x + d - d * v + d * fmath_log(v))
            return d * v;
    }
}

// In logarithms, for U^(1/alpha) underflows at small alpha and all shares could come out zero.
void rng_dirichlet(struct rng *r, double alpha, int n, double *p)
{
    assert(alpha > 0 && n > 0);
    double top = (double)-INFINITY, sum = 0;
    for (int i = 0; i < n; i++) {
        if (alpha < 1) {
            double g = rng_gamma(r, alpha + 1);
            p[i] = fmath_log(g) + fmath_log(1 - rng_unit(r)) / alpha;
        } else {
            p[i] = fmath_log(rng_gamma(r, alpha));
        }
        top = p[i] > top ? p[i] : top;
    }
    for (int i = 0; i < n; i++)
        sum += p[i] = fmath_exp(p[i] - top);
    for (int i = 0; i < n; i++)
        p[i] /= sum;
}

void rng_shuffle(struct rng *r, uint32_t *v, uint32_t n)
{
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = rng_below(r, i);
        uint32_t t = v[i - 1];
        v[i - 1] = v[j];
        v[j] = t;
    }
}

// Where x stands, or would stand, among the first n ascending values.
static uint32_t lower_bound(const uint32_t *v, uint32_t n, uint32_t x)
{
    uint32_t low = 0;
    while (n > 0) {
        uint32_t half = n / 2;
        if (v[low + half] < x) {
            low += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return low;
}

// Floyd's sampling (Bentley and Floyd 1987): k draws, whatever n is.
void rng_choose(struct rng *r, uint32_t n, uint32_t k, uint32_t *out)
{
    assert(k <= n);
    for (uint32_t have = 0; have < k; have++) {
        uint32_t last = n - k + have;
        uint32_t pick = rng_below(r, last + 1);
        uint32_t at = lower_bound(out, have, pick);
        if (at < have && out[at] == pick) {
            out[have] = last; // larger than all before it
            continue;
        }
        memmove(out + at + 1, out + at, (have - at) * sizeof *out);
        out[at] = pick;
    }
}
