// XXH3 with wide vectors, for frames at the speed of memory: the distribution's library is built
// for any x86-64 and hashes at half the rate at which one core copies. Same function, same values.
#ifndef FSTQ_NET_XXH3_X86_H
#define FSTQ_NET_XXH3_X86_H

#include <stddef.h>
#include <stdint.h>

typedef uint64_t xxh3_fn(const void *bytes, size_t n);

// NULL where this processor (or the compiler's target) has no such vectors.
xxh3_fn *xxh3_avx2(void), *xxh3_avx512(void);

#endif
