// The parameters of `fstq infer`, and the settings that their lists make together.
#include "bench/infer.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const char *const prompts_names[] = {
    [INFER_SYNTHETIC] = "synthetic", [INFER_TASK] = "task", NULL};

const struct opt infer_options[] = {
    OPT_ENUM(struct infer_params, prompts, "infer.prompts", "synthetic", prompts_names,
             "tokens drawn at random, or the task's test set, whose answers are scored"),
    OPT_STRING(struct infer_params, prompt_tokens, "infer.prompt_tokens", "128",
               "lengths of synthetic prompts, a list: 128,512"),
    OPT_STRING(struct infer_params, new_tokens, "infer.new_tokens", "32",
               "tokens generated after a synthetic prompt, a list; 1 = prefill alone"),
    OPT_STRING(struct infer_params, batch, "infer.batch", "1", "sequences at once, a list"),
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
            return err_set(err, "%s = %s: '%.*s' is not a %snumber from %g to %g", key, text,
                           (int)strcspn(p, ","), p, whole ? "whole " : "", least, most);
        if (l->n == LIST)
            return err_set(err, "%s: more than %d values", key, LIST);
        l->v[l->n++] = v;
        p = *end ? end + 1 : NULL;
    } while (p);
    return 0;
}

int infer_settings(const struct infer_params *p, const struct task *task,
                   struct infer_setting settings[INFER_SETTINGS], struct err *err)
{
    struct list batch, prompt, answer;
    int n = 0;
    if (read_list("infer.batch", p->batch, true, 1, 1 << 16, &batch, err) ||
        read_list("infer.prompt_tokens", p->prompt_tokens, true, 1, 1 << 24, &prompt, err) ||
        read_list("infer.new_tokens", p->new_tokens, true, 1, 1 << 24, &answer, err))
        return -1;
    if (task) { // one length each: the task's own
        prompt = (struct list){.n = 1, .v = {task->max_tokens}};
        answer = (struct list){.n = 1, .v = {task->max_answer}};
    }
    for (int i = 0; i < prompt.n; i++)
        for (int j = 0; j < answer.n; j++)
            for (int k = 0; k < batch.n; k++) {
                if (n == INFER_SETTINGS)
                    return err_set(err, "infer: more than %d combinations", INFER_SETTINGS);
                settings[n++] = (struct infer_setting){.batch = (int32_t)batch.v[k],
                                                       .prompt = (int32_t)prompt.v[i],
                                                       .answer = (int32_t)answer.v[j]};
            }
    return n;
}
