// Tables, numbers for the eye, and JSON.
#include "base/check.h"
#include "base/jsonw.h"
#include "base/table.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct table codecs = {
    .n_cols = 4,
    .col = {{"codec", "", 10, TABLE_LEFT},
            {"time", "us", 8, TABLE_RIGHT},
            {"size", "B", 6, TABLE_RIGHT},
            {"what", NULL, 6, TABLE_LEFT}},
};

static void table_lines_up(void **state)
{
    (void)state;
    char *text;
    size_t size;
    struct table t = codecs;
    t.out = open_memstream(&text, &size);
    table_head(&t);
    table_row(&t, (const char *const[]){"raw", "1.25", "4096", "floor"});
    table_row(&t, (const char *const[]){"qsgd", NULL, "", NULL});
    table_row(&t, (const char *const[]){"\xc3\xa4\xc3\xb6", "12345678", "1", "two words"});
    table_row(&t, (const char *const[]){"a name too long", "1", "2", "x"});
    fclose(t.out);
    // Data begins in column 0 where its column is left-aligned.
    assert_string_equal(text, "# codec           time    size  what\n"
                              "#                 (us)     (B)\n"
                              "raw               1.25    4096  floor\n"
                              "qsgd                 -       -  -\n"
                              "\xc3\xa4\xc3\xb6            12345678       1  two words\n"
                              "a name too long           1       2  x\n");
    free(text);
}

static void table_of_numbers(void **state)
{
    (void)state;
    char *text;
    size_t size;
    struct table t = {.out = open_memstream(&text, &size),
                      .n_cols = 2,
                      .col = {{"size", "B", 8, TABLE_RIGHT}, {"rate", "MB/s", 6, TABLE_RIGHT}}};
    table_head(&t);
    table_row(&t, (const char *const[]){"64", "1.5"});
    fclose(t.out);
    assert_string_equal(text, "#     size    rate\n"
                              "#      (B)  (MB/s)\n"
                              "        64     1.5\n");
    free(text);
}

// The same table and notes in each form; text last, for the tests that follow.
static void forms(void **state)
{
    (void)state;
    static const struct {
        const char *form, *want;
    } cases[] = {
        {"md", "a \\*note\\*  \n"
               "\n"
               "| size (B) | rate (MB/s) | rate (MB/s) 2 | what |\n"
               "|--:|--:|--:|:--|\n"
               "| 1,234,567 | 1.5 | - | a\\|b |\n"
               "\n"
               "after  \n"},
        {"csv", "# a *note*\n"
                "size (B),rate (MB/s),rate (MB/s) 2,what\n"
                "1234567,1.5,,a|b\n"
                "# after\n"},
        {"json", ""},
        {"jsonl", "{\"table\": \"t\", \"size (B)\": 1234567, \"rate (MB/s)\": 1.5, "
                  "\"rate (MB/s) 2\": null, \"what\": \"a|b\"}\n"},
        {"text", "# a *note*\n"
                 "#      size    rate    rate  what\n"
                 "#       (B)  (MB/s)  (MB/s)\n"
                 "  1,234,567     1.5       -  a|b\n"
                 "# after\n"},
    };
    struct err err;
    assert_int_equal(table_set_form("xml", &err), -1);
    assert_non_null(strstr(err.text, "jsonl"));
    table_title("t");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *text;
        size_t size;
        FILE *whole = open_memstream(&text, &size);
        assert_int_equal(table_set_form(cases[i].form, &err), 0);
        struct table t = {.out = table_stream(whole),
                          .n_cols = 4,
                          .col = {{"size", "B", 9, TABLE_RIGHT},
                                  {"rate", "MB/s", 6, TABLE_RIGHT},
                                  {"rate", "MB/s", 6, TABLE_RIGHT},
                                  {"what", "", 4, TABLE_LEFT}}};
        fprintf(t.out, "# a ");
        fprintf(t.out, "*note*\n");
        table_head(&t);
        table_row(&t, (const char *const[]){"1,234,567", "1.5", "-", "a|b"});
        fprintf(t.out, "# after\n");
        fflush(t.out);
        if (t.out != whole)
            fclose(t.out);
        fclose(whole);
        assert_string_equal(text, cases[i].want);
        free(text);
    }
    table_title(NULL);
}

