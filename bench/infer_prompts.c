#include "base/mem.h"
#include "base/rng.h"
#include "bench/infer.h"

#include <string.h>

static void synthetic(struct infer_prompts *p, const struct infer_setting *s, int32_t vocab,
                      uint64_t seed)
{
    for (int32_t q = 0; q < p->n; q++) {
        struct rng r = rng_stream(seed, RNG_INFER, (uint32_t)q, (uint32_t)s->prompt, 0);
        for (int32_t i = 0; i < s->prompt; i++)
            p->tokens[p->start[q] + i] = (int32_t)rng_below(&r, (uint32_t)vocab);
        p->start[q + 1] = p->start[q] + s->prompt;
    }
}

static void of_task(struct infer_prompts *p, const struct examples *set)
{
    for (int32_t q = 0; q < p->n; q++) {
        const struct example *e = &set->v[q];
        memcpy(p->tokens + p->start[q], e->tokens, (size_t)e->answer * sizeof *p->tokens);
        p->start[q + 1] = p->start[q] + e->answer;
    }
}

static int check(const struct infer_prompts *p, const struct infer_setting *s, bool task,
                 const struct model_config *c, struct err *err)
{
    for (int32_t q = 0; q < p->n; q++)
        if (p->start[q + 1] == p->start[q])
            return err_set(err,
                           "the prompt of test example %d is empty: there is nothing to go on "
                           "from",
                           q + 1);
    if (p->longest + s->answer > c->max_positions)
        return err_set(err,
                       "%s = %d and %s = %d: together more than the %d tokens that the model "
                       "takes",
                       task ? "longest prompt" : "infer.prompt_tokens", p->longest,
                       task ? "task.max_answer" : "infer.new_tokens", s->answer, c->max_positions);
    return 0;
}

int infer_prompts_open(struct infer_prompts *p, const struct infer_setting *s,
                       const struct task *task, const struct model_config *c, uint64_t seed,
                       struct err *err)
{
    const struct examples *set = task ? task_test((struct task *)task) : NULL;
    size_t rows = 0;
    *p = (struct infer_prompts){.n = task ? set->n : s->batch};
    for (int32_t q = 0; q < p->n; q++) {
        int32_t n = task ? set->v[q].answer : s->prompt;
        p->longest = n > p->longest ? n : p->longest;
        rows += (size_t)n;
    }
    if (p->n == 0)
        return err_set(err, "the task's test set is empty");
    if (rows > INT32_MAX)
        return err_set(err, "prompts of %zu tokens at once: at most %d", rows, INT32_MAX);
    p->start = mem_alloc(MEM_DATA, ((size_t)p->n + 1) * sizeof *p->start);
    p->tokens = mem_alloc(MEM_DATA, (rows + 1) * sizeof *p->tokens);
    if (task)
        of_task(p, set);
    else
        synthetic(p, s, c->vocab, seed);
    return check(p, s, task != NULL, c, err);
}

void infer_prompts_close(struct infer_prompts *p)
{
    mem_free(p->start);
    mem_free(p->tokens);
}
