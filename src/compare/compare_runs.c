// The runs of a comparison: DIR/runs/KEY.h5 is one that has ended, KEY.log what it said, KEY.txt
// how it was made. KEY is the hash of its options and of the files they name.
#include "base/buildinfo.h"
#include "base/fsio.h"
#include "base/job.h"
#include "base/mem.h"
#include "base/stats.h"
#include "base/table.h"
#include "base/topo.h"
#include "compare/compare.h"
#include "fed/method.h"
#include "report/report.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

enum run_state { RUN_WANTED, RUN_GOING, RUN_DONE, RUN_FAILED, RUN_MISSING };

struct one_run {
    uint64_t key;
    enum run_state state;
    struct config cfg;
    int place;
    char name[COMPARE_NAME], setting[COMPARE_SETTING];
    pid_t pid;
    int64_t start_ns;
    struct curve curve;
};

struct runs {
    char dir[240], score[24], self[4096];
    bool both; // bytes are of both ways
    struct one_run **run;
    size_t n, cap;
    int jobs, going, made, failed, finished, missing, foreign, lock_fd;
    bool may_run, stopping;
    uint64_t build, model; // hashes of the program and of the base model
    char model_path[240], foreign_build[80], note[512];
    int64_t start_ns, rounds_found, rounds_made, rounds_expected; // work, for the time left
    FILE *progress, *log;
};

static volatile sig_atomic_t stop_signal;

static void on_stop(int sig)
{
    stop_signal = sig;
}

static void on_child(int sig)
{
    (void)sig; // only so that a wait ends
}

// Keys.

// Of a file's bytes; of a directory the names and sizes in it; 0 = not there, as with "builtin".
static uint64_t fingerprint(const char *path)
{
    struct stat st;
    struct err err;
    if (stat(path, &st))
        return 0;
    uint64_t sum = 1;
    DIR *d = S_ISDIR(st.st_mode) ? opendir(path) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        char full[4096];
        if (snprintf(full, sizeof full, "%s/%s", path, e->d_name) < (int)sizeof full &&
            stat(full, &st) == 0 && S_ISREG(st.st_mode))
            sum += XXH3_64bits_withSeed(e->d_name, strlen(e->d_name), (XXH64_hash_t)st.st_size);
    }
    if (d) {
        closedir(d);
        return sum;
    }
    uint8_t *bytes;
    size_t n;
    if (!S_ISREG(st.st_mode) || fsio_read(path, (size_t)1 << 33, MEM_OTHER, &bytes, &n, &err))
        return 0;
    sum = XXH3_64bits(bytes, n);
    mem_free(bytes);
    return sum;
}

static bool decides(const char *name)
{
    static const char *const not_these[] = {"run.dir", "run.resume", "run.slots", "dev.threads",
                                            "net.transport"};
    for (size_t i = 0; i < ARRAY_LEN(not_these); i++)
        if (!strcmp(name, not_these[i]))
            return false;
    return strncmp(name, "trace.", 6) && strncmp(name, "pretrain.", 9);
}

// Only what is not the default: a program with one option more finds its old runs again.
static void hash_option(void *arg, const struct opt *row, const char *value)
{
    XXH3_state_t *hash = arg;
    if (!decides(row->name) || opt_is_default(row, value))
        return;
    if (!strcmp(row->name, "fed.method"))
        for (const struct method_alias *a = method_aliases; a->name; a++)
            if (!strcmp(a->name, value))
                value = a->expansion;
    XXH3_64bits_update(hash, row->name, strlen(row->name) + 1);
    XXH3_64bits_update(hash, value, strlen(value) + 1);
}

uint64_t runs_key(const struct runs *r, const struct config *c)
{
    XXH3_state_t *hash = XXH3_createState();
    if (!hash)
        die(STATUS_ENV, "no memory for a hash");
    XXH3_64bits_reset(hash);
    config_each(c, hash_option, hash);
    uint64_t files = strcmp(c->model.path, r->model_path) ? fingerprint(c->model.path) : r->model;
    XXH3_64bits_update(hash, &files, sizeof files);
    for (const char *at = c->model.others; (at = strchr(at, ':'));) { // SHARE:PATH,SHARE:PATH
        char path[240];
        size_t n = strcspn(++at, ", \t");
        snprintf(path, sizeof path, "%.*s", (int)n, at);
        files = fingerprint(path);
        XXH3_64bits_update(hash, &files, sizeof files);
        at += n;
    }
    uint64_t key = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    return key;
}

