// Fed-FSTQ: some coordinates at 2, 4 or 16 bits (or any other widths), the rest not at all, under a
// byte budget. Which ones is decided by bitalloc.
#include "codec/fstq.h"

#include "base/half.h"
#include "base/rng.h"
#include "codec/blocks.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

#include <math.h>

static const char *const scale_choices[] = {"group", "tier", "mse", NULL};
static const char *const group_choices[] = {"tensor", "class", NULL};
static const char *const format_choices[] = {"fp32", "bf16", NULL};
static const char *const tags_choices[] = {"auto", "bitmap", "dense", "rice", "rans", NULL};
static const char *const values_choices[] = {"auto", "packed", NULL};
static const char *const top_choices[] = {"fp16", "int16", NULL};
static const char *const transform_choices[] = {"none", "klt", NULL};

#define RELATIVE_MIN 16 // bytes that a budget in parts of the update is at least

static const struct opt fstq_options[] = {
    OPT_ENUM(struct fstq_opt, policy, "policy", "rd", bitalloc_policies,
             "percentile (23), greedy (Algorithm 1) or rd (12)-(15)"),
    OPT(struct fstq_opt, budget, "budget", "0.15", 0, 4, "",
        "message in parts of dense fp16; 0 = none (percentile only)"),
    OPT(struct fstq_opt, bytes, "bytes", "0", 0, 1e12, "bytes", "or its length"),
    OPT(struct fstq_opt, bits, "bits", "0", 0, 64, "bits", "or bits per value"),
    OPT(struct fstq_opt, upload_s, "upload_s", "0", 0, 1e9, "s",
        "and no more than the client's uplink carries in so many seconds; 0 = whatever its link"),
    OPT_ENUM(struct fstq_opt, importance, "importance", "fisher", bitalloc_importances,
             "F^gamma D^2 (21), or a control; fedsrd: |dA| times norms of B, |dB| of A"),
    OPT(struct fstq_opt, gamma, "gamma", "0.25", 0, 1, "", "of F, in sixteenths; 1 in the paper"),
    OPT_ENUM(struct fstq_opt, norm, "norm", "tensor", bitalloc_norms, "what F is divided by"),
    OPT_STRING(struct fstq_opt, widths, "widths", "0/2/4/16", "of 0 1 2 3 4 6 8 16, ascending"),
    OPT_STRING(struct fstq_opt, shares, "shares", "0.005/0.04/0.08",
               "percentile: share of each width, the largest first"),
    OPT_ENUM(struct fstq_opt, group, "group", "class", group_choices, "what shares a scale (30)"),
    OPT_ENUM(struct fstq_opt, scale, "scale", "mse", scale_choices,
             "from the largest of the group (30), of the width in the group, or of least error"),
    OPT_ENUM(struct fstq_opt, format, "format", "bf16", format_choices, "of scales"),
    OPT_ENUM(struct fstq_opt, tags, "tags", "auto", tags_choices, "coding of widths and positions"),
    OPT_ENUM(struct fstq_opt, values, "values", "auto", values_choices,
             "auto: entropy-coded where that is shorter"),
    OPT_ENUM(struct fstq_opt, top, "top", "fp16", top_choices, "format of the 16-bit width"),
    OPT_ENUM(struct fstq_opt, transform, "transform", "none", transform_choices,
             "klt: of coefficients along each matrix's principal directions, F turned alike; a "
             "matrix that klt leaves as it is stays so"),
};

static const struct fstq_opt *options(const struct codec_inst *c)
{
    return c->opt;
}

// Numbers between slashes; -1 with an error for anything else.
static int parse_list(const char *text, const char *name, double *out, int most, struct err *err)
{
    int n = 0;
    for (const char *s = text;; s++) {
        char part[32];
        size_t len = strcspn(s, "/");
        const struct opt row = {.name = name, .type = OPT_F64, .size = sizeof *out, .max = 64};
        if (len == 0 || len >= sizeof part || n == most)
            return err_set(err, "%s=%s: give up to %d numbers with '/' between them", name, text,
                           most);
        memcpy(part, s, len);
        part[len] = '\0';
        if (opt_set(&row, &out[n++], part, err))
            return -1;
        s += len;
        if (*s == '\0')
            return n;
    }
}

