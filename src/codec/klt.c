// klt: the rows of A (and of B^T) are few and far from equal in energy, so each matrix is turned
// into its own principal directions first: a Karhunen-Loeve transform across the rank, sent with
// the message. One step for all coefficients; they are entropy-coded in classes of directions of
// like energy.
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
#include "codec/basis.h"
#include "codec/bits.h"
#include "codec/centre.h"
#include "codec/entropy.h"
#include "codec/message.h"
#include "codec/rows.h"

#include <math.h>
#include <string.h>

#define LEVELS    32 // of a direction's energy a value, in octaves of the square of the step
#define LEVEL_0   12 // from one square of the step on
#define GAIN_MOST 40 // eighths of an octave
#define SHORT     4  // a matrix is turned if it is so many times as long as it has rows

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

struct matrix {
    size_t rows, length; // length 0: nothing to send
    bool turned;         // (length, rows) in memory
    size_t gram;         // where its (rows, rows) numbers lie
    size_t coord;        // its coordinates, (rows + 1) rows / 2
    size_t first;        // direction
    int kept;            // directions
    double sq, column;   // sums of squares: of all values, the most of a column
};

struct direction {
    uint8_t level;
    size_t at; // of its codes
    double sq; // its energy in squares of its step
    struct klt_means means;
};

struct plan {
    const struct codec_inst *c;
    const struct klt_opt *o;
    const float *x;
    struct matrix *m;      // (n_tensors)
    struct direction *dir; // (rows of all)
    double *gram;          // products of rows; unused by a decoder
    float *mix;            // rows of this: directions over their steps
    int8_t *coord;         // of directions, in steps
    uint8_t *codes;        // (n)
    uint8_t *magnitude;    // of coordinates
    size_t coords;
    float step, round;
    size_t from[LEVELS + 1]; // codes of level l: [from[l], from[l] + many[l])
    size_t many[LEVELS];
    int top, low; // levels that occur; low > top: none
    uint8_t class_of[LEVELS];
    int classes;
    uint8_t centre[3], gain[LEVELS];
    uint64_t (*count)[256];        // (LEVELS) of codes
    struct klt_cost *costs, *cost; // (LEVELS); cost: NULL = the nearest codes
    _Atomic bool bad;
};

// Matrices.

static struct matrix matrix_of(const struct shape_tensor *t)
{
    size_t n = (size_t)t->rows * t->cols;
    size_t rows = t->rows < t->cols ? t->rows : t->cols;
    if (n == 0 || rows > KLT_ROWS || rows * rows * SHORT > n)
        return (struct matrix){.rows = 1, .length = n};
    return (struct matrix){.rows = rows, .length = n / rows, .turned = t->rows > t->cols};
}

struct sizes {
    size_t rows, squares, coords;
};

static struct sizes sizes_of(const struct codec_inst *c, struct matrix *m)
{
    struct sizes s = {0};
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        struct matrix one = matrix_of(&c->shape->tensors[t]);
        one.first = s.rows;
        one.gram = s.squares;
        one.coord = s.coords;
        if (m)
            m[t] = one;
        s.rows += one.rows;
        s.squares += one.rows * one.rows;
        s.coords += one.rows * (one.rows + 1) / 2;
    }
    return s;
}

static size_t plan_bytes(const struct codec_inst *c, bool encoder)
{
    struct sizes s = sizes_of(c, NULL);
    size_t n = c->shape->n_values, both = n > s.coords ? n : s.coords;
    size_t own = SCRATCH_ROUND(c->shape->n_tensors * sizeof(struct matrix)) +
                 SCRATCH_ROUND(s.rows * sizeof(struct direction)) + 2 * SCRATCH_ROUND(s.coords) +
                 SCRATCH_ROUND(n);
    if (!encoder)
        return own + entropy_get_scratch(both);
    return own + SCRATCH_ROUND(s.squares * sizeof(double)) +
           SCRATCH_ROUND(s.squares * sizeof(float)) +
           SCRATCH_ROUND(LEVELS * sizeof(struct klt_cost)) +
           SCRATCH_ROUND(LEVELS * 256 * sizeof(uint64_t)) + entropy_scratch(both);
}

