#include "codec/quantiser.h"

#include "base/half.h"
#include "base/pool.h"
#include "base/rng.h"
#include "codec/centre.h"
#include "codec/entropy.h"
#include "codec/message.h"
#include "kernels/stages.h"

#include <math.h>

const char *const q_group_choices[] = {
    [Q_TENSOR] = "tensor", [Q_CLASS] = "class", [Q_RANK] = "rank", NULL};
const char *const q_scale_choices[] = {
    [Q_FP32] = "fp32", [Q_BF16] = "bf16", [Q_LOG8] = "log8", NULL};

#define CLASSES    3                 // of enum shape_kind
#define PIECE      4096              // values that are fitted, then coded, at a time
#define PIECE_MOST 64                // and groups
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

static bool centred(const struct codec_inst *c)
{
    return of(c)->centred && of(c)->centred(c->opt);
}

// Floats of a group: its scales, then its centres.
static unsigned floats_of(const struct codec_inst *c)
{
    return of(c)->scales + (centred(c) ? Q_CENTRES : 0);
}

// The rule that the options say, with what follows from it: kinds of codes and their width.
static void rule_of(const struct codec_inst *c, struct quant_rule *r)
{
    r->scales = floats_of(c);
    of(c)->rule(c->opt, r);
    if (r->kind <= QUANT_DITHER || r->kind == QUANT_POWERS)
        r->kinds = 2 * (unsigned)r->q + 1;
    else if (r->kind != QUANT_BOUNDS)
        r->kinds = 2;
    r->width = entropy_width(r->kinds);
}

