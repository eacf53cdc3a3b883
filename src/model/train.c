// Forward and backward of jobs' batches, slice by slice: each is planned by the host, put over in
// one piece, launched or replayed, and read back in one piece.
#include "base/clock.h"
#include "base/mem.h"
#include "model/inner.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum mode { MODE_EVALUATE, MODE_TRAIN, MODE_FULL };

struct work {
    struct model *m;
    struct model_job *jobs;
    enum mode mode;
    size_t n_grad;
    bool sums;                       // gradients of several slices are summed
    const struct optim_params *step; // or NULL: clients' optimizers step as well
};

// Another block in the place of one.
static float *device_floats(struct model *m, float *was, size_t n)
{
    if (was)
        m->dev->row->free(m->dev, was);
    m->moves++;
    return m->dev->row->alloc(m->dev, MEM_OPTIMIZER, n * sizeof(float));
}

static void grads_reserve(struct model *m, size_t n_grad, bool several, size_t job_floats)
{
    for (int32_t i = 0; i < m->dev->lanes && several; i++)
        if (m->lane[i].grad_cap < n_grad) {
            m->lane[i].grad = device_floats(m, m->lane[i].grad, n_grad);
            m->lane[i].grad_cap = n_grad;
        }
    if (m->grads_cap < job_floats) {
        m->grads = device_floats(m, m->grads, job_floats);
        m->grads_cap = job_floats;
    }
}

static void jobs_reserve(struct model *m, int32_t n)
{
    if (n <= m->jobs_cap)
        return;
    struct job_lent *more = mem_alloc(MEM_OTHER, (size_t)n * sizeof *more);
    if (m->job)
        memcpy(more, m->job, (size_t)m->jobs_cap * sizeof *more);
    mem_free(m->job);
    m->job = more;
    m->jobs_cap = n;
}

void model_reserve(struct model *m, int32_t longest, int32_t rows, int32_t jobs)
{
    // A slice ends with the sequence that ends nearest to its even share. Where a job is one slice
    // however large, only its first call shows how much of its batch's room it uses.
    int32_t most = m->dev->row->slice_tokens;
    bool several = rows > most;
    if (most == INT32_MAX)
        rows = longest;
    else if (rows - longest > most)
        rows = most + longest;
    lanes_reserve(m, rows, longest, slice_bytes(m, NULL, rows, true));
    grads_reserve(m, m->shape.n_values, several, (size_t)jobs * m->shape.n_values);
    jobs_reserve(m, jobs);
    places_reserve(m, jobs);
}

float *model_take_gradient(struct model *m, int32_t job)
{
    size_t bytes = m->shape.n_values * sizeof(float);
    if (!m->room)
        m->room = dev_room(m->dev, bytes);
    return dev_take(m->dev, m->job[job].grad, bytes, m->room);
}

void model_give_gradient(struct model *m, int32_t job, float *grad)
{
    dev_give(m->dev, m->job[job].grad, m->shape.n_values * sizeof *grad, grad);
}

// What a job's operations are given of its arrays.
static void job_lend(struct work *w, int32_t j)
{
    struct model *m = w->m;
    const struct model_job *job = &w->jobs[j];
    struct job_lent *l = &m->job[j];
    size_t bytes = m->shape.n_values * sizeof(float);
    assert(!job->client || job->client->place);
    bool own = job->client && (!job->adapter || job->adapter == job->client->adapter);
    l->adapter = own ? job->client->place->adapter : loan_lend(m, &l->loan, job->adapter, bytes);
    l->grad = w->mode == MODE_FULL                ? m->full_grad
              : job->grad && m->dev->row->host    ? job->grad
              : w->mode == MODE_TRAIN && m->grads ? m->grads + (size_t)j * m->shape.n_values
                                                  : NULL;
}

