// Schemes that hold clients to the global model: a proximal term (FedProx), control variates
// (SCAFFOLD) and dynamic regularisation (FedDyn).
#include "fed/env.h"
#include "fed/global.h"
#include "fed/local.h"
#include "fed/scheme.h"

#include <string.h>

// FedProx: f_i(x) + mu / 2 ||x - theta||^2.

struct prox_opt {
    double mu;
};

static const struct opt prox_options[] = {
    OPT(struct prox_opt, mu, "mu", "0.01", 0, 1e6, "", "weight of half the squared distance"),
};

static void prox_after(struct local *l, int32_t step, float *grad)
{
    const struct prox_opt *o = l->opt;
    const float *x = l->job->delta, *theta = l->job->theta, mu = (float)o->mu;
    (void)step;
    for (size_t i = 0; i < l->setup->shape->n_values; i++)
        grad[i] += mu * (x[i] - theta[i]);
}

static const struct local_rule prox_rule = {.after = prox_after};

const struct scheme scheme_fedprox = {
    .name = "fedprox",
    .help = "fedavg, with a pull towards the round's model in local training",
    .source = "Li et al. 2020, FedProx",
    .options = prox_options,
    .n_options = ARRAY_LEN(prox_options),
    .option_bytes = sizeof(struct prox_opt),
    .server = &server_sync,
    .worker = &worker_sync,
    .local = &prox_rule,
    .commit = scheme_mean,
};

// SCAFFOLD: clients step along g - c_i + c. After K steps c_i becomes the mean of their gradients,
// which for plain SGD is option II of the paper, c_i - c + (theta - x) / (K lr). A codec that asks
// for sensitivities gets those of the corrected gradient. What travels is
//   incr     the change of c_i; the server's c moves by the sampled share of the mean change, so
//            that it stays the mean of all c_i
//   replace  how c_i differs from c; c becomes the mean of the sampled clients' alone, as Zhu et
//   al.
//            2026 have it
// With a view of random coordinates the two are Subspace-SCAFFOLD, which keeps controls of a
// subspace until its next turn (backfill). FedSub has dual variables c - c_i of the subspace alone
// and turns them into the next one, by P_old P_new^T, which for subspaces of one drawing is zero:
// without backfill they begin anew with every turn.

struct control_opt {
    int32_t control;
    bool backfill;
};
enum { CONTROL_INCR, CONTROL_REPLACE };

static const char *const control_names[] = {"incr", "replace", NULL};

static const struct opt control_options[] = {
    OPT_ENUM(struct control_opt, control, "control", "incr", control_names,
             "the server's: follows all clients, or is the mean of the round's"),
    OPT(struct control_opt, backfill, "backfill", "on", 0, 0, "",
        "controls of what has no turn are kept for its next one; off: dropped, as in FedSub"),
};

// The sum of gradients, and c - c_i.
static size_t control_bytes(const struct local_setup *s)
{
    return 2 * s->shape->n_values * sizeof(float);
}

static void control_begin(struct local *l)
{
    const struct control_opt *o = l->opt;
    const size_t n = l->setup->shape->n_values;
    const float *c = l->job->down[0];
    float *own = l->job->own[0], *shift = (float *)l->memory + n;
    if (!o->backfill && l->job->moved)
        memset(own, 0, n * sizeof *own);
    for (size_t i = 0; i < n; i++)
        shift[i] = c[i] - own[i];
}

// What a step costs is its way through memory.
static void control_after(struct local *l, int32_t step, float *grad)
{
    const size_t n = l->setup->shape->n_values;
    float *restrict sum = l->memory, *restrict g = grad;
    const float *restrict shift = sum + n;
    for (size_t i = 0; i < n; i++) {
        sum[i] = step > 0 ? sum[i] + g[i] : g[i];
        g[i] += shift[i];
    }
}

// A control variate of what the view has not trained stays as it is.
static const float *control_end(struct local *l)
{
    const struct control_opt *o = l->opt;
    const struct train_job *job = l->job;
    const float *from = o->control == CONTROL_REPLACE ? job->down[0] : job->own[0];
    const struct shape_range whole = {0, l->setup->shape->n_values};
    const struct shape_range *range = job->trained ? job->trained : &whole;
    int n = job->trained ? job->n_trained : 1;
    const float *sum = l->memory, each = 1.0f / (float)l->job->steps;
    float *own = job->own[0], *up = job->up[0];
    memset(up, 0, l->setup->shape->n_values * sizeof *up);
    for (int r = 0; r < n; r++)
        for (size_t i = range[r].from; i < range[r].to; i++) {
            float next = each * sum[i];
            up[i] = next - from[i];
            own[i] = next;
        }
    return NULL;
}

