// Tokenizers: raw bytes, the embedded words, llama2.c's BPE on a small vocabulary made here and on
// a real one where the shared models are.
#include "base/bytes.h"
#include "base/rng.h"
#include "task/synth.h"
#include "task/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void check_ids(const struct tokenizer *t, const char *text, const int32_t *want, int32_t n)
{
    int32_t got[64];
    assert_int_equal(tokenizer_encode(t, text, strlen(text), got, 64), n);
    for (int32_t i = 0; i < n; i++)
        if (got[i] != want[i])
            fail_msg("'%s': id %d is %d, not %d", text, i, got[i], want[i]);
}

static void check_round_trip(const struct tokenizer *t, const char *text)
{
    int32_t ids[256];
    char back[512];
    int32_t n = tokenizer_encode(t, text, strlen(text), ids, 256);
    assert_true(n <= 256);
    assert_int_equal(tokenizer_decode(t, ids, n, back, sizeof back), strlen(text));
    assert_string_equal(back, text);
}

static void raw_bytes(void **state)
{
    (void)state;
    struct tokenizer *t = tokenizer_open("bytes", NULL, NULL);
    assert_int_equal(t->vocab, 259);
    check_ids(t, "h\xc3\xa9", (int32_t[]){'h', 0xc3, 0xa9}, 3);
    check_ids(t, "", NULL, 0);
    check_round_trip(t, "h\xc3\xa9llo \xe6\x97\xa5");
    int32_t two[2];
    assert_int_equal(tokenizer_encode(t, "abc", 3, two, 2), 3); // says that two were too few
    assert_int_equal(two[1], 'b');
    char out[8];
    int32_t broken[] = {t->bos, 'a', 0xe6, 0x97, 'b', t->eos, -5, 1000};
    tokenizer_decode(t, broken, 8, out, sizeof out); // specials left out, broken bytes replaced
    assert_string_equal(out, "a\xef\xbf\xbd\xef\xbf\xbd");
    tokenizer_decode(t, (int32_t[]){'a', 0, 'b'}, 3, out, sizeof out); // nor a NUL
    assert_string_equal(out, "a\xef\xbf\xbd"
                             "b");
    tokenizer_close(t);
}

static void words(void **state)
{
    (void)state;
    struct tokenizer *t = tokenizer_open("words", NULL, NULL);
    assert_int_equal(t->vocab, SYNTH_VOCAB);
    struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
    for (int32_t l = 0; l < SYNTH_LANGUAGES; l++) {
        struct synth_example e;
        char text[1024];
        int32_t back[64];
        synth_example(SYNTH_QA, &r, l, &e);
        tokenizer_decode(t, e.tokens, e.n, text, sizeof text);
        assert_int_equal(tokenizer_encode(t, text, strlen(text), back, 64), e.n - 2);
        assert_memory_equal(back, e.tokens + 1, (size_t)(e.n - 2) * sizeof *back);
    }
    check_ids(t, " Q:\tyes  nonsense .\n",
              (int32_t[]){SYNTH_Q, synth_class_id(0), SYNTH_UNK, SYNTH_DOT}, 4);
    tokenizer_close(t);
}

static size_t put_piece(uint8_t *out, const char *text, uint32_t n, float score)
{
    put_f32(out, score);
    put_u32(out + 4, n);
    memcpy(out + 8, text, n);
    return 8 + n;
}

// Specials, bytes, then: " " 259, a 260, b 261, c 262, ab 263, bc 264, abc 265, " a" 266, é 267, aa
// 268
static size_t small_vocabulary(uint8_t *file)
{
    size_t n = 4;
    put_u32(file, 8);
    n += put_piece(file + n, "<unk>", 5, 0);
    n += put_piece(file + n, "\n<s>\n", 5, 0);
    n += put_piece(file + n, "\n</s>\n", 6, 0);
    for (unsigned b = 0; b < 256; b++) {
        char hex[8];
        snprintf(hex, sizeof hex, "<0x%02X>", b);
        n += put_piece(file + n, hex, 6, 0);
    }
    static const struct {
        const char *text;
        float score;
    } piece[] = {{" ", -9},  {"a", -9},  {"b", -9},  {"c", -9},        {"ab", -2},
                 {"bc", -1}, {"abc", 0}, {" a", -3}, {"\xc3\xa9", -9}, {"aa", -4}};
    for (size_t i = 0; i < sizeof piece / sizeof *piece; i++)
        n += put_piece(file + n, piece[i].text, (uint32_t)strlen(piece[i].text), piece[i].score);
    return n;
}

