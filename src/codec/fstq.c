// Fed-FSTQ's message: some coordinates at 2, 4 or 16 bits (or any other widths), the rest not at
// all. Which ones is decided by bitalloc; here they are quantised, tagged and packed.
//
// Message: header (its flags say how tags are coded), tags or positions, scales of every width in
// use in every group, values of the first width, of the second, ... Coordinates are taken class by
// class (all A, all B, all others), because their tags have different statistics; inside a class in
// the order of the update.
#include "base/fmath.h"
#include "base/half.h"
#include "codec/bitalloc.h"
#include "codec/bits.h"
#include "codec/entropy.h"
#include "codec/message.h"
#include "codec/positions.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

#include <math.h>

enum { SCALE_GROUP, SCALE_TIER, SCALE_MSE };
static const char *const scale_choices[] = {"group", "tier", "mse", NULL};
enum { GROUP_TENSOR, GROUP_CLASS };
static const char *const group_choices[] = {"tensor", "class", NULL};
enum { FORMAT_FP32, FORMAT_BF16 };
static const char *const format_choices[] = {"fp32", "bf16", NULL};
enum tags { TAGS_AUTO, TAGS_BITMAP, TAGS_DENSE, TAGS_RICE, TAGS_RANS };
static const char *const tags_choices[] = {"auto", "bitmap", "dense", "rice", "rans", NULL};
enum { VALUES_AUTO, VALUES_PACKED };
static const char *const values_choices[] = {"auto", "packed", NULL};
enum { TOP_FP16, TOP_INT16 };
static const char *const top_choices[] = {"fp16", "int16", NULL};

#define CLASSES      3
#define TILE         1024
#define MSE_BINS     128
#define TRIES        8 // messages made on the way to a budget
#define REFITS       3
#define RELATIVE_MIN 16 // bytes that a budget in parts of the update is at least

struct fstq_opt {
    char widths[32], shares[96];
    int32_t policy, importance, norm, group, scale, format, tags, values, top;
    double gamma, budget, bits;
    int64_t bytes;
};

