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
struct eval_result; // workload.h
struct fed_env;     // env.h
struct global;      // global.h
struct update;
struct local_rule; // local.h
struct train_job;  // train_job.h
struct workload;

struct server_handlers;                          // server.h
struct worker_handlers;                          // worker.h
extern const struct server_handlers server_sync; // synchronous rounds
extern const struct worker_handlers worker_sync;
extern const struct server_handlers server_async; // updates count as they come
extern const struct worker_handlers worker_async;

struct async_rule { // what server_async asks a scheme
    // Updates that make a version; fewer do where no client is left that could send one.
    int32_t (*buffer)(const void *opt);
    // What an update counts, as a part of what it would have, when so many versions were made since
    // the one it was trained on.
    double (*scale)(const void *opt, uint32_t lag);
};

// What a client and the server say to each other in the middle of its round: it says something and
// waits for the answer, and again, until it has nothing more to say and packs its update.
struct scheme_talk {
    // What is said, the client's first, and coded: by those that a method names behind the
    // update's.
    const char *what[2];
    size_t (*bound[2])(const struct fed_env *env); // longest message up, and down
    void *(*open)(const struct fed_env *env);      // a worker's: job.talker
    void (*close)(const struct fed_env *env, void *talker);
    // The length of what it says next, 0 = nothing more: the job is done; or a codec's error.
    int64_t (*say)(const struct fed_env *env, struct train_job *job, uint8_t *out, size_t cap,
                   struct codec_report *report, struct err *err);
    int (*hear)(const struct fed_env *env, struct train_job *job, const uint8_t *in, size_t len,
                struct err *err);
    // The server to a client of this version: as say, of at least a byte.
    int64_t (*answer)(struct global *g, uint32_t client, const uint8_t *in, size_t len,
                      uint8_t *out, size_t cap, struct codec_report *report, struct err *err);
};

// Floats that a client is sent at the end (fed.deliver), where they are others than the version's.
struct scheme_parting {
    size_t (*bytes)(const struct fed_env *env, uint32_t client);
    void (*put)(const struct global *g, uint32_t client, uint8_t *out);
};

int async_check(const struct fed_env *env, struct err *err); // of such a scheme

struct up_vector { // what travels up beside the update, coded on its own
    const char *name;
    bool equal; // its mean takes clients alike, whatever fed.weights says
};

// What a commit is given: theta += ... in the range.
struct step {
    float *theta;           // (n)
    const float *delta;     // (n) weighted mean of the updates that arrived
    const float *const *up; // means of the up vectors, (n) each
    float *state;           // (state_vectors, n)
    size_t n;
    struct shape_range range;
    double lr;
    int32_t arrived, clients; // updates; clients there are
};

// Of a step that goes forward and back through the model, what going forward takes.
#define FORWARD_SHARE 0.4

enum { SCHEME_FIGURES = 12 };

struct scheme {
    const char *name, *help, *source;
    const char *sees; // of a client, the server; NULL = updates
    const struct opt *options;
    int n_options;
    size_t option_bytes;
    const struct server_handlers *server; // how rounds go: synchronous, ...
    const struct worker_handlers *worker;
    const struct async_rule *async; // of server_async
    // What check works out for the other hooks, as method.form.
    size_t form_bytes;
    // Does it go with task, view and codec? After the common checks, before every run.
    int (*check)(const struct fed_env *env, struct err *err);
    void (*forget)(void *form); // gives back what check made for the form; NULL = nothing

    // Vectors as long as the adapter.
    int state_vectors;  // kept by the server and its checkpoints
    int down_vectors;   // the first of those, that travel down with a version
    int client_vectors; // kept by a client, zero at first: job.own
    // Floats of each of those, where they are shorter than the adapter.
    size_t (*client_floats)(const struct shape *shape);
    const struct up_vector *up; // job.up, NULL or ended by a NULL name

    // Clients go through the model forward alone, or back through a part of it: no room is made for
    // a whole way back.
    bool forward;
    // The view that its options make necessary, as a method names it; NULL = any.
    void (*view)(const void *opt, char *out, size_t size);

