// The rotated quantisers' stages on a GPU: as many slices at a time as there is room for.
#include "dev/cuda.h"

#include <stdint.h>

#define put_code GPU(gpu_rotate_code)
#define put_give GPU(gpu_rotate_give)

static size_t code_bytes(const struct rotate_slice *s)
{
    return (s->n_high * s->high + 7) / 8 + (s->n_low * s->low + 7) / 8;
}

// The first ones of what is left.
struct batch {
    size_t n, most, y_floats, bytes; // most: of the slices' d; bytes: of codes
};

static struct batch batch_of(const struct room *r, const struct rotate_slice *slice, size_t slices)
{
    enum {
        EACH = sizeof *slice + sizeof(struct gpu_rotate_part[ROTATE_PARTS]) +
               sizeof(struct rotate_facts) + sizeof(float)
    };
    struct batch b = {0};
    for (; b.n < slices; b.n++) {
        const struct rotate_slice *s = &slice[b.n];
        size_t y_floats = gpu_rotate_place(slice, b.n) + s->d;
        size_t bytes = s->out - slice->out + code_bytes(s);
        size_t size = (b.n + 1) * EACH + y_floats * sizeof(float) + bytes + 512;
        if (b.n > 0 && size > room_left(r))
            break;
        b.y_floats = y_floats;
        b.bytes = bytes;
        b.most = s->d > b.most ? s->d : b.most;
    }
    return b;
}

static void code(const struct kernel_ctx *cx, const float *x, const struct rotate_slice *slice,
                 size_t slices, struct rotate_facts *facts, uint8_t *out)
{
    for (struct batch b; slices; slice += b.n, facts += b.n, slices -= b.n) {
        struct room r = room_of(cx);
        b = batch_of(&r, slice, slices);
        const struct rotate_slice *own = room_put(&r, slice, b.n * sizeof *slice);
        struct gpu_rotate_part *part = room_take(&r, b.n * ROTATE_PARTS * sizeof *part);
        struct rotate_facts *own_facts = room_take(&r, b.n * sizeof *facts);
        float *inverse = room_take(&r, b.n * sizeof *inverse);
        float *y = room_take(&r, b.y_floats * sizeof *y);
        uint8_t *codes = room_take(&r, b.bytes);
        put_code(cx->stream, x, own, b.n, b.most, part, inverse, y, own_facts, codes);
        gpu_move(cx, facts, own_facts, b.n * sizeof *facts, false);
        gpu_move(cx, out + slice->out, codes, b.bytes, false);
        gpu_settle(cx);
    }
}

static void give(const struct kernel_ctx *cx, const uint8_t *in, const struct rotate_slice *slice,
                 size_t slices, const float *scale, struct quant_sink to)
{
    for (struct batch b; slices; slice += b.n, scale += b.n, slices -= b.n) {
        struct room r = room_of(cx);
        b = batch_of(&r, slice, slices);
        const struct rotate_slice *own = room_put(&r, slice, b.n * sizeof *slice);
        const float *own_scale = room_put(&r, scale, b.n * sizeof *scale);
        float *y = room_take(&r, b.y_floats * sizeof *y);
        const uint8_t *codes = room_put(&r, in + slice->out, b.bytes);
        put_give(cx->stream, codes, own, b.n, b.most, own_scale, y, to);
        gpu_settle(cx);
    }
}

const struct rotate_stages gpu_rotate_row = {code, give};
