// A file that a command makes for its user: all of it or none, and never in place of what is not an
// earlier one of the same kind.
#ifndef FSTQ_BASE_OUTFILE_H
#define FSTQ_BASE_OUTFILE_H

#include "base/check.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>

struct outfile {
    FILE *f;
    char path[PATH_MAX], part[PATH_MAX + 8]; // part: where it grows until it is whole
};

// "-" is stdout; a device or a FIFO that somebody reads is written to as it stands. `begins` is how
// every file of the kind begins, blanks aside: a file that is there and begins otherwise stays.
int outfile_open(struct outfile *o, const char *path, const char *begins, struct err *err);
// Would it open? For before the work that it is about.
int outfile_check(const char *path, const char *begins, struct err *err);
// Puts it in place. On error what stood there before still does.
int outfile_close(struct outfile *o, struct err *err);

#endif
