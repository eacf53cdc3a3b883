// A worker's side of synchronous rounds: tasks of one version, trained in client order, one group
// at a time. A packed update that may not leave yet holds up the next client.
#include "fed/worker.h"

#include "base/bytes.h"
#include "base/mem.h"
#include "fed/downlink.h"
#include "fed/personal.h"
#include "fed/policy.h"
#include "fed/relay.h"

struct sync_task {
    uint32_t client, ask;
    bool granted, trained, sent;
    struct task_state state;
    int64_t t_arrived_ns; // on the transport's clock
    int64_t down_bytes;   // of its version
    int64_t ready_ns;     // its update, on the run's clock
    struct netbuf *frame; // the packed update, until it has left
    struct frame head;
};

struct sync_work {
    int expected, n_tasks, n_trained, n_sent; // of the round; expected: as every task says
    struct sync_task *task;                   // (policy_sampled)
    struct client_task *at_once;              // scratch: those that train at once
    // By a client's place among the worker's: the last set of tasks with one of it, of `sets`.
    uint32_t *asked, sets;
    struct relays relays;
    bool talking;          // the first that has not trained is in the middle of its round
    struct netbuf *answer; // to what it said, once it is here
    struct frame answer_head;
};

// Where a client of the worker's stands among them: they are dealt in turn.
static uint32_t own_place(const struct worker *w, uint32_t client)
{
    return client / ((uint32_t)w->env->transport->n_endpoints - 1);
}

static void sync_open(struct worker *w)
{
    struct sync_work *r = w->rounds = mem_alloc(MEM_OTHER, sizeof *r);
    size_t cap = (size_t)policy_sampled(w->env->fed);
    r->task = mem_alloc(MEM_OTHER, cap * sizeof *r->task);
    r->at_once = mem_alloc(MEM_OTHER, cap * sizeof *r->at_once);
    uint32_t places = own_place(w, (uint32_t)w->env->fed->clients) + 1;
    r->asked = mem_alloc(MEM_OTHER, places * sizeof *r->asked);
    r->sets = 1;
    relays_open(&r->relays, w->env, w->endpoint);
}

static void drop_answer(struct worker *w)
{
    struct sync_work *r = w->rounds;
    if (r->answer)
        transport_unref(w->env->transport, r->answer);
    r->answer = NULL;
}

static void drop_tasks(struct worker *w)
{
    struct sync_work *r = w->rounds;
    drop_answer(w);
    r->talking = false;
    for (int i = 0; i < r->n_tasks; i++)
        if (r->task[i].frame)
            transport_unref(w->env->transport, r->task[i].frame);
    r->n_tasks = r->n_trained = r->n_sent = r->expected = 0;
    relays_begin(&r->relays);
    r->sets++;
}

static void sync_close(struct worker *w)
{
    struct sync_work *r = w->rounds;
    drop_tasks(w);
    relays_close(&r->relays);
    mem_free(r->task);
    mem_free(r->at_once);
    mem_free(r->asked);
    mem_free(r);
}

static bool was_asked(struct worker *w, uint32_t client)
{
    const struct sync_work *r = w->rounds;
    bool own = client < (uint32_t)w->env->fed->clients;
    return own && r->asked[own_place(w, client)] == r->sets;
}

// A task that may yet be granted: of the group trained last, or among those behind it, by client.
static struct sync_task *find_task(struct worker *w, uint32_t client)
{
    struct sync_work *r = w->rounds;
    int low = r->n_trained, high = r->n_tasks;
    for (int i = r->n_trained; i > 0 && r->n_trained - i < w->clients.at_once; i--)
        if (r->task[i - 1].client == client)
            return &r->task[i - 1];
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (r->task[mid].client < client)
            low = mid + 1;
        else
            high = mid;
    }
    return low < r->n_tasks && r->task[low].client == client ? &r->task[low] : NULL;
}

// computing.

static void send_update(struct worker *w, struct sync_task *t)
{
    struct sync_work *r = w->rounds;
    struct link_transfer x = clients_transfer(&w->clients, &t->head, t->ready_ns);
    worker_send_update(w, &t->head, t->frame, clients_delivery_ns(&w->clients, &x), &x);
    t->frame = NULL;
    t->sent = true;
    r->n_sent++;
}

