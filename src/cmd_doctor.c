// fstq doctor: what usually goes wrong on a cluster, host by host and between hosts, and what to
// do.
#include "base/buildinfo.h"
#include "base/check.h"
#include "base/jsonw.h"
#include "base/mem.h"
#include "base/table.h"
#include "cmd.h"
#include "machine.h"
#include "net/comm_mpi.h"

#include <getopt.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum level { LEVEL_OK, LEVEL_NOTE, LEVEL_WARN, LEVEL_FAIL };
static const char *const level_name[] = {"ok", "note", "warn", "FAIL"};

struct finding {
    int32_t level;
    char found[160], advice[200]; // advice "" = nothing to do
};

struct fact {
    char group[16], name[40], value[256];
};

struct facts { // of machine.h
    struct fact row[160];
    int n;
};

enum { CHECKS = 13 };
struct report { // of a rank, as it goes to rank 0
    int32_t rank, local_rank, local_size;
    char host[64], version[32], git[48], target[48], mpi[96];
    struct finding finding[CHECKS];
};

static void keep_fact(void *arg, const char *group, const char *name, const char *value)
{
    struct facts *f = arg;
    if (f->n == (int)ARRAY_LEN(f->row))
        return;
    struct fact *row = &f->row[f->n++];
    snprintf(row->group, sizeof row->group, "%s", group);
    snprintf(row->name, sizeof row->name, "%s", name);
    snprintf(row->value, sizeof row->value, "%s", value);
}

static const char *value_of(const struct facts *f, const char *group, const char *name)
{
    for (int i = 0; i < f->n; i++)
        if (!strcmp(f->row[i].group, group) && !strcmp(f->row[i].name, name))
            return f->row[i].value;
    return "unavailable";
}

static void say(struct finding *x, enum level level, const char *found, const char *advice)
{
    x->level = (int32_t)level;
    snprintf(x->found, sizeof x->found, "%s", found);
    snprintf(x->advice, sizeof x->advice, "%s", advice);
}

static bool known(const char *value)
{
    return strncmp(value, "unavailable", 11) != 0;
}

static bool on_path(const char *program)
{
    const char *path = getenv("PATH");
    char full[1024];
    while (path && *path) {
        int n = (int)strcspn(path, ":");
        snprintf(full, sizeof full, "%.*s/%s", n, path, program);
        if (access(full, X_OK) == 0)
            return true;
        path += n;
        path += *path == ':';
    }
    return false;
}

// Checks of a host.

static void check_launcher(const struct facts *f, struct finding *x)
{
    const char *mpi = value_of(f, "libraries", "mpi");
    bool there = comm_launched() || on_path("mpirun");
    say(x, there ? LEVEL_OK : LEVEL_WARN, there ? mpi : "no mpirun on PATH",
        there ? "" : "install openmpi-bin; without it everything is one process");
}

static void check_cores(const struct facts *f, struct finding *x)
{
    const char *allowed = value_of(f, "machine", "allowed");
    int pus = atoi(allowed), ranks = comm_get()->local_size;
    char text[160];
    snprintf(text, sizeof text, "%d rank%s here; %s", ranks, ranks == 1 ? "" : "s", allowed);
    bool few = pus > 0 && ranks > pus + 1; // the server mostly waits
    say(x, few ? LEVEL_WARN : LEVEL_OK, text,
        few ? "fewer ranks a host (-H host:N): ranks that share a core have no comparable times"
            : "");
}

static void check_memory(const struct facts *f, struct finding *x)
{
    const char *free_mib = value_of(f, "machine", "memory_available");
    bool few = known(free_mib) && atol(free_mib) < 1024;
    char text[160];
    snprintf(text, sizeof text, "%.100s available", free_mib);
    say(x, few ? LEVEL_WARN : LEVEL_OK, text,
        few ? "a rank of the built-in model takes 60 MiB, a real one its weights and more" : "");
}

