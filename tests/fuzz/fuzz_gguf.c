// A GGUF header from any bytes, said to begin a file of more: whatever opens has tensors that lie
// inside the file, one behind another, and keys that can be read. What they say of a model passes
// every check of a config.
#include "base/gguf.h"
#include "model/load.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look(const struct gguf *g, const uint8_t *data, size_t size, uint64_t file_bytes)
{
    for (int32_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensor[i];
        if (!t->type->bytes || t->at < g->data || t->at > file_bytes ||
            t->bytes > file_bytes - t->at ||
            t->bytes != t->n / (uint64_t)t->type->values * (uint64_t)t->type->bytes)
            abort();
    }
    for (int32_t i = 0; i < g->n_keys; i++) {
        const struct gguf_key *k = &g->key[i];
        int64_t whole;
        double number;
        size_t at = 0;
        gguf_int(k, &whole);
        gguf_num(k, &number);
        if (k->type != GGUF_STRING && !(k->type == GGUF_ARRAY && k->of == GGUF_STRING))
            continue;
        for (uint64_t n = 0; n < k->count; n++) {
            struct gguf_text t = gguf_next(k, &at);
            if ((const uint8_t *)t.p < data || (const uint8_t *)t.p + t.n > data + size)
                abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint64_t sizes[] = {size, size + 100000, UINT64_MAX / 4};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct gguf g;
        struct err err = {""};
        if (gguf_parse(data, size, sizes[i], &g, &err)) {
            if (!err.text[0] || g.key || g.tensor)
                abort();
            continue;
        }
        look(&g, data, size, sizes[i]);
        struct model_config c;
        if (sizes[i] == size && gguf_config(&g, data, size, &c, &err) == 0 &&
            model_config_check(&c, NULL))
            abort();
        gguf_free(&g);
    }
    return 0;
}
