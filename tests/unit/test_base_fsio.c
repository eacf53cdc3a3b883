// Files that must not be lost.
#include "base/check.h"
#include "base/fsio.h"
#include "child.h"
#include "scratch.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cmocka.h>

enum { BIG = 1 << 20 };

static void expect_content(const char *path, const char *want)
{
    struct err err = {""};
    uint8_t *bytes;
    size_t n;
    if (fsio_read(path, BIG, MEM_OTHER, &bytes, &n, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(n, strlen(want));
    assert_string_equal((char *)bytes, want); // ends in NUL
    mem_free(bytes);
}

static void replace_makes_and_replaces(void **state)
{
    (void)state;
    const char *path = scratch_path("file");
    struct err err;
    assert_int_equal(fsio_replace(path, "one", 3, &err), 0);
    expect_content(path, "one");
    assert_int_equal(fsio_replace(path, "another", 7, &err), 0);
    expect_content(path, "another");
    assert_int_equal(fsio_replace(path, NULL, 0, &err), 0);
    expect_content(path, "");
    assert_int_equal(access(scratch_path("file.tmp"), F_OK), -1);
}

static void replace_in_the_current_directory(void **state)
{
    (void)state;
    char here[512];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(scratch_dir), 0);
    struct err err;
    int r = fsio_replace("bare", "x", 1, &err);
    assert_int_equal(chdir(here), 0);
    assert_int_equal(r, 0);
    expect_content(scratch_path("bare"), "x");
}

// The disk is full halfway: what was there stays, the rest is cleaned up, the reason is said.
static void replaces_beyond_the_limit(void *arg)
{
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {100000, 100000};
    setrlimit(RLIMIT_FSIZE, &limit);
    static char big[BIG];
    struct err err = {""};
    if (fsio_replace(arg, big, sizeof big, &err) == 0)
        _exit(2);
    if (!strstr(err.text, arg) || !strstr(err.text, "File too large"))
        _exit(3);
}

static void replace_leaves_the_old_when_it_fails(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path("kept"));
    struct err err;
    assert_int_equal(fsio_replace(path, "old", 3, &err), 0);
    assert_int_equal(run_child(replaces_beyond_the_limit, path).status, 0);
    expect_content(path, "old");
    assert_int_equal(access(scratch_path("kept.tmp"), F_OK), -1);
    assert_int_equal(fsio_replace(scratch_path("no/such/file"), "x", 1, &err), -1);
    assert_non_null(strstr(err.text, "No such file"));
    // A directory in the way cannot be replaced by a file.
    struct err why = {""};
    assert_int_equal(fsio_mkdirs(scratch_path("dir/inside"), &why), 0);
    assert_int_equal(fsio_replace(scratch_path("dir"), "x", 1, &why), -1);
    assert_int_equal(access(scratch_path("dir.tmp"), F_OK), -1);
}

// What a link points to, and pipes and directories, are not ours to write or to replace.
static void replace_leaves_what_is_no_file(void **state)
{
    (void)state;
    static const char *const at[] = {"mine", "mine.tmp"};
    char path[512], link[512], precious[512];
    snprintf(path, sizeof path, "%s", scratch_path("mine"));
    snprintf(precious, sizeof precious, "%s", scratch_path("precious"));
    struct err err = {""};
    assert_int_equal(fsio_replace(precious, "precious", 8, &err), 0);
    for (size_t i = 0; i < ARRAY_LEN(at); i++) {
        snprintf(link, sizeof link, "%s", scratch_path(at[i]));
        assert_int_equal(symlink(precious, link), 0);
        assert_int_equal(fsio_replace(path, "x", 1, &err), -1);
        assert_non_null(strstr(err.text, link));
        assert_non_null(strstr(err.text, "a symbolic link"));
        assert_int_equal(unlink(link), 0); // still there
        assert_int_equal(mkfifo(link, 0600), 0);
        assert_int_equal(fsio_replace(path, "x", 1, &err), -1);
        assert_non_null(strstr(err.text, "a pipe"));
        assert_int_equal(unlink(link), 0);
    }
    expect_content(precious, "precious");
    // What a crash left is no hindrance.
    assert_int_equal(fsio_replace(scratch_path("mine.tmp"), "half", 4, &err), 0);
    assert_int_equal(fsio_replace(path, "whole", 5, &err), 0);
    expect_content(path, "whole");
    assert_int_equal(access(scratch_path("mine.tmp"), F_OK), -1);
}

static void replaces_forever(void *arg)
{
    static char a[65536], b[65536];
    memset(a, 'a', sizeof a);
    memset(b, 'b', sizeof b);
    struct err err;
    for (int i = 0; i < 60; i++)
        if (fsio_replace(arg, i % 2 ? b : a, sizeof a, &err) < 0)
            _exit(1);
}

