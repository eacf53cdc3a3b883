// Link models in closed form, and the parameters of [net].
#include "net/link.h"
#include "net/port.h"
#include "net/transport.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct link_model opened(const char *link, const struct link_params *p)
{
    static struct link_params kept[8]; // a model points to its parameters
    static size_t n;
    struct link_params *q = &kept[n++ % ARRAY_LEN(kept)];
    struct link_model m;
    struct err err = {""};
    *q = *p;
    snprintf(q->link, sizeof q->link, "%s", link);
    if (link_open(&m, q, 1, &err))
        fail_msg("%s: %s", link, err.text);
    return m;
}

static struct link_model fixed(double up_bps, double down_bps, int64_t latency_ns)
{
    struct link_params p = {.up_bps = up_bps, .down_bps = down_bps, .latency_ns = latency_ns};
    return opened("fixed", &p);
}

static int64_t deliver(const struct link_model *m, struct link_state *s, bool up, int64_t ready_ns,
                       int64_t bytes)
{
    struct link_transfer x = {
        .client = 0, .round = 1, .up = up, .t_ready_ns = ready_ns, .bytes = bytes};
    struct link_result r = link_carry(m, s, &x);
    assert_int_equal(r.delivered, r.t_deliver_ns < INT64_MAX);
    assert_true(r.bytes_sent == bytes && r.t_start_ns >= ready_ns);
    return r.t_deliver_ns;
}

static void rows_are_whole(void **state)
{
    (void)state;
    for (int n = 0; link_table[n]; n++) {
        for (int k = 0; k < n; k++)
            assert_string_not_equal(link_table[n]->name, link_table[k]->name);
        assert_true(strlen(link_table[n]->help) > 10);
        assert_non_null(link_table[n]->piece);
        assert_non_null(link_table[n]->delay);
        assert_int_equal(link_table[n]->n_options > 0, link_table[n]->option_bytes > 0);
    }
    assert_string_equal(link_table[0]->name, "loopback"); // the floor row
}

static void a_link_that_is_none_is_named(void **state)
{
    (void)state;
    struct link_params p = {.link = "loopbak"};
    struct link_model m;
    struct err err = {""};
    assert_int_equal(link_open(&m, &p, 1, &err), -1);
    assert_non_null(strstr(err.text, "net.link = loopbak"));
    assert_non_null(strstr(err.text, "did you mean loopback?"));
    p = (struct link_params){.link = "loopback:rate=1"};
    assert_int_equal(link_open(&m, &p, 1, &err), -1);
    assert_non_null(strstr(err.text, "rate: there are no options here"));
}

static void loopback_costs_nothing(void **state)
{
    (void)state;
    struct link_params q = {.up_bps = 1, .down_bps = 1, .latency_ns = 1000};
    struct link_model p = opened("loopback", &q);
    struct link_state link = {0};
    assert_int_equal(deliver(&p, &link, true, 12345, INT64_MAX), 12345);
    assert_int_equal(deliver(&p, &link, false, 12345, 0), 12345);
    assert_int_equal(link.free_ns, 12345);
}

static void fixed_takes_bytes_over_rate_plus_latency(void **state)
{
    (void)state;
    struct link_model p = fixed(20e6, 80e6, 10000000);
    struct link_state up = {0}, down = {0};
    // 2.5 MB at 20 Mbit/s: one second.
    assert_int_equal(deliver(&p, &up, true, 0, 2500000), 1010000000);
    assert_int_equal(up.free_ns, 1000000000); // latency does not occupy the link
    assert_int_equal(deliver(&p, &down, false, 0, 2500000), 260000000);
    // One byte: 400 ns; none: the latency alone.
    struct link_state idle = {0};
    assert_int_equal(deliver(&p, &idle, true, 0, 1), 10000400);
    assert_int_equal(deliver(&p, &idle, true, 5000, 0), 10005000);
}

static void a_busy_link_makes_wait(void **state)
{
    (void)state;
    struct link_model p = fixed(8e9, 8e9, 50); // a byte a nanosecond
    struct link_state link = {0};
    assert_int_equal(deliver(&p, &link, true, 100, 1000), 1150);
    assert_int_equal(deliver(&p, &link, true, 200, 1000), 2150); // queued
    assert_int_equal(deliver(&p, &link, true, 2100, 10), 2160);  // just free
    assert_int_equal(deliver(&p, &link, true, 9000, 10), 9060);  // idle before
    assert_int_equal(link.free_ns, 9010);
}

