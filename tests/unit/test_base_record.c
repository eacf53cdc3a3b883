// The table of rows, padding, and the ring of spans.
#include "base/check.h"
#include "base/mem.h"
#include "base/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void stages_are_described(void **state)
{
    (void)state;
    for (int s = 0; s < STAGE_COUNT; s++) {
        const struct stage_row *row = &stage_table[s];
        assert_true(row->name && row->includes && row->excludes && row->lane < LANE_COUNT);
        assert_true(strlen(row->name) < 24);
        for (int k = 0; k < s; k++)
            assert_string_not_equal(row->name, stage_table[k].name);
    }
    for (int i = 0; i < LANE_COUNT; i++)
        assert_non_null(lane_name[i]);
    for (int i = 0; i < MESSAGE_STATUS_COUNT; i++)
        assert_non_null(message_status_name[i]);
    // Ids are stored in files.
    assert_string_equal(stage_table[4].name, "train");
    assert_string_equal(stage_table[10].name, "upload");
    assert_string_equal(stage_table[25].name, "setup");
    assert_string_equal(message_status_name[8], "lost");
}

static void widths_are_found_at_once(void **state)
{
    (void)state;
    for (int bits = 0; bits <= 32; bits++) {
        int k = record_width_of[bits];
        assert_true(record_width_bits[k] >= bits);
        assert_true(k == 0 || record_width_bits[k - 1] < bits);
    }
}

static size_t field_bytes(const struct record_field *f)
{
    static const size_t one[] = {
        [FIELD_I32] = 4, [FIELD_I64] = 8,  [FIELD_U64] = 8,   [FIELD_F64] = 8,
        [FIELD_U8] = 1,  [FIELD_TEXT] = 1, [FIELD_STAGE] = 1, [FIELD_STATUS] = 4,
    };
    return one[f->type] * f->count;
}

// Every byte of a row belongs to one field, save the members called pad.
static void fields_cover_their_rows(void **state)
{
    (void)state;
    static const size_t pad_bytes[REC_COUNT] = {
        [REC_RUNS] = 4,    [REC_EVENTS] = 2,  [REC_EVAL] = 4,      [REC_ALLOC] = 0,
        [REC_SENSORS] = 4, [REC_SUMMARY] = 4, [REC_PARTITION] = 4,
    };
    for (int id = 0; id < REC_COUNT; id++) {
        const struct record_table *t = &record_tables[id];
        unsigned char *owner = calloc(t->row_bytes, 1);
        assert_true(owner && t->name[0] == '/' && t->help && t->chunk_rows > 0);
        size_t covered = 0;
        for (const struct record_field *f = t->fields; f->name; f++) {
            assert_true(f->count > 0 && f->unit && f->help && f->help[0]);
            assert_true(f->offset + field_bytes(f) <= t->row_bytes);
            assert_int_equal(f->offset % (field_bytes(f) / f->count), 0);
            for (size_t k = 0; k < field_bytes(f); k++)
                if (owner[f->offset + k]++)
                    fail_msg("%s.%s overlaps", t->name, f->name);
            for (const struct record_field *g = t->fields; g < f; g++)
                assert_string_not_equal(f->name, g->name);
            covered += field_bytes(f);
        }
        if (covered + pad_bytes[id] != t->row_bytes)
            fail_msg("%s: fields of %zu of %zu bytes", t->name, covered, t->row_bytes);
        free(owner);
    }
}

// Names end in their unit, so that a reader of the file needs no manual.
static void units_match_names(void **state)
{
    (void)state;
    static const struct {
        const char *end, *unit;
    } rules[] = {{"_ns", "ns"}, {"_bytes", "bytes"}, {"_bps", "bit/s"}, {"_uj", "uJ"}, {"_j", "J"}};
    for (int id = 0; id < REC_COUNT; id++)
        for (const struct record_field *f = record_tables[id].fields; f->name; f++)
            for (size_t r = 0; r < ARRAY_LEN(rules); r++) {
                size_t n = strlen(f->name), e = strlen(rules[r].end);
                if (n > e && strcmp(f->name + n - e, rules[r].end) == 0)
                    assert_string_equal(f->unit, rules[r].unit);
            }
}

