#include "model/side.h"

#include "base/fmath.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/inner.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define NORM_FLOOR 1e-6 // of a row's mean square

struct side_layer { // offsets in the vector of weights
    size_t down, up, project[SIDE_TYPES];
};

struct side {
    struct dev *dev;
    struct side_config cfg;
    struct shape shape;
    struct side_layer *layer;
    size_t head, bias, alpha, n;
    float *state; // (3, n) weights, moments
    float *grad;  // (n)
    kernel_step step[1 + SIDE_TYPES];
    struct kernel_ranges own[1 + SIDE_TYPES]; // what each of them is of; n = 0: all
    kernel_range *range;

    // A batch in work: rows are strides apart, rounded up so that kernels may read whole vectors.
    int32_t rows; // there is room for
    ptrdiff_t ld_in, ld, ld_rank, ld_out;
    float **x, **a, **z, **s, **h; // (layers): a is x where nothing projects
    float *ds, *dz, *dh;
    float *top, *y, *dy; // (rows) of those with a loss
    uint8_t *block;
};

int side_check(const struct side_config *c, struct err *err)
{
    if (c->layers < 1 || c->width < 1 || c->rank < 1 || c->classes < 2 || c->types < 1 ||
        c->types > SIDE_TYPES)
        return err_set(err, "a side network of %d layers, width %d, rank %d, %d classes", c->layers,
                       c->width, c->rank, c->classes);
    for (int32_t t = 0; t < c->types; t++)
        if (!c->project && c->dim[t] != c->width)
            return err_set(err,
                           "a backbone of width %d beside a side network of width %d needs a "
                           "projection",
                           c->dim[t], c->width);
    return 0;
}

static size_t add_tensor(struct side *s, const char *name, int32_t layer, int32_t rows,
                         int32_t cols)
{
    char full[48];
    size_t at = s->shape.n_values;
    snprintf(full, sizeof full, "side.%d.%s", layer, name);
    shape_add(&s->shape, full, (uint32_t)rows, (uint32_t)cols, SHAPE_OTHER);
    return at;
}

static void lay_out(struct side *s)
{
    const struct side_config *c = &s->cfg;
    shape_init(&s->shape);
    for (int32_t i = 0; i < c->layers; i++) {
        struct side_layer *l = &s->layer[i];
        l->down = add_tensor(s, "down", i, c->rank, c->width);
        l->up = add_tensor(s, "up", i, c->width, c->rank);
        for (int32_t t = 0; t < c->types && c->project; t++)
            l->project[t] = add_tensor(s, "project", i * c->types + t, c->width, c->dim[t]);
    }
    s->head = add_tensor(s, "head", c->layers, c->classes, c->width);
    s->bias = add_tensor(s, "bias", c->layers, 1, c->classes);
    s->alpha = add_tensor(s, "alpha", c->layers, 1, c->layers);
    shape_seal(&s->shape);
    s->n = s->shape.n_values;
}

// The projections of a type are one range a layer; what is between them is everybody's.
static void own_ranges(struct side *s)
{
    const struct side_config *c = &s->cfg;
    const int32_t layers = c->layers;
    if (!c->project)
        return;
    kernel_range *r = s->range =
        mem_alloc(MEM_SERVER, (size_t)(layers * (c->types + 1) + 1) * sizeof *r);
    s->own[0].range = r;
    for (int32_t i = 0; i <= layers; i++)
        *r++ = (kernel_range){i ? s->layer[i - 1].project[c->types - 1] +
                                      (size_t)c->width * (size_t)c->dim[c->types - 1]
                                : 0,
                              i < layers ? s->layer[i].project[0] : s->n};
    s->own[0].n = layers + 1;
    for (int32_t t = 0; t < c->types; t++) {
        s->own[1 + t] = (struct kernel_ranges){layers, r};
        for (int32_t i = 0; i < layers; i++, r++) {
            size_t at = s->layer[i].project[t];
            *r = (kernel_range){at, at + (size_t)c->width * (size_t)c->dim[t]};
        }
    }
}

static int32_t widest_input(const struct side_config *c)
{
    int32_t most = c->width;
    for (int32_t t = 0; t < c->types; t++)
        most = c->dim[t] > most ? c->dim[t] : most;
    return most;
}

