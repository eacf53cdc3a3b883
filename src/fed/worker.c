#include "fed/worker.h"

#include "base/bytes.h"
#include "base/mem.h"
#include "base/power.h"
#include "fed/fault.h"
#include "fed/policy.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <xxhash.h>

#define WORKER_EVENTS 16384

static int64_t now_ns(const struct worker *w)
{
    return transport_now(w->env->transport);
}

struct worker *worker_open(const struct fed_env *env, int endpoint, struct err *err)
{
    (void)err;
    struct worker *w = mem_alloc(MEM_OTHER, sizeof *w);
    w->env = env;
    w->endpoint = endpoint;
    clients_open(&w->clients, env, policy_sampled(env->fed));
    w->drain_cap = WORKER_EVENTS;
    w->drain = mem_alloc(MEM_TRACE, w->drain_cap * sizeof *w->drain);
    env->method->scheme->worker->open(w);
    return w;
}

void worker_close(struct worker *w)
{
    if (!w)
        return;
    w->env->method->scheme->worker->close(w);
    clients_close(&w->clients);
    mem_free(w->drain);
    mem_free(w);
}

// sending.

static void seal(const struct worker *w, struct frame *f)
{
    f->registry = w->env->work->shape.hash;
    if (w->env->net->checksum)
        f->flags |= FRAME_CHECKSUM;
}

void worker_send(struct worker *w, struct frame *f, struct netbuf *b, int64_t t_deliver)
{
    seal(w, f);
    transport_send(w->env->transport, w->endpoint, 0, f, b, t_deliver);
}

static void send_small(struct worker *w, enum frame_kind kind, const void *payload, size_t len)
{
    struct netbuf *b = transport_buf(w->env->transport, len);
    struct frame f = {.kind = (uint8_t)kind, .version = w->version, .payload_bytes = len};
    if (len)
        memcpy(netbuf_payload(b), payload, len);
    worker_send(w, &f, b, now_ns(w));
    transport_unref(w->env->transport, b);
}

// While it trains a worker hears nobody, and says now and then that it is at work.
static void say_busy(void *arg)
{
    struct worker *w = arg;
    int64_t now = clock_ns();
    if ((double)(now - w->said_ns) < 0.25e9 * w->env->net->timeout_s)
        return;
    w->said_ns = now;
    send_small(w, FRAME_BUSY, NULL, 0);
}

void worker_start(struct worker *w)
{
    struct hello h = {
        .config_hash = w->env->config_hash, .rank = w->env->rank, .threads = w->env->threads};
    uint8_t payload[HELLO_BYTES];
    snprintf(h.host, sizeof h.host, "%s", w->env->host);
    snprintf(h.cpuset, sizeof h.cpuset, "%s", w->env->cpuset);
    snprintf(h.gpu, sizeof h.gpu, "%s", w->env->gpu);
    hello_local(&h);
    hello_put(&h, payload);
    w->last_heard_ns = clock_ns();
    send_small(w, FRAME_HELLO, payload, sizeof payload);
}

void worker_fail(struct worker *w, uint32_t version, uint32_t client, enum message_status status,
                 const char *why)
{
    size_t len = strlen(why);
    struct netbuf *b = transport_buf(w->env->transport, len);
    struct frame f = {.kind = FRAME_FAIL,
                      .version = version,
                      .client = client,
                      .reason = (uint8_t)status,
                      .payload_bytes = len};
    memcpy(netbuf_payload(b), why, len);
    worker_send(w, &f, b, now_ns(w));
    transport_unref(w->env->transport, b);
}

// MPI moves bytes only while somebody calls it, so training on would hold the upload up and blur
// its span: the rank waits until its bytes have left. Between endpoints of one process nothing
// leaves.
static void send_over(struct worker *w, struct frame *head, struct netbuf *b, int64_t t_deliver,
                      const struct link_transfer *over)
{
    struct transport *t = w->env->transport;
    int64_t from = clock_ns(), patience = (int64_t)(w->env->net->timeout_s * 1e9);
    seal(w, head);
    transport_send_over(t, w->endpoint, 0, head, b, t_deliver, over);
    if (transport_hosts(t, 0) || transport_flush(t, transport_paced_ns(t) + patience))
        recorder_put(w->env->rec, STAGE_UPLOAD, (int32_t)head->client, from, clock_ns() - from, -1,
                     0, (int64_t)b->len, 0);
    transport_unref(t, b);
}

void worker_say(struct worker *w, struct frame *head, struct netbuf *b,
                const struct link_transfer *over)
{
    send_over(w, head, b, now_ns(w), over);
}

