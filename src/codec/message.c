#include "codec/message.h"

static int64_t *part_of(struct codec_parts *p, enum part part)
{
    int64_t *const field[PART_COUNT] = {&p->header,  &p->directory, &p->scales,
                                        &p->indices, &p->tags,      &p->values};
    return field[part];
}

uint8_t *msg_take(struct msg_out *o, enum part part, size_t size_bytes)
{
    if (size_bytes > msg_room(o))
        return NULL;
    uint8_t *p = o->p;
    o->p += size_bytes;
    *part_of(&o->report->parts, part) += (int64_t)size_bytes;
    return p;
}

int msg_put_varint(struct msg_out *o, enum part part, uint64_t v)
{
    uint8_t buf[MSG_VARINT_MAX];
    size_t n = 0;
    while (v >= 0x80) {
        buf[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    buf[n++] = (uint8_t)v;
    uint8_t *p = msg_take(o, part, n);
    if (!p)
        return -1;
    memcpy(p, buf, n);
    return 0;
}

int msg_put_header(struct msg_out *o, unsigned flags)
{
    uint8_t *p = msg_take(o, PART_HEADER, 1);
    if (!p)
        return -1;
    put_u8(p, (uint8_t)(MSG_VERSION | flags << 4));
    return 0;
}

int msg_full(const struct msg_out *o, struct err *err)
{
    return err_set(err, "the message does not fit into its buffer of %td bytes", o->end - o->begin);
}

const uint8_t *msg_need(struct msg_in *m, size_t size_bytes)
{
    if (size_bytes > (size_t)(m->end - m->p))
        return NULL;
    const uint8_t *p = m->p;
    m->p += size_bytes;
    return p;
}

int msg_get_varint(struct msg_in *m, uint64_t *v)
{
    *v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        const uint8_t *p = msg_need(m, 1);
        if (!p || (shift == 63 && *p > 1))
            return -1;
        *v |= (uint64_t)(*p & 0x7f) << shift;
        if (!(*p & 0x80))
            return 0;
    }
    return -1;
}

int msg_open(struct msg_in *m, const uint8_t *in, size_t len, unsigned *flags, struct err *err)
{
    *m = (struct msg_in){.p = in, .end = in + len};
    const uint8_t *p = msg_need(m, 1);
    if (!p)
        return msg_short("header", err);
    if ((*p & 0xfu) != MSG_VERSION)
        return err_set(err, "message of codec format %u, this build reads format %u", *p & 0xfu,
                       MSG_VERSION);
    *flags = *p >> 4;
    return 0;
}

int msg_open_plain(struct msg_in *m, const uint8_t *in, size_t len, struct err *err)
{
    unsigned flags = 0;
    if (msg_open(m, in, len, &flags, err))
        return -1;
    return flags ? msg_bad("header", "unknown flags", err) : 0;
}

int msg_end(const struct msg_in *m, struct err *err)
{
    if (m->p != m->end)
        return err_set(err, "message is %td bytes longer than it says", m->end - m->p);
    return 0;
}

void msg_add_parts(struct codec_parts *to, const struct codec_parts *p)
{
    to->header += p->header;
    to->directory += p->directory;
    to->scales += p->scales;
    to->indices += p->indices;
    to->tags += p->tags;
    to->values += p->values;
}
