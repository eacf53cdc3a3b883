// Asynchronous rounds: so many clients are under way at any time, each from the version that was
// there when it set out; every so many updates make the next version, and that is a round in the
// books. Updates are taken in the order of their modelled arrival, those of one instant in that of
// their dispatch: one that has come waits as long as another that is still under way might have
// been earlier. So the same happens on any number of ranks. A client whose update was taken rests
// until the version is made, for client and version name what it learns, packs and keeps.
#include "fed/server_async.h"

#include "base/mem.h"
#include "base/rng.h"
#include "fed/datagram.h"
#include "fed/server_books.h"

#include <math.h>
#include <string.h>

static int64_t now_ns(const struct server *s)
{
    return transport_now(s->env->transport);
}

static int64_t timeout_ns(const struct server *s)
{
    return (int64_t)(s->env->net->timeout_s * 1e9);
}

// versions.

struct kept_version *async_new_version(struct server *s, uint32_t round)
{
    struct async_rounds *a = s->rounds;
    struct kept_version *v = mem_alloc(MEM_SERVER, sizeof *v);
    v->head = books_model_head(s);
    v->head.version = round;
    v->theta = mem_alloc(MEM_SERVER, s->global.n_model * sizeof *v->theta);
    v->sent = mem_alloc(MEM_SERVER, (size_t)(s->workers + 1) * sizeof *v->sent);
    a->version[a->n_versions++] = v;
    return v;
}

static void free_version(struct server *s, int i)
{
    struct async_rounds *a = s->rounds;
    struct kept_version *v = a->version[i];
    if (v->model)
        transport_unref(s->env->transport, v->model);
    mem_free(v->theta);
    mem_free(v->sent);
    mem_free(v);
    memmove(&a->version[i], &a->version[i + 1], (size_t)(--a->n_versions - i) * sizeof v);
}

// Nobody sets out from any but the newest.
static void free_unused(struct server *s, int newest)
{
    struct async_rounds *a = s->rounds;
    for (int i = a->n_versions - newest; i-- > 0;)
        if (a->version[i]->users == 0)
            free_version(s, i);
}

struct kept_version *async_find_version(const struct async_rounds *a, uint32_t round)
{
    for (int i = 0; i < a->n_versions; i++)
        if (a->version[i]->head.version == round)
            return a->version[i];
    return NULL;
}

// setting out.

static uint32_t oldest_at(const struct async_rounds *a, int endpoint)
{
    uint32_t oldest = UINT32_MAX;
    for (int i = 0; i < a->n_away; i++)
        if (a->away[i].endpoint == endpoint && a->away[i].start.round < oldest)
            oldest = a->away[i].start.round;
    return oldest;
}

// In virtual time it is known when a client is done.
static void set_patience(const struct server *s, struct away *w)
{
    const struct fed_env *env = s->env;
    int64_t way = 0;
    if (env->virtual_time) {
        struct client_times t =
            fed_client_times(env, &w->start, w->client, fed_version_bytes(s->env),
                             (int64_t)(FRAME_HEADER_BYTES + fed_update_bound(env)));
        way = t.up.delivered ? t.total_ns : t.ready_ns;
    }
    w->patience_ns = link_add_ns(w->sent_ns + timeout_ns(s), way);
}

// A version goes to each worker once and is counted for each client.
static void send_task(struct server *s, struct away *w)
{
    const struct async_rounds *a = s->rounds;
    struct transport *t = s->env->transport;
    struct kept_version *v = w->from;
    w->sent_ns = w->start.clock_ns = now_ns(s);
    if (!v->model)
        v->model = server_pack_model(s, v->theta);
    if (!v->sent[w->endpoint])
        server_send(s, w->endpoint, &v->head, v->model, w->sent_ns, NULL);
    v->sent[w->endpoint] = true;
    uint32_t kept = a->checkpointed ? a->checkpointed[w->client] : 0;
    const struct scheme *scheme = s->env->method->scheme;
    uint32_t ask = 0;
    if (scheme->ask)
        scheme->ask(&s->global, w->client, &ask);
    struct netbuf *b = transport_buf(t, TASK_BYTES);
    struct frame f = {.kind = FRAME_TASK,
                      .client = w->client,
                      .version = w->start.round,
                      .samples = oldest_at(a, w->endpoint),
                      .values = ask,
                      .payload_bytes =
                          books_put_task(s, &w->start, w->client, kept, 0, netbuf_payload(b))};
    server_send(s, w->endpoint, &f, b, link_add_ns(w->sent_ns, w->times.down_ns), NULL);
    transport_unref(t, b);
    set_patience(s, w);
}

