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
    struct model *model[SIDE_TYPES]; // of the kinds that this process runs; the first is lm's own
    struct task *task[SIDE_TYPES];   // (kinds) as each reads it; where they read alike, lm's own
    size_t rows, tops;               // there is room for
    float *x, *logits;               // (layers, rows, dim); (tops, vocab), y_b in their place
    float *one;                      // of one example, as messages have it
    float *want;                     // (tops, classes) differences
    int32_t *best;                   // (tops)
    // Of classes that are not the vocabulary: their tokens; of tokens of answers (vocab) the class.
    int32_t *token[SIDE_TYPES], *class_of;
    float *pick;              // (classes) scratch
    int32_t *said, *said_len; // labels as answers: (classes, task.max_answer), (classes)
    uint32_t *order;          // (order_cap) of a client's epoch
    size_t order_cap;
    struct merging {          // (longest) each: of an example's rows
        float *alike;         // of an even row, to its match
        int32_t *to, *tokens; // its match; tokens that a row stands for
        bool *gone;
    } merging;
    struct lm_batch batch; // of the test set
    double loss;           // of what was answered since the last score
    int64_t tokens;
};

void lm_side_close(struct lm *lm)
{
    struct lm_side *s = lm->side;
    if (!s)
        return;
    void *blocks[] = {s->x,        s->logits, s->one,  s->want,     s->best,
                      s->class_of, s->pick,   s->said, s->said_len, s->order};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
    void *rows[] = {s->merging.alike, s->merging.to, s->merging.tokens, s->merging.gone};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        mem_free(rows[i]);
    for (int32_t k = 0; k < SIDE_TYPES; k++) {
        mem_free(s->token[k]);
        if (k > 0 && s->model[k])
            model_close(s->model[k]);
        if (s->task[k] != lm->task)
            task_close(s->task[k]);
    }
    lm_batch_close(&s->batch);
    mem_free(s);
    lm->side = NULL;
}

// before a run.

static const char *piece_of(const struct tokenizer *t, int32_t id, size_t *n)
{
    return t->row->piece(t, -1, id, n);
}

static bool same_tokens(const struct tokenizer *a, const struct tokenizer *b)
{
    bool same = a->vocab == b->vocab && a->bos == b->bos && a->eos == b->eos;
    for (int32_t id = 0; id < a->vocab && same; id++) {
        size_t n, m;
        const char *x = piece_of(a, id, &n), *y = piece_of(b, id, &m);
        same = n == m && memcmp(x, y, n) == 0;
    }
    return same;
}

// Where a backbone brings a vocabulary of its own, it reads the task in that: labels are the same
// classes in any words, tokens are not.
static int open_task(const struct workload *w, const struct side_plan *plan, int32_t kind,
                     struct err *err)
{
    const struct lm *lm = w->state;
    const char *path = plan->backbones.path[kind];
    struct task_params p = *w->env.task;
    lm->side->task[kind] = lm->task;
    if (!lm->task->tokenizer->row->needs_file)
        return 0; // the task has words of its own, of which files know nothing
    model_vocabulary(path, p.vocab, sizeof p.vocab);
    if (!p.vocab[0])
        return 0;
    struct task *t = task_open(&p, w->env.seed, lm->task->clients, err);
    if (t && same_tokens(t->tokenizer, lm->task->tokenizer)) {
        task_close(t);
        return 0;
    }
    if (t)
        lm->side->task[kind] = t;
    return !t ? -1
           : plan->classes == SIDE_CLASSES_LABELS
               ? 0
               : err_set(err,
                         "model.others: %.200s has another vocabulary than model.path = %.100s, "
                         "and all clients answer in the same tokens; take models of one family, "
                         "or, of a classification, classes = labels",
                         path, w->env.model->path);
}

static int open_tasks(const struct workload *w, const struct side_plan *p, struct err *err)
{
    const struct lm *lm = w->state;
    lm->side->task[0] = lm->task;
    for (int32_t k = 1; k < p->kinds; k++) {
        const char *path = p->backbones.path[k];
        const struct model_config *c = &p->backbones.config[k];
        if (open_task(w, p, k, err))
            return -1;
        const struct tokenizer *t = lm->side->task[k]->tokenizer;
        if (t->vocab > c->vocab)
            return err_set(
                err,
                "model.others: %.200s embeds %d tokens, and the task's tokenizer has %d; "
                "take models of one family",
                path, c->vocab, t->vocab);
        if (lm->task->max_tokens > c->max_positions)
            return err_set(err,
                           "model.others: %.200s takes %d tokens, and the longest example has %d",
                           path, c->max_positions, lm->task->max_tokens);
    }
    return 0;
}

