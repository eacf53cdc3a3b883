// What trace.c, trace_h5.c and trace_journal.c share: facts, rows on their way in, and the two
// stores. Nothing outside these three includes it, but tests.
#ifndef FSTQ_TRACE_TRACE_STORE_H
#define FSTQ_TRACE_TRACE_STORE_H

#include "trace/trace.h"

#include <limits.h>

#define TRACE_FORMAT         "fstq-trace"
#define TRACE_FORMAT_VERSION 1
#define TRACE_TEXT_MAX       ((size_t)64 << 20) // no text of a trace is longer

// Facts are text: attributes of / and of /config, and the texts under /meta.
enum trace_place { TRACE_ROOT, TRACE_CONFIG, TRACE_META, TRACE_PLACES };
struct trace_fact {
    enum trace_place place;
    char name[64];
    char *text; // NUL-terminated
    size_t len;
};

// The one list of texts under /meta; NULL ends it.
extern const char *const trace_meta_names[];

void trace_fact_add(struct trace_file *f, enum trace_place place, const char *name,
                    const char *text, size_t len);
const char *trace_fact_get(const struct trace_file *f, enum trace_place place, const char *name);
// Takes what a reader can trust: padding is dropped, rows with an impossible stage or status too
// (counted as damaged), text is terminated.
void trace_rows_add(struct trace_file *f, enum record_id id, const void *rows, size_t n);
// Drops superseded attempts and repeated rows, and fills in what readers look at.
void trace_file_settle(struct trace_file *f);
// Text is cut at its first NUL and filled with zeros behind it, so that equal rows are equal bytes.
void trace_rows_clean(enum record_id id, void *rows, size_t n);
int trace_errno_set(struct err *err, const char *path, const char *what);

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
// Is a live process writing it?
bool trace_journal_busy(const char *path);

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
int trace_h5_load(const char *path, struct trace_file *f, struct err *err);

#endif
