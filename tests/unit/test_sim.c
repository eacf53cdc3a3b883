// The simulated transport: order, virtual time, faults from a seed, buffers that come home.
#include "base/bytes.h"
#include "base/mem.h"
#include "net/transport.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

static struct net_params params;
static struct transport t;

static int set_up(void **state)
{
    (void)state;
    opt_defaults(net_options, net_option_count, &params);
    return opt_set_list(net_options, net_option_count, &params,
                        "net.transport=sim,net.sim_workers=4,net.timeout_s=1", NULL) ||
           transport_open(&t, &params, 7, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    transport_close(&t, true);
    return mem_now(MEM_NET) == 0 ? 0 : -1; // every buffer came back
}

static void post(int src, int dst, uint8_t kind, uint32_t client, uint32_t version, size_t n,
                 int64_t t_ns)
{
    struct netbuf *b = transport_buf(&t, n);
    memset(netbuf_payload(b), (int)version, n);
    struct frame f = {.kind = kind, .client = client, .version = version, .payload_bytes = n};
    transport_send(&t, src, dst, &f, b, t_ns);
    transport_unref(&t, b);
}

static struct net_msg take(void)
{
    struct net_msg m;
    assert_true(transport_poll(&t, &m, INT64_MAX));
    transport_unref(&t, m.buf);
    return m;
}

static void time_jumps_to_the_next_delivery(void **state)
{
    (void)state;
    struct net_msg m;
    assert_int_equal(t.n_endpoints, 5);
    assert_true(transport_hosts(&t, 0) && transport_hosts(&t, 4) && !transport_hosts(&t, 5));
    assert_int_equal(transport_now(&t), 0);
    post(1, 0, FRAME_UPDATE, 3, 1, 10, 5000);
    post(2, 0, FRAME_UPDATE, 4, 2, 10, 2000);
    assert_false(transport_poll(&t, &m, 1999));
    assert_int_equal(transport_now(&t), 1999);
    m = take();
    assert_int_equal(m.frame.version, 2);
    assert_int_equal(m.src, 2);
    assert_int_equal(m.dst, 0);
    assert_int_equal(m.t_ns, 2000);
    post(1, 0, FRAME_UPDATE, 5, 3, 10, 100); // in the past: now
    m = take();
    assert_int_equal(m.frame.version, 3);
    assert_int_equal(m.t_ns, 2000);
    assert_int_equal(take().t_ns, 5000);
    assert_false(transport_poll(&t, &m, INT64_MAX)); // nothing will ever happen, and time stays
    assert_int_equal(transport_now(&t), 5000);
    assert_false(transport_poll(&t, &m, 4000)); // nor does it run backwards
    assert_int_equal(transport_now(&t), 5000);
}

static void ties_go_by_client_then_by_sending(void **state)
{
    (void)state;
    post(1, 0, FRAME_UPDATE, 9, 0, 1, 1000);
    post(2, 0, FRAME_UPDATE, 2, 1, 1, 1000);
    post(1, 0, FRAME_PONG, 9, 2, 1, 1000);
    post(0, 1, FRAME_MODEL, UINT32_MAX, 3, 1, 1000); // of no client: before the tasks that need it
    post(2, 0, FRAME_UPDATE, 0, 4, 1, 1000);
    static const uint32_t order[] = {3, 4, 1, 0, 2};
    for (size_t i = 0; i < ARRAY_LEN(order); i++)
        assert_int_equal(take().frame.version, order[i]);
}

static void the_heap_sorts(void **state)
{
    (void)state;
    uint32_t x = 1;
    for (uint32_t i = 0; i < 5000; i++) {
        x = x * 1664525 + 1013904223;
        post(1, 0, FRAME_UPDATE, i, i, 0, x >> 12);
    }
    int64_t last = 0;
    for (int i = 0; i < 5000; i++) {
        int64_t now = take().t_ns;
        assert_true(now >= last);
        last = now;
    }
}

static void forgetting_drops_what_is_on_its_way(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 100; i++)
        post(0, 1 + (int)(i % 4), FRAME_TASK, i, i, 64, 1000 + (int64_t)(i * 7919 % 100));
    post(2, 0, FRAME_UPDATE, 1, 1, 64, 500);
    transport_forget(&t, 2);
    assert_int_equal(take().src, 2); // what it had sent still arrives
    int64_t last = 0;
    for (int i = 0; i < 75; i++) {
        struct net_msg m = take();
        assert_int_not_equal(m.dst, 2);
        assert_true(m.t_ns >= last);
        last = m.t_ns;
    }
    struct net_msg m;
    assert_false(transport_poll(&t, &m, INT64_MAX));
}

