// Messages cut into blocks: every block decodes alone, together they say what the message said, bit
// for bit, and what one of them says does not depend on the others.
#include "base/fsio.h"
#include "codec_cases.h"
#include "fed/datagram.h"

#include <stdlib.h>

struct trial {
    struct session s;
    size_t n, room;
    float *x, *acc, *want;
    uint8_t *block;
    void *cut, *decode;
};

static void trial_open(struct trial *t, const char *text, size_t room)
{
    session_open(&t->s, text);
    t->n = t->s.shape.n_values;
    t->room = room;
    t->x = mem_alloc(MEM_CODEC, t->n * sizeof *t->x);
    t->acc = mem_alloc(MEM_CODEC, t->n * sizeof *t->acc);
    t->want = mem_alloc(MEM_CODEC, t->n * sizeof *t->want);
    t->block = mem_alloc(MEM_CODEC, room);
    bool can = blocks_can(t->s.c);
    t->cut = mem_alloc(MEM_CODEC, can ? blocks_cut_bytes(t->s.c, room) : 1);
    t->decode = mem_alloc(MEM_CODEC, can ? blocks_decode_bytes(t->s.c, room) : 1);
    fill(t->x, t->n, DIST_STUDENT3, 5);
}

static void trial_close(struct trial *t)
{
    session_close(&t->s);
    mem_free(t->x);
    mem_free(t->acc);
    mem_free(t->want);
    mem_free(t->block);
    mem_free(t->cut);
    mem_free(t->decode);
}

static int64_t sum_of(const struct codec_parts *p)
{
    return p->header + p->directory + p->scales + p->indices + p->tags + p->values;
}

// Cuts a message of the codec and adds up its blocks, all but each lose-th (0: all) over a base.
// Returns how many there were.
static int join(struct trial *t, int64_t len, int lose)
{
    struct codec_key key = key_of(3);
    struct block_cut cut;
    struct codec_parts parts = {0};
    int64_t total = 0;
    int blocks = 0;
    for (size_t i = 0; i < t->n; i++)
        t->acc[i] = t->want[i] = (float)(i % 11) * 0.25f;
    assert_int_equal(codec_decode_add(t->s.c, &key, t->s.msg, (size_t)len, 3.0f, t->want,
                                      t->s.scratch, &t->s.err),
                     0);
    assert_int_equal(
        blocks_cut(&cut, t->s.c, &key, t->s.msg, (size_t)len, t->room, t->cut, &t->s.err), 0);
    for (size_t at = 0, to; at < t->n; at = to, blocks++) {
        int64_t got = blocks_next(&cut, at, t->room, t->block, &to, &parts);
        if (got < 0 || to <= at)
            fail_msg("%s: nothing fits into %zu bytes at %zu", t->s.c->text, t->room, at);
        assert_true(got <= (int64_t)t->room);
        total += got;
        bool lost = lose && blocks % lose == 0;
        for (size_t i = at; i < to && lost; i++)
            t->want[i] = (float)(i % 11) * 0.25f;
        if (!lost &&
            blocks_decode(t->s.c, &key, (struct shape_range){at, to}, t->block, (size_t)got,
                          (struct quant_sink){t->acc, 3.0f, true}, t->decode, &t->s.err))
            fail_msg("%s: own block refused: %s", t->s.c->text, t->s.err.text);
    }
    assert_int_equal(sum_of(&parts), total);
    return blocks;
}

static void check_same(const struct trial *t)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->acc[i] != t->want[i])
            fail_msg("%s, room %zu: value %zu is %a, not %a", t->s.c->text, t->room, i,
                     (double)t->acc[i], (double)t->want[i]);
}

static void check_shape(void (*shape)(struct shape *s), size_t room, bool several)
{
    int cut = 0;
    for (const char *const *text = codec_cases; *text; text++) {
        struct trial t;
        shape(&t.s.shape);
        trial_open(&t, *text, room);
        if (blocks_can(t.s.c)) {
            int64_t len = session_encode(&t.s, t.x, key_of(3), codec_bound(t.s.c));
            assert_true(len > 0);
            int blocks = join(&t, len, 0);
            check_same(&t);
            assert_true(!several || len < 2 * (int64_t)room || blocks > 1);
            join(&t, len, 3);
            check_same(&t);
            cut++;
        }
        trial_close(&t);
        shape_free(&t.s.shape);
    }
    assert_true(cut > 30);
}

static void shape_many(struct shape *s)
{
    shape_init(s);
    for (int i = 0; i < 12; i++) {
        shape_add(s, "A", 4, 333, SHAPE_LORA_A);
        shape_add(s, "B", 256, 4, SHAPE_LORA_B);
    }
    shape_seal(s);
}

static void test_blocks_say_what_the_message_said(void **state)
{
    (void)state;
    check_shape(shape_two, 1360, true);
    check_shape(shape_two, 300, true);
    check_shape(shape_odd, 256, true);
    check_shape(shape_many, 411, true);
}

