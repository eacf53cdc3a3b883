// klt: each matrix is turned into its own principal directions (axes.h), which are sent with the
// message. One step for all coefficients; they are entropy-coded in classes of directions of like
// energy.
//
// Message: header; the step (bf16) and, if it is not 0, three centres (centre.h: of magnitudes 1, 2
// and more) and a gain a class where options ask for it; the highest and the lowest level of a
// direction; bits: matrix by matrix, from the highest level down, a one for every direction of a
// level and a zero for every step down, then, for every level but the highest, whether a class
// begins with it; magnitudes of the directions' coordinates, then signs of those that are not
// known; the codes of each class, from the highest level down, matrix by matrix.
#include "base/fmath.h"
#include "base/half.h"
#include "base/pool.h"
#include "codec/axes.h"
#include "codec/centre.h"
#include "codec/entropy.h"
#include "codec/rows.h"

#include <math.h>
#include <string.h>

#define LEVELS    AXES_LEVELS
#define GAIN_MOST 40 // eighths of an octave

struct klt_opt {
    double step, dead, keep, basis, rdoq, gamma, unbiased;
};

static const struct opt klt_options[] = {
    OPT(struct klt_opt, step, "step", "2", 1e-3, 1e3, "rms",
        "width of a step, of the whole update"),
    OPT(struct klt_opt, dead, "dead", "0.1", 0, 0.49, "steps",
        "by how much a coefficient must lie beyond the middle between two to become the larger"),
    OPT(struct klt_opt, keep, "keep", "0.05", 1e-3, 10, "step^2",
        "energy per value of the weakest direction that is sent"),
    OPT(struct klt_opt, basis, "basis", "0.3", 0.05, 1, "", "step of the directions' coordinates"),
    OPT(struct klt_opt, gamma, "gamma", "0", 0, 1, "1/16",
        "steps grow with this power of the root mean square of a direction; 0 = one for all"),
    OPT(struct klt_opt, rdoq, "rdoq", "0", 0, 1, "step^2",
        "squared error that a bit is worth when a code is chosen; 0 = the nearest; .1 saves 4 %"),
    OPT(struct klt_opt, unbiased, "unbiased", "0", 0, 2, "",
        "directions are lengthened by this power of what their codes leave out"),
};

struct plan {
    struct axes ax;
    const struct codec_inst *c;
    const struct klt_opt *o;
    float *mix;              // rows of this: directions over their steps
    struct klt_means *means; // of directions' codes
    uint8_t *codes;          // (n)
    float round;
    uint8_t centre[3], gain[LEVELS];
    uint64_t (*count)[256];        // (LEVELS) of codes
    struct klt_cost *costs, *cost; // (LEVELS); cost: NULL = the nearest codes
};

static size_t entropy_values(const struct codec_inst *c)
{
    const size_t n = c->shape->n_values, coords = axes_entropy_values(c);
    return n > coords ? n : coords;
}

static size_t klt_scratch(const struct codec_inst *c)
{
    const struct axes_sizes s = axes_sizes(c);
    return axes_bytes(c, true) + SCRATCH_ROUND(c->shape->n_values) +
           SCRATCH_ROUND(s.squares * sizeof(float)) +
           SCRATCH_ROUND(s.rows * sizeof(struct klt_means)) +
           SCRATCH_ROUND(LEVELS * sizeof(struct klt_cost)) +
           SCRATCH_ROUND(LEVELS * 256 * sizeof(uint64_t)) + entropy_scratch(entropy_values(c));
}

static size_t klt_decode_scratch(const struct codec_inst *c)
{
    return axes_bytes(c, false) + SCRATCH_ROUND(c->shape->n_values) +
           entropy_get_scratch(entropy_values(c));
}

static void lay_plan(struct plan *p, const struct codec_inst *c, bool encoder, void **scratch)
{
    const struct axes_sizes s = axes_sizes(c);
    *p = (struct plan){.c = c, .o = c->opt};
    axes_lay(&p->ax, c, encoder, scratch);
    p->ax.basis = p->o->basis;
    p->ax.keep = p->o->keep;
    p->ax.gamma16 = (int)(p->o->gamma * 16 + 0.5);
    p->round = 0.5f - (float)p->o->dead;
    p->codes = scratch_take(scratch, c->shape->n_values);
    if (encoder) {
        p->mix = scratch_take(scratch, s.squares * sizeof *p->mix);
        p->means = scratch_take(scratch, s.rows * sizeof *p->means);
        p->costs = scratch_take(scratch, LEVELS * sizeof *p->costs);
        p->count = scratch_take(scratch, LEVELS * sizeof *p->count);
    }
}

