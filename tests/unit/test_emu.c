// The emulation itself: what must be found is planted, and found; and what the row says that has no
// GPU, no driver or no cuBLAS.
#include "child.h"
#include "dev/dev.h"
#include "tests/emu/emu_run.h"
#include "tests/emu/planted.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 64, INSUFFICIENT_DRIVER = 35, NO_DEVICE = 100 };

static const struct {
    enum emu_order order;
    uint64_t seed;
} ways[] = {{EMU_FORWARD, 0}, {EMU_BACKWARD, 0}, {EMU_RANDOM, 1}, {EMU_RANDOM, 2}, {EMU_RANDOM, 3}};

struct arrays {
    void *stream;
    float *x, *y, here[N];
};

static struct arrays begin(void)
{
    struct arrays a = {
        .stream = emu_stream(), .x = emu_alloc(sizeof a.here), .y = emu_alloc(sizeof a.here)};
    for (int i = 0; i < N; i++)
        a.here[i] = (float)i;
    emu_put(a.stream, a.x, a.here, sizeof a.here);
    emu_wait(a.stream);
    return a;
}

static void end(struct arrays *a)
{
    emu_free(a->x);
    emu_free(a->y);
    emu_stream_free(a->stream);
}

static int told;
static char last[2048];

static void tell(const char *text)
{
    told++;
    snprintf(last, sizeof last, "%s", text);
}

// A barrier that is missing is a race in every order, and a wrong value in some.
static void missing_barriers_show(void **state)
{
    (void)state;
    int wrong = 0, sum = 3 * N * (N - 1) / 2;
    for (size_t w = 0; w < ARRAY_LEN(ways); w++) {
        struct arrays a = begin();
        for (int barriers = 0; barriers < 2; barriers++) {
            uint64_t before = emu_counted().findings;
            emu_seed(ways[w].seed, ways[w].order);
            emu_on_error(tell);
            planted_two_sums(a.stream, a.x, a.y, barriers);
            emu_put(a.stream, a.here, a.y, sizeof a.here);
            emu_wait(a.stream);
            emu_on_error(NULL);
            assert_true((emu_counted().findings > before) == !barriers);
            int bad = 0;
            for (int i = 0; i < N; i++)
                bad += a.here[i] != (float)sum;
            assert_true(!barriers || !bad);
            wrong += bad > 0;
        }
        end(&a);
    }
    assert_true(told > 0 && strstr(last, "a race at byte") && strstr(last, "planted.cu:"));
    assert_true(wrong > 0);
}

// Between blocks a fence and an atomic order; without the fence it is a race.
static void fences_order_blocks(void **state)
{
    (void)state;
    for (size_t w = 0; w < ARRAY_LEN(ways); w++)
        for (int fence = 0; fence < 2; fence++) {
            struct arrays a = begin();
            int32_t *count = emu_alloc(sizeof *count);
            uint64_t before = emu_counted().findings;
            emu_seed(ways[w].seed, ways[w].order);
            emu_set(a.stream, count, 0, sizeof *count);
            emu_on_error(tell);
            planted_last_adds(a.stream, a.x, a.y, count, a.y + N - 1, fence);
            emu_put(a.stream, a.here, a.y + N - 1, sizeof *a.here);
            emu_wait(a.stream);
            emu_on_error(NULL);
            assert_true((emu_counted().findings > before) == !fence);
            assert_true(a.here[0] == 10);
            emu_free(count);
            end(&a);
        }
}

// A stream does nothing until somebody waits, and a graph again what was captured.
static void streams_are_late(void **state)
{
    (void)state;
    struct arrays a = begin();
    float back = -1;
    emu_seed(1, EMU_RANDOM);
    emu_capture_begin(a.stream);
    planted_two_sums(a.stream, a.x, a.y, true);
    void *graph = emu_capture_end(a.stream);
    emu_put(a.stream, a.x, a.here, sizeof a.here);
    for (int i = 0; i < N; i++)
        a.here[i] = 1; // read when the stream runs
    for (int again = 0; again < 2; again++) {
        emu_graph_launch(graph, a.stream);
        emu_put(a.stream, &back, a.y, sizeof back);
        assert_true(back == (again ? 3 * N : -1));
        emu_wait(a.stream);
        assert_true(back == 3 * N);
    }
    emu_graph_free(graph);
    end(&a);
}

