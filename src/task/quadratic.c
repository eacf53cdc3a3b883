#include "task/quadratic.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/stop.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

// Everything is padded to the width of the inner kernels: features to d4, outputs to m4, rows of a
// minibatch to a multiple of four. Padding is zero, so it adds nothing to any sum.
enum { TILE = 4 };

struct client_data {
    float *a; // (n, d4)
    float *b; // (n, m4)
};

struct quadratic {
    struct quadratic_params p;
    uint64_t seed;
    int32_t clients, d, m, n, d4, m4, rows_cap;
    float *x_true;              // (d4, m4)
    struct client_data *cache;  // one per client, or NULL
    struct client_data scratch; // the client at hand when there is no cache
    int32_t scratch_client;
    float *x, *g, *residual; // (d4, m4), (d4, m4), (rows_cap, m4)
    const float **row_a;     // (rows_cap)
    const float **row_b;     // (rows_cap)
    double *h, *r, *optimum; // (d, d) mean normal matrix, (d, m) right-hand side, (d, m) X*
    double b_half;           // mean_i ||B_i||^2 / (2 n_i)
    double optimum_norm;
};

static int32_t round_up(int32_t v)
{
    return (v + TILE - 1) / TILE * TILE;
}

static float *floats(size_t rows, int32_t cols)
{
    return mem_alloc(MEM_DATA, rows * (size_t)cols * sizeof(float));
}

// What the streams of RNG_DATA stand for here: a = client, b = the part.
enum { PART_FEATURES, PART_NOISE, PART_MEAN, PART_TRUTH };

static void make_client(const struct quadratic *q, int32_t client, struct client_data *out)
{
    uint32_t c = (uint32_t)client;
    struct rng mean = rng_stream(q->seed, RNG_DATA, c, PART_MEAN, 0);
    struct rng features = rng_stream(q->seed, RNG_DATA, c, PART_FEATURES, 0);
    struct rng noise = rng_stream(q->seed, RNG_DATA, c, PART_NOISE, 0);
    size_t d4 = (size_t)q->d4, m4 = (size_t)q->m4;

    float *mu = q->g; // (d4), free at this time
    for (int32_t j = 0; j < q->d; j++)
        mu[j] = (float)(q->p.het * rng_normal(&mean));
    for (size_t i = 0; i < (size_t)q->n; i++) {
        float *a = out->a + i * d4, *b = out->b + i * m4;
        for (int32_t j = 0; j < q->d; j++)
            a[j] = mu[j] + (float)rng_normal(&features);
        memset(b, 0, m4 * sizeof *b);
        for (int32_t j = 0; j < q->d; j++)
            for (int32_t k = 0; k < q->m; k++)
                b[k] += a[j] * q->x_true[(size_t)j * m4 + (size_t)k];
        for (int32_t k = 0; k < q->m; k++)
            b[k] += (float)(q->p.noise * rng_normal(&noise));
    }
}

static void data_alloc(const struct quadratic *q, struct client_data *c)
{
    c->a = floats((size_t)q->n, q->d4);
    c->b = floats((size_t)q->n, q->m4);
}

static const struct client_data *client_data(struct quadratic *q, int32_t client)
{
    assert(client >= 0 && client < q->clients);
    if (q->cache) {
        struct client_data *c = &q->cache[client];
        if (!c->a) {
            data_alloc(q, c);
            make_client(q, client, c);
        }
        return c;
    }
    if (q->scratch_client != client) {
        make_client(q, client, &q->scratch);
        q->scratch_client = client;
    }
    return &q->scratch;
}

static int check_memory(const struct quadratic_params *p, struct err *err)
{
    double d = round_up(p->features), m = round_up(p->outputs), n = p->samples;
    double floats = 3 * d * m + n * (d + m), doubles = 2 * d * d + 2 * d * m;
    char what[160];
    snprintf(what, sizeof what, "task.features = %d, task.outputs = %d, task.samples = %d",
             p->features, p->outputs, p->samples);
    return mem_fits(sizeof(float) * floats + sizeof(double) * doubles, what, err);
}

