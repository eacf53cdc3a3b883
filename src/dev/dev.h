// Where arrays live and who computes on them: one row a kind of device, with its memory and its
// copy of the operations that kernels/kernels.h lists. Nothing above this header knows which row it
// runs on.
//
//     float *x = d->row->alloc(d, MEM_OTHER, bytes);     // the device's
//     float *here = d->row->stage(d, bytes);             // the host's
//     d->row->put(d, lane, x, here, bytes);
//     d->ops->add(&d->lane[lane].cx, x, n, x);
//     d->row->get(d, lane, here, x, bytes);
//     d->row->wait(d, lane);                             // now here is twice what it was
//
// Copies and operations of a lane happen in their order, and some time before wait() returns: what
// a copy reads or writes of the host's must not be touched until then.
#ifndef FSTQ_DEV_DEV_H
#define FSTQ_DEV_DEV_H

#include "base/check.h"
#include "base/mem.h"
#include "kernels/kernels.h"
#include "kernels/stages.h"

#include <sched.h>
#include <stdbool.h>

struct dev;
typedef void dev_fact(void *arg, int32_t i, const char *text);

struct dev_row {
    const char *name, *help;
    const struct kernel_ops *ops; // NULL = not in this build; a NULL operation = not supported here
    const struct codec_stages *codec; // NULL = codecs fetch what lies here
    bool host;                        // arrays are ordinary memory, which host code may touch
    int32_t lanes;                    // work under way side by side; 0 = as many as threads
    int32_t slice_tokens;             // a batch is taken in parts of about so many
    bool bf16;                        // multiplies by weights in bf16, too (dev_math): exact bits
    bool int8;                        // in whole numbers of 8 bits, forwards
    bool tensor;     // with activations in bf16 or fp16, or in tf32, by the library's units for it
    bool rows_alone; // a row of a batch comes to the same bits whatever is beside it
    size_t work_floats; // that its operations need at least, at any size
    // Whether the row can be opened here, or why not, without opening it; NULL: always.
    int (*usable)(struct err *err);
    // What devices of the kind there are, without opening any; or NULL.
    int (*each)(dev_fact *fn, void *arg, struct err *err);
    // Which device of the kind this one is, and how many ranks of the host have it; or NULL.
    void (*describe)(const struct dev *d, char *text, size_t size);
    int (*open)(struct dev *d, struct err *err); // or NULL
    void (*close)(struct dev *d);                // or NULL
    // Chooses where arrays come to lie that the host looks at, too (all but weights and
    // activations), and whether one of the device's arrays is such that host code may touch it
    // while no work is under way; both NULL where there is no choice.
    int (*buffers)(struct dev *d, int32_t which, struct err *err);
    bool (*shared)(const struct dev *d, const void *array);
    void *(*alloc)(struct dev *d, enum mem_purpose purpose, size_t size_bytes); // zeroed
    void (*free)(struct dev *d, void *block);
    // The host's memory, for copies that go on while the host does; any other may be copied, too.
    void *(*stage)(struct dev *d, size_t size_bytes);
    void (*unstage)(struct dev *d, void *block);

    void (*put)(struct dev *d, int32_t lane, void *to, const void *from_host, size_t size_bytes);
    void (*get)(struct dev *d, int32_t lane, void *to_host, const void *from, size_t size_bytes);
    void (*copy)(struct dev *d, int32_t lane, void *to, const void *from, size_t size_bytes);
    void (*zero)(struct dev *d, int32_t lane, void *to, size_t size_bytes);
    void (*wait)(struct dev *d, int32_t lane); // ends the process where something failed for good
    // What is queued between record and record_end, and runs then, is kept under a key: the next
    // time replay queues it all again, or says false. The key stands for everything that the queued
    // calls were given, but for the contents of the device's memory. Only operations, copies within
    // the device, zeroes and marks may be recorded.
    bool (*replay)(struct dev *d, int32_t lane, uint64_t key);
    void (*record)(struct dev *d, int32_t lane, uint64_t key);
    void (*record_end)(struct dev *d, int32_t lane);
    // The time at which a lane comes here; to be had after wait, in ns from one beginning a lane.
    void (*mark)(struct dev *d, int32_t lane, int32_t slot);
    int64_t (*marked)(struct dev *d, int32_t lane, int32_t slot);
};

