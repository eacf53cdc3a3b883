#include "fed/env.h"

#include "base/mem.h"
#include "fed/datagram.h"
#include "fed/exact.h"
#include "fed/policy.h"
#include "fed/ranks.h"
#include "fed/worth.h"
#include "net/port.h"

#include <stdio.h>

static int64_t since(int64_t t_ns, int64_t from_ns)
{
    return t_ns == INT64_MAX ? t_ns : t_ns - from_ns;
}

// One message from the start of the round + ready_ns on, as times from that start.
static struct link_result carry(const struct fed_env *env, const struct round_start *start,
                                uint32_t client, uint32_t attempt, bool up, int64_t ready_ns,
                                int64_t bytes)
{
    struct link_state idle = {0}; // as links are when a round begins
    struct link_transfer x = {.client = client,
                              .round = start->round,
                              .attempt = attempt,
                              .up = up,
                              .t_ready_ns = link_add_ns(start->run_ns, ready_ns),
                              .bytes = bytes};
    struct link_result r = link_carry(env->link, &idle, &x);
    r.t_start_ns = since(r.t_start_ns, start->run_ns);
    r.t_deliver_ns = since(r.t_deliver_ns, start->run_ns);
    return r;
}

// What the server's own port makes of the transfers one way that its clients' links would do.
static void share_port(const struct fed_env *env, const struct round_start *start,
                       struct client_round *c, size_t n, bool up)
{
    double bps = up ? env->net->port_up_bps : env->net->port_down_bps;
    if (bps <= 0 || n == 0)
        return;
    struct port_flow *flow = mem_alloc(MEM_NET, n * sizeof *flow);
    for (size_t i = 0; i < n; i++) {
        const struct link_result *r = up ? &c[i].times.up : &c[i].times.down;
        flow[i].x = (struct link_transfer){.client = c[i].client,
                                           .round = start->round,
                                           .up = up,
                                           .t_ready_ns = link_add_ns(start->run_ns, r->t_start_ns),
                                           .bytes = r->bytes_sent};
    }
    port_share(env->link, bps, flow, n);
    for (size_t i = 0; i < n; i++) {
        struct link_result *r = up ? &c[i].times.up : &c[i].times.down;
        int64_t left = since(flow[i].left_ns, start->run_ns);
        r->t_deliver_ns = link_add_ns(left, r->latency_ns);
        r->delivered &= left < INT64_MAX;
        r->whole &= r->delivered;
        if (left > r->t_start_ns)
            r->rate_bps = (double)r->bytes_sent * 8e9 / (double)(left - r->t_start_ns);
    }
    mem_free(flow);
}

static int64_t scaled(int64_t ns, double slow)
{
    double t = (double)ns * slow;
    return t < 0x1p62 ? (int64_t)(t + 0.5) : INT64_MAX / 4;
}

// Each is on its way when what was before it has come.
static void talk(const struct fed_env *env, const struct round_start *start, struct client_round *c)
{
    struct client_times *t = &c->times;
    const int64_t n = c->said.times;
    t->said_up_ns = t->said_down_ns = 0;
    for (int64_t i = 0; i < n; i++)
        for (int up = 1; up >= 0; up--) {
            int64_t all = up ? c->said.up_bytes : c->said.down_bytes;
            int64_t bytes = all * (i + 1) / n - all * i / n, from = t->ready_ns;
            uint32_t attempt = 1 + (uint32_t)i; // another than that of the version and the update
            t->ready_ns = carry(env, start, c->client, attempt, up, from, bytes).t_deliver_ns;
            *(up ? &t->said_up_ns : &t->said_down_ns) += since(t->ready_ns, from);
        }
}

