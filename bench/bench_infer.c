// What decoding is made of: one row times a weight as it is stored, and one query against a cache,
// each beside the bytes that it has to read and the rate at which this machine copies.
#include "base/check.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/bench.h"
#include "dev/dev.h"
#include "kernels/block.h"

#include <math.h>
#include <string.h>

struct infer_bench_params {
    int32_t dev, rows, cols, at_once, prompt, cached, heads, kv_heads, head_dim;
};

static struct infer_bench_params params;

static const char *dev_name(int32_t i)
{
    return dev_table[i] ? dev_table[i]->name : NULL;
}

static const struct opt options[] = {
    OPT_ROW(struct infer_bench_params, dev, "infer.dev", "cpu", dev_name, "who computes"),
    OPT(struct infer_bench_params, rows, "infer.rows", "6144", 32, 1 << 20, "rows",
        "height of the weight that a row is multiplied by"),
    OPT(struct infer_bench_params, cols, "infer.cols", "2048", 256, 1 << 20, "columns",
        "width of that weight, in whole blocks of 256"),
    OPT(struct infer_bench_params, at_once, "infer.at_once", "1", 1, 4096, "rows",
        "rows that the weight multiplies at once, as of a batch or of a prompt"),
    OPT(struct infer_bench_params, prompt, "infer.prompt", "256", 0, 4096, "rows",
        "length of a prompt that a layer of SmolLM2-135M multiplies (on the CPU); 0 = leave it "
        "out"),
    OPT(struct infer_bench_params, cached, "infer.cached", "1024", 1, 1 << 20, "rows",
        "cached keys and values that a query attends to"),
    OPT(struct infer_bench_params, heads, "infer.heads", "9", 1, 1024, "", "query heads"),
    OPT(struct infer_bench_params, kv_heads, "infer.kv_heads", "3", 1, 1024, "", "key-value heads"),
    OPT(struct infer_bench_params, head_dim, "infer.head_dim", "64", 8, 256, "columns",
        "width of a head"),
};

static void *there(struct dev *d, size_t bytes)
{
    return d->row->alloc(d, MEM_OTHER, bytes + KERNEL_SLACK * sizeof(float));
}

// n floats to activations of the device. They become what the device makes of them.
static void send_acts(struct dev *d, void *to, float *x, size_t n)
{
    void *as = mem_alloc(MEM_OTHER, n * sizeof *x);
    kernel_from_f32(d->act, x, n, as);
    dev_put(d, to, as, n * kernel_dtype_bytes(d->act));
    kernel_to_f32(d->act, as, n, x);
    mem_free(as);
}

static void fetch_acts(struct dev *d, float *x, const void *from, size_t n)
{
    void *as = mem_alloc(MEM_OTHER, n * sizeof *x);
    dev_get(d, as, from, n * kernel_dtype_bytes(d->act));
    kernel_to_f32(d->act, as, n, x);
    mem_free(as);
}

// How far a result may be off for being kept as an activation, of its size.
static double act_error(const struct dev *d)
{
    return d->act == KERNEL_F32 ? 0 : 0x1p-8;
}

// As many bytes as a kernel reads, copied where it runs.
struct twin {
    struct dev *dev;
    const void *from;
    void *to;
    size_t bytes;
};

static void copy_loop(void *arg, int64_t n)
{
    struct twin *t = arg;
    for (int64_t i = 0; i < n; i++)
        t->dev->row->copy(t->dev, 0, t->to, t->from, t->bytes);
    t->dev->row->wait(t->dev, 0);
    bench_use(t->to);
}

// One weight as one type holds it, times m rows.
struct product {
    struct dev *dev;
    const char *name;
    int32_t math, m; // math: enum kernel_math
    size_t bytes;
    void *stored, *w; // the host's, the device's: the same where host code may touch that
    struct block_rows blocks;
    struct kernel_linear l;
    float *x, *y; // the host's
    void *x_there, *y_there;
    struct twin twin;
};

static void product_loop(void *arg, int64_t n)
{
    struct product *p = arg;
    int32_t cols = p->l.w.cols, rows = p->l.w.rows;
    struct kernel_ctx cx = p->dev->lane[0].cx;
    cx.math = p->math;
    for (int64_t i = 0; i < n; i++)
        p->dev->ops->linear_fwd(&cx, &p->l, NULL, p->x_there, cols, p->m, NULL, p->y_there, rows,
                                NULL, 0);
    p->dev->row->wait(p->dev, 0);
    bench_use(p->y_there);
}

