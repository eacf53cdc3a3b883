// What the server keeps of examples whose activations have come: records of any length in one slab,
// found by a 64-bit id. The backbone is frozen and targets do not change, so that what is there
// stays right: a record goes only where the slab is full, the oldest first.
//
// The slab is a ring: records lie behind one another, none goes over the end. The index is open
// addressing with linear probing, twice as many places as records of the least length fit.
#ifndef FSTQ_FED_SIDE_CACHE_H
#define FSTQ_FED_SIDE_CACHE_H

#include "base/check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct side_cache;
struct side_cache_counts {
    int64_t hits, misses;     // of side_cache_get
    int64_t evicted, refused; // records: made room with; longer than the slab
    int64_t records, bytes;   // there now, without what holds them
};

// least_bytes: no record is shorter.
struct side_cache *side_cache_open(size_t slab_bytes, size_t least_bytes);
void side_cache_close(struct side_cache *c); // NULL does nothing
struct side_cache_counts side_cache_counts(const struct side_cache *c);
// One that is there already stays as it is.
void side_cache_put(struct side_cache *c, uint64_t id, const uint8_t *bytes, size_t len);
// These will be asked for next, in whatever order: so that memory's answers are waited for
// together.
void side_cache_expect(const struct side_cache *c, const uint64_t *id, size_t n);
// Until the next put; NULL = it is not there.
const uint8_t *side_cache_get(struct side_cache *c, uint64_t id, size_t *len);
bool side_cache_has(const struct side_cache *c, uint64_t id); // without counting

// All of it in 32-bit words, the oldest record first, for a checkpoint; and back into an empty one
// of the same sizes. -1: the words are no such thing.
size_t side_cache_words(const struct side_cache *c);
void side_cache_keep(const struct side_cache *c, uint8_t *out);
int side_cache_restore(struct side_cache *c, const uint8_t *in, size_t words);

#endif
