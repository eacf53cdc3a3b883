// signSGD with majority vote: clients send signs and nothing else, the server goes one step along
// the sign of their sum. Votes are not weighted: a client has one vote however much data it holds.
#include "codec/coding.h"
#include "codec/message.h"
#include "codec/rows.h"
#include "kernels/stages.h"

#define TILE 1024

enum { TIE_PLUS, TIE_ZERO };
static const char *const vote_ties[] = {"plus", "zero", NULL};

struct vote_opt {
    double step, momentum;
    int32_t tie;
};

static const struct opt vote_options[] = {
    OPT(struct vote_opt, step, "step", "0.001", 1e-12, 1e3, "", "length of the server's step"),
    OPT(struct vote_opt, momentum, "momentum", "0", 0, 0.999, "",
        "Signum: signs of m = beta m + (1 - beta) x, kept by the client"),
    OPT_ENUM(struct vote_opt, tie, "tie", "plus", vote_ties, "what an even vote does"),
};

static size_t vote_state(const struct codec_inst *c)
{
    return ((const struct vote_opt *)c->opt)->momentum > 0 ? c->shape->n_values : 0;
}

static size_t vote_bound(const struct codec_inst *c)
{
    return 1 + pack_bytes(c->shape->n_values, 1);
}

// One group of signs, whose two levels are one step apart from 0.
struct vote_rule {
    struct quant_run run;
    struct quant_rule rule;
    float scale[2];
};
static struct vote_rule rule_of(const struct codec_inst *c)
{
    const size_t n = c->shape->n_values;
    const float step = (float)((const struct vote_opt *)c->opt)->step;
    return (struct vote_rule){.run = {.n = n, .group = n},
                              .rule = {.kind = QUANT_SIGN, .kinds = 2, .width = 1, .scales = 2},
                              .scale = {-step, step}};
}

static int64_t vote_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    (void)scratch;
    size_t n = c->shape->n_values;
    float beta = (float)((const struct vote_opt *)c->opt)->momentum;
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *p = msg_put_header(&o, 0) ? NULL : msg_take(&o, PART_VALUES, pack_bytes(n, 1));
    if (!p)
        return msg_full(&o, err);
    const struct codec_stages *on = codec_column(in->on);
    const struct kernel_ctx *cx = codec_context(in->on);
    const struct vote_rule r = rule_of(c);
    const float *x = in->x;
    if (beta > 0) {
        on->mix->sum(cx, beta, in->state, 1 - beta, in->x, n, in->state_next);
        x = in->state_next;
        lap(in->laps, STAGE_FEEDBACK);
    }
    on->quant->code(cx, x, &r.run, 1, &r.rule, r.scale, p);
    lap(in->laps, STAGE_QUANTISE);
    report->kept[record_width_of[1]] = (int64_t)n;
    return msg_len(&o);
}

static int vote_payload(const struct codec_inst *c, const uint8_t *in, size_t len,
                        const uint8_t **bits, struct err *err)
{
    struct msg_in m;
    if (msg_open_plain(&m, in, len, err))
        return -1;
    *bits = msg_need(&m, pack_bytes(c->shape->n_values, 1));
    return *bits ? msg_end(&m, err) : msg_short("values", err);
}

// One vote alone: the step along its sign.
static int vote_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct codec_output to, void *scratch, struct err *err)
{
    (void)key, (void)scratch;
    const uint8_t *bits;
    if (vote_payload(c, in, len, &bits, err))
        return -1;
    const struct vote_rule r = rule_of(c);
    codec_column(to.on)->quant->give(codec_context(to.on), bits, &r.run, 1, &r.rule, r.scale,
                                     to.sink, false);
    return 0;
}

// The vote: a signed count per coordinate.

static size_t agg_state(const struct codec_inst *c, size_t n)
{
    (void)c;
    return n * sizeof(int32_t);
}

static void agg_begin(const struct codec_inst *c, void *state, size_t n)
{
    (void)c;
    memset(state, 0, n * sizeof(int32_t));
}

static int agg_add(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                   size_t len, double weight, void *state, struct err *err)
{
    (void)key, (void)weight;
    int32_t *sum = state;
    const uint8_t *bits;
    if (vote_payload(c, in, len, &bits, err))
        return -1;
    uint8_t code[TILE];
    for (size_t at = 0, n = c->shape->n_values; at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        unpack_u8(bits + at / 8, m, 1, code);
        mix_votes(code, m, sum + at);
    }
    return 0;
}

static void agg_finish(const struct codec_inst *c, void *state, float *keep, double weight_sum,
                       float *delta, size_t n)
{
    (void)keep, (void)weight_sum;
    const struct vote_opt *o = c->opt;
    float step = (float)o->step;
    mix_majority(state, n, step, o->tie == TIE_PLUS ? step : 0, delta);
}

static const struct codec_agg vote_agg = {agg_state, NULL, agg_begin, agg_add, agg_finish};

const struct codec codec_signsgd = {
    .name = "signsgd",
    .help = "signs only, aggregated by majority vote, one vote per client",
    .source = "Bernstein et al. 2018, 2019",
    .options = vote_options,
    .n_options = ARRAY_LEN(vote_options),
    .option_bytes = sizeof(struct vote_opt),
    .needs = CODEC_OWN_AGG,
    .flags = CODEC_MASKABLE | CODEC_NO_EF,
    .state_floats = vote_state,
    .stages = CODEC_ON_MIX | CODEC_ON_QUANT,
    .bound = vote_bound,
    .encode = vote_encode,
    .decode = vote_decode,
    .agg = &vote_agg,
};
