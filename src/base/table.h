// One file formats numbers and tables. '#' begins every line that is not data.
#ifndef FSTQ_BASE_TABLE_H
#define FSTQ_BASE_TABLE_H

#include "base/check.h"

#include <stdint.h>
#include <stdio.h>

#define TABLE_COLS 24

// What is in a column, and so its side. Of TABLE_NS and TABLE_BYTES the cells are whole numbers
// (fmt_whole), which text and Markdown scale for the eye, and others name with their unit.
// TABLE_CODE is what one types, which Markdown sets apart.
enum table_align { TABLE_LEFT, TABLE_CODE, TABLE_RIGHT, TABLE_NS, TABLE_BYTES };
static inline bool table_right(enum table_align a)
{
    return a >= TABLE_RIGHT;
}

struct table_col {
    const char *head, *unit; // two head lines: names, then units
    int width;
    enum table_align align;
};

struct table {
    FILE *out;
    int n_cols;
    struct table_col col[TABLE_COLS];
};

void table_head(const struct table *t);
// What a program writes its tables as: one form, chosen where its arguments are read.
enum table_form { TABLE_TEXT, TABLE_MD, TABLE_CSV, TABLE_JSON, TABLE_JSONL };
extern const char *const table_forms[]; // by their names; NULL-terminated
enum table_form table_form(void);
bool table_for_people(void); // text and Markdown, whose numbers are rounded and scaled
// What follows -o; a name that is none is an error. TABLE_JSON is the document of the command's
// --json, which each writes itself: tables are then not printed.
int table_set_form(const char *name, struct err *err);
// What the tables from here on are of, for rows in JSON lines; NULL = nothing.
void table_title(const char *name);
// Where tables of that form and the notes between them go: out itself, or a stream before it that
// makes "# note" a line of prose (Markdown) or leaves it out (JSON lines). Closed at exit.
FILE *table_stream(FILE *out);

// A form of tables; table.c has that of text, table_forms.c the others.
struct table_writer {
    void (*head)(const struct table *t);
    void (*row)(const struct table *t, const char *const *cells);
};
extern const struct table_writer table_md, table_csv, table_jsonl;
const char *table_titled(void); // what table_title said last
// Text as LaTeX has it; of what is no ASCII it knows plus-minus and times.
void table_latex(FILE *out, const char *text);

// Cells are text: format numbers with the functions below. Missing is "-".
void table_row(const struct table *t, const char *const *cells);
// Text on one line behind its label, without what would move a terminal's cursor.
void table_text(FILE *out, const char *label, const char *text, const char *end);

// Each writes into buf (at least 32 bytes) and returns it. Sheds decimals instead of breaking a
// column. "-" for what is missing: NaN, or an integer below zero.
char *fmt_fixed(char *buf, double v, int width, int decimals);
// "12.3 us", "4.56 ms", "1.20 s", "2 m 03 s".
char *fmt_time(char *buf, int64_t ns);
char *fmt_bytes(char *buf, int64_t bytes); // 10^3 steps: "1.23 MB"
char *fmt_mib(char *buf, uint64_t bytes);
char *fmt_count(char *buf, int64_t n); // "12,345"
char *fmt_whole(char *buf, int64_t n); // "12345"

#endif
