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

struct ratio ratio_of(const double *base, const double *v, size_t n)
{
    double logs[COMPARE_SEEDS];
    for (size_t i = 0; i < n; i++)
        logs[i] = log(base[i] / v[i]);
    struct interval x = interval_of(logs, n);
    if (!isfinite(x.mean))
        return (struct ratio){x.n, (double)NAN, (double)NAN, (double)NAN};
    return (struct ratio){x.n, exp(x.mean), exp(x.mean - x.half), exp(x.mean + x.half)};
}

// Twice the rank of each of n magnitudes: ties share the mean of their ranks, which may be a half.
static void double_ranks(const double *size, size_t n, size_t *rank)
{
    for (size_t i = 0; i < n; i++) {
        size_t below = 0, same = 0;
        for (size_t k = 0; k < n; k++) {
            below += size[k] < size[i];
            same += size[k] == size[i];
        }
        rank[i] = 2 * below + same + 1;
    }
}

// The exact chance of a sum of signed ranks at least as far from its mean, every sign being even:
// sums are counted one rank after the other (Wilcoxon 1945; differences of zero are left out).
static double signed_rank_p(const size_t *rank, size_t n, size_t sum)
{
    enum { SUMS = COMPARE_SEEDS * (COMPARE_SEEDS + 1) + 1 };
    double *ways = mem_alloc(MEM_OTHER, SUMS * sizeof *ways), tail = 0;
    size_t total = 0;
    ways[0] = 1;
    for (size_t i = 0; i < n; i++) {
        total += rank[i];
        for (size_t s = total + 1; s-- > 0;)
            ways[s] = (ways[s] + (s >= rank[i] ? ways[s - rank[i]] : 0)) / 2;
    }
    size_t low = sum < total - sum ? sum : total - sum;
    for (size_t s = 0; s <= low; s++)
        tail += ways[s];
    mem_free(ways);
    return 2 * tail < 1 ? 2 * tail : 1;
}

struct paired_test paired_test_of(const double *v, const double *base, size_t n)
{
    struct paired_test t = {n, (double)NAN, (double)NAN, (double)NAN};
    double difference[COMPARE_SEEDS], size[COMPARE_SEEDS], sum = 0, square = 0;
    size_t rank[COMPARE_SEEDS], counted = 0, plus = 0, total = 0;
    bool up[COMPARE_SEEDS];
    for (size_t i = 0; i < n; i++) {
        difference[i] = v[i] - base[i];
        sum += difference[i];
    }
    if (!n || !isfinite(sum))
        return t;
    for (size_t i = 0; i < n; i++) {
        square += (difference[i] - sum / (double)n) * (difference[i] - sum / (double)n);
        up[counted] = difference[i] > 0;
        size[counted] = fabs(difference[i]);
        counted += difference[i] != 0;
    }
    if (n > 1 && square > 0)
        t.dz = sum / (double)n / sqrt(square / (double)(n - 1));
    double_ranks(size, counted, rank);
    for (size_t i = 0; i < counted; i++) {
        total += rank[i];
        plus += up[i] ? rank[i] : 0;
    }
    t.rank_biserial = total ? (2 * (double)plus - (double)total) / (double)total : 0;
    t.p_wilcoxon = counted ? signed_rank_p(rank, counted, plus) : 1;
    return t;
}

void holm(const double *p, size_t n, double *adjusted)
{
    size_t family = 0;
    for (size_t i = 0; i < n; i++)
        family += isnan(p[i]) ? 0 : 1;
    for (size_t i = 0; i < n; i++) {
        adjusted[i] = isnan(p[i]) ? (double)NAN : 0;
        for (size_t k = 0; k < n && !isnan(p[i]); k++) {
            if (isnan(p[k]) || p[k] > p[i])
                continue;
            size_t before = 0; // of the family, smaller than this one
            for (size_t j = 0; j < n; j++)
                before += p[j] < p[k];
            double x = (double)(family - before) * p[k];
            adjusted[i] = x > adjusted[i] ? x : adjusted[i];
        }
        if (adjusted[i] > 1)
            adjusted[i] = 1;
    }
}
