// Messages of activations: what is read is what was written, and nothing else is believed.
#include "fed/split.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { LONGEST = 20, DIM = 3, ROWS = 4, EXAMPLES = 2, DENSE = 3 };
// The first write numbers of one format; of the others each matrix is a message of its own.
static const char *const codecs[] = {"fp16", "fp32", "bf16", "int:bits=8", "qsgd", "nf4+zstd"};
static struct split_form forms[ARRAY_LEN(codecs)];
static const struct codec_key key = {.seed = 7, .client = 3, .version = 2};

static int open_forms(void **state)
{
    struct err err;
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(codecs); k++) {
        forms[k].cut =
            (struct cut_form){.examples = EXAMPLES, .longest = LONGEST, .dim = DIM, .vocab = 1000};
        assert_int_equal(act_codec_open(&forms[k].up, codecs[k], LONGEST, DIM, &err), 0);
        assert_int_equal(forms[k].up.dense, k < DENSE);
    }
    return 0;
}

static int close_forms(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(codecs); k++)
        split_forget(&forms[k]);
    return 0;
}

struct memory {
    int32_t pos[LONGEST], size[LONGEST], label[LONGEST];
    float x[LONGEST * DIM];
};

// Four rows for 20 tokens, the last position as far as it goes; all values are exact in fp16 and
// bf16.
static const struct memory sample = {
    .pos = {0, 5, 6, LONGEST - 1},
    .size = {1, 17, 1, 1},
    .label = {999, 0},
    .x = {0.5f, -1, 2, 0, 65280, -65280, 1.0f / 1024, 3, 4, 5, 6, 7}};

static struct cut_example example(struct memory *m)
{
    return (struct cut_example){
        .rows = ROWS, .labels = 2, .pos = m->pos, .size = m->size, .label = m->label, .x = m->x};
}

static size_t put_example(const struct split_form *f, struct memory *m, uint8_t *out, size_t cap,
                          struct codec_report *report)
{
    struct msg_out o;
    struct err err = {""};
    struct cut_example e = example(m);
    msg_init(&o, out, cap, report);
    for (int32_t i = 0; i < f->cut.examples; i++)
        if (split_put(&o, f, &key, &e, &err))
            return 0;
    return (size_t)msg_len(&o);
}

// Reads all examples of a message; 0 when it ends with the last.
static int read_all(const struct split_form *f, const uint8_t *in, size_t len, struct memory *to)
{
    struct msg_in m = {.p = in, .end = in + len};
    struct err err = {""};
    for (int32_t i = 0; i < f->cut.examples; i++) {
        struct cut_example e = example(to);
        int rc = split_get(&m, f, &key, &e, &err);
        if (rc) {
            assert_true(err.text[0]);
            return rc;
        }
        assert_true(e.rows >= 1 && e.rows <= LONGEST && e.labels >= 1 && e.labels <= e.rows);
    }
    return msg_end(&m, &err);
}

static void test_read_as_written(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(forms); k++) {
        const struct split_form *f = &forms[k];
        uint8_t bytes[1024];
        struct codec_report report = {0};
        struct memory m = sample, back = {0};
        size_t len = put_example(f, &m, bytes, sizeof bytes, &report);
        assert_true(len > 0 && len + 1 <= split_bound(f, EXAMPLES));
        assert_int_equal(report.parts.header + report.parts.directory + report.parts.scales +
                             report.parts.indices + report.parts.tags + report.parts.values,
                         len);
        assert_int_equal(read_all(f, bytes, len, &back), 0);
        if (f->up.dense) {
            // 2 counts; 4 places of two bytes; labels of 2 and 1; 12 values.
            assert_int_equal(len, 2 * (2 + 8 + 3 + dense_bytes(f->up.format, 12)));
            assert_int_equal(report.parts.directory, 4);
            assert_int_equal(report.parts.indices, 16);
            assert_int_equal(report.parts.tags, 6);
            assert_int_equal(report.parts.values, dense_bytes(f->up.format, 24));
            assert_int_equal(report.kept[record_width_of[dense_bits(f->up.format)]], 24);
            assert_memory_equal(&back, &m, sizeof back);
        } else { // the places as they were, the values nearly
            assert_memory_equal(&back, &m, offsetof(struct memory, x));
            assert_true(codec_nmse(m.x, back.x, ROWS * DIM) < 0.4);
        }
        for (size_t cap = 0; cap < len; cap++)
            assert_int_equal(put_example(f, &m, bytes, cap, &report), 0);
    }
}

