// FedNova: where clients do unequal work, the mean of updates leans to those that did more. Instead
// every update is divided by its own number of steps t_i, and the mean of those, as long as a step,
// is walked as often as the clients did on average:
//
//     theta += lr (sum_i p_i t_i) (sum_i p_i delta_i / t_i)
//
// which is (6) of the paper for local SGD without momentum. Other local optimisers are taken by
// their steps too, and the correction is then one of first order.
#include "base/mem.h"
#include "fed/global.h"
#include "fed/scheme.h"

struct steps_sum { // of what arrived, weighted
    double steps;
};

static int nova_open(struct global *g, struct err *err)
{
    (void)err;
    g->own = mem_alloc(MEM_SERVER, sizeof(struct steps_sum));
    return 0;
}

static void nova_close(struct global *g)
{
    mem_free(g->own);
}

static void nova_begin(struct global *g)
{
    struct steps_sum *s = g->own;
    s->steps = 0;
}

// The server knows the steps as the client does, from the seed: nothing travels for them.
static int nova_add(struct global *g, struct update *u, struct err *err)
{
    struct steps_sum *s = g->own;
    int32_t steps = fed_steps(g->env->fed, g->env->seed, u->version, u->client);
    u->scale /= (float)steps;
    int rc = global_add_update(g, u, err);
    if (rc == 0)
        s->steps += (double)u->weight * steps;
    return rc;
}

static bool nova_mean(struct global *g, double lr)
{
    const struct steps_sum *s = g->own;
    float steps = (float)(s->steps / g->weight);
    (void)lr;
    for (size_t i = 0; i < g->n; i++)
        g->sum[0][i] *= steps;
    return global_finite(g->sum[0], g->n);
}

// Votes and sketches do not add up as updates do.
static int nova_check(const struct fed_env *env, struct err *err)
{
    if (view_needs(&env->method->view) & CODEC_OWN_AGG)
        return err_set(err, "scheme fednova divides updates by their steps: it takes no codec "
                            "that aggregates its own way");
    if (env->method->view.row->mixed)
        return err_set(err, "scheme fednova takes no view under which clients of a round send "
                            "different parts");
    return 0;
}

const struct scheme scheme_fednova = {
    .name = "fednova",
    .help = "the mean of updates per local step, for clients that do unequal work "
            "(fed.local_steps_min)",
    .source = "Wang et al. 2020, equation (6)",
    .server = &server_sync,
    .worker = &worker_sync,
    .check = nova_check,
    .open = nova_open,
    .close = nova_close,
    .begin = nova_begin,
    .add = nova_add,
    .mean = nova_mean,
    .commit = scheme_mean,
};
