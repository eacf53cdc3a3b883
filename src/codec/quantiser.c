#include "codec/quantiser.h"

#include "base/half.h"
#include "base/pool.h"
#include "base/rng.h"
#include "codec/bits.h"
#include "codec/entropy.h"
#include "codec/message.h"
#include "kernels/kernels_codec.h"

#include <math.h>

const char *const q_group_choices[] = {"tensor", "class", "rank", NULL};
const char *const q_coder_choices[] = {"fixed", "rans",  "gamma", "delta",
                                       "omega", "base3", "runs",  NULL};
const char *const q_scale_choices[] = {"fp32", "bf16", "log8", NULL};

#define CLASSES    3                 // of enum shape_kind
#define TILE       1024              // values handled at a time, in the first-level cache
#define CHUNK      4096              // fitted, then coded, at a time
#define STREAM     ((size_t)4 << 20) // updates so large are decoded past the caches
#define LOG8_BLOCK 256
#define SCALE_MAX  0x1p117f // the norm of 2^32 values below 2^100, and a step up in log8

static const struct quantiser *of(const struct codec_inst *c)
{
    return c->row->family;
}

static const struct q_common *common(const struct codec_inst *c)
{
    return c->opt;
}

static size_t tensor_values(const struct shape_tensor *t)
{
    return (size_t)t->rows * t->cols;
}

static bool is_random(const struct codec_inst *c)
{
    return of(c)->random && of(c)->random(c->opt);
}

static bool is_dithered(const struct codec_inst *c)
{
    return of(c)->dithered && of(c)->dithered(c->opt);
}

static int zero_code(const struct codec_inst *c)
{
    return (int)(of(c)->kinds(c->opt) / 2);
}

// Groups.

// Values of one group inside a tensor; groups follow one another, the last may be shorter.
static size_t group_len(const struct codec_inst *c, const struct shape_tensor *t)
{
    const struct q_common *o = common(c);
    size_t n = tensor_values(t);
    if (o->group == Q_RANK)
        return t->kind == SHAPE_LORA_A ? t->cols : t->rows;
    return o->block > 0 && (size_t)o->block < n ? (size_t)o->block : n;
}

// A tensor whose groups are columns is coded column by column.
static bool transposed(const struct codec_inst *c, const struct shape_tensor *t)
{
    return common(c)->group == Q_RANK && t->kind != SHAPE_LORA_A;
}

static size_t groups_of(const struct codec_inst *c, const struct shape_tensor *t)
{
    size_t n = tensor_values(t), len = group_len(c, t);
    return n ? (n + len - 1) / len : 0;
}

static size_t scale_bytes(enum q_scale format, size_t n)
{
    return format == Q_FP32   ? 4 * n
           : format == Q_BF16 ? 2 * n
                              : n + 4 * ((n + LOG8_BLOCK - 1) / LOG8_BLOCK);
}

// Where each tensor's scales begin, in floats and in bytes of the message.
struct places {
    size_t floats, bytes;
};

static bool class_present(const struct codec_inst *c, unsigned kind)
{
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        if (c->shape->tensors[t].kind == kind && tensor_values(&c->shape->tensors[t]))
            return true;
    return false;
}

// The place after the last tensor; at (n_tensors, or CLASSES entries) may be NULL.
static struct places lay_scales(const struct codec_inst *c, struct places *at)
{
    const struct q_common *o = common(c);
    struct places p = {0, 0};
    uint32_t n = o->group == Q_CLASS ? CLASSES : c->shape->n_tensors;
    for (uint32_t i = 0; i < n; i++) {
        if (at)
            at[i] = p;
        size_t groups =
            o->group == Q_CLASS ? class_present(c, i) : groups_of(c, &c->shape->tensors[i]);
        p.floats += groups * of(c)->scales;
        p.bytes += scale_bytes((enum q_scale)o->scale, groups * of(c)->scales);
    }
    return p;
}

static size_t places_count(const struct codec_inst *c)
{
    return c->shape->n_tensors > CLASSES ? c->shape->n_tensors : CLASSES;
}

// Scales. log8: the largest of 256 scales as a float, each as a byte: 0 is zero, b is the largest
// times 2^(-(255 - b) / 16), rounded up, so that no value is clipped.

