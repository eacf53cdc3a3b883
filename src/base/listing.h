// What there is to choose from, as text for people or as one table in a form of base/table.h: the
// same rows either way.
#ifndef FSTQ_BASE_LISTING_H
#define FSTQ_BASE_LISTING_H

#include "base/opt.h"

#include <stdio.h>

// The columns of the table; text has them in lines of its own.
enum listing_column {
    LIST_LIST,
    LIST_PART,
    LIST_OF, // whose option it is
    LIST_NAME,
    LIST_DEFAULT,
    LIST_RANGE,
    LIST_WHAT,
    LIST_NOTES,
    LIST_COLUMNS
};

struct listing_row {
    char *cell[LIST_COLUMNS]; // NULL = empty
};

struct listing {
    FILE *out;
    const char *list, *of; // of what the next rows are; NULL = nothing
    char part[40];
    int width;               // of a name in text
    struct listing_row *row; // kept until they are printed, unless as text
    size_t n, cap;
    bool headed; // something was printed
};

// Behind table_set_form.
void listing_begin(struct listing *l, FILE *out);
void listing_end(struct listing *l);
// Rows from here on are of this list. help: what Markdown says above it; NULL = it is the only one.
void listing_of(struct listing *l, const char *name, const char *help);
// A part of it, and what its rows are: text may have several lines.
void listing_part(struct listing *l, const char *name, const char *text);
void listing_say(struct listing *l, const char *text); // a remark between rows
// One to choose; traits in parentheses, "" = none.
void listing_entry(struct listing *l, const char *name, const char *what, const char *traits);
// About the last entry: "from Konecny et al. 2016".
void listing_note(struct listing *l, const char *label, const char *text);
// Options of the last entry, and such that are entries themselves.
void listing_options(struct listing *l, const struct opt *rows, int n);
void listing_settings(struct listing *l, const char *prefix, const struct opt *rows, int n);

#endif
