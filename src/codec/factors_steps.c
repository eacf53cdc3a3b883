// The nearest product by steps with W itself. What clients of a round send is much alike, so that
// the rows of their mean A span nearly what W's foremost right singular vectors do. From there
//
//     U = W A^T,  V = W^T U',  b = W a^T         U' and a: U and V with orthonormal columns
//
// bring the error of a span down by s = sigma_(r+1) / sigma_r a product. One costs 2 m r (rows +
// cols) operations, where the products of all rows with each other cost m^2 (rows + cols). How far
// V lies outside of A's span and b outside of U's are the errors before them, and tell s.
//
// A square of a narrow matrix comes of what the next pass makes anyway: where U = sum_k B_k M_k,
// U^T U = sum_k M_k^T (B_k^T U).
#include "base/mem.h"
#include "codec/factors_own.h"

#include <math.h>
#include <string.h>

#define SETTLED 1e-6  // part of the largest singular value that a may be off by
#define SINGLE  1e-10 // part of the largest eigenvalue below which there is no direction

// Small matrices, r columns each.

// c (n, r) = x (n, r) y
static void times(const double *x, size_t n, const double *y, size_t r, double *c)
{
    memset(c, 0, n * r * sizeof *c);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < r; j++)
            mix_add_f64(x[i * r + j], y + j * r, r, c + i * r);
}

static void make_even(double *c, size_t r)
{
    for (size_t i = 0; i < r; i++)
        for (size_t j = 0; j < i; j++)
            c[i * r + j] = c[j * r + i] = (c[i * r + j] + c[j * r + i]) / 2;
}

// c = x^T y, of n rows, where it is symmetric
static void square(const double *x, const double *y, size_t n, size_t r, double *c)
{
    memset(c, 0, r * r * sizeof *c);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < r; j++)
            mix_add_f64(x[i * r + j], y + i * r, r, c + j * r);
    make_even(c, r);
}

// Where X^T X = g, X times `by` has orthonormal columns, by falling eigenvalues, of which `most` is
// the first. False: there are fewer.
static bool whiten(struct factors *f, const double *g, size_t r, double *by, double *most)
{
    double *t = f->t;
    memcpy(t, g, r * r * sizeof *t);
    factors_diagonalise(t, f->v, r);
    for (size_t j = 0; j < r; j++) {
        size_t best = 0;
        for (size_t i = 1; i < r; i++)
            best = t[i * r + i] > t[best * r + best] ? i : best;
        double value = t[best * r + best];
        *most = j ? *most : value;
        if (!(value > SINGLE * *most))
            return false;
        t[best * r + best] = -1;
        for (size_t i = 0; i < r; i++)
            by[i * r + j] = f->v[best * r + i] / sqrt(value);
    }
    return true;
}

// x (n, r) with zeros behind its columns.
static void widen(const struct factors *f, const double *x, size_t n, size_t r, float *to)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < f->wide; j++)
            to[i * f->wide + j] = j < r ? (float)x[i * r + j] : 0;
}

// x (m, r), of each term times its weight; and as f->by.
static void weigh(struct factors *f, const struct factor_sum *s, double *x)
{
    const size_t r = s->rank;
    for (size_t i = 0; i < s->n * r; i++)
        for (size_t j = 0; j < r; j++)
            x[i * r + j] = (double)(float)(x[i * r + j] * (double)s->weight[i / r]);
    widen(f, x, s->n * r, r, f->by);
}

// Tiles.

static size_t piece(size_t length, size_t at)
{
    return length - at < KLT_TILE ? length - at : KLT_TILE;
}

#define AHEAD 6 // rows that are asked for before they are read

// Columns of A from `at` on, of n terms one after another. Rows lie so far apart that nothing
// fetches the next by itself, and that in the cache they would push each other out: they are read
// once, and used from where they are close together.
static size_t load(const struct factor_sum *s, const float *const *a, size_t n, size_t at,
                   float *to)
{
    const size_t cols = piece(s->cols, at);
    for (size_t i = 0; i < n * s->rank; i++) {
        const size_t next = i + AHEAD < n * s->rank ? i + AHEAD : i;
        const float *row = a[i / s->rank] + i % s->rank * s->cols + at;
        const float *ahead = a[next / s->rank] + next % s->rank * s->cols + at;
        for (size_t c = 0; c < cols; c += 16)
            __builtin_prefetch(ahead + c);
        memcpy(to + i * KLT_TILE, row, cols * sizeof *to);
    }
    return cols;
}

