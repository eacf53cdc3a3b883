// Server-assisted side-tuning: a client runs the frozen backbone forward and sends what layers put
// out; the server trains a side network (model/side.h) with it. What is which paper's, and what is
// inferred, stands in SIDE.md.
#ifndef FSTQ_FED_SIDE_PLAN_H
#define FSTQ_FED_SIDE_PLAN_H

#include "fed/backbones.h"
#include "fed/side_message.h"
#include "fed/workload.h"
#include "model/side.h"

enum side_classes { SIDE_CLASSES_VOCAB, SIDE_CLASSES_ANSWERS, SIDE_CLASSES_LABELS };

struct side_kind { // of clients: those of one backbone
    struct side_form form;
    int32_t layer[MODEL_LAYERS_MAX]; // (form.layers) of the backbone, whose outputs travel
    int32_t from[MODEL_LAYERS_MAX];  // (plan.layers) which of those a layer of the network takes
    double weight;                   // of the score: its share of clients
};

struct side_plan { // what a run's clients and server agree on
    struct side_kind kind[SIDE_TYPES];
    int32_t kinds, layers, width; // layers and width of the network
    int32_t batch;                // examples of a step
    bool project;
    double merge; // part of the rows without a loss that merge into others before they are sent
    enum side_classes classes; // what is told apart
    uint8_t *of;               // (clients) its kind of backbone
    struct backbones backbones;
};

static inline const struct side_kind *side_kind_of(const struct side_plan *p, uint32_t client)
{
    return &p->kind[p->of[client]];
}

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
    // What the model holds of the run's kinds: fills what of their forms model and task decide.
    // need: (kinds) which of them this process runs.
    int (*open)(struct workload *w, struct side_plan *p, const bool *need, struct err *err);
    // The client's examples from place job->ask on, through its backbone; fills job->samples, and
    // takes down how long the layers took, not `to`, in job->dur_ns and one span.
    int (*examples)(struct workload *w, const struct side_plan *p, struct train_job *job,
                    struct side_end to, struct recorder *rec, struct err *err);
    // What a backbone of a kind and a network answer together, y_b + s where differences travel,
    // else s alone, to question `first` of the test set and every `step`-th after it; then the
    // score of all that were asked since the last. False: it was stopped.
    bool (*answer)(struct workload *w, const struct side_plan *p, int32_t kind, struct side *net,
                   int32_t first, int32_t step, const volatile sig_atomic_t *stop);
    void (*score)(struct workload *w, struct eval_result *r);
};

#endif
