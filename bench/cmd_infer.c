// Inference on this device: reading prompts and decoding, timed apart. No federation.
#include "base/buildinfo.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "bench/infer.h"
#include "fed/checkpoint.h"
#include "src/cmd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct request {
    const char *config, *peft, *json, *csv, *markdown, *scores, *form;
};

static FILE *say; // for people: stderr where -o has stdout

// What the arguments name; those that are left, overrides of parameters, are gathered at the front.
static int take_arguments(struct request *q, int argc, char **argv)
{
    const struct {
        const char *flag, **to;
    } flags[] = {{"--json", &q->json},         {"--csv", &q->csv},
                 {"--markdown", &q->markdown}, {"-o", &q->form},
                 {"--output", &q->form},       {"--from-peft", &q->peft},
                 {"--save-scores", &q->scores}};
    int n = 0;
    for (int i = 1; i < argc; i++) {
        const char **to = NULL;
        for (size_t k = 0; k < ARRAY_LEN(flags) && i + 1 < argc; k++)
            if (strcmp(argv[i], flags[k].flag) == 0)
                to = flags[k].to;
        if (to)
            *to = argv[++i];
        else if (!q->config && !strchr(argv[i], '='))
            q->config = argv[i];
        else
            argv[n++] = argv[i];
    }
    return n;
}

// The file of the vocabulary's scores: infer.scores, or that beside the adapter. False: none.
static bool scores_path(const struct config *c, const struct request *q, char *path, size_t size)
{
    const char *dir = q->peft ? q->peft : c->run.dir;
    snprintf(path, size, "%s", c->infer.scores);
    if (*path)
        return true;
    snprintf(path, size, "%s/%s", dir, TOKEN_SCORES_FILE);
    return *dir && access(path, F_OK) == 0;
}

// The task, where prompts are its own or scores have to be learned from its clients.
static struct task *open_task(const struct config *c, const struct request *q, bool needs_scores)
{
    struct task_params params = c->task;
    struct err err;
    char path[512];
    if (c->infer.prompts != INFER_TASK && c->infer.show)
        die(STATUS_USAGE,
            "infer.show = %d: synthetic prompts say nothing; set infer.prompts = task",
            c->infer.show);
    if (c->infer.prompts != INFER_TASK && (!needs_scores || scores_path(c, q, path, sizeof path)))
        return NULL;
    if (task_table[params.name]->numeric)
        die(STATUS_USAGE, "infer.prompts, infer.reduce: task.name = %s has no text",
            task_table[params.name]->name);
    if (!params.vocab[0])
        model_vocabulary(c->model.path, params.vocab, sizeof params.vocab);
    struct task *task = task_open(&params, (uint64_t)c->run.seed, c->fed.clients, &err);
    if (!task)
        die(STATUS_USAGE, "%s", err.text);
    return task;
}

// The device and the model; ends the program where one is not to be had.
static struct model *open_model(const struct config *c, struct dev *dev, const struct task *task)
{
    struct err err;
    int threads = c->dev.threads ? c->dev.threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (dev_open(dev, config_dev_kind(c), threads, &err) || dev_math(dev, c->dev.math, &err))
        die(STATUS_ENV, "%s", err.text);
    struct model *m = model_open(dev, &c->model, &err);
    if (!m)
        die(STATUS_USAGE, "%s", err.text);
    if (task && task->tokenizer->vocab > model_config(m)->vocab)
        die(STATUS_USAGE,
            "task.tokenizer has %d tokens, model.path = '%s' embeds %d; give the tokenizer of the "
            "model",
            task->tokenizer->vocab, c->model.path, model_config(m)->vocab);
    return m;
}

// That of a PEFT folder, or of run.dir's newest sound checkpoint; NULL = there is none.
static float *load_adapter(const struct config *c, const struct request *q, struct model *m)
{
    const struct shape *shape = model_shape(m);
    struct err err;
    uint32_t round = 0;
    if (!q->peft && !*c->run.dir) {
        if (c->infer.merged)
            die(STATUS_USAGE,
                "infer.merged = on: there is no adapter; name run.dir or --from-peft");
        fputs("# no adapter\n", say);
        return NULL;
    }
    float *theta = mem_alloc(MEM_ADAPTER, (shape->n_values + KERNEL_SLACK) * sizeof *theta);
    if (q->peft && model_peft_read(m, &c->model, q->peft, theta, &err))
        die(STATUS_USAGE, "%s", err.text);
    if (!q->peft &&
        checkpoint_adapter(c->run.dir, shape->hash, shape->n_values, theta, &round, &err))
        die(STATUS_ENV, "%s", err.text);
    fprintf(say, "# adapter of %s", q->peft ? q->peft : c->run.dir);
    if (!q->peft)
        fprintf(say, " after round %u", round);
    fprintf(say, "%s\n", c->infer.merged ? ", merged into the weights" : "");
    return theta;
}

