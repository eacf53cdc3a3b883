// Failures, memory by purpose, the clock, shapes and order statistics.
#include "base/buildinfo.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/rng.h"
#include "base/shape.h"
#include "base/stats.h"
#include "child.h"
#include "scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void err_set_formats_and_cuts(void **state)
{
    (void)state;
    struct err e = {""};
    assert_int_equal(err_set(&e, "line %d", 7), -1);
    assert_string_equal(e.text, "line 7");
    assert_int_equal(err_set(NULL, "nobody asks"), -1);
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    err_set(&e, "%s", big);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
}

static void dies(void *arg)
{
    (void)arg;
    die(STATUS_ENV, "no %s", "luck");
}

static void dies_with_a_name(void *arg)
{
    check_identity(3, 8, "orin-2");
    warn("first");
    dies(arg);
}

static void hook(int status)
{
    _exit(100 + status);
}

static void dies_with_a_hook(void *arg)
{
    check_abort_hook(hook);
    dies(arg);
}

static void dies_at_length(void *arg)
{
    (void)arg;
    char big[5000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    die(STATUS_USAGE, "%s", big);
}

static void die_says_who_and_ends(void **state)
{
    (void)state;
    struct child c = run_child(dies, NULL);
    assert_int_equal(c.status, STATUS_ENV);
    assert_string_equal(c.text, "fstq: no luck\n");
    c = run_child(dies_with_a_name, NULL);
    assert_int_equal(c.status, STATUS_ENV);
    assert_string_equal(c.text, "fstq: rank 3 of 8 on orin-2: warning: first\n"
                                "fstq: rank 3 of 8 on orin-2: no luck\n");
    c = run_child(dies_with_a_hook, NULL);
    assert_int_equal(c.status, 100 + STATUS_ENV);
    c = run_child(dies_at_length, NULL);
    assert_int_equal(c.status, STATUS_USAGE);
    size_t n = strlen(c.text);
    assert_true(n > 900 && n < 1100 && c.text[n - 1] == '\n');
}

static void mem_is_booked_by_purpose(void **state)
{
    (void)state;
    mem_peak_reset();
    size_t before = mem_now(MEM_CODEC), other = mem_now(MEM_NET);
    static const size_t sizes[] = {0, 1, 63, 64, 65, 1000000};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        unsigned char *p = mem_alloc(MEM_CODEC, sizes[i]);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t k = 0; k < sizes[i]; k++)
            assert_int_equal(p[k], 0);
        memset(p, 0xff, sizes[i]);
        assert_int_equal(mem_now(MEM_CODEC), before + sizes[i]);
        mem_free(p);
    }
    assert_int_equal(mem_now(MEM_CODEC), before);
    assert_int_equal(mem_peak(MEM_CODEC), before + 1000000);
    assert_int_equal(mem_now(MEM_NET), other);
    mem_peak_reset();
    assert_int_equal(mem_peak(MEM_CODEC), before);
    void *a = mem_alloc(MEM_CODEC, 100), *b = mem_alloc(MEM_CODEC, 50);
    mem_free(a);
    void *c = mem_alloc(MEM_CODEC, 20);
    assert_int_equal(mem_peak(MEM_CODEC), before + 150);
    mem_free(b);
    mem_free(c);
    mem_free(NULL);
    for (int p = 0; p < MEM_PURPOSES; p++)
        assert_non_null(mem_purpose_name[p]);
}

static void take_and_give_back(void *arg, int32_t item, int32_t lane)
{
    (void)arg;
    (void)lane;
    mem_free(mem_alloc(MEM_DATA, (size_t)item));
}

static void mem_counts_from_threads(void **state)
{
    (void)state;
    size_t before = mem_now(MEM_DATA);
    pool_open(4);
    pool_run(&(struct pool_loop){
        .lanes = 4, .n = 4000, .fn = take_and_give_back, .site = (pool_site *)take_and_give_back});
    pool_close();
    assert_int_equal(mem_now(MEM_DATA), before);
    assert_true(mem_peak(MEM_DATA) >= before + 3999);
}

// Under ASan a block that is too large must be refused too, not end the program in ASan's way.
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static void takes_everything(void *arg)
{
    mem_free(mem_alloc(MEM_WEIGHTS, *(size_t *)arg));
}