static void terabytes_do_not_overflow(void **state)
{
    (void)state;
    struct link_model p = fixed(1e3, 1e15, 7);
    struct link_state link = {0};
    // 1 TB at 1 kbit/s: 8e9 seconds, 253 years.
    int64_t t = deliver(&p, &link, true, 0, 1000000000000);
    assert_int_equal(t, 8000000000000000007);
    // Another one would end beyond the clock: never, and never stays never.
    assert_true(deliver(&p, &link, true, 0, 1000000000000) == INT64_MAX);
    assert_true(link.free_ns == INT64_MAX);
    assert_true(deliver(&p, &link, true, 0, 1) == INT64_MAX);
    struct link_state late = {INT64_MAX - 3};
    assert_true(deliver(&p, &late, false, 0, 0) == INT64_MAX);
    struct link_state whole = {0};
    assert_true(deliver(&p, &whole, true, 0, INT64_MAX) == INT64_MAX);
    assert_true(deliver(&p, &(struct link_state){0}, false, 0, INT64_MAX) <
                80000000000000); // 9.2e18 bytes at 1 Pbit/s: 20 hours
}

static void a_dead_link_never_delivers(void **state)
{
    (void)state;
    struct link_model p = fixed(0, 1e6, 0);
    struct link_state link = {0};
    assert_int_equal(deliver(&p, &link, true, 5, 0), 5);
    assert_true(deliver(&p, &link, true, 5, 1) == INT64_MAX);
}

// More bytes never arrive earlier, and two halves take as long as the whole (to the rounding).
static void delivery_is_monotone_and_additive(void **state)
{
    (void)state;
    struct link_model p = fixed(3.7e6, 1e6, 11);
    int64_t last = 0;
    for (int64_t n = 0; n < 100000000; n = n * 3 / 2 + 1) {
        struct link_state whole = {0}, halves = {0};
        int64_t t = deliver(&p, &whole, true, 0, n);
        assert_true(t >= last);
        last = t;
        deliver(&p, &halves, true, 0, n / 2);
        int64_t both = deliver(&p, &halves, true, 0, n - n / 2);
        assert_in_range(both - t + 1, 0, 2);
    }
}

static struct link_model row(const char *link)
{
    struct link_params p = {.loss = ""};
    return opened(link, &p);
}

static struct link_result carried(const struct link_model *m, uint32_t client, bool up,
                                  int64_t ready_ns, int64_t bytes)
{
    struct link_state idle = {0};
    struct link_transfer x = {
        .client = client, .round = 1, .up = up, .t_ready_ns = ready_ns, .bytes = bytes};
    return link_carry(m, &idle, &x);
}

// Two halves one after the other leave when the whole does, whatever the rate did meanwhile; the
// same question has the same answer, in any order.
static void every_row_adds_up(void **state)
{
    (void)state;
    static const char *const rows[] = {"ethernet-1g", "wifi",       "lte-20",    "lte-hetero",
                                       "5g",          "edge-mixed", "satellite", "markov"};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct link_model m = row(rows[i]), again = row(rows[i]);
        int64_t differ = 0;
        for (uint32_t k = 0; k < 300; k++) {
            uint32_t client = k % 7;
            bool up = k & 1;
            int64_t from = (int64_t)k * 7777777777, n = 1 + (int64_t)k * 123457;
            struct link_state whole = {0}, halves = {0};
            struct link_transfer x = {.client = client, .round = 1, .up = up, .t_ready_ns = from};
            x.bytes = n;
            struct link_result r = link_carry(&m, &whole, &x);
            x.bytes = n / 2;
            link_carry(&m, &halves, &x);
            x.bytes = n - n / 2;
            link_carry(&m, &halves, &x);
            assert_true(r.delivered && r.whole && r.bytes_sent == n);
            assert_in_range(halves.free_ns - whole.free_ns + 100, 0, 200); // rounding, at two rates
            double took = (double)(whole.free_ns - from) * 1e-9;
            if (took * r.rate_bps < (double)n * 7.99 || took * r.rate_bps > (double)n * 8.01 + 10)
                fail_msg("%s: %g s at %g bit/s for %lld bytes", rows[i], took, r.rate_bps,
                         (long long)n);
            uint32_t back = 299 - k; // asked backwards
            struct link_result a =
                carried(&m, back % 7, back & 1, back * INT64_C(7777777777), 5000);
            struct link_result b =
                carried(&again, back % 7, back & 1, back * INT64_C(7777777777), 5000);
            assert_int_equal(a.t_deliver_ns, b.t_deliver_ns);
            differ += r.rate_bps != carried(&m, client, up, from + 1000000000000, n).rate_bps;
        }
        assert_int_equal(m.row->varies, differ > 0);
        link_close(&m);
        link_close(&again);
    }
}