static const float sixteenth[16] = { // 2^(-k/16), rounded up
    0x1p+0f,        0x1.ea4afcp-1f, 0x1.d5818ep-1f, 0x1.c199bep-1f, 0x1.ae89fap-1f, 0x1.9c491ap-1f,
    0x1.8ace56p-1f, 0x1.7a1148p-1f, 0x1.6a09e8p-1f, 0x1.5ab07ep-1f, 0x1.4bfdaep-1f, 0x1.3dea66p-1f,
    0x1.306fe2p-1f, 0x1.2387a8p-1f, 0x1.172b84p-1f, 0x1.0b5588p-1f};

static float log8_level(float max, unsigned b)
{
    unsigned down = 255 - b;
    return b ? max * sixteenth[down % 16] * f32_from_bits((127 - down / 16) << 23) : 0;
}

static uint8_t log8_code(float max, float s)
{
    if (!(s > 0))
        return 0;
    unsigned low = 1, high = 255; // the smallest level that is at least s
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (log8_level(max, mid) >= s)
            high = mid;
        else
            low = mid + 1;
    }
    return (uint8_t)low;
}

// Writes the scales and rounds them to what the receiver will read.
static void write_scales(enum q_scale format, float *s, size_t n, uint8_t *out)
{
    if (format == Q_FP32) {
        quant_f32_to_le(s, n, out);
        return;
    }
    for (size_t i = 0; i < n && format == Q_BF16; i++) {
        put_u16(out + 2 * i, bf16_from_f32(s[i]));
        s[i] = bf16_to_f32(get_u16(out + 2 * i));
    }
    for (size_t begin = 0; begin < n && format == Q_LOG8; begin += LOG8_BLOCK) {
        size_t end = n - begin < LOG8_BLOCK ? n : begin + LOG8_BLOCK;
        float max = 0;
        for (size_t i = begin; i < end; i++)
            max = s[i] > max ? s[i] : max;
        put_f32(out, max);
        out += 4;
        for (size_t i = begin; i < end; i++) {
            uint8_t b = log8_code(max, s[i]);
            *out++ = b;
            s[i] = log8_level(max, b);
        }
    }
}

static int read_scales(enum q_scale format, const uint8_t *in, size_t n, float *s)
{
    int ok = 1;
    for (size_t i = 0; i < n && format != Q_LOG8; i++) {
        s[i] = format == Q_FP32 ? get_f32(in + 4 * i) : bf16_to_f32(get_u16(in + 2 * i));
        ok &= msg_within(s[i], SCALE_MAX);
    }
    for (size_t begin = 0; begin < n && format == Q_LOG8; begin += LOG8_BLOCK) {
        size_t end = n - begin < LOG8_BLOCK ? n : begin + LOG8_BLOCK;
        float max = get_f32(in);
        ok &= msg_within(max, SCALE_MAX);
        in += 4;
        for (size_t i = begin; i < end; i++)
            s[i] = log8_level(max, *in++);
    }
    return ok ? 0 : -1;
}

// Fitting.

// Adds n values; false when one is not finite or too large. No value exceeds the sum of magnitudes.
static bool add_stats(unsigned wanted, const float *x, size_t n, struct quant_stats *run,
                      struct q_stats *s)
{
    if ((wanted & STAT_NO_MAX) && !(run->abs < (double)CODEC_LIMIT))
        run->max_bits = quant_absmax_bits(x, n);
    float max = f32_from_bits(run->max_bits);
    if (!(max < CODEC_LIMIT))
        return false;
    s->max = max > s->max ? max : s->max;
    s->n += n;
    s->sum += run->sum;
    s->abs += run->abs;
    s->sq += run->sq;
    s->nonneg += run->nonneg;
    return true;
}

static void fit_one(const struct codec_inst *c, const struct q_stats *s, float *scale)
{
    of(c)->fit(c->opt, s, scale);
    for (unsigned k = 0; k < of(c)->scales; k++)
        if (!(fabsf(scale[k]) >= Q_TINY))
            scale[k] = 0;
}

// n values in groups of len; signs, where given, are packed while the values are in the cache.
static bool fit_groups(const struct codec_inst *c, const float *x, size_t n, size_t len,
                       float *scale, uint8_t *signs)
{
    for (size_t at = 0; at < n; scale += of(c)->scales) {
        size_t end = n - at < len ? n : at + len, begin = at;
        struct q_stats s = {0};
        struct quant_stats run = {0};
        bool at_once = signs && of(c)->stats == (STAT_ABS | STAT_NO_MAX);
        for (size_t m; at < end; at += m) {
            m = end - at < CHUNK ? end - at : CHUNK;
            if (at_once) {
                quant_pack_sign_abs(x + at, m, signs + at / 8, &run.abs);
                continue;
            }
            quant_stats(x + at, m, of(c)->stats, &run);
            if (signs)
                quant_pack_sign(x + at, m, signs + at / 8);
        }
        if (!add_stats(of(c)->stats, x + begin, end - begin, &run, &s))
            return false;
        fit_one(c, &s, scale);
    }
    return true;
}

