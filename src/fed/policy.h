// When a round is over, and whose updates count: all of them, those in time, the first so many.
#ifndef FSTQ_FED_POLICY_H
#define FSTQ_FED_POLICY_H

#include "fed/fed.h"

#include <stddef.h>

bool policy_waits(const struct fed_params *p); // for all that report: there is nothing to decide
int32_t policy_sampled(const struct fed_params *p); // clients of a round, over-commitment included
int32_t policy_quorum(const struct fed_params *p);  // updates that end a round, 0 = all
int64_t
policy_deadline_ns(const struct fed_params *p); // from the start of a round, INT64_MAX = none
// When a round ends whose n updates arrive at these times from its start, in any order; sorts them.
// Those that arrive later are late. silent: others that are awaited never come, and nobody knows.
int64_t policy_end_ns(const struct fed_params *p, int64_t *arrival_ns, size_t n, bool silent);
// Are so many updates enough to move the model?
bool policy_enough(const struct fed_params *p, size_t n);
// The weight of an update that comes so many rounds late, as a part of what it would have had.
double policy_late_weight(const struct fed_params *p, uint32_t rounds);

#endif