// The paper's 153.6 MB at 20 Mbit/s, and its tail of stragglers.
static void the_papers_links(void **state)
{
    (void)state;
    enum { N = 20000 };
    struct link_model m = row("lte-20:latency=0"), h = row("lte-hetero");
    assert_int_equal(carried(&m, 3, true, 0, 153600000).t_deliver_ns, 61440000000);
    int slow = 0, below = 0;
    for (uint32_t c = 0; c < N; c++) {
        double up = carried(&h, c, true, 0, 1000).rate_bps, down;
        down = carried(&h, c, false, 55, 99).rate_bps;
        assert_true(up >= 0.5e6 && down == 2 * up);
        slow += up <= 2e6;
        below += up < 10e6;
    }
    assert_in_range(slow, N * 0.19, N * 0.21); // of the usual ones 0.06 % are as slow
    assert_in_range(below, N * (0.2 + 0.39), N * (0.2 + 0.41)); // the median of the usual ones
    link_close(&m);
    link_close(&h);
}

static void states_last_and_are_even(void **state)
{
    (void)state;
    struct link_model m = row("markov:up=1/2/4,down=8/4/2,stay=4");
    double sum = 0;
    int64_t end = 0;
    int pieces = 0, changes = 0, n = 0;
    double last = 0;
    for (uint32_t c = 0; c < 40; c++) {
        struct link_transfer up = {.client = c, .up = true}, down = {.client = c};
        for (int64_t t = 0; t < 500000000000; t = end, n++) {
            struct link_piece p = m.row->piece(&m, &up, t);
            assert_int_equal(p.until_ns, t + 500000000); // an eighth of the stay
            assert_true(m.row->piece(&m, &up, p.until_ns - 1).bps == p.bps);
            assert_true(p.bps * m.row->piece(&m, &down, t).bps == 8e12); // one state, two rates
            end = p.until_ns;
            sum += p.bps;
            pieces++;
            changes += t > 0 && p.bps != last;
            last = p.bps;
        }
    }
    assert_in_range(sum / pieces, 7e6 / 3 * 0.97, 7e6 / 3 * 1.03);
    // Drawn anew once in 8 slots, and then another one in two of three cases.
    assert_in_range(changes * 1000 / n, 75, 92);
    link_close(&m);
}

static void mixtures_have_their_shares(void **state)
{
    (void)state;
    struct link_model m = row("edge-mixed:ethernet=0.5,wifi=0,lte=0,slow=0.5");
    int fast = 0, slow = 0;
    for (uint32_t c = 0; c < 4000; c++) {
        double bps = carried(&m, c, true, 0, 1).rate_bps;
        fast += bps == 941e6;
        slow += bps >= 0.5e6 && bps <= 2e6;
    }
    assert_int_equal(fast + slow, 4000);
    assert_in_range(fast, 1900, 2100);
    link_close(&m);
    struct link_params p = {.link = "edge-mixed:slow=0.5"};
    struct err err = {""};
    assert_int_equal(link_open(&m, &p, 1, &err), -1);
    assert_non_null(strstr(err.text, "add up to 1.35"));
}

static void jitter_is_the_messages_own(void **state)
{
    (void)state;
    struct link_params p = {.up_bps = 8e9, .down_bps = 8e9, .latency_ns = 1000, .jitter_ns = 500};
    struct link_model m = opened("fixed", &p);
    int64_t sum = 0, first = -1, equal = 0;
    for (uint32_t round = 1; round <= 1000; round++) {
        struct link_transfer x = {.round = round, .up = true, .bytes = 100};
        int64_t at = link_carry(&m, &(struct link_state){0}, &x).t_deliver_ns - 100;
        assert_in_range(at, 1000, 1500);
        assert_int_equal(at, link_carry(&m, &(struct link_state){0}, &x).t_deliver_ns - 100);
        equal += at == first;
        first = first < 0 ? at : first;
        sum += at;
    }
    assert_in_range(sum / 1000, 1235, 1265);
    assert_in_range(equal, 1, 20); // 500 values: now and then the same one
    link_close(&m);
}

