#include "base/buildinfo.h"
#include "base/check.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "bench/bench.h"
#include "net/comm_mpi.h"
#include "src/cmd.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

const struct bench *const bench_table[] = {
    &bench_memcpy, &bench_mpi,    &bench_xfer,  &bench_link,    &bench_trace,
    &bench_gemm,   &bench_ops,    &bench_step,  &bench_fisher,  &bench_tokens,
    &bench_infer,  &bench_codec,  &bench_drift, &bench_factors, &bench_pack,
    &bench_rans,   &bench_select, &bench_side,  &bench_leak,    NULL};

struct request {
    double min_time_s;
    long samples;
    const char *json_path, *dev;
    bool list, wide, all;
    const struct bench *chosen[32];
    int n_chosen;
    struct {
        const struct bench *bench;
        const char *arg;
    } set[64]; // parameters that are given
    int n_set;
};

static const struct bench *find(const char *name, size_t len)
{
    for (const struct bench *const *b = bench_table; *b; b++)
        if (strlen((*b)->name) == len && strncmp((*b)->name, name, len) == 0)
            return *b;
    return NULL;
}

static void put_name(FILE *out, const char *indent, const struct bench *b)
{
    fprintf(out, "%s%-8s %s%s\n", indent, b->name, b->help, b->ranks > 1 ? " (two ranks)" : "");
}

static void put_bench(FILE *out, const struct bench *b)
{
    put_name(out, "", b);
    opt_list(out, "", b->opts, b->n_opts);
}

static void list_bench(struct listing *l, const struct bench *b)
{
    listing_entry(l, b->name, b->help, b->ranks > 1 ? "two ranks" : "");
    listing_settings(l, "", b->opts, b->n_opts);
}

void cmd_bench_list(struct listing *l)
{
    listing_part(l, "bench", "what it measures; below it its parameters");
    for (const struct bench *const *b = bench_table; *b; b++)
        list_bench(l, *b);
}

// What --help has behind the options: those that are named with their parameters, else all names.
static void put_benches(FILE *out, int n, char **args)
{
    bool any = false;
    for (int i = 0; i < n; i++) {
        const struct bench *b = find(args[i], strlen(args[i]));
        if (b)
            put_bench(out, b);
        any |= b != NULL;
    }
    if (!any)
        fputs("\nBenchmarks; fstq bench NAME --help has the parameters of one:\n", out);
    for (const struct bench *const *b = bench_table; *b && !any; b++)
        put_name(out, "  ", *b);
    fputs("\n", out);
}

static int unknown(const char *arg, const char *name, struct err *err)
{
    struct opt_guess guess = {.text = name};
    opt_guess(&guess, "all");
    for (const struct bench *const *b = bench_table; *b; b++)
        opt_guess(&guess, (*b)->name);
    return err_set(err, "%s: there is no benchmark of that name%s%s%s", arg,
                   guess.name ? "; did you mean " : "; see fstq bench --help",
                   guess.name ? guess.name : "", guess.name ? "?" : "");
}

static int choose(struct request *q, const char *name, struct err *err)
{
    if (strcmp(name, "all") == 0) {
        q->all = true;
        return 0;
    }
    const struct bench *b = find(name, strlen(name));
    if (!b)
        return unknown(name, name, err);
    if (q->n_chosen == (int)ARRAY_LEN(q->chosen))
        return err_set(err, "%s: more than %zu benchmarks at once", name, ARRAY_LEN(q->chosen));
    q->chosen[q->n_chosen++] = b;
    return 0;
}

// "memcpy.max_bytes=4096"
static int set_option(struct request *q, const char *arg, struct err *err)
{
    char key[80];
    const char *equals = strchr(arg, '='), *dot = strchr(arg, '.');
    size_t len = (size_t)(equals - arg);
    if (!dot || dot > equals || len >= sizeof key)
        return err_set(err, "%s: a parameter is written NAME.KEY=VALUE; see fstq bench --list",
                       arg);
    memcpy(key, arg, len);
    key[len] = '\0';
    const struct bench *b = find(arg, (size_t)(dot - arg));
    if (!b) {
        key[dot - arg] = '\0';
        return unknown(arg, key, err);
    }
    if (q->n_set == (int)ARRAY_LEN(q->set))
        return err_set(err, "%s: more than %zu parameters at once", arg, ARRAY_LEN(q->set));
    q->set[q->n_set].bench = b;
    q->set[q->n_set++].arg = arg;
    const struct opt *row = opt_find(b->opts, b->n_opts, key);
    if (!row) {
        const char *near = opt_nearest(b->opts, b->n_opts, key);
        return err_set(err, "%s: %s has no such parameter%s%s%s", arg, b->name,
                       near ? "; did you mean " : "; see fstq bench --help and its name",
                       near ? near : "", near ? "?" : "");
    }
    return opt_set(row, b->params, equals + 1, err);
}

