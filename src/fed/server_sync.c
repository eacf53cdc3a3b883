// Synchronous rounds: broadcast, collect, commit, settle, close. Updates are added in client order,
// whatever the order of arrival, so that the sum is the same for any number of ranks; packed frames
// wait their turn in a window of bounded size, and clients beyond it are granted their upload as it
// moves on.
#include "fed/server.h"

#include "base/bytes.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static void close_round(struct server *s);
static void begin_round(struct server *s);
static bool anybody_up(const struct server *s);
static void run_on(struct server *s);

static int64_t now_ns(const struct server *s)
{
    return transport_now(s->env->transport);
}

// broadcast.

static struct rec_message message_row(const struct server *s, uint32_t client, int endpoint)
{
    const struct recorder *r = s->env->rec;
    struct rec_message m = {.frame_bytes = 0,
                            .header_bytes = -1,
                            .directory_bytes = -1,
                            .scales_bytes = -1,
                            .indices_bytes = -1,
                            .tags_bytes = -1,
                            .values_bytes = -1,
                            .nmse = NAN,
                            .norm = NAN,
                            .staleness = -1,
                            .weight = 0,
                            .run = r->run,
                            .version = (int32_t)s->round,
                            .attempt = r->attempt,
                            .client = (int32_t)client,
                            .rank = s->peer[endpoint].hello.rank,
                            .status = MESSAGE_LOST};
    for (int i = 0; i < RECORD_WIDTHS; i++)
        m.kept[i] = -1;
    return m;
}

static void sample_turns(struct server *s)
{
    const struct fed_params *fed = s->env->fed;
    fed_sample(s->env->seed, s->round, (uint32_t)fed->clients, (uint32_t)fed->clients_per_round,
               s->sampled);
    s->n_turns = 0;
    for (int i = 0; i < fed->clients_per_round; i++) {
        if (fed_drops(s->env->seed, s->round, s->sampled[i], fed->dropout)) {
            s->row.dropped++;
            continue;
        }
        struct server_turn *t = &s->turn[s->n_turns++];
        memset(t, 0, sizeof *t);
        t->client = s->sampled[i];
        t->endpoint = fed_owner(s->sampled[i], s->workers);
        t->row = message_row(s, t->client, t->endpoint);
        if (!server_peer_up(s, t->endpoint)) { // stays in the sequence, as unavailable
            t->state = TURN_DONE;
            s->row.lost++;
        }
    }
    s->row.sampled = fed->clients_per_round;
}

// Bytes of the frame that carries a version.
static int64_t model_bytes(const struct server *s)
{
    return (int64_t)(FRAME_HEADER_BYTES + 4 * fed_down_floats(s->env));
}

static void pack_model(struct server *s)
{
    struct transport *t = s->env->transport;
    const struct view_inst *view = &s->env->method->view;
    size_t n = fed_down_floats(s->env), n_backbone = s->n_model - s->n, n_adapter = n - n_backbone;
    const float *from = s->theta;
    if (s->model)
        transport_unref(t, s->model);
    s->model = transport_buf(t, 4 * n);
    uint8_t *p = netbuf_payload(s->model);
    if (n_adapter > 0 && n_adapter < s->n) {
        view_gather(&view->part[0], s->theta, s->delta); // free until the commit
        from = s->delta;
    }
    for (size_t i = 0; i < n_adapter; i++)
        put_f32(p + 4 * i, from[i]);
    for (size_t i = 0; i < n_backbone; i++)
        put_f32(p + 4 * (n_adapter + i), s->theta[s->n + i]);
}

// How far training has come: clients whose codec sends less as the loss goes down hear it with the
// model.
static float loss_fall(const struct server *s)
{
    float fall = (float)(s->first_loss - s->last_loss);
    return isfinite(fall) ? fall : 0;
}

