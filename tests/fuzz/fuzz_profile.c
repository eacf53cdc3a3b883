// Tables of devices and recorded presence on any bytes: what was read has names, shares and speeds,
// and times in order.
#include "base/mem.h"
#include "fed/presence.h"
#include "fed/profile.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_presence(const uint8_t *data, size_t size)
{
    struct presence_trace t;
    struct err err = {""};
    if (presence_read("fuzz", (const char *)data, size, &t, &err)) {
        if (!err.text[0])
            abort();
        return;
    }
    for (size_t i = 0; i < t.n; i++)
        for (size_t k = t.first[i]; k < t.first[i + 1]; k++)
            if (!(t.edge[k] >= 0 && t.edge[k] <= t.period_s) ||
                (k > t.first[i] && t.edge[k] < t.edge[k - 1]))
                abort();
    if (t.n == 0)
        abort();
    presence_trace_free(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct device *d;
    size_t n;
    struct err err = {""};
    try_presence(data, size);
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
