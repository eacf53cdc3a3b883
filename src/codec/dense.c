// Every coordinate as a number of its own format: raw, fp32, fp16, bf16.
#include "codec/dense.h"

#include "base/half.h"
#include "base/pool.h"
#include "codec/blocks.h"
#include "codec/rows.h"
#include "kernels/stages.h"

#include <string.h>

// The formats: bits of the least magnitude that they cannot hold, as a float and as they write it.
static const struct {
    size_t size_bytes;
    uint32_t beyond, nonfinite;
} formats[DENSE_FORMATS] = {
    [DENSE_FP32] = {4, 0x7f800000u, 0x7f800000u},
    [DENSE_FP16] = {2, 0x477ff000u, 0x7c00u}, // what rounds to 65536
    [DENSE_BF16] = {2, 0x7f7f8000u, 0x7f80u},
};

size_t dense_bytes(enum dense_format f, size_t n)
{
    return n * formats[f].size_bytes;
}

unsigned dense_bits(enum dense_format f)
{
    return 8 * (unsigned)formats[f].size_bytes;
}

static void write_values(enum dense_format f, const float *x, size_t n, uint8_t *p)
{
    if (f == DENSE_FP32)
        quant_f32_to_le(x, n, p);
    else if (f == DENSE_FP16)
        quant_f16_to_le(x, n, 1, p);
    else
        quant_bf16_to_le(x, n, p);
}

static void read_values(enum dense_format f, const uint8_t *p, size_t n, struct quant_sink to)
{
    if (f == DENSE_FP32)
        quant_f32_from_le(p, n, to);
    else if (f == DENSE_FP16)
        quant_f16_from_le(p, n, 1, to);
    else
        quant_bf16_from_le(p, n, to);
}

static uint32_t largest_bits(enum dense_format f, const uint8_t *p, size_t n)
{
    return f == DENSE_FP32   ? quant_absmax_bits_le(p, n)
           : f == DENSE_FP16 ? quant_absmax_bits_f16(p, n)
                             : quant_absmax_bits_bf16(p, n);
}

int dense_put(struct msg_out *o, enum dense_format f, const float *x, size_t n, struct err *err)
{
    uint8_t *p = msg_take(o, PART_VALUES, dense_bytes(f, n));
    if (!p)
        return msg_full(o, err);
    uint32_t most = quant_absmax_bits(x, n);
    if (most >= formats[f].beyond) {
        if (most < formats[DENSE_FP32].beyond)
            err_set(err, "a value is too large for %s; take fp32",
                    f == DENSE_FP16 ? "fp16" : "bf16");
        else
            err_set(err, "a value is not finite");
        return CODEC_NONFINITE;
    }
    write_values(f, x, n, p);
    o->report->kept[record_width_of[dense_bits(f)]] += (int64_t)n;
    return 0;
}

// The values, all finite; NULL with *rc and err where they are not.
static const uint8_t *need_values(struct msg_in *m, enum dense_format f, size_t n, int *rc,
                                  struct err *err)
{
    const uint8_t *p = msg_need(m, dense_bytes(f, n));
    if (!p) {
        *rc = msg_short("values", err);
        return NULL;
    }
    if (largest_bits(f, p, n) < formats[f].nonfinite)
        return p;
    *rc = msg_nonfinite(err);
    return NULL;
}

int dense_get(struct msg_in *m, enum dense_format f, struct quant_sink to, size_t n,
              struct err *err)
{
    int rc = 0;
    const uint8_t *p = need_values(m, f, n, &rc, err);
    if (p)
        read_values(f, p, n, to);
    return rc;
}

// The codecs. raw is the floor: the floats as they lie in memory, little-endian, what a copy costs.
// It has no header either, so that its message is exactly 4 bytes per value.

struct dense_kind { // the family of a row
    enum dense_format format;
    bool bare;
};

static const struct dense_kind *kind_of(const struct codec_inst *c)
{
    return c->row->family;
}

struct dense_opt {
    bool prescale;
};

