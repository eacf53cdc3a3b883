// One training step of LoRA: forward, backward to the embeddings, AdamW. Beside it, in turn,
// OpenBLAS alone on the same matrix products, or where a device has memory of its own the device's
// library; the step without a token policy, and under Fed-FSTQ's
// with and without a refresh; and memory: what was expected and the peak.
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/bench.h"
#include "kernels/simd.h"
#include "model/model.h"
#include "model/tokens.h"

#include <cblas.h>
#include <malloc.h>
#include <string.h>

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

enum { SHAPE_QUICK, SHAPE_ALL, SHAPE_ROWS, SHAPE_CUSTOM = SHAPE_ROWS + ARRAY_LEN(shapes) };

static const char *shape_name(int32_t i)
{
    static const char *const more[] = {
        [SHAPE_QUICK] = "quick", [SHAPE_ALL] = "all", [SHAPE_CUSTOM] = "custom"};
    return i > SHAPE_CUSTOM ? NULL : more[i] ? more[i] : shapes[i - SHAPE_ROWS].name;
}

struct step_params {
    int32_t shape, dim, hidden, layers, heads, kv_heads, vocab, batch, seq, rank, threads, dtype;
    int32_t recompute, math;
    int32_t dev; // row of dev_table
};

static struct step_params params;

static const char *dev_name(int32_t i)
{
    return dev_table[i] ? dev_table[i]->name : NULL;
}

static const char *dtype_name(int i) // weights are drawn here: none are quantised
{
    return i <= MODEL_DTYPE_F16 ? model_dtypes[i] : NULL;
}

#define SIZE(f, d, h) OPT(struct step_params, f, "step." #f, d, 1, 1 << 24, "", "shape=custom: " h)
static const struct opt options[] = {
    OPT_ROW(
        struct step_params, shape, "step.shape", "quick", shape_name,
        "embedded: nine clients' steps of the standard task; small: dim 288, 6 layers, 8 x 256; "
        "base: dim 768, 12 layers, 4 x 256; quick: the first two"),
    OPT_ROW(struct step_params, dev, "step.dev", "cpu", dev_name, "who computes"),
    OPT(struct step_params, threads, "step.threads", "1", 1, 1024, "", "threads"),
    OPT_ROW(struct step_params, dtype, "step.dtype", "auto", dtype_name, "how weights are held"),
    OPT_ENUM(struct step_params, recompute, "step.recompute", "none", model_recomputes,
             "as model.recompute"),
    OPT_ENUM(struct step_params, math, "step.math", "fp32", dev_math_names, "as dev.math"),
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

// The step.

struct step {
    struct dev dev;
    struct model *m;
    struct model_job *jobs;
    int32_t n_jobs;
    struct optim_params optim;
    struct model_batch *batch;
    struct model_client *client;
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
    if (dev_open(&s->dev, params.dev, params.threads, &err) || dev_math(&s->dev, params.math, &err))
        die(STATUS_ENV, "%s", err.text);
    s->m = model_create(&s->dev, &p, &r->c, 1, &err);
    if (!s->m)
        die(STATUS_USAGE, "bench step: %s", err.text);
    size_t n = model_shape(s->m)->n_values, jobs = (size_t)r->jobs;
    int32_t rows = r->batch * r->seq;
    s->n_jobs = r->jobs;
    s->jobs = mem_alloc(MEM_DATA, jobs * sizeof *s->jobs);
    s->batch = mem_alloc(MEM_DATA, jobs * sizeof *s->batch);
    s->client = mem_alloc(MEM_DATA, jobs * sizeof *s->client);
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
        s->client[j] = (struct model_client){.adapter = s->adapters + (size_t)j * n,
                                             .moments = s->moments + 2 * (size_t)j * n,
                                             .n_moments = 2 * n};
        s->jobs[j] = (struct model_job){.batch = &s->batch[j], .client = &s->client[j]};
        model_init_adapter(s->m, 1, s->client[j].adapter);
        model_load(s->m, &s->client[j], j);
    }
}

