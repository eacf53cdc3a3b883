// fstq show: what is in a trace.
#include "base/check.h"
#include "base/table.h"
#include "cmd.h"
#include "report/report.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum section {
    SHOW_RUNS = 1,
    SHOW_SUMMARY = 2,
    SHOW_ROUNDS = 4,
    SHOW_STAGES = 8,
    SHOW_BYTES = 16,
    SHOW_CLIENTS = 32,
    SHOW_META = 64,
    SHOW_WIDTHS = 128,
    SHOW_SENSORS = 256,
    SHOW_ENERGY = 512,
    SHOW_ALL = 1023,
};

struct request {
    unsigned sections; // 0 = all but meta, long tables condensed
    bool recover;
    FILE *out; // as -o wants it
    long run;  // -1 = every one
    const char *path;
};

static int parse(struct request *q, int argc, char **argv)
{
    static const struct option flags[] = {{"recover", no_argument, NULL, 'R'},
                                          {"json", no_argument, NULL, 'J'},
                                          {"output", required_argument, NULL, 'o'},
                                          {"run", required_argument, NULL, 'r'},
                                          {"runs", no_argument, NULL, SHOW_RUNS},
                                          {"summary", no_argument, NULL, SHOW_SUMMARY},
                                          {"rounds", no_argument, NULL, SHOW_ROUNDS},
                                          {"stages", no_argument, NULL, SHOW_STAGES},
                                          {"bytes", no_argument, NULL, SHOW_BYTES},
                                          {"clients", no_argument, NULL, SHOW_CLIENTS},
                                          {"widths", no_argument, NULL, SHOW_WIDTHS},
                                          {"sensors", no_argument, NULL, SHOW_SENSORS},
                                          {"energy", no_argument, NULL, SHOW_ENERGY},
                                          {"meta", no_argument, NULL, 'M'},
                                          {"all", no_argument, NULL, 'A'},
                                          {0}};
    *q = (struct request){.run = -1};
    struct err err;
    argv[0] = (char[]){"fstq show"};
    for (int c; (c = getopt_long(argc, argv, "o:", flags, NULL)) != -1;) {
        char *end;
        switch (c) {
        case 'R':
            q->recover = true;
            break;
        case 'J':
            table_set_form(table_forms[TABLE_JSON], NULL);
            break;
        case 'o':
            if (table_set_form(optarg, &err) < 0) {
                fprintf(stderr, "fstq show: %s\n", err.text);
                return -1;
            }
            break;
        case 'A':
            q->sections = SHOW_ALL;
            break;
        case 'M':
            q->sections |= SHOW_META;
            break;
        case 'r':
            q->run = strtol(optarg, &end, 10);
            if (end == optarg || *end || q->run < 0 || q->run > INT32_MAX) {
                fprintf(stderr, "fstq show: --run %s: it is a number from 0 on\n", optarg);
                return -1;
            }
            break;
        case '?':
            return -1;
        default:
            q->sections |= (unsigned)c;
        }
    }
    if (optind + 1 != argc) {
        fprintf(stderr, "fstq show: one trace file, please: fstq show FILE.h5\n");
        return -1;
    }
    q->path = argv[optind];
    q->out = table_stream(stdout);
    return 0;
}

static void print_run(const struct trace_file *f, int32_t run, const struct request *q)
{
    unsigned sections = q->sections;
    bool all = sections != 0;
    size_t most = all ? 0 : REPORT_CONDENSED;
    const char *method = report_method(f, run);
    if (report_run_count(f) > 1 || method[0])
        fprintf(q->out, "#\n# run %d: %s\n", run, method);
    const struct {
        const char *name;
        enum section section;
        void (*plain)(FILE *, const struct trace_file *, int32_t);
        void (*listed)(FILE *, const struct trace_file *, int32_t, size_t);
    } parts[] = {{"summary", SHOW_SUMMARY, report_summary, NULL},
                 {"rounds", SHOW_ROUNDS, NULL, report_rounds},
                 {"stages", SHOW_STAGES, report_stages, NULL},
                 {"bytes", SHOW_BYTES, report_bytes, NULL},
                 {"widths", SHOW_WIDTHS, NULL, report_widths},
                 {"sensors", SHOW_SENSORS, report_sensors, NULL},
                 {"energy", SHOW_ENERGY, report_energy, NULL},
                 {"clients", SHOW_CLIENTS, NULL, report_clients}};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if (all && !(sections & parts[i].section))
            continue;
        fprintf(q->out, "#\n");
        table_title(parts[i].name);
        if (parts[i].plain)
            parts[i].plain(q->out, f, run);
        else
            parts[i].listed(q->out, f, run, most);
    }
}

