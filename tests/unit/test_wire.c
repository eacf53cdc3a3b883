// The frame: where every field lies, and that nothing damaged, cut, stretched or foreign passes.
#include "base/bytes.h"
#include "net/wire.h"
#include "net/xxh3_x86.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>
#include <xxhash.h>

enum { PAYLOAD = 77, LEN = FRAME_HEADER_BYTES + PAYLOAD };

static const struct frame_limits limits = {.max_payload_bytes = 1000,
                                           .registry = 0x1122334455667788u};

static struct frame example(void)
{
    return (struct frame){.kind = FRAME_UPDATE,
                          .flags = FRAME_CHECKSUM,
                          .codec = 0x0203,
                          .version = 0x04050607,
                          .client = 0x08090a0b,
                          .vectors = 0x0c,
                          .reason = 0x0d,
                          .attempt = 0x0e0f,
                          .samples = 0x10111213,
                          .loss = 1.5f,
                          .registry = limits.registry,
                          .values = 0x14151617,
                          .payload_bytes = PAYLOAD};
}

static void make(uint8_t *bytes, struct frame *f)
{
    for (size_t i = 0; i < f->payload_bytes; i++)
        bytes[FRAME_HEADER_BYTES + i] = (uint8_t)(i * 7 + 3);
    frame_seal(f, bytes, bytes + FRAME_HEADER_BYTES);
}

// Signs whatever stands in the header, as a sender with other ideas would.
static void sign(uint8_t *h)
{
    uint8_t rest[52];
    memcpy(rest, h, 44);
    memcpy(rest + 44, h + 48, 8);
    put_u32(h + 44, (uint32_t)XXH3_64bits(rest, sizeof rest));
}

static enum frame_verdict open_with(const uint8_t *bytes, size_t len)
{
    struct frame f;
    return frame_open(bytes, len, &limits, &f);
}

static void fields_lie_where_they_should(void **state)
{
    (void)state;
    uint8_t b[LEN];
    struct frame f = example();
    make(b, &f);
    static const uint8_t head[44] = {'F',  'S',  'T',  'Q',  3,    0,    64,   0,    FRAME_UPDATE,
                                     1,    0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0x0b, 0x0a,
                                     0x09, 0x08, 0x0c, 0x0d, 0x0f, 0x0e, 0x13, 0x12, 0x11,
                                     0x10, 0,    0,    0xc0, 0x3f, 0x88, 0x77, 0x66, 0x55,
                                     0x44, 0x33, 0x22, 0x11, 0x17, 0x16, 0x15, 0x14};
    assert_memory_equal(b, head, sizeof head);
    assert_int_equal(get_u64(b + 48), PAYLOAD);
    assert_true(get_u64(b + 56) == XXH3_64bits(b + FRAME_HEADER_BYTES, PAYLOAD));
    assert_true(f.payload_xxh3 == get_u64(b + 56));
    uint32_t signature = get_u32(b + 44);
    sign(b);
    assert_int_equal(get_u32(b + 44), signature);
    assert_int_equal(b[FRAME_AT_KIND], FRAME_UPDATE);
    assert_int_equal(get_u32(b + FRAME_AT_CLIENT), f.client);
}

static void what_was_sealed_is_read(void **state)
{
    (void)state;
    uint8_t b[LEN];
    struct frame f = example(), g;
    make(b, &f);
    assert_int_equal(frame_open(b, LEN, &limits, &g), FRAME_GOOD);
    assert_int_equal(g.kind, f.kind);
    assert_int_equal(g.flags, f.flags);
    assert_int_equal(g.codec, f.codec);
    assert_int_equal(g.version, f.version);
    assert_int_equal(g.client, f.client);
    assert_int_equal(g.vectors, f.vectors);
    assert_int_equal(g.reason, f.reason);
    assert_int_equal(g.attempt, f.attempt);
    assert_int_equal(g.samples, f.samples);
    assert_true(g.loss == f.loss);
    assert_true(g.registry == f.registry);
    assert_int_equal(g.values, f.values);
    assert_true(g.payload_bytes == f.payload_bytes);
    assert_true(g.payload_xxh3 == f.payload_xxh3);
    for (int kind = 1; kind < FRAME_KIND_COUNT; kind++) {
        f.kind = (uint8_t)kind;
        make(b, &f);
        assert_int_equal(open_with(b, LEN), FRAME_GOOD);
        assert_non_null(frame_kind_name[kind]);
    }
    for (int v = 0; v < FRAME_VERDICT_COUNT; v++)
        assert_non_null(frame_verdict_name[v]);
}

