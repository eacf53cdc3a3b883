// Sparsifiers: some coordinates, the rest zero. Top-k, random-k, DGC, STC, SBC and EcoLoRA differ
// in how they pick and in what they send for each.
//
// Message: header, count, scales (a mean a group, or an exponent a class), positions, values. Where
// both sides draw the positions there is no count, but the part of the share that a budget left
// (flag PART).
#include "base/fmath.h"
#include "base/half.h"
#include "base/rng.h"
#include "codec/message.h"
#include "codec/positions.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

#include <math.h>

enum { GROUP_TENSOR, GROUP_CLASS, GROUP_ALL };
static const char *const group_choices[] = {"tensor", "class", "all", NULL};
enum { VALUE_FP16, VALUE_FP32 };
static const char *const value_choices[] = {"fp16", "fp32", NULL};
enum { SCALE_FP32, SCALE_BF16 };
static const char *const scale_choices[] = {"fp32", "bf16", NULL};
#define CLASSES 3
enum { FLAG_PART = 1 };
#define PART_MIN 0x1p-30 // one coordinate a group

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
    enum select_side side;
    struct select_cut cut;
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

// What the share of a message hangs on beside the options.
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

// Picking.

// Counts one level of tensors [t, end) into the bins of their groups, count[0] being group's.
static void count_level(const struct codec_inst *c, struct shape_range r, const float *x,
                        const struct group *g, uint32_t t, uint32_t end, uint32_t first, int level,
                        const uint32_t *floor_bin, uint32_t count[][SELECT_BINS])
{
    for (; t < end; t++) {
        uint32_t k = group_of(c, t);
        size_t at, n;
        if (part_of(c, r, t, &at, &n))
            select_count(x + at, n, g[k].side, level,
                         level ? g[k].cut.prefix : floor_bin[k - first], count[k - first]);
    }
}

#define SAMPLE_FROM 65536 // values of a group from which on a sample pays

// Level 0: from where a sample says that it matters, and again from 0 where the sample was wrong.
static void count_first(const struct codec_inst *c, struct shape_range r, const float *x,
                        const struct group *g, uint32_t t, uint32_t end, uint32_t first,
                        uint32_t groups, uint32_t count[][SELECT_BINS])
{
    uint32_t floor_bin[CLASSES] = {0};
    size_t seen[CLASSES] = {0}, at, n;
    memset(count, 0, groups * sizeof *count);
    for (uint32_t i = t; i < end; i++) {
        uint32_t k = group_of(c, i);
        if (g[k].n >= SAMPLE_FROM && part_of(c, r, i, &at, &n))
            seen[k - first] += select_sample(x + at, n, g[k].side, count[k - first]);
    }
    for (uint32_t k = 0; k < groups; k++)
        floor_bin[k] = select_floor(count[k], seen[k], g[first + k].n, g[first + k].k);
    for (int again = 0; again < 2; again++) {
        bool enough = true;
        memset(count, 0, groups * sizeof *count);
        count_level(c, r, x, g, t, end, first, 0, floor_bin, count);
        for (uint32_t k = 0; k < groups; k++) {
            size_t sum = 0;
            for (int b = 0; b < SELECT_BINS; b++)
                sum += count[k][b];
            enough &= sum >= g[first + k].k;
        }
        if (enough)
            return;
        memset(floor_bin, 0, sizeof floor_bin);
    }
}

// The cuts of the groups from first on, which hold tensors [t, end).
static void cut_groups(const struct codec_inst *c, struct shape_range r, const float *x,
                       struct group *g, uint32_t t, uint32_t end, uint32_t first, uint32_t groups)
{
    uint32_t count[CLASSES][SELECT_BINS];
    for (int level = 0; level < SELECT_LEVELS; level++) {
        if (level == 0) {
            count_first(c, r, x, g, t, end, first, groups, count);
        } else {
            memset(count, 0, groups * sizeof *count);
            count_level(c, r, x, g, t, end, first, level, NULL, count);
        }
        for (uint32_t k = 0; k < groups; k++)
            select_cut_next(&g[first + k].cut, count[k]);
    }
}

