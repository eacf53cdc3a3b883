// Where arrays live and who computes on them: one row a kind of device, each with its copy of the
// operations that kernels/kernels.h lists. Nothing above this header knows which row it runs on.
#ifndef FSTQ_DEV_DEV_H
#define FSTQ_DEV_DEV_H

#include "base/check.h"
#include "base/mem.h"
#include "kernels/kernels.h"

#include <stdbool.h>

struct dev;

struct dev_row {
    const char *name, *help;
    const struct kernel_ops *ops; // NULL = not in this build; a NULL operation = not supported here
    bool host;                    // arrays are ordinary memory
    int (*open)(struct dev *d, struct err *err);
    void (*close)(struct dev *d);
    void *(*alloc)(struct dev *d, enum mem_purpose purpose, size_t size_bytes); // zeroed
    void (*free)(struct dev *d, void *block);
    void (*put)(struct dev *d, void *to, const void *from_host, size_t size_bytes);
    void (*get)(struct dev *d, void *to_host, const void *from, size_t size_bytes);
};

// One an execution lane: a thread of the CPU, a stream of a GPU.
struct dev_lane {
    struct kernel_ctx cx;
    struct dev *dev;
};

struct dev {
    const struct dev_row *row;
    const struct kernel_ops *ops;
    int32_t threads;
    size_t work_floats; // of each lane
    struct dev_lane *lane;
    void *state;
};

extern const struct dev_row *const dev_table[]; // NULL-terminated

// kind: row of dev_table. threads >= 1. A row that cannot run here is an error that says why.
int dev_open(struct dev *d, int32_t kind, int32_t threads, struct err *err);
void dev_close(struct dev *d);
// Makes every lane's work memory at least this large. Not while work is under way.
void dev_reserve(struct dev *d, size_t work_floats);

// Calls fn once for each item in [0, n), on up to d->threads lanes at a time; which lane takes an
// item is not fixed. in_order (or NULL) is called after fn for the same item and lane, for one item
// at a time, in the order of items: sums made there are the same for any number of lanes.
typedef void dev_work(void *arg, int32_t item, int32_t lane);
void dev_parallel(struct dev *d, int32_t n, dev_work *fn, dev_work *in_order, void *arg);

#endif
