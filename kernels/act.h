// Activations as the CPU's kernels see them: fp32. For files of this directory alone.
#ifndef FSTQ_KERNELS_ACT_H
#define FSTQ_KERNELS_ACT_H

#include "kernels.h"

static inline const float *act_in(const kernel_act *x)
{
    return (const float *)(const void *)x;
}

static inline float *act_out(kernel_act *x)
{
    return (float *)(void *)x;
}

#endif
