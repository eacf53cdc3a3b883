// A vocabulary from any bytes: a tokenizer.json, or, behind a first byte of G, a GGUF file. What
// opens cuts, encodes and decodes any text, here its own bytes, without leaving its ids. Text in
// the form NFC stays as it is.
#include "base/mem.h"
#include "task/nfc.h"
#include "task/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = {""};
    const struct tokenizer_row *row = size && data[0] == 'G' ? &tokenizer_gguf : &tokenizer_json;
    struct tokenizer *t = tokenizer_open_bytes(row, data, size, &err);
    if (!t) {
        if (!err.text[0])
            abort();
        return 0;
    }
    size_t n = size < 2000 ? size : 2000;
    int32_t *ids = mem_alloc(MEM_DATA, (n + 1) * sizeof *ids);
    int32_t count = tokenizer_encode(t, (const char *)data, n, ids, (int32_t)n);
    // A token has a byte, or is a space put in front of one that has; NFC makes three of one at
    // most.
    if (count > (int32_t)(3 * n + 1))
        abort();
    count = count < (int32_t)n ? count : (int32_t)n;
    for (int32_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= t->vocab)
            abort();
    char out[4096];
    tokenizer_decode(t, ids, count, out, sizeof out);
    size_t once = n, twice;
    char *form = nfc_of((const char *)data, &once), *again = nfc_of(form, (twice = once, &twice));
    if (once > 3 * n || twice != once || memcmp(form, again, once) != 0 ||
        (nfc_holds((const char *)data, n) && (once != n || memcmp(form, data, n) != 0)))
        abort();
    mem_free(form);
    mem_free(again);
    mem_free(ids);
    tokenizer_close(t);
    return 0;
}