// The model goes to each rank once and is counted for each of its clients; a task names each
// client.
static void broadcast(struct server *s)
{
    const struct fed_env *env = s->env;
    struct span span = span_begin(env->rec);
    int64_t moved = env->transport->bytes_moved;
    pack_model(s);
    for (int e = 1; e <= s->workers; e++) {
        s->peer[e].tasks = 0;
        for (int i = 0; i < s->n_turns; i++)
            s->peer[e].tasks += s->turn[i].endpoint == e && s->turn[i].state == TURN_WAITING;
        s->peer[e].owes_events = s->peer[e].tasks > 0;
        struct frame f = {.kind = FRAME_MODEL,
                          .payload_bytes = 4 * fed_down_floats(env),
                          .values = (uint32_t)fed_down_floats(env),
                          .loss = loss_fall(s)};
        if (s->peer[e].owes_events)
            server_send(s, e, &f, s->model, now_ns(s));
    }
    for (int i = 0; i < s->n_turns; i++) {
        struct server_turn *t = &s->turn[i];
        if (t->state != TURN_WAITING)
            continue;
        s->row.downlink_bytes += model_bytes(s);
        t->granted = i < s->n_window;
        t->times = fed_client_times(env, &s->start, t->client, model_bytes(s), 0);
        struct netbuf *b = transport_buf(env->transport, ROUND_START_BYTES);
        struct frame f = {.kind = FRAME_TASK,
                          .client = t->client,
                          .reason = t->granted,
                          .samples = s->peer[t->endpoint].tasks,
                          .payload_bytes = env->link->row->varies ? ROUND_START_BYTES : 0};
        round_start_put(&s->start, netbuf_payload(b));
        server_send(s, t->endpoint, &f, b, link_add_ns(now_ns(s), t->times.down_ns));
        transport_unref(env->transport, b);
    }
    span_end(env->rec, span, STAGE_BROADCAST, -1, 0, env->transport->bytes_moved - moved);
}

// Virtual time knows when the last client will be done; the timeout comes on top of that.
static void set_deadline(struct server *s)
{
    int64_t longest = 0;
    for (int i = 0; s->env->virtual_time && i < s->n_turns; i++) {
        struct client_times t =
            fed_client_times(s->env, &s->start, s->turn[i].client, model_bytes(s),
                             (int64_t)(FRAME_HEADER_BYTES + fed_update_bound(s->env)));
        longest = t.total_ns > longest && t.up.delivered ? t.total_ns : longest;
    }
    s->deadline_ns = now_ns(s) + longest + (int64_t)(s->env->net->timeout_s * 1e9);
}

// collect.

static void resolve(struct server *s, struct server_turn *t, enum message_status status)
{
    t->state = TURN_DONE;
    t->row.status = (int32_t)status;
    if (t->held) {
        transport_unref(s->env->transport, t->held);
        t->held = NULL;
    }
    if (status == MESSAGE_LOST)
        s->row.lost++;
    else if (status != MESSAGE_OK)
        s->row.rejected++;
}

// The client's own B A goes into the sum of products, its update into the sum of updates.
static int add_product(struct server *s, const struct codec_inst *c, const struct codec_key *key,
                       const uint8_t *bytes, size_t len, float weight, struct err *err)
{
    int rc = codec_decode(c, key, bytes, len, s->one, s->scratch, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < s->n; i++)
        s->acc[i] += weight * s->one[i];
    products_add(&s->products, s->theta, s->one, weight, s->product_sum);
    return 0;
}

static float weight_of(const struct server *s, const struct server_turn *t)
{
    return s->env->fed->weights == FED_WEIGHTS_EQUAL ? 1 : (float)t->frame.samples;
}

