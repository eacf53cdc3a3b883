// cuBLAS on the CPU's BLAS, by the names under which the real library is loaded. Its work is queued
// as kernels are.
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
    int op_a, op_b, m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const float *a, *b;
    float *c;
    unsigned cut; // bits of a mantissa that are rounded off
};

// To even. A matrix of op (rows, k), column-major.
static std::vector<float> rounded(const float *x, int ld, int rows, int cols, unsigned cut)
{
    std::vector<float> y((size_t)ld * (size_t)cols);
    for (int j = 0; j < cols; j++)
        for (int i = 0; i < rows; i++) {
            uint32_t u;
            size_t at = (size_t)j * (size_t)ld + (size_t)i;
            memcpy(&u, x + at, sizeof u);
            u += (1u << (cut - 1)) - 1 + (u >> cut & 1);
            u &= ~((1u << cut) - 1);
            memcpy(&y[at], &u, sizeof u);
        }
    return y;
}

static void multiply(const void *args)
{
    product g;
    memcpy(&g, args, sizeof g);
    emu_count_product();
    std::vector<float> a, b;
    if (g.cut) {
        a = g.op_a == BLAS_T ? rounded(g.a, g.lda, g.k, g.m, g.cut)
                             : rounded(g.a, g.lda, g.m, g.k, g.cut);
        b = g.op_b == BLAS_T ? rounded(g.b, g.ldb, g.n, g.k, g.cut)
                             : rounded(g.b, g.ldb, g.k, g.n, g.cut);
        g.a = a.data();
        g.b = b.data();
    }
    cblas_sgemm(CblasColMajor, g.op_a == BLAS_T ? CblasTrans : CblasNoTrans,
                g.op_b == BLAS_T ? CblasTrans : CblasNoTrans, g.m, g.n, g.k, g.alpha, g.a, g.lda,
                g.b, g.ldb, g.beta, g.c, g.ldc);
}

static int gemm(void *h, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a,
                int type_a, int lda, const void *b, int type_b, int ldb, const void *beta, void *c,
                int type_c, int ldc, int compute, int)
{
    if (m < 0 || n < 0 || k < 0 || lda < (op_a == BLAS_T ? k : m) ||
        ldb < (op_b == BLAS_T ? n : k) || ldc < m || type_a != BLAS_F32 || type_b != BLAS_F32 ||
        type_c != BLAS_F32 ||
        (compute != BLAS_COMPUTE_F32 && compute != BLAS_COMPUTE_BF16 &&
         compute != BLAS_COMPUTE_TF32))
        return BAD_VALUE;
    product g = {op_a,
                 op_b,
                 m,
                 n,
                 k,
                 lda,
                 ldb,
                 ldc,
                 0,
                 0,
                 static_cast<const float *>(a),
                 static_cast<const float *>(b),
                 static_cast<float *>(c),
                 compute == BLAS_COMPUTE_BF16   ? 16u
                 : compute == BLAS_COMPUTE_TF32 ? 13u
                                                : 0u};
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
