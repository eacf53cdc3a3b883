// Synchronous rounds: broadcast, collect, commit, settle, close. Updates are added in client order,
// whatever the order of arrival, so that the sum is the same for any number of ranks; packed frames
// wait their turn in a window of bounded size, and clients beyond it are granted their upload as it
// moves on.
#include "base/mem.h"
#include "fed/datagram.h"
#include "fed/downlink.h"
#include "fed/late.h"
#include "fed/policy.h"
#include "fed/relay.h"
#include "fed/server_books.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum turn_state { TURN_WAITING, TURN_HELD, TURN_DONE };

struct turn { // a sampled client of the round, in client order
    uint32_t client;
    int endpoint;
    enum turn_state state;
    bool granted, accepted;
    uint32_t ask;        // of the scheme
    struct netbuf *held; // the frame, until its turn
    struct frame frame;
    int64_t frame_bytes; // header and all, 0 = none came
    int64_t down_bytes;  // of the version, to this client
    struct said said;
    int n_rows;
    // By vector; of a frame that was not taken only the first. Behind those what the client said.
    struct rec_message row[FED_VECTORS + 1];
    struct client_times times;
    size_t at; // in together, where its bytes went over links
};

struct sync_round {
    struct round_start start;
    bool between; // the round is closed, the next not begun
    bool holding; // nobody is there: the next round waits for somebody, or its deadline
    struct turn *turn;
    int n_turns, next_turn, n_window; // n_window: frames that may wait for their turn
    int n_granted;                    // turns up to here are granted
    int n_waiting;                    // turns in TURN_WAITING
    int64_t t_begin_ns, t_collect_ns; // of the round and of waiting for updates, monotonic clock
    struct netbuf *model;             // the broadcast frame
    struct rec_link *links;
    int n_links;
    struct client_round *together; // whose bytes went over links, with times
    size_t n_together;
    bool decided;              // who counts
    int64_t end_ns;            // of collecting, as it was decided, from the start of the round
    int64_t *arrival_ns;       // scratch
    struct relay_round *relay; // (fed.relays), with what each sent on in this round
    int64_t *relay_ready_ns;   // (fed.relays)
    double *part_weight;       // (view.n_parts) scratch
    struct late_list late;
    uint32_t *sampled;
};

static void close_round(struct server *s);
static void begin_round(struct server *s);
static void run_on(struct server *s);

static int64_t now_ns(const struct server *s)
{
    return transport_now(s->env->transport);
}

// broadcast.

// A client of whom the scheme has all it needs: wherever it is, its turn needs no frame.
static bool spare(struct server *s, uint32_t client)
{
    struct sync_round *r = s->rounds;
    const struct scheme *scheme = s->env->method->scheme;
    uint32_t ask;
    if (!scheme->ask || scheme->ask(&s->global, client, &ask))
        return false;
    struct turn *t = &r->turn[r->n_turns++];
    *t = (struct turn){.client = client,
                       .endpoint = fed_owner(client, s->workers),
                       .state = TURN_HELD,
                       .frame = {.client = client, .version = s->round, .samples = ask},
                       .n_rows = 1};
    t->row[0] = books_message(s, client, t->endpoint);
    return true;
}

static void sample_turns(struct server *s)
{
    struct sync_round *r = s->rounds;
    const struct fed_params *fed = s->env->fed;
    uint32_t ranks = s->env->net->pace == NET_PACE_REAL ? (uint32_t)s->workers : 0;
    int32_t n = policy_sampled(fed);
    fed_sample(s->env->seed, s->round, (uint32_t)fed->clients, (uint32_t)n, ranks, r->sampled);
    r->n_turns = r->n_waiting = 0;
    for (int i = 0; i < n; i++) {
        if (spare(s, r->sampled[i]))
            continue;
        if (fed_drops(s->env->seed, s->round, r->sampled[i], fed->dropout) ||
            !books_client_there(s, r->sampled[i], r->start.run_ns)) {
            s->row.dropped++;
            continue;
        }
        struct turn *t = &r->turn[r->n_turns++];
        memset(t, 0, sizeof *t);
        t->client = r->sampled[i];
        t->endpoint = fed_owner(r->sampled[i], s->workers);
        t->row[0] = books_message(s, t->client, t->endpoint);
        t->n_rows = 1;
        t->down_bytes = books_client_bytes(s, t->client);
        if (s->env->method->scheme->ask)
            s->env->method->scheme->ask(&s->global, t->client, &t->ask);
        t->times = fed_client_times(s->env, &r->start, t->client, t->down_bytes, 0);
        if (!server_peer_up(s, t->endpoint)) { // stays in the sequence, as unavailable
            t->state = TURN_DONE;
            s->row.lost++;
        } else if (!t->times.down.delivered) {
            t->state = TURN_DONE;
            t->row[0].status = MESSAGE_LINK;
            s->row.dropped++;
        }
        r->n_waiting += t->state == TURN_WAITING;
    }
    s->row.sampled = n;
}

static const struct turn *first_turn(const struct sync_round *r, int endpoint)
{
    int i = 0;
    while (r->turn[i].endpoint != endpoint)
        i++;
    return &r->turn[i];
}

