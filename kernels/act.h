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

// The parts of an operation, in turn where there is no team.
static inline void kernel_parts(const struct kernel_team *team, size_t products, int32_t n,
                                kernel_part_fn *fn, void *arg)
{
    if (team)
        team->each(team, products, n, fn, arg);
    for (int32_t i = 0; i < n && !team; i++)
        fn(arg, i, NULL);
}

#endif
