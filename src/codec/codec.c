#include "codec/codec.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/pool.h"
#include "codec/message.h"
#include "dev/dev.h"
#include "kernels/stages.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

const struct codec_alias codec_alias_table[] = {
    {"int8", "int:bits=8", "8-bit blocks scaled by their largest value"},
    {"int4", "int:bits=4", "4-bit blocks scaled by their largest value"},
    {"int2", "int:bits=2", "2-bit (ternary) blocks scaled by their largest value"},
    {"natdither", "natural:levels=8,norm=l2,bucket=512",
     "natural dithering: powers of two below a bucket's norm"},
    {"3lc", "threelc+ef", "3LC as it is used, with error feedback"},
    {"drive", "eden:bits=1", "one rotated bit a value"},
    {"efsign", "sign:group=tensor+ef", "EF-signSGD: signs, mean magnitudes, error feedback"},
    {"fstq-paper",
     "fstq:policy=percentile,budget=0.15,shares=0.005/0.04/0.08,importance=fisher,gamma=1,"
     "norm=none,group=tensor,scale=group,format=fp32,tags=bitmap,values=packed",
     "Fed-FSTQ as it is written: F D^2 by percentiles, one scale per matrix, a mask and 2-bit "
     "tags"},
    {"fedpaq", "qsgd:norm=l2",
     "QSGD as FedPAQ uses it: several local steps; its mean is that of fed.weights=equal"},
    {NULL, NULL, NULL},
};

// Names.

static const struct codec *find_in(const struct codec *const *table, const char *name)
{
    for (; *table; table++)
        if (strcmp((*table)->name, name) == 0)
            return *table;
    return NULL;
}

const struct codec *codec_find(const char *name)
{
    const struct codec *row = find_in(codec_table, name);
    return row ? row : find_in(wrapper_table, name);
}

static const struct codec_alias *find_alias(const char *name)
{
    for (const struct codec_alias *a = codec_alias_table; a->name; a++)
        if (strcmp(a->name, name) == 0)
            return a;
    return NULL;
}

static void nearer(const char *name, const char *text, const char **best, int *distance)
{
    int d = opt_distance(text, name);
    if (d < *distance) {
        *distance = d;
        *best = name;
    }
}

static int unknown(const char *what, const char *name, const struct codec *const *table,
                   bool aliases, struct err *err)
{
    const char *best = NULL;
    int distance = 4;
    for (; *table; table++)
        nearer((*table)->name, name, &best, &distance);
    for (const struct codec_alias *a = codec_alias_table; aliases && a->name; a++)
        nearer(a->name, name, &best, &distance);
    if (best)
        return err_set(err, "unknown %s '%s'; the nearest is '%s'", what, name, best);
    return err_set(err, "unknown %s '%s'; 'fstq list codecs' shows all", what, name);
}

// Opening.

#define TEXT_MAX sizeof(((struct codec_inst *)0)->text)

// The '+' before the next wrapper, or the end. The one in 1e+3 is followed by a digit.
static const char *piece_end(const char *s)
{
    for (; *s; s++)
        if (*s == '+' && !(s[1] >= '0' && s[1] <= '9'))
            return s;
    return s;
}

// Cuts the first piece off *rest and writes its name and its options ("" when there are none).
static void next_piece(const char **rest, char name[TEXT_MAX], char opts[TEXT_MAX])
{
    const char *end = piece_end(*rest);
    size_t len = (size_t)(end - *rest);
    memcpy(name, *rest, len);
    name[len] = '\0';
    char *colon = strchr(name, ':');
    opts[0] = '\0';
    if (colon) {
        strcpy(opts, colon + 1);
        *colon = '\0';
    }
    *rest = *end ? end + 1 : end;
}

static bool gives(const char *opts, const char *key, size_t len)
{
    for (const char *s = opts; *s; s += strcspn(s, ","), s += *s == ',')
        if (strncmp(s, key, len) == 0 && s[len] == '=')
            return true;
    return false;
}

