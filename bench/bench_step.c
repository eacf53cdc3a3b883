// One training step of LoRA: forward, backward to the embeddings, AdamW. Beside it, in turn,
// OpenBLAS alone on the same matrix products, and afterwards memory: what was expected and the
// peak.
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/bench.h"
#include "model/model.h"

#include <cblas.h>
#include <malloc.h>
#include <string.h>

enum { SHAPE_QUICK, SHAPE_ALL, SHAPE_EMBEDDED, SHAPE_SMALL, SHAPE_BASE, SHAPE_CUSTOM };

struct step_params {
    int32_t shape, dim, hidden, layers, heads, kv_heads, vocab, batch, seq, rank, threads, dtype;
    int32_t recompute;
};

static struct step_params params;
static const char *const shape_names[] = {"quick", "all",    "embedded", "small",
                                          "base",  "custom", NULL};
static const char *const dtype_names[] = {"auto", "fp32", "bf16", "fp16", NULL};
static const char *const recompute_names[] = {"none", "layer", NULL};

#define SIZE(f, d, h) OPT(struct step_params, f, "step." #f, d, 1, 1 << 24, "", "shape=custom: " h)
static const struct opt options[] = {
    OPT_ENUM(
        struct step_params, shape, "step.shape", "quick", shape_names,
        "embedded: nine clients' steps of the standard task; small: dim 288, 6 layers, 8 x 256; "
        "base: dim 768, 12 layers, 4 x 256; quick: the first two"),
    OPT(struct step_params, threads, "step.threads", "1", 1, 1024, "", "threads"),
    OPT_ENUM(struct step_params, dtype, "step.dtype", "auto", dtype_names, "how weights are held"),
    OPT_ENUM(struct step_params, recompute, "step.recompute", "none", recompute_names,
             "as model.recompute"),
    SIZE(dim, "288", "width"),
    SIZE(hidden, "768", "width inside the MLP"),
    SIZE(layers, "6", "layers"),
    SIZE(heads, "6", "query heads"),
    SIZE(kv_heads, "6", "key-value heads"),
    SIZE(vocab, "32000", "vocabulary"),
    SIZE(batch, "8", "sequences"),
    SIZE(seq, "256", "tokens of a sequence"),
    SIZE(rank, "16", "rank of the adapter"),
};

struct shape_row {
    const char *name;
    struct model_config c;
    int32_t jobs, batch, seq, answer,
        rank; // answer: tokens with a loss at the end of each sequence
};

#define LLAMA(d, h, l, a, kv, v)                                                                   \
    {                                                                                              \
        .dim = d, .hidden = h, .layers = l, .heads = a, .kv_heads = kv, .head_dim = (d) / (a),     \
        .vocab = v, .max_positions = 4096, .rope_theta = 10000, .norm_eps = 1e-5, .tied = true     \
    }
static const struct shape_row shapes[] = {
    {"embedded", LLAMA(96, 192, 3, 4, 2, 800), 9, 4, 33, 4, 8},
    {"small", LLAMA(288, 768, 6, 6, 6, 32000), 1, 8, 256, 256, 16},
    {"base", LLAMA(768, 2048, 12, 12, 12, 32000), 1, 4, 256, 256, 16},
};

// The step.

struct step {
    struct dev dev;
    struct model *m;
    struct model_job *jobs;
    int32_t n_jobs;
    struct optim_params optim;
    struct model_batch *batch;
    struct model_optim_state *state;
    float *adapters, *moments, *sq;
    int32_t *start, *tokens, *targets;
    struct model_times times; // summed
    int64_t steps;
    double first_loss, last_loss;
};

