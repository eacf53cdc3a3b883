#include "fed/worker.h"

#include "base/bytes.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/power.h"
#include "fed/fault.h"
#include "fed/privacy.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define WORKER_EVENTS 16384

static int64_t now_ns(const struct worker *w)
{
    return transport_now(w->env->transport);
}

// A row per tensor of every part of the view.
static void open_alloc(struct worker *w)
{
    const struct view_inst *view = &w->env->method->view;
    size_t most = 0, at = 0;
    for (uint32_t p = 0; p < view->n_parts; p++) {
        size_t n = view->part[p].shape.n_tensors;
        most = n > most ? n : most;
        w->n_alloc += n;
    }
    w->by_tensor = mem_alloc(MEM_TRACE, most * sizeof *w->by_tensor);
    w->alloc = mem_alloc(MEM_TRACE, w->n_alloc * sizeof *w->alloc);
    w->alloc_out = mem_alloc(MEM_TRACE, w->n_alloc * sizeof *w->alloc);
    for (uint32_t p = 0; p < view->n_parts; p++)
        for (uint32_t t = 0; t < view->part[p].shape.n_tensors; t++, at++) {
            w->alloc[at].tensor = (int32_t)at;
            memcpy(w->alloc[at].name, view->part[p].shape.tensors[t].name,
                   sizeof w->alloc[at].name);
        }
}

static void note_alloc(struct worker *w, const struct view_part *part)
{
    struct rec_alloc *row = w->alloc;
    for (const struct view_part *p = w->env->method->view.part; p < part; p++)
        row += p->shape.n_tensors;
    for (uint32_t t = 0; t < part->shape.n_tensors; t++) {
        row[t].messages++;
        for (int k = 0; k < RECORD_WIDTHS; k++)
            row[t].kept[k] += w->by_tensor[t][k];
    }
}

// What the round's messages come to, tensors whose widths nobody said left out. Returns how many.
static size_t take_alloc(struct worker *w)
{
    size_t n = 0;
    for (size_t i = 0; i < w->n_alloc; i++) {
        struct rec_alloc *a = &w->alloc[i];
        int64_t sent = 0;
        for (int k = 0; k < RECORD_WIDTHS; k++)
            sent += a->kept[k];
        a->version = (int32_t)w->round;
        a->rank = w->env->rank;
        if (sent)
            w->alloc_out[n++] = *a;
        memset(a->kept, 0, sizeof a->kept);
        a->messages = 0;
    }
    return n;
}

struct worker *worker_open(const struct fed_env *env, int endpoint, struct err *err)
{
    (void)err;
    struct worker *w = mem_alloc(MEM_OTHER, sizeof *w);
    w->env = env;
    w->endpoint = endpoint;
    w->n = env->work->shape.n_values;
    w->optim_floats = fed_optim_floats(env);
    w->work_floats = fed_work_floats(env);
    w->state_floats = fed_state_floats(env);
    w->tasks_cap = env->fed->clients_per_round;
    w->task = mem_alloc(MEM_OTHER, (size_t)w->tasks_cap * sizeof *w->task);
    w->report = mem_alloc(MEM_TRACE, (size_t)w->tasks_cap * sizeof *w->report);
    w->group = env->work->row->group(env->work);
    if (w->group > w->tasks_cap)
        w->group = w->tasks_cap;
    if (env->virtual_time)
        w->group = 1; // each client begins when its own task arrives
    size_t g = (size_t)w->group;
    w->theta = mem_alloc(MEM_ADAPTER, fed_model_floats(env) * sizeof *w->theta);
    env->work->row->initial(env->work, w->theta);
    w->delta = mem_alloc(MEM_ADAPTER, g * w->n * sizeof *w->delta);
    w->job = mem_alloc(MEM_OTHER, g * sizeof *w->job);
    if (w->state_floats) {
        w->state = mem_alloc(MEM_OPTIMIZER, g * w->state_floats * sizeof *w->state);
        w->state_next = mem_alloc(MEM_OPTIMIZER, w->state_floats * sizeof *w->state_next);
    }
    if (codec_needs(env->method->codec) & CODEC_SENS)
        w->sens = mem_alloc(MEM_OPTIMIZER, g * w->n * sizeof *w->sens);
    if (codec_needs(env->method->codec) & CODEC_GRAD)
        w->grad = mem_alloc(MEM_OPTIMIZER, g * w->n * sizeof *w->grad);
    if (env->fed->nmse)
        w->x_hat = mem_alloc(MEM_OTHER, w->n * sizeof *w->x_hat);
    const float *const whole[] = {w->delta, w->sens, w->grad};
    for (size_t i = 0; i < ARRAY_LEN(whole) && !env->method->view.whole; i++)
        w->part[i] = whole[i] ? mem_alloc(MEM_ADAPTER, w->n * sizeof(float)) : NULL;
    size_t scratch = view_scratch_bytes(&env->method->view);
    w->scratch = scratch ? mem_alloc(MEM_CODEC, scratch) : NULL;
    open_alloc(w);
    w->drain_cap = WORKER_EVENTS;
    w->drain = mem_alloc(MEM_TRACE, w->drain_cap * sizeof *w->drain);
    return w;
}

