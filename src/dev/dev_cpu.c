// The CPU rows: `cpu` with the fast kernels, `ref` with the plain ones they are tested against.
#include "dev/dev.h"

#include <omp.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

extern const struct dev_row dev_cpu, dev_ref;

static void *cpu_alloc(struct dev *d, enum mem_purpose purpose, size_t size_bytes)
{
    (void)d;
    return mem_alloc(purpose, size_bytes);
}

static void cpu_free(struct dev *d, void *block)
{
    (void)d;
    mem_free(block);
}

static void cpu_copy(struct dev *d, void *to, const void *from, size_t size_bytes)
{
    (void)d;
    memcpy(to, from, size_bytes);
}

// Subnormal numbers are zero while kernels run: gradients of tokens that hardly matter reach them,
// and an operation on one takes a hundred times as long. Returns what to give back to
// denormals_restore.
static uint64_t denormals_off(void)
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

static void denormals_restore(uint64_t was)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)was);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(was));
#else
    (void)was;
#endif
}

static void run_item(dev_work *fn, void *arg, int32_t item, int32_t lane)
{
    uint64_t was = denormals_off();
    fn(arg, item, lane);
    denormals_restore(was);
}

void dev_parallel(struct dev *d, int32_t n, dev_work *fn, dev_work *in_order, void *arg)
{
    if (d->threads == 1 || n <= 1) {
        for (int32_t i = 0; i < n; i++) {
            run_item(fn, arg, i, 0);
            if (in_order)
                run_item(in_order, arg, i, 0);
        }
    } else if (in_order) {
#pragma omp parallel for num_threads(d->threads) schedule(dynamic, 1) ordered
        for (int32_t i = 0; i < n; i++) {
            run_item(fn, arg, i, omp_get_thread_num());
#pragma omp ordered
            run_item(in_order, arg, i, omp_get_thread_num());
        }
    } else {
#pragma omp parallel for num_threads(d->threads) schedule(dynamic, 1)
        for (int32_t i = 0; i < n; i++)
            run_item(fn, arg, i, omp_get_thread_num());
    }
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

const struct dev_row dev_cpu = {.name = "cpu",
                                .help = "this rank's cores, AVX-512, AVX2, NEON or portable",
                                .ops = &cpu_ops,
                                .host = true,
                                .alloc = cpu_alloc,
                                .free = cpu_free,
                                .put = cpu_copy,
                                .get = cpu_copy};

const struct dev_row dev_ref = {.name = "ref",
                                .help =
                                    "plain loops in double precision: slow, the tests' yardstick",
                                .ops = &ref_ops,
                                .host = true,
                                .alloc = cpu_alloc,
                                .free = cpu_free,
                                .put = cpu_copy,
                                .get = cpu_copy};
