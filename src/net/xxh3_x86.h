// XXH3 with wide vectors, for frames at the speed of memory: the distribution's library is built
// for any x86-64 and hashes at half the rate at which one core copies. Same function, same values.
#ifndef FSTQ_NET_XXH3_X86_H
#define FSTQ_NET_XXH3_X86_H

#include <stddef.h>
#include <stdint.h>

struct xxh3_kit {
    uint64_t (*hash)(const void *bytes, size_t n);
    void (*begin)(void *state); // state: an XXH3_state_t, 64-byte aligned
    void (*add)(void *state, const void *bytes, size_t n);
    uint64_t (*end)(const void *state);
};

// NULL where this processor (or the compiler's target) has no such vectors.
const struct xxh3_kit *xxh3_avx2(void), *xxh3_avx512(void);

#endif
