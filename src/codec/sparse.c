// Sparsifiers: some coordinates, the rest zero. Top-k, random-k, DGC, STC, SBC and EcoLoRA differ
// in how they pick and in what they send for each.
//
// Message: header, count, scales (a mean per group, or an exponent per class), positions, values.
// Where both sides draw the positions there is no count, but the part of the share that a budget
// left (flag PART).
#include "base/fmath.h"
#include "base/half.h"
#include "base/pool.h"
#include "base/rng.h"
#include "codec/blocks.h"
#include "codec/message.h"
#include "codec/positions.h"
#include "codec/rows.h"
#include "kernels/stages.h"

#include <math.h>

enum { GROUP_TENSOR, GROUP_CLASS, GROUP_ALL };
static const char *const group_choices[] = {"tensor", "class", "all", NULL};
enum { VALUE_FP16, VALUE_FP32 };
static const char *const value_choices[] = {"fp16", "fp32", NULL};
enum { SCALE_FP32, SCALE_BF16 };
static const char *const scale_choices[] = {"fp32", "bf16", NULL};
#define CLASSES 3
enum { FLAG_PART = 1 };
#define PART_MIN 0x1p-30 // one coordinate per group

enum send { SEND_VALUES, SEND_SIGNS, SEND_NOTHING }; // beside the positions
enum pick { PICK_LARGEST, PICK_RANDOM, PICK_SIDE };

struct sparse_kind { // the family of a row
    enum pick pick;
    enum send send;
};

struct sparse_opt {
    double ratio;
    int32_t group, index, value, scale;
    bool unbiased, shared; // randk
    double momentum, clip; // dgc
    bool nesterov;
    int32_t warmup;
    int32_t segments; // ecolora, 0 = the whole update
    double min_a, min_b, gamma_a, gamma_b;
};
#define S_OPT_RATIO(dflt)                                                                          \
    OPT(struct sparse_opt, ratio, "ratio", dflt, 1e-6, 1, "", "share of coordinates that is kept")
#define S_OPT_GROUP(dflt)                                                                          \
    OPT_ENUM(struct sparse_opt, group, "group", dflt, group_choices, "what the share is taken of")
#define S_OPT_INDEX                                                                                \
    OPT_ENUM(struct sparse_opt, index, "index", "auto", positions_choices, "coding of positions")
#define S_OPT_VALUE                                                                                \
    OPT_ENUM(struct sparse_opt, value, "value", "fp16", value_choices,                             \
             "format of values; fp16 is prescaled per class")
#define S_OPT_SCALE(dflt)                                                                          \
    OPT_ENUM(struct sparse_opt, scale, "scale", dflt, scale_choices, "format of the means")

static const struct sparse_kind *kind_of(const struct codec_inst *c)
{
    return c->row->family;
}

static const struct sparse_opt *options(const struct codec_inst *c)
{
    return c->opt;
}

// randk: from the seed on both sides, or sent like any others.
static const char *const randk_indices[] = {"seed", "auto",  "rice", "bitmap",
                                            "log2", "raw32", NULL};

static bool is_drawn(const struct codec_inst *c)
{
    return kind_of(c)->pick == PICK_RANDOM && options(c)->index == 0;
}

static enum positions_code index_code(const struct codec_inst *c)
{
    int32_t i = options(c)->index;
    return (enum positions_code)(kind_of(c)->pick == PICK_RANDOM ? i - 1 : i);
}

static size_t tensor_values(const struct shape_tensor *t)
{
    return (size_t)t->rows * t->cols;
}

// Groups.

struct group {
    size_t n, k; // values in range, and how many to take
    struct select_choice take;
    double sum; // of what is taken, by magnitude
    size_t taken;
    uint32_t least; // bits of what was collected
    float mean;
};

static uint32_t group_count(const struct codec_inst *c)
{
    int32_t g = options(c)->group;
    return g == GROUP_TENSOR ? c->shape->n_tensors : g == GROUP_CLASS ? CLASSES : 1;
}

static uint32_t group_of(const struct codec_inst *c, uint32_t t)
{
    int32_t g = options(c)->group;
    return g == GROUP_TENSOR ? t : g == GROUP_CLASS ? c->shape->tensors[t].kind : 0;
}

// The coordinates that this message is about: all, or one segment.
static struct shape_range range_of(const struct codec_inst *c, const struct codec_key *key)
{
    uint32_t parts = (uint32_t)options(c)->segments;
    if (parts == 0)
        return (struct shape_range){0, c->shape->n_values};
    return shape_segment(c->shape->n_values, parts, shape_turn(key->client, key->version, parts));
}

// The part of tensor t inside the range; false when there is none.
static bool part_of(const struct codec_inst *c, struct shape_range r, uint32_t t, size_t *at,
                    size_t *n)
{
    const struct shape_tensor *row = &c->shape->tensors[t];
    size_t from = row->offset > r.from ? row->offset : r.from;
    size_t end = row->offset + tensor_values(row), to = end < r.to ? end : r.to;
    *at = from;
    *n = from < to ? to - from : 0;
    return *n > 0;
}

static size_t share(double ratio, size_t n)
{
    double k = ceil(ratio * (double)n - 1e-6); // 0.1 of 1000 is 100, whatever 0.1 is in binary
    return k >= (double)n ? n : k < 1 ? (n > 0) : (size_t)k;
}

// What the share of a message depends on beside the options.
struct when {
    uint32_t version;
    double loss_fall;
};

// The share at this round: DGC's warm-up, EcoLoRA's rules for A and for B, by which less is sent
// the further the loss has come down.
static double ratio_of(const struct codec_inst *c, struct when when, uint32_t kind)
{
    const struct sparse_opt *o = options(c);
    if (o->warmup > 0 && when.version < (uint32_t)o->warmup)
        return fmath_pow(o->ratio, ((double)when.version + 1) / ((double)o->warmup + 1));
    if (o->segments > 0) {
        double least = kind == SHAPE_LORA_A ? o->min_a : o->min_b;
        double gamma = kind == SHAPE_LORA_A ? o->gamma_a : o->gamma_b;
        double fall = when.loss_fall > 0 ? when.loss_fall : 0;
        return least + (o->ratio - least) * fmath_exp(-gamma * fall);
    }
    return o->ratio;
}

static void begin_groups(const struct codec_inst *c, struct shape_range r, struct when when,
                         double part, struct group *g)
{
    memset(g, 0, group_count(c) * sizeof *g);
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        size_t at, n;
        if (part_of(c, r, t, &at, &n))
            g[group_of(c, t)].n += n;
    }
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        struct group *of = &g[group_of(c, t)];
        of->k = share(part * ratio_of(c, when, c->shape->tensors[t].kind), of->n);
    }
}

static size_t groups_total(const struct codec_inst *c, const struct group *g)
{
    size_t k = 0;
    for (uint32_t i = 0; i < group_count(c); i++)
        k += g[i].k;
    return k;
}

