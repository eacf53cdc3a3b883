// Readers of rates over time. All take any bytes: what does not fit is refused with file, line and
// what was expected.
#include "net/rate.h"

#include "base/fsio.h"
#include "base/mem.h"

#include <ctype.h>
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static const size_t FILE_MAX_BYTES = (size_t)64 << 20;
enum { STEPS_MAX = 1 << 22, SOURCES_MAX = 1 << 20 };
#define MBPS_MAX    1e7     // 10 Tbit/s
#define TIME_MAX    1e9     // s
#define PACKET_BITS 12000.0 // of a Mahimahi opportunity: 1500 bytes

struct steps {
    double *seconds, *bps;
    size_t n, cap;
};

static void steps_free(struct steps *s)
{
    mem_free(s->seconds);
    mem_free(s->bps);
    *s = (struct steps){0};
}

static int steps_add(struct steps *s, double seconds, double bps, const char *where,
                     struct err *err)
{
    if (s->n == STEPS_MAX)
        return err_set(err, "%s: more than %d steps", where, STEPS_MAX);
    size_t cap = s->cap;
    s->seconds = mem_grow(MEM_NET, s->seconds, s->n, s->n + 1, &cap, sizeof *s->seconds);
    s->bps = mem_grow(MEM_NET, s->bps, s->n, s->n + 1, &s->cap, sizeof *s->bps);
    s->seconds[s->n] = seconds;
    s->bps[s->n++] = bps;
    return 0;
}

static struct rate_source *source_new(struct rate_set *set, const char *name)
{
    set->source =
        mem_grow(MEM_NET, set->source, set->n, set->n + 1, &set->cap, sizeof *set->source);
    struct rate_source *s = &set->source[set->n++];
    *s = (struct rate_source){.rtt_ms = -1};
    snprintf(s->name, sizeof s->name, "%s", name);
    return s;
}

static int source_of_steps(struct rate_set *set, struct steps *s, const char *where, double rtt_ms,
                           struct err *err)
{
    struct rate_trace trace;
    const char *slash = strrchr(where, '/');
    int rc = rate_trace_build(&trace, s->seconds, s->bps, s->n, where, err);
    if (rc == 0) {
        struct rate_source *source = source_new(set, slash ? slash + 1 : where);
        source->up = trace;
        source->rtt_ms = rtt_ms;
    }
    steps_free(s);
    return rc;
}

// Lines of text: '#' begins a comment, empty ones are passed over. A line is cut out into `text`.
struct lines {
    const char *p, *end;
    size_t number;
    char text[512];
};

// 1: a line, 0: no more, -1: too long, or not text.
static int next_line(struct lines *l, const char *where, struct err *err)
{
    while (l->p < l->end) {
        const char *nl = memchr(l->p, '\n', (size_t)(l->end - l->p));
        const char *stop = nl ? nl : l->end;
        size_t n = (size_t)(stop - l->p);
        l->number++;
        if (n >= sizeof l->text)
            return err_set(err, "%s:%zu: a line of more than %zu bytes", where, l->number,
                           sizeof l->text - 1);
        if (memchr(l->p, '\0', n))
            return err_set(err, "%s:%zu: not text: a byte 0", where, l->number);
        memcpy(l->text, l->p, n);
        l->text[n] = '\0';
        l->p = nl ? nl + 1 : l->end;
        l->text[strcspn(l->text, "#\r")] = '\0';
        if (l->text[strspn(l->text, " \t")])
            return 1;
    }
    return 0;
}

// Numbers of a line between blanks or commas, at most max; -1: something else is there.
static int numbers(const char *text, double *v, int max)
{
    int n = 0;
    for (const char *p = text + strspn(text, " \t"); *p;) {
        char *end;
        if (n == max || !(isdigit((unsigned char)*p) || *p == '.' || *p == '-' || *p == '+'))
            return -1;
        v[n] = strtod(p, &end);
        if (end == p || end != p + strspn(p, "0123456789.eE+-") || !isfinite(v[n]) ||
            (*end && !strchr(" \t,", *end)))
            return -1;
        n++;
        p = end + strspn(end, " \t,");
    }
    return n;
}

