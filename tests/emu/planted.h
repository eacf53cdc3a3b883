// Kernels that test_emu runs.
#ifndef FSTQ_EMU_PLANTED_H
#define FSTQ_EMU_PLANTED_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    PLANTED_UNWRITTEN,
    PLANTED_OUTSIDE,
    PLANTED_READS_HOST,
    PLANTED_BARRIERS,
    PLANTED_STUCK,
    PLANTED_MASK,
    PLANTED_ACROSS,
    PLANTED_CRASH,
    PLANTED_SHARED,
    PLANTED_THREADS
};
void planted_two_sums(void *stream, const float *x, float *y, bool barriers);
void planted_last_adds(void *stream, const float *x, float *part, int32_t *count, float *y,
                       bool fence);
void planted_mistake(void *stream, int which, const float *x, float *y, int n);

#ifdef __cplusplus
}
#endif

#endif
