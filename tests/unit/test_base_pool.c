// The pool of threads: every item once, in order where asked, and nobody needs a helper.
#include "base/clock.h"
#include "base/mem.h"
#include "base/pool.h"
#include "child.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { ITEMS = 1000, THREADS = 4 };

static void run(int32_t lanes, int32_t n, pool_work *fn, pool_work *in_order, void *arg)
{
    pool_run(&(struct pool_loop){lanes, n, fn, in_order, arg, (pool_site *)fn, 0});
}

struct count {
    _Atomic int32_t done[ITEMS], lane_in_use[THREADS], bad;
    int32_t next, lanes; // next: of in_order, one at a time
    int64_t sum;
    int32_t kept[THREADS]; // as a lane's gradient: written by fn, read by in_order
};

static void count_item(void *arg, int32_t item, int32_t lane)
{
    struct count *c = arg;
    if (lane < 0 || lane >= c->lanes || atomic_exchange(&c->lane_in_use[lane], 1))
        atomic_fetch_add(&c->bad, 1);
    atomic_fetch_add(&c->done[item], 1);
    c->kept[lane] = item;
    atomic_store(&c->lane_in_use[lane], 0);
}

static void count_in_order(void *arg, int32_t item, int32_t lane)
{
    struct count *c = arg;
    if (c->next++ != item || c->kept[lane] != item)
        atomic_fetch_add(&c->bad, 1);
    c->sum = 31 * c->sum + item;
}

static void check(struct count *c, int32_t n, bool in_order)
{
    for (int32_t i = 0; i < ITEMS; i++)
        assert_int_equal(c->done[i], i < n);
    assert_int_equal(c->bad, 0);
    assert_int_equal(c->next, in_order ? n : 0);
}

static void every_item_is_done_once(void **state)
{
    (void)state;
    static const int32_t sizes[] = {0, 1, 2, 3, 7, 64, ITEMS};
    for (int32_t threads = 1; threads <= THREADS; threads++) {
        pool_open(threads);
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
            for (int32_t lanes = 1; lanes <= THREADS; lanes++)
                for (int in_order = 0; in_order <= 1; in_order++) {
                    struct count c = {.lanes = lanes};
                    run(lanes, sizes[k], count_item, in_order ? count_in_order : NULL, &c);
                    check(&c, sizes[k], in_order);
                    int64_t sum = 0;
                    for (int32_t i = 0; i < sizes[k] && in_order; i++)
                        sum = 31 * sum + i;
                    assert_true(c.sum == sum);
                }
    }
    pool_close();
}

static void many_tiny_loops(void **state)
{
    (void)state;
    pool_open(3);
    for (int i = 0; i < 20000; i++) {
        struct count c = {.lanes = 3};
        run(3, 1 + i % 5, count_item, i % 2 ? count_in_order : NULL, &c);
        check(&c, 1 + i % 5, i % 2);
    }
    pool_close();
}

// Two items that each wait for the other to begin: two threads must take part.
struct pair {
    _Atomic int32_t begun, met;
};

static void meet(void *arg, int32_t item, int32_t lane)
{
    (void)item;
    (void)lane;
    struct pair *p = arg;
    atomic_fetch_add(&p->begun, 1);
    int64_t until = clock_ns() + 30 * (int64_t)1000000000;
    while (atomic_load(&p->begun) < 2 && clock_ns() < until)
        sched_yield();
    atomic_fetch_add(&p->met, atomic_load(&p->begun) == 2);
}

static void a_helper_comes(void **state)
{
    (void)state;
    pool_open(2);
    struct pair p = {0};
    run(2, 2, meet, NULL, &p);
    assert_int_equal(p.met, 2);
    pool_close();
}

// A helper that is slow, as on a busy machine: it sleeps in its item.
struct slow {
    _Atomic int32_t helped, slow;
};

static void slow_helper(void *arg, int32_t item, int32_t lane)
{
    (void)item;
    struct slow *s = arg;
    if (lane > 0) {
        atomic_fetch_add(&s->helped, 1);
        clock_sleep_until(clock_ns() + s->slow * (int64_t)1000000);
    }
    int64_t until = clock_ns() + 30 * (int64_t)1000000000;
    while (lane == 0 && s->slow && atomic_load(&s->helped) == 0 && clock_ns() < until)
        sched_yield();
}

static void a_loop_that_loses_is_left_to_the_caller(void **state)
{
    (void)state;
    pool_open(2);
    struct slow s = {.slow = 100};
    run(2, 2, slow_helper, NULL, &s);
    assert_int_equal(s.helped, 1);
    for (int i = 0; i < 100; i++)
        run(2, 2, slow_helper, NULL, &(struct slow){0});
    struct slow later = {0};
    run(2, 1000, slow_helper, NULL, &later);
    assert_int_equal(later.helped, 0);
    assert_true(pool_alone() > 0 && pool_alone() < 1);
    struct pair p = {0}; // another loop is judged by itself
    run(2, 2, meet, NULL, &p);
    assert_int_equal(p.met, 2);
    pool_close();
    pool_open(2); // all is forgotten
    assert_true(pool_alone() == 0);
    s.helped = 0;
    run(2, 2, slow_helper, NULL, &s);
    assert_int_equal(s.helped, 1);
    pool_close();
}

