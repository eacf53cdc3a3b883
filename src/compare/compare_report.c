// The table of a comparison: as text, Markdown, CSV, and with every curve as JSON.
#include "base/buildinfo.h"
#include "base/jsonw.h"
#include "base/mem.h"
#include "base/table.h"
#include "compare/compare.h"
#include "report/export.h"

#include <math.h>
#include <string.h>

struct reached { // a target: a part of the base's final score on the same seed
    size_t n;    // seeds that reach it
    struct interval rounds, bytes, time_ns; // NaN unless all do
    double ratio; // of the base's uplink to this, over the seeds on which both reach it
    double round_at[COMPARE_SEEDS], bytes_at[COMPARE_SEEDS];
};

struct summary {
    size_t n; // seeds that are there
    double final_score[COMPARE_SEEDS];
    struct interval score, gain; // gain: paired, over the base
    struct reached target[COMPARE_TARGETS];
    struct interval at[COMPARE_AT];
    double message_bytes, bits, nmse, total_bytes;
};

static double mean_of(const double *v, size_t n)
{
    return interval_of(v, n).mean;
}

static void reach(const struct compare *c, const struct compare_method *m, int t, struct reached *x)
{
    const struct compare_method *base = &c->method[c->base];
    double rounds[COMPARE_SEEDS], bytes[COMPARE_SEEDS], time[COMPARE_SEEDS];
    double of_base[COMPARE_SEEDS], of_this[COMPARE_SEEDS];
    size_t n = 0, both = 0;
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
        n++;
        if (i < v->n && k < b->n) {
            of_base[both] = b->uplink_bytes[k];
            of_this[both++] = v->uplink_bytes[i];
        }
    }
    x->rounds = interval_of(rounds, n);
    x->bytes = interval_of(bytes, n);
    x->time_ns = interval_of(time, n);
    x->ratio = ratio_mean(of_base, of_this, both);
}

static void summarise(const struct compare *c, int i, struct summary *s)
{
    const struct compare_method *m = &c->method[i], *base = &c->method[c->base];
    double v[COMPARE_SEEDS], pair[COMPARE_SEEDS], pair_base[COMPARE_SEEDS], total[COMPARE_SEEDS],
        size[COMPARE_SEEDS], bits[COMPARE_SEEDS], nmse[COMPARE_SEEDS];
    size_t pairs = 0;
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
        total[s->n] = x->n ? x->uplink_bytes[x->n - 1] : (double)NAN;
        if (base->run[k]) {
            pair[pairs] = v[s->n];
            pair_base[pairs++] = curve_final(base->run[k], c->p.last);
        }
        s->n++;
    }
    s->score = interval_of(v, s->n);
    s->gain = interval_of_difference(pair, pair_base, pairs);
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
}

// Cells. Those of text and Markdown are rounded; CSV has the numbers.

enum { CELLS = TABLE_COLS };
struct row {
    int n;
    char head[CELLS][32], unit[CELLS][16], text[CELLS][96];
    double value[CELLS];
};

static void put_cell(struct row *r, const char *head, const char *unit, double value,
                     const char *text)
{
    if (r->n == CELLS)
        return;
    snprintf(r->head[r->n], sizeof r->head[0], "%s", head);
    snprintf(r->unit[r->n], sizeof r->unit[0], "%s", unit);
    snprintf(r->text[r->n], sizeof r->text[0], "%s", text);
    r->value[r->n++] = value;
}

static char *bytes_text(char buf[32], double bytes)
{
    return isnan(bytes) ? strcpy(buf, "-") : fmt_bytes(buf, (int64_t)bytes);
}

static void put_interval(struct row *r, const char *head, const char *unit, struct interval x,
                         bool sign)
{
    char t[40], half[40];
    fmt_fixed(half, x.half, 7, 4);
    fmt_fixed(t, x.mean, 9, 4);
    if (sign && x.mean >= 0)
        snprintf(t, sizeof t, "+%.4f", x.mean);
    put_cell(r, head, unit, x.mean, t);
    put_cell(r, "+-", unit, x.half, half);
}

static const char *way(const struct compare *c)
{
    return c->p.traffic == TRAFFIC_BOTH ? "both" : "up";
}

static void put_target(struct row *r, const struct compare *c, int t, const struct summary *s)
{
    char head[32], text[64], percent[24];
    const struct reached *x = &s->target[t];
    snprintf(percent, sizeof percent, "%.4g%%", 100 * c->target[t]);
    snprintf(head, sizeof head, "R %s", percent);
    put_cell(r, head, "", x->rounds.mean, fmt_fixed(text, x->rounds.mean, 6, 1));
    snprintf(head, sizeof head, "%s %s", way(c), percent);
    put_cell(r, head, "", x->bytes.mean, bytes_text(text, x->bytes.mean));
    snprintf(head, sizeof head, "x %s", percent);
    put_cell(r, head, "of base", x->ratio, fmt_fixed(text, x->ratio, 7, 2));
    snprintf(head, sizeof head, "n %s", percent);
    snprintf(text, sizeof text, "%zu/%zu", x->n, s->n);
    put_cell(r, head, "", (double)x->n, text);
}

