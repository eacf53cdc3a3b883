#include "bench/probe.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

#define RIDGE 1e-3 // of the mean variance, added to each

static double *doubles(int64_t n)
{
    return mem_alloc(MEM_OTHER, (size_t)n * sizeof(double));
}

void probe_open(struct probe *p, int32_t dim, int32_t classes)
{
    int64_t d = dim, k = classes;
    *p = (struct probe){.dim = dim,
                        .classes = classes,
                        .sum = doubles(d),
                        .square = doubles(d * d),
                        .count = doubles(k),
                        .of = doubles(k * d),
                        .weight = doubles(k * d),
                        .bias = doubles(k),
                        .at = doubles(d)};
}

void probe_close(struct probe *p)
{
    double *blocks[] = {p->sum, p->square, p->count, p->of, p->weight, p->bias, p->at};
    for (int i = 0; i < 7; i++)
        mem_free(blocks[i]);
}

void probe_add(struct probe *p, const float *x, const int32_t *classes, int32_t n)
{
    const int64_t d = p->dim;
    p->n++;
    for (int64_t i = 0; i < d; i++) {
        p->sum[i] += (double)x[i];
        for (int64_t j = 0; j <= i; j++)
            p->square[i * d + j] += (double)x[i] * (double)x[j];
    }
    for (int32_t k = 0; k < n; k++) {
        double *of = p->of + classes[k] * d;
        p->count[classes[k]]++;
        for (int64_t i = 0; i < d; i++)
            of[i] += (double)x[i];
    }
}

// The covariance, of all vectors or within classes, becomes its Cholesky factor.
static void factor(struct probe *p, bool within)
{
    const int64_t d = p->dim;
    double *a = p->square, n = (double)p->n, trace = 0;
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j <= i; j++) {
            double mean = within ? 0 : p->sum[i] * p->sum[j] / n;
            for (int32_t k = 0; within && k < p->classes; k++)
                if (p->count[k] > 0)
                    mean += p->of[k * d + i] * p->of[k * d + j] / p->count[k];
            a[i * d + j] = (a[i * d + j] - mean) / n;
            trace += i == j ? a[i * d + j] : 0;
        }
    double ridge = RIDGE * trace / (double)d + 1e-30;
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j <= i; j++) {
            double s = a[i * d + j] + (i == j ? ridge : 0);
            for (int64_t k = 0; k < j; k++)
                s -= a[i * d + k] * a[j * d + k];
            a[i * d + j] = i == j ? sqrt(s > ridge / 2 ? s : ridge / 2) : s / a[j * d + j];
        }
}

static void solve(const struct probe *p, double *x)
{
    const int64_t d = p->dim;
    const double *a = p->square;
    for (int64_t i = 0; i < d; i++) {
        for (int64_t j = 0; j < i; j++)
            x[i] -= a[i * d + j] * x[j];
        x[i] /= a[i * d + i];
    }
    for (int64_t i = d; i-- > 0;) {
        for (int64_t j = i + 1; j < d; j++)
            x[i] -= a[j * d + i] * x[j];
        x[i] /= a[i * d + i];
    }
}

void probe_fit_one(struct probe *p)
{
    const int64_t d = p->dim;
    factor(p, true);
    for (int32_t k = 0; k < p->classes; k++) {
        double *w = p->weight + k * d, quadratic = 0;
        p->bias[k] = -INFINITY;
        if (p->count[k] == 0)
            continue;
        for (int64_t i = 0; i < d; i++)
            p->at[i] = w[i] = p->of[k * d + i] / p->count[k];
        solve(p, w);
        for (int64_t i = 0; i < d; i++)
            quadratic += w[i] * p->at[i];
        p->bias[k] = log(p->count[k] / (double)p->n) - quadratic / 2;
    }
}

void probe_fit_many(struct probe *p)
{
    const int64_t d = p->dim;
    const double n = (double)p->n;
    factor(p, false);
    for (int32_t k = 0; k < p->classes; k++) {
        double *w = p->weight + k * d, share = p->count[k] / n;
        for (int64_t i = 0; i < d; i++)
            w[i] = (p->of[k * d + i] - share * p->sum[i]) / n;
        solve(p, w);
        p->bias[k] = share;
        for (int64_t i = 0; i < d; i++)
            p->bias[k] -= w[i] * p->sum[i] / n;
    }
}

void probe_scores(const struct probe *p, const float *x, float *score)
{
    const int64_t d = p->dim;
    for (int32_t k = 0; k < p->classes; k++) {
        double s = p->bias[k];
        for (int64_t i = 0; i < d; i++)
            s += p->weight[k * d + i] * (double)x[i];
        score[k] = (float)s;
    }
}

int32_t probe_best(const float *score, int32_t classes)
{
    int32_t best = 0;
    for (int32_t k = 1; k < classes; k++)
        best = score[k] > score[best] ? k : best;
    return best;
}

int32_t probe_frequent(const struct probe *p)
{
    int32_t best = 0;
    for (int32_t k = 1; k < p->classes; k++)
        best = p->count[k] > p->count[best] ? k : best;
    return best;
}