static void book(struct server *s, const struct rec_message *row)
{
    struct async_rounds *a = s->rounds;
    a->done =
        mem_grow(MEM_SERVER, a->done, a->n_done, a->n_done + 1, &a->done_cap, sizeof *a->done);
    a->done[a->n_done++] = *row;
}

struct away *async_put_away(struct server *s, uint32_t client, uint32_t number,
                            struct kept_version *from, int64_t run_ns)
{
    struct async_rounds *a = s->rounds;
    struct away *w = &a->away[a->n_away++];
    *w = (struct away){.client = client,
                       .number = number,
                       .endpoint = fed_owner(client, s->workers),
                       .start = {from->head.version, run_ns, now_ns(s)},
                       .from = from};
    w->times = fed_client_times(s->env, &w->start, client, fed_version_bytes(s->env), 0);
    w->at_ns = link_add_ns(run_ns, w->times.ready_ns);
    from->users++;
    a->place[client] = PLACE_AWAY;
    return w;
}

// One that cannot set out rests like the others, so that the draws come to an end.
static void set_out(struct server *s, uint32_t client)
{
    struct async_rounds *a = s->rounds;
    const struct fed_env *env = s->env;
    uint32_t ask;
    if (env->method->scheme->ask && !env->method->scheme->ask(&s->global, client, &ask)) {
        a->place[client] = PLACE_RESTS; // the server has all it needs of it
        return;
    }
    if (fed_drops(env->seed, s->round, client, env->fed->dropout) ||
        !books_client_there(s, client, a->now_ns)) {
        a->place[client] = PLACE_RESTS;
        s->row.dropped++;
        return;
    }
    struct away *w = async_put_away(s, client, a->n_sent, a->version[a->n_versions - 1], a->now_ns);
    bool up = server_peer_up(s, w->endpoint);
    w->row = books_message(s, client, w->endpoint);
    if (up && w->times.down.delivered) {
        a->n_sent++;
        s->row.downlink_bytes += fed_version_bytes(s->env);
        send_task(s, w);
        return;
    }
    w->row.status = up ? MESSAGE_LINK : MESSAGE_LOST;
    s->row.dropped += up;
    s->row.lost += !up;
    book(s, &w->row);
    w->from->users--;
    a->n_away--;
    a->place[client] = PLACE_RESTS;
}

// The first draw of a version among all clients is the sample of that round.
static bool fill_places(struct server *s)
{
    struct async_rounds *a = s->rounds;
    uint32_t n = 0, want = (uint32_t)(a->places - a->n_away);
    for (uint32_t c = 0; want > 0 && c < (uint32_t)s->env->fed->clients; c++)
        if (a->place[c] == PLACE_FREE)
            a->list[n++] = c;
    want = n < want ? n : want;
    if (want == 0)
        return false;
    struct span span = span_begin(s->env->rec);
    int64_t moved = s->env->transport->bytes_moved;
    struct rng r = rng_stream(s->env->seed, RNG_SAMPLE, s->round, 0, a->n_draws++);
    rng_choose(&r, n, want, a->drawn);
    for (uint32_t i = 0; i < want; i++)
        set_out(s, a->list[a->drawn[i]]);
    s->row.sampled += (int32_t)want;
    span_end(s->env->rec, span, STAGE_BROADCAST, -1, 0, s->env->transport->bytes_moved - moved);
    return true;
}

// taking.

static struct away *earliest(const struct async_rounds *a)
{
    struct away *first = NULL;
    for (int i = 0; i < a->n_away; i++) {
        struct away *w = &a->away[i];
        if (!first || w->at_ns < first->at_ns ||
            (w->at_ns == first->at_ns && w->number < first->number))
            first = w;
    }
    return first;
}