static void shared_buffers_keep_their_frames_apart(void **state)
{
    (void)state;
    struct netbuf *b = transport_buf(&t, 1000);
    memset(netbuf_payload(b), 5, 1000);
    struct frame f = {.kind = FRAME_MODEL, .client = 1, .payload_bytes = 1000};
    transport_send(&t, 0, 1, &f, b, 10);
    assert_int_equal(b->refs, 2);
    transport_send(&t, 0, 2, &f, b, 20); // the same frame: the same bytes
    assert_int_equal(b->refs, 3);
    f.client = 2;
    transport_send(&t, 0, 3, &f, b, 30); // another header: a copy
    f.payload_bytes = 10;
    transport_send(&t, 0, 4, &f, b, 40); // another length, and hash
    assert_int_equal(b->refs, 3);
    static const uint32_t clients[] = {1, 1, 2, 2}, lengths[] = {1000, 1000, 1000, 10};
    for (int i = 0; i < 4; i++) {
        struct net_msg m;
        assert_true(transport_poll(&t, &m, INT64_MAX));
        assert_int_equal(m.verdict, FRAME_GOOD);
        assert_int_equal(m.dst, i + 1);
        assert_int_equal(m.frame.client, clients[i]);
        assert_int_equal(m.frame.payload_bytes, lengths[i]);
        assert_int_equal(m.payload[9], 5);
        transport_unref(&t, m.buf);
    }
    assert_int_equal(b->refs, 1);
    memset(netbuf_payload(b), 6, 1000); // alone again: new bytes, new hash
    f.payload_bytes = 1000;
    transport_send(&t, 0, 1, &f, b, 50);
    assert_int_equal(take().verdict, FRAME_GOOD);
    transport_unref(&t, b);
}

static void buffers_are_reused(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct netbuf *b = transport_buf(&t, 100000);
        assert_true(b->cap >= 100000 + FRAME_HEADER_BYTES && b->cap < 130000);
        transport_unref(&t, b);
    }
    size_t booked = mem_now(MEM_NET);
    for (size_t n = 90000; n < 100000; n += 7) // all of one class
        transport_unref(&t, transport_buf(&t, n));
    assert_true(mem_now(MEM_NET) - booked < 130000);
    for (size_t n = 0; n < 300000; n = n * 9 / 8 + 1) {
        struct netbuf *b = transport_buf(&t, n);
        assert_true(b->cap >= n + FRAME_HEADER_BYTES);
        assert_true(b->cap <= 256 || b->cap * 4 <= (n + FRAME_HEADER_BYTES) * 5);
        memset(b->bytes, 1, b->cap);
        transport_unref(&t, b);
    }
}

static void long_frames_are_refused(void **state)
{
    (void)state;
    t.limits.max_payload_bytes = 100;
    post(1, 0, FRAME_UPDATE, 1, 1, 101, 0);
    post(1, 0, FRAME_UPDATE, 2, 2, 100, 0);
    struct net_msg m = take();
    assert_int_equal(m.verdict, FRAME_TOO_LONG);
    assert_null(m.payload);
    assert_int_equal(m.frame.client, 1);
    assert_int_equal(take().verdict, FRAME_GOOD);
}

struct tally {
    uint64_t trace; // hash over everything that was delivered
    int64_t delivered, bad;
};

static void drain(struct tally *sum, int64_t until_ns)
{
    struct net_msg m;
    while (transport_poll(&t, &m, until_ns)) {
        uint8_t row[32];
        put_u64(row, (uint64_t)m.t_ns);
        put_u32(row + 8, (uint32_t)(m.src * 100 + m.dst));
        put_u32(row + 12, (uint32_t)m.verdict);
        put_u64(row + 16, m.buf->len);
        put_u64(row + 24, XXH3_64bits(m.buf->bytes, m.buf->len));
        sum->trace = XXH3_64bits_withSeed(row, sizeof row, sum->trace);
        sum->delivered++;
        sum->bad += m.verdict != FRAME_GOOD;
        if (m.verdict == FRAME_GOOD)
            assert_int_equal(m.frame.payload_bytes, m.frame.version % 200);
        transport_unref(&t, m.buf);
    }
}