// rows (rank, KLT_TILE), as columns of to (cols, wide).
static void turn(const struct factors *f, const float *rows, size_t rank, size_t cols, float *to)
{
    for (size_t c = 0; c < cols; c++)
        for (size_t r = 0; r < f->wide; r++)
            to[c * f->wide + r] = r < rank ? rows[r * KLT_TILE + c] : 0;
}

// The weighted mean of what is loaded, turned.
static void mean(struct factors *f, const struct factor_sum *s, size_t cols, float *to)
{
    const size_t n = s->rank * KLT_TILE;
    memset(f->other, 0, n * sizeof *f->other);
    for (size_t k = 0; k < s->n; k++)
        mix_sum(1, f->other, s->weight[k], f->tile + k * n, n, f->other);
    turn(f, f->other, s->rank, cols, to);
}

// sum (m, rank) += stack (m, .) y (., wide)
static void add_product(struct factors *f, const struct factor_stack *stack, size_t m, size_t rank,
                        const float *y, double *sum)
{
    factor_product(stack, m, y, f->wide, f->product);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < rank; j++)
            sum[i * rank + j] += (double)f->product[i * f->wide + j];
}

// f->have += m rows of what is loaded, times y (cols, wide).
static void add_against(struct factors *f, size_t m, size_t rank, size_t cols, const float *y)
{
    const float *at[] = {f->tile};
    const struct factor_stack rows = {at, 1, cols, KLT_TILE, 1};
    add_product(f, &rows, m, rank, y, f->have);
}

// y (n, wide) f->square (rank, wide)
static void turn_tile(const struct factors *f, const float *y, size_t n, size_t rank, float *to)
{
    const float *at[] = {y};
    const struct factor_stack rows = {at, 1, rank, f->wide, 1};
    factor_product(&rows, n, f->square, f->wide, to);
}

// sum_k B_k M_k of n rows from `at` on, M as f->by; b: one more B, or NULL.
static void tile_left(struct factors *f, const struct factor_sum *s, const float *b, size_t at,
                      size_t n, float *to)
{
    const struct factor_stack rows = {f->columns, s->n + (b != NULL), s->rank, s->rank, 1};
    for (size_t k = 0; k < rows.n; k++)
        f->columns[k] = (k < s->n ? s->b[k] : b) + at * s->rank;
    factor_product(&rows, n, f->by, f->wide, to);
}

void factors_against(struct factors *f, const struct factor_sum *s, const float *a)
{
    const size_t m = (s->n + 1) * s->rank;
    float *own = f->tile + s->n * s->rank * KLT_TILE;
    memset(f->have, 0, m * s->rank * sizeof *f->have);
    for (size_t at = 0; at < s->cols; at += KLT_TILE) {
        size_t cols = load(s, s->a, s->n, at, f->tile);
        load(s, &a, 1, at, own);
        turn(f, own, s->rank, cols, f->from);
        add_against(f, m, s->rank, cols, f->from);
    }
}

void factors_add(struct factors *f, const struct factor_sum *s, const double *m, float *b)
{
    const size_t r = s->rank;
    widen(f, m, (s->n + 1) * r, r, f->by);
    for (size_t at = 0; at < s->rows; at += KLT_TILE) {
        size_t n = piece(s->rows, at);
        tile_left(f, s, b, at, n, f->to);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < r; j++)
                b[(at + i) * r + j] += f->to[i * f->wide + j];
    }
}

// The passes.

static void forget(struct factors *f, const struct factor_sum *s)
{
    memset(f->have, 0, s->n * s->rank * s->rank * sizeof *f->have);
}

// f->right = mean(A)^T, f->have = A_k of it, and what makes its columns orthonormal.
static bool start(struct factors *f, const struct factor_sum *s, double *by)
{
    const size_t r = s->rank;
    double *g = f->small[4], most;
    forget(f, s);
    for (size_t at = 0; at < s->cols; at += KLT_TILE) {
        size_t cols = load(s, s->a, s->n, at, f->tile);
        float *y = f->right + at * f->wide;
        mean(f, s, cols, y);
        add_against(f, s->n * r, r, cols, y);
    }
    memset(g, 0, r * r * sizeof *g);
    for (size_t i = 0; i < s->n * r; i++)
        mix_add_f64((double)s->weight[i / r], f->have + i * r, r, g + i % r * r);
    make_even(g, r);
    return whiten(f, g, r, by, &most);
}