// An update that leaves in parts. Each is computed when the one before has been, and at most
// `flight` others are still under way; and it is on its way when it is ready and the one before has
// left. Ready is the last of them, and `up` the way of all.
static void stream(const struct fed_env *env, const struct round_start *start,
                   struct client_round *c, int32_t n, int32_t flight)
{
    struct client_times *t = &c->times;
    const int64_t work = t->compute_ns + t->encode_ns;
    int64_t *came = mem_alloc(MEM_NET, (size_t)n * sizeof *came), done = t->down_ns, left = 0;
    for (int32_t i = 0; i < n; i++) {
        int64_t bytes = c->up_bytes * (i + 1) / n - c->up_bytes * i / n;
        int64_t begin = i > flight && came[i - 1 - flight] > done ? came[i - 1 - flight] : done;
        done = link_add_ns(begin, work * (i + 1) / n - work * i / n);
        struct link_result r =
            carry(env, start, c->client, (uint32_t)i, true, left > done ? left : done, bytes);
        came[i] = r.t_deliver_ns;
        left = r.delivered ? r.t_deliver_ns - r.latency_ns : INT64_MAX;
        r.t_start_ns = i ? t->up.t_start_ns : r.t_start_ns;
        r.bytes_sent += i ? t->up.bytes_sent : 0;
        r.delivered &= i == 0 || t->up.delivered;
        r.whole &= i == 0 || t->up.whole;
        t->up = r;
    }
    t->ready_ns = done;
    mem_free(came);
}

static void round_times(const struct fed_env *env, const struct round_start *start,
                        struct client_round *c, size_t n, bool ports)
{
    const struct scheme *scheme = env->method->scheme;
    const double share =
        scheme->step_share_of ? scheme->step_share_of(env->method->scheme_opt) : scheme->step_share;
    int32_t flight = 0, n_parts = scheme->parts ? scheme->parts(env, &flight) : 1;
    for (size_t i = 0; i < n; i++)
        c[i].times.down = carry(env, start, c[i].client, 0, false, c[i].from_ns, c[i].down_bytes);
    if (ports)
        share_port(env, start, c, n, false);
    for (size_t i = 0; i < n; i++) {
        struct client_times *t = &c[i].times;
        t->down_ns = t->down.t_deliver_ns;
        struct device d = profile_device(env->profile, c[i].client);
        t->compute_ns =
            scaled(env->client->step_ns * fed_steps(env->fed, env->seed, start->round, c[i].client),
                   d.slow * (share > 0 ? share : 1) *
                       (scheme->client_share ? scheme->client_share(env, c[i].client) : 1));
        t->encode_ns = scaled(env->client->encode_ns, d.slow);
        t->ready_ns = link_add_ns(t->down_ns, t->compute_ns + t->encode_ns);
        talk(env, start, &c[i]);
        if (n_parts > 1 && c[i].up_bytes > 0)
            stream(env, start, &c[i], n_parts, flight);
        else
            t->up = carry(env, start, c[i].client, 0, true, t->ready_ns, c[i].up_bytes);
    }
    if (ports)
        share_port(env, start, c, n, true);
    for (size_t i = 0; i < n; i++) {
        struct client_times *t = &c[i].times;
        struct device d = profile_device(env->profile, c[i].client);
        t->total_ns = t->up.t_deliver_ns;
        t->up_ns = since(t->total_ns, t->ready_ns);
        t->compute_j = device_energy_j(d.compute_w, t->compute_ns + t->encode_ns);
        t->send_j = device_energy_j(d.send_w, t->up_ns + t->said_up_ns);
    }
}

struct client_times fed_client_times(const struct fed_env *env, const struct round_start *start,
                                     uint32_t client, int64_t down_bytes, int64_t up_bytes)
{
    return fed_said_times(env, start, client, down_bytes, up_bytes, (struct said){0});
}

struct client_times fed_said_times(const struct fed_env *env, const struct round_start *start,
                                   uint32_t client, int64_t down_bytes, int64_t up_bytes,
                                   struct said said)
{
    struct client_round c = {
        .client = client, .down_bytes = down_bytes, .up_bytes = up_bytes, .said = said};
    round_times(env, start, &c, 1, false);
    return c.times;
}

