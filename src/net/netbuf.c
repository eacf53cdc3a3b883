#include "net/netbuf.h"

#include "base/mem.h"

#include <assert.h>

static size_t class_bytes(unsigned c)
{
    return (size_t)(4 + (c & 3)) << (6 + (c >> 2));
}

// The smallest class that holds n: 256, 320, 384, 448, 512, 640, ... so at most a quarter is
// wasted.
static unsigned class_of(size_t n)
{
    if (n <= class_bytes(0))
        return 0;
    unsigned top = 63u - (unsigned)__builtin_clzll(n - 1); // at least 8
    return 4 * (top - 8) + (unsigned)((n - 1) >> (top - 2) & 3) + 1;
}

enum { NETBUF_HEAD = (sizeof(struct netbuf) + 63) / 64 * 64 };

struct netbuf *netbuf_get(struct netbuf_pool *p, size_t payload_cap)
{
    assert(payload_cap < (size_t)1 << 40);
    unsigned c = class_of(FRAME_HEADER_BYTES + payload_cap);
    assert(c < NETBUF_CLASSES);
    struct netbuf *b = p->free[c];
    if (b) {
        p->free[c] = b->next;
    } else { // zeroing faults the pages in: here, once, instead of inside a measured transfer
        b = mem_alloc(MEM_NET, NETBUF_HEAD + class_bytes(c));
        b->bytes = (uint8_t *)b + NETBUF_HEAD;
        b->cap = class_bytes(c);
        b->size_class = (uint8_t)c;
    }
    b->len = 0;
    b->refs = 1;
    b->sealed = b->hashed = b->hash_due = false;
    b->next = NULL;
    return b;
}

void netbuf_ref(struct netbuf *b)
{
    assert(b->refs > 0);
    b->refs++;
}

void netbuf_unref(struct netbuf_pool *p, struct netbuf *b)
{
    assert(b->refs > 0);
    if (--b->refs > 0)
        return;
    b->next = p->free[b->size_class];
    p->free[b->size_class] = b;
}

void netbuf_pool_close(struct netbuf_pool *p)
{
    for (int c = 0; c < NETBUF_CLASSES; c++) {
        while (p->free[c]) {
            struct netbuf *b = p->free[c];
            p->free[c] = b->next;
            mem_free(b);
        }
    }
}