static void path_of(const struct runs *r, uint64_t key, const char *ending, char out[300])
{
    snprintf(out, 300, "%s/runs/%016llx%s", r->dir, (unsigned long long)key, ending);
}

// Curves out of traces.

// "exact", or "exact@zh": of one set, a language.
static double metric_at(const struct trace_file *f, const char *metric, int32_t version)
{
    size_t n, len = strcspn(metric, "@");
    const char *set = metric[len] ? metric + len + 1 : "all";
    const struct rec_eval *e = report_rows(f, REC_EVAL, &n);
    for (size_t i = 0; i < n; i++)
        if (e[i].version == version && !strcmp(e[i].set, set) && strlen(e[i].metric) == len &&
            !strncmp(e[i].metric, metric, len))
            return e[i].value;
    return (double)NAN;
}

// Rounds without a score, for it was not evaluated, are left out.
static void take_rounds(struct curve *c, const struct trace_file *f, const char *metric, bool both)
{
    size_t n;
    const struct rec_round *row = report_rows(f, REC_ROUNDS, &n);
    double *block = mem_alloc(MEM_OTHER, 4 * (n + 1) * sizeof *block), time_ns = 0, down = 0;
    c->round = block;
    c->score = block + n;
    c->uplink_bytes = block + 2 * n;
    c->time_ns = block + 3 * n;
    c->floor = (double)NAN;
    for (size_t i = 0; i < n; i++) {
        double score =
            strcmp(metric, "score") ? metric_at(f, metric, row[i].version) : row[i].score;
        time_ns += row[i].time_modelled_ns > 0 ? (double)row[i].time_modelled_ns : 0;
        down += (double)row[i].downlink_bytes;
        if (row[i].version == 0)
            c->floor = score;
        if (row[i].version == 0 || isnan(score))
            continue;
        c->round[c->n] = row[i].version;
        c->score[c->n] = score;
        c->uplink_bytes[c->n] = (double)row[i].uplink_total_bytes + (both ? down : 0);
        c->time_ns[c->n] = time_ns;
        c->n++;
    }
}

// What the server did for a version: the median of all that it did anything for. Each has at least
// one event, and so no number above that of the events.
static double server_median(const struct trace_file *f)
{
    size_t n, rounds = 0;
    const struct rec_event *e = report_rows(f, REC_EVENTS, &n);
    double *sum = mem_alloc(MEM_OTHER, (n + 1) * sizeof *sum);
    for (size_t i = 0; i < n; i++) {
        bool server = e[i].stage == STAGE_BROADCAST || e[i].stage == STAGE_DECODE ||
                      e[i].stage == STAGE_AGGREGATE || e[i].stage == STAGE_COMMIT;
        if (server && e[i].version > 0 && (size_t)e[i].version <= n)
            sum[e[i].version] += (double)e[i].dur_ns;
    }
    for (size_t v = 1; v <= n; v++)
        if (sum[v] > 0)
            sum[rounds++] = sum[v];
    double median = stats_of(sum, rounds).median;
    mem_free(sum);
    return rounds ? median : (double)NAN;
}

// Most of any rank's process; NaN where no rank said.
static double most_memory(const struct trace_file *f)
{
    size_t n;
    const struct rec_rank *r = report_rows(f, REC_RANKS, &n);
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = (double)r[i].rss_peak_bytes > most ? (double)r[i].rss_peak_bytes : most;
    return most > 0 ? most : (double)NAN;
}

static int load_curve(struct curve *c, const char *path, const char *metric, bool both,
                      struct err *err)
{
    struct trace_file f;
    if (trace_read_guarded(path, &f, err))
        return -1;
    *c = (struct curve){.adapter_values = (double)NAN,
                        .up_bytes = (double)NAN,
                        .down_bytes = (double)NAN,
                        .state_bytes = (double)NAN,
                        .finite = true};
    take_rounds(c, &f, metric, both);
    struct report_bytes b = report_sum_bytes(&f, 0);
    c->message_bytes = b.frames ? (double)b.total / (double)b.frames : (double)NAN;
    c->nmse = b.nmse_median;
    c->server_ns = server_median(&f);
    c->memory_bytes = most_memory(&f);
    snprintf(c->method, sizeof c->method, "%s", report_method(&f, 0));
    size_t n;
    const struct rec_summary *s = report_rows(&f, REC_SUMMARY, &n);
    const struct {
        const char *key;
        double *to;
    } told[] = {{"adapter_values", &c->adapter_values},
                {"uplink", &c->up_bytes},
                {"downlink", &c->down_bytes},
                {"client_state", &c->state_bytes}};
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < ARRAY_LEN(told); k++)
            if (!strcmp(s[i].key, told[k].key))
                *told[k].to = s[i].value;
        if (!strcmp(s[i].key, "status"))
            c->finite = (int)s[i].value != STATUS_CHECK;
    }
    trace_file_free(&f);
    if (c->n == 0 && c->finite) {
        curve_free(c);
        return err_set(err, "%s: no round in it has the score '%s'", path, metric);
    }
    return 0;
}

