#include "fed/server.h"

#include "base/bytes.h"
#include "base/fsio.h"
#include "base/job.h"
#include "base/mem.h"
#include "base/power.h"
#include "fed/downlink.h"
#include "fed/personal.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define CLOCK_PINGS    8
#define ALIVE_EVERY_NS 100000000
#define BYE_WAIT_NS    5000000000
#define SERVER_EVENTS  65536

static int64_t timeout_ns(const struct server *s)
{
    return (int64_t)(s->env->net->timeout_s * 1e9);
}

// For what happens once, at the start.
static int64_t start_ns(const struct server *s)
{
    return timeout_ns(s) > 60000000000 ? timeout_ns(s) : 60000000000;
}

// opening.

// Of what theta stands for: an adapter's shape, unless the method reads it another way.
static uint64_t registry_of(const struct fed_env *env)
{
    return env->work->shape.hash + (env->method->view.row->local != NULL);
}

static struct checkpoint checkpoint_of(const struct server *s)
{
    return (struct checkpoint){.config_hash = s->env->config_hash,
                               .run_id = s->run_id,
                               .registry = registry_of(s->env),
                               .round = s->round,
                               .n = s->global.n_model,
                               .n_state = s->global.n_state,
                               .n_batteries = s->battery ? (uint32_t)s->env->fed->clients : 0,
                               .n_slots = s->slot ? (size_t)s->env->fed->clients : 0,
                               .first_loss = s->first_loss,
                               .last_loss = s->last_loss,
                               .totals = s->totals};
}

static struct checkpoint_data checkpoint_data_of(const struct server *s)
{
    return (struct checkpoint_data){.theta = s->global.theta,
                                    .state = s->global.state,
                                    .slots = s->slot,
                                    .battery = s->battery};
}

static struct welcome welcome_of(const struct server *s)
{
    return (struct welcome){.run_id = s->run_id,
                            .resumed_at = s->round,
                            .origin_ns = s->origin_ns,
                            .max_payload_bytes = s->env->transport->limits.max_payload_bytes};
}

// What belongs to the handlers goes back to them.
static int give_back(struct server *s, const struct checkpoint *c, const struct checkpoint_data *d,
                     struct err *err)
{
    const struct server_handlers *h = s->env->method->scheme->server;
    size_t n = c->n_more, down = s->down && n ? get_u32(d->more) : 0;
    const uint8_t *more = d->more;
    if (s->down) {
        if (n == 0 || down >= n)
            return err_set(err, "the checkpoint in '%s' has nothing of fed.downlink",
                           s->env->run_dir);
        if (downlink_restore(s->down, more + 4, down, err))
            return -1;
        more += 4 * (1 + down);
        n -= 1 + down;
    }
    const struct scheme *scheme = s->env->method->scheme;
    size_t own = scheme->restore && n ? get_u32(more) : 0;
    if (scheme->restore) {
        if (n == 0 || own >= n)
            return err_set(err, "the checkpoint in '%s' has nothing of scheme %s", s->env->run_dir,
                           scheme->name);
        if (scheme->restore(&s->global, more + 4, own, err))
            return -1;
        more += 4 * (1 + own);
        n -= 1 + own;
    }
    if (h->restore)
        return h->restore(s, more, n, err);
    return n ? err_set(err, "the checkpoint in '%s' is of another scheme", s->env->run_dir) : 0;
}

static void restore(struct server *s, struct err *err, int *rc)
{
    const struct fed_env *env = s->env;
    struct checkpoint c = checkpoint_of(s);
    struct checkpoint_data d = checkpoint_data_of(s);
    *rc = checkpoint_read(env->run_dir, &c, &d, err);
    if (*rc == 1) {
        s->run_id = c.run_id;
        s->round = s->kept.round = c.round;
        s->first_loss = c.first_loss;
        s->last_loss = c.last_loss;
        s->totals = s->at_start = c.totals;
        if (give_back(s, &c, &d, err))
            *rc = -1;
        mem_free(d.more);
    }
}

