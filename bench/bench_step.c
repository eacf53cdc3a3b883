// One training step of LoRA: forward, backward to the embeddings, AdamW. Beside it, in turn,
// OpenBLAS alone on the same matrix products, or where a device has memory of its own the device's
// library; and memory: what was expected and the peak.
#include "base/check.h"
#include "base/mem.h"
#include "base/table.h"
#include "bench/step.h"

#include <cblas.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

static struct step_params params;

// The same products with OpenBLAS, or with what the device multiplies by.

struct product { // c (m, n) of a contraction over k, so many times
    int32_t m, n, k, times;
};

struct blas {
    struct product p[64];
    int n;
    struct dev *dev; // where a, b and c lie; NULL: here
    float *a, *b, *c;
    double flops;
};

static void add(struct blas *l, int32_t m, int32_t n, int32_t k, int32_t times)
{
    if (l->n == (int)ARRAY_LEN(l->p))
        die(STATUS_CHECK, "bench step: more products than places");
    l->p[l->n++] = (struct product){m, n, k, times};
    l->flops += 2.0 * m * n * k * times;
}

// Everything but attention's own products, which are small: projections, adapters, head.
static void list_products(struct blas *l, const struct step_shape *r)
{
    const struct model_config *c = &r->c;
    int32_t m = r->batch * r->seq, kv = c->kv_heads * c->head_dim, rank = r->rank;
    int32_t times = c->layers * r->jobs;
    const struct {
        int32_t cols, target[3];
    } lin[] = {{c->dim, {c->dim, kv, kv}},
               {c->dim, {c->dim}},
               {c->dim, {c->hidden, c->hidden}},
               {c->hidden, {c->dim}}};
    for (size_t i = 0; i < ARRAY_LEN(lin); i++) {
        int32_t rows = 0, ranks = 0;
        for (int t = 0; t < 3 && lin[i].target[t]; t++) {
            int32_t n = lin[i].target[t];
            rows += n;
            ranks += rank;
            add(l, m, n, rank, times); // u B^T
            add(l, m, rank, n, times); // du = dy B
            add(l, n, rank, m, times); // dB = dy^T u
        }
        add(l, m, rows, lin[i].cols, times);  // x W^T
        add(l, m, lin[i].cols, rows, times);  // dx = dy W
        add(l, m, ranks, lin[i].cols, times); // u = x A^T
        add(l, m, lin[i].cols, ranks, times); // dx += du A
        add(l, ranks, lin[i].cols, m, times); // dA = du^T x
    }
    int32_t loss_rows = r->batch * r->answer, block = loss_rows < 256 ? loss_rows : 256;
    add(l, block, c->vocab, c->dim, loss_rows / block * r->jobs);
    add(l, block, c->dim, c->vocab, loss_rows / block * r->jobs);
}

// Small numbers, where the products are made.
static float *blas_block(const struct blas *l, size_t n, int modulus)
{
    const size_t size = (n + KERNEL_SLACK) * sizeof(float);
    float *x = mem_alloc(MEM_OTHER, size), *there;
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((int)(i % (size_t)modulus) - modulus / 2);
    if (!l->dev)
        return x;
    there = l->dev->row->alloc(l->dev, MEM_OTHER, size);
    dev_put(l->dev, there, x, size);
    mem_free(x);
    return there;
}

static void blas_open(struct blas *l, struct dev *dev)
{
    size_t a = 0, b = 0, c = 0;
    l->dev = dev->row->host ? NULL : dev;
    for (int i = 0; i < l->n; i++) {
        size_t m = (size_t)l->p[i].m, n = (size_t)l->p[i].n, k = (size_t)l->p[i].k;
        a = m * k > a ? m * k : a;
        b = n * k > b ? n * k : b;
        c = m * n > c ? m * n : c;
    }
    l->a = blas_block(l, a, 7);
    l->b = blas_block(l, b, 5);
    l->c = blas_block(l, c, 3);
}

static void blas_close(struct blas *l)
{
    float *const block[] = {l->a, l->b, l->c};
    for (size_t i = 0; i < ARRAY_LEN(block); i++)
        if (l->dev)
            l->dev->row->free(l->dev, block[i]);
        else
            mem_free(block[i]);
}

