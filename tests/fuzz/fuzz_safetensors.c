// A safetensors header from any bytes, said to begin a file of more: whatever opens has tensors
// that lie apart inside the file and are as long as their shapes.
#include "dev/dev.h"
#include "model/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint64_t sizes[] = {size, size + 100000, UINT64_MAX / 4};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct safetensors st;
        struct err err = {""};
        if (safetensors_parse(data, size, sizes[i], &st, &err)) {
            if (!err.text[0] || st.tensor)
                abort();
            continue;
        }
        for (int32_t k = 0; k < st.n; k++) {
            const struct safetensor *t = &st.tensor[k];
            uint64_t n = 1;
            for (int32_t d = 0; d < t->dims; d++)
                n *= (uint64_t)t->dim[d];
            if (n != t->n || t->at > sizes[i] || safetensors_find(&st, t->name) != t)
                abort();
            if (t->dtype >= 0 && t->n * kernel_dtype_bytes(t->dtype) > sizes[i] - t->at)
                abort();
            if (t->end > sizes[i] || (k > 0 && t->at < st.tensor[k - 1].end))
                abort();
        }
        safetensors_free(&st);
    }
    return 0;
}
