// The trace file: HDF5, one writer, classic format. Created whole as NAME.h5.part and renamed; then
// only appended in whole chunks, one flush per round. A journal beside it (NAME.h5.journal) takes
// every round first and survives a power cut; it is deleted once the file is closed complete and
// synced.
#ifndef FSTQ_TRACE_TRACE_H
#define FSTQ_TRACE_TRACE_H

#include "base/check.h"
#include "base/opt.h"
#include "base/record.h"
#include "trace/trace_read.h"

struct trace_params { // [trace]
    char file[240];   // "" = no trace
    bool journal, cpu;
    int32_t events_per_round; // rows of a chunk of /events
    int32_t sync_ms;          // at least so long between two fdatasync of the journal
    int32_t updates;          // rounds of which every rank keeps an update
    int32_t updates_of;       // enum trace_updates
};
enum trace_updates { TRACE_UPDATES_FIRST, TRACE_UPDATES_ALL };

extern const struct opt trace_options[];
extern const int trace_option_count;

struct trace_attr { // attributes of / and /config; text or number
    const char *name, *text;
};

struct trace_meta {
    // Environment: NAME=value lines; NULL = what of our own bears on a run.
    const char *command_line, *config_text, *hwloc_xml, *environment;
    const char *machine; // group.name=value lines: what it is and why what is not known is not
    const struct trace_attr *config; // every parameter by its one name
    int n_config;
};

struct trace;

// Creates NAME. A trace of that name is first moved to a free NAME.k.h5; anything else is refused.
// With `resumed`, how many rounds were done before, it is opened and appended to, rebuilt from its
// journal first if it does not open; rounds that neither holds degrade it.
struct trace *trace_open(const struct trace_params *p, const struct trace_meta *meta,
                         int32_t resumed, struct err *err);
// 0 for a new file, else one more than the highest in it.
int32_t trace_attempt(const struct trace *t);
void trace_append(struct trace *t, enum record_id id, const void *rows, size_t n); // memory only
// Writes what was appended as whole chunks, flushes, updates rounds_committed, syncs the journal. A
// failure degrades the trace (said once on stderr, kept in trace_degraded) and never stops the run.
void trace_commit(struct trace *t, int32_t version);
const char *trace_degraded(const struct trace *t); // NULL = sound, else why
// Spent so far writing, fdatasync not counted; that apart.
int64_t trace_time_ns(const struct trace *t, int64_t *fdatasync_ns);
// Commits what is left, marks the file and frees t. Complete and sound: the journal goes. False:
// the trace is degraded, if only now.
bool trace_close(struct trace *t, bool complete);

// What recording one span costs here, in a scratch recorder: without and with its CPU time.
void trace_measure_overhead(double *plain_ns, double *cpu_ns);

// Rebuilds NAME.h5 from NAME.h5.journal. A file that holds more rounds than its journal is left as
// it is (an error); one that is damaged is kept under a free NAME.k.h5.
int trace_recover(const char *journal_path, const char *h5_path, struct err *err);

#endif
