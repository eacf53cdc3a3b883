// What a comparison makes of curves, on cases worked by hand.
#include "base/mem.h"
#include "compare/compare_summary.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

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
    struct ratio x = ratio_of(base, v, 2); // 2 and 8
    near(x.mean, 4);
    near(x.low, exp(log(4) * (1 - 12.7062 / 2)));
    near(x.high, exp(log(4) * (1 + 12.7062 / 2)));
    near(ratio_of(v, base, 2).mean, 0.25);
    x = ratio_of(base, v, 1);
    near(x.mean, 2);
    assert_true(isnan(x.low) && isnan(x.high)); // one seed has no interval
    assert_true(isnan(ratio_of(base, v, 0).mean));
    assert_true(isnan(ratio_of(base, zero, 2).mean));
    double lost[] = {NAN, 50}; // one that did not get there is not averaged away
    x = ratio_of(base, lost, 2);
    assert_int_equal(x.n, 1);
    assert_true(isnan(x.mean) && isnan(x.low));
}

// p-values of scipy.stats.wilcoxon(method="exact") of SciPy 1.17.
static void wilcoxon_as_scipy(void **state)
{
    (void)state;
    static const double none[20];
    double five[] = {0.545584, 1.021618, 0.530437, -1.103157, 1.105356};
    struct paired_test t = paired_test_of(five, none, 5);
    near(t.p_wilcoxon, 0.4375);
    near(t.rank_biserial, 0.4666666666666667);
    near(t.dz, 0.47103952893085355);
    double eight[] = {0.646375, -0.336953, 0.781118, 0.564572,
                      0.494132, 0.228422,  0.746713, -0.536454};
    t = paired_test_of(eight, none, 8);
    near(t.p_wilcoxon, 0.109375);
    near(t.rank_biserial, 0.6666666666666666);
    near(t.dz, 0.6442696835487918);
    double twenty[] = {0.03709,  -0.282119, 0.798846, 0.239722, -0.092457, -0.581908, -0.057192,
                       0.208142, -0.075603, 1.494064, 1.206724, -2.511162, -1.689013, 0.025228,
                       -0.22219, 0.413643,  0.417322, 2.317839, -0.912021, -0.177605};
    t = paired_test_of(twenty, none, 20);
    near(t.p_wilcoxon, 0.9272785186767578);
    near(t.rank_biserial, 0.02857142857142857);
    double rising_by[] = {1, 2, 3, 4, 5}; // the least that five pairs can come to
    near(paired_test_of(rising_by, none, 5).p_wilcoxon, 0.0625);
}

static void ties_and_holes(void **state)
{
    (void)state;
    // Ranks 2 2 2 4; a sum of at most 2 has 4 of 16 signs.
    double tied[] = {1, 1, -1, 2, 0}, base[] = {0, 0, 0, 0, 0};
    struct paired_test t = paired_test_of(tied, base, 4);
    near(t.p_wilcoxon, 0.5);
    near(t.rank_biserial, (8. - 2) / 10);
    near(paired_test_of(tied, base, 5).p_wilcoxon, 0.5); // a difference of zero has no rank
    t = paired_test_of(base, base, 5);
    near(t.p_wilcoxon, 1);
    near(t.rank_biserial, 0);
    assert_true(isnan(t.dz));
    double lost[] = {1, NAN, 2};
    t = paired_test_of(lost, base, 3);
    assert_true(isnan(t.p_wilcoxon) && isnan(t.dz) && isnan(t.rank_biserial));
    assert_true(isnan(paired_test_of(tied, base, 0).p_wilcoxon));
}

