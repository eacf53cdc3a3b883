#include "net/wire.h"

#include "base/bytes.h"
#include "net/xxh3_kit.h"

_Static_assert(sizeof(XXH3_state_t) <= sizeof(struct frame_hasher), "frame_hasher is too small");

// Offsets of the header. The two hash fields are the only ones written out of order.
enum {
    AT_MAGIC = 0,
    AT_PROTOCOL = 4,
    AT_HEADER_BYTES = 6,
    AT_KIND = FRAME_AT_KIND,
    AT_FLAGS = 9,
    AT_CODEC = 10,
    AT_VERSION = 12,
    AT_CLIENT = FRAME_AT_CLIENT,
    AT_VECTORS = 20,
    AT_REASON = 21,
    AT_ATTEMPT = 22,
    AT_SAMPLES = 24,
    AT_LOSS = 28,
    AT_REGISTRY = 32,
    AT_VALUES = 40,
    AT_HEADER_HASH = 44,
    AT_PAYLOAD_BYTES = 48,
    AT_PAYLOAD_XXH3 = FRAME_HEAD_BYTES,
};

const char *const frame_kind_name[FRAME_KIND_COUNT] = {
    [0] = "none",
    [FRAME_HELLO] = "hello",
    [FRAME_WELCOME] = "welcome",
    [FRAME_REFUSE] = "refuse",
    [FRAME_MODEL] = "model",
    [FRAME_TASK] = "task",
    [FRAME_GRANT] = "grant",
    [FRAME_UPDATE] = "update",
    [FRAME_FAIL] = "fail",
    [FRAME_ACK] = "ack",
    [FRAME_EVENTS] = "events",
    [FRAME_PING] = "ping",
    [FRAME_PONG] = "pong",
    [FRAME_STOP] = "stop",
    [FRAME_BYE] = "bye",
    [FRAME_SLOTS] = "slots",
    [FRAME_SUM] = "sum",
    [FRAME_SAY] = "say",
    [FRAME_ANSWER] = "answer",
    [FRAME_BUSY] = "busy",
    [FRAME_PARCEL] = "parcel",
};

const char *const frame_verdict_name[FRAME_VERDICT_COUNT] = {
    [FRAME_GOOD] = "good",
    [FRAME_SHORT] = "shorter than a header",
    [FRAME_ALIEN] = "not a frame (no magic)",
    [FRAME_GARBLED] = "damaged header",
    [FRAME_PROTOCOL_OTHER] = "another protocol version",
    [FRAME_KIND_UNKNOWN] = "unknown kind",
    [FRAME_TOO_LONG] = "longer than the negotiated maximum",
    [FRAME_LENGTH] = "not as long as it says",
    [FRAME_REGISTRY] = "another shape registry",
    [FRAME_PAYLOAD] = "damaged payload",
};

// XXH3 over the header without the two hashes. 32 of its 64 bits: a flipped bit slips through once
// in four billion, and a test flips every single one.
static uint32_t header_hash(const uint8_t h[FRAME_HEAD_BYTES])
{
    uint8_t rest[FRAME_HEAD_BYTES - 4];
    memcpy(rest, h, AT_HEADER_HASH);
    memcpy(rest + AT_HEADER_HASH, h + AT_PAYLOAD_BYTES, FRAME_HEAD_BYTES - AT_PAYLOAD_BYTES);
    return (uint32_t)XXH3_64bits(rest, sizeof rest);
}

static const struct xxh3_kit *fastest(void)
{
    static const struct xxh3_kit *kit;
    if (!kit)
        kit = xxh3_avx512() ? xxh3_avx512() : xxh3_avx2() ? xxh3_avx2() : &xxh3_kit;
    return kit;
}

uint64_t frame_hash(const uint8_t *payload, uint64_t n)
{
    return fastest()->hash(payload, n);
}

void frame_hasher_begin(struct frame_hasher *h)
{
    fastest()->begin(h->state);
}

void frame_hasher_add(struct frame_hasher *h, const uint8_t *bytes, size_t n)
{
    fastest()->add(h->state, bytes, n);
}

uint64_t frame_hasher_end(const struct frame_hasher *h)
{
    return fastest()->end(h->state);
}

void frame_write(const struct frame *f, uint8_t h[FRAME_HEADER_BYTES])
{
    put_u32(h + AT_MAGIC, FRAME_MAGIC);
    put_u16(h + AT_PROTOCOL, FRAME_PROTOCOL);
    put_u16(h + AT_HEADER_BYTES, FRAME_HEADER_BYTES);
    put_u8(h + AT_KIND, f->kind);
    put_u8(h + AT_FLAGS, f->flags);
    put_u16(h + AT_CODEC, f->codec);
    put_u32(h + AT_VERSION, f->version);
    put_u32(h + AT_CLIENT, f->client);
    put_u8(h + AT_VECTORS, f->vectors);
    put_u8(h + AT_REASON, f->reason);
    put_u16(h + AT_ATTEMPT, f->attempt);
    put_u32(h + AT_SAMPLES, f->samples);
    put_f32(h + AT_LOSS, f->loss);
    put_u64(h + AT_REGISTRY, f->registry);
    put_u32(h + AT_VALUES, f->values);
    put_u64(h + AT_PAYLOAD_BYTES, f->payload_bytes);
    put_u64(h + AT_PAYLOAD_XXH3, f->payload_xxh3);
    put_u32(h + AT_HEADER_HASH, header_hash(h));
}