static size_t klt_scratch(const struct codec_inst *c)
{
    return plan_bytes(c, true);
}

static size_t klt_decode_scratch(const struct codec_inst *c)
{
    return plan_bytes(c, false);
}

static void lay_plan(struct plan *p, const struct codec_inst *c, bool encoder, void **scratch)
{
    struct sizes s = sizes_of(c, NULL);
    *p = (struct plan){.c = c, .o = c->opt, .low = 1};
    p->round = 0.5f - (float)p->o->dead;
    p->m = scratch_take(scratch, c->shape->n_tensors * sizeof *p->m);
    p->dir = scratch_take(scratch, s.rows * sizeof *p->dir);
    p->coord = scratch_take(scratch, s.coords);
    p->magnitude = scratch_take(scratch, s.coords);
    p->codes = scratch_take(scratch, c->shape->n_values);
    if (encoder) {
        p->gram = scratch_take(scratch, s.squares * sizeof *p->gram);
        p->mix = scratch_take(scratch, s.squares * sizeof *p->mix);
    }
    sizes_of(c, p->m);
}

static struct klt_tile tile_of(const struct matrix *m, size_t at)
{
    size_t left = m->length - at;
    return (struct klt_tile){m->rows, m->length, at, left < KLT_TILE ? left : KLT_TILE, m->turned};
}

static const struct shape_tensor *tensor_of(const struct plan *p, uint32_t t)
{
    return &p->c->shape->tensors[t];
}

static void each_matrix(struct plan *p, void (*fn)(void *arg, uint32_t t))
{
    pool_each(p->c->shape->n_values, p->c->shape->n_tensors, fn, p);
}

// Levels and steps.

// 2^(k / 32), by square roots only.
static double power(int k)
{
    double root = 2, v = 1;
    int whole = k >= 0 ? k / 32 : -((31 - k) / 32), rest = k - 32 * whole;
    for (int bit = 16; bit > 0; bit /= 2) {
        root = sqrt(root);
        v *= rest & bit ? root : 1;
    }
    return ldexp(v, whole);
}

// Of an energy a value, in squares of the step.
static int level_of(double energy)
{
    int octave;
    if (!(energy > 0))
        return 0;
    frexp(energy, &octave);
    octave += LEVEL_0 - 1;
    return octave < 0 ? 0 : octave >= LEVELS ? LEVELS - 1 : octave;
}

// Of a direction: the message's, times its root mean square in steps to the power gamma.
static float step_of(const struct plan *p, int level)
{
    int gamma16 = (int)(p->o->gamma * 16 + 0.5);
    return gamma16 ? (float)((double)p->step * power(gamma16 * (level - LEVEL_0))) : p->step;
}

// Measuring.

static void measure_matrix(void *arg, uint32_t t)
{
    struct plan *p = arg;
    struct matrix *m = &p->m[t];
    const float *x = p->x + tensor_of(p, t)->offset;
    double *g = p->gram + m->gram;
    float tile[KLT_ROWS * KLT_TILE], column = 0;
    uint32_t bits = quant_absmax_bits(x, m->rows * m->length);
    memset(g, 0, m->rows * m->rows * sizeof *g);
    if (!(f32_from_bits(bits) < CODEC_LIMIT))
        p->bad = true;
    if (bits == 0 || p->bad)
        return;
    // Products are of values below 1.
    int e = (int)(bits >> 23) - 126;
    e = e < -120 ? -120 : e;
    const float scale = f32_from_bits((uint32_t)(127 - e) << 23);
    for (size_t at = 0; at < m->length; at += KLT_TILE) {
        struct klt_tile own = tile_of(m, at);
        klt_load(x, &own, scale, tile);
        klt_gram(tile, m->rows, own.cols, g);
        float most = klt_column(tile, m->rows, own.cols);
        column = most > column ? most : column;
    }
    for (size_t i = 0; i < m->rows * m->rows; i++)
        g[i] = ldexp(g[i], 2 * e);
    for (size_t i = 0; i < m->rows; i++)
        m->sq += g[i * (m->rows + 1)];
    m->column = ldexp((double)column, 2 * e);
}

