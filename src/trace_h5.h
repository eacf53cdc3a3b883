// The trace file: HDF5, one writer, classic format. Created whole as NAME.part and renamed; then
// only appended in whole chunks, one flush a round. A journal beside it survives a power cut.
#ifndef FSTQ_TRACE_H5_H
#define FSTQ_TRACE_H5_H

#include "base/check.h"
#include "base/opt.h"
#include "base/record.h"

struct trace_params { // [trace]
    char file[240];   // "" = no trace
    bool journal, cpu;
    int32_t events_per_round; // rows of a chunk of /events
};

extern const struct opt trace_options[];
extern const int trace_option_count;

struct trace_attr { // attributes of / and /config; text or number
    const char *name, *text;
};

struct trace_meta {
    // Environment: filtered, NAME=value lines.
    const char *command_line, *config_text, *hwloc_xml, *environment;
    const struct trace_attr *config; // every parameter by its one name
    int n_config;
};

struct trace;

// Creates NAME; a file of that name is first moved to a free NAME.k.h5 (nothing is overwritten).
// With resume it is opened and appended to, rebuilt from its journal first if it does not open.
struct trace *trace_open(const struct trace_params *p, const struct trace_meta *meta, bool resume,
                         struct err *err);
// 0 for a new file, else one more than the highest in it.
int32_t trace_attempt(const struct trace *t);
void trace_append(struct trace *t, enum record_id id, const void *rows, size_t n); // memory only
// Writes what was appended as whole chunks, flushes, updates rounds_committed, syncs the journal. A
// failure degrades the trace (said once on stderr, kept in trace_degraded) and never stops the run.
void trace_commit(struct trace *t, int32_t version);
const char *trace_degraded(const struct trace *t);                   // NULL = sound, else why
int64_t trace_time_ns(const struct trace *t, int64_t *fdatasync_ns); // spent so far writing
void trace_measure_overhead(double *plain_ns, double *cpu_ns);       // of one recorded span
void trace_close(struct trace *t, bool complete);

// Reading, for show, export and tests.
struct trace_setting {
    char name[64], text[384];
};
struct trace_file {
    int64_t rounds_committed;
    bool complete;
    char *rows[REC_COUNT]; // without padding; superseded attempts dropped
    size_t n[REC_COUNT];
    char *config_text, *command_line, *hwloc_xml;
    struct trace_setting *config;
    int n_config;
    char suite_version[32], git_rev[48], created_utc[32];
};
int trace_read(const char *path, struct trace_file *f, struct err *err);
void trace_file_free(struct trace_file *f);
// Rebuilds NAME.h5 from NAME.h5.journal.
int trace_recover(const char *journal_path, const char *h5_path, struct err *err);

#endif
