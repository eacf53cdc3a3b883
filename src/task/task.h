// Tasks: what is learned and how it is scored. Tasks see data only, never a model.
//
// A numeric task (quadratic) has its own functions and no text. A text task gives every client's
// examples, a test set, a tokenizer and scores:
//
//     struct task *t = task_open(&params, seed, clients, &err);
//     const struct examples *mine = task_client(t, k);       // made at first ask, then kept
//     const struct examples *test = task_test(t);
//     ... generate at most t->max_answer tokens after tokens[0 .. answer) of each ...
//     task_score(t, test, predictions, &overall, by_group);  // by_group[t->n_groups]
//
// Everything follows from (params, seed, client): any rank makes the same bytes. The test set of
// real data follows from the files alone.
#ifndef FSTQ_TASK_TASK_H
#define FSTQ_TASK_TASK_H

#include "base/check.h"
#include "base/opt.h"
#include "task/dataset.h"
#include "task/quadratic.h"
#include "task/score.h"
#include "task/tokenizer.h"

#include <stdint.h>

struct task_params { // [task]
    int32_t name;    // row of task_table
    struct quadratic_params quadratic;
    char path[240];     // of real data: a file, a folder, or several separated by commas
    char partition[64]; // iid, dirichlet[:FIELD], field:NAME
    double alpha;       // of the Dirichlet mixture
    int32_t client_min, client_max; // examples of a client (synthetic tasks)
    int32_t test;                   // test examples
    char test_ids[240];             // JSON of an official test set's ids
    char prompt[512];               // template, "" = the reader's own
    int32_t max_tokens, max_answer; // of an example of real data, and of its answer
    int32_t chat;                   // row of chat_table
    char system[512];               // what a chat begins with, "" = nothing
    int32_t tokenizer;              // see tokenizer_name
    char vocab[240];                // file of the tokenizer
};

extern const struct opt task_options[];
extern const int task_option_count;

enum task_metric { TASK_EXACT, TASK_F1, TASK_ROUGE_L, TASK_ACCURACY, TASK_METRICS };
extern const char *const task_metric_names[TASK_METRICS];

struct task;
struct task_row {
    const char *name, *help;
    enum task_metric metric; // the one score of a summary, unless open finds another
    bool numeric;            // no text: client, test and forget are NULL
    // Fills t, or says why not and leaves what task_close can close.
    int (*open)(struct task *t, const struct task_params *p, struct err *err);
    void (*close)(struct task *t); // frees t->state; not called where that is NULL
    const struct examples *(*client)(struct task *t, int32_t client);
    const struct examples *(*test)(struct task *t);
    void (*forget)(struct task *t, int32_t client);
};

struct task {
    const struct task_row *row;
    enum task_metric metric; // the one score of a summary
    uint64_t seed;
    int32_t clients;
    int32_t max_tokens, max_answer; // no example has more; answers count their end
    int32_t n_groups, n_labels;
    const char *const *groups;   // names for scores and the trace: "ar", "en", ...
    const char *const *labels;   // "yes", "no", "maybe"; none where answers are free text
    const int32_t *client_sizes; // (clients) N_k
    const int32_t *held;         // (clients, n_groups) the realised partition
    struct tokenizer *tokenizer;
    struct quadratic *quadratic; // of the numeric task, else NULL
    void *state;                 // the row's own
};

extern const struct task_row task_synth_qa, task_synth_medical, task_synth_long;
extern const struct task_row task_squad, task_pubmedqa, task_medmcqa, task_jsonl, task_instruct,
    task_speech;
extern const struct task_row *const task_table[]; // NULL-terminated

// NULL with the reason in err: a file that is missing or malformed is named with line or key.
struct task *task_open(const struct task_params *p, uint64_t seed, int32_t clients,
                       struct err *err);
void task_close(struct task *t);
const struct examples *task_client(struct task *t, int32_t client);
void task_forget(struct task *t, int32_t client); // frees what task_client made
const struct examples *task_test(struct task *t);
// predictions[i] answers set->v[i]; by_group (n_groups) may be NULL. An answer that never ended is
// not an exact match.
void task_score(const struct task *t, const struct examples *set,
                const struct prediction *predictions, struct score *overall,
                struct score *by_group);
double task_main_score(const struct task *t, const struct score *s); // the one of t->metric

#endif
