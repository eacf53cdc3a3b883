// Late updates through a checkpoint: what is kept comes back, and bytes that are no such thing do
// not.
#include "fed/late.h"

#include "base/bytes.h"
#include "base/fsio.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CLIENTS = 30, VALUES = 50, ROOM = 4096 };

struct trial {
    struct link_params params;
    struct link_model link;
    struct fed_params fed;
    struct transport transport;
    struct shape shape;
    struct method method;
    struct fed_env env;
    struct late_list list;
};

static void begin(struct trial *t)
{
    struct err err;
    memset(t, 0, sizeof *t);
    t->link.params = &t->params;
    t->fed = (struct fed_params){.clients = CLIENTS, .late_weight = 0.5};
    shape_init(&t->shape);
    shape_add(&t->shape, "x", 1, VALUES, SHAPE_OTHER);
    shape_seal(&t->shape);
    assert_int_equal(method_open(&t->method, "fedavg/fp32", &t->shape, &err), 0);
    t->env = (struct fed_env){.fed = &t->fed,
                              .link = &t->link,
                              .transport = &t->transport,
                              .method = &t->method,
                              .run_dir = "there"};
}

static void end(struct trial *t)
{
    late_free(&t->list, &t->transport);
    netbuf_pool_close(&t->transport.pool);
    method_close(&t->method);
    shape_free(&t->shape);
}

// len: 1 to 4 bytes beyond words.
static void add(struct trial *t, uint32_t client, size_t len)
{
    struct netbuf *b = transport_buf(&t->transport, len);
    struct rec_message row = {.frame_bytes = 64 + (int64_t)len, .client = (int32_t)client};
    for (size_t i = 0; i < len; i++)
        netbuf_payload(b)[i] = (uint8_t)(client + i);
    struct update u = {.client = client,
                       .version = 7,
                       .bytes = netbuf_payload(b),
                       .len = len,
                       .weight = 40,
                       .scale = 1,
                       .samples = 40,
                       .loss = 0.75};
    late_add(&t->list, b, &u, 5000000000 + client, &row);
}

static size_t keep(struct trial *t, uint8_t *bytes)
{
    for (uint32_t k = 0; k < 20; k++)
        add(t, k, 201 - k % 5);
    size_t words = late_words(&t->list);
    assert_true(4 * words <= 20 * ROOM);
    late_keep(&t->list, bytes);
    return words;
}

static void test_what_is_kept_comes_back(void **state)
{
    (void)state;
    static uint8_t bytes[20 * ROOM], again[20 * ROOM];
    struct trial t, back;
    struct err err;
    begin(&t);
    begin(&back);
    size_t words = keep(&t, bytes);
    assert_int_equal(late_restore(&back.list, &back.env, bytes, words, &err), 0);
    assert_int_equal(back.list.n, 20);
    for (size_t i = 0; i < 20; i++) {
        const struct late *a = &t.list.one[i], *b = &back.list.one[i];
        assert_true(a->arrives_ns == b->arrives_ns && a->update.client == b->update.client);
        assert_true(a->update.version == b->update.version && a->update.len == b->update.len);
        assert_true(a->update.weight == b->update.weight && a->update.scale == b->update.scale);
        assert_true(a->update.samples == b->update.samples && a->update.loss == b->update.loss);
        assert_memory_equal(a->update.bytes, b->update.bytes, a->update.len);
        assert_memory_equal(&a->row, &b->row, sizeof a->row);
    }
    assert_int_equal(late_words(&back.list), words);
    late_keep(&back.list, again);
    assert_memory_equal(bytes, again, 4 * words);
    end(&back);
    assert_int_equal(late_restore(&t.list, &t.env, bytes, 0, &err), 0);
    end(&t);
    assert_true(mem_now(MEM_NET) == 0 && mem_now(MEM_SERVER) == 0);
}

static void test_refusals(void **state)
{
    (void)state;
    static uint8_t bytes[20 * ROOM];
    struct trial t;
    struct err err = {""};
    const struct {
        size_t at;
        uint32_t word;
    } bad[] = {{0, CLIENTS},      {12, 0x7fc00000u}, {12, 0xbf800000u},
               {16, 0x7f800000u}, {24, 1u << 31},    {28, 100000}};
    begin(&t);
    size_t words = keep(&t, bytes);
    late_free(&t.list, &t.transport);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint32_t good = get_u32(bytes + bad[i].at);
        put_u32(bytes + bad[i].at, bad[i].word);
        assert_int_equal(late_restore(&t.list, &t.env, bytes, words, &err), -1);
        late_free(&t.list, &t.transport);
        put_u32(bytes + bad[i].at, good);
    }
    for (size_t cut = 1; cut < 40; cut++) {
        assert_int_equal(late_restore(&t.list, &t.env, bytes, words - cut, &err), -1);
        late_free(&t.list, &t.transport);
    }
    if (getenv("FSTQ_GOLDEN_WRITE")) { // seeds of fuzz_late
        size_t two = 2 * words / 20;
        assert_int_equal(fsio_replace("tests/fuzz/corpus/late/case0", bytes, 4 * two, &err), 0);
        assert_int_equal(fsio_replace("tests/fuzz/corpus/late/case1", bytes, 4 * words, &err), 0);
    }
    end(&t);
    assert_true(mem_now(MEM_NET) == 0 && mem_now(MEM_SERVER) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_kept_comes_back),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
