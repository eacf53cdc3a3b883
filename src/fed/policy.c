#include "fed/policy.h"

#include <math.h>
#include <stdlib.h>

bool policy_waits(const struct fed_params *p)
{
    return p->deadline_s <= 0 && p->quorum <= 0 && p->overcommit <= 1 && p->min_completion <= 0;
}

// Whole numbers of clients, where a product is one but for its rounding as well.
static int32_t at_least(double x)
{
    return (int32_t)ceil(x - 1e-9);
}

int32_t policy_sampled(const struct fed_params *p)
{
    int32_t n = at_least(p->overcommit * p->clients_per_round);
    return n < p->clients ? n : p->clients;
}

int32_t policy_quorum(const struct fed_params *p)
{
    if (p->quorum <= 0)
        return p->overcommit > 1 ? p->clients_per_round : 0;
    return p->quorum < 1 ? at_least(p->quorum * p->clients_per_round) : (int32_t)p->quorum;
}

int64_t policy_deadline_ns(const struct fed_params *p)
{
    return p->deadline_s > 0 ? (int64_t)(p->deadline_s * 1e9 + 0.5) : INT64_MAX;
}

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

// Who waits for more than will come waits until the deadline; without one it has to be known that
// the others are gone, and the last arrival ends the round.
int64_t policy_end_ns(const struct fed_params *p, int64_t *arrival_ns, size_t n, bool silent)
{
    size_t quorum = (size_t)policy_quorum(p);
    int64_t deadline = policy_deadline_ns(p);
    qsort(arrival_ns, n, sizeof *arrival_ns, by_time);
    int64_t end = n > 0 ? arrival_ns[n - 1] : 0;
    if (quorum > 0 && n >= quorum)
        end = arrival_ns[quorum - 1];
    else if ((quorum > 0 || silent) && deadline < INT64_MAX)
        end = deadline;
    return end < deadline ? end : deadline;
}

bool policy_enough(const struct fed_params *p, size_t n)
{
    return n > 0 && (int64_t)n >= at_least(p->min_completion * p->clients_per_round);
}

double policy_late_weight(const struct fed_params *p, uint32_t rounds)
{
    double w = 1;
    for (; rounds > 0 && w > 0; rounds--)
        w *= p->late_weight;
    return w;
}
