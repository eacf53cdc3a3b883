// Three kinds of failure. Programmer error: assert. Environment: die(), which names rank and host
// and ends the whole job. Bytes from outside: a return code and a struct err that says what and
// where.
#ifndef FSTQ_BASE_CHECK_H
#define FSTQ_BASE_CHECK_H

#include <stdbool.h>

enum status {
    STATUS_VALID = 0,         // the run holds
    STATUS_CHECK = 1,         // it ran, and a check failed
    STATUS_USAGE = 2,         // bad command line or config
    STATUS_DEGRADED = 3,      // finished, but clients or trace were lost
    STATUS_ENV = 4,           // MPI, HDF5, memory, missing file, GPU
    STATUS_INTERRUPTED = 143, // stopped by a signal at the end of a round
};

struct err {
    char text[512]; // "" = none
};

// Formats into e (which may be NULL) and returns -1, so that "return err_set(e, ...)" reads well.
int err_set(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// Prints "fstq: rank R on HOST: ..." and ends the job with the status: through the hook where one
// is set (MPI_Abort), else exit(). Rank and host are left out until they are known.
_Noreturn void die(enum status status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2))); // nothing is wrong
void warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void check_identity(int rank, int n_ranks, const char *host);
void check_abort_hook(void (*hook)(int status));

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