static void find_cuts(const struct codec_inst *c, struct shape_range r, const float *x,
                      struct group *g)
{
    uint32_t n_groups = group_count(c), tensors = c->shape->n_tensors;
    for (uint32_t i = 0; i < n_groups; i++)
        select_cut_begin(&g[i].cut, g[i].k);
    if (options(c)->group != GROUP_TENSOR)
        cut_groups(c, r, x, g, 0, tensors, 0, n_groups);
    else
#pragma omp parallel for schedule(dynamic)
        for (uint32_t t = 0; t < tensors; t++)
            cut_groups(c, r, x, g, t, t + 1, t, 1);
    for (uint32_t i = 0; i < n_groups; i++)
        if (g[i].cut.prefix == 0) // zeros are never sent
            g[i].cut.left = 0;
}

// Positions in ascending order; fills each group's sum and number taken.
static size_t take(const struct codec_inst *c, struct shape_range r, const float *x,
                   struct group *g, uint32_t *at)
{
    size_t total = 0, from, n;
    for (uint32_t i = 0; i < group_count(c); i++) {
        g[i].sum = 0;
        g[i].taken = 0;
    }
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        struct group *of = &g[group_of(c, t)];
        if (!part_of(c, r, t, &from, &n) || of->k == 0)
            continue;
        size_t found = select_take(x + from, n, of->side, of->cut.prefix, &of->cut.left,
                                   (uint32_t)from, at + total);
        for (size_t i = total; i < total + found; i++)
            of->sum += fabs((double)x[at[i]]);
        of->taken += found;
        total += found;
    }
    return total;
}

static uint32_t tensor_at(const struct codec_inst *c, size_t pos, uint32_t t)
{
    while (pos >= c->shape->tensors[t].offset + tensor_values(&c->shape->tensors[t]))
        t++;
    return t;
}

static size_t most_kept(const struct codec_inst *c)
{
    double most = options(c)->warmup > 0 ? 1 : options(c)->ratio;
    double k = most * (double)c->shape->n_values + group_count(c) + 1;
    return k < (double)c->shape->n_values ? (size_t)k : c->shape->n_values;
}

// Candidates beyond what is kept: as many again, more for small updates.
#define COLLECT_ROOM(kept) ((kept) + 65536)

// The same for the largest on either side, in one pass over the update: what a sample says can be
// among them is collected, and the cuts are found in that. SIZE_MAX where there are too many for
// the room.
static size_t collect(const struct codec_inst *c, struct shape_range r, const float *x,
                      struct group *g, uint32_t *at)
{
    uint32_t n_groups = group_count(c), tensors = c->shape->n_tensors;
    size_t room = most_kept(c) + COLLECT_ROOM(most_kept(c)), total = 0, from, n;
    for (uint32_t first = 0; first < n_groups; first++) {
        uint32_t bins[SELECT_BINS] = {0}, own = options(c)->group == GROUP_TENSOR;
        size_t seen = 0;
        for (uint32_t t = own ? first : 0; t < (own ? first + 1 : tensors); t++)
            if (group_of(c, t) == first && g[first].n >= SAMPLE_FROM && part_of(c, r, t, &from, &n))
                seen += select_sample(x + from, n, SELECT_ABS, bins);
        g[first].least = select_least(bins, seen, g[first].n, g[first].k);
        g[first].least += g[first].least == 0; // zeros are never sent
    }
    for (uint32_t t = 0; t < tensors; t++) {
        struct group *of = &g[group_of(c, t)];
        if (!part_of(c, r, t, &from, &n))
            continue;
        size_t found = select_collect(x + from, n, SELECT_ABS, of->least, (uint32_t)from,
                                      at + total, room - total);
        total += found;
        of->taken += found;
        if (total > room)
            return SIZE_MAX;
    }
    for (uint32_t i = 0; i < n_groups; i++)
        if (g[i].taken < g[i].k && g[i].least > 1)
            return SIZE_MAX; // the sample was wrong
    return total;
}

#define AHEAD 48 // candidates are far apart in memory

static uint32_t bits_at(const float *x, size_t i)
{
    return f32_bits(x[i]) & 0x7fffffffu;
}

