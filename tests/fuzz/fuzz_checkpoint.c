// The server's checkpoint and the workers' EVENTS payload: lengths come from a file or another
// host.
#include "base/bytes.h"
#include "fed/checkpoint.h"
#include "fed/protocol.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_checkpoint(const uint8_t *bytes, size_t size)
{
    struct checkpoint c;
    struct err err;
    const uint8_t *body;
    if (checkpoint_parse(bytes, size, &c, &body, &err) == 0) {
        volatile uint8_t sink = 0;
        for (size_t i = 0; i < 4 * (c.n + c.n_state + c.n_more) + 8 * (c.n_slots + c.n_batteries);
             i++)
            sink = (uint8_t)(sink + body[i]);
    } else {
        assert(err.text[0]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rows_section part;
    size_t at = 0;
    struct hello h;
    struct welcome w;
    struct task_state task;
    try_checkpoint(data, size);
    if (size >= 8) { // with the hash made right, so that what lies behind it is reached
        uint8_t *copy = malloc(size);
        memcpy(copy, data, size);
        put_u64(copy + size - 8, XXH3_64bits(copy, size - 8));
        try_checkpoint(copy, size);
        free(copy);
    }
    while (rows_get(data, size, &at, &part) > 0)
        assert(at <= size &&
               (const uint8_t *)part.rows + part.n * record_tables[part.id].row_bytes == data + at);
    hello_get(data, size, &h);
    welcome_get(data, size, &w);
    task_state_get(data, size, &task);
    return 0;
}
