// How tables are written for machines and pages: Markdown, CSV, JSON lines.
#include "base/table.h"

#include "base/jsonw.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

// "memcpy (MB/s)", "time measured (ns)"; a second column of the same name is numbered.
static const char *column_name(const struct table *t, int i, char *to, size_t size)
{
    const struct table_col *c = &t->col[i];
    int same = 1;
    for (int k = 0; k < i; k++)
        same += strcmp(t->col[k].head, c->head) == 0 &&
                strcmp(t->col[k].unit ? t->col[k].unit : "", c->unit ? c->unit : "") == 0;
    const char *said = c->unit ? c->unit : "", *whole = "";
    if (table_form() != TABLE_MD)
        whole = c->align == TABLE_NS ? "ns" : c->align == TABLE_BYTES ? "B" : "";
    int n = *whole  ? snprintf(to, size, "%s%s%s (%s)", c->head, *said ? " " : "", said, whole)
            : *said ? snprintf(to, size, "%s (%s)", c->head, said)
                    : snprintf(to, size, "%s", c->head);
    if (same > 1 && n > 0 && (size_t)n < size)
        snprintf(to + n, size - (size_t)n, " %d", same);
    return to;
}

static bool missing(const char *cell)
{
    return !cell || !*cell || strcmp(cell, "-") == 0;
}

// "1,234,567" as 1234567: what was grouped for the eye.
static const char *ungrouped(const char *cell, char *to, size_t size)
{
    size_t n = strlen(cell), k = 0, lead = strcspn(cell, ",");
    if (n >= size || lead == n || lead == 0 || lead > 3 || (n - lead) % 4 != 0)
        return cell;
    for (size_t i = 0; i < n; i++) {
        bool comma = i >= lead && (i - lead) % 4 == 0;
        if (comma ? cell[i] != ',' : !isdigit((unsigned char)cell[i]))
            return cell;
        if (!comma)
            to[k++] = cell[i];
    }
    to[k] = '\0';
    return to;
}

// What begins a tag or ends a cell; in code nothing begins one.
static bool escaped(const char *s, bool code)
{
    bool tag = *s == '<' && (isalpha((unsigned char)s[1]) || (s[1] && strchr("/!?", s[1])));
    return *s == '|' || (!code && (tag || strchr("\\*~", *s)));
}

static void md_cell(FILE *out, const char *s, bool code)
{
    fputs(code ? "| `" : "| ", out);
    for (; *s; s++)
        fprintf(out, escaped(s, code) ? "\\%c" : "%c", *s);
    fputs(code ? "` " : " ", out);
}

static void md_head(const struct table *t)
{
    char name[96];
    for (int i = 0; i < t->n_cols; i++)
        md_cell(t->out, column_name(t, i, name, sizeof name), false);
    fputs("|\n", t->out);
    for (int i = 0; i < t->n_cols; i++)
        fputs(table_right(t->col[i].align) ? "|--:" : "|:--", t->out);
    fputs("|\n", t->out);
}

static void md_row(const struct table *t, const char *const *cells)
{
    for (int i = 0; i < t->n_cols; i++)
        md_cell(t->out, missing(cells[i]) ? "-" : cells[i],
                t->col[i].align == TABLE_CODE && !missing(cells[i]));
    fputs("|\n", t->out);
}

static void csv_cell(FILE *out, const char *s)
{
    bool quote = s[strcspn(s, ",\"\r\n")] || *s == '#';
    if (quote)
        fputc('"', out);
    for (; *s; s++) {
        if (*s == '"')
            fputc('"', out);
        fputc(*s, out);
    }
    if (quote)
        fputc('"', out);
}

static void csv_head(const struct table *t)
{
    char name[96];
    for (int i = 0; i < t->n_cols; i++) {
        fputs(i ? "," : "", t->out);
        csv_cell(t->out, column_name(t, i, name, sizeof name));
    }
    fputc('\n', t->out);
}

static void csv_row(const struct table *t, const char *const *cells)
{
    char digits[32];
    for (int i = 0; i < t->n_cols; i++) {
        fputs(i ? "," : "", t->out);
        if (!missing(cells[i]))
            csv_cell(t->out, ungrouped(cells[i], digits, sizeof digits));
    }
    fputc('\n', t->out);
}

void table_latex(FILE *out, const char *text)
{
    static const char marks[] = "&%$#_{}";
    static const struct {
        char c;
        const char *word;
    } words[] = {{'\\', "\\textbackslash{}"},  {'~', "\\textasciitilde{}"},
                 {'^', "\\textasciicircum{}"}, {'<', "\\textless{}"},
                 {'>', "\\textgreater{}"},     {'|', "\\textbar{}"},
                 {'"', "\\textquotedbl{}"}};
    static const struct {
        const char *sign, *word;
    } signs[] = {{"±", "$\\pm$"}, {"×", "$\\times$"}};
    for (const char *s = text; *s; s++) {
        const char *word = NULL;
        for (size_t i = 0; i < ARRAY_LEN(signs); i++)
            if (strncmp(s, signs[i].sign, 2) == 0)
                word = signs[i].word;
        s += word != NULL;
        for (size_t i = 0; !word && i < ARRAY_LEN(words); i++)
            word = words[i].c == *s ? words[i].word : NULL;
        if (!word && s == text && *s == '-' && isdigit((unsigned char)s[1]))
            word = "$-$";
        if (word)
            fputs(word, out);
        else
            fprintf(out, strchr(marks, *s) ? "\\%c" : "%c", *s);
    }
}

// As JSON writes them: strtod takes more (hexadecimal, inf, +1, .5, 007).
static bool is_number(const char *s)
{
    const char *digits = s + (*s == '-');
    char *end;
    if (s[strspn(s, "0123456789+-.eE")] || !isdigit((unsigned char)*digits) ||
        (*digits == '0' && isdigit((unsigned char)digits[1])))
        return false;
    strtod(s, &end);
    return !*end && end[-1] != '.';
}

static void no_head(const struct table *t)
{
    (void)t;
}

static void jsonl_row(const struct table *t, const char *const *cells)
{
    struct jsonw j;
    char name[96], digits[32];
    jsonw_begin(&j, t->out);
    j.compact = true;
    jsonw_object(&j);
    if (table_titled())
        jsonw_key_text(&j, "table", table_titled());
    for (int i = 0; i < t->n_cols; i++) {
        jsonw_key(&j, column_name(t, i, name, sizeof name));
        const char *cell = missing(cells[i]) ? NULL : ungrouped(cells[i], digits, sizeof digits);
        if (!cell)
            jsonw_raw(&j, "null");
        else if (is_number(cell))
            jsonw_raw(&j, cell);
        else
            jsonw_text(&j, cell);
    }
    jsonw_end(&j); // and the line
}

const struct table_writer table_md = {md_head, md_row};
const struct table_writer table_csv = {csv_head, csv_row};
const struct table_writer table_jsonl = {no_head, jsonl_row};