void worker_close(struct worker *w)
{
    if (!w)
        return;
    for (int i = 0; i < w->n_tasks; i++)
        if (w->task[i].frame)
            transport_unref(w->env->transport, w->task[i].frame);
    slots_close(w->slots);
    mem_free(w->task);
    mem_free(w->report);
    mem_free(w->theta);
    mem_free(w->delta);
    mem_free(w->job);
    mem_free(w->state);
    mem_free(w->state_next);
    mem_free(w->sens);
    mem_free(w->grad);
    for (size_t i = 0; i < ARRAY_LEN(w->part); i++)
        mem_free(w->part[i]);
    mem_free(w->x_hat);
    mem_free(w->scratch);
    mem_free(w->drain);
    mem_free(w->alloc);
    mem_free(w->alloc_out);
    mem_free(w->by_tensor);
    mem_free(w);
}

// sending.

static void send_frame(struct worker *w, struct frame *f, struct netbuf *b, int64_t t_deliver)
{
    f->registry = w->env->work->shape.hash;
    if (w->env->net->checksum)
        f->flags |= FRAME_CHECKSUM;
    transport_send(w->env->transport, w->endpoint, 0, f, b, t_deliver);
}

static void send_small(struct worker *w, enum frame_kind kind, uint32_t client, uint8_t reason,
                       const void *payload, size_t len)
{
    struct netbuf *b = transport_buf(w->env->transport, len);
    struct frame f = {.kind = (uint8_t)kind,
                      .version = w->round,
                      .client = client,
                      .reason = reason,
                      .payload_bytes = len};
    if (len)
        memcpy(netbuf_payload(b), payload, len);
    send_frame(w, &f, b, now_ns(w));
    transport_unref(w->env->transport, b);
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
    send_small(w, FRAME_HELLO, 0, 0, payload, sizeof payload);
}

static void take_fault(const struct worker *w, uint32_t client, float *delta)
{
    switch (fault_at(client, w->round)) {
    case FAULT_KILL:
        raise(SIGKILL);
        break;
    case FAULT_STOP:
        raise(SIGSTOP);
        break;
    case FAULT_NAN:
        delta[w->n / 2] = NAN;
        break;
    default:
        break;
    }
}

// When the update is ready as the model has it, on the run's clock: after this client's own
// compute, from the arrival of its task in virtual time, else from the start of the round.
static int64_t ready_ns(const struct worker *w, const struct worker_task *t)
{
    const struct fed_env *env = w->env;
    size_t down = FRAME_HEADER_BYTES + 4 * fed_down_floats(env);
    struct client_times times = fed_client_times(env, &w->start, t->client, (int64_t)down, 0);
    int64_t from = env->virtual_time ? t->t_arrived_ns - w->start.clock_ns : times.down_ns;
    return link_add_ns(w->start.run_ns + times.compute_ns + times.encode_ns, from);
}