static bool whole(double v, double max)
{
    return v >= 0 && v <= max && v == floor(v);
}

// mahimahi.

// Opportunities of the millisecond that ends at ms; between two of them nothing moves.
static int put_ms(struct steps *s, int64_t from_ms, int64_t ms, int64_t count, const char *where,
                  struct err *err)
{
    if (ms - 1 > from_ms && steps_add(s, (double)(ms - 1 - from_ms) * 1e-3, 0, where, err))
        return -1;
    return steps_add(s, 1e-3, (double)count * PACKET_BITS * 1e3, where, err);
}

static int read_mahimahi(struct rate_set *set, const char *where, const char *bytes, size_t n,
                         const struct rate_how *how, struct err *err)
{
    (void)how;
    struct lines l = {.p = bytes, .end = bytes + n};
    struct steps s = {0};
    int64_t done_ms = 0, at_ms = 0, count = 0; // counted: opportunities at at_ms
    int rc;
    while ((rc = next_line(&l, where, err)) == 1) {
        double v;
        if (numbers(l.text, &v, 1) != 1 || !whole(v, TIME_MAX * 1e3)) {
            rc = err_set(err, "%s:%zu: '%.40s' is not a whole number of milliseconds", where,
                         l.number, l.text);
            break;
        }
        int64_t ms = v < 1 ? 1 : (int64_t)v; // millisecond 0 is the first one, as 1 is
        if (ms < at_ms) {
            rc = err_set(err, "%s:%zu: %lld ms after %lld: times do not go back", where, l.number,
                         (long long)ms, (long long)at_ms);
            break;
        }
        if (ms > at_ms && count > 0) {
            rc = put_ms(&s, done_ms, at_ms, count, where, err);
            done_ms = at_ms;
            count = 0;
            if (rc)
                break;
        }
        at_ms = ms;
        count++;
    }
    if (rc == 0 && count > 0)
        rc = put_ms(&s, done_ms, at_ms, count, where, err);
    if (rc == 0)
        return source_of_steps(set, &s, where, -1, err);
    steps_free(&s);
    return -1;
}

// seconds and Mbit/s.

static int read_seconds(struct rate_set *set, const char *where, const char *bytes, size_t n,
                        const struct rate_how *how, struct err *err)
{
    (void)how;
    struct lines l = {.p = bytes, .end = bytes + n};
    struct steps s = {0};
    double before = 0;
    int rc;
    while ((rc = next_line(&l, where, err)) == 1) {
        double v[2];
        if (numbers(l.text, v, 2) != 2 || !(v[1] >= 0 && v[1] <= MBPS_MAX))
            rc = err_set(err, "%s:%zu: '%.40s' is not a time in seconds and a rate in Mbit/s",
                         where, l.number, l.text);
        else if (!(v[0] >= before && v[0] <= TIME_MAX))
            rc = err_set(err, "%s:%zu: %g s after %g: times do not go back", where, l.number, v[0],
                         before);
        else
            rc = steps_add(&s, v[0] - before, v[1] * 1e6, where, err);
        if (rc)
            break;
        before = v[0];
    }
    if (rc == 0)
        return source_of_steps(set, &s, where, -1, err);
    steps_free(&s);
    return -1;
}

static int read_mbps(struct rate_set *set, const char *where, const char *bytes, size_t n,
                     const struct rate_how *how, struct err *err)
{
    struct lines l = {.p = bytes, .end = bytes + n};
    struct steps s = {0};
    int rc;
    while ((rc = next_line(&l, where, err)) == 1) {
        double v;
        if (numbers(l.text, &v, 1) != 1 || !(v >= 0 && v <= MBPS_MAX))
            rc = err_set(err, "%s:%zu: '%.40s' is not a rate in Mbit/s", where, l.number, l.text);
        else
            rc = steps_add(&s, how->step_s, v * 1e6, where, err);
        if (rc)
            break;
    }
    if (rc == 0)
        return source_of_steps(set, &s, where, -1, err);
    steps_free(&s);
    return -1;
}

