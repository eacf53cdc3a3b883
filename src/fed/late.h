// Updates that missed their round and count in another (fed.late_weight): kept by the server, and
// by its checkpoints, until the run's clock says that they have come.
#ifndef FSTQ_FED_LATE_H
#define FSTQ_FED_LATE_H

#include "fed/global.h"

struct late {
    struct netbuf *held; // the frame
    struct update update;
    int64_t arrives_ns; // on the run's clock
    struct rec_message row;
};
struct late_list { // in the order of rounds and clients
    struct late *one;
    size_t n, cap;
};

void late_free(struct late_list *l, struct transport *t);
// Takes over a reference to held; the update's bytes are its.
void late_add(struct late_list *l, struct netbuf *held, const struct update *u, int64_t arrives_ns,
              const struct rec_message *row);

// In a checkpoint, in 32-bit words; nothing where nobody is late.
size_t late_words(const struct late_list *l);
void late_keep(const struct late_list *l, uint8_t *out);
// Into an empty list. -1 with err where the bytes are no such thing.
int late_restore(struct late_list *l, const struct fed_env *env, const uint8_t *in, size_t words,
                 struct err *err);

#endif
