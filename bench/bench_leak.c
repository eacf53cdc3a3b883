// What activations and prediction differences tell a server: an attacker who holds the model learns
// linear probes from texts of its own and reads those of others, codec by codec and layer by layer.
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/table.h"
#include "bench/bench.h"
#include "bench/probe.h"
#include "codec/activation.h"
#include "model/model.h"
#include "task/task.h"

#include <math.h>
#include <string.h>

struct leak_params {
    int32_t task, examples, test;
    char model[240], codecs[1024];
};

static struct leak_params params;
static const char *const task_choices[] = {"synth-medical", "synth-qa", "synth-long", NULL};

static const struct opt options[] = {
    OPT_ENUM(struct leak_params, task, "leak.task", "synth-medical", task_choices,
             "task whose examples are read"),
    OPT_STRING(struct leak_params, model, "leak.model", "builtin",
               "the model that everybody holds"),
    OPT(struct leak_params, examples, "leak.examples", "300", 2, 1e6, "",
        "examples that the attacker learns from"),
    OPT(struct leak_params, test, "leak.test", "100", 1, 1e6, "",
        "other examples, which it then reads"),
    OPT_STRING(struct leak_params, codecs, "leak.codecs", "fp32;int:bits=8;int:bits=4;nf4",
               "codecs of activations and differences, separated by ';' or blanks"),
};

// Attacks on one layer's output.
struct layer_probes {
    struct probe token, words, answer; // of each row its token; of the pivot those of the text, and
                                       // the one that follows
    double right[3], base[3];          // hits, by the probe and by what is frequent
};
enum { TOKEN, WORDS, ANSWER };

struct leak {
    struct dev dev;
    struct task *task;
    struct model *m;
    int32_t layers, dim, vocab, longest;
    int32_t *layer, *targets, *list; // list: (longest) distinct tokens of a text
    float *x, *logits, *back;        // (layers, longest, dim), (vocab), what a codec gives back
    float *score;                    // (vocab)
    bool *in;                        // (vocab)
    uint8_t *message;
    struct act_codec rows, wide; // of activations, of a difference
    struct layer_probes *probe;
    double n[3], signs, values, bytes; // read; answers by sign; of activations
    int64_t took_ns;                   // to learn and read all with a codec
};

static void leak_open(struct leak *k)
{
    struct err err = {""};
    struct model_params mp;
    struct task_params tp;
    opt_defaults(model_options, model_option_count, &mp);
    opt_defaults(task_options, task_option_count, &tp);
    snprintf(mp.path, sizeof mp.path, "%s", params.model);
    mp.lora_rank = 0;
    tp.test = params.test;
    model_vocabulary(mp.path, tp.vocab, sizeof tp.vocab);
    const struct opt *name = opt_find(task_options, task_option_count, "task.name");
    if (opt_set(name, &tp, task_choices[params.task], &err))
        die(STATUS_CHECK, "bench leak: %s", err.text);
    k->task = task_open(&tp, 1, 100, &err);
    if (!k->task || dev_open(&k->dev, 0, 1, &err))
        die(STATUS_ENV, "bench leak: %s", err.text);
    k->m = model_open(&k->dev, &mp, &err);
    if (!k->m)
        die(STATUS_ENV, "bench leak: %s", err.text);
    const struct model_config *c = model_config(k->m);
    k->layers = c->layers;
    k->dim = c->dim;
    k->vocab = c->vocab;
    k->longest = k->task->max_tokens;
    size_t rows = (size_t)k->longest, wide = (size_t)(k->dim > k->vocab ? k->dim : k->vocab);
    k->layer = mem_alloc(MEM_OTHER, (size_t)k->layers * sizeof *k->layer);
    for (int32_t l = 0; l < k->layers; l++)
        k->layer[l] = l;
    k->targets = mem_alloc(MEM_DATA, rows * sizeof *k->targets);
    k->list = mem_alloc(MEM_DATA, rows * sizeof *k->list);
    k->x = mem_alloc(MEM_DATA, (size_t)k->layers * rows * (size_t)k->dim * sizeof *k->x);
    k->logits = mem_alloc(MEM_DATA, (size_t)k->vocab * sizeof *k->logits);
    k->score = mem_alloc(MEM_DATA, (size_t)k->vocab * sizeof *k->score);
    k->in = mem_alloc(MEM_DATA, (size_t)k->vocab * sizeof *k->in);
    k->back = mem_alloc(MEM_DATA, (rows * (size_t)k->dim + wide) * sizeof *k->back);
    k->probe = mem_alloc(MEM_OTHER, (size_t)k->layers * sizeof *k->probe);
}