// To a relay, which is here.
static void give_relay(struct worker *w, struct sync_task *t)
{
    struct sync_work *r = w->rounds;
    const struct fed_env *env = w->env;
    struct link_transfer x = clients_transfer(&w->clients, &t->head, t->ready_ns);
    int64_t down = (int64_t)(FRAME_HEADER_BYTES + 4 * fed_down_floats(env));
    struct client_times times = fed_client_times(env, &w->clients.start, t->client, down, x.bytes);
    relays_take(&r->relays, &t->head, netbuf_payload(t->frame), &times.up,
                clients_delivery_ns(&w->clients, &x));
    transport_unref(env->transport, t->frame);
    t->frame = NULL;
    t->sent = true;
    r->n_sent++;
}

// What relays send on, once the last of their clients has come.
static void send_sums(struct worker *w)
{
    struct sync_work *r = w->rounds;
    const struct fed_env *env = w->env;
    for (uint32_t i = 0; i < r->relays.n; i++) {
        const struct relay *relay = &r->relays.relay[i];
        if (relay->n_clients == 0)
            continue;
        struct netbuf *b = transport_buf(env->transport, fed_relay_bound(env));
        struct frame f = {.kind = FRAME_SUM, .version = w->version, .client = relay->number};
        f.payload_bytes = relay_put(&r->relays, relay, netbuf_payload(b));
        struct link_state idle = {0};
        struct link_transfer x = {.client = relay->number,
                                  .round = w->version,
                                  .up = true,
                                  .t_ready_ns = relay->arrives_ns,
                                  .bytes = (int64_t)(FRAME_HEADER_BYTES + f.payload_bytes)};
        int64_t at = link_carry(env->backhaul, &idle, &x).t_deliver_ns;
        int64_t now = transport_now(env->transport);
        worker_send_sum(w, &f, b, at > now ? at : now);
    }
}

static void finish_task(struct worker *w, struct sync_task *t, int i)
{
    struct sync_work *r = w->rounds;
    struct err err = {""};
    t->trained = true;
    r->n_trained++;
    t->ready_ns = clients_ready_ns(&w->clients, t->client, t->down_bytes, t->t_arrived_ns);
    enum message_status status =
        clients_pack(&w->clients, i, t->ready_ns, &t->head, &t->frame, &err);
    if (status != MESSAGE_OK) {
        t->sent = true;
        r->n_sent++;
        worker_fail(w, w->version, t->client, status, err.text);
    } else if (r->relays.n > 0) {
        give_relay(w, t);
    } else if (t->granted) {
        send_update(w, t);
    }
    if (r->n_sent == r->expected)
        send_sums(w);
}

static void fail_task(struct worker *w, struct sync_task *t, enum message_status status,
                      const char *why)
{
    struct sync_work *r = w->rounds;
    t->trained = t->sent = true;
    r->n_trained++;
    r->n_sent++;
    worker_fail(w, w->version, t->client, status, why);
}

// One client as far as the next thing that it has to wait for.
static void talk_on(struct worker *w, struct sync_task *t)
{
    struct sync_work *r = w->rounds;
    struct err err = {""};
    struct frame head;
    struct netbuf *b = NULL;
    enum message_status status = MESSAGE_OK;
    if (r->talking) {
        status = clients_hear(&w->clients, &r->answer_head, netbuf_payload(r->answer), &err);
        drop_answer(w);
    } else {
        clients_train(&w->clients, &(struct client_task){.client = t->client, .state = t->state},
                      1);
        r->talking = true;
    }
    if (status == MESSAGE_OK)
        status = clients_say(&w->clients, &head, &b, &err);
    r->talking = b != NULL;
    if (status != MESSAGE_OK) {
        fail_task(w, t, status, err.text);
    } else if (!b) {
        finish_task(w, t, 0);
    } else {
        int64_t ready = clients_ready_ns(&w->clients, t->client, t->down_bytes, t->t_arrived_ns);
        struct link_transfer x = clients_transfer(&w->clients, &head, ready);
        x.attempt = 1 + (uint32_t)w->clients.said.times;
        worker_say(w, &head, b, &x);
    }
}

// Work is there when tasks wait and no packed update is held back for want of a grant.
static bool sync_busy(const struct worker *w)
{
    const struct sync_work *r = w->rounds;
    if (r->n_trained >= r->n_tasks || r->n_sent < r->n_trained || (r->talking && !r->answer))
        return false;
    return w->env->virtual_time || r->n_tasks == r->expected;
}

