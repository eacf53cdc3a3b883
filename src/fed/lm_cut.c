// The two sides of a cut model: clients run the layers below it, the server trains those above.
#include "fed/lm.h"

#include "base/mem.h"

#include <string.h>

static int cut_open(struct workload *w, int32_t layer, struct cut_form *form, struct err *err)
{
    struct lm *lm = w->state;
    const struct model_config *c = model_config(lm->model);
    int32_t batch = w->env.fed->batch, longest = lm->task->max_tokens;
    size_t rows = (size_t)batch * (size_t)longest;
    if (layer >= c->layers)
        return err_set(err, "cut = %d leaves the server none of %d layers; give at most %d", layer,
                       c->layers, c->layers - 1);
    *form = (struct cut_form){.layer = layer,
                              .examples = w->env.fed->local_steps * batch,
                              .longest = longest,
                              .dim = c->dim,
                              .vocab = c->vocab};
    lm->cut.layer = layer;
    if (lm->label)
        return 0;
    if (!lm->batch) // a server by itself, that trains now
        lm_train_open(w, lm);
    lm->label = mem_alloc(MEM_DATA, (size_t)longest * sizeof *lm->label);
    lm->cut.len = mem_alloc(MEM_DATA, (size_t)batch * sizeof *lm->cut.len);
    lm->cut.pos = mem_alloc(MEM_DATA, rows * sizeof *lm->cut.pos);
    lm->cut.size = mem_alloc(MEM_DATA, rows * sizeof *lm->cut.size);
    lm->cut.x = mem_alloc(MEM_DATA, rows * (size_t)c->dim * sizeof *lm->cut.x);
    return 0;
}

void lm_cut_close(struct lm *lm)
{
    void *blocks[] = {lm->label, lm->cut.len, lm->cut.pos, lm->cut.size, lm->cut.x};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
}

// Where the rows of a batch lie that begin at `at`.
static struct cut_example place(struct lm *lm, int32_t at)
{
    size_t dim = (size_t)model_config(lm->model)->dim;
    return (struct cut_example){
        .pos = lm->cut.pos + at, .size = lm->cut.size + at, .x = lm->cut.x + (size_t)at * dim};
}

static int give_batch(struct lm *lm, const struct model_batch *b, const struct cut_end *to,
                      struct err *err)
{
    int rc = 0;
    for (int32_t q = 0; q < b->n_seqs && rc == 0; q++) {
        int32_t at = b->start[q], first = at, end = b->start[q + 1];
        while (b->targets[first] < 0)
            first++;
        struct cut_example e = place(lm, at);
        e.rows = lm->cut.len[q];
        e.labels = end - first;
        e.label = (int32_t *)(uintptr_t)b->targets + first;
        rc = to->pass(to->arg, &e, err);
    }
    return rc;
}

// There is no adapter below the cut: the backbone runs as it is.
static int run_below(struct workload *w, struct train_job *job, struct cut_end to,
                     struct recorder *rec, struct err *err)
{
    struct lm *lm = w->state;
    struct lm_batch *b = &lm->batch[0];
    int64_t t0 = clock_ns(), rows = 0, left = 0;
    int32_t client = (int32_t)job->client;
    int rc = 0;
    lm->rng[0] = rng_stream(w->env.seed, RNG_BATCH, job->round, job->client, 0);
    job->samples = task_client(lm->task, client)->n;
    job->dur_ns = 0;
    b->batch.weights = NULL;
    for (int32_t s = 0; s < job->steps && rc == 0; s++) {
        int64_t t = clock_ns();
        lm_batch_draw(b, task_client(lm->task, client), w->env.fed->batch, &lm->rng[0]);
        struct model_job forward = {.batch = &b->batch,
                                    .merge = job->tokens->merges ? &job->token_opt->merge : NULL,
                                    .cut = &lm->cut};
        model_evaluate(lm->model, &forward, 1);
        job->dur_ns += clock_ns() - t;
        rows += b->start[b->batch.n_seqs];
        left += forward.rows_left;
        rc = give_batch(lm, &b->batch, &to, err);
    }
    task_forget(lm->task, client);
    int64_t row_bytes = model_config(lm->model)->dim * (int64_t)sizeof(float);
    recorder_put(rec, STAGE_TRAIN, client, t0, job->dur_ns, -1, rows * row_bytes, left * row_bytes,
                 0);
    return rc;
}

// The next batch, laid out for the model.
static int take_batch(struct workload *w, struct lm *lm, const struct cut_end *from,
                      struct err *err)
{
    struct lm_batch *b = &lm->batch[0];
    lm_batch_clear(b);
    for (int32_t q = 0; q < w->env.fed->batch; q++) {
        int32_t at = b->start[q];
        struct cut_example e = place(lm, at);
        e.label = lm->label;
        int rc = from->pass(from->arg, &e, err);
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

static int train_above(struct workload *w, struct train_job *job, struct cut_end from,
                       struct recorder *rec, struct err *err)
{
    struct lm *lm = w->state;
    struct shape_range above = model_layers_from(lm->model, lm->cut.layer);
    struct model_batch batch;
    int32_t steps = job->steps;
    int rc = 0;
    memset(lm->moments, 0, (lm->optim_n + 1) * sizeof *lm->moments);
    memcpy(job->delta, job->theta, lm->n * sizeof *job->delta);
    lm->client[0] = (struct model_client){.id = (int32_t)job->client,
                                          .adapter = job->delta,
                                          .moments = lm->moments,
                                          .n_moments = lm->optim_n,
                                          .trained = &above,
                                          .n_trained = 1};
    lm->job[0] = (struct model_job){.batch = &batch, .client = &lm->client[0]};
    model_load(lm->model, &lm->client[0], 0);
    job->loss = 0;
    for (int32_t s = 0; s < steps && rc == 0; s++) {
        rc = take_batch(w, lm, &from, err);
        if (rc)
            break;
        batch = lm->batch[0].batch;
        batch.weights = NULL;
        batch.sum = false;
        batch.from = &lm->cut;
        model_train_step(lm->model, lm->job, 1, w->env.optim, rec);
        job->loss += lm->job[0].loss / steps;
    }
    model_store(lm->model, &lm->client[0]);
    for (size_t i = 0; i < lm->n; i++)
        job->delta[i] -= job->theta[i];
    return rc;
}

const struct cut_work lm_cut = {.open = cut_open, .below = run_below, .above = train_above};