static size_t next_option(const char **p)
{
    for (;;) {
        *p += strspn(*p, ",:+~@");
        size_t n = strcspn(*p, ",:+~@");
        if (n == 0 || memchr(*p, '=', n))
            return n;
        *p += n;
    }
}

bool methods_agree(const char *a, const char *b)
{
    size_t n, m;
    for (const char *p = a; (n = next_option(&p)); p += n) {
        size_t key = strcspn(p, "=") + 1;
        int before = 0; // options of that name: a codec and its wrapper may share one
        for (const char *q = a; (m = next_option(&q)) && q < p; q += m)
            before += !strncmp(q, p, key);
        for (const char *q = b; (m = next_option(&q)); q += m)
            if (!strncmp(q, p, key) && before-- == 0 && (m != n || memcmp(p, q, n)))
                return false;
    }
    return true;
}

// What the method of a run means to this program, every option written out.
static void write_out(const char *text, char *out, size_t size)
{
    struct shape shape;
    struct method m;
    struct err err;
    shape_init(&shape);
    shape_add(&shape, "A", 1, 8, SHAPE_LORA_A);
    shape_add(&shape, "B", 8, 1, SHAPE_LORA_B);
    shape_seal(&shape);
    *out = '\0';
    if (method_open(&m, text, &shape, &err) == 0) {
        snprintf(out, size, "%.*s", (int)size - 1, m.text);
        method_close(&m);
    }
    shape_free(&shape);
}

// Who made a run: the first line of its KEY.txt.
static void check_build(struct runs *r, uint64_t key)
{
    char path[300], line[80] = "", build[24];
    path_of(r, key, ".txt", path);
    FILE *f = fopen(path, "r");
    if (!f)
        return;
    snprintf(build, sizeof build, "%016llx", (unsigned long long)r->build);
    if (fgets(line, sizeof line, f) && !strstr(line, build)) {
        line[strcspn(line, "\n")] = '\0';
        snprintf(r->foreign_build, sizeof r->foreign_build, "%s", line);
        r->foreign++;
    }
    fclose(f);
}

static struct one_run *find_run(const struct runs *r, uint64_t key)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->run[i]->key == key)
            return r->run[i];
    return NULL;
}

static void take_finished(struct runs *r, struct one_run *one)
{
    char path[300];
    struct err err = {""};
    path_of(r, one->key, ".h5", path);
    if (access(path, R_OK))
        return;
    if (load_curve(&one->curve, path, r->score, r->both, &err)) {
        warn("%s; %s", err.text,
             r->may_run ? "the run is made again" : "the run counts as missing");
        return;
    }
    char now[sizeof one->curve.method];
    write_out(one->cfg.fed.method, now, sizeof now);
    if (!methods_agree(one->curve.method, now)) {
        warn("%s: made with %s, which is %s now; %s", path, one->curve.method, now,
             r->may_run ? "the run is made again" : "the run counts as missing");
        curve_free(&one->curve);
        return;
    }
    one->state = RUN_DONE;
    r->finished++;
    r->rounds_found += one->cfg.fed.rounds;
    check_build(r, one->key);
}

static struct one_run *add_run(struct runs *r, uint64_t key, const struct config *c,
                               const char *name, const char *setting)
{
    r->run = mem_grow(MEM_OTHER, r->run, r->n, r->n + 1, &r->cap, sizeof *r->run);
    struct one_run *one = mem_alloc(MEM_OTHER, sizeof *one);
    one->key = key;
    one->cfg = *c;
    one->place = INT_MAX;
    snprintf(one->name, sizeof one->name, "%s", name);
    snprintf(one->setting, sizeof one->setting, "%s", setting);
    one->state = RUN_WANTED;
    r->run[r->n++] = one;
    take_finished(r, one);
    if (one->state == RUN_WANTED && !r->may_run) {
        one->state = RUN_MISSING;
        r->missing++;
    }
    return one;
}

