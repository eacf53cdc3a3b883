#include "fed/client.h"

#include "base/bytes.h"
#include "base/mem.h"
#include "fed/datagram.h"
#include "fed/downlink.h"
#include "fed/fault.h"
#include "fed/policy.h"
#include "fed/privacy.h"
#include "fed/worth.h"

#include <assert.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

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

static void open_vectors(struct clients *c)
{
    size_t bytes = c->n * sizeof(float);
    for (int k = 0; k < c->env->method->scheme->down_vectors; k++)
        c->down[k] = mem_alloc(MEM_ADAPTER, bytes);
    for (int k = 0; k + 1 < c->n_vectors; k++)
        c->up[k] = mem_alloc(MEM_ADAPTER, (size_t)c->at_once * bytes);
    for (int k = 0; k < 2 + c->n_vectors && !c->env->method->view.whole; k++)
        c->part[k] = mem_alloc(MEM_ADAPTER, bytes);
}

static void open_scores(struct clients *c)
{
    const struct workload *w = c->env->work;
    size_t bytes = worth_bound(fed_scores_vocab(c->env));
    if (!bytes)
        return;
    c->worth = mem_alloc(MEM_OTHER, bytes);
    c->seen = mem_alloc(MEM_OTHER, (size_t)c->at_once * sizeof *c->seen);
    for (int i = 0; i < c->at_once; i++)
        token_scores_open(&c->seen[i], w->row->vocab(w));
}

// Memory of the device for the hungriest codec that runs there.
static void open_device(struct clients *c)
{
    const struct view_inst *view = &c->env->method->view;
    const struct workload_row *work = c->env->work->row;
    struct dev *d = work->device ? work->device(c->env->work) : NULL;
    size_t stage = 0, room = 0, state = 0, bytes = c->n * sizeof(float);
    unsigned needs = 0;
    bool any = false;
    for (uint32_t p = 0; p < view->n_parts && d; p++)
        for (int k = 0; k < c->n_vectors; k++) {
            const struct codec_inst *codec = view->part[p].vector[k].codec;
            if (!codec_runs_on(codec, d))
                continue;
            size_t own[] = {codec_stage_bytes(codec, d), codec_device_bytes(codec, d),
                            codec_state_floats(codec) * sizeof(float)};
            stage = own[0] > stage ? own[0] : stage;
            room = own[1] > room ? own[1] : room;
            state = own[2] > state ? own[2] : state;
            needs |= codec_needs(codec);
            any = true;
        }
    if (!any)
        return;
    c->there.on = (struct codec_device){
        .dev = d, .stage = d->row->stage(d, stage), .room = d->row->alloc(d, MEM_CODEC, room)};
    c->there.x = d->row->alloc(d, MEM_CODEC, bytes);
    c->there.sens = needs & (CODEC_SENS | CODEC_REACH) ? d->row->alloc(d, MEM_CODEC, bytes) : NULL;
    c->there.grad = needs & CODEC_GRAD ? d->row->alloc(d, MEM_CODEC, bytes) : NULL;
    c->there.state = state ? d->row->alloc(d, MEM_CODEC, state) : NULL;
    c->there.state_next = state ? d->row->alloc(d, MEM_CODEC, state) : NULL;
}

static void close_device(struct clients *c)
{
    struct dev *d = c->there.on.dev;
    void *blocks[] = {c->there.on.room, c->there.x,     c->there.sens,
                      c->there.grad,    c->there.state, c->there.state_next};
    if (!d)
        return;
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        if (blocks[i])
            d->row->free(d, blocks[i]);
    d->row->unstage(d, c->there.on.stage);
}

