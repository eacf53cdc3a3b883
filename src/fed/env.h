// The environment of a run, shared by the server and the worker of a process.
#ifndef FSTQ_FED_ENV_H
#define FSTQ_FED_ENV_H

#include "base/record.h"
#include "fed/fed.h"
#include "fed/method.h"
#include "fed/presence.h"
#include "fed/profile.h"
#include "fed/protocol.h"
#include "fed/workload.h"
#include "net/transport.h"

struct fed_env {
    const struct fed_params *fed;
    const struct client_params *client;
    const struct net_params *net;
    uint64_t seed, config_hash;
    const char *run_dir; // "" = none
    bool resume;
    bool lose_slots;   // a resume goes on without the client state that is lost
    bool virtual_time; // the transport's clock is modelled: decisions use it
    int rank, threads;
    const char *host, *cpuset, *gpu;
    struct transport *transport;
    const struct link_model *link;     // the clients'
    const struct link_model *backhaul; // of relays, where there are some
    const struct profile_model *profile;
    const struct presence *presence; // NULL = clients are always there
    struct workload *work;
    struct method *method;
    struct recorder *rec;
    struct power_watch *power; // of this host, where this process reads it; else NULL
    int64_t start_ns;          // of the command, monotonic clock
    // Sees every update before it is compressed, and the adapter that it began from (of the work's
    // shape), outside all spans; NULL = nobody.
    void (*update)(void *arg, uint32_t version, uint32_t client, const struct shape *s,
                   const float *x, const float *adapter);
    void *update_arg;
};

// Modelled time of one client's round, closed form: download, compute, encode, upload. Of the
// links' results times count from the start of the round, too; INT64_MAX = never.
struct client_times {
    int64_t down_ns, compute_ns, encode_ns, ready_ns, up_ns, total_ns;
    int64_t said_up_ns, said_down_ns; // before ready_ns: on the way of what was said in the round
    struct link_result down, up;
    double compute_j, send_j; // NaN where the device's power is not known
};
struct client_times fed_client_times(const struct fed_env *env, const struct round_start *start,
                                     uint32_t client, int64_t down_bytes, int64_t up_bytes);
// What a client and the server said to each other in its round: so many times, and bytes of all
// frames. The model has each time equal parts of them, one after another, behind the computing.
struct said {
    int32_t times;
    int64_t up_bytes, down_bytes;
};
struct client_times fed_said_times(const struct fed_env *env, const struct round_start *start,
                                   uint32_t client, int64_t down_bytes, int64_t up_bytes,
                                   struct said said);
// The same of all clients of a round together: the server's own ports are shared by those who are
// active.
struct client_round {
    uint32_t client;
    int64_t down_bytes, up_bytes;
    struct said said;
    int64_t from_ns;           // when the model sets out for it, from the start of the round
    struct client_times times; // out
};
void fed_round_times(const struct fed_env *env, const struct round_start *start,
                     struct client_round *c, size_t n);
// The longest payload that a client's uplink, idle and with the update ready at ready_ns of the
// run's clock, delivers within so many seconds; -1 = any.
int64_t fed_upload_bytes(const struct fed_env *env, uint32_t round, uint32_t client,
                         int64_t ready_ns, double seconds);
// What a client is sent when the last version is made; 0 = nothing is (fed.deliver).
size_t fed_parcel_bytes(const struct fed_env *env, uint32_t client);
// Client state of this run, in floats: optimizer (fed.opt_state = keep), then averages
// (fisher.persist = keep), together the workload's; then the scheme's own vectors, then codecs.
size_t fed_optim_floats(const struct fed_env *env);
size_t fed_work_floats(const struct fed_env *env);
size_t fed_own_floats(const struct fed_env *env);
size_t fed_state_floats(const struct fed_env *env);
// What tokens are worth (worth.h): the vocabulary's size, 0 = nobody ever sends that; and do the
// clients of this version?
int32_t fed_scores_vocab(const struct fed_env *env);
bool fed_scores_due(const struct fed_env *env, uint32_t version);
size_t fed_update_bound(const struct fed_env *env); // longest payload of an update
// And of what a relay sends on, see relay.h; 0 = there are none.
#define RELAY_HEAD_BYTES   8
#define RELAY_CLIENT_BYTES 24
size_t fed_relay_bound(const struct fed_env *env);
// Makes the workload ready for the method's scheme, or says why they do not go together: before a
// run, in every process.
int fed_prepare(const struct fed_env *env, struct err *err);
// For the schemes' checks: the first of n that is so is why the run is refused.
struct fed_wrong {
    bool is;
    const char *why; // and what to do about it
};
int fed_refuse(const struct fed_wrong *wrong, size_t n, struct err *err);
int fed_refuse_updates(const struct fed_env *env, struct err *err); // where clients send none
// Floats of a version: the adapter, then what moves the backbone; and what of it travels down.
size_t fed_model_floats(const struct fed_env *env);
bool fed_adapter_down(const struct fed_env *env); // does the adapter itself?
size_t fed_down_floats(const struct fed_env *env);
int64_t fed_version_bytes(const struct fed_env *env); // of the frame with a version as it is
int64_t fed_client_bytes(const struct fed_env *env, uint32_t client); // with what of it it is sent
// Do versions travel as coded changes (downlink.h)?
static inline bool fed_down_coded(const struct fed_env *env)
{
    return env->method->down.n_vectors > 0;
}
uint64_t fed_payload_bound(const struct fed_env *env); // of the longest model or update

#endif
