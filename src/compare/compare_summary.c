// What the runs of a method come to over its seeds, beside the base.
#include "compare/compare_summary.h"

#include "base/mem.h"
#include "base/table.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static double mean_of(const double *v, size_t n)
{
    return interval_of(v, n).mean;
}

static void reach(const struct compare *c, const struct compare_method *m, int t, struct reached *x)
{
    const struct compare_method *base = &c->method[c->base];
    double rounds[COMPARE_SEEDS], bytes[COMPARE_SEEDS], time[COMPARE_SEEDS];
    double base_bytes[COMPARE_SEEDS], base_time[COMPARE_SEEDS];
    size_t n = 0;
    for (int s = 0; s < c->n_seeds; s++) {
        const struct curve *v = m->run[s], *b = base->run[s];
        x->round_at[s] = x->bytes_at[s] = (double)NAN;
        if (!v || !b)
            continue;
        double last = curve_final(b, c->p.last);
        double goal = c->higher ? c->target[t] * last : last / c->target[t];
        size_t i = curve_reach(v, c->p.trailing, goal, c->higher),
               k = curve_reach(b, c->p.trailing, goal, c->higher);
        rounds[n] = bytes[n] = time[n] = (double)NAN;
        if (i < v->n) {
            x->n++;
            rounds[n] = x->round_at[s] = v->round[i];
            bytes[n] = x->bytes_at[s] = v->uplink_bytes[i];
            time[n] = v->time_ns[i];
        }
        // A seed on which one of the two misses it counts, too: of the others alone the mean would
        // praise a method for the seeds it fails on.
        bool both = i < v->n && k < b->n;
        base_bytes[n] = both ? b->uplink_bytes[k] : (double)NAN;
        base_time[n] = both ? b->time_ns[k] : (double)NAN;
        n++;
    }
    x->rounds = interval_of(rounds, n);
    x->bytes = interval_of(bytes, n);
    x->time_ns = interval_of(time, n);
    x->less_bytes = ratio_of(base_bytes, bytes, n);
    x->less_time = ratio_of(base_time, time, n);
}

static double last_of(const double *v, size_t n)
{
    return n ? v[n - 1] : (double)NAN;
}

// What is asked of pairs of runs on one seed.
static void summarise_pairs(const struct compare *c, int i, struct summary *s)
{
    const struct compare_method *m = &c->method[i], *base = &c->method[c->base];
    double v[COMPARE_SEEDS], of_base[COMPARE_SEEDS], bytes[COMPARE_SEEDS], time[COMPARE_SEEDS],
        base_bytes[COMPARE_SEEDS], base_time[COMPARE_SEEDS];
    size_t n = 0;
    for (int k = 0; k < c->n_seeds; k++) {
        const struct curve *x = m->run[k], *b = base->run[k];
        if (!x || !b)
            continue;
        v[n] = s->final_score[k];
        of_base[n] = curve_final(b, c->p.last);
        bytes[n] = last_of(x->uplink_bytes, x->n);
        base_bytes[n] = last_of(b->uplink_bytes, b->n);
        time[n] = last_of(x->time_ns, x->n);
        base_time[n++] = last_of(b->time_ns, b->n);
    }
    s->pairs = n;
    s->gain = interval_of_difference(v, of_base, n);
    s->test = paired_test_of(v, of_base, i == c->base ? 0 : n);
    s->less_bytes = ratio_of(base_bytes, bytes, n);
    s->less_time = ratio_of(base_time, time, n);
}

static void summarise(const struct compare *c, int i, struct summary *s)
{
    const struct compare_method *m = &c->method[i];
    double v[COMPARE_SEEDS], total[COMPARE_SEEDS], size[COMPARE_SEEDS], bits[COMPARE_SEEDS],
        nmse[COMPARE_SEEDS], time[COMPARE_SEEDS];
    double cost[5][COMPARE_SEEDS];
    memset(s, 0, sizeof *s);
    for (int k = 0; k < c->n_seeds; k++) {
        const struct curve *x = m->run[k];
        s->final_score[k] = (double)NAN;
        if (!x)
            continue;
        v[s->n] = s->final_score[k] = x->finite ? curve_final(x, c->p.last) : (double)NAN;
        size[s->n] = x->message_bytes;
        bits[s->n] = 8 * x->message_bytes / x->adapter_values;
        nmse[s->n] = x->nmse;
        total[s->n] = last_of(x->uplink_bytes, x->n);
        cost[0][s->n] = x->up_bytes;
        cost[1][s->n] = x->down_bytes;
        cost[2][s->n] = x->state_bytes;
        cost[3][s->n] = x->server_ns;
        cost[4][s->n] = x->memory_bytes;
        time[s->n++] = last_of(x->time_ns, x->n);
    }
    s->score = interval_of(v, s->n);
    summarise_pairs(c, i, s);
    for (int t = 0; t < c->n_targets; t++)
        reach(c, m, t, &s->target[t]);
    for (int a = 0; a < c->n_at; a++) {
        size_t n = 0;
        for (int k = 0; k < c->n_seeds; k++)
            if (m->run[k])
                v[n++] = curve_at_bytes(m->run[k], c->p.trailing, c->at_bytes[a]);
        s->at[a] = interval_of(v, n);
    }
    s->message_bytes = mean_of(size, s->n);
    s->bits = mean_of(bits, s->n);
    s->nmse = mean_of(nmse, s->n);
    s->total_bytes = mean_of(total, s->n);
    s->up_bytes = mean_of(cost[0], s->n);
    s->down_bytes = mean_of(cost[1], s->n);
    s->state_bytes = mean_of(cost[2], s->n);
    s->server_ns = mean_of(cost[3], s->n);
    s->memory_bytes = mean_of(cost[4], s->n);
    s->total_time_ns = interval_of(time, s->n);
}