static void add_update(struct server *s, struct away *w, uint32_t lag)
{
    const struct async_rounds *a = s->rounds;
    struct err err;
    struct update u = {.client = w->client,
                       .version = w->start.round,
                       .bytes = w->held ? w->held->bytes + FRAME_HEADER_BYTES : NULL,
                       .len = w->frame.payload_bytes,
                       .weight = books_weight(s, &w->frame),
                       .scale = (float)a->rule->scale(s->env->method->scheme_opt, lag),
                       .samples = w->frame.samples,
                       .base = w->from->theta,
                       .loss = (double)w->frame.loss};
    u.heard = books_heard(s, &u);
    int rc = global_add(&s->global, &u, &err);
    if (rc) {
        warn("round %u: update of client %u rejected: %s", s->round, w->client, err.text);
        w->status = rc == CODEC_NONFINITE ? MESSAGE_NONFINITE : MESSAGE_CORRUPT;
        return;
    }
    w->row.weight = (double)(u.weight * u.scale);
}

static void count(struct server *s, enum message_status status)
{
    s->row.arrived += status == MESSAGE_OK;
    s->row.dropped += status == MESSAGE_LINK || status == MESSAGE_UNUSED;
    s->row.lost += status == MESSAGE_LOST;
    s->row.rejected += status != MESSAGE_OK && status != MESSAGE_LINK && status != MESSAGE_UNUSED &&
                       status != MESSAGE_LOST;
}

static void book_links(struct server *s, const struct away *w)
{
    const struct client_times *t = &w->times;
    int64_t ready = t->ready_ns;
    struct rec_link row[2] = {books_link(s, w->client, fed_version_bytes(s->env), 0, &t->down),
                              books_link(s, w->client, w->row.frame_bytes, ready, &t->up)};
    row[1].up = 1;
    s->sink->rows(s->sink->arg, REC_LINKS, row, 2);
    books_draw(s, w->client, t, w->start.run_ns);
}

// The row, with what the client says of its message if that is what came.
static void close_row(struct server *s, struct away *w)
{
    uint32_t lag = s->round - w->start.round;
    if (w->row.frame_bytes != w->frame_bytes)
        w->row = books_message(s, w->client, w->endpoint);
    w->row.frame_bytes = w->frame_bytes;
    w->row.version = (int32_t)s->round;
    w->row.lag = (int32_t)lag;
    s->row.uplink_bytes += w->frame_bytes;
    if (w->frame_bytes > 0)
        book_links(s, w);
    if (w->status == MESSAGE_OK)
        add_update(s, w, lag);
    w->row.status = (int32_t)w->status;
    count(s, w->status);
    book(s, &w->row);
}

static void come_back(struct server *s, struct away *w)
{
    struct async_rounds *a = s->rounds;
    a->place[w->client] = PLACE_RESTS;
    if (w->held)
        transport_unref(s->env->transport, w->held);
    w->from->users--;
    *w = a->away[--a->n_away];
}

// Its turn has come, and with it the time of its arrival.
static void take(struct server *s, struct away *w)
{
    struct async_rounds *a = s->rounds;
    if (w->at_ns > a->now_ns)
        a->now_ns = w->at_ns;
    close_row(s, w);
    if (w->frame_bytes > 0) { // the last of a version's ends it
        s->row.compute_max_ns = w->times.compute_ns + w->times.encode_ns;
        s->row.upload_max_ns = w->times.up_ns;
        s->row.download_max_ns = w->times.down_ns;
    }
    come_back(s, w);
    free_unused(s, 1);
}

// a version.

static void open_version(struct server *s)
{
    struct async_rounds *a = s->rounds;
    books_open(s);
    free_unused(s, 0);
    struct kept_version *v = async_new_version(s, s->round);
    memcpy(v->theta, s->global.theta, s->global.n_model * sizeof *v->theta);
    for (int32_t c = 0; c < s->env->fed->clients; c++)
        if (a->place[c] == PLACE_RESTS)
            a->place[c] = PLACE_FREE;
    a->n_draws = 0;
    a->open_ns = a->now_ns;
    a->t_begin_ns = clock_ns();
    s->row.energy_modelled_j = 0;
    books_ask_suspects(s);
    bool held = !books_worker_up(s) && books_worker_left(s) && !server_stopping(s);
    a->state = held ? ROUND_HELD : ROUND_OPEN;
    a->wait_ns = now_ns(s) + timeout_ns(s);
}

static bool is_away(const struct async_rounds *a, int endpoint)
{
    return oldest_at(a, endpoint) != UINT32_MAX;
}