static void every_flipped_bit_is_found(void **state)
{
    (void)state;
    uint8_t b[LEN];
    struct frame f = example();
    make(b, &f);
    for (size_t bit = 0; bit < 8 * LEN; bit++) {
        b[bit / 8] = (uint8_t)(b[bit / 8] ^ (1u << bit % 8));
        enum frame_verdict v = open_with(b, LEN);
        assert_int_equal(v, bit < 32                     ? FRAME_ALIEN
                            : bit < 8 * FRAME_HEAD_BYTES ? FRAME_GARBLED
                                                         : FRAME_PAYLOAD);
        b[bit / 8] = (uint8_t)(b[bit / 8] ^ (1u << bit % 8));
    }
    assert_int_equal(open_with(b, LEN), FRAME_GOOD);
}

static void every_pair_of_header_bits_is_found(void **state)
{
    (void)state;
    uint8_t b[LEN];
    struct frame f = example();
    make(b, &f);
    for (size_t i = 0; i < 8 * FRAME_HEADER_BYTES; i++) {
        b[i / 8] = (uint8_t)(b[i / 8] ^ (1u << i % 8));
        for (size_t k = 0; k < i; k++) {
            b[k / 8] = (uint8_t)(b[k / 8] ^ (1u << k % 8));
            assert_int_not_equal(open_with(b, LEN), FRAME_GOOD);
            b[k / 8] = (uint8_t)(b[k / 8] ^ (1u << k % 8));
        }
        b[i / 8] = (uint8_t)(b[i / 8] ^ (1u << i % 8));
    }
}

// Each length in a block of its own, so that a sanitizer sees a read past the end.
static void every_truncation_is_found(void **state)
{
    (void)state;
    uint8_t b[LEN + 8] = {0};
    struct frame f = example();
    make(b, &f);
    for (size_t len = 0; len <= LEN + 8; len++) {
        uint8_t *cut = malloc(len ? len : 1);
        assert_non_null(cut);
        memcpy(cut, b, len);
        assert_int_equal(open_with(cut, len), len < FRAME_HEADER_BYTES ? FRAME_SHORT
                                              : len == LEN             ? FRAME_GOOD
                                                                       : FRAME_LENGTH);
        free(cut);
    }
}

static void forged_headers_are_told_apart(void **state)
{
    (void)state;
    uint8_t b[LEN];
    struct frame f = example(), g;
    make(b, &f);
    put_u16(b + 4, FRAME_PROTOCOL + 1);
    sign(b);
    assert_int_equal(open_with(b, LEN), FRAME_PROTOCOL_OTHER);
    make(b, &f);
    put_u16(b + 6, 80);
    sign(b);
    assert_int_equal(open_with(b, LEN), FRAME_PROTOCOL_OTHER);
    make(b, &f);
    b[9] = 0x81;
    sign(b);
    assert_int_equal(open_with(b, LEN), FRAME_PROTOCOL_OTHER);
    for (int kind = 0; kind < 256; kind++) {
        make(b, &f);
        b[8] = (uint8_t)kind;
        sign(b);
        assert_int_equal(open_with(b, LEN),
                         kind == 0 || kind >= FRAME_KIND_COUNT ? FRAME_KIND_UNKNOWN : FRAME_GOOD);
    }
    make(b, &f);
    b[9] = 0; // the flag is gone, the hash is still there
    sign(b);
    assert_int_equal(open_with(b, LEN), FRAME_PAYLOAD);
    // What could be read is handed on even so.
    assert_int_equal(frame_open(b, LEN, &limits, &g), FRAME_PAYLOAD);
    assert_int_equal(g.client, f.client);
}

