// Subspaces of random directions (view gauss): the adapter is trained and kept in a basis of its
// own, drawn once, and a round's part is so many of its coordinates. A matrix is turned along its
// longer side, x = Q^T z, with Q (n, n) orthogonal: the rows of a Gaussian matrix made orthonormal.
#ifndef FSTQ_FED_TURN_H
#define FSTQ_FED_TURN_H

#include "fed/local.h"

struct sub_opt { // of the views sub and gauss
    int32_t parts, stay, draw;
};

#define TURN_MOST 4096 // of a longer side: Q has its square of numbers

// The same rows on every machine: one order, double, no library's functions.
void turn_draw(uint64_t draw, uint32_t n, float *q);
extern const struct local_rule turn_rule; // options: struct sub_opt

#endif