void model_no_backward(struct model *m, struct model_job *jobs, int32_t n)
{
    struct work w = {.m = m, .jobs = jobs, .mode = MODE_TRAIN};
    grads_reserve(m, 0, false, (size_t)n * m->shape.n_values);
    jobs_reserve(m, n);
    for (int32_t j = 0; j < n; j++)
        job_lend(&w, j);
}

// Checks a job's batch and cuts it; returns the length of its longest sequence, or the last
// position that stands in it.
static int32_t job_prepare(struct work *w, int32_t j)
{
    struct model *m = w->m;
    struct model_job *job = &w->jobs[j];
    const struct model_batch *b = job->batch;
    int32_t longest = 1;
    double weight = 0;
    assert(b->n_seqs >= 1 && b->start[0] == 0);
    assert(!job->merge ||
           !(job->token_loss || job->token_sq || job->embed_grad || job->received || job->best));
    assert((!job->cut || w->mode == MODE_EVALUATE) && !(job->merge && b->from));
    assert(!job->tap || (w->mode == MODE_EVALUATE && !job->cut && !job->merge && !b->weights));
    if (job->tap)
        tap_check(m, job);
    assert(!job->back || (w->mode == MODE_TRAIN && !b->from && !job->embed_grad));
    for (int32_t s = 0; s < b->n_seqs; s++) {
        int32_t len = b->start[s + 1] - b->start[s];
        assert(len >= 1);
        longest = len > longest ? len : longest;
    }
    for (int32_t i = 0; i < b->start[b->n_seqs]; i++) {
        assert(b->from || (b->tokens[i] >= 0 && b->tokens[i] < m->cfg.vocab));
        assert(b->targets[i] < m->cfg.vocab);
        if (b->from && b->from->pos[i] >= longest)
            longest = b->from->pos[i] + 1;
        if (b->targets[i] >= 0)
            weight += b->weights ? (double)b->weights[i] : 1.0;
    }
    job->weight = weight;
    job->loss = 0;
    job->rows_left = 0;
    plan_slices(m, b, j);
    return longest;
}

// Cuts all batches and makes room.
static void prepare(struct work *w, int32_t n)
{
    struct model *m = w->m;
    int32_t rows = 1, longest = 1;
    bool several = false;
    struct lane_bytes most = {{0}};
    m->n_slices = 0;
    for (int32_t j = 0; j < n; j++) {
        int32_t first = m->n_slices, len = job_prepare(w, j), widest = 0;
        longest = len > longest ? len : longest;
        several |= m->n_slices - first > 1;
        for (int32_t i = first; i < m->n_slices; i++)
            widest = m->slice[i].rows > widest ? m->slice[i].rows : widest;
        struct lane_bytes b = slice_bytes(m, &w->jobs[j], widest, w->mode != MODE_EVALUATE);
        for (int k = 0; k < LANE_BLOCKS; k++)
            most.of[k] = b.of[k] > most.of[k] ? b.of[k] : most.of[k];
        rows = widest > rows ? widest : rows;
    }
    w->sums = several && w->mode != MODE_EVALUATE;
    if (w->mode != MODE_EVALUATE) {
        bool own = w->mode == MODE_TRAIN;
        grads_reserve(m, w->n_grad, several, own ? (size_t)n * w->n_grad : 0);
    }
    lanes_reserve(m, rows, longest, most);
    jobs_reserve(m, n);
    for (int32_t j = 0; j < n; j++)
        job_lend(w, j);
}

