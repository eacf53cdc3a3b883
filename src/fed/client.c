#include "fed/client.h"

#include "base/bytes.h"
#include "base/mem.h"
#include "fed/fault.h"
#include "fed/privacy.h"

#include <assert.h>
#include <math.h>
#include <signal.h>
#include <string.h>

// A row per tensor of every part of the view.
static void open_alloc(struct clients *c)
{
    const struct view_inst *view = &c->env->method->view;
    size_t most = 0, at = 0;
    for (uint32_t p = 0; p < view->n_parts; p++) {
        size_t n = view->part[p].shape.n_tensors;
        most = n > most ? n : most;
        c->n_alloc += n;
    }
    c->by_tensor = mem_alloc(MEM_TRACE, most * sizeof *c->by_tensor);
    c->alloc = mem_alloc(MEM_TRACE, c->n_alloc * sizeof *c->alloc);
    c->alloc_out = mem_alloc(MEM_TRACE, c->n_alloc * sizeof *c->alloc);
    for (uint32_t p = 0; p < view->n_parts; p++)
        for (uint32_t t = 0; t < view->part[p].shape.n_tensors; t++, at++) {
            c->alloc[at].tensor = (int32_t)at;
            memcpy(c->alloc[at].name, view->part[p].shape.tensors[t].name,
                   sizeof c->alloc[at].name);
        }
}

static void note_alloc(struct clients *c, const struct view_part *part)
{
    struct rec_alloc *row = c->alloc;
    for (const struct view_part *p = c->env->method->view.part; p < part; p++)
        row += p->shape.n_tensors;
    for (uint32_t t = 0; t < part->shape.n_tensors; t++) {
        row[t].messages++;
        for (int k = 0; k < RECORD_WIDTHS; k++)
            row[t].kept[k] += c->by_tensor[t][k];
    }
}

// What the round's messages come to, tensors whose widths nobody said left out. Returns how many.
size_t clients_take_alloc(struct clients *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_alloc; i++) {
        struct rec_alloc *a = &c->alloc[i];
        int64_t sent = 0;
        for (int k = 0; k < RECORD_WIDTHS; k++)
            sent += a->kept[k];
        a->version = (int32_t)c->version;
        a->rank = c->env->rank;
        if (sent)
            c->alloc_out[n++] = *a;
        memset(a->kept, 0, sizeof a->kept);
        a->messages = 0;
    }
    return n;
}

void clients_open(struct clients *c, const struct fed_env *env, int tasks)
{
    const unsigned needs = codec_needs(env->method->codec);
    *c = (struct clients){.env = env, .n = env->work->shape.n_values, .reports_cap = tasks};
    c->optim_floats = fed_optim_floats(env);
    c->work_floats = fed_work_floats(env);
    c->state_floats = fed_state_floats(env);
    c->report = mem_alloc(MEM_TRACE, (size_t)tasks * sizeof *c->report);
    c->group = env->work->row->group(env->work);
    if (c->group > env->fed->clients_per_round)
        c->group = env->fed->clients_per_round;
    if (env->virtual_time)
        c->group = 1; // each client begins when its own task arrives
    size_t g = (size_t)c->group;
    c->theta = mem_alloc(MEM_ADAPTER, fed_model_floats(env) * sizeof *c->theta);
    env->work->row->initial(env->work, c->theta);
    c->delta = mem_alloc(MEM_ADAPTER, g * c->n * sizeof *c->delta);
    c->job = mem_alloc(MEM_OTHER, g * sizeof *c->job);
    c->task = mem_alloc(MEM_OTHER, g * sizeof *c->task);
    if (c->state_floats) {
        c->state = mem_alloc(MEM_OPTIMIZER, g * c->state_floats * sizeof *c->state);
        c->state_next = mem_alloc(MEM_OPTIMIZER, c->state_floats * sizeof *c->state_next);
    }
    if (needs & CODEC_SENS)
        c->sens = mem_alloc(MEM_OPTIMIZER, g * c->n * sizeof *c->sens);
    if (needs & CODEC_GRAD)
        c->grad = mem_alloc(MEM_OPTIMIZER, g * c->n * sizeof *c->grad);
    if (env->fed->nmse)
        c->x_hat = mem_alloc(MEM_OTHER, c->n * sizeof *c->x_hat);
    const float *const whole[] = {c->delta, c->sens, c->grad};
    for (size_t i = 0; i < ARRAY_LEN(whole) && !env->method->view.whole; i++)
        c->part[i] = whole[i] ? mem_alloc(MEM_ADAPTER, c->n * sizeof(float)) : NULL;
    size_t scratch = view_scratch_bytes(&env->method->view);
    c->scratch = scratch ? mem_alloc(MEM_CODEC, scratch) : NULL;
    open_alloc(c);
}