static void lengths_are_checked_before_the_payload(void **state)
{
    (void)state;
    static const uint64_t lies[] = {0,         1,          PAYLOAD - 1,    PAYLOAD + 1,
                                    1000,      1001,       UINT32_MAX,     (uint64_t)UINT32_MAX + 1,
                                    INT64_MAX, UINT64_MAX, UINT64_MAX - 63};
    uint8_t b[LEN];
    struct frame f = example();
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        make(b, &f);
        put_u64(b + 48, lies[i]);
        sign(b);
        assert_int_equal(open_with(b, LEN), lies[i] > 1000 ? FRAME_TOO_LONG : FRAME_LENGTH);
        struct frame_limits no_limit = {.max_payload_bytes = UINT64_MAX};
        struct frame g;
        assert_int_equal(frame_open(b, LEN, &no_limit, &g), FRAME_LENGTH);
    }
    // A message over the limit may be handed over by its header alone.
    uint8_t *header = malloc(FRAME_HEADER_BYTES);
    assert_non_null(header);
    make(b, &f);
    memcpy(header, b, FRAME_HEADER_BYTES);
    assert_int_equal(open_with(header, 5000), FRAME_TOO_LONG);
    free(header);
}

static void shapes_must_be_those_agreed(void **state)
{
    (void)state;
    uint8_t b[LEN];
    struct frame f = example(), g;
    const struct frame_limits unagreed = {.max_payload_bytes = 1000};
    f.registry ^= 1;
    make(b, &f);
    assert_int_equal(open_with(b, LEN), FRAME_REGISTRY);
    assert_int_equal(frame_open(b, LEN, &unagreed, &g), FRAME_GOOD);
    f.registry = 0; // none at all: only where no values travel
    make(b, &f);
    assert_int_equal(open_with(b, LEN), FRAME_REGISTRY);
    f.kind = FRAME_HELLO;
    make(b, &f);
    assert_int_equal(open_with(b, LEN), FRAME_REGISTRY); // says it carries vectors
    f.vectors = 0;
    make(b, &f);
    assert_int_equal(open_with(b, LEN), FRAME_GOOD);
    f.kind = FRAME_MODEL;
    make(b, &f);
    assert_int_equal(open_with(b, LEN), FRAME_REGISTRY);
}

static void without_checksum_the_header_still_holds(void **state)
{
    (void)state;
    uint8_t b[LEN];
    struct frame f = example();
    f.flags = 0;
    f.payload_xxh3 = 99;
    make(b, &f);
    assert_true(f.payload_xxh3 == 0);
    assert_int_equal(open_with(b, LEN), FRAME_GOOD);
    b[FRAME_HEADER_BYTES] ^= 1;
    assert_int_equal(open_with(b, LEN), FRAME_GOOD); // nobody looked
    b[40] ^= 1;
    assert_int_equal(open_with(b, LEN), FRAME_GARBLED);
}

static void empty_payloads_are_frames(void **state)
{
    (void)state;
    uint8_t *b = malloc(FRAME_HEADER_BYTES);
    assert_non_null(b);
    struct frame f = example();
    f.payload_bytes = 0;
    frame_seal(&f, b, b + FRAME_HEADER_BYTES);
    assert_int_equal(open_with(b, FRAME_HEADER_BYTES), FRAME_GOOD);
    free(b);
}

// A head alone: every verdict that needs no payload, and nothing behind its 56 bytes is read.
static void heads_stand_alone(void **state)
{
    (void)state;
    uint8_t b[LEN];
    struct frame f = example(), g;
    make(b, &f);
    uint8_t *head = malloc(FRAME_HEAD_BYTES);
    assert_non_null(head);
    memcpy(head, b, FRAME_HEAD_BYTES);
    assert_int_equal(frame_open_head(head, &limits, &g), FRAME_GOOD);
    assert_true(g.payload_bytes == PAYLOAD && g.client == f.client && g.payload_xxh3 == 0);
    for (size_t bit = 0; bit < 8 * FRAME_HEAD_BYTES; bit++) {
        head[bit / 8] = (uint8_t)(head[bit / 8] ^ (1u << bit % 8));
        assert_int_equal(frame_open_head(head, &limits, &g),
                         bit < 32 ? FRAME_ALIEN : FRAME_GARBLED);
        head[bit / 8] = (uint8_t)(head[bit / 8] ^ (1u << bit % 8));
    }
    put_u64(head + 48, limits.max_payload_bytes + 1);
    sign(head);
    assert_int_equal(frame_open_head(head, &limits, &g), FRAME_TOO_LONG);
    put_u64(head + 48, limits.max_payload_bytes);
    put_u64(head + 32, limits.registry + 1);
    sign(head);
    assert_int_equal(frame_open_head(head, &limits, &g), FRAME_REGISTRY);
    free(head);
}