struct summary *summarise_all(const struct compare *c)
{
    struct summary *all = mem_alloc(MEM_OTHER, (size_t)c->n_methods * sizeof *all);
    double p[COMPARE_METHODS], adjusted[COMPARE_METHODS];
    for (int i = 0; i < c->n_methods; i++) {
        summarise(c, i, &all[i]);
        p[i] = all[i].test.n < TEST_SEEDS ? (double)NAN : all[i].test.p_wilcoxon;
    }
    holm(p, (size_t)c->n_methods, adjusted);
    for (int i = 0; i < c->n_methods; i++)
        all[i].p_holm = adjusted[i];
    return all;
}

// Bands.

struct band compare_band(const struct compare *c, const struct compare_method *m)
{
    size_t n = SIZE_MAX, seeds = 0;
    for (int s = 0; s < c->n_seeds; s++)
        if (m->run[s] && m->run[s]->n < n)
            n = m->run[s]->n;
    struct band b = {.n = n == SIZE_MAX ? 0 : n};
    b.round = mem_alloc(MEM_OTHER, (5 * b.n + 1) * sizeof *b.round);
    b.mean = b.round + b.n;
    b.half = b.mean + b.n;
    b.bytes = b.half + b.n;
    b.time_ns = b.bytes + b.n;
    for (size_t i = 0; i < b.n; i++) {
        double score[COMPARE_SEEDS], bytes[COMPARE_SEEDS], time[COMPARE_SEEDS];
        seeds = 0;
        for (int s = 0; s < c->n_seeds; s++) {
            const struct curve *v = m->run[s];
            if (!v)
                continue;
            struct curve until = *v;
            until.n = i + 1;
            score[seeds] = curve_final(&until, c->p.trailing);
            bytes[seeds] = v->uplink_bytes[i];
            time[seeds++] = v->time_ns[i];
            b.round[i] = v->round[i];
        }
        struct interval x = interval_of(score, seeds);
        b.mean[i] = x.mean;
        b.half[i] = x.half;
        b.bytes[i] = mean_of(bytes, seeds);
        b.time_ns[i] = mean_of(time, seeds);
    }
    return b;
}

// Words.

const char *compare_way(const struct compare *c)
{
    return c->p.traffic == TRAFFIC_BOTH ? "both" : "up";
}

const char *compare_traffic(const struct compare *c)
{
    return c->p.traffic == TRAFFIC_BOTH ? "traffic" : "uplink";
}

const char *compare_expanded(const struct compare_method *m, int n_seeds)
{
    for (int s = 0; s < n_seeds; s++)
        if (m->run[s])
            return m->run[s]->method;
    return m->cfg.fed.method;
}

void compare_value(const struct search_dim *d, int at, int k, char out[32])
{
    const int edge = at < 0 ? 0 : d->n_values - 1, next = at < 0 ? 1 : d->n_values - 2;
    char *end[2];
    if (at >= 0 && at < d->n_values) {
        snprintf(out, 32, "%s", d->value[at][k]);
        return;
    }
    const double v = strtod(d->value[edge][k], &end[0]), w = strtod(d->value[next][k], &end[1]);
    out[0] = '\0';
    if (!*end[0] && !*end[1] && v > 0 && w > 0)
        snprintf(out, 32, "%.4g", v * v / w);
}

void compare_describe_tried(const struct compare *c, const struct tried *t, char *out, size_t size)
{
    size_t used = 0;
    *out = '\0';
    for (int d = 0; d < c->n_dims; d++)
        for (int k = 0; k < c->dim[d].n_keys && used < size; k++) {
            char value[32];
            compare_value(&c->dim[d], t->at[d], k, value);
            used += (size_t)snprintf(out + used, size - used, "%s%s=%s", used ? " " : "",
                                     c->dim[d].key[k], value);
        }
}