struct server *server_open(const struct fed_env *env, const struct fed_sink *sink, struct err *err)
{
    struct server *s = mem_alloc(MEM_SERVER, sizeof *s);
    const struct scheme *scheme = env->method->scheme;
    s->env = env;
    s->sink = sink;
    s->workers = env->transport->n_endpoints - 1;
    s->peer = mem_alloc(MEM_SERVER, (size_t)(s->workers + 1) * sizeof *s->peer);
    int rc = global_open(&s->global, env, err);
    s->drain_cap = SERVER_EVENTS;
    s->drain = mem_alloc(MEM_TRACE, s->drain_cap * sizeof *s->drain);
    server_slots_open(s);
    if (env->client->battery_j > 0)
        s->battery = mem_alloc(MEM_SERVER, (size_t)env->fed->clients * sizeof *s->battery);
    if (env->fed->evaluate == FED_EVALUATE_PERSONAL)
        s->personal = personal_open(env->fed->clients);
    for (int32_t i = 0; s->battery && i < env->fed->clients; i++)
        s->battery[i] = battery_full(env->client);
    struct checkpoint c = checkpoint_of(s);
    if (*env->run_dir) // else it grows when it has to
        s->ckpt = mem_grow(MEM_SERVER, s->ckpt, 0, checkpoint_bytes(&c), &s->ckpt_cap, 1);
    s->down = fed_down_coded(env) ? downlink_open(env) : NULL;
    scheme->server->open(s);
    s->origin_ns = env->rec->origin_ns;
    uint64_t seed[3] = {env->config_hash, (uint64_t)clock_unix_ns(), (uint64_t)getpid()};
    s->run_id = XXH3_64bits(seed, sizeof seed);
    s->first_loss = s->last_loss = NAN;
    if (env->resume && rc == 0)
        restore(s, err, &rc);
    if (!env->resume && rc == 0 && *env->run_dir && checkpoint_present(env->run_dir))
        rc = err_set(err,
                     "run.dir = %s holds a run already; run.resume=on goes on with it, a new run "
                     "needs another directory",
                     env->run_dir);
    if (env->resume && rc == 0)
        warn("run.resume: nothing to resume in '%s'; starting from round 1", env->run_dir);
    if (rc < 0) {
        server_close(s);
        return NULL;
    }
    struct welcome w = welcome_of(s);
    s->epoch = welcome_epoch(&w);
    s->phase = SERVER_GREET;
    s->deadline_ns = transport_now(env->transport) + start_ns(s);
    return s;
}

void server_close(struct server *s)
{
    if (!s)
        return;
    s->env->method->scheme->server->close(s);
    downlink_close(s->down);
    global_close(&s->global);
    power_sum_free(&s->power);
    mem_free(s->peer);
    mem_free(s->ckpt);
    mem_free(s->more);
    mem_free(s->slot);
    mem_free(s->battery);
    server_parting_close(s);
    personal_close(s->personal);
    mem_free(s->heard);
    mem_free(s->drain);
    mem_free(s);
}

// sending and peers.

void server_send(struct server *s, int endpoint, struct frame *f, struct netbuf *b,
                 int64_t t_deliver, const struct link_transfer *over)
{
    f->registry = s->env->work->shape.hash;
    if (f->version == 0)
        f->version = s->round;
    if (s->env->net->checksum)
        f->flags |= FRAME_CHECKSUM;
    if (f->kind != FRAME_MODEL && f->kind != FRAME_ANSWER && f->kind != FRAME_PARCEL)
        s->row.control_bytes += (int64_t)(FRAME_HEADER_BYTES + f->payload_bytes);
    if (over)
        transport_send_over(s->env->transport, 0, endpoint, f, b, t_deliver, over);
    else
        transport_send(s->env->transport, 0, endpoint, f, b, t_deliver);
}

void server_control(struct server *s, int endpoint, enum frame_kind kind, const void *payload,
                    size_t len, uint8_t reason)
{
    struct netbuf *b = transport_buf(s->env->transport, len);
    struct frame f = {.kind = (uint8_t)kind, .payload_bytes = len, .reason = reason};
    if (len)
        memcpy(netbuf_payload(b), payload, len);
    server_send(s, endpoint, &f, b, transport_now(s->env->transport), NULL);
    transport_unref(s->env->transport, b);
}

static void ping(struct server *s, int endpoint)
{
    uint8_t t[8];
    put_u64(t, (uint64_t)clock_ns());
    server_control(s, endpoint, FRAME_PING, t, sizeof t, 0);
}

bool server_peer_up(const struct server *s, int endpoint)
{
    return !s->peer[endpoint].dead && !s->peer[endpoint].suspect;
}