// Cuts among what has been collected, and what they leave of it.
static size_t cut_collected(const struct codec_inst *c, const float *x, struct group *g,
                            uint32_t *at, size_t total)
{
    size_t kept = 0, i = 0;
    for (uint32_t k = 0; k < group_count(c); k++)
        select_cut_begin(&g[k].cut, g[k].k < g[k].taken ? g[k].k : g[k].taken);
    for (int level = 0; level < SELECT_LEVELS; level++) {
        uint32_t bins[CLASSES][SELECT_BINS] = {{0}}, t = 0;
        bool own = options(c)->group == GROUP_TENSOR;
        for (i = 0; i < total;) {
            t = tensor_at(c, at[i], t);
            size_t end = c->shape->tensors[t].offset + tensor_values(&c->shape->tensors[t]);
            uint32_t k = group_of(c, t), *bin = bins[own ? 0 : k];
            for (; i < total && at[i] < end; i++) {
                uint32_t a = bits_at(x, at[i]);
                __builtin_prefetch(x + at[i + AHEAD < total ? i + AHEAD : i]);
                if (level == 0)
                    bin[a >> 20]++;
                else if (a >> (level == 1 ? 20 : 10) == g[k].cut.prefix)
                    bin[a >> (level == 1 ? 10 : 0) & 1023]++;
            }
            if (own) {
                select_cut_next(&g[k].cut, bin);
                memset(bin, 0, sizeof bins[0]);
            }
        }
        for (uint32_t k = 0; k < group_count(c) && !own; k++)
            select_cut_next(&g[k].cut, bins[k]);
    }
    for (uint32_t k = 0; k < group_count(c); k++) {
        g[k].sum = 0;
        g[k].taken = 0;
    }
    uint32_t t = 0;
    for (i = 0; i < total; i++) {
        t = tensor_at(c, at[i], t);
        struct group *of = &g[group_of(c, t)];
        uint32_t a = bits_at(x, at[i]);
        bool tie = a == of->cut.prefix && of->cut.left > 0;
        if (of->k == 0 || !(a > of->cut.prefix || tie))
            continue;
        of->cut.left -= tie;
        of->sum += fabs((double)x[at[i]]);
        of->taken++;
        at[kept++] = at[i];
    }
    return kept;
}

// SBC: the side, positive or negative, whose k largest have the larger mean.
static void choose_sides(const struct codec_inst *c, struct shape_range r, const float *x,
                         struct group *g, struct group *other, uint32_t *at)
{
    for (uint32_t i = 0; i < group_count(c); i++) {
        other[i] = g[i];
        g[i].side = SELECT_POSITIVE;
        other[i].side = SELECT_NEGATIVE;
    }
    find_cuts(c, r, x, g);
    find_cuts(c, r, x, other);
    struct group *const both[2] = {g, other};
    for (int k = 0; k < 2; k++) {
        take(c, r, x, both[k], at);
        for (uint32_t i = 0; i < group_count(c); i++)
            both[k][i].mean =
                both[k][i].taken ? (float)(both[k][i].sum / (double)both[k][i].taken) : 0;
    }
    for (uint32_t i = 0; i < group_count(c); i++)
        if (other[i].mean > g[i].mean)
            g[i].side = SELECT_NEGATIVE;
    find_cuts(c, r, x, g); // again, for take() has used up the ties
}

// k of n in ascending order (Knuth's algorithm S), from the key alone: both sides draw them.
static size_t draw_positions(const struct codec_inst *c, const struct codec_key *key,
                             const struct group *g, uint32_t *at)
{
    size_t total = 0;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        const struct shape_tensor *row = &c->shape->tensors[t];
        uint32_t client = options(c)->shared ? UINT32_MAX : key->client;
        struct rng r = rng_stream(key->seed, RNG_CODEC, client, key->version, t);
        size_t n = tensor_values(row), left = g[t].k;
        uint32_t word[256];
        for (size_t i = 0; i < n && left; i++) {
            if (i % 256 == 0)
                philox_words(r.key, r.ctr, i, 256, word);
            if (((uint64_t)word[i % 256] * (n - i)) >> 32 < left) {
                at[total++] = (uint32_t)(row->offset + i);
                left--;
            }
        }
    }
    return total;
}

// Values.