static int add_update(struct server *s, struct server_turn *t, struct err *err)
{
    const struct view_inst *view = &s->env->method->view;
    uint32_t p = view_turn(view, t->client, s->round);
    const struct codec_inst *c = view->part[p].codec;
    struct codec_key key = view_key(view, s->env->seed, t->client, s->round);
    const uint8_t *bytes = t->held->bytes + FRAME_HEADER_BYTES;
    size_t len = t->frame.payload_bytes;
    float weight = weight_of(s, t);
    int rc;
    if (c->row->agg)
        rc = c->row->agg->add(c, &key, bytes, len, (double)weight, s->agg_state[p], err);
    else if (s->one)
        rc = add_product(s, c, &key, bytes, len, weight, err);
    else
        rc = codec_decode_add(c, &key, bytes, len, weight, s->acc + view->part[p].at, s->scratch,
                              err);
    if (rc == 0)
        s->part_weight[p] += (double)weight;
    return rc;
}

// Activations are trained with before there is an update to add. The others' time stands still
// meanwhile: while the server trains it hears nobody.
static int train_update(struct server *s, struct server_turn *t, struct err *err)
{
    struct train_job job = {
        .client = t->client, .round = s->round, .theta = s->theta, .delta = s->trained};
    int64_t from = now_ns(s);
    int rc = s->env->method->scheme->unpack(s->env, &job, t->held->bytes + FRAME_HEADER_BYTES,
                                            t->frame.payload_bytes, err);
    s->deadline_ns += now_ns(s) - from;
    if (rc)
        return rc;
    float weight = weight_of(s, t);
    for (size_t i = 0; i < s->n; i++)
        s->acc[i] += weight * s->trained[i];
    s->part_weight[0] += (double)weight;
    t->frame.loss = (float)job.loss;
    return 0;
}

static int decode_update(struct server *s, struct server_turn *t, struct err *err)
{
    struct recorder *rec = s->env->rec;
    struct span span = span_begin(rec);
    int rc = add_update(s, t, err);
    s->aggregate_ns += span_end(rec, span, STAGE_DECODE, (int32_t)t->client,
                                (int64_t)t->frame.payload_bytes, (int64_t)(4 * s->n));
    return rc;
}

static void take_turn(struct server *s, struct server_turn *t)
{
    struct err err;
    int rc = s->trained ? train_update(s, t, &err) : decode_update(s, t, &err);
    if (rc) {
        warn("round %u: update of client %u rejected: %s", s->round, t->client, err.text);
        resolve(s, t, rc == CODEC_NONFINITE ? MESSAGE_NONFINITE : MESSAGE_CORRUPT);
        return;
    }
    t->accepted = true;
    t->row.weight = (double)weight_of(s, t);
    s->weight_sum += t->row.weight;
    s->row.train_loss += t->row.weight * (double)t->frame.loss;
    s->row.arrived++;
    resolve(s, t, MESSAGE_OK);
}

static void grant_window(struct server *s)
{
    for (int i = s->next_turn; i < s->n_turns && i < s->next_turn + s->n_window; i++) {
        struct server_turn *t = &s->turn[i];
        if (t->granted || t->state != TURN_WAITING)
            continue;
        t->granted = true;
        struct netbuf *b = transport_buf(s->env->transport, 0);
        struct frame f = {.kind = FRAME_GRANT, .client = t->client};
        server_send(s, t->endpoint, &f, b, now_ns(s));
        transport_unref(s->env->transport, b);
    }
}

// commit.

static bool all_finite(const float *v, size_t n)
{
    float worst = 0;
    for (size_t i = 0; i < n; i++)
        worst += v[i] * 0.0f; // NaN as soon as one is not finite
    return worst == 0;
}

// The mean of each part, over those who sent it.
static void close_sums(struct server *s)
{
    const struct view_inst *view = &s->env->method->view;
    for (uint32_t p = 0; p < view->n_parts; p++) {
        const struct view_part *part = &view->part[p];
        const struct codec_inst *codec = part->codec;
        float *acc = s->acc + part->at;
        size_t n = part->shape.n_values;
        if (s->part_weight[p] <= 0)
            continue;
        if (codec->row->agg) {
            codec->row->agg->finish(codec, s->agg_state[p], s->agg_keep[p], s->part_weight[p], acc,
                                    n);
        } else {
            float inverse = (float)(1.0 / s->part_weight[p]);
            for (size_t i = 0; i < n; i++)
                acc[i] *= inverse;
        }
    }
}

