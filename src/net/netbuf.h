// Message buffers, and the pool they come from.
#ifndef FSTQ_NET_NETBUF_H
#define FSTQ_NET_NETBUF_H

#include "net/wire.h"

// A message buffer: header and payload in one piece, so that it leaves in one send.
// Reference-counted; the transport holds one while it sends, and as long as there is more than one
// the bytes must not change. From a pool by size class that grows in steps and is reused.
struct netbuf {
    uint8_t *bytes;  // FRAME_HEADER_BYTES, then the payload
    size_t cap, len; // len: header + payload
    int refs;
    uint8_t size_class;
    bool sealed, hashed; // a header stands in front; its payload hash was taken
    bool hash_due;       // or is left to the transport, which takes it while the bytes move
    uint64_t payload_xxh3;
    struct netbuf *next;
};
#define NETBUF_CLASSES 112 // four to an octave from 256 bytes

struct netbuf_pool {
    struct netbuf *free[NETBUF_CLASSES];
};

// One reference, the caller's.
struct netbuf *netbuf_get(struct netbuf_pool *p, size_t payload_cap);
void netbuf_ref(struct netbuf *b);
void netbuf_unref(struct netbuf_pool *p, struct netbuf *b);
// Buffers that somebody still holds stay.
void netbuf_pool_close(struct netbuf_pool *p);
static inline uint8_t *netbuf_payload(struct netbuf *b)
{
    return b->bytes + FRAME_HEADER_BYTES;
}

#endif
