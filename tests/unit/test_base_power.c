// Sensors, on trees of files as the kernels of each board lay them out.
#include "base/check.h"
#include "base/clock.h"
#include "base/power.h"
#include "scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const struct power_sensor *sensor(const char *name)
{
    for (int i = 0; power_sensors[i]; i++)
        if (strcmp(power_sensors[i]->name, name) == 0)
            return power_sensors[i];
    fail_msg("no sensor %s", name);
    return NULL;
}

static struct power_rail rails[POWER_RAILS];
static char why[96];

static int find(const char *name)
{
    memset(why, 'x', sizeof why);
    int n = sensor(name)->find(scratch_dir, rails, POWER_RAILS, why);
    assert_non_null(memchr(why, 0, sizeof why));
    assert_true((n == 0) == (why[0] != 0)); // nothing found: why
    return n;
}

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-9 * fabs(want)))
        fail_msg("%g, wanted %g", got, want);
}

// JetPack 5 and later, AGX Orin: two chips, a channel without a wire, and the sums that are no
// rails.
#define A "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/"
#define B "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon4/"
static void jetpack5_rails(void **state)
{
    (void)state;
    assert_int_equal(find("ina3221"), 0);
    assert_non_null(strstr(why, "ina3221"));
    scratch_write(A "in1_label", "VDD_GPU_SOC\n");
    scratch_write(A "in1_input", "19160\n");
    scratch_write(A "curr1_input", "272\n");
    scratch_write(A "in2_label", "VDD_CPU_CV\n");
    scratch_write(A "in2_input", "19152\n");
    scratch_write(A "curr2_input", "41\n");
    scratch_write(A "in7_label", "sum of shunt voltages\n");
    scratch_write(A "in7_input", "626\n");
    scratch_write(B "in1_label", "NC\n");
    scratch_write(B "in1_input", "0\n");
    scratch_write(B "curr1_input", "0\n");
    scratch_write(B "in2_label", "VIN_SYS_5V0\n");
    scratch_write(B "in2_input", "5064\n");
    scratch_write(B "curr2_input", "1000\n");
    assert_int_equal(find("ina3221"), 3);
    assert_string_equal(rails[0].name, "VDD_GPU_SOC");
    near(rails[0].mw, 19160.0 * 272 / 1000);
    assert_string_equal(rails[1].name, "VDD_CPU_CV");
    assert_int_equal(rails[1].channel, 2);
    assert_string_equal(rails[2].name, "VIN_SYS_5V0");
    near(rails[2].mw, 5064);
    scratch_write(A "curr1_input", "100\n");
    near(sensor("ina3221")->read_mw(&rails[0]), 1916);
    near(rails[0].mw, 1916);
    assert_int_equal(sensor("ina3221")->find(scratch_dir, rails, 2, why),
                     2); // no more than asked for
}

static void broken_readings_are_nan(void **state)
{
    (void)state;
    assert_int_equal(find("ina3221"), 3);
    const struct power_sensor *s = sensor("ina3221");
    scratch_write(A "curr1_input", "12 apples\n");
    assert_true(isnan(s->read_mw(&rails[0])));
    scratch_write(A "curr1_input", "");
    assert_true(isnan(s->read_mw(&rails[0])));
    remove(scratch_path(A "curr1_input"));
    assert_true(isnan(s->read_mw(&rails[0])));
    assert_int_equal(find("ina3221"), 2); // and such a rail is not found
    remove(scratch_path(A "curr2_input"));
    remove(scratch_path(B "curr2_input"));
    assert_int_equal(find("ina3221"), 0);
    assert_non_null(strstr(why, "No such file"));
}

// JetPack 4, Nano and TX2: milliwatt by rail.
#define C "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/"
static void jetpack4_rails(void **state)
{
    (void)state;
    assert_int_equal(find("ina3221x"), 0);
    scratch_write(C "rail_name_0", "POM_5V_IN\n");
    scratch_write(C "in_power0_input", "2532\n");
    scratch_write(C "rail_name_1", "POM_5V_GPU\n");
    scratch_write(C "in_power1_input", "41\n");
    scratch_write(C "rail_name_2", "NC\n");
    scratch_write(C "in_power2_input", "0\n");
    assert_int_equal(find("ina3221x"), 2);
    assert_string_equal(rails[0].name, "POM_5V_IN");
    assert_true(rails[0].mw == 2532 && rails[1].mw == 41);
}

