#include "fed/scheme.h"

#include "fed/workload.h"

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

// clang-format off
const struct scheme *const scheme_table[] = {
    &fedavg,          &scheme_fedavgm,  &scheme_fedadagrad, &scheme_fedadam, &scheme_fedyogi,
    &scheme_fedprox,  &scheme_scaffold, &scheme_feddyn,     &scheme_fednova, &scheme_fedbuff,
    &scheme_fedasync, &scheme_fedbat,   &scheme_fedex,      &scheme_flora,   &scheme_fedsa,
    &scheme_hetlora,  &scheme_flexlora, &scheme_lorafair,   &scheme_haflq,   &scheme_split,
    &scheme_splitlora, &scheme_fwdllm,  &scheme_mobillm,    &scheme_pae,     &scheme_fedmobillm,
    &scheme_fedmobillm_barrier, &noop,            NULL};
// clang-format on

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
