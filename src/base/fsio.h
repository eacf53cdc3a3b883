// Files that must not be lost: atomic replacement, locks; and files to be read, with a limit.
#ifndef FSTQ_BASE_FSIO_H
#define FSTQ_BASE_FSIO_H

#include "base/check.h"
#include "base/mem.h"

#include <stddef.h>
#include <stdint.h>

// Writes path.tmp, fsyncs, renames, fsyncs the directory. On error path is what it was. Only
// regular files are replaced, as path or as what an earlier try left under path.tmp.
int fsio_replace(const char *path, const void *bytes, size_t n, struct err *err);
int64_t fsio_sync_ns(void); // spent waiting for the disk in fsio_replace by this process so far
// Opens a regular file to read. Others are refused without a wait: a FIFO has no end before its
// writer comes, a device may have none. A descriptor, or -1.
int fsio_open(const char *path, struct err *err);
// Whole file, at most max bytes, NUL-terminated beyond n; free with mem_free.
int fsio_read(const char *path, size_t max, enum mem_purpose purpose, uint8_t **bytes, size_t *n,
              struct err *err);
// Its first max bytes, or all where there are fewer.
int fsio_read_head(const char *path, size_t max, enum mem_purpose purpose, uint8_t **bytes,
                   size_t *n, struct err *err);
// A new regular file for writing. What a crash left under that name goes first; anything but a
// regular file there is refused and untouched.
int fsio_create(const char *path, struct err *err);
// 0: a regular file stands there or nothing does; -1: something else, which err names.
int fsio_regular(const char *path, struct err *err);
int fsio_sync_dir(const char *path); // of the directory that holds path: a rename lasts only then
int fsio_mkdirs(const char *path, struct err *err); // as mkdir -p
// Takes path as a lock of this process (flock); returns a descriptor to keep open, or -1 with who
// holds it.
int fsio_lock(const char *path, struct err *err);
// A free name for a file that exists: "a.h5" -> "a.1.h5", "a.2.h5", ...
int fsio_backup_name(const char *path, char *out, size_t out_size);

#endif
