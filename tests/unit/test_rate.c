// Traces of rates: sums and searches by hand, and the formats they are read from.
#include "net/rate.h"

#include "base/fsio.h"
#include "base/rng.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define S INT64_C(1000000000)

static struct rate_trace built(const double *seconds, const double *bps, size_t n)
{
    struct rate_trace t;
    struct err err = {""};
    if (rate_trace_build(&t, seconds, bps, n, "test", &err))
        fail_msg("%s", err.text);
    return t;
}

static void a_transfer_ends_where_its_bits_do(void **state)
{
    (void)state;
    static const double s[] = {2, 3, 0, 5}, bps[] = {1e6, 0, 7e6, 2e6}; // 12 Mbit in 10 s
    struct rate_trace t = built(s, bps, 4);
    int64_t until;
    assert_int_equal(t.n, 3); // what lasts no time is no piece
    assert_int_equal(rate_trace_period_ns(&t), 10 * S);
    assert_true(rate_trace_bps(&t, 0, &until) == 1e6 && until == 2 * S);
    assert_true(rate_trace_bps(&t, 2 * S, &until) == 0 && until == 5 * S);
    assert_true(rate_trace_bps(&t, 19 * S, &until) == 2e6 && until == 20 * S);
    assert_int_equal(rate_trace_leave(&t, 0, 1e6), 1 * S);
    assert_int_equal(rate_trace_leave(&t, 0, 2e6), 2 * S);             // before the gap
    assert_int_equal(rate_trace_leave(&t, 0, 3e6), 5 * S + S / 2);     // over it
    assert_int_equal(rate_trace_leave(&t, 3 * S, 1e6), 5 * S + S / 2); // from within it
    assert_int_equal(rate_trace_leave(&t, 0, 12e6), 10 * S);           // a whole turn
    assert_int_equal(rate_trace_leave(&t, 0, 13e6), 11 * S);           // and on into the next
    assert_int_equal(rate_trace_leave(&t, 7 * S, 120e6), 107 * S);     // ten turns from anywhere
    assert_int_equal(rate_trace_leave(&t, 4 * S, 0), 4 * S);           // nothing takes no time
    assert_true(rate_trace_leave(&t, 0, 1e300) == INT64_MAX);
    assert_true(rate_trace_bits(&t, 25 * S) == 26e6);
    rate_trace_free(&t);
}

// What left between two times is what the rates moved between them, for any start and size.
static void bits_are_conserved(void **state)
{
    (void)state;
    enum { N = 500 };
    double s[N], bps[N];
    struct rng r = rng_stream(7, RNG_TEST, 1, 0, 0);
    for (int i = 0; i < N; i++) {
        s[i] = rng_unit(&r) * 3;
        bps[i] = rng_below(&r, 4) == 0 ? 0 : rng_unit(&r) * 50e6;
    }
    struct rate_trace t = built(s, bps, N);
    for (int k = 0; k < 2000; k++) {
        int64_t from = (int64_t)(rng_unit(&r) * 3000e9);
        double bits = fabs(rng_normal(&r)) * (k % 2 ? 1e5 : 1e11) + 1;
        int64_t to = rate_trace_leave(&t, from, bits);
        double moved = rate_trace_bits(&t, to) - rate_trace_bits(&t, from);
        if (fabs(moved - bits) > 0.2) // a nanosecond at 50 Mbit/s is 0.05 bit
            fail_msg("from %lld: %.2f bits moved, not %.2f", (long long)from, moved, bits);
        double halves = floor(bits / 2);
        int64_t half = rate_trace_leave(&t, rate_trace_leave(&t, from, halves), bits - halves);
        if (llabs(half - to) > 100000) // a tenth of a bit where the rate is low
            fail_msg("two halves end at %lld, the whole at %lld", (long long)half, (long long)to);
    }
    rate_trace_free(&t);
}

static struct rate_set read_text(const char *text, const char *format)
{
    struct rate_set set = {0};
    struct rate_how how = {.format = -1, .step_s = 1};
    struct err err = {""};
    for (int i = 0; format && rate_reader_table[i]; i++)
        if (strcmp(rate_reader_table[i]->name, format) == 0)
            how.format = i;
    if (rate_read(&set, "dir/test", text, strlen(text), &how, &err))
        fail_msg("%s", err.text);
    return set;
}

static double rate_at(const struct rate_trace *t, double seconds)
{
    int64_t until;
    return rate_trace_bps(t, (int64_t)(seconds * 1e9), &until);
}

