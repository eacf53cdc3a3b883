#include "codec/activation.h"

#include "base/mem.h"

#include <assert.h>
#include <string.h>

static int check(const struct codec_inst *c, struct err *err)
{
    if (codec_needs(c) || codec_state_floats(c) || codec_upload_s(c) > 0)
        return err_set(err,
                       "codec %s wants gradients, a state or a link, and rows of activations have "
                       "none: take one without, as fp16, int or nf4",
                       c->row->name);
    return 0;
}

// The largest need not take most.
static void measure(struct act_codec *a)
{
    size_t scratch = 0;
    for (int32_t n = 0; n < a->most; n++) {
        codec_reshape(a->codec, &a->shape[n]);
        size_t bytes = codec_bound(a->codec), room = codec_scratch_bytes(a->codec);
        a->bound = bytes > a->bound ? bytes : a->bound;
        scratch = room > scratch ? room : scratch;
    }
    a->bound += MSG_VARINT_MAX;
    a->scratch = scratch ? mem_alloc(MEM_CODEC, scratch) : NULL;
}

int act_codec_open(struct act_codec *a, const char *text, int32_t most, int32_t dim,
                   struct err *err)
{
    struct shape one;
    *a = (struct act_codec){.most = most, .dim = dim};
    shape_init(&one);
    shape_add(&one, "rows", (uint32_t)most, (uint32_t)dim, SHAPE_OTHER);
    shape_seal(&one);
    a->codec = codec_open(text, &one, err);
    int rc = a->codec ? check(a->codec, err) : -1;
    a->dense = rc == 0 && dense_format_of(a->codec, &a->format) == 0;
    if (a->dense)
        a->bound = dense_bytes(a->format, one.n_values);
    if (rc == 0 && !a->dense) {
        a->shape = mem_alloc(MEM_CODEC, (size_t)most * sizeof *a->shape);
        for (int32_t n = 0; n < most; n++) {
            shape_init(&a->shape[n]);
            shape_add(&a->shape[n], "rows", (uint32_t)n + 1, (uint32_t)dim, SHAPE_OTHER);
            shape_seal(&a->shape[n]);
        }
        measure(a);
    }
    if (rc)
        act_codec_close(a);
    shape_free(&one);
    return rc;
}

void act_codec_close(struct act_codec *a)
{
    for (int32_t n = 0; a->shape && n < a->most; n++)
        shape_free(&a->shape[n]);
    if (a->codec)
        codec_close(a->codec);
    mem_free(a->shape);
    mem_free(a->scratch);
    memset(a, 0, sizeof *a);
}

// What the codec booked is the message's.
static void book(struct codec_report *to, const struct codec_report *from)
{
    to->parts.header += from->parts.header;
    to->parts.directory += from->parts.directory;
    to->parts.scales += from->parts.scales;
    to->parts.indices += from->parts.indices;
    to->parts.tags += from->parts.tags;
    to->parts.values += from->parts.values;
    for (int k = 0; k < RECORD_WIDTHS; k++)
        to->kept[k] += from->kept[k];
}

// The length is known when the message is: it is written where it may be longest, then moved up.
static int put_coded(struct msg_out *o, const struct act_codec *a, const struct codec_key *key,
                     const float *x, int32_t rows, struct err *err)
{
    struct codec_report report = {.staleness = -1};
    struct codec_input in = {.x = x, .key = *key, .budget_bytes = -1};
    if (msg_room(o) < MSG_VARINT_MAX)
        return msg_full(o, err);
    codec_reshape(a->codec, &a->shape[rows - 1]);
    uint8_t *at = o->p + MSG_VARINT_MAX;
    int64_t len =
        codec_encode(a->codec, &in, at, msg_room(o) - MSG_VARINT_MAX, a->scratch, &report, err);
    if (len < 0)
        return (int)len;
    if (msg_put_varint(o, PART_DIRECTORY, (uint64_t)len))
        return msg_full(o, err);
    memmove(o->p, at, (size_t)len);
    o->p += len;
    book(o->report, &report);
    return 0;
}

int act_put(struct msg_out *o, const struct act_codec *a, const struct codec_key *key,
            const float *x, int32_t rows, struct err *err)
{
    assert(rows >= 1 && rows <= a->most);
    if (a->dense)
        return dense_put(o, a->format, x, (size_t)rows * (size_t)a->dim, err);
    return put_coded(o, a, key, x, rows, err);
}

int act_get(struct msg_in *m, const struct act_codec *a, const struct codec_key *key, float *x,
            int32_t rows, struct err *err)
{
    uint64_t len;
    assert(rows >= 1 && rows <= a->most);
    if (a->dense)
        return dense_get(m, a->format, (struct quant_sink){x, 1, false},
                         (size_t)rows * (size_t)a->dim, err);
    if (msg_get_varint(m, &len))
        return msg_short("length of rows", err);
    const uint8_t *p = len <= (uint64_t)(m->end - m->p) ? msg_need(m, (size_t)len) : NULL;
    if (!p)
        return msg_short("rows", err);
    codec_reshape(a->codec, &a->shape[rows - 1]);
    return codec_decode(a->codec, key, p, (size_t)len, x, a->scratch, err);
}