// Options of a short name, [from, end), that are not given anew, then those that are given.
static void join_options(const char *from, const char *end, const char *opts, char out[TEXT_MAX])
{
    size_t at = 0;
    for (const char *s = from; s < end;) {
        size_t len = strcspn(s, ","), key = strcspn(s, "=");
        len = len < (size_t)(end - s) ? len : (size_t)(end - s);
        if (!gives(opts, s, key))
            at += (size_t)snprintf(out + at, TEXT_MAX - at, "%c%.*s", at ? ',' : ':', (int)len, s);
        s += len + 1;
    }
    if (*opts)
        snprintf(out + at, TEXT_MAX - at, "%c%s", at ? ',' : ':', opts);
}

// Puts a short name's text in place of it: its codec takes the options given, its wrappers come
// first.
static int expand_alias(const char *text, char out[TEXT_MAX], struct err *err)
{
    char name[TEXT_MAX], opts[TEXT_MAX], joined[TEXT_MAX] = "";
    if (strlen(text) >= TEXT_MAX)
        return err_set(err, "codec text is longer than %zu characters", TEXT_MAX - 1);
    const char *rest = text;
    next_piece(&rest, name, opts);
    const struct codec_alias *a = find_alias(name);
    if (!a) {
        strcpy(out, text);
        return 0;
    }
    const char *mid = piece_end(a->text);
    const char *colon = memchr(a->text, ':', (size_t)(mid - a->text));
    const char *codec_end = colon ? colon : mid;
    int n = -1;
    if (strlen(a->text) + strlen(opts) + 2 < TEXT_MAX) {
        join_options(colon ? colon + 1 : mid, mid, opts, joined);
        n = snprintf(out, TEXT_MAX, "%.*s%s%s%s%s", (int)(codec_end - a->text), a->text, joined,
                     mid, *rest ? "+" : "", rest);
    }
    if (n < 0 || (size_t)n >= TEXT_MAX)
        return err_set(err, "codec text '%s' is longer than %zu characters when written out", text,
                       TEXT_MAX - 1);
    return 0;
}

// "name:key=value,..." with every option, after the inner codec's text.
static int write_text(struct codec_inst *c, struct err *err)
{
    const struct codec *row = c->row;
    size_t at = 0;
    int n = c->inner ? snprintf(c->text, TEXT_MAX, "%s+%s", c->inner->text, row->name)
                     : snprintf(c->text, TEXT_MAX, "%s", row->name);
    for (int i = 0; n >= 0; i++) {
        at += (size_t)n;
        if (at >= TEXT_MAX)
            return err_set(err, "codec '%s' is longer than %zu characters when written out",
                           row->name, TEXT_MAX - 1);
        if (i == row->n_options)
            return 0;
        char value[128];
        opt_format(&row->options[i], c->opt, value, sizeof value);
        n = snprintf(c->text + at, TEXT_MAX - at, "%c%s=%s", i ? ',' : ':', row->options[i].name,
                     value);
    }
    return err_set(err, "codec '%s' cannot be written out", row->name);
}

static struct codec_inst *open_piece(const char *name, const char *opts,
                                     const struct codec_inst *inner, const struct shape *shape,
                                     struct err *err)
{
    const struct codec *row = find_in(inner ? wrapper_table : codec_table, name);
    if (!row) {
        if (inner && find_in(codec_table, name))
            err_set(err, "'%s' is a codec, not a wrapper: it cannot stand after a '+'", name);
        else if (!inner && find_in(wrapper_table, name))
            err_set(err, "'%s' is a wrapper: it stands after a codec, as in topk+%s", name, name);
        else
            unknown(inner ? "wrapper" : "codec", name, inner ? wrapper_table : codec_table, !inner,
                    err);
        return NULL;
    }
    struct codec_inst *c = mem_alloc(MEM_CODEC, sizeof *c);
    c->row = row;
    c->shape = shape;
    c->inner = inner;
    c->opt = row->option_bytes ? mem_alloc(MEM_CODEC, row->option_bytes) : NULL;
    opt_defaults(row->options, row->n_options, c->opt);
    struct err why = {""};
    if ((opts[0] && row->n_options == 0 && err_set(&why, "it has no options, got '%s'", opts)) ||
        (opts[0] && opt_set_list(row->options, row->n_options, c->opt, opts, &why)) ||
        (row->check && row->check(c, &why)) || write_text(c, &why)) {
        err_set(err, "codec %s: %s", row->name, why.text);
        mem_free(c->opt);
        mem_free(c);
        return NULL;
    }
    return c;
}

