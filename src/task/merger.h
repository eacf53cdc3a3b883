// Byte-pair merging: symbols in a row, of which the best pair merges until none can. Of equals the
// leftmost. Time grows as n log n, so that no text is slow.
#ifndef FSTQ_TASK_MERGER_H
#define FSTQ_TASK_MERGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct merge_symbol {
    int32_t id, previous, next; // id -1 = merged away
};
struct merge_pair {
    float order; // least first
    int32_t left, left_id, right_id, merged;
};

struct merger {
    // Do two symbols merge, into what, and how soon?
    bool (*find)(const void *vocabulary, int32_t left, int32_t right, float *order,
                 int32_t *merged);
    const void *vocabulary;
    struct merge_symbol *symbol; // (cap); all that follows begins as zero
    struct merge_pair *heap;     // (3 cap): one per pair, two more per merge
    int32_t n_symbols, n_heap, cap;
};

void merger_close(struct merger *m);
void merger_add(struct merger *m, int32_t id); // behind the last
// Merges what was added, writes at most cap ids, returns how many there are, and begins anew.
int32_t merger_run(struct merger *m, int32_t *out, int32_t cap);

#endif
