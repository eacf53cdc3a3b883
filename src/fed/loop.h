// The endpoints of one process, server and workers, and the loop that drives them: the only place
// that waits.
//
//     struct loop l;
//     fed_prepare(&env, &err);                  // before, in every process
//     loop_open(&l, &env, &sink, spans, &err);  // what the transport says this process hosts
//     loop_run(&l, &stop);
//     loop_close(&l);
#ifndef FSTQ_FED_LOOP_H
#define FSTQ_FED_LOOP_H

#include "fed/server.h"
#include "fed/worker.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

struct loop {
    const struct fed_env *env;
    int n_endpoints;
    struct server *server;    // NULL where another process has it
    struct worker **worker;   // by endpoint, likewise
    struct fed_env *own_env;  // (n_endpoints) of each worker, with a recorder of its own
    struct recorder *own_rec; // (n_endpoints)
};

// env and sink outlive the loop. spans: of each worker's recorder. The server's is env->rec.
int loop_open(struct loop *l, const struct fed_env *env, const struct fed_sink *sink, size_t spans,
              struct err *err);
void loop_close(struct loop *l);
// Until the server has said goodbye to the last worker, or the workers have been told to stop. Once
// *stop is not 0 the server ends the run with its round; stop may be set by a signal.
void loop_run(struct loop *l, const volatile sig_atomic_t *stop);
bool loop_clean(const struct loop *l); // nobody was lost: the transport can be closed in order

#endif