// The tensors' parts in the range: in their order, empty ones too; and group by group.
struct plan {
    struct select_run *run, *member; // (n_tensors)
    uint32_t *first;                 // (groups + 1) of a group's members
    uint32_t *least;                 // (groups) magnitudes that are collected
    struct select_choice *choice;    // (groups)
};

static void lay_runs(const struct codec_inst *c, struct shape_range r, const struct plan *p)
{
    uint32_t groups = group_count(c), tensors = c->shape->n_tensors;
    memset(p->first, 0, (groups + 1) * sizeof *p->first);
    for (uint32_t t = 0; t < tensors; t++) {
        p->run[t].group = group_of(c, t);
        part_of(c, r, t, &p->run[t].at, &p->run[t].n);
        p->first[p->run[t].group + 1]++;
    }
    for (uint32_t k = 0; k < groups; k++)
        p->first[k + 1] += p->first[k];
    for (uint32_t t = 0; t < tensors; t++)
        p->member[p->first[p->run[t].group]++] = p->run[t];
    for (uint32_t k = groups; k > 0; k--) // each is now where the next begins
        p->first[k] = p->first[k - 1];
    p->first[0] = 0;
}

// Picking.

// What was picked: ascending positions and their values; those of tensor t are [start[t],
// start[t + 1]).
struct picked {
    uint32_t *at;
    float *v;
    size_t *start; // (tensors + 1)
    size_t count;
};

// The tensors that can be in group k: itself, or any.
static void group_span(const struct codec_inst *c, uint32_t k, uint32_t *t, uint32_t *end)
{
    bool own = options(c)->group == GROUP_TENSOR;
    *t = own ? k : 0;
    *end = own ? k + 1 : c->shape->n_tensors;
}

// The last tensor that begins at or before pos.
static uint32_t tensor_of(const struct codec_inst *c, size_t pos)
{
    uint32_t low = 0, high = c->shape->n_tensors;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (c->shape->tensors[mid].offset <= pos)
            low = mid;
        else
            high = mid;
    }
    return low;
}

static void find_starts(const struct codec_inst *c, struct picked *p)
{
    uint32_t tensors = c->shape->n_tensors;
    for (uint32_t t = 0; t < tensors; t++)
        p->start[t] = coords_below(p->at, p->count, c->shape->tensors[t].offset);
    p->start[tensors] = p->count;
}

// The share's; in a block, of which it may be more, as many as there are positions in its bytes.
static size_t most_kept(const struct codec_inst *c)
{
    if (c->block_bytes)
        return c->shape->n_values < 8 * c->block_bytes ? c->shape->n_values : 8 * c->block_bytes;
    double most = options(c)->warmup > 0 ? 1 : options(c)->ratio;
    double k = most * (double)c->shape->n_values + group_count(c) + 1;
    return k < (double)c->shape->n_values ? (size_t)k : c->shape->n_values;
}

// Candidates beyond what is kept: several times as many, more for small updates; SBC has two sides.
static size_t room_of(const struct codec_inst *c)
{
    size_t n = c->shape->n_values, many = kind_of(c)->pick == PICK_SIDE ? 8 : 4;
    size_t room = many * most_kept(c) + 65536;
    return kind_of(c)->pick == PICK_RANDOM || c->block_bytes ? most_kept(c) : room < n ? room : n;
}

struct pick_job {
    const struct codec_inst *c;
    struct shape_range r;
    const float *x;
    const struct codec_device *dev;
    const struct select_stages *on;
    const struct kernel_ctx *cx;
    bool whole;
    const struct plan *plan;
    struct group *g;
    struct picked *p;
    uint32_t pieces;
    size_t room, *found; // of each piece
    size_t *kept;
    _Atomic bool bad;
};

// Of every group the least magnitude that can be among the k largest of a side, from a sample.
#define SAMPLE_FROM 4096 // values of a group from which on a sample pays
static size_t stride_of(const struct group *g)
{
    size_t stride = g->n / SAMPLE_FROM;
    return stride > SELECT_STRIDE ? SELECT_STRIDE : stride;
}

// No value that is too large escapes: its magnitude is at least that of the limit.
static void note_least(const struct pick_job *j, uint32_t k, const uint32_t *bins, size_t seen)
{
    uint32_t least = select_least(bins, seen, j->g[k].n, j->g[k].k);
    least = least < f32_bits(CODEC_LIMIT) ? least : f32_bits(CODEC_LIMIT);
    least = least ? least : 1; // zeros are never sent
    j->g[k].least = least < j->g[k].least ? least : j->g[k].least;
}

static void sample_group(void *arg, uint32_t k, enum select_side side)
{
    const struct pick_job *j = arg;
    uint32_t bins[1][SELECT_BINS] = {{0}};
    const uint32_t at = j->plan->first[k];
    size_t seen = 0, stride = stride_of(&j->g[k]);
    j->on->sample(j->cx, j->x, j->plan->member + at, j->plan->first[k + 1] - at, side, &stride,
                  &seen, bins);
    note_least(j, k, bins[0], seen);
}

static void sample_item(void *arg, uint32_t k)
{
    const struct pick_job *j = arg;
    bool sides = kind_of(j->c)->pick == PICK_SIDE;
    j->g[k].least = UINT32_MAX;
    sample_group(arg, k, sides ? SELECT_POSITIVE : SELECT_ABS);
    if (sides)
        sample_group(arg, k, SELECT_NEGATIVE);
}

// All groups in one call; the bins of all lie in the host's room.
static void sample_whole(const struct pick_job *j, enum select_side side)
{
    const uint32_t groups = group_count(j->c);
    void *stage = j->dev->stage;
    uint32_t(*bins)[SELECT_BINS] = scratch_take(&stage, groups * sizeof *bins);
    size_t *seen = scratch_take(&stage, groups * sizeof *seen);
    size_t *stride = scratch_take(&stage, groups * sizeof *stride);
    memset(bins, 0, groups * sizeof *bins);
    for (uint32_t k = 0; k < groups; k++) {
        seen[k] = 0;
        stride[k] = stride_of(&j->g[k]);
    }
    j->on->sample(j->cx, j->x, j->plan->member, j->c->shape->n_tensors, side, stride, seen, bins);
    for (uint32_t k = 0; k < groups; k++)
        note_least(j, k, bins[k], seen[k]);
}

static size_t sparse_stage(const struct codec_inst *c)
{
    const uint32_t groups = group_count(c);
    return SCRATCH_ROUND(groups * sizeof(uint32_t[SELECT_BINS])) +
           2 * SCRATCH_ROUND(groups * sizeof(size_t));
}

static void find_least(struct pick_job *j)
{
    const uint32_t groups = group_count(j->c);
    if (j->whole) {
        bool sides = kind_of(j->c)->pick == PICK_SIDE;
        for (uint32_t k = 0; k < groups; k++)
            j->g[k].least = UINT32_MAX;
        sample_whole(j, sides ? SELECT_POSITIVE : SELECT_ABS);
        if (sides)
            sample_whole(j, SELECT_NEGATIVE);
    } else {
        pool_each(j->c->shape->n_values, groups, sample_item, j);
    }
    for (uint32_t k = 0; k < groups; k++)
        j->plan->least[k] = j->g[k].least;
}

