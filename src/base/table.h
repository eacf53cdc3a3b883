// One file formats numbers and tables. '#' begins every line that is not data.
#ifndef FSTQ_BASE_TABLE_H
#define FSTQ_BASE_TABLE_H

#include <stdint.h>
#include <stdio.h>

#define TABLE_COLS 24

enum table_align { TABLE_LEFT, TABLE_RIGHT };

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

#endif
