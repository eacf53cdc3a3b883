// A LoRA training step of several shapes on a device, for the benches that measure one.
#ifndef FSTQ_BENCH_STEP_H
#define FSTQ_BENCH_STEP_H

#include "base/opt.h"
#include "bench/bench.h"
#include "model/model.h"

struct step_shape {
    const char *name;
    struct model_config c;
    int32_t jobs, batch, seq, answer,
        rank; // answer: tokens with a loss at the end of each sequence
};

struct step_params {
    int32_t shape, dim, hidden, layers, heads, kv_heads, vocab, batch, seq, rank, threads, dtype;
    int32_t recompute, math;
    int32_t dev; // row of dev_table
};

// The parameters of a bench, as rows of its options.
enum { STEP_OPTIONS = 15, STEP_SHAPES = 4 };
extern const struct opt step_own_options[STEP_OPTIONS], step_fisher_options[STEP_OPTIONS];
// The shapes that they ask for; returns how many.
int step_shapes(const struct step_params *p, struct step_shape row[STEP_SHAPES]);
// Who computes and how, to the end of a line.
void step_say_where(const struct bench_ctx *c, const struct step_params *p);

struct step {
    struct dev dev;
    struct model *m;
    struct model_job *jobs;
    int32_t n_jobs;
    struct optim_params optim;
    struct model_batch *batch;
    struct model_client *client;
    float *adapters, *moments, *sq;
    int32_t *start, *tokens, *targets;
    struct model_times times; // summed
    int64_t steps;
    double first_loss, last_loss;
};

void step_open(struct step *s, const struct step_params *p, const struct step_shape *r);
void step_close(struct step *s);
// n steps of all jobs, backward to the embeddings.
void step_loop(void *step, int64_t n);

#endif