static struct loss_model losses_of(const char *text)
{
    struct loss_model m;
    struct err err = {""};
    if (loss_parse(&m, text, &err))
        fail_msg("%s: %s", text, err.text);
    return m;
}

static void losses_are_as_frequent_and_as_long_as_netem_says(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double mean, burst; // of losses in a row
    } all[] = {{"random:p=0.03", 0.03, 1 / 0.97},
               {"gemodel:p=0.01,r=0.25", 0.01 / 0.26, 4},
               {"gemodel:p=0.02", 0.02, 1 / 0.98}, // r = 1 - p: Bernoulli again
               {"gemodel:p=0.02,r=0.2,1-h=0.5,1-k=0.01", 0.02 / 0.22 * 0.5 + 0.2 / 0.22 * 0.01, 0}};
    enum { N = 2000000 };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct loss_model m = losses_of(all[i].text);
        struct loss_chain c;
        int64_t lost = 0, bursts = 0;
        bool before = false;
        assert_true(m.on && loss_mean(&m) > all[i].mean * 0.9999 &&
                    loss_mean(&m) < all[i].mean * 1.0001);
        loss_begin(&c, &m, rng_stream(3, RNG_TEST, (uint32_t)i, 0, 0));
        for (int k = 0; k < N; k++) {
            bool now = loss_next(&c);
            lost += now;
            bursts += now && !before;
            before = now;
        }
        double mean = (double)lost / N, burst = (double)lost / (double)bursts;
        if (mean < 0.97 * all[i].mean || mean > 1.03 * all[i].mean)
            fail_msg("%s: %g lost, not %g", all[i].text, mean, all[i].mean);
        if (all[i].burst > 0 && (burst < 0.97 * all[i].burst || burst > 1.03 * all[i].burst))
            fail_msg("%s: %g in a row, not %g", all[i].text, burst, all[i].burst);
    }
    assert_false(losses_of("none").on || losses_of("random:p=0").on);
}

// A chain that flips at every segment, so that all of it can be done by hand.
static void what_is_lost_is_sent_again(void **state)
{
    (void)state;
    struct loss_model m = losses_of("gemodel:p=1,r=1");
    enum { BYTES = 2 * 1448 + 100 }; // three segments, the last one short
    int seen[2] = {0};
    for (uint32_t k = 0; k < 16; k++) {
        struct loss_chain c;
        loss_begin(&c, &m, rng_stream(k, RNG_TEST, 0, 0, 0));
        bool bad = c.bad;
        struct loss_cost cost = loss_reliable(&c, BYTES, 30000000);
        seen[bad]++;
        assert_true(cost.segments == 3 && !cost.given_up);
        if (bad) {
            // lost, arrived: a round trip; sent again, lost: 200 ms; sent again, arrived. The third
            // is lost: a round trip; sent again, arrived.
            assert_int_equal(cost.lost, 2);
            assert_int_equal(cost.again_bytes, 2 * 1448 + 100);
            assert_int_equal(cost.wait_ns, 2 * 30000000 + 200000000);
        } else {
            // arrived, lost, arrived: a round trip; sent again, lost: 200 ms; sent again, arrived.
            assert_int_equal(cost.lost, 1);
            assert_int_equal(cost.again_bytes, 2 * 1448);
            assert_int_equal(cost.wait_ns, 30000000 + 200000000);
        }
        loss_begin(&c, &m, rng_stream(k, RNG_TEST, 0, 0, 0));
        uint8_t map[1] = {0};
        cost = loss_datagram(&c, BYTES, map);
        assert_true(cost.lost == (bad ? 2 : 1) && cost.again_bytes == 0 && cost.wait_ns == 0);
        assert_int_equal(map[0] & 7, bad ? 2 : 5);
    }
    assert_true(seen[0] && seen[1]);
}