// In virtual time a client's link delivers its update.
static int64_t delivery(const struct worker *w, const struct worker_task *t)
{
    const struct fed_env *env = w->env;
    if (!env->virtual_time)
        return 0;
    struct link_state link = {0};
    struct link_transfer x = {.client = t->client,
                              .round = w->round,
                              .up = true,
                              .t_ready_ns = ready_ns(w, t),
                              .bytes = (int64_t)(FRAME_HEADER_BYTES + t->head.payload_bytes)};
    struct link_result r = link_carry(env->link, &link, &x);
    int64_t at = link_add_ns(r.t_deliver_ns, w->start.clock_ns - w->start.run_ns);
    return at > now_ns(w) ? at : now_ns(w);
}

static void note_upload(struct worker *w, struct worker_task *t)
{
    recorder_put(w->env->rec, STAGE_UPLOAD, (int32_t)t->client, t->t_sent_ns,
                 clock_ns() - t->t_sent_ns, -1, 0, (int64_t)t->frame->len, 0);
}

// MPI moves bytes only while somebody calls it, so training on would hold the upload up and blur
// its span: the rank waits until its bytes have left. Between endpoints of one process nothing
// leaves.
static void send_update(struct worker *w, struct worker_task *t)
{
    struct transport *transport = w->env->transport;
    t->t_sent_ns = clock_ns();
    send_frame(w, &t->head, t->frame, delivery(w, t));
    t->sent = true;
    w->n_sent++;
    int64_t patience = (int64_t)(w->env->net->timeout_s * 1e9);
    if (transport_hosts(transport, 0) ||
        transport_flush(transport, transport_now(transport) + patience))
        note_upload(w, t);
    transport_unref(transport, t->frame);
    t->frame = NULL;
}

// training.

static struct worker_task *find_task(struct worker *w, uint32_t client)
{
    for (int i = 0; i < w->n_tasks; i++)
        if (w->task[i].client == client)
            return &w->task[i];
    return NULL;
}

static void read_slot(struct worker *w, uint32_t client, float *state)
{
    struct span span = span_begin(w->env->rec);
    slots_read(w->slots, client, w->round, state);
    span_end(w->env->rec, span, STAGE_SLOT, (int32_t)client, (int64_t)(4 * w->state_floats), 0);
}

static void train(struct worker *w, int first, int n)
{
    const struct scheme *scheme = w->env->method->scheme;
    for (int i = 0; i < n; i++) {
        struct train_job *job = &w->job[i];
        memset(job, 0, sizeof *job);
        job->client = w->task[first + i].client;
        job->round = w->round;
        job->theta = w->theta;
        job->delta = w->delta + (size_t)i * w->n;
        job->sens = w->sens ? w->sens + (size_t)i * w->n : NULL;
        job->grad = w->grad ? w->grad + (size_t)i * w->n : NULL;
        job->tokens = w->env->method->tokens;
        job->token_opt = &w->env->method->token_opt;
        job->trained = view_trained(&w->env->method->view, job->client, w->round, &job->n_trained);
        if (w->state_floats) {
            float *state = w->state + (size_t)i * w->state_floats;
            read_slot(w, job->client, state);
            job->state = w->optim_floats ? state : NULL;
            job->kept = w->work_floats > w->optim_floats ? state + w->optim_floats : NULL;
        }
    }
    (scheme->train ? scheme->train : w->env->work->row->train)(w->env->work, w->job, n,
                                                               w->env->rec);
}

// The client's own measure of what its message lost, outside every span.
static double message_error(struct worker *w, const struct codec_inst *codec,
                            const struct codec_input *in, const uint8_t *bytes, size_t len)
{
    struct err err;
    if (!w->x_hat || codec_decode(codec, &in->key, bytes, len, w->x_hat, w->scratch, &err))
        return NAN;
    return codec_nmse(in->x, w->x_hat, codec->shape->n_values);
}

