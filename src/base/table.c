#include "base/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const table_forms[] = {
    [TABLE_TEXT] = "text", [TABLE_MD] = "md",       [TABLE_CSV] = "csv",
    [TABLE_JSON] = "json", [TABLE_JSONL] = "jsonl", NULL};
static enum table_form chosen = TABLE_TEXT;

static const char *title;

void table_title(const char *name)
{
    title = name;
}

const char *table_titled(void)
{
    return title;
}

enum table_form table_form(void)
{
    return chosen;
}

int table_set_form(const char *name, struct err *err)
{
    for (int i = 0; table_forms[i]; i++)
        if (strcmp(name, table_forms[i]) == 0) {
            chosen = (enum table_form)i;
            return 0;
        }
    return err_set(err, "-o %s: it is text, md, csv, json or jsonl", name);
}

bool table_for_people(void)
{
    return chosen == TABLE_TEXT || chosen == TABLE_MD;
}

// Columns a text takes on the screen: UTF-8 code points.
static int columns(const char *s)
{
    int n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0u) != 0x80u;
    return n;
}

// A row of data begins in column 0 where its first column is left-aligned, under a head that begins
// after "# ": tools that read such tables look for the size at the start of the line.
static void line(const struct table *t, char lead, const char *const *cells)
{
    bool flush = lead != '#' && t->n_cols > 0 && !table_right(t->col[0].align);
    if (!flush)
        fputc(lead, t->out);
    int owed = flush ? -1 : 0; // spaces held back, so that no line ends in one
    for (int i = 0; i < t->n_cols; i++) {
        const char *cell = cells[i] && cells[i][0] ? cells[i] : lead == '#' ? "" : "-";
        int rest = t->col[i].width - columns(cell);
        rest = rest > 0 ? rest : 0;
        owed += i ? 2 : 1;
        if (table_right(t->col[i].align)) {
            owed += rest;
            rest = 0;
        }
        if (cell[0]) {
            fprintf(t->out, "%*s%s", owed, "", cell);
            owed = 0;
        }
        owed += rest + (flush && i == 0 ? 2 : 0);
    }
    fputc('\n', t->out);
}

static void text_head(const struct table *t)
{
    const char *head[TABLE_COLS], *unit[TABLE_COLS];
    char bracket[TABLE_COLS][32];
    for (int i = 0; i < t->n_cols; i++) {
        const char *u = t->col[i].unit;
        head[i] = t->col[i].head;
        snprintf(bracket[i], sizeof bracket[i], u && u[0] ? "(%s)" : "%s", u ? u : "");
        unit[i] = bracket[i];
    }
    line(t, '#', head);
    line(t, '#', unit);
}

static void text_row(const struct table *t, const char *const *cells)
{
    line(t, ' ', cells);
}

static const struct table_writer table_text_writer = {text_head, text_row};
static const struct table_writer *const writers[] = {[TABLE_TEXT] = &table_text_writer,
                                                     [TABLE_MD] = &table_md,
                                                     [TABLE_CSV] = &table_csv,
                                                     [TABLE_JSON] = NULL,
                                                     [TABLE_JSONL] = &table_jsonl};

void table_head(const struct table *t)
{
    if (writers[chosen])
        writers[chosen]->head(t);
}

// What a person reads of a cell: "12.3 us" of 12345.
static const char *scaled_cell(enum table_align kind, const char *cell, char buf[32])
{
    char *end;
    if ((kind != TABLE_NS && kind != TABLE_BYTES) || !cell || !*cell)
        return cell;
    int64_t v = strtoll(cell, &end, 10);
    return *end ? cell : kind == TABLE_NS ? fmt_time(buf, v) : fmt_bytes(buf, v);
}

void table_row(const struct table *t, const char *const *cells)
{
    const char *read[TABLE_COLS];
    char text[TABLE_COLS][32];
    for (int i = 0; i < t->n_cols; i++)
        read[i] = table_for_people() ? scaled_cell(t->col[i].align, cells[i], text[i]) : cells[i];
    if (writers[chosen])
        writers[chosen]->row(t, read);
}

// A stream that knows whether it stands in a note or in data, character by character.
struct notes {
    FILE *out;
    bool begun, in_note, after_data, any; // begun: something of this line was seen
    bool blank;                           // of a note: nothing but its '#' so far
    int ends;                             // of lines, since the last letter
};

// Of Markdown one empty line is as good as two.
static void put(struct notes *s, char c)
{
    s->ends = c == '\n' ? s->ends + 1 : 0;
    if (chosen != TABLE_MD || s->ends <= 2)
        fputc(c, s->out);
}

