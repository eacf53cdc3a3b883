// Every coordinate as a number of its own format: raw, fp32, fp16, bf16.
#include "base/half.h"
#include "codec/message.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

#define F32_INF_BITS  0x7f800000u
#define F16_INF_BITS  0x7c00u
#define BF16_INF_BITS 0x7f80u

static int want_values(struct msg_in *m, size_t size_bytes, const uint8_t **values, struct err *err)
{
    *values = msg_need(m, size_bytes);
    if (!*values)
        return msg_short("values", err);
    return msg_end(m, err);
}

// raw: the floor. The floats as they lie in memory, little-endian, without a header: what a copy
// costs. Not even the version byte, so that its message is exactly 4 bytes a value.

static size_t raw_bound(const struct codec_inst *c)
{
    return 4 * c->shape->n_values;
}

static int64_t raw_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                          size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    (void)scratch;
    size_t n = c->shape->n_values;
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *p = msg_take(&o, PART_VALUES, 4 * n);
    if (!p)
        return msg_full(&o, err);
    quant_f32_to_le(in->x, n, p);
    report->kept[record_width_of[32]] = (int64_t)n;
    return msg_len(&o);
}

static int f32_payload(const struct codec_inst *c, struct msg_in *m, const uint8_t **values,
                       struct err *err)
{
    size_t n = c->shape->n_values;
    if (want_values(m, 4 * n, values, err))
        return -1;
    if (quant_absmax_bits_le(*values, n) >= F32_INF_BITS)
        return msg_nonfinite(err);
    return 0;
}

static int raw_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                      size_t len, struct quant_sink to, void *scratch, struct err *err)
{
    (void)key, (void)scratch;
    struct msg_in m = {in, in + len};
    const uint8_t *v;
    int rc = f32_payload(c, &m, &v, err);
    if (rc)
        return rc;
    quant_f32_from_le(v, c->shape->n_values, to);
    return 0;
}

const struct codec codec_raw = {
    .name = "raw",
    .help = "floats as they lie in memory, no header: the floor of every comparison",
    .source = "-",
    .flags = CODEC_UNBIASED | CODEC_MASKABLE | CODEC_EXACT | CODEC_ANY_SIZE,
    .bound = raw_bound,
    .encode = raw_encode,
    .decode = raw_decode,
};

// fp32: the same values through the message path of every other codec.

static size_t fp32_bound(const struct codec_inst *c)
{
    return 1 + 4 * c->shape->n_values;
}

static int64_t fp32_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    (void)scratch;
    size_t n = c->shape->n_values;
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *p = msg_put_header(&o, 0) ? NULL : msg_take(&o, PART_VALUES, 4 * n);
    if (!p)
        return msg_full(&o, err);
    quant_f32_to_le(in->x, n, p);
    report->kept[record_width_of[32]] = (int64_t)n;
    return msg_len(&o);
}

static int open_plain(struct msg_in *m, const uint8_t *in, size_t len, struct err *err)
{
    unsigned flags;
    if (msg_open(m, in, len, &flags, err))
        return -1;
    return flags ? msg_bad("header", "unknown flags", err) : 0;
}

static int fp32_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct quant_sink to, void *scratch, struct err *err)
{
    (void)key, (void)scratch;
    struct msg_in m;
    const uint8_t *v;
    int rc = open_plain(&m, in, len, err) ? -1 : f32_payload(c, &m, &v, err);
    if (rc)
        return rc;
    quant_f32_from_le(v, c->shape->n_values, to);
    return 0;
}

const struct codec codec_fp32 = {
    .name = "fp32",
    .help = "single precision, lossless; unlike raw it goes through the message format",
    .source = "-",
    .flags = CODEC_UNBIASED | CODEC_MASKABLE | CODEC_EXACT | CODEC_ANY_SIZE,
    .bound = fp32_bound,
    .encode = fp32_encode,
    .decode = fp32_decode,
};

// fp16.
// Updates of 1e-6 are subnormal halves: below 6e-5 their relative error explodes, below 6e-8 they
// vanish. prescale: a power of two per tensor, one signed byte e with values sent as x 2^e, so that
// the largest lies in [2^14, 2^15).

struct fp16_opt {
    bool prescale;
};

static const struct opt fp16_options[] = {
    OPT(struct fp16_opt, prescale, "prescale", "on", 0, 1, "",
        "a power of two per tensor against subnormal flush"),
};

enum { FP16_EXP_MIN = -85, FP16_EXP_MAX = 126 }; // of |x| < 2^100, and of scales that are normal

static bool fp16_prescaled(const struct codec_inst *c)
{
    return ((const struct fp16_opt *)c->opt)->prescale;
}

static size_t fp16_bound(const struct codec_inst *c)
{
    return 1 + (fp16_prescaled(c) ? c->shape->n_tensors : 0) + 2 * c->shape->n_values;
}

