// `fstq infer`: how fast a model answers on this device. infer_settings.c says what is measured,
// infer_prompts.c on which prompts, infer_learn.c what tokens are worth, infer_measure.c measures,
// infer_report.c says what came out.
#ifndef FSTQ_BENCH_INFER_H
#define FSTQ_BENCH_INFER_H

#include "bench/bench.h"
#include "model/model.h"
#include "model/reduce.h"
#include "src/config.h"
#include "task/task.h"

#define INFER_SETTINGS 512

struct infer_setting {
    int32_t batch;          // sequences at once
    int32_t prompt, answer; // tokens of a synthetic prompt; new ones of a sequence, at most
    struct model_reduce reduce;
};

// Every combination of the lists in p; with the task's prompts their lengths and answers are the
// task's. Returns how many there are, or -1 with the key that is wrong.
int infer_settings(const struct infer_params *p, const struct task *task, uint64_t seed,
                   struct infer_setting settings[INFER_SETTINGS + 1], struct err *err);

bool infer_needs_scores(const struct infer_setting *set, int n);
// What the task's clients learn of the vocabulary: each looks at minibatches of its own examples,
// and takes gradients with this adapter (NULL = none).
void infer_learn(struct token_scores *all, const struct config *c, struct model *m,
                 struct task *task, const float *adapter, FILE *say);

struct infer_prompts {
    int32_t n, longest;
    int32_t *start, *tokens; // (n + 1), (start[n])
};

// As many synthetic prompts as the setting has sequences, or all of the task's test set. -1 where
// one has no token, or none fits the model together with its answer.
int infer_prompts_open(struct infer_prompts *p, const struct infer_setting *s,
                       const struct task *task, const struct model_config *c, uint64_t seed,
                       struct err *err);
void infer_prompts_close(struct infer_prompts *p);

// What one setting came to. Times are of a repetition: all its prompts, in turn by batches.
struct infer_row {
    struct infer_setting set;
    const struct infer_row *base; // the same without a reduction, or NULL
    struct infer_prompts prompts;
    int64_t prompt_tokens, new_tokens, steps; // of a repetition; steps: tokens beyond the first
    struct bench_result prefill, decode, whole;
    double *first_ns, *step_ns; // of each sequence, of each step of each; in all repetitions
    size_t n_first, n_step;
    struct stats first, step; // of these
    double joule;             // of all repetitions, NaN = not known
    double score;             // of the task, NaN = has none
    int64_t cache_bytes;      // keys and values, of the largest batch
    int32_t *out, *out_len;   // (prompts.n, set.answer), (prompts.n): of the last repetition
    bool *ended;              // (prompts.n)
    int64_t *token_ns;        // (batch, set.answer) of the last batch
};

struct infer {
    struct model *model;
    const struct task *task; // NULL where prompts are synthetic
    const float *adapter;    // or NULL
    const struct infer_params *params;
    int32_t lanes;
    int n_rows;
    struct infer_row *row;
};

// Warms every setting up, then takes repetitions of all in turn.
void infer_measure(struct infer *in);
void infer_row_close(struct infer_row *r);

enum { INFER_TEXT, INFER_MARKDOWN, INFER_CSV };
void infer_print(const struct infer *in, FILE *out, int format);
extern const char infer_begins[3][8]; // how a file of a format begins
void infer_json(const struct infer *in, struct bench_ctx *c);
// The first n questions and what the model said, by the last setting.
void infer_show(const struct infer *in, FILE *out, int32_t n);

#endif
