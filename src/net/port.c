#include "net/port.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct port {
    const struct link_model *link;
    double bps;
    struct port_flow **flow, **active; // flow: (n) by time; active: by what its own link gives
    size_t n, next, n_active;
    int64_t t_ns;
};

static int by_time(const void *a, const void *b)
{
    const struct port_flow *x = *(struct port_flow *const *)a, *y = *(struct port_flow *const *)b;
    if (x->x.t_ready_ns != y->x.t_ready_ns)
        return x->x.t_ready_ns < y->x.t_ready_ns ? -1 : 1;
    return x->x.client < y->x.client ? -1 : x->x.client > y->x.client;
}

static int by_link(const void *a, const void *b)
{
    const struct port_flow *x = *(struct port_flow *const *)a, *y = *(struct port_flow *const *)b;
    if (x->piece.bps != y->piece.bps)
        return x->piece.bps < y->piece.bps ? -1 : 1;
    return x->x.client < y->x.client ? -1 : x->x.client > y->x.client;
}

// Those whose own link is slower than an even share keep what it gives; the others share the rest.
static void divide(struct port *p)
{
    double rest = p->bps;
    qsort(p->active, p->n_active, sizeof *p->active, by_link);
    for (size_t i = 0; i < p->n_active; i++) {
        struct port_flow *f = p->active[i];
        double share = rest / (double)(p->n_active - i);
        f->bps = f->piece.bps < share ? f->piece.bps : share;
        rest -= f->bps;
    }
}

// The next time at which anything changes: somebody comes, a link's rate ends, a transfer does.
static int64_t next_change(const struct port *p)
{
    int64_t t = p->next < p->n ? p->flow[p->next]->x.t_ready_ns : INT64_MAX;
    for (size_t i = 0; i < p->n_active; i++) {
        const struct port_flow *f = p->active[i];
        double ns = ceil(f->left_bits * 1e9 / f->bps); // infinite where nothing moves
        int64_t end = ns < 0x1p62 ? link_add_ns(p->t_ns, (int64_t)ns) : INT64_MAX;
        t = end < t ? end : t;
        t = f->piece.until_ns < t ? f->piece.until_ns : t;
    }
    return t;
}

// Moves all of them on to t. True where the shares change.
static bool advance(struct port *p, int64_t t_ns)
{
    double seconds = (double)(t_ns - p->t_ns) * 1e-9;
    bool changed = false;
    size_t kept = 0;
    p->t_ns = t_ns;
    for (size_t i = 0; i < p->n_active; i++) {
        struct port_flow *f = p->active[i];
        f->left_bits -= f->bps * seconds;
        if (f->left_bits <= f->bps * 1e-9) { // less than a nanosecond's worth
            f->left_ns = t_ns;
            changed = true;
            continue;
        }
        if (f->piece.until_ns <= t_ns) {
            f->piece = p->link->row->piece(p->link, &f->x, t_ns);
            changed = true;
        }
        p->active[kept++] = f;
    }
    p->n_active = kept;
    return changed;
}

static bool admit(struct port *p)
{
    size_t before = p->next;
    for (; p->next < p->n && p->flow[p->next]->x.t_ready_ns <= p->t_ns; p->next++) {
        struct port_flow *f = p->flow[p->next];
        f->left_bits = 8 * (double)f->x.bytes;
        f->left_ns = p->t_ns;
        f->piece = p->link->row->piece(p->link, &f->x, p->t_ns);
        if (f->left_bits > 0)
            p->active[p->n_active++] = f;
    }
    return p->next > before;
}

void port_share(const struct link_model *m, double bps, struct port_flow *flow, size_t n)
{
    struct port p = {.link = m, .bps = bps, .n = n};
    if (n == 0)
        return;
    p.flow = mem_alloc(MEM_NET, 2 * n * sizeof *p.flow);
    p.active = p.flow + n;
    for (size_t i = 0; i < n; i++)
        p.flow[i] = &flow[i];
    qsort(p.flow, n, sizeof *p.flow, by_time);
    p.t_ns = p.flow[0]->x.t_ready_ns;
    while (p.next < n || p.n_active > 0) {
        int64_t t = next_change(&p);
        if (t == INT64_MAX)
            break;
        bool changed = advance(&p, t);
        if (admit(&p) || changed)
            divide(&p);
    }
    for (size_t i = 0; i < p.n_active; i++)
        p.active[i]->left_ns = INT64_MAX;
    mem_free(p.flow);
}
