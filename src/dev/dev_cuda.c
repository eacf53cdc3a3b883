// The row `cuda`: one GPU per rank, its kernels and cuBLAS. Built a second time for tests, as the
// row `emu`, against the header that runs all of it on the CPU (tests/emu). Nothing here needs a
// driver or cuBLAS before a GPU is asked for.
#include "dev/cuda.h"
#include "dev/dev.h"
#include "kernels/blas.h"

#include <assert.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#ifdef CUDA_EMULATED
#define NAME "emu"
#define HELP "for tests: the GPU's kernels, run on the CPU in an order that is drawn"
#define ROW  dev_emu
#else
#define NAME "cuda"
#define HELP "one CUDA GPU per rank"
#define ROW  dev_cuda
#endif
#define gpu_fit  GPU(gpu_quant_fit)
#define gpu_code GPU(gpu_quant_code)
#define gpu_give GPU(gpu_quant_give)
#define gpu_mean GPU(gpu_quant_centre)
#define gpu_turn GPU(gpu_turn_matrix)
#define gpu_sum  GPU(gpu_mix_sum)

enum { GRAPHS = 32, KEYS = 256 };
// Of cuBLAS, for a stream: without it, results of captured products would not repeat.
static const size_t BLAS_WORK = (size_t)32 << 20;

struct graph {
    uint64_t key;
    cudaGraphExec_t exec;
};
// Memory of the GPU is booked like the host's.
struct block {
    void *at;
    size_t size_bytes;
    enum mem_purpose purpose;
    int32_t kind; // enum dev_buffers
    struct block *next;
};
struct gpu {
    cudaStream_t stream;
    cudaEvent_t *mark, origin;
    int32_t n_marks, buffers; // the latter: enum dev_buffers
    struct graph graph[GRAPHS];
    int n_graphs, next;
    uint64_t seen[KEYS]; // keys that came once, the oldest overwritten
    unsigned n_seen;
    struct block *blocks; // of the GPU's memory
    bool recording;
    uint64_t key;
    struct kernel_blas blas;
    void *blas_work;
    size_t library_bytes; // booked
    struct err failed;    // the first thing that went wrong in what is queued
};

static struct gpu *of(struct dev *d)
{
    return d->state;
}

// The first failure stays: what comes after it is its consequence.
static void check(struct gpu *g, cudaError_t rc, const char *what)
{
    if (rc != cudaSuccess && !g->failed.text[0])
        err_set(&g->failed, "the GPU: %s: %s", what, cudaGetErrorString(rc));
}

// cuBLAS: opened once, when a GPU is.

struct library {
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*set_stream)(void *handle, void *stream);
    int (*set_workspace)(void *handle, void *work, size_t size_bytes);
    blas_gemm_fn *gemm;
};

int gpu_library(const char *name, const struct gpu_symbol *call, size_t n, const char **missing)
{
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return -1;
    for (size_t i = 0; i < n; i++) {
        void *address = dlsym(library, call[i].name);
        *missing = call[i].name;
        if (!address)
            return 1;
        memcpy(call[i].to, &address, sizeof address); // ISO C has no cast to a function
    }
    return 0;
}

// What the process grew by: with CUDA 13 it is 151 MiB a rank, before any product.
static size_t library_bytes;

static int load(struct library *l, struct err *err)
{
    const size_t before = mem_rss_peak();
    char name[32];
    const char *missing;
    const struct gpu_symbol call[] = {{"cublasCreate_v2", &l->create},
                                      {"cublasDestroy_v2", &l->destroy},
                                      {"cublasSetStream_v2", &l->set_stream},
                                      {"cublasSetWorkspace_v2", &l->set_workspace},
                                      {"cublasGemmEx", &l->gemm}};
    snprintf(name, sizeof name, "libcublas.so.%d", CUDART_VERSION / 1000);
    int bad = gpu_library(name, call, ARRAY_LEN(call), &missing);
    library_bytes += mem_rss_peak() - before;
    if (bad < 0)
        return err_set(err, "no %s: install CUDA's libraries, or set LD_LIBRARY_PATH to them",
                       name);
    return bad ? err_set(err, "%s has no %s: install the one of CUDA %d.%d", name, missing,
                         CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10)
               : 0;
}

