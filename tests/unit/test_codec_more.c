// Codecs by hand: what a few small updates become, bit by bit and round by round.
#include "codec_cases.h"

static struct codec_key key_of(uint32_t version)
{
    return (struct codec_key){.seed = 7, .client = 3, .version = version};
}

static void open_one(struct session *s, uint32_t rows, uint32_t cols, const char *text)
{
    shape_one(&s->shape, rows, cols);
    session_open(s, text);
}

static void close_one(struct session *s)
{
    session_close(s);
    shape_free(&s->shape);
}

// Natural compression.

// Powers of two are exact; 3 becomes 2 or 4 with equal chance, 5 becomes 4 three times out of four.
static void test_natural_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 6, "natural");
    const float x[] = {1, -3, 0.25f, 0, 5, -0x1p-100f};
    int twos = 0, fours = 0, rounds = 4000;
    for (int r = 0; r < rounds; r++) {
        int64_t len = session_trip(&s, x, key_of((uint32_t)r));
        assert_int_equal(len, 1 + 4 + 6); // header, the norm 8, a byte a value
        assert_int_equal(s.msg[5], 127 + 124);
        assert_int_equal(s.msg[7], 127 + 122);
        assert_int_equal(s.msg[8], 127);
        assert_true(s.x_hat[0] == 1 && s.x_hat[2] == 0.25f && s.x_hat[3] == 0);
        assert_true(s.x_hat[1] == -2 || s.x_hat[1] == -4);
        assert_true(s.x_hat[4] == 4 || s.x_hat[4] == 8);
        assert_true(s.x_hat[5] == -0x1p-100f);
        twos += s.x_hat[1] == -2;
        fours += s.x_hat[4] == 4;
    }
    assert_in_range(twos, rounds / 2 - 130, rounds / 2 + 130); // four standard deviations
    assert_in_range(fours, rounds * 3 / 4 - 110, rounds * 3 / 4 + 110);
    close_one(&s);
}

// Levels 0, 1/4, 1/2, 1 of the norm; below the least a coin decides.
static void test_natural_dithering_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 4, "natural:levels=3,norm=max");
    const float x[] = {8, -4, 3, -0.5f};
    int up = 0, coin = 0, rounds = 4000;
    for (int r = 0; r < rounds; r++) {
        int64_t len = session_trip(&s, x, key_of((uint32_t)r));
        assert_int_equal(len, 1 + 4 + 2); // three bits a value
        assert_true(s.x_hat[0] == 8 && s.x_hat[1] == -4);
        assert_true(s.x_hat[2] == 2 || s.x_hat[2] == 4);
        assert_true(s.x_hat[3] == 0 || s.x_hat[3] == -2);
        up += s.x_hat[2] == 4;
        coin += s.x_hat[3] == -2;
    }
    assert_in_range(up, rounds / 2 - 130, rounds / 2 + 130);
    assert_in_range(coin, rounds / 4 - 110, rounds / 4 + 110);
    close_one(&s);
}

// 3LC.

// 30 values are six quintuples: one with values, four of zeros as one run, one with a value.
static void test_threelc_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 30, "threelc");
    float x[30] = {8, -5, 4, 3.9f, -8};
    x[29] = -7;
    int64_t len = session_trip(&s, x, key_of(0));
    assert_int_equal(len, 1 + 4 + 3);
    // Codes 2 0 1 1 0 (4 is half of 8 and goes to the even side), least first: 2 + 9 + 27.
    assert_int_equal(s.msg[5], 2 + 0 * 3 + 1 * 9 + 1 * 27 + 0 * 81);
    assert_int_equal(s.msg[6], 243 + 4 - 2);
    assert_int_equal(s.msg[7], 1 + 3 + 9 + 27 + 0 * 81);
    const float want[] = {8, -8, 0, 0, -8};
    assert_memory_equal(s.x_hat, want, sizeof want);
    for (int i = 5; i < 29; i++)
        assert_true(s.x_hat[i] == 0);
    assert_true(s.x_hat[29] == -8);

    s.msg[6] = 243 + 5 - 2; // a run that leaves no room for the last quintuple
    assert_int_equal(
        codec_decode(s.c, &(struct codec_key){7, 3, 0}, s.msg, 8, s.x_hat, s.scratch, &s.err), -1);
    s.msg[6] = 255; // and one longer than the update
    assert_int_equal(
        codec_decode(s.c, &(struct codec_key){7, 3, 0}, s.msg, 8, s.x_hat, s.scratch, &s.err), -1);
    close_one(&s);

    // Runs of 15 zero bytes: the longest code, then a single one.
    open_one(&s, 1, 80, "threelc:sparsity=1.5");
    float y[80] = {1};
    y[1] = 0.76f;
    y[2] = 0.74f;
    len = session_trip(&s, y, key_of(0));
    assert_int_equal(len, 1 + 4 + 3);
    assert_int_equal(s.msg[6], 255);
    assert_int_equal(s.msg[7], 121);
    assert_true(s.x_hat[0] == 1.5f && s.x_hat[1] == 1.5f && s.x_hat[2] == 0);
    close_one(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_natural_by_hand),
        cmocka_unit_test(test_natural_dithering_by_hand),
        cmocka_unit_test(test_threelc_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
