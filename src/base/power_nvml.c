// NVIDIA's cards by NVML, which comes with their driver and is opened by name: a rail a card, its
// whole board. Jetsons have none of it and say so; their rails are the INA3221's.
#include "base/power.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LIBRARY "libnvidia-ml.so.1"

// As nvml.h has them: 0 is success, devices are pointers.
static struct {
    void *library;
    int (*init)(void);
    const char *(*text)(int code);
    int (*count)(unsigned *n);
    int (*device)(unsigned i, void **device);
    int (*name)(void *device, char *name, unsigned size);
    int (*power_mw)(void *device, unsigned *mw);
    void *card[POWER_RAILS];
} nvml;

static bool look_up(void *function, const char *name)
{
    void *p = dlsym(nvml.library, name);
    memcpy(function, &p, sizeof p); // ISO C has no cast to a pointer to a function
    return p;
}

static int load(const char *root, char why[96])
{
    char path[512];
    if (nvml.library)
        dlclose(nvml.library);
    memset(&nvml, 0, sizeof nvml);
    snprintf(path, sizeof path, "%.400s%s%s", root, *root ? "/usr/lib/" : "", LIBRARY);
    nvml.library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    snprintf(why, 96, "no %s", LIBRARY);
    if (!nvml.library)
        return -1;
    snprintf(why, 96, "%s lacks a function of NVML", LIBRARY);
    if (!look_up(&nvml.init, "nvmlInit_v2") || !look_up(&nvml.text, "nvmlErrorString") ||
        !look_up(&nvml.count, "nvmlDeviceGetCount_v2") ||
        !look_up(&nvml.device, "nvmlDeviceGetHandleByIndex_v2") ||
        !look_up(&nvml.name, "nvmlDeviceGetName") ||
        !look_up(&nvml.power_mw, "nvmlDeviceGetPowerUsage"))
        return -1;
    int rc = nvml.init();
    if (rc)
        snprintf(why, 96, "nvmlInit: %.80s", nvml.text(rc));
    return rc ? -1 : 0;
}

static double nvml_read(struct power_rail *r)
{
    unsigned mw;
    bool good = r->channel >= 0 && r->channel < POWER_RAILS && nvml.card[r->channel] &&
                nvml.power_mw(nvml.card[r->channel], &mw) == 0;
    return r->mw = good ? (double)mw : (double)NAN;
}

static int nvml_find(const char *root, struct power_rail *rails, int max, char why[96])
{
    unsigned cards = 0;
    int n = 0;
    if (load(root, why))
        return 0;
    int rc = nvml.count(&cards);
    snprintf(why, 96, "no card%s%.60s", rc ? ": " : "", rc ? nvml.text(rc) : "");
    for (unsigned i = 0; rc == 0 && i < cards && i < POWER_RAILS && n < max; i++) {
        struct power_rail *r = &rails[n];
        unsigned mw;
        char name[96] = "";
        *r = (struct power_rail){.channel = (int32_t)i, .mw = (double)NAN, .last_uj = (double)NAN};
        int bad = nvml.device(i, &nvml.card[i]);
        bad = bad ? bad : nvml.power_mw(nvml.card[i], &mw);
        if (bad) {
            snprintf(why, 96, "card %u: %.70s", i, nvml.text(bad));
            continue;
        }
        if (nvml.name(nvml.card[i], name, sizeof name))
            snprintf(name, sizeof name, "card");
        snprintf(r->name, sizeof r->name, "gpu%u %.17s", i, name);
        r->mw = (double)mw;
        n++;
    }
    if (n > 0)
        why[0] = '\0';
    return n;
}

const struct power_sensor power_nvml = {
    .name = "nvml",
    .help = "boards of NVIDIA's cards, by the driver's library",
    .find = nvml_find,
    .read_mw = nvml_read,
};
