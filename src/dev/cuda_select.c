// The sparsifiers' stages on a GPU.
#include "dev/cuda.h"

#include <string.h>

#define put_upper    GPU(gpu_select_upper)
#define put_within   GPU(gpu_select_within)
#define put_sample   GPU(gpu_select_sample)
#define put_count    GPU(gpu_select_count)
#define put_fill     GPU(gpu_select_fill)
#define put_gather   GPU(gpu_select_gather)
#define put_scatter  GPU(gpu_select_scatter)
#define put_momentum GPU(gpu_mix_momentum)

// Samples.

static size_t sampled(size_t n, size_t stride)
{
    return stride && n >= 16 ? 16 * ((n - 16) / (16 * stride) + 1) : 0;
}

static void sample(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                   size_t runs, enum select_side side, const size_t *stride, size_t *seen,
                   uint32_t (*bins)[SELECT_BINS])
{
    enum { ROOM = 2 * sizeof(size_t) + sizeof(uint32_t[SELECT_BINS]) + sizeof(struct select_run) };
    for (size_t at = 0, to; at < runs; at = to) {
        const struct select_run *first = &run[at];
        struct room r = room_of(cx);
        size_t most = (room_left(&r) - 256) / ROOM, longest = 0;
        uint32_t group = first->group - run->group, groups = 0;
        for (to = at; to < runs && run[to].group - first->group < most && to - at < most; to++) {
            uint32_t g = run[to].group - first->group;
            size_t n = sampled(run[to].n, stride[group + g]);
            seen[group + g] += n;
            longest = n > longest ? n : longest;
            groups = g + 1;
        }
        const size_t size = groups * sizeof *bins;
        uint32_t *own = room_put(&r, bins[group], size);
        const struct select_run *own_run = room_put(&r, first, (to - at) * sizeof *run);
        put_sample(cx->stream, x, own_run, to - at, longest,
                   room_put(&r, stride + group, groups * sizeof *stride), side, own);
        gpu_move(cx, bins[group], own, size, false);
        gpu_settle(cx);
    }
}

// What is taken, in its order.

struct taken {
    struct room r;
    const float *x;
    const struct select_run *run;
    size_t runs, longest, total, begin;
    struct gpu_select_cuts cuts;
    struct gpu_select_tile *tile;
};

// cuts: the host's arrays, of so many groups. Of a choice ties go down.
static struct taken count_taken(const struct kernel_ctx *cx, const float *x,
                                const struct select_run *run, size_t runs,
                                const struct gpu_select_cuts *cuts, size_t groups)
{
    struct taken t = {.r = room_of(cx), .x = x, .runs = runs, .cuts = *cuts};
    const size_t tiles = gpu_select_tiles(run, runs), left = groups * sizeof *cuts->choice;
    for (size_t i = 0; i < runs; i++)
        t.longest = run[i].n > t.longest ? run[i].n : t.longest;
    t.run = room_put(&t.r, run, runs * sizeof *run);
    if (cuts->least)
        t.cuts.least = room_put(&t.r, cuts->least, groups * sizeof *cuts->least);
    else
        t.cuts.choice = room_put(&t.r, cuts->choice, left);
    t.tile = room_take(&t.r, tiles * sizeof *t.tile);
    size_t *total = room_take(&t.r, sizeof *total);
    gpu_clear(cx, t.tile, tiles * sizeof *t.tile);
    put_count(cx->stream, x, t.run, runs, t.longest, &t.cuts, tiles, t.tile, total);
    gpu_move(cx, &t.total, total, sizeof *total, false);
    if (cuts->choice)
        gpu_move(cx, cuts->choice, t.cuts.choice, left, false);
    gpu_settle(cx);
    return t;
}

// The next ones, `most` at most and as many as there is room for, to the host: positions, values,
// or NULL.
static size_t next_taken(struct taken *t, uint32_t *at, float *v, size_t most)
{
    struct room r = t->r;
    const struct kernel_ctx *cx = r.cx;
    size_t n = t->total - t->begin, fit = (room_left(&r) - 128) / (sizeof *at + sizeof *v);
    n = n < most ? n : most;
    n = n < fit ? n : fit;
    uint32_t *own_at = room_take(&r, n * sizeof *at);
    float *own_v = room_take(&r, n * sizeof *v);
    put_fill(cx->stream, t->x, t->run, t->runs, t->longest, &t->cuts, t->tile, t->begin,
             t->begin + n, own_at, own_v);
    if (at)
        gpu_move(cx, at, own_at, n * sizeof *at, false);
    if (v)
        gpu_move(cx, v, own_v, n * sizeof *v, false);
    gpu_settle(cx);
    t->begin += n;
    return n;
}

static size_t groups_of(const struct select_run *run, size_t runs)
{
    size_t most = 0;
    for (size_t i = 0; i < runs; i++)
        most = run[i].group >= most ? run[i].group + 1u : most;
    return most;
}