struct lane_of {
    struct count *inner;
    _Atomic int32_t bad;
};

static int32_t outer_lane[THREADS];

static void inner_item(void *arg, int32_t item, int32_t lane)
{
    struct lane_of *l = arg;
    atomic_fetch_add(&l->inner->done[item], 1);
    if (outer_lane[lane] != item / 10)
        atomic_fetch_add(&l->bad, 1);
}

struct inner {
    struct lane_of *l;
    int32_t from;
};

static void inner_of(void *arg, int32_t item, int32_t lane)
{
    struct inner *i = arg;
    inner_item(i->l, i->from + item, lane);
}

static void outer_item(void *arg, int32_t item, int32_t lane)
{
    struct inner i = {arg, 10 * item};
    outer_lane[lane] = item;
    run(THREADS, 10, inner_of, NULL, &i);
}

static void a_loop_in_an_item_stays_on_its_lane(void **state)
{
    (void)state;
    pool_open(THREADS);
    for (int i = 0; i < 50; i++) {
        struct count c = {.lanes = THREADS};
        struct lane_of l = {.inner = &c};
        run(THREADS, ITEMS / 10, outer_item, NULL, &l);
        check(&c, ITEMS, false);
        assert_int_equal(l.bad, 0);
    }
    pool_close();
}

static void each_item(void *arg, uint32_t item)
{
    struct count *c = arg;
    atomic_fetch_add(&c->done[item], 1);
}

static void each_alone(void *arg, uint32_t item)
{
    struct count *c = arg;
    if ((int32_t)item != c->next++)
        c->bad++;
    each_item(arg, item);
}

static void small_loops_are_not_shared(void **state)
{
    (void)state;
    pool_open(THREADS);
    for (int i = 0; i < 200; i++) {
        struct count c = {0};
        pool_each(POOL_LEAST_VALUES - 1, 500, each_alone, &c);
        check(&c, 500, true);
        struct count d = {0};
        pool_each(POOL_LEAST_VALUES, 500, each_item, &d);
        check(&d, 500, false);
    }
    pool_close();
}

static int threads_of_process(void)
{
    char line[256];
    int n = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        sscanf(line, "Threads: %d", &n);
    if (f)
        fclose(f);
    return n;
}

static void one_thread_is_no_thread(void **state)
{
    (void)state;
    int before = threads_of_process();
    pool_open(1);
    struct count c = {.lanes = 1};
    run(8, ITEMS, count_item, NULL, &c);
    check(&c, ITEMS, false);
    assert_int_equal(threads_of_process(), before);
    pool_open(3);
    assert_int_equal(pool_threads(), 3);
    assert_int_equal(threads_of_process(), before + 2);
    pool_open(2); // fewer may be used, none ends
    assert_int_equal(pool_threads(), 2);
    pool_reserve(2);
    pool_close();
    assert_int_equal(pool_threads(), 1);
    assert_int_equal(threads_of_process(), before);
}

static void loops_in_a_child(void *arg)
{
    (void)arg;
    struct count c = {.lanes = 3};
    run(3, ITEMS, count_item, NULL, &c);
    for (int32_t i = 0; i < ITEMS; i++)
        if (c.done[i] != 1)
            _exit(1);
    pool_open(2);
    struct pair p = {0};
    run(2, 2, meet, NULL, &p);
    pool_close();
    _exit(p.met == 2 ? 0 : 2);
}

// Helpers do not follow into a forked process; it starts its own.
static void a_forked_process_has_no_helpers(void **state)
{
    (void)state;
    pool_open(3);
    struct count c = {.lanes = 3};
    run(3, ITEMS, count_item, NULL, &c);
#if defined(__SANITIZE_THREAD__)
    pool_close();
    skip(); // it follows no threads of a forked process
#endif
    struct child child = run_child(loops_in_a_child, NULL);
    assert_int_equal(child.status, 0);
    pool_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_is_done_once),
        cmocka_unit_test(many_tiny_loops),
        cmocka_unit_test(a_helper_comes),
        cmocka_unit_test(a_loop_that_loses_is_left_to_the_caller),
        cmocka_unit_test(a_loop_in_an_item_stays_on_its_lane),
        cmocka_unit_test(small_loops_are_not_shared),
        cmocka_unit_test(one_thread_is_no_thread),
        cmocka_unit_test(a_forked_process_has_no_helpers),
    };
    return cmocka_run_group_tests_name("base pool", tests, NULL, NULL);
}
