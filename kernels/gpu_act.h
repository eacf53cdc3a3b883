// Activations as .cu files see them: of whichever type kernel_ctx.act names, always added up in
// fp32. Kernels are templates of that type; 16 bits read as a float and are rounded to even when
// they are written.
#ifndef FSTQ_KERNELS_GPU_ACT_H
#define FSTQ_KERNELS_GPU_ACT_H

#include "stored.h"

#ifndef __CUDACC__
#include "base/half.h"
#endif

static __device__ __forceinline__ uint16_t gpu_to_bf16(float x)
{
#ifndef __CUDACC__
    return bf16_from_f32(x);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned short h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
#else
    unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u); // stays a NaN
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
#endif
}
static __device__ __forceinline__ uint16_t gpu_to_f16(float x)
{
#ifndef __CUDACC__
    return f16_from_f32(x);
#else
    unsigned short h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
#endif
}

struct gpu_bf16 {
    uint16_t bits;
    __device__ __forceinline__ operator float() const
    {
        return __uint_as_float((unsigned)bits << 16);
    }
    __device__ __forceinline__ void operator=(float x)
    {
        bits = gpu_to_bf16(x);
    }
    __device__ __forceinline__ void operator+=(float x)
    {
        *this = (float)*this + x;
    }
};
struct gpu_f16 {
    uint16_t bits;
    __device__ __forceinline__ operator float() const
    {
        return half_value(bits);
    }
    __device__ __forceinline__ void operator=(float x)
    {
        bits = gpu_to_f16(x);
    }
    __device__ __forceinline__ void operator+=(float x)
    {
        *this = (float)*this + x;
    }
};

static inline int gpu_dtype(const float *)
{
    return KERNEL_F32;
}
static inline int gpu_dtype(const gpu_bf16 *)
{
    return KERNEL_BF16;
}
static inline int gpu_dtype(const gpu_f16 *)
{
    return KERNEL_F16;
}

template <class T> static inline const T *act_as(const kernel_act *x)
{
    return reinterpret_cast<const T *>(x);
}
template <class T> static inline T *act_as(kernel_act *x)
{
    return reinterpret_cast<T *>(x);
}

// Calls fn with a value of the activations' type.
template <class F> static inline void gpu_by_act(const struct kernel_ctx *cx, F fn)
{
    if (cx->act == KERNEL_BF16)
        fn(gpu_bf16());
    else if (cx->act == KERNEL_F16)
        fn(gpu_f16());
    else
        fn(float());
}

#endif
