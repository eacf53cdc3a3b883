// Whether a client is there: by a day cycle, by chance, by what a file recorded, and as long as its
// battery lasts. All of it follows from the seed and the run's clock, but for the batteries, which
// the server keeps.
#ifndef FSTQ_FED_PRESENCE_H
#define FSTQ_FED_PRESENCE_H

#include "fed/fed.h"

#include <stddef.h>

struct presence_row;
struct presence {
    const struct presence_row *row;
    const struct client_params *params;
    uint64_t seed;
    void *opt, *state;
};

struct presence_row {
    const char *name, *help;
    const struct opt *options;
    int n_options;
    size_t option_bytes;
    int (*open)(struct presence *p, struct err *err);
    void (*close)(struct presence *p);
    bool (*at)(const struct presence *p, uint32_t client, double run_s); // NULL = always
};

extern const struct presence_row *const presence_table[]; // NULL-terminated
int presence_open(struct presence *p, const struct client_params *params, uint64_t seed,
                  struct err *err);
void presence_close(struct presence *p);
bool presence_at(const struct presence *p, uint32_t client, int64_t run_ns);

// Devices from bytes: "period SECONDS", then a line for each: "FROM-TO FROM-TO ...", the seconds of
// the period in which it is there, ascending; "-" alone = never. Free with presence_trace_free.
struct presence_trace {
    double period_s;
    double *edge;  // two an interval, device after device
    size_t *first; // (n + 1) of each device's edges
    size_t n;
};
int presence_read(const char *where, const char *bytes, size_t n, struct presence_trace *t,
                  struct err *err);
void presence_trace_free(struct presence_trace *t);

// Charge of all clients' batteries, client.battery_j each when full, client.charge_w flowing in.
// A number per client: its charge less what had flowed in by the time when it was set.
double battery_full(const struct client_params *p);
double battery_j(const struct client_params *p, double kept, int64_t run_ns);
double battery_draw(const struct client_params *p, double kept, double joule, int64_t run_ns);

#endif