void worker_send_update(struct worker *w, struct frame *head, struct netbuf *b, int64_t t_deliver,
                        const struct link_transfer *over)
{
    send_over(w, head, b, t_deliver, over);
    if (fault_at(head->client, head->version) == FAULT_SENT)
        raise(SIGKILL);
}

void worker_send_sum(struct worker *w, struct frame *head, struct netbuf *b, int64_t t_deliver)
{
    struct transport *t = w->env->transport;
    int64_t from = clock_ns(), patience = (int64_t)(w->env->net->timeout_s * 1e9);
    worker_send(w, head, b, t_deliver);
    if (transport_hosts(t, 0) || transport_flush(t, transport_now(t) + patience))
        recorder_put(w->env->rec, STAGE_UPLOAD, -1, from, clock_ns() - from, -1, 0, (int64_t)b->len,
                     0);
    transport_unref(t, b);
}

bool worker_turn_to(struct worker *w, const struct frame *f, const uint8_t *payload)
{
    if (!clients_take_model(&w->clients, f, payload))
        return false;
    w->version = f->version;
    w->env->rec->version = (int32_t)w->version;
    return true;
}

void worker_note_model(struct worker *w, const struct net_msg *m)
{
    struct recorder *rec = w->env->rec;
    if (!w->set_up && !transport_hosts(w->env->transport, 0))
        recorder_put(rec, STAGE_SETUP, -1, w->env->start_ns, m->first_ns - w->env->start_ns, -1, 0,
                     0, 0);
    w->set_up = true;
    recorder_put(rec, STAGE_DOWNLOAD, -1, m->first_ns, clock_ns() - m->first_ns, -1,
                 (int64_t)m->bytes, (int64_t)(4 * fed_model_floats(w->env)), 0);
}

bool worker_take_model(struct worker *w, const struct net_msg *m)
{
    if (!worker_turn_to(w, &m->frame, m->payload))
        return false;
    worker_note_model(w, m);
    return true;
}

// messages.

static void take_welcome(struct worker *w, const struct net_msg *m)
{
    struct clients *c = &w->clients;
    struct welcome hi;
    struct err err;
    if (m->frame.payload_bytes != WELCOME_BYTES + HELLO_BYTES ||
        welcome_get(m->payload, WELCOME_BYTES, &hi) ||
        hello_get(m->payload + WELCOME_BYTES, HELLO_BYTES, &w->server))
        die(STATUS_ENV, "the server's welcome is malformed; run the same build on every host");
    w->welcome = true;
    w->version = hi.resumed_at;
    if (c->state_floats && !c->slots) {
        c->slots = slots_open(w->env->run_dir, w->env->rank, hi.run_id, welcome_epoch(&hi),
                              c->state_floats, hi.resumed_at > 0, &err);
        if (!c->slots)
            die(STATUS_ENV, "%s", err.text);
    }
}

// The server of a resumed run wants to know beforehand whether it can go on.
static void take_slots(struct worker *w, const struct net_msg *m)
{
    struct slots *slots = w->clients.slots;
    uint8_t *missing = mem_alloc(MEM_OTHER, m->frame.payload_bytes + 4);
    size_t n = 0;
    for (size_t at = 0; at + SLOTS_ENTRY_BYTES <= m->frame.payload_bytes; at += SLOTS_ENTRY_BYTES) {
        struct slots_entry e;
        slots_entry_get(m->payload + at, &e);
        if (!slots || !slots_have(slots, e.client, e.gen))
            put_u32(missing + 4 * n++, e.client);
    }
    send_small(w, FRAME_SLOTS, missing, 4 * n);
    mem_free(missing);
}

void worker_send_events(struct worker *w)
{
    struct clients *c = &w->clients;
    size_t n = recorder_drain(w->env->rec, w->drain, w->drain_cap);
    size_t n_sensors = 0;
    struct rec_sensor *sensor = w->env->power ? power_watch_take(w->env->power, &n_sensors) : NULL;
    for (size_t i = 0; i < n_sensors; i++)
        sensor[i].version = (int32_t)w->version;
    const struct rows_section part[] = {{REC_EVENTS, n, w->drain},
                                        {REC_MESSAGES, (size_t)c->n_reports, c->report},
                                        {REC_ALLOC, clients_take_alloc(c), c->alloc_out},
                                        {REC_SENSORS, n_sensors, sensor},
                                        {REC_EVAL, (size_t)c->n_scores, c->scores}};
    const int n_parts = (int)ARRAY_LEN(part) - (c->n_scores == 0);
    size_t len = rows_bytes(part, n_parts);
    struct netbuf *b = transport_buf(w->env->transport, len);
    struct frame f = {.kind = FRAME_EVENTS, .version = w->version, .payload_bytes = len};
    rows_put(netbuf_payload(b), part, n_parts);
    worker_send(w, &f, b, now_ns(w));
    transport_unref(w->env->transport, b);
    c->n_reports = c->n_scores = 0;
}