// What the clients of a rank are trained from, the largest part of them all; NULL = the version.
static const struct view_part *part_for(const struct server *s, int endpoint)
{
    const struct sync_round *r = s->rounds;
    const struct view_part *most = NULL;
    for (int i = 0; i < r->n_turns; i++) {
        const struct view_part *own = view_own(&s->env->method->view, r->turn[i].client);
        if (own && r->turn[i].endpoint == endpoint && (!most || own > most))
            most = own;
    }
    return most;
}

// The model to the ranks that have tasks.
static void send_models(struct server *s)
{
    const bool own = s->env->method->view.cut;
    struct sync_round *r = s->rounds;
    const struct fed_env *env = s->env;
    if (r->model)
        transport_unref(env->transport, r->model);
    r->model = s->down || own ? NULL : server_pack_model(s, s->global.theta);
    for (int e = 1; e <= s->workers; e++) {
        if (!s->peer[e].owes_events)
            continue;
        const struct turn *first = first_turn(r, e);
        const struct view_part *part = part_for(s, e);
        struct netbuf *b = s->down ? server_pack_changes(s, e)
                           : part  ? server_pack_part(s, part)
                                   : r->model;
        struct frame f = books_model_head(s);
        if (part)
            f.payload_bytes = 4 * (f.values = (uint32_t)part->shape.n_values);
        f.payload_bytes = s->down ? (uint64_t)downlink_peer_bytes(s->down, e) : f.payload_bytes;
        struct link_transfer down = {.round = s->round,
                                     .client = first->client,
                                     .t_ready_ns = r->start.run_ns,
                                     .bytes = first->down_bytes};
        server_send(s, e, &f, b, now_ns(s), &down);
        if (s->down || own)
            transport_unref(env->transport, b);
    }
}

// The first of a relay's clients in a round sends the model to it.
static void count_relay(struct server *s, uint32_t client)
{
    struct sync_round *r = s->rounds;
    if (s->env->fed->relays == 0 || r->relay[relay_of(s->env, client)].down_bytes > 0)
        return;
    r->relay[relay_of(s->env, client)].down_bytes = fed_version_bytes(s->env);
    s->row.relay_down_bytes += fed_version_bytes(s->env);
}

// The model goes to each rank once and is counted for each of its clients; a task names each
// client. At a real pace a rank has one client, over whose link the model goes.
static void broadcast(struct server *s)
{
    struct sync_round *r = s->rounds;
    const struct fed_env *env = s->env;
    struct span span = span_begin(env->rec);
    int64_t moved = env->transport->bytes_moved;
    for (int e = 1; e <= s->workers; e++) {
        s->peer[e].tasks = 0;
        for (int i = 0; i < r->n_turns; i++)
            s->peer[e].tasks += r->turn[i].endpoint == e && r->turn[i].state == TURN_WAITING;
        s->peer[e].owes_events = s->peer[e].tasks > 0;
    }
    send_models(s);
    for (int i = 0; i < r->n_turns; i++) {
        struct turn *t = &r->turn[i];
        if (t->state != TURN_WAITING)
            continue;
        s->row.downlink_bytes += t->down_bytes;
        count_relay(s, t->client);
        if (s->down)
            downlink_sent(s->down, t->client, t->endpoint, s->round);
        t->granted = i < r->n_window;
        struct netbuf *b = transport_buf(env->transport, TASK_BYTES);
        struct frame f = {.kind = FRAME_TASK,
                          .client = t->client,
                          .reason = t->granted,
                          .values = t->ask,
                          .samples = s->peer[t->endpoint].tasks,
                          .payload_bytes = books_put_task(s, &r->start, t->client, s->kept.round,
                                                          t->down_bytes, netbuf_payload(b))};
        server_send(s, t->endpoint, &f, b, link_add_ns(now_ns(s), t->times.down_ns), NULL);
        transport_unref(env->transport, b);
    }
    span_end(env->rec, span, STAGE_BROADCAST, -1, 0, env->transport->bytes_moved - moved);
}

// All that a client may say in a round, and be answered.
static struct said most_said(const struct server *s)
{
    const struct scheme_talk *talk = s->env->method->scheme->talk;
    int64_t n = s->env->fed->local_steps, each[2] = {0};
    for (int k = 0; talk && k < 2; k++)
        each[k] = (int64_t)(FRAME_HEADER_BYTES + talk->bound[k](s->env));
    return (struct said){talk ? (int32_t)n : 0, n * each[0], n * each[1]};
}

// Virtual time and paced links know when the last client will be done; the timeout comes on top of
// that.
static void set_deadline(struct server *s)
{
    struct sync_round *r = s->rounds;
    int64_t longest = 0;
    bool paced = s->env->net->pace == NET_PACE_REAL;
    for (int i = 0; (s->env->virtual_time || paced) && i < r->n_turns; i++) {
        struct client_times t =
            fed_said_times(s->env, &r->start, r->turn[i].client, r->turn[i].down_bytes,
                           (int64_t)(FRAME_HEADER_BYTES + fed_update_bound(s->env)), most_said(s));
        longest = t.total_ns > longest && t.up.delivered ? t.total_ns : longest;
    }
    s->deadline_ns = now_ns(s) + longest + (int64_t)(s->env->net->timeout_s * 1e9);
    int64_t cut = link_add_ns(r->start.clock_ns, policy_deadline_ns(s->env->fed));
    if (paced && cut < s->deadline_ns)
        s->deadline_ns = cut;
}

