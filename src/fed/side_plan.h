// Server-assisted side-tuning: a client runs the frozen backbone forward and sends what layers put
// out; the server trains a side network (model/side.h) with it. What is which paper's, and what is
// inferred, stands in SIDE.md.
#ifndef FSTQ_FED_SIDE_PLAN_H
#define FSTQ_FED_SIDE_PLAN_H

#include "fed/side_message.h"
#include "fed/workload.h"
#include "model/side.h"

struct side_plan { // what a run's clients and server agree on
    struct side_form form;
    int32_t layer[MODEL_LAYERS_MAX]; // (form.layers) of the backbone, whose outputs travel
    int32_t batch;                   // examples of a step
};

// Examples [from, ...) of a client in the order of its epochs, a shuffle each: as many as a round
// takes, but none of two epochs. order: (held) the places of those of that epoch.
int32_t side_chunk(const struct side_plan *p, uint32_t held, uint32_t from);
void side_order(uint64_t seed, uint32_t client, uint32_t epoch, uint32_t held, uint32_t *order);

// What side-tuning asks of a workload.
struct side_end { // where examples go to; what it returns other than 0 ends the work
    int (*pass)(void *arg, const struct side_head *h, const struct side_example *e,
                const int32_t *label, struct err *err);
    void *arg;
};
struct side_work {
    int32_t (*layers)(const struct workload *w); // the model has
    // Before a run. Fills what of the plan's form the model and the task decide.
    void (*open)(struct workload *w, struct side_plan *p);
    // The client's examples from place job->ask on, through the backbone; fills job->samples, and
    // takes down how long the layers took, not `to`, in job->dur_ns and one span.
    int (*examples)(struct workload *w, const struct side_plan *p, struct train_job *job,
                    struct side_end to, struct recorder *rec, struct err *err);
    // What model and network answer together: y_b + s where differences travel, else s alone.
    void (*evaluate)(struct workload *w, const struct side_plan *p, struct side *net,
                     struct eval_result *r);
};

#endif
