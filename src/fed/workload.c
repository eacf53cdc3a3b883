#include "fed/workload.h"

#include <string.h>

int workload_open(struct workload *w, const struct workload_env *env, struct err *err)
{
    memset(w, 0, sizeof *w);
    w->env = *env;
    w->row = task_table[env->task->name]->numeric ? &work_quadratic : &work_lm;
    shape_init(&w->shape);
    if (w->row->open(w, err)) {
        workload_close(w);
        return -1;
    }
    shape_seal(&w->shape);
    return workload_prepare(w, false, NULL, 0, err);
}

int workload_prepare(struct workload *w, bool backbone, const struct local_use *rules, int n_rules,
                     struct err *err)
{
    const struct local_setup setup = {
        .shape = &w->shape, .optim = w->env.optim, .seed = w->env.seed};
    int at_once = w->env.worker ? w->row->at_once(w) : 0;
    local_close(&w->rules);
    if (backbone && !w->row->backbone)
        return err_set(err, "this task has no backbone to move");
    if (w->row->backbone && w->row->backbone(w, backbone, err))
        return -1;
    return local_open(&w->rules, &setup, rules, n_rules, at_once, err);
}

void workload_evaluate(struct workload *w, const float *theta, struct eval_result *r)
{
    const float *backbone = w->n_backbone ? theta + w->shape.n_values : NULL;
    w->row->evaluate(w, local_expand(&w->rules, theta), backbone, r);
}

void workload_close(struct workload *w)
{
    if (w->row && w->state)
        w->row->close(w);
    local_close(&w->rules);
    shape_free(&w->shape);
    w->row = NULL;
}
