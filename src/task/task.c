#include "task/task.h"

const char *const task_names[] = {"quadratic", NULL};

#define ROW(f, n, d, lo, hi, h) OPT(struct task_params, f, n, d, lo, hi, "", h)
const struct opt task_options[] = {
    OPT_ENUM(struct task_params, name, "task.name", "quadratic", task_names, "what is learned"),
    ROW(quadratic.features, "task.features", "100", 1, 4096, "quadratic: features d of X (d, m)"),
    ROW(quadratic.outputs, "task.outputs", "10", 1, 4096, "quadratic: outputs m of X (d, m)"),
    ROW(quadratic.samples, "task.samples", "50", 1, 1e6, "quadratic: samples of each client"),
    ROW(quadratic.het, "task.het", "0.5", 0, 100,
        "quadratic: how far clients' mean features lie apart (standard deviation)"),
    ROW(quadratic.ridge, "task.ridge", "0.1", 1e-6, 1e6, "quadratic: weight of ||X||^2 / 2"),
    ROW(quadratic.noise, "task.noise", "0.01", 0, 100,
        "quadratic: standard deviation of the noise on B"),
};
const int task_option_count = ARRAY_LEN(task_options);