#define PIECES 8 // of the update, each with its part of the room; threads never wait in one

// Candidates in the range; more than room are counted, not kept.
static size_t collect_piece(const struct pick_job *j, struct shape_range r, uint32_t *at, float *v)
{
    enum { RUNS = 64 }; // handed over at a time
    size_t found = 0, runs = 0;
    struct select_run run[RUNS];
    for (uint32_t t = tensor_of(j->c, r.from); t < j->c->shape->n_tensors && found <= j->room;) {
        run[runs].group = group_of(j->c, t);
        runs += part_of(j->c, r, t, &run[runs].at, &run[runs].n);
        bool last = ++t == j->c->shape->n_tensors || j->c->shape->tensors[t].offset >= r.to;
        if (runs == RUNS || last) {
            found += j->on->collect(j->cx, j->x, run, runs, j->plan->least, at + found, v + found,
                                    j->room - found);
            runs = 0;
        }
        if (last)
            break;
    }
    return found;
}

static void collect_item(void *arg, uint32_t k)
{
    const struct pick_job *j = arg;
    size_t at = k * j->room;
    struct shape_range part = shape_segment(j->r.to - j->r.from, j->pieces, k);
    part = (struct shape_range){j->r.from + part.from, j->r.from + part.to};
    j->found[k] = collect_piece(j, part, j->p->at + at, j->p->v + at);
}

// What a sample says can be among the largest, in one pass over the update. False where there is
// more than room for it.
static bool collect(struct pick_job *j, uint32_t pieces)
{
    size_t found[PIECES] = {0}, room = room_of(j->c) / pieces;
    if (j->whole) {
        j->p->count = j->on->collect(j->cx, j->x, j->plan->run, j->c->shape->n_tensors,
                                     j->plan->least, j->p->at, j->p->v, room);
        return j->p->count <= room;
    }
    struct picked *p = j->p;
    bool fits = true;
    j->room = room;
    j->pieces = pieces;
    j->found = found;
    pool_each(j->c->shape->n_values, pieces, collect_item, j);
    p->count = 0;
    for (uint32_t k = 0; k < pieces; k++)
        fits &= found[k] <= room;
    for (uint32_t k = 0; k < pieces && fits; k++) {
        memmove(p->at + p->count, p->at + k * room, found[k] * sizeof *p->at);
        memmove(p->v + p->count, p->v + k * room, found[k] * sizeof *p->v);
        p->count += found[k];
    }
    return fits;
}

// The values among which a group's threshold is sought: all candidates, or where there are none the
// update. How many of them reach the group's least magnitude, told at level 0.
static size_t count_group(const struct pick_job *j, bool all, uint32_t k, enum select_side side,
                          const struct select_threshold *threshold, uint32_t count[SELECT_BINS])
{
    const struct plan *plan = j->plan;
    const int level = threshold->level;
    const uint32_t prefix = level ? threshold->prefix : 0, at = plan->first[k];
    uint32_t t, end;
    size_t have = 0;
    if (all)
        return j->on->count(j->cx, j->x, plan->member + at, plan->first[k + 1] - at, side, level,
                            prefix, count);
    for (group_span(j->c, k, &t, &end); t < end; t++) {
        if (group_of(j->c, t) != k)
            continue;
        const float *v = j->p->v + j->p->start[t];
        size_t n = j->p->start[t + 1] - j->p->start[t];
        select_count(v, n, side, level, prefix, count);
        have += level == 0 ? select_reach(v, n, side, j->g[k].least) : 0;
    }
    return have;
}

// The threshold of group k on one side; false where candidates are too few, for the sample was
// wrong.
static bool cut_side(const struct pick_job *j, bool all, uint32_t k, enum select_side side,
                     struct group *g)
{
    uint32_t first[SELECT_BINS] = {0};
    const struct select_threshold none = {0};
    size_t have = count_group(j, all, k, side, &none, first);
    g->take.side = side;
    select_threshold_begin(&g->take.threshold, g->k < have ? g->k : have);
    select_threshold_next(&g->take.threshold, first);
    for (int level = 1; level < SELECT_LEVELS; level++) {
        uint32_t count[SELECT_BINS] = {0};
        count_group(j, all, k, side, &g->take.threshold, count);
        select_threshold_next(&g->take.threshold, count);
    }
    return have >= g->k || g->least == 1;
}

// The sum of the magnitudes that the threshold takes, and how many they are.
static void add_taken(const struct pick_job *j, bool all, uint32_t k, struct group *g)
{
    struct select_threshold threshold = g->take.threshold;
    const uint32_t at = j->plan->first[k];
    uint32_t t, end;
    g->sum = 0;
    g->taken = 0;
    if (all) {
        g->taken = j->on->sum(j->cx, j->x, j->plan->member + at, j->plan->first[k + 1] - at,
                              g->take.side, &threshold, &g->sum);
        return;
    }
    for (group_span(j->c, k, &t, &end); t < end; t++)
        if (group_of(j->c, t) == k)
            g->taken += select_sum(j->p->v + j->p->start[t], j->p->start[t + 1] - j->p->start[t],
                                   g->take.side, &threshold, &g->sum);
}

static float mean_of(const struct group *g)
{
    return g->taken ? (float)(g->sum / (double)g->taken) : 0;
}

// SBC: the side, positive or negative, whose k largest have the larger mean.
static bool settle_group(const struct pick_job *j, bool all, uint32_t k)
{
    struct group *g = &j->g[k], other = *g;
    if (kind_of(j->c)->pick != PICK_SIDE) {
        bool enough = cut_side(j, all, k, SELECT_ABS, g);
        if (kind_of(j->c)->send != SEND_VALUES)
            add_taken(j, all, k, g);
        return enough;
    }
    bool enough = cut_side(j, all, k, SELECT_POSITIVE, g);
    enough &= cut_side(j, all, k, SELECT_NEGATIVE, &other);
    add_taken(j, all, k, g);
    add_taken(j, all, k, &other);
    if (mean_of(&other) > mean_of(g))
        *g = other;
    return enough;
}

// Keeps the candidates that the group's threshold takes, at the beginning of each tensor's place;
// kept[t] becomes how many.
static void thin_group(const struct codec_inst *c, struct picked *p, uint32_t k, struct group *g,
                       size_t *kept)
{
    uint32_t t, end;
    for (group_span(c, k, &t, &end); t < end; t++) {
        if (group_of(c, t) != k)
            continue;
        size_t at = p->start[t], n = p->start[t + 1] - at;
        kept[t] = select_thin(p->at + at, p->v + at, n, g->take.side, &g->take.threshold);
    }
}

