// The trace: every field of every table comes back; resume, recovery and damage.
#include "tests/trace_rows.h"
#include "tests/unit/child.h"

#include "base/fsio.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

static char scratch[256], file_path[512], journal_path[512];

static struct trace_params params(bool journal)
{
    struct trace_params p = {.journal = journal, .events_per_round = 16};
    snprintf(p.file, sizeof p.file, "%.239s", file_path);
    return p;
}

static struct trace *open_trace(bool journal, bool resume)
{
    struct trace_params p = params(journal);
    struct trace_meta meta = test_meta();
    struct err err = {0};
    struct trace *t = trace_open(&p, &meta, resume, &err);
    if (!t)
        fail_msg("%s", err.text);
    return t;
}

static void write_rounds(struct trace *t, int from, int to)
{
    for (int v = from; v < to; v++) {
        test_append_round(t, v, trace_attempt(t));
        trace_commit(t, v);
        assert_null(trace_degraded(t));
    }
}

static void read_back(struct trace_file *f)
{
    struct err err = {0};
    if (trace_read(file_path, f, &err) < 0)
        fail_msg("%s", err.text);
}

static void expect_rounds(int n)
{
    struct trace_file f;
    read_back(&f);
    assert_int_equal(test_rounds_whole(&f, n + 5), n);
    assert_int_equal(f.n[REC_ROUNDS], n);
    assert_int_equal(f.damaged, 0);
    trace_file_free(&f);
}

static bool exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

static void copy(const char *from, const char *to)
{
    uint8_t *bytes;
    size_t n;
    assert_int_equal(fsio_read(from, 1 << 30, MEM_OTHER, &bytes, &n, NULL), 0);
    assert_int_equal(fsio_replace(to, bytes, n, NULL), 0);
    mem_free(bytes);
}

static const char *in_scratch(const char *name)
{
    static char path[2][600];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", scratch, name);
    return path[turn];
}

// Round trip.

static void test_round_trip(void **state)
{
    (void)state;
    struct trace *t = open_trace(true, false);
    assert_int_equal(trace_attempt(t), 0);
    write_rounds(t, 0, 5);
    int64_t sync = -1;
    assert_true(trace_time_ns(t, &sync) > 0);
    assert_true(sync > 0);
    assert_true(trace_close(t, true));
    assert_false(exists(journal_path));

    struct trace_file f;
    read_back(&f);
    assert_true(f.complete);
    assert_true(f.exact);
    assert_int_equal(f.rounds_committed, 5);
    assert_int_equal(test_rounds_whole(&f, 10), 5);
    for (int id = 0; id < REC_COUNT; id++) { // and nothing else: padding stays out
        size_t want = 0;
        for (int v = 0; v < 5; v++)
            want += test_rows_in_round((enum record_id)id, v);
        assert_int_equal(f.n[id], want);
    }
    assert_string_equal(f.command_line, "fstq run test.ini");
    assert_string_equal(f.config_text, "[fed]\nrounds = 10\n");
    assert_string_equal(f.hwloc_xml, "<topology/>");
    assert_string_equal(f.environment, "OMP_NUM_THREADS=1\n");
    assert_non_null(strstr(f.build, "compiler="));
    assert_int_equal(f.n_config, 2);
    assert_string_equal(f.config[1].name, "fed.rounds");
    assert_string_equal(f.config[1].text, "10");
    assert_int_equal(strlen(f.created_utc), 20);
    assert_true(f.suite_version[0] && f.git_rev[0]);
    trace_file_free(&f);
}