static void report_message(struct worker *w, const struct worker_task *t,
                           const struct codec_report *r, double nmse, double norm)
{
    struct rec_message m = {.frame_bytes = (int64_t)(FRAME_HEADER_BYTES + t->head.payload_bytes),
                            .header_bytes = FRAME_HEADER_BYTES + r->parts.header,
                            .directory_bytes = r->parts.directory,
                            .scales_bytes = r->parts.scales,
                            .indices_bytes = r->parts.indices,
                            .tags_bytes = r->parts.tags,
                            .values_bytes = r->parts.values,
                            .nmse = nmse,
                            .norm = norm,
                            .staleness = r->staleness,
                            .version = (int32_t)w->round,
                            .client = (int32_t)t->client};
    memcpy(m.kept, r->kept, sizeof m.kept);
    w->report[w->n_reports++] = m;
}

static void damage(struct worker *w, struct worker_task *t)
{
    uint8_t *p = netbuf_payload(t->frame);
    enum fault fault = fault_at(t->client, w->round);
    for (size_t i = 0; fault == FAULT_WIRE && i < t->head.payload_bytes; i += 7)
        p[i] ^= 0x5a;
    if (fault == FAULT_INF && t->head.payload_bytes >= 4)
        put_f32(p + (t->head.payload_bytes - 4), INFINITY);
}

// What travels of a vector as long as the adapter.
static float *part_of(const struct worker *w, const struct view_part *p, int which, float *full)
{
    if (!full || w->env->method->view.whole)
        return full;
    view_gather(p, full, w->part[which]);
    return w->part[which];
}

// The state of the client's codec on part p, and where its next one goes: parts that have no turn
// keep theirs.
static void codec_state(struct worker *w, const struct view_part *p, size_t group,
                        struct codec_input *in)
{
    size_t at = w->work_floats + p->state_at, n = w->state_floats - w->work_floats;
    if (n == 0)
        return;
    const float *state = w->state + group * w->state_floats;
    if (!w->env->method->view.whole)
        memcpy(w->state_next + w->work_floats, state + w->work_floats, n * sizeof *state);
    in->state = state + at;
    in->state_next = w->state_next + at;
}

// Clips and blurs what will be sent. Returns its norm as it was, NaN where nobody asked: without
// clipping it is a measure like the error, outside every span.
static double privatise(struct worker *w, const struct worker_task *t, float *x, size_t n)
{
    const struct client_params *p = w->env->client;
    if (p->dp_clip <= 0)
        return w->env->fed->nmse ? privacy_norm(x, n) : NAN;
    struct span span = span_begin(w->env->rec);
    double norm = privacy_apply(p, w->env->seed, t->client, w->round, x, n);
    span_end(w->env->rec, span, STAGE_PRIVACY, (int32_t)t->client, (int64_t)(4 * n), 0);
    return norm;
}

