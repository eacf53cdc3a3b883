#include "trace/trace_journal.h"

#include "base/bytes.h"
#include "base/fsio.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

// File:   "FSTQJRNL", version u32, 0 u32, layout u64, XXH3 of the 24 bytes before u64.
// Record: magic u32, type u32, payload bytes u64, XXH3 of the payload seeded with type and length
// u64. Rows are the structs of base/record.h as this machine lays them out; `layout` is a hash of
// that.
#define JOURNAL_VERSION 1
#define HEADER_BYTES    TRACE_JOURNAL_HEADER
#define RECORD_BYTES    TRACE_JOURNAL_RECORD
#define RECORD_MAGIC    0x4c4e524au // "JRNL"
#define FACTS_MAX       4096
static const char file_magic[8] = "FSTQJRNL";

enum record_type { RECORD_FACT = 1, RECORD_ROWS, RECORD_COMMIT };

static uint64_t layout_hash(void)
{
    uint64_t h = 0;
    for (int id = 0; id < REC_COUNT; id++) {
        const struct record_table *t = &record_tables[id];
        h = XXH3_64bits_withSeed(t->name, strlen(t->name), h);
        h = XXH3_64bits_withSeed(&t->row_bytes, sizeof t->row_bytes, h); // byte order goes in too
        for (const struct record_field *f = t->fields; f->name; f++) {
            const uint32_t facts[] = {(uint32_t)f->type, f->offset, f->count};
            h = XXH3_64bits_withSeed(f->name, strlen(f->name), h);
            h = XXH3_64bits_withSeed(facts, sizeof facts, h);
        }
    }
    return h;
}

void trace_journal_header(uint8_t h[HEADER_BYTES])
{
    memcpy(h, file_magic, sizeof file_magic);
    put_u32(h + 8, JOURNAL_VERSION);
    put_u32(h + 12, 0);
    put_u64(h + 16, layout_hash());
    put_u64(h + 24, XXH3_64bits(h, 24));
}

static uint64_t record_hash(uint32_t type, uint64_t len, const uint8_t *payload)
{
    return XXH3_64bits_withSeed(payload, (size_t)len, len ^ ((uint64_t)type << 56));
}

// Writing.

static uint8_t *reserve(struct trace_journal *j, size_t n)
{
    j->buf = mem_grow(MEM_TRACE, j->buf, j->len, j->len + n, &j->cap, 1);
    uint8_t *at = j->buf + j->len;
    j->len += n;
    return at;
}

void trace_journal_seal(uint8_t *record, uint32_t type, uint64_t payload_bytes)
{
    put_u32(record, RECORD_MAGIC);
    put_u32(record + 4, type);
    put_u64(record + 8, payload_bytes);
    put_u64(record + 16, record_hash(type, payload_bytes, record + RECORD_BYTES));
}

// Payload: place u32, name bytes u32, name, text.
void trace_journal_fact(struct trace_journal *j, const struct trace_fact *f)
{
    size_t name = strlen(f->name), n = 8 + name + f->len;
    uint8_t *r = reserve(j, RECORD_BYTES + n), *p = r + RECORD_BYTES;
    put_u32(p, (uint32_t)f->place);
    put_u32(p + 4, (uint32_t)name);
    memcpy(p + 8, f->name, name);
    memcpy(p + 8 + name, f->text, f->len);
    trace_journal_seal(r, RECORD_FACT, n);
}

// Payload: table u32, row bytes u32, rows.
void trace_journal_rows(struct trace_journal *j, enum record_id id, const void *rows, size_t n)
{
    size_t row_bytes = record_tables[id].row_bytes, payload = 8 + n * row_bytes;
    if (!n)
        return;
    uint8_t *r = reserve(j, RECORD_BYTES + payload), *p = r + RECORD_BYTES;
    put_u32(p, (uint32_t)id);
    put_u32(p + 4, (uint32_t)row_bytes);
    memcpy(p + 8, rows, n * row_bytes);
    trace_journal_seal(r, RECORD_ROWS, payload);
}

