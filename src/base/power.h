// Energy and temperature sensors as a table: INA3221 (both JetPack layouts), RAPL, hwmon, NVML.
// Every reader degrades to "unavailable: why"; FSTQ_SYSFS_ROOT replaces "/" for tests.
#ifndef FSTQ_BASE_POWER_H
#define FSTQ_BASE_POWER_H

#include "base/record.h"

#include <stdbool.h>
#include <stddef.h>
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

extern const struct power_sensor power_nvml;             // power_nvml.c
extern const struct power_sensor *const power_sensors[]; // NULL-terminated
const char *power_sysfs_root(void);

// All rails of this machine, for whoever reads them from time to time; a thread of its own reads
// them ten times a second from start to stop, more seldom the longer nobody takes the readings.
struct power_sampler;
struct power_watch {
    int n;
    const struct power_sensor *sensor[POWER_RAILS]; // of each rail
    struct power_rail rail[POWER_RAILS];
    struct power_sampler *sampler; // NULL = not started
};
void power_watch_open(struct power_watch *w);
void power_watch_start(struct power_watch *w); // nothing where there is no rail
void power_watch_stop(struct power_watch *w);
// What was read since the last call and is read now, until the next call; t_ns is this machine's
// monotonic clock. NULL and 0 where nobody samples.
struct rec_sensor *power_watch_take(struct power_watch *w, size_t *n);

// Which rails make up a board: its total where it has one, else those that hold no other.
enum power_kind { POWER_PART, POWER_SHARE, POWER_TOTAL };
enum power_kind power_kind_of(const char *rail);

// Energy of all boards from readings as they come: each stands for the time since the one before.
struct power_last {
    char rail[24];
    int32_t rank;
    enum power_kind kind;
    bool known; // a time was covered since it was last taken
    int64_t t_ns;
    double joule;
};
struct power_sum {
    struct power_last *rail;
    int n;
    size_t cap;
};
void power_sum_add(struct power_sum *s, const struct rec_sensor *row);
double power_sum_take(struct power_sum *s); // J since it was last taken, NaN = nothing was read
void power_sum_free(struct power_sum *s);

#endif