// Less than a chunk, whole chunks, many chunks with a tail, none at all; and rows that only a close
// writes.
static void test_chunks(void **state)
{
    (void)state;
    static const size_t counts[] = {1, 16, 3 * 16 + 1, 0, 40 * 16};
    struct trace *t = open_trace(true, false);
    char row[TEST_ROW_MAX];
    size_t all = 0;
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        for (size_t k = 0; k < counts[i]; k++, all++) {
            test_fill_row(REC_EVENTS, 0, 0, all, row);
            trace_append(t, REC_EVENTS, row, 1);
        }
        if (i + 1 < ARRAY_LEN(counts))
            trace_commit(t, (int32_t)i);
    }
    trace_close(t, true);
    struct trace_file f;
    read_back(&f);
    assert_int_equal(f.n[REC_EVENTS], all);
    for (size_t k = 0; k < all; k++) {
        test_fill_row(REC_EVENTS, 0, 0, k, row);
        assert_memory_equal(f.rows[REC_EVENTS] + k * sizeof(struct rec_event), row,
                            sizeof(struct rec_event));
    }
    trace_file_free(&f);
}

// More chunks than a node of the index holds: the commits that split it are done in a copy.
static void test_index_splits(void **state)
{
    (void)state;
    unsigned k = trace_h5_btree_k;
    trace_h5_btree_k = 2;
    struct trace *t = open_trace(true, false);
    trace_h5_btree_k = k;
    write_rounds(t, 0, 40);
    trace_close(t, false);
    expect_rounds(40);
    t = open_trace(true, true); // the fan-out is the file's, not ours
    write_rounds(t, 40, 60);
    trace_close(t, false);
    struct trace_file f;
    read_back(&f);
    assert_int_equal(f.n[REC_ROUNDS], 60);
    assert_int_equal(f.damaged, 0);
    trace_file_free(&f);
    assert_false(exists(in_scratch("t.h5.part")));
}

static void test_long_texts(void **state)
{
    (void)state;
    enum { LEN = 100001 };
    char *command = mem_alloc(MEM_OTHER, LEN + 1);
    for (int i = 0; i + 1 < LEN; i += 2)
        memcpy(command + i, "\xc3\xa9", 2);
    command[0] = command[LEN - 1] = 'x';
    command[1] = 'y';
    struct trace_params p = params(false);
    struct trace_meta meta = {.command_line = command};
    struct err err = {0};
    struct trace *t = trace_open(&p, &meta, false, &err);
    assert_non_null(t);
    trace_close(t, true);
    struct trace_file f;
    read_back(&f);
    assert_string_equal(f.command_line, command);
    assert_string_equal(f.config_text, "");
    assert_int_equal(f.n_config, 0);
    // An attribute holds less: cut, but never inside a character.
    const char *cut = trace_fact_get(&f, TRACE_ROOT, "command_line");
    size_t len = strlen(cut);
    assert_true(len > 1000 && len < LEN);
    assert_int_equal((uint8_t)cut[len - 1], 0xa9);
    trace_file_free(&f);
    mem_free(command);
}

// What bears on a run is kept, what might be a secret is not.
static void test_environment(void **state)
{
    (void)state;
    struct trace_params p = params(false);
    const struct trace_meta meta = {.command_line = "x"};
    setenv("OMP_NUM_THREADS", "3", 1);
    setenv("OMPI_MCA_orte_precondition_transports", "0123", 1);
    setenv("SLURM_SOME_TOKEN", "0123", 1);
    setenv("HOME_MADE", "0123", 1);
    struct trace *t = trace_open(&p, &meta, false, NULL);
    assert_non_null(t);
    trace_close(t, true);
    struct trace_file f;
    read_back(&f);
    assert_non_null(strstr(f.environment, "OMP_NUM_THREADS=3\n"));
    assert_null(strstr(f.environment, "0123"));
    trace_file_free(&f);
}

// Rounds faster than trace.sync_ms do not wait for the disk each.
static void test_sync_interval(void **state)
{
    (void)state;
    int64_t waited[2];
    for (int i = 0; i < 2; i++) {
        struct trace_params p = params(true);
        struct trace_meta meta = test_meta();
        p.sync_ms = i ? 3600000 : 0;
        struct trace *t = trace_open(&p, &meta, false, NULL);
        assert_non_null(t);
        write_rounds(t, 0, 1);
        trace_time_ns(t, &waited[0]);
        write_rounds(t, 1, 4);
        trace_time_ns(t, &waited[1]);
        assert_int_equal(waited[1] == waited[0], i);
        trace_close(t, false);
        expect_rounds(4);
    }
}

