// DRIVE and EDEN: rotate, so that every coordinate is nearly normal, quantise to the best levels of
// a normal distribution, and scale so that the mean is right. The rotation is drawn from the key on
// both sides.
//
// A tensor is cut into slices of a power of two, greedily: what is padded is less than SLICE_MIN
// values per tensor. After the rotation coordinates are exchangeable, so a fraction of a bit means
// that the first of them get one bit more than the others; below one bit the others are not sent at
// all.
#include "base/half.h"
#include "base/pool.h"
#include "base/rng.h"
#include "codec/message.h"
#include "codec/rows.h"
#include "kernels/stages.h"

#include <math.h>

#define SLICE_MIN 64
#define SLICE_MAX ROTATE_MOST // 256 KiB on the stack of each thread

enum { EDEN_UNBIASED, EDEN_MSE };
static const char *const eden_scales[] = {"unbiased", "mse", NULL};

struct eden_opt {
    double bits;
    int32_t scale, slice;
};

static const struct opt eden_options[] = {
    OPT(struct eden_opt, bits, "bits", "1", 0.05, 4, "bits", "of a value, fractions allowed"),
    OPT_ENUM(struct eden_opt, scale, "scale", "unbiased", eden_scales,
             "mse: least error of one message, but shrunk"),
    OPT(struct eden_opt, slice, "slice", "65536", SLICE_MIN, SLICE_MAX, "values",
        "largest slice that is rotated at once, a power of two"),
};

// Slices.

static size_t next_slice(size_t left, size_t most)
{
    size_t d = most;
    while (d > left && d > SLICE_MIN)
        d /= 2;
    if (left < SLICE_MIN)
        for (d = 1; d < left; d *= 2)
            ;
    return d;
}

// How many of d coordinates get which width: the first n_high get one bit more than the rest.
struct widths {
    unsigned high, low; // bits
    size_t n_high, n_low;
};

static struct widths widths_of(const struct codec_inst *c, size_t d)
{
    double bits = ((const struct eden_opt *)c->opt)->bits;
    unsigned low = (unsigned)bits;
    double part = bits - low;
    struct widths s = {.high = low + 1, .low = low};
    s.n_high = (size_t)(part * (double)d + 0.5);
    if (d >= 8)
        s.n_high &= ~(size_t)7;
    if (low == 0 && s.n_high == 0)
        s.n_high = d < 8 ? 1 : 8;
    s.n_low = low ? d - s.n_high : 0;
    return s;
}

static size_t slice_bytes(const struct codec_inst *c, size_t d)
{
    struct widths s = widths_of(c, d);
    return pack_bytes(s.n_high, s.high) + pack_bytes(s.n_low, s.low);
}

static struct rotate_slice slice_at(const struct codec_inst *c, const struct codec_key *key,
                                    uint32_t t, size_t at, size_t n, size_t d, size_t out)
{
    const struct widths s = widths_of(c, d);
    struct rng r = rng_stream(key->seed, RNG_CODEC, key->client, key->version, t);
    return (struct rotate_slice){.at = c->shape->tensors[t].offset + at,
                                 .n = n,
                                 .d = d,
                                 .first = at,
                                 .out = out,
                                 .high = s.high,
                                 .low = s.low,
                                 .n_high = s.n_high,
                                 .n_low = s.n_low,
                                 .key = {r.key[0], r.key[1]},
                                 .ctr = {r.ctr[0], r.ctr[1], r.ctr[2], r.ctr[3]}};
}

// Fills slices, or counts them when slices is NULL; *bytes becomes the length of all codes.
static size_t lay_slices(const struct codec_inst *c, const struct codec_key *key,
                         struct rotate_slice *slices, size_t *bytes)
{
    size_t count = 0, most = (size_t)((const struct eden_opt *)c->opt)->slice;
    *bytes = 0;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        const struct shape_tensor *row = &c->shape->tensors[t];
        size_t n = (size_t)row->rows * row->cols;
        for (size_t at = 0; at < n; count++) {
            size_t d = next_slice(n - at, most), len = n - at < d ? n - at : d;
            if (slices)
                slices[count] = slice_at(c, key, t, at, len, d, *bytes);
            *bytes += slice_bytes(c, d);
            at += len;
        }
    }
    return count;
}

static int eden_check(const struct codec_inst *c, struct err *err)
{
    int32_t slice = ((const struct eden_opt *)c->opt)->slice;
    if (slice & (slice - 1))
        return err_set(err, "slice=%d is not a power of two", (int)slice);
    return 0;
}

static size_t count_slices(const struct codec_inst *c)
{
    size_t bytes;
    return lay_slices(c, NULL, NULL, &bytes);
}

static size_t eden_scratch(const struct codec_inst *c)
{
    size_t n = count_slices(c);
    return SCRATCH_ROUND(n * sizeof(struct rotate_slice)) +
           SCRATCH_ROUND(n * sizeof(struct rotate_facts)) + SCRATCH_ROUND(n * sizeof(float));
}

static size_t eden_bound(const struct codec_inst *c)
{
    size_t bytes, n = lay_slices(c, NULL, NULL, &bytes);
    return 1 + 4 * n + bytes;
}

// The message: header, a scale per slice, codes.

