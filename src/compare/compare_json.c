// A comparison for machines: the table, every curve, what was searched.
#include "base/buildinfo.h"
#include "base/jsonw.h"
#include "base/mem.h"
#include "compare/compare_summary.h"

#include "fed/method.h"
#include <math.h>
#include <string.h>

static void json_numbers(struct jsonw *j, const char *key, const double *v, size_t n)
{
    bool compact = j->compact;
    jsonw_key(j, key);
    j->compact = true;
    jsonw_array(j);
    for (size_t i = 0; i < n; i++)
        jsonw_num(j, v[i]);
    jsonw_end(j);
    j->compact = compact;
}

static void json_interval(struct jsonw *j, const char *key, struct interval x)
{
    bool compact = j->compact;
    jsonw_key(j, key);
    j->compact = true;
    jsonw_object(j);
    jsonw_key(j, "n");
    jsonw_int(j, (int64_t)x.n);
    jsonw_key(j, "mean");
    jsonw_num(j, x.mean);
    jsonw_key(j, "ci95");
    jsonw_num(j, x.half);
    jsonw_end(j);
    j->compact = compact;
}

// Base over this: the geometric mean and the ends of its interval.
static void json_ratio(struct jsonw *j, const char *key, struct ratio x)
{
    bool compact = j->compact;
    const struct {
        const char *name;
        double v;
    } parts[] = {{"mean", x.mean}, {"low", x.low}, {"high", x.high}};
    jsonw_key(j, key);
    j->compact = true;
    jsonw_object(j);
    jsonw_key(j, "n");
    jsonw_int(j, (int64_t)x.n);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        jsonw_key(j, parts[i].name);
        jsonw_num(j, parts[i].v);
    }
    jsonw_end(j);
    j->compact = compact;
}

static void json_runs(struct jsonw *j, const struct compare *c, const struct runs *r,
                      const struct compare_method *m)
{
    jsonw_key(j, "runs");
    jsonw_array(j);
    for (int s = 0; s < c->n_seeds; s++) {
        const struct curve *v = m->run[s];
        char key[24];
        if (!v)
            continue;
        struct config cfg = m->tuned;
        cfg.run.seed = c->seed[s];
        snprintf(key, sizeof key, "%016llx", (unsigned long long)runs_key(r, &cfg));
        jsonw_object(j);
        jsonw_key(j, "seed");
        jsonw_int(j, c->seed[s]);
        jsonw_key_text(j, "key", key);
        jsonw_key_num(j, "final", v->finite ? curve_final(v, c->p.last) : (double)NAN);
        jsonw_key_num(j, "floor", v->floor);
        jsonw_key_num(j, "message_bytes", v->message_bytes);
        jsonw_key_num(j, "nmse", v->nmse);
        json_numbers(j, "round", v->round, v->n);
        json_numbers(j, "score", v->score, v->n);
        json_numbers(j, "uplink_bytes", v->uplink_bytes, v->n);
        json_numbers(j, "time_modelled_ns", v->time_ns, v->n);
        jsonw_end(j);
    }
    jsonw_end(j);
}

static void json_search(struct jsonw *j, const struct compare *c, const struct compare_method *m)
{
    char text[COMPARE_SETTING];
    jsonw_key(j, "search");
    jsonw_array(j);
    for (int k = 0; k < m->n_tried; k++) {
        compare_describe_tried(c, &m->tried[k], text, sizeof text);
        jsonw_object(j);
        jsonw_key_text(j, "setting", text);
        jsonw_key_num(j, "score", m->tried[k].score);
        jsonw_end(j);
    }
    jsonw_end(j);
}

static void json_test(struct jsonw *j, const struct summary *s)
{
    const struct paired_test *t = &s->test;
    jsonw_key(j, "test");
    jsonw_object(j);
    jsonw_key(j, "pairs");
    jsonw_int(j, (int64_t)t->n);
    jsonw_key_num(j, "cohen_dz", t->dz);
    jsonw_key_num(j, "rank_biserial", t->rank_biserial);
    jsonw_key_num(j, "p_wilcoxon", t->p_wilcoxon);
    jsonw_key_num(j, "p_holm", s->p_holm); // null below five pairs
    jsonw_end(j);
}

static void json_band(struct jsonw *j, const struct compare *c, const struct compare_method *m)
{
    struct band b = compare_band(c, m);
    jsonw_key(j, "curve");
    jsonw_object(j);
    json_numbers(j, "round", b.round, b.n);
    json_numbers(j, "score_mean", b.mean, b.n);
    json_numbers(j, "score_ci95", b.half, b.n);
    json_numbers(j, "uplink_bytes", b.bytes, b.n);
    json_numbers(j, "time_modelled_ns", b.time_ns, b.n);
    jsonw_end(j);
    mem_free(b.round);
}

