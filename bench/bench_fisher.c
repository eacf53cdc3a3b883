// What Fed-FSTQ's policy adds to a training step: the step without it, and with and without a
// refresh, in turn.
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/stats.h"
#include "base/table.h"
#include "bench/step.h"
#include "model/tokens.h"

#include <stdio.h>
#include <string.h>

static struct step_params params;

// Fed-FSTQ's own work on a step: masks, scores and the diagonal Fisher.

enum { PART_MASK, PART_EMBED, PART_REFRESH, PART_ACCUMULATE, PART_OWN, PART_REST, PARTS };
enum { KEPT = 1024 }; // steps, the last ones

struct policy {
    struct step *s;
    bool masks, refresh;
    struct token_opts opt;
    struct token_tracker *tracker; // (n_jobs)
    struct model_client *client;   // (n_jobs) the step's, that keep averages
    float *memory, *diagonal, *weights;
    double part_ns[PARTS][KEPT]; // own: the parts together; rest: of the step
    int64_t steps;
};

static void policy_open(struct policy *p, struct step *s, const struct step_shape *r, int32_t place)
{
    size_t n = model_shape(s->m)->n_values, jobs = (size_t)s->n_jobs;
    int32_t keys = r->c.vocab > r->seq + 1 ? r->c.vocab : r->seq + 1;
    size_t floats = token_tracker_floats(keys);
    p->s = s;
    opt_defaults(token_options, token_option_count, &p->opt);
    p->tracker = mem_alloc(MEM_OTHER, jobs * sizeof *p->tracker);
    p->client = mem_alloc(MEM_OTHER, jobs * sizeof *p->client);
    p->memory = mem_alloc(MEM_OTHER, jobs * floats * sizeof *p->memory);
    p->diagonal = mem_alloc(MEM_OPTIMIZER, jobs * n * sizeof *p->diagonal);
    p->weights = mem_alloc(MEM_DATA, (size_t)(r->batch * r->seq) * sizeof *p->weights);
    for (size_t j = 0; j < jobs; j++) {
        token_reset(&p->tracker[j], token_find("fisher"), &p->opt, keys, p->memory + j * floats,
                    rng_stream(1, RNG_TEST, 2, 0, 0));
        token_update(&p->tracker[j], &s->batch[j], s->sq); // from now on there is a mask
        p->client[j] = s->client[j];
        p->client[j].ema = p->diagonal + j * n;
        p->client[j].rho = 0.9f;
        model_load(s->m, &p->client[j], place + (int32_t)j);
    }
}

static void policy_close(struct policy *p)
{
    void *all[] = {p->tracker, p->client, p->memory, p->diagonal, p->weights};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
}

// Masks are chosen and not used: every token is trained, so that the steps compared do the same
// work but for the policy's own.
static void policy_loop(void *arg, int64_t n)
{
    struct policy *p = arg;
    struct step *s = p->s;
    for (int64_t i = 0; i < n; i++) {
        int64_t begin = clock_ns(), t = begin;
        for (int32_t j = 0; j < s->n_jobs; j++) {
            if (p->masks)
                token_weights(&p->tracker[j], &s->batch[j], p->refresh, p->weights);
            s->jobs[j].token_sq =
                p->refresh ? s->sq + (s->batch[j].tokens - s->batch[0].tokens) : NULL;
            s->jobs[j].client = p->masks ? &p->client[j] : &s->client[j];
        }
        double part[PARTS] = {[PART_MASK] = (double)(clock_ns() - t)};
        model_train_step(s->m, s->jobs, s->n_jobs, &s->optim, NULL);
        struct model_times times = model_times(s->m);
        part[PART_EMBED] = (double)times.embed_ns;
        part[PART_ACCUMULATE] = (double)times.fisher_ns;
        t = clock_ns();
        for (int32_t j = 0; j < s->n_jobs && p->refresh; j++)
            token_update(&p->tracker[j], &s->batch[j], s->jobs[j].token_sq);
        part[PART_REFRESH] = (double)(clock_ns() - t);
        for (int k = 0; k < PART_OWN; k++)
            part[PART_OWN] += part[k];
        part[PART_REST] = (double)(clock_ns() - begin) - part[PART_OWN];
        for (int k = 0; k < PARTS; k++)
            p->part_ns[k][p->steps % KEPT] = part[k];
        p->steps++;
    }
}

