// What clients train and the server evaluates, behind one face: the row joins a task (and a model).
#ifndef FSTQ_FED_WORKLOAD_H
#define FSTQ_FED_WORKLOAD_H

#include "base/check.h"
#include "base/record.h"
#include "base/shape.h"
#include "dev/dev.h"
#include "fed/fed.h"
#include "fed/local.h"
#include "fed/train_job.h"
#include "model/model.h"
#include "model/tokens.h"
#include "task/task.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#define EVAL_MAX 64

struct workload_env {
    const struct fed_params *fed;
    const struct fisher_params *fisher;
    const struct task_params *task;
    const struct model_params *model;
    const struct optim_params *optim;
    int32_t dev_kind, threads, math, buffers;
    int32_t at_once; // clients trained at once; 0 = as many as memory suggests
    uint64_t seed;
    bool server, worker; // what this process does; both when alone
};

struct eval_row {
    char set[24], metric[24];
    double value;
    int64_t n;
};

struct eval_result {
    double score, loss; // NaN = has none
    int n_rows;
    struct eval_row rows[EVAL_MAX];
    // In: once it is not 0 the evaluation may end early and has no result; NULL = it does not.
    const volatile sig_atomic_t *stop;
};

// A question of the test set and what the model said to it; texts are the callee's.
struct eval_answer {
    const char *prompt, *reference, *answer;
    bool ended; // the answer came to its end
};

struct workload;

// A model cut in two below a layer: one side runs what is below, another trains what is above.
struct cut_form {     // what both sides know of every example
    int32_t layer;    // the first above the cut
    int32_t batch;    // examples of a step
    int32_t examples; // of a client's round
    int32_t longest;  // tokens of an example, at most
    int32_t dim, vocab;
};

struct cut_example { // what enters the layer, capacity: form.longest rows
    int32_t rows, labels;
    int32_t *pos, *size; // (rows) position in the text, tokens that a row stands for
    int32_t *label;      // (labels) of the last rows
    float *x;            // (rows, dim)
};

struct cut_end { // where examples go to, or come from; what it returns other than 0 ends the work
    int (*pass)(void *arg, struct cut_example *e, struct err *err);
    void *arg;
};

struct cut_trainee { // what is above the cut, as it is trained for a client
    uint32_t client;
    int32_t steps; // taken
    float *adapter, *moments;
    double loss; // sum over the steps
};

struct cut_side; // a client below the cut in the middle of its round; workers have one each

struct cut_work {
    // Before a run; layer from 1.
    int (*open)(struct workload *w, int32_t layer, struct cut_form *form, struct err *err);
    struct shape_range (*range)(const struct workload *w); // of the adapter's values above it
    // A client's batches through the layers below, as they are; fills job->samples. Takes down how
    // long the layers took, not `to`, in job->dur_ns and one span. Returns what `to` said.
    int (*below)(struct workload *w, struct train_job *job, struct cut_end to, struct recorder *rec,
                 struct err *err);
    // A round of local training above, from a fresh optimizer: fills job->delta and job->loss.
    int (*above)(struct workload *w, struct train_job *job, struct cut_end from,
                 struct recorder *rec, struct err *err);

    // Where what is below is trained, too, a batch goes up and its gradient comes down.
    struct cut_side *(*side_open)(struct workload *w);
    void (*side_close)(struct cut_side *s);
    void (*begin)(struct workload *w, struct cut_side *s, struct train_job *job);
    int (*forward)(struct workload *w, struct cut_side *s, struct train_job *job, struct cut_end to,
                   struct recorder *rec, struct err *err); // of the next batch, to the cut
    // The batch's: `from` fills x of as many rows as went up with each example.
    int (*backward)(struct workload *w, struct cut_side *s, struct train_job *job,
                    struct cut_end from, struct recorder *rec, struct err *err);
    void (*end)(struct workload *w, struct cut_side *s, struct train_job *job,
                struct recorder *rec);
    // A step above; dL/dx of each example's rows goes `to`, in the same order.
    int (*step)(struct workload *w, struct cut_trainee *t, struct cut_end from, struct cut_end to,
                struct recorder *rec, struct err *err);
};

