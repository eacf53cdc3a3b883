// The bytes of Fed-FSTQ's message.
#include "base/fmath.h"
#include "base/half.h"
#include "codec/bits.h"
#include "codec/entropy.h"
#include "codec/fstq.h"
#include "codec/positions.h"
#include "dev/dev.h"
#include "kernels/stages.h"

#include <math.h>

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static unsigned dense_bits(const struct fstq_work *w)
{
    return bits_log2((uint64_t)w->a.count - 1) + 1;
}

// Lengths, as far as they follow from counts.

static double entropy_bits(const double *count, int kinds, double n)
{
    double nats = 0;
    for (int k = 0; k < kinds; k++)
        if (count[k] > 0 && count[k] < n)
            nats -= count[k] * fmath_log(count[k] / n);
    return nats / FSTQ_LOG_2;
}

// Tag bytes of a coding that does not look at classes.
static double plain_tags(const struct fstq_work *w, enum fstq_tags tags, double kept)
{
    double n = (double)w->c->shape->n_values, kept_tags = ceil(kept * fstq_tag_bits(&w->a) / 8);
    if (tags == TAGS_DENSE)
        return ceil(n * dense_bits(w) / 8);
    if (tags == TAGS_BITMAP)
        return ceil(n / 8) + kept_tags;
    return (double)positions_estimate((size_t)kept, (size_t)n, POSITIONS_RICE) + kept_tags + 6;
}

static double rans_tags(const struct fstq_work *w, const struct fstq_counts *count)
{
    double bytes = 0;
    for (uint32_t k = 0; k < w->classes; k++) {
        size_t n = w->class_at[k + 1] - w->class_at[k];
        if (n > 0)
            bytes +=
                entropy_bits(count->of[k], w->a.count, (double)n) / 8 + 12 + 4.0 * rans_lanes(n);
    }
    return bytes;
}

// The coding of tags that will be taken, and its bytes.
static enum fstq_tags cheapest_tags(const struct fstq_work *w, const struct fstq_counts *count,
                                    double *bytes)
{
    enum fstq_tags best = (enum fstq_tags)w->opt->tags;
    double kept = (double)w->c->shape->n_values;
    for (uint32_t k = 0; k < w->classes; k++)
        kept -= count->of[k][0];
    *bytes = INFINITY;
    for (int t = TAGS_BITMAP; t <= TAGS_RANS; t++) {
        if (w->opt->tags != TAGS_AUTO && t != w->opt->tags)
            continue;
        double cost = t == TAGS_RANS ? rans_tags(w, count) : plain_tags(w, (enum fstq_tags)t, kept);
        if (cost < *bytes) {
            best = (enum fstq_tags)t;
            *bytes = cost;
        }
    }
    return best;
}

// Values of width k; what their code takes beside them.
static double values_bytes(const struct fstq_work *w, int k, double count, double bits)
{
    if (fstq_entropy_coded(w->opt, w->a.bits[k]))
        return count * bits / 8 + 1;
    return ceil(count * w->a.bits[k] / 8);
}

static double scales_bytes(const struct fstq_work *w, int k, double count)
{
    double groups = count < w->groups ? count : w->groups;
    return fstq_has_scale(w->opt, w->a.bits[k]) ? groups * (double)fstq_scale_bytes(w->opt) : 0;
}

double fstq_cost(const struct fstq_encoder *e, const struct fstq_counts *count)
{
    double bytes;
    cheapest_tags(&e->w, count, &bytes);
    for (int k = 1; k < e->w.a.count; k++) {
        double n = 0;
        for (uint32_t class = 0; class < e->w.classes; class ++)
            n += count->of[class][k];
        if (n > 0)
            bytes += values_bytes(&e->w, k, n, e->value_bits[k]) + scales_bytes(&e->w, k, n);
    }
    return 1 + bytes;
}

double fstq_plain_cost(const struct fstq_work *w, const int64_t count[ALLOC_LEVELS],
                       double value_ratio)
{
    double n = (double)w->c->shape->n_values, of[ALLOC_LEVELS], bytes = INFINITY;
    for (int k = 0; k < ALLOC_LEVELS; k++)
        of[k] = (double)count[k];
    for (int t = TAGS_BITMAP; t <= TAGS_RANS; t++) {
        double cost = t == TAGS_RANS ? entropy_bits(of, w->a.count, n) / 8 + 24
                                     : plain_tags(w, (enum fstq_tags)t, n - of[0]);
        if ((w->opt->tags == TAGS_AUTO || t == w->opt->tags) && cost < bytes)
            bytes = cost;
    }
    for (int k = 1; k < w->a.count; k++)
        if (count[k] > 0) {
            double packed = ceil(of[k] * w->a.bits[k] / 8);
            bytes += w->a.bits[k] < 16 ? packed * value_ratio + 1 : packed;
            bytes += scales_bytes(w, k, of[k]);
        }
    return 1 + bytes;
}

