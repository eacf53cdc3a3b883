// What every file of fed/ shares: parameters, the workload's face, the clients' sequence.
#ifndef FSTQ_FED_FED_H
#define FSTQ_FED_FED_H

#include "base/check.h"
#include "base/opt.h"
#include "base/record.h"
#include "base/rng.h"
#include "base/shape.h"

struct fed_params { // [fed]
    char method[256];
    int32_t clients, clients_per_round, rounds, local_steps;
    double dropout;
    double server_lr, server_lr_end; // linear from lr to lr_end over the second half of the rounds
    int32_t opt_state;               // FED_STATE_*
    int32_t eval_every;
};
enum { FED_STATE_RESET, FED_STATE_KEEP };

struct client_params { // [client]
    int64_t step_ns;   // configured compute of one local step; 0 = compute is not modelled
    int64_t encode_ns; // configured time to encode one update
};

extern const struct opt fed_options[], client_options[];
extern const int fed_option_count, client_option_count;

#endif