static bool fit_classes(const struct codec_inst *c, const float *x, const struct places *at,
                        float *scale)
{
    struct q_stats s[CLASSES] = {{0}};
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        const struct shape_tensor *row = &c->shape->tensors[t];
        size_t n = tensor_values(row);
        struct quant_stats run = {0};
        quant_stats(x + row->offset, n, of(c)->stats, &run);
        if (!add_stats(of(c)->stats, x + row->offset, n, &run, &s[row->kind]))
            return false;
    }
    for (unsigned k = 0; k < CLASSES; k++)
        if (s[k].n)
            fit_one(c, &s[k], scale + at[k].floats);
    return true;
}

// Codes.

// (rows, cols) to (cols, rows)
static void transpose(const float *x, size_t rows, size_t cols, float *out)
{
    for (size_t r0 = 0; r0 < rows; r0 += 64)
        for (size_t c = 0; c < cols; c++)
            for (size_t r = r0; r < rows && r < r0 + 64; r++)
                out[c * rows + r] = x[r * cols + c];
}

// A stream of packed codes that is filled, or read, a tile at a time.
struct code_stream {
    uint8_t code[4 * TILE];
    size_t n; // codes in hand, fewer than eight between tiles
    unsigned width;
    uint8_t *out;      // writing
    const uint8_t *in; // reading
};

static void stream_flush(struct code_stream *s, bool last)
{
    size_t now = last ? s->n : s->n & ~(size_t)7;
    pack_u8(s->code, now, s->width, s->out);
    s->out += now / 8 * s->width;
    s->n -= now;
    memmove(s->code, s->code + now, s->n);
}

// The next n codes, n <= TILE; the stream keeps what it had to unpack beyond them.
static const uint8_t *stream_read(struct code_stream *s, size_t n, size_t left, uint8_t *buf)
{
    size_t have = s->n < n ? s->n : n;
    memcpy(buf, s->code, have);
    memmove(s->code, s->code + have, s->n - have);
    s->n -= have;
    size_t need = n - have, whole = need & ~(size_t)7;
    unpack_u8(s->in, whole, s->width, buf + have);
    s->in += whole / 8 * s->width;
    need -= whole;
    if (need) {
        size_t more = left - have - whole < 8 ? left - have - whole : 8;
        unpack_u8(s->in, more, s->width, s->code);
        s->in += s->width;
        memcpy(buf + have + whole, s->code, need);
        memmove(s->code, s->code + need, more - need);
        s->n = more - need;
    }
    return buf;
}

// The random words of values [at, at + n) of a tensor, n <= TILE.
static const uint32_t *draw(const struct rng *stream, size_t at, size_t n, uint32_t buf[TILE + 4])
{
    size_t skip = at % 4;
    philox_words(stream->key, stream->ctr, at - skip, n + skip, buf);
    return buf + skip;
}

struct work {
    const struct codec_inst *c;
    const struct places *at;
    float *scale; // of all groups
    const struct codec_key *key;
    uint8_t *codes; // (n) unpacked, or NULL: packed straight into or out of packed
    uint8_t *packed;
    float *turned; // (n) scratch of transposed tensors
    unsigned kinds, width;
};

static struct rng tensor_stream(const struct work *w, uint32_t t)
{
    return rng_stream(w->key->seed, RNG_CODEC, w->key->client, w->key->version, t);
}

static const float *group_scale(const struct work *w, uint32_t t, size_t group)
{
    const struct codec_inst *c = w->c;
    if (common(c)->group == Q_CLASS)
        return w->scale + w->at[c->shape->tensors[t].kind].floats;
    return w->scale + w->at[t].floats + group * of(c)->scales;
}

static void encode_run(const struct codec_inst *c, const float *scale, const float *x,
                       const uint32_t *rnd, size_t n, uint8_t *code)
{
    int q = zero_code(c);
    switch (of(c)->rule) {
    case Q_OWN:
        of(c)->encode(c->opt, scale, x, rnd, n, code);
        break;
    case Q_NEAREST:
        quant_nearest_u8(x, n, q_reciprocal(*scale), q, code);
        break;
    case Q_STOCHASTIC:
        quant_stochastic_u8(x, rnd, n, q_reciprocal(*scale), q, code);
        break;
    case Q_SIGN:
        quant_sign_u8(x, n, code);
        break;
    }
}

