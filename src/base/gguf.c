#include "base/gguf.h"

#include "base/bytes.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

#define NAME_MAX_BYTES 256
#define LEAST_KEY      13 // bytes of a key without a name and a one-byte value
#define LEAST_TENSOR   24 // and of a tensor without a name and of one dimension less

// clang-format off
const struct gguf_type gguf_types[] = {
    {"F32", 0, 1, 4},          {"F16", 1, 1, 2},          {"BF16", 30, 1, 2},
    {"Q4_0", 2, 32, 18},       {"Q4_1", 3, 32, 20},       {"Q5_0", 6, 32, 22},
    {"Q5_1", 7, 32, 24},       {"Q8_0", 8, 32, 34},       {"Q2_K", 10, 256, 84},
    {"Q3_K", 11, 256, 110},    {"Q4_K", 12, 256, 144},    {"Q5_K", 13, 256, 176},
    {"Q6_K", 14, 256, 210},    {"IQ4_NL", 20, 32, 18},    {"IQ4_XS", 23, 256, 136},
    // Known by name: refused with it.
    {"Q8_1", 9, 32, 0},        {"Q8_K", 15, 256, 0},      {"IQ2_XXS", 16, 256, 0},
    {"IQ2_XS", 17, 256, 0},    {"IQ3_XXS", 18, 256, 0},   {"IQ1_S", 19, 256, 0},
    {"IQ3_S", 21, 256, 0},     {"IQ2_S", 22, 256, 0},     {"I8", 24, 1, 0},
    {"I16", 25, 1, 0},         {"I32", 26, 1, 0},         {"I64", 27, 1, 0},
    {"F64", 28, 1, 0},         {"IQ1_M", 29, 256, 0},     {"TQ1_0", 34, 256, 0},
    {"TQ2_0", 35, 256, 0},     {"MXFP4", 39, 32, 0},      {NULL, 0, 0, 0},
};
// clang-format on

static const uint8_t value_bytes[GGUF_VALUES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};

const struct gguf_type *gguf_type_of(int32_t id)
{
    for (const struct gguf_type *t = gguf_types; t->name; t++)
        if (t->id == id)
            return t;
    return NULL;
}

// Reading.

struct reader {
    const uint8_t *p, *begin, *end;
    uint64_t file_bytes;
    struct err *err;
};

static int cut_short(const struct reader *r, const char *what)
{
    return err_set(r->err, "%s at byte %zu: the header is cut short, or its lengths are wrong",
                   what, (size_t)(r->p - r->begin));
}

static const uint8_t *need(struct reader *r, uint64_t n)
{
    if (n > (uint64_t)(r->end - r->p))
        return NULL;
    const uint8_t *at = r->p;
    r->p += n;
    return at;
}

static int read_u32(struct reader *r, uint32_t *v, const char *what)
{
    const uint8_t *p = need(r, 4);
    if (!p)
        return cut_short(r, what);
    *v = get_u32(p);
    return 0;
}

static int read_u64(struct reader *r, uint64_t *v, const char *what)
{
    const uint8_t *p = need(r, 8);
    if (!p)
        return cut_short(r, what);
    *v = get_u64(p);
    return 0;
}

static int read_text(struct reader *r, struct gguf_text *t, const char *what)
{
    uint64_t n = 0;
    if (read_u64(r, &n, what))
        return -1;
    t->p = (const char *)need(r, n);
    t->n = (size_t)n;
    return t->p ? 0 : cut_short(r, what);
}

static int read_name(struct reader *r, struct gguf_text *t, const char *what)
{
    if (read_text(r, t, what))
        return -1;
    if (t->n == 0 || t->n >= NAME_MAX_BYTES || memchr(t->p, 0, t->n))
        return err_set(r->err, "%s at byte %zu: a name of %zu bytes; it has 1 to %d, and no NUL",
                       what, (size_t)(r->p - r->begin), t->n, NAME_MAX_BYTES - 1);
    return 0;
}

static int skip_values(struct reader *r, const struct gguf_key *k, enum gguf_value type)
{
    if (type != GGUF_STRING) {
        uint64_t each = value_bytes[type];
        if (k->count > (uint64_t)(r->end - r->p) / each || !need(r, k->count * each))
            return cut_short(r, "values");
        return 0;
    }
    struct gguf_text t;
    for (uint64_t i = 0; i < k->count; i++)
        if (read_text(r, &t, "a string"))
            return -1;
    return 0;
}

