// Any codec text, then any bytes. An input is a text, a newline, a byte of choices, and the rest: a
// message to decode, a run of coordinates and a block about it, or floats to encode. What must
// hold: nothing is read or written out of bounds, a refused message leaves the accumulator as it
// was, what is decoded is finite, and an update that is accepted comes back.
#include "base/mem.h"
#include "codec/blocks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DECODE = 1, ODD_ROUND = 2, SHORT = 4, BUDGET = 8, BLOCK = 16, ROOM = 1416 };

// The shape of the seeds that test_codec writes: odd sizes, an empty tensor, one value, both
// classes.
static void make_shape(struct shape *s)
{
    shape_init(s);
    shape_add(s, "l0.q.A", 4, 33, SHAPE_LORA_A);
    shape_add(s, "l0.q.B", 29, 4, SHAPE_LORA_B);
    shape_add(s, "none", 0, 5, SHAPE_OTHER);
    shape_add(s, "one", 1, 1, SHAPE_OTHER);
    shape_add(s, "l1.q.A", 4, 301, SHAPE_LORA_A);
    shape_add(s, "l1.q.B", 257, 4, SHAPE_LORA_B);
    shape_seal(s);
}

struct room {
    float *x, *acc, *side, *state, *state_next;
    uint8_t *msg;
    void *scratch;
};

static void check(bool ok)
{
    if (!ok)
        abort();
}

// An aggregation of its own takes what decoding takes, and comes out finite.
static void aggregate_any(const struct codec_inst *c, const struct codec_key *key,
                          const uint8_t *in, size_t len, struct room *r)
{
    const struct codec_agg *agg = c->row->agg;
    struct err err = {""};
    size_t n = c->shape->n_values, keep = agg->keep_floats ? agg->keep_floats(c, n) : 0;
    void *state = mem_alloc(MEM_CODEC, agg->state_bytes(c, n) + 1);
    float *kept = mem_alloc(MEM_CODEC, (keep + 1) * sizeof *kept);
    agg->begin(c, state, n);
    int bad = agg->add(c, key, in, len, 1, state, &err);
    check(!bad || err.text[0]);
    agg->finish(c, state, kept, 1, r->acc, n);
    for (size_t i = 0; i < n; i++)
        check(isfinite(r->acc[i]));
    mem_free(kept);
    mem_free(state);
}

static void decode_any(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                       size_t len, struct room *r)
{
    struct err err = {""};
    size_t n = c->shape->n_values;
    for (size_t i = 0; i < n; i++)
        r->acc[i] = 0.5f;
    int bad = codec_decode_add(c, key, in, len, 1.0f, r->acc, r->scratch, &err);
    check(!bad || err.text[0]);
    for (size_t i = 0; i < n; i++)
        check(bad ? r->acc[i] == 0.5f : isfinite(r->acc[i]));
    if (c->row->agg)
        aggregate_any(c, key, in, len, r);
}

// A block: 16 bits where its run begins and 16 where it ends, then its bytes.
static void decode_block(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                         size_t len, struct room *r)
{
    struct err err = {""};
    if (!blocks_can(c) || len < 4 || len - 4 > ROOM)
        return;
    struct shape_range run = {get_u16(in), get_u16(in + 2)};
    size_t n = c->shape->n_values;
    for (size_t i = 0; i < n; i++)
        r->acc[i] = 0.5f;
    void *scratch = mem_alloc(MEM_CODEC, blocks_decode_bytes(c, ROOM));
    int bad = blocks_decode(c, key, run, in + 4, len - 4, (struct quant_sink){r->acc, 1, true},
                            scratch, &err);
    check(!bad || err.text[0]);
    for (size_t i = 0; i < n; i++)
        check(bad || i < run.from || i >= run.to ? r->acc[i] == 0.5f : isfinite(r->acc[i]));
    mem_free(scratch);
}