static int write_all(int fd, const uint8_t *p, size_t n)
{
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return -1;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

int trace_journal_commit(struct trace_journal *j, int32_t version, int64_t rounds, struct err *err)
{
    uint8_t *r = reserve(j, RECORD_BYTES + 16), *p = r + RECORD_BYTES;
    put_u32(p, (uint32_t)version);
    put_u32(p + 4, 0);
    put_u64(p + 8, (uint64_t)rounds);
    trace_journal_seal(r, RECORD_COMMIT, 16);
    int bad = write_all(j->fd, j->buf, j->len);
    if (bad) {
        trace_errno_set(err, j->path, "write");
        // Best effort: a reader stops at the last whole commit with or without it.
        if (ftruncate(j->fd, j->size) == 0)
            lseek(j->fd, j->size, SEEK_SET);
        j->len = 0;
        return -1;
    }
    j->size += (int64_t)j->len;
    j->len = 0;
    return 0;
}

int trace_journal_sync(struct trace_journal *j, struct err *err)
{
    return fdatasync(j->fd) < 0 ? trace_errno_set(err, j->path, "sync") : 0;
}

static int open_locked(struct trace_journal *j, const char *path, int flags, struct err *err)
{
    *j = (struct trace_journal){.fd = -1};
    if (snprintf(j->path, sizeof j->path, "%s", path) >= (int)sizeof j->path)
        return err_set(err, "%s: the name is too long", path);
    if (fsio_regular(path, err) < 0) // or a pipe would block, and a link lead elsewhere
        return -1;
    j->fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (j->fd < 0)
        return trace_errno_set(err, path, "open");
    // Not every file system can lock; where one cannot, the lock of run.dir has to do.
    if (flock(j->fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        trace_journal_close(j);
        return err_set(err, "%s: another process is writing this trace", path);
    }
    return 0;
}

int trace_journal_create(struct trace_journal *j, const char *path, struct err *err)
{
    if (open_locked(j, path, O_RDWR | O_CREAT, err) < 0)
        return -1;
    uint8_t header[HEADER_BYTES];
    trace_journal_header(header);
    if (ftruncate(j->fd, 0) < 0 || write_all(j->fd, header, sizeof header) < 0) {
        trace_errno_set(err, path, "write");
        trace_journal_close(j);
        return -1;
    }
    j->size = HEADER_BYTES;
    return 0;
}

int trace_journal_reopen(struct trace_journal *j, const char *path, size_t good, struct err *err)
{
    if (open_locked(j, path, O_RDWR, err) < 0)
        return -1;
    if (ftruncate(j->fd, (off_t)good) < 0 || lseek(j->fd, (off_t)good, SEEK_SET) < 0) {
        trace_errno_set(err, path, "append to");
        trace_journal_close(j);
        return -1;
    }
    j->size = (int64_t)good;
    return 0;
}

void trace_journal_close(struct trace_journal *j)
{
    if (j->fd >= 0)
        close(j->fd);
    mem_free(j->buf);
    j->buf = NULL;
    j->fd = -1;
    j->len = j->cap = 0;
}

int trace_journal_ours(const char *path, struct err *err)
{
    char magic[sizeof file_magic] = {0};
    int fd = fsio_open(path, err);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, magic, sizeof magic);
    close(fd);
    if (n != (ssize_t)sizeof magic || memcmp(magic, file_magic, sizeof magic) != 0)
        return err_set(err, "%s: not a trace journal", path);
    return 0;
}

bool trace_journal_busy(const char *path)
{
    int fd = fsio_open(path, NULL);
    if (fd < 0)
        return false;
    bool busy = flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    close(fd);
    return busy;
}

// Reading bytes that nobody vouches for.

static int take_fact(const uint8_t *p, uint64_t n, struct trace_file *f)
{
    if (n < 8 || n > TRACE_TEXT_MAX)
        return -1;
    uint32_t place = get_u32(p), name_len = get_u32(p + 4);
    char name[sizeof f->facts->name];
    if (place >= TRACE_PLACES || name_len >= sizeof name || name_len > n - 8)
        return -1;
    memcpy(name, p + 8, name_len);
    name[name_len] = 0;
    size_t text = (size_t)n - 8 - name_len;
    if (!name[0] || memchr(p + 8 + name_len, 0, text))
        return -1;
    if (f->n_facts < FACTS_MAX && !trace_fact_get(f, (enum trace_place)place, name))
        trace_fact_add(f, (enum trace_place)place, name, (const char *)p + 8 + name_len, text);
    return 0;
}

static int take_rows(const uint8_t *p, uint64_t n, struct trace_file *f)
{
    if (n < 8)
        return -1;
    uint32_t id = get_u32(p), row_bytes = get_u32(p + 4);
    if (id >= REC_COUNT || row_bytes != record_tables[id].row_bytes || (n - 8) % row_bytes)
        return -1;
    trace_rows_add(f, (enum record_id)id, p + 8, (size_t)(n - 8) / row_bytes);
    return 0;
}

// The record at bytes[at], or 0 if none that is whole begins there.
static uint64_t record_at(const uint8_t *bytes, size_t n, size_t at, uint32_t *type)
{
    if (n - at < RECORD_BYTES || get_u32(bytes + at) != RECORD_MAGIC)
        return 0;
    uint64_t len = get_u64(bytes + at + 8);
    *type = get_u32(bytes + at + 4);
    if (len > n - at - RECORD_BYTES)
        return 0;
    if (record_hash(*type, len, bytes + at + RECORD_BYTES) != get_u64(bytes + at + 16))
        return 0;
    return RECORD_BYTES + len;
}

// Where the next whole record begins behind damage; n if nowhere. Each false start costs a hash of
// what it claims to be, so their number is bounded.
static size_t next_record(const uint8_t *bytes, size_t n, size_t at)
{
    uint8_t magic[4];
    uint32_t type;
    put_u32(magic, RECORD_MAGIC);
    for (int tries = 0; tries < 4096 && at < n; tries++) {
        const uint8_t *hit = memmem(bytes + at, n - at, magic, sizeof magic);
        if (!hit)
            return n;
        at = (size_t)(hit - bytes);
        if (record_at(bytes, n, at, &type))
            return at;
        at++;
    }
    return n;
}

int trace_journal_parse(const uint8_t *bytes, size_t n, struct trace_file *f, size_t *good,
                        struct err *err)
{
    *good = 0;
    if (n < HEADER_BYTES || memcmp(bytes, file_magic, sizeof file_magic) != 0)
        return err_set(err, "not a trace journal");
    if (XXH3_64bits(bytes, 24) != get_u64(bytes + 24))
        return err_set(err, "the header of the journal is damaged");
    if (get_u32(bytes + 8) != JOURNAL_VERSION || get_u64(bytes + 16) != layout_hash())
        return err_set(err, "journal of another version of this program: recover with that one");
    size_t committed[REC_COUNT] = {0};
    int64_t damaged_at_commit = f->damaged;
    *good = HEADER_BYTES;
    for (size_t at = HEADER_BYTES; at < n;) {
        uint32_t type = 0;
        uint64_t len = record_at(bytes, n, at, &type);
        if (!len) {
            at = next_record(bytes, n, at + 1);
            f->damaged++;
            continue;
        }
        const uint8_t *payload = bytes + at + RECORD_BYTES;
        int bad = 0;
        if (type == RECORD_FACT)
            bad = take_fact(payload, len - RECORD_BYTES, f);
        else if (type == RECORD_ROWS)
            bad = take_rows(payload, len - RECORD_BYTES, f);
        else if (type != RECORD_COMMIT)
            bad = -1;
        f->damaged += bad < 0;
        at += (size_t)len;
        if (type != RECORD_COMMIT)
            continue;
        memcpy(committed, f->n, sizeof committed);
        damaged_at_commit = f->damaged;
        *good = at;
    }
    memcpy(f->n, committed, sizeof committed);
    f->damaged = damaged_at_commit; // a torn tail is what a crash leaves, not damage
    f->exact = f->damaged == 0 && *good == n;
    f->rounds_committed = (int64_t)f->n[REC_ROUNDS];
    return 0;
}

int trace_journal_load(const char *path, struct trace_file *f, size_t *good, struct err *err)
{
    uint8_t *bytes = NULL;
    size_t n = 0;
    struct err why = {0};
    struct stat st;
    *good = 0;
    if (stat(path, &st) < 0)
        return trace_errno_set(err, path, "read");
    if (st.st_size < HEADER_BYTES)
        return err_set(err, "%s: %lld bytes are no journal", path, (long long)st.st_size);
    if (fsio_read(path, (size_t)st.st_size, MEM_TRACE, &bytes, &n, err) < 0)
        return -1;
    int r = trace_journal_parse(bytes, n, f, good, &why);
    if (r < 0)
        err_set(err, "%s: %s", path, why.text);
    mem_free(bytes);
    return r;
}