#define P "sys/class/powercap/intel-rapl:0/"
#define Q "sys/class/powercap/intel-rapl:0:1/"
// The counter shows this now, and its last reading was a second ago.
static void rapl_step(const char *counter, double uj)
{
    scratch_write(P "energy_uj", counter);
    int64_t t = clock_ns() - 1000000000;
    rails[0].last_ns = t;
    double mw = sensor("rapl")->read_mw(&rails[0]);
    double least = uj * 1e6 / (double)(clock_ns() - t); // the clock goes on while it is read
    assert_true(mw >= least && mw <= uj * 1e6 / 1e9);
}

static void rapl_counts_and_wraps(void **state)
{
    (void)state;
    assert_int_equal(find("rapl"), 0);
    scratch_write(P "name", "package-0\n");
    scratch_write(P "energy_uj", "1000000\n");
    scratch_write(P "max_energy_range_uj", "2000000\n");
    scratch_write(Q "name", "dram\n");
    scratch_write(Q "energy_uj", "0\n");
    scratch_write(Q "max_energy_range_uj", "65532610987\n");
    assert_int_equal(find("rapl"), 2);
    assert_string_equal(rails[0].name, "package-0");
    assert_string_equal(rails[1].name, "dram:0");
    assert_true(isnan(rails[0].mw)); // one reading of a counter is no power yet
    rapl_step("1500000\n", 500000);
    rapl_step("100000\n", 600000); // 500000 to the top, then 100000
    remove(scratch_path(P "energy_uj"));
    assert_true(isnan(sensor("rapl")->read_mw(&rails[0])));
}

static void rapl_for_root_only(void **state)
{
    (void)state;
    if (geteuid() == 0) {
        print_message("# root may read everything\n");
        skip();
    }
    scratch_write(P "energy_uj", "1\n");
    scratch_write(Q "energy_uj", "1\n");
    chmod(scratch_path(P "energy_uj"), 0);
    chmod(scratch_path(Q "energy_uj"), 0);
    assert_int_equal(find("rapl"), 0);
    assert_non_null(strstr(why, "Permission denied"));
}

#define H "sys/class/hwmon/hwmon"
static void hwmon_inputs(void **state)
{
    (void)state;
    assert_int_equal(find("hwmon"), 0);
    scratch_write(H "0/name", "coretemp\n"); // no power
    scratch_write(H "0/temp1_input", "45000\n");
    scratch_write(H "1/name", "amdgpu\n");
    scratch_write(H "1/power1_average", "33000000\n");
    scratch_write(H "1/power1_cap", "100000000\n");
    scratch_write(H "2/name", "acpi\n");
    scratch_write(H "2/power1_input", "1500000\n");
    scratch_write(H "2/power1_average", "9000000\n");
    scratch_write(H "2/power1_label", "board\n");
    assert_int_equal(find("hwmon"), 2);
    assert_string_equal(rails[0].name, "acpi board"); // the input rather than the average
    near(rails[0].mw, 1500);
    assert_string_equal(rails[1].name, "amdgpu power1");
    near(rails[1].mw, 33000);
}

static void root_comes_from_the_environment(void **state)
{
    (void)state;
    unsetenv("FSTQ_SYSFS_ROOT");
    assert_string_equal(power_sysfs_root(), "");
    setenv("FSTQ_SYSFS_ROOT", "/elsewhere", 1);
    assert_string_equal(power_sysfs_root(), "/elsewhere");
}

static struct rec_sensor reading(int32_t rank, const char *rail, int64_t t_ns, double mw)
{
    struct rec_sensor r = {.rank = rank, .t_ns = t_ns, .milliwatt = mw};
    snprintf(r.rail, sizeof r.rail, "%s", rail);
    return r;
}

// Rank 1's board has a rail that is all of it, rank 2's has parts of its processors beside them.
static void boards_are_summed_once(void **state)
{
    (void)state;
    const int64_t s = 1000000000;
    const struct rec_sensor rows[] = {
        reading(1, "VDD_IN", 0, 9e9),       reading(1, "VDD_SOC", 0, 1),
        reading(2, "package-0", s, 7),      reading(2, "core:0", s, 7),
        reading(2, "dram:0", s, 7),         reading(1, "VDD_IN", 2 * s, 5000),
        reading(1, "VDD_SOC", 2 * s, 2000), reading(2, "package-0", 3 * s, 10000),
        reading(2, "core:0", 3 * s, 8000),  reading(2, "dram:0", 3 * s, 1000),
        reading(1, "VDD_IN", 2 * s, 77e6), // the same moment again: no time, no energy
    };
    struct power_sum sum = {0};
    assert_true(isnan(power_sum_take(&sum)));
    for (size_t i = 0; i < 5; i++)
        power_sum_add(&sum, &rows[i]);
    assert_true(isnan(power_sum_take(&sum))); // one reading covers no time
    for (size_t i = 5; i < ARRAY_LEN(rows); i++)
        power_sum_add(&sum, &rows[i]);
    near(power_sum_take(&sum), 5 * 2 + (10 + 1) * 2);
    assert_true(isnan(power_sum_take(&sum))); // nothing since
    power_sum_free(&sum);
}