int fstq_read_plan(const struct codec_inst *c, struct bitalloc *a, struct err *err)
{
    const struct fstq_opt *o = options(c);
    double width[ALLOC_LEVELS], share[ALLOC_LEVELS], sum = 0;
    *a = (struct bitalloc){.shape = c->shape,
                           .importance = o->importance,
                           .norm = o->norm,
                           .policy = o->policy,
                           .gamma16 = (int)(o->gamma * 16 + 0.5)};
    a->count = parse_list(o->widths, "widths", width, ALLOC_LEVELS, err);
    int shares = parse_list(o->shares, "shares", share, ALLOC_LEVELS, err);
    if (a->count < 0 || shares < 0)
        return -1;
    for (int k = 0; k < a->count; k++) {
        a->bits[k] = (int)width[k];
        bool known = width[k] >= 0 && width[k] <= 16 && width[k] == (double)a->bits[k] &&
                     record_width_bits[record_width_of[a->bits[k]]] == a->bits[k];
        if (!known || (k && a->bits[k] <= a->bits[k - 1]) || (k == 0) != (a->bits[k] == 0))
            return err_set(err, "widths=%s: give 0, then some of 1 2 3 4 6 8 16, ascending",
                           o->widths);
    }
    if (a->count < 2)
        return err_set(err, "widths=%s: nothing but 0", o->widths);
    if (o->policy == POLICY_PERCENTILE && shares != a->count - 1)
        return err_set(err, "shares=%s: %d widths above 0 need %d shares", o->shares, a->count - 1,
                       a->count - 1);
    for (int k = 1; k < a->count && o->policy == POLICY_PERCENTILE; k++) {
        a->share[k] = share[a->count - 1 - k];
        sum += a->share[k];
    }
    if (sum > 1 + 1e-9)
        return err_set(err, "shares=%s: together above 1", o->shares);
    return 0;
}

static int fstq_check(const struct codec_inst *c, struct err *err)
{
    const struct fstq_opt *o = options(c);
    struct bitalloc a;
    if (fstq_read_plan(c, &a, err))
        return -1;
    if (o->gamma * 16 != floor(o->gamma * 16))
        return err_set(err, "gamma=%g: give a multiple of 1/16", o->gamma);
    if (o->policy != POLICY_PERCENTILE && o->budget <= 0 && o->bytes <= 0 && o->bits <= 0)
        return err_set(err, "policy=%s needs a budget, bytes or bits",
                       bitalloc_policies[o->policy]);
    if (c->shape->n_values > UINT32_MAX)
        return err_set(err, "positions have 32 bits, the update has %zu values",
                       c->shape->n_values);
    return 0;
}

static unsigned fstq_needs(const struct codec_inst *c)
{
    struct bitalloc a;
    if (fstq_read_plan(c, &a, NULL))
        return 0;
    unsigned sens = a.importance == BITALLOC_FEDSRD ? CODEC_REACH : CODEC_SENS;
    return (bitalloc_needs_sens(&a) ? sens : 0u) | (bitalloc_needs_grad(&a) ? CODEC_GRAD : 0u);
}

static double fstq_upload_s(const struct codec_inst *c)
{
    return options(c)->upload_s;
}

static int64_t own_budget(const struct codec_inst *c)
{
    const struct fstq_opt *o = options(c);
    if (o->bytes > 0)
        return o->bytes;
    double n = (double)c->shape->n_values;
    double bytes = o->bits > 0 ? o->bits * n / 8 : o->budget * 2 * n;
    if (bytes <= 0 && o->policy == POLICY_PERCENTILE)
        return -1;
    return bytes < RELATIVE_MIN ? RELATIVE_MIN : (int64_t)bytes;
}

// A budget given for this message overrides that of the options; one computed from the link can
// only lower it.
static int64_t budget_of(const struct codec_inst *c, const struct codec_input *in)
{
    int64_t own = own_budget(c), link = in->budget_bytes;
    if (link < 0)
        return own;
    if (fstq_upload_s(c) <= 0)
        return link;
    link = link < RELATIVE_MIN ? RELATIVE_MIN : link;
    return own >= 0 && own < link ? own : link;
}

static size_t pieces_of(const struct codec_inst *c)
{
    size_t pieces = 0;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        size_t n = (size_t)c->shape->tensors[t].rows * c->shape->tensors[t].cols;
        pieces += (n + FSTQ_PIECE - 1) / FSTQ_PIECE;
    }
    return pieces;
}