static void get_scores(const struct config *c, const struct request *q, struct model *m,
                       struct task *task, const float *adapter, struct token_scores *scores)
{
    struct err err;
    char path[512];
    if (scores_path(c, q, path, sizeof path)) {
        if (token_scores_read(scores, model_config(m)->vocab, path, &err))
            die(STATUS_USAGE, "%s", err.text);
        fprintf(say, "# token scores of %s\n", path);
    } else {
        infer_learn(scores, c, m, task, adapter, say);
    }
    if (q->scores && token_scores_write(scores, q->scores, &err))
        die(STATUS_ENV, "%s", err.text);
}

// NULL: it is part of the weights now.
static float *merge_adapter(const struct config *c, struct model *m, float *adapter)
{
    struct err err;
    if (!c->infer.merged)
        return adapter;
    if (model_fold(m, adapter, &err))
        die(STATUS_USAGE, "infer.merged = on: %s", err.text);
    mem_free(adapter);
    return NULL;
}

static void head(const struct config *c, const struct infer *in, const struct dev *dev)
{
    const struct model_config *m = model_config(in->model);
    double load = -1;
    getloadavg(&load, 1);
    fprintf(say, "# fstq infer %s (%s, %s): model %s, %zu weights, %d layers\n", buildinfo.version,
            buildinfo.git_rev, buildinfo.kind, c->model.path, model_weight_count(in->model),
            m->layers);
    fprintf(say, "# %s on %s, %d thread%s, products in %s, load %.1f; %d repetitions after %d\n",
            in->task ? task_table[c->task.name]->name : "synthetic prompts", dev->row->name,
            dev->threads, dev->threads == 1 ? "" : "s", dev_math_names[c->dev.math], load,
            c->infer.repeat, c->infer.warmup);
}

static void write_json(const struct infer *in, const char *path, int argc, char **argv)
{
    struct outfile out;
    struct err err;
    struct jsonw json;
    if (outfile_open(&out, path, "{\"context\":{\"date\":", &err) < 0)
        die(STATUS_ENV, "%s", err.text);
    bench_json_begin(&json, out.f, argc, argv);
    struct bench_ctx ctx = {.name = "infer", .json = &json};
    infer_json(in, &ctx);
    bench_json_end(&json);
    if (outfile_close(&out, &err) < 0)
        die(STATUS_ENV, "%s", err.text);
}

static void write_table(const struct infer *in, const char *path, int format)
{
    struct outfile out;
    struct err err;
    if (outfile_open(&out, path, infer_begins[format], &err) < 0)
        die(STATUS_ENV, "%s", err.text);
    infer_print(in, out.f, format);
    if (outfile_close(&out, &err) < 0)
        die(STATUS_ENV, "%s", err.text);
}

// -o FORM: the document on stdout alone, or rows.
static int take_form(struct request *q, struct err *err)
{
    say = stdout;
    if (!q->form)
        return 0;
    if (table_set_form(q->form, err))
        return -1;
    const char **to[] = {[TABLE_JSON] = &q->json, [TABLE_CSV] = &q->csv, [TABLE_MD] = &q->markdown};
    if (table_form() == TABLE_JSONL)
        say = table_stream(stdout);
    else if (table_form() != TABLE_TEXT) {
        *to[table_form()] = "-";
        say = stderr;
    }
    table_title("infer");
    return 0;
}

static void check_outputs(const struct request *q)
{
    struct err err;
    if ((q->json && outfile_check(q->json, "{\"context\":{\"date\":", &err) < 0) ||
        (q->csv && outfile_check(q->csv, infer_begins[INFER_CSV], &err) < 0) ||
        (q->markdown && outfile_check(q->markdown, infer_begins[INFER_MARKDOWN], &err) < 0))
        die(STATUS_ENV, "%s", err.text);
}

// The row that takes the same prompts without a reduction.
static const struct infer_row *base_of(const struct infer *in, const struct infer_row *r)
{
    for (const struct infer_row *b = in->row; b < in->row + in->n_rows; b++)
        if (b->set.reduce.row == reduction_table[0] && b->set.batch == r->set.batch &&
            b->set.prompt == r->set.prompt && b->set.answer == r->set.answer)
            return b;
    return NULL;
}

// Makes every row's prompts, or ends the program.
static void open_rows(const struct config *c, struct infer *in, const struct infer_setting *set)
{
    struct err err;
    in->row = mem_alloc(MEM_OTHER, (size_t)in->n_rows * sizeof *in->row);
    for (int i = 0; i < in->n_rows; i++) {
        in->row[i].set = set[i];
        if (infer_prompts_open(&in->row[i].prompts, &set[i], in->task, model_config(in->model),
                               (uint64_t)c->run.seed, &err) ||
            model_reduce_check(in->model, &set[i].reduce, in->row[i].prompts.longest, &err))
            die(STATUS_USAGE, "%s", err.text);
    }
    for (int i = 0; i < in->n_rows; i++)
        in->row[i].base = base_of(in, &in->row[i]);
}

