// PowerSGD for federated rounds, where a client sends once: M (rows, cols) is sent as P Q^T.
//
// local: P = orth(M Q), then Q = M^T P, both sent; Q starts from the client's last one (warm) or at
// random. alternating: one factor is drawn from the seed and the round on both sides, orthonormal,
// the same for every client; only the other is sent: even rounds P = M G, odd rounds Q = M^T G. A
// sum of such codes is meaningful. Tensors that this would not shrink go as they are.
#include "base/half.h"
#include "base/rng.h"
#include "codec/message.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

enum { MODE_LOCAL, MODE_ALTERNATING };
static const char *const mode_choices[] = {"local", "alternating", NULL};
enum { VALUE_FP32, VALUE_BF16 };
static const char *const value_choices[] = {"fp32", "bf16", NULL};

#define RANK_MAX     64
#define P_LIMIT      2.0f     // of an orthonormal column, with room for rounding
#define FACTOR_LIMIT 0x1p120f // |x| < 2^100 times the root of a tensor's size

struct powersgd_opt {
    int32_t rank, mode, value;
    bool warm;
};

static const struct opt powersgd_options[] = {
    OPT(struct powersgd_opt, rank, "rank", "2", 1, RANK_MAX, "", "columns of P and Q"),
    OPT_ENUM(struct powersgd_opt, mode, "mode", "local", mode_choices,
             "local: both factors; alternating: one, the other is drawn by both sides"),
    OPT(struct powersgd_opt, warm, "warm", "on", 0, 1, "", "local: Q starts from the last round's"),
    OPT_ENUM(struct powersgd_opt, value, "value", "fp32", value_choices, "format of the factors"),
};

static const struct powersgd_opt *options(const struct codec_inst *c)
{
    return c->opt;
}

// Sizes.

// Factors of one tensor: P (rows, rank) and Q (cols, rank), both stored column after column.
struct sizes {
    size_t rows, cols, rank; // rank 0: the tensor is sent as it is
    bool sends_p, sends_q;
    size_t sent; // floats
};

static struct sizes sizes_of(const struct codec_inst *c, const struct shape_tensor *t,
                             uint32_t version)
{
    struct sizes s = {.rows = t->rows, .cols = t->cols, .rank = (size_t)options(c)->rank};
    bool alternating = options(c)->mode == MODE_ALTERNATING;
    s.sends_p = !alternating || version % 2 == 0;
    s.sends_q = !alternating || version % 2 == 1;
    s.sent = s.rank * ((s.sends_p ? s.rows : 0) + (s.sends_q ? s.cols : 0));
    // By the larger of the two, so that state and scratch do not depend on the round.
    if (s.rank * (s.rows + s.cols) >= s.rows * s.cols) {
        s.rank = 0;
        s.sent = s.rows * s.cols;
    }
    return s;
}

static size_t value_size(const struct codec_inst *c)
{
    return options(c)->value == VALUE_BF16 ? 2 : 4;
}

static size_t sent_bytes(const struct codec_inst *c, uint32_t version)
{
    size_t n = 0;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        n += sizes_of(c, &c->shape->tensors[t], version).sent;
    return n * value_size(c);
}

static bool warm(const struct codec_inst *c)
{
    return options(c)->warm && options(c)->mode == MODE_LOCAL;
}

static size_t powersgd_state(const struct codec_inst *c)
{
    size_t n = 0;
    for (uint32_t t = 0; t < c->shape->n_tensors && warm(c); t++)
        n += c->shape->tensors[t].cols * sizes_of(c, &c->shape->tensors[t], 0).rank;
    return n;
}

// P and Q of the largest tensor, and a decoded row.
struct factors {
    float *p, *q, *row;
};

static struct factors lay_factors(const struct codec_inst *c, void *scratch, size_t *size_bytes)
{
    size_t rows = 0, cols = 0, rank = (size_t)options(c)->rank;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        const struct shape_tensor *row = &c->shape->tensors[t];
        rows = row->rows > rows ? row->rows : rows;
        cols = row->cols > cols ? row->cols : cols;
    }
    size_t p = SCRATCH_ROUND(rows * rank * sizeof(float)),
           q = SCRATCH_ROUND(cols * rank * sizeof(float));
    if (size_bytes)
        *size_bytes = p + q + SCRATCH_ROUND(cols * sizeof(float));
    if (!scratch)
        return (struct factors){NULL, NULL, NULL};
    uint8_t *at = scratch;
    return (struct factors){(void *)at, (void *)(at + p), (void *)(at + p + q)};
}

