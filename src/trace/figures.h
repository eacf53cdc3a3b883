// What is asked of a run on edge devices, summed from its rows as they pass: tokens by the second
// and by the joule, the energy of computing and of sending, and G = T_comp / T_comm of each client.
// Modelled and measured figures never share a key.
#ifndef FSTQ_TRACE_FIGURES_H
#define FSTQ_TRACE_FIGURES_H

#include "base/record.h"

#include <stdio.h>

struct figures_client {
    int32_t client, rounds; // rounds: whose both ways are in /links; 0 = an empty slot
    double compute_ns, comm_ns, compute_j, send_j;
};

struct figures {
    int64_t tokens, measured_ns, modelled_ns;
    int64_t rounds, metered, client_rounds; // metered: rounds whose boards have rails
    double measured_j;
    struct rec_link down;
    struct figures_client *slot; // a table by client, cap a power of two
    size_t cap, n;
};

void figures_add(struct figures *f, enum record_id id, const void *rows, size_t n);
// All clients, by number; free with mem_free.
struct figures_client *figures_clients(const struct figures *f, size_t *n);
enum { FIGURES_MAX = 20 };
// Those that are known, as rows of /summary. Returns how many.
size_t figures_list(const struct figures *f, struct rec_summary out[FIGURES_MAX]);
void figures_print(const struct figures *f, FILE *out); // the same as lines behind a '#'
void figures_free(struct figures *f);

#endif
