// Schemes that look at the products of adapters, made for clients of unequal rank (fed.ranks) and
// right for equal ones, too. The server keeps what arrives of a round, a vector a client.
#include "base/mem.h"
#include "codec/factors.h"
#include "fed/global.h"
#include "fed/policy.h"
#include "fed/product.h"

#include <math.h>
#include <string.h>

struct stack {
    struct products pairs;
    struct factors *room;
    double lr;
    int32_t most, n;      // adapters there is room for, and of this round
    float **adapter;      // (most) (n) each, zeros where a client has nothing
    float *weight;        // (most)
    float *was, *part;    // (n) the version before; (n) scratch
    const float **b, **a; // (most) of one pair
};

static void stack_close(struct global *g)
{
    struct stack *s = g->own;
    for (int32_t i = 0; i < s->most; i++)
        mem_free(s->adapter[i]);
    products_close(&s->pairs);
    factors_close(s->room);
    void *blocks[] = {s->adapter, s->weight, s->was, s->part, s->b, s->a, s};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        mem_free(blocks[i]);
}

// The version before has a place among what arrives: server steps are parts of the way from it.
static int open_for(struct global *g, int32_t clients, struct err *err)
{
    struct stack *s = g->own = mem_alloc(MEM_SERVER, sizeof *s);
    if (products_open(&s->pairs, &g->env->work->shape, err))
        return -1;
    const size_t most = (size_t)clients + 1;
    if (s->pairs.rank > FACTORS_RANK)
        return err_set(err, "scheme %s takes adapters up to rank %d", g->env->method->scheme->name,
                       FACTORS_RANK);
    s->most = (int32_t)most;
    s->room = clients > 0 ? factors_open(s->pairs.rank, most, s->pairs.side) : NULL;
    s->adapter = mem_alloc(MEM_SERVER, most * sizeof *s->adapter);
    for (size_t i = 0; i < most; i++)
        s->adapter[i] = mem_alloc(MEM_SERVER, g->n * sizeof(float));
    s->weight = mem_alloc(MEM_SERVER, most * sizeof *s->weight);
    s->was = mem_alloc(MEM_SERVER, g->n * sizeof *s->was);
    s->part = mem_alloc(MEM_SERVER, g->n * sizeof *s->part);
    s->b = mem_alloc(MEM_SERVER, most * sizeof *s->b);
    s->a = mem_alloc(MEM_SERVER, most * sizeof *s->a);
    return 0;
}

static int stack_open(struct global *g, struct err *err)
{
    return open_for(g, policy_sampled(g->env->fed), err);
}

static void stack_begin(struct global *g)
{
    struct stack *s = g->own;
    s->n = 0;
    memcpy(s->was, g->theta, g->n * sizeof *s->was);
}

// The adapter that a client has trained: what it was sent of the version, and its update.
static int adapter_of(struct global *g, const struct update *u, float *full, struct err *err)
{
    const struct stack *s = g->own;
    const struct view_inst *view = &g->env->method->view;
    uint32_t p = view_turn(view, u->client, u->version);
    const struct view_part *part = &view->part[p];
    struct codec_key key = view_key(view, g->env->seed, u->client, u->version, 0);
    int rc = codec_decode(part->vector[0].codec, &key, u->bytes, u->len, s->part, g->scratch, err);
    const float *from = s->part;
    if (view->cut)
        memset(full, 0, g->n * sizeof *full);
    else
        memcpy(full, g->theta, g->n * sizeof *full);
    for (int r = 0; r < part->n_ranges && rc == 0; r++)
        for (size_t i = part->range[r].from; i < part->range[r].to; i++)
            full[i] = g->theta[i] + *from++;
    return rc;
}

// Keeps the adapter, and adds the update as every scheme does.
static int stack_add(struct global *g, struct update *u, struct err *err)
{
    struct stack *s = g->own;
    if (s->n + 1 == s->most)
        return err_set(err, "more updates than clients of a round");
    int rc = adapter_of(g, u, s->adapter[s->n], err);
    if (rc == 0)
        rc = global_add_update(g, u, err);
    if (rc == 0)
        s->weight[s->n++] = u->weight;
    return rc;
}

// The mean product of the round, as far as the server goes there.
static struct factor_sum sum_of(struct stack *s, const struct product_pair *q)
{
    size_t n = 0;
    for (int32_t i = 0; i < s->n; i++) {
        s->b[n] = s->adapter[i] + q->b;
        s->a[n++] = s->adapter[i] + q->a;
    }
    if (s->lr != 1) {
        s->b[n] = s->was + q->b;
        s->a[n++] = s->was + q->a;
    }
    return (struct factor_sum){q->rows, q->cols, q->rank, n, s->b, s->a, s->weight};
}

static bool stack_mean(struct global *g, double lr)
{
    struct stack *s = g->own;
    double all = 0;
    for (int32_t i = 0; i < s->n; i++)
        all += (double)s->weight[i];
    for (int32_t i = 0; i < s->n; i++)
        s->weight[i] = (float)(lr * (double)s->weight[i] / all);
    s->weight[s->n] = (float)(1 - lr);
    s->lr = lr;
    return all > 0;
}