// collect.

static void resolve(struct server *s, struct turn *t, enum message_status status)
{
    ((struct sync_round *)s->rounds)->n_waiting -= t->state == TURN_WAITING;
    t->state = TURN_DONE;
    t->row[0].status = (int32_t)status;
    if (t->held) {
        transport_unref(s->env->transport, t->held);
        t->held = NULL;
    }
    if (status == MESSAGE_LOST && s->down)
        downlink_lost(s->down, t->client, t->endpoint);
    if (status == MESSAGE_LINK || status == MESSAGE_UNUSED)
        s->row.dropped++;
    else if (status == MESSAGE_LOST)
        s->row.lost++;
    else if (status != MESSAGE_OK)
        s->row.rejected++;
}

static struct update update_of(const struct server *s, const struct turn *t)
{
    return (struct update){.client = t->client,
                           .version = s->round,
                           .bytes = t->held ? t->held->bytes + FRAME_HEADER_BYTES : NULL,
                           .len = t->frame.payload_bytes,
                           .weight = books_weight(s, &t->frame),
                           .scale = 1,
                           .samples = t->frame.samples,
                           .loss = (double)t->frame.loss};
}

static void row_of_said(struct turn *t)
{
    struct rec_message *row = &t->row[t->n_rows];
    *row = t->row[0];
    row->vector = t->n_rows++;
    row->status = MESSAGE_OK;
    row->frame_bytes = t->said.up_bytes;
}

// A server that trains with what arrives hears nobody meanwhile: the others' time stands still.
static void take_turn(struct server *s, struct turn *t)
{
    struct err err;
    struct update u = update_of(s, t);
    int64_t from = now_ns(s);
    u.heard = books_heard(s, &u);
    int rc = global_add(&s->global, &u, &err);
    s->deadline_ns += now_ns(s) - from;
    if (rc) {
        warn("round %u: update of client %u rejected: %s", s->round, t->client, err.text);
        resolve(s, t, rc == CODEC_NONFINITE ? MESSAGE_NONFINITE : MESSAGE_CORRUPT);
        return;
    }
    t->accepted = true;
    t->row[0].weight = (double)u.weight;
    if (!s->env->method->scheme->pack) {
        t->n_rows = s->env->method->view.n_vectors;
        books_by_vector(t->row, &u, t->n_rows);
    }
    if (t->said.times > 0)
        row_of_said(t);
    s->row.arrived++;
    resolve(s, t, MESSAGE_OK);
}

// deciding.

// When what the relays send on is there.
static void gather_relays(struct server *s)
{
    struct sync_round *r = s->rounds;
    const int32_t n = s->env->fed->relays;
    memset(r->relay_ready_ns, 0, (size_t)n * sizeof *r->relay_ready_ns);
    for (size_t i = 0; i < r->n_together; i++) {
        const struct client_times *t = &r->together[i].times;
        int64_t *ready = &r->relay_ready_ns[relay_of(s->env, r->together[i].client)];
        if (t->up.delivered && t->total_ns > *ready)
            *ready = t->total_ns;
    }
    relay_up_times(s->env, &r->start, r->relay, r->relay_ready_ns, (size_t)n);
}

// Everybody's times, the server's ports shared.
static void gather_times(struct server *s)
{
    struct sync_round *r = s->rounds;
    const bool relays = s->env->fed->relays > 0;
    r->n_together = 0;
    if (relays)
        relay_down_times(s->env, &r->start, r->relay, (size_t)s->env->fed->relays);
    for (int i = 0; i < r->n_turns; i++) {
        struct turn *t = &r->turn[i];
        bool sent = t->state == TURN_HELD || t->accepted || t->row[0].status == MESSAGE_LINK;
        t->at = r->n_together;
        if (sent && t->frame_bytes > 0)
            r->together[r->n_together++] = (struct client_round){
                .client = t->client,
                .down_bytes = t->down_bytes,
                .up_bytes = t->frame_bytes,
                .said = t->said,
                .from_ns = relays ? r->relay[relay_of(s->env, t->client)].down_ns : 0};
    }
    fed_round_times(s->env, &r->start, r->together, r->n_together);
    if (relays)
        gather_relays(s);
}

static void keep_late(struct server *s, struct turn *t, int64_t arrives_ns)
{
    struct sync_round *r = s->rounds;
    struct update u = update_of(s, t);
    transport_ref(t->held);
    t->accepted = true; // the client goes on from it
    late_add(&r->late, t->held, &u, arrives_ns, &t->row[0]);
}

