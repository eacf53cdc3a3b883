// Order statistics: no mean of rates, no normality assumed (Hoefler and Belli 2015).
#ifndef FSTQ_BASE_STATS_H
#define FSTQ_BASE_STATS_H

#include <stddef.h>
#include <stdint.h>

struct stats {
    size_t n;
    double min, max, mean, stddev; // stddev: of a sample, n - 1
    double median, mad;            // median absolute deviation, unscaled
    double p25, p75, p95, p99;
    double ci_low, ci_high; // 95% order-statistic interval of the median; NaN when n < 6
};

// v is sorted in place, NaN (missing) left out: n says how many there were. Percentiles interpolate
// linearly between order statistics (type 7).
struct stats stats_of(double *v, size_t n);
// Adds to a sum that stops at the end of its range: rows of a file may say anything.
static inline void stats_add(int64_t *sum, int64_t v)
{
    if (__builtin_add_overflow(*sum, v, sum))
        *sum = v < 0 ? INT64_MIN : INT64_MAX;
}
double stats_percentile(const double *sorted, size_t n, double p); // p in [0, 100]

#endif
