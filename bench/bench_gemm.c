// The matrix product of the training kernels beside OpenBLAS, one thread each, interleaved.
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/bench.h"
#include "kernels/kernels.h"
#include "kernels/simd.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

struct gemm_params {
    int32_t m, n, k;
};

static struct gemm_params params;

static const struct opt options[] = {
    OPT(struct gemm_params, m, "gemm.m", "0", 0, 1 << 20, "rows",
        "rows of x in y (m, n) = x (m, k) W^T, for a shape of your own; 0 = the built-in shapes"),
    OPT(struct gemm_params, n, "gemm.n", "256", 1, 1 << 20, "columns", "columns of y"),
    OPT(struct gemm_params, k, "gemm.k", "256", 1, 1 << 20, "columns", "columns of x"),
};

enum { CASE_PACKED, CASE_PACKING, CASE_BF16, CASE_BLAS, CASES };

struct product {
    int32_t m, n, k;
    float *x, *w, *packed, *y, *bf16, *want;
    struct kernel_weight weight;
    struct kernel_ctx cx;
};

static void packed_loop(void *arg, int64_t n)
{
    struct product *p = arg;
    p->weight.packed = p->packed;
    for (int64_t i = 0; i < n; i++)
        kernel_gemm(&p->cx, p->m, p->x, p->k, &p->weight, p->y, p->n);
    bench_use(p->y);
}

static void packing_loop(void *arg, int64_t n)
{
    struct product *p = arg;
    p->weight.packed = NULL;
    for (int64_t i = 0; i < n; i++)
        kernel_gemm(&p->cx, p->m, p->x, p->k, &p->weight, p->y, p->n);
    bench_use(p->y);
}

static void bf16_loop(void *arg, int64_t n)
{
    struct product *p = arg;
    p->weight.packed = NULL;
    p->cx.math = KERNEL_MATH_BF16;
    for (int64_t i = 0; i < n; i++)
        kernel_gemm(&p->cx, p->m, p->x, p->k, &p->weight, p->bf16, p->n);
    p->cx.math = KERNEL_MATH_F32;
    bench_use(p->bf16);
}

static void blas_loop(void *arg, int64_t n)
{
    struct product *p = arg;
    for (int64_t i = 0; i < n; i++)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, p->m, p->n, p->k, 1.0f, p->x, p->k,
                    p->w, p->k, 0.0f, p->want, p->n);
    bench_use(p->want);
}

static float *random_floats(size_t n, struct rng *r)
{
    float *x = mem_alloc(MEM_OTHER, (n + KERNEL_SLACK) * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_unit(r) - 0.5f;
    return x;
}

static double apart(const float *y, const float *want, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)y[i] - (double)want[i]);
        most = d > most || d != d ? d : most; // a NaN stays, which fmax would drop
    }
    return most;
}

static void row(struct bench_ctx *c, const struct table *t, const struct product *p,
                const struct bench_result *res, const struct bench_case *cases)
{
    size_t ny = (size_t)p->m * (size_t)p->n;
    double flops = 2.0 * p->m * p->n * p->k, root = sqrt((double)p->k);
    double far = apart(p->y, p->want, ny), far_bf16 = apart(p->bf16, p->want, ny);
    // bf16 keeps 8 bits: each factor is off by 2^-9 of itself at most.
    bool ok = far <= 1e-6 * root && far_bf16 <= 0x1p-9 * root;
    char cell[10][32];
    snprintf(cell[0], sizeof cell[0], "%d x %d x %d", p->m, p->n, p->k);
    for (int i = 0; i < CASES; i++)
        fmt_fixed(cell[1 + i], flops / res[i].ns.median, 8, 1);
    for (int i = 0; i < CASE_BLAS; i++)
        fmt_fixed(cell[1 + CASES + i], bench_ratio(&res[CASE_BLAS], &res[i]), 8, 2);
    snprintf(cell[8], sizeof cell[8], "%.1e", far);
    snprintf(cell[9], sizeof cell[9], "%.1e", far_bf16);
    bench_row(c, t,
              (const char *[]){cell[0], cell[1], cell[2], cell[3], cell[4], cell[5], cell[6],
                               cell[7], cell[8], cell[9], bench_check(c, ok)});
    for (int i = 0; i < CASES; i++) {
        char name[80];
        struct bench_counter count[] = {{"flop_per_s", 1e9 * flops / res[i].ns.median}};
        snprintf(name, sizeof name, "%s/%dx%dx%d", cases[i].name, p->m, p->n, p->k);
        bench_report(c, name, &res[i], 0, count, 1, ok ? NULL : "differs from OpenBLAS");
    }
}

