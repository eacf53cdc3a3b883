// DeMo: momentum is cut into small blocks, each block is transformed (DCT-II), its largest
// coefficients are sent and taken out of the momentum. The server averages each coefficient over
// those who sent it, transforms back and steps along the sign.
//
// Message: header, count, an exponent per class, positions of coefficients, values.
#include "base/fmath.h"
#include "base/half.h"
#include "base/pool.h"
#include "codec/largest.h"
#include "codec/message.h"
#include "codec/positions.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

#include <math.h>

#define CHUNK_MAX DCT_MOST
#define CLASSES   3
enum { VALUE_FP16, VALUE_FP32 };
static const char *const value_choices[] = {"fp16", "fp32", NULL};
enum { FP16_EXP_MIN = -93, FP16_EXP_MAX = 126 }; // coefficients are up to 64 times an update

struct demo_opt {
    int32_t chunk, keep, value, index;
    double decay, step;
    bool sign;
};

static const struct opt demo_options[] = {
    OPT(struct demo_opt, chunk, "chunk", "64", 1, CHUNK_MAX, "",
        "blocks have the largest divisor of rows and of columns up to this"),
    OPT(struct demo_opt, keep, "keep", "32", 1, CHUNK_MAX *CHUNK_MAX, "", "coefficients per block"),
    OPT(struct demo_opt, decay, "decay", "0.999", 0, 1, "", "of the momentum, per round"),
    OPT(struct demo_opt, sign, "sign", "on", 0, 1, "", "the server steps along the sign"),
    OPT(struct demo_opt, step, "step", "0.001", 1e-12, 1e3, "", "length of that step"),
    OPT_ENUM(struct demo_opt, value, "value", "fp16", value_choices,
             "format of coefficients; fp16 is prescaled per class"),
    OPT_ENUM(struct demo_opt, index, "index", "auto", positions_choices, "coding of positions"),
};

static const struct demo_opt *options(const struct codec_inst *c)
{
    return c->opt;
}

// Blocks.

static size_t divisor(size_t n, size_t most)
{
    size_t d = n < most ? n : most;
    while (d > 1 && n % d)
        d--;
    return d;
}

// Blocks of one tensor, and how many coefficients of each are kept.
struct blocks {
    struct dct_blocks of;
    size_t count, size, keep;
};

static struct blocks blocks_of(const struct codec_inst *c, const struct shape_tensor *t)
{
    struct blocks b = {0};
    size_t most = (size_t)options(c)->chunk, keep = (size_t)options(c)->keep;
    if (t->rows == 0 || t->cols == 0)
        return b;
    b.of.r = divisor(t->rows, most);
    b.of.c = divisor(t->cols, most);
    b.of.down = t->rows / b.of.r;
    b.of.across = t->cols / b.of.c;
    b.count = b.of.down * b.of.across;
    b.size = b.of.r * b.of.c;
    b.keep = keep < b.size ? keep : b.size;
    return b;
}

static size_t most_kept(const struct codec_inst *c)
{
    size_t k = 0;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        struct blocks b = blocks_of(c, &c->shape->tensors[t]);
        k += b.count * b.keep;
    }
    return k;
}

// The transform.

static void make_basis(struct dct_basis *b, size_t n)
{
    for (size_t k = 0; k < n; k++)
        for (size_t j = 0; j < n; j++) {
            size_t turn = (2 * j + 1) * k % (4 * n); // of 4 n in a circle
            double v =
                fmath_cos2pi((double)turn / (double)(4 * n)) * sqrt((k ? 2.0 : 1.0) / (double)n);
            b->d[k * n + j] = (float)v;
            b->t[j * n + k] = (float)v;
        }
}

// Of all tensors; y has the update's layout, tensor by tensor.
struct forward_job {
    const struct codec_inst *c;
    const float *x;
    float *y;
};

static void forward_tensor(void *arg, uint32_t t)
{
    const struct forward_job *j = arg;
    const struct shape_tensor *row = &j->c->shape->tensors[t];
    const struct blocks b = blocks_of(j->c, row);
    struct dct_basis down, across;
    make_basis(&down, b.of.r);
    make_basis(&across, b.of.c);
    dct_forward(&b.of, &down, &across, j->x + row->offset, j->y + row->offset);
}

