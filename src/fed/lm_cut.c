// The two sides of a cut model: clients run the layers below it, the server trains those above. In
// one process they take turns, in the middle of a round, so that each has rows of its own.
#include "fed/lm.h"

#include "base/mem.h"

#include <string.h>

static void open_rows(struct model_cut *cut, int32_t layer, size_t rows, size_t dim, int32_t batch)
{
    cut->layer = layer;
    if (cut->x)
        return;
    cut->len = mem_alloc(MEM_DATA, (size_t)batch * sizeof *cut->len);
    cut->pos = mem_alloc(MEM_DATA, rows * sizeof *cut->pos);
    cut->size = mem_alloc(MEM_DATA, rows * sizeof *cut->size);
    cut->x = mem_alloc(MEM_DATA, rows * dim * sizeof *cut->x);
}

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
                              .batch = batch,
                              .examples = w->env.fed->local_steps * batch,
                              .longest = longest,
                              .dim = c->dim,
                              .vocab = c->vocab};
    lm->cut.layer = lm->above.cut.layer = layer;
    if (w->env.worker)
        open_rows(&lm->cut, layer, rows, (size_t)c->dim, batch);
    if (!w->env.server)
        return 0;
    open_rows(&lm->above.cut, layer, rows, (size_t)c->dim, batch);
    if (!lm->batch) // a server by itself, that trains now
        lm_train_open(w, lm);
    if (!lm->above.label) {
        lm_batch_open(&lm->above.batch, batch, longest);
        lm->above.label = mem_alloc(MEM_DATA, (size_t)longest * sizeof *lm->above.label);
    }
    return 0;
}

static void close_rows(struct model_cut *cut)
{
    mem_free(cut->len);
    mem_free(cut->pos);
    mem_free(cut->size);
    mem_free(cut->x);
}

void lm_cut_close(struct lm *lm)
{
    close_rows(&lm->cut);
    close_rows(&lm->above.cut);
    lm_batch_close(&lm->above.batch);
    mem_free(lm->above.label);
}

static struct shape_range range_above(const struct workload *w)
{
    const struct lm *lm = w->state;
    return model_layers_from(lm->model, lm->cut.layer);
}

// Below.

// Where the rows of a batch lie that begin at `at`.
static struct cut_example place(const struct lm *lm, const struct model_cut *cut, int32_t at)
{
    size_t dim = (size_t)model_config(lm->model)->dim;
    return (struct cut_example){
        .pos = cut->pos + at, .size = cut->size + at, .x = cut->x + (size_t)at * dim};
}

static int give_batch(struct lm *lm, const struct model_cut *cut, const struct model_batch *b,
                      const struct cut_end *to, struct err *err)
{
    int rc = 0;
    for (int32_t q = 0; q < b->n_seqs && rc == 0; q++) {
        int32_t at = b->start[q], first = at, end = b->start[q + 1];
        while (b->targets[first] < 0)
            first++;
        struct cut_example e = place(lm, cut, at);
        e.rows = cut->len[q];
        e.labels = end - first;
        e.label = (int32_t *)(uintptr_t)b->targets + first;
        rc = to->pass(to->arg, &e, err);
    }
    return rc;
}

// A batch to the cut. client NULL: no adapter below it.
static struct model_job job_below(const struct train_job *job, const struct lm_batch *b,
                                  struct model_client *client)
{
    return (struct model_job){.batch = &b->batch,
                              .client = client,
                              .merge = job->tokens->merges ? &job->token_opt->merge : NULL};
}

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
        struct model_job forward = job_below(job, b, NULL);
        forward.cut = &lm->cut;
        model_evaluate(lm->model, &forward, 1);
        job->dur_ns += clock_ns() - t;
        rows += b->start[b->batch.n_seqs];
        left += forward.rows_left;
        rc = give_batch(lm, &lm->cut, &b->batch, &to, err);
    }
    task_forget(lm->task, client);
    int64_t row_bytes = model_config(lm->model)->dim * (int64_t)sizeof(float);
    recorder_put(rec, STAGE_TRAIN, client, t0, job->dur_ns, -1, rows * row_bytes, left * row_bytes,
                 0);
    return rc;
}

