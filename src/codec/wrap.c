// Wrappers: error feedback, and general-purpose compression of the inner codec's whole message.
#define ZSTD_STATIC_LINKING_ONLY // contexts in our scratch: measured code does not allocate
#include "codec/blocks.h"
#include "codec/entropy.h"
#include "codec/message.h"
#include "codec/rows.h"
#include "dev/dev.h"
#include "kernels/stages.h"

#include <lz4.h>
#include <zstd.h>

static int refuse_own_agg(const struct codec_inst *c, struct err *err)
{
    if (codec_needs(c->inner) & CODEC_OWN_AGG)
        return err_set(err, "%s has an aggregation of its own and cannot be wrapped",
                       c->inner->row->name);
    return 0;
}

// What the inner codec is, without the mean or the sum that a wrapper spoils.
static unsigned inherited(const struct codec_inst *c, unsigned without)
{
    return (codec_flags(c->inner) & ~without) | c->row->flags;
}

// Error feedback. v = x + decay e; C(v) is sent; e = v - C(v), committed when the message is
// acknowledged, so that a lost one changes nothing. State: e, then round + 1 of the last commit,
// then the inner codec's state.

struct ef_opt {
    double decay;
    int32_t reset;
    bool force;
};

static const struct opt ef_options[] = {
    OPT(struct ef_opt, decay, "decay", "1", 0, 1, "",
        "factor of the residual, each time it is used"),
    OPT(struct ef_opt, reset, "reset", "0", 0, 1000000, "rounds",
        "a residual older than this is dropped; 0 = never"),
    OPT(struct ef_opt, force, "force", "off", 0, 1, "",
        "also around codecs whose error can exceed the update"),
};

static int ef_check(const struct codec_inst *c, struct err *err)
{
    if (refuse_own_agg(c, err))
        return -1;
    if ((codec_flags(c->inner) & CODEC_NO_EF) && !((const struct ef_opt *)c->opt)->force)
        return err_set(err,
                       "error feedback diverges around %s, whose error can exceed the update; "
                       "give ef:force=on to try",
                       c->inner->text);
    return 0;
}

static unsigned ef_flags(const struct codec_inst *c)
{
    return inherited(c, CODEC_UNBIASED | CODEC_MASKABLE | CODEC_EXACT | CODEC_ANY_SIZE);
}

static size_t ef_state(const struct codec_inst *c)
{
    return c->shape->n_values + 1 + codec_state_floats(c->inner);
}

static size_t ef_scratch(const struct codec_inst *c)
{
    return 2 * SCRATCH_ROUND(c->shape->n_values * sizeof(float)) + codec_scratch_bytes(c->inner);
}

static size_t inner_bound(const struct codec_inst *c)
{
    return codec_bound(c->inner);
}

// On a device: v and what is decoded lie there, and the host has room for a stamp.
static size_t ef_stage(const struct codec_inst *c)
{
    (void)c;
    return sizeof(uint32_t);
}

static size_t ef_room(const struct codec_inst *c)
{
    return 2 * SCRATCH_ROUND(c->shape->n_values * sizeof(float));
}

// Rounds since the last commit, -1 where there is none.
static int64_t ef_staleness(const struct codec_inst *c, const struct codec_input *in)
{
    const float *at = in->state + c->shape->n_values;
    uint32_t stamp;
    if (in->on) {
        in->on->dev->row->get(in->on->dev, in->on->lane, in->on->stage, at, sizeof stamp);
        in->on->dev->row->wait(in->on->dev, in->on->lane);
        at = in->on->stage;
    }
    memcpy(&stamp, at, sizeof stamp);
    return stamp ? (int64_t)in->key.version - (int64_t)stamp + 1 : -1;
}

static void put_stamp(const struct codec_input *in, float *at)
{
    const struct codec_device *on = in->on;
    const uint32_t stamp = in->key.version + 1;
    memcpy(on ? on->stage : at, &stamp, sizeof stamp);
    if (!on)
        return;
    on->dev->row->put(on->dev, on->lane, at, on->stage, sizeof stamp);
    on->dev->row->wait(on->dev, on->lane);
}

