// The gate of the MLP: a block a row.
#include "gpu.h"

enum { SWIGLU_THREADS = 256 };

static __global__ void __launch_bounds__(SWIGLU_THREADS)
    gate_fwd(const float *__restrict__ gu, ptrdiff_t ldg, int hidden, float *__restrict__ h,
             ptrdiff_t ldh)
{
    gu += blockIdx.x * ldg;
    h += blockIdx.x * ldh;
    for (int j = (int)threadIdx.x; j < hidden; j += (int)blockDim.x) {
        float g = gu[j];
        h[j] = g / (1.0f + expf(-g)) * gu[hidden + j];
    }
}

// dgu may be gu: a thread reads both of its values before it writes them.
static __global__ void __launch_bounds__(SWIGLU_THREADS)
    gate_bwd(const float *gu, ptrdiff_t ldg, const float *__restrict__ dh, ptrdiff_t ldh,
             int hidden, float *dgu)
{
    gu += blockIdx.x * ldg;
    dgu += blockIdx.x * ldg;
    dh += blockIdx.x * ldh;
    for (int j = (int)threadIdx.x; j < hidden; j += (int)blockDim.x) {
        float g = gu[j], u = gu[hidden + j], d = dh[j], s = 1.0f / (1.0f + expf(-g));
        dgu[j] = d * u * s * (1.0f + g * (1.0f - s));
        dgu[hidden + j] = d * g * s;
    }
}

extern "C" void GPU_OP(swiglu_fwd)(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                                   int32_t m, int32_t hidden, kernel_act *h, ptrdiff_t ldh)
{
    if (m > 0)
        LAUNCH(gate_fwd, (unsigned)m, (unsigned)gpu_threads(hidden, SWIGLU_THREADS), 0, cx->stream,
               act_in(gu), ldg, hidden, act_out(h), ldh);
}

extern "C" void GPU_OP(swiglu_bwd)(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                                   const kernel_act *dh, ptrdiff_t ldh, int32_t m, int32_t hidden,
                                   kernel_act *dgu)
{
    if (m > 0)
        LAUNCH(gate_bwd, (unsigned)m, (unsigned)gpu_threads(hidden, SWIGLU_THREADS), 0, cx->stream,
               act_in(gu), ldg, act_in(dh), ldh, hidden, act_out(dgu));
}
