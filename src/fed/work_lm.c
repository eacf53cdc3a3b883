// Language models: clients fine-tune a low-rank adapter on their examples, the server scores the
// global one.
#include "fed/binary.h"
#include "fed/middle.h"
#include "fed/product.h"
#include "fed/workload.h"

#include "base/mem.h"
#include "base/rng.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LM_GROUP       16                  // clients trained at once, at most
#define LM_GROUP_BYTES ((size_t)256 << 20) // and as many as fit here with gradient and optimizer
#define LM_EVAL_SEQS   64

// Minibatch of one client, laid out for the model; reused from step to step.
struct lm_batch {
    int32_t *start, *tokens, *targets; // (batch + 1), (batch * longest) twice
    struct model_batch batch;
};

struct lm {
    struct task *task;
    struct dev dev;
    struct model *model;
    int group;
    int32_t n_keys;
    size_t n, optim_n;                  // adapter, floats of optimizer state
    struct lm_batch *batch;             // (group)
    struct model_job *job;              // (group)
    struct model_optim_state *os;       // (group)
    float *moments;                     // (group, optim_n)
    struct rng *rng;                    // (group)
    struct kernel_fisher *fisher;       // (group)
    struct model_job *oracle;           // (group) examples
    struct token_tracker *tracker;      // (group), NULL while every token counts alike
    float *tracker_mem, *weights, *raw; // (group, ...) of the trackers; rows of each batch
    struct lm_batch eval;
    int32_t *best, *gen, *gen_len, *wrong;
    bool *gen_ended;
    struct prediction *prediction;
    struct score *group_score;      // (task.n_groups)
    struct binary *binary;          // (group), NULL until a method asks for it
    float *binary_mem, *y, *with_y; // (group, ...): of binary; signs; what the model runs with
    struct rng *signs;              // (group)
    bool middle;                    // theta has R of B0 R A
    struct products pairs;
    float *frozen, *expanded, *square; // B0; (group, n) what the model runs with; (rank, rank)
    struct model_cut cut;              // rows of one batch at the cut
    int32_t *label;                    // (longest)
};

static void batch_init(struct lm_batch *b, int32_t seqs, int32_t longest)
{
    size_t rows = (size_t)seqs * (size_t)longest;
    b->start = mem_alloc(MEM_DATA, (size_t)(seqs + 1) * sizeof *b->start);
    b->tokens = mem_alloc(MEM_DATA, rows * sizeof *b->tokens);
    b->targets = mem_alloc(MEM_DATA, rows * sizeof *b->targets);
    b->batch = (struct model_batch){.start = b->start, .tokens = b->tokens, .targets = b->targets};
}

static void batch_free(struct lm_batch *b)
{
    mem_free(b->start);
    mem_free(b->tokens);
    mem_free(b->targets);
}

static void batch_clear(struct lm_batch *b)
{
    b->batch.n_seqs = 0;
    b->start[0] = 0;
}

// The loss is on the answer and its end; the last token predicts nothing.
static void batch_add(struct lm_batch *b, const struct example *e)
{
    int32_t at = b->start[b->batch.n_seqs];
    for (int32_t i = 0; i + 1 < e->n; i++) {
        b->tokens[at + i] = e->tokens[i];
        b->targets[at + i] = i + 1 >= e->answer ? e->tokens[i + 1] : -1;
    }
    b->start[++b->batch.n_seqs] = at + e->n - 1;
}

// opening.

static int lm_group_size(const struct lm *lm, const struct fed_params *fed)
{
    size_t each = (4 * lm->n + lm->optim_n) * sizeof(float);
    size_t fit = LM_GROUP_BYTES / each;
    int group = fit < 1 ? 1 : fit > LM_GROUP ? LM_GROUP : (int)fit;
    return group < fed->clients_per_round ? group : fed->clients_per_round;
}

static void lm_train_memory(struct workload *w, struct lm *lm)
{
    const struct fed_params *fed = w->env.fed;
    lm->group = lm_group_size(lm, fed);
    size_t g = (size_t)lm->group;
    lm->batch = mem_alloc(MEM_DATA, g * sizeof *lm->batch);
    lm->job = mem_alloc(MEM_OTHER, g * sizeof *lm->job);
    lm->os = mem_alloc(MEM_OTHER, g * sizeof *lm->os);
    lm->rng = mem_alloc(MEM_OTHER, g * sizeof *lm->rng);
    lm->fisher = mem_alloc(MEM_OTHER, g * sizeof *lm->fisher);
    lm->oracle = mem_alloc(MEM_OTHER, g * sizeof *lm->oracle);
    lm->moments = mem_alloc(MEM_OPTIMIZER, g * (lm->optim_n + 1) * sizeof *lm->moments);
    for (size_t i = 0; i < g; i++)
        batch_init(&lm->batch[i], fed->batch, lm->task->max_tokens);
    model_reserve(lm->model, lm->task->max_tokens, lm->group);
}

// Scores are by vocabulary id or by position.
static int32_t lm_keys(const struct lm *lm)
{
    int32_t vocab = model_config(lm->model)->vocab, longest = lm->task->max_tokens + 1;
    return vocab > longest ? vocab : longest;
}

