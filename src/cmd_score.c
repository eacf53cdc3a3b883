// Scores a base model, or the adapter of a run's checkpoint, on a task: no federation.
#include "base/jsonw.h"
#include "base/mem.h"
#include "base/table.h"
#include "cmd.h"
#include "config.h"
#include "fed/checkpoint.h"
#include "fed/workload.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct table_col score_cols[] = {
    {"set", "", 16, TABLE_LEFT},
    {"metric", "", 12, TABLE_LEFT},
    {"value", "", 10, TABLE_RIGHT},
    {"examples", "", 10, TABLE_RIGHT},
};

static void print_scores(const struct workload *w, const struct eval_result *r)
{
    struct table t = {.out = stdout, .n_cols = (int)ARRAY_LEN(score_cols)};
    char v[32], n[32];
    memcpy(t.col, score_cols, sizeof score_cols);
    table_head(&t);
    for (int i = 0; i < r->n_rows; i++) {
        const char *cells[] = {r->rows[i].set, r->rows[i].metric,
                               fmt_fixed(v, r->rows[i].value, 10, 4), fmt_count(n, r->rows[i].n)};
        table_row(&t, cells);
    }
    printf("# %s %.4f, loss %.4f\n", w->row->score_name(w), r->score, r->loss);
}

static int write_json(const char *path, const struct config *c, const struct workload *w,
                      const struct eval_result *r)
{
    FILE *f = fopen(path, "w");
    struct jsonw j;
    if (!f) {
        fprintf(stderr, "fstq: cannot write '%s'\n", path);
        return -1;
    }
    jsonw_begin(&j, f);
    jsonw_object(&j);
    jsonw_key(&j, "task");
    jsonw_text(&j, task_table[c->task.name]->name);
    jsonw_key(&j, "model");
    jsonw_text(&j, c->model.path);
    jsonw_key(&j, w->row->score_name(w));
    jsonw_num(&j, r->score);
    jsonw_key(&j, "loss");
    jsonw_num(&j, r->loss);
    jsonw_key(&j, "scores");
    jsonw_array(&j);
    for (int i = 0; i < r->n_rows; i++) {
        jsonw_object(&j);
        jsonw_key(&j, "set");
        jsonw_text(&j, r->rows[i].set);
        jsonw_key(&j, "metric");
        jsonw_text(&j, r->rows[i].metric);
        jsonw_key(&j, "value");
        jsonw_num(&j, r->rows[i].value);
        jsonw_key(&j, "n");
        jsonw_int(&j, r->rows[i].n);
        jsonw_end(&j);
    }
    jsonw_end(&j);
    jsonw_end(&j);
    fputc('\n', f);
    return fclose(f);
}

// The adapter of run.dir's newest sound checkpoint; without run.dir the initial one, which changes
// nothing.
static void load_adapter(const struct config *c, struct workload *w, float *theta)
{
    struct err err;
    uint32_t round;
    w->row->initial(w, theta);
    if (!*c->run.dir)
        return;
    if (checkpoint_adapter(c->run.dir, w->shape.hash, w->shape.n_values, theta, &round, &err))
        die(STATUS_ENV, "%s", err.text);
    printf("# adapter of %s after round %u\n", c->run.dir, round);
}

static int score_main(int argc, char **argv)
{
    static struct config cfg;
    struct workload w;
    struct err err;
    const char *json = NULL, *path = NULL;
    int n = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0 && i + 1 < argc)
            json = argv[++i];
        else if (!path && !strchr(argv[i], '='))
            path = argv[i];
        else
            argv[n++] = argv[i];
    }
    if (config_load(&cfg, path, n, argv))
        return STATUS_USAGE;
    int threads = cfg.dev.threads ? cfg.dev.threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    struct workload_env env = {.fed = &cfg.fed,
                               .fisher = &cfg.fisher,
                               .task = &cfg.task,
                               .model = &cfg.model,
                               .optim = &cfg.optim,
                               .dev_kind = config_dev_kind(&cfg),
                               .threads = threads,
                               .seed = (uint64_t)cfg.run.seed,
                               .server = true};
    if (workload_open(&w, &env, &err))
        die(STATUS_USAGE, "%s", err.text);
    float *theta = mem_alloc(MEM_ADAPTER, w.shape.n_values * sizeof *theta);
    struct eval_result *r = mem_alloc(MEM_OTHER, sizeof *r);
    printf("# fstq score: task %s, model %s\n", task_table[cfg.task.name]->name, cfg.model.path);
    load_adapter(&cfg, &w, theta);
    workload_evaluate(&w, theta, r);
    print_scores(&w, r);
    bool bad = json && write_json(json, &cfg, &w, r);
    mem_free(theta);
    mem_free(r);
    workload_close(&w);
    return bad ? STATUS_ENV : STATUS_VALID;
}

const struct cmd cmd_score = {
    .name = "score",
    .usage = "[--json FILE] [CONFIG] [section.key=value ...]",
    .help = "scores a base model, or the checkpoint in run.dir, on a task",
    .details =
        "Scores every group of the task's test set and all of it. With run.dir the adapter of its\n"
        "newest checkpoint is scored, without it the bare base model.\n"
        "  --json FILE   the same as JSON\n\n"
        "  fstq score task.name=synth-qa\n"
        "  fstq score configs/quick.ini run.dir=q1\n",
    .alone = true,
    .run = score_main,
};