const struct curve *runs_get(struct runs *r, const struct config *c, int place, const char *name,
                             const char *setting)
{
    uint64_t key = runs_key(r, c);
    struct one_run *one = find_run(r, key);
    if (!one)
        one = add_run(r, key, c, name, setting);
    if (place < one->place)
        one->place = place;
    return one->state == RUN_DONE ? &one->curve : NULL;
}

bool runs_failed(const struct runs *r, const struct config *c)
{
    const struct one_run *one = find_run(r, runs_key(r, c));
    return one && one->state == RUN_FAILED;
}

// Making runs.

struct arguments {
    char *text[300];
    int n;
};

static void add_argument(void *arg, const struct opt *row, const char *value)
{
    struct arguments *a = arg;
    if (opt_is_default(row, value) || !decides(row->name))
        return;
    size_t size = strlen(row->name) + strlen(value) + 2;
    if (a->n + 8 >= (int)ARRAY_LEN(a->text))
        die(STATUS_CHECK, "more options than a command line of a run holds");
    a->text[a->n] = mem_alloc(MEM_OTHER, size);
    snprintf(a->text[a->n++], size, "%s=%s", row->name, value);
}

// What a person would type to make this run again.
static void write_recipe(const struct runs *r, const struct one_run *one, const struct arguments *a)
{
    char path[300];
    path_of(r, one->key, ".txt", path);
    FILE *f = fopen(path, "w");
    if (!f)
        return;
    fprintf(f, "fstq %s (git %s) %016llx\n%s %s\nfstq run", buildinfo.version, buildinfo.git_rev,
            (unsigned long long)r->build, one->name, one->setting);
    for (int i = 0; i < a->n; i++)
        fprintf(f, " %s", a->text[i]);
    fputs(" net.transport=sim dev.threads=1\n", f);
    fclose(f);
}

// In the child: quiet, one process of its own whatever job the parent belongs to.
static _Noreturn void become_run(struct runs *r, const struct one_run *one, struct arguments *a,
                                 pid_t parent)
{
    extern char **environ;
    char path[300], trace[340];
    static char transport[] = "net.transport=sim", threads[] = "dev.threads=1",
                journal[] = "trace.journal=off", cpu[] = "trace.cpu=off";
    prctl(PR_SET_PDEATHSIG, SIGKILL); // or it would write into what the next one makes anew
    if (getppid() != parent)
        _exit(STATUS_INTERRUPTED);
    for (char **e = environ; *e;) {
        bool mpi = !strncmp(*e, "OMPI_", 5) || !strncmp(*e, "PMIX_", 5) || !strncmp(*e, "PMI_", 4);
        if (mpi && !strstr(*e, "ALLOW_RUN_AS_ROOT"))
            for (char **k = e; (k[0] = k[1]); k++)
                ;
        else
            e++;
    }
    unsetenv("FSTQ_STATUS_FILE");
    unsetenv("FSTQ_PROGRESS");
    unsetenv("SLURM_PROCID");
    path_of(r, one->key, ".log", path);
    int log = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644), null = open("/dev/null", O_RDONLY);
    if (log < 0 || null < 0)
        _exit(STATUS_ENV);
    dup2(null, 0);
    dup2(log, 1);
    dup2(log, 2);
    path_of(r, one->key, ".part.h5", path);
    snprintf(trace, sizeof trace, "trace.file=%s", path);
    char *argv[ARRAY_LEN(a->text) + 8] = {(char[]){"fstq"}, (char[]){"run"}};
    int n = 2;
    for (int i = 0; i < a->n; i++)
        argv[n++] = a->text[i];
    argv[n++] = transport;
    argv[n++] = threads;
    argv[n++] = journal;
    argv[n++] = cpu;
    argv[n++] = trace;
    signal(SIGCHLD, SIG_DFL);
    execv(r->self, argv);
    dprintf(2, "%s: %s\n", r->self, strerror(errno));
    _exit(STATUS_ENV);
}

