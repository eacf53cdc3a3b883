// Binary updates learned in the local loop (FedBAT, ICML 2024). After a warm-up in full precision
// the model runs with theta + y, y = +-alpha at random with mean m, one alpha per matrix:
//     y = alpha (2 b - 1),  P(b = 1) = clip((m / alpha + 1) / 2, 0, 1)
// and m and alpha = clamp(alpha0 exp(rho a), min, max) are both learned, straight through:
//     dm = dy 1[|m| <= alpha]
//     dalpha = sum dy (1[m > alpha] - 1[m < -alpha] + 1[|m| <= alpha] (2 b - 1 - m / alpha))
// alpha0 is the mean |m| at the end of the warm-up; y is drawn once more for the upload.
#ifndef FSTQ_FED_BINARY_H
#define FSTQ_FED_BINARY_H

#include "base/rng.h"
#include "base/shape.h"
#include "model/model.h"

struct binary_opt {
    double warmup, rho, alpha_min, alpha_max;
};

struct binary { // of one client in training; vectors are (n_tensors)
    const struct binary_opt *opt;
    const struct shape *shape;
    float *alpha0, *a, *grad, *mean, *var; // one block, binary_floats of it
    int32_t step;
};

size_t binary_floats(const struct shape *shape);
void binary_init(struct binary *b, const struct binary_opt *opt, const struct shape *shape,
                 float *block);
// adapter = theta + m as trained so far. Matrices that have not moved stay out of it: alpha = 0.
void binary_begin(struct binary *b, const float *theta, const float *adapter);
double binary_alpha(const struct binary *b, uint32_t tensor);
void binary_draw(const struct binary *b, const float *theta, const float *adapter, struct rng *r,
                 float *y);
// grad: of theta + y, becomes that of m; leaves that of a in b->grad.
void binary_gradient(struct binary *b, const float *theta, const float *adapter, const float *y,
                     float *grad);
void binary_step(struct binary *b, const struct optim_params *p); // of a, by the local optimizer

#endif
