// Clients of unequal rank (fed.ranks): a client trains and sends the first so many rows of every A
// and columns of every B, and is sent as much of a version; of the rest of it there is nothing at
// its place, as if it were zeros.
#ifndef FSTQ_FED_RANKS_H
#define FSTQ_FED_RANKS_H

#include "fed/profile.h"
#include "fed/view.h"

// "RANK:SHARE,...": ascending, and shares come to 1.
int ranks_parse(const char *text, struct ranks *r, struct err *err);
// Which of them each client has, (clients) for mem_free: drawn from the seed, or, where profile is
// not NULL, the fewer the slower its device. As many of each as its share says, rounded.
uint8_t *ranks_deal(const struct ranks *r, uint32_t clients, uint64_t seed,
                    const struct profile_model *profile);

#endif
