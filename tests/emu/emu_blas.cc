// cuBLAS on the CPU's BLAS, by the names under which the real library is loaded. Its work is queued
// as kernels are.
#include "base/half.h"
#include "cuda_runtime_api.h"
#include "emu_run.h"
#include "kernels/blas.h"

#include <cblas.h>
#include <cstdio>
#include <cstring>
#include <vector>

static const int BAD_VALUE = 7; // CUBLAS_STATUS_INVALID_VALUE

struct handle {
    void *stream;
};
struct product {
    int op_a, op_b, m, n, k, type, lda, ldb, type_c, ldc;
    float alpha, beta;
    const void *a, *b;
    void *c;
    unsigned cut; // bits of a mantissa that are rounded off
};

// To even.
static float rounded(float x, unsigned cut)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    u += cut ? (1u << (cut - 1)) - 1 + (u >> cut & 1) : 0;
    u &= ~((1u << cut) - 1);
    memcpy(&x, &u, sizeof u);
    return x;
}
static float value(const void *x, int type, size_t i)
{
    return type == BLAS_F32    ? static_cast<const float *>(x)[i]
           : type == BLAS_BF16 ? bf16_to_f32(static_cast<const uint16_t *>(x)[i])
                               : f16_to_f32(static_cast<const uint16_t *>(x)[i]);
}
// A matrix of op (rows, cols), column-major, in fp32.
static std::vector<float> widened(const void *x, int type, int ld, int rows, int cols, unsigned cut)
{
    std::vector<float> y((size_t)ld * (size_t)cols);
    for (int j = 0; j < cols; j++)
        for (int i = 0; i < rows; i++) {
            size_t at = (size_t)j * (size_t)ld + (size_t)i;
            y[at] = rounded(value(x, type, at), cut);
        }
    return y;
}

static void multiply(const void *args)
{
    product g;
    memcpy(&g, args, sizeof g);
    emu_count_product();
    std::vector<float> a, b, c;
    const float *own_a = static_cast<const float *>(g.a), *own_b = static_cast<const float *>(g.b);
    float *own_c = static_cast<float *>(g.c);
    if (g.cut || g.type != BLAS_F32) {
        const bool ta = g.op_a == BLAS_T, tb = g.op_b == BLAS_T;
        a = widened(g.a, g.type, g.lda, ta ? g.k : g.m, ta ? g.m : g.k, g.cut);
        b = widened(g.b, g.type, g.ldb, tb ? g.n : g.k, tb ? g.k : g.n, g.cut);
        own_a = a.data();
        own_b = b.data();
    }
    if (g.type_c != BLAS_F32) {
        c = g.beta != 0 ? widened(g.c, g.type_c, g.ldc, g.m, g.n, 0)
                        : std::vector<float>((size_t)g.ldc * (size_t)g.n);
        own_c = c.data();
    }
    cblas_sgemm(CblasColMajor, g.op_a == BLAS_T ? CblasTrans : CblasNoTrans,
                g.op_b == BLAS_T ? CblasTrans : CblasNoTrans, g.m, g.n, g.k, g.alpha, own_a, g.lda,
                own_b, g.ldb, g.beta, own_c, g.ldc);
    for (int j = 0; j < g.n && g.type_c != BLAS_F32; j++)
        for (int i = 0; i < g.m; i++) {
            size_t at = (size_t)j * (size_t)g.ldc + (size_t)i;
            static_cast<uint16_t *>(g.c)[at] =
                g.type_c == BLAS_BF16 ? bf16_from_f32(c[at]) : f16_from_f32(c[at]);
        }
}

static bool known(int type)
{
    return type == BLAS_F32 || type == BLAS_BF16 || type == BLAS_F16;
}

static int gemm(void *h, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a,
                int type_a, int lda, const void *b, int type_b, int ldb, const void *beta, void *c,
                int type_c, int ldc, int compute, int)
{
    if (m < 0 || n < 0 || k < 0 || lda < (op_a == BLAS_T ? k : m) ||
        ldb < (op_b == BLAS_T ? n : k) || ldc < m || !known(type_a) || type_a != type_b ||
        (type_c != type_a && type_c != BLAS_F32) ||
        (compute != BLAS_COMPUTE_F32 && compute != BLAS_COMPUTE_TF32))
        return BAD_VALUE;
    product g = {op_a, op_b, m,   n,   k, type_a, lda, ldb,
                 type_c, ldc, 0, 0, a, b, c, compute == BLAS_COMPUTE_TF32 ? 13u : 0u};
    memcpy(&g.alpha, alpha, sizeof g.alpha);
    memcpy(&g.beta, beta, sizeof g.beta);
    emu_call_later(static_cast<handle *>(h)->stream, multiply, &g, sizeof g);
    return 0;
}
// The library's other threads could not reach the device's memory, which one thread opens for
// itself.
static int create(void **h)
{
    openblas_set_num_threads(1);
    *h = new handle();
    return 0;
}
static int destroy(void *h)
{
    delete static_cast<handle *>(h);
    return 0;
}
static int set_stream(void *h, void *stream)
{
    static_cast<handle *>(h)->stream = stream;
    return 0;
}
static int set_workspace(void *, void *, size_t)
{
    return 0;
}

// What the driver's management library says of a card: 8 GiB, half of it free.
static int say_nothing()
{
    return 0;
}
static int find(const char *bus, void **card)
{
    *card = const_cast<char *>(bus);
    return 0;
}
static int card_name(void *, char *text, unsigned size)
{
    snprintf(text, size, "Emulated GPU");
    return 0;
}
static int card_memory(void *, unsigned long long *total_free_used)
{
    total_free_used[0] = 8ull << 30;
    total_free_used[1] = total_free_used[2] = 4ull << 30;
    return 0;
}
static int card_limit(void *, unsigned *mw)
{
    *mw = 25000;
    return 0;
}
static int card_clock(void *, int, unsigned *mhz)
{
    *mhz = 1000;
    return 0;
}

static const struct {
    const char *name;
    void *call;
} calls[] = {{"cublasCreate_v2", reinterpret_cast<void *>(create)},
             {"cublasDestroy_v2", reinterpret_cast<void *>(destroy)},
             {"cublasSetStream_v2", reinterpret_cast<void *>(set_stream)},
             {"cublasSetWorkspace_v2", reinterpret_cast<void *>(set_workspace)},
             {"cublasGemmEx", reinterpret_cast<void *>(gemm)},
             {"nvmlInit_v2", reinterpret_cast<void *>(say_nothing)},
             {"nvmlDeviceGetHandleByPciBusId_v2", reinterpret_cast<void *>(find)},
             {"nvmlDeviceGetName", reinterpret_cast<void *>(card_name)},
             {"nvmlDeviceGetMemoryInfo", reinterpret_cast<void *>(card_memory)},
             {"nvmlDeviceGetEnforcedPowerLimit", reinterpret_cast<void *>(card_limit)},
             {"nvmlDeviceGetMaxClockInfo", reinterpret_cast<void *>(card_clock)}};
void *emu_dlsym(void *, const char *name)
{
    for (const auto &c : calls)
        if (!strcmp(c.name, name))
            return c.call;
    return nullptr;
}