// Packs one trained update straight into the frame that will carry it.
static int64_t encode(struct worker *w, struct worker_task *t, struct train_job *job,
                      struct err *err)
{
    const struct view_inst *view = &w->env->method->view;
    const struct view_part *part = &view->part[view_turn(view, t->client, w->round)];
    size_t cap = codec_bound(part->codec), n = part->shape.n_values;
    struct codec_input in = {.budget_bytes = -1,
                             .loss_fall = w->loss_fall,
                             .by_tensor = w->by_tensor,
                             .key = view_key(view, w->env->seed, t->client, w->round)};
    double upload_s = codec_upload_s(part->codec);
    if (upload_s > 0)
        in.budget_bytes = fed_upload_bytes(w->env, w->round, t->client, ready_ns(w, t), upload_s);
    struct codec_report report = {0};
    codec_state(w, part, (size_t)(job - w->job), &in);
    float *x = part_of(w, part, 0, job->delta);
    double norm = privatise(w, t, x, n);
    if (w->env->update)
        w->env->update(w->env->update_arg, w->round, t->client, &part->shape, x);
    t->frame = transport_buf(w->env->transport, cap);
    struct laps laps;
    laps_begin(&laps, w->env->rec);
    in.laps = &laps;
    in.x = x;
    in.sens = part_of(w, part, 1, job->sens);
    in.grad = part_of(w, part, 2, job->grad);
    int64_t len =
        codec_encode(part->codec, &in, netbuf_payload(t->frame), cap, w->scratch, &report, err);
    laps_end(&laps, w->env->rec, STAGE_ENCODE, CODEC_REST, (int32_t)t->client, (int64_t)(4 * n),
             len);
    if (len < 0)
        return len;
    struct frame head = {.kind = FRAME_UPDATE,
                         .vectors = 1,
                         .version = w->round,
                         .client = t->client,
                         .samples = (uint32_t)job->samples,
                         .values = (uint32_t)n,
                         .loss = (float)job->loss,
                         .payload_bytes = (uint64_t)len};
    t->head = head;
    note_alloc(w, part);
    report_message(w, t, &report,
                   message_error(w, part->codec, &in, netbuf_payload(t->frame), (size_t)len), norm);
    damage(w, t);
    return len;
}

// What the scheme sends instead of an update.
static int64_t encode_other(struct worker *w, struct worker_task *t, struct train_job *job,
                            struct err *err)
{
    size_t cap = fed_update_bound(w->env);
    struct codec_report report;
    memset(&report, 0, sizeof report);
    report.staleness = -1;
    t->frame = transport_buf(w->env->transport, cap);
    int64_t len =
        w->env->method->scheme->pack(w->env, job, netbuf_payload(t->frame), cap, &report, err);
    if (len < 0)
        return len;
    t->head = (struct frame){.kind = FRAME_UPDATE,
                             .vectors = 1,
                             .version = w->round,
                             .client = t->client,
                             .samples = (uint32_t)job->samples,
                             .payload_bytes = (uint64_t)len};
    report_message(w, t, &report, NAN, NAN);
    damage(w, t);
    return len;
}

static void give_up(struct worker *w, struct worker_task *t, enum message_status status,
                    const char *why)
{
    if (t->frame)
        transport_unref(w->env->transport, t->frame);
    t->frame = NULL;
    t->sent = true;
    w->n_sent++;
    send_small(w, FRAME_FAIL, t->client, (uint8_t)status, why, strlen(why));
}

static void finish_task(struct worker *w, struct worker_task *t, struct train_job *job)
{
    struct err err = {""};
    t->trained = true;
    w->n_trained++;
    take_fault(w, t->client, job->delta);
    if (job->failed) {
        give_up(w, t, MESSAGE_LOST, "local training failed");
        return;
    }
    bool other = w->env->method->scheme->pack;
    int64_t len = other ? encode_other(w, t, job, &err) : encode(w, t, job, &err);
    if (len < 0) {
        give_up(w, t, len == CODEC_NONFINITE ? MESSAGE_NONFINITE : MESSAGE_CORRUPT, err.text);
        return;
    }
    if (w->state_floats) {
        if (w->work_floats)
            memcpy(w->state_next, w->state + (size_t)(job - w->job) * w->state_floats,
                   w->work_floats * sizeof *w->state_next);
        struct span span = span_begin(w->env->rec);
        if (slots_write(w->slots, t->client, w->round, w->state_next, &err))
            warn("%s", err.text);
        span_end(w->env->rec, span, STAGE_SLOT, (int32_t)t->client, 0,
                 (int64_t)(4 * w->state_floats));
    }
    if (t->granted)
        send_update(w, t);
}

// Work is there when tasks wait and no packed update is held back for want of a grant.
bool worker_busy(const struct worker *w)
{
    if (w->n_trained >= w->n_tasks || w->n_sent < w->n_trained)
        return false;
    return w->env->virtual_time || w->n_tasks == w->expected;
}

