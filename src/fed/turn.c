#include "fed/turn.h"

#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

static double dot(const double *x, const double *y, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

// Gram-Schmidt, twice: what rounding has left of the rows before goes with the second time.
void turn_draw(uint64_t draw, uint32_t n, float *q)
{
    double *v = mem_alloc(MEM_OTHER, (size_t)n * n * sizeof *v);
    struct rng r = rng_stream(draw, RNG_VIEW, n, 1, 0);
    for (uint32_t i = 0; i < n; i++) {
        double *own = v + (size_t)i * n;
        for (uint32_t k = 0; k < n; k++)
            own[k] = rng_normal(&r);
        for (int again = 0; again < 2; again++)
            for (uint32_t j = 0; j < i; j++) {
                const double *other = v + (size_t)j * n;
                double along = dot(own, other, n);
                for (uint32_t k = 0; k < n; k++)
                    own[k] -= along * other[k];
            }
        double length = sqrt(dot(own, own, n));
        for (uint32_t k = 0; k < n; k++)
            q[(size_t)i * n + k] = (float)(own[k] /= length);
    }
    mem_free(v);
}

// Matrices whose longer sides are alike share a basis.
struct basis_of {
    uint32_t n;
    float *q, *turned; // (n, n), and its transpose
};

struct turn {
    const struct shape *shape;
    struct basis_of *basis; // (shape.n_tensors) the first n_bases
    uint32_t n_bases;
    float *scratch; // (n_values)
};

static uint32_t longer(const struct shape_tensor *t)
{
    return t->rows >= t->cols ? t->rows : t->cols;
}

static struct basis_of *find(const struct turn *m, uint32_t n)
{
    for (uint32_t i = 0; i < m->n_bases; i++)
        if (m->basis[i].n == n)
            return &m->basis[i];
    return NULL;
}

static void add_basis(struct turn *m, uint32_t n, const struct sub_opt *o)
{
    struct basis_of *b = &m->basis[m->n_bases++];
    size_t bytes = (size_t)n * n * sizeof(float);
    *b = (struct basis_of){n, mem_alloc(MEM_ADAPTER, bytes), mem_alloc(MEM_ADAPTER, bytes)};
    turn_draw((uint64_t)o->draw, n, b->q);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++)
            b->turned[k * n + i] = b->q[i * n + k];
}

static void rule_close(void *shared)
{
    struct turn *m = shared;
    for (uint32_t i = 0; i < m->n_bases; i++) {
        mem_free(m->basis[i].q);
        mem_free(m->basis[i].turned);
    }
    mem_free(m->basis);
    mem_free(m->scratch);
    mem_free(m);
}

static int rule_open(const struct local_setup *s, const void *opt, void **shared, struct err *err)
{
    struct turn *m = mem_alloc(MEM_ADAPTER, sizeof *m);
    *shared = m;
    m->shape = s->shape;
    m->basis = mem_alloc(MEM_ADAPTER, (s->shape->n_tensors + 1) * sizeof *m->basis);
    m->scratch = mem_alloc(MEM_ADAPTER, s->shape->n_values * sizeof *m->scratch);
    for (uint32_t i = 0; i < s->shape->n_tensors; i++) {
        uint32_t n = longer(&s->shape->tensors[i]);
        if (n > TURN_MOST)
            return err_set(err,
                           "view gauss: %s has a side of %u, and a basis the square of it in "
                           "numbers; take view sub above %d",
                           s->shape->tensors[i].name, n, TURN_MOST);
        if (!find(m, n))
            add_basis(m, n, opt);
    }
    return 0;
}

// to = each matrix of x by q along its longer side, q being Q (back) or its transpose.
static void turn_all(const struct turn *m, bool back, const float *x, float *to)
{
    memset(to, 0, m->shape->n_values * sizeof *to);
    for (uint32_t t = 0; t < m->shape->n_tensors; t++) {
        const struct shape_tensor *s = &m->shape->tensors[t];
        const struct basis_of *b = find(m, longer(s));
        const float *q = back ? b->q : b->turned, *from = x + s->offset;
        const bool rows = s->rows >= s->cols;
        const size_t n = b->n, others = rows ? s->cols : s->rows;
        float *out = to + s->offset;
        for (size_t k = 0; k < n; k++)
            for (size_t i = 0; i < (rows ? n : others); i++) {
                float w = rows ? q[k * n + i] : from[i * n + k];
                const float *row = rows ? from + k * others : q + k * n;
                float *sum = out + i * (rows ? others : n);
                for (size_t j = 0; j < (rows ? others : n); j++)
                    sum[j] += w * row[j];
            }
    }
}

static size_t rule_bytes(const struct local_setup *s)
{
    return s->shape->n_values * sizeof(float);
}

static void rule_expand(void *shared, const float *z, float *adapter)
{
    turn_all(shared, true, z, adapter);
}

static const float *rule_before(struct local *l, int32_t step, const float *z)
{
    (void)step;
    turn_all(l->shared, true, z, l->memory);
    return l->memory;
}

static void rule_after(struct local *l, int32_t step, float *grad)
{
    const struct turn *m = l->shared;
    (void)step;
    turn_all(m, false, grad, m->scratch);
    memcpy(grad, m->scratch, m->shape->n_values * sizeof *grad);
}

const struct local_rule turn_rule = {
    .open = rule_open,
    .close = rule_close,
    .size_bytes = rule_bytes,
    .expand = rule_expand,
    .before = rule_before,
    .after = rule_after,
};
