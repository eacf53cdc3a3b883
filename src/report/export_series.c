// Curves for what people look at curves with: TensorBoard's event files, metrics and parameters as
// MLflow keeps them, as CSV, and MLPerf's log lines.
#include "report/export.h"

#include "base/bytes.h"
#include "base/fsio.h"
#include "base/jsonw.h"
#include "base/outfile.h"
#include "report/report.h"

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// A number of a round: an integer below zero is missing, a NaN too.
struct series {
    const char *tag;
    size_t offset;
    double scale; // 0 = a double as it stands
    bool sum;     // of the rounds so far
};
#define COLUMN(field) offsetof(struct rec_round, field)
static const struct series columns[] = {
    {"score", COLUMN(score), 0, false},
    {"loss/train", COLUMN(train_loss), 0, false},
    {"loss/eval", COLUMN(eval_loss), 0, false},
    {"update_norm", COLUMN(update_norm), 0, false},
    {"server_lr", COLUMN(server_lr), 0, false},
    {"bytes/uplink", COLUMN(uplink_bytes), 1, false},
    {"bytes/uplink_total", COLUMN(uplink_total_bytes), 1, false},
    {"bytes/downlink", COLUMN(downlink_bytes), 1, false},
    {"bytes/wire", COLUMN(wire_bytes), 1, false},
    {"time/modelled_s", COLUMN(time_modelled_ns), 1e-9, false},
    {"time/modelled_total_s", COLUMN(time_modelled_ns), 1e-9, true},
    {"time/measured_s", COLUMN(time_measured_ns), 1e-9, false},
    {"time/measured_total_s", COLUMN(time_measured_ns), 1e-9, true},
    {"energy/measured_j", COLUMN(energy_j), 0, false},
    {"energy/modelled_j", COLUMN(energy_modelled_j), 0, false},
};

struct point {
    int32_t run, step;
    double wall_s; // since 1970, on the clock that measured the run
    double value;
};

struct sink {
    void (*put)(struct sink *s, const char *tag, const struct point *p);
    FILE *out;
    const char *label; // of the run
    double last_s;     // when the last point was
};

static double cell_of(const struct rec_round *r, const struct series *c)
{
    const char *at = (const char *)r + c->offset;
    int64_t whole;
    double v;
    if (c->scale == 0) {
        memcpy(&v, at, sizeof v);
        return v;
    }
    memcpy(&whole, at, sizeof whole);
    return whole < 0 ? NAN : (double)whole * c->scale;
}

static double begun_s(const struct trace_file *f)
{
    struct tm tm = {0};
    return strptime(f->created_utc, "%Y-%m-%dT%H:%M:%S", &tm) ? (double)timegm(&tm) : 0;
}

static void put_evals(const struct trace_file *f, struct sink *s, struct point p)
{
    size_t n;
    const struct rec_eval *e = report_rows(f, REC_EVAL, &n);
    for (size_t i = 0; i < n; i++) {
        char tag[64];
        if (e[i].run != p.run || e[i].version != p.step || !isfinite(e[i].value))
            continue;
        snprintf(tag, sizeof tag, "eval_%.24s/%.24s", e[i].metric, e[i].set);
        p.value = e[i].value;
        s->put(s, tag, &p);
    }
}

// Every known number of a run, round by round.
static void walk(const struct trace_file *f, int32_t run, struct sink *s)
{
    size_t n;
    double sum[ARRAY_LEN(columns)] = {0}, wall = begun_s(f);
    const struct rec_round *r = report_rows(f, REC_ROUNDS, &n);
    for (size_t i = 0; i < n; i++) {
        if (r[i].run != run)
            continue;
        wall += r[i].time_measured_ns > 0 ? (double)r[i].time_measured_ns * 1e-9 : 0;
        struct point p = {run, r[i].version, wall, 0};
        for (size_t k = 0; k < ARRAY_LEN(columns); k++) {
            double v = cell_of(&r[i], &columns[k]);
            if (!isfinite(v))
                continue;
            sum[k] += v;
            p.value = columns[k].sum ? sum[k] : v;
            s->put(s, columns[k].tag, &p);
        }
        put_evals(f, s, p);
    }
}