// Which GPUs there are, without a context on any.
int gpu_count(int *n, struct err *err)
{
    int driver = 0;
    cudaError_t rc = cudaGetDeviceCount(n);
    if (rc == cudaSuccess && *n > 0)
        return 0;
    *n = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return err_set(err, "no driver: install NVIDIA's, or choose dev.kind = cpu");
    if (rc == cudaErrorInsufficientDriver)
        return err_set(err,
                       "the driver is older than CUDA %d.%d, which this program was built with: "
                       "update it, or choose dev.kind = cpu",
                       CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (rc == cudaSuccess || rc == cudaErrorNoDevice)
        return err_set(err, "no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES, or choose "
                            "dev.kind = cpu");
    return err_set(err, "%s: see nvidia-smi, or choose dev.kind = cpu", cudaGetErrorString(rc));
}

static int attribute(enum cudaDeviceAttr which, int i)
{
    int value = 0;
    return cudaDeviceGetAttribute(&value, which, i) == cudaSuccess ? value : 0;
}

void gpu_look(int i, struct gpu_card *c)
{
    *c = (struct gpu_card){.major = attribute(cudaDevAttrComputeCapabilityMajor, i),
                           .minor = attribute(cudaDevAttrComputeCapabilityMinor, i),
                           .multiprocessors = attribute(cudaDevAttrMultiProcessorCount, i),
                           .clock_mhz = attribute(cudaDevAttrClockRate, i) / 1000,
                           .memory_bits = attribute(cudaDevAttrGlobalMemoryBusWidth, i),
                           .integrated = attribute(cudaDevAttrIntegrated, i) != 0,
                           .maps = attribute(cudaDevAttrCanMapHostMemory, i) != 0,
                           .manages = attribute(cudaDevAttrManagedMemory, i) != 0};
    if (cudaDeviceGetPCIBusId(c->bus, sizeof c->bus, i) != cudaSuccess)
        snprintf(c->bus, sizeof c->bus, "no PCI bus");
}

static int cuda_usable(struct err *err)
{
    struct library l;
    int n;
    return gpu_count(&n, err) || load(&l, err) ? -1 : 0;
}

// Memory.

static void book(struct gpu *g, void *at, size_t size_bytes, enum mem_purpose purpose, int32_t kind)
{
    struct block *b = mem_alloc(MEM_OTHER, sizeof *b);
    *b = (struct block){at, size_bytes, purpose, kind, g->blocks};
    g->blocks = b;
    mem_book(purpose, size_bytes);
}

// at NULL: all
static void unbook(struct gpu *g, const void *at)
{
    for (struct block **p = &g->blocks, *b; (b = *p) != NULL;)
        if (!at || b->at == at) {
            *p = b->next;
            mem_unbook(b->purpose, b->size_bytes);
            mem_free(b);
        } else {
            p = &b->next;
        }
}

static int32_t kind_of(const struct gpu *g, const void *at)
{
    for (const struct block *b = g->blocks; b; b = b->next)
        if ((const char *)at >= (const char *)b->at &&
            (const char *)at < (const char *)b->at + b->size_bytes)
            return b->kind;
    return DEV_BUFFERS_DEVICE;
}

static bool cuda_shared(const struct dev *d, const void *array)
{
    return kind_of(d->state, array) != DEV_BUFFERS_DEVICE;
}

static cudaError_t take(void **p, size_t n, int32_t kind)
{
    void *there = NULL;
    n = n ? n : 1;
    if (kind == DEV_BUFFERS_DEVICE)
        return cudaMalloc(p, n);
    if (kind == DEV_BUFFERS_MANAGED)
        return cudaMallocManaged(p, n, cudaMemAttachGlobal);
    cudaError_t rc = cudaHostAlloc(p, n, cudaHostAllocMapped);
    rc = rc == cudaSuccess ? cudaHostGetDevicePointer(&there, *p, 0) : rc;
    // One address on both sides, as everywhere on 64 bits.
    return rc == cudaSuccess && there != *p ? cudaErrorInvalidValue : rc;
}

static void *cuda_alloc(struct dev *d, enum mem_purpose purpose, size_t size_bytes)
{
    struct gpu *g = of(d);
    void *p = NULL;
    const bool own = purpose == MEM_WEIGHTS || purpose == MEM_ACTIVATIONS;
    const int32_t kind = own ? DEV_BUFFERS_DEVICE : g->buffers;
    cudaError_t rc = take(&p, size_bytes, kind);
    if (rc != cudaSuccess)
        die(STATUS_ENV, "the GPU has no %zu bytes for %s: %s", size_bytes,
            mem_purpose_name[purpose], cudaGetErrorString(rc));
    book(g, p, size_bytes, purpose, kind);
    check(g, cudaMemsetAsync(p, 0, size_bytes, g->stream), "a fill");
    return p;
}

static void cuda_wait(struct dev *d, int32_t lane)
{
    struct gpu *g = of(d);
    (void)lane;
    check(g, cudaGetLastError(), "a launch");
    check(g, cudaStreamSynchronize(g->stream), "what was queued");
    if (g->blas.status && !g->failed.text[0])
        err_set(&g->failed, "the GPU: cublasGemmEx gave status %d", g->blas.status);
    if (g->failed.text[0])
        die(STATUS_ENV, "%s", g->failed.text);
}

static void cuda_free(struct dev *d, void *block)
{
    cuda_wait(d, 0);
    bool mapped = kind_of(of(d), block) == DEV_BUFFERS_MAPPED;
    unbook(of(d), block);
    if (mapped)
        cudaFreeHost(block);
    else
        cudaFree(block);
}

static int cuda_buffers(struct dev *d, int32_t which, struct err *err)
{
    struct gpu_card c;
    int own = 0;
    check(of(d), cudaGetDevice(&own), "its number");
    gpu_look(own, &c);
    if (!c.integrated)
        return err_set(err,
                       "GPU %d has memory of its own, and copies to and from it go by pinned "
                       "memory: choose device",
                       own);
    if (which == DEV_BUFFERS_MAPPED ? !c.maps : !c.manages)
        return err_set(err, "GPU %d does not know such memory: choose device", own);
    of(d)->buffers = which;
    return 0;
}

static void *cuda_stage(struct dev *d, size_t size_bytes)
{
    void *p = NULL;
    (void)d;
    cudaError_t rc = cudaHostAlloc(&p, size_bytes ? size_bytes : 1, cudaHostAllocDefault);
    if (rc != cudaSuccess)
        die(STATUS_ENV, "no %zu bytes of pinned memory: %s", size_bytes, cudaGetErrorString(rc));
    memset(p, 0, size_bytes);
    return p;
}

static void cuda_unstage(struct dev *d, void *block)
{
    cuda_wait(d, 0);
    cudaFreeHost(block);
}

// A copy's direction: what host and device share belongs to neither.
static enum cudaMemcpyKind way(struct dev *d, enum cudaMemcpyKind kind)
{
    return of(d)->buffers == DEV_BUFFERS_DEVICE ? kind : cudaMemcpyDefault;
}

static void cuda_put(struct dev *d, int32_t lane, void *to, const void *from, size_t n)
{
    (void)lane;
    check(of(d), cudaMemcpyAsync(to, from, n, way(d, cudaMemcpyHostToDevice), of(d)->stream),
          "a put");
}

static void cuda_get(struct dev *d, int32_t lane, void *to, const void *from, size_t n)
{
    (void)lane;
    check(of(d), cudaMemcpyAsync(to, from, n, way(d, cudaMemcpyDeviceToHost), of(d)->stream),
          "a get");
}

static void cuda_copy(struct dev *d, int32_t lane, void *to, const void *from, size_t n)
{
    (void)lane;
    check(of(d), cudaMemcpyAsync(to, from, n, way(d, cudaMemcpyDeviceToDevice), of(d)->stream),
          "a copy");
}

static void cuda_zero(struct dev *d, int32_t lane, void *to, size_t n)
{
    (void)lane;
    check(of(d), cudaMemsetAsync(to, 0, n, of(d)->stream), "a fill");
}

// Recordings are graphs. What comes once only, as batches of their own length do, is cheaper as it
// is: the second time a key comes it is recorded, and runs from then on as a graph.

static bool cuda_replay(struct dev *d, int32_t lane, uint64_t key)
{
    struct gpu *g = of(d);
    (void)lane;
    for (int i = 0; i < g->n_graphs; i++)
        if (g->graph[i].key == key) {
            check(g, cudaGraphLaunch(g->graph[i].exec, g->stream), "a graph");
            return true;
        }
    return false;
}

static bool seen(struct gpu *g, uint64_t key)
{
    unsigned n = g->n_seen < KEYS ? g->n_seen : KEYS;
    for (unsigned i = 0; i < n; i++)
        if (g->seen[i] == key)
            return true;
    g->seen[g->n_seen++ % KEYS] = key;
    return false;
}

static void cuda_record(struct dev *d, int32_t lane, uint64_t key)
{
    struct gpu *g = of(d);
    (void)lane;
    g->recording = seen(g, key);
    g->key = key;
    if (!g->recording)
        return;
    check(g, cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal), "a recording");
}