// Updates of 1e-6 are subnormal halves: below 6e-5 their relative error explodes, below 6e-8 they
// vanish. prescale: a power of two per tensor, one signed byte e with values sent as x 2^e, so that
// the largest lies in [2^14, 2^15).
static const struct opt fp16_options[] = {
    OPT(struct dense_opt, prescale, "prescale", "on", 0, 1, "",
        "a power of two per tensor against subnormal flush"),
};

enum { FP16_EXP_MIN = -85, FP16_EXP_MAX = 126 }; // of |x| < 2^100, and of scales that are normal

// Only fp16 has the option.
static bool prescaled(const struct codec_inst *c)
{
    return c->opt && ((const struct dense_opt *)c->opt)->prescale;
}

static size_t dense_bound(const struct codec_inst *c)
{
    return (kind_of(c)->bare ? 0 : 1) + (prescaled(c) ? c->shape->n_tensors : 0) +
           dense_bytes(kind_of(c)->format, c->shape->n_values);
}

static float exp2_of(int e) // 2^e, e in [-126, 127]
{
    return f32_from_bits((uint32_t)(e + 127) << 23);
}

// A tensor is a group of its own.
static struct quant_run run_of(const struct codec_inst *c, uint32_t t)
{
    const struct shape_tensor *row = &c->shape->tensors[t];
    size_t n = (size_t)row->rows * row->cols;
    return (struct quant_run){.at = row->offset,
                              .n = n,
                              .group = n,
                              .first = t,
                              .out = dense_bytes(kind_of(c)->format, row->offset)};
}

// A call of the stages goes over all tensors on a device that wants that, else over one.
struct dense_job {
    const struct codec_inst *c;
    const struct codec_stages *on;
    const struct kernel_ctx *cx;
    struct quant_rule rule;
    struct quant_run *run; // of all tensors in one call
    struct quant_stats *stats;
    float *scale;
    const float *x;
    struct quant_sink to;
    uint8_t *exps, *values;
};

static size_t dense_stage(const struct codec_inst *c)
{
    size_t n = c->shape->n_tensors;
    return SCRATCH_ROUND(n * sizeof(struct quant_run)) +
           SCRATCH_ROUND(n * sizeof(struct quant_stats)) + SCRATCH_ROUND(n * sizeof(float));
}

static struct dense_job job_of(const struct codec_inst *c, const struct codec_device *on)
{
    static const enum quant_kind kind[DENSE_FORMATS] = {QUANT_FP32, QUANT_FP16, QUANT_BF16};
    struct dense_job j = {.c = c,
                          .on = codec_column(on),
                          .cx = codec_context(on),
                          .rule = {.kind = kind[kind_of(c)->format], .scales = 1}};
    if (!on)
        return j;
    void *stage = on->stage;
    j.run = scratch_take(&stage, c->shape->n_tensors * sizeof *j.run);
    j.stats = scratch_take(&stage, c->shape->n_tensors * sizeof *j.stats);
    j.scale = scratch_take(&stage, c->shape->n_tensors * sizeof *j.scale);
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        j.run[t] = run_of(c, t);
    return j;
}

// The power of two by which a tensor with this largest magnitude is scaled.
static int exponent(uint32_t max_bits)
{
    int e = 14 - ((int)(max_bits >> 23) - 127);
    return e > FP16_EXP_MAX ? FP16_EXP_MAX : e;
}

static void encode_tensor(void *arg, uint32_t t)
{
    const struct dense_job *j = arg;
    struct quant_run r = run_of(j->c, t);
    struct quant_stats stats = {0};
    float scale = 1;
    r.first = 0;
    if (j->exps) {
        j->on->quant->fit(j->cx, j->x, &r, 1, 0, &stats, NULL);
        j->exps[t] = (uint8_t)(int8_t)exponent(stats.max_bits);
        scale = exp2_of((int8_t)j->exps[t]);
    }
    j->on->quant->code(j->cx, j->x, &r, 1, &j->rule, &scale, j->values);
}