static const struct local_rule control_rule = {
    .size_bytes = control_bytes,
    .begin = control_begin,
    .after = control_after,
    .end = control_end,
};

static void control_commit(const void *opt, const struct step *s)
{
    const struct control_opt *o = opt;
    float share = o->control == CONTROL_REPLACE ? 1 : (float)s->arrived / (float)s->clients;
    scheme_mean(opt, s);
    for (size_t i = s->range.from; i < s->range.to; i++)
        s->state[i] += share * s->up[0][i];
}

// Before the next subspace has its turn. After a round without updates this is late, and still in
// time for the turn of the subspace that it is about.
static void control_turn(struct global *g, uint32_t version)
{
    const struct control_opt *o = g->env->method->scheme_opt;
    if (!o->backfill && !view_stays(&g->env->method->view, 0, version, version + 1))
        memset(g->state, 0, g->n * sizeof *g->state);
}

// Clients keep their controls as they trained them, and the server what it decoded: only where part
// of the adapter is everybody's in a round is `arrived` the number of those who sent it.
static int control_check(const struct fed_env *env, struct err *err)
{
    const struct view *row = env->method->view.row;
    if (row->mixed || (row->local && !row->turned))
        return err_set(err,
                       "scheme %s takes no view under which clients of a round send different "
                       "parts, or another form of the adapter",
                       env->method->scheme->name);
    return 0;
}

static const struct up_vector control_up[] = {{.name = "control", .equal = true}, {.name = NULL}};

const struct scheme scheme_scaffold = {
    .name = "scaffold",
    .help = "control variates take out what sets clients' gradients apart; scaffold/fstq;fp16 "
            "codes the update and the change of the control",
    .source = "Karimireddy et al. 2020, option II; as the mean of the round's gradients, so that "
              "it goes with any local optimizer",
    .options = control_options,
    .n_options = ARRAY_LEN(control_options),
    .option_bytes = sizeof(struct control_opt),
    .server = &server_sync,
    .worker = &worker_sync,
    .check = control_check,
    .state_vectors = 1,
    .down_vectors = 1,
    .client_vectors = 1,
    .up = control_up,
    .local = &control_rule,
    .commit = control_commit,
    .after = control_turn,
};

// FedDyn: client i minimises f_i(x) - <h_i, x> + alpha / 2 ||x - theta||^2, and then takes
// h_i -= alpha (x - theta): at its minimum h_i is the gradient of f_i there. The server keeps h,
// the mean of all clients' h_i with the other sign, and goes to the mean of the clients' x less h /
// alpha. Nothing travels beside the update; h is made of what arrived, h_i of what was trained.

struct dyn_opt {
    double alpha;
};

static const struct opt dyn_options[] = {
    OPT(struct dyn_opt, alpha, "alpha", "0.1", 1e-9, 1e6, "",
        "weight of half the squared distance"),
};

static void dyn_after(struct local *l, int32_t step, float *grad)
{
    const struct dyn_opt *o = l->opt;
    const float *x = l->job->delta, *theta = l->job->theta, *h = l->job->own[0];
    float alpha = (float)o->alpha;
    (void)step;
    for (size_t i = 0; i < l->setup->shape->n_values; i++)
        grad[i] += alpha * (x[i] - theta[i]) - h[i];
}

static const float *dyn_end(struct local *l)
{
    const struct dyn_opt *o = l->opt;
    const float *x = l->job->delta, *theta = l->job->theta;
    float *h = l->job->own[0], alpha = (float)o->alpha;
    for (size_t i = 0; i < l->setup->shape->n_values; i++) // what is not trained has x = theta
        h[i] -= alpha * (x[i] - theta[i]);
    return NULL;
}

static const struct local_rule dyn_rule = {.after = dyn_after, .end = dyn_end};

static void dyn_commit(const void *opt, const struct step *s)
{
    const struct dyn_opt *o = opt;
    float alpha = (float)o->alpha, lr = (float)s->lr;
    float share = (float)s->arrived / (float)s->clients, *h = s->state;
    for (size_t i = s->range.from; i < s->range.to; i++) {
        float d = s->delta[i];
        h[i] -= alpha * share * d;
        s->theta[i] += lr * (d - h[i] / alpha);
    }
}

const struct scheme scheme_feddyn = {
    .name = "feddyn",
    .help = "each client's loss is bent until the clients' minima agree; nothing more travels",
    .source = "Acar et al. 2021, Algorithm 1",
    .options = dyn_options,
    .n_options = ARRAY_LEN(dyn_options),
    .option_bytes = sizeof(struct dyn_opt),
    .server = &server_sync,
    .worker = &worker_sync,
    .check = control_check,
    .state_vectors = 1,
    .client_vectors = 1,
    .local = &dyn_rule,
    .commit = dyn_commit,
};