static void cuda_record_end(struct dev *d, int32_t lane)
{
    struct gpu *g = of(d);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    if (!g->recording)
        return;
    g->recording = false;
    check(g, cudaStreamEndCapture(g->stream, &graph), "a recording");
    if (g->failed.text[0])
        return; // said by wait
    check(g, cudaGraphInstantiateWithFlags(&exec, graph, 0), "a recording");
    cudaGraphDestroy(graph);
    if (g->failed.text[0])
        return;
    struct graph *to = &g->graph[g->n_graphs < GRAPHS ? g->n_graphs++ : g->next++ % GRAPHS];
    if (to->exec) {
        cuda_wait(d, lane); // the oldest one may still run
        cudaGraphExecDestroy(to->exec);
    }
    *to = (struct graph){g->key, exec};
    check(g, cudaGraphLaunch(exec, g->stream), "a graph");
}

static void cuda_mark(struct dev *d, int32_t lane, int32_t slot)
{
    struct gpu *g = of(d);
    (void)lane;
    for (; g->n_marks < d->marks; g->n_marks++) {
        cudaEvent_t *more = mem_alloc(MEM_OTHER, ((size_t)g->n_marks + 1) * sizeof *more);
        if (g->n_marks)
            memcpy(more, g->mark, (size_t)g->n_marks * sizeof *more);
        mem_free(g->mark);
        g->mark = more;
        check(g, cudaEventCreateWithFlags(&more[g->n_marks], cudaEventDefault), "an event");
    }
    unsigned how = g->recording ? cudaEventRecordExternal : cudaEventRecordDefault;
    check(g, cudaEventRecordWithFlags(g->mark[slot], g->stream, how), "an event");
}

