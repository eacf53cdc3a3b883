#include "task/bpe.h"

#include "base/mem.h"
#include "task/merger.h"
#include "task/utf8.h"

#include <string.h>

struct pair_row { // of the table of merges; left -1 = empty
    int32_t left, right, merged, rank;
};

struct bpe {
    int32_t vocab;
    char *text;           // the bytes of all pieces
    size_t *start;        // (vocab + 1) of each in text
    uint8_t *silent;      // (vocab) control tokens: never in text, nothing when decoded
    int32_t byte_id[256]; // of single bytes, -1 = the vocabulary has none
    int32_t *slot;        // (slots) ids by text, + 1
    size_t slots, pairs;
    struct pair_row *pair; // (pairs)
    const struct pretoken *pretoken;
    bool whole;     // a piece that is a token is taken without merging
    int32_t *added; // (n_added) tokens found in plain text before all else, longest first
    int32_t n_added;
};

// The alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and on, in order.
static bool stands_for_itself(int b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

static void byte_alphabet(int16_t byte_of[512])
{
    int next = 256;
    memset(byte_of, -1, 512 * sizeof *byte_of);
    for (int b = 0; b < 256; b++)
        byte_of[stands_for_itself(b) ? b : next++] = (int16_t)b;
}

// Writes the bytes that a text stands for and returns how many; what is not of the alphabet, as in
// added tokens, stays as it is.
static size_t to_bytes(const int16_t byte_of[512], struct gguf_text t, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < t.n;) {
        uint32_t cp;
        size_t len = utf8_next(t.p + i, t.n - i, &cp);
        if (cp < 512 && byte_of[cp] >= 0) {
            out[n++] = (char)byte_of[cp];
        } else {
            memcpy(out + n, t.p + i, len);
            n += len;
        }
        i += len;
    }
    return n;
}

static uint64_t mix(uint64_t h)
{
    h = (h ^ h >> 31) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static uint64_t hash_text(const char *p, size_t n)
{
    uint64_t h = n;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        h = mix(h ^ v);
    }
    uint64_t v = 0;
    memcpy(&v, p, n);
    return mix(h ^ v);
}

static int32_t find_text(const struct bpe *b, const char *p, size_t n)
{
    for (size_t i = hash_text(p, n) & (b->slots - 1); b->slot[i]; i = (i + 1) & (b->slots - 1)) {
        int32_t id = b->slot[i] - 1;
        if (b->start[id + 1] - b->start[id] == n && !memcmp(b->text + b->start[id], p, n))
            return id;
    }
    return -1;
}

static size_t pair_place(const struct bpe *b, int32_t left, int32_t right)
{
    return mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right) & (b->pairs - 1);
}

static bool find_pair(const void *vocabulary, int32_t left, int32_t right, float *order,
                      int32_t *merged)
{
    const struct bpe *b = vocabulary;
    for (size_t i = pair_place(b, left, right);; i = (i + 1) & (b->pairs - 1)) {
        const struct pair_row *r = &b->pair[i];
        if (r->left < 0)
            return false;
        if (r->left == left && r->right == right) {
            *order = (float)r->rank; // below 2^24: exact
            *merged = r->merged;
            return true;
        }
    }
}

void bpe_close(struct tokenizer *t)
{
    struct bpe *b = t->state;
    mem_free(b->text);
    mem_free(b->start);
    mem_free(b->silent);
    mem_free(b->slot);
    mem_free(b->pair);
    mem_free(b->added);
    mem_free(b);
}

// Building.

static size_t power_of_two(size_t n)
{
    size_t p = 16;
    while (p < n)
        p *= 2;
    return p;
}

