#include "report/export.h"

#include "base/fsio.h"
#include "base/outfile.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void export_csv_text(FILE *out, const char *s)
{
    if (!strpbrk(s, ",\"\r\n")) {
        fputs(s, out);
        return;
    }
    fputc('"', out);
    for (; *s; s++) {
        if (*s == '"')
            fputc('"', out);
        fputc(*s, out);
    }
    fputc('"', out);
}

static void put_cell(FILE *out, const struct record_field *f, const char *at)
{
    int32_t i32 = 0;
    int64_t i64 = 0;
    uint64_t u64 = 0;
    double f64 = 0;
    switch (f->type) {
    case FIELD_I32:
        memcpy(&i32, at, sizeof i32);
        fprintf(out, "%d", i32);
        break;
    case FIELD_I64:
        memcpy(&i64, at, sizeof i64);
        fprintf(out, "%lld", (long long)i64);
        break;
    case FIELD_U64: // text: a spreadsheet would round the number
        memcpy(&u64, at, sizeof u64);
        fprintf(out, "0x%016llx", (unsigned long long)u64);
        break;
    case FIELD_F64:
        memcpy(&f64, at, sizeof f64);
        if (isfinite(f64))
            fprintf(out, "%.17g", f64);
        break;
    case FIELD_U8:
        fprintf(out, "%u", *(const uint8_t *)at);
        break;
    case FIELD_TEXT:
        export_csv_text(out, at);
        break;
    case FIELD_STAGE:
        fputs(stage_table[*(const uint8_t *)at].name, out);
        break;
    case FIELD_STATUS:
        memcpy(&i32, at, sizeof i32);
        fputs(message_status_name[i32], out);
        break;
    }
}

static const char *base_name(enum record_id id)
{
    return strrchr(record_tables[id].name, '/') + 1;
}

static int create(struct outfile *o, const char *dir, const char *name, const char *begins,
                  struct err *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s.csv", dir, name) >= (int)sizeof path)
        return err_set(err, "%s: the name is too long", dir);
    return outfile_open(o, path, begins, err);
}

static int put_table(const struct trace_file *f, enum record_id id, const char *dir,
                     struct err *err)
{
    const struct record_table *t = &record_tables[id];
    struct outfile file;
    char name[64];
    if (create(&file, dir, base_name(id), t->fields->name, err) < 0)
        return -1;
    FILE *out = file.f;
    for (const struct record_field *c = t->fields; c->name; c++)
        for (int k = 0; k < trace_field_columns(c); k++) {
            trace_column_name(c, k, name, sizeof name);
            fprintf(out, "%s%s", c == t->fields && k == 0 ? "" : ",", name);
        }
    fputs("\r\n", out);
    for (size_t i = 0; i < f->n[id]; i++) {
        const char *row = f->rows[id] + i * t->row_bytes;
        for (const struct record_field *c = t->fields; c->name; c++)
            for (int k = 0; k < trace_field_columns(c); k++) {
                if (c != t->fields || k)
                    fputc(',', out);
                put_cell(out, c, row + c->offset + (size_t)k * (trace_field_bytes(c) / c->count));
            }
        fputs("\r\n", out);
    }
    return outfile_close(&file, err);
}

static int put_units(const char *dir, struct err *err)
{
    static const char *const types[] = {
        [FIELD_I32] = "int32",   [FIELD_I64] = "int64",    [FIELD_U64] = "hex64",
        [FIELD_F64] = "float",   [FIELD_U8] = "uint8",     [FIELD_TEXT] = "text",
        [FIELD_STAGE] = "stage", [FIELD_STATUS] = "status"};
    struct outfile file;
    char name[64];
    if (create(&file, dir, "units", "table,column,", err) < 0)
        return -1;
    FILE *out = file.f;
    fputs("table,column,type,unit,description\r\n", out);
    for (int id = 0; id < REC_COUNT; id++)
        for (const struct record_field *c = record_tables[id].fields; c->name; c++)
            for (int k = 0; k < trace_field_columns(c); k++) {
                trace_column_name(c, k, name, sizeof name);
                fprintf(out, "%s,%s,%s,%s,", base_name((enum record_id)id), name, types[c->type],
                        c->unit ? c->unit : "");
                export_csv_text(out, c->help ? c->help : "");
                fputs("\r\n", out);
            }
    return outfile_close(&file, err);
}

static int put_config(const struct trace_file *f, const char *dir, struct err *err)
{
    struct outfile file;
    if (create(&file, dir, "config", "name,value", err) < 0)
        return -1;
    FILE *out = file.f;
    fputs("name,value\r\n", out);
    for (int i = 0; i < f->n_config; i++) {
        export_csv_text(out, f->config[i].name);
        fputc(',', out);
        export_csv_text(out, f->config[i].text);
        fputs("\r\n", out);
    }
    return outfile_close(&file, err);
}

int export_csv(const struct trace_file *f, const char *dir, struct err *err)
{
    if (fsio_mkdirs(dir, err) < 0)
        return -1;
    for (int id = 0; id < REC_COUNT; id++)
        if (put_table(f, (enum record_id)id, dir, err) < 0)
            return -1;
    if (put_units(dir, err) < 0)
        return -1;
    return put_config(f, dir, err);
}
