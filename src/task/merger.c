#include "task/merger.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

#define FEW 24

void merger_close(struct merger *m)
{
    mem_free(m->symbol);
    mem_free(m->heap);
}

// As much room as the longest piece needs; it stays for the next one.
static void grow(struct merger *m)
{
    int32_t cap = m->cap ? 2 * m->cap : 64;
    struct merge_symbol *symbol = mem_alloc(MEM_DATA, (size_t)cap * sizeof *symbol);
    if (m->n_symbols)
        memcpy(symbol, m->symbol, (size_t)m->n_symbols * sizeof *symbol);
    merger_close(m);
    m->symbol = symbol;
    m->heap = mem_alloc(MEM_DATA, 3 * (size_t)cap * sizeof *m->heap);
    m->cap = cap;
}

void merger_add(struct merger *m, int32_t id)
{
    if (m->n_symbols == m->cap)
        grow(m);
    int32_t i = m->n_symbols++;
    m->symbol[i] = (struct merge_symbol){id, i - 1, i + 1};
}

static bool before(const struct merge_pair *a, const struct merge_pair *b)
{
    return a->order < b->order || (a->order == b->order && a->left < b->left);
}

static void heap_push(struct merger *m, struct merge_pair x)
{
    int32_t i = m->n_heap++;
    while (i > 0 && before(&x, &m->heap[(i - 1) / 2])) {
        m->heap[i] = m->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    m->heap[i] = x;
}

static struct merge_pair heap_pop(struct merger *m)
{
    struct merge_pair top = m->heap[0], last = m->heap[--m->n_heap];
    int32_t i = 0;
    for (;;) {
        int32_t child = 2 * i + 1;
        if (child >= m->n_heap)
            break;
        if (child + 1 < m->n_heap && before(&m->heap[child + 1], &m->heap[child]))
            child++;
        if (!before(&m->heap[child], &last))
            break;
        m->heap[i] = m->heap[child];
        i = child;
    }
    m->heap[i] = last;
    return top;
}

static void propose(struct merger *m, int32_t left)
{
    if (left < 0 || m->symbol[left].next < 0)
        return;
    struct merge_pair p = {.left = left,
                           .left_id = m->symbol[left].id,
                           .right_id = m->symbol[m->symbol[left].next].id};
    if (m->find(m->vocabulary, p.left_id, p.right_id, &p.order, &p.merged))
        heap_push(m, p);
}

// Few symbols: looking at all pairs for the best is faster than a heap.
static int32_t run_few(struct merger *m, int32_t *out, int32_t cap)
{
    int32_t n = m->n_symbols, id[FEW], merged[FEW];
    float order[FEW];
    for (int32_t i = 0; i < n; i++)
        id[i] = m->symbol[i].id;
    for (int32_t i = 0; i + 1 < n; i++)
        if (!m->find(m->vocabulary, id[i], id[i + 1], &order[i], &merged[i]))
            order[i] = INFINITY;
    for (;;) {
        int32_t best = 0;
        for (int32_t i = 1; i + 1 < n; i++)
            best = order[i] < order[best] ? i : best;
        if (n < 2 || order[best] == INFINITY)
            break;
        id[best] = merged[best];
        n--;
        for (int32_t i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            order[i] = order[i + 1];
            merged[i] = merged[i + 1];
        }
        for (int32_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++)
            if (!m->find(m->vocabulary, id[i], id[i + 1], &order[i], &merged[i]))
                order[i] = INFINITY;
    }
    for (int32_t i = 0; i < n && i < cap; i++)
        out[i] = id[i];
    m->n_symbols = 0;
    return n;
}

int32_t merger_run(struct merger *m, int32_t *out, int32_t cap)
{
    if (m->n_symbols <= FEW)
        return run_few(m, out, cap);
    m->symbol[m->n_symbols - 1].next = -1;
    for (int32_t i = 0; i < m->n_symbols; i++)
        propose(m, i);
    while (m->n_heap) {
        struct merge_pair x = heap_pop(m);
        struct merge_symbol *left = &m->symbol[x.left];
        if (left->id != x.left_id || left->next < 0 || m->symbol[left->next].id != x.right_id)
            continue; // one side was merged meanwhile
        struct merge_symbol *right = &m->symbol[left->next];
        left->id = x.merged;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0)
            m->symbol[left->next].previous = x.left;
        propose(m, left->previous);
        propose(m, x.left);
    }
    int32_t count = 0;
    for (int32_t i = 0; i >= 0; i = m->symbol[i].next) {
        if (count < cap)
            out[count] = m->symbol[i].id;
        count++;
    }
    m->n_symbols = 0;
    return count;
}