static void random_floats(float *x, size_t n)
{
    struct rng r = rng_stream(1, RNG_TEST, (uint32_t)n, 0, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(&r);
}

enum { F32 = 0, BF16 = 30 }; // kept as arrays

// Kinds of weights. Those that are not encoded here have as many halves as `scales`, from byte
// scale_at on, and any bytes else.
static const struct type {
    int32_t id, math, scale_at, scales;
} types[] = {{F32, KERNEL_MATH_F32, 0, 0},          {BF16, KERNEL_MATH_F32, 0, 0},
             {BLOCK_Q8_0, KERNEL_MATH_F32, 0, 0},   {BLOCK_Q8_0, KERNEL_MATH_INT8, 0, 0},
             {BLOCK_Q4_1, KERNEL_MATH_F32, 0, 0},   {BLOCK_Q4_1, KERNEL_MATH_INT8, 0, 0},
             {BLOCK_NF4, KERNEL_MATH_F32, 0, 0},    {BLOCK_NF4, KERNEL_MATH_INT8, 0, 0},
             {BLOCK_Q2_K, KERNEL_MATH_INT8, 80, 2}, {BLOCK_Q3_K, KERNEL_MATH_INT8, 108, 1},
             {BLOCK_Q4_K, KERNEL_MATH_INT8, 0, 2},  {BLOCK_Q5_K, KERNEL_MATH_INT8, 0, 2},
             {BLOCK_Q6_K, KERNEL_MATH_INT8, 208, 1}};

static void make_blocks(const struct type *t, const struct block_row *row, const float *w,
                        size_t blocks, uint8_t *to)
{
    if (row->encode) {
        block_encode(row, w, blocks, to);
        return;
    }
    struct rng r = rng_stream(1, RNG_TEST, (uint32_t)blocks, 0, 1);
    for (size_t b = 0; b < blocks; b++, to += row->bytes) {
        for (int32_t i = 0; i < row->bytes; i++)
            to[i] = (uint8_t)rng_below(&r, 256);
        for (int32_t i = 0; i < t->scales; i++) {
            const uint16_t half = f16_from_f32((float)rng_normal(&r));
            memcpy(to + t->scale_at + 2 * i, &half, sizeof half);
        }
    }
}

static void make_product(struct product *p, struct dev *d, const float *w, int32_t rows,
                         int32_t cols, int32_t m, const struct type *t)
{
    const struct block_row *type = block_find(t->id);
    size_t n = (size_t)rows * (size_t)cols, blocks = n / (size_t)type->values;
    size_t n_x = (size_t)m * (size_t)cols, n_y = (size_t)m * (size_t)rows;
    *p = (struct product){.dev = d, .name = type->name, .math = t->math, .m = m};
    p->l.w = (struct kernel_weight){.rows = rows, .cols = cols, .ld = cols};
    p->bytes = blocks * (size_t)type->bytes;
    p->w = p->stored = mem_alloc(MEM_OTHER, p->bytes + KERNEL_SLACK * sizeof(float));
    if (t->id != F32 && t->id != BF16) {
        make_blocks(t, type, w, blocks, p->stored);
        p->blocks = (struct block_rows){type, p->stored, rows, cols};
        p->l.w.blocks = &p->blocks;
    } else {
        p->l.w.dtype = type->bytes == 4 ? KERNEL_F32 : KERNEL_BF16;
        kernel_from_f32(p->l.w.dtype, w, n, p->stored);
        if (!d->row->host) {
            p->w = there(d, p->bytes);
            dev_put(d, p->w, p->stored, p->bytes);
        }
        p->l.w.w = p->w;
    }
    p->x = mem_alloc(MEM_OTHER, n_x * sizeof *p->x);
    p->y = mem_alloc(MEM_OTHER, n_y * sizeof *p->y);
    p->x_there = there(d, n_x * sizeof *p->x);
    p->y_there = there(d, n_y * sizeof *p->y);
    p->twin = (struct twin){d, p->w, there(d, p->bytes), p->bytes};
    random_floats(p->x, n_x);
    send_acts(d, p->x_there, p->x, n_x);
}

static void free_product(struct product *p)
{
    struct dev *d = p->dev;
    void *theirs[] = {p->x_there, p->y_there, p->twin.to};
    for (size_t i = 0; i < ARRAY_LEN(theirs); i++)
        d->row->free(d, theirs[i]);
    if (p->w != p->stored)
        d->row->free(d, p->w);
    mem_free(p->stored);
    mem_free(p->x);
    mem_free(p->y);
}

// Its last row against sums in double of the values that the type stands for. In whole numbers a
// value is at most 1/254 of its block's largest off.
static const char *check_product(struct bench_ctx *c, struct product *p)
{
    const int32_t rows = p->l.w.rows, cols = p->l.w.cols;
    const float *x = p->x + (ptrdiff_t)(p->m - 1) * cols;
    const float *y = p->y + (ptrdiff_t)(p->m - 1) * rows;
    struct kernel_weight host = p->l.w;
    float *row = mem_alloc(MEM_OTHER, (size_t)cols * sizeof *row);
    bool ok = true;
    if (!host.blocks)
        host.w = p->stored;
    product_loop(p, 1);
    fetch_acts(p->dev, p->y, p->y_there, (size_t)p->m * (size_t)rows);
    for (int32_t n = 0; n < rows; n += 97) {
        double sum = 0, size = 0;
        kernel_weight_row(&host, n, row);
        for (int32_t k = 0; k < cols; k++) {
            sum += (double)row[k] * (double)x[k];
            size += fabs((double)row[k] * (double)x[k]);
        }
        double most = p->math == KERNEL_MATH_INT8 ? 1e-2 : 1e-5;
        ok = ok && fabs((double)y[n] - sum) <= most * size + act_error(p->dev) * fabs(sum);
    }
    mem_free(row);
    return bench_check(c, ok);
}

static const struct table_col columns[] = {
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

static const char *type_name(const struct product *p, char *text, size_t size)
{
    snprintf(text, size, "%s%s", p->name, p->math == KERNEL_MATH_INT8 ? "/int8" : "");
    return text;
}

static void products(struct bench_ctx *c, struct dev *d, const struct table *t)
{
    float *w = mem_alloc(MEM_OTHER, (size_t)params.rows * (size_t)params.cols * sizeof *w);
    random_floats(w, (size_t)params.rows * (size_t)params.cols);
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct product p;
        struct bench_result r[2];
        char name[48], of[32];
        if (types[i].id != F32 && types[i].id != BF16 && !d->row->host)
            continue; // models hold blocks on the CPU alone
        make_product(&p, d, w, params.rows, params.cols, params.at_once, &types[i]);
        const char *check = check_product(c, &p);
        const struct bench_case cases[] = {{"linear", NULL, product_loop, &p},
                                           {"copy", NULL, copy_loop, &p.twin}};
        bench_measure(c, cases, 2, r);
        snprintf(name, sizeof name, "linear/%s", type_name(&p, of, sizeof of));
        report(c, t, name, (int64_t)p.bytes, &r[0], &r[1], check);
        free_product(&p);
    }
    mem_free(w);
}

struct query {
    struct dev *dev;
    struct kernel_attn a;
    float *k, *v, *qkv, *out; // the host's
    void *k_there, *v_there, *qkv_there, *out_there, *lists;
    struct kernel_cache cache;
    int32_t n;
    struct twin twin;
};

static void query_loop(void *arg, int64_t n)
{
    struct query *q = arg;
    for (int64_t i = 0; i < n; i++)
        q->dev->ops->attention_step(&q->dev->lane[0].cx, &q->a, &q->cache, 1, q->qkv_there, 0,
                                    q->out_there, 0);
    q->dev->row->wait(q->dev, 0);
    bench_use(q->out_there);
}

// Equal keys: whatever the query, the output is the mean of the values.
static const char *check_query(struct bench_ctx *c, struct query *q)
{
    int32_t row = q->a.kv_heads * q->a.head_dim, group = q->a.heads / q->a.kv_heads;
    int32_t wide = q->a.heads * q->a.head_dim;
    const float *own = q->qkv + wide;
    bool ok = true;
    for (int32_t j = 0; j < q->n; j++)
        memcpy(q->k + (ptrdiff_t)j * row, own, (size_t)row * sizeof *own);
    memcpy(q->v + (ptrdiff_t)q->n * row, own + row, (size_t)row * sizeof *own);
    send_acts(q->dev, q->k_there, q->k, (size_t)q->n * (size_t)row);
    query_loop(q, 1);
    fetch_acts(q->dev, q->out, q->out_there, (size_t)wide);
    for (int32_t i = 0; i < wide; i++) {
        int32_t at = i / q->a.head_dim / group * q->a.head_dim + i % q->a.head_dim;
        double sum = 0;
        for (int32_t j = 0; j <= q->n; j++)
            sum += (double)q->v[(ptrdiff_t)j * row + at];
        ok = ok && fabs((double)q->out[i] - sum / (q->n + 1)) < 1e-4 + act_error(q->dev);
    }
    return bench_check(c, ok);
}

// The lists that a step reads lie on the device: of one sequence here.
static void make_lists(struct query *q)
{
    struct dev *d = q->dev;
    struct {
        void *k, *v;
        int32_t n;
    } host = {q->k_there, q->v_there, q->n};
    q->lists = there(d, sizeof host);
    uint8_t *at = q->lists;
    dev_put(d, q->lists, &host, sizeof host);
    q->cache = (struct kernel_cache){.k = (kernel_act **)(void *)at,
                                     .v = (kernel_act **)(void *)(at + sizeof host.k),
                                     .n = (int32_t *)(void *)(at + sizeof host.k + sizeof host.v)};
}

static void attention(struct bench_ctx *c, struct dev *d, const struct table *t)
{
    size_t row = (size_t)params.kv_heads * (size_t)params.head_dim;
    size_t values = ((size_t)params.cached + 1) * row;
    size_t wide = (size_t)params.heads * (size_t)params.head_dim, own = wide + 2 * row;
    struct query q = {.dev = d, .n = params.cached};
    struct bench_result r[2];
    q.a = (struct kernel_attn){.heads = params.heads,
                               .kv_heads = params.kv_heads,
                               .head_dim = params.head_dim,
                               .scale = 1.0f / sqrtf((float)params.head_dim)};
    const struct {
        float **host;
        void **there;
        size_t n;
    } part[] = {{&q.k, &q.k_there, values},
                {&q.v, &q.v_there, values},
                {&q.qkv, &q.qkv_there, own},
                {&q.out, &q.out_there, wide}};
    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        *part[i].host = mem_alloc(MEM_OTHER, part[i].n * sizeof(float));
        *part[i].there = there(d, part[i].n * sizeof(float));
        random_floats(*part[i].host, part[i].n);
        send_acts(d, *part[i].there, *part[i].host, part[i].n);
    }
    make_lists(&q);
    size_t bytes = 2 * values * kernel_dtype_bytes(d->act);
    q.twin = (struct twin){d, there(d, bytes), there(d, bytes), bytes};
    const char *check = check_query(c, &q);
    const struct bench_case cases[] = {{"attention_step", NULL, query_loop, &q},
                                       {"copy", NULL, copy_loop, &q.twin}};
    bench_measure(c, cases, 2, r);
    report(c, t, "attention_step", (int64_t)bytes, &r[0], &r[1], check);
    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        mem_free(*part[i].host);
        d->row->free(d, *part[i].there);
    }
    d->row->free(d, (void *)(uintptr_t)q.twin.from);
    d->row->free(d, q.twin.to);
    d->row->free(d, q.lists);
}

