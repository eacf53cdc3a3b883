// A worker's side of asynchronous rounds: tasks of several versions wait in the order in which they
// came, and an update leaves as soon as it is packed.
#include "fed/worker.h"

#include "base/mem.h"
#include "fed/policy.h"

#include <string.h>

struct async_task {
    uint32_t client, version, ask;
    struct task_state state;
    struct round_start start;
    int64_t t_arrived_ns; // on the transport's clock
};

struct held_model {
    struct frame frame;
    struct netbuf *buf;
};

struct async_work {
    int n_tasks, n_models, cap;  // cap: of the tasks; of models there is one more
    struct async_task *task;     // (cap)
    struct client_task *at_once; // (cap) scratch: those that train at once
    struct held_model *model;    // (cap + 1) ascending versions
};

static void async_open(struct worker *w)
{
    struct async_work *r = w->rounds = mem_alloc(MEM_OTHER, sizeof *r);
    r->cap = policy_sampled(w->env->fed);
    r->task = mem_alloc(MEM_OTHER, (size_t)r->cap * sizeof *r->task);
    r->at_once = mem_alloc(MEM_OTHER, (size_t)r->cap * sizeof *r->at_once);
    r->model = mem_alloc(MEM_OTHER, (size_t)(r->cap + 1) * sizeof *r->model);
}

static void drop_model(struct worker *w, int i)
{
    struct async_work *r = w->rounds;
    transport_unref(w->env->transport, r->model[i].buf);
    memmove(&r->model[i], &r->model[i + 1], (size_t)(--r->n_models - i) * sizeof *r->model);
}

static void async_close(struct worker *w)
{
    struct async_work *r = w->rounds;
    while (r->n_models > 0)
        drop_model(w, 0);
    mem_free(r->task);
    mem_free(r->at_once);
    mem_free(r->model);
    mem_free(r);
}

static const struct held_model *find_model(const struct async_work *r, uint32_t version)
{
    for (int i = 0; i < r->n_models; i++)
        if (r->model[i].frame.version == version)
            return &r->model[i];
    return NULL;
}

// computing.

static void drop_task(struct async_work *r, int i)
{
    memmove(&r->task[i], &r->task[i + 1], (size_t)(--r->n_tasks - i) * sizeof *r->task);
}

static bool async_busy(const struct worker *w)
{
    return ((const struct async_work *)w->rounds)->n_tasks > 0;
}

static void finish_task(struct worker *w, const struct async_task *t, int i)
{
    struct frame head;
    struct netbuf *b;
    struct err err = {""};
    w->clients.start = t->start;
    int64_t ready =
        clients_ready_ns(&w->clients, t->client, fed_version_bytes(w->env), t->t_arrived_ns);
    enum message_status status = clients_pack(&w->clients, i, ready, &head, &b, &err);
    if (status != MESSAGE_OK) {
        worker_fail(w, t->version, t->client, status, err.text);
        return;
    }
    struct link_transfer x = clients_transfer(&w->clients, &head, ready);
    worker_send_update(w, &head, b, clients_delivery_ns(&w->clients, &x), &x);
}

// Those in front that begin from the same version, as many as train at once.
static void async_step(struct worker *w)
{
    struct async_work *r = w->rounds;
    uint32_t version = r->task[0].version;
    const struct held_model *model = find_model(r, version);
    int n = 0;
    if (!model || !worker_turn_to(w, &model->frame, netbuf_payload(model->buf))) {
        worker_fail(w, version, r->task[0].client, MESSAGE_LOST, "its version did not come");
        drop_task(r, 0);
        return;
    }
    for (; n < r->n_tasks && n < w->clients.at_once && r->task[n].version == version; n++)
        r->at_once[n] =
            (struct client_task){r->task[n].client, r->task[n].ask, .state = r->task[n].state};
    if (w->clients.n_reports + n * w->clients.n_vectors > w->clients.reports_cap)
        worker_send_events(w);
    clients_train(&w->clients, r->at_once, n);
    for (int i = 0; i < n; i++)
        finish_task(w, &r->task[i], i);
    while (n-- > 0)
        drop_task(r, 0);
}

// messages.

static void take_model(struct worker *w, const struct net_msg *m)
{
    struct async_work *r = w->rounds;
    int at = r->n_models;
    if (find_model(r, m->frame.version))
        return;
    if (at == r->cap + 1) { // the server has no more under way: the oldest were given up
        drop_model(w, 0);
        at--;
    }
    for (; at > 0 && r->model[at - 1].frame.version > m->frame.version; at--)
        r->model[at] = r->model[at - 1];
    r->model[at] = (struct held_model){m->frame, m->buf};
    r->n_models++;
    transport_ref(m->buf);
    worker_note_model(w, m);
}

// A client has one task: a newer one means that the server gave the older up. The frame says which
// is the oldest version that this worker may still be asked for.
static void take_task(struct worker *w, const struct net_msg *m)
{
    struct async_work *r = w->rounds;
    struct async_task t = {.client = m->frame.client,
                           .version = m->frame.version,
                           .ask = m->frame.values,
                           .start = {.round = m->frame.version},
                           .t_arrived_ns = m->t_ns};
    size_t len = m->frame.payload_bytes, tail = w->clients.state_floats ? TASK_STATE_BYTES : 0;
    if (len < tail || round_start_get(m->payload, len - tail, &t.start) ||
        (tail && task_state_get(m->payload + len - tail, tail, &t.state)))
        return;
    while (r->n_models > 0 && r->model[0].frame.version < m->frame.samples)
        drop_model(w, 0);
    for (int i = 0; i < r->n_tasks; i++)
        if (r->task[i].client == t.client)
            drop_task(r, i--);
    if (r->n_tasks == r->cap)
        drop_task(r, 0);
    r->task[r->n_tasks++] = t;
}

static void async_message(struct worker *w, const struct net_msg *m)
{
    switch (m->frame.kind) {
    case FRAME_MODEL:
        take_model(w, m);
        break;
    case FRAME_TASK:
        take_task(w, m);
        break;
    case FRAME_ACK:
        w->version = m->frame.version;
        worker_settle(w);
        break;
    default:
        break;
    }
}

const struct worker_handlers worker_async = {
    .name = "async",
    .open = async_open,
    .close = async_close,
    .message = async_message,
    .busy = async_busy,
    .step = async_step,
};