static void test_live_reader(void **state)
{
    (void)state;
    struct trace *t = open_trace(true, false);
    expect_rounds(0);
    write_rounds(t, 0, 3);
    expect_rounds(3);
    write_rounds(t, 3, 4);
    expect_rounds(4);
    struct trace_file f;
    read_back(&f);
    assert_false(f.complete);
    trace_file_free(&f);
    trace_close(t, false);
    assert_true(exists(journal_path));
}

static void test_nothing_is_overwritten(void **state)
{
    (void)state;
    struct trace *t = open_trace(true, false);
    write_rounds(t, 0, 2);
    trace_close(t, false); // leaves its journal
    t = open_trace(true, false);
    write_rounds(t, 0, 1);
    trace_close(t, true);
    expect_rounds(1);
    struct trace_file f;
    assert_int_equal(trace_read(in_scratch("t.1.h5"), &f, NULL), 0);
    assert_int_equal(test_rounds_whole(&f, 5), 2);
    trace_file_free(&f);
    assert_true(exists(in_scratch("t.1.h5.journal")));
}

// Neither moved nor written: what stands under the name, or under its journal's, and is no trace.
static void expect_refused(const char *path)
{
    struct trace_params p = params(true);
    struct trace_meta meta = test_meta();
    struct stat before, after;
    assert_int_equal(lstat(path, &before), 0);
    for (int32_t resumed = 0; resumed < 2; resumed++) {
        struct err err = {""};
        assert_null(trace_open(&p, &meta, resumed, &err));
        assert_non_null(strstr(err.text, "trace.file"));
        assert_non_null(strstr(err.text, path));
        assert_int_equal(lstat(path, &after), 0);
        assert_true(before.st_ino == after.st_ino && before.st_mode == after.st_mode &&
                    before.st_size == after.st_size);
    }
    assert_false(exists(in_scratch("t.1.h5")));
}

static void test_only_traces_make_way(void **state)
{
    (void)state;
    const char *const paths[] = {file_path, journal_path};
    struct trace *t = open_trace(true, false);
    write_rounds(t, 0, 1);
    trace_close(t, false);
    assert_int_equal(rename(file_path, in_scratch("other.h5")), 0);
    assert_int_equal(rename(journal_path, in_scratch("other.journal")), 0);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        assert_int_equal(mkdir(paths[i], 0700), 0);
        expect_refused(paths[i]);
        assert_int_equal(rmdir(paths[i]), 0);
        assert_int_equal(mkfifo(paths[i], 0600), 0);
        expect_refused(paths[i]);
        assert_int_equal(unlink(paths[i]), 0);
        assert_int_equal(symlink(in_scratch(i ? "other.journal" : "other.h5"), paths[i]), 0);
        expect_refused(paths[i]);
        assert_int_equal(unlink(paths[i]), 0);
        assert_int_equal(fsio_replace(paths[i], "my notes\n", 9, NULL), 0);
        expect_refused(paths[i]);
        assert_int_equal(unlink(paths[i]), 0);
    }
}

