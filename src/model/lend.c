// Arrays of the host that are lent to the device: an array serves as it is where host code may
// touch the device's memory, else it is copied into a block and back.
#include "base/mem.h"
#include "model/inner.h"

#include <string.h>

void *loan_block(struct model *m, struct loan *l, size_t size_bytes)
{
    if (size_bytes > l->size_bytes) {
        loan_free(m, l);
        l->block = m->dev->row->alloc(m->dev, MEM_OPTIMIZER, size_bytes);
        l->size_bytes = size_bytes;
        m->moves++;
    }
    return l->block;
}

void *loan_lend(struct model *m, struct loan *l, const void *array, size_t size_bytes)
{
    if (!array || m->dev->row->host)
        return (void *)(uintptr_t)array;
    void *block = loan_block(m, l, size_bytes);
    dev_put(m->dev, block, array, size_bytes);
    return block;
}

void loan_fetch(struct model *m, void *array, const void *lent, size_t size_bytes)
{
    if (array && array != lent)
        dev_get(m->dev, array, lent, size_bytes);
}

void loan_free(struct model *m, struct loan *l)
{
    if (l->block)
        m->dev->row->free(m->dev, l->block);
    *l = (struct loan){0};
}

void places_reserve(struct model *m, int32_t n)
{
    if (n <= m->n_places)
        return;
    struct model_place **more = mem_alloc(MEM_OTHER, (size_t)n * sizeof *more);
    if (m->place)
        memcpy(more, m->place, (size_t)m->n_places * sizeof *more);
    for (int32_t i = m->n_places; i < n; i++) {
        more[i] = mem_alloc(MEM_OTHER, sizeof **more);
        more[i]->step = m->dev->row->alloc(m->dev, MEM_OPTIMIZER, sizeof *more[i]->step);
        more[i]->here = m->dev->row->stage(m->dev, sizeof *more[i]->here);
    }
    mem_free(m->place);
    m->place = more;
    m->n_places = n;
}

void places_free(struct model *m)
{
    for (int32_t i = 0; i < m->n_places; i++) {
        struct model_place *p = m->place[i];
        for (int k = 0; k < PLACE_LOANS; k++)
            loan_free(m, &p->loan[k]);
        loan_free(m, &p->ranges);
        m->dev->row->free(m->dev, p->step);
        m->dev->row->unstage(m->dev, p->here);
        mem_free(p);
    }
    mem_free(m->place);
}

static void lend_ranges(struct model *m, struct model_place *p, const struct model_client *c)
{
    p->trained = (struct kernel_ranges){0};
    if (!c->trained)
        return;
    size_t bytes = (size_t)c->n_trained * sizeof(kernel_range);
    kernel_range *list = mem_alloc(MEM_OTHER, bytes);
    for (int32_t i = 0; i < c->n_trained; i++)
        list[i] = (kernel_range){c->trained[i].from, c->trained[i].to};
    kernel_range *to = loan_block(m, &p->ranges, bytes ? bytes : sizeof *to);
    dev_put(m->dev, to, list, bytes);
    mem_free(list);
    p->trained = (struct kernel_ranges){c->n_trained, to};
}

// The arrays of a client and how many floats they have, in the order of its place's loans.
struct part {
    float *host;
    float **lent;
    size_t n;
};
static void parts_of(const struct model *m, const struct model_client *c, struct model_place *p,
                     struct part *part)
{
    size_t n = m->shape.n_values;
    const struct part all[PLACE_LOANS] = {{c->adapter, &p->adapter, n},
                                          {c->moments, &p->moments, c->n_moments},
                                          {c->ema, &p->averages.ema, n},
                                          {c->sum, &p->averages.sum, n},
                                          {c->mean, &p->averages.grad, n}};
    memcpy(part, all, sizeof all);
}

void model_load(struct model *m, struct model_client *c, int32_t place)
{
    places_reserve(m, place + 1);
    struct model_place *p = c->place = m->place[place];
    struct part part[PLACE_LOANS];
    parts_of(m, c, p, part);
    for (int k = 0; k < PLACE_LOANS; k++)
        *part[k].lent = loan_lend(m, &p->loan[k], part[k].host, part[k].n * sizeof *part[k].host);
    p->averages.rho = c->rho;
    lend_ranges(m, p, c);
    *p->here = (kernel_step){.steps = c->steps};
    p->behind = true;
}

const float *model_look(struct model *m, struct model_client *c)
{
    loan_fetch(m, c->adapter, c->place->adapter, m->shape.n_values * sizeof *c->adapter);
    return c->adapter;
}

struct model_lent model_lent(const struct model_client *c)
{
    const struct model_place *p = c->place;
    return (struct model_lent){.adapter = p->adapter,
                               .ema = p->averages.ema,
                               .sum = p->averages.sum,
                               .mean = p->averages.grad};
}

void model_store(struct model *m, struct model_client *c)
{
    struct part part[PLACE_LOANS];
    parts_of(m, c, c->place, part);
    for (int k = 0; k < PLACE_LOANS; k++)
        loan_fetch(m, part[k].host, *part[k].lent, part[k].n * sizeof *part[k].host);
    c->steps = c->place->here->steps;
    c->place = NULL;
}