static uint32_t classes_of(const struct codec_inst *c)
{
    return options(c)->transform == TRANSFORM_NONE ? FSTQ_KINDS : FSTQ_CLASSES;
}

static size_t groups_of(const struct codec_inst *c)
{
    return options(c)->group == GROUP_CLASS ? classes_of(c) : c->shape->n_tensors;
}

static struct alloc_run run_of(const struct fstq_work *w, uint32_t t)
{
    return (struct alloc_run){.at = w->c->shape->tensors[t].offset,
                              .n = fstq_tensor_values(w, t),
                              .place = w->place[t],
                              .tensor = t,
                              .group = w->group[t]};
}

static void lay_pieces(struct fstq_work *w, uint32_t t)
{
    for (size_t at = 0, n = w->tensor[t].n; at < n; at += FSTQ_PIECE) {
        struct alloc_run piece = w->tensor[t];
        piece.at += at;
        piece.first += at;
        piece.place += at;
        piece.n = n - at < FSTQ_PIECE ? n - at : FSTQ_PIECE;
        w->piece[w->pieces++] = piece;
    }
}

static void lay_order(struct fstq_work *w)
{
    const struct shape *s = w->c->shape;
    size_t at = 0;
    uint32_t n = 0;
    for (uint32_t k = 0; k < w->classes; k++) {
        w->class_at[k] = at;
        for (uint32_t t = 0; t < s->n_tensors; t++) {
            if (fstq_class(w, t) != k)
                continue;
            w->order[n++] = t;
            w->place[t] = at;
            w->group[t] = w->opt->group == GROUP_CLASS ? s->tensors[t].kind : t;
            w->tensor[t] = run_of(w, t);
            lay_pieces(w, t);
            at += fstq_tensor_values(w, t);
        }
    }
    w->class_at[w->classes] = at;
}

static void lay_widths(struct fstq_work *w)
{
    w->widths.count = w->a.count;
    for (int k = 0; k < w->a.count; k++) {
        w->widths.bits[k] = w->a.bits[k];
        w->widths.kind[k] = fstq_kind(w->opt, w->a.bits[k]);
    }
}

// code_bytes: room for codes.
static int lay_work(const struct codec_inst *c, const struct codec_device *on, struct fstq_work *w,
                    size_t code_bytes, void *scratch, struct err *err)
{
    size_t tensors = c->shape->n_tensors, pieces = pieces_of(c), groups = groups_of(c);
    *w = (struct fstq_work){.c = c,
                            .opt = c->opt,
                            .groups = (uint32_t)groups,
                            .classes = classes_of(c),
                            .on = on,
                            .whole = codec_column(on)->whole,
                            .stages = codec_column(on)->alloc,
                            .cx = codec_context(on)};
    w->group = scratch_take(&scratch, tensors * sizeof *w->group);
    w->place = scratch_take(&scratch, tensors * sizeof *w->place);
    w->order = scratch_take(&scratch, tensors * sizeof *w->order);
    w->scale = scratch_take(&scratch, groups * sizeof *w->scale);
    w->of_group = scratch_take(&scratch, groups * sizeof *w->of_group);
    w->piece = scratch_take(&scratch, pieces * sizeof *w->piece);
    w->tensor = scratch_take(&scratch, tensors * sizeof *w->tensor);
    w->count = scratch_take(&scratch, pieces * sizeof *w->count);
    w->start = scratch_take(&scratch, pieces * sizeof *w->start);
    w->tag = scratch_take(&scratch, c->shape->n_values);
    w->code = scratch_take(&scratch, code_bytes);
    w->rest = scratch;
    w->stage_tag = on && w->whole ? on->room : w->tag;
    lay_order(w);
    memset(w->scale, 0, groups * sizeof *w->scale);
    if (fstq_read_plan(c, &w->a, err))
        return -1;
    lay_widths(w);
    return 0;
}

