#include "task/tokenizer.h"

#include "base/fsio.h"
#include "base/mem.h"
#include "task/synth.h"
#include "task/utf8.h"

#include <assert.h>
#include <limits.h>
#include <string.h>

// raw bytes: an id is a byte.

enum { BYTES_BOS = 256, BYTES_EOS, BYTES_PAD, BYTES_VOCAB };

static int bytes_open(struct tokenizer *t, const uint8_t *bytes, size_t n, struct err *err)
{
    (void)bytes, (void)n, (void)err;
    t->vocab = BYTES_VOCAB;
    t->bos = BYTES_BOS;
    t->eos = BYTES_EOS;
    t->pad = BYTES_PAD;
    char *table = mem_alloc(MEM_DATA, 256);
    for (int i = 0; i < 256; i++)
        table[i] = (char)i;
    t->state = table;
    return 0;
}

static void bytes_close(struct tokenizer *t)
{
    mem_free(t->state);
}

static int32_t bytes_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *out,
                            int32_t cap)
{
    (void)t;
    for (size_t i = 0; i < n && i < (size_t)cap; i++)
        out[i] = (uint8_t)text[i];
    return (int32_t)n;
}

static const char *bytes_piece(const struct tokenizer *t, int32_t previous, int32_t id, size_t *n)
{
    (void)previous;
    *n = 1;
    return (const char *)t->state + id;
}

static const struct tokenizer_row tokenizer_bytes = {
    .name = "bytes",
    .help = "raw bytes and three specials, 259 ids",
    .open = bytes_open,
    .close = bytes_close,
    .encode = bytes_encode,
    .piece = bytes_piece,
};

// the embedded task's words.

static int words_open(struct tokenizer *t, const uint8_t *bytes, size_t n, struct err *err)
{
    (void)bytes, (void)n, (void)err;
    t->vocab = SYNTH_VOCAB;
    t->bos = SYNTH_BOS;
    t->eos = SYNTH_EOS;
    t->pad = SYNTH_PAD;
    return 0;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static int32_t words_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *out,
                            int32_t cap)
{
    (void)t;
    int32_t count = 0;
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && !is_space(text[end]))
            end++;
        if (end > i) {
            int32_t id = synth_find(text + i, (uint32_t)(end - i));
            if (count < cap)
                out[count] = id < 0 ? SYNTH_UNK : id;
            count++;
        }
        i = end + 1;
    }
    return count;
}

static const char *words_piece(const struct tokenizer *t, int32_t previous, int32_t id, size_t *n)
{
    const char *w = synth_spaced(id); // " word"
    bool first = previous < 0 || previous == t->bos;
    *n = strlen(w) - first;
    return w + first;
}

static const struct tokenizer_row tokenizer_words = {
    .name = "words",
    .help = "the embedded task's 800 words, separated by spaces",
    .open = words_open,
    .encode = words_encode,
    .piece = words_piece,
};

// the table.

const struct tokenizer_row *const tokenizer_table[] = {
    &tokenizer_bytes, &tokenizer_llama2c, &tokenizer_words, &tokenizer_json, &tokenizer_gguf, NULL,
};

const char *tokenizer_name(int32_t i)
{
    return i == 0 ? "auto" : tokenizer_table[i - 1] ? tokenizer_table[i - 1]->name : NULL;
}

const char *tokenizer_auto(const char *path)
{
    size_t n = strlen(path);
    if (!n)
        return "bytes";
    for (int i = 0; tokenizer_table[i]; i++) {
        const char *end = tokenizer_table[i]->ending;
        if (end && n > strlen(end) && !strcmp(path + n - strlen(end), end))
            return tokenizer_table[i]->name;
    }
    return "llama2c";
}

struct tokenizer *tokenizer_open_bytes(const struct tokenizer_row *row, const uint8_t *bytes,
                                       size_t n, struct err *err)
{
    struct tokenizer *t = mem_alloc(MEM_DATA, sizeof *t);
    t->row = row;
    t->bos = t->eos = t->pad = -1;
    if (row->open(t, bytes, n, err)) {
        mem_free(t);
        return NULL;
    }
    return t;
}

struct tokenizer *tokenizer_open(const char *name, const char *path, struct err *err)
{
    enum { HEAD_BYTES = 4 << 20, FILE_MAX_BYTES = 64 << 20 };
    int i = 0;
    while (tokenizer_table[i] && strcmp(tokenizer_table[i]->name, name) != 0)
        i++;
    const struct tokenizer_row *row = tokenizer_table[i];
    if (!row) {
        err_set(err, "there is no tokenizer '%s'", name);
        return NULL;
    }
    if (!row->needs_file)
        return tokenizer_open_bytes(row, NULL, 0, err);
    if (!path || !*path) {
        err_set(err, "task.tokenizer = %s needs its file: set task.vocab", name);
        return NULL;
    }
    // A head may be short: more and more is read until it is whole.
    struct tokenizer *t = NULL;
    for (size_t most = row->head ? HEAD_BYTES : FILE_MAX_BYTES; !t; most *= 4) {
        uint8_t *bytes;
        size_t n;
        struct err why = {0};
        if (row->head ? fsio_read_head(path, most, MEM_DATA, &bytes, &n, err)
                      : fsio_read(path, most, MEM_DATA, &bytes, &n, err))
            return NULL;
        t = tokenizer_open_bytes(row, bytes, n, &why);
        mem_free(bytes);
        if (!t && (n < most || most >= FILE_MAX_BYTES)) {
            err_set(err, "%s: %s", path, why.text);
            break;
        }
    }
    if (t && row->beside && row->beside(t, path, err)) {
        tokenizer_close(t);
        return NULL;
    }
    return t;
}

void tokenizer_close(struct tokenizer *t)
{
    if (t && t->row->close)
        t->row->close(t);
    mem_free(t);
}

int32_t tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *out,
                         int32_t cap)
{
    assert(n < INT32_MAX / 2);
    return t->row->encode(t, text, n, out, cap);
}

size_t tokenizer_decode(const struct tokenizer *t, const int32_t *ids, int32_t n, char *out,
                        size_t out_size)
{
    assert(out_size > 0);
    size_t raw = 0, cap = 0, len = 0;
    char *text = NULL;
    // Two passes over the pieces: their length, then their bytes.
    for (int pass = 0; pass < 2; pass++) {
        int32_t previous = -1;
        raw = 0;
        for (int32_t i = 0; i < n; i++) {
            bool special = ids[i] == t->bos || ids[i] == t->eos || ids[i] == t->pad;
            if (ids[i] < 0 || ids[i] >= t->vocab || special)
                continue;
            size_t bytes;
            const char *piece = t->row->piece(t, previous, ids[i], &bytes);
            if (pass)
                memcpy(text + raw, piece, bytes);
            raw += bytes;
            previous = ids[i];
        }
        if (!pass) {
            cap = raw + 1;
            text = mem_alloc(MEM_DATA, cap);
        }
    }
    for (size_t i = 0; i < raw;) {
        uint32_t cp;
        char utf8[4];
        i += utf8_next(text + i, raw - i, &cp);
        size_t bytes = utf8_put(utf8, cp ? cp : 0xfffd);
        if (len + bytes >= out_size)
            break;
        memcpy(out + len, utf8, bytes);
        len += bytes;
    }
    out[len] = 0;
    mem_free(text);
    return len;
}
