// Whether somebody has asked this process to stop: by SIGTERM, SIGINT, or SIGUSR1, which mpirun
// passes on.
#ifndef FSTQ_BASE_STOP_H
#define FSTQ_BASE_STOP_H

#include <signal.h>
#include <stdbool.h>

void stop_listen(void); // from here on these signals are taken down, and end nothing themselves
bool stop_asked(void);
const volatile sig_atomic_t *stop_flag(void); // the same for a loop that is told where to look

#endif
