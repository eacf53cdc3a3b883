// Any payload of datagrams: a byte of the codec, one of segments that were lost, then the segments,
// whose checks are made good first. What must hold: what is read lies in the payload, and what is
// decoded of it is finite and inside its run.
#include "base/mem.h"
#include "fed/datagram.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const texts[] = {"fp32", "int:bits=4", "sign", "topk:ratio=0.1", "fstq"};
enum { REGISTRY = 77, MOST = 1 << 16 };

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void repair(uint8_t *p, size_t size)
{
    for (size_t at = 0, end = LOSS_SEGMENT_BYTES - FRAME_HEADER_BYTES; at < size;
         at = end, end += LOSS_SEGMENT_BYTES) {
        size_t n = (end < size ? end : size) - at;
        if (n > 4)
            put_u32(p + at, (uint32_t)XXH3_64bits_withSeed(p + at + 4, n - 4, REGISTRY));
    }
}

static void read_all(const struct codec_inst *c, const uint8_t *p, size_t size, uint8_t lost)
{
    uint8_t heard[8];
    memset(heard, ~lost, sizeof heard);
    const size_t n = c->shape->n_values;
    void *scratch = mem_alloc(MEM_CODEC, blocks_decode_bytes(c, DATAGRAM_ROOM));
    float *acc = mem_alloc(MEM_CODEC, n * sizeof *acc);
    struct codec_key key = {.seed = 7, .client = 3, .version = 11};
    struct datagram_reader r = {p, size, heard, REGISTRY, 0};
    struct datagram_block b;
    struct err err;
    while (datagram_next(&r, &b)) {
        check(b.bytes >= p && b.bytes + b.len <= p + size && isfinite(b.loss));
        memset(acc, 0, n * sizeof *acc);
        int bad = blocks_decode(c, &key, b.run, b.bytes, b.len, (struct quant_sink){acc, 1, true},
                                scratch, &err);
        for (size_t i = 0; i < n; i++)
            check(bad || i < b.run.from || i >= b.run.to ? acc[i] == 0 : isfinite(acc[i]));
    }
    mem_free(acc);
    mem_free(scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err;
    struct shape shape;
    if (size < 2 || size > MOST)
        return 0;
    shape_init(&shape);
    shape_add(&shape, "A", 8, 503, SHAPE_LORA_A);
    shape_add(&shape, "B", 517, 8, SHAPE_LORA_B);
    shape_seal(&shape);
    struct codec_inst *c = codec_open(texts[data[0] % 5], &shape, &err);
    uint8_t *p = mem_alloc(MEM_CODEC, size);
    memcpy(p, data + 2, size - 2);
    repair(p, size - 2);
    read_all(c, p, size - 2, data[1]);
    mem_free(p);
    codec_close(c);
    shape_free(&shape);
    return 0;
}
