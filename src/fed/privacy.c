#include "fed/privacy.h"

#include "base/rng.h"

#include <math.h>

double privacy_norm(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

double privacy_apply(const struct client_params *p, uint64_t seed, uint32_t client, uint32_t round,
                     float *x, size_t n)
{
    double norm = privacy_norm(x, n), sigma = p->dp_sigma * p->dp_clip;
    if (p->dp_clip <= 0)
        return norm;
    if (norm > p->dp_clip) {
        double scale = p->dp_clip / norm;
        for (size_t i = 0; i < n; i++)
            x[i] = (float)(scale * (double)x[i]);
    }
    if (sigma > 0) {
        struct rng r = rng_stream(seed, RNG_NOISE, round, client, 0);
        for (size_t i = 0; i < n; i++)
            x[i] += (float)(sigma * rng_normal(&r));
    }
    return norm;
}