struct work {
    const struct codec_inst *c;
    const struct rotate_stages *on;
    const struct kernel_ctx *cx;
    bool whole;
    size_t n, bytes; // slices; of all codes
    struct rotate_slice *slice;
    struct rotate_facts *facts;
    float *scale;
    const float *x;
    struct quant_sink to;
    uint8_t *codes;
};

static struct work lay_work(const struct codec_inst *c, const struct codec_key *key,
                            const struct codec_device *on, void *scratch)
{
    const size_t n = count_slices(c);
    struct work w = {.c = c,
                     .on = codec_column(on)->rotate,
                     .cx = codec_context(on),
                     .whole = codec_column(on)->whole};
    w.slice = scratch_take(&scratch, n * sizeof *w.slice);
    w.facts = scratch_take(&scratch, n * sizeof *w.facts);
    w.scale = scratch_take(&scratch, n * sizeof *w.scale);
    w.n = lay_slices(c, key, w.slice, &w.bytes);
    return w;
}

static void code_slices(const struct work *w, size_t at, size_t n)
{
    w->on->code(w->cx, w->x, w->slice + at, n, w->facts + at, w->codes);
}

static void code_item(void *arg, uint32_t i)
{
    code_slices(arg, i, 1);
}

static void give_slices(const struct work *w, size_t at, size_t n)
{
    w->on->give(w->cx, w->codes, w->slice + at, n, w->scale + at, w->to);
}

static void give_item(void *arg, uint32_t i)
{
    give_slices(arg, i, 1);
}

static float scale_of(const struct codec_inst *c, const struct rotate_slice *s,
                      const struct rotate_facts *f)
{
    double v = 0;
    if (f->norm_sq > 0x1p-200 && f->dot > 0)
        v = ((const struct eden_opt *)c->opt)->scale == EDEN_MSE
                ? f->dot / (f->level_sq * (double)s->d)
                : f->norm_sq / f->dot;
    return v < (double)CODEC_LIMIT ? (float)v : CODEC_LIMIT;
}

static int64_t eden_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    struct work w = lay_work(c, &in->key, in->on, scratch);
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *scales = msg_put_header(&o, 0) ? NULL : msg_take(&o, PART_SCALES, 4 * w.n);
    w.codes = scales ? msg_take(&o, PART_VALUES, w.bytes) : NULL;
    if (!w.codes)
        return msg_full(&o, err);
    w.x = in->x;
    if (w.whole)
        code_slices(&w, 0, w.n);
    else
        pool_each(c->shape->n_values, (uint32_t)w.n, code_item, &w);
    for (size_t i = 0; i < w.n; i++) {
        if (w.facts[i].max_bits >= f32_bits(CODEC_LIMIT))
            return codec_bad_input(c, in->x, in->on, err);
        put_f32(scales + 4 * i, scale_of(c, &w.slice[i], &w.facts[i]));
    }
    lap(in->laps, STAGE_QUANTISE);
    double bits = ((const struct eden_opt *)c->opt)->bits;
    report->kept[record_width_of[(int)ceil(bits)]] = (int64_t)c->shape->n_values;
    return msg_len(&o);
}

static int eden_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct codec_output to, void *scratch, struct err *err)
{
    struct work w = lay_work(c, key, to.on, scratch);
    struct msg_in m;
    if (msg_open_plain(&m, in, len, err))
        return -1;
    const uint8_t *scales = msg_need(&m, 4 * w.n), *codes = scales ? msg_need(&m, w.bytes) : NULL;
    if (!codes)
        return msg_short(scales ? "values" : "scales", err);
    if (msg_end(&m, err))
        return -1;
    for (size_t i = 0; i < w.n; i++) {
        w.scale[i] = get_f32(scales + 4 * i);
        if (!msg_scale_ok(w.scale[i]))
            return msg_bad("scales", "one is not finite, or too large", err);
    }
    w.codes = (uint8_t *)(uintptr_t)codes; // read only from here on
    w.to = to.sink;
    if (w.whole)
        give_slices(&w, 0, w.n);
    else
        pool_each(c->shape->n_values, (uint32_t)w.n, give_item, &w);
    return 0;
}

// Error of one message: pi/2 - 1 = 0.57 at one bit, (pi/2) / b - 1 below.
static unsigned eden_flags(const struct codec_inst *c)
{
    const struct eden_opt *o = c->opt;
    unsigned flags = c->row->flags;
    if (o->scale == EDEN_UNBIASED)
        flags |= CODEC_UNBIASED | (o->bits < 0.8 ? CODEC_NO_EF : 0u);
    return flags;
}

const struct codec codec_eden = {
    .name = "eden",
    .help =
        "rotated to a normal distribution, then its best 1- to 4-bit levels; any fraction of a bit",
    .source = "Vargaftik et al. 2021 (DRIVE), 2022 (EDEN)",
    .options = eden_options,
    .n_options = ARRAY_LEN(eden_options),
    .option_bytes = sizeof(struct eden_opt),
    .flags = CODEC_SELF_CHECK | CODEC_RANDOM,
    .flags_of = eden_flags,
    .stages = CODEC_ON_ROTATE,
    .check = eden_check,
    .scratch_bytes = eden_scratch,
    .bound = eden_bound,
    .encode = eden_encode,
    .decode = eden_decode,
};
