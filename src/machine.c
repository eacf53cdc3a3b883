#include "machine.h"

#include "base/buildinfo.h"
#include "base/power.h"
#include "base/table.h"
#include "base/topo.h"
#include "dev/dev.h"
#include "kernels/simd.h"
#include "net/comm_mpi.h"

#include <dlfcn.h>
#include <errno.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>

struct facts {
    machine_fn *fn;
    void *arg;
    const char *group;
};

static void fact(const struct facts *f, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void fact(const struct facts *f, const char *name, const char *fmt, ...)
{
    char value[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(value, sizeof value, fmt, args);
    va_end(args);
    f->fn(f->arg, f->group, name, value);
}

// The first line of a file under the system's root, or false with errno.
static bool read_line(const char *path, char *out, size_t size)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", power_sysfs_root(), path);
    FILE *file = fopen(full, "r");
    if (!file)
        return false;
    bool got = fgets(out, (int)size, file) != NULL;
    int why = got ? 0 : ferror(file) ? errno : ENODATA;
    fclose(file);
    errno = why;
    if (got)
        out[strcspn(out, "\n")] = '\0';
    return got;
}

static void file_fact(const struct facts *f, const char *name, const char *path)
{
    char line[256];
    if (read_line(path, line, sizeof line))
        fact(f, name, "%s", line);
    else
        fact(f, name, "unavailable: %s: %s", path, strerror(errno));
}

// "key : value" as in /proc/cpuinfo and /proc/meminfo; the first line with that key.
static bool read_keyed(const char *path, const char *key, char *out, size_t size)
{
    char full[512], line[512];
    snprintf(full, sizeof full, "%s%s", power_sysfs_root(), path);
    FILE *file = fopen(full, "r");
    if (!file)
        return false;
    bool found = false;
    size_t n = strlen(key);
    while (!found && fgets(line, sizeof line, file)) {
        const char *after = line + n;
        if (strncmp(line, key, n) != 0)
            continue;
        after += strspn(after, " \t");
        if (*after++ != ':')
            continue;
        after += strspn(after, " \t");
        snprintf(out, size, "%.*s", (int)strcspn(after, "\n"), after);
        found = true;
    }
    fclose(file);
    errno = ENOENT;
    return found;
}

static void memory_fact(const struct facts *f, const char *name, const char *key)
{
    char text[64], mib[32];
    if (read_keyed("/proc/meminfo", key, text, sizeof text))
        fact(f, name, "%s", fmt_mib(mib, strtoull(text, NULL, 10) * 1024));
    else
        fact(f, name, "unavailable: no %s in /proc/meminfo", key);
}

static void host_facts(struct facts *f)
{
    char text[256];
    struct utsname u;
    struct topo topo;
    struct err err;
    f->group = "machine";
    if (!uname(&u)) {
        fact(f, "host", "%s", u.nodename);
        fact(f, "kernel", "%s %s %s", u.sysname, u.release, u.machine);
    }
    // Devices with a device tree say who they are.
    if (read_line("/proc/device-tree/model", text, sizeof text))
        fact(f, "model", "%s", text);
    if (read_line("/etc/nv_tegra_release", text, sizeof text))
        fact(f, "jetson", "%s", text);
    if (topo_load(&topo, &err)) {
        fact(f, "topology", "unavailable: %s", err.text);
    } else {
        fact(f, "cpu", "%s", *topo.cpu ? topo.cpu : "unavailable: hwloc knows no name");
        fact(f, "topology", "%d package(s), %d NUMA node(s), %d L3 cache(s), %d cores, %d PUs",
             topo.packages, topo.numa_nodes, topo.l3s, topo.cores, topo.pus);
        topo_current(&topo, text, sizeof text);
        fact(f, "allowed", "%d PUs; this process runs on %s", topo_allowed_pus(&topo), text);
        topo_free(&topo);
    }
    fact(f, "simd", "%s", simd_text());
    memory_fact(f, "memory", "MemTotal");
    memory_fact(f, "memory_available", "MemAvailable");
    fact(f, "page_size", "%ld bytes", sysconf(_SC_PAGESIZE));
}

static void governor_fact(const struct facts *f)
{
    char pattern[512], governor[64], low[32], high[32], now[32];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/sys/devices/system/cpu/cpufreq/policy*",
             power_sysfs_root());
    if (glob(pattern, 0, NULL, &found)) {
        fact(f, "governor", "unavailable: no /sys/devices/system/cpu/cpufreq");
        return;
    }
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *policy = found.gl_pathv[i] + strlen(power_sysfs_root());
        static const char *const files[] = {"scaling_governor", "cpuinfo_min_freq",
                                            "cpuinfo_max_freq", "scaling_cur_freq"};
        char *const out[] = {governor, low, high, now};
        const size_t size[] = {sizeof governor, sizeof low, sizeof high, sizeof now};
        for (int k = 0; k < 4; k++) {
            char path[400];
            snprintf(path, sizeof path, "%s/%s", policy, files[k]);
            if (!read_line(path, out[k], size[k]))
                snprintf(out[k], size[k], "?");
        }
        fact(f, strrchr(policy, '/') + 1, "%s, %s to %s kHz, now %s", governor, low, high, now);
    }
    globfree(&found);
}