static void encode_whole(const struct dense_job *j)
{
    const uint32_t n = j->c->shape->n_tensors;
    if (j->exps)
        j->on->quant->fit(j->cx, j->x, j->run, n, 0, j->stats, NULL);
    for (uint32_t t = 0; t < n; t++) {
        if (j->exps)
            j->exps[t] = (uint8_t)(int8_t)exponent(j->run[t].n ? j->stats[t].max_bits : 0);
        j->scale[t] = j->exps ? exp2_of((int8_t)j->exps[t]) : 1;
    }
    j->on->quant->code(j->cx, j->x, j->run, n, &j->rule, j->scale, j->values);
}

static int64_t dense_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                            size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    (void)scratch;
    const struct shape *s = c->shape;
    const enum dense_format f = kind_of(c)->format;
    struct dense_job j = job_of(c, in->on);
    struct msg_out o;
    msg_init(&o, out, cap, report);
    if (!kind_of(c)->bare && msg_put_header(&o, 0))
        return msg_full(&o, err);
    if (prescaled(c) && !(j.exps = msg_take(&o, PART_SCALES, s->n_tensors)))
        return msg_full(&o, err);
    j.values = msg_take(&o, PART_VALUES, dense_bytes(f, s->n_values));
    if (!j.values)
        return msg_full(&o, err);
    j.x = in->x;
    if (j.on->whole)
        encode_whole(&j);
    else if (f == DENSE_FP32)
        write_values(f, in->x, s->n_values, j.values);
    else
        pool_each(s->n_values, s->n_tensors, encode_tensor, &j);
    lap(in->laps, f == DENSE_FP32 ? STAGE_PACK : STAGE_QUANTISE);
    report->kept[record_width_of[dense_bits(f)]] = (int64_t)s->n_values;
    return msg_len(&o);
}

static void decode_tensor(void *arg, uint32_t t)
{
    const struct dense_job *j = arg;
    struct quant_run r = run_of(j->c, t);
    const float scale = j->exps ? exp2_of(-(int8_t)j->exps[t]) : 1;
    r.first = 0;
    j->on->quant->give(j->cx, j->values, &r, 1, &j->rule, &scale, j->to, false);
}

static void decode_whole(const struct dense_job *j)
{
    const uint32_t n = j->c->shape->n_tensors;
    for (uint32_t t = 0; t < n; t++)
        j->scale[t] = j->exps ? exp2_of(-(int8_t)j->exps[t]) : 1;
    j->on->quant->give(j->cx, j->values, j->run, n, &j->rule, j->scale, j->to, false);
}

static int check_exps(const uint8_t *exps, uint32_t n, struct err *err)
{
    for (uint32_t t = 0; t < n; t++)
        if ((int8_t)exps[t] < FP16_EXP_MIN || (int8_t)exps[t] > FP16_EXP_MAX)
            return msg_bad("scales", "exponent out of range", err);
    return 0;
}

static int dense_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                        size_t len, struct codec_output to, void *scratch, struct err *err)
{
    (void)key, (void)scratch;
    const struct shape *s = c->shape;
    const enum dense_format f = kind_of(c)->format;
    struct dense_job j = job_of(c, to.on);
    struct msg_in m = {in, in + len};
    int rc = 0;
    if (!kind_of(c)->bare && msg_open_plain(&m, in, len, err))
        return -1;
    const uint8_t *exps = prescaled(c) ? msg_need(&m, s->n_tensors) : NULL;
    if (prescaled(c) && !exps)
        return msg_short("scales", err);
    const uint8_t *p = need_values(&m, f, s->n_values, &rc, err);
    if (!p)
        return rc;
    if (msg_end(&m, err) || (exps && check_exps(exps, s->n_tensors, err)))
        return -1;
    j.exps = (uint8_t *)(uintptr_t)exps; // read only from here on
    j.values = (uint8_t *)(uintptr_t)p;
    j.to = to.sink;
    if (j.on->whole)
        decode_whole(&j);
    else if (f == DENSE_FP32)
        read_values(f, p, s->n_values, to.sink);
    else
        pool_each(s->n_values, s->n_tensors, decode_tensor, &j);
    return 0;
}