// What the known optimum takes, in multiplications: at most some ten minutes of them.
static const double WORK_MAX = 1e12, WORK_A_MINUTE = 1e11;

// A client's data are drawn (a normal number costs as much as 40) and summed; then d x d is solved
// for m columns.
static int check_work(const struct quadratic_params *p, int32_t clients, struct err *err)
{
    double d = p->features, m = p->outputs;
    double client = p->samples * d * (d / 2 + 2 * m + 40), rest = d * d * (d / 6 + m);
    double fit = floor((WORK_MAX - rest) / client), work = clients * client + rest;
    if (clients <= fit)
        return 0;
    if (fit < 1)
        return err_set(err,
                       "task.features = %d, task.outputs = %d, task.samples = %d: the known "
                       "optimum takes some %.0f minutes of computing for one client; lower them",
                       p->features, p->outputs, p->samples, work / WORK_A_MINUTE / clients);
    return err_set(err,
                   "fed.clients = %d: the known optimum of task.name = quadratic takes the data of "
                   "all of them, some %.0f minutes of computing; give at most %.0f, or lower "
                   "task.features, task.outputs or task.samples",
                   clients, work / WORK_A_MINUTE, fit);
}

int quadratic_check(const struct quadratic_params *p, int32_t clients, struct err *err)
{
    return check_memory(p, err) || check_work(p, clients, err) ? -1 : 0;
}

struct quadratic *quadratic_open(const struct quadratic_params *p, uint64_t seed, int32_t clients,
                                 bool cached)
{
    assert(p->features > 0 && p->outputs > 0 && p->samples > 0 && clients > 0);
    struct quadratic *q = mem_alloc(MEM_DATA, sizeof *q);
    q->p = *p;
    q->seed = seed;
    q->clients = clients;
    q->d = p->features;
    q->m = p->outputs;
    q->n = p->samples;
    q->d4 = round_up(q->d);
    q->m4 = round_up(q->m);
    q->x_true = floats((size_t)q->d4, q->m4);
    q->x = floats((size_t)q->d4, q->m4);
    q->g = floats((size_t)q->d4, q->m4);
    struct rng truth = rng_stream(seed, RNG_DATA, UINT32_MAX, PART_TRUTH, 0);
    for (size_t j = 0; j < (size_t)q->d; j++)
        for (size_t k = 0; k < (size_t)q->m; k++)
            q->x_true[j * (size_t)q->m4 + k] = (float)rng_normal(&truth);
    if (cached)
        q->cache = mem_alloc(MEM_DATA, (size_t)clients * sizeof *q->cache);
    else
        data_alloc(q, &q->scratch);
    q->scratch_client = -1;
    return q;
}

static void forget_optimum(struct quadratic *q)
{
    mem_free(q->h);
    mem_free(q->r);
    mem_free(q->optimum);
    q->h = q->r = q->optimum = NULL;
}

void quadratic_close(struct quadratic *q)
{
    if (!q)
        return;
    for (int32_t i = 0; q->cache && i < q->clients; i++) {
        mem_free(q->cache[i].a);
        mem_free(q->cache[i].b);
    }
    mem_free(q->cache);
    mem_free(q->scratch.a);
    mem_free(q->scratch.b);
    mem_free(q->x_true);
    mem_free(q->x);
    mem_free(q->g);
    mem_free(q->residual);
    mem_free((void *)q->row_a);
    mem_free((void *)q->row_b);
    forget_optimum(q);
    mem_free(q);
}

size_t quadratic_dim(const struct quadratic *q)
{
    return (size_t)q->d * (size_t)q->m;
}

int32_t quadratic_samples(const struct quadratic *q, int32_t client)
{
    assert(client >= 0 && client < q->clients);
    return q->n;
}

