#include "fed/workload.h"

#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

// quadratic: least squares with a known optimum; the adapter is the solution matrix itself.

#define QUADRATIC_CACHE_BYTES ((size_t)64 << 20)

struct quadratic_work {
    struct quadratic *task;
    float *velocity; // of the client in training, when none is kept between rounds
};

static int quadratic_begin(struct workload *w, struct err *err)
{
    const struct quadratic_params *p = &w->env.task->quadratic;
    int32_t clients = w->env.fed->clients;
    size_t client_bytes = (size_t)p->samples * (size_t)(p->features + p->outputs) * sizeof(float);
    int cached = w->env.worker && client_bytes * (size_t)clients <= QUADRATIC_CACHE_BYTES;
    if (w->env.optim->kind != OPTIM_SGD)
        return err_set(err, "task.name = quadratic trains by plain SGD: set optim.kind = sgd");
    struct quadratic *q = quadratic_open(p, w->env.seed, clients, cached);
    if (!q)
        return err_set(err, "task quadratic: no room for %d clients", clients);
    struct quadratic_work *work = mem_alloc(MEM_OTHER, sizeof *work);
    work->task = q;
    if (w->env.optim->momentum > 0)
        work->velocity = mem_alloc(MEM_OPTIMIZER, quadratic_dim(q) * sizeof *work->velocity);
    w->state = work;
    shape_add(&w->shape, "X", (uint32_t)p->features, (uint32_t)p->outputs, SHAPE_OTHER);
    return 0;
}

static void quadratic_end(struct workload *w)
{
    struct quadratic_work *work = w->state;
    quadratic_close(work->task);
    mem_free(work->velocity);
    mem_free(work);
}

static void quadratic_initial(struct workload *w, float *theta)
{
    memset(theta, 0, w->shape.n_values * sizeof *theta);
}

static size_t quadratic_state(const struct workload *w)
{
    return w->env.optim->momentum > 0 ? w->shape.n_values : 0;
}

static int quadratic_group(const struct workload *w)
{
    (void)w;
    return 1;
}

static void quadratic_jobs(struct workload *w, struct train_job *jobs, int n, struct recorder *rec)
{
    const struct fed_params *fed = w->env.fed;
    const struct optim_params *optim = w->env.optim;
    const struct quadratic_work *work = w->state;
    size_t dim = w->shape.n_values;
    for (int j = 0; j < n; j++) {
        struct train_job *job = &jobs[j];
        struct span span = span_begin(rec);
        float *velocity = job->state ? job->state : work->velocity;
        if (velocity && !job->state)
            memset(velocity, 0, dim * sizeof *velocity);
        struct rng batches = rng_stream(w->env.seed, RNG_BATCH, job->round, job->client, 0);
        memcpy(job->delta, job->theta, dim * sizeof *job->delta);
        job->loss =
            quadratic_train(work->task, (int32_t)job->client, job->delta, velocity,
                            fed->local_steps, fed->batch, optim->lr, optim->momentum, &batches);
        for (size_t i = 0; i < dim; i++)
            job->delta[i] -= job->theta[i];
        job->samples = quadratic_samples(work->task, (int32_t)job->client);
        job->dur_ns = span_end(rec, span, STAGE_TRAIN, (int32_t)job->client, 0, 0);
    }
}

static void quadratic_score(struct workload *w, const float *theta, struct eval_result *r)
{
    const struct quadratic_work *work = w->state;
    r->score = quadratic_error(work->task, theta);
    r->loss = quadratic_loss(work->task, theta);
    r->n_rows = 0;
}

static const char *quadratic_score_name(const struct workload *w)
{
    (void)w;
    return "error";
}

const struct workload_row work_quadratic = {
    .name = "quadratic",
    .open = quadratic_begin,
    .close = quadratic_end,
    .initial = quadratic_initial,
    .state_floats = quadratic_state,
    .group = quadratic_group,
    .train = quadratic_jobs,
    .evaluate = quadratic_score,
    .score_name = quadratic_score_name,
};

int workload_open(struct workload *w, const struct workload_env *env, struct err *err)
{
    memset(w, 0, sizeof *w);
    w->env = *env;
    w->row = task_table[env->task->name]->numeric ? &work_quadratic : &work_lm;
    shape_init(&w->shape);
    if (w->row->open(w, err)) {
        workload_close(w);
        return -1;
    }
    shape_seal(&w->shape);
    return 0;
}

int workload_form(struct workload *w, unsigned form, struct err *err)
{
    if (w->row->form)
        return w->row->form(w, form, err);
    return form ? err_set(err, "this task has no backbone to move, nor low-rank adapters") : 0;
}

void workload_close(struct workload *w)
{
    if (w->row && w->state)
        w->row->close(w);
    shape_free(&w->shape);
    w->row = NULL;
}
