#include "fed/product.h"

#include "base/mem.h"
#include "fed/global.h"

#include <assert.h>
#include <string.h>

// "layers.0.q.A" and "layers.0.q.B" differ in their last letter.
static bool partners(const struct shape_tensor *a, const struct shape_tensor *b)
{
    size_t n = strlen(a->name);
    return b->kind == SHAPE_LORA_B && strlen(b->name) == n && n > 0 &&
           strncmp(a->name, b->name, n - 1) == 0 && a->rows == b->cols;
}

int products_open(struct products *p, const struct shape *shape, struct err *err)
{
    memset(p, 0, sizeof *p);
    p->pair = mem_alloc(MEM_SERVER, (shape->n_tensors + 1) * sizeof *p->pair);
    for (uint32_t i = 0; i < shape->n_tensors; i++) {
        const struct shape_tensor *a = &shape->tensors[i], *b = shape->tensors;
        const struct shape_tensor *end = b + shape->n_tensors;
        if (a->kind != SHAPE_LORA_A)
            continue;
        while (b < end && !partners(a, b))
            b++;
        if (b == end) {
            products_close(p);
            return err_set(err, "%s has no B to multiply it by", a->name);
        }
        p->pair[p->n_pairs++] =
            (struct product_pair){a->offset, b->offset, p->n, a->rows, b->rows, a->cols};
        p->n += (size_t)b->rows * a->cols;
        size_t side = b->rows > a->cols ? b->rows : a->cols;
        p->rank = a->rows > p->rank ? a->rows : p->rank;
        p->side = side > p->side ? side : p->side;
    }
    if (p->n_pairs == 0) {
        products_close(p);
        return err_set(err, "this task has no low-rank adapter");
    }
    return 0;
}

void products_close(struct products *p)
{
    mem_free(p->pair);
    memset(p, 0, sizeof *p);
}

// Of n values `apart` from each other.
static float norm_sq(const float *theta, const float *delta, size_t at, size_t n, size_t apart)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++, at += apart) {
        double v = (double)theta[at] + (double)delta[at];
        sum += v * v;
    }
    return (float)sum;
}

void products_reach(const struct products *p, const float *theta, const float *delta, size_t n,
                    float *reach)
{
    for (size_t i = 0; i < n; i++)
        reach[i] = 1;
    for (uint32_t i = 0; i < p->n_pairs; i++) {
        const struct product_pair *q = &p->pair[i];
        for (uint32_t k = 0; k < q->rank; k++) {
            const size_t row = q->a + (size_t)k * q->cols, column = q->b + k;
            const float of_b = norm_sq(theta, delta, column, q->rows, q->rank);
            const float of_a = norm_sq(theta, delta, row, q->cols, 1);
            for (size_t j = 0; j < q->cols; j++)
                reach[row + j] = of_b;
            for (size_t j = 0; j < q->rows; j++)
                reach[column + j * q->rank] = of_a;
        }
    }
}

void products_add(const struct products *p, const float *theta, const float *delta, float weight,
                  float *sum)
{
    for (uint32_t i = 0; i < p->n_pairs; i++) {
        const struct product_pair *q = &p->pair[i];
        for (size_t row = 0; row < q->rows; row++) {
            float *to = sum + q->at + row * q->cols;
            for (size_t k = 0; k < q->rank; k++) {
                size_t at_b = q->b + row * q->rank + k, at_a = q->a + k * q->cols;
                float b = weight * (delta ? theta[at_b] + delta[at_b] : theta[at_b]);
                const float *a = theta + at_a, *da = delta ? delta + at_a : NULL;
                for (size_t c = 0; c < q->cols; c++)
                    to[c] += b * (da ? a[c] + da[c] : a[c]);
            }
        }
    }
}

void products_mean(const struct products *p, const float *theta, double weight_sum, double lr,
                   float *sum)
{
    float scale = (float)(lr / weight_sum);
    for (size_t i = 0; i < p->n; i++)
        sum[i] *= scale;
    if (lr != 1)
        products_add(p, theta, NULL, (float)(1 - lr), sum);
}

void products_rest(const struct products *p, const float *theta, float *sum, float *backbone)
{
    products_add(p, theta, NULL, -1.0f, sum);
    for (size_t i = 0; i < p->n; i++)
        backbone[i] += sum[i];
}

