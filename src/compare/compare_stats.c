// What a curve comes to, and what several of them do.
#include "base/mem.h"
#include "compare/compare.h"

#include <math.h>

static double mean_before(const struct curve *c, size_t end, size_t most)
{
    size_t n = end < most ? end : most;
    double sum = 0;
    for (size_t i = end - n; i < end; i++)
        sum += c->score[i];
    return n ? sum / (double)n : (double)NAN;
}

double curve_final(const struct curve *c, int last)
{
    return mean_before(c, c->n, (size_t)last);
}

size_t curve_reach(const struct curve *c, int trailing, double target, bool higher)
{
    for (size_t i = (size_t)trailing - 1; i < c->n; i++) {
        double mean = mean_before(c, i + 1, (size_t)trailing);
        if (higher ? mean >= target : mean <= target)
            return i;
    }
    return c->n;
}

double curve_at_bytes(const struct curve *c, int trailing, double bytes)
{
    size_t end = 0;
    while (end < c->n && c->uplink_bytes[end] <= bytes)
        end++;
    return end >= (size_t)trailing ? mean_before(c, end, (size_t)trailing) : (double)NAN;
}

void curve_free(struct curve *c)
{
    mem_free(c->round); // one block holds all four
    *c = (struct curve){.n = 0};
}

// The 97.5% point of Student's t: tabulated, then Fisher's expansion around the normal (error below
// 1e-4 from 30 degrees on).
double student_975(size_t degrees)
{
    static const double few[] = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060,
                                 2.2622,  2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199,
                                 2.1098,  2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639,
                                 2.0595,  2.0555, 2.0518, 2.0484, 2.0452, 2.0423};
    if (degrees == 0)
        return (double)NAN;
    if (degrees <= ARRAY_LEN(few))
        return few[degrees - 1];
    double z = 1.959964, d = (double)degrees, z3 = z * z * z;
    return z + (z3 + z) / (4 * d) + (5 * z3 * z * z + 16 * z3 + 3 * z) / (96 * d * d);
}

struct interval interval_of(const double *v, size_t n)
{
    struct interval x = {0, (double)NAN, (double)NAN};
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        x.n += isfinite(v[i]) != 0;
        sum += v[i];
    }
    if (n == 0 || x.n < n)
        return x;
    x.mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        square += (v[i] - x.mean) * (v[i] - x.mean);
    if (n > 1)
        x.half = student_975(n - 1) * sqrt(square / (double)(n - 1) / (double)n);
    return x;
}

struct interval interval_of_difference(const double *v, const double *base, size_t n)
{
    double d[COMPARE_SEEDS];
    for (size_t i = 0; i < n; i++)
        d[i] = v[i] - base[i];
    return interval_of(d, n);
}

double ratio_mean(const double *base, const double *v, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += log(base[i] / v[i]);
    return n && isfinite(sum) ? exp(sum / (double)n) : (double)NAN;
}