// A message in blocks comes to what it is. want: decoded.
static void cut_any(const struct codec_inst *c, const struct codec_key *key, size_t len,
                    size_t room, const float *want, struct room *r)
{
    struct err err = {""};
    struct block_cut cut;
    struct codec_parts parts = {0};
    size_t n = c->shape->n_values;
    if (!blocks_can(c))
        return;
    void *scratch = mem_alloc(MEM_CODEC, blocks_cut_bytes(c, room));
    void *other = mem_alloc(MEM_CODEC, blocks_decode_bytes(c, room));
    uint8_t *block = mem_alloc(MEM_CODEC, room);
    check(blocks_cut(&cut, c, key, r->msg, len, room, scratch, &err) == 0);
    for (size_t at = 0, to = 0; at < n; at = to) {
        int64_t got = blocks_next(&cut, at, room, block, &to, &parts);
        check(got >= 0 && got <= (int64_t)room && to > at);
        memset(r->side, 0, n * sizeof *r->side);
        check(blocks_decode(c, key, (struct shape_range){at, to}, block, (size_t)got,
                            (struct quant_sink){r->side, 1, true}, other, &err) == 0);
        for (size_t i = at; i < to; i++)
            check(r->side[i] == want[i]);
    }
    mem_free(block);
    mem_free(other);
    mem_free(scratch);
}

// The floats of the input, over and over.
static void fill(float *x, size_t n, const uint8_t *in, size_t len)
{
    memset(x, 0, n * sizeof *x);
    for (size_t i = 0; i < n && len >= sizeof *x; i++)
        memcpy(&x[i], in + i % (len / sizeof *x) * sizeof *x, sizeof *x);
}

static void encode_any(const struct codec_inst *c, struct codec_key key, uint8_t how,
                       const uint8_t *in, size_t len, struct room *r)
{
    struct err err = {""};
    size_t n = c->shape->n_values, bound = codec_bound(c);
    fill(r->x, n, in, len);
    for (size_t i = 0; i < n; i++)
        r->side[i] = r->x[n - 1 - i];
    struct codec_input input = {.x = r->x,
                                .sens = r->side,
                                .grad = r->side,
                                .state = r->state,
                                .state_next = r->state_next,
                                .key = key,
                                .budget_bytes = how & BUDGET ? (int64_t)(len * 7) : -1};
    if (len >= sizeof input.loss_fall)
        memcpy(&input.loss_fall, in, sizeof input.loss_fall);
    int64_t got = codec_encode(c, &input, r->msg, bound, r->scratch, NULL, &err);
    if (got < 0) {
        check(err.text[0]);
        return;
    }
    decode_any(c, &key, r->msg, (size_t)got, r);
    check(codec_decode(c, &key, r->msg, (size_t)got, r->acc, r->scratch, &err) == 0);
    if (how & BLOCK)
        cut_any(c, &key, (size_t)got, ROOM - len % 1024, r->acc, r);
    if (how & SHORT && got > 0)
        check(codec_encode(c, &input, r->msg, (size_t)got - 1, r->scratch, NULL, &err) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[256];
    struct shape shape;
    struct err err = {""};
    const uint8_t *end = memchr(data, '\n', size);
    size_t head = end ? (size_t)(end - data) : size;
    if (!end || head >= sizeof text || head + 2 > size)
        return 0;
    memcpy(text, data, head);
    text[head] = '\0';
    make_shape(&shape);
    struct codec_inst *c = codec_open(text, &shape, &err);
    check(c || err.text[0]);
    if (c && codec_scratch_bytes(c) < 64 << 20) {
        uint8_t how = data[head + 1];
        size_t n = shape.n_values, st = codec_state_floats(c);
        size_t scratch = how & DECODE ? codec_decode_scratch(c) : codec_scratch_bytes(c);
        struct codec_key key = {.seed = 7, .client = 3, .version = how & ODD_ROUND ? 12 : 11};
        struct room r = {.x = mem_alloc(MEM_CODEC, n * sizeof(float)),
                         .acc = mem_alloc(MEM_CODEC, n * sizeof(float)),
                         .side = mem_alloc(MEM_CODEC, n * sizeof(float)),
                         .state = mem_alloc(MEM_CODEC, (st + 1) * sizeof(float)),
                         .state_next = mem_alloc(MEM_CODEC, (st + 1) * sizeof(float)),
                         .msg = mem_alloc(MEM_CODEC, codec_bound(c)),
                         .scratch = mem_alloc(MEM_CODEC, scratch + 1)};
        if ((how & (DECODE | BLOCK)) == (DECODE | BLOCK))
            decode_block(c, &key, data + head + 2, size - head - 2, &r);
        else if (how & DECODE)
            decode_any(c, &key, data + head + 2, size - head - 2, &r);
        else
            encode_any(c, key, how, data + head + 2, size - head - 2, &r);
        mem_free(r.x);
        mem_free(r.acc);
        mem_free(r.side);
        mem_free(r.state);
        mem_free(r.state_next);
        mem_free(r.msg);
        mem_free(r.scratch);
    }
    codec_close(c);
    shape_free(&shape);
    return 0;
}
