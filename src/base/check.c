#include "base/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int my_rank = -1, my_ranks;
static char my_host[64];
static void (*abort_hook)(int status);

int err_set(struct err *e, const char *fmt, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(e->text, sizeof e->text, fmt, ap);
        va_end(ap);
    }
    return -1;
}

void check_identity(int rank, int n_ranks, const char *host)
{
    my_rank = rank;
    my_ranks = n_ranks;
    snprintf(my_host, sizeof my_host, "%s", host ? host : "");
}

void check_abort_hook(void (*hook)(int status))
{
    abort_hook = hook;
}

// One write(2) a line: the lines of many ranks share one stderr and must not be torn.
static void say(const char *kind, const char *fmt, va_list ap)
{
    char line[1024];
    int n = snprintf(line, sizeof line, "fstq: ");
    if (my_rank >= 0)
        n += snprintf(line + n, sizeof line - (size_t)n, "rank %d of %d on %s: ", my_rank, my_ranks,
                      my_host[0] ? my_host : "an unnamed host");
    n += snprintf(line + n, sizeof line - (size_t)n, "%s", kind);
    int room = (int)sizeof line - n - 1; // one byte for the newline
    int m = vsnprintf(line + n, (size_t)room, fmt, ap);
    n += m < 0 ? 0 : m < room ? m : room - 1;
    line[n++] = '\n';
    fflush(stdout);
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        return; // nowhere left to say it
}

void die(enum status status, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("", fmt, ap);
    va_end(ap);
    if (abort_hook)
        abort_hook((int)status);
    exit((int)status);
}

void note(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("", fmt, ap);
    va_end(ap);
}

void warn(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("warning: ", fmt, ap);
    va_end(ap);
}