static void label_of(const struct trace_file *f, int32_t run, char *to, size_t size)
{
    snprintf(to, size, "run-%d", run);
    if (report_run_count(f) == 1)
        snprintf(to, size, "run");
}

// TensorBoard. A file of records: length, its masked CRC-32C, bytes, their masked CRC-32C; each an
// Event of tensorflow/core/util/event.proto: 1 wall_time, 2 step, 3 file_version, 5 summary with
// values of 1 tag, 2 simple_value.

static uint32_t masked_crc(const uint8_t *p, size_t n)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (0x82f63b78u & (0u - (crc & 1)));
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void put_record(FILE *out, const uint8_t *event, size_t n)
{
    uint8_t head[12], tail[4];
    put_u64(head, n);
    put_u32(head + 8, masked_crc(head, 8));
    put_u32(tail, masked_crc(event, n));
    fwrite(head, 1, sizeof head, out);
    fwrite(event, 1, n, out);
    fwrite(tail, 1, sizeof tail, out);
}

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

static size_t key(uint8_t *to, int field, int type)
{
    to[0] = (uint8_t)(field << 3 | type);
    return 1;
}

static size_t varint(uint8_t *to, uint64_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        to[n++] = (uint8_t)(v | 0x80);
    to[n++] = (uint8_t)v;
    return n;
}

static size_t bytes(uint8_t *to, int field, const void *from, size_t n)
{
    size_t at = key(to, field, BYTES);
    at += varint(to + at, n);
    memcpy(to + at, from, n);
    return at + n;
}

static size_t put_time(uint8_t *to, double wall_s)
{
    uint64_t word;
    memcpy(&word, &wall_s, sizeof word);
    size_t n = key(to, 1, FIXED64);
    put_u64(to + n, word);
    return n + 8;
}

static void put_event(struct sink *s, const char *tag, const struct point *p)
{
    uint8_t value[128], summary[144], event[192];
    float v = (float)p->value;
    uint32_t word;
    memcpy(&word, &v, sizeof word);
    size_t n = bytes(value, 1, tag, strlen(tag));
    n += key(value + n, 2, FIXED32);
    put_u32(value + n, word);
    size_t m = bytes(summary, 1, value, n + 4), at = put_time(event, p->wall_s);
    at += key(event + at, 2, VARINT);
    at += varint(event + at, (uint64_t)p->step);
    at += bytes(event + at, 5, summary, m);
    put_record(s->out, event, at);
}

int export_tensorboard(const struct trace_file *f, const char *dir, struct err *err)
{
    static const char version[] = "brain.Event:2";
    for (size_t i = 0; i < report_run_count(f); i++) {
        char path[PATH_MAX], label[32];
        uint8_t event[64];
        struct outfile file;
        int32_t run = report_run_id(f, i);
        label_of(f, run, label, sizeof label);
        if (snprintf(path, sizeof path, "%s/%s", dir, label) >= (int)sizeof path - 64)
            return err_set(err, "%s: the name is too long", dir);
        if (fsio_mkdirs(path, err) < 0)
            return -1;
        snprintf(path + strlen(path), 64, "/events.out.tfevents.%010.0f.fstq", begun_s(f));
        // The first record of all such files is as long: 24 bytes.
        if (outfile_open(&file, path, "\x18", err) < 0)
            return -1;
        size_t n = put_time(event, begun_s(f));
        n += bytes(event + n, 3, version, sizeof version - 1);
        put_record(file.f, event, n);
        struct sink s = {put_event, file.f, label, 0};
        walk(f, run, &s);
        if (outfile_close(&file, err) < 0)
            return -1;
    }
    return 0;
}

// MLPerf's lines: :::MLLOG and an object of namespace, time_ms, event_type, key, value, metadata.