static int print(const struct trace_file *f, const struct request *q)
{
    size_t runs = report_run_count(f);
    bool found = q->run < 0;
    for (size_t i = 0; i < runs; i++)
        found |= report_run_id(f, i) == q->run;
    if (!found) {
        fprintf(stderr, "fstq show: %s: no run %ld in it; --runs lists them\n", q->path, q->run);
        return STATUS_USAGE;
    }
    if (table_form() == TABLE_JSON) {
        report_json(stdout, f, q->path, q->run);
        return f->damaged ? STATUS_DEGRADED : STATUS_VALID;
    }
    report_head(q->out, f, q->path);
    table_title("runs");
    if (runs > 1 || q->sections & SHOW_RUNS)
        report_runs(q->out, f);
    // A comparison holds dozens of runs: then the list is what was asked for.
    bool each = q->run >= 0 || runs == 1 || (q->sections & ~(unsigned)(SHOW_RUNS | SHOW_META));
    for (size_t i = 0; i < runs && each && q->sections != SHOW_RUNS; i++)
        if (q->run < 0 || report_run_id(f, i) == q->run)
            print_run(f, report_run_id(f, i), q);
    table_title("ranks");
    if (q->sections & SHOW_META)
        report_meta(q->out, f);
    return report_verdict(q->out, f);
}

static int show_main(int argc, char **argv)
{
    struct request q;
    struct trace_file f;
    struct err err = {0};
    if (parse(&q, argc, argv) < 0)
        return STATUS_USAGE;
    if (q.recover) {
        char journal[4096];
        snprintf(journal, sizeof journal, "%s.journal", q.path);
        if (trace_recover(journal, q.path, &err) < 0) {
            fprintf(stderr, "fstq show: %s\n", err.text);
            return STATUS_ENV;
        }
        fprintf(q.out, "# rebuilt from %s\n", journal);
    }
    if (trace_read_guarded(q.path, &f, &err) < 0) {
        fprintf(stderr, "fstq show: %s\n", err.text);
        return STATUS_ENV;
    }
    int status = print(&f, &q);
    fflush(q.out);
    trace_file_free(&f);
    return status;
}

const struct cmd cmd_show = {
    .name = "show",
    .usage = "FILE.h5 [--SECTION ...] [--run N] [-o FORM] [--recover]",
    .help = "what is in a trace: summary, rounds, stages, bytes, widths, clients",
    .details =
        "  --summary --rounds --stages --bytes --widths --sensors --energy --clients --runs\n"
        "  --meta\n"
        "               only these sections, whole; without any, all but meta, condensed\n"
        "  --all        every section, whole\n"
        "  --run N      only this run of a file that holds several\n"
        "  -o, --output FORM   md, csv, jsonl: the tables so; json, --json: one object with all\n"
        "               there is, numbers whole\n"
        "  --recover    first rebuild FILE.h5 from FILE.h5.journal. The journal is kept until a "
        "run\n"
        "               has closed its trace complete and synced, so it is there exactly when it\n"
        "               may be needed; a damaged FILE.h5 is kept under another name\n\n"
        "  fstq show quadratic.h5\n"
        "  fstq show quadratic.h5 --rounds --clients\n",
    .alone = true,
    .run = show_main,
};
