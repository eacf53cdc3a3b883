// The calls of CUDA's runtime that src/dev/dev_cuda.c makes, for its second build, which runs on
// the emulation. Names and numbers are CUDA's.
#ifndef FSTQ_EMU_CUDA_RUNTIME_API_H
#define FSTQ_EMU_CUDA_RUNTIME_API_H

#include <dlfcn.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CUDA_EMULATED  1
#define CUDART_VERSION 13000

typedef void *cudaStream_t, *cudaGraph_t, *cudaGraphExec_t, *cudaEvent_t;
typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorIllegalState = 401
} cudaError_t;
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum cudaDeviceAttr {
    cudaDevAttrClockRate = 13,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrIntegrated = 18,
    cudaDevAttrCanMapHostMemory = 19,
    cudaDevAttrMemoryClockRate = 36,
    cudaDevAttrGlobalMemoryBusWidth = 37,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrManagedMemory = 83
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
enum { cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaMemAttachGlobal = 1 };
enum { cudaHostAllocDefault = 0, cudaHostAllocMapped = 2 };
enum { cudaEventRecordDefault = 0, cudaEventRecordExternal = 1 };

// In a program that has CUDA's runtime, too, these are others.
#define cudaDeviceGetAttribute        emu_cudaDeviceGetAttribute
#define cudaDeviceGetPCIBusId         emu_cudaDeviceGetPCIBusId
#define cudaDriverGetVersion          emu_cudaDriverGetVersion
#define cudaEventCreateWithFlags      emu_cudaEventCreateWithFlags
#define cudaEventDestroy              emu_cudaEventDestroy
#define cudaEventElapsedTime          emu_cudaEventElapsedTime
#define cudaEventRecordWithFlags      emu_cudaEventRecordWithFlags
#define cudaFree                      emu_cudaFree
#define cudaFreeHost                  emu_cudaFreeHost
#define cudaGetDevice                 emu_cudaGetDevice
#define cudaGetDeviceCount            emu_cudaGetDeviceCount
#define cudaGetErrorString            emu_cudaGetErrorString
#define cudaGetLastError              emu_cudaGetLastError
#define cudaGraphDestroy              emu_cudaGraphDestroy
#define cudaGraphExecDestroy          emu_cudaGraphExecDestroy
#define cudaGraphInstantiateWithFlags emu_cudaGraphInstantiateWithFlags
#define cudaGraphLaunch               emu_cudaGraphLaunch
#define cudaHostAlloc                 emu_cudaHostAlloc
#define cudaHostGetDevicePointer      emu_cudaHostGetDevicePointer
#define cudaMalloc                    emu_cudaMalloc
#define cudaMallocManaged             emu_cudaMallocManaged
#define cudaMemcpyAsync               emu_cudaMemcpyAsync
#define cudaMemsetAsync               emu_cudaMemsetAsync
#define cudaSetDevice                 emu_cudaSetDevice
#define cudaStreamBeginCapture        emu_cudaStreamBeginCapture
#define cudaStreamCreateWithFlags     emu_cudaStreamCreateWithFlags
#define cudaStreamDestroy             emu_cudaStreamDestroy
#define cudaStreamEndCapture          emu_cudaStreamEndCapture
#define cudaStreamSynchronize         emu_cudaStreamSynchronize
#define cudaStreamWaitEvent           emu_cudaStreamWaitEvent

const char *cudaGetErrorString(cudaError_t rc);
cudaError_t cudaGetLastError(void);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int i);
cudaError_t cudaGetDevice(int *i);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int i);
cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int i);

cudaError_t cudaMalloc(void **p, size_t n);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned flags);
cudaError_t cudaHostGetDevicePointer(void **p, void *host, unsigned flags);
cudaError_t cudaMallocManaged(void **p, size_t n, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t s);
cudaError_t cudaMemsetAsync(void *to, int byte, size_t n, cudaStream_t s);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *x, cudaGraph_t g,
                                          unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x);
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

// The dynamic loader, which has one library to give: cuBLAS on the CPU's BLAS.
void *emu_dlopen(const char *name, int flags);
void *emu_dlsym(void *library, const char *name);
#define dlopen emu_dlopen
#define dlsym  emu_dlsym

#ifdef __cplusplus
}
#endif

#endif
