#include "base/mem.h"

#include "base/check.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define ALIGN 64u
#define MAGIC 0x4d454d42u
#define LARGE ((size_t)64 << 20)
#define HUGE  ((size_t)2 << 20) // a large page, where the machine has them

// Stands in the 64 bytes before each block.
struct head {
    void *whole; // what free() takes
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

void mem_book(enum mem_purpose purpose, size_t size_bytes)
{
    raise_peak(purpose, atomic_fetch_add(&booked[purpose], size_bytes) + size_bytes);
}

void mem_unbook(enum mem_purpose purpose, size_t size_bytes)
{
    atomic_fetch_sub(&booked[purpose], size_bytes);
}

// Large arrays are read from end to end, and that is up to a fifth faster in large pages. As much
// of the block as can have them.
static void ask_for_large_pages(void *block, size_t size_bytes)
{
    uintptr_t from = ((uintptr_t)block + HUGE - 1) & ~(uintptr_t)(HUGE - 1);
    uintptr_t to = ((uintptr_t)block + size_bytes) & ~(uintptr_t)(HUGE - 1);
    if (to > from)
        (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
}

// A large block of calloc's is zero without being touched.
static struct head *zeroed(size_t size_bytes)
{
    char *whole = calloc(1, size_bytes + 2 * ALIGN);
    if (!whole)
        return NULL;
    struct head *h = (struct head *)(void *)(whole + (ALIGN - (uintptr_t)whole % ALIGN) % ALIGN);
    h->whole = whole;
    return h;
}

void *mem_reserve(enum mem_purpose purpose, size_t size_bytes)
{
    assert(purpose < MEM_PURPOSES);
    size_t room = size_bytes >= LARGE ? mem_room("") : SIZE_MAX;
    struct head *h = size_bytes <= SIZE_MAX / 2 && size_bytes <= room ? zeroed(size_bytes) : NULL;
    if (!h)
        die(STATUS_ENV,
            "out of memory: %zu MiB for %s, %zu MiB booked for it already, %zu MiB available",
            size_bytes >> 20, mem_purpose_name[purpose], mem_now(purpose) >> 20,
            mem_room("") >> 20);
    if (size_bytes >= 4 * HUGE)
        ask_for_large_pages(h, size_bytes);
    h->size_bytes = size_bytes;
    h->purpose = (uint32_t)purpose;
    h->magic = MAGIC;
    mem_book(purpose, size_bytes);
    return (char *)h + ALIGN;
}

void *mem_alloc(enum mem_purpose purpose, size_t size_bytes)
{
    return memset(mem_reserve(purpose, size_bytes), 0, size_bytes);
}

void mem_free(void *block)
{
    if (!block)
        return;
    struct head *h = (struct head *)(void *)((char *)block - ALIGN);
    assert(h->magic == MAGIC && "not from mem_alloc, or freed before");
    h->magic = 0;
    mem_unbook((enum mem_purpose)h->purpose, h->size_bytes);
    free(h->whole);
}

void *mem_grow(enum mem_purpose purpose, void *block, size_t n, size_t need, size_t *cap,
               size_t row_bytes)
{
    if (need <= *cap)
        return block;
    size_t most = 2 * *cap > need ? 2 * *cap : need;
    most = most < 16 ? 16 : most;
    void *more = mem_alloc(purpose, most * row_bytes);
    if (n)
        memcpy(more, block, n * row_bytes);
    mem_free(block);
    *cap = most;
    return more;
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

size_t mem_booked(void)
{
    size_t n = 0;
    for (int p = 0; p < MEM_PURPOSES; p++)
        n += mem_now((enum mem_purpose)p);
    return n;
}

// The number behind a name in the lines of a file ("MemAvailable:  1234 kB"), or its first number
// where the name is "". False where there is none: no such file, or the word max.
static bool read_number(const char *root, const char *file, const char *name, size_t *v)
{
    char path[1024], line[256];
    unsigned long long n;
    bool found = false;
    if (snprintf(path, sizeof path, "%s%s", root, file) >= (int)sizeof path)
        return false;
    FILE *f = fopen(path, "r");
    while (f && !found && fgets(line, sizeof line, f))
        found = !strncmp(line, name, strlen(name)) && sscanf(line + strlen(name), "%llu", &n) == 1;
    if (f)
        fclose(f);
    if (found)
        *v = (size_t)n;
    return found;
}

static void lower(size_t *room, size_t limit, size_t used)
{
    size_t left = limit > used ? limit - used : 0;
    *room = left < *room ? left : *room;
}

// The names of one version of cgroups.
struct cgroup {
    const char *mount, *limit, *used, *cache; // cache: pages that are given back when asked for
};
static const struct cgroup cgroup_v1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                        "memory.usage_in_bytes", "total_inactive_file "};
static const struct cgroup cgroup_v2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                        "inactive_file "};

// A group and those around it up to the root: each has a limit of its own.
static void lower_to_group(size_t *room, const char *root, const struct cgroup *c, char *group)
{
    for (char *end = group + strlen(group);; *end = '\0') {
        char file[800];
        size_t limit, used, cache = 0;
        snprintf(file, sizeof file, "%s%s/%s", c->mount, group, c->limit);
        bool limited = read_number(root, file, "", &limit);
        snprintf(file, sizeof file, "%s%s/%s", c->mount, group, c->used);
        if (limited && read_number(root, file, "", &used)) {
            snprintf(file, sizeof file, "%s%s/memory.stat", c->mount, group);
            read_number(root, file, c->cache, &cache);
            lower(room, limit, used > cache ? used - cache : 0);
        }
        if (!*group)
            return;
        end = strrchr(group, '/') ? strrchr(group, '/') : group;
    }
}

static void lower_to_groups(size_t *room, const char *root)
{
    char path[1024], line[512];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) { // "4:memory:/a/b", or "0::/a/b"
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        if (!strcmp(group, "/"))
            *group = '\0';
        if (!controllers[1])
            lower_to_group(room, root, &cgroup_v2, group);
        else if (strstr(controllers, "memory"))
            lower_to_group(room, root, &cgroup_v1, group);
    }
    if (f)
        fclose(f);
}

size_t mem_room(const char *root)
{
    size_t room = SIZE_MAX, n;
    struct rlimit limit;
    if (read_number(root, "/proc/meminfo", "MemAvailable:", &n))
        lower(&room, n * 1024, 0);
    lower_to_groups(&room, root);
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        read_number(root, "/proc/self/statm", "", &n))
        lower(&room, (size_t)limit.rlim_cur, n * (size_t)sysconf(_SC_PAGESIZE));
    return room;
}

int mem_fits(double size_bytes, const char *what, struct err *err)
{
    static const double mib = 1 << 20;
    size_t room = mem_room("");
    if (size_bytes > (double)room)
        return err_set(err, "%.200s: takes %.0f MiB of memory, and %.0f MiB are available", what,
                       ceil(size_bytes / mib), (double)room / mib);
    if (size_bytes >= 1024 * mib)
        note("%s: takes %.0f MiB of memory; %.0f MiB are available", what, size_bytes / mib,
             (double)room / mib);
    return 0;
}

size_t mem_rss_peak(void)
{
    size_t kib = 0;
    read_number("", "/proc/self/status", "VmHWM:", &kib);
    return kib * 1024;
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