static struct launch run_of(struct work *w, struct slice *s, int32_t lane)
{
    struct model *m = w->m;
    struct model_job *job = &w->jobs[s->job];
    struct model_lane *l = &m->lane[lane];
    struct layers of = layers_of(m, job);
    struct launch r = {.m = m,
                       .job = job,
                       .slice = s,
                       .lane = lane,
                       .cx = &m->dev->lane[lane].cx,
                       .op = m->dev->ops,
                       .adapter = m->job[s->job].adapter,
                       .backward = w->mode != MODE_EVALUATE,
                       .full = w->mode == MODE_FULL,
                       .token_grads = w->mode == MODE_TRAIN && (job->token_sq || job->embed_grad),
                       .merge = job->merge,
                       .level = l->level,
                       .rows = s->rows,
                       .first = of.first,
                       .end = of.end};
    struct bump acts = {.base = l->block[LANE_ACTS]};
    struct bump dev = {.base = l->block[LANE_CONTROL]}, host = {.base = l->twin[LANE_CONTROL]};
    struct bump out = {.base = l->twin[LANE_RESULTS]}, dev_out = {.base = l->block[LANE_RESULTS]};
    acts_take(m, l, &r.a, s->rows, of, r.backward, &acts);
    control_take(&r.host, s->rows, &host);
    control_take(&r.dev, s->rows, &dev);
    r.control_bytes = dev.used;
    if (r.merge)
        levels_take(m, r.level, &r.host, &r.dev, s->rows, &host, &dev, &r.place);
    results_take(m, job, &r.out, s->rows, &out);
    results_take(m, job, &r.dev_out, s->rows, &dev_out);
    r.results_bytes = dev_out.used;
    if (r.backward)
        r.grad = s->alone ? m->job[s->job].grad : l->grad;
    return r;
}

// Operations alone, all of them known by the plan: except that where tokens merge, the host looks
// at which, and goes on planning.
static void launch(struct launch *r, const struct work *w, const struct model_step *step)
{
    const size_t n_grad = w->n_grad;
    launch_mark(r, MARK_BEGIN);
    if (r->backward)
        launch_zero(r, r->grad, n_grad * sizeof *r->grad);
    launch_forward(r);
    r->slice->rows_left = r->rows; // by now as many as have not merged
    r->merge_marks_forward = r->merge_marks;
    if (r->backward)
        launch_backward(r);
    else
        launch_mark(r, MARK_FORWARD);
    launch_mark(r, MARK_END);
    if (w->step)
        step_launch(r->m, step);
    launch_mark(r, MARK_STEP);
}

static int64_t between(const struct launch *r, int32_t from, int32_t to)
{
    const struct dev_row *row = r->m->dev->row;
    return row->marked(r->m->dev, r->lane, to) - row->marked(r->m->dev, r->lane, from);
}

static void slice_times(struct launch *r)
{
    struct model_slice_times *t = &r->slice->times;
    int64_t merge[2] = {0}; // forward, backward
    for (int32_t i = 0; i < r->merge_marks; i += 2)
        merge[i >= r->merge_marks_forward] += between(r, MARK_MERGE + i, MARK_MERGE + i + 1);
    t->merge_ns = merge[0] + merge[1];
    t->forward_ns = between(r, MARK_BEGIN, MARK_FORWARD) - merge[0];
    t->embed_ns = r->token_grads || r->full ? between(r, MARK_EMBED, MARK_END) : 0;
    t->backward_ns = between(r, MARK_FORWARD, MARK_END) - merge[1] - t->embed_ns;
    t->step_ns = between(r, MARK_END, MARK_STEP);
}

// All that can be recorded, recorded or replayed.
static void run_recorded(struct launch *r, const struct work *w, const struct model_step *step)
{
    struct dev *d = r->m->dev;
    uint64_t key = plan_key(r) ^ (w->step ? step_key(r->m, step) : 0);
    if (d->row->replay(d, r->lane, key))
        return;
    d->row->record(d, r->lane, key);
    launch(r, w, step);
    d->row->record_end(d, r->lane);
}