void clients_open(struct clients *c, const struct fed_env *env, int tasks)
{
    const unsigned needs = view_needs(&env->method->view);
    *c = (struct clients){.env = env, .n = env->work->shape.n_values};
    c->n_vectors = env->method->view.n_vectors;
    bool talks = env->method->scheme->talk;
    c->reports_cap = tasks * (c->n_vectors + talks);
    c->optim_floats = fed_optim_floats(env);
    c->work_floats = fed_work_floats(env);
    c->state_floats = fed_state_floats(env);
    c->kept_floats = c->work_floats + fed_own_floats(env);
    c->report = mem_alloc(MEM_TRACE, (size_t)c->reports_cap * sizeof *c->report);
    c->at_once = env->work->row->at_once(env->work);
    if (c->at_once > env->fed->clients_per_round)
        c->at_once = env->fed->clients_per_round;
    if (env->virtual_time || talks)
        c->at_once = 1; // each client begins when its own task arrives, and waits for its answers
    size_t g = (size_t)c->at_once;
    c->theta = mem_alloc(MEM_ADAPTER, fed_model_floats(env) * sizeof *c->theta);
    env->work->row->initial(env->work, c->theta);
    c->masked = env->method->view.cut ? mem_alloc(MEM_ADAPTER, g * c->n * sizeof *c->masked) : NULL;
    if (env->fed->evaluate == FED_EVALUATE_PERSONAL) {
        c->trained = mem_alloc(MEM_ADAPTER, c->n * sizeof *c->trained);
        c->scores_cap = 2 * tasks;
        c->scores = mem_alloc(MEM_TRACE, (size_t)c->scores_cap * sizeof *c->scores);
    }
    c->delta = mem_alloc(MEM_ADAPTER, g * c->n * sizeof *c->delta);
    c->job = mem_alloc(MEM_OTHER, g * sizeof *c->job);
    c->task = mem_alloc(MEM_OTHER, g * sizeof *c->task);
    if (c->state_floats) {
        c->state = mem_alloc(MEM_OPTIMIZER, g * c->state_floats * sizeof *c->state);
        c->state_next = mem_alloc(MEM_OPTIMIZER, c->state_floats * sizeof *c->state_next);
    }
    if (needs & CODEC_SENS)
        c->sens = mem_alloc(MEM_OPTIMIZER, g * c->n * sizeof *c->sens);
    if (needs & CODEC_REACH) {
        int none = products_open(&c->pairs, &env->work->shape, NULL);
        assert(!none); // the command has looked
        c->reach = mem_alloc(MEM_OPTIMIZER, c->n * sizeof *c->reach);
    }
    if (needs & CODEC_GRAD)
        c->grad = mem_alloc(MEM_OPTIMIZER, g * c->n * sizeof *c->grad);
    if (env->fed->nmse)
        c->x_hat = mem_alloc(MEM_OTHER, c->n * sizeof *c->x_hat);
    open_vectors(c);
    size_t scratch = view_scratch_bytes(&env->method->view);
    size_t cut = datagram_on(env->method, env->link) ? datagram_cut_scratch(&env->method->view) : 0;
    scratch = cut > scratch ? cut : scratch;
    if (fed_down_coded(env)) {
        size_t down = view_decode_scratch(&env->method->down);
        scratch = down > scratch ? down : scratch;
        c->change = mem_alloc(MEM_ADAPTER, c->n * sizeof *c->change);
    }
    c->scratch = scratch ? mem_alloc(MEM_CODEC, scratch) : NULL;
    open_alloc(c);
    open_scores(c);
    open_device(c);
    c->talker = talks ? env->method->scheme->talk->open(env) : NULL;
}

void clients_close(struct clients *c)
{
    void *blocks[] = {c->report,     c->theta,     c->delta,     c->job,    c->state,
                      c->state_next, c->sens,      c->grad,      c->x_hat,  c->scratch,
                      c->alloc,      c->alloc_out, c->by_tensor, c->task,   c->change,
                      c->masked,     c->reach,     c->trained,   c->scores, c->worth};
    for (int i = 0; c->seen && i < c->at_once; i++)
        token_scores_close(&c->seen[i]);
    mem_free(c->seen);
    if (c->talker)
        c->env->method->scheme->talk->close(c->env, c->talker);
    slots_close(c->slots);
    products_close(&c->pairs);
    close_device(c);
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
    for (int k = 0; k < FED_VECTORS; k++) {
        mem_free(c->down[k]);
        mem_free(c->up[k]);
    }
    for (size_t k = 0; k < ARRAY_LEN(c->part); k++)
        mem_free(c->part[k]);
}

