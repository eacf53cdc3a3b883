// The calls of cuBLAS that launchers make, as a table: src/dev fills it from the library when a GPU
// is opened, so that no program needs the library to start. Matrices are column-major there.
// Numbers are cuBLAS's own, the same since its version 11 (cublas_api.h, library_types.h).
#ifndef FSTQ_KERNELS_BLAS_H
#define FSTQ_KERNELS_BLAS_H

#ifdef __cplusplus
extern "C" {
#endif

enum { BLAS_N = 0, BLAS_T = 1 };                     // cublasOperation_t
enum { BLAS_F32 = 0, BLAS_F16 = 2, BLAS_BF16 = 14 }; // cudaDataType_t
// cublasComputeType_t: CUBLAS_COMPUTE_32F, and 32F_FAST_TF32, which may round what is multiplied
// where there are tensor cores for it.
enum { BLAS_COMPUTE_F32 = 68, BLAS_COMPUTE_TF32 = 77 };
enum { BLAS_ALGORITHM_DEFAULT = -1 }; // cublasGemmAlgo_t

// cublasGemmEx: C (m, n) = alpha op(A) (m, k) op(B) (k, n) + beta C
typedef int blas_gemm_fn(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha,
                         const void *a, int type_a, int lda, const void *b, int type_b, int ldb,
                         const void *beta, void *c, int type_c, int ldc, int compute,
                         int algorithm);

struct kernel_blas {
    void *handle; // of one stream
    blas_gemm_fn *gemm;
    int status; // the first call that failed left its cublasStatus_t here; 0: none did
};

#ifdef __cplusplus
}
#endif

#endif