static void slice_run(void *arg, int32_t item, int32_t lane)
{
    struct work *w = arg;
    struct launch r = run_of(w, &w->m->slice[item], lane);
    const struct model_batch *b = r.job->batch;
    const struct model_step step = {r.job, w->step, r.grad};
    assert(!w->step || r.slice->alone);
    r.slice->rows_left = r.rows;
    plan_slice(&r);
    launch_put(&r, r.dev.start, r.host.start, r.control_bytes);
    if (b->from)
        launch_put(&r, r.dev_out.x, b->from->x + (size_t)r.slice->row0 * (size_t)w->m->cfg.dim,
                   (size_t)r.rows * (size_t)w->m->cfg.dim * sizeof(float));
    if (r.job->back && !r.merge)
        plan_back(&r);
    if (w->step)
        step_put(w->m, &step);
    if (r.merge) // the host looks at which, in between
        launch(&r, w, &step);
    else
        run_recorded(&r, w, &step);
    launch_get(&r, r.out.loss, r.dev_out.loss, r.results_bytes);
    if (w->step)
        step_get(w->m, &step);
    launch_wait(&r);
    plan_outcome(&r);
    slice_times(&r);
    if (w->step)
        r.job->grad_norm = r.job->client->place->here->norm;
}

// In the order of slices: a sum that must not depend on the number of lanes.
static void slice_add(void *arg, int32_t item, int32_t lane)
{
    struct work *w = arg;
    struct model *m = w->m;
    struct slice *s = &m->slice[item];
    if (s->alone)
        return;
    float *to = m->job[s->job].grad;
    if (s->seq0 == 0)
        m->dev->row->copy(m->dev, lane, to, m->lane[lane].grad, w->n_grad * sizeof *to);
    else
        m->dev->ops->add(&m->dev->lane[lane].cx, m->lane[lane].grad, w->n_grad, to);
}

// The calls.

// Laid end to end; returns where the last one ends.
static int64_t put_spans(struct recorder *rec, const struct model *m, const struct model_job *job,
                         const struct model_times *t, bool step, int64_t t0)
{
    int64_t row_bytes = m->cfg.dim * (int64_t)sizeof(float);
    int64_t rows = job->batch->start[job->batch->n_seqs];
    int32_t client = job->client ? job->client->id : -1;
    recorder_put(rec, STAGE_FORWARD, client, t0, t->forward_ns, -1, 0, 0, 0);
    t0 += t->forward_ns;
    recorder_put(rec, STAGE_BACKWARD, client, t0, t->backward_ns, -1, 0, 0, 0);
    t0 += t->backward_ns;
    if (t->embed_ns > 0)
        recorder_put(rec, STAGE_EMBED_GRAD, client, t0, t->embed_ns, -1, 0, 0, 0);
    t0 += t->embed_ns;
    if (job->merge)
        recorder_put(rec, STAGE_MERGE, client, t0, t->merge_ns, -1, rows * row_bytes,
                     job->rows_left * row_bytes, 0);
    t0 += t->merge_ns;
    if (step)
        step_span(rec, job, t0, t->optimizer_ns);
    return t0 + t->optimizer_ns;
}

