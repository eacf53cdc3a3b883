#include "fed/datagram.h"

#include "base/bytes.h"

#include <math.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

bool datagram_on(const struct method *m, const struct link_model *link)
{
    const struct scheme *s = m->scheme;
    const struct view_inst *v = &m->view;
    const struct link_params *p = link->params;
    if (p->delivery != LINK_DATAGRAM || !p->blocks || s->pack || s->add)
        return false;
    for (uint32_t i = 0; i < v->n_parts; i++)
        for (int k = 0; k < v->n_vectors; k++)
            if (!blocks_can(v->part[i].vector[k].codec))
                return false;
    return true;
}

// Where a segment of the frame begins in the payload, which follows the header.
static size_t segment_at(size_t i)
{
    return i ? i * LOSS_SEGMENT_BYTES - FRAME_HEADER_BYTES : 0;
}

// Blocks fill their segments but for the last of a vector, and are a few parts in a hundred longer
// than the message was; tables that each has of its own can make it more.
size_t datagram_bound(const struct view_inst *v)
{
    size_t segments = 3 * view_bound(v) / (2 * DATAGRAM_ROOM) + 2 * (size_t)v->n_vectors + 1;
    return segment_at(segments);
}

int64_t datagram_budget(int64_t payload_bytes)
{
    return payload_bytes > 0 ? payload_bytes - payload_bytes / 16 : payload_bytes;
}

bool datagram_usable(const struct method *m, const struct link_model *link,
                     const struct link_result *r, int64_t frame_bytes)
{
    return r->whole ||
           (r->delivered && r->lost_segments < loss_segments(frame_bytes) && datagram_on(m, link));
}

static size_t most_of(const struct view_inst *v, size_t (*of)(const struct codec_inst *c, size_t n))
{
    size_t most = 0;
    for (uint32_t p = 0; p < v->n_parts; p++)
        for (int k = 0; k < v->n_vectors; k++) {
            size_t n = of(v->part[p].vector[k].codec, DATAGRAM_ROOM);
            most = n > most ? n : most;
        }
    return most;
}

size_t datagram_cut_scratch(const struct view_inst *v)
{
    return most_of(v, blocks_cut_bytes);
}

size_t datagram_read_scratch(const struct view_inst *v)
{
    return most_of(v, blocks_decode_bytes);
}

static uint32_t check_of(const uint8_t *segment, size_t size, uint64_t registry)
{
    return (uint32_t)XXH3_64bits_withSeed(segment + 4, size - 4, registry);
}

// A segment whose block is there already: what stands before it, and zeros behind it.
static void finish_segment(const struct datagram_update *u, int vector, struct shape_range run,
                           size_t len, uint8_t *p, size_t size)
{
    size_t grains = (run.to - run.from + BLOCK_GRAIN - 1) / BLOCK_GRAIN;
    put_u32(p + 4, u->head->client);
    put_u32(p + 8, u->head->version);
    put_u32(p + 12, u->head->samples);
    put_f32(p + 16, u->head->loss);
    put_u16(p + 20, (uint16_t)len);
    put_u8(p + 22, (uint8_t)vector);
    put_u8(p + 23, 0);
    put_u32(p + 24, (uint32_t)(run.from / BLOCK_GRAIN));
    put_u32(p + 28, (uint32_t)grains);
    memset(p + DATAGRAM_HEAD_BYTES + len, 0, size - DATAGRAM_HEAD_BYTES - len);
    put_u32(p, check_of(p, size, u->registry));
}

// The segments of vector k, from segment *i on. Returns where the payload ends, or -1.
static int64_t put_vector(struct datagram_update *u, int k, size_t *i, uint8_t *out, size_t cap,
                          void *scratch, struct err *err)
{
    const struct codec_inst *c = u->part->vector[k].codec;
    const size_t n = c->shape->n_values, begin = segment_at(*i);
    const bool last = k + 1 == u->n_vectors;
    struct block_cut cut;
    size_t end = begin;
    if (blocks_cut(&cut, c, &u->key[k], u->message[k], u->len[k], DATAGRAM_ROOM, scratch, err))
        return -1;
    for (struct shape_range run = {0, 0}; run.from < n; run.from = run.to) {
        size_t at = segment_at(*i), size = segment_at(++*i) - at;
        if (at + size > cap)
            return err_set(err, "its blocks take more than %zu bytes", cap);
        int64_t len = blocks_next(&cut, run.from, size - DATAGRAM_HEAD_BYTES,
                                  out + at + DATAGRAM_HEAD_BYTES, &run.to, &u->parts[k]);
        if (len < 0)
            return err_set(err, "no block of it fits into a segment");
        if (last && run.to == n)
            size = DATAGRAM_HEAD_BYTES + (size_t)len;
        finish_segment(u, k, run, (size_t)len, out + at, size);
        end = at + size;
    }
    u->bytes[k] = (int64_t)(end - begin);
    return (int64_t)end;
}

int64_t datagram_put(struct datagram_update *u, uint8_t *out, size_t cap, void *scratch,
                     struct err *err)
{
    size_t i = 0;
    int64_t len = 0;
    for (int k = 0; k < u->n_vectors && len >= 0; k++)
        len = put_vector(u, k, &i, out, cap, scratch, err);
    return len;
}

static bool arrived(const struct datagram_reader *r, size_t i)
{
    return !r->heard || r->heard[i / 8] >> i % 8 & 1;
}

static bool read_segment(const struct datagram_reader *r, const uint8_t *p, size_t size,
                         struct datagram_block *b)
{
    if (size < DATAGRAM_HEAD_BYTES || get_u32(p) != check_of(p, size, r->registry))
        return false;
    *b = (struct datagram_block){.vector = p[22],
                                 .client = get_u32(p + 4),
                                 .version = get_u32(p + 8),
                                 .samples = get_u32(p + 12),
                                 .loss = get_f32(p + 16),
                                 .bytes = p + DATAGRAM_HEAD_BYTES,
                                 .len = get_u16(p + 20),
                                 .size = size};
    b->run.from = (size_t)get_u32(p + 24) * BLOCK_GRAIN;
    b->run.to = b->run.from + (size_t)get_u32(p + 28) * BLOCK_GRAIN;
    return b->len <= size - DATAGRAM_HEAD_BYTES && p[23] == 0 && isfinite(b->loss);
}

bool datagram_next(struct datagram_reader *r, struct datagram_block *b)
{
    for (;;) {
        size_t i = r->segment++, at = segment_at(i), end = segment_at(i + 1);
        if (at >= r->len)
            return false;
        end = end < r->len ? end : r->len;
        if (arrived(r, i) && read_segment(r, r->payload + at, end - at, b))
            return true;
    }
}
