#include "model/safetensors.h"

#include "base/bytes.h"
#include "base/mem.h"
#include "dev/dev.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int dtype_of(const char *name)
{
    for (int i = 0; i < KERNEL_DTYPES; i++)
        if (!strcmp(kernel_dtype_name[i], name))
            return i;
    return -1;
}

// Values of a shape, or -1 when they are too many to address.
static int read_shape(const json_t *shape, struct safetensor *t)
{
    uint64_t n = 1;
    if (!json_is_array(shape) || json_array_size(shape) > SAFETENSORS_DIMS)
        return -1;
    t->dims = (int32_t)json_array_size(shape);
    for (int32_t i = 0; i < t->dims; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0 || json_integer_value(d) > INT32_MAX)
            return -1;
        t->dim[i] = json_integer_value(d);
        if (t->dim[i] > 0 && n > (UINT64_MAX >> 3) / (uint64_t)t->dim[i])
            return -1;
        n *= (uint64_t)t->dim[i];
    }
    t->n = n;
    return 0;
}

static int read_tensor(const char *name, const json_t *row, uint64_t data, uint64_t file_bytes,
                       struct safetensor *t, struct err *err)
{
    int len = snprintf(t->name, sizeof t->name, "%s", name);
    if (len < 0 || (size_t)len >= sizeof t->name)
        return err_set(err, "a tensor's name is longer than %zu bytes", sizeof t->name - 1);
    const json_t *dtype = json_object_get(row, "dtype");
    const json_t *offsets = json_object_get(row, "data_offsets");
    if (!json_is_string(dtype))
        return err_set(err, "tensor %s: dtype is not a string", t->name);
    if (read_shape(json_object_get(row, "shape"), t))
        return err_set(err, "tensor %s: shape is not a list of up to %d sizes", t->name,
                       SAFETENSORS_DIMS);
    const json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(e) ||
        json_integer_value(b) < 0 || json_integer_value(e) < json_integer_value(b))
        return err_set(err, "tensor %s: data_offsets are not two ascending positions", t->name);
    uint64_t from = (uint64_t)json_integer_value(b), to = (uint64_t)json_integer_value(e);
    if (to > file_bytes - data)
        return err_set(err, "tensor %s ends at byte %llu of %llu: the file is cut short", t->name,
                       (unsigned long long)to, (unsigned long long)(file_bytes - data));
    t->dtype = dtype_of(json_string_value(dtype));
    t->at = data + from;
    t->end = data + to;
    if (t->dtype >= 0 && (to - from) != t->n * kernel_dtype_bytes(t->dtype))
        return err_set(err, "tensor %s: %llu bytes for %llu values of %s", t->name,
                       (unsigned long long)(to - from), (unsigned long long)t->n,
                       json_string_value(dtype));
    return 0;
}

static int read_rows(json_t *root, uint64_t data, uint64_t file_bytes, struct safetensors *st,
                     struct err *err)
{
    const char *name;
    json_t *row;
    json_object_foreach(root, name, row)
    {
        if (!json_is_object(row))
            return err_set(err, "header entry %.80s is not an object", name);
        if (!strcmp(name, "__metadata__")) {
            const char *text = json_string_value(json_object_get(row, "fstq_config"));
            if (text) {
                st->config = mem_alloc(MEM_OTHER, strlen(text) + 1);
                memcpy(st->config, text, strlen(text) + 1);
            }
            continue;
        }
        if (read_tensor(name, row, data, file_bytes, &st->tensor[st->n], err))
            return -1;
        st->n++;
    }
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct safetensor *p = a, *q = b;
    return p->at != q->at ? (p->at > q->at) - (p->at < q->at)
                          : (p->end > q->end) - (p->end < q->end);
}

// Shared bytes would make a small file a large model.
static int refuse_overlap(struct safetensors *st, struct err *err)
{
    qsort(st->tensor, (size_t)st->n, sizeof *st->tensor, by_place);
    for (int32_t i = 1; i < st->n; i++)
        if (st->tensor[i].at < st->tensor[i - 1].end)
            return err_set(err, "tensors %s and %s overlap: their data_offsets share bytes",
                           st->tensor[i - 1].name, st->tensor[i].name);
    return 0;
}

int safetensors_parse(const uint8_t *bytes, size_t n, uint64_t file_bytes, struct safetensors *st,
                      struct err *err)
{
    *st = (struct safetensors){0};
    if (n < 8)
        return err_set(err, "%zu bytes are no safetensors file: its first 8 are missing", n);
    uint64_t header = get_u64(bytes);
    if (header > SAFETENSORS_HEADER_MAX || header > n - 8 || header > file_bytes - 8)
        return err_set(err, "a header of %llu bytes in a file of %llu: no safetensors file",
                       (unsigned long long)header, (unsigned long long)file_bytes);
    json_error_t why;
    json_t *root =
        json_loadb((const char *)bytes + 8, (size_t)header, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return err_set(err, "header, line %d: %s", why.line, why.text);
    int bad = 0;
    if (!json_is_object(root))
        bad = err_set(err, "the header is not an object");
    if (!bad) {
        st->tensor = mem_alloc(MEM_OTHER, (json_object_size(root) + 1) * sizeof *st->tensor);
        bad = read_rows(root, 8 + header, file_bytes, st, err) || refuse_overlap(st, err) ? -1 : 0;
    }
    json_decref(root);
    if (bad)
        safetensors_free(st);
    return bad;
}

void safetensors_free(struct safetensors *st)
{
    mem_free(st->tensor);
    mem_free(st->config);
    *st = (struct safetensors){0};
}

const struct safetensor *safetensors_find(const struct safetensors *st, const char *name)
{
    for (int32_t i = 0; i < st->n; i++)
        if (!strcmp(st->tensor[i].name, name))
            return &st->tensor[i];
    return NULL;
}

// A name with a folder in it would lead elsewhere.
static int add_file(struct safetensors_index *x, const char *tensor, const json_t *file,
                    struct err *err)
{
    const char *name = json_string_value(file);
    if (!name || !*name || strchr(name, '/') || strlen(name) >= SAFETENSORS_NAME)
        return err_set(err, "weight_map: %.80s is in no file of this folder", tensor);
    for (int32_t i = 0; i < x->n; i++)
        if (!strcmp(x->file[i], name))
            return 0;
    if (x->n == SAFETENSORS_FILES)
        return err_set(err, "weight_map: more than %d files of weights", SAFETENSORS_FILES);
    memcpy(x->file[x->n++], name, strlen(name) + 1);
    return 0;
}

int safetensors_index_parse(const uint8_t *bytes, size_t n, struct safetensors_index *x,
                            struct err *err)
{
    json_error_t why;
    const char *tensor;
    json_t *file, *root = json_loadb((const char *)bytes, n, JSON_REJECT_DUPLICATES, &why);
    int bad = 0;
    *x = (struct safetensors_index){0};
    if (!root)
        return err_set(err, "line %d: %s", why.line, why.text);
    x->file = mem_alloc(MEM_OTHER, SAFETENSORS_FILES * sizeof *x->file);
    json_object_foreach(json_object_get(root, "weight_map"), tensor, file) if (!bad) bad =
        add_file(x, tensor, file, err);
    if (!bad && x->n == 0)
        bad = err_set(err, "it has no weight_map");
    json_decref(root);
    if (bad)
        safetensors_index_free(x);
    return bad;
}

void safetensors_index_free(struct safetensors_index *x)
{
    mem_free(x->file);
    *x = (struct safetensors_index){0};
}
