#include "fed/binary.h"

#include "base/fmath.h"
#include "fed/env.h"
#include "fed/scheme.h"

#include <math.h>
#include <string.h>

size_t binary_floats(const struct shape *shape)
{
    return 5 * (size_t)shape->n_tensors;
}

void binary_init(struct binary *b, const struct binary_opt *opt, const struct shape *shape,
                 float *block)
{
    size_t n = shape->n_tensors;
    memset(block, 0, binary_floats(shape) * sizeof *block);
    *b = (struct binary){.opt = opt,
                         .shape = shape,
                         .alpha0 = block,
                         .a = block + n,
                         .grad = block + 2 * n,
                         .mean = block + 3 * n,
                         .var = block + 4 * n};
}

static size_t values(const struct shape_tensor *t)
{
    return (size_t)t->rows * t->cols;
}

void binary_begin(struct binary *b, const float *theta, const float *adapter)
{
    for (uint32_t i = 0; i < b->shape->n_tensors; i++) {
        const struct shape_tensor *t = &b->shape->tensors[i];
        double sum = 0;
        for (size_t j = t->offset; j < t->offset + values(t); j++)
            sum += fabs((double)adapter[j] - (double)theta[j]);
        b->alpha0[i] = values(t) ? (float)(sum / (double)values(t)) : 0;
    }
}

double binary_alpha(const struct binary *b, uint32_t tensor)
{
    double alpha = (double)b->alpha0[tensor] * fmath_exp(b->opt->rho * (double)b->a[tensor]);
    if (b->alpha0[tensor] <= 0)
        return 0;
    alpha = alpha < b->opt->alpha_min ? b->opt->alpha_min : alpha;
    return alpha > b->opt->alpha_max ? b->opt->alpha_max : alpha;
}

void binary_draw(const struct binary *b, const float *theta, const float *adapter, struct rng *r,
                 float *y)
{
    for (uint32_t i = 0; i < b->shape->n_tensors; i++) {
        const struct shape_tensor *t = &b->shape->tensors[i];
        float alpha = (float)binary_alpha(b, i);
        for (size_t j = t->offset; j < t->offset + values(t); j++) {
            // b = floor((m / alpha + 1) / 2 + U), U in [0, 1) with 32 bits
            double u = (double)rng_u32(r) * 0x1p-32, m = (double)adapter[j] - (double)theta[j];
            y[j] = alpha <= 0 ? 0 : (m / (double)alpha + 1) / 2 + u >= 1 ? alpha : -alpha;
        }
    }
}

void binary_gradient(struct binary *b, const float *theta, const float *adapter, const float *y,
                     float *grad)
{
    for (uint32_t i = 0; i < b->shape->n_tensors; i++) {
        const struct shape_tensor *t = &b->shape->tensors[i];
        double alpha = (double)(float)binary_alpha(b, i), sum = 0;
        double free = (double)b->alpha0[i] * fmath_exp(b->opt->rho * (double)b->a[i]);
        for (size_t j = t->offset; j < t->offset + values(t) && alpha > 0; j++) {
            double m = (double)adapter[j] - (double)theta[j], dy = (double)grad[j];
            if (fabs(m) <= alpha) {
                sum += dy * ((y[j] > 0 ? 1 : -1) - m / alpha);
            } else {
                sum += m > 0 ? dy : -dy;
                grad[j] = 0;
            }
        }
        // dalpha / da = rho alpha where the clamp does not hold it
        bool held = free < b->opt->alpha_min || free > b->opt->alpha_max;
        b->grad[i] = held ? 0 : (float)(b->opt->rho * alpha * sum);
    }
}

void binary_step(struct binary *b, const struct optim_params *p)
{
    b->step++;
    double beta1 = p->kind == OPTIM_ADAMW ? p->beta1 : p->momentum, beta2 = p->beta2;
    double fix1 = 1, fix2 = 1; // 1 - beta^step
    for (int32_t s = 0; s < b->step; s++) {
        fix1 *= beta1;
        fix2 *= beta2;
    }
    for (uint32_t i = 0; i < b->shape->n_tensors; i++) {
        double g = (double)b->grad[i], mean, var;
        if (p->kind == OPTIM_ADAMW) {
            mean = beta1 * (double)b->mean[i] + (1 - beta1) * g;
            var = beta2 * (double)b->var[i] + (1 - beta2) * g * g;
            b->var[i] = (float)var;
            b->a[i] -= (float)(p->lr * (mean / (1 - fix1)) / (sqrt(var / (1 - fix2)) + p->eps));
        } else {
            mean = beta1 * (double)b->mean[i] + g;
            b->a[i] -= (float)(p->lr * mean);
        }
        b->mean[i] = (float)mean;
    }
}