static int open_models(struct workload *w, const struct side_plan *p, const bool *need,
                       struct err *err)
{
    struct lm *lm = w->state;
    lm->side->model[0] = lm->model;
    for (int32_t k = 1; k < p->kinds; k++) {
        struct model_params mp = *w->env.model;
        memcpy(mp.path, p->backbones.path[k], sizeof mp.path);
        mp.lora_rank = 0;
        if (need[k] && !(lm->side->model[k] = model_open(&lm->dev, &mp, err)))
            return -1;
    }
    return 0;
}

static void mark_answers(const struct examples *set, int32_t *class_of)
{
    for (int32_t i = 0; i < set->n; i++)
        for (int32_t k = set->v[i].answer; k < set->v[i].n; k++)
            class_of[set->v[i].tokens[k]] = 1;
}

// The tokens of all answers that the task has, ascending: which they are is part of the task, as a
// classification's labels are. How many they are.
static int32_t find_answers(struct lm *lm, struct lm_side *s, int32_t vocab)
{
    int32_t n = 0;
    s->class_of = mem_alloc(MEM_DATA, (size_t)vocab * sizeof *s->class_of);
    s->token[0] = mem_alloc(MEM_DATA, (size_t)vocab * sizeof **s->token);
    mark_answers(task_test(lm->task), s->class_of);
    for (int32_t c = 0; c < lm->task->clients; c++) {
        mark_answers(task_client(lm->task, c), s->class_of);
        task_forget(lm->task, c);
    }
    for (int32_t v = 0; v < vocab; v++) {
        bool is = s->class_of[v] > 0;
        s->class_of[v] = n;
        s->token[0][n] = v;
        n += is;
    }
    return n;
}

// The first token of each label's answers.
static int mark_labels(const struct task *t, const struct examples *set, int32_t *token,
                       struct err *err)
{
    for (int32_t i = 0; i < set->n; i++) {
        const struct example *e = &set->v[i];
        if (e->label < 0 || e->label >= t->n_labels)
            return err_set(err,
                           "classes = labels: the answer \"%.60s\" is none of the task's labels",
                           e->reference);
        token[e->label] = e->tokens[e->answer];
    }
    return 0;
}

// Of all labels, as a kind's own vocabulary has them; one that nobody has stays -1.
static int find_labels(struct lm_side *s, int32_t kind, struct err *err)
{
    struct task *t = s->task[kind];
    int32_t *token = s->token[kind] = mem_alloc(MEM_DATA, (size_t)t->n_labels * sizeof *token);
    int rc = 0;
    for (int32_t l = 0; l < t->n_labels; l++)
        token[l] = -1;
    rc = mark_labels(t, task_test(t), token, err);
    for (int32_t c = 0; c < t->clients && !rc; c++) {
        rc = mark_labels(t, task_client(t, c), token, err);
        task_forget(t, c);
    }
    return rc;
}

// What is told apart; and of labels, what is said then.
static int name_labels(struct lm *lm, const struct side_plan *p, struct err *err)
{
    struct lm_side *s = lm->side;
    const struct task *t = lm->task;
    const size_t most = (size_t)t->max_answer;
    if (t->n_labels < 2 || t->metric != TASK_ACCURACY)
        return err_set(err, "classes = labels: this task's answers are more than one of a few "
                            "labels; take classes = answers");
    for (int32_t k = 0; k < p->kinds; k++)
        if (find_labels(s, k, err))
            return -1;
    s->said = mem_alloc(MEM_DATA, (size_t)t->n_labels * most * sizeof *s->said);
    s->said_len = mem_alloc(MEM_DATA, (size_t)t->n_labels * sizeof *s->said_len);
    for (int32_t l = 0; l < t->n_labels; l++) {
        const char *text = t->labels[l];
        int32_t n = tokenizer_encode(t->tokenizer, text, strlen(text), s->said + (size_t)l * most,
                                     t->max_answer);
        s->said_len[l] = n < t->max_answer ? n : t->max_answer;
    }
    return 0;
}

