// The same for machines. Rows are written field by field as record_tables names them.
#include "base/jsonw.h"
#include "base/mem.h"
#include "report/report.h"
#include "trace/tally.h"

#include <math.h>
#include <string.h>

static void put_number(struct jsonw *j, const struct record_field *f, const char *at)
{
    int32_t i32;
    int64_t i64;
    uint64_t u64;
    double f64;
    char hex[32];
    switch (f->type) {
    case FIELD_I64:
        memcpy(&i64, at, sizeof i64);
        jsonw_int(j, i64);
        return;
    case FIELD_U64: // as text: 64 bits do not fit a JSON reader's double
        memcpy(&u64, at, sizeof u64);
        snprintf(hex, sizeof hex, "%016llx", (unsigned long long)u64);
        jsonw_text(j, hex);
        return;
    case FIELD_F64:
        memcpy(&f64, at, sizeof f64);
        jsonw_num(j, f64);
        return;
    case FIELD_STAGE:
        jsonw_text(j, stage_table[*(const uint8_t *)at].name);
        return;
    case FIELD_U8:
        jsonw_int(j, *(const uint8_t *)at);
        return;
    case FIELD_TEXT:
        jsonw_text(j, at);
        return;
    case FIELD_I32:
    case FIELD_STATUS:
        memcpy(&i32, at, sizeof i32);
        if (f->type == FIELD_STATUS)
            jsonw_text(j, message_status_name[i32]);
        else
            jsonw_int(j, i32);
        return;
    }
}

static void put_row(struct jsonw *j, enum record_id id, const char *row)
{
    bool compact = j->compact;
    j->compact = true;
    jsonw_object(j);
    for (const struct record_field *f = record_tables[id].fields; f->name; f++) {
        jsonw_key(j, f->name);
        if (f->type == FIELD_TEXT || f->count <= 1) {
            put_number(j, f, row + f->offset);
            continue;
        }
        jsonw_array(j);
        for (uint16_t k = 0; k < f->count; k++)
            put_number(j, f, row + f->offset + k * (trace_field_bytes(f) / f->count));
        jsonw_end(j);
    }
    jsonw_end(j);
    j->compact = compact;
}

// Rows of one run; run < 0: all.
static void put_rows(struct jsonw *j, const char *key, const struct trace_file *f,
                     enum record_id id, int32_t run)
{
    int field = trace_field_find(id, "run");
    jsonw_key(j, key);
    jsonw_array(j);
    for (size_t i = 0; i < f->n[id]; i++) {
        const char *row = f->rows[id] + i * record_tables[id].row_bytes;
        int32_t r = run;
        if (field >= 0 && run >= 0)
            memcpy(&r, row + record_tables[id].fields[field].offset, sizeof r);
        if (r == run)
            put_row(j, id, row);
    }
    jsonw_end(j);
}

static void put_stages(struct jsonw *j, const struct trace_file *f, int32_t run)
{
    struct tally t;
    report_tally(f, run, &t);
    jsonw_key(j, "stages");
    jsonw_array(j);
    for (int i = STAGE_PAD + 1; i < STAGE_COUNT; i++) {
        const struct stage_tally *s = &t.stage[i];
        if (!s->count)
            continue;
        const struct {
            const char *name;
            int64_t v;
        } ints[] = {{"count", s->count},       {"time_ns", s->dur_ns},
                    {"max_ns", s->max_ns},     {"cpu_ns", s->cpu_known ? s->cpu_ns : -1},
                    {"bytes_in", s->bytes_in}, {"bytes_out", s->bytes_out}};
        jsonw_object(j);
        jsonw_key(j, "stage");
        jsonw_text(j, stage_table[i].name);
        jsonw_key(j, "lane");
        jsonw_text(j, lane_name[stage_table[i].lane]);
        jsonw_key(j, "inner");
        jsonw_bool(j, stage_table[i].inner);
        jsonw_key(j, "within");
        jsonw_text(j, stage_table[i].within ? stage_table[stage_table[i].within].name : "");
        for (size_t k = 0; k < ARRAY_LEN(ints); k++) {
            jsonw_key(j, ints[k].name);
            jsonw_int(j, ints[k].v);
        }
        jsonw_key(j, "p50_ns");
        jsonw_num(j, tally_percentile(s, 50));
        jsonw_key(j, "p95_ns");
        jsonw_num(j, tally_percentile(s, 95));
        jsonw_end(j);
    }
    jsonw_end(j);
    tally_free(&t);
}