static void each_matrix(struct plan *p, void (*fn)(void *arg, uint32_t t))
{
    pool_each(p->c->shape->n_values, p->c->shape->n_tensors, fn, p);
}

// Such that no column's length is beyond the largest code, which bf16 may round down.
static double least_step(const struct plan *p)
{
    double column = 0;
    for (uint32_t t = 0; t < p->c->shape->n_tensors; t++)
        column = p->ax.m[t].column > column ? p->ax.m[t].column : column;
    return sqrt(column) / (KLT_MOST - 2);
}

// The one that the options say, of the root mean square.
static double usual_step(const struct plan *p)
{
    double sq = 0;
    for (uint32_t t = 0; t < p->c->shape->n_tensors; t++)
        sq += p->ax.m[t].sq;
    return p->o->step * sqrt(sq / (double)p->c->shape->n_values);
}

// As the message will have it; 0 where it would be lost in rounding.
static float rounded_step(const struct plan *p, double step)
{
    double least = least_step(p);
    step = step < least ? least : step < (double)CODEC_LIMIT ? step : (double)CODEC_LIMIT;
    float rounded = bf16_to_f32(bf16_from_f32((float)step));
    return rounded >= 0x1p-90f ? rounded : 0;
}

// Codes.

static void mix_matrix(const struct plan *p, const struct axes_matrix *m)
{
    for (int k = 0; k < m->kept; k++) {
        const float inv = 1 / axes_step(&p->ax, p->ax.dir[m->first + (size_t)k].level);
        const size_t at = m->square + (size_t)k * m->rows;
        for (size_t i = 0; i < m->rows; i++)
            p->mix[at + i] = p->ax.u[at + i] * inv;
        p->means[m->first + (size_t)k] = (struct klt_means){0};
    }
}

static void code_matrix(void *arg, uint32_t t)
{
    struct plan *p = arg;
    const struct axes_matrix *m = &p->ax.m[t];
    const float *x = p->ax.x + axes_tensor(&p->ax, t)->offset;
    float tile[KLT_ROWS * KLT_TILE], y[KLT_ROWS * KLT_TILE];
    mix_matrix(p, m);
    for (size_t at = 0; at < m->length && m->kept; at += KLT_TILE) {
        struct klt_tile own = axes_tile(m, at);
        klt_load(x, &own, 1, tile);
        klt_mix(p->mix + m->square, (size_t)m->kept, m->rows, tile, own.cols, y);
        for (int k = 0; k < m->kept; k++) {
            const struct axes_direction *d = &p->ax.dir[m->first + (size_t)k];
            struct klt_means *means = &p->means[m->first + (size_t)k];
            const float *row = y + k * KLT_TILE;
            uint8_t *to = p->codes + d->at + at;
            if (p->cost)
                klt_code_rd(row, own.cols, p->round, &p->cost[p->ax.class_of[d->level]], to, means);
            else
                klt_code(row, own.cols, p->round, to, means);
        }
    }
}

static void count_levels(struct plan *p)
{
    for (int l = p->ax.low; l <= p->ax.top; l++)
        pack_count_u8(p->codes + p->ax.from[l], p->ax.many[l], p->count[l]);
}

// Which levels share a table, so that tables and codes are fewest bytes: the best cut of the levels
// from the top down to each is the best one above it and one class more.
static void choose_classes(struct plan *p)
{
    double best[LEVELS + 1];
    int from[LEVELS];
    best[p->ax.top + 1] = 0;
    for (int low = p->ax.top; low >= p->ax.low; low--) {
        uint64_t sum[256] = {0};
        size_t n = 0;
        best[low] = INFINITY;
        for (int high = low; high <= p->ax.top; high++) {
            for (int s = 0; s < 256; s++)
                sum[s] += p->count[high][s];
            n += p->ax.many[high];
            double bytes = best[high + 1] + entropy_estimate_even(sum, n);
            if (bytes < best[low]) {
                best[low] = bytes;
                from[low] = high;
            }
        }
    }
    bool begins[LEVELS + 1] = {false};
    for (int low = p->ax.low; low <= p->ax.top; low = from[low] + 1)
        begins[from[low]] = true;
    p->ax.classes = 0;
    for (int l = p->ax.top; l >= p->ax.low; l--) {
        p->ax.classes += begins[l];
        p->ax.class_of[l] = (uint8_t)(p->ax.classes - 1);
    }
}