static void test_cut_off_or_too_long(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(forms); k++) {
        uint8_t bytes[1024] = {0};
        struct codec_report report = {0};
        struct memory m = sample, back;
        size_t len = put_example(&forms[k], &m, bytes, sizeof bytes, &report);
        for (size_t n = 0; n < len; n++)
            assert_int_equal(read_all(&forms[k], bytes, n, &back), -1);
        assert_int_equal(read_all(&forms[k], bytes, len + 1, &back), -1);
    }
}

static void test_numbers_out_of_range(void **state)
{
    (void)state;
    static const struct {
        int at; // byte of an fp16 message: rows, labels, 4 x (position, size), labels of 2 and 1
        uint8_t value;
    } bad[] = {
        {0, 0},  {0, LONGEST + 1}, {1, 0}, {1, ROWS + 1}, {2, LONGEST}, // the first position
        {3, 0},  {3, LONGEST + 1}, {4, 0},                              // the second is the first
        {8, 14},                                                        // the last is one too far
        {9, 2},                                                         // one token too many
        {11, 8},                                                        // label 1000 + 23
    };
    uint8_t good[1024], bytes[1024];
    struct codec_report report = {0};
    struct memory m = sample, back;
    size_t len = put_example(&forms[0], &m, good, sizeof good, &report);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        memcpy(bytes, good, len);
        assert_int_not_equal(bytes[bad[i].at], bad[i].value);
        bytes[bad[i].at] = bad[i].value;
        if (read_all(&forms[0], bytes, len, &back) != -1)
            fail_msg("byte %d may be %d", bad[i].at, bad[i].value);
    }
}

static void test_values_that_are_not_finite(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY, 65536};
    for (size_t k = 0; k < DENSE; k++)
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
            uint8_t bytes[1024];
            struct codec_report report = {0};
            struct memory m = sample, back;
            struct err err = {""};
            struct msg_out o;
            bool fits = bad[i] == 65536 && forms[k].up.format != DENSE_FP16;
            m.x[11] = bad[i];
            struct cut_example e = example(&m);
            msg_init(&o, bytes, sizeof bytes, &report);
            assert_int_equal(split_put(&o, &forms[k], &key, &e, &err), fits ? 0 : CODEC_NONFINITE);
            m.x[11] = 1;
            size_t len = put_example(&forms[k], &m, bytes, sizeof bytes, &report);
            if (forms[k].up.format == DENSE_FP16)
                put_u16(bytes + len - 2, i ? 0x7c00 : 0x7e01);
            else if (forms[k].up.format == DENSE_BF16)
                put_u16(bytes + len - 2, i ? 0x7f80 : 0x7fc1);
            else
                put_f32(bytes + len - 4, i < 3 ? bad[i] : NAN);
            assert_int_equal(read_all(&forms[k], bytes, len, &back), CODEC_NONFINITE);
        }
}

// A matrix is read as one of as many rows as it was written for, and with the stream it was given.
static void test_matrices_of_many_sizes(void **state)
{
    (void)state;
    for (size_t k = DENSE; k < ARRAY_LEN(forms); k++)
        for (int32_t rows = 1; rows <= LONGEST; rows++) {
            const struct act_codec *a = &forms[k].up;
            uint8_t bytes[2048];
            float x[LONGEST * DIM], back[LONGEST * DIM];
            struct codec_report report = {0};
            struct err err;
            struct msg_out o;
            for (int32_t i = 0; i < rows * DIM; i++)
                x[i] = (float)((i * 37 + rows) % 101 - 50);
            msg_init(&o, bytes, sizeof bytes, &report);
            assert_int_equal(act_put(&o, a, &key, x, rows, &err), 0);
            assert_true((size_t)msg_len(&o) <= a->bound);
            struct msg_in m = {.p = bytes, .end = o.p};
            assert_int_equal(act_get(&m, a, &key, back, rows, &err), 0);
            assert_true(m.p == m.end);
            assert_true(codec_nmse(x, back, (size_t)(rows * DIM)) < 0.4);
            bytes[0]--; // its length
            m = (struct msg_in){.p = bytes, .end = o.p};
            assert_int_equal(act_get(&m, a, &key, back, rows, &err), -1);
        }
}

static void test_codecs_that_want_more(void **state)
{
    (void)state;
    static const char *const bad[] = {"topk+ef", "fstq", "signsgd", "fp17"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct act_codec a;
        struct err err = {""};
        assert_int_equal(act_codec_open(&a, bad[i], LONGEST, DIM, &err), -1);
        assert_true(err.text[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_as_written),
        cmocka_unit_test(test_cut_off_or_too_long),
        cmocka_unit_test(test_numbers_out_of_range),
        cmocka_unit_test(test_values_that_are_not_finite),
        cmocka_unit_test(test_matrices_of_many_sizes),
        cmocka_unit_test(test_codecs_that_want_more),
    };
    return cmocka_run_group_tests_name("split", tests, open_forms, close_forms);
}
