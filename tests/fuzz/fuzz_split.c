// split_get on any bytes. The first four bytes are the form; what is read must lie in its limits,
// and, where a codec gives back what it is given, be written again as a message that reads the
// same.
#include "fed/split.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LONGEST = 64, DIM = 8 };
static const char *const codecs[] = {"fp32", "fp16", "bf16", "int", "nf4+zstd", "uniform"};
static const struct codec_key key = {.seed = 1, .client = 2, .version = 3};

struct example_memory {
    int32_t pos[LONGEST], size[LONGEST], label[LONGEST];
    float x[LONGEST * DIM];
};

static struct cut_example example(struct example_memory *m)
{
    return (struct cut_example){.pos = m->pos, .size = m->size, .label = m->label, .x = m->x};
}

static void check(const struct split_form *f, const struct cut_example *e)
{
    int32_t tokens = 0;
    if (e->rows < 1 || e->rows > f->cut.longest || e->labels < 1 || e->labels > e->rows)
        abort();
    for (int32_t i = 0; i < e->rows; i++) {
        if (e->pos[i] < 0 || e->pos[i] >= f->cut.longest || (i && e->pos[i] <= e->pos[i - 1]) ||
            e->size[i] < 1)
            abort();
        tokens += e->size[i];
    }
    for (int32_t i = 0; i < e->labels; i++)
        if (e->label[i] < 0 || e->label[i] >= f->cut.vocab)
            abort();
    for (int32_t i = 0; i < e->rows * f->cut.dim; i++)
        if (!isfinite(e->x[i]))
            abort();
    if (tokens > f->cut.longest)
        abort();
}

static void again(const struct split_form *f, const struct cut_example *e)
{
    static uint8_t bytes[1 << 16];
    static struct example_memory memory;
    struct codec_report report = {0};
    struct err err = {""};
    struct msg_out o;
    struct cut_example back = example(&memory);
    msg_init(&o, bytes, sizeof bytes, &report);
    if (split_put(&o, f, &key, e, &err))
        abort();
    struct msg_in m = {.p = bytes, .end = o.p};
    if (split_get(&m, f, &key, &back, &err) || m.p != m.end || back.rows != e->rows ||
        back.labels != e->labels ||
        memcmp(back.x, e->x, (size_t)(e->rows * f->cut.dim) * sizeof *e->x) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct example_memory memory;
    if (size < 4)
        return 0;
    struct split_form f = {.cut = {.longest = 1 + data[0] % LONGEST,
                                   .dim = 1 + data[1] % DIM,
                                   .vocab = 1 + data[2] * 40}};
    struct err open;
    if (act_codec_open(&f.up, codecs[data[3] % ARRAY_LEN(codecs)], f.cut.longest, f.cut.dim, &open))
        abort();
    size_t len = size - 4;
    uint8_t *bytes = malloc(len ? len : 1); // its own block: reading past the end is seen
    if (!bytes)
        abort();
    memcpy(bytes, data + 4, len);
    struct msg_in m = {.p = bytes, .end = bytes + len};
    for (int i = 0; i < 16; i++) {
        struct cut_example e = example(&memory);
        struct err err = {""};
        if (split_get(&m, &f, &key, &e, &err)) {
            if (!err.text[0])
                abort();
            break;
        }
        check(&f, &e);
        if (f.up.dense)
            again(&f, &e);
    }
    free(bytes);
    split_forget(&f);
    return 0;
}