// Below, in the middle of a round.

struct cut_side {
    struct lm_batch batch;
    struct model_cut cut;
    struct model_client client;
    int32_t place;
    float *moments; // (optim_n)
    struct rng rng;
};

static struct cut_side *side_open(struct workload *w)
{
    struct lm *lm = w->state;
    struct cut_side *s = mem_alloc(MEM_OTHER, sizeof *s);
    int32_t batch = w->env.fed->batch, longest = lm->task->max_tokens;
    lm_batch_open(&s->batch, batch, longest);
    open_rows(&s->cut, lm->cut.layer, (size_t)batch * (size_t)longest,
              (size_t)model_config(lm->model)->dim, batch);
    s->moments = mem_alloc(MEM_OPTIMIZER, lm->optim_n * sizeof *s->moments);
    s->place = lm->at_once + 1 + lm->above.places++;
    return s;
}

static void side_close(struct cut_side *s)
{
    lm_batch_close(&s->batch);
    close_rows(&s->cut);
    mem_free(s->moments);
    mem_free(s);
}

static void begin_below(struct workload *w, struct cut_side *s, struct train_job *job)
{
    struct lm *lm = w->state;
    int64_t t = clock_ns();
    memset(s->moments, 0, lm->optim_n * sizeof *s->moments);
    memcpy(job->delta, job->theta, lm->n * sizeof *job->delta); // trained in place
    s->client = (struct model_client){.id = (int32_t)job->client,
                                      .adapter = job->delta,
                                      .moments = s->moments,
                                      .n_moments = lm->optim_n,
                                      .trained = job->trained,
                                      .n_trained = job->n_trained};
    s->rng = rng_stream(w->env.seed, RNG_BATCH, job->round, job->client, 0);
    job->samples = task_client(lm->task, (int32_t)job->client)->n;
    job->loss = 0; // which the server knows
    lm_job_fisher(w, job, &s->client);
    model_load(lm->model, &s->client, s->place);
    job->dur_ns = clock_ns() - t;
}

static int forward_below(struct workload *w, struct cut_side *s, struct train_job *job,
                         struct cut_end to, struct recorder *rec, struct err *err)
{
    struct lm *lm = w->state;
    const struct examples *own = task_client(lm->task, (int32_t)job->client);
    int64_t t = clock_ns();
    lm_batch_draw(&s->batch, own, w->env.fed->batch, &s->rng);
    struct model_job forward = job_below(job, &s->batch, &s->client);
    forward.cut = &s->cut;
    model_evaluate(lm->model, &forward, 1);
    int64_t took = clock_ns() - t;
    job->dur_ns += took;
    recorder_put(rec, STAGE_FORWARD, s->client.id, t, took, -1, 0, 0, 0);
    return give_batch(lm, &s->cut, &s->batch.batch, &to, err);
}

// Nothing was kept of the way forward, which is gone once more: meanwhile the client holds one
// batch at the cut, not the activations of all layers.
static int backward_below(struct workload *w, struct cut_side *s, struct train_job *job,
                          struct cut_end from, struct recorder *rec, struct err *err)
{
    struct lm *lm = w->state;
    const struct model_batch *b = &s->batch.batch;
    for (int32_t q = 0; q < b->n_seqs; q++) {
        struct cut_example e = place(lm, &s->cut, b->start[q]);
        e.rows = s->cut.len[q];
        int rc = from.pass(from.arg, &e, err);
        if (rc)
            return rc;
    }
    int64_t t = clock_ns();
    struct model_job back = job_below(job, &s->batch, &s->client);
    back.back = &s->cut;
    model_train_step(lm->model, &back, 1, w->env.optim, rec);
    job->dur_ns += clock_ns() - t;
    return 0;
}

static void end_below(struct workload *w, struct cut_side *s, struct train_job *job,
                      struct recorder *rec)
{
    struct lm *lm = w->state;
    int64_t t = clock_ns();
    model_store(lm->model, &s->client);
    for (size_t i = 0; i < lm->n; i++)
        job->delta[i] -= job->theta[i];
    task_forget(lm->task, s->client.id);
    job->dur_ns += clock_ns() - t;
    recorder_put(rec, STAGE_TRAIN, s->client.id, clock_ns() - job->dur_ns, job->dur_ns, -1, 0, 0,
                 EVENT_SUMMED);
}