static void sync_step(struct worker *w)
{
    struct sync_work *r = w->rounds;
    int first = r->n_trained, n = r->n_tasks - first;
    if (w->env->method->scheme->talk) {
        talk_on(w, &r->task[first]);
        return;
    }
    n = n < w->clients.at_once ? n : w->clients.at_once;
    while (n > 1 && !r->task[first + n - 1].granted)
        n--; // updates of those trained at once must all be free to leave
    for (int i = 0; i < n; i++)
        r->at_once[i] = (struct client_task){.client = r->task[first + i].client,
                                             .ask = r->task[first + i].ask,
                                             .state = r->task[first + i].state};
    clients_train(&w->clients, r->at_once, n);
    personal_measure(&w->clients, n);
    for (int i = 0; i < n; i++)
        finish_task(w, &r->task[first + i], i);
}

// messages.

// A new version ends what is left of the old.
static void take_model(struct worker *w, const struct net_msg *m)
{
    if (!worker_take_model(w, m))
        return;
    drop_tasks(w);
    w->clients.n_reports = w->clients.n_scores = 0;
}

static void take_task(struct worker *w, const struct net_msg *m)
{
    struct sync_work *r = w->rounds;
    struct round_start start = {.round = w->version};
    struct task_state state = {0};
    size_t len = m->frame.payload_bytes, tail = w->clients.state_floats ? TASK_STATE_BYTES : 0;
    size_t down = fed_down_coded(w->env) ? TASK_DOWN_BYTES : 0;
    int64_t down_bytes = 0;
    if (m->frame.version != w->version || r->n_tasks == policy_sampled(w->env->fed) ||
        m->frame.client >= (uint32_t)w->env->fed->clients || was_asked(w, m->frame.client) ||
        len < down + tail || round_start_get(m->payload, len - down - tail, &start) ||
        (tail && task_state_get(m->payload + len - tail, tail, &state)))
        return;
    down_bytes = down ? (int64_t)(get_u64(m->payload + len - tail - down) & INT64_MAX)
                      : fed_client_bytes(w->env, m->frame.client);
    w->clients.start = start;
    r->expected = (int)m->frame.samples;
    r->asked[own_place(w, m->frame.client)] = r->sets;
    int at = r->n_tasks++;
    // Virtual links may deliver tasks in any order; those not yet begun stay in client order.
    while (at > r->n_trained + r->talking && r->task[at - 1].client > m->frame.client) {
        r->task[at] = r->task[at - 1];
        at--;
    }
    r->task[at] = (struct sync_task){.client = m->frame.client,
                                     .ask = m->frame.values,
                                     .granted = m->frame.reason != 0,
                                     .state = state,
                                     .down_bytes = down_bytes,
                                     .t_arrived_ns = m->t_ns};
}

static void take_grant(struct worker *w, const struct net_msg *m)
{
    struct sync_task *t = find_task(w, m->frame.client);
    if (!t || m->frame.version != w->version || t->granted)
        return;
    t->granted = true;
    if (t->trained && !t->sent)
        send_update(w, t);
}

static void take_answer(struct worker *w, const struct net_msg *m)
{
    struct sync_work *r = w->rounds;
    if (!r->talking || r->answer || m->frame.version != w->version ||
        m->frame.client != r->task[r->n_trained].client ||
        m->frame.samples != (uint32_t)w->clients.said.times)
        return; // or to something said before
    r->answer = m->buf;
    r->answer_head = m->frame;
    transport_ref(m->buf);
}

static void take_ack(struct worker *w, const struct net_msg *m)
{
    if (m->frame.version != w->version)
        return;
    drop_tasks(w);
    worker_settle(w);
}

static void sync_message(struct worker *w, const struct net_msg *m)
{
    switch (m->frame.kind) {
    case FRAME_MODEL:
        take_model(w, m);
        break;
    case FRAME_TASK:
        take_task(w, m);
        break;
    case FRAME_GRANT:
        take_grant(w, m);
        break;
    case FRAME_ANSWER:
        take_answer(w, m);
        break;
    case FRAME_ACK:
        take_ack(w, m);
        break;
    default:
        break;
    }
}

const struct worker_handlers worker_sync = {
    .name = "sync",
    .open = sync_open,
    .close = sync_close,
    .message = sync_message,
    .busy = sync_busy,
    .step = sync_step,
};
