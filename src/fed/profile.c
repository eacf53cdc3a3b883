#include "fed/profile.h"

#include "base/fsio.h"
#include "base/mem.h"
#include "base/rng.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Computing: FP32 rates against an Orin Nano's 1.28 TFLOP/s, which is 1024 cores x 2 x 625 MHz.
// Drawing: the power mode named. Sending: the radio of the paper, 2 W. What has a source says it;
// "configured" is a plausible figure without one: measure your board, and give client.table.
#define SEND_W 2
static const struct device unknown = {
    .name = "any", .source = "configured", .slow = 1, .compute_w = -1, .send_w = -1};
static const struct device orin_nano = {
    .name = "orin-nano",
    .source = "1024 cores at 625 MHz, 7 to 15 W (NVIDIA data sheet before Super mode); its 15 W",
    .slow = 1,
    .compute_w = 15,
    .send_w = SEND_W};
static const struct device xavier_nx = {
    .name = "xavier-nx", .source = "configured", .slow = 1.5, .compute_w = 15, .send_w = SEND_W};
static const struct device agx_orin = {
    .name = "agx-orin",
    .source = "15 to 60 W (NVIDIA 2022); 40 W of it and the speed configured",
    .slow = 0.25,
    .compute_w = 40,
    .send_w = SEND_W};
static const struct device thor = {
    .name = "thor",
    .source = "40 to 130 W (NVIDIA 2025); 100 W of it and the speed configured",
    .slow = 0.16,
    .compute_w = 100,
    .send_w = SEND_W};
static const struct device pi5 = {
    .name = "pi5", .source = "configured", .slow = 16, .compute_w = 8, .send_w = SEND_W};
static const struct device phone = {
    .name = "phone", .source = "configured", .slow = 2.5, .compute_w = 4, .send_w = SEND_W};

static struct rng device_stream(const struct profile_model *m, uint32_t client)
{
    return rng_stream(m->seed, RNG_DEVICE, client, 0, 0);
}

// A share of slow ones.

struct slow_opt {
    double share, min, max;
};

static const struct opt slow_options[] = {
    OPT(struct slow_opt, share, "share", "0.3", 0, 1, "", "of clients that are slow"),
    OPT(struct slow_opt, min, "min", "2", 1, 1e6, "", "times the compute of the others, at least"),
    OPT(struct slow_opt, max, "max", "4", 1, 1e6, "", "and at most"),
};

static int slow_open(struct profile_model *m, struct err *err)
{
    const struct slow_opt *o = m->opt;
    if (o->min > o->max)
        return err_set(err, "client.profile = %.80s: min = %g exceeds max = %g", m->params->profile,
                       o->min, o->max);
    return 0;
}

static struct device slow_device(const struct profile_model *m, uint32_t client)
{
    const struct slow_opt *o = m->opt;
    struct rng r = device_stream(m, client);
    struct device d = unknown;
    if (rng_unit(&r) < o->share)
        d.slow = o->min + (o->max - o->min) * rng_unit(&r);
    return d;
}

// One of several, by share.

static struct device dealt(const struct profile_model *m, uint32_t client, const struct device *d,
                           size_t n)
{
    struct rng r = device_stream(m, client);
    double sum = 0, u;
    for (size_t i = 0; i < n; i++)
        sum += d[i].share;
    u = rng_unit(&r) * sum;
    size_t i = 0;
    for (; i + 1 < n && u >= d[i].share; i++)
        u -= d[i].share;
    return d[i];
}

enum { MIXED = 6 };
static const struct device *const mixed[MIXED] = {&orin_nano, &xavier_nx, &agx_orin,
                                                  &thor,      &pi5,       &phone};
struct mix_opt {
    double share[MIXED];
};

#define MIX_OPT(i, n, d) OPT(struct mix_opt, share[i], n, d, 0, 1, "", "share of clients")
static const struct opt mix_options[] = {
    MIX_OPT(0, "orin-nano", "0.4"), MIX_OPT(1, "xavier-nx", "0.2"), MIX_OPT(2, "agx-orin", "0"),
    MIX_OPT(3, "thor", "0"),        MIX_OPT(4, "pi5", "0.1"),       MIX_OPT(5, "phone", "0.3"),
};