// Late ones of earlier rounds that have come by now, in the order of rounds and clients.
static void take_late(struct server *s)
{
    struct sync_round *r = s->rounds;
    int64_t now = link_add_ns(r->start.run_ns, r->end_ns);
    size_t kept = 0;
    for (size_t i = 0; i < r->late.n; i++) {
        struct late *l = &r->late.one[i];
        struct err err;
        if (l->arrives_ns > now || l->update.version == s->round) {
            r->late.one[kept++] = *l;
            continue;
        }
        double part = policy_late_weight(s->env->fed, s->round - l->update.version);
        l->update.weight *= (float)part;
        l->update.heard = books_heard(s, &l->update);
        if (l->update.weight > 0 && global_add(&s->global, &l->update, &err) == 0) {
            l->row.status = MESSAGE_OK;
            l->row.version = (int32_t)s->round;
            l->row.attempt = s->env->rec->attempt;
            l->row.lag = (int32_t)(s->round - l->update.version);
            l->row.weight = (double)l->update.weight;
            s->row.arrived++;
            s->sink->rows(s->sink->arg, REC_MESSAGES, &l->row, 1);
        }
        transport_unref(s->env->transport, l->held);
    }
    r->late.n = kept;
}

// All that will report have: who was in time, and are there enough?
static void decide(struct server *s)
{
    struct sync_round *r = s->rounds;
    const struct fed_params *fed = s->env->fed;
    bool real = s->env->net->pace == NET_PACE_REAL; // then who is here is in time
    size_t n = 0, in_time = 0;
    bool silent = false; // somebody whose link lost the model, or the update
    gather_times(s);
    for (int i = 0; i < r->n_turns; i++) {
        if (r->turn[i].state == TURN_HELD)
            r->arrival_ns[n++] = r->together[r->turn[i].at].times.total_ns;
        silent |= r->turn[i].row[0].status == MESSAGE_LINK;
    }
    r->end_ns = real ? now_ns(s) - r->start.clock_ns : policy_end_ns(fed, r->arrival_ns, n, silent);
    for (size_t i = 0; i < n; i++)
        in_time += real || r->arrival_ns[i] <= r->end_ns;
    bool enough = policy_enough(fed, in_time);
    for (int i = 0; i < r->n_turns; i++) {
        struct turn *t = &r->turn[i];
        if (t->state != TURN_HELD)
            continue;
        int64_t total = r->together[t->at].times.total_ns;
        bool late = !real && total > r->end_ns;
        if (late && fed->late_weight > 0)
            keep_late(s, t, link_add_ns(r->start.run_ns, total));
        if (late || !enough)
            resolve(s, t, MESSAGE_UNUSED);
    }
    r->decided = true;
}

// At a real pace the clock decides: with enough updates, or at the deadline, the others are late.
static bool cut_off(const struct server *s)
{
    const struct sync_round *r = s->rounds;
    const struct fed_params *fed = s->env->fed;
    int32_t quorum = policy_quorum(fed), here = 0;
    if (s->env->net->pace != NET_PACE_REAL || policy_waits(fed) || r->decided)
        return false;
    for (int i = 0; i < r->n_turns; i++)
        here += r->turn[i].state == TURN_HELD;
    return (quorum > 0 && here >= quorum) ||
           now_ns(s) - r->start.clock_ns >= policy_deadline_ns(fed);
}

static void leave_behind(struct server *s)
{
    struct sync_round *r = s->rounds;
    for (int i = 0; i < r->n_turns; i++) {
        struct turn *t = &r->turn[i];
        if (t->state != TURN_WAITING)
            continue;
        s->peer[t->endpoint].owes_events = false; // it is still busy with this round
        resolve(s, t, MESSAGE_UNUSED);
    }
}

static void grant_window(struct server *s)
{
    struct sync_round *r = s->rounds;
    for (; r->n_granted < r->n_turns && r->n_granted < r->next_turn + r->n_window; r->n_granted++) {
        struct turn *t = &r->turn[r->n_granted];
        if (t->granted || t->state != TURN_WAITING)
            continue;
        t->granted = true;
        struct netbuf *b = transport_buf(s->env->transport, 0);
        struct frame f = {.kind = FRAME_GRANT, .client = t->client};
        server_send(s, t->endpoint, &f, b, now_ns(s), NULL);
        transport_unref(s->env->transport, b);
    }
}

// commit.

// What was taken counts from here on, with the state that goes with it.
static void send_acks(struct server *s)
{
    struct sync_round *r = s->rounds;
    for (int e = 1; e <= s->workers; e++)
        s->peer[e].tasks = 0;
    for (int i = 0; i < r->n_turns; i++) {
        const struct turn *t = &r->turn[i];
        s->peer[t->endpoint].tasks++;
        if (t->accepted)
            server_slot_keep(s, t->client, s->round);
    }
    for (int e = 1; e <= s->workers; e++)
        if (s->peer[e].tasks && !s->peer[e].dead)
            server_control(s, e, FRAME_ACK, NULL, 0, 0);
}