struct codec_inst *codec_open(const char *text, const struct shape *shape, struct err *err)
{
    char full[TEXT_MAX], name[TEXT_MAX], opts[TEXT_MAX];
    if (expand_alias(text, full, err))
        return NULL;
    struct codec_inst *c = NULL;
    const char *rest = full;
    size_t len = strlen(full);
    if (len && full[len - 1] == '+') {
        err_set(err, "codec text '%s' ends in '+': a wrapper is missing", text);
        return NULL;
    }
    do {
        next_piece(&rest, name, opts);
        struct codec_inst *outer = open_piece(name, opts, c, shape, err);
        if (!outer) {
            codec_close(c);
            return NULL;
        }
        c = outer;
    } while (*rest);
    return c;
}

void codec_close(struct codec_inst *c)
{
    while (c) {
        // Instances are made here, so the inner one is ours to free although users see it const.
        struct codec_inst *inner = (struct codec_inst *)(uintptr_t)c->inner;
        mem_free(c->opt);
        mem_free(c);
        c = inner;
    }
}

void codec_reshape(struct codec_inst *c, const struct shape *shape)
{
    for (; c; c = (struct codec_inst *)(uintptr_t)c->inner)
        c->shape = shape;
}

// Facts.

size_t codec_state_floats(const struct codec_inst *c)
{
    return c->row->state_floats ? c->row->state_floats(c) : 0;
}

size_t codec_scratch_bytes(const struct codec_inst *c)
{
    return c->row->scratch_bytes ? c->row->scratch_bytes(c) : 0;
}

size_t codec_decode_scratch(const struct codec_inst *c)
{
    return c->row->decode_scratch ? c->row->decode_scratch(c) : codec_scratch_bytes(c);
}

size_t codec_bound(const struct codec_inst *c)
{
    return c->row->bound(c);
}

unsigned codec_needs(const struct codec_inst *c)
{
    unsigned own = c->row->needs | (codec_state_floats(c) ? CODEC_STATE : 0u);
    own |= c->row->needs_of ? c->row->needs_of(c) : 0u;
    return own | (c->inner ? codec_needs(c->inner) : 0);
}

unsigned codec_flags(const struct codec_inst *c)
{
    return c->row->flags_of ? c->row->flags_of(c) : c->row->flags;
}

double codec_upload_s(const struct codec_inst *c)
{
    if (c->inner)
        return codec_upload_s(c->inner);
    return c->row->upload_s ? c->row->upload_s(c) : 0;
}

const char *codec_diverges(const struct codec_inst *c)
{
    for (; c->inner; c = c->inner)
        if (c->row->feeds_back && (codec_flags(c->inner) & CODEC_NO_EF))
            return c->inner->text;
    return NULL;
}

// Encoding and decoding.

#define CHECK_CHUNK 65536

struct absmax {
    const float *x;
    _Atomic uint32_t bits;
};

static void absmax_chunk(void *arg, size_t from, size_t to)
{
    struct absmax *m = arg;
    uint32_t bits = quant_absmax_bits(m->x + from, to - from), max = atomic_load(&m->bits);
    while (bits > max && !atomic_compare_exchange_weak(&m->bits, &max, bits))
        continue;
}

static uint32_t absmax_bits(const float *x, size_t n)
{
    struct absmax m = {.x = x};
    pool_spans(n, CHECK_CHUNK, absmax_chunk, &m);
    return m.bits;
}

static bool within_limit(const struct codec_inst *c, uint32_t max)
{
    bool any = codec_flags(c) & CODEC_ANY_SIZE;
    return any ? max < 0x7f800000u : max < f32_bits(CODEC_LIMIT);
}

static uint32_t absmax_on(const struct codec_device *on, const float *x, size_t n)
{
    const struct quant_run all = {.n = n, .group = n ? n : 1};
    struct quant_stats stats = {0};
    codec_column(on)->quant->fit(codec_context(on), x, &all, 1, 0, &stats, NULL);
    return stats.max_bits;
}

int codec_check_limit(const struct codec_inst *c, const float *x, const struct codec_device *on,
                      struct err *err)
{
    const size_t n = c->shape->n_values;
    if (within_limit(c, on ? absmax_on(on, x, n) : absmax_bits(x, n)))
        return 0;
    return codec_bad_input(c, x, on, err);
}