// Finds each group's threshold among the candidates and keeps what it takes. False where the sample
// was wrong: there were fewer candidates than values to take.
static void settle_item(void *arg, uint32_t k)
{
    struct pick_job *j = arg;
    if (!settle_group(j, false, k))
        j->bad = true;
    thin_group(j->c, j->p, k, &j->g[k], j->kept);
}

static bool settle(struct pick_job *j)
{
    struct picked *p = j->p;
    const size_t *kept = j->kept;
    find_starts(j->c, p);
    pool_each(j->c->shape->n_values, group_count(j->c), settle_item, j);
    p->count = 0;
    for (uint32_t t = 0; t < j->c->shape->n_tensors; t++) {
        memmove(p->at + p->count, p->at + p->start[t], kept[t] * sizeof *p->at);
        memmove(p->v + p->count, p->v + p->start[t], kept[t] * sizeof *p->v);
        p->count += kept[t];
    }
    return !j->bad;
}

static void gather_span(void *arg, size_t from, size_t to)
{
    const struct pick_job *j = arg;
    j->on->gather(j->cx, j->x, j->p->at + from, to - from, j->p->v + from);
}

static void gather(struct pick_job *j)
{
    if (j->whole)
        gather_span(j, 0, j->p->count);
    else
        pool_spans(j->p->count, 1 << 14, gather_span, j);
}

static void settle_all_item(void *arg, uint32_t k)
{
    const struct pick_job *j = arg;
    j->g[k].least = 1;
    settle_group(j, true, k);
    j->plan->choice[k] = j->g[k].take;
}

// The same on the whole update, where a sample is no guide: many equal values, say.
static void settle_all(struct pick_job *j)
{
    const struct codec_inst *c = j->c;
    for (uint32_t k = 0; k < group_count(c) && j->whole; k++)
        settle_all_item(j, k);
    if (!j->whole)
        pool_each(c->shape->n_values, group_count(c), settle_all_item, j);
    j->p->count =
        j->on->take(j->cx, j->x, j->plan->run, c->shape->n_tensors, j->plan->choice, j->p->at);
    gather(j);
}

// From the key alone: both sides draw them.
static void draw_tensor(const struct codec_inst *c, const struct codec_key *key, uint32_t t,
                        size_t k, uint32_t *at)
{
    const struct shape_tensor *row = &c->shape->tensors[t];
    uint32_t client = options(c)->shared ? UINT32_MAX : key->client;
    struct rng r = rng_stream(key->seed, RNG_CODEC, client, key->version, t);
    coords_draw(r.key, r.ctr, tensor_values(row), k, (uint32_t)row->offset, at);
}

struct draw_job {
    const struct codec_inst *c;
    const struct codec_key *key;
    const struct group *g;
    const struct picked *p;
};

static void draw_item(void *arg, uint32_t t)
{
    const struct draw_job *j = arg;
    draw_tensor(j->c, j->key, t, j->g[t].k, j->p->at + j->p->start[t]);
}

static size_t draw_positions(const struct codec_inst *c, const struct codec_key *key,
                             const struct group *g, struct picked *p)
{
    uint32_t tensors = c->shape->n_tensors;
    p->start[0] = 0;
    for (uint32_t t = 0; t < tensors; t++)
        p->start[t + 1] = p->start[t] + g[t].k;
    struct draw_job j = {c, key, g, p};
    pool_each(c->shape->n_values, tensors, draw_item, &j);
    p->count = p->start[tensors];
    return p->count;
}

// Values.

static float exp2_of(int e)
{
    return f32_from_bits((uint32_t)(e + 127) << 23);
}

enum { FP16_EXP_MIN = -85, FP16_EXP_MAX = 126 };

// fp16 scaled by a power of two per class, so that small updates keep their bits.
static void class_exponents(const struct codec_inst *c, const struct picked *p, int e[CLASSES])
{
    uint32_t max[CLASSES] = {0};
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        uint32_t *of = &max[c->shape->tensors[t].kind];
        uint32_t a = quant_absmax_bits(p->v + p->start[t], p->start[t + 1] - p->start[t]);
        *of = a > *of ? a : *of;
    }
    for (int k = 0; k < CLASSES; k++) {
        e[k] = 14 - ((int)(max[k] >> 23) - 127);
        e[k] = e[k] > FP16_EXP_MAX ? FP16_EXP_MAX : e[k];
    }
}

static size_t value_bytes(const struct codec_inst *c, size_t count)
{
    switch (kind_of(c)->send) {
    case SEND_VALUES:
        return (options(c)->value == VALUE_FP16 ? 2 : 4) * count;
    case SEND_SIGNS:
        return pack_bytes(count, 1);
    case SEND_NOTHING:
        break;
    }
    return 0;
}

static size_t scale_size(const struct codec_inst *c)
{
    return options(c)->scale == SCALE_FP32 ? 4 : 2;
}

static size_t scales_bytes(const struct codec_inst *c, const struct group *g)
{
    if (kind_of(c)->send == SEND_VALUES)
        return options(c)->value == VALUE_FP16 ? CLASSES : 0;
    size_t n = 0;
    for (uint32_t i = 0; i < group_count(c); i++)
        n += g[i].n > 0;
    return n * scale_size(c);
}

static void put_means(const struct codec_inst *c, struct group *g, uint8_t *p)
{
    for (uint32_t i = 0; i < group_count(c); i++) {
        if (g[i].n == 0)
            continue;
        float mean = mean_of(&g[i]);
        if (kind_of(c)->send == SEND_NOTHING && g[i].take.side == SELECT_NEGATIVE)
            mean = -mean;
        if (scale_size(c) == 4)
            put_f32(p, mean);
        else
            put_u16(p, bf16_from_f32(mean));
        p += scale_size(c);
    }
}

static void put_values(const struct codec_inst *c, const struct picked *p, const int e[CLASSES],
                       uint8_t *out)
{
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        size_t at = p->start[t], n = p->start[t + 1] - at;
        if (options(c)->value == VALUE_FP32)
            quant_f32_to_le(p->v + at, n, out + 4 * at);
        else
            quant_f16_to_le(p->v + at, n, exp2_of(e[c->shape->tensors[t].kind]), out + 2 * at);
    }
}

// The message.

static int sparse_check(const struct codec_inst *c, struct err *err)
{
    const struct sparse_opt *o = options(c);
    if (c->shape->n_values > UINT32_MAX)
        return err_set(err, "positions have 32 bits, the update has %zu values",
                       c->shape->n_values);
    if (o->min_a > o->ratio || o->min_b > o->ratio)
        return err_set(err, "%s=%g is above ratio=%g", o->min_a > o->ratio ? "min_a" : "min_b",
                       o->min_a > o->ratio ? o->min_a : o->min_b, o->ratio);
    if (o->group == GROUP_ALL && (o->min_a != o->min_b || o->gamma_a != o->gamma_b))
        return err_set(err,
                       "group=all has one share for A and B: give both the same min and gamma");
    return 0;
}

