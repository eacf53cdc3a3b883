#include "fed/local.h"

#include "base/mem.h"

#include <assert.h>
#include <string.h>

static int open_rule(struct local_chain *c, int k, struct err *err)
{
    const struct local_rule *r = c->use[k].rule;
    size_t each = r->size_bytes ? r->size_bytes(&c->setup) : 0;
    for (int i = 0; i < c->at_once; i++)
        c->client[i * c->n + k] =
            (struct local){.setup = &c->setup,
                           .opt = c->use[k].opt,
                           .memory = each ? mem_alloc(MEM_OPTIMIZER, each) : NULL};
    if (r->open && r->open(&c->setup, c->use[k].opt, &c->shared[k], err))
        return -1;
    for (int i = 0; i < c->at_once; i++)
        c->client[i * c->n + k].shared = c->shared[k];
    if (r->expand && !c->expanded) {
        c->expanded = mem_alloc(MEM_ADAPTER, c->setup.shape->n_values * sizeof *c->expanded);
        c->between = mem_alloc(MEM_ADAPTER, c->setup.shape->n_values * sizeof *c->between);
    }
    return 0;
}

int local_open(struct local_chain *c, const struct local_setup *s, const struct local_use *use,
               int n, int at_once, struct err *err)
{
    assert(n <= LOCAL_RULES);
    *c = (struct local_chain){.setup = *s, .n = n, .at_once = at_once};
    c->client =
        n && at_once ? mem_alloc(MEM_OTHER, (size_t)(n * at_once) * sizeof *c->client) : NULL;
    for (int k = 0; k < n; k++)
        c->use[k] = use[k];
    for (int k = 0; k < n; k++)
        if (open_rule(c, k, err)) {
            local_close(c);
            return -1;
        }
    return 0;
}

void local_close(struct local_chain *c)
{
    for (int i = 0; c->client && i < c->at_once * c->n; i++)
        mem_free(c->client[i].memory);
    for (int k = 0; k < c->n; k++)
        if (c->shared[k])
            c->use[k].rule->close(c->shared[k]);
    mem_free(c->client);
    mem_free(c->expanded);
    mem_free(c->between);
    memset(c, 0, sizeof *c);
}

static struct local *locals(struct local_chain *c, int i)
{
    return c->client + i * c->n;
}

void local_begin(struct local_chain *c, int i, const struct train_job *job)
{
    assert(c->n == 0 || i < c->at_once);
    for (int k = 0; k < c->n; k++) {
        struct local *l = &locals(c, i)[k];
        l->job = job;
        if (c->use[k].rule->begin)
            c->use[k].rule->begin(l);
    }
}

const float *local_before(struct local_chain *c, int i, int32_t step)
{
    assert(c->n > 0);
    const float *x = locals(c, i)->job->delta;
    for (int k = 0; k < c->n; k++)
        if (c->use[k].rule->before)
            x = c->use[k].rule->before(&locals(c, i)[k], step, x);
    return x;
}

static int asking(const struct local_chain *c)
{
    int k = 0;
    while (k < c->n && !c->use[k].rule->gradient)
        k++;
    return k;
}

bool local_asks(const struct local_chain *c)
{
    return asking(c) < c->n;
}

double local_gradient(struct local_chain *c, int i, int32_t step, const float *x,
                      struct local_loss loss, float *grad)
{
    int k = asking(c);
    return c->use[k].rule->gradient(&locals(c, i)[k], step, x, loss, grad);
}

void local_after(struct local_chain *c, int i, int32_t step, float *grad)
{
    for (int k = c->n; k-- > 0;)
        if (c->use[k].rule->after)
            c->use[k].rule->after(&locals(c, i)[k], step, grad);
}

// A job is trained in place, so the subtraction comes after every rule has seen x.
bool local_end(struct local_chain *c, int i, struct train_job *job)
{
    const float *update = NULL;
    size_t n = c->setup.shape->n_values;
    for (int k = 0; k < c->n; k++)
        if (c->use[k].rule->end) {
            const float *own = c->use[k].rule->end(&locals(c, i)[k]);
            update = own ? own : update;
        }
    if (update)
        memcpy(job->delta, update, n * sizeof *update);
    for (size_t j = 0; j < n && !update; j++)
        job->delta[j] -= job->theta[j];
    return !update;
}

const float *local_expand(struct local_chain *c, const float *x)
{
    for (int k = 0; k < c->n; k++)
        if (c->use[k].rule->expand) {
            float *to = x == c->expanded ? c->between : c->expanded;
            c->use[k].rule->expand(c->shared[k], x, to);
            x = to;
        }
    return x;
}