static float exp2_of(int e)
{
    return f32_from_bits((uint32_t)(e + 127) << 23);
}

enum { FP16_EXP_MIN = -85, FP16_EXP_MAX = 126 };

// fp16 scaled by a power of two per class, so that small updates keep their bits.
static void class_exponents(const struct codec_inst *c, const float *x, const uint32_t *at,
                            size_t count, int e[CLASSES])
{
    uint32_t max[CLASSES] = {0};
    for (size_t i = 0, t = 0; i < count; i++) {
        t = tensor_at(c, at[i], (uint32_t)t);
        __builtin_prefetch(x + at[i + AHEAD < count ? i + AHEAD : i]);
        uint32_t a = f32_bits(x[at[i]]) & 0x7fffffffu, k = c->shape->tensors[t].kind;
        max[k] = a > max[k] ? a : max[k];
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
        float mean = g[i].taken ? (float)(g[i].sum / (double)g[i].taken) : 0;
        if (kind_of(c)->send == SEND_NOTHING && g[i].side == SELECT_NEGATIVE)
            mean = -mean;
        if (scale_size(c) == 4)
            put_f32(p, mean);
        else
            put_u16(p, bf16_from_f32(mean));
        p += scale_size(c);
    }
}

static void put_values(const struct codec_inst *c, const float *x, const uint32_t *at, size_t count,
                       const int e[CLASSES], uint8_t *p)
{
    uint32_t t = 0;
    for (size_t i = 0; i < count; i++) {
        t = tensor_at(c, at[i], t);
        if (options(c)->value == VALUE_FP32)
            put_f32(p + 4 * i, x[at[i]]);
        else
            put_u16(p + 2 * i, f16_from_f32(x[at[i]] * exp2_of(e[c->shape->tensors[t].kind])));
    }
}

