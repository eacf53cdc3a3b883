// EF21: client and server keep the same estimate g of a client's update; what is sent is the code
// of the difference, and both add what was decoded. The server keeps the mean of all clients'
// estimates, which is what a round moves the model by.
//
// Message: a byte of header, then the inner message. A client's first message may instead be the
// update itself as floats (flag DENSE): so its estimate begins without an error.
#include "codec/coding.h"
#include "codec/message.h"
#include "codec/rows.h"
#include "dev/dev.h"
#include "kernels/stages.h"

#include <math.h>

enum { DENSE = 1 };
enum { INIT_DENSE, INIT_ZERO };
static const char *const init_choices[] = {"dense", "zero", NULL};

struct ef21_opt {
    double share;
    int32_t init;
    bool force;
};

static const struct opt ef21_options[] = {
    OPT(struct ef21_opt, share, "share", "1", 1e-6, 1, "",
        "clients per round, as a share of all clients (EF21-PP)"),
    OPT_ENUM(struct ef21_opt, init, "init", "dense", init_choices,
             "a client's first message: the update as floats, or the code of its difference to 0"),
    OPT(struct ef21_opt, force, "force", "off", 0, 1, "",
        "also around codecs whose error can exceed the update"),
};

static const struct ef21_opt *options(const struct codec_inst *c)
{
    return c->opt;
}

static int ef21_check(const struct codec_inst *c, struct err *err)
{
    if (codec_needs(c->inner) & CODEC_OWN_AGG)
        return err_set(err, "%s has an aggregation of its own and cannot be wrapped",
                       c->inner->row->name);
    if ((codec_flags(c->inner) & CODEC_NO_EF) && !options(c)->force)
        return err_set(err,
                       "estimates diverge around %s, whose error can exceed the update; give "
                       "ef21:force=on to try",
                       c->inner->text);
    return 0;
}

static unsigned ef21_flags(const struct codec_inst *c)
{
    return codec_flags(c->inner) & ~(unsigned)(CODEC_UNBIASED | CODEC_EXACT | CODEC_ANY_SIZE);
}

// State: g, then 1 once there is one, then the inner codec's.
static size_t ef21_state(const struct codec_inst *c)
{
    return c->shape->n_values + 1 + codec_state_floats(c->inner);
}

static size_t ef21_scratch(const struct codec_inst *c)
{
    return SCRATCH_ROUND(c->shape->n_values * sizeof(float)) + codec_scratch_bytes(c->inner);
}

static size_t ef21_decode_scratch(const struct codec_inst *c)
{
    return codec_decode_scratch(c->inner);
}

static size_t ef21_bound(const struct codec_inst *c)
{
    size_t dense = 4 * c->shape->n_values, inner = codec_bound(c->inner);
    return 1 + (options(c)->init == INIT_DENSE && dense > inner ? dense : inner);
}

// On a device v lies there, and the host has room for the word whether there is an estimate.
static size_t ef21_stage(const struct codec_inst *c)
{
    (void)c;
    return sizeof(float);
}

static size_t ef21_room(const struct codec_inst *c)
{
    return SCRATCH_ROUND(c->shape->n_values * sizeof(float));
}

static bool known(const struct codec_input *in, const float *at)
{
    const struct codec_device *on = in->on;
    if (!on)
        return *at != 0;
    on->dev->row->get(on->dev, on->lane, on->stage, at, sizeof *at);
    on->dev->row->wait(on->dev, on->lane);
    return *(const float *)on->stage != 0;
}

static void put_known(const struct codec_input *in, float *at)
{
    const struct codec_device *on = in->on;
    if (!on) {
        *at = 1;
        return;
    }
    *(float *)on->stage = 1;
    on->dev->row->put(on->dev, on->lane, at, on->stage, sizeof *at);
    on->dev->row->wait(on->dev, on->lane);
}

static void copy(const struct codec_input *in, float *to, const float *from, size_t n)
{
    if (in->on)
        in->on->dev->row->copy(in->on->dev, in->on->lane, to, from, n * sizeof *to);
    else
        memcpy(to, from, n * sizeof *to);
}

// The update as floats.
static const struct quant_rule floats = {.kind = QUANT_FP32, .width = 32, .scales = 1};
static const float no_scale = 1;

static int64_t encode_dense(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                            size_t cap, struct codec_report *report, struct err *err)
{
    size_t n = c->shape->n_values;
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *p = msg_put_header(&o, DENSE) ? NULL : msg_take(&o, PART_VALUES, 4 * n);
    if (!p)
        return msg_full(&o, err);
    const struct quant_run run = {.n = n, .group = n};
    codec_column(in->on)->quant->code(codec_context(in->on), in->x, &run, 1, &floats, &no_scale, p);
    lap(in->laps, STAGE_PACK);
    copy(in, in->state_next, in->x, n);
    copy(in, in->state_next + n + 1, in->state + n + 1, codec_state_floats(c->inner));
    lap(in->laps, STAGE_FEEDBACK);
    report->kept[record_width_of[32]] = (int64_t)n;
    return msg_len(&o);
}

