// The journal of a trace. The first byte chooses: 0, the bytes as they are; else they are taken
// apart into (type u8, length u16, payload) and get the header and the hashes that they need to be
// believed.
#include "base/bytes.h"
#include "report/export.h"
#include "report/report.h"
#include "trace/trace_journal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_rows(const struct trace_file *f, enum record_id id)
{
    for (size_t i = 0; i < f->n[id]; i++) {
        const char *row = f->rows[id] + i * record_tables[id].row_bytes;
        assert(!record_is_pad(id, row));
        for (const struct record_field *c = record_tables[id].fields; c->name; c++) {
            if (c->type == FIELD_STAGE)
                assert((uint8_t)row[c->offset] < STAGE_COUNT);
            if (c->type == FIELD_TEXT)
                assert(memchr(row + c->offset, 0, c->count));
        }
    }
}

// All that is made of a trace, whatever its numbers are.
static void show(const struct trace_file *f)
{
    static FILE *out;
    if (!out && !(out = fopen("/dev/null", "w")))
        abort();
    int32_t run = report_run_id(f, 0);
    report_head(out, f, "a.h5");
    report_meta(out, f);
    report_runs(out, f);
    report_summary(out, f, run);
    report_rounds(out, f, run, 20);
    report_stages(out, f, run);
    report_bytes(out, f, run);
    report_widths(out, f, run, 20);
    report_sensors(out, f, run);
    report_clients(out, f, run, 20);
    report_verdict(out, f);
    report_json(out, f, "a.h5", -1);
    export_chrome(f, out);
}

static void try_journal(const uint8_t *bytes, size_t size)
{
    struct trace_file f = {0};
    struct err err = {0};
    size_t good = 0;
    if (trace_journal_parse(bytes, size, &f, &good, &err) < 0) {
        assert(err.text[0] && good == 0);
    } else {
        assert(good >= TRACE_JOURNAL_HEADER && good <= size);
        assert(f.rounds_committed == (int64_t)f.n[REC_ROUNDS]);
        trace_file_settle(&f);
        for (int id = 0; id < REC_COUNT; id++)
            check_rows(&f, (enum record_id)id);
        show(&f);
    }
    trace_file_free(&f);
}

// Rows of any length are made whole rows of their table, or hardly any input would hold one.
static size_t fit_rows(const uint8_t *payload, size_t n)
{
    uint32_t id = n >= 8 ? get_u32(payload) % REC_COUNT : 0;
    size_t row_bytes = record_tables[id].row_bytes;
    return 8 + (n < 8 ? 0 : n - 8) / row_bytes * row_bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] == 0) {
        try_journal(data + 1, size - 1);
        return 0;
    }
    // A head of 24 bytes takes the place of 3, and rows may grow to the 8 bytes before them.
    uint8_t *out = malloc(TRACE_JOURNAL_HEADER + size * (TRACE_JOURNAL_RECORD + 8));
    size_t n = TRACE_JOURNAL_HEADER;
    trace_journal_header(out);
    for (size_t at = 1; size - at >= 3;) {
        uint8_t type = data[at] % 5;
        size_t len = get_u16(data + at + 1), rest = size - at - 3;
        len = len > rest ? rest : len;
        uint8_t *payload = out + n + TRACE_JOURNAL_RECORD;
        memcpy(payload, data + at + 3, len);
        at += 3 + len;
        if (type == 2 && len >= 8) {
            uint32_t id = get_u32(payload) % REC_COUNT;
            len = fit_rows(payload, len);
            put_u32(payload, id);
            put_u32(payload + 4, (uint32_t)record_tables[id].row_bytes);
        }
        trace_journal_seal(out + n, type, len);
        n += TRACE_JOURNAL_RECORD + len;
    }
    if (size >= 2 && data[0] & 2) // and one bit of it wrong
        out[get_u16(data) % n] ^= 1;
    try_journal(out, n);
    free(out);
    return 0;
}