// Rows.

enum { CASE_PLAIN, CASE_MASKED, CASE_REFRESH, CASES };
enum { EVERY = 10 }; // steps between refreshes, as the paper has it

struct measured {
    struct step step;
    struct policy policy[CASES];
    struct bench_result res[CASES];
    bool ok;
};

static double part_median(const struct policy *p, int part)
{
    double ns[KEPT];
    memcpy(ns, p->part_ns[part], sizeof ns);
    return stats_of(ns, p->steps < KEPT ? (size_t)p->steps : KEPT).median;
}

// CPU time of a beyond b's, as a share of b's: median over the pairs.
static double cpu_excess(const struct bench_result *a, const struct bench_result *b)
{
    double ratio[BENCH_SAMPLES_MAX];
    for (int i = 0; i < a->samples; i++)
        ratio[i] = a->sample_cpu_ns[i] / b->sample_cpu_ns[i];
    return stats_of(ratio, (size_t)a->samples).median - 1;
}

// Shares of the rest of the step: average over a refresh and the steps to the next, and of a
// refresh.
static void policy_shares(const struct measured *m, double by_clock[2], double by_difference[2])
{
    const struct policy *p = &m->policy[CASE_MASKED], *q = &m->policy[CASE_REFRESH];
    double masked = cpu_excess(&m->res[CASE_MASKED], &m->res[CASE_PLAIN]);
    double own[2] = {part_median(p, PART_OWN), part_median(q, PART_OWN)};
    double rest[2] = {part_median(p, PART_REST), part_median(q, PART_REST)};
    by_clock[0] = ((EVERY - 1) * own[0] + own[1]) / ((EVERY - 1) * rest[0] + rest[1]);
    by_clock[1] = own[1] / rest[1];
    by_difference[1] = cpu_excess(&m->res[CASE_REFRESH], &m->res[CASE_PLAIN]);
    by_difference[0] = ((EVERY - 1) * masked + by_difference[1]) / EVERY;
}

static void row_fisher(struct bench_ctx *c, const struct table *t, const struct step_shape *r,
                       const struct measured *m)
{
    const struct policy *p = &m->policy[CASE_REFRESH];
    double clocked[2], difference[2];
    char cell[11][32];
    for (int i = 0; i < 3; i++)
        fmt_fixed(cell[i], m->res[i].ns.median / 1e6, 9, 2);
    for (int i = 0; i < 4; i++)
        fmt_fixed(cell[3 + i], part_median(i == PART_MASK ? p - 1 : p, i) / 1e3, 9, 1);
    policy_shares(m, clocked, difference);
    for (int i = 0; i < 2; i++) {
        fmt_fixed(cell[7 + i], 100 * clocked[i], 8, 2);
        fmt_fixed(cell[9 + i], 100 * difference[i], 8, 2);
    }
    bench_size(c, (int64_t)r->batch * r->seq, "tokens");
    bench_row(c, t,
              (const char *[]){r->name, cell[0], cell[1], cell[2], cell[3], cell[4], cell[5],
                               cell[6], cell[7], cell[8], cell[9], cell[10],
                               m->ok ? "Pass" : "Fail"});
}

static void report(struct bench_ctx *c, const struct step_shape *r, const struct measured *m,
                   const struct bench_case *cases)
{
    double clocked[2], difference[2];
    policy_shares(m, clocked, difference);
    for (int i = 0; i < CASES; i++) {
        char row[64];
        struct bench_counter count[2] = {{"threads", params.threads}};
        if (i == CASE_MASKED)
            count[1] = (struct bench_counter){"fisher_share_average", clocked[0]};
        if (i == CASE_REFRESH)
            count[1] = (struct bench_counter){"fisher_share", clocked[1]};
        snprintf(row, sizeof row, "%s/%s", cases[i].name, r->name);
        bench_report(c, row, &m->res[i], 0, count, i == CASE_PLAIN ? 1 : 2,
                     m->ok ? NULL : "the loss did not fall");
    }
}