static int64_t ef21_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    size_t n = c->shape->n_values;
    const float *g = in->state;
    void *room = in->on ? in->on->room : scratch;
    float *v = scratch_take(&room, n * sizeof *v), *next = in->state_next;
    struct codec_device behind;
    if (!in->on)
        scratch = room;
    codec_column(in->on)->mix->sum(codec_context(in->on), 1, in->x, -1, g, n, v);
    int bad = codec_check_limit(c, v, in->on, err);
    if (bad)
        return bad;
    lap(in->laps, STAGE_FEEDBACK);
    put_known(in, next + n);
    if (!known(in, g + n) && options(c)->init == INIT_DENSE)
        return encode_dense(c, in, out, cap, report, err);
    if (cap < 1)
        return err_set(err, "the message does not fit into its buffer of 0 bytes");
    struct codec_input inner = *in;
    inner.on = codec_behind(c, in->on, &behind);
    inner.x = v;
    inner.state = g + n + 1;
    inner.state_next = next + n + 1;
    if (in->budget_bytes > 0)
        inner.budget_bytes = in->budget_bytes - 1;
    int64_t len = codec_encode_inner(c->inner, &inner, out + 1, cap - 1, scratch, report, err);
    if (len < 0)
        return len;
    out[0] = MSG_VERSION;
    report->parts.header++;
    copy(in, next, g, n);
    struct codec_output add = {.on = inner.on, .sink = {next, 1, true}};
    if (c->inner->row->decode(c->inner, &in->key, out + 1, (size_t)len, add, scratch, err))
        return -1;
    lap(in->laps, STAGE_FEEDBACK);
    return len + 1;
}

static int ef21_payload(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                        size_t len, struct codec_output to, void *scratch, struct err *err)
{
    size_t n = c->shape->n_values;
    unsigned flags;
    struct msg_in m;
    struct codec_device behind;
    if (msg_open(&m, in, len, &flags, err))
        return -1;
    if (flags == 0) {
        to.on = codec_behind(c, to.on, &behind);
        return c->inner->row->decode(c->inner, key, m.p, len - 1, to, scratch, err);
    }
    if (flags != DENSE || options(c)->init != INIT_DENSE)
        return msg_bad("header", "unknown flags", err);
    const uint8_t *p = msg_need(&m, 4 * n);
    if (!p)
        return msg_short("values", err);
    if (msg_end(&m, err))
        return -1;
    if (quant_absmax_bits_le(p, n) >= 0x7f800000u)
        return msg_nonfinite(err);
    const struct quant_run run = {.n = n, .group = n};
    codec_column(to.on)->quant->give(codec_context(to.on), p, &run, 1, &floats, &no_scale, to.sink,
                                     false);
    return 0;
}

// A message alone: what it adds to the estimate.
static int ef21_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct codec_output to, void *scratch, struct err *err)
{
    return ef21_payload(c, key, in, len, to, scratch, err);
}

// The server: g += share * mean of the messages. State of a round: their sum, and scratch.

static size_t agg_state(const struct codec_inst *c, size_t n)
{
    return SCRATCH_ROUND(n * sizeof(float)) + codec_decode_scratch(c->inner);
}

static size_t agg_keep(const struct codec_inst *c, size_t n)
{
    (void)c;
    return n;
}

static void agg_begin(const struct codec_inst *c, void *state, size_t n)
{
    (void)c;
    memset(state, 0, n * sizeof(float));
}

static int agg_add(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                   size_t len, double weight, void *state, struct err *err)
{
    float *sum = scratch_take(&state, c->shape->n_values * sizeof *sum);
    struct codec_output to = {.sink = {sum, (float)weight, true}};
    return ef21_payload(c, key, in, len, to, state, err);
}

static void agg_finish(const struct codec_inst *c, void *state, float *g, double weight_sum,
                       float *delta, size_t n)
{
    const float *sum = state;
    mix_sum(1, g, (float)(options(c)->share / weight_sum), sum, n, delta);
    if (quant_absmax_bits(delta, n) < 0x7f800000u)
        memcpy(g, delta, n * sizeof *g);
}

static const struct codec_agg ef21_agg = {agg_state, agg_keep, agg_begin, agg_add, agg_finish};

const struct codec wrapper_ef21 = {
    .name = "ef21",
    .help = "estimates that client and server share; the difference is coded, the mean is kept",
    .source = "Richtarik et al. 2021 (EF21), Fatkhullin et al. 2021 (EF21-PP)",
    .options = ef21_options,
    .n_options = ARRAY_LEN(ef21_options),
    .option_bytes = sizeof(struct ef21_opt),
    .needs = CODEC_STATE | CODEC_OWN_AGG,
    .feeds_back = true,
    .flags_of = ef21_flags,
    .check = ef21_check,
    .state_floats = ef21_state,
    .stages = CODEC_ON_MIX | CODEC_ON_QUANT, // quant: a look at the difference, and floats
    .scratch_bytes = ef21_scratch,
    .decode_scratch = ef21_decode_scratch,
    .stage_bytes = ef21_stage,
    .device_bytes = ef21_room,
    .bound = ef21_bound,
    .encode = ef21_encode,
    .decode = ef21_decode,
    .agg = &ef21_agg,
};
