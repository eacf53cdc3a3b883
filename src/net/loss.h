// Loss of segments, with the names and the meaning of Linux' netem. A chain of losses belongs to
// one message: it follows from the seed, the client, the round, the attempt and the direction.
#ifndef FSTQ_NET_LOSS_H
#define FSTQ_NET_LOSS_H

#include "base/check.h"
#include "base/rng.h"

#include <stdbool.h>
#include <stdint.h>

#define LOSS_SEGMENT_BYTES 1448 // of payload in a TCP segment over Ethernet, with time stamps
#define LOSS_RETRIES       15   // of one segment, after which a connection is given up

struct loss_model {
    bool on;
    double good_bad, bad_good; // per segment: probability of leaving the good, the bad state
    double loss_good, loss_bad;
};

struct loss_chain {
    const struct loss_model *model;
    struct rng rng;
    bool bad;
};

// "none", "random:p=0.02", "gemodel:p=0.01,r=0.3,1-h=1,1-k=0".
int loss_parse(struct loss_model *m, const char *text, struct err *err);
double loss_mean(const struct loss_model *m); // in the long run
// From the state that such a link is in at any time.
void loss_begin(struct loss_chain *c, const struct loss_model *m, struct rng stream);
bool loss_next(struct loss_chain *c); // is the next segment lost?

// What a message suffers that is sent until all of it is there.
struct loss_cost {
    int64_t segments, lost;       // of the message, the first time it is sent
    int64_t again_bytes, wait_ns; // sent again; waited for
    bool given_up;
};
struct loss_cost loss_reliable(struct loss_chain *c, int64_t bytes, int64_t rtt_ns);
// And one of which lost segments are gone. map: a bit per segment that arrived, or NULL.
struct loss_cost loss_datagram(struct loss_chain *c, int64_t bytes, uint8_t *map);
static inline int64_t loss_segments(int64_t bytes)
{
    return bytes > 0 ? (bytes - 1) / LOSS_SEGMENT_BYTES + 1 : 0;
}

#endif
