// What is to be run: a budget first, then the search for settings, then every seed. Each step asks
// for its runs and goes on when they are there, so that a comparison that was stopped, or one with
// a method more, walks the same way over the runs it finds.
#include "base/mem.h"
#include "compare/compare.h"
#include "compare/compare_summary.h"

#include <math.h>
#include <string.h>

enum { PENDING, READY };
enum { BISECTIONS = 24 };

// The base first, the others in the order of the config.
static int place_of(const struct compare *c, const struct compare_method *m)
{
    return m == &c->method[c->base] ? -1 : (int)(m - c->method);
}

// Bytes.

static void method_text(const struct compare_method *m, double value, char *out, size_t size)
{
    if (m->whole)
        snprintf(out, size, "%s%.0f%s", m->head, value, m->tail);
    else
        snprintf(out, size, "%s%.4g%s", m->head, value, m->tail);
}

// As a run reads it back.
static double rounded(const struct compare_method *m, double v)
{
    char text[32];
    double back = 0;
    snprintf(text, sizeof text, m->whole ? "%.0f" : "%.4g", v);
    sscanf(text, "%lf", &back);
    return back;
}

static int short_run(const struct compare *c, struct runs *r, const struct compare_method *m,
                     const char *text, const struct curve **curve, struct err *err)
{
    struct config cfg = m->cfg;
    struct err why = {""};
    if (text && config_set(&cfg, "fed.method", text, &why))
        return err_set(err, "method %s: %s", m->name, why.text);
    cfg.fed.rounds = c->p.budget_rounds;
    cfg.fed.eval_every = 0;
    cfg.run.seed = c->n_search_seeds ? c->search_seed[0] : c->seed[0];
    *curve = runs_get(r, &cfg, place_of(c, m), m->name, "bytes of a message");
    if (!*curve && runs_failed(r, &cfg))
        return err_set(err, "method %s: the run that measures its bytes failed", m->name);
    return *curve ? READY : PENDING;
}

static int probe(const struct compare *c, struct runs *r, struct compare_method *m, double value,
                 double *bytes, struct err *err)
{
    char text[600];
    const struct curve *curve;
    method_text(m, value, text, sizeof text);
    int state = short_run(c, r, m, text, &curve, err);
    if (state == READY)
        *bytes = curve->message_bytes;
    return state;
}

static int target_of(struct compare *c, struct runs *r, struct compare_method *m, struct err *err)
{
    const struct curve *curve = NULL;
    char text[600];
    int state = READY;
    if (m->budget == BUDGET_SAME) {
        const struct compare_method *o = NULL;
        for (int i = 0; i < c->n_methods; i++)
            if (!strcmp(c->method[i].name, m->same))
                o = &c->method[i];
        if (!o->resolved)
            return PENDING;
        state = short_run(c, r, o, NULL, &curve, err);
        if (state == READY)
            m->target_bytes = curve->message_bytes;
        return state;
    }
    if (m->budget == BUDGET_BYTES) {
        m->target_bytes = m->amount;
        return READY;
    }
    method_text(m, m->lo, text, sizeof text);
    state = short_run(c, r, m, text, &curve, err);
    if (state == READY)
        m->target_bytes =
            curve->adapter_values * (m->budget == BUDGET_BITS ? m->amount / 8 : 2 * m->amount);
    return state;
}

// Between lo, which gives a bytes and fits, and hi, which gives b: where a straight line would meet
// the aim; the middle every third time, for the line may be slow.
static double between(const struct compare_method *m, double lo, double hi, double a, double b,
                      double aim)
{
    double f = m->probes % 3 == 2 || b <= a ? 0.5 : (aim - a) / (b - a), x = lo + f * (hi - lo);
    double least = fmin(lo, hi), most = fmax(lo, hi);
    if (m->whole)
        return fmin(fmax(floor(x), least + 1), most - 1);
    if (f == 0.5 && least > 0 && most / least > 4)
        x = sqrt(lo * hi);
    return rounded(m, x);
}

