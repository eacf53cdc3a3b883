#include "codec/blocks.h"

#include "base/mem.h"

#include <assert.h>
#include <string.h>

const struct codec_blocks blocks_inner = {.can = NULL};

// The codec whose messages these are.
static const struct codec_inst *coder_of(const struct codec_inst *c)
{
    while (c->row->blocks == &blocks_inner)
        c = c->inner;
    return c;
}

bool blocks_can(const struct codec_inst *c)
{
    c = coder_of(c);
    return c->row->blocks && (!c->row->blocks->can || c->row->blocks->can(c));
}

// A block's shape.

// A cut inside a group makes one piece more.
static uint32_t pieces_most(const struct codec_inst *c)
{
    return c->shape->n_tensors + 1;
}

static size_t block_bytes(const struct codec_inst *c)
{
    size_t n = pieces_most(c);
    return SCRATCH_ROUND(n * sizeof(struct shape_tensor)) + SCRATCH_ROUND(n * sizeof(uint32_t)) +
           SCRATCH_ROUND(n * sizeof(size_t));
}

static void block_lay(struct block *b, const struct codec_inst *c, void **scratch)
{
    size_t n = pieces_most(c);
    b->shape.tensors = scratch_take(scratch, n * sizeof *b->shape.tensors);
    b->tensor = scratch_take(scratch, n * sizeof *b->tensor);
    b->skip = scratch_take(scratch, n * sizeof *b->skip);
    b->part = *c;
}

static size_t tensor_values(const struct shape_tensor *t)
{
    return (size_t)t->rows * t->cols;
}