static size_t work_bytes(const struct codec_inst *c, size_t code_bytes)
{
    size_t tensors = c->shape->n_tensors, pieces = pieces_of(c), groups = groups_of(c);
    return 2 * SCRATCH_ROUND(tensors * sizeof(uint32_t)) + SCRATCH_ROUND(tensors * sizeof(size_t)) +
           SCRATCH_ROUND(groups * sizeof(float[ALLOC_LEVELS])) +
           SCRATCH_ROUND(groups * sizeof(int64_t[ALLOC_LEVELS])) +
           SCRATCH_ROUND(pieces * sizeof(struct alloc_run)) +
           SCRATCH_ROUND(tensors * sizeof(struct alloc_run)) +
           2 * SCRATCH_ROUND(pieces * sizeof(int64_t[ALLOC_LEVELS])) +
           SCRATCH_ROUND(c->shape->n_values) + SCRATCH_ROUND(code_bytes);
}

int fstq_lay(const struct codec_inst *c, struct fstq_work *w, size_t code_bytes, void *scratch,
             struct err *err)
{
    return lay_work(c, NULL, w, code_bytes, scratch, err);
}

size_t fstq_lay_bytes(const struct codec_inst *c, size_t code_bytes)
{
    return work_bytes(c, code_bytes);
}

// Where scales are fitted to all values.
static bool fits_all(const struct fstq_opt *o)
{
    return o->policy != POLICY_RD || o->scale == SCALE_TIER;
}

static void lay_encoder(struct fstq_encoder *e)
{
    const struct codec_inst *c = e->w.c;
    size_t tensors = c->shape->n_tensors, groups = e->w.groups;
    void **rest = &e->w.rest;
    e->facts = scratch_take(rest, tensors * sizeof *e->facts);
    e->sens_sum = scratch_take(rest, tensors * sizeof *e->sens_sum);
    e->factor = scratch_take(rest, tensors * sizeof *e->factor);
    e->group_max = scratch_take(rest, groups * sizeof *e->group_max);
    e->group_rms = scratch_take(rest, groups * sizeof *e->group_rms);
    e->levels = scratch_take(rest, groups * sizeof *e->levels);
    const size_t n = c->shape->n_values;
    if (fstq_away(&e->w))
        e->w.code = e->w.stage_tag + SCRATCH_ROUND(n);
    if (options(c)->policy == POLICY_RD)
        fstq_sample_lay(e, rest);
    else if (!fstq_away(&e->w))
        e->u = scratch_take(rest, n * sizeof *e->u);
    else
        e->u = (float *)(void *)(e->w.code + SCRATCH_ROUND(2 * n));
    if (fits_all(options(c)))
        e->tier = scratch_take(rest, e->w.pieces * sizeof *e->tier);
}

// Tags, codes, and for ranks the importance.
static size_t fstq_device(const struct codec_inst *c)
{
    size_t n = c->shape->n_values;
    return SCRATCH_ROUND(n) + SCRATCH_ROUND(2 * n) +
           (options(c)->policy == POLICY_RD ? 0 : n * sizeof(float));
}

size_t fstq_plain_scratch(const struct codec_inst *c)
{
    size_t n = c->shape->n_values, tensors = c->shape->n_tensors, groups = groups_of(c);
    bool rd = options(c)->policy == POLICY_RD, tiers = fits_all(options(c));
    return work_bytes(c, 2 * n) + SCRATCH_ROUND(tensors * sizeof(struct alloc_facts)) +
           SCRATCH_ROUND(tensors * sizeof(double)) + SCRATCH_ROUND(tensors * sizeof(float)) +
           2 * SCRATCH_ROUND(groups * sizeof(float)) +
           SCRATCH_ROUND(groups * sizeof(struct alloc_levels)) +
           (rd ? fstq_sample_bytes(c) : SCRATCH_ROUND(n * sizeof(float))) +
           (tiers ? SCRATCH_ROUND(pieces_of(c) * sizeof(struct alloc_tier[ALLOC_LEVELS])) : 0) +
           fstq_message_scratch(c);
}

// Codes that are not entropy-coded stay in the message until they are wanted.
static size_t decoded_codes(const struct codec_inst *c)
{
    return options(c)->values == VALUES_AUTO ? c->shape->n_values : 0;
}

size_t fstq_plain_decode_scratch(const struct codec_inst *c)
{
    return work_bytes(c, decoded_codes(c)) + fstq_read_scratch(c);
}

size_t fstq_plain_bound(const struct codec_inst *c)
{
    struct bitalloc a;
    return fstq_read_plan(c, &a, NULL) ? 1 : fstq_message_bound(c, &a);
}

