// What a comparison makes of curves, on cases worked by hand.
#include "compare/compare.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static double rounds[] = {1, 2, 3, 4, 5, 6};
static double scores[] = {0.1, 0.5, 0.3, 0.7, 0.6, 0.8};
static double bytes[] = {100, 200, 300, 400, 500, 600};
static const struct curve rising = {
    .n = 6, .round = rounds, .score = scores, .uplink_bytes = bytes, .finite = true};

static void near(double got, double expected)
{
    assert_true(fabs(got - expected) < 1e-9);
}

static void final_score(void **state)
{
    (void)state;
    near(curve_final(&rising, 1), 0.8);
    near(curve_final(&rising, 3), 0.7);
    near(curve_final(&rising, 100), 0.5); // there are six
    double with_hole[] = {0.1, NAN, 0.3};
    struct curve hole = {.n = 3, .round = rounds, .score = with_hole, .uplink_bytes = bytes};
    near(curve_final(&hole, 1), 0.3);
    assert_true(isnan(curve_final(&hole, 2)));
    struct curve none = {.n = 0};
    assert_true(isnan(curve_final(&none, 5)));
}

static void target_by_trailing_mean(void **state)
{
    (void)state;
    // Means of three: - - .3 .5 .5333 .7
    assert_int_equal(curve_reach(&rising, 3, 0.3, true), 2);
    assert_int_equal(curve_reach(&rising, 3, 0.5, true), 3);
    assert_int_equal(curve_reach(&rising, 3, 0.55, true), 5);
    assert_int_equal(curve_reach(&rising, 3, 0.75, true), 6); // never
    assert_int_equal(curve_reach(&rising, 1, 0.5, true), 1);  // one lucky evaluation counts
    double error[] = {9, 7, 8, 3, 2, 1};
    struct curve falling = {.n = 6, .round = rounds, .score = error, .uplink_bytes = bytes};
    // Means of two: - 8 7.5 5.5 2.5 1.5
    assert_int_equal(curve_reach(&falling, 2, 8, false), 1);
    assert_int_equal(curve_reach(&falling, 2, 5, false), 4);
    assert_int_equal(curve_reach(&falling, 2, 1, false), 6);
    struct curve short_one = {.n = 2, .round = rounds, .score = scores, .uplink_bytes = bytes};
    assert_int_equal(curve_reach(&short_one, 3, 0, true), 2);
}

static void score_at_bytes(void **state)
{
    (void)state;
    near(curve_at_bytes(&rising, 1, 100), 0.1);
    near(curve_at_bytes(&rising, 1, 299), 0.5);
    near(curve_at_bytes(&rising, 3, 400), 0.5);
    near(curve_at_bytes(&rising, 3, 1e9), 0.7); // it ended before
    assert_true(isnan(curve_at_bytes(&rising, 3, 299)));
    assert_true(isnan(curve_at_bytes(&rising, 1, 99)));
}

static void students_t(void **state)
{
    (void)state;
    assert_true(isnan(student_975(0)));
    assert_true(fabs(student_975(1) - 12.7062) < 1e-4);
    assert_true(fabs(student_975(4) - 2.7764) < 1e-4);
    assert_true(fabs(student_975(30) - 2.0423) < 1e-4);
    assert_true(fabs(student_975(31) - 2.0395) < 1e-4); // printed tables
    assert_true(fabs(student_975(60) - 2.0003) < 1e-4);
    assert_true(fabs(student_975(120) - 1.9799) < 1e-4);
}

static void intervals(void **state)
{
    (void)state;
    double v[] = {1, 2, 3, 4, 5};
    struct interval x = interval_of(v, 5);
    assert_int_equal(x.n, 5);
    near(x.mean, 3);
    // s = sqrt(2.5), half = 2.7764 sqrt(2.5 / 5)
    near(x.half, 2.7764 * sqrt(0.5));
    x = interval_of(v, 1);
    near(x.mean, 1);
    assert_true(isnan(x.half));
    x = interval_of(v, 0);
    assert_int_equal(x.n, 0);
    assert_true(isnan(x.mean));
    // A seed that failed is not averaged away.
    double lost[] = {1, NAN, 3};
    x = interval_of(lost, 3);
    assert_int_equal(x.n, 2);
    assert_true(isnan(x.mean) && isnan(x.half));
}

static void differences_are_paired(void **state)
{
    (void)state;
    // Seeds differ much, the methods little.
    double base[] = {0.2, 0.5, 0.8}, v[] = {0.21, 0.52, 0.83};
    struct interval d = interval_of_difference(v, base, 3);
    near(d.mean, 0.02);
    near(d.half, 4.3027 * 0.01 / sqrt(3));
}

static void ratios_multiply(void **state)
{
    (void)state;
    double base[] = {100, 400}, v[] = {50, 50}, zero[] = {0, 50};
    near(ratio_mean(base, v, 2), 4); // sqrt(2 x 8)
    near(ratio_mean(v, base, 2), 0.25);
    assert_true(isnan(ratio_mean(base, v, 0)));
    assert_true(isnan(ratio_mean(base, zero, 2)));
}

static void changed_defaults_are_noticed(void **state)
{
    (void)state;
    const char *was = "fedavg~fisher:keep=0.5/fstq:budget=0.1,widths=0/2/4+ef:decay=1";
    assert_true(methods_agree(was, was));
    // A new option is no change, wherever it stands.
    assert_true(methods_agree(was, "fedavg~fisher:keep=0.5/fstq:new=1,budget=0.1,widths=0/2/4"
                                   "+ef:decay=1,force=off"));
    assert_false(methods_agree(was, "fedavg~fisher:keep=0.5/fstq:budget=0.2,widths=0/2/4"));
    assert_false(methods_agree(was, "fedavg~fisher:keep=0.5/fstq:budget=0.1,widths=0/2"));
    assert_false(methods_agree(was, "fedavg~fisher:keep=0.55/fstq:budget=0.1,widths=0/2/4"));
    // The same name twice: each against its own.
    assert_true(methods_agree("a/b:k=1+c:k=2", "a/b:k=1+c:k=2"));
    assert_false(methods_agree("a/b:k=1+c:k=2", "a/b:k=1+c:k=3"));
    assert_false(methods_agree("a/b:k=1+c:k=2", "a/b:k=2+c:k=1"));
    assert_true(methods_agree("fedavg/fp32", "fedavg/fp32"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(final_score),     cmocka_unit_test(target_by_trailing_mean),
        cmocka_unit_test(score_at_bytes),  cmocka_unit_test(students_t),
        cmocka_unit_test(intervals),       cmocka_unit_test(differences_are_paired),
        cmocka_unit_test(ratios_multiply), cmocka_unit_test(changed_defaults_are_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