static size_t collect(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                      size_t runs, const uint32_t *least, uint32_t *at, float *v, size_t room)
{
    const struct gpu_select_cuts cuts = {.least = least};
    if (runs == 0)
        return 0;
    struct taken t = count_taken(cx, x, run, runs, &cuts, groups_of(run, runs));
    while (t.total <= room && t.begin < t.total)
        next_taken(&t, at + t.begin, v + t.begin, t.total);
    return t.total;
}

static size_t take(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                   size_t runs, struct select_choice *choice, uint32_t *at)
{
    const struct gpu_select_cuts cuts = {.choice = choice};
    if (runs == 0)
        return 0;
    struct taken t = count_taken(cx, x, run, runs, &cuts, groups_of(run, runs));
    while (t.begin < t.total)
        next_taken(&t, at + t.begin, NULL, t.total);
    return t.total;
}

// The host adds, in order.
static size_t sum(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                  size_t runs, enum select_side side, const struct select_threshold *threshold,
                  double *to)
{
    enum { SOME = 16384 };
    float v[SOME];
    struct select_choice own = {side, *threshold};
    if (runs == 0)
        return 0;
    const struct gpu_select_cuts cuts = {.choice = &own, .group0 = run->group};
    struct taken t = count_taken(cx, x, run, runs, &cuts, 1);
    while (t.begin < t.total)
        for (size_t i = 0, n = next_taken(&t, NULL, v, SOME); i < n; i++)
            *to += (double)(v[i] < 0 ? -v[i] : v[i]);
    return t.total;
}

static size_t count(const struct kernel_ctx *cx, const float *x, const struct select_run *run,
                    size_t runs, enum select_side side, int level, uint32_t prefix,
                    uint32_t bins[SELECT_BINS])
{
    struct room r = room_of(cx);
    const struct gpu_alloc_cuts c = {.n = 1, .bits = {prefix}};
    uint32_t *own = room_put(&r, bins, SELECT_BINS * sizeof *bins), have = 0;
    uint32_t *own_have = room_put(&r, &have, sizeof have);
    const struct gpu_alloc_cuts *own_c = room_put(&r, &c, sizeof c);
    for (size_t i = 0; i < runs; i++, run++) {
        if (run->n && level == 0)
            put_upper(cx->stream, x + run->at, run->n, side, own, own_have);
        else if (run->n)
            put_within(cx->stream, x + run->at, run->n, side, level == 1 ? 10 : 0, own_c, own);
    }
    gpu_move(cx, bins, own, SELECT_BINS * sizeof *bins, false);
    gpu_move(cx, &have, own_have, sizeof have, false);
    gpu_settle(cx);
    return have;
}

// By positions, as many at a time as there is room for.

static size_t positions_in(const struct room *r, size_t n)
{
    size_t fit = (room_left(r) - 128) / (sizeof(uint32_t) + sizeof(float));
    return n < fit ? n : fit;
}

static void gather(const struct kernel_ctx *cx, const float *x, const uint32_t *at, size_t n,
                   float *v)
{
    for (size_t some; n; at += some, v += some, n -= some) {
        struct room r = room_of(cx);
        some = positions_in(&r, n);
        float *own = room_take(&r, some * sizeof *v);
        put_gather(cx->stream, x, room_put(&r, at, some * sizeof *at), some, own);
        gpu_move(cx, v, own, some * sizeof *v, false);
        gpu_settle(cx);
    }
}

// v NULL: zeros
static void scatter(const struct kernel_ctx *cx, const uint32_t *at, const float *v, size_t n,
                    struct quant_sink to)
{
    for (size_t some; n; at += some, v = v ? v + some : NULL, n -= some) {
        struct room r = room_of(cx);
        some = positions_in(&r, n);
        const uint32_t *own = room_put(&r, at, some * sizeof *at);
        put_scatter(cx->stream, own, v ? room_put(&r, v, some * sizeof *v) : NULL, some, to);
        gpu_settle(cx);
    }
}

static void clear(const struct kernel_ctx *cx, const uint32_t *at, size_t n, float *x)
{
    scatter(cx, at, NULL, n, (struct quant_sink){.to = x});
}

static void give(const struct kernel_ctx *cx, const uint32_t *at, const float *v, size_t n,
                 size_t values, struct quant_sink to)
{
    if (!to.add)
        gpu_clear(cx, to.to, values * sizeof *to.to);
    scatter(cx, at, v, n, to);
}

static void momentum(const struct kernel_ctx *cx, const struct mix_momentum *m, const float *x,
                     const float *u0, const float *v0, size_t n, float *u, float *v)
{
    put_momentum(cx->stream, m, x, u0, v0, n, u, v);
}

const struct select_stages gpu_select_row = {
    .sample = sample,
    .collect = collect,
    .count = count,
    .sum = sum,
    .take = take,
    .gather = gather,
    .clear = clear,
    .momentum = momentum,
    .give = give,
};