static size_t plan_bytes(const struct codec_inst *c)
{
    size_t tensors = c->shape->n_tensors, groups = group_count(c);
    return 2 * SCRATCH_ROUND(tensors * sizeof(struct select_run)) +
           SCRATCH_ROUND((groups + 1) * sizeof(uint32_t)) +
           SCRATCH_ROUND(groups * sizeof(uint32_t)) +
           SCRATCH_ROUND(groups * sizeof(struct select_choice));
}

static struct plan lay_plan(const struct codec_inst *c, void **scratch)
{
    size_t tensors = c->shape->n_tensors, groups = group_count(c);
    struct plan p;
    p.run = scratch_take(scratch, tensors * sizeof *p.run);
    p.member = scratch_take(scratch, tensors * sizeof *p.member);
    p.first = scratch_take(scratch, (groups + 1) * sizeof *p.first);
    p.least = scratch_take(scratch, groups * sizeof *p.least);
    p.choice = scratch_take(scratch, groups * sizeof *p.choice);
    return p;
}

static size_t sparse_scratch(const struct codec_inst *c)
{
    size_t tensors = (size_t)c->shape->n_tensors + 1, room = room_of(c) + 16;
    return SCRATCH_ROUND(group_count(c) * sizeof(struct group)) + plan_bytes(c) +
           2 * SCRATCH_ROUND(tensors * sizeof(size_t)) + SCRATCH_ROUND(room * sizeof(uint32_t)) +
           SCRATCH_ROUND(room * sizeof(float));
}

static size_t sparse_bound(const struct codec_inst *c)
{
    size_t k = most_kept(c), scales = 4 * (size_t)group_count(c) + CLASSES;
    size_t index = is_drawn(c) ? 0 : positions_bound(k, c->shape->n_values, index_code(c));
    return 1 + 5 + scales + index + value_bytes(c, k);
}

static struct group *lay_out(const struct codec_inst *c, void **scratch, struct picked *p,
                             size_t **kept)
{
    size_t tensors = (size_t)c->shape->n_tensors + 1, room = room_of(c) + 16;
    struct group *g = scratch_take(scratch, group_count(c) * sizeof(struct group));
    p->start = scratch_take(scratch, tensors * sizeof *p->start);
    *kept = scratch_take(scratch, tensors * sizeof **kept);
    p->at = scratch_take(scratch, room * sizeof *p->at);
    p->v = scratch_take(scratch, room * sizeof *p->v);
    p->count = 0;
    return g;
}

// Refuses values that are not finite or too large: they would be among the largest.
static int pick_all(struct pick_job *j, const struct codec_key *key, struct err *err)
{
    const struct codec_inst *c = j->c;
    struct picked *p = j->p;
    if (kind_of(c)->pick == PICK_RANDOM) {
        draw_positions(c, key, j->g, p);
        gather(j);
        return 0;
    }
    bool large = c->shape->n_values >= POOL_LEAST_VALUES && !j->whole;
    find_least(j);
    bool all = (large && collect(j, PIECES)) || collect(j, 1);
    if (all && quant_absmax_bits(p->v, p->count) >= f32_bits(CODEC_LIMIT))
        return codec_bad_input(c, j->x, j->dev, err);
    if (!all || !settle(j)) {
        int bad = codec_check_limit(c, j->x, j->dev, err);
        if (bad)
            return bad;
        settle_all(j);
    }
    find_starts(c, p);
    return 0;
}

static size_t header_estimate(const struct codec_inst *c, const struct group *g)
{
    return 1 + 5 + scales_bytes(c, g);
}