static void mem_says_when_there_is_none(void **state)
{
    (void)state;
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 63, SIZE_MAX / 2 - 100};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        size_t size = sizes[i];
        struct child c = run_child(takes_everything, &size);
        assert_int_equal(c.status, STATUS_ENV);
        assert_non_null(strstr(c.text, "out of memory"));
        assert_non_null(strstr(c.text, "weights"));
    }
}

// Recorded machines: what /proc/meminfo says, less where a group of control leaves less.
static void room_is_the_least_of_all_limits(void **state)
{
    (void)state;
    static const struct {
        const char *root, *file, *text;
    } files[] = {
        {"plain", "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n"},
        {"v2", "proc/meminfo", "MemAvailable:    4000 kB\n"},
        {"v2", "proc/self/cgroup", "0::/a/b\n"},
        {"v2", "sys/fs/cgroup/a/b/memory.max", "max\n"},
        {"v2", "sys/fs/cgroup/a/memory.max", "3000000\n"},
        {"v2", "sys/fs/cgroup/a/memory.current", "1200000\n"},
        {"v2", "sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 200000\n"},
        {"v1", "proc/meminfo", "MemAvailable:    4000 kB\n"},
        {"v1", "proc/self/cgroup", "5:cpu:/x\n4:memory:/job\n"},
        {"v1", "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "1000000\n"},
        {"v1", "sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1000001\n"},
        {"free", "proc/meminfo", "MemAvailable:    4000 kB\n"},
        {"free", "proc/self/cgroup", "4:memory:/\n"},
        {"free", "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"},
        {"free", "sys/fs/cgroup/memory/memory.usage_in_bytes", "1000001\n"},
    };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char path[200];
        snprintf(path, sizeof path, "%s/%s", files[i].root, files[i].file);
        scratch_write(path, files[i].text);
    }
    assert_int_equal(mem_room(scratch_path("plain")), 4000 * 1024);
    assert_int_equal(mem_room(scratch_path("v2")), 2000000);
    assert_int_equal(mem_room(scratch_path("v1")), 0);
    assert_int_equal(mem_room(scratch_path("free")), 4000 * 1024);
    assert_true(mem_room(scratch_path("nothing")) == SIZE_MAX);
    assert_true(mem_room("") > 0);
}

static void asks_for_a_lot(void *arg)
{
    struct err err = {""};
    if (mem_fits(*(double *)arg, "fed.clients = 7", &err))
        die(STATUS_USAGE, "%s", err.text);
}

static void what_does_not_fit_is_named(void **state)
{
    (void)state;
    double size = 1e18;
    struct child c = run_child(asks_for_a_lot, &size);
    assert_int_equal(c.status, STATUS_USAGE);
    assert_non_null(strstr(c.text, "fed.clients = 7: takes 953674316407 MiB of memory, and "));
    size = 1000;
    c = run_child(asks_for_a_lot, &size);
    assert_int_equal(c.status, 0);
    assert_string_equal(c.text, "");
}

static void rss_peak_is_known(void **state)
{
    (void)state;
    assert_true(mem_rss_peak() > 500000); // no C program with these libraries is smaller
}

static void overfills(void *arg)
{
    arena_take(arg, 900);
    arena_take(arg, 100);
}

static void wraps(void *arg)
{
    arena_take(arg, SIZE_MAX - 10);
}

static void arena_takes_and_releases(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, MEM_CODEC, "scratch", 1000);
    struct child c = run_child(overfills, &a);
    assert_int_equal(c.status, STATUS_ENV);
    assert_non_null(strstr(c.text, "arena scratch is full: 100 bytes wanted, 900 of 1000 used"));
    assert_int_equal(run_child(wraps, &a).status, STATUS_ENV);
    char *p = arena_take(&a, 10);
    size_t mark = arena_mark(&a);
    char *q = arena_take(&a, 100);
    assert_int_equal((uintptr_t)p % 64, 0);
    assert_int_equal((uintptr_t)q % 64, 0);
    assert_true(q >= p + 10);
    arena_release(&a, mark);
    assert_ptr_equal(arena_take(&a, 5), q);
    assert_int_equal(a.peak, 164);
    arena_release(&a, 0);
    assert_non_null(arena_take(&a, 1000)); // to the last byte
    arena_free(&a);
    assert_null(a.base);
}