void worker_step(struct worker *w)
{
    int first = w->n_trained, n = w->n_tasks - first;
    n = n < w->group ? n : w->group;
    while (n > 1 && !w->task[first + n - 1].granted)
        n--; // a group's updates must all be free to leave
    train(w, first, n);
    for (int i = 0; i < n; i++)
        finish_task(w, &w->task[first + i], &w->job[i]);
}

// messages.

static void take_welcome(struct worker *w, const struct net_msg *m)
{
    struct welcome hi;
    struct err err;
    if (m->frame.payload_bytes != WELCOME_BYTES + HELLO_BYTES ||
        welcome_get(m->payload, WELCOME_BYTES, &hi) ||
        hello_get(m->payload + WELCOME_BYTES, HELLO_BYTES, &w->server))
        die(STATUS_ENV, "the server's welcome is malformed; run the same build on every host");
    w->welcome = true;
    w->round = hi.resumed_at;
    if (w->state_floats && !w->slots) {
        w->slots = slots_open(w->env->run_dir, w->env->rank, hi.run_id, w->state_floats,
                              (uint32_t)w->env->fed->clients, hi.resumed_at, &err);
        if (!w->slots)
            die(STATUS_ENV, "%s", err.text);
    }
}

// A new version ends what is left of the old: updates that were never acknowledged did not happen.
static void take_model(struct worker *w, const struct net_msg *m)
{
    const struct view_inst *view = &w->env->method->view;
    size_t n = fed_down_floats(w->env), n_backbone = fed_model_floats(w->env) - w->n;
    size_t n_adapter = n - n_backbone;
    if (m->frame.payload_bytes != 4 * n || !isfinite(m->frame.loss))
        return;
    for (int i = 0; i < w->n_tasks; i++) {
        struct worker_task *t = &w->task[i];
        if (t->frame)
            transport_unref(w->env->transport, t->frame);
        if (t->trained && w->slots)
            slots_drop(w->slots, t->client, w->round);
    }
    w->round = m->frame.version;
    w->loss_fall = (double)m->frame.loss;
    w->env->rec->version = (int32_t)w->round;
    if (!w->set_up && !transport_hosts(w->env->transport, 0))
        recorder_put(w->env->rec, STAGE_SETUP, -1, w->env->start_ns, m->first_ns - w->env->start_ns,
                     -1, 0, 0, 0);
    w->set_up = true;
    w->n_tasks = w->n_trained = w->n_sent = w->n_reports = 0;
    w->expected = 0;
    float *to = n_adapter == w->n ? w->theta : w->part[0];
    for (size_t i = 0; i < n_adapter; i++)
        to[i] = get_f32(m->payload + 4 * i);
    for (size_t i = 0; i < n_backbone; i++)
        w->theta[w->n + i] = get_f32(m->payload + 4 * (n_adapter + i));
    if (w->env->method->scheme->fresh)
        w->env->work->row->fresh(w->env->work, w->round, w->theta);
    else if (n_adapter > 0 && n_adapter < w->n)
        view_scatter(&view->part[0], to, w->theta);
    recorder_put(w->env->rec, STAGE_DOWNLOAD, -1, m->first_ns, clock_ns() - m->first_ns, -1,
                 (int64_t)m->bytes, (int64_t)(4 * fed_model_floats(w->env)), 0);
}

static void take_task(struct worker *w, const struct net_msg *m)
{
    struct round_start start = {.round = w->round};
    if (m->frame.version != w->round || w->n_tasks == w->tasks_cap ||
        find_task(w, m->frame.client) ||
        round_start_get(m->payload, m->frame.payload_bytes, &start))
        return;
    w->start = start;
    w->expected = (int)m->frame.samples;
    int at = w->n_tasks++;
    // Virtual links may deliver tasks in any order; those not yet begun stay in client order.
    while (at > w->n_trained && w->task[at - 1].client > m->frame.client) {
        w->task[at] = w->task[at - 1];
        at--;
    }
    w->task[at] = (struct worker_task){
        .client = m->frame.client, .granted = m->frame.reason != 0, .t_arrived_ns = m->t_ns};
}