static int64_t ef_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                         size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    const struct ef_opt *o = c->opt;
    const struct mix_stages *mix = codec_column(in->on)->mix;
    const struct kernel_ctx *cx = codec_context(in->on);
    size_t n = c->shape->n_values;
    void *room = in->on ? in->on->room : scratch;
    float *v = scratch_take(&room, n * sizeof *v), *x_hat = scratch_take(&room, n * sizeof *v);
    struct codec_device behind;
    if (!in->on)
        scratch = room;
    int64_t stale = ef_staleness(c, in);
    bool drop = stale < 0 || (o->reset > 0 && stale > o->reset);
    float decay = drop ? 0 : (float)o->decay;
    mix->sum(cx, 1, in->x, decay, in->state, n, v);
    int bad = codec_check_limit(c, v, in->on, err);
    if (bad)
        return bad;
    lap(in->laps, STAGE_FEEDBACK);
    struct codec_input inner = *in;
    inner.on = codec_behind(c, in->on, &behind);
    inner.x = v;
    inner.state = in->state + n + 1;
    inner.state_next = in->state_next + n + 1;
    int64_t len = codec_encode_inner(c->inner, &inner, out, cap, scratch, report, err);
    if (len < 0)
        return len;
    report->staleness = stale;
    struct codec_output set = {.on = inner.on, .sink = {x_hat, 1, false}};
    if (c->inner->row->decode(c->inner, &in->key, out, (size_t)len, set, scratch, err))
        return -1;
    mix->sum(cx, 1, v, -1, x_hat, n, in->state_next);
    put_stamp(in, in->state_next + n);
    lap(in->laps, STAGE_FEEDBACK);
    return len;
}

static int ef_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                     size_t len, struct codec_output to, void *scratch, struct err *err)
{
    struct codec_device behind;
    to.on = codec_behind(c, to.on, &behind);
    return c->inner->row->decode(c->inner, key, in, len, to, scratch, err);
}

static size_t ef_decode_scratch(const struct codec_inst *c)
{
    return codec_decode_scratch(c->inner);
}

const struct codec wrapper_ef = {
    .name = "ef",
    .help = "error feedback: what was not sent is added next time; committed on acknowledgement",
    .source = "Seide et al. 2014, Karimireddy et al. 2019",
    .options = ef_options,
    .n_options = ARRAY_LEN(ef_options),
    .option_bytes = sizeof(struct ef_opt),
    .needs = CODEC_STATE,
    .feeds_back = true,
    .flags_of = ef_flags,
    .check = ef_check,
    .state_floats = ef_state,
    .stages = CODEC_ON_MIX | CODEC_ON_QUANT, // quant: a look at the sum
    .scratch_bytes = ef_scratch,
    .decode_scratch = ef_decode_scratch,
    .stage_bytes = ef_stage,
    .device_bytes = ef_room,
    .bound = inner_bound,
    .encode = ef_encode,
    .decode = ef_decode,
    .blocks = &blocks_inner,
};

// Compression of whole messages. Message: header, length of the inner message, then the bytes,
// compressed or as they are (flag STORED). The inner parts are no longer apart: all of them are
// booked as values.

enum { STORED = 1 };

// squeeze: 0 and the length, or -1 where it does not fit into cap. spread: exactly want bytes, or
// -1.
struct squeezer {
    size_t (*bound)(size_t n);
    size_t (*scratch)(const struct codec_inst *c, size_t n);
    int (*squeeze)(const struct codec_inst *c, const uint8_t *in, size_t n, uint8_t *out,
                   size_t cap, size_t *len, void *scratch);
    int (*spread)(const struct codec_inst *c, const uint8_t *in, size_t n, uint8_t *out,
                  size_t want, void *scratch);
};

static const struct squeezer *squeezer_of(const struct codec_inst *c)
{
    return c->row->family;
}

static unsigned squeeze_flags(const struct codec_inst *c)
{
    return inherited(c, CODEC_MASKABLE);
}

static size_t squeeze_state(const struct codec_inst *c)
{
    return codec_state_floats(c->inner);
}

static size_t squeeze_bound(const struct codec_inst *c)
{
    return 1 + MSG_VARINT_MAX + codec_bound(c->inner);
}

// The inner message, the squeezed one; the inner codec and the compressor take turns in the rest.
static size_t squeeze_scratch(const struct codec_inst *c)
{
    const struct squeezer *s = squeezer_of(c);
    size_t n = codec_bound(c->inner), own = s->scratch(c, n), inner = codec_scratch_bytes(c->inner);
    return SCRATCH_ROUND(n) + SCRATCH_ROUND(s->bound(n)) + (own > inner ? own : inner);
}

static size_t squeeze_decode_scratch(const struct codec_inst *c)
{
    const struct squeezer *s = squeezer_of(c);
    size_t n = codec_bound(c->inner), own = s->scratch(c, n);
    size_t inner = codec_decode_scratch(c->inner);
    return SCRATCH_ROUND(n) + (own > inner ? own : inner);
}

