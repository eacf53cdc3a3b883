// Topologies that are described or recorded, and where ranks go on them.
#include "base/check.h"
#include "base/topo.h"
#include "child.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void load(struct topo *t, const char *synthetic, const char *xml)
{
    unsetenv("HWLOC_SYNTHETIC");
    unsetenv("HWLOC_XMLFILE");
    unsetenv("HWLOC_THISSYSTEM");
    if (synthetic)
        setenv("HWLOC_SYNTHETIC", synthetic, 1);
    if (xml)
        setenv("HWLOC_XMLFILE", xml, 1);
    struct err err;
    if (topo_load(t, &err) < 0)
        fail_msg("%s", err.text);
}

static const char orin[] = "pack:1 numa:1 l3:3 core:4 pu:1";
static const char server[] = "pack:2 numa:1(memory=64GB) l3:2 core:4 pu:2";
static const char recorded[] = "tests/data/server-2s.xml";

// "0-3,8" as bits; topologies here have fewer than 64 PUs.
static uint64_t bits(const char *list)
{
    uint64_t set = 0;
    for (const char *p = list; *p;) {
        int low, high, n = 0;
        if (sscanf(p, "%d-%d%n", &low, &high, &n) != 2 || n == 0) {
            n = 0;
            if (sscanf(p, "%d%n", &low, &n) != 1)
                fail_msg("\"%s\" is not a list of CPUs", list);
            high = low;
        }
        for (int i = low; i <= high; i++)
            set |= 1ull << i;
        p += n;
        p += *p == ',';
    }
    return set;
}

static uint64_t cpuset(const struct topo *t, int i, int n)
{
    char text[128];
    int pus;
    assert_int_equal(topo_cpuset(t, i, n, text, sizeof text, &pus), 0);
    uint64_t set = bits(text);
    assert_int_equal(__builtin_popcountll(set), pus);
    assert_true(pus > 0);
    return set;
}

static void expect_set(const struct topo *t, int i, int n, const char *want)
{
    char text[128];
    int pus;
    assert_int_equal(topo_cpuset(t, i, n, text, sizeof text, &pus), 0);
    assert_string_equal(text, want);
}

static void orin_is_counted(void **state)
{
    (void)state;
    struct topo t;
    load(&t, orin, NULL);
    assert_int_equal(t.packages, 1);
    assert_int_equal(t.numa_nodes, 1);
    assert_int_equal(t.l3s, 3);
    assert_int_equal(t.cores, 12);
    assert_int_equal(t.pus, 12);
    assert_int_equal(topo_allowed_pus(&t), 12);
    assert_true(t.memory_bytes > 0);
    assert_string_equal(t.cpu, "");
    topo_free(&t);
    assert_null(t.hwloc);
}

static void orin_is_split(void **state)
{
    (void)state;
    struct topo t;
    load(&t, orin, NULL);
    expect_set(&t, 0, 1, "0-11");
    expect_set(&t, 0, 3, "0-3"); // the clusters
    expect_set(&t, 1, 3, "4-7");
    expect_set(&t, 2, 3, "8-11");
    expect_set(&t, 11, 12, "11");
    expect_set(&t, 4, 13, "0-11"); // more ranks than cores
    topo_free(&t);
}

static void server_is_split(void **state)
{
    (void)state;
    struct topo t;
    load(&t, server, NULL);
    assert_int_equal(t.packages, 2);
    assert_int_equal(t.cores, 16);
    assert_int_equal(t.pus, 32);
    assert_int_equal(t.memory_bytes, 128000000000u);
    expect_set(&t, 0, 1, "0-31");
    expect_set(&t, 0, 2, "0-15");
    expect_set(&t, 1, 2, "16-31");
    expect_set(&t, 0, 4, "0-7");
    expect_set(&t, 15, 16, "30-31"); // both threads of a core
    topo_free(&t);
}

// Ranks share nothing and leave nothing, stay in a package, and differ by a core at most within
// one.
static void check_split(const struct topo *t, uint64_t package0, int pus_per_core)
{
    uint64_t all = cpuset(t, 0, 1);
    for (int n = 1; n <= t->cores; n++) {
        uint64_t seen = 0;
        int least[2] = {64, 64}, most[2] = {0, 0};
        for (int i = 0; i < n; i++) {
            uint64_t s = cpuset(t, i, n);
            assert_true((s & seen) == 0);
            seen |= s;
            int in1 = (s & package0) == 0;
            if (n >= t->packages)
                assert_true(in1 || (s & ~package0) == 0);
            int cores = __builtin_popcountll(s) / pus_per_core;
            assert_int_equal(cores * pus_per_core, __builtin_popcountll(s));
            least[in1] = cores < least[in1] ? cores : least[in1];
            most[in1] = cores > most[in1] ? cores : most[in1];
        }
        assert_true(seen == all);
        for (int p = 0; p < 2 && n >= t->packages; p++)
            assert_true(most[p] == 0 || most[p] - least[p] <= 1);
    }
    assert_true(cpuset(t, 3, t->cores + 1) == all);
}

static void splits_are_fair(void **state)
{
    (void)state;
    struct topo t;
    load(&t, orin, NULL);
    check_split(&t, 0xfff, 1);
    topo_free(&t);
    load(&t, server, NULL);
    check_split(&t, 0xffff, 2);
    topo_free(&t);
    load(&t, NULL, recorded);
    check_split(&t, 0xffff, 2);
    topo_free(&t);
    load(&t, "pack:1 pu:5", NULL); // no cores known
    t.cores = 0;
    expect_set(&t, 4, 5, "4");
    topo_free(&t);
}