static void clock_runs_and_sleeps(void **state)
{
    (void)state;
    int64_t t = clock_ns();
    clock_sleep_until(t + 2000000);
    assert_true(clock_ns() - t >= 2000000);
    clock_sleep_until(t); // in the past: at once
    clock_sleep_until(-1);
    int64_t cpu = clock_cpu_ns();
    volatile double x = 1;
    for (int i = 0; i < 1000000; i++)
        x = x * 0.5 + 1;
    assert_true(clock_cpu_ns() > cpu);
    assert_true(clock_unix_ns() > 1600000000ll * 1000000000);
}

static void shape_lays_out_and_hashes(void **state)
{
    (void)state;
    struct shape s, same, other;
    shape_init(&s);
    shape_init(&same);
    shape_init(&other);
    for (uint32_t i = 0; i < 40; i++) {
        char name[48];
        snprintf(name, sizeof name, "layer.%u.q.A", i);
        shape_add(&s, name, 8, 100 + i, SHAPE_LORA_A);
        shape_add(&same, name, 8, 100 + i, SHAPE_LORA_A);
        shape_add(&other, name, i == 39 ? 100 + i : 8, i == 39 ? 8 : 100 + i, SHAPE_LORA_A);
    }
    shape_seal(&s);
    shape_seal(&same);
    shape_seal(&other);
    assert_int_equal(s.n_tensors, 40);
    size_t offset = 0;
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(s.tensors[i].offset, offset);
        offset += 8 * (100 + (size_t)i);
    }
    assert_int_equal(s.n_values, offset);
    assert_int_equal(s.hash, same.hash);
    assert_int_not_equal(s.hash, other.hash); // as many values, turned round
    uint64_t hash = s.hash;
    s.tensors[0].kind = SHAPE_LORA_B;
    shape_seal(&s);
    assert_int_not_equal(s.hash, hash);
    s.tensors[0].kind = SHAPE_LORA_A;
    s.tensors[3].name[0] = 'L';
    shape_seal(&s);
    assert_int_not_equal(s.hash, hash);
    s.tensors[3].name[0] = 'l';
    shape_seal(&s);
    assert_int_equal(s.hash, hash);
    shape_free(&s);
    shape_free(&same);
    shape_free(&other);
    assert_int_equal(s.n_tensors, 0);
}

// The hash goes over the wire: ranks of another build must find the same one.
static void shape_hash_is_golden(void **state)
{
    (void)state;
    struct shape s;
    shape_init(&s);
    shape_add(&s, "x", 3, 5, SHAPE_OTHER);
    shape_add(&s, "layer.0.q.A", 8, 288, SHAPE_LORA_A);
    shape_add(&s, "layer.0.q.B", 288, 8, SHAPE_LORA_B);
    shape_seal(&s);
    assert_int_equal(s.hash, 0xedb9896562382232ull);
    shape_free(&s);
}

static void adds_a_long_name(void *arg)
{
    shape_add(arg, "a name that is a great deal longer than what is kept", 1, 1, SHAPE_OTHER);
}

static void adds_too_much(void *arg)
{
    for (int i = 0; i < 2; i++)
        shape_add(arg, "big", UINT32_MAX, UINT32_MAX, SHAPE_OTHER);
}

static void shape_has_limits(void **state)
{
    (void)state;
    struct shape s;
    shape_init(&s);
    assert_int_equal(run_child(adds_a_long_name, &s).status, STATUS_USAGE);
    assert_int_equal(run_child(adds_too_much, &s).status, STATUS_USAGE);
}

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-12 * (1 + fabs(want))))
        fail_msg("%.17g, wanted %.17g", got, want);
}

static void stats_by_hand(void **state)
{
    (void)state;
    double v[] = {9, 4, 4, 2, 5, 7, 5, 4};
    struct stats s = stats_of(v, 8); // 2 4 4 4 5 5 7 9
    assert_int_equal(s.n, 8);
    near(s.min, 2);
    near(s.max, 9);
    near(s.mean, 5);
    near(s.stddev, sqrt(32.0 / 7));
    near(s.median, 4.5);
    near(s.mad, 0.5); // distances 2.5 .5 .5 .5 .5 .5 2.5 4.5
    near(s.p25, 4);
    near(s.p75, 5.5);
    near(s.p95, 7 + 0.65 * 2);
    near(s.p99, 7 + 0.93 * 2);
    near(s.ci_low, 2); // ranks 1 and 8
    near(s.ci_high, 9);
    double w[] = {1, 1, 2, 2, 4, 6, 9};
    near(stats_of(w, 7).mad, 1);
    double even[] = {1, 2, 3, 4};
    s = stats_of(even, 4);
    near(s.p25, 1.75);
    near(s.median, 2.5);
    near(s.mad, 1);
}