static void mahimahi_counts_packets_per_millisecond(void **state)
{
    (void)state;
    struct rate_set set = read_text("1\n", NULL); // as its README has it
    assert_true(set.n == 1 && set.source[0].up.n == 1 && set.source[0].down.n == 0);
    assert_string_equal(set.source[0].name, "test");
    assert_true(rate_trace_period_ns(&set.source[0].up) == 1000000);
    assert_true(fabs(rate_at(&set.source[0].up, 123.4567) - 12e6) < 1);
    rate_close(&set);
    // Millisecond 0 counts to the first one; then two in 3, one in 7.
    set = read_text("0\n1\n3\n3\n7", "mahimahi");
    const struct rate_trace *t = &set.source[0].up;
    assert_true(rate_trace_period_ns(t) == 7000000);
    static const double mbps[] = {24, 0, 24, 0, 0, 0, 12};
    for (int ms = 0; ms < 7; ms++)
        assert_true(fabs(rate_at(t, ms * 1e-3 + 0.0005) - mbps[ms] * 1e6) < 1);
    assert_int_equal(rate_trace_leave(t, 0, 5 * 12000), 7000000);
    rate_close(&set);
}

static void other_formats_say_the_same(void **state)
{
    (void)state;
    // 4 Mbit/s for 2 s, nothing for 1 s, 1.5 Mbit/s for 3 s.
    static const char *const texts[] = {
        "# a comment\n2 4\n3\t0\r\n\n6, 1.5\n",
        "4.0\n4\n0\n1.5\n1.5\n1.5\n",
        "[{\"duration_ms\": 2000, \"bandwidth_kbps\": 4000, \"latency_ms\": 90},"
        "{\"duration_ms\": 1000, \"bandwidth_kbps\": 0, \"latency_ms\": 90},"
        "{\"bandwidth_kbps\": 1500, \"duration_ms\": 3000, \"latency_ms\": 60}]",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct rate_set set = read_text(texts[i], NULL);
        const struct rate_trace *t = &set.source[0].up;
        assert_true(rate_trace_period_ns(t) == 6 * S);
        assert_true(rate_trace_leave(t, 0, 8e6) == 2 * S);
        assert_true(rate_trace_leave(t, 0, 9.5e6) == 4 * S);
        assert_true(set.source[0].rtt_ms == (i == 2 ? 80 : -1));
        rate_close(&set);
    }
}

static void tables_of_devices(void **state)
{
    (void)state;
    struct rate_set set = read_text("{\"a\": {\"up_u\": 100, \"down_u\": 200.5, \"up_sigma\": 7},"
                                    "\"b\": {\"up_u\": 1, \"down_u\": 2, \"down_sigma\": 3}}",
                                    NULL);
    assert_int_equal(set.n, 2);
    assert_true(set.source[0].up.n == 0 && set.source[0].up_bps == 100 * 8192);
    assert_true(set.source[0].down_bps == 200.5 * 8192 && set.source[0].up_sigma_bps == 7 * 8192);
    assert_true(set.source[1].down_sigma_bps == 3 * 8192 && set.source[1].up_sigma_bps == 0);
    rate_close(&set);
    set = read_text("name,up_mbps,up_sigma_mbps,down_mbps,down_sigma_mbps,rtt_ms\n"
                    "phone,5,1,20,4,60\nboard, 2.5, 0, 2.5, 0, 0\n",
                    NULL);
    assert_int_equal(set.n, 2);
    assert_string_equal(set.source[0].name, "phone");
    assert_true(set.source[0].up_bps == 5e6 && set.source[0].down_sigma_bps == 4e6);
    assert_true(set.source[0].rtt_ms == 60 && set.source[1].up_bps == 2.5e6);
    rate_close(&set);
}