// JSON.

static json_t *parse_json(const char *where, const char *bytes, size_t n, struct err *err)
{
    json_error_t why;
    json_t *root = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        err_set(err, "%s:%d: %.120s", where, why.line, why.text);
    return root;
}

// A number in [0, max] under a key; `missing` where there is none, -1 where that is -1 or it is
// none.
static double member(const json_t *o, const char *key, double max, double missing)
{
    const json_t *v = json_object_get(o, key);
    if (!v)
        return missing;
    double x = json_is_number(v) ? json_number_value(v) : -1;
    return x >= 0 && x <= max ? x : -1;
}

static int read_sabre(struct rate_set *set, const char *where, const char *bytes, size_t n,
                      const struct rate_how *how, struct err *err)
{
    (void)how;
    struct steps s = {0};
    double latency = 0;
    json_t *root = parse_json(where, bytes, n, err);
    int rc = root ? 0 : -1;
    if (root && !json_is_array(root))
        rc = err_set(err, "%s: not a list of steps", where);
    for (size_t i = 0; rc == 0 && i < json_array_size(root); i++) {
        const json_t *o = json_array_get(root, i);
        double ms = member(o, "duration_ms", TIME_MAX * 1e3, -1);
        double kbps = member(o, "bandwidth_kbps", MBPS_MAX * 1e3, -1);
        double rtt = member(o, "latency_ms", 1e6, 0);
        if (ms < 0 || kbps < 0 || rtt < 0)
            rc = err_set(err,
                         "%s: step %zu: duration_ms and bandwidth_kbps are needed, and these and "
                         "latency_ms are numbers of at least 0",
                         where, i + 1);
        else
            rc = steps_add(&s, ms * 1e-3, kbps * 1e3, where, err);
        latency += rtt;
    }
    json_decref(root);
    if (rc == 0)
        return source_of_steps(set, &s, where, s.n ? latency / (double)s.n : -1, err);
    steps_free(&s);
    return -1;
}

// Means and spreads in KiB/s, as FLASH divides bytes by 1024 before it divides by them.
static int read_flash(struct rate_set *set, const char *where, const char *bytes, size_t n,
                      const struct rate_how *how, struct err *err)
{
    (void)how;
    const double bps = 8 * 1024, max = MBPS_MAX * 1e6 / (8 * 1024);
    json_t *root = parse_json(where, bytes, n, err);
    const char *key;
    json_t *o;
    int rc = root ? 0 : -1;
    if (root && (!json_is_object(root) || json_object_size(root) > SOURCES_MAX))
        rc = err_set(err, "%s: not an object of at most %d devices", where, SOURCES_MAX);
    if (rc == 0)
        json_object_foreach(root, key, o)
        {
            double up = member(o, "up_u", max, -1), up_sigma = member(o, "up_sigma", max, 0);
            double down = member(o, "down_u", max, -1),
                   down_sigma = member(o, "down_sigma", max, 0);
            if (!(up > 0 && down > 0 && up_sigma >= 0 && down_sigma >= 0)) {
                rc = err_set(err,
                             "%s: device %.60s: up_u, down_u above 0 and up_sigma, down_sigma "
                             "of at least 0 are needed",
                             where, key);
                break;
            }
            struct rate_source *s = source_new(set, key);
            s->up_bps = up * bps;
            s->up_sigma_bps = up_sigma * bps;
            s->down_bps = down * bps;
            s->down_sigma_bps = down_sigma * bps;
        }
    json_decref(root);
    return rc;
}

// A table of one's own: "name,up_mbps,up_sigma_mbps,down_mbps,down_sigma_mbps[,rtt_ms]".
static const char csv_head[] = "name,up_mbps,up_sigma_mbps,down_mbps,down_sigma_mbps";

