// Updates as datagrams (net.delivery = datagram): where every codec of the method can, an update's
// messages are cut into blocks, one a segment of the link, so that what arrives of it counts. Each
// segment says by itself whose it is; nothing of the frame but its place is needed to read it.
//
//  0 check u32, low half of XXH3 over the rest of the segment, seeded with the shape registry
//  4 client u32      8 version u32     12 samples u32     16 loss f32
// 20 bytes of the block u16            22 vector u8       23 zero u8
// 24 first coordinate and 28 coordinates, u32 each, in grains of 8
// 32 the block (codec/blocks.h), then zeros up to the end of the segment unless it is the last
//
// Segments are the link's, so that the first holds the frame's header, too.
#ifndef FSTQ_FED_DATAGRAM_H
#define FSTQ_FED_DATAGRAM_H

#include "codec/blocks.h"
#include "fed/method.h"
#include "net/link.h"
#include "net/wire.h"

#define DATAGRAM_HEAD_BYTES 32
#define DATAGRAM_ROOM       (LOSS_SEGMENT_BYTES - DATAGRAM_HEAD_BYTES) // of a block, at most

// Do updates of the method travel so over the link?
bool datagram_on(const struct method *m, const struct link_model *link);
size_t datagram_bound(const struct view_inst *v); // of the longest payload
// Of the payload bytes that a link carries, those that blocks can have.
int64_t datagram_budget(int64_t payload_bytes);
// Does anything of a message arrive that can be used?
bool datagram_usable(const struct method *m, const struct link_model *link,
                     const struct link_result *r, int64_t frame_bytes);

// Writing. What an update is made of, its messages as they came from the codecs.
struct datagram_update {
    const struct frame *head; // client, version, samples, loss
    uint64_t registry;
    const struct view_part *part;
    int n_vectors;
    struct codec_key key[FED_VECTORS];
    const uint8_t *message[FED_VECTORS];
    size_t len[FED_VECTORS];
    // Out: bytes of a vector's segments, and of its blocks by what they say.
    int64_t bytes[FED_VECTORS];
    struct codec_parts parts[FED_VECTORS];
};
size_t datagram_cut_scratch(const struct view_inst *v);
// Returns the payload's length, or -1.
int64_t datagram_put(struct datagram_update *u, uint8_t *out, size_t cap, void *scratch,
                     struct err *err);

// Reading.
struct datagram_block {
    int vector;
    struct shape_range run; // its end may lie up to a grain behind the update's
    uint32_t client, version, samples;
    float loss;
    const uint8_t *bytes;
    size_t len;
    size_t size; // of the segment, in the payload
};
struct datagram_reader {
    const uint8_t *payload;
    size_t len;
    const uint8_t *heard; // a bit per segment of the frame that arrived; NULL = all
    uint64_t registry;
    size_t segment; // the next one
};
// The next segment that arrived and is sound; false at the end.
bool datagram_next(struct datagram_reader *r, struct datagram_block *b);
size_t datagram_read_scratch(const struct view_inst *v);

#endif
