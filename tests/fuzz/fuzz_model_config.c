// A config.json from any bytes: what is accepted passes every check of a config.
#include "model/family.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config c;
    struct err err = {""};
    if (model_config_json((const char *)data, size, &c, &err)) {
        if (!err.text[0])
            abort();
        return 0;
    }
    // What is accepted passes every check, and is read back from our own words the same.
    struct model_config again;
    char *text = model_config_text(&c);
    if (model_config_check(&c, NULL) || model_config_json(text, strlen(text), &again, &err) ||
        again.dim != c.dim || again.window != c.window || again.family != c.family ||
        memcmp(again.windowed, c.windowed, sizeof c.windowed) != 0)
        abort();
    free(text);
    return 0;
}
