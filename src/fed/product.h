// Products B A of an adapter: what it adds to the weights, up to the model's scale. The mean of
// clients' products is not the product of their means; schemes that want the first sum it here.
#ifndef FSTQ_FED_PRODUCT_H
#define FSTQ_FED_PRODUCT_H

#include "base/check.h"
#include "base/shape.h"

#include <stddef.h>
#include <stdint.h>

struct product_pair {
    size_t a, b,
        at; // A (rank, cols) and B (rows, rank) in the adapter, B A (rows, cols) in the sum
    uint32_t rank, rows, cols;
};

struct products {
    struct product_pair *pair; // in the order of A in the shape
    uint32_t n_pairs;
    size_t n;    // values of all products
    size_t rank; // the largest of all pairs
    size_t side; // rows or columns of a product, the most of all
};

// Pairs "X.A" with "X.B"; -1 with err where one has no partner or there are none.
int products_open(struct products *p, const struct shape *shape, struct err *err);
void products_close(struct products *p);
// sum += weight * B A of the adapter theta, moved by delta unless that is NULL.
void products_add(const struct products *p, const float *theta, const float *delta, float weight,
                  float *sum);
// How far a change of each coordinate of the adapter theta + delta reaches: its square times reach
// is the squared change of B A. A row of A has the squared norm of its column of B, and a column of
// B that of its row of A; coordinates of no product have 1.
void products_reach(const struct products *p, const float *theta, const float *delta, size_t n,
                    float *reach);
// From sum_k w_k B_k A_k to what the mean product and the step lr make of the adapter theta:
// B A + lr (mean of B_k A_k - B A).
void products_mean(const struct products *p, const float *theta, double weight_sum, double lr,
                   float *sum);
// backbone += what the adapter after the step does not hold of it; sum is used up.
void products_rest(const struct products *p, const float *theta, float *sum, float *backbone);

#endif
