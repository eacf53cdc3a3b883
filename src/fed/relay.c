#include "fed/relay.h"

#include "base/bytes.h"
#include "base/mem.h"
#include "fed/policy.h"
#include "net/port.h"

#include <math.h>
#include <string.h>

static size_t values_of(const struct fed_env *env)
{
    const struct view_inst *v = &env->method->view;
    size_t n = 0;
    for (uint32_t p = 0; p < v->n_parts; p++)
        n += v->part[p].shape.n_values;
    return n;
}

// The worker.

// Clients are dealt to workers as to relays, so that a worker has whole relays.
void relays_open(struct relays *r, const struct fed_env *env, int endpoint)
{
    uint32_t workers = (uint32_t)env->transport->n_endpoints - 1;
    size_t scratch = view_decode_scratch(&env->method->view);
    *r = (struct relays){.env = env};
    if (env->fed->relays == 0)
        return;
    r->n = (uint32_t)env->fed->relays / workers;
    r->first = (uint32_t)endpoint - 1;
    r->step = workers;
    r->n_values = values_of(env);
    r->relay = mem_alloc(MEM_OTHER, r->n * sizeof *r->relay);
    r->one = mem_alloc(MEM_OTHER, r->n_values * sizeof *r->one);
    r->scratch = scratch ? mem_alloc(MEM_CODEC, scratch) : NULL;
    for (uint32_t i = 0; i < r->n; i++) {
        struct relay *one = &r->relay[i];
        one->number = r->first + i * r->step;
        one->client = mem_alloc(MEM_OTHER, (size_t)policy_sampled(env->fed) * sizeof *one->client);
        one->sum = mem_alloc(MEM_OTHER, r->n_values * sizeof *one->sum);
    }
}

void relays_close(struct relays *r)
{
    for (uint32_t i = 0; i < r->n; i++) {
        mem_free(r->relay[i].client);
        mem_free(r->relay[i].sum);
    }
    mem_free(r->relay);
    mem_free(r->one);
    mem_free(r->scratch);
}

void relays_begin(struct relays *r)
{
    for (uint32_t i = 0; i < r->n; i++) {
        r->relay[i].n_clients = 0;
        r->relay[i].arrives_ns = 0;
        memset(r->relay[i].sum, 0, r->n_values * sizeof *r->relay[i].sum);
    }
}

static enum message_status add(struct relays *r, struct relay *to, const struct frame *head,
                               const uint8_t *payload)
{
    const struct fed_env *env = r->env;
    const struct view_inst *view = &env->method->view;
    uint32_t p = view_turn(view, head->client, head->version);
    const struct view_part *part = &view->part[p];
    struct codec_key key = view_key(view, env->seed, head->client, head->version, 0);
    float weight = env->fed->weights == FED_WEIGHTS_EQUAL ? 1 : (float)head->samples;
    struct err err;
    struct span span = span_begin(env->rec);
    int rc = codec_decode(part->vector[0].codec, &key, payload, head->payload_bytes, r->one,
                          r->scratch, &err);
    if (rc == 0 && exact_add(to->sum + part->at, r->one, part->shape.n_values, weight, &err))
        rc = CODEC_NONFINITE;
    span_end(env->rec, span, STAGE_DECODE, (int32_t)head->client, (int64_t)head->payload_bytes,
             (int64_t)(4 * part->shape.n_values));
    if (rc)
        warn("round %u: update of client %u rejected by relay %u: %s", head->version, head->client,
             to->number, err.text);
    return rc == 0 ? MESSAGE_OK : rc == CODEC_NONFINITE ? MESSAGE_NONFINITE : MESSAGE_CORRUPT;
}

void relays_take(struct relays *r, const struct frame *head, const uint8_t *payload,
                 const struct link_result *up, int64_t arrives_ns)
{
    struct relay *to = &r->relay[(relay_of(r->env, head->client) - r->first) / r->step];
    to->client[to->n_clients++] =
        (struct relay_client){.client = head->client,
                              .samples = head->samples,
                              .loss = head->loss,
                              .status = up->whole ? add(r, to, head, payload) : MESSAGE_LINK,
                              .frame_bytes = (int64_t)(FRAME_HEADER_BYTES + head->payload_bytes)};
    if (up->delivered && arrives_ns > to->arrives_ns)
        to->arrives_ns = arrives_ns;
}

size_t relay_put(const struct relays *r, const struct relay *relay, uint8_t *out)
{
    const struct view_inst *view = &r->env->method->view;
    uint8_t *p = out + RELAY_HEAD_BYTES;
    put_u32(out, relay->number);
    put_u32(out + 4, relay->n_clients);
    for (uint32_t i = 0; i < relay->n_clients; i++, p += RELAY_CLIENT_BYTES) {
        const struct relay_client *c = &relay->client[i];
        put_u32(p, c->client);
        put_u32(p + 4, c->samples);
        put_f32(p + 8, c->loss);
        put_u32(p + 12, (uint32_t)c->status);
        put_u64(p + 16, (uint64_t)c->frame_bytes);
    }
    for (uint32_t i = 0; i < view->n_parts; i++)
        p += exact_put(relay->sum + view->part[i].at, view->part[i].shape.n_values, p);
    return (size_t)(p - out);
}

