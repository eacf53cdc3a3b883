// The threads of this process: loops are shared out item by item, and never wait long. The caller
// works too and needs nobody: helpers take what is left, and the caller waits only for items that a
// helper has begun. What a loop computes must not depend on who does which item; how many threads
// take part does, on purpose, depend on how busy the machine is.
#ifndef FSTQ_BASE_POOL_H
#define FSTQ_BASE_POOL_H

#include <stddef.h>
#include <stdint.h>

// Loops over fewer values than this are not shared out: to wake a thread takes as long as they do.
#define POOL_LEAST_VALUES ((size_t)1 << 16)

// threads >= 1, the caller's included: as many as pool_each may use from now on. Helpers that are
// missing are started; none ends before pool_close. Not while a loop runs.
void pool_open(int32_t threads);
int32_t pool_threads(void); // 1 where there is no pool
// At least this many threads exist, for loops that say how many lanes they use.
void pool_reserve(int32_t threads);
// Shares out every loop, also one too small to gain by it: for tests of what must be the same.
void pool_share_all(void);
// Ends all helpers.
void pool_close(void);

// How much of the time of loops that could be shared out, 0 to 1, the caller worked alone: sharing
// had gained nothing lately.
double pool_alone(void);

// Calls fn once for each item in [0, n), which together go over n_values values.
void pool_each(size_t n_values, uint32_t n, void (*fn)(void *arg, uint32_t item), void *arg);

// Calls fn on [from, to) for all of [0, n), in pieces of this size.
void pool_spans(size_t n, size_t piece, void (*fn)(void *arg, size_t from, size_t to), void *arg);

// The same on up to `lanes` threads, each with its number in [0, lanes); which lane takes an item
// is not fixed. A loop inside an item runs on its item's lane alone.
typedef void pool_work(void *arg, int32_t item, int32_t lane);
typedef void pool_site(void);
struct pool_loop {
    int32_t lanes, n;
    pool_work *fn;
    // Or NULL. Called after fn for the same item and lane, for one item at a time, in the order of
    // items: sums made there are the same for any number of threads.
    pool_work *in_order;
    void *arg;
    pool_site *site; // the loop, as its gains and losses are known by: the function of its items
    size_t n_values; // that it goes over; 0: more than POOL_LEAST_VALUES
};
void pool_run(const struct pool_loop *l);

#endif