struct side_work; // side_plan.h

struct workload_row {
    const char *name;
    // Before a run: may this source shape the local loss? NULL = any may.
    int (*tokens)(const struct workload *w, const struct token_source *tokens, struct err *err);
    int (*open)(struct workload *w, struct err *err);
    void (*close)(struct workload *w);
    void (*initial)(struct workload *w, float *theta);
    // Adapters that begin anew every round; initial is that of round 1. NULL = there is only one.
    void (*fresh)(struct workload *w, uint32_t round, float *theta);
    // Whether theta goes on with n_backbone values, added to the weights (see model.h); sets that.
    // NULL = there is no backbone.
    int (*backbone)(struct workload *w, bool moves, struct err *err);
    size_t (*state_floats)(const struct workload *w); // client state under fed.opt_state = keep
    // Client state under fisher.persist = keep; sens, grad: jobs fill these. NULL = none.
    size_t (*fisher_floats)(const struct workload *w, const struct token_source *tokens, bool sens,
                            bool grad);
    int (*at_once)(const struct workload *w); // how many jobs train at once
    // Of clients that go backward: makes room for it, before anything is measured. NULL = needs
    // none.
    void (*reserve)(struct workload *w);
    // That jobs train on, where host code cannot touch its memory; NULL = there is none.
    struct dev *(*device)(struct workload *w);
    void (*train)(struct workload *w, struct train_job *jobs, int n, struct recorder *rec);
    // backbone: (n_backbone), NULL where there is none.
    void (*evaluate)(struct workload *w, const float *adapter, const float *backbone,
                     struct eval_result *r);
    // A client's own model on what of the test set is like its data; NULL = there is no such part.
    void (*personal)(struct workload *w, uint32_t client, const float *adapter,
                     const float *backbone, struct eval_result *r);
    // The first n answers of the last evaluation; NULL = there are none.
    void (*answers)(const struct workload *w, int32_t n,
                    void (*fn)(void *arg, const struct eval_answer *a), void *arg);
    // The adapter as a folder that PEFT loads, and back; NULL = there is no such thing.
    int (*peft_write)(const struct workload *w, const char *dir, const float *theta,
                      struct err *err);
    int (*peft_read)(const struct workload *w, const char *dir, float *theta, struct err *err);
    // The realised partition, one row per client and group that has examples; NULL = there is none.
    void (*partition)(const struct workload *w,
                      void (*fn)(void *arg, const struct rec_partition *row), void *arg);
    const struct cut_work *cut;                          // NULL = has no layers to cut between
    int32_t (*vocab)(const struct workload *w);          // of job.scores; NULL = fills none
    const struct side_work *side;                        // NULL = has none to read
    const char *(*score_name)(const struct workload *w); // what `score` is: "error", "exact", ...
};

struct workload {
    const struct workload_row *row;
    struct workload_env env;
    struct shape shape;
    size_t n_backbone; // 0 = the backbone stays
    struct local_chain rules;
    void (*pulse)(void *arg); // called between local steps, or NULL
    void *pulse_arg;
    void *state;
};

extern const struct workload_row work_quadratic, work_lm;

// A workload in training is still at it: for those that wait for it.
static inline void workload_pulse(const struct workload *w)
{
    if (w->pulse)
        w->pulse(w->pulse_arg);
}

int workload_open(struct workload *w, const struct workload_env *env, struct err *err);
void workload_close(struct workload *w);
// Before a run; nothing of an earlier one stays.
int workload_prepare(struct workload *w, bool backbone, const struct local_use *rules, int n_rules,
                     struct err *err);
void workload_evaluate(struct workload *w, const float *theta, struct eval_result *r);

#endif
