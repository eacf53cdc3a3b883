#include "trace/trace_read.h"

#include "trace/trace_h5.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_SECONDS 120
enum { CHILD_FAILED = 90 }; // the attempt returned an error; other statuses are not the child's own

static int load(const char *path, struct trace_file *f, struct err *err)
{
    memset(f, 0, sizeof *f);
    int rc = trace_h5_load(path, f, err);
    if (rc < 0)
        trace_file_free(f);
    return rc;
}

int trace_read(const char *path, struct trace_file *f, struct err *err)
{
    if (load(path, f, err) < 0)
        return -1;
    trace_file_settle(f);
    return 0;
}

// For die() in a child, which must not end the job.
static void leave(int status)
{
    _exit(status);
}

// Tries in a child whether the library comes through: 0 = it did, and status is what it returned.
static int survives(int (*attempt)(const char *path), const char *path, int *status,
                    struct err *err)
{
    static const int ends[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGALRM};
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        for (size_t i = 0; i < ARRAY_LEN(ends); i++)
            signal(ends[i], SIG_DFL);
        check_abort_hook(leave);
        alarm(CHILD_SECONDS);
        _exit(attempt(path) < 0 ? CHILD_FAILED : 0);
    }
    int end = 0;
    while (pid > 0 && waitpid(pid, &end, 0) < 0 && errno == EINTR)
        ;
    int code = WIFEXITED(end) ? WEXITSTATUS(end) : -1;
    *status = code == 0 ? 0 : -1;
    if (pid < 0 || code == 0 || code == CHILD_FAILED)
        return 0;
    return err_set(err,
                   "%s: so damaged that the HDF5 library fails on it (%s %d); where its journal is "
                   "left, fstq show --recover rebuilds it",
                   path, code < 0 ? "signal" : "status", code < 0 ? WTERMSIG(end) : code);
}

static int try_read(const char *path)
{
    struct trace_file f;
    return trace_read(path, &f, NULL);
}

static int try_ours(const char *path)
{
    return trace_h5_ours(path, NULL);
}

static int try_append(const char *path)
{
    return trace_h5_rehearse(path, NULL);
}

// What an attempt returned is of no interest where it is done again, with its words.
static bool came_back(int (*attempt)(const char *path), const char *path, struct err *err)
{
    int status;
    return survives(attempt, path, &status, err) == 0;
}

int trace_read_guarded(const char *path, struct trace_file *f, struct err *err)
{
    memset(f, 0, sizeof *f);
    return came_back(try_read, path, err) ? trace_read(path, f, err) : -1;
}

int trace_load_guarded(const char *path, struct trace_file *f, struct err *err)
{
    memset(f, 0, sizeof *f);
    return came_back(try_read, path, err) ? load(path, f, err) : -1;
}

int trace_ours_guarded(const char *path, struct err *err)
{
    return came_back(try_ours, path, err) ? trace_h5_ours(path, err) : -1;
}

bool trace_append_guarded(const char *path)
{
    int status = -1;
    return survives(try_append, path, &status, NULL) == 0 && status == 0;
}
