#include "base/power.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <glob.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *power_sysfs_root(void)
{
    const char *root = getenv("FSTQ_SYSFS_ROOT");
    return root ? root : "";
}

// First line of a file, without its newline.
static int read_text(const char *path, char *out, size_t size)
{
    FILE *f = fopen(path, "r");
    if (!f)
        return -1;
    char *got = fgets(out, (int)size, f);
    int why = errno; // sensors that are powered off answer EAGAIN
    fclose(f);
    if (!got) {
        errno = why;
        return -1;
    }
    out[strcspn(out, "\n")] = 0;
    return 0;
}

static double read_number(const char *path)
{
    char text[64], *end;
    if (read_text(path, text, sizeof text) < 0)
        return (double)NAN;
    double v = strtod(text, &end);
    return end == text || *end ? (double)NAN : v;
}

// File N of a rail's directory: '#' in the pattern stands for the channel.
static double read_in(const struct power_rail *r, const char *pattern)
{
    char path[sizeof r->path + 64];
    const char *mark = strchr(pattern, '#');
    if (mark)
        snprintf(path, sizeof path, "%s/%.*s%d%s", r->path, (int)(mark - pattern), pattern,
                 r->channel, mark + 1);
    else
        snprintf(path, sizeof path, "%s/%s", r->path, pattern);
    return read_number(path);
}

// What to look for: files that match the pattern, one a rail; the channel is the number after the
// prefix of the file's name (NULL: there is none); naming returns -1 to skip a file.
struct search {
    const char *pattern, *prefix;
    int (*naming)(const char *dir, const char *file, int channel, char *name, size_t size);
    double (*read_mw)(struct power_rail *rail);
};

static bool readable(const struct power_rail *r)
{
    return r->mw == r->mw || r->last_uj == r->last_uj;
}

static bool known(const struct power_rail *rails, int n, const struct power_rail *r)
{
    for (int i = 0; i < n; i++)
        if (rails[i].channel == r->channel && strcmp(rails[i].path, r->path) == 0)
            return true;
    return false;
}

static bool try_file(const struct search *s, const char *file, struct power_rail *r, char why[96])
{
    const char *base = strrchr(file, '/') + 1;
    char name[64] = "";
    int channel = 0;
    *r = (struct power_rail){.mw = (double)NAN, .last_uj = (double)NAN};
    int len = snprintf(r->path, sizeof r->path, "%.*s", (int)(base - 1 - file), file);
    if ((size_t)len >= sizeof r->path) {
        snprintf(why, 96, "a path of more than %zu bytes", sizeof r->path - 1);
        return false;
    }
    if (s->prefix && sscanf(base + strlen(s->prefix), "%d", &channel) != 1)
        return false;
    if (s->naming(r->path, file, channel, name, sizeof name) < 0)
        return false;
    r->channel = channel;
    snprintf(r->name, sizeof r->name, "%.23s", name);
    errno = 0;
    r->mw = s->read_mw(r);
    if (!readable(r))
        snprintf(why, 96, "%.23s: %.60s", name, errno ? strerror(errno) : "not a number");
    return readable(r);
}

static int find(const struct search *s, const char *root, struct power_rail *rails, int max,
                char why[96])
{
    char full[512];
    glob_t g;
    snprintf(full, sizeof full, "%s%s", root, s->pattern);
    snprintf(why, 96, "no %.90s", s->pattern);
    if (glob(full, GLOB_BRACE, NULL, &g) != 0)
        return 0;
    int n = 0;
    snprintf(why, 96, "no channel is connected");
    for (size_t i = 0; i < g.gl_pathc && n < max; i++) {
        struct power_rail r;
        if (try_file(s, g.gl_pathv[i], &r, why) && !known(rails, n, &r))
            rails[n++] = r;
    }
    globfree(&g);
    if (n > 0)
        why[0] = 0;
    return n;
}

// The label is in the file itself; channels without a wire say NC.
static int name_in_file(const char *dir, const char *file, int channel, char *name, size_t size)
{
    (void)dir;
    (void)channel;
    return read_text(file, name, size) < 0 || strcmp(name, "NC") == 0 ? -1 : 0;
}

// INA3221 under JetPack 5 and later: millivolt and milliampere by channel. Channels 4 and up are
// sums.
static double ina3221_read(struct power_rail *r)
{
    return r->mw = read_in(r, "in#_input") * read_in(r, "curr#_input") / 1000;
}

static int ina3221_find(const char *root, struct power_rail *rails, int max, char why[96])
{
    static const struct search s = {
        .pattern = "/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in[1-3]_label",
        .prefix = "in",
        .naming = name_in_file,
        .read_mw = ina3221_read,
    };
    return find(&s, root, rails, max, why);
}

// The same chip under JetPack 4: milliwatt, in the iio tree.
static double ina3221x_read(struct power_rail *r)
{
    return r->mw = read_in(r, "in_power#_input");
}

