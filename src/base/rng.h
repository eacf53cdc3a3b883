// Counter-based random numbers (Philox4x32-10, Salmon et al. 2011): a stream is named by what it is
// for, so that the same draw comes out whatever the rank, thread or order of calls.
#ifndef FSTQ_BASE_RNG_H
#define FSTQ_BASE_RNG_H

#include <stdint.h>

// What a stream is for. Numbers are forever: they are part of every seed's meaning.
enum rng_use {
    RNG_SAMPLE = 1,    // clients of a round                      a = round
    RNG_DROPOUT = 2,   // who drops out                           a = round, b = client
    RNG_PARTITION = 3, // who holds which data                    a = client
    RNG_DATA = 4,      // synthetic examples                      a = client or set, b = example
    RNG_BATCH = 5,     // minibatches of a client                 a = round, b = client
    RNG_INIT = 6,      // initial adapters and weights            a = tensor
    RNG_CODEC = 7,     // stochastic rounding                     a = client, b = round, c = tensor
    RNG_SIM = 8,       // faults of the simulated transport       a = event
    RNG_LINK = 9,      // jitter and loss                         a = client, b = round
    RNG_TOKENS = 10,   // random token masks                      a = round, b = client
    RNG_TEST = 11,     // tests and benches                       any
    RNG_DEVICE =
        12, // which client has which device           a = client, b = 0; its presence b = 1
    RNG_PRETRAIN = 13, // documents of the base model's corpus    a = step
    RNG_NOISE = 14,    // noise on an update                      a = round, b = client
    RNG_BINARY = 15,   // signs of updates in training            a = round, b = client
    RNG_STEPS = 16,    // local steps of a client                 a = round, b = client
    RNG_VIEW = 17,     // sets of rows or columns                 a = how many there are
    RNG_INFER = 18,    // prompts to time, tokens left out        a, b = whose
    RNG_RANKS = 19,    // which client has which rank
    RNG_SIDE = 20,     // examples of an epoch of side-tuning     a = client, b = epoch
    RNG_PERTURB = 21,  // directions of perturbed inference       a = round, b = client, c = which
};

struct rng {
    uint32_t key[2], ctr[4]; // ctr[0] counts blocks of four words
    uint32_t word[4];
    uint32_t left; // words of the block not yet drawn
    double spare;  // second normal of a pair
    int has_spare;
};

struct rng rng_stream(uint64_t seed, enum rng_use use, uint32_t a, uint32_t b, uint32_t c);
uint32_t rng_u32(struct rng *r);
uint32_t rng_below(struct rng *r, uint32_t n); // uniform in [0, n), unbiased (rejection)
double rng_unit(struct rng *r);                // uniform in [0, 1), 53 bits
double rng_normal(struct rng *r);              // Box-Muller on our own log and cos
double rng_gamma(struct rng *r, double shape); // Marsaglia and Tsang 2000
void rng_dirichlet(struct rng *r, double alpha, int n, double *p);
void rng_shuffle(struct rng *r, uint32_t *v, uint32_t n);
void rng_choose(struct rng *r, uint32_t n, uint32_t k, uint32_t *out); // k of n, ascending

// Random access: word i of a stream without state, for parallel loops and GPU twins.
uint32_t rng_at(const struct rng *stream, uint64_t i);

#endif