static void stats_of_few(void **state)
{
    (void)state;
    struct stats s = stats_of(NULL, 0);
    assert_int_equal(s.n, 0);
    assert_true(isnan(s.median) && isnan(s.mean) && isnan(s.min) && isnan(s.ci_low));
    double one[] = {3};
    s = stats_of(one, 1);
    near(s.median, 3);
    near(s.p99, 3);
    near(s.mad, 0);
    assert_true(isnan(s.stddev) && isnan(s.ci_low) && isnan(s.ci_high));
    double with_missing[] = {(double)NAN, 2, (double)NAN, 1};
    s = stats_of(with_missing, 4);
    assert_int_equal(s.n, 2);
    near(s.median, 1.5);
    double infinite[] = {1, 2, (double)INFINITY};
    s = stats_of(infinite, 3);
    near(s.median, 2);
    assert_true(isinf(s.max));
}

// Ranks of the 95% interval of the median, from the binomial's table.
static void interval_ranks(void **state)
{
    (void)state;
    static const struct {
        size_t n, low, high; // 1-based ranks
    } want[] = {{6, 1, 6},    {7, 1, 7},     {8, 1, 8},        {9, 2, 8},
                {10, 2, 9},   {15, 4, 12},   {20, 6, 15},      {30, 10, 21},
                {50, 18, 33}, {100, 40, 61}, {1000, 469, 532}, {100000, 49690, 50311}};
    static double v[100000];
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        for (size_t k = 0; k < want[i].n; k++)
            v[k] = (double)(want[i].n - k); // descending: they are sorted here
        struct stats s = stats_of(v, want[i].n);
        near(s.ci_low, (double)want[i].low);
        near(s.ci_high, (double)want[i].high);
    }
    for (size_t n = 1; n < 6; n++) {
        double few[] = {1, 2, 3, 4, 5};
        assert_true(isnan(stats_of(few, n).ci_low));
    }
}

// The interval does what it says: 95% of 2000 samples of 15 hold the median.
static void interval_covers(void **state)
{
    (void)state;
    struct rng r = rng_stream(9, RNG_TEST, 0, 0, 0);
    int held = 0;
    for (int i = 0; i < 2000; i++) {
        double v[15];
        for (int k = 0; k < 15; k++)
            v[k] = rng_normal(&r);
        struct stats s = stats_of(v, 15);
        held += s.ci_low <= 0 && 0 <= s.ci_high;
    }
    assert_in_range(held, 1900, 1960); // exactly 96.48% in expectation
}

static void mad_against_sorting(void **state)
{
    (void)state;
    struct rng r = rng_stream(9, RNG_TEST, 1, 0, 0);
    for (size_t n = 1; n < 60; n++) {
        double v[60], d[60];
        for (size_t k = 0; k < n; k++)
            v[k] = (double)rng_below(&r, 20); // ties
        struct stats s = stats_of(v, n);
        for (size_t k = 0; k < n; k++)
            d[k] = fabs(v[k] - s.median);
        near(s.mad, stats_of(d, n).median);
    }
}

static void bytes_are_little_endian(void **state)
{
    (void)state;
    uint8_t b[9] = {0};
    put_u64(b + 1, 0x0102030405060708ull); // unaligned
    for (int i = 0; i < 8; i++)
        assert_int_equal(b[1 + i], 8 - i);
    assert_int_equal(get_u64(b + 1), 0x0102030405060708ull);
    put_u16(b, 0xfffe);
    assert_int_equal(get_u16(b), 0xfffe);
    put_u32(b, 0x80000001u);
    assert_int_equal(get_u32(b), 0x80000001u);
    put_f32(b, -1.5f);
    assert_int_equal(get_u32(b), 0xbfc00000u);
    assert_true(get_f32(b) == -1.5f);
    put_f64(b, -1.5);
    assert_true(get_f64(b) == -1.5 && b[7] == 0xbf && b[6] == 0xf8);
}

