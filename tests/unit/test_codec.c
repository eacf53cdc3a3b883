// What holds for every codec of the table: round trips, special values, bounds, broken messages,
// the same bytes from every instruction set.
#include "codec_cases.h"

#include "base/fsio.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

static const struct codec_key key0 = {.seed = 7, .client = 3, .version = 11};

static void test_every_row_has_a_case(void **state)
{
    (void)state;
    for (const struct codec *const *row = codec_table; *row; row++) {
        bool found = false;
        size_t len = strlen((*row)->name);
        for (const char *const *t = codec_cases; *t; t++)
            found |= strncmp(*t, (*row)->name, len) == 0 && strchr(":+", (*t)[len]) != NULL;
        if (!found)
            fail_msg("codec %s has no line in codec_cases", (*row)->name);
        assert_true((*row)->help && (*row)->source && (*row)->bound && (*row)->encode &&
                    (*row)->decode);
        assert_ptr_equal(codec_find((*row)->name), *row);
    }
}

static void test_text_is_expanded_and_reads_back(void **state)
{
    (void)state;
    struct session s;
    shape_odd(&s.shape);
    for (const char *const *t = codec_cases; *t; t++) {
        struct err err = {""};
        struct codec_inst *a = codec_open(*t, &s.shape, &err);
        if (!a)
            fail_msg("%s: %s", *t, err.text);
        struct codec_inst *b = codec_open(a->text, &s.shape, &err);
        if (!b)
            fail_msg("%s: %s", a->text, err.text);
        assert_string_equal(a->text, b->text);
        codec_close(a);
        codec_close(b);
    }
    shape_free(&s.shape);
}

static void test_bad_text_is_named(void **state)
{
    (void)state;
    expect_error("", "unknown codec ''");
    expect_error("f16", "did you mean fp16?");
    expect_error("fp16:prescal=on", "prescale");
    expect_error("fp16:prescale=maybe", "prescale");
    expect_error("raw:bits=3", "no options");
    expect_error("fp16+", "wrapper is missing");
    expect_error("fp16+fp32", "not a wrapper");
    expect_error("fp16+nosuchthing", "unknown wrapper");
    expect_error("fstq-paper:tags=rice,tags=rans", "twice");
    expect_error("fstq-paper:tag=rice", "tags");
    expect_error("int4:bits=9", "bits");
    char longer[600];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    expect_error(longer, "longer than");
}

// Both sides finite, errors of a sane size, coordinates beyond the end untouched.
static void check_trip(struct session *s, const float *x, const char *what)
{
    size_t n = s->shape.n_values;
    s->x_hat[n] = 42.0f;
    int64_t len = session_trip(s, x, key0);
    assert_true((size_t)len <= codec_bound(s->c));
    if (s->x_hat[n] != 42.0f)
        fail_msg("%s, %s: wrote past the end", s->c->text, what);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(s->x_hat[i]))
            fail_msg("%s, %s: value %zu decodes to %g", s->c->text, what, i, (double)s->x_hat[i]);
    if (codec_flags(s->c) & CODEC_EXACT)
        assert_memory_equal(x, s->x_hat, n * sizeof *x);
    uint64_t before = XXH3_64bits(s->msg, (size_t)len);
    int64_t again = session_encode(s, x, key0, codec_bound(s->c));
    if (again != len || XXH3_64bits(s->msg, (size_t)len) != before)
        fail_msg("%s, %s: two encodings differ", s->c->text, what);
    if (len > 0 && session_encode(s, x, key0, (size_t)len - 1) >= 0)
        fail_msg("%s, %s: fits into a buffer one byte short", s->c->text, what);
    bool searches = strncmp(s->c->text, "fstq", 4) == 0; // longer tries come first
    if (!searches && session_encode(s, x, key0, (size_t)len) != len)
        fail_msg("%s, %s: does not fit into a buffer of its own length", s->c->text, what);
}

enum special {
    ALL_ZERO,
    CONSTANT,
    ONE_OUTLIER,
    SIGNED_ZEROS,
    DENORMALS,
    TINY_AND_LARGE,
    ZERO_TENSOR,
    ALTERNATING,
    SPECIAL_COUNT
};
static const char *const special_name[SPECIAL_COUNT] = {
    "all zero",  "constant",       "one outlier", "signed zeros",
    "denormals", "tiny and large", "zero tensor", "alternating"};