// The counts of a class's codes.
static size_t count_class(const struct plan *p, int class, uint64_t sum[256], size_t *from)
{
    size_t n = 0;
    memset(sum, 0, 256 * sizeof *sum);
    for (int l = p->ax.top; l >= p->ax.low; l--) {
        if (p->ax.class_of[l] != class)
            continue;
        *from = n ? *from : p->ax.from[l];
        n += p->ax.many[l];
        for (int s = 0; s < 256; s++)
            sum[s] += p->count[l][s];
    }
    return n;
}

// Centres and gains, sums in the order of the matrices.
static void fit_centres(struct plan *p)
{
    struct klt_means all = {0};
    double n[3] = {0}, levels = 0;
    for (uint32_t t = 0; t < p->c->shape->n_tensors; t++)
        for (int k = 0; k < p->ax.m[t].kept; k++) {
            const struct klt_means *s = &p->means[p->ax.m[t].first + (size_t)k];
            all.one += s->one;
            all.two += s->two;
            all.more += s->more;
        }
    for (int l = p->ax.low; l <= p->ax.top; l++)
        for (int m = 1; m <= KLT_MOST; m++) {
            double many = (double)(p->count[l][KLT_MOST - m] + p->count[l][KLT_MOST + m]);
            n[m < 3 ? m - 1 : 2] += many;
            levels += m < 3 ? 0 : m * many;
        }
    p->centre[0] = centre_code(all.one, n[0], n[0]);
    p->centre[1] = centre_code(all.two, n[1], 2 * n[1]);
    p->centre[2] = centre_code(all.more, n[2], levels);
}

// By how much a class's directions must be longer for codes to have, on their own values, the
// length of what they stand for.
static void fit_gains(struct plan *p)
{
    double sq[LEVELS] = {0}, met[LEVELS] = {0};
    for (uint32_t t = 0; t < p->c->shape->n_tensors; t++)
        for (int k = 0; k < p->ax.m[t].kept; k++) {
            const size_t at = p->ax.m[t].first + (size_t)k;
            const struct klt_means *s = &p->means[at];
            const int level = p->ax.dir[at].level;
            const double step = (double)axes_step(&p->ax, level);
            sq[p->ax.class_of[level]] += p->ax.dir[at].sq / (step * step);
            met[p->ax.class_of[level]] += s->one * (1 + (double)centre_worth(p->centre[0])) +
                                          s->two * (2 + (double)centre_worth(p->centre[1])) +
                                          s->by + s->more * (double)centre_worth(p->centre[2]);
        }
    for (int c = 0; c < p->ax.classes; c++) {
        double g = met[c] > 0 ? 8 * p->o->unbiased * fmath_log(sq[c] / met[c]) / fmath_log(2) : 0;
        p->gain[c] = (uint8_t)(g < 0 ? 0 : g > GAIN_MOST ? GAIN_MOST : g + 0.5);
    }
}

// What codes cost, by what has been made of them without a thought to it.
static void fit_costs(struct plan *p)
{
    for (int c = 0; c < p->ax.classes; c++) {
        uint64_t sum[256];
        uint16_t freq[256];
        size_t from = 0, n = count_class(p, c, sum, &from);
        struct klt_cost *k = &p->cost[c];
        memset(k, 0, sizeof *k);
        for (int m = 1; m < 4; m++)
            k->off[m] = centre_worth(p->centre[m - 1]);
        if (sum[KLT_MOST] == n)
            continue;
        entropy_even(sum, freq);
        for (int m = 0; m <= KLT_MOST; m++) {
            double share = freq[KLT_MOST + m] ? freq[KLT_MOST + m] : 0.5;
            double bits = RANS_PROB_BITS - fmath_log(share) / fmath_log(2);
            k->cost[m] = (float)(p->o->rdoq * bits);
        }
    }
}

// Writing.

static int put_head(struct plan *p, struct msg_out *o)
{
    uint8_t *at = msg_take(o, PART_SCALES, 3);
    if (!at)
        return -1;
    memcpy(at, p->centre, 3);
    if (axes_put_levels(&p->ax, o))
        return -1;
    if (p->o->unbiased > 0) {
        at = msg_take(o, PART_SCALES, (size_t)p->ax.classes);
        if (!at)
            return -1;
        memcpy(at, p->gain, (size_t)p->ax.classes);
    }
    return 0;
}

