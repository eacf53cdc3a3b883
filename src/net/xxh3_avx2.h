#ifndef FSTQ_NET_XXH3_AVX2_H
#define FSTQ_NET_XXH3_AVX2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool xxh3_avx2_runs(void);                       // does this processor have what it takes?
uint64_t xxh3_avx2(const void *bytes, size_t n); // only where it runs

#endif