// A segment that never gets through: the timeout doubles from 2 RTT to Linux' two minutes.
static void a_connection_is_given_up(void **state)
{
    (void)state;
    struct loss_model m = losses_of("random:p=1");
    struct loss_chain c;
    loss_begin(&c, &m, rng_stream(1, RNG_TEST, 0, 0, 0));
    struct loss_cost cost = loss_reliable(&c, 1000, 300000000);
    int64_t wait = 300000000, rto = 600000000;
    for (int i = 0; i < LOSS_RETRIES; i++, rto = 2 * rto < 120000000000 ? 2 * rto : 120000000000)
        wait += rto;
    assert_true(cost.given_up && cost.again_bytes == LOSS_RETRIES * 1000);
    assert_int_equal(cost.wait_ns, wait);
}

static void links_lose_the_same_again(void **state)
{
    (void)state;
    struct link_params p = {.up_bps = 8e6, .down_bps = 8e6, .latency_ns = 20000000};
    snprintf(p.loss, sizeof p.loss, "gemodel:p=0.01,r=0.5");
    struct link_model m = opened("fixed", &p);
    p.delivery = LINK_DATAGRAM;
    struct link_model d = opened("fixed", &p);
    int64_t rounds_differ = 0, lost_up = 0;
    for (uint32_t round = 1; round < 60; round++) {
        struct link_transfer x = {.client = 4, .round = round, .up = true, .bytes = 200000};
        struct link_result a = link_carry(&m, &(struct link_state){0}, &x);
        struct link_result b = link_carry(&m, &(struct link_state){0}, &x);
        assert_true(a.t_deliver_ns == b.t_deliver_ns && a.bytes_sent == b.bytes_sent);
        assert_true(a.whole && a.bytes_sent >= 200000 &&
                    (a.bytes_sent > 200000) == (a.lost_segments > 0));
        assert_int_equal(a.t_deliver_ns, a.bytes_sent * 1000 + a.latency_ns);
        struct link_result g = link_carry(&d, &(struct link_state){0}, &x);
        assert_int_equal(g.t_deliver_ns, 220000000);
        assert_true(g.delivered && g.whole == (g.lost_segments == 0));
        uint8_t map[20];
        int64_t gone = 0;
        link_arrived(&d, &x, map);
        for (int i = 0; i < 139; i++)
            gone += !(map[i / 8] >> i % 8 & 1);
        assert_int_equal(gone, g.lost_segments);
        lost_up += gone;
        x.up = false; // a model is sent until it is there
        assert_true(link_carry(&d, &(struct link_state){0}, &x).whole);
        x.up = true;
        x.round++;
        rounds_differ += link_carry(&m, &(struct link_state){0}, &x).bytes_sent != a.bytes_sent;
    }
    assert_true(rounds_differ > 20 && lost_up > 0);
    link_close(&m);
    link_close(&d);
}

static void traces_are_dealt_and_go_on(void **state)
{
    (void)state;
    char path[] = "/tmp/fstq-link.XXXXXX";
    int fd = mkstemp(path);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    assert_non_null(f);
    fputs("name,up_mbps,up_sigma_mbps,down_mbps,down_sigma_mbps\n", f);
    for (int i = 1; i <= 9; i++)
        fprintf(f, "d%d,%d,0,%d,0\n", i, i, 10 * i);
    fclose(f);
    struct link_params p = {.loss = ""};
    snprintf(p.trace, sizeof p.trace, "%s", path);
    struct link_model m = opened("trace", &p);
    unsigned seen = 0;
    for (uint32_t c = 0; c < 9; c++) {
        double bps = carried(&m, c, true, 0, 100).rate_bps;
        seen |= 1u << (int)(bps / 1e6);
        assert_true(carried(&m, c + 9, false, 0, 100).rate_bps == 10 * bps);
    }
    assert_int_equal(seen, 0x3fe); // each once among nine clients
    link_close(&m);
    f = fopen(path, "w");
    fputs("# seconds Mbit/s\n10 8\n20 0.8\n", f);
    fclose(f);
    m = opened("trace:offset=off,latency=5", &p);
    assert_int_equal(carried(&m, 0, true, 9000000000, 1500000).t_deliver_ns, 15005000000);
    assert_int_equal(carried(&m, 0, true, 29000000000, 1500000).t_deliver_ns, 35005000000);
    link_close(&m);
    m = opened("trace", &p);
    int differ = 0;
    for (uint32_t c = 0; c < 20; c++) {
        int64_t at = carried(&m, c, true, 0, 1000000).t_deliver_ns;
        differ += at != carried(&m, c + 1, true, 0, 1000000).t_deliver_ns;
        // The same place a turn later, another half a turn later.
        assert_int_equal(carried(&m, c, true, 20000000000, 1000000).t_deliver_ns, at + 20000000000);
    }
    assert_true(differ > 15);
    link_close(&m);
    unlink(path);
    struct err err = {""};
    snprintf(p.link, sizeof p.link, "trace");
    assert_int_equal(link_open(&m, &p, 1, &err), -1);
    assert_non_null(strstr(err.text, path));
    snprintf(p.link, sizeof p.link, "wifi");
    assert_int_equal(link_open(&m, &p, 1, &err), -1);
    assert_non_null(strstr(err.text, "reads no trace"));
}