// Nor is anything written through a link, or into a pipe, that stands where a file is being made.
static void test_nothing_is_written_through(void **state)
{
    (void)state;
    static const char *const parts[] = {"t.h5.part", "t.h5.journal.part"};
    struct trace_params p = params(true);
    struct trace_meta meta = test_meta();
    assert_int_equal(fsio_replace(in_scratch("notes"), "my notes\n", 9, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        struct err err = {""};
        struct stat st;
        assert_int_equal(symlink(in_scratch("notes"), in_scratch(parts[i])), 0);
        assert_null(trace_open(&p, &meta, 0, &err));
        assert_non_null(strstr(err.text, parts[i]));
        assert_int_equal(stat(in_scratch("notes"), &st), 0);
        assert_int_equal(st.st_size, 9);
        assert_int_equal(unlink(in_scratch(parts[i])), 0);
        unlink(journal_path);
    }
}

static void test_two_writers(void **state)
{
    (void)state;
    struct trace *t = open_trace(true, false);
    struct trace_params p = params(true);
    struct trace_meta meta = test_meta();
    struct err err = {0};
    assert_null(trace_open(&p, &meta, false, &err));
    assert_non_null(strstr(err.text, "another process"));
    assert_null(trace_open(&p, &meta, true, &err));
    assert_int_equal(trace_recover(journal_path, in_scratch("r.h5"), &err), -1);
    assert_non_null(strstr(err.text, "still writing"));
    write_rounds(t, 0, 1);
    trace_close(t, true);
    expect_rounds(1);
}

static void test_unusable_names(void **state)
{
    (void)state;
    struct trace_params p = params(true);
    struct trace_meta meta = test_meta();
    struct err err = {0};
    snprintf(p.file, sizeof p.file, "%.200s/no/such/dir.h5", scratch);
    assert_null(trace_open(&p, &meta, false, &err));
    assert_non_null(strstr(err.text, "no/such/dir.h5"));
    p.journal = false;
    err.text[0] = 0;
    assert_null(trace_open(&p, &meta, false, &err));
    assert_non_null(strstr(err.text, "no/such/dir.h5"));
    p.file[0] = 0;
    assert_null(trace_open(&p, &meta, false, &err));
}

// Attempts.

static void test_resume(void **state)
{
    (void)state;
    struct trace *t = open_trace(true, false);
    write_rounds(t, 0, 6);
    trace_close(t, false);
    t = open_trace(true, true);
    assert_int_equal(trace_attempt(t), 1);
    // The second attempt goes on from round 4; what it records before stands under round 3.
    struct rec_event setup = {.version = 3, .attempt = 1, .client = -1, .stage = STAGE_SETUP};
    trace_append(t, REC_EVENTS, &setup, 1);
    write_rounds(t, 4, 8);
    trace_close(t, true);

    struct trace_file f;
    read_back(&f);
    for (int v = 0; v < 8; v++) {
        assert_true(test_round_whole(&f, v, v < 4 ? 0 : 1));
        if (v >= 4 && v < 6)
            assert_int_equal(f.n[REC_ROUNDS], 8);
    }
    assert_int_equal(f.n[REC_EVENTS], 8 * 12 + 1);
    assert_int_equal(f.n[REC_MESSAGES], 8 * 3);
    assert_int_equal(f.rounds_committed, 10);
    assert_true(f.complete);
    trace_file_free(&f);

    t = open_trace(true, true); // of a file that was complete: its journal is made anew
    assert_int_equal(trace_attempt(t), 2);
    assert_true(exists(journal_path));
    write_rounds(t, 8, 9);
    trace_close(t, false);
    assert_int_equal(unlink(file_path), 0);
    assert_int_equal(trace_recover(journal_path, file_path, NULL), 0);
    read_back(&f);
    assert_int_equal(f.n[REC_ROUNDS], 9);
    assert_true(test_round_whole(&f, 8, 2));
    assert_true(test_round_whole(&f, 7, 1));
    assert_true(test_round_whole(&f, 0, 0));
    assert_false(f.complete);
    trace_file_free(&f);
}

static void test_resume_without_a_file(void **state)
{
    (void)state;
    struct trace_params p = params(true);
    struct trace_meta meta = test_meta();
    struct trace *t = trace_open(&p, &meta, 3, NULL);
    assert_int_equal(trace_attempt(t), 0);
    assert_non_null(strstr(trace_degraded(t), "3 of the 3 rounds"));
    test_append_round(t, 4, 0);
    trace_commit(t, 4);
    trace_close(t, true);
    t = trace_open(&p, &meta, 4, NULL);
    assert_non_null(strstr(trace_degraded(t), "3 of the 4 rounds"));
    for (int v = 1; v < 4; v++)
        test_append_round(t, v, 1);
    trace_commit(t, 4);
    trace_close(t, true);
    t = trace_open(&p, &meta, 4, NULL); // all there
    assert_null(trace_degraded(t));
    trace_close(t, true);
}

static void test_resume_without_journal(void **state)
{
    (void)state;
    struct trace *t = open_trace(false, false);
    write_rounds(t, 0, 3);
    trace_close(t, false);
    assert_false(exists(journal_path));
    t = open_trace(false, true);
    write_rounds(t, 3, 4);
    trace_close(t, true);
    struct trace_file f;
    read_back(&f);
    assert_int_equal(f.n[REC_ROUNDS], 4);
    trace_file_free(&f);
}

static void test_resume_of_a_damaged_file(void **state)
{
    (void)state;
    struct trace *t = open_trace(true, false);
    write_rounds(t, 0, 4);
    trace_close(t, false);
    assert_int_equal(truncate(file_path, 3000), 0);
    t = open_trace(true, true);
    assert_int_equal(trace_attempt(t), 1);
    write_rounds(t, 4, 5);
    trace_close(t, true);
    struct trace_file f;
    read_back(&f);
    assert_int_equal(f.n[REC_ROUNDS], 5);
    assert_int_equal(test_rounds_whole(&f, 4), 4);
    assert_true(test_round_whole(&f, 4, 1));
    trace_file_free(&f);
    struct stat st;
    assert_int_equal(stat(in_scratch("t.1.h5"), &st), 0); // the damaged one is kept
    assert_int_equal(st.st_size, 3000);
}

// The library may crash on a damaged file, or fail on the first row that is added: the journal is
// sound, so nothing is lost.
static void resume_and_append(void *arg)
{
    (void)arg;
    struct trace_params p = params(true);
    struct trace_meta meta = test_meta();
    struct err err = {""};
    struct trace *t = trace_open(&p, &meta, 3, &err);
    if (!t) {
        fprintf(stderr, "%s\n", err.text);
        _exit(1);
    }
    test_append_round(t, 4, trace_attempt(t));
    trace_commit(t, 4);
    if (!trace_close(t, true))
        _exit(2);
    struct trace_file f;
    if (trace_read(file_path, &f, NULL) < 0 || f.n[REC_ROUNDS] != 5 || f.damaged ||
        test_rounds_whole(&f, 4) != 4 || !test_round_whole(&f, 4, 1))
        _exit(3);
    trace_file_free(&f);
}

static void test_resume_of_any_damage(void **state)
{
    (void)state;
    const size_t cases = getenv("FSTQ_TEST_LONG") ? 1000 : 20;
    uint8_t *bytes;
    size_t n;
    struct trace *t = open_trace(true, false);
    write_rounds(t, 0, 4);
    trace_close(t, false);
    copy(journal_path, in_scratch("sound.journal"));
    assert_int_equal(fsio_read(file_path, 1 << 30, MEM_OTHER, &bytes, &n, NULL), 0);
    uint8_t *damaged = mem_alloc(MEM_OTHER, n);
    for (size_t i = 0; i < cases; i++) {
        memcpy(damaged, bytes, n);
        for (size_t k = 0; k < 20u << i % 5; k++)
            damaged[test_mix(1000 * i + k) % n] ^= (uint8_t)(1 + test_mix(k) % 255);
        assert_int_equal(fsio_replace(file_path, damaged, n, NULL), 0);
        copy(in_scratch("sound.journal"), journal_path);
        struct child c = run_child(resume_and_append, NULL);
        if (c.signal || c.status)
            fail_msg("case %zu: signal %d, status %d\n%s", i, c.signal, c.status, c.text);
    }
    mem_free(damaged);
    mem_free(bytes);
}

// Killed between journal and file: the journal is ahead by a round.
static void test_resume_behind_the_journal(void **state)
{
    (void)state;
    struct trace *t = open_trace(true, false);
    write_rounds(t, 0, 3);
    copy(file_path, in_scratch("old.h5"));
    write_rounds(t, 3, 5);
    trace_close(t, false);
    copy(in_scratch("old.h5"), file_path);
    expect_rounds(3);
    t = open_trace(true, true);
    write_rounds(t, 5, 6);
    trace_close(t, true);
    struct trace_file f;
    read_back(&f);
    assert_int_equal(f.n[REC_ROUNDS], 6);
    assert_int_equal(test_rounds_whole(&f, 5), 5);
    trace_file_free(&f);
    assert_false(exists(in_scratch("t.1.h5"))); // all it held is in the new one
}

// Recovery.

static void test_recover(void **state)
{
    (void)state;
    struct err err = {0};
    struct trace *t = open_trace(true, false);
    write_rounds(t, 0, 4);
    trace_close(t, false);
    copy(journal_path, in_scratch("old.journal"));
    t = open_trace(true, true);
    write_rounds(t, 4, 5);
    trace_close(t, false);
    // A journal that holds less than the file is no help.
    assert_int_equal(trace_recover(in_scratch("old.journal"), file_path, &err), -1);
    assert_non_null(strstr(err.text, "left as it is"));
    assert_int_equal(trace_recover(journal_path, file_path, &err), 0);
    struct trace_file f;
    read_back(&f);
    assert_int_equal(f.n[REC_ROUNDS], 5);
    assert_string_equal(f.command_line, "fstq run test.ini");
    assert_string_equal(f.config[0].text, "fedavg/fp32");
    trace_file_free(&f);
    assert_int_equal(trace_recover(in_scratch("none.journal"), file_path, &err), -1);
    assert_non_null(strstr(err.text, "none.journal"));
}

static uint8_t *journal_bytes(int rounds, size_t *n)
{
    uint8_t *bytes;
    struct trace *t = open_trace(true, false);
    write_rounds(t, 0, rounds);
    trace_close(t, false);
    assert_int_equal(fsio_read(journal_path, 1 << 30, MEM_OTHER, &bytes, n, NULL), 0);
    return bytes;
}

// Cut anywhere, a journal holds the rounds whose commit it holds whole, and says so.
static void test_journal_cut_anywhere(void **state)
{
    (void)state;
    size_t n, good, last_good = 0;
    uint8_t *bytes = journal_bytes(2, &n);
    int rounds = 0;
    for (size_t len = 0; len <= n; len++) {
        struct trace_file f = {0};
        int r = trace_journal_parse(bytes, len, &f, &good, NULL);
        assert_int_equal(r, len < 32 ? -1 : 0);
        if (r == 0) {
            assert_true(good <= len && good >= last_good);
            assert_int_equal(f.damaged, 0);
            int now = (int)f.n[REC_ROUNDS];
            assert_true(now == rounds || now == rounds + 1);
            if (now != rounds)
                assert_int_equal(good, len);
            assert_int_equal(test_rounds_whole(&f, 5), now);
            rounds = now;
            last_good = good;
        }
        trace_file_free(&f);
    }
    assert_int_equal(rounds, 2);
    mem_free(bytes);
}

// One damaged record costs what it held, not what follows.
static void test_journal_flipped_bits(void **state)
{
    (void)state;
    size_t n, good;
    uint8_t *bytes = journal_bytes(3, &n);
    int whole = 0, others = 0;
    for (size_t at = 0; at < n; at += at < 4000 ? 1 : 37) {
        struct trace_file f = {0};
        bytes[at] ^= (uint8_t)(1u << (at % 8));
        int r = trace_journal_parse(bytes, n, &f, &good, NULL);
        bytes[at] ^= (uint8_t)(1u << (at % 8));
        if (at < 32)
            assert_int_equal(r, -1);
        if (r == 0) {
            assert_true(f.damaged > 0 || good < n);
            bool last = test_round_whole(&f, 2, 0), first = test_round_whole(&f, 0, 0);
            assert_true(last || first);
            whole += last && first;
            others++;
        }
        trace_file_free(&f);
    }
    assert_true(others > 1000 && whole > 0);
    mem_free(bytes);
}

// Records of other lengths, tables and row sizes than ours, with a right hash: the parser checks
// them.
static void test_journal_lies(void **state)
{
    (void)state;
    struct trace_journal j;
    struct err err = {0};
    size_t good;
    const struct trace_fact fact = {
        .place = TRACE_ROOT, .name = "a", .text = (char[]){"b"}, .len = 1};
    char row[TEST_ROW_MAX];
    assert_int_equal(trace_journal_create(&j, journal_path, &err), 0);
    trace_journal_fact(&j, &fact);
    struct trace_fact long_name = fact;
    memset(long_name.name, 'n', sizeof long_name.name - 1);
    long_name.name[sizeof long_name.name - 1] = 0;
    trace_journal_fact(&j, &long_name);
    test_fill_row(REC_EVENTS, 0, 0, 0, row);
    ((struct rec_event *)(void *)row)->stage = 250; // no such stage
    trace_journal_rows(&j, REC_EVENTS, row, 1);
    test_fill_row(REC_MESSAGES, 0, 0, 0, row);
    ((struct rec_message *)(void *)row)->status = MESSAGE_STATUS_COUNT;
    trace_journal_rows(&j, REC_MESSAGES, row, 1);
    test_fill_row(REC_EVAL, 0, 0, 0, row);
    memset(((struct rec_eval *)(void *)row)->set, 'x', 24); // not terminated
    trace_journal_rows(&j, REC_EVAL, row, 1);
    assert_int_equal(trace_journal_commit(&j, 0, 0, &err), 0);
    trace_journal_close(&j);
    struct trace_file f = {0};
    assert_int_equal(trace_journal_load(journal_path, &f, &good, &err), 0);
    assert_int_equal(f.n[REC_EVENTS], 0);
    assert_int_equal(f.n[REC_MESSAGES], 0);
    assert_int_equal(f.n[REC_EVAL], 1);
    assert_int_equal(strlen(((struct rec_eval *)(void *)f.rows[REC_EVAL])->set), 23);
    assert_int_equal(f.damaged, 2);
    assert_int_equal(f.n_facts, 2);
    trace_file_free(&f);
}

// Damage to the HDF5 file. The library may crash on it: each case is tried in a child.

static void try_reading(void *arg)
{
    (void)arg;
    struct trace_file f;
    struct err err = {0};
    int r = trace_read_guarded(file_path, &f, &err);
    if (r < 0 && !strstr(err.text, "t.h5"))
        _exit(3); // an error names the file
    if (r == 0 && f.n[REC_ROUNDS] > 3)
        _exit(4);
    for (int id = 0; r == 0 && id < REC_COUNT; id++)
        for (size_t i = 0; i < f.n[id]; i++)
            if (id == REC_EVENTS &&
                ((struct rec_event *)(void *)f.rows[id])[i].stage >= STAGE_COUNT)
                _exit(5);
    trace_file_free(&f);
    _exit(r < 0 ? 1 : 0);
}

static void damage_and_read(size_t cases, bool cut)
{
    uint8_t *bytes;
    size_t n, readable = 0;
    struct trace *t = open_trace(false, false);
    write_rounds(t, 0, 3);
    trace_close(t, true);
    assert_int_equal(fsio_read(file_path, 1 << 30, MEM_OTHER, &bytes, &n, NULL), 0);
    for (size_t i = 0; i < cases; i++) {
        size_t at = (size_t)(test_mix(i + 1) % n), len = cut ? at : n;
        uint8_t was = bytes[at];
        if (!cut)
            bytes[at] ^= (uint8_t)(1 + test_mix(i) % 255);
        assert_int_equal(fsio_replace(file_path, bytes, len, NULL), 0);
        bytes[at] = was;
        struct child c = run_child(try_reading, NULL);
        if (c.signal || c.status > 1)
            fail_msg("%s at %zu: signal %d, status %d\n%s", cut ? "cut" : "changed", at, c.signal,
                     c.status, c.text);
        readable += c.status == 0;
    }
    if (!cut)
        assert_true(readable > 0);
    mem_free(bytes);
}

static size_t damage_cases(void)
{
    return getenv("FSTQ_TEST_LONG") ? 2000 : 30;
}

static void test_h5_cut(void **state)
{
    (void)state;
    damage_and_read(damage_cases(), true);
}

static void test_h5_flipped(void **state)
{
    (void)state;
    damage_and_read(2 * damage_cases(), false);
}

static void test_not_a_trace(void **state)
{
    (void)state;
    struct trace_file f;
    struct err err = {0};
    assert_int_equal(trace_read(file_path, &f, &err), -1);
    assert_non_null(strstr(err.text, "No such file"));
    assert_int_equal(fsio_replace(file_path, "", 0, NULL), 0);
    assert_int_equal(trace_read(file_path, &f, &err), -1);
    assert_non_null(strstr(err.text, "t.h5"));
    assert_int_equal(fsio_replace(file_path, "not HDF5 at all", 15, NULL), 0);
    assert_int_equal(trace_read(file_path, &f, &err), -1);
    assert_int_equal(trace_read(scratch, &f, &err), -1);
    assert_non_null(strstr(err.text, "not a file"));
}

// A full disk.

static void write_against_a_limit(void *arg)
{
    (void)arg;
    signal(SIGXFSZ, SIG_IGN);
    struct trace *t = open_trace(true, false);
    write_rounds(t, 0, 3);
    struct stat st;
    stat(file_path, &st);
    const struct rlimit limit = {(rlim_t)st.st_size + 100, (rlim_t)st.st_size + 100};
    setrlimit(RLIMIT_FSIZE, &limit);
    for (int v = 3; v < 20; v++) {
        test_append_round(t, v, 0);
        trace_commit(t, v);
    }
    const char *why = trace_degraded(t);
    if (!why || !strstr(why, "t.h5"))
        _exit(3);
    _exit(trace_close(t, true) ? 5 : 0);
}

static void test_disk_full(void **state)
{
    (void)state;
    struct child c = run_child(write_against_a_limit, NULL);
    assert_int_equal(c.status, 0);
    const char *said = strstr(c.text, "degraded");
    assert_non_null(said);
    assert_null(strstr(said + 1, "degraded")); // once
    assert_null(strstr(c.text, "HDF5-DIAG"));
    struct trace_file f;
    read_back(&f);
    assert_int_equal(test_rounds_whole(&f, 20), 3);
    assert_false(f.complete);
    assert_int_equal(f.damaged, 0);
    trace_file_free(&f);
    assert_true(exists(journal_path)); // and what it holds is not less
    assert_int_equal(trace_recover(journal_path, in_scratch("r.h5"), NULL), 0);
    assert_int_equal(trace_read(in_scratch("r.h5"), &f, NULL), 0);
    assert_true(test_rounds_whole(&f, 20) >= 3);
    trace_file_free(&f);
}

static void test_overhead(void **state)
{
    (void)state;
    double plain = -1, cpu = -1;
    trace_measure_overhead(&plain, &cpu);
    assert_true(plain > 0 && plain < 1e6);
    assert_true(cpu > 0 && cpu < 1e6);
}

// Frame.

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%s/fstq-trace-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(scratch))
        return -1;
    snprintf(file_path, sizeof file_path, "%s/t.h5", scratch);
    snprintf(journal_path, sizeof journal_path, "%s/t.h5.journal", scratch);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", scratch);
    if (mem_now(MEM_TRACE)) {
        fprintf(stderr, "# %zu bytes of the trace left in memory\n", mem_now(MEM_TRACE));
        return -1;
    }
    return system(command);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_round_trip),
        TEST(test_chunks),
        TEST(test_index_splits),
        TEST(test_long_texts),
        TEST(test_environment),
        TEST(test_sync_interval),
        TEST(test_live_reader),
        TEST(test_nothing_is_overwritten),
        TEST(test_only_traces_make_way),
        TEST(test_nothing_is_written_through),
        TEST(test_two_writers),
        TEST(test_unusable_names),
        TEST(test_resume),
        TEST(test_resume_without_a_file),
        TEST(test_resume_without_journal),
        TEST(test_resume_of_a_damaged_file),
        TEST(test_resume_of_any_damage),
        TEST(test_resume_behind_the_journal),
        TEST(test_recover),
        TEST(test_journal_cut_anywhere),
        TEST(test_journal_flipped_bits),
        TEST(test_journal_lies),
        TEST(test_h5_cut),
        TEST(test_h5_flipped),
        TEST(test_not_a_trace),
        TEST(test_disk_full),
        TEST(test_overhead),
    };
    cmocka_set_test_filter(getenv("FSTQ_TEST_FILTER"));
    return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