// A recorded server with one core of its second package missing.
static void recorded_server(void **state)
{
    (void)state;
    struct topo t;
    load(&t, NULL, recorded);
    assert_int_equal(t.packages, 2);
    assert_int_equal(t.numa_nodes, 2);
    assert_int_equal(t.l3s, 4);
    assert_int_equal(t.cores, 15);
    assert_int_equal(t.pus, 30);
    assert_string_equal(t.cpu, "Example Server CPU");
    expect_set(&t, 1, 2, "16-23,26-31");
    expect_set(&t, 2, 3, "16-23,26-31"); // the first package has more cores: two ranks
    topo_free(&t);
}

static void xml_goes_round(void **state)
{
    (void)state;
    struct topo t, back;
    load(&t, orin, NULL);
    size_t len = 0;
    char *xml = topo_xml(&t, &len);
    assert_non_null(xml);
    assert_int_equal(strlen(xml), len);
    char name[] = "/tmp/fstq-topo-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, xml, len), len);
    close(fd);
    topo_xml_free(&t, xml);
    topo_xml_free(&t, NULL);
    topo_free(&t);
    load(&back, NULL, name);
    assert_int_equal(back.cores, 12);
    assert_int_equal(back.l3s, 3);
    expect_set(&back, 1, 3, "4-7");
    topo_free(&back);
    remove(name);
}

// One device of the bus at the first package, two at the second.
static void devices_have_neighbours(void **state)
{
    (void)state;
    static const struct {
        const char *bus;
        size_t first;
        int cpus; // 0: not known
    } cases[] = {{"0000:17:00.0", 0, 16},
                 {"0000:B1:00.0", 16, 14}, // two of its CPUs are not allowed
                 {"0000:b2:00.0", 16, 14},
                 {"0000:99:00.0", 0, 0},
                 {"no PCI bus", 0, 0}};
    struct topo t;
    struct err err;
    cpu_set_t cpus;
    load(&t, NULL, recorded);
    assert_false(topo_near(&t, cases[0].bus, &cpus)); // was loaded without them
    topo_free(&t);
    assert_int_equal(topo_load_devices(&t, &err), 0);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(topo_near(&t, cases[i].bus, &cpus), cases[i].cpus > 0);
        assert_int_equal(CPU_COUNT(&cpus), cases[i].cpus);
        assert_true(cases[i].cpus == 0 || CPU_ISSET(cases[i].first, &cpus));
    }
    topo_free(&t);
}

static void binding_needs_this_machine(void **state)
{
    (void)state;
    struct topo t;
    struct err err = {""};
    load(&t, orin, NULL);
    assert_int_equal(topo_bind(&t, "0-3", &err), -1);
    assert_non_null(strstr(err.text, "recorded"));
    topo_free(&t);
}

static void binds_to_one_pu(void *arg)
{
    struct topo *t = arg;
    struct err err = {""};
    char before[256], one[16], now[256];
    if (topo_current(t, before, sizeof before) < 0)
        _exit(1);
    int first;
    sscanf(before, "%d", &first);
    snprintf(one, sizeof one, "%d", first);
    if (topo_bind(t, one, &err) < 0)
        _exit(2);
    if (topo_current(t, now, sizeof now) < 0 || strcmp(now, one) != 0)
        _exit(3);
    if (topo_bind(t, "nonsense", &err) == 0 || !strstr(err.text, "not a list of CPUs"))
        _exit(4);
    if (topo_bind(t, "", &err) == 0)
        _exit(5);
    if (topo_bind(t, "99999", &err) == 0)
        _exit(6);
}

static void binding_is_seen(void **state)
{
    (void)state;
    struct topo t;
    load(&t, NULL, NULL);
    assert_true(t.pus > 0 && topo_allowed_pus(&t) > 0);
    assert_int_equal(run_child(binds_to_one_pu, &t).status, 0);
    topo_free(&t);
}

static void short_buffers_are_refused(void **state)
{
    (void)state;
    struct topo t;
    load(&t, orin, NULL);
    char text[4];
    int pus;
    assert_int_equal(topo_cpuset(&t, 0, 1, text, sizeof text, &pus), -1);
    topo_free(&t);
}

static void print_indents(void **state)
{
    (void)state;
    struct topo t;
    load(&t, "pack:1 l3:1 core:2 pu:1", NULL);
    char *text;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    topo_print(&t, f);
    fclose(f);
    assert_non_null(strstr(text, "\n  Package 0  cpus 0-1\n"));
    assert_non_null(strstr(text, "Core 1  cpus 1\n"));
    assert_null(strstr(text, "PU"));
    free(text);
    topo_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(orin_is_counted),         cmocka_unit_test(orin_is_split),
        cmocka_unit_test(server_is_split),         cmocka_unit_test(splits_are_fair),
        cmocka_unit_test(recorded_server),         cmocka_unit_test(xml_goes_round),
        cmocka_unit_test(devices_have_neighbours), cmocka_unit_test(binding_needs_this_machine),
        cmocka_unit_test(binding_is_seen),         cmocka_unit_test(short_buffers_are_refused),
        cmocka_unit_test(print_indents),
    };
    return cmocka_run_group_tests_name("base topo", tests, NULL, NULL);
}