// Above.

// The next batch, laid out for the model.
static int take_batch(struct workload *w, struct lm *lm, const struct cut_end *from,
                      struct err *err)
{
    struct lm_batch *b = &lm->above.batch;
    lm_batch_clear(b);
    for (int32_t q = 0; q < w->env.fed->batch; q++) {
        int32_t at = b->start[q];
        struct cut_example e = place(lm, &lm->above.cut, at);
        e.label = lm->above.label;
        int rc = from->pass(from->arg, &e, err);
        if (rc)
            return rc;
        for (int32_t i = 0; i < e.rows; i++) {
            int32_t label = i - (e.rows - e.labels);
            b->targets[at + i] = label < 0 ? -1 : e.label[label];
        }
        b->start[++b->batch.n_seqs] = at + e.rows;
        lm->above.cut.len[q] = e.rows;
    }
    b->batch.weights = NULL;
    b->batch.sum = false;
    b->batch.from = &lm->above.cut;
    return 0;
}

// Its place is the one behind those of clients in training.
static void load_above(struct lm *lm, const struct cut_trainee *t, const struct shape_range *above)
{
    lm->above.client = (struct model_client){.id = (int32_t)t->client,
                                             .adapter = t->adapter,
                                             .moments = t->moments,
                                             .n_moments = lm->optim_n,
                                             .steps = t->steps,
                                             .trained = above,
                                             .n_trained = 1};
    lm->above.job =
        (struct model_job){.batch = &lm->above.batch.batch, .client = &lm->above.client};
    model_load(lm->model, &lm->above.client, lm->at_once);
}

static void store_above(struct lm *lm, struct cut_trainee *t)
{
    model_store(lm->model, &lm->above.client);
    t->steps = lm->above.client.steps;
}

static int train_above(struct workload *w, struct train_job *job, struct cut_end from,
                       struct recorder *rec, struct err *err)
{
    struct lm *lm = w->state;
    struct shape_range above = range_above(w);
    struct cut_trainee t = {
        .client = job->client, .adapter = job->delta, .moments = lm_moments(lm)};
    int rc = 0;
    memset(t.moments, 0, (lm->optim_n + 1) * sizeof *t.moments);
    memcpy(job->delta, job->theta, lm->n * sizeof *job->delta);
    load_above(lm, &t, &above);
    job->loss = 0;
    for (int32_t s = 0; s < job->steps && rc == 0; s++) {
        rc = take_batch(w, lm, &from, err);
        if (rc)
            break;
        model_train_step(lm->model, &lm->above.job, 1, w->env.optim, rec);
        job->loss += lm->above.job.loss / job->steps;
    }
    store_above(lm, &t);
    for (size_t i = 0; i < lm->n; i++)
        job->delta[i] -= job->theta[i];
    return rc;
}

static int step_above(struct workload *w, struct cut_trainee *t, struct cut_end from,
                      struct cut_end to, struct recorder *rec, struct err *err)
{
    struct lm *lm = w->state;
    struct shape_range above = range_above(w);
    const struct model_batch *b = &lm->above.batch.batch;
    int rc = take_batch(w, lm, &from, err);
    if (rc)
        return rc;
    load_above(lm, t, &above);
    lm->above.job.embed_grad = lm->above.cut.x; // which is read before it is written
    model_train_step(lm->model, &lm->above.job, 1, w->env.optim, rec);
    store_above(lm, t);
    t->loss += lm->above.job.loss;
    for (int32_t q = 0; q < b->n_seqs && rc == 0; q++) {
        struct cut_example e = place(lm, &lm->above.cut, b->start[q]);
        e.rows = lm->above.cut.len[q];
        rc = to.pass(to.arg, &e, err);
    }
    return rc;
}

const struct cut_work lm_cut = {
    .open = cut_open,
    .range = range_above,
    .below = run_below,
    .above = train_above,
    .side_open = side_open,
    .side_close = side_close,
    .begin = begin_below,
    .forward = forward_below,
    .backward = backward_below,
    .end = end_below,
    .step = step_above,
};
