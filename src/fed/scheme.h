// Federated schemes as a table. A row is how rounds go, what clients do in one and send, and what
// the server makes of it; a hook that is NULL leaves the common way.
#ifndef FSTQ_FED_SCHEME_H
#define FSTQ_FED_SCHEME_H

#include "base/check.h"
#include "base/opt.h"
#include "base/record.h"
#include "base/shape.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct codec_report;
struct fed_env;    // env.h
struct local_rule; // local.h
struct train_job;  // workload.h
struct workload;

struct server_handlers;                          // server.h
extern const struct server_handlers server_sync; // synchronous rounds

struct scheme {
    const char *name, *help, *source;
    const struct opt *options;
    int n_options;
    size_t option_bytes;
    // What check works out for the other hooks, as method.form.
    size_t form_bytes;
    // Does it go with task, view and codec? After the common checks, before every run.
    int (*check)(const struct fed_env *env, struct err *err);

    // The client.
    const struct local_rule *local; // of its training, with the scheme's options; or NULL
    // Instead of the task's own training.
    void (*train)(struct workload *w, struct train_job *jobs, int n, struct recorder *rec);
    // Instead of the update, packed by the view's codec: the length written or a codec's error, and
    // the most that can be. May train, and then says so in job->samples.
    int64_t (*pack)(const struct fed_env *env, struct train_job *job, uint8_t *out, size_t cap,
                    struct codec_report *report, struct err *err);
    size_t (*bound)(const struct fed_env *env);
    bool silent; // nothing of the adapter travels down
    bool fresh;  // adapters begin anew each round, from the seed: they need not travel down

    // The server.
    // The weights themselves move by server_lr times the mean change of the clients' products B A,
    // exactly; what the adapter after commit does not hold goes to the backbone. Downlinks carry
    // that whole: clients that sat rounds out need all of it.
    bool products;
    // Makes the update of a message that pack wrote: fills job->delta and job->loss. 0 or a codec's
    // error.
    int (*unpack)(const struct fed_env *env, struct train_job *job, const uint8_t *in, size_t len,
                  struct err *err);
    const struct server_handlers *server; // how rounds go: synchronous, ...
    int state_vectors;                    // of n floats each, kept by the server and its checkpoint
    void (*init)(const void *opt, float *state, size_t n); // NULL = zero
    // theta += ... in the range; delta is the weighted mean over what arrived. All have n values,
    // state has state_vectors of them.
    void (*commit)(const void *opt, float *theta, const float *delta, float *state, size_t n,
                   struct shape_range range, double lr);
};

extern const struct scheme scheme_fedbat, scheme_split; // binary.c, split.c
extern const struct scheme *const scheme_table[];       // NULL-terminated
const struct scheme *scheme_find(const char *name);
// The commit of federated averaging: theta += lr delta.
void scheme_mean(const void *opt, float *theta, const float *delta, float *state, size_t n,
                 struct shape_range range, double lr);

#endif