size_t fstq_message_bound(const struct codec_inst *c, const struct bitalloc *a)
{
    size_t n = c->shape->n_values, most = (size_t)a->count;
    size_t groups = c->shape->n_tensors > FSTQ_CLASSES ? c->shape->n_tensors : FSTQ_CLASSES;
    size_t tags = larger(pack_bytes(n, 4), (n + 7) / 8 + pack_bytes(n, 3)) + FSTQ_CLASSES * 16;
    size_t values = pack_bytes(n, (unsigned)a->bits[most - 1]) + most * 2;
    return 1 + tags + groups * most * fstq_scale_bytes(c->opt) + values + (n >> 20) * 4;
}

// Positions or entropy coding, one after the other.
size_t fstq_message_scratch(const struct codec_inst *c)
{
    size_t n = c->shape->n_values;
    return larger(entropy_scratch(n), SCRATCH_ROUND((n + 1) * sizeof(uint32_t)));
}

size_t fstq_read_scratch(const struct codec_inst *c)
{
    return entropy_get_scratch(c->shape->n_values);
}

// Writing: on the device where codes and tags lie, or from the host's.

static const struct entropy_stages *stages_away(const struct fstq_work *w)
{
    const struct codec_device *away = fstq_away(w);
    return away ? codec_column(away)->entropy : NULL;
}

static void put_packed(const struct fstq_work *w, const uint8_t *code, size_t n, unsigned bits,
                       uint8_t *p)
{
    const struct entropy_stages *away = stages_away(w);
    if (away)
        away->pack(w->cx, code, n, bits, p);
    else
        pack_u8(code, n, bits, p);
}

static size_t class_positions(const struct fstq_work *w, uint32_t class, uint32_t *at)
{
    size_t from = w->class_at[class], n = w->class_at[class + 1] - from;
    return alloc_positions(w->tag + from, n, (uint32_t)from, at);
}

// Tags of kept coordinates, 0 for the first width above 0.
static int put_kept_tags(struct msg_out *o, const struct fstq_work *w, size_t kept, uint8_t *buf)
{
    unsigned bits = fstq_tag_bits(&w->a);
    uint8_t *p = msg_take(o, PART_TAGS, pack_bytes(kept, bits));
    if (!p)
        return -1;
    const struct entropy_stages *away = stages_away(w);
    const size_t n = w->class_at[w->classes];
    if (away && bits > 0)
        away->kept(w->cx, w->stage_tag, n, bits, p);
    else if (bits > 0)
        pack_u8(buf, alloc_kept(w->tag, n, buf), bits, p);
    return 0;
}

// Counts of the tags of a class, or of codes, as the entropy coder wants them.
static void class_counts(const struct fstq_work *w, uint32_t class, uint64_t count[256])
{
    memset(count, 0, 256 * sizeof *count);
    for (int k = 0; k < w->a.count; k++)
        count[k] = (uint64_t)w->of_class[class][k];
}

static int put_rans_tags(struct msg_out *o, const struct fstq_work *w, void *scratch)
{
    for (uint32_t k = 0; k < w->classes; k++) {
        uint64_t count[256];
        class_counts(w, k, count);
        if (entropy_put_counted(o, PART_TAGS, fstq_away(w), w->stage_tag + w->class_at[k],
                                w->class_at[k + 1] - w->class_at[k], (unsigned)w->a.count, count,
                                scratch))
            return -1;
    }
    return 0;
}

struct class_gaps {
    const struct fstq_work *w;
    uint32_t class;
};

static uint64_t rice_away(const struct class_gaps *g, unsigned k, uint8_t *out)
{
    const size_t from = g->w->class_at[g->class], n = g->w->class_at[g->class + 1] - from;
    return stages_away(g->w)->rice(g->w->cx, g->w->stage_tag + from, n, k, out);
}

static uint64_t gaps_cost(const void *arg, unsigned k)
{
    return rice_away(arg, k, NULL);
}

