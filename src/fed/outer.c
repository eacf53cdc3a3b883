// Optimisers at the server: the mean update stands in for a gradient. Only what a round moved
// steps, and the server's state of the rest stays as it is.
#include "fed/scheme.h"

#include <math.h>
#include <string.h>

// Hsu et al. 2019: m = beta m + D; x += lr m. With nesterov the step looks ahead, D + beta m: that
// is the outer optimiser of DiLoCo (Douillard et al. 2023), which takes beta = 0.9 and lr = 0.7.
struct momentum_opt {
    double beta;
    bool nesterov;
};

static const struct opt momentum_options[] = {
    OPT(struct momentum_opt, beta, "beta", "0.9", 0, 0.99999, "", "decay of the momentum"),
    OPT(struct momentum_opt, nesterov, "nesterov", "off", 0, 1, "",
        "steps along D + beta m instead of m, as DiLoCo does"),
};

static void momentum_commit(const void *opt, const struct step *s)
{
    const struct momentum_opt *o = opt;
    float beta = (float)o->beta, lr = (float)s->lr, *m = s->state;
    for (size_t i = s->range.from; i < s->range.to; i++) {
        float d = s->delta[i];
        m[i] = beta * m[i] + d;
        s->theta[i] += lr * (o->nesterov ? d + beta * m[i] : m[i]);
    }
}

const struct scheme scheme_fedavgm = {
    .name = "fedavgm",
    .help = "momentum at the server on the mean update; nesterov=on is DiLoCo's outer optimiser",
    .source = "Hsu et al. 2019; Douillard et al. 2023 (DiLoCo)",
    .options = momentum_options,
    .n_options = ARRAY_LEN(momentum_options),
    .option_bytes = sizeof(struct momentum_opt),
    .server = &server_sync,
    .worker = &worker_sync,
    .state_vectors = 1,
    .commit = momentum_commit,
};

// Reddi et al. 2021, Algorithm 2: m = b1 m + (1-b1) D; v by row; x += lr m / (sqrt(v) + tau); v
// starts at tau^2.
struct adaptive_opt {
    double beta1, beta2, tau;
};

static const struct opt adaptive_options[] = {
    OPT(struct adaptive_opt, beta1, "beta1", "0.9", 0, 0.99999, "", "decay of the mean"),
    OPT(struct adaptive_opt, beta2, "beta2", "0.99", 0, 0.99999, "", "decay of the square"),
    OPT(struct adaptive_opt, tau, "tau", "0.001", 1e-12, 1e3, "",
        "adaptivity: added to the root, starts its square"),
};

static const struct opt adagrad_options[] = {
    OPT(struct adaptive_opt, beta1, "beta1", "0", 0, 0.99999, "", "decay of the mean"),
    OPT(struct adaptive_opt, tau, "tau", "0.001", 1e-12, 1e3, "",
        "adaptivity: added to the root, starts its sum of squares"),
};

static void adaptive_init(const void *opt, float *state, size_t n)
{
    const struct adaptive_opt *o = opt;
    memset(state, 0, n * sizeof *state);
    for (size_t i = 0; i < n; i++)
        state[n + i] = (float)(o->tau * o->tau);
}

static void adagrad_commit(const void *opt, const struct step *s)
{
    const struct adaptive_opt *o = opt;
    float b1 = (float)o->beta1, tau = (float)o->tau, lr = (float)s->lr;
    float *m = s->state, *v = s->state + s->n;
    for (size_t i = s->range.from; i < s->range.to; i++) {
        float d = s->delta[i];
        m[i] = b1 * m[i] + (1.0f - b1) * d;
        v[i] += d * d;
        s->theta[i] += lr * m[i] / (sqrtf(v[i]) + tau);
    }
}

static void adam_commit(const void *opt, const struct step *s)
{
    const struct adaptive_opt *o = opt;
    float b1 = (float)o->beta1, b2 = (float)o->beta2, tau = (float)o->tau, lr = (float)s->lr;
    float *m = s->state, *v = s->state + s->n;
    for (size_t i = s->range.from; i < s->range.to; i++) {
        float d = s->delta[i];
        m[i] = b1 * m[i] + (1.0f - b1) * d;
        v[i] = b2 * v[i] + (1.0f - b2) * d * d;
        s->theta[i] += lr * m[i] / (sqrtf(v[i]) + tau);
    }
}

static void yogi_commit(const void *opt, const struct step *s)
{
    const struct adaptive_opt *o = opt;
    float b1 = (float)o->beta1, b2 = (float)o->beta2, tau = (float)o->tau, lr = (float)s->lr;
    float *m = s->state, *v = s->state + s->n;
    for (size_t i = s->range.from; i < s->range.to; i++) {
        float d = s->delta[i], q = d * d;
        float sign = v[i] > q ? 1.0f : v[i] < q ? -1.0f : 0.0f;
        m[i] = b1 * m[i] + (1.0f - b1) * d;
        v[i] -= (1.0f - b2) * q * sign;
        s->theta[i] += lr * m[i] / (sqrtf(v[i]) + tau);
    }
}

#define ADAPTIVE(n, o, c, h)                                                                       \
    {                                                                                              \
        .name = n, .help = h, .source = "Reddi et al. 2021, Algorithm 2", .options = o,            \
        .n_options = ARRAY_LEN(o), .option_bytes = sizeof(struct adaptive_opt),                    \
        .server = &server_sync, .worker = &worker_sync, .state_vectors = 2, .init = adaptive_init, \
        .commit = c                                                                                \
    }

const struct scheme scheme_fedadagrad = ADAPTIVE("fedadagrad", adagrad_options, adagrad_commit,
                                                 "Adagrad at the server on the mean update");
const struct scheme scheme_fedadam =
    ADAPTIVE("fedadam", adaptive_options, adam_commit, "Adam at the server on the mean update");
const struct scheme scheme_fedyogi =
    ADAPTIVE("fedyogi", adaptive_options, yogi_commit, "Yogi at the server on the mean update");