static void put_mllog(FILE *out, double wall_s, const char *type, const char *name, double v,
                      int32_t step)
{
    struct jsonw j;
    fputs(":::MLLOG ", out);
    jsonw_begin(&j, out);
    j.compact = true;
    jsonw_object(&j);
    jsonw_key_text(&j, "namespace", "fstq");
    jsonw_key_int(&j, "time_ms", (int64_t)(wall_s * 1e3));
    jsonw_key_text(&j, "event_type", type);
    jsonw_key_text(&j, "key", name);
    jsonw_key_num(&j, "value", v);
    jsonw_key(&j, "metadata");
    jsonw_object(&j);
    if (step >= 0)
        jsonw_key_int(&j, "epoch_num", step);
    jsonw_end(&j);
    jsonw_end(&j); // and the line
}

static void put_mark(struct sink *s, const char *tag, const struct point *p)
{
    s->last_s = p->wall_s;
    put_mllog(s->out, p->wall_s, "POINT_IN_TIME", strcmp(tag, "score") ? tag : "eval_accuracy",
              p->value, p->step);
}

int export_mllog(const struct trace_file *f, const char *path, struct err *err)
{
    struct outfile file;
    if (outfile_open(&file, path, ":::MLLOG", err) < 0)
        return -1;
    for (size_t i = 0; i < report_run_count(f); i++) {
        struct sink s = {put_mark, file.f, "", begun_s(f)};
        put_mllog(file.f, s.last_s, "INTERVAL_START", "run_start", NAN, -1);
        walk(f, report_run_id(f, i), &s);
        put_mllog(file.f, s.last_s, "INTERVAL_END", "run_stop", NAN, -1);
    }
    return outfile_close(&file, err);
}

// MLflow: a line a metric and step, times in milliseconds; parameters apart.

static void put_line(struct sink *s, const char *tag, const struct point *p)
{
    fprintf(s->out, "%s,%s,%.17g,%lld,%d\r\n", s->label, tag, p->value,
            (long long)(p->wall_s * 1e3), p->step);
}

static int put_metrics(const struct trace_file *f, const char *path, struct err *err)
{
    struct outfile file;
    if (outfile_open(&file, path, "run_id,key,value,timestamp", err) < 0)
        return -1;
    fputs("run_id,key,value,timestamp,step\r\n", file.f);
    for (size_t i = 0; i < report_run_count(f); i++) {
        char label[32];
        label_of(f, report_run_id(f, i), label, sizeof label);
        struct sink s = {put_line, file.f, label, 0};
        walk(f, report_run_id(f, i), &s);
    }
    return outfile_close(&file, err);
}

static void put_param(FILE *out, const char *label, const char *name, const char *value)
{
    fprintf(out, "%s,", label);
    export_csv_text(out, name);
    fputc(',', out);
    export_csv_text(out, value);
    fputs("\r\n", out);
}

static int put_params(const struct trace_file *f, const char *path, struct err *err)
{
    struct outfile file;
    if (outfile_open(&file, path, "run_id,key,value", err) < 0)
        return -1;
    fputs("run_id,key,value\r\n", file.f);
    for (size_t i = 0; i < report_run_count(f); i++) {
        char label[32];
        label_of(f, report_run_id(f, i), label, sizeof label);
        put_param(file.f, label, "method", report_method(f, report_run_id(f, i)));
        put_param(file.f, label, "git_rev", f->git_rev);
        for (int k = 0; k < f->n_config; k++)
            put_param(file.f, label, f->config[k].name, f->config[k].text);
    }
    return outfile_close(&file, err);
}

int export_mlflow(const struct trace_file *f, const char *dir, struct err *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/metrics.csv", dir) >= (int)sizeof path)
        return err_set(err, "%s: the name is too long", dir);
    if (fsio_mkdirs(dir, err) < 0 || put_metrics(f, path, err) < 0)
        return -1;
    snprintf(path, sizeof path, "%s/params.csv", dir);
    return put_params(f, path, err);
}