// As many bytes as the codec's own groups and tables make of it, and not many more.
static void test_overhead(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double most; // bytes of blocks to bytes of the message
    } cases[] = {{"fp32", 1.01}, {"int8", 1.02},           {"int4", 1.02},
                 {"sign", 1.02}, {"topk:ratio=0.3", 1.06}, {"fstq:importance=magnitude", 1.12}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct trial t;
        shape_many(&t.s.shape);
        trial_open(&t, cases[i].text, 1400);
        int64_t len = session_encode(&t.s, t.x, key_of(3), codec_bound(t.s.c)), total = 0;
        struct codec_key key = key_of(3);
        struct codec_parts parts = {0};
        struct block_cut cut;
        int blocks = 0;
        assert_int_equal(
            blocks_cut(&cut, t.s.c, &key, t.s.msg, (size_t)len, t.room, t.cut, &t.s.err), 0);
        for (size_t at = 0; at < t.n; blocks++)
            total += blocks_next(&cut, at, t.room, t.block, &at, &parts);
        if ((double)total > cases[i].most * (double)len)
            fail_msg("%s: %lld bytes of blocks of %lld", cases[i].text, (long long)total,
                     (long long)len);
        // All but the last are full.
        assert_true((double)total > 0.95 * (double)t.room * (blocks - 1));
        trial_close(&t);
        shape_free(&t.s.shape);
    }
}

static void test_who_can(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool can;
    } cases[] = {{"fp32", true},      {"int8", true},
                 {"int4", true},      {"sign", true},
                 {"topk", true},      {"fstq", true},
                 {"topk+ef", true},   {"stc", true},
                 {"sign+ef", true},   {"sign+ef+zstd", false},
                 {"randk", false},    {"int4+zstd", false},
                 {"onebit", false},   {"uniform:round=dither", false},
                 {"powersgd", false}, {"ecolora:segments=3", false},
                 {"signsgd", false},  {"nf4:scale=log8", false}};
    struct shape shape;
    shape_two(&shape);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err;
        struct codec_inst *c = codec_open(cases[i].text, &shape, &err);
        assert_non_null(c);
        if (blocks_can(c) != cases[i].can)
            fail_msg("%s: can it be cut?", cases[i].text);
        codec_close(c);
    }
    shape_free(&shape);
}

// A run that is none, bytes that are cut off or too many: refused, and nothing moves.
static void test_refusals(void **state)
{
    (void)state;
    struct trial t;
    struct codec_key key = key_of(3);
    struct block_cut cut;
    struct codec_parts parts = {0};
    size_t to;
    shape_two(&t.s.shape);
    trial_open(&t, "int4", 200);
    int64_t len = session_encode(&t.s, t.x, key, codec_bound(t.s.c));
    assert_int_equal(blocks_cut(&cut, t.s.c, &key, t.s.msg, (size_t)len, 200, t.cut, &t.s.err), 0);
    assert_int_equal(blocks_next(&cut, 0, 3, t.block, &to, &parts), -1);
    int64_t got = blocks_next(&cut, 64, 200, t.block, &to, &parts);
    assert_true(got > 0);
    const struct {
        size_t from, to, len;
    } bad[] = {{64, to, (size_t)got - 1},  {64, to - 8, (size_t)got},
               {64, to + 8, (size_t)got},  {65, to, (size_t)got},
               {64, to - 1, (size_t)got},  {to, 64, (size_t)got},
               {64, t.n + 8, (size_t)got}, {t.n + 8, t.n + 16, (size_t)got}};
    struct quant_sink sink = {t.acc, 1, true};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memset(t.acc, 0, t.n * sizeof *t.acc);
        assert_int_equal(blocks_decode(t.s.c, &key, (struct shape_range){bad[i].from, bad[i].to},
                                       t.block, bad[i].len, sink, t.decode, &t.s.err),
                         -1);
        for (size_t k = 0; k < t.n; k++)
            assert_true(t.acc[k] == 0);
    }
    trial_close(&t);
    shape_free(&t.s.shape);
}