static void measure(struct bench_ctx *c, const struct table *t, int32_t m, int32_t n, int32_t k)
{
    struct rng r = rng_stream(1, RNG_TEST, (uint32_t)m, (uint32_t)n, (uint32_t)k);
    size_t ny = (size_t)m * (size_t)n, nx = (size_t)m * (size_t)k, nw = (size_t)n * (size_t)k;
    struct product p = {.m = m, .n = n, .k = k, .x = random_floats(nx, &r)};
    p.w = random_floats(nw, &r);
    p.y = mem_alloc(MEM_OTHER, (ny + KERNEL_SLACK) * sizeof *p.y);
    p.bf16 = mem_alloc(MEM_OTHER, (ny + KERNEL_SLACK) * sizeof *p.bf16);
    p.want = mem_alloc(MEM_OTHER, (ny + KERNEL_SLACK) * sizeof *p.want);
    p.packed = mem_alloc(MEM_OTHER, kernel_packed_floats(n, k) * sizeof *p.packed);
    p.weight = (struct kernel_weight){.w = p.w, .rows = n, .cols = k, .ld = k};
    p.cx.work_floats = kernel_work_floats(m, 1, n, 0, 1);
    p.cx.work = mem_alloc(MEM_OTHER, p.cx.work_floats * sizeof(float));
    kernel_pack_weight(&p.weight, p.packed);
    struct bench_case cases[CASES] = {[CASE_PACKED] = {"packed", NULL, packed_loop, &p},
                                      [CASE_PACKING] = {"packing", NULL, packing_loop, &p},
                                      [CASE_BF16] = {"bf16", NULL, bf16_loop, &p},
                                      [CASE_BLAS] = {"openblas", NULL, blas_loop, &p}};
    struct bench_result res[CASES];
    bench_measure(c, cases, CASES, res);
    row(c, t, &p, res, cases);
    void *all[] = {p.x, p.w, p.y, p.bf16, p.want, p.packed, p.cx.work};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
}

static void run(struct bench_ctx *c)
{
    static const int32_t shape[][3] = {
        {132, 192, 96},  {132, 384, 96},   {132, 96, 192},   {132, 24, 96},    {512, 864, 288},
        {512, 288, 768}, {512, 1536, 288}, {512, 2304, 768}, {512, 768, 2048}, {512, 48, 768},
    };
    const struct table t = {.out = c->out,
                            .n_cols = 11,
                            .col = {{"Size", "m x n x k", 18, TABLE_LEFT},
                                    {"packed", "GFLOP/s", 8, TABLE_RIGHT},
                                    {"packing", "GFLOP/s", 8, TABLE_RIGHT},
                                    {"bf16", "GFLOP/s", 8, TABLE_RIGHT},
                                    {"OpenBLAS", "GFLOP/s", 8, TABLE_RIGHT},
                                    {"packed", "/BLAS", 8, TABLE_RIGHT},
                                    {"packing", "/BLAS", 8, TABLE_RIGHT},
                                    {"bf16", "/BLAS", 8, TABLE_RIGHT},
                                    {"Apart", "", 8, TABLE_RIGHT},
                                    {"bf16", "", 8, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    openblas_set_num_threads(1);
    fprintf(c->out,
            "# y = x W^T, one thread. packed: in fp32, W^T packed beforehand (small models); "
            "packing: as it is used; bf16: %s\n"
            "# kernels %s, OpenBLAS core %s (OPENBLAS_CORETYPE=SkylakeX or Haswell, where it does "
            "not know the CPU)\n",
            kernel_bf16_fast() ? "pairs of bf16, packed as it is used"
                               : "its bits made in fp32, for this CPU does not multiply bf16",
            simd_text(), openblas_get_corename());
    bench_leave_out(c, 1 << 8 | 1 << 9); // errors
    bench_head(c, &t);
    if (params.m > 0)
        measure(c, &t, params.m, params.n, params.k);
    for (size_t i = 0; i < ARRAY_LEN(shape) && params.m == 0; i++)
        measure(c, &t, shape[i][0], shape[i][1], shape[i][2]);
}

const struct bench bench_gemm = {
    .name = "gemm",
    .help = "the training kernels' matrix product beside OpenBLAS, one thread",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