static void fill(const struct compare *c, int i, const struct summary *s, struct row *r)
{
    char text[64];
    r->n = 0;
    put_cell(r, "method", "", (double)NAN, c->method[i].name);
    snprintf(text, sizeof text, "%zu/%d", s->n, c->n_seeds);
    put_cell(r, "seeds", "", (double)s->n, text);
    put_interval(r, c->p.score, "", s->score, false);
    struct interval none = {0, (double)NAN, (double)NAN};
    put_interval(r, "vs base", "", i == c->base ? none : s->gain, true);
    for (int t = 0; t < c->n_targets && r->n + 7 <= CELLS; t++)
        put_target(r, c, t, s);
    put_cell(r, "message", "B", s->message_bytes, fmt_fixed(text, s->message_bytes, 9, 0));
    put_cell(r, "bits", "a value", s->bits, fmt_fixed(text, s->bits, 7, 3));
    put_cell(r, "nmse", "", s->nmse, fmt_fixed(text, s->nmse, 6, 3));
}

// The second table: the score after so many bytes.
static void fill_at(const struct compare *c, int i, const struct summary *s, struct row *r)
{
    char t[32];
    r->n = 0;
    put_cell(r, "method", "", (double)NAN, c->method[i].name);
    for (int a = 0; a < c->n_at; a++) {
        put_interval(r, fmt_bytes(t, (int64_t)c->at_bytes[a]), "", s->at[a], false);
    }
}

typedef void (*filler)(const struct compare *, int, const struct summary *, struct row *);

static struct row *rows_of(const struct compare *c, filler f)
{
    struct row *rows = mem_alloc(MEM_OTHER, (size_t)c->n_methods * sizeof *rows);
    struct summary *s = mem_alloc(MEM_OTHER, sizeof *s);
    for (int i = 0; i < c->n_methods; i++) {
        summarise(c, i, s);
        f(c, i, s, &rows[i]);
    }
    mem_free(s);
    return rows;
}

static void print_rows(const struct compare *c, filler f, FILE *out)
{
    struct row *rows = rows_of(c, f);
    struct table t = {.out = out, .n_cols = rows[0].n};
    for (int k = 0; k < t.n_cols; k++) {
        size_t width = strlen(rows[0].head[k]);
        if (strlen(rows[0].unit[k]) + 2 > width && *rows[0].unit[k])
            width = strlen(rows[0].unit[k]) + 2;
        for (int i = 0; i < c->n_methods; i++)
            if (strlen(rows[i].text[k]) > width)
                width = strlen(rows[i].text[k]);
        t.col[k] = (struct table_col){rows[0].head[k], rows[0].unit[k], (int)width,
                                      k ? TABLE_RIGHT : TABLE_LEFT};
    }
    table_head(&t);
    for (int i = 0; i < c->n_methods; i++) {
        const char *cells[CELLS];
        for (int k = 0; k < t.n_cols; k++)
            cells[k] = rows[i].text[k];
        table_row(&t, cells);
    }
    mem_free(rows);
}

static const char *traffic(const struct compare *c)
{
    return c->p.traffic == TRAFFIC_BOTH ? "traffic" : "uplink";
}

static void print_legend(const struct compare *c, FILE *out)
{
    fprintf(out,
            "# %s: mean over seeds of the mean of the last %d evaluations, +- half of its 95%% "
            "confidence interval;\n"
            "# vs base: difference to %s on the same seeds. R, %s: rounds and %s until the "
            "mean of %d evaluations\n"
            "# reaches that part of the base's %s on the same seed, '-' unless every seed does "
            "(n of how many); x: how\n"
            "# many times less %s than the base, geometric mean over seeds on which both "
            "reach it. %s is every\n"
            "# byte of the frames %s, headers included.\n",
            c->p.score, c->p.last, c->method[c->base].name, way(c), traffic(c), c->p.trailing,
            c->p.score, traffic(c), c->p.traffic == TRAFFIC_BOTH ? "Traffic" : "Uplink",
            c->p.traffic == TRAFFIC_BOTH ? "both ways" : "that reached the server");
}

static const char *expanded(const struct compare_method *m, int n_seeds)
{
    for (int s = 0; s < n_seeds; s++)
        if (m->run[s])
            return m->run[s]->method;
    return m->cfg.fed.method;
}