// Within max(0.5%, 16 bytes) of the target and never above; the nearest below where a step of the
// parameter is larger than that.
static int find_budget(struct compare *c, struct runs *r, struct compare_method *m, struct err *err)
{
    double a, b, lo = m->lo, hi = m->hi;
    if (!m->budget)
        return READY;
    int state = target_of(c, r, m, err);
    if (state != READY)
        return state;
    int at_lo = probe(c, r, m, lo, &a, err), at_hi = at_lo < 0 ? -1 : probe(c, r, m, hi, &b, err);
    if (at_lo != READY || at_hi != READY)
        return at_lo < 0 || at_hi < 0 ? -1 : PENDING;
    double slack = fmax(0.005 * m->target_bytes, 16), least = fmin(a, b), most = fmax(a, b);
    if (least > m->target_bytes || most < m->target_bytes - slack)
        return err_set(err,
                       "method %s: %.0f bytes per message are out of reach: %g gives %.0f and %g "
                       "gives %.0f",
                       m->name, m->target_bytes, lo, a, hi, b);
    if (b < a) { // from now on: lo fits
        double t = lo;
        lo = hi;
        hi = t;
        a = least;
    }
    m->probes = 2;
    if (most <= m->target_bytes) {
        lo = hi;
        a = most;
    }
    b = most;
    while (a < m->target_bytes - slack && m->probes < BISECTIONS) {
        double x = between(m, lo, hi, a, b, m->target_bytes - slack / 2), got;
        if (x <= fmin(lo, hi) || x >= fmax(lo, hi) || (m->whole && fabs(hi - lo) < 2))
            break;
        state = probe(c, r, m, x, &got, err);
        if (state != READY)
            return state;
        m->probes++;
        if (got <= m->target_bytes) {
            lo = x;
            a = got;
        } else {
            hi = x;
            b = got;
        }
    }
    m->found = lo;
    m->got_bytes = a;
    return READY;
}

static int resolve(struct compare *c, struct runs *r, struct compare_method *m, struct err *err)
{
    int state = find_budget(c, r, m, err);
    if (state != READY)
        return state;
    if (m->budget) {
        char text[600];
        struct err why = {""};
        method_text(m, m->found, text, sizeof text);
        if (config_set(&m->cfg, "fed.method", text, &why))
            return err_set(err, "method %s: %s", m->name, why.text);
    }
    m->tuned = m->cfg;
    m->resolved = true;
    return READY;
}

// Settings.

double method_score(const struct compare *c, const struct curve *curve)
{
    double v = curve->finite ? curve_final(curve, c->p.last) : (double)NAN;
    if (isnan(v))
        return c->higher ? -INFINITY : INFINITY;
    return v;
}

static void apply(const struct compare *c, const int at[COMPARE_DIMS], struct config *cfg,
                  char setting[COMPARE_SETTING])
{
    size_t used = 0;
    setting[0] = '\0';
    for (int d = 0; d < c->n_dims; d++)
        for (int k = 0; k < c->dim[d].n_keys; k++) {
            const char *key = c->dim[d].key[k];
            char value[32];
            struct err err;
            compare_value(&c->dim[d], at[d], k, value);
            if (config_set(cfg, key, value, &err))
                die(STATUS_CHECK, "%s", err.text); // checked when it was read
            if (used < COMPARE_SETTING)
                used += (size_t)snprintf(setting + used, COMPARE_SETTING - used, "%s%s=%s",
                                         used ? " " : "", key, value);
        }
}

// One setting on the first seeds of the search. A run that failed is as bad as one that diverged.
static int try_on(struct compare *c, struct runs *r, struct compare_method *m, struct tried *t,
                  int seeds)
{
    struct config cfg = m->cfg;
    char setting[COMPARE_SETTING];
    int state = READY;
    apply(c, t->at, &cfg, setting);
    if (c->p.search_rounds)
        cfg.fed.rounds = c->p.search_rounds;
    cfg.fed.eval_every = 0; // only what its final score is made of: evaluation is a third of a run
    cfg.fed.eval_last = c->p.last;
    t->score = 0;
    t->seeds = seeds;
    for (int s = 0; s < seeds; s++) {
        cfg.run.seed = c->search_seed[s];
        const struct curve *curve = runs_get(r, &cfg, place_of(c, m), m->name, setting);
        if (curve)
            t->score += method_score(c, curve) / seeds;
        else if (runs_failed(r, &cfg))
            t->score += c->higher ? -INFINITY : INFINITY;
        else
            state = PENDING;
    }
    if (state == PENDING)
        t->score = (double)NAN;
    return state;
}

static int try_setting(struct compare *c, struct runs *r, struct compare_method *m, struct tried *t)
{
    return try_on(c, r, m, t, c->n_search_seeds);
}

static int grid_size(const struct compare *c)
{
    int n = 1;
    for (int d = 0; d < c->n_dims; d++)
        n *= c->dim[d].n_values;
    return n;
}

static bool better(const struct compare *c, double a, double b)
{
    return c->higher ? a > b : a < b;
}