// What makes two timings differ on the same machine.
static void quiet_facts(struct facts *f)
{
    char text[256];
    f->group = "timing";
    governor_fact(f);
    file_fact(f, "smt", "/sys/devices/system/cpu/smt/control");
    file_fact(f, "transparent_huge_pages", "/sys/kernel/mm/transparent_hugepage/enabled");
    file_fact(f, "aslr", "/proc/sys/kernel/randomize_va_space");
    file_fact(f, "load", "/proc/loadavg");
    if (read_keyed("/proc/cpuinfo", "microcode", text, sizeof text))
        fact(f, "microcode", "%s", text);
    else
        fact(f, "microcode", "unavailable: not in /proc/cpuinfo");
    struct timex t = {.modes = 0};
    int state = adjtimex(&t);
    if (state < 0)
        fact(f, "clock", "unavailable: adjtimex: %s", strerror(errno));
    else
        fact(f, "clock", "%s, estimated error %ld us",
             state == TIME_ERROR || (t.status & STA_UNSYNC) ? "not synchronised" : "synchronised",
             t.esterror);
}

static void device_fact(void *arg, int32_t i, const char *text)
{
    char name[32];
    snprintf(name, sizeof name, "cuda_%d", i);
    fact(arg, name, "%s", text);
}

// What the runtime finds, which needs a driver and not a context, and what the driver shows.
static void gpu_facts(struct facts *f)
{
    f->group = "gpu";
    bool built = strcmp(buildinfo.cuda, "none") != 0;
    fact(f, "cuda", built ? "built with CUDA %s" : "built without CUDA%.0s", buildinfo.cuda);
    for (int32_t i = 0; dev_table[i]; i++) {
        struct err err;
        if (dev_table[i]->each && dev_table[i]->each(device_fact, f, &err))
            fact(f, "usable", "unavailable: %s", err.text);
    }
    char pattern[512];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/proc/driver/nvidia/gpus/*/information",
             power_sysfs_root());
    if (glob(pattern, 0, NULL, &found)) {
        fact(f, "devices", "none: the NVIDIA driver shows no GPU");
        return;
    }
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char name[32], model[128];
        const char *path = found.gl_pathv[i] + strlen(power_sysfs_root());
        snprintf(name, sizeof name, "device_%zu", i);
        if (!read_keyed(path, "Model", model, sizeof model))
            snprintf(model, sizeof model, "unavailable: no model in %.80s", path);
        fact(f, name, "%s", model);
    }
    globfree(&found);
}

static void sensor_facts(struct facts *f)
{
    f->group = "sensors";
    for (const struct power_sensor *const *s = power_sensors; *s; s++) {
        struct power_rail rails[POWER_RAILS];
        char why[96] = "";
        int n = (*s)->find(power_sysfs_root(), rails, POWER_RAILS, why);
        if (n <= 0)
            fact(f, (*s)->name, "unavailable: %s", why);
        else
            fact(f, (*s)->name, "%d rail(s), first %s", n, rails[0].name);
    }
}

// A library's version text, from the library that is loaded.
static void symbol_fact(const struct facts *f, const char *name, const char *symbol,
                        const char *absent)
{
    const char *(*version)(void);
    void *address = dlsym(RTLD_DEFAULT, symbol);
    memcpy(&version, &address, sizeof version); // ISO C has no cast from object to function
    fact(f, name, "%s", address ? version() : absent);
}

static void library_facts(struct facts *f)
{
    char text[2048], *line, *rest = text;
    f->group = "libraries";
    const char *mpi = comm_library_version();
    fact(f, "mpi", "%.*s", (int)strcspn(mpi, "\n"), mpi);
    comm_describe(text, sizeof text);
    while ((line = strsep(&rest, "\n")) != NULL) {
        char *value = strchr(line, '=');
        if (!value)
            continue;
        *value++ = '\0';
        char name[128];
        snprintf(name, sizeof name, "mpi.%s", line);
        fact(f, name, "%s", *value ? value : "(default)");
    }
    unsigned major = 0, minor = 0, release = 0;
    int (*hdf5)(unsigned *, unsigned *, unsigned *), (*no_atexit)(void);
    // The question starts the library, which must not close a trace that was given up at exit.
    void *address = dlsym(RTLD_DEFAULT, "H5dont_atexit");
    memcpy(&no_atexit, &address, sizeof no_atexit);
    if (address)
        no_atexit();
    address = dlsym(RTLD_DEFAULT, "H5get_libversion");
    memcpy(&hdf5, &address, sizeof hdf5);
    if (address && hdf5(&major, &minor, &release) >= 0)
        fact(f, "hdf5", "%u.%u.%u", major, minor, release);
    else
        fact(f, "hdf5", "unavailable: not linked");
    unsigned (*hwloc)(void);
    address = dlsym(RTLD_DEFAULT, "hwloc_get_api_version");
    memcpy(&hwloc, &address, sizeof hwloc);
    if (address)
        fact(f, "hwloc", "%u.%u", hwloc() >> 16, hwloc() >> 8 & 0xff);
    else
        fact(f, "hwloc", "unavailable: not linked");
    symbol_fact(f, "blas", "openblas_get_config",
                "unavailable: OpenBLAS is not used by this build");
    symbol_fact(f, "zstd", "ZSTD_versionString", "unavailable: not used by this build");
    symbol_fact(f, "lz4", "LZ4_versionString", "unavailable: not used by this build");
}

static void build_facts(struct facts *f)
{
    f->group = "build";
    fact(f, "version", "%s", buildinfo.version);
    fact(f, "git", "%s", buildinfo.git_rev);
    fact(f, "kind", "%s", buildinfo.kind);
    fact(f, "compiler", "%s", buildinfo.compiler);
    fact(f, "flags", "%s", buildinfo.cflags);
    fact(f, "target", "%s", buildinfo.target);
}

void machine_each(machine_fn *fn, void *arg)
{
    struct facts f = {.fn = fn, .arg = arg};
    host_facts(&f);
    quiet_facts(&f);
    gpu_facts(&f);
    sensor_facts(&f);
    library_facts(&f);
    build_facts(&f);
}
