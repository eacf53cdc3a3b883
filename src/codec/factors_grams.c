#include "base/mem.h"
#include "codec/factors_own.h"

#include <math.h>
#include <string.h>

// The terms' columns of B stand one after another as rows of a stack, and so do their rows of A,
//
//     W = X^T Y,  X (m, rows), Y (m, cols),  m = terms x rank
//
// and are taken tile by tile. Clients' factors are much alike: of all terms but the first Y has the
// difference from the first, and X's first block is the sum of all of its blocks,
//
//     sum_k B_k A_k = (sum_k B_k) A_0 + sum_(k>0) B_k (A_k - A_0)
//
// which is the same W and loses nothing to cancellation. With Y Y^T = L L^T, L (m, k) lower, Y = L
// Q has orthonormal rows Q, and singular values of W are those of X^T L:
//
//     W^T W = Q^T (L^T X X^T L) Q = Q^T K Q

#define ROUNDS  40    // of the subspace iteration, at most
#define SETTLED 1e-8  // part by which the sum of eigenvalues may still grow
#define ALIKE   1e-6  // squared sine of the angle to the rows before, below which a row is dropped
#define NOTHING 1e-12 // part of the largest eigenvalue that counts as none
#define SWEEPS  30
#define RIGHT   1e-15 // cosine that counts as none

// Tiles.

static struct klt_tile tile_at(size_t rank, size_t length, size_t at, bool turned)
{
    size_t left = length - at;
    return (struct klt_tile){rank, length, at, left < KLT_TILE ? left : KLT_TILE, turned};
}

// Columns of the stack X (turned) or Y from `at` on.
static size_t load(struct factors *f, const struct factor_sum *s, size_t at, bool turned)
{
    const size_t each = s->rank * KLT_TILE;
    struct klt_tile t = tile_at(s->rank, turned ? s->rows : s->cols, at, turned);
    for (size_t k = 0; k < s->n; k++) {
        float *to = f->tile + k * each;
        klt_load(turned ? s->b[k] : s->a[k], &t, turned ? s->weight[k] : 1, to);
        if (k > 0 && turned)
            mix_sum(1, f->tile, 1, to, each, f->tile);
        else if (k > 0)
            mix_sum(1, to, -1, f->tile, each, to);
    }
    return t.cols;
}

static void gram(struct factors *f, const struct factor_sum *s, bool turned, double *g)
{
    const size_t m = s->n * s->rank, length = turned ? s->rows : s->cols;
    memset(g, 0, m * m * sizeof *g);
    for (size_t at = 0; at < length; at += KLT_TILE) {
        size_t cols = load(f, s, at, turned);
        klt_gram(f->tile, m, cols, g);
    }
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < i; j++)
            g[i * m + j] = g[j * m + i];
}

// The first n rows of mix times X or Y, into B's columns or A's rows.
static void combine(struct factors *f, const struct factor_sum *s, bool turned, size_t n,
                    struct quant_sink to)
{
    const size_t m = s->n * s->rank, length = turned ? s->rows : s->cols;
    for (size_t at = 0; at < length; at += KLT_TILE) {
        size_t cols = load(f, s, at, turned);
        struct klt_tile t = tile_at(n, length, at, turned);
        klt_mix(f->mix, n, m, f->tile, cols, f->other);
        klt_store(f->other, &t, to);
    }
}

// Small matrices.

// Eight sums, so that no addition waits for the one before, and in one order on every machine.
static double dot(const double *x, const double *y, size_t n)
{
    enum { LANES = 8 };
    double lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t k = 0; k < LANES; k++)
            lane[k] += x[i + k] * y[i + k];
    for (size_t k = 0; i + k < n; k++)
        lane[k] += x[i + k] * y[i + k];
    for (size_t apart = LANES / 2; apart > 0; apart /= 2)
        for (size_t k = 0; k < apart; k++)
            lane[k] += lane[k + apart];
    return lane[0];
}

// L of g, and its transpose; returns its columns.
static size_t cholesky(struct factors *f, size_t m)
{
    size_t k = 0;
    memset(f->l, 0, m * m * sizeof *f->l);
    for (size_t i = 0; i < m; i++) {
        double *row = f->l + i * m, left = f->g[i * m + i];
        for (size_t c = 0; c < k; c++) {
            const double *other = f->l + f->at[c] * m;
            row[c] = (f->g[i * m + f->at[c]] - dot(row, other, c)) / other[c];
            left -= row[c] * row[c];
        }
        if (left > ALIKE * f->g[i * m + i]) {
            f->at[k] = i;
            row[k++] = sqrt(left);
        }
    }
    for (size_t i = 0; i < m; i++)
        for (size_t c = 0; c < k; c++)
            f->lt[c * m + i] = f->l[i * m + c];
    return k;
}

// to (m) = L y
static void times_l(const struct factors *f, size_t m, size_t k, const double *y, double *to)
{
    memset(to, 0, m * sizeof *to);
    for (size_t c = 0; c < k; c++)
        mix_add_f64(y[c], f->lt + c * m, m, to);
}

// z (k) = K y = L^T p L y
static void apply(struct factors *f, size_t m, size_t k, const double *y, double *z)
{
    double *ly = f->one, *ply = f->one + m;
    times_l(f, m, k, y, ly);
    memset(ply, 0, m * sizeof *ply);
    for (size_t i = 0; i < m; i++)
        mix_add_f64(ly[i], f->p + i * m, m, ply);
    memset(z, 0, k * sizeof *z);
    for (size_t i = 0; i < m; i++)
        mix_add_f64(ply[i], f->l + i * m, k, z);
}