static void write_all(const struct infer *in, const struct request *q, int argc, char **argv)
{
    if (q->json)
        write_json(in, q->json, argc, argv);
    if (q->csv)
        write_table(in, q->csv, INFER_CSV);
    if (q->markdown)
        write_table(in, q->markdown, INFER_MARKDOWN);
}

// The settings, checked as far as they can be without a task; whether any needs scores.
static bool settings_need_scores(const struct config *c, const struct request *q,
                                 struct infer_setting *settings)
{
    struct err err;
    int n = infer_settings(&c->infer, NULL, (uint64_t)c->run.seed, settings, &err);
    if (n < 0)
        die(STATUS_USAGE, "%s", err.text);
    return q->scores || infer_needs_scores(settings, n);
}

static int infer_main(int argc, char **argv)
{
    static struct config cfg;
    static struct infer_setting settings[INFER_SETTINGS + 1];
    struct request q = {0};
    struct dev dev;
    struct token_scores scores = {0};
    struct err err;
    char **all =
        mem_alloc(MEM_OTHER, (size_t)argc * sizeof *all); // as they were, for the JSON file
    memcpy(all, argv, (size_t)argc * sizeof *all);
    int n = take_arguments(&q, argc, argv);
    if (take_form(&q, &err)) {
        fprintf(stderr, "fstq infer: %s\n", err.text);
        return STATUS_USAGE;
    }
    if (config_load(&cfg, q.config, n, argv))
        return STATUS_USAGE;
    check_outputs(&q);
    bool needs_scores = settings_need_scores(&cfg, &q, settings);
    struct task *task = open_task(&cfg, &q, needs_scores);
    struct model *model = open_model(&cfg, &dev, task);
    struct infer in = {.model = model, .params = &cfg.infer, .lanes = dev.lanes};
    in.task = cfg.infer.prompts == INFER_TASK ? task : NULL;
    in.n_rows = infer_settings(&cfg.infer, in.task, (uint64_t)cfg.run.seed, settings, &err);
    head(&cfg, &in, &dev);
    float *adapter = load_adapter(&cfg, &q, model);
    if (needs_scores)
        get_scores(&cfg, &q, model, task, adapter, &scores);
    for (int i = 0; i < in.n_rows && needs_scores; i++)
        settings[i].reduce.scores = &scores;
    open_rows(&cfg, &in, settings);
    in.adapter = adapter = merge_adapter(&cfg, model, adapter);
    infer_measure(&in);
    if (say != stderr)
        infer_print(&in, say, INFER_TEXT);
    fprintf(say, "# peak memory %.1f MiB\n", (double)mem_rss_peak() / (1 << 20));
    if (cfg.infer.show)
        infer_show(&in, say, cfg.infer.show);
    fflush(say);
    write_all(&in, &q, argc, all);
    for (int i = 0; i < in.n_rows; i++)
        infer_row_close(&in.row[i]);
    mem_free(in.row);
    token_scores_close(&scores);
    mem_free(adapter);
    mem_free(all);
    model_close(model);
    dev_close(&dev);
    if (task)
        task_close(task);
    return STATUS_VALID;
}

const struct cmd cmd_infer = {
    .name = "infer",
    .usage = "[-o FORM] [--json FILE] [--csv FILE] [--markdown FILE] [--from-peft DIR] "
             "[--save-scores FILE] [CONFIG] [section.key=value ...]",
    .help = "how fast a model reads prompts and answers on this device",
    .details =
        "Every combination of the lists in [infer] is timed: reading the prompts until the first\n"
        "token, and each token after it. Mean and standard deviation are over repetitions, which\n"
        "all settings take in turn; percentiles are over sequences and tokens. With run.dir the\n"
        "adapter of its newest checkpoint is used, without it the bare base model.\n"
        "  --json FILE      every repetition, in the schema of fstq bench\n"
        "  --csv FILE, --markdown FILE   the table\n"
        "  -o FORM          md, csv, json: as these with FILE -, all else to stderr; jsonl\n"
        "  --from-peft DIR  the adapter of a folder that PEFT wrote\n"
        "  --save-scores FILE  what tokens are worth, learned here from the task's clients, for a\n"
        "                   device without gradients: infer.scores = FILE, or named\n"
        "                   " TOKEN_SCORES_FILE " beside the adapter\n\n"
        "  fstq infer infer.prompt_tokens=64,128 infer.batch=1,4\n"
        "  fstq infer infer.prompts=task task.name=synth-qa run.dir=q1 infer.show=3\n",
    .alone = true,
    .run = infer_main,
};
