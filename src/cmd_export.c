// fstq export: a trace for the tools of others.
#include "base/outfile.h"
#include "cmd.h"
#include "report/export.h"

#include <getopt.h>
#include <stdio.h>

static int write_chrome(const struct trace_file *f, const char *path, struct err *err)
{
    struct outfile out;
    if (outfile_open(&out, path, "[{\"ph\":\"M\",\"name\":\"process_name\"", err) < 0)
        return -1;
    export_chrome(f, out.f);
    return outfile_close(&out, err);
}

// What a trace is made into: a file or a folder, whole or not.
static const struct form {
    const char *flag;
    int (*write)(const struct trace_file *f, const char *path, struct err *err);
    const char *next; // what to do with it
} forms[] = {
    {"chrome", write_chrome, "open it in ui.perfetto.dev or chrome://tracing"},
    {"csv", export_csv, "one .csv per table, units.csv says what the columns are"},
    {"tensorboard", export_tensorboard, "tensorboard --logdir of it shows the curves"},
    {"mlflow", export_mlflow, "metrics.csv and params.csv, a line as MLflow logs it"},
    {"mllog", export_mllog, "lines as MLPerf's logging has them"},
};
enum { N_FORMS = ARRAY_LEN(forms) };

static int parse(const char *path[N_FORMS], int argc, char **argv)
{
    struct option flags[N_FORMS + 1] = {{0}};
    int wanted = 0;
    for (int i = 0; i < N_FORMS; i++)
        flags[i] = (struct option){forms[i].flag, required_argument, NULL, 1 + i};
    argv[0] = (char[]){"fstq export"};
    for (int c; (c = getopt_long(argc, argv, "", flags, NULL)) != -1; wanted++) {
        if (c == '?')
            return -1;
        path[c - 1] = optarg;
    }
    if (optind + 1 == argc && wanted)
        return 0;
    fprintf(stderr, "fstq export: a trace file and what to make of it, please: fstq export "
                    "FILE.h5 --chrome OUT.json\n");
    return -1;
}

static int export_main(int argc, char **argv)
{
    const char *path[N_FORMS] = {NULL};
    struct trace_file f;
    struct err err = {0};
    if (parse(path, argc, argv))
        return STATUS_USAGE;
    int r = trace_read_guarded(argv[optind], &f, &err);
    bool damaged = r == 0 && f.damaged;
    if (damaged)
        fprintf(stderr, "fstq export: %s: %lld parts could not be read and are missing\n",
                argv[optind], (long long)f.damaged);
    for (int i = 0; i < N_FORMS && r == 0; i++)
        if (path[i])
            r = forms[i].write(&f, path[i], &err);
    trace_file_free(&f);
    if (r < 0) {
        fprintf(stderr, "fstq export: %s\n", err.text);
        return STATUS_ENV;
    }
    for (int i = 0; i < N_FORMS; i++)
        if (path[i])
            printf("# %s: %s\n", path[i], forms[i].next);
    return damaged ? STATUS_DEGRADED : STATUS_VALID;
}

const struct cmd cmd_export = {
    .name = "export",
    .usage =
        "FILE.h5 [--chrome OUT.json] [--csv DIR] [--tensorboard DIR] [--mlflow DIR] [--mllog FILE]",
    .help = "a trace for Perfetto, spreadsheets, TensorBoard or MLflow",
    .details =
        "  --chrome OUT.json   a timeline: a process per rank, lanes compute, encode, net, io;\n"
        "                      arrows from a client's upload to the server's decoding; bytes,\n"
        "                      loss and score as counters; modelled transfers apart\n"
        "  --csv DIR           a file per table (RFC 4180), units.csv, config.csv\n"
        "  --tensorboard DIR   an event file per run: score, losses, bytes, times, every "
        "evaluation\n"
        "  --mlflow DIR        the same as metrics.csv (run_id, key, value, timestamp, step), and\n"
        "                      params.csv\n"
        "  --mllog FILE        the same as MLPerf's :::MLLOG lines\n\n"
        "  fstq export quadratic.h5 --chrome round.json\n",
    .alone = true,
    .run = export_main,
};
