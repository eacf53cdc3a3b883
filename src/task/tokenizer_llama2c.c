// tokenizer.bin of llama2.c: an int32 (length of the longest piece), then for each id a float32
// score, an int32 length and that many bytes. Byte-pair merging by score, as SentencePiece does it:
// the text starts as code points (a code point that is no piece falls back to its bytes, ids 3 to
// 258), and the best-scored pair that makes a piece is merged until none does; of equals the
// leftmost.
#include "task/tokenizer.h"

#include "base/bytes.h"
#include "base/mem.h"
#include "task/merger.h"

#include <string.h>

enum { BOS = 1, EOS = 2, BYTE0 = 3, MIN_VOCAB = BYTE0 + 256, MAX_VOCAB = 1 << 22 };

struct bpe {
    float *score;
    uint32_t *start; // (vocab + 1) of each piece in text
    char *text;
    int32_t *slot; // hash table of id + 1; 0 = empty
    uint32_t slots;
    char bytes[256];
};

static uint64_t hash_of(const char *a, size_t na, const char *b, size_t nb)
{
    uint64_t h = 14695981039346656037u; // FNV-1a over a then b
    for (size_t i = 0; i < na; i++)
        h = (h ^ (uint8_t)a[i]) * 1099511628211u;
    for (size_t i = 0; i < nb; i++)
        h = (h ^ (uint8_t)b[i]) * 1099511628211u;
    return h ^ (h >> 32);
}

static size_t piece_size(const struct bpe *b, int32_t id)
{
    return b->start[id + 1] - b->start[id];
}

static const char *piece_text(const struct bpe *b, int32_t id)
{
    return b->text + b->start[id];
}

// The id of the piece x y (two parts, so that a merge need not copy), or -1.
static int32_t lookup(const struct bpe *b, const char *x, size_t nx, const char *y, size_t ny)
{
    for (uint64_t i = hash_of(x, nx, y, ny) % b->slots; b->slot[i]; i = (i + 1) % b->slots) {
        int32_t id = b->slot[i] - 1;
        const char *p = piece_text(b, id);
        if (piece_size(b, id) == nx + ny && !memcmp(p, x, nx) && !memcmp(p + nx, y, ny))
            return id;
    }
    return -1;
}

static void bpe_close(struct tokenizer *t)
{
    struct bpe *b = t->state;
    mem_free(b->score);
    mem_free(b->start);
    mem_free(b->text);
    mem_free(b->slot);
    mem_free(b);
}

// Counts pieces and their bytes, or says where the file is broken.
static int measure(const uint8_t *bytes, size_t n, int32_t *vocab, size_t *text, struct err *err)
{
    if (n < 4)
        return err_set(err, "is no llama2.c tokenizer: %zu bytes", n);
    uint32_t longest = get_u32(bytes);
    *vocab = 0;
    *text = 0;
    for (size_t at = 4; at < n; (*vocab)++) {
        if (n - at < 8)
            return err_set(err, "ends within piece %d, at byte %zu", *vocab, at);
        uint32_t len = get_u32(bytes + at + 4);
        if (len > longest || len > n - at - 8)
            return err_set(err, "piece %d at byte %zu claims %u bytes; longest is %u, %zu are left",
                           *vocab, at, len, longest, n - at - 8);
        float score = get_f32(bytes + at);
        if (score != score)
            return err_set(err, "piece %d at byte %zu has score NaN", *vocab, at);
        at += 8 + (size_t)len;
        *text += len;
        if (*vocab >= MAX_VOCAB)
            return err_set(err, "has more than %d pieces", MAX_VOCAB);
    }
    if (*vocab < MIN_VOCAB)
        return err_set(err, "has %d pieces; three specials and 256 bytes are the least", *vocab);
    return 0;
}