static int64_t cuda_marked(struct dev *d, int32_t lane, int32_t slot)
{
    float ms = 0;
    (void)lane;
    check(of(d), cudaEventElapsedTime(&ms, of(d)->origin, of(d)->mark[slot]), "an event");
    return (int64_t)((double)ms * 1e6);
}

static void close_library(struct gpu *g)
{
    struct library l;
    if (g->blas.handle && load(&l, NULL) == 0)
        l.destroy(g->blas.handle);
    mem_unbook(MEM_OTHER, g->library_bytes);
    if (g->blas_work)
        cudaFree(g->blas_work);
}

static void cuda_close(struct dev *d)
{
    struct gpu *g = of(d);
    for (int i = 0; i < g->n_graphs; i++)
        cudaGraphExecDestroy(g->graph[i].exec);
    for (int32_t i = 0; i < g->n_marks; i++)
        cudaEventDestroy(g->mark[i]);
    close_library(g);
    if (g->origin)
        cudaEventDestroy(g->origin);
    if (g->stream)
        cudaStreamDestroy(g->stream);
    unbook(g, NULL);
    mem_free(g->mark);
    mem_free(g);
}

static int open_library(struct gpu *g, struct err *err)
{
    struct library l;
    if (load(&l, err))
        return -1;
    const size_t before = mem_rss_peak();
    int rc = l.create(&g->blas.handle);
    library_bytes += mem_rss_peak() - before;
    mem_book(MEM_OTHER, g->library_bytes = library_bytes);
    if (rc)
        return err_set(err, "cublasCreate gave status %d", rc);
    g->blas.gemm = l.gemm;
    if (cudaMalloc(&g->blas_work, BLAS_WORK) != cudaSuccess)
        return err_set(err, "the GPU has no %zu bytes for cuBLAS", BLAS_WORK);
    book(g, g->blas_work, BLAS_WORK, MEM_OTHER, DEV_BUFFERS_DEVICE);
    rc = l.set_stream(g->blas.handle, g->stream);
    rc = rc ? rc : l.set_workspace(g->blas.handle, g->blas_work, BLAS_WORK);
    return rc ? err_set(err, "cuBLAS cannot be set up: status %d", rc) : 0;
}

