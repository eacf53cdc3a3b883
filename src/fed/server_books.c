#include "fed/server_books.h"

#include "base/bytes.h"
#include "base/mem.h"
#include "fed/datagram.h"
#include "fed/downlink.h"
#include "fed/personal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// Going out.

int64_t books_client_bytes(const struct server *s, uint32_t client)
{
    return s->down ? (int64_t)FRAME_HEADER_BYTES + downlink_client_bytes(s->down, client)
                   : fed_client_bytes(s->env, client);
}

// How far training has come: clients whose codec sends less as the loss goes down hear it with the
// model.
static float loss_fall(const struct server *s)
{
    float fall = (float)(s->first_loss - s->last_loss);
    return isfinite(fall) ? fall : 0;
}

struct frame books_model_head(const struct server *s)
{
    const struct fed_env *env = s->env;
    int vectors = fed_adapter_down(env) + env->method->scheme->down_vectors;
    return (struct frame){.kind = FRAME_MODEL,
                          .payload_bytes = 4 * fed_down_floats(env),
                          .vectors = (uint8_t)vectors,
                          .values = (uint32_t)fed_down_floats(env),
                          .loss = loss_fall(s)};
}

size_t books_put_task(const struct server *s, const struct round_start *start, uint32_t client,
                      uint32_t kept, int64_t down_bytes, uint8_t *out)
{
    size_t len = 0;
    if (s->env->link->row->varies) {
        round_start_put(start, out);
        len += ROUND_START_BYTES;
    }
    if (s->down) {
        put_u64(out + len, (uint64_t)down_bytes);
        len += TASK_DOWN_BYTES;
    }
    if (s->slot) {
        struct task_state state = {server_slot(s, client), kept};
        task_state_put(&state, out + len);
        len += TASK_STATE_BYTES;
    }
    return len;
}

// Coming in.

