#include "codec/axes.h"

#include "base/half.h"
#include "base/pool.h"
#include "codec/bits.h"
#include "codec/entropy.h"
#include "codec/rows.h"

#include <math.h>
#include <string.h>

#define SHORT 4 // a matrix is turned if it is so many times as long as it has rows

// Matrices.

struct axes_matrix axes_matrix_of(const struct shape_tensor *t)
{
    size_t n = (size_t)t->rows * t->cols;
    size_t rows = t->rows < t->cols ? t->rows : t->cols;
    if (n == 0 || rows > KLT_ROWS || rows * rows * SHORT > n)
        return (struct axes_matrix){.rows = 1, .length = n};
    return (struct axes_matrix){.rows = rows, .length = n / rows, .turned = t->rows > t->cols};
}

static struct axes_sizes sizes_of(const struct codec_inst *c, struct axes_matrix *m)
{
    struct axes_sizes s = {0};
    for (uint32_t t = 0; t < c->shape->n_tensors; t++) {
        struct axes_matrix one = axes_matrix_of(&c->shape->tensors[t]);
        one.first = s.rows;
        one.square = s.squares;
        one.coord = s.coords;
        if (m)
            m[t] = one;
        s.rows += one.rows;
        s.squares += one.rows * one.rows;
        s.coords += one.rows * (one.rows + 1) / 2;
    }
    return s;
}

struct axes_sizes axes_sizes(const struct codec_inst *c)
{
    return sizes_of(c, NULL);
}

size_t axes_bytes(const struct codec_inst *c, bool encoder)
{
    struct axes_sizes s = sizes_of(c, NULL);
    size_t own = SCRATCH_ROUND(c->shape->n_tensors * sizeof(struct axes_matrix)) +
                 SCRATCH_ROUND(s.rows * sizeof(struct axes_direction)) +
                 2 * SCRATCH_ROUND(s.coords);
    return own + (encoder ? SCRATCH_ROUND(s.squares * sizeof(double)) +
                                SCRATCH_ROUND(s.squares * sizeof(float))
                          : 0);
}

size_t axes_entropy_values(const struct codec_inst *c)
{
    return sizes_of(c, NULL).coords;
}

void axes_lay(struct axes *p, const struct codec_inst *c, bool encoder, void **scratch)
{
    struct axes_sizes s = sizes_of(c, NULL);
    *p = (struct axes){.c = c, .low = 1};
    p->m = scratch_take(scratch, c->shape->n_tensors * sizeof *p->m);
    p->dir = scratch_take(scratch, s.rows * sizeof *p->dir);
    p->coord = scratch_take(scratch, s.coords);
    p->magnitude = scratch_take(scratch, s.coords);
    if (encoder) {
        p->gram = scratch_take(scratch, s.squares * sizeof *p->gram);
        p->u = scratch_take(scratch, s.squares * sizeof *p->u);
    }
    sizes_of(c, p->m);
}

struct klt_tile axes_tile(const struct axes_matrix *m, size_t at)
{
    size_t left = m->length - at;
    return (struct klt_tile){m->rows, m->length, at, left < KLT_TILE ? left : KLT_TILE, m->turned};
}

// Levels and steps.

// 2^(k / 32), by square roots only.
double axes_power(int k)
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
    octave += AXES_LEVEL - 1;
    return octave < 0 ? 0 : octave >= AXES_LEVELS ? AXES_LEVELS - 1 : octave;
}

// Of a direction: the message's, times its root mean square in steps to the power gamma.
float axes_step(const struct axes *p, int level)
{
    return p->gamma16 ? (float)((double)p->unit * axes_power(p->gamma16 * (level - AXES_LEVEL)))
                      : p->unit;
}

// Measuring.

