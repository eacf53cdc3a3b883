#include "base/opt.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char *const colours[] = {"red", "green", "blue", NULL};

// A family, of which each row has its name.
static const struct size_row {
    const char *name;
    int inches;
} size_table[] = {{"small", 10}, {"large", 30}};

static const char *size_name(int32_t i)
{
    return i < (int32_t)ARRAY_LEN(size_table) ? size_table[i].name : NULL;
}

struct thing {
    bool on;
    int32_t count;
    int64_t seed;
    double rate;
    char name[16];
    int32_t colour, size;
};

static const struct opt rows[] = {
    OPT(struct thing, on, "on", "off", 0, 0, "", "a switch"),
    OPT(struct thing, count, "count", "10", 1, 1e6, "", "a count"),
    OPT(struct thing, seed, "seed", "1", -9.3e18, 9.3e18, "", "a wide integer"),
    OPT(struct thing, rate, "rate", "0.5", 0, INFINITY, "bit/s", "a real"),
    OPT_STRING(struct thing, name, "name", "nobody", "text"),
    OPT_ENUM(struct thing, colour, "colour", "green", colours, "a choice"),
    OPT_ROW(struct thing, size, "size", "large", size_name, "a row of a table"),
};
enum { N = ARRAY_LEN(rows) };

static int set(struct thing *t, const char *name, const char *text, struct err *err)
{
    err->text[0] = '\0';
    return opt_set(opt_find(rows, N, name), t, text, err);
}

// What is refused leaves the field alone and says name, value and why.
static void refused(const char *name, const char *text, const char *why)
{
    struct thing t;
    memset(&t, 0, sizeof t); // padding too: the structs are compared whole
    opt_defaults(rows, N, &t);
    struct thing before = t;
    struct err err;
    if (set(&t, name, text, &err) != -1)
        fail_msg("%s took '%s'", name, text);
    if (!strstr(err.text, name) || !strstr(err.text, why))
        fail_msg("%s = '%s' said: %s", name, text, err.text);
    assert_memory_equal(&t, &before, sizeof t);
}

static void defaults_are_parsed(void **state)
{
    (void)state;
    struct thing t;
    memset(&t, 0xff, sizeof t);
    opt_defaults(rows, N, &t);
    assert_false(t.on);
    assert_int_equal(t.count, 10);
    assert_int_equal(t.seed, 1);
    assert_true(t.rate == 0.5);
    assert_string_equal(t.name, "nobody");
    assert_int_equal(t.colour, 1);
    assert_int_equal(t.size, 1);
}

static void types_follow_the_field(void **state)
{
    (void)state;
    static const enum opt_type expected[N] = {OPT_BOOL, OPT_I32,    OPT_I64,   OPT_F64,
                                              OPT_TEXT, OPT_CHOICE, OPT_CHOICE};
    for (int i = 0; i < N; i++)
        assert_int_equal(rows[i].type, expected[i]);
    assert_int_equal(opt_find(rows, N, "name")->size, 16);
}

static void switches(void **state)
{
    (void)state;
    static const char *const yes[] = {"on", "true", "yes", "1"};
    static const char *const no[] = {"off", "false", "no", "0"};
    struct thing t = {0};
    struct err err;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(set(&t, "on", yes[i], &err), 0);
        assert_true(t.on);
        assert_int_equal(set(&t, "on", no[i], &err), 0);
        assert_false(t.on);
    }
    refused("on", "On", "on or off");
    refused("on", "2", "on or off");
    refused("on", "", "default is off");
}

static void integers_are_exact(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int32_t v;
    } good[] = {{"7", 7}, {"+7", 7}, {"1e6", 1000000}, {"1.5e3", 1500}, {"2.0", 2}, {"007", 7}};
    struct thing t = {0};
    struct err err;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(set(&t, "count", good[i].text, &err), 0);
        assert_int_equal(t.count, good[i].v);
    }
    refused("count", "1.5", "has a fraction");
    refused("count", "1e-3", "has a fraction");
    refused("count", "10x", "not a whole number; give a whole number from 1 to 1e6");
    refused("count", "0x10", "not a whole number");
    refused("count", " 5", "not a whole number");
    refused("count", "5 ", "not a whole number");
    refused("count", "five", "not a whole number");
    refused("count", "-", "not a whole number");
    refused("count", "0", "out of range");
    refused("count", "1000001", "out of range");
    refused("count", "-5", "out of range");
    refused("count", "4294967297", "out of range"); // not 1
    refused("count", "99999999999999999999", "too large");
    refused("count", "", "default is 10");
}

