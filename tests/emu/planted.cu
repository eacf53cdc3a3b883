// Kernels with one mistake each, and one without, for test_emu.
#include "planted.h"

#include "gpu.h"

enum { THREADS = 64 };

// The sum over a block twice; only with the second barrier is `part` free for the second sum.
static __device__ float sum_of(float v, float *part, bool barriers)
{
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[0] + part[1];
    if (barriers)
        __syncthreads();
    return v;
}
static __global__ void two_sums(const float *x, float *y, bool barriers)
{
    SHARED(float, part, [2]);
    float a = sum_of(x[threadIdx.x], part, barriers);
    float b = sum_of(2 * x[threadIdx.x], part, barriers);
    y[threadIdx.x] = a + b;
}
extern "C" void planted_two_sums(void *stream, const float *x, float *y, bool barriers)
{
    LAUNCH(two_sums, 1, THREADS, 0, stream, x, y, barriers);
}

// The last block to come adds what all of them left: right with a fence before the count.
static __global__ void last_adds(const float *x, float *part, int32_t *count, float *y, bool fence)
{
    SHARED(int, last, [1]);
    if (threadIdx.x == 0) {
        part[blockIdx.x] = x[blockIdx.x];
        if (fence)
            __threadfence();
        last[0] = atomicAdd(count, 1) == (int)gridDim.x - 1;
    }
    __syncthreads();
    if (last[0] && threadIdx.x == 0) {
        float sum = 0;
        for (unsigned i = 0; i < gridDim.x; i++)
            sum += part[i];
        *y = sum;
    }
}
extern "C" void planted_last_adds(void *stream, const float *x, float *part, int32_t *count,
                                  float *y, bool fence)
{
    LAUNCH(last_adds, 5, 32, 0, stream, x, part, count, y, fence);
}

static __global__ void mistake(int which, const float *x, float *y, int n)
{
    SHARED(float, some, [THREADS]);
    int t = (int)threadIdx.x;
    if (which == PLANTED_UNWRITTEN && t < 32)
        some[t] = 1;
    __syncthreads();
    if (which == PLANTED_UNWRITTEN)
        y[t] = some[t];
    if (which == PLANTED_OUTSIDE)
        y[n + t] = 1;
    if (which == PLANTED_READS_HOST)
        y[t] = x[t];
    if (which == PLANTED_BARRIERS && t < 32)
        __syncthreads();
    else if (which == PLANTED_BARRIERS)
        __syncthreads();
    if (which == PLANTED_STUCK && t != 5)
        __syncwarp();
    if (which == PLANTED_MASK)
        __syncwarp(0xfffffffeu);
    if (which == PLANTED_ACROSS)
        y[t / 2] = (float)t;
    if (which == PLANTED_CRASH)
        *reinterpret_cast<volatile float *>(8) = 1;
}
extern "C" void planted_mistake(void *stream, int which, const float *x, float *y, int n)
{
    size_t shared = which == PLANTED_SHARED ? 50000 : 0;
    LAUNCH(mistake, 1, which == PLANTED_THREADS ? 1025 : THREADS, shared, stream, which, x, y, n);
}
