// What the files of the row `cuda` share. They are built twice, as the row `emu` with CUDA_EMULATED
// for tests (tests/emu).
#ifndef FSTQ_DEV_CUDA_H
#define FSTQ_DEV_CUDA_H

#include "dev/dev.h"
#include "kernels/gpu_stages.h"

#include <assert.h>

#ifdef CUDA_EMULATED
#define GPU(name) name##_emu
#else
#define GPU(name) name##_cuda
#endif
#define gpu_count       GPU(gpu_count)
#define gpu_each        GPU(gpu_each)
#define gpu_describe    GPU(gpu_describe)
#define gpu_share       GPU(gpu_share)
#define gpu_look        GPU(gpu_look)
#define gpu_library     GPU(gpu_library)
#define gpu_move        GPU(gpu_move)
#define gpu_clear       GPU(gpu_clear)
#define gpu_settle      GPU(gpu_settle)
#define gpu_alloc_row   GPU(gpu_alloc_row)
#define gpu_entropy_row GPU(gpu_entropy_row)
#define gpu_rotate_row  GPU(gpu_rotate_row)
#define gpu_select_row  GPU(gpu_select_row)

// dev_cuda.c, the one file that knows CUDA's header: how many GPUs there are, or why none can be
// had; what one is; and a library's functions: -1 where it is not there, 1 where it lacks one.
struct gpu_card {
    char bus[32];
    int major, minor, multiprocessors, clock_mhz, memory_bits;
    bool integrated, maps, manages; // mapped and managed memory
};
struct gpu_symbol {
    const char *name;
    void *to; // a pointer to a function
};
int gpu_count(int *n, struct err *err);
void gpu_look(int i, struct gpu_card *c);
int gpu_library(const char *name, const struct gpu_symbol *call, size_t n, const char **missing);

// cuda_facts.c: each GPU in a line, and a device's own; which of n is this rank's, by what hwloc
// knows of the bus.
int gpu_each(dev_fact *fn, void *arg, struct err *err);
void gpu_describe(const struct dev *d, char *text, size_t size);
struct dev_share gpu_share(int n);

// dev_cuda.c: a codec's copy and zeroes, queued; and whatever is queued is done, or the program
// ends with what went wrong.
void gpu_move(const struct kernel_ctx *cx, void *to, const void *from, size_t n, bool there);
void gpu_clear(const struct kernel_ctx *cx, void *to, size_t n);
void gpu_settle(const struct kernel_ctx *cx);

extern const struct alloc_stages gpu_alloc_row;     // cuda_alloc.c
extern const struct entropy_stages gpu_entropy_row; // cuda_entropy.c
extern const struct rotate_stages gpu_rotate_row;   // cuda_rotate.c
extern const struct select_stages gpu_select_row;   // cuda_select.c

// Work memory, handed out from its beginning.
struct room {
    const struct kernel_ctx *cx;
    uint8_t *at;
};

static inline struct room room_of(const struct kernel_ctx *cx)
{
    return (struct room){cx, (uint8_t *)cx->work};
}

static inline size_t room_left(const struct room *r)
{
    return (size_t)((uint8_t *)(r->cx->work + r->cx->work_floats) - r->at);
}

static inline void *room_take(struct room *r, size_t size_bytes)
{
    void *p = r->at;
    size_t round = (size_bytes + 63) / 64 * 64;
    assert(round <= room_left(r));
    r->at += round;
    return p;
}

// With what the host has, which must stay until gpu_settle.
static inline void *room_put(struct room *r, const void *from, size_t size_bytes)
{
    void *p = room_take(r, size_bytes);
    gpu_move(r->cx, p, from, size_bytes, true);
    return p;
}

#endif
