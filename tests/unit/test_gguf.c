// The GGUF container and its block types. The blocks' values are those of the Python package gguf
// (tests/golden/make_blocks.py); a file is made here, taken apart, and damaged.
#include "base/bytes.h"
#include "base/gguf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "block.h"
#include "simd.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static uint8_t file[4096];
static size_t len;

static void put(const void *p, size_t n)
{
    assert_true(len + n <= sizeof file);
    memcpy(file + len, p, n);
    len += n;
}
static void put32(uint32_t v)
{
    put_u32(file + len, v);
    len += 4;
}
static void put64(uint64_t v)
{
    put_u64(file + len, v);
    len += 8;
}
static void put_string(const char *s)
{
    put64(strlen(s));
    put(s, strlen(s));
}
static void put_key(const char *name, enum gguf_value type)
{
    put_string(name);
    put32(type);
}
static void put_tensor(const char *name, uint64_t cols, uint64_t rows, uint32_t type, uint64_t at)
{
    put_string(name);
    put32(2);
    put64(cols);
    put64(rows);
    put32(type);
    put64(at);
}

// Five keys and two tensors: 64 x 2 of Q4_0 (72 bytes) at 0 and 3 x 1 of F32 at 96.
static size_t tensors_at;
static void make(void)
{
    len = 0;
    put("GGUF", 4);
    put32(3);
    put64(2);
    put64(5);
    put_key("general.architecture", GGUF_STRING);
    put_string("llama");
    put_key("llama.block_count", GGUF_U32);
    put32(7);
    put_key("llama.rope.freq_base", GGUF_F32);
    put_f32(file + len, 100000.0f);
    len += 4;
    put_key("tokens", GGUF_ARRAY);
    put32(GGUF_STRING);
    put64(3);
    put_string("a");
    put_string("");
    put_string("bcd");
    put_key("types", GGUF_ARRAY);
    put32(GGUF_I32);
    put64(2);
    put32(1);
    put32(3);
    tensors_at = len;
    put_tensor("w", 64, 2, 2, 0);
    put_tensor("norm", 3, 1, 0, 96);
    while (len % 32)
        file[len++] = 0;
    memset(file + len, 1, 108);
    len += 108;
}

static struct err err;
static int parse(struct gguf *g)
{
    err = (struct err){""};
    uint8_t *exact = malloc(len); // so that reading past the end is seen
    memcpy(exact, file, len);
    int bad = gguf_parse(exact, len, len, g, &err);
    assert_true(bad == 0 || (err.text[0] && !g->key && !g->tensor));
    if (bad)
        free(exact);
    return bad; // else it leaks with the test
}

static void a_file_is_taken_apart(void **state)
{
    (void)state;
    struct gguf g;
    int64_t v;
    double d;
    make();
    assert_int_equal(parse(&g), 0);
    assert_true(g.version == 3 && g.n_keys == 5 && g.n_tensors == 2 && g.data % 32 == 0);
    const struct gguf_key *k = gguf_find(&g, "general.architecture");
    size_t at = 0;
    assert_true(k && k->type == GGUF_STRING && gguf_is(gguf_next(k, &at), "llama"));
    assert_int_equal(gguf_int(k, &v), -1);
    assert_int_equal(gguf_int(gguf_find(&g, "llama.block_count"), &v), 0);
    assert_int_equal(v, 7);
    assert_int_equal(gguf_num(gguf_find(&g, "llama.rope.freq_base"), &d), 0);
    assert_true(d == 100000.0);
    k = gguf_find(&g, "tokens");
    assert_true(k->type == GGUF_ARRAY && k->of == GGUF_STRING && k->count == 3);
    at = 0;
    assert_true(gguf_is(gguf_next(k, &at), "a"));
    assert_true(gguf_is(gguf_next(k, &at), ""));
    assert_true(gguf_is(gguf_next(k, &at), "bcd"));
    assert_null(gguf_find(&g, "token"));
    const struct gguf_tensor *t = gguf_tensor_find(&g, "w");
    assert_true(t->dims == 2 && t->dim[0] == 64 && t->dim[1] == 2 && t->n == 128);
    assert_true(t->bytes == 72 && t->at == g.data && strcmp(t->type->name, "Q4_0") == 0);
    t = gguf_tensor_find(&g, "norm");
    assert_true(t->at == g.data + 96 && t->bytes == 12);
    gguf_free(&g);
}

static void refuses(const char *why)
{
    struct gguf g;
    assert_int_equal(parse(&g), -1);
    if (!strstr(err.text, why))
        fail_msg("'%s' does not say '%s'", err.text, why);
}

static void mistakes_are_named(void **state)
{
    (void)state;
    make();
    file[0] = 'g';
    refuses("GGUF");
    make();
    put_u32(file + 4, 1);
    refuses("version 1");
    make();
    put_u64(file + 8, UINT64_MAX); // tensors
    refuses("more than its header holds");
    make();
    put_u64(file + 16, 1 << 20); // keys
    refuses("more than its header holds");
    make();
    len -= 1;
    refuses("norm");
    make();
    put_u32(file + tensors_at + 8 + 1 + 4 + 16, 31); // a type nobody has
    refuses("tensor w has the unknown type 31");
    make();
    put_u32(file + tensors_at + 8 + 1 + 4 + 16, 19);
    refuses("IQ1_S");
    make();
    put_u64(file + tensors_at + 8 + 1 + 4, 65); // columns
    refuses("no whole number of Q4_0 blocks");
    make();
    put_u64(file + tensors_at + 41 + 8 + 4 + 4 + 16 + 4, 64); // offset of the second
    refuses("share bytes");
    make();
    put_u64(file + tensors_at + 8 + 1 + 4 + 16 + 4, 33);
    refuses("do not lie in the file");
    make();
    put_u64(file + tensors_at + 8 + 1 + 4 + 16 + 4, UINT64_MAX - 31);
    refuses("do not lie in the file");
    make();
    put_u64(file + tensors_at + 8 + 1 + 4, (uint64_t)1 << 62);
    refuses("dimension 0");
}

