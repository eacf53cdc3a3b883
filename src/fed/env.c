#include "fed/env.h"

static int64_t since(int64_t t_ns, int64_t from_ns)
{
    return t_ns == INT64_MAX ? t_ns : t_ns - from_ns;
}

// One message from the start of the round + ready_ns on, as times from that start.
static struct link_result carry(const struct fed_env *env, const struct round_start *start,
                                uint32_t client, bool up, int64_t ready_ns, int64_t bytes)
{
    struct link_state idle = {0}; // as links are when a round begins
    struct link_transfer x = {.client = client,
                              .round = start->round,
                              .up = up,
                              .t_ready_ns = link_add_ns(start->run_ns, ready_ns),
                              .bytes = bytes};
    struct link_result r = link_carry(env->link, &idle, &x);
    r.t_start_ns = since(r.t_start_ns, start->run_ns);
    r.t_deliver_ns = since(r.t_deliver_ns, start->run_ns);
    return r;
}

struct client_times fed_client_times(const struct fed_env *env, const struct round_start *start,
                                     uint32_t client, int64_t down_bytes, int64_t up_bytes)
{
    struct client_times t;
    t.down = carry(env, start, client, false, 0, down_bytes);
    t.down_ns = t.down.t_deliver_ns;
    t.compute_ns = env->client->step_ns * env->fed->local_steps;
    t.encode_ns = env->client->encode_ns;
    int64_t ready = link_add_ns(t.down_ns, t.compute_ns + t.encode_ns);
    t.up = carry(env, start, client, true, ready, up_bytes);
    t.total_ns = t.up.t_deliver_ns;
    t.up_ns = since(t.total_ns, ready);
    return t;
}

static bool arrives(const struct fed_env *env, uint32_t round, uint32_t client, int64_t ready_ns,
                    int64_t payload, double seconds)
{
    struct round_start start = {.round = round, .run_ns = ready_ns};
    int64_t bytes = (int64_t)FRAME_HEADER_BYTES + payload;
    return (double)carry(env, &start, client, true, 0, bytes).t_deliver_ns <= seconds * 1e9;
}

// By halves: the link's model says when bytes arrive, not how many do.
int64_t fed_upload_bytes(const struct fed_env *env, uint32_t round, uint32_t client,
                         int64_t ready_ns, double seconds)
{
    int64_t low = 0, high = (int64_t)fed_update_bound(env) + 1;
    if (arrives(env, round, client, ready_ns, high, seconds))
        return -1;
    while (high - low > 1) {
        int64_t mid = low + (high - low) / 2;
        if (arrives(env, round, client, ready_ns, mid, seconds))
            low = mid;
        else
            high = mid;
    }
    return low;
}

size_t fed_optim_floats(const struct fed_env *env)
{
    return env->fed->opt_state == FED_STATE_KEEP ? env->work->row->state_floats(env->work) : 0;
}

size_t fed_work_floats(const struct fed_env *env)
{
    unsigned needs = codec_needs(env->method->codec);
    const struct workload *w = env->work;
    size_t kept =
        w->env.fisher->persist == FED_STATE_KEEP && w->row->fisher_floats
            ? w->row->fisher_floats(w, env->method->tokens, needs & CODEC_SENS, needs & CODEC_GRAD)
            : 0;
    return fed_optim_floats(env) + kept;
}

size_t fed_state_floats(const struct fed_env *env)
{
    return fed_work_floats(env) + view_state_floats(&env->method->view);
}

size_t fed_update_bound(const struct fed_env *env)
{
    const struct scheme *s = env->method->scheme;
    return s->bound ? s->bound(env) : view_bound(&env->method->view);
}

// A scheme's own rule stands next to the optimizer, another form of the adapter next to the model.
static int check_together(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    struct local_use rules[LOCAL_RULES];
    int n = 0;
    if (m->scheme->check && m->scheme->check(env, err))
        return -1;
    bool oracle = m->tokens->oracle || env->work->env.fisher->accumulate == FISHER_ORACLE;
    if (m->view.row->local && oracle)
        return err_set(err,
                       "the oracle's Fisher is that of A and B, not of what view %s trains; take "
                       "another fisher.accumulate",
                       m->view.row->name);
    if (m->scheme->local)
        rules[n++] = (struct local_use){m->scheme->local, m->scheme_opt};
    if (m->view.row->local)
        rules[n++] = (struct local_use){m->view.row->local, m->view.opt};
    return workload_prepare(env->work, m->scheme->backbone, rules, n, err);
}

int fed_prepare(const struct fed_env *env, struct err *err)
{
    struct err why = {""};
    if (check_together(env, &why))
        return err_set(err, "fed.method = %s: %.400s", env->method->text, why.text);
    return 0;
}

size_t fed_model_floats(const struct fed_env *env)
{
    return env->work->shape.n_values + env->work->n_backbone;
}

size_t fed_down_floats(const struct fed_env *env)
{
    bool none = env->method->scheme->fresh || env->method->scheme->silent;
    return (none ? 0 : view_down_floats(&env->method->view)) + env->work->n_backbone;
}

uint64_t fed_payload_bound(const struct fed_env *env)
{
    size_t model = 4 * fed_model_floats(env) + 4096, update = fed_update_bound(env);
    return model > update ? model : update;
}
