#include "base/fmath.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

// ln 2 in two parts: k * LN2_HI is exact for |k| < 2^20.
#define LN2_HI  0x1.62e42feep-1
#define LN2_LO  0x1.a39ef35793c76p-33
#define INV_LN2 0x1.71547652b82fep+0
#define TWO_PI  0x1.921fb54442d18p+2

static double from_bits(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static uint64_t to_bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static double pow2(int k) // -1022 <= k <= 1023
{
    return from_bits((uint64_t)(k + 1023) << 52);
}

double fmath_exp(double x)
{
    if (x != x)
        return x;
    if (x > 709.8)
        return (double)INFINITY;
    if (x < -745.2)
        return 0;
    int k = (int)(x * INV_LN2 + (x < 0 ? -0.5 : 0.5));
    double r = (x - k * LN2_HI) - k * LN2_LO; // |r| <= ln(2)/2
    // Taylor to r^13: the next term is below 5e-18.
    double p = 1;
    for (int n = 13; n >= 1; n--)
        p = 1 + p * r / n;
    // 2^k in two factors, each a normal number, for results that are huge or subnormal.
    int half = k / 2;
    return p * pow2(half) * pow2(k - half);
}

double fmath_log(double x)
{
    if (x != x || x < 0)
        return (double)NAN;
    if (x == 0)
        return (double)-INFINITY;
    if (x > 0x1.fffffffffffffp1023)
        return x;
    int e = 0;
    if (x < 0x1p-1022) { // subnormal
        x *= 0x1p54;
        e = -54;
    }
    uint64_t u = to_bits(x);
    e += (int)(u >> 52) - 1023;
    double m = from_bits((u & 0xfffffffffffffu) | 0x3ff0000000000000u); // [1, 2)
    if (m > 0x1.6a09e667f3bcdp+0) {
        m /= 2;
        e++;
    }
    // log m = 2 atanh(s), s = (m - 1)/(m + 1), |s| < 0.1716; the term after s^23 is below 1e-19.
    double s = (m - 1) / (m + 1);
    double z = s * s;
    double p = 0;
    for (int n = 23; n >= 3; n -= 2)
        p = (p + 1.0 / n) * z;
    return e * LN2_HI + (2 * s + (2 * s * p + e * LN2_LO));
}

// The quadrant of t turns (0..3) and the rest in [-1/8, 1/8] turns; both exact.
static int quadrant(double t, double *rest)
{
    if (t >= 0x1p52 || t <= -0x1p52) { // an integer: whole turns
        *rest = 0;
        return 0;
    }
    t -= (double)(int64_t)t; // (-1, 1)
    int q = (int)(4 * t + (t < 0 ? -0.5 : 0.5));
    *rest = t - q * 0.25;
    return q & 3;
}

static double sin_small(double x) // |x| <= pi/4: Taylor to x^17
{
    double z = x * x, p = 0;
    for (int n = 16; n >= 2; n -= 2)
        p = (1 + p) * -z / (n * (n + 1));
    return x + x * p;
}

static double cos_small(double x)
{
    double z = x * x, p = 0;
    for (int n = 17; n >= 1; n -= 2)
        p = (1 + p) * -z / (n * (n + 1));
    return 1 + p;
}

static double circle(double t, int turn_quarters)
{
    if (t != t || t - t != 0)
        return (double)NAN;
    double rest;
    int q = (quadrant(t, &rest) + turn_quarters) & 3;
    double x = TWO_PI * rest;
    double v = q & 1 ? cos_small(x) : sin_small(x);
    return q & 2 ? -v : v;
}

double fmath_sin2pi(double t)
{
    return circle(t, 0);
}

double fmath_cos2pi(double t)
{
    return circle(t, 1);
}

double fmath_pow(double x, double y)
{
    return fmath_exp(y * fmath_log(x));
}
