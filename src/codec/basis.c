#include "codec/basis.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define SWEEPS 12
#define ENOUGH 1e-8 // squared cosine between rows that are left as they are

struct jacobi {
    int n;
    double a[BASIS_DIM][BASIS_DIM], v[BASIS_DIM][BASIS_DIM]; // v: a direction a row
};

static void turn(double *p, double *q, int n, double c, double s)
{
    for (int k = 0; k < n; k++) {
        double x = p[k], y = q[k];
        p[k] = c * x - s * y;
        q[k] = s * x + c * y;
    }
}

// Makes a[p][q] zero. Both rows turn, then their columns follow by symmetry.
static void rotate(struct jacobi *j, int p, int q)
{
    double apq = j->a[p][q], app = j->a[p][p], aqq = j->a[q][q];
    double theta = (aqq - app) / (2 * apq);
    double t = (theta >= 0 ? 1 : -1) / (fabs(theta) + sqrt(theta * theta + 1));
    double c = 1 / sqrt(t * t + 1), s = t * c;
    turn(j->a[p], j->a[q], j->n, c, s);
    turn(j->v[p], j->v[q], j->n, c, s);
    for (int k = 0; k < j->n; k++) {
        j->a[k][p] = j->a[p][k];
        j->a[k][q] = j->a[q][k];
    }
    j->a[p][p] = app - t * apq;
    j->a[q][q] = aqq + t * apq;
    j->a[p][q] = j->a[q][p] = 0;
}

static bool sweep(struct jacobi *j)
{
    bool done = true;
    for (int p = 0; p < j->n; p++)
        for (int q = p + 1; q < j->n; q++) {
            double apq = j->a[p][q];
            if (apq * apq > ENOUGH * fabs(j->a[p][p] * j->a[q][q])) {
                rotate(j, p, q);
                done = false;
            }
        }
    return done;
}

void basis_eigen(const double *g, int dim, double *v, double *value)
{
    struct jacobi j;
    int order[BASIS_DIM];
    j.n = dim;
    for (int p = 0; p < dim; p++)
        for (int q = 0; q < dim; q++) {
            j.a[p][q] = p < q ? g[p * dim + q] : g[q * dim + p];
            j.v[p][q] = p == q;
        }
    for (int k = 0; k < SWEEPS && !sweep(&j); k++)
        continue;
    for (int p = 0; p < dim; p++) { // insertion: the earlier of equal ones first
        int at = p;
        for (; at > 0 && j.a[p][p] > j.a[order[at - 1]][order[at - 1]]; at--)
            order[at] = order[at - 1];
        order[at] = p;
    }
    for (int p = 0; p < dim; p++) {
        memcpy(v + p * dim, j.v[order[p]], (size_t)dim * sizeof *v);
        value[p] = j.a[order[p]][order[p]];
    }
}

void basis_begin(struct basis *b, int dim)
{
    assert(dim >= 1 && dim <= BASIS_DIM);
    b->dim = dim;
    b->taken = 0;
    for (int i = 0; i < dim; i++)
        for (int j = 0; j < dim; j++)
            b->rest[i][j] = i == j;
}

void basis_round(const struct basis *b, const double *v, double step, int *q)
{
    const int n = basis_left(b);
    double a[BASIS_DIM] = {0}, sq = 0;
    int first = 0;
    for (int i = 0; i < b->dim; i++)
        for (int j = 0; j < n; j++)
            a[j] += b->rest[i][j] * v[i];
    for (int j = 0; j < n; j++)
        sq += a[j] * a[j];
    double scale = sq > 0 ? 1 / (sqrt(sq) * step) : 0;
    int most = (int)(1 / step + 0.5);
    for (int j = 0; j < n; j++) {
        int m = (int)(fabs(a[j]) * scale + 0.5);
        m = m < most ? m : most;
        q[j] = a[j] < 0 ? -m : m;
    }
    while (first < n && q[first] == 0)
        first++;
    if (first == n)
        q[0] = 1;
    else if (q[first] < 0)
        for (int j = 0; j < n; j++)
            q[j] = -q[j];
}

// What is left by one Householder reflection, which takes the direction to an axis: the others'
// images are orthonormal and orthogonal to it.
void basis_take(struct basis *b, const int *q, double *u)
{
    const int n = basis_left(b);
    double a[BASIS_DIM], sq = 0;
    for (int j = 0; j < n; j++)
        sq += (double)q[j] * q[j];
    assert(n > 0 && sq > 0);
    for (int j = 0; j < n; j++)
        a[j] = q[j] / sqrt(sq);
    for (int i = 0; i < b->dim; i++) {
        u[i] = 0;
        for (int j = 0; j < n; j++)
            u[i] += b->rest[i][j] * a[j];
    }
    // h = a + sign(a_0) e_0, |h|^2 = 2 (1 + |a_0|)
    double half = 1 + fabs(a[0]);
    a[0] += a[0] >= 0 ? 1 : -1;
    for (int i = 0; i < b->dim; i++) {
        double dot = 0;
        for (int j = 0; j < n; j++)
            dot += b->rest[i][j] * a[j];
        for (int j = 1; j < n; j++)
            b->rest[i][j - 1] = b->rest[i][j] - dot * a[j] / half;
    }
    b->taken++;
}
