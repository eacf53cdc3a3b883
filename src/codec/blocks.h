// A message cut into blocks that decode alone, each short enough for a datagram: what it says of a
// run of coordinates, as the same codec would have it in an update that is nothing but that run.
// Cutting changes no decoded value: shares, budgets and scales were settled for the whole update.
#ifndef FSTQ_CODEC_BLOCKS_H
#define FSTQ_CODEC_BLOCKS_H

#include "codec/codec.h"
#include "codec/message.h"

// Runs begin and end at multiples of this, or at the end of the update.
#define BLOCK_GRAIN ((size_t)8)

struct block { // a run of coordinates
    struct shape_range range;
    struct codec_inst part; // the codec on it
    struct shape shape;     // pieces of the update's tensors
    uint32_t *tensor;       // (shape.n_tensors) whose pieces they are,
    size_t *skip;           // (shape.n_tensors) and the values before them
};

// How a codec's messages are cut, in its row.
struct codec_blocks {
    bool (*can)(const struct codec_inst *c); // with these options; NULL = with all
    // Values that share a scale, from the start of their tensor on; 0 = all of it. NULL = none do.
    size_t (*group)(const struct codec_inst *c);
    // Reads one of the codec's own messages, which stays; NULL with err.
    void *(*open)(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                  size_t len, void **scratch, struct err *err);
    // What it says of a block's run; -1: does not fit.
    int (*put)(const struct codec_inst *c, const void *open, const struct block *b,
               struct msg_out *o, void *scratch);
    size_t (*open_bytes)(const struct codec_inst *c); // scratch of open
    size_t (*put_bytes)(const struct codec_inst *c);  // and of put, for a block that is all of c
};

bool blocks_can(const struct codec_inst *c);

struct block_cut { // a message that is being cut
    const struct codec_inst *c;
    const void *open;
    struct block block;
    uint8_t *spare; // (2 room) a block on trial
    size_t room;
    double density; // bytes per coordinate, so far
    void *scratch;
};
// room: bytes of the longest block that will be asked for. scratch: blocks_cut_bytes.
size_t blocks_cut_bytes(const struct codec_inst *c, size_t room);
int blocks_cut(struct block_cut *cut, const struct codec_inst *c, const struct codec_key *key,
               const uint8_t *in, size_t len, size_t room, void *scratch, struct err *err);
// The block from `from` on that covers as much as fits into room bytes: its length, its end in *to,
// its bytes by what they say added to parts. -1: nothing fits.
int64_t blocks_next(struct block_cut *cut, size_t from, size_t room, uint8_t *out, size_t *to,
                    struct codec_parts *parts);

// Trusts nothing, as codec_decode: on an error the sink is as it was. sink.to: of the whole update;
// of it only the run is touched. scratch: blocks_decode_bytes, for blocks of at most room bytes.
size_t blocks_decode_bytes(const struct codec_inst *c, size_t room);
int blocks_decode(const struct codec_inst *c, const struct codec_key *key, struct shape_range run,
                  const uint8_t *in, size_t len, struct quant_sink to, void *scratch,
                  struct err *err);

extern const struct codec_blocks blocks_dense, blocks_quantiser, blocks_sparse, blocks_fstq,
    blocks_inner; // of a wrapper whose messages are its inner codec's

#endif