static void check_load(const struct facts *f, struct finding *x)
{
    const char *load = value_of(f, "timing", "load");
    bool busy = known(load) && atof(load) > 0.5 * (double)sysconf(_SC_NPROCESSORS_ONLN);
    char text[160];
    snprintf(text, sizeof text, "load %.100s", load);
    say(x, busy ? LEVEL_WARN : LEVEL_OK, text,
        busy ? "others work here: measured times will not repeat, bytes and scores will" : "");
}

static void check_governor(const struct facts *f, struct finding *x)
{
    bool any = false;
    for (int i = 0; i < f->n; i++) {
        if (strncmp(f->row[i].name, "policy", 6) != 0)
            continue;
        any = true;
        if (strncmp(f->row[i].value, "performance", 11) != 0) {
            say(x, LEVEL_WARN, f->row[i].value,
                "for timings: cpupower frequency-set -g performance");
            return;
        }
    }
    say(x, any ? LEVEL_OK : LEVEL_NOTE,
        any ? "performance" : "this machine does not show its clock's governor",
        any ? "" : "virtual machines seldom do: the column Noisy of fstq bench has what it costs");
}

static void check_power_mode(const struct facts *f, struct finding *x)
{
    const char *jetson = value_of(f, "machine", "jetson");
    if (known(jetson))
        say(x, LEVEL_NOTE, jetson,
            "the same power mode on all boards (nvpmodel -q), and jetson_clocks for timings");
    else
        say(x, LEVEL_OK, "no Jetson, no power mode", "");
}

static void check_huge_pages(const struct facts *f, struct finding *x)
{
    const char *pages = value_of(f, "timing", "transparent_huge_pages");
    bool never = strstr(pages, "[never]") != NULL;
    say(x, never ? LEVEL_WARN : LEVEL_OK, pages,
        never ? "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled" : "");
}

static void check_clock(const struct facts *f, struct finding *x)
{
    const char *clock = value_of(f, "timing", "clock");
    bool wrong = strncmp(clock, "not", 3) == 0;
    say(x, wrong ? LEVEL_NOTE : LEVEL_OK, clock,
        wrong ? "dates of traces may be off (chrony or systemd-timesyncd); offsets between ranks "
                "are measured by each run itself"
              : "");
}

static void check_gpu(const struct facts *f, struct finding *x)
{
    const char *devices = value_of(f, "gpu", "devices"), *usable = value_of(f, "gpu", "usable");
    const char *first = value_of(f, "gpu", "cuda_0"), *built = value_of(f, "gpu", "cuda");
    bool node = access("/dev/nvidia0", F_OK) == 0 || access("/dev/nvhost-gpu", F_OK) == 0 ||
                strncmp(value_of(f, "gpu", "device_0"), "unavailable", 11) != 0;
    if (known(first))
        say(x, LEVEL_OK, first, "");
    else if (node && strstr(built, "without"))
        say(x, LEVEL_WARN, "a GPU is here, and this program is built without CUDA",
            "install the CUDA toolkit and build with CUDA=1");
    else if (node)
        say(x, LEVEL_FAIL, usable,
            "nvidia-smi says whether the driver runs and is new enough; /dev/nvidia* must be open "
            "to you (group video)");
    else
        say(x, LEVEL_OK, known(devices) ? devices : "no GPU", "");
}

static void check_room(const char *path, double least_mib, const char *advice, struct finding *x)
{
    struct statvfs s;
    char text[160], folder[100];
    if (statvfs(path, &s)) {
        snprintf(text, sizeof text, "%s cannot be looked at", path);
        say(x, LEVEL_WARN, text, advice);
        return;
    }
    double mib = (double)s.f_bavail * (double)s.f_frsize / 1048576;
    const char *name = strcmp(path, ".") == 0 && getcwd(folder, sizeof folder) ? folder : path;
    bool closed = access(path, W_OK) != 0;
    snprintf(text, sizeof text, "%.0f MiB free in %.90s%s", mib, name,
             closed ? ", which cannot be written" : "");
    bool bad = closed || mib < least_mib;
    say(x, closed ? LEVEL_FAIL : bad ? LEVEL_WARN : LEVEL_OK, text, bad ? advice : "");
}