// Updates in segments, one of which is lost: what is heard is what was sent, in order, each with
// what it says of its client; a byte that changed on the way is not.
static void test_datagrams(void **state)
{
    (void)state;
    struct trial t;
    struct codec_key key = key_of(3);
    shape_many(&t.s.shape);
    trial_open(&t, "int8", DATAGRAM_ROOM);
    int64_t len = session_encode(&t.s, t.x, key, codec_bound(t.s.c));
    struct view_part part = {.shape = t.s.shape, .vector[0].codec = t.s.c};
    struct frame head = {.client = 5, .version = 3, .samples = 40, .loss = 0.5f};
    struct datagram_update u = {.head = &head,
                                .registry = 77,
                                .part = &part,
                                .n_vectors = 1,
                                .key = {key},
                                .message = {t.s.msg},
                                .len = {(size_t)len}};
    size_t cap = 2 * (size_t)len;
    uint8_t *out = mem_alloc(MEM_CODEC, cap);
    int64_t size = datagram_put(&u, out, cap, t.cut, &t.s.err);
    assert_true(size > len && (double)size < 1.06 * (double)len);
    assert_int_equal(u.bytes[0], size);
    assert_int_equal(datagram_put(&u, out, (size_t)len, t.cut, &t.s.err), -1);
    assert_int_equal(datagram_put(&u, out, cap, t.cut, &t.s.err), size);
    size_t segments = (size_t)loss_segments(size + FRAME_HEADER_BYTES);
    assert_true(segments > 10 && segments < 64);
    uint8_t heard[8];
    memset(heard, 0xff, sizeof heard);
    heard[0] = 0xf7; // segment 3
    out[7 * LOSS_SEGMENT_BYTES] ^= 1;
    struct datagram_reader r = {out, (size_t)size, heard, 77, 0};
    struct datagram_block b;
    size_t n = 0, missing = 0, end = 0;
    for (; datagram_next(&r, &b); n++) {
        assert_true(b.client == 5 && b.version == 3 && b.samples == 40 && b.loss == 0.5f);
        assert_true(b.vector == 0 && b.run.from >= end);
        missing += b.run.from > end;
        end = b.run.to;
    }
    assert_int_equal(n, segments - 2);
    assert_int_equal(missing, 2);
    struct datagram_reader other = {out, (size_t)size, NULL, 78, 0};
    assert_false(datagram_next(&other, &b));
    mem_free(out);
    trial_close(&t);
    shape_free(&t.s.shape);
}

// FSTQ_GOLDEN_WRITE=1: seeds of the fuzz targets.

static const char *const seed_texts[] = {"fp32", "int:bits=4", "sign", "topk:ratio=0.1", "fstq"};
static const struct codec_key seed_key = {.seed = 7, .client = 3, .version = 11};

static void keep_seed(const char *target, const char *name, int i, const uint8_t *bytes, size_t n)
{
    char path[96];
    struct err err;
    snprintf(path, sizeof path, "tests/fuzz/corpus/%s/%s%d", target, name, i);
    assert_int_equal(fsio_replace(path, bytes, n, &err), 0);
}

static void write_block(int i)
{
    struct trial t;
    struct block_cut cut;
    struct codec_parts parts = {0};
    uint8_t seed[4096];
    size_t to, room = 500;
    shape_odd(&t.s.shape);
    trial_open(&t, seed_texts[i], room);
    int64_t len = session_encode(&t.s, t.x, seed_key, codec_bound(t.s.c));
    assert_int_equal(
        blocks_cut(&cut, t.s.c, &seed_key, t.s.msg, (size_t)len, room, t.cut, &t.s.err), 0);
    int n = snprintf((char *)seed, sizeof seed, "%s\n%c", seed_texts[i], 16 + 1);
    int64_t got = blocks_next(&cut, 64, room, seed + n + 4, &to, &parts);
    put_u16(seed + n, 64);
    put_u16(seed + n + 2, (uint16_t)to);
    keep_seed("codec", "block", i, seed, (size_t)(n + 4 + got));
    trial_close(&t);
    shape_free(&t.s.shape);
}

static void write_datagrams(int i)
{
    enum { CAP = 1 << 16, KEPT = 3000 }; // two segments and a part of a third
    struct trial t;
    shape_init(&t.s.shape);
    shape_add(&t.s.shape, "A", 8, 503, SHAPE_LORA_A);
    shape_add(&t.s.shape, "B", 517, 8, SHAPE_LORA_B);
    shape_seal(&t.s.shape);
    trial_open(&t, seed_texts[i], DATAGRAM_ROOM);
    int64_t len = session_encode(&t.s, t.x, seed_key, codec_bound(t.s.c));
    struct view_part part = {.shape = t.s.shape, .vector[0].codec = t.s.c};
    struct frame head = {.client = 5, .version = 3, .samples = 40, .loss = 0.5f};
    struct datagram_update u = {.head = &head,
                                .registry = 77,
                                .part = &part,
                                .n_vectors = 1,
                                .key = {seed_key},
                                .message = {t.s.msg},
                                .len = {(size_t)len}};
    uint8_t *out = mem_alloc(MEM_CODEC, CAP);
    int64_t size = datagram_put(&u, out + 2, CAP - 2, t.cut, &t.s.err);
    out[0] = (uint8_t)i;
    out[1] = 0;
    keep_seed("datagram", "case", i, out, 2 + (size_t)(size < KEPT ? size : KEPT));
    mem_free(out);
    trial_close(&t);
    shape_free(&t.s.shape);
}

static void write_seeds(void **state)
{
    (void)state;
    for (int i = 0; getenv("FSTQ_GOLDEN_WRITE") && i < 5; i++) {
        write_block(i);
        write_datagrams(i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_say_what_the_message_said),
        cmocka_unit_test(test_overhead),
        cmocka_unit_test(test_who_can),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_datagrams),
        cmocka_unit_test(write_seeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
