// Memory, queues and recordings of every row of dev_table, and the fence itself: what must not work
// there ends the program, and says why.
#include "child.h"
#include "dev/dev.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 1000 };

static int32_t fence_kind(void)
{
    int32_t k = 0;
    while (dev_table[k] && strcmp(dev_table[k]->name, "fence") != 0)
        k++;
    assert_non_null(dev_table[k]);
    return k;
}

static bool opens(struct dev *d, int32_t kind)
{
    struct err err;
    return dev_open(d, kind, 2, &err) == 0;
}

static void arrays_go_there_and_back(void **state)
{
    (void)state;
    for (int32_t k = 0; dev_table[k]; k++) {
        struct dev d;
        if (!opens(&d, k))
            continue;
        const struct dev_row *row = d.row;
        size_t bytes = N * sizeof(float);
        float *here = row->stage(&d, bytes), *back = row->stage(&d, bytes);
        float *x = row->alloc(&d, MEM_OTHER, bytes), *y = row->alloc(&d, MEM_OTHER, bytes);
        dev_get(&d, back, x, bytes);
        for (int i = 0; i < N; i++) {
            assert_true(back[i] == 0);
            here[i] = (float)i;
        }
        row->put(&d, 0, x, here, bytes);
        row->copy(&d, 0, y, x, bytes);
        row->zero(&d, 0, x, bytes / 2);
        d.ops->add(&d.lane[0].cx, x, N, y);
        row->get(&d, 0, back, y, bytes);
        row->wait(&d, 0);
        for (int i = 0; i < N; i++)
            assert_true(back[i] == (float)(i < N / 2 ? i : 2 * i));
        float *room = dev_room(&d, bytes), *mine = dev_take(&d, y, bytes, room);
        assert_true(d.row->host ? mine == y : mine == room);
        mine[3] = -7;
        dev_give(&d, y, bytes, mine);
        dev_get(&d, back, y, bytes);
        assert_true(back[3] == -7 && back[4] == 4);
        if (room)
            row->unstage(&d, room);
        row->free(&d, x);
        row->free(&d, y);
        row->unstage(&d, here);
        row->unstage(&d, back);
        dev_close(&d);
    }
}

static void marks_ascend(void **state)
{
    (void)state;
    for (int32_t k = 0; dev_table[k]; k++) {
        struct dev d;
        if (!opens(&d, k))
            continue;
        dev_reserve(&d, 16, 3);
        for (int32_t i = 0; i < 3; i++)
            d.row->mark(&d, 0, i);
        d.row->wait(&d, 0);
        for (int32_t i = 1; i < 3; i++)
            assert_true(d.row->marked(&d, 0, i) >= d.row->marked(&d, 0, i - 1));
        dev_close(&d);
    }
}

static cpu_set_t cpus_of(uint64_t bits)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (size_t i = 0; i < 64; i++)
        if (bits >> i & 1)
            CPU_SET(i, &set);
    return set;
}

