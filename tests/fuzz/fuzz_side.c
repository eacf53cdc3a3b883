// side_get and side_decode on any bytes, and a cache on what a checkpoint says of one. The first
// four bytes are the form and the codec; what is read must lie in the form's limits, and be written
// again as a message that reads the same.
#include "base/mem.h"
#include "fed/side_cache.h"
#include "fed/side_message.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LONGEST = 8, LAYERS = 3, DIM = 20, CLASSES = 50, EXAMPLES = 6, SEED = 3 };
static const char *const codecs[] = {"fp32", "fp16", "int:bits=4", "nf4", "int:bits=8+rans"};

struct room {
    int32_t label[LONGEST];
    float x[LAYERS * LONGEST * DIM + LONGEST * CLASSES];
};

static void check(const struct side_form *f, const struct side_example *e, const int32_t *label)
{
    if (e->rows < 1 || e->rows > f->rows || e->scored < 1 || e->scored > f->scored ||
        e->scored > e->rows || (f->pivot && e->rows != e->scored))
        abort();
    for (int32_t i = 0; f->labels && i < e->scored; i++)
        if (label[i] < 0 || label[i] >= f->classes)
            abort();
}

static void again(struct side_coder *c, const struct side_example *e, const int32_t *label)
{
    static struct room room;
    struct codec_report report = {.staleness = -1};
    struct err err = {""};
    struct msg_out o;
    struct side_values values;
    struct side_example back = {.x = room.x};
    uint8_t *bytes = malloc(c->form->record);
    msg_init(&o, bytes, c->form->record, &report);
    if (side_put(&o, c, e, label, &err))
        abort();
    struct msg_in m = {.p = bytes, .end = o.p};
    if (side_get(&m, c->form, &back, room.label, &values, &err) || m.p != m.end ||
        side_decode(c, &back, &values, &err) || back.id != e->id || back.rows != e->rows ||
        back.scored != e->scored)
        abort();
    free(bytes);
}

static void read_all(struct side_coder *c, const uint8_t *bytes, size_t len)
{
    static struct room room;
    struct msg_in m;
    struct side_head h;
    struct err err = {""};
    int rc = msg_open_plain(&m, bytes, len, &err) || side_get_head(&m, c->form, &h, &err);
    for (uint32_t i = 0; rc == 0 && i < h.count; i++) {
        struct side_example e = {.x = room.x};
        struct side_values values;
        rc = side_get(&m, c->form, &e, room.label, &values, &err);
        if (rc)
            break;
        check(c->form, &e, room.label);
        rc = side_decode(c, &e, &values, &err);
        bool small = true; // what an encoder takes
        for (size_t k = 0; rc == 0 && k < side_floats(c->form, e.rows, e.scored); k++) {
            if (!isfinite(e.x[k]))
                abort();
            small &= fabsf(e.x[k]) < CODEC_LIMIT;
        }
        if (rc == 0 && small)
            again(c, &e, room.label);
    }
    if (rc && !err.text[0])
        abort();
}

static void restore(const uint8_t *bytes, size_t len)
{
    struct side_cache *c = side_cache_open(512, 8);
    if (side_cache_restore(c, bytes, len / 4) == 0 && side_cache_words(c) != len / 4)
        abort();
    side_cache_close(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct side_form f = {.dim = DIM, .classes = CLASSES, .examples = EXAMPLES};
    struct side_coder c;
    struct err err;
    if (size < 4)
        return 0;
    f.layers = 1 + data[0] % LAYERS;
    f.rows = f.scored = 1 + data[1] % LONGEST;
    f.types = 1 + (data[2] >> 2 & 1) * 3;
    f.type = f.types - 1;
    f.pivot = data[2] & 1;
    f.labels = data[2] & 2;
    const char *codec = codecs[data[3] % ARRAY_LEN(codecs)];
    if (side_measure(&f, codec, &err) || side_coder_open(&c, &f, codec, SEED, &err))
        abort();
    uint8_t *bytes = malloc(size); // its own block: reading past the end is seen
    memcpy(bytes, data + 4, size - 4);
    read_all(&c, bytes, size - 4);
    restore(bytes, size - 4);
    free(bytes);
    side_coder_close(&c);
    return 0;
}
