#include "dev/dev.h"

#include <assert.h>
#include <string.h>

extern const struct dev_row dev_cpu, dev_ref;
// The column that no kernel fills yet: it can be named, and says so.
static const struct dev_row dev_cuda = {.name = "cuda", .help = "one CUDA GPU a rank"};

const struct dev_row *const dev_table[] = {&dev_cpu, &dev_ref, &dev_cuda, NULL};

int dev_open(struct dev *d, int32_t kind, int32_t threads, struct err *err)
{
    assert(kind >= 0 && kind < (int32_t)ARRAY_LEN(dev_table) - 1 && threads >= 1);
    *d = (struct dev){.row = dev_table[kind], .threads = threads};
    if (!d->row->ops)
        return err_set(err, "dev.kind = %s: not supported by this program", d->row->name);
    d->ops = d->row->ops;
    if (d->row->open && d->row->open(d, err))
        return -1;
    d->lane = mem_alloc(MEM_OTHER, (size_t)threads * sizeof *d->lane);
    for (int32_t i = 0; i < threads; i++)
        d->lane[i].dev = d;
    return 0;
}

void dev_close(struct dev *d)
{
    for (int32_t i = 0; i < d->threads && d->lane; i++)
        if (d->lane[i].cx.work)
            d->row->free(d, d->lane[i].cx.work);
    mem_free(d->lane);
    if (d->row && d->row->close)
        d->row->close(d);
    *d = (struct dev){0};
}

void dev_reserve(struct dev *d, size_t work_floats)
{
    if (work_floats <= d->work_floats)
        return;
    d->work_floats = work_floats;
    for (int32_t i = 0; i < d->threads; i++) {
        struct kernel_ctx *cx = &d->lane[i].cx;
        if (cx->work)
            d->row->free(d, cx->work);
        cx->work = d->row->alloc(d, MEM_ACTIVATIONS, work_floats * sizeof(float));
        cx->work_floats = work_floats;
    }
}