static int64_t write_message(struct fstq_encoder *e, uint8_t *out, size_t cap,
                             struct codec_report *report, struct err *err)
{
    struct msg_out o;
    memset(&report->parts, 0, sizeof report->parts);
    memset(report->kept, 0, sizeof report->kept);
    if (report->by_tensor)
        memset(report->by_tensor, 0, e->w.c->shape->n_tensors * sizeof *report->by_tensor);
    msg_init(&o, out, cap, report);
    if (fstq_write(e, &o, e->w.rest))
        return msg_full(&o, err);
    for (int k = 0; k < e->w.a.count; k++)
        report->kept[record_width_of[e->w.a.bits[k]]] = e->w.total[k];
    for (uint32_t i = 0; i < e->w.pieces && report->by_tensor; i++)
        for (int k = 0; k < e->w.a.count; k++)
            report->by_tensor[e->w.piece[i].tensor][record_width_of[e->w.a.bits[k]]] +=
                e->w.count[i][k];
    return msg_len(&o);
}

// Looks at all vectors and refuses bad ones; then the largest magnitude and the root mean square of
// each group.
static int look(struct fstq_encoder *e, struct err *err)
{
    const struct fstq_work *w = &e->w;
    const uint32_t tensors = w->c->shape->n_tensors;
    bool sens = bitalloc_needs_sens(&w->a), grad = bitalloc_needs_grad(&w->a);
    if (sens && !e->in->sens)
        return err_set(err, "this importance needs the sensitivities, and there are none");
    if (grad && !e->in->grad)
        return err_set(err, "this importance needs the gradients, and there are none");
    fstq_look(e);
    for (uint32_t t = 0; t < tensors; t++)
        if (e->facts[t].max_bits >= f32_bits(fstq_limit(w->opt)))
            return codec_bad_input(w->c, e->in->x, e->in->on, err);
    for (uint32_t t = 0; t < tensors; t++) {
        if (!(e->sens_sum[t] < (double)INFINITY))
            return err_set(err, "the sensitivities are not finite");
        if (e->facts[t].grad_bits >= 0x7f800000u)
            return err_set(err, "the gradients are not finite");
    }
    for (uint32_t i = 0, next; i < tensors; i = next) {
        const uint32_t g = w->group[w->order[i]];
        double sq = 0, n = 0;
        float max = 0;
        for (next = i; next < tensors && w->group[w->order[next]] == g; next++) {
            const struct alloc_facts *f = &e->facts[w->order[next]];
            const float of_tensor = f32_from_bits(f->max_bits);
            sq += f->sq;
            n += (double)fstq_tensor_values(w, w->order[next]);
            max = of_tensor > max ? of_tensor : max;
        }
        e->group_max[g] = max;
        e->group_rms[g] = n > 0 ? (float)sqrt(sq / n) : 0;
    }
    return 0;
}

// A message's length is predicted within a few bytes, so that now and then the first one is too
// long and another is made.
static int64_t encode_within(struct fstq_encoder *e, int64_t budget, uint8_t *out, size_t cap,
                             struct codec_report *report, struct err *err)
{
    enum { TRIES = 3 };
    int64_t len = 0;
    double less = 0;
    for (int i = 0; i < TRIES; i++) {
        fstq_meet(e, budget, less);
        len = write_message(e, out, cap, report, err);
        if (len < 0 || budget < 0 || len <= budget)
            return len;
        less += (double)(len - budget) + 4;
    }
    fstq_drop(e);
    fstq_code(e);
    len = write_message(e, out, cap, report, err);
    if (len > budget)
        return err_set(err,
                       "a budget of %lld bytes is less than the %lld of an empty message; "
                       "tags=auto takes least",
                       (long long)budget, (long long)len);
    return len;
}

// What the importance of a run depends on beside its values: the factor of F, its random words.
static void set_factors(struct fstq_encoder *e)
{
    struct fstq_work *w = &e->w;
    const struct codec_key *key = &e->in->key;
    bitalloc_factors(&w->a, e->sens_sum, e->factor);
    for (uint32_t t = 0; t < w->c->shape->n_tensors; t++) {
        struct rng r = rng_stream(key->seed, RNG_CODEC, key->client, key->version, t);
        w->tensor[t].factor = e->factor[t];
        memcpy(w->tensor[t].key, r.key, sizeof r.key);
        memcpy(w->tensor[t].ctr, r.ctr, sizeof r.ctr);
    }
    for (uint32_t i = 0; i < w->pieces; i++) {
        const struct alloc_run *whole = &w->tensor[w->piece[i].tensor];
        w->piece[i].factor = whole->factor;
        memcpy(w->piece[i].key, whole->key, sizeof whole->key);
        memcpy(w->piece[i].ctr, whole->ctr, sizeof whole->ctr);
    }
}

