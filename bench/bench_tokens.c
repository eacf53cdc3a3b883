// Token Recall of every token source: how much of what matters a mask keeps. The reference is an
// uncompressed FedAvg run with the full loss; all sources watch it, so that they are judged on the
// same model, step and tokens.
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/stats.h"
#include "base/table.h"
#include "bench/bench.h"
#include "model/model.h"
#include "model/tokens.h"
#include "task/task.h"

#include <math.h>
#include <string.h>

struct tokens_params {
    int32_t task, rounds, clients, steps, batch, every;
    double keep, top, lr;
};

static struct tokens_params params;
static const char *const task_choices[] = {"synth-long", "synth-qa", "synth-medical", NULL};

static const struct opt options[] = {
    OPT_ENUM(struct tokens_params, task, "tokens.task", "synth-long", task_choices,
             "what is learned"),
    OPT(struct tokens_params, rounds, "tokens.rounds", "4", 1, 1000, "",
        "rounds of training, after which tokens are compared"),
    OPT(struct tokens_params, clients, "tokens.clients", "4", 1, 100, "", "clients in a round"),
    OPT(struct tokens_params, steps, "tokens.steps", "30", 1, 10000, "", "local steps of a round"),
    OPT(struct tokens_params, batch, "tokens.batch", "4", 1, 256, "examples",
        "size of a minibatch"),
    OPT(struct tokens_params, every, "tokens.every", "10", 1, 10000, "steps",
        "steps between refreshes of the scores"),
    OPT(struct tokens_params, keep, "tokens.keep", "0.5", 1e-6, 0.99, "",
        "part of an answer's tokens that a mask keeps"),
    OPT(struct tokens_params, top, "tokens.top", "0.5", 1e-6, 1, "",
        "part of an answer's tokens that count as sensitive"),
    OPT(struct tokens_params, lr, "tokens.lr", "4e-3", 0, 10, "",
        "learning rate of the local AdamW"),
};

enum { SOURCES_MAX = 32, CLIENTS = 100 };

// One source under one key.
struct watcher {
    struct token_opts opt;
    const struct token_source *source;
    struct token_tracker tracker;
    float *memory;
    struct token_recall recall;
    int64_t mask_ns, masks; // the shortest, and how many
};

struct reference {
    struct dev dev;
    struct task *task;
    struct model *m;
    struct optim_params optim;
    size_t n;                      // adapter
    float *theta, *next, *adapter; // next: the weighted sum of what clients trained
    float *moments;
    int32_t *start, *tokens, *targets;
    struct model_batch batch;
    float *sq, *loss, *received, *weights; // (rows)
    struct watcher watch[SOURCES_MAX];
    int n_watch;
    struct token_recall ceiling; // of masks made from the reference scores themselves
};

static void watch_all(struct reference *r, int32_t keys)
{
    for (int s = 0; token_table[s]; s++) {
        int n_keys = token_table[s]->fresh ? 1 : 3; // keys of what is drawn anew are all alike
        for (int32_t key = 0; key < n_keys && !token_table[s]->all; key++) {
            struct watcher *w = &r->watch[r->n_watch++];
            if (r->n_watch > SOURCES_MAX)
                die(STATUS_CHECK, "bench tokens: more sources than places");
            opt_defaults(token_options, token_option_count, &w->opt);
            w->opt.keep = params.keep;
            w->opt.every = params.every;
            w->opt.key = key;
            w->source = token_table[s];
            w->memory = mem_alloc(MEM_OTHER, token_tracker_floats(keys) * sizeof *w->memory);
        }
    }
}