static int fill_forms(struct lm *lm, struct side_plan *p, struct err *err)
{
    const bool labels = p->classes == SIDE_CLASSES_LABELS;
    int32_t classes = p->backbones.config[0].vocab, longest = lm->task->max_tokens;
    for (int32_t k = 1; k < p->kinds; k++)
        classes = p->backbones.config[k].vocab < classes ? p->backbones.config[k].vocab : classes;
    if (labels && name_labels(lm, p, err))
        return -1;
    if (p->classes != SIDE_CLASSES_VOCAB)
        classes = labels ? lm->task->n_labels : find_answers(lm, lm->side, classes);
    lm->side->pick = mem_alloc(MEM_DATA, (size_t)classes * sizeof *lm->side->pick);
    for (int32_t k = 0; k < p->kinds; k++) {
        struct side_form *f = &p->kind[k].form;
        f->dim = p->backbones.config[k].dim;
        f->classes = classes;
        f->scored = labels ? 1 : lm->task->max_answer < longest ? lm->task->max_answer : longest;
        f->rows = f->pivot ? f->scored : longest;
    }
    return 0;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int side_open_work(struct workload *w, struct side_plan *p, const bool *need,
                          struct err *err)
{
    struct lm *lm = w->state;
    const int32_t longest = lm->task->max_tokens;
    size_t floats = 0, one = 0, vocab = 0;
    lm_side_close(lm);
    struct lm_side *s = lm->side = mem_alloc(MEM_OTHER, sizeof *s);
    if (open_tasks(w, p, err) || fill_forms(lm, p, err) || open_models(w, p, need, err))
        return -1;
    const struct side_form *f = &p->kind[0].form;
    int32_t seqs = w->env.server && p->batch < SIDE_BLOCK ? SIDE_BLOCK : p->batch;
    s->tops = (size_t)seqs * (size_t)f->scored;
    s->rows = larger(s->tops, f->pivot ? 0 : (size_t)p->batch * (size_t)longest);
    for (int32_t k = 0; k < p->kinds; k++) {
        const struct side_form *form = &p->kind[k].form;
        floats = larger(floats, (size_t)form->layers * (size_t)form->dim);
        one = larger(one, side_floats(form, form->rows, form->scored));
        vocab = larger(vocab, (size_t)p->backbones.config[k].vocab);
    }
    s->x = mem_alloc(MEM_DATA, floats * s->rows * sizeof *s->x);
    if (!f->labels)
        s->logits = mem_alloc(MEM_DATA, s->tops * vocab * sizeof *s->logits);
    s->one = mem_alloc(MEM_DATA, one * sizeof *s->one);
    s->best = mem_alloc(MEM_DATA, s->tops * sizeof *s->best);
    if (w->env.server && !f->labels)
        s->want = mem_alloc(MEM_DATA, s->tops * (size_t)f->classes * sizeof *s->want);
    const size_t n = (size_t)longest;
    s->merging = (struct merging){.alike = mem_alloc(MEM_DATA, n * sizeof(float)),
                                  .to = mem_alloc(MEM_DATA, n * sizeof(int32_t)),
                                  .tokens = mem_alloc(MEM_DATA, n * sizeof(int32_t)),
                                  .gone = mem_alloc(MEM_DATA, n * sizeof(bool))};
    lm_batch_open(&s->batch, seqs, longest);
    return 0;
}

static int32_t targets_of(const struct lm_batch *b)
{
    int32_t n = 0;
    for (int32_t i = 0; i < b->start[b->batch.n_seqs]; i++)
        n += b->targets[i] >= 0;
    return n;
}

// y_b: logits become probabilities, which is what is compared with 1 at the label. Those of tokens
// that are no class leave no place between rows. token: of each class, -1 = none; NULL = itself.
static void soften(const struct lm_side *s, int32_t kind, int32_t rows, int32_t vocab,
                   int32_t classes)
{
    const int32_t *token = s->token[s->said ? kind : 0];
    float *y = s->logits;
    float *to = y;
    for (int32_t r = 0; r < rows; r++, y += vocab, to += classes) {
        float most = y[0];
        double sum = 0;
        for (int32_t k = 1; k < vocab; k++)
            most = y[k] > most ? y[k] : most;
        for (int32_t k = 0; k < vocab; k++) {
            double e = fmath_exp((double)y[k] - (double)most);
            y[k] = (float)e;
            sum += e;
        }
        for (int32_t k = 0; k < classes; k++) {
            int32_t id = token ? token[k] : k;
            s->pick[k] = id < 0 ? 0 : (float)((double)y[id] / sum);
        }
        memcpy(to, s->pick, (size_t)classes * sizeof *to);
    }
}

// A batch through the backbone; y_b is left where differences need it. Returns rows of each layer.
static int32_t read_layers(struct lm *lm, const struct side_plan *p, int32_t kind,
                           struct lm_batch *b, bool all)
{
    struct lm_side *s = lm->side;
    const struct side_kind *k = &p->kind[kind];
    int32_t tops = targets_of(b);
    struct model_tap tap = {.n = k->form.layers,
                            .layer = k->layer,
                            .all = all,
                            .rows = all ? b->start[b->batch.n_seqs] : tops,
                            .x = s->x,
                            .logits = k->form.labels ? NULL : s->logits};
    struct model_job job = {.batch = &b->batch, .tap = &tap};
    b->batch.weights = NULL;
    model_evaluate(s->model[kind], &job, 1);
    if (tap.logits)
        soften(s, kind, tops, model_config(s->model[kind])->vocab, k->form.classes);
    return tap.rows;
}

// Of a classification the prompt alone, whose last row is asked for the label.
static void add_example(const struct lm_side *s, struct lm_batch *b, const struct example *e)
{
    struct example asked = *e;
    asked.n = s->said ? e->answer + 1 : e->n;
    lm_batch_add(b, &asked);
    if (s->said)
        b->targets[b->start[b->batch.n_seqs] - 1] = e->label;
}

// Targets become classes; those that are none stay below 0.
static void name_classes(const struct lm_side *s, struct lm_batch *b)
{
    for (int32_t i = 0; s->class_of && i < b->start[b->batch.n_seqs]; i++)
        if (b->targets[i] >= 0)
            b->targets[i] = s->class_of[b->targets[i]];
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

static float cosine(const float *a, const float *b, size_t dim)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t k = 0; k < dim; k++) {
        ab += (double)a[k] * (double)b[k];
        aa += (double)a[k] * (double)a[k];
        bb += (double)b[k] * (double)b[k];
    }
    return aa > 0 && bb > 0 ? (float)(ab / sqrt(aa * bb)) : 0;
}

