// Traces, for show, export and tests.
#ifndef FSTQ_TRACE_TRACE_READ_H
#define FSTQ_TRACE_TRACE_READ_H

#include "trace/trace_file.h"

// Reads what is sound and says in f->damaged what is not; -1 when nothing can be read at all.
int trace_read(const char *path, struct trace_file *f, struct err *err);
// The same in a child first, for libhdf5 has been seen to crash on damaged files.
int trace_read_guarded(const char *path, struct trace_file *f, struct err *err);

#endif
