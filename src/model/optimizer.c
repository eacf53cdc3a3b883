// Steps of clients' optimizers. The operations of a step are the same every time: what changes lies
// with the device, in kernel_step.
#include "base/clock.h"
#include "model/inner.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

_Static_assert((int)KERNEL_ADAMW == (int)OPTIM_ADAMW && (int)KERNEL_SGD == (int)OPTIM_SGD,
               "the names of an optimizer are the kernels' too");

// Where several lanes work, a large adapter is stepped in pieces by all of them.
enum { PIECE = 1 << 16, SQUARES_PIECE = 1 << 13 };

struct update {
    struct model *m;
    struct model_job *jobs;
    struct kernel_optim optim;
    float *full; // all weights, or NULL
    size_t n, piece;
    int32_t pieces;
};

size_t optim_floats(int32_t kind, size_t n)
{
    return kind == OPTIM_ADAMW ? 2 * n : n;
}

// What is updated of a job, as operations have it.
struct target {
    struct model_place *place;
    float *w, *mean, *var;
    const float *grad;
    const struct kernel_fisher *averages; // or NULL
};

static struct target target_in(const struct update *u, struct model_place *p, const float *grad)
{
    const struct kernel_fisher *f = &p->averages;
    return (struct target){.place = p,
                           .w = u->full ? u->full : p->adapter,
                           .mean = p->moments,
                           .var = u->optim.kind == KERNEL_ADAMW ? p->moments + u->n : NULL,
                           .grad = grad,
                           .averages = f->ema || f->sum || f->grad ? f : NULL};
}

static struct target target_of(const struct update *u, int32_t job)
{
    return target_in(u, u->jobs[job].client->place,
                     u->full ? u->m->full_grad : u->m->job[job].grad);
}

// All that a job's operations are given.
enum { KEY_BEGIN, KEY_UPDATE, KEY_STEP };
struct key {
    const void *model, *w, *mean, *grad, *step, *range, *ema, *sum, *average;
    double constant[6];
    size_t n, from;
    float rho;
    int32_t kind, what, n_ranges;
    uint32_t model_moves, dev_moves;
};

static uint64_t key_of(const struct update *u, const struct target *t, int32_t what, size_t from)
{
    const struct kernel_optim *h = &u->optim;
    const double constant[] = {h->beta1, h->beta2, h->eps, h->weight_decay, h->momentum, h->clip};
    struct key k;
    memset(&k, 0, sizeof k);
    k.model = u->m;
    k.w = t->w;
    k.mean = t->mean;
    k.grad = t->grad;
    k.step = t->place->step;
    k.range = t->place->trained.range;
    k.n_ranges = t->place->trained.n;
    if (t->averages) {
        k.ema = t->averages->ema;
        k.sum = t->averages->sum;
        k.average = t->averages->grad;
        k.rho = t->averages->rho;
    }
    memcpy(k.constant, constant, sizeof constant);
    k.kind = h->kind;
    k.what = what;
    k.n = u->n;
    k.from = from;
    k.model_moves = u->m->moves;
    k.dev_moves = u->m->dev->moves;
    return XXH3_64bits(&k, sizeof k);
}

// The device learns of another learning rate, or of a client that is new to it.
static void put_step(struct update *u, struct model_place *p, float lr)
{
    if (!p->behind && p->here->lr == lr)
        return;
    p->here->lr = lr;
    p->behind = false;
    u->m->dev->row->put(u->m->dev, 0, p->step, p->here, sizeof *p->step);
}

static void launch_norm(const struct update *u, const struct target *t)
{
    struct dev *d = u->m->dev;
    d->ops->sum_squares(&d->lane[0].cx, &t->place->trained, t->grad, u->n, t->place->step);
    d->ops->next_step(&d->lane[0].cx, &u->optim, t->place->step);
}

