// Layers read for a network beside the model: clients send them of their examples, the server has
// model and network answer together.
#include "fed/lm.h"

#include "base/fmath.h"
#include "base/mem.h"
#include "fed/side_plan.h"

#include <math.h>
#include <string.h>

#define SIDE_BLOCK 32 // examples at once, of the test set

struct lm_side {
    size_t rows, tops; // there is room for
    float *x, *logits; // (layers, rows, dim); (tops, vocab), y_b in their place
    float *one;        // of one example, as messages have it
    float *want;       // (tops, vocab) differences
    int32_t *best;     // (tops)
    uint32_t *order;   // (order_cap) of a client's epoch
    size_t order_cap;
    struct lm_batch batch; // of the test set
};

void lm_side_close(struct lm *lm)
{
    struct lm_side *s = lm->side;
    if (!s)
        return;
    void *blocks[] = {s->x, s->logits, s->one, s->want, s->best, s->order};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
    lm_batch_close(&s->batch);
    mem_free(s);
    lm->side = NULL;
}

static void side_open_work(struct workload *w, struct side_plan *p)
{
    struct lm *lm = w->state;
    const struct model_config *c = model_config(lm->model);
    struct side_form *f = &p->form;
    int32_t longest = lm->task->max_tokens;
    f->dim = c->dim;
    f->classes = c->vocab;
    f->scored = lm->task->max_answer < longest ? lm->task->max_answer : longest;
    f->rows = f->pivot ? f->scored : longest;
    lm_side_close(lm);
    struct lm_side *s = lm->side = mem_alloc(MEM_OTHER, sizeof *s);
    int32_t seqs = w->env.server && p->batch < SIDE_BLOCK ? SIDE_BLOCK : p->batch;
    s->tops = (size_t)seqs * (size_t)f->scored;
    s->rows = f->pivot ? s->tops : (size_t)p->batch * (size_t)longest;
    s->rows = s->tops > s->rows ? s->tops : s->rows;
    s->x = mem_alloc(MEM_DATA, (size_t)f->layers * s->rows * (size_t)f->dim * sizeof *s->x);
    if (!f->labels)
        s->logits = mem_alloc(MEM_DATA, s->tops * (size_t)f->classes * sizeof *s->logits);
    s->one = mem_alloc(MEM_DATA, side_floats(f, f->rows, f->scored) * sizeof *s->one);
    s->best = mem_alloc(MEM_DATA, s->tops * sizeof *s->best);
    if (w->env.server && !f->labels)
        s->want = mem_alloc(MEM_DATA, s->tops * (size_t)f->classes * sizeof *s->want);
    lm_batch_open(&s->batch, seqs, longest);
}

static int32_t targets_of(const struct lm_batch *b)
{
    int32_t n = 0;
    for (int32_t i = 0; i < b->start[b->batch.n_seqs]; i++)
        n += b->targets[i] >= 0;
    return n;
}

// y_b: logits become probabilities, which is what is compared with 1 at the label.
static void soften(float *y, int32_t rows, int32_t classes)
{
    for (int32_t r = 0; r < rows; r++, y += classes) {
        float most = y[0];
        double sum = 0;
        for (int32_t k = 1; k < classes; k++)
            most = y[k] > most ? y[k] : most;
        for (int32_t k = 0; k < classes; k++) {
            double e = fmath_exp((double)y[k] - (double)most);
            y[k] = (float)e;
            sum += e;
        }
        for (int32_t k = 0; k < classes; k++)
            y[k] = (float)((double)y[k] / sum);
    }
}

// A batch through the backbone; y_b is left where differences need it. Returns rows of each layer.
static int32_t read_layers(struct lm *lm, const struct side_plan *p, struct lm_batch *b, bool all)
{
    struct lm_side *s = lm->side;
    int32_t tops = targets_of(b);
    struct model_tap tap = {.n = p->form.layers,
                            .layer = p->layer,
                            .all = all,
                            .rows = all ? b->start[b->batch.n_seqs] : tops,
                            .x = s->x,
                            .logits = p->form.labels ? NULL : s->logits};
    struct model_job job = {.batch = &b->batch, .tap = &tap};
    b->batch.weights = NULL;
    model_evaluate(lm->model, &job, 1);
    if (tap.logits)
        soften(s->logits, tops, p->form.classes);
    return tap.rows;
}

// clients.

// 1 at the label, less y_b.
static void put_differences(const struct side_form *f, const float *y, const int32_t *label,
                            int32_t n, float *to)
{
    for (int32_t r = 0; r < n; r++, y += f->classes, to += f->classes)
        for (int32_t k = 0; k < f->classes; k++)
            to[k] = (float)(k == label[r]) - y[k];
}

struct giving { // examples of a batch, on their way out
    const struct side_plan *plan;
    const struct side_end *to;
    const struct side_head *head;
    const uint32_t *order; // of the batch's first
    uint64_t seed;
    uint32_t client;
};

