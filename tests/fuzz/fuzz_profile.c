// Tables of devices on any bytes: what was read has names, shares and speeds.
#include "base/mem.h"
#include "fed/profile.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct device *d;
    size_t n;
    struct err err = {""};
    if (profile_read("fuzz", (const char *)data, size, &d, &n, &err)) {
        if (!err.text[0])
            abort(); // refused without a word
        return 0;
    }
    double share = 0;
    size_t letters = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(d[i].slow > 0) || !(d[i].share >= 0))
            abort();
        share += d[i].share;
        letters += strlen(d[i].name);
    }
    if (n == 0 || !(share > 0) || letters > size * 4)
        abort();
    mem_free(d);
    return 0;
}
