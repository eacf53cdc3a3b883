#include "task/task.h"

#include "base/mem.h"
#include "task/chat.h"

#include <assert.h>
#include <math.h>
#include <string.h>

// the numeric task.

// Data of all clients is kept up to this size; beyond it a client's data is made when it trains.
static const double QUADRATIC_KEEP_BYTES = 64 << 20;

static int open_quadratic(struct task *t, const struct task_params *p, struct err *err)
{
    const struct quadratic_params *q = &p->quadratic;
    if (quadratic_check(q, t->clients, err))
        return -1;
    double row_bytes = sizeof(float) * ((double)q->features + q->outputs);
    double bytes = row_bytes * q->samples * t->clients;
    t->quadratic = quadratic_open(q, t->seed, t->clients, bytes <= QUADRATIC_KEEP_BYTES);
    int32_t *sizes = mem_alloc(MEM_DATA, (size_t)t->clients * sizeof *sizes);
    for (int32_t k = 0; k < t->clients; k++)
        sizes[k] = quadratic_samples(t->quadratic, k);
    t->client_sizes = sizes;
    return 0;
}

static const struct task_row task_quadratic = {
    .name = "quadratic",
    .help = "noisy heterogeneous least squares with a known optimum; no language model",
    .numeric = true,
    .open = open_quadratic,
};

// tables.

const struct task_row *const task_table[] = {
    &task_quadratic,  &task_synth_qa, &task_synth_medical,
    &task_synth_long, &task_squad,    &task_pubmedqa,
    &task_medmcqa,    &task_jsonl,    &task_instruct,
    &task_speech,     NULL,
};
const char *const task_metric_names[TASK_METRICS] = {[TASK_EXACT] = "exact",
                                                     [TASK_F1] = "f1",
                                                     [TASK_ROUGE_L] = "rouge_l",
                                                     [TASK_ACCURACY] = "accuracy"};

static const char *task_name(int32_t i)
{
    return task_table[i] ? task_table[i]->name : NULL;
}

#define ROW(f, n, d, lo, hi, h) OPT(struct task_params, f, n, d, lo, hi, "", h)
#define TEXT(f, n, d, h)        OPT_STRING(struct task_params, f, n, d, h)
const struct opt task_options[] = {
    OPT_ROW(struct task_params, name, "task.name", "synth-qa", task_name, "what is learned"),
    ROW(quadratic.features, "task.features", "100", 1, 4096, "quadratic: features d of X (d, m)"),
    ROW(quadratic.outputs, "task.outputs", "10", 1, 4096, "quadratic: outputs m of X (d, m)"),
    ROW(quadratic.samples, "task.samples", "50", 1, 1e6, "quadratic: samples of each client"),
    ROW(quadratic.het, "task.het", "0.5", 0, 100,
        "quadratic: how far clients' mean features lie apart (standard deviation)"),
    ROW(quadratic.ridge, "task.ridge", "0.1", 1e-6, 1e6, "quadratic: weight of ||X||^2 / 2"),
    ROW(quadratic.noise, "task.noise", "0.01", 0, 100,
        "quadratic: standard deviation of the noise on B"),
    TEXT(path, "task.path", "", "real data: a file, a folder, or several separated by commas"),
    TEXT(partition, "task.partition", "dirichlet",
         "who holds which data: iid, dirichlet, dirichlet:FIELD or field:NAME"),
    ROW(alpha, "task.alpha", "0.1", 1e-3, 1e6, "of the Dirichlet mixture; small = skewed"),
    ROW(client_min, "task.client_min", "40", 1, 1e6, "fewest examples of a client (synthetic)"),
    ROW(client_max, "task.client_max", "160", 1, 1e6, "most examples of a client (synthetic)"),
    ROW(test, "task.test", "256", 1, 1e6, "test examples"),
    TEXT(test_ids, "task.test_ids", "", "real data: JSON of the ids that are the test set instead"),
    TEXT(
        prompt, "task.prompt", "",
        "real data: template with {field}, [part left out without its field], \\n; empty: its own"),
    OPT_ROW(struct task_params, chat, "task.template", "plain", chat_name,
            "real data: the chat format round a prompt, as the model was trained with"),
    TEXT(system, "task.system", "",
         "real data: the system message that a chat begins with; empty: none"),
    ROW(max_tokens, "task.max_tokens", "256", 16, 65536,
        "real data: tokens of an example; a longer context is cut to a window round the answer"),
    ROW(max_answer, "task.max_answer", "32", 2, 4096,
        "real data: tokens of an answer with its end; a longer one is cut"),
    OPT_ROW(struct task_params, tokenizer, "task.tokenizer", "auto", tokenizer_name,
            "auto: words for the synthetic tasks; else by the ending of task.vocab: hf for .json, "
            "gguf, "
            "llama2c; bytes where there is none"),
    TEXT(vocab, "task.vocab", "",
         "file of the tokenizer; empty = the one that comes with model.path, where one does"),
};
const int task_option_count = ARRAY_LEN(task_options);