static void add_texts(struct bpe *b, const struct bpe_vocabulary *v, const int16_t byte_of[512])
{
    size_t bytes = 0;
    for (int32_t i = 0; i < v->n; i++)
        bytes += v->token[i].n;
    b->text = mem_alloc(MEM_DATA, bytes + 1);
    for (int32_t i = 0; i < v->n; i++) {
        struct gguf_text t = v->token[i];
        b->silent[i] = v->kind[i] == BPE_CONTROL;
        char *to = b->text + b->start[i];
        size_t n = t.n;
        if (v->kind[i] == BPE_NORMAL)
            n = to_bytes(byte_of, t, to);
        else if (n)
            memcpy(to, t.p, n);
        b->start[i + 1] = b->start[i] + n;
        if (v->kind[i] != BPE_NORMAL || n == 0 || find_text(b, to, n) >= 0)
            continue; // of equal texts the first counts; others are not found by text
        if (n == 1)
            b->byte_id[(uint8_t)*to] = i;
        size_t at = hash_text(to, n) & (b->slots - 1);
        while (b->slot[at])
            at = (at + 1) & (b->slots - 1);
        b->slot[at] = i + 1;
    }
}

static int add_merge(struct bpe *b, const int16_t byte_of[512], struct gguf_text left,
                     struct gguf_text right, int64_t rank, char *room, struct err *err)
{
    size_t a = to_bytes(byte_of, left, room), c = to_bytes(byte_of, right, room + a);
    int32_t x = find_text(b, room, a), y = find_text(b, room + a, c), z = find_text(b, room, a + c);
    if (x < 0 || y < 0 || z < 0)
        return err_set(err, "merge %lld: '%.*s' and '%.*s' or what they make are no tokens",
                       (long long)rank, (int)(left.n < 80 ? left.n : 80), left.p,
                       (int)(right.n < 80 ? right.n : 80), right.p);
    size_t at = pair_place(b, x, y);
    for (; b->pair[at].left >= 0; at = (at + 1) & (b->pairs - 1))
        if (b->pair[at].left == x && b->pair[at].right == y)
            return 0; // the first counts
    b->pair[at] = (struct pair_row){x, y, z, (int32_t)rank};
    return 0;
}

static int add_merges(struct bpe *b, const struct bpe_vocabulary *v, const int16_t byte_of[512],
                      struct err *err)
{
    size_t longest = 0;
    b->pairs = power_of_two(2 * (size_t)v->n_merges + 1);
    b->pair = mem_alloc(MEM_DATA, b->pairs * sizeof *b->pair);
    for (size_t i = 0; i < b->pairs; i++)
        b->pair[i].left = -1;
    for (int64_t i = 0; i < v->n_merges; i++) {
        size_t n = v->merge[i][0].n + v->merge[i][1].n;
        longest = n > longest ? n : longest;
    }
    char *room = mem_alloc(MEM_DATA, longest + 1);
    int bad = 0;
    for (int64_t i = 0; i < v->n_merges && !bad; i++)
        bad = add_merge(b, byte_of, v->merge[i][0], v->merge[i][1], i, room, err);
    mem_free(room);
    return bad;
}

static void add_added(struct bpe *b, const struct bpe_vocabulary *v)
{
    b->added = mem_alloc(MEM_DATA, (size_t)v->n * sizeof *b->added);
    for (int32_t i = 0; i < v->n; i++) {
        if (v->kind[i] != BPE_ADDED || v->token[i].n == 0)
            continue;
        int32_t at = b->n_added++;
        for (; at > 0 && v->token[b->added[at - 1]].n < v->token[i].n; at--)
            b->added[at] = b->added[at - 1];
        b->added[at] = i;
    }
}