static int open_gpu(struct dev *d, struct err *err)
{
    struct gpu *g = of(d);
    int n;
    if (gpu_count(&n, err))
        return -1;
    const int own = gpu_share(n).device;
    cudaError_t rc = cudaSetDevice(own);
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking);
    if (rc == cudaSuccess)
        rc = cudaEventCreateWithFlags(&g->origin, cudaEventDefault);
    if (rc == cudaSuccess)
        rc = cudaEventRecordWithFlags(g->origin, g->stream, cudaEventRecordDefault);
    if (rc != cudaSuccess)
        return err_set(err, "GPU %d cannot be opened: %s; see nvidia-smi", own,
                       cudaGetErrorString(rc));
    return open_library(g, err);
}

static int cuda_open(struct dev *d, struct err *err)
{
    struct err why;
    struct gpu *g = mem_alloc(MEM_OTHER, sizeof *g);
    d->state = g;
    if (open_gpu(d, &why)) {
        cuda_close(d);
        return err_set(err, "dev.kind = %s: %s", d->row->name, why.text);
    }
    d->lane[0].cx.stream = g->stream;
    d->lane[0].cx.blas = &g->blas;
    return 0;
}

// The codecs' stages: what the host has goes there and back by way of the lane's work memory, whose
// users follow one another in the stream.

enum { CHUNK = 1 << 22 }; // values whose codes are there at a time, a multiple of 8

void gpu_move(const struct kernel_ctx *cx, void *to, const void *from, size_t n, bool there)
{
    cudaError_t rc = cudaMemcpyAsync(
        to, from, n, there ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, cx->stream);
    if (rc != cudaSuccess)
        die(STATUS_ENV, "the GPU: a codec's copy: %s", cudaGetErrorString(rc));
}

void gpu_clear(const struct kernel_ctx *cx, void *to, size_t n)
{
    cudaError_t rc = cudaMemsetAsync(to, 0, n, cx->stream);
    if (rc != cudaSuccess)
        die(STATUS_ENV, "the GPU: a codec's fill: %s", cudaGetErrorString(rc));
}

