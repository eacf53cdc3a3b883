// The frame: 64 bytes of header, then the payload. Everything is little-endian; shapes never
// travel, only the hash of the registry agreed at hello. The payload's XXH3 is checked before
// anything decodes it. It stands last in the header so that it can also be sent last: a long frame
// leaves as its first 56 bytes, the payload in parts and then these 8, and both sides hash one part
// while the next is on its way. The same bytes either way, in number and in memory.
//
//  0 magic u32      4 protocol u16    6 header bytes u16   8 kind u8   9 flags u8   10 codec u16
// 12 version u32   16 client u32     20 vectors u8  21 reason u8  22 attempt u16
// 24 samples u32   28 loss f32       32 registry u64      40 values u32
//    samples: of what is said in a round, and its answer, how many there were before
//    loss: of an update the mean of its training; of a model how far that mean has come down
// 44 header hash u32 (low half of XXH3 over the header without the two hashes)
// 48 payload bytes u64               56 payload XXH3 u64 (0 and no FRAME_CHECKSUM flag: not taken)
#ifndef FSTQ_NET_WIRE_H
#define FSTQ_NET_WIRE_H

#include "base/check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_MAGIC        0x51545346u // "FSTQ"
#define FRAME_PROTOCOL     3
#define FRAME_HEADER_BYTES 64
enum {
    FRAME_AT_KIND = 8,
    FRAME_AT_FLAGS = 9,
    FRAME_AT_CLIENT = 16
}; // for who looks at a sealed header
enum {
    FRAME_HEAD_BYTES = 56,         // of a long frame: the header up to the payload's hash
    FRAME_TAIL_BYTES = 8,          // and that hash
    FRAME_PART_BYTES = 512 * 1024, // payload in one part; only the last one may be shorter
    FRAME_LONG_BYTES = 128 * 1024, // payloads from here on travel in parts where they are hashed
    FRAME_PACED_PART_BYTES = 64 * 1024, // part of a frame that is FRAME_PACED
};

enum frame_kind {
    FRAME_HELLO = 1, // worker: build, host, pid, byte order
    FRAME_WELCOME,   // server: accepted, config hash, shape registry follows as payload
    FRAME_REFUSE,    // server: why not, as text
    FRAME_MODEL,     // server: the adapter of this version
    FRAME_TASK,      // server: train client k on this version
    FRAME_GRANT,     // server: send the update you hold
    FRAME_UPDATE,    // worker: one or more packed vectors
    FRAME_FAIL,      // worker: no update from this client, and why
    FRAME_ACK,       // server: the round is decided
    FRAME_EVENTS,    // worker: rows of its recorder
    FRAME_PING,      // server: are you there; also measures clocks
    FRAME_PONG,
    FRAME_STOP,   // server: finish
    FRAME_BYE,    // worker: last word
    FRAME_SLOTS,  // server, of a resumed run: what state clients must have; worker: which have not
    FRAME_SUM,    // worker: updates of a relay's clients, added up
    FRAME_SAY,    // worker: what a client has to say in the middle of its round
    FRAME_ANSWER, // server: to that
    FRAME_BUSY,   // worker: at work still; the answer will come
    FRAME_PARCEL, // server: what this client is given at the end; worker: the hash of what came
    FRAME_KIND_COUNT
};
extern const char *const frame_kind_name[FRAME_KIND_COUNT];

enum {
    FRAME_CHECKSUM = 1,
    FRAME_PACED = 2, // travels in short parts whatever its length, hashed or not
};
static inline size_t frame_part_bytes(uint8_t flags)
{
    return flags & FRAME_PACED ? FRAME_PACED_PART_BYTES : FRAME_PART_BYTES;
}

struct frame {
    uint8_t kind, flags, vectors, reason;
    uint16_t codec, attempt;
    uint32_t version, client, samples, values;
    float loss;
    uint64_t registry, payload_bytes, payload_xxh3;
};

// What the receiver will take. Lengths are checked against it before anything is allocated.
struct frame_limits {
    uint64_t max_payload_bytes;
    uint64_t registry; // 0 = not agreed yet
};

enum frame_verdict {
    FRAME_GOOD,
    FRAME_SHORT,   // fewer bytes than a header
    FRAME_ALIEN,   // no magic
    FRAME_GARBLED, // header hash
    FRAME_PROTOCOL_OTHER,
    FRAME_KIND_UNKNOWN,
    FRAME_TOO_LONG, // payload over the negotiated maximum
    FRAME_LENGTH,   // says one length, has another
    FRAME_REGISTRY, // another shape registry
    FRAME_PAYLOAD,  // payload hash
    FRAME_VERDICT_COUNT
};
extern const char *const frame_verdict_name[FRAME_VERDICT_COUNT];

// The parts of frame_seal, for a payload that several frames share: hash once, write each header.
uint64_t frame_hash(const uint8_t *payload, uint64_t n);
void frame_write(const struct frame *f, uint8_t header[FRAME_HEADER_BYTES]);
// The same hash piece by piece.
struct frame_hasher {
    _Alignas(64) uint8_t state[576]; // an XXH3_state_t
};
void frame_hasher_begin(struct frame_hasher *h);
void frame_hasher_add(struct frame_hasher *h, const uint8_t *bytes, size_t n);
uint64_t frame_hasher_end(const struct frame_hasher *h);
// Fills in the payload hash where flags ask for it, then writes the header in front of the payload.
void frame_seal(struct frame *f, uint8_t header[FRAME_HEADER_BYTES], const uint8_t *payload);
// Reads a whole message of len bytes, checks in the order of enum frame_verdict. f is filled as far
// as the header could be read (all zero when it was no header). Of a message that is too long only
// the header is read, so that bytes may then hold no more than that.
enum frame_verdict frame_open(const uint8_t *bytes, size_t len, const struct frame_limits *limits,
                              struct frame *f);
// The same for a payload that was hashed while it arrived.
enum frame_verdict frame_open_hashed(const uint8_t *bytes, size_t len,
                                     const struct frame_limits *limits, uint64_t payload_xxh3,
                                     struct frame *f);
// The head of a long frame, before any of its payload: all that can be told without it.
enum frame_verdict frame_open_head(const uint8_t head[FRAME_HEAD_BYTES],
                                   const struct frame_limits *limits, struct frame *f);

#endif
