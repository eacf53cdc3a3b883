// The embedded base model, made from the synthetic corpus: all weights trained from scratch, no
// federation.
#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "cmd.h"
#include "config.h"
#include "task/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HELD_OUT_DOCS 64

const struct opt pretrain_options[] = {
    OPT(struct pretrain_params, steps, "pretrain.steps", "1800", 1, 1e7, "", "optimizer steps"),
    OPT(struct pretrain_params, batch, "pretrain.batch", "64", 1, 4096, "documents",
        "documents of a step"),
    OPT(struct pretrain_params, warmup, "pretrain.warmup", "100", 0, 1e7, "steps",
        "linear rise of the learning rate"),
    OPT(struct pretrain_params, constant, "pretrain.constant", "0.5", 0, 1, "",
        "part of the steps after which the learning rate falls linearly"),
    OPT(struct pretrain_params, lr_end, "pretrain.lr_end", "0.03", 0, 1, "",
        "learning rate of the last step, as a part of optim.lr"),
    OPT(struct pretrain_params, dim, "pretrain.dim", "96", 8, 65536, "", "width of the model"),
    OPT(struct pretrain_params, hidden, "pretrain.hidden", "192", 8, 262144, "",
        "width of the feed-forward layers"),
    OPT(struct pretrain_params, layers, "pretrain.layers", "3", 1, 1024, "", "layers"),
    OPT(struct pretrain_params, heads, "pretrain.heads", "4", 1, 1024, "", "attention heads"),
    OPT(struct pretrain_params, kv_heads, "pretrain.kv_heads", "2", 1, 1024, "",
        "key and value heads"),
    OPT_STRING(struct pretrain_params, file, "pretrain.file", "base.safetensors",
               "where the model goes, as fp16 safetensors"),
};
const int pretrain_option_count = ARRAY_LEN(pretrain_options);

struct corpus {
    int32_t *start, *tokens, *targets, *best;
    float *weights;
    uint8_t *is_copy;
    struct model_batch batch;
};

static void corpus_init(struct corpus *c, int32_t docs)
{
    size_t rows = (size_t)docs * SYNTH_DOC_TOKENS;
    memset(c, 0, sizeof *c);
    c->start = mem_alloc(MEM_DATA, (size_t)(docs + 1) * sizeof *c->start);
    c->tokens = mem_alloc(MEM_DATA, rows * sizeof *c->tokens);
    c->targets = mem_alloc(MEM_DATA, rows * sizeof *c->targets);
    c->best = mem_alloc(MEM_DATA, rows * sizeof *c->best);
    c->weights = mem_alloc(MEM_DATA, rows * sizeof *c->weights);
    c->is_copy = mem_alloc(MEM_DATA, rows);
    c->batch = (struct model_batch){.n_seqs = docs,
                                    .start = c->start,
                                    .tokens = c->tokens,
                                    .targets = c->targets,
                                    .weights = c->weights};
    for (int32_t d = 0; d <= docs; d++)
        c->start[d] = d * (SYNTH_DOC_TOKENS - 1);
}

static void corpus_free(struct corpus *c)
{
    mem_free(c->start);
    mem_free(c->tokens);
    mem_free(c->targets);
    mem_free(c->best);
    mem_free(c->weights);
    mem_free(c->is_copy);
}

// The documents of a step; the held-out ones are those of step UINT32_MAX.
static void corpus_draw(struct corpus *c, uint64_t seed, uint32_t step)
{
    for (int32_t d = 0; d < c->batch.n_seqs; d++) {
        int32_t doc[SYNTH_DOC_TOKENS];
        float weight[SYNTH_DOC_TOKENS];
        uint8_t copy[SYNTH_DOC_TOKENS];
        struct rng r = rng_stream(seed, RNG_PRETRAIN, step, (uint32_t)d, 0);
        synth_pretrain_doc(&r, doc, weight);
        synth_pretrain_copies(doc, copy);
        int32_t at = c->start[d];
        for (int32_t i = 0; i + 1 < SYNTH_DOC_TOKENS; i++) {
            c->tokens[at + i] = doc[i];
            c->targets[at + i] = doc[i + 1];
            c->weights[at + i] = weight[i + 1];
            c->is_copy[at + i] = copy[i + 1];
        }
    }
}

static double copy_accuracy(struct model *m, struct corpus *c, double *loss)
{
    struct model_job job = {.batch = &c->batch, .best = c->best};
    int64_t right = 0, n = 0;
    model_evaluate(m, &job, 1);
    *loss = job.loss;
    for (int32_t i = 0; i < c->start[c->batch.n_seqs]; i++) {
        n += c->is_copy[i];
        right += c->is_copy[i] && c->best[i] == c->targets[i];
    }
    return n ? (double)right / (double)n : NAN;
}

static double step_lr(const struct pretrain_params *p, double lr, int32_t step)
{
    double hold = p->constant * p->steps;
    if (step < p->warmup)
        return lr * (step + 1) / p->warmup;
    if (step < hold)
        return lr;
    double t = (step - hold) / (p->steps - hold);
    return lr * (1 + (p->lr_end - 1) * t);
}

static struct model_config shape_of(const struct pretrain_params *p)
{
    return (struct model_config){.dim = p->dim,
                                 .hidden = p->hidden,
                                 .layers = p->layers,
                                 .heads = p->heads,
                                 .kv_heads = p->kv_heads,
                                 .head_dim = p->dim / p->heads,
                                 .vocab = SYNTH_VOCAB,
                                 .max_positions = 256,
                                 .rope_style = KERNEL_ROPE_HALF,
                                 .tied = true,
                                 .rope_theta = 1000,
                                 .norm_eps = 1e-5};
}