struct side *side_open(struct dev *d, const struct side_config *c)
{
    struct side *s = mem_alloc(MEM_SERVER, sizeof *s);
    size_t layers = (size_t)c->layers;
    assert(d->row->host);
    s->dev = d;
    s->cfg = *c;
    s->layer = mem_alloc(MEM_SERVER, layers * sizeof *s->layer);
    lay_out(s);
    own_ranges(s);
    s->state = mem_alloc(MEM_SERVER, (3 * s->n + KERNEL_SLACK) * sizeof *s->state);
    s->grad = mem_alloc(MEM_SERVER, (s->n + KERNEL_SLACK) * sizeof *s->grad);
    float ***list[] = {&s->x, &s->a, &s->z, &s->s, &s->h};
    for (size_t i = 0; i < ARRAY_LEN(list); i++)
        *list[i] = mem_alloc(MEM_SERVER, layers * sizeof(float *));
    s->ld_in = stride(widest_input(c));
    s->ld = stride(c->width);
    s->ld_rank = stride(c->rank);
    s->ld_out = stride(c->classes);
    return s;
}

void side_close(struct side *s)
{
    if (!s)
        return;
    void *blocks[] = {s->layer, s->range, s->state, s->grad, s->x,
                      s->a,     s->z,     s->s,     s->h,    s->block};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
    shape_free(&s->shape);
    mem_free(s);
}

const struct side_config *side_config(const struct side *s)
{
    return &s->cfg;
}
const struct shape *side_shape(const struct side *s)
{
    return &s->shape;
}
size_t side_values(const struct side_config *c, int32_t type)
{
    const size_t width = (size_t)c->width, layers = (size_t)c->layers, classes = (size_t)c->classes;
    const size_t in = c->project ? (size_t)c->dim[type] : 0;
    return layers * (2 * (size_t)c->rank * width + width * in + 1) + classes * (width + 1);
}

void side_copy(const struct side *s, int32_t type, float *out)
{
    const kernel_range all = {0, s->n};
    for (int32_t part = 0; part < (s->cfg.project ? 2 : 1); part++) {
        const struct kernel_ranges *own = &s->own[part ? 1 + type : 0];
        const kernel_range *r = s->cfg.project ? own->range : &all;
        for (int32_t i = 0; i < (s->cfg.project ? own->n : 1); i++) {
            memcpy(out, s->state + r[i].from, (r[i].to - r[i].from) * sizeof *out);
            out += r[i].to - r[i].from;
        }
    }
}

float *side_state(struct side *s)
{
    return s->state;
}
int32_t side_counts(const struct side *s)
{
    return s->cfg.project ? 1 + s->cfg.types : 1;
}
int32_t *side_steps(struct side *s, int32_t which)
{
    return &s->step[which].steps;
}
ptrdiff_t side_out_stride(const struct side *s)
{
    return s->ld_out;
}
ptrdiff_t side_stride(const struct side *s, int32_t type)
{
    (void)type;
    return s->cfg.project ? s->ld_in : s->ld;
}

static void gaussian(uint64_t seed, uint32_t tensor, int32_t rows, int32_t cols, float *w)
{
    struct rng r = rng_stream(seed, RNG_INIT, tensor, 1, 0);
    double sd = 1 / sqrt((double)cols);
    for (int64_t k = 0; k < (int64_t)rows * cols; k++)
        w[k] = (float)(sd * rng_normal(&r));
}

void side_init(struct side *s, uint64_t seed)
{
    const struct side_config *c = &s->cfg;
    uint32_t tensor = 0;
    memset(s->state, 0, 3 * s->n * sizeof *s->state);
    memset(s->step, 0, sizeof s->step);
    for (int32_t i = 0; i < c->layers; i++)
        gaussian(seed, tensor++, c->rank, c->width, s->state + s->layer[i].down);
    for (int32_t i = 0; i < c->layers && c->project; i++)
        for (int32_t t = 0; t < c->types; t++, tensor++) {
            float *u = s->state + s->layer[i].project[t];
            if (c->dim[t] != c->width)
                gaussian(seed, tensor, c->width, c->dim[t], u);
            for (int32_t k = 0; c->dim[t] == c->width && k < c->width; k++)
                u[(size_t)k * (size_t)c->width + (size_t)k] = 1;
        }
}