enum message_status books_judge_frame(const struct net_msg *m)
{
    switch (m->verdict) {
    case FRAME_GOOD:
        return MESSAGE_OK;
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
}

enum message_status books_judge_update(const struct server *s, const struct frame *f,
                                       uint32_t version)
{
    const struct view_inst *view = &s->env->method->view;
    const struct view_part *part = &view->part[view_turn(view, f->client, version)];
    bool pack = s->env->method->scheme->pack;
    if (f->values != (pack ? 0 : part->shape.n_values) ||
        f->vectors != (pack ? 1 : view->n_vectors))
        return MESSAGE_SHAPE;
    if (f->samples == 0 || !isfinite(f->loss))
        return MESSAGE_NONFINITE;
    return MESSAGE_OK;
}

void books_warn(const struct server *s, const struct net_msg *m, enum message_status why)
{
    warn("round %u: a frame from %s (client %d) is %s%s%s", s->round, server_peer_name(s, m->src),
         books_head_read(m) ? (int)m->frame.client : -1, message_status_name[why],
         m->verdict == FRAME_GOOD ? "" : ": ",
         m->verdict == FRAME_GOOD ? "" : frame_verdict_name[m->verdict]);
}

void books_refuse(struct server *s, const struct net_msg *m, enum message_status why)
{
    uint32_t client = books_head_read(m) ? m->frame.client : UINT32_MAX;
    struct rec_message row = books_message(s, client, m->src);
    row.frame_bytes = (int64_t)m->bytes;
    row.status = (int32_t)why;
    s->sink->rows(s->sink->arg, REC_MESSAGES, &row, 1);
}

float books_weight(const struct server *s, const struct frame *f)
{
    return s->env->fed->weights == FED_WEIGHTS_EQUAL ? 1 : (float)f->samples;
}

const uint8_t *books_heard(struct server *s, const struct update *u)
{
    if (!datagram_on(s->env->method, s->env->link))
        return NULL;
    struct link_transfer x = {.client = u->client,
                              .round = u->version,
                              .up = true,
                              .bytes = (int64_t)(FRAME_HEADER_BYTES + u->len)};
    size_t bytes = (size_t)(loss_segments(x.bytes) + 7) / 8;
    if (bytes > s->heard_cap) {
        mem_free(s->heard);
        s->heard_cap = 2 * bytes;
        s->heard = mem_alloc(MEM_SERVER, s->heard_cap);
    }
    link_arrived(s->env->link, &x, s->heard);
    return s->heard;
}

struct rec_message books_message(const struct server *s, uint32_t client, int endpoint)
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

void books_by_vector(struct rec_message *row, const struct update *u, int n)
{
    for (int k = 1; k < n; k++) {
        row[k] = row[0];
        row[k].vector = k;
        row[k].status = MESSAGE_OK;
        row[k].frame_bytes = (int64_t)u->vector_len[k];
        row[0].frame_bytes -= row[k].frame_bytes;
    }
}

struct rec_link books_link(const struct server *s, uint32_t client, int64_t bytes, int64_t ready_ns,
                           const struct link_result *r)
{
    const struct recorder *rec = s->env->rec;
    return (struct rec_link){.bytes = bytes,
                             .bytes_sent = r->bytes_sent,
                             .t_ready_ns = ready_ns,
                             .t_deliver_ns = r->delivered ? r->t_deliver_ns : -1,
                             .latency_ns = r->latency_ns,
                             .rate_bps = r->rate_bps,
                             .compute_j = NAN,
                             .send_j = NAN,
                             .run = rec->run,
                             .version = (int32_t)s->round,
                             .attempt = rec->attempt,
                             .client = (int32_t)client,
                             .lost = (int32_t)r->lost_segments};
}

// A version.

void books_open(struct server *s)
{
    struct recorder *rec = s->env->rec;
    // Since the last row, the greeting among them.
    int64_t control = s->row.control_bytes, control_up = s->row.control_up_bytes;
    memset(&s->row, 0, sizeof s->row);
    s->row.control_bytes = control;
    s->row.control_up_bytes = control_up;
    s->round++;
    rec->version = (int32_t)s->round;
    s->row.run = rec->run;
    s->row.version = (int32_t)s->round;
    s->row.attempt = rec->attempt;
    s->row.score = s->row.eval_loss = s->row.energy_j = s->row.update_norm = NAN;
    s->row.energy_modelled_j = NAN;
    s->row.server_lr = fed_server_lr(s->env->fed, (int32_t)s->round);
    if (s->personal)
        personal_begin(s->personal, s->round);
    global_begin(&s->global, s->round);
    if (s->down)
        downlink_begin(s->down, &s->global, s->round);
}

// What clients will decode becomes the version.
static bool code_change(struct server *s)
{
    struct err err;
    if (!s->down)
        return true;
    struct span span = span_begin(s->env->rec);
    int rc = downlink_after(s->down, &s->global, s->round, &err);
    span_end(s->env->rec, span, STAGE_BROADCAST, -1, 0, 0);
    if (rc)
        warn("round %u: fed.downlink: %s; the adapter is left as it was", s->round, err.text);
    return rc == 0;
}

static bool commit(struct server *s)
{
    s->row.train_loss = s->global.loss / s->global.weight;
    s->last_loss = s->row.train_loss;
    if (isnan(s->first_loss))
        s->first_loss = s->last_loss;
    if (s->down)
        downlink_before(s->down, &s->global);
    if (global_commit(&s->global, s->round, s->row.server_lr, &s->row.update_norm))
        return code_change(s);
    if (s->down)
        downlink_still(s->down, s->round);
    warn("round %u: the sum of the updates is not finite; the adapter is left as it was", s->round);
    s->row.rejected += s->row.arrived;
    s->row.arrived = 0;
    return false;
}

bool books_commit(struct server *s)
{
    bool done = commit(s);
    if (done)
        global_average(&s->global, s->round);
    return done;
}

void books_still(struct server *s)
{
    s->row.train_loss = NAN;
    if (s->down)
        downlink_still(s->down, s->round);
}

void books_evaluate(struct server *s)
{
    if (!fed_scored(s->env->fed, s->round) || s->personal)
        return;
    server_evaluate(s);
    s->row.score = s->eval.score;
    s->row.eval_loss = s->eval.loss;
}

static void take_personal(struct server *s)
{
    struct personal_score mean;
    personal_mean(s->personal, s->env, s->sink, &mean);
    s->row.score = s->eval.score = mean.score;
    s->row.eval_loss = s->eval.loss = mean.loss;
    s->eval.n_rows = 0; // groups are not told
}

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
    s->relay_up_bytes += s->row.relay_up_bytes;
    s->relay_down_bytes += s->row.relay_down_bytes;
    s->row.wire_bytes = server_take_wire(s);
    t->wire_bytes += s->row.wire_bytes;
}

