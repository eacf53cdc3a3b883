// Schemes without rounds: a version is made of updates as they come, whatever version they were
// trained on (FedBuff, FedAsync).
#include "base/fmath.h"
#include "fed/global.h"
#include "fed/policy.h"
#include "fed/scheme.h"

#include <math.h>

// What decides about rounds has nothing to decide here, and arrivals are put in order by the time
// that the model says, client by client.
int async_check(const struct fed_env *env, struct err *err)
{
    const char *name = env->method->scheme->name;
    const struct net_params *net = env->net;
    int64_t each = (int64_t)(fed_update_bound(env) + FRAME_HEADER_BYTES);
    int32_t places = env->fed->clients_per_round;
    if (!policy_waits(env->fed))
        return err_set(err,
                       "scheme %s has no rounds to end: leave out fed.deadline_s, fed.quorum, "
                       "fed.overcommit and fed.min_completion",
                       name);
    if (net->pace == NET_PACE_REAL)
        return err_set(
            err, "scheme %s puts updates in order by modelled time: set net.pace = model", name);
    if (net->port_up_bps > 0 || net->port_down_bps > 0)
        return err_set(err,
                       "scheme %s: net.port_up_bps and net.port_down_bps are shared by the clients "
                       "of a round, and here there are none; set them to 0",
                       name);
    if (each * places > net->arena_bytes)
        return err_set(err,
                       "scheme %s keeps updates until it is their turn: %d of at most %lld bytes; "
                       "set net.arena_bytes to %lld",
                       name, places, (long long)each, (long long)(each * places));
    return 0;
}

// FedBuff, Algorithm 1: x += lr / K sum_i s(tau_i) D_i.

struct buff_opt {
    int32_t k;
};

static const struct opt buff_options[] = {
    OPT(struct buff_opt, k, "k", "10", 1, 1e6, "",
        "updates that make a version; all that can come where clients are fewer"),
};

static int32_t buff_buffer(const void *opt)
{
    return ((const struct buff_opt *)opt)->k;
}

static double buff_scale(const void *opt, uint32_t lag)
{
    (void)opt;
    return 1 / sqrt(1 + (double)lag);
}

static const struct async_rule buff_rule = {.buffer = buff_buffer, .scale = buff_scale};

const struct scheme scheme_fedbuff = {
    .name = "fedbuff",
    .help = "no rounds: every k updates make a version, an old one counts 1 / sqrt(1 + versions)",
    .source = "Nguyen et al. 2022, Algorithm 1",
    .options = buff_options,
    .n_options = ARRAY_LEN(buff_options),
    .option_bytes = sizeof(struct buff_opt),
    .server = &server_async,
    .worker = &worker_async,
    .async = &buff_rule,
    .check = async_check,
    .commit = scheme_mean,
};

// FedAsync, Algorithm 1: x += alpha s(t - tau) (x_k - x), where the client that began from x_tau
// has come to x_k = x_tau + D.

struct blend_opt {
    double alpha, pow, a, b;
    int32_t stale;
};
enum { STALE_CONSTANT, STALE_POLY, STALE_HINGE };
static const char *const stale_names[] = {"constant", "poly", "hinge", NULL};

static const struct opt blend_options[] = {
    OPT(struct blend_opt, alpha, "alpha", "0.6", 1e-6, 1, "",
        "share of a client's model in the new"),
    OPT_ENUM(struct blend_opt, stale, "stale", "poly", stale_names,
             "how alpha falls with the versions made meanwhile, t"),
    OPT(struct blend_opt, pow, "pow", "0.5", 0, 100, "", "poly: (t + 1)^-pow"),
    OPT(struct blend_opt, a, "a", "10", 0, 1e6, "", "hinge: 1 / (a (t - b) + 1) where t exceeds b"),
    OPT(struct blend_opt, b, "b", "4", 0, 1e6, "", "hinge: versions that make no difference"),
};

static int32_t blend_buffer(const void *opt)
{
    (void)opt;
    return 1;
}

static double blend_scale(const void *opt, uint32_t lag)
{
    const struct blend_opt *o = opt;
    double t = (double)lag, s = 1;
    if (o->stale == STALE_POLY && lag > 0)
        s = fmath_pow(t + 1, -o->pow);
    else if (o->stale == STALE_HINGE && t > o->b)
        s = 1 / (o->a * (t - o->b) + 1);
    return o->alpha * s;
}

// Beside the update, the way from the model to the one it was trained on.
static int blend_add(struct global *g, struct update *u, struct err *err)
{
    const struct view_inst *view = &g->env->method->view;
    uint32_t p = view_turn(view, u->client, u->version);
    const struct view_part *part = &view->part[p];
    float *sum = global_sum(g, p, 0)->sum, weight = u->weight * u->scale;
    int rc = global_add_update(g, u, err);
    if (rc)
        return rc;
    for (int r = 0; r < part->n_ranges; r++)
        for (size_t i = part->range[r].from; i < part->range[r].to; i++)
            *sum++ += weight * (u->base[i] - g->theta[i]);
    return 0;
}

static int blend_check(const struct fed_env *env, struct err *err)
{
    const struct view_inst *view = &env->method->view;
    if (view->part[0].vector[0].codec->row->agg)
        return err_set(err,
                       "scheme fedasync mixes models, and codec %s adds up its messages in a way "
                       "of its own",
                       view->part[0].vector[0].codec->row->name);
    return async_check(env, err);
}

static const struct async_rule blend_rule = {.buffer = blend_buffer, .scale = blend_scale};

const struct scheme scheme_fedasync = {
    .name = "fedasync",
    .help = "no rounds: every update makes a version, which moves alpha of the way to its model",
    .source = "Xie et al. 2019, Algorithm 1",
    .options = blend_options,
    .n_options = ARRAY_LEN(blend_options),
    .option_bytes = sizeof(struct blend_opt),
    .server = &server_async,
    .worker = &worker_async,
    .async = &blend_rule,
    .check = blend_check,
    .add = blend_add,
    .commit = scheme_mean,
};
