// The one clock: monotonic nanoseconds for durations, CPU time for honesty.
#ifndef FSTQ_BASE_CLOCK_H
#define FSTQ_BASE_CLOCK_H

#include <stdint.h>

int64_t clock_ns(void);        // CLOCK_MONOTONIC
int64_t clock_cpu_ns(void);    // CPU time of all threads of this process
int64_t clock_thread_ns(void); // CPU time of this thread
int64_t clock_unix_ns(void);   // CLOCK_REALTIME
void clock_sleep_until(int64_t t_ns);

#endif
