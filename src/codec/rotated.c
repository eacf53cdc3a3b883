// DRIVE and EDEN: rotate, so that every coordinate is nearly normal, quantise to the best levels of
// a normal distribution, and scale so that the mean is right. The rotation is drawn from the key on
// both sides.
//
// A tensor is cut into slices of a power of two, greedily: what is padded is less than SLICE_MIN
// values a tensor. After the rotation coordinates are exchangeable, so a fraction of a bit means
// that the first of them get one bit more than the others; below one bit the others are not sent at
// all.
#include "base/pool.h"
#include "base/rng.h"
#include "codec/message.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

#include <math.h>

#define SLICE_MIN 64
#define SLICE_MAX 65536 // 256 KiB on the stack of each thread
#define TILE      1024

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

// Lloyd-Max levels of N(0, 1) for 1 to 4 bits: the upper half, ascending.
static const float centroid[5][8] = {
    {0},
    {0.797884561f},
    {0.452780035f, 1.510417608f},
    {0.245094179f, 0.756005281f, 1.343909279f, 2.151945705f},
    {0.128395030f, 0.388048299f, 0.656759119f, 0.942340456f, 1.256231197f, 1.618046386f,
     2.069017227f, 2.732589571f},
};

static void eden_levels(unsigned bits, float scale, float table[16])
{
    unsigned half = 1u << (bits - 1);
    for (unsigned i = 0; i < half; i++) {
        table[half + i] = centroid[bits][i] * scale;
        table[half - 1 - i] = -centroid[bits][i] * scale;
    }
}

static void eden_encode_run(unsigned bits, const float *y, size_t n, float inv, uint8_t *code)
{
    float table[16], bound[15];
    int n_bounds = (1 << bits) - 1;
    eden_levels(bits, 1, table);
    for (int i = 0; i < n_bounds; i++)
        bound[i] = (table[i] + table[i + 1]) * 0.5f;
    quant_bounds_u8(y, n, inv, bound, n_bounds, code);
}

// Slices.

struct slice {
    uint32_t tensor;
    size_t at, n, d; // values [at, at + n) of the tensor, padded to d
    size_t bytes;    // where its codes begin
};

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

// How many of d coordinates get which width; the first more, the rest fewer.
struct split {
    unsigned high, low; // bits
    size_t n_high, n_low;
};

static struct split split_of(const struct codec_inst *c, size_t d)
{
    double bits = ((const struct eden_opt *)c->opt)->bits;
    unsigned low = (unsigned)bits;
    double part = bits - low;
    struct split s = {.high = low + 1, .low = low};
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
    struct split s = split_of(c, d);
    return pack_bytes(s.n_high, s.high) + pack_bytes(s.n_low, s.low);
}

