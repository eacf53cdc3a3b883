// The server's half of side-tuning: what came is checked, kept and learned from.
#include "fed/side_server.h"

#include "base/mem.h"
#include "base/rng.h"
#include "base/stats.h"
#include "fed/side_cache.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

enum { HELD_MAX = 1 << 24 };

struct side_client {
    uint32_t held, next; // examples, 0 = not known yet; place of the next
};

struct record {
    const uint8_t *bytes;
    size_t len;
};

struct replay {   // what has come, in the order in which it is gone through again
    uint64_t *id; // (n)
    size_t n, cap, at;
    int32_t passes; // done
};

struct learner { // a network, and what it learned from
    struct side *net;
    struct replay replay;
};

struct side_server {
    struct dev dev;
    struct learner *learner; // (learners): one, or one for each client
    int32_t learners;
    struct side_coder coder[SIDE_TYPES];
    struct side_cache *cache;   // NULL = off
    struct side_client *client; // (fed.clients)
    uint32_t *came;             // (n_came) clients whose uploads a version has learned from
    size_t n_came, came_cap;
    struct record *record; // (form.examples) of the message at work
    uint32_t *order;       // of an epoch
    size_t order_cap;
    float *one, *target; // of one example; (batch x scored, classes)
    int32_t *label, *row;
    struct optim_params optim;
    int64_t decode_ns;
    double *service_ns; // (n_served) of each upload since the program started
    size_t n_served, served_cap;
};

static struct learner *learner_of(const struct side_server *s, uint32_t client)
{
    return &s->learner[s->learners > 1 ? client : 0];
}

void side_server_close(struct global *g)
{
    struct side_server *s = g->own;
    for (int32_t i = 0; i < s->learners; i++) {
        side_close(s->learner[i].net);
        mem_free(s->learner[i].replay.id);
    }
    for (int32_t k = 0; k < SIDE_TYPES; k++)
        side_coder_close(&s->coder[k]);
    side_cache_close(s->cache);
    void *blocks[] = {s->learner, s->client, s->came,  s->record, s->order,
                      s->one,     s->target, s->label, s->row,    s->service_ns};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
    if (s->dev.row)
        dev_close(&s->dev);
    mem_free(s);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

// An example of one row, with nothing but its values.
static size_t least_record(const struct side_plan *p)
{
    size_t floats = SIZE_MAX;
    for (int32_t k = 0; k < p->kinds; k++)
        floats = least(floats, side_floats(&p->kind[k].form, 1, 1));
    return 16 + floats / 16;
}

static struct side_config config_of(const struct fed_env *env)
{
    const struct side_opt *opt = env->method->scheme_opt;
    const struct side_plan *p = env->method->form;
    struct side_config c = {.layers = p->layers,
                            .width = p->width,
                            .project = p->project,
                            .norm = opt->norm,
                            .rank = opt->rank,
                            .classes = p->kind[0].form.classes,
                            .types = p->kinds};
    for (int32_t k = 0; k < p->kinds; k++)
        c.dim[k] = p->kind[k].form.dim;
    return c;
}

static int open_networks(struct global *g, struct side_server *s, struct err *err)
{
    const struct fed_env *env = g->env;
    const struct side_opt *opt = env->method->scheme_opt;
    const struct side_config c = config_of(env);
    int32_t n = opt->network == SIDE_NETWORK_SINGLE ? env->fed->clients : 1;
    if (side_check(&c, err))
        return -1;
    s->learner = mem_alloc(MEM_SERVER, (size_t)n * sizeof *s->learner);
    for (int32_t i = 0; i < n; i++) {
        struct side *net = s->learner[i].net = side_open(&s->dev, &c);
        s->learners++;
        double bytes = 4 * sizeof(float) * (double)side_shape(net)->n_values;
        if (i == 0 && mem_fits(n * bytes, "network = single", err))
            return -1;
        side_init(net, env->seed);
    }
    return 0;
}

static int open_coders(struct global *g, struct side_server *s, struct err *err)
{
    const struct side_plan *p = g->env->method->form;
    for (int32_t k = 0; k < p->kinds; k++)
        if (side_coder_open(&s->coder[k], &p->kind[k].form, g->env->method->codec->text,
                            g->env->seed, err))
            return -1;
    return 0;
}

int side_server_open(struct global *g, struct err *err)
{
    const struct fed_env *env = g->env;
    const struct side_opt *opt = env->method->scheme_opt;
    const struct side_plan *p = env->method->form;
    const struct side_form *f = &p->kind[0].form;
    struct side_server *s = g->own = mem_alloc(MEM_SERVER, sizeof *s);
    size_t tops = (size_t)p->batch * (size_t)f->scored, one = 0;
    for (int32_t k = 0; k < p->kinds; k++) {
        const struct side_form *form = &p->kind[k].form;
        size_t n = side_floats(form, form->rows, form->scored);
        one = n > one ? n : one;
    }
    if (dev_open(&s->dev, 0, 1, err) || open_coders(g, s, err))
        return -1;
    if (opt->cache_bytes > 0 && mem_fits(opt->cache_bytes, "cache_bytes", err))
        return -1;
    if (open_networks(g, s, err))
        return -1;
    s->cache =
        opt->cache_bytes > 0 ? side_cache_open((size_t)opt->cache_bytes, least_record(p)) : NULL;
    s->client = mem_alloc(MEM_SERVER, (size_t)env->fed->clients * sizeof *s->client);
    s->record = mem_alloc(MEM_SERVER, (size_t)f->examples * sizeof *s->record);
    s->one = mem_alloc(MEM_SERVER, one * sizeof *s->one);
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

bool side_ask(struct global *g, uint32_t client, uint32_t *what)
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
    const struct side_form *f = &side_kind_of(p, u->client)->form;
    struct side_client *c = &s->client[u->client], was = *c;
    struct side_example e = {.x = s->one};
    struct side_values values;
    struct msg_in in;
    const uint32_t *places = NULL;
    if (msg_open_plain(&in, u->bytes, u->len, err) || side_get_head(&in, f, h, err))
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
        int rc = side_get(&in, f, &e, s->label, &values, err);
        if (rc == 0 && e.id != side_id(g->env->seed, u->client, places[i]))
            rc = err_set(err, "example %u of it is another than was asked for", i);
        int64_t t = clock_ns();
        rc = rc ? rc : side_decode(&s->coder[f->type], &e, &values, err);
        s->decode_ns += clock_ns() - t;
        if (rc)
            return rc;
        r->len = (size_t)(in.p - r->bytes);
    }
    return msg_end(&in, err);
}