static int mix_open(struct profile_model *m, struct err *err)
{
    const struct mix_opt *o = m->opt;
    struct device *d = m->state = mem_alloc(MEM_OTHER, MIXED * sizeof *d);
    double sum = 0;
    for (int i = 0; i < MIXED; i++) {
        d[i] = *mixed[i];
        d[i].share = o->share[i];
        sum += o->share[i];
    }
    if (sum > 0.999 && sum < 1.001)
        return 0;
    return err_set(err, "client.profile = %.80s: the shares add up to %g, and have to make 1",
                   m->params->profile, sum);
}

static void mix_close(struct profile_model *m)
{
    mem_free(m->state);
}

static struct device mix_device(const struct profile_model *m, uint32_t client)
{
    return dealt(m, client, m->state, MIXED);
}

// A table from a file.

enum { DEVICES_MAX = 65536, LINE_MAX_BYTES = 256 };
#define FILE_MAX_BYTES ((size_t)16 << 20)
static const char head[] = "name,share,slow,compute_w,send_w";

struct reading {
    struct device *d;
    size_t n, cap, names_at; // names: one after the other, set when all are known
    char *names;
    size_t names_cap;
};

static void add_device(struct reading *r, const char *name, size_t len, struct device d)
{
    r->d = mem_grow(MEM_OTHER, r->d, r->n, r->n + 1, &r->cap, sizeof d);
    r->d[r->n++] = d;
    r->names = mem_grow(MEM_OTHER, r->names, r->names_at, r->names_at + len + 1, &r->names_cap, 1);
    memcpy(r->names + r->names_at, name, len);
    r->names[r->names_at + len] = '\0';
    r->names_at += len + 1;
}

// "share,slow,compute_w,send_w" behind the name.
static bool four_numbers(const char *p, double v[4])
{
    for (int i = 0; i < 4; i++) {
        char *end;
        p += strspn(p, " \t");
        size_t n = strspn(p, "0123456789.eE+-");
        v[i] = strtod(p, &end);
        if (n == 0 || end != p + n || !isfinite(v[i]))
            return false;
        p = end + strspn(end, " \t");
        if (*p++ != (i < 3 ? ',' : '\0'))
            return false;
    }
    return v[0] >= 0 && v[1] > 0 && v[2] >= 0 && v[3] >= 0 && v[0] <= 1e9 && v[1] <= 1e6 &&
           v[2] <= 1e6 && v[3] <= 1e6;
}

static int read_csv(struct reading *r, const char *where, const char *bytes, size_t n,
                    struct err *err)
{
    size_t number = 0;
    for (const char *p = bytes, *end = bytes + n; p < end;) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t len = (size_t)((nl ? nl : end) - p);
        char line[LINE_MAX_BYTES];
        number++;
        if (len >= sizeof line || memchr(p, '\0', len))
            return err_set(err, "%s:%zu: not a line of text of at most %zu bytes", where, number,
                           sizeof line - 1);
        memcpy(line, p, len);
        line[len] = '\0';
        line[strcspn(line, "#\r")] = '\0';
        p = nl ? nl + 1 : end;
        if (!line[strspn(line, " \t")])
            continue;
        if (r->cap == 0 && strcmp(line, head) == 0 && r->names_at == 0) {
            r->names = mem_grow(MEM_OTHER, r->names, 0, 1, &r->names_cap, 1); // the head was there
            continue;
        }
        char *comma = strchr(line, ',');
        double v[4];
        if (!r->names)
            return err_set(err, "%s:%zu: the first line is not '%s'", where, number, head);
        if (!comma || comma == line || !four_numbers(comma + 1, v))
            return err_set(err,
                           "%s:%zu: not a name, a share and powers of at least 0, and a slowdown "
                           "above 0",
                           where, number);
        if (r->n == DEVICES_MAX)
            return err_set(err, "%s: more than %d devices", where, DEVICES_MAX);
        add_device(r, line, (size_t)(comma - line),
                   (struct device){.share = v[0], .slow = v[1], .compute_w = v[2], .send_w = v[3]});
    }
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int read_scores(struct reading *r, const char *where, const char *bytes, size_t n,
                       struct err *err)
{
    json_error_t why;
    json_t *root = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &why), *v;
    const char *key;
    if (!root)
        return err_set(err, "%s:%d: %.120s", where, why.line, why.text);
    size_t count = json_object_size(root);
    int rc = 0;
    if (!json_is_object(root) || count == 0 || count > DEVICES_MAX)
        rc = err_set(err, "%s: not an object of 1 to %d devices", where, DEVICES_MAX);
    double *score = rc ? NULL : mem_alloc(MEM_OTHER, count * sizeof *score);
    json_object_foreach(root, key, v)
    {
        double x = json_is_number(v) ? json_number_value(v) : 0;
        if (rc == 0 && !(x > 0 && x < 1e12))
            rc = err_set(err, "%s: %.80s: its score is not a number above 0", where, key);
        if (rc == 0) {
            score[r->n] = x;
            add_device(r, key, strlen(key),
                       (struct device){.share = 1, .slow = x, .compute_w = -1, .send_w = -1});
        }
    }
    if (rc == 0) {
        qsort(score, count, sizeof *score, by_value);
        double median = (score[(count - 1) / 2] + score[count / 2]) / 2;
        for (size_t i = 0; i < r->n; i++)
            r->d[i].slow = median / r->d[i].slow;
    }
    mem_free(score);
    json_decref(root);
    return rc;
}

