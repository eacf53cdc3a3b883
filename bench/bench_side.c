// The server's work in side-tuning: a step of the side network beside its products alone, and
// records out of the cache beside a copy. The clock of a step includes loss and optimizer, and
// excludes decoding.
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/bench.h"
#include "fed/side_cache.h"
#include "model/side.h"

#include <math.h>
#include <string.h>

struct side_params {
    int32_t rows, rank;
    int64_t cache_bytes;
};

static struct side_params params;

static const struct opt options[] = {
    OPT(struct side_params, rows, "side.rows", "512", 1, 65536, "", "rows of a training step"),
    OPT(struct side_params, rank, "side.rank", "64", 1, 65536, "", "rank of the adapters"),
    OPT(struct side_params, cache_bytes, "side.cache_bytes", "268435456", 1e6, 1e12, "B",
        "size of the cache's slab"),
};

struct job {
    struct dev dev;
    struct side *net;
    struct side_batch batch;
    struct side_answer answer;
    struct optim_params optim;
    float *x, *y;
    bool bad;
};

static void step_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    for (int64_t i = 0; i < n; i++)
        j->bad |= !isfinite(side_step(j->net, &j->batch, &j->answer, &j->optim));
}

static void product(struct job *j, int32_t m, int32_t n, int32_t k)
{
    const struct kernel_weight w = {.w = j->x, .rows = n, .cols = k, .ld = k};
    kernel_gemm(&j->dev.lane[0].cx, m, j->x, k, &w, j->y, n);
}

// Six products an adapter, three of the head, as large as those of a step.
static void products_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    const struct side_config *c = side_config(j->net);
    int32_t m = j->batch.rows, d = c->width, r = c->rank;
    for (int64_t i = 0; i < n; i++) {
        for (int32_t l = 0; l < c->layers; l++)
            for (int way = 0; way < 2; way++) {
                product(j, m, r, d);
                product(j, m, d, r);
                product(j, r, d, m);
            }
        product(j, m, c->classes, d);
        product(j, m, d, c->classes);
        product(j, d, c->classes, m);
    }
    bench_use(j->y);
}

static void open_job(struct job *j, int32_t layers, int32_t dim, int32_t classes)
{
    struct side_config c = {.layers = layers,
                            .width = dim,
                            .rank = params.rank,
                            .classes = classes,
                            .types = 1,
                            .dim = {dim}};
    struct err err;
    struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
    int32_t side = dim > params.rows ? dim : params.rows;
    size_t most = (size_t)side * (size_t)(side > classes ? side : classes) + KERNEL_SLACK;
    *j = (struct job){
        .batch = {.rows = params.rows, .scored = params.rows},
        .optim = {.kind = OPTIM_ADAMW, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8}};
    if (dev_open(&j->dev, 0, 1, &err))
        die(STATUS_ENV, "%s", err.text);
    j->net = side_open(&j->dev, &c);
    side_init(j->net, 1);
    for (int32_t l = 0; l < layers; l++) {
        float *x = side_input(j->net, &j->batch, l);
        for (int32_t i = 0; i < params.rows; i++)
            for (int32_t k = 0; k < dim; k++)
                x[i * side_stride(j->net, 0) + k] = (float)rng_normal(&r);
    }
    j->x = mem_alloc(MEM_OTHER, most * sizeof *j->x);
    j->y = mem_alloc(MEM_OTHER, most * sizeof *j->y);
    float *target = mem_alloc(MEM_OTHER, (size_t)params.rows * (size_t)classes * sizeof *target);
    for (size_t i = 0; i < most; i++)
        j->x[i] = (float)(i % 7) - 3;
    for (int64_t i = 0; i < (int64_t)params.rows * classes; i++)
        target[i] = (float)rng_normal(&r);
    j->answer = (struct side_answer){.loss = SIDE_L2, .target = target};
}

static void close_job(struct job *j)
{
    side_close(j->net);
    mem_free(j->x);
    mem_free(j->y);
    mem_free((float *)(uintptr_t)j->answer.target);
    dev_close(&j->dev);
}

static void measure_step(struct bench_ctx *c, const struct table *t, const char *name,
                         int32_t layers, int32_t dim, int32_t classes)
{
    struct job j;
    open_job(&j, layers, dim, classes);
    const struct bench_case cases[] = {{"step", NULL, step_loop, &j},
                                       {"products", NULL, products_loop, &j}};
    struct bench_result res[2];
    double flops = side_step_flops(j.net, 0, params.rows);
    double before = side_step(j.net, &j.batch, &j.answer, &j.optim);
    bench_measure(c, cases, 2, res);
    double after = side_step(j.net, &j.batch, &j.answer, &j.optim);
    bool ok = !j.bad && after < before; // it has learned by now
    char cell[6][32];
    snprintf(cell[0], sizeof cell[0], "%d x %d, %d", layers, dim, classes);
    fmt_fixed(cell[1], res[0].ns.median / 1e6, 8, 2);
    fmt_fixed(cell[2], flops / res[0].ns.median, 8, 1);
    fmt_fixed(cell[3], flops / res[1].ns.median, 8, 1);
    fmt_fixed(cell[4], bench_ratio(&res[1], &res[0]), 8, 2);
    bench_row(
        c, t,
        (const char *[]){name, cell[0], cell[1], cell[2], cell[3], cell[4], bench_check(c, ok)});
    struct bench_counter count[] = {{"flop_per_s", 1e9 * flops / res[0].ns.median},
                                    {"of_products", bench_ratio(&res[1], &res[0])}};
    char row[64];
    snprintf(row, sizeof row, "step/%s", name);
    bench_report(c, row, &res[0], 0, count, 2, ok ? NULL : "the loss does not fall");
    close_job(&j);
}