static int give_batch(struct lm *lm, const struct giving *g, const struct lm_batch *b, int32_t rows,
                      struct err *err)
{
    struct lm_side *s = lm->side;
    const struct side_form *f = &g->plan->form;
    const size_t dim = (size_t)f->dim;
    int32_t row = 0, top = 0, rc = 0;
    for (int32_t q = 0; q < b->batch.n_seqs && rc == 0; q++) {
        int32_t first = b->start[q], end = b->start[q + 1];
        while (b->targets[first] < 0)
            first++;
        struct side_example e = {.id = side_id(g->seed, g->client, g->order[q]),
                                 .rows = f->pivot ? end - first : end - b->start[q],
                                 .scored = end - first,
                                 .x = s->one};
        size_t n = (size_t)e.rows * dim;
        for (size_t l = 0; l < (size_t)f->layers; l++)
            memcpy(e.x + l * n, s->x + (l * (size_t)rows + (size_t)row) * dim, n * sizeof *e.x);
        if (!f->labels)
            put_differences(f, s->logits + (size_t)top * (size_t)f->classes, b->targets + first,
                            e.scored, e.x + (size_t)f->layers * n);
        rc = g->to->pass(g->to->arg, g->head, &e, f->labels ? b->targets + first : NULL, err);
        row += e.rows;
        top += e.scored;
    }
    return rc;
}

static const uint32_t *order_of(struct lm *lm, uint64_t seed, uint32_t client, uint32_t epoch,
                                uint32_t held)
{
    struct lm_side *s = lm->side;
    s->order = mem_grow(MEM_DATA, s->order, 0, held, &s->order_cap, sizeof *s->order);
    side_order(seed, client, epoch, held, s->order);
    return s->order;
}

static int side_examples(struct workload *w, const struct side_plan *p, struct train_job *job,
                         struct side_end to, struct recorder *rec, struct err *err)
{
    struct lm *lm = w->state;
    struct lm_batch *b = &lm->batch[0];
    const struct examples *own = task_client(lm->task, (int32_t)job->client);
    struct side_head head = {.held = (uint32_t)own->n, .from = job->ask};
    struct giving g = {
        .plan = p, .to = &to, .head = &head, .seed = w->env.seed, .client = job->client};
    int64_t t0 = clock_ns(), rows = 0;
    int rc = 0;
    head.count = (uint32_t)side_chunk(p, head.held, head.from);
    job->samples = (int32_t)head.count;
    job->dur_ns = 0;
    const uint32_t *order =
        order_of(lm, w->env.seed, job->client, head.from / head.held, head.held);
    order += head.from % head.held;
    for (uint32_t at = 0; at < head.count && rc == 0;) {
        int64_t t = clock_ns();
        lm_batch_clear(b);
        g.order = order + at;
        for (int32_t i = 0; i < p->batch && at < head.count; i++, at++)
            lm_batch_add(b, &own->v[order[at]]);
        int32_t n = read_layers(lm, p, b, !p->form.pivot);
        job->dur_ns += clock_ns() - t;
        rows += b->start[b->batch.n_seqs];
        rc = give_batch(lm, &g, b, n, err);
    }
    task_forget(lm->task, (int32_t)job->client);
    int64_t row_bytes = model_config(lm->model)->dim * (int64_t)sizeof(float);
    recorder_put(rec, STAGE_TRAIN, (int32_t)job->client, t0, job->dur_ns, -1, rows * row_bytes, 0,
                 0);
    return rc;
}

// the server.

struct scoring {
    struct lm *lm;
    const struct side_plan *plan;
    struct side *net;
    double loss;
    int64_t tokens;
};

// The likeliest token at every target of the batch.
static void say(const struct scoring *v, struct lm_batch *b, struct side_batch *sb)
{
    struct lm_side *s = v->lm->side;
    const struct side_form *f = &v->plan->form;
    int32_t n = read_layers(v->lm, v->plan, b, false);
    size_t dim = (size_t)f->dim;
    *sb = (struct side_batch){.rows = n, .scored = n};
    for (int32_t l = 0; l < f->layers; l++) {
        float *to = side_input(v->net, sb, l);
        for (int32_t r = 0; r < n; r++)
            memcpy(to + r * side_stride(v->net, 0),
                   s->x + ((size_t)l * (size_t)n + (size_t)r) * dim, dim * sizeof *to);
    }
    side_forward(v->net, sb);
    side_best(v->net, sb, f->labels ? NULL : s->logits, s->best);
}