static void forward_all(const struct codec_inst *c, const float *x, float *y)
{
    struct forward_job j = {c, x, y};
    pool_each(c->shape->n_values, c->shape->n_tensors, forward_tensor, &j);
}

struct backward_job {
    const struct codec_inst *c;
    const float *y;
    struct quant_sink to;
};

static void backward_tensor(void *arg, uint32_t t)
{
    const struct backward_job *j = arg;
    const struct shape_tensor *row = &j->c->shape->tensors[t];
    const struct blocks b = blocks_of(j->c, row);
    struct dct_basis down, across;
    make_basis(&down, b.of.r);
    make_basis(&across, b.of.c);
    dct_backward(&b.of, &down, &across, j->y + row->offset, quant_sink_at(j->to, row->offset));
}

static void backward_all(const struct codec_inst *c, const float *y, struct quant_sink to)
{
    struct backward_job j = {c, y, to};
    pool_each(c->shape->n_values, c->shape->n_tensors, backward_tensor, &j);
}

// The message.

static int demo_check(const struct codec_inst *c, struct err *err)
{
    if (c->shape->n_values > UINT32_MAX)
        return err_set(err, "positions have 32 bits, the update has %zu values",
                       c->shape->n_values);
    return 0;
}

static size_t demo_state(const struct codec_inst *c) // the momentum
{
    return c->shape->n_values;
}

static size_t value_bytes(const struct codec_inst *c, size_t count)
{
    return (options(c)->value == VALUE_FP16 ? 2 : 4) * count;
}

static size_t demo_bound(const struct codec_inst *c)
{
    size_t k = most_kept(c), n = c->shape->n_values;
    return 1 + 5 + CLASSES + positions_bound(k, n, (enum positions_code)options(c)->index) +
           value_bytes(c, k);
}

struct room {
    float *y;      // (n) coefficients
    uint32_t *at;  // (kept)
    float *v;      // (kept)
    size_t *start; // (n_tensors + 1) where a tensor's kept ones begin
};

static struct room lay_room(const struct codec_inst *c, void *scratch)
{
    struct room r;
    r.y = scratch_take(&scratch, c->shape->n_values * sizeof(float));
    r.at = scratch_take(&scratch, (most_kept(c) + 16) * sizeof(uint32_t));
    r.v = scratch_take(&scratch, most_kept(c) * sizeof(float));
    r.start = scratch_take(&scratch, ((size_t)c->shape->n_tensors + 1) * sizeof(size_t));
    return r;
}

static size_t demo_scratch(const struct codec_inst *c)
{
    return SCRATCH_ROUND(c->shape->n_values * sizeof(float)) +
           SCRATCH_ROUND((most_kept(c) + 16) * sizeof(uint32_t)) +
           SCRATCH_ROUND(most_kept(c) * sizeof(float)) +
           SCRATCH_ROUND(((size_t)c->shape->n_tensors + 1) * sizeof(size_t));
}

static size_t pick(const struct codec_inst *c, struct room *r)
{
    size_t count = 0;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        const struct shape_tensor *row = &c->shape->tensors[t];
        struct blocks b = blocks_of(c, row);
        for (size_t i = 0; i < b.count; i++) {
            size_t from = row->offset + i * b.size;
            count += largest(r->y + from, b.size, b.keep, (uint32_t)from, r->at + count);
        }
    }
    return count;
}

static float exp2_of(int e)
{
    return f32_from_bits((uint32_t)(e + 127) << 23);
}

static void find_starts(const struct codec_inst *c, const struct room *r, size_t count)
{
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        r->start[t] = coords_below(r->at, count, c->shape->tensors[t].offset);
    r->start[c->shape->n_tensors] = count;
}

