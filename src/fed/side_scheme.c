#include "fed/side_plan.h"

#include "base/mem.h"
#include "base/rng.h"
#include "fed/global.h"
#include "fed/policy.h"
#include "fed/side_cache.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

// Three switches, cache_bytes, pivot and labels, lead from one row to the other.
struct side_opt {
    int32_t rank, every;
    double lr, cache_bytes;
    bool pivot, labels;
    int32_t layers, width, replay, cap;
};

// clang-format off
#define SIDE_OPTIONS(PIVOT, LABELS, CACHE)                                                         \
    OPT(struct side_opt, pivot, "pivot", PIVOT, 0, 0, "",                                          \
        "of each example only the rows that have a loss travel; off = all rows"),                  \
    OPT(struct side_opt, labels, "labels", LABELS, 0, 0, "",                                       \
        "labels travel, and the server learns by cross-entropy; off = prediction differences "     \
        "travel, 1 at the label less what the frozen model says, learned by squares"),             \
    OPT(struct side_opt, cache_bytes, "cache_bytes", CACHE, 0, 1e15, "bytes",                      \
        "the server keeps what has come up to so many, and asks for an example once; 0 = off"),    \
    OPT(struct side_opt, every, "every", "1", 1, MODEL_LAYERS_MAX, "layers",                       \
        "the last of every so many layers is read, the model's last among them"),                  \
    OPT(struct side_opt, rank, "rank", "16", 1, 65536, "", "of the side network's adapters"),      \
    OPT(struct side_opt, lr, "lr", "1e-3", 0, 1e3, "",                                             \
        "of the server's AdamW; the rest of it is [optim]'s")
// clang-format on

static const struct opt mobillm_options[] = {SIDE_OPTIONS("off", "on", "0")};
static const struct opt fed_options_of_side[] = {
    SIDE_OPTIONS("on", "off", "1e8"),
    OPT(struct side_opt, layers, "layers", "0", 0, MODEL_LAYERS_MAX, "",
        "that are read, at even distances; 0 = as every says"),
    OPT(struct side_opt, width, "width", "0", 0, 65536, "",
        "of the side network, to which activations are projected; 0 = the backbone's, as they are"),
    OPT(struct side_opt, replay, "replay", "4", 0, 1e6, "",
        "steps that the server takes after each upload on examples of before; 0 = one pass is all"),
    OPT(struct side_opt, cap, "cap", "8", 0, 1e6, "", "times that an example is replayed, at most"),
};
static const struct opt pae_options[] = {SIDE_OPTIONS("on", "off", "1e8")};

int32_t side_chunk(const struct side_plan *p, uint32_t held, uint32_t from)
{
    uint32_t left = held - from % held, most = (uint32_t)p->form.examples;
    return (int32_t)(left < most ? left : most);
}

void side_order(uint64_t seed, uint32_t client, uint32_t epoch, uint32_t held, uint32_t *order)
{
    struct rng r = rng_stream(seed, RNG_SIDE, client, epoch, 0);
    for (uint32_t i = 0; i < held; i++)
        order[i] = i;
    rng_shuffle(&r, order, held);
}

// Before a run.