void clients_close(struct clients *c)
{
    void *blocks[] = {c->report,  c->theta, c->delta,     c->job,       c->state,   c->state_next,
                      c->sens,    c->grad,  c->part[0],   c->part[1],   c->part[2], c->x_hat,
                      c->scratch, c->alloc, c->alloc_out, c->by_tensor, c->task};
    slots_close(c->slots);
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
}

bool clients_take_model(struct clients *c, const struct frame *f, const uint8_t *payload)
{
    const struct fed_env *env = c->env;
    size_t n = fed_down_floats(env), n_backbone = fed_model_floats(env) - c->n;
    size_t n_adapter = n - n_backbone;
    if (f->payload_bytes != 4 * n || !isfinite(f->loss))
        return false;
    c->version = f->version;
    c->loss_fall = (double)f->loss;
    float *to = n_adapter == c->n ? c->theta : c->part[0];
    for (size_t i = 0; i < n_adapter; i++)
        to[i] = get_f32(payload + 4 * i);
    for (size_t i = 0; i < n_backbone; i++)
        c->theta[c->n + i] = get_f32(payload + 4 * (n_adapter + i));
    if (env->method->scheme->fresh)
        env->work->row->fresh(env->work, c->version, c->theta);
    else if (n_adapter > 0 && n_adapter < c->n)
        view_scatter(&env->method->view.part[0], to, c->theta);
    return true;
}

int64_t clients_ready_ns(const struct clients *c, uint32_t client, int64_t t_arrived_ns)
{
    const struct fed_env *env = c->env;
    size_t down = FRAME_HEADER_BYTES + 4 * fed_down_floats(env);
    struct client_times times = fed_client_times(env, &c->start, client, (int64_t)down, 0);
    int64_t from = env->virtual_time ? t_arrived_ns - c->start.clock_ns : times.down_ns;
    int64_t compute = times.compute_ns + times.encode_ns;
    if (env->net->pace == NET_PACE_REAL) // it has passed
        compute = transport_now(env->transport) - t_arrived_ns;
    return link_add_ns(c->start.run_ns + compute, from);
}

struct link_transfer clients_transfer(const struct clients *c, const struct frame *head,
                                      int64_t ready_ns)
{
    return (struct link_transfer){.client = head->client,
                                  .round = c->version,
                                  .up = true,
                                  .t_ready_ns = ready_ns,
                                  .bytes = (int64_t)(FRAME_HEADER_BYTES + head->payload_bytes)};
}

int64_t clients_delivery_ns(const struct clients *c, const struct link_transfer *x)
{
    const struct fed_env *env = c->env;
    if (!env->virtual_time)
        return 0;
    struct link_state link = {0};
    struct link_result r = link_carry(env->link, &link, x);
    int64_t at = link_add_ns(r.t_deliver_ns, c->start.clock_ns - c->start.run_ns);
    int64_t now = transport_now(env->transport);
    return at > now ? at : now;
}

static void take_fault(const struct clients *c, struct train_job *job)
{
    switch (fault_at(job->client, c->version)) {
    case FAULT_KILL:
        raise(SIGKILL);
        break;
    case FAULT_STOP:
        raise(SIGSTOP);
        break;
    case FAULT_NAN:
        job->delta[c->n / 2] = NAN;
        break;
    default:
        break;
    }
}

static void read_slot(struct clients *c, struct client_task *t, float *state)
{
    struct span span = span_begin(c->env->rec);
    t->missing = !slots_read(c->slots, t->client, t->state.newest, state);
    span_end(c->env->rec, span, STAGE_SLOT, (int32_t)t->client, (int64_t)(4 * c->state_floats), 0);
}

