#include "base/shape.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/mem.h"

#include <stdio.h>
#include <xxhash.h>

// The table grows by doubling: it is full whenever n_tensors is a power of two.
static void grow(struct shape *s)
{
    size_t cap = s->n_tensors ? 2 * (size_t)s->n_tensors : 8;
    struct shape_tensor *t = mem_alloc(MEM_OTHER, cap * sizeof *t);
    if (s->tensors)
        memcpy(t, s->tensors, s->n_tensors * sizeof *t);
    mem_free(s->tensors);
    s->tensors = t;
}

void shape_init(struct shape *s)
{
    *s = (struct shape){0};
}

void shape_add(struct shape *s, const char *name, uint32_t rows, uint32_t cols,
               enum shape_kind kind)
{
    uint32_t n = s->n_tensors;
    if (n == 0 || (n >= 8 && (n & (n - 1)) == 0))
        grow(s);
    struct shape_tensor *t = &s->tensors[n];
    int len = snprintf(t->name, sizeof t->name, "%s", name);
    if (len < 0 || (size_t)len >= sizeof t->name)
        die(STATUS_USAGE, "tensor name %s has more than %zu bytes", name, sizeof t->name - 1);
    size_t size = (size_t)rows * cols;
    if (size > SIZE_MAX / sizeof(float) - s->n_values)
        die(STATUS_USAGE, "tensor %s of %u x %u values: the update would not fit in memory", name,
            rows, cols);
    t->rows = rows;
    t->cols = cols;
    t->kind = (uint32_t)kind;
    t->offset = s->n_values;
    s->n_values += size;
    s->n_tensors++;
    s->hash = 0;
}

void shape_seal(struct shape *s)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        die(STATUS_ENV, "out of memory for a hash");
    XXH3_64bits_reset(state);
    for (uint32_t i = 0; i < s->n_tensors; i++) {
        const struct shape_tensor *t = &s->tensors[i];
        uint8_t row[sizeof t->name + 12];
        memcpy(row, t->name, sizeof t->name); // zero beyond the name
        put_u32(row + sizeof t->name, t->rows);
        put_u32(row + sizeof t->name + 4, t->cols);
        put_u32(row + sizeof t->name + 8, t->kind);
        XXH3_64bits_update(state, row, sizeof row);
    }
    s->hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
}

struct shape_range shape_segment(size_t n, uint32_t parts, uint32_t k)
{
    return (struct shape_range){
        (size_t)((double)n * (double)k / (double)parts),
        k + 1 == parts ? n : (size_t)((double)n * (double)(k + 1) / (double)parts)};
}

void shape_free(struct shape *s)
{
    mem_free(s->tensors);
    *s = (struct shape){0};
}