static void fill_special(float *x, const struct shape *shape, enum special what)
{
    size_t n = shape->n_values;
    fill(x, n, DIST_NORMAL, 1);
    for (size_t i = 0; i < n; i++) {
        float sign = i & 1 ? -1.0f : 1.0f;
        float v[SPECIAL_COUNT] = {
            [ALL_ZERO] = 0,
            [CONSTANT] = 0.37f,
            [ONE_OUTLIER] = i == n / 3 ? -1e9f : x[i] * 1e-6f,
            [SIGNED_ZEROS] = 0.0f * sign,
            [DENORMALS] = sign * (float)(i % 1000) * 0x1p-149f,
            [TINY_AND_LARGE] = i % 3 ? sign * 1.26e30f : sign * 1e-38f, // just below the limit
            [ZERO_TENSOR] = x[i],
            [ALTERNATING] = sign,
        };
        x[i] = v[what];
    }
    if (what == ZERO_TENSOR && shape->n_tensors > 1)
        memset(x + shape->tensors[1].offset, 0,
               sizeof *x * shape->tensors[1].rows * shape->tensors[1].cols);
}

static void test_special_values(void **state)
{
    (void)state;
    for (const char *const *t = codec_cases; *t; t++) {
        struct session s;
        shape_odd(&s.shape);
        session_open(&s, *t);
        float *x = mem_alloc(MEM_CODEC, sizeof *x * s.shape.n_values);
        for (int what = 0; what < SPECIAL_COUNT; what++) {
            fill_special(x, &s.shape, (enum special)what);
            check_trip(&s, x, special_name[what]);
            bool votes = codec_needs(s.c) & CODEC_OWN_AGG; // they always take a step
            if ((what != ALL_ZERO && what != SIGNED_ZEROS) || votes)
                continue;
            session_trip(&s, x, key0);
            for (size_t i = 0; i < s.shape.n_values; i++)
                if (s.x_hat[i] != 0)
                    fail_msg("%s: zero decodes to %g", *t, (double)s.x_hat[i]);
        }
        mem_free(x);
        session_close(&s);
        shape_free(&s.shape);
    }
}

static void test_sizes(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = {
        {0, 0},  {1, 1}, {1, 2},  {3, 1},   {1, 7},   {5, 3},   {1, 31},   {4, 8},   {1, 33},
        {1, 63}, {8, 8}, {13, 5}, {1, 127}, {1, 257}, {16, 64}, {1, 1025}, {3, 683}, {17, 241}};
    for (const char *const *t = codec_cases; *t; t++) {
        for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
            struct session s;
            shape_one(&s.shape, sizes[k][0], sizes[k][1]);
            session_open(&s, *t);
            float *x = mem_alloc(MEM_CODEC, sizeof *x * (s.shape.n_values + 1));
            char what[32];
            snprintf(what, sizeof what, "%u x %u", sizes[k][0], sizes[k][1]);
            fill(x, s.shape.n_values, DIST_LAPLACE, (uint32_t)k);
            check_trip(&s, x, what);
            mem_free(x);
            session_close(&s);
            shape_free(&s.shape);
        }
        struct session s; // no tensor at all
        shape_init(&s.shape);
        shape_seal(&s.shape);
        session_open(&s, *t);
        float none = 0;
        check_trip(&s, &none, "no tensors");
        session_close(&s);
        shape_free(&s.shape);
    }
}

static void test_non_finite_input_is_refused(void **state)
{
    (void)state;
    for (const char *const *t = codec_cases; *t; t++) {
        struct session s;
        shape_odd(&s.shape);
        session_open(&s, *t);
        float *x = mem_alloc(MEM_CODEC, sizeof *x * s.shape.n_values);
        const float bad[] = {NAN, INFINITY, -INFINITY};
        for (size_t k = 0; k < ARRAY_LEN(bad); k++)
            for (size_t at = 0; at < s.shape.n_values; at += 331) {
                fill(x, s.shape.n_values, DIST_NORMAL, 2);
                x[at] = bad[k];
                s.err.text[0] = '\0';
                int64_t rc = session_encode(&s, x, key0, codec_bound(s.c));
                if (rc != CODEC_NONFINITE)
                    fail_msg("%s: %lld for %g at %zu", *t, (long long)rc, (double)bad[k], at);
                if (!strstr(s.err.text, "finite"))
                    fail_msg("%s: the error is '%s'", *t, s.err.text);
            }
        fill(x, s.shape.n_values, DIST_NORMAL, 2);
        x[40] = 2e38f;
        int64_t len = session_encode(&s, x, key0, codec_bound(s.c));
        if (len < 0)
            assert_non_null(strstr(s.err.text, "too large"));
        else
            assert_true(codec_flags(s.c) & CODEC_ANY_SIZE);
        mem_free(x);
        session_close(&s);
        shape_free(&s.shape);
    }
}