// Of `open` rows without a loss, those at even places each find the most alike at an odd one, by
// the last layer; marks the n that are most alike to theirs as gone.
static void match_rows(struct merging *m, const float *last, size_t dim, int32_t open, int32_t n)
{
    for (int32_t i = 0; i < open; i++) {
        m->tokens[i] = 1;
        m->gone[i] = false;
        m->alike[i] = -2;
        for (int32_t j = 1; i % 2 == 0 && j < open; j += 2) {
            float c = cosine(last + (size_t)i * dim, last + (size_t)j * dim, dim);
            m->to[i] = c > m->alike[i] ? j : m->to[i];
            m->alike[i] = c > m->alike[i] ? c : m->alike[i];
        }
    }
    for (; n > 0; n--) {
        int32_t best = 0;
        for (int32_t i = 2; i < open; i += 2)
            if (!m->gone[i] && (m->gone[best] || m->alike[i] > m->alike[best]))
                best = i;
        m->gone[best] = true;
    }
}

// Rows without a loss merge before they are sent, the same in all layers: each into the mean of
// what it goes to. x: (layers, rows, dim), so many of them open; returns rows that are left.
static int32_t merge_rows(struct merging *m, const struct side_form *f, double ratio, float *x,
                          int32_t rows, int32_t open)
{
    const size_t dim = (size_t)f->dim, each = (size_t)rows * dim;
    int32_t n = (int32_t)(ratio * open), left = rows - n;
    if (n <= 0 || open < 2)
        return rows;
    match_rows(m, x + (size_t)(f->layers - 1) * each, dim, open, n);
    for (int32_t l = 0; l < f->layers; l++) {
        float *from = x + (size_t)l * each, *to = x + (size_t)l * (size_t)left * dim;
        for (int32_t i = 0; i < open; i++)
            m->tokens[i] = 1;
        for (int32_t i = 0; i < open; i += 2) {
            float *row = from + (size_t)m->to[i] * dim;
            float t = (float)m->tokens[m->to[i]];
            for (size_t k = 0; m->gone[i] && k < dim; k++)
                row[k] = (row[k] * t + from[(size_t)i * dim + k]) / (t + 1);
            m->tokens[m->to[i]] += m->gone[i];
        }
        for (int32_t i = 0; i < rows; i++) {
            if (i < open && m->gone[i])
                continue;
            memmove(to, from + (size_t)i * dim, dim * sizeof *to);
            to += dim;
        }
    }
    return left;
}