static int check_plain(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    const struct side_opt *opt = m->scheme_opt;
    const struct {
        bool is;
        const char *why;
    } wrong[] = {
        {!env->work->row->side, "this task has no layers to read"},
        {env->fed->local_steps_min > 0,
         "all clients send as many batches; leave fed.local_steps_min = 0"},
        {!m->view.whole, "activations have no view; leave it out"},
        {m->tokens != token_table[0], "the client computes no loss to choose tokens by; leave "
                                      "tokens out"},
        {fed_state_floats(env) > 0, "clients keep no state; take fed.opt_state = reset and "
                                    "fisher.persist = reset"},
        {env->client->dp_clip > 0, "client.dp_clip bounds updates, and clients send none; set it "
                                   "to 0"},
        {env->fed->average != FED_AVERAGE_NONE, "nothing of the adapter moves; take fed.average = "
                                                "none"},
        {env->fed->relays > 0, "relays add up updates, and clients send none; set fed.relays to 0"},
        {fed_down_coded(env), "nothing travels down; leave fed.downlink empty"},
        {opt->cache_bytes > 0 && !policy_waits(env->fed),
         "a round with a cache waits for all whom it asks: leave out fed.deadline_s, fed.quorum, "
         "fed.overcommit and fed.min_completion, or set cache_bytes to 0"},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        if (wrong[i].is)
            return err_set(err, "scheme %s: %s", m->scheme->name, wrong[i].why);
    return 0;
}

// The last layer of every `every`, counted from the top; or that of each of M blocks of about as
// many, I(j) = round(j L / M).
static int choose_layers(struct side_plan *p, const struct side_opt *opt, int32_t layers,
                         struct err *err)
{
    int32_t every = opt->every, m = opt->layers;
    p->form.layers = 0;
    if (every > layers || m > layers)
        return err_set(err, "%s = %d, but the model has %d layers", m > layers ? "layers" : "every",
                       m > layers ? m : every, layers);
    for (int32_t j = 1; j <= m; j++)
        p->layer[p->form.layers++] = (2 * j * layers + m) / (2 * m) - 1;
    if (m > 0)
        return 0;
    for (int32_t l = (layers - 1) % every; l < layers; l += every)
        p->layer[p->form.layers++] = l;
    return 0;
}

static int side_check_run(const struct fed_env *env, struct err *err)
{
    const struct side_opt *opt = env->method->scheme_opt;
    struct side_plan *p = env->method->form;
    if (check_plain(env, err))
        return -1;
    *p = (struct side_plan){.batch = env->fed->batch};
    p->form.pivot = opt->pivot;
    p->form.labels = opt->labels;
    p->form.examples = env->fed->local_steps * env->fed->batch;
    if (choose_layers(p, opt, env->work->row->side->layers(env->work), err))
        return -1;
    env->work->row->side->open(env->work, p);
    return side_measure(&p->form, env->method->codec->text, err);
}

static size_t scheme_bound(const struct fed_env *env)
{
    return side_bound(&((const struct side_plan *)env->method->form)->form);
}

// The client. Layers are run as they are packed.

static void train_nothing(struct workload *w, struct train_job *jobs, int n, struct recorder *rec)
{
    (void)w;
    (void)jobs;
    (void)n;
    (void)rec;
}

struct packing {
    struct side_coder coder;
    struct msg_out out;
    bool begun;
};

static int pack_example(void *arg, const struct side_head *h, const struct side_example *e,
                        const int32_t *label, struct err *err)
{
    struct packing *p = arg;
    if (!p->begun && side_put_head(&p->out, h, err))
        return -1;
    p->begun = true;
    return side_put(&p->out, &p->coder, e, label, err);
}

// The spans are laid end to end: the layers' work, then what coding took.
static int64_t side_pack(const struct fed_env *env, struct train_job *job, uint8_t *out, size_t cap,
                         struct codec_report *report, struct err *err)
{
    const struct side_plan *plan = env->method->form;
    struct packing p = {.begun = false};
    if (side_coder_open(&p.coder, &plan->form, env->method->codec->text, env->seed, err))
        return -1;
    int64_t t0 = clock_ns();
    msg_init(&p.out, out, cap, report);
    int rc = env->work->row->side->examples(env->work, plan, job,
                                            (struct side_end){pack_example, &p}, env->rec, err);
    recorder_put(env->rec, STAGE_ENCODE, (int32_t)job->client, t0 + job->dur_ns,
                 clock_ns() - t0 - job->dur_ns, -1, 0, msg_len(&p.out), 0);
    side_coder_close(&p.coder);
    return rc ? rc : msg_len(&p.out);
}

// The server.

enum { HELD_MAX = 1 << 24 };

struct side_client {
    uint32_t held, next; // examples, 0 = not known yet; place of the next
};

struct record {
    const uint8_t *bytes;
    size_t len;
};

struct side_server {
    struct dev dev;
    struct side *net;
    struct side_coder coder;
    struct side_cache *cache;   // NULL = off
    struct side_client *client; // (fed.clients)
    struct replay {             // what has come, in the order in which it is gone through again
        uint64_t *id;           // (n)
        size_t n, cap, at;
        int32_t passes; // done
    } replay;
    struct record *record; // (form.examples) of the message at work
    uint32_t *order;       // of an epoch
    size_t order_cap;
    float *one, *target; // of one example; (batch x scored, classes)
    int32_t *label, *row;
    struct optim_params optim;
    int64_t decode_ns;
};

static void server_close(struct global *g)
{
    struct side_server *s = g->own;
    side_close(s->net);
    side_coder_close(&s->coder);
    side_cache_close(s->cache);
    void *blocks[] = {s->client, s->record, s->order, s->one,
                      s->target, s->label,  s->row,   s->replay.id};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
    if (s->dev.row)
        dev_close(&s->dev);
    mem_free(s);
}

// An example of one row, with nothing but its values.
static size_t least_record(const struct side_form *f)
{
    return 16 + side_floats(f, 1, 1) / 16;
}

static int server_open(struct global *g, struct err *err)
{
    const struct fed_env *env = g->env;
    const struct side_opt *opt = env->method->scheme_opt;
    const struct side_plan *p = env->method->form;
    const struct side_form *f = &p->form;
    struct side_server *s = g->own = mem_alloc(MEM_SERVER, sizeof *s);
    struct side_config c = {.layers = f->layers,
                            .width = opt->width > 0 ? opt->width : f->dim,
                            .project = opt->width > 0,
                            .rank = opt->rank,
                            .classes = f->classes,
                            .types = 1,
                            .dim = {f->dim}};
    size_t tops = (size_t)p->batch * (size_t)f->scored;
    if (side_check(&c, err) || dev_open(&s->dev, 0, 1, err) ||
        side_coder_open(&s->coder, f, env->method->codec->text, env->seed, err))
        return -1;
    if (opt->cache_bytes > 0 && mem_fits(opt->cache_bytes, "cache_bytes", err))
        return -1;
    s->net = side_open(&s->dev, &c);
    side_init(s->net, env->seed);
    s->cache =
        opt->cache_bytes > 0 ? side_cache_open((size_t)opt->cache_bytes, least_record(f)) : NULL;
    s->client = mem_alloc(MEM_SERVER, (size_t)env->fed->clients * sizeof *s->client);
    s->record = mem_alloc(MEM_SERVER, (size_t)f->examples * sizeof *s->record);
    s->one = mem_alloc(MEM_SERVER, side_floats(f, f->rows, f->scored) * sizeof *s->one);
    s->target =
        f->labels ? NULL : mem_alloc(MEM_SERVER, tops * (size_t)f->classes * sizeof *s->target);
    s->label = mem_alloc(MEM_SERVER, (tops + (size_t)f->scored) * sizeof *s->label);
    s->row = mem_alloc(MEM_SERVER, tops * sizeof *s->row);
    s->optim = *env->work->env.optim;
    s->optim.kind = OPTIM_ADAMW;
    s->optim.lr = opt->lr;
    return 0;
}

// The places of the client's next examples, in the order of their epoch; 0 = nothing is known.
static int32_t next_places(struct global *g, uint32_t client, const uint32_t **places)
{
    struct side_server *s = g->own;
    const struct side_plan *p = g->env->method->form;
    const struct side_client *c = &s->client[client];
    if (c->held == 0)
        return 0;
    s->order = mem_grow(MEM_SERVER, s->order, 0, c->held, &s->order_cap, sizeof *s->order);
    side_order(g->env->seed, client, c->next / c->held, c->held, s->order);
    *places = s->order + c->next % c->held;
    return side_chunk(p, c->held, c->next);
}

static bool side_ask(struct global *g, uint32_t client, uint32_t *what)
{
    const struct side_server *s = g->own;
    const uint32_t *places;
    int32_t n = s->cache ? next_places(g, client, &places) : 0;
    *what = s->client[client].next;
    for (int32_t i = 0; i < n; i++)
        if (!side_cache_has(s->cache, side_id(g->env->seed, client, places[i])))
            return true;
    *what = n > 0 ? (uint32_t)n : *what;
    return n == 0;
}

// A whole message, before anything of it is believed: the examples that were asked for, in their
// order, each of which can be decoded.
static int read_message(struct global *g, const struct update *u, struct side_head *h,
                        struct err *err)
{
    struct side_server *s = g->own;
    const struct side_plan *p = g->env->method->form;
    struct side_client *c = &s->client[u->client], was = *c;
    struct side_example e = {.x = s->one};
    struct side_values values;
    struct msg_in in;
    const uint32_t *places = NULL;
    if (msg_open_plain(&in, u->bytes, u->len, err) || side_get_head(&in, &p->form, h, err))
        return -1;
    if (h->from != c->next || (c->held && h->held != c->held) ||
        h->count != (uint32_t)side_chunk(p, h->held, h->from))
        return err_set(err,
                       "it holds %u examples from place %u on of %u, and others were asked for",
                       h->count, h->from, h->held);
    if (h->held > HELD_MAX)
        return err_set(err, "it says of %u examples, more than can be", h->held);
    c->held = h->held;
    next_places(g, u->client, &places);
    *c = was;
    for (uint32_t i = 0; i < h->count; i++) {
        struct record *r = &s->record[i];
        r->bytes = in.p;
        int rc = side_get(&in, &p->form, &e, s->label, &values, err);
        if (rc == 0 && e.id != side_id(g->env->seed, u->client, places[i]))
            rc = err_set(err, "example %u of it is another than was asked for", i);
        int64_t t = clock_ns();
        rc = rc ? rc : side_decode(&s->coder, &e, &values, err);
        s->decode_ns += clock_ns() - t;
        if (rc)
            return rc;
        r->len = (size_t)(in.p - r->bytes);
    }
    return msg_end(&in, err);
}

// The same from the cache; records that have gone meanwhile are left out. Returns how many are
// left.
static uint32_t read_cache(struct global *g, uint32_t client, struct side_head *h)
{
    struct side_server *s = g->own;
    const uint32_t *places;
    uint32_t n = 0;
    h->count = (uint32_t)next_places(g, client, &places);
    h->held = s->client[client].held;
    for (uint32_t i = 0; i < h->count; i++) {
        struct record *r = &s->record[n];
        r->bytes = side_cache_get(s->cache, side_id(g->env->seed, client, places[i]), &r->len);
        n += r->bytes != NULL;
    }
    return n;
}

// Reads the records of a step into the network's input: layers one after another, in each the rows
// of all examples. Records were checked when they came.
struct stepping {
    struct side_server *s;
    const struct side_form *form;
    struct side_batch batch;
};

static void read_sizes(struct stepping *t, const struct record *r, uint32_t n)
{
    t->batch = (struct side_batch){.row = t->s->row};
    for (uint32_t i = 0; i < n; i++) {
        struct msg_in in = {.p = r[i].bytes, .end = r[i].bytes + r[i].len};
        struct side_example e;
        struct side_values values;
        struct err err;
        side_get(&in, t->form, &e, t->s->label + t->batch.scored, &values, &err);
        for (int32_t k = 0; k < e.scored; k++)
            t->s->row[t->batch.scored++] = t->batch.rows + e.rows - e.scored + k;
        t->batch.rows += e.rows;
    }
}

static void read_values(struct stepping *t, const struct record *r, uint32_t n)
{
    struct side_server *s = t->s;
    const struct side_form *f = t->form;
    const size_t dim = (size_t)f->dim, classes = (size_t)f->classes;
    ptrdiff_t wide = side_stride(s->net, 0);
    int32_t row = 0, top = 0;
    side_input(s->net, &t->batch, 0);
    for (uint32_t i = 0; i < n; i++) {
        struct msg_in in = {.p = r[i].bytes, .end = r[i].bytes + r[i].len};
        struct side_example e = {.x = s->one};
        struct side_values values;
        struct err err;
        int32_t *label = s->label + t->batch.scored;
        side_get(&in, f, &e, label, &values, &err);
        side_decode(&s->coder, &e, &values, &err);
        for (int32_t l = 0; l < f->layers; l++) {
            float *to = side_input(s->net, &t->batch, l) + row * wide;
            const float *x = e.x + (size_t)l * (size_t)e.rows * dim;
            for (int32_t k = 0; k < e.rows; k++)
                memcpy(to + k * wide, x + (size_t)k * dim, dim * sizeof *to);
        }
        if (!f->labels)
            memcpy(s->target + (size_t)top * classes, e.x + side_floats(f, e.rows, 0),
                   (size_t)e.scored * classes * sizeof *s->target);
        row += e.rows;
        top += e.scored;
    }
}

static double step(struct global *g, const struct record *r, uint32_t n)
{
    struct side_server *s = g->own;
    const struct side_plan *p = g->env->method->form;
    struct stepping t = {.s = s, .form = &p->form};
    int64_t t0 = clock_ns();
    read_sizes(&t, r, n);
    read_values(&t, r, n);
    s->decode_ns += clock_ns() - t0;
    struct side_answer a = {.loss = p->form.labels ? SIDE_CE : SIDE_L2,
                            .target = p->form.labels ? NULL : s->target,
                            .label = s->label};
    return side_step(s->net, &t.batch, &a, &s->optim);
}

// A new example takes a place at random among those still to come in this pass, whose own goes to
// the end: uploads of one client do not stay together.
static void mix_in(struct global *g, uint64_t id)
{
    struct replay *r = &((struct side_server *)g->own)->replay;
    struct rng draw = rng_stream(g->env->seed, RNG_SIDE, UINT32_MAX, (uint32_t)r->n, 0);
    r->id = mem_grow(MEM_SERVER, r->id, r->n, r->n + 1, &r->cap, sizeof *r->id);
    size_t to = r->at + rng_below(&draw, (uint32_t)(r->n - r->at + 1));
    r->id[r->n++] = id;
    r->id[r->n - 1] = r->id[to];
    r->id[to] = id;
}

// The next examples of a pass that are still there; after a pass all are shuffled.
static uint32_t next_replayed(struct global *g, const struct side_opt *opt, uint32_t want)
{
    struct side_server *s = g->own;
    struct replay *r = &s->replay;
    uint32_t n = 0;
    while (n < want && r->passes < opt->cap && r->n > 0) {
        struct record *to = &s->record[n];
        to->bytes = side_cache_get(s->cache, r->id[r->at++], &to->len);
        n += to->bytes != NULL;
        if (r->at < r->n)
            continue;
        struct rng draw = rng_stream(g->env->seed, RNG_SIDE, UINT32_MAX, (uint32_t)r->passes, 1);
        for (size_t i = r->n; i > 1; i--) {
            size_t j = rng_below(&draw, (uint32_t)i);
            uint64_t id = r->id[i - 1];
            r->id[i - 1] = r->id[j];
            r->id[j] = id;
        }
        r->at = 0;
        r->passes++;
        if (n > 0)
            break; // a step is of one pass
    }
    return n;
}

static bool side_replay(struct global *g, uint32_t version, double *loss)
{
    struct side_server *s = g->own;
    const struct side_opt *opt = g->env->method->scheme_opt;
    const struct side_plan *p = g->env->method->form;
    int64_t t0 = clock_ns();
    double sum = 0;
    int32_t steps = 0;
    (void)version;
    s->decode_ns = 0;
    for (int32_t i = 0; s->cache && i < opt->replay; i++) {
        uint32_t n = next_replayed(g, opt, (uint32_t)p->batch);
        double l = n > 0 ? step(g, s->record, n) : NAN;
        sum += isfinite(l) ? l : 0;
        steps += isfinite(l);
    }
    recorder_put(g->env->rec, STAGE_TRAIN, -1, t0, clock_ns() - t0, -1, 0, 0, 0);
    *loss = steps > 0 ? sum / steps : NAN;
    return steps > 0;
}

static void keep_records(struct global *g, uint32_t client, const struct side_head *h)
{
    struct side_server *s = g->own;
    const struct side_opt *opt = g->env->method->scheme_opt;
    bool again = s->client[client].next >= h->held; // its examples are among those replayed
    for (uint32_t i = 0; s->cache && opt->replay > 0 && !again && i < h->count; i++)
        mix_in(g, get_u64(s->record[i].bytes));
    for (uint32_t i = 0; s->cache && i < h->count; i++)
        side_cache_put(s->cache, get_u64(s->record[i].bytes), s->record[i].bytes, s->record[i].len);
    s->client[client].held = h->held;
}

// One step a batch, in the order of the epoch.
static int side_add(struct global *g, struct update *u, struct err *err)
{
    struct side_server *s = g->own;
    const struct side_plan *p = g->env->method->form;
    struct side_head h = {0};
    uint32_t n, learned = 0;
    int64_t t0 = clock_ns();
    double loss = 0;
    s->decode_ns = 0;
    if (u->bytes) {
        int rc = read_message(g, u, &h, err);
        if (rc)
            return rc;
        keep_records(g, u->client, &h);
        n = h.count;
    } else {
        n = read_cache(g, u->client, &h);
    }
    for (uint32_t at = 0; at < n; at += (uint32_t)p->batch) {
        uint32_t some = n - at < (uint32_t)p->batch ? n - at : (uint32_t)p->batch;
        double l = step(g, s->record + at, some);
        loss += isfinite(l) ? l * some : 0;
        learned += isfinite(l) ? some : 0;
    }
    s->client[u->client].next += h.count;
    if (n > 0 && learned == 0) // values that are numbers, but too large to learn from
        return msg_nonfinite(err);
    u->loss = learned > 0 ? loss / learned : 0;
    recorder_put(g->env->rec, STAGE_DECODE, (int32_t)u->client, t0, s->decode_ns, -1,
                 (int64_t)u->len, 0, 0);
    recorder_put(g->env->rec, STAGE_TRAIN, (int32_t)u->client, t0 + s->decode_ns,
                 clock_ns() - t0 - s->decode_ns, -1, 0, 0, 0);
    return 0;
}

static void side_score(struct global *g, struct eval_result *r)
{
    struct side_server *s = g->own;
    g->env->work->row->side->evaluate(g->env->work, g->env->method->form, s->net, r);
}

static uint64_t side_hash(const struct global *g)
{
    const struct side_server *s = g->own;
    return XXH3_64bits(side_state(s->net), 4 * side_shape(s->net)->n_values);
}

// Checkpoints: steps, weights with their moments, the clients' places, the cache.

enum { REPLAY_WORDS = 3 };

static size_t own_words(const struct global *g)
{
    const struct side_server *s = g->own;
    return 1 + 3 * side_shape(s->net)->n_values + 2 * (size_t)g->env->fed->clients + REPLAY_WORDS +
           2 * s->replay.n;
}

static size_t side_keep_words(const struct global *g)
{
    const struct side_server *s = g->own;
    return own_words(g) + (s->cache ? side_cache_words(s->cache) : 0);
}

static void side_keep(const struct global *g, uint8_t *p)
{
    const struct side_server *s = g->own;
    const float *state = side_state(s->net);
    put_u32(p, (uint32_t)*side_steps(s->net));
    p += 4;
    for (size_t i = 0; i < 3 * side_shape(s->net)->n_values; i++, p += 4)
        put_f32(p, state[i]);
    for (int32_t i = 0; i < g->env->fed->clients; i++, p += 8) {
        put_u32(p, s->client[i].held);
        put_u32(p + 4, s->client[i].next);
    }
    put_u32(p, (uint32_t)s->replay.n);
    put_u32(p + 4, (uint32_t)s->replay.at);
    put_u32(p + 8, (uint32_t)s->replay.passes);
    p += 4 * REPLAY_WORDS;
    for (size_t i = 0; i < s->replay.n; i++, p += 8)
        put_u64(p, s->replay.id[i]);
    if (s->cache)
        side_cache_keep(s->cache, p);
}

// Behind the clients; -1: it cannot be.
static int restore_replay(struct replay *r, const uint8_t *p, size_t words)
{
    size_t n = words < REPLAY_WORDS ? 0 : get_u32(p);
    if (words < REPLAY_WORDS || words - REPLAY_WORDS < 2 * n ||
        (get_u32(p + 4) >= n && get_u32(p + 4) > 0) || get_u32(p + 8) > INT32_MAX)
        return -1;
    r->id = mem_grow(MEM_SERVER, r->id, 0, n, &r->cap, sizeof *r->id);
    r->n = n;
    r->at = get_u32(p + 4);
    r->passes = (int32_t)get_u32(p + 8);
    for (size_t i = 0; i < n; i++)
        r->id[i] = get_u64(p + 4 * REPLAY_WORDS + 8 * i);
    return 0;
}

static int side_restore(struct global *g, const uint8_t *p, size_t words, struct err *err)
{
    struct side_server *s = g->own;
    float *state = side_state(s->net);
    size_t n = 3 * side_shape(s->net)->n_values;
    size_t clients = 1 + n + 2 * (size_t)g->env->fed->clients;
    if (words < clients || restore_replay(&s->replay, p + 4 * clients, words - clients))
        return err_set(err, "the checkpoint in '%s' is of another side network", g->env->run_dir);
    size_t own = own_words(g);
    if (words < own || (!s->cache && words > own))
        return err_set(err, "the checkpoint in '%s' is of another side network", g->env->run_dir);
    *side_steps(s->net) = (int32_t)(get_u32(p) & INT32_MAX);
    for (size_t i = 0; i < n; i++) {
        state[i] = get_f32(p + 4 + 4 * i);
        if (!isfinite(state[i]))
            return err_set(err, "the checkpoint in '%s' has a side network that is not finite",
                           g->env->run_dir);
    }
    for (int32_t i = 0; i < g->env->fed->clients; i++) {
        const uint8_t *c = p + 4 + 4 * n + 8 * (size_t)i;
        s->client[i] = (struct side_client){get_u32(c), get_u32(c + 4)};
    }
    if (s->cache && side_cache_restore(s->cache, p + 4 * own, words - own))
        return err_set(err, "the checkpoint in '%s' has activations that cannot be",
                       g->env->run_dir);
    return 0;
}

#define SIDE_SCHEME(NAME, OPTIONS)                                                                 \
    .name = NAME, .options = OPTIONS, .n_options = ARRAY_LEN(OPTIONS),                             \
    .option_bytes = sizeof(struct side_opt), .form_bytes = sizeof(struct side_plan),               \
    .train = train_nothing, .pack = side_pack, .bound = scheme_bound, .silent = true,              \
    .forward = true, .step_share = FORWARD_SHARE, .open = server_open, .close = server_close,      \
    .ask = side_ask, .add = side_add, .commit = scheme_mean, .evaluate = side_score,               \
    .hash = side_hash, .keep_words = side_keep_words, .keep = side_keep, .restore = side_restore

const struct scheme scheme_mobillm = {
    SIDE_SCHEME("mobillm", mobillm_options),
    .server = &server_sync,
    .worker = &worker_sync,
    .check = side_check_run,
    .help =
        "clients send activations of a frozen backbone and labels, every epoch anew; the server "
        "trains a side network",
    .sees = "activations, labels, the model",
    .source = "MobiLLM (arXiv 2502.20421): one way, quantised, labels; network, loss, rank, "
              "optimizer and codec are inferred, and so are many clients in rounds",
};

static int32_t one_arrival(const void *opt)
{
    (void)opt;
    return 1;
}

// Nothing is stale: gradients are of the network as it is.
static double as_it_is(const void *opt, uint32_t lag)
{
    (void)opt;
    (void)lag;
    return 1;
}

static const struct async_rule arrivals = {.buffer = one_arrival, .scale = as_it_is};

static int fed_check_run(const struct fed_env *env, struct err *err)
{
    return side_check_run(env, err) ? -1 : async_check(env, err);
}

const struct scheme scheme_fedmobillm = {
    SIDE_SCHEME("fedmobillm", fed_options_of_side),
    .server = &server_async,
    .worker = &worker_async,
    .async = &arrivals,
    .check = fed_check_run,
    .replay = side_replay,
    .sees = "pivot activations, differences, the model",
    .help =
        "pae without rounds: every upload makes a version at once, and the server goes over what "
        "came before; all clients have the same backbone",
    .source =
        "Fed MobiLLM (arXiv 2508.06765): a step an arrival, examples mixed and replayed, layers "
        "at even distances, a projection; loss, rank, optimizer, codec, steps of replay and "
        "their cap are inferred. Several backbones in one federation are not built",
};

const struct scheme scheme_pae = {
    SIDE_SCHEME("pae", pae_options),
    .server = &server_sync,
    .worker = &worker_sync,
    .check = side_check_run,
    .help = "as mobillm with rows that have a loss alone, once, and prediction differences instead "
            "of labels: later epochs are the server's",
    .sees = "pivot activations, differences, the model",
    .source = "PAE MobiLLM (arXiv 2507.01216): pivots, cache, additive prediction; loss, rank, "
              "optimizer, codec, y_b as probabilities and what goes when the cache is full are "
              "inferred, and so are many clients in rounds",
};
