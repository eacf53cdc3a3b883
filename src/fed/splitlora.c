// Split learning in both directions: a client trains the layers below a cut, the server those
// above, a batch at a time. Activations go up, and their gradients come down; at the end of the
// round the client sends what it has learned below, as any update is sent. The server keeps a copy
// of its half for each client of the round and takes the mean of both halves, so that with fp32 all
// the way a round is one of fedavg's to the bit.
#include "fed/split.h"

#include "base/mem.h"
#include "fed/global.h"
#include "fed/policy.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct splitlora_opt {
    int32_t cut;
};

static const struct opt options[] = {
    OPT(struct splitlora_opt, cut, "cut", "1", 1, 4096, "layers",
        "that clients run and train; the server has the others"),
};

static void view_below(const void *opt, char *out, size_t size)
{
    snprintf(out, size, "low:layers=%d", ((const struct splitlora_opt *)opt)->cut);
}

static int check(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    const struct splitlora_opt *opt = m->scheme_opt;
    struct split_form *form = m->form;
    const struct fed_wrong wrong[] = {
        {env->fed->local_steps_min > 0,
         "all clients send as many batches; leave fed.local_steps_min = 0"},
        {fed_work_floats(env) > 0, "the server's half keeps nothing of a client; take "
                                   "fed.opt_state = reset and fisher.persist = reset"},
        {env->work->env.fisher->scores > 0,
         "the client has no loss of its own to score tokens by; set fisher.scores = 0"},
        {env->work->env.fisher->accumulate == FISHER_ORACLE,
         "the client has no loss of its own; take another fisher.accumulate than oracle"},
        {env->client->dp_clip > 0, "client.dp_clip bounds updates, and activations tell more; set "
                                   "it to 0"},
        {env->fed->late_weight > 0,
         "the server's half of a late update is gone; set fed.late_weight = 0"},
        {env->net->link.delivery == LINK_DATAGRAM,
         "a client waits for each answer; set net.delivery = reliable"},
    };
    if (split_check_cut(env, err) || fed_refuse(wrong, ARRAY_LEN(wrong), err))
        return -1;
    if (split_form_open(env, opt->cut, m->said[0], form, err))
        return -1;
    return act_codec_open(&form->down, m->said[1], form->cut.longest, form->cut.dim, err);
}

static size_t bound_up(const struct fed_env *env)
{
    const struct split_form *f = env->method->form;
    return split_bound(f, f->cut.batch);
}

static size_t bound_down(const struct fed_env *env)
{
    const struct split_form *f = env->method->form;
    return 1 + (size_t)f->cut.batch * f->down.bound;
}

// One message being written or read, of step `step` of a client's round.
struct passage {
    const struct fed_env *env;
    uint32_t client, round;
    struct msg_out out;
    struct msg_in in;
    int64_t up, down; // examples of the round that went up, and came down
    int64_t coding_ns;
};

static struct passage passage_of(const struct fed_env *env, uint32_t client, uint32_t round,
                                 int32_t step)
{
    const struct split_form *f = env->method->form;
    int64_t before = (int64_t)step * f->cut.batch;
    return (struct passage){
        .env = env, .client = client, .round = round, .up = before, .down = before};
}

static int put_up(void *arg, struct cut_example *e, struct err *err)
{
    struct passage *p = arg;
    int64_t t = clock_ns();
    struct codec_key key = split_key(p->env, p->client, p->round, 1, p->up++);
    int rc = split_put(&p->out, p->env->method->form, &key, e, err);
    p->coding_ns += clock_ns() - t;
    return rc;
}

static int get_up(void *arg, struct cut_example *e, struct err *err)
{
    struct passage *p = arg;
    int64_t t = clock_ns();
    struct codec_key key = split_key(p->env, p->client, p->round, 1, p->up++);
    int rc = split_get(&p->in, p->env->method->form, &key, e, err);
    p->coding_ns += clock_ns() - t;
    return rc;
}

static int put_down(void *arg, struct cut_example *e, struct err *err)
{
    struct passage *p = arg;
    const struct split_form *f = p->env->method->form;
    int64_t t = clock_ns();
    struct codec_key key = split_key(p->env, p->client, p->round, 2, p->down++);
    int rc = act_put(&p->out, &f->down, &key, e->x, e->rows, err);
    p->coding_ns += clock_ns() - t;
    return rc;
}