struct giving { // examples of a batch, on their way out
    const struct side_form *form;
    double merge;
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
    const struct side_form *f = g->form;
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
        row += e.rows;
        e.rows = merge_rows(&s->merging, f, g->merge, e.x, e.rows, e.rows - e.scored);
        n = (size_t)e.rows * dim;
        if (!f->labels)
            put_differences(f, s->logits + (size_t)top * (size_t)f->classes, b->targets + first,
                            e.scored, e.x + (size_t)f->layers * n);
        rc = g->to->pass(g->to->arg, g->head, &e, f->labels ? b->targets + first : NULL, err);
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
    const int32_t kind = p->of[job->client];
    struct task *task = lm->side->task[kind];
    const struct examples *own = task_client(task, (int32_t)job->client);
    struct side_head head = {.held = (uint32_t)own->n, .from = job->ask};
    const struct side_form *f = &p->kind[kind].form;
    struct giving g = {.form = f,
                       .merge = p->merge,
                       .to = &to,
                       .head = &head,
                       .seed = w->env.seed,
                       .client = job->client};
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
            add_example(lm->side, b, &own->v[order[at]]);
        name_classes(lm->side, b);
        int32_t n = read_layers(lm, p, kind, b, !f->pivot);
        job->dur_ns += clock_ns() - t;
        rows += b->start[b->batch.n_seqs];
        rc = give_batch(lm, &g, b, n, err);
    }
    task_forget(task, (int32_t)job->client);
    int64_t row_bytes = f->dim * (int64_t)sizeof(float);
    recorder_put(rec, STAGE_TRAIN, (int32_t)job->client, t0, job->dur_ns, -1, rows * row_bytes, 0,
                 0);
    return rc;
}

// the server.

struct scoring {
    struct lm *lm;
    const struct side_plan *plan;
    int32_t kind, first, step; // of the test set
    struct side *net;
};

// The likeliest token at every target of the batch.
static void say(const struct scoring *v, struct lm_batch *b, struct side_batch *sb)
{
    struct lm_side *s = v->lm->side;
    const struct side_kind *kind = &v->plan->kind[v->kind];
    int32_t n = read_layers(v->lm, v->plan, v->kind, b, false);
    size_t dim = (size_t)kind->form.dim;
    *sb = (struct side_batch){.type = v->kind, .rows = n, .scored = n};
    for (int32_t l = 0; l < v->plan->layers; l++) {
        float *to = side_input(v->net, sb, l);
        const float *x = s->x + (size_t)kind->from[l] * (size_t)n * dim;
        for (int32_t r = 0; r < n; r++)
            side_put_row(v->net, v->kind, x + (size_t)r * dim,
                         to + r * side_stride(v->net, v->kind));
    }
    side_forward(v->net, sb);
    side_best(v->net, sb, kind->form.labels ? NULL : s->logits, s->best);
    for (int32_t r = 0; s->class_of && r < n; r++)
        s->best[r] = s->token[0][s->best[r]];
}