// The same from the cache; records that have gone meanwhile are left out. Returns how many are
// left.
enum { TOGETHER = 16 };
static uint32_t read_cache(struct global *g, uint32_t client, struct side_head *h)
{
    struct side_server *s = g->own;
    const uint32_t *places;
    uint32_t n = 0;
    h->count = (uint32_t)next_places(g, client, &places);
    h->held = s->client[client].held;
    for (uint32_t from = 0; from < h->count; from += TOGETHER) {
        uint64_t id[TOGETHER];
        const uint32_t some = h->count - from < TOGETHER ? h->count - from : TOGETHER;
        for (uint32_t i = 0; i < some; i++)
            id[i] = side_id(g->env->seed, client, places[from + i]);
        side_cache_expect(s->cache, id, some);
        for (uint32_t i = 0; i < some; i++) {
            struct record *r = &s->record[n];
            r->bytes = side_cache_get(s->cache, id[i], &r->len);
            n += r->bytes != NULL;
        }
    }
    return n;
}

// Reads the records of a step into the network's input: backbones one after another, and of each
// the rows of all its examples, in every layer. Records were checked when they came.
struct stepping {
    struct side_server *s;
    const struct side_plan *plan;
    struct side *net;
    const struct record *record;
    uint32_t n; // records
    struct side_batch batch;
    int32_t of[SIDE_TYPES];
};

// The next record of a kind from *i on, without its values; false: there is none.
static bool next_record(const struct stepping *t, int32_t kind, uint32_t *i, struct side_example *e,
                        int32_t *label, struct side_values *values)
{
    const struct side_form *f = &t->plan->kind[kind].form;
    struct err err;
    for (; *i < t->n; ++*i) {
        const struct record *r = &t->record[*i];
        struct msg_in in = {.p = r->bytes, .end = r->bytes + r->len};
        if (side_type_of(f, r->bytes) != kind)
            continue;
        side_get(&in, f, e, label, values, &err);
        ++*i;
        return true;
    }
    return false;
}