static void holms_step_down(void **state)
{
    (void)state;
    double p[] = {0.04, NAN, 0.01, 0.03}, adjusted[4];
    holm(p, 4, adjusted); // .01 x 3; .03 x 2; .04 x 1, but not below the one before it
    near(adjusted[2], 0.03);
    near(adjusted[3], 0.06);
    near(adjusted[0], 0.06);
    assert_true(isnan(adjusted[1]));
    double large[] = {0.6, 0.6};
    holm(large, 2, adjusted);
    near(adjusted[0], 1);
    near(adjusted[1], 1);
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

// A target that one of two seeds misses has no mean, neither of rounds nor of a ratio to the base.
static void a_missed_target_has_no_mean(void **state)
{
    (void)state;
    double half[] = {50, 100, 150, 200, 250, 300}, low[] = {0.1, 0.1, 0.1, 0.1, 0.1, 0.1};
    const struct curve base = {.n = 6,
                               .round = rounds,
                               .score = scores,
                               .uplink_bytes = bytes,
                               .time_ns = bytes,
                               .finite = true},
                       less = {.n = 6,
                               .round = rounds,
                               .score = scores,
                               .uplink_bytes = half,
                               .time_ns = half,
                               .finite = true},
                       never = {.n = 6,
                                .round = rounds,
                                .score = low,
                                .uplink_bytes = half,
                                .time_ns = half,
                                .finite = true};
    struct compare_method *m = mem_alloc(MEM_OTHER, 3 * sizeof *m);
    memset(m, 0, 3 * sizeof *m);
    m[0].run[0] = m[0].run[1] = &base;
    m[1].run[0] = m[1].run[1] = &less;
    m[2].run[0] = &less;
    m[2].run[1] = &never;
    struct compare c = {.n_methods = 3,
                        .method = m,
                        .n_seeds = 2,
                        .n_targets = 1,
                        .higher = true,
                        .target = {0.9},
                        .p = {.last = 1, .trailing = 1}};
    struct summary *all = summarise_all(&c);
    const struct reached *two = &all[1].target[0], *one = &all[2].target[0];
    assert_int_equal(two->n, 2);
    near(two->rounds.mean, 6);
    near(two->less_bytes.mean, 2);
    near(two->less_time.mean, 2);
    assert_int_equal(one->n, 1);
    near(one->round_at[0], 6);
    assert_true(isnan(one->rounds.mean) && isnan(one->bytes.mean) && isnan(one->time_ns.mean));
    assert_true(isnan(one->less_bytes.mean) && isnan(one->less_time.mean));
    assert_int_equal(one->less_time.n, 1);
    mem_free(all);
    mem_free(m);
}

// What two methods' scores come to in words; the difference may have spread, or none.
static void verdict(double a, double b, const char *said)
{
    struct compare_method m[2] = {{.name = "base"}, {.name = "other"}};
    struct compare c = {.n_methods = 2, .method = m, .higher = true, .p = {.score = "score"}};
    const double gains[] = {a, b}, zeros[] = {0, 0};
    struct summary s = {.n = 2,
                        .pairs = 2,
                        .gain = interval_of_difference(gains, zeros, 2),
                        .less_bytes = {.mean = NAN},
                        .less_time = {.mean = NAN}};
    char text[400];
    summary_sentence(&c, 1, &s, text, sizeof text);
    if (!strstr(text, said))
        fail_msg("'%s' has no '%s'", text, said);
}

static void no_spread_is_no_certainty(void **state)
{
    (void)state;
    verdict(-0.0078125, -0.0078125, "on each of 2 seeds, which shows no interval");
    verdict(0, 0, "no difference shown on 2 seeds");
    verdict(-0.2, -0.201, "against base: worse");
    verdict(0.2, 0.201, "against base: better");
    verdict(0.2, -0.1, "no difference shown on 2 seeds");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(final_score),
        cmocka_unit_test(target_by_trailing_mean),
        cmocka_unit_test(score_at_bytes),
        cmocka_unit_test(students_t),
        cmocka_unit_test(intervals),
        cmocka_unit_test(differences_are_paired),
        cmocka_unit_test(ratios_multiply),
        cmocka_unit_test(wilcoxon_as_scipy),
        cmocka_unit_test(ties_and_holes),
        cmocka_unit_test(holms_step_down),
        cmocka_unit_test(a_missed_target_has_no_mean),
        cmocka_unit_test(no_spread_is_no_certainty),
        cmocka_unit_test(changed_defaults_are_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
