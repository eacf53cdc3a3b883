// The journal beside a trace: every round first goes here, and survives a power cut.
#ifndef FSTQ_TRACE_TRACE_JOURNAL_H
#define FSTQ_TRACE_TRACE_JOURNAL_H

#include "trace/trace_file.h"

#include <limits.h>

// The journal: a header, then records of (magic, type, length, XXH3 over type, length and payload)
// and payload. Appended to in one write a commit, then fdatasync.
struct trace_journal {
    int fd; // -1 = none; holds an flock, so that nobody recovers what is being written
    char path[PATH_MAX];
    uint8_t *buf;
    size_t len, cap;
    int64_t size; // of what is whole in the file
};

int trace_journal_create(struct trace_journal *j, const char *path, struct err *err);
// Opens an existing one for appending and cuts off what lies behind its last whole commit.
int trace_journal_reopen(struct trace_journal *j, const char *path, size_t good, struct err *err);
void trace_journal_fact(struct trace_journal *j, const struct trace_fact *f); // into memory
void trace_journal_rows(struct trace_journal *j, enum record_id id, const void *rows, size_t n);
// Ends a commit and writes it. On failure the file is cut back to its last whole commit.
int trace_journal_commit(struct trace_journal *j, int32_t version, int64_t rounds, struct err *err);
int trace_journal_sync(struct trace_journal *j, struct err *err); // now it survives a power cut
void trace_journal_close(struct trace_journal *j);
// Reads bytes that nobody vouches for. Rows behind the last commit are left out; damaged records
// are skipped and counted. good: the offset behind the last whole commit. -1: not a journal of this
// layout.
int trace_journal_parse(const uint8_t *bytes, size_t n, struct trace_file *f, size_t *good,
                        struct err *err);
int trace_journal_load(const char *path, struct trace_file *f, size_t *good, struct err *err);
// The bytes of a header; and a record's head in front of its payload, which is there already.
#define TRACE_JOURNAL_HEADER 32
#define TRACE_JOURNAL_RECORD 24
void trace_journal_header(uint8_t header[TRACE_JOURNAL_HEADER]);
void trace_journal_seal(uint8_t *record, uint32_t type, uint64_t payload_bytes);
// Does this regular file begin as one, of any version? -1 with that it does not.
int trace_journal_ours(const char *path, struct err *err);
// Is a live process writing it?
bool trace_journal_busy(const char *path);

#endif
