#ifndef FSTQ_BASE_BUILDINFO_H
#define FSTQ_BASE_BUILDINFO_H

#define FSTQ_VERSION "0.2.0"

struct buildinfo {
    const char *version, *git_rev, *compiler, *cflags, *kind, *target; // kind: release, debug, asan
    // "none" or the toolkit's version.
    const char *cuda;
};

extern const struct buildinfo buildinfo;

#endif