static void measure_matrix(void *arg, uint32_t t)
{
    struct axes *p = arg;
    struct axes_matrix *m = &p->m[t];
    const float *x = p->x + axes_tensor(p, t)->offset;
    double *g = p->gram + m->square;
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
        struct klt_tile own = axes_tile(m, at);
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

static void find_directions(void *arg, uint32_t t)
{
    struct axes *p = arg;
    struct axes_matrix *m = &p->m[t];
    struct basis b;
    const double *g = p->gram + m->square;
    double v[KLT_ROWS * KLT_ROWS], value[KLT_ROWS], u[KLT_ROWS];
    int8_t *coord = p->coord + m->coord;
    measure_matrix(p, t);
    m->found = 0;
    if (m->length == 0 || !(m->sq > 0) || p->bad)
        return;
    basis_eigen(g, (int)m->rows, v, value);
    basis_begin(&b, (int)m->rows);
    for (size_t k = 0; k < m->rows && value[k] > 0; k++) {
        int q[KLT_ROWS] = {1}, n = basis_left(&b);
        float *to = p->u + m->square + k * m->rows;
        if (n > 1)
            basis_round(&b, v + k * m->rows, p->basis, q);
        for (int i = 0; i < n; i++)
            *coord++ = (int8_t)q[i];
        basis_take(&b, q, u);
        p->dir[m->first + k] = (struct axes_direction){.value = value[k] / (double)m->length,
                                                       .sq = energy_along(g, m->rows, u)};
        for (size_t i = 0; i < m->rows; i++)
            to[i] = (float)u[i];
        m->found++;
    }
}

void axes_find(struct axes *p, const float *x)
{
    p->x = x;
    p->bad = false;
    pool_each(p->c->shape->n_values, p->c->shape->n_tensors, find_directions, p);
}

static void cut_matrix(struct axes *p, struct axes_matrix *m)
{
    const double unit = (double)p->unit * (double)p->unit;
    for (m->kept = 0; m->kept < m->found; m->kept++) {
        struct axes_direction *d = &p->dir[m->first + (size_t)m->kept];
        double step = (double)axes_step(p, level_of(d->value / unit));
        if (d->value <= p->keep * step * step)
            break;
        int level = level_of(d->sq / (unit * (double)m->length));
        d->level = (uint8_t)(m->kept && level > d[-1].level ? d[-1].level : level);
    }
}

void axes_cut(struct axes *p, float unit)
{
    p->unit = unit;
    for (uint32_t t = 0; t < p->c->shape->n_tensors; t++) {
        p->m[t].kept = 0;
        if (unit > 0)
            cut_matrix(p, &p->m[t]);
    }
}

size_t axes_lay_codes(struct axes *p)
{
    size_t n = 0;
    p->top = 0;
    p->low = AXES_LEVELS;
    for (int level = AXES_LEVELS - 1; level >= 0; level--) {
        p->from[level] = n;
        for (uint32_t t = 0; t < p->c->shape->n_tensors; t++)
            for (int k = 0; k < p->m[t].kept; k++) {
                struct axes_direction *d = &p->dir[p->m[t].first + (size_t)k];
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

// Writing.

static void put_bits(const struct axes *p, struct bits_out *b)
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
    const struct axes *p;
    uint32_t t;
    int k, i;     // direction, coordinate
    bool nonzero; // one before it in its direction is not 0
    size_t at;
};

static int8_t *next_coord(struct coord_walk *w)
{
    for (; w->t < w->p->c->shape->n_tensors; w->t++, w->k = 0) {
        const struct axes_matrix *m = &w->p->m[w->t];
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

int axes_put_directions(struct axes *p, struct msg_out *o, void *scratch)
{
    struct coord_walk w = {.p = p};
    struct bits_out b;
    const unsigned kinds = (unsigned)(1 / p->basis + 0.5) + 1;
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

int axes_put_levels(const struct axes *p, struct msg_out *o)
{
    struct bits_out b;
    uint8_t *at = msg_take(o, PART_DIRECTORY, 2);
    if (!at)
        return -1;
    at[0] = (uint8_t)p->top;
    at[1] = (uint8_t)p->low;
    bits_out_init(&b, o->p, msg_room(o));
    put_bits(p, &b);
    size_t len = bits_out_end(&b);
    return b.full || !msg_take(o, PART_DIRECTORY, len) ? -1 : 0;
}

size_t axes_bound(const struct codec_inst *c)
{
    struct axes_sizes s = sizes_of(c, NULL);
    return 2 + (c->shape->n_tensors * AXES_LEVELS + s.rows + AXES_LEVELS + 7) / 8 +
           entropy_bound(s.coords, 21) + s.coords / 8 + 1;
}

// Reading.

static int get_bits(struct axes *p, struct msg_in *m, struct err *err)
{
    struct bits_in b;
    size_t bits = 0;
    bits_in_init(&b, m->p, (size_t)(m->end - m->p));
    for (uint32_t t = 0; t < p->c->shape->n_tensors; t++) {
        struct axes_matrix *one = &p->m[t];
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

int axes_get_levels(struct axes *p, struct msg_in *m, struct err *err)
{
    const uint8_t *at = msg_need(m, 2);
    if (!at)
        return msg_short("directory", err);
    p->top = at[0];
    p->low = at[1];
    if (p->top >= AXES_LEVELS || p->low > p->top)
        return msg_bad("directory", "a level is out of range", err);
    return get_bits(p, m, err);
}

int axes_get_directions(struct axes *p, struct msg_in *m, void *scratch, struct err *err)
{
    struct coord_walk w = {.p = p};
    struct bits_in b;
    const unsigned kinds = (unsigned)(1 / p->basis + 0.5) + 1;
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

void axes_columns(const struct axes *p, const struct axes_matrix *m, float *mix)
{
    struct basis b;
    const int8_t *coord = p->coord + m->coord;
    basis_begin(&b, (int)m->rows);
    for (int k = 0; k < m->kept; k++) {
        int q[KLT_ROWS] = {1}, n = basis_left(&b);
        double u[KLT_ROWS];
        for (int i = 0; i < n && n > 1; i++)
            q[i] = *coord++;
        basis_take(&b, q, u);
        for (size_t i = 0; i < m->rows; i++)
            mix[i * (size_t)m->kept + (size_t)k] = (float)u[i];
    }
}
