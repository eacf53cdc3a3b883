#include "bench/bench.h"

#include "base/buildinfo.h"
#include "base/check.h"
#include "base/clock.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct timing {
    int64_t wall_ns, cpu_ns;
};

static struct timing run_once(const struct bench_case *k, int64_t n)
{
    if (k->prepare)
        k->prepare(k->arg, n);
    int64_t cpu = clock_cpu_ns(), wall = clock_ns();
    k->loop(k->arg, n);
    wall = clock_ns() - wall;
    return (struct timing){wall, clock_cpu_ns() - cpu};
}

// How many iterations last min_time. Grows by what the last run suggests, at most tenfold: the
// first runs are cold and slow, and would otherwise promise too much of the later ones.
static int64_t calibrate(const struct bench_case *k, double min_ns)
{
    int64_t n = 1;
    for (;;) {
        double ns = (double)run_once(k, n).wall_ns;
        if (ns >= min_ns)
            return n;
        double grow = ns > 0 ? 1.2 * min_ns / ns : 10;
        grow = grow > 10 ? 10 : grow < 1.2 ? 1.2 : grow;
        n = (int64_t)ceil((double)n * grow);
    }
}

// A sample far shorter than calibrated says that the calibration was disturbed: it is discarded and
// the count corrected.
static void sample(struct bench_ctx *c, const struct bench_case *k, int i, struct bench_result *r)
{
    double min_ns = c->min_time_s * 1e9;
    for (int tries = 0;; tries++) {
        struct noise_mark begun = noise_begin();
        struct timing t = run_once(k, r->iterations);
        if ((double)t.wall_ns >= min_ns / 2 || tries == 3) {
            bench_noise(c, &begun, r, i);
            r->sample_ns[i] = (double)t.wall_ns / (double)r->iterations;
            r->sample_cpu_ns[i] = (double)t.cpu_ns / (double)r->iterations;
            return;
        }
        r->discarded++;
        double grow = t.wall_ns > 0 ? 1.2 * min_ns / (double)t.wall_ns : 10;
        r->iterations = (int64_t)ceil((double)r->iterations * (grow > 10 ? 10 : grow));
    }
}

void bench_noise(struct bench_ctx *c, const struct noise_mark *begun, struct bench_result *r,
                 int sample)
{
    r->noise[sample] = noise_end(begun);
    noise_add(&c->row_noise, &r->noise[sample]);
}

struct noise_tally bench_take_noise(struct bench_ctx *c)
{
    struct noise_tally taken = c->row_noise;
    c->row_noise = (struct noise_tally){0};
    return taken;
}

void bench_size(struct bench_ctx *c, int64_t size, const char *unit)
{
    c->items = size;
    c->unit = unit;
}

void bench_leave_out(struct bench_ctx *c, unsigned columns)
{
    c->left_out = columns;
}

// A table as it is shown: each column's head with its cell.
struct shown {
    struct table t;
    const char *cells[TABLE_COLS];
};

static void show(struct shown *s, struct table_col col, const char *cell)
{
    s->t.col[s->t.n_cols] = col;
    s->cells[s->t.n_cols++] = cell;
}

// cells NULL: of the head. noisy: the cell of noise, which a table without Validation lacks.
static void lay_out(const struct bench_ctx *c, const struct table *t, const char *const *cells,
                    const char *size, const char *noisy, struct shown *s)
{
    *s = (struct shown){.t = {.out = t->out}};
    if (c->unit)
        show(s, (struct table_col){"Size", c->unit, 8, TABLE_LEFT}, size);
    for (int k = 0; k < t->n_cols; k++) {
        if (!c->wide && c->left_out >> k & 1)
            continue;
        if (strcmp(t->col[k].head, "Validation") == 0)
            show(s, (struct table_col){"Noisy", "%", 5, TABLE_RIGHT}, noisy);
        show(s, t->col[k], cells ? cells[k] : NULL);
    }
}

void bench_head(const struct bench_ctx *c, const struct table *t)
{
    struct shown s;
    table_title(c->name);
    lay_out(c, t, NULL, NULL, NULL, &s);
    table_head(&s.t);
}

void bench_row(struct bench_ctx *c, const struct table *t, const char *const *cells)
{
    struct shown s;
    char size[32], noisy[32];
    struct noise_tally n = bench_take_noise(c);
    noise_join(&c->noise, &n);
    snprintf(size, sizeof size, "%lld", (long long)c->items);
    fmt_fixed(noisy, n.samples ? 100.0 * n.noisy / n.samples : NAN, 5, 0);
    lay_out(c, t, cells, size, noisy, &s);
    table_row(&s.t, s.cells);
}

