#include "fed/env.h"

#include <string.h>

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
    bool split = env->method->scheme->flags & SCHEME_SPLIT;
    return split ? split_bound(&env->work->split) : view_bound(&env->method->view);
}

// What has no meaning where activations travel and the server trains.
static int prepare_split(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    const struct split_opt *opt = m->scheme_opt;
    bool half = strcmp(m->codec->row->name, "fp16") == 0;
    bool raw = strcmp(m->codec->row->name, "raw") == 0 || strcmp(m->codec->row->name, "fp32") == 0;
    const struct {
        bool is;
        const char *why;
    } wrong[] = {
        {!env->work->row->split, "this task has no layers to cut between"},
        {!m->view.whole, "activations have no view; leave it out"},
        {!half && !raw, "activations are written as fp16 or fp32; take one of these codecs"},
        {m->tokens != token_table[0] && !m->tokens->merges,
         "the client computes no loss to choose tokens by; take ~tome or no tokens"},
        {m->tokens->merges && !m->token_opt.merge.protect,
         "labels travel whole; leave protect = on"},
        {fed_state_floats(env) > 0, "clients keep no state; take fed.opt_state = reset and "
                                    "fisher.persist = reset"},
        {env->client->dp_clip > 0, "client.dp_clip bounds updates, and clients send none; set it "
                                   "to 0"},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        if (wrong[i].is)
            return err_set(err, "fed.method = %s: %s", m->text, wrong[i].why);
    env->work->split = (struct split_form){.cut = opt->cut, .half = half};
    return 0;
}

int fed_prepare(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    bool products = m->scheme->flags & SCHEME_PRODUCTS;
    struct err why = {""};
    if (products && (!m->view.whole || (codec_needs(m->codec) & CODEC_OWN_AGG)))
        return err_set(err,
                       "fed.method = %s: scheme %s multiplies whole decoded updates; it takes no "
                       "view, and no codec that aggregates its own way",
                       m->text, m->scheme->name);
    if (m->scheme->flags & SCHEME_FRESH && fed_state_floats(env) > 0)
        return err_set(err,
                       "fed.method = %s: scheme %s begins with a new adapter every round, of which "
                       "state kept from the last says nothing; take a codec without state, "
                       "fed.opt_state = reset and fisher.persist = reset",
                       m->text, m->scheme->name);
    if (m->scheme->flags & SCHEME_BINARY && (m->view.row->middle || !env->work->row->form))
        return err_set(err,
                       "fed.method = %s: scheme %s binarises the matrices of an adapter as they "
                       "are; it goes neither with view R nor with a task without a model",
                       m->text, m->scheme->name);
    bool split = m->scheme->flags & SCHEME_SPLIT;
    if (split && prepare_split(env, err))
        return -1;
    bool oracle = m->tokens->oracle || env->work->env.fisher->accumulate == FISHER_ORACLE;
    if (m->view.row->middle && oracle)
        return err_set(err,
                       "fed.method = %s: the oracle's Fisher is that of A and B, not of what view "
                       "%s trains; take another fisher.accumulate",
                       m->text, m->view.row->name);
    unsigned form = (products ? WORK_BACKBONE : 0u) | (m->view.row->middle ? WORK_MIDDLE : 0u) |
                    (split ? WORK_SPLIT : 0u);
    if (workload_form(env->work, form, &why))
        return err_set(err, "fed.method = %s: %.400s", m->text, why.text);
    return 0;
}

size_t fed_model_floats(const struct fed_env *env)
{
    return env->work->shape.n_values + env->work->n_backbone;
}

size_t fed_down_floats(const struct fed_env *env)
{
    bool none = env->method->scheme->flags & (SCHEME_FRESH | SCHEME_SPLIT);
    return (none ? 0 : view_down_floats(&env->method->view)) + env->work->n_backbone;
}
