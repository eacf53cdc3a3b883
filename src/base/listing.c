#include "base/listing.h"

#include "base/jsonw.h"
#include "base/mem.h"
#include "base/table.h"

#include <string.h>

static const struct table_col columns[LIST_COLUMNS] = {
    [LIST_LIST] = {.head = "List"},
    [LIST_PART] = {.head = "Part"},
    [LIST_OF] = {.head = "Of", .align = TABLE_CODE},
    [LIST_NAME] = {.head = "Name", .align = TABLE_CODE},
    [LIST_DEFAULT] = {.head = "Default", .align = TABLE_CODE},
    [LIST_RANGE] = {.head = "Range"},
    [LIST_WHAT] = {.head = "What it is"},
    [LIST_NOTES] = {.head = "Notes"}};
static const char *const keys[LIST_COLUMNS] = {"list",    "part",  "of",   "name",
                                               "default", "range", "what", "notes"};

static bool is_text(void)
{
    return table_form() == TABLE_TEXT;
}

static char *copy(const char *text)
{
    size_t n = strlen(text) + 1;
    return memcpy(mem_alloc(MEM_OTHER, n), text, n);
}

static struct listing_row *add(struct listing *l, const char *name, const char *what)
{
    l->row = mem_grow(MEM_OTHER, l->row, l->n, l->n + 1, &l->cap, sizeof *l->row);
    struct listing_row *r = &l->row[l->n++];
    const char *cell[LIST_COLUMNS] = {[LIST_LIST] = l->list,
                                      [LIST_PART] = l->part,
                                      [LIST_OF] = l->of,
                                      [LIST_NAME] = name,
                                      [LIST_WHAT] = what};
    for (int i = 0; i < LIST_COLUMNS; i++)
        r->cell[i] = cell[i] && *cell[i] ? copy(cell[i]) : NULL;
    return r;
}

static void put_table(const struct listing *l)
{
    // Markdown names list and part above the table, and has no room for what is empty.
    bool md = table_form() == TABLE_MD;
    int from[LIST_COLUMNS];
    struct table t = {.out = l->out};
    for (int i = 0; i < LIST_COLUMNS; i++) {
        bool used = !md;
        for (size_t k = 0; md && i > LIST_PART && k < l->n; k++)
            used |= l->row[k].cell[i] != NULL;
        if (used) {
            from[t.n_cols] = i;
            t.col[t.n_cols++] = columns[i];
        }
    }
    if (md && l->headed)
        fputc('\n', l->out);
    if (md || !l->headed)
        table_head(&t);
    for (size_t k = 0; k < l->n; k++) {
        const char *cells[LIST_COLUMNS] = {0};
        for (int i = 0; i < t.n_cols; i++)
            cells[i] = l->row[k].cell[from[i]];
        table_row(&t, cells);
    }
}

static void put_json(const struct listing *l)
{
    struct jsonw j;
    jsonw_begin(&j, l->out);
    jsonw_object(&j);
    jsonw_key(&j, "rows");
    jsonw_array(&j);
    for (size_t k = 0; k < l->n; k++) {
        jsonw_object(&j);
        for (int i = 0; i < LIST_COLUMNS; i++)
            if (l->row[k].cell[i])
                jsonw_key_text(&j, keys[i], l->row[k].cell[i]);
        jsonw_end(&j);
    }
    jsonw_end(&j);
    jsonw_end(&j);
    fputc('\n', l->out);
}

static void flush(struct listing *l)
{
    if (l->n && table_form() == TABLE_JSON)
        put_json(l);
    else if (l->n)
        put_table(l);
    l->headed |= l->n > 0;
    for (size_t k = 0; k < l->n; k++)
        for (int i = 0; i < LIST_COLUMNS; i++)
            mem_free(l->row[k].cell[i]);
    l->n = 0;
}

void listing_begin(struct listing *l, FILE *out)
{
    *l = (struct listing){.out = out, .width = 13};
    table_title(NULL);
}

void listing_end(struct listing *l)
{
    flush(l);
    mem_free(l->row);
    fflush(l->out);
}