const char *server_peer_name(const struct server *s, int endpoint)
{
    static char name[96];
    const struct hello *h = &s->peer[endpoint].hello;
    if (s->env->virtual_time || transport_hosts(s->env->transport, endpoint))
        snprintf(name, sizeof name, "worker %d", endpoint);
    else
        snprintf(name, sizeof name, "rank %d on %s", h->rank, h->host);
    return name;
}

void server_suspect(struct server *s, int endpoint, const char *why)
{
    struct server_peer *p = &s->peer[endpoint];
    if (p->dead || p->suspect)
        return;
    p->suspect = true;
    p->dead = !hello_alive(&p->hello);
    s->unclean = true;
    warn("round %u: %s %s; its clients are %s", s->round, server_peer_name(s, endpoint),
         p->dead ? "died" : why, p->dead ? "lost" : "unavailable until it answers");
    transport_forget(s->env->transport, endpoint);
}

void server_suspect_silent(struct server *s, int endpoint, int64_t since_ns)
{
    if (s->peer[endpoint].heard_ns < since_ns || !hello_alive(&s->peer[endpoint].hello))
        server_suspect(s, endpoint, "is silent");
    if (s->peer[endpoint].suspect && !s->peer[endpoint].dead && !s->told_silence) {
        s->told_silence = true;
        warn("a rank may be silent for net.timeout_s = %g; where one local step takes longer, "
             "give more",
             s->env->net->timeout_s);
    }
}

// A rank of this host that died is known at once, not at the deadline.
void server_check_alive(struct server *s)
{
    for (int e = 1; e <= s->workers; e++)
        if (!s->peer[e].dead && s->peer[e].greeted && !hello_alive(&s->peer[e].hello)) {
            s->peer[e].suspect = false;
            server_suspect(s, e, "died");
        }
}

// clocks.

static bool clocks_known(const struct server *s)
{
    for (int e = 1; e <= s->workers; e++)
        if (s->peer[e].pongs < CLOCK_PINGS && server_peer_up(s, e))
            return false;
    return true;
}

static void take_pong(struct server *s, const struct net_msg *m)
{
    struct server_peer *p = &s->peer[m->src];
    if (m->frame.payload_bytes != 16)
        return;
    int64_t now = clock_ns(), sent = (int64_t)get_u64(m->payload),
            theirs = (int64_t)get_u64(m->payload + 8);
    int64_t rtt = now - sent;
    if (s->phase != SERVER_CLOCKS && s->phase != SERVER_FAREWELL)
        return; // an answer to a suspicion says nothing about clocks
    int64_t *offset = s->phase == SERVER_CLOCKS ? &p->offset_start_ns : &p->offset_end_ns;
    if (p->pongs == 0 || rtt < p->rtt_ns) {
        p->rtt_ns = rtt;
        *offset = theirs - (sent + rtt / 2);
    }
    if (++p->pongs < CLOCK_PINGS)
        ping(s, m->src);
}

static void start_clocks(struct server *s, enum server_phase phase)
{
    s->phase = phase;
    s->deadline_ns = transport_now(s->env->transport) + BYE_WAIT_NS;
    for (int e = 1; e <= s->workers; e++) {
        s->peer[e].pongs = 0;
        if (server_peer_up(s, e))
            ping(s, e);
    }
}

static void slots_done(struct server *s)
{
    if (s->phase != SERVER_SLOTS || !server_slots_known(s))
        return;
    server_slots_decide(s);
    start_clocks(s, SERVER_CLOCKS);
}

// greeting.

static void refuse(struct server *s, int endpoint, const struct hello *h, const char *why)
{
    server_control(s, endpoint, FRAME_REFUSE, why, strlen(why), 0);
    transport_flush(s->env->transport, transport_now(s->env->transport) + 1000000000);
    die(STATUS_ENV, "rank %d on %s %s", h->rank, h->host, why);
}

