// frame_open and its relatives on any bytes. The first byte chooses the limits and whether the
// header is signed anew, so that the checks behind its hash are reached; the rest is the message.
#include "base/bytes.h"
#include "fed/fed.h"
#include "fed/protocol.h"
#include "net/wire.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIGN = 1, HASH = 2, TIGHT = 4, AGREED = 8 };

static void sign(uint8_t *h, size_t len, uint8_t how)
{
    uint8_t rest[52];
    if (how & HASH && h[9] & FRAME_CHECKSUM)
        put_u64(h + 56, XXH3_64bits(h + FRAME_HEADER_BYTES, len - FRAME_HEADER_BYTES));
    memcpy(rest, h, 44);
    memcpy(rest + 44, h + 48, 8);
    put_u32(h + 44, (uint32_t)XXH3_64bits(rest, sizeof rest));
}

// What arrives in parts is judged as what arrives whole: the head as far as it can be, and with a
// hash taken on the way all of it.
static void agree(const uint8_t *bytes, size_t len, const struct frame_limits *limits,
                  enum frame_verdict whole)
{
    struct frame f;
    if (len < FRAME_HEADER_BYTES)
        return;
    uint8_t head[FRAME_HEAD_BYTES];
    memcpy(head, bytes, sizeof head);
    enum frame_verdict v = frame_open_head(head, limits, &f);
    if (v != whole && v != FRAME_GOOD && whole != FRAME_LENGTH && whole != FRAME_TOO_LONG)
        abort();
    if (whole == FRAME_GOOD && v != FRAME_GOOD)
        abort();
    size_t n = len - FRAME_HEADER_BYTES, half = n / 2;
    struct frame_hasher h;
    frame_hasher_begin(&h);
    frame_hasher_add(&h, bytes + FRAME_HEADER_BYTES, half);
    frame_hasher_add(&h, bytes + FRAME_HEADER_BYTES + half, n - half);
    if (frame_open_hashed(bytes, len, limits, frame_hasher_end(&h), &f) != whole)
        abort();
}

// Its vectors lie in it, one after another, and fill it.
static void check_vectors(const uint8_t *payload, size_t size, int n)
{
    const uint8_t *at[FED_VECTORS], *end = payload + vectors_head_bytes(n);
    size_t len[FED_VECTORS];
    if (vectors_get(payload, size, n, at, len))
        return;
    for (int k = 0; k < n; end += len[k++])
        if (at[k] != end)
            abort();
    if (end != payload + size)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    uint8_t how = data[0];
    size_t len = size - 1;
    uint8_t *bytes = malloc(len ? len : 1); // its own block: reading past the end is seen
    if (!bytes)
        return 0;
    memcpy(bytes, data + 1, len);
    if (how & SIGN && len >= FRAME_HEADER_BYTES)
        sign(bytes, len, how);
    struct frame_limits limits = {.max_payload_bytes = how & TIGHT ? 32 : UINT64_MAX,
                                  .registry = how & AGREED ? 0x0102030405060708u : 0};
    struct frame f;
    enum frame_verdict v = frame_open(bytes, len, &limits, &f);
    if ((int)v < 0 || v >= FRAME_VERDICT_COUNT)
        abort();
    agree(bytes, len, &limits, v);
    if (v == FRAME_GOOD) { // what is accepted is exactly what a sender would have written
        uint8_t header[FRAME_HEADER_BYTES];
        struct frame g = f;
        if (f.payload_bytes != len - FRAME_HEADER_BYTES ||
            f.payload_bytes > limits.max_payload_bytes)
            abort();
        for (int n = 1; n <= FED_VECTORS; n++)
            check_vectors(bytes + FRAME_HEADER_BYTES, f.payload_bytes, n);
        frame_seal(&g, header, bytes + FRAME_HEADER_BYTES);
        if (memcmp(header, bytes, sizeof header) != 0)
            abort();
    }
    free(bytes);
    return 0;
}