static void put_prose(struct notes *s, char c)
{
    if (c == '\n') {
        if (!s->blank)
            fputs("  ", s->out); // two blanks: the line ends here
        put(s, c);
        return;
    }
    if (s->blank && c == ' ')
        return;
    s->blank = false;
    if (strchr("*_<`\\", c))
        fputc('\\', s->out);
    put(s, c);
}

static ssize_t filter(void *cookie, const char *text, size_t n)
{
    struct notes *s = cookie;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        bool first = !s->begun;
        if (first) {
            s->in_note = c == '#';
            s->blank = true;
            // Markdown: a table and what stands around it are apart.
            if (chosen == TABLE_MD && s->any && s->in_note == s->after_data)
                put(s, '\n');
            s->any = true;
        }
        s->begun = c != '\n';
        s->after_data = !s->in_note;
        if (!s->in_note)
            put(s, c);
        else if (chosen == TABLE_MD && !(first && c == '#'))
            put_prose(s, c);
    }
    fflush(s->out);
    return ferror(s->out) ? 0 : (ssize_t)n;
}

FILE *table_stream(FILE *out)
{
    static struct notes notes;
    notes = (struct notes){.out = out, .ends = 2};
    if (chosen == TABLE_TEXT || chosen == TABLE_CSV)
        return out;
    FILE *f = fopencookie(&notes, "w", (cookie_io_functions_t){.write = filter});
    if (!f)
        die(STATUS_ENV, "no memory for a stream");
    setvbuf(f, NULL, _IOLBF, BUFSIZ);
    return f;
}

char *fmt_fixed(char *buf, double v, int width, int decimals)
{
    if (v != v)
        return strcpy(buf, "-");
    if (v - v != 0)
        return strcpy(buf, v > 0 ? "inf" : "-inf");
    char text[400];
    int d = decimals;
    while (snprintf(text, sizeof text, "%.*f", d, v) > width && d > 0)
        d--;
    // Too large even without decimals: shed digits of the mantissa instead.
    for (d = 5; (int)strlen(text) > width && d >= 0; d--)
        snprintf(text, sizeof text, "%.*e", d, v);
    snprintf(buf, 32, "%.31s", text);
    return buf;
}

// Three digits, in the unit where the rounded number stays below 1000 (the last unit takes the
// rest).
static char *scaled(char *buf, double v, const char *const *units, int n_units)
{
    int u = 0;
    while (u + 1 < n_units && v >= (u ? 999.5 : 1000)) {
        v /= 1000;
        u++;
    }
    int decimals = u == 0 || v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2;
    snprintf(buf, 32, "%.*f %s", decimals, v, units[u]);
    return buf;
}

char *fmt_time(char *buf, int64_t ns)
{
    static const char *const units[] = {"ns", "us", "ms", "s"};
    if (ns < 0)
        return strcpy(buf, "-");
    if (ns < 59950000000)
        return scaled(buf, (double)ns, units, 4);
    int64_t s = ns / 1000000000 + (ns % 1000000000 >= 500000000);
    if (s < 3600)
        snprintf(buf, 32, "%d m %02d s", (int)(s / 60), (int)(s % 60));
    else
        snprintf(buf, 32, "%lld h %02d m", (long long)((s + 30) / 3600), (int)((s + 30) / 60 % 60));
    return buf;
}

char *fmt_bytes(char *buf, int64_t bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    if (bytes < 0)
        return strcpy(buf, "-");
    return scaled(buf, (double)bytes, units, 6);
}

char *fmt_mib(char *buf, uint64_t bytes)
{
    double mib = (double)bytes / 1048576;
    snprintf(buf, 32, "%.*f MiB", mib < 99.95 ? 1 : 0, mib);
    return buf;
}

char *fmt_count(char *buf, int64_t n)
{
    if (n < 0)
        return strcpy(buf, "-");
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%lld", (long long)n);
    char *p = buf;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            *p++ = ',';
        *p++ = digits[i];
    }
    *p = 0;
    return buf;
}

char *fmt_whole(char *buf, int64_t n)
{
    if (n < 0)
        return strcpy(buf, "-");
    snprintf(buf, 32, "%lld", (long long)n);
    return buf;
}

void table_text(FILE *out, const char *label, const char *text, const char *end)
{
    fprintf(out, "  %-9s ", label);
    for (const char *p = text; *p; p++)
        if (*p == '\n')
            fputs("\\n", out);
        else
            fputc((unsigned char)*p < 32 || *p == 127 ? ' ' : *p, out);
    fprintf(out, "%s\n", end);
}