void clients_train(struct clients *c, const struct client_task *task, int n)
{
    const struct method *m = c->env->method;
    struct workload *work = c->env->work;
    assert(n <= c->group);
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * c->n;
        struct train_job *job = &c->job[i];
        *job = (struct train_job){.client = task[i].client,
                                  .round = c->version,
                                  .theta = c->theta,
                                  .delta = c->delta + at,
                                  .sens = c->sens ? c->sens + at : NULL,
                                  .grad = c->grad ? c->grad + at : NULL,
                                  .tokens = m->tokens,
                                  .token_opt = &m->token_opt};
        job->trained = view_trained(&m->view, job->client, c->version, &job->n_trained);
        c->task[i] = task[i];
        if (c->state_floats) {
            float *state = c->state + (size_t)i * c->state_floats;
            read_slot(c, &c->task[i], state);
            job->state = c->optim_floats ? state : NULL;
            job->kept = c->work_floats > c->optim_floats ? state + c->optim_floats : NULL;
        }
    }
    (m->scheme->train ? m->scheme->train : work->row->train)(work, c->job, n, c->env->rec);
}

// The client's own measure of what its message lost, outside every span.
static double message_error(struct clients *c, const struct codec_inst *codec,
                            const struct codec_input *in, const uint8_t *bytes, size_t len)
{
    struct err err;
    if (!c->x_hat || codec_decode(codec, &in->key, bytes, len, c->x_hat, c->scratch, &err))
        return NAN;
    return codec_nmse(in->x, c->x_hat, codec->shape->n_values);
}

static void report_message(struct clients *c, const struct frame *head,
                           const struct codec_report *r, double nmse, double norm)
{
    struct rec_message m = {.frame_bytes = (int64_t)(FRAME_HEADER_BYTES + head->payload_bytes),
                            .header_bytes = FRAME_HEADER_BYTES + r->parts.header,
                            .directory_bytes = r->parts.directory,
                            .scales_bytes = r->parts.scales,
                            .indices_bytes = r->parts.indices,
                            .tags_bytes = r->parts.tags,
                            .values_bytes = r->parts.values,
                            .nmse = nmse,
                            .norm = norm,
                            .staleness = r->staleness,
                            .version = (int32_t)c->version,
                            .client = (int32_t)head->client};
    memcpy(m.kept, r->kept, sizeof m.kept);
    assert(c->n_reports < c->reports_cap);
    c->report[c->n_reports++] = m;
}

static void damage(const struct frame *head, struct netbuf *b)
{
    uint8_t *p = netbuf_payload(b);
    enum fault fault = fault_at(head->client, head->version);
    for (size_t i = 0; fault == FAULT_WIRE && i < head->payload_bytes; i += 7)
        p[i] ^= 0x5a;
    if (fault == FAULT_INF && head->payload_bytes >= 4)
        put_f32(p + (head->payload_bytes - 4), INFINITY);
}

// What travels of a vector as long as the adapter.
static float *part_of(const struct clients *c, const struct view_part *p, int which, float *full)
{
    if (!full || c->env->method->view.whole)
        return full;
    view_gather(p, full, c->part[which]);
    return c->part[which];
}

// The state of the client's codec on part p, and where its next one goes: parts that have no turn
// keep theirs.
static void codec_state(struct clients *c, const struct view_part *p, size_t group,
                        struct codec_input *in)
{
    size_t at = c->work_floats + p->state_at, n = c->state_floats - c->work_floats;
    if (n == 0)
        return;
    const float *state = c->state + group * c->state_floats;
    if (!c->env->method->view.whole)
        memcpy(c->state_next + c->work_floats, state + c->work_floats, n * sizeof *state);
    in->state = state + at;
    in->state_next = c->state_next + at;
}

// Clips and blurs what will be sent. Returns its norm as it was, NaN where nobody asked: without
// clipping it is a measure like the error, outside every span.
static double privatise(struct clients *c, uint32_t client, float *x, size_t n)
{
    const struct client_params *p = c->env->client;
    if (p->dp_clip <= 0)
        return c->env->fed->nmse ? privacy_norm(x, n) : NAN;
    struct span span = span_begin(c->env->rec);
    double norm = privacy_apply(p, c->env->seed, client, c->version, x, n);
    span_end(c->env->rec, span, STAGE_PRIVACY, (int32_t)client, (int64_t)(4 * n), 0);
    return norm;
}