// A prompt's rows times a layer's weights, beside the same product of a weight in fp32 that is
// packed beforehand: what decoding a weight on the way costs.
struct packed {
    struct product *of;
    struct kernel_weight w;
    float *packed;
};

static void packed_loop(void *arg, int64_t n)
{
    struct packed *p = arg;
    for (int64_t i = 0; i < n; i++)
        kernel_gemm(&p->of->dev->lane[0].cx, p->of->m, p->of->x, p->w.cols, &p->w, p->of->y,
                    p->w.rows);
    bench_use(p->of->y);
}

static void prompt_row(struct bench_ctx *c, struct dev *d, const struct table *t, const float *w,
                       int32_t rows, int32_t cols, const struct type *type)
{
    struct product p;
    struct bench_result r[2];
    char v[4][32], of[32], name[64];
    const double flops = 2.0 * params.prompt * rows * cols;
    make_product(&p, d, w, rows, cols, params.prompt, type);
    const char *check = check_product(c, &p);
    struct packed gemm = {&p,
                          {.w = w, .rows = rows, .cols = cols, .ld = cols},
                          mem_alloc(MEM_OTHER, kernel_packed_floats(rows, cols) * sizeof(float))};
    kernel_pack_weight(&gemm.w, gemm.packed);
    gemm.w.packed = gemm.packed;
    const struct bench_case cases[] = {{"linear", NULL, product_loop, &p},
                                       {"gemm", NULL, packed_loop, &gemm}};
    bench_measure(c, cases, 2, r);
    double share = bench_ratio(&r[1], &r[0]);
    snprintf(v[0], sizeof v[0], "%d x %d x %d", params.prompt, rows, cols);
    snprintf(name, sizeof name, "prompt/%s/%dx%d", type_name(&p, of, sizeof of), rows, cols);
    const char *cells[] = {of,
                           v[0],
                           fmt_fixed(v[1], flops / r[0].ns.median, 8, 1),
                           fmt_fixed(v[2], flops / r[1].ns.median, 8, 1),
                           fmt_fixed(v[3], 100 * share, 8, 1),
                           check};
    struct bench_counter counters[] = {{"of_gemm", share}};
    bench_size(c, (int64_t)p.bytes, "B");
    bench_row(c, t, cells);
    bench_report(c, name, &r[0], 0, counters, 1, strcmp(check, "Fail") ? NULL : "differs");
    mem_free(gemm.packed);
    free_product(&p);
}