// Made when a method first asks for it: the method is not known when the workload opens.
static void lm_token_memory(struct workload *w, struct lm *lm)
{
    size_t g = (size_t)lm->group;
    size_t rows = (size_t)w->env.fed->batch * (size_t)lm->task->max_tokens;
    if (lm->tracker)
        return;
    lm->n_keys = lm_keys(lm);
    lm->tracker = mem_alloc(MEM_OTHER, g * sizeof *lm->tracker);
    lm->tracker_mem =
        mem_alloc(MEM_OTHER, g * token_tracker_floats(lm->n_keys) * sizeof *lm->tracker_mem);
    lm->weights = mem_alloc(MEM_DATA, g * rows * sizeof *lm->weights);
    lm->raw = mem_alloc(MEM_DATA, g * rows * sizeof *lm->raw);
}

static void lm_eval_memory(struct lm *lm)
{
    size_t n = (size_t)task_test(lm->task)->n, longest = (size_t)lm->task->max_tokens;
    size_t answer = (size_t)lm->task->max_answer;
    batch_init(&lm->eval, LM_EVAL_SEQS, lm->task->max_tokens);
    lm->best = mem_alloc(MEM_DATA, LM_EVAL_SEQS * longest * sizeof *lm->best);
    lm->wrong = mem_alloc(MEM_DATA, LM_EVAL_SEQS * sizeof *lm->wrong);
    lm->gen = mem_alloc(MEM_DATA, n * answer * sizeof *lm->gen);
    lm->gen_len = mem_alloc(MEM_DATA, LM_EVAL_SEQS * sizeof *lm->gen_len);
    lm->gen_ended = mem_alloc(MEM_DATA, LM_EVAL_SEQS * sizeof *lm->gen_ended);
    lm->prediction = mem_alloc(MEM_DATA, n * sizeof *lm->prediction);
    size_t groups = lm->task->n_groups > 0 ? (size_t)lm->task->n_groups : 1;
    lm->group_score = mem_alloc(MEM_DATA, groups * sizeof *lm->group_score);
}

static int lm_check(const struct workload *w, const struct lm *lm, struct err *err)
{
    const struct model_config *c = model_config(lm->model);
    if (lm->task->tokenizer->vocab > c->vocab)
        return err_set(err,
                       "task.tokenizer has %d tokens, model.path = '%s' embeds %d; give the "
                       "tokenizer of the model",
                       lm->task->tokenizer->vocab, w->env.model->path, c->vocab);
    if (lm->task->max_tokens > c->max_positions)
        return err_set(err, "the task's longest example has %d tokens, the model takes %d",
                       lm->task->max_tokens, c->max_positions);
    if (w->env.model->lora_rank == 0)
        return err_set(err, "model.lora_rank = 0: there is no adapter to train; give at least 1");
    return 0;
}

static int lm_open(struct workload *w, struct err *err)
{
    struct lm *lm = mem_alloc(MEM_OTHER, sizeof *lm);
    w->state = lm;
    lm->task = task_open(w->env.task, w->env.seed, w->env.fed->clients, err);
    if (!lm->task || dev_open(&lm->dev, w->env.dev_kind, w->env.threads, err))
        return -1;
    lm->model = model_open(&lm->dev, w->env.model, err);
    if (!lm->model || lm_check(w, lm, err))
        return -1;
    const struct shape *shape = model_shape(lm->model);
    for (uint32_t i = 0; i < shape->n_tensors; i++)
        shape_add(&w->shape, shape->tensors[i].name, shape->tensors[i].rows, shape->tensors[i].cols,
                  (enum shape_kind)shape->tensors[i].kind);
    lm->n = shape->n_values;
    lm->optim_n = optim_floats(w->env.optim->kind, lm->n);
    if (w->env.worker)
        lm_train_memory(w, lm);
    if (w->env.server)
        lm_eval_memory(lm);
    return 0;
}

static void lm_close(struct workload *w)
{
    struct lm *lm = w->state;
    for (int i = 0; lm->batch && i < lm->group; i++)
        batch_free(&lm->batch[i]);
    batch_free(&lm->eval);
    void *blocks[] = {lm->batch,   lm->job,         lm->os,        lm->rng,        lm->moments,
                      lm->best,    lm->gen_len,     lm->gen_ended, lm->prediction, lm->wrong,
                      lm->gen,     lm->group_score, lm->fisher,    lm->tracker,    lm->tracker_mem,
                      lm->weights, lm->raw,         lm->oracle,    lm->frozen,     lm->expanded,
                      lm->square,  lm->label,       lm->cut.len,   lm->cut.pos,    lm->cut.size,
                      lm->cut.x};
    void *binary[] = {lm->binary, lm->binary_mem, lm->y, lm->with_y, lm->signs};
    for (size_t i = 0; i < ARRAY_LEN(binary); i++)
        mem_free(binary[i]);
    products_close(&lm->pairs);
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
    if (lm->model)
        model_close(lm->model);
    if (lm->dev.row)
        dev_close(&lm->dev);
    if (lm->task)
        task_close(lm->task);
    mem_free(lm);
}