// memory of a batch.

static void take_rows(struct side *s, int32_t rows, struct bump *b)
{
    size_t n = (size_t)rows;
#define ROWS(ld) bump_take(b, n *(size_t)(ld) + KERNEL_SLACK, sizeof(float))
    for (int32_t i = 0; i < s->cfg.layers; i++) {
        s->a[i] = ROWS(s->ld);
        s->x[i] = s->cfg.project ? ROWS(s->ld_in) : s->a[i];
        s->z[i] = i ? ROWS(s->ld) : s->a[0];
        s->s[i] = ROWS(s->ld);
        s->h[i] = ROWS(s->ld_rank);
    }
    float **own[] = {&s->ds, &s->dz, &s->top};
    for (size_t i = 0; i < ARRAY_LEN(own); i++)
        *own[i] = ROWS(s->ld);
    s->dh = ROWS(s->ld_rank);
    s->y = ROWS(s->ld_out);
    s->dy = ROWS(s->ld_out);
#undef ROWS
}

static void make_room(struct side *s, int32_t rows)
{
    const struct side_config *c = &s->cfg;
    struct bump count = {0};
    if (rows <= s->rows)
        return;
    s->rows = rows;
    take_rows(s, rows, &count);
    mem_free(s->block);
    s->block = mem_alloc(MEM_SERVER, count.used);
    struct bump use = {.base = s->block};
    take_rows(s, rows, &use);
    int32_t widest = widest_input(c) > c->classes ? widest_input(c) : c->classes;
    dev_reserve(s->dev, kernel_work_floats(rows, 1, widest, c->rank, 16), 0);
}

float *side_input(struct side *s, const struct side_batch *b, int32_t layer)
{
    if (layer == 0)
        make_room(s, b->rows);
    return s->x[layer];
}

void side_put_row(const struct side *s, int32_t type, const float *x, float *to)
{
    const int32_t dim = s->cfg.dim[type];
    double sum = 0;
    memcpy(to, x, (size_t)dim * sizeof *to);
    for (int32_t k = 0; s->cfg.norm && k < dim; k++)
        sum += (double)x[k] * (double)x[k];
    float scale = (float)(1 / sqrt(sum / dim + NORM_FLOOR));
    for (int32_t k = 0; s->cfg.norm && k < dim; k++)
        to[k] *= scale;
}

// operations.

static struct kernel_linear linear_at(const struct side *s, size_t at, int32_t rows, int32_t cols)
{
    return (struct kernel_linear){
        .w = {.w = s->state + at, .dtype = KERNEL_F32, .rows = rows, .cols = cols, .ld = cols}};
}

// In fp32, whatever a model's activations are.
static struct kernel_ctx context(const struct side *s)
{
    struct kernel_ctx cx = s->dev->lane[0].cx;
    cx.act = KERNEL_F32;
    cx.grad_scale = 1;
    return cx;
}

// y = y0 + x W^T
static void multiply(struct side *s, size_t at, int32_t rows, int32_t cols, const float *x,
                     ptrdiff_t ldx, int32_t m, const float *y0, float *y, ptrdiff_t ldy)
{
    struct kernel_linear l = linear_at(s, at, rows, cols);
    const struct kernel_ctx cx = context(s);
    s->dev->ops->linear_fwd(&cx, &l, NULL, (const kernel_act *)x, ldx, m, (const kernel_act *)y0,
                            (kernel_act *)y, ldy, NULL, 0);
}

// dx = dx0 + dy W, or dx NULL; the gradient of W += dy^T x
static void multiply_back(struct side *s, size_t at, int32_t rows, int32_t cols, const float *dy,
                          ptrdiff_t lddy, const float *x, ptrdiff_t ldx, int32_t m,
                          const float *dx0, float *dx, ptrdiff_t lddx)
{
    struct kernel_linear l = linear_at(s, at, rows, cols);
    const struct kernel_ctx cx = context(s);
    s->dev->ops->linear_bwd(&cx, &l, NULL, (const kernel_act *)dy, lddy, (const kernel_act *)x, ldx,
                            NULL, 0, m, (const kernel_act *)dx0, (kernel_act *)dx, lddx, NULL,
                            s->grad + at);
}