int bpe_build(struct tokenizer *t, const struct bpe_vocabulary *v, struct err *err)
{
    int16_t byte_of[512];
    if (v->n < 1 || v->n > BPE_MAX_VOCAB || v->n_merges > BPE_MAX_VOCAB)
        return err_set(err, "%d tokens and %lld merges: 1 to %d are known", v->n,
                       (long long)v->n_merges, BPE_MAX_VOCAB);
    const int32_t special[] = {v->bos, v->eos, v->pad};
    for (size_t i = 0; i < ARRAY_LEN(special); i++)
        if (special[i] < -1 || special[i] >= v->n)
            return err_set(err, "a special token of id %d in a vocabulary of %d", special[i], v->n);
    struct bpe *b = mem_alloc(MEM_DATA, sizeof *b);
    byte_alphabet(byte_of);
    b->vocab = v->n;
    b->pretoken = v->pretoken;
    b->whole = v->whole;
    b->start = mem_alloc(MEM_DATA, ((size_t)v->n + 1) * sizeof *b->start);
    b->silent = mem_alloc(MEM_DATA, (size_t)v->n);
    b->slots = power_of_two(2 * (size_t)v->n);
    b->slot = mem_alloc(MEM_DATA, b->slots * sizeof *b->slot);
    memset(b->byte_id, -1, sizeof b->byte_id);
    add_texts(b, v, byte_of);
    add_added(b, v);
    t->state = b;
    t->vocab = v->n;
    t->bos = v->bos;
    t->eos = v->eos;
    t->pad = v->pad;
    int bad = add_merges(b, v, byte_of, err);
    if (bad)
        bpe_close(t);
    return bad;
}

// Encoding.

struct output {
    int32_t *ids, cap, n;
};

static void put_piece(const struct bpe *b, struct merger *m, const char *p, size_t n,
                      struct output *out)
{
    int32_t whole = b->whole ? find_text(b, p, n) : -1;
    int32_t left = out->cap > out->n ? out->cap - out->n : 0;
    if (whole >= 0) {
        if (left)
            out->ids[out->n] = whole;
        out->n++;
        return;
    }
    for (size_t i = 0; i < n; i++)
        if (b->byte_id[(uint8_t)p[i]] >= 0) // others are dropped, as the reference does
            merger_add(m, b->byte_id[(uint8_t)p[i]]);
    out->n += merger_run(m, left ? out->ids + out->n : NULL, left);
}

static void put_plain(const struct bpe *b, struct merger *m, const char *p, size_t n,
                      struct output *out)
{
    for (size_t at = 0; at < n;) {
        size_t len = b->pretoken->next(p, n, at);
        put_piece(b, m, p + at, len, out);
        at += len;
    }
}

// The added token that stands at p, or -1.
static int32_t added_at(const struct bpe *b, const char *p, size_t n)
{
    for (int32_t i = 0; i < b->n_added; i++) {
        int32_t id = b->added[i];
        size_t len = b->start[id + 1] - b->start[id];
        if (len <= n && p[0] == b->text[b->start[id]] && !memcmp(p, b->text + b->start[id], len))
            return id;
    }
    return -1;
}

int32_t bpe_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *ids, int32_t cap)
{
    const struct bpe *b = t->state;
    struct merger m = {.find = find_pair, .vocabulary = b};
    struct output out = {ids, cap, 0};
    size_t from = 0;
    for (size_t at = 0; at < n && b->n_added;) {
        int32_t id = added_at(b, text + at, n - at);
        if (id < 0) {
            at++;
            continue;
        }
        put_plain(b, &m, text + from, at - from, &out);
        if (out.n < cap)
            ids[out.n] = id;
        out.n++;
        from = at += b->start[id + 1] - b->start[id];
    }
    put_plain(b, &m, text + from, n - from, &out);
    merger_close(&m);
    return out.n;
}

const char *bpe_piece(const struct tokenizer *t, int32_t previous, int32_t id, size_t *n)
{
    const struct bpe *b = t->state;
    (void)previous;
    *n = b->silent[id] ? 0 : b->start[id + 1] - b->start[id];
    return b->text + b->start[id];
}

void bpe_vocabulary_free(struct bpe_vocabulary *v)
{
    mem_free(v->token);
    mem_free(v->kind);
    mem_free(v->merge);
}
