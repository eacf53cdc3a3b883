// What clients are: devices, tables of them, presence.
#include "fed/presence.h"
#include "fed/profile.h"

#include "base/fsio.h"
#include "base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct client_params defaults(void)
{
    struct client_params p;
    opt_defaults(client_options, client_option_count, &p);
    return p;
}

static struct profile_model opened(struct client_params *p, const char *profile)
{
    struct profile_model m;
    struct err err = {""};
    snprintf(p->profile, sizeof p->profile, "%s", profile);
    if (profile_open(&m, p, 5, &err))
        fail_msg("%s: %s", profile, err.text);
    return m;
}

static void rows_hold_together(void **state)
{
    (void)state;
    struct client_params p = defaults();
    for (int i = 0; profile_table[i]; i++) {
        const struct profile_row *r = profile_table[i];
        assert_true(strlen(r->help) > 10 && (r->always != NULL) != (r->device != NULL));
        if (strcmp(r->name, "table") == 0)
            continue;
        struct profile_model m = opened(&p, r->name);
        struct device d = profile_device(&m, 3);
        assert_true(d.slow > 0 && d.name && (d.compute_w == -1 || d.compute_w > 0));
        assert_true(!r->always || strlen(r->always->source) > 8);
        if (r->always)
            assert_true(strcmp(r->name, "same") == 0 || strcmp(d.name, r->name) == 0);
        profile_close(&m);
    }
}

static void a_share_is_slow(void **state)
{
    (void)state;
    struct client_params p = defaults();
    struct profile_model m = opened(&p, "slow:share=0.3,min=2,max=4");
    int slow = 0;
    double sum = 0;
    for (uint32_t c = 0; c < 10000; c++) {
        double s = profile_device(&m, c).slow;
        assert_true(s == profile_device(&m, c).slow); // a client stays what it is
        assert_true(s == 1 || (s >= 2 && s <= 4));
        slow += s > 1;
        sum += s > 1 ? s : 0;
    }
    assert_in_range(slow, 2850, 3150);
    assert_in_range(sum / slow * 100, 295, 305);
    profile_close(&m);
    m = opened(&p, "mix:orin-nano=0.25,xavier-nx=0,pi5=0.75,phone=0");
    int pies = 0;
    for (uint32_t c = 0; c < 4000; c++)
        pies += strcmp(profile_device(&m, c).name, "pi5") == 0;
    assert_in_range(pies, 2880, 3120);
    profile_close(&m);
}

static void energy_by_hand(void **state)
{
    (void)state;
    struct client_params p = defaults();
    struct profile_model m = opened(&p, "same");
    struct device d = profile_device(&m, 0);
    assert_true(isnan(device_energy_j(d.compute_w, 1))); // nobody said what it draws
    profile_close(&m);
    p.compute_w = 4;
    p.send_w = 2;
    m = opened(&p, "orin-nano");
    d = profile_device(&m, 0);
    // The paper's v3: 2 W for 61.44 s and 4 W for 5.85 s.
    double j = device_energy_j(d.compute_w, 5850000000) + device_energy_j(d.send_w, 61440000000);
    assert_true(fabs(j - 146.28) < 1e-9);
    profile_close(&m);
}

static const char csv[] = "name,share,slow,compute_w,send_w\n# one of ours\nboard, 3, 1, 10, 2\n"
                          "old board,1,2.5,7.5,1\n\n";

