// The CPU's column of the rotated quantisers' stages.
#include "stages.h"

#include <string.h>

#define TILE  1024
#define LIMIT 0x71800000u // bits of 2^100

// Lloyd-Max levels of N(0, 1) for 1 to 4 bits (Max 1960, table 1): the upper half, ascending.
static const float centroid[5][8] = {
    {0},
    {0.797884561f},
    {0.452780035f, 1.510417608f},
    {0.245094179f, 0.756005281f, 1.343909279f, 2.151945705f},
    {0.128395030f, 0.388048299f, 0.656759119f, 0.942340456f, 1.256231197f, 1.618046386f,
     2.069017227f, 2.732589571f},
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void levels(unsigned bits, float scale, float table[16])
{
    unsigned half = 1u << (bits - 1);
    for (unsigned i = 0; i < half; i++) {
        table[half + i] = centroid[bits][i] * scale;
        table[half - 1 - i] = -centroid[bits][i] * scale;
    }
}

static void draw_signs(const struct rotate_slice *s, uint32_t bits[ROTATE_MOST / 32])
{
    // A slice begins at a multiple of 64 values, two words; streams are read in steps of four.
    size_t first = s->first / 32, skip = first % 4, words = (s->d + 31) / 32;
    uint32_t buf[ROTATE_MOST / 32 + 4];
    philox_words(s->key, s->ctr, first - skip, words + skip, buf);
    memcpy(bits, buf + skip, words * sizeof *bits);
}

// Codes of a tile of coordinates: the nearest levels, in units of 1 / inv, and what these are.
static void code_tile(unsigned bits, const float *y, size_t n, float inv, const float table[16],
                      uint8_t *out, float *level)
{
    float bound[15], v[TILE];
    uint8_t code[TILE];
    const int bounds = (1 << bits) - 1;
    if (bits == 1) { // the bound is 0
        rotate_sides(y, n, inv, table[0], table[1], v, level);
        quant_pack_sign(v, n, out);
        return;
    }
    for (int i = 0; i < bounds; i++)
        bound[i] = (table[i] + table[i + 1]) * 0.5f;
    quant_bounds_u8(y, n, inv, bound, bounds, code);
    pack_u8(code, n, bits, out);
    quant_table_from_u8(code, n, table, (struct quant_sink){level, 1, false});
}

static void code_run(unsigned bits, const float *y, size_t n, float inv, uint8_t *out,
                     struct rotate_facts *f)
{
    float table[16] = {0}, level[TILE];
    double dot = 0, level_sq = 0;
    if (n == 0)
        return;
    levels(bits, 1, table);
    for (size_t at = 0; at < n; at += TILE) {
        size_t m = min_size(n - at, TILE);
        code_tile(bits, y + at, m, inv, table, out + at / 8 * bits, level);
        dot += quant_dot(level, y + at, m);
        // With one bit all levels have the same square, and so have all whole tiles.
        if (at == 0 || bits > 1 || m < TILE)
            level_sq = quant_sum_sq(level, m);
        f->level_sq += level_sq;
    }
    f->dot += dot;
}

// Unnormalised, y is sqrt(d) times the rotated vector, whose coordinates are |x| / sqrt(d) N(0, 1).
static void code_slice(const float *x, const struct rotate_slice *s, struct rotate_facts *f,
                       uint8_t *out)
{
    uint32_t bits[ROTATE_MOST / 32];
    _Alignas(64) float y[ROTATE_MOST];
    struct quant_stats of = {0};
    quant_stats(x, s->n, QUANT_SQ, &of);
    *f = (struct rotate_facts){.max_bits = of.max_bits};
    if (f->max_bits >= LIMIT)
        return;
    draw_signs(s, bits);
    rotate_signs(x, bits, s->n, (struct quant_sink){y, 1, false});
    memset(y + s->n, 0, (s->d - s->n) * sizeof *y);
    rotate_fwht(y, s->d);
    f->norm_sq = of.sq;
    float inv = f->norm_sq > 0x1p-200 ? (float)(1 / __builtin_sqrt(f->norm_sq)) : 0;
    code_run(s->high, y, s->n_high, inv, out, f);
    code_run(s->low, y + s->n_high, s->n_low, inv, out + pack_bytes(s->n_high, s->high), f);
}

static void code(const struct kernel_ctx *cx, const float *x, const struct rotate_slice *slice,
                 size_t slices, struct rotate_facts *facts, uint8_t *out)
{
    (void)cx;
    for (size_t i = 0; i < slices; i++)
        code_slice(x + slice[i].at, &slice[i], &facts[i], out + slice[i].out);
}

static void give_run(unsigned bits, const uint8_t *in, size_t n, float scale, float *y)
{
    float table[16] = {0};
    if (n == 0)
        return;
    levels(bits, scale, table);
    quant_unpack_table(in, n, bits, table, (struct quant_sink){y, 1, false}, false);
}

static void give_slice(const uint8_t *in, const struct rotate_slice *s, float scale,
                       struct quant_sink to)
{
    uint32_t bits[ROTATE_MOST / 32];
    _Alignas(64) float y[ROTATE_MOST];
    draw_signs(s, bits);
    give_run(s->high, in, s->n_high, scale, y);
    give_run(s->low, in + pack_bytes(s->n_high, s->high), s->n_low, scale, y + s->n_high);
    memset(y + s->n_high + s->n_low, 0, (s->d - s->n_high - s->n_low) * sizeof *y);
    rotate_fwht(y, s->d);
    rotate_signs(y, bits, s->n, to);
}

static void give(const struct kernel_ctx *cx, const uint8_t *in, const struct rotate_slice *slice,
                 size_t slices, const float *scale, struct quant_sink to)
{
    (void)cx;
    for (size_t i = 0; i < slices; i++)
        give_slice(in + slice[i].out, &slice[i], scale[i], quant_sink_at(to, slice[i].at));
}

const struct rotate_stages rotate_stages_cpu = {code, give};
