// The writer's side of a trace: rows wait in memory until a commit, then go to the journal, then to
// HDF5.
#include "trace/trace.h"

#include "base/buildinfo.h"
#include "base/clock.h"
#include "base/fsio.h"
#include "base/mem.h"
#include "base/stats.h"
#include "trace/trace_h5.h"
#include "trace/trace_journal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *const updates_of[] = {"first", "all", NULL};

const struct opt trace_options[] = {
    OPT_STRING(struct trace_params, file, "trace.file", "trace.h5",
               "HDF5 file with everything measured; one of that name is kept as NAME.k.h5; empty = "
               "no trace"),
    OPT(struct trace_params, journal, "trace.journal", "on", 0, 0, "",
        "write each round to NAME.h5.journal first. It survives a power cut; fstq show --recover "
        "rebuilds the file from it. Deleted when the run has ended well"),
    OPT(struct trace_params, sync_ms, "trace.sync_ms", "100", 0, 3600000, "ms",
        "least time between two waits for the disk, so that short rounds do not each wait; 0 = "
        "wait in every round. A power cut loses at most the rounds of that time, a crash none"),
    OPT(struct trace_params, cpu, "trace.cpu", "on", 0, 0, "",
        "also take the CPU time of spans; costs under 1 us each"),
    OPT(struct trace_params, events_per_round, "trace.events_per_round", "256", 1, 1048576, "rows",
        "rows per chunk of /events; best a little more than a round records"),
    OPT(struct trace_params, updates, "trace.updates", "0", 0, 1000000, "rounds",
        "in the first N rounds every rank keeps the first update it makes, as "
        "NAME.updates/rROUND-cCLIENT.safetensors, for fstq bench codec codec.dist=file"),
    OPT_ENUM(
        struct trace_params, updates_of, "trace.updates_of", "first", updates_of,
        "all: the updates of all clients, and as rROUND-adapter.safetensors the adapter that a "
        "round began with, for fstq bench drift"),
};
const int trace_option_count = ARRAY_LEN(trace_options);

struct row_buffer {
    char *rows;
    size_t n, cap;
};

struct trace {
    struct trace_h5 h5;
    struct trace_journal journal;
    bool h5_sound, journal_sound;
    char path[PATH_MAX], journal_path[PATH_MAX];
    struct row_buffer buf[REC_COUNT];
    int64_t rounds, time_ns, sync_ns, synced_at_ns, sync_every_ns;
    int32_t attempt, version;        // version: of the last commit
    char degraded[640], lacking[96]; // lacking: rounds of before a resume
};

// Opening.

static void fact(struct trace_file *f, enum trace_place place, const char *name, const char *text)
{
    if (text && text[0])
        trace_fact_add(f, place, name, text, strlen(text));
}