static void multiply(const struct blas *l, const struct product *p)
{
    if (!l->dev) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, p->m, p->n, p->k, 1.0f, l->a, p->k,
                    l->b, p->k, 0.0f, l->c, p->n);
        return;
    }
    const struct kernel_linear w = {
        .w = {.w = l->b, .dtype = KERNEL_F32, .rows = p->n, .cols = p->k, .ld = p->k}};
    l->dev->ops->linear_fwd(&l->dev->lane[0].cx, &w, NULL, (kernel_act *)(void *)l->a, p->k, p->m,
                            NULL, (kernel_act *)(void *)l->c, p->n, NULL, 0);
}

static void blas_loop(void *arg, int64_t n)
{
    const struct blas *l = arg;
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < l->n; j++)
            for (int32_t t = 0; t < l->p[j].times; t++)
                multiply(l, &l->p[j]);
    if (l->dev)
        l->dev->row->wait(l->dev, 0);
    bench_use(l->c);
}

// Memory.

// Linux forgets the process's peak on request; elsewhere the peak of earlier rows stays in it.
static bool forget_peak(void)
{
    malloc_trim(0);
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f)
        return false;
    bool ok = fputs("5", f) >= 0;
    return fclose(f) == 0 && ok;
}

// What training must hold, beside what the process held at most.
static void memory_row(struct bench_ctx *c, const struct step *s, bool fresh)
{
    static const enum mem_purpose part[] = {MEM_WEIGHTS, MEM_ADAPTER, MEM_OPTIMIZER};
    size_t kept = model_kept_bytes(s->m, model_slice_rows(s->m)) * (size_t)params.threads;
    size_t sum = ((size_t)32 << 20) + kept, peak = mem_rss_peak();
    char text[32];
    fprintf(c->out, "#   memory:");
    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        sum += mem_now(part[i]);
        fprintf(c->out, " %s %s +", mem_purpose_name[part[i]], fmt_mib(text, mem_now(part[i])));
    }
    fprintf(c->out, " kept activations %s + libraries 32 MiB", fmt_mib(text, kept));
    fprintf(c->out, " = %s; ", fmt_mib(text, sum));
    fprintf(c->out, "peak resident %s, %.2f of it%s\n", fmt_mib(text, peak),
            (double)peak / (double)sum, fresh ? "" : " (peak of earlier rows included)");
}

// Rows.

enum { CASE_STEP, CASE_BLAS, CASES };

struct measured {
    struct step step;
    struct blas blas;
    struct bench_result res[CASES];
    bool ok;
};

static void row_step(struct bench_ctx *c, const struct table *t, const struct step_shape *r,
                     const struct measured *m)
{
    const struct step *s = &m->step;
    const struct bench_result *res = m->res;
    double n = (double)s->steps;
    const int64_t part[] = {s->times.forward_ns, s->times.backward_ns, s->times.embed_ns,
                            s->times.optimizer_ns};
    char cell[10][32];
    fmt_fixed(cell[0], res[0].ns.median / 1e6, 9, 2);
    fmt_fixed(cell[1], res[0].cpu_ns / 1e6, 9, 2);
    for (int i = 0; i < 4; i++)
        fmt_fixed(cell[2 + i], (double)part[i] / n / 1e6, 9, 2);
    for (int i = 0; i < 2; i++)
        fmt_fixed(cell[6 + i], m->blas.flops / res[i].ns.median, 8, 1);
    fmt_fixed(cell[8], bench_ratio(&res[1], &res[0]), 7, 2);
    bench_size(c, (int64_t)r->batch * r->seq, "tokens");
    bench_row(c, t,
              (const char *[]){r->name, cell[0], cell[1], cell[2], cell[3], cell[4], cell[5],
                               cell[6], cell[7], cell[8], bench_check(c, m->ok)});
}

