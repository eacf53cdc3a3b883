// Split learning: clients run the layers below a cut, the server trains those above it.
#include "fed/lm.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

int lm_split_open(struct workload *w, struct lm *lm, struct err *err)
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
        lm_train_open(w, lm);
    lm->label = mem_alloc(MEM_DATA, (size_t)longest * sizeof *lm->label);
    lm->cut.len = mem_alloc(MEM_DATA, (size_t)batch * sizeof *lm->cut.len);
    lm->cut.pos = mem_alloc(MEM_DATA, rows * sizeof *lm->cut.pos);
    lm->cut.size = mem_alloc(MEM_DATA, rows * sizeof *lm->cut.size);
    lm->cut.x = mem_alloc(MEM_DATA, rows * (size_t)c->dim * sizeof *lm->cut.x);
    return 0;
}

void lm_split_close(struct lm *lm)
{
    void *blocks[] = {lm->label, lm->cut.len, lm->cut.pos, lm->cut.size, lm->cut.x};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
}

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
        lm_batch_draw(&lm->batch[0], task_client(lm->task, client), w->env.fed->batch, &lm->rng[0]);
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
    lm_batch_clear(b);
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

const struct split_work lm_split_work = {.send = lm_send, .train = lm_train_split};