static int ina3221x_find(const char *root, struct power_rail *rails, int max, char why[96])
{
    static const struct search s = {
        .pattern = "/sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_[0-9]",
        .prefix = "rail_name_",
        .naming = name_in_file,
        .read_mw = ina3221x_read,
    };
    return find(&s, root, rails, max, why);
}

// RAPL counts microjoules up to max_energy_range_uj, then starts again at 0.
static double rapl_read(struct power_rail *r)
{
    double uj = read_in(r, "energy_uj"), last = r->last_uj;
    int64_t now = clock_ns(), dt_ns = now - r->last_ns;
    r->last_uj = uj;
    r->last_ns = now;
    if (uj < last)
        last -= read_in(r, "max_energy_range_uj");
    return r->mw = dt_ns > 0 ? (uj - last) * 1e6 / (double)dt_ns : (double)NAN;
}

static int rapl_naming(const char *dir, const char *file, int channel, char *name, size_t size)
{
    (void)file;
    (void)channel;
    char path[256], zone[40];
    snprintf(path, sizeof path, "%s/name", dir);
    if (read_text(path, zone, sizeof zone) < 0)
        return -1;
    // intel-rapl:1 is named package-1, but intel-rapl:1:0 just core: say of which package.
    const char *at = strchr(strrchr(dir, '/'), ':');
    const char *sub = at ? strchr(at + 1, ':') : NULL;
    if (sub)
        snprintf(name, size, "%s:%.*s", zone, (int)(sub - at - 1), at + 1);
    else
        snprintf(name, size, "%s", zone);
    return 0;
}

static int rapl_find(const char *root, struct power_rail *rails, int max, char why[96])
{
    static const struct search s = {
        .pattern = "/sys/class/powercap/intel-rapl:*/energy_uj",
        .naming = rapl_naming,
        .read_mw = rapl_read,
    };
    return find(&s, root, rails, max, why);
}

// Any other chip with a power input in microwatt (graphics cards, server boards).
static double hwmon_read(struct power_rail *r)
{
    double uw = read_in(r, "power#_input");
    if (uw != uw)
        uw = read_in(r, "power#_average");
    return r->mw = uw / 1000;
}

static int hwmon_naming(const char *dir, const char *file, int channel, char *name, size_t size)
{
    (void)file;
    char path[256], chip[24], label[24];
    snprintf(path, sizeof path, "%s/name", dir);
    if (read_text(path, chip, sizeof chip) < 0)
        snprintf(chip, sizeof chip, "hwmon");
    snprintf(path, sizeof path, "%s/power%d_label", dir, channel);
    if (read_text(path, label, sizeof label) < 0)
        snprintf(label, sizeof label, "power%d", channel);
    snprintf(name, size, "%s %s", chip, label);
    return 0;
}

static int hwmon_find(const char *root, struct power_rail *rails, int max, char why[96])
{
    static const struct search s = {
        .pattern = "/sys/class/hwmon/hwmon*/power[1-9]_{input,average}",
        .prefix = "power",
        .naming = hwmon_naming,
        .read_mw = hwmon_read,
    };
    return find(&s, root, rails, max, why);
}

static const struct power_sensor ina3221 = {
    .name = "ina3221",
    .help = "Jetson rails, JetPack 5 and later (hwmon)",
    .find = ina3221_find,
    .read_mw = ina3221_read,
};
static const struct power_sensor ina3221x = {
    .name = "ina3221x",
    .help = "Jetson rails, JetPack 4 (iio)",
    .find = ina3221x_find,
    .read_mw = ina3221x_read,
};
static const struct power_sensor rapl = {
    .name = "rapl",
    .help = "energy counters of x86 processors; readable by root only on most systems",
    .find = rapl_find,
    .read_mw = rapl_read,
};
static const struct power_sensor hwmon = {
    .name = "hwmon",
    .help = "power inputs of any other chip",
    .find = hwmon_find,
    .read_mw = hwmon_read,
};

const struct power_sensor *const power_sensors[] = {&ina3221, &ina3221x,   &rapl,
                                                    &hwmon,   &power_nvml, NULL};

void power_watch_open(struct power_watch *w)
{
    char why[96];
    w->n = 0;
    w->sampler = NULL;
    for (const struct power_sensor *const *s = power_sensors; *s; s++) {
        int found = (*s)->find(power_sysfs_root(), w->rail + w->n, POWER_RAILS - w->n, why);
        for (int i = 0; i < found; i++)
            w->sensor[w->n + i] = *s;
        w->n += found;
    }
}

#define SAMPLE_NS 100000000
enum { SAMPLES = 4096 };

struct power_sampler {
    pthread_t thread;
    pthread_mutex_t lock; // of all below, and of the rails
    pthread_cond_t wake;
    bool stop;
    int filling; // of the two halves; the other is with whoever took it
    size_t n;    // in it
    struct rec_sensor row[2][SAMPLES];
};