// What travels of a vector as long as the adapter; the rest of it stays.
static const uint8_t *get_vector(struct clients *c, const uint8_t *p, float *x)
{
    const struct view_inst *view = &c->env->method->view;
    size_t n = view_down_floats(view);
    float *to = n < c->n ? c->part[0] : x;
    for (size_t i = 0; i < n; i++)
        to[i] = get_f32(p + 4 * i);
    if (n < c->n)
        view_scatter(&view->part[0], to, x);
    return p + 4 * n;
}

static void take_version(struct clients *c, const uint8_t *payload)
{
    const struct fed_env *env = c->env;
    const struct scheme *scheme = env->method->scheme;
    if (fed_adapter_down(env))
        payload = get_vector(c, payload, c->theta);
    for (size_t i = c->n; i < fed_model_floats(env); i++, payload += 4)
        c->theta[i] = get_f32(payload);
    for (int k = 0; k < scheme->down_vectors; k++)
        payload = get_vector(c, payload, c->down[k]);
}

// Changes onto the version that is here. Where they are no such thing there is none any more.
static bool take_changes(struct clients *c, const struct frame *f, const uint8_t *payload)
{
    const struct fed_env *env = c->env;
    struct down_head head;
    struct err err;
    float *vector[FED_VECTORS] = {c->theta};
    size_t len = f->payload_bytes;
    uint32_t have = c->have;
    c->have = 0;
    if (down_head_get(payload, len, &head))
        return false;
    if (head.from == 0 && head.count == 0 && len == DOWN_HEAD_BYTES + 4 * fed_down_floats(env)) {
        take_version(c, payload + DOWN_HEAD_BYTES);
    } else if (env->fed->down_of == FED_DOWN_VERSION) {
        const struct view_part *part = &env->method->down.part[0];
        for (int r = 0; r < part->n_ranges; r++)
            memset(c->theta + part->range[r].from, 0,
                   (part->range[r].to - part->range[r].from) * sizeof *c->theta);
        if (head.from != 0 || head.count != 1)
            return false;
        head.from = f->version - 1;
        if (downlink_take(env, payload, len, head, vector, c->change, c->scratch, &err))
            return false;
    } else {
        for (int k = 0; k < env->method->scheme->down_vectors; k++)
            vector[1 + k] = c->down[k];
        if (head.from == 0 || head.from != have || head.from + head.count != f->version ||
            downlink_take(env, payload, len, head, vector, c->change, c->scratch, &err))
            return false;
    }
    c->have = f->version;
    return true;
}

// As much of a version as the largest of this worker's ranks holds.
static bool take_part(struct clients *c, const struct frame *f, const uint8_t *payload)
{
    const struct view_inst *view = &c->env->method->view;
    uint32_t p = 0;
    while (p < view->n_parts && f->payload_bytes != 4 * view->part[p].shape.n_values)
        p++;
    if (p == view->n_parts)
        return false;
    for (size_t i = 0; i < view->part[p].shape.n_values; i++)
        c->part[0][i] = get_f32(payload + 4 * i);
    view_scatter(&view->part[p], c->part[0], c->theta);
    return true;
}

static bool take_whole(struct clients *c, const struct frame *f, const uint8_t *payload)
{
    if (f->payload_bytes != 4 * fed_down_floats(c->env))
        return false;
    take_version(c, payload);
    return true;
}