// One an execution lane: a thread of the CPU, a stream of a GPU.
struct dev_lane {
    struct kernel_ctx cx;
    struct kernel_team team; // of the CPU's
    struct dev *dev;
    int64_t *mark_ns;
    int64_t apart_ns; // cx.apart_ns
};

struct dev {
    const struct dev_row *row;
    const struct kernel_ops *ops;
    int32_t threads, lanes;
    int32_t act;        // enum kernel_dtype of activations: fp32, or as dev_math says
    size_t work_floats; // of each lane
    int32_t marks;      // slots of each lane
    uint32_t moves;     // how often the lanes' memory has moved: part of every key
    struct dev_lane *lane;
    void *state;
};

// NULL-terminated. Its last rows, `fence` and `emu`, are there in test programs alone (tests/fence,
// tests/emu).
extern const struct dev_row *const dev_table[];

// Which rank of its host this one is. cpus: (local_ranks) those that each of them may run on, kept,
// or NULL: not known.
void dev_take_place(int32_t local_rank, int32_t local_ranks, const cpu_set_t *cpus);
// Which of several devices of a kind is this rank's. Each rank takes one near to its CPUs, while
// that has less than an even share of the ranks; the others take what fewest have. near: (devices)
// the CPUs near each, none: not known.
struct dev_share {
    int32_t device, ranks; // ranks: that have it
    bool far;              // it is near to other CPUs than this rank's
};
struct dev_share dev_share(int32_t devices, const cpu_set_t *near);
// Whether this kind, a row of dev_table, can be opened here, or why not.
int dev_usable(int32_t kind, struct err *err);
// kind: row of dev_table. threads >= 1. A row that cannot run here is an error that says why.
int dev_open(struct dev *d, int32_t kind, int32_t threads, struct err *err);
void dev_close(struct dev *d);
// dev.math: how weights are multiplied by; the row's choices of math's names.
extern const char *const dev_math_names[];
int dev_math(struct dev *d, int32_t math, struct err *err);
// dev.buffers: in memory of the device's own; the host's, mapped for the device; or managed by the
// driver. The last two are for GPUs that share their memory with the CPU. Before any array is made.
enum dev_buffers { DEV_BUFFERS_DEVICE, DEV_BUFFERS_MAPPED, DEV_BUFFERS_MANAGED };
extern const char *const dev_buffer_names[];
int dev_buffers(struct dev *d, int32_t which, struct err *err);
// Makes every lane's work memory and number of marks at least this large. Not while work is under
// way.
void dev_reserve(struct dev *d, size_t work_floats, int32_t marks);

// Calls fn once for each item in [0, n), on up to d->lanes lanes at a time; which lane takes an
// item is not fixed. in_order (or NULL) is called after fn for the same item and lane, for one item
// at a time, in the order of items: sums made there are the same for any number of lanes.
typedef void dev_work(void *arg, int32_t item, int32_t lane);
void dev_parallel(struct dev *d, int32_t n, dev_work *fn, dev_work *in_order, void *arg);
void dev_wait_all(struct dev *d);
// Subnormal numbers are zero while the CPU's kernels run: gradients of tokens that hardly matter
// reach them, and an operation on one takes a hundred times as long. Returns what to give back.
uint64_t dev_denormals_off(void);
void dev_denormals_restore(uint64_t was);

// A copy that is done when the call returns. Not while work is under way.
void dev_put(struct dev *d, void *to, const void *from_host, size_t size_bytes);
void dev_get(struct dev *d, void *to_host, const void *from, size_t size_bytes);

// An array of the device in the host's hands, and back with what the host changed in it: the array
// itself where host code may touch it, else a copy in room. room: dev_room of as many bytes, NULL
// where none is needed. Not while work is under way.
void *dev_room(struct dev *d, size_t size_bytes);
void *dev_take(struct dev *d, void *array, size_t size_bytes, void *room);
void dev_give(struct dev *d, void *array, size_t size_bytes, const void *room);

#endif