void compare_print(const struct compare *c, FILE *out)
{
    for (int i = 0; i < c->n_methods; i++) {
        const struct compare_method *m = &c->method[i];
        fprintf(out, "# %s = %s%s%s\n", m->name, expanded(m, c->n_seeds), *m->options ? " " : "",
                m->options);
        if (m->budget && m->resolved)
            fprintf(out, "#   budget %.0f B per message: %.4g gives %.0f B (%d tried)\n",
                    m->target_bytes, m->found, m->got_bytes, m->probes);
        if (c->n_dims)
            fprintf(out, "#   %s%s%s\n", m->searched ? "chosen " : "search not finished",
                    m->searched ? m->setting : "",
                    m->at_edge ? " (at the edge of what was tried)" : "");
    }
    fputs("#\n", out);
    print_rows(c, fill, out);
    print_legend(c, out);
    if (c->n_at) {
        fprintf(out,
                "#\n# %s after so much %s (mean of %d evaluations; a run that ended before has its "
                "last)\n",
                c->p.score, traffic(c), c->p.trailing);
        print_rows(c, fill_at, out);
    }
}

static void describe_tried(const struct compare *c, const struct tried *t, char *out, size_t size)
{
    size_t used = 0;
    *out = '\0';
    for (int d = 0; d < c->n_dims; d++)
        for (int k = 0; k < c->dim[d].n_keys && used < size; k++)
            used += (size_t)snprintf(out + used, size - used, "%s%s=%s", used ? " " : "",
                                     c->dim[d].key[k], c->dim[d].value[t->at[d]][k]);
}

void compare_print_search(const struct compare *c, FILE *out)
{
    char text[COMPARE_SETTING], number[32];
    for (int i = 0; i < c->n_methods; i++) {
        const struct compare_method *m = &c->method[i];
        fprintf(out, "# search %s\n", m->name);
        for (int k = 0; k < m->n_tried; k++) {
            describe_tried(c, &m->tried[k], text, sizeof text);
            fprintf(out, "#   %9s  %s", fmt_fixed(number, m->tried[k].score, 9, 4), text);
            if (m->tried[k].seeds < c->n_search_seeds)
                fprintf(out, " (%d of %d seeds)", m->tried[k].seeds, c->n_search_seeds);
            fputs(!strcmp(text, m->setting) ? "  <\n" : "\n", out);
        }
    }
    fputs("#\n", out);
}

void compare_csv(const struct compare *c, FILE *out)
{
    struct row *a = rows_of(c, fill), *b = rows_of(c, fill_at);
    for (int k = 0; k < a->n; k++) {
        bool ci = k && !strcmp(a->head[k], "+-");
        fprintf(out, "%s%s%s", k ? "," : "", a->head[k - ci], ci ? " ci95" : "");
    }
    for (int k = 1; k < b->n; k++)
        fprintf(out, ",at %s%s", b->head[k - (k % 2 == 0)], k % 2 ? "" : " ci95");
    fputs(",setting,expanded\r\n", out);
    for (int i = 0; i < c->n_methods; i++) {
        const struct compare_method *m = &c->method[i];
        export_csv_text(out, m->name);
        for (int k = 1; k < a[i].n; k++)
            fprintf(out, isfinite(a[i].value[k]) ? ",%.10g" : ",", a[i].value[k]);
        for (int k = 1; k < b[i].n; k++)
            fprintf(out, isfinite(b[i].value[k]) ? ",%.10g" : ",", b[i].value[k]);
        char setting[2 * COMPARE_SETTING];
        snprintf(setting, sizeof setting, "%s%s%s", m->options, *m->options ? " " : "", m->setting);
        fputc(',', out);
        export_csv_text(out, setting);
        fputc(',', out);
        export_csv_text(out, expanded(m, c->n_seeds));
        fputs("\r\n", out);
    }
    mem_free(a);
    mem_free(b);
}

static void markdown_rows(const struct compare *c, filler f, FILE *out)
{
    struct row *rows = rows_of(c, f);
    for (int k = 0; k < rows[0].n; k++)
        fprintf(out, "| %s%s%s%s ", rows[0].head[k], *rows[0].unit[k] ? " (" : "", rows[0].unit[k],
                *rows[0].unit[k] ? ")" : "");
    fputs("|\n", out);
    for (int k = 0; k < rows[0].n; k++)
        fputs(k ? "|--:" : "|---", out);
    fputs("|\n", out);
    for (int i = 0; i < c->n_methods; i++) {
        for (int k = 0; k < rows[i].n; k++)
            fprintf(out, "| %s ", rows[i].text[k]);
        fputs("|\n", out);
    }
    mem_free(rows);
}

