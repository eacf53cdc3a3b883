// What a server does to the mean product of unequal adapters: FlexLoRA's redistribution by singular
// values and LoRA-FAIR's correction of B, one core, on the matrices of a layer of Llama 2 7B.
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/bench.h"
#include "codec/factors.h"
#include "kernels/kernels_codec.h"

#include <math.h>
#include <string.h>

struct factors_params {
    int32_t rank, clients;
    double apart;
};

static struct factors_params params;

static const struct opt options[] = {
    OPT(struct factors_params, rank, "factors.rank", "16", 1, FACTORS_RANK, "",
        "rank of every client's adapter"),
    OPT(struct factors_params, clients, "factors.clients", "10", 1, 100, "", "clients of a round"),
    OPT(struct factors_params, apart, "factors.apart", "0.1", 1e-6, 1e6, "",
        "how far clients' factors are from their common start, as a part of its norm"),
};

enum { LAYERS = 32, MOST = 100 };

struct job {
    size_t rows, cols, rank;
    float *b[MOST], *a[MOST], weight[MOST], *to_b, *to_a;
    struct factors *room;
    struct factor_sum sum;
};

static void nearest_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    for (int64_t i = 0; i < n; i++)
        factors_nearest(j->room, &j->sum, j->to_b, j->to_a);
    bench_use(j->to_b);
}

static void fit_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    for (int64_t i = 0; i < n; i++)
        factors_fit(j->room, &j->sum, 0.01, j->to_b, j->to_a);
    bench_use(j->to_b);
}

static float *drawn(struct rng *r, size_t n, const float *from)
{
    float *x = mem_alloc(MEM_OTHER, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = from ? from[i] + (float)(params.apart * rng_normal(r)) : (float)rng_normal(r);
    return x;
}

static void job_open(struct job *j, size_t rows, size_t cols)
{
    struct rng r = rng_stream(1, RNG_TEST, (uint32_t)rows, (uint32_t)cols, 0);
    size_t n = (size_t)params.clients, rank = (size_t)params.rank;
    *j = (struct job){.rows = rows, .cols = cols, .rank = rank};
    for (size_t k = 0; k < n; k++) {
        j->b[k] = drawn(&r, rows * rank, k ? j->b[0] : NULL);
        j->a[k] = drawn(&r, cols * rank, k ? j->a[0] : NULL);
        j->weight[k] = 1 / (float)n;
    }
    j->to_b = mem_alloc(MEM_OTHER, rows * rank * sizeof(float));
    j->to_a = mem_alloc(MEM_OTHER, cols * rank * sizeof(float));
    j->room = factors_open(rank, n, rows > cols ? rows : cols);
    j->sum = (struct factor_sum){
        rows, cols, rank, n, (const float *const *)j->b, (const float *const *)j->a, j->weight};
}

static void job_close(struct job *j)
{
    for (size_t k = 0; k < j->sum.n; k++) {
        mem_free(j->b[k]);
        mem_free(j->a[k]);
    }
    mem_free(j->to_b);
    mem_free(j->to_a);
    factors_close(j->room);
}

// Rows of A are orthonormal, and B is what W makes of them: by as many products of rows as are
// quick.
static double apart(const struct job *j)
{
    double worst = 0, size = 0, off = 0;
    for (size_t p = 0; p < j->rank; p++)
        for (size_t q = 0; q < j->rank; q++) {
            double aa = quant_dot(j->to_a + p * j->cols, j->to_a + q * j->cols, j->cols);
            worst = fmax(worst, fabs(aa - (p == q)));
        }
    for (size_t p = 0; p < j->rank; p++) {
        double want = 0, along[FACTORS_RANK];
        for (size_t k = 0; k < j->sum.n; k++)
            for (size_t r = 0; r < j->rank; r++) {
                along[r] = quant_dot(j->a[k] + r * j->cols, j->to_a + p * j->cols, j->cols);
                want += (double)j->weight[k] * (double)j->b[k][r] * along[r]; // of W's first row
            }
        size = fmax(size, fabs(want));
        off = fmax(off, fabs(want - (double)j->to_b[p]));
    }
    return fmax(worst, off / size);
}

static void measure(struct bench_ctx *c, const struct table *t, const size_t shape[2], int many,
                    double all_s[2])
{
    struct job j;
    job_open(&j, shape[0], shape[1]);
    struct bench_case cases[] = {{"fit", NULL, fit_loop, &j}, {"nearest", NULL, nearest_loop, &j}};
    struct bench_result res[2];
    memcpy(j.to_a, j.a[0], j.cols * j.rank * sizeof(float));
    bench_measure(c, cases, 2, res);
    double off = apart(&j);
    bool ok = off < 1e-3;
    char cell[5][32];
    snprintf(cell[0], sizeof cell[0], "%zu x %zu", shape[0], shape[1]);
    snprintf(cell[1], sizeof cell[1], "%d", many * LAYERS);
    for (int i = 0; i < 2; i++) {
        char row[64];
        fmt_fixed(cell[2 + i], res[1 - i].cpu_ns / 1e6, 10, 3);
        all_s[i] += res[1 - i].cpu_ns * 1e-9 * many * LAYERS;
        snprintf(row, sizeof row, "%s/%zux%zu", cases[1 - i].name, shape[0], shape[1]);
        bench_report(c, row, &res[1 - i], 0, NULL, 0, ok ? NULL : "no truncated SVD");
    }
    snprintf(cell[4], sizeof cell[4], "%.1e", off);
    bench_row(c, t,
              (const char *[]){cell[0], cell[1], cell[2], cell[3], cell[4], bench_check(c, ok)});
    job_close(&j);
}

static void run(struct bench_ctx *c)
{
    static const size_t shape[][2] = {{4096, 4096}, {11008, 4096}, {4096, 11008}};
    static const int many[] = {4, 2, 1}; // in a layer
    const struct table t = {.out = c->out,
                            .n_cols = 6,
                            .col = {{"Size", "out x in", 14, TABLE_LEFT},
                                    {"in 7B", "products", 8, TABLE_RIGHT},
                                    {"flexlora", "CPU ms", 10, TABLE_RIGHT},
                                    {"lorafair", "CPU ms", 10, TABLE_RIGHT},
                                    {"Apart", "", 8, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    double all_s[2] = {0};
    fprintf(c->out, "# %d clients of rank %d; a model has %d layers, two matrices a product\n",
            params.clients, params.rank, LAYERS);
    bench_head(c, &t);
    for (size_t i = 0; i < ARRAY_LEN(shape); i++)
        measure(c, &t, shape[i], many[i], all_s);
    fprintf(c->out, "# all 448 matrices, CPU time: flexlora %.2f s, lorafair %.2f s\n", all_s[0],
            all_s[1]);
}

const struct bench bench_factors = {
    .name = "factors",
    .help = "mean products of unequal adapters: redistribution and correction at the server",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
