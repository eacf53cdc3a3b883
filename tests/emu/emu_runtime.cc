// CUDA's runtime on the engine. Strict where CUDA is: a copy's kind must be what it says, and what
// cannot be captured ends the program.
#include "cuda_runtime_api.h"
#include "emu_check.h"
#include "emu_run.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

static emu_machine here = {1, 0, CUDART_VERSION, false, false};
static int chosen;

void emu_claim(struct emu_machine m)
{
    here = m;
}

const char *cudaGetErrorString(cudaError_t rc)
{
    return rc == cudaErrorMemoryAllocation     ? "out of memory"
           : rc == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient"
           : rc == cudaErrorNoDevice           ? "no CUDA-capable device is detected"
           : rc == cudaSuccess                 ? "no error"
                                               : "unknown error";
}
cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version)
{
    *version = here.driver;
    return cudaSuccess;
}
// As CUDA's own, it leaves *n as it is where it fails.
cudaError_t cudaGetDeviceCount(int *n)
{
    if (here.error)
        return static_cast<cudaError_t>(here.error);
    *n = here.gpus;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int i)
{
    chosen = i;
    return i >= 0 && i < here.gpus ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaGetDevice(int *i)
{
    *i = chosen;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int)
{
    *value = which == cudaDevAttrComputeCapabilityMajor   ? 8
             : which == cudaDevAttrComputeCapabilityMinor ? 7
             : which == cudaDevAttrMultiProcessorCount    ? 1
             : which == cudaDevAttrIntegrated             ? here.integrated
             : which == cudaDevAttrCanMapHostMemory || which == cudaDevAttrManagedMemory ? 1
                                                                                         : 0;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int i)
{
    snprintf(text, (size_t)size, "0000:%02X:00.0", i);
    return cudaSuccess;
}

// Pinned memory of the host.
static std::map<const char *, size_t> pinned;
static bool is_pinned(const void *p, size_t n)
{
    const char *at = static_cast<const char *>(p);
    auto b = pinned.upper_bound(at);
    return b != pinned.begin() && at + n <= (--b)->first + b->second;
}
static void not_in_capture(const char *what)
{
    if (!emu_capturing(nullptr))
        return;
    emu_fail("memory is %s while work is being captured", what);
    abort();
}

cudaError_t cudaMalloc(void **p, size_t n)
{
    not_in_capture("allocated");
    *p = emu_alloc(n);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void *p)
{
    not_in_capture("freed");
    emu_free(p);
    return cudaSuccess;
}
cudaError_t cudaMallocManaged(void **p, size_t n, unsigned)
{
    not_in_capture("allocated");
    *p = emu_alloc_shared(n, true);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaHostGetDevicePointer(void **p, void *host, unsigned)
{
    *p = host;
    return emu_is_shared(host) ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned flags)
{
    not_in_capture("allocated");
    *p = flags & cudaHostAllocMapped ? emu_alloc_shared(n, false) : malloc(n ? n : 1);
    if (!*p)
        return cudaErrorMemoryAllocation;
    pinned[static_cast<char *>(*p)] = n;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p)
{
    not_in_capture("freed");
    pinned.erase(static_cast<char *>(p));
    if (emu_is_shared(p))
        emu_free(p);
    else
        free(p);
    return cudaSuccess;
}

static void must_be(const void *p, bool device, const char *what)
{
    if (p && !emu_is_shared(p) && emu_is_device(p) != device) {
        emu_fail("%s is given the %s memory where the %s belongs", what,
                 device ? "host's" : "device's", device ? "device's" : "host's");
        abort();
    }
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t s)
{
    if (n == 0)
        return cudaSuccess;
    if (kind != cudaMemcpyDefault) {
        must_be(to, kind != cudaMemcpyDeviceToHost, "a copy");
        must_be(from, kind != cudaMemcpyHostToDevice, "a copy");
    }
    if (emu_capturing(s) &&
        !((emu_is_device(to) || is_pinned(to, n)) && (emu_is_device(from) || is_pinned(from, n)))) {
        emu_fail("a copy from or to the host's memory that is not pinned, within a capture");
        abort();
    }
    emu_put(s, to, from, n);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int byte, size_t n, cudaStream_t s)
{
    must_be(to, true, "a fill");
    if (n)
        emu_set(s, to, byte, n);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = emu_stream();
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    emu_stream_free(s);
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    emu_wait(s);
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode)
{
    emu_capture_begin(s);
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    *g = emu_capture_end(s);
    return cudaSuccess;
}
// The graph itself is what is launched.
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    *x = emu_graph_copy(g);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    emu_graph_free(g);
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    emu_graph_free(x);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    emu_count_graph();
    emu_graph_launch(x, s);
    return cudaSuccess;
}

void *emu_dlopen(const char *name, int)
{
    static char library;
    bool blas = strcmp(name, "libcublas.so.13") == 0 && !here.without_blas;
    return blas || strcmp(name, "libnvidia-ml.so.1") == 0 ? &library : nullptr;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = emu_event();
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    emu_event_free(e);
    return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags)
{
    if (flags == cudaEventRecordExternal && !emu_capturing(s))
        return cudaErrorIllegalState;
    emu_event_record(e, s, flags == cudaEventRecordExternal);
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    emu_event_wait(s, e);
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = (float)((double)(emu_event_ns(to) - emu_event_ns(from)) * 1e-6);
    return cudaSuccess;
}
