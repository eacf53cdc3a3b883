// Rotary positions: a block a row, a thread a pair.
#include "gpu_act.h"

enum { ROPE_THREADS = 256 };

template <class T>
static __global__ void __launch_bounds__(ROPE_THREADS)
    turn(const float *__restrict__ cosine, const float *__restrict__ sine, int heads, int half,
         bool neighbours, float sign, const int32_t *__restrict__ pos, T *__restrict__ x,
         ptrdiff_t ldx)
{
    const ptrdiff_t angles = (ptrdiff_t)pos[blockIdx.x] * half;
    x += blockIdx.x * ldx;
    for (int i = (int)threadIdx.x; i < heads * half; i += (int)blockDim.x) {
        int j = i % half, first = 2 * half * (i / half) + (neighbours ? 2 * j : j);
        int second = first + (neighbours ? 1 : half);
        float a = x[first], b = x[second], c = cosine[angles + j], s = sign * sine[angles + j];
        x[first] = a * c - b * s;
        x[second] = b * c + a * s;
    }
}

extern "C" void GPU_OP(rope)(const struct kernel_ctx *cx, const struct kernel_rope *r,
                             const int32_t *pos, int32_t m, kernel_act *x, ptrdiff_t ldx)
{
    int half = r->head_dim / 2;
    if (m > 0 && half > 0)
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            LAUNCH((turn<T>), (unsigned)m, (unsigned)gpu_threads(r->heads * half, ROPE_THREADS), 0,
                   cx->stream, r->cosine, r->sine, r->heads, half, r->style == KERNEL_ROPE_PAIR,
                   r->sign, pos, act_as<T>(x), ldx);
        });
}
