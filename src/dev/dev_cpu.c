// The CPU rows: `cpu` with the fast kernels, `ref` with the plain ones they are tested against.
#include "base/clock.h"
#include "base/pool.h"
#include "dev/dev.h"

#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

extern const struct dev_row dev_cpu, dev_ref;

// A value that a loop goes over, as the pool counts them, takes about as long as this many
// products.
enum { PRODUCTS_OF_VALUE = 4 };

struct parts {
    const struct dev_lane *own;
    kernel_part_fn *fn;
    void *arg;
};

static void do_part(void *arg, int32_t part, int32_t lane)
{
    const struct parts *p = arg;
    bool own = lane == p->own->team.own;
    uint64_t was = own ? 0 : dev_denormals_off();
    p->fn(p->arg, part, own ? NULL : p->own->dev->lane[lane].cx.work);
    if (!own)
        dev_denormals_restore(was);
}

static void team_each(const struct kernel_team *t, size_t products, int32_t n, kernel_part_fn *fn,
                      void *arg)
{
    const size_t at = offsetof(struct dev_lane, team);
    struct parts p = {(const struct dev_lane *)(const void *)((const char *)t - at), fn, arg};
    pool_run(&(struct pool_loop){.lanes = t->lanes,
                                 .n = n,
                                 .fn = do_part,
                                 .arg = &p,
                                 .site = (pool_site *)fn,
                                 .n_values = products / PRODUCTS_OF_VALUE + 1});
}

static int cpu_open(struct dev *d, struct err *err)
{
    (void)err;
    pool_reserve(d->threads);
    for (int32_t i = 0; i < d->lanes && d->lanes > 1; i++) {
        d->lane[i].team = (struct kernel_team){team_each, d->lanes, i};
        d->lane[i].cx.team = &d->lane[i].team;
    }
    return 0;
}

static void *cpu_alloc(struct dev *d, enum mem_purpose purpose, size_t size_bytes)
{
    (void)d; // activations have room for the longest slice there may be
    return (purpose == MEM_ACTIVATIONS ? mem_reserve : mem_alloc)(purpose, size_bytes);
}

static void cpu_free(struct dev *d, void *block)
{
    (void)d;
    mem_free(block);
}

static void *cpu_stage(struct dev *d, size_t size_bytes)
{
    return cpu_alloc(d, MEM_OTHER, size_bytes);
}

static void cpu_copy(struct dev *d, int32_t lane, void *to, const void *from, size_t size_bytes)
{
    (void)d;
    (void)lane;
    memcpy(to, from, size_bytes);
}

static void cpu_zero(struct dev *d, int32_t lane, void *to, size_t size_bytes)
{
    (void)d;
    (void)lane;
    memset(to, 0, size_bytes);
}

// A thread has done what it was told when the call returns: there is nothing to wait for, and
// nothing to be gained by keeping the calls.
static void cpu_wait(struct dev *d, int32_t lane)
{
    (void)d;
    (void)lane;
}

static bool cpu_replay(struct dev *d, int32_t lane, uint64_t key)
{
    (void)d;
    (void)lane;
    (void)key;
    return false;
}

static void cpu_record(struct dev *d, int32_t lane, uint64_t key)
{
    (void)d;
    (void)lane;
    (void)key;
}

static void cpu_mark(struct dev *d, int32_t lane, int32_t slot)
{
    d->lane[lane].mark_ns[slot] = clock_ns();
}

static int64_t cpu_marked(struct dev *d, int32_t lane, int32_t slot)
{
    return d->lane[lane].mark_ns[slot];
}

uint64_t dev_denormals_off(void)
{
    uint64_t was = 0;
#if defined(__x86_64__)
    was = _mm_getcsr();
    _mm_setcsr((unsigned)was | 0x8040u); // flush to zero, denormals are zero
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(was));
    __asm__ volatile("msr fpcr, %0" : : "r"(was | 1ull << 24));
#endif
    return was;
}

void dev_denormals_restore(uint64_t was)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)was);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(was));
#else
    (void)was;
#endif
}

struct items {
    dev_work *fn, *in_order;
    void *arg;
};

static void run_item(void *arg, int32_t item, int32_t lane)
{
    struct items *i = arg;
    uint64_t was = dev_denormals_off();
    i->fn(i->arg, item, lane);
    dev_denormals_restore(was);
}

static void run_in_order(void *arg, int32_t item, int32_t lane)
{
    struct items *i = arg;
    uint64_t was = dev_denormals_off();
    i->in_order(i->arg, item, lane);
    dev_denormals_restore(was);
}

void dev_parallel(struct dev *d, int32_t n, dev_work *fn, dev_work *in_order, void *arg)
{
    struct items i = {fn, in_order, arg};
    pool_run(&(struct pool_loop){.lanes = d->lanes,
                                 .n = n,
                                 .fn = run_item,
                                 .in_order = in_order ? run_in_order : NULL,
                                 .arg = &i,
                                 .site = (pool_site *)fn});
}

static const struct kernel_ops cpu_ops = {
#define CPU_OP(name) .name = name##_cpu,
    KERNEL_OPS(CPU_OP)
#undef CPU_OP
};

static const struct kernel_ops ref_ops = {
#define REF_OP(name) .name = name##_ref,
    KERNEL_OPS(REF_OP)
#undef REF_OP
};

#define CPU_ROW                                                                                    \
    .codec = &codec_stages_cpu, .host = true, .slice_tokens = 512, .rows_alone = true,             \
    .open = cpu_open, .alloc = cpu_alloc, .free = cpu_free, .stage = cpu_stage,                    \
    .unstage = cpu_free, .put = cpu_copy, .get = cpu_copy, .copy = cpu_copy, .zero = cpu_zero,     \
    .wait = cpu_wait, .replay = cpu_replay, .record = cpu_record, .record_end = cpu_wait,          \
    .mark = cpu_mark, .marked = cpu_marked

const struct dev_row dev_cpu = {.name = "cpu",
                                .help = "this rank's cores, by AVX-512, AVX2, NEON or none of them",
                                .ops = &cpu_ops,
                                .bf16 = true,
                                .int8 = true,
                                CPU_ROW};

const struct dev_row dev_ref = {.name = "ref",
                                .help =
                                    "plain loops in double precision: slow, the tests' yardstick",
                                .ops = &ref_ops,
                                CPU_ROW};
