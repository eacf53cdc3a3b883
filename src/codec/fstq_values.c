// Scales, codes and decoded values of Fed-FSTQ: tensor by tensor, so that a tensor is read from
// memory once and threads take tensors each.
#include "base/half.h"
#include "codec/fstq.h"
#include "kernels/kernels_codec.h"

#include <math.h>

#define TILE     1024
#define MSE_BINS 128

// Codes of a width lie together, tensor after tensor in the order of the message.
void fstq_count(struct fstq_work *w)
{
    uint32_t n = w->c->shape->n_tensors;
#pragma omp parallel for schedule(dynamic)
    for (uint32_t t = 0; t < n; t++) {
        enum { MOST = 1 << 15 }; // of one alloc_count
        memset(w->count[t], 0, sizeof w->count[t]);
        for (size_t i = 0, m = fstq_tensor_values(w, t); i < m; i += MOST)
            alloc_count(w->tag + w->place[t] + i, m - i < MOST ? m - i : MOST, w->a.count,
                        w->count[t]);
    }
    memset(w->total, 0, sizeof w->total);
    size_t at = 0;
    for (int k = 0; k < w->a.count; k++)
        for (uint32_t i = 0; i < n; i++) {
            uint32_t t = w->order[i];
            w->total[k] += w->count[t][k];
            w->start[t][k] = at;
            at += k ? (size_t)w->count[t][k] * (w->a.bits[k] == 16 ? 2 : 1) : 0;
        }
}

float fstq_rounded(const struct fstq_opt *o, float s)
{
    if (!(s >= 0x1p-110f))
        return 0;
    return o->format == FORMAT_BF16 ? bf16_to_f32(bf16_from_f32(s)) : s;
}

// What the values of one width in one tensor, or a group of them, look like.
struct tier {
    float max;
    double abs;
    int64_t n;
    uint32_t bin[MSE_BINS]; // of magnitudes up to max
};

// The values of one tensor by width, one width after another.
struct kept {
    float *v[ALLOC_LEVELS];
    size_t n[ALLOC_LEVELS];
};

static void gather(const struct fstq_work *w, const float *x, uint32_t t, float *room,
                   struct kept *kept)
{
    const uint8_t *tag = w->tag + w->place[t];
    size_t n = fstq_tensor_values(w, t);
    x += w->c->shape->tensors[t].offset;
    for (int k = 1; k < w->a.count; k++) {
        kept->v[k] = room;
        room += w->count[t][k];
        kept->n[k] = 0;
    }
    for (size_t at = 0; at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        for (int k = 1; k < w->a.count; k++) {
            float v[TILE + 16];
            size_t found = w->count[t][k] ? alloc_gather(x + at, tag + at, m, (uint8_t)k, v) : 0;
            memcpy(kept->v[k] + kept->n[k], v, found * sizeof *v);
            kept->n[k] += found;
        }
    }
}

static void measure(const struct kept *kept, int k, struct tier *tier)
{
    tier->max = f32_from_bits(quant_absmax_bits(kept->v[k], kept->n[k]));
    tier->abs = quant_sum_abs(kept->v[k], kept->n[k]);
    tier->n = (int64_t)kept->n[k];
}

static void fill_bins(const struct kept *kept, int k, struct tier *tier)
{
    float inv = tier->max >= 0x1p-100f ? MSE_BINS / tier->max : 0;
    memset(tier->bin, 0, sizeof tier->bin);
    for (size_t i = 0; i < kept->n[k]; i++) {
        float at = fabsf(kept->v[k][i]) * inv;
        tier->bin[at < MSE_BINS - 1 ? (int)at : MSE_BINS - 1]++;
    }
}

// The scale of least squared error, by the histogram of magnitudes.
static float best_scale(const struct tier *tier, int q)
{
    float best = 0, best_s = tier->max / (float)q;
    for (int try = 64; try >= 8; try -= 2) {
        // In units of a bin: scale, and values at the middle of their bins.
        float s = (float)MSE_BINS / (float)q * (float)try * (1.0f / 64), err = 0, inv = 1 / s;
        for (int b = 0; b < MSE_BINS; b++) {
            float mid = (float)b + 0.5f;
            int level = (int)(mid * inv + 0.5f);
            float d = mid - (float)(level < q ? level : q) * s;
            err += (float)tier->bin[b] * (d * d);
        }
        if (try == 64 || err < best) {
            best = err;
            best_s = tier->max / (float)q * (float)try * (1.0f / 64);
        }
    }
    return best_s;
}