static int get_down(void *arg, struct cut_example *e, struct err *err)
{
    struct passage *p = arg;
    const struct split_form *f = p->env->method->form;
    int64_t t = clock_ns();
    struct codec_key key = split_key(p->env, p->client, p->round, 2, p->down++);
    int rc = act_get(&p->in, &f->down, &key, e->x, e->rows, err);
    p->coding_ns += clock_ns() - t;
    return rc;
}

static void note_coding(const struct passage *p, enum stage stage, size_t in, size_t out)
{
    recorder_put(p->env->rec, stage, (int32_t)p->client, clock_ns() - p->coding_ns, p->coding_ns,
                 -1, (int64_t)in, (int64_t)out, 0);
}

// The client.

static void begin(struct workload *w, struct train_job *jobs, int n, struct recorder *rec)
{
    (void)n; // one at a time, for it waits for answers
    (void)rec;
    w->row->cut->begin(w, jobs->talker, jobs);
}

static void *open_side(const struct fed_env *env)
{
    return env->work->row->cut->side_open(env->work);
}

static void close_side(const struct fed_env *env, void *talker)
{
    env->work->row->cut->side_close(talker);
}

static int64_t say(const struct fed_env *env, struct train_job *job, uint8_t *out, size_t cap,
                   struct codec_report *report, struct err *err)
{
    const struct cut_work *cut = env->work->row->cut;
    struct passage p = passage_of(env, job->client, job->round, job->said);
    if (job->said == job->steps) {
        cut->end(env->work, job->talker, job, env->rec);
        return 0;
    }
    msg_init(&p.out, out, cap, report);
    if (msg_put_header(&p.out, 0))
        return msg_full(&p.out, err);
    int rc = cut->forward(env->work, job->talker, job, (struct cut_end){put_up, &p}, env->rec, err);
    note_coding(&p, STAGE_ENCODE, 0, (size_t)msg_len(&p.out));
    return rc ? rc : msg_len(&p.out);
}

static int hear(const struct fed_env *env, struct train_job *job, const uint8_t *in, size_t len,
                struct err *err)
{
    struct passage p = passage_of(env, job->client, job->round, job->said++);
    int rc = msg_open_plain(&p.in, in, len, err);
    if (rc == 0)
        rc = env->work->row->cut->backward(env->work, job->talker, job,
                                           (struct cut_end){get_down, &p}, env->rec, err);
    note_coding(&p, STAGE_DECODE, len, 0);
    return rc ? rc : msg_end(&p.in, err);
}

// The server.

struct upper_half {
    struct shape_range range; // of the adapter's values that the server trains
    struct cut_trainee *one;  // (policy_sampled) clients of the round, as they came
    int n;
    float *sum; // (n) weighted, later the mean; nothing outside the range
    double weight, lr;
};

static int open_half(struct global *g, struct err *err)
{
    const struct fed_env *env = g->env;
    struct upper_half *u = g->own = mem_alloc(MEM_SERVER, sizeof *u);
    size_t n = (size_t)policy_sampled(env->fed);
    size_t moments = env->work->row->state_floats(env->work);
    (void)err;
    u->range = env->work->row->cut->range(env->work);
    u->sum = mem_alloc(MEM_SERVER, g->n * sizeof *u->sum);
    u->one = mem_alloc(MEM_SERVER, n * sizeof *u->one);
    for (size_t i = 0; i < n; i++) {
        u->one[i].adapter = mem_alloc(MEM_SERVER, g->n * sizeof(float));
        u->one[i].moments = mem_alloc(MEM_SERVER, moments * sizeof(float));
    }
    return 0;
}

static void close_half(struct global *g)
{
    struct upper_half *u = g->own;
    for (int32_t i = 0; i < policy_sampled(g->env->fed); i++) {
        mem_free(u->one[i].adapter);
        mem_free(u->one[i].moments);
    }
    mem_free(u->one);
    mem_free(u->sum);
    mem_free(u);
}

static void begin_half(struct global *g)
{
    struct upper_half *u = g->own;
    u->n = 0;
    u->weight = 0;
    memset(u->sum, 0, g->n * sizeof *u->sum);
}

static struct cut_trainee *find(struct upper_half *u, uint32_t client)
{
    for (int i = 0; i < u->n; i++)
        if (u->one[i].client == client)
            return &u->one[i];
    return NULL;
}