static void read_rails(struct power_watch *w)
{
    struct power_sampler *s = w->sampler;
    for (int i = 0; i < w->n && s->n < SAMPLES; i++) {
        double mw = w->sensor[i]->read_mw(&w->rail[i]);
        if (!isfinite(mw))
            continue;
        struct rec_sensor *row = &s->row[s->filling][s->n++];
        *row = (struct rec_sensor){
            .t_ns = clock_ns(), .milliwatt = mw, .celsius = (double)NAN, .value = (double)NAN};
        memcpy(row->rail, w->rail[i].name, sizeof row->rail);
    }
}

// The last rails' worth of a half is left for the reading that empties it, so that a counter of
// energy misses nothing however long nobody comes.
static void *sample(void *arg)
{
    struct power_watch *w = arg;
    struct power_sampler *s = w->sampler;
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        int64_t wait = (int64_t)SAMPLE_NS << (s->n * 10 / SAMPLES);
        int64_t ns = (int64_t)at.tv_nsec + wait;
        at.tv_sec += (time_t)(ns / 1000000000);
        at.tv_nsec = (long)(ns % 1000000000);
        while (!s->stop && pthread_cond_timedwait(&s->wake, &s->lock, &at) == 0)
            ;
        if (!s->stop && s->n + 2 * (size_t)w->n <= SAMPLES)
            read_rails(w);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

void power_watch_start(struct power_watch *w)
{
    if (w->n == 0 || w->sampler)
        return;
    struct power_sampler *s = w->sampler = mem_alloc(MEM_TRACE, sizeof *s);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    read_rails(w);
    if (pthread_create(&s->thread, NULL, sample, w) != 0) {
        warn("power: no thread to read the rails of this host; their energy is not measured");
        mem_free(s);
        w->sampler = NULL;
    }
}

void power_watch_stop(struct power_watch *w)
{
    struct power_sampler *s = w->sampler;
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
    w->sampler = NULL;
}

struct rec_sensor *power_watch_take(struct power_watch *w, size_t *n)
{
    struct power_sampler *s = w->sampler;
    *n = 0;
    if (!s)
        return NULL;
    pthread_mutex_lock(&s->lock);
    read_rails(w);
    struct rec_sensor *rows = s->row[s->filling];
    *n = s->n;
    s->filling = 1 - s->filling;
    s->n = 0;
    pthread_mutex_unlock(&s->lock);
    return rows;
}

// Of the rails of AGX boards VDDQ_VDD2_1V8AO is left out, for it may be fed by VIN_SYS_5V0; a
// platform's psys holds its packages. POM_5V_IN is the whole board (jetson_stats, issue 51).
enum power_kind power_kind_of(const char *rail)
{
    static const struct {
        const char *begins;
        enum power_kind kind;
    } known[] = {{"VDD_IN", POWER_TOTAL}, {"POM_5V_IN", POWER_TOTAL}, {"core", POWER_PART},
                 {"uncore", POWER_PART},  {"psys", POWER_PART},       {"VDDQ_", POWER_PART}};
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (strncmp(rail, known[i].begins, strlen(known[i].begins)) == 0)
            return known[i].kind;
    return POWER_SHARE;
}

void power_sum_add(struct power_sum *s, const struct rec_sensor *row)
{
    int i = 0;
    while (i < s->n && (s->rail[i].rank != row->rank || strcmp(s->rail[i].rail, row->rail) != 0))
        i++;
    if (i == s->n)
        s->rail = mem_grow(MEM_TRACE, s->rail, (size_t)i, (size_t)i + 1, &s->cap, sizeof *s->rail);
    struct power_last *r = &s->rail[i];
    if (i == s->n) {
        *r = (struct power_last){.rank = row->rank, .kind = power_kind_of(row->rail)};
        memcpy(r->rail, row->rail, sizeof r->rail);
        s->n++;
    } else if (row->t_ns > r->t_ns) {
        r->joule += row->milliwatt * 1e-3 * ((double)(row->t_ns - r->t_ns) * 1e-9);
        r->known = true;
    }
    r->t_ns = row->t_ns;
}

double power_sum_take(struct power_sum *s)
{
    double joule = 0;
    bool any = false;
    for (int i = 0; i < s->n; i++) {
        enum power_kind want = POWER_SHARE;
        for (int k = 0; k < s->n; k++)
            if (s->rail[k].rank == s->rail[i].rank && s->rail[k].kind == POWER_TOTAL)
                want = POWER_TOTAL;
        if (s->rail[i].kind == want && s->rail[i].known) {
            joule += s->rail[i].joule;
            any = true;
        }
    }
    for (int i = 0; i < s->n; i++) {
        s->rail[i].joule = 0;
        s->rail[i].known = false;
    }
    return any ? joule : (double)NAN;
}

void power_sum_free(struct power_sum *s)
{
    mem_free(s->rail);
    *s = (struct power_sum){0};
}