// By the device's own clock.
static void row_device(struct bench_ctx *c, const struct step_shape *r, const struct measured *m)
{
    char text[32];
    fmt_time(text, m->step.times.device_ns / m->step.steps);
    fprintf(c->out,
            "#   %s: %s a step by the device's events, from the first operation to the last; "
            "without the plan of the batch, its copy to the device and the results' back\n",
            r->name, text);
}

static void report(struct bench_ctx *c, const struct step_shape *r, const struct measured *m,
                   const struct bench_case *cases)
{
    for (int i = 0; i < CASES; i++) {
        char row[64];
        const struct bench_counter count[] = {
            {"threads", i == CASE_BLAS ? 1 : params.threads},
            {"peak_rss_bytes", (double)mem_rss_peak()},
            {"flop_per_s", 1e9 * m->blas.flops / m->res[i].ns.median}};
        snprintf(row, sizeof row, "%s/%s", cases[i].name, r->name);
        bench_report(c, row, &m->res[i], 0, count, ARRAY_LEN(count),
                     m->ok ? NULL : "the loss did not fall");
    }
}

static void measure(struct bench_ctx *c, const struct table *t, const struct step_shape *r,
                    struct measured *m)
{
    struct step *s = &m->step;
    bool fresh = forget_peak();
    step_open(s, &params, r);
    step_loop(s, 2);
    memory_row(c, s, fresh);
    list_products(&m->blas, r);
    blas_open(&m->blas, &s->dev);
    const struct bench_case cases[CASES] = {
        [CASE_STEP] = {"step", NULL, step_loop, s},
        [CASE_BLAS] = {m->blas.dev ? "blas" : "openblas", NULL, blas_loop, &m->blas}};
    s->times = (struct model_times){0};
    double first = s->first_loss;
    s->steps = 0;
    bench_measure(c, cases, CASES, m->res);
    m->ok = s->last_loss < first; // it learns the batch by heart
    row_step(c, t, r, m);
    if (!s->dev.row->host)
        row_device(c, r, m);
    report(c, r, m, cases);
    blas_close(&m->blas);
    step_close(s);
}

static const struct table_col step_cols[] = {
    {"Shape", "", 9, TABLE_LEFT},        {"Step", "ms", 8, TABLE_RIGHT},
    {"CPU", "ms", 8, TABLE_RIGHT},       {"forward", "ms", 8, TABLE_RIGHT},
    {"backward", "ms", 8, TABLE_RIGHT},  {"to embed", "ms", 8, TABLE_RIGHT},
    {"optimizer", "ms", 9, TABLE_RIGHT}, {"Products", "GFLOP/s", 8, TABLE_RIGHT},
    {"BLAS", "GFLOP/s", 8, TABLE_RIGHT}, {"of BLAS", "", 7, TABLE_RIGHT},
    {"Validation", "", 10, TABLE_RIGHT}};
static void run(struct bench_ctx *c)
{
    struct table t = {.out = c->out, .n_cols = (int)ARRAY_LEN(step_cols)};
    struct step_shape row[STEP_SHAPES];
    int n = step_shapes(&params, row);
    memcpy(t.col, step_cols, sizeof step_cols);
    openblas_set_num_threads(1);
    fprintf(c->out, "# one LoRA step with AdamW and backward to the embeddings on ");
    step_say_where(c, &params);
    fprintf(c->out,
            "# Products: projections, adapters and head over the whole step's time; of BLAS: "
            "the same\n# alone, by ");
    if (dev_table[params.dev]->host)
        fprintf(c->out, "OpenBLAS, one thread, core %s\n", openblas_get_corename());
    else
        fprintf(c->out, "the device's library\n");
    bench_size(c, 0, "tokens");
    bench_leave_out(c, 1 << 8); // the library's rate, which its share says
    bench_head(c, &t);
    for (int i = 0; i < n; i++) {
        struct measured *m = mem_alloc(MEM_OTHER, sizeof *m);
        measure(c, &t, &row[i], m);
        mem_free(m);
    }
}

const struct bench bench_step = {
    .name = "step",
    .help = "a LoRA training step by phase, beside its products alone by a library; memory",
    .ranks = 1,
    .opts = step_own_options,
    .n_opts = STEP_OPTIONS,
    .params = &params,
    .run = run,
};
