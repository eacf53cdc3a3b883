#include "fed/fed.h"

#include "base/rng.h"

// Workers first, then a client of each; a worker without clients is not chosen.
static void sample_apart(struct rng *r, uint32_t clients, uint32_t n, uint32_t workers,
                         uint32_t *out)
{
    rng_choose(r, workers < clients ? workers : clients, n, out);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t owned = (clients - out[i] - 1) / workers + 1;
        out[i] += workers * rng_below(r, owned);
    }
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && out[k - 1] > out[k]; k--) {
            uint32_t t = out[k];
            out[k] = out[k - 1];
            out[k - 1] = t;
        }
}

void fed_sample(uint64_t seed, uint32_t round, uint32_t clients, uint32_t n, uint32_t apart,
                uint32_t *out)
{
    struct rng r = rng_stream(seed, RNG_SAMPLE, round, apart, 0);
    if (apart)
        sample_apart(&r, clients, n, apart, out);
    else
        rng_choose(&r, clients, n, out);
}

bool fed_drops(uint64_t seed, uint32_t round, uint32_t client, double p)
{
    if (p <= 0)
        return false;
    struct rng r = rng_stream(seed, RNG_DROPOUT, round, client, 0);
    return rng_unit(&r) < p;
}

int32_t fed_steps(const struct fed_params *p, uint64_t seed, uint32_t round, uint32_t client)
{
    if (p->local_steps_min <= 0)
        return p->local_steps;
    struct rng r = rng_stream(seed, RNG_STEPS, round, client, 0);
    return p->local_steps_min +
           (int32_t)rng_below(&r, (uint32_t)(p->local_steps - p->local_steps_min + 1));
}

bool fed_scored(const struct fed_params *p, uint32_t round)
{
    int32_t left = p->rounds - (int32_t)round;
    return left == 0 || left < p->eval_last ||
           (p->eval_every > 0 && (int32_t)round % p->eval_every == 0);
}

double fed_server_lr(const struct fed_params *p, int32_t round)
{
    int32_t half = p->rounds / 2; // rounds count from 1
    if (p->server_lr_end < 0 || round <= half)
        return p->server_lr;
    double t = (double)(round - half) / (double)(p->rounds - half);
    return p->server_lr + (p->server_lr_end - p->server_lr) * t;
}
