// The CPU rows: `cpu` with the fast kernels, `ref` with the plain ones they are tested against.
#include "dev/dev.h"

#include <omp.h>
#include <string.h>

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

void dev_parallel(struct dev *d, int32_t n, dev_work *fn, dev_work *in_order, void *arg)
{
    if (d->threads == 1 || n <= 1) {
        for (int32_t i = 0; i < n; i++) {
            fn(arg, i, 0);
            if (in_order)
                in_order(arg, i, 0);
        }
    } else if (in_order) {
#pragma omp parallel for num_threads(d->threads) schedule(dynamic, 1) ordered
        for (int32_t i = 0; i < n; i++) {
            fn(arg, i, omp_get_thread_num());
#pragma omp ordered
            in_order(arg, i, omp_get_thread_num());
        }
    } else {
#pragma omp parallel for num_threads(d->threads) schedule(dynamic, 1)
        for (int32_t i = 0; i < n; i++)
            fn(arg, i, omp_get_thread_num());
    }
}

static const struct dev_ops cpu_ops = {
#define CPU_OP(name, params) .name = name##_cpu,
    KERNEL_OPS(CPU_OP)
#undef CPU_OP
};

static const struct dev_ops ref_ops = {
#define REF_OP(name, params) .name = name##_ref,
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
