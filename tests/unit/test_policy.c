// When a round is over and whose updates count, by hand.
#include "fed/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct fed_params ten(void)
{
    struct fed_params p;
    opt_defaults(fed_options, fed_option_count, &p);
    p.clients = 100;
    p.clients_per_round = 10;
    return p;
}

static int64_t end_of(const struct fed_params *p, size_t n)
{
    // 1 to 10 s, out of order.
    int64_t at[10] = {7, 2, 9, 4, 10, 1, 6, 3, 8, 5};
    size_t k = 0;
    for (size_t i = 0; i < 10; i++)
        if (at[i] <= (int64_t)n)
            at[k++] = at[i] * 1000000000;
    return policy_end_ns(p, at, k, false);
}

static void all_are_waited_for(void **state)
{
    (void)state;
    struct fed_params p = ten();
    assert_true(policy_waits(&p));
    assert_int_equal(policy_sampled(&p), 10);
    assert_int_equal(end_of(&p, 10), 10000000000);
    assert_int_equal(end_of(&p, 3), 3000000000); // the others are known to be gone
    assert_int_equal(end_of(&p, 0), 0);
    assert_true(policy_enough(&p, 1) && !policy_enough(&p, 0));
}

// Whoever waits for one that never comes waits until the deadline, but not for more than a quorum.
static void silence_lasts_until_the_deadline(void **state)
{
    (void)state;
    struct fed_params p = ten();
    int64_t at[] = {3, 1, 2};
    assert_int_equal(policy_end_ns(&p, at, 3, true), 3); // there is none
    p.deadline_s = 5;
    assert_int_equal(policy_end_ns(&p, at, 3, true), 5000000000);
    assert_int_equal(policy_end_ns(&p, at, 3, false), 3);
    assert_int_equal(policy_end_ns(&p, at, 0, true), 5000000000);
    p.quorum = 2;
    assert_int_equal(policy_end_ns(&p, at, 3, true), 2);
    assert_int_equal(policy_end_ns(&p, at, 1, true), 5000000000);
}

static void a_deadline_cuts(void **state)
{
    (void)state;
    struct fed_params p = ten();
    p.deadline_s = 6.5;
    assert_false(policy_waits(&p));
    assert_int_equal(end_of(&p, 10), 6500000000);
    assert_int_equal(end_of(&p, 6), 6000000000); // all are here before it
    assert_int_equal(end_of(&p, 0), 0);
}

static void a_quorum_is_a_number_or_a_part(void **state)
{
    (void)state;
    struct fed_params p = ten();
    p.quorum = 7;
    assert_int_equal(end_of(&p, 10), 7000000000);
    assert_int_equal(end_of(&p, 5), 5000000000); // it never comes together
    p.quorum = 0.7;
    assert_int_equal(policy_quorum(&p), 7); // whatever 0.7 x 10 is in binary
    p.quorum = 0.71;
    assert_int_equal(policy_quorum(&p), 8);
    p.deadline_s = 6.5;
    assert_int_equal(end_of(&p, 10), 6500000000); // whichever is first
    assert_int_equal(end_of(&p, 5), 6500000000);  // nobody knows that no more will come
    p.quorum = 4;
    assert_int_equal(end_of(&p, 10), 4000000000);
}

static void more_are_sampled_than_needed(void **state)
{
    (void)state;
    struct fed_params p = ten();
    p.overcommit = 1.3;
    assert_int_equal(policy_sampled(&p), 13);
    assert_int_equal(policy_quorum(&p), 10);
    p.overcommit = 1.01;
    assert_int_equal(policy_sampled(&p), 11);
    p.overcommit = 50;
    assert_int_equal(policy_sampled(&p), 100); // there are no more
    p.overcommit = 1.3;
    p.quorum = 12;
    assert_int_equal(policy_quorum(&p), 12);
}

static void too_few_move_nothing(void **state)
{
    (void)state;
    struct fed_params p = ten();
    p.min_completion = 0.5;
    assert_false(policy_waits(&p));
    assert_true(policy_enough(&p, 5) && !policy_enough(&p, 4));
}

static void late_ones_weigh_less_by_the_round(void **state)
{
    (void)state;
    struct fed_params p = ten();
    p.late_weight = 0.5;
    assert_true(policy_late_weight(&p, 1) == 0.5 && policy_late_weight(&p, 3) == 0.125);
    p.late_weight = 0;
    assert_true(policy_late_weight(&p, 1) == 0);
    p.late_weight = 1;
    assert_true(policy_late_weight(&p, 1000000) == 1);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    struct fed_params p = ten();
    struct err err = {""};
    p.quorum = 11;
    assert_int_equal(fed_check(&p, &err), -1);
    assert_non_null(strstr(err.text, "fed.quorum = 11"));
    p.overcommit = 1.1;
    assert_int_equal(fed_check(&p, &err), 0);
    p = ten();
    p.late_weight = 0.5;
    assert_int_equal(fed_check(&p, &err), -1);
    assert_non_null(strstr(err.text, "nobody is late"));
    p.deadline_s = 3;
    assert_int_equal(fed_check(&p, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_are_waited_for),
        cmocka_unit_test(silence_lasts_until_the_deadline),
        cmocka_unit_test(a_deadline_cuts),
        cmocka_unit_test(a_quorum_is_a_number_or_a_part),
        cmocka_unit_test(more_are_sampled_than_needed),
        cmocka_unit_test(too_few_move_nothing),
        cmocka_unit_test(late_ones_weigh_less_by_the_round),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