// Modelled terms: the round takes as long as its slowest client, plus the server.
static void modelled_times(struct server *s)
{
    struct sync_round *r = s->rounds;
    const struct fed_env *env = s->env;
    int64_t slowest = 0;
    bool cut = r->decided && env->net->pace != NET_PACE_REAL;
    if (!r->decided)
        gather_times(s);
    r->n_links = 0;
    s->row.energy_modelled_j = 0;
    for (size_t i = 0; i < r->n_together; i++) {
        const struct client_round *c = &r->together[i];
        const struct client_times *t = &c->times;
        books_draw(s, c->client, t, r->start.run_ns);
        if (t->total_ns >= slowest && !(cut && t->total_ns > r->end_ns)) {
            slowest = t->total_ns;
            s->row.compute_max_ns = t->compute_ns + t->encode_ns;
            s->row.upload_max_ns = t->up_ns + t->said_up_ns;
            s->row.download_max_ns = t->down_ns + t->said_down_ns;
        }
        r->links[r->n_links++] = books_link(s, c->client, c->down_bytes, 0, &t->down);
        r->links[r->n_links++] = books_link(s, c->client, c->up_bytes, t->ready_ns, &t->up);
        r->links[r->n_links - 1].up = 1;
        r->links[r->n_links - 1].said_ns = link_add_ns(t->said_up_ns, t->said_down_ns);
        r->links[r->n_links - 1].compute_j = t->compute_j;
        r->links[r->n_links - 1].send_j = t->send_j;
    }
    for (int32_t i = 0; i < env->fed->relays; i++)
        if (r->relay[i].up_bytes > 0 && r->relay[i].total_ns > slowest)
            slowest = r->relay[i].total_ns;
    s->row.time_modelled_ns = (cut ? r->end_ns : slowest) + env->fed->server_ns;
}

// Losses add up in client order, whichever relay was first.
static void sum_losses(struct server *s)
{
    const struct sync_round *r = s->rounds;
    s->global.weight = s->global.loss = 0;
    for (int i = 0; i < r->n_turns; i++) {
        const struct turn *t = &r->turn[i];
        double weight = t->accepted ? t->row[0].weight : 0;
        s->global.weight += weight;
        s->global.loss += weight > 0 ? weight * (double)t->frame.loss : 0;
    }
}

// All is told of the round, and on a simulated clock it is over: frames come as if their links were
// alone, and what the server's port, a relay's link or the server itself adds to that is modelled.
static bool settled(struct server *s)
{
    const struct sync_round *r = s->rounds;
    int64_t end = link_add_ns(r->start.clock_ns, s->row.time_modelled_ns);
    if (books_events_owed(s))
        return false;
    if (!s->env->virtual_time || now_ns(s) >= end || end >= INT64_MAX / 2)
        return true;
    s->deadline_ns = end;
    return false;
}

// Every update is in, or given up: the adapter moves, clients hear what was taken, the score is
// measured while they put their state away.
static void finish_collect(struct server *s)
{
    struct sync_round *r = s->rounds;
    int64_t t = clock_ns();
    recorder_put(s->env->rec, STAGE_WAIT, -1, r->t_collect_ns, t - r->t_collect_ns, -1, 0, 0, 0);
    if (s->env->fed->relays > 0)
        sum_losses(s);
    if (s->row.arrived > 0)
        books_commit(s);
    else
        books_still(s);
    s->row.time_measured_ns = clock_ns() - r->t_begin_ns;
    modelled_times(s);
    send_acks(s);
    books_evaluate(s);
    r->next_turn = r->n_turns + 1; // settling
    s->deadline_ns = now_ns(s) + (int64_t)(s->env->net->timeout_s * 1e9);
    if (settled(s))
        close_round(s);
}

static void advance(struct server *s)
{
    struct sync_round *r = s->rounds;
    if (!policy_waits(s->env->fed) && !r->decided) {
        if (cut_off(s))
            leave_behind(s);
        if (r->n_waiting > 0)
            return; // all are granted
        decide(s);
    }
    while (r->next_turn < r->n_turns && r->turn[r->next_turn].state != TURN_WAITING) {
        struct turn *t = &r->turn[r->next_turn++];
        if (t->state == TURN_HELD)
            take_turn(s, t);
    }
    grant_window(s);
    if (r->next_turn == r->n_turns) {
        take_late(s);
        finish_collect(s);
    }
}

// messages.

static struct turn *find_turn(struct server *s, uint32_t client, int endpoint)
{
    struct sync_round *r = s->rounds;
    int low = 0, high = r->n_turns;
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (r->turn[mid].client < client)
            low = mid + 1;
        else
            high = mid;
    }
    struct turn *t = &r->turn[low];
    return low < r->n_turns && t->client == client && t->endpoint == endpoint ? t : NULL;
}

static enum message_status judge(const struct server *s, const struct net_msg *m,
                                 const struct turn *t)
{
    enum message_status status = books_judge_frame(m);
    if (status != MESSAGE_OK)
        return status;
    if (m->frame.version != s->round)
        return MESSAGE_STALE;
    if (!t || t->state != TURN_WAITING || !t->granted)
        return MESSAGE_UNEXPECTED;
    return books_judge_update(s, &m->frame, s->round);
}

