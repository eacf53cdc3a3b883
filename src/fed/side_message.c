#include "fed/side_message.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

enum { ID_BYTES = 8, TYPE_BYTES = 1, LEN_BYTES = 4, VARINT_MAX = 5 }; // varints of 31 bits

uint64_t side_id(uint64_t seed, uint32_t client, uint32_t place)
{
    uint32_t what[2] = {client, place};
    return XXH3_64bits_withSeed(what, sizeof what, seed ^ 0x51de);
}

size_t side_floats(const struct side_form *f, int32_t rows, int32_t scored)
{
    size_t acts = (size_t)f->layers * (size_t)rows * (size_t)f->dim;
    return acts + (f->labels ? 0 : (size_t)scored * (size_t)f->classes);
}

// The coder's shape becomes that of an example: tensors keep their names and columns.
static void reshape(struct side_coder *c, int32_t rows, int32_t scored)
{
    size_t at = 0;
    for (uint32_t i = 0; i < c->shape.n_tensors; i++) {
        struct shape_tensor *t = &c->shape.tensors[i];
        t->rows = (uint32_t)(i < (uint32_t)c->form->layers ? rows : scored);
        t->offset = at;
        at += (size_t)t->rows * t->cols;
    }
    c->shape.n_values = at;
    codec_reshape(c->codec, &c->shape);
}

static int refuse(const struct codec_inst *c, struct err *err)
{
    const char *why = codec_needs(c) & (CODEC_SENS | CODEC_GRAD | CODEC_REACH)
                          ? "needs what training measures of an adapter"
                      : codec_needs(c) & CODEC_STATE
                          ? "keeps state of an adapter from round to round"
                      : codec_needs(c) & CODEC_OWN_AGG ? "adds up messages in a way of its own"
                      : codec_budgets(c)               ? "keeps to a budget of an adapter's update"
                                                       : NULL;
    return why ? err_set(err,
                         "codec %s %s, and activations have none; take another, as fp16, "
                         "int or nf4",
                         c->row->name, why)
               : 0;
}

static int open_codec(struct side_coder *c, const struct side_form *f, const char *text,
                      uint64_t seed, struct err *err)
{
    char name[32];
    *c = (struct side_coder){.form = f, .seed = seed};
    shape_init(&c->shape);
    for (int32_t l = 0; l < f->layers; l++) {
        snprintf(name, sizeof name, "layer.%d", l);
        shape_add(&c->shape, name, 1, (uint32_t)f->dim, SHAPE_OTHER);
    }
    if (!f->labels)
        shape_add(&c->shape, "difference", 1, (uint32_t)f->classes, SHAPE_OTHER);
    shape_seal(&c->shape);
    c->codec = codec_open(text, &c->shape, err);
    if (c->codec && refuse(c->codec, err) == 0)
        return 0;
    side_coder_close(c);
    return -1;
}

// Of all sizes, for the largest need not take most.
int side_measure(struct side_form *f, const char *text, struct err *err)
{
    struct side_coder c;
    size_t most = 0;
    if (open_codec(&c, f, text, 0, err))
        return -1;
    f->scratch = 0;
    for (int32_t rows = 1; rows <= f->rows; rows++)
        for (int32_t scored = 1; scored <= f->scored && scored <= rows; scored++) {
            if (f->pivot && scored != rows)
                continue;
            reshape(&c, rows, scored);
            size_t s = codec_scratch_bytes(c.codec), b = codec_bound(c.codec);
            f->scratch = s > f->scratch ? s : f->scratch;
            most = b > most ? b : most;
        }
    f->record = ID_BYTES + TYPE_BYTES + LEN_BYTES + 2 * VARINT_MAX + most;
    f->record += f->labels ? (size_t)f->scored * VARINT_MAX : 0;
    side_coder_close(&c);
    return 0;
}

int side_coder_open(struct side_coder *c, const struct side_form *f, const char *text,
                    uint64_t seed, struct err *err)
{
    if (open_codec(c, f, text, seed, err))
        return -1;
    c->scratch = f->scratch ? mem_alloc(MEM_CODEC, f->scratch) : NULL;
    return 0;
}

void side_coder_close(struct side_coder *c)
{
    if (!c->form)
        return;
    codec_close(c->codec);
    mem_free(c->scratch);
    shape_free(&c->shape);
    *c = (struct side_coder){0};
}

size_t side_bound(const struct side_form *f)
{
    return 1 + 3 * VARINT_MAX + (size_t)f->examples * f->record;
}

static struct codec_key key_of(const struct side_coder *c, uint64_t id)
{
    return (struct codec_key){
        .seed = c->seed, .client = (uint32_t)(id >> 32), .version = (uint32_t)id};
}

// writing.

int side_put_head(struct msg_out *o, const struct side_head *h, struct err *err)
{
    if (msg_put_header(o, 0) || msg_put_varint(o, PART_DIRECTORY, h->held) ||
        msg_put_varint(o, PART_DIRECTORY, h->from) || msg_put_varint(o, PART_DIRECTORY, h->count))
        return msg_full(o, err);
    return 0;
}