// Only what was sent moves: a part without a turn keeps its values and the server's state of them.
static void step_parts(struct server *s)
{
    const struct method *m = s->env->method;
    for (uint32_t p = 0; p < m->view.n_parts; p++) {
        const struct view_part *part = &m->view.part[p];
        if (s->part_weight[p] <= 0)
            continue;
        if (!m->view.whole)
            view_scatter(part, s->acc + part->at, s->delta);
        for (int i = 0; i < part->n_ranges; i++)
            m->scheme->commit(m->scheme_opt, s->theta, s->delta, s->state, s->n, part->range[i],
                              s->row.server_lr);
    }
}

// The adapter after the step, and in the backbone what it cannot hold of the mean product.
static void step_backbone(struct server *s)
{
    struct workload *work = s->env->work;
    if (s->env->method->scheme->fresh)
        work->row->fresh(work, s->round + 1, s->theta);
    products_rest(&s->products, s->theta, s->product_sum, s->theta + s->n);
}

static void commit(struct server *s)
{
    const struct fed_env *env = s->env;
    struct span span = span_begin(env->rec);
    close_sums(s);
    if (s->one)
        products_mean(&s->products, s->theta, s->weight_sum, s->row.server_lr, s->product_sum);
    s->aggregate_ns += span_end(env->rec, span, STAGE_AGGREGATE, -1, 0, (int64_t)(4 * s->n));
    s->row.train_loss /= s->weight_sum;
    s->last_loss = s->row.train_loss;
    if (isnan(s->first_loss))
        s->first_loss = s->last_loss;
    if (!all_finite(s->acc, s->n) ||
        !all_finite(s->product_sum,
                    s->products.n)) { // finite updates whose sum is not: the adapter stays as it is
        warn("round %u: the sum of the updates is not finite; the adapter is left as it was",
             s->round);
        s->row.rejected += s->row.arrived;
        s->row.arrived = 0;
        return;
    }
    double norm = 0;
    for (size_t i = 0; i < s->n; i++)
        norm += (double)s->acc[i] * (double)s->acc[i];
    s->row.update_norm = sqrt(norm);
    span = span_begin(env->rec);
    step_parts(s);
    if (s->one)
        step_backbone(s);
    span_end(env->rec, span, STAGE_COMMIT, -1, 0, (int64_t)(4 * s->n));
}

static void send_acks(struct server *s)
{
    for (int e = 1; e <= s->workers; e++) {
        size_t len = 0;
        for (int i = 0; i < s->n_turns; i++)
            if (s->turn[i].endpoint == e) {
                struct ack_entry a = {s->turn[i].client, s->turn[i].accepted};
                ack_put(&a, s->acks + len);
                len += ACK_ENTRY_BYTES;
            }
        if (len && !s->peer[e].dead)
            server_control(s, e, FRAME_ACK, s->acks, len, 0);
    }
}

static struct rec_link link_row(const struct server *s, uint32_t client, int64_t bytes,
                                int64_t ready_ns, const struct link_result *r)
{
    const struct recorder *rec = s->env->rec;
    return (struct rec_link){.bytes = bytes,
                             .bytes_sent = r->bytes_sent,
                             .t_ready_ns = ready_ns,
                             .t_deliver_ns = r->delivered ? r->t_deliver_ns : -1,
                             .latency_ns = r->latency_ns,
                             .rate_bps = r->rate_bps,
                             .run = rec->run,
                             .version = (int32_t)s->round,
                             .attempt = rec->attempt,
                             .client = (int32_t)client};
}