// What was taken counts from here on, with the state that goes with it. Workers that are still busy
// tell of what they have done so far.
static void send_acks(struct server *s)
{
    struct async_rounds *a = s->rounds;
    for (int e = 1; e <= s->workers; e++)
        s->peer[e].tasks = 0;
    for (size_t i = 0; i < a->n_done; i++) {
        const struct rec_message *m = &a->done[i];
        uint32_t client = (uint32_t)m->client;
        s->peer[fed_owner(client, s->workers)].tasks++;
        if (m->status == MESSAGE_OK)
            server_slot_keep(s, client, (uint32_t)(m->version - m->lag));
    }
    for (int e = 1; e <= s->workers; e++) {
        s->peer[e].owes_events = (s->peer[e].tasks > 0 || is_away(a, e)) && server_peer_up(s, e);
        if (s->peer[e].owes_events)
            server_control(s, e, FRAME_ACK, NULL, 0, 0);
    }
}

static void replay(struct server *s)
{
    const struct scheme *scheme = s->env->method->scheme;
    double loss;
    if (scheme->replay && scheme->replay(&s->global, s->round, &loss) && s->row.arrived == 0)
        s->row.train_loss = loss;
}

static void make_version(struct server *s)
{
    struct async_rounds *a = s->rounds;
    int64_t t = clock_ns();
    recorder_put(s->env->rec, STAGE_WAIT, -1, a->t_begin_ns, t - a->t_begin_ns, -1, 0, 0, 0);
    if (s->row.arrived > 0)
        books_commit(s);
    else
        s->row.train_loss = NAN;
    replay(s);
    a->now_ns = link_add_ns(a->now_ns, s->env->fed->server_ns);
    s->row.time_modelled_ns = a->now_ns - a->open_ns;
    s->row.time_measured_ns = clock_ns() - a->t_begin_ns;
    a->state = ROUND_MADE;
}

static bool is_last(const struct server *s)
{
    return (int32_t)s->round == s->env->fed->rounds;
}

static bool all_known(const struct async_rounds *a)
{
    for (int i = 0; i < a->n_away; i++)
        if (!a->away[i].known)
            return false;
    return true;
}

// Those under way at the end come too late, by number.
static void leave_behind(struct server *s)
{
    struct async_rounds *a = s->rounds;
    while (a->n_away > 0) {
        struct away *w = &a->away[0];
        for (int i = 1; i < a->n_away; i++)
            if (a->away[i].number < w->number)
                w = &a->away[i];
        if (w->status == MESSAGE_OK)
            w->status = MESSAGE_UNUSED;
        close_row(s, w);
        come_back(s, w);
    }
}

static void settle(struct server *s)
{
    struct async_rounds *a = s->rounds;
    if (is_last(s))
        leave_behind(s);
    a->t_settle_ns = now_ns(s);
    send_acks(s);
    books_evaluate(s);
    a->state = ROUND_SETTLING;
    a->wait_ns = now_ns(s) + timeout_ns(s);
}

static void note_checkpoint(struct server *s)
{
    struct async_rounds *a = s->rounds;
    for (int32_t c = 0; a->checkpointed && c < s->env->fed->clients; c++)
        a->checkpointed[c] = server_slot(s, (uint32_t)c).round;
}

static void close_version(struct server *s)
{
    struct async_rounds *a = s->rounds;
    s->sink->rows(s->sink->arg, REC_MESSAGES, a->done, a->n_done);
    a->n_done = 0;
    bool more = books_close(s, a->t_begin_ns);
    if (s->kept.round == s->round)
        note_checkpoint(s);
    if (more)
        open_version(s);
    else
        server_finish(s);
}

// The next thing that can be done in a version that is not made; false: it has to be waited for.
static bool step(struct server *s)
{
    struct async_rounds *a = s->rounds;
    struct away *next = earliest(a);
    if (s->row.arrived >= a->buffer) {
        make_version(s);
        return true;
    }
    if ((!next || next->at_ns > a->now_ns) && fill_places(s))
        return true;
    if (!next) // and nobody is left who could come
        make_version(s);
    else if (!next->known)
        return false;
    else
        take(s, next);
    return true;
}

static bool advance(struct server *s)
{
    const struct async_rounds *a = s->rounds;
    switch (a->state) {
    case ROUND_OPEN:
        return step(s);
    case ROUND_MADE:
        if (is_last(s) && !all_known(a))
            return false;
        settle(s);
        return true;
    case ROUND_SETTLING:
        if (books_events_owed(s))
            return false;
        close_version(s);
        return true;
    default:
        return false;
    }
}

