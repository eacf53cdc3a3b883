// HAFLQ (Su et al. 2025): what a weight has of columns of B times rows of A, its terms of rank one,
// are of unequal importance, and a client of small rank trains and sends those that matter most.
// The sum of terms does not depend on their order: the server sorts them, and a client's first r
// are the ones (fed.ranks; fed.ranks_rest = frozen holds the others still, cut leaves them out).
// The mean of a term is over who has trained it. Bits by bandwidth are those of a codec, as of
// fstq:upload_s=.
//
// The paper's indicator is a smoothed sensitivity; how clients and server come by it is not known
// here. This is the reading that sends nothing: |theta g| of each value, the mean update for the
// gradient g, smoothed over rounds; a term has the mean of its values.
#include "base/mem.h"
#include "fed/global.h"
#include "fed/product.h"

#include <string.h>

struct haflq_opt {
    double smooth;
};

static const struct opt haflq_options[] = {
    OPT(struct haflq_opt, smooth, "smooth", "0.85", 0, 0.99999, "",
        "of a sensitivity, what is kept of the round before"),
};

struct term {
    double worth;
    uint32_t from; // place that it has before
};

struct sorting {
    struct products pairs;
    struct term *term; // (rank)
    float *was;        // a pair's values
};

static void sorting_close(struct global *g)
{
    struct sorting *s = g->own;
    products_close(&s->pairs);
    mem_free(s->term);
    mem_free(s->was);
    mem_free(s);
}

static int sorting_open(struct global *g, struct err *err)
{
    struct sorting *s = g->own = mem_alloc(MEM_SERVER, sizeof *s);
    if (products_open(&s->pairs, &g->env->work->shape, err))
        return -1;
    s->term = mem_alloc(MEM_SERVER, s->pairs.rank * sizeof *s->term);
    s->was = mem_alloc(MEM_SERVER, s->pairs.rank * s->pairs.side * sizeof *s->was);
    return 0;
}

// What nobody has trained in this round keeps its sensitivity.
static bool haflq_mean(struct global *g, double lr)
{
    const struct haflq_opt *o = g->env->method->scheme_opt;
    const float keep = (float)o->smooth, *mean = g->mean[0];
    (void)lr;
    for (size_t i = 0; i < g->n; i++)
        if (!g->cover || g->cover[i] > 0) {
            float now = g->theta[i] * mean[i];
            g->state[i] = keep * g->state[i] + (1 - keep) * (now < 0 ? -now : now);
        }
    return true;
}

static double mean_of(const float *x, size_t n, size_t apart)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i * apart];
    return sum / (double)n;
}

// By falling worth; equals stay as they were.
static void sort(struct term *t, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        const struct term own = t[i];
        uint32_t at = i;
        for (; at > 0 && t[at - 1].worth < own.worth; at--)
            t[at] = t[at - 1];
        t[at] = own;
    }
}

// Of n values, `apart` from each other, those of term k are `step` behind those of k - 1.
static void move(const struct sorting *s, uint32_t rank, size_t n, size_t apart, size_t step,
                 float *x)
{
    memcpy(s->was, x, rank * n * sizeof *x);
    for (uint32_t k = 0; k < rank; k++)
        for (size_t i = 0; i < n; i++)
            x[k * step + i * apart] = s->was[s->term[k].from * step + i * apart];
}

static void haflq_after(struct global *g, uint32_t version)
{
    struct sorting *s = g->own;
    float *const of[] = {g->theta, g->state, g->average ? g->average + 1 : NULL};
    (void)version;
    for (uint32_t i = 0; i < s->pairs.n_pairs; i++) {
        const struct product_pair *q = &s->pairs.pair[i];
        for (uint32_t k = 0; k < q->rank; k++) {
            const double a = mean_of(g->state + q->a + (size_t)k * q->cols, q->cols, 1);
            const double b = mean_of(g->state + q->b + k, q->rows, q->rank);
            const double n = (double)q->cols + (double)q->rows;
            s->term[k] = (struct term){((double)q->cols * a + (double)q->rows * b) / n, k};
        }
        sort(s->term, q->rank);
        for (size_t v = 0; v < ARRAY_LEN(of) && of[v]; v++) {
            move(s, q->rank, q->cols, 1, q->cols, of[v] + q->a);
            move(s, q->rank, q->rows, q->rank, 1, of[v] + q->b);
        }
    }
}

// Whatever remembers places of the adapter is wrong about them when terms change theirs.
static int haflq_check(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    const struct fed_params *fed = env->fed;
    const struct fed_wrong wrong[] = {
        {(!m->view.whole && !m->view.own) || view_needs(&m->view) & CODEC_OWN_AGG,
         "takes no view, and no codec that aggregates its own way"},
        {fed_state_floats(env) > 0, "clients' state is of terms that move; take a codec without "
                                    "state, fed.opt_state = reset and fisher.persist = reset"},
        {fed->late_weight > 0,
         "late updates are of terms that have moved; set fed.late_weight = 0"},
        {*fed->downlink && fed->down_of == FED_DOWN_CHANGE,
         "versions change by terms that move; take fed.downlink_of = version"},
    };
    return fed_refuse(wrong, ARRAY_LEN(wrong), err);
}

const struct scheme scheme_haflq = {
    .name = "haflq",
    .help = "the server sorts the adapter's terms by importance, so that clients of small rank "
            "have those that matter; for fed.ranks",
    .source =
        "Su et al. 2025, HAFLQ: its truncation, freezing and mean of terms; importance is the "
        "server's, of mean updates, and backbones are quantised by model.path instead",
    .options = haflq_options,
    .n_options = ARRAY_LEN(haflq_options),
    .option_bytes = sizeof(struct haflq_opt),
    .server = &server_sync,
    .worker = &worker_sync,
    .check = haflq_check,
    .state_vectors = 1,
    .open = sorting_open,
    .close = sorting_close,
    .mean = haflq_mean,
    .commit = scheme_mean,
    .after = haflq_after,
};