static float gate(const struct side *s, int32_t i)
{
    return (float)(1 / (1 + fmath_exp(-(double)s->state[s->alpha + (size_t)i])));
}

static void mix(const struct side *s, int32_t i, int32_t rows)
{
    float mu = gate(s, i), rest = 1 - mu;
    for (int32_t r = 0; r < rows; r++) {
        const float *restrict a = s->a[i] + r * s->ld, *restrict from = s->s[i - 1] + r * s->ld;
        float *restrict z = s->z[i] + r * s->ld;
        for (int32_t k = 0; k < s->cfg.width; k++)
            z[k] = rest * a[k] + mu * from[k];
    }
}

static void rectify(const struct side *s, float *h, int32_t rows)
{
    const int32_t rank = s->cfg.rank;
    for (int32_t r = 0; r < rows; r++, h += s->ld_rank)
        for (int32_t k = 0; k < rank; k++)
            h[k] = h[k] > 0 ? h[k] : 0;
}

static int32_t rows_of(const struct side_batch *b, int32_t type)
{
    return b->of ? b->of[type] : type == b->type ? b->rows : 0;
}

static void project(struct side *s, const struct side_batch *b, int32_t i)
{
    const struct side_config *c = &s->cfg;
    int32_t at = 0;
    for (int32_t t = 0, n; t < c->types; t++, at += n) {
        n = rows_of(b, t);
        if (n > 0)
            multiply(s, s->layer[i].project[t], c->width, c->dim[t], s->x[i] + at * s->ld_in,
                     s->ld_in, n, NULL, s->a[i] + at * s->ld, s->ld);
    }
}

static void project_back(struct side *s, const struct side_batch *b, int32_t i)
{
    const struct side_config *c = &s->cfg;
    int32_t at = 0;
    for (int32_t t = 0, n; t < c->types; t++, at += n) {
        n = rows_of(b, t);
        if (n > 0)
            multiply_back(s, s->layer[i].project[t], c->width, c->dim[t], s->dz + at * s->ld, s->ld,
                          s->x[i] + at * s->ld_in, s->ld_in, n, NULL, NULL, 0);
    }
}

static void forward_layer(struct side *s, const struct side_batch *b, int32_t i)
{
    const struct side_config *c = &s->cfg;
    const struct side_layer *l = &s->layer[i];
    if (c->project)
        project(s, b, i);
    if (i > 0)
        mix(s, i, b->rows);
    multiply(s, l->down, c->rank, c->width, s->z[i], s->ld, b->rows, NULL, s->h[i], s->ld_rank);
    rectify(s, s->h[i], b->rows);
    multiply(s, l->up, c->width, c->rank, s->h[i], s->ld_rank, b->rows, s->z[i], s->s[i], s->ld);
}

static int32_t scored_row(const struct side_batch *b, int32_t i)
{
    return b->row ? b->row[i] : i;
}

const float *side_forward(struct side *s, const struct side_batch *b)
{
    const struct side_config *c = &s->cfg;
    const float *last = s->s[c->layers - 1];
    uint64_t was = dev_denormals_off();
    assert(b->rows >= 1 && b->scored >= 1 && b->rows <= s->rows);
    for (int32_t i = 0; i < c->layers; i++)
        forward_layer(s, b, i);
    for (int32_t r = 0; r < b->scored; r++) {
        memcpy(s->top + r * s->ld, last + scored_row(b, r) * s->ld,
               (size_t)c->width * sizeof *s->top);
        memcpy(s->y + r * s->ld_out, s->state + s->bias, (size_t)c->classes * sizeof *s->y);
    }
    multiply(s, s->head, c->classes, c->width, s->top, s->ld, b->scored, s->y, s->y, s->ld_out);
    dev_denormals_restore(was);
    return s->y;
}

// losses: a row's, and its gradient times `share`.

enum { LANES = 16 }; // strides are multiples of it

