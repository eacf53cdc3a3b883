// Language models behind the workload's face. work_lm.c opens and closes, lm_batch.c lays examples
// out for the model, lm_train.c trains clients, lm_cut.c runs the two sides of a cut, lm_side.c
// reads layers for a network beside the model, lm_answers.c has the model answer questions.
#ifndef FSTQ_FED_LM_H
#define FSTQ_FED_LM_H

#include "base/rng.h"
#include "dev/dev.h"
#include "fed/workload.h"
#include "model/model.h"
#include "model/tokens.h"
#include "task/task.h"

#include <stdbool.h>
#include <stdint.h>

// A minibatch laid out for the model; reused from step to step.
struct lm_batch {
    int32_t *start, *tokens, *targets; // (seqs + 1), (seqs * longest) twice
    struct model_batch batch;
};

void lm_batch_open(struct lm_batch *b, int32_t seqs, int32_t longest);
void lm_batch_close(struct lm_batch *b); // also of one that was never opened
void lm_batch_clear(struct lm_batch *b);
// The loss is on the answer and its end; the last token predicts nothing.
void lm_batch_add(struct lm_batch *b, const struct example *e);
// n examples anew, each drawn from all of own.
void lm_batch_draw(struct lm_batch *b, const struct examples *own, int32_t n, struct rng *rng);

// What the model answers to the questions of a set, greedily, and its loss on the right answers.
struct lm_answers {
    struct model *model;
    const struct task *task;
    int32_t capacity;              // examples
    int32_t *start, *tokens;       // (block + 1), (block * task.max_tokens)
    int32_t *answer;               // (block)
    double *loss;                  // (block)
    bool *right, *ended;           // (block)
    int32_t *text, *text_len;      // (capacity, task.max_answer), (block)
    struct prediction *prediction; // (capacity) of the last call
};

void lm_answers_open(struct lm_answers *a, struct model *model, const struct task *task,
                     int32_t capacity);
void lm_answers_close(struct lm_answers *a); // also of one that was never opened
// adapter NULL = the backbone alone. Fills prediction and the loss, NaN where nothing has one.
// False: *stop was no longer 0.
bool lm_answers_run(struct lm_answers *a, const float *adapter, const struct examples *set,
                    const volatile sig_atomic_t *stop, double *loss);

struct lm {
    struct task *task;
    struct dev dev;
    struct model *model;
    size_t n, optim_n; // adapter, floats of optimizer state
    float *theta;      // (n) the device's: the version that clients train on, where they lend

    // Training: memory for so many clients at once, NULL where nobody trains.
    int at_once;
    int32_t n_keys;
    struct lm_batch *batch;             // (at_once)
    struct model_job *job;              // (at_once)
    struct model_client *client;        // (at_once)
    float *moments;                     // (at_once, optim_n + 1)
    float *asked;                       // (at_once, n) gradients that a rule made; NULL = none does
    struct rng *rng;                    // (at_once)
    int64_t *drawn;                     // (at_once) tokens of the round, as they were drawn
    struct model_job *oracle;           // (at_once) examples
    struct token_tracker *tracker;      // (at_once), NULL while every token counts alike
    float *tracker_mem, *weights, *raw; // (at_once, ...) of the trackers; rows of each batch
    float *embed_grad; // (at_once, rows, dim), NULL where nobody asks what tokens are worth

    struct model_cut cut; // rows of one batch at the cut, on their way up
    struct {              // the server's, which may be the same process
        struct lm_batch batch;
        struct model_cut cut;
        int32_t *label; // (longest)
        struct model_client client;
        struct model_job job;
        int32_t places; // the model's that are taken: clients in training, this one, cut_sides
    } above;

    struct lm_side *side; // NULL where no network stands beside the model

    struct lm_answers answers;
    struct score *group_score; // (task.n_groups)
    struct example *like;      // (test set) scratch: what of it is like one client's data; or NULL
};

// Server and clients of one process hold different backbones in turn; NULL = it does not move.
void lm_backbone(const struct workload *w, const float *backbone);

void lm_train_open(struct workload *w, struct lm *lm);
void lm_reserve(struct workload *w);
float *lm_moments(struct lm *lm);   // lm->moments, made when they are first asked for
void lm_train_close(struct lm *lm); // also of one that was never opened
size_t lm_state_floats(const struct workload *w);
size_t lm_fisher_floats(const struct workload *w, const struct token_source *tokens, bool sens,
                        bool grad);
int lm_at_once(const struct workload *w);
struct dev *lm_device(struct workload *w);
void lm_train(struct workload *w, struct train_job *jobs, int n, struct recorder *rec);

// Averages of the gradients, where the job asks for some.
void lm_job_fisher(const struct workload *w, struct train_job *job, struct model_client *c);

void lm_cut_close(struct lm *lm); // also of one that was never opened
extern const struct cut_work lm_cut;

void lm_side_close(struct lm *lm); // also of one that was never opened
extern const struct side_work lm_side;
// Scores answers.prediction of the test set, and r->loss stays.
void lm_score(struct lm *lm, struct eval_result *r);

#endif
