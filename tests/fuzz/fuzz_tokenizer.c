// A llama2.c tokenizer from any bytes: the first two say how many bytes are text, the rest is the
// file. What opens must encode to ids of its vocabulary, the same whatever room there is.
#include "base/bytes.h"
#include "base/mem.h"
#include "task/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct tokenizer *t, const char *text, size_t n)
{
    size_t cap = 6 * n + 8;
    int32_t *ids = mem_alloc(MEM_DATA, cap * sizeof *ids), few[3] = {-7, -7, -7};
    char out[256];
    int32_t count = tokenizer_encode(t, text, n, ids, (int32_t)cap);
    if (count < 0 || (size_t)count > cap)
        abort();
    if (tokenizer_encode(t, text, n, few, 2) != count || few[2] != -7)
        abort();
    for (int32_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= t->vocab || (i < 2 && ids[i] != few[i]))
            abort();
    if (tokenizer_decode(t, ids, count, out, sizeof out) != strlen(out))
        abort();
    mem_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t text = get_u16(data) % (size - 1);
    struct err err = {0};
    struct tokenizer *t =
        tokenizer_open_bytes(&tokenizer_llama2c, data + 2 + text, size - 2 - text, &err);
    if (!t && !err.text[0])
        abort();
    if (t)
        use(t, (const char *)data + 2, text);
    tokenizer_close(t);
    return 0;
}