static void lm_fresh(struct workload *w, uint32_t round, float *theta)
{
    const struct lm *lm = w->state;
    model_init_adapter(lm->model, w->env.seed ^ (uint64_t)(round - 1) << 32, theta);
}

static void lm_initial(struct workload *w, float *theta)
{
    lm_fresh(w, 1, theta);
}

static int lm_middle(struct workload *w, struct lm *lm, struct err *err)
{
    lm->middle = true;
    if (lm->frozen)
        return 0;
    if (products_open(&lm->pairs, &w->shape, err))
        return -1;
    size_t rank = (size_t)w->env.model->lora_rank, group = lm->group > 0 ? (size_t)lm->group : 1;
    lm->frozen = mem_alloc(MEM_ADAPTER, lm->n * sizeof *lm->frozen);
    lm->expanded = mem_alloc(MEM_ADAPTER, group * lm->n * sizeof *lm->expanded);
    lm->square = mem_alloc(MEM_ADAPTER, rank * rank * sizeof *lm->square);
    middle_draw(&lm->pairs, w->env.seed, lm->frozen);
    return 0;
}

static int lm_split(struct workload *w, struct lm *lm, struct err *err)
{
    const struct model_config *c = model_config(lm->model);
    int32_t batch = w->env.fed->batch, longest = lm->task->max_tokens;
    size_t rows = (size_t)batch * (size_t)longest;
    if (w->split.cut >= c->layers)
        return err_set(err, "cut = %d leaves the server none of %d layers; give at most %d",
                       w->split.cut, c->layers, c->layers - 1);
    w->split.examples = w->env.fed->local_steps * batch;
    w->split.longest = longest;
    w->split.dim = c->dim;
    w->split.vocab = c->vocab;
    lm->cut.layer = w->split.cut;
    if (lm->label)
        return 0;
    if (!lm->batch) // a server by itself, that trains now
        lm_train_memory(w, lm);
    lm->label = mem_alloc(MEM_DATA, (size_t)longest * sizeof *lm->label);
    lm->cut.len = mem_alloc(MEM_DATA, (size_t)batch * sizeof *lm->cut.len);
    lm->cut.pos = mem_alloc(MEM_DATA, rows * sizeof *lm->cut.pos);
    lm->cut.size = mem_alloc(MEM_DATA, rows * sizeof *lm->cut.size);
    lm->cut.x = mem_alloc(MEM_DATA, rows * (size_t)c->dim * sizeof *lm->cut.x);
    return 0;
}

static int lm_form(struct workload *w, unsigned form, struct err *err)
{
    struct lm *lm = w->state;
    bool moves = form & WORK_BACKBONE;
    lm->middle = false;
    if (form & WORK_SPLIT && lm_split(w, lm, err))
        return -1;
    if ((moves && model_backbone_open(lm->model, err)) ||
        (form & WORK_MIDDLE && lm_middle(w, lm, err)))
        return -1;
    w->n_backbone = moves ? model_product_values(lm->model) : 0;
    model_backbone_move(lm->model, NULL);
    return 0;
}

// Server and clients of one process hold different versions in turn. Returns the adapter itself.
static const float *lm_version(const struct workload *w, const float *theta)
{
    const struct lm *lm = w->state;
    if (w->n_backbone)
        model_backbone_move(lm->model, theta + lm->n);
    if (lm->middle)
        middle_expand(&lm->pairs, lm->frozen, theta, lm->expanded);
    return lm->middle ? lm->expanded : theta;
}

// Kept between rounds: the moments, and the number of steps behind them.
static size_t lm_state_floats(const struct workload *w)
{
    const struct lm *lm = w->state;
    return lm->optim_n + 1;
}

static bool tokens_averaged(const struct token_source *tokens)
{
    return !tokens->all && !tokens->fresh;
}

static bool fisher_oracle(const struct workload *w, const struct token_source *tokens)
{
    return tokens->oracle || w->env.fisher->accumulate == FISHER_ORACLE;
}

// Kept between rounds: diagonal Fisher, mean gradient, scores of tokens; an oracle starts anew.
static size_t lm_fisher_floats(const struct workload *w, const struct token_source *tokens,
                               bool sens, bool grad)
{
    const struct lm *lm = w->state;
    return (sens && !fisher_oracle(w, tokens) ? lm->n : 0) + (grad ? lm->n : 0) +
           (tokens_averaged(tokens) ? (size_t)lm_keys(lm) : 0);
}

static int lm_group(const struct workload *w)
{
    const struct lm *lm = w->state;
    return lm->group;
}

// training.