void worker_settle(struct worker *w)
{
    struct slots *slots = w->clients.slots;
    struct err err;
    struct span span = span_begin(w->env->rec);
    if (slots && *w->env->run_dir) {
        if (slots_sync(slots, &err))
            warn("%s", err.text);
        span_end(w->env->rec, span, STAGE_SLOT, -1, 0, 0);
    }
    worker_send_events(w);
}

static void take_ping(struct worker *w, const struct net_msg *m)
{
    uint8_t payload[16];
    if (m->frame.payload_bytes != 8)
        return;
    memcpy(payload, m->payload, 8);
    put_u64(payload + 8, (uint64_t)clock_ns());
    send_small(w, FRAME_PONG, payload, sizeof payload);
}

// What a client is given at the end: it says what it has.
static void take_parcel(struct worker *w, const struct net_msg *m)
{
    const size_t len = m->frame.payload_bytes, due = fed_parcel_bytes(w->env, m->frame.client);
    uint8_t hash[8];
    size_t bad = 0;
    for (size_t i = 0; i + 4 <= len; i += 4)
        bad += isfinite(get_f32(m->payload + i)) ? 0 : 1;
    if (len != due || bad > 0)
        warn("client %u is sent %zu bytes at the end, not %zu, and %zu floats that are not finite",
             m->frame.client, len, due, bad);
    put_u64(hash, len == due && bad == 0 ? XXH3_64bits(m->payload, len) : 0);
    struct netbuf *b = transport_buf(w->env->transport, sizeof hash);
    struct frame f = {.kind = FRAME_PARCEL,
                      .version = w->version,
                      .client = m->frame.client,
                      .payload_bytes = sizeof hash};
    memcpy(netbuf_payload(b), hash, sizeof hash);
    worker_send(w, &f, b, now_ns(w));
    transport_unref(w->env->transport, b);
}

static void send_bye(struct worker *w)
{
    struct bye b;
    uint8_t payload[BYE_BYTES];
    bye_local(&b);
    bye_put(&b, payload);
    send_small(w, FRAME_BYE, payload, sizeof payload);
}

void worker_message(struct worker *w, const struct net_msg *m)
{
    w->last_heard_ns = clock_ns();
    if (m->verdict != FRAME_GOOD) // the server waits, then calls this client lost
        return;
    switch (m->frame.kind) {
    case FRAME_WELCOME:
        take_welcome(w, m);
        break;
    case FRAME_REFUSE:
        die(STATUS_ENV, "the server refused this rank, which %.*s", (int)m->frame.payload_bytes,
            (const char *)m->payload);
    case FRAME_SLOTS:
        take_slots(w, m);
        break;
    case FRAME_PING:
        take_ping(w, m);
        break;
    case FRAME_PARCEL:
        take_parcel(w, m);
        break;
    case FRAME_STOP:
        w->clean_stop = m->frame.reason == 1;
        w->stop = true;
        send_bye(w);
        break;
    default:
        w->env->method->scheme->worker->message(w, m);
        break;
    }
}

bool worker_busy(const struct worker *w)
{
    return w->env->method->scheme->worker->busy(w);
}

void worker_step(struct worker *w)
{
    w->said_ns = clock_ns();
    if (!transport_hosts(w->env->transport, 0)) {
        w->env->work->pulse = say_busy;
        w->env->work->pulse_arg = w;
    }
    w->env->method->scheme->worker->step(w);
}

// A worker outlives its server only as long as it takes to notice: at once on the same host, else
// after ten timeouts of silence, for a server may evaluate or write for long.
void worker_timer(struct worker *w, int64_t now)
{
    if (w->env->virtual_time || now < w->alive_check_ns)
        return;
    w->alive_check_ns = now + 200000000;
    if (w->welcome && !hello_alive(&w->server))
        die(STATUS_ENV, "the server (rank 0 on %s) died", w->server.host);
    if (w->welcome && hello_self(&w->server))
        return; // one process is both: it hears nothing while it trains
    int64_t silence = clock_ns() - w->last_heard_ns;
    if ((double)silence > 10e9 * w->env->net->timeout_s && silence > 600000000000)
        die(STATUS_ENV, "nothing heard from the server for %lld s",
            (long long)(silence / 1000000000));
}