static void encode_tensor(const struct work *w, uint32_t t, const float *x, struct code_stream *s)
{
    const struct codec_inst *c = w->c;
    const struct shape_tensor *row = &c->shape->tensors[t];
    size_t n = tensor_values(row), len = group_len(c, row);
    bool random = is_random(c);
    struct rng stream = tensor_stream(w, t);
    uint32_t rnd[TILE + 4];
    for (size_t at = 0; at < n;) {
        size_t end = (at / len + 1) * len < n ? (at / len + 1) * len : n;
        size_t m = end - at < TILE ? end - at : TILE;
        uint8_t *code = w->codes ? w->codes + row->offset + at : s->code + s->n;
        encode_run(c, group_scale(w, t, at / len), x + at,
                   random ? draw(&stream, at, m, rnd) : NULL, m, code);
        at += m;
        if (w->codes)
            continue;
        s->n += m;
        if (s->n + TILE > sizeof s->code)
            stream_flush(s, false);
    }
}

// Whether codes of a tensor that begins on a whole byte go straight to their place.
static bool is_direct(const struct codec_inst *c, const struct shape_tensor *t)
{
    size_t len = group_len(c, t);
    return of(c)->rule != Q_OWN && (len % 8 == 0 || len >= tensor_values(t));
}

// Values [at, at + n) of tensor t, whole groups; out is their place.
static void encode_direct(const struct work *w, uint32_t t, const float *x, size_t at, size_t n,
                          uint8_t *out)
{
    const struct codec_inst *c = w->c;
    size_t len = group_len(c, &c->shape->tensors[t]);
    unsigned width = w->codes ? 8 : w->width;
    int q = zero_code(c);
    if (of(c)->rule == Q_NEAREST) {
        quant_pack(x, NULL, n, len, group_scale(w, t, at / len), q, width, out);
        return;
    }
    struct rng stream = tensor_stream(w, t);
    uint32_t rnd[TILE + 4];
    for (size_t i = 0, m; i < n; i += m) {
        size_t left = TILE % len == 0 ? n - i : len - i % len;
        m = left < TILE ? left : TILE;
        m = m < n - i ? m : n - i;
        quant_pack(x + i, draw(&stream, at + i, m, rnd), m, len, group_scale(w, t, (at + i) / len),
                   q, width, out + i / 8 * width);
    }
}

// Tensors in parallel where each begins on a whole byte, else one after another in one stream.
static bool byte_aligned(const struct codec_inst *c)
{
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        if (c->shape->tensors[t].offset % 8)
            return false;
    return true;
}

// Values that are fitted, then coded, while they are in the cache: whole groups, and scales that
// are coded together.
static size_t chunk_values(const struct codec_inst *c, const struct shape_tensor *t)
{
    size_t n = tensor_values(t), len = group_len(c, t);
    if (len == 0 || len >= CHUNK || common(c)->group == Q_CLASS || common(c)->scale == Q_LOG8)
        return n;
    return CHUNK / len * len;
}

// Fits (unless by class), writes the scales and makes the codes of tensor t; out: its first byte,
// NULL = through the stream.
static bool code_tensor(const struct work *w, uint32_t t, const float *x, uint8_t *scales,
                        uint8_t *out, struct code_stream *s)
{
    const struct codec_inst *c = w->c;
    const struct shape_tensor *row = &c->shape->tensors[t];
    const float *xt = x + row->offset;
    if (transposed(c, row)) {
        transpose(xt, row->rows, row->cols, w->turned + row->offset);
        xt = w->turned + row->offset;
    }
    size_t n = tensor_values(row), len = group_len(c, row), per = of(c)->scales;
    size_t chunk = chunk_values(c, row);
    float *scale = w->scale + w->at[t].floats;
    enum q_scale format = (enum q_scale)common(c)->scale;
    bool signs = out && of(c)->rule == Q_SIGN, by_class = common(c)->group == Q_CLASS;
    scales += w->at[t].bytes;
    for (size_t at = 0; at < n; at += chunk) {
        size_t m = n - at < chunk ? n - at : chunk, first = at / len * per;
        if (signs && by_class)
            quant_pack_sign(xt + at, m, out + at / 8);
        if (!by_class) {
            if (!fit_groups(c, xt + at, m, len, scale + first, signs ? out + at / 8 : NULL))
                return false;
            write_scales(format, scale + first, (m + len - 1) / len * per,
                         scales + scale_bytes(format, first));
        }
        if (out && !signs)
            encode_direct(w, t, xt + at, at, m, out + at / 8 * (w->codes ? 8 : w->width));
    }
    if (!out)
        encode_tensor(w, t, xt, s);
    return true;
}