static unsigned kinds_of(const struct codec_inst *c)
{
    struct quant_rule rule;
    rule_of(c, &rule);
    return rule.kinds;
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

// Where each tensor's scales and centres begin, in floats and in bytes of the message.
struct places {
    size_t floats, bytes, centres;
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
    struct places p = {0};
    uint32_t n = o->group == Q_CLASS ? CLASSES : c->shape->n_tensors;
    for (uint32_t i = 0; i < n; i++) {
        if (at)
            at[i] = p;
        size_t groups =
            o->group == Q_CLASS ? class_present(c, i) : groups_of(c, &c->shape->tensors[i]);
        p.floats += groups * floats_of(c);
        p.bytes += scale_bytes((enum q_scale)o->scale, groups * of(c)->scales);
        p.centres += centred(c) ? groups * Q_CENTRES : 0;
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

// Writes n scales, `apart` floats from each other, and rounds them to what the receiver will read.
static void write_scales(enum q_scale format, float *s, size_t apart, size_t n, uint8_t *out)
{
    if (format == Q_FP32 && apart == 1) {
        quant_f32_to_le(s, n, out);
        return;
    }
    for (size_t i = 0; i < n && format == Q_FP32; i++)
        put_f32(out + 4 * i, s[i * apart]);
    for (size_t i = 0; i < n && format == Q_BF16; i++) {
        put_u16(out + 2 * i, bf16_from_f32(s[i * apart]));
        s[i * apart] = bf16_to_f32(get_u16(out + 2 * i));
    }
    for (size_t begin = 0; begin < n && format == Q_LOG8; begin += LOG8_BLOCK) {
        size_t end = n - begin < LOG8_BLOCK ? n : begin + LOG8_BLOCK;
        float max = 0;
        for (size_t i = begin; i < end; i++)
            max = s[i * apart] > max ? s[i * apart] : max;
        put_f32(out, max);
        out += 4;
        for (size_t i = begin; i < end; i++) {
            uint8_t b = log8_code(max, s[i * apart]);
            *out++ = b;
            s[i * apart] = log8_level(max, b);
        }
    }
}

static int read_scales(enum q_scale format, const uint8_t *in, size_t apart, size_t n, float *s)
{
    int ok = 1;
    for (size_t i = 0; i < n && format != Q_LOG8; i++) {
        float v = format == Q_FP32 ? get_f32(in + 4 * i) : bf16_to_f32(get_u16(in + 2 * i));
        ok &= msg_within(v, SCALE_MAX);
        s[i * apart] = v;
    }
    for (size_t begin = 0; begin < n && format == Q_LOG8; begin += LOG8_BLOCK) {
        size_t end = n - begin < LOG8_BLOCK ? n : begin + LOG8_BLOCK;
        float max = get_f32(in);
        ok &= msg_within(max, SCALE_MAX);
        in += 4;
        for (size_t i = begin; i < end; i++)
            s[i * apart] = log8_level(max, *in++);
    }
    return ok ? 0 : -1;
}

// Centres.

static void write_centres(const struct quant_centres *s, float *scale, uint8_t *out)
{
    const double step = *scale > 0 ? (double)*scale : 1, one = (double)s->ones;
    out[0] = centre_code(s->one / step, one, one);
    out[1] = centre_code(s->more / step, (double)s->mores, (double)s->levels);
    for (int k = 0; k < Q_CENTRES; k++)
        scale[1 + k] = centre_worth(out[k]) * *scale;
}

static void add_centres(const struct quant_centres *from, struct quant_centres *s)
{
    s->one += from->one;
    s->more += from->more;
    s->ones += from->ones;
    s->mores += from->mores;
    s->levels += from->levels;
}

// Fitting.

static void fit_group(const struct codec_inst *c, const struct q_stats *s, float *scale)
{
    of(c)->fit(c->opt, s, scale);
    for (unsigned k = 0; k < of(c)->scales; k++)
        if (!(fabsf(scale[k]) >= Q_TINY))
            scale[k] = 0;
}

// False when a value is not finite or too large.
static bool add_stats(const struct quant_stats *from, size_t n, struct q_stats *s)
{
    float max = f32_from_bits(from->max_bits);
    if (!(max < CODEC_LIMIT))
        return false;
    s->max = max > s->max ? max : s->max;
    s->n += n;
    s->sum += from->sum;
    s->abs += from->abs;
    s->sq += from->sq;
    s->nonneg += from->nonneg;
    return true;
}

// The values of group g of a run.
static size_t group_values(const struct quant_run *r, size_t g)
{
    size_t at = g * r->group;
    return r->n - at < r->group ? r->n - at : r->group;
}

// stats and scale: of the run's first group.
static bool fit_run(const struct codec_inst *c, const struct quant_run *r,
                    const struct quant_stats *stats, float *scale)
{
    for (size_t g = 0; g * r->group < r->n; g++) {
        struct q_stats s = {0};
        if (!add_stats(&stats[g], group_values(r, g), &s))
            return false;
        fit_group(c, &s, scale + g * floats_of(c));
    }
    return true;
}

// Codes.

struct work {
    const struct codec_inst *c;
    const struct codec_stages *on;
    const struct kernel_ctx *cx;
    void *stage; // where all runs go in one call
    const struct places *at;
    struct quant_rule rule;
    float *scale; // of all groups
    const struct codec_key *key;
    const float *x;  // the update, or turned
    uint8_t *scales; // of the message
    uint8_t *centres;
    struct quant_centres *class; // (n_tensors) where classes share centres
    uint8_t *codes;              // where they begin: in the message, or (n) bytes
    float *turned;               // (n) transposed tensors; the device's
};

// A tensor that is not empty.
static struct quant_run run_of(const struct work *w, uint32_t t)
{
    const struct codec_inst *c = w->c;
    const struct shape_tensor *row = &c->shape->tensors[t];
    struct rng s = rng_stream(w->key->seed, RNG_CODEC, w->key->client, w->key->version, t);
    return (struct quant_run){.at = row->offset,
                              .n = tensor_values(row),
                              .group = group_len(c, row),
                              .first = w->at[common(c)->group == Q_CLASS ? row->kind : t].floats /
                                       w->rule.scales,
                              .out = row->offset * w->rule.width / 8,
                              .key = {s.key[0], s.key[1]},
                              .ctr = {s.ctr[0], s.ctr[1], s.ctr[2], s.ctr[3]}};
}

// Values [at, at + n) of a run, whole groups; the first one's number becomes 0.
static struct quant_run piece_of(const struct work *w, const struct quant_run *r, size_t at,
                                 size_t n)
{
    struct quant_run p = *r;
    p.at += at;
    p.n = n < r->n - at ? n : r->n - at;
    p.first = 0;
    p.out += at * w->rule.width / 8;
    p.drawn += at;
    return p;
}

// Fits the groups of tensor t and makes its codes: piece by piece while each is in the cache,
// unless their scales are coded together or codes of two groups meet in a byte.
static bool fit_and_code(const struct work *w, uint32_t t, const float *x)
{
    const struct codec_inst *c = w->c;
    const struct quant_stages *on = w->on->quant;
    const struct shape_tensor *row = &c->shape->tensors[t];
    const size_t n = tensor_values(row), len = group_len(c, row), per = w->rule.scales;
    const size_t sent = of(c)->scales;
    const enum q_scale format = (enum q_scale)common(c)->scale;
    const bool apart = len % 8 == 0 || len >= n, piecewise = apart && format != Q_LOG8;
    size_t step = len < PIECE ? PIECE / len : 1;
    step = (step < PIECE_MOST ? step : PIECE_MOST) * len;
    const bool on_the_way = apart && w->rule.kind == QUANT_SIGN && w->rule.width == 1;
    uint8_t *signs = on_the_way ? w->codes : NULL;
    uint8_t *scales = w->scales + w->at[t].bytes;
    float *scale = w->scale + w->at[t].floats;
    const struct quant_run all = run_of(w, t);
    for (size_t at = 0; at < n; at += step) {
        struct quant_stats stats[PIECE_MOST];
        struct quant_run r = piece_of(w, &all, at, step);
        size_t first = at / len * per;
        on->fit(w->cx, x, &r, 1, of(c)->stats, stats, signs);
        if (!fit_run(c, &r, stats, scale + first))
            return false;
        if (!piecewise)
            continue;
        write_scales(format, scale + first, per / sent, (r.n + len - 1) / len * sent,
                     scales + scale_bytes(format, at / len * sent));
        if (!signs)
            on->code(w->cx, x, &r, 1, &w->rule, scale + first, w->codes);
    }
    if (piecewise)
        return true;
    write_scales(format, scale, per / sent, groups_of(c, row) * sent, scales);
    if (!signs)
        on->code(w->cx, x, &all, 1, &w->rule, w->scale, w->codes);
    return true;
}

// Centres of the groups of tensor t, whose codes have been made; where classes share them, their
// sums.
static void centre_tensor(const struct work *w, uint32_t t, const float *x)
{
    const struct codec_inst *c = w->c;
    const struct quant_run all = run_of(w, t);
    if (common(c)->group == Q_CLASS) {
        struct quant_run r = piece_of(w, &all, 0, all.n);
        w->on->quant->centre(w->cx, x, w->codes, &r, 1, w->rule.q, &w->class[t]);
        return;
    }
    float *scale = w->scale + w->at[t].floats;
    uint8_t *out = w->centres + w->at[t].centres;
    for (size_t at = 0; at < all.n; at += all.group) {
        struct quant_centres s;
        struct quant_run r = piece_of(w, &all, at, all.group);
        w->on->quant->centre(w->cx, x, w->codes, &r, 1, w->rule.q, &s);
        write_centres(&s, scale, out);
        scale += w->rule.scales;
        out += Q_CENTRES;
    }
}

static void centre_classes(const struct work *w)
{
    const struct codec_inst *c = w->c;
    struct quant_centres s[CLASSES] = {{0}};
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        if (tensor_values(&c->shape->tensors[t]))
            add_centres(&w->class[t], &s[c->shape->tensors[t].kind]);
    for (unsigned k = 0; k < CLASSES; k++)
        if (class_present(c, k))
            write_centres(&s[k], w->scale + w->at[k].floats, w->centres + w->at[k].centres);
}

static void put_classes(const struct work *w, const struct q_stats s[CLASSES])
{
    const struct codec_inst *c = w->c;
    for (unsigned k = 0; k < CLASSES; k++) {
        if (!s[k].n)
            continue;
        fit_group(c, &s[k], w->scale + w->at[k].floats);
        write_scales((enum q_scale)common(c)->scale, w->scale + w->at[k].floats, 1, of(c)->scales,
                     w->scales + w->at[k].bytes);
    }
}

// The scales of all classes.
static bool fit_classes(const struct work *w, const float *x)
{
    const struct codec_inst *c = w->c;
    struct q_stats s[CLASSES] = {{0}};
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        const struct shape_tensor *row = &c->shape->tensors[t];
        struct quant_stats stats = {0};
        struct quant_run r = run_of(w, t);
        r.first = 0;
        w->on->quant->fit(w->cx, x, &r, 1, of(c)->stats, &stats, NULL);
        if (!add_stats(&stats, r.n, &s[row->kind]))
            return false;
    }
    put_classes(w, s);
    return true;
}

struct code_job {
    const struct work *w;
    const float *x;
    _Atomic bool bad;
};

static void code_item(void *arg, uint32_t t)
{
    struct code_job *j = arg;
    const struct work *w = j->w;
    const struct codec_inst *c = w->c;
    const struct shape_tensor *row = &c->shape->tensors[t];
    const float *x = j->x;
    size_t n = tensor_values(row);
    if (n == 0)
        return;
    if (transposed(c, row)) {
        const struct quant_matrix m = {row->offset, row->rows, row->cols};
        w->on->quant->turn(w->cx, x, &m, 1, w->turned);
        x = w->turned;
    }
    if (common(c)->group == Q_CLASS) { // which has been fitted
        struct quant_run all = run_of(w, t);
        w->on->quant->code(w->cx, x, &all, 1, &w->rule, w->scale, w->codes);
    } else if (!fit_and_code(w, t, x)) {
        j->bad = true;
        return;
    }
    if (w->centres)
        centre_tensor(w, t, x);
}

// Tensor by tensor, by whichever thread takes it. False when a value is not finite or too large.
static bool encode_pieces(const struct work *w, const float *x)
{
    const struct codec_inst *c = w->c;
    struct code_job j = {w, x, common(c)->group == Q_CLASS && !fit_classes(w, x)};
    if (!j.bad)
        pool_each(c->shape->n_values, c->shape->n_tensors, code_item, &j);
    if (!j.bad && w->centres && common(c)->group == Q_CLASS)
        centre_classes(w);
    return !j.bad;
}

// All runs in one call.

struct runs {
    struct quant_run *run; // tensors that are not empty; those that are transposed come last
    struct quant_matrix *matrix;
    uint32_t *tensor;
    size_t plain, count;
    struct quant_stats *stats;     // of groups; by tensor where classes share them
    struct quant_centres *centres; // the same
};

static size_t runs_bytes(const struct codec_inst *c)
{
    size_t tensors = c->shape->n_tensors, groups = lay_scales(c, NULL).floats / floats_of(c);
    return SCRATCH_ROUND(tensors * sizeof(struct quant_run)) +
           SCRATCH_ROUND(tensors * sizeof(struct quant_matrix)) +
           SCRATCH_ROUND(tensors * sizeof(uint32_t)) +
           SCRATCH_ROUND((groups + tensors) * sizeof(struct quant_stats)) +
           (centred(c) ? SCRATCH_ROUND((groups + tensors) * sizeof(struct quant_centres)) : 0);
}

static struct runs lay_runs(const struct work *w)
{
    const struct codec_inst *c = w->c;
    const size_t tensors = c->shape->n_tensors;
    const size_t groups = lay_scales(c, NULL).floats / floats_of(c);
    void *stage = w->stage;
    struct runs r = {0};
    r.run = scratch_take(&stage, tensors * sizeof *r.run);
    r.matrix = scratch_take(&stage, tensors * sizeof *r.matrix);
    r.tensor = scratch_take(&stage, tensors * sizeof *r.tensor);
    r.stats = scratch_take(&stage, (groups + tensors) * sizeof *r.stats);
    if (centred(c))
        r.centres = scratch_take(&stage, (groups + tensors) * sizeof *r.centres);
    for (int turn = 0; turn < 2; turn++)
        for (uint32_t t = 0; t < tensors; t++) {
            const struct shape_tensor *row = &c->shape->tensors[t];
            if (transposed(c, row) != (turn != 0) || tensor_values(row) == 0)
                continue;
            r.matrix[r.count] = (struct quant_matrix){row->offset, row->rows, row->cols};
            r.tensor[r.count] = t;
            r.run[r.count++] = run_of(w, t);
            r.plain += !turn;
        }
    return r;
}

// The transposed tensors' matrices are the last ones.
static void turn_all(const struct work *w, const struct runs *r, const float *x)
{
    if (r->count > r->plain)
        w->on->quant->turn(w->cx, x, r->matrix + r->plain, r->count - r->plain, w->turned);
}

static void fit_all(const struct work *w, const struct runs *r, const float *x)
{
    const struct quant_stages *on = w->on->quant;
    on->fit(w->cx, x, r->run, r->plain, of(w->c)->stats, r->stats, NULL);
    on->fit(w->cx, w->turned, r->run + r->plain, r->count - r->plain, of(w->c)->stats, r->stats,
            NULL);
}

static void code_all(const struct work *w, const struct runs *r, const float *x)
{
    const struct quant_stages *on = w->on->quant;
    on->code(w->cx, x, r->run, r->plain, &w->rule, w->scale, w->codes);
    on->code(w->cx, w->turned, r->run + r->plain, r->count - r->plain, &w->rule, w->scale,
             w->codes);
}

// The codes are there.
static void centre_all(const struct work *w, struct runs *r, const float *x)
{
    const struct codec_inst *c = w->c;
    const struct quant_stages *on = w->on->quant;
    const bool classes = common(c)->group == Q_CLASS;
    for (size_t i = 0; i < r->count && classes; i++)
        r->run[i].first = r->tensor[i];
    on->centre(w->cx, x, w->codes, r->run, r->plain, w->rule.q, classes ? w->class : r->centres);
    on->centre(w->cx, w->turned, w->codes, r->run + r->plain, r->count - r->plain, w->rule.q,
               r->centres);
    if (classes) {
        centre_classes(w);
        return;
    }
    for (size_t i = 0; i < r->count; i++) {
        const struct places *at = &w->at[r->tensor[i]];
        for (size_t g = 0; g * r->run[i].group < r->run[i].n; g++)
            write_centres(&r->centres[r->run[i].first + g],
                          w->scale + at->floats + g * w->rule.scales,
                          w->centres + at->centres + g * Q_CENTRES);
    }
}

// False when a value is not finite or too large.
static bool encode_whole(const struct work *w, const float *x)
{
    const struct codec_inst *c = w->c;
    const bool classes = common(c)->group == Q_CLASS;
    struct q_stats class[CLASSES] = {{0}};
    struct runs r = lay_runs(w);
    turn_all(w, &r, x);
    for (size_t i = 0; i < r.count && classes; i++)
        r.run[i].first = i;
    fit_all(w, &r, x);
    for (size_t i = 0; i < r.count; i++) {
        const struct shape_tensor *row = &c->shape->tensors[r.tensor[i]];
        const struct quant_stats *stats = r.stats + r.run[i].first;
        const struct places *at = &w->at[classes ? row->kind : r.tensor[i]];
        float *scale = w->scale + at->floats;
        if (classes ? !add_stats(stats, r.run[i].n, &class[row->kind])
                    : !fit_run(c, &r.run[i], stats, scale))
            return false;
        if (!classes)
            write_scales((enum q_scale)common(c)->scale, scale, w->rule.scales / of(c)->scales,
                         groups_of(c, row) * of(c)->scales, w->scales + at->bytes);
        r.run[i].first = at->floats / w->rule.scales;
    }
    if (classes)
        put_classes(w, class);
    code_all(w, &r, x);
    if (w->centres)
        centre_all(w, &r, x);
    return true;
}

static void decode_whole(const struct work *w, struct quant_sink to)
{
    const struct quant_stages *on = w->on->quant;
    const struct runs r = lay_runs(w);
    const struct quant_sink turned = {w->turned, 1, false};
    const size_t rest = r.count - r.plain;
    on->give(w->cx, w->codes, r.run, r.plain, &w->rule, w->scale, to, false);
    if (rest == 0)
        return;
    on->give(w->cx, w->codes, r.run + r.plain, rest, &w->rule, w->scale, turned, false);
    on->turn_back(w->cx, w->turned, r.matrix + r.plain, rest, to);
}

size_t quantiser_stage(const struct codec_inst *c)
{
    return runs_bytes(c);
}

size_t quantiser_device(const struct codec_inst *c)
{
    return common(c)->group == Q_RANK ? c->shape->n_values * sizeof(float) : 0;
}

// The message.

int quantiser_check(const struct codec_inst *c, struct err *err)
{
    const struct q_common *o = c->opt;
    if (coder_check((enum coder)o->coder, kinds_of(c), err))
        return -1;
    if (o->block > 0 && o->group != Q_TENSOR)
        return err_set(err, "block=%d goes with group=tensor only", (int)o->block);
    return 0;
}

// Codes are made as bytes first where a coder is to see them, or where two tensors' meet in a byte.
static bool needs_bytes(const struct codec_inst *c)
{
    bool apart = true;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        apart &= c->shape->tensors[t].offset % 8 == 0;
    return common(c)->coder != CODER_FIXED || !apart;
}

size_t quantiser_scratch(const struct codec_inst *c)
{
    size_t n = c->shape->n_values;
    return SCRATCH_ROUND(places_count(c) * sizeof(struct places)) +
           SCRATCH_ROUND(lay_scales(c, NULL).floats * sizeof(float)) +
           (centred(c) ? SCRATCH_ROUND(c->shape->n_tensors * sizeof(struct quant_centres)) : 0) +
           (needs_bytes(c) ? SCRATCH_ROUND(n) + SCRATCH_ROUND(entropy_scratch(n)) : 0) +
           (common(c)->group == Q_RANK ? SCRATCH_ROUND(n * sizeof(float)) : 0);
}

size_t quantiser_bound(const struct codec_inst *c)
{
    return 1 + lay_scales(c, NULL).bytes + lay_scales(c, NULL).centres +
           coder_bound((enum coder)common(c)->coder, c->shape->n_values, kinds_of(c));
}

static struct work lay_work(const struct codec_inst *c, const struct codec_key *key,
                            const struct codec_device *on, void **scratch)
{
    size_t n = c->shape->n_values;
    struct places *at = scratch_take(scratch, places_count(c) * sizeof *at);
    struct places total = lay_scales(c, at);
    struct work w = {.c = c, .on = codec_column(on), .cx = codec_context(on), .at = at, .key = key};
    w.scale = scratch_take(scratch, total.floats * sizeof(float));
    if (centred(c))
        w.class = scratch_take(scratch, c->shape->n_tensors * sizeof *w.class);
    w.codes = needs_bytes(c) ? scratch_take(scratch, n) : NULL;
    w.turned = common(c)->group == Q_RANK ? scratch_take(scratch, n * sizeof(float)) : NULL;
    if (on) {
        w.stage = on->stage;
        w.turned = on->room;
    }
    rule_of(c, &w.rule);
    w.rule.width = w.codes ? 8 : w.rule.width;
    return w;
}

int64_t quantiser_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                         size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    size_t n = c->shape->n_values;
    struct work w = lay_work(c, &in->key, in->on, &scratch);
    const enum coder coder = (enum coder)common(c)->coder;
    const unsigned width = entropy_width(w.rule.kinds);
    const uint8_t *bytes = w.codes;
    struct msg_out o;
    msg_init(&o, out, cap, report);
    if (!msg_put_header(&o, 0))
        w.scales = msg_take(&o, PART_SCALES, lay_scales(c, NULL).bytes);
    if (w.scales && centred(c))
        w.centres = msg_take(&o, PART_SCALES, lay_scales(c, NULL).centres);
    if (w.scales && !bytes)
        w.codes = msg_take(&o, PART_VALUES, pack_bytes(n, width));
    if (!w.scales || !w.codes || (centred(c) && !w.centres))
        return msg_full(&o, err);
    if (w.on->whole ? !encode_whole(&w, in->x) : !encode_pieces(&w, in->x))
        return codec_bad_input(c, in->x, in->on, err);
    lap(in->laps, STAGE_QUANTISE);
    if (bytes && coder_put(&o, coder, bytes, n, w.rule.kinds, scratch))
        return msg_full(&o, err);
    if (bytes)
        lap(in->laps, coder_stage(coder));
    report->kept[record_width_of[width]] = (int64_t)n;
    return msg_len(&o);
}

// Decoding.

static int get_scales(struct msg_in *m, const struct work *w, struct err *err)
{
    const struct codec_inst *c = w->c;
    enum q_scale format = (enum q_scale)common(c)->scale;
    const struct places all = lay_scales(c, NULL);
    const size_t apart = w->rule.scales / of(c)->scales;
    const uint8_t *p = msg_need(m, all.bytes), *centre = p ? msg_need(m, all.centres) : NULL;
    if (!centre)
        return msg_short("scales", err);
    uint32_t n = common(c)->group == Q_CLASS ? CLASSES : c->shape->n_tensors;
    for (uint32_t i = 0; i < n; i++) {
        size_t groups =
            common(c)->group == Q_CLASS ? class_present(c, i) : groups_of(c, &c->shape->tensors[i]);
        float *scale = w->scale + w->at[i].floats;
        if (read_scales(format, p + w->at[i].bytes, apart, groups * of(c)->scales, scale))
            return msg_bad("scales", "one is not finite, or too large", err);
        for (size_t g = 0; g < groups && centred(c); g++, scale += w->rule.scales)
            for (size_t k = 0; k < Q_CENTRES; k++)
                scale[1 + k] = centre_worth(centre[w->at[i].centres + g * Q_CENTRES + k]) * *scale;
    }
    return 0;
}

struct give_job {
    const struct work *w;
    struct quant_sink to;
    bool stream;
};

static void give_item(void *arg, uint32_t t)
{
    const struct give_job *j = arg;
    const struct work *w = j->w;
    const struct quant_stages *on = w->on->quant;
    const struct shape_tensor *row = &w->c->shape->tensors[t];
    const struct quant_matrix m = {row->offset, row->rows, row->cols};
    const struct quant_sink turned = {w->turned, 1, false};
    bool turn = transposed(w->c, row);
    if (tensor_values(row) == 0)
        return;
    struct quant_run r = run_of(w, t);
    on->give(w->cx, w->codes, &r, 1, &w->rule, w->scale, turn ? turned : j->to, !turn && j->stream);
    if (turn)
        on->turn_back(w->cx, w->turned, &m, 1, j->to);
}

static void decode_pieces(const struct work *w, struct quant_sink to)
{
    size_t n = w->c->shape->n_values;
    struct give_job j = {w, to, !to.add && n >= STREAM};
    pool_each(n, w->c->shape->n_tensors, give_item, &j);
}

int quantiser_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                     size_t len, struct codec_output to, void *scratch, struct err *err)
{
    size_t n = c->shape->n_values;
    struct msg_in m;
    struct work w = lay_work(c, key, to.on, &scratch);
    if (msg_open_plain(&m, in, len, err) || get_scales(&m, &w, err))
        return -1;
    if (w.codes) {
        if (coder_get(&m, (enum coder)common(c)->coder, w.codes, n, w.rule.kinds, scratch, err))
            return -1;
    } else {
        const uint8_t *p = msg_need(&m, pack_bytes(n, w.rule.width));
        if (!p)
            return msg_short("values", err);
        w.codes = (uint8_t *)(uintptr_t)p; // read only from here on
    }
    if (msg_end(&m, err))
        return -1;
    if (w.on->whole)
        decode_whole(&w, to.sink);
    else
        decode_pieces(&w, to.sink);
    return 0;
}