// Records in an order that memory does not know, each into one place, a step's at a time.
enum { BATCH = 16 };
struct gather {
    struct side_cache *cache;
    uint8_t *to, *from;
    size_t len;
    uint32_t n, *order;
    uint64_t missed;
};

static uint64_t id_of(uint32_t i)
{
    return (uint64_t)i * 0x9e3779b97f4a7c15u;
}

static void gather_loop(void *arg, int64_t n)
{
    struct gather *g = arg;
    uint64_t id[BATCH];
    for (int64_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < g->n; k++) {
            size_t len;
            if (k % BATCH == 0) {
                uint32_t some = g->n - k < BATCH ? g->n - k : BATCH;
                for (uint32_t j = 0; j < some; j++)
                    id[j] = id_of(g->order[k + j]);
                side_cache_expect(g->cache, id, some);
            }
            const uint8_t *r = side_cache_get(g->cache, id[k % BATCH], &len);
            g->missed += !r;
            if (r)
                memcpy(g->to, r, len);
            bench_use(g->to);
        }
}

static void copy_loop(void *arg, int64_t n)
{
    struct gather *g = arg;
    for (int64_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < g->n; k++) {
            memcpy(g->to, g->from + (size_t)g->order[k] * g->len, g->len);
            bench_use(g->to);
        }
}

static void measure_cache(struct bench_ctx *c, const struct table *t, size_t len)
{
    struct gather g = {.len = len, .n = (uint32_t)((size_t)params.cache_bytes / (len + 32))};
    struct rng r = rng_stream(1, RNG_TEST, 1, 0, 0);
    g.cache = side_cache_open((size_t)params.cache_bytes, len);
    g.from = mem_alloc(MEM_OTHER, (size_t)g.n * len);
    g.to = mem_alloc(MEM_OTHER, len);
    g.order = mem_alloc(MEM_OTHER, g.n * sizeof *g.order);
    for (uint32_t i = 0; i < g.n; i++) {
        g.order[i] = i;
        bench_fill(g.from + (size_t)i * len, len, i);
        side_cache_put(g.cache, id_of(i), g.from + (size_t)i * len, len);
    }
    rng_shuffle(&r, g.order, g.n);
    const struct bench_case cases[] = {{"cache", NULL, gather_loop, &g},
                                       {"copy", NULL, copy_loop, &g}};
    struct bench_result res[2];
    bench_measure(c, cases, 2, res);
    gather_loop(&g, 1);
    bool ok = g.missed == 0 && bench_same(g.to, len, g.order[g.n - 1]);
    char cell[5][32];
    snprintf(cell[0], sizeof cell[0], "%u", g.n);
    bench_size(c, (int64_t)len, "B");
    fmt_fixed(cell[1], res[0].ns.median / g.n, 8, 0);
    fmt_fixed(cell[2], bench_mb_per_s((int64_t)(len * g.n), res[0].ns.median) / 1e3, 8, 2);
    fmt_fixed(cell[3], bench_mb_per_s((int64_t)(len * g.n), res[1].ns.median) / 1e3, 8, 2);
    fmt_fixed(cell[4], bench_ratio(&res[1], &res[0]), 8, 2);
    bench_row(c, t,
              (const char *[]){cell[0], cell[1], cell[2], cell[3], cell[4], bench_check(c, ok)});
    char row[64];
    snprintf(row, sizeof row, "cache/%zu", len);
    bench_report(c, row, &res[0], (int64_t)(len * g.n), NULL, 0, ok ? NULL : "another record");
    side_cache_close(g.cache);
    mem_free(g.from);
    mem_free(g.to);
    mem_free(g.order);
}

static void run(struct bench_ctx *c)
{
    const struct table steps = {.out = c->out,
                                .n_cols = 7,
                                .col = {{"Backbone", "", 10, TABLE_LEFT},
                                        {"Shape", "layers x width, classes", 24, TABLE_LEFT},
                                        {"Step", "ms", 8, TABLE_RIGHT},
                                        {"Step", "GFLOP/s", 8, TABLE_RIGHT},
                                        {"Products", "GFLOP/s", 8, TABLE_RIGHT},
                                        {"Step", "/products", 9, TABLE_RIGHT},
                                        {"Validation", "", 10, TABLE_RIGHT}}};
    const struct table records = {.out = c->out,
                                  .n_cols = 6,
                                  .col = {{"Records", "", 8, TABLE_RIGHT},
                                          {"Get", "ns", 8, TABLE_RIGHT},
                                          {"Cache", "GB/s", 8, TABLE_RIGHT},
                                          {"Copy", "GB/s", 8, TABLE_RIGHT},
                                          {"Cache", "/copy", 8, TABLE_RIGHT},
                                          {"Validation", "", 10, TABLE_RIGHT}}};
    fprintf(c->out,
            "# a step of %d rows, adapters of rank %d, one thread; products: those of the step "
            "alone, by the same kernels\n",
            params.rows, params.rank);
    bench_size(c, params.rows, "rows");
    bench_head(c, &steps);
    measure_step(c, &steps, "embedded", 3, 96, 800);
    measure_step(c, &steps, "opt-125m", 12, 768, 4);
    fputs("#\n# records of the cache in an order that memory does not know, beside a copy of the "
          "same bytes in that order\n",
          c->out);
    bench_size(c, 0, "B");
    bench_head(c, &records);
    measure_cache(c, &records, 1200);
    measure_cache(c, &records, 20000);
}

const struct bench bench_side = {
    .name = "side",
    .help = "side-tuning's server: a step of the side network beside its products alone; the cache "
            "beside a copy",
    .ranks = 1,
    .opts = options,
    .n_opts = ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