static void place_in_grid(const struct compare *c, int i, int at[COMPARE_DIMS])
{
    for (int d = c->n_dims - 1; d >= 0; d--) {
        at[d] = i % c->dim[d].n_values;
        i /= c->dim[d].n_values;
    }
}

static int search_grid(struct compare *c, struct runs *r, struct compare_method *m,
                       int best_at[COMPARE_DIMS])
{
    int n = grid_size(c), state = READY, best = 0;
    for (int i = 0; i < n; i++) {
        struct tried *t = &m->tried[i];
        place_in_grid(c, i, t->at);
        if (try_setting(c, r, m, t) != READY)
            state = PENDING;
        if (better(c, t->score, m->tried[best].score))
            best = i;
    }
    m->n_tried = n;
    memcpy(best_at, m->tried[best].at, sizeof m->tried[best].at);
    return state;
}

// The setting that is still in and has the best score, or the worst; the first of equals, or the
// last.
static int extreme(const struct compare *c, const struct compare_method *m, bool worst)
{
    int found = -1;
    for (int i = 0; i < m->n_tried; i++)
        if (!m->tried[i].out &&
            (found < 0 || (worst ? !better(c, m->tried[i].score, m->tried[found].score)
                                 : better(c, m->tried[i].score, m->tried[found].score))))
            found = i;
    return found;
}

// Successive halving (Jamieson and Talwalkar 2016) over seeds: rounds stay what they are, for the
// server's steps are a course over all of them.
static int search_halving(struct compare *c, struct runs *r, struct compare_method *m,
                          int best_at[COMPARE_DIMS])
{
    m->n_tried = grid_size(c);
    for (int i = 0; i < m->n_tried; i++) {
        place_in_grid(c, i, m->tried[i].at);
        m->tried[i].out = false;
    }
    for (int seeds = 1, left = m->n_tried; seeds <= c->n_search_seeds; seeds++) {
        int state = READY;
        for (int i = 0; i < m->n_tried; i++)
            if (!m->tried[i].out && try_on(c, r, m, &m->tried[i], seeds) != READY)
                state = PENDING;
        if (state != READY)
            return state;
        for (int keep = (left + 1) / 2; seeds < c->n_search_seeds && left > keep; left--)
            m->tried[extreme(c, m, true)].out = true;
    }
    memcpy(best_at, m->tried[extreme(c, m, false)].at, sizeof m->tried[0].at);
    return READY;
}

// One dimension after the other, the others at their best so far, at first in the middle.
static int search_coordinate(struct compare *c, struct runs *r, struct compare_method *m,
                             int best_at[COMPARE_DIMS])
{
    for (int d = 0; d < c->n_dims; d++)
        best_at[d] = (c->dim[d].n_values - 1) / 2;
    m->n_tried = 0;
    for (int d = 0; d < c->n_dims; d++) {
        int state = READY, first = m->n_tried, best = first;
        for (int v = 0; v < c->dim[d].n_values; v++) {
            struct tried *t = &m->tried[m->n_tried++];
            memcpy(t->at, best_at, sizeof t->at);
            t->at[d] = v;
            if (try_setting(c, r, m, t) != READY)
                state = PENDING;
            if (better(c, t->score, m->tried[best].score))
                best = m->n_tried - 1;
        }
        if (state != READY)
            return state;
        best_at[d] = m->tried[best].at[d];
    }
    return READY;
}

// Whether there is a value beyond the edge that dimension d of a setting is at; *beyond says which.
static bool at_edge(const struct compare *c, const struct compare_method *m, const int *at, int d,
                    int *beyond)
{
    const struct search_dim *dim = &c->dim[d];
    if (dim->n_values < 3 || (at[d] > 0 && at[d] < dim->n_values - 1)) // two have no middle
        return false;
    struct config *cfg = mem_alloc(MEM_OTHER, sizeof *cfg);
    bool good = true;
    *cfg = m->cfg;
    *beyond = at[d] == 0 ? -1 : dim->n_values;
    for (int k = 0; k < dim->n_keys && good; k++) {
        char value[32];
        struct err err;
        compare_value(dim, *beyond, k, value);
        good = *value && !config_set(cfg, dim->key[k], value, &err);
    }
    mem_free(cfg);
    return good;
}

static double score_of(const struct compare_method *m, const int at[COMPARE_DIMS])
{
    for (int i = m->n_tried - 1; i >= 0; i--)
        if (!memcmp(m->tried[i].at, at, sizeof m->tried[i].at))
            return m->tried[i].score;
    return (double)NAN;
}