struct code_job {
    const struct work *w;
    const float *x;
    uint8_t *scales;
    _Atomic bool bad;
};

// A tensor whose codes begin with a byte.
static void code_item(void *arg, uint32_t t)
{
    struct code_job *j = arg;
    const struct work *w = j->w;
    const struct shape_tensor *row = &w->c->shape->tensors[t];
    struct code_stream s;
    s.n = 0;
    s.width = w->width;
    s.out = w->codes ? NULL : w->packed + row->offset / 8 * w->width;
    uint8_t *out = w->codes ? w->codes + row->offset : s.out;
    if (!code_tensor(w, t, j->x, j->scales, is_direct(w->c, row) ? out : NULL, &s))
        j->bad = true;
    else if (!w->codes)
        stream_flush(&s, true);
}

static bool code_all(const struct work *w, const float *x, uint8_t *scales)
{
    const struct codec_inst *c = w->c;
    if (w->codes || byte_aligned(c)) {
        struct code_job j = {w, x, scales, false};
        pool_each(c->shape->n_values, c->shape->n_tensors, code_item, &j);
        return !j.bad;
    }
    bool bad = false;
    struct code_stream s;
    s.n = 0;
    s.width = w->width;
    s.out = w->packed;
    for (uint32_t t = 0; t < c->shape->n_tensors && !bad; t++)
        bad |= !code_tensor(w, t, x, scales, NULL, &s);
    stream_flush(&s, true);
    return !bad;
}

// Elias codes of sparse levels. As in QSGD's paper: for each value that is not zero the gap to it,
// its sign and its level.

static void elias_put(struct bits_out *b, enum q_coder coder, uint64_t v)
{
    if (coder == Q_GAMMA)
        gamma_put(b, v);
    else if (coder == Q_DELTA)
        delta_put(b, v);
    else
        omega_put(b, v);
}

static uint64_t elias_get(struct bits_in *b, enum q_coder coder)
{
    return coder == Q_GAMMA ? gamma_get(b) : coder == Q_DELTA ? delta_get(b) : omega_get(b);
}

static int put_elias(struct msg_out *o, enum q_coder coder, const uint8_t *code, size_t n, int zero)
{
    struct bits_out b;
    bits_out_init(&b, o->p, msg_room(o));
    size_t next = 0;
    for (size_t i = 0; i < n; i++) {
        if (code[i] == zero)
            continue;
        elias_put(&b, coder, i - next + 1);
        bits_put(&b, code[i] < zero, 1);
        elias_put(&b, coder, (uint64_t)(code[i] < zero ? zero - code[i] : code[i] - zero));
        next = i + 1;
    }
    elias_put(&b, coder, n - next + 1); // beyond the last: the end
    size_t len = bits_out_end(&b);
    return b.full || !msg_take(o, PART_VALUES, len) ? -1 : 0;
}

static int get_elias(struct msg_in *m, enum q_coder coder, uint8_t *code, size_t n, int zero,
                     struct err *err)
{
    struct bits_in b;
    bits_in_init(&b, m->p, (size_t)(m->end - m->p));
    memset(code, zero, n);
    for (size_t next = 0; next <= n;) {
        uint64_t gap = elias_get(&b, coder) - 1;
        if (b.bad || gap > n - next)
            return msg_bad("values", "a gap is cut off or out of range", err);
        next += (size_t)gap;
        if (next == n)
            break;
        bool negative = bits_get(&b, 1);
        uint64_t level = elias_get(&b, coder);
        if (b.bad || level > (uint64_t)zero)
            return msg_bad("values", "a level is cut off or out of range", err);
        code[next++] = (uint8_t)(negative ? zero - (int)level : zero + (int)level);
    }
    if (!bits_in_ended(&b))
        return msg_bad("values", "bits after the last value", err);
    m->p = m->end;
    return 0;
}

// 3LC's: five codes of 0 to 2 a byte, and 243 to 255 for 2 to 14 bytes of zeros (code 1) in a row.

#define QUINT_ZERO 121 // 1 + 3 + 9 + 27 + 81
#define RUN_MIN    2
#define RUN_MAX    14
#define RUN_FIRST  243

