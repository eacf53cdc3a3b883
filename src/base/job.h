// What scripts/fstq-run and the processes of its job tell each other, through the environment.
#ifndef FSTQ_BASE_JOB_H
#define FSTQ_BASE_JOB_H

#include <stdio.h>

// Leaves the job's status in $FSTQ_STATUS_FILE, where there is one: mpirun's own is not to be
// trusted. It appears whole, and the first one written stays. For rank 0 as its last act, and for
// whoever gives up.
void job_leave_status(int status);
// Rank 0: all ranks have met. Without this word the launcher gives up on the start.
void job_report_up(void);
// Rank 0: rounds have begun, or it works alone. Until then the launcher ends the job at a signal or
// at the loss of a rank; from here on both are the job's own affair.
void job_report_running(void);
// Where a line of progress belongs: stderr if it is a terminal. The launcher's ranks write to pipes
// of mpirun; it says what stands behind them ($FSTQ_PROGRESS): "stderr", or "stdout" when both are
// the terminal, for two pipes do not keep their order. NULL = nowhere.
FILE *job_progress(void);

#endif