int dense_format_of(const struct codec_inst *c, enum dense_format *f)
{
    if (c->row->encode != dense_encode)
        return -1;
    *f = kind_of(c)->format;
    return 0;
}

// Blocks.

struct dense_open {
    const uint8_t *exps, *values;
};

static void *dense_open(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                        size_t len, void **scratch, struct err *err)
{
    (void)key, (void)len, (void)err; // its own message
    struct dense_open *d = scratch_take(scratch, sizeof *d);
    d->exps = in + (kind_of(c)->bare ? 0 : 1);
    d->values = d->exps + (prescaled(c) ? c->shape->n_tensors : 0);
    return d;
}

static int dense_put_block(const struct codec_inst *c, const void *open, const struct block *b,
                           struct msg_out *o, void *scratch)
{
    (void)scratch;
    const struct dense_open *d = open;
    const enum dense_format f = kind_of(c)->format;
    if (!kind_of(c)->bare && msg_put_header(o, 0))
        return -1;
    uint8_t *exps = msg_take(o, PART_SCALES, prescaled(c) ? b->shape.n_tensors : 0);
    uint8_t *values = msg_take(o, PART_VALUES, dense_bytes(f, b->shape.n_values));
    if (!exps || !values)
        return -1;
    for (uint32_t t = 0; t < b->shape.n_tensors && prescaled(c); t++)
        exps[t] = d->exps[b->tensor[t]];
    memcpy(values, d->values + dense_bytes(f, b->range.from), dense_bytes(f, b->shape.n_values));
    return 0;
}

static size_t dense_open_bytes(const struct codec_inst *c)
{
    (void)c;
    return SCRATCH_ROUND(sizeof(struct dense_open));
}

static size_t dense_put_bytes(const struct codec_inst *c)
{
    (void)c;
    return 0;
}

const struct codec_blocks blocks_dense = {
    .open = dense_open,
    .put = dense_put_block,
    .open_bytes = dense_open_bytes,
    .put_bytes = dense_put_bytes,
};

#define DENSE_ROW(kind)                                                                            \
    .stages = CODEC_ON_QUANT, .stage_bytes = dense_stage, .bound = dense_bound,                    \
    .encode = dense_encode, .decode = dense_decode, .blocks = &blocks_dense, .family = &(kind)

static const struct dense_kind raw_kind = {DENSE_FP32, true}, fp32_kind = {DENSE_FP32, false},
                               fp16_kind = {DENSE_FP16, false}, bf16_kind = {DENSE_BF16, false};

const struct codec codec_raw = {
    .name = "raw",
    .help = "floats as they lie in memory, no header: the floor of every comparison",
    .source = "-",
    .flags = CODEC_UNBIASED | CODEC_MASKABLE | CODEC_EXACT | CODEC_ANY_SIZE,
    DENSE_ROW(raw_kind),
};

const struct codec codec_fp32 = {
    .name = "fp32",
    .help = "single precision, lossless; unlike raw it goes through the message format",
    .source = "-",
    .flags = CODEC_UNBIASED | CODEC_MASKABLE | CODEC_EXACT | CODEC_ANY_SIZE,
    DENSE_ROW(fp32_kind),
};

const struct codec codec_fp16 = {
    .name = "fp16",
    .help = "half precision, round half to even, clamped to +-65504",
    .source = "IEEE 754 binary16",
    .options = fp16_options,
    .n_options = ARRAY_LEN(fp16_options),
    .option_bytes = sizeof(struct dense_opt),
    DENSE_ROW(fp16_kind),
};

const struct codec codec_bf16 = {
    .name = "bf16",
    .help = "the upper half of a float, round half to even",
    .source = "-",
    DENSE_ROW(bf16_kind),
};
