// Rows that a test can make again: every field of every table follows from (table, version,
// attempt, k).
#ifndef FSTQ_TESTS_TRACE_ROWS_H
#define FSTQ_TESTS_TRACE_ROWS_H

#include "trace/trace.h"
#include "trace/trace_h5.h"
#include "trace/trace_journal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TEST_ROW_MAX 2048

// Rows of a table in one round.
static inline size_t test_rows_in_round(enum record_id id, int32_t version)
{
    static const size_t n[REC_COUNT] = {
        [REC_EVENTS] = 12, [REC_ROUNDS] = 1, [REC_MESSAGES] = 3, [REC_EVAL] = 2,
        [REC_ALLOC] = 5,   [REC_LINKS] = 3,  [REC_SENSORS] = 2,  [REC_SUMMARY] = 1,
    };
    if (id == REC_RUNS || id == REC_RANKS || id == REC_PARTITION)
        return version == 0 ? 2 : 0;
    return n[id];
}

static inline uint64_t test_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline void test_fill_field(const struct record_field *f, uint64_t seed, char *out)
{
    for (size_t k = 0; k < (f->type == FIELD_TEXT ? 1 : f->count); k++) {
        uint64_t h = test_mix(seed + 0x9e3779b97f4a7c15u * (k + 1));
        int32_t i32 = (int32_t)(h % 1000000) - 1;
        int64_t i64 = (int64_t)h >> 12; // sums of them stay in range
        double f64 = h % 11 == 0 ? (double)NAN : (double)(int64_t)h * 1e-12;
        switch (f->type) {
        case FIELD_I32:
            memcpy(out + 4 * k, &i32, 4);
            break;
        case FIELD_I64:
            memcpy(out + 8 * k, &i64, 8);
            break;
        case FIELD_U64:
            memcpy(out + 8 * k, &h, 8);
            break;
        case FIELD_F64:
            memcpy(out + 8 * k, &f64, 8);
            break;
        case FIELD_U8:
            out[k] = (char)(h & 3);
            break;
        case FIELD_STAGE:
            out[k] = (char)(1 + h % (STAGE_COUNT - 1));
            break;
        case FIELD_STATUS:
            i32 = (int32_t)(h % MESSAGE_STATUS_COUNT);
            memcpy(out + 4 * k, &i32, 4);
            break;
        case FIELD_TEXT:
            snprintf(out, f->count, "%s,\"%llx\" \xc3\xa9", f->name, (unsigned long long)h);
            break;
        }
    }
}

static inline void test_fill_row(enum record_id id, int32_t version, int32_t attempt, size_t k,
                                 char row[TEST_ROW_MAX])
{
    const struct record_table *t = &record_tables[id];
    memset(row, 0, t->row_bytes);
    for (int i = 0; t->fields[i].name; i++) {
        const struct record_field *f = &t->fields[i];
        uint64_t seed = (uint64_t)id << 56 ^ (uint64_t)(uint32_t)version << 24 ^
                        (uint64_t)(uint32_t)attempt << 48 ^ (uint64_t)k << 8 ^ (uint64_t)i;
        test_fill_field(f, test_mix(seed), row + f->offset);
        int32_t v = -2;
        if (strcmp(f->name, "run") == 0) // tables that say a thing once are keyed by run or rank
            v = id == REC_RUNS ? (int32_t)k : id == REC_SUMMARY ? version : 0;
        else if (strcmp(f->name, "version") == 0)
            v = version;
        else if (strcmp(f->name, "attempt") == 0)
            v = attempt;
        else if (id == REC_RANKS && strcmp(f->name, "rank") == 0)
            v = (int32_t)k;
        if (v != -2)
            memcpy(row + f->offset, &v, sizeof v);
    }
}

static inline void test_append_round(struct trace *t, int32_t version, int32_t attempt)
{
    char row[TEST_ROW_MAX];
    for (int id = 0; id < REC_COUNT; id++)
        for (size_t k = 0; k < test_rows_in_round((enum record_id)id, version); k++) {
            test_fill_row((enum record_id)id, version, attempt, k, row);
            trace_append(t, (enum record_id)id, row, 1);
        }
}

// Is every row of this round in f, each once and in order?
static inline bool test_round_whole(const struct trace_file *f, int32_t version, int32_t attempt)
{
    char row[TEST_ROW_MAX];
    for (int id = 0; id < REC_COUNT; id++) {
        size_t row_bytes = record_tables[id].row_bytes, at = 0;
        size_t want = test_rows_in_round((enum record_id)id, version);
        for (size_t k = 0; k < want; k++, at++) {
            test_fill_row((enum record_id)id, version, attempt, k, row);
            while (at < f->n[id] && memcmp(f->rows[id] + at * row_bytes, row, row_bytes) != 0)
                at++;
            if (at == f->n[id])
                return false;
        }
    }
    return true;
}

static inline int test_rounds_whole(const struct trace_file *f, int limit)
{
    int n = 0;
    while (n < limit && test_round_whole(f, n, 0))
        n++;
    return n;
}

static inline struct trace_meta test_meta(void)
{
    static const struct trace_attr config[] = {{"fed.rounds", "10"}, {"fed.method", "fedavg/fp32"}};
    return (struct trace_meta){.command_line = "fstq run test.ini",
                               .config_text = "[fed]\nrounds = 10\n",
                               .hwloc_xml = "<topology/>",
                               .environment = "OMP_NUM_THREADS=1\n",
                               .config = config,
                               .n_config = 2};
}

#endif
