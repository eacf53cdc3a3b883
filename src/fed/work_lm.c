// Language models: clients fine-tune a low-rank adapter on their examples, the server scores the
// global one.
#include "fed/lm.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>

static int lm_check(const struct workload *w, const struct lm *lm, struct err *err)
{
    const struct model_config *c = model_config(lm->model);
    if (lm->task->tokenizer->vocab > c->vocab)
        return err_set(err,
                       "task.tokenizer has %d tokens, model.path = '%s' embeds %d; give the "
                       "tokenizer of the model",
                       lm->task->tokenizer->vocab, w->env.model->path, c->vocab);
    if (lm->task->max_tokens > c->max_positions)
        return err_set(err, "the task's longest example has %d tokens, the model takes %d",
                       lm->task->max_tokens, c->max_positions);
    if (w->env.model->lora_rank == 0)
        return err_set(err, "model.lora_rank = 0: there is no adapter to train; give at least 1");
    return 0;
}

static void lm_eval_open(struct lm *lm)
{
    size_t groups = lm->task->n_groups > 0 ? (size_t)lm->task->n_groups : 1;
    lm_answers_open(&lm->answers, lm->model, lm->task, task_test(lm->task)->n);
    lm->group_score = mem_alloc(MEM_DATA, groups * sizeof *lm->group_score);
}

static int lm_open(struct workload *w, struct err *err)
{
    struct lm *lm = mem_alloc(MEM_OTHER, sizeof *lm);
    w->state = lm;
    struct task_params task = *w->env.task;
    if (!task.vocab[0]) // a model's own vocabulary, where it has one
        model_vocabulary(w->env.model->path, task.vocab, sizeof task.vocab);
    lm->task = task_open(&task, w->env.seed, w->env.fed->clients, err);
    if (!lm->task || dev_open(&lm->dev, w->env.dev_kind, w->env.threads, err) ||
        dev_math(&lm->dev, w->env.math, err) || dev_buffers(&lm->dev, w->env.buffers, err))
        return -1;
    if (w->env.worker && w->env.math == KERNEL_MATH_INT8)
        return err_set(err, "dev.math = int8 answers, but has no gradients: take another to train");
    lm->model = model_open(&lm->dev, w->env.model, err);
    if (!lm->model || lm_check(w, lm, err))
        return -1;
    const struct shape *shape = model_shape(lm->model);
    for (uint32_t i = 0; i < shape->n_tensors; i++)
        shape_add(&w->shape, shape->tensors[i].name, shape->tensors[i].rows, shape->tensors[i].cols,
                  (enum shape_kind)shape->tensors[i].kind);
    lm->n = shape->n_values;
    lm->optim_n = optim_floats(w->env.optim->kind, lm->n);
    if (w->env.worker)
        lm_train_open(w, lm);
    if (w->env.server)
        lm_eval_open(lm);
    return 0;
}

static void lm_close(struct workload *w)
{
    struct lm *lm = w->state;
    lm_train_close(lm);
    lm_cut_close(lm);
    lm_side_close(lm);
    lm_answers_close(&lm->answers);
    mem_free(lm->group_score);
    mem_free(lm->like);
    if (lm->model)
        model_close(lm->model);
    if (lm->dev.row)
        dev_close(&lm->dev);
    if (lm->task)
        task_close(lm->task);
    mem_free(lm);
}

static void lm_fresh(struct workload *w, uint32_t round, float *theta)
{
    const struct lm *lm = w->state;
    model_init_adapter(lm->model, w->env.seed ^ (uint64_t)(round - 1) << 32, theta);
}

static void lm_initial(struct workload *w, float *theta)
{
    lm_fresh(w, 1, theta);
}

static int lm_backbone_form(struct workload *w, bool moves, struct err *err)
{
    struct lm *lm = w->state;
    if (moves && model_backbone_open(lm->model, err))
        return -1;
    w->n_backbone = moves ? model_product_values(lm->model) : 0;
    model_backbone_move(lm->model, NULL);
    return 0;
}

// A window counts rows, which are positions only while each token has its own.
static int lm_tokens(const struct workload *w, const struct token_source *tokens, struct err *err)
{
    const struct lm *lm = w->state;
    const struct model_config *c = model_config(lm->model);
    if (tokens->merges && c->window > 0)
        return err_set(err,
                       "tokens %s merge, and layers of this model see a window of %d tokens "
                       "(sliding_window): not supported together; take another token source",
                       tokens->name, c->window);
    return 0;
}

void lm_backbone(const struct workload *w, const float *backbone)
{
    const struct lm *lm = w->state;
    if (backbone)
        model_backbone_move(lm->model, backbone);
}

static void put_score(struct eval_result *r, const char *set, const struct score *s)
{
    const double value[TASK_METRICS] = {[TASK_EXACT] = s->exact,
                                        [TASK_F1] = s->f1,
                                        [TASK_ROUGE_L] = s->rouge_l,
                                        [TASK_ACCURACY] = s->accuracy};
    for (int m = 0; m < TASK_METRICS && r->n_rows < EVAL_MAX; m++) {
        if (isnan(value[m]) || s->n == 0)
            continue;
        struct eval_row *row = &r->rows[r->n_rows++];
        row->value = value[m];
        row->n = s->n;
        snprintf(row->set, sizeof row->set, "%s", set);
        snprintf(row->metric, sizeof row->metric, "%s", task_metric_names[m]);
    }
}

void lm_score(struct lm *lm, struct eval_result *r)
{
    const struct examples *set = task_test(lm->task);
    struct score all;
    task_score(lm->task, set, lm->answers.prediction, &all, lm->group_score);
    r->score = task_main_score(lm->task, &all);
    put_score(r, "all", &all);
    for (int32_t g = 0; g < lm->task->n_groups; g++)
        put_score(r, lm->task->groups[g], &lm->group_score[g]);
}