bool clients_take_model(struct clients *c, const struct frame *f, const uint8_t *payload)
{
    const struct fed_env *env = c->env;
    const struct scheme *scheme = env->method->scheme;
    if (!isfinite(f->loss) || !(fed_down_coded(env)     ? take_changes(c, f, payload)
                                : env->method->view.cut ? take_part(c, f, payload)
                                                        : take_whole(c, f, payload)))
        return false;
    c->version = f->version;
    c->loss_fall = (double)f->loss;
    if (scheme->fresh)
        env->work->row->fresh(env->work, c->version, c->theta);
    return true;
}

int64_t clients_ready_ns(const struct clients *c, uint32_t client, int64_t down_bytes,
                         int64_t t_arrived_ns)
{
    const struct fed_env *env = c->env;
    struct client_times times = fed_said_times(env, &c->start, client, down_bytes, 0, c->said);
    int64_t from = env->virtual_time ? t_arrived_ns - c->start.clock_ns : times.down_ns;
    int64_t compute = link_add_ns(times.compute_ns + times.encode_ns,
                                  link_add_ns(times.said_up_ns, times.said_down_ns));
    if (env->net->pace == NET_PACE_REAL) // it has passed
        compute = transport_now(env->transport) - t_arrived_ns;
    return link_add_ns(link_add_ns(c->start.run_ns, compute), from);
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
    case FAULT_HALF:
        setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {0, 200000}}, NULL);
        break;
    case FAULT_NAN:
        job->delta[c->n / 2] = NAN;
        job->there.delta = NULL;
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

// What is kept of the client, and of the scheme's vectors, goes with the job.
static void give_vectors(struct clients *c, struct train_job *job, int i)
{
    float *state = c->state_floats ? c->state + (size_t)i * c->state_floats : NULL;
    if (state) {
        read_slot(c, &c->task[i], state);
        job->state = c->optim_floats ? state : NULL;
        job->kept = c->work_floats > c->optim_floats ? state + c->optim_floats : NULL;
    }
    const int own = c->env->method->scheme->client_vectors;
    const size_t each = own ? (c->kept_floats - c->work_floats) / (size_t)own : 0;
    for (int k = 0; k < own; k++)
        job->own[k] = state + c->work_floats + (size_t)k * each;
    for (int k = 0; k < FED_VECTORS; k++) {
        job->down[k] = c->down[k];
        job->up[k] = c->up[k] ? c->up[k] + (size_t)i * c->n : NULL;
    }
}

// What of the version job i is trained from.
static const float *start_of(struct clients *c, uint32_t client, int i)
{
    const struct view_part *own = view_own(&c->env->method->view, client);
    float *start = c->masked + (size_t)i * c->n;
    if (!own)
        return c->theta;
    memset(start, 0, c->n * sizeof *start);
    for (int r = 0; r < own->n_ranges; r++)
        for (size_t k = own->range[r].from; k < own->range[r].to; k++)
            start[k] = c->theta[k];
    return start;
}

// Whether the update's codec takes all that it is given from the device.
static bool coded_there(const struct clients *c)
{
    const struct view_inst *view = &c->env->method->view;
    return c->there.on.dev && view->whole &&
           codec_runs_on(view->part[0].vector[0].codec, c->there.on.dev);
}

void clients_train(struct clients *c, const struct client_task *task, int n)
{
    const struct method *m = c->env->method;
    struct workload *work = c->env->work;
    assert(n <= c->at_once);
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * c->n;
        struct train_job *job = &c->job[i];
        *job = (struct train_job){
            .client = task[i].client,
            .round = c->version,
            .ask = task[i].ask,
            .steps = fed_steps(c->env->fed, c->env->seed, c->version, task[i].client),
            .theta = start_of(c, task[i].client, i),
            .delta = c->delta + at,
            .sens = c->sens ? c->sens + at : NULL,
            .grad = c->grad ? c->grad + at : NULL,
            .lend = c->there.on.dev != NULL,
            .lend_alone = coded_there(c),
            .talker = c->talker,
            .tokens = m->tokens,
            .token_opt = &m->token_opt};
        job->trained = view_trained(&m->view, job->client, c->version, &job->n_trained);
        job->moved = task[i].state.newest.round > 0 &&
                     !view_stays(&m->view, job->client, task[i].state.newest.round, c->version);
        c->task[i] = task[i];
        give_vectors(c, job, i);
        if (fed_scores_due(c->env, c->version)) {
            job->scores = &c->seen[i];
            token_scores_clear(job->scores);
        }
    }
    c->said = (struct said){0};
    c->said_report = (struct codec_report){.staleness = -1};
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

