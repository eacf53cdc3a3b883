// What tokens are worth, on its way from clients to the server: bytes, averages by hand, damage.
#include "fed/worth.h"

#include "base/bytes.h"
#include "base/fsio.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { VOCAB = 300, ROOM = VOCAB * (10 + 2 * SCORES) + 4 };

static uint8_t bytes[ROOM + 3] = {9, 9, 9}; // a message of three bytes, and what stands behind it
static struct err err;

// Writes what a client saw of these ids, and returns the payload's length.
static size_t message(const int32_t *id, const int64_t *seen, const float *fisher, int n)
{
    struct token_scores s;
    token_scores_open(&s, VOCAB);
    for (int i = 0; i < n; i++) {
        s.seen[id[i]] = seen[i];
        s.table[SCORES_FISHER][id[i]] = fisher[i];
        s.table[SCORES_GRADNORM][id[i]] = 2 * fisher[i];
    }
    size_t len = 3 + worth_put(&s, bytes + 3);
    token_scores_close(&s);
    return len;
}

static const int32_t ids[] = {0, 1, 200, 299};
static const int64_t times[] = {1, 300, 2, 1};
static const float scores[] = {1, 1.5f, 8, 0.25f};

static void test_bytes(void **state)
{
    (void)state;
    // Gap, minibatches and two bf16 each; 300 less 1, and gaps of 198 and 98, in two, two and one.
    assert_int_equal(message(ids, times, scores, 4), 3 + 6 + 7 + 7 + 6 + 4);
    assert_int_equal(worth_before(VOCAB, bytes, 33, &err), 3);
    assert_int_equal(worth_before(299, bytes, 33, &err), -1); // 299 is no id there
    assert_int_equal(message(ids, times, scores, 0), 3 + 4);
    assert_int_equal(worth_before(VOCAB, bytes, 7, &err), 3);
}

static void test_averages(void **state)
{
    (void)state;
    static float kept[(SCORES + 1) * VOCAB];
    struct worth w;
    worth_open(&w, VOCAB, kept);
    worth_begin(&w);
    size_t len = message(ids, times, scores, 4);
    worth_add(&w, bytes, 3, len);
    len = message((const int32_t[]){200}, (const int64_t[]){6}, (const float[]){4}, 1);
    worth_add(&w, bytes, 3, len);
    worth_commit(&w, 0.75, 1);
    assert_true(w.table[SCORES_FISHER][200] == 5); // (2 * 8 + 6 * 4) / 8
    assert_true(w.table[SCORES_GRADNORM][200] == 10 && w.table[SCORES_FISHER][1] == 1.5f);
    worth_begin(&w);
    len = message((const int32_t[]){200}, (const int64_t[]){1}, (const float[]){1}, 1);
    worth_add(&w, bytes, 3, len);
    worth_commit(&w, 0.75, 2);
    assert_true(w.table[SCORES_FISHER][200] == 4); // .75 * 5 + .25 * 1
    assert_true(w.table[SCORES_FISHER][1] == 1.5f && w.fresh == 2);
    worth_begin(&w); // a version that brings nothing
    worth_commit(&w, 0.75, 3);
    assert_true(w.table[SCORES_FISHER][200] == 4 && w.fresh == 2);

    char dir[] = "/tmp/fstq-worth-XXXXXX", path[64];
    struct token_scores back;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/" TOKEN_SCORES_FILE, dir);
    assert_int_equal(worth_save(&w, dir, &err), 0);
    assert_int_equal(token_scores_read(&back, VOCAB, path, &err), 0);
    assert_true(back.table[SCORES_FISHER][200] == 4);
    float mean = (1 + 1.5f + 4 + 0.25f) / 4; // of an id that nobody saw
    assert_true(fabsf(back.table[SCORES_FISHER][7] - mean) < 1e-6f);
    token_scores_close(&back);
    assert_int_equal(remove(path), 0);
    assert_int_equal(worth_save(&w, dir, &err), 0); // nothing new since
    assert_int_not_equal(remove(path), 0);
    remove(dir);
    worth_close(&w);
}

static void refused(size_t len)
{
    err.text[0] = 0;
    assert_int_equal(worth_before(VOCAB, bytes, len, &err), -1);
    assert_non_null(strstr(err.text, "scores of the vocabulary"));
}

static void test_damage(void **state)
{
    (void)state;
    size_t len = message(ids, times, scores, 4);
    if (getenv("FSTQ_GOLDEN_WRITE")) { // seeds of fuzz_worth
        assert_int_equal(fsio_replace("tests/fuzz/corpus/worth/four", bytes, len, &err), 0);
        assert_int_equal(fsio_replace("tests/fuzz/corpus/worth/whole", bytes + 3, len - 3, &err),
                         0);
    }
    for (size_t cut = 0; cut < len; cut++)
        refused(cut);
    put_u32(bytes + len - 4, UINT32_MAX); // more than there is
    refused(len);
    len = message(ids, times, scores, 1);
    put_u16(bytes + 5, 0x7f80); // infinite
    refused(len);
    put_u16(bytes + 5, 0x8000); // negative, if only just
    refused(len);
    const uint8_t longer[] = {0x80, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0}; // 0 as two bytes
    memcpy(bytes, longer, sizeof longer);
    refused(sizeof longer);
    const uint8_t most[] = {0, 255, 255, 255, 255, 15, 0, 0, 0, 0, 10, 0, 0, 0}; // 2^32 times
    memcpy(bytes, most, sizeof most);
    refused(sizeof most);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_averages),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