// Such that no column's length is beyond the largest code, which bf16 may round down.
static double least_step(const struct plan *p)
{
    double column = 0;
    for (uint32_t t = 0; t < p->c->shape->n_tensors; t++)
        column = p->m[t].column > column ? p->m[t].column : column;
    return sqrt(column) / (KLT_MOST - 2);
}

// The one that the options say, of the root mean square.
static double usual_step(const struct plan *p)
{
    double sq = 0;
    for (uint32_t t = 0; t < p->c->shape->n_tensors; t++)
        sq += p->m[t].sq;
    return p->o->step * sqrt(sq / (double)p->c->shape->n_values);
}

static void set_step(struct plan *p, double step)
{
    double least = least_step(p);
    step = step < least ? least : step < (double)CODEC_LIMIT ? step : (double)CODEC_LIMIT;
    float rounded = bf16_to_f32(bf16_from_f32((float)step));
    p->step = rounded >= 0x1p-90f ? rounded : 0;
    for (uint32_t t = 0; t < p->c->shape->n_tensors; t++)
        p->m[t].kept = 0;
}

// Directions.

static double energy_along(const double *g, size_t rows, const double *u)
{
    double sum = 0;
    for (size_t i = 0; i < rows; i++) {
        double row = g[i * rows + i] * u[i] / 2;
        for (size_t j = i + 1; j < rows; j++)
            row += g[i * rows + j] * u[j];
        sum += 2 * row * u[i];
    }
    return sum;
}

// The next direction of a matrix, of which u (rows) is what the receiver will make of it.
static void add_direction(struct plan *p, struct matrix *m, const double *u, double sq)
{
    struct direction *d = &p->dir[m->first + (size_t)m->kept];
    const double unit = (double)p->step * (double)p->step * (double)m->length;
    int level = level_of(sq / unit);
    if (m->kept && level > d[-1].level)
        level = d[-1].level;
    const float step = step_of(p, level), inv = 1 / step;
    *d = (struct direction){.level = (uint8_t)level, .sq = sq / ((double)step * (double)step)};
    float *mix = p->mix + m->gram + (size_t)m->kept++ * m->rows;
    for (size_t i = 0; i < m->rows; i++)
        mix[i] = (float)u[i] * inv;
}

static void choose_directions(void *arg, uint32_t t)
{
    struct plan *p = arg;
    struct matrix *m = &p->m[t];
    struct basis b;
    const double *g = p->gram + m->gram, unit = (double)p->step * (double)p->step;
    double v[KLT_ROWS * KLT_ROWS], value[KLT_ROWS], u[KLT_ROWS];
    int8_t *coord = p->coord + m->coord;
    if (m->length == 0 || m->sq <= 0)
        return;
    basis_eigen(g, (int)m->rows, v, value);
    basis_begin(&b, (int)m->rows);
    for (size_t k = 0; k < m->rows; k++) {
        int q[KLT_ROWS] = {1}, n = basis_left(&b);
        double a_value = value[k] / (double)m->length;
        float step = step_of(p, level_of(a_value / unit));
        if (a_value <= p->o->keep * (double)step * (double)step)
            break;
        if (n > 1)
            basis_round(&b, v + k * m->rows, p->o->basis, q);
        for (int i = 0; i < n; i++)
            *coord++ = (int8_t)q[i];
        basis_take(&b, q, u);
        add_direction(p, m, u, energy_along(g, m->rows, u));
    }
}

// Codes lie by level, the highest first, then matrix by matrix. Returns how many there are.
static size_t lay_codes(struct plan *p)
{
    size_t n = 0;
    p->top = 0;
    p->low = LEVELS;
    for (int level = LEVELS - 1; level >= 0; level--) {
        p->from[level] = n;
        for (uint32_t t = 0; t < p->c->shape->n_tensors; t++)
            for (int k = 0; k < p->m[t].kept; k++) {
                struct direction *d = &p->dir[p->m[t].first + (size_t)k];
                if (d->level != level)
                    continue;
                d->at = n;
                n += p->m[t].length;
                p->top = level > p->top ? level : p->top;
                p->low = level;
            }
        p->many[level] = n - p->from[level];
    }
    return n;
}

