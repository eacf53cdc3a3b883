#include "fed/side_cache.h"

#include "base/bytes.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>

// In the slab: id u64, length u32, u32 that says whether it is a record or the end of a turn; then
// the record, up to a multiple of 8.
enum { HEAD = 16, KIND_RECORD = 1, KIND_END = 2, FIELDS = 6, RECORD_WORDS = 3, EXPECTED = 256 };

struct place {
    uint64_t id, at; // at: of its head in the ring, + 1; 0 = free
};

struct side_cache {
    uint8_t *slab;
    size_t cap;
    uint64_t head, tail; // of the ring, counted on and on: oldest record, next one
    struct place *place;
    size_t n_places; // a power of two
    struct side_cache_counts counts;
};

struct side_cache *side_cache_open(size_t slab_bytes, size_t least_bytes)
{
    struct side_cache *c = mem_alloc(MEM_SERVER, sizeof *c);
    c->cap = slab_bytes / 8 * 8;
    size_t most = c->cap / (HEAD + (least_bytes > 0 ? least_bytes : 1)) + 1;
    for (c->n_places = 4; c->n_places < 2 * most;)
        c->n_places *= 2;
    c->slab = mem_alloc(MEM_SERVER, c->cap + HEAD);
    c->place = mem_alloc(MEM_SERVER, c->n_places * sizeof *c->place);
    return c;
}

void side_cache_close(struct side_cache *c)
{
    if (!c)
        return;
    mem_free(c->slab);
    mem_free(c->place);
    mem_free(c);
}

struct side_cache_counts side_cache_counts(const struct side_cache *c)
{
    return c->counts;
}

static size_t record_bytes(size_t len)
{
    return HEAD + (len + 7) / 8 * 8;
}

// the index.

// Ids are hashes already. Where it is, or the free place that ends the search.
static size_t find(const struct side_cache *c, uint64_t id)
{
    size_t i = (size_t)id & (c->n_places - 1);
    while (c->place[i].at && c->place[i].id != id)
        i = (i + 1) & (c->n_places - 1);
    return i;
}

// What follows moves up, so that no search ends early.
static void forget(struct side_cache *c, size_t hole)
{
    size_t mask = c->n_places - 1;
    for (size_t i = (hole + 1) & mask; c->place[i].at; i = (i + 1) & mask) {
        size_t home = (size_t)c->place[i].id & mask;
        if (((i - home) & mask) < ((i - hole) & mask))
            continue; // its home lies behind the hole
        c->place[hole] = c->place[i];
        hole = i;
    }
    c->place[hole] = (struct place){0};
}

// the ring.

static uint8_t *at(const struct side_cache *c, uint64_t where)
{
    return c->slab + where % c->cap;
}

static size_t to_end(const struct side_cache *c, uint64_t where)
{
    return c->cap - (size_t)(where % c->cap);
}

// Past the end of a turn, where the oldest record is not.
static void skip_end(struct side_cache *c)
{
    while (c->head < c->tail &&
           (to_end(c, c->head) < HEAD || get_u32(at(c, c->head) + 12) == KIND_END))
        c->head += to_end(c, c->head);
}

static void evict(struct side_cache *c)
{
    skip_end(c);
    const uint8_t *r = at(c, c->head);
    size_t len = get_u32(r + 8);
    forget(c, find(c, get_u64(r)));
    c->head += record_bytes(len);
    c->counts.records--;
    c->counts.bytes -= (int64_t)len;
    c->counts.evicted++;
    skip_end(c);
}

// Room for so many bytes in a row, at the tail. What is left of a turn that is too short is
// skipped.
static void make_room(struct side_cache *c, size_t need)
{
    size_t pad = to_end(c, c->tail) < need ? to_end(c, c->tail) : 0;
    while (c->tail - c->head + pad + need > c->cap && c->counts.records > 0)
        evict(c);
    if (c->counts.records > 0 && pad >= HEAD)
        put_u32(at(c, c->tail) + 12, KIND_END);
    c->tail += pad;
    if (c->counts.records == 0)
        c->head = c->tail;
}

