// Subcommands: one per file, main.c holds the table.
#ifndef FSTQ_CMD_H
#define FSTQ_CMD_H

#include "base/listing.h"

#include <stdbool.h>
#include <stdio.h>

struct cmd {
    const char *name, *usage, *help; // usage: what follows "fstq NAME"; help: one line
    const char *details;             // for --help: options, examples
    // What follows them there, said for the command's arguments in the manual and without any: n =
    // 0.
    void (*more)(FILE *out, int n, char **args); // NULL = nothing
    void (*words)(FILE *out);          // what its arguments are, for completion; NULL = parameters
    bool alone;                        // rank 0 does it; under mpirun the others have nothing to do
    int (*run)(int argc, char **argv); // argv[0] is the subcommand; returns enum status
};

extern const struct cmd cmd_run, cmd_compare, cmd_show, cmd_export, cmd_report, cmd_score,
    cmd_pretrain, cmd_infer, cmd_bench, cmd_list, cmd_info, cmd_doctor;

void cmd_bench_list(struct listing *l); // microbenchmarks, beside the other lists

#endif
