// Sums of products W = sum_k w_k B_k A_k of low-rank factors, B_k (rows, rank) and A_k (rank,
// cols), without ever making W: what a server does to adapters whose products it averages. Costs
// grow with (rows + cols) times the ranks together times the rank, where terms are much alike, else
// times the square of the ranks together.
#ifndef FSTQ_CODEC_FACTORS_H
#define FSTQ_CODEC_FACTORS_H

#include <stddef.h>

#define FACTORS_RANK 64 // most

struct factor_sum {
    size_t rows, cols, rank; // of all terms
    size_t n;                // terms, at least 1
    const float *const *b, *const *a;
    const float *weight;
};

struct factors; // room to work in
// At most; longest: the longer side of W.
struct factors *factors_open(size_t rank, size_t terms, size_t longest);
void factors_close(struct factors *f);

// The product of that rank closest to W: rows of a are orthonormal, right singular vectors of W by
// falling singular values, and b = W a^T. So its first r columns and rows are the best of rank r.
// Where W has fewer singular values, the last columns of b are zero and so many of the last rows of
// a stay. To about 1e-6 of the largest singular value.
void factors_nearest(struct factors *f, const struct factor_sum *s, float *b, float *a);
// Adds to b (rows, rank) what brings b a closest to W: the d of least |W - (b + d) a|^2 + nu |d|^2,
// nu = mu times the mean square of a's rows.
void factors_fit(struct factors *f, const struct factor_sum *s, double mu, float *b,
                 const float *a);
double factors_norm(const float *b, const float *a, size_t rows, size_t rank,
                    size_t cols); // |b a|, Frobenius

#endif