// Of what is known to be missing: the same sums in lanes, several at once.
static double row_missed(const float *restrict y, const float *restrict want, int32_t n,
                         float share, float *restrict dy)
{
    double lane[LANES] = {0}, sum = 0;
    int32_t k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int32_t j = 0; j < LANES; j++) {
            float miss = y[k + j] - want[k + j];
            lane[j] += (double)miss * (double)miss;
            dy[k + j] = 2 * share * miss;
        }
    for (; k < n; k++) {
        float miss = y[k] - want[k];
        lane[0] += (double)miss * (double)miss;
        dy[k] = 2 * share * miss;
    }
    for (int32_t j = 0; j < LANES; j++)
        sum += lane[j];
    return sum;
}

static double row_l2(const struct side *s, const struct side_answer *a, int32_t r, float share,
                     const float *y, float *dy)
{
    size_t at = (size_t)r * (size_t)s->cfg.classes;
    double sum = 0;
    if (a->target && !a->base)
        return row_missed(y, a->target + at, s->cfg.classes, share, dy);
    for (int32_t k = 0; k < s->cfg.classes; k++) {
        float want = a->target ? a->target[at + (size_t)k] : (float)(k == a->label[r]);
        float miss = y[k] - (a->base ? want - a->base[at + (size_t)k] : want);
        sum += (double)miss * (double)miss;
        dy[k] = 2 * share * miss;
    }
    return sum;
}

static double row_ce(const struct side *s, const struct side_answer *a, int32_t r, float share,
                     const float *y, float *dy)
{
    size_t at = (size_t)r * (size_t)s->cfg.classes;
    const float *base = a->base ? a->base + at : NULL;
    double most = -INFINITY, sum = 0;
    for (int32_t k = 0; k < s->cfg.classes; k++) {
        dy[k] = y[k] + (base ? base[k] : 0);
        most = (double)dy[k] > most ? (double)dy[k] : most;
    }
    double right = (double)dy[a->label[r]] - most;
    for (int32_t k = 0; k < s->cfg.classes; k++) {
        double e = fmath_exp((double)dy[k] - most);
        sum += e;
        dy[k] = (float)e;
    }
    for (int32_t k = 0; k < s->cfg.classes; k++)
        dy[k] = share * ((float)((double)dy[k] / sum) - (float)(k == a->label[r]));
    return fmath_log(sum) - right;
}

// Leaves dy behind.
double side_loss_of(struct side *s, const struct side_batch *b, const struct side_answer *a)
{
    double sum = 0;
    float share = 1.0f / (float)b->scored;
    for (int32_t r = 0; r < b->scored; r++)
        sum += (a->loss == SIDE_CE ? row_ce : row_l2)(s, a, r, share, s->y + r * s->ld_out,
                                                      s->dy + r * s->ld_out);
    return sum / b->scored;
}

// backward.

static void backward_head(struct side *s, const struct side_batch *b)
{
    const struct side_config *c = &s->cfg;
    float *restrict bias = s->grad + s->bias;
    for (int32_t r = 0; r < b->scored; r++) {
        const float *restrict dy = s->dy + r * s->ld_out;
        for (int32_t k = 0; k < c->classes; k++)
            bias[k] += dy[k];
    }
    multiply_back(s, s->head, c->classes, c->width, s->dy, s->ld_out, s->top, s->ld, b->scored,
                  NULL, s->dz, s->ld);
    memset(s->ds, 0, (size_t)b->rows * (size_t)s->ld * sizeof *s->ds);
    for (int32_t r = 0; r < b->scored; r++)
        memcpy(s->ds + scored_row(b, r) * s->ld, s->dz + r * s->ld,
               (size_t)c->width * sizeof *s->ds);
}