static void run_on(struct server *s)
{
    const struct async_rounds *a = s->rounds;
    while (s->phase == SERVER_ROUNDS && advance(s))
        ;
    if (s->phase != SERVER_ROUNDS)
        return; // its deadline is another's
    s->deadline_ns = a->state == ROUND_OPEN || a->state == ROUND_MADE ? INT64_MAX : a->wait_ns;
    for (int i = 0; i < a->n_away; i++)
        if (!a->away[i].known && a->away[i].patience_ns < s->deadline_ns)
            s->deadline_ns = a->away[i].patience_ns;
}

// messages.

static struct away *find_away(struct async_rounds *a, uint32_t client, uint32_t version)
{
    for (int i = 0; i < a->n_away; i++)
        if (a->away[i].client == client && a->away[i].start.round == version)
            return &a->away[i];
    return NULL;
}

static struct away *find_awaited(struct server *s, const struct net_msg *m)
{
    struct away *w = find_away(s->rounds, m->frame.client, m->frame.version);
    return w && !w->known && w->endpoint == m->src ? w : NULL;
}

// Where time is real a worker takes its tasks in turn: the others' turn comes after this one.
static void renew_patience(struct server *s, int endpoint)
{
    struct async_rounds *a = s->rounds;
    int64_t until = now_ns(s) + timeout_ns(s);
    for (int i = 0; i < a->n_away && !s->env->virtual_time; i++)
        if (a->away[i].endpoint == endpoint && a->away[i].patience_ns < until)
            a->away[i].patience_ns = until;
}

static enum message_status judge(const struct server *s, const struct net_msg *m,
                                 const struct away *w)
{
    enum message_status status = books_judge_frame(m);
    if (status == MESSAGE_OK && !w)
        status = m->frame.version < s->round ? MESSAGE_STALE : MESSAGE_UNEXPECTED;
    return status == MESSAGE_OK ? books_judge_update(s, &m->frame, m->frame.version) : status;
}

static void take_update(struct server *s, const struct net_msg *m)
{
    struct away *w = books_head_read(m) ? find_awaited(s, m) : NULL;
    enum message_status status = judge(s, m, w);
    if (status != MESSAGE_OK)
        books_warn(s, m, status);
    if (!w) {
        s->row.uplink_bytes += (int64_t)m->bytes;
        s->row.rejected++;
        books_refuse(s, m, status);
        return;
    }
    w->known = true;
    w->frame_bytes = (int64_t)m->bytes;
    w->times =
        fed_client_times(s->env, &w->start, w->client, fed_version_bytes(s->env), w->frame_bytes);
    if (w->times.total_ns < INT64_MAX) // else it is known where it was lost
        w->at_ns = link_add_ns(w->start.run_ns, w->times.total_ns);
    bool usable = datagram_usable(s->env->method, s->env->link, &w->times.up, w->frame_bytes);
    w->status = status == MESSAGE_OK && !usable ? MESSAGE_LINK : status;
    if (w->status == MESSAGE_OK) {
        w->frame = m->frame;
        w->held = m->buf;
        transport_ref(m->buf);
    }
    renew_patience(s, w->endpoint);
}

static void take_fail(struct server *s, const struct net_msg *m)
{
    struct away *w = find_awaited(s, m);
    if (!w)
        return;
    warn("round %u: client %u has no update: %.*s", s->round, w->client,
         (int)m->frame.payload_bytes, (const char *)m->payload);
    w->known = true;
    w->status = m->frame.reason > MESSAGE_OK && m->frame.reason < MESSAGE_STATUS_COUNT
                    ? (enum message_status)m->frame.reason
                    : MESSAGE_LOST;
    renew_patience(s, w->endpoint);
}

// To a task. A damaged frame counts as an update, whatever it was.
static void take_answer(struct server *s, const struct net_msg *m)
{
    if (m->verdict != FRAME_GOOD || m->frame.kind == FRAME_UPDATE)
        take_update(s, m);
    else if (m->frame.kind == FRAME_FAIL)
        take_fail(s, m);
}

static void async_message(struct server *s, const struct net_msg *m)
{
    struct async_rounds *a = s->rounds;
    if (m->verdict == FRAME_GOOD && m->frame.kind == FRAME_BUSY)
        renew_patience(s, m->src);
    else if (!books_take_events(s, m))
        take_answer(s, m);
    if (a->state == ROUND_HELD && books_worker_up(s))
        a->state = ROUND_OPEN;
    run_on(s);
}

