#include "model/update_file.h"

#include "base/bytes.h"
#include "base/fsio.h"
#include "base/half.h"
#include "base/jsonw.h"
#include "dev/dev.h"
#include "model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX ((size_t)4 << 30)

static char *header_text(const struct shape *s, size_t *len)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, len);
    if (!out)
        return NULL;
    struct jsonw j;
    jsonw_begin(&j, out);
    j.compact = true;
    jsonw_object(&j);
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        const struct shape_tensor *row = &s->tensors[t];
        size_t n = (size_t)row->rows * row->cols;
        jsonw_key(&j, row->name);
        jsonw_object(&j);
        jsonw_key(&j, "dtype");
        jsonw_text(&j, "F32");
        jsonw_key(&j, "shape");
        jsonw_array(&j);
        jsonw_int(&j, row->rows);
        jsonw_int(&j, row->cols);
        jsonw_end(&j);
        jsonw_key(&j, "data_offsets");
        jsonw_array(&j);
        jsonw_int(&j, (int64_t)(4 * row->offset));
        jsonw_int(&j, (int64_t)(4 * (row->offset + n)));
        jsonw_end(&j);
        jsonw_end(&j);
    }
    jsonw_end(&j);
    return fclose(out) == 0 ? text : NULL;
}

int update_file_write(const char *path, const struct shape *s, const float *x, struct err *err)
{
    size_t len = 0;
    char *text = header_text(s, &len);
    if (!text)
        return err_set(err, "%s: out of memory", path);
    size_t head = (len + 7) / 8 * 8; // values lie on multiples of 8 bytes
    size_t bytes = 8 + head + 4 * s->n_values;
    uint8_t *file = mem_alloc(MEM_TRACE, bytes);
    put_u64(file, head);
    memset(file + 8, ' ', head);
    memcpy(file + 8, text, len);
    free(text);
    for (size_t i = 0; i < s->n_values; i++)
        put_f32(file + 8 + head + 4 * i, x[i]);
    int bad = fsio_replace(path, file, bytes, err);
    mem_free(file);
    return bad;
}

static enum shape_kind kind_of(const char *name)
{
    size_t len = strlen(name);
    if (strstr(name, "lora_A") || (len >= 2 && strcmp(name + len - 2, ".A") == 0))
        return SHAPE_LORA_A;
    if (strstr(name, "lora_B") || (len >= 2 && strcmp(name + len - 2, ".B") == 0))
        return SHAPE_LORA_B;
    return SHAPE_OTHER;
}

// The shape, in the order of the file.
static int take_shape(const struct safetensors *st, struct shape *s, struct err *err)
{
    for (int32_t i = 0; i < st->n; i++) {
        const struct safetensor *t = &st->tensor[i];
        struct shape_tensor room;
        bool flat = t->dims == 1;
        if (t->dtype < 0)
            return err_set(err, "tensor %s: not fp32, bf16 or fp16", t->name);
        if (t->dims < 1 || t->dims > 2 || t->dim[0] > UINT32_MAX ||
            (!flat && t->dim[1] > UINT32_MAX))
            return err_set(err, "tensor %s: not a matrix", t->name);
        if (strlen(t->name) >= sizeof room.name)
            return err_set(err, "tensor %s: a name longer than %zu bytes", t->name,
                           sizeof room.name - 1);
        shape_add(s, t->name, flat ? 1 : (uint32_t)t->dim[0], (uint32_t)t->dim[flat ? 0 : 1],
                  kind_of(t->name));
    }
    return s->n_values ? 0 : err_set(err, "it holds no values");
}

static void take_values(const uint8_t *p, const struct safetensor *t, float *x)
{
    for (uint64_t i = 0; i < t->n; i++)
        x[i] = t->dtype == KERNEL_F32    ? get_f32(p + t->at + 4 * i)
               : t->dtype == KERNEL_BF16 ? bf16_to_f32(get_u16(p + t->at + 2 * i))
                                         : f16_to_f32(get_u16(p + t->at + 2 * i));
}

int update_file_read(const char *path, struct shape *s, float **x, struct err *err)
{
    uint8_t *bytes;
    size_t n;
    struct safetensors st;
    struct err why = {""};
    *x = NULL;
    shape_init(s);
    if (fsio_read(path, FILE_MAX, MEM_DATA, &bytes, &n, err))
        return -1;
    int bad = safetensors_parse(bytes, n, n, &st, &why);
    if (!bad) {
        bad = take_shape(&st, s, &why);
        if (!bad) {
            *x = mem_alloc(MEM_DATA, s->n_values * sizeof **x);
            for (int32_t i = 0; i < st.n; i++)
                take_values(bytes, &st.tensor[i], *x + s->tensors[i].offset);
            shape_seal(s);
        } else {
            shape_free(s);
        }
        safetensors_free(&st);
    }
    mem_free(bytes);
    return bad ? err_set(err, "%s: %s", path, why.text) : 0;
}