static void add_loss(struct scoring *v, const struct lm_batch *b, const struct side_batch *sb)
{
    struct lm_side *s = v->lm->side;
    const struct side_form *f = &v->plan->form;
    struct side_answer a = {.loss = f->labels ? SIDE_CE : SIDE_L2};
    int32_t n = 0, *label = s->batch.targets; // in place: targets come before where they go
    for (int32_t i = 0; i < b->start[b->batch.n_seqs]; i++)
        if (b->targets[i] >= 0)
            label[n++] = b->targets[i];
    a.label = label;
    if (!f->labels) {
        put_differences(f, s->logits, label, n, s->want);
        a.target = s->want;
    }
    v->loss += side_loss_of(v->net, sb, &a) * n;
    v->tokens += n;
}

// What was said of an answer that is given: right up to the first wrong token, which is said, too.
static int32_t accept(const struct example *e, const int32_t *best, int32_t *out)
{
    int32_t n = 0;
    while (n < e->n - e->answer && best[n] == e->tokens[e->answer + n])
        n++;
    bool wrong = n < e->n - e->answer;
    memcpy(out, best, (size_t)(n + wrong) * sizeof *out);
    return n + wrong;
}

// One token more for each of the examples that go on. Returns how many those are.
static int32_t go_on(const struct scoring *v, const struct example *set, int32_t n)
{
    struct lm_answers *a = &v->lm->answers;
    struct lm_side *s = v->lm->side;
    struct side_batch sb;
    int32_t max = a->task->max_answer, active[SIDE_BLOCK], m = 0;
    lm_batch_clear(&s->batch);
    for (int32_t i = 0; i < n; i++) {
        const int32_t *out = a->text + i * max;
        int32_t len = a->text_len[i], at = s->batch.start[m];
        if (a->ended[i] || len >= max || set[i].answer + len >= a->task->max_tokens)
            continue;
        memcpy(s->batch.tokens + at, set[i].tokens, (size_t)set[i].answer * sizeof *out);
        memcpy(s->batch.tokens + at + set[i].answer, out, (size_t)len * sizeof *out);
        for (int32_t k = 0; k < set[i].answer + len; k++)
            s->batch.targets[at + k] = k == set[i].answer + len - 1 ? 0 : -1;
        s->batch.start[m + 1] = at + set[i].answer + len;
        active[m++] = i;
    }
    s->batch.batch.n_seqs = m;
    if (m == 0)
        return 0;
    say(v, &s->batch, &sb);
    for (int32_t k = 0; k < m; k++) {
        int32_t i = active[k];
        a->ended[i] = s->best[k] == a->task->tokenizer->eos;
        if (!a->ended[i])
            a->text[i * max + a->text_len[i]++] = s->best[k];
    }
    return m;
}

static void score_block(struct scoring *v, const struct example *set, int32_t first, int32_t n)
{
    struct lm_answers *a = &v->lm->answers;
    struct lm_side *s = v->lm->side;
    struct side_batch sb;
    int32_t max = a->task->max_answer, eos = a->task->tokenizer->eos, top = 0;
    int32_t *text = a->text;
    lm_batch_clear(&s->batch);
    for (int32_t i = 0; i < n; i++)
        lm_batch_add(&s->batch, &set[first + i]);
    say(v, &s->batch, &sb);
    a->text = text + (size_t)first * (size_t)max; // of the block, while it is at work
    for (int32_t i = 0; i < n; i++) {
        const struct example *e = &set[first + i];
        int32_t len = accept(e, s->best + top, a->text + i * max);
        a->ended[i] = len > 0 && a->text[i * max + len - 1] == eos;
        a->text_len[i] = len - a->ended[i];
        top += e->n - e->answer;
    }
    add_loss(v, &s->batch, &sb);
    while (go_on(v, set + first, n) > 0)
        ;
    for (int32_t i = 0; i < n; i++)
        a->prediction[first + i] = (struct prediction){
            .tokens = a->text + i * max, .n = a->text_len[i], .ended = a->ended[i]};
    a->text = text;
}

static void side_evaluate(struct workload *w, const struct side_plan *p, struct side *net,
                          struct eval_result *r)
{
    struct lm *lm = w->state;
    const struct examples *set = task_test(lm->task);
    struct scoring v = {.lm = lm, .plan = p, .net = net};
    r->score = r->loss = NAN;
    r->n_rows = 0;
    for (int32_t at = 0; at < set->n; at += SIDE_BLOCK) {
        if (r->stop && *r->stop)
            return;
        score_block(&v, set->v, at, set->n - at < SIDE_BLOCK ? set->n - at : SIDE_BLOCK);
    }
    r->loss = v.tokens > 0 ? v.loss / (double)v.tokens : NAN;
    lm_score(lm, r);
}

static int32_t side_layers(const struct workload *w)
{
    return model_config(((const struct lm *)w->state)->model)->layers;
}

const struct side_work lm_side = {.layers = side_layers,
                                  .open = side_open_work,
                                  .examples = side_examples,
                                  .evaluate = side_evaluate};