static void start_run(struct runs *r, struct one_run *one)
{
    struct arguments a = {.n = 0};
    char path[300];
    path_of(r, one->key, ".part.h5", path);
    unlink(path); // of one that was cut short
    config_each(&one->cfg, add_argument, &a);
    write_recipe(r, one, &a);
    pid_t parent = getpid();
    fflush(NULL);
    one->start_ns = clock_ns();
    one->pid = fork();
    if (one->pid < 0)
        die(STATUS_ENV, "cannot start a run: %s", strerror(errno));
    if (one->pid == 0)
        become_run(r, one, &a, parent);
    one->state = RUN_GOING;
    r->going++;
    for (int i = 0; i < a.n; i++)
        mem_free(a.text[i]);
}

// The last line of a log that says what went wrong.
static void last_words(const char *path, char *out, size_t size)
{
    char line[400];
    FILE *f = fopen(path, "r");
    *out = '\0';
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (*line)
            snprintf(out, size, "%s", line);
    }
    if (f)
        fclose(f);
}

// Rounds that are still expected, at the pace so far; -1 = not known yet.
static int64_t time_left(const struct runs *r)
{
    int64_t rest = r->rounds_expected - r->rounds_found - r->rounds_made;
    if (r->rounds_made == 0)
        return -1;
    return (int64_t)((double)(clock_ns() - r->start_ns) / (double)r->rounds_made *
                     (double)(rest > 0 ? rest : 0));
}

static void log_run(struct runs *r, const struct one_run *one, const char *what)
{
    char t[2][32];
    fprintf(r->log, "%016llx  %-9s %-9s left %-9s  %s  seed %lld  %s\n",
            (unsigned long long)one->key, what, fmt_time(t[0], clock_ns() - one->start_ns),
            fmt_time(t[1], time_left(r)), one->name, (long long)one->cfg.run.seed, one->setting);
    fflush(r->log);
}

static void clear_line(struct runs *r)
{
    if (r->progress)
        fputs("\r\033[K", r->progress);
}

static void end_run(struct runs *r, struct one_run *one, int status)
{
    char part[300], whole[300], log[300], words[400];
    struct err err = {""};
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    path_of(r, one->key, ".part.h5", part);
    path_of(r, one->key, ".h5", whole);
    path_of(r, one->key, ".log", log);
    r->going--;
    one->pid = 0;
    if (code == STATUS_INTERRUPTED || (r->stopping && code != STATUS_VALID)) {
        unlink(part);
        one->state = RUN_MISSING;
        r->missing++;
        log_run(r, one, "stopped");
        return;
    }
    // A run that diverged, or lost clients to simulated faults, is a result too.
    if (code == STATUS_VALID || code == STATUS_CHECK || code == STATUS_DEGRADED) {
        if (!load_curve(&one->curve, part, r->score, r->both, &err) && rename(part, whole) == 0) {
            one->state = RUN_DONE;
            r->made++;
            r->rounds_made += one->cfg.fed.rounds;
            log_run(r, one, one->curve.finite ? "done" : "diverged");
            return;
        }
    }
    one->state = RUN_FAILED;
    r->failed++;
    last_words(log, words, sizeof words);
    clear_line(r);
    if (WIFSIGNALED(status))
        fprintf(stderr, "fstq compare: %s, seed %lld: ended by signal %d; %s says why\n", one->name,
                (long long)one->cfg.run.seed, WTERMSIG(status), log);
    else
        fprintf(stderr, "fstq compare: %s, seed %lld: status %d: %s (%s)\n", one->name,
                (long long)one->cfg.run.seed, code, *err.text ? err.text : words, log);
    log_run(r, one, "failed");
}

static void show_progress(struct runs *r)
{
    char t[2][32];
    if (!r->progress)
        return;
    int wanted = 0;
    for (size_t i = 0; i < r->n; i++)
        wanted += r->run[i]->state == RUN_WANTED;
    fprintf(r->progress,
            "\r\033[K# %d runs there, %d made, %d failed, %d going, %d waiting; %s, left %s",
            r->finished, r->made, r->failed, r->going, wanted,
            fmt_time(t[0], clock_ns() - r->start_ns), fmt_time(t[1], time_left(r)));
    fflush(r->progress);
}

void runs_stop(struct runs *r)
{
    r->stopping = true;
    for (size_t i = 0; i < r->n; i++) {
        if (r->run[i]->state == RUN_GOING)
            kill(r->run[i]->pid, SIGTERM);
        if (r->run[i]->state == RUN_WANTED) {
            r->run[i]->state = RUN_MISSING;
            r->missing++;
        }
    }
}

