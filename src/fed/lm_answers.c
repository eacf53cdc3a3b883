#include "fed/lm.h"

#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define ANSWERS_BLOCK 64 // examples at once

void lm_answers_open(struct lm_answers *a, struct model *model, const struct task *task,
                     int32_t capacity)
{
    size_t longest = (size_t)task->max_tokens, n = (size_t)capacity;
    *a = (struct lm_answers){.model = model, .task = task, .capacity = capacity};
    lm_batch_open(&a->batch, ANSWERS_BLOCK, task->max_tokens);
    a->best = mem_alloc(MEM_DATA, ANSWERS_BLOCK * longest * sizeof *a->best);
    a->wrong = mem_alloc(MEM_DATA, ANSWERS_BLOCK * sizeof *a->wrong);
    a->text = mem_alloc(MEM_DATA, n * (size_t)task->max_answer * sizeof *a->text);
    a->text_len = mem_alloc(MEM_DATA, ANSWERS_BLOCK * sizeof *a->text_len);
    a->ended = mem_alloc(MEM_DATA, ANSWERS_BLOCK * sizeof *a->ended);
    a->prediction = mem_alloc(MEM_DATA, n * sizeof *a->prediction);
}

void lm_answers_close(struct lm_answers *a)
{
    void *blocks[] = {a->best, a->wrong, a->text, a->text_len, a->ended, a->prediction};
    lm_batch_close(&a->batch);
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
}

// Where every token of the answer is the likeliest one, greedy decoding gives the answer itself.
static bool answered(const struct lm_answers *a, const struct example *e, int32_t row)
{
    for (int32_t i = e->answer; i < e->n; i++)
        if (a->best[row + i - 1] != e->tokens[i])
            return false;
    return true;
}

// Greedy answers of the examples the model did not get right under teacher forcing.
static void generate(struct lm_answers *a, const float *adapter, const struct examples *set,
                     int32_t first, int32_t n_wrong)
{
    struct lm_batch *b = &a->batch;
    int32_t answer = a->task->max_answer;
    int32_t *out = a->text + (size_t)first * (size_t)answer;
    b->start[0] = 0;
    for (int32_t i = 0; i < n_wrong; i++) {
        const struct example *e = &set->v[a->wrong[i]];
        memcpy(b->tokens + b->start[i], e->tokens, (size_t)e->answer * sizeof *e->tokens);
        b->start[i + 1] = b->start[i] + e->answer;
    }
    struct model_gen g = {.adapter = adapter,
                          .n_seqs = n_wrong,
                          .start = b->start,
                          .tokens = b->tokens,
                          .max_new = answer,
                          .end = a->task->tokenizer->eos,
                          .out = out,
                          .out_len = a->text_len,
                          .ended = a->ended};
    model_generate(a->model, &g);
    for (int32_t i = 0; i < n_wrong; i++)
        a->prediction[a->wrong[i]] = (struct prediction){
            .tokens = out + (size_t)i * (size_t)answer, .n = a->text_len[i], .ended = a->ended[i]};
}

// One block of the test set: its loss, and what the model answers.
static void answer_block(struct lm_answers *a, const float *adapter, const struct examples *set,
                         int32_t first, int32_t n, double *loss, double *weight)
{
    struct model_job job = {.batch = &a->batch.batch, .adapter = adapter, .best = a->best};
    int32_t n_wrong = 0;
    lm_batch_clear(&a->batch);
    for (int32_t i = 0; i < n; i++)
        lm_batch_add(&a->batch, &set->v[first + i]);
    model_evaluate(a->model, &job, 1);
    *loss += job.loss * job.weight;
    *weight += job.weight;
    for (int32_t i = 0; i < n; i++) {
        const struct example *e = &set->v[first + i];
        if (answered(a, e, a->batch.start[i]))
            a->prediction[first + i] = (struct prediction){
                .tokens = e->tokens + e->answer, .n = e->n - e->answer - 1, .ended = true};
        else
            a->wrong[n_wrong++] = first + i;
    }
    if (n_wrong)
        generate(a, adapter, set, first, n_wrong);
}

double lm_answers_run(struct lm_answers *a, const float *adapter, const struct examples *set)
{
    double loss = 0, weight = 0;
    assert(set->n <= a->capacity);
    for (int32_t first = 0; first < set->n; first += ANSWERS_BLOCK) {
        int32_t n = set->n - first < ANSWERS_BLOCK ? set->n - first : ANSWERS_BLOCK;
        answer_block(a, adapter, set, first, n, &loss, &weight);
    }
    return weight > 0 ? loss / weight : NAN;
}