static void add_loss(struct scoring *v, const struct lm_batch *b, const struct side_batch *sb)
{
    struct lm_side *s = v->lm->side;
    const struct side_form *f = &v->plan->kind[v->kind].form;
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
    s->loss += side_loss_of(v->net, sb, &a) * n;
    s->tokens += n;
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

static int32_t question(const struct scoring *v, int32_t i)
{
    return v->first + i * v->step;
}

static int32_t *text_of(const struct scoring *v, int32_t i)
{
    const struct lm_answers *a = &v->lm->answers;
    return a->text + (size_t)question(v, i) * (size_t)a->task->max_answer;
}

// One token more for each of the questions that go on. Returns how many those are.
static int32_t go_on(const struct scoring *v, const struct example *set, int32_t n)
{
    struct lm_answers *a = &v->lm->answers;
    struct lm_side *s = v->lm->side;
    struct side_batch sb;
    int32_t max = a->task->max_answer, active[SIDE_BLOCK], m = 0;
    lm_batch_clear(&s->batch);
    for (int32_t i = 0; i < n; i++) {
        const struct example *e = &set[question(v, i)];
        const int32_t *out = text_of(v, i);
        int32_t len = a->text_len[i], at = s->batch.start[m];
        if (a->ended[i] || len >= max || e->answer + len >= a->task->max_tokens)
            continue;
        memcpy(s->batch.tokens + at, e->tokens, (size_t)e->answer * sizeof *out);
        memcpy(s->batch.tokens + at + e->answer, out, (size_t)len * sizeof *out);
        for (int32_t k = 0; k < e->answer + len; k++)
            s->batch.targets[at + k] = k == e->answer + len - 1 ? 0 : -1;
        s->batch.start[m + 1] = at + e->answer + len;
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
            text_of(v, i)[a->text_len[i]++] = s->best[k];
    }
    return m;
}

// Labels, as answers.
static void name_block(const struct scoring *v, int32_t n)
{
    const struct lm_side *s = v->lm->side;
    struct lm_answers *a = &v->lm->answers;
    for (int32_t i = 0; i < n; i++)
        a->prediction[question(v, i)] = (struct prediction){
            .tokens = s->said + (size_t)s->best[i] * (size_t)a->task->max_answer,
            .n = s->said_len[s->best[i]],
            .ended = true};
}

// Tokens, until all have ended.
static void say_block(struct scoring *v, const struct example *set, int32_t n)
{
    struct lm_answers *a = &v->lm->answers;
    struct lm_side *s = v->lm->side;
    int32_t eos = a->task->tokenizer->eos, top = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct example *e = &set[question(v, i)];
        int32_t *text = text_of(v, i), len = accept(e, s->best + top, text);
        a->ended[i] = len > 0 && text[len - 1] == eos;
        a->text_len[i] = len - a->ended[i];
        top += e->n - e->answer;
    }
    while (go_on(v, set, n) > 0)
        ;
    for (int32_t i = 0; i < n; i++)
        a->prediction[question(v, i)] =
            (struct prediction){.tokens = text_of(v, i), .n = a->text_len[i], .ended = a->ended[i]};
}

static void answer_block(struct scoring *v, const struct example *set, int32_t n)
{
    struct lm_side *s = v->lm->side;
    struct side_batch sb;
    lm_batch_clear(&s->batch);
    for (int32_t i = 0; i < n; i++)
        add_example(s, &s->batch, &set[question(v, i)]);
    name_classes(s, &s->batch);
    say(v, &s->batch, &sb);
    add_loss(v, &s->batch, &sb);
    if (s->said)
        name_block(v, n);
    else
        say_block(v, set, n);
}

static bool side_answer(struct workload *w, const struct side_plan *p, int32_t kind,
                        struct side *net, int32_t first, int32_t step,
                        const volatile sig_atomic_t *stop)
{
    struct lm *lm = w->state;
    const struct examples *set = task_test(lm->side->task[kind]);
    struct scoring v = {
        .lm = lm, .plan = p, .kind = kind, .first = first, .step = step, .net = net};
    while (v.first < set->n) {
        int32_t left = (set->n - v.first + step - 1) / step;
        int32_t n = left < SIDE_BLOCK ? left : SIDE_BLOCK;
        if (stop && *stop)
            return false;
        answer_block(&v, set->v, n);
        v.first += n * step;
    }
    return true;
}

static void side_score(struct workload *w, struct eval_result *r)
{
    struct lm *lm = w->state;
    struct lm_side *s = lm->side;
    r->n_rows = 0;
    r->loss = s->tokens > 0 ? s->loss / (double)s->tokens : NAN;
    s->loss = 0;
    s->tokens = 0;
    lm_score(lm, r);
}

const struct side_work lm_side = {
    .open = side_open_work, .examples = side_examples, .answer = side_answer, .score = side_score};