// The part of the configured shares that fits into the budget, by the estimate of the positions'
// coding.
static double fit_budget(const struct codec_inst *c, struct shape_range r, struct when when,
                         int64_t budget, struct group *g)
{
    double low = 0, high = 1;
    for (int i = 0; i < 30; i++) {
        double mid = i ? (low + high) / 2 : 1;
        begin_groups(c, r, when, mid, g);
        size_t k = groups_total(c, g);
        size_t index = is_drawn(c) ? 0 : positions_estimate(k, r.to - r.from, index_code(c));
        if ((int64_t)(header_estimate(c, g) + index + value_bytes(c, k)) <= budget) {
            low = mid;
            if (i == 0)
                return 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static int64_t put_message(const struct codec_inst *c, const struct codec_input *in,
                           struct shape_range r, struct group *g, double part,
                           const struct picked *k, struct msg_out *m, struct err *err)
{
    const struct sparse_opt *o = options(c);
    bool random = kind_of(c)->pick == PICK_RANDOM;
    bool says_part = random && part < 1;
    if (msg_put_header(m, says_part ? FLAG_PART : 0) ||
        (!random && msg_put_varint(m, PART_DIRECTORY, k->count)))
        return msg_full(m, err);
    if (says_part) {
        uint8_t *p = msg_take(m, PART_DIRECTORY, 4);
        if (!p)
            return msg_full(m, err);
        put_f32(p, (float)part);
    }
    uint8_t *scales = msg_take(m, PART_SCALES, scales_bytes(c, g));
    if (!scales ||
        (!is_drawn(c) && positions_put(m, k->at, k->count, r.from, r.to - r.from, index_code(c))))
        return msg_full(m, err);
    uint8_t *values = msg_take(m, PART_VALUES, value_bytes(c, k->count));
    if (!values)
        return msg_full(m, err);
    lap(in->laps, STAGE_PACK);
    if (kind_of(c)->send == SEND_VALUES) {
        int e[CLASSES];
        class_exponents(c, k, e);
        for (int i = 0; i < CLASSES && o->value == VALUE_FP16; i++)
            scales[i] = (uint8_t)(int8_t)e[i];
        put_values(c, k, e, values);
    } else {
        put_means(c, g, scales);
    }
    if (kind_of(c)->send == SEND_SIGNS)
        quant_pack_sign(k->v, k->count, values);
    lap(in->laps, STAGE_QUANTISE);
    int bits = kind_of(c)->send != SEND_VALUES ? 1 : o->value == VALUE_FP16 ? 16 : 32;
    m->report->kept[record_width_of[bits]] = (int64_t)k->count;
    m->report->kept[0] = (int64_t)(c->shape->n_values - k->count);
    for (uint32_t t = 0; t < c->shape->n_tensors && m->report->by_tensor; t++) {
        const struct shape_tensor *row = &c->shape->tensors[t];
        int64_t sent = (int64_t)(k->start[t + 1] - k->start[t]);
        m->report->by_tensor[t][record_width_of[bits]] = sent;
        m->report->by_tensor[t][0] = (int64_t)row->rows * row->cols - sent;
    }
    return msg_len(m);
}

// x is what is coded: the update, or DGC's accumulator.
static int64_t encode_of(const struct codec_inst *c, const struct codec_input *in, const float *x,
                         uint8_t *out, size_t cap, void *scratch, struct picked *p,
                         struct codec_report *report, struct err *err)
{
    size_t *kept;
    struct group *g = lay_out(c, &scratch, p, &kept);
    const struct plan plan = lay_plan(c, &scratch);
    struct shape_range r = range_of(c, &in->key);
    struct when when = {in->key.version, in->loss_fall};
    double part = 1;
    lay_runs(c, r, &plan);
    if (in->budget_bytes >= 0)
        part = fit_budget(c, r, when, in->budget_bytes, g);
    lap(in->laps, STAGE_ALLOC);
    for (;;) {
        struct msg_out m;
        msg_init(&m, out, cap, report);
        memset(&report->parts, 0, sizeof report->parts);
        part = part < PART_MIN ? PART_MIN : (double)(float)part; // as it is sent
        begin_groups(c, r, when, part, g);
        struct pick_job j = {.c = c,
                             .r = r,
                             .x = x,
                             .dev = in->on,
                             .on = codec_column(in->on)->select,
                             .cx = codec_context(in->on),
                             .whole = codec_column(in->on)->whole,
                             .plan = &plan,
                             .g = g,
                             .p = p,
                             .kept = kept};
        int bad = pick_all(&j, &in->key, err);
        if (bad)
            return bad;
        lap(in->laps, STAGE_SELECT);
        int64_t len = put_message(c, in, r, g, part, p, &m, err);
        // The estimate is of a random set; a message that came out too long is made again, shorter.
        if (len < 0 || in->budget_bytes < 0 || len <= in->budget_bytes || part <= PART_MIN)
            return len;
        part *= 0.98 * (double)in->budget_bytes / (double)len;
    }
}

static int64_t sparse_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                             size_t cap, void *scratch, struct codec_report *report,
                             struct err *err)
{
    struct picked p;
    return encode_of(c, in, in->x, out, cap, scratch, &p, report, err);
}

// Decoding.

// What decoding needs once the message has been found good.
struct parsed {
    const uint8_t *scales, *values;
    const struct group *g;
    int e[CLASSES];
    struct picked k;
};

static int get_scales(const struct codec_inst *c, struct msg_in *m, struct group *g,
                      struct parsed *p, struct err *err)
{
    p->scales = msg_need(m, scales_bytes(c, g));
    if (!p->scales)
        return msg_short("scales", err);
    if (kind_of(c)->send == SEND_VALUES) {
        for (int k = 0; k < CLASSES && options(c)->value == VALUE_FP16; k++) {
            p->e[k] = (int8_t)p->scales[k];
            if (p->e[k] < FP16_EXP_MIN || p->e[k] > FP16_EXP_MAX)
                return msg_bad("scales", "exponent out of range", err);
        }
        return 0;
    }
    const uint8_t *s = p->scales;
    for (uint32_t i = 0; i < group_count(c); i++) {
        if (g[i].n == 0)
            continue;
        g[i].mean = scale_size(c) == 4 ? get_f32(s) : bf16_to_f32(get_u16(s));
        if (!msg_scale_ok(g[i].mean))
            return msg_bad("scales", "one is not finite, or too large", err);
        s += scale_size(c);
    }
    return 0;
}

static int check_values(const struct codec_inst *c, const struct parsed *p, struct err *err)
{
    if (kind_of(c)->send != SEND_VALUES)
        return 0;
    if (options(c)->value == VALUE_FP16) {
        if (quant_absmax_bits_f16(p->values, p->k.count) >= 0x7c00u)
            return msg_bad("values", "one is not finite", err);
        return 0;
    }
    if (quant_absmax_bits_le(p->values, p->k.count) > f32_bits(2 * CODEC_LIMIT))
        return msg_bad("values", "one is not finite, or too large", err);
    return 0;
}

// Values [at, at + n) of the message, all of tensor t.
static void get_values(const struct codec_inst *c, const struct parsed *p, uint32_t t, size_t at,
                       size_t n, float *v)
{
    const struct group *g = &p->g[group_of(c, t)];
    const struct quant_sink to = {v, 1, false};
    if (kind_of(c)->send != SEND_VALUES) {
        if (kind_of(c)->send == SEND_SIGNS)
            quant_signs_from_bits(p->values, at, n, g->mean, v);
        else
            mix_fill(g->mean, n, v);
        return;
    }
    if (options(c)->value == VALUE_FP32)
        quant_f32_from_le(p->values + 4 * at, n, to);
    else
        quant_f16_from_le(p->values + 2 * at, n, exp2_of(-p->e[c->shape->tensors[t].kind]), to);
    if (options(c)->unbiased)
        mix_scale((float)((double)g->n / (double)g->k), n, v);
}

#define STREAM ((size_t)4 << 20) // updates so large are decoded past the caches
#define BLOCK  65536

struct give_job {
    const struct picked *k;
    struct quant_sink to;
};

static void stream_block(void *arg, size_t begin, size_t end)
{
    const struct give_job *j = arg;
    coords_stream(j->k->at, j->k->v, j->k->count, begin, end, j->to.to);
}

static void give_span(void *arg, size_t from, size_t end)
{
    const struct give_job *j = arg;
    coords_give(j->k->at + from, j->k->v + from, end - from, j->to);
}

static void give(const struct codec_inst *c, const struct picked *k, struct quant_sink to)
{
    struct give_job j = {k, to};
    size_t n = c->shape->n_values;
    if (!to.add && n >= STREAM) {
        pool_spans(n, BLOCK, stream_block, &j);
        return;
    }
    if (!to.add)
        memset(to.to, 0, n * sizeof *to.to);
    pool_spans(k->count, 1 << 14, give_span, &j);
}

static int parse(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                 size_t len, void **scratch, struct parsed *p, struct err *err)
{
    size_t *kept;
    struct group *g = lay_out(c, scratch, &p->k, &kept);
    struct shape_range r = range_of(c, key);
    struct msg_in m;
    unsigned flags;
    uint64_t count;
    if (msg_open(&m, in, len, &flags, err))
        return -1;
    bool random = kind_of(c)->pick == PICK_RANDOM;
    if (flags & ~(random ? (unsigned)FLAG_PART : 0u))
        return msg_bad("header", "unknown flags", err);
    float part = 1;
    if (flags & FLAG_PART) {
        const uint8_t *p4 = msg_need(&m, 4);
        if (!p4)
            return msg_short("directory", err);
        part = get_f32(p4);
        if (!(part > 0 && part < 1))
            return msg_bad("directory", "a part that is not between 0 and 1", err);
    }
    begin_groups(c, r, (struct when){.version = key->version}, (double)part, g);
    if (random)
        count = is_drawn(c) ? draw_positions(c, key, g, &p->k) : groups_total(c, g);
    else if (msg_get_varint(&m, &count))
        return msg_short("directory", err);
    if (count > most_kept(c) || count > r.to - r.from)
        return msg_bad("directory", "more values than the options allow", err);
    p->g = g;
    p->k.count = (size_t)count;
    if (get_scales(c, &m, g, p, err))
        return -1;
    if (!is_drawn(c) && positions_get(&m, p->k.at, p->k.count, r.from, r.to - r.from, err))
        return -1;
    p->values = msg_need(&m, value_bytes(c, p->k.count));
    if (!p->values)
        return msg_short("values", err);
    if (msg_end(&m, err) || check_values(c, p, err))
        return -1;
    find_starts(c, &p->k);
    return 0;
}

static int sparse_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                         size_t len, struct codec_output to, void *scratch, struct err *err)
{
    struct parsed p = {0};
    if (parse(c, key, in, len, &scratch, &p, err))
        return -1;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        get_values(c, &p, t, p.k.start[t], p.k.start[t + 1] - p.k.start[t], p.k.v + p.k.start[t]);
    if (codec_column(to.on)->whole)
        codec_column(to.on)->select->give(codec_context(to.on), p.k.at, p.k.v, p.k.count,
                                          c->shape->n_values, to.sink);
    else
        give(c, &p.k, to.sink);
    return 0;
}

// Blocks; not of positions that both sides draw in the whole update. Segments are of that, too.
static bool can_cut(const struct codec_inst *c)
{
    return options(c)->segments <= 1;
}

static void *sparse_open(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                         size_t len, void **scratch, struct err *err)
{
    struct parsed *p = scratch_take(scratch, sizeof *p);
    memset(p, 0, sizeof *p);
    return parse(c, key, in, len, scratch, p, err) ? NULL : p;
}

static void copy_bits(const uint8_t *from, size_t at, size_t n, uint8_t *to)
{
    memset(to, 0, pack_bytes(n, 1));
    for (size_t i = 0; i < n; i++, at++)
        to[i / 8] = (uint8_t)(to[i / 8] | (from[at / 8] >> at % 8 & 1) << i % 8);
}

static void put_cut_scales(const struct codec_inst *c, const struct parsed *p,
                           const struct block *b, const struct group *g, uint8_t *out)
{
    const bool tensors = options(c)->group == GROUP_TENSOR;
    if (kind_of(c)->send == SEND_VALUES) {
        memcpy(out, p->scales, scales_bytes(c, g));
        return;
    }
    for (uint32_t i = 0; i < group_count(&b->part); i++) {
        if (g[i].n == 0)
            continue;
        float mean = p->g[tensors ? b->tensor[i] : i].mean;
        if (scale_size(c) == 4)
            put_f32(out, mean);
        else
            put_u16(out, bf16_from_f32(mean));
        out += scale_size(c);
    }
}

static int sparse_put_block(const struct codec_inst *c, const void *open, const struct block *b,
                            struct msg_out *o, void *scratch)
{
    const struct parsed *p = open;
    const size_t n = b->shape.n_values;
    const size_t first = coords_below(p->k.at, p->k.count, b->range.from);
    const size_t count = coords_below(p->k.at, p->k.count, b->range.to) - first;
    struct group *g = scratch;
    begin_groups(&b->part, (struct shape_range){0, n}, (struct when){0}, 1, g);
    if (count > most_kept(&b->part) || msg_put_header(o, 0) ||
        msg_put_varint(o, PART_DIRECTORY, count))
        return -1;
    uint8_t *scales = msg_take(o, PART_SCALES, scales_bytes(&b->part, g));
    if (!scales || positions_put(o, p->k.at + first, count, b->range.from, n, index_code(c)))
        return -1;
    uint8_t *values = msg_take(o, PART_VALUES, value_bytes(c, count));
    if (!values)
        return -1;
    put_cut_scales(c, p, b, g, scales);
    if (kind_of(c)->send == SEND_VALUES)
        memcpy(values, p->values + value_bytes(c, first), value_bytes(c, count));
    else if (kind_of(c)->send == SEND_SIGNS)
        copy_bits(p->values, first, count, values);
    return 0;
}

static size_t sparse_open_bytes(const struct codec_inst *c)
{
    return SCRATCH_ROUND(sizeof(struct parsed)) + sparse_scratch(c);
}

static size_t sparse_put_bytes(const struct codec_inst *c)
{
    return SCRATCH_ROUND(group_count(c) * sizeof(struct group));
}

const struct codec_blocks blocks_sparse = {
    .can = can_cut,
    .open = sparse_open,
    .put = sparse_put_block,
    .open_bytes = sparse_open_bytes,
    .put_bytes = sparse_put_bytes,
};

#define SPARSE_ROW(kind)                                                                           \
    .stages = CODEC_ON_SELECT | CODEC_ON_QUANT, .check = sparse_check,                             \
    .scratch_bytes = sparse_scratch, .stage_bytes = sparse_stage, .bound = sparse_bound,           \
    .decode = sparse_decode, .family = &(kind)

// Rows.

static const struct opt topk_options[] = {
    S_OPT_RATIO("0.01"),
    S_OPT_GROUP("all"),
    S_OPT_VALUE,
    S_OPT_INDEX,
};

static const struct sparse_kind topk_kind = {PICK_LARGEST, SEND_VALUES};

const struct codec codec_topk = {
    .name = "topk",
    .help = "the largest magnitudes of the update, of each class or of each tensor",
    .source = "Stich et al. 2018",
    .options = topk_options,
    .n_options = ARRAY_LEN(topk_options),
    .option_bytes = sizeof(struct sparse_opt),
    .flags = CODEC_SELF_CHECK | CODEC_BUDGET,
    .encode = sparse_encode,
    .blocks = &blocks_sparse,
    SPARSE_ROW(topk_kind),
};

static const struct opt randk_options[] = {
    S_OPT_RATIO("0.01"),
    OPT(struct sparse_opt, unbiased, "unbiased", "on", 0, 1, "", "values scaled by n / k"),
    OPT(struct sparse_opt, shared, "shared", "off", 0, 1, "",
        "the same positions for every client of a round"),
    OPT_ENUM(struct sparse_opt, index, "index", "seed", randk_indices,
             "seed: the receiver draws the positions itself; else they are sent"),
    S_OPT_VALUE,
};

static const struct sparse_kind randk_kind = {PICK_RANDOM, SEND_VALUES};

static unsigned randk_flags(const struct codec_inst *c)
{
    const struct sparse_opt *o = options(c);
    unsigned random = CODEC_UNBIASED | (o->ratio <= 0.5 ? CODEC_NO_EF : 0u);
    bool adds_up = o->shared && o->value == VALUE_FP32; // halves have exponents of their own
    return c->row->flags | (o->unbiased ? random : 0u) | (adds_up ? CODEC_MASKABLE : 0u);
}

const struct codec codec_randk = {
    .name = "randk",
    .help = "random coordinates of each tensor; the receiver draws the positions itself",
    .adds_up = "shared=on,value=fp32",
    .source = "Stich et al. 2018",
    .options = randk_options,
    .n_options = ARRAY_LEN(randk_options),
    .option_bytes = sizeof(struct sparse_opt),
    .flags = CODEC_RANDOM,
    .flags_of = randk_flags,
    .encode = sparse_encode,
    SPARSE_ROW(randk_kind),
};

static const struct opt stc_options[] = {
    S_OPT_RATIO("0.01"),
    S_OPT_GROUP("tensor"),
    S_OPT_SCALE("fp32"),
    S_OPT_INDEX,
};

static const struct sparse_kind stc_kind = {PICK_LARGEST, SEND_SIGNS};

const struct codec codec_stc = {
    .name = "stc",
    .help = "ternary: signs of the largest magnitudes times their mean; group=class has one for A, "
            "one for B",
    .source = "Sattler et al. 2019 (STC)",
    .options = stc_options,
    .n_options = ARRAY_LEN(stc_options),
    .option_bytes = sizeof(struct sparse_opt),
    .flags = CODEC_SELF_CHECK | CODEC_BUDGET,
    .encode = sparse_encode,
    .blocks = &blocks_sparse,
    SPARSE_ROW(stc_kind),
};

static const struct sparse_kind sbc_kind = {PICK_SIDE, SEND_NOTHING};

const struct codec codec_sbc = {
    .name = "sbc",
    .help = "the mean of the k largest or of the k smallest, whichever is larger; positions only",
    .source = "Sattler et al. 2018 (SBC)",
    .options = stc_options,
    .n_options = ARRAY_LEN(stc_options),
    .option_bytes = sizeof(struct sparse_opt),
    .flags = CODEC_SELF_CHECK | CODEC_BUDGET,
    .encode = sparse_encode,
    .blocks = &blocks_sparse,
    SPARSE_ROW(sbc_kind),
};

// Deep gradient compression on the update of a round: u = mu u + x, v = v + u, the largest of v are
// sent and cleared in both. State: u, then v.
static const struct opt dgc_options[] = {
    S_OPT_RATIO("0.01"),
    OPT(struct sparse_opt, momentum, "momentum", "0.9", 0, 0.999, "", "mu, per round"),
    OPT(struct sparse_opt, nesterov, "nesterov", "off", 0, 1, "", "u = mu (u + x), v = v + u + x"),
    OPT(struct sparse_opt, clip, "clip", "0", 0, 1e9, "", "largest norm of the update; 0 = none"),
    OPT(struct sparse_opt, warmup, "warmup", "0", 0, 1000, "rounds",
        "share ratio^((round + 1) / (warmup + 1)) until then"),
    S_OPT_GROUP("tensor"),
    S_OPT_VALUE,
    S_OPT_INDEX,
};

static const struct sparse_kind dgc_kind = {PICK_LARGEST, SEND_VALUES};

static size_t dgc_state(const struct codec_inst *c)
{
    return 2 * c->shape->n_values;
}

struct momentum_job {
    const struct select_stages *on;
    const struct kernel_ctx *cx;
    struct mix_momentum m;
    const float *x, *u0, *v0;
    float *u, *v;
};

static void momentum_span(void *arg, size_t from, size_t to)
{
    const struct momentum_job *j = arg;
    j->on->momentum(j->cx, &j->m, j->x + from, j->u0 + from, j->v0 + from, to - from, j->u + from,
                    j->v + from);
}

// By how much x is scaled down.
static float clip_scale(const struct codec_inst *c, const struct codec_input *in)
{
    const double clip = options(c)->clip;
    const struct quant_run all = {.n = c->shape->n_values, .group = c->shape->n_values};
    struct quant_stats stats = {0};
    if (clip <= 0)
        return 1;
    codec_column(in->on)->quant->fit(codec_context(in->on), in->x, &all, 1, QUANT_SQ, &stats, NULL);
    double norm = sqrt(stats.sq);
    return norm > clip ? (float)(clip / norm) : 1;
}

static int64_t dgc_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                          size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    const struct sparse_opt *o = options(c);
    const struct select_stages *on = codec_column(in->on)->select;
    const struct kernel_ctx *cx = codec_context(in->on);
    size_t n = c->shape->n_values;
    float *u = in->state_next, *v = in->state_next + n;
    const struct mix_momentum m = {(float)o->momentum, clip_scale(c, in), o->nesterov};
    struct momentum_job j = {on, cx, m, in->x, in->state, in->state + n, u, v};
    if (codec_column(in->on)->whole)
        momentum_span(&j, 0, n);
    else
        pool_spans(n, 1 << 14, momentum_span, &j);
    lap(in->laps, STAGE_FEEDBACK);
    struct picked p;
    int64_t len = encode_of(c, in, v, out, cap, scratch, &p, report, err);
    if (len >= 0) {
        on->clear(cx, p.at, p.count, u);
        on->clear(cx, p.at, p.count, v);
    }
    lap(in->laps, STAGE_FEEDBACK);
    return len;
}