static struct port_flow flow_of(uint32_t client, int64_t ready_ns, int64_t bytes)
{
    return (struct port_flow){
        .x = {.client = client, .round = 1, .up = true, .t_ready_ns = ready_ns, .bytes = bytes}};
}

static void a_port_is_shared_evenly(void **state)
{
    (void)state;
    struct link_model m = fixed(8e6, 8e6, 0);
    // 12 Mbit/s among three: 4 each, until the short one is done; then 6 each.
    struct port_flow f[3] = {flow_of(0, 0, 1000000), flow_of(1, 0, 500000), flow_of(2, 0, 1000000)};
    port_share(&m, 12e6, f, 3);
    assert_int_equal(f[1].left_ns, 1000000000);
    assert_in_range(f[0].left_ns, 1666666666, 1666666668);
    assert_int_equal(f[2].left_ns, f[0].left_ns);
    // One comes when the other is half done; alone each has its own link's 8.
    struct port_flow g[3] = {flow_of(5, 500000000, 1000000), flow_of(4, 0, 1000000),
                             flow_of(6, 7000000000, 1000000)};
    port_share(&m, 8e6, g, 3);
    assert_int_equal(g[1].left_ns, 1500000000);
    assert_int_equal(g[0].left_ns, 2000000000);
    assert_int_equal(g[2].left_ns, 8000000000);
    // Nobody waits for a port that is wide enough, nor for nothing.
    struct port_flow h[2] = {flow_of(0, 3, 1000000), flow_of(1, 9, 0)};
    port_share(&m, 16e6, h, 2);
    assert_true(h[0].left_ns == 1000000003 && h[1].left_ns == 9);
    struct port_flow never = flow_of(0, 0, 1);
    struct link_model dead = fixed(0, 8e6, 0);
    port_share(&dead, 1e6, &never, 1);
    assert_true(never.left_ns == INT64_MAX);
    link_close(&m);
    link_close(&dead);
}

// No transfer is faster than its own link alone, the port carries no more than it can, and while it
// is full no less.
static void a_port_conserves_bytes(void **state)
{
    (void)state;
    enum { N = 60 };
    struct link_model m = row("markov:stay=0.5");
    struct port_flow f[N], one[N];
    struct rng r = rng_stream(5, RNG_TEST, 0, 0, 0);
    double bits = 0;
    int64_t last = 0;
    for (uint32_t i = 0; i < N; i++) {
        f[i] = flow_of(i, (int64_t)(rng_unit(&r) * 1e9), 1000 + rng_below(&r, 3000000));
        one[i] = f[i];
        bits += 8 * (double)f[i].x.bytes;
    }
    port_share(&m, 20e6, f, N);
    port_share(&m, 1e15, one, N);
    for (uint32_t i = 0; i < N; i++) {
        int64_t alone = carried(&m, i, true, f[i].x.t_ready_ns, f[i].x.bytes).t_deliver_ns;
        struct link_delay d = m.row->delay(&m, i, true);
        assert_true(f[i].left_ns >= one[i].left_ns - 100);
        assert_in_range(alone - one[i].left_ns - d.latency_ns + 100, 0, d.jitter_ns + 200);
        last = f[i].left_ns > last ? f[i].left_ns : last;
    }
    double carried_by = (double)last * 1e-9;
    assert_true(bits <= 20e6 * carried_by);
    assert_true(bits > 20e6 * (carried_by - 1) * 0.9); // all had come after a second
    struct port_flow turned[N];
    for (uint32_t i = 0; i < N; i++)
        turned[i] = flow_of(f[N - 1 - i].x.client, f[N - 1 - i].x.t_ready_ns, f[N - 1 - i].x.bytes);
    port_share(&m, 20e6, turned, N);
    for (uint32_t i = 0; i < N; i++)
        assert_int_equal(turned[i].left_ns, f[N - 1 - i].left_ns);
    link_close(&m);
}