static size_t powersgd_scratch(const struct codec_inst *c)
{
    size_t size_bytes;
    lay_factors(c, NULL, &size_bytes);
    return size_bytes;
}

static size_t powersgd_bound(const struct codec_inst *c)
{
    size_t even = sent_bytes(c, 0), odd = sent_bytes(c, 1);
    return 1 + (even > odd ? even : odd);
}

// Fills columns with uniform numbers in [-1, 1) and orthonormalises them.
static void draw_factor(const struct codec_key *key, uint32_t client, uint32_t tensor, float *v,
                        size_t n, size_t rank)
{
    struct rng r = rng_stream(key->seed, RNG_CODEC, client, key->version, tensor);
    philox_uniform(r.key, r.ctr, n * rank, v);
    factor_orthonormalise(v, n, rank);
}

// Encoding.

static uint8_t *put_floats(const struct codec_inst *c, const float *v, size_t n, uint8_t *p)
{
    if (options(c)->value == VALUE_BF16)
        quant_bf16_to_le(v, n, p);
    else
        quant_f32_to_le(v, n, p);
    return p + n * value_size(c);
}

// The factors of M, as far as they are sent; q is the start on entry of local rounds.
static void factorise(const struct codec_inst *c, const struct codec_key *key, uint32_t t,
                      const struct sizes *s, const float *m, float *p, float *q)
{
    if (options(c)->mode == MODE_LOCAL) {
        factor_orthonormalise(q, s->cols, s->rank);
        factor_times(m, s->rows, s->cols, q, s->rank, p);
        factor_orthonormalise(p, s->rows, s->rank);
        factor_times_turned(m, s->rows, s->cols, p, s->rank, q);
    } else if (s->sends_p) {
        draw_factor(key, UINT32_MAX, t, q, s->cols, s->rank);
        factor_times(m, s->rows, s->cols, q, s->rank, p);
    } else {
        draw_factor(key, UINT32_MAX, t, p, s->rows, s->rank);
        factor_times_turned(m, s->rows, s->cols, p, s->rank, q);
    }
}

static int64_t powersgd_encode(const struct codec_inst *c, const struct codec_input *in,
                               uint8_t *out, size_t cap, void *scratch, struct codec_report *report,
                               struct err *err)
{
    struct factors f = lay_factors(c, scratch, NULL);
    size_t state_at = 0;
    struct msg_out o;
    msg_init(&o, out, cap, report);
    size_t bytes = sent_bytes(c, in->key.version);
    uint8_t *to = msg_put_header(&o, 0) ? NULL : msg_take(&o, PART_VALUES, bytes);
    if (!to)
        return msg_full(&o, err);
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        struct sizes s = sizes_of(c, &c->shape->tensors[t], in->key.version);
        const float *m = in->x + c->shape->tensors[t].offset;
        if (s.rank == 0) {
            to = put_floats(c, m, s.sent, to);
            continue;
        }
        size_t n_q = s.cols * s.rank;
        bool started = warm(c) && quant_absmax_bits(in->state + state_at, n_q) != 0;
        if (started)
            memcpy(f.q, in->state + state_at, n_q * sizeof *f.q);
        else if (options(c)->mode == MODE_LOCAL)
            draw_factor(&in->key, in->key.client, t, f.q, s.cols, s.rank);
        factorise(c, &in->key, t, &s, m, f.p, f.q);
        lap(in->laps, STAGE_QUANTISE);
        if (s.sends_p)
            to = put_floats(c, f.p, s.rows * s.rank, to);
        if (s.sends_q)
            to = put_floats(c, f.q, n_q, to);
        if (warm(c)) {
            memcpy(in->state_next + state_at, f.q, n_q * sizeof *f.q);
            state_at += n_q;
        }
        lap(in->laps, STAGE_PACK);
    }
    report->kept[record_width_of[8 * value_size(c)]] = (int64_t)(bytes / value_size(c));
    return msg_len(&o);
}