static int64_t squeeze_encode(const struct codec_inst *c, const struct codec_input *in,
                              uint8_t *out, size_t cap, void *scratch, struct codec_report *report,
                              struct err *err)
{
    const struct squeezer *s = squeezer_of(c);
    size_t bound = codec_bound(c->inner), room = s->bound(bound), len = 0;
    uint8_t *plain = scratch_take(&scratch, bound), *small = scratch_take(&scratch, room);
    struct codec_input inner = *in;
    if (in->budget_bytes >= 0) // what does not shrink is stored
        inner.budget_bytes =
            in->budget_bytes > 1 + MSG_VARINT_MAX ? in->budget_bytes - 1 - MSG_VARINT_MAX : 0;
    int64_t n = codec_encode_inner(c->inner, &inner, plain, bound, scratch, report, err);
    if (n < 0)
        return n;
    bool stored = s->squeeze(c, plain, (size_t)n, small, room, &len, scratch) || len >= (size_t)n;
    if (stored)
        len = (size_t)n;
    memset(&report->parts, 0, sizeof report->parts);
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *p = NULL;
    if (!msg_put_header(&o, stored ? STORED : 0) &&
        !msg_put_varint(&o, PART_DIRECTORY, (uint64_t)n))
        p = msg_take(&o, PART_VALUES, len);
    if (!p)
        return msg_full(&o, err);
    memcpy(p, stored ? plain : small, len);
    lap(in->laps, STAGE_ENTROPY);
    return msg_len(&o);
}

static int squeeze_decode(const struct codec_inst *c, const struct codec_key *key,
                          const uint8_t *in, size_t len, struct codec_output to, void *scratch,
                          struct err *err)
{
    const struct squeezer *s = squeezer_of(c);
    size_t bound = codec_bound(c->inner);
    uint8_t *plain = scratch_take(&scratch, bound);
    struct msg_in m;
    unsigned flags;
    uint64_t n;
    if (msg_open(&m, in, len, &flags, err))
        return -1;
    if (flags & ~(unsigned)STORED)
        return msg_bad("header", "unknown flags", err);
    if (msg_get_varint(&m, &n))
        return msg_short("directory", err);
    if (n > bound)
        return msg_bad("directory", "longer than any message of the inner codec", err);
    const uint8_t *p = m.p;
    size_t have = (size_t)(m.end - m.p);
    if (flags & STORED) {
        if (have != n)
            return msg_bad("values", "not as long as announced", err);
    } else {
        if (s->spread(c, p, have, plain, (size_t)n, scratch))
            return msg_bad("values", "they do not decompress to the length announced", err);
        p = plain;
    }
    return c->inner->row->decode(c->inner, key, p, (size_t)n, to, scratch, err);
}

#define SQUEEZE_ROW(s)                                                                             \
    .flags_of = squeeze_flags, .check = refuse_own_agg, .state_floats = squeeze_state,             \
    .stages = CODEC_ON_BYTES, .scratch_bytes = squeeze_scratch,                                    \
    .decode_scratch = squeeze_decode_scratch, .bound = squeeze_bound, .encode = squeeze_encode,    \
    .decode = squeeze_decode, .family = &(s)

// rans.

static size_t rans_room(size_t n)
{
    return entropy_bound(n, 256) + MSG_VARINT_MAX * (n / (1 << 20) + 1);
}

static size_t rans_scratch(const struct codec_inst *c, size_t n)
{
    (void)c;
    return entropy_scratch(n);
}

static int rans_squeeze(const struct codec_inst *c, const uint8_t *in, size_t n, uint8_t *out,
                        size_t cap, size_t *len, void *scratch)
{
    (void)c;
    struct codec_report unused = {0};
    struct msg_out o;
    msg_init(&o, out, cap, &unused);
    if (entropy_put(&o, PART_VALUES, in, n, 256, scratch))
        return -1;
    *len = (size_t)msg_len(&o);
    return 0;
}

static int rans_spread(const struct codec_inst *c, const uint8_t *in, size_t n, uint8_t *out,
                       size_t want, void *scratch)
{
    (void)c;
    struct msg_in m = {in, in + n};
    return entropy_get(&m, out, want, 256, scratch, NULL) || msg_end(&m, NULL) ? -1 : 0;
}

static const struct squeezer rans_squeezer = {rans_room, rans_scratch, rans_squeeze, rans_spread};

const struct codec wrapper_rans = {
    .name = "rans",
    .help = "order-0 entropy coding of the bytes of the inner message",
    .source = "Duda 2013",
    SQUEEZE_ROW(rans_squeezer),
};

// zstd.

struct zstd_opt {
    int32_t level;
};

