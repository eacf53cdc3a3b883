#include "base/outfile.h"

#include "base/fsio.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int cannot(struct err *err, const char *path, const char *what)
{
    return err_set(err, "%s: cannot %s: %s", path, what, strerror(errno ? errno : EIO));
}

// Does the file begin as it should, or hold nothing at all?
static bool same_kind(const char *path, const char *begins)
{
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    int c, n = 0;
    while ((c = getc(f)) != EOF && *begins) {
        if (isspace(c))
            continue;
        n++;
        if (c != (unsigned char)*begins)
            break;
        begins++;
    }
    fclose(f);
    return !*begins || (c == EOF && n == 0);
}

// What is no regular file cannot be replaced and is written to. A FIFO without a reader would wait
// for ever.
static int open_as_it_stands(struct outfile *o, const char *path, struct err *err)
{
    int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENXIO)
        return err_set(err, "%s: a FIFO that nobody reads", path);
    if (fd < 0)
        return cannot(err, path, "write");
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    o->f = fdopen(fd, "w");
    return 0;
}

int outfile_check(const char *path, const char *begins, struct err *err)
{
    struct stat st;
    if (!strcmp(path, "-"))
        return 0;
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return err_set(err, "%s: is a directory, not a file", path);
        if (S_ISREG(st.st_mode) && !same_kind(path, begins))
            return err_set(err,
                           "%s: is there and is not an earlier file of this kind: name another, "
                           "or remove it",
                           path);
        return 0;
    }
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    snprintf(slash ? slash + 1 : dir, 2, ".");
    if (access(dir, W_OK) < 0)
        return cannot(err, path, "create");
    return 0;
}

int outfile_open(struct outfile *o, const char *path, const char *begins, struct err *err)
{
    struct stat st;
    memset(o, 0, sizeof *o);
    if (snprintf(o->path, sizeof o->path, "%s", path) >= (int)sizeof o->path)
        return err_set(err, "%.100s...: the name is too long", path);
    if (!strcmp(path, "-")) {
        o->f = stdout;
        return 0;
    }
    if (outfile_check(path, begins, err) < 0)
        return -1;
    bool there = stat(path, &st) == 0;
    if (there && !S_ISREG(st.st_mode))
        return open_as_it_stands(o, path, err);
    // Through a link it is what the link names that is replaced.
    if (there && !realpath(path, o->path))
        return cannot(err, path, "write");
    snprintf(o->part, sizeof o->part, "%s.part", o->path);
    int fd = fsio_create(o->part, err);
    if (fd < 0) {
        o->part[0] = 0;
        return -1;
    }
    if (there)
        fchmod(fd, st.st_mode & 0777);
    o->f = fdopen(fd, "w");
    return 0;
}

int outfile_close(struct outfile *o, struct err *err)
{
    errno = 0;
    bool bad = ferror(o->f) != 0 || fflush(o->f) != 0;
    if (o->f != stdout)
        bad |= fclose(o->f) != 0;
    o->f = NULL;
    int r = 0;
    if (bad)
        r = cannot(err, o->path, "write");
    else if (*o->part && rename(o->part, o->path) < 0)
        r = cannot(err, o->path, "put in place");
    if (r < 0 && *o->part)
        unlink(o->part);
    return r;
}