// With the hash taken elsewhere the payload is not read, and any other hash is damage.
static void a_hash_taken_on_the_way_counts(void **state)
{
    (void)state;
    uint8_t b[LEN];
    struct frame f = example(), g;
    make(b, &f);
    uint64_t hash = f.payload_xxh3;
    b[LEN - 1] ^= 1;
    assert_int_equal(frame_open(b, LEN, &limits, &g), FRAME_PAYLOAD);
    assert_int_equal(frame_open_hashed(b, LEN, &limits, hash, &g), FRAME_GOOD);
    assert_int_equal(frame_open_hashed(b, LEN, &limits, hash ^ 1, &g), FRAME_PAYLOAD);
    assert_int_equal(frame_open_hashed(b, LEN - 1, &limits, hash, &g), FRAME_LENGTH);
}

// Piece by piece the hash is that of the whole, wherever it is cut.
static void hashes_grow(void **state)
{
    (void)state;
    enum { MOST = 3 * FRAME_PART_BYTES + 77 };
    uint8_t *b = malloc(MOST);
    assert_non_null(b);
    for (size_t i = 0; i < MOST; i++)
        b[i] = (uint8_t)(i * 131 + (i >> 7) + (i >> 16));
    static const size_t pieces[] = {1, 63, 1000, 65536, FRAME_PART_BYTES, MOST};
    static const size_t sizes[] = {0, 1, 239, 241, 5000, 2 * FRAME_PART_BYTES, MOST};
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            struct frame_hasher h;
            frame_hasher_begin(&h);
            for (size_t at = 0; at < sizes[k]; at += pieces[p])
                frame_hasher_add(&h, b + at, sizes[k] - at < pieces[p] ? sizes[k] - at : pieces[p]);
            assert_true(frame_hasher_end(&h) == XXH3_64bits(b, sizes[k]));
        }
    free(b);
}

// The fast paths and the library agree at every size around the vector code's blocks and stripes.
static void hashes_agree(void **state)
{
    (void)state;
    enum { MOST = 70000 };
    uint8_t *b = malloc(MOST + 3);
    assert_non_null(b);
    for (size_t i = 0; i < MOST + 3; i++)
        b[i] = (uint8_t)(i * 131 + (i >> 7));
    for (size_t n = 0; n < MOST; n += n < 3000 ? 1 : 997)
        for (size_t at = 0; at < 3; at++) {
            uint64_t want = XXH3_64bits(b + at, n);
            assert_true(frame_hash(b + at, n) == want);
            if (xxh3_avx2())
                assert_true(xxh3_avx2()->hash(b + at, n) == want);
            if (xxh3_avx512())
                assert_true(xxh3_avx512()->hash(b + at, n) == want);
        }
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_lie_where_they_should),
        cmocka_unit_test(what_was_sealed_is_read),
        cmocka_unit_test(heads_stand_alone),
        cmocka_unit_test(a_hash_taken_on_the_way_counts),
        cmocka_unit_test(hashes_grow),
        cmocka_unit_test(every_flipped_bit_is_found),
        cmocka_unit_test(every_pair_of_header_bits_is_found),
        cmocka_unit_test(every_truncation_is_found),
        cmocka_unit_test(forged_headers_are_told_apart),
        cmocka_unit_test(lengths_are_checked_before_the_payload),
        cmocka_unit_test(shapes_must_be_those_agreed),
        cmocka_unit_test(without_checksum_the_header_still_holds),
        cmocka_unit_test(empty_payloads_are_frames),
        cmocka_unit_test(hashes_agree),
    };
    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
