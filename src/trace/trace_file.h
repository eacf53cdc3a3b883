// What a trace says, in memory, whether it comes from HDF5, from the journal or from a run: facts,
// which are texts, and rows.
#ifndef FSTQ_TRACE_TRACE_FILE_H
#define FSTQ_TRACE_TRACE_FILE_H

#include "base/check.h"
#include "base/record.h"

#include <stddef.h>

#define TRACE_TEXT_MAX ((size_t)64 << 20) // no text of a trace is longer

// Facts are text: attributes of / and of /config, and the texts under /meta.
enum trace_place { TRACE_ROOT, TRACE_CONFIG, TRACE_META, TRACE_PLACES };
struct trace_fact {
    enum trace_place place;
    char name[64];
    char *text; // NUL-terminated
    size_t len;
};

struct trace_setting {
    char name[64], text[384];
};
struct trace_file {
    int64_t rounds_committed; // rows of /rounds that were flushed, all runs and attempts
    bool complete;
    char *rows[REC_COUNT]; // without padding; superseded attempts dropped
    size_t n[REC_COUNT];
    const char *config_text, *command_line, *hwloc_xml, *environment, *build,
        *machine; // "" = not there
    struct trace_setting *config;
    int n_config;
    char suite_version[32], git_rev[48], created_utc[32];
    int64_t damaged; // chunks or records that could not be read, and what they held is missing
    bool exact;      // nothing damaged, and every row in the file was committed

    size_t cap[REC_COUNT]; // of rows, in rows
    struct trace_fact *facts;
    int n_facts;
    size_t cap_facts;
};

void trace_file_free(struct trace_file *f);
size_t trace_field_bytes(const struct record_field *f);    // of all its elements
int trace_field_find(enum record_id id, const char *name); // index, or -1
// A field is a column, an array a column an element: kept_4bit, mem_peak_bytes_codec, else name_0
// ...
int trace_field_columns(const struct record_field *f);
void trace_column_name(const struct record_field *f, int k, char *out, size_t size);

// For those who fill it.

// The one list of texts under /meta; NULL ends it.
extern const char *const trace_meta_names[];

void trace_fact_add(struct trace_file *f, enum trace_place place, const char *name,
                    const char *text, size_t len);
const char *trace_fact_get(const struct trace_file *f, enum trace_place place, const char *name);
// Takes what a reader can trust: padding is dropped, rows with an impossible stage or status too
// (counted as damaged), text is terminated.
void trace_rows_add(struct trace_file *f, enum record_id id, const void *rows, size_t n);
// Are all facts and rows of b in a, in their order? A text of b may end early, for attributes of
// HDF5 have a limit.
bool trace_file_holds(const struct trace_file *a, const struct trace_file *b);
// Drops superseded attempts and repeated rows, and fills in what readers look at.
void trace_file_settle(struct trace_file *f);
// Text is cut at its first NUL and filled with zeros behind it, so that equal rows are equal bytes.
void trace_rows_clean(enum record_id id, void *rows, size_t n);
int trace_errno_set(struct err *err, const char *path, const char *what);

#endif
