// What clients are: devices, tables of them, presence.
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

static void clients_come_and_go(void **state)
{
    (void)state;
    struct presence p;
    struct err err = {""};
    assert_int_equal(presence_parse(&p, "always", &err), 0);
    assert_true(presence_at(&p, 1, 0, 0));
    assert_int_equal(presence_parse(&p, "day:on=0.25,period=1000", &err), 0);
    int there = 0, edges = 0;
    for (int64_t t = 0; t < 4000; t++) {
        bool now = presence_at(&p, 1, 9, t * 1000000000);
        there += now;
        edges += now != presence_at(&p, 1, 9, (t + 1) * 1000000000);
        assert_true(now == presence_at(&p, 1, 9, (t + 1000) * 1000000000));
    }
    assert_in_range(there, 999, 1001);
    assert_int_equal(edges, 8); // twice a day
    assert_int_equal(presence_parse(&p, "onoff:share=0.7,stay=10", &err), 0);
    there = edges = 0;
    for (uint32_t c = 0; c < 50; c++)
        for (int64_t t = 0; t < 2000; t++) {
            bool now = presence_at(&p, 1, c, t * 1000000000);
            there += now;
            edges += now != presence_at(&p, 1, c, (t + 1) * 1000000000);
        }
    assert_in_range(there, 67000, 73000);
    // Drawn anew every 10 s, and another one then in 2 x .7 x .3 of all cases.
    assert_in_range(edges, 3700, 4600);
    assert_int_equal(presence_parse(&p, "night", &err), -1);
    assert_non_null(strstr(err.text, "client.availability = night"));
    assert_int_equal(presence_parse(&p, "day:on=2", &err), -1);
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
        cmocka_unit_test(clients_come_and_go), cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(real_devices_read),
    };
    return cmocka_run_group_tests_name("profile", tests, NULL, NULL);
}
