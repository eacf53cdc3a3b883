#include "task/dataset.h"

#include "base/mem.h"

#include <assert.h>
#include <string.h>

enum { BLOCK_BYTES = 16384 };

struct dataset_block {
    struct dataset_block *next;
    size_t used, cap;
    uint8_t bytes[];
};

struct dataset *dataset_open(int32_t cap)
{
    struct dataset *d = mem_alloc(MEM_DATA, sizeof *d);
    d->cap = cap;
    d->v = mem_alloc(MEM_DATA, ((size_t)cap + 1) * sizeof *d->v);
    d->examples.v = d->v;
    return d;
}

void dataset_close(struct dataset *d)
{
    if (!d)
        return;
    for (struct dataset_block *b = d->blocks, *next; b; b = next) {
        next = b->next;
        mem_free(b);
    }
    mem_free(d->v);
    mem_free(d);
}

void *dataset_take(struct dataset *d, size_t size_bytes)
{
    size_t size = (size_bytes + 7) / 8 * 8;
    struct dataset_block *b = d->blocks;
    if (!b || b->cap - b->used < size) {
        size_t cap = size > BLOCK_BYTES ? size : BLOCK_BYTES;
        b = mem_alloc(MEM_DATA, sizeof *b + cap);
        b->cap = cap;
        b->next = d->blocks;
        d->blocks = b;
    }
    void *p = b->bytes + b->used;
    b->used += size;
    return p;
}

char *dataset_text(struct dataset *d, const char *text, size_t n)
{
    char *p = dataset_take(d, n + 1);
    memcpy(p, text, n);
    p[n] = 0;
    return p;
}

void dataset_add(struct dataset *d, const struct example *e)
{
    assert(d->examples.n < d->cap && e->answer > 0 && e->answer < e->n);
    struct example *to = &d->v[d->examples.n++];
    int32_t *tokens = dataset_take(d, (size_t)e->n * sizeof *tokens);
    memcpy(tokens, e->tokens, (size_t)e->n * sizeof *tokens);
    *to = *e;
    to->tokens = tokens;
    to->reference = dataset_text(d, e->reference, strlen(e->reference));
}
