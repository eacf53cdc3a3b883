// The CPU's column of the sparsifiers' stages.
#include "stages.h"

#include <string.h>

static void sample(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                   size_t runs, enum select_side side, const size_t *stride, size_t *seen,
                   uint32_t (*bins)[SELECT_BINS])
{
    (void)cx;
    for (size_t i = 0; i < runs; i++) {
        uint32_t g = run[i].group - run->group;
        if (stride[g])
            seen[g] += select_sample(x + run[i].at, run[i].n, side, stride[g], bins[g]);
    }
}

// Values are fetched while they are still in the cache.
static size_t collect(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                      size_t runs, const uint32_t *least, uint32_t *at, float *v, size_t room)
{
    enum { CHUNK = 8192 };
    size_t found = 0;
    (void)cx;
    for (size_t i = 0; i < runs && found <= room; i++, run++)
        for (size_t from = 0; from < run->n && found <= room; from += CHUNK) {
            size_t n = run->n - from < CHUNK ? run->n - from : CHUNK, first = found;
            found += select_collect(x + run->at + from, n, SELECT_ABS, least[run->group],
                                    (uint32_t)(run->at + from), at + found, room - found);
            if (found <= room)
                coords_gather(x, at + first, found - first, v + first);
        }
    return found;
}

static size_t count(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                    size_t runs, enum select_side side, int level, uint32_t prefix,
                    uint32_t bins[SELECT_BINS])
{
    size_t have = 0;
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++) {
        select_count(x + run->at, run->n, side, level, prefix, bins);
        have += level == 0 ? select_reach(x + run->at, run->n, side, 1) : 0;
    }
    return have;
}

static size_t sum(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                  size_t runs, enum select_side side, const struct select_threshold *threshold,
                  double *total)
{
    struct select_threshold left = *threshold;
    size_t taken = 0;
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++)
        taken += select_sum(x + run->at, run->n, side, &left, total);
    return taken;
}

static size_t take(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                   size_t runs, struct select_choice *choice, uint32_t *at)
{
    size_t taken = 0;
    (void)cx;
    for (size_t i = 0; i < runs; i++, run++) {
        struct select_choice *c = &choice[run->group];
        taken += select_take(x + run->at, run->n, c->side, c->threshold.prefix, &c->threshold.left,
                             (uint32_t)run->at, at + taken);
    }
    return taken;
}

static void gather(const struct kernel_ctx *cx, const float *x, const uint32_t *at, size_t n,
                   float *v)
{
    (void)cx;
    coords_gather(x, at, n, v);
}

static void clear(const struct kernel_ctx *cx, const uint32_t *at, size_t n, float *x)
{
    (void)cx;
    coords_clear(at, n, x);
}

static void momentum(const struct kernel_ctx *cx, const struct mix_momentum *m, const float *x,
                     const float *u0, const float *v0, size_t n, float *u, float *v)
{
    (void)cx;
    mix_momentum(m, x, u0, v0, n, u, v);
}

static void give(const struct kernel_ctx *cx, const uint32_t *at, const float *v, size_t n,
                 size_t values, struct quant_sink to)
{
    (void)cx;
    if (!to.add)
        memset(to.to, 0, values * sizeof *to.to);
    coords_give(at, v, n, to);
}

const struct select_stages select_stages_cpu = {sample, collect, count,    sum, take,
                                                gather, clear,   momentum, give};
