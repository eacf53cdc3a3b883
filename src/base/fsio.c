#include "base/fsio.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_all(int fd, const uint8_t *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -1;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

// A rename is on disk only when its directory is.
int fsio_sync_dir(const char *path)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(dir, sizeof dir, ".");
    else
        snprintf(dir, sizeof dir, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int r = fsync(fd);
    close(fd);
    return r < 0 && errno != EINVAL ? -1 : 0; // EINVAL: a file system that cannot and need not
}

static int64_t sync_ns;

int64_t fsio_sync_ns(void)
{
    return sync_ns;
}

static int timed_sync(int fd)
{
    int64_t t = clock_ns();
    int rc = fsync(fd);
    sync_ns += clock_ns() - t;
    return rc;
}

static const char *kind_of(mode_t mode)
{
    return S_ISDIR(mode)    ? "a directory"
           : S_ISLNK(mode)  ? "a symbolic link"
           : S_ISFIFO(mode) ? "a pipe"
           : S_ISSOCK(mode) ? "a socket"
                            : "a device";
}

int fsio_regular(const char *path, struct err *err)
{
    struct stat st;
    if (lstat(path, &st) < 0 || S_ISREG(st.st_mode))
        return 0;
    return err_set(err, "%s: is %s, not a regular file", path, kind_of(st.st_mode));
}

int fsio_create(const char *path, struct err *err)
{
    if (fsio_regular(path, err))
        return -1;
    unlink(path);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(err, "%s: cannot create: %s", path, strerror(errno));
    return fd;
}

int fsio_replace(const char *path, const void *bytes, size_t n, struct err *err)
{
    char tmp[PATH_MAX];
    int len = snprintf(tmp, sizeof tmp, "%s.tmp", path);
    if (len < 0 || (size_t)len >= sizeof tmp)
        return err_set(err, "%s: the name is too long", path);
    if (fsio_regular(path, err))
        return -1;
    int fd = fsio_create(tmp, err);
    if (fd < 0)
        return -1;
    int bad = write_all(fd, bytes, n) < 0 || timed_sync(fd) < 0;
    int why = errno;
    if (close(fd) < 0 && !bad) {
        bad = 1;
        why = errno;
    }
    if (!bad && rename(tmp, path) < 0) {
        bad = 1;
        why = errno;
    }
    if (bad) {
        unlink(tmp);
        return err_set(err, "%s: cannot write %zu bytes: %s", path, n, strerror(why));
    }
    int64_t t = clock_ns();
    int rc = fsio_sync_dir(path);
    sync_ns += clock_ns() - t;
    if (rc < 0)
        return err_set(err, "%s: written, but its directory cannot be synced: %s", path,
                       strerror(errno));
    return 0;
}