static int read_key(struct reader *r, struct gguf_key *k)
{
    uint32_t type = 0, of = 0;
    if (read_name(r, &k->name, "a key") || read_u32(r, &type, "a key's type"))
        return -1;
    k->count = 1;
    if (type == GGUF_ARRAY) {
        if (read_u32(r, &of, "an array's type") || read_u64(r, &k->count, "an array's length"))
            return -1;
        if (of == GGUF_ARRAY)
            return err_set(r->err, "key %.*s is an array of arrays: not supported", (int)k->name.n,
                           k->name.p);
    }
    if (type >= GGUF_VALUES || of >= GGUF_VALUES)
        return err_set(r->err, "key %.*s has the unknown type %u", (int)k->name.n, k->name.p,
                       type >= GGUF_VALUES ? type : of);
    k->type = (enum gguf_value)type;
    k->of = (enum gguf_value)of;
    k->data = r->p;
    return skip_values(r, k, type == GGUF_ARRAY ? k->of : k->type);
}

// Values, from which bytes follow.
static int measure(struct reader *r, struct gguf_tensor *t)
{
    t->n = 1;
    for (int32_t i = 0; i < t->dims; i++) {
        if (t->dim[i] < 1 || t->dim[i] > INT32_MAX ||
            t->n > (UINT64_MAX >> 8) / (uint64_t)t->dim[i])
            return err_set(r->err, "tensor %.*s: dimension %d of %lld", (int)t->name.n, t->name.p,
                           i, (long long)t->dim[i]);
        t->n *= (uint64_t)t->dim[i];
    }
    if (t->dim[0] % t->type->values)
        return err_set(r->err, "tensor %.*s: %lld columns are no whole number of %s blocks of %d",
                       (int)t->name.n, t->name.p, (long long)t->dim[0], t->type->name,
                       t->type->values);
    t->bytes = t->n / (uint64_t)t->type->values * (uint64_t)t->type->bytes;
    return 0;
}

static int read_tensor(struct reader *r, struct gguf_tensor *t)
{
    uint32_t dims = 0, type = 0;
    uint64_t size = 0;
    if (read_name(r, &t->name, "a tensor") || read_u32(r, &dims, "a tensor's dimensions"))
        return -1;
    if (dims < 1 || dims > GGUF_DIMS)
        return err_set(r->err, "tensor %.*s has %u dimensions; 1 to %d are known", (int)t->name.n,
                       t->name.p, dims, GGUF_DIMS);
    t->dims = (int32_t)dims;
    for (uint32_t i = 0; i < dims; i++) {
        if (read_u64(r, &size, "a tensor's dimension"))
            return -1;
        t->dim[i] = size > INT32_MAX ? -1 : (int64_t)size;
    }
    if (read_u32(r, &type, "a tensor's type") || read_u64(r, &t->at, "a tensor's offset"))
        return -1;
    t->type = gguf_type_of(type > INT32_MAX ? -1 : (int32_t)type);
    if (!t->type)
        return err_set(r->err, "tensor %.*s has the unknown type %u", (int)t->name.n, t->name.p,
                       type);
    if (t->type->bytes == 0)
        return err_set(r->err, "tensor %.*s is stored as %s: not supported", (int)t->name.n,
                       t->name.p, t->type->name);
    return measure(r, t);
}

static int by_place(const void *a, const void *b)
{
    const struct gguf_tensor *const *x = a, *const *y = b;
    return ((*x)->at > (*y)->at) - ((*x)->at < (*y)->at);
}

// Offsets become places in the file. No two tensors share a byte.
static int place_tensors(struct reader *r, struct gguf *g, uint64_t alignment)
{
    const struct gguf_tensor **order = mem_alloc(MEM_OTHER, (size_t)g->n_tensors * sizeof *order);
    uint64_t room = r->file_bytes > g->data ? r->file_bytes - g->data : 0, end = g->data;
    int bad = 0;
    for (int32_t i = 0; i < g->n_tensors && !bad; i++) {
        struct gguf_tensor *t = &g->tensor[i];
        if (t->at % alignment || t->at > room || t->bytes > room - t->at)
            bad = err_set(r->err, "tensor %.*s: %llu bytes from %llu on do not lie in the file",
                          (int)t->name.n, t->name.p, (unsigned long long)t->bytes,
                          (unsigned long long)t->at);
        else
            t->at += g->data;
        order[i] = t;
    }
    if (!bad)
        qsort(order, (size_t)g->n_tensors, sizeof *order, by_place);
    for (int32_t i = 0; i < g->n_tensors && !bad; i++) {
        if (order[i]->at < end)
            bad = err_set(r->err, "tensors %.*s and %.*s share bytes", (int)order[i - 1]->name.n,
                          order[i - 1]->name.p, (int)order[i]->name.n, order[i]->name.p);
        end = order[i]->at + order[i]->bytes;
    }
    mem_free(order);
    return bad;
}