// A reader sees one content or the other, whole.
static void replace_is_atomic(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path("atomic"));
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        replaces_forever(path);
        _exit(0);
    }
    int status, seen = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        uint8_t *bytes;
        size_t n;
        struct err err;
        if (fsio_read(path, BIG, MEM_OTHER, &bytes, &n, &err) < 0)
            continue; // before the first
        assert_int_equal(n, 65536);
        for (size_t i = 1; i < n; i++)
            assert_int_equal(bytes[i], bytes[0]);
        mem_free(bytes);
        seen++;
    }
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_true(seen > 0);
}

static void read_of_a_head(void **state)
{
    (void)state;
    static const size_t most[] = {1, 4, 5, 6, 100};
    char path[512];
    scratch_write("head", "12345");
    snprintf(path, sizeof path, "%s", scratch_path("head"));
    for (size_t i = 0; i < sizeof most / sizeof *most; i++) {
        struct err err = {""};
        uint8_t *bytes;
        size_t n, want = most[i] < 5 ? most[i] : 5;
        assert_int_equal(fsio_read_head(path, most[i], MEM_OTHER, &bytes, &n, &err), 0);
        assert_int_equal(n, want);
        assert_memory_equal(bytes, "12345", want);
        assert_int_equal(bytes[n], 0);
        mem_free(bytes);
    }
    struct err err = {""};
    uint8_t *bytes;
    size_t n;
    assert_int_equal(fsio_read_head("/proc/self/status", 9, MEM_OTHER, &bytes, &n, &err), 0);
    assert_int_equal(n, 9); // of a file that says it has no bytes
    mem_free(bytes);
}

static void read_has_a_limit(void **state)
{
    (void)state;
    scratch_write("five", "12345");
    struct err err = {""};
    uint8_t *bytes;
    size_t n, booked = mem_now(MEM_OTHER);
    const char *path = scratch_path("five");
    assert_int_equal(fsio_read(path, 5, MEM_OTHER, &bytes, &n, &err), 0);
    assert_int_equal(n, 5);
    mem_free(bytes);
    assert_int_equal(fsio_read(path, 4, MEM_OTHER, &bytes, &n, &err), -1);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "at most 4"));
    assert_int_equal(fsio_read(scratch_path("none"), 4, MEM_OTHER, &bytes, &n, &err), -1);
    assert_non_null(strstr(err.text, "No such file"));
    assert_int_equal(fsio_read(scratch_dir, 4, MEM_OTHER, &bytes, &n, &err), -1);
    assert_non_null(strstr(err.text, "is a directory"));
    assert_int_equal(mem_now(MEM_OTHER), booked);
}

