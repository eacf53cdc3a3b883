// What `fstq infer` found: a table for people, as text or Markdown, CSV and JSON for machines. All
// walk one list of columns.
#include "base/mem.h"
#include "base/table.h"
#include "bench/infer.h"

#include <math.h>
#include <string.h>

// Tokens a second: mean and standard deviation over the repetitions.
static struct stats rates(const struct bench_result *b, int64_t tokens)
{
    double v[BENCH_SAMPLES_MAX];
    for (int i = 0; i < b->samples; i++)
        v[i] = tokens > 0 ? (double)tokens / b->sample_ns[i] * 1e9 : NAN;
    return stats_of(v, (size_t)b->samples);
}

static double keep_of(const struct infer_row *r)
{
    return r->set.reduce.keep;
}

static double layer_of(const struct infer_row *r)
{
    return r->set.reduce.layer;
}

static double batch_of(const struct infer_row *r)
{
    return r->set.batch;
}

static double prompt_of(const struct infer_row *r)
{
    return (double)r->prompt_tokens / r->prompts.n;
}

static double fresh_of(const struct infer_row *r)
{
    return (double)r->new_tokens / r->prompts.n;
}

static double prefill_mean(const struct infer_row *r)
{
    return rates(&r->prefill, r->prompt_tokens).mean;
}

static double prefill_sd(const struct infer_row *r)
{
    return rates(&r->prefill, r->prompt_tokens).stddev;
}

static double decode_mean(const struct infer_row *r)
{
    return rates(&r->decode, r->steps).mean;
}

static double decode_sd(const struct infer_row *r)
{
    return rates(&r->decode, r->steps).stddev;
}

static double first_p50(const struct infer_row *r)
{
    return r->first.median * 1e-6;
}

static double first_p95(const struct infer_row *r)
{
    return r->first.p95 * 1e-6;
}

static double first_p99(const struct infer_row *r)
{
    return r->first.p99 * 1e-6;
}

static double step_p50(const struct infer_row *r)
{
    return r->n_step ? r->step.median * 1e-6 : NAN;
}

static double step_p95(const struct infer_row *r)
{
    return r->n_step ? r->step.p95 * 1e-6 : NAN;
}

static double step_p99(const struct infer_row *r)
{
    return r->n_step ? r->step.p99 * 1e-6 : NAN;
}

static double cache_mib(const struct infer_row *r)
{
    return (double)r->cache_bytes / (1 << 20);
}

static double joule_of(const struct infer_row *r)
{
    return r->joule / (double)(r->new_tokens * r->whole.samples);
}

// CPU time of a repetition, all threads: what a busy machine does not stretch.
static double cpu_of(const struct infer_row *r)
{
    return r->whole.cpu_ns * 1e-9;
}

// Of a whole repetition, against the one beside it without a reduction.
static double speedup_of(const struct infer_row *r)
{
    return r->base ? bench_ratio(&r->base->whole, &r->whole) : NAN;
}

static double score_of(const struct infer_row *r)
{
    return r->score;
}

static const struct column {
    const char *key, *head, *unit;
    int width, decimals;
    double (*value)(const struct infer_row *r);
} columns[] = {
    {"keep", "keep", "", 5, 3, keep_of},
    {"layer", "layer", "", 5, 0, layer_of},
    {"batch", "batch", "", 5, 0, batch_of},
    {"prompt_tokens", "prompt", "tokens", 8, 0, prompt_of},
    {"new_tokens", "new", "tokens", 8, 0, fresh_of},
    {"prefill_tok_s", "prefill", "tok/s", 9, 1, prefill_mean},
    {"prefill_sd_tok_s", "sd", "tok/s", 7, 1, prefill_sd},
    {"decode_tok_s", "decode", "tok/s", 9, 1, decode_mean},
    {"decode_sd_tok_s", "sd", "tok/s", 7, 1, decode_sd},
    {"first_p50_ms", "first p50", "ms", 9, 2, first_p50},
    {"first_p95_ms", "p95", "ms", 8, 2, first_p95},
    {"first_p99_ms", "p99", "ms", 8, 2, first_p99},
    {"token_p50_ms", "token p50", "ms", 9, 3, step_p50},
    {"token_p95_ms", "p95", "ms", 8, 3, step_p95},
    {"token_p99_ms", "p99", "ms", 8, 3, step_p99},
    {"cache_mib", "cache", "MiB", 8, 2, cache_mib},
    {"joule_per_token", "energy", "J/token", 9, 4, joule_of},
    {"cpu_s", "cpu", "s", 8, 3, cpu_of},
    {"speedup", "speed-up", "x", 8, 3, speedup_of},
    {"score", "score", "", 6, 4, score_of},
};
enum { COLUMNS = ARRAY_LEN(columns) };
_Static_assert(COLUMNS < TABLE_COLS, "a table holds all columns");

const char infer_begins[3][8] = {
    [INFER_TEXT] = "#", [INFER_MARKDOWN] = "| reduce", [INFER_CSV] = "reduce,"};

// A number for people, or for programs as it is.
static const char *text_cell(char text[32], const struct column *c, double v)
{
    if (table_for_people() || !isfinite(v))
        return fmt_fixed(text, v, c->width, c->decimals);
    snprintf(text, 32, "%.9g", v);
    return text;
}

