// Runs a fuzz target without libFuzzer: every input of its corpus, then, from each, cut-off and
// mutated ones, always the same. Built with ASan and UBSan it makes every `make test` a small
// fuzzing run with any compiler.
//   fuzz_X [FILE|DIR ...]    default: tests/fuzz/corpus/X
#include "base/fsio.h"
#include "base/rng.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LARGEST_INPUT = 1 << 22, CUTS = 64, MUTANTS = 128, MUTANTS_LONG = 20000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static const uint8_t *current;
static size_t current_size;
static const char *current_file = "", *target = "";
static int current_mutant;

// On the way down: keeps the input, so that it can be replayed alone.
static void keep_input(void)
{
    char path[512];
    const char *dir = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/%s-crash-%ld", dir ? dir : "/tmp", target, (long)getpid());
    struct err err = {""};
    if (fsio_replace(path, current, current_size, &err) < 0)
        snprintf(path, sizeof path, "(not kept: %.300s)", err.text);
    fprintf(stdout, "not ok 1 - %s: input %d from %s; kept as %s\n", target, current_mutant,
            current_file, path);
    fflush(stdout);
}

static void on_abort(int sig)
{
    (void)sig;
    keep_input();
    _exit(1);
}

static int run(const uint8_t *bytes, size_t n)
{
    // A block of exactly n bytes: one read beyond it is caught.
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        die(STATUS_ENV, "out of memory for an input of %zu bytes", n);
    memcpy(copy, bytes, n);
    current = copy;
    current_size = n;
    LLVMFuzzerTestOneInput(copy, n);
    current_mutant++;
    free(copy);
    return 1;
}

// One to eight edits: set, flip, extreme integers, copies of other bytes; sometimes cut or
// extended.
static size_t mutate(struct rng *r, uint8_t *p, size_t n, size_t cap)
{
    static const uint64_t extreme[] = {0,          1,          0x7f,      0x80,
                                       0xff,       0x7fff,     0xffff,    0x7fffffff,
                                       0x80000000, 0xffffffff, INT64_MAX, UINT64_MAX};
    uint32_t edits = 1 + rng_below(r, 8);
    for (uint32_t e = 0; e < edits && n > 0; e++) {
        size_t at = rng_below(r, (uint32_t)n);
        size_t width = (size_t)1 << rng_below(r, 4);
        uint64_t value = extreme[rng_below(r, ARRAY_LEN(extreme))];
        width = width < n - at ? width : n - at;
        switch (rng_below(r, 6)) {
        case 0:
            p[at] = (uint8_t)rng_u32(r);
            break;
        case 1:
            p[at] = (uint8_t)(p[at] ^ (1u << rng_below(r, 8)));
            break;
        case 2:
            for (size_t i = 0; i < width; i++)
                p[at + i] = (uint8_t)(value >> (8 * i));
            break;
        case 3:
            memmove(p + at, p + rng_below(r, (uint32_t)(n - width + 1)), width);
            break;
        case 4:
            p[at] = (uint8_t)(p[at] + (rng_u32(r) & 1 ? 1 : 255));
            break;
        default:
            if (rng_u32(r) & 1)
                n = at;
            else if (n + width <= cap)
                n += width;
        }
    }
    return n;
}

static int replay_file(const char *path, int mutants)
{
    struct err err;
    uint8_t *bytes;
    size_t n;
    if (fsio_read(path, LARGEST_INPUT, MEM_OTHER, &bytes, &n, &err) < 0) {
        printf("# %s\n", err.text);
        return -1;
    }
    current_file = path;
    current_mutant = 0;
    run(bytes, n);
    size_t step = n > CUTS ? n / CUTS : 1;
    for (size_t cut = 0; cut < n; cut += step)
        run(bytes, cut);
    size_t cap = n + 64;
    uint8_t *work = mem_alloc(MEM_OTHER, cap);
    struct rng r = rng_stream(n, RNG_TEST, 0x66757a7a, 0, 0);
    for (int m = 0; m < mutants; m++) {
        memcpy(work, bytes, n);
        memset(work + n, 0, cap - n);
        run(work, mutate(&r, work, n, cap));
    }
    int ran = current_mutant;
    mem_free(work);
    mem_free(bytes);
    return ran;
}

static int replay_path(const char *path, int mutants, int *files)
{
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)) {
        ++*files;
        return replay_file(path, mutants);
    }
    struct dirent **entry;
    int n = scandir(path, &entry, NULL, alphasort), ran = 0;
    for (int i = 0; i < n; i++) {
        char file[4096];
        int len = snprintf(file, sizeof file, "%s/%s", path, entry[i]->d_name);
        if (entry[i]->d_name[0] != '.' && len > 0 && (size_t)len < sizeof file && ran >= 0) {
            int k = replay_file(file, mutants);
            ran = k < 0 ? -1 : ran + k;
            ++*files;
        }
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
    return ran;
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/'), *extended = getenv("FSTQ_TEST_LONG");
    target = slash ? slash + 1 : argv[0];
    int mutants = extended && strcmp(extended, "1") == 0 ? MUTANTS_LONG : MUTANTS;
    if (argc > 1)
        mutants = 0;            // given inputs are run as they are
    signal(SIGABRT, on_abort);  // assert()
    check_abort_hook(on_abort); // die()
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(keep_input);
    char corpus[256];
    snprintf(corpus, sizeof corpus, "tests/fuzz/corpus/%.100s",
             target + (strncmp(target, "fuzz_", 5) == 0 ? 5 : 0));
    char *fallback[] = {argv[0], corpus};
    if (argc < 2) {
        argc = 2;
        argv = fallback;
    }
    int files = 0, total = 0, bad = 0;
    printf("1..1\n");
    for (int i = 1; i < argc; i++) {
        int ran = replay_path(argv[i], mutants, &files);
        bad += ran < 0;
        total += ran > 0 ? ran : 0;
    }
    bad += files == 0;
    printf("%sok 1 - %s: %d inputs from %d files\n", bad ? "not " : "", target, total, files);
    return bad != 0;
}
