#include "dev/dev.h"

#include <assert.h>
#include <string.h>

extern const struct dev_row dev_cpu, dev_ref;
// NULL but in test programs; one that has emu has fence, too.
extern const struct dev_row dev_fence __attribute__((weak)), dev_emu __attribute__((weak));
#ifdef HAVE_CUDA
extern const struct dev_row dev_cuda;
#else // it can be named, and says so
static const struct dev_row dev_cuda = {.name = "cuda", .help = "one CUDA GPU per rank"};
#endif

const struct dev_row *const dev_table[] = {&dev_cpu,   &dev_ref, &dev_cuda,
                                           &dev_fence, &dev_emu, NULL};

static int32_t place, places = 1;
static const cpu_set_t *place_cpus;

void dev_take_place(int32_t local_rank, int32_t local_ranks, const cpu_set_t *cpus)
{
    place = local_rank;
    places = local_ranks;
    place_cpus = cpus;
}

static bool meet(const cpu_set_t *a, const cpu_set_t *b)
{
    cpu_set_t both;
    CPU_AND(&both, a, b);
    return CPU_COUNT(&both) > 0;
}

// The first that fewest ranks have, and fewer than so many; of those near to these CPUs, or of all.
// -1: there is none.
static int32_t least_taken(int32_t devices, const int32_t *ranks, int32_t most,
                           const cpu_set_t *near, const cpu_set_t *cpus)
{
    int32_t best = -1;
    for (int32_t i = 0; i < devices; i++)
        if (ranks[i] < (best < 0 ? most : ranks[best]) && (!cpus || meet(&near[i], cpus)))
            best = i;
    return best;
}

struct dev_share dev_share(int32_t devices, const cpu_set_t *near)
{
    int32_t *ranks = mem_alloc(MEM_OTHER, (size_t)(devices + places) * sizeof *ranks);
    int32_t *of = ranks + devices, even = (places + devices - 1) / devices;
    for (int32_t r = 0; r < places; r++) {
        of[r] = place_cpus ? least_taken(devices, ranks, even, near, &place_cpus[r]) : -1;
        if (of[r] >= 0)
            ranks[of[r]]++;
    }
    for (int32_t r = 0; r < places; r++)
        if (of[r] < 0)
            ranks[of[r] = least_taken(devices, ranks, INT32_MAX, NULL, NULL)]++;
    const cpu_set_t *own = &near[of[place]];
    const struct dev_share s = {of[place], ranks[of[place]],
                                place_cpus && CPU_COUNT(own) > 0 && !meet(own, &place_cpus[place])};
    mem_free(ranks);
    return s;
}

int dev_usable(int32_t kind, struct err *err)
{
    const struct dev_row *row = dev_table[kind];
    struct err why = {""};
    if (!row->ops)
        return err_set(err,
                       "dev.kind = %s: not supported by this program: build it where nvcc is, "
                       "or choose cpu",
                       row->name);
    return row->usable && row->usable(&why) ? err_set(err, "dev.kind = %s: %s", row->name, why.text)
                                            : 0;
}

int dev_open(struct dev *d, int32_t kind, int32_t threads, struct err *err)
{
    assert(kind >= 0 && kind < (int32_t)ARRAY_LEN(dev_table) - 1 && threads >= 1);
    assert(dev_table[kind]);
    *d = (struct dev){.row = dev_table[kind], .threads = threads, .act = KERNEL_F32};
    if (dev_usable(kind, err))
        return -1;
    d->ops = d->row->ops;
    d->lanes = d->row->lanes ? d->row->lanes : threads;
    d->lane = mem_alloc(MEM_OTHER, (size_t)d->lanes * sizeof *d->lane);
    for (int32_t i = 0; i < d->lanes; i++) {
        d->lane[i].dev = d;
        d->lane[i].cx.act = d->act;
        d->lane[i].cx.grad_scale = 1;
        d->lane[i].cx.apart_ns = &d->lane[i].apart_ns;
    }
    if (d->row->open && d->row->open(d, err)) {
        mem_free(d->lane);
        *d = (struct dev){0};
        return -1;
    }
    if (d->row->work_floats > 0)
        dev_reserve(d, 0, 0);
    return 0;
}

const char *const dev_math_names[] = {
    [KERNEL_MATH_F32] = "fp32",  [KERNEL_MATH_BF16] = "bf16", [KERNEL_MATH_F16] = "fp16",
    [KERNEL_MATH_TF32] = "tf32", [KERNEL_MATH_INT8] = "int8", NULL};

// A token's part of a mean over thousands is below what fp16 has; this much larger, a gradient of
// the whole is still far from its largest.
#define F16_GRADS 4096

