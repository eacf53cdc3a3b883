// Versions that travel down as coded changes: everybody trains on what the server has, to the bit;
// bytes are those of what each client lacks; a broken payload changes nothing, and is made good.
#include "federation.h"

#include "base/bytes.h"
#include "base/rng.h"
#include "fed/downlink.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { VALUES = 16, WHOLE = 64 + 8 + 4 * VALUES };

static struct federation fed;
static int trained; // clients whose version was looked at

// A worker trains on the version that the server holds until its commit.
static void same_version(void *arg, uint32_t version, uint32_t client, const struct shape *s,
                         const float *x, const float *adapter)
{
    (void)adapter;
    const struct federation *f = arg;
    int owner = fed_owner(client, f->loop.n_endpoints - 1);
    const struct clients *c = &f->loop.worker[owner]->clients;
    (void)x;
    (void)s;
    assert_int_equal(c->version, version);
    assert_memory_equal(c->theta, f->loop.server->global.theta, VALUES * sizeof(float));
    if (f->method.scheme->down_vectors)
        assert_memory_equal(c->down[0], f->loop.server->global.state, VALUES * sizeof(float));
    trained++;
}

static void begin(const char *method, const char *downlink, const char *key)
{
    const char *keys[] = {"task.name=quadratic",
                          "task.features=8",
                          "task.outputs=2",
                          "task.samples=10",
                          "optim.kind=sgd",
                          "optim.lr=0.01",
                          "fed.clients=7",
                          "trace.file=",
                          "fed.clients_per_round=4",
                          "fed.rounds=12",
                          method,
                          downlink,
                          key};
    struct err err = {""};
    trained = 0;
    federation_update = same_version;
    if (federation_open(&fed, ARRAY_LEN(keys), keys, &err))
        fail_msg("%s", err.text);
}

static void end(void)
{
    federation_update = NULL;
    federation_close(&fed);
    assert_true(mem_now(MEM_SERVER) == 0 && mem_now(MEM_NET) == 0);
}

static int64_t downlink_bytes(void)
{
    int64_t bytes = 0;
    for (int i = 0; i < fed.n_rounds; i++)
        bytes += fed.round[i].downlink_bytes;
    return bytes;
}

static const char *const codecs[] = {
    "fed.downlink=fp32",
    "fed.downlink=int:bits=4",
    "fed.downlink=topk:ratio=0.2+ef",
    "fed.downlink=sign+ef+zstd",
    "fed.downlink=fstq:importance=magnitude,budget=0.5+ef",
    "fed.downlink=randk:ratio=0.3",
};

static void test_everybody_has_the_version(void **state)
{
    (void)state;
    const char *const methods[] = {"fed.method=fedavg/fp32", "fed.method=fedadam/int",
                                   "fed.method=scaffold/fp32;fp16"};
    for (size_t i = 0; i < ARRAY_LEN(codecs); i++)
        for (size_t m = 0; m < ARRAY_LEN(methods); m++) {
            uint64_t hash[2];
            int64_t bytes[2];
            const char *const ranks[] = {"net.sim_workers=1", "net.sim_workers=3"};
            for (int k = 0; k < 2; k++) {
                begin(methods[m], codecs[i], ranks[k]);
                federation_run(&fed);
                assert_true(server_done(fed.loop.server) && loop_clean(&fed.loop));
                assert_int_equal(trained, 12 * 4);
                hash[k] = fed.round[fed.n_rounds - 1].adapter_xxh3;
                bytes[k] = downlink_bytes();
                end();
            }
            assert_true(hash[0] == hash[1] && bytes[0] == bytes[1]);
        }
}

// fp32: with its length and its format's byte a message is longer than the version itself.
static void test_a_message_no_shorter_is_not_sent(void **state)
{
    (void)state;
    begin("fed.method=fedavg/fp32", "fed.downlink=fp32", "fed.dropout=0");
    federation_run(&fed);
    for (int i = 1; i < fed.n_rounds; i++)
        assert_int_equal(fed.round[i].downlink_bytes, 4 * WHOLE);
    end();
}