// What a codec wants to know of the gradients: their squares (19), (20) and their average.
static void job_fisher(struct workload *w, struct lm *lm, struct train_job *job, int i)
{
    const struct fisher_params *p = w->env.fisher;
    float *sens = fisher_oracle(w, job->tokens) ? NULL : job->sens;
    if (job->sens)
        memset(job->sens, 0, lm->n * sizeof *job->sens);
    if (job->grad)
        memset(job->grad, 0, lm->n * sizeof *job->grad);
    lm->fisher[i] = (struct kernel_fisher){.ema = p->accumulate == FISHER_EMA ? sens : NULL,
                                           .sum = p->accumulate == FISHER_SUM ? sens : NULL,
                                           .grad = job->grad,
                                           .rho = (float)p->rho};
    if (sens || job->grad)
        lm->job[i].fisher = &lm->fisher[i];
}

// The averages of earlier rounds, from the client's slot or back to it. A mask still waits for the
// round's own first refresh.
static void job_kept(struct workload *w, struct lm *lm, struct train_job *job, int i, bool back)
{
    struct {
        float *x;
        size_t n;
    } part[] = {{fisher_oracle(w, job->tokens) ? NULL : job->sens, lm->n},
                {job->grad, lm->n},
                {tokens_averaged(job->tokens) ? lm->tracker[i].score : NULL, (size_t)lm->n_keys}};
    float *kept = job->kept;
    for (size_t k = 0; kept && k < ARRAY_LEN(part); k++) {
        if (!part[k].x)
            continue;
        memcpy(back ? kept : part[k].x, back ? part[k].x : kept, part[k].n * sizeof *kept);
        kept += part[k].n;
    }
}

static void job_tokens(struct workload *w, struct lm *lm, struct train_job *job, int i)
{
    lm->batch[i].batch.weights = NULL;
    lm->batch[i].batch.sum = false;
    if (job->tokens->all)
        return;
    lm_token_memory(w, lm);
    token_reset(&lm->tracker[i], job->tokens, job->token_opt, lm->n_keys,
                lm->tracker_mem + (size_t)i * token_tracker_floats(lm->n_keys),
                rng_stream(w->env.seed, RNG_TOKENS, job->round, job->client, 0));
    lm->batch[i].batch.sum = job->token_opt->loss == TOKEN_LOSS_SUM;
}

static void job_binary(struct workload *w, struct lm *lm, const struct train_job *job, int i)
{
    size_t g = (size_t)lm->group, each = binary_floats(&w->shape);
    if (!job->binary)
        return;
    if (!lm->binary) {
        lm->binary = mem_alloc(MEM_OTHER, g * sizeof *lm->binary);
        lm->binary_mem = mem_alloc(MEM_OPTIMIZER, g * each * sizeof *lm->binary_mem);
        lm->y = mem_alloc(MEM_ADAPTER, g * lm->n * sizeof *lm->y);
        lm->with_y = mem_alloc(MEM_ADAPTER, g * lm->n * sizeof *lm->with_y);
        lm->signs = mem_alloc(MEM_OTHER, g * sizeof *lm->signs);
    }
    binary_init(&lm->binary[i], job->binary, &w->shape, lm->binary_mem + (size_t)i * each);
    lm->signs[i] = rng_stream(w->env.seed, RNG_BINARY, job->round, job->client, 0);
}

static void job_begin(struct workload *w, struct lm *lm, struct train_job *job, int i)
{
    float *moments = job->state ? job->state : lm->moments + (size_t)i * (lm->optim_n + 1);
    if (!job->state)
        memset(moments, 0, (lm->optim_n + 1) * sizeof *moments);
    memcpy(job->delta, job->theta, lm->n * sizeof *job->delta); // trained in place
    lm->os[i] =
        (struct model_optim_state){.moments = moments, .step = (int32_t)moments[lm->optim_n]};
    lm->rng[i] = rng_stream(w->env.seed, RNG_BATCH, job->round, job->client, 0);
    lm->job[i] = (struct model_job){.batch = &lm->batch[i].batch,
                                    .adapter = job->delta,
                                    .optim = &lm->os[i],
                                    .trained = job->trained,
                                    .n_trained = job->n_trained,
                                    .merge = job->tokens->merges ? &job->token_opt->merge : NULL,
                                    .client = (int32_t)job->client};
    job->samples = task_client(lm->task, (int32_t)job->client)->n;
    job->loss = 0;
    job_fisher(w, lm, job, i);
    job_tokens(w, lm, job, i);
    job_kept(w, lm, job, i, false);
    job_binary(w, lm, job, i);
}

static void draw_batch(struct lm *lm, const struct train_job *job, int i, int32_t batch)
{
    const struct examples *own = task_client(lm->task, (int32_t)job->client);
    batch_clear(&lm->batch[i]);
    for (int32_t b = 0; b < batch; b++)
        batch_add(&lm->batch[i], &own->v[rng_below(&lm->rng[i], (uint32_t)own->n)]);
}