static void field_types_read_the_struct(void **state)
{
    (void)state;
    struct rec_message m = {.kept = {[8] = 99}, .nmse = 0.5, .status = MESSAGE_LOST, .client = -1};
    int seen = 0;
    for (const struct record_field *f = record_tables[REC_MESSAGES].fields; f->name; f++) {
        const char *p = (const char *)&m + f->offset;
        if (strcmp(f->name, "kept") == 0) {
            assert_true(f->type == FIELD_I64 && f->count == RECORD_WIDTHS);
            int64_t v;
            memcpy(&v, p + 8 * 8, sizeof v);
            assert_int_equal(v, 99);
            seen++;
        } else if (strcmp(f->name, "nmse") == 0) {
            double v;
            memcpy(&v, p, sizeof v);
            assert_true(f->type == FIELD_F64 && f->count == 1 && v == 0.5);
            seen++;
        } else if (strcmp(f->name, "status") == 0) {
            int32_t v;
            memcpy(&v, p, sizeof v);
            assert_true(f->type == FIELD_STATUS && v == MESSAGE_LOST);
            seen++;
        }
    }
    assert_int_equal(seen, 3);
    const struct record_field *f = record_tables[REC_RANKS].fields;
    while (strcmp(f->name, "cpuset") != 0)
        f++;
    assert_true(f->type == FIELD_TEXT && f->count == sizeof((struct rec_rank *)0)->cpuset);
}

static void padding_is_marked(void **state)
{
    (void)state;
    _Alignas(8) unsigned char row[2048];
    for (int id = 0; id < REC_COUNT; id++) {
        assert_true(record_tables[id].row_bytes <= sizeof row);
        memset(row, 1, sizeof row);
        assert_false(record_is_pad((enum record_id)id, row));
        record_make_pad((enum record_id)id, row);
        assert_true(record_is_pad((enum record_id)id, row));
        assert_int_equal(row[record_tables[id].row_bytes], 1); // no further
    }
    struct rec_round first = {.run = 0, .version = 0};
    assert_false(record_is_pad(REC_ROUNDS, &first));
}

