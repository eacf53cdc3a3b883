// Faults on purpose, for tests: FSTQ_FAULT="KIND:client=C,round=R" where KIND is one of
//   kill   the rank dies by SIGKILL instead of sending the update
//   half   it dies by SIGALRM 0.2 s after it began to send it
//   sent   it dies by SIGKILL once the update has left
//   stop   it stops by SIGSTOP before it sends
//   nan    the update holds a NaN before it is compressed
//   wire   its bytes are damaged, hash and all
//   inf    the packed bytes decode to infinity (dense codecs; the frame is sealed over them)
#ifndef FSTQ_FED_FAULT_H
#define FSTQ_FED_FAULT_H

#include <stdbool.h>
#include <stdint.h>

enum fault {
    FAULT_NONE,
    FAULT_KILL,
    FAULT_STOP,
    FAULT_NAN,
    FAULT_WIRE,
    FAULT_INF,
    FAULT_HALF,
    FAULT_SENT
};

void fault_load(void); // reads the environment once; a malformed value ends the job
enum fault fault_at(uint32_t client, uint32_t round);

#endif