// Masks of this step; on a refresh step the model is asked for the scores.
static void step_tokens(struct workload *w, struct lm *lm, struct train_job *jobs, int n,
                        bool *refresh, struct recorder *rec)
{
    size_t rows = (size_t)w->env.fed->batch * (size_t)lm->task->max_tokens;
    *refresh = false;
    if (jobs[0].tokens->all)
        return;
    struct span span = span_begin(rec);
    for (int i = 0; i < n; i++) {
        float *weights = lm->weights + (size_t)i * rows, *raw = lm->raw + (size_t)i * rows;
        *refresh = token_step(&lm->tracker[i]); // the same for all: they count alike
        token_weights(&lm->tracker[i], &lm->batch[i].batch, *refresh, weights);
        lm->batch[i].batch.weights = weights;
        unsigned needs = *refresh ? jobs[i].tokens->needs : 0;
        lm->job[i].token_sq = needs & TOKEN_SQ ? raw : NULL;
        lm->job[i].token_loss = needs & TOKEN_LOSS ? raw : NULL;
        lm->job[i].received = needs & TOKEN_RECEIVED ? raw : NULL;
    }
    span_end(rec, span, STAGE_MASK, n == 1 ? (int32_t)jobs[0].client : -1, 0, 0);
}

static void refresh_tokens(struct workload *w, struct lm *lm, struct train_job *jobs, int n,
                           struct recorder *rec)
{
    size_t rows = (size_t)w->env.fed->batch * (size_t)lm->task->max_tokens;
    struct span span = span_begin(rec);
    for (int i = 0; i < n; i++)
        token_update(&lm->tracker[i], &lm->batch[i].batch, lm->raw + (size_t)i * rows);
    span_end(rec, span, STAGE_REFRESH, n == 1 ? (int32_t)jobs[0].client : -1, 0, 0);
}

// The true diagonal Fisher at the trained adapter, with the labels of the data: the mean over the
// client's examples of the squared gradient of -log p(answer). As many examples at once as the
// model takes clients; gradients are added in the order of examples.
static void oracle(struct lm *lm, struct train_job *job, int i, struct recorder *rec)
{
    const struct examples *own = task_client(lm->task, (int32_t)job->client);
    const struct kernel_fisher f = {.sum = job->sens};
    struct span span = span_begin(rec);
    for (int32_t first = 0; first < own->n; first += lm->group) {
        int32_t n = own->n - first < lm->group ? own->n - first : lm->group;
        for (int32_t e = 0; e < n; e++) {
            struct lm_batch *b = &lm->batch[e];
            batch_clear(b);
            batch_add(b, &own->v[first + e]);
            b->batch.weights = NULL;
            b->batch.sum = true;
            lm->oracle[e] = (struct model_job){
                .batch = &b->batch, .adapter = lm->job[i].adapter, .client = (int32_t)job->client};
        }
        model_backward(lm->model, lm->oracle, n, NULL);
        model_accumulate(lm->model, lm->oracle, n, &f);
    }
    for (size_t j = 0; j < lm->n; j++)
        job->sens[j] /= (float)own->n;
    span_end(rec, span, STAGE_FISHER, (int32_t)job->client, 0, 0);
}

static int32_t warmup_steps(const struct train_job *job, int32_t steps)
{
    return (int32_t)(job->binary->warmup * (double)steps);
}

static void job_end(struct workload *w, struct lm *lm, struct train_job *job, int i)
{
    int32_t steps = w->env.fed->local_steps;
    job_kept(w, lm, job, i, true);
    lm->os[i].moments[lm->optim_n] = (float)lm->os[i].step;
    if (job->binary) {
        if (warmup_steps(job, steps) == steps)
            binary_begin(&lm->binary[i], job->theta, job->delta);
        float *y = lm->y + (size_t)i * lm->n;
        binary_draw(&lm->binary[i], job->theta, job->delta, &lm->signs[i], y);
        memcpy(job->delta, y, lm->n * sizeof *y);
    }
    for (size_t j = 0; j < lm->n && !job->binary; j++)
        job->delta[j] -= job->theta[j];
    job->loss /= steps;
    job->failed = !isfinite(job->loss);
    task_forget(lm->task, (int32_t)job->client);
}

// Clients trained together share the time by their steps, which are alike: equal parts, laid end to
// end. What was spent apart from training is left out.
static void share_time(struct train_job *jobs, int n, struct recorder *rec, struct span span,
                       const struct span *apart)
{
    int64_t dur = (clock_ns() - span.t_ns - apart->t_ns) / n;
    int64_t cpu = span.cpu_ns < 0 ? -1 : (clock_cpu_ns() - span.cpu_ns - apart->cpu_ns) / n;
    for (int i = 0; i < n; i++) {
        jobs[i].dur_ns = dur;
        recorder_put(rec, STAGE_TRAIN, (int32_t)jobs[i].client, span.t_ns + i * dur, dur, cpu, 0, 0,
                     n > 1 ? EVENT_SHARED : 0);
    }
}

// What it took is returned as durations.
static struct span oracles(struct workload *w, struct lm *lm, struct train_job *jobs, int n,
                           struct recorder *rec)
{
    if (!jobs[0].sens || !fisher_oracle(w, jobs[0].tokens))
        return (struct span){0};
    struct span span = span_begin(rec);
    for (int i = 0; i < n; i++)
        oracle(lm, &jobs[i], i, rec);
    return (struct span){clock_ns() - span.t_ns,
                         span.cpu_ns < 0 ? 0 : clock_cpu_ns() - span.cpu_ns};
}

