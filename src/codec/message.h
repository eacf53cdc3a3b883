// How a message is laid out: sections one after another, each of whole bytes and booked under the
// part it belongs to, so that the parts add up by construction. The first byte is the header:
// format version in its low nibble, four flags of the codec in its high nibble. What the options
// and the registered shape already say is not sent.
#ifndef FSTQ_CODEC_MESSAGE_H
#define FSTQ_CODEC_MESSAGE_H

#include "base/bytes.h"
#include "codec/coding.h"

#define MSG_VERSION    1u
#define MSG_VARINT_MAX 10

enum part {
    PART_HEADER,
    PART_DIRECTORY,
    PART_SCALES,
    PART_INDICES,
    PART_TAGS,
    PART_VALUES,
    PART_COUNT
};

struct msg_out {
    uint8_t *begin, *p, *end;
    struct codec_report *report; // never NULL: codec_encode sees to it
};

struct msg_in {
    const uint8_t *p, *end;
};

static inline void msg_init(struct msg_out *o, uint8_t *out, size_t cap,
                            struct codec_report *report)
{
    *o = (struct msg_out){.begin = out, .p = out, .end = out + cap, .report = report};
}
static inline size_t msg_room(const struct msg_out *o)
{
    return (size_t)(o->end - o->p);
}
static inline int64_t msg_len(const struct msg_out *o)
{
    return (int64_t)(o->p - o->begin);
}

// The next size_bytes, booked under the part; NULL when the buffer is full.
uint8_t *msg_take(struct msg_out *o, enum part part, size_t size_bytes);
int msg_put_varint(struct msg_out *o, enum part part, uint64_t v); // -1 when full
int msg_put_header(struct msg_out *o, unsigned flags);
int msg_full(const struct msg_out *o,
             struct err *err); // the error of a buffer too small; returns -1

// The next size_bytes of a message, NULL when there are fewer.
const uint8_t *msg_need(struct msg_in *m, size_t size_bytes);
int msg_get_varint(struct msg_in *m, uint64_t *v); // -1: cut off, or more than 64 bits
int msg_open(struct msg_in *m, const uint8_t *in, size_t len, unsigned *flags, struct err *err);
int msg_open_plain(struct msg_in *m, const uint8_t *in, size_t len,
                   struct err *err);                  // of a codec that knows no flags
int msg_end(const struct msg_in *m, struct err *err); // trailing bytes are an error

// The constant results let the compiler see that outputs are set.
static inline int msg_short(const char *what, struct err *err)
{
    err_set(err, "message ends inside its %s", what);
    return -1;
}
static inline int msg_bad(const char *what, const char *why, struct err *err)
{
    err_set(err, "bad %s in message: %s", what, why);
    return -1;
}

static inline int msg_nonfinite(struct err *err)
{
    err_set(err, "bad values in message: one is not finite");
    return CODEC_NONFINITE;
}

// A number as it may stand in a message: finite, and small enough that no decoded value overflows.
static inline int msg_within(float v, float limit)
{
    return v >= -limit && v <= limit; // false for NaN
}
static inline int msg_scale_ok(float s)
{
    return msg_within(s, 2 * CODEC_LIMIT);
}

// to += p.
void msg_add_parts(struct codec_parts *to, const struct codec_parts *p);

#endif