// Decoding.

static const uint8_t *get_floats(const struct codec_inst *c, const uint8_t *in, size_t n, float *v)
{
    struct quant_sink set = {v, 1, false};
    if (options(c)->value == VALUE_BF16)
        quant_bf16_from_le(in, n, set);
    else
        quant_f32_from_le(in, n, set);
    return in + n * value_size(c);
}

static bool within(const struct codec_inst *c, const uint8_t *in, size_t n, float limit)
{
    if (options(c)->value == VALUE_BF16)
        return bf16_to_f32((uint16_t)quant_absmax_bits_bf16(in, n)) <= limit;
    return f32_from_bits(quant_absmax_bits_le(in, n)) <= limit;
}

static bool values_ok(const struct codec_inst *c, uint32_t version, const uint8_t *in)
{
    bool ok = true;
    for (uint32_t t = 0; t < c->shape->n_tensors && ok; t++) {
        struct sizes s = sizes_of(c, &c->shape->tensors[t], version);
        size_t n_p = s.rank && s.sends_p ? s.rows * s.rank : 0;
        float p_limit = s.sends_q ? P_LIMIT : FACTOR_LIMIT;
        ok &= within(c, in, n_p, p_limit);
        in += n_p * value_size(c);
        ok &= within(c, in, s.sent - n_p, s.rank ? FACTOR_LIMIT : 2 * CODEC_LIMIT);
        in += (s.sent - n_p) * value_size(c);
    }
    return ok;
}

static int powersgd_decode(const struct codec_inst *c, const struct codec_key *key,
                           const uint8_t *in, size_t len, struct codec_output to, void *scratch,
                           struct err *err)
{
    struct factors f = lay_factors(c, scratch, NULL);
    struct msg_in m;
    if (msg_open_plain(&m, in, len, err))
        return -1;
    const uint8_t *p = msg_need(&m, sent_bytes(c, key->version));
    if (!p)
        return msg_short("values", err);
    if (msg_end(&m, err))
        return -1;
    if (!values_ok(c, key->version, p))
        return msg_bad("values", "one is not finite, or too large", err);
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        struct sizes s = sizes_of(c, &c->shape->tensors[t], key->version);
        struct quant_sink at = quant_sink_at(to.sink, c->shape->tensors[t].offset);
        if (s.rank == 0) {
            if (options(c)->value == VALUE_BF16)
                quant_bf16_from_le(p, s.sent, at);
            else
                quant_f32_from_le(p, s.sent, at);
            p += s.sent * value_size(c);
            continue;
        }
        if (s.sends_p)
            p = get_floats(c, p, s.rows * s.rank, f.p);
        else
            draw_factor(key, UINT32_MAX, t, f.p, s.rows, s.rank);
        if (s.sends_q)
            p = get_floats(c, p, s.cols * s.rank, f.q);
        else
            draw_factor(key, UINT32_MAX, t, f.q, s.cols, s.rank);
        factor_give(f.p, f.q, s.rows, s.cols, s.rank, f.row, at);
    }
    return 0;
}

static unsigned powersgd_flags(const struct codec_inst *c)
{
    bool shared = options(c)->mode == MODE_ALTERNATING;
    return c->row->flags | (shared ? CODEC_MASKABLE | CODEC_RANDOM : 0u);
}

const struct codec codec_powersgd = {
    .name = "powersgd",
    .help = "low rank by one power iteration; alternating sends one factor per round",
    .adds_up = "mode=alternating",
    .source = "Vogels et al. 2019; one-shot and half-round forms for federated rounds",
    .options = powersgd_options,
    .n_options = ARRAY_LEN(powersgd_options),
    .option_bytes = sizeof(struct powersgd_opt),
    .flags = CODEC_RANDOM,
    .flags_of = powersgd_flags,
    .state_floats = powersgd_state,
    .scratch_bytes = powersgd_scratch,
    .bound = powersgd_bound,
    .encode = powersgd_encode,
    .decode = powersgd_decode,
};