void fed_round_times(const struct fed_env *env, const struct round_start *start,
                     struct client_round *c, size_t n)
{
    round_times(env, start, c, n, env->fed->relays == 0); // else it is the relays' port
}

static bool arrives(const struct fed_env *env, uint32_t round, uint32_t client, int64_t ready_ns,
                    int64_t payload, double seconds)
{
    struct round_start start = {.round = round, .run_ns = ready_ns};
    int64_t bytes = (int64_t)FRAME_HEADER_BYTES + payload;
    return (double)carry(env, &start, client, 0, true, 0, bytes).t_deliver_ns <= seconds * 1e9;
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
    unsigned needs = view_needs(&env->method->view);
    const struct workload *w = env->work;
    size_t kept =
        w->env.fisher->persist == FED_STATE_KEEP && w->row->fisher_floats
            ? w->row->fisher_floats(w, env->method->tokens, needs & CODEC_SENS, needs & CODEC_GRAD)
            : 0;
    return fed_optim_floats(env) + kept;
}

size_t fed_own_floats(const struct fed_env *env)
{
    const struct scheme *s = env->method->scheme;
    const struct shape *shape = &env->work->shape;
    return (size_t)s->client_vectors *
           (s->client_floats ? s->client_floats(shape) : shape->n_values);
}

size_t fed_state_floats(const struct fed_env *env)
{
    return fed_work_floats(env) + fed_own_floats(env) + env->method->view.n_state;
}

int32_t fed_scores_vocab(const struct fed_env *env)
{
    const struct workload *w = env->work;
    bool any = w && w->row->vocab && w->env.fisher->scores > 0; // without work nobody sends at all
    return any ? w->row->vocab(w) : 0;
}

bool fed_scores_due(const struct fed_env *env, uint32_t version)
{
    int32_t every = env->work->env.fisher->scores;
    return every > 0 && (version % (uint32_t)every == 0 || version == (uint32_t)env->fed->rounds);
}

size_t fed_update_bound(const struct fed_env *env)
{
    const struct scheme *s = env->method->scheme;
    if (s->bound)
        return s->bound(env);
    return worth_bound(fed_scores_vocab(env)) + (datagram_on(env->method, env->link)
                                                     ? datagram_bound(&env->method->view)
                                                     : view_bound(&env->method->view));
}

size_t fed_relay_bound(const struct fed_env *env)
{
    const struct view_inst *v = &env->method->view;
    size_t bytes = RELAY_HEAD_BYTES + RELAY_CLIENT_BYTES * (size_t)policy_sampled(env->fed);
    if (env->fed->relays == 0)
        return 0;
    for (uint32_t p = 0; p < v->n_parts; p++)
        bytes += exact_bound(v->part[p].shape.n_values);
    return bytes;
}

// Answers of clients need a model and test examples of their own, and time.
static int check_personal(const struct fed_env *env, struct err *err)
{
    const struct scheme *s = env->method->scheme;
    if (env->fed->evaluate != FED_EVALUATE_PERSONAL)
        return 0;
    if (!env->work->row->personal)
        return err_set(err,
                       "fed.evaluate = personal: task %s has no test examples that are like one "
                       "client's; set it to global",
                       env->work->row->name);
    if (s->server != &server_sync || s->pack)
        return err_set(err,
                       "fed.evaluate = personal goes with synchronous rounds of clients that train "
                       "a whole adapter, which those of scheme %s do not; set it to global",
                       s->name);
    if (env->net->pace == NET_PACE_REAL)
        return err_set(err, "fed.evaluate = personal: answers would hold up updates at a real "
                            "pace; set net.pace = model, or fed.evaluate = global");
    return 0;
}