static const struct table_col pretrain_cols[] = {
    {"step", "", 7, TABLE_RIGHT},         {"loss", "nats", 9, TABLE_RIGHT},
    {"held out", "nats", 9, TABLE_RIGHT}, {"copied", "", 8, TABLE_RIGHT},
    {"time", "", 9, TABLE_RIGHT},
};

static void print_step(const struct table *t, int32_t step, double loss, double held, double copied,
                       int64_t ns)
{
    char c[5][32];
    const char *cells[] = {fmt_count(c[0], step), fmt_fixed(c[1], loss, 9, 4),
                           fmt_fixed(c[2], held, 9, 4), fmt_fixed(c[3], copied, 8, 3),
                           fmt_time(c[4], ns)};
    table_row(t, cells);
    fflush(stdout);
}

static void train(struct model *m, const struct config *cfg, double *copied)
{
    const struct pretrain_params *p = &cfg->pretrain;
    struct optim_params optim = cfg->optim;
    struct corpus train, held;
    struct table t = {.out = stdout, .n_cols = (int)ARRAY_LEN(pretrain_cols)};
    size_t n = model_weight_count(m);
    struct model_client all = {.id = -1, .n_moments = optim_floats(optim.kind, n)};
    uint64_t seed = (uint64_t)cfg->run.seed;
    double held_loss, loss = 0;
    int64_t t0 = clock_ns();
    memcpy(t.col, pretrain_cols, sizeof pretrain_cols);
    corpus_init(&train, p->batch);
    corpus_init(&held, HELD_OUT_DOCS);
    corpus_draw(&held, seed, UINT32_MAX);
    all.moments = mem_alloc(MEM_OPTIMIZER, all.n_moments * sizeof *all.moments);
    model_load(m, &all, 0);
    table_head(&t);
    for (int32_t step = 0; step < p->steps; step++) {
        struct model_job job = {.batch = &train.batch, .client = &all};
        corpus_draw(&train, seed, (uint32_t)step);
        optim.lr = step_lr(p, cfg->optim.lr, step);
        model_full_backward(m, &job);
        model_full_update(m, &job, &optim);
        loss += job.loss;
        int32_t done = step + 1;
        if (done % 100 && done != p->steps)
            continue;
        *copied = copy_accuracy(m, &held, &held_loss);
        print_step(&t, done, loss / (done % 100 ? done % 100 : 100), held_loss, *copied,
                   clock_ns() - t0);
        loss = 0;
    }
    corpus_free(&train);
    corpus_free(&held);
    model_store(m, &all);
    mem_free(all.moments);
}

static int pretrain_main(int argc, char **argv)
{
    static struct config cfg;
    struct dev dev;
    struct err err;
    const char *path = argc > 1 && !strchr(argv[1], '=') ? argv[1] : NULL;
    int first = path ? 2 : 1;
    if (config_load(&cfg, path, argc - first, argv + first))
        return STATUS_USAGE;
    if (cfg.pretrain.dim % cfg.pretrain.heads)
        return fprintf(stderr, "fstq: pretrain.dim = %d is not a multiple of pretrain.heads = %d\n",
                       cfg.pretrain.dim, cfg.pretrain.heads),
               STATUS_USAGE;
    int threads = cfg.dev.threads ? cfg.dev.threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (cfg.dev.math == KERNEL_MATH_INT8)
        die(STATUS_USAGE, "dev.math = int8 answers, but has no gradients: take another to train");
    if (dev_open(&dev, config_dev_kind(&cfg), threads, &err) || dev_math(&dev, cfg.dev.math, &err))
        die(STATUS_ENV, "%s", err.text);
    struct model_config shape = shape_of(&cfg.pretrain);
    struct model_params params = cfg.model;
    params.lora_rank = 0;
    struct model *m = model_create(&dev, &params, &shape, (uint64_t)cfg.run.seed, &err);
    if (!m || model_full_begin(m, &err))
        die(STATUS_USAGE, "%s", err.text);
    double copied = NAN;
    printf("# fstq pretrain: %zu weights, %d steps of %d documents of %d tokens, seed %lld\n",
           model_weight_count(m), cfg.pretrain.steps, cfg.pretrain.batch, SYNTH_DOC_TOKENS,
           (long long)cfg.run.seed);
    train(m, &cfg, &copied);
    if (model_save(m, cfg.pretrain.file, KERNEL_F16, NULL, &err))
        die(STATUS_ENV, "%s", err.text);
    printf("# %s written, fp16; copies %.1f%% of values\n", cfg.pretrain.file, 100 * copied);
    model_close(m);
    dev_close(&dev);
    return STATUS_VALID;
}

const struct cmd cmd_pretrain = {
    .name = "pretrain",
    .usage = "[CONFIG] [section.key=value ...]",
    .help = "makes the embedded base model from the synthetic corpus",
    .details =
        "The corpus is made as it is read: no step sees a document twice. 'copied' is the part\n"
        "of restated values that held-out documents get right. Same config and seed, same\n"
        "bytes, for any number of threads.\n\n"
        "  fstq pretrain configs/base-model.ini pretrain.file=base.safetensors\n"
        "  fstq run model.path=base.safetensors\n",
    .alone = true,
    .run = pretrain_main,
};