// Cut anywhere or with any byte changed: an error with a text, or a file whose parts lie inside it.
static void damage_is_survived(void **state)
{
    (void)state;
    struct gguf g;
    make();
    size_t whole = len, header = tensors_at + 80;
    for (len = 0; len < whole; len++)
        assert_int_equal(parse(&g), -1);
    len = whole;
    for (size_t i = 0; i < header; i++)
        for (int bit = 0; bit < 8; bit++) {
            make();
            file[i] ^= (uint8_t)(1 << bit);
            if (parse(&g))
                continue;
            for (int32_t t = 0; t < g.n_tensors; t++)
                assert_true(g.tensor[t].at + g.tensor[t].bytes <= len);
            gguf_free(&g);
        }
}

static unsigned hex_digit(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10);
}

static size_t hex(const char *s, uint8_t *out, size_t cap)
{
    size_t n = 0;
    for (; s[0] && s[1] && n < cap; s += 2)
        out[n++] = (uint8_t)(hex_digit(s[0]) << 4 | hex_digit(s[1]));
    return n;
}

static void blocks_have_their_values(void **state)
{
    (void)state;
    static char line[1 << 14], type[16], raw[1 << 13], values[1 << 13];
    static uint8_t bytes[1 << 12], want[1 << 12];
    static float got[1 << 10];
    FILE *in = fopen("tests/golden/blocks.txt", "r");
    int seen = 0;
    if (!in)
        fail_msg("no tests/golden/blocks.txt: run from the root of the checkout");
    while (fgets(line, sizeof line, in)) {
        assert_int_equal(sscanf(line, "%15s %8191s %8191s", type, raw, values), 3);
        const struct block_row *row = block_table;
        while (row->name && strcmp(row->name, type) != 0)
            row++;
        assert_non_null(row->name);
        size_t n = hex(raw, bytes, sizeof bytes), n_want = hex(values, want, sizeof want);
        size_t blocks = n / (size_t)row->bytes;
        assert_int_equal(blocks * (size_t)row->bytes, n);
        assert_int_equal(4 * blocks * (size_t)row->values, n_want);
        block_decode(row, bytes, blocks, got);
        if (memcmp(got, want, n_want) != 0)
            fail_msg("%s: other values than the reference's", type);
        const struct gguf_type *t = gguf_type_of(row->id); // two tables, one key
        bool ours = row->id == BLOCK_NF4;                  // no file has it
        assert_true(ours ? !t
                         : t && t->values == row->values && t->bytes == row->bytes &&
                               strcmp(t->name, row->name) == 0);
        seen++;
    }
    fclose(in);
    for (const struct block_row *row = block_table; row->name; row++)
        seen--;
    assert_int_equal(seen, 0);
    for (const struct gguf_type *t = gguf_types; t->name; t++)
        assert_true(!t->bytes == !block_find(t->id));
}

// Every instruction set decodes to the same bits, and what is encoded is near: within half a step
// of the scale, and what rounding the scale to fp16 adds.
static void blocks_are_the_same_on_every_cpu(void **state)
{
    (void)state;
    enum { N = 4096 };
    static float x[N], y[SIMD_ISA_COUNT][N];
    static uint8_t bytes[4 * N];
    struct rng r = rng_stream(3, RNG_TEST, 0, 0, 0);
    for (const struct block_row *row = block_table; row->name; row++) {
        size_t blocks = N / (size_t)row->values;
        for (size_t i = 0; i < blocks * (size_t)row->bytes; i++)
            bytes[i] = (uint8_t)rng_below(&r, 60); // scales are finite
        for (size_t i = 0; i < N; i++)
            x[i] = (float)rng_normal(&r);
        if (row->encode)
            block_encode(row, x, blocks, bytes);
        for (int isa = 0; isa < SIMD_ISA_COUNT; isa++) {
            simd_limit((enum simd_isa)isa);
            block_decode(row, bytes, blocks, y[isa]);
            assert_memory_equal(y[isa], y[0], sizeof y[0]);
        }
        double step = row->id == BLOCK_Q8_0 ? 1 / 127.0 : row->id == BLOCK_NF4 ? 0.304 : 1 / 7.5;
        size_t n = (size_t)row->values;
        for (size_t i = 0; i < N && row->encode; i++) {
            float most = 0;
            for (size_t j = i / n * n; j < i / n * n + n; j++)
                most = fabsf(x[j]) > most ? fabsf(x[j]) : most;
            assert_true((double)fabsf(x[i] - y[0][i]) <= (double)most * (step / 2 + 2e-3));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_taken_apart),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(damage_is_survived),
        cmocka_unit_test(blocks_have_their_values),
        cmocka_unit_test(blocks_are_the_same_on_every_cpu),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
