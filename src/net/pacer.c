#include "net/pacer.h"

#include "base/bytes.h"
#include "base/mem.h"

#include <assert.h>
#include <math.h>

void pacer_open(struct pacer *p, struct transport *t, const struct transport_row *row,
                const struct link_model *link, struct netbuf_pool *pool)
{
    *p = (struct pacer){.t = t, .row = row, .link = link, .pool = pool};
    p->last = &p->first;
}

static void drop(struct pacer *p, struct paced *f)
{
    netbuf_unref(p->pool, f->buf);
    f->next = p->spare;
    p->spare = f;
}

void pacer_close(struct pacer *p)
{
    while (p->first) {
        struct paced *f = p->first;
        p->first = f->next;
        drop(p, f);
    }
    while (p->spare) {
        struct paced *f = p->spare;
        p->spare = f->next;
        mem_free(f);
    }
    p->last = &p->first;
}

bool pacer_holds(const struct pacer *p, int dst)
{
    for (const struct paced *f = p->first; f; f = f->next)
        if (f->dst == dst)
            return true;
    return false;
}

void pacer_add(struct pacer *p, int src, int dst, struct netbuf *b,
               const struct link_transfer *over)
{
    struct paced *f = p->spare;
    if (f)
        p->spare = f->next;
    else
        f = mem_alloc(MEM_NET, sizeof *f);
    *f = (struct paced){
        .src = src, .dst = dst, .buf = b, .shaped = over != NULL, .base_ns = p->row->now(p->t)};
    if (b->hash_due)
        frame_hasher_begin(&f->hasher);
    if (over) {
        struct link_state idle = {0};
        f->x = *over;
        f->plan = link_carry(p->link, &idle, &f->x);
    }
    *p->last = f;
    p->last = &f->next;
}

// When bytes up to `upto` may be gone, from the base on. All of them: when the model says that the
// message arrives; before that what its segments take when none is waited for.
static int64_t due_ns(const struct pacer *p, const struct paced *f, size_t upto)
{
    if (!f->shaped)
        return 0;
    if (upto >= f->buf->len)
        return f->plan.t_deliver_ns == INT64_MAX ? INT64_MAX
                                                 : f->plan.t_deliver_ns - f->plan.t_start_ns;
    struct link_delay delay = p->link->row->delay(p->link, f->x.client, f->x.up);
    int64_t left = link_leave(p->link, &f->x, f->plan.t_start_ns, (int64_t)upto);
    return link_add_ns(left, delay.latency_ns - f->plan.t_start_ns);
}

// While a piece of payload is on its way its bytes are hashed; the hash goes last.
static void hash_piece(struct paced *f, size_t n)
{
    struct netbuf *b = f->buf;
    size_t end = b->len - FRAME_TAIL_BYTES;
    if (!b->hash_due || f->at < FRAME_HEAD_BYTES || f->at >= end)
        return;
    frame_hasher_add(&f->hasher, b->bytes + f->at + FRAME_TAIL_BYTES, n);
    if (f->at + n == end)
        put_u64(b->bytes + FRAME_HEAD_BYTES, frame_hasher_end(&f->hasher));
}

// One frame: sends its pieces that are due. Returns when its next one is, 0 = it is gone.
static int64_t push(struct pacer *p, struct paced *f)
{
    while (f->at < f->buf->len) {
        size_t n = f->shaped ? p->row->piece(f->buf, f->at) : f->buf->len;
        int64_t due = link_add_ns(f->base_ns, due_ns(p, f, f->at + n)), now = p->row->now(p->t);
        if (now < due)
            return due;
        if (now - due > PACER_CREDIT_NS) {
            f->base_ns += now - due - PACER_CREDIT_NS;
            p->slipped_ns += now - due - PACER_CREDIT_NS;
        }
        netbuf_ref(f->buf);
        if (f->shaped)
            p->row->send_piece(p->t, f->src, f->dst, f->buf, f->at, n);
        else
            p->row->send(p->t, f->src, f->dst, f->buf, 0);
        if (f->shaped)
            hash_piece(f, n);
        f->at += n;
    }
    return 0;
}

int64_t pacer_step(struct pacer *p)
{
    int64_t next = INT64_MAX;
    for (struct paced **at = &p->first; *at;) {
        struct paced *f = *at;
        bool behind = false; // another frame for the same receiver
        for (const struct paced *g = p->first; g != f && !behind; g = g->next)
            behind = g->dst == f->dst;
        int64_t due = INT64_MAX;
        if (behind)
            f->base_ns = p->row->now(p->t);
        else
            due = push(p, f);
        if (due > 0) {
            next = due < next ? due : next;
            at = &f->next;
            continue;
        }
        *at = f->next;
        if (p->last == &f->next)
            p->last = at;
        drop(p, f);
    }
    return next;
}

int64_t pacer_end_ns(const struct pacer *p)
{
    int64_t end = 0;
    for (const struct paced *f = p->first; f; f = f->next) {
        int64_t needs = f->shaped ? f->plan.t_deliver_ns - f->plan.t_start_ns : 0;
        int64_t at = link_add_ns(f->base_ns, needs);
        end = at > end ? at : end;
    }
    return end;
}

void pacer_forget(struct pacer *p, int dst)
{
    for (struct paced **at = &p->first; *at;) {
        struct paced *f = *at;
        if (f->dst != dst) {
            at = &f->next;
            continue;
        }
        *at = f->next;
        if (p->last == &f->next)
            p->last = at;
        drop(p, f);
    }
}
