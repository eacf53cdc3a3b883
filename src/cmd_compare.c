// fstq compare: many methods and seeds, tuned alike, in one table.
#include "base/buildinfo.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "base/table.h"
#include "cmd.h"
#include "compare/compare.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static void write_csv(const struct compare *c, const struct runs *r, FILE *out)
{
    (void)r;
    compare_csv(c, out);
}

static void write_markdown(const struct compare *c, const struct runs *r, FILE *out)
{
    (void)r;
    compare_markdown(c, out);
}

static void write_latex(const struct compare *c, const struct runs *r, FILE *out)
{
    (void)r;
    compare_latex(c, out);
}

// What the table can be written as, and how such a file begins.
static const struct form {
    const char *flag, *begins;
    void (*write)(const struct compare *c, const struct runs *r, FILE *out);
} forms[] = {
    {"csv", "method,seeds,", write_csv},
    {"json", "{\"config\":", compare_json},
    {"markdown", "|method|seeds|", write_markdown}, // -o md
    {"latex", "%fstqcompare;", write_latex},
};
enum { N_FORMS = ARRAY_LEN(forms) };

struct request {
    const char *config, *path[N_FORMS];
    bool no_run, search;
    FILE *out; // for people: stderr where -o has stdout
};

enum { FORM = 256 }; // getopt's value of the first of them

// -o FORM: the files' forms, and tables of rows.
static int take_form(struct request *q, const char *name)
{
    struct err err;
    bool md = strcmp(name, "md") == 0;
    for (int i = 0; i < N_FORMS; i++)
        if (strcmp(md ? "markdown" : name, forms[i].flag) == 0) {
            q->path[i] = "-";
            q->out = stderr;
            return 0;
        }
    if (table_set_form(name, &err) == 0) {
        q->out = table_stream(stdout);
        return 0;
    }
    fprintf(stderr, "fstq compare: %s; or latex\n", err.text);
    return -1;
}

static int parse(struct request *q, int argc, char **argv)
{
    enum { OWN = 3 };
    struct option flags[OWN + N_FORMS + 1] = {{"no-run", no_argument, NULL, 'n'},
                                              {"search", no_argument, NULL, 's'},
                                              {"output", required_argument, NULL, 'o'}};
    for (int i = 0; i < N_FORMS; i++)
        flags[OWN + i] = (struct option){forms[i].flag, required_argument, NULL, FORM + i};
    *q = (struct request){.out = stdout};
    argv[0] = (char[]){"fstq compare"};
    for (int c; (c = getopt_long(argc, argv, "o:", flags, NULL)) != -1;) {
        if (c >= FORM) {
            q->path[c - FORM] = optarg;
            continue;
        }
        switch (c) {
        case 'o':
            if (take_form(q, optarg))
                return -1;
            break;
        case 'n':
            q->no_run = true;
            break;
        case 's':
            q->search = true;
            break;
        default:
            return -1;
        }
    }
    if (optind == argc) {
        fprintf(stderr, "fstq compare: a config with [compare], please: fstq compare CONFIG "
                        "[key=value ...]\n");
        return -1;
    }
    q->config = argv[optind];
    struct err err;
    for (int i = 0; i < N_FORMS; i++)
        if (q->path[i] && outfile_check(q->path[i], forms[i].begins, &err) < 0) {
            fprintf(stderr, "fstq compare: %s\n", err.text);
            return -1;
        }
    return 0;
}

static int write_files(const struct compare *c, const struct runs *r, const struct request *q)
{
    struct outfile out;
    struct err err;
    int bad = 0;
    for (int i = 0; i < N_FORMS; i++) {
        if (!q->path[i])
            continue;
        int failed = outfile_open(&out, q->path[i], forms[i].begins, &err);
        if (!failed) {
            forms[i].write(c, r, out.f);
            failed = outfile_close(&out, &err);
        }
        if (failed)
            fprintf(stderr, "fstq compare: %s\n", err.text);
        bad |= failed;
    }
    return bad;
}

// For fstq report: it lies beside the runs.
static int leave_data(const struct compare *c, const struct runs *r)
{
    char path[sizeof c->p.dir + 16];
    struct outfile out;
    struct err err;
    snprintf(path, sizeof path, "%s/compare.json", c->p.dir);
    if (outfile_open(&out, path, "{\"config\":", &err) == 0) {
        compare_json(c, r, out.f);
        if (outfile_close(&out, &err) == 0)
            return 0;
    }
    fprintf(stderr, "fstq compare: %s\n", err.text);
    return -1;
}

static void print_head(const struct compare *c, const struct request *q)
{
    static const char *const how[] = {[SEARCH_GRID] = "grid",
                                      [SEARCH_COORDINATE] = "one line after the other",
                                      [SEARCH_HALVING] = "by halving"};
    fprintf(q->out, "# fstq compare %s; fstq %s (git %s)\n", q->config, buildinfo.version,
            buildinfo.git_rev);
    fprintf(q->out, "# %d methods x %d seed%s of %d rounds; runs in %s/runs\n", c->n_methods,
            c->n_seeds, c->n_seeds == 1 ? "" : "s", c->cfg.fed.rounds, c->p.dir);
    for (int d = 0; d < c->n_dims; d++) {
        fprintf(q->out, "# searched for every method (%s, seeds %s):", how[c->p.search_mode],
                c->p.search_seeds);
        for (int k = 0; k < c->dim[d].n_keys; k++)
            fprintf(q->out, "%s%s", k ? "," : " ", c->dim[d].key[k]);
        fputc(':', q->out);
        for (int v = 0; v < c->dim[d].n_values; v++)
            for (int k = 0; k < c->dim[d].n_keys; k++)
                fprintf(q->out, "%s%s", k ? "/" : " ", c->dim[d].value[v][k]);
        fputc('\n', q->out);
    }
    fflush(q->out);
}