static void step_close(struct step *s)
{
    model_close(s->m);
    dev_close(&s->dev);
    void *all[] = {s->jobs,  s->batch,  s->client,  s->adapters, s->moments,
                   s->start, s->tokens, s->targets, s->sq};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
}

static void step_loop(void *arg, int64_t n)
{
    struct step *s = arg;
    for (int32_t j = 0; j < s->n_jobs; j++) {
        s->jobs[j].token_sq = s->sq + (s->batch[j].tokens - s->batch[0].tokens);
        s->jobs[j].client = &s->client[j];
    }
    for (int64_t i = 0; i < n; i++) {
        model_train_step(s->m, s->jobs, s->n_jobs, &s->optim, NULL);
        struct model_times t = model_times(s->m);
        s->times.forward_ns += t.forward_ns;
        s->times.backward_ns += t.backward_ns;
        s->times.embed_ns += t.embed_ns;
        s->times.optimizer_ns += t.optimizer_ns;
        s->times.device_ns += t.device_ns;
        s->last_loss = s->jobs[0].loss;
        if (s->steps++ == 0)
            s->first_loss = s->last_loss;
    }
}

// Fed-FSTQ's own work on a step: masks, scores and the diagonal Fisher.

enum { PART_MASK, PART_EMBED, PART_REFRESH, PART_ACCUMULATE, PART_OWN, PART_REST, PARTS };
enum { KEPT = 1024 }; // steps, the last ones

struct policy {
    struct step *s;
    bool masks, refresh;
    struct token_opts opt;
    struct token_tracker *tracker; // (n_jobs)
    struct model_client *client;   // (n_jobs) the step's, that keep averages
    float *memory, *diagonal, *weights;
    double part_ns[PARTS][KEPT]; // own: the parts together; rest: of the step
    int64_t steps;
};

static void policy_open(struct policy *p, struct step *s, const struct shape_row *r, int32_t place)
{
    size_t n = model_shape(s->m)->n_values, jobs = (size_t)s->n_jobs;
    int32_t keys = r->c.vocab > r->seq + 1 ? r->c.vocab : r->seq + 1;
    size_t floats = token_tracker_floats(keys);
    p->s = s;
    opt_defaults(token_options, token_option_count, &p->opt);
    p->tracker = mem_alloc(MEM_OTHER, jobs * sizeof *p->tracker);
    p->client = mem_alloc(MEM_OTHER, jobs * sizeof *p->client);
    p->memory = mem_alloc(MEM_OTHER, jobs * floats * sizeof *p->memory);
    p->diagonal = mem_alloc(MEM_OPTIMIZER, jobs * n * sizeof *p->diagonal);
    p->weights = mem_alloc(MEM_DATA, (size_t)(r->batch * r->seq) * sizeof *p->weights);
    for (size_t j = 0; j < jobs; j++) {
        token_reset(&p->tracker[j], token_find("fisher"), &p->opt, keys, p->memory + j * floats,
                    rng_stream(1, RNG_TEST, 2, 0, 0));
        token_update(&p->tracker[j], &s->batch[j], s->sq); // from now on there is a mask
        p->client[j] = s->client[j];
        p->client[j].ema = p->diagonal + j * n;
        p->client[j].rho = 0.9f;
        model_load(s->m, &p->client[j], place + (int32_t)j);
    }
}

static void policy_close(struct policy *p)
{
    void *all[] = {p->tracker, p->client, p->memory, p->diagonal, p->weights};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
}