static int bpe_open(struct tokenizer *t, const uint8_t *bytes, size_t n, struct err *err)
{
    int32_t vocab = 0;
    size_t text = 0;
    if (measure(bytes, n, &vocab, &text, err))
        return -1;
    struct bpe *b = mem_alloc(MEM_DATA, sizeof *b);
    b->score = mem_alloc(MEM_DATA, (size_t)vocab * sizeof *b->score);
    b->start = mem_alloc(MEM_DATA, ((size_t)vocab + 1) * sizeof *b->start);
    b->text = mem_alloc(MEM_DATA, text + 1);
    b->slots = 4u * (uint32_t)vocab;
    b->slot = mem_alloc(MEM_DATA, b->slots * sizeof *b->slot);
    size_t at = 4;
    for (int32_t id = 0; id < vocab; id++) {
        uint32_t len = get_u32(bytes + at + 4);
        b->score[id] = get_f32(bytes + at);
        memcpy(b->text + b->start[id], bytes + at + 8, len);
        b->start[id + 1] = b->start[id] + len;
        at += 8 + (size_t)len;
        const char *p = piece_text(b, id);
        if (len == 0 || lookup(b, p, len, "", 0) >= 0)
            continue; // of equal pieces the first counts
        uint64_t i = hash_of(p, len, "", 0) % b->slots;
        while (b->slot[i])
            i = (i + 1) % b->slots;
        b->slot[i] = id + 1;
    }
    for (int i = 0; i < 256; i++)
        b->bytes[i] = (char)i;
    t->state = b;
    t->vocab = vocab;
    t->bos = BOS;
    t->eos = EOS;
    t->space_first = true;
    return 0;
}

static bool find_merge(const void *vocabulary, int32_t left, int32_t right, float *order,
                       int32_t *merged)
{
    const struct bpe *b = vocabulary;
    *merged = lookup(b, piece_text(b, left), piece_size(b, left), piece_text(b, right),
                     piece_size(b, right));
    if (*merged < 0 || b->score[*merged] <= -1e10f) // llama2.c starts its search there
        return false;
    *order = -b->score[*merged];
    return true;
}

static void split(struct merger *m, const struct bpe *b, const char *text, size_t n)
{
    int32_t space = lookup(b, " ", 1, "", 0);
    if (n > 0) // the dummy prefix of SentencePiece
        merger_add(m, space >= 0 ? space : BYTE0 + ' ');
    for (size_t i = 0; i < n;) {
        size_t len = 1; // at most four bytes, as llama2.c cuts them: continuation bytes follow on
        while (len < 4 && i + len < n && ((uint8_t)text[i + len] & 0xc0) == 0x80)
            len++;
        int32_t id = lookup(b, text + i, len, "", 0);
        if (id >= 0)
            merger_add(m, id);
        for (size_t k = 0; k < len && id < 0; k++)
            merger_add(m, BYTE0 + (uint8_t)text[i + k]);
        i += len;
    }
}

static int32_t bpe_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *out,
                          int32_t cap)
{
    struct merger m = {.find = find_merge, .vocabulary = t->state};
    split(&m, t->state, text, n);
    int32_t count = merger_run(&m, out, cap);
    merger_close(&m);
    return count;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static const char *bpe_piece(const struct tokenizer *t, int32_t previous, int32_t id, size_t *n)
{
    const struct bpe *b = t->state;
    const char *p = piece_text(b, id);
    *n = piece_size(b, id);
    if (*n == 6 && memcmp(p, "<0x", 3) == 0 && p[5] == '>') { // "<0x0A>" stands for a byte
        int high = hex_digit(p[3]), low = hex_digit(p[4]);
        if (high >= 0 && low >= 0) {
            *n = 1;
            return &b->bytes[high * 16 + low];
        }
    }
    bool first = (previous < 0 || previous == BOS) && *n > 0 && p[0] == ' ';
    *n -= first;
    return p + first;
}

const struct tokenizer_row tokenizer_llama2c = {
    .name = "llama2c",
    .help = "tokenizer.bin of llama2.c: merges by score, falls back to bytes",
    .needs_file = true,
    .open = bpe_open,
    .close = bpe_close,
    .encode = bpe_encode,
    .piece = bpe_piece,
};