// A scheme's own rule stands next to the optimizer, another form of the adapter next to the model.
static int check_together(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    struct local_use rules[LOCAL_RULES];
    int n = 0;
    if (m->scheme->keeps != m->view.row->kept)
        return err_set(err,
                       "scheme %s does not go with view %s: what a view leaves to clients is kept "
                       "by scheme fedsa, as in fedsa/A@fp32",
                       m->scheme->name, m->view.row->name);
    if (m->scheme->check && m->scheme->check(env, err))
        return -1;
    if (check_personal(env, err))
        return -1;
    if (env->work->row->tokens && env->work->row->tokens(env->work, m->tokens, err))
        return -1;
    bool oracle = m->tokens->oracle || env->work->env.fisher->accumulate == FISHER_ORACLE;
    if (m->view.row->local && oracle)
        return err_set(err,
                       "the oracle's Fisher is that of A and B, not of what view %s trains; take "
                       "another fisher.accumulate",
                       m->view.row->name);
    if (env->client->dp_clip > 0 && m->view.n_vectors > 1)
        return err_set(err,
                       "client.dp_clip bounds the update, not the %s that scheme %s sends beside "
                       "it; set it to 0",
                       m->scheme->up[0].name, m->scheme->name);
    if (m->scheme->local)
        rules[n++] = (struct local_use){m->scheme->local, m->scheme_opt};
    if (m->view.row->local)
        rules[n++] = (struct local_use){m->view.row->local, m->view.opt};
    if (env->work->env.worker && env->work->row->reserve && !m->scheme->forward)
        env->work->row->reserve(env->work);
    return workload_prepare(env->work, m->scheme->backbone, rules, n, err);
}

// A real pace moves bytes, over one link per rank.
static int check_pace(const struct fed_env *env, struct err *err)
{
    const struct transport *t = env->transport;
    int ranks = t ? t->n_endpoints - 1 : 0, n = policy_sampled(env->fed);
    if (env->net->pace != NET_PACE_REAL || ranks == 0)
        return 0;
    if (env->rank == 0 && transport_hosts(t, ranks))
        return err_set(err, "net.pace = real moves bytes between ranks, and one rank alone moves "
                            "none: start fstq-run -np N with a rank for the server and one for "
                            "each client of a round");
    if (n > ranks)
        return err_set(err,
                       "net.pace = real: %d clients are sampled in a round, but %d ranks have "
                       "clients, and each can be the link of one at a time: start %d ranks, or "
                       "sample fewer",
                       n, ranks, n + 1);
    if (env->fed->late_weight > 0)
        return err_set(err,
                       "fed.late_weight = %g: at a real pace late updates are discarded; set "
                       "it to 0, or net.pace = model",
                       env->fed->late_weight);
    return 0;
}

// Who counts is decided when all have reported, so that their updates wait for it. After the
// scheme's own check, which knows how long they can be.
static int check_policy(const struct fed_env *env, struct err *err)
{
    int64_t each = (int64_t)(fed_update_bound(env) + FRAME_HEADER_BYTES);
    int64_t all = each * policy_sampled(env->fed);
    if (!policy_waits(env->fed) && all > env->net->arena_bytes)
        return err_set(
            err,
            "fed.deadline_s, quorum, overcommit and min_completion keep all updates of a "
            "round until it is decided who counts: %d of at most %lld bytes; set "
            "net.arena_bytes to %lld",
            policy_sampled(env->fed), (long long)each, (long long)all);
    return 0;
}

// Integers have the sum of one vector, as codecs decode it.
static int check_sum(const struct fed_env *env, struct err *err)
{
    const struct scheme *s = env->method->scheme;
    if (env->fed->sum != FED_SUM_EXACT)
        return 0;
    if (s->add || s->pack || s->up || view_needs(&env->method->view) & CODEC_OWN_AGG)
        return err_set(err,
                       "fed.sum = exact adds up updates as their codecs decode them, and method "
                       "%.200s adds up its own way, or more than that: leave it out",
                       env->method->text);
    if (datagram_on(env->method, env->link))
        return err_set(err, "fed.sum = exact takes whole updates: set net.blocks = off, or "
                            "net.delivery = reliable");
    return 0;
}