static void read_sizes(struct stepping *t)
{
    struct side_server *s = t->s;
    t->batch = (struct side_batch){.row = s->row, .of = t->of};
    for (int32_t kind = 0; kind < t->plan->kinds; kind++) {
        int32_t before = t->batch.rows;
        struct side_example e;
        struct side_values values;
        for (uint32_t i = 0; next_record(t, kind, &i, &e, s->label + t->batch.scored, &values);) {
            for (int32_t k = 0; k < e.scored; k++)
                s->row[t->batch.scored++] = t->batch.rows + e.rows - e.scored + k;
            t->batch.rows += e.rows;
        }
        t->of[kind] = t->batch.rows - before;
    }
}

// From row `row` of the network's input on.
static void put_layers(struct stepping *t, const struct side_kind *kind,
                       const struct side_example *e, int32_t row)
{
    const size_t dim = (size_t)kind->form.dim;
    const ptrdiff_t wide = side_stride(t->net, kind->form.type);
    for (int32_t l = 0; l < t->plan->layers; l++) {
        float *to = side_input(t->net, &t->batch, l) + row * wide;
        const float *x = e->x + (size_t)kind->from[l] * (size_t)e->rows * dim;
        for (int32_t k = 0; k < e->rows; k++)
            side_put_row(t->net, kind->form.type, x + (size_t)k * dim, to + k * wide);
    }
}

static void read_values(struct stepping *t)
{
    struct side_server *s = t->s;
    int32_t row = 0, top = 0;
    side_input(t->net, &t->batch, 0);
    for (int32_t k = 0; k < t->plan->kinds; k++) {
        const struct side_kind *kind = &t->plan->kind[k];
        const size_t classes = (size_t)kind->form.classes;
        struct side_example e = {.x = s->one};
        struct side_values values;
        struct err err;
        for (uint32_t i = 0; next_record(t, k, &i, &e, s->label + t->batch.scored, &values);) {
            side_decode(&s->coder[k], &e, &values, &err);
            put_layers(t, kind, &e, row);
            if (!kind->form.labels)
                memcpy(s->target + (size_t)top * classes, e.x + side_floats(&kind->form, e.rows, 0),
                       (size_t)e.scored * classes * sizeof *s->target);
            row += e.rows;
            top += e.scored;
        }
    }
}

static double step(struct global *g, struct learner *l, const struct record *r, uint32_t n)
{
    struct side_server *s = g->own;
    const struct side_plan *p = g->env->method->form;
    const bool labels = p->kind[0].form.labels;
    struct stepping t = {.s = s, .plan = p, .net = l->net, .record = r, .n = n};
    int64_t t0 = clock_ns();
    read_sizes(&t);
    read_values(&t);
    s->decode_ns += clock_ns() - t0;
    struct side_answer a = {
        .loss = labels ? SIDE_CE : SIDE_L2, .target = labels ? NULL : s->target, .label = s->label};
    return side_step(l->net, &t.batch, &a, &s->optim);
}

// A new example takes a place at random among those still to come in this pass, whose own goes to
// the end: uploads of one client do not stay together.
static void mix_in(struct global *g, struct learner *l, uint64_t id)
{
    struct replay *r = &l->replay;
    struct rng draw = rng_stream(g->env->seed, RNG_SIDE, UINT32_MAX, (uint32_t)r->n, 0);
    r->id = mem_grow(MEM_SERVER, r->id, r->n, r->n + 1, &r->cap, sizeof *r->id);
    size_t to = r->at + rng_below(&draw, (uint32_t)(r->n - r->at + 1));
    r->id[r->n++] = id;
    r->id[r->n - 1] = r->id[to];
    r->id[to] = id;
}

