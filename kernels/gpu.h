// What every .cu file includes first: CUDA's header, or in tests the emulation of it on the CPU,
// and the few things that differ between the two. A .cu file holds kernels and launchers and uses
// only:
//
//     LAUNCH(kernel, grid, block, shared_bytes, stream, args...)     a template too: (sum<4, true>)
//     SHARED(float, tile, [32][33]);                                 a variable of the block
//     SHARED_DYNAMIC(struct tiles, s); SHARED_LIMIT(kernel, bytes);  more of them, above 48 KiB
//     extern "C" void GPU_OP(name)(const struct kernel_ctx *cx, ...) an operation of kernels.h
//
// Sums are made in an order that is always the same: no float atomics.
#ifndef FSTQ_KERNELS_GPU_H
#define FSTQ_KERNELS_GPU_H

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define LAUNCH(k, grid, block, shared, stream, ...)                                                \
    k<<<grid, block, shared, (cudaStream_t)(stream)>>>(__VA_ARGS__)
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define SHARED_DYNAMIC(type, name)                                                                 \
    extern __shared__ __align__(16) unsigned char gpu_dynamic[];                                   \
    type *name = reinterpret_cast<type *>(gpu_dynamic)
#define SHARED_LIMIT(k, bytes)                                                                     \
    (void)cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes))
#define GPU_PRAGMA(text) _Pragma(#text)
#define GPU_UNROLL(n)    GPU_PRAGMA(unroll n)
#define GPU_OP(name)     name##_cuda
#else
#include <emu.h>
#define GPU_UNROLL(n)
#define GPU_OP(name) name##_emu
#endif

#include "act.h"

#define GPU_ALL 0xffffffffu // lanes

// Threads of a block that share n values, and blocks that it takes of some each.
static inline int gpu_threads(int n, int most)
{
    int warps = (n + 31) / 32;
    return 32 * (warps < 1 ? 1 : warps > most / 32 ? most / 32 : warps);
}
static inline unsigned gpu_blocks(size_t n, int each)
{
    return (unsigned)((n + (size_t)each - 1) / (size_t)each);
}

// Sums over a warp and over a block, by a fixed tree; every thread gets them.
template <class T> static __device__ __forceinline__ T warp_sum(T v)
{
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_xor_sync(GPU_ALL, v, d);
    return v;
}
static __device__ __forceinline__ float warp_max(float v)
{
    for (int d = 16; d > 0; d /= 2)
        v = fmaxf(v, __shfl_xor_sync(GPU_ALL, v, d));
    return v;
}
// part: (32) of shared memory, which serves for one sum. A block has whole warps.
template <class T> static __device__ T block_sum(T v, T *part)
{
    int lane = (int)(threadIdx.x % 32), warps = (int)(blockDim.x / 32);
    v = warp_sum(v);
    if (lane == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(lane < warps ? part[lane] : T(0));
}

#endif