// (d, m) <-> the padded (d4, m4); padding of x stays zero.
static void pad(const struct quadratic *q, const float *from, float *to)
{
    for (size_t j = 0; j < (size_t)q->d; j++)
        memcpy(to + j * (size_t)q->m4, from + j * (size_t)q->m, (size_t)q->m * sizeof *to);
}

static void unpad(const struct quadratic *q, const float *from, float *to)
{
    for (size_t j = 0; j < (size_t)q->d; j++)
        memcpy(to + j * (size_t)q->m, from + j * (size_t)q->m4, (size_t)q->m * sizeof *to);
}

static void rows_reserve(struct quadratic *q, int32_t rows)
{
    if (rows <= q->rows_cap)
        return;
    mem_free(q->residual);
    mem_free((void *)q->row_a);
    mem_free((void *)q->row_b);
    q->rows_cap = rows;
    q->residual = floats((size_t)rows, q->m4);
    q->row_a = mem_alloc(MEM_DATA, (size_t)rows * sizeof *q->row_a);
    q->row_b = mem_alloc(MEM_DATA, (size_t)rows * sizeof *q->row_b);
}

// residual (rows, m4) = A x - B for the rows at hand, four rows by four outputs at a time.
static void residuals(struct quadratic *q, int32_t rows, const float *x)
{
    size_t m4 = (size_t)q->m4;
    for (int32_t i = 0; i < rows; i += TILE) {
        const float *a0 = q->row_a[i], *a1 = q->row_a[i + 1];
        const float *a2 = q->row_a[i + 2], *a3 = q->row_a[i + 3];
        for (size_t k = 0; k < m4; k += TILE) {
            float s[TILE][TILE] = {{0}};
            for (size_t j = 0; j < (size_t)q->d4; j++) {
                const float *v = x + j * m4 + k;
                for (int c = 0; c < TILE; c++) {
                    s[0][c] += a0[j] * v[c];
                    s[1][c] += a1[j] * v[c];
                    s[2][c] += a2[j] * v[c];
                    s[3][c] += a3[j] * v[c];
                }
            }
            for (int t = 0; t < TILE; t++)
                for (size_t c = 0; c < TILE; c++)
                    q->residual[(size_t)(i + t) * m4 + k + c] = s[t][c] - q->row_b[i + t][k + c];
        }
    }
}

// g (d4, m4) = A^T residual / n + ridge x, four features by four outputs at a time.
static void gradient(struct quadratic *q, int32_t rows, float scale, const float *x, float *g)
{
    size_t m4 = (size_t)q->m4;
    float ridge = (float)q->p.ridge;
    for (size_t j = 0; j < (size_t)q->d4; j += TILE) {
        for (size_t k = 0; k < m4; k += TILE) {
            float s[TILE][TILE] = {{0}};
            for (int32_t i = 0; i < rows; i++) {
                const float *a = q->row_a[i] + j;
                const float *v = q->residual + (size_t)i * m4 + k;
                for (int c = 0; c < TILE; c++) {
                    s[0][c] += a[0] * v[c];
                    s[1][c] += a[1] * v[c];
                    s[2][c] += a[2] * v[c];
                    s[3][c] += a[3] * v[c];
                }
            }
            for (size_t t = 0; t < TILE; t++)
                for (size_t c = 0; c < TILE; c++)
                    g[(j + t) * m4 + k + c] = scale * s[t][c] + ridge * x[(j + t) * m4 + k + c];
        }
    }
}

