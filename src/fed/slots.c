#include "fed/slots.h"

#include "base/bytes.h"
#include "base/fsio.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

// A generation: magic u32, round u32, client u32, floats u32, run id u64, epoch u32, 0 u32, XXH3 of
// these and of the floats u64.
#define SLOT_MAGIC  0x544f4c53u // "SLOT"
#define SLOT_HASHED 32
#define SLOT_HEAD   40
#define SLOT_FILES  4096

struct slots {
    int fd;     // own file
    int *other; // files of other ranks, read only
    int n_other;
    uint64_t run_id;
    uint32_t epoch;
    size_t floats, gen_bytes;
    uint8_t *buf; // one generation
    int dirty;
};

static uint64_t slot_hash(const uint8_t *gen, size_t floats)
{
    XXH3_state_t st;
    XXH3_64bits_reset(&st);
    XXH3_64bits_update(&st, gen, SLOT_HASHED);
    XXH3_64bits_update(&st, gen + SLOT_HEAD, floats * 4);
    return XXH3_64bits_digest(&st);
}

static off_t slot_at(const struct slots *s, uint32_t client, int gen)
{
    return (off_t)(((uint64_t)client * SLOT_GENERATIONS + (uint64_t)gen) * s->gen_bytes);
}

// What a header names; round 0 = empty, or another client's.
static struct slot_gen slot_named(const struct slots *s, int fd, uint32_t client, int at)
{
    uint8_t h[SLOT_HEAD];
    if (pread(fd, h, sizeof h, slot_at(s, client, at)) != (ssize_t)sizeof h ||
        get_u32(h) != SLOT_MAGIC || get_u32(h + 8) != client || get_u32(h + 12) != s->floats ||
        get_u64(h + 16) != s->run_id)
        return (struct slot_gen){0};
    return (struct slot_gen){get_u32(h + 4), get_u32(h + 24)};
}

// Opens a regular file of that very name, or nothing: a FIFO would block, and what a link points to
// is not ours.
static int open_regular(const char *path, int flags, struct err *err)
{
    struct stat st;
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (fd < 0)
        return err_set(err, "client state: cannot open '%s': %s", path, strerror(errno));
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    close(fd);
    return err_set(err, "client state: '%s' is not a regular file", path);
}

static void find_others(struct slots *s, const char *dir, int rank)
{
    DIR *d = opendir(dir);
    if (!d)
        return;
    s->other = mem_alloc(MEM_OTHER, SLOT_FILES * sizeof *s->other);
    struct dirent *e;
    while ((e = readdir(d)) && s->n_other < SLOT_FILES) {
        char path[1024], *end;
        if (strncmp(e->d_name, "slots.", 6) != 0)
            continue;
        long r = strtol(e->d_name + 6, &end, 10);
        if (*end || end == e->d_name + 6 || r == rank)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        int fd = fsio_open(path, NULL);
        if (fd >= 0)
            s->other[s->n_other++] = fd;
    }
    closedir(d);
}

static int slots_file(const char *dir, int rank, bool resumed, struct err *err)
{
    char path[1024];
    int fd;
    if (*dir) {
        snprintf(path, sizeof path, "%s/slots.%d", dir, rank);
        fd = open_regular(path, O_RDWR | O_CREAT, err);
        if (fd >= 0 && !resumed && ftruncate(fd, 0) < 0) {
            err_set(err, "client state: cannot empty '%s': %s", path, strerror(errno));
            close(fd);
            fd = -1;
        }
        return fd;
    }
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/fstq-slots-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return err_set(err, "client state: cannot create '%s': %s", path, strerror(errno));
    unlink(path);
    return fd;
}

struct slots *slots_open(const char *dir, int rank, uint64_t run_id, uint32_t epoch, size_t floats,
                         bool resumed, struct err *err)
{
    int fd = slots_file(dir, rank, resumed, err);
    if (fd < 0)
        return NULL;
    struct slots *s = mem_alloc(MEM_OTHER, sizeof *s);
    s->fd = fd;
    s->run_id = run_id;
    s->epoch = epoch;
    s->floats = floats;
    s->gen_bytes = SLOT_HEAD + floats * sizeof(float);
    s->buf = mem_alloc(MEM_OTHER, s->gen_bytes);
    if (resumed && *dir)
        find_others(s, dir, rank);
    return s;
}