int profile_read(const char *where, const char *bytes, size_t n, struct device **d,
                 size_t *n_devices, struct err *err)
{
    struct reading r = {0};
    size_t at = 0;
    double shares = 0;
    while (at < n && isspace((unsigned char)bytes[at]))
        at++;
    bool json = at < n && bytes[at] == '{';
    int rc = json ? read_scores(&r, where, bytes, n, err) : read_csv(&r, where, bytes, n, err);
    for (size_t i = 0; i < r.n; i++)
        shares += r.d[i].share;
    if (rc == 0 && shares <= 0)
        rc = err_set(err, "%s: no device with a share of clients", where);
    if (rc == 0) { // one block: devices, then their names
        struct device *all = mem_alloc(MEM_OTHER, r.n * sizeof *all + r.names_at);
        char *names = memcpy(all + r.n, r.names, r.names_at);
        memcpy(all, r.d, r.n * sizeof *all);
        for (size_t i = 0; i < r.n; i++) {
            all[i].name = names;
            names += strlen(names) + 1;
        }
        *d = all;
        *n_devices = r.n;
    }
    mem_free(r.d);
    mem_free(r.names);
    return rc;
}

struct table {
    struct device *d;
    size_t n;
};

static void table_close(struct profile_model *m)
{
    struct table *t = m->state;
    if (t)
        mem_free(t->d);
    mem_free(t);
}

static int table_open(struct profile_model *m, struct err *err)
{
    const char *path = m->params->table;
    uint8_t *bytes;
    size_t n;
    struct err why = {""};
    if (!*path)
        return err_set(err, "client.profile = table: client.table names no file");
    if (fsio_read(path, FILE_MAX_BYTES, MEM_OTHER, &bytes, &n, &why))
        return err_set(err, "client.table: %.480s", why.text);
    struct table *t = m->state = mem_alloc(MEM_OTHER, sizeof *t);
    int rc = profile_read(path, (const char *)bytes, n, &t->d, &t->n, &why);
    mem_free(bytes);
    return rc ? err_set(err, "client.table: %.480s", why.text) : 0;
}

static struct device table_device(const struct profile_model *m, uint32_t client)
{
    const struct table *t = m->state;
    return dealt(m, client, t->d, t->n);
}

// The rows.

static const struct profile_row profile_same = {
    .name = "same", .help = "every client computes in client.step_ns", .always = &unknown};