// The model runs with theta + y; the optimizer steps m, where it stands in delta, and alpha.
static void binary_train_step(struct workload *w, struct lm *lm, struct train_job *jobs, int n,
                              bool first, struct recorder *rec)
{
    for (int i = 0; i < n; i++) {
        float *y = lm->y + (size_t)i * lm->n, *with_y = lm->with_y + (size_t)i * lm->n;
        if (first)
            binary_begin(&lm->binary[i], jobs[i].theta, jobs[i].delta);
        binary_draw(&lm->binary[i], jobs[i].theta, jobs[i].delta, &lm->signs[i], y);
        for (size_t j = 0; j < lm->n; j++)
            with_y[j] = jobs[i].theta[j] + y[j];
        lm->job[i].adapter = with_y;
    }
    model_backward(lm->model, lm->job, n, rec);
    for (int i = 0; i < n; i++) {
        binary_gradient(&lm->binary[i], jobs[i].theta, jobs[i].delta, lm->y + (size_t)i * lm->n,
                        model_gradient(lm->model, lm->job, i));
        binary_step(&lm->binary[i], w->env.optim);
        lm->job[i].adapter = jobs[i].delta;
    }
    model_update(lm->model, lm->job, n, w->env.optim, rec);
}

// The model runs with the expanded adapter; the optimizer steps R, where it stands in delta.
static void train_step(struct workload *w, struct lm *lm, struct train_job *jobs, int n,
                       int32_t step, struct recorder *rec)
{
    int32_t warm = jobs[0].binary ? warmup_steps(&jobs[0], w->env.fed->local_steps) : INT32_MAX;
    if (step >= warm) {
        binary_train_step(w, lm, jobs, n, step == warm, rec);
        return;
    }
    if (!lm->middle) {
        model_train_step(lm->model, lm->job, n, w->env.optim, rec);
        return;
    }
    for (int i = 0; i < n; i++) {
        lm->job[i].adapter = lm->expanded + (size_t)i * lm->n;
        middle_expand(&lm->pairs, lm->frozen, jobs[i].delta, lm->job[i].adapter);
    }
    model_backward(lm->model, lm->job, n, rec);
    for (int i = 0; i < n; i++) {
        middle_gradient(&lm->pairs, lm->frozen, model_gradient(lm->model, lm->job, i), lm->square);
        lm->job[i].adapter = jobs[i].delta;
    }
    model_update(lm->model, lm->job, n, w->env.optim, rec);
}

static void lm_train(struct workload *w, struct train_job *jobs, int n, struct recorder *rec)
{
    struct lm *lm = w->state;
    const struct fed_params *fed = w->env.fed;
    struct span span = span_begin(rec);
    assert(n <= lm->group);
    lm_version(w, jobs[0].theta);
    for (int i = 0; i < n; i++)
        job_begin(w, lm, &jobs[i], i);
    for (int32_t s = 0; s < fed->local_steps; s++) {
        for (int i = 0; i < n; i++)
            draw_batch(lm, &jobs[i], i, fed->batch);
        bool refresh;
        step_tokens(w, lm, jobs, n, &refresh, rec);
        train_step(w, lm, jobs, n, s, rec);
        if (refresh)
            refresh_tokens(w, lm, jobs, n, rec);
        for (int i = 0; i < n; i++)
            jobs[i].loss += lm->job[i].loss;
    }
    struct span apart = oracles(w, lm, jobs, n, rec);
    for (int i = 0; i < n; i++)
        job_end(w, lm, &jobs[i], i);
    share_time(jobs, n, rec, span, &apart);
}

// split learning.

static int put_batch(struct lm *lm, const struct split_form *f, const struct model_batch *b,
                     struct msg_out *o, struct err *err)
{
    for (int32_t q = 0; q < b->n_seqs; q++) {
        int32_t at = b->start[q], first = at, end = b->start[q + 1];
        while (b->targets[first] < 0)
            first++;
        struct split_example e = {.rows = lm->cut.len[q],
                                  .labels = end - first,
                                  .pos = lm->cut.pos + at,
                                  .size = lm->cut.size + at,
                                  .label = (int32_t *)(uintptr_t)b->targets + first,
                                  .x = lm->cut.x + (size_t)at * (size_t)f->dim};
        int rc = split_put(o, f, &e, err);
        if (rc)
            return rc;
    }
    return 0;
}

