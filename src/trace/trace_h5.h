// The HDF5 file of a trace, one writer.
#ifndef FSTQ_TRACE_TRACE_H5_H
#define FSTQ_TRACE_TRACE_H5_H

#include "trace/trace_file.h"

#include <limits.h>

#define TRACE_FORMAT         "fstq-trace"
#define TRACE_FORMAT_VERSION 1

// The HDF5 file. Numbers are hid_t, kept as int64_t so that hdf5.h stays in one file.
struct trace_h5 {
    int64_t file, transfer, committed, rows_committed;
    int64_t table[REC_COUNT], type[REC_COUNT];
    int64_t rows[REC_COUNT]; // of each dataset, padding included
    size_t chunk[REC_COUNT];
    char *tail; // one chunk of the largest table
    int fd;     // of the same file, for fsync and for reserving room
    int64_t reserved;
    size_t fanout; // chunks a node of the chunk index holds
    bool in_copy;  // this commit goes to PATH.part, which then takes the place of PATH
    char path[PATH_MAX];
};

extern unsigned trace_h5_btree_k; // half a node of the chunk index; tests make it small

// Writes PATH.part with these facts, datasets and no rows, syncs it and renames it to PATH.
int trace_h5_create(struct trace_h5 *h, const char *path, const struct trace_file *facts,
                    size_t events_chunk, struct err *err); // rows; 0 = as in record_tables
int trace_h5_reopen(struct trace_h5 *h, const char *path, struct err *err);
// Opens, appends a chunk to each table and commits, in memory: the file stays as it is.
int trace_h5_rehearse(const char *path, struct err *err);
// Whole chunks; the tail is filled with padding rows. Nothing is safe before the commit.
int trace_h5_append(struct trace_h5 *h, enum record_id id, const void *rows, size_t n,
                    struct err *err);
int trace_h5_commit(struct trace_h5 *h, int64_t rounds, struct err *err);
// Before a commit of n rows a table: is there room? Nothing of the file is touched when there is
// not.
int trace_h5_prepare(struct trace_h5 *h, const size_t n[REC_COUNT], struct err *err);
int trace_h5_complete(struct trace_h5 *h, bool complete, struct err *err);
int trace_h5_sync(struct trace_h5 *h, struct err *err);
void trace_h5_close(struct trace_h5 *h);
// For a file whose flush failed: frees our side and leaves the library's as it is, for closing
// would write again what could not be written.
void trace_h5_abandon(struct trace_h5 *h);
// Is this regular file a trace of ours, of any version, complete or not? -1 with what it is
// instead.
int trace_h5_ours(const char *path, struct err *err);
int trace_h5_load(const char *path, struct trace_file *f, struct err *err);

#endif