static void lm_evaluate(struct workload *w, const float *adapter, const float *backbone,
                        struct eval_result *r)
{
    struct lm *lm = w->state;
    const struct examples *set = task_test(lm->task);
    lm_backbone(w, backbone);
    r->score = r->loss = NAN;
    r->n_rows = 0;
    if (!lm_answers_run(&lm->answers, adapter, set, r->stop, &r->loss))
        return;
    lm_score(lm, r);
}

static bool is_like(const struct task *t, uint32_t client, const struct example *e)
{
    return !t->held || t->held[(size_t)client * (size_t)t->n_groups + (size_t)e->group] > 0;
}

// Each group by its share of the client's examples.
static double held_score(const struct lm *lm, uint32_t client, const struct score *all)
{
    const struct task *t = lm->task;
    double sum = 0, weight = 0;
    for (int32_t g = 0; t->held && g < t->n_groups; g++) {
        const struct score *s = &lm->group_score[g];
        double w = t->held[(size_t)client * (size_t)t->n_groups + (size_t)g];
        if (s->n == 0)
            continue;
        sum += w * task_main_score(t, s);
        weight += w;
    }
    return weight > 0 ? sum / weight : t->held ? NAN : task_main_score(t, all);
}

// A worker has no room for answers until the first of its clients is asked.
static void lm_personal(struct workload *w, uint32_t client, const float *adapter,
                        const float *backbone, struct eval_result *r)
{
    struct lm *lm = w->state;
    const struct examples *test = task_test(lm->task);
    struct score all;
    if (!lm->answers.model)
        lm_eval_open(lm);
    if (!lm->like)
        lm->like = mem_alloc(MEM_DATA, (size_t)test->n * sizeof *lm->like);
    struct examples like = {.v = lm->like};
    for (int32_t i = 0; i < test->n; i++)
        if (is_like(lm->task, client, &test->v[i]))
            lm->like[like.n++] = test->v[i];
    r->score = r->loss = NAN;
    r->n_rows = 0;
    lm_backbone(w, backbone);
    if (!lm_answers_run(&lm->answers, adapter, &like, r->stop, &r->loss))
        return;
    task_score(lm->task, &like, lm->answers.prediction, &all, lm->group_score);
    r->score = held_score(lm, client, &all);
}

static void lm_answered(const struct workload *w, int32_t n,
                        void (*fn)(void *arg, const struct eval_answer *a), void *arg)
{
    enum { TOKEN_BYTES = 32 }; // more than most have; what does not fit is cut
    const struct lm *lm = w->state;
    const struct task *t = lm->task;
    const struct examples *set = task_test(lm->task);
    size_t size = (size_t)t->max_tokens * TOKEN_BYTES;
    char *prompt = mem_alloc(MEM_DATA, size), *answer = mem_alloc(MEM_DATA, size);
    for (int32_t i = 0; i < n && i < set->n; i++) {
        const struct example *e = &set->v[i];
        const struct prediction *p = &lm->answers.prediction[i];
        tokenizer_decode(t->tokenizer, e->tokens, e->answer, prompt, size);
        tokenizer_decode(t->tokenizer, p->tokens, p->n, answer, size);
        struct eval_answer a = {prompt, e->reference, answer, p->ended};
        fn(arg, &a);
    }
    mem_free(prompt);
    mem_free(answer);
}

static int lm_peft_write(const struct workload *w, const char *dir, const float *theta,
                         struct err *err)
{
    const struct lm *lm = w->state;
    return model_peft_write(lm->model, w->env.model, dir, theta, err);
}

static int lm_peft_read(const struct workload *w, const char *dir, float *theta, struct err *err)
{
    const struct lm *lm = w->state;
    return model_peft_read(lm->model, w->env.model, dir, theta, err);
}

static int32_t lm_vocab(const struct workload *w)
{
    const struct lm *lm = w->state;
    return model_config(lm->model)->vocab;
}

static const char *lm_score_name(const struct workload *w)
{
    const struct lm *lm = w->state;
    return task_metric_names[lm->task->metric];
}

static void lm_partition(const struct workload *w,
                         void (*fn)(void *arg, const struct rec_partition *row), void *arg)
{
    const struct task *t = ((const struct lm *)w->state)->task;
    for (int32_t c = 0; t->held && c < t->clients; c++)
        for (int32_t g = 0; g < t->n_groups; g++) {
            struct rec_partition row = {
                .n = t->held[(size_t)c * (size_t)t->n_groups + (size_t)g], .client = c, .group = g};
            snprintf(row.name, sizeof row.name, "%s", t->groups[g]);
            if (row.n > 0)
                fn(arg, &row);
        }
}

const struct workload_row work_lm = {
    .name = "language model",
    .tokens = lm_tokens,
    .open = lm_open,
    .close = lm_close,
    .initial = lm_initial,
    .fresh = lm_fresh,
    .backbone = lm_backbone_form,
    .state_floats = lm_state_floats,
    .fisher_floats = lm_fisher_floats,
    .at_once = lm_at_once,
    .reserve = lm_reserve,
    .device = lm_device,
    .train = lm_train,
    .evaluate = lm_evaluate,
    .personal = lm_personal,
    .answers = lm_answered,
    .peft_write = lm_peft_write,
    .peft_read = lm_peft_read,
    .partition = lm_partition,
    .cut = &lm_cut,
    .side = &lm_side,
    .vocab = lm_vocab,
    .score_name = lm_score_name,
};
