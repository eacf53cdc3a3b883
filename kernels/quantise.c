// The CPU's column of the dense quantisers' stages: runs of groups, a tile at a time.
#include "stages.h"

#include "base/half.h"

#include <string.h>

#define TILE  1024    // values in hand, in the first-level cache
#define DRAWN 512     // values whose random words are made while others come from memory
#define PIECE 4096    // values that are summed, then looked at again
#define LIMIT 0x1p100 // magnitudes below it are sound

static float reciprocal(float scale)
{
    return scale != 0 ? 1 / scale : 0;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

// The end of the group that value `at` of a run is in.
static size_t group_end(const struct quant_run *r, size_t at)
{
    size_t end = r->group < r->n ? (at / r->group + 1) * r->group : r->n;
    return min_size(end, r->n);
}

// Fitting.

static void fit_group(const float *x, size_t n, unsigned wanted, struct quant_stats *s,
                      uint8_t *signs)
{
    memset(s, 0, sizeof *s);
    for (size_t at = 0; at < n; at += PIECE) {
        size_t m = min_size(n - at, PIECE);
        if (signs && wanted == (QUANT_ABS | QUANT_NO_MAX)) {
            quant_pack_sign_abs(x + at, m, signs + at / 8, &s->abs);
            continue;
        }
        quant_stats(x + at, m, wanted, s);
        if (signs)
            quant_pack_sign(x + at, m, signs + at / 8);
    }
    // No magnitude exceeds their sum.
    if ((wanted & QUANT_NO_MAX) && !(s->abs < LIMIT))
        s->max_bits = quant_absmax_bits(x, n);
}

static void fit(const struct kernel_ctx *cx, const float *x, const struct quant_run *run,
                size_t runs, unsigned wanted, struct quant_stats *stats, uint8_t *signs)
{
    (void)cx;
    for (size_t r = 0; r < runs; r++, run++)
        for (size_t at = 0, g = run->first, end; at < run->n; at = end, g++) {
            end = group_end(run, at);
            fit_group(x + run->at + at, end - at, wanted, &stats[g],
                      signs ? signs + run->out + at / 8 : NULL);
        }
}

// Coding.

// The random words of values [at, at + n) of a run; buf (n + 4).
static const uint32_t *draw(const struct quant_run *r, size_t at, size_t n, uint32_t *buf)
{
    size_t first = r->drawn + at, skip = first % 4;
    philox_words(r->key, r->ctr, first - skip, n + skip, buf);
    return buf + skip;
}

static void code_values(const struct quant_rule *rule, float scale, const float *x,
                        const uint32_t *rnd, size_t n, uint8_t *code)
{
    float inv = reciprocal(scale);
    switch (rule->kind) {
    case QUANT_NEAREST:
        quant_nearest_u8(x, n, inv, rule->q, code);
        break;
    case QUANT_STOCHASTIC:
        quant_stochastic_u8(x, rnd, n, inv, rule->q, code);
        break;
    case QUANT_DEADZONE:
        quant_deadzone_u8(x, n, inv, rule->round, rule->q, code);
        break;
    case QUANT_DITHER:
        quant_dither_u8(x, rnd, n, inv, rule->q, code);
        break;
    case QUANT_SIGN:
        quant_sign_u8(x, n, code);
        break;
    case QUANT_COIN:
        quant_coin_u8(x, rnd, n, inv, code);
        break;
    case QUANT_BOUNDS:
        quant_bounds_u8(x, n, inv, rule->bound, (int)rule->kinds - 1, code);
        break;
    case QUANT_POWERS:
        quant_powers_u8(x, rnd, n, inv, rule->q, code);
        break;
    case QUANT_FP16:
    case QUANT_BF16:
    case QUANT_FP32:
        break; // numbers, which have no codes
    }
}

static bool draws(const struct quant_rule *rule)
{
    return rule->kind == QUANT_STOCHASTIC || rule->kind == QUANT_DITHER ||
           rule->kind == QUANT_COIN || rule->kind == QUANT_POWERS;
}

// Whether groups begin with a byte, so that codes never meet in one.
static bool apart(const struct quant_run *r)
{
    return r->group % 8 == 0 || r->group >= r->n;
}

// Values of one group after another into bytes, which are packed when a tile is full.
static void code_tiles(const struct quant_run *r, const float *x, const struct quant_rule *rule,
                       const float *scale, uint8_t *out)
{
    uint8_t code[2 * TILE];
    uint32_t rnd[TILE + 4];
    size_t have = 0;
    for (size_t at = 0, m; at < r->n; at += m) {
        m = min_size(group_end(r, at) - at, TILE);
        code_values(rule, scale[at / r->group * rule->scales], x + at,
                    draws(rule) ? draw(r, at, m, rnd) : NULL, m,
                    rule->width == 8 ? out + at : code + have);
        if (rule->width == 8)
            continue;
        have += m;
        bool last = at + m == r->n;
        if (have < TILE && !last)
            continue;
        size_t now = last ? have : have & ~(size_t)7;
        pack_u8(code, now, rule->width, out);
        out += now / 8 * rule->width;
        have -= now;
        memmove(code, code + now, have);
    }
}

// Straight to packed codes.
static void code_apart(const struct quant_run *r, const float *x, const struct quant_rule *rule,
                       const float *scale, uint8_t *out)
{
    uint32_t rnd[DRAWN + 4];
    if (rule->kind == QUANT_NEAREST) {
        quant_pack(x, x + r->n, NULL, r->n, r->group, scale, rule->q, rule->width, out);
        return;
    }
    for (size_t at = 0, m; at < r->n; at += m) {
        m = min_size(DRAWN % r->group == 0 ? r->n - at : group_end(r, at) - at, DRAWN);
        quant_pack(x + at, x + r->n + at, draw(r, at, m, rnd), m, r->group, scale + at / r->group,
                   rule->q, rule->width, out + at / 8 * rule->width);
    }
}

static void code_numbers(const struct quant_run *r, const float *x, enum quant_kind kind,
                         const float *scale, uint8_t *out)
{
    for (size_t at = 0, end; at < r->n; at = end) {
        end = group_end(r, at);
        if (kind == QUANT_FP16)
            quant_f16_to_le(x + at, end - at, scale[at / r->group], out + 2 * at);
        else if (kind == QUANT_BF16)
            quant_bf16_to_le(x + at, end - at, out + 2 * at);
        else
            quant_f32_to_le(x + at, end - at, out + 4 * at);
    }
}

static void code(const struct kernel_ctx *cx, const float *x, const struct quant_run *run,
                 size_t runs, const struct quant_rule *rule, const float *scale, uint8_t *out)
{
    (void)cx;
    for (size_t r = 0; r < runs; r++, run++) {
        const float *from = x + run->at, *own = scale + run->first * rule->scales;
        bool packs = rule->kind == QUANT_NEAREST || rule->kind == QUANT_STOCHASTIC;
        if (rule->kind >= QUANT_FP16)
            code_numbers(run, from, rule->kind, own, out + run->out);
        else if (rule->kind == QUANT_SIGN && rule->width == 1)
            quant_pack_sign(from, run->n, out + run->out);
        else if (packs && apart(run))
            code_apart(run, from, rule, own, out + run->out);
        else
            code_tiles(run, from, rule, own, out + run->out);
    }
}

// Meaning.

static bool is_linear(const struct quant_rule *rule)
{
    return rule->kind <= QUANT_DITHER;
}

// What the codes of a group mean.
static void levels(const struct quant_rule *rule, const float *scale, float *level)
{
    if (rule->kind == QUANT_SIGN || rule->kind == QUANT_COIN) {
        level[0] = rule->scales == 2 ? scale[0] : -*scale;
        level[1] = rule->scales == 2 ? scale[1] : *scale;
        return;
    }
    for (unsigned k = 0; k < rule->kinds; k++)
        level[k] = rule->level[k] * *scale;
}

static void give_tiles(const struct quant_run *r, const uint8_t *in, const struct quant_rule *rule,
                       const float *scale, struct quant_sink to)
{
    float level[256] = {0};
    uint8_t buf[TILE];
    uint32_t rnd[TILE + 4];
    size_t known = SIZE_MAX;
    for (size_t tile = 0; tile < r->n; tile += TILE) {
        size_t end = min_size(r->n, tile + TILE);
        const uint8_t *code = in + tile;
        if (rule->width != 8) {
            unpack_u8(in + tile / 8 * rule->width, end - tile, rule->width, buf);
            code = buf;
        }
        for (size_t at = tile, m; at < end; at += m, code += m) { // pieces of groups in the tile
            size_t g = at / r->group;
            struct quant_sink here = quant_sink_at(to, at);
            m = min_size(group_end(r, at), end) - at;
            if (rule->kind == QUANT_DITHER) {
                quant_dither_from_u8(code, draw(r, at, m, rnd), m, rule->q, scale[g], here);
                continue;
            }
            if (rule->kind == QUANT_DEADZONE && rule->scales == 3) {
                quant_centred_from_u8(code, m, rule->q, scale + 3 * g, here);
                continue;
            }
            if (is_linear(rule)) {
                quant_linear_from_u8(code, m, rule->q, scale[g], here);
                continue;
            }
            if (g != known)
                levels(rule, scale + g * rule->scales, level);
            known = g;
            if (rule->kinds <= 16)
                quant_table_from_u8(code, m, level, here);
            else
                quant_lookup_from_u8(code, m, level, here);
        }
    }
}

static void give_numbers(const struct quant_run *r, const uint8_t *in, enum quant_kind kind,
                         const float *scale, struct quant_sink to)
{
    for (size_t at = 0, end; at < r->n; at = end) {
        end = group_end(r, at);
        if (kind == QUANT_FP16)
            quant_f16_from_le(in + 2 * at, end - at, scale[at / r->group], quant_sink_at(to, at));
        else if (kind == QUANT_BF16)
            quant_bf16_from_le(in + 2 * at, end - at, quant_sink_at(to, at));
        else
            quant_f32_from_le(in + 4 * at, end - at, quant_sink_at(to, at));
    }
}

static void give(const struct kernel_ctx *cx, const uint8_t *in, const struct quant_run *run,
                 size_t runs, const struct quant_rule *rule, const float *scale,
                 struct quant_sink to, bool stream)
{
    (void)cx;
    for (size_t r = 0; r < runs; r++, run++) {
        const uint8_t *from = in + run->out;
        const float *own = scale + run->first * rule->scales;
        struct quant_sink at = quant_sink_at(to, run->at);
        bool linear = rule->kind <= QUANT_DEADZONE && rule->scales == 1;
        bool signs = rule->kind == QUANT_SIGN || rule->kind == QUANT_COIN;
        if (rule->kind >= QUANT_FP16) {
            give_numbers(run, from, rule->kind, own, at);
        } else if (linear && apart(run)) {
            quant_unpack(from, run->n, rule->width, run->group, own, rule->q, at, stream);
        } else if (signs && rule->width == 1 && apart(run)) {
            for (size_t i = 0; i < run->n; i += run->group) {
                float level[16] = {0};
                levels(rule, own + i / run->group * rule->scales, level);
                quant_unpack_table(from + i / 8, group_end(run, i) - i, 1, level,
                                   quant_sink_at(at, i), stream);
            }
        } else {
            give_tiles(run, from, rule, own, at);
        }
    }
}

// Centres.

// The magnitudes of the codes that are looked for, beside 0.
static void centre_tile(const float *x, const uint8_t *code, size_t n, int q,
                        struct quant_centres *c)
{
    float one[TILE], more[TILE];
    uint32_t ones = 0, mores = 0, levels = 0;
    for (size_t i = 0; i < n; i++) {
        int level = (int)code[i] - q;
        uint32_t m = (uint32_t)(level < 0 ? -level : level), a = f32_bits(x[i]) & 0x7fffffffu;
        one[i] = f32_from_bits(m == 1 ? a : 0);
        more[i] = f32_from_bits(m > 1 ? a : 0);
        ones += m == 1;
        mores += m > 1;
        levels += m > 1 ? m : 0;
    }
    c->one += quant_sum(one, n);
    c->more += quant_sum(more, n);
    c->ones += ones;
    c->mores += mores;
    c->levels += levels;
}

static void centre(const struct kernel_ctx *cx, const float *x, const uint8_t *codes,
                   const struct quant_run *run, size_t runs, int q, struct quant_centres *centres)
{
    (void)cx;
    for (size_t r = 0; r < runs; r++, run++)
        for (size_t at = 0, g = run->first, end; at < run->n; g++) {
            struct quant_centres c = {0};
            for (end = group_end(run, at); at < end; at += min_size(end - at, TILE))
                centre_tile(x + run->at + at, codes + run->out + at, min_size(end - at, TILE), q,
                            &c);
            centres[g] = c;
        }
}

// Turning.

// In columns of 64 rows, so that what is written stays in the cache.
static void turn(const struct kernel_ctx *cx, const float *x, const struct quant_matrix *m,
                 size_t matrices, float *y)
{
    (void)cx;
    for (size_t k = 0; k < matrices; k++, m++)
        for (size_t r0 = 0; r0 < m->rows; r0 += 64)
            for (size_t c = 0; c < m->cols; c++)
                for (size_t r = r0; r < m->rows && r < r0 + 64; r++)
                    y[m->at + c * m->rows + r] = x[m->at + r * m->cols + c];
}

static void turn_back(const struct kernel_ctx *cx, const float *y, const struct quant_matrix *m,
                      size_t matrices, struct quant_sink to)
{
    (void)cx;
    for (size_t k = 0; k < matrices; k++, m++) {
        float *at = to.to + m->at;
        for (size_t r = 0; r < m->rows; r++)
            for (size_t c = 0; c < m->cols; c++, at++) {
                float v = y[m->at + c * m->rows + r];
                *at = to.add ? *at + to.weight * v : v;
            }
    }
}

const struct quant_stages quant_stages_cpu = {fit, code, give, centre, turn, turn_back};