static int64_t encode(struct clients *c, struct train_job *job, int64_t ready_ns,
                      struct frame *head, struct netbuf **b, struct err *err)
{
    const struct fed_env *env = c->env;
    const struct view_inst *view = &env->method->view;
    const struct view_part *part = &view->part[view_turn(view, job->client, c->version)];
    size_t cap = codec_bound(part->codec), n = part->shape.n_values;
    struct codec_input in = {.budget_bytes = -1,
                             .loss_fall = c->loss_fall,
                             .by_tensor = c->by_tensor,
                             .key = view_key(view, env->seed, job->client, c->version)};
    double upload_s = codec_upload_s(part->codec);
    if (upload_s > 0)
        in.budget_bytes = fed_upload_bytes(env, c->version, job->client, ready_ns, upload_s);
    struct codec_report report = {0};
    codec_state(c, part, (size_t)(job - c->job), &in);
    float *x = part_of(c, part, 0, job->delta);
    double norm = privatise(c, job->client, x, n);
    if (env->update)
        env->update(env->update_arg, c->version, job->client, &part->shape, x);
    *b = transport_buf(env->transport, cap);
    struct laps laps;
    laps_begin(&laps, env->rec);
    in.laps = &laps;
    in.x = x;
    in.sens = part_of(c, part, 1, job->sens);
    in.grad = part_of(c, part, 2, job->grad);
    int64_t len = codec_encode(part->codec, &in, netbuf_payload(*b), cap, c->scratch, &report, err);
    laps_end(&laps, env->rec, STAGE_ENCODE, CODEC_REST, (int32_t)job->client, (int64_t)(4 * n),
             len);
    if (len < 0)
        return len;
    *head = (struct frame){.kind = FRAME_UPDATE,
                           .vectors = 1,
                           .version = c->version,
                           .client = job->client,
                           .samples = (uint32_t)job->samples,
                           .values = (uint32_t)n,
                           .loss = (float)job->loss,
                           .payload_bytes = (uint64_t)len};
    note_alloc(c, part);
    report_message(c, head, &report,
                   message_error(c, part->codec, &in, netbuf_payload(*b), (size_t)len), norm);
    return len;
}

// What the scheme sends instead of an update.
static int64_t encode_other(struct clients *c, struct train_job *job, struct frame *head,
                            struct netbuf **b, struct err *err)
{
    const struct fed_env *env = c->env;
    size_t cap = fed_update_bound(env);
    struct codec_report report = {.staleness = -1};
    *b = transport_buf(env->transport, cap);
    int64_t len = env->method->scheme->pack(env, job, netbuf_payload(*b), cap, &report, err);
    if (len < 0)
        return len;
    *head = (struct frame){.kind = FRAME_UPDATE,
                           .vectors = 1,
                           .version = c->version,
                           .client = job->client,
                           .samples = (uint32_t)job->samples,
                           .payload_bytes = (uint64_t)len};
    report_message(c, head, &report, NAN, NAN);
    return len;
}

static int write_slot(struct clients *c, int i, struct err *err)
{
    const struct client_task *t = &c->task[i];
    if (!c->state_floats)
        return 0;
    if (c->work_floats)
        memcpy(c->state_next, c->state + (size_t)i * c->state_floats,
               c->work_floats * sizeof *c->state_next);
    struct span span = span_begin(c->env->rec);
    int rc = slots_write(c->slots, t->client, c->version, t->state.newest, t->state.kept,
                         c->state_next, err);
    span_end(c->env->rec, span, STAGE_SLOT, (int32_t)t->client, 0, (int64_t)(4 * c->state_floats));
    return rc;
}

static enum message_status pack_job(struct clients *c, int i, int64_t ready_ns, struct frame *head,
                                    struct netbuf **b, struct err *err)
{
    struct train_job *job = &c->job[i];
    take_fault(c, job);
    if (c->task[i].missing || job->failed) {
        err_set(err, "%s",
                c->task[i].missing ? "its state is missing or damaged" : "local training failed");
        return MESSAGE_LOST;
    }
    bool other = c->env->method->scheme->pack;
    int64_t len =
        other ? encode_other(c, job, head, b, err) : encode(c, job, ready_ns, head, b, err);
    if (len < 0)
        return len == CODEC_NONFINITE ? MESSAGE_NONFINITE : MESSAGE_CORRUPT;
    damage(head, *b);
    return write_slot(c, i, err) ? MESSAGE_LOST : MESSAGE_OK;
}

enum message_status clients_pack(struct clients *c, int i, int64_t ready_ns, struct frame *head,
                                 struct netbuf **b, struct err *err)
{
    *b = NULL;
    enum message_status status = pack_job(c, i, ready_ns, head, b, err);
    if (status != MESSAGE_OK && *b) {
        transport_unref(c->env->transport, *b);
        *b = NULL;
    }
    return status;
}