// Modelled terms: the round takes as long as its slowest client, plus the server.
static void modelled_times(struct server *s)
{
    const struct fed_env *env = s->env;
    int64_t slowest = 0;
    s->n_links = 0;
    for (int i = 0; i < s->n_turns; i++) {
        struct server_turn *t = &s->turn[i];
        if (t->row.status != MESSAGE_OK)
            continue;
        int64_t down = model_bytes(s), up = t->row.frame_bytes;
        struct client_times c = fed_client_times(env, &s->start, t->client, down, up);
        if (c.total_ns >= slowest) {
            slowest = c.total_ns;
            s->row.compute_max_ns = c.compute_ns + c.encode_ns;
            s->row.upload_max_ns = c.up_ns;
            s->row.download_max_ns = c.down_ns;
        }
        s->links[s->n_links++] = link_row(s, t->client, down, 0, &c.down);
        s->links[s->n_links++] = link_row(s, t->client, up, c.total_ns - c.up_ns, &c.up);
        s->links[s->n_links - 1].up = 1;
    }
    s->row.time_modelled_ns = slowest + env->fed->server_ns;
}

static bool settled(const struct server *s)
{
    for (int e = 1; e <= s->workers; e++)
        if (s->peer[e].owes_events && server_peer_up(s, e))
            return false;
    return true;
}

// Every update is in, or given up: the adapter moves, clients hear what was taken, the score is
// measured while they put their state away.
static void finish_collect(struct server *s)
{
    const struct fed_params *fed = s->env->fed;
    int64_t t = clock_ns();
    recorder_put(s->env->rec, STAGE_WAIT, -1, s->collect_span.t_ns, t - s->collect_span.t_ns, -1, 0,
                 0, 0);
    if (s->row.arrived > 0)
        commit(s);
    else
        s->row.train_loss = NAN;
    s->row.time_measured_ns = clock_ns() - s->t_round_ns;
    modelled_times(s);
    send_acks(s);
    int32_t left = fed->rounds - (int32_t)s->round;
    bool last = left == 0 || left < fed->eval_last;
    if (last || (fed->eval_every > 0 && (int32_t)s->round % fed->eval_every == 0)) {
        server_evaluate(s);
        s->row.score = s->eval.score;
        s->row.eval_loss = s->eval.loss;
    }
    s->next_turn = s->n_turns + 1; // settling
    s->deadline_ns = now_ns(s) + (int64_t)(s->env->net->timeout_s * 1e9);
    if (settled(s))
        close_round(s);
}

static void advance(struct server *s)
{
    while (s->next_turn < s->n_turns && s->turn[s->next_turn].state != TURN_WAITING) {
        struct server_turn *t = &s->turn[s->next_turn++];
        if (t->state == TURN_HELD)
            take_turn(s, t);
    }
    grant_window(s);
    if (s->next_turn == s->n_turns)
        finish_collect(s);
}

// messages.

static struct server_turn *find_turn(struct server *s, uint32_t client, int endpoint)
{
    for (int i = 0; i < s->n_turns; i++)
        if (s->turn[i].client == client && s->turn[i].endpoint == endpoint)
            return &s->turn[i];
    return NULL;
}

static enum message_status judge(const struct server *s, const struct net_msg *m,
                                 const struct server_turn *t)
{
    switch (m->verdict) {
    case FRAME_GOOD:
        break;
    case FRAME_PROTOCOL_OTHER:
        return MESSAGE_VERSION;
    case FRAME_TOO_LONG:
    case FRAME_LENGTH:
        return MESSAGE_SIZE;
    case FRAME_REGISTRY:
        return MESSAGE_SHAPE;
    default:
        return MESSAGE_CORRUPT;
    }
    if (m->frame.version != s->round)
        return MESSAGE_STALE;
    if (!t || t->state != TURN_WAITING || !t->granted)
        return MESSAGE_UNEXPECTED;
    const struct view_inst *view = &s->env->method->view;
    const struct view_part *part = &view->part[view_turn(view, t->client, s->round)];
    if (m->frame.values != (s->trained ? 0 : part->shape.n_values) || m->frame.vectors != 1)
        return MESSAGE_SHAPE;
    if (m->frame.samples == 0 || !isfinite(m->frame.loss))
        return MESSAGE_NONFINITE;
    return MESSAGE_OK;
}