static void launch_update(const struct update *u, const struct target *t, int32_t lane, size_t at,
                          size_t n)
{
    struct dev *d = u->m->dev;
    d->ops->update(&d->lane[lane].cx, &u->optim, t->place->step, &t->place->trained, at, n, t->w,
                   t->mean, t->var, t->grad, t->averages);
}

static void begin_step(struct update *u, int32_t job, float lr)
{
    struct dev *d = u->m->dev;
    struct target t = target_of(u, job);
    uint64_t key = key_of(u, &t, KEY_BEGIN, 0);
    put_step(u, t.place, lr);
    if (d->row->replay(d, 0, key))
        return;
    d->row->record(d, 0, key);
    launch_norm(u, &t);
    d->row->record_end(d, 0);
}

static void update_piece(void *arg, int32_t item, int32_t lane)
{
    const struct update *u = arg;
    struct model_lane *l = &u->m->lane[lane];
    struct dev *d = u->m->dev;
    struct target t = target_of(u, item / u->pieces);
    size_t at = (size_t)(item % u->pieces) * u->piece,
           n = u->n - at < u->piece ? u->n - at : u->piece;
    uint64_t key = key_of(u, &t, KEY_UPDATE, at);
    int64_t from = clock_ns(), apart = d->lane[lane].apart_ns;
    if (!d->row->replay(d, lane, key)) {
        d->row->record(d, lane, key);
        launch_update(u, &t, lane, at, n);
        d->row->record_end(d, lane);
    }
    apart = d->lane[lane].apart_ns - apart;
    l->update_ns += clock_ns() - from - apart;
    l->fisher_ns += apart;
}

// Norms from t0, then pieces from t1: lanes work side by side, each part gets its share of the wall
// time.
static void update_times(struct update *u, int32_t n, int64_t t0, int64_t t1, struct recorder *rec)
{
    struct model *m = u->m;
    int64_t end = clock_ns(), all = 0, fisher = 0;
    for (int32_t i = 0; i < m->dev->lanes; i++) {
        all += m->lane[i].update_ns + m->lane[i].fisher_ns;
        fisher += m->lane[i].fisher_ns;
    }
    m->times.fisher_ns = all > 0 ? (int64_t)((double)(end - t1) * (double)fisher / (double)all) : 0;
    m->times.optimizer_ns = end - t0 - m->times.fisher_ns;
    for (int32_t j = 0; j < n && rec; j++) {
        int64_t each = m->times.optimizer_ns / n, kept = m->times.fisher_ns / n;
        int32_t client = u->jobs[j].client->id;
        recorder_put(rec, STAGE_OPTIMIZER, client, t0, each, -1, 0, 0, 0);
        if (target_of(u, j).averages)
            recorder_put(rec, STAGE_ACCUMULATE, client, t0 + each, kept, -1, 0, 0, 0);
        t0 += each + kept;
    }
}

static void update_all(struct update *u, int32_t n, double lr, struct recorder *rec)
{
    struct model *m = u->m;
    struct dev *d = m->dev;
    int64_t t0 = clock_ns();
    u->piece = d->lanes > 1 ? PIECE : u->n;
    u->pieces = (int32_t)((u->n + u->piece - 1) / u->piece);
    for (int32_t j = 0; j < n; j++)
        begin_step(u, j, (float)lr);
    for (int32_t i = 0; i < d->lanes; i++)
        m->lane[i].update_ns = m->lane[i].fisher_ns = 0;
    int64_t t1 = clock_ns();
    dev_parallel(d, n * u->pieces, update_piece, NULL, u);
    for (int32_t j = 0; j < n; j++) {
        struct model_place *p = u->jobs[j].client->place;
        d->row->get(d, 0, p->here, p->step, sizeof *p->here);
    }
    dev_wait_all(d);
    for (int32_t j = 0; j < n; j++)
        u->jobs[j].grad_norm = u->jobs[j].client->place->here->norm;
    update_times(u, n, t0, t1, rec);
}