static int set_number(const char *name, const char *text, double min, double max, double *v,
                      struct err *err)
{
    char *end;
    *v = strtod(text, &end);
    if (end == text || *end || !(*v >= min && *v <= max))
        return err_set(err, "%s %s: it is a number from %g to %g", name, text, min, max);
    return 0;
}

// A parameter does not say what to run, and what does not run takes none.
static int check_set(const struct request *q, struct err *err)
{
    char names[256] = "";
    for (int i = 0; i < q->n_set; i++) {
        const struct bench *b = q->set[i].bench;
        int k = 0;
        while (k < q->n_chosen && q->chosen[k] != b)
            k++;
        if (k < q->n_chosen)
            continue;
        if (q->n_chosen)
            return err_set(err,
                           "%s: %s is not among the benchmarks to run; name it, too, or leave "
                           "this out",
                           q->set[i].arg, b->name);
        for (k = 0; bench_table[k]; k++)
            snprintf(names + strlen(names), sizeof names - strlen(names), "%s, ",
                     bench_table[k]->name);
        return err_set(err, "which benchmark? Say fstq bench %s %s; there are %sand all", b->name,
                       q->set[i].arg, names);
    }
    return 0;
}

// What --dev says, to those of the chosen that have a device; named alone, one without is a
// mistake.
static int take_dev(const struct request *q, bool named, struct err *err)
{
    char key[80];
    for (int i = 0; q->dev && i < q->n_chosen; i++) {
        const struct bench *b = q->chosen[i];
        snprintf(key, sizeof key, "%s.dev", b->name);
        const struct opt *row = opt_find(b->opts, b->n_opts, key);
        if (!row && named)
            return err_set(err, "--dev %s: %s runs on the CPU alone; leave it out", q->dev,
                           b->name);
        if (row && opt_set(row, b->params, q->dev, err))
            return -1;
    }
    return 0;
}

// Those that are named, or all; where nothing is named all run as they are.
static int settle(struct request *q, struct err *err)
{
    const bool named = q->n_chosen > 0 && !q->all;
    if (q->all || (!named && !q->n_set)) {
        q->n_chosen = 0;
        for (const struct bench *const *b = bench_table; *b; b++)
            q->chosen[q->n_chosen++] = *b;
    }
    return check_set(q, err) ? -1 : take_dev(q, named, err);
}

static int parse(struct request *q, int argc, char **argv, bool speak)
{
    static const struct option longs[] = {
        {"list", no_argument, NULL, 'l'},           {"json", required_argument, NULL, 'j'},
        {"min-time", required_argument, NULL, 't'}, {"samples", required_argument, NULL, 's'},
        {"dev", required_argument, NULL, 'd'},      {"output", required_argument, NULL, 'o'},
        {"wide", no_argument, NULL, 'w'},           {NULL, 0, NULL, 0},
    };
    int mistakes = 0;
    struct err err;
    double v = 0;
    optind = 0;
    opterr = speak;
    for (int c; (c = getopt_long(argc, argv, "o:", longs, NULL)) != -1;) {
        int bad = 0;
        if (c == 'l')
            q->list = true;
        else if (c == 'j')
            q->json_path = optarg;
        else if (c == 'd')
            q->dev = optarg;
        else if (c == 'w')
            q->wide = true;
        else if (c == 'o')
            bad = table_set_form(optarg, &err);
        else if (c == 't')
            bad = set_number("--min-time", optarg, 1e-6, 100, &q->min_time_s, &err);
        else if (c == 's' &&
                 (bad = set_number("--samples", optarg, 1, BENCH_SAMPLES_MAX, &v, &err)) == 0)
            q->samples = (long)v;
        else if (c == '?')
            mistakes++;
        if (bad && ++mistakes && speak)
            fprintf(stderr, "fstq bench: %s\n", err.text);
    }
    for (; optind < argc; optind++) {
        int bad = strchr(argv[optind], '=') ? set_option(q, argv[optind], &err)
                                            : choose(q, argv[optind], &err);
        if (bad && ++mistakes && speak)
            fprintf(stderr, "fstq bench: %s\n", err.text);
    }
    if (table_form() == TABLE_JSON && !q->json_path)
        q->json_path = "-";
    if (!mistakes && settle(q, &err) && ++mistakes && speak)
        fprintf(stderr, "fstq bench: %s\n", err.text);
    return mistakes;
}

static void head(const struct bench_ctx *c)
{
    double load = -1;
    getloadavg(&load, 1);
    fprintf(c->out, "# fstq bench %s (%s, %s, %s)\n", buildinfo.version, buildinfo.git_rev,
            buildinfo.kind, buildinfo.compiler);
    fprintf(c->out, "# %d rank%s, host %s, load %.1f; medians of %d samples of at least %g s\n",
            c->size, c->size == 1 ? "" : "s", comm_get()->host, load, c->samples, c->min_time_s);
}