static void prompts(struct bench_ctx *c, struct dev *d)
{
    static const int32_t shape[][2] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}};
    const struct table t = {.out = c->out,
                            .n_cols = 6,
                            .col = {{"weight", "", 10, TABLE_LEFT},
                                    {"shape", "m x n x k", 18, TABLE_RIGHT},
                                    {"rate", "GFLOP/s", 8, TABLE_RIGHT},
                                    {"GEMM", "GFLOP/s", 8, TABLE_RIGHT},
                                    {"of GEMM", "%", 8, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    fprintf(c->out, "# a prompt's rows; GEMM: by a weight in fp32, packed beforehand, beside it\n");
    bench_head(c, &t);
    for (size_t s = 0; s < ARRAY_LEN(shape); s++) {
        size_t n = (size_t)shape[s][0] * (size_t)shape[s][1];
        float *w = mem_alloc(MEM_OTHER, (n + KERNEL_SLACK) * sizeof *w);
        random_floats(w, n);
        for (size_t i = 0; i < ARRAY_LEN(types); i++)
            if (shape[s][1] % block_find(types[i].id)->values == 0)
                prompt_row(c, d, &t, w, shape[s][0], shape[s][1], &types[i]);
        mem_free(w);
    }
}

static void run(struct bench_ctx *c)
{
    struct table t = {.out = c->out, .n_cols = (int)ARRAY_LEN(columns)};
    struct dev d;
    struct err err;
    if (params.heads % params.kv_heads || params.cols % 256 || params.rows % 32) {
        fprintf(c->out, "# infer.heads is a multiple of infer.kv_heads, infer.cols of 256, "
                        "infer.rows of 32\n");
        c->failures++;
        return;
    }
    if (dev_open(&d, params.dev, 1, &err))
        die(STATUS_ENV, "%s", err.text);
    memcpy(t.col, columns, sizeof columns);
    dev_reserve(
        &d,
        kernel_work_floats((params.at_once > params.prompt ? params.at_once : params.prompt) + 16,
                           params.cached + 1, params.rows > 3072 ? params.rows : 3072, 16,
                           params.head_dim),
        1);
    fprintf(c->out, "# one thread on %s; copy: of as many bytes, there, beside it\n", d.row->name);
    bench_size(c, 0, "B");
    bench_head(c, &t);
    products(c, &d, &t);
    attention(c, &d, &t);
    if (params.prompt && d.row->host)
        prompts(c, &d);
    dev_close(&d);
}

const struct bench bench_infer = {.name = "infer",
                                  .help = "a decoding step's kernels: one row times a weight by "
                                          "type, one query against a cache; a prompt's products",
                                  .ranks = 1,
                                  .opts = options,
                                  .n_opts = ARRAY_LEN(options),
                                  .params = &params,
                                  .run = run};
