// Any bytes as what a relay sends to the server. What must hold: nothing is read out of bounds, and
// of what is taken every client is named once, is the relay's, and the sums can be added.
#include "base/mem.h"
#include "fed/relay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void take(const struct fed_env *env, const uint8_t *in, size_t len)
{
    const struct view_inst *view = &env->method->view;
    struct relay_sum s;
    struct err err = {""};
    if (relay_get(env, in, len, &s, &err)) {
        check(err.text[0]);
        return;
    }
    for (uint32_t i = 0; i < s.n_clients; i++) {
        struct relay_client c = relay_client_at(&s, i);
        check(c.client < (uint32_t)env->fed->clients && relay_of(env, c.client) == s.number);
        check(i == 0 || c.client > relay_client_at(&s, i - 1).client);
        check(c.status != MESSAGE_OK || (c.samples > 0 && isfinite(c.loss)));
    }
    size_t n = view->shape->n_values, at = (size_t)(s.sums - in);
    exact_int *sum = mem_alloc(MEM_OTHER, n * sizeof *sum);
    for (uint32_t p = 0; p < view->n_parts; p++) {
        exact_get_add(in + at, view->part[p].shape.n_values, sum);
        at += (size_t)exact_check(in + at, len - at, view->part[p].shape.n_values, &err);
    }
    check(at == len);
    mem_free(sum);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct link_params params = {.link = "loopback"};
    static const struct fed_params fed = {
        .clients = 30, .clients_per_round = 12, .relays = 4, .sum = FED_SUM_EXACT};
    const struct link_model link = {.params = &params};
    struct shape shape;
    struct method m;
    struct err err;
    shape_init(&shape);
    shape_add(&shape, "A", 4, 70, SHAPE_LORA_A);
    shape_add(&shape, "B", 60, 4, SHAPE_LORA_B);
    shape_seal(&shape);
    check(method_open(&m, "fedavg/seg:parts=2@fp32", &shape, &err) == 0);
    const struct fed_env env = {.fed = &fed, .link = &link, .method = &m};
    uint8_t *copy = mem_alloc(MEM_OTHER, size + 1); // so that its end is an end
    if (size)
        memcpy(copy, data, size);
    take(&env, copy, size);
    mem_free(copy);
    method_close(&m);
    shape_free(&shape);
    return 0;
}