void gpu_settle(const struct kernel_ctx *cx)
{
    cudaError_t rc = cudaGetLastError(), late = cudaStreamSynchronize(cx->stream);
    if (rc != cudaSuccess || late != cudaSuccess)
        die(STATUS_ENV, "the GPU: a codec's stage: %s",
            cudaGetErrorString(rc != cudaSuccess ? rc : late));
}

static void stage_fit(const struct kernel_ctx *cx, const float *x, const struct quant_run *run,
                      size_t runs, unsigned wanted, struct quant_stats *stats, uint8_t *signs)
{
    for (size_t i = 0; i < runs; i++, run++) {
        size_t groups = gpu_quant_groups(run), parts = gpu_quant_parts(run), n = run->n;
        struct gpu_quant_part *part = (void *)cx->work;
        struct quant_stats *own = (void *)(part + parts);
        uint8_t *bits = (uint8_t *)(own + groups);
        assert(bits + (n + 7) / 8 <= (uint8_t *)(cx->work + cx->work_floats));
        if (n == 0)
            continue;
        gpu_fit(cx->stream, x + run->at, run, wanted, part, own, signs ? bits : NULL);
        gpu_move(cx, stats + run->first, own, groups * sizeof *own, false);
        if (signs)
            gpu_move(cx, signs + run->out, bits, (n + 7) / 8, false);
    }
    gpu_settle(cx);
}

static size_t code_bits(const struct quant_rule *rule)
{
    return rule->kind == QUANT_FP32 ? 32 : rule->kind >= QUANT_FP16 ? 16 : rule->width;
}

// A run's scales go to the beginning of the work memory; behind them is room for codes.
static uint8_t *put_scales(const struct kernel_ctx *cx, const struct quant_run *run,
                           const struct quant_rule *rule, const float *scale)
{
    size_t n = gpu_quant_groups(run) * rule->scales;
    assert(n + CHUNK <= cx->work_floats);
    if (scale && n)
        gpu_move(cx, cx->work, scale + run->first * rule->scales, n * sizeof *scale, true);
    return (uint8_t *)(cx->work + n);
}

static void stage_code(const struct kernel_ctx *cx, const float *x, const struct quant_run *run,
                       size_t runs, const struct quant_rule *rule, const float *scale, uint8_t *out)
{
    size_t bits = code_bits(rule);
    for (size_t i = 0; i < runs; i++, run++) {
        uint8_t *room = put_scales(cx, run, rule, scale);
        for (size_t from = 0; from < run->n; from += CHUNK) {
            size_t to = run->n - from < CHUNK ? run->n : from + CHUNK;
            gpu_code(cx->stream, x + run->at, run, rule, cx->work, from, to, room);
            gpu_move(cx, out + run->out + from * bits / 8, room, ((to - from) * bits + 7) / 8,
                     false);
        }
    }
    gpu_settle(cx);
}

static void stage_give(const struct kernel_ctx *cx, const uint8_t *in, const struct quant_run *run,
                       size_t runs, const struct quant_rule *rule, const float *scale,
                       struct quant_sink sink, bool stream)
{
    size_t bits = code_bits(rule);
    (void)stream;
    for (size_t i = 0; i < runs; i++, run++) {
        uint8_t *room = put_scales(cx, run, rule, scale);
        struct quant_sink own = quant_sink_at(sink, run->at);
        for (size_t from = 0; from < run->n; from += CHUNK) {
            size_t to = run->n - from < CHUNK ? run->n : from + CHUNK;
            gpu_move(cx, room, in + run->out + from * bits / 8, ((to - from) * bits + 7) / 8, true);
            gpu_give(cx->stream, room, run, rule, cx->work, from, to, own);
        }
    }
    gpu_settle(cx);
}

// The run's value that part p begins with.
static size_t part_begin(const struct quant_run *run, size_t p)
{
    size_t each = gpu_quant_parts(run) / gpu_quant_groups(run);
    size_t at = p / each * run->group + p % each * 1024;
    return at < run->n ? at : run->n;
}