// What bears on speed or results, and nothing that might be a secret.
static bool environment_counts(const char *line)
{
    static const char *const prefixes[] = {
        "OMP_",   "OPENBLAS_", "GOTO_", "MKL_",   "OMPI_MCA_", "OMPI_COMM_WORLD_", "UCX_",
        "CUDA_",  "NVIDIA_",   "HDF5_", "HWLOC_", "FSTQ_",     "SLURM_",           "MALLOC_",
        "LD_LIB", "LD_PRE",    "LC_",   "LANG=",  "TZ="};
    static const char *const secrets[] = {"KEY",  "TOKEN", "SECRET", "PASS",
                                          "CRED", "AUTH",  "URI",    "transports"};
    for (size_t i = 0; i < ARRAY_LEN(secrets); i++) {
        const char *hit = strstr(line, secrets[i]);
        if (hit && hit < strchr(line, '='))
            return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
        if (strncmp(line, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void environment_fact(struct trace_file *f)
{
    enum { LINES = 512 };
    const char *lines[LINES];
    size_t n = 0, len = 0;
    for (char **e = environ; *e && n < LINES; e++)
        if (strchr(*e, '=') && environment_counts(*e)) {
            lines[n++] = *e;
            len += strlen(*e) + 1;
        }
    if (!n)
        return;
    qsort(lines, n, sizeof *lines, by_text);
    char *text = mem_alloc(MEM_TRACE, len + 1), *at = text;
    for (size_t i = 0; i < n; i++)
        at += sprintf(at, "%s\n", lines[i]);
    trace_fact_add(f, TRACE_META, "environment", text, len);
    mem_free(text);
}

static void build_facts(struct trace_file *f, const struct trace_meta *meta)
{
    char utc[32], build[1024];
    time_t now = (time_t)(clock_unix_ns() / 1000000000);
    struct tm tm;
    strftime(utc, sizeof utc, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    snprintf(build, sizeof build,
             "version=%s\ngit_rev=%s\ncompiler=%s\ncflags=%s\nkind=%s\ntarget=%s\ncuda=%s\n",
             buildinfo.version, buildinfo.git_rev, buildinfo.compiler, buildinfo.cflags,
             buildinfo.kind, buildinfo.target, buildinfo.cuda);
    fact(f, TRACE_ROOT, "suite_version", buildinfo.version);
    fact(f, TRACE_ROOT, "git_rev", buildinfo.git_rev);
    fact(f, TRACE_ROOT, "created_utc", utc);
    fact(f, TRACE_ROOT, "command_line", meta->command_line);
    fact(f, TRACE_META, "command_line", meta->command_line);
    fact(f, TRACE_META, "config", meta->config_text);
    if (meta->environment)
        fact(f, TRACE_META, "environment", meta->environment);
    else
        environment_fact(f);
    fact(f, TRACE_META, "build", build);
    fact(f, TRACE_META, "hwloc_xml", meta->hwloc_xml);
    fact(f, TRACE_META, "machine", meta->machine);
    for (int i = 0; i < meta->n_config; i++)
        trace_fact_add(f, TRACE_CONFIG, meta->config[i].name, meta->config[i].text,
                       strlen(meta->config[i].text));
}

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

// Only what this program wrote may be moved: 0, or -1 with what stands there instead. Nothing there
// is no hindrance.
static int refuse_foreign(const char *path, int (*ours)(const char *path, struct err *err),
                          struct err *err)
{
    struct err why;
    if (!exists(path) || (fsio_regular(path, &why) == 0 && ours(path, &why) == 0))
        return 0;
    return err_set(
        err,
        "trace.file: %.300s; only a trace of an earlier run makes way for a new one: name "
        "another file or none, or move this one",
        why.text);
}

static int move_aside(const char *path, const char *why, struct err *err)
{
    char backup[PATH_MAX];
    if (fsio_backup_name(path, backup, sizeof backup) < 0 || rename(path, backup) < 0)
        return trace_errno_set(err, path, "move aside");
    warn("%s %s; kept as %s", path, why, backup);
    return 0;
}

// The journal of a file that moves goes with it, under the name that recovery looks for, and so do
// the updates kept beside it.
static int move_pair_aside(const char *path, const char *journal, struct err *err)
{
    char backup[PATH_MAX], to[PATH_MAX + 16], updates[PATH_MAX + 16];
    snprintf(updates, sizeof updates, "%s.updates", path);
    if (!exists(path) && !exists(journal) && !exists(updates))
        return 0;
    if (refuse_foreign(path, trace_ours_guarded, err) < 0 ||
        refuse_foreign(journal, trace_journal_ours, err) < 0)
        return -1;
    if (trace_journal_busy(journal))
        return err_set(err, "%s: another process is writing this trace", path);
    if (fsio_backup_name(path, backup, sizeof backup) < 0)
        return trace_errno_set(err, path, "find another name for");
    snprintf(to, sizeof to, "%s.journal", backup);
    if ((exists(path) && rename(path, backup) < 0) || (exists(journal) && rename(journal, to) < 0))
        return trace_errno_set(err, path, "move aside");
    snprintf(to, sizeof to, "%s.updates", backup);
    if (exists(updates) && rename(updates, to) < 0)
        return trace_errno_set(err, updates, "move aside");
    warn("%s is of an earlier run; kept as %s", path, backup);
    return 0;
}

// A journal that holds all that f holds, in place of any other.
static int journal_start(struct trace *t, const struct trace_file *f, struct err *err)
{
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%.*s.part", (int)sizeof part - 8, t->journal_path);
    if (trace_journal_create(&t->journal, part, err) < 0)
        return -1;
    for (int i = 0; i < f->n_facts; i++)
        trace_journal_fact(&t->journal, &f->facts[i]);
    for (int id = 0; id < REC_COUNT; id++)
        trace_journal_rows(&t->journal, (enum record_id)id, f->rows[id], f->n[id]);
    if (trace_journal_commit(&t->journal, -1, t->rounds, err) < 0 ||
        trace_journal_sync(&t->journal, err) < 0)
        return -1;
    if (rename(part, t->journal_path) < 0 || fsio_sync_dir(t->journal_path) < 0)
        return trace_errno_set(err, t->journal_path, "put in place");
    snprintf(t->journal.path, sizeof t->journal.path, "%s", t->journal_path);
    t->journal_sound = true;
    return 0;
}

// Writes all rows of f into a file made anew, which then takes the place of path.
static int write_whole(struct trace_h5 *h5, const char *path, const struct trace_file *f,
                       size_t events_chunk, struct err *err)
{
    char temp[PATH_MAX];
    snprintf(temp, sizeof temp, "%.*s.rebuilt", (int)sizeof temp - 16, path);
    if (trace_h5_create(h5, temp, f, events_chunk, err) < 0)
        return -1;
    int r = trace_h5_prepare(h5, f->n, err);
    for (int id = 0; id < REC_COUNT && r == 0; id++)
        if (f->n[id])
            r = trace_h5_append(h5, (enum record_id)id, f->rows[id], f->n[id], err);
    if (r == 0)
        r = trace_h5_commit(h5, (int64_t)f->n[REC_ROUNDS], err);
    if (r == 0)
        r = trace_h5_sync(h5, err);
    if (r == 0 && (rename(temp, path) < 0 || fsio_sync_dir(path) < 0))
        r = trace_errno_set(err, path, "put in place");
    if (r < 0) {
        trace_h5_abandon(h5);
        unlink(temp);
        return -1;
    }
    snprintf(h5->path, sizeof h5->path, "%s", path);
    return 0;
}

static int open_new(struct trace *t, const struct trace_params *p, const struct trace_meta *meta,
                    struct err *err)
{
    struct trace_file facts = {0};
    build_facts(&facts, meta);
    int r = move_pair_aside(t->path, t->journal_path, err);
    if (r == 0 && p->journal)
        r = journal_start(t, &facts, err);
    if (r == 0)
        r = trace_h5_create(&t->h5, t->path, &facts, (size_t)p->events_per_round, err);
    t->h5_sound = r == 0;
    trace_file_free(&facts);
    return r;
}

static int32_t highest_attempt(const struct trace_file *f)
{
    int32_t highest = 0;
    for (int id = 0; id < REC_COUNT; id++) {
        int field = trace_field_find((enum record_id)id, "attempt");
        for (size_t i = 0; field >= 0 && i < f->n[id]; i++) {
            int32_t a;
            memcpy(&a,
                   f->rows[id] + i * record_tables[id].row_bytes +
                       record_tables[id].fields[field].offset,
                   sizeof a);
            highest = a > highest ? a : highest;
        }
    }
    return highest;
}

// What a file is worth that a resumed run finds.
enum found {
    FOUND_WHOLE,  // it goes on
    FOUND_BEHIND, // all that it holds is in the journal, or can be read
    FOUND_BROKEN,
};

// A journal has a hash over everything, HDF5 has none over its index: where the journal is sound,
// it is the judge.
static enum found judge_file(const char *path, const struct trace_file *file,
                             const struct trace_file *journal, bool journal_sound)
{
    if (file->n_facts == 0 || file->damaged || (journal_sound && !trace_file_holds(journal, file)))
        return FOUND_BROKEN;
    if (!file->exact || file->n[REC_ROUNDS] < journal->n[REC_ROUNDS])
        return FOUND_BEHIND;
    if (journal_sound && memcmp(file->n, journal->n, sizeof file->n) != 0)
        return FOUND_BEHIND;
    return trace_append_guarded(path) ? FOUND_WHOLE : FOUND_BROKEN;
}

static int reopen_file(struct trace *t, struct err *err)
{
    if (trace_h5_reopen(&t->h5, t->path, err) < 0)
        return -1;
    if (trace_h5_complete(&t->h5, false, err) == 0)
        return 0;
    trace_h5_abandon(&t->h5);
    return -1;
}

// Continues the file where it is whole and holds all that the journal does; else makes it anew from
// the one that holds more.
static int continue_file(struct trace *t, const struct trace_params *p, struct trace_file *file,
                         struct trace_file *journal, struct err *err)
{
    bool longer = file->n[REC_ROUNDS] > journal->n[REC_ROUNDS];
    bool journal_sound = journal->n_facts > 0 && !journal->damaged && !longer;
    enum found found = judge_file(t->path, file, journal, journal_sound);
    struct trace_file *best = journal;
    if (found == FOUND_WHOLE ||
        (!journal_sound && file->n_facts > 0 && file->damaged <= journal->damaged &&
         file->n[REC_ROUNDS] >= journal->n[REC_ROUNDS]))
        best = file;
    if (found == FOUND_WHOLE) {
        if (reopen_file(t, err) < 0)
            return -1;
    } else {
        if (found == FOUND_BROKEN && exists(t->path) && move_aside(t->path, "is damaged", err) < 0)
            return -1;
        warn("%s: made anew from %s, %zu rounds", t->path,
             best == journal ? "its journal" : "what could be read of it", best->n[REC_ROUNDS]);
        if (write_whole(&t->h5, t->path, best, (size_t)p->events_per_round, err) < 0)
            return -1;
    }
    t->h5_sound = true;
    t->rounds = (int64_t)best->n[REC_ROUNDS];
    t->attempt = highest_attempt(best) + 1;
    return 0;
}

static void note_lacking(struct trace *t, const struct trace_file *f, int32_t resumed)
{
    const struct rec_round *row = (const struct rec_round *)(const void *)f->rows[REC_ROUNDS];
    bool *there = mem_alloc(MEM_TRACE, (size_t)resumed * sizeof *there);
    int32_t missing = resumed;
    for (size_t i = 0; i < f->n[REC_ROUNDS]; i++) {
        int32_t v = row[i].version - 1;
        if (v >= 0 && v < resumed && !there[v]) {
            there[v] = true;
            missing--;
        }
    }
    mem_free(there);
    if (missing == 0)
        return;
    snprintf(t->lacking, sizeof t->lacking, "%d of the %d rounds before the resume are not in it",
             missing, resumed);
    warn("the trace is degraded: %s: %s", t->path, t->lacking);
}

static int open_again(struct trace *t, const struct trace_params *p, const struct trace_meta *meta,
                      int32_t resumed, struct err *err)
{
    struct trace_file file = {0}, journal = {0};
    struct err why = {0};
    size_t good = 0;
    if (fsio_regular(t->path, &why) < 0)
        return err_set(err, "trace.file: %s", why.text);
    if (refuse_foreign(t->journal_path, trace_journal_ours, err) < 0)
        return -1;
    if (trace_journal_busy(t->journal_path))
        return err_set(err, "%s: another process is writing this trace", t->path);
    bool have_file = exists(t->path) && trace_load_guarded(t->path, &file, &why) == 0;
    bool have_journal =
        exists(t->journal_path) && trace_journal_load(t->journal_path, &journal, &good, &why) == 0;
    int r;
    if (!have_file && !have_journal) {
        if (exists(t->path))
            warn("%s; nothing to rebuild it from, so the trace begins anew", why.text);
        r = open_new(t, p, meta, err);
    } else {
        r = continue_file(t, p, &file, &journal, err);
        size_t rounds = (size_t)t->rounds;
        if (r == 0 && p->journal) {
            bool same = have_journal && journal.n[REC_ROUNDS] == rounds && journal.damaged == 0;
            r = same ? trace_journal_reopen(&t->journal, t->journal_path, good, err)
                     : journal_start(t, file.n[REC_ROUNDS] == rounds ? &file : &journal, err);
            t->journal_sound = r == 0;
        }
    }
    if (r == 0)
        note_lacking(t, file.n[REC_ROUNDS] == (size_t)t->rounds ? &file : &journal, resumed);
    trace_file_free(&file);
    trace_file_free(&journal);
    return r;
}

static void trace_free(struct trace *t)
{
    for (int id = 0; id < REC_COUNT; id++)
        mem_free(t->buf[id].rows);
    trace_journal_close(&t->journal);
    mem_free(t);
}

struct trace *trace_open(const struct trace_params *p, const struct trace_meta *meta,
                         int32_t resumed, struct err *err)
{
    struct trace *t = mem_alloc(MEM_TRACE, sizeof *t);
    t->journal.fd = -1;
    if (snprintf(t->path, sizeof t->path, "%s", p->file) >= (int)sizeof t->path - 32 ||
        !t->path[0]) {
        err_set(err, "trace.file = %s: not a usable file name", p->file);
        trace_free(t);
        return NULL;
    }
    t->sync_every_ns = (int64_t)p->sync_ms * 1000000;
    snprintf(t->journal_path, sizeof t->journal_path, "%.*s.journal",
             (int)sizeof t->journal_path - 16, t->path);
    int r = resumed > 0 ? open_again(t, p, meta, resumed, err) : open_new(t, p, meta, err);
    if (r < 0) {
        if (t->h5_sound)
            trace_h5_close(&t->h5);
        trace_free(t);
        return NULL;
    }
    return t;
}

int32_t trace_attempt(const struct trace *t)
{
    return t->attempt;
}

// Writing.

void trace_append(struct trace *t, enum record_id id, const void *rows, size_t n)
{
    size_t row_bytes = record_tables[id].row_bytes;
    struct row_buffer *b = &t->buf[id];
    if (!t->h5_sound && !t->journal_sound)
        return;
    b->rows = mem_grow(MEM_TRACE, b->rows, b->n, b->n + n, &b->cap, row_bytes);
    memcpy(b->rows + b->n * row_bytes, rows, n * row_bytes);
    trace_rows_clean(id, b->rows + b->n * row_bytes, n);
    b->n += n;
}

static void degrade(struct trace *t, const char *lost, const char *why)
{
    if (t->degraded[0])
        return;
    snprintf(t->degraded, sizeof t->degraded, "%s from version %d on: %s", lost, t->version, why);
    warn("the trace is degraded: %s", t->degraded);
}

static int sync_journal(struct trace *t, bool now, struct err *err)
{
    int64_t start = clock_ns();
    if (!now && start - t->synced_at_ns < t->sync_every_ns)
        return 0;
    int r = trace_journal_sync(&t->journal, err);
    t->synced_at_ns = clock_ns();
    t->sync_ns += t->synced_at_ns - start;
    return r;
}

static void commit_journal(struct trace *t)
{
    struct err err = {0};
    for (int id = 0; id < REC_COUNT; id++)
        trace_journal_rows(&t->journal, (enum record_id)id, t->buf[id].rows, t->buf[id].n);
    int r = trace_journal_commit(&t->journal, t->version, t->rounds, &err);
    if (r == 0)
        r = sync_journal(t, false, &err);
    if (r == 0)
        return;
    t->journal_sound = false;
    degrade(t, "no journal", err.text);
}

static void commit_h5(struct trace *t)
{
    struct err err = {0};
    size_t n[REC_COUNT];
    for (int id = 0; id < REC_COUNT; id++)
        n[id] = t->buf[id].n;
    bool touched = trace_h5_prepare(&t->h5, n, &err) == 0;
    int r = touched ? 0 : -1;
    for (int id = 0; id < REC_COUNT && r == 0; id++)
        if (n[id])
            r = trace_h5_append(&t->h5, (enum record_id)id, t->buf[id].rows, n[id], &err);
    if (r == 0)
        r = trace_h5_commit(&t->h5, t->rounds, &err);
    if (r == 0)
        return;
    t->h5_sound = false;
    degrade(t, "no rows in the file", err.text);
    if (touched)
        trace_h5_abandon(&t->h5);
    else
        trace_h5_close(&t->h5);
}

void trace_commit(struct trace *t, int32_t version)
{
    int64_t t0 = clock_ns(), sync0 = t->sync_ns;
    t->rounds += (int64_t)t->buf[REC_ROUNDS].n;
    t->version = version;
    // The journal first: after a kill it holds at least what the file holds.
    if (t->journal_sound)
        commit_journal(t);
    if (t->h5_sound)
        commit_h5(t);
    for (int id = 0; id < REC_COUNT; id++)
        t->buf[id].n = 0;
    t->time_ns += clock_ns() - t0 - (t->sync_ns - sync0);
}

const char *trace_degraded(const struct trace *t)
{
    return t->degraded[0] ? t->degraded : t->lacking[0] ? t->lacking : NULL;
}

int64_t trace_time_ns(const struct trace *t, int64_t *fdatasync_ns)
{
    if (fdatasync_ns)
        *fdatasync_ns = t->sync_ns;
    return t->time_ns;
}

static void close_h5(struct trace *t, bool complete)
{
    struct err err = {0};
    bool sound = !t->degraded[0];
    if ((sound && complete && trace_h5_complete(&t->h5, true, &err) < 0) ||
        trace_h5_sync(&t->h5, &err) < 0) {
        degrade(t, "the file is not marked complete", err.text);
        trace_h5_abandon(&t->h5);
        return;
    }
    trace_h5_close(&t->h5);
    if (sound && complete && t->journal_sound && unlink(t->journal_path) < 0)
        warn("%s: cannot delete: %s", t->journal_path, strerror(errno));
}

bool trace_close(struct trace *t, bool complete)
{
    struct err err = {0};
    bool waiting = false;
    for (int id = 0; id < REC_COUNT; id++)
        waiting |= t->buf[id].n > 0;
    if (waiting)
        trace_commit(t, t->version);
    if (t->journal_sound && !complete && sync_journal(t, true, &err) < 0)
        degrade(t, "no journal", err.text);
    if (t->h5_sound)
        close_h5(t, complete);
    bool sound = !t->degraded[0];
    trace_free(t);
    return sound;
}

// Recovery.

int trace_recover(const char *journal_path, const char *h5_path, struct err *err)
{
    struct trace_file journal = {0}, file = {0};
    struct trace_h5 h5;
    size_t good = 0;
    if (fsio_regular(h5_path, err) < 0)
        return -1;
    if (trace_journal_busy(journal_path))
        return err_set(err, "%s: a run is still writing it", journal_path);
    int r = trace_journal_load(journal_path, &journal, &good, err);
    if (r == 0 && exists(h5_path)) {
        bool reads = trace_load_guarded(h5_path, &file, NULL) == 0;
        if (reads && file.n[REC_ROUNDS] > journal.n[REC_ROUNDS])
            r = err_set(err, "%s holds %zu rounds and its journal %zu: left as it is", h5_path,
                        file.n[REC_ROUNDS], journal.n[REC_ROUNDS]);
        else if (!reads || file.damaged)
            r = move_aside(h5_path, "is damaged", err);
    }
    if (r == 0)
        r = write_whole(&h5, h5_path, &journal, 0, err);
    if (r == 0)
        trace_h5_close(&h5);
    trace_file_free(&journal);
    trace_file_free(&file);
    return r;
}

// What recording costs.

static double span_cost_ns(bool cpu)
{
    enum { REPEATS = 15, SPANS = 2000 };
    struct recorder r;
    double ns[REPEATS];
    recorder_init(&r, 1024, 0, cpu);
    for (int i = -1; i < REPEATS; i++) { // the first warms up
        int64_t t = clock_ns();
        for (int k = 0; k < SPANS; k++)
            span_end(&r, span_begin(&r), STAGE_TRACE, -1, 0, 0);
        if (i >= 0)
            ns[i] = (double)(clock_ns() - t) / SPANS;
    }
    recorder_free(&r);
    return stats_of(ns, REPEATS).median;
}

void trace_measure_overhead(double *plain_ns, double *cpu_ns)
{
    *plain_ns = span_cost_ns(false);
    *cpu_ns = span_cost_ns(true);
}
