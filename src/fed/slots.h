// Client state between rounds, on disk: one file per rank, three generations per client. An idle
// client costs no memory here. A generation is written at the end of training, before its update
// leaves; whether it counts is the server's word, which names the generation that a client goes on
// from.
#ifndef FSTQ_FED_SLOTS_H
#define FSTQ_FED_SLOTS_H

#include "base/check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLOT_GENERATIONS 3

// Names one generation of one client: a round may be done again after a resume, an epoch is the
// part of a run between two starts. Round 0 = none yet, the state is all zeros.
struct slot_gen {
    uint32_t round, epoch;
};

struct slots;

// dir "" = a nameless temporary file. Slots of another run_id do not exist for this run. resumed:
// what is there is kept, and files of other ranks are read too, for the run may have had another
// number of them.
struct slots *slots_open(const char *dir, int rank, uint64_t run_id, uint32_t epoch, size_t floats,
                         bool resumed, struct err *err);
void slots_close(struct slots *s);
// Is this very generation there, and sound? Changes nothing.
bool slots_have(struct slots *s, uint32_t client, struct slot_gen gen);
bool slots_read(struct slots *s, uint32_t client, struct slot_gen gen, float *state);
// As the generation (round, epoch of the slots). What stays: newest, the state it follows from; and
// the state before the newest checkpoint, of round `kept`, from which the run may have to go on.
int slots_write(struct slots *s, uint32_t client, uint32_t round, struct slot_gen newest,
                uint32_t kept, const float *state, struct err *err);
int slots_sync(struct slots *s, struct err *err);

#endif