static void reference_open(struct reference *r)
{
    struct err err = {""};
    struct model_params mp;
    struct task_params tp;
    opt_defaults(model_options, model_option_count, &mp);
    opt_defaults(task_options, task_option_count, &tp);
    opt_defaults(optim_options, optim_option_count, &r->optim);
    r->optim.lr = params.lr;
    snprintf(mp.path, sizeof mp.path, "builtin");
    const struct opt *name = opt_find(task_options, task_option_count, "task.name");
    if (opt_set(name, &tp, task_choices[params.task], &err))
        die(STATUS_CHECK, "bench tokens: %s", err.text);
    r->task = task_open(&tp, 1, CLIENTS, &err);
    if (!r->task || dev_open(&r->dev, 0, 1, &err))
        die(STATUS_ENV, "bench tokens: %s", err.text);
    r->m = model_open(&r->dev, &mp, &err);
    if (!r->m)
        die(STATUS_ENV, "bench tokens: %s", err.text);
    r->n = model_shape(r->m)->n_values;
    size_t rows = (size_t)params.batch * (size_t)r->task->max_tokens, n = r->n + KERNEL_SLACK;
    float **vector[] = {&r->theta, &r->next, &r->adapter};
    for (size_t i = 0; i < ARRAY_LEN(vector); i++)
        *vector[i] = mem_alloc(MEM_ADAPTER, n * sizeof(float));
    r->moments = mem_alloc(MEM_OPTIMIZER, optim_floats(r->optim.kind, r->n) * sizeof(float));
    float **per_row[] = {&r->sq, &r->loss, &r->received, &r->weights};
    for (size_t i = 0; i < ARRAY_LEN(per_row); i++)
        *per_row[i] = mem_alloc(MEM_DATA, rows * sizeof(float));
    r->start = mem_alloc(MEM_DATA, (size_t)(params.batch + 1) * sizeof *r->start);
    r->tokens = mem_alloc(MEM_DATA, rows * sizeof *r->tokens);
    r->targets = mem_alloc(MEM_DATA, rows * sizeof *r->targets);
    r->batch = (struct model_batch){
        .n_seqs = params.batch, .start = r->start, .tokens = r->tokens, .targets = r->targets};
    model_init_adapter(r->m, 1, r->theta);
    int32_t vocab = model_config(r->m)->vocab, longest = r->task->max_tokens + 1;
    watch_all(r, vocab > longest ? vocab : longest);
}

static void reference_close(struct reference *r)
{
    void *all[] = {r->theta,    r->next,    r->adapter, r->moments, r->sq,     r->loss,
                   r->received, r->weights, r->start,   r->tokens,  r->targets};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
    for (int i = 0; i < r->n_watch; i++)
        mem_free(r->watch[i].memory);
    model_close(r->m);
    dev_close(&r->dev);
    task_close(r->task);
}

static void draw(struct reference *r, const struct examples *own, struct rng *g)
{
    for (int32_t b = 0; b < params.batch; b++) {
        const struct example *e = &own->v[rng_below(g, (uint32_t)own->n)];
        int32_t at = r->start[b];
        for (int32_t i = 0; i + 1 < e->n; i++) {
            r->tokens[at + i] = e->tokens[i];
            r->targets[at + i] = i + 1 >= e->answer ? e->tokens[i + 1] : -1;
        }
        r->start[b + 1] = at + e->n - 1;
    }
}

// The step has left the scores of its tokens: masks are judged by them, refreshes take them in.
static void watch_step(struct reference *r)
{
    bool judged = false;
    for (int i = 0; i < r->n_watch; i++) {
        struct watcher *w = &r->watch[i];
        bool refresh = token_step(&w->tracker);
        if (w->tracker.masked && !refresh) {
            int64_t t = clock_ns();
            token_weights(&w->tracker, &r->batch, false, r->weights);
            t = clock_ns() - t;
            w->mask_ns = w->masks && w->mask_ns < t ? w->mask_ns : t;
            w->masks++;
            token_recall_add(&w->recall, &r->batch, r->sq, r->weights, params.top);
            judged = true;
        } else if (refresh) {
            unsigned needs = w->source->needs;
            token_update(&w->tracker, &r->batch,
                         needs & TOKEN_LOSS       ? r->loss
                         : needs & TOKEN_RECEIVED ? r->received
                                                  : r->sq);
        }
    }
    for (int32_t s = 0; s < params.batch && judged; s++) { // the end takes a place of a mask's
        int32_t n = 0;
        for (int32_t i = r->start[s]; i < r->start[s + 1]; i++)
            n += r->targets[i] >= 0;
        int64_t keep = (int64_t)ceil(params.keep * n - 1e-9) - 1;
        int64_t top = (int64_t)ceil(params.top * (n - 1) - 1e-9);
        r->ceiling.top += top;
        r->ceiling.kept += keep < top ? keep : top;
    }
}

static void train_client(struct reference *r, uint32_t round, uint32_t client)
{
    const struct examples *own = task_client(r->task, (int32_t)client);
    struct rng g = rng_stream(1, RNG_BATCH, round, client, 0);
    struct model_client trainee = {.adapter = r->adapter,
                                   .moments = r->moments,
                                   .n_moments = optim_floats(r->optim.kind, r->n)};
    struct model_job job = {.batch = &r->batch,
                            .client = &trainee,
                            .token_sq = r->sq,
                            .token_loss = r->loss,
                            .received = r->received};
    memcpy(r->adapter, r->theta, r->n * sizeof *r->adapter);
    memset(r->moments, 0, trainee.n_moments * sizeof *r->moments);
    model_load(r->m, &trainee, 0);
    int32_t vocab = model_config(r->m)->vocab, longest = r->task->max_tokens + 1;
    for (int i = 0; i < r->n_watch; i++) {
        struct watcher *w = &r->watch[i];
        token_reset(&w->tracker, w->source, &w->opt, vocab > longest ? vocab : longest, w->memory,
                    rng_stream(1, RNG_TOKENS, round, client, 0));
    }
    for (int32_t s = 0; s < params.steps; s++) {
        draw(r, own, &g);
        model_train_step(r->m, &job, 1, &r->optim, NULL);
        watch_step(r);
    }
    model_store(r->m, &trainee);
    for (size_t i = 0; i < r->n; i++)
        r->next[i] += (float)own->n * r->adapter[i];
    task_forget(r->task, (int32_t)client);
}

