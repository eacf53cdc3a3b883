// The bytes of Fed-FSTQ's message.
#include "base/fmath.h"
#include "base/half.h"
#include "codec/bits.h"
#include "codec/entropy.h"
#include "codec/fstq.h"
#include "codec/positions.h"
#include "kernels/kernels_codec.h"

#include <math.h>

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static unsigned tag_bits(const struct fstq_work *w) // of one of the kept coordinates
{
    return w->a.count <= 2 ? 0 : bits_log2((uint64_t)w->a.count - 2) + 1;
}

static unsigned dense_bits(const struct fstq_work *w)
{
    return bits_log2((uint64_t)w->a.count - 1) + 1;
}

static double entropy_bits(const int64_t *count, int kinds, double n)
{
    double bits = 0;
    for (int k = 0; k < kinds; k++)
        if (count[k] > 0 && (double)count[k] < n)
            bits -= (double)count[k] * fmath_log((double)count[k] / n);
    return bits * 1.4426950408889634; // 1 / log 2
}

// Tag bytes of each coding, as far as counts tell.
double fstq_tags_cost(const struct fstq_work *w, enum fstq_tags tags, const int64_t *count)
{
    double n = (double)w->c->shape->n_values, kept = n - (double)count[0];
    double positions_tags = ceil(kept * tag_bits(w) / 8);
    switch (tags) {
    case TAGS_DENSE:
        return ceil(n * dense_bits(w) / 8);
    case TAGS_BITMAP:
        return ceil(n / 8) + positions_tags;
    case TAGS_RICE:
        return (double)positions_estimate((size_t)kept, (size_t)n, POSITIONS_RICE) +
               positions_tags + 6;
    case TAGS_RANS:
        return entropy_bits(count, w->a.count, n) / 8 + 24;
    case TAGS_AUTO:
        break;
    }
    double best = fstq_tags_cost(w, TAGS_BITMAP, count);
    for (int t = TAGS_DENSE; t <= TAGS_RANS; t++) {
        double cost = fstq_tags_cost(w, (enum fstq_tags)t, count);
        best = cost < best ? cost : best;
    }
    return best;
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

// Writing.

static size_t class_positions(const struct fstq_work *w, int class, uint32_t *at)
{
    size_t count = 0;
    for (size_t i = w->class_at[class]; i < w->class_at[class + 1]; i++) {
        at[count] = (uint32_t)i;
        count += w->tag[i] != 0;
    }
    return count;
}

// Tags of kept coordinates, 0 for the first width above 0.
static int put_kept_tags(struct msg_out *o, const struct fstq_work *w, size_t kept, uint8_t *buf)
{
    unsigned bits = tag_bits(w);
    uint8_t *p = msg_take(o, PART_TAGS, pack_bytes(kept, bits));
    if (!p)
        return -1;
    if (bits == 0)
        return 0;
    size_t n = 0;
    for (size_t i = 0; i < w->class_at[FSTQ_CLASSES]; i++) {
        buf[n] = (uint8_t)(w->tag[i] - 1);
        n += w->tag[i] != 0;
    }
    pack_u8(buf, n, bits, p);
    return 0;
}

static int put_tags(struct msg_out *o, const struct fstq_work *w, enum fstq_tags tags,
                    void *scratch)
{
    size_t n = w->c->shape->n_values, kept = n - (size_t)w->total[0];
    uint8_t *p;
    if (tags == TAGS_DENSE) {
        p = msg_take(o, PART_TAGS, pack_bytes(n, dense_bits(w)));
        if (p)
            pack_u8(w->tag, n, dense_bits(w), p);
        return p ? 0 : -1;
    }
    if (tags == TAGS_RANS) {
        for (int k = 0; k < FSTQ_CLASSES; k++)
            if (entropy_put(o, PART_TAGS, w->tag + w->class_at[k],
                            w->class_at[k + 1] - w->class_at[k], (unsigned)w->a.count, scratch))
                return -1;
        return 0;
    }
    if (tags == TAGS_BITMAP) {
        p = msg_take(o, PART_INDICES, (n + 7) / 8);
        if (!p)
            return -1;
        alloc_bitmap(w->tag, n, p);
    }
    for (int k = 0; k < FSTQ_CLASSES && tags == TAGS_RICE; k++) {
        size_t count = class_positions(w, k, scratch), size = w->class_at[k + 1] - w->class_at[k];
        if (size && (msg_put_varint(o, PART_DIRECTORY, count) ||
                     positions_put(o, scratch, count, w->class_at[k], size, POSITIONS_RICE)))
            return -1;
    }
    return put_kept_tags(o, w, kept, scratch);
}

// Whether group g holds a value of width k.
static bool in_use(const struct fstq_work *w, uint32_t g, int k)
{
    for (uint32_t t = 0; t < w->c->shape->n_tensors; t++)
        if (w->group[t] == g && w->count[t][k] > 0)
            return true;
    return false;
}

static int put_scales(struct msg_out *o, const struct fstq_work *w)
{
    size_t size = fstq_scale_bytes(w->opt);
    for (int k = 1; k < w->a.count; k++)
        for (uint32_t g = 0; g < w->groups && fstq_has_scale(w->opt, w->a.bits[k]); g++) {
            bool used = w->opt->group == GROUP_TENSOR ? w->count[g][k] > 0 : in_use(w, g, k);
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

static int put_values(struct msg_out *o, const struct fstq_work *w, void *scratch)
{
    for (int k = 1; k < w->a.count; k++) {
        int bits = w->a.bits[k];
        size_t n = (size_t)w->total[k];
        const uint8_t *code = w->code + fstq_first_code(w, k);
        if (fstq_entropy_coded(w->opt, bits)) {
            if (entropy_put(o, PART_VALUES, code, n, fstq_kinds(bits), scratch))
                return -1;
            continue;
        }
        uint8_t *p = msg_take(o, PART_VALUES, pack_bytes(n, (unsigned)bits));
        if (!p)
            return -1;
        if (bits == 16)
            memcpy(p, code, 2 * n);
        else
            pack_u8(code, n, (unsigned)bits, p);
    }
    return 0;
}

static enum fstq_tags cheapest_tags(const struct fstq_work *w)
{
    enum fstq_tags best = TAGS_BITMAP;
    double rans = 0, bits[FSTQ_CLASSES] = {0};
    for (int k = 0; k < FSTQ_CLASSES; k++) { // by class, as they will be coded
        int64_t count[ALLOC_LEVELS] = {0};
        double n = 0;
        for (uint32_t t = 0; t < w->c->shape->n_tensors; t++)
            if (w->c->shape->tensors[t].kind == (uint32_t)k)
                for (int j = 0; j < w->a.count; j++) {
                    count[j] += w->count[t][j];
                    n += (double)w->count[t][j];
                }
        bits[k] = entropy_bits(count, w->a.count, n);
        rans += bits[k] / 8 + (n > 0 ? 12 + 4.0 * rans_lanes((size_t)n) : 0);
    }
    for (int t = TAGS_DENSE; t <= TAGS_RICE; t++)
        if (fstq_tags_cost(w, (enum fstq_tags)t, w->total) < fstq_tags_cost(w, best, w->total))
            best = (enum fstq_tags)t;
    return rans < fstq_tags_cost(w, best, w->total) ? TAGS_RANS : best;
}

int fstq_write(const struct fstq_work *w, struct msg_out *o, void *scratch)
{
    enum fstq_tags tags = (enum fstq_tags)w->opt->tags;
    if (tags == TAGS_AUTO)
        tags = cheapest_tags(w);
    return msg_put_header(o, (unsigned)tags) || put_tags(o, w, tags, scratch) || put_scales(o, w) ||
                   put_values(o, w, scratch)
               ? -1
               : 0;
}

// Reading.

// Tags of the kept coordinates, in blocks, over the 1s that stand in their places.
static int get_kept_tags(struct msg_in *m, struct fstq_work *w, size_t kept, struct err *err)
{
    enum { BLOCK = 4096 };
    unsigned bits = tag_bits(w);
    const uint8_t *p = msg_need(m, pack_bytes(kept, bits));
    uint8_t buf[BLOCK + 16] = {0}, worst = 0;
    if (!p)
        return msg_short("tags", err);
    size_t used = 0, n = bits ? w->class_at[FSTQ_CLASSES] : 0;
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
    for (int k = 0; k < FSTQ_CLASSES; k++) {
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
        for (int k = 0; k < FSTQ_CLASSES; k++)
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
            bool used = w->opt->group == GROUP_TENSOR ? w->count[g][k] > 0 : in_use(w, g, k);
            if (!used)
                continue;
            const uint8_t *p = msg_need(m, size);
            if (!p)
                return msg_short("scales", err);
            w->scale[g][k] = size == 4 ? get_f32(p) : bf16_to_f32(get_u16(p));
            if (!msg_scale_ok(w->scale[g][k]))
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
    fstq_count(w);
    if (get_scales(&m, w, err) || get_values(&m, w, err))
        return -1;
    return msg_end(&m, err);
}
