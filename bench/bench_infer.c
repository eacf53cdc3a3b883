// What decoding is made of: one row times a weight as it is stored, and one query against a cache,
// each beside the bytes that it has to read and the rate at which this machine copies.
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/bench.h"
#include "dev/dev.h"
#include "kernels/block.h"

#include <math.h>
#include <string.h>

struct infer_bench_params {
    int32_t rows, cols, at_once, cached, heads, kv_heads, head_dim;
};

static struct infer_bench_params params;

static const struct opt options[] = {
    OPT(struct infer_bench_params, rows, "infer.rows", "6144", 32, 1 << 20, "rows",
        "of the weight that one row is multiplied by"),
    OPT(struct infer_bench_params, cols, "infer.cols", "2048", 256, 1 << 20, "columns",
        "of it, whole blocks of 256"),
    OPT(struct infer_bench_params, at_once, "infer.at_once", "1", 1, 4096, "rows",
        "multiplied by it together, as of a batch or of a prompt"),
    OPT(struct infer_bench_params, cached, "infer.cached", "1024", 1, 1 << 20, "rows",
        "keys and values that a query attends to"),
    OPT(struct infer_bench_params, heads, "infer.heads", "9", 1, 1024, "", "queries of a token"),
    OPT(struct infer_bench_params, kv_heads, "infer.kv_heads", "3", 1, 1024, "",
        "keys and values of a token"),
    OPT(struct infer_bench_params, head_dim, "infer.head_dim", "64", 8, 256, "columns", "of each"),
};

// One weight as one type holds it.
struct product {
    struct dev *dev;
    const char *name;
    int32_t math; // enum kernel_math
    int64_t bytes;
    void *stored;
    struct block_rows blocks;
    struct kernel_linear l;
    float *x, *y;
};

static void product_loop(void *arg, int64_t n)
{
    struct product *p = arg;
    int32_t cols = p->l.w.cols, rows = p->l.w.rows;
    struct kernel_ctx cx = p->dev->lane[0].cx;
    cx.math = p->math;
    for (int64_t i = 0; i < n; i++)
        p->dev->ops->linear_fwd(&cx, &p->l, NULL, (kernel_act *)(void *)p->x, cols, params.at_once,
                                NULL, (kernel_act *)(void *)p->y, rows, NULL, 0);
    bench_use(p->y);
}

static void copy_loop(void *arg, int64_t n)
{
    struct product *p = arg; // as many bytes as its weight has
    for (int64_t i = 0; i < n; i++) {
        memcpy(p->y, p->stored, (size_t)p->bytes);
        bench_use(p->y);
    }
}