// The first tensor that ends behind pos.
static uint32_t first_tensor(const struct shape *s, size_t pos)
{
    uint32_t low = 0, high = s->n_tensors;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (s->tensors[mid].offset + tensor_values(&s->tensors[mid]) > pos)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

static void add_piece(struct block *b, const struct shape *s, uint32_t t, size_t at, size_t n)
{
    uint32_t i = b->shape.n_tensors++;
    b->shape.tensors[i] = (struct shape_tensor){
        .rows = 1, .cols = (uint32_t)n, .kind = s->tensors[t].kind, .offset = b->shape.n_values};
    b->shape.n_values += n;
    b->tensor[i] = t;
    b->skip[i] = at - s->tensors[t].offset;
}

// Groups lie in pieces as they did in tensors: what is left of one that was cut is a piece.
static void block_set(struct block *b, const struct codec_inst *c, struct shape_range run,
                      size_t bytes)
{
    const struct shape *s = c->shape;
    size_t group = c->row->blocks->group ? c->row->blocks->group(c) : 0;
    b->range = run;
    b->shape.n_tensors = 0;
    b->shape.n_values = 0;
    for (uint32_t t = first_tensor(s, run.from); t < s->n_tensors; t++) {
        const struct shape_tensor *row = &s->tensors[t];
        size_t at = row->offset > run.from ? row->offset : run.from, end = row->offset;
        end += tensor_values(row);
        end = end < run.to ? end : run.to;
        if (row->offset >= run.to)
            break;
        if (at >= end)
            continue;
        size_t used = group ? (at - row->offset) % group : 0, rest = used ? group - used : 0;
        rest = rest < end - at ? rest : end - at;
        if (rest)
            add_piece(b, s, t, at, rest);
        if (at + rest < end)
            add_piece(b, s, t, at + rest, end - at - rest);
    }
    b->part.shape = &b->shape;
    b->part.block_bytes = bytes;
}

// Cutting.

// All of an update with a piece more in front, which puts the others out of step with bytes: no
// block needs more room.
struct worst {
    struct shape shape;
    struct codec_inst part;
};

static struct shape_tensor *worst_case(struct worst *w, const struct codec_inst *c, size_t room)
{
    const struct shape *s = c->shape;
    struct shape_tensor *t = mem_alloc(MEM_CODEC, pieces_most(c) * sizeof *t);
    t[0] = (struct shape_tensor){.rows = 1, .cols = 1, .kind = SHAPE_OTHER};
    for (uint32_t i = 0; i < s->n_tensors; i++) {
        t[i + 1] = s->tensors[i];
        t[i + 1].offset++;
    }
    w->shape =
        (struct shape){.n_tensors = pieces_most(c), .n_values = s->n_values + 1, .tensors = t};
    w->part = *c;
    w->part.shape = &w->shape;
    w->part.block_bytes = room;
    return t;
}

size_t blocks_cut_bytes(const struct codec_inst *c, size_t room)
{
    struct worst w;
    c = coder_of(c);
    struct shape_tensor *t = worst_case(&w, c, room);
    size_t bytes = block_bytes(c) + SCRATCH_ROUND(2 * room) + c->row->blocks->open_bytes(c) +
                   c->row->blocks->put_bytes(&w.part);
    mem_free(t);
    return bytes;
}

int blocks_cut(struct block_cut *cut, const struct codec_inst *c, const struct codec_key *key,
               const uint8_t *in, size_t len, size_t room, void *scratch, struct err *err)
{
    c = coder_of(c);
    *cut = (struct block_cut){.c = c, .room = room};
    block_lay(&cut->block, c, &scratch);
    cut->spare = scratch_take(&scratch, 2 * room);
    cut->open = c->row->blocks->open(c, key, in, len, &scratch, err);
    cut->scratch = scratch;
    cut->density = (double)(len ? len : 1) / (double)(c->shape->n_values ? c->shape->n_values : 1);
    return cut->open ? 0 : -1;
}

// The length of the block of a run, at most twice the room; -1 = longer.
static int64_t try_run(struct block_cut *cut, struct shape_range run, struct codec_report *report)
{
    struct msg_out o;
    memset(&report->parts, 0, sizeof report->parts);
    block_set(&cut->block, cut->c, run, cut->room);
    msg_init(&o, cut->spare, 2 * cut->room, report);
    return cut->c->row->blocks->put(cut->c, cut->open, &cut->block, &o, cut->scratch) ? -1
                                                                                      : msg_len(&o);
}

// Where to try next: by the bytes that a coordinate took, above low and at most high.
static size_t next_end(size_t from, double want, size_t low, size_t high)
{
    size_t at = want < (double)(high - from) ? from + (size_t)want : high;
    at = at == high ? high : at - at % BLOCK_GRAIN;
    if (at <= low)
        at = low + BLOCK_GRAIN < high ? low + BLOCK_GRAIN : high;
    return at;
}

// A few tries come close enough.
int64_t blocks_next(struct block_cut *cut, size_t from, size_t room, uint8_t *out, size_t *to,
                    struct codec_parts *parts)
{
    enum { GUESSES = 2, TRIES = 8, ENOUGH = 50 }; // of a segment, 2 % may stay empty
    const size_t n = cut->c->shape->n_values;
    struct codec_report report = {0};
    size_t low = from, high = n, at = from; // low: fits; what ends behind high does not
    int64_t best = -1;
    double want = (double)room / cut->density;
    assert(room <= cut->room && from % BLOCK_GRAIN == 0);
    for (int i = 0; i < TRIES || best < 0; i++) {
        at = next_end(from, want, low, high);
        int64_t len = try_run(cut, (struct shape_range){from, at}, &report);
        if (len >= 0 && len <= (int64_t)room) {
            low = at;
            best = len;
            if (at == high || len + (int64_t)room / ENOUGH >= (int64_t)room)
                break;
        } else {
            high = (at - 1) / BLOCK_GRAIN * BLOCK_GRAIN;
            if (high <= from)
                return -1;
            if (high == low)
                break;
        }
        want = (double)(at - from) * (len > 0 ? (double)room / (double)len : 0.5);
        if (i >= GUESSES && high < n) // what comes next is unlike what came: halve
            want = (double)(low + (high - low) / 2 - from);
    }
    if (low != at)
        best = try_run(cut, (struct shape_range){from, low}, &report);
    if (low > from)
        cut->density = (double)best / (double)(low - from);
    memcpy(out, cut->spare, (size_t)best);
    msg_add_parts(parts, &report.parts);
    *to = low;
    return best;
}

// Decoding.

size_t blocks_decode_bytes(const struct codec_inst *c, size_t room)
{
    struct worst w;
    c = coder_of(c);
    struct shape_tensor *t = worst_case(&w, c, room);
    size_t bytes = block_bytes(c) + codec_decode_scratch(&w.part);
    mem_free(t);
    return bytes;
}

int blocks_decode(const struct codec_inst *c, const struct codec_key *key, struct shape_range run,
                  const uint8_t *in, size_t len, struct quant_sink to, void *scratch,
                  struct err *err)
{
    struct block b = {0};
    c = coder_of(c);
    const size_t n = c->shape->n_values;
    bool aligned = run.from % BLOCK_GRAIN == 0 && (run.to % BLOCK_GRAIN == 0 || run.to == n);
    if (run.from > run.to || run.to > n || !aligned)
        return msg_bad("block", "it is about no run of the update", err);
    block_lay(&b, c, &scratch);
    block_set(&b, c, run, len);
    to.to += run.from;
    return c->row->decode(&b.part, key, in, len, (struct codec_output){.sink = to}, scratch, err);
}