// Masks are chosen and not used: every token is trained, so that the steps compared do the same
// work but for the policy's own.
static void policy_loop(void *arg, int64_t n)
{
    struct policy *p = arg;
    struct step *s = p->s;
    for (int64_t i = 0; i < n; i++) {
        int64_t begin = clock_ns(), t = begin;
        for (int32_t j = 0; j < s->n_jobs; j++) {
            if (p->masks)
                token_weights(&p->tracker[j], &s->batch[j], p->refresh, p->weights);
            s->jobs[j].token_sq =
                p->refresh ? s->sq + (s->batch[j].tokens - s->batch[0].tokens) : NULL;
            s->jobs[j].client = p->masks ? &p->client[j] : &s->client[j];
        }
        double part[PARTS] = {[PART_MASK] = (double)(clock_ns() - t)};
        model_train_step(s->m, s->jobs, s->n_jobs, &s->optim, NULL);
        struct model_times times = model_times(s->m);
        part[PART_EMBED] = (double)times.embed_ns;
        part[PART_ACCUMULATE] = (double)times.fisher_ns;
        t = clock_ns();
        for (int32_t j = 0; j < s->n_jobs && p->refresh; j++)
            token_update(&p->tracker[j], &s->batch[j], s->jobs[j].token_sq);
        part[PART_REFRESH] = (double)(clock_ns() - t);
        for (int k = 0; k < PART_OWN; k++)
            part[PART_OWN] += part[k];
        part[PART_REST] = (double)(clock_ns() - begin) - part[PART_OWN];
        for (int k = 0; k < PARTS; k++)
            p->part_ns[k][p->steps % KEPT] = part[k];
        p->steps++;
    }
}

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

enum { CASE_STEP, CASE_BLAS, CASE_PLAIN, CASE_MASKED, CASE_REFRESH, CASES };
enum { EVERY = 10 }; // steps between refreshes, as the paper has it

struct measured {
    struct step step;
    struct blas blas;
    struct policy policy[3]; // none, between refreshes, refresh
    struct bench_result res[CASES];
    bool ok;
};

