// What clients are: how fast they compute, what they draw. Rows like those of
// links; a client is the same device in every round, drawn from the seed. All numbers are
// configured, none is measured here.
#ifndef FSTQ_FED_PROFILE_H
#define FSTQ_FED_PROFILE_H

#include "fed/fed.h"

#include <stddef.h>

struct device {
    const char *name, *source; // source: of its figures; NULL = a table of the user's
    double slow;               // its compute takes so many times what client.step_ns says
    double compute_w, send_w;  // drawn while it computes, while it sends; -1 = not known
    double share;              // of clients, in tables
};

struct profile_row;
struct profile_model {
    const struct profile_row *row;
    const struct client_params *params;
    uint64_t seed;
    void *opt, *state;
};

struct profile_row {
    const char *name, *help;
    const struct opt *options;
    int n_options;
    size_t option_bytes;
    int (*open)(struct profile_model *m, struct err *err);
    void (*close)(struct profile_model *m);
    struct device (*device)(const struct profile_model *m, uint32_t client);
    const struct device *always; // where all clients are this one
};

extern const struct profile_row *const profile_table[]; // NULL-terminated
int profile_open(struct profile_model *m, const struct client_params *p, uint64_t seed,
                 struct err *err);
void profile_close(struct profile_model *m);
struct device profile_device(const struct profile_model *m, uint32_t client);
// Joules, NaN where a power is not known.
double device_energy_j(double watt, int64_t ns);

// A table of devices from bytes: lines "name,share,slow,compute_w,send_w" behind that head, or a
// JSON object of benchmark scores, of which the median is client.step_ns and twice the score is
// half the time. Names are kept in one block behind the devices; free *d with mem_free.
int profile_read(const char *where, const char *bytes, size_t n, struct device **d,
                 size_t *n_devices, struct err *err);

#endif