static bool reap(struct runs *r)
{
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    for (size_t i = 0; pid > 0 && i < r->n; i++)
        if (r->run[i]->pid == pid) {
            end_run(r, r->run[i], status);
            return true;
        }
    return false;
}

static struct one_run *next_run(const struct runs *r)
{
    struct one_run *best = NULL;
    for (size_t i = 0; i < r->n; i++)
        if (r->run[i]->state == RUN_WANTED && (!best || r->run[i]->place < best->place))
            best = r->run[i];
    return best;
}

bool runs_step(struct runs *r)
{
    for (;;) {
        if (stop_signal && !r->stopping)
            runs_stop(r);
        struct one_run *next;
        while (r->going < r->jobs && !r->stopping && (next = next_run(r)))
            start_run(r, next);
        if (r->going == 0)
            return false;
        show_progress(r);
        bool ended = false;
        while (reap(r))
            ended = true;
        if (ended)
            return true;
        // A child's end interrupts the sleep; one that ended just before it costs the half second.
        nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
    }
}

// Opening and closing.

static int cores(void)
{
    struct topo topo;
    struct err err;
    if (topo_load(&topo, &err))
        return 1;
    int pus = topo_allowed_pus(&topo), n = topo.cores < pus ? topo.cores : pus;
    topo_free(&topo);
    return n > 0 ? n : 1;
}

static int open_dir(struct runs *r, struct err *err)
{
    char path[300];
    snprintf(path, sizeof path, "%s/runs", r->dir);
    if (fsio_mkdirs(path, err))
        return -1;
    if (access(path, W_OK))
        return err_set(err, "compare.dir: %s: %s", path, strerror(errno));
    snprintf(path, sizeof path, "%s/lock", r->dir);
    r->lock_fd = fsio_lock(path, err);
    if (r->lock_fd < 0)
        return -1;
    snprintf(path, sizeof path, "%s/log", r->dir);
    r->log = fopen(path, "ae");
    return r->log ? 0 : err_set(err, "%s: %s", path, strerror(errno));
}

struct runs *runs_open(const struct compare *c, bool may_run, int64_t expected_rounds,
                       struct err *err)
{
    struct runs *r = mem_alloc(MEM_OTHER, sizeof *r);
    snprintf(r->dir, sizeof r->dir, "%s", c->p.dir);
    snprintf(r->score, sizeof r->score, "%s", c->p.score);
    r->both = c->p.traffic == TRAFFIC_BOTH;
    snprintf(r->model_path, sizeof r->model_path, "%s", c->cfg.model.path);
    r->lock_fd = -1;
    r->may_run = may_run;
    r->rounds_expected = expected_rounds;
    r->jobs = c->p.jobs ? c->p.jobs : cores();
    r->build = fingerprint("/proc/self/exe");
    r->model = fingerprint(r->model_path);
    // The link itself stays true when the program is built anew meanwhile.
    snprintf(r->self, sizeof r->self, "/proc/%ld/exe", (long)getpid());
    r->start_ns = clock_ns();
    r->progress = job_progress();
    if (may_run && open_dir(r, err)) {
        runs_close(r);
        return NULL;
    }
    struct sigaction stop = {.sa_handler = on_stop}, child = {.sa_handler = on_child};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGCHLD, &child, NULL);
    return r;
}

void runs_close(struct runs *r)
{
    if (r->log)
        fclose(r->log);
    if (r->lock_fd >= 0)
        close(r->lock_fd);
    for (size_t i = 0; i < r->n; i++) {
        curve_free(&r->run[i]->curve);
        mem_free(r->run[i]);
    }
    mem_free(r->run);
    mem_free(r);
}

const char *runs_note(struct runs *r)
{
    if (r->foreign)
        snprintf(r->note, sizeof r->note,
                 "%d runs were made by another build (the last by %s); delete them in %s/runs to "
                 "make them again",
                 r->foreign, r->foreign_build, r->dir);
    return r->note;
}

void runs_counts(const struct runs *r, int *finished, int *made, int *failed, int *missing)
{
    *finished = r->finished;
    *made = r->made;
    *failed = r->failed;
    *missing = r->missing;
}

bool runs_interrupted(const struct runs *r)
{
    (void)r;
    return stop_signal != 0;
}