// A worker that lost a frame may have lost versions, too.
static void give_up(struct server *s, struct away *w)
{
    struct async_rounds *a = s->rounds;
    w->known = true;
    w->status = MESSAGE_LOST;
    for (int i = 0; i < a->n_versions; i++)
        a->version[i]->sent[w->endpoint] = false;
}

static void async_timer(struct server *s, int64_t now)
{
    struct async_rounds *a = s->rounds;
    for (int i = 0; i < a->n_away; i++) {
        struct away *w = &a->away[i];
        if (!w->known && now >= w->patience_ns)
            server_suspect_silent(s, w->endpoint, w->sent_ns);
        if (!w->known && (now >= w->patience_ns || !server_peer_up(s, w->endpoint)))
            give_up(s, w);
    }
    if (a->state == ROUND_SETTLING && now >= a->wait_ns)
        books_forgive_events(s, a->t_settle_ns);
    if (a->state == ROUND_HELD && (now >= a->wait_ns || server_stopping(s)))
        a->state = ROUND_OPEN;
    run_on(s);
}

// By what it was trained on; of one that has not come yet the length is not known, either.
static struct rec_message *async_row(struct server *s, const struct rec_message *report)
{
    struct async_rounds *a = s->rounds;
    struct away *w = find_away(a, (uint32_t)report->client, (uint32_t)report->version);
    if (w && report->vector == 0) {
        w->row.frame_bytes = report->frame_bytes;
        return &w->row;
    }
    for (size_t i = 0; i < a->n_done; i++) {
        struct rec_message *m = &a->done[i];
        if (m->client == report->client && m->version - m->lag == report->version &&
            m->vector == report->vector)
            return m;
    }
    return NULL;
}

// the machine.

static void async_open(struct server *s)
{
    const struct fed_env *env = s->env;
    struct async_rounds *a = s->rounds = mem_alloc(MEM_SERVER, sizeof *a);
    size_t clients = (size_t)env->fed->clients;
    a->rule = env->method->scheme->async;
    a->buffer = a->rule->buffer(env->method->scheme_opt);
    a->places = env->fed->clients_per_round;
    size_t places = (size_t)a->places;
    a->away = mem_alloc(MEM_SERVER, places * sizeof *a->away);
    a->version = mem_alloc(MEM_SERVER, (places + 1) * sizeof(struct kept_version *));
    a->drawn = mem_alloc(MEM_SERVER, places * sizeof *a->drawn);
    a->place = mem_alloc(MEM_SERVER, clients * sizeof *a->place);
    a->list = mem_alloc(MEM_SERVER, clients * sizeof *a->list);
    if (s->slot)
        a->checkpointed = mem_alloc(MEM_SERVER, clients * sizeof *a->checkpointed);
}

static void async_close(struct server *s)
{
    struct async_rounds *a = s->rounds;
    if (!a)
        return;
    for (int i = 0; i < a->n_away; i++)
        if (a->away[i].held)
            transport_unref(s->env->transport, a->away[i].held);
    while (a->n_versions > 0)
        free_version(s, 0);
    mem_free(a->away);
    mem_free(a->version);
    mem_free(a->drawn);
    mem_free(a->place);
    mem_free(a->list);
    mem_free(a->checkpointed);
    mem_free(a->done);
    mem_free(a);
}

static void async_begin(struct server *s, int64_t now)
{
    struct async_rounds *a = s->rounds;
    (void)now;
    if (!books_start(s)) {
        server_finish(s);
        return;
    }
    a->now_ns = s->totals.modelled_ns;
    if (s->kept.round > 0)
        note_checkpoint(s);
    open_version(s);
    for (int i = 0; i < a->n_away; i++) {
        struct away *w = &a->away[i];
        w->row = books_message(s, w->client, w->endpoint);
        send_task(s, w);
    }
    run_on(s);
}

const struct server_handlers server_async = {
    .name = "async",
    .open = async_open,
    .close = async_close,
    .begin = async_begin,
    .message = async_message,
    .timer = async_timer,
    .row = async_row,
    .keep_words = async_keep_words,
    .keep = async_keep,
    .restore = async_restore,
};
