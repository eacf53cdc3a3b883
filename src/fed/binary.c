#include "fed/binary.h"

#include "base/fmath.h"

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
