// fstq export: a trace for Perfetto and for spreadsheets.
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

static int export_main(int argc, char **argv)
{
    static const struct option flags[] = {
        {"chrome", required_argument, NULL, 'C'}, {"csv", required_argument, NULL, 'V'}, {0}};
    const char *chrome = NULL, *csv = NULL;
    struct trace_file f;
    struct err err = {0};
    argv[0] = (char[]){"fstq export"};
    for (int c; (c = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        if (c == '?')
            return STATUS_USAGE;
        *(c == 'C' ? &chrome : &csv) = optarg;
    }
    if (optind + 1 != argc || (!chrome && !csv)) {
        fprintf(stderr, "fstq export: a trace file and what to make of it, please: fstq export "
                        "FILE.h5 --chrome OUT.json\n");
        return STATUS_USAGE;
    }
    int r = trace_read_guarded(argv[optind], &f, &err);
    if (r == 0 && f.damaged)
        fprintf(stderr, "fstq export: %s: %lld parts could not be read and are missing\n",
                argv[optind], (long long)f.damaged);
    bool damaged = r == 0 && f.damaged;
    if (r == 0 && chrome)
        r = write_chrome(&f, chrome, &err);
    if (r == 0 && csv)
        r = export_csv(&f, csv, &err);
    trace_file_free(&f);
    if (r < 0) {
        fprintf(stderr, "fstq export: %s\n", err.text);
        return STATUS_ENV;
    }
    if (chrome)
        printf("# %s: open it in ui.perfetto.dev or chrome://tracing\n", chrome);
    if (csv)
        printf("# %s: one .csv per table, units.csv says what the columns are\n", csv);
    return damaged ? STATUS_DEGRADED : STATUS_VALID;
}

const struct cmd cmd_export = {
    .name = "export",
    .usage = "FILE.h5 [--chrome OUT.json] [--csv DIR]",
    .help = "a trace for Perfetto (--chrome) or spreadsheets (--csv)",
    .details =
        "  --chrome OUT.json   a timeline: a process per rank, lanes compute, encode, net, io;\n"
        "                      arrows from a client's upload to the server's decoding; bytes,\n"
        "                      loss and score as counters; modelled transfers apart\n"
        "  --csv DIR           a file per table (RFC 4180), units.csv, config.csv\n\n"
        "  fstq export fstq-run/trace.h5 --chrome round.json\n",
    .alone = true,
    .run = export_main,
};