struct kernel_optim model_optim(const struct optim_params *p)
{
    return (struct kernel_optim){.kind = p->kind,
                                 .beta1 = p->beta1,
                                 .beta2 = p->beta2,
                                 .eps = p->eps,
                                 .weight_decay = p->weight_decay,
                                 .momentum = p->momentum,
                                 .clip = p->clip};
}

void model_update(struct model *m, struct model_job *jobs, int32_t n, const struct optim_params *p,
                  struct recorder *rec)
{
    struct update u = {.m = m, .jobs = jobs, .optim = model_optim(p), .n = m->shape.n_values};
    for (int32_t j = 0; j < n; j++)
        assert(jobs[j].client && jobs[j].client->place);
    update_all(&u, n, p->lr, rec);
}

// A step that one lane takes whole.

static struct update update_of(struct model *m, const struct model_step *s)
{
    return (struct update){.m = m, .optim = model_optim(s->optim), .n = m->shape.n_values};
}

void step_put(struct model *m, const struct model_step *s)
{
    struct update u = update_of(m, s);
    put_step(&u, s->job->client->place, (float)s->optim->lr);
}

void step_launch(struct model *m, const struct model_step *s)
{
    struct update u = update_of(m, s);
    struct target t = target_in(&u, s->job->client->place, s->grad);
    launch_norm(&u, &t);
    launch_update(&u, &t, 0, 0, u.n);
}

void step_get(struct model *m, const struct model_step *s)
{
    struct model_place *p = s->job->client->place;
    m->dev->row->get(m->dev, 0, p->here, p->step, sizeof *p->here);
}

uint64_t step_key(struct model *m, const struct model_step *s)
{
    struct update u = update_of(m, s);
    struct target t = target_in(&u, s->job->client->place, s->grad);
    return key_of(&u, &t, KEY_STEP, 0);
}

// The averages are made where the step is, in no time of their own.
void step_span(struct recorder *rec, const struct model_job *job, int64_t t0, int64_t dur_ns)
{
    const struct kernel_fisher *f = &job->client->place->averages;
    recorder_put(rec, STAGE_OPTIMIZER, job->client->id, t0, dur_ns, -1, 0, 0, 0);
    if (f->ema || f->sum || f->grad)
        recorder_put(rec, STAGE_ACCUMULATE, job->client->id, t0 + dur_ns, 0, -1, 0, 0, 0);
}

void model_full_update(struct model *m, struct model_job *job, const struct optim_params *p)
{
    struct update u = {.m = m,
                       .jobs = job,
                       .optim = model_optim(p),
                       .full = model_full_weights(m),
                       .n = model_weight_count(m)};
    update_all(&u, 1, p->lr, NULL);
    model_full_changed(m);
}

struct squares {
    struct model *m;
    int32_t n_jobs;
    size_t piece;
    float *sum; // the device's
};

static void squares_piece(void *arg, int32_t item, int32_t lane)
{
    const struct squares *s = arg;
    struct dev *d = s->m->dev;
    size_t at = (size_t)item * s->piece, rest = s->m->shape.n_values - at;
    const struct kernel_fisher f = {.sum = s->sum + at};
    for (int32_t j = 0; j < s->n_jobs; j++)
        d->ops->fisher(&d->lane[lane].cx, &f, s->m->job[j].grad + at,
                       rest < s->piece ? rest : s->piece);
}

void model_sum_squares(struct model *m, int32_t n_jobs, float *sum)
{
    size_t n = m->shape.n_values;
    struct squares s = {.m = m, .n_jobs = n_jobs, .piece = m->dev->lanes > 1 ? SQUARES_PIECE : n};
    s.sum = loan_lend(m, &m->sum_loan, sum, n * sizeof *sum);
    dev_parallel(m->dev, (int32_t)((n + s.piece - 1) / s.piece), squares_piece, NULL, &s);
    dev_wait_all(m->dev);
    loan_fetch(m, sum, s.sum, n * sizeof *sum);
}