// From the largest of the group (30), of the width, or of least error; a sign's best level is the
// mean.
static float fit(const struct fstq_work *w, const struct tier *tier, float group_max, int bits)
{
    int how = w->opt->scale, q = fstq_q(bits);
    float s;
    if (tier->n == 0)
        s = 0;
    else if (bits == 1)
        s = (float)(tier->abs / (double)tier->n);
    else if (how == SCALE_MSE)
        s = best_scale(tier, q);
    else
        s = (how == SCALE_GROUP ? group_max : tier->max) / (float)q;
    return fstq_rounded(w->opt, s);
}

static void fit_all(struct fstq_work *w, uint32_t g, const struct tier *tier, float group_max)
{
    for (int k = 1; k < w->a.count; k++)
        if (fstq_has_scale(w->opt, w->a.bits[k]))
            w->scale[g][k] = fit(w, &tier[k], group_max, w->a.bits[k]);
}

static void code_int16(const float *v, size_t n, float inv, uint8_t *to)
{
    const float most = (float)fstq_q(16);
    for (size_t i = 0; i < n; i++) {
        float s = v[i] * inv;
        s = s > most ? most : s < -most ? -most : s;
        put_u16(to + 2 * i, (uint16_t)((int)((s + 12582912.0f) - 12582912.0f) + fstq_q(16)));
    }
}

static void code_tensor(const struct fstq_work *w, uint32_t t, const struct kept *kept)
{
    for (int k = 1; k < w->a.count; k++) {
        int bits = w->a.bits[k];
        float s = w->scale[w->group[t]][k], inv = s > 0 ? 1 / s : 0;
        uint8_t *to = w->code + w->start[t][k];
        enum alloc_kind kind = fstq_kind(w->opt, bits);
        if (kind == ALLOC_FP16)
            quant_f16_to_le(kept->v[k], kept->n[k], 1, to);
        else if (kind == ALLOC_SIGN)
            quant_sign_u8(kept->v[k], kept->n[k], to);
        else if (bits == 16)
            code_int16(kept->v[k], kept->n[k], inv, to);
        else
            quant_nearest_u8(kept->v[k], kept->n[k], inv, fstq_q(bits), to);
    }
}

static bool wants_bins(const struct fstq_work *w, int k)
{
    return w->opt->scale == SCALE_MSE && w->a.bits[k] > 1 && fstq_has_scale(w->opt, w->a.bits[k]);
}

size_t fstq_values_scratch(const struct codec_inst *c)
{
    return SCRATCH_ROUND(c->shape->n_tensors * sizeof(struct tier[ALLOC_LEVELS])) +
           SCRATCH_ROUND(c->shape->n_tensors * sizeof(struct kept)) +
           SCRATCH_ROUND(c->shape->n_values * sizeof(float));
}

// Scales by class: sums over tensors are added in their order.
static void fit_classes(struct fstq_work *w, const float *group_max, const struct kept *kept,
                        struct tier (*tier)[ALLOC_LEVELS])
{
    struct tier all[FSTQ_CLASSES][ALLOC_LEVELS];
    uint32_t n = w->c->shape->n_tensors;
    memset(all, 0, sizeof all);
    for (uint32_t t = 0; t < n; t++)
        for (int k = 1; k < w->a.count; k++) {
            struct tier *of = &all[w->group[t]][k];
            of->max = tier[t][k].max > of->max ? tier[t][k].max : of->max;
            of->abs += tier[t][k].abs;
            of->n += tier[t][k].n;
        }
#pragma omp parallel for schedule(dynamic)
    for (uint32_t t = 0; t < n; t++)
        for (int k = 1; k < w->a.count; k++)
            if (wants_bins(w, k)) {
                tier[t][k].max = all[w->group[t]][k].max;
                fill_bins(&kept[t], k, &tier[t][k]);
            }
    for (uint32_t t = 0; t < n; t++)
        for (int k = 1; k < w->a.count; k++)
            for (int b = 0; b < MSE_BINS && wants_bins(w, k); b++)
                all[w->group[t]][k].bin[b] += tier[t][k].bin[b];
    for (uint32_t g = 0; g < FSTQ_CLASSES; g++)
        fit_all(w, g, all[g], group_max[g]);
}

