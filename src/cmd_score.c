// Scores a base model, or the adapter of a run's checkpoint, on a task: no federation.
#include "base/jsonw.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "base/table.h"
#include "cmd.h"
#include "config.h"
#include "fed/checkpoint.h"
#include "fed/workload.h"
#include "model/model.h"
#include "model/scores.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct table_col score_cols[] = {
    {"set", "", 16, TABLE_LEFT},
    {"metric", "", 12, TABLE_LEFT},
    {"value", "", 10, TABLE_RIGHT},
    {"examples", "", 10, TABLE_RIGHT},
};

static FILE *out; // for people, as -o wants it

static void print_scores(const struct workload *w, const struct eval_result *r)
{
    struct table t = {.out = out, .n_cols = (int)ARRAY_LEN(score_cols)};
    char v[32], n[32];
    memcpy(t.col, score_cols, sizeof score_cols);
    table_head(&t);
    for (int i = 0; i < r->n_rows; i++) {
        const char *cells[] = {r->rows[i].set, r->rows[i].metric,
                               fmt_fixed(v, r->rows[i].value, 10, 4), fmt_count(n, r->rows[i].n)};
        table_row(&t, cells);
    }
    fprintf(out, "# %s %.4f, loss %.4f\n", w->row->score_name(w), r->score, r->loss);
}

static void print_answer(void *arg, const struct eval_answer *a)
{
    int *n = arg;
    fprintf(out, "# example %d\n", ++*n);
    table_text(out, "prompt", a->prompt, "");
    table_text(out, "expected", a->reference, "");
    table_text(out, "answer", a->answer, a->ended ? "" : " ...");
}

static const char JSON_BEGINS[] = "{\"task\":";

static int complain(const struct err *err)
{
    fprintf(stderr, "fstq score: %s\n", err->text);
    return -1;
}

static int write_json(const char *path, const struct config *c, const struct workload *w,
                      const struct eval_result *r)
{
    struct outfile file;
    struct err err;
    struct jsonw j;
    if (outfile_open(&file, path, JSON_BEGINS, &err) < 0)
        return complain(&err);
    jsonw_begin(&j, file.f);
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
    fputc('\n', file.f);
    return outfile_close(&file, &err) < 0 ? complain(&err) : 0;
}

// The adapter of a PEFT folder, or of run.dir's newest sound checkpoint; without either the initial
// one, which changes nothing.
static void load_adapter(const struct config *c, struct workload *w, const char *peft, float *theta)
{
    struct err err;
    uint32_t round;
    w->row->initial(w, theta);
    if (peft && w->row->peft_read(w, peft, theta, &err))
        die(STATUS_USAGE, "%s", err.text);
    if (peft)
        fprintf(out, "# adapter of %s\n", peft);
    if (peft || !*c->run.dir)
        return;
    if (checkpoint_adapter(c->run.dir, w->shape.hash, w->shape.n_values, theta, &round, &err))
        die(STATUS_ENV, "%s", err.text);
    fprintf(out, "# adapter of %s after round %u\n", c->run.dir, round);
}

// What tokens are worth goes with the adapter.
static void write_peft(const struct config *c, const struct workload *w, const char *from,
                       const char *to, const float *theta)
{
    struct err err;
    if (w->row->peft_write(w, to, theta, &err))
        die(STATUS_ENV, "%s", err.text);
    int copied = from || *c->run.dir ? token_scores_copy(from ? from : c->run.dir, to, &err) : 0;
    if (copied < 0)
        die(STATUS_ENV, "%s", err.text);
    if (copied)
        fprintf(out, "# token scores, too: %s/%s\n", to, TOKEN_SCORES_FILE);
}

static int32_t read_show(const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (*end || end == text || n < 1 || n > 1000000)
        die(STATUS_USAGE, "--show %s: give a number of examples from 1", text);
    return (int32_t)n;
}