static int bad_input(const struct codec_inst *c, const float *x, struct err *err)
{
    const struct shape *s = c->shape;
    bool any = codec_flags(c) & CODEC_ANY_SIZE;
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        const struct shape_tensor *row = &s->tensors[t];
        for (size_t i = 0; i < (size_t)row->rows * row->cols; i++) {
            float v = x[row->offset + i];
            if (!(v >= -0x1.fffffep127f && v <= 0x1.fffffep127f)) {
                err_set(err, "the update is not finite: %s[%zu] = %g", row->name, i, (double)v);
                return CODEC_NONFINITE;
            }
            if (!any && !(v > -CODEC_LIMIT && v < CODEC_LIMIT))
                return err_set(err, "the update is too large for %s: %s[%zu] = %g, limit %g",
                               c->row->name, row->name, i, (double)v, (double)CODEC_LIMIT);
        }
    }
    err_set(err, "the update is not finite");
    return CODEC_NONFINITE;
}

int codec_bad_input(const struct codec_inst *c, const float *x, const struct codec_device *on,
                    struct err *err)
{
    if (!on)
        return bad_input(c, x, err);
    size_t bytes = c->shape->n_values * sizeof *x;
    float *here = on->dev->row->stage(on->dev, bytes);
    on->dev->row->get(on->dev, on->lane, here, x, bytes);
    on->dev->row->wait(on->dev, on->lane);
    int rc = bad_input(c, here, err);
    on->dev->row->unstage(on->dev, here);
    return rc;
}

// Where the report gives all values one width, each tensor has all of its values at that width.
static void one_width(const struct codec_inst *c, struct codec_report *report)
{
    const struct shape *s = c->shape;
    for (int k = 1; k < RECORD_WIDTHS; k++)
        for (uint32_t t = 0; t < s->n_tensors && report->kept[k] == (int64_t)s->n_values; t++)
            report->by_tensor[t][k] = (int64_t)s->tensors[t].rows * s->tensors[t].cols;
}

static int64_t encode_here(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    *report = (struct codec_report){
        .staleness = -1, .by_tensor = in->by_tensor, .ran_on = codec_column(in->on)->name};
    if (report->by_tensor)
        memset(report->by_tensor, 0, c->shape->n_tensors * sizeof *report->by_tensor);
    int bad = 0;
    if (!(codec_flags(c) & CODEC_SELF_CHECK))
        bad = codec_check_limit(c, in->x, in->on, err);
    if (bad)
        return bad;
    if (!(codec_flags(c) & CODEC_SELF_CHECK))
        lap(in->laps, STAGE_QUANTISE);
    int64_t len = c->row->encode(c, in, out, cap, scratch, report, err);
    const struct codec_parts *p = &report->parts;
    assert(len < 0 ||
           p->header + p->directory + p->scales + p->indices + p->tags + p->values == len);
    assert(len <= (int64_t)cap);
    if (report->by_tensor && len >= 0)
        one_width(c, report);
    return len;
}

int64_t codec_encode_inner(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    laps_enter(in->laps);
    int64_t len = c->row->encode(c, in, out, cap, scratch, report, err);
    laps_leave(in->laps, CODEC_REST);
    return len;
}

// Devices.

const struct codec_stages *codec_column(const struct codec_device *on)
{
    return on ? on->dev->row->codec : &codec_stages_cpu;
}

const struct kernel_ctx *codec_context(const struct codec_device *on)
{
    return on ? &on->dev->lane[on->lane].cx : NULL;
}

static unsigned stages_there(const struct codec_stages *s)
{
    return (s->quant ? CODEC_ON_QUANT : 0u) | (s->alloc ? CODEC_ON_ALLOC : 0u) |
           (s->rotate ? CODEC_ON_ROTATE : 0u) | (s->select ? CODEC_ON_SELECT : 0u);
}

bool codec_runs_on(const struct codec_inst *c, const struct dev *d)
{
    const struct codec_stages *has = d->row->codec;
    return has && c->row->stages && !(c->row->stages & ~stages_there(has));
}

