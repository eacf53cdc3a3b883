#include "fed/backbones.h"

#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int add_kind(struct backbones *b, const char *text, const char *at, int len, struct err *err)
{
    double share;
    int end = 0;
    if (sscanf(at, "%lf:%n", &share, &end) != 1 || end == 0 || end >= len)
        return err_set(err,
                       "model.others = %.200s: '%.*s' is not SHARE:PATH, as in "
                       "0.3:small.safetensors",
                       text, len, at);
    if (!(share > 0 && share < 1))
        return err_set(err, "model.others = %.200s: a share of %g does not lie between 0 and 1",
                       text, share);
    if (b->n == SIDE_TYPES)
        return err_set(err, "model.others = %.200s: more than %d backbones with model.path", text,
                       SIDE_TYPES);
    if (len - end >= (int)sizeof b->path[0])
        return err_set(err, "model.others = %.200s: a path of %d bytes, at most %zu", text,
                       len - end, sizeof b->path[0] - 1);
    snprintf(b->path[b->n], sizeof b->path[0], "%.*s", len - end, at + end);
    b->share[b->n++] = share;
    b->share[0] -= share;
    return 0;
}

int backbones_parse(const struct model_params *m, struct backbones *b, struct err *err)
{
    memset(b, 0, sizeof *b);
    b->n = 1;
    b->share[0] = 1;
    snprintf(b->path[0], sizeof b->path[0], "%s", m->path);
    for (const char *at = m->others + strspn(m->others, ", \t"); *at; at += strspn(at, ", \t")) {
        int len = (int)strcspn(at, ", \t");
        if (add_kind(b, m->others, at, len, err))
            return -1;
        at += len;
    }
    return b->share[0] > 1e-9 ? 0
                              : err_set(err,
                                        "model.others = %.200s: the shares leave no client to "
                                        "model.path = %.100s; let them come to less than 1",
                                        m->others, m->path);
}

int backbones_open(const struct model_params *m, struct backbones *b, struct err *err)
{
    if (backbones_parse(m, b, err))
        return -1;
    for (int32_t k = 0; k < b->n; k++) {
        struct err why = {""};
        if (model_read_config(b->path[k], &b->config[k], &why))
            return k ? err_set(err, "model.others: %.450s", why.text)
                     : err_set(err, "%s", why.text);
    }
    return 0;
}

uint8_t *backbones_deal(const struct backbones *b, uint32_t clients, uint64_t seed, struct err *err)
{
    uint8_t *kind = mem_alloc(MEM_OTHER, clients);
    uint32_t *order = mem_alloc(MEM_OTHER, clients * sizeof *order), at = 0;
    struct rng draw = rng_stream(seed, RNG_RANKS, 1, 0, 0);
    double until = 0;
    for (uint32_t i = 0; i < clients; i++)
        order[i] = i;
    rng_shuffle(&draw, order, clients);
    for (int32_t k = 0; k < b->n && kind; k++) {
        until += b->share[k];
        uint32_t from = at;
        uint32_t end = k + 1 == b->n ? clients : (uint32_t)(until * clients + 0.5);
        for (; at < end && at < clients; at++)
            kind[order[at]] = (uint8_t)k;
        if (at > from)
            continue;
        err_set(err, "of %u clients a share of %g has none: nobody holds %.200s", clients,
                b->share[k], b->path[k]);
        mem_free(kind);
        kind = NULL;
    }
    mem_free(order);
    return kind;
}

double backbones_flops(const struct model_config *c)
{
    double q = (double)c->heads * c->head_dim, kv = (double)c->kv_heads * c->head_dim;
    return 2.0 * c->layers * c->dim * (2 * q + 2 * kv + 3.0 * c->hidden);
}
