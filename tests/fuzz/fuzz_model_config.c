// A config.json from any bytes: what is accepted passes every check of a config.
#include "model/load.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config c;
    struct err err = {""};
    if (model_config_json((const char *)data, size, &c, &err)) {
        if (!err.text[0])
            abort();
    } else if (model_config_check(&c, NULL)) {
        abort();
    }
    return 0;
}