// The next examples of a pass that are still there; after a pass all are shuffled.
static uint32_t next_replayed(struct global *g, struct replay *r, int32_t cap, uint32_t want)
{
    struct side_server *s = g->own;
    uint32_t n = 0;
    side_cache_expect(s->cache, r->id + r->at, r->n - r->at < want ? r->n - r->at : want);
    while (n < want && r->passes < cap && r->n > 0) {
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

// Steps on what came before; of those that learned, how many, and the sum of their losses.
static int32_t replay_steps(struct global *g, struct learner *l, double *sum)
{
    struct side_server *s = g->own;
    const struct side_opt *opt = g->env->method->scheme_opt;
    const struct side_plan *p = g->env->method->form;
    int32_t steps = 0;
    for (int32_t i = 0; s->cache && i < opt->replay; i++) {
        uint32_t n = next_replayed(g, &l->replay, opt->cap, (uint32_t)p->batch);
        double loss = n > 0 ? step(g, l, s->record, n) : NAN;
        *sum += isfinite(loss) ? loss : 0;
        steps += isfinite(loss);
    }
    return steps;
}

// For each upload that the version has learned from; where none came, once more all the same.
bool side_replay(struct global *g, uint32_t version, double *loss)
{
    struct side_server *s = g->own;
    int64_t t0 = clock_ns();
    double sum = 0;
    int32_t steps = 0;
    (void)version;
    s->decode_ns = 0;
    for (size_t i = 0; i < s->n_came; i++)
        steps += replay_steps(g, learner_of(s, s->came[i]), &sum);
    for (int32_t i = 0; s->n_came == 0 && i < s->learners; i++)
        steps += replay_steps(g, &s->learner[i], &sum);
    s->n_came = 0;
    recorder_put(g->env->rec, STAGE_TRAIN, -1, t0, clock_ns() - t0, -1, 0, 0, 0);
    *loss = steps > 0 ? sum / steps : NAN;
    return steps > 0;
}

void side_replay_round(struct global *g, uint32_t version)
{
    double loss;
    side_replay(g, version, &loss);
}

static void keep_records(struct global *g, uint32_t client, const struct side_head *h)
{
    struct side_server *s = g->own;
    const struct side_opt *opt = g->env->method->scheme_opt;
    bool again = s->client[client].next >= h->held; // its examples are among those replayed
    for (uint32_t i = 0; s->cache && opt->replay > 0 && !again && i < h->count; i++)
        mix_in(g, learner_of(s, client), get_u64(s->record[i].bytes));
    for (uint32_t i = 0; s->cache && i < h->count; i++)
        side_cache_put(s->cache, get_u64(s->record[i].bytes), s->record[i].bytes, s->record[i].len);
    s->client[client].held = h->held;
    s->came =
        mem_grow(MEM_SERVER, s->came, s->n_came, s->n_came + 1, &s->came_cap, sizeof *s->came);
    s->came[s->n_came++] = client;
}

// One step a batch, in the order of the epoch.
int side_add(struct global *g, struct update *u, struct err *err)
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
        double l = step(g, learner_of(s, u->client), s->record + at, some);
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
    if (u->bytes) {
        s->service_ns = mem_grow(MEM_SERVER, s->service_ns, s->n_served, s->n_served + 1,
                                 &s->served_cap, sizeof *s->service_ns);
        s->service_ns[s->n_served++] = (double)(clock_ns() - t0);
    }
    return 0;
}

// A share of one result into that of all; rows are by set and metric.
static void add_share(struct eval_result *to, const struct eval_result *one, double share)
{
    to->score += share * one->score;
    to->loss += share * one->loss;
    for (int i = 0; i < one->n_rows; i++) {
        const struct eval_row *row = &one->rows[i];
        int k = 0;
        while (k < to->n_rows && (strcmp(to->rows[k].set, row->set) != 0 ||
                                  strcmp(to->rows[k].metric, row->metric) != 0))
            k++;
        if (k == EVAL_MAX)
            continue;
        if (k == to->n_rows) {
            to->rows[to->n_rows++] = *row;
            to->rows[k].value = 0;
        }
        to->rows[k].value += share * row->value;
    }
}

// What all of the test set has, under the name of the backbone's file.
static void name_kind(struct eval_result *to, const struct eval_result *one, const char *path)
{
    const char *slash = strrchr(path, '/');
    for (int i = 0; i < one->n_rows && to->n_rows < EVAL_MAX; i++) {
        struct eval_row *row = &to->rows[to->n_rows];
        if (strcmp(one->rows[i].set, "all") != 0)
            continue;
        *row = one->rows[i];
        snprintf(row->set, sizeof row->set, "%.23s", slash ? slash + 1 : path);
        to->n_rows++;
    }
}

// One network, on every backbone: the mean over clients, and each backbone's own.
static void score_kinds(struct global *g, struct eval_result *r)
{
    struct side_server *s = g->own;
    const struct side_plan *p = g->env->method->form;
    struct workload *w = g->env->work;
    struct eval_result *one = mem_alloc(MEM_SERVER, SIDE_TYPES * sizeof *one);
    bool done = true;
    for (int32_t k = 0; k < p->kinds && done; k++) {
        done = w->row->side->answer(w, p, k, s->learner[0].net, 0, 1, r->stop);
        if (done)
            w->row->side->score(w, &one[k]);
    }
    for (int32_t k = 0; k < p->kinds && done; k++) {
        r->score = k ? r->score : 0;
        r->loss = k ? r->loss : 0;
        add_share(r, &one[k], p->kind[k].weight);
    }
    for (int32_t k = 0; k < p->kinds && done && p->kinds > 1; k++)
        name_kind(r, &one[k], p->backbones.path[k]);
    mem_free(one);
}

void side_score(struct global *g, struct eval_result *r)
{
    struct side_server *s = g->own;
    const struct side_plan *p = g->env->method->form;
    struct workload *w = g->env->work;
    bool done = true;
    r->score = r->loss = NAN;
    r->n_rows = 0;
    if (s->learners == 1) {
        score_kinds(g, r);
        return;
    }
    for (int32_t c = 0; c < s->learners && done; c++)
        done = w->row->side->answer(w, p, p->of[c], s->learner[c].net, c, s->learners, r->stop);
    if (done)
        w->row->side->score(w, r);
}

uint64_t side_hash(const struct global *g)
{
    const struct side_server *s = g->own;
    uint64_t hash = 0;
    for (int32_t i = 0; i < s->learners; i++) {
        struct side *net = s->learner[i].net;
        hash = XXH3_64bits_withSeed(side_state(net), 4 * side_shape(net)->n_values, hash);
    }
    return hash;
}

static void put_figure(struct rec_summary *out, size_t *n, const char *key, double value,
                       const char *unit)
{
    out[*n] = (struct rec_summary){.value = value};
    snprintf(out[*n].key, sizeof out->key, "%s", key);
    snprintf(out[(*n)++].unit, sizeof out->unit, "%s", unit);
}

// What clients are given at the end to answer with: the network, of projections their own kind's.

static size_t given_bytes(const struct fed_env *env, uint32_t client)
{
    const struct side_plan *p = env->method->form;
    const struct side_config c = config_of(env);
    return 4 * side_values(&c, p->of[client]);
}

static void give(const struct global *g, uint32_t client, uint8_t *out)
{
    const struct side_plan *p = g->env->method->form;
    const struct side *net = learner_of(g->own, client)->net;
    const size_t n = side_values(side_config(net), p->of[client]);
    float *values = mem_alloc(MEM_SERVER, n * sizeof *values);
    side_copy(net, p->of[client], values);
    for (size_t i = 0; i < n; i++)
        put_f32(out + 4 * i, values[i]);
    mem_free(values);
}

const struct scheme_parting side_parting = {
    .bytes = given_bytes,
    .put = give,
};

static double given_in_all(const struct fed_env *env)
{
    double sum = 0;
    for (int32_t c = 0; c < env->fed->clients; c++)
        sum += (double)given_bytes(env, (uint32_t)c);
    return sum;
}

size_t side_figures(const struct global *g, struct rec_summary out[SCHEME_FIGURES])
{
    const struct side_server *s = g->own;
    size_t n = 0;
    put_figure(out, &n, "side_weights", given_in_all(g->env), "bytes");
    if (s->n_served > 0) { // an upload's checks, its place in the cache and its steps; not replay
        double *v = mem_alloc(MEM_SERVER, s->n_served * sizeof *v);
        memcpy(v, s->service_ns, s->n_served * sizeof *v);
        struct stats t = stats_of(v, s->n_served);
        put_figure(out, &n, "service_p50", t.median, "ns");
        put_figure(out, &n, "service_p99", t.p99, "ns");
        mem_free(v);
    }
    if (!s->cache)
        return n;
    struct side_cache_counts c = side_cache_counts(s->cache);
    put_figure(out, &n, "cache_hits", (double)c.hits, "1");
    put_figure(out, &n, "cache_misses", (double)c.misses, "1");
    put_figure(out, &n, "cache_evicted", (double)c.evicted, "1");
    put_figure(out, &n, "cache_refused", (double)c.refused, "1");
    put_figure(out, &n, "cache_records", (double)c.records, "1");
    put_figure(out, &n, "cache_bytes", (double)c.bytes, "bytes");
    return n;
}

// Checkpoints: of every network steps, weights with their moments and what it replays; the clients'
// places; the cache.

enum { REPLAY_WORDS = 3 };

static size_t network_words(const struct side *net)
{
    return (size_t)side_counts(net) + 3 * side_shape(net)->n_values;
}

static size_t own_words(const struct global *g)
{
    const struct side_server *s = g->own;
    size_t words = 2 * (size_t)g->env->fed->clients;
    for (int32_t i = 0; i < s->learners; i++)
        words += network_words(s->learner[i].net) + REPLAY_WORDS + 2 * s->learner[i].replay.n;
    return words;
}

size_t side_keep_words(const struct global *g)
{
    const struct side_server *s = g->own;
    return own_words(g) + (s->cache ? side_cache_words(s->cache) : 0);
}

static uint8_t *keep_learner(const struct learner *l, uint8_t *p)
{
    const float *state = side_state(l->net);
    for (int32_t i = 0; i < side_counts(l->net); i++, p += 4)
        put_u32(p, (uint32_t)*side_steps(l->net, i));
    for (size_t i = 0; i < 3 * side_shape(l->net)->n_values; i++, p += 4)
        put_f32(p, state[i]);
    put_u32(p, (uint32_t)l->replay.n);
    put_u32(p + 4, (uint32_t)l->replay.at);
    put_u32(p + 8, (uint32_t)l->replay.passes);
    p += 4 * REPLAY_WORDS;
    for (size_t i = 0; i < l->replay.n; i++, p += 8)
        put_u64(p, l->replay.id[i]);
    return p;
}

void side_keep(const struct global *g, uint8_t *p)
{
    const struct side_server *s = g->own;
    for (int32_t i = 0; i < g->env->fed->clients; i++, p += 8) {
        put_u32(p, s->client[i].held);
        put_u32(p + 4, s->client[i].next);
    }
    for (int32_t i = 0; i < s->learners; i++)
        p = keep_learner(&s->learner[i], p);
    if (s->cache)
        side_cache_keep(s->cache, p);
}

// -1: it cannot be.
static int restore_replay(struct replay *r, const uint8_t *p, size_t words)
{
    size_t n = words < REPLAY_WORDS ? 0 : get_u32(p);
    if (words < REPLAY_WORDS || (words - REPLAY_WORDS) / 2 < n ||
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

// Words that it took; 0: it cannot be.
static size_t restore_learner(struct learner *l, const uint8_t *p, size_t words)
{
    const size_t counts = (size_t)side_counts(l->net), n = 3 * side_shape(l->net)->n_values;
    float *state = side_state(l->net);
    if (words < counts + n)
        return 0;
    for (size_t i = 0; i < counts; i++)
        *side_steps(l->net, (int32_t)i) = (int32_t)(get_u32(p + 4 * i) & INT32_MAX);
    p += 4 * counts;
    for (size_t i = 0; i < n; i++) {
        state[i] = get_f32(p + 4 * i);
        if (!isfinite(state[i]))
            return 0;
    }
    if (restore_replay(&l->replay, p + 4 * n, words - counts - n))
        return 0;
    return counts + n + REPLAY_WORDS + 2 * l->replay.n;
}

int side_restore(struct global *g, const uint8_t *p, size_t words, struct err *err)
{
    struct side_server *s = g->own;
    const size_t clients = 2 * (size_t)g->env->fed->clients;
    size_t at = words < clients ? 0 : clients;
    for (size_t i = 0; at > 0 && i < clients / 2; i++)
        s->client[i] = (struct side_client){get_u32(p + 8 * i), get_u32(p + 8 * i + 4)};
    for (int32_t i = 0; at > 0 && i < s->learners; i++) {
        size_t used = restore_learner(&s->learner[i], p + 4 * at, words - at);
        at = used > 0 ? at + used : 0;
    }
    if (at == 0 || (!s->cache && words > at))
        return err_set(err, "the checkpoint in '%s' is of another side network", g->env->run_dir);
    if (s->cache && side_cache_restore(s->cache, p + 4 * at, words - at))
        return err_set(err, "the checkpoint in '%s' has activations that cannot be",
                       g->env->run_dir);
    return 0;
}
