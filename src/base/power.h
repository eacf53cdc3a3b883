// Energy and temperature sensors as a table: INA3221 (both JetPack layouts), RAPL, hwmon. Every
// reader degrades to "unavailable: why"; FSTQ_SYSFS_ROOT replaces "/" for tests.
#ifndef FSTQ_BASE_POWER_H
#define FSTQ_BASE_POWER_H

#include "base/record.h"

#include <stdint.h>

#define POWER_RAILS 16

struct power_rail {
    char name[24];
    char path[224];  // of the directory
    int32_t channel; // the N in its file names
    double mw;       // last reading
    double last_uj;  // where the sensor counts energy: its last reading and when
    int64_t last_ns;
};

struct power_sensor {
    const char *name, *help;
    // The number of rails found; 0 = none, and why.
    int (*find)(const char *sysfs_root, struct power_rail *rails, int max, char why[96]);
    // NaN on failure. A sensor that counts energy gives the mean power since the reading before.
    double (*read_mw)(struct power_rail *rail);
};

extern const struct power_sensor *const power_sensors[]; // NULL-terminated
const char *power_sysfs_root(void);

// All rails of this machine, for whoever reads them from time to time.
struct power_watch {
    int n;
    const struct power_sensor *sensor[POWER_RAILS]; // of each rail
    struct power_rail rail[POWER_RAILS];
};
void power_watch_open(struct power_watch *w);
// One row per rail that can be read, at most POWER_RAILS; t_ns is this machine's monotonic clock.
int power_watch_read(struct power_watch *w, struct rec_sensor rows[POWER_RAILS]);

#endif