// Frames of every kind, both ways, some of them while others are under way.
static struct tally stormy(uint64_t seed, uint32_t n)
{
    transport_close(&t, true);
    assert_int_equal(transport_open(&t, &params, seed, NULL), 0);
    struct tally sum = {0};
    for (uint32_t i = 0; i < n; i++) {
        int worker = 1 + (int)(i % 4);
        bool up = i % 3 == 0;
        post(up ? worker : 0, up ? 0 : worker, (uint8_t)(1 + i % (FRAME_KIND_COUNT - 1)), i % 50, i,
             i % 200, transport_now(&t) + i % 1000);
        if (i % 2)
            drain(&sum, transport_now(&t) + 500);
    }
    drain(&sum, INT64_MAX);
    return sum;
}

static void all_faults(double probability)
{
    params.sim_drop = params.sim_corrupt = params.sim_delay = probability;
    params.sim_duplicate = params.sim_reorder = probability;
}

static void a_seed_replays(void **state)
{
    (void)state;
    all_faults(0.1);
    struct tally a = stormy(42, 3000), b = stormy(42, 3000), c = stormy(43, 3000);
    assert_true(a.trace == b.trace && a.delivered == b.delivered && a.bad == b.bad);
    assert_true(a.trace != c.trace);
}

static void faults_are_counted_and_found(void **state)
{
    (void)state;
    all_faults(0.1);
    enum { N = 6000 };
    struct tally sum = stormy(5, N);
    const struct net_faults *f = &t.faults;
    assert_int_equal(sum.delivered, N - f->dropped + f->duplicated);
    assert_int_equal(sum.bad, f->corrupted); // every single one is recognised
    const int64_t counts[] = {f->dropped, f->corrupted, f->delayed, f->duplicated, f->reordered};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) // 10% of the 11 in 16 kinds that may be hit
        assert_in_range(counts[i], 250, 550);
    assert_int_equal(t.frames_moved, N);
}

static void start_and_end_are_spared(void **state)
{
    (void)state;
    static const uint8_t spared[] = {FRAME_HELLO, FRAME_WELCOME, FRAME_REFUSE,
                                     FRAME_STOP,  FRAME_BYE,     FRAME_SLOTS};
    params.sim_drop = params.sim_corrupt = 1;
    for (size_t i = 0; i < ARRAY_LEN(spared); i++) {
        post(0, 1, spared[i], 1, 1, 30, 0);
        assert_int_equal(take().verdict, FRAME_GOOD);
    }
    static const uint8_t hit[] = {FRAME_MODEL,  FRAME_TASK, FRAME_GRANT, FRAME_UPDATE, FRAME_FAIL,
                                  FRAME_EVENTS, FRAME_ACK,  FRAME_PING,  FRAME_PONG};
    struct net_msg m;
    for (size_t i = 0; i < ARRAY_LEN(hit); i++) {
        post(0, 1, hit[i], 1, 1, 30, 0);
        assert_false(transport_poll(&t, &m, INT64_MAX));
    }
    assert_int_equal(t.faults.dropped, ARRAY_LEN(hit));
    params.sim_drop = 0; // damaged, not dropped; the sender's own buffer stays sound
    struct netbuf *b = transport_buf(&t, 500);
    memset(netbuf_payload(b), 3, 500);
    struct frame f = {.kind = FRAME_UPDATE, .payload_bytes = 500};
    for (int i = 0; i < 200; i++) {
        transport_send(&t, 1, 0, &f, b, 0);
        assert_int_not_equal(take().verdict, FRAME_GOOD);
    }
    for (int i = 0; i < 500; i++)
        assert_int_equal(netbuf_payload(b)[i], 3);
    transport_unref(&t, b);
}

static void without_faults_all_arrives_in_order(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 200000; i++) {
        post(1, 0, FRAME_UPDATE, 1, i, 16, i);
        if (i % 16 == 15)
            for (uint32_t k = i - 15; k <= i; k++)
                assert_int_equal(take().frame.version, k);
    }
    assert_int_equal(t.frames_moved, 200000);
    assert_int_equal(t.bytes_moved, 200000 * (FRAME_HEADER_BYTES + 16));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(time_jumps_to_the_next_delivery),
        TEST(ties_go_by_client_then_by_sending),
        TEST(the_heap_sorts),
        TEST(forgetting_drops_what_is_on_its_way),
        TEST(shared_buffers_keep_their_frames_apart),
        TEST(buffers_are_reused),
        TEST(long_frames_are_refused),
        TEST(a_seed_replays),
        TEST(faults_are_counted_and_found),
        TEST(start_and_end_are_spared),
        TEST(without_faults_all_arrives_in_order),
    };
    return cmocka_run_group_tests_name("sim", tests, NULL, NULL);
}
