#include "base/mem.h"
#include "codec/factors_own.h"

#include <math.h>
#include <string.h>

struct factors *factors_open(size_t rank, size_t terms, size_t longest)
{
    struct factors *f = mem_alloc(MEM_SERVER, sizeof *f);
    const size_t m = rank * terms, q = rank + FACTORS_GUARD, more = m + rank;
    const size_t wide = (rank + 15) / 16 * 16;
    const struct {
        double **at;
        size_t n;
    } doubles[] = {{&f->g, m * m},
                   {&f->p, m * m},
                   {&f->l, m * m},
                   {&f->lt, m * m},
                   {&f->y, m * q},
                   {&f->z, m * q},
                   {&f->t, q * q},
                   {&f->v, q * q},
                   {&f->one, 2 * m},
                   {&f->have, more * rank},
                   {&f->next, more * rank},
                   {&f->small[0], rank * rank},
                   {&f->small[1], rank * rank},
                   {&f->small[2], rank * rank},
                   {&f->small[3], rank * rank},
                   {&f->small[4], rank * rank}};
    const struct {
        float **at;
        size_t n;
    } floats[] = {{&f->mix, rank * m},         {&f->by, more * wide},
                  {&f->product, more * wide},  {&f->square, rank * wide},
                  {&f->from, KLT_TILE * wide}, {&f->to, KLT_TILE * wide},
                  {&f->left, longest * wide},  {&f->right, longest * wide},
                  {&f->tile, more * KLT_TILE}, {&f->other, rank * KLT_TILE}};
    f->wide = wide;
    for (size_t i = 0; i < sizeof doubles / sizeof doubles[0]; i++)
        *doubles[i].at = mem_alloc(MEM_SERVER, doubles[i].n * sizeof(double));
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++)
        *floats[i].at = mem_alloc(MEM_SERVER, floats[i].n * sizeof(float));
    f->columns = mem_alloc(MEM_SERVER, (terms + 1) * sizeof *f->columns);
    f->at = mem_alloc(MEM_SERVER, m * sizeof *f->at);
    return f;
}

void factors_close(struct factors *f)
{
    if (!f)
        return;
    void *blocks[] = {f->g,     f->p,        f->l,        f->lt,       f->y,        f->z,
                      f->t,     f->v,        f->one,      f->mix,      f->at,       f->have,
                      f->next,  f->small[0], f->small[1], f->small[2], f->small[3], f->small[4],
                      f->by,    f->product,  f->square,   f->from,     f->to,       f->left,
                      f->right, f->columns,  f->tile,     f->other};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        mem_free(blocks[i]);
    mem_free(f);
}

void factors_nearest(struct factors *f, const struct factor_sum *s, float *b, float *a)
{
    if (!factors_by_steps(f, s, b, a))
        factors_by_grams(f, s, b, a);
}

double factors_norm(const float *b, const float *a, size_t rows, size_t rank, size_t cols)
{
    double sq = 0;
    for (size_t i = 0; i < rank; i++)
        for (size_t j = 0; j < rank; j++) {
            double bb = 0;
            for (size_t r = 0; r < rows; r++)
                bb += (double)b[r * rank + i] * (double)b[r * rank + j];
            sq += bb * quant_dot(a + i * cols, a + j * cols, cols);
        }
    return sqrt(sq > 0 ? sq : 0);
}

// h (n, n) becomes its inverse: it is symmetric and positive.
static void invert(double *h, size_t n)
{
    for (size_t p = 0; p < n; p++) {
        double pivot = 1 / h[p * n + p];
        h[p * n + p] = 1;
        for (size_t j = 0; j < n; j++)
            h[p * n + j] *= pivot;
        for (size_t i = 0; i < n; i++) {
            double w = h[i * n + p];
            if (i == p)
                continue;
            h[i * n + p] = 0;
            mix_add_f64(-w, h + p * n, n, h + i * n);
        }
    }
}

// c (n, n) = w x m
static void product(double w, const double *x, const double *m, size_t n, double *c)
{
    memset(c, 0, n * n * sizeof *c);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            mix_add_f64(w * x[i * n + j], m + j * n, n, c + i * n);
}

// d = (sum_k w_k B_k A_k a^T - b a a^T) (a a^T + nu I)^-1: a mix of the terms' B, and of b's
// columns.
void factors_fit(struct factors *f, const struct factor_sum *s, double mu, float *b, const float *a)
{
    const size_t r = s->rank, own = s->n * r * r;
    double *inverse = f->small[0], trace = 0;
    factors_against(f, s, a);
    const double *h = f->have + own;
    for (size_t i = 0; i < r; i++)
        trace += h[i * r + i];
    if (!(trace > 0))
        return;
    memcpy(inverse, h, r * r * sizeof *h);
    for (size_t i = 0; i < r; i++)
        inverse[i * r + i] += mu * trace / (double)r;
    invert(inverse, r);
    for (size_t k = 0; k <= s->n; k++)
        product(k < s->n ? (double)s->weight[k] : -1, f->have + k * r * r, inverse, r,
                f->next + k * r * r);
    factors_add(f, s, f->next, b);
}
