// CUDA's runtime on the engine. Strict where CUDA is: a copy's kind must be what it says, and what
// cannot be captured ends the program.
#include "cuda_runtime_api.h"
#include "emu_check.h"
#include "emu_run.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <time.h>

static emu_machine here = {1, 0, CUDART_VERSION, false};

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
    return i >= 0 && i < here.gpus ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int)
{
    *value = which == cudaDevAttrComputeCapabilityMajor   ? 8
             : which == cudaDevAttrComputeCapabilityMinor ? 7
             : which == cudaDevAttrMultiProcessorCount    ? 1
                                                          : 0;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int i)
{
    snprintf(text, (size_t)size, "0000:%02X:00.0", i);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t n)
{
    *p = emu_alloc(n);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void *p)
{
    emu_free(p);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned)
{
    *p = malloc(n ? n : 1);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void *p)
{
    free(p);
    return cudaSuccess;
}

static void must_be(const void *p, bool device, const char *what)
{
    if (p && emu_is_device(p) != device) {
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
    must_be(to, kind != cudaMemcpyDeviceToHost, "a copy");
    must_be(from, kind != cudaMemcpyHostToDevice, "a copy");
    if (kind != cudaMemcpyDeviceToDevice && emu_capturing(s)) {
        emu_fail("a copy from or to the host within a recording");
        abort();
    }
    if (kind != cudaMemcpyDeviceToDevice)
        emu_count_copy(n, kind == cudaMemcpyHostToDevice);
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
    emu_graph_launch(x, s);
    return cudaSuccess;
}

void *emu_dlopen(const char *name, int)
{
    static char library;
    bool blas = strcmp(name, "libcublas.so.13") == 0 && !here.without_blas;
    return blas || strcmp(name, "libnvidia-ml.so.1") == 0 ? &library : nullptr;
}

// An event is the time at which the stream came to it.
struct event {
    int64_t ns;
};
static void stamp(const void *args)
{
    event *e;
    struct timespec t;
    memcpy(&e, args, sizeof e);
    clock_gettime(CLOCK_MONOTONIC, &t);
    e->ns = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new event();
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete static_cast<event *>(e);
    return cudaSuccess;
}
// Within a capture only an external record is one; the other kind marks a dependency and no time.
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags)
{
    if (emu_capturing(s) == (flags == cudaEventRecordExternal))
        emu_call_later(s, stamp, &e, sizeof e);
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = (float)((double)(static_cast<event *>(to)->ns - static_cast<event *>(from)->ns) * 1e-6);
    return cudaSuccess;
}