// In two streams: x = here, then y = x. Whether or not the second waits for the first, all of it is
// done when the first one is.
static void *copy_by_two(struct arrays *a, void *other, bool waits, bool graph)
{
    void *begun = emu_event(), *there = emu_event(), *done = emu_event(), *g = NULL;
    if (graph)
        emu_capture_begin(a->stream);
    emu_event_record(begun, a->stream, false);
    emu_event_wait(other, begun);
    emu_put(a->stream, a->x, a->here, sizeof a->here);
    emu_event_record(there, a->stream, false);
    if (waits)
        emu_event_wait(other, there);
    emu_put(other, a->y, a->x, sizeof a->here);
    emu_event_record(done, other, false);
    emu_event_wait(a->stream, done);
    if (graph)
        g = emu_capture_end(a->stream);
    emu_event_free(begun); // a record stays what it was
    emu_event_free(there);
    emu_event_free(done);
    return g;
}

static void missing_waits_show(void **state)
{
    (void)state;
    for (int graph = 0; graph < 2; graph++) {
        int wrong = 0;
        for (size_t w = 0; w < ARRAY_LEN(ways); w++)
            for (int waits = 0; waits < 2; waits++) {
                struct arrays a = begin();
                float back[N];
                void *other = emu_stream();
                emu_seed(ways[w].seed, ways[w].order);
                emu_set(a.stream, a.x, 0, sizeof a.here);
                emu_wait(a.stream);
                void *g = copy_by_two(&a, other, waits, graph);
                if (g)
                    emu_graph_launch(g, a.stream);
                emu_put(a.stream, back, a.y, sizeof back);
                emu_wait(a.stream);
                bool right = memcmp(back, a.here, sizeof back) == 0;
                assert_true(right || !waits);
                wrong += !right;
                if (g)
                    emu_graph_free(g);
                emu_stream_free(other);
                end(&a);
            }
        assert_true(wrong > 0);
    }
}

struct death {
    void (*fn)(struct arrays *a, int which);
    int which;
};

static void die_in_child(void *arg)
{
    const struct death *d = arg;
    struct arrays a = begin();
    signal(SIGABRT, SIG_DFL);
    d->fn(&a, d->which);
}

static void mistake(struct arrays *a, int which)
{
    float host[N] = {0};
    planted_mistake(a->stream, which, which == PLANTED_READS_HOST ? host : a->x, a->y, N);
    emu_wait(a->stream);
}

static void touch(struct arrays *a, int which)
{
    (void)which;
    a->x[3] = 1;
}

static void wait_in_capture(struct arrays *a, int which)
{
    (void)which;
    emu_capture_begin(a->stream);
    emu_wait(a->stream);
}

enum { UNJOINED, FREED, REPLACED };
static void wrong_capture(struct arrays *a, int which)
{
    void *other = emu_stream(), *begun = emu_event(), *more = emu_alloc(sizeof a->here);
    emu_capture_begin(a->stream);
    emu_event_record(begun, a->stream, false);
    emu_set(a->stream, more, 0, sizeof a->here);
    if (which == UNJOINED) {
        emu_event_wait(other, begun);
        emu_set(other, a->y, 0, sizeof a->here);
    }
    void *g = emu_capture_end(a->stream);
    emu_free(more);
    if (which == REPLACED && emu_alloc(sizeof a->here) != more)
        return;
    emu_graph_launch(g, a->stream);
}

enum { HOLDS, WRITES };
static void touch_managed(struct arrays *a, int which)
{
    float *x = emu_alloc_shared(sizeof a->here, true);
    x[0] = 1; // nothing is queued
    emu_put(a->stream, a->x, x, sizeof a->here);
    if (which == WRITES)
        emu_wait(a->stream);
    x[0] = 2;
    if (which == WRITES)
        abort(); // as it should be, without a word
}