// Markdown has a table for each part, the other forms have one.
static void next_table(struct listing *l)
{
    if (table_form() == TABLE_MD)
        flush(l);
    l->of = NULL;
}

// A line that is no row: a note of text, or prose of Markdown, which blank lines set apart.
static void lead(struct listing *l)
{
    if (table_form() == TABLE_MD)
        fputs(l->headed ? "\n" : "", l->out);
    else
        fputs("# ", l->out);
    l->headed = true;
}

void listing_of(struct listing *l, const char *name, const char *help)
{
    next_table(l);
    l->list = name;
    *l->part = '\0';
    l->width = 13;
    if (table_form() != TABLE_MD || !help)
        return;
    lead(l);
    fprintf(l->out, "## %s: %s\n", name, help);
}

void listing_part(struct listing *l, const char *name, const char *text)
{
    bool first = !*l->part, md = table_form() == TABLE_MD;
    next_table(l);
    snprintf(l->part, sizeof l->part, "%s", name);
    if (!md && !is_text())
        return;
    if (is_text() && !first)
        fputs("#\n", l->out);
    lead(l);
    if (md)
        fprintf(l->out, *text ? "**%s**: " : "**%s**", name);
    else
        fprintf(l->out, *text ? "%-*s " : "%*s", *text ? l->width : 0, name);
    for (; *text; text++)
        if (*text != '\n')
            fputc(*text, l->out);
        else if (md)
            fputc(' ', l->out);
        else
            fprintf(l->out, "\n# %*s ", l->width, "");
    fputc('\n', l->out);
}

void listing_say(struct listing *l, const char *text)
{
    next_table(l);
    if (!is_text() && table_form() != TABLE_MD)
        return;
    lead(l);
    fprintf(l->out, "%s\n", text);
}

static void append(char **cell, const char *label, const char *text)
{
    size_t had = *cell ? strlen(*cell) : 0, size = had + strlen(label) + strlen(text) + 4;
    char *grown = mem_alloc(MEM_OTHER, size);
    snprintf(grown, size, "%s%s%s%s%s", had ? *cell : "", had ? "; " : "", label,
             *label && *text ? " " : "", text);
    mem_free(*cell);
    *cell = grown;
}

void listing_entry(struct listing *l, const char *name, const char *what, const char *traits)
{
    if (!is_text()) {
        struct listing_row *r = add(l, name + strspn(name, " "), what);
        if (*traits)
            append(&r->cell[LIST_NOTES], traits, "");
    } else {
        fprintf(l->out, *traits ? "  %-*s %s (%s)\n" : "  %-*s %s\n", l->width, name, what, traits);
    }
}

void listing_note(struct listing *l, const char *label, const char *text)
{
    if (is_text())
        fprintf(l->out, *text ? "#     %s %s\n" : "#     %s\n", label, text);
    else
        append(&l->row[l->n - 1].cell[LIST_NOTES], label, text);
}

static void add_option(struct listing *l, const char *name, const struct opt *o)
{
    char range[256];
    opt_range(o, range, sizeof range);
    struct listing_row *r = add(l, name, o->help);
    r->cell[LIST_DEFAULT] = *o->dflt ? copy(o->dflt) : NULL;
    r->cell[LIST_RANGE] = copy(range);
}

void listing_options(struct listing *l, const struct opt *rows, int n)
{
    // Of the last entry that is none's option.
    const char *of = l->of;
    if (!is_text())
        l->of = l->row[l->n - 1].cell[LIST_NAME];
    for (int i = 0; i < n; i++) {
        char range[256];
        opt_range(&rows[i], range, sizeof range);
        if (is_text())
            fprintf(l->out, "#     %s=%s  %s (%s)\n", rows[i].name, rows[i].dflt, rows[i].help,
                    range);
        else
            add_option(l, rows[i].name, &rows[i]);
    }
    l->of = of;
}

void listing_settings(struct listing *l, const char *prefix, const struct opt *rows, int n)
{
    if (is_text())
        opt_list(l->out, prefix, rows, n);
    for (int i = 0; i < n && !is_text(); i++) {
        char name[96];
        snprintf(name, sizeof name, "%s%s", prefix, rows[i].name);
        add_option(l, name, &rows[i]);
    }
}