// Codes.

static void code_matrix(void *arg, uint32_t t)
{
    struct plan *p = arg;
    const struct matrix *m = &p->m[t];
    const float *x = p->x + tensor_of(p, t)->offset;
    float tile[KLT_ROWS * KLT_TILE], y[KLT_ROWS * KLT_TILE];
    for (int k = 0; k < m->kept; k++)
        p->dir[m->first + (size_t)k].means = (struct klt_means){0};
    for (size_t at = 0; at < m->length && m->kept; at += KLT_TILE) {
        struct klt_tile own = tile_of(m, at);
        klt_load(x, &own, 1, tile);
        klt_mix(p->mix + m->gram, (size_t)m->kept, m->rows, tile, own.cols, y);
        for (int k = 0; k < m->kept; k++) {
            struct direction *d = &p->dir[m->first + (size_t)k];
            const float *row = y + k * KLT_TILE;
            uint8_t *to = p->codes + d->at + at;
            if (p->cost)
                klt_code_rd(row, own.cols, p->round, &p->cost[p->class_of[d->level]], to,
                            &d->means);
            else
                klt_code(row, own.cols, p->round, to, &d->means);
        }
    }
}

static void count_levels(struct plan *p)
{
    for (int l = p->low; l <= p->top; l++)
        pack_count_u8(p->codes + p->from[l], p->many[l], p->count[l]);
}

// Which levels share a table, so that tables and codes are fewest bytes: the best cut of the levels
// from the top down to each is the best one above it and one class more.
static void choose_classes(struct plan *p)
{
    double best[LEVELS + 1];
    int from[LEVELS];
    best[p->top + 1] = 0;
    for (int low = p->top; low >= p->low; low--) {
        uint64_t sum[256] = {0};
        size_t n = 0;
        best[low] = INFINITY;
        for (int high = low; high <= p->top; high++) {
            for (int s = 0; s < 256; s++)
                sum[s] += p->count[high][s];
            n += p->many[high];
            double bytes = best[high + 1] + entropy_estimate_even(sum, n);
            if (bytes < best[low]) {
                best[low] = bytes;
                from[low] = high;
            }
        }
    }
    bool begins[LEVELS + 1] = {false};
    for (int low = p->low; low <= p->top; low = from[low] + 1)
        begins[from[low]] = true;
    p->classes = 0;
    for (int l = p->top; l >= p->low; l--) {
        p->classes += begins[l];
        p->class_of[l] = (uint8_t)(p->classes - 1);
    }
}