// The server.

struct relay_client relay_client_at(const struct relay_sum *s, uint32_t i)
{
    const uint8_t *p = s->clients + (size_t)i * RELAY_CLIENT_BYTES;
    return (struct relay_client){.client = get_u32(p),
                                 .samples = get_u32(p + 4),
                                 .loss = get_f32(p + 8),
                                 .status = (enum message_status)get_u32(p + 12),
                                 .frame_bytes = (int64_t)get_u64(p + 16)};
}

static bool sound(const struct fed_env *env, const struct relay_sum *s, uint32_t i)
{
    struct relay_client c = relay_client_at(s, i);
    bool after = i == 0 || relay_client_at(s, i - 1).client < c.client;
    bool taken = c.samples > 0 && isfinite(c.loss);
    return after && c.client < (uint32_t)env->fed->clients &&
           relay_of(env, c.client) == s->number && (uint32_t)c.status < MESSAGE_STATUS_COUNT &&
           (c.status != MESSAGE_OK || taken) && c.frame_bytes >= FRAME_HEADER_BYTES &&
           c.frame_bytes <= (int64_t)(FRAME_HEADER_BYTES + fed_update_bound(env));
}

int relay_get(const struct fed_env *env, const uint8_t *in, size_t len, struct relay_sum *s,
              struct err *err)
{
    const struct view_inst *view = &env->method->view;
    if (len < RELAY_HEAD_BYTES)
        return err_set(err, "it is too short");
    *s = (struct relay_sum){get_u32(in), get_u32(in + 4), in + RELAY_HEAD_BYTES, NULL};
    if (s->number >= (uint32_t)env->fed->relays ||
        s->n_clients > (len - RELAY_HEAD_BYTES) / RELAY_CLIENT_BYTES)
        return err_set(err, "it is of no relay, or of more clients than it names");
    for (uint32_t i = 0; i < s->n_clients; i++)
        if (!sound(env, s, i))
            return err_set(err, "it has an entry that is none");
    s->sums = s->clients + (size_t)s->n_clients * RELAY_CLIENT_BYTES;
    size_t at = (size_t)(s->sums - in);
    for (uint32_t i = 0; i < view->n_parts; i++) {
        int64_t n = exact_check(in + at, len - at, view->part[i].shape.n_values, err);
        if (n < 0)
            return -1;
        at += (size_t)n;
    }
    return at == len ? 0 : err_set(err, "it is %zu bytes longer than it says", len - at);
}

// Times.

static int64_t since(int64_t t_ns, int64_t from_ns)
{
    return t_ns == INT64_MAX ? t_ns : t_ns - from_ns;
}

static void move(const struct fed_env *env, const struct round_start *start, bool up,
                 struct relay_round *r, const int64_t *ready_ns, size_t n)
{
    const double bps = up ? env->net->port_up_bps : env->net->port_down_bps;
    struct port_flow *flow = mem_alloc(MEM_NET, (n + 1) * sizeof *flow);
    int64_t *latency = mem_alloc(MEM_NET, (n + 1) * sizeof *latency);
    for (size_t i = 0; i < n; i++) {
        struct link_state idle = {0};
        flow[i].x = (struct link_transfer){
            .client = r[i].number,
            .round = start->round,
            .up = up,
            .t_ready_ns = link_add_ns(start->run_ns, ready_ns ? ready_ns[i] : 0),
            .bytes = up ? r[i].up_bytes : r[i].down_bytes};
        struct link_result alone = link_carry(env->backhaul, &idle, &flow[i].x);
        latency[i] = alone.latency_ns;
        flow[i].left_ns =
            alone.t_deliver_ns < INT64_MAX ? alone.t_deliver_ns - alone.latency_ns : INT64_MAX;
        flow[i].x.bytes = alone.bytes_sent;
    }
    if (bps > 0 && n > 0)
        port_share(env->backhaul, bps, flow, n);
    for (size_t i = 0; i < n; i++) {
        int64_t t = since(link_add_ns(flow[i].left_ns, latency[i]), start->run_ns);
        *(up ? &r[i].total_ns : &r[i].down_ns) = t;
    }
    mem_free(flow);
    mem_free(latency);
}

void relay_down_times(const struct fed_env *env, const struct round_start *start,
                      struct relay_round *r, size_t n)
{
    move(env, start, false, r, NULL, n);
}

void relay_up_times(const struct fed_env *env, const struct round_start *start,
                    struct relay_round *r, const int64_t *ready_ns, size_t n)
{
    move(env, start, true, r, ready_ns, n);
}