static void tables_are_read(void **state)
{
    (void)state;
    struct device *d;
    size_t n;
    struct err err = {""};
    assert_int_equal(profile_read("t", csv, strlen(csv), &d, &n, &err), 0);
    assert_int_equal(n, 2);
    assert_string_equal(d[1].name, "old board");
    assert_true(d[1].slow == 2.5 && d[1].compute_w == 7.5 && d[0].share == 3 && d[0].send_w == 2);
    mem_free(d);
    const char *json = "{\"a\": 100, \"b\": 50, \"c\": 400}"; // the median is as fast as step_ns
    assert_int_equal(profile_read("t", json, strlen(json), &d, &n, &err), 0);
    assert_true(n == 3 && d[0].slow == 1 && d[1].slow == 2 && d[2].slow == 0.25);
    assert_string_equal(d[2].name, "c");
    mem_free(d);
    static const struct {
        const char *text, *word;
    } bad[] = {{"", "no device"},
               {"board,1,1,1,1\n", "t:1: the first line"},
               {"name,share,slow,compute_w,send_w\n", "no device"},
               {"name,share,slow,compute_w,send_w\nx,1,0,1,1\n", "t:2:"},
               {"name,share,slow,compute_w,send_w\nx,1,1,1\n", "t:2:"},
               {"name,share,slow,compute_w,send_w\nx,1,1,1,1,1\n", "t:2:"},
               {"name,share,slow,compute_w,send_w\nx,1,nan,1,1\n", "t:2:"},
               {"name,share,slow,compute_w,send_w\nx,0,1,1,1\n", "no device with a share"},
               {"{\"a\": 0}", "t: a:"},
               {"{\"a\": \"b\"}", "t: a:"},
               {"{", "t:1:"},
               {"{}", "not an object of 1"}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int rc = profile_read("t", bad[i].text, strlen(bad[i].text), &d, &n, &err);
        if (rc == 0 || !strstr(err.text, bad[i].word))
            fail_msg("'%s': %d '%s'", bad[i].text, rc, err.text);
    }
}

static struct presence there_as(struct client_params *c, const char *availability)
{
    struct presence p;
    struct err err = {""};
    snprintf(c->availability, sizeof c->availability, "%s", availability);
    if (presence_open(&p, c, 1, &err))
        fail_msg("%s: %s", availability, err.text);
    return p;
}

static void clients_come_and_go(void **state)
{
    (void)state;
    struct client_params c = defaults();
    struct presence p = there_as(&c, "always");
    assert_true(presence_at(&p, 0, 0));
    presence_close(&p);
    p = there_as(&c, "day:on=0.25,period=1000");
    int there = 0, edges = 0;
    for (int64_t t = 0; t < 4000; t++) {
        bool now = presence_at(&p, 9, t * 1000000000);
        there += now;
        edges += now != presence_at(&p, 9, (t + 1) * 1000000000);
        assert_true(now == presence_at(&p, 9, (t + 1000) * 1000000000));
    }
    presence_close(&p);
    assert_in_range(there, 999, 1001);
    assert_int_equal(edges, 8); // twice a day
    p = there_as(&c, "onoff:share=0.7,stay=10");
    there = edges = 0;
    for (uint32_t k = 0; k < 50; k++)
        for (int64_t t = 0; t < 2000; t++) {
            bool now = presence_at(&p, k, t * 1000000000);
            there += now;
            edges += now != presence_at(&p, k, (t + 1) * 1000000000);
        }
    presence_close(&p);
    assert_in_range(there, 67000, 73000);
    // Drawn anew every 10 s, and another one then in 2 x .7 x .3 of all cases.
    assert_in_range(edges, 3700, 4600);
    struct err err = {""};
    snprintf(c.availability, sizeof c.availability, "night");
    assert_int_equal(presence_open(&p, &c, 1, &err), -1);
    assert_non_null(
        strstr(err.text, "client.availability = night: unknown; there are always, day"));
    snprintf(c.availability, sizeof c.availability, "day:on=2");
    assert_int_equal(presence_open(&p, &c, 1, &err), -1);
    snprintf(c.availability, sizeof c.availability, "trace");
    assert_int_equal(presence_open(&p, &c, 1, &err), -1);
    assert_non_null(strstr(err.text, "client.presence names no file"));
}

