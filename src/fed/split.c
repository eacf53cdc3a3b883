#include "fed/split.h"

#include "base/mem.h"
#include "fed/global.h"

#include <math.h>
#include <string.h>

enum { VARINT_MAX = 5 }; // of 31 bits

int split_form_open(const struct fed_env *env, int32_t layer, const char *up,
                    struct split_form *form, struct err *err)
{
    split_forget(form);
    if (env->work->row->cut->open(env->work, layer, &form->cut, err))
        return -1;
    return act_codec_open(&form->up, up, form->cut.longest, form->cut.dim, err);
}

void split_forget(void *form)
{
    struct split_form *f = form;
    act_codec_close(&f->up);
    act_codec_close(&f->down);
}

size_t split_bound(const struct split_form *f, int32_t examples)
{
    size_t places = 2 * VARINT_MAX + (size_t)f->cut.longest * 3 * VARINT_MAX;
    return 1 + (size_t)examples * (places + f->up.bound);
}

struct codec_key split_key(const struct fed_env *env, uint32_t client, uint32_t round, int vector,
                           int64_t example)
{
    uint64_t stream = (uint64_t)vector << 56 | (uint64_t)example;
    return (struct codec_key){.seed = env->seed ^ stream, .client = client, .version = round};
}

int split_put(struct msg_out *o, const struct split_form *f, const struct codec_key *key,
              const struct cut_example *e, struct err *err)
{
    int full = msg_put_varint(o, PART_DIRECTORY, (uint64_t)e->rows) |
               msg_put_varint(o, PART_DIRECTORY, (uint64_t)e->labels);
    for (int32_t i = 0; i < e->rows; i++) {
        int32_t step = e->pos[i] - (i ? e->pos[i - 1] : 0);
        full |= msg_put_varint(o, PART_INDICES, (uint64_t)step) |
                msg_put_varint(o, PART_INDICES, (uint64_t)e->size[i]);
    }
    for (int32_t i = 0; i < e->labels; i++)
        full |= msg_put_varint(o, PART_TAGS, (uint64_t)e->label[i]);
    if (full)
        return msg_full(o, err);
    return act_put(o, &f->up, key, e->x, e->rows, err);
}

// A varint of low to high.
static int get_number(struct msg_in *m, int64_t low, int64_t high, int32_t *v, const char *what,
                      struct err *err)
{
    uint64_t u;
    if (msg_get_varint(m, &u))
        return msg_short(what, err);
    if (u > INT32_MAX || (int64_t)u < low || (int64_t)u > high)
        return msg_bad(what, "out of range", err);
    *v = (int32_t)u;
    return 0;
}

static int get_places(struct msg_in *m, const struct split_form *f, struct cut_example *e,
                      struct err *err)
{
    int32_t tokens = 0, at = 0, step;
    for (int32_t i = 0; i < e->rows; i++) {
        if (get_number(m, i ? 1 : 0, f->cut.longest - 1 - at, &step, "position", err) ||
            get_number(m, 1, f->cut.longest - tokens, &e->size[i], "size", err))
            return -1;
        e->pos[i] = at += step;
        tokens += e->size[i];
    }
    return 0;
}

int split_get(struct msg_in *m, const struct split_form *f, const struct codec_key *key,
              struct cut_example *e, struct err *err)
{
    if (get_number(m, 1, f->cut.longest, &e->rows, "number of rows", err) ||
        get_number(m, 1, e->rows, &e->labels, "number of labels", err) || get_places(m, f, e, err))
        return -1;
    for (int32_t i = 0; i < e->labels; i++)
        if (get_number(m, 0, f->cut.vocab - 1, &e->label[i], "label", err))
            return -1;
    return act_get(m, &f->up, key, e->x, e->rows, err);
}

// The scheme.

struct split_opt {
    int32_t cut;
};

static const struct opt split_options[] = {
    OPT(struct split_opt, cut, "cut", "1", 1, 4096, "layers", "that clients run and nobody trains"),
};

// What every scheme asks for that cuts between layers.
int split_check_cut(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    const struct fed_wrong wrong[] = {
        {!env->work->row->cut, "this task has no layers to cut between"},
        {m->tokens != token_table[0] && !m->tokens->merges,
         "the client computes no loss to choose tokens by; take ~tome or no tokens"},
        {m->tokens->merges && !m->token_opt.merge.protect,
         "labels travel whole; leave protect = on"},
    };
    return fed_refuse(wrong, ARRAY_LEN(wrong), err);
}

static int split_check(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    const struct split_opt *opt = m->scheme_opt;
    const struct fed_wrong wrong[] = {
        {fed_work_floats(env) > 0, "clients keep no state; take fed.opt_state = reset and "
                                   "fisher.persist = reset"},
    };
    if (split_check_cut(env, err) || fed_refuse_updates(env, err) ||
        fed_refuse(wrong, ARRAY_LEN(wrong), err))
        return -1;
    return split_form_open(env, opt->cut, m->codec->text, m->form, err);
}

