#include "task/bpe.h"

#include "base/mem.h"
#include "task/merger.h"
#include "task/nfc.h"
#include "task/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct pair_row { // of the table of merges; left -1 = empty
    int32_t left, right, merged;
    float order;
};

struct added_row {
    const char *text;
    size_t n;
    int32_t id;
};

struct bpe {
    int32_t vocab;
    char *text;           // the bytes of all pieces
    size_t *start;        // (vocab + 1) of each in text
    uint8_t *silent;      // (vocab) control tokens: never in text, nothing when decoded
    uint8_t *direct;      // (vocab) a piece that is this token's text is this token
    int32_t byte_id[256]; // of single bytes, -1 = the vocabulary has none
    int32_t char_id[128]; // pieces: of ASCII characters
    int32_t *slot;        // (slots) ids by text, + 1
    size_t slots, pairs;
    struct pair_row *pair; // (pairs)
    const struct pretoken *pretoken;
    bool pieces; // of SentencePiece; its U+2581 are spaces here
    enum bpe_space space;
    bool nfc;
    bool early;              // added tokens are looked for in text as it is spelled here
    struct added_row *added; // found in plain text before all else; by first byte, longest first
    int32_t added_from[257];
    char *added_text;
};

// The alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and on, in order.
static bool stands_for_itself(int b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

struct alphabet {
    bool pieces;
    int16_t byte_of[512];
};

static struct alphabet alphabet_of(bool pieces)
{
    struct alphabet a = {.pieces = pieces};
    int next = 256;
    memset(a.byte_of, -1, sizeof a.byte_of);
    for (int b = 0; b < 256; b++)
        a.byte_of[stands_for_itself(b) ? b : next++] = (int16_t)b;
    return a;
}

static const char lower_block[] = "\xe2\x96\x81"; // U+2581

// A text with a space for each U+2581.
static size_t to_spaces(const char *p, size_t n, char *out)
{
    size_t to = 0;
    for (size_t i = 0; i < n;) {
        bool block = n - i >= 3 && !memcmp(p + i, lower_block, 3);
        out[to++] = block ? ' ' : p[i];
        i += block ? 3 : 1;
    }
    return to;
}

// Writes what a text stands for and returns its length; what is not of the alphabet, as in added
// tokens, stays as it is.
static size_t spell(const struct alphabet *a, struct gguf_text t, char *out)
{
    size_t n = 0;
    if (a->pieces)
        return to_spaces(t.p, t.n, out);
    for (size_t i = 0; i < t.n;) {
        uint32_t cp;
        size_t len = utf8_next(t.p + i, t.n - i, &cp);
        if (cp < 512 && a->byte_of[cp] >= 0) {
            out[n++] = (char)a->byte_of[cp];
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
            *order = r->order;
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
    mem_free(b->direct);
    mem_free(b->slot);
    mem_free(b->pair);
    mem_free(b->added);
    mem_free(b->added_text);
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

static void add_text(struct bpe *b, int32_t id)
{
    const char *p = b->text + b->start[id];
    size_t n = b->start[id + 1] - b->start[id];
    if (n == 0 || find_text(b, p, n) >= 0)
        return; // of equal texts the first counts; others are not found by text
    if (n == 1 && !b->pieces)
        b->byte_id[(uint8_t)*p] = id;
    if (n == 1 && b->pieces && (uint8_t)*p < 128)
        b->char_id[(uint8_t)*p] = id;
    size_t at = hash_text(p, n) & (b->slots - 1);
    while (b->slot[at])
        at = (at + 1) & (b->slots - 1);
    b->slot[at] = id + 1;
}

// The byte that "<0x0A>" stands for, -1 = another text.
static int byte_of_text(struct gguf_text t)
{
    static const char digits[] = "0123456789ABCDEF";
    if (t.n != 6 || memcmp(t.p, "<0x", 3) != 0 || t.p[5] != '>')
        return -1;
    const char *high = memchr(digits, t.p[3], 16), *low = memchr(digits, t.p[4], 16);
    return high && low ? (int)(high - digits) * 16 + (int)(low - digits) : -1;
}

static int add_texts(struct bpe *b, const struct bpe_vocabulary *v, const struct alphabet *a,
                     struct err *err)
{
    size_t bytes = 0;
    for (int32_t i = 0; i < v->n; i++)
        bytes += v->token[i].n;
    b->text = mem_alloc(MEM_DATA, bytes + 1);
    for (int32_t i = 0; i < v->n; i++) {
        struct gguf_text t = v->token[i];
        char *to = b->text + b->start[i];
        size_t n = t.n;
        int byte = v->kind[i] == BPE_BYTE ? byte_of_text(t) : -1;
        b->silent[i] = v->kind[i] == BPE_CONTROL;
        if (byte >= 0) {
            *to = (char)byte;
            n = 1;
            b->byte_id[byte] = i;
        } else if (v->kind[i] == BPE_NORMAL || (v->kind[i] == BPE_ADDED && b->pieces)) {
            n = spell(a, t, to);
        } else if (n) {
            memcpy(to, t.p, n);
        }
        b->start[i + 1] = b->start[i] + n;
        if (v->kind[i] == BPE_NORMAL || (v->kind[i] == BPE_ADDED && b->pieces))
            add_text(b, i);
    }
    for (int i = 0; i < 256 && b->pieces; i++)
        if (b->byte_id[i] < 0)
            return err_set(err, "there is no token <0x%02X>: characters cannot fall back to bytes",
                           (unsigned)i);
    return 0;
}

static void pairs_open(struct bpe *b, size_t most)
{
    b->pairs = power_of_two(2 * most + 1);
    b->pair = mem_alloc(MEM_DATA, b->pairs * sizeof *b->pair);
    for (size_t i = 0; i < b->pairs; i++)
        b->pair[i].left = -1;
}

static void add_pair(struct bpe *b, struct pair_row row)
{
    size_t at = pair_place(b, row.left, row.right);
    for (; b->pair[at].left >= 0; at = (at + 1) & (b->pairs - 1))
        if (b->pair[at].left == row.left && b->pair[at].right == row.right)
            return; // the first counts
    b->pair[at] = row;
}

static int add_merge(struct bpe *b, const struct alphabet *of, struct gguf_text left,
                     struct gguf_text right, int64_t rank, char *room, struct err *err)
{
    size_t a = spell(of, left, room), c = spell(of, right, room + a);
    int32_t x = find_text(b, room, a), y = find_text(b, room + a, c), z = find_text(b, room, a + c);
    if (x < 0 || y < 0 || z < 0)
        return err_set(err, "merge %lld: '%.*s' and '%.*s' or what they make are no tokens",
                       (long long)rank, (int)(left.n < 80 ? left.n : 80), left.p,
                       (int)(right.n < 80 ? right.n : 80), right.p);
    add_pair(b, (struct pair_row){x, y, z, (float)rank}); // below 2^24: exact
    return 0;
}

static int add_merges(struct bpe *b, const struct bpe_vocabulary *v, const struct alphabet *a,
                      struct err *err)
{
    size_t longest = 0;
    pairs_open(b, (size_t)v->n_merges);
    for (int64_t i = 0; i < v->n_merges; i++) {
        size_t n = v->merge[i][0].n + v->merge[i][1].n;
        longest = n > longest ? n : longest;
    }
    char *room = mem_alloc(MEM_DATA, longest + 1);
    int bad = 0;
    for (int64_t i = 0; i < v->n_merges && !bad; i++)
        bad = add_merge(b, a, v->merge[i][0], v->merge[i][1], i, room, err);
    mem_free(room);
    return bad;
}

// Every two tokens that make a third one, which says how soon. Counts them, or with put adds them.
static size_t split_token(struct bpe *b, int32_t id, float score, bool put)
{
    const char *p = b->text + b->start[id];
    size_t n = b->start[id + 1] - b->start[id], pairs = 0;
    if (find_text(b, p, n) != id)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if (((uint8_t)p[i] & 0xc0) == 0x80)
            continue;
        int32_t left = find_text(b, p, i), right = left < 0 ? -1 : find_text(b, p + i, n - i);
        if (right < 0)
            continue;
        pairs++;
        if (put)
            add_pair(b, (struct pair_row){left, right, id, -score});
    }
    return pairs;
}

// A token of so many bytes is split in as many places, each looked up.
#define PIECE_BYTES 4096

static int add_scores(struct bpe *b, const struct bpe_vocabulary *v, struct err *err)
{
    size_t pairs = 0;
    for (int put = 0; put < 2; put++) {
        if (put)
            pairs_open(b, pairs);
        for (int32_t i = 0; i < v->n; i++) {
            if (v->kind[i] != BPE_NORMAL)
                continue;
            if (!isfinite(v->score[i]) || v->token[i].n > PIECE_BYTES)
                return err_set(err, "token %d: a score that is no number, or more than %d bytes", i,
                               PIECE_BYTES);
            pairs += split_token(b, i, v->score[i], put);
        }
    }
    return 0;
}

static int by_first_byte(const void *a, const void *b)
{
    const struct added_row *x = a, *y = b;
    if (x->text[0] != y->text[0])
        return (uint8_t)x->text[0] < (uint8_t)y->text[0] ? -1 : 1;
    if (x->n != y->n)
        return x->n > y->n ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void add_added(struct bpe *b, const struct bpe_vocabulary *v)
{
    size_t n = 0, bytes = 0;
    for (int32_t i = 0; i < v->n; i++)
        if (v->kind[i] == BPE_ADDED && v->token[i].n > 0) {
            n++;
            bytes += v->token[i].n;
        }
    b->added = mem_alloc(MEM_DATA, (n + 1) * sizeof *b->added);
    b->added_text = mem_alloc(MEM_DATA, bytes + 1);
    n = bytes = 0;
    for (int32_t i = 0; i < v->n; i++) {
        if (v->kind[i] != BPE_ADDED || v->token[i].n == 0)
            continue;
        char *to = b->added_text + bytes;
        size_t len = v->token[i].n;
        if (b->early)
            len = to_spaces(v->token[i].p, len, to);
        else
            memcpy(to, v->token[i].p, len);
        b->added[n++] = (struct added_row){to, len, i};
        bytes += len;
    }
    qsort(b->added, n, sizeof *b->added, by_first_byte);
    for (size_t i = 0; i < n; i++)
        b->added_from[(uint8_t)b->added[i].text[0] + 1]++;
    for (int i = 0; i < 256; i++)
        b->added_from[i + 1] += b->added_from[i];
}

// Where may SentencePiece's text be cut without a change? Before a space behind another character,
// unless some token reaches over one; and there a run of spaces is one piece.
static size_t words_next(const char *s, size_t n, size_t at)
{
    size_t i = at;
    while (i < n && s[i] == ' ')
        i++;
    const char *space = memchr(s + i, ' ', n - i);
    return (space ? (size_t)(space - s) : n) - at;
}

static size_t apart_next(const char *s, size_t n, size_t at)
{
    size_t i = at + (s[at] == ' ');
    const char *space = memchr(s + i, ' ', n - i);
    return (space ? (size_t)(space - s) : n) - at;
}

static size_t whole_next(const char *s, size_t n, size_t at)
{
    (void)s;
    return n - at;
}

static const struct pretoken words = {.next = words_next}, apart = {.next = apart_next},
                             whole = {.next = whole_next};

static const struct pretoken *cut_of(const struct bpe *b, bool each_space)
{
    for (size_t i = 0; i < b->pairs && !each_space; i++) {
        if (b->pair[i].left < 0)
            continue;
        int32_t id = b->pair[i].merged;
        const char *p = b->text + b->start[id];
        size_t n = b->start[id + 1] - b->start[id];
        if (words_next(p, n, 0) < n)
            return &whole;
    }
    return each_space ? &apart : &words;
}

static void put_symbols(const struct bpe *b, struct merger *m, const char *p, size_t n);

// Most words of a text are tokens, and most tokens are what their text merges to.
static void find_direct(struct bpe *b, bool whole_first)
{
    struct merger m = {.find = find_pair, .vocabulary = b};
    for (size_t i = 0; i < b->slots; i++) {
        int32_t id = b->slot[i] - 1, got[1] = {-1};
        if (id < 0)
            continue;
        if (!whole_first)
            put_symbols(b, &m, b->text + b->start[id], b->start[id + 1] - b->start[id]);
        b->direct[id] = whole_first || (merger_run(&m, got, 1) == 1 && got[0] == id);
    }
    merger_close(&m);
}

static int check_vocabulary(const struct bpe_vocabulary *v, struct err *err)
{
    if (v->n < 1 || v->n > BPE_MAX_VOCAB || v->n_merges > BPE_MAX_VOCAB)
        return err_set(err, "%d tokens and %lld merges: 1 to %d are known", v->n,
                       (long long)v->n_merges, BPE_MAX_VOCAB);
    const int32_t special[] = {v->bos, v->eos, v->pad};
    for (size_t i = 0; i < ARRAY_LEN(special); i++)
        if (special[i] < -1 || special[i] >= v->n)
            return err_set(err, "a special token of id %d in a vocabulary of %d", special[i], v->n);
    return 0;
}

int bpe_build(struct tokenizer *t, const struct bpe_vocabulary *v, struct err *err)
{
    if (check_vocabulary(v, err))
        return -1;
    const struct alphabet a = alphabet_of(!v->pretoken);
    size_t n = (size_t)v->n;
    struct bpe *b = mem_alloc(MEM_DATA, sizeof *b);
    b->vocab = v->n;
    b->pieces = a.pieces;
    b->space = v->space;
    b->nfc = v->nfc;
    b->early = v->score != NULL;
    b->start = mem_alloc(MEM_DATA, (n + 1) * sizeof *b->start);
    b->silent = mem_alloc(MEM_DATA, n);
    b->direct = mem_alloc(MEM_DATA, n);
    b->slots = power_of_two(2 * n);
    b->slot = mem_alloc(MEM_DATA, b->slots * sizeof *b->slot);
    memset(b->byte_id, -1, sizeof b->byte_id);
    memset(b->char_id, -1, sizeof b->char_id);
    t->state = b;
    t->vocab = v->n;
    t->bos = v->bos;
    t->eos = v->eos;
    t->pad = v->pad;
    t->space_first = v->space != BPE_SPACE_NONE && v->space < BPE_SPACE_WORDS;
    int bad =
        add_texts(b, v, &a, err) || (v->score ? add_scores(b, v, err) : add_merges(b, v, &a, err));
    if (bad) {
        bpe_close(t);
        return -1;
    }
    add_added(b, v);
    b->pretoken = v->pretoken ? v->pretoken : cut_of(b, v->apart);
    find_direct(b, v->whole);
    return 0;
}

// Encoding.

struct encoder {
    const struct bpe *b;
    struct merger m;
    int32_t *ids, cap, n;
    char *room; // (size) a part of the text, as it is spelled
    size_t size;
};

static void put_id(struct encoder *e, int32_t id)
{
    if (e->n < e->cap)
        e->ids[e->n] = id;
    e->n++;
}

// What pairs begin with: bytes, or characters. A byte without a token is dropped, as the reference
// does.
static void put_symbols(const struct bpe *b, struct merger *m, const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint8_t c = (uint8_t)p[i];
        uint32_t cp;
        size_t len = b->pieces && c >= 128 ? utf8_next(p + i, n - i, &cp) : 1;
        int32_t id = !b->pieces ? b->byte_id[c]
                     : c < 128  ? b->char_id[c]
                                : find_text(b, p + i, len);
        if (id >= 0)
            merger_add(m, id);
        for (size_t k = 0; k < len && id < 0 && b->pieces; k++)
            merger_add(m, b->byte_id[(uint8_t)p[i + k]]);
        i += len;
    }
}

static void put_piece(struct encoder *e, const char *p, size_t n)
{
    int32_t id = find_text(e->b, p, n), left = e->cap > e->n ? e->cap - e->n : 0;
    if (id >= 0 && e->b->direct[id]) {
        put_id(e, id);
        return;
    }
    put_symbols(e->b, &e->m, p, n);
    e->n += merger_run(&e->m, left ? e->ids + e->n : NULL, left);
}

// A copy as SentencePiece spells it, behind a space where one is due.
static const char *respell(struct encoder *e, const char *p, size_t *n, bool space)
{
    if (e->size < *n + 1) {
        mem_free(e->room);
        e->size = 2 * *n + 64;
        e->room = mem_alloc(MEM_DATA, e->size);
    }
    e->room[0] = ' ';
    *n = space + to_spaces(p, *n, e->room + space);
    return e->room;
}

// What lies between added tokens; first: the text begins with it.
static void put_plain(struct encoder *e, const char *p, size_t n, bool first)
{
    enum bpe_space at = e->b->space;
    if (n == 0)
        return;
    if (e->b->pieces && !e->b->early) {
        bool there = *p == ' ' || (n >= 3 && !memcmp(p, lower_block, 3));
        bool due = at == BPE_SPACE_PARTS ||
                   (!there && (at == BPE_SPACE_WORDS || (at == BPE_SPACE_WORD && first)));
        if (due || memmem(p, n, lower_block, 3))
            p = respell(e, p, &n, due);
    }
    char *composed = e->b->nfc && !nfc_holds(p, n) ? nfc_of(p, &n) : NULL;
    p = composed ? composed : p;
    for (size_t i = 0; i < n;) {
        size_t len = e->b->pretoken->next(p, n, i);
        put_piece(e, p + i, len);
        i += len;
    }
    mem_free(composed);
}

// The added token that stands at p, or NULL.
static const struct added_row *added_at(const struct bpe *b, const char *p, size_t n)
{
    uint8_t first = (uint8_t)p[0];
    for (int32_t i = b->added_from[first]; i < b->added_from[first + 1]; i++)
        if (b->added[i].n <= n && !memcmp(p, b->added[i].text, b->added[i].n))
            return &b->added[i];
    return NULL;
}

int32_t bpe_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *ids, int32_t cap)
{
    const struct bpe *b = t->state;
    struct encoder e = {.b = b, .m = {.find = find_pair, .vocabulary = b}, .ids = ids, .cap = cap};
    size_t from = 0;
    if (b->early && n)
        text = respell(&e, text, &n, b->space == BPE_SPACE_TEXT);
    for (size_t at = 0; at < n && b->added_from[256];) {
        const struct added_row *added = added_at(b, text + at, n - at);
        if (!added) {
            at++;
            continue;
        }
        put_plain(&e, text + from, at - from, from == 0);
        put_id(&e, added->id);
        from = at += added->n;
    }
    put_plain(&e, text + from, n - from, from == 0);
    merger_close(&e.m);
    mem_free(e.room);
    return e.n;
}

const char *bpe_piece(const struct tokenizer *t, int32_t previous, int32_t id, size_t *n)
{
    const struct bpe *b = t->state;
    const char *p = b->text + b->start[id];
    *n = b->silent[id] ? 0 : b->start[id + 1] - b->start[id];
    bool first = b->space != BPE_SPACE_NONE && previous < 0 && *n > 0 && *p == ' ';
    *n -= first;
    return p + first;
}

int32_t bpe_control(const struct tokenizer *t, const char *text)
{
    const struct bpe *b = t->state;
    size_t n = strlen(text);
    for (int32_t id = 0; id < b->vocab; id++)
        if (b->silent[id] && b->start[id + 1] - b->start[id] == n &&
            !memcmp(b->text + b->start[id], text, n))
            return id;
    return -1;
}

bool bpe_puts_space(const struct tokenizer *t)
{
    const struct bpe *b = t->state;
    return b->space != BPE_SPACE_NONE;
}

void bpe_vocabulary_free(struct bpe_vocabulary *v)
{
    mem_free(v->token);
    mem_free(v->kind);
    mem_free(v->merge);
    mem_free(v->score);
}