// f->left = U = sum_k B_k M_k, and f->have = B_k^T U.
static void pass_left(struct factors *f, const struct factor_sum *s)
{
    const size_t r = s->rank;
    forget(f, s);
    for (size_t at = 0; at < s->rows; at += KLT_TILE) {
        size_t n = piece(s->rows, at);
        float *u = f->left + at * f->wide;
        tile_left(f, s, NULL, at, n, u);
        for (size_t k = 0; k < s->n; k++) {
            const float *b[] = {s->b[k] + at * r};
            const struct factor_stack columns = {b, 1, n, 1, r};
            add_product(f, &columns, r, r, u, f->have + k * r * r);
        }
    }
}

// f->right = V = sum_k A_k^T M_k, f->have = A_k V, g = V^T V; returns the square of what mean(A)^T
// near, which is where V will be, leaves of V.
static double pass_right(struct factors *f, const struct factor_sum *s, const double *near,
                         double *g)
{
    const size_t r = s->rank, m = s->n * r;
    double outside = 0;
    forget(f, s);
    memset(g, 0, r * r * sizeof *g);
    widen(f, near, r, r, f->square);
    for (size_t at = 0; at < s->cols; at += KLT_TILE) {
        size_t cols = load(s, s->a, s->n, at, f->tile);
        float *v = f->right + at * f->wide;
        const float *tile[] = {f->tile}, *own[] = {v};
        const struct factor_stack rows = {tile, 1, m, 1, KLT_TILE};
        const struct factor_stack columns = {own, 1, cols, 1, f->wide};
        turn_tile(f, v, cols, r, f->to);
        factor_product(&rows, cols, f->by, f->wide, v);
        outside += quant_sum_sq_diff(v, f->to, cols * f->wide);
        add_product(f, &columns, r, r, v, g);
        add_against(f, m, r, cols, v);
    }
    make_even(g, r);
    return outside;
}

// f->left = b = sum_k B_k M_k; returns the square of what U near leaves of it.
static double pass_b(struct factors *f, const struct factor_sum *s, const double *near)
{
    double outside = 0;
    widen(f, near, s->rank, s->rank, f->square);
    for (size_t at = 0; at < s->rows; at += KLT_TILE) {
        size_t n = piece(s->rows, at);
        float *u = f->left + at * f->wide;
        turn_tile(f, u, n, s->rank, f->from);
        tile_left(f, s, NULL, at, n, u);
        outside += quant_sum_sq_diff(u, f->from, n * f->wide);
    }
    return outside;
}

// b is f->left, a^T = V by.
static void give(struct factors *f, const struct factor_sum *s, const double *by, float *b,
                 float *a)
{
    const size_t r = s->rank;
    for (size_t i = 0; i < s->rows; i++)
        memcpy(b + i * r, f->left + i * f->wide, r * sizeof *b);
    widen(f, by, r, r, f->square);
    for (size_t at = 0; at < s->cols; at += KLT_TILE) {
        const size_t cols = piece(s->cols, at);
        turn_tile(f, f->right + at * f->wide, cols, r, f->to);
        for (size_t j = 0; j < r; j++)
            for (size_t c = 0; c < cols; c++)
                a[j * s->cols + at + c] = f->to[c * f->wide + j];
    }
}

bool factors_by_steps(struct factors *f, const struct factor_sum *s, float *b, float *a)
{
    const size_t r = s->rank, m = s->n * r;
    double *by_a = f->small[0], *by_u = f->small[1], *by_v = f->small[2], *g = f->small[3];
    double *near = f->small[4], most;
    if (!start(f, s, by_a))
        return false;
    times(f->have, m, by_a, r, f->next);
    weigh(f, s, f->next);
    pass_left(f, s);
    square(f->next, f->have, m, r, g);
    if (!whiten(f, g, r, by_u, &most))
        return false;
    times(f->have, m, by_u, r, f->next);
    weigh(f, s, f->next);
    times(g, r, by_u, r, near); // U^T U' = A' V: what V has of A's orthonormal rows
    times(by_a, r, near, r, g);
    const double before = pass_right(f, s, g, near);
    if (!whiten(f, near, r, by_v, &most))
        return false;
    times(f->have, m, by_v, r, f->next); // A_k a^T
    weigh(f, s, f->next);
    times(near, r, by_v, r, g); // V^T V by_v = U'^T b
    times(by_u, r, g, r, near);
    const double after = pass_b(f, s, near);
    if (!(after <= SETTLED * SETTLED * most || after <= SETTLED * sqrt(before * most)))
        return false;
    give(f, s, by_v, b, a);
    return true;
}
