// Writes rounds of every table and nothing else: the victim of the kill sweeps.
//   trace_writer FILE ROUNDS PROGRESS [resume] [nojournal] [split]
// split: nodes of the chunk index hold 4 chunks instead of 512, so that they split all the time.
// PROGRESS is a file of one int32 that is mapped, so that the count of commits that returned
// outlives us without a system call. Exit status: 0 complete, 3 degraded, 4 could not open.
#include "tests/trace_rows.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct trace_params p = {.journal = true, .events_per_round = 16};
    struct err err = {0};
    bool resume = false;
    if (argc < 4)
        return 2;
    for (int i = 4; i < argc; i++) {
        resume |= strcmp(argv[i], "resume") == 0;
        p.journal &= strcmp(argv[i], "nojournal") != 0;
        if (strcmp(argv[i], "split") == 0)
            trace_h5_btree_k = 2;
    }
    signal(SIGXFSZ, SIG_IGN);
    snprintf(p.file, sizeof p.file, "%s", argv[1]);
    int fd = open(argv[3], O_RDWR);
    if (fd < 0)
        return 2;
    int32_t *done = mmap(NULL, sizeof *done, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (done == MAP_FAILED)
        return 2;
    struct trace_meta meta = test_meta();
    struct trace *t = trace_open(&p, &meta, resume, &err);
    if (!t) {
        fprintf(stderr, "%s\n", err.text);
        return 4;
    }
    for (int32_t v = *done; v < atoi(argv[2]); v++) {
        test_append_round(t, v, trace_attempt(t));
        trace_commit(t, v);
        if (!trace_degraded(t))
            *done = v + 1;
    }
    bool degraded = trace_degraded(t) != NULL;
    trace_close(t, true);
    return degraded ? 3 : 0;
}