// Of the gaps of a class; at: room for positions, the host's. Codes of parameter 0 have a bit for
// every value up to the last one that is kept.
static unsigned class_rice(const struct fstq_work *w, uint32_t class, uint32_t *at, size_t *count,
                           uint64_t *bits)
{
    const struct class_gaps g = {w, class};
    if (!stages_away(w)) {
        *count = class_positions(w, class, at);
        return rice_best(at, *count, w->class_at[class], bits);
    }
    *count = w->class_at[class + 1] - w->class_at[class] - (size_t)w->of_class[class][0];
    const uint64_t span = *count ? rice_away(&g, 0, NULL) : 0;
    return rice_search(*count, span, gaps_cost, &g, bits);
}

static int put_class_rice(struct msg_out *o, const struct fstq_work *w, uint32_t class,
                          uint32_t *at)
{
    const size_t from = w->class_at[class], size = w->class_at[class + 1] - from;
    const struct class_gaps g = {w, class};
    size_t count;
    uint64_t bits;
    if (size == 0)
        return 0;
    if (!stages_away(w)) {
        count = class_positions(w, class, at);
        return msg_put_varint(o, PART_DIRECTORY, count) ||
                       positions_put(o, at, count, from, size, POSITIONS_RICE)
                   ? -1
                   : 0;
    }
    unsigned k = class_rice(w, class, NULL, &count, &bits);
    if (msg_put_varint(o, PART_DIRECTORY, count))
        return -1;
    uint8_t *p = count ? rice_room(o, k, bits) : NULL;
    if (p)
        rice_away(&g, k, p);
    return count && !p ? -1 : 0;
}

static int put_tags(struct msg_out *o, const struct fstq_work *w, enum fstq_tags tags,
                    void *scratch)
{
    size_t n = w->c->shape->n_values, kept = n - (size_t)w->total[0];
    uint8_t *p;
    if (tags == TAGS_DENSE) {
        p = msg_take(o, PART_TAGS, pack_bytes(n, dense_bits(w)));
        if (p)
            put_packed(w, w->stage_tag, n, dense_bits(w), p);
        return p ? 0 : -1;
    }
    if (tags == TAGS_RANS)
        return put_rans_tags(o, w, scratch);
    if (tags == TAGS_BITMAP) {
        p = msg_take(o, PART_INDICES, (n + 7) / 8);
        if (!p)
            return -1;
        if (stages_away(w))
            stages_away(w)->bitmap(w->cx, w->stage_tag, n, p);
        else
            alloc_bitmap(w->tag, n, p);
    }
    for (uint32_t k = 0; k < w->classes && tags == TAGS_RICE; k++)
        if (put_class_rice(o, w, k, scratch))
            return -1;
    return put_kept_tags(o, w, kept, scratch);
}

static int put_scales(struct msg_out *o, const struct fstq_work *w)
{
    size_t size = fstq_scale_bytes(w->opt);
    for (int k = 1; k < w->a.count; k++)
        for (uint32_t g = 0; g < w->groups && fstq_has_scale(w->opt, w->a.bits[k]); g++) {
            bool used = w->of_group[g][k] > 0;
            uint8_t *p = used ? msg_take(o, PART_SCALES, size) : NULL;
            if (used && !p)
                return -1;
            if (used && size == 4)
                put_f32(p, w->scale[g][k]);
            else if (used)
                put_u16(p, bf16_from_f32(w->scale[g][k]));
        }
    return 0;
}

static void put_halves(const struct fstq_work *w, const uint8_t *code, size_t n, uint8_t *p)
{
    const struct codec_device *away = fstq_away(w);
    if (!away) {
        memcpy(p, code, 2 * n);
        return;
    }
    away->dev->row->get(away->dev, away->lane, p, code, 2 * n);
    away->dev->row->wait(away->dev, away->lane);
}

static int put_values(struct msg_out *o, const struct fstq_encoder *e, void *scratch)
{
    const struct fstq_work *w = &e->w;
    for (int k = 1; k < w->a.count; k++) {
        int bits = w->a.bits[k];
        size_t n = (size_t)w->total[k];
        const uint8_t *code = w->code + fstq_first_code(w, k);
        if (fstq_entropy_coded(w->opt, bits)) {
            if (entropy_put_counted(o, PART_VALUES, fstq_away(w), code, n, fstq_kinds(bits),
                                    e->hist[k], scratch))
                return -1;
            continue;
        }
        uint8_t *p = msg_take(o, PART_VALUES, pack_bytes(n, (unsigned)bits));
        if (!p)
            return -1;
        if (bits == 16)
            put_halves(w, code, n, p);
        else
            put_packed(w, code, n, (unsigned)bits, p);
    }
    return 0;
}

