#include "base/stats.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double stats_percentile(const double *sorted, size_t n, double p)
{
    assert(p >= 0 && p <= 100);
    if (n == 0)
        return (double)NAN;
    double h = (double)(n - 1) * p / 100;
    size_t i = (size_t)h;
    if (i + 1 >= n)
        return sorted[n - 1];
    double f = h - (double)i;
    return f > 0 ? sorted[i] + f * (sorted[i + 1] - sorted[i]) : sorted[i];
}

// Median of |v - m| without a copy: distances grow both ways from the median, so the smallest are
// found by merging two runs.
static double median_distance(const double *v, size_t n, double m)
{
    size_t right = 0;
    while (right < n && v[right] < m)
        right++;
    size_t left = right; // v[left - 1] is the next one below
    double below = 0, at = 0;
    for (size_t k = 0; k <= n / 2; k++) {
        below = at;
        if (left == 0 || (right < n && v[right] - m <= m - v[left - 1]))
            at = v[right++] - m;
        else
            at = m - v[--left];
    }
    return n % 2 ? at : (below + at) / 2;
}

// The largest d with P(x_(d) <= median <= x_(n+1-d)) = 1 - 2 P(Bin(n, 1/2) < d) >= 0.95; 0 = none.
static size_t interval_rank(size_t n)
{
    double nn = (double)n, cdf = 0;
    // Below mean - 10 sigma there is nothing to add.
    double skip = floor(nn / 2 - 5 * sqrt(nn));
    size_t d = skip > 0 ? (size_t)skip : 0;
    int sign;
    for (; d < n; d++) {
        double k = (double)d;
        double log_c =
            lgamma_r(nn + 1, &sign) - lgamma_r(k + 1, &sign) - lgamma_r(nn - k + 1, &sign);
        cdf += exp(log_c - nn * 0x1.62e42fefa39efp-1);
        if (2 * cdf > 0.05)
            break;
    }
    return d;
}

struct stats stats_of(double *v, size_t n)
{
    const double nan = (double)NAN;
    size_t m = 0;
    for (size_t i = 0; i < n; i++) // NaN is a missing value
        if (v[i] == v[i])
            v[m++] = v[i];
    struct stats s = {m, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan};
    if (m == 0)
        return s;
    qsort(v, m, sizeof *v, compare);
    double sum = 0, square = 0;
    for (size_t i = 0; i < m; i++)
        sum += v[i];
    s.min = v[0];
    s.max = v[m - 1];
    s.mean = sum / (double)m;
    for (size_t i = 0; i < m; i++)
        square += (v[i] - s.mean) * (v[i] - s.mean);
    s.stddev = m > 1 ? sqrt(square / (double)(m - 1)) : nan;
    s.median = stats_percentile(v, m, 50);
    s.mad = median_distance(v, m, s.median);
    s.p25 = stats_percentile(v, m, 25);
    s.p75 = stats_percentile(v, m, 75);
    s.p95 = stats_percentile(v, m, 95);
    s.p99 = stats_percentile(v, m, 99);
    size_t d = interval_rank(m);
    if (d >= 1) {
        s.ci_low = v[d - 1];
        s.ci_high = v[m - d];
    }
    return s;
}