static void mistakes_end_the_program(void **state)
{
    (void)state;
    static const struct {
        struct death how;
        const char *word;
    } cases[] = {
        {{mistake, PLANTED_UNWRITTEN}, "reads shared memory that nothing wrote"},
        {{mistake, PLANTED_OUTSIDE}, "writes outside of every block"},
        {{mistake, PLANTED_READS_HOST}, "reads the host's memory"},
        {{mistake, PLANTED_BARRIERS}, "different barriers"},
        {{mistake, PLANTED_STUCK}, "wait for each other for ever"},
        {{mistake, PLANTED_MASK}, "without its own"},
        {{mistake, PLANTED_ACROSS}, "a race at byte"},
        {{mistake, PLANTED_CRASH}, "the host's memory"},
        {{mistake, PLANTED_SHARED}, "50000 bytes of dynamic shared memory where 49152"},
        {{mistake, PLANTED_THREADS}, "blocks of 1025 x 1 x 1 threads"},
        {{touch, 0}, "host code touches the device's memory, byte 12"},
        {{wait_in_capture, 0}, "whose work is being captured"},
        {{touch_managed, HOLDS}, "touches managed memory while work is under way"},
        {{touch_managed, WRITES}, ""},
        {{wrong_capture, UNJOINED}, "work of another stream is not waited for"},
        {{wrong_capture, FREED}, "memory which was freed since"},
        {{wrong_capture, REPLACED}, "memory which was freed since"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct death how = cases[i].how;
        struct child c = run_child(die_in_child, &how);
        if (c.status != -1 || !strstr(c.text, cases[i].word))
            fail_msg("expected an end with \"%s\", but it said \"%s\"", cases[i].word, c.text);
    }
}

static int32_t kind_of(const char *name)
{
    int32_t k = 0;
    while (dev_table[k] && strcmp(dev_table[k]->name, name) != 0)
        k++;
    assert_non_null(dev_table[k]);
    return k;
}

static int devices;

static void count_device(void *arg, int32_t i, const char *text)
{
    (void)arg;
    assert_int_equal(i, devices++);
    assert_non_null(strstr(text, "sm_"));
    assert_non_null(strstr(text, "Emulated GPU, 8192 MiB, 4096 of them free"));
    assert_non_null(strstr(text, "at most 25 W"));
}

static void what_is_missing_is_said(void **state)
{
    (void)state;
    static const struct {
        struct emu_machine m;
        const char *word; // NULL: it can be used
    } cases[] = {
        {{0, INSUFFICIENT_DRIVER, 0, false, false}, "no driver"},
        {{0, INSUFFICIENT_DRIVER, 12000, false, false}, "older than CUDA 13.0"},
        {{0, NO_DEVICE, 13000, false, false}, "no GPU"},
        {{0, 0, 13000, false, false}, "no GPU"},
        {{0, 999, 13000, false, false}, "unknown error"},
        {{2, 0, 13000, true, false}, "no libcublas.so.13"},
        {{2, 0, 13000, false, false}, NULL},
    };
    int32_t kind = kind_of("emu");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = {""};
        struct dev d;
        emu_claim(cases[i].m);
        int bad = dev_usable(kind, &err);
        assert_int_equal(bad, cases[i].word ? -1 : 0);
        assert_true(!bad ||
                    (strstr(err.text, "dev.kind = emu: ") && strstr(err.text, cases[i].word)));
        assert_int_equal(dev_open(&d, kind, 1, &err), bad);
        if (!bad)
            dev_close(&d);
    }
    struct err err;
    assert_int_equal(dev_table[kind]->each(count_device, NULL, &err), 0);
    assert_int_equal(devices, 2);
}

