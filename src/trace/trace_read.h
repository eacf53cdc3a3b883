// Traces, for show, export, resume and tests.
#ifndef FSTQ_TRACE_TRACE_READ_H
#define FSTQ_TRACE_TRACE_READ_H

#include "trace/trace_file.h"

// Reads what is sound and says in f->damaged what is not; -1 when nothing can be read at all.
int trace_read(const char *path, struct trace_file *f, struct err *err);
// libhdf5 has been seen to crash on damaged files, and to go round in circles. In these a child
// goes first; where it does not come back, the file is one that cannot be read.
int trace_read_guarded(const char *path, struct trace_file *f, struct err *err);
int trace_load_guarded(const char *path, struct trace_file *f, struct err *err); // not settled
int trace_ours_guarded(const char *path, struct err *err); // 0: a trace of this program
bool trace_append_guarded(const char *path); // could be appended to; as it is it stays

#endif
