// Fed-FSTQ's allocation over the coefficients along each matrix's principal directions (axes.h).
// An error e of a coefficient is an error u e of its column, so that of F it meets sum u^2 F.
//
// Message: header, flag 1 unless no direction is worth sending; levels and classes of directions,
// their coordinates; then a message as of an update whose tensors are the directions, class by
// class, the coefficients of those that are not sent being 0.
#include "codec/axes.h"
#include "codec/entropy.h"
#include "codec/fstq.h"
#include "codec/rows.h"

#include "base/fmath.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/pool.h"

#include <math.h>

#define SENT       (FSTQ_CLASSES - 1) // classes; the last is of what is not sent
#define KEEP       2.0 // energy a value of the weakest direction sent, in what is left out
#define BASIS      0.3 // step of coordinates
#define SIDE_MOST  0.2 // of a budget, for directions
#define EMPTY_MOST (1 + 3 * FSTQ_CLASSES)

struct turned {
    struct axes ax;
    struct codec_inst inner; // of the coefficients
    struct fstq_opt opt;
    struct shape shape;
    float *y;    // (n) in place of the values
    float *f;    // (n) F, or NULL
    float *grad; // (n) or NULL
    float *factor;
    const struct codec_input *in;
};

// A tensor a direction. Sizes are the same whatever is sent; classes are not known yet.
static void lay_shape(const struct codec_inst *c, struct shape *s, struct shape_tensor *tensors)
{
    *s = (struct shape){.n_values = c->shape->n_values, .tensors = tensors};
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        const struct shape_tensor *from = &c->shape->tensors[t];
        const struct axes_matrix m = axes_matrix_of(from);
        for (size_t k = 0; k < m.rows; k++)
            tensors[s->n_tensors++] = (struct shape_tensor){
                .rows = 1, .cols = (uint32_t)m.length, .offset = from->offset + k * m.length};
    }
}

static size_t shape_bytes(const struct codec_inst *c)
{
    return SCRATCH_ROUND(axes_sizes(c).rows * sizeof(struct shape_tensor));
}

// What a plain message of the coefficients takes.
static size_t of_inner(const struct codec_inst *c, size_t (*size)(const struct codec_inst *c))
{
    struct codec_inst inner = *c;
    struct shape s;
    struct shape_tensor *tensors = mem_alloc(MEM_CODEC, shape_bytes(c) + 1);
    lay_shape(c, &s, tensors);
    inner.shape = &s;
    const size_t bytes = size(&inner);
    mem_free(tensors);
    return bytes;
}