static void check_disk(const struct facts *f, struct finding *x)
{
    (void)f;
    check_room(".", 1024, "traces and checkpoints go here: trace.file and run.dir name another", x);
}

static void check_shared_memory(const struct facts *f, struct finding *x)
{
    (void)f;
    check_room("/dev/shm", 16 * comm_get()->local_size,
               "Open MPI's ranks of a host talk through it: docker run --shm-size=1g", x);
}

// Several networks on a host, some of them the same on every board, are what jobs hang on most.
static void check_network(const struct facts *f, struct finding *x)
{
    static const char *const local[] = {"docker", "l4tbr", "virbr", "br-", "veth", "usb", "rndis"};
    struct ifaddrs *all;
    char names[160] = "", better[32] = "";
    bool suspect = false;
    int n = 0;
    (void)f;
    if (getifaddrs(&all)) {
        say(x, LEVEL_NOTE, "interfaces cannot be listed",
            "between hosts: --mca btl_tcp_if_include NAME of the network that all are on");
        return;
    }
    for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || !(i->ifa_flags & IFF_UP) ||
            i->ifa_flags & IFF_LOOPBACK)
            continue;
        bool odd = false;
        for (size_t k = 0; k < ARRAY_LEN(local); k++)
            odd |= strncmp(i->ifa_name, local[k], strlen(local[k])) == 0;
        suspect |= odd;
        if (!odd && !*better)
            snprintf(better, sizeof better, "%s", i->ifa_name);
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", n++ ? ", " : "", i->ifa_name);
    }
    freeifaddrs(all);
    char advice[200] = "";
    if (suspect)
        snprintf(advice, sizeof advice,
                 "between hosts: --mca btl_tcp_if_include %s --mca oob_tcp_if_include %s",
                 *better ? better : "NAME", *better ? better : "NAME");
    say(x, suspect ? LEVEL_WARN : LEVEL_OK, n ? names : "none but the loopback", advice);
}

static void check_files(const struct facts *f, struct finding *x)
{
    struct rlimit limit = {0, 0};
    char text[160];
    (void)f;
    getrlimit(RLIMIT_NOFILE, &limit);
    snprintf(text, sizeof text, "%llu open files at most", (unsigned long long)limit.rlim_cur);
    bool few = limit.rlim_cur < 1024;
    say(x, few ? LEVEL_WARN : LEVEL_OK, text, few ? "ulimit -n 4096" : "");
}

static const struct {
    const char *name;
    void (*check)(const struct facts *f, struct finding *x);
} checks[CHECKS] = {{"mpi", check_launcher},
                    {"cores", check_cores},
                    {"memory", check_memory},
                    {"load", check_load},
                    {"governor", check_governor},
                    {"power mode", check_power_mode},
                    {"huge pages", check_huge_pages},
                    {"clock", check_clock},
                    {"gpu", check_gpu},
                    {"disk", check_disk},
                    {"shared memory", check_shared_memory},
                    {"network", check_network},
                    {"files", check_files}};

static void examine(struct report *r)
{
    const struct comm *comm = comm_get();
    struct facts *f = mem_alloc(MEM_OTHER, sizeof *f);
    memset(r, 0, sizeof *r);
    machine_each(keep_fact, f);
    r->rank = comm->rank;
    r->local_rank = comm->local_rank;
    r->local_size = comm->local_size;
    snprintf(r->host, sizeof r->host, "%.63s", value_of(f, "machine", "host"));
    snprintf(r->version, sizeof r->version, "%s", buildinfo.version);
    snprintf(r->git, sizeof r->git, "%s", buildinfo.git_rev);
    snprintf(r->target, sizeof r->target, "%s", buildinfo.target);
    snprintf(r->mpi, sizeof r->mpi, "%.95s", value_of(f, "libraries", "mpi"));
    for (int i = 0; i < CHECKS; i++)
        checks[i].check(f, &r->finding[i]);
    mem_free(f);
}