// Packs into quint (n + 4) / 5 bytes, then over itself; returns the bytes left.
static size_t shorten_runs(uint8_t *quint, size_t n)
{
    size_t out = 0;
    for (size_t i = 0; i < n;) {
        size_t run = 0;
        while (run < RUN_MAX && i + run < n && quint[i + run] == QUINT_ZERO)
            run++;
        quint[out++] = run >= RUN_MIN ? (uint8_t)(RUN_FIRST + run - RUN_MIN) : quint[i];
        i += run >= RUN_MIN ? run : 1;
    }
    return out;
}

static int put_runs(struct msg_out *o, const uint8_t *code, size_t n, uint8_t *quint)
{
    pack_base3(code, n, quint);
    size_t len = shorten_runs(quint, (n + 4) / 5);
    uint8_t *p = msg_take(o, PART_VALUES, len);
    if (!p)
        return -1;
    memcpy(p, quint, len);
    return 0;
}

static int get_runs(struct msg_in *m, uint8_t *code, size_t n, uint8_t *quint, struct err *err)
{
    size_t want = (n + 4) / 5, have = 0;
    while (have < want) {
        const uint8_t *p = msg_need(m, 1);
        if (!p)
            return msg_short("values", err);
        size_t run = *p >= RUN_FIRST ? (size_t)*p - RUN_FIRST + RUN_MIN : 1;
        if (run > want - have)
            return msg_bad("values", "a run of zeros beyond the last value", err);
        memset(quint + have, *p >= RUN_FIRST ? QUINT_ZERO : *p, run);
        have += run;
    }
    unpack_base3(quint, n, code);
    return 0;
}

// The message.

int quantiser_check(const struct codec_inst *c, struct err *err)
{
    const struct q_common *o = c->opt;
    unsigned kinds = of(c)->kinds(c->opt);
    if (o->coder >= Q_BASE3 && kinds != 3)
        return err_set(err, "code=%s is for three levels, here are %u", q_coder_choices[o->coder],
                       kinds);
    if (o->coder >= Q_GAMMA && o->coder <= Q_OMEGA && kinds % 2 == 0)
        return err_set(err, "code=%s is for levels around zero", q_coder_choices[o->coder]);
    if (o->block > 0 && o->group != Q_TENSOR)
        return err_set(err, "block=%d goes with group=tensor only", (int)o->block);
    return 0;
}

static bool needs_codes(const struct codec_inst *c)
{
    return common(c)->coder != Q_FIXED;
}

size_t quantiser_scratch(const struct codec_inst *c)
{
    size_t n = c->shape->n_values;
    return SCRATCH_ROUND(places_count(c) * sizeof(struct places)) +
           SCRATCH_ROUND(lay_scales(c, NULL).floats * sizeof(float)) +
           (needs_codes(c) ? SCRATCH_ROUND(n) + SCRATCH_ROUND(entropy_scratch(n)) : 0) +
           (common(c)->group == Q_RANK ? SCRATCH_ROUND(n * sizeof(float)) : 0);
}

static size_t codes_bound(const struct codec_inst *c)
{
    size_t n = c->shape->n_values;
    unsigned kinds = of(c)->kinds(c->opt), most = kinds / 2 ? kinds / 2 : 1;
    switch ((enum q_coder)common(c)->coder) {
    case Q_RANS:
        return entropy_bound(n, kinds);
    case Q_BASE3:
    case Q_RUNS:
        return (n + 4) / 5;
    case Q_GAMMA:
    case Q_DELTA:
    case Q_OMEGA: // gap 1 takes 1 bit, a level up to 127 at most 13; a longer gap skips more than
                  // it costs
        return n * (most > 1 ? 15 : 4) / 8 + 16;
    case Q_FIXED:
        break;
    }
    return pack_bytes(n, entropy_width(kinds));
}

size_t quantiser_bound(const struct codec_inst *c)
{
    return 1 + lay_scales(c, NULL).bytes + codes_bound(c);
}

static struct work lay_work(const struct codec_inst *c, const struct codec_key *key, void **scratch)
{
    size_t n = c->shape->n_values;
    struct places *at = scratch_take(scratch, places_count(c) * sizeof *at);
    struct places total = lay_scales(c, at);
    struct work w = {.c = c, .at = at, .key = key};
    w.scale = scratch_take(scratch, total.floats * sizeof(float));
    w.codes = needs_codes(c) ? scratch_take(scratch, n) : NULL;
    w.turned = common(c)->group == Q_RANK ? scratch_take(scratch, n * sizeof(float)) : NULL;
    w.kinds = of(c)->kinds(c->opt);
    w.width = entropy_width(w.kinds);
    return w;
}