// acc += weight * x_hat in float, coordinate by coordinate, whatever the instruction set.
// In the room that a decoder asks for, and no byte beyond it.
static int add_alone(struct session *s, size_t len, float weight, float *acc)
{
    enum { BEYOND = 256 };
    size_t room = codec_decode_scratch(s->c);
    assert_true(room <= codec_scratch_bytes(s->c));
    uint8_t *scratch = mem_alloc(MEM_CODEC, room + BEYOND);
    memset(scratch + room, 0xA5, BEYOND);
    int rc = codec_decode_add(s->c, &key0, s->msg, len, weight, acc, scratch, &s->err);
    for (size_t i = 0; i < BEYOND; i++)
        assert_int_equal(scratch[room + i], 0xA5);
    mem_free(scratch);
    return rc;
}

static void test_decode_add_is_weight_times_decoded(void **state)
{
    (void)state;
    for (const char *const *t = codec_cases; *t; t++) {
        struct session s;
        shape_odd(&s.shape);
        session_open(&s, *t);
        size_t n = s.shape.n_values;
        float *x = mem_alloc(MEM_CODEC, sizeof *x * n), *acc = mem_alloc(MEM_CODEC, sizeof *x * n);
        fill(x, n, DIST_STUDENT3, 3);
        int64_t len = session_trip(&s, x, key0);
        const float weight = 0.3f;
        for (size_t i = 0; i < n; i++)
            acc[i] = (float)i * 1e-5f - 0.01f;
        assert_int_equal(add_alone(&s, (size_t)len, weight, acc), 0);
        for (size_t i = 0; i < n; i++) {
            float part = weight * s.x_hat[i], want = (float)i * 1e-5f - 0.01f;
            want += part;
            if (acc[i] != want)
                fail_msg("%s: acc[%zu] = %.9g, want %.9g", *t, i, (double)acc[i], (double)want);
        }
        mem_free(x);
        mem_free(acc);
        session_close(&s);
        shape_free(&s.shape);
    }
}

// Truncated, extended and bit-flipped: refused with the accumulator untouched, or decoded in bounds
// to finite values.
static void test_broken_messages(void **state)
{
    (void)state;
    for (const char *const *t = codec_cases; *t; t++) {
        struct session s;
        shape_odd(&s.shape);
        session_open(&s, *t);
        size_t n = s.shape.n_values;
        float *x = mem_alloc(MEM_CODEC, sizeof *x * n), *acc = mem_alloc(MEM_CODEC, sizeof *x * n);
        fill(x, n, DIST_NORMAL, 4);
        size_t len = (size_t)session_trip(&s, x, key0);
        uint8_t *good = mem_alloc(MEM_CODEC, len);
        memcpy(good, s.msg, len);
        struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
        for (int k = 0; k < 120; k++) {
            // The exact size, so that a sanitizer sees the first byte read beyond it.
            size_t cut = k < 40 ? rng_below(&r, (uint32_t)len) : len;
            uint8_t *m = mem_alloc(MEM_CODEC, cut);
            memcpy(m, good, cut);
            if (k >= 40)
                for (uint32_t flips = 1 + rng_below(&r, 3); flips; flips--)
                    m[rng_below(&r, k < 80 ? (uint32_t)(len < 40 ? len : 40) : (uint32_t)len)] ^=
                        (uint8_t)(1u << rng_below(&r, 8));
            for (size_t i = 0; i < n; i++)
                acc[i] = 0.5f;
            int bad = codec_decode_add(s.c, &key0, m, cut, 1.0f, acc, s.scratch, &s.err);
            if (k < 40 && !bad)
                fail_msg("%s: took %zu of %zu bytes", *t, cut, len);
            for (size_t i = 0; i < n; i++) {
                if (bad && acc[i] != 0.5f)
                    fail_msg("%s: refused, but acc[%zu] changed", *t, i);
                if (!isfinite(acc[i]))
                    fail_msg("%s: acc[%zu] = %g after a bit flip", *t, i, (double)acc[i]);
            }
            mem_free(m);
        }
        memcpy(s.msg, good, len);
        s.msg[len] = 0;
        if (!codec_decode_add(s.c, &key0, s.msg, len + 1, 1.0f, acc, s.scratch, &s.err))
            fail_msg("%s: took a message with a byte too many", *t);
        mem_free(good);
        mem_free(x);
        mem_free(acc);
        session_close(&s);
        shape_free(&s.shape);
    }
}