static void wide_integers(void **state)
{
    (void)state;
    struct thing t = {0};
    struct err err;
    assert_int_equal(set(&t, "seed", "9223372036854775807", &err), 0);
    assert_true(t.seed == INT64_MAX);
    assert_int_equal(set(&t, "seed", "-9223372036854775808", &err), 0);
    assert_true(t.seed == INT64_MIN);
    refused("seed", "9223372036854775808", "too large");
    refused("seed", "-9223372036854775809", "too large");
    refused("seed", "1e19", "too large");
    refused("seed", "1e99999999999999999999", "too large");
    // Where a double would round.
    static const struct {
        const char *text;
        int64_t v;
    } exact[] = {{"9007199254740993", 9007199254740993},
                 {"9007199254740993.0", 9007199254740993},
                 {"9.007199254740993e15", 9007199254740993},
                 {"-90071992547409930e-1", -9007199254740993},
                 {"1e17", 100000000000000000},
                 {"0e99", 0}};
    for (size_t i = 0; i < ARRAY_LEN(exact); i++) {
        assert_int_equal(set(&t, "seed", exact[i].text, &err), 0);
        assert_true(t.seed == exact[i].v);
    }
    refused("seed", "9007199254740993.5", "has a fraction");
}

static void bounds_are_exact(void **state)
{
    (void)state;
    static const struct opt even = OPT(struct thing, seed, "seed", "1", 0, 0x1p53, "", "h");
    static const struct opt half = OPT(struct thing, seed, "seed", "1", -0.5, 1.5, "", "h");
    struct thing t = {0};
    struct err err = {""};
    assert_int_equal(opt_set(&even, &t, "9007199254740992", &err), 0);
    assert_int_equal(opt_set(&even, &t, "9007199254740993", &err), -1);
    assert_non_null(strstr(err.text, "out of range"));
    assert_int_equal(opt_set(&half, &t, "0", &err), 0);
    assert_int_equal(opt_set(&half, &t, "-1", &err), -1);
    assert_int_equal(opt_set(&half, &t, "2", &err), -1);
}

static void reals(void **state)
{
    (void)state;
    struct thing t = {0};
    struct err err;
    assert_int_equal(set(&t, "rate", "20e6", &err), 0);
    assert_true(t.rate == 20e6);
    assert_int_equal(set(&t, "rate", ".25", &err), 0);
    assert_true(t.rate == 0.25);
    assert_int_equal(set(&t, "rate", "inf", &err), 0);
    assert_true(isinf(t.rate));
    refused("rate", "nan", "not a number");
    refused("rate", "infinity", "not a number");
    refused("rate", "0x1p3", "not a number");
    refused("rate", "1e999", "not a number");
    refused("rate", "1.2.3", "not a number");
    refused("rate", "5Mbit", "not a number; give a number from 0 to inf bit/s");
    refused("rate", "-1", "out of range");
    refused("rate", "-inf", "out of range");
}

static void text_fits_or_is_refused(void **state)
{
    (void)state;
    struct thing t = {0};
    struct err err;
    assert_int_equal(set(&t, "name", "fifteen letters", &err), 0);
    assert_string_equal(t.name, "fifteen letters");
    assert_int_equal(set(&t, "name", "", &err), 0);
    assert_string_equal(t.name, "");
    for (size_t i = 0; i < sizeof t.name; i++)
        assert_int_equal(t.name[i], 0); // nothing is left of the longer value
    refused("name", "sixteen letters!", "at most 15");
    refused("name", "two\nlines", "control character");
}

static void choices(void **state)
{
    (void)state;
    struct thing t = {0};
    struct err err;
    assert_int_equal(set(&t, "colour", "blue", &err), 0);
    assert_int_equal(t.colour, 2);
    refused("colour", "gren", "did you mean green?");
    refused("colour", "gren", "red, green, blue");
    refused("colour", "purple stripes", "the choices are red, green, blue");
    assert_int_equal(set(&t, "size", "small", &err), 0);
    assert_int_equal(t.size, 0);
    refused("size", "smal", "did you mean small?");
    refused("size", "gigantic", "the choices are small, large");
}

