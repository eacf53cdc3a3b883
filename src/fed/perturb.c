// Forward gradients: a client goes through the model forward alone. A step's gradient is estimated
// from losses beside the adapter x, in directions v drawn at random with E[v v^T] = I:
//
//     g = 1/draws sum_d (L(x + eps v_d) - L(x - eps v_d)) / (2 eps) v_d
//
// so that nothing is kept of the way through the layers: what a client holds is what evaluation
// does, and two vectors as long as the adapter. Everything else of a round is as with a gradient:
// optimizer, codec, view, mean.
#include "fed/env.h"
#include "fed/local.h"
#include "fed/scheme.h"

#include <string.h>

struct perturb_opt {
    int32_t draws, noise;
    double eps;
};
enum { NOISE_SIGN, NOISE_NORMAL };
static const char *const noise_names[] = {"sign", "normal", NULL};

static const struct opt perturb_options[] = {
    OPT(struct perturb_opt, draws, "draws", "8", 1, 65536, "",
        "directions of a step; each takes two ways forward"),
    OPT(struct perturb_opt, eps, "eps", "1e-3", 1e-8, 1, "", "how far beside the adapter"),
    OPT_ENUM(struct perturb_opt, noise, "noise", "sign", noise_names,
             "directions of -1 and 1, or normal as the paper's"),
};

static size_t two_vectors(const struct local_setup *s)
{
    return 2 * s->shape->n_values * sizeof(float);
}

static void draw_range(const struct perturb_opt *o, const struct rng *stream, struct rng *normals,
                       struct shape_range r, float *v)
{
    for (size_t i = r.from; i < r.to; i++)
        v[i] = o->noise == NOISE_NORMAL                 ? (float)rng_normal(normals)
               : rng_at(stream, i / 32) >> (i % 32) & 1 ? 1.0f
                                                        : -1.0f;
}

// Only in what is trained.
static void draw(const struct local *l, int32_t step, int32_t d, float *v)
{
    const struct perturb_opt *o = l->opt;
    const struct train_job *job = l->job;
    const size_t n = l->setup->shape->n_values;
    struct rng stream = rng_stream(l->setup->seed, RNG_PERTURB, job->round, job->client,
                                   (uint32_t)step * (uint32_t)o->draws + (uint32_t)d);
    struct rng normals = stream;
    if (!job->trained) {
        draw_range(o, &stream, &normals, (struct shape_range){0, n}, v);
        return;
    }
    memset(v, 0, n * sizeof *v);
    for (int k = 0; k < job->n_trained; k++)
        draw_range(o, &stream, &normals, job->trained[k], v);
}

static double beside(const float *x, float eps, const float *v, size_t n, struct local_loss loss,
                     float *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = x[i] + eps * v[i];
    return loss.at(loss.arg, to);
}

static double estimate(struct local *l, int32_t step, const float *x, struct local_loss loss,
                       float *grad)
{
    const struct perturb_opt *o = l->opt;
    const size_t n = l->setup->shape->n_values;
    float *v = l->memory, *there = v + n, eps = (float)o->eps;
    double sum = 0;
    memset(grad, 0, n * sizeof *grad);
    for (int32_t d = 0; d < o->draws; d++) {
        draw(l, step, d, v);
        double up = beside(x, eps, v, n, loss, there), down = beside(x, -eps, v, n, loss, there);
        float slope = (float)((up - down) / (2 * (double)eps * o->draws));
        for (size_t i = 0; i < n; i++)
            grad[i] += slope * v[i];
        sum += (up + down) / 2;
    }
    return sum / o->draws;
}

static int check(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    const struct fisher_params *fisher = env->work->env.fisher;
    const struct fed_wrong wrong[] = {
        {!m->tokens->all, "tokens are scored on the way back, and there is none; leave them out"},
        {m->view.row->local, "directions are drawn in the adapter itself; take another view"},
        {fisher->accumulate == FISHER_ORACLE || m->tokens->oracle || fisher->scores > 0,
         "an oracle and scores of tokens need a way back; take another fisher.accumulate and set "
         "fisher.scores = 0"},
    };
    return fed_refuse(wrong, ARRAY_LEN(wrong), err);
}

static double ways_forward(const void *opt)
{
    return 2 * FORWARD_SHARE * ((const struct perturb_opt *)opt)->draws;
}

static const struct local_rule perturb_rule = {.size_bytes = two_vectors, .gradient = estimate};

const struct scheme scheme_fwdllm = {
    .name = "fwdllm",
    .help = "fedavg without a way back: gradients are estimated from losses beside the adapter",
    .source = "Xu et al. 2024 (FwdLLM) and its perturbed inference; directions are not chosen by "
              "the last gradient, and how many there are does not follow their variance",
    .options = perturb_options,
    .n_options = ARRAY_LEN(perturb_options),
    .option_bytes = sizeof(struct perturb_opt),
    .server = &server_sync,
    .worker = &worker_sync,
    .forward = true,
    .step_share_of = ways_forward,
    .check = check,
    .local = &perturb_rule,
    .commit = scheme_mean,
};