void fstq_quantise(struct fstq_work *w, const float *x, const float *group_max, bool anew,
                   void *scratch)
{
    bool by_class = w->opt->group == GROUP_CLASS;
    uint32_t n = w->c->shape->n_tensors;
    struct tier(*tier)[ALLOC_LEVELS] = scratch_take(&scratch, n * sizeof *tier);
    struct kept *kept = scratch_take(&scratch, n * sizeof *kept);
    float *room = scratch;
#pragma omp parallel for schedule(dynamic)
    for (uint32_t t = 0; t < n; t++) {
        gather(w, x, t, room + w->place[t], &kept[t]);
        for (int k = 1; k < w->a.count && anew; k++) {
            measure(&kept[t], k, &tier[t][k]);
            if (!by_class && wants_bins(w, k))
                fill_bins(&kept[t], k, &tier[t][k]);
        }
        if (by_class)
            continue;
        if (anew)
            fit_all(w, t, tier[t], group_max[t]);
        code_tensor(w, t, &kept[t]);
    }
    if (!by_class)
        return;
    if (anew)
        fit_classes(w, group_max, kept, tier);
#pragma omp parallel for schedule(dynamic)
    for (uint32_t t = 0; t < n; t++)
        code_tensor(w, t, &kept[t]);
}

// The values of width k in a tile, from their codes.
static void values_of(const struct fstq_opt *o, int bits, float s, const uint8_t *code, size_t n,
                      float *v)
{
    struct quant_sink set = {v, 1, false};
    if (fstq_kind(o, bits) == ALLOC_FP16) {
        quant_f16_from_le(code, n, 1, set);
    } else if (bits == 1) {
        const float table[16] = {-s, s};
        quant_table_from_u8(code, n, table, set);
    } else if (bits < 16) {
        quant_linear_from_u8(code, n, fstq_q(bits), s, set);
    } else {
        for (size_t i = 0; i < n; i++)
            v[i] = (float)((int)get_u16(code + 2 * i) - fstq_q(16)) * s;
    }
}

// Codes [at, at + n) of a width, n <= TILE, unpacked into buf where they are packed.
static const uint8_t *codes_of(const struct fstq_work *w, int k, size_t at, size_t n, uint8_t *buf)
{
    int bits = w->a.bits[k];
    if (bits == 16 || fstq_entropy_coded(w->opt, bits))
        return w->from[k] + at * (bits == 16 ? 2 : 1);
    size_t skip = at % 8; // packed codes begin with a byte every eight
    unpack_u8(w->from[k] + at / 8 * (unsigned)bits, skip + n, (unsigned)bits, buf);
    return buf + skip;
}

// Every tile: how many tags of each width, their codes, their values, to their places. All but the
// look at the tags costs as much as was kept.
static void give_tensor(const struct fstq_work *w, uint32_t t, struct quant_sink to)
{
    const struct shape_tensor *row = &w->c->shape->tensors[t];
    const uint8_t *tag = w->tag + w->place[t];
    size_t next[ALLOC_LEVELS];
    float v[TILE + 16];
    uint8_t buf[TILE + 8];
    for (int k = 1; k < w->a.count; k++)
        next[k] = (w->start[t][k] - fstq_first_code(w, k)) / (w->a.bits[k] == 16 ? 2 : 1);
    for (size_t at = 0, n = fstq_tensor_values(w, t); at < n; at += TILE) {
        size_t m = n - at < TILE ? n - at : TILE;
        struct quant_sink here = quant_sink_at(to, row->offset + at);
        int64_t count[ALLOC_LEVELS] = {0};
        if (!to.add)
            memset(here.to, 0, m * sizeof *here.to);
        alloc_count(tag + at, m, w->a.count, count);
        for (int k = 1; k < w->a.count; k++) {
            size_t kept = (size_t)count[k];
            if (kept == 0)
                continue;
            const uint8_t *code = codes_of(w, k, next[k], kept, buf);
            values_of(w->opt, w->a.bits[k], w->scale[w->group[t]][k], code, kept, v);
            next[k] += kept;
            alloc_scatter(v, tag + at, m, (uint8_t)k, here);
        }
    }
}

void fstq_give(const struct fstq_work *w, struct quant_sink to)
{
#pragma omp parallel for schedule(dynamic)
    for (uint32_t t = 0; t < w->c->shape->n_tensors; t++)
        give_tensor(w, t, to);
}