static void step_open(struct step *s, const struct shape_row *r)
{
    struct err err = {""};
    struct model_params p;
    opt_defaults(model_options, model_option_count, &p);
    opt_defaults(optim_options, optim_option_count, &s->optim);
    p.lora_rank = r->rank;
    p.dtype = params.dtype;
    p.recompute = params.recompute;
    if (dev_open(&s->dev, 0, params.threads, &err))
        die(STATUS_ENV, "%s", err.text);
    s->m = model_create(&s->dev, &p, &r->c, 1, &err);
    if (!s->m)
        die(STATUS_USAGE, "bench step: %s", err.text);
    size_t n = model_shape(s->m)->n_values, jobs = (size_t)r->jobs;
    int32_t rows = r->batch * r->seq;
    s->n_jobs = r->jobs;
    s->jobs = mem_alloc(MEM_DATA, jobs * sizeof *s->jobs);
    s->batch = mem_alloc(MEM_DATA, jobs * sizeof *s->batch);
    s->state = mem_alloc(MEM_DATA, jobs * sizeof *s->state);
    s->adapters = mem_alloc(MEM_ADAPTER, (jobs * n + KERNEL_SLACK) * sizeof *s->adapters);
    s->moments = mem_alloc(MEM_OPTIMIZER, jobs * 2 * n * sizeof *s->moments);
    s->start = mem_alloc(MEM_DATA, (size_t)(r->batch + 1) * sizeof *s->start);
    s->tokens = mem_alloc(MEM_DATA, jobs * (size_t)rows * sizeof *s->tokens);
    s->targets = mem_alloc(MEM_DATA, jobs * (size_t)rows * sizeof *s->targets);
    s->sq = mem_alloc(MEM_DATA, jobs * (size_t)rows * sizeof *s->sq);
    struct rng g = rng_stream(1, RNG_TEST, 1, 0, 0);
    for (int32_t b = 0; b <= r->batch; b++)
        s->start[b] = b * r->seq;
    for (int32_t j = 0; j < r->jobs; j++) {
        for (int32_t i = j * rows; i < (j + 1) * rows; i++) {
            s->tokens[i] = (int32_t)rng_below(&g, (uint32_t)r->c.vocab);
            s->targets[i] = i % r->seq >= r->seq - r->answer
                                ? (int32_t)rng_below(&g, (uint32_t)r->c.vocab)
                                : -1;
        }
        s->batch[j] = (struct model_batch){.n_seqs = r->batch,
                                           .start = s->start,
                                           .tokens = s->tokens + j * rows,
                                           .targets = s->targets + j * rows};
        s->state[j].moments = s->moments + 2 * (size_t)j * n;
        s->jobs[j] = (struct model_job){.batch = &s->batch[j],
                                        .adapter = s->adapters + (size_t)j * n,
                                        .optim = &s->state[j],
                                        .token_sq = s->sq + j * rows};
        model_init_adapter(s->m, 1, s->jobs[j].adapter);
    }
}

static void step_close(struct step *s)
{
    model_close(s->m);
    dev_close(&s->dev);
    void *all[] = {s->jobs,  s->batch,  s->state,   s->adapters, s->moments,
                   s->start, s->tokens, s->targets, s->sq};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
}

static void step_loop(void *arg, int64_t n)
{
    struct step *s = arg;
    for (int64_t i = 0; i < n; i++) {
        model_train_step(s->m, s->jobs, s->n_jobs, &s->optim, NULL);
        struct model_times t = model_times(s->m);
        s->times.forward_ns += t.forward_ns;
        s->times.backward_ns += t.backward_ns;
        s->times.embed_ns += t.embed_ns;
        s->times.optimizer_ns += t.optimizer_ns;
        s->last_loss = s->jobs[0].loss;
        if (s->steps++ == 0)
            s->first_loss = s->last_loss;
    }
}

// The same products with OpenBLAS.

struct product { // c (m, n) of a contraction over k, so many times
    int32_t m, n, k, times;
};

struct blas {
    struct product p[64];
    int n;
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
static void list_products(struct blas *l, const struct shape_row *r)
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

static void blas_open(struct blas *l)
{
    size_t a = 0, b = 0, c = 0;
    for (int i = 0; i < l->n; i++) {
        size_t m = (size_t)l->p[i].m, n = (size_t)l->p[i].n, k = (size_t)l->p[i].k;
        a = m * k > a ? m * k : a;
        b = n * k > b ? n * k : b;
        c = m * n > c ? m * n : c;
    }
    l->a = mem_alloc(MEM_OTHER, a * sizeof(float));
    l->b = mem_alloc(MEM_OTHER, b * sizeof(float));
    l->c = mem_alloc(MEM_OTHER, c * sizeof(float));
    for (size_t i = 0; i < a; i++)
        l->a[i] = (float)(i % 7) - 3;
    for (size_t i = 0; i < b; i++)
        l->b[i] = (float)(i % 5) - 2;
}

static void blas_close(struct blas *l)
{
    mem_free(l->a);
    mem_free(l->b);
    mem_free(l->c);
}

static void blas_loop(void *arg, int64_t n)
{
    const struct blas *l = arg;
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < l->n; j++)
            for (int32_t t = 0; t < l->p[j].times; t++) {
                const struct product *p = &l->p[j];
                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, p->m, p->n, p->k, 1.0f, l->a,
                            p->k, l->b, p->k, 0.0f, l->c, p->n);
            }
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