// Blocks. Dithered values are drawn by their place in the update; log8 codes 256 scales by the
// largest of them, and a block has other 256; centres stand apart from scales.
static bool can_cut(const struct codec_inst *c)
{
    struct quant_rule rule;
    rule_of(c, &rule);
    return rule.kind != QUANT_DITHER && common(c)->scale != Q_LOG8 && common(c)->group != Q_RANK &&
           !centred(c);
}

static size_t cut_group(const struct codec_inst *c)
{
    return common(c)->block > 0 ? (size_t)common(c)->block : 0;
}

struct quantiser_open {
    const struct places *at;
    const uint8_t *scales;
    const uint8_t *codes; // as bytes where a coder had them
    unsigned kinds;
};

static void *quantiser_open(const struct codec_inst *c, const struct codec_key *key,
                            const uint8_t *in, size_t len, void **scratch, struct err *err)
{
    struct quantiser_open *q = scratch_take(scratch, sizeof *q);
    struct work w = lay_work(c, key, NULL, scratch);
    struct msg_in m;
    if (msg_open_plain(&m, in, len, err))
        return NULL;
    *q = (struct quantiser_open){.at = w.at, .scales = m.p, .kinds = w.rule.kinds};
    q->codes = m.p + lay_scales(c, NULL).bytes;
    if (common(c)->coder == CODER_FIXED)
        return q;
    m.p = q->codes;
    q->codes = w.codes;
    return coder_get(&m, (enum coder)common(c)->coder, w.codes, c->shape->n_values, q->kinds,
                     *scratch, err)
               ? NULL
               : q;
}

