#include "fed/personal.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The worker.

static void tell(struct clients *c, uint32_t client, const char *metric, double value)
{
    struct rec_eval row = {.value = value, .n = -1, .version = (int32_t)c->version};
    if (isnan(value) || c->n_scores == c->scores_cap)
        return;
    snprintf(row.set, sizeof row.set, "client %u", client);
    snprintf(row.metric, sizeof row.metric, "%s", metric);
    c->scores[c->n_scores++] = row;
}

void personal_measure(struct clients *c, int n)
{
    const struct fed_env *env = c->env;
    struct workload *work = env->work;
    struct recorder *rec = env->rec;
    if (env->fed->evaluate != FED_EVALUATE_PERSONAL || !fed_scored(env->fed, c->version))
        return;
    for (int i = 0; i < n; i++) {
        const struct train_job *job = &c->job[i];
        struct eval_result r = {.score = NAN, .loss = NAN};
        struct span span = span_begin(rec);
        for (size_t k = 0; k < c->n; k++)
            c->trained[k] = job->theta[k] + job->delta[k];
        if (!job->failed && !c->task[i].missing)
            work->row->personal(work, job->client, local_expand(&work->rules, c->trained),
                                work->n_backbone ? job->theta + c->n : NULL, &r);
        span_end(rec, span, STAGE_EVALUATE, (int32_t)job->client, 0, 0);
        tell(c, job->client, work->row->score_name(work), r.score);
        tell(c, job->client, "loss", r.loss);
    }
}

// The server.

struct personal *personal_open(int32_t clients)
{
    struct personal *p = mem_alloc(MEM_SERVER, sizeof *p);
    p->clients = clients;
    p->of = mem_alloc(MEM_SERVER, (size_t)clients * sizeof *p->of);
    return p;
}

void personal_close(struct personal *p)
{
    if (p)
        mem_free(p->of);
    mem_free(p);
}

void personal_begin(struct personal *p, uint32_t version)
{
    p->version = version;
    for (int32_t i = 0; i < p->clients; i++)
        p->of[i] = (struct personal_score){NAN, NAN};
}

void personal_take(struct personal *p, const struct rec_eval *row)
{
    static const char head[] = "client ";
    const size_t n = sizeof head - 1;
    char set[sizeof row->set], *end;
    memcpy(set, row->set, sizeof set);
    set[sizeof set - 1] = '\0';
    if (row->version != (int32_t)p->version || strncmp(set, head, n) != 0 || set[n] < '0' ||
        set[n] > '9' || !isfinite(row->value))
        return;
    unsigned long client = strtoul(set + n, &end, 10);
    if (*end || client >= (unsigned long)p->clients)
        return;
    bool loss = strncmp(row->metric, "loss", sizeof row->metric) == 0;
    *(loss ? &p->of[client].loss : &p->of[client].score) = row->value;
}

static void put_row(const struct personal *p, const struct fed_env *env,
                    const struct fed_sink *sink, int32_t client, const char *metric, double value,
                    int64_t n)
{
    struct rec_eval row = {.value = value,
                           .n = n,
                           .run = env->rec->run,
                           .version = (int32_t)p->version,
                           .attempt = env->rec->attempt};
    snprintf(row.set, sizeof row.set, client < 0 ? "all" : "client %d", client);
    snprintf(row.metric, sizeof row.metric, "%s", metric);
    if (!isnan(value))
        sink->rows(sink->arg, REC_EVAL, &row, 1);
}

// Clients count alike, in their order: workers tell in any.
void personal_mean(const struct personal *p, const struct fed_env *env, const struct fed_sink *sink,
                   struct personal_score *mean)
{
    const char *const score = env->work->row->score_name(env->work);
    int64_t scores = 0, losses = 0;
    *mean = (struct personal_score){0, 0};
    for (int32_t i = 0; i < p->clients; i++) {
        const struct personal_score *of = &p->of[i];
        put_row(p, env, sink, i, score, of->score, -1);
        put_row(p, env, sink, i, "loss", of->loss, -1);
        mean->score += isnan(of->score) ? 0 : of->score;
        mean->loss += isnan(of->loss) ? 0 : of->loss;
        scores += !isnan(of->score);
        losses += !isnan(of->loss);
    }
    mean->score = scores ? mean->score / (double)scores : NAN;
    mean->loss = losses ? mean->loss / (double)losses : NAN;
    put_row(p, env, sink, -1, score, mean->score, scores);
    put_row(p, env, sink, -1, "loss", mean->loss, losses);
}

// FedSA-LoRA (Guo et al. 2025): A is everybody's, B the client's own. The version's B stays as it
// was at the start, and what a client has learned beside it lies in its slot, B behind B.

static size_t own_floats(const struct shape *shape)
{
    size_t n = 0;
    for (uint32_t i = 0; i < shape->n_tensors; i++)
        if (shape->tensors[i].kind == SHAPE_LORA_B)
            n += (size_t)shape->tensors[i].rows * shape->tensors[i].cols;
    return n;
}

// Gives x what the client has beside each of the version's B; or keeps what x has.
static void each_own(const struct local *l, float *x, bool keep)
{
    const struct shape *shape = l->setup->shape;
    const float *theta = l->job->theta;
    float *own = l->job->own[0];
    for (uint32_t i = 0; i < shape->n_tensors; i++) {
        const struct shape_tensor *t = &shape->tensors[i];
        const size_t end = t->offset + (size_t)t->rows * t->cols;
        for (size_t k = t->offset; t->kind == SHAPE_LORA_B && k < end; k++, own++)
            if (keep)
                *own = x[k] - theta[k];
            else
                x[k] += *own;
    }
}

static void own_begin(struct local *l)
{
    each_own(l, l->job->delta, false);
}

static const float *own_end(struct local *l)
{
    each_own(l, l->job->delta, true);
    return NULL;
}

static const struct local_rule own_rule = {.begin = own_begin, .end = own_end};

static int fedsa_check(const struct fed_env *env, struct err *err)
{
    if (env->fed->evaluate != FED_EVALUATE_PERSONAL)
        return err_set(err, "scheme fedsa: the server has no B and so no model to evaluate; set "
                            "fed.evaluate = personal");
    return 0;
}

const struct scheme scheme_fedsa = {
    .name = "fedsa",
    .help = "A is shared and averaged, B is trained with it and stays with its client, in its slot "
            "between rounds",
    .source = "Guo et al. 2025, FedSA-LoRA; clients are evaluated with their own B",
    .server = &server_sync,
    .worker = &worker_sync,
    .check = fedsa_check,
    .keeps = true,
    .client_vectors = 1,
    .client_floats = own_floats,
    .local = &own_rule,
    .commit = scheme_mean,
};