static void leak_close(struct leak *k)
{
    void *blocks[] = {k->layer, k->targets, k->list, k->x,    k->logits,
                      k->score, k->in,      k->back, k->probe};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
    model_close(k->m);
    dev_close(&k->dev);
    task_close(k->task);
}

// All layers' rows of a text, and the probabilities of what follows its prompt.
static void run_model(struct leak *k, const struct example *e)
{
    const int32_t start[2] = {0, e->n - 1};
    for (int32_t i = 0; i < e->n - 1; i++)
        k->targets[i] = i == e->answer - 1 ? e->tokens[e->answer] : -1;
    struct model_batch b = {
        .n_seqs = 1, .start = start, .tokens = e->tokens, .targets = k->targets};
    struct model_tap tap = {.n = k->layers,
                            .layer = k->layer,
                            .all = true,
                            .rows = e->n - 1,
                            .x = k->x,
                            .logits = k->logits};
    struct model_job job = {.batch = &b, .tap = &tap};
    model_evaluate(k->m, &job, 1);
    float most = k->logits[0], sum = 0;
    for (int32_t v = 1; v < k->vocab; v++)
        most = fmaxf(most, k->logits[v]);
    for (int32_t v = 0; v < k->vocab; v++)
        sum += k->logits[v] = expf(k->logits[v] - most);
    for (int32_t v = 0; v < k->vocab; v++)
        k->logits[v] /= sum;
}

// As it comes out of a message; false: the codec cannot write it.
static bool through(struct leak *k, const struct act_codec *a, const float *x, int32_t rows,
                    uint32_t which, float *to)
{
    struct codec_report report = {0};
    struct codec_key key = {.seed = 1, .client = which, .version = 1};
    struct msg_out o;
    struct err err;
    msg_init(&o, k->message, a->bound + MSG_VARINT_MAX, &report);
    if (act_put(&o, a, &key, x, rows, &err))
        return false;
    struct msg_in m = {.p = k->message, .end = o.p};
    if (a == &k->rows) {
        k->bytes += (double)msg_len(&o);
        k->values += (double)rows * k->dim;
    }
    return act_get(&m, a, &key, to, rows, &err) == 0;
}

// Distinct tokens of the prompt, ascending.
static int32_t words_of(struct leak *k, const struct example *e)
{
    int32_t n = 0;
    memset(k->in, 0, (size_t)k->vocab * sizeof *k->in);
    for (int32_t i = 0; i < e->answer; i++)
        k->in[e->tokens[i]] = true;
    for (int32_t v = 0; v < k->vocab; v++)
        if (k->in[v])
            k->list[n++] = v;
    return n;
}

static void learn(struct leak *k, struct layer_probes *p, const struct example *e, const float *x,
                  int32_t words)
{
    const float *pivot = x + (int64_t)(e->answer - 1) * k->dim;
    for (int32_t i = 0; i < e->n - 1; i++)
        probe_add(&p->token, x + (int64_t)i * k->dim, &e->tokens[i], 1);
    probe_add(&p->words, pivot, k->list, words);
    probe_add(&p->answer, pivot, &e->tokens[e->answer], 1);
}

// Of so many that score best, those that are in the text.
static double found(struct leak *k, int32_t words)
{
    int32_t hits = 0;
    for (int32_t i = 0; i < words; i++) {
        int32_t best = probe_best(k->score, k->vocab);
        hits += k->in[best];
        k->score[best] = -INFINITY;
    }
    return hits;
}

