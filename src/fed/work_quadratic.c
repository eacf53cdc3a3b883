// Least squares with a known optimum; the adapter is the solution matrix itself.
#include "fed/workload.h"

#include "base/mem.h"
#include "base/rng.h"

#include <string.h>

#define QUADRATIC_CACHE_BYTES ((size_t)64 << 20)

struct quadratic_work {
    struct quadratic *task;
    float *velocity; // of the client in training, when none is kept between rounds
    float *grad;     // (n) of a step under rules of local training
    float *aside;    // (n) where only a loss is asked for
};

static int quadratic_begin(struct workload *w, struct err *err)
{
    const struct quadratic_params *p = &w->env.task->quadratic;
    int32_t clients = w->env.fed->clients;
    size_t client_bytes = (size_t)p->samples * (size_t)(p->features + p->outputs) * sizeof(float);
    int cached = w->env.worker && client_bytes * (size_t)clients <= QUADRATIC_CACHE_BYTES;
    if (w->env.optim->kind != OPTIM_SGD)
        return err_set(err, "task.name = quadratic trains by plain SGD: set optim.kind = sgd");
    if (quadratic_check(p, clients, err))
        return -1;
    struct quadratic *q = quadratic_open(p, w->env.seed, clients, cached);
    struct quadratic_work *work = mem_alloc(MEM_OTHER, sizeof *work);
    work->task = q;
    if (w->env.optim->momentum > 0)
        work->velocity = mem_alloc(MEM_OPTIMIZER, quadratic_dim(q) * sizeof *work->velocity);
    work->grad = mem_alloc(MEM_OPTIMIZER, quadratic_dim(q) * sizeof *work->grad);
    work->aside = mem_alloc(MEM_OPTIMIZER, quadratic_dim(q) * sizeof *work->aside);
    w->state = work;
    shape_add(&w->shape, "X", (uint32_t)p->features, (uint32_t)p->outputs, SHAPE_OTHER);
    return 0;
}

static void quadratic_end(struct workload *w)
{
    struct quadratic_work *work = w->state;
    quadratic_close(work->task);
    mem_free(work->velocity);
    mem_free(work->grad);
    mem_free(work->aside);
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

static int quadratic_at_once(const struct workload *w)
{
    (void)w;
    return 1;
}

// The loss at an x of a rule's choice, of the same batch each time.
struct asking {
    struct workload *w;
    int32_t client;
    struct rng batch;
};

static double loss_at(void *arg, const float *x)
{
    const struct asking *a = arg;
    const struct quadratic_work *work = a->w->state;
    struct rng batch = a->batch;
    return quadratic_gradient(work->task, a->client, x, a->w->env.fed->batch, &batch, work->aside);
}

// What codecs ask of the gradients, as work_lm has it: averages that begin at zero, or sums.
static void note_gradient(const struct workload *w, const struct train_job *job, const float *g)
{
    const struct fisher_params *p = w->env.fisher;
    const float rho = (float)p->rho, rest = 1 - rho;
    const bool sum = p->accumulate == FISHER_SUM;
    for (size_t i = 0; i < w->shape.n_values && job->sens; i++)
        job->sens[i] = sum ? job->sens[i] + g[i] * g[i] : rho * job->sens[i] + rest * g[i] * g[i];
    for (size_t i = 0; i < w->shape.n_values && job->grad; i++)
        job->grad[i] = rho * job->grad[i] + rest * g[i];
}

// The averages of earlier rounds from the client's slot, or zeros; and back.
static void keep_noted(const struct workload *w, struct train_job *job, bool back)
{
    float *kept = job->kept, *const part[] = {job->sens, job->grad};
    const size_t n = w->shape.n_values;
    for (size_t k = 0; k < ARRAY_LEN(part); k++) {
        if (!part[k])
            continue;
        if (!kept && !back)
            memset(part[k], 0, n * sizeof *kept);
        else if (kept)
            memcpy(back ? kept : part[k], back ? part[k] : kept, n * sizeof *kept);
        kept += kept ? n : 0;
    }
}

static size_t quadratic_fisher(const struct workload *w, const struct token_source *tokens,
                               bool sens, bool grad)
{
    (void)tokens;
    return ((size_t)sens + (size_t)grad) * w->shape.n_values;
}

static int quadratic_tokens(const struct workload *w, const struct token_source *tokens,
                            struct err *err)
{
    if (!tokens->all)
        return err_set(err, "task quadratic has no tokens to choose from; leave out ~%s",
                       tokens->name);
    if (w->env.fisher->accumulate == FISHER_ORACLE)
        return err_set(err, "task quadratic has averages and sums of squared gradients only; set "
                            "fisher.accumulate = ema");
    return 0;
}

// As quadratic_train, with the rules between x and the gradient, which is looked at.
static double ruled_steps(struct workload *w, struct train_job *job, float *velocity,
                          struct rng *batches)
{
    const struct fed_params *fed = w->env.fed;
    const struct optim_params *optim = w->env.optim;
    const struct quadratic_work *work = w->state;
    float rate = (float)optim->lr, keep = (float)optim->momentum, *g = work->grad;
    double loss = 0;
    for (int32_t s = 0; s < job->steps; s++) {
        const float *x = w->rules.n > 0 ? local_before(&w->rules, 0, s) : job->delta;
        struct asking a = {w, (int32_t)job->client, *batches};
        double here =
            quadratic_gradient(work->task, (int32_t)job->client, x, fed->batch, batches, g);
        loss += local_asks(&w->rules)
                    ? local_gradient(&w->rules, 0, s, x, (struct local_loss){loss_at, &a}, g)
                    : here;
        local_after(&w->rules, 0, s, g);
        if (job->sens || job->grad)
            note_gradient(w, job, g);
        for (size_t i = 0; i < w->shape.n_values; i++) {
            if (velocity)
                g[i] = velocity[i] = keep * velocity[i] + g[i];
            job->delta[i] -= rate * g[i];
        }
    }
    return loss / job->steps;
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
        local_begin(&w->rules, 0, job);
        keep_noted(w, job, false);
        if (w->rules.n > 0 || job->sens || job->grad)
            job->loss = ruled_steps(w, job, velocity, &batches);
        else
            job->loss =
                quadratic_train(work->task, (int32_t)job->client, job->delta, velocity, job->steps,
                                fed->batch, optim->lr, optim->momentum, &batches);
        local_end(&w->rules, 0, job);
        keep_noted(w, job, true);
        job->samples = quadratic_samples(work->task, (int32_t)job->client);
        job->dur_ns = span_end(rec, span, STAGE_TRAIN, (int32_t)job->client, 0, 0);
    }
}

static void quadratic_score(struct workload *w, const float *adapter, const float *backbone,
                            struct eval_result *r)
{
    const struct quadratic_work *work = w->state;
    r->score = quadratic_error(work->task, adapter);
    (void)backbone;
    r->loss = quadratic_loss(work->task, adapter);
    r->n_rows = 0;
}

static const char *quadratic_score_name(const struct workload *w)
{
    (void)w;
    return "error";
}

const struct workload_row work_quadratic = {
    .name = "quadratic",
    .tokens = quadratic_tokens,
    .fisher_floats = quadratic_fisher,
    .open = quadratic_begin,
    .close = quadratic_end,
    .initial = quadratic_initial,
    .state_floats = quadratic_state,
    .at_once = quadratic_at_once,
    .train = quadratic_jobs,
    .evaluate = quadratic_score,
    .score_name = quadratic_score_name,
};