// Where the scales of a block's tensor t stand in the message.
static const uint8_t *scales_at(const struct codec_inst *c, const struct quantiser_open *q,
                                const struct block *b, uint32_t t)
{
    const struct q_common *o = common(c);
    size_t before = o->block > 0 ? b->skip[t] / (size_t)o->block : 0;
    return q->scales + q->at[b->tensor[t]].bytes +
           scale_bytes((enum q_scale)o->scale, before * of(c)->scales);
}

static int put_cut_scales(const struct codec_inst *c, const struct quantiser_open *q,
                          const struct block *b, struct msg_out *o)
{
    const enum q_scale format = (enum q_scale)common(c)->scale;
    const bool classes = common(c)->group == Q_CLASS;
    const uint32_t n = classes ? CLASSES : b->shape.n_tensors;
    for (uint32_t i = 0; i < n; i++) {
        size_t groups =
            classes ? class_present(&b->part, i) : groups_of(&b->part, &b->shape.tensors[i]);
        size_t bytes = scale_bytes(format, groups * of(c)->scales);
        uint8_t *p = msg_take(o, PART_SCALES, bytes);
        if (!p)
            return -1;
        memcpy(p, classes ? q->scales + q->at[i].bytes : scales_at(c, q, b, i), bytes);
    }
    return 0;
}

