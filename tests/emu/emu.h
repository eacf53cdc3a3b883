// What a .cu file sees instead of CUDA's headers when it is compiled as C++ to run on the CPU: each
// thread of a block is a fiber, a block runs to its end before the next begins, and between two
// meetings of threads (barrier, warp operation) the order in which they run is the seed's. Only
// what the kernels use is here; float atomics are not, so that none can slip in.
#ifndef FSTQ_EMU_H
#define FSTQ_EMU_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <math.h>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c)
    {
    }
};
struct __attribute__((aligned(16))) float4 {
    float x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

// The engine's side.

enum emu_kind { EMU_SYNC, EMU_SHFL, EMU_VOTE };
void emu_barrier(int line);
// The lanes of a mask meet: out gets what each brought, lane by lane, 32 times size bytes.
void emu_meet(unsigned mask, enum emu_kind kind, const void *in, size_t size, void *out, int line);
void *emu_dynamic(void);                        // the block's dynamic shared memory
void *emu_shared(const void *key, size_t size); // the block's own copy of a variable
void emu_fence(void);
void emu_atomic(void *at, size_t size); // before each atomic
[[noreturn]] void emu_trap(const char *what);

struct emu_launch {
    const char *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    void *stream;
};
void emu_enqueue(const emu_launch &l, const void *kernel, void (*call)(const void *args),
                 const void *args, size_t args_bytes);
void emu_limit(const void *kernel, size_t shared_bytes);

template <class... P> struct emu_args {
    void (*kernel)(P...);
    std::tuple<P...> value;
};
template <class... P> static void emu_call(const void *p)
{
    auto *a = static_cast<const emu_args<P...> *>(p);
    std::apply(a->kernel, a->value);
}
// Arguments are converted and copied now, as a launch does it.
template <class... P, class... A>
static void emu_start(const emu_launch &l, void (*kernel)(P...), A &&...a)
{
    static_assert((std::is_trivially_copyable_v<P> && ...), "arguments are copied as bytes");
    static_assert((sizeof(P) + ... + 0) <= 4096, "arguments of a kernel: at most 4096 bytes");
    emu_args<P...> args{kernel, std::tuple<P...>(static_cast<P>(a)...)};
    emu_enqueue(l, reinterpret_cast<const void *>(kernel), emu_call<P...>, &args, sizeof args);
}

#define LAUNCH(k, grid, block, shared, stream, ...)                                                \
    emu_start({#k, grid, block, (size_t)(shared), (void *)(stream)}, k, __VA_ARGS__)
#define SHARED(type, name, dims)                                                                   \
    static char name##_key;                                                                        \
    typedef type name##_type dims;                                                                 \
    name##_type &name = *static_cast<name##_type *>(emu_shared(&name##_key, sizeof(name##_type)))
#define SHARED_DYNAMIC(type, name) type *name = static_cast<type *>(emu_dynamic())
#define SHARED_LIMIT(k, bytes)     emu_limit(reinterpret_cast<const void *>(k), bytes)

// Meetings.

static inline void emu_sync(int line = __builtin_LINE())
{
    emu_barrier(line);
}
#define __syncthreads() emu_sync()
static inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE())
{
    emu_meet(mask, EMU_SYNC, nullptr, 0, nullptr, line);
}
static inline int emu_lane()
{
    return (int)((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
}
// What lanes bring is the engine's: these two are not watched.
template <class T>
__attribute__((noinline, no_sanitize_thread)) static T emu_shfl(unsigned mask, T v, int from,
                                                                int line)
{
    T all[32];
    static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
    emu_meet(mask, EMU_SHFL, &v, sizeof v, all, line);
    if (!(mask >> from & 1))
        emu_trap("a shuffle reads a lane outside its mask");
    return all[from];
}
template <class T>
static inline T __shfl_sync(unsigned mask, T v, int from, int line = __builtin_LINE())
{
    return emu_shfl(mask, v, from & 31, line);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T v, int by, int line = __builtin_LINE())
{
    return emu_shfl(mask, v, emu_lane() ^ by, line);
}
[[maybe_unused]] __attribute__((noinline, no_sanitize_thread)) static unsigned
emu_vote(unsigned mask, int yes, int line)
{
    int all[32];
    unsigned bits = 0;
    emu_meet(mask, EMU_VOTE, &yes, sizeof yes, all, line);
    for (int i = 0; i < 32; i++)
        bits |= (unsigned)((mask >> i & 1) && all[i]) << i;
    return bits;
}
static inline unsigned __ballot_sync(unsigned mask, int yes, int line = __builtin_LINE())
{
    return emu_vote(mask, yes, line);
}
static inline void __threadfence()
{
    emu_fence();
}

// Integer atomics: one fiber runs at a time.
template <class T>
__attribute__((noinline, no_sanitize_thread)) static T
atomicAdd(T *at, typename std::enable_if<true, T>::type v)
{
    static_assert(std::is_integral_v<T>, "no float atomics: their order is not fixed");
    emu_atomic(at, sizeof *at);
    T was;
    __builtin_memcpy(&was, at, sizeof was);
    T now = (T)(was + v);
    __builtin_memcpy(at, &now, sizeof now);
    return was;
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline unsigned __float_as_uint(float x)
{
    unsigned u;
    __builtin_memcpy(&u, &x, 4);
    return u;
}
static inline float __uint_as_float(unsigned u)
{
    float x;
    __builtin_memcpy(&x, &u, 4);
    return x;
}
template <class T> static inline T min(T a, T b)
{
    return b < a ? b : a;
}
template <class T> static inline T max(T a, T b)
{
    return a < b ? b : a;
}

#endif