// Ranks of a host take GPUs in turn; what lies on one is booked until it is closed.
static void ranks_share_and_memory_is_booked(void **state)
{
    (void)state;
    static const struct {
        int32_t rank, ranks;
        const char *text;
    } cases[] = {{0, 1, "GPU 0 of 2, 0000:00:00.0"},
                 {1, 2, "GPU 1 of 2, 0000:01:00.0"},
                 {0, 3, "GPU 0 of 2, 0000:00:00.0, for 2 ranks"},
                 {2, 3, "GPU 0 of 2, 0000:00:00.0, for 2 ranks"},
                 {1, 3, "GPU 1 of 2, 0000:01:00.0"}};
    const size_t before = mem_now(MEM_WEIGHTS), other = mem_now(MEM_OTHER);
    emu_claim((struct emu_machine){2, 0, 13000, false, false});
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct dev d;
        struct err err;
        char text[64];
        dev_take_place(cases[i].rank, cases[i].ranks, NULL);
        assert_int_equal(dev_open(&d, kind_of("emu"), 1, &err), 0);
        d.row->describe(&d, text, sizeof text);
        assert_string_equal(text, cases[i].text);
        void *kept = d.row->alloc(&d, MEM_WEIGHTS, 1000),
             *freed = d.row->alloc(&d, MEM_WEIGHTS, 24);
        assert_int_equal(mem_now(MEM_WEIGHTS), before + 1024);
        assert_true(mem_now(MEM_OTHER) >= other + ((size_t)32 << 20)); // the library's
        d.row->free(&d, freed);
        assert_int_equal(mem_now(MEM_WEIGHTS), before + 1000);
        (void)kept; // goes with the device
        dev_close(&d);
        assert_int_equal(mem_now(MEM_WEIGHTS), before);
        assert_int_equal(mem_now(MEM_OTHER), other);
    }
    dev_take_place(0, 1, NULL);
}

// Where a GPU shares the host's memory its arrays may be such that nothing is copied.
static void buffers_are_shared(void **state)
{
    (void)state;
    const int32_t kind = kind_of("emu");
    for (int32_t which = DEV_BUFFERS_DEVICE; which <= DEV_BUFFERS_MANAGED; which++)
        for (int integrated = 0; integrated < 2; integrated++) {
            struct dev d;
            struct err err;
            const size_t before = mem_now(MEM_OPTIMIZER);
            emu_claim((struct emu_machine){1, 0, 13000, false, integrated});
            assert_int_equal(dev_open(&d, kind, 1, &err), 0);
            int bad = dev_buffers(&d, which, &err);
            assert_int_equal(bad, which > 0 && !integrated ? -1 : 0);
            if (bad) {
                assert_non_null(strstr(err.text, "memory of its own"));
                dev_close(&d);
                continue;
            }
            float *x = d.row->alloc(&d, MEM_OPTIMIZER, N * sizeof *x);
            float *w = d.row->alloc(&d, MEM_WEIGHTS, N * sizeof *w), here[N], room[N];
            assert_int_equal(mem_now(MEM_OPTIMIZER), before + sizeof here);
            for (int i = 0; i < N; i++)
                here[i] = (float)i;
            dev_put(&d, x, here, sizeof here);
            uint64_t got = emu_counted().get_bytes;
            float *mine = dev_take(&d, x, sizeof here, room);
            assert_true((mine == x) == (which > 0));
            assert_true((emu_counted().get_bytes == got) == (which > 0));
            mine[3] = -7;
            dev_give(&d, x, sizeof here, mine);
            d.ops->add(&d.lane[0].cx, x, N, x);
            dev_get(&d, here, x, sizeof here);
            assert_true(here[3] == -14 && here[4] == 8);
            assert_true(dev_take(&d, w, sizeof here, room) == room); // weights are the GPU's own
            d.row->free(&d, x);
            assert_int_equal(mem_now(MEM_OPTIMIZER), before);
            d.row->free(&d, w);
            dev_close(&d);
        }
    emu_claim((struct emu_machine){1, 0, 13000, false, false});
    struct dev d;
    struct err err;
    assert_int_equal(dev_open(&d, kind_of("cpu"), 1, &err), 0);
    assert_int_equal(dev_buffers(&d, DEV_BUFFERS_MAPPED, &err), -1);
    assert_non_null(strstr(err.text, "dev.buffers = mapped: not supported by dev.kind = cpu"));
    dev_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_barriers_show),
        cmocka_unit_test(fences_order_blocks),
        cmocka_unit_test(streams_are_late),
        cmocka_unit_test(missing_waits_show),
        cmocka_unit_test(mistakes_end_the_program),
        cmocka_unit_test(what_is_missing_is_said),
        cmocka_unit_test(ranks_share_and_memory_is_booked),
        cmocka_unit_test(buffers_are_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
