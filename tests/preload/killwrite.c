// Counts the calls that change files and lets the process die, or the disk fill up, at the k-th
// one.
//   FSTQ_KILL_AT=k    counted from 1
//   FSTQ_KILL_MODE    kill: dies before the call      torn: dies with half of it done
//                     full: from here on every write that would make a file longer fails, ENOSPC
//                     fail: from here on every write fails, EIO
//   FSTQ_KILL_COUNT   a file that gets the number of calls at the end
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum mode { MODE_NONE, MODE_KILL, MODE_TORN, MODE_FULL, MODE_FAIL };
enum verdict { PASS, HALF, REFUSE };

static long kill_at;
static long calls;
static enum mode mode;

__attribute__((constructor)) static void start(void)
{
    static const char *const names[] = {"none", "kill", "torn", "full", "fail"};
    const char *at = getenv("FSTQ_KILL_AT"), *how = getenv("FSTQ_KILL_MODE");
    kill_at = at ? atol(at) : 0;
    for (int i = 0; how && i < 5; i++)
        if (strcmp(how, names[i]) == 0)
            mode = (enum mode)i;
    unsetenv("LD_PRELOAD"); // not for children
}

__attribute__((destructor)) static void stop(void)
{
    const char *path = getenv("FSTQ_KILL_COUNT");
    FILE *f = path ? fopen(path, "w") : NULL;
    if (f) {
        fprintf(f, "%ld\n", calls);
        mode = MODE_NONE;
        fclose(f);
    }
}

static void *real(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);
    if (!f)
        _exit(99);
    return f;
}

static enum verdict judge(int longer)
{
    if (mode == MODE_NONE || ++calls < kill_at)
        return PASS;
    if (mode == MODE_KILL)
        kill(getpid(), SIGKILL);
    if (mode == MODE_TORN)
        return HALF;
    return mode == MODE_FAIL || longer ? REFUSE : PASS;
}

static int refused(void)
{
    errno = mode == MODE_FULL ? ENOSPC : EIO;
    return -1;
}

static int grows(int fd, off_t end)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && end > st.st_size;
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    ssize_t (*f)(int, const void *, size_t, off_t) = real("pwrite");
    enum verdict v = judge(grows(fd, at + (off_t)n));
    if (v == REFUSE)
        return refused();
    if (v == PASS)
        return f(fd, p, n, at);
    f(fd, p, n / 2, at);
    kill(getpid(), SIGKILL);
    return -1;
}

ssize_t pwrite64(int fd, const void *p, size_t n, off_t at)
{
    return pwrite(fd, p, n, at);
}

ssize_t write(int fd, const void *p, size_t n)
{
    ssize_t (*f)(int, const void *, size_t) = real("write");
    struct stat st;
    if (fd <= 2 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return f(fd, p, n);
    enum verdict v = judge(grows(fd, lseek(fd, 0, SEEK_CUR) + (off_t)n));
    if (v == REFUSE)
        return refused();
    if (v == PASS)
        return f(fd, p, n);
    f(fd, p, n / 2);
    kill(getpid(), SIGKILL);
    return -1;
}

#define WHOLE(type, name, params, args, longer)                                                    \
    type name params;                                                                              \
    type name params                                                                               \
    {                                                                                              \
        type(*f) params = (type(*) params)real(#name);                                             \
        enum verdict v = judge(longer);                                                            \
        if (v == REFUSE)                                                                           \
            return refused();                                                                      \
        type r = f args;                                                                           \
        if (v == HALF)                                                                             \
            kill(getpid(), SIGKILL);                                                               \
        return r;                                                                                  \
    }

WHOLE(int, fsync, (int fd), (fd), 0)
WHOLE(int, fdatasync, (int fd), (fd), 0)
WHOLE(int, ftruncate, (int fd, off_t n), (fd, n), 0)
WHOLE(int, rename, (const char *a, const char *b), (a, b), 0)
WHOLE(int, unlink, (const char *a), (a), 0)