static void row_step(struct bench_ctx *c, const struct table *t, const struct shape_row *r,
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
static void row_device(struct bench_ctx *c, const struct shape_row *r, const struct measured *m)
{
    char text[32];
    fmt_time(text, m->step.times.device_ns / m->step.steps);
    fprintf(c->out,
            "#   %s: %s a step by the device's events, from the first operation to the last; "
            "without the plan of the batch, its copy to the device and the results' back\n",
            r->name, text);
}

static double part_median(const struct policy *p, int part)
{
    double ns[KEPT];
    memcpy(ns, p->part_ns[part], sizeof ns);
    return stats_of(ns, p->steps < KEPT ? (size_t)p->steps : KEPT).median;
}

// CPU time of a beyond b's, as a share of b's: median over the pairs.
static double cpu_excess(const struct bench_result *a, const struct bench_result *b)
{
    double ratio[BENCH_SAMPLES_MAX];
    for (int i = 0; i < a->samples; i++)
        ratio[i] = a->sample_cpu_ns[i] / b->sample_cpu_ns[i];
    return stats_of(ratio, (size_t)a->samples).median - 1;
}

// Shares of the rest of the step: average over a refresh and the steps to the next, and of a
// refresh.
static void policy_shares(const struct measured *m, double by_clock[2], double by_difference[2])
{
    const struct policy *p = &m->policy[1], *q = &m->policy[2];
    double masked = cpu_excess(&m->res[CASE_MASKED], &m->res[CASE_PLAIN]);
    double own[2] = {part_median(p, PART_OWN), part_median(q, PART_OWN)};
    double rest[2] = {part_median(p, PART_REST), part_median(q, PART_REST)};
    by_clock[0] = ((EVERY - 1) * own[0] + own[1]) / ((EVERY - 1) * rest[0] + rest[1]);
    by_clock[1] = own[1] / rest[1];
    by_difference[1] = cpu_excess(&m->res[CASE_REFRESH], &m->res[CASE_PLAIN]);
    by_difference[0] = ((EVERY - 1) * masked + by_difference[1]) / EVERY;
}

static void row_fisher(struct bench_ctx *c, const struct table *t, const struct shape_row *r,
                       const struct measured *m)
{
    const struct policy *p = &m->policy[2];
    double clocked[2], difference[2];
    char cell[11][32];
    for (int i = 0; i < 3; i++)
        fmt_fixed(cell[i], m->res[CASE_PLAIN + i].ns.median / 1e6, 9, 2);
    for (int i = 0; i < 4; i++)
        fmt_fixed(cell[3 + i], part_median(i == PART_MASK ? p - 1 : p, i) / 1e3, 9, 1);
    policy_shares(m, clocked, difference);
    for (int i = 0; i < 2; i++) {
        fmt_fixed(cell[7 + i], 100 * clocked[i], 8, 2);
        fmt_fixed(cell[9 + i], 100 * difference[i], 8, 2);
    }
    bench_size(c, (int64_t)r->batch * r->seq, "tokens");
    bench_row(c, t,
              (const char *[]){r->name, cell[0], cell[1], cell[2], cell[3], cell[4], cell[5],
                               cell[6], cell[7], cell[8], cell[9], cell[10],
                               m->ok ? "Pass" : "Fail"});
}

static void report(struct bench_ctx *c, const struct shape_row *r, const struct measured *m,
                   const struct bench_case *cases)
{
    double clocked[2], difference[2];
    policy_shares(m, clocked, difference);
    for (int i = 0; i < CASES; i++) {
        char row[64];
        struct bench_counter count[3] = {{"threads", i == CASE_BLAS ? 1 : params.threads},
                                         {"peak_rss_bytes", (double)mem_rss_peak()},
                                         {"flop_per_s", 1e9 * m->blas.flops / m->res[i].ns.median}};
        if (i == CASE_MASKED)
            count[2] = (struct bench_counter){"fisher_share_average", clocked[0]};
        if (i == CASE_REFRESH)
            count[2] = (struct bench_counter){"fisher_share", clocked[1]};
        snprintf(row, sizeof row, "%s/%s", cases[i].name, r->name);
        bench_report(c, row, &m->res[i], 0, count, 3, m->ok ? NULL : "the loss did not fall");
    }
}

static void measure(struct bench_ctx *c, const struct table *t, const struct shape_row *r,
                    struct measured *m)
{
    struct step *s = &m->step;
    bool fresh = forget_peak();
    step_open(s, r);
    step_loop(s, 2);
    memory_row(c, s, fresh);
    list_products(&m->blas, r);
    blas_open(&m->blas, &s->dev);
    for (int i = 0; i < 3; i++) {
        policy_open(&m->policy[i], s, r, (i + 1) * s->n_jobs);
        m->policy[i].masks = i > 0;
        m->policy[i].refresh = i == 2;
    }
    const struct bench_case cases[CASES] = {
        [CASE_STEP] = {"step", NULL, step_loop, s},
        [CASE_BLAS] = {m->blas.dev ? "blas" : "openblas", NULL, blas_loop, &m->blas},
        [CASE_PLAIN] = {"plain", NULL, policy_loop, &m->policy[0]},
        [CASE_MASKED] = {"masked", NULL, policy_loop, &m->policy[1]},
        [CASE_REFRESH] = {"refresh", NULL, policy_loop, &m->policy[2]}};
    s->times = (struct model_times){0};
    double first = s->first_loss;
    s->steps = 0;
    bench_measure(c, cases, CASES, m->res);
    m->ok = s->last_loss < first; // it learns the batch by heart
    row_step(c, t, r, m);
    if (!s->dev.row->host)
        row_device(c, r, m);
    report(c, r, m, cases);
    for (int i = 0; i < 3; i++)
        policy_close(&m->policy[i]);
    blas_close(&m->blas);
    step_close(s);
}

static bool wanted(int i)
{
    return params.shape == SHAPE_ALL || params.shape == SHAPE_ROWS + i ||
           (params.shape == SHAPE_QUICK && i < 2);
}

static const struct table_col step_cols[] = {
    {"Shape", "", 9, TABLE_LEFT},        {"Step", "ms", 8, TABLE_RIGHT},
    {"CPU", "ms", 8, TABLE_RIGHT},       {"forward", "ms", 8, TABLE_RIGHT},
    {"backward", "ms", 8, TABLE_RIGHT},  {"to embed", "ms", 8, TABLE_RIGHT},
    {"optimizer", "ms", 9, TABLE_RIGHT}, {"Products", "GFLOP/s", 8, TABLE_RIGHT},
    {"BLAS", "GFLOP/s", 8, TABLE_RIGHT}, {"of BLAS", "", 7, TABLE_RIGHT},
    {"Validation", "", 10, TABLE_RIGHT}};
static const struct table_col fisher_cols[] = {
    {"Shape", "", 9, TABLE_LEFT},         {"Plain", "ms", 9, TABLE_RIGHT},
    {"Masked", "ms", 9, TABLE_RIGHT},     {"Refresh", "ms", 9, TABLE_RIGHT},
    {"mask", "us", 8, TABLE_RIGHT},       {"to embed", "us", 8, TABLE_RIGHT},
    {"refresh", "us", 8, TABLE_RIGHT},    {"accumulate", "us", 10, TABLE_RIGHT},
    {"Average", "%", 7, TABLE_RIGHT},     {"Refresh", "%", 7, TABLE_RIGHT},
    {"Average", "% CPU", 7, TABLE_RIGHT}, {"Refresh", "% CPU", 7, TABLE_RIGHT},
    {"Validation", "", 10, TABLE_RIGHT}};

static void run(struct bench_ctx *c)
{
    struct table t = {.out = c->out, .n_cols = (int)ARRAY_LEN(step_cols)};
    struct table f = {.out = c->out, .n_cols = (int)ARRAY_LEN(fisher_cols)};
    memcpy(t.col, step_cols, sizeof step_cols);
    memcpy(f.col, fisher_cols, sizeof fisher_cols);
    struct shape_row row[ARRAY_LEN(shapes) + 1];
    int n = 0;
    for (int i = 0; i < (int)ARRAY_LEN(shapes); i++)
        if (wanted(i))
            row[n++] = shapes[i];
    if (params.shape == SHAPE_CUSTOM)
        row[n++] = (struct shape_row){"custom",
                                      LLAMA(params.dim, params.hidden, params.layers, params.heads,
                                            params.kv_heads, params.vocab),
                                      1,
                                      params.batch,
                                      params.seq,
                                      params.seq,
                                      params.rank};
    struct measured *m = mem_alloc(MEM_OTHER, sizeof *m * (size_t)n);
    const bool here = dev_table[params.dev]->host;
    openblas_set_num_threads(1);
    fprintf(c->out, "# one LoRA step with AdamW and backward to the embeddings on %s, ",
            dev_table[params.dev]->name);
    if (here)
        fprintf(c->out, "%d thread%s, kernels %s, %s\n", params.threads,
                params.threads == 1 ? "" : "s", simd_text(), dev_math_names[params.math]);
    else
        fprintf(c->out, "%s; its parts by the device's clock\n", dev_math_names[params.math]);
    fprintf(c->out,
            "# Products: projections, adapters and head over the whole step's time; of BLAS: "
            "the same\n# alone, by ");
    if (here)
        fprintf(c->out, "OpenBLAS, one thread, core %s\n", openblas_get_corename());
    else
        fprintf(c->out, "the device's library\n");
    bench_size(c, 0, "tokens");
    bench_leave_out(c, 1 << 8); // the library's rate, which its share says
    bench_head(c, &t);
    for (int i = 0; i < n; i++)
        measure(c, &t, &row[i], &m[i]);
    fprintf(
        c->out,
        "#\n# what Fed-FSTQ's policy ~fisher:keep=0.5,every=%d and the diagonal Fisher add to a "
        "step, in the same turns.\n"
        "# Plain: a step without them; Masked: one that chooses a mask, yet trains all tokens as "
        "Plain does, and averages\n"
        "# the diagonal; Refresh: one that scores tokens, too. us: medians of clocked parts, mask "
        "of "
        "Masked, others of Refresh.\n"
        "# %%: all of them by the rest of the step, over a refresh and the %d steps to the next, "
        "and of the refresh alone;\n"
        "# %% CPU: the same as the difference of whole steps' CPU time\n",
        EVERY, EVERY - 1);
    bench_leave_out(c, 7 << 1); // whole steps
    bench_head(c, &f);
    for (int i = 0; i < n; i++)
        row_fisher(c, &f, &row[i], &m[i]);
    mem_free(m);
}

const struct bench bench_step = {
    .name = "step",
    .help =
        "a LoRA training step by phase, beside its products alone by a library, and with Fisher's "
        "work; memory",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