static enum fstq_tags tags_of(const struct fstq_work *w, double *bytes)
{
    struct fstq_counts count;
    for (uint32_t class = 0; class < w->classes; class ++)
        for (int k = 0; k < ALLOC_LEVELS; k++)
            count.of[class][k] = (double)w->of_class[class][k];
    return cheapest_tags(w, &count, bytes);
}

static double rice_length(const struct fstq_work *w, uint32_t *at)
{
    double bytes = 0;
    for (uint32_t k = 0; k < w->classes; k++) {
        uint64_t bits;
        size_t count;
        class_rice(w, k, at, &count, &bits);
        if (w->class_at[k + 1] > w->class_at[k])
            bytes += 1 + bits_log2(count | 1) / 7 + (count ? 1 + ceil((double)bits / 8) : 0);
    }
    return bytes;
}

double fstq_values_length(const struct fstq_encoder *e, int k)
{
    int bits = e->w.a.bits[k];
    size_t n = (size_t)e->w.total[k];
    return fstq_entropy_coded(e->w.opt, bits) ? entropy_estimate(e->hist[k], n, fstq_kinds(bits))
                                              : (double)pack_bytes(n, (unsigned)bits);
}

double fstq_length(const struct fstq_encoder *e)
{
    const struct fstq_work *w = &e->w;
    double bytes, kept = (double)w->c->shape->n_values - (double)w->total[0];
    enum fstq_tags tags = tags_of(w, &bytes);
    if (tags == TAGS_RICE)
        bytes = rice_length(w, w->rest) + ceil(kept * fstq_tag_bits(&w->a) / 8);
    for (uint32_t k = 0; k < w->classes && tags == TAGS_RANS; k++) {
        uint64_t count[256];
        class_counts(w, k, count);
        bytes = (k ? bytes : 0) +
                entropy_estimate(count, w->class_at[k + 1] - w->class_at[k], (unsigned)w->a.count);
    }
    for (int k = 1; k < w->a.count; k++) {
        bytes += fstq_values_length(e, k);
        for (uint32_t g = 0; g < w->groups && fstq_has_scale(w->opt, w->a.bits[k]); g++)
            bytes += w->of_group[g][k] > 0 ? (double)fstq_scale_bytes(w->opt) : 0;
    }
    return 1 + bytes;
}

int fstq_write(const struct fstq_encoder *e, struct msg_out *o, void *scratch)
{
    double bytes;
    enum fstq_tags tags = tags_of(&e->w, &bytes);
    if (msg_put_header(o, (unsigned)tags) || put_tags(o, &e->w, tags, scratch))
        return -1;
    lap(e->in->laps, tags == TAGS_RANS ? STAGE_ENTROPY : STAGE_PACK);
    if (put_scales(o, &e->w) || put_values(o, e, scratch))
        return -1;
    lap(e->in->laps, e->w.opt->values == VALUES_AUTO ? STAGE_ENTROPY : STAGE_PACK);
    return 0;
}

// Reading.

// Tags of the kept coordinates, in blocks, over the 1s that stand in their places.
static int get_kept_tags(struct msg_in *m, struct fstq_work *w, size_t kept, struct err *err)
{
    enum { BLOCK = 4096 };
    unsigned bits = fstq_tag_bits(&w->a);
    const uint8_t *p = msg_need(m, pack_bytes(kept, bits));
    uint8_t buf[BLOCK + 16] = {0}, worst = 0;
    if (!p)
        return msg_short("tags", err);
    size_t used = 0, n = bits ? w->class_at[w->classes] : 0;
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t m_tags = n - at < BLOCK ? n - at : BLOCK, from = used & ~(size_t)7;
        size_t have = kept - from < m_tags + 7 ? kept - from : m_tags + 7;
        unpack_u8(p + from / 8 * bits, have, bits, buf);
        uint8_t max = pack_max_u8(buf, have);
        worst = max > worst ? max : worst;
        used += alloc_merge(w->tag + at, m_tags, buf + (used - from));
    }
    return worst >= w->a.count - 1 ? msg_bad("tags", "no such width", err) : 0;
}

