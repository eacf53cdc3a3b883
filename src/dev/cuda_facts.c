// What GPUs there are, without a context on any: by the runtime's attributes, by the driver's
// management library where there is one (there is none on most Jetsons), and by what the kernel
// says of the bus.
#include "base/topo.h"
#include "dev/cuda.h"
#include "dev/dev.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NVML "libnvidia-ml.so.1"

// As nvml.h has them: 0 is success, a device is a pointer.
struct nvml_memory {
    unsigned long long total, free, used; // bytes
};
struct nvml {
    int (*init)(void);
    int (*find)(const char *bus, void **card);
    int (*name)(void *card, char *text, unsigned size);
    int (*memory)(void *card, struct nvml_memory *m);
    int (*limit)(void *card, unsigned *mw);
    int (*clock)(void *card, int which, unsigned *mhz);
};
enum { NVML_CLOCK_SM = 1, NVML_CLOCK_MEM = 2 };

static bool nvml_load(struct nvml *v)
{
    const struct gpu_symbol call[] = {{"nvmlInit_v2", &v->init},
                                      {"nvmlDeviceGetHandleByPciBusId_v2", &v->find},
                                      {"nvmlDeviceGetName", &v->name},
                                      {"nvmlDeviceGetMemoryInfo", &v->memory},
                                      {"nvmlDeviceGetEnforcedPowerLimit", &v->limit},
                                      {"nvmlDeviceGetMaxClockInfo", &v->clock}};
    const char *missing;
    return gpu_library(NVML, call, ARRAY_LEN(call), &missing) == 0 && v->init() == 0;
}

// Which CPUs it is near to; "" where the kernel does not say.
static void cpus_near(const char *bus, char *text, size_t size)
{
    char path[128];
    int n = snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/local_cpulist", bus);
    for (int i = 0; i < n; i++)
        path[i] = (char)tolower((unsigned char)path[i]);
    FILE *f = fopen(path, "r");
    if (!f || !fgets(text, (int)size, f))
        text[0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (f)
        fclose(f);
}

// Adds to a text that has room.
__attribute__((format(printf, 3, 4))) static void add(char *text, size_t size, const char *format,
                                                      ...)
{
    size_t n = strlen(text);
    va_list list;
    va_start(list, format);
    vsnprintf(text + n, size - n, format, list);
    va_end(list);
}

static void add_card(const struct nvml *v, const char *bus, char *text, size_t size)
{
    void *card;
    char name[96];
    struct nvml_memory m;
    unsigned value;
    if (v->find(bus, &card))
        return;
    if (v->name(card, name, sizeof name) == 0)
        add(text, size, ", %s", name);
    if (v->memory(card, &m) == 0)
        add(text, size, ", %llu MiB, %llu of them free", m.total >> 20, m.free >> 20);
    if (v->clock(card, NVML_CLOCK_MEM, &value) == 0)
        add(text, size, ", memory at up to %u MHz", value);
    if (v->limit(card, &value) == 0)
        add(text, size, ", at most %u W", value / 1000);
}

int gpu_each(dev_fact *fn, void *arg, struct err *err)
{
    char text[400], cpus[128];
    struct nvml v;
    int n;
    if (gpu_count(&n, err))
        return -1;
    const bool told = nvml_load(&v);
    for (int i = 0; i < n; i++) {
        struct gpu_card c;
        gpu_look(i, &c);
        cpus_near(c.bus, cpus, sizeof cpus);
        snprintf(text, sizeof text,
                 "%s, sm_%d%d, %d multiprocessors at up to %d MHz, memory %d bits wide", c.bus,
                 c.major, c.minor, c.multiprocessors, c.clock_mhz, c.memory_bits);
        if (c.integrated)
            add(text, sizeof text, ", shared with the CPU");
        if (told)
            add_card(&v, c.bus, text, sizeof text);
        else
            add(text, sizeof text, ", no %s to ask for memory and power limit", NVML);
        if (cpus[0])
            add(text, sizeof text, ", near CPUs %s", cpus);
        fn(arg, i, text);
    }
    return 0;
}

struct dev_share gpu_share(int n)
{
    cpu_set_t *near = mem_alloc(MEM_OTHER, (size_t)n * sizeof *near);
    struct topo t;
    if (n > 1 && topo_load_devices(&t, NULL) == 0) {
        for (int i = 0; i < n; i++) {
            struct gpu_card c;
            gpu_look(i, &c);
            topo_near(&t, c.bus, &near[i]);
        }
        topo_free(&t);
    }
    const struct dev_share s = dev_share(n, near);
    mem_free(near);
    return s;
}

void gpu_describe(const struct dev *d, char *text, size_t size)
{
    struct gpu_card c;
    int n;
    (void)d;
    text[0] = '\0';
    if (gpu_count(&n, NULL))
        return;
    const struct dev_share s = gpu_share(n);
    gpu_look(s.device, &c);
    snprintf(text, size, "GPU %d of %d, %s", s.device, n, c.bus);
    if (s.ranks > 1)
        add(text, size, ", for %d ranks", s.ranks);
    if (s.far)
        add(text, size, ", far from its CPUs");
}