void compare_markdown(const struct compare *c, FILE *out)
{
    markdown_rows(c, fill, out);
    if (c->n_at) {
        fputc('\n', out);
        markdown_rows(c, fill_at, out);
    }
    fputs("\n| method | settings | written out |\n|---|---|---|\n", out);
    for (int i = 0; i < c->n_methods; i++) {
        const struct compare_method *m = &c->method[i];
        fprintf(out, "| %s | %s%s%s%s | `%s` |\n", m->name, m->options, *m->options ? " " : "",
                m->setting, m->at_edge ? " (edge)" : "", expanded(m, c->n_seeds));
    }
}

// JSON.

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

static void json_number(struct jsonw *j, const char *key, double v)
{
    jsonw_key(j, key);
    jsonw_num(j, v);
}

static void json_text(struct jsonw *j, const char *key, const char *text)
{
    jsonw_key(j, key);
    jsonw_text(j, text);
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
        json_text(j, "key", key);
        json_number(j, "final", v->finite ? curve_final(v, c->p.last) : (double)NAN);
        json_number(j, "floor", v->floor);
        json_number(j, "message_bytes", v->message_bytes);
        json_number(j, "nmse", v->nmse);
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
        describe_tried(c, &m->tried[k], text, sizeof text);
        jsonw_object(j);
        json_text(j, "setting", text);
        json_number(j, "score", m->tried[k].score);
        jsonw_end(j);
    }
    jsonw_end(j);
}

static void json_summary(struct jsonw *j, const struct compare *c, const struct summary *s)
{
    json_interval(j, "final", s->score);
    json_interval(j, "vs_base", s->gain);
    jsonw_key(j, "targets");
    jsonw_array(j);
    for (int t = 0; t < c->n_targets; t++) {
        const struct reached *x = &s->target[t];
        jsonw_object(j);
        json_number(j, "target", c->target[t]);
        jsonw_key(j, "reached");
        jsonw_int(j, (int64_t)x->n);
        json_interval(j, "rounds", x->rounds);
        json_interval(j, "uplink_bytes", x->bytes);
        json_interval(j, "time_modelled_ns", x->time_ns);
        json_number(j, "uplink_ratio", x->ratio);
        json_numbers(j, "round_by_seed", x->round_at, (size_t)c->n_seeds);
        json_numbers(j, "uplink_by_seed", x->bytes_at, (size_t)c->n_seeds);
        jsonw_end(j);
    }
    jsonw_end(j);
    jsonw_key(j, "at_bytes");
    jsonw_array(j);
    for (int a = 0; a < c->n_at; a++) {
        jsonw_object(j);
        json_number(j, "bytes", c->at_bytes[a]);
        json_interval(j, "score", s->at[a]);
        jsonw_end(j);
    }
    jsonw_end(j);
    json_number(j, "message_bytes", s->message_bytes);
    json_number(j, "bits_per_value", s->bits);
    json_number(j, "nmse", s->nmse);
    json_number(j, "uplink_total_bytes", s->total_bytes);
}

static void json_method(struct jsonw *j, const struct compare *c, const struct runs *r, int i)
{
    const struct compare_method *m = &c->method[i];
    struct summary *s = mem_alloc(MEM_OTHER, sizeof *s);
    summarise(c, i, s);
    jsonw_object(j);
    json_text(j, "name", m->name);
    json_text(j, "method", expanded(m, c->n_seeds));
    json_text(j, "options", m->options);
    json_text(j, "setting", m->setting);
    jsonw_key(j, "at_edge");
    jsonw_bool(j, m->at_edge);
    if (m->budget) {
        json_number(j, "budget_bytes", m->target_bytes);
        json_number(j, "budget_found", m->found);
        json_number(j, "budget_got_bytes", m->got_bytes);
    }
    json_summary(j, c, s);
    json_search(j, c, m);
    json_runs(j, c, r, m);
    jsonw_end(j);
    mem_free(s);
}

void compare_json(const struct compare *c, const struct runs *r, FILE *out)
{
    struct jsonw j;
    jsonw_begin(&j, out);
    jsonw_object(&j);
    json_text(&j, "config", c->path);
    json_text(&j, "suite_version", buildinfo.version);
    json_text(&j, "git_rev", buildinfo.git_rev);
    json_text(&j, "score", c->p.score);
    json_text(&j, "traffic", way(c)); // what is called uplink below
    jsonw_key(&j, "higher_is_better");
    jsonw_bool(&j, c->higher);
    json_text(&j, "base", c->method[c->base].name);
    jsonw_key(&j, "last");
    jsonw_int(&j, c->p.last);
    jsonw_key(&j, "trailing");
    jsonw_int(&j, c->p.trailing);
    jsonw_key(&j, "methods");
    jsonw_array(&j);
    for (int i = 0; i < c->n_methods; i++)
        json_method(&j, c, r, i);
    jsonw_end(&j);
    jsonw_end(&j);
}
