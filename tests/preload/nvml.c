// A libnvidia-ml.so.1 of two cards, the second of which cannot tell its power; FAKE_NVML: "none" =
// it cannot be initialised. What the first card draws is in FAKE_NVML_MW.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int cards[2];

int nvmlInit_v2(void)
{
    const char *how = getenv("FAKE_NVML");
    return how && strcmp(how, "none") == 0 ? 9 : 0;
}

const char *nvmlErrorString(int code)
{
    return code == 9 ? "Driver Not Loaded" : code == 3 ? "Not Supported" : "Unknown Error";
}

int nvmlDeviceGetCount_v2(unsigned *n)
{
    *n = 2;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device)
{
    if (i > 1)
        return 2;
    *device = &cards[i];
    return 0;
}

int nvmlDeviceGetName(void *device, char *name, unsigned size)
{
    snprintf(name, size, device == cards ? "Fake RTX 9000 Ada Generation" : "Fake Tegra");
    return 0;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *mw)
{
    const char *text = getenv("FAKE_NVML_MW");
    if (device != cards)
        return 3;
    *mw = text ? (unsigned)atoi(text) : 0;
    return 0;
}