// Below the cut there is no adapter: the backbone runs as it is. The spans are laid end to end.
static int64_t lm_send(struct workload *w, struct train_job *job, uint8_t *out, size_t cap,
                       struct codec_report *report, struct recorder *rec, struct err *err)
{
    struct lm *lm = w->state;
    struct msg_out o;
    int64_t t0 = clock_ns(), run_ns = 0, rows = 0, left = 0;
    int32_t client = (int32_t)job->client;
    int rc = 0;
    msg_init(&o, out, cap, report);
    if (msg_put_header(&o, 0))
        return msg_full(&o, err);
    lm->rng[0] = rng_stream(w->env.seed, RNG_BATCH, job->round, job->client, 0);
    job->samples = task_client(lm->task, client)->n;
    lm->batch[0].batch.weights = NULL;
    for (int32_t s = 0; s < w->env.fed->local_steps && rc == 0; s++) {
        int64_t t = clock_ns();
        draw_batch(lm, job, 0, w->env.fed->batch);
        struct model_job forward = {.batch = &lm->batch[0].batch,
                                    .merge = job->tokens->merges ? &job->token_opt->merge : NULL,
                                    .cut = &lm->cut,
                                    .client = client};
        model_evaluate(lm->model, &forward, 1);
        run_ns += clock_ns() - t;
        rows += lm->batch[0].start[lm->batch[0].batch.n_seqs];
        left += forward.rows_left;
        rc = put_batch(lm, &w->split, &lm->batch[0].batch, &o, err);
    }
    task_forget(lm->task, client);
    int64_t row_bytes = w->split.dim * (int64_t)sizeof(float), end = clock_ns();
    recorder_put(rec, STAGE_TRAIN, client, t0, run_ns, -1, rows * row_bytes, left * row_bytes, 0);
    recorder_put(rec, STAGE_ENCODE, client, t0 + run_ns, end - t0 - run_ns, -1, left * row_bytes,
                 msg_len(&o), 0);
    return rc ? rc : msg_len(&o);
}

// The next batch of a message, laid out for the model.
static int get_batch(struct workload *w, struct lm *lm, struct msg_in *m, struct err *err)
{
    struct lm_batch *b = &lm->batch[0];
    batch_clear(b);
    for (int32_t q = 0; q < w->env.fed->batch; q++) {
        int32_t at = b->start[q];
        struct split_example e = {.pos = lm->cut.pos + at,
                                  .size = lm->cut.size + at,
                                  .label = lm->label,
                                  .x = lm->cut.x + (size_t)at * (size_t)w->split.dim};
        int rc = split_get(m, &w->split, &e, err);
        if (rc)
            return rc;
        for (int32_t i = 0; i < e.rows; i++) {
            int32_t label = i - (e.rows - e.labels);
            b->targets[at + i] = label < 0 ? -1 : e.label[label];
        }
        b->start[++b->batch.n_seqs] = at + e.rows;
    }
    return 0;
}

// As the client would train above the cut, from the round's adapter and a fresh optimizer.
static int lm_train_split(struct workload *w, struct train_job *job, const uint8_t *in, size_t len,
                          struct recorder *rec, struct err *err)
{
    struct lm *lm = w->state;
    struct msg_in m;
    struct shape_range above = model_layers_from(lm->model, w->split.cut);
    struct model_batch batch;
    int64_t t0 = clock_ns(), read_ns = 0;
    int32_t steps = w->env.fed->local_steps, client = (int32_t)job->client;
    int rc = msg_open_plain(&m, in, len, err);
    memset(lm->moments, 0, (lm->optim_n + 1) * sizeof *lm->moments);
    memcpy(job->delta, job->theta, lm->n * sizeof *job->delta);
    lm->os[0] = (struct model_optim_state){.moments = lm->moments};
    lm->job[0] = (struct model_job){.batch = &batch,
                                    .adapter = job->delta,
                                    .optim = &lm->os[0],
                                    .trained = &above,
                                    .n_trained = 1,
                                    .client = client};
    job->loss = 0;
    for (int32_t s = 0; s < steps && rc == 0; s++) {
        int64_t t = clock_ns();
        rc = get_batch(w, lm, &m, err);
        read_ns += clock_ns() - t;
        if (rc)
            break;
        batch = lm->batch[0].batch;
        batch.weights = NULL;
        batch.sum = false;
        batch.from = &lm->cut;
        model_train_step(lm->model, lm->job, 1, w->env.optim, rec);
        job->loss += lm->job[0].loss / steps;
    }
    if (rc == 0)
        rc = msg_end(&m, err);
    if (rc == 0 && !isfinite(job->loss))
        rc = msg_nonfinite(err);
    for (size_t i = 0; i < lm->n; i++)
        job->delta[i] -= job->theta[i];
    recorder_put(rec, STAGE_DECODE, client, t0, read_ns, -1, (int64_t)len, 0, 0);
    recorder_put(rec, STAGE_TRAIN, client, t0 + read_ns, clock_ns() - t0 - read_ns, -1, 0, 0, 0);
    return rc;
}

static const struct split_work lm_split_work = {.send = lm_send, .train = lm_train_split};

// scoring.

// Where every token of the answer is the likeliest one, greedy decoding gives the answer itself.
static bool answered(const struct lm *lm, const struct example *e, int32_t row)
{
    for (int32_t i = e->answer; i < e->n; i++)
        if (lm->best[row + i - 1] != e->tokens[i])
            return false;
    return true;
}