static int score_main(int argc, char **argv)
{
    static struct config cfg;
    struct workload w;
    struct err err;
    const char *json = NULL, *form = "text", *path = NULL, *from = NULL, *to = NULL;
    int n = 0, shown = 0;
    int32_t show = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0 && i + 1 < argc)
            json = argv[++i];
        else if ((strcmp(argv[i], "-o") == 0 || strcmp(argv[i], "--output") == 0) && i + 1 < argc)
            form = argv[++i];
        else if (strcmp(argv[i], "--from-peft") == 0 && i + 1 < argc)
            from = argv[++i];
        else if (strcmp(argv[i], "--to-peft") == 0 && i + 1 < argc)
            to = argv[++i];
        else if (strcmp(argv[i], "--show") == 0 && i + 1 < argc)
            show = read_show(argv[++i]);
        else if (!path && !strchr(argv[i], '='))
            path = argv[i];
        else
            argv[n++] = argv[i];
    }
    if (table_set_form(form, &err))
        return complain(&err), STATUS_USAGE;
    if (table_form() == TABLE_JSON && !json)
        json = "-";
    out = table_stream(stdout);
    table_title("scores");
    if (config_load(&cfg, path, n, argv))
        return STATUS_USAGE;
    if ((json && outfile_check(json, JSON_BEGINS, &err) < 0) || (to && model_peft_check(to, &err)))
        die(STATUS_USAGE, "%s", err.text);
    int threads = cfg.dev.threads ? cfg.dev.threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    struct workload_env env = {.fed = &cfg.fed,
                               .fisher = &cfg.fisher,
                               .task = &cfg.task,
                               .model = &cfg.model,
                               .optim = &cfg.optim,
                               .dev_kind = config_dev_kind(&cfg),
                               .threads = threads,
                               .math = cfg.dev.math,
                               .seed = (uint64_t)cfg.run.seed,
                               .server = true};
    if (workload_open(&w, &env, &err))
        die(STATUS_USAGE, "%s", err.text);
    if (show && !w.row->answers)
        die(STATUS_USAGE, "--show: task %s has no answers", task_table[cfg.task.name]->name);
    if ((from || to) && !w.row->peft_read)
        die(STATUS_USAGE, "--%s-peft: task %s has no adapter", from ? "from" : "to",
            task_table[cfg.task.name]->name);
    float *theta = mem_alloc(MEM_ADAPTER, w.shape.n_values * sizeof *theta);
    struct eval_result *r = mem_alloc(MEM_OTHER, sizeof *r);
    fprintf(out, "# fstq score: task %s, model %s\n", task_table[cfg.task.name]->name,
            cfg.model.path);
    load_adapter(&cfg, &w, from, theta);
    workload_evaluate(&w, theta, r);
    print_scores(&w, r);
    if (show)
        w.row->answers(&w, show, print_answer, &shown);
    if (to)
        write_peft(&cfg, &w, from, to, theta);
    fflush(out);
    bool bad = json && write_json(json, &cfg, &w, r);
    mem_free(theta);
    mem_free(r);
    workload_close(&w);
    return bad ? STATUS_ENV : STATUS_VALID;
}

const struct cmd cmd_score = {
    .name = "score",
    .usage = "[-o FORM] [--json FILE] [--show N] [--to-peft DIR] [--from-peft DIR] [CONFIG] "
             "[section.key=value ...]",
    .help = "scores a base model, or the checkpoint in run.dir, on a task",
    .details =
        "Scores every group of the task's test set and all of it. With run.dir the adapter of its\n"
        "newest checkpoint is scored, without it the bare base model.\n"
        "  -o FORM       md, csv, jsonl: the table so; json: as --json -\n"
        "  --json FILE   the same as JSON\n"
        "  --show N      also the first N questions, what was expected and what the model said;\n"
        "                \"...\" marks an answer that did not end\n"
        "  --to-peft DIR    also writes the adapter as a folder that PEFT loads; one that holds "
        "an\n"
        "                   adapter already is not touched\n"
        "  --from-peft DIR  scores the adapter of such a folder\n\n"
        "  fstq score --show 3 task.name=synth-qa\n"
        "  fstq score configs/quick.ini run.dir=q1\n",
    .alone = true,
    .run = score_main,
};