static int check_relays(const struct fed_env *env, struct err *err)
{
    const struct fed_params *fed = env->fed;
    int workers = env->transport ? env->transport->n_endpoints - 1 : 1;
    if (fed->relays == 0)
        return 0;
    if (fed->sum != FED_SUM_EXACT)
        return err_set(err,
                       "fed.relays = %d: sums of sums are those of all clients in integers "
                       "only; set fed.sum = exact",
                       fed->relays);
    if (env->method->scheme->server != &server_sync || !policy_waits(fed))
        return err_set(err,
                       "fed.relays = %d: a relay waits for all of its clients: take a scheme "
                       "with rounds, and leave out fed.deadline_s, fed.quorum, fed.overcommit "
                       "and fed.min_completion",
                       fed->relays);
    if (*fed->downlink)
        return err_set(err,
                       "fed.relays = %d: a relay passes whole versions on: leave out fed.downlink",
                       fed->relays);
    if (fed->deliver)
        return err_set(err,
                       "fed.relays = %d: a relay passes no client its own at the end: set "
                       "fed.deliver = off",
                       fed->relays);
    if (env->net->pace != NET_PACE_MODEL)
        return err_set(err,
                       "fed.relays = %d: relays live where their clients do, and what is "
                       "between them is modelled: set net.pace = model",
                       fed->relays);
    if (fed->relays > fed->clients || fed->relays % workers)
        return err_set(err,
                       "fed.relays = %d: with %d clients on %d workers it is a multiple of "
                       "the workers, and no more than there are clients",
                       fed->relays, fed->clients, workers);
    return 0;
}

static int check_scores(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    const int32_t every = env->work->env.fisher->scores;
    const char *why = NULL;
    if (every == 0)
        return 0;
    if (!env->work->row->vocab)
        why = "this task has no vocabulary: set it to 0";
    else if (!*env->run_dir)
        why = "scores are kept beside the checkpoint: set run.dir";
    else if (m->tokens->merges)
        why = "tokens that merge have no gradient of their own: take another token source";
    else if (m->scheme->train || m->scheme->pack)
        why = "this scheme's clients train or send in a way of their own: take another";
    else if (env->fed->relays > 0)
        why = "relays pass on sums of updates alone: set fed.relays = 0";
    else if (datagram_on(m, env->link))
        why = "scores go with whole updates: set net.blocks = off, or net.delivery = reliable";
    else if (env->client->dp_clip > 0)
        why = "scores would leave clients as they are, neither clipped nor blurred: leave out "
              "client.dp_clip";
    return why ? err_set(err, "fisher.scores = %d: %s", every, why) : 0;
}

static int check_backbones(const struct fed_env *env, struct err *err)
{
    const struct scheme *s = env->method->scheme;
    if (!*env->work->env.model->others || s->several)
        return 0;
    return err_set(
        err,
        "model.others = %.200s: clients of scheme %s share one model; take fedmobillm, or "
        "leave it out",
        env->work->env.model->others, s->name);
}

// A battery that nobody knows how fast to empty.
static int check_battery(const struct fed_env *env, struct err *err)
{
    for (int32_t i = 0; env->client->battery_j > 0 && i < env->fed->clients; i++) {
        struct device d = profile_device(env->profile, (uint32_t)i);
        if (d.compute_w < 0 || d.send_w < 0)
            return err_set(err,
                           "client.battery_j = %g: what client %d (%.60s) draws is not known; set "
                           "client.compute_w and client.send_w",
                           env->client->battery_j, i, d.name);
    }
    return 0;
}