static void spans_are_kept_in_order(void **state)
{
    (void)state;
    struct recorder r;
    struct rec_event out[10];
    recorder_init(&r, 4, 2, false);
    r.run = 1;
    r.version = 7;
    r.attempt = 3;
    int64_t t = r.origin_ns;
    for (int i = 0; i < 3; i++)
        recorder_put(&r, STAGE_TRAIN, i, t + 10 * i, 5, -1, 100, 200 + i, EVENT_MODELLED);
    assert_int_equal(recorder_drain(&r, out, 2), 2); // part of it
    assert_int_equal(out[0].client, 0);
    assert_int_equal(out[1].client, 1);
    const struct rec_event *e = &out[1];
    assert_true(e->t_start_ns == 10 && e->dur_ns == 5 && e->cpu_ns == -1 && e->energy_uj == -1);
    assert_true(e->bytes_in == 100 && e->bytes_out == 201 && e->flags == EVENT_MODELLED);
    assert_true(e->run == 1 && e->version == 7 && e->attempt == 3 && e->rank == 2);
    assert_true(e->stage == STAGE_TRAIN && e->pad[0] == 0 && e->pad[1] == 0);
    for (int i = 3; i < 6; i++)
        recorder_put(&r, STAGE_ENCODE, i, t, 0, 0, 0, 0, 0);
    assert_int_equal(recorder_drain(&r, out, 10), 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(out[i].client, 2 + i);
    assert_int_equal(recorder_drain(&r, out, 10), 0);
    assert_int_equal(r.lost, 0);
    recorder_free(&r);
}

static void a_full_ring_loses_the_oldest(void **state)
{
    (void)state;
    size_t booked = mem_now(MEM_TRACE);
    struct recorder r;
    struct rec_event out[8];
    recorder_init(&r, 4, 0, false);
    assert_int_equal(mem_now(MEM_TRACE), booked + 4 * sizeof(struct rec_event));
    for (int i = 0; i < 11; i++)
        recorder_put(&r, STAGE_WAIT, i, 0, 0, -1, 0, 0, 0);
    assert_int_equal(r.lost, 7);
    assert_int_equal(recorder_drain(&r, out, 8), 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(out[i].client, 7 + i);
    recorder_put(&r, STAGE_WAIT, 11, 0, 0, -1, 0, 0, 0);
    assert_int_equal(r.lost, 7);
    assert_int_equal(recorder_drain(&r, out, 8), 1);
    assert_int_equal(out[0].client, 11);
    recorder_free(&r);
    assert_int_equal(mem_now(MEM_TRACE), booked);
}

static void spans_take_cpu_time_when_asked(void **state)
{
    (void)state;
    for (int cpu = 0; cpu < 2; cpu++) {
        struct recorder r;
        struct rec_event e;
        recorder_init(&r, 4, 0, cpu);
        struct span s = span_begin(&r);
        volatile double x = 1;
        for (int i = 0; i < 1000000; i++)
            x = x * 0.5 + 1;
        int64_t dur = span_end(&r, s, STAGE_TRAIN, 5, 1, 2);
        assert_int_equal(recorder_drain(&r, &e, 1), 1);
        assert_true(e.dur_ns == dur && dur > 0 && e.t_start_ns >= 0 && e.client == 5);
        if (cpu)
            assert_true(e.cpu_ns > 0);
        else
            assert_int_equal(e.cpu_ns, -1);
        recorder_free(&r);
    }
}

static void wait_ns(int64_t ns)
{
    for (int64_t end = clock_ns() + ns; clock_ns() < end;)
        continue;
}

static void laps_add_up_to_the_whole(void **state)
{
    (void)state;
    struct recorder r;
    struct rec_event e[8];
    struct laps l;
    recorder_init(&r, 8, 0, true);
    lap(NULL, STAGE_PACK); // nobody's watch
    laps_begin(&l, &r);
    wait_ns(20000);
    lap(&l, STAGE_SELECT);
    wait_ns(10000);
    lap(&l, STAGE_PACK);
    wait_ns(10000);
    lap(&l, STAGE_SELECT); // once more
    wait_ns(10000);
    int64_t whole = laps_end(&l, &r, STAGE_ENCODE, STAGE_QUANTISE, 3, 8, 9); // select's as well
    assert_int_equal(recorder_drain(&r, e, 8), 3);
    assert_true(e[0].stage == STAGE_ENCODE && e[0].dur_ns == whole && e[0].client == 3);
    assert_true(e[0].bytes_in == 8 && e[0].bytes_out == 9 && e[0].flags == 0);
    assert_true(e[1].stage == STAGE_SELECT && e[2].stage == STAGE_PACK);
    assert_true(e[1].dur_ns >= 40000 && e[2].dur_ns >= 10000);
    assert_int_equal(e[1].dur_ns + e[2].dur_ns, whole);
    assert_int_equal(e[1].cpu_ns + e[2].cpu_ns, e[0].cpu_ns);
    assert_true(e[1].t_start_ns == e[0].t_start_ns && e[1].flags == EVENT_SUMMED);
    assert_int_equal(e[2].t_start_ns, e[1].t_start_ns + e[1].dur_ns);

    laps_begin(&l, &r); // without a lap all of it is the rest
    laps_end(&l, &r, STAGE_ENCODE, STAGE_QUANTISE, 3, 0, 0);
    assert_int_equal(recorder_drain(&r, e, 8), 2);
    assert_true(e[1].stage == STAGE_QUANTISE && e[1].dur_ns == e[0].dur_ns);
    recorder_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_are_described),
        cmocka_unit_test(widths_are_found_at_once),
        cmocka_unit_test(fields_cover_their_rows),
        cmocka_unit_test(units_match_names),
        cmocka_unit_test(field_types_read_the_struct),
        cmocka_unit_test(padding_is_marked),
        cmocka_unit_test(spans_are_kept_in_order),
        cmocka_unit_test(a_full_ring_loses_the_oldest),
        cmocka_unit_test(spans_take_cpu_time_when_asked),
        cmocka_unit_test(laps_add_up_to_the_whole),
    };
    return cmocka_run_group_tests_name("base record", tests, NULL, NULL);
}
