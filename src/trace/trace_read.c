#include "trace/trace_read.h"

#include "trace/trace_h5.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int trace_read(const char *path, struct trace_file *f, struct err *err)
{
    memset(f, 0, sizeof *f);
    if (trace_h5_load(path, f, err) < 0) {
        trace_file_free(f);
        return -1;
    }
    trace_file_settle(f);
    return 0;
}

int trace_read_guarded(const char *path, struct trace_file *f, struct err *err)
{
    memset(f, 0, sizeof *f);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        static const int crashes[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
        struct trace_file scratch;
        for (size_t i = 0; i < ARRAY_LEN(crashes); i++)
            signal(crashes[i], SIG_DFL);
        alarm(120); // a damaged index may send the library in circles
        _exit(trace_read(path, &scratch, NULL) < 0 ? 1 : 0);
    }
    int status = 0;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (pid > 0 && WIFSIGNALED(status))
        return err_set(err,
                       "%s: so damaged that the HDF5 library fails on it (signal %d); where its "
                       "journal is left, fstq show --recover rebuilds it",
                       path, WTERMSIG(status));
    return trace_read(path, f, err);
}