static void stage_centre(const struct kernel_ctx *cx, const float *x, const uint8_t *code,
                         const struct quant_run *run, size_t runs, int q,
                         struct quant_centres *centres)
{
    for (size_t i = 0; i < runs; i++, run++) {
        size_t groups = gpu_quant_groups(run), parts = gpu_quant_parts(run);
        struct quant_centres *part = (void *)cx->work, *own = part + parts;
        uint8_t *room = (uint8_t *)(own + groups);
        assert(room + CHUNK <= (uint8_t *)(cx->work + cx->work_floats));
        for (size_t from = 0; from < parts && run->n; from += CHUNK / 1024) {
            size_t to = parts - from < CHUNK / 1024 ? parts : from + CHUNK / 1024;
            size_t at = part_begin(run, from), end = to < parts ? part_begin(run, to) : run->n;
            gpu_move(cx, room, code + run->out + at, end - at, true);
            gpu_mean(cx->stream, x + run->at, room, run, from, to, q, part, own);
        }
        if (run->n)
            gpu_move(cx, centres + run->first, own, groups * sizeof *own, false);
    }
    gpu_settle(cx);
}

static void stage_turn(const struct kernel_ctx *cx, const float *x, const struct quant_matrix *m,
                       size_t matrices, float *y)
{
    const struct quant_sink to = {.to = y};
    for (size_t i = 0; i < matrices; i++, m++)
        gpu_turn(cx->stream, x + m->at, m->rows, m->cols, quant_sink_at(to, m->at));
}

static void stage_turn_back(const struct kernel_ctx *cx, const float *y,
                            const struct quant_matrix *m, size_t matrices, struct quant_sink to)
{
    for (size_t i = 0; i < matrices; i++, m++)
        gpu_turn(cx->stream, y + m->at, m->cols, m->rows, quant_sink_at(to, m->at));
}

static void stage_sum(const struct kernel_ctx *cx, float a, const float *x, float b, const float *y,
                      size_t n, float *out)
{
    gpu_sum(cx->stream, a, x, b, y, n, out);
}

static const struct mix_stages gpu_mix = {stage_sum};
static const struct quant_stages gpu_quant = {stage_fit,    stage_code, stage_give,
                                              stage_centre, stage_turn, stage_turn_back};
static const struct codec_stages gpu_codec = {.name = NAME,
                                              .whole = true,
                                              .quant = &gpu_quant,
                                              .alloc = &gpu_alloc_row,
                                              .entropy = &gpu_entropy_row,
                                              .rotate = &gpu_rotate_row,
                                              .select = &gpu_select_row,
                                              .mix = &gpu_mix};

#define OP(name) .name = GPU(name),
static const struct kernel_ops gpu_ops = {KERNEL_OPS(OP)};

// One slice per job: a GPU is filled by as many tokens as there are.
extern const struct dev_row ROW;
const struct dev_row ROW = {
    .name = NAME,
    .help = HELP,
    .ops = &gpu_ops,
    .codec = &gpu_codec,
    .tensor = true,
    .lanes = 1,
    .slice_tokens = INT32_MAX,
    .work_floats = (size_t)1 << 24, // logits of 2,000 rows, a tile of ce.cu at a time
    .usable = cuda_usable,
    .each = gpu_each,
    .describe = gpu_describe,
    .open = cuda_open,
    .close = cuda_close,
    .buffers = cuda_buffers,
    .shared = cuda_shared,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .stage = cuda_stage,
    .unstage = cuda_unstage,
    .put = cuda_put,
    .get = cuda_get,
    .copy = cuda_copy,
    .zero = cuda_zero,
    .wait = cuda_wait,
    .replay = cuda_replay,
    .record = cuda_record,
    .record_end = cuda_record_end,
    .mark = cuda_mark,
    .marked = cuda_marked,
};