// The counts of a class's codes.
static size_t count_class(const struct plan *p, int class, uint64_t sum[256], size_t *from)
{
    size_t n = 0;
    memset(sum, 0, 256 * sizeof *sum);
    for (int l = p->top; l >= p->low; l--) {
        if (p->class_of[l] != class)
            continue;
        *from = n ? *from : p->from[l];
        n += p->many[l];
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
        for (int k = 0; k < p->m[t].kept; k++) {
            const struct klt_means *s = &p->dir[p->m[t].first + (size_t)k].means;
            all.one += s->one;
            all.two += s->two;
            all.more += s->more;
        }
    for (int l = p->low; l <= p->top; l++)
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
        for (int k = 0; k < p->m[t].kept; k++) {
            const struct direction *d = &p->dir[p->m[t].first + (size_t)k];
            const struct klt_means *s = &d->means;
            sq[p->class_of[d->level]] += d->sq;
            met[p->class_of[d->level]] += s->one * (1 + (double)centre_worth(p->centre[0])) +
                                          s->two * (2 + (double)centre_worth(p->centre[1])) +
                                          s->by + s->more * (double)centre_worth(p->centre[2]);
        }
    for (int c = 0; c < p->classes; c++) {
        double g = met[c] > 0 ? 8 * p->o->unbiased * fmath_log(sq[c] / met[c]) / fmath_log(2) : 0;
        p->gain[c] = (uint8_t)(g < 0 ? 0 : g > GAIN_MOST ? GAIN_MOST : g + 0.5);
    }
}

// What codes cost, by what has been made of them without a thought to it.
static void fit_costs(struct plan *p)
{
    for (int c = 0; c < p->classes; c++) {
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

static void put_bits(const struct plan *p, struct bits_out *b)
{
    for (uint32_t t = 0; t < p->c->shape->n_tensors; t++) {
        int k = 0;
        for (int l = p->top; l >= p->low && p->m[t].length; l--) {
            for (; k < p->m[t].kept && p->dir[p->m[t].first + (size_t)k].level == l; k++)
                bits_put(b, 1, 1);
            if (k < (int)p->m[t].rows)
                bits_put(b, 0, 1);
            else
                break;
        }
    }
    for (int l = p->top - 1; l >= p->low; l--)
        bits_put(b, p->class_of[l] != p->class_of[l + 1], 1);
}

// Visits every coordinate that is sent, in order.
struct coord_walk {
    const struct plan *p;
    uint32_t t;
    int k, i;     // direction, coordinate
    bool nonzero; // one before it in its direction is not 0
    size_t at;
};

static int8_t *next_coord(struct coord_walk *w)
{
    for (; w->t < w->p->c->shape->n_tensors; w->t++, w->k = 0) {
        const struct matrix *m = &w->p->m[w->t];
        for (; w->k < m->kept; w->k++, w->i = 0) {
            int n = (int)m->rows - w->k;
            if (w->k == 0 && w->i == 0)
                w->at = m->coord;
            if (w->i == 0)
                w->nonzero = false;
            if (w->i < n && n > 1) {
                w->i++;
                return w->p->coord + w->at++;
            }
            w->at += n == 1;
        }
    }
    return NULL;
}

static int put_directions(struct plan *p, struct msg_out *o, void *scratch)
{
    struct coord_walk w = {.p = p};
    struct bits_out b;
    const unsigned kinds = (unsigned)(1 / p->o->basis + 0.5) + 1;
    size_t n = 0;
    for (int8_t *q; (q = next_coord(&w)) != NULL;)
        p->magnitude[n++] = (uint8_t)(*q < 0 ? -*q : *q);
    if (entropy_put(o, PART_TAGS, p->magnitude, n, kinds, scratch))
        return -1;
    bits_out_init(&b, o->p, msg_room(o));
    w = (struct coord_walk){.p = p};
    for (int8_t *q; (q = next_coord(&w)) != NULL;) {
        if (*q && w.nonzero)
            bits_put(&b, *q < 0, 1);
        w.nonzero |= *q != 0;
    }
    size_t len = bits_out_end(&b);
    return b.full || !msg_take(o, PART_TAGS, len) ? -1 : 0;
}

static int put_head(struct plan *p, struct msg_out *o)
{
    struct bits_out b;
    uint8_t *at = msg_take(o, PART_SCALES, 3);
    if (!at)
        return -1;
    memcpy(at, p->centre, 3);
    at = msg_take(o, PART_DIRECTORY, 2);
    if (!at)
        return -1;
    at[0] = (uint8_t)p->top;
    at[1] = (uint8_t)p->low;
    bits_out_init(&b, o->p, msg_room(o));
    put_bits(p, &b);
    size_t len = bits_out_end(&b);
    if (b.full || !msg_take(o, PART_DIRECTORY, len))
        return -1;
    if (p->o->unbiased > 0) {
        at = msg_take(o, PART_SCALES, (size_t)p->classes);
        if (!at)
            return -1;
        memcpy(at, p->gain, (size_t)p->classes);
    }
    return 0;
}

static int put_classes(const struct plan *p, struct msg_out *o, void *scratch)
{
    for (int c = 0; c < p->classes; c++) {
        uint64_t sum[256];
        size_t from = 0, n = count_class(p, c, sum, &from);
        if (entropy_put_even(o, PART_VALUES, p->codes + from, n, sum, scratch))
            return -1;
    }
    return 0;
}

static size_t klt_bound(const struct codec_inst *c)
{
    struct sizes s = sizes_of(c, NULL);
    size_t n = c->shape->n_values;
    return 1 + 2 + 3 + 2 + LEVELS + (c->shape->n_tensors * LEVELS + s.rows + LEVELS + 7) / 8 +
           entropy_bound(s.coords, 21) + s.coords / 8 + 1 + LEVELS * 16 + n + n / 1024;
}

static size_t choose_codes(struct plan *p)
{
    p->cost = NULL;
    each_matrix(p, choose_directions);
    size_t n = lay_codes(p);
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
    set_step(p, step);
    size_t n = p->step > 0 ? choose_codes(p) : 0;
    lap(laps, STAGE_QUANTISE);
    o.report->parts = (struct codec_parts){0};
    uint8_t *at = msg_put_header(&o, 0) ? NULL : msg_take(&o, PART_SCALES, 2);
    if (!at)
        return -1;
    put_u16(at, bf16_from_f32(n ? p->step : 0));
    if (n && (put_head(p, &o) || put_directions(p, &o, scratch) || put_classes(p, &o, scratch)))
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
        int64_t len = write_at(p, least * power(2 * mid), o, NULL, scratch);
        if (len >= 0 && len <= budget)
            high = mid;
        else
            low = mid;
    }
    return least * power(2 * high);
}

static int64_t klt_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                          size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    struct plan p;
    struct msg_out o;
    lay_plan(&p, c, true, &scratch);
    p.costs = scratch_take(&scratch, LEVELS * sizeof *p.costs);
    p.count = scratch_take(&scratch, LEVELS * sizeof *p.count);
    p.x = in->x;
    msg_init(&o, out, cap, report);
    each_matrix(&p, measure_matrix);
    if (p.bad)
        return codec_bad_input(c, in->x, in->on, err);
    double step =
        in->budget_bytes >= 0 ? step_within(&p, in->budget_bytes, o, scratch) : usual_step(&p);
    int64_t len = write_at(&p, step, o, in->laps, scratch);
    return len < 0 ? msg_full(&o, err) : len;
}

// Reading.

static int get_bits(struct plan *p, struct msg_in *m, struct err *err)
{
    struct bits_in b;
    size_t bits = 0;
    bits_in_init(&b, m->p, (size_t)(m->end - m->p));
    for (uint32_t t = 0; t < p->c->shape->n_tensors; t++) {
        struct matrix *one = &p->m[t];
        for (int l = p->top; l >= p->low && one->length;) {
            if (one->kept == (int)one->rows)
                break;
            bits++;
            if (bits_get(&b, 1))
                p->dir[one->first + (size_t)one->kept++].level = (uint8_t)l;
            else
                l--;
        }
    }
    for (int l = p->top; l >= p->low; l--) {
        p->classes += l == p->top || bits_get(&b, 1);
        bits += l < p->top;
        p->class_of[l] = (uint8_t)(p->classes - 1);
    }
    if (b.bad)
        return msg_short("directory", err);
    msg_need(m, (bits + 7) / 8);
    return 0;
}

static int get_head(struct plan *p, struct msg_in *m, struct err *err)
{
    const uint8_t *centre = msg_need(m, 3), *at = centre ? msg_need(m, 2) : NULL;
    if (!at)
        return msg_short("scales", err);
    memcpy(p->centre, centre, 3);
    p->top = at[0];
    p->low = at[1];
    if (p->top >= LEVELS || p->low > p->top)
        return msg_bad("directory", "a level is out of range", err);
    if (get_bits(p, m, err))
        return -1;
    if (p->o->unbiased > 0) {
        at = msg_need(m, (size_t)p->classes);
        if (!at)
            return msg_short("scales", err);
        for (int c = 0; c < p->classes; c++) {
            p->gain[c] = at[c];
            if (at[c] > GAIN_MOST)
                return msg_bad("scales", "a gain is out of range", err);
        }
    }
    return 0;
}

static int get_directions(struct plan *p, struct msg_in *m, void *scratch, struct err *err)
{
    struct coord_walk w = {.p = p};
    struct bits_in b;
    const unsigned kinds = (unsigned)(1 / p->o->basis + 0.5) + 1;
    size_t n = 0, bits = 0, zeros = 0;
    while (next_coord(&w))
        n++;
    if (entropy_get(m, p->magnitude, n, kinds, scratch, err))
        return -1;
    bits_in_init(&b, m->p, (size_t)(m->end - m->p));
    w = (struct coord_walk){.p = p};
    n = 0;
    for (int8_t *q; (q = next_coord(&w)) != NULL;) {
        *q = (int8_t)p->magnitude[n++];
        if (*q && w.nonzero) {
            *q = (int8_t)(bits_get(&b, 1) ? -*q : *q);
            bits++;
        }
        w.nonzero |= *q != 0;
        zeros += !w.nonzero && w.i == (int)p->m[w.t].rows - w.k;
    }
    if (b.bad)
        return msg_short("directions", err);
    if (zeros)
        return msg_bad("directions", "one is zero", err);
    msg_need(m, (bits + 7) / 8);
    return 0;
}

static int get_classes(struct plan *p, struct msg_in *m, void *scratch, struct err *err)
{
    for (int c = 0; c < p->classes; c++) {
        size_t from = 0, n = 0;
        for (int l = p->top; l >= p->low; l--)
            if (p->class_of[l] == c) {
                from = n ? from : p->from[l];
                n += p->many[l];
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

// The receiver's directions as columns (rows, kept), and what their codes are worth.
static void make_directions(const struct plan *p, const struct matrix *m, float *mix,
                            struct klt_worth *worth)
{
    struct basis b;
    const int8_t *coord = p->coord + m->coord;
    basis_begin(&b, (int)m->rows);
    for (int k = 0; k < m->kept; k++) {
        int q[KLT_ROWS] = {1}, n = basis_left(&b), level = p->dir[m->first + (size_t)k].level;
        double u[KLT_ROWS];
        for (int i = 0; i < n && n > 1; i++)
            q[i] = *coord++;
        basis_take(&b, q, u);
        for (size_t i = 0; i < m->rows; i++)
            mix[i * (size_t)m->kept + (size_t)k] = (float)u[i];
        float step = step_of(p, level);
        if (p->o->unbiased > 0)
            step *= (float)power(4 * p->gain[p->class_of[level]]);
        worth[k] = (struct klt_worth){step, centre_worth(p->centre[0]) * step,
                                      centre_worth(p->centre[1]) * step,
                                      centre_worth(p->centre[2]) * step};
    }
}

static void give_matrix(void *arg, uint32_t t)
{
    const struct give_job *j = arg;
    const struct plan *p = j->p;
    const struct matrix *m = &p->m[t];
    const struct quant_sink to = quant_sink_at(j->to, tensor_of(p, t)->offset);
    float mix[KLT_ROWS * KLT_ROWS], v[KLT_ROWS * KLT_TILE], tile[KLT_ROWS * KLT_TILE];
    struct klt_worth worth[KLT_ROWS];
    if (m->kept == 0) {
        if (!to.add)
            memset(to.to, 0, m->rows * m->length * sizeof *to.to);
        return;
    }
    make_directions(p, m, mix, worth);
    for (size_t at = 0; at < m->length; at += KLT_TILE) {
        struct klt_tile own = tile_of(m, at);
        for (int k = 0; k < m->kept; k++) {
            float *row = v + k * KLT_TILE;
            klt_give(p->codes + p->dir[m->first + (size_t)k].at + at, own.cols, &worth[k], row);
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
    p.step = bf16_to_f32(get_u16(step));
    if (!(p.step >= 0 && p.step < 2 * CODEC_LIMIT))
        return msg_bad("scales", "the step is below 0, not finite, or too large", err);
    if (p.step > 0) {
        if (get_head(&p, &m, err) || get_directions(&p, &m, scratch, err))
            return -1;
        lay_codes(&p);
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