// Printing, on rank 0.

enum { COL_HOST, COL_RANK, COL_LEVEL, COL_CHECK, COL_FOUND, COL_ADVICE, COLS };

struct sheet {
    FILE *out;
    bool text; // an advice is a line of its own there, and a host stands above its rows
    struct table table;
    struct jsonw json;
    int count[4]; // findings by level
};

static void print_finding(struct sheet *s, const char *name, const struct report *r,
                          const struct finding *x)
{
    char rank[16];
    snprintf(rank, sizeof rank, "%d", r->rank);
    const char *cells[COLS] = {r->host, rank, level_name[x->level], name, x->found, x->advice};
    s->count[x->level]++;
    if (table_form() == TABLE_JSON) {
        jsonw_object(&s->json);
        jsonw_key_text(&s->json, "host", r->host);
        jsonw_key_int(&s->json, "rank", r->rank);
        jsonw_key_text(&s->json, "level", level_name[x->level]);
        jsonw_key_text(&s->json, "check", name);
        jsonw_key_text(&s->json, "found", x->found);
        jsonw_key_text(&s->json, "advice", x->advice);
        jsonw_end(&s->json);
    } else if (!s->text) {
        table_row(&s->table, cells);
    } else {
        fprintf(s->out, "  %-5s %-14s %s\n", level_name[x->level], name, x->found);
        if (*x->advice)
            fprintf(s->out, "#       %s\n", x->advice);
    }
}

// Of all ranks the first one of each host: the others found the same there.
static void print_host(struct sheet *s, const struct report *r)
{
    if (s->text)
        fprintf(s->out, "#\n# %s: %d rank%s, fstq %s (git %s) for %s\n", r->host, r->local_size,
                r->local_size == 1 ? "" : "s", r->version, r->git, r->target);
    for (int i = 0; i < CHECKS; i++)
        print_finding(s, checks[i].name, r, &r->finding[i]);
}

static void begin(struct sheet *s, int ranks)
{
    *s = (struct sheet){.text = table_form() == TABLE_TEXT,
                        .table = {.n_cols = COLS,
                                  .col = {[COL_HOST] = {.head = "Host"},
                                          [COL_RANK] = {.head = "Rank", .align = TABLE_RIGHT},
                                          [COL_LEVEL] = {.head = "Level"},
                                          [COL_CHECK] = {.head = "Check"},
                                          [COL_FOUND] = {.head = "Found"},
                                          [COL_ADVICE] = {.head = "What to do"}}}};
    s->out = s->table.out = table_stream(stdout);
    fprintf(s->out,
            "# fstq doctor: %d rank%s; ok, note, warn: worth knowing, FAIL: will not work\n", ranks,
            ranks == 1 ? "" : "s");
    if (table_form() == TABLE_JSON) {
        jsonw_begin(&s->json, s->out);
        jsonw_object(&s->json);
        jsonw_key_int(&s->json, "ranks", ranks);
        jsonw_key(&s->json, "findings");
        jsonw_array(&s->json);
    } else if (!s->text) {
        table_head(&s->table);
    }
}

static int conclude(struct sheet *s)
{
    int warnings = s->count[LEVEL_WARN], failures = s->count[LEVEL_FAIL];
    if (table_form() == TABLE_JSON) {
        jsonw_end(&s->json);
        jsonw_key_int(&s->json, "warnings", warnings);
        jsonw_key_int(&s->json, "failures", failures);
        jsonw_end(&s->json);
        fputc('\n', s->out);
    }
    fprintf(s->out, "#\n# %d warning%s\n", warnings, warnings == 1 ? "" : "s");
    if (failures)
        fprintf(s->out, "# INVALID: %d thing%s will not work\n", failures,
                failures == 1 ? "" : "s");
    else
        fputs("# VALID\n", s->out);
    fflush(s->out);
    return failures ? STATUS_CHECK : STATUS_VALID;
}