// O_NONBLOCK: open itself would wait for the writer of a FIFO.
int fsio_open(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    if (fd < 0)
        return err_set(err, "%s: cannot open: %s", path, strerror(errno));
    if (fstat(fd, &st) < 0)
        err_set(err, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        err_set(err, "%s: is %s, not a regular file", path, kind_of(st.st_mode));
    else
        return fd;
    close(fd);
    return -1;
}

// Reads up to cap bytes; less only at the end of the file.
static ssize_t read_all(int fd, uint8_t *p, size_t cap)
{
    size_t n = 0;
    while (n < cap) {
        ssize_t k = read(fd, p + n, cap - n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -1;
        if (k == 0)
            break;
        n += (size_t)k;
    }
    return (ssize_t)n;
}

// A block of size bytes and room for the NUL, with the first n bytes of old, which is freed.
static uint8_t *regrow(uint8_t *old, size_t n, size_t size, enum mem_purpose purpose)
{
    uint8_t *p = mem_alloc(purpose, size + 1);
    if (n > 0)
        memcpy(p, old, n);
    mem_free(old);
    return p;
}

// head: what is beyond max is left; else it is an error.
static int read_open(int fd, const char *path, size_t max, bool head, enum mem_purpose purpose,
                     uint8_t **bytes, size_t *n, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_set(err, "%s: %s", path, strerror(errno));
    bool longer = st.st_size > 0 && (uint64_t)st.st_size > max;
    if (longer && !head)
        return err_set(err, "%s: %lld bytes, at most %zu expected", path, (long long)st.st_size,
                       max);
    // The size is a first guess: files of /proc say 0, and a file may grow meanwhile.
    size_t cap = longer ? max : st.st_size > 0 ? (size_t)st.st_size : max < 65536 ? max : 65536;
    size_t have = 0;
    if (mem_fits((double)cap, path, err))
        return -1;
    uint8_t *p = regrow(NULL, 0, cap, purpose);
    for (;;) {
        // One byte more than cap (the place of the NUL) shows whether there is more.
        bool last = head && cap >= max;
        ssize_t k = read_all(fd, p + have, cap + !last - have);
        if (k < 0) {
            int why = errno;
            mem_free(p);
            return err_set(err, "%s: cannot read: %s", path, strerror(why));
        }
        have += (size_t)k;
        if (have <= cap)
            break;
        if (cap >= max) {
            mem_free(p);
            return err_set(err, "%s: more than the %zu bytes expected", path, max);
        }
        cap = cap < max / 2 ? 2 * cap : max;
        p = regrow(p, have, cap, purpose);
    }
    p[have] = 0;
    *bytes = p;
    *n = have;
    return 0;
}

static int read_path(const char *path, size_t max, bool head, enum mem_purpose purpose,
                     uint8_t **bytes, size_t *n, struct err *err)
{
    int fd = fsio_open(path, err);
    if (fd < 0)
        return -1;
    int r = read_open(fd, path, max, head, purpose, bytes, n, err);
    close(fd);
    return r;
}

int fsio_read(const char *path, size_t max, enum mem_purpose purpose, uint8_t **bytes, size_t *n,
              struct err *err)
{
    return read_path(path, max, false, purpose, bytes, n, err);
}

int fsio_read_head(const char *path, size_t max, enum mem_purpose purpose, uint8_t **bytes,
                   size_t *n, struct err *err)
{
    return read_path(path, max, true, purpose, bytes, n, err);
}

int fsio_mkdirs(const char *path, struct err *err)
{
    char part[PATH_MAX];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof part)
        return err_set(err, "\"%s\": not a directory name", path);
    for (size_t i = 1; i <= len; i++) {
        if (i < len && path[i] != '/')
            continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0777) < 0 && errno != EEXIST)
            return err_set(err, "%s: cannot create the directory: %s", part, strerror(errno));
    }
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
        return err_set(err, "%s: is not a directory", path);
    return 0;
}

int fsio_lock(const char *path, struct err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(err, "%s: cannot open the lock: %s", path, strerror(errno));
    char who[160] = "";
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int why = errno;
        ssize_t k = why == EWOULDBLOCK ? read_all(fd, (uint8_t *)who, sizeof who - 1) : 0;
        who[k > 0 ? k : 0] = 0;
        who[strcspn(who, "\n")] = 0;
        close(fd);
        if (why != EWOULDBLOCK)
            return err_set(err, "%s: cannot lock: %s", path, strerror(why));
        return err_set(err, "%s: held by %s", path, who[0] ? who : "another process");
    }
    char host[80] = "";
    gethostname(host, sizeof host - 1);
    int len = snprintf(who, sizeof who, "process %ld on %s\n", (long)getpid(), host);
    // Who holds it is a courtesy: the lock is the lock even on a full disk.
    if (ftruncate(fd, 0) == 0 && write_all(fd, (const uint8_t *)who, (size_t)len) < 0)
        return fd;
    return fd;
}

int fsio_backup_name(const char *path, char *out, size_t out_size)
{
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    const char *dot = strrchr(base, '.');
    if (!dot || dot == base)
        dot = base + strlen(base);
    for (int k = 1; k < INT_MAX; k++) {
        int n = snprintf(out, out_size, "%.*s.%d%s", (int)(dot - path), path, k, dot);
        if (n < 0 || (size_t)n >= out_size)
            return -1;
        struct stat st;
        if (lstat(out, &st) < 0)
            return errno == ENOENT ? 0 : -1;
    }
    return -1;
}