static int csv_row(struct rate_set *set, const char *where, const struct lines *l, int columns,
                   struct err *err)
{
    double v[5] = {0};
    const char *comma = strchr(l->text, ',');
    char name[64];
    if (set->n >= SOURCES_MAX)
        return err_set(err, "%s: more than %d devices", where, SOURCES_MAX);
    if (!comma || numbers(comma + 1, v, 5) != columns - 1)
        return err_set(err, "%s:%zu: not a name and %d numbers", where, l->number, columns - 1);
    for (int i = 0; i < columns - 1; i++)
        if (!(v[i] >= 0 && v[i] <= MBPS_MAX) || ((i == 0 || i == 2) && v[i] <= 0))
            return err_set(err, "%s:%zu: %g: rates are above 0, spreads and times at least 0",
                           where, l->number, v[i]);
    snprintf(name, sizeof name, "%.*s", (int)(comma - l->text), l->text);
    struct rate_source *s = source_new(set, name);
    s->up_bps = v[0] * 1e6;
    s->up_sigma_bps = v[1] * 1e6;
    s->down_bps = v[2] * 1e6;
    s->down_sigma_bps = v[3] * 1e6;
    s->rtt_ms = columns == 6 ? v[4] : -1;
    return 0;
}

static int read_csv(struct rate_set *set, const char *where, const char *bytes, size_t n,
                    const struct rate_how *how, struct err *err)
{
    (void)how;
    struct lines l = {.p = bytes, .end = bytes + n};
    int rc = next_line(&l, where, err), columns = 5;
    size_t head = strlen(csv_head);
    if (rc < 0)
        return -1;
    if (rc == 0 || strncmp(l.text, csv_head, head) != 0 ||
        (l.text[head] && strcmp(l.text + head, ",rtt_ms") != 0))
        return err_set(err, "%s: the first line is not '%s[,rtt_ms]'", where, csv_head);
    if (l.text[head])
        columns = 6;
    size_t before = set->n;
    while ((rc = next_line(&l, where, err)) == 1)
        if (csv_row(set, where, &l, columns, err))
            return -1;
    if (rc == 0 && set->n == before)
        return err_set(err, "%s: no device behind the first line", where);
    return rc;
}

static const struct rate_reader reader_mahimahi = {
    .name = "mahimahi",
    .help = "a line per packet of 1500 bytes that may pass: its millisecond",
    .read = read_mahimahi};
static const struct rate_reader reader_seconds = {
    .name = "seconds",
    .help = "a line per step: the second it ends and its Mbit/s",
    .read = read_seconds};
static const struct rate_reader reader_mbps = {
    .name = "mbps", .help = "a line per step of trace:step seconds: its Mbit/s", .read = read_mbps};
static const struct rate_reader reader_sabre = {
    .name = "sabre",
    .help = "JSON list of steps: duration_ms, bandwidth_kbps, latency_ms (a round trip)",
    .read = read_sabre};
static const struct rate_reader reader_flash = {
    .name = "flash",
    .help = "JSON object of devices: up_u, up_sigma, down_u, down_sigma in KiB/s",
    .read = read_flash};
static const struct rate_reader reader_csv = {
    .name = "csv",
    .help = "name,up_mbps,up_sigma_mbps,down_mbps,down_sigma_mbps[,rtt_ms] and a line per device",
    .read = read_csv};

const struct rate_reader *const rate_reader_table[] = {
    &reader_mahimahi, &reader_seconds, &reader_mbps, &reader_sabre,
    &reader_flash,    &reader_csv,     NULL};

// What the bytes look like. A column of numbers is Mahimahi's when all are whole and none goes
// back.
static const struct rate_reader *look(const char *bytes, size_t n)
{
    struct lines l = {.p = bytes, .end = bytes + n};
    size_t blank = 0;
    double before = 0, v[2];
    while (blank < n && isspace((unsigned char)bytes[blank]))
        blank++;
    if (blank < n && bytes[blank] == '[')
        return &reader_sabre;
    if (blank < n && bytes[blank] == '{')
        return &reader_flash;
    if (next_line(&l, "", NULL) != 1)
        return &reader_seconds; // which says what is wrong
    if (isalpha((unsigned char)l.text[strspn(l.text, " \t")]))
        return &reader_csv;
    if (numbers(l.text, v, 2) != 1)
        return &reader_seconds;
    do {
        if (numbers(l.text, v, 1) != 1 || strchr(l.text, '.') || !whole(v[0], TIME_MAX * 1e3) ||
            v[0] < before)
            return &reader_mbps;
        before = v[0];
    } while (next_line(&l, "", NULL) == 1);
    return &reader_mahimahi;
}