// A quantity is scaled where people read it, and whole with its unit where programs do.
static void quantities(void **state)
{
    (void)state;
    static const struct {
        const char *form, *want;
    } cases[] = {{"csv", "time mean (ns),size (B),name\n12345,40650,x<y\n,0,a*b\n"},
                 {"jsonl", "{\"time mean (ns)\": 12345, \"size (B)\": 40650, \"name\": \"x<y\"}\n"
                           "{\"time mean (ns)\": null, \"size (B)\": 0, \"name\": \"a*b\"}\n"},
                 {"md", "| time (mean) | size | name |\n|--:|--:|:--|\n"
                        "| 12.3 us | 40.6 kB | `x<y` |\n| - | 0 B | `a*b` |\n"},
                 {"text", "#    time     size  name\n#  (mean)\n"
                          "  12.3 us  40.6 kB  x<y\n        -      0 B  a*b\n"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *text, cell[2][32];
        size_t size;
        struct err err;
        FILE *whole = open_memstream(&text, &size);
        assert_int_equal(table_set_form(cases[i].form, &err), 0);
        struct table t = {.out = whole,
                          .n_cols = 3,
                          .col = {{"time", "mean", 7, TABLE_NS},
                                  {"size", "", 7, TABLE_BYTES},
                                  {"name", "", 4, TABLE_CODE}}};
        table_head(&t);
        fmt_whole(cell[0], 12345);
        fmt_whole(cell[1], 40650);
        table_row(&t, (const char *const[]){cell[0], cell[1], "x<y"});
        fmt_whole(cell[0], -1);
        fmt_whole(cell[1], 0);
        table_row(&t, (const char *const[]){cell[0], cell[1], "a*b"});
        fclose(whole);
        assert_string_equal(text, cases[i].want);
        free(text);
    }
}

static void numbers_keep_their_width(void **state)
{
    (void)state;
    char b[32];
    assert_string_equal(fmt_fixed(b, 3.14159, 8, 3), "3.142");
    assert_string_equal(fmt_fixed(b, 12345.678, 7, 3), "12345.7");
    assert_string_equal(fmt_fixed(b, 123456.78, 6, 3), "123457");
    assert_string_equal(fmt_fixed(b, 123456789.0, 7, 3), "1.2e+08");
    assert_string_equal(fmt_fixed(b, -0.5, 6, 2), "-0.50");
    assert_string_equal(fmt_fixed(b, (double)NAN, 6, 2), "-");
    assert_string_equal(fmt_fixed(b, (double)INFINITY, 6, 2), "inf");
    assert_string_equal(fmt_fixed(b, (double)-INFINITY, 6, 2), "-inf");
    static const double values[] = {0, 1, 9.9995, 99.95, 1e3, 123456.789, 1e15, 1e300, 5e-324};
    for (size_t i = 0; i < ARRAY_LEN(values); i++)
        for (int width = 7; width < 20; width++) {
            fmt_fixed(b, values[i], width, 4);
            assert_true((int)strlen(b) <= width);
            fmt_fixed(b, -values[i], width + 1, 4);
            assert_true((int)strlen(b) <= width + 1);
        }
    assert_true(strlen(fmt_fixed(b, 1e300, 400, 20)) < 32); // never beyond the buffer
}

static void times(void **state)
{
    (void)state;
    static const struct {
        int64_t ns;
        const char *want;
    } cases[] = {
        {-1, "-"},
        {0, "0 ns"},
        {999, "999 ns"},
        {1000, "1.00 us"},
        {12345, "12.3 us"},
        {99949, "99.9 us"},
        {99951, "100 us"},
        {999499, "999 us"},
        {999500, "1.00 ms"},
        {4560000, "4.56 ms"},
        {1200000000, "1.20 s"},
        {59940000000, "59.9 s"},
        {59960000000, "1 m 00 s"},
        {123000000000, "2 m 03 s"},
        {3599400000000, "59 m 59 s"},
        {3599600000000, "1 h 00 m"},
        {90000000000000, "25 h 00 m"},
        {INT64_MAX, "2562047 h 47 m"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char b[32];
        assert_string_equal(fmt_time(b, cases[i].ns), cases[i].want);
    }
}

static void sizes_and_counts(void **state)
{
    (void)state;
    char b[32];
    assert_string_equal(fmt_bytes(b, -1), "-");
    assert_string_equal(fmt_bytes(b, 0), "0 B");
    assert_string_equal(fmt_bytes(b, 999), "999 B");
    assert_string_equal(fmt_bytes(b, 1000), "1.00 kB");
    assert_string_equal(fmt_bytes(b, 1234567), "1.23 MB");
    assert_string_equal(fmt_bytes(b, 999999), "1.00 MB");
    assert_string_equal(fmt_bytes(b, 45600000000), "45.6 GB");
    assert_string_equal(fmt_bytes(b, INT64_MAX), "9223 PB");
    assert_string_equal(fmt_mib(b, 0), "0.0 MiB");
    assert_string_equal(fmt_mib(b, 12u << 20), "12.0 MiB");
    assert_string_equal(fmt_mib(b, 300ull << 20), "300 MiB");
    assert_string_equal(fmt_mib(b, UINT64_MAX), "17592186044416 MiB");
    assert_string_equal(fmt_count(b, -1), "-");
    assert_string_equal(fmt_count(b, 0), "0");
    assert_string_equal(fmt_count(b, 999), "999");
    assert_string_equal(fmt_count(b, 1000), "1,000");
    assert_string_equal(fmt_count(b, 123456), "123,456");
    assert_string_equal(fmt_count(b, INT64_MAX), "9,223,372,036,854,775,807");
}

static void write_all_kinds(struct jsonw *j)
{
    jsonw_object(j);
    jsonw_key(j, "text");
    jsonw_text(j, "a \"quote\", a \\, a tab\t, \x01 and \xc3\xa4\n");
    jsonw_key(j, "bad utf-8");
    jsonw_text(j, "x\xff\xc3(\xed\xa0\x80\xc0\xaf\xf4\x90\x80\x80\xe2\x82");
    jsonw_key(j, "none");
    jsonw_text(j, NULL);
    jsonw_key(j, "numbers");
    jsonw_array(j);
    jsonw_int(j, INT64_MIN);
    jsonw_num(j, 0.1);
    jsonw_num(j, (double)NAN);
    jsonw_num(j, (double)-INFINITY);
    jsonw_num(j, 1e300);
    jsonw_end(j);
    jsonw_key(j, "empty");
    jsonw_object(j);
    jsonw_end(j);
    jsonw_key(j, "deep");
    jsonw_array(j);
    jsonw_array(j);
    jsonw_bool(j, true);
    jsonw_bool(j, false);
    jsonw_end(j);
    jsonw_object(j);
    jsonw_key(j, "k\"");
    jsonw_int(j, 1);
    jsonw_end(j);
    jsonw_end(j);
    jsonw_end(j);
}

static void json_as_written(void **state)
{
    (void)state;
    char *text;
    size_t size;
    struct jsonw j;
    jsonw_begin(&j, open_memstream(&text, &size));
    jsonw_object(&j);
    jsonw_key(&j, "a");
    jsonw_array(&j);
    jsonw_int(&j, 1);
    jsonw_num(&j, 0.5);
    jsonw_end(&j);
    jsonw_key(&j, "b");
    jsonw_array(&j);
    jsonw_end(&j);
    jsonw_key(&j, "c");
    jsonw_text(&j, "\b\f\r\x1f/");
    jsonw_end(&j);
    fclose(j.out);
    assert_string_equal(text, "{\n"
                              "  \"a\": [\n"
                              "    1,\n"
                              "    0.5\n"
                              "  ],\n"
                              "  \"b\": [],\n"
                              "  \"c\": \"\\b\\f\\r\\u001f/\"\n"
                              "}\n");
    free(text);
}

static void json_compact(void **state)
{
    (void)state;
    char *text;
    size_t size;
    struct jsonw j;
    jsonw_begin(&j, open_memstream(&text, &size));
    j.compact = true;
    write_all_kinds(&j);
    fclose(j.out);
    assert_ptr_equal(strchr(text, '\n'), text + size - 1);
    free(text);
}

// Another parser reads what was meant, compact or not.
static void json_reads_back(void **state)
{
    (void)state;
    for (int compact = 0; compact < 2; compact++) {
        char *text;
        size_t size;
        struct jsonw j;
        jsonw_begin(&j, open_memstream(&text, &size));
        j.compact = compact;
        write_all_kinds(&j);
        fclose(j.out);
        json_error_t error;
        json_t *root = json_loads(text, 0, &error);
        if (!root)
            fail_msg("line %d: %s in\n%s", error.line, error.text, text);
        assert_string_equal(json_string_value(json_object_get(root, "text")),
                            "a \"quote\", a \\, a tab\t, \x01 and \xc3\xa4\n");
#define R "\xef\xbf\xbd"
        assert_string_equal(json_string_value(json_object_get(root, "bad utf-8")),
                            "x" R R "(" R R R R R R R R R R R);
        assert_true(json_is_null(json_object_get(root, "none")));
        const json_t *n = json_object_get(root, "numbers");
        assert_int_equal(json_array_size(n), 5);
        assert_true(json_integer_value(json_array_get(n, 0)) == INT64_MIN);
        assert_true(json_real_value(json_array_get(n, 1)) == 0.1);
        assert_true(json_is_null(json_array_get(n, 2)) && json_is_null(json_array_get(n, 3)));
        assert_true(json_real_value(json_array_get(n, 4)) == 1e300);
        const json_t *deep = json_object_get(root, "deep");
        assert_true(json_is_true(json_array_get(json_array_get(deep, 0), 0)));
        assert_int_equal(json_integer_value(json_object_get(json_array_get(deep, 1), "k\"")), 1);
        json_decref(root);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_lines_up),
        cmocka_unit_test(table_of_numbers),
        cmocka_unit_test(forms),
        cmocka_unit_test(quantities),
        cmocka_unit_test(numbers_keep_their_width),
        cmocka_unit_test(times),
        cmocka_unit_test(sizes_and_counts),
        cmocka_unit_test(json_as_written),
        cmocka_unit_test(json_compact),
        cmocka_unit_test(json_reads_back),
    };
    return cmocka_run_group_tests_name("base text", tests, NULL, NULL);
}
