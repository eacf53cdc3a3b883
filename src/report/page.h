// What the page of a report is made of: the numbers of runs as JSON, for scripts/report.py to draw,
// and a page of tables alone for where there is no Python.
#ifndef FSTQ_REPORT_PAGE_H
#define FSTQ_REPORT_PAGE_H

#include "base/jsonw.h"
#include "trace/trace.h"

enum { PAGE_CLIENTS = 48 }; // of the timeline of a round, at most

struct page_run { // one run of one file
    const char *label, *path;
    const struct trace_file *f;
    int32_t run;
};

// A run as an object: its rounds, stages by rank, one round by client, bytes, widths, links, energy
// and memory. What the trace does not hold is empty or null.
void page_run_json(struct jsonw *j, const struct page_run *p);
// One round by client: where its time is modelled, and where spans of it were measured.
void page_gantt_json(struct jsonw *j, const struct trace_file *f, int32_t run);
// What a run comes to, in one sentence.
void page_sentence(const struct page_run *p, char *out, size_t size);
// Text with what HTML would read as its own written out.
void page_escape(FILE *out, const char *text);
void page_tables_head(FILE *out, const char *title);
// Cells of a row are text; heads in <th>.
void page_tables_row(FILE *out, const char *const *cells, size_t n, bool head);
// The run's summary, rounds, stages and bytes, as `fstq show` prints them.
void page_tables_run(FILE *out, const struct page_run *p);

#endif