static uint64_t hash_of(struct session *s, const float *x, uint64_t *decoded)
{
    int64_t len = session_trip(s, x, key0);
    *decoded = XXH3_64bits(s->x_hat, s->shape.n_values * sizeof(float));
    return XXH3_64bits(s->msg, (size_t)len);
}

static void test_same_bytes_for_every_isa(void **state)
{
    (void)state;
    for (const char *const *t = codec_cases; *t; t++) {
        struct session s;
        shape_two(&s.shape);
        session_open(&s, *t);
        float *x = mem_alloc(MEM_CODEC, sizeof *x * s.shape.n_values);
        for (int d = 0; d < 3; d++) {
            fill(x, s.shape.n_values, (enum dist)d, 5);
            uint64_t first = 0, first_decoded = 0, decoded;
            for (int isa = SIMD_BASE; isa < SIMD_ISA_COUNT; isa++) {
                simd_limit((enum simd_isa)isa);
                uint64_t h = hash_of(&s, x, &decoded);
                if (isa == SIMD_BASE) {
                    first = h;
                    first_decoded = decoded;
                }
                if (h != first || decoded != first_decoded)
                    fail_msg("%s: %s gives other %s than base", *t, simd_isa_name[simd_isa()],
                             h != first ? "bytes" : "values");
            }
            simd_limit(SIMD_AVX512);
        }
        mem_free(x);
        session_close(&s);
        shape_free(&s.shape);
    }
}

// The packed bytes of every case, as they were when its format was settled: a change of format must
// be meant. FSTQ_GOLDEN_WRITE=1 writes the file anew, and the seeds of the fuzz target.
#define GOLDEN "tests/golden/codec.txt"

static void write_seed(int n, const char *text)
{
    struct session s;
    struct err err = {""};
    char path[64];
    shape_odd(&s.shape);
    session_open(&s, text);
    float *x = mem_alloc(MEM_CODEC, sizeof *x * s.shape.n_values);
    fill(x, s.shape.n_values, DIST_LAPLACE, 6);
    int64_t len = session_trip(&s, x, key0);
    size_t head = strlen(text) + 2;
    uint8_t *seed = mem_alloc(MEM_CODEC, head + (size_t)len);
    memcpy(seed, text, head - 2);
    seed[head - 2] = '\n';
    seed[head - 1] = 1; // decode
    memcpy(seed + head, s.msg, (size_t)len);
    snprintf(path, sizeof path, "tests/fuzz/corpus/codec/case%02d", n);
    if (fsio_replace(path, seed, head + (size_t)len, &err))
        fail_msg("%s", err.text);
    mem_free(seed);
    mem_free(x);
    session_close(&s);
    shape_free(&s.shape);
}

static void golden_line(const char *text, char line[320])
{
    struct session s;
    uint64_t decoded;
    shape_two(&s.shape);
    session_open(&s, text);
    float *x = mem_alloc(MEM_CODEC, sizeof *x * s.shape.n_values);
    fill(x, s.shape.n_values, DIST_LAPLACE, 5);
    int64_t len = session_trip(&s, x, key0);
    uint64_t packed = hash_of(&s, x, &decoded);
    bool inexact = codec_flags(s.c) & CODEC_INEXACT_BYTES;
    snprintf(line, 320, "%016llx %016llx %7lld %s", inexact ? 0 : (unsigned long long)packed,
             (unsigned long long)decoded, inexact ? 0 : (long long)len, text);
    mem_free(x);
    session_close(&s);
    shape_free(&s.shape);
}

