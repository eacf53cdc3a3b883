// XXH3 at once and piece by piece, as one row of functions. Included once by each file that
// compiles them for its own vectors: xxh3_avx2.c, xxh3_avx512.c, and wire.c for any processor.
#ifndef FSTQ_NET_XXH3_KIT_H
#define FSTQ_NET_XXH3_KIT_H

#include "net/xxh3_x86.h"

#define XXH_STATIC_LINKING_ONLY // the size of its state
#include <xxhash.h>

static uint64_t kit_hash(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

static void kit_begin(void *state)
{
    XXH3_64bits_reset(state);
}

static void kit_add(void *state, const void *bytes, size_t n)
{
    XXH3_64bits_update(state, bytes, n);
}

static uint64_t kit_end(const void *state)
{
    return XXH3_64bits_digest(state);
}

static const struct xxh3_kit xxh3_kit = {
    .hash = kit_hash,
    .begin = kit_begin,
    .add = kit_add,
    .end = kit_end,
};

#endif
