// The writer of a trace dies, is torn or runs out of disk at its k-th call that changes a file, for
// every k, or one of three. Afterwards every round whose commit had returned must be readable: from
// the file, or from the journal. FSTQ_TEST_LONG=1 also goes through the split of a chunk index.
#include "tests/trace_rows.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char writer[PATH_MAX], preload[PATH_MAX], scratch[256];

struct outcome {
    int returned;     // commits that had returned
    int from_file;    // rounds readable in the file as it was left, -1 = no such file
    int from_journal; // and in one rebuilt from the journal, -1 = no journal
    int status;       // of the writer, as wait tells
    int crashed;      // reading it killed the reader
};

struct sweep {
    const char *mode;
    int rounds;
    bool journal, split;
    long from, to, step; // kill points, or sizes in KiB
    bool limit, tmpfs;   // the size is RLIMIT_FSIZE, or of a file system
};

static int rounds(int n)
{
    return getenv("FSTQ_TEST_LONG") ? 4 * n : n;
}

static pid_t start_writer(const struct sweep *s, long k, const char *dir, const char *progress)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    char file[PATH_MAX], at[32], count[16];
    snprintf(file, sizeof file, "%s/t.h5", dir);
    snprintf(at, sizeof at, "%ld", k);
    snprintf(count, sizeof count, "%d", s->rounds);
    if (s->limit) {
        struct rlimit r = {(rlim_t)k << 10, (rlim_t)k << 10};
        setrlimit(RLIMIT_FSIZE, &r);
    } else if (!s->tmpfs) {
        setenv("LD_PRELOAD", preload, 1);
        setenv("FSTQ_KILL_AT", at, 1);
        setenv("FSTQ_KILL_MODE", s->mode, 1);
    }
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0", 1);
    int null = open("/dev/null", O_WRONLY);
    dup2(null, 2);
    execl(writer, writer, file, count, progress, s->journal ? "" : "nojournal",
          s->split ? "split" : "", (char *)NULL);
    _exit(126);
}

static int count_rounds(const char *path, int limit)
{
    struct trace_file f;
    struct stat st;
    if (stat(path, &st) < 0)
        return -1;
    if (trace_read(path, &f, NULL) < 0)
        return 0;
    int n = test_rounds_whole(&f, limit);
    trace_file_free(&f);
    return n;
}

static void look(const struct sweep *s, const char *dir, struct outcome *o)
{
    char file[PATH_MAX], journal[PATH_MAX], rebuilt[PATH_MAX];
    struct stat st;
    snprintf(file, sizeof file, "%s/t.h5", dir);
    snprintf(journal, sizeof journal, "%s/t.h5.journal", dir);
    // Beside the file system that is full.
    snprintf(rebuilt, sizeof rebuilt, "%s.r.h5", dir);
    o->crashed = 1; // until we come back
    o->from_file = count_rounds(file, s->rounds);
    o->from_journal = -1;
    if (stat(journal, &st) == 0)
        o->from_journal =
            trace_recover(journal, rebuilt, NULL) < 0 ? 0 : count_rounds(rebuilt, s->rounds);
    unlink(rebuilt);
    o->crashed = 0;
}

static void remove_all(const char *dir)
{
    static const char *const names[] = {"t.h5", "t.h5.part", "t.h5.journal", "t.h5.journal.part"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
}

static void one_point(const struct sweep *s, long k, struct outcome *o)
{
    char dir[512], progress[PATH_MAX];
    snprintf(dir, sizeof dir, "%s/%s%ld", scratch, s->mode, k);
    mkdir(dir, 0700);
    if (s->tmpfs) { // in a namespace of our own, so that nothing stays mounted
        char size[48];
        snprintf(size, sizeof size, "size=%ldk", k);
        if (unshare(CLONE_NEWNS) < 0 || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("fstq", dir, "tmpfs", 0, size) < 0)
            _exit(1);
    }
    // Not on the file system that fills up: a mapped page without a block behind it is a SIGBUS.
    snprintf(progress, sizeof progress, "%s.progress", dir);
    int fd = open(progress, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(int32_t)) < 0)
        _exit(1);
    int32_t *done = mmap(NULL, sizeof *done, PROT_READ, MAP_SHARED, fd, 0);
    pid_t pid = start_writer(s, k, dir, progress);
    waitpid(pid, &o->status, 0);
    o->returned = done == MAP_FAILED ? -1 : *done;
    look(s, dir, o);
    unlink(progress);
    remove_all(dir);
    if (s->tmpfs)
        umount(dir);
    rmdir(dir);
}

// Two points at a time; stops behind the first that the writer came through whole.
static long run_sweep(const struct sweep *s, struct outcome *all)
{
    long n = 0, running = 0;
    bool ended = false;
    for (long k = s->from; (k <= s->to && !ended) || running > 0;) {
        if (k <= s->to && !ended && running < 2) {
            fflush(NULL);
            if (fork() == 0) {
                one_point(s, k, &all[n]);
                _exit(0);
            }
            running++;
            n++;
            k += s->step;
            continue;
        }
        int status;
        wait(&status);
        running--;
        for (long i = 0; i < n; i++)
            ended |= all[i].status == 0 && all[i].returned == s->rounds;
    }
    return n;
}

struct tally {
    long points, lost, lost_in_file, unopened, crashed, odd;
    long whole_in_file;
};