static void take_hello(struct server *s, const struct net_msg *m)
{
    struct hello own = {0}, *h = &s->peer[m->src].hello;
    hello_local(&own);
    if (hello_get(m->payload, m->frame.payload_bytes, h))
        refuse(s, m->src, h,
               "has another byte order or greets in another way; run the same build everywhere");
    if (strcmp(h->build, own.build) != 0)
        refuse(s, m->src, h, "runs another build; install the same one on every host");
    if (h->config_hash != s->env->config_hash)
        refuse(s, m->src, h, "has another configuration");
    if (m->frame.registry != s->env->work->shape.hash)
        refuse(s, m->src, h,
               "has an adapter of another shape; check that model and data files are the same");
    if (s->peer[m->src].greeted)
        return;
    s->peer[m->src].greeted = true;
    struct welcome w = welcome_of(s);
    uint8_t payload[WELCOME_BYTES + HELLO_BYTES];
    snprintf(own.host, sizeof own.host, "%s", s->env->host);
    welcome_put(&w, payload);
    hello_put(&own, payload + WELCOME_BYTES);
    server_control(s, m->src, FRAME_WELCOME, payload, sizeof payload, 0);
    for (int e = 1; e <= s->workers; e++)
        if (!s->peer[e].greeted)
            return;
    s->env->transport->limits.registry = s->env->work->shape.hash;
    s->phase = SERVER_SLOTS;
    s->deadline_ns = transport_now(s->env->transport) + 10 * start_ns(s); // all of it is read
    server_slots_ask(s);
    slots_done(s);
}

// shared services of the handlers.

bool server_stopping(const struct server *s)
{
    return s->stop && *s->stop;
}

void server_evaluate(struct server *s)
{
    struct recorder *rec = s->env->rec;
    struct span span = span_begin(rec);
    s->eval.n_rows = 0;
    global_evaluate(&s->global, &s->eval);
    span_end(rec, span, STAGE_EVALUATE, -1, 0, 0);
    struct rec_eval rows[EVAL_MAX + 2];
    int n = 0;
    struct rec_eval base = {
        .n = -1, .run = rec->run, .version = (int32_t)s->round, .attempt = rec->attempt};
    if (!isnan(s->eval.score)) {
        rows[n] = base;
        rows[n].value = s->eval.score;
        snprintf(rows[n].set, sizeof rows[n].set, "all");
        snprintf(rows[n++].metric, sizeof rows[0].metric, "%s",
                 s->env->work->row->score_name(s->env->work));
    }
    if (!isnan(s->eval.loss)) {
        rows[n] = base;
        rows[n].value = s->eval.loss;
        snprintf(rows[n].set, sizeof rows[n].set, "all");
        snprintf(rows[n++].metric, sizeof rows[0].metric, "loss");
    }
    for (int i = 0; i < s->eval.n_rows; i++) {
        rows[n] = base;
        rows[n].value = s->eval.rows[i].value;
        rows[n].n = s->eval.rows[i].n;
        memcpy(rows[n].set, s->eval.rows[i].set, sizeof rows[n].set);
        memcpy(rows[n++].metric, s->eval.rows[i].metric, sizeof rows[0].metric);
    }
    s->sink->rows(s->sink->arg, REC_EVAL, rows, (size_t)n);
}

// What travels of a vector as long as the adapter.
static uint8_t *put_vector(struct server *s, uint8_t *p, const float *x)
{
    const struct view_inst *view = &s->env->method->view;
    size_t n = view_down_floats(view);
    if (n < s->global.n) {
        view_gather(&view->part[0], x, s->global.mean[0]); // free until the commit
        x = s->global.mean[0];
    }
    for (size_t i = 0; i < n; i++)
        put_f32(p + 4 * i, x[i]);
    return p + 4 * n;
}

static void put_version(struct server *s, const float *theta, uint8_t *p)
{
    const struct scheme *scheme = s->env->method->scheme;
    const struct global *g = &s->global;
    if (fed_adapter_down(s->env))
        p = put_vector(s, p, theta);
    for (size_t i = g->n; i < g->n_model; i++, p += 4)
        put_f32(p, theta[i]);
    for (int k = 0; k < scheme->down_vectors; k++)
        p = put_vector(s, p, g->state + (size_t)k * g->n);
}

struct netbuf *server_pack_model(struct server *s, const float *theta)
{
    struct netbuf *b = transport_buf(s->env->transport, 4 * fed_down_floats(s->env));
    put_version(s, theta, netbuf_payload(b));
    return b;
}

struct netbuf *server_pack_part(struct server *s, const struct view_part *part)
{
    size_t n = part->shape.n_values;
    struct netbuf *b = transport_buf(s->env->transport, 4 * n);
    uint8_t *p = netbuf_payload(b);
    view_gather(part, s->global.theta, s->global.mean[0]); // free until the commit
    for (size_t i = 0; i < n; i++)
        put_f32(p + 4 * i, s->global.mean[0][i]);
    return b;
}

