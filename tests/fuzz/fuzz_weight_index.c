// A model.safetensors.index.json from any bytes: the files it names lie in its folder, each once.
#include "model/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors_index x;
    struct err err = {""};
    if (safetensors_index_parse(data, size, &x, &err)) {
        if (!err.text[0] || x.file)
            abort();
        return 0;
    }
    if (x.n < 1)
        abort();
    for (int32_t i = 0; i < x.n; i++) {
        if (!x.file[i][0] || strchr(x.file[i], '/'))
            abort();
        for (int32_t j = 0; j < i; j++)
            if (!strcmp(x.file[i], x.file[j]))
                abort();
    }
    safetensors_index_free(&x);
    return 0;
}