static size_t common_bytes(const struct codec_inst *c, bool encoder)
{
    return axes_bytes(c, encoder) + shape_bytes(c) + SCRATCH_ROUND(c->shape->n_values * 4);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t fstq_axes_scratch(const struct codec_inst *c)
{
    const size_t n = c->shape->n_values * sizeof(float);
    return common_bytes(c, true) + 2 * SCRATCH_ROUND(n) +
           SCRATCH_ROUND(c->shape->n_tensors * sizeof(float)) +
           SCRATCH_ROUND(c->shape->n_tensors * sizeof(double)) +
           SCRATCH_ROUND(axes_sizes(c).rows * sizeof(int64_t[RECORD_WIDTHS])) +
           larger(of_inner(c, fstq_plain_scratch), entropy_scratch(axes_entropy_values(c)));
}

size_t fstq_axes_decode_scratch(const struct codec_inst *c)
{
    return common_bytes(c, false) + larger(of_inner(c, fstq_plain_decode_scratch),
                                           entropy_get_scratch(axes_entropy_values(c)));
}

size_t fstq_axes_bound(const struct codec_inst *c)
{
    return 1 + axes_bound(c) + of_inner(c, fstq_plain_bound);
}

static void lay_turned(struct turned *t, const struct codec_inst *c, bool encoder, void **scratch)
{
    *t = (struct turned){.opt = *(const struct fstq_opt *)c->opt, .inner = *c};
    axes_lay(&t->ax, c, encoder, scratch);
    t->ax.basis = BASIS;
    lay_shape(c, &t->shape, scratch_take(scratch, shape_bytes(c)));
    t->y = scratch_take(scratch, c->shape->n_values * sizeof *t->y);
    t->opt.norm = NORM_NONE; // F is turned with its factors
    t->inner.opt = &t->opt;
    t->inner.shape = &t->shape;
}

// The classes of directions by the levels they have.
static void set_classes(struct turned *t)
{
    const struct axes *ax = &t->ax;
    for (uint32_t m = 0; m < ax->c->shape->n_tensors; m++)
        for (size_t k = 0; k < ax->m[m].rows; k++) {
            const size_t i = ax->m[m].first + k;
            const bool sent = k < (size_t)ax->m[m].kept;
            const int class = sent ? ax->class_of[ax->dir[i].level] : SENT;
            t->shape.tensors[i].kind = (uint32_t)(class + 1) % FSTQ_CLASSES;
        }
}

// Encoding.

// The factors that F is told apart by, matrix by matrix; -1 where it is not finite.
static int find_factors(struct turned *t, const struct bitalloc *a, double *sum, struct err *err)
{
    const struct alloc_rule rule = bitalloc_rule(a);
    const struct alloc_vectors v = {t->in->x, t->in->sens, t->in->grad};
    for (uint32_t i = 0; i < a->shape->n_tensors; i++) {
        const struct shape_tensor *of = &a->shape->tensors[i];
        const struct alloc_run run = {.at = of->offset, .n = (size_t)of->rows * of->cols};
        struct alloc_facts f;
        alloc_stages_cpu.look(NULL, &v, &rule, &run, 1, false, &f);
        if (t->f && f.sens_bits >= f32_bits(INFINITY))
            return err_set(err, "the sensitivities are not finite");
        if (t->grad && f.grad_bits >= f32_bits(INFINITY))
            return err_set(err, "the gradients are not finite");
        sum[i] = f.sens;
    }
    bitalloc_factors(a, sum, t->factor);
    return 0;
}

// Rows of `to` from a matrix of `from`, by so many rows of weights.
static void turn_vector(const struct turned *t, uint32_t i, const float *w, const float *from,
                        float *to)
{
    const struct axes_matrix *m = &t->ax.m[i];
    const size_t offset = axes_tensor(&t->ax, i)->offset, kept = (size_t)m->kept;
    float tile[KLT_ROWS * KLT_TILE], y[KLT_ROWS * KLT_TILE];
    const struct quant_sink sink = {to + offset, 1, false};
    for (size_t at = 0; at < m->length && kept; at += KLT_TILE) {
        struct klt_tile own = axes_tile(m, at);
        klt_load(from + offset, &own, 1, tile);
        klt_mix(w, kept, m->rows, tile, own.cols, y);
        own.rows = kept;
        own.turned = false;
        klt_store(y, &own, sink);
    }
    memset(to + offset + kept * m->length, 0, (m->rows - kept) * m->length * sizeof *to);
}

static void turn_matrix(void *arg, uint32_t i)
{
    const struct turned *t = arg;
    const struct axes_matrix *m = &t->ax.m[i];
    const float *u = t->ax.u + m->square;
    float squares[KLT_ROWS * KLT_ROWS];
    turn_vector(t, i, u, t->in->x, t->y);
    if (t->grad)
        turn_vector(t, i, u, t->in->grad, t->grad);
    if (!t->f)
        return;
    for (size_t k = 0; k < (size_t)m->kept * m->rows; k++)
        squares[k] = u[k] * u[k] * t->factor[i];
    turn_vector(t, i, squares, t->in->sens, t->f);
}

// The energy a value that a message of so many bits leaves out, by what Gaussians of the
// directions' energies need at least: it is the same along all directions that are sent, which are
// found by leaving out, in turn, those that have less.
static double left_out(const struct axes *ax, double bits)
{
    double left = 0;
    for (bool fewer = true; fewer;) {
        double logs = 0, n = 0, next;
        fewer = false;
        for (uint32_t t = 0; t < ax->c->shape->n_tensors; t++)
            for (int k = 0; k < ax->m[t].found; k++) {
                const double value = ax->dir[ax->m[t].first + (size_t)k].value;
                if (value <= left)
                    continue;
                logs += (double)ax->m[t].length * fmath_log(value);
                n += (double)ax->m[t].length;
            }
        if (n <= 0)
            break;
        next = fmath_exp((logs - 2 * FSTQ_LOG_2 * bits) / n);
        for (uint32_t t = 0; t < ax->c->shape->n_tensors; t++)
            for (int k = 0; k < ax->m[t].found; k++) {
                const double value = ax->dir[ax->m[t].first + (size_t)k].value;
                fewer |= value > left && value <= next;
            }
        left = next;
    }
    return left;
}

// What is left out at a unit to begin with: of few bits, not so much that no direction is sent.
static double first_unit(const struct axes *ax, int64_t budget)
{
    const double left = left_out(ax, budget < 0 ? 0 : 8 * (double)budget);
    double most = 0;
    for (uint32_t t = 0; t < ax->c->shape->n_tensors; t++)
        if (ax->m[t].found && ax->dir[ax->m[t].first].value > most)
            most = ax->dir[ax->m[t].first].value;
    return sqrt(left < most / (2 * KEEP) ? left : most / (2 * KEEP));
}

// Levels of like energy, the strongest first, until there is a seventh of all coefficients.
static void share_levels(struct axes *ax, size_t n)
{
    size_t have = 0;
    ax->classes = 1;
    for (int l = ax->top; l >= ax->low; l--) {
        if (have >= n / SENT && ax->classes < SENT) {
            ax->classes++;
            have = 0;
        }
        ax->class_of[l] = (uint8_t)(ax->classes - 1);
        have += ax->many[l];
    }
}

// All of a message but the coefficients. Directions are fewer where they would take too much of
// the budget; returns how many coefficients they have, or -1.
static int64_t put_axes(struct turned *t, int64_t budget, struct msg_out *o, void *scratch)
{
    const struct msg_out begin = *o;
    struct axes *ax = &t->ax;
    ax->keep = budget < 0 ? 0 : KEEP;
    for (double unit = first_unit(ax, budget);; unit *= 1.125) {
        *o = begin;
        o->report->parts = (struct codec_parts){0};
        axes_cut(ax, (float)(unit < (double)CODEC_LIMIT ? unit : (double)CODEC_LIMIT));
        const size_t n = axes_lay_codes(ax);
        if (msg_put_header(o, n > 0))
            return -1;
        if (n == 0)
            return 0;
        share_levels(ax, n);
        if (axes_put_levels(ax, o) || axes_put_directions(ax, o, scratch))
            return -1;
        if (budget < 0 ||
            ((double)msg_len(o) <= SIDE_MOST * (double)budget && msg_len(o) + EMPTY_MOST <= budget))
            return (int64_t)n;
    }
}

static void report_rows(const struct turned *t, int64_t (*of_row)[RECORD_WIDTHS],
                        int64_t (*by_tensor)[RECORD_WIDTHS])
{
    for (uint32_t i = 0; i < t->ax.c->shape->n_tensors; i++) {
        memset(by_tensor[i], 0, sizeof *by_tensor);
        for (size_t k = 0; k < t->ax.m[i].rows; k++)
            for (int w = 0; w < RECORD_WIDTHS; w++)
                by_tensor[i][w] += of_row[t->ax.m[i].first + k][w];
    }
}

// The coefficients behind o; or, of none, nothing.
static int64_t put_inner(struct turned *t, int64_t budget, struct msg_out *o, void *scratch,
                         int64_t (*of_row)[RECORD_WIDTHS], struct err *err)
{
    struct codec_report *report = o->report, sub = {.by_tensor = of_row};
    struct codec_input in = *t->in;
    const int64_t used = msg_len(o);
    in.x = t->y;
    in.sens = t->f;
    in.grad = t->grad;
    set_classes(t);
    pool_each(t->shape.n_values, t->ax.c->shape->n_tensors, turn_matrix, t);
    lap(in.laps, STAGE_QUANTISE);
    int64_t len = fstq_plain_encode(&t->inner, &in, budget < 0 ? -1 : budget - used, o->p,
                                    msg_room(o), scratch, &sub, err);
    if (len < 0)
        return len;
    msg_add_parts(&report->parts, &sub.parts);
    memcpy(report->kept, sub.kept, sizeof report->kept);
    if (report->by_tensor)
        report_rows(t, of_row, report->by_tensor);
    return used + len;
}

int64_t fstq_axes_encode(const struct codec_inst *c, const struct codec_input *in, int64_t budget,
                         uint8_t *out, size_t cap, void *scratch, struct codec_report *report,
                         struct err *err)
{
    const size_t n = c->shape->n_values, tensors = c->shape->n_tensors;
    struct turned t;
    struct bitalloc a;
    struct msg_out o;
    lay_turned(&t, c, true, &scratch);
    t.in = in;
    float *f = scratch_take(&scratch, n * sizeof *f), *grad = scratch_take(&scratch, n * sizeof *f);
    t.factor = scratch_take(&scratch, tensors * sizeof *t.factor);
    double *sum = scratch_take(&scratch, tensors * sizeof *sum);
    int64_t(*of_row)[RECORD_WIDTHS] = scratch_take(&scratch, t.shape.n_tensors * sizeof *of_row);
    if (fstq_read_plan(c, &a, err))
        return -1;
    t.f = bitalloc_needs_sens(&a) ? f : NULL;
    t.grad = bitalloc_needs_grad(&a) ? grad : NULL;
    if ((t.f && !in->sens) || (t.grad && !in->grad))
        return err_set(err, "this importance needs %s, and there are none",
                       t.f ? "the sensitivities" : "the gradients");
    axes_find(&t.ax, in->x);
    if (t.ax.bad)
        return codec_bad_input(c, in->x, in->on, err);
    if (find_factors(&t, &a, sum, err))
        return -1;
    msg_init(&o, out, cap, report);
    memset(report->kept, 0, sizeof report->kept);
    int64_t coded = put_axes(&t, budget, &o, scratch);
    if (coded < 0)
        return msg_full(&o, err);
    if (coded > 0)
        return put_inner(&t, budget, &o, scratch, of_row, err);
    report->kept[record_width_of[0]] = (int64_t)n;
    return msg_len(&o);
}

// Decoding.

struct give_job {
    const struct turned *t;
    struct quant_sink to;
};

static void give_matrix(void *arg, uint32_t i)
{
    const struct give_job *j = arg;
    const struct turned *t = j->t;
    const struct axes_matrix *m = &t->ax.m[i];
    const size_t offset = axes_tensor(&t->ax, i)->offset;
    const struct quant_sink to = quant_sink_at(j->to, offset);
    float mix[KLT_ROWS * KLT_ROWS], y[KLT_ROWS * KLT_TILE], tile[KLT_ROWS * KLT_TILE];
    if (m->kept == 0) {
        if (!to.add)
            memset(to.to, 0, m->rows * m->length * sizeof *to.to);
        return;
    }
    axes_columns(&t->ax, m, mix);
    for (size_t at = 0; at < m->length; at += KLT_TILE) {
        struct klt_tile own = axes_tile(m, at), rows = own;
        rows.rows = (size_t)m->kept;
        rows.turned = false;
        klt_load(t->y + offset, &rows, 1, y);
        klt_mix(mix, m->rows, (size_t)m->kept, y, own.cols, tile);
        klt_store(tile, &own, to);
    }
}

static int get_axes(struct axes *ax, struct msg_in *m, void *scratch, struct err *err)
{
    if (axes_get_levels(ax, m, err))
        return -1;
    if (ax->classes > SENT)
        return msg_bad("directory", "too many classes of directions", err);
    return axes_get_directions(ax, m, scratch, err);
}

int fstq_axes_decode(const struct codec_inst *c, const uint8_t *in, size_t len,
                     struct codec_output to, void *scratch, struct err *err)
{
    struct turned t;
    struct msg_in m;
    struct fstq_work w;
    unsigned flags;
    lay_turned(&t, c, false, &scratch);
    if (msg_open(&m, in, len, &flags, err))
        return -1;
    if (flags > 1)
        return msg_bad("header", "unknown flags", err);
    if (flags == 0 ? msg_end(&m, err) : get_axes(&t.ax, &m, scratch, err))
        return -1;
    set_classes(&t);
    if (flags && fstq_plain_read(&t.inner, NULL, &w, m.p, (size_t)(m.end - m.p), scratch, err))
        return -1;
    if (flags)
        fstq_give(&w, (struct quant_sink){t.y, 1, false});
    struct give_job j = {&t, to.sink};
    pool_each(c->shape->n_values, c->shape->n_tensors, give_matrix, &j);
    return 0;
}