static int read_alignment(const struct gguf *g, uint64_t *alignment, struct err *err)
{
    const struct gguf_key *k = gguf_find(g, "general.alignment");
    int64_t v = GGUF_ALIGNMENT;
    if (k && (gguf_int(k, &v) || v < 1 || v > 1 << 20 || (v & (v - 1))))
        return err_set(err, "general.alignment is no power of two up to 2^20");
    *alignment = (uint64_t)v;
    return 0;
}

static int read_rows(struct reader *r, struct gguf *g, uint64_t n_tensors, uint64_t n_keys)
{
    uint64_t left = (uint64_t)(r->end - r->p), alignment = 1;
    if (n_keys > left / LEAST_KEY || n_tensors > left / LEAST_TENSOR || n_keys > INT32_MAX ||
        n_tensors > INT32_MAX)
        return err_set(r->err, "%llu keys and %llu tensors are more than its header holds",
                       (unsigned long long)n_keys, (unsigned long long)n_tensors);
    g->key = mem_alloc(MEM_OTHER, (size_t)n_keys * sizeof *g->key);
    g->tensor = mem_alloc(MEM_OTHER, (size_t)n_tensors * sizeof *g->tensor);
    for (; g->n_keys < (int32_t)n_keys; g->n_keys++)
        if (read_key(r, &g->key[g->n_keys]))
            return -1;
    for (; g->n_tensors < (int32_t)n_tensors; g->n_tensors++)
        if (read_tensor(r, &g->tensor[g->n_tensors]))
            return -1;
    if (read_alignment(g, &alignment, r->err))
        return -1;
    uint64_t end = (uint64_t)(r->p - r->begin);
    g->data = (end + alignment - 1) / alignment * alignment;
    return place_tensors(r, g, alignment);
}

int gguf_parse(const uint8_t *bytes, size_t n, uint64_t file_bytes, struct gguf *g, struct err *err)
{
    struct reader r = {bytes, bytes, bytes + n, file_bytes, err};
    uint64_t n_tensors = 0, n_keys = 0;
    *g = (struct gguf){0};
    const uint8_t *magic = need(&r, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return err_set(err, "it does not begin with GGUF");
    if (read_u32(&r, &g->version, "the version"))
        return -1;
    if (g->version != 2 && g->version != 3)
        return err_set(err, "GGUF version %u: 2 and 3 are known (a big-endian file, perhaps?)",
                       g->version);
    if (read_u64(&r, &n_tensors, "the number of tensors") ||
        read_u64(&r, &n_keys, "the number of keys"))
        return -1;
    if (read_rows(&r, g, n_tensors, n_keys)) {
        gguf_free(g);
        return -1;
    }
    return 0;
}

void gguf_free(struct gguf *g)
{
    mem_free(g->key);
    mem_free(g->tensor);
    *g = (struct gguf){0};
}

// Looking things up.

bool gguf_is(struct gguf_text t, const char *text)
{
    return strlen(text) == t.n && memcmp(t.p, text, t.n) == 0;
}

const struct gguf_key *gguf_find(const struct gguf *g, const char *name)
{
    for (int32_t i = 0; i < g->n_keys; i++)
        if (gguf_is(g->key[i].name, name))
            return &g->key[i];
    return NULL;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    for (int32_t i = 0; i < g->n_tensors; i++)
        if (gguf_is(g->tensor[i].name, name))
            return &g->tensor[i];
    return NULL;
}

int gguf_int(const struct gguf_key *k, int64_t *out)
{
    switch (k->type) {
    case GGUF_U8:
    case GGUF_BOOL:
        *out = k->data[0];
        return 0;
    case GGUF_I8:
        *out = (int8_t)k->data[0];
        return 0;
    case GGUF_U16:
        *out = get_u16(k->data);
        return 0;
    case GGUF_I16:
        *out = (int16_t)get_u16(k->data);
        return 0;
    case GGUF_U32:
        *out = get_u32(k->data);
        return 0;
    case GGUF_I32:
        *out = (int32_t)get_u32(k->data);
        return 0;
    case GGUF_U64:
        *out = (int64_t)get_u64(k->data);
        return *out < 0 ? -1 : 0;
    case GGUF_I64:
        *out = (int64_t)get_u64(k->data);
        return 0;
    default:
        return -1;
    }
}

int gguf_num(const struct gguf_key *k, double *out)
{
    int64_t whole;
    if (k->type == GGUF_F32 || k->type == GGUF_F64) {
        *out = k->type == GGUF_F32 ? (double)get_f32(k->data) : get_f64(k->data);
        return isfinite(*out) ? 0 : -1;
    }
    if (gguf_int(k, &whole))
        return -1;
    *out = (double)whole;
    return 0;
}

struct gguf_text gguf_next(const struct gguf_key *k, size_t *at)
{
    const uint8_t *p = k->data + *at;
    struct gguf_text t = {(const char *)p + 8, (size_t)get_u64(p)};
    *at += 8 + t.n;
    return t;
}