// Rows of x (q, k), kept m apart; one that depends on those before it becomes zero.
static void orthonormalise(double *x, size_t q, size_t m, size_t k)
{
    for (size_t i = 0; i < q; i++) {
        double *own = x + i * m, before = dot(own, own, k);
        for (size_t again = 0; again < 2; again++)
            for (size_t j = 0; j < i; j++)
                mix_add_f64(-dot(own, x + j * m, k), x + j * m, k, own);
        double after = dot(own, own, k), scale = after > 1e-20 * before ? 1 / sqrt(after) : 0;
        for (size_t c = 0; c < k; c++)
            own[c] *= scale;
    }
}

// The q foremost eigenvectors of K as rows of y, about, and what K makes of them; returns q.
static size_t subspace(struct factors *f, size_t m, size_t k, size_t q)
{
    double last = -1;
    q = q < k ? q : k;
    memset(f->y, 0, q * m * sizeof *f->y);
    for (size_t i = 0; i < q; i++)
        f->y[i * m + i] = 1;
    for (int round = 0; round < ROUNDS; round++) {
        double sum = 0;
        for (size_t i = 0; i < q; i++) {
            apply(f, m, k, f->y + i * m, f->z + i * m);
            sum += dot(f->y + i * m, f->z + i * m, k);
        }
        if (q == k || fabs(sum - last) <= SETTLED * sum || round + 1 == ROUNDS)
            break;
        last = sum;
        memcpy(f->y, f->z, q * m * sizeof *f->y);
        orthonormalise(f->y, q, m, k);
    }
    return q;
}

static void turn(double *p, double *q, size_t n, double c, double s)
{
    for (size_t i = 0; i < n; i++) {
        double x = p[i], y = q[i];
        p[i] = c * x - s * y;
        q[i] = s * x + c * y;
    }
}

void factors_diagonalise(double *t, double *v, size_t q)
{
    bool done = false;
    for (size_t i = 0; i < q; i++)
        for (size_t j = 0; j < q; j++)
            v[i * q + j] = i == j;
    for (int sweep = 0; sweep < SWEEPS && !done; sweep++) {
        done = true;
        for (size_t i = 0; i < q; i++)
            for (size_t j = i + 1; j < q; j++) {
                double a = t[i * q + i], b = t[j * q + j], x = t[i * q + j];
                if (fabs(x) <= RIGHT * sqrt(fabs(a * b)) || x == 0)
                    continue;
                double theta = (b - a) / (2 * x);
                double tan = (theta >= 0 ? 1 : -1) / (fabs(theta) + sqrt(theta * theta + 1));
                double c = 1 / sqrt(tan * tan + 1);
                turn(t + i * q, t + j * q, q, c, tan * c);
                turn(v + i * q, v + j * q, q, c, tan * c);
                for (size_t r = 0; r < q; r++) {
                    double p = t[r * q + i], o = t[r * q + j];
                    t[r * q + i] = c * p - tan * c * o;
                    t[r * q + j] = tan * c * p + c * o;
                }
                done = false;
            }
    }
}

// Rows of z become the eigenvectors of K, by falling eigenvalues; returns how many of the first n
// are not zero.
static size_t foremost(struct factors *f, size_t m, size_t k, size_t q, size_t n)
{
    size_t found = 0;
    double most = 0;
    for (size_t i = 0; i < q; i++)
        for (size_t j = 0; j < q; j++)
            f->t[i * q + j] =
                (dot(f->y + i * m, f->z + j * m, k) + dot(f->y + j * m, f->z + i * m, k)) / 2;
    factors_diagonalise(f->t, f->v, q);
    for (; found < n && found < q; found++) {
        size_t best = 0;
        for (size_t i = 1; i < q; i++)
            best = f->t[i * q + i] > f->t[best * q + best] ? i : best;
        double value = f->t[best * q + best];
        most = found ? most : value;
        if (!(value > NOTHING * most))
            break;
        f->t[best * q + best] = -1;
        memset(f->z + found * m, 0, k * sizeof *f->z);
        for (size_t i = 0; i < q; i++)
            mix_add_f64(f->v[best * q + i], f->y + i * m, k, f->z + found * m);
    }
    return found;
}

void factors_by_grams(struct factors *f, const struct factor_sum *s, float *b, float *a)
{
    const size_t m = s->n * s->rank;
    gram(f, s, false, f->g);
    gram(f, s, true, f->p);
    size_t k = cholesky(f, m), q = subspace(f, m, k, s->rank + FACTORS_GUARD);
    size_t n = foremost(f, m, k, q, s->rank);
    memset(f->mix, 0, s->rank * m * sizeof *f->mix);
    for (size_t j = 0; j < n; j++) { // b's columns are X^T L z
        times_l(f, m, k, f->z + j * m, f->one);
        for (size_t i = 0; i < m; i++)
            f->mix[j * m + i] = (float)f->one[i];
    }
    combine(f, s, true, s->rank, (struct quant_sink){b, 1, false});
    memset(f->mix, 0, s->rank * m * sizeof *f->mix);
    for (size_t j = 0; j < n; j++) // a's rows are z^T Q, and Q = L^-1 Y by the rows with a pivot
        for (size_t c = k; c-- > 0;) {
            double x = f->z[j * m + c];
            for (size_t d = c + 1; d < k; d++)
                x -= f->l[f->at[d] * m + c] * f->one[d];
            f->one[c] = x / f->l[f->at[c] * m + c];
            f->mix[j * m + f->at[c]] = (float)f->one[c];
        }
    combine(f, s, false, n, (struct quant_sink){a, 1, false});
}