// A frame that cannot be used gets a row of its own; if it was the awaited one, that client is
// done.
static void refuse_update(struct server *s, const struct net_msg *m, struct server_turn *t,
                          enum message_status why)
{
    bool header_read = m->verdict == FRAME_GOOD || m->verdict >= FRAME_TOO_LONG;
    bool awaited = header_read && t && t->state == TURN_WAITING && m->frame.version == s->round;
    warn("round %u: a frame from %s (client %d) is %s%s%s", s->round, server_peer_name(s, m->src),
         header_read ? (int)m->frame.client : -1, message_status_name[why],
         m->verdict == FRAME_GOOD ? "" : ": ",
         m->verdict == FRAME_GOOD ? "" : frame_verdict_name[m->verdict]);
    if (awaited) {
        t->row.frame_bytes = (int64_t)m->bytes;
        resolve(s, t, why);
        return;
    }
    struct rec_message row = message_row(s, header_read ? m->frame.client : UINT32_MAX, m->src);
    row.frame_bytes = (int64_t)m->bytes;
    row.status = (int32_t)why;
    s->sink->rows(s->sink->arg, REC_MESSAGES, &row, 1);
    s->row.rejected++;
}

static void take_update(struct server *s, const struct net_msg *m)
{
    struct server_turn *t = find_turn(s, m->frame.client, m->src);
    enum message_status status = judge(s, m, t);
    s->row.uplink_bytes += (int64_t)m->bytes;
    if (status != MESSAGE_OK) {
        refuse_update(s, m, t, status);
    } else {
        t->state = TURN_HELD;
        t->frame = m->frame;
        t->held = m->buf;
        transport_ref(m->buf);
        t->row.frame_bytes = (int64_t)(FRAME_HEADER_BYTES + m->frame.payload_bytes);
    }
}

static void take_fail(struct server *s, const struct net_msg *m)
{
    struct server_turn *t = find_turn(s, m->frame.client, m->src);
    if (!t || t->state != TURN_WAITING || m->frame.version != s->round)
        return;
    warn("round %u: client %u has no update: %.*s", s->round, t->client,
         (int)m->frame.payload_bytes, (const char *)m->payload);
    resolve(s, t,
            m->frame.reason < MESSAGE_STATUS_COUNT ? (enum message_status)m->frame.reason
                                                   : MESSAGE_LOST);
}

static void sync_message(struct server *s, const struct net_msg *m)
{
    bool good = m->verdict == FRAME_GOOD;
    bool header_read = good || m->verdict >= FRAME_TOO_LONG;
    if (header_read && m->frame.kind == FRAME_EVENTS) {
        if (good)
            server_take_events(s, m);
        if (m->frame.version == s->round)
            s->peer[m->src].owes_events = false;
    } else if (!good || m->frame.kind == FRAME_UPDATE) {
        take_update(s, m);
    } else if (m->frame.kind == FRAME_FAIL) {
        take_fail(s, m);
    }
    if (s->holding && anybody_up(s))
        begin_round(s);
    else if (!s->holding && s->next_turn < s->n_turns)
        advance(s);
    else if (!s->holding && s->next_turn > s->n_turns && settled(s))
        close_round(s);
    run_on(s);
}

static void give_up_on(struct server *s, bool late)
{
    for (int i = 0; i < s->n_turns; i++) {
        struct server_turn *t = &s->turn[i];
        if (t->state != TURN_WAITING)
            continue;
        if (late)
            server_suspect_silent(s, t->endpoint);
        if (late || !server_peer_up(s, t->endpoint))
            resolve(s, t, MESSAGE_LOST);
    }
}

