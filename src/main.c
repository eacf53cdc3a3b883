#include "base/buildinfo.h"
#include "base/check.h"
#include "base/job.h"
#include "base/opt.h"
#include "base/pool.h"
#include "cmd.h"
#include "config.h"
#include "kernels/simd.h"
#include "manual.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct cmd *const commands[] = {&cmd_run,    &cmd_compare, &cmd_show,     &cmd_export,
                                             &cmd_report, &cmd_score,   &cmd_pretrain, &cmd_infer,
                                             &cmd_bench,  &cmd_list,    &cmd_info,     &cmd_doctor};

static const char statuses[] =
    "Exit status: 0 valid, 1 a check failed, 2 bad usage or config, 3 degraded (clients or trace\n"
    "lost), 4 environment (MPI, memory, a missing file), 143 interrupted and resumable.\n";

static void print_overview(FILE *out)
{
    fputs("fstq: federated fine-tuning under communication limits, with real bytes, honest time\n"
          "and runs that repeat.\n\n"
          "usage: fstq COMMAND [ARGS]          one process\n"
          "       fstq-run -np N COMMAND [ARGS]  the same on N MPI ranks, rank 0 is the server\n\n",
          out);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(out, "  %-8s %s\n", commands[i]->name, commands[i]->help);
    fputs(
        "  help     COMMAND: its arguments, and examples; --man --man5 --bash --zsh: the manual,\n"
        "           the parameters as a manual page, completion for a shell\n\n",
        out);
    fputs(statuses, out);
    fputs("\n  fstq run configs/quadratic.ini                  a first run, server and clients in "
          "one\n"
          "  fstq-run -np 3 run configs/quadratic.ini        the same with real messages\n"
          "  fstq run configs/quadratic.ini fed.rounds=5     any parameter by its name\n"
          "  fstq list options                               all of them\n",
          out);
}

static int print_help(const struct cmd *cmd, int n, char **args)
{
    printf("usage: fstq %s%s%s\n\n%s\n\n%s\n", cmd->name, *cmd->usage ? " " : "", cmd->usage,
           cmd->help, cmd->details);
    if (cmd->more)
        cmd->more(stdout, n, args);
    fputs(statuses, stdout);
    return STATUS_VALID;
}

static int print_version(void)
{
    printf("fstq %s (git %s)\n", buildinfo.version, buildinfo.git_rev);
    printf("%s build for %s by %s\n", buildinfo.kind, buildinfo.target, buildinfo.compiler);
    printf("flags %s; CUDA %s\n", buildinfo.cflags, buildinfo.cuda);
    return STATUS_VALID;
}

static const struct cmd *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (!strcmp(commands[i]->name, name))
            return commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    struct opt_guess guess = {.text = name};
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        opt_guess(&guess, commands[i]->name);
    if (!config_is_mouthpiece())
        return STATUS_USAGE;
    fprintf(stderr, "fstq: %s: no such command", name);
    if (guess.name)
        fprintf(stderr, "; did you mean %s?\n", guess.name);
    else
        fputs("; fstq --help names them\n", stderr);
    return STATUS_USAGE;
}

static int unknown_flag(const struct cmd *cmd, int argc, char **argv)
{
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++) {
        const char *meant = manual_nearest_flag(cmd, argv[i]);
        if (!meant)
            continue;
        if (config_is_mouthpiece())
            fprintf(stderr, "fstq %s: %s: no such option; did you mean %s?\n", cmd->name, argv[i],
                    meant);
        return STATUS_USAGE;
    }
    return STATUS_VALID;
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        print_overview(stderr);
        return STATUS_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--version") || !strcmp(name, "-V"))
        return print_version();
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        if (argc < 3) {
            print_overview(stdout);
            return STATUS_VALID;
        }
        const struct manual manual = {commands, ARRAY_LEN(commands), statuses};
        if (manual_print(argv[2], &manual, stdout))
            return STATUS_VALID;
        const struct cmd *cmd = find_command(argv[2]);
        return cmd ? print_help(cmd, argc - 3, argv + 3) : unknown_command(argv[2]);
    }
    const struct cmd *cmd = find_command(name);
    if (!cmd)
        return unknown_command(name);
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return print_help(cmd, argc - 2, argv + 2);
    if (unknown_flag(cmd, argc, argv) != STATUS_VALID)
        return STATUS_USAGE;
    if (cmd->alone && !config_is_mouthpiece())
        return STATUS_VALID;
    if (cmd->alone)
        job_report_running();
    int status = cmd->run(argc - 1, argv + 1);
    pool_close();
    return status;
}

// A file opened by the program must not become its stdout or stderr because the shell closed that.
static void fill_descriptors(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDONLY) < 0)
            _exit(STATUS_ENV);
}

// Nobody reads any more, as after "| head": that is no error.
static bool reader_gone(void)
{
    struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLERR);
}

// However the process ends, what a full disk swallowed of its output is an error, and the launcher
// hears of the status.
static void at_exit(int status, void *arg)
{
    (void)arg;
    bool lost = fflush(stdout) != 0 || ferror(stdout);
    if (lost && status == STATUS_VALID && !reader_gone()) {
        status = STATUS_ENV;
        fputs("fstq: stdout could not be written; what it should have said is not whole\n", stderr);
    }
    if (config_is_mouthpiece())
        job_leave_status(status);
    if (lost)
        _exit(status);
}

int main(int argc, char **argv)
{
    fill_descriptors();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); // past a limit on file sizes a write fails, and says so
    on_exit(at_exit, NULL);
    if (!simd_named())
        die(STATUS_USAGE, "FSTQ_SIMD=%s: instruction sets are named %s, avx2 and avx512",
            getenv("FSTQ_SIMD"), simd_isa_name[SIMD_BASE]);
    return dispatch(argc, argv);
}