// A frame that cannot be used gets a row of its own; if it was the awaited one, that client is
// done.
static void refuse_update(struct server *s, const struct net_msg *m, struct turn *t,
                          enum message_status why)
{
    bool awaited =
        books_head_read(m) && t && t->state == TURN_WAITING && m->frame.version == s->round;
    bool expected = why == MESSAGE_STALE && !policy_waits(s->env->fed); // late: left behind
    if (!expected)
        books_warn(s, m, why);
    if (awaited) {
        t->row[0].frame_bytes = (int64_t)m->bytes;
        resolve(s, t, why);
        return;
    }
    books_refuse(s, m, why);
    s->row.rejected += !expected;
}

static void take_update(struct server *s, const struct net_msg *m)
{
    struct sync_round *r = s->rounds;
    struct turn *t = find_turn(s, m->frame.client, m->src);
    enum message_status status = judge(s, m, t);
    s->row.uplink_bytes += (int64_t)m->bytes;
    if (status != MESSAGE_OK) {
        refuse_update(s, m, t, status);
    } else {
        t->state = TURN_HELD;
        r->n_waiting--;
        t->frame = m->frame;
        t->held = m->buf;
        transport_ref(m->buf);
        t->frame_bytes = (int64_t)(FRAME_HEADER_BYTES + m->frame.payload_bytes);
        t->row[0].frame_bytes = t->frame_bytes;
        t->times =
            fed_said_times(s->env, &r->start, t->client, t->down_bytes, t->frame_bytes, t->said);
        if (!datagram_usable(s->env->method, s->env->link, &t->times.up, t->frame_bytes))
            resolve(s, t, MESSAGE_LINK);
    }
}

static void send_answer(struct server *s, struct turn *t, struct netbuf *b, size_t len)
{
    const struct sync_round *r = s->rounds;
    struct frame f = {.kind = FRAME_ANSWER,
                      .client = t->client,
                      .samples = (uint32_t)t->said.times, // which it answers
                      .payload_bytes = len};
    int64_t bytes = (int64_t)(FRAME_HEADER_BYTES + len), now = now_ns(s);
    struct link_transfer down = {.client = t->client,
                                 .round = s->round,
                                 .attempt = 1 + (uint32_t)t->said.times,
                                 .t_ready_ns = r->start.run_ns + now - r->start.clock_ns,
                                 .bytes = bytes};
    t->said.times++;
    t->said.down_bytes += bytes;
    s->row.downlink_bytes += bytes;
    server_send(s, t->endpoint, &f, b, now, &down);
}

// In the middle of a client's round. Whoever talks is there: the round's patience begins anew. In
// virtual time answers come at once, and how long they take is in the time of the update.
static void take_said(struct server *s, const struct net_msg *m)
{
    const struct scheme_talk *talk = s->env->method->scheme->talk;
    struct turn *t = find_turn(s, m->frame.client, m->src);
    struct codec_report report = {.staleness = -1};
    struct err err;
    s->row.uplink_bytes += (int64_t)m->bytes;
    if (!talk || !t || t->state != TURN_WAITING || m->frame.version != s->round ||
        m->frame.samples != (uint32_t)t->said.times) {
        refuse_update(s, m, NULL, MESSAGE_UNEXPECTED);
        return;
    }
    t->said.up_bytes += (int64_t)m->bytes;
    size_t cap = talk->bound[1](s->env);
    struct netbuf *b = transport_buf(s->env->transport, cap);
    int64_t len = talk->answer(&s->global, t->client, m->payload, m->frame.payload_bytes,
                               netbuf_payload(b), cap, &report, &err);
    if (len < 0) {
        warn("round %u: what client %u says is rejected: %s", s->round, t->client, err.text);
        resolve(s, t, len == CODEC_NONFINITE ? MESSAGE_NONFINITE : MESSAGE_CORRUPT);
    } else {
        send_answer(s, t, b, (size_t)len);
    }
    transport_unref(s->env->transport, b);
    int64_t patience = now_ns(s) + (int64_t)(s->env->net->timeout_s * 1e9);
    if (policy_waits(s->env->fed) && patience > s->deadline_ns)
        s->deadline_ns = patience;
}

// A relay's client, as if its update had come by itself.
static void take_relayed(struct server *s, struct turn *t, const struct relay_client *c)
{
    const struct sync_round *r = s->rounds;
    t->frame = (struct frame){.samples = c->samples, .loss = c->loss};
    t->frame_bytes = t->row[0].frame_bytes = c->frame_bytes;
    t->times = fed_client_times(s->env, &r->start, t->client, t->down_bytes, c->frame_bytes);
    s->row.uplink_bytes += c->frame_bytes;
    if (c->status == MESSAGE_OK) {
        t->accepted = true;
        t->row[0].weight = (double)books_weight(s, &t->frame);
        s->row.arrived++;
        s->global.arrived++;
    }
    resolve(s, t, c->status);
}

// All of its clients are awaited, or nothing of it counts.
static bool awaited(struct server *s, const struct relay_sum *sum, int endpoint)
{
    const struct view_inst *view = &s->env->method->view;
    struct sync_round *r = s->rounds;
    memset(r->part_weight, 0, view->n_parts * sizeof *r->part_weight);
    for (uint32_t i = 0; i < sum->n_clients; i++) {
        const struct relay_client c = relay_client_at(sum, i);
        const struct turn *t = find_turn(s, c.client, endpoint);
        if (!t || t->state != TURN_WAITING)
            return false;
        struct frame f = {.samples = c.samples};
        if (c.status == MESSAGE_OK)
            r->part_weight[view_turn(view, c.client, s->round)] += (double)books_weight(s, &f);
    }
    return true;
}