static int64_t parts_sum(const struct codec_parts *p)
{
    return p->header + p->directory + p->scales + p->indices + p->tags + p->values;
}

// Of one vector, which takes len bytes of the payload; the first has what is the frame's own. What
// its codec has not written stands before messages or between them.
static void report_message(struct clients *c, const struct frame *head, int vector, size_t len,
                           const struct codec_report *r, double nmse, double norm)
{
    size_t header = vector ? 0 : FRAME_HEADER_BYTES;
    size_t directory = len - (size_t)parts_sum(&r->parts);
    struct rec_message m = {.frame_bytes = (int64_t)(header + len),
                            .header_bytes = (int64_t)header + r->parts.header,
                            .directory_bytes = (int64_t)directory + r->parts.directory,
                            .scales_bytes = r->parts.scales,
                            .indices_bytes = r->parts.indices,
                            .tags_bytes = r->parts.tags,
                            .values_bytes = r->parts.values,
                            .nmse = nmse,
                            .norm = norm,
                            .staleness = r->staleness,
                            .version = (int32_t)c->version,
                            .client = (int32_t)head->client,
                            .vector = vector};
    memcpy(m.kept, r->kept, sizeof m.kept);
    snprintf(m.coded_on, sizeof m.coded_on, "%s", r->ran_on ? r->ran_on : "cpu");
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

// The state of the client's codecs, and where their next one goes: parts that have no turn keep
// theirs. NULL where there is none.
static const float *codec_states(struct clients *c, const struct train_job *job)
{
    size_t n = c->state_floats - c->kept_floats;
    if (n == 0)
        return NULL;
    const float *state = c->state + (size_t)(job - c->job) * c->state_floats + c->kept_floats;
    if (!c->env->method->view.whole)
        memcpy(c->state_next + c->kept_floats, state, n * sizeof *state);
    return state;
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

// Vectors of one update on their way into a frame.
struct packing {
    struct codec_input in[FED_VECTORS];
    struct codec_report report[FED_VECTORS];
    const uint8_t *at[FED_VECTORS]; // messages
    size_t len[FED_VECTORS];
    int64_t bytes[FED_VECTORS]; // of the payload, with what stands before or between them
    struct train_there there;   // of what travels whole and as it was trained
    struct laps laps;
};

static void prepare(struct clients *c, struct train_job *job, const struct view_part *part,
                    struct packing *p)
{
    const struct view_inst *view = &c->env->method->view;
    const float *state = codec_states(c, job);
    p->there = view->whole ? job->there : (struct train_there){0};
    p->there.delta = c->env->client->dp_clip > 0 ? NULL : p->there.delta;
    for (int k = 0; k < c->n_vectors; k++) {
        float *full = k ? job->up[k - 1] : job->delta;
        size_t at = part->vector[k].state_at;
        p->in[k] = (struct codec_input){.x = part_of(c, part, 2 + k, full),
                                        .state = state ? state + at : NULL,
                                        .budget_bytes = -1,
                                        .loss_fall = c->loss_fall,
                                        .by_tensor = k ? NULL : c->by_tensor,
                                        .laps = &p->laps};
        p->in[k].state_next = state ? c->state_next + c->kept_floats + at : NULL;
        p->in[k].key = view_key(view, c->env->seed, job->client, c->version, k);
    }
}

// A vector of the host's to the device, where it does not lie there.
static const float *put_there(struct clients *c, float *to, const float *x, const float *there,
                              size_t n)
{
    const struct codec_device *on = &c->there.on;
    if (!x || there)
        return there;
    on->dev->row->put(on->dev, on->lane, to, x, n * sizeof *x);
    return to;
}

// Where the codec's stages are; without any on the device that is the host, which has all of it.
static int64_t encode_vector(struct clients *c, const struct codec_inst *codec, struct packing *p,
                             int v, uint8_t *out, size_t cap, struct err *err)
{
    const struct codec_device *on = &c->there.on;
    struct codec_input in = p->in[v];
    if (!on->dev || !codec_runs_on(codec, on->dev))
        return codec_encode(codec, &in, out, cap, c->scratch, &p->report[v], err);
    const unsigned needs = codec_needs(codec);
    size_t n = codec->shape->n_values, state = codec_state_floats(codec);
    in.on = on;
    in.x = put_there(c, c->there.x, in.x, v ? NULL : p->there.delta, n);
    const float *sens = needs & CODEC_SENS ? p->there.sens : NULL;
    in.sens = in.sens ? put_there(c, c->there.sens, in.sens, sens, n) : NULL;
    in.grad = needs & CODEC_GRAD ? put_there(c, c->there.grad, in.grad, p->there.grad, n) : NULL;
    in.state = state ? put_there(c, c->there.state, in.state, NULL, state) : NULL;
    in.state_next = state ? c->there.state_next : NULL;
    int64_t len = codec_encode(codec, &in, out, cap, c->scratch, &p->report[v], err);
    if (len >= 0 && state)
        on->dev->row->get(on->dev, on->lane, p->in[v].state_next, in.state_next,
                          state * sizeof(float));
    on->dev->row->wait(on->dev, on->lane);
    return len;
}

// Packs the vectors straight into the frame. The update comes last, for its budget may be what the
// others leave, and first in the frame: they move up to it. Returns the payload's length.
static int64_t encode_all(struct clients *c, const struct view_part *part, struct packing *p,
                          uint8_t *out, size_t cap, struct err *err)
{
    size_t head = vectors_head_bytes(c->n_vectors), room = codec_bound(part->vector[0].codec);
    size_t end = head + room, others = 0;
    for (int k = 1; k <= c->n_vectors; k++) {
        int v = k % c->n_vectors;
        size_t at = v ? end : head;
        if (v == 0 && p->in[0].budget_bytes >= 0)
            p->in[0].budget_bytes -= (int64_t)(head + others);
        int64_t len =
            encode_vector(c, part->vector[v].codec, p, v, out + at, v ? cap - at : room, err);
        if (len < 0)
            return len;
        p->len[v] = (size_t)len;
        others += v ? (size_t)len : 0;
        end += v ? (size_t)len : 0;
    }
    vectors_put_head(out, p->len, c->n_vectors);
    memmove(out + head + p->len[0], out + head + room, others);
    return (int64_t)(head + p->len[0] + others);
}

static void report_all(struct clients *c, const struct frame *head, const struct view_part *part,
                       struct packing *p, double norm)
{
    for (int k = 0; k < c->n_vectors; k++)
        report_message(c, head, k, (size_t)p->bytes[k], &p->report[k],
                       message_error(c, part->vector[k].codec, &p->in[k], p->at[k], p->len[k]),
                       k ? NAN : norm);
}

// The messages of a payload as datagrams, in another buffer. Returns the length.
static int64_t as_datagrams(struct clients *c, const struct view_part *part, struct packing *p,
                            const struct frame *head, struct netbuf **b, struct err *err)
{
    const struct fed_env *env = c->env;
    size_t cap = fed_update_bound(env);
    struct netbuf *cut = transport_buf(env->transport, cap);
    struct datagram_update u = {
        .head = head, .registry = env->work->shape.hash, .part = part, .n_vectors = c->n_vectors};
    for (int k = 0; k < c->n_vectors; k++) {
        u.key[k] = p->in[k].key;
        u.message[k] = p->at[k];
        u.len[k] = p->len[k];
    }
    int64_t len = datagram_put(&u, netbuf_payload(cut), cap, c->scratch, err);
    if (len < 0) {
        transport_unref(env->transport, cut);
        return len;
    }
    *b = cut;
    for (int k = 0; k < c->n_vectors; k++) {
        p->report[k].parts = u.parts[k];
        p->bytes[k] = u.bytes[k];
    }
    lap(&p->laps, STAGE_PACK);
    return len;
}

// Where each message lies, and what its vector takes of the payload.
static void find_messages(struct clients *c, struct packing *p, const uint8_t *payload, size_t len)
{
    int bad = vectors_get(payload, len, c->n_vectors, p->at, p->len);
    assert(!bad);
    for (int k = 0; k < c->n_vectors; k++)
        p->bytes[k] = (int64_t)(p->len[k] + (k ? 0 : vectors_head_bytes(c->n_vectors)));
}

// What a client may send of a round's bytes; -1: as much as it likes.
static int64_t share_of_round(const struct fed_env *env)
{
    int64_t bytes = env->fed->uplink_per_round / policy_sampled(env->fed) - FRAME_HEADER_BYTES;
    return env->fed->uplink_per_round <= 0 ? -1 : bytes > 0 ? bytes : 0;
}

// behind: bytes of the payload that the vectors do not have.
static void set_budget(struct clients *c, const struct train_job *job, int64_t ready_ns,
                       const struct view_part *part, size_t behind, struct packing *p)
{
    double upload_s = codec_upload_s(part->vector[0].codec);
    int64_t bytes = share_of_round(c->env);
    if (upload_s > 0) {
        int64_t link = fed_upload_bytes(c->env, c->version, job->client, ready_ns, upload_s);
        bytes = bytes < 0 || link < bytes ? link : bytes;
    }
    if (bytes >= 0)
        p->in[0].budget_bytes =
            datagram_on(c->env->method, c->env->link) ? datagram_budget(bytes) : bytes;
    if (bytes >= 0 && behind)
        p->in[0].budget_bytes = bytes > (int64_t)behind ? bytes - (int64_t)behind : 0;
}

// What codecs want to know beside the vectors.
static void give_sides(struct clients *c, struct train_job *job, const struct view_part *part,
                       struct packing *p)
{
    const float *grad = part_of(c, part, 1, job->grad);
    const unsigned needs = view_needs(&c->env->method->view);
    if (needs & CODEC_REACH)
        products_reach(&c->pairs, job->theta, job->delta, c->n, c->reach);
    const float *sens = part_of(c, part, 0, needs & CODEC_REACH ? c->reach : job->sens);
    for (int k = 0; k < c->n_vectors; k++) {
        p->in[k].grad = grad;
        p->in[k].sens = sens;
    }
}

static int64_t encode(struct clients *c, struct train_job *job, int64_t ready_ns,
                      struct frame *head, struct netbuf **b, struct err *err)
{
    const struct fed_env *env = c->env;
    const struct view_inst *view = &env->method->view;
    const struct view_part *part = &view->part[view_turn(view, job->client, c->version)];
    size_t cap = view_bound(view), n = part->shape.n_values;
    size_t worth = job->scores ? worth_put(job->scores, c->worth) : 0;
    struct packing p = {0};
    prepare(c, job, part, &p);
    set_budget(c, job, ready_ns, part, worth, &p);
    double norm = privatise(c, job->client, (float *)(uintptr_t)p.in[0].x, n);
    if (env->update)
        env->update(env->update_arg, c->version, job->client, &part->shape, p.in[0].x, job->theta);
    *b = transport_buf(env->transport, cap + worth);
    laps_begin(&p.laps, env->rec);
    give_sides(c, job, part, &p);
    int64_t len = encode_all(c, part, &p, netbuf_payload(*b), cap, err);
    *head = (struct frame){.kind = FRAME_UPDATE,
                           .vectors = (uint8_t)c->n_vectors,
                           .version = c->version,
                           .client = job->client,
                           .samples = (uint32_t)job->samples,
                           .values = (uint32_t)n,
                           .loss = (float)job->loss};
    struct netbuf *whole = *b;
    if (len >= 0)
        find_messages(c, &p, netbuf_payload(whole), (size_t)len);
    if (len >= 0 && worth) {
        memcpy(netbuf_payload(whole) + len, c->worth, worth);
        p.bytes[0] += (int64_t)worth;
        len += (int64_t)worth;
    }
    if (len >= 0 && datagram_on(env->method, env->link))
        len = as_datagrams(c, part, &p, head, b, err);
    laps_end(&p.laps, env->rec, STAGE_ENCODE, CODEC_REST, (int32_t)job->client,
             (int64_t)(4 * n) * c->n_vectors, len);
    if (len < 0)
        return len;
    head->payload_bytes = (uint64_t)len;
    note_alloc(c, part);
    report_all(c, head, part, &p, norm);
    if (*b != whole)
        transport_unref(env->transport, whole);
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
    report_message(c, head, 0, (size_t)len, &report, NAN, NAN);
    return len;
}

static enum message_status status_of(int64_t rc)
{
    return rc >= 0 ? MESSAGE_OK : rc == CODEC_NONFINITE ? MESSAGE_NONFINITE : MESSAGE_CORRUPT;
}

enum message_status clients_say(struct clients *c, struct frame *head, struct netbuf **b,
                                struct err *err)
{
    const struct fed_env *env = c->env;
    const struct scheme_talk *talk = env->method->scheme->talk;
    size_t cap = talk->bound[0](env);
    *b = transport_buf(env->transport, cap);
    int64_t len = talk->say(env, c->job, netbuf_payload(*b), cap, &c->said_report, err);
    if (len <= 0) {
        transport_unref(env->transport, *b);
        *b = NULL;
        return status_of(len);
    }
    *head = (struct frame){.kind = FRAME_SAY,
                           .version = c->version,
                           .client = c->job->client,
                           .samples = (uint32_t)c->said.times,
                           .payload_bytes = (uint64_t)len};
    c->said.up_bytes += (int64_t)FRAME_HEADER_BYTES + len;
    return MESSAGE_OK;
}

enum message_status clients_hear(struct clients *c, const struct frame *head,
                                 const uint8_t *payload, struct err *err)
{
    const struct scheme_talk *talk = c->env->method->scheme->talk;
    c->said.times++;
    c->said.down_bytes += (int64_t)(FRAME_HEADER_BYTES + head->payload_bytes);
    return status_of(talk->hear(c->env, c->job, payload, head->payload_bytes, err));
}

// All that was said in the round, in one row behind those of the update's vectors.
static void report_said(struct clients *c, const struct frame *head, struct codec_report *said)
{
    said->parts.header += (int64_t)c->said.times * FRAME_HEADER_BYTES;
    report_message(c, head, c->n_vectors, (size_t)c->said.up_bytes, said, NAN, NAN);
}

static int write_slot(struct clients *c, int i, struct err *err)
{
    const struct client_task *t = &c->task[i];
    if (!c->state_floats)
        return 0;
    if (c->kept_floats)
        memcpy(c->state_next, c->state + (size_t)i * c->state_floats,
               c->kept_floats * sizeof *c->state_next);
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
    struct codec_report said = c->said_report;
    int64_t len =
        other ? encode_other(c, job, head, b, err) : encode(c, job, ready_ns, head, b, err);
    if (len < 0)
        return status_of(len);
    if (c->said.times > 0)
        report_said(c, head, &said);
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
