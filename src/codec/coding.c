// Encoding and decoding with any codec, of vectors of the host and of devices.
#include "codec/coding.h"

#include "base/half.h"
#include "base/pool.h"
#include "dev/dev.h"
#include "kernels/stages.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

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
           (s->rotate ? CODEC_ON_ROTATE : 0u) | (s->select ? CODEC_ON_SELECT : 0u) |
           (s->mix ? CODEC_ON_MIX : 0u) | (s->entropy ? CODEC_ON_ENTROPY : 0u) | CODEC_ON_BYTES;
}

bool codec_runs_on(const struct codec_inst *c, const struct dev *d)
{
    const struct codec_stages *has = d->row->codec;
    const unsigned stages = c->row->stages_of ? c->row->stages_of(c) : c->row->stages;
    bool here = has && stages && !(stages & ~stages_there(has));
    return here && (!c->inner || codec_runs_on(c->inner, d));
}

static size_t own_stage(const struct codec_inst *c)
{
    return c->row->stage_bytes ? SCRATCH_ROUND(c->row->stage_bytes(c)) : 0;
}

static size_t own_room(const struct codec_inst *c)
{
    return c->row->device_bytes ? SCRATCH_ROUND(c->row->device_bytes(c)) : 0;
}

// Vectors that are fetched, one after another in the host's room. x, sens, grad, and both states;
// or one that is decoded.
size_t codec_stage_bytes(const struct codec_inst *c, const struct dev *d)
{
    if (codec_runs_on(c, d))
        return own_stage(c) + (c->inner ? codec_stage_bytes(c->inner, d) : 0);
    return 3 * SCRATCH_ROUND(c->shape->n_values * sizeof(float)) +
           2 * SCRATCH_ROUND(codec_state_floats(c) * sizeof(float));
}

size_t codec_device_bytes(const struct codec_inst *c, const struct dev *d)
{
    if (!codec_runs_on(c, d))
        return 0;
    return own_room(c) + (c->inner ? codec_device_bytes(c->inner, d) : 0);
}

const struct codec_device *codec_behind(const struct codec_inst *c, const struct codec_device *on,
                                        struct codec_device *inner)
{
    if (!on)
        return NULL;
    *inner = *on;
    inner->stage = (uint8_t *)on->stage + own_stage(c);
    inner->room = (uint8_t *)on->room + own_room(c);
    return inner;
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