// The schemes.

struct product_sums {
    struct products p;
    float *sum, *one; // (p.n) weighted; (n) one client's update
};

static void sums_close(struct global *g)
{
    struct product_sums *s = g->own;
    products_close(&s->p);
    mem_free(s->sum);
    mem_free(s->one);
    mem_free(s);
}

static int sums_open(struct global *g, struct err *err)
{
    struct product_sums *s = g->own = mem_alloc(MEM_SERVER, sizeof *s);
    if (products_open(&s->p, &g->env->work->shape, err))
        return -1;
    assert(s->p.n == g->n_model - g->n); // fed_prepare came first
    s->sum = mem_alloc(MEM_SERVER, s->p.n * sizeof *s->sum);
    s->one = mem_alloc(MEM_SERVER, g->n * sizeof *s->one);
    return 0;
}

static void sums_begin(struct global *g)
{
    struct product_sums *s = g->own;
    memset(s->sum, 0, s->p.n * sizeof *s->sum);
}

// The client's own B A goes into the sum of products, its update into the sum of updates.
static int sums_add(struct global *g, struct update *u, struct err *err)
{
    const struct product_sums *s = g->own;
    const struct view_inst *view = &g->env->method->view;
    struct codec_key key = view_key(view, g->env->seed, u->client, u->version, 0);
    int rc = codec_decode(view->part[0].vector[0].codec, &key, u->bytes, u->len, s->one, g->scratch,
                          err);
    if (rc)
        return rc;
    for (size_t i = 0; i < g->n; i++)
        g->sum[0][i] += u->weight * s->one[i];
    products_add(&s->p, g->theta, s->one, u->weight, s->sum);
    g->part[0].weight += (double)u->weight;
    return 0;
}

static bool sums_mean(struct global *g, double lr)
{
    const struct product_sums *s = g->own;
    products_mean(&s->p, g->theta, g->weight, lr, s->sum);
    return global_finite(s->sum, s->p.n);
}

// The weights themselves have moved by lr times the mean change of the products, exactly: what the
// adapter cannot hold of it goes to the backbone.
static void fedex_after(struct global *g, uint32_t version)
{
    const struct product_sums *s = g->own;
    (void)version;
    products_rest(&s->p, g->theta, s->sum, g->theta + g->n);
}

static void flora_after(struct global *g, uint32_t version)
{
    g->env->work->row->fresh(g->env->work, version + 1, g->theta);
    fedex_after(g, version);
}

static int products_check(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    if (!m->view.whole || (codec_needs(m->codec) & CODEC_OWN_AGG))
        return err_set(err,
                       "scheme %s multiplies whole decoded updates; it takes no view, and no "
                       "codec that aggregates its own way",
                       m->scheme->name);
    return 0;
}

const struct scheme scheme_fedex = {
    .name = "fedex",
    .help = "means of A and B; what their product lacks of the mean product moves the backbone",
    .source = "FedEx-LoRA, ACL 2025; the downlink carries the backbone's whole change, dense",
    .server = &server_sync,
    .worker = &worker_sync,
    .check = products_check,
    .backbone = true,
    .open = sums_open,
    .close = sums_close,
    .begin = sums_begin,
    .add = sums_add,
    .mean = sums_mean,
    .after = fedex_after,
    .commit = scheme_mean,
};

static int flora_check(const struct fed_env *env, struct err *err)
{
    if (products_check(env, err))
        return -1;
    if (fed_state_floats(env) > 0)
        return err_set(err,
                       "scheme flora begins with a new adapter every round, of which state kept "
                       "from the last says nothing; take a codec without state, "
                       "fed.opt_state = reset and fisher.persist = reset");
    return 0;
}

const struct scheme scheme_flora = {
    .name = "flora",
    .help = "the mean product (of stacked adapters) moves the backbone; adapters begin anew",
    .source = "FLoRA, NeurIPS 2024; the downlink carries the backbone's whole change, dense",
    .server = &server_sync,
    .worker = &worker_sync,
    .check = flora_check,
    .fresh = true,
    .backbone = true,
    .open = sums_open,
    .close = sums_close,
    .begin = sums_begin,
    .add = sums_add,
    .mean = sums_mean,
    .after = flora_after,
    .commit = scheme_mean,
};
