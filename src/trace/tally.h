// Events summed as they pass: totals exact, percentiles from a histogram of 32 steps to an octave
// (within 3%), so that a run of a million events needs no more memory than one of ten.
#ifndef FSTQ_TRACE_TALLY_H
#define FSTQ_TRACE_TALLY_H

#include "base/record.h"

#include <stdio.h>

#define TALLY_STEPS 32
#define TALLY_BINS  (64 * TALLY_STEPS)

struct stage_tally {
    int64_t count, dur_ns, cpu_ns, max_ns;
    int64_t bytes_in, bytes_out;
    bool cpu_known;
    uint32_t *bins; // (TALLY_BINS), NULL until the stage is seen
};

struct tally {
    struct stage_tally stage[STAGE_COUNT];
};

void tally_add(struct tally *t, const struct rec_event *e, size_t n);
double tally_percentile(const struct stage_tally *s, double p); // ns; NaN without events
// One row per stage, parts indented below their whole: time, share of the sum of the stages that
// are not inside others, cpu, p50, p95, bytes.
void tally_print(const struct tally *t, FILE *out);
void tally_free(struct tally *t);

#endif