static void lists(void **state)
{
    (void)state;
    struct thing t;
    struct err err = {""};
    opt_defaults(rows, N, &t);
    assert_int_equal(opt_set_list(rows, N, &t, "count=3,colour=red,name=a=b", &err), 0);
    assert_int_equal(t.count, 3);
    assert_int_equal(t.colour, 0);
    assert_string_equal(t.name, "a=b");
    assert_int_equal(opt_set_list(rows, N, &t, "", &err), 0);
    assert_int_equal(opt_set_list(rows, N, &t, NULL, &err), 0);

    static const struct {
        const char *text, *why;
    } bad[] = {
        {"cuont=3", "did you mean count?"},
        {"quantity=3", "there are on, count"},
        {"count", "not key=value"},
        {"=3", "not key=value"},
        {"count=3,", "ends in a comma"},
        {"count=3,,on=1", "not key=value"},
        {"count=3,count=4", "given twice"},
        {"count=3,rate=x", "rate = x"},
        {"count=", "no value"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(opt_set_list(rows, N, &t, bad[i].text, &err), -1);
        if (!strstr(err.text, bad[i].why))
            fail_msg("'%s' said: %s", bad[i].text, err.text);
    }
    assert_int_equal(opt_set_list(rows, 0, &t, "bits=4", &err), -1);
    assert_non_null(strstr(err.text, "no options here"));
}

static void format_reads_back(void **state)
{
    (void)state;
    static const struct {
        const char *name, *in, *out;
    } cases[] = {
        {"on", "yes", "on"},          {"count", "1e3", "1000"},
        {"seed", "-5", "-5"},         {"rate", "0.1", "0.1"},
        {"rate", "1e6", "1e6"},       {"rate", "0.00001", "1e-5"},
        {"rate", "1e300", "1e300"},   {"rate", "25", "25"},
        {"rate", "inf", "inf"},       {"rate", "0.30000000000000004", "0.30000000000000004"},
        {"rate", "100000", "100000"}, {"name", "x y", "x y"},
        {"colour", "blue", "blue"},   {"size", "small", "small"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct thing t = {0};
        struct err err;
        char out[64];
        const struct opt *row = opt_find(rows, N, cases[i].name);
        assert_int_equal(opt_set(row, &t, cases[i].in, &err), 0);
        opt_format(row, &t, out, sizeof out);
        assert_string_equal(out, cases[i].out);
        struct thing again = {0};
        assert_int_equal(opt_set(row, &again, out, &err), 0);
        assert_true(again.rate == t.rate && again.count == t.count && again.seed == t.seed);
    }
}

static void defaults_are_recognised(void **state)
{
    (void)state;
    static const struct opt rate = OPT(struct thing, rate, "rate", "20e6", 0, 1e9, "bit/s", "h");
    assert_true(opt_is_default(&rate, "2e7"));
    assert_false(opt_is_default(&rate, "2.1e7"));
    assert_true(opt_is_default(opt_find(rows, N, "colour"), "green"));
    assert_false(opt_is_default(opt_find(rows, N, "colour"), "red"));
}

static void ranges(void **state)
{
    (void)state;
    static const struct {
        const char *name, *range;
    } cases[] = {{"on", "on, off"},
                 {"count", "1 to 1e6"},
                 {"rate", "0 to inf bit/s"},
                 {"name", "text of at most 15 bytes"},
                 {"colour", "red, green, blue"},
                 {"size", "small, large"}};
    char out[64];
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        opt_range(opt_find(rows, N, cases[i].name), out, sizeof out);
        assert_string_equal(out, cases[i].range);
    }
}

static void distances(void **state)
{
    (void)state;
    assert_int_equal(opt_distance("", ""), 0);
    assert_int_equal(opt_distance("abc", ""), 3);
    assert_int_equal(opt_distance("kitten", "sitting"), 3);
    assert_int_equal(opt_distance("rounds", "round"), 1);
    assert_int_equal(opt_distance("ab", "ba"), 1); // neighbours that changed places
    assert_int_equal(opt_distance("cdua", "cuda"), 1);
    assert_int_equal(opt_distance("cdua", "cpu"), 2);
    assert_int_equal(opt_distance("a cat", "an act"), 2);
    char text[80];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_int_equal(opt_distance(text, "x"), 99);
}

static void nearest_names(void **state)
{
    (void)state;
    assert_string_equal(opt_nearest(rows, N, "color"), "colour");
    assert_string_equal(opt_nearest(rows, N, "coumt"), "count");
    assert_null(opt_nearest(rows, N, "zzzzzz"));
    assert_string_equal(opt_nearest(rows, N, "col"), "colour"); // it begins so
    assert_null(opt_nearest(rows, N, "xy")); // two letters from "on", and none in common
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_parsed),
        cmocka_unit_test(types_follow_the_field),
        cmocka_unit_test(switches),
        cmocka_unit_test(integers_are_exact),
        cmocka_unit_test(wide_integers),
        cmocka_unit_test(bounds_are_exact),
        cmocka_unit_test(reals),
        cmocka_unit_test(text_fits_or_is_refused),
        cmocka_unit_test(choices),
        cmocka_unit_test(lists),
        cmocka_unit_test(format_reads_back),
        cmocka_unit_test(defaults_are_recognised),
        cmocka_unit_test(ranges),
        cmocka_unit_test(distances),
        cmocka_unit_test(nearest_names),
    };
    return cmocka_run_group_tests_name("opt", tests, NULL, NULL);
}