// opening and asking.

struct task *task_open(const struct task_params *p, uint64_t seed, int32_t clients, struct err *err)
{
    assert(clients > 0 && p->name >= 0 && p->name < (int32_t)ARRAY_LEN(task_table) - 1);
    struct task *t = mem_alloc(MEM_DATA, sizeof *t);
    t->row = task_table[p->name];
    t->metric = t->row->metric;
    t->seed = seed;
    t->clients = clients;
    if (t->row->open(t, p, err) == 0)
        return t;
    task_close(t);
    return NULL;
}

void task_close(struct task *t)
{
    if (!t)
        return;
    if (t->state)
        t->row->close(t);
    quadratic_close(t->quadratic);
    tokenizer_close(t->tokenizer);
    mem_free((void *)t->client_sizes);
    mem_free((void *)t->held);
    mem_free(t);
}

const struct examples *task_client(struct task *t, int32_t client)
{
    assert(!t->row->numeric && client >= 0 && client < t->clients);
    return t->row->client(t, client);
}

void task_forget(struct task *t, int32_t client)
{
    assert(client >= 0 && client < t->clients);
    if (t->row->forget)
        t->row->forget(t, client);
}

const struct examples *task_test(struct task *t)
{
    assert(!t->row->numeric);
    return t->row->test(t);
}

// scores.

static void add(struct score *sum, const struct score *s)
{
    sum->n++;
    sum->exact += s->exact;
    sum->f1 += s->f1;
    sum->rouge_l += s->rouge_l;
    sum->accuracy += s->accuracy;
}

static void mean(struct score *s)
{
    double n = s->n; // 0 gives NaN: no example, no score
    s->exact /= n;
    s->f1 /= n;
    s->rouge_l /= n;
    s->accuracy /= n;
}

void task_score(const struct task *t, const struct examples *set,
                const struct prediction *predictions, struct score *overall, struct score *by_group)
{
    enum { BYTES_PER_TOKEN = 64 }; // to begin with; longer pieces are rare
    *overall = (struct score){0};
    if (by_group)
        memset(by_group, 0, (size_t)t->n_groups * sizeof *by_group);
    for (int32_t i = 0; i < set->n; i++) {
        const struct example *e = &set->v[i];
        const struct prediction *p = &predictions[i];
        size_t cap = (size_t)p->n * BYTES_PER_TOKEN + 1;
        char *text = mem_alloc(MEM_DATA, cap);
        tokenizer_decode(t->tokenizer, p->tokens, p->n, text, cap);
        struct score s = score_texts(text, e->reference);
        if (!p->ended)
            s.exact = 0;
        if (t->n_labels > 0)
            s.accuracy = e->label >= 0 && score_label(text, t->labels, t->n_labels) == e->label;
        mem_free(text);
        add(overall, &s);
        if (by_group)
            add(&by_group[e->group], &s);
    }
    mean(overall);
    for (int32_t g = 0; by_group && g < t->n_groups; g++)
        mean(&by_group[g]);
}

double task_main_score(const struct task *t, const struct score *s)
{
    switch (t->metric) {
    case TASK_F1:
        return s->f1;
    case TASK_ROUGE_L:
        return s->rouge_l;
    case TASK_ACCURACY:
        return s->accuracy;
    default:
        return s->exact;
    }
}