static void test_golden_bytes(void **state)
{
    (void)state;
    char line[320], want[320];
    bool write = getenv("FSTQ_GOLDEN_WRITE") != NULL;
    FILE *f = fopen(GOLDEN, write ? "w" : "r");
    if (!f)
        fail_msg("cannot open " GOLDEN "; run from the root of the checkout");
    for (int i = 0; codec_cases[i]; i++) {
        golden_line(codec_cases[i], line);
        if (write) {
            fprintf(f, "%s\n", line);
            write_seed(i, codec_cases[i]);
            continue;
        }
        if (!fgets(want, sizeof want, f))
            fail_msg(GOLDEN " ends before %s", codec_cases[i]);
        want[strcspn(want, "\n")] = '\0';
        assert_string_equal(line, want);
    }
    fclose(f);
}

static void test_same_bytes_for_any_number_of_threads(void **state)
{
    (void)state;
    pool_share_all();
    for (const char *const *t = codec_cases; *t; t++) {
        struct session s;
        shape_init(&s.shape); // once with every tensor on a byte boundary
        shape_add(&s.shape, "A", 16, 1000, SHAPE_LORA_A);
        shape_add(&s.shape, "B", 1040, 16, SHAPE_LORA_B);
        shape_add(&s.shape, "C", 16, 333, SHAPE_OTHER);
        shape_seal(&s.shape);
        session_open(&s, *t);
        float *x = mem_alloc(MEM_CODEC, sizeof *x * s.shape.n_values);
        fill(x, s.shape.n_values, DIST_STUDENT3, 7);
        uint64_t one = 0, one_decoded = 0, decoded;
        for (int threads = 1; threads <= 5; threads += 2) {
            pool_open(threads);
            uint64_t h = hash_of(&s, x, &decoded);
            if (threads == 1) {
                one = h;
                one_decoded = decoded;
            }
            if (h != one || decoded != one_decoded)
                fail_msg("%s: %d threads give other %s", *t, threads,
                         h != one ? "bytes" : "values");
        }
        mem_free(x);
        session_close(&s);
        shape_free(&s.shape);
    }
    pool_close();
}

static void reshape(struct session *s, uint32_t rows)
{
    shape_free(&s->shape);
    shape_one(&s->shape, rows, 24);
    codec_reshape(s->c, &s->shape);
}

// A codec of activations, whose rows vary: the bytes of one that was opened on these rows.
static void test_rows_may_vary(void **state)
{
    (void)state;
    const uint32_t rows[] = {37, 1, 36, 8, 40};
    for (const char *const *t = codec_cases; *t; t++) {
        struct session s;
        open_one(&s, 40, 24, *t);
        size_t bound = 0, scratch = 0;
        for (uint32_t r = 1; r <= 40; r++) {
            reshape(&s, r);
            bound = codec_bound(s.c) > bound ? codec_bound(s.c) : bound;
            scratch = codec_scratch_bytes(s.c) > scratch ? codec_scratch_bytes(s.c) : scratch;
        }
        mem_free(s.msg);
        mem_free(s.scratch);
        s.msg = mem_alloc(MEM_CODEC, bound + 1);
        s.scratch = mem_alloc(MEM_CODEC, scratch + 1);
        float *x = mem_alloc(MEM_CODEC, sizeof *x * s.shape.n_values);
        fill(x, s.shape.n_values, DIST_NORMAL, 8);
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            struct session fresh;
            uint64_t decoded, again;
            open_one(&fresh, rows[i], 24, *t);
            uint64_t want = hash_of(&fresh, x, &decoded);
            reshape(&s, rows[i]);
            if (hash_of(&s, x, &again) != want || again != decoded)
                fail_msg("%s: %u rows give other bytes on a codec of 40", *t, rows[i]);
            close_one(&fresh);
        }
        mem_free(x);
        close_one(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_row_has_a_case),
        cmocka_unit_test(test_text_is_expanded_and_reads_back),
        cmocka_unit_test(test_bad_text_is_named),
        cmocka_unit_test(test_special_values),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_non_finite_input_is_refused),
        cmocka_unit_test(test_decode_add_is_weight_times_decoded),
        cmocka_unit_test(test_broken_messages),
        cmocka_unit_test(test_same_bytes_for_every_isa),
        cmocka_unit_test(test_same_bytes_for_any_number_of_threads),
        cmocka_unit_test(test_rows_may_vary),
        cmocka_unit_test(test_golden_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