static void measure(struct bench_ctx *c, const struct table *t, const struct step_shape *r,
                    struct measured *m)
{
    struct step *s = &m->step;
    step_open(s, &params, r);
    step_loop(s, 2);
    for (int i = 0; i < CASES; i++) {
        policy_open(&m->policy[i], s, r, (i + 1) * s->n_jobs);
        m->policy[i].masks = i >= CASE_MASKED;
        m->policy[i].refresh = i == CASE_REFRESH;
    }
    const struct bench_case cases[CASES] = {
        [CASE_PLAIN] = {"plain", NULL, policy_loop, &m->policy[CASE_PLAIN]},
        [CASE_MASKED] = {"masked", NULL, policy_loop, &m->policy[CASE_MASKED]},
        [CASE_REFRESH] = {"refresh", NULL, policy_loop, &m->policy[CASE_REFRESH]}};
    double first = s->first_loss;
    bench_measure(c, cases, CASES, m->res);
    m->ok = s->jobs[0].loss < first; // it learns the batch by heart
    row_fisher(c, t, r, m);
    report(c, r, m, cases);
    for (int i = 0; i < CASES; i++)
        policy_close(&m->policy[i]);
    step_close(s);
}

static const struct table_col fisher_cols[] = {
    {"Shape", "", 9, TABLE_LEFT},         {"Plain", "ms", 9, TABLE_RIGHT},
    {"Masked", "ms", 9, TABLE_RIGHT},     {"Refresh", "ms", 9, TABLE_RIGHT},
    {"mask", "us", 8, TABLE_RIGHT},       {"to embed", "us", 8, TABLE_RIGHT},
    {"refresh", "us", 8, TABLE_RIGHT},    {"accumulate", "us", 10, TABLE_RIGHT},
    {"Average", "%", 7, TABLE_RIGHT},     {"Refresh", "%", 7, TABLE_RIGHT},
    {"Average", "% CPU", 7, TABLE_RIGHT}, {"Refresh", "% CPU", 7, TABLE_RIGHT},
    {"Validation", "", 10, TABLE_RIGHT}};

static void run(struct bench_ctx *c)
{
    struct table t = {.out = c->out, .n_cols = (int)ARRAY_LEN(fisher_cols)};
    struct step_shape row[STEP_SHAPES];
    int n = step_shapes(&params, row);
    memcpy(t.col, fisher_cols, sizeof fisher_cols);
    fprintf(c->out, "# on ");
    step_say_where(c, &params);
    fprintf(
        c->out,
        "# what Fed-FSTQ's policy ~fisher:keep=0.5,every=%d and the diagonal Fisher add to a "
        "step, in the same turns.\n"
        "# Plain: a step without them; Masked: one that chooses a mask, yet trains all tokens as "
        "Plain does, and averages\n"
        "# the diagonal; Refresh: one that scores tokens, too. us: medians of clocked parts, mask "
        "of "
        "Masked, others of Refresh.\n"
        "# %%: all of them by the rest of the step, over a refresh and the %d steps to the next, "
        "and of the refresh alone;\n"
        "# %% CPU: the same as the difference of whole steps' CPU time\n",
        EVERY, EVERY - 1);
    bench_size(c, 0, "tokens");
    bench_leave_out(c, 7 << 1); // whole steps
    bench_head(c, &t);
    for (int i = 0; i < n; i++) {
        struct measured *m = mem_alloc(MEM_OTHER, sizeof *m);
        measure(c, &t, &row[i], m);
        mem_free(m);
    }
}

const struct bench bench_fisher = {
    .name = "fisher",
    .help = "what Fisher's work adds to a LoRA training step: masks, scores of tokens, averages",
    .ranks = 1,
    .opts = step_fisher_options,
    .n_opts = STEP_OPTIONS,
    .params = &params,
    .run = run,
};