int dev_math(struct dev *d, int32_t math, struct err *err)
{
    const bool own = d->row->bf16 && math == KERNEL_MATH_BF16, int8 = math == KERNEL_MATH_INT8;
    if (math != KERNEL_MATH_F32 && (int8 ? !d->row->int8 : !own && !d->row->tensor))
        return err_set(err, "dev.math = %s: not supported by dev.kind = %s", dev_math_names[math],
                       d->row->name);
    if (own && !kernel_bf16_fast())
        note("dev.math = bf16: this CPU has no AVX-512 BF16; the same bits, made in fp32, are no "
             "faster");
    if (d->row->tensor)
        d->act = math == KERNEL_MATH_BF16  ? KERNEL_BF16
                 : math == KERNEL_MATH_F16 ? KERNEL_F16
                                           : KERNEL_F32;
    for (int32_t i = 0; i < d->lanes; i++) {
        d->lane[i].cx.math = math;
        d->lane[i].cx.act = d->act;
        d->lane[i].cx.grad_scale = d->act == KERNEL_F16 ? F16_GRADS : 1;
    }
    return 0;
}

const char *const dev_buffer_names[] = {[DEV_BUFFERS_DEVICE] = "device",
                                        [DEV_BUFFERS_MAPPED] = "mapped",
                                        [DEV_BUFFERS_MANAGED] = "managed",
                                        NULL};

int dev_buffers(struct dev *d, int32_t which, struct err *err)
{
    struct err why;
    if (which == DEV_BUFFERS_DEVICE)
        return 0;
    if (!d->row->buffers)
        return err_set(err, "dev.buffers = %s: not supported by dev.kind = %s",
                       dev_buffer_names[which], d->row->name);
    return d->row->buffers(d, which, &why)
               ? err_set(err, "dev.buffers = %s: %s", dev_buffer_names[which], why.text)
               : 0;
}

void dev_close(struct dev *d)
{
    if (d->lane)
        dev_wait_all(d);
    for (int32_t i = 0; i < d->lanes && d->lane; i++) {
        if (d->lane[i].cx.work)
            d->row->free(d, d->lane[i].cx.work);
        mem_free(d->lane[i].mark_ns);
    }
    mem_free(d->lane);
    if (d->row && d->row->close)
        d->row->close(d);
    *d = (struct dev){0};
}

void dev_reserve(struct dev *d, size_t work_floats, int32_t marks)
{
    work_floats = work_floats > d->row->work_floats ? work_floats : d->row->work_floats;
    bool more = work_floats > d->work_floats, more_marks = marks > d->marks;
    for (int32_t i = 0; i < d->lanes && more_marks; i++) {
        mem_free(d->lane[i].mark_ns);
        d->lane[i].mark_ns = mem_alloc(MEM_OTHER, (size_t)marks * sizeof *d->lane[i].mark_ns);
    }
    d->marks = more_marks ? marks : d->marks;
    for (int32_t i = 0; i < d->lanes && more; i++) {
        struct kernel_ctx *cx = &d->lane[i].cx;
        if (cx->work)
            d->row->free(d, cx->work);
        cx->work = d->row->alloc(d, MEM_ACTIVATIONS, work_floats * sizeof(float));
        cx->work_floats = work_floats;
    }
    d->work_floats = more ? work_floats : d->work_floats;
    d->moves += more || more_marks;
}

void dev_wait_all(struct dev *d)
{
    for (int32_t i = 0; i < d->lanes; i++)
        d->row->wait(d, i);
}

void dev_put(struct dev *d, void *to, const void *from_host, size_t size_bytes)
{
    d->row->put(d, 0, to, from_host, size_bytes);
    d->row->wait(d, 0);
}

void dev_get(struct dev *d, void *to_host, const void *from, size_t size_bytes)
{
    d->row->get(d, 0, to_host, from, size_bytes);
    d->row->wait(d, 0);
}

void *dev_room(struct dev *d, size_t size_bytes)
{
    return d->row->host ? NULL : d->row->stage(d, size_bytes);
}

static bool reached(const struct dev *d, const void *array)
{
    return d->row->host || (d->row->shared && d->row->shared(d, array));
}

void *dev_take(struct dev *d, void *array, size_t size_bytes, void *room)
{
    if (reached(d, array))
        return array;
    dev_get(d, room, array, size_bytes);
    return room;
}

void dev_give(struct dev *d, void *array, size_t size_bytes, const void *room)
{
    if (!reached(d, array))
        dev_put(d, array, room, size_bytes);
}
