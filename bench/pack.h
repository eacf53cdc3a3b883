#ifndef FSTQ_BENCH_PACK_H
#define FSTQ_BENCH_PACK_H

#include "bench/bench.h"

// The codecs' whole-vector passes on a device, a row of dev_table: scales, codes into packed bytes,
// and back, beside a copy of its memory.
void pack_on_device(struct bench_ctx *c, int32_t dev, size_t values);

#endif