int fstq_begin(const struct codec_inst *c, const struct codec_input *in, void *scratch,
               struct fstq_encoder *e, struct err *err)
{
    *e = (struct fstq_encoder){.in = in, .v = {in->x, in->sens, in->grad}};
    if (lay_work(c, in->on, &e->w, 2 * c->shape->n_values, scratch, err))
        return -1;
    e->rule = bitalloc_rule(&e->w.a);
    lay_encoder(e);
    int bad = look(e, err);
    if (bad)
        return bad;
    lap(in->laps, STAGE_QUANTISE);
    set_factors(e);
    if (e->w.a.policy == POLICY_RD)
        fstq_draw(e);
    else
        fstq_score(e);
    lap(in->laps, e->w.a.policy == POLICY_RD ? STAGE_ALLOC : STAGE_SELECT);
    return 0;
}

int64_t fstq_plain_encode(const struct codec_inst *c, const struct codec_input *in, int64_t budget,
                          uint8_t *out, size_t cap, void *scratch, struct codec_report *report,
                          struct err *err)
{
    struct fstq_encoder e;
    int bad = fstq_begin(c, in, scratch, &e, err);
    return bad ? bad : encode_within(&e, budget, out, cap, report, err);
}

int fstq_plain_read(const struct codec_inst *c, const struct codec_device *on, struct fstq_work *w,
                    const uint8_t *in, size_t len, void *scratch, struct err *err)
{
    return lay_work(c, on, w, decoded_codes(c), scratch, err) || fstq_read(w, in, len, err) ? -1
                                                                                            : 0;
}

// By the transform.

static bool turned(const struct codec_inst *c)
{
    return options(c)->transform != TRANSFORM_NONE;
}

static size_t fstq_scratch(const struct codec_inst *c)
{
    return turned(c) ? fstq_axes_scratch(c) : fstq_plain_scratch(c);
}

static size_t fstq_decode_scratch(const struct codec_inst *c)
{
    return turned(c) ? fstq_axes_decode_scratch(c) : fstq_plain_decode_scratch(c);
}

static size_t fstq_bound(const struct codec_inst *c)
{
    return turned(c) ? fstq_axes_bound(c) : fstq_plain_bound(c);
}

static unsigned fstq_stages(const struct codec_inst *c)
{
    return turned(c) ? 0 : CODEC_ON_ALLOC | CODEC_ON_ENTROPY;
}

static int64_t fstq_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    return (turned(c) ? fstq_axes_encode : fstq_plain_encode)(c, in, budget_of(c, in), out, cap,
                                                              scratch, report, err);
}

static int fstq_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct codec_output to, void *scratch, struct err *err)
{
    (void)key;
    struct fstq_work w;
    if (turned(c))
        return fstq_axes_decode(c, in, len, to, scratch, err);
    if (fstq_plain_read(c, to.on, &w, in, len, scratch, err))
        return -1;
    fstq_give(&w, to.sink);
    return 0;
}

const struct codec codec_fstq = {
    .name = "fstq",
    .help = "bits by importance of the coordinate (Fisher or a control) under a byte budget",
    .source = "Li et al. 2026 (Fed-FSTQ), equations (21)-(31)",
    .options = fstq_options,
    .n_options = ARRAY_LEN(fstq_options),
    .option_bytes = sizeof(struct fstq_opt),
    .flags = CODEC_SELF_CHECK | CODEC_RANDOM | CODEC_BUDGET,
    .stages = CODEC_ON_ALLOC | CODEC_ON_ENTROPY,
    .stages_of = fstq_stages,
    .needs_of = fstq_needs,
    .upload_s = fstq_upload_s,
    .check = fstq_check,
    .scratch_bytes = fstq_scratch,
    .decode_scratch = fstq_decode_scratch,
    .device_bytes = fstq_device,
    .bound = fstq_bound,
    .encode = fstq_encode,
    .decode = fstq_decode,
    .blocks = &blocks_fstq,
};
