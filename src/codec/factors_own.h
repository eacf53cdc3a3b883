// What the files of factors.h share.
#ifndef FSTQ_CODEC_FACTORS_OWN_H
#define FSTQ_CODEC_FACTORS_OWN_H

#include "codec/factors.h"
#include "kernels/kernels_codec.h"

#include <stdbool.h>

#define FACTORS_GUARD 8 // directions beyond those wanted

// m = terms x rank, and of steps one term more; q = rank and the guard; wide = rank up to a
// multiple of 16.
struct factors {
    size_t wide;
    // factors_grams.c
    double *g, *p, *l, *lt; // (m, m)
    double *y, *z;          // (q, m) a direction a row
    double *t, *v;          // (q, q)
    double *one;            // (2, m)
    float *mix;             // (rank, m)
    size_t *at;             // (m)
    // factors_steps.c
    double *have, *next;   // (m, rank)
    double *small[5];      // (rank, rank)
    float *by, *product;   // (m, wide)
    float *square;         // (rank, wide)
    float *from, *to;      // (KLT_TILE, wide)
    float *left, *right;   // (longest, wide)
    const float **columns; // (terms + 1)
    // both
    float *tile, *other; // (m, KLT_TILE), (rank, KLT_TILE)
};

// Jacobi: t (q, q) becomes diagonal, rows of v its eigenvectors.
void factors_diagonalise(double *t, double *v, size_t q);

// Two ways to factors_nearest. By products of W with few vectors, where one step from the mean of
// the terms is enough; false: it is not, and b and a are as they were.
bool factors_by_steps(struct factors *f, const struct factor_sum *s, float *b, float *a);
// By the products of all rows with each other, which always is.
void factors_by_grams(struct factors *f, const struct factor_sum *s, float *b, float *a);

// f->have = A_k a^T of all terms, and behind them a a^T.
void factors_against(struct factors *f, const struct factor_sum *s, const float *a);
// b (rows, rank) += sum_k B_k M_k + b M, the last of all M.
void factors_add(struct factors *f, const struct factor_sum *s, const double *m, float *b);

#endif