// Loss and gradient of one minibatch at the padded x; batch = 0 takes every sample.
static double minibatch(struct quadratic *q, const struct client_data *data, const float *x,
                        int32_t batch, struct rng *batches, float *g)
{
    int32_t n = batch ? batch : q->n, rows = round_up(n);
    rows_reserve(q, rows);
    for (int32_t i = 0; i < rows; i++) {
        size_t s = i >= n ? 0 : batch ? rng_below(batches, (uint32_t)q->n) : (size_t)i;
        q->row_a[i] = data->a + s * (size_t)q->d4;
        q->row_b[i] = data->b + s * (size_t)q->m4;
    }
    residuals(q, rows, x);
    size_t m4 = (size_t)q->m4;
    memset(q->residual + (size_t)n * m4, 0, (size_t)(rows - n) * m4 * sizeof(float));
    double squares = 0, ridge = 0;
    for (size_t i = 0; i < (size_t)n * m4; i++)
        squares += (double)q->residual[i] * (double)q->residual[i];
    for (size_t i = 0; i < (size_t)q->d4 * m4; i++)
        ridge += (double)x[i] * (double)x[i];
    gradient(q, rows, 1.0f / (float)n, x, g);
    return squares / (2.0 * n) + q->p.ridge / 2.0 * ridge;
}

double quadratic_gradient(struct quadratic *q, int32_t client, const float *x, int32_t batch,
                          struct rng *batches, float *g)
{
    const struct client_data *data = client_data(q, client);
    pad(q, x, q->x);
    double loss = minibatch(q, data, q->x, batch, batches, q->g);
    unpad(q, q->g, g);
    return loss;
}

double quadratic_train(struct quadratic *q, int32_t client, float *x, float *velocity,
                       int32_t steps, int32_t batch, double lr, double momentum,
                       struct rng *batches)
{
    assert(batch > 0 && steps > 0 && (velocity || momentum == 0));
    const struct client_data *data = client_data(q, client);
    size_t m = (size_t)q->m, m4 = (size_t)q->m4;
    float rate = (float)lr, keep = (float)momentum;
    double loss = 0;
    pad(q, x, q->x);
    for (int32_t s = 0; s < steps; s++) {
        loss += minibatch(q, data, q->x, batch, batches, q->g);
        if (velocity) {
            for (size_t j = 0; j < (size_t)q->d; j++) {
                for (size_t k = 0; k < m; k++) {
                    float *v = &velocity[j * m + k];
                    *v = keep * *v + q->g[j * m4 + k];
                    q->g[j * m4 + k] = *v;
                }
            }
        }
        for (size_t i = 0; i < (size_t)q->d4 * m4; i++)
            q->x[i] -= rate * q->g[i];
    }
    unpad(q, q->x, x);
    return loss / steps;
}

// h += A^T A / (N n), r += A^T B / (N n), b_half += ||B||^2 / (2 N n)
static void add_normal(struct quadratic *q, const struct client_data *c)
{
    size_t d = (size_t)q->d, m = (size_t)q->m;
    double w = 1.0 / ((double)q->n * q->clients);
    for (size_t i = 0; i < (size_t)q->n; i++) {
        const float *a = c->a + i * (size_t)q->d4, *b = c->b + i * (size_t)q->m4;
        for (size_t j = 0; j < d; j++) {
            double aj = w * (double)a[j];
            for (size_t k = 0; k <= j; k++)
                q->h[j * d + k] += aj * (double)a[k];
            for (size_t k = 0; k < m; k++)
                q->r[j * m + k] += aj * (double)b[k];
        }
        for (size_t k = 0; k < m; k++)
            q->b_half += w / 2.0 * (double)b[k] * (double)b[k];
    }
}

// to (m) -= f from
static void take_off(double *to, double f, const double *from, size_t m)
{
    for (size_t k = 0; k < m; k++)
        to[k] -= f * from[k];
}

// x (m) /= f
static void divide(double *x, double f, size_t m)
{
    for (size_t k = 0; k < m; k++)
        x[k] /= f;
}