struct netbuf *server_pack_changes(struct server *s, int endpoint)
{
    size_t len = (size_t)downlink_peer_bytes(s->down, endpoint);
    struct netbuf *b = transport_buf(s->env->transport, len);
    uint8_t *p = netbuf_payload(b);
    downlink_put(s->down, endpoint, p);
    if (downlink_whole(s->down, endpoint))
        put_version(s, s->global.theta, p + DOWN_HEAD_BYTES);
    return b;
}

int64_t server_take_wire(struct server *s)
{
    int64_t moved = s->env->transport->bytes_moved, since = moved - s->round_wire_bytes;
    s->round_wire_bytes = moved;
    return since;
}

// A round that could not be kept is no reason to lose the rounds to come; the next tries again.
static void note_kept(struct server *s, const char *failure)
{
    struct server_kept *k = &s->kept;
    if (failure && !k->failing)
        warn("round %u: no checkpoint: %s; the run goes on and tries again after each round",
             s->round, failure);
    if (!failure && k->failing)
        warn("round %u: its checkpoint is written again", s->round);
    k->failing = failure != NULL;
    if (failure) {
        k->missed++;
        snprintf(k->why, sizeof k->why, "%.159s", failure);
    } else {
        k->round = s->round;
    }
}

// The downlink's words, after their number, the scheme's likewise, then the handlers'.
static size_t keep_more(struct server *s)
{
    const struct server_handlers *h = s->env->method->scheme->server;
    const struct scheme *scheme = s->env->method->scheme;
    size_t down = s->down ? 1 + downlink_words(s->down) : 0, own = h->keep ? h->keep_words(s) : 0;
    size_t its = scheme->keep ? 1 + scheme->keep_words(&s->global) : 0;
    s->more = mem_grow(MEM_SERVER, s->more, 0, 4 * (down + its + own), &s->more_cap, 1);
    if (s->down) {
        put_u32(s->more, (uint32_t)(down - 1));
        downlink_keep(s->down, s->more + 4);
    }
    if (scheme->keep) {
        put_u32(s->more + 4 * down, (uint32_t)(its - 1));
        scheme->keep(&s->global, s->more + 4 * (down + 1));
    }
    if (h->keep)
        h->keep(s, s->more + 4 * (down + its));
    return down + its + own;
}

void server_checkpoint(struct server *s)
{
    const struct fed_env *env = s->env;
    if (!*env->run_dir)
        return;
    struct err err;
    struct span span = span_begin(env->rec);
    int64_t synced = fsio_sync_ns();
    struct checkpoint c = checkpoint_of(s);
    struct checkpoint_data d = checkpoint_data_of(s);
    c.n_more = keep_more(s);
    d.more = s->more;
    s->ckpt = mem_grow(MEM_SERVER, s->ckpt, 0, checkpoint_bytes(&c), &s->ckpt_cap, 1);
    int rc = checkpoint_write(env->run_dir, &c, &d, s->ckpt, &err);
    if (rc == 0)
        rc = worth_save(&s->global.worth, env->run_dir, &err);
    note_kept(s, rc ? err.text : NULL);
    synced = fsio_sync_ns() - synced;
    recorder_put(env->rec, STAGE_SYNC, -1, clock_ns() - synced, synced, -1, 0, 0, 0);
    span_end(env->rec, span, STAGE_CHECKPOINT, -1, 0, (int64_t)checkpoint_bytes(&c));
}

static void flush_sensors(struct server *s)
{
    size_t n = 0;
    struct rec_sensor *row = s->env->power ? power_watch_take(s->env->power, &n) : NULL;
    for (size_t i = 0; i < n; i++) {
        row[i].t_ns -= s->origin_ns;
        row[i].run = s->env->rec->run;
        row[i].version = (int32_t)s->round;
        row[i].rank = s->env->rank;
        power_sum_add(&s->power, &row[i]);
    }
    if (n)
        s->sink->rows(s->sink->arg, REC_SENSORS, row, n);
}

double server_take_energy(struct server *s)
{
    flush_sensors(s);
    return power_sum_take(&s->power);
}

void server_flush_events(struct server *s)
{
    flush_sensors(s);
    size_t n = recorder_drain(s->env->rec, s->drain, s->drain_cap);
    s->sink->rows(s->sink->arg, REC_EVENTS, s->drain, n);
}