static void say_noise(const struct bench_ctx *c)
{
    const struct noise_tally *n = &c->noise;
    fprintf(c->out, "# noisy: %d of %d samples", n->noisy, n->samples);
    for (int k = 0, some = 0; k < NOISE_KINDS; k++)
        if (n->of[k])
            fprintf(c->out, "%s %d %s", some++ ? "," : ":", n->of[k], noise_words[k]);
    fputs("\n", c->out);
}

static void run_all(struct request *q, struct bench_ctx *c)
{
    for (int i = 0; i < q->n_chosen; i++) {
        const struct bench *b = q->chosen[i];
        bool wanted = b->ranks > 1 || c->rank == 0;
        if (c->rank == 0)
            fprintf(c->out, "#\n# %s: %s\n", b->name, b->help);
        if (b->ranks > c->size) {
            fprintf(c->out, "# skipped: needs %d ranks: mpirun -np %d fstq bench %s\n", b->ranks,
                    b->ranks, b->name);
            continue;
        }
        c->name = b->name;
        c->noise = (struct noise_tally){0};
        bench_size(c, 0, NULL);
        bench_leave_out(c, 0);
        if (wanted)
            b->run(c);
        if (c->noise.noisy)
            say_noise(c);
        if (b->ranks > 1)
            comm_barrier(); // a rank that still closes would take the next one's first order
    }
}

static void put_list(const struct request *q)
{
    struct listing l;
    listing_begin(&l, stdout);
    listing_of(&l, "benches", NULL);
    for (int i = 0; i < q->n_chosen; i++)
        list_bench(&l, q->chosen[i]);
    listing_end(&l);
}

static int run(int argc, char **argv)
{
    const struct comm *comm = comm_start(&argc, &argv);
    bool first = comm->rank == 0;
    for (const struct bench *const *b = bench_table; *b; b++)
        opt_defaults((*b)->opts, (*b)->n_opts, (*b)->params);
    struct request q = {.min_time_s = 0.02, .samples = 11};
    int status = STATUS_VALID;
    FILE *file = NULL;
    struct outfile json_file;
    struct err err;
    struct jsonw json;
    if (parse(&q, argc, argv, first) > 0) {
        status = STATUS_USAGE;
    } else if (q.list) {
        if (first)
            put_list(&q);
    } else {
        if (first && q.json_path) {
            if (outfile_open(&json_file, q.json_path, "{\"context\":{\"date\":", &err) < 0)
                die(STATUS_ENV, "%s", err.text);
            file = json_file.f;
        }
        if (file)
            bench_json_begin(&json, file, argc, argv);
        struct bench_ctx c = {.min_time_s = q.min_time_s,
                              .samples = (int)q.samples,
                              .rank = comm->rank,
                              .size = comm->size,
                              .out = table_stream(stdout),
                              .json = file ? &json : NULL,
                              .wide = q.wide || table_form() != TABLE_TEXT};
        if (first)
            head(&c);
        run_all(&q, &c);
        if (file)
            bench_json_end(&json);
        if (file && outfile_close(&json_file, &err) < 0)
            die(STATUS_ENV, "%s", err.text);
        if (first && c.failures)
            fprintf(c.out, "# %d check%s failed\n", c.failures, c.failures == 1 ? "" : "s");
        fflush(c.out);
        status = c.failures ? STATUS_CHECK : STATUS_VALID;
    }
    comm_exit(status, 1);
}

static void put_words(FILE *out)
{
    for (const struct bench *const *b = bench_table; *b; b++) {
        fprintf(out, "%s%s", b == bench_table ? "" : " ", (*b)->name);
        for (int i = 0; i < (*b)->n_opts; i++)
            fprintf(out, " %s=", (*b)->opts[i].name);
    }
}

const struct cmd cmd_bench = {
    .name = "bench",
    .usage = "[NAME ...] [options] [NAME.KEY=VALUE ...]",
    .help = "microbenchmarks in isolation: codecs, kernels, packing, messages, traces",
    .details =
        "Runs those that are named; all, or no NAME and no parameter: every one that can run\n"
        "here.\n\n"
        "  --list          these with their parameters, instead of running them\n"
        "  -o, --output FORM   md, csv, jsonl: the tables so; json: as --json -\n"
        "  --wide          columns that a screen of 120 has no room for; -o has them, too\n"
        "  --json FILE     every sample, in Google Benchmark's JSON schema\n"
        "  --min-time S    shortest sample in seconds (0.02)\n"
        "  --samples N     samples of every row (11)\n"
        "  --dev NAME      device of those that have one, as dev.kind names it (cpu)\n\n"
        "  fstq bench memcpy memcpy.max_bytes=1048576\n"
        "  fstq bench codec codec.methods='sign int4' --samples 3 -o md\n"
        "  fstq-run -np 2 bench mpi xfer link         those between two ranks\n",
    .more = put_benches,
    .words = put_words,
    .run = run,
};
