// Frames that leave at the pace of a client's link, in pieces, each when the link has had the time
// for it. The schedule comes from the link's model, so that real and modelled time are one thing;
// what a late wake-up misses is made good at once, but never more than 5 ms of it.
#ifndef FSTQ_NET_PACER_H
#define FSTQ_NET_PACER_H

#include "net/link.h"
#include "net/transport_row.h"

#define PACER_CREDIT_NS 5000000

struct paced { // a frame on its way
    struct paced *next;
    int src, dst;
    struct netbuf *buf;
    bool shaped;                // else it only waits for those before it
    struct link_transfer x;     // t_ready_ns on the run's clock
    struct link_result plan;    // of the whole frame
    int64_t base_ns;            // the transport's clock at which it began; moves on after a delay
    size_t at;                  // bytes gone
    struct frame_hasher hasher; // of a payload whose hash is due with its last piece
};

struct pacer {
    struct transport *t; // where pieces go, by this row
    const struct transport_row *row;
    const struct link_model *link;
    struct netbuf_pool *pool;    // where buffers come from
    struct paced *first, **last; // per receiver in the order they were sent
    struct paced *spare;
    int64_t slipped_ns; // by which schedules were moved on: the machine was late beyond the credit
};

void pacer_open(struct pacer *p, struct transport *t, const struct transport_row *row,
                const struct link_model *link, struct netbuf_pool *pool);
void pacer_close(struct pacer *p); // gives back what was not sent
// Takes over a reference to b. over: NULL = as soon as those before it are gone.
void pacer_add(struct pacer *p, int src, int dst, struct netbuf *b,
               const struct link_transfer *over);
bool pacer_holds(const struct pacer *p, int dst); // is a frame for dst under way?
// Sends what is due. Returns when the next piece is, INT64_MAX = nothing is under way.
int64_t pacer_step(struct pacer *p);
int64_t pacer_end_ns(const struct pacer *p); // when the last piece is due, 0 = nothing is under way
void pacer_forget(struct pacer *p, int dst);

#endif