static void run_slices(struct work *w, int32_t n, struct recorder *rec)
{
    struct model *m = w->m;
    prepare(w, n);
    int64_t t0 = clock_ns();
    dev_parallel(m->dev, m->n_slices, slice_run, w->sums ? slice_add : NULL, w);
    dev_wait_all(m->dev);
    for (int32_t j = 0; j < n && w->mode == MODE_TRAIN; j++)
        loan_fetch(m, w->jobs[j].grad, m->job[j].grad, w->n_grad * sizeof(float));
    int64_t wall = clock_ns() - t0, all = 0;
    for (int32_t i = 0; i < m->n_slices; i++) {
        const struct slice *s = &m->slice[i];
        w->jobs[s->job].loss += s->loss;
        w->jobs[s->job].rows_left += s->rows_left;
        all += s->times.forward_ns + s->times.backward_ns + s->times.embed_ns + s->times.merge_ns +
               s->times.step_ns;
    }
    // Lanes work side by side: each phase gets its share of the wall time.
    double share = all > 0 ? (double)wall / (double)all : 0;
    m->times = (struct model_times){.device_ns = m->dev->lanes == 1 ? all : 0};
    for (int32_t i = 0, j = 0; j < n; j++) {
        struct model_times t = {0};
        for (; i < m->n_slices && m->slice[i].job == j; i++) {
            t.forward_ns += (int64_t)(share * (double)m->slice[i].times.forward_ns);
            t.backward_ns += (int64_t)(share * (double)m->slice[i].times.backward_ns);
            t.embed_ns += (int64_t)(share * (double)m->slice[i].times.embed_ns);
            t.merge_ns += (int64_t)(share * (double)m->slice[i].times.merge_ns);
            t.optimizer_ns += (int64_t)(share * (double)m->slice[i].times.step_ns);
        }
        m->times.forward_ns += t.forward_ns;
        m->times.backward_ns += t.backward_ns;
        m->times.embed_ns += t.embed_ns;
        m->times.merge_ns += t.merge_ns;
        m->times.optimizer_ns += t.optimizer_ns;
        if (rec)
            t0 = put_spans(rec, m, &w->jobs[j], &t, w->step, t0);
    }
}

void model_evaluate(struct model *m, struct model_job *jobs, int32_t n)
{
    struct work w = {.m = m, .jobs = jobs, .mode = MODE_EVALUATE};
    run_slices(&w, n, NULL);
}

void model_backward(struct model *m, struct model_job *jobs, int32_t n, struct recorder *rec)
{
    struct work w = {.m = m, .jobs = jobs, .mode = MODE_TRAIN, .n_grad = m->shape.n_values};
    run_slices(&w, n, rec);
}

// One lane takes a job as a whole: then its step is one recording.
void model_train_step(struct model *m, struct model_job *jobs, int32_t n,
                      const struct optim_params *p, struct recorder *rec)
{
    const bool whole = m->dev->row->slice_tokens == INT32_MAX && m->dev->lanes == 1;
    struct work w = {.m = m,
                     .jobs = jobs,
                     .mode = MODE_TRAIN,
                     .n_grad = m->shape.n_values,
                     .step = whole ? p : NULL};
    for (int32_t j = 0; j < n; j++)
        assert(jobs[j].client && jobs[j].client->place);
    run_slices(&w, n, rec);
    if (!whole)
        model_update(m, jobs, n, p, rec);
}

int32_t model_slice_rows(const struct model *m)
{
    int32_t rows = 0;
    for (int32_t i = 0; i < m->n_slices; i++)
        rows = m->slice[i].rows > rows ? m->slice[i].rows : rows;
    return rows;
}

struct model_times model_times(const struct model *m)
{
    return m->times;
}

// All weights.

int model_full_begin(struct model *m, struct err *err)
{
    if (m->shape.n_values > 0)
        return err_set(err, "all weights are trained without an adapter: set model.lora_rank = 0");
    if (m->cfg.family != 0)
        return err_set(err, "all weights are trained of a Llama alone");
    if (m->dtype != KERNEL_F32 || !m->dev->row->host)
        return err_set(err, "all weights are trained in fp32 on the CPU: set model.dtype = fp32");
    if (!m->full_grad)
        m->full_grad = device_floats(m, NULL, model_weight_count(m));
    return 0;
}

void model_full_backward(struct model *m, struct model_job *job)
{
    assert(m->full_grad && !job->token_sq && !job->embed_grad);
    struct work w = {.m = m, .jobs = job, .mode = MODE_FULL, .n_grad = model_weight_count(m)};
    run_slices(&w, 1, NULL);
}

float *model_full_weights(struct model *m)
{
    assert(m->dtype == KERNEL_F32);
    return m->weights;
}

float *model_full_gradient(struct model *m)
{
    return m->full_grad;
}

void model_full_changed(struct model *m)
{
    model_ready(m);
}