// Runs begin at whole bytes, whatever the width of codes.
static int quantiser_put_block(const struct codec_inst *c, const void *open, const struct block *b,
                               struct msg_out *o, void *scratch)
{
    const struct quantiser_open *q = open;
    const unsigned width = entropy_width(q->kinds);
    const size_t n = b->shape.n_values;
    if (msg_put_header(o, 0) || put_cut_scales(c, q, b, o))
        return -1;
    if (common(c)->coder != CODER_FIXED)
        return coder_put(o, (enum coder)common(c)->coder, q->codes + b->range.from, n, q->kinds,
                         scratch);
    uint8_t *p = msg_take(o, PART_VALUES, pack_bytes(n, width));
    if (p)
        memcpy(p, q->codes + b->range.from / 8 * width, pack_bytes(n, width));
    return p ? 0 : -1;
}

static size_t quantiser_open_bytes(const struct codec_inst *c)
{
    return SCRATCH_ROUND(sizeof(struct quantiser_open)) + quantiser_scratch(c);
}

static size_t quantiser_put_bytes(const struct codec_inst *c)
{
    return common(c)->coder == CODER_FIXED ? 0 : entropy_scratch(c->shape->n_values);
}

const struct codec_blocks blocks_quantiser = {
    .can = can_cut,
    .group = cut_group,
    .open = quantiser_open,
    .put = quantiser_put_block,
    .open_bytes = quantiser_open_bytes,
    .put_bytes = quantiser_put_bytes,
};