// Vectors that are fetched, one after another in the host's room. x, sens, grad, and both states;
// or one that is decoded.
size_t codec_stage_bytes(const struct codec_inst *c, const struct dev *d)
{
    if (codec_runs_on(c, d))
        return c->row->stage_bytes ? c->row->stage_bytes(c) : 0;
    return 3 * SCRATCH_ROUND(c->shape->n_values * sizeof(float)) +
           2 * SCRATCH_ROUND(codec_state_floats(c) * sizeof(float));
}

size_t codec_device_bytes(const struct codec_inst *c, const struct dev *d)
{
    return codec_runs_on(c, d) && c->row->device_bytes ? c->row->device_bytes(c) : 0;
}

static const float *fetch(const struct codec_device *on, const float *x, size_t n, void **stage)
{
    float *here = scratch_take(stage, n * sizeof *here);
    if (!x)
        return NULL;
    on->dev->row->get(on->dev, on->lane, here, x, n * sizeof *here);
    return here;
}

static int64_t encode_fetched(const struct codec_inst *c, const struct codec_input *in,
                              uint8_t *out, size_t cap, void *scratch, struct codec_report *report,
                              struct err *err)
{
    const struct codec_device *on = in->on;
    const struct dev_row *row = on->dev->row;
    const size_t n = c->shape->n_values, state = codec_state_floats(c);
    void *stage = on->stage;
    struct codec_input here = *in;
    here.on = NULL;
    here.x = fetch(on, in->x, n, &stage);
    here.sens = fetch(on, in->sens, n, &stage);
    here.grad = fetch(on, in->grad, n, &stage);
    here.state = fetch(on, in->state, state, &stage);
    here.state_next = scratch_take(&stage, state * sizeof(float));
    row->wait(on->dev, on->lane);
    lap(in->laps, STAGE_QUANTISE);
    int64_t len = encode_here(c, &here, out, cap, scratch, report, err);
    if (len < 0 || !in->state_next)
        return len;
    row->put(on->dev, on->lane, in->state_next, here.state_next, state * sizeof(float));
    row->wait(on->dev, on->lane);
    return len;
}

static int decode_fetched(const struct codec_inst *c, const struct codec_key *key,
                          const uint8_t *in, size_t len, struct codec_output to, void *scratch,
                          struct err *err)
{
    const struct codec_device *on = to.on;
    const struct dev_row *row = on->dev->row;
    const size_t bytes = c->shape->n_values * sizeof(float);
    struct codec_output here = {.sink = to.sink};
    here.sink.to = on->stage;
    if (to.sink.add)
        row->get(on->dev, on->lane, here.sink.to, to.sink.to, bytes);
    row->wait(on->dev, on->lane);
    int rc = c->row->decode(c, key, in, len, here, scratch, err);
    if (rc == 0)
        row->put(on->dev, on->lane, to.sink.to, here.sink.to, bytes);
    row->wait(on->dev, on->lane);
    return rc;
}

static bool fetches(const struct codec_inst *c, const struct codec_device *on)
{
    return on && !codec_runs_on(c, on->dev);
}

int64_t codec_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                     size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    struct codec_report own;
    report = report ? report : &own;
    return fetches(c, in->on) ? encode_fetched(c, in, out, cap, scratch, report, err)
                              : encode_here(c, in, out, cap, scratch, report, err);
}

int codec_decode_to(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                    size_t len, struct codec_output to, void *scratch, struct err *err)
{
    return fetches(c, to.on) ? decode_fetched(c, key, in, len, to, scratch, err)
                             : c->row->decode(c, key, in, len, to, scratch, err);
}

int codec_decode_add(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                     size_t len, float weight, float *acc, void *scratch, struct err *err)
{
    const struct codec_output to = {.sink = {acc, weight, true}};
    return codec_decode_to(c, key, in, len, to, scratch, err);
}

int codec_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                 size_t len, float *x_hat, void *scratch, struct err *err)
{
    const struct codec_output to = {.sink = {x_hat, 1, false}};
    return codec_decode_to(c, key, in, len, to, scratch, err);
}

double codec_nmse(const float *x, const float *x_hat, size_t n)
{
    double err2 = quant_sum_sq_diff(x, x_hat, n), norm2 = quant_sum_sq(x, n);
    return norm2 > 0 ? err2 / norm2 : err2 > 0 ? (double)INFINITY : 0;
}
