// Clients at work on their worker: from a version of the model to a packed update. Several train
// at once; each then packs its own.
#ifndef FSTQ_FED_CLIENT_H
#define FSTQ_FED_CLIENT_H

#include "fed/env.h"
#include "fed/product.h"
#include "fed/protocol.h"
#include "fed/slots.h"

struct client_task {
    uint32_t client;
    uint32_t ask;            // of the scheme, see its row
    struct task_state state; // that it goes on from
    bool missing;            // it is not there
};

struct clients {
    const struct fed_env *env;
    size_t n, optim_floats, work_floats, state_floats; // see env.h
    size_t kept_floats;                                // of a client's state, all but the codecs'
    int at_once, n_vectors; // clients trained at once, at most; in a frame

    uint32_t version;         // they train on
    struct round_start start; // of their round
    double loss_fall;         // as the version announced it
    float *theta;             // (fed_model_floats)
    float *trained;           // (n) scratch, where clients' own models are evaluated
    float *masked;            // (at_once, n) what each is trained from, where ranks are unequal
    uint32_t have;            // version they are, where versions are coded; 0 = none
    float *change;            // (n) scratch, there
    float *down[FED_VECTORS]; // (n) each, that came with the version

    struct train_job *job;        // (at_once)
    struct client_task *task;     // (at_once) of the jobs
    float *delta, *sens, *grad;   // (at_once, n); sens and grad NULL where no codec asks
    float *reach;                 // (n) of one client, NULL where no codec asks
    struct products pairs;        // of the adapter, there
    struct token_scores *seen;    // (at_once) NULL where nobody sends any
    uint8_t *worth;               // scratch: a message of them
    float *state, *state_next;    // (at_once, state_floats), one client's; NULL where none is kept
    float *up[FED_VECTORS];       // (at_once, n) what travels beside delta
    float *part[2 + FED_VECTORS]; // what travels, where that is not all: sens, grad, vectors
    float *x_hat;                 // (n) what a message says, NULL where nobody asks
    void *scratch;                // of the codec
    // Codecs whose stages the workload's device has are given what lies there; on.dev NULL = none
    // has.
    struct {
        struct codec_device on;
        float *x, *sens, *grad, *state, *state_next;
    } there;
    struct slots *slots; // client state between rounds, from the welcome on

    // What the client that trains has said so far, where the scheme talks.
    void *talker; // the scheme's
    struct said said;
    struct codec_report said_report;

    // What their messages were, until the worker tells the server.
    struct rec_message *report;
    int n_reports, reports_cap;
    struct rec_eval *scores; // (scores_cap) of models they have trained, see personal.h
    int n_scores, scores_cap;
    struct rec_alloc *alloc, *alloc_out; // (n_alloc) widths, part after part of the view
    size_t n_alloc;
    int64_t (*by_tensor)[RECORD_WIDTHS]; // of one message
};

// A worker's clients; tasks: messages between two reports, at most.
void clients_open(struct clients *c, const struct fed_env *env, int tasks);
void clients_close(struct clients *c);
// The payload of a model frame, or false: it is none.
bool clients_take_model(struct clients *c, const struct frame *f, const uint8_t *payload);
// Trains n of them, at_once at most, on the version; job[i] is that of task[i] until the next call.
void clients_train(struct clients *c, const struct client_task *task, int n);
// Where the scheme talks, and one trains at a time: the next that job 0 says, in a frame that is
// the caller's, or, with *b NULL, that it has nothing more to say; and what it is answered. Not
// MESSAGE_OK: why there is no more of it, with err.
enum message_status clients_say(struct clients *c, struct frame *head, struct netbuf **b,
                                struct err *err);
enum message_status clients_hear(struct clients *c, const struct frame *head,
                                 const uint8_t *payload, struct err *err);
// Packs what job i has learned straight into the frame that will carry it, the caller's, and keeps
// the client's state under the version, for an update without it is half of what was learned.
// ready_ns: see clients_ready_ns. Else why there is none, with err, and *b is NULL.
enum message_status clients_pack(struct clients *c, int i, int64_t ready_ns, struct frame *head,
                                 struct netbuf **b, struct err *err);
// When an update is ready as the model has it, on the run's clock: after the client's own compute,
// from the arrival of its task in virtual time, else from the start of the round; where frames go
// at a real pace compute is what it took.
int64_t clients_ready_ns(const struct clients *c, uint32_t client, int64_t down_bytes,
                         int64_t t_arrived_ns);
struct link_transfer clients_transfer(const struct clients *c, const struct frame *head,
                                      int64_t ready_ns);
// When its link delivers it, on the transport's clock where that is virtual; else 0.
int64_t clients_delivery_ns(const struct clients *c, const struct link_transfer *x);
// Widths of the messages since the last call, in alloc_out: tensors whose widths nobody said are
// left out. Returns how many.
size_t clients_take_alloc(struct clients *c);

#endif
