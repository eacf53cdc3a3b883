// The Fed-FSTQ paper's tables as reported (configs/paper/as-reported.csv, which lies inside the
// program), computed anew where what they say allows it, and beside them what comparisons by
// configs/paper/ came to.
#ifndef FSTQ_REPORT_PAPER_H
#define FSTQ_REPORT_PAPER_H

#include "base/check.h"

#include <jansson.h>
#include <stdio.h>

enum { PAPER_DOCS = 32 };

struct paper {
    struct paper_cell *cell;
    int n_cells;
    const json_t *doc[PAPER_DOCS]; // what fstq compare wrote; found by the names of their configs
    int n_docs;
};

struct paper_cell {
    char table[16], row[24], column[40], unit[12], text[16]; // text: as printed, "" = nothing
};

void paper_open(struct paper *p);
void paper_close(struct paper *p);
// Every table, as base/table writes tables, what does not agree, and where figures have their
// values. Returns how many printed values do not agree with what they follow from.
int paper_print(const struct paper *p, FILE *out);

#endif