static void random_floats(float *x, size_t n)
{
    struct rng r = rng_stream(1, RNG_TEST, (uint32_t)n, 0, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(&r);
}

// F32 and BF16 are kept as arrays.
static void make_product(struct product *p, struct dev *d, const float *w,
                         const struct block_row *type)
{
    size_t n = (size_t)params.rows * (size_t)params.cols, blocks = n / (size_t)type->values;
    *p = (struct product){.dev = d, .name = type->name};
    p->l.w = (struct kernel_weight){.rows = params.rows, .cols = params.cols, .ld = params.cols};
    p->bytes = (int64_t)(blocks * (size_t)type->bytes);
    p->stored = mem_alloc(MEM_OTHER, (size_t)p->bytes + KERNEL_SLACK * sizeof(float));
    if (type->encode) {
        block_encode(type, w, blocks, p->stored);
        p->blocks = (struct block_rows){type, p->stored, params.rows, params.cols};
        p->l.w.blocks = &p->blocks;
    } else {
        p->l.w.dtype = type->bytes == 4 ? KERNEL_F32 : KERNEL_BF16;
        kernel_from_f32(p->l.w.dtype, w, n, p->stored);
        p->l.w.w = p->stored;
    }
    size_t m = (size_t)params.at_once, n_x = m * (size_t)params.cols;
    p->x = mem_alloc(MEM_OTHER, (n_x + KERNEL_SLACK) * sizeof *p->x);
    p->y = mem_alloc(MEM_OTHER, (size_t)p->bytes + m * (size_t)params.rows * sizeof *p->y);
    random_floats(p->x, n_x);
}

static void free_product(struct product *p)
{
    mem_free(p->stored);
    mem_free(p->x);
    mem_free(p->y);
}

// Against sums in double of the values that the type stands for. In whole numbers a value is at
// most 1/254 of its block's largest off.
static const char *check_product(struct bench_ctx *c, struct product *p)
{
    float *row = mem_alloc(MEM_OTHER, (size_t)params.cols * sizeof *row);
    bool ok = true;
    product_loop(p, 1);
    for (int32_t n = 0; n < params.rows; n += 97) {
        double sum = 0, size = 0;
        kernel_weight_row(&p->l.w, n, row);
        for (int32_t k = 0; k < params.cols; k++) {
            sum += (double)row[k] * (double)p->x[k];
            size += fabs((double)row[k] * (double)p->x[k]);
        }
        double most = p->math == KERNEL_MATH_INT8 ? 1e-2 : 1e-5;
        ok = ok && fabs((double)p->y[n] - sum) <= most * size;
    }
    mem_free(row);
    return bench_check(c, ok);
}

static const struct table_col cols[] = {
    {"kernel", "", 16, TABLE_LEFT},      {"time", "us", 10, TABLE_RIGHT},
    {"rate", "GB/s", 8, TABLE_RIGHT},    {"of copy", "%", 8, TABLE_RIGHT},
    {"Validation", "", 10, TABLE_RIGHT},
};

static void report(struct bench_ctx *c, const struct table *t, const char *name, int64_t bytes,
                   const struct bench_result *r, const struct bench_result *copy, const char *check)
{
    char v[3][32];
    double rate = (double)bytes / r->ns.median, of = bench_ratio(copy, r);
    const char *cells[] = {name, fmt_fixed(v[0], r->ns.median * 1e-3, 10, 1),
                           fmt_fixed(v[1], rate, 8, 2), fmt_fixed(v[2], 100 * of, 8, 1), check};
    struct bench_counter counters[] = {{"of_copy", of}};
    bench_size(c, bytes, "B");
    bench_row(c, t, cells);
    bench_report(c, name, r, bytes, counters, 1, strcmp(check, "Fail") ? NULL : "differs");
}

static void products(struct bench_ctx *c, struct dev *d, const struct table *t)
{
    static const struct {
        int32_t id, math;
    } row[] = {{0, KERNEL_MATH_F32},          {30, KERNEL_MATH_F32},
               {BLOCK_Q8_0, KERNEL_MATH_F32}, {BLOCK_Q8_0, KERNEL_MATH_INT8},
               {BLOCK_Q4_1, KERNEL_MATH_F32}, {BLOCK_Q4_1, KERNEL_MATH_INT8},
               {BLOCK_NF4, KERNEL_MATH_F32}};
    float *w = mem_alloc(MEM_OTHER, (size_t)params.rows * (size_t)params.cols * sizeof *w);
    random_floats(w, (size_t)params.rows * (size_t)params.cols);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct product p;
        struct bench_result r[2];
        char name[48];
        make_product(&p, d, w, block_find(row[i].id));
        p.math = row[i].math;
        const char *check = check_product(c, &p);
        const struct bench_case cases[] = {{"linear", NULL, product_loop, &p},
                                           {"copy", NULL, copy_loop, &p}};
        bench_measure(c, cases, 2, r);
        snprintf(name, sizeof name, "linear/%s%s", p.name,
                 p.math == KERNEL_MATH_INT8 ? "/int8" : "");
        report(c, t, name, p.bytes, &r[0], &r[1], check);
        free_product(&p);
    }
    mem_free(w);
}

struct query {
    struct dev *dev;
    struct kernel_attn a;
    float *k, *v, *qkv, *out;
    kernel_act *list[2];
    int32_t n;
    struct product as_large; // to copy
};

static void query_loop(void *arg, int64_t n)
{
    struct query *q = arg;
    struct kernel_cache cache = {.k = &q->list[0], .v = &q->list[1], .n = &q->n};
    for (int64_t i = 0; i < n; i++)
        q->dev->ops->attention_step(&q->dev->lane[0].cx, &q->a, &cache, 1,
                                    (kernel_act *)(void *)q->qkv, 0, (kernel_act *)(void *)q->out,
                                    0);
    bench_use(q->out);
}