static void json_summary(struct jsonw *j, const struct compare *c, const struct summary *s)
{
    json_interval(j, "final", s->score);
    json_interval(j, "vs_base", s->gain);
    json_test(j, s);
    jsonw_key(j, "targets");
    jsonw_array(j);
    for (int t = 0; t < c->n_targets; t++) {
        const struct reached *x = &s->target[t];
        jsonw_object(j);
        jsonw_key_num(j, "target", c->target[t]);
        jsonw_key(j, "reached");
        jsonw_int(j, (int64_t)x->n);
        json_interval(j, "rounds", x->rounds);
        json_interval(j, "uplink_bytes", x->bytes);
        json_interval(j, "time_modelled_ns", x->time_ns);
        jsonw_key_num(j, "uplink_ratio", x->less_bytes.mean);
        json_ratio(j, "less_uplink", x->less_bytes);
        json_ratio(j, "less_time", x->less_time);
        json_numbers(j, "round_by_seed", x->round_at, (size_t)c->n_seeds);
        json_numbers(j, "uplink_by_seed", x->bytes_at, (size_t)c->n_seeds);
        jsonw_end(j);
    }
    jsonw_end(j);
    jsonw_key(j, "at_bytes");
    jsonw_array(j);
    for (int a = 0; a < c->n_at; a++) {
        jsonw_object(j);
        jsonw_key_num(j, "bytes", c->at_bytes[a]);
        json_interval(j, "score", s->at[a]);
        jsonw_end(j);
    }
    jsonw_end(j);
    jsonw_key_num(j, "message_bytes", s->message_bytes);
    jsonw_key_num(j, "bits_per_value", s->bits);
    jsonw_key_num(j, "nmse", s->nmse);
    jsonw_key_num(j, "uplink_total_bytes", s->total_bytes);
    jsonw_key_num(j, "up_bytes", s->up_bytes);
    jsonw_key_num(j, "down_bytes", s->down_bytes);
    jsonw_key_num(j, "client_state_bytes", s->state_bytes);
    jsonw_key_num(j, "server_round_ns", s->server_ns);
    jsonw_key_num(j, "memory_peak_bytes", s->memory_bytes);
    json_ratio(j, "less_uplink", s->less_bytes);
    json_interval(j, "time_modelled_total_ns", s->total_time_ns);
    json_ratio(j, "less_time", s->less_time);
}

static void json_method(struct jsonw *j, const struct compare *c, const struct runs *r, int i,
                        const struct summary *s)
{
    const struct compare_method *m = &c->method[i];
    char sentence[1024];
    summary_sentence(c, i, s, sentence, sizeof sentence);
    jsonw_object(j);
    jsonw_key_text(j, "name", m->name);
    jsonw_key_text(j, "method", compare_expanded(m, c->n_seeds));
    jsonw_key_text(j, "options", m->options);
    jsonw_key_text(j, "setting", m->setting);
    jsonw_key_text(j, "verdict", sentence);
    jsonw_key(j, "at_edge");
    jsonw_bool(j, m->at_edge);
    if (m->budget) {
        jsonw_key_num(j, "budget_bytes", m->target_bytes);
        jsonw_key_num(j, "budget_found", m->found);
        jsonw_key_num(j, "budget_got_bytes", m->got_bytes);
    }
    json_summary(j, c, s);
    jsonw_key_text(j, "server_sees", method_sees(m->text));
    json_band(j, c, m);
    json_search(j, c, m);
    json_runs(j, c, r, m);
    jsonw_end(j);
}

void compare_json(const struct compare *c, const struct runs *r, FILE *out)
{
    struct jsonw j;
    struct summary *all = summarise_all(c);
    jsonw_begin(&j, out);
    jsonw_object(&j);
    jsonw_key_text(&j, "config", c->path);
    jsonw_key_text(&j, "suite_version", buildinfo.version);
    jsonw_key_text(&j, "git_rev", buildinfo.git_rev);
    jsonw_key_text(&j, "score", c->p.score);
    jsonw_key_text(&j, "traffic", compare_way(c)); // what is called uplink below
    jsonw_key(&j, "higher_is_better");
    jsonw_bool(&j, c->higher);
    jsonw_key_text(&j, "base", c->method[c->base].name);
    jsonw_key(&j, "last");
    jsonw_int(&j, c->p.last);
    jsonw_key(&j, "trailing");
    jsonw_int(&j, c->p.trailing);
    jsonw_key(&j, "methods");
    jsonw_array(&j);
    for (int i = 0; i < c->n_methods; i++)
        json_method(&j, c, r, i, &all[i]);
    jsonw_end(&j);
    jsonw_end(&j);
    mem_free(all);
}