// Until nothing more can be asked for. -1: it cannot go on.
static int run_all(struct compare *c, struct runs *r)
{
    struct err err = {""};
    do {
        if (compare_advance(c, r, &err)) {
            runs_stop(r);
            while (runs_step(r))
                ;
            fprintf(stderr, "%s\n", err.text);
            return -1;
        }
    } while (runs_step(r));
    return 0;
}

static int conclude(const struct compare *c, struct runs *r, const struct request *q)
{
    int finished, made, failed, missing;
    if (q->search)
        compare_print_search(c, q->out);
    compare_print(c, q->out);
    int bad = write_files(c, r, q);
    if (!q->no_run && leave_data(c, r))
        bad = -1;
    runs_counts(r, &finished, &made, &failed, &missing);
    fprintf(q->out, "#\n# %d runs were there, %d made now, %d failed\n", finished, made, failed);
    if (!q->no_run)
        fprintf(q->out, "# fstq report %s draws it\n", c->p.dir);
    const char *note = runs_note(r);
    if (*note)
        fprintf(q->out, "# %s\n", note);
    if (bad)
        return STATUS_ENV;
    if (runs_interrupted(r)) {
        fputs("# INTERRUPTED: the same command goes on from here\n", q->out);
        return STATUS_INTERRUPTED;
    }
    if (failed || missing) {
        fprintf(q->out, "# DEGRADED:");
        if (failed)
            fprintf(q->out,
                    " %d runs failed; their logs lie in %s/runs, the same command tries again",
                    failed, c->p.dir);
        else
            fprintf(q->out, " at least %d runs are missing", missing);
        fputc('\n', q->out);
        return STATUS_DEGRADED;
    }
    fputs("# VALID\n", q->out);
    return STATUS_VALID;
}

static int compare_main(int argc, char **argv)
{
    struct request q;
    struct err err = {""};
    if (parse(&q, argc, argv))
        return STATUS_USAGE;
    struct compare *c = mem_alloc(MEM_OTHER, sizeof *c);
    if (compare_load(c, q.config, argc - optind - 1, argv + optind + 1))
        return STATUS_USAGE;
    struct runs *r = runs_open(c, !q.no_run, compare_expected_rounds(c), &err);
    if (!r) {
        fprintf(stderr, "fstq compare: %s\n", err.text);
        return STATUS_ENV;
    }
    print_head(c, &q);
    int status = run_all(c, r) ? STATUS_USAGE : conclude(c, r, &q);
    fflush(q.out);
    runs_close(r);
    compare_free(c);
    mem_free(c);
    return status;
}

static void print_keys(FILE *out, int n, char **args)
{
    (void)n, (void)args;
    fputs("\nThe other keys of [compare], also as compare.KEY=VALUE:\n", out);
    opt_list(out, "", compare_options, compare_option_count);
    fputc('\n', out);
}

const struct cmd cmd_compare = {
    .name = "compare",
    .usage = "CONFIG [section.key=value ...] [-o FORM] [--csv|--json|--markdown|--latex FILE]",
    .help = "many methods x seeds, tuned alike, compared in one table",
    .details =
        "CONFIG is the config of a run with a section [compare]:\n\n"
        "  method = NAME | METHOD [| section.key=value ...] [| BUDGET]     one line per method\n"
        "  search = section.key: VALUE ...; section.key: VALUE ...        for every method alike\n"
        "  base, seeds, search_seeds, targets, dir, jobs, ...               below\n\n"
        "A BUDGET searches the parameter in braces until a message takes that many bytes, never\n"
        "more: bytes=N, bits=B (per value), fraction=F (of dense fp16) or same=NAME, as in\n"
        "  method = topk | fedavg/topk:ratio={0.001..0.5} | same=sign\n"
        "Options that move together: 'fed.server_lr,fed.server_lr_end: 1/0.3 2/0.7'.\n\n"
        "Every run is a process of its own (transport sim, one thread) and its trace is kept\n"
        "under the hash of its options: started again, after a kill or with methods or seeds\n"
        "added, it makes only the runs that are missing. Ctrl-C keeps finished runs. Methods run "
        "in\n"
        "the order of their lines, the base first, so put what matters most at the top. DIR/log "
        "says\n"
        "what has run and how long the rest will take.\n\n"
        "  --csv, --json, --markdown, --latex FILE   the table; JSON has every curve too\n"
        "  -o, --output FORM   md, csv, json, latex: as --FORM -, all else to stderr; jsonl\n"
        "  --search     also print what the search tried\n"
        "  --no-run     show only what is there already, also while another process is running "
        "it\n\n"
        "  fstq compare configs/compare-quick.ini --json quick.json\n"
        "  fstq compare configs/compare-quick.ini compare.seeds=\"1 2 3\" compare.jobs=4\n"
        "  fstq report runs/compare-quick\n",
    .more = print_keys,
    .alone = true,
    .run = compare_main,
};