static int put_classes(const struct plan *p, struct msg_out *o, void *scratch)
{
    for (int c = 0; c < p->ax.classes; c++) {
        uint64_t sum[256];
        size_t from = 0, n = count_class(p, c, sum, &from);
        if (entropy_put_even(o, PART_VALUES, p->codes + from, n, sum, scratch))
            return -1;
    }
    return 0;
}

static size_t klt_bound(const struct codec_inst *c)
{
    size_t n = c->shape->n_values;
    return 1 + 2 + 3 + LEVELS + axes_bound(c) + LEVELS * 16 + n + n / 1024;
}

static size_t choose_codes(struct plan *p)
{
    p->cost = NULL;
    size_t n = axes_lay_codes(&p->ax);
    if (n == 0)
        return 0;
    each_matrix(p, code_matrix);
    count_levels(p);
    choose_classes(p);
    fit_centres(p);
    if (p->o->rdoq > 0) {
        p->cost = p->costs;
        fit_costs(p);
        each_matrix(p, code_matrix);
        count_levels(p);
        fit_centres(p);
    }
    if (p->o->unbiased > 0)
        fit_gains(p);
    return n;
}

// The message at a step; -1: no room.
static int64_t write_at(struct plan *p, double step, struct msg_out o, struct laps *laps,
                        void *scratch)
{
    axes_cut(&p->ax, rounded_step(p, step));
    size_t n = p->ax.unit > 0 ? choose_codes(p) : 0;
    lap(laps, STAGE_QUANTISE);
    o.report->parts = (struct codec_parts){0};
    uint8_t *at = msg_put_header(&o, 0) ? NULL : msg_take(&o, PART_SCALES, 2);
    if (!at)
        return -1;
    put_u16(at, bf16_from_f32(n ? p->ax.unit : 0));
    if (n && (put_head(p, &o) || axes_put_directions(&p->ax, &o, scratch) ||
              put_classes(p, &o, scratch)))
        return -1;
    lap(laps, STAGE_ENTROPY);
    o.report->kept[record_width_of[0]] = (int64_t)(p->c->shape->n_values - n);
    o.report->kept[record_width_of[8]] = (int64_t)n;
    return msg_len(&o);
}

// The finest of the steps that are sixteenths of an octave apart whose message keeps to the budget.
#define FINER   16
#define OCTAVES 14
static double step_within(struct plan *p, int64_t budget, struct msg_out o, void *scratch)
{
    const double least = least_step(p) > 0x1p-89 ? least_step(p) : 0x1p-89;
    int low = -1, high = FINER * OCTAVES;
    while (high - low > 1) {
        int mid = low + (high - low) / 2;
        int64_t len = write_at(p, least * axes_power(2 * mid), o, NULL, scratch);
        if (len >= 0 && len <= budget)
            high = mid;
        else
            low = mid;
    }
    return least * axes_power(2 * high);
}

static int64_t klt_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                          size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    struct plan p;
    struct msg_out o;
    lay_plan(&p, c, true, &scratch);
    msg_init(&o, out, cap, report);
    axes_find(&p.ax, in->x);
    if (p.ax.bad)
        return codec_bad_input(c, in->x, in->on, err);
    double step =
        in->budget_bytes >= 0 ? step_within(&p, in->budget_bytes, o, scratch) : usual_step(&p);
    int64_t len = write_at(&p, step, o, in->laps, scratch);
    return len < 0 ? msg_full(&o, err) : len;
}

// Reading.

static int get_head(struct plan *p, struct msg_in *m, struct err *err)
{
    const uint8_t *at = msg_need(m, 3);
    if (!at)
        return msg_short("scales", err);
    memcpy(p->centre, at, 3);
    if (axes_get_levels(&p->ax, m, err))
        return -1;
    if (p->o->unbiased > 0) {
        at = msg_need(m, (size_t)p->ax.classes);
        if (!at)
            return msg_short("scales", err);
        for (int c = 0; c < p->ax.classes; c++) {
            p->gain[c] = at[c];
            if (at[c] > GAIN_MOST)
                return msg_bad("scales", "a gain is out of range", err);
        }
    }
    return 0;
}