static void measure(struct bench_ctx *c, const struct table *t, const struct shape_row *r)
{
    struct step s = {0};
    struct blas l = {0};
    bool fresh = forget_peak();
    step_open(&s, r);
    step_loop(&s, 2);
    memory_row(c, &s, fresh);
    list_products(&l, r);
    blas_open(&l);
    struct bench_case cases[] = {{"step", NULL, step_loop, &s}, {"openblas", NULL, blas_loop, &l}};
    struct bench_result res[2];
    s.times = (struct model_times){0};
    int64_t before = s.steps;
    bench_measure(c, cases, 2, res);
    double n = (double)(s.steps - before), rate[2];
    const int64_t part[] = {s.times.forward_ns, s.times.backward_ns, s.times.embed_ns,
                            s.times.optimizer_ns};
    char cell[11][32];
    bool ok = s.last_loss < s.first_loss; // it learns the batch by heart
    snprintf(cell[0], sizeof cell[0], "%s", r->name);
    fmt_fixed(cell[1], res[0].ns.median / 1e6, 9, 2);
    fmt_fixed(cell[2], res[0].cpu_ns / 1e6, 9, 2);
    for (int i = 0; i < 4; i++)
        fmt_fixed(cell[3 + i], (double)part[i] / n / 1e6, 9, 2);
    for (int i = 0; i < 2; i++) {
        rate[i] = l.flops / res[i].ns.median;
        fmt_fixed(cell[7 + i], rate[i], 8, 1);
    }
    fmt_fixed(cell[9], bench_ratio(&res[1], &res[0]), 7, 2);
    table_row(t, (const char *[]){cell[0], cell[1], cell[2], cell[3], cell[4], cell[5], cell[6],
                                  cell[7], cell[8], cell[9], bench_check(c, ok)});
    for (int i = 0; i < 2; i++) {
        char row[64];
        struct bench_counter count[] = {{"flop_per_s", 1e9 * rate[i]},
                                        {"threads", i == 0 ? params.threads : 1},
                                        {"peak_rss_bytes", (double)mem_rss_peak()}};
        snprintf(row, sizeof row, "%s/%s", cases[i].name, r->name);
        bench_report(c, row, &res[i], 0, count, i == 0 ? 3 : 2,
                     ok ? NULL : "the loss did not fall");
    }
    blas_close(&l);
    step_close(&s);
}

static bool wanted(int i)
{
    return params.shape == SHAPE_ALL || params.shape == SHAPE_EMBEDDED + i ||
           (params.shape == SHAPE_QUICK && i < 2);
}

static void run(struct bench_ctx *c)
{
    const struct table t = {.out = c->out,
                            .n_cols = 11,
                            .col = {{"Shape", "", 9, TABLE_LEFT},
                                    {"Step", "ms", 9, TABLE_RIGHT},
                                    {"CPU", "ms", 9, TABLE_RIGHT},
                                    {"forward", "ms", 9, TABLE_RIGHT},
                                    {"backward", "ms", 9, TABLE_RIGHT},
                                    {"to embed", "ms", 9, TABLE_RIGHT},
                                    {"optimizer", "ms", 9, TABLE_RIGHT},
                                    {"Products", "GFLOP/s", 8, TABLE_RIGHT},
                                    {"OpenBLAS", "GFLOP/s", 8, TABLE_RIGHT},
                                    {"of BLAS", "", 7, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    openblas_set_num_threads(1);
    fprintf(c->out,
            "# one LoRA step with AdamW and backward to the embeddings, %d thread%s, kernels %s\n"
            "# Products: projections, adapters and head over the whole step's time; OpenBLAS: the "
            "same alone, one thread, core %s\n",
            params.threads, params.threads == 1 ? "" : "s", kernel_isa_text(),
            openblas_get_corename());
    table_head(&t);
    for (int i = 0; i < (int)ARRAY_LEN(shapes); i++)
        if (wanted(i))
            measure(c, &t, &shapes[i]);
    if (params.shape == SHAPE_CUSTOM) {
        struct shape_row r = {"custom",
                              LLAMA(params.dim, params.hidden, params.layers, params.heads,
                                    params.kv_heads, params.vocab),
                              1,
                              params.batch,
                              params.seq,
                              params.seq,
                              params.rank};
        measure(c, &t, &r);
    }
}

const struct bench bench_step = {
    .name = "step",
    .help = "a LoRA training step by phase, beside OpenBLAS alone on the same products; memory",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
