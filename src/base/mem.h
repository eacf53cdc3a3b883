// Memory by purpose: every block is booked under a name, so that a trace can say who peaked where.
#ifndef FSTQ_BASE_MEM_H
#define FSTQ_BASE_MEM_H

#include "base/check.h"

#include <stddef.h>
#include <stdint.h>

enum mem_purpose {
    MEM_WEIGHTS,
    MEM_ADAPTER,
    MEM_OPTIMIZER,
    MEM_ACTIVATIONS,
    MEM_DATA,
    MEM_CODEC,
    MEM_NET,
    MEM_SERVER,
    MEM_TRACE,
    MEM_OTHER,
    MEM_PURPOSES
};

extern const char *const mem_purpose_name[MEM_PURPOSES];

// 64-byte aligned, zeroed; die() with purpose and size when there is none. free takes NULL. What is
// large is compared with mem_room first: a system that overcommits would kill the process instead.
void *mem_alloc(enum mem_purpose purpose, size_t size_bytes);
// Likewise, but a large block takes memory only as it is touched, which costs time then: for what
// is sized for a worst case that most runs stay below.
void *mem_reserve(enum mem_purpose purpose, size_t size_bytes);
void mem_free(void *block);
// Room for `need` rows, at least doubled where there is less: block has *cap of them, the first n
// in use, which are kept. Rows beyond them are zero where the block is new.
void *mem_grow(enum mem_purpose purpose, void *block, size_t n, size_t need, size_t *cap,
               size_t row_bytes);
// What somebody else gives and takes back: a GPU's memory.
void mem_book(enum mem_purpose purpose, size_t size_bytes);
void mem_unbook(enum mem_purpose purpose, size_t size_bytes);
size_t mem_now(enum mem_purpose purpose);  // bytes booked now
size_t mem_peak(enum mem_purpose purpose); // and at most so far
void mem_peak_reset(void);
size_t mem_booked(void);   // now, for all purposes
size_t mem_rss_peak(void); // VmHWM of the process, 0 = not known here

// Bytes that this process may still take: what the machine has available, what its cgroup and its
// own limit on address space leave, whichever is least; SIZE_MAX = none of them is known. root: ""
// for this machine, or a folder with another's /proc and /sys.
size_t mem_room(const char *root);
// Before anything large is made: is there room? -1 says what asks for how much ("net.sim_workers =
// 1000"). From a gibibyte on it is said, too, where there is.
int mem_fits(double size_bytes, const char *what, struct err *err);

// A bump allocator over one block: measured code takes from it and never calls malloc.
struct arena {
    uint8_t *base;
    size_t cap, used, peak;
    const char *name;
};

void arena_init(struct arena *a, enum mem_purpose purpose, const char *name, size_t cap_bytes);
void arena_free(struct arena *a);
void *arena_take(struct arena *a, size_t size_bytes); // 64-byte aligned, not zeroed; die() if full
static inline size_t arena_mark(const struct arena *a)
{
    return a->used;
}
static inline void arena_release(struct arena *a, size_t mark)
{
    a->used = mark;
}

#endif