static int64_t wall_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void compare_text(struct sheet *s, const char *what, const char *here,
                         const struct report *other, const char *there)
{
    struct finding x;
    char text[160];
    if (!strcmp(here, there))
        return;
    snprintf(text, sizeof text, "rank %d on %.40s has %.90s", other->rank, other->host, there);
    say(&x, LEVEL_FAIL, text, "the same on all hosts: rank 0's is above");
    print_finding(s, what, other, &x);
}

// A rank's answer to rank 0's question, and how far its clock is from the middle of the wait.
static void ask(struct sheet *s, const struct report *first, int rank, struct report *r)
{
    struct finding x;
    char word = 1, text[160];
    int64_t there, before = wall_ns();
    comm_raw_send(rank, &word, 1);
    comm_raw_recv(rank, &there, sizeof there);
    int64_t after = wall_ns();
    comm_raw_recv(rank, r, sizeof *r);
    if (r->local_rank == 0)
        print_host(s, r);
    compare_text(s, "version", first->version, r, r->version);
    compare_text(s, "revision", first->git, r, r->git);
    compare_text(s, "mpi", first->mpi, r, r->mpi);
    double off_s = ((double)there - (double)before / 2 - (double)after / 2) * 1e-9;
    if (off_s > 1 || off_s < -1) {
        snprintf(text, sizeof text, "rank %d on %.40s is %+.1f s from rank 0's", rank, r->host,
                 off_s);
        say(&x, LEVEL_WARN, text, "set the clocks: dates of files and logs will not agree");
        print_finding(s, "clock", r, &x);
    }
}

static void answer(const struct report *r)
{
    char word;
    comm_raw_recv(0, &word, 1);
    int64_t now = wall_ns();
    comm_raw_send(0, &now, sizeof now);
    comm_raw_send(0, r, sizeof *r);
}

static int take_arguments(int argc, char **argv)
{
    static const struct option flags[] = {{"output", required_argument, NULL, 'o'}, {0}};
    struct err err;
    argv[0] = (char[]){"fstq doctor"};
    for (int c; (c = getopt_long(argc, argv, "o:", flags, NULL)) != -1;) {
        if (c != 'o')
            return STATUS_USAGE;
        if (table_set_form(optarg, &err)) {
            fprintf(stderr, "fstq doctor: %s\n", err.text);
            return STATUS_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "fstq doctor: %s: it takes options only\n", argv[optind]);
        return STATUS_USAGE;
    }
    return STATUS_VALID;
}

static int doctor_main(int argc, char **argv)
{
    int status = take_arguments(argc, argv);
    if (status != STATUS_VALID)
        return status;
    const struct comm *comm = comm_start(&argc, &argv);
    struct report *own = mem_alloc(MEM_OTHER, 2 * sizeof *own), *other = own + 1;
    examine(own);
    if (comm->rank != 0) {
        answer(own);
    } else {
        struct sheet s;
        begin(&s, comm->size);
        print_host(&s, own);
        for (int r = 1; r < comm->size; r++)
            ask(&s, own, r, other);
        status = conclude(&s);
    }
    mem_free(own);
    comm_exit(status, 1);
}

const struct cmd cmd_doctor = {
    .name = "doctor",
    .usage = "[-o FORM]",
    .help = "what usually goes wrong on a cluster, and what to do about it",
    .details =
        "Looks at MPI, cores, memory, load, clock and governor, power mode, huge pages, GPUs,\n"
        "room on disk and for shared memory, networks and limits of this host; with ranks on\n"
        "several hosts at each of them, and whether builds, MPI and clocks agree. It changes\n"
        "nothing. Its status is 1 where something will not work.\n"
        "  -o, --output FORM   md, csv, json or jsonl: the findings as one table\n\n"
        "  fstq doctor\n"
        "  fstq-run -np 3 -H server:1,nano1:1,nano2:1 doctor\n",
    .run = doctor_main,
};