static void attack(struct leak *k, struct layer_probes *p, const struct example *e, const float *x,
                   int32_t words)
{
    const float *pivot = x + (int64_t)(e->answer - 1) * k->dim;
    for (int32_t i = 0; i < e->n - 1; i++) {
        probe_scores(&p->token, x + (int64_t)i * k->dim, k->score);
        p->right[TOKEN] += probe_best(k->score, k->vocab) == e->tokens[i];
        p->base[TOKEN] += probe_frequent(&p->token) == e->tokens[i];
    }
    probe_scores(&p->words, pivot, k->score);
    p->right[WORDS] += found(k, words);
    for (int32_t v = 0; v < k->vocab; v++)
        k->score[v] = (float)p->words.count[v];
    p->base[WORDS] += found(k, words);
    probe_scores(&p->answer, pivot, k->score);
    p->right[ANSWER] += probe_best(k->score, k->vocab) == e->tokens[e->answer];
    p->base[ANSWER] += probe_frequent(&p->answer) == e->tokens[e->answer];
}

// y - y_b: what is positive of it is the answer's.
static bool read_signs(struct leak *k, const struct example *e, uint32_t which)
{
    for (int32_t v = 0; v < k->vocab; v++)
        k->logits[v] = (v == e->tokens[e->answer]) - k->logits[v];
    float *to = k->back + (int64_t)k->longest * k->dim;
    if (!through(k, &k->wide, k->logits, 1, which, to))
        return false;
    k->signs += probe_best(to, k->vocab) == e->tokens[e->answer];
    return true;
}

static bool read_one(struct leak *k, const struct example *e, uint32_t which, bool own)
{
    const int64_t each = (int64_t)(e->n - 1) * k->dim;
    run_model(k, e);
    int32_t words = words_of(k, e);
    for (int32_t l = 0; l < k->layers; l++) {
        uint32_t stream = which * (uint32_t)k->layers + (uint32_t)l;
        if (!through(k, &k->rows, k->x + l * each, e->n - 1, stream, k->back))
            return false;
        (own ? learn : attack)(k, &k->probe[l], e, k->back, words);
    }
    if (own)
        return true;
    k->n[TOKEN] += e->n - 1;
    k->n[WORDS] += words;
    k->n[ANSWER]++;
    return read_signs(k, e, which);
}

static bool learn_all(struct leak *k)
{
    uint32_t n = 0;
    for (int32_t c = 0; c < 100 && n < (uint32_t)params.examples; c++) {
        const struct examples *own = task_client(k->task, c);
        for (int32_t i = 0; i < own->n && n < (uint32_t)params.examples; i++, n++)
            if (!read_one(k, &own->v[i], n, true))
                return false;
        task_forget(k->task, c);
    }
    for (int32_t l = 0; l < k->layers; l++) {
        probe_fit_one(&k->probe[l].token);
        probe_fit_many(&k->probe[l].words);
        probe_fit_one(&k->probe[l].answer);
    }
    return true;
}

static const struct table leak_table = {.n_cols = 11,
                                        .col = {{"Codec", "", 14, TABLE_LEFT},
                                                {"after", "layer", 7, TABLE_RIGHT},
                                                {"bits", "/value", 7, TABLE_RIGHT},
                                                {"tokens", "", 6, TABLE_RIGHT},
                                                {"guess", "", 5, TABLE_RIGHT},
                                                {"words", "pivot", 7, TABLE_RIGHT},
                                                {"guess", "", 5, TABLE_RIGHT},
                                                {"answer", "pivot", 7, TABLE_RIGHT},
                                                {"guess", "", 5, TABLE_RIGHT},
                                                {"answer", "sign", 6, TABLE_RIGHT},
                                                {"Validation", "", 10, TABLE_RIGHT}}};

static void print_layer(struct bench_ctx *c, const struct table *t, const struct leak *k,
                        const char *codec, int32_t l)
{
    const struct layer_probes *p = &k->probe[l];
    const double v[] = {8 * k->bytes / k->values,       p->right[TOKEN] / k->n[TOKEN],
                        p->base[TOKEN] / k->n[TOKEN],   p->right[WORDS] / k->n[WORDS],
                        p->base[WORDS] / k->n[WORDS],   p->right[ANSWER] / k->n[ANSWER],
                        p->base[ANSWER] / k->n[ANSWER], k->signs / k->n[ANSWER]};
    static const char *const names[] = {"bits_per_value", "tokens",        "tokens_guessed",
                                        "words",          "words_guessed", "answer",
                                        "answer_guessed", "answer_by_sign"};
    struct bench_counter counters[ARRAY_LEN(v)];
    double took = (double)k->took_ns;
    struct bench_result all = {.ns = stats_of(&took, 1), .iterations = 1, .samples = 1};
    all.sample_ns[0] = took;
    all.sample_cpu_ns[0] = -1;
    char cell[2 + ARRAY_LEN(v)][32], row[320];
    const char *cells[TABLE_COLS] = {codec};
    snprintf(cell[0], sizeof cell[0], "%d", l + 1);
    cells[1] = cell[0];
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        cells[2 + i] = fmt_fixed(cell[1 + i], v[i], t->col[2 + i].width, i ? 3 : 2);
        counters[i] = (struct bench_counter){names[i], v[i]};
    }
    cells[2 + ARRAY_LEN(v)] = bench_check(c, true);
    snprintf(row, sizeof row, "%s/layer:%d", codec, l + 1);
    bench_row(c, t, cells);
    bench_report(c, row, &all, 0, counters, (int)ARRAY_LEN(v), NULL);
    fflush(t->out);
}