static void say(char *out, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void say(char *out, size_t size, const char *fmt, ...)
{
    va_list args;
    size_t used = strlen(out);
    va_start(args, fmt);
    vsnprintf(out + used, size - used, fmt, args);
    va_end(args);
}

// "1.9 times less modelled time [1.7, 2.1]"
static void say_ratio(char *out, size_t size, struct ratio x, const char *what)
{
    if (fabs(x.mean - 1) < 5e-3 && !(fabs(x.low - 1) > 5e-3) && !(fabs(x.high - 1) > 5e-3)) {
        say(out, size, "as much %s", what);
        return;
    }
    bool less = x.mean >= 1;
    double mean = less ? x.mean : 1 / x.mean, low = less ? x.low : 1 / x.high,
           high = less ? x.high : 1 / x.low;
    say(out, size, "%.3g times %s %s", mean, less ? "less" : "more", what);
    if (isfinite(low) && isfinite(high) && high - low >= 5e-3 * mean)
        say(out, size, " [%.3g, %.3g]", low, high);
}

static void say_score(const struct compare *c, const struct summary *s, char *out, size_t size)
{
    const char *base = c->method[c->base].name;
    if (!isfinite(s->gain.mean)) {
        say(out, size, "; no %s to compare on every seed", c->p.score);
        return;
    }
    say(out, size, "; %s %.4f, %+.4f", c->p.score, s->score.mean, s->gain.mean);
    if (isfinite(s->gain.half))
        say(out, size, " +- %.4f", s->gain.half);
    say(out, size, " against %s", base);
    // A coarse score can differ alike on every seed: no spread is no certainty.
    bool alike = s->pairs > 1 && s->gain.half < 1e-9 && fabs(s->gain.mean) >= 1e-9;
    bool told = isfinite(s->gain.half) && fabs(s->gain.mean) > s->gain.half && !alike;
    bool better = (s->gain.mean > 0) == c->higher;
    if (told)
        say(out, size, ": %s", better ? "better" : "worse");
    else if (s->pairs < 2)
        say(out, size, " on one seed, which shows no interval");
    else if (alike)
        say(out, size, " on each of %zu seeds, which shows no interval", s->pairs);
    else
        say(out, size, ": no difference shown on %zu seeds", s->pairs);
}

// The hardest target that every seed reaches, the base's too, is the one that is told; a harder
// one that some miss is told as missed.
static void say_targets(const struct compare *c, const struct summary *s, char *out, size_t size)
{
    const struct reached *done = NULL, *missed = NULL;
    double done_at = 0, missed_at = 0;
    for (int t = 0; t < c->n_targets; t++) {
        const struct reached *x = &s->target[t];
        bool whole = x->n == s->n && x->less_time.n == s->pairs;
        if (whole && (!done || c->target[t] > done_at)) {
            done = x;
            done_at = c->target[t];
        }
        if (x->n < s->n && (!missed || c->target[t] < missed_at)) {
            missed = x;
            missed_at = c->target[t];
        }
    }
    const char *base = c->method[c->base].name;
    if (done) {
        say(out, size, "; %.4g%% of %s's final %s with ", 100 * done_at, base, c->p.score);
        say_ratio(out, size, done->less_time, "modelled time");
    }
    if (missed)
        say(out, size, "; %.4g%% reached on %zu of %zu seed%s", 100 * missed_at, missed->n, s->n,
            s->n == 1 ? "" : "s");
}

void summary_sentence(const struct compare *c, int i, const struct summary *s, char *out,
                      size_t size)
{
    const struct compare_method *m = &c->method[i];
    char text[2][32];
    *out = '\0';
    if (!s->n) {
        snprintf(out, size, "%s: no run yet.", m->name);
        return;
    }
    say(out, size, "%s: %s B per message", m->name,
        fmt_count(text[0], (int64_t)(s->message_bytes + 0.5)));
    if (i == c->base) {
        say(out, size, ", the base; %s %.4f", c->p.score, s->score.mean);
        if (isfinite(s->score.half))
            say(out, size, " +- %.4f", s->score.half);
        say(out, size, " on %zu seed%s; %s of %s and %s of modelled time.", s->n,
            s->n == 1 ? "" : "s", fmt_bytes(text[0], (int64_t)s->total_bytes), compare_traffic(c),
            fmt_time(text[1], (int64_t)s->total_time_ns.mean));
        return;
    }
    if (s->pairs && isfinite(s->less_bytes.mean)) {
        say(out, size, ", ");
        say_ratio(out, size, s->less_bytes, compare_traffic(c));
    }
    say_score(c, s, out, size);
    if (s->pairs && isfinite(s->less_time.mean)) {
        say(out, size, "; the same rounds take ");
        say_ratio(out, size, s->less_time, "modelled time");
    }
    say_targets(c, s, out, size);
    say(out, size, ".");
}
