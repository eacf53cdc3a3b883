// Link models in closed form, and the parameters of [net].
#include "net/link.h"
#include "net/transport.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

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
        assert_non_null(link_table[n]->leave);
        assert_non_null(link_table[n]->latency_ns);
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
    assert_int_equal(net_check(&p, &err), -1);
    assert_non_null(strstr(err.text, "net.pace"));
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
        cmocka_unit_test(defaults_stand),
        cmocka_unit_test(senseless_mixes_are_refused),
    };
    return cmocka_run_group_tests_name("link", tests, NULL, NULL);
}
