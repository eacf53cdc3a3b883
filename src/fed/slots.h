// Client state between rounds, on disk: one file a rank, three generations a client. An idle client
// costs no memory. Written at the end of training under the round's number, dropped when the server
// did not take the update. Three generations, because a resume may fall back one checkpoint while
// the round in progress has already written its own: the state before the older checkpoint must
// still be there.
#ifndef FSTQ_FED_SLOTS_H
#define FSTQ_FED_SLOTS_H

#include "base/check.h"

#include <stddef.h>
#include <stdint.h>

#define SLOT_GENERATIONS 3

struct slots;

// dir "" = a nameless temporary file. Slots of another run_id do not exist for this run.
// `resumed_at` is the last round that counts, 0 = a new run: later ones are undone in the own file
// and ignored in the files of other ranks, which are read too because the run may have had another
// number of ranks.
struct slots *slots_open(const char *dir, int rank, uint64_t run_id, size_t floats,
                         uint32_t clients, uint32_t resumed_at, struct err *err);
void slots_close(struct slots *s);
// The state of the newest generation below `round` (zeros if there is none). Returns its round, 0 =
// none.
uint32_t slots_read(struct slots *s, uint32_t client, uint32_t round, float *state);
int slots_write(struct slots *s, uint32_t client, uint32_t round, const float *state,
                struct err *err);
void slots_drop(struct slots *s, uint32_t client,
                uint32_t round); // the update of that round was not taken
int slots_sync(struct slots *s, struct err *err);

#endif
