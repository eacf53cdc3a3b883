// The table of a comparison: as text, Markdown, LaTeX and CSV.
#include "base/mem.h"
#include "base/table.h"
#include "compare/compare_summary.h"
#include "fed/method.h"
#include "report/export.h"

#include <math.h>
#include <string.h>

// Cells. Those of text and Markdown are rounded; CSV has the numbers.

enum { CELLS = TABLE_COLS };
struct row {
    int n;
    char head[CELLS][32], unit[CELLS][16], text[CELLS][96];
    double value[CELLS];
    enum table_align kind[CELLS]; // of a quantity; 0 = no quantity
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

// Bytes or nanoseconds: scaled for people, who may be those of --markdown and --latex, too.
static void put_quantity(struct row *r, const char *head, const char *unit, double value,
                         enum table_align kind)
{
    char t[32];
    char *(*text)(char *, int64_t) = !table_for_people() ? fmt_whole
                                     : kind == TABLE_NS  ? fmt_time
                                                         : fmt_bytes;
    if (r->n < CELLS)
        r->kind[r->n] = kind;
    put_cell(r, head, unit, value, isnan(value) ? "-" : text(t, (int64_t)value));
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

static void put_target(struct row *r, const struct compare *c, int t, const struct summary *s)
{
    char head[32], text[64], percent[24];
    const struct reached *x = &s->target[t];
    snprintf(percent, sizeof percent, "%.4g%%", 100 * c->target[t]);
    snprintf(head, sizeof head, "R %s", percent);
    put_cell(r, head, "", x->rounds.mean, fmt_fixed(text, x->rounds.mean, 6, 1));
    snprintf(head, sizeof head, "%s %s", compare_way(c), percent);
    put_quantity(r, head, "", x->bytes.mean, TABLE_BYTES);
    snprintf(head, sizeof head, "x %s", percent);
    put_cell(r, head, "of base", x->less_bytes.mean, fmt_fixed(text, x->less_bytes.mean, 7, 2));
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
    if (c->n_seeds >= TEST_SEEDS) {
        put_cell(r, "d", "paired", s->test.dz, fmt_fixed(text, s->test.dz, 7, 2));
        put_cell(r, "p", "Holm", s->p_holm, fmt_fixed(text, s->p_holm, 7, 3));
    }
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

// The last table: what a method costs beside its messages.
static void fill_cost(const struct compare *c, int i, const struct summary *s, struct row *r)
{
    r->n = 0;
    put_cell(r, "method", "", (double)NAN, c->method[i].name);
    put_quantity(r, "up", "of a run", s->up_bytes, TABLE_BYTES);
    put_quantity(r, "down", "of a run", s->down_bytes, TABLE_BYTES);
    put_quantity(r, "state", "of a client", s->state_bytes, TABLE_BYTES);
    put_quantity(r, "server", "of a round", s->server_ns, TABLE_NS);
    put_quantity(r, "memory", "at most", s->memory_bytes, TABLE_BYTES);
    put_cell(r, "server sees", "", (double)NAN, method_sees(c->method[i].text));
}

typedef void (*filler)(const struct compare *, int, const struct summary *, struct row *);

static struct row *rows_of(const struct compare *c, filler f)
{
    struct row *rows = mem_alloc(MEM_OTHER, (size_t)c->n_methods * sizeof *rows);
    struct summary *all = summarise_all(c);
    for (int i = 0; i < c->n_methods; i++)
        f(c, i, &all[i], &rows[i]);
    mem_free(all);
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
                                      rows[0].kind[k] ? rows[0].kind[k]
                                      : k             ? TABLE_RIGHT
                                                      : TABLE_LEFT};
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

static void print_legend(const struct compare *c, FILE *out)
{
    fprintf(out,
            "# %s: mean over seeds of the mean of the last %d evaluations, +- half of its 95%% "
            "confidence interval;\n"
            "# vs base: difference to %s on the same seeds. R, %s: rounds and %s until the "
            "mean of %d evaluations\n"
            "# reaches that part of the base's %s on the same seed, '-' unless every seed does "
            "(n of how many); x: how\n"
            "# many times less %s than the base, geometric mean over seeds. %s is every byte of "
            "the frames\n# %s, headers included.\n",
            c->p.score, c->p.last, c->method[c->base].name, compare_way(c), compare_traffic(c),
            c->p.trailing, c->p.score, compare_traffic(c),
            c->p.traffic == TRAFFIC_BOTH ? "Traffic" : "Uplink",
            c->p.traffic == TRAFFIC_BOTH ? "both ways" : "that reached the server");
    if (c->n_seeds >= TEST_SEEDS)
        fputs("# d: that difference over its standard deviation; p: Wilcoxon's signed-rank test of "
              "it "
              "over seeds, corrected\n# by Holm for all methods of the table.\n",
              out);
}

static void print_sentences(const struct compare *c, FILE *out)
{
    struct summary *all = summarise_all(c);
    char text[1024];
    fputs("#\n", out);
    for (int i = 0; i < c->n_methods; i++) {
        summary_sentence(c, i, &all[i], text, sizeof text);
        fprintf(out, "# %s\n", text);
    }
    mem_free(all);
}

void compare_print(const struct compare *c, FILE *out)
{
    for (int i = 0; i < c->n_methods; i++) {
        const struct compare_method *m = &c->method[i];
        fprintf(out, "# %s = %s%s%s\n", m->name, compare_expanded(m, c->n_seeds),
                *m->options ? " " : "", m->options);
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
    print_sentences(c, out);
    if (c->n_at) {
        fprintf(out,
                "#\n# %s after so much %s (mean of %d evaluations; a run that ended before has its "
                "last)\n",
                c->p.score, compare_traffic(c), c->p.trailing);
        print_rows(c, fill_at, out);
    }
    fputs(
        "#\n# What it costs: bytes of a run each way, what a client keeps between its rounds, the "
        "server's time of a round\n"
        "# (broadcast, decode, aggregate and commit; the median, as measured on this machine with "
        "what else ran there),\n"
        "# and the most that the process of a rank held\n",
        out);
    print_rows(c, fill_cost, out);
}

void compare_print_search(const struct compare *c, FILE *out)
{
    char text[COMPARE_SETTING], number[32];
    for (int i = 0; i < c->n_methods; i++) {
        const struct compare_method *m = &c->method[i];
        fprintf(out, "# search %s\n", m->name);
        for (int k = 0; k < m->n_tried; k++) {
            compare_describe_tried(c, &m->tried[k], text, sizeof text);
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
    struct summary *all = summarise_all(c);
    for (int k = 0; k < a->n; k++) {
        bool ci = k && !strcmp(a->head[k], "+-");
        fprintf(out, "%s%s%s", k ? "," : "", a->head[k - ci], ci ? " ci95" : "");
    }
    for (int k = 1; k < b->n; k++)
        fprintf(out, ",at %s%s", b->head[k - (k % 2 == 0)], k % 2 ? "" : " ci95");
    fputs(",up bytes,down bytes,client state bytes,server round ns,memory bytes,setting,"
          "expanded\r\n",
          out);
    for (int i = 0; i < c->n_methods; i++) {
        const struct compare_method *m = &c->method[i];
        export_csv_text(out, m->name);
        for (int k = 1; k < a[i].n; k++)
            fprintf(out, isfinite(a[i].value[k]) ? ",%.10g" : ",", a[i].value[k]);
        for (int k = 1; k < b[i].n; k++)
            fprintf(out, isfinite(b[i].value[k]) ? ",%.10g" : ",", b[i].value[k]);
        const double cost[] = {all[i].up_bytes, all[i].down_bytes, all[i].state_bytes,
                               all[i].server_ns, all[i].memory_bytes};
        for (size_t k = 0; k < ARRAY_LEN(cost); k++)
            fprintf(out, isfinite(cost[k]) ? ",%.10g" : ",", cost[k]);
        char setting[2 * COMPARE_SETTING];
        snprintf(setting, sizeof setting, "%s%s%s", m->options, *m->options ? " " : "", m->setting);
        fputc(',', out);
        export_csv_text(out, setting);
        fputc(',', out);
        export_csv_text(out, compare_expanded(m, c->n_seeds));
        fputs("\r\n", out);
    }
    mem_free(a);
    mem_free(b);
    mem_free(all);
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
    fputc('\n', out);
    markdown_rows(c, fill_cost, out);
    fputs("\n| method | settings | written out |\n|---|---|---|\n", out);
    for (int i = 0; i < c->n_methods; i++) {
        const struct compare_method *m = &c->method[i];
        fprintf(out, "| %s | %s%s%s%s | `%s` |\n", m->name, m->options, *m->options ? " " : "",
                m->setting, m->at_edge ? " (edge)" : "", compare_expanded(m, c->n_seeds));
    }
}

// LaTeX, with the package booktabs; a value and its half width are one cell.

static void latex_row(const struct row *r, bool head, FILE *out)
{
    for (int k = 0; k < r->n; k++) {
        bool half = k + 1 < r->n && !strcmp(r->head[k + 1], "+-");
        fputs(k ? " & " : "", out);
        if (head) {
            table_latex(out, r->head[k]);
            if (*r->unit[k]) {
                fputs(" (", out);
                table_latex(out, r->unit[k]);
                fputc(')', out);
            }
        } else if (half && isfinite(r->value[k + 1])) {
            fprintf(out, "$%s \\pm %s$", r->text[k], r->text[k + 1]);
        } else if (k && isfinite(r->value[k]) && r->value[k] < 0) {
            fprintf(out, "$%s$", r->text[k]);
        } else {
            table_latex(out, r->text[k]);
        }
        k += half;
    }
    fputs(" \\\\\n", out);
}

static void latex_rows(const struct compare *c, filler f, FILE *out)
{
    struct row *rows = rows_of(c, f);
    fputs("\\begin{tabular}{l", out);
    for (int k = 1; k < rows[0].n; k++)
        fputs(strcmp(rows[0].head[k], "+-") ? "r" : "", out);
    fputs("}\n\\toprule\n", out);
    latex_row(&rows[0], true, out);
    fputs("\\midrule\n", out);
    for (int i = 0; i < c->n_methods; i++)
        latex_row(&rows[i], false, out);
    fputs("\\bottomrule\n\\end{tabular}\n", out);
    mem_free(rows);
}

void compare_latex(const struct compare *c, FILE *out)
{
    fputs("% fstq compare; \\usepackage{booktabs}\n", out);
    latex_rows(c, fill, out);
    if (c->n_at) {
        fputc('\n', out);
        latex_rows(c, fill_at, out);
    }
    fputc('\n', out);
    latex_rows(c, fill_cost, out);
}
