#include "fed/split.h"

#include "base/half.h"

#include <math.h>

enum { VARINT_MAX = 5 }; // of 31 bits

static size_t value_bytes(const struct split_form *f)
{
    return f->half ? 2 : 4;
}

size_t split_bound(const struct split_form *f)
{
    size_t row = 3 * VARINT_MAX + (size_t)f->dim * value_bytes(f);
    return 1 + (size_t)f->examples * (2 * VARINT_MAX + (size_t)f->longest * row);
}

static int put_values(uint8_t *p, const float *x, size_t n, bool half)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h = half ? f16_from_f32(x[i]) : 0;
        if (!isfinite(half ? f16_to_f32(h) : x[i]))
            return CODEC_NONFINITE;
        if (half)
            put_u16(p + 2 * i, h);
        else
            put_f32(p + 4 * i, x[i]);
    }
    return 0;
}

int split_put(struct msg_out *o, const struct split_form *f, const struct split_example *e,
              struct err *err)
{
    size_t n = (size_t)e->rows * (size_t)f->dim;
    int full = msg_put_varint(o, PART_DIRECTORY, (uint64_t)e->rows) |
               msg_put_varint(o, PART_DIRECTORY, (uint64_t)e->labels);
    for (int32_t i = 0; i < e->rows; i++) {
        int32_t step = e->pos[i] - (i ? e->pos[i - 1] : 0);
        full |= msg_put_varint(o, PART_INDICES, (uint64_t)step) |
                msg_put_varint(o, PART_INDICES, (uint64_t)e->size[i]);
    }
    for (int32_t i = 0; i < e->labels; i++)
        full |= msg_put_varint(o, PART_TAGS, (uint64_t)e->label[i]);
    uint8_t *p = full ? NULL : msg_take(o, PART_VALUES, n * value_bytes(f));
    if (!p)
        return msg_full(o, err);
    if (put_values(p, e->x, n, f->half)) {
        err_set(err, "an activation is not finite%s",
                f->half ? ", or too large for fp16; take fp32" : "");
        return CODEC_NONFINITE;
    }
    o->report->kept[RECORD_WIDTHS - (f->half ? 2 : 1)] += (int64_t)n;
    return 0;
}

// A varint of low to high.
static int get_number(struct msg_in *m, int64_t low, int64_t high, int32_t *v, const char *what,
                      struct err *err)
{
    uint64_t u;
    if (msg_get_varint(m, &u))
        return msg_short(what, err);
    if (u > INT32_MAX || (int64_t)u < low || (int64_t)u > high)
        return msg_bad(what, "out of range", err);
    *v = (int32_t)u;
    return 0;
}

static int get_places(struct msg_in *m, const struct split_form *f, struct split_example *e,
                      struct err *err)
{
    int32_t tokens = 0, at = 0, step;
    for (int32_t i = 0; i < e->rows; i++) {
        if (get_number(m, i ? 1 : 0, f->longest - 1 - at, &step, "position", err) ||
            get_number(m, 1, f->longest - tokens, &e->size[i], "size", err))
            return -1;
        e->pos[i] = at += step;
        tokens += e->size[i];
    }
    return 0;
}

int split_get(struct msg_in *m, const struct split_form *f, struct split_example *e,
              struct err *err)
{
    if (get_number(m, 1, f->longest, &e->rows, "number of rows", err) ||
        get_number(m, 1, e->rows, &e->labels, "number of labels", err) || get_places(m, f, e, err))
        return -1;
    for (int32_t i = 0; i < e->labels; i++)
        if (get_number(m, 0, f->vocab - 1, &e->label[i], "label", err))
            return -1;
    size_t n = (size_t)e->rows * (size_t)f->dim;
    const uint8_t *p = msg_need(m, n * value_bytes(f));
    if (!p)
        return msg_short("activations", err);
    for (size_t i = 0; i < n; i++) {
        e->x[i] = f->half ? f16_to_f32(get_u16(p + 2 * i)) : get_f32(p + 4 * i);
        if (!isfinite(e->x[i]))
            return msg_nonfinite(err);
    }
    return 0;
}