static int check_downlink(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    const struct scheme *s = m->scheme;
    if (s->server != &server_sync)
        return err_set(err, "scheme %s has no rounds whose changes could be coded", s->name);
    if (env->fed->down_of == FED_DOWN_VERSION &&
        (view_needs(&m->down) & CODEC_STATE || s->down_vectors))
        return err_set(err, "fed.downlink_of = version: the code of a version knows nothing of the "
                            "last, and is of the adapter alone: take a codec without state, and a "
                            "scheme that sends nothing else down");
    if (s->backbone || s->fresh || s->silent)
        return err_set(err, "what scheme %s sends down is no change of the adapter", s->name);
    if (view_needs(&m->down) & ~(unsigned)CODEC_STATE)
        return err_set(err, "the server has no gradients of its own, and nobody to add up with: "
                            "take a codec that needs none (fstq: importance=magnitude)");
    return 0;
}

// The codecs of versions. Where clients of a round send different parts, all of the adapter may
// change.
static int open_downlink(const struct fed_env *env, struct err *err)
{
    struct method *m = env->method;
    const char *text[FED_VECTORS], *view = m->view.row->mixed ? "" : m->view.text;
    if (env->fed->down_of == FED_DOWN_VERSION && !m->view.row->only)
        view = "";
    struct err why = {""};
    if (!*env->fed->downlink)
        return 0;
    for (int k = 0; k < FED_VECTORS; k++)
        text[k] = env->fed->downlink;
    if (view_open(&m->down, view, text, 1 + m->scheme->down_vectors, &env->work->shape, &why) ||
        check_downlink(env, &why))
        return err_set(err, "fed.downlink = %s: %.400s", env->fed->downlink, why.text);
    return 0;
}

// What goes with parts that hold one another.
static int check_ranks(const struct fed_env *env, const struct ranks *r, struct err *err)
{
    const struct method *m = env->method;
    const struct fed_params *fed = env->fed;
    if (!m->view.whole)
        return err_set(err, "a client's rank is its view: leave out view %s", m->view.row->name);
    if (m->scheme->server != &server_sync || m->scheme->backbone || m->scheme->fresh ||
        m->scheme->pack || m->scheme->down_vectors || m->scheme->up)
        return err_set(err, "scheme %s has clients of one rank", m->scheme->name);
    if (view_needs(&m->view) & CODEC_OWN_AGG)
        return err_set(err, "codec %s adds up messages of one size", m->codec->row->name);
    if (fed->sum == FED_SUM_EXACT || *fed->downlink)
        return err_set(err, "leave out fed.sum = exact and fed.downlink");
    if (datagram_on(m, env->link))
        return err_set(err, "set net.blocks = off, or net.delivery = reliable");
    for (uint32_t i = 0; i < env->work->shape.n_tensors; i++) {
        const struct shape_tensor *t = &env->work->shape.tensors[i];
        if (t->kind == SHAPE_LORA_A && r->rank[r->n - 1] != t->rows)
            return err_set(err, "the largest is that of the adapter: set model.lora_rank = %u",
                           r->rank[r->n - 1]);
    }
    return 0;
}

// Makes the method's view that of fed.ranks, where there are any.
static int open_ranks(const struct fed_env *env, struct err *err)
{
    struct method *m = env->method;
    const struct fed_params *fed = env->fed;
    char text[FED_VECTORS][512];
    const char *codec[FED_VECTORS];
    struct view_inst v;
    struct ranks r;
    struct err why = {""};
    if (!*fed->ranks || m->view.own)
        return 0;
    if (ranks_parse(fed->ranks, &r, err))
        return -1;
    if (check_ranks(env, &r, &why))
        return err_set(err, "fed.ranks = %.60s: %.400s", fed->ranks, why.text);
    for (int k = 0; k < m->view.n_vectors; k++) {
        snprintf(text[k], sizeof text[k], "%s", m->view.part[0].vector[k].codec->text);
        codec[k] = text[k];
    }
    const struct profile_model *by = fed->ranks_by == FED_RANKS_DEVICE ? env->profile : NULL;
    uint8_t *own = ranks_deal(&r, (uint32_t)fed->clients, env->seed, by);
    if (view_open_ranks(&v, &r, own, fed->ranks_rest == FED_REST_CUT, codec, m->view.n_vectors,
                        &env->work->shape, err))
        return -1;
    view_close(&m->view);
    m->view = v;
    m->codec = m->view.part[0].vector[0].codec;
    if (r.n > 1 && v.part[0].shape.n_values == v.part[1].shape.n_values)
        return err_set(err, "fed.ranks = %.60s: this task has no low-rank adapter", fed->ranks);
    return 0;
}