static int put_codes(struct msg_out *o, const struct work *w, void *scratch)
{
    const struct codec_inst *c = w->c;
    size_t n = c->shape->n_values;
    enum q_coder coder = (enum q_coder)common(c)->coder;
    if (coder == Q_RANS)
        return entropy_put(o, PART_VALUES, w->codes, n, of(c)->kinds(c->opt), scratch);
    if (coder == Q_RUNS)
        return put_runs(o, w->codes, n, scratch);
    if (coder != Q_BASE3)
        return put_elias(o, coder, w->codes, n, zero_code(c));
    uint8_t *p = msg_take(o, PART_VALUES, (n + 4) / 5);
    if (!p)
        return -1;
    pack_base3(w->codes, n, p);
    return 0;
}

int64_t quantiser_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                         size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    size_t n = c->shape->n_values;
    struct work w = lay_work(c, &in->key, &scratch);
    size_t scale_len = lay_scales(c, NULL).bytes;
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *scales = msg_put_header(&o, 0) ? NULL : msg_take(&o, PART_SCALES, scale_len);
    if (scales && !w.codes)
        w.packed = msg_take(&o, PART_VALUES, pack_bytes(n, w.width));
    if (!scales || (!w.codes && !w.packed))
        return msg_full(&o, err);
    if (common(c)->group == Q_CLASS) {
        if (!fit_classes(c, in->x, w.at, w.scale))
            return codec_bad_input(c, in->x, err);
        for (unsigned k = 0; k < CLASSES; k++)
            if (class_present(c, k))
                write_scales((enum q_scale)common(c)->scale, w.scale + w.at[k].floats,
                             of(c)->scales, scales + w.at[k].bytes);
    }
    if (!code_all(&w, in->x, scales))
        return codec_bad_input(c, in->x, err);
    if (w.codes && put_codes(&o, &w, scratch))
        return msg_full(&o, err);
    report->kept[record_width_of[w.width]] = (int64_t)n;
    return msg_len(&o);
}

// Decoding.

static int get_scales(struct msg_in *m, const struct work *w, struct err *err)
{
    const struct codec_inst *c = w->c;
    enum q_scale format = (enum q_scale)common(c)->scale;
    const uint8_t *p = msg_need(m, lay_scales(c, NULL).bytes);
    if (!p)
        return msg_short("scales", err);
    uint32_t n = common(c)->group == Q_CLASS ? CLASSES : c->shape->n_tensors;
    for (uint32_t i = 0; i < n; i++) {
        size_t groups =
            common(c)->group == Q_CLASS ? class_present(c, i) : groups_of(c, &c->shape->tensors[i]);
        if (read_scales(format, p + w->at[i].bytes, groups * of(c)->scales,
                        w->scale + w->at[i].floats))
            return msg_bad("scales", "one is not finite, or too large", err);
    }
    return 0;
}

static int get_codes(struct msg_in *m, struct work *w, void *scratch, struct err *err)
{
    const struct codec_inst *c = w->c;
    size_t n = c->shape->n_values;
    enum q_coder coder = (enum q_coder)common(c)->coder;
    if (coder == Q_RANS)
        return entropy_get(m, w->codes, n, of(c)->kinds(c->opt), scratch, err);
    if (coder >= Q_GAMMA && coder <= Q_OMEGA)
        return get_elias(m, coder, w->codes, n, zero_code(c), err);
    if (coder == Q_RUNS)
        return get_runs(m, w->codes, n, scratch, err);
    const uint8_t *p = msg_need(m, coder == Q_BASE3 ? (n + 4) / 5 : pack_bytes(n, w->width));
    if (!p)
        return msg_short("values", err);
    if (coder == Q_BASE3) {
        unpack_base3(p, n, w->codes);
        if (pack_max_u8(w->codes, n) > 2)
            return msg_bad("values", "a byte above 242", err);
    }
    w->packed = (uint8_t *)(uintptr_t)p; // read only from here on
    return 0;
}

static void look_up(const uint8_t *code, size_t n, const float *table, unsigned kinds,
                    struct quant_sink to)
{
    if (kinds <= 16) {
        quant_table_from_u8(code, n, table, to);
        return;
    }
    for (size_t i = 0; i < n; i++)
        to.to[i] = to.add ? to.to[i] + to.weight * table[code[i]] : table[code[i]];
}