static void what_does_not_fit_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *format, *text, *word;
    } bad[] = {
        {"mahimahi", "1\n2.5\n", "test:2:"},
        {"mahimahi", "5\n4\n", "go back"},
        {"mahimahi", "", "moves nothing"},
        {"mahimahi", "99999999999999\n", "test:1:"},
        {"seconds", "1 2\n0.5 3\n", "test:2: 0.5 s after 1"},
        {"seconds", "1 2 3\n", "test:1:"},
        {"seconds", "1 -2\n", "test:1:"},
        {"seconds", "1 nan\n", "test:1:"},
        {"seconds", "0x10 2\n", "test:1:"},
        {"seconds", "1 0\n", "moves nothing"},
        {"seconds", "0 5\n", "moves nothing"},
        {"seconds", "1 1e99\n", "test:1:"},
        {"mbps", "1\ntwo\n", "test:2: 'two'"},
        {"sabre", "{}", "not a list"},
        {"sabre", "[1]", "step 1"},
        {"sabre", "[{\"duration_ms\": -1, \"bandwidth_kbps\": 1}]", "step 1"},
        {"sabre", "[{\"duration_ms\": 1}]", "bandwidth_kbps"},
        {"sabre", "[", "test:1:"},
        {"flash", "[]", "not an object"},
        {"flash", "{\"x\": {\"up_u\": 0, \"down_u\": 1}}", "device x"},
        {"csv", "name,up\n", "the first line"},
        {"csv", "name,up_mbps,up_sigma_mbps,down_mbps,down_sigma_mbps\n", "no device"},
        {"csv", "name,up_mbps,up_sigma_mbps,down_mbps,down_sigma_mbps\nx,1,2,3\n", "test:2:"},
        {"csv", "name,up_mbps,up_sigma_mbps,down_mbps,down_sigma_mbps\nx,0,2,3,4\n", "test:2: 0:"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct rate_set set = {0};
        struct rate_how how = {.step_s = 1};
        struct err err = {""};
        while (strcmp(rate_reader_table[how.format]->name, bad[i].format) != 0)
            how.format++;
        int rc = rate_read(&set, "test", bad[i].text, strlen(bad[i].text), &how, &err);
        if (rc == 0 || !strstr(err.text, bad[i].word))
            fail_msg("%s '%s': %d '%s'", bad[i].format, bad[i].text, rc, err.text);
        rate_close(&set);
    }
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void a_folder_is_a_link_per_file_or_pair(void **state)
{
    (void)state;
    char dir[] = "/tmp/fstq-rate.XXXXXX", path[512];
    static const char *const names[] = {"README", ".hidden", "b.down", "b.up", "a", "c.up"};
    struct rate_set set;
    struct rate_how how = {.format = -1, .step_s = 1};
    struct err err = {""};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(rate_load(&set, dir, &how, &err), -1);
    assert_non_null(strstr(err.text, "no traces"));
    put(dir, "README", "words\n");
    put(dir, ".hidden", "words\n");
    put(dir, "b.down", "1 8\n");
    put(dir, "b.up", "1 2\n");
    put(dir, "a", "1 5\n");
    put(dir, "c.up", "1 3\n"); // a pair of one
    if (rate_load(&set, dir, &how, &err))
        fail_msg("%s", err.text);
    assert_int_equal(set.n, 3);
    assert_string_equal(set.source[0].name, "a");
    assert_string_equal(set.source[1].name, "b");
    assert_true(rate_at(&set.source[1].up, 0) == 2e6 && rate_at(&set.source[1].down, 0) == 8e6);
    assert_true(rate_at(&set.source[2].up, 0) == 3e6 && set.source[2].down.n == 0);
    rate_close(&set);
    put(dir, "d", "1 2\n1 x\n");
    assert_int_equal(rate_load(&set, dir, &how, &err), -1);
    assert_non_null(strstr(err.text, "/d:2:"));
    snprintf(path, sizeof path, "%s/d", dir);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(rate_load(&set, dir, &how, &err), -1);
    assert_non_null(strstr(err.text, "regular file"));
    unlink(path);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

// The real files, where they are.
static void real_traces_read(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        size_t least;
    } real[] = {{"../shared/data/links/mahimahi", 5},
                {"../shared/data/links/sabre-3g", 12},
                {"../shared/data/links/sabre-4g", 40},
                {"../shared/data/links/seconds-mbps", 50},
                {"../shared/data/devices/speed_distri.json", 10}};
    if (access(real[0].path, R_OK)) {
        print_message("there is no ../shared/data/links here\n");
        skip();
    }
    for (size_t i = 0; i < ARRAY_LEN(real); i++) {
        struct rate_set set;
        struct rate_how how = {.format = -1, .step_s = 1};
        struct err err = {""};
        if (rate_load(&set, real[i].path, &how, &err))
            fail_msg("%s", err.text);
        assert_true(set.n >= real[i].least);
        for (size_t k = 0; k < set.n; k++) {
            const struct rate_trace *t = &set.source[k].up;
            double bps = t->n ? t->bits[t->n] / ((double)rate_trace_period_ns(t) * 1e-9)
                              : set.source[k].up_bps;
            if (!(bps > 50e3 && bps < 200e6))
                fail_msg("%s: %s: %g bit/s", real[i].path, set.source[k].name, bps);
        }
        rate_close(&set);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_transfer_ends_where_its_bits_do),
        cmocka_unit_test(bits_are_conserved),
        cmocka_unit_test(mahimahi_counts_packets_per_millisecond),
        cmocka_unit_test(other_formats_say_the_same),
        cmocka_unit_test(tables_of_devices),
        cmocka_unit_test(what_does_not_fit_is_named),
        cmocka_unit_test(a_folder_is_a_link_per_file_or_pair),
        cmocka_unit_test(real_traces_read),
    };
    return cmocka_run_group_tests_name("rate", tests, NULL, NULL);
}
