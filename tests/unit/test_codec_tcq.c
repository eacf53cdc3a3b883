// Trellis-coded quantisation: the states by hand, paths that are found, and what they save.
#include "codec_cases.h"

#include "base/half.h"
#include "codec/entropy.h"

enum { HAND = 8 };
static const struct codec_key key0 = {1, 2, 3};

// A message of a class of 8 values whose codes are all 1, of which so many are the first
// quantiser's. Returns its length.
static size_t message_of_ones(uint64_t firsts, float half, void *scratch, uint8_t *out, size_t cap)
{
    struct codec_report report = {.parts = {0}};
    struct msg_out o;
    uint8_t ones[HAND];
    uint64_t count[256] = {0}, rest[256] = {0};
    memset(ones, ENTROPY_MIDDLE + 1, sizeof ones);
    count[ENTROPY_MIDDLE + 1] = firsts;
    rest[ENTROPY_MIDDLE + 1] = HAND - firsts;
    msg_init(&o, out, cap, &report);
    assert_int_equal(msg_put_header(&o, 0), 0);
    uint8_t *at = msg_take(&o, PART_SCALES, 5);
    put_u16(at, bf16_from_f32(half));
    memset(at + 2, 0, 3);
    assert_int_equal(msg_put_varint(&o, PART_DIRECTORY, firsts), 0);
    assert_int_equal(entropy_put_even(&o, PART_VALUES, ones, firsts, count, scratch), 0);
    assert_int_equal(entropy_put_even(&o, PART_VALUES, ones, HAND - firsts, rest, scratch), 0);
    return (size_t)msg_len(&o);
}

// Odd codes lead through states 0, 2, 3, 4 and back: the first quantiser's 1 is a whole step, the
// second's half of one, and of four values the third has the second.
static void test_states_by_hand(void **state)
{
    (void)state;
    struct session s;
    uint8_t msg[256];
    open_one(&s, 1, HAND, "tcq");
    size_t len = message_of_ones(6, 0.5f, s.scratch, msg, sizeof msg);
    assert_int_equal(codec_decode(s.c, &key0, msg, len, s.x_hat, s.scratch, &s.err), 0);
    for (int i = 0; i < HAND; i++)
        assert_true(s.x_hat[i] == (i % 4 == 2 ? 0.5f : 1.0f));
    // What no path leads to, and what is no number.
    for (uint64_t firsts = 0; firsts <= HAND + 1; firsts++) {
        len = firsts <= HAND ? message_of_ones(firsts, 0.5f, s.scratch, msg, sizeof msg) : len;
        msg[6] = (uint8_t)firsts;
        int bad = codec_decode(s.c, &key0, msg, len, s.x_hat, s.scratch, &s.err);
        assert_int_equal(bad, firsts == 6 ? 0 : -1);
        if (firsts != 6)
            assert_non_null(strstr(s.err.text, firsts > HAND ? "more codes" : "too few"));
    }
    len = message_of_ones(6, INFINITY, s.scratch, msg, sizeof msg);
    assert_int_equal(codec_decode(s.c, &key0, msg, len, s.x_hat, s.scratch, &s.err), -1);
    close_one(&s);
}

// Values that lie on a path, signs and zeros among them, come back as they were where bits cost
// nothing.
static void test_finds_a_path_without_error(void **state)
{
    (void)state;
    enum { N = 4 * 2000 }; // more than one path
    static float x[N];
    struct session s;
    for (int i = 0; i < N; i++)
        x[i] = (i % 4096 % 4 == 2 ? 0.5f : 1.0f) * (i % 3 ? 1.0f : -1.0f);
    // Half a step of .5: the root mean square is that of three values 1 and one .5, nearly.
    open_one(&s, 4, 2000, "tcq:step=1.10940039,rdoq=0");
    session_trip(&s, x, key_of(0));
    for (int i = 0; i < N; i++)
        assert_true(s.x_hat[i] == x[i]);
    close_one(&s);
}

// The error of Gaussian values above the least at their bits, 2^(-2 R), in dB.
static double above_bound(const char *text, const struct shape *shape, const float *x)
{
    struct session s = {.shape = *shape};
    session_open(&s, text);
    double bits = 8 * (double)session_trip(&s, x, key_of(0)) / (double)shape->n_values;
    double nmse = codec_nmse(x, s.x_hat, shape->n_values);
    session_close(&s);
    return 10 * log10(nmse) + 20 * log10(2) * bits;
}

// Eight states come within .5 dB of the bound (Fischer and Wang 1992), where a step alone is 1.53
// away; at low rates less is to be had.
static void test_gain_over_a_step(void **state)
{
    (void)state;
    enum { N = 64 * 1024 };
    static float x[N];
    struct shape shape;
    shape_one(&shape, 64, 1024);
    fill(x, N, DIST_NORMAL, 21);
    double fine = above_bound("tcq:step=0.5", &shape, x);
    double fine_step = above_bound("uniform:step=0.5,value=centre", &shape, x);
    assert_true(fine > 0.3 && fine < 0.8);
    assert_true(fine_step - fine > 0.7);
    double coarse = above_bound("tcq:step=2", &shape, x);
    double coarse_step = above_bound("uniform:step=1.9,dead=0.1,value=centre", &shape, x);
    assert_true(coarse > 0.3 && coarse_step - coarse > 0.4);
    shape_free(&shape);
}

static void test_nothing_and_extremes(void **state)
{
    (void)state;
    enum { N = 8 * 100 };
    static float x[N];
    struct session s;
    open_one(&s, 8, 100, "tcq");
    session_trip(&s, x, key_of(0));
    for (int i = 0; i < N; i++)
        assert_true(s.x_hat[i] == 0);
    fill(x, N, DIST_STUDENT3, 14);
    for (int big = 0; big < 2; big++) { // any scale, and one value far beyond the others
        for (int i = 0; i < N; i++)
            x[i] *= big ? 0x1p100f : 0x1p-60f;
        x[77] = big ? 0x1.8p99f : 0x1p-64f;
        session_trip(&s, x, key_of(0));
        assert_true(codec_nmse(x, s.x_hat, N) < .5);
    }
    close_one(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states_by_hand),
        cmocka_unit_test(test_finds_a_path_without_error),
        cmocka_unit_test(test_gain_over_a_step),
        cmocka_unit_test(test_nothing_and_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
