// The embedded task as rows: multilingual questions, medical ones, and long answers.
#include "base/mem.h"
#include "task/partition.h"
#include "task/synth.h"
#include "task/task.h"

#include <assert.h>
#include <string.h>

// Streams of RNG_DATA and RNG_PARTITION: a = client, TEST_SPLIT for the test set.
enum { PLAN = 16 };
static const uint32_t TEST_SPLIT = UINT32_MAX;

struct synth_state {
    enum synth_kind kind;
    struct partition partition;
    int32_t client_min, client_max, n_test;
    struct dataset **clients; // (clients) NULL until asked for
    struct dataset *test;
};

static const char *const topics[SYNTH_TOPICS] = {"topic0", "topic1", "topic2",
                                                 "topic3", "topic4", "topic5"};

// N_k and the group of each of a client's examples; groups may be NULL.
static int32_t plan(const struct task *t, int32_t client, int32_t *count, int32_t *groups)
{
    const struct synth_state *s = t->state;
    double mix[SYNTH_LANGUAGES];
    struct rng r = rng_stream(t->seed, RNG_PARTITION, (uint32_t)client, PLAN, 0);
    int32_t span = s->client_max - s->client_min + 1;
    int32_t n = s->client_min + (int32_t)rng_below(&r, (uint32_t)span);
    partition_mixture(&s->partition, client, t->n_groups, mix);
    for (int32_t i = 0; i < n; i++) {
        double u = rng_unit(&r);
        int32_t g = 0;
        while (g < t->n_groups - 1 && u >= mix[g])
            u -= mix[g++];
        while (mix[g] == 0) // u ran past the last share by rounding
            g--;
        if (count)
            count[g]++;
        if (groups)
            groups[i] = g;
    }
    return n;
}

static void add_example(const struct task *t, struct dataset *d, uint32_t set, uint32_t index,
                        int32_t group)
{
    const struct synth_state *s = t->state;
    struct rng r = rng_stream(t->seed, RNG_DATA, set, index, (uint32_t)s->kind);
    struct synth_example e;
    char reference[1024];
    synth_example(s->kind, &r, group, &e);
    tokenizer_decode(t->tokenizer, e.tokens + e.answer, e.n - e.answer, reference,
                     sizeof reference);
    dataset_add(d, &(struct example){.tokens = e.tokens,
                                     .n = e.n,
                                     .answer = e.answer,
                                     .group = group,
                                     .label = e.label,
                                     .reference = reference});
}

static const struct examples *synth_client(struct task *t, int32_t client)
{
    struct synth_state *s = t->state;
    if (!s->clients[client]) {
        int32_t *groups = mem_alloc(MEM_DATA, (size_t)s->client_max * sizeof *groups);
        int32_t n = plan(t, client, NULL, groups);
        struct dataset *d = dataset_open(n);
        for (int32_t i = 0; i < n; i++)
            add_example(t, d, (uint32_t)client, (uint32_t)i, groups[i]);
        mem_free(groups);
        s->clients[client] = d;
    }
    return &s->clients[client]->examples;
}

static void synth_forget(struct task *t, int32_t client)
{
    struct synth_state *s = t->state;
    dataset_close(s->clients[client]);
    s->clients[client] = NULL;
}

static const struct examples *synth_test(struct task *t)
{
    struct synth_state *s = t->state;
    if (!s->test) {
        s->test = dataset_open(s->n_test);
        for (int32_t i = 0; i < s->n_test; i++) // groups balanced
            add_example(t, s->test, TEST_SPLIT, (uint32_t)i, i % t->n_groups);
    }
    return &s->test->examples;
}

static void synth_close(struct task *t)
{
    struct synth_state *s = t->state;
    for (int32_t k = 0; k < t->clients; k++)
        dataset_close(s->clients[k]);
    dataset_close(s->test);
    mem_free(s->clients);
    mem_free(s);
}

