// Blocks of quantised weights, as GGUF stores them, to floats. One row per type: the block's size
// and what its values are; `decode` is the definition, in the order of operations that ggml's own
// reference has, so that the floats are the same bit for bit.
#ifndef FSTQ_KERNELS_BLOCK_H
#define FSTQ_KERNELS_BLOCK_H

#include <stddef.h>
#include <stdint.h>

struct block_row {
    const char *name;
    int32_t id, values, bytes; // GGUF's id; values of a block, and its bytes
    void (*decode)(const uint8_t *x, float *y);
};

extern const struct block_row block_table[];    // ends with a NULL name
const struct block_row *block_find(int32_t id); // NULL = cannot be decoded
// Blocks that lie one after another.
void block_decode(const struct block_row *row, const uint8_t *x, size_t blocks, float *y);

#endif
