// Count sketches (Charikar, Chen and Farach-Colton 2002): rows of cells, in each of which every
// coordinate is added to one cell with a sign of its own. The lowest bit of a Philox word is the
// sign, the others choose the cell.
#include "kernels_codec.h"

#define TILE     1024
#define ROWS_MAX 9

static size_t cell_of(uint32_t word, size_t cols)
{
    return (size_t)((uint64_t)(word >> 1) * cols >> 31);
}

static float signed_by(uint32_t word, float x)
{
    return word & 1 ? -x : x;
}

void hash_add(const struct hash_row *row, const float *x, size_t n, size_t cols, float *cells)
{
    uint32_t word[TILE];
    for (size_t at = 0; at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        philox_words(row->key, row->ctr, at, m, word);
        for (size_t i = 0; i < m; i++)
            cells[cell_of(word[i], cols)] += signed_by(word[i], x[at + i]);
    }
}

static float median(float *v, size_t n)
{
    for (size_t i = 1; i < n; i++)
        for (size_t k = i; k > 0 && v[k] < v[k - 1]; k--) {
            float t = v[k];
            v[k] = v[k - 1];
            v[k - 1] = t;
        }
    return v[n / 2];
}

void hash_estimate(const struct hash_row *row, size_t rows, const float *cells, size_t cols,
                   size_t from, size_t n, float *x)
{
    uint32_t word[TILE];
    float v[TILE][ROWS_MAX];
    for (size_t at = 0; at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        for (size_t r = 0; r < rows; r++) {
            philox_words(row[r].key, row[r].ctr, from + at, m, word);
            for (size_t i = 0; i < m; i++)
                v[i][r] = signed_by(word[i], cells[r * cols + cell_of(word[i], cols)]);
        }
        for (size_t i = 0; i < m; i++)
            x[at + i] = median(v[i], rows);
    }
}

void hash_clear(const struct hash_row *row, size_t rows, size_t cols, const uint32_t *at, size_t n,
                float *cells)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++) {
            uint32_t word[4];
            philox_words(row[r].key, row[r].ctr, at[i] & ~3u, 4, word);
            cells[r * cols + cell_of(word[at[i] & 3], cols)] = 0;
        }
}