static void put_bytes(struct jsonw *j, const struct trace_file *f, int32_t run)
{
    struct report_bytes b = report_sum_bytes(f, run);
    jsonw_key(j, "bytes");
    jsonw_object(j);
    jsonw_key(j, "frames");
    jsonw_int(j, b.frames);
    jsonw_key(j, "total");
    jsonw_int(j, b.total);
    for (int k = 0; k < 6; k++) {
        jsonw_key(j, report_part_name[k]);
        jsonw_int(j, b.part[k]);
    }
    jsonw_key(j, "values_by_width");
    jsonw_object(j);
    for (int k = 0; k < RECORD_WIDTHS; k++) {
        char bits[16];
        snprintf(bits, sizeof bits, "%d", record_width_bits[k]);
        jsonw_key(j, bits);
        jsonw_int(j, b.kept[k]);
    }
    jsonw_end(j);
    jsonw_key(j, "nmse_median");
    jsonw_num(j, b.nmse_median);
    jsonw_end(j);
}

static void put_clients(struct jsonw *j, const struct trace_file *f, int32_t run)
{
    size_t n;
    struct report_client *c = report_sum_clients(f, run, &n);
    jsonw_key(j, "clients");
    jsonw_array(j);
    for (size_t i = 0; i < n; i++) {
        const struct {
            const char *name;
            int64_t v;
        } ints[] = {
            {"client", c[i].client},      {"rank", c[i].rank},       {"asked", c[i].asked},
            {"arrived", c[i].ok},         {"lost", c[i].lost},       {"refused", c[i].refused},
            {"uplink_bytes", c[i].bytes}, {"trained", c[i].trained}, {"train_ns", c[i].train_ns}};
        jsonw_object(j);
        for (size_t k = 0; k < ARRAY_LEN(ints); k++) {
            jsonw_key(j, ints[k].name);
            jsonw_int(j, ints[k].v);
        }
        jsonw_key(j, "g_modelled");
        jsonw_num(j, c[i].g);
        jsonw_key(j, "energy_modelled_j");
        jsonw_num(j, c[i].energy_j);
        jsonw_key(j, "energy_measured_j");
        jsonw_num(j, c[i].measured_j);
        jsonw_end(j);
    }
    jsonw_end(j);
    mem_free(c);
}

void report_json(FILE *out, const struct trace_file *f, const char *path, int64_t only)
{
    struct jsonw j;
    jsonw_begin(&j, out);
    jsonw_object(&j);
    const struct {
        const char *name, *text;
    } texts[] = {{"file", path},
                 {"suite_version", f->suite_version},
                 {"git_rev", f->git_rev},
                 {"created_utc", f->created_utc},
                 {"command_line", f->command_line}};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        jsonw_key(&j, texts[i].name);
        jsonw_text(&j, texts[i].text);
    }
    jsonw_key(&j, "complete");
    jsonw_bool(&j, f->complete);
    jsonw_key(&j, "damaged");
    jsonw_int(&j, f->damaged);
    jsonw_key(&j, "rounds_committed");
    jsonw_int(&j, f->rounds_committed);
    jsonw_key(&j, "config");
    jsonw_object(&j);
    for (int i = 0; i < f->n_config; i++) {
        jsonw_key(&j, f->config[i].name);
        jsonw_text(&j, f->config[i].text);
    }
    jsonw_end(&j);
    put_rows(&j, "ranks", f, REC_RANKS, -1);
    put_rows(&j, "runs", f, REC_RUNS, -1);
    jsonw_key(&j, "results");
    jsonw_array(&j);
    for (size_t i = 0; i < report_run_count(f); i++) {
        int32_t run = report_run_id(f, i);
        if (only >= 0 && run != only)
            continue;
        jsonw_object(&j);
        jsonw_key(&j, "run");
        jsonw_int(&j, run);
        put_rows(&j, "summary", f, REC_SUMMARY, run);
        put_rows(&j, "rounds", f, REC_ROUNDS, run);
        put_rows(&j, "eval", f, REC_EVAL, run);
        put_stages(&j, f, run);
        put_bytes(&j, f, run);
        put_clients(&j, f, run);
        jsonw_end(&j);
    }
    jsonw_end(&j);
    jsonw_end(&j);
}
