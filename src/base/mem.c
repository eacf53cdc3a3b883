#include "base/mem.h"

#include "base/check.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 64u
#define MAGIC 0x4d454d42u

// Stands in the 64 bytes before each block.
struct head {
    size_t size_bytes;
    uint32_t purpose, magic;
};
_Static_assert(sizeof(struct head) <= ALIGN, "the header must fit before the block");

const char *const mem_purpose_name[MEM_PURPOSES] = {
    [MEM_WEIGHTS] = "weights",
    [MEM_ADAPTER] = "adapter",
    [MEM_OPTIMIZER] = "optimizer",
    [MEM_ACTIVATIONS] = "activations",
    [MEM_DATA] = "data",
    [MEM_CODEC] = "codec",
    [MEM_NET] = "net",
    [MEM_SERVER] = "server",
    [MEM_TRACE] = "trace",
    [MEM_OTHER] = "other",
};

static _Atomic size_t booked[MEM_PURPOSES], peak[MEM_PURPOSES];

static void raise_peak(enum mem_purpose purpose, size_t now)
{
    size_t seen = atomic_load_explicit(&peak[purpose], memory_order_relaxed);
    while (now > seen && !atomic_compare_exchange_weak(&peak[purpose], &seen, now))
        continue;
}

void *mem_alloc(enum mem_purpose purpose, size_t size_bytes)
{
    assert(purpose < MEM_PURPOSES);
    struct head *h = NULL;
    if (size_bytes <= SIZE_MAX / 2) {
        size_t padded = (size_bytes + ALIGN - 1) / ALIGN * ALIGN;
        h = aligned_alloc(ALIGN, ALIGN + padded);
    }
    if (!h)
        die(STATUS_ENV, "out of memory: %zu bytes for %s, %zu MiB booked for it already",
            size_bytes, mem_purpose_name[purpose], mem_now(purpose) >> 20);
    h->size_bytes = size_bytes;
    h->purpose = (uint32_t)purpose;
    h->magic = MAGIC;
    raise_peak(purpose, atomic_fetch_add(&booked[purpose], size_bytes) + size_bytes);
    return memset((char *)h + ALIGN, 0, size_bytes);
}

void mem_free(void *block)
{
    if (!block)
        return;
    struct head *h = (struct head *)(void *)((char *)block - ALIGN);
    assert(h->magic == MAGIC && "not from mem_alloc, or freed before");
    h->magic = 0;
    atomic_fetch_sub(&booked[h->purpose], h->size_bytes);
    free(h);
}

size_t mem_now(enum mem_purpose purpose)
{
    return atomic_load(&booked[purpose]);
}

size_t mem_peak(enum mem_purpose purpose)
{
    return atomic_load(&peak[purpose]);
}

void mem_peak_reset(void)
{
    for (int p = 0; p < MEM_PURPOSES; p++)
        atomic_store(&peak[p], atomic_load(&booked[p]));
}

size_t mem_rss_peak(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    if (!f)
        return 0;
    char line[256];
    unsigned long long kib = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1)
            break;
    fclose(f);
    return (size_t)kib * 1024;
}

void arena_init(struct arena *a, enum mem_purpose purpose, const char *name, size_t cap_bytes)
{
    *a = (struct arena){.base = mem_alloc(purpose, cap_bytes), .cap = cap_bytes, .name = name};
}

void arena_free(struct arena *a)
{
    mem_free(a->base);
    *a = (struct arena){0};
}

void *arena_take(struct arena *a, size_t size_bytes)
{
    size_t start = (a->used + ALIGN - 1) / ALIGN * ALIGN;
    if (start > a->cap || size_bytes > a->cap - start)
        die(STATUS_ENV, "arena %s is full: %zu bytes wanted, %zu of %zu used", a->name, size_bytes,
            a->used, a->cap);
    a->used = start + size_bytes;
    if (a->used > a->peak)
        a->peak = a->used;
    return a->base + start;
}
