// What this machine and this build are, as (group, name, value) rows: for `fstq info` and a trace's
// /meta. What cannot be known is "unavailable: why", never left out.
#ifndef FSTQ_MACHINE_H
#define FSTQ_MACHINE_H

typedef void machine_fn(void *arg, const char *group, const char *name, const char *value);
void machine_each(machine_fn *fn, void *arg);

#endif