static void bpe_merges_by_score(void **state)
{
    (void)state;
    static uint8_t file[8192];
    size_t n = small_vocabulary(file);
    struct err err = {0};
    struct tokenizer *t = tokenizer_open_bytes(&tokenizer_llama2c, file, n, &err);
    assert_non_null(t);
    assert_int_equal(t->vocab, 269);
    check_ids(t, "", NULL, 0);
    check_ids(t, "a", (int32_t[]){266}, 1);                   // the space before is the tokenizer's
    check_ids(t, "abc", (int32_t[]){259, 265}, 2);            // bc (-1), then abc (0), never " a"
    check_ids(t, "ab", (int32_t[]){259, 263}, 2);             // ab (-2) before " a" (-3)
    check_ids(t, "baaa", (int32_t[]){259, 261, 268, 260}, 4); // of equals the leftmost
    check_ids(t, "\xc3\xa9", (int32_t[]){259, 267}, 2);
    check_ids(t, "\xc3\xa8", (int32_t[]){259, 3 + 0xc3, 3 + 0xa8}, 3); // by byte
    check_ids(t, "\xff", (int32_t[]){259, 3 + 0xff}, 2);               // no UTF-8 at all
    check_round_trip(t, "abc \xe6\x97\xa5 cab");
    tokenizer_close(t);
}

static void broken_files_say_where(void **state)
{
    (void)state;
    static uint8_t file[8192], copy[8192];
    size_t n = small_vocabulary(file);
    for (size_t cut = 0; cut < n; cut++) { // every length but that of whole pieces is refused
        struct err err = {0};
        struct tokenizer *t = tokenizer_open_bytes(&tokenizer_llama2c, file, cut, &err);
        assert_int_equal(t != NULL, err.text[0] == 0);
        if (t)
            assert_true(t->vocab >= 259);
        tokenizer_close(t);
    }
    struct err err = {0};
    memcpy(copy, file, n);
    put_u32(copy + 8, 0xfffffff0u); // length of piece 0
    assert_null(tokenizer_open_bytes(&tokenizer_llama2c, copy, n, &err));
    assert_non_null(strstr(err.text, "piece 0"));
    assert_null(tokenizer_open("llama2c", "no/such/file.bin", &err));
    assert_non_null(strstr(err.text, "no/such/file.bin"));
    assert_null(tokenizer_open("llama2c", "", &err));
    assert_non_null(strstr(err.text, "task.vocab"));
    assert_null(tokenizer_open("hf", "no/such/tokenizer.json", &err));
    assert_non_null(strstr(err.text, "no/such/tokenizer.json"));
}

static void stories_vocabulary(void **state)
{
    (void)state;
    // From an independent greedy merger over the same file.
    static const struct {
        const char *text;
        int32_t n, ids[64];
    } row[] = {
        {"Once upon a time, there was a little girl named Lily.",
         15,
         {403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426}},
        {"héllo wörld", 9, {270, 485, 306, 414, 263, 198, 185, 420, 341}},
        {"日本語 text", 14, {410, 233, 154, 168, 233, 159, 175, 235, 173, 161, 259, 411, 444, 413}},
        {"a", 1, {261}},
        {" two  spaces", 10, {410, 259, 424, 414, 410, 262, 427, 412, 331, 419}},
        {"Привет!\n",
         15,
         {410, 211, 162, 212, 131, 211, 187, 211, 181, 211, 184, 212, 133, 443, 13}},
        {"😀 ok", 7, {410, 243, 162, 155, 131, 334, 433}},
        {"She said, \"I'm sorry, mom.\"",
         15,
         {338, 336, 432, 313, 442, 439, 423, 262, 304, 420, 422, 432, 357, 426, 436}},
        {"aaaaaaaaaaaa", 12, {261, 412, 412, 412, 412, 412, 412, 412, 412, 412, 412, 412}},
    };
    const char *shared = getenv("FSTQ_SHARED");
    char path[512];
    snprintf(path, sizeof path, "%s/models/stories260K/tok512.bin", shared ? shared : "../shared");
    if (access(path, R_OK) != 0) {
        print_message("no %s\n", path);
        skip();
    }
    struct err err = {0};
    struct tokenizer *t = tokenizer_open("llama2c", path, &err);
    assert_non_null(t);
    assert_int_equal(t->vocab, 512);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        check_ids(t, row[i].text, row[i].ids, row[i].n);
        check_round_trip(t, row[i].text);
    }
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raw_bytes),           cmocka_unit_test(words),
        cmocka_unit_test(bpe_merges_by_score), cmocka_unit_test(broken_files_say_where),
        cmocka_unit_test(stories_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
