// A worker: a state machine that trains the clients it owns, one task or one group at a time, and
// sends what they have learned. It holds one packed update while it waits for a grant; training
// goes on in client order.
#ifndef FSTQ_FED_WORKER_H
#define FSTQ_FED_WORKER_H

#include "fed/env.h"
#include "fed/protocol.h"
#include "fed/slots.h"

struct worker_task {
    uint32_t client;
    bool granted, trained;
    int64_t t_arrived_ns; // on the transport's clock
    struct netbuf *frame; // the packed update, until it has left
    struct frame head;
    bool sent;
    int64_t t_sent_ns; // monotonic clock, for the upload's span
};

struct worker {
    const struct fed_env *env;
    int endpoint;
    bool welcome, set_up, stop, clean_stop;
    uint32_t round;
    struct round_start start;                 // as its tasks say
    double loss_fall;                         // as the round's model announced it
    int expected, n_tasks, n_trained, n_sent; // of the round; expected: as every task says
    int tasks_cap;
    struct worker_task *task;
    size_t n, optim_floats, work_floats, state_floats;
    float *theta;
    int group; // tasks trained at once
    struct train_job *job;
    float *delta, *state, *state_next, *x_hat, *sens, *grad;
    float *part[3]; // of delta, sens and grad: what travels, where that is not all
    void *scratch;
    struct slots *slots;
    struct rec_message *report; // of this round's messages
    int n_reports;
    struct rec_alloc
        *alloc; // (n_alloc) widths of this round's messages, part after part of the view
    struct rec_alloc *alloc_out;
    size_t n_alloc;
    int64_t (*by_tensor)[RECORD_WIDTHS]; // of one message
    struct rec_event *drain;
    size_t drain_cap;
    struct hello server;
    int64_t last_heard_ns, alive_check_ns;
};

struct worker *worker_open(const struct fed_env *env, int endpoint, struct err *err);
void worker_close(struct worker *w);
void worker_start(struct worker *w); // says hello
void worker_message(struct worker *w, const struct net_msg *m);
bool worker_busy(const struct worker *w); // has something to compute now
void worker_step(struct worker *w);       // one piece of it
void worker_timer(struct worker *w, int64_t now);

#endif
