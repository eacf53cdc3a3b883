// What a transport brings: a row of functions, over whatever struct transport keeps for it.
#ifndef FSTQ_NET_TRANSPORT_ROW_H
#define FSTQ_NET_TRANSPORT_ROW_H

#include "base/check.h"
#include "net/netbuf.h"

struct transport;

struct net_msg {
    int src, dst;               // endpoints
    enum frame_verdict verdict; // payload may be read only when FRAME_GOOD
    bool hashed;                // as it arrived: payload_xxh3
    uint64_t payload_xxh3;
    struct frame frame;
    const uint8_t *payload;
    struct netbuf *buf; // give back with transport_unref
    size_t bytes;       // on the wire, also where only a header of them was kept
    int64_t t_ns;       // arrival on transport_now's clock
    int64_t first_ns;   // monotonic clock: when the transport saw the first of it
};

struct transport_row {
    const char *name, *help;
    bool hashes_long; // send completes frames of FRAME_LONG_BYTES and more that are hash_due
    int (*open)(struct transport *t, struct err *err);
    void (*send)(struct transport *t, int src, int dst, struct netbuf *b, int64_t t_deliver_ns);
    // The same in pieces, for the pacer: how long the next one is after `at` bytes are gone, and
    // sending it, which takes over a reference. NULL = cannot.
    size_t (*piece)(const struct netbuf *b, size_t at);
    void (*send_piece)(struct transport *t, int src, int dst, struct netbuf *b, size_t at,
                       size_t n);
    bool (*poll)(struct transport *t, struct net_msg *m, int64_t until_ns);
    int64_t (*now)(const struct transport *t);
    bool (*hosts)(const struct transport *t, int endpoint);
    void (*forget)(struct transport *t, int endpoint);    // cancels what is still being sent there
    bool (*flush)(struct transport *t, int64_t until_ns); // NULL: nothing is ever left to send
    void (*close)(struct transport *t, bool clean);
};

#endif