    // The client.
    const struct local_rule *local; // of its training, with the scheme's options; or NULL
    // Instead of the task's own training.
    void (*train)(struct workload *w, struct train_job *jobs, int n, struct recorder *rec);
    // Instead of the update, packed by the view's codec: the length written or a codec's error, and
    // the most that can be. May train, and then says so in job->samples.
    int64_t (*pack)(const struct fed_env *env, struct train_job *job, uint8_t *out, size_t cap,
                    struct codec_report *report, struct err *err);
    size_t (*bound)(const struct fed_env *env);
    const struct scheme_talk *talk; // after train, which then only begins; NULL = there is none
    const struct scheme_parting *parting; // NULL = the version
    bool keeps;  // what the view leaves out is the client's own: a view that is `kept`
    bool silent; // nothing of the adapter travels down
    // Of client.step_ns, what a local step takes of the client; 0 = all.
    double step_share;
    double (*step_share_of)(const void *opt); // where options decide, instead
    double (*client_share)(const struct fed_env *env, uint32_t client); // times that, or NULL
    // In how many parts an update leaves, each when as much of the round's compute is done, and how
    // many of them are under way at most while the next is computed (0: none). NULL = in one.
    int32_t (*parts)(const struct fed_env *env, int32_t *flight);
    bool several; // clients may have several backbones (model.others)
    bool fresh;   // adapters begin anew each round, from the seed: they need not travel down

    // The server: hooks around the sums of a version, see global.h.
    bool backbone; // versions go on with what moves the backbone; downlinks carry that whole
    int (*open)(struct global *g, struct err *err); // what the others need, as g->own
    void (*close)(struct global *g);
    void (*begin)(struct global *g);
    // What to ask of a client that is sampled, a number that its task carries. False: nothing, the
    // server has all it needs of it; then add is called with no bytes, the client is not troubled,
    // and the number is that of examples it counts as. NULL: clients are asked for updates.
    bool (*ask)(struct global *g, uint32_t client, uint32_t *what);
    // Instead of decoding an update into the sum of its part; times itself where pack is not NULL.
    int (*add)(struct global *g, struct update *u, struct err *err);
    bool (*mean)(struct global *g, double lr); // beside the mean; false: it is not finite
    void (*init)(const void *opt, float *state, size_t n); // NULL = zero
    void (*commit)(const void *opt, const struct step *s);
    void (*after)(struct global *g, uint32_t version); // the commit of this version
    // Of an asynchronous scheme, when a version is made: what the server learns by itself, from
    // what came before. False: nothing; else the mean loss.
    bool (*replay)(struct global *g, uint32_t version, double *loss);
    // What the server counts that other schemes' do not, for a run's summary. Returns how many.
    size_t (*figures)(const struct global *g, struct rec_summary out[SCHEME_FIGURES]);
    // Where the server trains something else than the adapter: its score, its weights as a hash.
    void (*evaluate)(struct global *g, struct eval_result *r);
    uint64_t (*hash)(const struct global *g);
    // And what its checkpoints hold of that, in 32-bit words; -1 with err: it is no such thing.
    size_t (*keep_words)(const struct global *g);
    void (*keep)(const struct global *g, uint8_t *out);
    int (*restore)(struct global *g, const uint8_t *in, size_t words, struct err *err);
};

extern const struct scheme scheme_fedadagrad, scheme_fedadam, scheme_fedasync, scheme_fedavgm,
    scheme_fedbat, scheme_fedbuff, scheme_feddyn, scheme_fedex, scheme_fedmobillm,
    scheme_fedmobillm_barrier, scheme_fednova, scheme_fedprox, scheme_fedsa, scheme_fedyogi,
    scheme_flexlora, scheme_flora, scheme_fwdllm, scheme_haflq, scheme_hetlora, scheme_lorafair,
    scheme_mobillm, scheme_pae, scheme_scaffold, scheme_split, scheme_splitlora;
extern const struct scheme *const scheme_table[]; // NULL-terminated
const struct scheme *scheme_find(const char *name);
int scheme_vectors(const struct scheme *s); // in an update frame, the update among them
// The commit of federated averaging: theta += lr delta.
void scheme_mean(const void *opt, const struct step *s);

#endif
