// What every file of fed/ shares: parameters, the environment of a run, the clients' sequence.
#ifndef FSTQ_FED_FED_H
#define FSTQ_FED_FED_H

#include "base/check.h"
#include "base/opt.h"
#include "base/record.h"
#include "base/shape.h"

#include <stdbool.h>
#include <stdint.h>

// Vectors as long as the adapter that a scheme sends in one frame, its update the first of them.
#define FED_VECTORS 4

struct fed_params { // [fed]
    char method[640];
    int32_t clients, clients_per_round, rounds, local_steps, local_steps_min, batch;
    int64_t uplink_per_round; // bytes; 0 = no matter
    double dropout;
    double deadline_s, quorum, overcommit, min_completion, late_weight; // see policy.h
    double server_lr, server_lr_end;
    char downlink[160];            // see downlink.h
    char ranks[160];               // see ranks.h
    int32_t ranks_by, ranks_rest;  // FED_RANKS_*, FED_REST_*
    int32_t down_of;               // FED_DOWN_*
    int32_t average, average_last; // FED_AVERAGE_*, rounds
    int32_t evaluate;              // FED_EVALUATE_*, see personal.h
    double average_decay;
    int32_t opt_state; // FED_STATE_*
    int32_t weights;   // FED_WEIGHTS_*
    int32_t sum;       // FED_SUM_*
    int32_t relays;    // 0 = none, see relay.h
    int32_t eval_every, eval_last;
    int64_t server_ns; // configured server time of a round
    bool nmse, deliver;
};
enum { FED_STATE_RESET, FED_STATE_KEEP };
enum { FED_WEIGHTS_SAMPLES, FED_WEIGHTS_EQUAL };
enum { FED_SUM_ORDER, FED_SUM_EXACT };
enum { FED_RANKS_DRAW, FED_RANKS_DEVICE };
enum { FED_REST_CUT, FED_REST_FROZEN };
enum { FED_DOWN_CHANGE, FED_DOWN_VERSION };
enum { FED_EVALUATE_GLOBAL, FED_EVALUATE_PERSONAL };
enum { FED_AVERAGE_NONE, FED_AVERAGE_EMA, FED_AVERAGE_LAST };

struct fisher_params { // [fisher]: what clients measure for codecs that ask for it
    double rho;
    int32_t accumulate; // FISHER_*
    int32_t persist;    // FED_STATE_*
    int32_t scores;     // versions between those that bring the vocabulary's scores, 0 = never
};
enum { FISHER_EMA, FISHER_SUM, FISHER_ORACLE };

struct client_params {                    // [client]
    char profile[256], table[512];        // see profile.h
    char availability[96], presence[512]; // see presence.h
    double compute_w, send_w;             // -1 = as the device has it
    double battery_j, charge_w;           // battery_j 0 = no battery
    int64_t step_ns;   // configured compute of one local step; 0 = compute is not modelled
    int64_t encode_ns; // configured time to encode one update
    double dp_clip, dp_sigma;
};

extern const struct opt fed_options[], client_options[], fisher_options[];
extern const int fed_option_count, client_option_count, fisher_option_count;
int fed_check(const struct fed_params *p, struct err *err); // combinations
int client_check(const struct client_params *p, struct err *err);

// The clients' sequence: from the seed alone, the same for every method. Sampled clients of a
// round, ascending. apart > 0: each from another of so many workers, at least n of them, as
// fed_owner has it.
void fed_sample(uint64_t seed, uint32_t round, uint32_t clients, uint32_t n, uint32_t apart,
                uint32_t *out);
// Optimizer steps of a client's round.
int32_t fed_steps(const struct fed_params *p, uint64_t seed, uint32_t round, uint32_t client);
bool fed_drops(uint64_t seed, uint32_t round, uint32_t client, double p); // unavailable this round?
// Worker endpoint of a client: always the same, so that its state stays where it is.
static inline int fed_owner(uint32_t client, int workers)
{
    return 1 + (int)(client % (uint32_t)workers);
}
bool fed_scored(const struct fed_params *p, uint32_t round); // is a score due after this round?
// Constant over the first half of the rounds, then linear to the end value (< 0: constant
// throughout).
double fed_server_lr(const struct fed_params *p, int32_t round);

// Where rows go. fed knows no file format.
struct fed_sink {
    void *arg;
    void (*rows)(void *arg, enum record_id id, const void *rows, size_t n);
    void (*commit)(void *arg, int32_t version);               // the rows of a round are whole
    void (*progress)(void *arg, const struct rec_round *row); // for the screen
};

#endif