// Greedy answers of the examples the model did not get right under teacher forcing.
static void generate(struct lm *lm, const float *theta, const struct examples *set, int32_t first,
                     int32_t n_wrong)
{
    struct lm_batch *b = &lm->eval;
    int32_t answer = lm->task->max_answer;
    int32_t *out = lm->gen + (size_t)first * (size_t)answer;
    b->start[0] = 0;
    for (int32_t i = 0; i < n_wrong; i++) {
        const struct example *e = &set->v[lm->wrong[i]];
        memcpy(b->tokens + b->start[i], e->tokens, (size_t)e->answer * sizeof *e->tokens);
        b->start[i + 1] = b->start[i] + e->answer;
    }
    struct model_gen g = {.adapter = theta,
                          .n_seqs = n_wrong,
                          .start = b->start,
                          .tokens = b->tokens,
                          .max_new = answer,
                          .end = lm->task->tokenizer->eos,
                          .out = out,
                          .out_len = lm->gen_len,
                          .ended = lm->gen_ended};
    model_generate(lm->model, &g);
    for (int32_t i = 0; i < n_wrong; i++)
        lm->prediction[lm->wrong[i]] =
            (struct prediction){.tokens = out + (size_t)i * (size_t)answer,
                                .n = lm->gen_len[i],
                                .ended = lm->gen_ended[i]};
}

// One block of the test set: its loss, and what the model answers.
static void eval_block(struct lm *lm, const float *theta, const struct examples *set, int32_t first,
                       int32_t n, double *loss, double *weight)
{
    struct model_job job = {.batch = &lm->eval.batch,
                            .adapter = (float *)(uintptr_t)theta,
                            .best = lm->best,
                            .client = -1};
    int32_t n_wrong = 0;
    batch_clear(&lm->eval);
    for (int32_t i = 0; i < n; i++)
        batch_add(&lm->eval, &set->v[first + i]);
    model_evaluate(lm->model, &job, 1);
    *loss += job.loss * job.weight;
    *weight += job.weight;
    for (int32_t i = 0; i < n; i++) {
        const struct example *e = &set->v[first + i];
        if (answered(lm, e, lm->eval.start[i]))
            lm->prediction[first + i] = (struct prediction){
                .tokens = e->tokens + e->answer, .n = e->n - e->answer - 1, .ended = true};
        else
            lm->wrong[n_wrong++] = first + i;
    }
    if (n_wrong)
        generate(lm, theta, set, first, n_wrong);
}

static void put_score(struct eval_result *r, const char *set, const struct score *s)
{
    const double value[TASK_METRICS] = {[TASK_EXACT] = s->exact,
                                        [TASK_F1] = s->f1,
                                        [TASK_ROUGE_L] = s->rouge_l,
                                        [TASK_ACCURACY] = s->accuracy};
    for (int m = 0; m < TASK_METRICS && r->n_rows < EVAL_MAX; m++) {
        if (isnan(value[m]) || s->n == 0)
            continue;
        struct eval_row *row = &r->rows[r->n_rows++];
        row->value = value[m];
        row->n = s->n;
        snprintf(row->set, sizeof row->set, "%s", set);
        snprintf(row->metric, sizeof row->metric, "%s", task_metric_names[m]);
    }
}

static void lm_evaluate(struct workload *w, const float *theta, struct eval_result *r)
{
    struct lm *lm = w->state;
    const struct examples *set = task_test(lm->task);
    struct score all;
    double loss = 0, weight = 0;
    theta = lm_version(w, theta);
    for (int32_t first = 0; first < set->n; first += LM_EVAL_SEQS) {
        int32_t n = set->n - first < LM_EVAL_SEQS ? set->n - first : LM_EVAL_SEQS;
        eval_block(lm, theta, set, first, n, &loss, &weight);
    }
    task_score(lm->task, set, lm->prediction, &all, lm->group_score);
    r->loss = weight > 0 ? loss / weight : NAN;
    r->score = task_main_score(lm->task, &all);
    r->n_rows = 0;
    put_score(r, "all", &all);
    for (int32_t g = 0; g < lm->task->n_groups; g++)
        put_score(r, lm->task->groups[g], &lm->group_score[g]);
}

static const char *lm_score_name(const struct workload *w)
{
    const struct lm *lm = w->state;
    return task_metric_names[lm->task->row->metric];
}

static void lm_partition(const struct workload *w,
                         void (*fn)(void *arg, const struct rec_split *row), void *arg)
{
    const struct task *t = ((const struct lm *)w->state)->task;
    for (int32_t c = 0; t->split && c < t->clients; c++)
        for (int32_t g = 0; g < t->n_groups; g++) {
            struct rec_split row = {.n = t->split[(size_t)c * (size_t)t->n_groups + (size_t)g],
                                    .client = c,
                                    .group = g};
            snprintf(row.name, sizeof row.name, "%s", t->groups[g]);
            if (row.n > 0)
                fn(arg, &row);
        }
}

const struct workload_row work_lm = {
    .name = "language model",
    .fisher = true,
    .open = lm_open,
    .close = lm_close,
    .initial = lm_initial,
    .fresh = lm_fresh,
    .form = lm_form,
    .state_floats = lm_state_floats,
    .fisher_floats = lm_fisher_floats,
    .group = lm_group,
    .train = lm_train,
    .evaluate = lm_evaluate,
    .partition = lm_partition,
    .split = &lm_split_work,
    .score_name = lm_score_name,
};
