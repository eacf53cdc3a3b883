// Noisy heterogeneous least squares with a known optimum: the workload of every transport, fault
// and scale test. Client i holds A_i (n_i, d) and B_i (n_i, m) and
//     f_i(X) = ||A_i X - B_i||^2 / (2 n_i) + ridge/2 ||X||^2,   F = mean_i f_i,
// features A_i ~ N(mu_i, I) with mu_i ~ N(0, het^2 I), B_i = A_i X_true + noise (Zhu et al. 2026,
// SSF, toy). X is (d, m), row-major. Scratch lies in struct quadratic: one thread at a time.
#ifndef FSTQ_TASK_QUADRATIC_H
#define FSTQ_TASK_QUADRATIC_H

#include "base/check.h"
#include "base/rng.h"

#include <stddef.h>
#include <stdint.h>

struct quadratic_params {
    int32_t features, outputs, samples; // d, m, n_i
    double het, ridge, noise;
};

struct quadratic;

// Whether this machine has the memory and anybody the time: names the parameters that ask for more.
int quadratic_check(const struct quadratic_params *p, int32_t clients, struct err *err);
// Data is made from (seed, client) alone. With cached = false nothing is kept per client: a
// client's data is made again each time it trains (10,000 clients cost nothing while idle).
struct quadratic *quadratic_open(const struct quadratic_params *p, uint64_t seed, int32_t clients,
                                 bool cached);
void quadratic_close(struct quadratic *q);
size_t quadratic_dim(const struct quadratic *q); // d * m
int32_t quadratic_samples(const struct quadratic *q, int32_t client);

// steps of minibatch SGD with momentum from x in place; velocity (d, m) or NULL (then momentum is
// 0). A minibatch is drawn with replacement. Returns the mean minibatch loss before each step.
double quadratic_train(struct quadratic *q, int32_t client, float *x, float *velocity,
                       int32_t steps, int32_t batch, double lr, double momentum,
                       struct rng *batches);
// One minibatch's loss and gradient g (d, m) at x; batch = 0 takes every sample once: f_i itself.
double quadratic_gradient(struct quadratic *q, int32_t client, const float *x, int32_t batch,
                          struct rng *batches, float *g);

// The first call of any of these solves for X* over every client's data (Cholesky on the sum of the
// normal matrices) and keeps d x d numbers. Asked to stop meanwhile, it gives up: NaN, and NULL.
double quadratic_error(struct quadratic *q, const float *x); // ||X - X*|| / ||X*||
double quadratic_loss(struct quadratic *q, const float *x);  // F(X)
const double *quadratic_optimum(struct quadratic *q);        // X* (d, m)

#endif