// Merges a client's own report of its message with what the server saw of it.
static void take_report(struct server *s, const struct rec_message *report)
{
    struct rec_message *row = s->env->method->scheme->server->row(s, report);
    if (!row || row->frame_bytes != report->frame_bytes)
        return; // lost, or another copy: what arrived is not what it tells of
    row->header_bytes = report->header_bytes;
    row->directory_bytes = report->directory_bytes;
    row->scales_bytes = report->scales_bytes;
    row->indices_bytes = report->indices_bytes;
    row->tags_bytes = report->tags_bytes;
    row->values_bytes = report->values_bytes;
    memcpy(row->kept, report->kept, sizeof row->kept);
    row->nmse = report->nmse;
    row->norm = report->norm;
    row->staleness = report->staleness;
    memcpy(row->coded_on, report->coded_on, sizeof row->coded_on);
    row->coded_on[sizeof row->coded_on - 1] = '\0';
}

static void take_event(struct server *s, const struct server_peer *p, struct rec_event *e)
{
    if (e->stage == STAGE_PAD || e->stage >= STAGE_COUNT)
        return;
    e->t_start_ns -= s->origin_ns + p->offset_start_ns;
    e->rank = p->hello.rank;
    e->run = s->env->rec->run;
    e->attempt = s->env->rec->attempt;
    s->sink->rows(s->sink->arg, REC_EVENTS, e, 1);
}

static void take_alloc(struct server *s, struct rec_alloc *a)
{
    a->run = s->env->rec->run;
    a->attempt = s->env->rec->attempt;
    s->sink->rows(s->sink->arg, REC_ALLOC, a, 1);
}

static void take_sensor(struct server *s, const struct server_peer *p, struct rec_sensor *r)
{
    r->t_ns -= s->origin_ns + p->offset_start_ns;
    r->rank = p->hello.rank;
    r->run = s->env->rec->run;
    power_sum_add(&s->power, r);
    s->sink->rows(s->sink->arg, REC_SENSORS, r, 1);
}

void server_take_events(struct server *s, const struct net_msg *m)
{
    const struct server_peer *p = &s->peer[m->src];
    struct rows_section part;
    union {
        struct rec_event event;
        struct rec_message message;
        struct rec_alloc alloc;
        struct rec_sensor sensor;
        struct rec_eval eval;
    } row;
    for (size_t at = 0; rows_get(m->payload, m->frame.payload_bytes, &at, &part) > 0;) {
        size_t bytes = record_tables[part.id].row_bytes;
        for (size_t i = 0; i < part.n && bytes <= sizeof row; i++) {
            memcpy(&row, (const uint8_t *)part.rows + i * bytes, bytes);
            if (part.id == REC_EVENTS)
                take_event(s, p, &row.event);
            else if (part.id == REC_MESSAGES)
                take_report(s, &row.message);
            else if (part.id == REC_ALLOC)
                take_alloc(s, &row.alloc);
            else if (part.id == REC_SENSORS)
                take_sensor(s, p, &row.sensor);
            else if (part.id == REC_EVAL && s->personal)
                personal_take(s->personal, &row.eval);
        }
    }
}

// the end.

static bool byes_in(const struct server *s)
{
    for (int e = 1; e <= s->workers; e++)
        if (!s->peer[e].bye && server_peer_up(s, e))
            return false;
    return true;
}

static void send_stops(struct server *s)
{
    s->phase = SERVER_STOPPING;
    s->deadline_ns = transport_now(s->env->transport) + BYE_WAIT_NS;
    for (int e = 1; e <= s->workers; e++)
        if (!s->peer[e].dead)
            server_control(s, e, FRAME_STOP, NULL, 0, s->unclean ? 0 : 1);
    if (byes_in(s))
        s->phase = SERVER_DONE;
}

static void part(struct server *s)
{
    s->phase = SERVER_PARTING;
    server_parting_begin(s);
    if (server_parting_done(s))
        send_stops(s);
}

void server_finish(struct server *s)
{
    start_clocks(s, SERVER_FAREWELL);
    if (clocks_known(s))
        part(s);
}

// the machine.

static void clocks_done(struct server *s)
{
    if (!clocks_known(s))
        return;
    if (s->phase == SERVER_FAREWELL) {
        part(s);
    } else if (s->phase == SERVER_CLOCKS) {
        const struct fed_env *env = s->env;
        s->phase = SERVER_ROUNDS;
        job_report_running();
        recorder_put(env->rec, STAGE_SETUP, -1, env->start_ns, clock_ns() - env->start_ns, -1, 0, 0,
                     0);
        env->method->scheme->server->begin(s, transport_now(env->transport));
    }
}