int fed_refuse(const struct fed_wrong *wrong, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (wrong[i].is)
            return err_set(err, "%s", wrong[i].why);
    return 0;
}

int fed_refuse_updates(const struct fed_env *env, struct err *err)
{
    const struct fed_wrong wrong[] = {
        {env->fed->local_steps_min > 0,
         "all clients send as many batches; leave fed.local_steps_min = 0"},
        {!env->method->view.whole, "activations have no view; leave it out"},
        {env->client->dp_clip > 0,
         "client.dp_clip bounds updates, and clients send none; set it to 0"},
    };
    return fed_refuse(wrong, ARRAY_LEN(wrong), err);
}

int fed_prepare(const struct fed_env *env, struct err *err)
{
    struct err why = {""};
    if (open_ranks(env, err) || check_backbones(env, err) || check_pace(env, err) ||
        check_sum(env, err) || check_relays(env, err) || check_battery(env, err) ||
        check_scores(env, err))
        return -1;
    if (check_together(env, &why))
        return err_set(err, "fed.method = %s: %.400s", env->method->text, why.text);
    return check_policy(env, err) || open_downlink(env, err) ? -1 : 0;
}

size_t fed_model_floats(const struct fed_env *env)
{
    return env->work->shape.n_values + env->work->n_backbone;
}

bool fed_adapter_down(const struct fed_env *env)
{
    return !env->method->scheme->fresh && !env->method->scheme->silent;
}

size_t fed_down_floats(const struct fed_env *env)
{
    const struct scheme *s = env->method->scheme;
    size_t each = view_down_floats(&env->method->view);
    size_t vectors = (size_t)s->down_vectors + fed_adapter_down(env);
    return vectors * each + env->work->n_backbone;
}

int64_t fed_version_bytes(const struct fed_env *env)
{
    return (int64_t)(FRAME_HEADER_BYTES + 4 * fed_down_floats(env));
}

int64_t fed_client_bytes(const struct fed_env *env, uint32_t client)
{
    const struct view_part *own = view_own(&env->method->view, client);
    return own ? (int64_t)(FRAME_HEADER_BYTES + 4 * own->shape.n_values) : fed_version_bytes(env);
}

size_t fed_parcel_bytes(const struct fed_env *env, uint32_t client)
{
    const struct scheme_parting *own = env->method->scheme->parting;
    const struct view_part *part = view_own(&env->method->view, client);
    if (!env->fed->deliver)
        return 0;
    return own ? own->bytes(env, client)
               : 4 * (part ? part->shape.n_values : fed_model_floats(env));
}

uint64_t fed_payload_bound(const struct fed_env *env)
{
    size_t model = 4 * fed_model_floats(env) + 4096, update = fed_update_bound(env);
    size_t relay = fed_relay_bound(env), most = model > update ? model : update;
    for (int32_t c = 0; env->fed->deliver && c < env->fed->clients; c++) {
        size_t parcel = fed_parcel_bytes(env, (uint32_t)c);
        most = parcel > most ? parcel : most;
    }
    const struct scheme_talk *t = env->method->scheme->talk;
    for (int k = 0; t && k < 2; k++)
        most = t->bound[k](env) > most ? t->bound[k](env) : most;
    return most > relay ? most : relay;
}