static void add_report(struct codec_report *to, const struct codec_report *r)
{
    to->parts.header += r->parts.header;
    to->parts.directory += r->parts.directory;
    to->parts.scales += r->parts.scales;
    to->parts.indices += r->parts.indices;
    to->parts.tags += r->parts.tags;
    to->parts.values += r->parts.values;
    for (int i = 0; i < RECORD_WIDTHS; i++)
        to->kept[i] += r->kept[i];
    to->ran_on = r->ran_on;
}

// Behind its length, as long as it comes out.
static int put_values(struct msg_out *o, struct side_coder *c, const struct side_example *e,
                      struct err *err)
{
    struct codec_report report = {.staleness = -1};
    struct codec_input in = {.x = e->x, .key = key_of(c, e->id), .budget_bytes = -1};
    uint8_t *len_at = msg_take(o, PART_DIRECTORY, LEN_BYTES);
    if (!len_at)
        return msg_full(o, err);
    reshape(c, e->rows, e->scored);
    int64_t len = codec_encode(c->codec, &in, o->p, msg_room(o), c->scratch, &report, err);
    if (len < 0)
        return (int)len;
    put_u32(len_at, (uint32_t)len);
    o->p += len;
    add_report(o->report, &report);
    return 0;
}

int side_put(struct msg_out *o, struct side_coder *c, const struct side_example *e,
             const int32_t *label, struct err *err)
{
    const struct side_form *f = c->form;
    uint8_t *id = msg_take(o, PART_DIRECTORY, ID_BYTES);
    if (!id)
        return msg_full(o, err);
    put_u64(id, e->id);
    uint8_t *type = f->types > 1 ? msg_take(o, PART_DIRECTORY, TYPE_BYTES) : id;
    if (!type)
        return msg_full(o, err);
    if (f->types > 1)
        *type = (uint8_t)f->type;
    int full = msg_put_varint(o, PART_DIRECTORY, (uint64_t)e->rows - 1);
    if (!f->pivot)
        full |= msg_put_varint(o, PART_DIRECTORY, (uint64_t)e->scored - 1);
    for (int32_t i = 0; f->labels && i < e->scored; i++)
        full |= msg_put_varint(o, PART_TAGS, (uint64_t)label[i]);
    return full ? msg_full(o, err) : put_values(o, c, e, err);
}

// reading.

static int get_number(struct msg_in *m, uint64_t most, uint32_t *v, const char *what,
                      struct err *err)
{
    uint64_t u;
    if (msg_get_varint(m, &u))
        return msg_short(what, err);
    if (u > most)
        return msg_bad(what, "out of range", err);
    *v = (uint32_t)u;
    return 0;
}

int side_get_head(struct msg_in *m, const struct side_form *f, struct side_head *h, struct err *err)
{
    if (get_number(m, INT32_MAX, &h->held, "number of examples", err) ||
        get_number(m, UINT32_MAX, &h->from, "place", err) ||
        get_number(m, (uint64_t)f->examples, &h->count, "count", err))
        return -1;
    return h->held == 0 || h->count == 0 ? msg_bad("count", "zero", err) : 0;
}

int side_get(struct msg_in *m, const struct side_form *f, struct side_example *e, int32_t *label,
             struct side_values *values, struct err *err)
{
    uint32_t rows, scored, token;
    const uint8_t *id = msg_need(m, ID_BYTES);
    if (!id)
        return msg_short("id", err);
    e->id = get_u64(id);
    const uint8_t *type = f->types > 1 ? msg_need(m, TYPE_BYTES) : id;
    if (!type)
        return msg_short("backbone", err);
    if (f->types > 1 && *type != f->type)
        return msg_bad("backbone", "another than the client's", err);
    if (get_number(m, (uint64_t)f->rows - 1, &rows, "number of rows", err))
        return -1;
    scored = rows;
    if (f->pivot && rows >= (uint32_t)f->scored)
        return msg_bad("number of rows", "out of range", err);
    if (!f->pivot && get_number(m, rows < (uint32_t)f->scored ? rows : (uint64_t)f->scored - 1,
                                &scored, "number of rows with a loss", err))
        return -1;
    e->rows = (int32_t)rows + 1;
    e->scored = (int32_t)scored + 1;
    for (int32_t i = 0; f->labels && i < e->scored; i++) {
        if (get_number(m, (uint64_t)f->classes - 1, &token, "label", err))
            return -1;
        label[i] = (int32_t)token;
    }
    const uint8_t *len = msg_need(m, LEN_BYTES);
    values->len = len ? get_u32(len) : 0;
    values->bytes = len ? msg_need(m, values->len) : NULL;
    return values->bytes ? 0 : msg_short("values", err);
}

int32_t side_type_of(const struct side_form *f, const uint8_t *record)
{
    return f->types > 1 ? record[ID_BYTES] : 0;
}

int side_decode(struct side_coder *c, const struct side_example *e,
                const struct side_values *values, struct err *err)
{
    struct codec_key key = key_of(c, e->id);
    reshape(c, e->rows, e->scored);
    return codec_decode(c->codec, &key, values->bytes, values->len, e->x, c->scratch, err);
}