// What is no update, or is late, has no place in the stack.
static int unequal_check(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    if ((!m->view.whole && !m->view.own) || view_needs(&m->view) & CODEC_OWN_AGG)
        return err_set(err,
                       "scheme %s multiplies whole decoded updates; it takes no view, and no "
                       "codec that aggregates its own way",
                       m->scheme->name);
    if (env->fed->late_weight > 0)
        return err_set(err, "scheme %s takes no late updates; set fed.late_weight = 0",
                       m->scheme->name);
    return 0;
}

// How a scheme runs that keeps the adapters of a round and goes from their mean product; `after`
// is where.
#define STACKED                                                                                    \
    .server = &server_sync, .worker = &worker_sync, .check = unequal_check, .open = stack_open,    \
    .close = stack_close, .begin = stack_begin, .add = stack_add, .mean = stack_mean,              \
    .commit = scheme_mean

// HetLoRA (Cho et al. 2024): a client counts by the size of its product, |B A|, times the weight
// that fed.weights gives it; what a client of small rank lacks is zeros, or nobody's.

enum { PAD_ZEROS, PAD_OWN };
struct het_opt {
    int32_t pad;
};

static const char *const pad_names[] = {"zeros", "own", NULL};

static const struct opt het_options[] = {
    OPT_ENUM(struct het_opt, pad, "pad", "zeros", pad_names,
             "what a client lacks is zeros in the mean, or left out of it"),
};

static int het_open(struct global *g, struct err *err)
{
    return open_for(g, 0, err);
}

static int het_add(struct global *g, struct update *u, struct err *err)
{
    struct stack *s = g->own;
    const float *x = s->adapter[0];
    double sq = 0;
    int rc = adapter_of(g, u, s->adapter[0], err);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < s->pairs.n_pairs; i++) {
        const struct product_pair *q = &s->pairs.pair[i];
        double norm = factors_norm(x + q->b, x + q->a, q->rows, q->rank, q->cols);
        sq += norm * norm;
    }
    u->weight *= (float)(sq > 1e-24 ? sqrt(sq) : 1e-12); // who learned nothing still arrived
    return global_add_update(g, u, err);
}

// mean of the adapters = (covered part) (theta + mean of who has it) + (the rest) theta, where what
// a client does not train is frozen
static bool het_mean(struct global *g, double lr)
{
    const struct het_opt *o = g->env->method->scheme_opt;
    const bool cut = g->env->method->view.cut;
    float *mean = g->mean[0];
    (void)lr;
    for (size_t i = 0; i < g->n && g->cover && o->pad == PAD_ZEROS; i++) {
        float part = g->cover[i] / (float)g->weight;
        mean[i] = part * mean[i] - (cut ? (1 - part) * g->theta[i] : 0);
    }
    return global_finite(mean, g->n);
}

const struct scheme scheme_hetlora = {
    .name = "hetlora",
    .help = "means of A and B with zeros for what small ranks lack, clients weighed by |B A|; for "
            "fed.ranks",
    .source = "Cho et al. 2024, HetLoRA, without its pruning of ranks; times fed.weights, of which "
              "equal is the paper's",
    .options = het_options,
    .n_options = ARRAY_LEN(het_options),
    .option_bytes = sizeof(struct het_opt),
    .server = &server_sync,
    .worker = &worker_sync,
    .check = unequal_check,
    .open = het_open,
    .close = stack_close,
    .add = het_add,
    .mean = het_mean,
    .commit = scheme_mean,
};

// FlexLoRA (Bai et al. 2024): the mean product, cut down to the adapter's rank by its singular
// values, with those in B. Clients of rank r take the first r.

static void flex_after(struct global *g, uint32_t version)
{
    struct stack *s = g->own;
    (void)version;
    for (uint32_t i = 0; i < s->pairs.n_pairs; i++) {
        const struct product_pair *q = &s->pairs.pair[i];
        struct factor_sum sum = sum_of(s, q);
        factors_nearest(s->room, &sum, g->theta + q->b, g->theta + q->a);
    }
}

const struct scheme scheme_flexlora = {
    .name = "flexlora",
    .help = "the mean product, dealt out again by its singular values; for fed.ranks",
    .source = "Bai et al. 2024, FlexLoRA; by factors, never the dense product",
    STACKED,
    .after = flex_after,
};

// LoRA-FAIR (Bian et al. 2025): means of A and B, and then B moves to where B A is closest to the
// mean product. The paper descends on a similarity; this is the least square, in closed form.

struct fair_opt {
    double mu;
};

static const struct opt fair_options[] = {
    OPT(struct fair_opt, mu, "mu", "0.01", 1e-9, 1e6, "",
        "weight of B's own way, in the mean square of A's rows"),
};

static void fair_after(struct global *g, uint32_t version)
{
    const struct fair_opt *o = g->env->method->scheme_opt;
    struct stack *s = g->own;
    (void)version;
    for (uint32_t i = 0; i < s->pairs.n_pairs; i++) {
        const struct product_pair *q = &s->pairs.pair[i];
        struct factor_sum sum = sum_of(s, q);
        factors_fit(s->room, &sum, o->mu, g->theta + q->b, g->theta + q->a);
    }
}

const struct scheme scheme_lorafair = {
    .name = "lorafair",
    .help = "means of A and B, and B corrected at the server towards the mean product",
    .source = "Bian et al. 2025, LoRA-FAIR, with the least square for its similarity",
    .options = fair_options,
    .n_options = ARRAY_LEN(fair_options),
    .option_bytes = sizeof(struct fair_opt),
    STACKED,
    .after = fair_after,
};
