// The server's half of side-tuning: hooks of its schemes' rows.
#ifndef FSTQ_FED_SIDE_SERVER_H
#define FSTQ_FED_SIDE_SERVER_H

#include "fed/global.h"
#include "fed/scheme.h"
#include "fed/side_plan.h"

// Three switches, cache_bytes, pivot and labels, lead from one row to the other.
struct side_opt {
    int32_t rank, every;
    double lr, cache_bytes, merge;
    bool pivot, labels, norm;
    int32_t classes, flight; // SIDE_CLASSES_*; batches under way, -1 = a round's leave together
    int32_t layers, width, replay, cap; // of fedmobillm alone, from here on
    int32_t network, read, wide;        // SIDE_NETWORK_*, SIDE_READ_*, SIDE_WIDE_*
};
enum { SIDE_NETWORK_GLOBAL, SIDE_NETWORK_SINGLE };
enum { SIDE_READ_INTERVAL, SIDE_READ_ALL };
enum { SIDE_WIDE_MEDIAN, SIDE_WIDE_MAX };

int side_server_open(struct global *g, struct err *err);
void side_server_close(struct global *g);
bool side_ask(struct global *g, uint32_t client, uint32_t *what);
int side_add(struct global *g, struct update *u, struct err *err);
bool side_replay(struct global *g, uint32_t version, double *loss);
void side_replay_round(struct global *g, uint32_t version); // the same where there are rounds
size_t side_figures(const struct global *g, struct rec_summary out[SCHEME_FIGURES]);
void side_score(struct global *g, struct eval_result *r);
uint64_t side_hash(const struct global *g);
size_t side_keep_words(const struct global *g);
void side_keep(const struct global *g, uint8_t *out);
int side_restore(struct global *g, const uint8_t *in, size_t words, struct err *err);
extern const struct scheme_parting side_parting;

#endif
