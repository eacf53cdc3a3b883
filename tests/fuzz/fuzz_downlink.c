// Payloads of coded versions on any bytes. The first byte picks the codec; what is taken must be
// finite and leave the version where its messages say.
#include "base/bytes.h"
#include "base/mem.h"
#include "fed/downlink.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { VALUES = 96, CODECS = 4 };

static struct shape shape;
static struct method method[CODECS];
static void *scratch[CODECS];

static void open_all(void)
{
    static const char *const text[CODECS] = {"fp16", "int:bits=4", "topk:ratio=0.1+ef",
                                             "uniform+zstd"};
    struct err err;
    shape_init(&shape);
    shape_add(&shape, "A", 4, 16, SHAPE_LORA_A);
    shape_add(&shape, "B", 8, 4, SHAPE_LORA_B);
    shape_seal(&shape);
    for (int i = 0; i < CODECS; i++) {
        const char *codecs[2] = {text[i], text[i]};
        if (view_open(&method[i].down, "", codecs, 1 + i % 2, &shape, &err))
            abort();
        scratch[i] = mem_alloc(MEM_OTHER, view_decode_scratch(&method[i].down) + 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static float theta[VALUES], control[VALUES], part[VALUES];
    float *vector[] = {theta, control};
    struct down_head head;
    struct err err;
    if (size < 1)
        return 0;
    if (!shape.n_values)
        open_all();
    int pick = data[0] % CODECS;
    const struct fed_env env = {.method = &method[pick], .seed = 1};
    memset(theta, 0, sizeof theta);
    memset(control, 0, sizeof control);
    data++;
    size--;
    if (down_head_get(data, size, &head) || head.count > size)
        return 0;
    if (downlink_take(&env, data, size, head, vector, part, scratch[pick], &err))
        return 0;
    for (int i = 0; i < VALUES; i++)
        if (!isfinite(theta[i]) || !isfinite(control[i]))
            abort();
    return 0;
}