// Fills slices, or counts them when slices is NULL; *bytes becomes the length of all codes.
static size_t lay_slices(const struct codec_inst *c, struct slice *slices, size_t *bytes)
{
    size_t count = 0, most = (size_t)((const struct eden_opt *)c->opt)->slice;
    *bytes = 0;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        const struct shape_tensor *row = &c->shape->tensors[t];
        size_t n = (size_t)row->rows * row->cols;
        for (size_t at = 0; at < n; count++) {
            size_t d = next_slice(n - at, most), len = n - at < d ? n - at : d;
            if (slices)
                slices[count] = (struct slice){t, at, len, d, *bytes};
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

static size_t eden_scratch(const struct codec_inst *c)
{
    size_t bytes;
    return SCRATCH_ROUND(lay_slices(c, NULL, &bytes) * sizeof(struct slice));
}

static size_t eden_bound(const struct codec_inst *c)
{
    size_t bytes, n = lay_slices(c, NULL, &bytes);
    return 1 + 4 * n + bytes;
}

// One slice.

static void draw_signs(const struct codec_inst *c, const struct codec_key *key,
                       const struct slice *s, uint32_t bits[SLICE_MAX / 32])
{
    (void)c;
    struct rng stream = rng_stream(key->seed, RNG_CODEC, key->client, key->version, s->tensor);
    // A slice begins at a multiple of 64 values, two words; streams are read in steps of four.
    size_t first = s->at / 32, skip = first % 4, words = (s->d + 31) / 32;
    uint32_t buf[SLICE_MAX / 32 + 4];
    philox_words(stream.key, stream.ctr, first - skip, words + skip, buf);
    memcpy(bits, buf + skip, words * sizeof *bits);
}

// Codes of a run of coordinates into out; returns the sum of level x coordinate, adds levels
// squared.
static double encode_run(unsigned bits, const float *y, size_t n, float inv, uint8_t *out,
                         double *level_sq)
{
    float table[16], level[TILE];
    uint8_t code[TILE];
    double dot = 0;
    if (n == 0)
        return 0;
    eden_levels(bits, 1, table);
    for (size_t at = 0; at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        eden_encode_run(bits, y + at, m, inv, code);
        pack_u8(code, m, bits, out + at / 8 * bits);
        quant_table_from_u8(code, m, table, (struct quant_sink){level, 1, false});
        dot += quant_dot(level, y + at, m);
        *level_sq += quant_sum_sq(level, m);
    }
    return dot;
}

// False when a value is not finite or too large.
static bool encode_slice(const struct codec_inst *c, const struct codec_key *key,
                         const struct slice *s, const float *x, uint8_t *scale, uint8_t *codes)
{
    uint32_t bits[SLICE_MAX / 32];
    float y[SLICE_MAX];
    uint32_t max = quant_absmax_bits(x, s->n), limit;
    const float limit_f = CODEC_LIMIT;
    memcpy(&limit, &limit_f, sizeof limit);
    if (max >= limit)
        return false;
    draw_signs(c, key, s, bits);
    rotate_signs(x, bits, s->n, y);
    memset(y + s->n, 0, (s->d - s->n) * sizeof *y);
    rotate_fwht(y, s->d);
    // Unnormalised, y is sqrt(d) times the rotated vector, whose coordinates are |x| / sqrt(d) N(0,
    // 1).
    double norm_sq = quant_sum_sq(x, s->n), level_sq = 0;
    float inv = norm_sq > 0x1p-200 ? (float)(1 / sqrt(norm_sq)) : 0;
    struct split k = split_of(c, s->d);
    double dot = encode_run(k.high, y, k.n_high, inv, codes, &level_sq);
    dot += encode_run(k.low, y + k.n_high, k.n_low, inv, codes + pack_bytes(k.n_high, k.high),
                      &level_sq);
    double v = 0;
    if (inv > 0 && dot > 0)
        v = ((const struct eden_opt *)c->opt)->scale == EDEN_MSE ? dot / (level_sq * (double)s->d)
                                                                 : norm_sq / dot;
    put_f32(scale, v < (double)CODEC_LIMIT ? (float)v : CODEC_LIMIT);
    return true;
}

static void decode_run(unsigned bits, const uint8_t *in, size_t n, float scale, float *y)
{
    float table[16] = {0};
    uint8_t code[TILE];
    if (n == 0)
        return;
    eden_levels(bits, scale, table);
    for (size_t at = 0; at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        unpack_u8(in + at / 8 * bits, m, bits, code);
        quant_table_from_u8(code, m, table, (struct quant_sink){y + at, 1, false});
    }
}

static void decode_slice(const struct codec_inst *c, const struct codec_key *key,
                         const struct slice *s, float scale, const uint8_t *codes,
                         struct quant_sink to)
{
    uint32_t bits[SLICE_MAX / 32];
    float y[SLICE_MAX];
    struct split k = split_of(c, s->d);
    draw_signs(c, key, s, bits);
    decode_run(k.high, codes, k.n_high, scale, y);
    decode_run(k.low, codes + pack_bytes(k.n_high, k.high), k.n_low, scale, y + k.n_high);
    memset(y + k.n_high + k.n_low, 0, (s->d - k.n_high - k.n_low) * sizeof *y);
    rotate_fwht(y, s->d);
    rotate_signs(y, bits, s->n, y);
    quant_f32_give(y, s->n, to);
}

// The message: header, a scale a slice, codes.

struct encode_job {
    const struct codec_inst *c;
    const struct codec_input *in;
    const struct slice *slices;
    uint8_t *scales, *codes;
    _Atomic bool bad;
};

static void encode_item(void *arg, uint32_t i)
{
    struct encode_job *j = arg;
    const struct slice *s = &j->slices[i];
    const float *x = j->in->x + j->c->shape->tensors[s->tensor].offset + s->at;
    if (!encode_slice(j->c, &j->in->key, s, x, j->scales + 4 * (size_t)i, j->codes + s->bytes))
        j->bad = true;
}

static int64_t eden_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    struct slice *slices = scratch;
    size_t bytes, n = lay_slices(c, slices, &bytes);
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *scales = msg_put_header(&o, 0) ? NULL : msg_take(&o, PART_SCALES, 4 * n);
    uint8_t *codes = scales ? msg_take(&o, PART_VALUES, bytes) : NULL;
    if (!codes)
        return msg_full(&o, err);
    struct encode_job j = {c, in, slices, scales, codes, false};
    pool_each(c->shape->n_values, (uint32_t)n, encode_item, &j);
    if (j.bad)
        return codec_bad_input(c, in->x, in->on, err);
    lap(in->laps, STAGE_QUANTISE);
    double bits = ((const struct eden_opt *)c->opt)->bits;
    report->kept[record_width_of[(int)ceil(bits)]] = (int64_t)c->shape->n_values;
    return msg_len(&o);
}

struct decode_job {
    const struct codec_inst *c;
    const struct codec_key *key;
    const struct slice *slices;
    const uint8_t *scales, *codes;
    struct quant_sink to;
};

static void decode_item(void *arg, uint32_t i)
{
    const struct decode_job *j = arg;
    const struct slice *s = &j->slices[i];
    size_t at = j->c->shape->tensors[s->tensor].offset + s->at;
    decode_slice(j->c, j->key, s, get_f32(j->scales + 4 * (size_t)i), j->codes + s->bytes,
                 quant_sink_at(j->to, at));
}

static int eden_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct codec_output to, void *scratch, struct err *err)
{
    struct slice *slices = scratch;
    size_t bytes, n = lay_slices(c, slices, &bytes);
    struct msg_in m;
    if (msg_open_plain(&m, in, len, err))
        return -1;
    const uint8_t *scales = msg_need(&m, 4 * n), *codes = scales ? msg_need(&m, bytes) : NULL;
    if (!codes)
        return msg_short(scales ? "values" : "scales", err);
    if (msg_end(&m, err))
        return -1;
    for (size_t i = 0; i < n; i++)
        if (!msg_scale_ok(get_f32(scales + 4 * i)))
            return msg_bad("scales", "one is not finite, or too large", err);
    struct decode_job j = {c, key, slices, scales, codes, to.sink};
    pool_each(c->shape->n_values, (uint32_t)n, decode_item, &j);
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
    .check = eden_check,
    .scratch_bytes = eden_scratch,
    .bound = eden_bound,
    .encode = eden_encode,
    .decode = eden_decode,
};