static void put_signs(const float *x, const uint32_t *at, size_t count, uint8_t *p)
{
    for (size_t i = 0; i < count; i += 8) {
        unsigned byte = 0;
        for (size_t k = i; k < count && k < i + 8; k++)
            byte |= (unsigned)(x[at[k]] >= 0) << (k - i);
        p[i / 8] = (uint8_t)byte;
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

static size_t sparse_scratch(const struct codec_inst *c)
{
    return 2 * SCRATCH_ROUND(group_count(c) * sizeof(struct group)) +
           SCRATCH_ROUND((most_kept(c) + COLLECT_ROOM(most_kept(c)) + 16) * sizeof(uint32_t));
}

static size_t sparse_bound(const struct codec_inst *c)
{
    size_t k = most_kept(c), scales = 4 * (size_t)group_count(c) + CLASSES;
    size_t index = is_drawn(c) ? 0 : positions_bound(k, c->shape->n_values, index_code(c));
    return 1 + 5 + scales + index + value_bytes(c, k);
}

static struct group *lay_groups(const struct codec_inst *c, void **scratch, struct group **other,
                                uint32_t **at)
{
    size_t size = group_count(c) * sizeof(struct group);
    struct group *g = scratch_take(scratch, size);
    *other = scratch_take(scratch, size);
    size_t room = most_kept(c) + COLLECT_ROOM(most_kept(c)) + 16;
    *at = scratch_take(scratch, room * sizeof(uint32_t));
    return g;
}

static size_t pick_all(const struct codec_inst *c, struct shape_range r,
                       const struct codec_key *key, const float *x, struct group *g,
                       struct group *other, uint32_t *at)
{
    if (kind_of(c)->pick == PICK_RANDOM)
        return draw_positions(c, key, g, at);
    if (kind_of(c)->pick == PICK_SIDE) {
        choose_sides(c, r, x, g, other, at);
        return take(c, r, x, g, at);
    }
    size_t total = collect(c, r, x, g, at);
    if (total != SIZE_MAX)
        return cut_collected(c, x, g, at, total);
    find_cuts(c, r, x, g);
    return take(c, r, x, g, at);
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

// x is what is coded: the update, or DGC's accumulator.
static int64_t put_message(const struct codec_inst *c, const float *x, struct shape_range r,
                           struct group *g, double part, const uint32_t *at, size_t count,
                           struct msg_out *m, struct err *err)
{
    const struct sparse_opt *o = options(c);
    bool random = kind_of(c)->pick == PICK_RANDOM;
    bool says_part = random && part < 1;
    if (msg_put_header(m, says_part ? FLAG_PART : 0) ||
        (!random && msg_put_varint(m, PART_DIRECTORY, count)))
        return msg_full(m, err);
    if (says_part) {
        uint8_t *p = msg_take(m, PART_DIRECTORY, 4);
        if (!p)
            return msg_full(m, err);
        put_f32(p, (float)part);
    }
    uint8_t *scales = msg_take(m, PART_SCALES, scales_bytes(c, g));
    if (!scales ||
        (!is_drawn(c) && positions_put(m, at, count, r.from, r.to - r.from, index_code(c))))
        return msg_full(m, err);
    uint8_t *values = msg_take(m, PART_VALUES, value_bytes(c, count));
    if (!values)
        return msg_full(m, err);
    if (kind_of(c)->send == SEND_VALUES) {
        int e[CLASSES];
        class_exponents(c, x, at, count, e);
        for (int k = 0; k < CLASSES && o->value == VALUE_FP16; k++)
            scales[k] = (uint8_t)(int8_t)e[k];
        put_values(c, x, at, count, e, values);
    } else {
        put_means(c, g, scales);
    }
    if (kind_of(c)->send == SEND_SIGNS)
        put_signs(x, at, count, values);
    int width = kind_of(c)->send != SEND_VALUES ? 1 : o->value == VALUE_FP16 ? 7 : 8;
    m->report->kept[width] = (int64_t)count;
    m->report->kept[0] = (int64_t)(c->shape->n_values - count);
    return msg_len(m);
}

static int64_t encode_of(const struct codec_inst *c, const struct codec_input *in, const float *x,
                         uint8_t *out, size_t cap, void *scratch, uint32_t **kept, size_t *count,
                         struct codec_report *report, struct err *err)
{
    struct group *other, *g = lay_groups(c, &scratch, &other, kept);
    struct shape_range r = range_of(c, &in->key);
    struct when when = {in->key.version, in->loss_fall};
    double part = 1;
    if (in->budget_bytes >= 0)
        part = fit_budget(c, r, when, in->budget_bytes, g);
    for (;;) {
        struct msg_out m;
        msg_init(&m, out, cap, report);
        memset(&report->parts, 0, sizeof report->parts);
        part = part < PART_MIN ? PART_MIN : (double)(float)part; // as it is sent
        begin_groups(c, r, when, part, g);
        *count = pick_all(c, r, &in->key, x, g, other, *kept);
        int64_t len = put_message(c, x, r, g, part, *kept, *count, &m, err);
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
    uint32_t *kept;
    size_t count;
    return encode_of(c, in, in->x, out, cap, scratch, &kept, &count, report, err);
}

// Decoding.

// What decoding needs once the message has been found good.
struct parsed {
    const uint8_t *scales, *values;
    const struct group *g;
    int e[CLASSES];
    size_t count;
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
        if (quant_absmax_bits_f16(p->values, p->count) >= 0x7c00u)
            return msg_bad("values", "one is not finite", err);
        return 0;
    }
    for (size_t i = 0; i < p->count; i++)
        if (!msg_scale_ok(get_f32(p->values + 4 * i)))
            return msg_bad("values", "one is not finite, or too large", err);
    return 0;
}

static float value_of(const struct codec_inst *c, const struct parsed *p, uint32_t t, size_t i)
{
    const struct group *g = &p->g[group_of(c, t)];
    float v;
    switch (kind_of(c)->send) {
    case SEND_SIGNS:
        return p->values[i / 8] >> (i % 8) & 1 ? g->mean : -g->mean;
    case SEND_NOTHING:
        return g->mean;
    case SEND_VALUES:
        break;
    }
    if (options(c)->value == VALUE_FP32)
        v = get_f32(p->values + 4 * i);
    else
        v = f16_to_f32(get_u16(p->values + 2 * i)) * exp2_of(-p->e[c->shape->tensors[t].kind]);
    return options(c)->unbiased ? v * (float)((double)g->n / (double)g->k) : v;
}

#define STREAM ((size_t)4 << 20) // updates so large are decoded past the caches
#define TILE   4096

// Positions ascend: a tile of zeros takes its values, is copied out, and is zero again.
static void stream_values(const struct codec_inst *c, const struct parsed *p, const uint32_t *at,
                          float *to)
{
    float tile[TILE] = {0};
    uint32_t t = 0;
    for (size_t begin = 0, i = 0; begin < c->shape->n_values; begin += TILE) {
        size_t n = c->shape->n_values - begin, first = i;
        n = n < TILE ? n : TILE;
        for (; i < p->count && at[i] < begin + n; i++) {
            t = tensor_at(c, at[i], t);
            tile[at[i] - begin] = value_of(c, p, t, i);
        }
        quant_stream(tile, n, to + begin);
        for (size_t k = first; k < i; k++)
            tile[at[k] - begin] = 0;
    }
}

static int sparse_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                         size_t len, struct quant_sink to, void *scratch, struct err *err)
{
    uint32_t *at;
    struct group *other, *g = lay_groups(c, &scratch, &other, &at);
    struct shape_range r = range_of(c, key);
    struct parsed p = {.g = g};
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
        count = is_drawn(c) ? draw_positions(c, key, g, at) : groups_total(c, g);
    else if (msg_get_varint(&m, &count))
        return msg_short("directory", err);
    if (count > most_kept(c) || count > r.to - r.from)
        return msg_bad("directory", "more values than the options allow", err);
    p.count = (size_t)count;
    if (get_scales(c, &m, g, &p, err))
        return -1;
    if (!is_drawn(c) && positions_get(&m, at, p.count, r.from, r.to - r.from, err))
        return -1;
    p.values = msg_need(&m, value_bytes(c, p.count));
    if (!p.values)
        return msg_short("values", err);
    if (msg_end(&m, err) || check_values(c, &p, err))
        return -1;
    if (!to.add && c->shape->n_values >= STREAM) {
        stream_values(c, &p, at, to.to);
        return 0;
    }
    if (!to.add)
        memset(to.to, 0, c->shape->n_values * sizeof *to.to);
    uint32_t t = 0;
    for (size_t i = 0; i < p.count; i++) {
        t = tensor_at(c, at[i], t);
        float v = value_of(c, &p, t, i);
        to.to[at[i]] = to.add ? to.to[at[i]] + to.weight * v : v;
    }
    return 0;
}

#define SPARSE_ROW(kind)                                                                           \
    .check = sparse_check, .scratch_bytes = sparse_scratch, .bound = sparse_bound,                 \
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
    .encode = sparse_encode,
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
    .encode = sparse_encode,
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
    .encode = sparse_encode,
    SPARSE_ROW(sbc_kind),
};

// Deep gradient compression on the update of a round: u = mu u + x, v = v + u, the largest of v are
// sent and cleared in both. State: u, then v.
static const struct opt dgc_options[] = {
    S_OPT_RATIO("0.01"),
    OPT(struct sparse_opt, momentum, "momentum", "0.9", 0, 0.999, "", "mu, a round"),
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

static int64_t dgc_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                          size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    const struct sparse_opt *o = options(c);
    size_t n = c->shape->n_values;
    const float *u0 = in->state, *v0 = in->state + n;
    float *u = in->state_next, *v = in->state_next + n, mu = (float)o->momentum, scale = 1;
    double norm = sqrt(quant_sum_sq(in->x, n));
    if (o->clip > 0 && norm > o->clip)
        scale = (float)(o->clip / norm);
    for (size_t i = 0; i < n; i++) {
        float x = in->x[i] * scale;
        u[i] = o->nesterov ? mu * (u0[i] + x) : mu * u0[i] + x;
        v[i] = v0[i] + (o->nesterov ? u[i] + x : u[i]);
    }
    int bad = codec_check_limit(c, v, err);
    if (bad)
        return bad;
    uint32_t *kept;
    size_t count;
    int64_t len = encode_of(c, in, v, out, cap, scratch, &kept, &count, report, err);
    for (size_t i = 0; len >= 0 && i < count; i++) {
        u[kept[i]] = 0;
        v[kept[i]] = 0;
    }
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
    SPARSE_ROW(ecolora_kind),
};