void side_cache_put(struct side_cache *c, uint64_t id, const uint8_t *bytes, size_t len)
{
    size_t need = record_bytes(len);
    if (side_cache_has(c, id))
        return;
    if (need > c->cap) {
        c->counts.refused++;
        return;
    }
    make_room(c, need);
    uint8_t *r = at(c, c->tail);
    put_u64(r, id);
    put_u32(r + 8, (uint32_t)len);
    put_u32(r + 12, KIND_RECORD);
    memcpy(r + HEAD, bytes, len);
    assert((size_t)c->counts.records < c->n_places - 1);
    c->place[find(c, id)] = (struct place){id, c->tail + 1};
    c->tail += need;
    c->counts.records++;
    c->counts.bytes += (int64_t)len;
}

bool side_cache_has(const struct side_cache *c, uint64_t id)
{
    return c->place[find(c, id)].at != 0;
}

// Places first, then the records' beginnings; what follows those the processor fetches by itself.
void side_cache_expect(const struct side_cache *c, const uint64_t *id, size_t n)
{
    for (size_t i = 0; i < n; i++)
        __builtin_prefetch(&c->place[(size_t)id[i] & (c->n_places - 1)]);
    for (size_t i = 0; i < n; i++) {
        const struct place *p = &c->place[find(c, id[i])];
        for (size_t line = 0; p->at && line < EXPECTED; line += 64)
            __builtin_prefetch(at(c, p->at - 1) + line);
    }
}

const uint8_t *side_cache_get(struct side_cache *c, uint64_t id, size_t *len)
{
    const struct place *p = &c->place[find(c, id)];
    if (!p->at) {
        c->counts.misses++;
        return NULL;
    }
    const uint8_t *r = at(c, p->at - 1);
    c->counts.hits++;
    *len = get_u32(r + 8);
    return r + HEAD;
}

// checkpoints.

// The record at *where, which moves behind it; NULL = that was the last.
static const uint8_t *next_record(const struct side_cache *c, uint64_t *where)
{
    while (*where < c->tail) {
        const uint8_t *r = at(c, *where);
        bool end = to_end(c, *where) < HEAD || get_u32(r + 12) == KIND_END;
        *where += end ? to_end(c, *where) : record_bytes(get_u32(r + 8));
        if (!end)
            return r;
    }
    return NULL;
}

size_t side_cache_words(const struct side_cache *c)
{
    size_t words = 2 * FIELDS;
    uint64_t where = c->head;
    for (const uint8_t *r; (r = next_record(c, &where));)
        words += RECORD_WORDS + (get_u32(r + 8) + 3) / 4;
    return words;
}

// With the place of the oldest, for where turns end decides what goes first.
void side_cache_keep(const struct side_cache *c, uint8_t *p)
{
    const struct side_cache_counts *n = &c->counts;
    const int64_t fields[FIELDS] = {n->hits,    n->misses,  n->evicted,
                                    n->refused, n->records, (int64_t)(c->head % c->cap)};
    uint64_t where = c->head;
    for (int i = 0; i < FIELDS; i++, p += 8)
        put_u64(p, (uint64_t)fields[i]);
    for (const uint8_t *r; (r = next_record(c, &where));) {
        size_t len = get_u32(r + 8), words = (len + 3) / 4;
        memcpy(p, r, 12);
        memset(p + 12, 0, 4 * words);
        memcpy(p + 12, r + HEAD, len);
        p += 12 + 4 * words;
    }
}

int side_cache_restore(struct side_cache *c, const uint8_t *in, size_t words)
{
    int64_t fields[FIELDS];
    size_t used = 2 * FIELDS;
    if (words < used || c->counts.records > 0)
        return -1;
    for (int i = 0; i < FIELDS; i++)
        fields[i] = (int64_t)get_u64(in + 8 * i);
    if (fields[5] < 0 || fields[5] % 8 || (size_t)fields[5] >= c->cap)
        return -1;
    c->head = c->tail = (uint64_t)fields[5];
    for (int64_t i = 0; i < fields[4]; i++) {
        const uint8_t *r = in + 4 * used;
        size_t left = words - used, len = left < RECORD_WORDS ? 0 : get_u32(r + 8);
        if (left < RECORD_WORDS + (len + 3) / 4)
            return -1;
        side_cache_put(c, get_u64(r), r + 12, len);
        used += RECORD_WORDS + (len + 3) / 4;
    }
    if (used != words || c->counts.records != fields[4] || c->counts.evicted || c->counts.refused)
        return -1;
    c->counts.hits = fields[0];
    c->counts.misses = fields[1];
    c->counts.evicted = fields[2];
    c->counts.refused = fields[3];
    return 0;
}