int rate_read(struct rate_set *set, const char *where, const char *bytes, size_t n,
              const struct rate_how *how, struct err *err)
{
    const struct rate_reader *r = how->format < 0 ? look(bytes, n) : rate_reader_table[how->format];
    return r->read(set, where, bytes, n, how, err);
}

// files.

static int load_file(struct rate_set *set, const char *path, const struct rate_how *how,
                     struct err *err)
{
    uint8_t *bytes;
    size_t n;
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return err_set(err, "%s: neither a regular file nor a folder", path);
    if (fsio_read(path, FILE_MAX_BYTES, MEM_NET, &bytes, &n, err))
        return -1;
    int rc = rate_read(set, path, (const char *)bytes, n, how, err);
    mem_free(bytes);
    return rc;
}

static int passed_over(const struct dirent *d)
{
    static const char *const words[] = {"README", "LICENSE", "COPYING"};
    if (d->d_name[0] == '.')
        return 1;
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strncmp(d->d_name, words[i], strlen(words[i])) == 0)
            return 1;
    return 0;
}

static int wanted(const struct dirent *d)
{
    return !passed_over(d);
}

static bool ends_in(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n > k && strcmp(name + n - k, end) == 0;
}

// NAME.down came right before NAME.up.
static void join_pair(struct rate_set *set, const char *before, const char *name)
{
    size_t stem = strlen(name) - 3;
    if (set->n < 2 || !ends_in(before, ".down") || !ends_in(name, ".up") ||
        strlen(before) != stem + 5 || strncmp(before, name, stem) != 0)
        return;
    struct rate_source *down = &set->source[set->n - 2], *up = &set->source[set->n - 1];
    down->down = down->up;
    down->up = up->up;
    down->name[stem < sizeof down->name ? stem : sizeof down->name - 1] = '\0';
    set->n--;
}

static int load_folder(struct rate_set *set, const char *path, const struct rate_how *how,
                       struct err *err)
{
    struct dirent **entry;
    char before[256] = "";
    int n = scandir(path, &entry, wanted, alphasort), rc = 0;
    if (n < 0)
        return err_set(err, "%s: cannot list this folder", path);
    for (int i = 0; i < n; i++) {
        char full[1024];
        size_t sources = set->n;
        int len = snprintf(full, sizeof full, "%s/%s", path, entry[i]->d_name);
        if (rc == 0 && (len < 0 || (size_t)len >= sizeof full))
            rc = err_set(err, "%s/%.80s...: the name is too long", path, entry[i]->d_name);
        if (rc == 0)
            rc = load_file(set, full, how, err);
        if (rc == 0 && set->n == sources + 1 && set->source[sources].up.n)
            join_pair(set, before, entry[i]->d_name);
        snprintf(before, sizeof before, "%s", entry[i]->d_name);
        free(entry[i]);
    }
    free(entry);
    if (rc == 0 && set->n == 0)
        rc = err_set(err, "%s: holds no traces", path);
    return rc;
}

int rate_load(struct rate_set *set, const char *path, const struct rate_how *how, struct err *err)
{
    struct stat st;
    *set = (struct rate_set){0};
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    int rc = folder ? load_folder(set, path, how, err) : load_file(set, path, how, err);
    if (rc)
        rate_close(set);
    return rc;
}

void rate_close(struct rate_set *set)
{
    for (size_t i = 0; i < set->n; i++) {
        rate_trace_free(&set->source[i].up);
        rate_trace_free(&set->source[i].down);
    }
    mem_free(set->source);
    *set = (struct rate_set){0};
}