static const struct opt zstd_options[] = {
    OPT(struct zstd_opt, level, "level", "3", 1, 19, "", "compression level"),
};

static ZSTD_compressionParameters zstd_params(const struct codec_inst *c, size_t n)
{
    return ZSTD_getCParams(((const struct zstd_opt *)c->opt)->level, n, 0);
}

static size_t zstd_scratch(const struct codec_inst *c, size_t n)
{
    size_t out = ZSTD_estimateCCtxSize_usingCParams(zstd_params(c, n)),
           in = ZSTD_estimateDCtxSize();
    return (out > in ? out : in) + 64;
}

static int zstd_squeeze(const struct codec_inst *c, const uint8_t *in, size_t n, uint8_t *out,
                        size_t cap, size_t *len, void *scratch)
{
    size_t bound = codec_bound(c->inner);
    ZSTD_compressionParameters p = zstd_params(c, bound);
    ZSTD_CCtx *z = ZSTD_initStaticCCtx(scratch, zstd_scratch(c, bound) & ~(size_t)7);
    if (!z)
        return -1;
    const struct {
        ZSTD_cParameter name;
        unsigned value;
    } set[] = {{ZSTD_c_windowLog, p.windowLog}, {ZSTD_c_chainLog, p.chainLog},
               {ZSTD_c_hashLog, p.hashLog},     {ZSTD_c_searchLog, p.searchLog},
               {ZSTD_c_minMatch, p.minMatch},   {ZSTD_c_targetLength, p.targetLength},
               {ZSTD_c_strategy, p.strategy}};
    for (size_t i = 0; i < ARRAY_LEN(set); i++)
        if (ZSTD_isError(ZSTD_CCtx_setParameter(z, set[i].name, (int)set[i].value)))
            return -1;
    *len = ZSTD_compress2(z, out, cap, in, n);
    return ZSTD_isError(*len) ? -1 : 0;
}

static int zstd_spread(const struct codec_inst *c, const uint8_t *in, size_t n, uint8_t *out,
                       size_t want, void *scratch)
{
    ZSTD_DCtx *z =
        ZSTD_initStaticDCtx(scratch, zstd_scratch(c, codec_bound(c->inner)) & ~(size_t)7);
    return z && ZSTD_decompressDCtx(z, out, want, in, n) == want ? 0 : -1;
}

static const struct squeezer zstd_squeezer = {ZSTD_compressBound, zstd_scratch, zstd_squeeze,
                                              zstd_spread};

const struct codec wrapper_zstd = {
    .name = "zstd",
    .help = "Zstandard over the inner message; other versions of the library may give other bytes",
    .source = "RFC 8878",
    .options = zstd_options,
    .n_options = ARRAY_LEN(zstd_options),
    .option_bytes = sizeof(struct zstd_opt),
    .flags = CODEC_INEXACT_BYTES,
    SQUEEZE_ROW(zstd_squeezer),
};

// lz4.

static size_t lz4_room(size_t n)
{
    return n <= LZ4_MAX_INPUT_SIZE ? (size_t)LZ4_compressBound((int)n) : 0;
}

static size_t lz4_scratch(const struct codec_inst *c, size_t n)
{
    (void)c, (void)n;
    return (size_t)LZ4_sizeofState() + 64;
}

static int lz4_squeeze(const struct codec_inst *c, const uint8_t *in, size_t n, uint8_t *out,
                       size_t cap, size_t *len, void *scratch)
{
    (void)c;
    if (n > LZ4_MAX_INPUT_SIZE || cap == 0)
        return -1;
    int got =
        LZ4_compress_fast_extState(scratch, (const char *)in, (char *)out, (int)n, (int)cap, 1);
    *len = (size_t)got;
    return got > 0 ? 0 : -1;
}

static int lz4_spread(const struct codec_inst *c, const uint8_t *in, size_t n, uint8_t *out,
                      size_t want, void *scratch)
{
    (void)c, (void)scratch;
    if (n > LZ4_MAX_INPUT_SIZE || want > LZ4_MAX_INPUT_SIZE)
        return -1;
    int got = LZ4_decompress_safe((const char *)in, (char *)out, (int)n, (int)want);
    return got >= 0 && (size_t)got == want ? 0 : -1;
}

static const struct squeezer lz4_squeezer = {lz4_room, lz4_scratch, lz4_squeeze, lz4_spread};

const struct codec wrapper_lz4 = {
    .name = "lz4",
    .help = "LZ4 over the inner message; other versions of the library may give other bytes",
    .source = "lz4.org, block format",
    .flags = CODEC_INEXACT_BYTES,
    SQUEEZE_ROW(lz4_squeezer),
};
