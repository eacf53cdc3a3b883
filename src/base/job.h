// What scripts/fstq-run and the processes of its job tell each other, through the environment.
#ifndef FSTQ_BASE_JOB_H
#define FSTQ_BASE_JOB_H

#include <stdbool.h>

// Leaves the job's status in $FSTQ_STATUS_FILE, where there is one: mpirun's own is not to be
// trusted. It appears whole, and the first one written stays. For rank 0 as its last act, and for
// whoever gives up.
void job_leave_status(int status);
// Whether progress belongs on stderr: it is a terminal, or the launcher, which passes it on, has
// one
// ($FSTQ_PROGRESS).
bool job_on_terminal(void);

#endif
