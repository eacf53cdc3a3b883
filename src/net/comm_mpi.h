// Process-level MPI, in the one file with mpi.h. Without mpirun everything is one rank.
#ifndef FSTQ_NET_COMM_MPI_H
#define FSTQ_NET_COMM_MPI_H

#include "base/check.h"

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct comm {
    int rank, size;
    int local_rank, local_size; // on this host
    int compute_local;          // ranks on this host that train (all but a server of its own)
    cpu_set_t *local_cpus;      // (local_size) of each of them; NULL without a launcher
    char host[64];
};

// Was this process started by mpirun, srun or another launcher of ranks?
bool comm_launched(void);
// Starts MPI on first call, sets check_identity and the abort hook. Without a launcher there are no
// other ranks and MPI is not started at all.
const struct comm *comm_start(int *argc, char ***argv);
const struct comm *comm_get(void); // {0, 1, ...} before comm_start
// Start-up only: same text on every rank, from rank 0. Used for the config before any round.
void comm_broadcast(void *bytes, size_t n);
void comm_barrier(void); // by naps: nobody spins. Only while every rank is known to live
// Ends the job. Clean: MPI_Finalize; not clean (a peer was lost): flush and _exit, for Finalize may
// hang.
_Noreturn void comm_exit(int status, int clean);
const char *comm_library_version(void);
// One control variable of the library as text; false where it has none of that name.
bool comm_cvar(const char *name, char *out, size_t size);
// Those worth keeping in a trace, as "name=value" lines. Returns the length.
int comm_describe(char *out, size_t size);

// Raw ping-pong for `bench mpi`: the yardstick of frames. Ranks 0 and 1 only.
void comm_raw_send(int to, const void *bytes, size_t n);
void comm_raw_recv(int from, void *bytes, size_t n);
// One message past the transport, as a start of a frame or as a part: for tests of what must not
// hurt it.
void comm_stray(int to, const void *bytes, size_t n, bool part);

#endif
