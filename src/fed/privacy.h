// Clip and noise of an update before it is compressed (McMahan et al. 2018). It shows what they
// cost in time, bytes and score; noise that follows from run.seed keeps nothing secret.
#ifndef FSTQ_FED_PRIVACY_H
#define FSTQ_FED_PRIVACY_H

#include "fed/fed.h"

#include <stddef.h>

double privacy_norm(const float *x, size_t n); // L2
// x *= min(1, clip / ||x||); x += sigma clip N(0, 1), from the client's stream of the round.
// Returns ||x|| as it was. With dp_clip = 0 nothing is done to x.
double privacy_apply(const struct client_params *p, uint64_t seed, uint32_t client, uint32_t round,
                     float *x, size_t n);

#endif
