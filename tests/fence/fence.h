// The row `fence` of dev_table, which only test programs link: the CPU's kernels on memory that no
// host code can touch. Blocks are PROT_NONE but for the time in which a lane's queue runs, and it
// runs as late as it may: when somebody waits for it. So what works here works on a device with
// memory of its own and a queue of its own.
#ifndef FSTQ_FENCE_FENCE_H
#define FSTQ_FENCE_FENCE_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

// One more entry of the queue, whose argument drop frees.
void fence_queue(void *queue, void (*run)(void *arg), void (*drop)(void *arg), void *arg);
// Ends the program unless p is NULL or the device's.
void fence_check(const char *op, const void *p);
extern const struct kernel_ops fence_ops;

// fence_codec.c: the codecs' stages, each over all runs in one call. What is queued runs first;
// between enter and leave the device's memory can be touched.
void fence_enter(void *queue);
void fence_leave(void);
void fence_check_host(const char *op, const void *p);
extern const struct codec_stages fence_codec; // stages.h

#ifdef __cplusplus
}
#endif

#endif
