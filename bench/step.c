// The step: shapes, parameters, a batch that is learnt by heart.
#include "bench/step.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/simd.h"

#include <stdio.h>

#define LLAMA(d, h, l, a, kv, v)                                                                   \
    {                                                                                              \
        .dim = d, .hidden = h, .layers = l, .heads = a, .kv_heads = kv, .head_dim = (d) / (a),     \
        .vocab = v, .max_positions = 4096, .rope_theta = 10000, .norm_eps = 1e-5, .tied = true     \
    }
static const struct step_shape shapes[] = {
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

static const char *dev_name(int32_t i)
{
    return dev_table[i] ? dev_table[i]->name : NULL;
}

static const char *dtype_name(int i) // weights are drawn here: none are quantised
{
    return i <= MODEL_DTYPE_F16 ? model_dtypes[i] : NULL;
}

#define SIZE(name, f, d, h)                                                                        \
    OPT(struct step_params, f, name "." #f, d, 1, 1 << 24, "", "shape=custom: " h)
#define OPTIONS(name)                                                                              \
    {                                                                                              \
        OPT_ROW(struct step_params, shape, name ".shape", "quick", shape_name,                     \
                "embedded: nine clients' steps of the standard task; small: dim 288, 6 layers, "   \
                "8 x 256; base: dim 768, 12 layers, 4 x 256; quick: the first two"),               \
            OPT_ROW(struct step_params, dev, name ".dev", "cpu", dev_name, "who computes"),        \
            OPT(struct step_params, threads, name ".threads", "1", 1, 1024, "", "threads"),        \
            OPT_ROW(struct step_params, dtype, name ".dtype", "auto", dtype_name,                  \
                    "how weights are held, as model.dtype"),                                       \
            OPT_ENUM(struct step_params, recompute, name ".recompute", "none", model_recomputes,   \
                     "as model.recompute"),                                                        \
            OPT_ENUM(struct step_params, math, name ".math", "fp32", dev_math_names,               \
                     "as dev.math"),                                                               \
            SIZE(name, dim, "288", "width"), SIZE(name, hidden, "768", "width inside the MLP"),    \
            SIZE(name, layers, "6", "layers"), SIZE(name, heads, "6", "query heads"),              \
            SIZE(name, kv_heads, "6", "key-value heads"),                                          \
            SIZE(name, vocab, "32000", "vocabulary"), SIZE(name, batch, "8", "sequences"),         \
            SIZE(name, seq, "256", "tokens of a sequence"),                                        \
            SIZE(name, rank, "16", "rank of the adapter"),                                         \
    }
const struct opt step_own_options[STEP_OPTIONS] = OPTIONS("step"),
                 step_fisher_options[STEP_OPTIONS] = OPTIONS("fisher");

int step_shapes(const struct step_params *p, struct step_shape row[STEP_SHAPES])
{
    int n = 0;
    for (int i = 0; i < (int)ARRAY_LEN(shapes); i++)
        if (p->shape == SHAPE_ALL || p->shape == SHAPE_ROWS + i ||
            (p->shape == SHAPE_QUICK && i < 2))
            row[n++] = shapes[i];
    if (p->shape == SHAPE_CUSTOM)
        row[n++] = (struct step_shape){
            "custom", LLAMA(p->dim, p->hidden, p->layers, p->heads, p->kv_heads, p->vocab),
            1,        p->batch,
            p->seq,   p->seq,
            p->rank};
    return n;
}

void step_say_where(const struct bench_ctx *c, const struct step_params *p)
{
    fprintf(c->out, "%s, ", dev_table[p->dev]->name);
    if (dev_table[p->dev]->host)
        fprintf(c->out, "%d thread%s, kernels %s, %s\n", p->threads, p->threads == 1 ? "" : "s",
                simd_text(), dev_math_names[p->math]);
    else
        fprintf(c->out, "%s; its parts by the device's clock\n", dev_math_names[p->math]);
}

void step_open(struct step *s, const struct step_params *how, const struct step_shape *r)
{
    struct err err = {""};
    struct model_params p;
    opt_defaults(model_options, model_option_count, &p);
    opt_defaults(optim_options, optim_option_count, &s->optim);
    p.lora_rank = r->rank;
    p.dtype = how->dtype;
    p.recompute = how->recompute;
    if (dev_open(&s->dev, how->dev, how->threads, &err) || dev_math(&s->dev, how->math, &err))
        die(STATUS_ENV, "%s", err.text);
    s->m = model_create(&s->dev, &p, &r->c, 1, &err);
    if (!s->m)
        die(STATUS_USAGE, "bench: %s", err.text);
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

void step_close(struct step *s)
{
    model_close(s->m);
    dev_close(&s->dev);
    void *all[] = {s->jobs,  s->batch,  s->client,  s->adapters, s->moments,
                   s->start, s->tokens, s->targets, s->sq};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
}

void step_loop(void *arg, int64_t n)
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