static void take_grant(struct worker *w, const struct net_msg *m)
{
    struct worker_task *t = find_task(w, m->frame.client);
    if (!t || m->frame.version != w->round || t->granted)
        return;
    t->granted = true;
    if (t->trained && !t->sent)
        send_update(w, t);
}

static void send_events(struct worker *w)
{
    struct rec_sensor sensor[POWER_RAILS];
    size_t n = recorder_drain(w->env->rec, w->drain, w->drain_cap);
    size_t n_sensors = 0;
    if (w->env->power)
        n_sensors = (size_t)power_watch_read(w->env->power, sensor);
    for (size_t i = 0; i < n_sensors; i++)
        sensor[i].version = (int32_t)w->round;
    const struct rows_section part[] = {{REC_EVENTS, n, w->drain},
                                        {REC_MESSAGES, (size_t)w->n_reports, w->report},
                                        {REC_ALLOC, take_alloc(w), w->alloc_out},
                                        {REC_SENSORS, n_sensors, sensor}};
    size_t len = rows_bytes(part, ARRAY_LEN(part));
    struct netbuf *b = transport_buf(w->env->transport, len);
    struct frame f = {.kind = FRAME_EVENTS, .version = w->round, .payload_bytes = len};
    rows_put(netbuf_payload(b), part, ARRAY_LEN(part));
    send_frame(w, &f, b, now_ns(w));
    transport_unref(w->env->transport, b);
    w->n_reports = 0;
}

// The server has decided: state of refused updates is undone, the rest is made durable, then it may
// go on.
static void take_ack(struct worker *w, const struct net_msg *m)
{
    struct err err;
    if (m->frame.version != w->round)
        return;
    struct span span = span_begin(w->env->rec);
    for (size_t at = 0; at + ACK_ENTRY_BYTES <= m->frame.payload_bytes; at += ACK_ENTRY_BYTES) {
        struct ack_entry a;
        ack_get(m->payload + at, &a);
        if (!a.accepted && w->slots && find_task(w, a.client))
            slots_drop(w->slots, a.client, w->round);
    }
    if (w->slots && *w->env->run_dir) {
        if (slots_sync(w->slots, &err))
            warn("%s", err.text);
        span_end(w->env->rec, span, STAGE_SLOT, -1, 0, 0);
    }
    for (int i = 0; i < w->n_tasks; i++)
        if (w->task[i].frame)
            transport_unref(w->env->transport, w->task[i].frame);
    w->n_tasks = w->n_trained = w->n_sent = w->expected = 0;
    send_events(w);
}

static void take_ping(struct worker *w, const struct net_msg *m)
{
    uint8_t payload[16];
    if (m->frame.payload_bytes != 8)
        return;
    memcpy(payload, m->payload, 8);
    put_u64(payload + 8, (uint64_t)clock_ns());
    send_small(w, FRAME_PONG, 0, 0, payload, sizeof payload);
}

static void send_bye(struct worker *w)
{
    struct bye b;
    uint8_t payload[BYE_BYTES];
    bye_local(&b);
    bye_put(&b, payload);
    send_small(w, FRAME_BYE, 0, 0, payload, sizeof payload);
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
    case FRAME_MODEL:
        take_model(w, m);
        break;
    case FRAME_TASK:
        take_task(w, m);
        break;
    case FRAME_GRANT:
        take_grant(w, m);
        break;
    case FRAME_ACK:
        take_ack(w, m);
        break;
    case FRAME_PING:
        take_ping(w, m);
        break;
    case FRAME_STOP:
        w->clean_stop = m->frame.reason == 1;
        w->stop = true;
        send_bye(w);
        break;
    default:
        break;
    }
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
    int64_t silence = clock_ns() - w->last_heard_ns;
    if ((double)silence > 10e9 * w->env->net->timeout_s && silence > 600000000000)
        die(STATUS_ENV, "nothing heard from the server for %lld s",
            (long long)(silence / 1000000000));
}