static void take_sum(struct server *s, const struct net_msg *m)
{
    struct sync_round *r = s->rounds;
    struct relay_sum sum;
    struct err err = {"it is late, or of clients that nobody waits for"};
    s->row.relay_up_bytes += (int64_t)m->bytes;
    if (s->env->fed->relays == 0 || m->frame.version != s->round || r->holding ||
        relay_get(s->env, m->payload, m->frame.payload_bytes, &sum, &err) ||
        !awaited(s, &sum, m->src)) {
        warn("round %u: a sum from %s is refused: %s", s->round, server_peer_name(s, m->src),
             err.text);
        books_refuse(s, m, MESSAGE_UNEXPECTED);
        s->row.rejected++;
        return;
    }
    r->relay[sum.number].up_bytes = (int64_t)m->bytes;
    global_add_sums(&s->global, sum.sums, (size_t)(m->payload + m->frame.payload_bytes - sum.sums),
                    r->part_weight);
    for (uint32_t i = 0; i < sum.n_clients; i++) {
        const struct relay_client c = relay_client_at(&sum, i);
        take_relayed(s, find_turn(s, c.client, m->src), &c);
    }
}

static void take_fail(struct server *s, const struct net_msg *m)
{
    struct turn *t = find_turn(s, m->frame.client, m->src);
    if (!t || t->state != TURN_WAITING || m->frame.version != s->round)
        return;
    warn("round %u: client %u has no update: %.*s", s->round, t->client,
         (int)m->frame.payload_bytes, (const char *)m->payload);
    resolve(s, t,
            m->frame.reason < MESSAGE_STATUS_COUNT ? (enum message_status)m->frame.reason
                                                   : MESSAGE_LOST);
}

// To a task. A damaged frame counts as an update, whatever it was.
static void take_answer(struct server *s, const struct net_msg *m)
{
    if (m->verdict == FRAME_GOOD && m->frame.kind == FRAME_SUM)
        take_sum(s, m);
    else if (m->verdict == FRAME_GOOD && m->frame.kind == FRAME_SAY)
        take_said(s, m);
    else if (m->verdict != FRAME_GOOD || m->frame.kind == FRAME_UPDATE)
        take_update(s, m);
    else if (m->frame.kind == FRAME_FAIL)
        take_fail(s, m);
}

// Where time is real a worker takes its clients in turn, and says that it is at work: those that
// wait for it wait on, but for a deadline of the round's own.
static void renew_deadline(struct server *s)
{
    const struct sync_round *r = s->rounds;
    int64_t until = now_ns(s) + (int64_t)(s->env->net->timeout_s * 1e9);
    int64_t cut = link_add_ns(r->start.clock_ns, policy_deadline_ns(s->env->fed));
    if (s->env->net->pace == NET_PACE_REAL && cut < until)
        until = cut;
    if (!s->env->virtual_time && until > s->deadline_ns)
        s->deadline_ns = until;
}

static void sync_message(struct server *s, const struct net_msg *m)
{
    struct sync_round *r = s->rounds;
    if (m->verdict == FRAME_GOOD && !r->holding && r->next_turn <= r->n_turns)
        renew_deadline(s);
    if (!books_take_events(s, m))
        take_answer(s, m);
    if (r->holding && books_worker_up(s))
        begin_round(s);
    else if (!r->holding && r->next_turn < r->n_turns)
        advance(s);
    else if (!r->holding && r->next_turn > r->n_turns && settled(s))
        close_round(s);
    run_on(s);
}

static void give_up_on(struct server *s, bool late)
{
    struct sync_round *r = s->rounds;
    for (int i = 0; i < r->n_turns; i++) {
        struct turn *t = &r->turn[i];
        if (t->state != TURN_WAITING)
            continue;
        if (late)
            server_suspect_silent(s, t->endpoint, r->start.clock_ns);
        if (late || !server_peer_up(s, t->endpoint))
            resolve(s, t, MESSAGE_LOST);
    }
}

static void sync_timer(struct server *s, int64_t now)
{
    struct sync_round *r = s->rounds;
    bool late = now >= s->deadline_ns;
    if (r->holding) {
        if (late || server_stopping(s))
            begin_round(s);
    } else if (r->next_turn < r->n_turns) {
        if (!cut_off(s))
            give_up_on(s, late);
        advance(s);
    } else {
        if (late)
            books_forgive_events(s, r->start.clock_ns);
        if (settled(s))
            close_round(s);
    }
    run_on(s);
}

// close.

static void close_round(struct server *s)
{
    struct sync_round *r = s->rounds;
    for (int i = 0; i < r->n_turns; i++)
        s->sink->rows(s->sink->arg, REC_MESSAGES, r->turn[i].row, (size_t)r->turn[i].n_rows);
    s->sink->rows(s->sink->arg, REC_LINKS, r->links, (size_t)r->n_links);
    if (books_close(s, r->t_begin_ns))
        r->between = true;
    else
        server_finish(s);
}