static int check(const struct task *t, const struct task_params *p, const struct partition *q,
                 const char *group, struct err *err)
{
    if (p->client_min > p->client_max)
        return err_set(err, "task.client_min = %d is above task.client_max = %d", p->client_min,
                       p->client_max);
    if (q->field[0] && strcmp(q->field, group) != 0)
        return err_set(err, "task.partition = %s: %s has the field %s only", p->partition,
                       t->row->name, group);
    if (q->kind == PARTITION_FIELD && t->clients != t->n_groups)
        return err_set(err, "task.partition = field:%s has %d values: set fed.clients = %d",
                       q->field, t->n_groups, t->n_groups);
    if (p->tokenizer != 0 && strcmp(tokenizer_name(p->tokenizer), "words") != 0)
        return err_set(err, "task.tokenizer = %s: %s has its own; write auto or words",
                       tokenizer_name(p->tokenizer), t->row->name);
    return 0;
}

static int synth_open(struct task *t, const struct task_params *p, enum synth_kind kind,
                      struct err *err)
{
    bool medical = kind == SYNTH_MEDICAL;
    struct partition q = {.alpha = p->alpha, .seed = t->seed, .clients = t->clients};
    t->n_groups = medical ? SYNTH_TOPICS : SYNTH_LANGUAGES;
    t->groups = medical ? topics : synth_languages;
    if (partition_parse(&q, p->partition, err) ||
        check(t, p, &q, medical ? "topic" : "language", err))
        return -1;
    if (medical) {
        t->n_labels = 3;
        t->labels = synth_classes;
    }
    struct synth_state *s = mem_alloc(MEM_DATA, sizeof *s);
    *s = (struct synth_state){.kind = kind,
                              .partition = q,
                              .client_min = p->client_min,
                              .client_max = p->client_max,
                              .n_test = p->test};
    s->clients = mem_alloc(MEM_DATA, (size_t)t->clients * sizeof *s->clients);
    t->state = s;
    t->tokenizer = tokenizer_open("words", NULL, err);
    int32_t *sizes = mem_alloc(MEM_DATA, (size_t)t->clients * sizeof *sizes);
    int32_t *held = mem_alloc(MEM_DATA, (size_t)t->clients * (size_t)t->n_groups * sizeof *held);
    for (int32_t k = 0; k < t->clients; k++)
        sizes[k] = plan(t, k, held + (size_t)k * (size_t)t->n_groups, NULL);
    t->client_sizes = sizes;
    t->held = held;

    struct rng r = rng_stream(0, RNG_DATA, 0, 0, 0);
    struct synth_example e; // all of a kind are equally long
    synth_example(kind, &r, 0, &e);
    t->max_tokens = e.n;
    t->max_answer = e.n - e.answer;
    return 0;
}

static int open_qa(struct task *t, const struct task_params *p, struct err *err)
{
    return synth_open(t, p, SYNTH_QA, err);
}

static int open_medical(struct task *t, const struct task_params *p, struct err *err)
{
    return synth_open(t, p, SYNTH_MEDICAL, err);
}

static int open_long(struct task *t, const struct task_params *p, struct err *err)
{
    return synth_open(t, p, SYNTH_LONG, err);
}

#define SYNTH_METHODS                                                                              \
    .close = synth_close, .client = synth_client, .test = synth_test, .forget = synth_forget

const struct task_row task_synth_qa = {
    .name = "synth-qa",
    .help = "synthetic questions in eight languages about facts in the context; four answer tokens",
    .metric = TASK_EXACT,
    .open = open_qa,
    SYNTH_METHODS,
};

const struct task_row task_synth_medical = {
    .name = "synth-medical",
    .help = "synthetic findings by drug and disease: yes, no or maybe, then the outcome; three "
            "answer tokens",
    .metric = TASK_EXACT,
    .open = open_medical,
    SYNTH_METHODS,
};

const struct task_row task_synth_long = {
    .name = "synth-long",
    .help = "synthetic questions for three facts, restated in the order asked; 19 answer tokens",
    .metric = TASK_EXACT,
    .open = open_long,
    SYNTH_METHODS,
};