// fp16 of 16 values is less than half of the version: who missed one version is sent two messages,
// who missed more the version. Counted here from the sequence of clients alone.
static void test_bytes_are_what_each_client_lacks(void **state)
{
    (void)state;
    begin("fed.method=fedavg/fp32", "fed.downlink=fp16:prescale=off", "fed.dropout=0.2");
    federation_run(&fed);
    int64_t each = 4 + 1 + 2 * VALUES, most = (4 * VALUES) / each; // messages that are kept
    uint32_t has[7] = {0};
    assert_int_equal(most, 1);
    for (uint32_t round = 1; round <= 12; round++) {
        uint32_t sampled[4];
        int64_t want = 0;
        fed_sample(fed.env.seed, round, 7, 4, 0, sampled);
        for (int i = 0; i < 4; i++) {
            uint32_t c = sampled[i];
            if (fed_drops(fed.env.seed, round, c, 0.2))
                continue;
            bool next = has[c] && round - has[c] <= (uint32_t)most;
            want += next ? 64 + 8 + (round - has[c]) * each : WHOLE;
            has[c] = round;
        }
        assert_int_equal(fed.round[round].downlink_bytes, want);
    }
    end();
}

// Frames are lost, doubled and damaged on the way: whoever has fallen out of step is sent the
// version itself, and trains on nothing else.
static void test_lost_frames_are_made_good(void **state)
{
    (void)state;
    begin("fed.method=fedavg/fp32", "fed.downlink=int:bits=4", "net.sim_drop=0.05");
    federation_run(&fed);
    assert_true(server_done(fed.loop.server));
    assert_true(trained > 12 && trained < 48);
    assert_true(fed.loop.server->totals.lost > 0);
    end();
}

// Nothing is taken of a payload that is not whole, and what is here is not trained on any more.
static void test_damaged_payloads_are_refused(void **state)
{
    (void)state;
    begin("fed.method=fedavg/fp32", "fed.downlink=int:bits=4", "net.sim_workers=1");
    federation_run(&fed);
    struct clients *c = &fed.loop.worker[1]->clients;
    struct downlink *d = fed.loop.server->down;
    size_t len = (size_t)downlink_peer_bytes(d, 1), refused = 0;
    uint8_t good[WHOLE], bad[WHOLE];
    uint32_t have = c->have;
    struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
    float theta[VALUES];
    assert_true(!downlink_whole(d, 1) && len < WHOLE && have == 12);
    downlink_put(d, 1, good);
    memcpy(theta, c->theta, sizeof theta);
    for (int i = 0; i < 4000; i++) {
        struct frame f = {.version = 13,
                          .payload_bytes = i % 3 ? len : rng_below(&r, (uint32_t)len)};
        memcpy(bad, good, len);
        for (int k = 0; k < 2; k++)
            bad[rng_below(&r, (uint32_t)len)] ^= (uint8_t)(1u << rng_below(&r, 8));
        memcpy(c->theta, theta, sizeof theta);
        c->have = have;
        bool taken = clients_take_model(c, &f, bad);
        assert_int_equal(c->have, taken ? 13 : 0);
        refused += !taken;
    }
    assert_true(refused > 2000);
    struct frame f = {.version = 13, .payload_bytes = len};
    memcpy(c->theta, theta, sizeof theta);
    c->have = 11; // another one than the messages start at
    assert_false(clients_take_model(c, &f, good));
    c->have = have;
    assert_true(clients_take_model(c, &f, good));
    assert_memory_equal(c->theta, fed.loop.server->global.theta, sizeof theta);
    end();
}

static void refused(const char *method, const char *downlink, const char *why)
{
    const char *keys[] = {"task.name=quadratic", "optim.kind=sgd", "trace.file=", method, downlink};
    struct err err = {""};
    assert_int_equal(federation_open(&fed, ARRAY_LEN(keys), keys, &err), -1);
    if (!strstr(err.text, why))
        fail_msg("'%s' has no '%s'", err.text, why);
    federation_close(&fed);
}

static void test_what_does_not_go_together_is_named(void **state)
{
    (void)state;
    refused("fed.method=fedavg/fp32", "fed.downlink=no-such", "fed.downlink");
    refused("fed.method=fedavg/fp32", "fed.downlink=fstq", "importance=magnitude");
    refused("fed.method=fedavg/fp32", "fed.downlink=signsgd", "nobody to add up with");
    refused("fed.method=fedbuff/fp32", "fed.downlink=int", "no rounds whose changes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everybody_has_the_version),
        cmocka_unit_test(test_a_message_no_shorter_is_not_sent),
        cmocka_unit_test(test_bytes_are_what_each_client_lacks),
        cmocka_unit_test(test_lost_frames_are_made_good),
        cmocka_unit_test(test_damaged_payloads_are_refused),
        cmocka_unit_test(test_what_does_not_go_together_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
