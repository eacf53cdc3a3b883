// The parameters of `fstq infer`, and the settings that their lists make together.
#include "bench/infer.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const char *const prompts_names[] = {
    [INFER_SYNTHETIC] = "synthetic", [INFER_TASK] = "task", NULL};

static const char *const positions_names[] = {
    [INFER_ORIGINAL] = "original", [INFER_COMPACT] = "compact", NULL};

const struct opt infer_options[] = {
    OPT_ENUM(struct infer_params, prompts, "infer.prompts", "synthetic", prompts_names,
             "tokens drawn at random, or the task's test set, whose answers are scored"),
    OPT_STRING(struct infer_params, prompt_tokens, "infer.prompt_tokens", "128",
               "lengths of synthetic prompts, a list: 128,512"),
    OPT_STRING(struct infer_params, new_tokens, "infer.new_tokens", "32",
               "tokens generated after a synthetic prompt, a list; 1 = prefill alone"),
    OPT_STRING(struct infer_params, batch, "infer.batch", "1", "sequences at once, a list"),
    OPT_STRING(struct infer_params, reduce, "infer.reduce", "none",
               "which tokens of a prompt go on, a list of rows of 'fstq list reductions'"),
    OPT_STRING(struct infer_params, keep, "infer.keep", "0.5",
               "part of a prompt's tokens that go on, a list: 1,0.7,0.5"),
    OPT_STRING(struct infer_params, layer, "infer.layer", "1",
               "layer from which on there are fewer, a list; 0 = they are not even embedded"),
    OPT_ENUM(struct infer_params, positions, "infer.positions", "original", positions_names,
             "of the tokens that go on; compact: numbered anew"),
    OPT_STRING(struct infer_params, scores, "infer.scores", "",
               "file of the vocabulary's scores; empty: the one beside the adapter, else they are "
               "learned from the task's clients"),
    OPT(struct infer_params, score_clients, "infer.score_clients", "20", 1, 1e6, "",
        "clients to learn them from"),
    OPT(struct infer_params, score_steps, "infer.score_steps", "20", 1, 1e6, "",
        "minibatches (fed.batch) that each client looks at for them"),
    OPT(struct infer_params, repeat, "infer.repeat", "5", 1, BENCH_SAMPLES_MAX, "",
        "repetitions of every setting, taken in turn"),
    OPT(struct infer_params, warmup, "infer.warmup", "1", 0, 1000, "",
        "repetitions before those that count"),
    OPT(struct infer_params, merged, "infer.merged", "off", 0, 0, "",
        "merge the adapter into the weights first"),
    OPT(struct infer_params, show, "infer.show", "0", 0, 1e6, "",
        "print so many prompts of the task and what the model says"),
};
const int infer_option_count = ARRAY_LEN(infer_options);

enum { LIST = 64 };

struct list {
    int n;
    double v[LIST];
};

// "1,4,16": whole numbers from least to most, or any where whole is false.
static int read_list(const char *key, const char *text, bool whole, double least, double most,
                     struct list *l, struct err *err)
{
    const char *p = text;
    l->n = 0;
    do {
        char *end;
        double v = strtod(p, &end);
        if (end == p || (*end && *end != ',') || !(v >= least && v <= most) ||
            (whole && v != (double)(long)v))
            return err_set(err, "%s = %s: '%.*s' is not a %snumber from %.9g to %.9g", key, text,
                           (int)strcspn(p, ","), p, whole ? "whole " : "", least, most);
        if (l->n == LIST)
            return err_set(err, "%s: more than %d values", key, LIST);
        l->v[l->n++] = v;
        p = *end ? end + 1 : NULL;
    } while (p);
    return 0;
}

// Names of reductions.
static int read_names(const char *text, const struct reduction *rows[LIST], int *n, struct err *err)
{
    *n = 0;
    for (const char *p = text; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
        char name[32];
        struct opt_guess guess = {.text = name};
        snprintf(name, sizeof name, "%.*s", (int)strcspn(p, ","), p);
        rows[*n] = reduction_find(name);
        for (int i = 0; reduction_table[i]; i++)
            opt_guess(&guess, reduction_table[i]->name);
        if (!rows[*n])
            return err_set(err, "infer.reduce = %s: there is no '%s'%s%s; see fstq list reductions",
                           text, name, guess.name ? "; did you mean " : "",
                           guess.name ? guess.name : "");
        if (++*n == LIST)
            return err_set(err, "infer.reduce: more than %d names", LIST - 1);
    }
    return 0;
}

struct lists {
    struct list batch, prompt, answer, keep, layer;
    const struct reduction *row[LIST];
    int n_rows;
};

static int read_lists(const struct infer_params *p, const struct task *task, struct lists *l,
                      struct err *err)
{
    if (read_list("infer.batch", p->batch, true, 1, 1 << 16, &l->batch, err) ||
        read_list("infer.prompt_tokens", p->prompt_tokens, true, 1, 1 << 24, &l->prompt, err) ||
        read_list("infer.new_tokens", p->new_tokens, true, 1, 1 << 24, &l->answer, err) ||
        read_list("infer.keep", p->keep, false, 1e-6, 1, &l->keep, err) ||
        read_list("infer.layer", p->layer, true, 0, MODEL_LAYERS_MAX, &l->layer, err) ||
        read_names(p->reduce, l->row, &l->n_rows, err))
        return -1;
    if (task) { // one length each: the task's own
        l->prompt = (struct list){.n = 1, .v = {task->max_tokens}};
        l->answer = (struct list){.n = 1, .v = {task->max_answer}};
    }
    return 0;
}

// The reductions of one place in the other lists; one that leaves all tokens comes once.
static int add_reductions(const struct lists *l, const struct infer_setting *like, bool compact,
                          uint64_t seed, struct infer_setting *settings, int n)
{
    for (int r = 0; r < l->n_rows; r++)
        for (int k = 0; k < l->keep.n; k++)
            for (int j = 0; j < l->layer.n; j++) {
                bool all = l->row[r] == reduction_table[0];
                if ((all && (k > 0 || j > 0)) || n == INFER_SETTINGS + 1)
                    continue;
                settings[n] = *like;
                settings[n++].reduce =
                    (struct model_reduce){.row = l->row[r],
                                          .keep = all ? 1 : l->keep.v[k],
                                          .layer = all ? 0 : (int32_t)l->layer.v[j],
                                          .compact = compact && !all,
                                          .seed = seed};
            }
    return n;
}

int infer_settings(const struct infer_params *p, const struct task *task, uint64_t seed,
                   struct infer_setting settings[INFER_SETTINGS + 1], struct err *err)
{
    struct lists l;
    int n = 0;
    if (read_lists(p, task, &l, err))
        return -1;
    for (int i = 0; i < l.prompt.n; i++)
        for (int j = 0; j < l.answer.n; j++)
            for (int k = 0; k < l.batch.n; k++) {
                struct infer_setting like = {.batch = (int32_t)l.batch.v[k],
                                             .prompt = (int32_t)l.prompt.v[i],
                                             .answer = (int32_t)l.answer.v[j]};
                n = add_reductions(&l, &like, p->positions == INFER_COMPACT, seed, settings, n);
            }
    if (n > INFER_SETTINGS)
        return err_set(err, "infer: more than %d combinations", INFER_SETTINGS);
    return n;
}

bool infer_needs_scores(const struct infer_setting *set, int n)
{
    for (int i = 0; i < n; i++)
        if (set[i].reduce.row->needs & REDUCE_SCORES)
            return true;
    return false;
}