static void times_of_a_file(void **state)
{
    (void)state;
    static const char text[] =
        "# two phones and one that is off\nperiod 100\n0-10 50-60.5 # night\n"
        "  20-100\r\n-\n";
    struct presence_trace t;
    struct err err = {""};
    assert_int_equal(presence_read("t", text, strlen(text), &t, &err), 0);
    assert_true(t.n == 3 && t.period_s == 100);
    assert_true(t.first[1] == 4 && t.first[2] == 6 && t.first[3] == 6 && t.edge[3] == 60.5);
    presence_trace_free(&t);
    char path[] = "/tmp/fstq-presence.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    struct client_params c = defaults();
    snprintf(c.presence, sizeof c.presence, "%s", path);
    struct presence p = there_as(&c, "trace");
    int kinds[3] = {0};
    for (uint32_t k = 0; k < 3000; k++) { // who is there at 5, 30 and 200.5 s, and when not
        const bool at[] = {presence_at(&p, k, 5000000000), presence_at(&p, k, 30000000000),
                           presence_at(&p, k, 200500000000), presence_at(&p, k, 61000000000),
                           presence_at(&p, k, 10000000000)};
        int kind = at[0] ? 0 : at[1] ? 1 : 2;
        kinds[kind]++;
        assert_true(at[2] == (kind == 0) && at[3] == (kind == 1) && !at[4]);
    }
    for (int k = 0; k < 3; k++)
        assert_in_range(kinds[k], 900, 1100);
    presence_close(&p);
    remove(path);
    static const struct {
        const char *text, *word;
    } bad[] = {{"", "no device"},
               {"period 100\n", "no device"},
               {"0-1\n", "t:1: the first line"},
               {"period 0\n0-1\n", "t:1:"},
               {"period 10 20\n0-1\n", "t:1:"},
               {"period 10\n\n0-11\n", "t:3:"},
               {"period 10\n5-4\n", "t:2:"},
               {"period 10\n0-5 4-6\n", "t:2:"},
               {"period 10\n0-5,6-7\n", "t:2:"},
               {"period 10\n0-5 6\n", "t:2:"},
               {"period 10\n- 1-2\n", "t:2:"},
               {"period 10\n0-nan\n", "t:2:"}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int rc = presence_read("t", bad[i].text, strlen(bad[i].text), &t, &err);
        if (rc == 0 || !strstr(err.text, bad[i].word))
            fail_msg("'%s': %d '%s'", bad[i].text, rc, err.text);
    }
}

static void batteries_by_hand(void **state)
{
    (void)state;
    struct client_params c = defaults();
    c.battery_j = 100;
    double kept = battery_full(&c);
    kept = battery_draw(&c, kept, 30, 0);
    assert_true(battery_j(&c, kept, 5000000000) == 70);
    kept = battery_draw(&c, kept, 80, 9000000000); // more than there was
    assert_true(battery_j(&c, kept, 1000000000000) == 0);
    c.charge_w = 2;
    kept = battery_draw(&c, battery_full(&c), 50, 10000000000);
    assert_true(battery_j(&c, kept, 10000000000) == 50 && battery_j(&c, kept, 20000000000) == 70);
    assert_true(battery_j(&c, kept, 1000000000000) == 100);
}

static void mistakes_are_named(void **state)
{
    (void)state;
    struct client_params p = defaults();
    struct err err = {""};
    snprintf(p.profile, sizeof p.profile, "orin");
    assert_int_equal(client_check(&p, &err), -1);
    assert_non_null(strstr(err.text, "client.profile = orin"));
    snprintf(p.profile, sizeof p.profile, "mix:pi5=0.9");
    assert_int_equal(client_check(&p, &err), -1);
    assert_non_null(strstr(err.text, "add up to 1.8"));
    snprintf(p.profile, sizeof p.profile, "table");
    assert_int_equal(client_check(&p, &err), -1);
    assert_non_null(strstr(err.text, "client.table names no file"));
    p = defaults();
    snprintf(p.table, sizeof p.table, "x.csv");
    assert_int_equal(client_check(&p, &err), -1);
    assert_non_null(strstr(err.text, "reads no table"));
}

static void real_devices_read(void **state)
{
    (void)state;
    static const char path[] = "../shared/data/devices/benchmark2score.json";
    struct client_params p = defaults();
    if (access(path, R_OK)) {
        print_message("there is no ../shared/data/devices here\n");
        skip();
    }
    snprintf(p.table, sizeof p.table, "%s", path);
    struct profile_model m = opened(&p, "table");
    int slow = 0;
    for (uint32_t c = 0; c < 1000; c++)
        slow += profile_device(&m, c).slow > 1;
    assert_in_range(slow, 440, 560); // half are slower than the median
    profile_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_hold_together),  cmocka_unit_test(a_share_is_slow),
        cmocka_unit_test(energy_by_hand),      cmocka_unit_test(tables_are_read),
        cmocka_unit_test(clients_come_and_go), cmocka_unit_test(times_of_a_file),
        cmocka_unit_test(batteries_by_hand),   cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(real_devices_read),
    };
    return cmocka_run_group_tests_name("profile", tests, NULL, NULL);
}
