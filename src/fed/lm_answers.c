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
    a->start = mem_alloc(MEM_DATA, (ANSWERS_BLOCK + 1) * sizeof *a->start);
    a->tokens = mem_alloc(MEM_DATA, ANSWERS_BLOCK * longest * sizeof *a->tokens);
    a->answer = mem_alloc(MEM_DATA, ANSWERS_BLOCK * sizeof *a->answer);
    a->loss = mem_alloc(MEM_DATA, ANSWERS_BLOCK * sizeof *a->loss);
    a->right = mem_alloc(MEM_DATA, ANSWERS_BLOCK * sizeof *a->right);
    a->text = mem_alloc(MEM_DATA, n * (size_t)task->max_answer * sizeof *a->text);
    a->text_len = mem_alloc(MEM_DATA, ANSWERS_BLOCK * sizeof *a->text_len);
    a->ended = mem_alloc(MEM_DATA, ANSWERS_BLOCK * sizeof *a->ended);
    a->prediction = mem_alloc(MEM_DATA, n * sizeof *a->prediction);
}

void lm_answers_close(struct lm_answers *a)
{
    void *blocks[] = {a->start, a->tokens,   a->answer, a->loss,      a->right,
                      a->text,  a->text_len, a->ended,  a->prediction};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
}

// One block of the test set: its loss, and what the model answers. Where every token of the answer
// is the likeliest one, greedy decoding gives the answer itself.
static void answer_block(struct lm_answers *a, const float *adapter, const struct examples *set,
                         int32_t first, int32_t n, double *loss, double *weight)
{
    int32_t answer = a->task->max_answer;
    int32_t *out = a->text + (size_t)first * (size_t)answer;
    a->start[0] = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct example *e = &set->v[first + i];
        memcpy(a->tokens + a->start[i], e->tokens, (size_t)e->n * sizeof *e->tokens);
        a->start[i + 1] = a->start[i] + e->n;
        a->answer[i] = e->answer;
    }
    struct model_gen g = {.adapter = adapter,
                          .n_seqs = n,
                          .start = a->start,
                          .tokens = a->tokens,
                          .max_new = answer,
                          .end = a->task->tokenizer->eos,
                          .out = out,
                          .out_len = a->text_len,
                          .ended = a->ended,
                          .answer = a->answer,
                          .loss = a->loss,
                          .right = a->right};
    model_generate(a->model, &g);
    for (int32_t i = 0; i < n; i++) {
        const struct example *e = &set->v[first + i];
        struct prediction said = {
            .tokens = out + (size_t)i * (size_t)answer, .n = a->text_len[i], .ended = a->ended[i]};
        if (a->right[i])
            said = (struct prediction){
                .tokens = e->tokens + e->answer, .n = e->n - e->answer - 1, .ended = true};
        a->prediction[first + i] = said;
        *loss += a->loss[i];
        *weight += e->n - e->answer;
    }
}

bool lm_answers_run(struct lm_answers *a, const float *adapter, const struct examples *set,
                    const volatile sig_atomic_t *stop, double *loss)
{
    double sum = 0, weight = 0;
    assert(set->n <= a->capacity);
    for (int32_t first = 0; first < set->n; first += ANSWERS_BLOCK) {
        int32_t n = set->n - first < ANSWERS_BLOCK ? set->n - first : ANSWERS_BLOCK;
        if (stop && *stop)
            return false;
        answer_block(a, adapter, set, first, n, &sum, &weight);
    }
    *loss = weight > 0 ? sum / weight : NAN;
    return true;
}