static void common_message(struct server *s, const struct net_msg *m)
{
    if (m->frame.kind == FRAME_PONG) {
        take_pong(s, m);
        clocks_done(s);
    } else if (m->frame.kind == FRAME_HELLO && s->phase == SERVER_GREET) {
        take_hello(s, m);
    } else if (m->frame.kind == FRAME_SLOTS && s->phase == SERVER_SLOTS) {
        server_slots_take(s, m);
        slots_done(s);
    } else if (m->frame.kind == FRAME_PARCEL && s->phase == SERVER_PARTING) {
        server_parting_taken(s, m);
        if (server_parting_done(s))
            send_stops(s);
    } else if (m->frame.kind == FRAME_BYE) {
        s->peer[m->src].bye = true;
        bye_get(m->payload, m->frame.payload_bytes, &s->peer[m->src].last);
        if (s->phase == SERVER_STOPPING && byes_in(s))
            s->phase = SERVER_DONE;
    }
}

void server_message(struct server *s, const struct net_msg *m)
{
    if (m->src < 1 || m->src > s->workers)
        return;
    bool update =
        m->verdict == FRAME_GOOD &&
        (m->frame.kind == FRAME_UPDATE || m->frame.kind == FRAME_SUM || m->frame.kind == FRAME_SAY);
    if (m->verdict == FRAME_GOOD)
        s->peer[m->src].heard_ns = m->t_ns;
    if (m->verdict == FRAME_GOOD && !update) {
        int64_t bytes = (int64_t)(FRAME_HEADER_BYTES + m->frame.payload_bytes);
        s->row.control_bytes += bytes;
        s->row.control_up_bytes += bytes;
    }
    if (m->verdict == FRAME_GOOD && s->peer[m->src].suspect && !s->peer[m->src].dead) {
        s->peer[m->src].suspect = false;
        warn("round %u: %s answers again", s->round, server_peer_name(s, m->src));
    }
    if (m->verdict == FRAME_GOOD)
        common_message(s, m);
    if (s->phase == SERVER_ROUNDS)
        s->env->method->scheme->server->message(s, m);
    else if (m->verdict == FRAME_GOOD && m->frame.kind == FRAME_EVENTS)
        server_take_events(s, m);
    else if (s->phase == SERVER_GREET && m->verdict != FRAME_GOOD)
        die(STATUS_ENV,
            "endpoint %d greets with a frame that is %s; run the same build on every host", m->src,
            frame_verdict_name[m->verdict]);
}

void server_timer(struct server *s, int64_t now)
{
    if (now >= s->alive_check_ns && !s->env->virtual_time) {
        s->alive_check_ns = now + ALIVE_EVERY_NS;
        server_check_alive(s);
    }
    if (s->phase == SERVER_ROUNDS) {
        s->env->method->scheme->server->timer(s, now);
        return;
    }
    bool late = now >= s->deadline_ns;
    for (int e = 1; e <= s->workers && s->phase == SERVER_SLOTS; e++)
        if (s->peer[e].owes_slots && (late || s->peer[e].dead))
            die(STATUS_ENV, "%s did not say whether it has its clients' state",
                server_peer_name(s, e));
    for (int e = 1; late && e <= s->workers; e++) {
        const struct server_peer *p = &s->peer[e];
        if (s->phase == SERVER_GREET && !p->greeted)
            die(STATUS_ENV,
                "rank %d did not greet in time; check that every host can reach this one", e);
        if (server_peer_up(s, e) && (s->phase == SERVER_STOPPING  ? !p->bye
                                     : s->phase == SERVER_PARTING ? server_parting_owes(s, e)
                                                                  : p->pongs < CLOCK_PINGS))
            server_suspect(s, e, "does not answer");
    }
    if (s->phase == SERVER_PARTING && server_parting_done(s))
        send_stops(s);
    if (s->phase == SERVER_STOPPING && byes_in(s))
        s->phase = SERVER_DONE;
    else
        clocks_done(s);
}

int64_t server_next_timer(const struct server *s)
{
    if (s->env->virtual_time)
        return s->deadline_ns;
    return s->alive_check_ns < s->deadline_ns ? s->alive_check_ns : s->deadline_ns;
}
