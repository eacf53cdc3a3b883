// Updates in files: what is written is read back, and nothing else is.
#include "base/fsio.h"
#include "base/mem.h"
#include "model/update_file.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static char path[512];

static void make(struct shape *s, float *x, size_t cap)
{
    shape_init(s);
    shape_add(s, "layers.0.q.A", 3, 5, SHAPE_LORA_A);
    shape_add(s, "layers.0.q.B", 7, 3, SHAPE_LORA_B);
    shape_add(s, "a \"name\"", 1, 2, SHAPE_OTHER);
    shape_seal(s);
    assert_true(s->n_values <= cap);
    for (size_t i = 0; i < s->n_values; i++)
        x[i] = i == 4 ? -0.0f : 1.0f / (float)(i + 1);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct shape s, back;
    struct err err;
    float x[64], *y;
    make(&s, x, 64);
    assert_int_equal(update_file_write(path, &s, x, &err), 0);
    assert_int_equal(update_file_read(path, &back, &y, &err), 0);
    assert_int_equal(back.n_values, s.n_values);
    assert_int_equal(back.hash, s.hash); // names, sizes and kinds
    assert_memory_equal(y, x, s.n_values * sizeof *x);
    mem_free(y);
    shape_free(&back);
    shape_free(&s);
}

static void test_every_cut_is_refused(void **state)
{
    (void)state;
    struct shape s, back;
    struct err err;
    float x[64], *y;
    uint8_t *bytes;
    size_t n;
    make(&s, x, 64);
    assert_int_equal(update_file_write(path, &s, x, &err), 0);
    assert_int_equal(fsio_read(path, 1 << 20, MEM_OTHER, &bytes, &n, &err), 0);
    for (size_t len = 0; len < n; len += 1 + len / 7) {
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(bytes, 1, len, f), len);
        fclose(f);
        assert_int_equal(update_file_read(path, &back, &y, &err), -1);
        assert_non_null(strstr(err.text, path));
        assert_null(y);
    }
    mem_free(bytes);
    shape_free(&s);
}

static void write_text(const char *header, size_t values_bytes)
{
    FILE *f = fopen(path, "wb");
    uint8_t len[8] = {(uint8_t)strlen(header)}, zero[256] = {0};
    assert_non_null(f);
    fwrite(len, 1, 8, f);
    fwrite(header, 1, strlen(header), f);
    fwrite(zero, 1, values_bytes, f);
    fclose(f);
}

static void test_others_files(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t values;
        const char *why; // NULL = taken
    } rows[] = {
        {"{\"m.lora_B.weight\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,12]}}", 12,
         NULL},
        {"{\"v\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}}", 12, NULL},
        {"{\"v\":{\"dtype\":\"I64\",\"shape\":[3],\"data_offsets\":[0,24]}}", 24, "not fp32"},
        {"{\"v\":{\"dtype\":\"F32\",\"shape\":[1,1,3],\"data_offsets\":[0,12]}}", 12,
         "not a matrix"},
        {"{\"v\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "no values"},
        {"{}", 0, "no values"},
        {"{\"a-name-that-is-much-longer-than-forty-eight-characters\":{\"dtype\":\"F32\","
         "\"shape\":[3],\"data_offsets\":[0,12]}}",
         12, "longer than"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct shape s;
        struct err err = {""};
        float *y;
        write_text(rows[i].header, rows[i].values);
        int bad = update_file_read(path, &s, &y, &err);
        if (rows[i].why) {
            assert_int_equal(bad, -1);
            assert_non_null(strstr(err.text, rows[i].why));
            continue;
        }
        assert_int_equal(bad, 0);
        assert_int_equal(s.tensors[0].kind, i == 0 ? SHAPE_LORA_B : SHAPE_OTHER);
        mem_free(y);
        shape_free(&s);
    }
}

int main(void)
{
    if (scratch_make())
        return 1;
    snprintf(path, sizeof path, "%s/u.safetensors", scratch_dir);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_every_cut_is_refused),
        cmocka_unit_test(test_others_files),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    scratch_drop();
    return failed;
}