void frame_seal(struct frame *f, uint8_t header[FRAME_HEADER_BYTES], const uint8_t *payload)
{
    f->payload_xxh3 = f->flags & FRAME_CHECKSUM ? frame_hash(payload, f->payload_bytes) : 0;
    frame_write(f, header);
}

static void frame_read(const uint8_t h[FRAME_HEAD_BYTES], struct frame *f)
{
    f->kind = h[AT_KIND];
    f->flags = h[AT_FLAGS];
    f->codec = get_u16(h + AT_CODEC);
    f->version = get_u32(h + AT_VERSION);
    f->client = get_u32(h + AT_CLIENT);
    f->vectors = h[AT_VECTORS];
    f->reason = h[AT_REASON];
    f->attempt = get_u16(h + AT_ATTEMPT);
    f->samples = get_u32(h + AT_SAMPLES);
    f->loss = get_f32(h + AT_LOSS);
    f->registry = get_u64(h + AT_REGISTRY);
    f->values = get_u32(h + AT_VALUES);
    f->payload_bytes = get_u64(h + AT_PAYLOAD_BYTES);
}

// Only frames with values depend on the shapes: a hello is sent before they are agreed and a ping
// needs none, so those may carry 0. Anything else must be the agreed hash.
static bool registry_agrees(const struct frame *f, const struct frame_limits *limits)
{
    if (limits->registry == 0 || f->registry == limits->registry)
        return true;
    bool has_values = f->kind == FRAME_MODEL || f->kind == FRAME_UPDATE || f->vectors > 0;
    return f->registry == 0 && !has_values;
}

static enum frame_verdict open_head(const uint8_t *bytes, uint64_t max_payload_bytes,
                                    struct frame *f)
{
    if (get_u32(bytes + AT_MAGIC) != FRAME_MAGIC)
        return FRAME_ALIEN;
    frame_read(bytes, f);
    if (get_u32(bytes + AT_HEADER_HASH) != header_hash(bytes))
        return FRAME_GARBLED;
    // A whole header with flags that this version has no meaning for was written by another
    // version.
    if (get_u16(bytes + AT_PROTOCOL) != FRAME_PROTOCOL ||
        get_u16(bytes + AT_HEADER_BYTES) != FRAME_HEADER_BYTES ||
        (f->flags & ~(FRAME_CHECKSUM | FRAME_PACED)) != 0)
        return FRAME_PROTOCOL_OTHER;
    if (f->kind == 0 || f->kind >= FRAME_KIND_COUNT)
        return FRAME_KIND_UNKNOWN;
    return f->payload_bytes > max_payload_bytes ? FRAME_TOO_LONG : FRAME_GOOD;
}

enum frame_verdict frame_open_head(const uint8_t head[FRAME_HEAD_BYTES],
                                   const struct frame_limits *limits, struct frame *f)
{
    memset(f, 0, sizeof *f);
    enum frame_verdict v = open_head(head, limits->max_payload_bytes, f);
    if (v == FRAME_GOOD && !registry_agrees(f, limits))
        return FRAME_REGISTRY;
    return v;
}

// hash: of the payload, NULL = take it here.
static enum frame_verdict open_whole(const uint8_t *bytes, size_t len,
                                     const struct frame_limits *limits, const uint64_t *hash,
                                     struct frame *f)
{
    memset(f, 0, sizeof *f);
    if (len < FRAME_HEADER_BYTES)
        return FRAME_SHORT;
    size_t payload_len = len - FRAME_HEADER_BYTES;
    enum frame_verdict v = open_head(bytes, limits->max_payload_bytes, f);
    f->payload_xxh3 = v == FRAME_ALIEN ? 0 : get_u64(bytes + AT_PAYLOAD_XXH3);
    if (v != FRAME_GOOD)
        return v;
    if (payload_len > limits->max_payload_bytes)
        return FRAME_TOO_LONG; // nothing beyond the header has been read up to here
    if (f->payload_bytes != payload_len)
        return FRAME_LENGTH;
    if (!registry_agrees(f, limits))
        return FRAME_REGISTRY;
    uint64_t want = 0;
    if (f->flags & FRAME_CHECKSUM)
        want = hash ? *hash : frame_hash(bytes + FRAME_HEADER_BYTES, f->payload_bytes);
    return f->payload_xxh3 == want ? FRAME_GOOD : FRAME_PAYLOAD;
}

enum frame_verdict frame_open(const uint8_t *bytes, size_t len, const struct frame_limits *limits,
                              struct frame *f)
{
    return open_whole(bytes, len, limits, NULL, f);
}

enum frame_verdict frame_open_hashed(const uint8_t *bytes, size_t len,
                                     const struct frame_limits *limits, uint64_t payload_xxh3,
                                     struct frame *f)
{
    return open_whole(bytes, len, limits, &payload_xxh3, f);
}