// Beyond each edge that the best setting lies at, once, the others as they are.
static int widen(struct compare *c, struct runs *r, struct compare_method *m,
                 int best_at[COMPARE_DIMS])
{
    int state = READY, from[COMPARE_DIMS], beyond;
    double best = score_of(m, best_at);
    memcpy(from, best_at, sizeof from);
    for (int d = 0; d < c->n_dims; d++) {
        if (!at_edge(c, m, from, d, &beyond))
            continue;
        struct tried *t = &m->tried[m->n_tried++];
        memcpy(t->at, from, sizeof t->at);
        t->at[d] = beyond;
        t->out = false;
        if (try_setting(c, r, m, t) != READY)
            state = PENDING;
        if (better(c, t->score, best)) {
            best = t->score;
            memcpy(best_at, t->at, sizeof t->at);
        }
    }
    return state;
}

// Of what was tried: beyond, or where there was nothing beyond.
static bool ends_at_edge(const struct compare *c, const struct compare_method *m,
                         const int at[COMPARE_DIMS], int d)
{
    const int last = c->dim[d].n_values - 1;
    int beyond;
    if (last < 2 || (at[d] > 0 && at[d] < last))
        return false;
    return at[d] < 0 || at[d] > last || !c->p.search_widen || !at_edge(c, m, at, d, &beyond);
}

static int settings_tried(const struct compare *c)
{
    int n = 0;
    for (int d = 0; d < c->n_dims; d++)
        n += c->dim[d].n_values;
    return c->n_dims == 0 ? 0 : c->p.search_mode == SEARCH_COORDINATE ? n : grid_size(c);
}

// Runs of a method's search.
static int64_t runs_searched(const struct compare *c)
{
    int64_t n = settings_tried(c), runs = 0;
    if (c->p.search_mode != SEARCH_HALVING)
        return n * c->n_search_seeds;
    for (int s = 0; s < c->n_search_seeds; s++, n = (n + 1) / 2)
        runs += n;
    return runs;
}

static int search(struct compare *c, struct runs *r, struct compare_method *m)
{
    int at[COMPARE_DIMS] = {0};
    if (m->searched)
        return READY;
    if (c->n_dims) {
        if (!m->tried)
            m->tried =
                mem_alloc(MEM_OTHER, (size_t)(settings_tried(c) + c->n_dims) * sizeof *m->tried);
        int state = c->p.search_mode == SEARCH_GRID      ? search_grid(c, r, m, at)
                    : c->p.search_mode == SEARCH_HALVING ? search_halving(c, r, m, at)
                                                         : search_coordinate(c, r, m, at);
        if (state == READY && c->p.search_widen)
            state = widen(c, r, m, at);
        if (state != READY)
            return state;
        apply(c, at, &m->tuned, m->setting);
        for (int d = 0; d < c->n_dims; d++)
            m->at_edge |= ends_at_edge(c, m, at, d);
    }
    m->searched = true;
    return READY;
}

int compare_advance(struct compare *c, struct runs *r, struct err *err)
{
    bool all = true;
    for (int i = 0; i < c->n_methods; i++) {
        struct compare_method *m = &c->method[i];
        struct err why = {""};
        if (!m->resolved && resolve(c, r, m, &why) < 0)
            return m->line > 0 ? err_set(err, "%s:%d: %.400s", c->path, m->line, why.text)
                               : err_set(err, "argument %d: %.400s", -m->line, why.text);
        all &= m->resolved;
    }
    if (!all) // a budget out of reach is said before hours are spent
        return 0;
    for (int i = 0; i < c->n_methods; i++)
        search(c, r, &c->method[i]);
    for (int i = 0; i < c->n_methods; i++)
        for (int s = 0; s < c->n_seeds; s++) {
            struct compare_method *m = &c->method[i];
            if (!m->searched || m->run[s])
                continue;
            struct config cfg = m->tuned;
            cfg.run.seed = c->seed[s];
            m->run[s] = runs_get(r, &cfg, place_of(c, m), m->name, m->setting);
        }
    return 0;
}

int64_t compare_expected_rounds(const struct compare *c)
{
    int64_t rounds = 0;
    for (int i = 0; i < c->n_methods; i++) {
        const struct compare_method *m = &c->method[i];
        int64_t each = m->cfg.fed.rounds;
        rounds +=
            runs_searched(c) * (c->p.search_rounds ? c->p.search_rounds : each) + c->n_seeds * each;
    }
    return rounds;
}