// A counter of energy rises while a thread reads it: what is taken covers the time without a gap.
static void a_thread_reads(void **state)
{
    (void)state;
    static struct power_watch w;
    size_t n = 0;
    scratch_write(A "in1_label", "VDD_IN\n");
    scratch_write(A "in1_input", "5000\n");
    scratch_write(A "curr1_input", "1000\n");
    setenv("FSTQ_SYSFS_ROOT", scratch_dir, 1);
    power_watch_open(&w);
    assert_null(power_watch_take(&w, &n)); // nobody samples yet
    power_watch_start(&w);
    int64_t from = clock_ns();
    clock_sleep_until(from + 350000000);
    struct rec_sensor *r = power_watch_take(&w, &n);
    int64_t to = clock_ns();
    double joule = 0;
    int64_t last = 0;
    size_t in = 0;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(r[i].rail, "VDD_IN") != 0)
            continue;
        joule += in ? r[i].milliwatt * 1e-3 * (double)(r[i].t_ns - last) * 1e-9 : 0;
        last = r[i].t_ns;
        in++;
    }
    assert_true(in >= 3); // the first, the last, and what the thread got in between
    assert_true(joule <= 5e-9 * (double)(to - from) * 1.2 && joule >= 5 * 0.35 * 0.98);
    assert_ptr_not_equal(power_watch_take(&w, &n), r); // the taken half stays as it is
    power_watch_stop(&w);
    assert_null(power_watch_take(&w, &n));
    unsetenv("FSTQ_SYSFS_ROOT");
}

// Whatever this machine has, looking for it ends well.
static void this_machine(void **state)
{
    (void)state;
    for (int i = 0; power_sensors[i]; i++) {
        assert_true(power_sensors[i]->help[0]);
        int n = power_sensors[i]->find("", rails, POWER_RAILS, why);
        assert_in_range(n, 0, POWER_RAILS);
        assert_true((n == 0) == (why[0] != 0));
    }
}

// A library of the driver's name under the root, as tests/preload/nvml.c has it.
static void nvml_cards(void **state)
{
    (void)state;
    const char *build = getenv("FSTQ_BUILD");
    char fake[1024], from[512];
    assert_int_equal(find("nvml"), 0);
    assert_non_null(strstr(why, "no libnvidia-ml.so.1"));
    snprintf(from, sizeof from, "%s/tests/preload/nvml.so", build ? build : "build/release");
    assert_non_null(realpath(from, fake));
    scratch_write("usr/lib/here", "");
    assert_int_equal(symlink(fake, scratch_path("usr/lib/libnvidia-ml.so.1")), 0);
    setenv("FAKE_NVML", "none", 1);
    assert_int_equal(find("nvml"), 0);
    assert_string_equal(why, "nvmlInit: Driver Not Loaded");
    unsetenv("FAKE_NVML");
    setenv("FAKE_NVML_MW", "123456", 1);
    assert_int_equal(find("nvml"), 1); // the other says that it is not supported
    assert_string_equal(rails[0].name, "gpu0 Fake RTX 9000 Ada");
    near(rails[0].mw, 123456);
    setenv("FAKE_NVML_MW", "7", 1);
    near(sensor("nvml")->read_mw(&rails[0]), 7);
    struct power_rail second = rails[0];
    second.channel = 1;
    assert_true(isnan(sensor("nvml")->read_mw(&second)));
    assert_int_equal(power_kind_of(rails[0].name), POWER_SHARE);
    assert_int_equal(unlink(scratch_path("usr/lib/libnvidia-ml.so.1")), 0);
}

static int setup(void **state)
{
    (void)state;
    return scratch_make();
}

static int teardown(void **state)
{
    (void)state;
    return scratch_drop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jetpack5_rails),
        cmocka_unit_test(broken_readings_are_nan),
        cmocka_unit_test(jetpack4_rails),
        cmocka_unit_test(rapl_counts_and_wraps),
        cmocka_unit_test(rapl_for_root_only),
        cmocka_unit_test(hwmon_inputs),
        cmocka_unit_test(nvml_cards),
        cmocka_unit_test(root_comes_from_the_environment),
        cmocka_unit_test(boards_are_summed_once),
        cmocka_unit_test(a_thread_reads),
        cmocka_unit_test(this_machine),
    };
    return cmocka_run_group_tests_name("base power", tests, setup, teardown);
}
