#include "task/partition.h"

#include "base/mem.h"
#include "base/rng.h"

#include <stdio.h>
#include <string.h>

// Streams of RNG_PARTITION: a = client or label, b = what is drawn.
enum { DRAW_MIXTURE = 1, DRAW_PROPORTIONS, DRAW_ORDER };

int partition_parse(struct partition *p, const char *text, struct err *err)
{
    static const char *const name[] = {
        [PARTITION_IID] = "iid", [PARTITION_DIRICHLET] = "dirichlet", [PARTITION_FIELD] = "field"};
    size_t n = strcspn(text, ":");
    const char *field = text[n] ? text + n + 1 : "";
    p->kind = PARTITION_IID;
    while (p->kind <= PARTITION_FIELD &&
           (strlen(name[p->kind]) != n || memcmp(text, name[p->kind], n) != 0))
        p->kind++;
    if (p->kind > PARTITION_FIELD)
        return err_set(
            err, "task.partition = %s: it is iid, dirichlet, dirichlet:FIELD or field:NAME", text);
    if (p->kind == PARTITION_IID && text[n])
        return err_set(err, "task.partition = %s: iid takes no field", text);
    if (p->kind != PARTITION_IID && text[n] && !*field)
        return err_set(err, "task.partition = %s: the field's name is missing", text);
    if (p->kind == PARTITION_FIELD && !*field)
        return err_set(err, "task.partition = %s: write field:NAME", text);
    if (strlen(field) >= sizeof p->field)
        return err_set(err, "task.partition = %s: the field's name is too long", text);
    snprintf(p->field, sizeof p->field, "%s", field);
    return 0;
}

void partition_mixture(const struct partition *p, int32_t client, int32_t n_labels, double *mix)
{
    struct rng r = rng_stream(p->seed, RNG_PARTITION, (uint32_t)client, DRAW_MIXTURE, 0);
    for (int32_t i = 0; i < n_labels; i++)
        mix[i] = p->kind == PARTITION_FIELD ? i == client : 1.0 / n_labels;
    if (p->kind == PARTITION_DIRICHLET)
        rng_dirichlet(&r, p->alpha, n_labels, mix);
}

static void deal(const struct partition *p, int32_t n, int32_t *owner)
{
    uint32_t *order = mem_alloc(MEM_DATA, (size_t)n * sizeof *order);
    struct rng r = rng_stream(p->seed, RNG_PARTITION, UINT32_MAX, DRAW_ORDER, 0);
    for (int32_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    rng_shuffle(&r, order, (uint32_t)n);
    for (int32_t i = 0; i < n; i++)
        owner[order[i]] = i % p->clients;
    mem_free(order);
}

static void cut(const struct partition *p, const int32_t *label, int32_t n, int32_t n_labels,
                int32_t *owner)
{
    uint32_t *item = mem_alloc(MEM_DATA, (size_t)n * sizeof *item);
    double *share = mem_alloc(MEM_DATA, (size_t)p->clients * sizeof *share);
    for (int32_t l = 0; l < n_labels; l++) {
        struct rng order = rng_stream(p->seed, RNG_PARTITION, (uint32_t)l, DRAW_ORDER, 0);
        struct rng shares = rng_stream(p->seed, RNG_PARTITION, (uint32_t)l, DRAW_PROPORTIONS, 0);
        uint32_t count = 0, next = 0;
        for (int32_t i = 0; i < n; i++)
            if (label[i] == l)
                item[count++] = (uint32_t)i;
        rng_shuffle(&order, item, count);
        rng_dirichlet(&shares, p->alpha, p->clients, share);
        double end = 0;
        for (int32_t k = 0; k < p->clients; k++) {
            end += share[k];
            bool last = k == p->clients - 1;
            while (next < count && (last || (double)next + 0.5 < end * count))
                owner[item[next++]] = k;
        }
    }
    mem_free(item);
    mem_free(share);
}

// A client without data takes the first item of the client that has most.
static void fill_empty(const struct partition *p, int32_t n, int32_t *owner)
{
    int32_t *count = mem_alloc(MEM_DATA, (size_t)p->clients * sizeof *count);
    for (int32_t i = 0; i < n; i++)
        count[owner[i]]++;
    for (int32_t k = 0; k < p->clients; k++) {
        if (count[k])
            continue;
        int32_t richest = 0, i = 0;
        for (int32_t j = 1; j < p->clients; j++)
            if (count[j] > count[richest])
                richest = j;
        while (owner[i] != richest)
            i++;
        owner[i] = k;
        count[k]++;
        count[richest]--;
    }
    mem_free(count);
}

int partition_assign(const struct partition *p, const int32_t *label, int32_t n, int32_t n_labels,
                     int32_t *owner, struct err *err)
{
    if (n < p->clients)
        return err_set(err, "%d examples are too few for fed.clients = %d", n, p->clients);
    if (p->kind == PARTITION_FIELD && n_labels != p->clients)
        return err_set(err, "task.partition = field:%s has %d values: set fed.clients = %d",
                       p->field, n_labels, n_labels);
    switch (p->kind) {
    case PARTITION_IID:
        deal(p, n, owner);
        break;
    case PARTITION_DIRICHLET:
        cut(p, label, n, n_labels, owner);
        fill_empty(p, n, owner);
        break;
    case PARTITION_FIELD:
        memcpy(owner, label, (size_t)n * sizeof *owner);
        break;
    }
    return 0;
}