void bench_measure(struct bench_ctx *c, const struct bench_case *cases, int n,
                   struct bench_result *results)
{
    assert(n >= 1 && n <= BENCH_CASES_MAX && c->samples >= 1 && c->samples <= BENCH_SAMPLES_MAX);
    double min_ns = c->min_time_s * 1e9, sorted[BENCH_SAMPLES_MAX];
    for (int k = 0; k < n; k++) {
        memset(&results[k], 0, sizeof results[k]);
        results[k].iterations = calibrate(&cases[k], min_ns);
        results[k].samples = c->samples;
    }
    for (int i = 0; i < c->samples; i++)
        for (int k = 0; k < n; k++)
            sample(c, &cases[k], i, &results[k]);
    for (int k = 0; k < n; k++) {
        memcpy(sorted, results[k].sample_cpu_ns, sizeof sorted);
        results[k].cpu_ns = stats_of(sorted, (size_t)c->samples).median;
        memcpy(sorted, results[k].sample_ns, sizeof sorted);
        results[k].ns = stats_of(sorted, (size_t)c->samples);
    }
}

double bench_ratio(const struct bench_result *a, const struct bench_result *b)
{
    double ratio[BENCH_SAMPLES_MAX];
    int n = a->samples < b->samples ? a->samples : b->samples;
    for (int i = 0; i < n; i++)
        ratio[i] = a->sample_ns[i] / b->sample_ns[i];
    return stats_of(ratio, (size_t)n).median;
}

const char *bench_check(struct bench_ctx *c, bool ok)
{
    c->failures += !ok;
    return ok ? "Pass" : "Fail";
}

void bench_fill(uint8_t *to, size_t n, uint32_t salt)
{
    uint64_t x = salt * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < n; i += 8) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t word = x ^ x >> 29;
        memcpy(to + i, &word, n - i < 8 ? n - i : 8);
    }
}

bool bench_same(const uint8_t *got, size_t n, uint32_t salt)
{
    uint64_t x = salt * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < n; i += 8) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t word = x ^ x >> 29;
        if (memcmp(got + i, &word, n - i < 8 ? n - i : 8) != 0)
            return false;
    }
    return true;
}

double bench_mb_per_s(int64_t bytes, double ns)
{
    return (double)bytes / ns * 1e3;
}

static bool read_line(const char *path, char *out, size_t size)
{
    FILE *f = fopen(path, "r");
    bool ok = f && fgets(out, (int)size, f);
    if (ok)
        out[strcspn(out, "\n")] = '\0';
    if (f)
        fclose(f);
    return ok;
}

// JSON as Google Benchmark writes it: its compare.py and all that reads its files work unchanged.
static void write_caches(struct jsonw *j)
{
    jsonw_key(j, "caches");
    jsonw_array(j);
    for (int i = 0;; i++) {
        static const char *const files[] = {"type", "level", "size", "shared_cpu_list"};
        char value[4][64], path[128];
        bool all = true;
        for (int k = 0; k < 4; k++) {
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", i,
                     files[k]);
            all &= read_line(path, value[k], sizeof value[k]);
        }
        if (!all)
            break;
        char *unit;
        int64_t size = strtoll(value[2], &unit, 10);
        size *= *unit == 'M' ? 1 << 20 : *unit == 'K' ? 1 << 10 : 1;
        jsonw_object(j);
        jsonw_key_text(j, "type", value[0]);
        jsonw_key_int(j, "level", strtoll(value[1], NULL, 10));
        jsonw_key_int(j, "size", size);
        jsonw_key_text(j, "shared_cpu_list", value[3]);
        jsonw_end(j);
    }
    jsonw_end(j);
}

static double cpu_mhz(void)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];
    double mhz = (double)NAN;
    while (f && isnan(mhz) && fgets(line, sizeof line, f))
        if (strncmp(line, "cpu MHz", 7) == 0)
            sscanf(line, "cpu MHz : %lf", &mhz);
    if (f)
        fclose(f);
    return mhz;
}

static void write_context(struct jsonw *j, int argc, char **argv)
{
    char date[64], host[64] = "", governor[64], line[4096] = "";
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S%z", localtime_r(&now, &tm));
    gethostname(host, sizeof host - 1);
    for (int i = 0; i < argc; i++) {
        size_t at = strlen(line);
        snprintf(line + at, sizeof line - at, "%s%s", i ? " " : "", argv[i]);
    }
    jsonw_key_text(j, "date", date);
    jsonw_key_text(j, "host_name", host);
    jsonw_key_text(j, "executable", "fstq");
    jsonw_key_int(j, "num_cpus", sysconf(_SC_NPROCESSORS_ONLN));
    jsonw_key_num(j, "mhz_per_cpu", cpu_mhz());
    jsonw_key(j, "cpu_scaling_enabled");
    jsonw_bool(j, read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", governor,
                            sizeof governor) &&
                      strcmp(governor, "performance") != 0);
    write_caches(j);
    double load[3];
    int n = getloadavg(load, 3);
    jsonw_key(j, "load_avg");
    jsonw_array(j);
    for (int i = 0; i < n; i++)
        jsonw_num(j, load[i]);
    jsonw_end(j);
    jsonw_key_text(j, "library_version", buildinfo.version);
    jsonw_key_text(j, "library_build_type", buildinfo.kind);
    jsonw_key_int(j, "json_schema_version", 1);
    jsonw_key_text(j, "git_rev", buildinfo.git_rev);
    jsonw_key_text(j, "compiler", buildinfo.compiler);
    jsonw_key_text(j, "arguments", line);
}