// X* = h^-1 r by h = L L^T; x (d, m) starts as r. Row by row, whose d steps are short: each asks
// whether to stop.
static void cholesky_solve(size_t d, size_t m, const double *h, double *x)
{
    double *l = mem_alloc(MEM_DATA, d * d * sizeof *l);
    for (size_t i = 0; i < d && !stop_asked(); i++) {
        for (size_t j = 0; j <= i; j++) {
            double s = h[i * d + j];
            for (size_t k = 0; k < j; k++)
                s -= l[i * d + k] * l[j * d + k];
            l[i * d + j] = i == j ? sqrt(s) : s / l[j * d + j];
        }
    }
    for (size_t i = 0; i < d && !stop_asked(); i++) {
        for (size_t j = 0; j < i; j++)
            take_off(x + i * m, l[i * d + j], x + j * m, m);
        divide(x + i * m, l[i * d + i], m);
    }
    for (size_t i = d; i-- > 0 && !stop_asked();) {
        for (size_t j = i + 1; j < d; j++)
            take_off(x + i * m, l[j * d + i], x + j * m, m);
        divide(x + i * m, l[i * d + i], m);
    }
    mem_free(l);
}

// Nobody should wonder why nothing happens: past a second it is said how long it will take.
static void sum_clients(struct quadratic *q)
{
    int64_t t_begin_ns = clock_ns();
    bool told = false;
    for (int32_t i = 0; i < q->clients && !stop_asked(); i++) {
        add_normal(q, client_data(q, i));
        double spent_s = (double)(clock_ns() - t_begin_ns) / 1e9;
        if (told || spent_s < 1)
            continue;
        told = true;
        note("task.name = quadratic: the known optimum takes the data of all clients, some %.0f s "
             "for fed.clients = %d",
             ceil(spent_s / (i + 1) * q->clients), q->clients);
    }
}

// False where it was given up.
static bool solve(struct quadratic *q)
{
    if (q->optimum)
        return true;
    size_t d = (size_t)q->d, m = (size_t)q->m;
    q->h = mem_alloc(MEM_DATA, d * d * sizeof *q->h);
    q->r = mem_alloc(MEM_DATA, d * m * sizeof *q->r);
    q->optimum = mem_alloc(MEM_DATA, d * m * sizeof *q->optimum);
    q->b_half = 0;
    sum_clients(q);
    for (size_t i = 0; i < d; i++) {
        q->h[i * d + i] += q->p.ridge;
        for (size_t j = 0; j < i; j++)
            q->h[j * d + i] = q->h[i * d + j];
    }
    memcpy(q->optimum, q->r, d * m * sizeof *q->r);
    cholesky_solve(d, m, q->h, q->optimum);
    if (stop_asked()) {
        forget_optimum(q);
        return false;
    }
    double norm = 0;
    for (size_t i = 0; i < d * m; i++)
        norm += q->optimum[i] * q->optimum[i];
    q->optimum_norm = sqrt(norm);
    return true;
}

double quadratic_error(struct quadratic *q, const float *x)
{
    if (!solve(q))
        return NAN;
    double s = 0;
    for (size_t i = 0; i < quadratic_dim(q); i++) {
        double diff = (double)x[i] - q->optimum[i];
        s += diff * diff;
    }
    return sqrt(s) / q->optimum_norm;
}

// F(X) = tr(X^T H X) / 2 - tr(X^T R) + mean_i ||B_i||^2 / (2 n_i), with the ridge inside H.
double quadratic_loss(struct quadratic *q, const float *x)
{
    if (!solve(q))
        return NAN;
    size_t d = (size_t)q->d, m = (size_t)q->m;
    double f = q->b_half;
    for (size_t i = 0; i < d; i++) {
        for (size_t k = 0; k < m; k++) {
            double hx = 0;
            for (size_t j = 0; j < d; j++)
                hx += q->h[i * d + j] * (double)x[j * m + k];
            f += (double)x[i * m + k] * (hx / 2.0 - q->r[i * m + k]);
        }
    }
    return f;
}

const double *quadratic_optimum(struct quadratic *q)
{
    return solve(q) ? q->optimum : NULL;
}
