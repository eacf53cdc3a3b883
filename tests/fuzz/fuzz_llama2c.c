// A llama2.c header from any bytes: what is accepted passes every check of a config and agrees with
// the size of the file.
#include "model/load.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config c;
    struct err err = {""};
    uint64_t bytes = size;
    if (size >= LLAMA2C_HEADER && llama2c_config(data, size, 0, &c, &err)) {
        // Try again with the size that the header asks for, so that more than luck passes.
        if (!err.text[0])
            abort();
        const char *asks = strstr(err.text, "asks for ");
        if (asks)
            bytes = strtoull(asks + 9, NULL, 10);
    }
    err.text[0] = 0;
    if (llama2c_config(data, size, bytes, &c, &err))
        return err.text[0] ? 0 : (abort(), 0);
    if (size < LLAMA2C_HEADER || model_config_check(&c, NULL) ||
        bytes < 4 * model_config_values(&c))
        abort();
    return 0;
}
