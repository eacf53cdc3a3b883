#include "base/clock.h"
#include "base/mem.h"
#include "base/power.h"
#include "bench/infer.h"

#include <math.h>
#include <string.h>

// Rows of this machine's rails, as energy of a repetition.
struct meter {
    struct power_watch watch;
    struct power_sum sum;
};

static double meter_take(struct meter *m)
{
    size_t n;
    const struct rec_sensor *row = power_watch_take(&m->watch, &n);
    for (size_t i = 0; i < n; i++)
        power_sum_add(&m->sum, &row[i]);
    return power_sum_take(&m->sum);
}

// What a repetition took.
struct times {
    int64_t prefill_ns, decode_ns;
    int64_t fresh, steps; // tokens generated; of those, not the first of a sequence
};

// Sequences of a batch run side by side: the batch's prompts are read when the last one is, and its
// decoding is as long as that of the slowest.
static void take_batch(struct infer_row *r, int32_t first, int32_t n, bool counts, struct times *t)
{
    int64_t prefill = 0, decode = 0;
    for (int32_t q = 0; q < n; q++) {
        const int64_t *at = r->token_ns + (ptrdiff_t)q * r->set.answer;
        int32_t known = r->out_len[first + q] + r->ended[first + q];
        int64_t took = at[known - 1] - at[0];
        prefill = at[0] > prefill ? at[0] : prefill;
        decode = took > decode ? took : decode;
        t->fresh += known;
        t->steps += known - 1;
        if (!counts)
            continue;
        r->first_ns[r->n_first++] = (double)at[0];
        for (int32_t i = 1; i < known; i++)
            r->step_ns[r->n_step++] = (double)(at[i] - at[i - 1]);
    }
    t->prefill_ns += prefill;
    t->decode_ns += decode;
}

static struct times repeat_once(const struct infer *in, struct infer_row *r, bool counts)
{
    struct times t = {0};
    for (int32_t first = 0; first < r->prompts.n; first += r->set.batch) {
        int32_t n = r->prompts.n - first;
        n = n < r->set.batch ? n : r->set.batch;
        int64_t bytes;
        struct model_gen g = {.adapter = in->adapter,
                              .n_seqs = n,
                              .start = r->prompts.start + first,
                              .tokens = r->prompts.tokens,
                              .max_new = r->set.answer,
                              .end = in->task ? in->task->tokenizer->eos : -1,
                              .out = r->out + (ptrdiff_t)first * r->set.answer,
                              .out_len = r->out_len + first,
                              .ended = r->ended + first,
                              .token_ns = r->token_ns,
                              .reduce = &r->set.reduce,
                              .cache_bytes = &bytes};
        model_generate(in->model, &g);
        r->cache_bytes = bytes > r->cache_bytes ? bytes : r->cache_bytes;
        take_batch(r, first, n, counts, &t);
    }
    return t;
}

static void put_sample(struct bench_result *b, int i, int64_t ns, double cpu_ns,
                       const struct noise *noise)
{
    b->noise[i] = *noise;
    b->iterations = 1;
    b->samples = i + 1;
    b->sample_ns[i] = (double)ns;
    b->sample_cpu_ns[i] = cpu_ns;
}

static void take_sample(const struct infer *in, struct infer_row *r, int i, struct meter *meter)
{
    meter_take(meter);
    struct noise_mark begun = noise_begin();
    int64_t cpu = clock_cpu_ns(), wall = clock_ns();
    struct times t = repeat_once(in, r, true);
    wall = clock_ns() - wall;
    cpu = clock_cpu_ns() - cpu;
    r->joule += meter_take(meter);
    struct noise noise = noise_end(&begun);
    r->new_tokens = t.fresh;
    r->steps = t.steps;
    put_sample(&r->prefill, i, t.prefill_ns, NAN, &noise);
    put_sample(&r->decode, i, t.decode_ns, NAN, &noise);
    put_sample(&r->whole, i, wall, (double)cpu, &noise);
}

static void row_open(const struct infer *in, struct infer_row *r)
{
    size_t n = (size_t)r->prompts.n, answer = (size_t)r->set.answer;
    size_t all = n * (size_t)in->params->repeat;
    size_t batch = n < (size_t)r->set.batch ? n : (size_t)r->set.batch;
    r->out = mem_alloc(MEM_DATA, n * answer * sizeof *r->out);
    r->out_len = mem_alloc(MEM_DATA, n * sizeof *r->out_len);
    r->ended = mem_alloc(MEM_DATA, n * sizeof *r->ended);
    r->token_ns = mem_alloc(MEM_DATA, batch * answer * sizeof *r->token_ns);
    r->first_ns = mem_alloc(MEM_DATA, all * sizeof *r->first_ns);
    r->step_ns = mem_alloc(MEM_DATA, all * answer * sizeof *r->step_ns);
    r->prompt_tokens = r->prompts.start[r->prompts.n];
    r->score = NAN;
}

void infer_row_close(struct infer_row *r)
{
    void *blocks[] = {r->out, r->out_len, r->ended, r->token_ns, r->first_ns, r->step_ns};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
    infer_prompts_close(&r->prompts);
}

static void finish(struct bench_result *b)
{
    double sorted[BENCH_SAMPLES_MAX];
    memcpy(sorted, b->sample_cpu_ns, sizeof sorted);
    b->cpu_ns = stats_of(sorted, (size_t)b->samples).median;
    memcpy(sorted, b->sample_ns, sizeof sorted);
    b->ns = stats_of(sorted, (size_t)b->samples);
}

static double score(const struct infer *in, const struct infer_row *r)
{
    const struct examples *set = task_test((struct task *)in->task);
    struct prediction *said = mem_alloc(MEM_DATA, (size_t)set->n * sizeof *said);
    struct score all;
    for (int32_t q = 0; q < set->n; q++)
        said[q] = (struct prediction){.tokens = r->out + (ptrdiff_t)q * r->set.answer,
                                      .n = r->out_len[q],
                                      .ended = r->ended[q]};
    task_score(in->task, set, said, &all, NULL);
    mem_free(said);
    return task_main_score(in->task, &all);
}

void infer_measure(struct infer *in)
{
    struct meter meter = {0};
    power_watch_open(&meter.watch);
    power_watch_start(&meter.watch);
    for (int k = 0; k < in->n_rows; k++) {
        row_open(in, &in->row[k]);
        for (int32_t i = 0; i < in->params->warmup; i++)
            repeat_once(in, &in->row[k], false);
    }
    for (int32_t i = 0; i < in->params->repeat; i++)
        for (int k = 0; k < in->n_rows; k++)
            take_sample(in, &in->row[k], i, &meter);
    for (int k = 0; k < in->n_rows; k++) {
        struct infer_row *r = &in->row[k];
        finish(&r->prefill);
        finish(&r->decode);
        finish(&r->whole);
        r->first = stats_of(r->first_ns, r->n_first);
        r->step = stats_of(r->step_ns, r->n_step);
        if (in->task)
            r->score = score(in, r);
    }
    power_watch_stop(&meter.watch);
    power_sum_free(&meter.sum);
}