// Two packages of four CPUs.
static void ranks_take_what_is_near(void **state)
{
    (void)state;
    enum { MOST = 5 };
    static const struct {
        int32_t devices, ranks;
        uint64_t near[MOST], cpus[MOST]; // cpus[0] = 0: they are not known
        int32_t device[MOST], sharing[MOST];
        bool far[MOST];
    } cases[] = {
        {2, 4, {0xf0, 0x0f}, {0x03, 0x0c, 0x30, 0xc0}, {1, 1, 0, 0}, {2, 2, 2, 2}, {0}},
        {2, 4, {0x0f, 0x0f}, {0x03, 0x0c, 0x30, 0xc0}, {0, 1, 0, 1}, {2, 2, 2, 2}, {0, 0, 1, 1}},
        {2, 4, {0, 0}, {0x03, 0x0c, 0x30, 0xc0}, {0, 1, 0, 1}, {2, 2, 2, 2}, {0}},
        {2, 3, {0xf0, 0x0f}, {0xff, 0xff, 0xff}, {0, 1, 0}, {2, 1, 2}, {0}},
        {2, 3, {0xf0, 0x0f}, {0}, {0, 1, 0}, {2, 1, 2}, {0}},
        {2, 2, {0x0f, 0xf0}, {0x03, 0x0c}, {0, 1}, {1, 1}, {0, 1}}, // no two at one, none at other
        {3, 2, {0x0f, 0xf0, 0xf0}, {0xf0, 0xf0}, {1, 2}, {1, 1}, {0}},
        {1, 2, {0}, {0}, {0, 0}, {2, 2}, {0}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        cpu_set_t near[MOST], cpus[MOST];
        for (int j = 0; j < MOST; j++) {
            near[j] = cpus_of(cases[i].near[j]);
            cpus[j] = cpus_of(cases[i].cpus[j]);
        }
        for (int32_t r = 0; r < cases[i].ranks; r++) {
            dev_take_place(r, cases[i].ranks, cases[i].cpus[0] ? cpus : NULL);
            struct dev_share s = dev_share(cases[i].devices, near);
            assert_int_equal(s.device, cases[i].device[r]);
            assert_int_equal(s.ranks, cases[i].sharing[r]);
            assert_int_equal(s.far, cases[i].far[r]);
        }
    }
    dev_take_place(0, 1, NULL);
}

// y += x, recorded or not: the same, whatever x holds by then. More keys than a row keeps.
static void recordings_run_again(void **state)
{
    (void)state;
    for (int32_t k = 0; dev_table[k]; k++) {
        struct dev d;
        if (!opens(&d, k))
            continue;
        float one[N], *x = d.row->alloc(&d, MEM_OTHER, sizeof one);
        float *y = d.row->alloc(&d, MEM_OTHER, sizeof one);
        double sum = 0;
        int replayed = 0;
        for (int i = 0; i < 300; i++) {
            uint64_t key = i < 100 ? 7 : (uint64_t)(100 + i % 50);
            for (int j = 0; j < N; j++)
                one[j] = (float)i;
            dev_put(&d, x, one, sizeof one);
            bool again = d.row->replay(&d, 0, key);
            replayed += again;
            if (!again) {
                d.row->record(&d, 0, key);
                d.ops->add(&d.lane[0].cx, x, N, y);
                d.row->record_end(&d, 0);
            }
            sum += i;
        }
        dev_get(&d, one, y, sizeof one);
        assert_true((double)one[N - 1] == sum);
        if (k == fence_kind())
            assert_true(replayed >= 99);
        d.row->free(&d, x);
        d.row->free(&d, y);
        dev_close(&d);
    }
}

static void touches(struct dev *d, float *x)
{
    (void)d;
    x[3] = 1;
}

static void gives_the_hosts(struct dev *d, float *x)
{
    static float host[N];
    d->ops->add(&d->lane[0].cx, host, N, x);
}

static void gets_while_recording(struct dev *d, float *x)
{
    static float host[N];
    d->row->record(d, 0, 1);
    d->row->get(d, 0, host, x, sizeof host);
}

static void puts_to_the_host(struct dev *d, float *x)
{
    static float host[N];
    d->row->put(d, 0, host, x, sizeof host);
}

struct death {
    void (*fn)(struct dev *d, float *x);
};

static void child(void *arg)
{
    const struct death *how = arg;
    struct dev d;
    signal(SIGABRT, SIG_DFL);
    if (opens(&d, fence_kind()))
        how->fn(&d, d.row->alloc(&d, MEM_ACTIVATIONS, N * sizeof(float)));
}

static void dies_saying(void (*fn)(struct dev *d, float *x), const char *word)
{
    struct death how = {fn};
    struct child c = run_child(child, &how);
    if (c.status != -1 || !strstr(c.text, word))
        fail_msg("expected an end with \"%s\", but it said \"%s\"", word, c.text);
}

static void the_fence_holds(void **state)
{
    (void)state;
    dies_saying(touches, "byte 12 of a block of 4000 for activations");
    dies_saying(gives_the_hosts, "add is given the host's memory");
    dies_saying(gets_while_recording, "a get within a recording");
    dies_saying(puts_to_the_host, "put is given the host's memory");
}

// A source that changes before the queue runs is seen: nothing is copied when put returns.
static void the_fence_is_late(void **state)
{
    (void)state;
    struct dev d;
    float here = 1, back = 0;
    assert_true(opens(&d, fence_kind()));
    float *x = d.row->alloc(&d, MEM_OTHER, sizeof here);
    d.row->put(&d, 0, x, &here, sizeof here);
    here = 2;
    d.row->get(&d, 0, &back, x, sizeof back);
    assert_true(back == 0);
    d.row->wait(&d, 0);
    assert_true(back == 2);
    d.row->free(&d, x);
    dev_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrays_go_there_and_back), cmocka_unit_test(marks_ascend),
        cmocka_unit_test(ranks_take_what_is_near),  cmocka_unit_test(recordings_run_again),
        cmocka_unit_test(the_fence_holds),          cmocka_unit_test(the_fence_is_late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