static struct net_params defaults(void)
{
    struct net_params p;
    opt_defaults(net_options, net_option_count, &p);
    return p;
}

static void defaults_stand(void **state)
{
    (void)state;
    struct net_params p = defaults();
    struct err err = {""};
    assert_int_equal(net_check(&p, &err), 0);
    assert_string_equal(p.link.link, "loopback");
    assert_true(p.link.up_bps == 20e6 && p.link.down_bps == 20e6);
    assert_true(p.checksum);
    assert_int_equal(p.pace, NET_PACE_MODEL);
    assert_ptr_equal(transport_table[p.transport], &transport_mpi);
    assert_true(p.sim_drop == 0 && p.sim_corrupt == 0 && p.sim_workers >= 1);
}

static void set(struct net_params *p, const char *name, const char *value)
{
    struct err err = {""};
    const struct opt *row = opt_find(net_options, net_option_count, name);
    assert_non_null(row);
    if (opt_set(row, p, value, &err) != 0)
        fail_msg("%s", err.text);
}

static void senseless_mixes_are_refused(void **state)
{
    (void)state;
    static const char *const faults[] = {"net.sim_drop", "net.sim_corrupt", "net.sim_delay",
                                         "net.sim_duplicate", "net.sim_reorder"};
    struct err err;
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        struct net_params p = defaults();
        set(&p, faults[i], "0.1");
        assert_int_equal(net_check(&p, &err), -1);
        assert_non_null(strstr(err.text, "net.transport = sim"));
        set(&p, "net.transport", "sim");
        assert_int_equal(net_check(&p, &err), 0);
    }
    struct net_params p = defaults();
    set(&p, "net.pace", "real");
    assert_int_equal(net_check(&p, &err), 0);
    set(&p, "net.port_up_bps", "1e6");
    assert_int_equal(net_check(&p, &err), -1);
    assert_non_null(strstr(err.text, "net.port_up_bps"));
    set(&p, "net.port_up_bps", "0");
    set(&p, "net.transport", "sim");
    assert_int_equal(net_check(&p, &err), -1);
    assert_non_null(strstr(err.text, "net.pace = real"));
    set(&p, "net.transport", "mpi");
    set(&p, "net.pace", "none");
    assert_int_equal(net_check(&p, &err), 0);
    set(&p, "net.transport", "sim");
    assert_int_equal(net_check(&p, &err), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_whole),
        cmocka_unit_test(a_link_that_is_none_is_named),
        cmocka_unit_test(loopback_costs_nothing),
        cmocka_unit_test(fixed_takes_bytes_over_rate_plus_latency),
        cmocka_unit_test(a_busy_link_makes_wait),
        cmocka_unit_test(terabytes_do_not_overflow),
        cmocka_unit_test(a_dead_link_never_delivers),
        cmocka_unit_test(delivery_is_monotone_and_additive),
        cmocka_unit_test(every_row_adds_up),
        cmocka_unit_test(the_papers_links),
        cmocka_unit_test(states_last_and_are_even),
        cmocka_unit_test(mixtures_have_their_shares),
        cmocka_unit_test(jitter_is_the_messages_own),
        cmocka_unit_test(losses_are_as_frequent_and_as_long_as_netem_says),
        cmocka_unit_test(what_is_lost_is_sent_again),
        cmocka_unit_test(a_connection_is_given_up),
        cmocka_unit_test(links_lose_the_same_again),
        cmocka_unit_test(traces_are_dealt_and_go_on),
        cmocka_unit_test(a_port_is_shared_evenly),
        cmocka_unit_test(a_port_conserves_bytes),
        cmocka_unit_test(defaults_stand),
        cmocka_unit_test(senseless_mixes_are_refused),
    };
    return cmocka_run_group_tests_name("link", tests, NULL, NULL);
}
