// An orthonormal basis of few dimensions, direction by direction, each as small integers: its
// coordinates in the orthogonal complement of those before it. Sender and receiver make the same
// floats of the same integers: IEEE + - x / and square roots only.
#ifndef FSTQ_CODEC_BASIS_H
#define FSTQ_CODEC_BASIS_H

#include "kernels/kernels_codec.h"

#define BASIS_DIM KLT_ROWS

struct basis {
    int dim, taken;
    double rest[BASIS_DIM][BASIS_DIM]; // (dim, dim - taken) columns that span what is left
};

// Eigenvectors of a symmetric matrix g (dim, dim), of which the upper triangle is read, as rows of
// v (dim, dim) by falling eigenvalues, which go into value (dim). By Jacobi's rotations, to about
// 1e-4: the directions are rounded afterwards.
void basis_eigen(const double *g, int dim, double *v, double *value);

void basis_begin(struct basis *b, int dim);
static inline int basis_left(const struct basis *b) // coordinates of the next direction
{
    return b->dim - b->taken;
}
// The next direction's coordinates in steps: those of v (dim), or what is left of it there. Never
// all zero; the first that is not is positive.
void basis_round(const struct basis *b, const double *v, double step, int *q);
// The direction that these say, which are not all zero, into u (dim), of length 1.
void basis_take(struct basis *b, const int *q, double *u);

#endif