// The rule. Memory of a client: its state, then binary_floats, y (n) and theta + y (n).

struct binary_client {
    struct binary b;
    struct rng signs;
    int32_t warm; // steps before updates are binary
    float *block, *y, *with_y;
};

static size_t rule_bytes(const struct local_setup *s)
{
    size_t floats = binary_floats(s->shape) + 2 * s->shape->n_values;
    return sizeof(struct binary_client) + floats * sizeof(float);
}

static void rule_begin(struct local *l)
{
    struct binary_client *c = l->memory;
    const struct binary_opt *opt = l->opt;
    c->block = (float *)(c + 1);
    c->y = c->block + binary_floats(l->setup->shape);
    c->with_y = c->y + l->setup->shape->n_values;
    c->warm = (int32_t)(opt->warmup * (double)l->job->steps);
    binary_init(&c->b, opt, l->setup->shape, c->block);
    c->signs = rng_stream(l->setup->seed, RNG_BINARY, l->job->round, l->job->client, 0);
}

static const float *rule_before(struct local *l, int32_t step, const float *x)
{
    struct binary_client *c = l->memory;
    if (step < c->warm)
        return x;
    if (step == c->warm)
        binary_begin(&c->b, l->job->theta, x);
    binary_draw(&c->b, l->job->theta, x, &c->signs, c->y);
    for (size_t i = 0; i < l->setup->shape->n_values; i++)
        c->with_y[i] = l->job->theta[i] + c->y[i];
    return c->with_y;
}

static void rule_after(struct local *l, int32_t step, float *grad)
{
    struct binary_client *c = l->memory;
    if (step < c->warm)
        return;
    binary_gradient(&c->b, l->job->theta, l->job->delta, c->y, grad);
    binary_step(&c->b, l->setup->optim);
}

static const float *rule_end(struct local *l)
{
    struct binary_client *c = l->memory;
    if (c->warm == l->job->steps)
        binary_begin(&c->b, l->job->theta, l->job->delta);
    binary_draw(&c->b, l->job->theta, l->job->delta, &c->signs, c->y);
    return c->y;
}

static const struct local_rule binary_rule = {
    .size_bytes = rule_bytes,
    .begin = rule_begin,
    .before = rule_before,
    .after = rule_after,
    .end = rule_end,
};

// The scheme.

static const struct opt binary_options[] = {
    OPT(struct binary_opt, warmup, "warmup", "0.5", 0, 1, "",
        "share of the local steps before updates are binary"),
    OPT(struct binary_opt, rho, "rho", "6", 0, 1e3, "", "alpha = alpha0 exp(rho a)"),
    OPT(struct binary_opt, alpha_min, "alpha_min", "0", 0, 1e6, "",
        "least alpha; 5e-4 in the paper"),
    OPT(struct binary_opt, alpha_max, "alpha_max", "1", 0, 1e6, "", "most; 5e-2 in the paper"),
};

static int binary_check(const struct fed_env *env, struct err *err)
{
    if (env->method->view.row->local)
        return err_set(err,
                       "scheme fedbat binarises the matrices of an adapter as they are; it "
                       "does not go with view %s",
                       env->method->view.row->name);
    return 0;
}

const struct scheme scheme_fedbat = {
    .name = "fedbat",
    .help = "clients learn updates of +-alpha, one alpha per matrix; fedbat/sign sends just that",
    .source = "FedBAT, ICML 2024",
    .options = binary_options,
    .n_options = ARRAY_LEN(binary_options),
    .option_bytes = sizeof(struct binary_opt),
    .server = &server_sync,
    .worker = &worker_sync,
    .check = binary_check,
    .local = &binary_rule,
    .commit = scheme_mean,
};