// From the version, with a fresh optimizer.
static struct cut_trainee *add_trainee(struct global *g, uint32_t client)
{
    struct upper_half *u = g->own;
    size_t moments = g->env->work->row->state_floats(g->env->work);
    struct cut_trainee *t = &u->one[u->n++];
    t->client = client;
    t->steps = 0;
    t->loss = 0;
    memcpy(t->adapter, g->theta, g->n * sizeof *t->adapter);
    memset(t->moments, 0, moments * sizeof *t->moments);
    return t;
}

static int64_t answer(struct global *g, uint32_t client, const uint8_t *in, size_t len,
                      uint8_t *out, size_t cap, struct codec_report *report, struct err *err)
{
    struct upper_half *u = g->own;
    const struct fed_env *env = g->env;
    struct cut_trainee *t = find(u, client);
    if (!t && u->n < policy_sampled(env->fed))
        t = add_trainee(g, client);
    if (!t || t->steps == env->fed->local_steps)
        return err_set(err, "its batches are more than %d", env->fed->local_steps);
    struct passage p = passage_of(env, client, (uint32_t)env->rec->version, t->steps);
    int64_t t0 = clock_ns();
    msg_init(&p.out, out, cap, report);
    int rc = msg_open_plain(&p.in, in, len, err);
    if (rc == 0 && msg_put_header(&p.out, 0))
        return msg_full(&p.out, err);
    if (rc == 0)
        rc = env->work->row->cut->step(env->work, t, (struct cut_end){get_up, &p},
                                       (struct cut_end){put_down, &p}, env->rec, err);
    if (rc == 0)
        rc = msg_end(&p.in, err);
    if (rc == 0 && !isfinite(t->loss))
        rc = msg_nonfinite(err);
    note_coding(&p, STAGE_DECODE, len, (size_t)msg_len(&p.out));
    recorder_put(env->rec, STAGE_TRAIN, (int32_t)client, t0, clock_ns() - t0 - p.coding_ns, -1, 0,
                 0, EVENT_SUMMED);
    return rc ? rc : msg_len(&p.out);
}

static int add(struct global *g, struct update *up, struct err *err)
{
    struct upper_half *u = g->own;
    const struct cut_trainee *t = find(u, up->client);
    if (!t || t->steps != g->env->fed->local_steps)
        return err_set(err, "%d of its %d batches came", t ? t->steps : 0,
                       g->env->fed->local_steps);
    int rc = global_add_update(g, up, err);
    if (rc)
        return rc;
    float weight = up->weight * up->scale;
    for (size_t i = u->range.from; i < u->range.to; i++)
        u->sum[i] += weight * (t->adapter[i] - g->theta[i]);
    u->weight += (double)up->weight;
    up->loss = (double)(float)(t->loss / t->steps);
    return 0;
}

static bool mean(struct global *g, double lr)
{
    struct upper_half *u = g->own;
    float inverse = (float)(1.0 / u->weight);
    for (size_t i = u->range.from; i < u->range.to; i++)
        u->sum[i] *= inverse;
    u->lr = lr;
    return global_finite(u->sum, g->n);
}

// The other half of the commit.
static void after(struct global *g, uint32_t version)
{
    struct upper_half *u = g->own;
    struct step step = {.theta = g->theta, .delta = u->sum, .range = u->range, .lr = u->lr};
    (void)version;
    scheme_mean(NULL, &step);
}

static const struct scheme_talk talk = {
    .what = {"activations", "gradients"},
    .bound = {bound_up, bound_down},
    .open = open_side,
    .close = close_side,
    .say = say,
    .hear = hear,
    .answer = answer,
};

const struct scheme scheme_splitlora = {
    .name = "splitlora",
    .help = "clients train the layers below a cut, the server a copy of those above for each of "
            "them: a batch's activations go up, their gradients come down; means as fedavg's. "
            "Codecs: UPDATE;ACTIVATIONS;GRADIENTS. Each side clips by the norm of its own half",
    .source = "Lin et al. 2024 (SplitLoRA), with SplitFed's copy per client (Thapa et al. 2022)",
    .sees = "activations, labels, half an update",
    .options = options,
    .n_options = ARRAY_LEN(options),
    .option_bytes = sizeof(struct splitlora_opt),
    .form_bytes = sizeof(struct split_form),
    .server = &server_sync,
    .worker = &worker_sync,
    .forward = true, // room for the way back below the cut is made by the first
    .check = check,
    .forget = split_forget,
    .view = view_below,
    .train = begin,
    .talk = &talk,
    .open = open_half,
    .close = close_half,
    .begin = begin_half,
    .add = add,
    .mean = mean,
    .commit = scheme_mean,
    .after = after,
};