// Every half there is comes back, and every float between two neighbours goes to the nearer, ties
// even.
static void halves_round_to_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float x = f16_to_f32((uint16_t)h);
        if (x == x)
            assert_int_equal(f16_from_f32(x), h);
        else
            assert_true((f16_from_f32(x) & 0x7fff) > 0x7c00);
        x = bf16_to_f32((uint16_t)h);
        if (x == x)
            assert_int_equal(bf16_from_f32(x), h);
        else
            assert_true((bf16_from_f32(x) & 0x7fff) > 0x7f80);
    }
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float low = f16_to_f32((uint16_t)h), high = f16_to_f32((uint16_t)(h + 1));
        float middle = low + (high - low) / 2; // exact: a float has more bits
        assert_int_equal(f16_from_f32(middle), h & 1 ? h + 1 : h);
        assert_int_equal(f16_from_f32(nextafterf(middle, 0)), h);
        assert_int_equal(f16_from_f32(nextafterf(middle, 1e9f)), h + 1);
        assert_int_equal(f16_from_f32(-middle), 0x8000 | (h & 1 ? h + 1 : h));
    }
    assert_int_equal(f16_from_f32(65519.996f), 0x7bff);
    assert_int_equal(f16_from_f32(65520), 0x7c00);
    assert_int_equal(bf16_from_f32(f32_from_bits(0x3f808000)), 0x3f80);
    assert_int_equal(bf16_from_f32(f32_from_bits(0x3f818000)), 0x3f82);
    assert_int_equal(bf16_from_f32(f32_from_bits(0x7f7fffff)), 0x7f80);
}

static void buildinfo_is_there(void **state)
{
    (void)state;
    const char *const *text = &buildinfo.version;
    for (size_t i = 0; i < sizeof buildinfo / sizeof *text; i++)
        assert_true(text[i] && text[i][0]);
    assert_string_equal(buildinfo.version, FSTQ_VERSION);
}

static int make_scratch(void **state)
{
    (void)state;
    return scratch_make();
}

static int drop_scratch(void **state)
{
    (void)state;
    return scratch_drop();
}

// Rows that are in use stay, room at least doubles, and what is new is zero.
static void grows(void **state)
{
    (void)state;
    size_t cap = 0, before = mem_now(MEM_OTHER);
    int32_t *v = NULL;
    for (int32_t i = 0; i < 1000; i++) {
        size_t had = cap;
        v = mem_grow(MEM_OTHER, v, (size_t)i, (size_t)i + 1, &cap, sizeof *v);
        assert_true(cap > (size_t)i && (cap == had || cap >= 2 * had));
        assert_int_equal(v[i], 0);
        v[i] = i;
    }
    for (int32_t i = 0; i < 1000; i++)
        assert_int_equal(v[i], i);
    assert_ptr_equal(mem_grow(MEM_OTHER, v, 1000, cap, &cap, sizeof *v), v);
    v = mem_grow(MEM_OTHER, v, 0, 5000, &cap, sizeof *v); // none is in use
    assert_int_equal(cap, 5000);
    mem_free(v);
    assert_int_equal(mem_now(MEM_OTHER), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_set_formats_and_cuts),
        cmocka_unit_test(die_says_who_and_ends),
        cmocka_unit_test(mem_is_booked_by_purpose),
        cmocka_unit_test(mem_counts_from_threads),
        cmocka_unit_test(mem_says_when_there_is_none),
        cmocka_unit_test(room_is_the_least_of_all_limits),
        cmocka_unit_test(what_does_not_fit_is_named),
        cmocka_unit_test(rss_peak_is_known),
        cmocka_unit_test(arena_takes_and_releases),
        cmocka_unit_test(clock_runs_and_sleeps),
        cmocka_unit_test(shape_lays_out_and_hashes),
        cmocka_unit_test(shape_hash_is_golden),
        cmocka_unit_test(shape_has_limits),
        cmocka_unit_test(stats_by_hand),
        cmocka_unit_test(stats_of_few),
        cmocka_unit_test(interval_ranks),
        cmocka_unit_test(interval_covers),
        cmocka_unit_test(mad_against_sorting),
        cmocka_unit_test(bytes_are_little_endian),
        cmocka_unit_test(halves_round_to_even),
        cmocka_unit_test(grows),
        cmocka_unit_test(buildinfo_is_there),
    };
    return cmocka_run_group_tests_name("base", tests, make_scratch, drop_scratch);
}
