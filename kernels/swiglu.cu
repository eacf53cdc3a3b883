// The gate of the MLP: a block a row.
#include "gpu_act.h"

enum { SWIGLU_THREADS = 256 };

// s = 1 / (1 + exp(-z)), slope: z'. SiLU: z = g; GELU by tanh: that of swiglu.c.
template <bool GELU> static __device__ __forceinline__ float gate_of(float g, float *slope)
{
    const float a = 1.5957691216057308f, b = 0.044715f;
    float square = b * g * g, z = GELU ? a * g * (1.0f + square) : g;
    *slope = GELU ? a * (1.0f + 3.0f * square) : 1.0f;
    return 1.0f / (1.0f + expf(-z));
}

template <class T, bool GELU>
static __global__ void __launch_bounds__(SWIGLU_THREADS)
    gate_fwd(const T *__restrict__ gu, ptrdiff_t ldg, int hidden, T *__restrict__ h,
             ptrdiff_t ldh)
{
    gu += blockIdx.x * ldg;
    h += blockIdx.x * ldh;
    for (int j = (int)threadIdx.x; j < hidden; j += (int)blockDim.x) {
        float slope, g = gu[j];
        h[j] = g * gate_of<GELU>(g, &slope) * gu[hidden + j];
    }
}

// dgu may be gu: a thread reads both of its values before it writes them.
template <class T, bool GELU>
static __global__ void __launch_bounds__(SWIGLU_THREADS)
    gate_bwd(const T *gu, ptrdiff_t ldg, const T *__restrict__ dh, ptrdiff_t ldh, int hidden,
             T *dgu)
{
    gu += blockIdx.x * ldg;
    dgu += blockIdx.x * ldg;
    dh += blockIdx.x * ldh;
    for (int j = (int)threadIdx.x; j < hidden; j += (int)blockDim.x) {
        float slope, g = gu[j], u = gu[hidden + j], d = dh[j], s = gate_of<GELU>(g, &slope);
        dgu[j] = d * u * s * (1.0f + g * (1.0f - s) * slope);
        dgu[hidden + j] = d * g * s;
    }
}

template <bool GELU>
static void forward(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg, int32_t m,
                    int32_t hidden, kernel_act *h, ptrdiff_t ldh)
{
    if (m > 0)
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            LAUNCH((gate_fwd<T, GELU>), (unsigned)m, (unsigned)gpu_threads(hidden, SWIGLU_THREADS),
                   0, cx->stream, act_as<T>(gu), ldg, hidden, act_as<T>(h), ldh);
        });
}

template <bool GELU>
static void backward(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                     const kernel_act *dh, ptrdiff_t ldh, int32_t m, int32_t hidden,
                     kernel_act *dgu)
{
    if (m > 0)
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            LAUNCH((gate_bwd<T, GELU>), (unsigned)m, (unsigned)gpu_threads(hidden, SWIGLU_THREADS),
                   0, cx->stream, act_as<T>(gu), ldg, act_as<T>(dh), ldh, hidden, act_as<T>(dgu));
        });
}

extern "C" void GPU_OP(swiglu_fwd)(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                                   int32_t m, int32_t hidden, kernel_act *h, ptrdiff_t ldh)
{
    forward<false>(cx, gu, ldg, m, hidden, h, ldh);
}

extern "C" void GPU_OP(swiglu_bwd)(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                                   const kernel_act *dh, ptrdiff_t ldh, int32_t m, int32_t hidden,
                                   kernel_act *dgu)
{
    backward<false>(cx, gu, ldg, dh, ldh, m, hidden, dgu);
}

extern "C" void GPU_OP(geglu_fwd)(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                                   int32_t m, int32_t hidden, kernel_act *h, ptrdiff_t ldh)
{
    forward<true>(cx, gu, ldg, m, hidden, h, ldh);
}

extern "C" void GPU_OP(geglu_bwd)(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                                   const kernel_act *dh, ptrdiff_t ldh, int32_t m, int32_t hidden,
                                   kernel_act *dgu)
{
    backward<true>(cx, gu, ldg, dh, ldh, m, hidden, dgu);
}