// dz becomes da; ds that of the layer before. Returns the gradient of mu.
static double unmix(struct side *s, int32_t i, int32_t rows)
{
    float mu = gate(s, i), rest = 1 - mu;
    float lane[LANES] = {0}; // columns apart, so that several add up at once
    double sum = 0;
    for (int32_t r = 0; r < rows; r++) {
        const float *restrict a = s->a[i] + r * s->ld, *restrict from = s->s[i - 1] + r * s->ld;
        float *restrict dz = s->dz + r * s->ld, *restrict ds = s->ds + r * s->ld;
        for (int32_t k = 0; k < s->cfg.width; k += LANES)
            for (int32_t j = 0; j < LANES; j++) { // to the end of the stride, which is zeros
                lane[j] += dz[k + j] * (from[k + j] - a[k + j]);
                ds[k + j] = mu * dz[k + j];
                dz[k + j] *= rest;
            }
    }
    for (int32_t j = 0; j < LANES; j++)
        sum += (double)lane[j];
    return sum * (double)mu * (double)rest;
}

static void backward_layer(struct side *s, const struct side_batch *b, int32_t i)
{
    const struct side_config *c = &s->cfg;
    const struct side_layer *l = &s->layer[i];
    multiply_back(s, l->up, c->width, c->rank, s->ds, s->ld, s->h[i], s->ld_rank, b->rows, NULL,
                  s->dh, s->ld_rank);
    for (int32_t r = 0; r < b->rows; r++) {
        const float *restrict h = s->h[i] + r * s->ld_rank;
        float *restrict dh = s->dh + r * s->ld_rank;
        for (int32_t k = 0; k < c->rank; k++)
            dh[k] = h[k] > 0 ? dh[k] : 0;
    }
    multiply_back(s, l->down, c->rank, c->width, s->dh, s->ld_rank, s->z[i], s->ld, b->rows, s->ds,
                  s->dz, s->ld);
    if (i > 0)
        s->grad[s->alpha + (size_t)i] += (float)unmix(s, i, b->rows);
    if (c->project)
        project_back(s, b, i);
}

double side_gradient(struct side *s, const struct side_batch *b, const struct side_answer *a,
                     const float **grad)
{
    side_forward(s, b);
    double loss = side_loss_of(s, b, a);
    uint64_t was = dev_denormals_off();
    memset(s->grad, 0, s->n * sizeof *s->grad);
    backward_head(s, b);
    for (int32_t i = s->cfg.layers; i-- > 0;)
        backward_layer(s, b, i);
    dev_denormals_restore(was);
    *grad = s->grad;
    return loss;
}

double side_step(struct side *s, const struct side_batch *b, const struct side_answer *a,
                 const struct optim_params *p)
{
    const struct kernel_ctx *cx = &s->dev->lane[0].cx;
    const struct kernel_optim h = model_optim(p);
    const struct kernel_ranges all = {0};
    const float *grad;
    double loss = side_gradient(s, b, a, &grad);
    s->dev->ops->sum_squares(cx, &all, grad, s->n, &s->step[0]);
    if (!isfinite(loss) || !isfinite(s->step[0].squares))
        return NAN;
    for (int32_t k = 0; k < side_counts(s); k++) {
        kernel_step *step = &s->step[k];
        if (k > 0 && rows_of(b, k - 1) == 0)
            continue;
        step->squares = s->step[0].squares;
        step->lr = (float)p->lr;
        s->dev->ops->next_step(cx, &h, step);
        s->dev->ops->update(cx, &h, step, &s->own[k], 0, s->n, s->state, s->state + s->n,
                            s->state + 2 * s->n, grad, NULL);
    }
    return loss;
}

void side_best(const struct side *s, const struct side_batch *b, const float *base, int32_t *best)
{
    for (int32_t r = 0; r < b->scored; r++) {
        const float *y = s->y + r * s->ld_out,
                    *add = base ? base + (size_t)r * (size_t)s->cfg.classes : NULL;
        float most = -INFINITY;
        best[r] = 0;
        for (int32_t k = 0; k < s->cfg.classes; k++) {
            float v = y[k] + (add ? add[k] : 0);
            best[r] = v > most ? k : best[r];
            most = v > most ? v : most;
        }
    }
}

double side_step_flops(const struct side *s, int32_t type, int32_t rows)
{
    const struct side_config *c = &s->cfg;
    double adapters = 6.0 * 2 * c->width * c->rank * c->layers, head = 6.0 * c->width * c->classes;
    double project = c->project ? 4.0 * c->width * c->dim[type] * c->layers : 0;
    return rows * (adapters + head + project);
}
