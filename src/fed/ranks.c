#include "fed/ranks.h"

#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ranks_parse(const char *text, struct ranks *r, struct err *err)
{
    double all = 0;
    memset(r, 0, sizeof *r);
    for (const char *at = text; *at; at += *at == ',') {
        unsigned rank;
        double share;
        int end = 0;
        if (sscanf(at, "%6u:%lf%n", &rank, &share, &end) != 2 || (at[end] && at[end] != ',') ||
            (at[end] && !at[end + 1]))
            return err_set(err, "fed.ranks = %.60s: it is RANK:SHARE,..., as in 4:0.5,8:0.5", text);
        if (r->n == RANKS_MOST)
            return err_set(err, "fed.ranks = %.60s: more than %d ranks", text, RANKS_MOST);
        if (rank < 1 || (r->n && rank <= r->rank[r->n - 1]) || !(share > 0 && share <= 1))
            return err_set(err,
                           "fed.ranks = %.60s: ranks are at least 1 and ascend, shares lie above 0",
                           text);
        r->rank[r->n] = rank;
        r->share[r->n++] = share;
        all += share;
        at += end;
    }
    if (fabs(all - 1) > 1e-6)
        return err_set(err, "fed.ranks = %.60s: the shares come to %g instead of 1", text, all);
    return 0;
}

struct place {
    double slow;
    uint32_t client;
};

static int slower_first(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->slow != y->slow)
        return x->slow > y->slow ? -1 : 1;
    return x->client < y->client ? -1 : 1;
}

uint8_t *ranks_deal(const struct ranks *r, uint32_t clients, uint64_t seed,
                    const struct profile_model *profile)
{
    uint8_t *own = mem_alloc(MEM_OTHER, clients);
    uint32_t *order = mem_alloc(MEM_OTHER, clients * sizeof *order);
    struct place *place = mem_alloc(MEM_OTHER, clients * sizeof *place);
    struct rng draw = rng_stream(seed, RNG_RANKS, 0, 0, 0);
    for (uint32_t i = 0; i < clients; i++) {
        order[i] = i;
        if (profile)
            place[i] = (struct place){profile_device(profile, i).slow, i};
    }
    if (profile)
        qsort(place, clients, sizeof *place, slower_first);
    else
        rng_shuffle(&draw, order, clients);
    uint32_t at = 0;
    double until = 0;
    for (uint32_t p = 0; p < r->n; p++) {
        until += r->share[p];
        uint32_t end = p + 1 == r->n ? clients : (uint32_t)(until * clients + 0.5);
        for (; at < end && at < clients; at++)
            own[profile ? place[at].client : order[at]] = (uint8_t)p;
    }
    mem_free(order);
    mem_free(place);
    return own;
}
