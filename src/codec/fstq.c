// Fed-FSTQ: some coordinates at 2, 4 or 16 bits (or any other widths), the rest not at all, under a
// byte budget. Which ones is decided by bitalloc.
#include "codec/fstq.h"

#include "base/half.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

#include <math.h>

static const char *const scale_choices[] = {"group", "tier", "mse", NULL};
static const char *const group_choices[] = {"tensor", "class", NULL};
static const char *const format_choices[] = {"fp32", "bf16", NULL};
static const char *const tags_choices[] = {"auto", "bitmap", "dense", "rice", "rans", NULL};
static const char *const values_choices[] = {"auto", "packed", NULL};
static const char *const top_choices[] = {"fp16", "int16", NULL};

#define TRIES        8 // messages made on the way to a budget
#define REFITS       3
#define RELATIVE_MIN 16 // bytes that a budget in parts of the update is at least

static const struct opt fstq_options[] = {
    OPT_ENUM(struct fstq_opt, policy, "policy", "rd", bitalloc_policies,
             "percentile (23), greedy (Algorithm 1) or rd (12)-(15)"),
    OPT(struct fstq_opt, budget, "budget", "0.15", 0, 4, "",
        "message in parts of dense fp16; 0 = none (percentile only)"),
    OPT(struct fstq_opt, bytes, "bytes", "0", 0, 1e12, "bytes", "or its length"),
    OPT(struct fstq_opt, bits, "bits", "0", 0, 64, "bits", "or bits a value"),
    OPT(struct fstq_opt, upload_s, "upload_s", "0", 0, 1e9, "s",
        "and no more than the client's uplink carries in so many seconds; 0 = whatever its link"),
    OPT_ENUM(struct fstq_opt, importance, "importance", "fisher", bitalloc_importances,
             "F^gamma D^2 (21), or a control"),
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

static int read_plan(const struct codec_inst *c, struct bitalloc *a, struct err *err)
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
    if (read_plan(c, &a, err))
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
    if (read_plan(c, &a, NULL))
        return 0;
    return (bitalloc_needs_sens(&a) ? CODEC_SENS : 0u) |
           (bitalloc_needs_grad(&a) ? CODEC_GRAD : 0u);
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

// A budget of this message goes before that of the options; one from a link lowers it.
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

static void lay_order(struct fstq_work *w)
{
    const struct shape *s = w->c->shape;
    size_t at = 0;
    uint32_t n = 0;
    for (uint32_t k = 0; k < FSTQ_CLASSES; k++) {
        w->class_at[k] = at;
        for (uint32_t step = 0; step < s->n_tensors; step++) {
            // A, B, others: the order of the enum with its first last.
            uint32_t kind = (k + 1) % FSTQ_CLASSES;
            if (s->tensors[step].kind != kind)
                continue;
            w->order[n++] = step;
            w->place[step] = at;
            at += fstq_tensor_values(w, step);
        }
    }
    w->class_at[FSTQ_CLASSES] = at;
    bool by_class = w->opt->group == GROUP_CLASS;
    w->groups = by_class ? FSTQ_CLASSES : s->n_tensors;
    for (uint32_t t = 0; t < s->n_tensors; t++)
        w->group[t] = by_class ? s->tensors[t].kind : t;
}

// code_bytes: room for codes.
static int lay_work(const struct codec_inst *c, struct fstq_work *w, size_t code_bytes,
                    void *scratch, struct err *err)
{
    size_t n = c->shape->n_values, tensors = c->shape->n_tensors;
    size_t groups = tensors > FSTQ_CLASSES ? tensors : FSTQ_CLASSES;
    *w = (struct fstq_work){.c = c, .opt = c->opt};
    w->group = scratch_take(&scratch, tensors * sizeof *w->group);
    w->place = scratch_take(&scratch, tensors * sizeof *w->place);
    w->order = scratch_take(&scratch, tensors * sizeof *w->order);
    w->scale = scratch_take(&scratch, groups * sizeof *w->scale);
    w->count = scratch_take(&scratch, tensors * sizeof *w->count);
    w->start = scratch_take(&scratch, tensors * sizeof *w->start);
    w->tag = scratch_take(&scratch, n);
    w->code = scratch_take(&scratch, code_bytes);
    w->rest = scratch;
    lay_order(w);
    memset(w->scale, 0, groups * sizeof *w->scale);
    return read_plan(c, &w->a, err);
}

static size_t work_bytes(const struct codec_inst *c, size_t code_bytes)
{
    size_t n = c->shape->n_values, tensors = c->shape->n_tensors;
    size_t groups = tensors > FSTQ_CLASSES ? tensors : FSTQ_CLASSES;
    return 2 * SCRATCH_ROUND(tensors * sizeof(uint32_t)) + SCRATCH_ROUND(tensors * sizeof(size_t)) +
           SCRATCH_ROUND(groups * sizeof(float[ALLOC_LEVELS])) +
           2 * SCRATCH_ROUND(tensors * sizeof(int64_t[ALLOC_LEVELS])) + SCRATCH_ROUND(n) +
           SCRATCH_ROUND(code_bytes);
}

static size_t fstq_scratch(const struct codec_inst *c)
{
    size_t n = c->shape->n_values, tensors = c->shape->n_tensors;
    size_t groups = tensors > FSTQ_CLASSES ? tensors : FSTQ_CLASSES;
    struct bitalloc a;
    if (read_plan(c, &a, NULL))
        return 0;
    size_t allocate = SCRATCH_ROUND(n * sizeof(float)) + bitalloc_scratch(&a) +
                      SCRATCH_ROUND(groups * sizeof(struct alloc_levels)) +
                      SCRATCH_ROUND(groups * sizeof(float));
    size_t values = fstq_values_scratch(c), message = fstq_message_scratch(c);
    return work_bytes(c, 2 * n) + allocate + (values > message ? values : message);
}

// Codes that are not entropy-coded stay in the message until they are wanted.
static size_t decoded_codes(const struct codec_inst *c)
{
    return options(c)->values == VALUES_AUTO ? c->shape->n_values : 0;
}

static size_t fstq_decode_scratch(const struct codec_inst *c)
{
    return work_bytes(c, decoded_codes(c)) + fstq_read_scratch(c);
}

static size_t fstq_bound(const struct codec_inst *c)
{
    struct bitalloc a;
    return read_plan(c, &a, NULL) ? 1 : fstq_message_bound(c, &a);
}

struct model { // what is known of a message's length before it is made
    const struct fstq_work *w;
    double value_ratio; // of entropy-coded to packed values, as last seen
};

static double message_cost(const void *arg, const int64_t count[ALLOC_LEVELS])
{
    const struct model *m = arg;
    const struct fstq_work *w = m->w;
    double values = 0, scales = 0;
    for (int k = 1; k < w->a.count; k++) {
        if (count[k] <= 0)
            continue;
        double packed = ceil((double)count[k] * w->a.bits[k] / 8);
        double groups = (double)count[k] < w->groups ? (double)count[k] : w->groups;
        values += w->a.bits[k] < 16 ? packed * m->value_ratio + 1 : packed;
        scales +=
            fstq_has_scale(w->opt, w->a.bits[k]) ? groups * (double)fstq_scale_bytes(w->opt) : 0;
    }
    return 1 + fstq_tags_cost(w, (enum fstq_tags)w->opt->tags, count) + scales + values;
}

static int64_t write_message(struct fstq_work *w, const float *x, const float *group_max, bool fit,
                             uint8_t *out, size_t cap, struct codec_report *report, struct err *err)
{
    struct msg_out o;
    memset(&report->parts, 0, sizeof report->parts);
    memset(report->kept, 0, sizeof report->kept);
    if (report->by_tensor)
        memset(report->by_tensor, 0, w->c->shape->n_tensors * sizeof *report->by_tensor);
    msg_init(&o, out, cap, report);
    fstq_count(w);
    fstq_quantise(w, x, group_max, fit, w->rest);
    if (fstq_write(w, &o, w->rest))
        return msg_full(&o, err);
    for (int k = 0; k < w->a.count; k++)
        report->kept[record_width_of[w->a.bits[k]]] = w->total[k];
    for (uint32_t t = 0; t < w->c->shape->n_tensors && report->by_tensor; t++)
        for (int k = 0; k < w->a.count; k++)
            report->by_tensor[t][record_width_of[w->a.bits[k]]] = w->count[t][k];
    return msg_len(&o);
}

// Allocation for the budget.

// Steps that the rate-distortion hull assumes, in units of the group's root mean square: near the
// best ones of the values that will get the width.
static float assumed_step(int bits)
{
    switch (bits) {
    case 1:
        return 1.0f;
    case 2:
        return 1.4f;
    case 3:
        return 0.8f;
    case 4:
        return 0.45f;
    case 6:
        return 0.13f;
    default:
        return 0.04f;
    }
}

static void set_levels(const struct fstq_work *w, const float *x, const float *group_max,
                       struct alloc_levels *levels)
{
    for (uint32_t g = 0; g < w->groups; g++) {
        struct alloc_levels *l = &levels[g];
        double sq = 0, n = 0;
        for (uint32_t t = 0; t < w->c->shape->n_tensors; t++)
            if (w->group[t] == g) {
                size_t m = fstq_tensor_values(w, t);
                sq += quant_sum_sq(x + w->c->shape->tensors[t].offset, m);
                n += (double)m;
            }
        float rms = n > 0 ? (float)sqrt(sq / n) : 0;
        memset(l, 0, sizeof *l);
        l->count = w->a.count;
        for (int k = 1; k < l->count; k++) {
            int bits = w->a.bits[k], q = fstq_q(bits);
            float group_step = q ? group_max[g] / (float)q : rms;
            bool literal = w->opt->scale == SCALE_GROUP || bits == 16;
            float s = literal ? group_step : assumed_step(bits) * rms;
            l->kind[k] = fstq_kind(w->opt, bits);
            l->scale[k] = fstq_rounded(w->opt, s < group_step || bits == 1 ? s : group_step);
            l->inverse[k] = l->scale[k] > 0 ? 1 / l->scale[k] : 0;
            l->q[k] = (float)q;
            for (int c = 0; c < k; c++) // the tag of a coordinate that is sent costs about two bits
                l->per_bit[c][k] = 1 / (float)(bits - w->a.bits[c] + (c == 0 ? 2 : 0));
        }
    }
}

static bool group_maxima(const struct fstq_work *w, const float *x, float *max)
{
    memset(max, 0, (w->groups > FSTQ_CLASSES ? w->groups : FSTQ_CLASSES) * sizeof *max);
    for (uint32_t t = 0; t < w->c->shape->n_tensors; t++) {
        const struct shape_tensor *row = &w->c->shape->tensors[t];
        float m = f32_from_bits(quant_absmax_bits(x + row->offset, fstq_tensor_values(w, t)));
        if (!(m < CODEC_LIMIT))
            return false;
        max[w->group[t]] = m > max[w->group[t]] ? m : max[w->group[t]];
    }
    return true;
}

// Observed against packed length of the values, for the next try.
static double value_ratio(const struct fstq_work *w, const struct codec_report *report, double last)
{
    double packed = 0, fixed = 0;
    for (int k = 1; k < w->a.count; k++) {
        double bytes = ceil((double)w->total[k] * w->a.bits[k] / 8);
        if (w->a.bits[k] < 16)
            packed += bytes;
        else
            fixed += bytes;
    }
    double ratio = packed > 0 ? ((double)report->parts.values - fixed) / packed : last;
    return ratio < 0.02 ? 0.02 : ratio > 1 ? 1 : ratio;
}

// One try: a target of the model, whether scales were fitted anew, and the length that came of it.
struct attempt {
    double target;
    bool fit;
    int64_t len; // < 0: none yet
};

// Where the line through what was short enough and what was not reaches the wanted length; alone,
// one byte a byte.
static double next_target(const struct attempt *below, const struct attempt *above, double want)
{
    if (below->len < 0)
        return above->target - ((double)above->len - want) * 1.05;
    if (above->len < 0)
        return below->target + (want - (double)below->len);
    double part = (want - (double)below->len) / (double)(above->len - below->len);
    part = part < 0.02 ? 0.02 : part > 0.98 ? 0.98 : part;
    return below->target + part * (above->target - below->target);
}

struct search { // everything that the tries share
    struct fstq_work *w;
    struct bitalloc_run *run;
    struct model model;
    const float *x, *max;
    uint8_t *out;
    size_t cap;
    struct codec_report *report;
    struct err *err;
};

static int64_t try_target(struct search *s, struct attempt *a)
{
    bitalloc_assign(s->run, a->target, message_cost, &s->model, s->w->place, s->w->tag);
    a->len = write_message(s->w, s->x, s->max, a->fit, s->out, s->cap, s->report, s->err);
    return a->len;
}

// The model does not know everything (clustered positions, entropy of values): after a first try
// has shown how well values compress, its target is moved until the message is as long as the
// budget allows. Later tries keep the scales, for a scale that jumps makes the length jump. Never
// longer than the budget: the last resort is what was short enough before, or nothing at all.
static int64_t meet_budget(struct search *s, int64_t budget)
{
    struct attempt now = {(double)budget, true, -1}, best = {0, true, -1};
    struct attempt below = {0, true, -1}, above = {0, true, -1};
    double slack = 0.005 * (double)budget > 16 ? 0.005 * (double)budget : 16;
    for (int i = 0; i < TRIES; i++) {
        if (try_target(s, &now) < 0)
            return -1;
        bool ok = now.len <= budget;
        if (ok && ((double)now.len >= (double)budget - slack || s->w->total[0] == 0))
            return now.len;
        if (ok && now.len > best.len)
            best = now;
        double ratio = value_ratio(s->w, s->report, s->model.value_ratio);
        if (i == 0 && fabs(ratio - s->model.value_ratio) > 0.01) { // what was tried is void
            s->model.value_ratio = ratio;
            best.len = -1;
            now.target = message_cost(&s->model, s->w->total) + (double)(budget - now.len);
            continue;
        }
        *(ok ? &below : &above) = now;
        now.target = next_target(&below, &above, (double)budget - slack * 0.3);
        if (i == REFITS) {
            now.fit = false;
            below.len = above.len = -1;
        }
    }
    if (best.len < 0)
        best = (struct attempt){0, true, -1};
    if (now.len == best.len)
        return now.len;
    if (try_target(s, &best) > budget)
        return err_set(s->err,
                       "a budget of %lld bytes is less than the %lld of an empty message; "
                       "tags=auto takes least",
                       (long long)budget, (long long)best.len);
    return best.len;
}

static int64_t fstq_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                           size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    struct fstq_work w;
    struct bitalloc_run run;
    size_t tensors = c->shape->n_tensors, groups = tensors > FSTQ_CLASSES ? tensors : FSTQ_CLASSES;
    if (lay_work(c, &w, 2 * c->shape->n_values, scratch, err))
        return -1;
    float *u = scratch_take(&w.rest, c->shape->n_values * sizeof *u);
    struct alloc_levels *levels = scratch_take(&w.rest, groups * sizeof *levels);
    void *bins = scratch_take(&w.rest, bitalloc_scratch(&w.a));
    float *max = scratch_take(&w.rest, groups * sizeof *max);
    if (!group_maxima(&w, in->x, max))
        return codec_bad_input(c, in->x, err);
    if (w.a.policy == POLICY_RD)
        set_levels(&w, in->x, max, levels);
    if (bitalloc_prepare(&run, &w.a, in, levels, w.group, u, bins, err))
        return -1;
    int64_t budget = budget_of(c, in);
    if (budget >= 0) {
        struct model model = {&w, options(c)->values == VALUES_PACKED ? 1 : 0.9};
        struct search search = {&w, &run, model, in->x, max, out, cap, report, err};
        return meet_budget(&search, budget);
    }
    bitalloc_assign(&run, -1, NULL, NULL, w.place, w.tag);
    return write_message(&w, in->x, max, true, out, cap, report, err);
}

static int fstq_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct quant_sink to, void *scratch, struct err *err)
{
    (void)key;
    struct fstq_work w;
    if (lay_work(c, &w, decoded_codes(c), scratch, err) || fstq_read(&w, in, len, err))
        return -1;
    fstq_give(&w, to);
    return 0;
}

const struct codec codec_fstq = {
    .name = "fstq",
    .help = "bits by importance of the coordinate (Fisher or a control) under a byte budget",
    .source = "Li et al. 2026 (Fed-FSTQ), equations (21)-(31)",
    .options = fstq_options,
    .n_options = ARRAY_LEN(fstq_options),
    .option_bytes = sizeof(struct fstq_opt),
    .flags = CODEC_SELF_CHECK | CODEC_RANDOM,
    .needs_of = fstq_needs,
    .upload_s = fstq_upload_s,
    .check = fstq_check,
    .scratch_bytes = fstq_scratch,
    .decode_scratch = fstq_decode_scratch,
    .bound = fstq_bound,
    .encode = fstq_encode,
    .decode = fstq_decode,
};
