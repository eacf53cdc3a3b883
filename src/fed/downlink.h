// Versions that travel down as coded changes (fed.downlink). The server codes what a commit changed
// once, takes the decoded change as the new version itself, and so has what clients will have:
//
//     message = C(version(t + 1) - version(t));  version(t + 1) = version(t) + decode(message)
//
// With error feedback, C = codec+ef, what the code leaves out is added to the next change
// (DoubleSqueeze: Tang et al. 2019, with the server's half alone). A client that has an older
// version is sent the messages since, as long as they are shorter than the version itself.
//
// With fed.downlink_of = version the message is C(version(t)), anew for every round: clients train
// from what they decode, while the server's version stays whole. With C = topk that is FLASC's
// (Kuo et al. 2024).
#ifndef FSTQ_FED_DOWNLINK_H
#define FSTQ_FED_DOWNLINK_H

#include "fed/env.h"
#include "fed/global.h"

struct downlink; // the server's: messages kept, and which version everybody has

struct downlink *downlink_open(const struct fed_env *env);
void downlink_close(struct downlink *d);
// Before a round's version goes out: codes it, where versions are coded themselves.
void downlink_begin(struct downlink *d, const struct global *g, uint32_t round);
// Around the commit of a round: keeps the version, codes its change. The change of a round without
// a commit is none.
void downlink_before(struct downlink *d, const struct global *g);
int downlink_after(struct downlink *d, struct global *g, uint32_t round, struct err *err);
void downlink_still(struct downlink *d, uint32_t round); // the round changed nothing
// The payload that brings the round's version to a client, counted for it, or to an endpoint, sent.
int64_t downlink_client_bytes(const struct downlink *d, uint32_t client);
int64_t downlink_peer_bytes(const struct downlink *d, int endpoint);
void downlink_put(const struct downlink *d, int endpoint, uint8_t *out); // but the version as it is
bool downlink_whole(const struct downlink *d, int endpoint); // it needs the version as it is
// From now on they have the round's version, or nobody knows what they have.
void downlink_sent(struct downlink *d, uint32_t client, int endpoint, uint32_t round);
void downlink_lost(struct downlink *d, uint32_t client, int endpoint);
// For checkpoints, in 32-bit words; what endpoints have is not kept: they begin anew.
size_t downlink_words(const struct downlink *d);
void downlink_keep(const struct downlink *d, uint8_t *out);
int downlink_restore(struct downlink *d, const uint8_t *in, size_t words, struct err *err);

// A payload begins with what it is.
struct down_head {
    uint32_t from;  // version that the messages start at, 0 = the version itself follows
    uint32_t count; // of messages; of the version itself 1, or 0 where it follows as it is
};
#define DOWN_HEAD_BYTES 8
// A client's side: the messages of a payload onto the vectors of the version `from`, which is what
// they are. part, scratch: of the largest part, of its decoder.
int downlink_take(const struct fed_env *env, const uint8_t *in, size_t len, struct down_head head,
                  float *const *vector, float *part, void *scratch, struct err *err);
int down_head_get(const uint8_t *in, size_t len, struct down_head *h); // -1: it is none

#endif