// The values of tensor t from the message, as they will be read.
static void read_values(const struct codec_inst *c, const struct room *r, uint32_t t, int e,
                        const uint8_t *p)
{
    size_t at = r->start[t], n = r->start[t + 1] - at;
    const struct quant_sink set = {r->v + at, 1, false};
    if (options(c)->value == VALUE_FP32)
        quant_f32_from_le(p + 4 * at, n, set);
    else
        quant_f16_from_le(p + 2 * at, n, exp2_of(-e), set);
}

// An exponent per class, then the values; r->v becomes what the receiver will read.
static void put_values(const struct codec_inst *c, struct room *r, size_t count, uint8_t *exps,
                       uint8_t *p)
{
    uint32_t max[CLASSES] = {0};
    int e[CLASSES];
    find_starts(c, r, count);
    coords_gather(r->y, r->at, count, r->v);
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        uint32_t a = quant_absmax_bits(r->v + r->start[t], r->start[t + 1] - r->start[t]);
        uint32_t *of = &max[c->shape->tensors[t].kind];
        *of = a > *of ? a : *of;
    }
    for (int k = 0; k < CLASSES; k++) {
        e[k] = 14 - ((int)(max[k] >> 23) - 127);
        e[k] = e[k] > FP16_EXP_MAX ? FP16_EXP_MAX : e[k];
        exps[k] = (uint8_t)(int8_t)e[k];
    }
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        size_t at = r->start[t], n = r->start[t + 1] - at;
        int k = e[c->shape->tensors[t].kind];
        if (options(c)->value == VALUE_FP32)
            quant_f32_to_le(r->v + at, n, p + 4 * at);
        else
            quant_f16_to_le(r->v + at, n, exp2_of(k), p + 2 * at);
        read_values(c, r, t, k, p);
    }
}

// y = what was sent, zero elsewhere.
static void spread(const struct codec_inst *c, struct room *r, size_t count)
{
    memset(r->y, 0, c->shape->n_values * sizeof *r->y);
    coords_give(r->at, r->v, count, (struct quant_sink){r->y, 1, false});
}

static int64_t demo_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    size_t n = c->shape->n_values;
    float *m = in->state_next;
    struct room r = lay_room(c, scratch);
    mix_sum((float)options(c)->decay, in->state, 1, in->x, n, m);
    int bad = codec_check_limit(c, m, NULL, err);
    if (bad)
        return bad;
    lap(in->laps, STAGE_FEEDBACK);
    forward_all(c, m, r.y);
    lap(in->laps, STAGE_QUANTISE);
    size_t count = pick(c, &r);
    lap(in->laps, STAGE_SELECT);
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *exps = NULL, *values = NULL;
    if (!msg_put_header(&o, 0) && !msg_put_varint(&o, PART_DIRECTORY, count))
        exps = msg_take(&o, PART_SCALES, CLASSES);
    if (exps && !positions_put(&o, r.at, count, 0, n, (enum positions_code)options(c)->index))
        values = msg_take(&o, PART_VALUES, value_bytes(c, count));
    if (!values)
        return msg_full(&o, err);
    lap(in->laps, STAGE_PACK);
    put_values(c, &r, count, exps, values);
    lap(in->laps, STAGE_QUANTISE);
    spread(c, &r, count);
    backward_all(c, r.y, (struct quant_sink){m, -1, true});
    lap(in->laps, STAGE_FEEDBACK);
    report->kept[record_width_of[options(c)->value == VALUE_FP16 ? 16 : 32]] = (int64_t)count;
    report->kept[0] = (int64_t)(n - count);
    return msg_len(&o);
}

static int get_values(const struct codec_inst *c, struct room *r, size_t count, const uint8_t *exps,
                      const uint8_t *p, struct err *err)
{
    int e[CLASSES];
    for (int k = 0; k < CLASSES; k++) {
        e[k] = (int8_t)exps[k];
        if (e[k] < FP16_EXP_MIN || e[k] > FP16_EXP_MAX)
            return msg_bad("scales", "exponent out of range", err);
    }
    find_starts(c, r, count);
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        read_values(c, r, t, e[c->shape->tensors[t].kind], p);
    if (!msg_within(f32_from_bits(quant_absmax_bits(r->v, count)), CHUNK_MAX * 2 * CODEC_LIMIT))
        return msg_bad("values", "one is not finite, or too large", err);
    return 0;
}

