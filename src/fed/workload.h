// What clients train and the server evaluates, behind one face: the row joins a task (and a model).
#ifndef FSTQ_FED_WORKLOAD_H
#define FSTQ_FED_WORKLOAD_H

#include "base/check.h"
#include "base/record.h"
#include "base/shape.h"
#include "dev/dev.h"
#include "fed/binary.h"
#include "fed/fed.h"
#include "fed/split.h"
#include "model/model.h"
#include "model/tokens.h"
#include "task/task.h"

#include <stdbool.h>
#include <stdint.h>

#define EVAL_MAX 64

struct workload_env {
    const struct fed_params *fed;
    const struct fisher_params *fisher;
    const struct task_params *task;
    const struct model_params *model;
    const struct optim_params *optim;
    int32_t dev_kind, threads;
    uint64_t seed;
    bool server, worker; // what this process does; both when alone
};

// One client's local training on one version. Vectors are caller's.
struct train_job {
    uint32_t client, round;
    const float *theta; // (n) the version's adapter, then (n_backbone) what moves the backbone
    float *delta;       // (n) out: trained minus theta
    float *state;       // (state_floats) in and out, NULL when nothing is kept
    float *kept;        // (fisher_floats) in and out, NULL when nothing is kept
    float *sens;        // (n) out: diagonal Fisher of the adapter, or NULL
    float *grad;        // (n) out: moving average of the gradient, or NULL
    const struct shape_range *trained; // what may change, ascending; NULL = all
    int n_trained;
    const struct binary_opt *binary; // NULL = updates are real numbers in training
    const struct token_source *tokens;
    const struct token_opts *token_opt;
    int32_t samples; // out: weight of this client
    double loss;     // out: mean local loss
    int64_t dur_ns, cpu_ns;
    bool failed; // out: no update from this client
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
};

struct workload;

// What theta stands for, where it is not simply the adapter.
enum {
    WORK_BACKBONE = 1, // theta goes on with n_backbone values, added to the weights (see model.h)
    WORK_MIDDLE = 2,   // the place of B begins with R of B0 R A (see middle.h)
    WORK_SPLIT = 4, // the server trains above work.split.cut, which the caller fills in with half
};

// Split learning: a client's whole round as a message, and the round trained from one.
struct split_work {
    // The length written or a codec's error; fills job->samples.
    int64_t (*send)(struct workload *w, struct train_job *job, uint8_t *out, size_t cap,
                    struct codec_report *report, struct recorder *rec, struct err *err);
    // Fills job->delta and job->loss. 0 or a codec's error.
    int (*train)(struct workload *w, struct train_job *job, const uint8_t *in, size_t len,
                 struct recorder *rec, struct err *err);
};

struct workload_row {
    const char *name;
    bool fisher; // has tokens to choose from and fills sens and grad
    int (*open)(struct workload *w, struct err *err);
    void (*close)(struct workload *w);
    void (*initial)(struct workload *w, float *theta);
    // Adapters that begin anew every round; initial is that of round 1. NULL = there is only one.
    void (*fresh)(struct workload *w, uint32_t round, float *theta);
    int (*form)(struct workload *w, unsigned form, struct err *err); // NULL = only 0
    size_t (*state_floats)(const struct workload *w); // client state under fed.opt_state = keep
    // Client state under fisher.persist = keep; sens, grad: jobs fill these. NULL = none.
    size_t (*fisher_floats)(const struct workload *w, const struct token_source *tokens, bool sens,
                            bool grad);
    int (*group)(const struct workload *w); // how many jobs train at once
    void (*train)(struct workload *w, struct train_job *jobs, int n, struct recorder *rec);
    void (*evaluate)(struct workload *w, const float *theta, struct eval_result *r);
    // The realised partition, one row a client and group that has examples; NULL = there is none.
    void (*partition)(const struct workload *w, void (*fn)(void *arg, const struct rec_split *row),
                      void *arg);
    const struct split_work *split;                      // NULL = cannot
    const char *(*score_name)(const struct workload *w); // what `score` is: "error", "exact", ...
};

struct workload {
    const struct workload_row *row;
    struct workload_env env;
    struct shape shape;
    size_t n_backbone; // 0 = the backbone stays
    struct split_form split;
    void *state;
};

extern const struct workload_row work_quadratic, work_lm;

int workload_open(struct workload *w, const struct workload_env *env, struct err *err);
void workload_close(struct workload *w);
// Before a run: WORK_* or 0. Form 0 leaves no trace of another.
int workload_form(struct workload *w, unsigned form, struct err *err);

#endif