const struct codec codec_dgc = {
    .name = "dgc",
    .help = "top-k with momentum correction and momentum masking; keeps what it did not send",
    .source = "Lin et al. 2018",
    .options = dgc_options,
    .n_options = ARRAY_LEN(dgc_options),
    .option_bytes = sizeof(struct sparse_opt),
    .needs = CODEC_STATE,
    .flags = CODEC_NO_EF,
    .state_floats = dgc_state,
    .encode = dgc_encode,
    .blocks = &blocks_sparse,
    SPARSE_ROW(dgc_kind),
};

// In the paper the mean of a segment is over who sent it: method ecolora has view seg do so.
// Segments cut here are part of the code: what a client leaves out counts as zero.
//
// The share of A, and so of B: min + (ratio - min) exp(-gamma (L_0 - L)), L_0 being the mean
// training loss of the first round and L that of the last one. Decoders need not know it.
static const struct opt ecolora_options[] = {
    OPT(struct sparse_opt, segments, "segments", "1", 1, 1024, "",
        "client k sends (k + round) mod this; the rest counts as zero"),
    OPT(struct sparse_opt, ratio, "ratio", "0.5", 1e-6, 1, "",
        "share of coordinates that is kept at first"),
    OPT(struct sparse_opt, min_a, "min_a", "0.1", 1e-6, 1, "", "least share of A"),
    OPT(struct sparse_opt, min_b, "min_b", "0.1", 1e-6, 1, "", "least share of B"),
    OPT(struct sparse_opt, gamma_a, "gamma_a", "1", 0, 1000, "1/nat",
        "how fast the share of A goes down with the training loss, 0 = not at all"),
    OPT(struct sparse_opt, gamma_b, "gamma_b", "0.5", 0, 1000, "1/nat", "the same for B"),
    S_OPT_GROUP("class"),
    S_OPT_VALUE,
    S_OPT_INDEX,
};

static const struct sparse_kind ecolora_kind = {PICK_LARGEST, SEND_VALUES};

const struct codec codec_ecolora = {
    .name = "ecolora",
    .help = "top-k by shares of A and of B that go down with the loss, Golomb-coded positions",
    .source = "EcoLoRA, EMNLP 2025; constants are ours",
    .options = ecolora_options,
    .n_options = ARRAY_LEN(ecolora_options),
    .option_bytes = sizeof(struct sparse_opt),
    .encode = sparse_encode,
    .blocks = &blocks_sparse,
    SPARSE_ROW(ecolora_kind),
};