static void begin_round(struct server *s)
{
    struct sync_round *r = s->rounds;
    r->holding = r->decided = false;
    for (int32_t i = 0; i < s->env->fed->relays; i++)
        r->relay[i] = (struct relay_round){.number = (uint32_t)i};
    r->t_begin_ns = clock_ns();
    bool paced = s->env->net->pace == NET_PACE_REAL;
    int64_t run_ns = paced ? s->totals.measured_ns : s->totals.modelled_ns;
    r->start = (struct round_start){s->round, run_ns, now_ns(s)};
    sample_turns(s);
    broadcast(s);
    set_deadline(s);
    r->t_collect_ns = clock_ns();
    advance(s);
}

// With every worker under suspicion the round waits for one of them to answer, up to the timeout.
static void next_round(struct server *s)
{
    struct sync_round *r = s->rounds;
    books_open(s);
    r->between = false;
    r->next_turn = r->n_granted = 0;
    books_ask_suspects(s);
    r->start.clock_ns = now_ns(s);
    r->holding = !books_worker_up(s) && books_worker_left(s) && !server_stopping(s);
    if (r->holding)
        s->deadline_ns = r->start.clock_ns + (int64_t)(s->env->net->timeout_s * 1e9);
    else
        begin_round(s);
}

// A round in which nobody can take part closes at once: a loop, not a recursion.
static void run_on(struct server *s)
{
    struct sync_round *r = s->rounds;
    while (r->between && s->phase == SERVER_ROUNDS)
        next_round(s);
}

static void sync_open(struct server *s)
{
    const struct fed_env *env = s->env;
    struct sync_round *r = s->rounds = mem_alloc(MEM_SERVER, sizeof *r);
    int sampled = policy_sampled(env->fed);
    size_t per_round = (size_t)sampled;
    int64_t window = env->net->arena_bytes / (int64_t)(fed_update_bound(env) + FRAME_HEADER_BYTES);
    r->turn = mem_alloc(MEM_SERVER, per_round * sizeof *r->turn);
    r->links = mem_alloc(MEM_SERVER, 2 * per_round * sizeof *r->links);
    r->together = mem_alloc(MEM_SERVER, per_round * sizeof *r->together);
    r->sampled = mem_alloc(MEM_SERVER, per_round * sizeof *r->sampled);
    r->arrival_ns = mem_alloc(MEM_SERVER, per_round * sizeof *r->arrival_ns);
    size_t relays = (size_t)env->fed->relays;
    r->relay = mem_alloc(MEM_SERVER, (relays + 1) * sizeof *r->relay);
    r->relay_ready_ns = mem_alloc(MEM_SERVER, (relays + 1) * sizeof *r->relay_ready_ns);
    r->part_weight = mem_alloc(MEM_SERVER, env->method->view.n_parts * sizeof *r->part_weight);
    bool all =
        relays > 0 || window > sampled || !policy_waits(env->fed); // fed_prepare saw that they fit
    r->n_window = all ? sampled : window < 1 ? 1 : (int)window;
}

static void sync_close(struct server *s)
{
    struct sync_round *r = s->rounds;
    for (int i = 0; i < r->n_turns; i++)
        if (r->turn[i].held)
            transport_unref(s->env->transport, r->turn[i].held);
    if (r->model)
        transport_unref(s->env->transport, r->model);
    mem_free(r->turn);
    mem_free(r->links);
    mem_free(r->together);
    mem_free(r->sampled);
    mem_free(r->arrival_ns);
    mem_free(r->relay);
    mem_free(r->relay_ready_ns);
    mem_free(r->part_weight);
    late_free(&r->late, s->env->transport);
    mem_free(r);
}

static size_t sync_keep_words(const struct server *s)
{
    return late_words(&((const struct sync_round *)s->rounds)->late);
}

static void sync_keep(const struct server *s, uint8_t *out)
{
    late_keep(&((const struct sync_round *)s->rounds)->late, out);
}

static int sync_restore(struct server *s, const uint8_t *in, size_t words, struct err *err)
{
    return late_restore(&((struct sync_round *)s->rounds)->late, s->env, in, words, err);
}

static struct rec_message *sync_row(struct server *s, const struct rec_message *report)
{
    uint32_t client = (uint32_t)report->client;
    struct turn *t = NULL;
    if (report->version == (int32_t)s->round)
        t = find_turn(s, client, fed_owner(client, s->workers));
    return t && report->vector >= 0 && report->vector < t->n_rows ? &t->row[report->vector] : NULL;
}

static void sync_begin(struct server *s, int64_t now)
{
    struct sync_round *r = s->rounds;
    (void)now;
    if (books_start(s))
        r->between = true;
    else
        server_finish(s);
    run_on(s);
}

const struct server_handlers server_sync = {
    .name = "sync",
    .open = sync_open,
    .close = sync_close,
    .begin = sync_begin,
    .message = sync_message,
    .timer = sync_timer,
    .row = sync_row,
    .keep_words = sync_keep_words,
    .keep = sync_keep,
    .restore = sync_restore,
};