static int get_bitmap(struct msg_in *m, struct fstq_work *w, size_t n, size_t *kept,
                      struct err *err)
{
    const uint8_t *p = msg_need(m, (n + 7) / 8);
    if (!p)
        return msg_short("indices", err);
    if (n % 8 && p[n / 8] >> (n % 8))
        return msg_bad("indices", "the bitmap has too many positions", err);
    unpack_u8(p, n, 1, w->tag);
    size_t bytes = (n + 7) / 8, i = 0;
    for (; i + 8 <= bytes; i += 8)
        *kept += (unsigned)__builtin_popcountll(get_u64(p + i));
    for (; i < bytes; i++)
        *kept += (unsigned)__builtin_popcount(p[i]);
    return 0;
}

static int get_rice(struct msg_in *m, struct fstq_work *w, size_t n, size_t *kept, struct err *err)
{
    memset(w->tag, 0, n);
    for (uint32_t k = 0; k < w->classes; k++) {
        size_t size = w->class_at[k + 1] - w->class_at[k];
        uint64_t count;
        if (size == 0)
            continue;
        if (msg_get_varint(m, &count) || count > size)
            return msg_bad("directory", "more positions than coordinates", err);
        if (positions_mark(m, w->tag + w->class_at[k], (size_t)count, size, err))
            return -1;
        *kept += (size_t)count;
    }
    return 0;
}

static int get_tags(struct msg_in *m, struct fstq_work *w, enum fstq_tags tags, struct err *err)
{
    size_t n = w->c->shape->n_values, kept = 0;
    if (tags == TAGS_DENSE) {
        const uint8_t *p = msg_need(m, pack_bytes(n, dense_bits(w)));
        if (!p)
            return msg_short("tags", err);
        unpack_u8(p, n, dense_bits(w), w->tag);
        return pack_max_u8(w->tag, n) >= w->a.count ? msg_bad("tags", "no such width", err) : 0;
    }
    if (tags == TAGS_RANS) {
        for (uint32_t k = 0; k < w->classes; k++)
            if (entropy_get(m, w->tag + w->class_at[k], w->class_at[k + 1] - w->class_at[k],
                            (unsigned)w->a.count, w->rest, err))
                return -1;
        return 0;
    }
    if (tags != TAGS_BITMAP && tags != TAGS_RICE)
        return msg_bad("header", "unknown coding of tags", err);
    if (tags == TAGS_BITMAP ? get_bitmap(m, w, n, &kept, err) : get_rice(m, w, n, &kept, err))
        return -1;
    return get_kept_tags(m, w, kept, err);
}

static int get_scales(struct msg_in *m, struct fstq_work *w, struct err *err)
{
    size_t size = fstq_scale_bytes(w->opt);
    for (int k = 1; k < w->a.count; k++)
        for (uint32_t g = 0; g < w->groups && fstq_has_scale(w->opt, w->a.bits[k]); g++) {
            if (w->of_group[g][k] == 0)
                continue;
            const uint8_t *p = msg_need(m, size);
            if (!p)
                return msg_short("scales", err);
            w->scale[g][k] = size == 4 ? get_f32(p) : bf16_to_f32(get_u16(p));
            if (!msg_within(w->scale[g][k], 2 * fstq_limit(w->opt)))
                return msg_bad("scales", "one is not finite, or too large", err);
        }
    return 0;
}

static int get_values(struct msg_in *m, struct fstq_work *w, struct err *err)
{
    for (int k = 1; k < w->a.count; k++) {
        int bits = w->a.bits[k];
        size_t n = (size_t)w->total[k];
        if (fstq_entropy_coded(w->opt, bits)) {
            uint8_t *code = w->code + fstq_first_code(w, k);
            if (entropy_get(m, code, n, fstq_kinds(bits), w->rest, err))
                return -1;
            w->from[k] = code;
            continue;
        }
        w->from[k] = msg_need(m, pack_bytes(n, (unsigned)bits));
        if (!w->from[k])
            return msg_short("values", err);
        if (fstq_kind(w->opt, bits) == ALLOC_FP16 &&
            quant_absmax_bits_f16(w->from[k], n) >= 0x7c00u)
            return msg_bad("values", "one is not finite", err);
    }
    return 0;
}

int fstq_read(struct fstq_work *w, const uint8_t *in, size_t len, struct err *err)
{
    struct msg_in m;
    unsigned flags;
    if (msg_open(&m, in, len, &flags, err) || get_tags(&m, w, (enum fstq_tags)flags, err))
        return -1;
    fstq_count_read(w);
    fstq_sum_counts(w);
    if (get_scales(&m, w, err) || get_values(&m, w, err))
        return -1;
    return msg_end(&m, err);
}
