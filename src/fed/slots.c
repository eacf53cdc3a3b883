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
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

// A generation: magic u32, round u32, client u32, floats u32, run id u64, XXH3 of these and of the
// floats u64.
#define SLOT_MAGIC  0x544f4c53u // "SLOT"
#define SLOT_HASHED 24
#define SLOT_HEAD   32
#define SLOT_FILES  4096

struct slots {
    int fd;     // own file
    int *other; // files of other ranks, read only
    int n_other;
    uint64_t run_id;
    uint32_t resumed_at;
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

// The round in a generation's header, 0 = empty or another client's.
static uint32_t slot_round(const struct slots *s, int fd, uint32_t client, int gen)
{
    uint8_t h[SLOT_HEAD];
    if (pread(fd, h, sizeof h, slot_at(s, client, gen)) != (ssize_t)sizeof h)
        return 0;
    if (get_u32(h) != SLOT_MAGIC || get_u32(h + 8) != client || get_u32(h + 12) != s->floats ||
        get_u64(h + 16) != s->run_id)
        return 0;
    return get_u32(h + 4);
}

static void slot_erase(struct slots *s, uint32_t client, int gen)
{
    static const uint8_t nothing[SLOT_HEAD];
    s->dirty = 1;
    if (pwrite(s->fd, nothing, sizeof nothing, slot_at(s, client, gen)) != (ssize_t)sizeof nothing)
        warn("client state: cannot drop the slot of client %u: %s", client, strerror(errno));
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

static int slots_file(const char *dir, int rank, bool fresh, struct err *err)
{
    char path[1024];
    int fd;
    if (*dir) {
        snprintf(path, sizeof path, "%s/slots.%d", dir, rank);
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (fresh ? O_TRUNC : 0), 0644);
    } else {
        const char *tmp = getenv("TMPDIR");
        snprintf(path, sizeof path, "%s/fstq-slots-XXXXXX", tmp && *tmp ? tmp : "/tmp");
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0)
            unlink(path);
    }
    if (fd < 0)
        err_set(err, "client state: cannot open '%s': %s", path, strerror(errno));
    return fd;
}

struct slots *slots_open(const char *dir, int rank, uint64_t run_id, size_t floats,
                         uint32_t clients, uint32_t resumed_at, struct err *err)
{
    int fd = slots_file(dir, rank, resumed_at == 0, err);
    if (fd < 0)
        return NULL;
    struct slots *s = mem_alloc(MEM_OTHER, sizeof *s);
    s->fd = fd;
    s->run_id = run_id;
    s->resumed_at = resumed_at;
    s->floats = floats;
    s->gen_bytes = SLOT_HEAD + floats * sizeof(float);
    s->buf = mem_alloc(MEM_OTHER, s->gen_bytes);
    if (resumed_at == 0)
        return s;
    if (*dir)
        find_others(s, dir, rank);
    for (uint32_t c = 0; c < clients; c++)
        for (int g = 0; g < SLOT_GENERATIONS; g++)
            if (slot_round(s, fd, c, g) > resumed_at)
                slot_erase(s, c, g);
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

static int slot_load(struct slots *s, int fd, uint32_t client, int gen)
{
    ssize_t n = pread(fd, s->buf, s->gen_bytes, slot_at(s, client, gen));
    return n == (ssize_t)s->gen_bytes &&
                   get_u64(s->buf + SLOT_HASHED) == slot_hash(s->buf, s->floats)
               ? 0
               : -1;
}

uint32_t slots_read(struct slots *s, uint32_t client, uint32_t round, float *state)
{
    uint32_t best = 0;
    for (int f = -1; f < s->n_other; f++) {
        int fd = f < 0 ? s->fd : s->other[f];
        for (int g = 0; g < SLOT_GENERATIONS; g++) {
            uint32_t r = slot_round(s, fd, client, g);
            if (r <= best || r >= round || (f >= 0 && r > s->resumed_at) ||
                slot_load(s, fd, client, g))
                continue;
            best = r;
            memcpy(state, s->buf + SLOT_HEAD, s->floats * sizeof *state);
        }
    }
    if (best == 0)
        memset(state, 0, s->floats * sizeof *state);
    return best;
}

int slots_write(struct slots *s, uint32_t client, uint32_t round, const float *state,
                struct err *err)
{
    int oldest = 0;
    uint32_t oldest_round = UINT32_MAX;
    for (int g = 0; g < SLOT_GENERATIONS; g++) {
        uint32_t r = slot_round(s, s->fd, client, g);
        if (r < oldest_round) {
            oldest_round = r;
            oldest = g;
        }
    }
    put_u32(s->buf, SLOT_MAGIC);
    put_u32(s->buf + 4, round);
    put_u32(s->buf + 8, client);
    put_u32(s->buf + 12, (uint32_t)s->floats);
    put_u64(s->buf + 16, s->run_id);
    memcpy(s->buf + SLOT_HEAD, state, s->floats * sizeof *state);
    put_u64(s->buf + SLOT_HASHED, slot_hash(s->buf, s->floats));
    s->dirty = 1;
    if (pwrite(s->fd, s->buf, s->gen_bytes, slot_at(s, client, oldest)) != (ssize_t)s->gen_bytes)
        return err_set(err, "client state: cannot write the slot of client %u: %s", client,
                       strerror(errno));
    return 0;
}

void slots_drop(struct slots *s, uint32_t client, uint32_t round)
{
    for (int g = 0; g < SLOT_GENERATIONS; g++)
        if (slot_round(s, s->fd, client, g) == round)
            slot_erase(s, client, g);
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