// Order: client state is on disk (its owner's EVENTS said so), then the trace, then the checkpoint.
// A kill between the last two makes the resumed run repeat a round that the trace holds already, as
// another attempt of which readers keep the last; the other way round the trace would lack it.
bool books_close(struct server *s, int64_t t_begin_ns)
{
    const struct fed_env *env = s->env;
    if ((int32_t)s->round == env->fed->rounds)
        server_parting_book(s);
    add_totals(s);
    if (s->personal && fed_scored(env->fed, s->round))
        take_personal(s);
    s->row.uplink_total_bytes = s->totals.uplink_bytes;
    s->row.adapter_xxh3 = global_hash(&s->global);
    s->row.energy_j = server_take_energy(s);
    s->sink->rows(s->sink->arg, REC_ROUNDS, &s->row, 1);
    int64_t t = clock_ns();
    recorder_put(env->rec, STAGE_ROUND, -1, t_begin_ns, t - t_begin_ns, -1, 0, 0, 0);
    server_flush_events(s);
    s->sink->commit(s->sink->arg, (int32_t)s->round);
    server_checkpoint(s);
    s->sink->progress(s->sink->arg, &s->row);
    s->row.control_bytes = s->row.control_up_bytes = 0; // of the next round, or of the farewell
    if (!books_worker_left(s))
        snprintf(s->failure, sizeof s->failure, "every worker is lost");
    return (int32_t)s->round < env->fed->rounds && !server_stopping(s) && !s->failure[0];
}

// The score before anything is learned: the floor of every curve.
static void score_untrained(struct server *s)
{
    const struct recorder *rec = s->env->rec;
    s->eval.stop = s->stop; // nothing is lost: a run that stops here begins anew
    server_evaluate(s);
    s->eval.stop = NULL;
    if (server_stopping(s) && isnan(s->eval.score))
        return;
    server_flush_events(s);
    struct rec_round row = {.run = rec->run,
                            .attempt = rec->attempt,
                            .train_loss = NAN,
                            .score = s->eval.score,
                            .eval_loss = s->eval.loss,
                            .update_norm = NAN,
                            .energy_j = server_take_energy(s),
                            .energy_modelled_j = NAN,
                            .server_lr = NAN,
                            .control_bytes = s->row.control_bytes,
                            .control_up_bytes = s->row.control_up_bytes,
                            .wire_bytes = server_take_wire(s),
                            .adapter_xxh3 = global_hash(&s->global)};
    s->totals.control_bytes += row.control_bytes;
    s->totals.control_up_bytes += row.control_up_bytes;
    s->totals.wire_bytes += row.wire_bytes;
    s->row.control_bytes = s->row.control_up_bytes = 0;
    s->sink->rows(s->sink->arg, REC_ROUNDS, &row, 1);
    s->sink->commit(s->sink->arg, 0);
    s->sink->progress(s->sink->arg, &row);
}

bool books_start(struct server *s)
{
    if (s->round == 0 && !server_stopping(s))
        score_untrained(s);
    return (int32_t)s->round < s->env->fed->rounds && !server_stopping(s);
}

// Clients.

bool books_client_there(const struct server *s, uint32_t client, int64_t run_ns)
{
    if (s->battery && battery_j(s->env->client, s->battery[client], run_ns) <= 0)
        return false;
    return !s->env->presence || presence_at(s->env->presence, client, run_ns);
}

void books_draw(struct server *s, uint32_t client, const struct client_times *t, int64_t run_ns)
{
    double joule = t->compute_j + t->send_j;
    s->row.energy_modelled_j += joule;
    if (s->battery)
        s->battery[client] = battery_draw(s->env->client, s->battery[client], joule, run_ns);
}

bool books_take_events(struct server *s, const struct net_msg *m)
{
    if (!books_head_read(m) || m->frame.kind != FRAME_EVENTS)
        return false;
    if (m->verdict == FRAME_GOOD)
        server_take_events(s, m);
    if (m->frame.version == s->round)
        s->peer[m->src].owes_events = false;
    return true;
}

bool books_events_owed(const struct server *s)
{
    for (int e = 1; e <= s->workers; e++)
        if (s->peer[e].owes_events && server_peer_up(s, e))
            return true;
    return false;
}

void books_forgive_events(struct server *s, int64_t since_ns)
{
    for (int e = 1; e <= s->workers; e++)
        if (s->peer[e].owes_events) {
            server_suspect_silent(s, e, since_ns);
            s->peer[e].owes_events = false;
        }
}

// Workers.

bool books_worker_left(const struct server *s)
{
    for (int e = 1; e <= s->workers; e++)
        if (!s->peer[e].dead)
            return true;
    return false;
}

bool books_worker_up(const struct server *s)
{
    for (int e = 1; e <= s->workers; e++)
        if (server_peer_up(s, e))
            return true;
    return false;
}

// One question a timeout: a stopped rank must not be buried in them.
void books_ask_suspects(struct server *s)
{
    int64_t now = transport_now(s->env->transport);
    for (int e = 1; e <= s->workers; e++) {
        struct server_peer *p = &s->peer[e];
        if (!p->suspect || p->dead || now < p->ask_again_ns)
            continue;
        p->ask_again_ns = now + (int64_t)(s->env->net->timeout_s * 1e9);
        server_control(s, e, FRAME_PING, (uint8_t[8]){0}, 8, 0);
    }
}
