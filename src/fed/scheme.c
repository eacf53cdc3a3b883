#include "fed/scheme.h"

#include "fed/workload.h"

#include <math.h>
#include <string.h>

void scheme_mean(const void *opt, const struct step *s)
{
    float lr = (float)s->lr;
    (void)opt;
    for (size_t i = s->range.from; i < s->range.to; i++)
        s->theta[i] += lr * s->delta[i];
}

static const struct scheme fedavg = {
    .name = "fedavg",
    .help = "weighted mean of the updates, times the server step",
    .source = "McMahan et al. 2017",
    .server = &server_sync,
    .worker = &worker_sync,
    .commit = scheme_mean,
};

// A zero update.
static void idle(struct workload *w, struct train_job *jobs, int n, struct recorder *rec)
{
    (void)rec;
    for (int i = 0; i < n; i++) {
        float *out[] = {jobs[i].delta, jobs[i].sens, jobs[i].grad};
        for (size_t k = 0; k < ARRAY_LEN(out); k++)
            if (out[k])
                memset(out[k], 0, w->shape.n_values * sizeof *out[k]);
        jobs[i].samples = 1;
    }
}

static const struct scheme noop = {
    .name = "noop",
    .help = "no training: clients return zeros; what the machinery alone costs (floor)",
    .source = "",
    .server = &server_sync,
    .worker = &worker_sync,
    .train = idle,
    .commit = scheme_mean,
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

static void adaptive_init(const void *opt, float *state, size_t n)
{
    const struct adaptive_opt *o = opt;
    memset(state, 0, n * sizeof *state);
    for (size_t i = 0; i < n; i++)
        state[n + i] = (float)(o->tau * o->tau);
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

#define ADAPTIVE(n, c, h)                                                                          \
    {                                                                                              \
        .name = n, .help = h, .source = "Reddi et al. 2021, Algorithm 2",                          \
        .options = adaptive_options, .n_options = ARRAY_LEN(adaptive_options),                     \
        .option_bytes = sizeof(struct adaptive_opt), .server = &server_sync,                       \
        .worker = &worker_sync, .state_vectors = 2, .init = adaptive_init, .commit = c             \
    }

static const struct scheme fedadam =
    ADAPTIVE("fedadam", adam_commit, "Adam at the server on the mean update");
static const struct scheme fedyogi =
    ADAPTIVE("fedyogi", yogi_commit, "Yogi at the server on the mean update");

const struct scheme *const scheme_table[] = {&fedavg,
                                             &fedadam,
                                             &fedyogi,
                                             &scheme_fedprox,
                                             &scheme_scaffold,
                                             &scheme_fedbuff,
                                             &scheme_fedasync,
                                             &scheme_fedbat,
                                             &scheme_fedex,
                                             &scheme_flora,
                                             &scheme_split,
                                             &noop,
                                             NULL};

const struct scheme *scheme_find(const char *name)
{
    for (int i = 0; scheme_table[i]; i++)
        if (strcmp(scheme_table[i]->name, name) == 0)
            return scheme_table[i];
    return NULL;
}

int scheme_vectors(const struct scheme *s)
{
    int n = 1;
    while (s->up && s->up[n - 1].name)
        n++;
    return n;
}