static int get_classes(struct plan *p, struct msg_in *m, void *scratch, struct err *err)
{
    for (int c = 0; c < p->ax.classes; c++) {
        size_t from = 0, n = 0;
        for (int l = p->ax.top; l >= p->ax.low; l--)
            if (p->ax.class_of[l] == c) {
                from = n ? from : p->ax.from[l];
                n += p->ax.many[l];
            }
        if (entropy_get_even(m, p->codes + from, n, scratch, err))
            return -1;
    }
    return 0;
}

struct give_job {
    struct plan *p;
    struct quant_sink to;
};

// What a matrix's codes are worth.
static void value_codes(const struct plan *p, const struct axes_matrix *m, struct klt_worth *worth)
{
    for (int k = 0; k < m->kept; k++) {
        const int level = p->ax.dir[m->first + (size_t)k].level;
        float step = axes_step(&p->ax, level);
        if (p->o->unbiased > 0)
            step *= (float)axes_power(4 * p->gain[p->ax.class_of[level]]);
        worth[k] = (struct klt_worth){step, centre_worth(p->centre[0]) * step,
                                      centre_worth(p->centre[1]) * step,
                                      centre_worth(p->centre[2]) * step};
    }
}

static void give_matrix(void *arg, uint32_t t)
{
    const struct give_job *j = arg;
    const struct plan *p = j->p;
    const struct axes_matrix *m = &p->ax.m[t];
    const struct quant_sink to = quant_sink_at(j->to, axes_tensor(&p->ax, t)->offset);
    float mix[KLT_ROWS * KLT_ROWS], v[KLT_ROWS * KLT_TILE], tile[KLT_ROWS * KLT_TILE];
    struct klt_worth worth[KLT_ROWS];
    if (m->kept == 0) {
        if (!to.add)
            memset(to.to, 0, m->rows * m->length * sizeof *to.to);
        return;
    }
    axes_columns(&p->ax, m, mix);
    value_codes(p, m, worth);
    for (size_t at = 0; at < m->length; at += KLT_TILE) {
        struct klt_tile own = axes_tile(m, at);
        for (int k = 0; k < m->kept; k++) {
            float *row = v + k * KLT_TILE;
            klt_give(p->codes + p->ax.dir[m->first + (size_t)k].at + at, own.cols, &worth[k], row);
            memset(row + own.cols, 0, (KLT_TILE - own.cols) * sizeof *row);
        }
        klt_mix(mix, m->rows, (size_t)m->kept, v, own.cols, tile);
        klt_store(tile, &own, to);
    }
}

static int klt_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                      size_t len, struct codec_output to, void *scratch, struct err *err)
{
    struct plan p;
    struct msg_in m;
    (void)key;
    lay_plan(&p, c, false, &scratch);
    if (msg_open_plain(&m, in, len, err))
        return -1;
    const uint8_t *step = msg_need(&m, 2);
    if (!step)
        return msg_short("scales", err);
    p.ax.unit = bf16_to_f32(get_u16(step));
    if (!(p.ax.unit >= 0 && p.ax.unit < 2 * CODEC_LIMIT))
        return msg_bad("scales", "the step is below 0, not finite, or too large", err);
    if (p.ax.unit > 0) {
        if (get_head(&p, &m, err) || axes_get_directions(&p.ax, &m, scratch, err))
            return -1;
        axes_lay_codes(&p.ax);
        if (get_classes(&p, &m, scratch, err))
            return -1;
    }
    if (msg_end(&m, err))
        return -1;
    struct give_job j = {&p, to.sink};
    pool_each(c->shape->n_values, c->shape->n_tensors, give_matrix, &j);
    return 0;
}

static int klt_check(const struct codec_inst *c, struct err *err)
{
    const struct klt_opt *o = c->opt;
    if (o->gamma * 16 != floor(o->gamma * 16))
        return err_set(err, "gamma=%g: give a multiple of 1/16", o->gamma);
    return 0;
}

const struct codec codec_klt = {
    .name = "klt",
    .help = "principal directions across the rank, one step, entropy-coded by energy; a matrix "
            "without a side of 64 or less, or not four times as long, is coded as it is",
    .source = "Karhunen 1947; Goyal 2001; Duda 2013",
    .options = klt_options,
    .n_options = ARRAY_LEN(klt_options),
    .option_bytes = sizeof(struct klt_opt),
    .flags = CODEC_SELF_CHECK | CODEC_BUDGET,
    .check = klt_check,
    .scratch_bytes = klt_scratch,
    .decode_scratch = klt_decode_scratch,
    .bound = klt_bound,
    .encode = klt_encode,
    .decode = klt_decode,
};