bool bench_json_begin(struct jsonw *j, FILE *out, int argc, char **argv)
{
    jsonw_begin(j, out);
    jsonw_object(j);
    jsonw_key(j, "context");
    jsonw_object(j);
    write_context(j, argc, argv);
    jsonw_end(j);
    jsonw_key(j, "benchmarks");
    jsonw_array(j);
    return !ferror(out);
}

void bench_json_end(struct jsonw *j)
{
    jsonw_end(j);
    jsonw_end(j);
}

struct json_row {
    const char *name;
    int family, threads, repetition; // repetition -1: an aggregate
    const char *aggregate;
    double real_ns, cpu_ns, bytes_per_second;
};

static void write_noise(struct jsonw *j, const struct json_row *row, const struct bench_result *r)
{
    if (row->aggregate) {
        struct noise_tally all = {0};
        for (int i = 0; i < r->samples; i++)
            noise_add(&all, &r->noise[i]);
        jsonw_key_int(j, "noisy_samples", all.noisy);
        return;
    }
    const struct noise *n = &r->noise[row->repetition];
    jsonw_key_num(j, "waited_share", (double)n->waited);
    jsonw_key_num(j, "stolen_share", (double)n->stolen);
    jsonw_key_num(j, "clock_share", (double)n->clock);
    jsonw_key_int(j, "throttled", n->throttled);
}

static void write_row(struct jsonw *j, const struct json_row *row, const struct bench_result *r,
                      const struct bench_counter *counters, int n_counters, const char *error)
{
    char name[448];
    snprintf(name, sizeof name, "%s%s%s", row->name, row->aggregate ? "_" : "",
             row->aggregate ? row->aggregate : "");
    jsonw_object(j);
    jsonw_key_text(j, "name", name);
    jsonw_key_int(j, "family_index", row->family);
    jsonw_key_int(j, "per_family_instance_index", 0);
    jsonw_key_text(j, "run_name", row->name);
    jsonw_key_text(j, "run_type", row->aggregate ? "aggregate" : "iteration");
    jsonw_key_int(j, "repetitions", r->samples);
    if (!row->aggregate)
        jsonw_key_int(j, "repetition_index", row->repetition);
    jsonw_key_int(j, "threads", row->threads);
    if (row->aggregate) {
        jsonw_key_text(j, "aggregate_name", row->aggregate);
        jsonw_key_text(j, "aggregate_unit", "time");
    }
    jsonw_key_int(j, "iterations", row->aggregate ? r->samples : r->iterations);
    jsonw_key_num(j, "real_time", row->real_ns);
    jsonw_key_num(j, "cpu_time", row->cpu_ns);
    jsonw_key_text(j, "time_unit", "ns");
    if (row->bytes_per_second > 0)
        jsonw_key_num(j, "bytes_per_second", row->bytes_per_second);
    write_noise(j, row, r);
    for (int i = 0; i < n_counters; i++)
        jsonw_key_num(j, counters[i].name, counters[i].value);
    if (error) {
        jsonw_key(j, "error_occurred");
        jsonw_bool(j, true);
        jsonw_key_text(j, "error_message", error);
    }
    jsonw_end(j);
}

void bench_report(struct bench_ctx *c, const char *row, const struct bench_result *r, int64_t bytes,
                  const struct bench_counter *counters, int n_counters, const char *error)
{
    if (!c->json)
        return;
    char name[400];
    snprintf(name, sizeof name, "%s/%s", c->name, row);
    struct json_row out = {
        .name = name, .family = c->families++, .threads = c->threads ? c->threads : 1};
    double sorted[BENCH_SAMPLES_MAX];
    memcpy(sorted, r->sample_cpu_ns, sizeof sorted);
    struct stats cpu = stats_of(sorted, (size_t)r->samples);
    for (int i = 0; i < r->samples; i++) {
        out.repetition = i;
        out.real_ns = r->sample_ns[i];
        out.cpu_ns = r->sample_cpu_ns[i];
        out.bytes_per_second = (double)bytes / out.real_ns * 1e9;
        write_row(c->json, &out, r, counters, n_counters, error);
    }
    const struct {
        const char *name;
        double real_ns, cpu_ns;
    } aggregates[] = {{"mean", r->ns.mean, cpu.mean},
                      {"median", r->ns.median, cpu.median},
                      {"stddev", r->ns.stddev, cpu.stddev},
                      {"min", r->ns.min, cpu.min},
                      {"p99", r->ns.p99, cpu.p99}};
    for (size_t i = 0; i < ARRAY_LEN(aggregates); i++) {
        out.aggregate = aggregates[i].name;
        out.real_ns = aggregates[i].real_ns;
        out.cpu_ns = aggregates[i].cpu_ns;
        out.bytes_per_second = i == 2 ? 0 : (double)bytes / out.real_ns * 1e9;
        write_row(c->json, &out, r, counters, n_counters, error);
    }
}
