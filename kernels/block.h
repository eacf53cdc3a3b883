// Blocks of quantised weights, as GGUF stores them (NF4 is ours), to floats. One row per type: the
// block's size and what its values are; `decode` is the definition, in the order of operations that
// ggml's own reference has, so that the floats are the same bit for bit.
#ifndef FSTQ_KERNELS_BLOCK_H
#define FSTQ_KERNELS_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#define BLOCK_COPIES 3   // one an instruction set, see simd.h; all give the same bits
#define BLOCK_VALUES 256 // of a block, at most

struct block_row {
    const char *name;
    int32_t id, values, bytes; // GGUF's id; values of a block, and its bytes
    void (*decode[BLOCK_COPIES])(const uint8_t *x, size_t blocks, float *y);
    void (*encode)(const float *x, uint8_t *y); // one block; NULL = not done here
};

// Rows of a weight as blocks, one row after another.
struct block_rows {
    const struct block_row *type;
    const uint8_t *at;
    int32_t rows, cols; // cols: whole blocks
};

extern const float block_nf4[16];            // what the codes of NF4 stand for
extern const int8_t block_iq4_level[16];     // and those of IQ4
extern const struct block_row block_table[]; // ends with a NULL name
enum block_id {
    BLOCK_Q4_0 = 2,
    BLOCK_Q4_1 = 3,
    BLOCK_Q5_0 = 6,
    BLOCK_Q5_1 = 7,
    BLOCK_Q8_0 = 8,
    BLOCK_Q2_K = 10,
    BLOCK_Q3_K = 11,
    BLOCK_Q4_K = 12,
    BLOCK_Q5_K = 13,
    BLOCK_Q6_K = 14,
    BLOCK_IQ4_NL = 20,
    BLOCK_IQ4_XS = 23,
    BLOCK_NF4 = 1 << 20
};                                              // GGUF's ids, but the last
const struct block_row *block_find(int32_t id); // NULL = cannot be decoded
// Scale and min of group j of eight, of 6 bits each in 12 bytes, as Q4_K and Q5_K have them.
static inline void block_scale_min(const uint8_t *s, int j, float *scale, float *min)
{
    if (j < 4) {
        *scale = (float)(s[j] & 63);
        *min = (float)(s[j + 4] & 63);
    } else {
        *scale = (float)((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        *min = (float)((s[j + 4] >> 4) | (s[j] >> 6) << 4);
    }
}
// Blocks that lie one after another.
void block_decode(const struct block_row *row, const uint8_t *x, size_t blocks, float *y);
void block_encode(const struct block_row *row, const float *x, size_t blocks, uint8_t *y);
static inline size_t block_row_bytes(const struct block_rows *p)
{
    return (size_t)(p->cols / p->type->values) * (size_t)p->type->bytes;
}
// The part that has a row, which becomes that of the part.
static inline const struct block_rows *block_part(const struct block_rows *part, int32_t *row)
{
    for (; *row >= part->rows; part++)
        *row -= part->rows;
    return part;
}
// Columns [col, col + n) of a row; col and n are whole blocks. Rows beyond those of the first part
// are the next one's in the list.
void block_columns(const struct block_rows *part, int32_t row, int32_t col, int32_t n, float *y);

#endif
