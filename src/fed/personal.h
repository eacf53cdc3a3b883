// Models of clients' own: what each client of a round scores with the model it has just trained
// (fed.evaluate = personal), and the scheme that gives each a part of the adapter for good (fedsa).
#ifndef FSTQ_FED_PERSONAL_H
#define FSTQ_FED_PERSONAL_H

#include "fed/client.h"

// A worker's: after the training of n clients, before their updates are clipped or packed; where a
// score is due.
void personal_measure(struct clients *c, int n);

// The server's: what was told of a version.
struct personal {
    uint32_t version;
    int32_t clients;
    struct personal_score {
        double score, loss; // NaN = not told
    } * of;                 // (clients)
};

struct personal *personal_open(int32_t clients);
void personal_close(struct personal *p); // NULL = nothing is done
void personal_begin(struct personal *p, uint32_t version);
// From outside: what names no client, or another version, is nobody's score.
void personal_take(struct personal *p, const struct rec_eval *row);
// Rows of all who told, and their means, NaN of none.
void personal_mean(const struct personal *p, const struct fed_env *env, const struct fed_sink *sink,
                   struct personal_score *mean);

#endif