// Layers are run as they are packed.
static void train_nothing(struct workload *w, struct train_job *jobs, int n, struct recorder *rec)
{
    (void)w;
    (void)jobs;
    (void)n;
    (void)rec;
}

struct packing {
    const struct fed_env *env;
    const struct train_job *job;
    struct msg_out out;
    int64_t n; // examples so far
};

static int pack_example(void *arg, struct cut_example *e, struct err *err)
{
    struct packing *p = arg;
    struct codec_key key = split_key(p->env, p->job->client, p->job->round, 1, p->n++);
    return split_put(&p->out, p->env->method->form, &key, e, err);
}

// The spans are laid end to end: the layers' work, then what writing took.
static int64_t split_pack(const struct fed_env *env, struct train_job *job, uint8_t *out,
                          size_t cap, struct codec_report *report, struct err *err)
{
    struct packing p = {.env = env, .job = job};
    int64_t t0 = clock_ns();
    msg_init(&p.out, out, cap, report);
    if (msg_put_header(&p.out, 0))
        return msg_full(&p.out, err);
    int rc = env->work->row->cut->below(env->work, job, (struct cut_end){pack_example, &p},
                                        env->rec, err);
    int64_t values = 0;
    for (int k = 0; k < RECORD_WIDTHS; k++)
        values += report->kept[k];
    recorder_put(env->rec, STAGE_ENCODE, (int32_t)job->client, t0 + job->dur_ns,
                 clock_ns() - t0 - job->dur_ns, -1, values * (int64_t)sizeof(float),
                 msg_len(&p.out), 0);
    return rc ? rc : msg_len(&p.out);
}

static size_t scheme_bound(const struct fed_env *env)
{
    const struct split_form *f = env->method->form;
    return split_bound(f, f->cut.examples);
}

struct unpacking {
    const struct fed_env *env;
    const struct train_job *job;
    struct msg_in in;
    int64_t n, spent_ns; // n: examples so far
};

static int unpack_example(void *arg, struct cut_example *e, struct err *err)
{
    struct unpacking *u = arg;
    int64_t t = clock_ns();
    struct codec_key key = split_key(u->env, u->job->client, u->job->round, 1, u->n++);
    int rc = split_get(&u->in, u->env->method->form, &key, e, err);
    u->spent_ns += clock_ns() - t;
    return rc;
}

static int split_open(struct global *g, struct err *err)
{
    (void)err;
    g->own = mem_alloc(MEM_SERVER, g->n * sizeof(float));
    return 0;
}

static void split_close(struct global *g)
{
    mem_free(g->own);
}

// As the client would train above the cut, from the round's adapter and a fresh optimizer.
static int train_above(struct global *g, struct train_job *job, const struct update *u,
                       struct err *err)
{
    const struct fed_env *env = g->env;
    struct unpacking in = {.env = env, .job = job};
    int32_t client = (int32_t)job->client;
    int64_t t0 = clock_ns();
    int rc = msg_open_plain(&in.in, u->bytes, u->len, err);
    if (rc == 0)
        rc = env->work->row->cut->above(env->work, job, (struct cut_end){unpack_example, &in},
                                        env->rec, err);
    if (rc == 0)
        rc = msg_end(&in.in, err);
    if (rc == 0 && !isfinite(job->loss))
        rc = msg_nonfinite(err);
    recorder_put(env->rec, STAGE_DECODE, client, t0, in.spent_ns, -1, (int64_t)u->len, 0, 0);
    recorder_put(env->rec, STAGE_TRAIN, client, t0 + in.spent_ns, clock_ns() - t0 - in.spent_ns, -1,
                 0, 0, 0);
    return rc;
}

static int split_add(struct global *g, struct update *u, struct err *err)
{
    float *trained = g->own;
    struct train_job job = {.client = u->client,
                            .round = u->version,
                            .steps = g->env->fed->local_steps,
                            .theta = g->theta,
                            .delta = trained};
    int rc = train_above(g, &job, u, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < g->n; i++)
        g->sum[0][i] += u->weight * trained[i];
    g->part[0].weight += (double)u->weight;
    u->loss = (double)(float)job.loss;
    return 0;
}

const struct scheme scheme_split = {
    .name = "split",
    .help = "clients send activations at a cut, and labels; the server trains the layers above it "
            "for each client in turn, then takes the mean as fedavg does",
    .source = "Fed-ToMe's tome-act: split learning (Vepakomma et al. 2018) with nothing trained "
              "below the cut; the codec says how activations are written",
    .sees = "activations, labels",
    .options = split_options,
    .n_options = ARRAY_LEN(split_options),
    .option_bytes = sizeof(struct split_opt),
    .form_bytes = sizeof(struct split_form),
    .server = &server_sync,
    .worker = &worker_sync,
    .check = split_check,
    .forget = split_forget,
    .forward = true,
    .train = train_nothing,
    .pack = split_pack,
    .bound = scheme_bound,
    .silent = true,
    .open = split_open,
    .close = split_close,
    .add = split_add,
    .commit = scheme_mean,
};