// Files whose size says nothing: those of /proc.
static void read_without_a_size(void **state)
{
    (void)state;
    struct err err = {""};
    uint8_t *bytes;
    size_t n, booked = mem_now(MEM_OTHER);
    assert_int_equal(fsio_read("/proc/self/status", BIG, MEM_OTHER, &bytes, &n, &err), 0);
    assert_true(n > 100 && n == strlen((char *)bytes));
    mem_free(bytes);
    assert_int_equal(fsio_read("/proc/self/status", 100, MEM_OTHER, &bytes, &n, &err), -1);
    assert_non_null(strstr(err.text, "more than the 100 bytes"));
    // A long one: a line for each piece of a block whose pages may and may not be written in turn.
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = 4000;
    char *block =
        mmap(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(block != MAP_FAILED);
    for (size_t i = 0; i < pages; i += 2)
        assert_int_equal(mprotect(block + i * page, page, PROT_READ), 0);
    assert_int_equal(fsio_read("/proc/self/maps", BIG, MEM_OTHER, &bytes, &n, &err), 0);
    munmap(block, pages * page);
    assert_true(n > 150000 && n == strlen((char *)bytes));
    mem_free(bytes);
    assert_int_equal(mem_now(MEM_OTHER), booked);
}

// What is no regular file is refused at once, and named.
static void read_regular_files_only(void **state)
{
    (void)state;
    struct err err = {""};
    uint8_t *bytes;
    size_t n;
    const char *fifo = scratch_path("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    alarm(20); // to read it is to wait for ever
    assert_int_equal(fsio_read(fifo, BIG, MEM_OTHER, &bytes, &n, &err), -1);
    alarm(0);
    assert_non_null(strstr(err.text, "fifo: is a pipe"));
    assert_int_equal(fsio_read("/dev/zero", BIG, MEM_OTHER, &bytes, &n, &err), -1);
    assert_string_equal(err.text, "/dev/zero: is a device, not a regular file");
}

static void mkdirs_makes_them_all(void **state)
{
    (void)state;
    struct err err = {""};
    const char *deep = scratch_path("a/b//c/");
    assert_int_equal(fsio_mkdirs(deep, &err), 0);
    assert_int_equal(fsio_mkdirs(deep, &err), 0); // as mkdir -p
    assert_int_equal(access(scratch_path("a/b/c"), W_OK), 0);
    scratch_write("plain", "");
    assert_int_equal(fsio_mkdirs(scratch_path("plain"), &err), -1);
    assert_non_null(strstr(err.text, "not a directory"));
    assert_int_equal(fsio_mkdirs(scratch_path("plain/x"), &err), -1);
    assert_int_equal(fsio_mkdirs("", &err), -1);
}

static void holds_the_lock(void *arg)
{
    int *wires = arg; // to the parent: locked; from the parent: go
    struct err err;
    if (fsio_lock(scratch_path("lock"), &err) < 0)
        _exit(1);
    char c = 'x';
    if (write(wires[1], &c, 1) != 1 || read(wires[2], &c, 1) != 1)
        _exit(2);
}

static void lock_is_held_once(void **state)
{
    (void)state;
    int up[2], down[2];
    assert_int_equal(pipe(up), 0);
    assert_int_equal(pipe(down), 0);
    int wires[] = {up[0], up[1], down[0], down[1]};
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        holds_the_lock(wires);
        _exit(0);
    }
    char c;
    assert_int_equal(read(up[0], &c, 1), 1);
    const char *path = scratch_path("lock");
    struct err err = {""};
    char who[64];
    snprintf(who, sizeof who, "held by process %ld on ", (long)pid);
    assert_int_equal(fsio_lock(path, &err), -1);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, who));
    assert_null(strchr(err.text, '\n'));
    assert_int_equal(write(down[1], "x", 1), 1);
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    int fd = fsio_lock(path, &err); // its holder is gone
    assert_true(fd >= 0);
    assert_int_equal(fsio_lock(path, &err), -1); // not even twice by ourselves
    snprintf(who, sizeof who, "held by process %ld on ", (long)getpid());
    assert_non_null(strstr(err.text, who));
    close(fd);
    fd = fsio_lock(path, &err);
    assert_true(fd >= 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC); // not handed on to mpirun's children
    close(fd);
    assert_int_equal(fsio_lock(scratch_path("no/lock"), &err), -1);
}

static void backup_names_are_free(void **state)
{
    (void)state;
    char out[512];
    scratch_write("t.h5", "");
    assert_int_equal(fsio_backup_name(scratch_path("t.h5"), out, sizeof out), 0);
    assert_string_equal(out, scratch_path("t.1.h5"));
    scratch_write("t.1.h5", "");
    scratch_write("t.2.h5", "");
    assert_int_equal(fsio_backup_name(scratch_path("t.h5"), out, sizeof out), 0);
    assert_string_equal(out, scratch_path("t.3.h5"));
    assert_int_equal(fsio_backup_name(scratch_path("no.dot/trace"), out, sizeof out), 0);
    assert_string_equal(out, scratch_path("no.dot/trace.1"));
    assert_int_equal(fsio_backup_name(scratch_path(".hidden"), out, sizeof out), 0);
    assert_string_equal(out, scratch_path(".hidden.1"));
    assert_int_equal(fsio_backup_name(scratch_path("a.tar.gz"), out, sizeof out), 0);
    assert_string_equal(out, scratch_path("a.tar.1.gz"));
    assert_int_equal(symlink("nowhere", scratch_path("a.tar.1.gz")),
                     0); // a name in use all the same
    assert_int_equal(fsio_backup_name(scratch_path("a.tar.gz"), out, sizeof out), 0);
    assert_string_equal(out, scratch_path("a.tar.2.gz"));
    assert_int_equal(fsio_backup_name("t.h5", out, 6), -1);
}

static int setup(void **state)
{
    (void)state;
    return scratch_make();
}

static int teardown(void **state)
{
    (void)state;
    return scratch_drop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replace_makes_and_replaces),
        cmocka_unit_test(replace_in_the_current_directory),
        cmocka_unit_test(replace_leaves_the_old_when_it_fails),
        cmocka_unit_test(replace_leaves_what_is_no_file),
        cmocka_unit_test(replace_is_atomic),
        cmocka_unit_test(read_of_a_head),
        cmocka_unit_test(read_has_a_limit),
        cmocka_unit_test(read_without_a_size),
        cmocka_unit_test(read_regular_files_only),
        cmocka_unit_test(mkdirs_makes_them_all),
        cmocka_unit_test(lock_is_held_once),
        cmocka_unit_test(backup_names_are_free),
    };
    return cmocka_run_group_tests_name("base fsio", tests, setup, teardown);
}
