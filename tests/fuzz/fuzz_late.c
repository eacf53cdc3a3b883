// Any bytes as a checkpoint's late updates. What must hold: nothing is read out of bounds, and what
// is taken is of a client there is, finite, no longer than an update, and kept as it was read.
#include "base/mem.h"
#include "fed/late.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct link_params params = {.link = "loopback"};
    static const struct fed_params fed = {.clients = 30};
    const struct link_model link = {.params = &params};
    struct transport transport = {0};
    struct late_list list = {0};
    struct shape shape;
    struct method m;
    struct err err = {""};
    shape_init(&shape);
    shape_add(&shape, "x", 1, 50, SHAPE_OTHER);
    shape_seal(&shape);
    check(method_open(&m, "fedavg/fp32", &shape, &err) == 0);
    const struct fed_env env = {
        .fed = &fed, .link = &link, .method = &m, .transport = &transport, .run_dir = ""};
    size_t words = size / 4;
    uint8_t *copy = mem_alloc(MEM_OTHER, 4 * words + 1), *again;
    if (words)
        memcpy(copy, data, 4 * words);
    if (late_restore(&list, &env, copy, words, &err)) {
        check(err.text[0]);
    } else {
        check(late_words(&list) == words);
        again = mem_alloc(MEM_OTHER, 4 * words + 1);
        late_keep(&list, again);
        mem_free(again);
    }
    for (size_t i = 0; i < list.n; i++) {
        const struct update *u = &list.one[i].update;
        check(u->client < 30 && isfinite(u->weight) && isfinite(u->loss));
        check(u->len <= fed_update_bound(&env) && list.one[i].arrives_ns >= 0);
    }
    late_free(&list, &transport);
    netbuf_pool_close(&transport.pool);
    mem_free(copy);
    method_close(&m);
    shape_free(&shape);
    return 0;
}
