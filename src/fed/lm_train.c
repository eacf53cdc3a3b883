// Clients that fine-tune a low-rank adapter on their examples, as many at once as fit.
#include "fed/lm.h"

#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define LM_AT_ONCE     16                  // clients trained at once, at most
#define LM_GROUP_BYTES ((size_t)256 << 20) // and as many as fit here with gradient and optimizer

static int32_t lm_fit(size_t bytes, size_t each, int32_t most)
{
    size_t fit = bytes / each;
    return fit < 1 ? 1 : fit > (size_t)most ? most : (int32_t)fit;
}

// Results do not depend on it. Unless dev.clients says how many, a quarter of the free memory is
// theirs: activations, messages and other processes share the rest.
static int lm_most_at_once(const struct workload *w, const struct lm *lm)
{
    size_t each = (4 * lm->n + lm->optim_n) * sizeof(float), room = mem_room("") / 4;
    int32_t asked = w->env.fed->clients_per_round;
    if (w->env.fed->local_steps_min > 0) // those that train at once make as many steps
        return 1;
    if (w->env.at_once > 0)
        return asked < w->env.at_once ? asked : w->env.at_once;
    int32_t most = lm_fit(LM_GROUP_BYTES, each, asked < LM_AT_ONCE ? asked : LM_AT_ONCE);
    int32_t fit = lm_fit(room, each, most);
    if (fit < most)
        note("memory for %d clients at once of %.0f MiB each, not %d: a quarter of what is free",
             fit, (double)each / (1 << 20), most);
    return fit;
}

void lm_train_open(struct workload *w, struct lm *lm)
{
    const struct fed_params *fed = w->env.fed;
    lm->at_once = lm_most_at_once(w, lm);
    size_t g = (size_t)lm->at_once;
    lm->batch = mem_alloc(MEM_DATA, g * sizeof *lm->batch);
    lm->job = mem_alloc(MEM_OTHER, g * sizeof *lm->job);
    lm->client = mem_alloc(MEM_OTHER, g * sizeof *lm->client);
    lm->rng = mem_alloc(MEM_OTHER, g * sizeof *lm->rng);
    lm->drawn = mem_alloc(MEM_OTHER, g * sizeof *lm->drawn);
    lm->oracle = mem_alloc(MEM_OTHER, g * sizeof *lm->oracle);
    for (size_t i = 0; i < g; i++)
        lm_batch_open(&lm->batch[i], fed->batch, lm->task->max_tokens);
    int64_t rows = (int64_t)fed->batch * lm->task->max_tokens;
    if (w->env.fisher->scores > 0)
        lm->embed_grad =
            mem_alloc(MEM_DATA, g * (size_t)rows * (size_t)model_config(lm->model)->dim *
                                    sizeof *lm->embed_grad);
}

// Of clients in training; those that go forward alone have none.
float *lm_moments(struct lm *lm)
{
    size_t g = (size_t)lm->at_once;
    if (!lm->moments)
        lm->moments = mem_alloc(MEM_OPTIMIZER, g * (lm->optim_n + 1) * sizeof *lm->moments);
    return lm->moments;
}