static void sync_timer(struct server *s, int64_t now)
{
    bool late = now >= s->deadline_ns;
    if (s->holding) {
        if (late || s->interrupted)
            begin_round(s);
    } else if (s->next_turn < s->n_turns) {
        give_up_on(s, late);
        advance(s);
    } else {
        for (int e = 1; late && e <= s->workers; e++)
            if (s->peer[e].owes_events) {
                server_suspect_silent(s, e);
                s->peer[e].owes_events = false;
            }
        if (settled(s))
            close_round(s);
    }
    run_on(s);
}

// close.

static void add_totals(struct server *s)
{
    struct checkpoint_totals *t = &s->totals;
    t->uplink_bytes += s->row.uplink_bytes;
    t->downlink_bytes += s->row.downlink_bytes;
    t->control_bytes += s->row.control_bytes;
    t->control_up_bytes += s->row.control_up_bytes;
    t->modelled_ns += s->row.time_modelled_ns;
    t->measured_ns += s->row.time_measured_ns;
    t->lost += s->row.lost;
    t->rejected += s->row.rejected;
    s->row.wire_bytes = server_take_wire(s);
    t->wire_bytes += s->row.wire_bytes;
}

static bool any_worker_left(const struct server *s)
{
    for (int e = 1; e <= s->workers; e++)
        if (!s->peer[e].dead)
            return true;
    return false;
}

// Order: client state is on disk (its owner's EVENTS said so), then the trace, then the checkpoint.
// A kill between the last two makes the resumed run repeat a round that the trace holds already, as
// another attempt of which readers keep the last; the other way round the trace would lack it.
static void close_round(struct server *s)
{
    const struct fed_env *env = s->env;
    for (int i = 0; i < s->n_turns; i++)
        s->sink->rows(s->sink->arg, REC_MESSAGES, &s->turn[i].row, 1);
    s->sink->rows(s->sink->arg, REC_LINKS, s->links, (size_t)s->n_links);
    add_totals(s);
    s->row.uplink_total_bytes = s->totals.uplink_bytes;
    s->row.adapter_xxh3 = XXH3_64bits(s->theta, 4 * s->n_model);
    s->sink->rows(s->sink->arg, REC_ROUNDS, &s->row, 1);
    int64_t t = clock_ns();
    recorder_put(env->rec, STAGE_ROUND, -1, s->t_round_ns, t - s->t_round_ns, -1, 0, 0, 0);
    server_flush_events(s);
    s->sink->commit(s->sink->arg, (int32_t)s->round);
    server_checkpoint(s);
    s->sink->progress(s->sink->arg, &s->row);
    s->row.control_bytes = s->row.control_up_bytes = 0; // of the next round, or of the farewell
    if (!any_worker_left(s))
        snprintf(s->failure, sizeof s->failure, "every worker is lost");
    if ((int32_t)s->round >= env->fed->rounds || s->interrupted || s->failure[0])
        server_finish(s);
    else
        s->between = true;
}

static bool anybody_up(const struct server *s)
{
    for (int e = 1; e <= s->workers; e++)
        if (server_peer_up(s, e))
            return true;
    return false;
}

// One question a timeout: a stopped rank must not be buried in them.
static void ask_suspects(struct server *s)
{
    int64_t now = now_ns(s);
    for (int e = 1; e <= s->workers; e++) {
        struct server_peer *p = &s->peer[e];
        if (!p->suspect || p->dead || now < p->ask_again_ns)
            continue;
        p->ask_again_ns = now + (int64_t)(s->env->net->timeout_s * 1e9);
        server_control(s, e, FRAME_PING, (uint8_t[8]){0}, 8, 0);
    }
}