static int open_codec(struct leak *k, const char *text, struct err *err)
{
    if (act_codec_open(&k->rows, text, k->longest, k->dim, err))
        return -1;
    if (act_codec_open(&k->wide, text, 1, k->vocab, err)) {
        act_codec_close(&k->rows);
        return -1;
    }
    size_t most = k->rows.bound > k->wide.bound ? k->rows.bound : k->wide.bound;
    k->message = mem_alloc(MEM_CODEC, most + MSG_VARINT_MAX);
    memset(k->n, 0, sizeof k->n);
    k->signs = k->values = k->bytes = 0;
    for (int32_t l = 0; l < k->layers; l++) {
        k->probe[l] = (struct layer_probes){0};
        struct probe *p[] = {&k->probe[l].token, &k->probe[l].words, &k->probe[l].answer};
        for (size_t i = 0; i < ARRAY_LEN(p); i++)
            probe_open(p[i], k->dim, k->vocab);
    }
    return 0;
}

static void close_codec(struct leak *k)
{
    for (int32_t l = 0; l < k->layers; l++) {
        probe_close(&k->probe[l].token);
        probe_close(&k->probe[l].words);
        probe_close(&k->probe[l].answer);
    }
    mem_free(k->message);
    act_codec_close(&k->rows);
    act_codec_close(&k->wide);
}

static void run_codec(struct bench_ctx *c, const struct table *t, struct leak *k, const char *text)
{
    const struct examples *test = task_test(k->task);
    struct err err = {"a value cannot be written"};
    if (open_codec(k, text, &err)) {
        fprintf(c->out, "# %s: %s\n", text, err.text);
        bench_check(c, false);
        return;
    }
    int64_t t0 = clock_ns();
    bool good = learn_all(k);
    for (int32_t i = 0; i < test->n && good; i++)
        good = read_one(k, &test->v[i], (uint32_t)(params.examples + i), false);
    k->took_ns = clock_ns() - t0;
    for (int32_t l = 0; l < k->layers && good; l++)
        print_layer(c, t, k, text, l);
    if (!good) {
        fprintf(c->out, "# %s: %s\n", text, err.text);
        bench_check(c, false);
    }
    close_codec(k);
}

static void run(struct bench_ctx *c)
{
    struct leak *k = mem_alloc(MEM_OTHER, sizeof *k);
    leak_open(k);
    fprintf(c->out,
            "# %s, %s; the attacker learns from %d examples and reads %d. tokens: of each row the "
            "token it stands at;\n"
            "# words: of a prompt's distinct tokens, by its last row alone; answer: its first "
            "token, by that row, and as\n"
            "# what is largest of the prediction difference; guess: what is frequent in the "
            "attacker's own\n",
            params.model, task_choices[params.task], params.examples, params.test);
    struct table t = leak_table;
    t.out = c->out;
    bench_size(c, params.test, "texts");
    bench_head(c, &t);
    for (const char *rest = params.codecs; *rest;) {
        char text[256];
        size_t len = strcspn(rest, "; \t\n");
        snprintf(text, sizeof text, "%.*s", (int)len, rest);
        rest += len + (rest[len] != '\0');
        if (len)
            run_codec(c, &t, k, text);
    }
    leak_close(k);
    mem_free(k);
}

const struct bench bench_leak = {
    .name = "leak",
    .help = "what activations at a cut and prediction differences tell a server, by linear probes",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