void lm_reserve(struct workload *w)
{
    struct lm *lm = w->state;
    lm_moments(lm);
    int64_t rows = (int64_t)w->env.fed->batch * lm->task->max_tokens;
    model_reserve(lm->model, lm->task->max_tokens, rows < INT32_MAX ? (int32_t)rows : INT32_MAX,
                  lm->at_once);
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
    size_t g = (size_t)lm->at_once;
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

void lm_train_close(struct lm *lm)
{
    for (int i = 0; lm->batch && i < lm->at_once; i++)
        lm_batch_close(&lm->batch[i]);
    void *blocks[] = {lm->batch,   lm->job,        lm->client,  lm->rng,         lm->drawn,
                      lm->moments, lm->tracker,    lm->weights, lm->tracker_mem, lm->raw,
                      lm->oracle,  lm->embed_grad, lm->asked};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
    if (lm->theta)
        lm->dev.row->free(&lm->dev, lm->theta);
}

// Kept between rounds: the moments, and the number of steps behind them.
size_t lm_state_floats(const struct workload *w)
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
size_t lm_fisher_floats(const struct workload *w, const struct token_source *tokens, bool sens,
                        bool grad)
{
    const struct lm *lm = w->state;
    return (sens && !fisher_oracle(w, tokens) ? lm->n : 0) + (grad ? lm->n : 0) +
           (tokens_averaged(tokens) ? (size_t)lm_keys(lm) : 0);
}

int lm_at_once(const struct workload *w)
{
    const struct lm *lm = w->state;
    return lm->at_once;
}

// What a codec wants to know of the gradients: their squares (19), (20) and their average.
void lm_job_fisher(const struct workload *w, struct train_job *job, struct model_client *c)
{
    const struct lm *lm = w->state;
    const struct fisher_params *p = w->env.fisher;
    float *sens = fisher_oracle(w, job->tokens) ? NULL : job->sens;
    if (job->sens)
        memset(job->sens, 0, lm->n * sizeof *job->sens);
    if (job->grad)
        memset(job->grad, 0, lm->n * sizeof *job->grad);
    c->ema = p->accumulate == FISHER_EMA ? sens : NULL;
    c->sum = p->accumulate == FISHER_SUM ? sens : NULL;
    c->mean = job->grad;
    c->rho = (float)p->rho;
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

static void job_begin(struct workload *w, struct lm *lm, struct train_job *job, int i)
{
    float *moments = job->state ? job->state : lm_moments(lm) + (size_t)i * (lm->optim_n + 1);
    if (!job->state)
        memset(moments, 0, (lm->optim_n + 1) * sizeof *moments);
    memcpy(job->delta, job->theta, lm->n * sizeof *job->delta); // trained in place
    lm->client[i] = (struct model_client){.id = (int32_t)job->client,
                                          .adapter = job->delta,
                                          .moments = moments,
                                          .n_moments = lm->optim_n,
                                          .steps = (int32_t)moments[lm->optim_n],
                                          .trained = job->trained,
                                          .n_trained = job->n_trained};
    lm->rng[i] = rng_stream(w->env.seed, RNG_BATCH, job->round, job->client, 0);
    lm->job[i] = (struct model_job){.batch = &lm->batch[i].batch,
                                    .client = &lm->client[i],
                                    .merge = job->tokens->merges ? &job->token_opt->merge : NULL};
    job->samples = task_client(lm->task, (int32_t)job->client)->n;
    job->loss = 0;
    lm_job_fisher(w, job, &lm->client[i]);
    job_tokens(w, lm, job, i);
    job_kept(w, lm, job, i, false);
    local_begin(&w->rules, i, job);
    model_load(lm->model, &lm->client[i], i);
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

static float *embed_grad_of(const struct workload *w, const struct lm *lm, int i)
{
    size_t rows = (size_t)w->env.fed->batch * (size_t)lm->task->max_tokens;
    return lm->embed_grad + (size_t)i * rows * (size_t)model_config(lm->model)->dim;
}

// Steps under the whole loss tell what tokens are worth; a mask would speak for itself.
static void ask_scores(struct workload *w, struct lm *lm, struct train_job *jobs, int n,
                       bool refresh)
{
    for (int i = 0; i < n; i++) {
        bool whole = jobs[i].tokens->all || refresh || !lm->tracker[i].masked;
        lm->job[i].embed_grad = jobs[i].scores && whole ? embed_grad_of(w, lm, i) : NULL;
    }
}

static void take_scores(struct workload *w, struct lm *lm, struct train_job *jobs, int n,
                        struct recorder *rec)
{
    if (!lm->job[0].embed_grad) // all ask, or none does
        return;
    struct span span = span_begin(rec);
    for (int i = 0; i < n; i++)
        token_scores_add(jobs[i].scores, &lm->batch[i].batch, lm->job[i].embed_grad,
                         model_config(lm->model)->dim, w->env.fisher->rho);
    span_end(rec, span, STAGE_REFRESH, n == 1 ? (int32_t)jobs[0].client : -1, 0, 0);
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
    struct span span = span_begin(rec);
    for (int32_t first = 0; first < own->n; first += lm->at_once) {
        int32_t n = own->n - first < lm->at_once ? own->n - first : lm->at_once;
        for (int32_t e = 0; e < n; e++) {
            struct lm_batch *b = &lm->batch[e];
            lm_batch_clear(b);
            lm_batch_add(b, &own->v[first + e]);
            b->batch.weights = NULL;
            b->batch.sum = true;
            lm->oracle[e] = (struct model_job){.batch = &b->batch, .client = &lm->client[i]};
        }
        model_backward(lm->model, lm->oracle, n, NULL);
        model_sum_squares(lm->model, n, job->sens);
    }
    for (size_t j = 0; j < lm->n; j++)
        job->sens[j] /= (float)own->n;
    span_end(rec, span, STAGE_ORACLE, (int32_t)job->client, 0, 0);
}

struct dev *lm_device(struct workload *w)
{
    struct lm *lm = w->state;
    return lm->dev.row->host ? NULL : &lm->dev;
}

static void put_theta(struct lm *lm, const struct train_job *job)
{
    const size_t bytes = lm->n * sizeof *lm->theta;
    if (!job->lend || !lm->dev.row->codec->mix)
        return;
    if (!lm->theta)
        lm->theta = lm->dev.row->alloc(&lm->dev, MEM_ADAPTER, bytes);
    dev_put(&lm->dev, lm->theta, job->theta, bytes);
}

// What the device has of a client that was trained: the averages as they are, and x less theta in
// the place of x, with the bits that local_end has.
static void lend(struct workload *w, struct lm *lm, struct train_job *job,
                 const struct model_lent *has, bool less)
{
    struct dev *d = &lm->dev;
    if (!job->lend)
        return;
    job->there.grad = job->grad ? has->mean : NULL;
    if (job->sens && !fisher_oracle(w, job->tokens))
        job->there.sens = has->ema ? has->ema : has->sum;
    if (less && d->row->codec->mix) {
        d->row->codec->mix->sum(&d->lane[0].cx, 1, has->adapter, -1, lm->theta, lm->n,
                                has->adapter);
        job->there.delta = has->adapter;
    }
}

static void job_end(struct workload *w, struct lm *lm, struct train_job *job, int i)
{
    struct model_lent has = model_lent(&lm->client[i]);
    if (job->lend_alone && !job->kept) // not fetched, then
        lm->client[i].ema = lm->client[i].sum = lm->client[i].mean = NULL;
    model_store(lm->model, &lm->client[i]);
    lm->client[i].moments[lm->optim_n] = (float)lm->client[i].steps;
    job_kept(w, lm, job, i, true);
    lend(w, lm, job, &has, local_end(&w->rules, i, job));
    job->loss /= job->steps;
    job->failed = !isfinite(job->loss);
    task_forget(lm->task, (int32_t)job->client);
}

// Clients trained together share the time by their steps, which are alike: equal parts, laid end to
// end. What was spent apart from training is left out.
static void share_time(struct train_job *jobs, int n, const struct lm *lm, struct recorder *rec,
                       struct span span, const struct span *apart)
{
    int64_t dur = (clock_ns() - span.t_ns - apart->t_ns) / n;
    int64_t cpu = span.cpu_ns < 0 ? -1 : (clock_cpu_ns() - span.cpu_ns - apart->cpu_ns) / n;
    for (int i = 0; i < n; i++) {
        jobs[i].dur_ns = dur;
        recorder_put(rec, STAGE_TRAIN, (int32_t)jobs[i].client, span.t_ns + i * dur, dur, cpu,
                     lm->drawn[i] * (int64_t)sizeof(int32_t), 0,
                     n > 1 ? EVENT_TOKENS | EVENT_SHARED : EVENT_TOKENS);
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

// The loss of a client's batch at an adapter of a rule's choice.
struct asking {
    struct model *m;
    const struct model_job *job;
};

static double loss_at(void *arg, const float *adapter)
{
    const struct asking *a = arg;
    struct model_job job = {.batch = a->job->batch,
                            .client = a->job->client,
                            .adapter = adapter,
                            .merge = a->job->merge};
    model_evaluate(a->m, &job, 1);
    return job.loss;
}

// Ways forward alone, client by client: a model that evaluates forgets whose gradients it has, so
// that they are given when all are known.
static void ask_step(struct workload *w, struct lm *lm, int n, int32_t step, struct recorder *rec)
{
    if (!lm->asked)
        lm->asked = mem_alloc(MEM_OPTIMIZER, (size_t)lm->at_once * lm->n * sizeof *lm->asked);
    for (int i = 0; i < n; i++) {
        struct asking a = {lm->model, &lm->job[i]};
        int64_t t = clock_ns();
        lm->job[i].loss =
            local_gradient(&w->rules, i, step, lm->job[i].adapter, (struct local_loss){loss_at, &a},
                           lm->asked + (size_t)i * lm->n);
        recorder_put(rec, STAGE_FORWARD, lm->client[i].id, t, clock_ns() - t, -1, 0, 0, 0);
    }
    model_no_backward(lm->model, lm->job, n);
    for (int i = 0; i < n; i++) {
        float *grad = model_take_gradient(lm->model, i);
        memcpy(grad, lm->asked + (size_t)i * lm->n, lm->n * sizeof *grad);
        model_give_gradient(lm->model, i, grad);
    }
}

static void train_step(struct workload *w, struct lm *lm, int n, int32_t step, struct recorder *rec)
{
    struct local_chain *rules = &w->rules;
    if (rules->n == 0) {
        model_train_step(lm->model, lm->job, n, w->env.optim, rec);
        return;
    }
    for (int i = 0; i < n; i++) {
        model_look(lm->model, &lm->client[i]);
        lm->job[i].adapter = local_before(rules, i, step);
    }
    if (local_asks(rules))
        ask_step(w, lm, n, step, rec);
    else
        model_backward(lm->model, lm->job, n, rec);
    for (int i = 0; i < n; i++) {
        float *grad = model_take_gradient(lm->model, i);
        local_after(rules, i, step, grad);
        model_give_gradient(lm->model, i, grad);
    }
    model_update(lm->model, lm->job, n, w->env.optim, rec);
}

static int64_t fisher_ns(const struct recorder *rec)
{
    return rec->total_ns[STAGE_EMBED_GRAD] + rec->total_ns[STAGE_MASK] +
           rec->total_ns[STAGE_REFRESH] + rec->total_ns[STAGE_ACCUMULATE] +
           rec->total_ns[STAGE_ORACLE];
}

// A sum over the steps, in equal parts for clients that trained together.
static void put_shares(struct recorder *rec, const struct train_job *jobs, int n, enum stage stage,
                       int64_t t_ns, int64_t dur_ns)
{
    for (int i = 0; i < n && dur_ns > 0; i++)
        recorder_put(rec, stage, (int32_t)jobs[i].client, t_ns + i * (dur_ns / n), dur_ns / n, -1,
                     0, 0, n > 1 ? EVENT_SUMMED | EVENT_SHARED : EVENT_SUMMED);
}

void lm_train(struct workload *w, struct train_job *jobs, int n, struct recorder *rec)
{
    struct lm *lm = w->state;
    const struct fed_params *fed = w->env.fed;
    struct span span = span_begin(rec);
    int64_t fisher = fisher_ns(rec);
    assert(n <= lm->at_once);
    lm_backbone(w, w->n_backbone ? jobs[0].theta + lm->n : NULL);
    put_theta(lm, &jobs[0]);
    for (int i = 0; i < n; i++) {
        job_begin(w, lm, &jobs[i], i);
        lm->drawn[i] = 0;
    }
    int64_t draw_ns = clock_ns() - span.t_ns;
    for (int32_t s = 0; s < jobs[0].steps; s++) {
        int64_t t = clock_ns();
        workload_pulse(w);
        for (int i = 0; i < n; i++) {
            lm_batch_draw(&lm->batch[i], task_client(lm->task, (int32_t)jobs[i].client), fed->batch,
                          &lm->rng[i]);
            lm->drawn[i] += lm->batch[i].start[fed->batch];
        }
        draw_ns += clock_ns() - t;
        bool refresh;
        step_tokens(w, lm, jobs, n, &refresh, rec);
        ask_scores(w, lm, jobs, n, refresh);
        train_step(w, lm, n, s, rec);
        take_scores(w, lm, jobs, n, rec);
        if (refresh)
            refresh_tokens(w, lm, jobs, n, rec);
        for (int i = 0; i < n; i++)
            jobs[i].loss += lm->job[i].loss;
    }
    struct span apart = oracles(w, lm, jobs, n, rec);
    int64_t t = clock_ns();
    for (int i = 0; i < n; i++)
        job_end(w, lm, &jobs[i], i);
    put_shares(rec, jobs, n, STAGE_DRAW, span.t_ns, draw_ns + clock_ns() - t);
    put_shares(rec, jobs, n, STAGE_FISHER, span.t_ns, fisher_ns(rec) - fisher);
    share_time(jobs, n, lm, rec, span, &apart);
}