static void train(struct reference *r)
{
    for (uint32_t round = 1; round <= (uint32_t)params.rounds; round++) {
        struct rng g = rng_stream(1, RNG_SAMPLE, round, 0, 0);
        uint32_t client[CLIENTS];
        double samples = 0;
        rng_choose(&g, CLIENTS, (uint32_t)params.clients, client);
        memset(r->next, 0, r->n * sizeof *r->next);
        for (int32_t i = 0; i < params.clients; i++) {
            samples += task_client(r->task, (int32_t)client[i])->n;
            train_client(r, round, client[i]);
        }
        for (size_t i = 0; i < r->n; i++)
            r->theta[i] = (float)((double)r->next[i] / samples);
    }
}

static double share(struct token_recall t)
{
    return t.top > 0 ? (double)t.kept / (double)t.top : NAN;
}

static void rows(struct bench_ctx *c, const struct reference *r, const struct table *t)
{
    double ceiling = share(r->ceiling);
    char cell[3][32];
    for (int i = 0; i < r->n_watch; i++) {
        const struct watcher *w = &r->watch[i];
        double recall = share(w->recall), ns = (double)w->mask_ns;
        bool ok = recall >= 0 && recall <= 1 && w->recall.top == r->ceiling.top;
        char key[32] = "-", name[96];
        if (!w->source->fresh)
            opt_format(opt_find(token_options, token_option_count, "key"), &w->opt, key,
                       sizeof key);
        fmt_fixed(cell[0], recall, 8, 4);
        fmt_fixed(cell[1], recall / ceiling, 8, 4);
        fmt_fixed(cell[2], ns / 1e3, 9, 2);
        bench_row(
            c, t,
            (const char *[]){w->source->name, key, cell[0], cell[1], cell[2], bench_check(c, ok)});
        struct bench_result res = {.iterations = w->masks, .samples = 1, .sample_ns = {ns}};
        res.ns = stats_of(&ns, 1);
        struct bench_counter count[] = {{"token_recall", recall}, {"ceiling", ceiling}};
        snprintf(name, sizeof name, "tokens/%s/%s", w->source->name, key);
        bench_report(c, name, &res, 0, count, 2, ok ? NULL : "recall out of range");
    }
}

static void run(struct bench_ctx *c)
{
    const struct table t = {.out = c->out,
                            .n_cols = 6,
                            .col = {{"Source", "", 10, TABLE_LEFT},
                                    {"Key", "", 9, TABLE_LEFT},
                                    {"Recall", "", 8, TABLE_RIGHT},
                                    {"of best", "", 8, TABLE_RIGHT},
                                    {"Mask", "us, least", 9, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    struct reference *r = mem_alloc(MEM_OTHER, sizeof *r);
    if (params.steps <= params.every)
        die(STATUS_USAGE, "bench tokens: tokens.steps = %d: a mask acts after tokens.every = %d",
            params.steps, params.every);
    reference_open(r);
    train(r);
    fprintf(
        c->out,
        "# Token Recall on %s: of the %g of an answer's tokens (its end aside) with the largest\n"
        "# ||dL/de||^2 in a reference run, the share that a source's mask keeps at the same step. "
        "Reference: FedAvg in fp32 with "
        "the full loss, %d rounds of\n"
        "# %d clients x %d steps of %d; masks keep %g, chosen every %d steps. A mask from the "
        "reference itself: %.4f; %lld tokens\n",
        task_choices[params.task], params.top, params.rounds, params.clients, params.steps,
        params.batch, params.keep, params.every, share(r->ceiling), (long long)r->ceiling.top);
    bench_size(c, r->ceiling.top, "tokens");
    bench_head(c, &t);
    rows(c, r, &t);
    reference_close(r);
    mem_free(r);
}

const struct bench bench_tokens = {
    .name = "tokens",
    .help = "Token Recall: what each token source's mask keeps of the most sensitive tokens",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