static void decode_tensor(const struct work *w, uint32_t t, struct quant_sink to,
                          struct code_stream *s, size_t left)
{
    const struct codec_inst *c = w->c;
    const struct shape_tensor *row = &c->shape->tensors[t];
    size_t n = tensor_values(row), len = group_len(c, row), group = SIZE_MAX;
    struct rng stream = tensor_stream(w, t);
    struct q_levels lv = {0};
    uint32_t rnd[TILE + 4];
    uint8_t buf[TILE];
    for (size_t at = 0; at < n;) {
        size_t end = n - at < TILE ? n : at + TILE;
        const uint8_t *code =
            w->codes ? w->codes + row->offset + at : stream_read(s, end - at, left - at, buf);
        while (at < end) { // the pieces of groups inside the tile
            size_t stop = (at / len + 1) * len < end ? (at / len + 1) * len : end, m = stop - at;
            if (at / len != group) {
                group = at / len;
                of(c)->levels(c->opt, group_scale(w, t, group), &lv);
            }
            if (is_dithered(c))
                quant_dither_from_u8(code, draw(&stream, at, m, rnd), m, lv.zero, lv.step,
                                     quant_sink_at(to, at));
            else if (lv.linear)
                quant_linear_from_u8(code, m, lv.zero, lv.step, quant_sink_at(to, at));
            else
                look_up(code, m, lv.table, w->kinds, quant_sink_at(to, at));
            code += m;
            at = stop;
        }
    }
}

// in: the first byte of the tensor's codes.
static void decode_direct(const struct work *w, uint32_t t, const uint8_t *in, struct quant_sink to)
{
    const struct codec_inst *c = w->c;
    const struct shape_tensor *row = &c->shape->tensors[t];
    size_t n = tensor_values(row), len = group_len(c, row);
    bool stream = !to.add && c->shape->n_values >= STREAM;
    unsigned width = w->codes ? 8 : w->width;
    if (of(c)->rule != Q_SIGN) {
        quant_unpack(in, n, width, len, group_scale(w, t, 0), zero_code(c), to, stream);
        return;
    }
    for (size_t at = 0; at < n; at += len) {
        struct q_levels lv = {0};
        of(c)->levels(c->opt, group_scale(w, t, at / len), &lv);
        quant_unpack_table(in + at / 8, n - at < len ? n - at : len, 1, lv.table,
                           quant_sink_at(to, at), stream);
    }
}

// in: the first byte of the tensor's codes, NULL = through the stream.
static void give_tensor(const struct work *w, uint32_t t, const uint8_t *in, struct quant_sink to,
                        struct code_stream *s)
{
    const struct shape_tensor *row = &w->c->shape->tensors[t];
    size_t left = w->c->shape->n_values - row->offset;
    struct quant_sink at = quant_sink_at(to, row->offset);
    if (in && !transposed(w->c, row)) {
        decode_direct(w, t, in, at);
        return;
    }
    if (!transposed(w->c, row)) {
        decode_tensor(w, t, at, s, left);
        return;
    }
    float *turned = w->turned + row->offset;
    decode_tensor(w, t, (struct quant_sink){turned, 1, false}, s, left);
    for (size_t r = 0; r < row->rows; r++)
        for (size_t k = 0; k < row->cols; k++, at.to++) {
            float v = turned[k * row->rows + r];
            *at.to = at.add ? *at.to + at.weight * v : v;
        }
}

struct give_job {
    const struct work *w;
    struct quant_sink to;
};

static void give_item(void *arg, uint32_t t)
{
    const struct give_job *j = arg;
    const struct work *w = j->w;
    const struct shape_tensor *row = &w->c->shape->tensors[t];
    struct code_stream s;
    s.n = 0;
    s.width = w->width;
    s.in = w->codes ? NULL : w->packed + row->offset / 8 * w->width;
    const uint8_t *first = w->codes ? w->codes + row->offset : s.in;
    give_tensor(w, t, is_direct(w->c, row) ? first : NULL, j->to, &s);
}

int quantiser_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                     size_t len, struct quant_sink to, void *scratch, struct err *err)
{
    struct msg_in m;
    struct work w = lay_work(c, key, &scratch);
    if (msg_open_plain(&m, in, len, err))
        return -1;
    if (get_scales(&m, &w, err) || get_codes(&m, &w, scratch, err) || msg_end(&m, err))
        return -1;
    if (w.codes || byte_aligned(c)) {
        struct give_job j = {&w, to};
        pool_each(c->shape->n_values, c->shape->n_tensors, give_item, &j);
        return 0;
    }
    struct code_stream s;
    s.n = 0;
    s.width = w.width;
    s.in = w.packed;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        give_tensor(&w, t, NULL, to, &s);
    return 0;
}