static size_t tensor_values(const struct shape_tensor *t)
{
    return (size_t)t->rows * t->cols;
}

static float exp2_of(int e) // 2^e, e in [-126, 127]
{
    return f32_from_bits((uint32_t)(e + 127) << 23);
}

static int fp16_exponent(const float *x, size_t n)
{
    int e = 14 - ((int)(quant_absmax_bits(x, n) >> 23) - 127);
    return e > FP16_EXP_MAX ? FP16_EXP_MAX : e;
}

static int64_t fp16_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    (void)scratch;
    const struct shape *s = c->shape;
    bool prescale = fp16_prescaled(c);
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *exps =
        msg_put_header(&o, 0) ? NULL : msg_take(&o, PART_SCALES, prescale ? s->n_tensors : 0);
    uint8_t *p = exps ? msg_take(&o, PART_VALUES, 2 * s->n_values) : NULL;
    if (!p)
        return msg_full(&o, err);
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        size_t at = s->tensors[t].offset, n = tensor_values(&s->tensors[t]);
        int e = prescale ? fp16_exponent(in->x + at, n) : 0;
        if (prescale)
            exps[t] = (uint8_t)(int8_t)e;
        quant_f16_to_le(in->x + at, n, exp2_of(e), p + 2 * at);
    }
    report->kept[record_width_of[16]] = (int64_t)s->n_values;
    return msg_len(&o);
}

// Finds and checks both sections; exps is NULL without prescaling.
static int fp16_payload(const struct codec_inst *c, const uint8_t *in, size_t len,
                        const uint8_t **exps, const uint8_t **values, struct err *err)
{
    const struct shape *s = c->shape;
    struct msg_in m;
    if (open_plain(&m, in, len, err))
        return -1;
    *exps = NULL;
    if (fp16_prescaled(c) && !(*exps = msg_need(&m, s->n_tensors)))
        return msg_short("scales", err);
    if (want_values(&m, 2 * s->n_values, values, err))
        return -1;
    for (uint32_t t = 0; *exps && t < s->n_tensors; t++) {
        int e = (int8_t)(*exps)[t];
        if (e < FP16_EXP_MIN || e > FP16_EXP_MAX)
            return msg_bad("scales", "exponent out of range", err);
    }
    if (quant_absmax_bits_f16(*values, s->n_values) >= F16_INF_BITS)
        return msg_nonfinite(err);
    return 0;
}

static int fp16_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct quant_sink to, void *scratch, struct err *err)
{
    (void)key, (void)scratch;
    const uint8_t *exps, *v;
    int rc = fp16_payload(c, in, len, &exps, &v, err);
    if (rc)
        return rc;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        const struct shape_tensor *row = &c->shape->tensors[t];
        float scale = exps ? exp2_of(-(int8_t)exps[t]) : 1.0f;
        quant_f16_from_le(v + 2 * row->offset, tensor_values(row), scale,
                          quant_sink_at(to, row->offset));
    }
    return 0;
}

const struct codec codec_fp16 = {
    .name = "fp16",
    .help = "half precision, round half to even, clamped to +-65504",
    .source = "IEEE 754 binary16",
    .options = fp16_options,
    .n_options = ARRAY_LEN(fp16_options),
    .option_bytes = sizeof(struct fp16_opt),
    .bound = fp16_bound,
    .encode = fp16_encode,
    .decode = fp16_decode,
};

// bf16.

static size_t bf16_bound(const struct codec_inst *c)
{
    return 1 + 2 * c->shape->n_values;
}

static int64_t bf16_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    (void)scratch;
    size_t n = c->shape->n_values;
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *p = msg_put_header(&o, 0) ? NULL : msg_take(&o, PART_VALUES, 2 * n);
    if (!p)
        return msg_full(&o, err);
    quant_bf16_to_le(in->x, n, p);
    report->kept[record_width_of[16]] = (int64_t)n;
    return msg_len(&o);
}

static int bf16_payload(const struct codec_inst *c, const uint8_t *in, size_t len,
                        const uint8_t **values, struct err *err)
{
    struct msg_in m;
    if (open_plain(&m, in, len, err) || want_values(&m, 2 * c->shape->n_values, values, err))
        return -1;
    if (quant_absmax_bits_bf16(*values, c->shape->n_values) >= BF16_INF_BITS)
        return msg_nonfinite(err);
    return 0;
}

static int bf16_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct quant_sink to, void *scratch, struct err *err)
{
    (void)key, (void)scratch;
    const uint8_t *v;
    int rc = bf16_payload(c, in, len, &v, err);
    if (rc)
        return rc;
    quant_bf16_from_le(v, c->shape->n_values, to);
    return 0;
}

const struct codec codec_bf16 = {
    .name = "bf16",
    .help = "the upper half of a float, round half to even",
    .source = "-",
    .bound = bf16_bound,
    .encode = bf16_encode,
    .decode = bf16_decode,
};