static int demo_parse(const struct codec_inst *c, const uint8_t *in, size_t len, struct room *r,
                      size_t *n_kept, struct err *err)
{
    uint64_t count;
    struct msg_in m;
    if (msg_open_plain(&m, in, len, err))
        return -1;
    if (msg_get_varint(&m, &count))
        return msg_short("directory", err);
    if (count > most_kept(c))
        return msg_bad("directory", "more values than the options allow", err);
    const uint8_t *exps = msg_need(&m, CLASSES);
    if (!exps)
        return msg_short("scales", err);
    if (positions_get(&m, r->at, (size_t)count, 0, c->shape->n_values, err))
        return -1;
    const uint8_t *values = msg_need(&m, value_bytes(c, (size_t)count));
    if (!values)
        return msg_short("values", err);
    *n_kept = (size_t)count;
    return msg_end(&m, err) || get_values(c, r, (size_t)count, exps, values, err) ? -1 : 0;
}

static int demo_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct codec_output to, void *scratch, struct err *err)
{
    (void)key;
    struct room r = lay_room(c, scratch);
    size_t count = 0;
    if (demo_parse(c, in, len, &r, &count, err))
        return -1;
    spread(c, &r, count);
    backward_all(c, r.y, to.sink);
    return 0;
}

// The server. State of a round: sums and senders of each coefficient, then scratch. A sender counts
// once, however much data it holds.

struct votes {
    float *sum;
    uint32_t *senders;
    void *scratch;
};

static struct votes lay_votes(const struct codec_inst *c, void *state)
{
    struct votes v;
    v.sum = scratch_take(&state, c->shape->n_values * sizeof(float));
    v.senders = scratch_take(&state, c->shape->n_values * sizeof(uint32_t));
    v.scratch = state;
    return v;
}

static size_t agg_state(const struct codec_inst *c, size_t n)
{
    return SCRATCH_ROUND(n * sizeof(float)) + SCRATCH_ROUND(n * sizeof(uint32_t)) + demo_scratch(c);
}

static void agg_begin(const struct codec_inst *c, void *state, size_t n)
{
    struct votes v = lay_votes(c, state);
    memset(v.sum, 0, n * sizeof *v.sum);
    memset(v.senders, 0, n * sizeof *v.senders);
}

static int agg_add(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                   size_t len, double weight, void *state, struct err *err)
{
    (void)key, (void)weight;
    struct votes v = lay_votes(c, state);
    struct room r = lay_room(c, v.scratch);
    size_t count = 0;
    if (demo_parse(c, in, len, &r, &count, err))
        return -1;
    coords_vote(r.at, r.v, count, v.sum, v.senders);
    return 0;
}

static void agg_finish(const struct codec_inst *c, void *state, float *keep, double weight_sum,
                       float *delta, size_t n)
{
    (void)keep, (void)weight_sum;
    struct votes v = lay_votes(c, state);
    mix_mean(v.senders, n, v.sum);
    backward_all(c, v.sum, (struct quant_sink){delta, 1, false});
    if (options(c)->sign)
        mix_sign((float)options(c)->step, n, delta);
}

static const struct codec_agg demo_agg = {agg_state, NULL, agg_begin, agg_add, agg_finish};

const struct codec codec_demo = {
    .name = "demo",
    .help =
        "the largest DCT coefficients of the momentum's blocks; the server steps along the sign",
    .source = "Peng et al. 2024 (DeMo)",
    .options = demo_options,
    .n_options = ARRAY_LEN(demo_options),
    .option_bytes = sizeof(struct demo_opt),
    .needs = CODEC_STATE | CODEC_OWN_AGG,
    .flags = CODEC_NO_EF,
    .check = demo_check,
    .state_floats = demo_state,
    .scratch_bytes = demo_scratch,
    .bound = demo_bound,
    .encode = demo_encode,
    .decode = demo_decode,
    .agg = &demo_agg,
};