// Programs tell columns apart by their keys: heads say sd and p95 twice.
static void text(const struct infer *in, FILE *out)
{
    struct table t = {.out = out, .n_cols = COLUMNS + 1};
    char cell[COLUMNS][32];
    const char *cells[COLUMNS + 1];
    t.col[0] = (struct table_col){"reduce", "", 9, TABLE_LEFT};
    for (int k = 0; k < COLUMNS; k++) {
        const struct column *c = &columns[k];
        t.col[k + 1] = table_for_people()
                           ? (struct table_col){c->head, c->unit, c->width, TABLE_RIGHT}
                           : (struct table_col){.head = c->key, .unit = "", .align = TABLE_RIGHT};
    }
    table_head(&t);
    for (int i = 0; i < in->n_rows; i++) {
        cells[0] = in->row[i].set.reduce.row->name;
        for (int k = 0; k < COLUMNS; k++)
            cells[k + 1] = text_cell(cell[k], &columns[k], columns[k].value(&in->row[i]));
        table_row(&t, cells);
    }
}

static void markdown(const struct infer *in, FILE *out)
{
    char cell[32];
    fputs("| reduce", out);
    for (int k = 0; k < COLUMNS; k++)
        fprintf(out, " | %s%s%s", columns[k].head, *columns[k].unit ? ", " : "", columns[k].unit);
    fputs(" |\n|:--|", out);
    for (int k = 0; k < COLUMNS; k++)
        fputs("--:|", out);
    fputc('\n', out);
    for (int i = 0; i < in->n_rows; i++) {
        fprintf(out, "| %s", in->row[i].set.reduce.row->name);
        for (int k = 0; k < COLUMNS; k++)
            fprintf(out, " | %s",
                    fmt_fixed(cell, columns[k].value(&in->row[i]), 24, columns[k].decimals));
        fputs(" |\n", out);
    }
}

static void csv(const struct infer *in, FILE *out)
{
    fputs("reduce", out);
    for (int k = 0; k < COLUMNS; k++)
        fprintf(out, ",%s", columns[k].key);
    fputc('\n', out);
    for (int i = 0; i < in->n_rows; i++) {
        fputs(in->row[i].set.reduce.row->name, out);
        for (int k = 0; k < COLUMNS; k++) {
            double v = columns[k].value(&in->row[i]);
            fputc(',', out);
            if (isfinite(v))
                fprintf(out, "%.9g", v);
        }
        fputc('\n', out);
    }
}

void infer_print(const struct infer *in, FILE *out, int format)
{
    static void (*const print[])(const struct infer *, FILE *) = {
        [INFER_TEXT] = text, [INFER_MARKDOWN] = markdown, [INFER_CSV] = csv};
    print[format](in, out);
}

// Three rows a setting: reading the prompts, decoding, and all of it. The program's peak memory is
// that of all settings.
void infer_json(const struct infer *in, struct bench_ctx *c)
{
    for (int i = 0; i < in->n_rows; i++) {
        const struct infer_row *r = &in->row[i];
        const struct {
            const char *name;
            const struct bench_result *b;
            int64_t tokens;
        } phase[] = {{"prefill", &r->prefill, r->prompt_tokens},
                     {"decode", &r->decode, r->steps},
                     {"whole", &r->whole, r->prompt_tokens + r->new_tokens}};
        c->threads = in->lanes < r->set.batch ? in->lanes : r->set.batch;
        for (size_t p = 0; p < ARRAY_LEN(phase); p++) {
            struct bench_counter counters[COLUMNS + 2];
            char name[128];
            for (int k = 0; k < COLUMNS; k++)
                counters[k] = (struct bench_counter){columns[k].key, columns[k].value(r)};
            counters[COLUMNS] =
                (struct bench_counter){"items_per_second", rates(phase[p].b, phase[p].tokens).mean};
            counters[COLUMNS + 1] =
                (struct bench_counter){"peak_rss_mib", (double)mem_rss_peak() / (1 << 20)};
            snprintf(name, sizeof name, "%s/%s/keep:%g/layer:%d/batch:%d/prompt:%d/new:%d",
                     phase[p].name, r->set.reduce.row->name, r->set.reduce.keep,
                     r->set.reduce.layer, r->set.batch, r->set.prompt, r->set.answer);
            bench_report(c, name, phase[p].b, 0, counters, COLUMNS + 2, NULL);
        }
    }
}

void infer_show(const struct infer *in, FILE *out, int32_t n)
{
    enum { TOKEN_BYTES = 32 }; // more than most have; what does not fit is cut
    const struct examples *set = task_test((struct task *)in->task);
    const struct infer_row *r = &in->row[in->n_rows - 1];
    size_t size = (size_t)in->task->max_tokens * TOKEN_BYTES;
    char *words = mem_alloc(MEM_DATA, size);
    for (int32_t q = 0; q < n && q < set->n; q++) {
        const struct example *e = &set->v[q];
        fprintf(out, "# example %d\n", q + 1);
        tokenizer_decode(in->task->tokenizer, e->tokens, e->answer, words, size);
        table_text(out, "prompt", words, "");
        table_text(out, "expected", e->reference, "");
        tokenizer_decode(in->task->tokenizer, r->out + (ptrdiff_t)q * r->set.answer, r->out_len[q],
                         words, size);
        table_text(out, "answer", words, r->ended[q] ? "" : " ...");
    }
    mem_free(words);
}
