// Tasks: what is learned and how it is scored. Tasks see data only, never a model.
#ifndef FSTQ_TASK_TASK_H
#define FSTQ_TASK_TASK_H

#include "base/check.h"
#include "base/opt.h"
#include "task/quadratic.h"

#include <stdint.h>

struct task_params { // [task]
    int32_t name;    // index into task_names
    struct quadratic_params quadratic;
};

extern const struct opt task_options[];
extern const int task_option_count;
extern const char *const task_names[]; // NULL-terminated

#endif