static struct tally judge(const struct sweep *s)
{
    size_t cap = (size_t)((s->to - s->from) / s->step + 1);
    struct outcome *all =
        mmap(NULL, cap * sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(all != MAP_FAILED);
    for (size_t i = 0; i < cap; i++)
        all[i].returned = -2, all[i].status = -1;
    struct tally t = {.points = run_sweep(s, all)};
    for (long i = 0; i < t.points; i++) {
        const struct outcome *o = &all[i];
        int best = o->from_file > o->from_journal ? o->from_file : o->from_journal;
        bool lost = o->returned > 0 && best < o->returned;
        t.lost += lost;
        t.lost_in_file += o->returned > 0 && o->from_file < o->returned;
        t.unopened += o->returned > 0 && o->from_file <= 0;
        t.crashed += o->crashed != 0;
        t.whole_in_file += o->from_file == o->returned;
        bool expected = WIFSIGNALED(o->status)
                            ? WTERMSIG(o->status) == SIGKILL
                            : WEXITSTATUS(o->status) == 0 || WEXITSTATUS(o->status) == 3 ||
                                  WEXITSTATUS(o->status) == 4;
        t.odd += !expected || o->returned == -2;
        if (lost || o->crashed || !expected)
            fprintf(stderr, "# %s at %ld: %d commits returned, file %d, journal %d, status %x%s\n",
                    s->mode, s->from + i * s->step, o->returned, o->from_file, o->from_journal,
                    o->status, o->crashed ? ", reader crashed" : "");
    }
    fprintf(stderr,
            "# %s%s, %d rounds: %ld points, %ld lost a round for good, %ld in the file alone, %ld "
            "unopened\n",
            s->mode, s->journal ? "" : " without journal", s->rounds, t.points, t.lost,
            t.lost_in_file, t.unopened);
    munmap(all, cap * sizeof *all);
    assert_true(t.points > 2);
    assert_int_equal(t.crashed, 0);
    assert_int_equal(t.odd, 0);
    return t;
}

#define EVERY .from = 1, .to = 5000, .step = 1
// One of three, each sweep its own, where time is short.
#define SOME(first) .from = first, .to = 5000, .step = getenv("FSTQ_TEST_LONG") ? 1 : 5

static void test_kill(void **state)
{
    (void)state;
    struct tally t =
        judge(&(struct sweep){.mode = "kill", .rounds = rounds(2), .journal = true, EVERY});
    assert_int_equal(t.lost, 0);
    assert_int_equal(t.lost_in_file, 0);
}

// With index nodes so small that they split in every other round, to three levels.
static void test_kill_split(void **state)
{
    (void)state;
    struct tally t =
        judge(&(struct sweep){.mode = "kill", .rounds = rounds(6), .split = true, SOME(1)});
    assert_int_equal(t.lost_in_file, 0);
}

static void test_torn(void **state)
{
    (void)state;
    struct tally t = judge(&(struct sweep){
        .mode = "torn", .rounds = rounds(3), .journal = true, .split = true, SOME(2)});
    assert_int_equal(t.lost, 0);
}

static void test_full(void **state)
{
    (void)state;
    struct tally t =
        judge(&(struct sweep){.mode = "full", .rounds = rounds(3), .split = true, SOME(3)});
    assert_int_equal(t.lost_in_file, 0);
}

static void test_failing(void **state)
{
    (void)state;
    struct tally t =
        judge(&(struct sweep){.mode = "fail", .rounds = rounds(3), .journal = true, SOME(1)});
    assert_int_equal(t.lost, 0);
}

static void test_file_size_limit(void **state)
{
    (void)state;
    struct tally t = judge(&(struct sweep){.mode = "limit",
                                           .rounds = rounds(3),
                                           .split = true,
                                           .limit = true,
                                           .from = 60,
                                           .to = 2000,
                                           .step = getenv("FSTQ_TEST_LONG") ? 4 : 20});
    assert_int_equal(t.lost_in_file, 0);
}

static bool can_mount(void)
{
    int status = -1;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        _exit(unshare(CLONE_NEWNS) < 0 || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
              mount("fstq", scratch, "tmpfs", 0, "size=64k") < 0);
    waitpid(pid, &status, 0);
    return status == 0;
}

static void test_small_disk(void **state)
{
    (void)state;
    if (!can_mount())
        skip();
    struct tally t = judge(&(struct sweep){.mode = "disk",
                                           .rounds = rounds(3),
                                           .journal = true,
                                           .tmpfs = true,
                                           .from = 60,
                                           .to = 2000,
                                           .step = 20});
    assert_int_equal(t.lost_in_file, 0);
}

static int setup(void **state)
{
    (void)state;
    char self[PATH_MAX - 64];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return -1;
    self[n] = 0;
    *strrchr(self, '/') = 0;
    snprintf(writer, sizeof writer, "%s/mpi/trace_writer", self);
    snprintf(preload, sizeof preload, "%s/preload/killwrite.so", self);
    const char *tmp = getenv("TMPDIR");
    if (!tmp) // what memory forgets on a power cut does not matter here: processes die, not
              // machines
        tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(scratch, sizeof scratch, "%s/fstq-kill-XXXXXX", tmp);
    return mkdtemp(scratch) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(scratch);
}

int main(void)
{
    cmocka_set_test_filter(getenv("FSTQ_TEST_FILTER"));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill),       cmocka_unit_test(test_kill_split),
        cmocka_unit_test(test_torn),       cmocka_unit_test(test_full),
        cmocka_unit_test(test_failing),    cmocka_unit_test(test_file_size_limit),
        cmocka_unit_test(test_small_disk),
    };
    return cmocka_run_group_tests_name("trace_kill", tests, setup, teardown);
}