static const struct opt fstq_options[] = {
    OPT_ENUM(struct fstq_opt, policy, "policy", "rd", bitalloc_policies,
             "percentile (23), greedy (Algorithm 1) or rd (12)-(15)"),
    OPT(struct fstq_opt, budget, "budget", "0.15", 0, 4, "",
        "message in parts of dense fp16; 0 = none (percentile only)"),
    OPT(struct fstq_opt, bytes, "bytes", "0", 0, 1e12, "bytes", "or its length"),
    OPT(struct fstq_opt, bits, "bits", "0", 0, 64, "bits", "or bits a value"),
    OPT_ENUM(struct fstq_opt, importance, "importance", "fisher", bitalloc_importances,
             "F^gamma D^2 (21), or a control"),
    OPT(struct fstq_opt, gamma, "gamma", "0.25", 0, 1, "", "of F, in sixteenths; 1 in the paper"),
    OPT_ENUM(struct fstq_opt, norm, "norm", "tensor", bitalloc_norms, "what F is divided by"),
    OPT_STRING(struct fstq_opt, widths, "widths", "0/2/4/16", "of 0 1 2 3 4 6 8 16, ascending"),
    OPT_STRING(struct fstq_opt, shares, "shares", "0.005/0.04/0.08",
               "percentile: share of each width, the largest first"),
    OPT_ENUM(struct fstq_opt, group, "group", "tensor", group_choices, "what shares a scale (30)"),
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

static size_t tensor_values(const struct shape_tensor *t)
{
    return (size_t)t->rows * t->cols;
}

// Options.

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
        bool known = false;
        for (int w = 0; w < RECORD_WIDTHS - 1; w++)
            known |= (double)record_width_bits[w] == width[k];
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

static int64_t budget_of(const struct codec_inst *c, const struct codec_input *in)
{
    const struct fstq_opt *o = options(c);
    if (in->budget_bytes >= 0)
        return in->budget_bytes;
    if (o->bytes > 0)
        return o->bytes;
    double n = (double)c->shape->n_values;
    double bytes = o->bits > 0 ? o->bits * n / 8 : o->budget * 2 * n;
    if (bytes <= 0 && o->policy == POLICY_PERCENTILE)
        return -1;
    return bytes < RELATIVE_MIN ? RELATIVE_MIN : (int64_t)bytes;
}

// Widths.

// Codes lie in [0, kinds): q + v with |v| <= q; signs for one bit.
static int width_q(int bits)
{
    return bits == 1 ? 0 : (1 << (bits - 1)) - 1;
}

static unsigned width_kinds(int bits)
{
    return bits == 1 ? 2 : 2 * (unsigned)width_q(bits) + 1;
}

static enum alloc_kind width_kind(const struct codec_inst *c, int bits)
{
    bool fp16 = bits == 16 && options(c)->top == TOP_FP16;
    return bits == 0 ? ALLOC_NONE : bits == 1 ? ALLOC_SIGN : fp16 ? ALLOC_FP16 : ALLOC_INT;
}

static bool has_scale(const struct codec_inst *c, int bits)
{
    return bits > 0 && width_kind(c, bits) != ALLOC_FP16;
}

static int record_class(int bits)
{
    int k = 0;
    while (record_width_bits[k] != bits)
        k++;
    return k;
}

// Where things lie.

// Everything that both directions need, in scratch.
struct work {
    const struct codec_inst *c;
    struct bitalloc a;
    uint32_t groups;
    uint32_t *group; // (n_tensors)
    size_t *place;   // (n_tensors) where a tensor's tags begin
    uint32_t *order; // (n_tensors) class by class
    size_t class_at[CLASSES + 1];
    float (*scale)[ALLOC_LEVELS];   // (groups)
    int64_t (*count)[ALLOC_LEVELS]; // (n_tensors) values of each width
    int64_t total[ALLOC_LEVELS];
    uint8_t *tag;  // (n) class by class
    uint8_t *code; // (2 n) codes of the first width, of the second, ...; 16-bit ones as two bytes
    size_t code_at[ALLOC_LEVELS]; // where the codes of a width begin
    void *rest;                   // scratch left over
};

static void lay_order(struct work *w)
{
    const struct shape *s = w->c->shape;
    size_t at = 0;
    uint32_t n = 0;
    for (uint32_t k = 0; k < CLASSES; k++) {
        w->class_at[k] = at;
        for (uint32_t step = 0; step < s->n_tensors; step++) {
            // A, B, others: the order of the enum with its first last.
            uint32_t kind = (k + 1) % CLASSES;
            if (s->tensors[step].kind != kind)
                continue;
            w->order[n++] = step;
            w->place[step] = at;
            at += tensor_values(&s->tensors[step]);
        }
    }
    w->class_at[CLASSES] = at;
    bool by_class = options(w->c)->group == GROUP_CLASS;
    w->groups = by_class ? CLASSES : s->n_tensors;
    for (uint32_t t = 0; t < s->n_tensors; t++)
        w->group[t] = by_class ? s->tensors[t].kind : t;
}

static int lay_work(const struct codec_inst *c, struct work *w, void *scratch, struct err *err)
{
    size_t n = c->shape->n_values, tensors = c->shape->n_tensors;
    size_t groups = tensors > CLASSES ? tensors : CLASSES;
    *w = (struct work){.c = c};
    w->group = scratch_take(&scratch, tensors * sizeof *w->group);
    w->place = scratch_take(&scratch, tensors * sizeof *w->place);
    w->order = scratch_take(&scratch, tensors * sizeof *w->order);
    w->scale = scratch_take(&scratch, groups * sizeof *w->scale);
    w->count = scratch_take(&scratch, tensors * sizeof *w->count);
    w->tag = scratch_take(&scratch, n);
    w->code = scratch_take(&scratch, 2 * n);
    w->rest = scratch;
    lay_order(w);
    memset(w->scale, 0, groups * sizeof *w->scale);
    return read_plan(c, &w->a, err);
}

static size_t mse_bytes(const struct codec_inst *c)
{
    size_t tensors = c->shape->n_tensors, groups = tensors > CLASSES ? tensors : CLASSES;
    return groups * ALLOC_LEVELS * MSE_BINS * sizeof(uint32_t);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t fstq_scratch(const struct codec_inst *c)
{
    size_t n = c->shape->n_values, tensors = c->shape->n_tensors;
    size_t groups = tensors > CLASSES ? tensors : CLASSES;
    size_t common = 2 * SCRATCH_ROUND(tensors * sizeof(uint32_t)) +
                    SCRATCH_ROUND(tensors * sizeof(size_t)) +
                    SCRATCH_ROUND(groups * sizeof(float[ALLOC_LEVELS])) +
                    SCRATCH_ROUND(tensors * sizeof(int64_t[ALLOC_LEVELS])) + SCRATCH_ROUND(n) +
                    SCRATCH_ROUND(2 * n);
    size_t allocate = SCRATCH_ROUND(n * sizeof(float)) + bitalloc_scratch() +
                      SCRATCH_ROUND(groups * sizeof(struct alloc_levels)) +
                      SCRATCH_ROUND(groups * sizeof(float));
    // Positions or entropy coding, one after the other.
    size_t code = larger(larger(entropy_scratch(n), SCRATCH_ROUND(n * sizeof(uint32_t))),
                         SCRATCH_ROUND(mse_bytes(c)));
    return common + allocate + code;
}

// Sizes.

static unsigned tag_bits(const struct work *w) // of one of the kept coordinates
{
    return w->a.count <= 2 ? 0 : bits_log2((uint64_t)w->a.count - 2) + 1;
}

static unsigned dense_bits(const struct work *w)
{
    return bits_log2((uint64_t)w->a.count - 1) + 1;
}

static size_t scale_bytes(const struct codec_inst *c)
{
    return options(c)->format == FORMAT_FP32 ? 4 : 2;
}

static double entropy_bits(const int64_t *count, int kinds, double n)
{
    double bits = 0;
    for (int k = 0; k < kinds; k++)
        if (count[k] > 0 && (double)count[k] < n)
            bits -= (double)count[k] * fmath_log((double)count[k] / n);
    return bits * 1.4426950408889634; // 1 / log 2
}

// Tag bytes of each coding, as far as counts tell.
static double tags_cost(const struct work *w, enum tags tags, const int64_t *count)
{
    double n = (double)w->c->shape->n_values, kept = n - (double)count[0];
    double positions_tags = ceil(kept * tag_bits(w) / 8);
    switch (tags) {
    case TAGS_DENSE:
        return ceil(n * dense_bits(w) / 8);
    case TAGS_BITMAP:
        return ceil(n / 8) + positions_tags;
    case TAGS_RICE:
        return (double)positions_estimate((size_t)kept, (size_t)n, POSITIONS_RICE) +
               positions_tags + 6;
    case TAGS_RANS:
        return entropy_bits(count, w->a.count, n) / 8 + 24;
    case TAGS_AUTO:
        break;
    }
    double best = tags_cost(w, TAGS_BITMAP, count);
    for (int t = TAGS_DENSE; t <= TAGS_RANS; t++) {
        double cost = tags_cost(w, (enum tags)t, count);
        best = cost < best ? cost : best;
    }
    return best;
}

struct model { // what is known of a message's length before it is made
    const struct work *w;
    double value_ratio; // of entropy-coded to packed values, as last seen
};

static double message_cost(const void *arg, const int64_t count[ALLOC_LEVELS])
{
    const struct model *m = arg;
    const struct work *w = m->w;
    double values = 0, scales = 0;
    for (int k = 1; k < w->a.count; k++) {
        if (count[k] <= 0)
            continue;
        double packed = ceil((double)count[k] * w->a.bits[k] / 8);
        double groups = (double)count[k] < w->groups ? (double)count[k] : w->groups;
        values += w->a.bits[k] < 16 ? packed * m->value_ratio + 1 : packed;
        scales += has_scale(w->c, w->a.bits[k]) ? groups * (double)scale_bytes(w->c) : 0;
    }
    return 1 + tags_cost(w, (enum tags)options(w->c)->tags, count) + scales + values;
}

static size_t fstq_bound(const struct codec_inst *c)
{
    struct bitalloc a;
    size_t n = c->shape->n_values;
    if (read_plan(c, &a, NULL))
        return 1;
    size_t groups = (size_t)(c->shape->n_tensors > CLASSES ? c->shape->n_tensors : CLASSES);
    size_t tags = larger(pack_bytes(n, 4), (n + 7) / 8 + pack_bytes(n, 3)) + CLASSES * 16;
    size_t values = pack_bytes(n, (unsigned)a.bits[a.count - 1]) + (size_t)a.count * 2;
    return 1 + tags + groups * (size_t)a.count * scale_bytes(c) + values + (n >> 20) * 4;
}

// Scales and codes.

// Counts of each width, tensor by tensor; codes of a width begin where those of the one before end.
static void count_tags(struct work *w)
{
    memset(w->total, 0, sizeof w->total);
    for (uint32_t t = 0; t < w->c->shape->n_tensors; t++) {
        uint64_t count[256];
        pack_count_u8(w->tag + w->place[t], tensor_values(&w->c->shape->tensors[t]), count);
        for (int k = 0; k < w->a.count; k++) {
            w->count[t][k] = (int64_t)count[k];
            w->total[k] += (int64_t)count[k];
        }
    }
    size_t at = 0;
    for (int k = 1; k < w->a.count; k++) {
        w->code_at[k] = at;
        at += (size_t)w->total[k] * (w->a.bits[k] == 16 ? 2 : 1);
    }
}

// Calls fn for runs of the values of width k in tensor t.
typedef void each_run(void *arg, const float *v, size_t n);

static void for_values(const struct work *w, const float *x, uint32_t t, int k, each_run *fn,
                       void *arg)
{
    const struct shape_tensor *row = &w->c->shape->tensors[t];
    float v[TILE + 16];
    if (w->count[t][k] == 0)
        return;
    for (size_t at = 0, n = tensor_values(row); at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        size_t found =
            alloc_gather(x + row->offset + at, w->tag + w->place[t] + at, m, (uint8_t)k, v);
        if (found)
            fn(arg, v, found);
    }
}

static void run_max(void *arg, const float *v, size_t n)
{
    float max = f32_from_bits(quant_absmax_bits(v, n)), *most = arg;
    *most = max > *most ? max : *most;
}

static void run_abs(void *arg, const float *v, size_t n)
{
    *(double *)arg += quant_sum_abs(v, n);
}

struct mse_bins {
    float inv;
    uint32_t *bin;
};

static void run_bins(void *arg, const float *v, size_t n)
{
    const struct mse_bins *b = arg;
    for (size_t i = 0; i < n; i++) {
        float at = fabsf(v[i]) * b->inv;
        b->bin[at < MSE_BINS - 1 ? (int)at : MSE_BINS - 1]++;
    }
}

// The scale of least squared error, by the histogram of magnitudes.
static float best_scale(const uint32_t *bin, float max, int q)
{
    double best = -1;
    float best_s = max / (float)q;
    for (int try = 64; try >= 8; try -= 2) {
        float s = max / (float)q * (float)try * (1.0f / 64);
        double err = 0;
        for (int b = 0; b < MSE_BINS; b++) {
            if (!bin[b])
                continue;
            double mid = ((double)b + 0.5) / MSE_BINS * (double)max;
            double level = floor(mid / (double)s + 0.5);
            double d = mid - (level < q ? level : q) * (double)s;
            err += bin[b] * d * d;
        }
        if (best < 0 || err < best) {
            best = err;
            best_s = s;
        }
    }
    return best_s;
}

// Scales of every width in use: of the largest value of the group (30), of the width's, or of least
// error.
static void fit_width(struct work *w, const float *x, const float *group_max, int k, void *scratch)
{
    int bits = w->a.bits[k], q = width_q(bits), how = options(w->c)->scale;
    uint32_t n = w->c->shape->n_tensors;
    uint32_t *bins = scratch;
    memset(bins, 0, w->groups * MSE_BINS * sizeof *bins);
    for (uint32_t g = 0; g < w->groups; g++)
        w->scale[g][k] = how == SCALE_GROUP && bits > 1 ? group_max[g] / (float)q : 0;
    if (bits == 1) { // the mean magnitude is the best level of a sign
        double *sum = scratch;
        int64_t *count = (int64_t *)(sum + w->groups);
        memset(scratch, 0, w->groups * 16);
        for (uint32_t t = 0; t < n; t++) {
            for_values(w, x, t, k, run_abs, &sum[w->group[t]]);
            count[w->group[t]] += w->count[t][k];
        }
        for (uint32_t g = 0; g < w->groups; g++)
            w->scale[g][k] = count[g] ? (float)(sum[g] / (double)count[g]) : 0;
        return;
    }
    if (how == SCALE_GROUP)
        return;
    for (uint32_t t = 0; t < n; t++)
        for_values(w, x, t, k, run_max, &w->scale[w->group[t]][k]);
    for (uint32_t t = 0; t < n && how == SCALE_MSE; t++) {
        float most = w->scale[w->group[t]][k];
        struct mse_bins b = {most >= 0x1p-100f ? MSE_BINS / most : 0,
                             bins + w->group[t] * MSE_BINS};
        for_values(w, x, t, k, run_bins, &b);
    }
    for (uint32_t g = 0; g < w->groups; g++)
        w->scale[g][k] = how == SCALE_MSE ? best_scale(bins + g * MSE_BINS, w->scale[g][k], q)
                                          : w->scale[g][k] / (float)q;
}

static float rounded_scale(const struct codec_inst *c, float s)
{
    if (!(s >= 0x1p-110f)) // its reciprocal would overflow: a group this small is sent as zeros
        return 0;
    return options(c)->format == FORMAT_BF16 ? bf16_to_f32(bf16_from_f32(s)) : s;
}

struct coder {
    enum alloc_kind kind;
    int bits, q;
    float inv;
    uint8_t *to;
};

static void run_code(void *arg, const float *v, size_t n)
{
    struct coder *c = arg;
    if (c->kind == ALLOC_FP16) {
        quant_f16_to_le(v, n, 1, c->to);
    } else if (c->kind == ALLOC_SIGN) {
        quant_sign_u8(v, n, c->to);
    } else if (c->bits <= 8) {
        quant_nearest_u8(v, n, c->inv, c->q, c->to);
    } else {
        for (size_t i = 0; i < n; i++) { // int16: offset by q
            float s = v[i] * c->inv, most = (float)c->q;
            s = s > most ? most : s < -most ? -most : s;
            put_u16(c->to + 2 * i, (uint16_t)((int)((s + 12582912.0f) - 12582912.0f) + c->q));
        }
    }
    c->to += n * (c->bits == 16 ? 2 : 1);
}

static void make_codes(struct work *w, const float *x)
{
    for (int k = 1; k < w->a.count; k++) {
        int bits = w->a.bits[k];
        struct coder code = {width_kind(w->c, bits), bits, width_q(bits), 0,
                             w->code + w->code_at[k]};
        for (uint32_t i = 0; i < w->c->shape->n_tensors; i++) {
            uint32_t t = w->order[i];
            float s = w->scale[w->group[t]][k];
            code.inv = s > 0 ? 1 / s : 0;
            for_values(w, x, t, k, run_code, &code);
        }
    }
}

// Writing.

static size_t class_positions(const struct work *w, int class, uint32_t *at)
{
    size_t count = 0;
    for (size_t i = w->class_at[class]; i < w->class_at[class + 1]; i++) {
        at[count] = (uint32_t)i;
        count += w->tag[i] != 0;
    }
    return count;
}

// Tags of kept coordinates, 0 for the first width above 0.
static int put_kept_tags(struct msg_out *o, const struct work *w, size_t kept, uint8_t *buf)
{
    unsigned bits = tag_bits(w);
    uint8_t *p = msg_take(o, PART_TAGS, pack_bytes(kept, bits));
    if (!p)
        return -1;
    if (bits == 0)
        return 0;
    size_t n = 0;
    for (size_t i = 0; i < w->class_at[CLASSES]; i++) {
        buf[n] = (uint8_t)(w->tag[i] - 1);
        n += w->tag[i] != 0;
    }
    pack_u8(buf, n, bits, p);
    return 0;
}

static int put_tags(struct msg_out *o, const struct work *w, enum tags tags, void *scratch)
{
    size_t n = w->c->shape->n_values, kept = n - (size_t)w->total[0];
    uint8_t *p;
    if (tags == TAGS_DENSE) {
        p = msg_take(o, PART_TAGS, pack_bytes(n, dense_bits(w)));
        if (p)
            pack_u8(w->tag, n, dense_bits(w), p);
        return p ? 0 : -1;
    }
    if (tags == TAGS_RANS) {
        for (int k = 0; k < CLASSES; k++)
            if (entropy_put(o, PART_TAGS, w->tag + w->class_at[k],
                            w->class_at[k + 1] - w->class_at[k], (unsigned)w->a.count, scratch))
                return -1;
        return 0;
    }
    if (tags == TAGS_BITMAP) {
        p = msg_take(o, PART_INDICES, (n + 7) / 8);
        if (!p)
            return -1;
        alloc_bitmap(w->tag, n, p);
    }
    for (int k = 0; k < CLASSES && tags == TAGS_RICE; k++) {
        size_t count = class_positions(w, k, scratch), size = w->class_at[k + 1] - w->class_at[k];
        if (size && (msg_put_varint(o, PART_DIRECTORY, count) ||
                     positions_put(o, scratch, count, w->class_at[k], size, POSITIONS_RICE)))
            return -1;
    }
    return put_kept_tags(o, w, kept, scratch);
}

// Whether group g holds a value of width k.
static bool in_use(const struct work *w, uint32_t g, int k)
{
    for (uint32_t t = 0; t < w->c->shape->n_tensors; t++)
        if (w->group[t] == g && w->count[t][k] > 0)
            return true;
    return false;
}

static int put_scales(struct msg_out *o, const struct work *w)
{
    size_t size = scale_bytes(w->c);
    for (int k = 1; k < w->a.count; k++)
        for (uint32_t g = 0; g < w->groups && has_scale(w->c, w->a.bits[k]); g++) {
            bool used = options(w->c)->group == GROUP_TENSOR ? w->count[g][k] > 0 : in_use(w, g, k);
            uint8_t *p = used ? msg_take(o, PART_SCALES, size) : NULL;
            if (used && !p)
                return -1;
            if (used && size == 4)
                put_f32(p, w->scale[g][k]);
            else if (used)
                put_u16(p, bf16_from_f32(w->scale[g][k]));
        }
    return 0;
}

static int put_values(struct msg_out *o, const struct work *w, void *scratch)
{
    for (int k = 1; k < w->a.count; k++) {
        int bits = w->a.bits[k];
        size_t n = (size_t)w->total[k];
        const uint8_t *code = w->code + w->code_at[k];
        if (bits < 16 && options(w->c)->values == VALUES_AUTO) {
            if (entropy_put(o, PART_VALUES, code, n, width_kinds(bits), scratch))
                return -1;
            continue;
        }
        uint8_t *p = msg_take(o, PART_VALUES, pack_bytes(n, (unsigned)bits));
        if (!p)
            return -1;
        if (bits == 16)
            memcpy(p, code, 2 * n);
        else
            pack_u8(code, n, (unsigned)bits, p);
    }
    return 0;
}

static enum tags cheapest_tags(const struct work *w)
{
    enum tags best = TAGS_BITMAP;
    double rans = 0, bits[CLASSES] = {0};
    for (int k = 0; k < CLASSES; k++) { // by class, as they will be coded
        int64_t count[ALLOC_LEVELS] = {0};
        double n = 0;
        for (uint32_t t = 0; t < w->c->shape->n_tensors; t++)
            if (w->c->shape->tensors[t].kind == (uint32_t)k)
                for (int j = 0; j < w->a.count; j++) {
                    count[j] += w->count[t][j];
                    n += (double)w->count[t][j];
                }
        bits[k] = entropy_bits(count, w->a.count, n);
        rans += bits[k] / 8 + (n > 0 ? 12 + 4.0 * rans_lanes((size_t)n) : 0);
    }
    for (int t = TAGS_DENSE; t <= TAGS_RICE; t++)
        if (tags_cost(w, (enum tags)t, w->total) < tags_cost(w, best, w->total))
            best = (enum tags)t;
    return rans < tags_cost(w, best, w->total) ? TAGS_RANS : best;
}

static int64_t write_message(struct work *w, const float *x, const float *group_max, bool fit,
                             uint8_t *out, size_t cap, void *scratch, struct codec_report *report,
                             struct err *err)
{
    enum tags tags = (enum tags)options(w->c)->tags;
    struct msg_out o;
    memset(&report->parts, 0, sizeof report->parts);
    memset(report->kept, 0, sizeof report->kept);
    msg_init(&o, out, cap, report);
    count_tags(w);
    for (int k = 1; k < w->a.count && fit; k++) {
        if (has_scale(w->c, w->a.bits[k]) && w->total[k] > 0)
            fit_width(w, x, group_max, k, scratch);
        for (uint32_t g = 0; g < w->groups; g++)
            w->scale[g][k] = rounded_scale(w->c, w->scale[g][k]);
    }
    make_codes(w, x);
    if (tags == TAGS_AUTO)
        tags = cheapest_tags(w);
    if (msg_put_header(&o, (unsigned)tags) || put_tags(&o, w, tags, scratch) || put_scales(&o, w) ||
        put_values(&o, w, scratch))
        return msg_full(&o, err);
    for (int k = 0; k < w->a.count; k++)
        report->kept[record_class(w->a.bits[k])] = w->total[k];
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

static void set_levels(const struct work *w, const float *x, const float *group_max,
                       struct alloc_levels *levels)
{
    for (uint32_t g = 0; g < w->groups; g++) {
        struct alloc_levels *l = &levels[g];
        double sq = 0, n = 0;
        for (uint32_t t = 0; t < w->c->shape->n_tensors; t++)
            if (w->group[t] == g) {
                const struct shape_tensor *row = &w->c->shape->tensors[t];
                sq += quant_sum_sq(x + row->offset, tensor_values(row));
                n += (double)tensor_values(row);
            }
        float rms = n > 0 ? (float)sqrt(sq / n) : 0;
        memset(l, 0, sizeof *l);
        l->count = w->a.count;
        for (int k = 1; k < l->count; k++) {
            int bits = w->a.bits[k], q = width_q(bits);
            float group_step = q ? group_max[g] / (float)q : rms;
            bool literal = options(w->c)->scale == SCALE_GROUP || bits == 16;
            float s = literal ? group_step : assumed_step(bits) * rms;
            l->kind[k] = width_kind(w->c, bits);
            l->scale[k] = rounded_scale(w->c, s < group_step || bits == 1 ? s : group_step);
            l->inverse[k] = l->scale[k] > 0 ? 1 / l->scale[k] : 0;
            l->q[k] = (float)q;
            for (int c = 0; c < k; c++) // the tag of a coordinate that is sent costs about two bits
                l->per_bit[c][k] = 1 / (float)(bits - w->a.bits[c] + (c == 0 ? 2 : 0));
        }
    }
}

static bool group_maxima(const struct work *w, const float *x, float *max)
{
    memset(max, 0, (w->groups > CLASSES ? w->groups : CLASSES) * sizeof *max);
    for (uint32_t t = 0; t < w->c->shape->n_tensors; t++) {
        const struct shape_tensor *row = &w->c->shape->tensors[t];
        float m = f32_from_bits(quant_absmax_bits(x + row->offset, tensor_values(row)));
        if (!(m < CODEC_LIMIT))
            return false;
        max[w->group[t]] = m > max[w->group[t]] ? m : max[w->group[t]];
    }
    return true;
}

// Observed against packed length of the values, for the next try.
static double value_ratio(const struct work *w, const struct codec_report *report, double last)
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
    struct work *w;
    struct bitalloc_run *run;
    struct model model;
    const float *x, *max;
    uint8_t *out;
    size_t cap;
    void *scratch;
    struct codec_report *report;
    struct err *err;
};

static int64_t try_target(struct search *s, struct attempt *a)
{
    bitalloc_assign(s->run, a->target, message_cost, &s->model, s->w->place, s->w->tag);
    a->len =
        write_message(s->w, s->x, s->max, a->fit, s->out, s->cap, s->scratch, s->report, s->err);
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
    struct work w;
    struct bitalloc_run run;
    size_t tensors = c->shape->n_tensors, groups = tensors > CLASSES ? tensors : CLASSES;
    if (lay_work(c, &w, scratch, err))
        return -1;
    float *u = scratch_take(&w.rest, c->shape->n_values * sizeof *u);
    struct alloc_levels *levels = scratch_take(&w.rest, groups * sizeof *levels);
    void *bins = scratch_take(&w.rest, bitalloc_scratch());
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
        struct search search = {&w, &run, model, in->x, max, out, cap, w.rest, report, err};
        return meet_budget(&search, budget);
    }
    bitalloc_assign(&run, -1, NULL, NULL, w.place, w.tag);
    return write_message(&w, in->x, max, true, out, cap, w.rest, report, err);
}

// Reading.

static int get_kept_tags(struct msg_in *m, struct work *w, size_t kept, void *scratch,
                         struct err *err)
{
    unsigned bits = tag_bits(w);
    const uint8_t *p = msg_need(m, pack_bytes(kept, bits));
    uint8_t *buf = scratch;
    if (!p)
        return msg_short("tags", err);
    if (bits == 0)
        return 0;
    unpack_u8(p, kept, bits, buf);
    if (kept && pack_max_u8(buf, kept) >= w->a.count - 1)
        return msg_bad("tags", "no such width", err);
    size_t n = 0;
    for (size_t i = 0; i < w->class_at[CLASSES] && n < kept; i++)
        if (w->tag[i])
            w->tag[i] = (uint8_t)(buf[n++] + 1);
    return 0;
}

static int get_bitmap(struct msg_in *m, struct work *w, size_t n, size_t *kept, struct err *err)
{
    const uint8_t *p = msg_need(m, (n + 7) / 8);
    if (!p)
        return msg_short("indices", err);
    if (n % 8 && p[n / 8] >> (n % 8))
        return msg_bad("indices", "the bitmap has too many positions", err);
    unpack_u8(p, n, 1, w->tag);
    for (size_t i = 0; i < (n + 7) / 8; i++)
        *kept += (unsigned)__builtin_popcount(p[i]);
    return 0;
}

static int get_rice(struct msg_in *m, struct work *w, size_t n, size_t *kept, uint32_t *at,
                    struct err *err)
{
    memset(w->tag, 0, n);
    for (int k = 0; k < CLASSES; k++) {
        size_t size = w->class_at[k + 1] - w->class_at[k];
        uint64_t count;
        if (size == 0)
            continue;
        if (msg_get_varint(m, &count) || count > size)
            return msg_bad("directory", "more positions than coordinates", err);
        if (positions_get(m, at, (size_t)count, w->class_at[k], size, err))
            return -1;
        for (size_t i = 0; i < count; i++)
            w->tag[at[i]] = 1;
        *kept += (size_t)count;
    }
    return 0;
}

static int get_tags(struct msg_in *m, struct work *w, enum tags tags, void *scratch,
                    struct err *err)
{
    size_t n = w->c->shape->n_values, kept = 0;
    if (tags == TAGS_DENSE) {
        const uint8_t *p = msg_need(m, pack_bytes(n, dense_bits(w)));
        if (!p)
            return msg_short("tags", err);
        unpack_u8(p, n, dense_bits(w), w->tag);
        return pack_max_u8(w->tag, n) >= w->a.count ? msg_bad("tags", "no such width", err) : 0;
    }
    if (tags == TAGS_RANS) {
        for (int k = 0; k < CLASSES; k++)
            if (entropy_get(m, w->tag + w->class_at[k], w->class_at[k + 1] - w->class_at[k],
                            (unsigned)w->a.count, scratch, err))
                return -1;
        return 0;
    }
    if (tags != TAGS_BITMAP && tags != TAGS_RICE)
        return msg_bad("header", "unknown coding of tags", err);
    if (tags == TAGS_BITMAP ? get_bitmap(m, w, n, &kept, err)
                            : get_rice(m, w, n, &kept, scratch, err))
        return -1;
    return get_kept_tags(m, w, kept, scratch, err);
}

static int get_scales(struct msg_in *m, struct work *w, struct err *err)
{
    size_t size = scale_bytes(w->c);
    for (int k = 1; k < w->a.count; k++)
        for (uint32_t g = 0; g < w->groups && has_scale(w->c, w->a.bits[k]); g++) {
            bool used = options(w->c)->group == GROUP_TENSOR ? w->count[g][k] > 0 : in_use(w, g, k);
            if (!used)
                continue;
            const uint8_t *p = msg_need(m, size);
            if (!p)
                return msg_short("scales", err);
            w->scale[g][k] = size == 4 ? get_f32(p) : bf16_to_f32(get_u16(p));
            if (!msg_scale_ok(w->scale[g][k]))
                return msg_bad("scales", "one is not finite, or too large", err);
        }
    return 0;
}

static int get_values(struct msg_in *m, struct work *w, void *scratch, struct err *err)
{
    for (int k = 1; k < w->a.count; k++) {
        int bits = w->a.bits[k];
        size_t n = (size_t)w->total[k];
        uint8_t *code = w->code + w->code_at[k];
        if (bits < 16 && options(w->c)->values == VALUES_AUTO) {
            if (entropy_get(m, code, n, width_kinds(bits), scratch, err))
                return -1;
            continue;
        }
        const uint8_t *p = msg_need(m, pack_bytes(n, (unsigned)bits));
        if (!p)
            return msg_short("values", err);
        if (bits == 16)
            memcpy(code, p, 2 * n);
        else
            unpack_u8(p, n, (unsigned)bits, code);
        if (width_kind(w->c, bits) == ALLOC_FP16 && quant_absmax_bits_f16(code, n) >= 0x7c00u)
            return msg_bad("values", "one is not finite", err);
    }
    return 0;
}

// The values of width k in a tile, from their codes.
static void values_of(const struct codec_inst *c, int bits, float s, const uint8_t *code, size_t n,
                      float *v)
{
    struct quant_sink set = {v, 1, false};
    if (width_kind(c, bits) == ALLOC_FP16) {
        quant_f16_from_le(code, n, 1, set);
    } else if (bits == 1) {
        const float table[16] = {-s, s};
        quant_table_from_u8(code, n, table, set);
    } else if (bits < 16) {
        quant_linear_from_u8(code, n, width_q(bits), s, set);
    } else {
        for (size_t i = 0; i < n; i++)
            v[i] = (float)((int)get_u16(code + 2 * i) - width_q(16)) * s;
    }
}

static void give_tensor(const struct work *w, uint32_t t, uint8_t *code[ALLOC_LEVELS],
                        struct quant_sink to)
{
    const struct shape_tensor *row = &w->c->shape->tensors[t];
    const uint8_t *tag = w->tag + w->place[t];
    float v[TILE];
    for (size_t at = 0, n = tensor_values(row); at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        struct quant_sink here = quant_sink_at(to, row->offset + at);
        uint64_t count[256];
        if (!to.add)
            memset(here.to, 0, m * sizeof *here.to);
        pack_count_u8(tag + at, m, count);
        for (int k = 1; k < w->a.count; k++) {
            if (count[k] == 0)
                continue;
            values_of(w->c, w->a.bits[k], w->scale[w->group[t]][k], code[k], (size_t)count[k], v);
            code[k] += count[k] * (w->a.bits[k] == 16 ? 2 : 1);
            alloc_scatter(v, tag + at, m, (uint8_t)k, here);
        }
    }
}

static int fstq_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct quant_sink to, void *scratch, struct err *err)
{
    (void)key;
    struct work w;
    struct msg_in m;
    unsigned flags;
    if (lay_work(c, &w, scratch, err) || msg_open(&m, in, len, &flags, err))
        return -1;
    if (get_tags(&m, &w, (enum tags)flags, w.rest, err))
        return -1;
    count_tags(&w);
    if (get_scales(&m, &w, err) || get_values(&m, &w, w.rest, err) || msg_end(&m, err))
        return -1;
    uint8_t *code[ALLOC_LEVELS];
    for (int k = 1; k < w.a.count; k++)
        code[k] = w.code + w.code_at[k];
    for (uint32_t i = 0; i < c->shape->n_tensors; i++)
        give_tensor(&w, w.order[i], code, to);
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
    .check = fstq_check,
    .scratch_bytes = fstq_scratch,
    .bound = fstq_bound,
    .encode = fstq_encode,
    .decode = fstq_decode,
};