static void begin_round(struct server *s)
{
    s->holding = false;
    sample_turns(s);
    s->t_round_ns = clock_ns();
    s->start = (struct round_start){s->round, s->totals.modelled_ns, now_ns(s)};
    broadcast(s);
    set_deadline(s);
    s->collect_span.t_ns = clock_ns();
    advance(s);
}

// With every worker under suspicion the round waits for one of them to answer, up to the timeout.
static void next_round(struct server *s)
{
    struct recorder *rec = s->env->rec;
    // Since the last row, the greeting among them.
    int64_t control = s->row.control_bytes, control_up = s->row.control_up_bytes;
    memset(&s->row, 0, sizeof s->row);
    s->row.control_bytes = control;
    s->row.control_up_bytes = control_up;
    s->between = false;
    s->round++;
    rec->version = (int32_t)s->round;
    s->row.run = rec->run;
    s->row.version = (int32_t)s->round;
    s->row.attempt = rec->attempt;
    s->row.score = s->row.eval_loss = s->row.energy_j = s->row.update_norm = NAN;
    s->row.server_lr = fed_server_lr(s->env->fed, (int32_t)s->round);
    s->weight_sum = 0;
    s->next_turn = 0;
    s->aggregate_ns = 0;
    memset(s->acc, 0, s->n * sizeof *s->acc);
    if (s->one)
        memset(s->product_sum, 0, s->products.n * sizeof *s->product_sum);
    if (s->env->method->scheme->fresh)
        s->env->work->row->fresh(s->env->work, s->round, s->theta);
    const struct view_inst *view = &s->env->method->view;
    for (uint32_t p = 0; p < view->n_parts; p++) {
        const struct codec_inst *c = view->part[p].codec;
        s->part_weight[p] = 0;
        if (c->row->agg)
            c->row->agg->begin(c, s->agg_state[p], view->part[p].shape.n_values);
    }
    ask_suspects(s);
    s->start.clock_ns = now_ns(s);
    s->holding = !anybody_up(s) && any_worker_left(s) && !s->interrupted;
    if (s->holding)
        s->deadline_ns = s->start.clock_ns + (int64_t)(s->env->net->timeout_s * 1e9);
    else
        begin_round(s);
}

// A round in which nobody can take part closes at once: a loop, not a recursion.
static void run_on(struct server *s)
{
    while (s->between && s->phase == SERVER_ROUNDS)
        next_round(s);
}

static void sync_begin(struct server *s, int64_t now)
{
    (void)now;
    if (s->round == 0) { // the score before anything is learned: the floor of every curve
        server_evaluate(s);
        server_flush_events(s);
        struct rec_round row = {.run = s->env->rec->run,
                                .attempt = s->env->rec->attempt,
                                .train_loss = NAN,
                                .score = s->eval.score,
                                .eval_loss = s->eval.loss,
                                .update_norm = NAN,
                                .energy_j = NAN,
                                .server_lr = NAN,
                                .control_bytes = s->row.control_bytes,
                                .control_up_bytes = s->row.control_up_bytes,
                                .wire_bytes = server_take_wire(s),
                                .adapter_xxh3 = XXH3_64bits(s->theta, 4 * s->n_model)};
        s->totals.control_bytes += row.control_bytes;
        s->totals.control_up_bytes += row.control_up_bytes;
        s->totals.wire_bytes += row.wire_bytes;
        s->row.control_bytes = s->row.control_up_bytes = 0;
        s->sink->rows(s->sink->arg, REC_ROUNDS, &row, 1);
        s->sink->commit(s->sink->arg, 0);
        s->sink->progress(s->sink->arg, &row);
    }
    if ((int32_t)s->round >= s->env->fed->rounds)
        server_finish(s);
    else
        s->between = true;
    run_on(s);
}

const struct server_handlers server_sync = {
    .name = "sync",
    .begin = sync_begin,
    .message = sync_message,
    .timer = sync_timer,
};