void slots_close(struct slots *s)
{
    if (!s)
        return;
    close(s->fd);
    for (int i = 0; i < s->n_other; i++)
        close(s->other[i]);
    mem_free(s->other);
    mem_free(s->buf);
    mem_free(s);
}

// Into buf.
static bool slot_load(struct slots *s, int fd, uint32_t client, int at)
{
    ssize_t n = pread(fd, s->buf, s->gen_bytes, slot_at(s, client, at));
    return n == (ssize_t)s->gen_bytes &&
           get_u64(s->buf + SLOT_HASHED) == slot_hash(s->buf, s->floats);
}

bool slots_have(struct slots *s, uint32_t client, struct slot_gen gen)
{
    for (int f = -1; f < s->n_other; f++) {
        int fd = f < 0 ? s->fd : s->other[f];
        for (int at = 0; at < SLOT_GENERATIONS; at++) {
            struct slot_gen g = slot_named(s, fd, client, at);
            if (g.round == gen.round && g.epoch == gen.epoch && slot_load(s, fd, client, at))
                return true;
        }
    }
    return false;
}

bool slots_read(struct slots *s, uint32_t client, struct slot_gen gen, float *state)
{
    memset(state, 0, s->floats * sizeof *state);
    if (gen.round == 0)
        return true;
    if (!slots_have(s, client, gen))
        return false;
    memcpy(state, s->buf + SLOT_HEAD, s->floats * sizeof *state);
    return true;
}

// The place that a new generation takes: that of one which never counted, else the oldest's. But if
// the second oldest came after the checkpoint, the oldest is what a resume needs, and stays.
static int slot_victim(const struct slots *s, uint32_t client, struct slot_gen newest,
                       uint32_t kept)
{
    int oldest = 0, second = 0;
    uint32_t oldest_round = UINT32_MAX, second_round = UINT32_MAX;
    for (int at = 0; at < SLOT_GENERATIONS; at++) {
        struct slot_gen g = slot_named(s, s->fd, client, at);
        if (g.round == 0 || g.round > newest.round ||
            (g.round == newest.round && g.epoch != newest.epoch))
            return at;
        if (g.round < oldest_round) {
            second = oldest;
            second_round = oldest_round;
            oldest = at;
            oldest_round = g.round;
        } else if (g.round < second_round) {
            second = at;
            second_round = g.round;
        }
    }
    return second_round > kept ? second : oldest;
}

static int write_at(int fd, const uint8_t *p, size_t n, off_t at)
{
    while (n > 0) {
        ssize_t k = pwrite(fd, p, n, at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k == 0)
            errno = EIO;
        if (k <= 0)
            return -1;
        p += k;
        n -= (size_t)k;
        at += k;
    }
    return 0;
}

int slots_write(struct slots *s, uint32_t client, uint32_t round, struct slot_gen newest,
                uint32_t kept, const float *state, struct err *err)
{
    int at = slot_victim(s, client, newest, kept);
    put_u32(s->buf, SLOT_MAGIC);
    put_u32(s->buf + 4, round);
    put_u32(s->buf + 8, client);
    put_u32(s->buf + 12, (uint32_t)s->floats);
    put_u64(s->buf + 16, s->run_id);
    put_u32(s->buf + 24, s->epoch);
    put_u32(s->buf + 28, 0);
    memcpy(s->buf + SLOT_HEAD, state, s->floats * sizeof *state);
    put_u64(s->buf + SLOT_HASHED, slot_hash(s->buf, s->floats));
    s->dirty = 1;
    if (write_at(s->fd, s->buf, s->gen_bytes, slot_at(s, client, at)))
        return err_set(err, "its state cannot be written: %s", strerror(errno));
    return 0;
}

int slots_sync(struct slots *s, struct err *err)
{
    if (!s->dirty)
        return 0;
    s->dirty = 0;
    if (fdatasync(s->fd))
        return err_set(err, "client state: cannot sync: %s", strerror(errno));
    return 0;
}