// Equal keys: whatever the query, the output is the mean of the values.
static const char *check_query(struct bench_ctx *c, struct query *q)
{
    int32_t row = q->a.kv_heads * q->a.head_dim, group = q->a.heads / q->a.kv_heads;
    const float *own = q->qkv + q->a.heads * q->a.head_dim;
    bool ok = true;
    for (int32_t j = 0; j < q->n; j++)
        memcpy(q->k + (ptrdiff_t)j * row, own, (size_t)row * sizeof *own);
    query_loop(q, 1);
    for (int32_t i = 0; i < q->a.heads * q->a.head_dim; i++) {
        int32_t at = i / q->a.head_dim / group * q->a.head_dim + i % q->a.head_dim;
        double sum = 0;
        for (int32_t j = 0; j <= q->n; j++)
            sum += (double)q->v[(ptrdiff_t)j * row + at];
        ok = ok && fabs((double)q->out[i] - sum / (q->n + 1)) < 1e-4;
    }
    return bench_check(c, ok);
}

static void attention(struct bench_ctx *c, struct dev *d, const struct table *t)
{
    size_t row = (size_t)params.kv_heads * (size_t)params.head_dim, wide = (size_t)params.heads;
    size_t values = ((size_t)params.cached + 1) * row, own = (wide + 2 * wide) * 256;
    struct query q = {.dev = d, .n = params.cached};
    struct bench_result r[2];
    q.a = (struct kernel_attn){.heads = params.heads,
                               .kv_heads = params.kv_heads,
                               .head_dim = params.head_dim,
                               .scale = 1.0f / sqrtf((float)params.head_dim)};
    float **blocks[] = {&q.k, &q.v, &q.qkv, &q.out};
    const size_t n[] = {values, values, own, own};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
        *blocks[i] = mem_alloc(MEM_OTHER, (n[i] + KERNEL_SLACK) * sizeof **blocks[i]);
        random_floats(*blocks[i], n[i]);
    }
    q.list[0] = (kernel_act *)(void *)q.k;
    q.list[1] = (kernel_act *)(void *)q.v;
    q.as_large = (struct product){.bytes = (int64_t)(2 * values * sizeof(float))};
    q.as_large.stored = mem_alloc(MEM_OTHER, (size_t)q.as_large.bytes);
    q.as_large.y = mem_alloc(MEM_OTHER, (size_t)q.as_large.bytes);
    const char *check = check_query(c, &q);
    const struct bench_case cases[] = {{"attention_step", NULL, query_loop, &q},
                                       {"copy", NULL, copy_loop, &q.as_large}};
    bench_measure(c, cases, 2, r);
    report(c, t, "attention_step", q.as_large.bytes, &r[0], &r[1], check);
    free_product(&q.as_large);
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(*blocks[i]);
}

static void run(struct bench_ctx *c)
{
    struct table t = {.out = c->out, .n_cols = (int)ARRAY_LEN(cols)};
    struct dev d;
    struct err err;
    if (params.heads % params.kv_heads || params.cols % 256 || params.rows % 32) {
        fprintf(c->out, "# infer.heads is a multiple of infer.kv_heads, infer.cols of 256, "
                        "infer.rows of 32\n");
        c->failures++;
        return;
    }
    if (dev_open(&d, 0, 1, &err))
        die(STATUS_ENV, "%s", err.text);
    memcpy(t.col, cols, sizeof cols);
    dev_reserve(&d,
                kernel_work_floats(params.at_once + 16, params.cached + 1, params.rows, 16,
                                   params.head_dim),
                1);
    fprintf(c->out, "# one thread; copy: memcpy of as many bytes, beside it\n");
    bench_size(c, 0, "B");
    bench_head(c, &t);
    products(c, &d, &t);
    attention(c, &d, &t);
    dev_close(&d);
}

const struct bench bench_infer = {.name = "infer",
                                  .help = "a decoding step's kernels: one row times a weight by "
                                          "type, one query against a cache",
                                  .ranks = 1,
                                  .opts = options,
                                  .n_opts = ARRAY_LEN(options),
                                  .params = &params,
                                  .run = run};