static const struct profile_row profile_slow = {
    .name = "slow",
    .help = "a share of clients computes more slowly",
    .options = slow_options,
    .n_options = (int)ARRAY_LEN(slow_options),
    .option_bytes = sizeof(struct slow_opt),
    .open = slow_open,
    .device = slow_device,
};
static const struct profile_row profile_mix = {
    .name = "mix",
    .help = "shares of the devices below",
    .options = mix_options,
    .n_options = (int)ARRAY_LEN(mix_options),
    .option_bytes = sizeof(struct mix_opt),
    .open = mix_open,
    .close = mix_close,
    .device = mix_device,
};
static const struct profile_row profile_of_table = {
    .name = "table",
    .help = "client.table: a CSV of devices, or a JSON object of benchmark scores",
    .open = table_open,
    .close = table_close,
    .device = table_device,
};
#define DEVICE_ROW(row, device, what)                                                              \
    static const struct profile_row row = {                                                        \
        .name = what, .help = "one device, against an Orin Nano", .always = &device}
DEVICE_ROW(profile_orin_nano, orin_nano, "orin-nano");
DEVICE_ROW(profile_xavier_nx, xavier_nx, "xavier-nx");
DEVICE_ROW(profile_agx_orin, agx_orin, "agx-orin");
DEVICE_ROW(profile_thor, thor, "thor");
DEVICE_ROW(profile_pi5, pi5, "pi5");
DEVICE_ROW(profile_phone, phone, "phone");

const struct profile_row *const profile_table[] = {&profile_same,
                                                   &profile_slow,
                                                   &profile_mix,
                                                   &profile_of_table,
                                                   &profile_orin_nano,
                                                   &profile_xavier_nx,
                                                   &profile_agx_orin,
                                                   &profile_thor,
                                                   &profile_pi5,
                                                   &profile_phone,
                                                   NULL};

static const char *row_name(int32_t i)
{
    return profile_table[i] ? profile_table[i]->name : NULL;
}

static int find_row(struct profile_model *m, const char *name, struct err *err)
{
    char tail[400];
    for (const struct profile_row *const *r = profile_table; *r; r++)
        if (strcmp((*r)->name, name) == 0 || !*name) { // nothing said: the first
            m->row = *r;
            return 0;
        }
    return err_set(err, "client.profile = %.80s: unknown%s", name,
                   opt_choices(name, row_name, tail, sizeof tail));
}

int profile_open(struct profile_model *m, const struct client_params *p, uint64_t seed,
                 struct err *err)
{
    char name[sizeof p->profile];
    size_t n = strcspn(p->profile, ":");
    struct err why = {""};
    *m = (struct profile_model){.params = p, .seed = seed};
    memcpy(name, p->profile, n);
    name[n] = '\0';
    if (find_row(m, name, err))
        return -1;
    if (*p->table && m->row != &profile_of_table)
        return err_set(err,
                       "client.table = %.200s, but client.profile = %.80s reads no table: set "
                       "client.profile = table, or leave client.table out",
                       p->table, p->profile);
    if (m->row->option_bytes) {
        m->opt = mem_alloc(MEM_OTHER, m->row->option_bytes);
        opt_defaults(m->row->options, m->row->n_options, m->opt);
    }
    const char *list = p->profile[n] ? p->profile + n + 1 : "";
    int rc = opt_set_list(m->row->options, m->row->n_options, m->opt, list, &why);
    if (rc)
        err_set(err, "client.profile = %.80s: %.300s", p->profile, why.text);
    if (rc == 0 && m->row->open)
        rc = m->row->open(m, err);
    if (rc)
        profile_close(m);
    return rc;
}

void profile_close(struct profile_model *m)
{
    if (m->row && m->row->close)
        m->row->close(m);
    mem_free(m->opt);
    *m = (struct profile_model){0};
}

struct device profile_device(const struct profile_model *m, uint32_t client)
{
    struct device d = m->row->always ? *m->row->always : m->row->device(m, client);
    if (m->params->compute_w >= 0)
        d.compute_w = m->params->compute_w;
    if (m->params->send_w >= 0)
        d.send_w = m->params->send_w;
    return d;
}

double device_energy_j(double watt, int64_t ns)
{
    return watt < 0 ? (double)NAN : watt * ((double)ns * 1e-9);
}
