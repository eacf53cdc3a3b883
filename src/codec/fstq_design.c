// Scales of Fed-FSTQ: fitted to the values of each width, or designed.
//
// The quantisers of the rate-distortion policy: entropy-constrained design (Chou, Lookabaugh
// and Gray 1989) of all widths together, on a sample of the update. In turn: for given scales and
// rates each coordinate takes the width of least w e^2 + lambda r (14), lambda such that the
// message is as long as it may be; for given widths each scale becomes the one of least error, and
// rates what tags and values then cost.
#include "base/fmath.h"
#include "base/half.h"
#include "codec/fstq.h"
#include "kernels/kernels_codec.h"

#include <math.h>

#define TILE         1024
#define ROUNDS       6
#define SAMPLE_LEAST 8192 // values of a sample
#define SAMPLE_MOST  64   // one run of so many, at most
#define RUN          ((size_t)16)
#define TENSOR_LEAST 1024 // values of a tensor that has scales of its own

float fstq_rounded(const struct fstq_opt *o, float s)
{
    if (!(s >= 0x1p-110f))
        return 0;
    return o->format == FORMAT_BF16 ? bf16_to_f32(bf16_from_f32(s)) : s;
}

// Fits to tiers.

// The scale of least squared error, by the histogram of magnitudes.
static float best_scale(const struct alloc_tier *tier, int q)
{
    float best = 0, best_s = tier->max / (float)q;
    for (int try = 64; try >= 8; try -= 2) {
        // In units of a bin: scale, and values at the middle of their bins.
        float s = (float)ALLOC_BINS / (float)q * (float)try * (1.0f / 64), err = 0, inv = 1 / s;
        for (int b = 0; b < ALLOC_BINS; b++) {
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
static float fit(const struct fstq_work *w, const struct alloc_tier *tier, float group_max,
                 int bits)
{
    int how = w->opt->scale, q = alloc_q(bits);
    if (tier->n == 0)
        return 0;
    if (bits == 1)
        return (float)(tier->abs / (double)tier->n);
    if (how == SCALE_MSE)
        return best_scale(tier, q);
    return (how == SCALE_GROUP ? group_max : tier->max) / (float)q;
}

// The sample.

static size_t tensor_every(const struct codec_inst *c, size_t n)
{
    const struct fstq_opt *o = c->opt;
    size_t every = c->shape->n_values / SAMPLE_LEAST, runs = n / RUN;
    every = every > SAMPLE_MOST ? SAMPLE_MOST : every;
    if (o->group == GROUP_TENSOR && every > n / TENSOR_LEAST)
        every = n / TENSOR_LEAST;
    every = every > runs ? runs : every;
    return every > 1 ? every : 1;
}

static size_t sampled(const struct codec_inst *c, size_t n)
{
    size_t every = tensor_every(c, n);
    return every == 1 ? n : n / RUN / every * RUN;
}

static size_t sample_values(const struct codec_inst *c)
{
    size_t n = 0;
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        n += sampled(c, (size_t)c->shape->tensors[t].rows * c->shape->tensors[t].cols);
    return n;
}

size_t fstq_sample_bytes(const struct codec_inst *c)
{
    size_t n = sample_values(c), tensors = c->shape->n_tensors;
    return SCRATCH_ROUND((tensors + 1) * sizeof(size_t)) +
           SCRATCH_ROUND(tensors * sizeof(struct alloc_draw)) +
           2 * SCRATCH_ROUND(n * sizeof(float)) + SCRATCH_ROUND(n);
}

void fstq_sample_lay(struct fstq_encoder *e, void **scratch)
{
    struct fstq_sample *s = &e->sample;
    const struct codec_inst *c = e->w.c;
    uint32_t tensors = c->shape->n_tensors;
    s->at = scratch_take(scratch, (tensors + 1) * sizeof *s->at);
    s->draw = scratch_take(scratch, tensors * sizeof *s->draw);
    s->n = 0;
    for (uint32_t i = 0; i < tensors; i++) {
        size_t n = fstq_tensor_values(&e->w, e->w.order[i]);
        s->at[i] = s->n;
        s->draw[e->w.order[i]] = (struct alloc_draw){tensor_every(c, n), sampled(c, n), s->n};
        s->n += sampled(c, n);
    }
    s->at[tensors] = s->n;
    s->x = scratch_take(scratch, s->n * sizeof *s->x);
    s->w = scratch_take(scratch, s->n * sizeof *s->w);
    s->tag = scratch_take(scratch, s->n);
}

// Tags of the sample by levels, and how many values of the update they stand for.
static void choose_sample(struct fstq_encoder *e, struct fstq_counts *count)
{
    const struct fstq_work *w = &e->w;
    const struct fstq_sample *s = &e->sample;
    double seen[FSTQ_CLASSES] = {0};
    memset(count, 0, sizeof *count);
    for (uint32_t i = 0; i < w->c->shape->n_tensors; i++) {
        uint32_t t = w->order[i], class = fstq_class(w, t);
        int64_t of_tile[ALLOC_LEVELS] = {0};
        for (size_t at = s->at[i]; at < s->at[i + 1]; at += TILE) {
            size_t m = s->at[i + 1] - at < TILE ? s->at[i + 1] - at : TILE;
            const struct alloc_weights weights = {s->w + at, -1, 0};
            alloc_choose(s->x + at, &weights, m, &e->levels[w->group[t]], s->tag + at, of_tile);
        }
        for (int k = 0; k < w->a.count; k++)
            count->of[class][k] += (double)of_tile[k];
        seen[class] += (double)(s->at[i + 1] - s->at[i]);
    }
    for (uint32_t class = 0; class < w->classes; class ++)
        for (int k = 0; k < w->a.count && seen[class] > 0; k++)
            count->of[class][k] *=
                (double)(w->class_at[class + 1] - w->class_at[class]) / seen[class];
}

// Levels.

// Steps to begin with, in units of the group's root mean square: near the best ones of the values
// that will get the width.
static float assumed_step(int bits)
{
    switch (bits) {
    case 1:
        return 1.0f;
    case 2:
        return 1.2f;
    case 3:
        return 0.8f;
    case 4:
        return 0.45f;
    case 6:
        return 0.13f;
    default:
        return 0.04f;
    }
}

static void set_scale(struct fstq_encoder *e, uint32_t g, int k, float scale)
{
    struct alloc_levels *l = &e->levels[g];
    l->scale[k] = e->w.scale[g][k] = fstq_rounded(e->w.opt, scale);
    l->inverse[k] = l->scale[k] > 0 ? 1 / l->scale[k] : 0;
}

static void begin_levels(struct fstq_encoder *e)
{
    const struct fstq_work *w = &e->w;
    for (uint32_t g = 0; g < w->groups; g++) {
        struct alloc_levels *l = &e->levels[g];
        memset(l, 0, sizeof *l);
        l->count = w->a.count;
        for (int k = 1; k < l->count; k++) {
            int bits = w->a.bits[k], q = alloc_q(bits);
            float whole = q ? e->group_max[g] / (float)q : e->group_rms[g];
            float s = assumed_step(bits) * e->group_rms[g];
            bool literal = w->opt->scale == SCALE_GROUP || bits == 16;
            l->kind[k] = fstq_kind(w->opt, bits);
            l->q[k] = (float)q;
            set_scale(e, g, k, q && (literal || s > whole) ? whole : s);
        }
    }
    for (int k = 1; k < w->a.count; k++) {
        e->value_bits[k] = w->a.bits[k];
        for (uint32_t class = 0; class < w->classes; class ++)
            e->rate[class][k] = w->a.bits[k] + 2; // of a tag
    }
}

void fstq_set_costs(struct fstq_encoder *e, float lambda)
{
    for (uint32_t t = 0; t < e->w.c->shape->n_tensors; t++) // groups lie inside classes
        for (int k = 1; k < e->w.a.count; k++)
            e->levels[e->w.group[t]].cost[k] = lambda * (float)e->rate[fstq_class(&e->w, t)][k];
}

// What a coordinate adds to the message at width k beyond what it adds at 0: its value, and its
// tag, of -log2 p bits where tags are entropy-coded.
static void set_rates(struct fstq_encoder *e, const struct fstq_counts *count)
{
    const struct fstq_opt *o = e->w.opt;
    for (uint32_t class = 0; class < e->w.classes; class ++)
        for (int k = 1; k < e->w.a.count; k++) {
            double tag = 0;
            if (o->tags == TAGS_BITMAP)
                tag = fstq_tag_bits(&e->w.a);
            else if (o->tags != TAGS_DENSE)
                tag = fmath_log((count->of[class][0] + 1) / (count->of[class][k] + 1)) / FSTQ_LOG_2;
            e->rate[class][k] = e->value_bits[k] + tag;
        }
}

// Fits to the sample.

// Sums over the sampled values of one level of a group: x v, v^2 where v is the code, x = s v.
struct fit_sums {
    double xv, vv;
};

// The values of level k among [from, from + n), at most a tile, and their codes.
static size_t sampled_level(const struct fstq_encoder *e, const struct alloc_levels *l, int k,
                            size_t from, size_t n, float *x, uint8_t *code)
{
    const struct fstq_sample *s = &e->sample;
    n = alloc_gather(s->x + from, s->tag + from, n, (uint8_t)k, x);
    if (l->kind[k] == ALLOC_SIGN)
        quant_sign_u8(x, n, code);
    else
        quant_nearest_u8(x, n, l->inverse[k], alloc_q(e->w.a.bits[k]), code);
    return n;
}

static void add_sums(const struct alloc_levels *l, int k, const float *x, const uint8_t *code,
                     size_t n, struct fit_sums *sum)
{
    const float sign[16] = {-1, 1};
    float v[TILE];
    if (l->kind[k] == ALLOC_SIGN)
        quant_table_from_u8(code, n, sign, (struct quant_sink){v, 1, false});
    else
        quant_linear_from_u8(code, n, (int)l->q[k], 1, (struct quant_sink){v, 1, false});
    sum->xv += quant_dot(x, v, n);
    sum->vv += quant_sum_sq(v, n);
}

// The scale of least error for the codes that the last one gave is sum x v / sum v^2; it goes as
// far again, for the codes will follow.
static void follow_codes(struct fstq_encoder *e, uint32_t g, int k, const struct fit_sums *sum)
{
    const struct alloc_levels *l = &e->levels[g];
    bool literal = l->kind[k] != ALLOC_SIGN && e->w.opt->scale != SCALE_MSE;
    if (literal || !(sum->vv > 0 && sum->xv > 0))
        return;
    float best = (float)(sum->xv / sum->vv), s = best + (best - l->scale[k]);
    set_scale(e, g, k, s > best / 2 ? s : best / 2);
}

// By histogram, as for all values: the best of many scales, not a step from the last one.
static void fit_sample(struct fstq_encoder *e, uint32_t g, int k, size_t from, size_t to)
{
    struct alloc_tier tier = {0, 0, 0, {0}};
    struct quant_stats stats = {0};
    float x[TILE + 16];
    uint8_t code[TILE];
    for (size_t at = from; at < to; at += TILE) {
        size_t n = sampled_level(e, &e->levels[g], k, at, to - at < TILE ? to - at : TILE, x, code);
        quant_stats(x, n, QUANT_ABS, &stats);
        tier.n += (int64_t)n;
    }
    tier.max = f32_from_bits(stats.max_bits);
    tier.abs = stats.abs;
    float inv = tier.max >= 0x1p-100f ? ALLOC_BINS / tier.max : 0;
    for (size_t at = from; at < to && e->w.opt->scale == SCALE_MSE; at += TILE) {
        size_t n = sampled_level(e, &e->levels[g], k, at, to - at < TILE ? to - at : TILE, x, code);
        alloc_bins(x, n, inv, ALLOC_BINS, tier.bin);
    }
    if (tier.n > 0)
        set_scale(e, g, k, fit(&e->w, &tier, e->group_max[g], e->w.a.bits[k]));
}

static double entropy_per_code(const uint64_t hist[256])
{
    double n = 0, bits = 0;
    for (int c = 0; c < 256; c++)
        n += (double)hist[c];
    for (int c = 0; c < 256; c++)
        if (hist[c] > 0)
            bits -= (double)hist[c] * fmath_log((double)hist[c] / n);
    return n > 0 ? bits / n / FSTQ_LOG_2 : -1;
}

static void see_values(struct fstq_encoder *e, int k, const uint64_t hist[256])
{
    double most = e->w.a.bits[k], bits = entropy_per_code(hist);
    if (bits >= 0 && fstq_entropy_coded(e->w.opt, e->w.a.bits[k]))
        e->value_bits[k] = bits < most ? bits : most;
}

void fstq_see_values(struct fstq_encoder *e)
{
    for (int k = 1; k < e->w.a.count; k++)
        see_values(e, k, e->hist[k]);
}

// Groups lie together in the sample: [*at, end) is the one of the tensor in place i; i becomes the
// next one's first.
static uint32_t next_group(const struct fstq_encoder *e, uint32_t *i, size_t *end)
{
    const uint32_t tensors = e->w.c->shape->n_tensors, g = e->w.group[e->w.order[*i]];
    while (*i < tensors && e->w.group[e->w.order[*i]] == g)
        ++*i;
    *end = e->sample.at[*i];
    return g;
}

// New scales of level k, and how its values compress.
static void refine_level(struct fstq_encoder *e, int k, bool first)
{
    uint64_t hist[256] = {0};
    float x[TILE + 16];
    uint8_t code[TILE];
    size_t at = 0, end;
    for (uint32_t i = 0; i < e->w.c->shape->n_tensors; at = end) {
        uint32_t g = next_group(e, &i, &end);
        struct fit_sums sum = {0, 0};
        if (first || e->w.opt->scale == SCALE_TIER)
            fit_sample(e, g, k, at, end);
        for (size_t from = at; from < end; from += TILE) {
            size_t m = end - from < TILE ? end - from : TILE;
            m = sampled_level(e, &e->levels[g], k, from, m, x, code);
            add_sums(&e->levels[g], k, x, code, m, &sum);
            fstq_count_codes(code, m, e->w.a.bits[k], hist);
        }
        follow_codes(e, g, k, &sum);
    }
    see_values(e, k, hist);
}

// Searches lambda on the sample from where it is; count is what comes of it. False where no lambda
// brings the length near: many values are alike.
static bool solve(struct fstq_encoder *e, double bytes, double slack, int most, float *lambda,
                  double *slope, struct fstq_counts *count)
{
    struct bitalloc_search s;
    struct bitalloc_side last = {false, 0, 0};
    bitalloc_search_begin(&s, bytes + slack / 3, slack, *lambda, *slope);
    for (int i = 0; i < most; i++) {
        double at = s.at;
        *lambda = bitalloc_search_lambda(&s);
        fstq_set_costs(e, *lambda);
        choose_sample(e, count);
        double cost = fstq_cost(e, count);
        if (last.known && at != last.at && (cost - last.cost) / (last.at - at) > 0)
            s.slope = *slope = (cost - last.cost) / (last.at - at);
        last = (struct bitalloc_side){true, at, cost};
        if (bitalloc_search_tell(&s, cost) != SEARCH_ON)
            break;
    }
    return last.cost < 1.1 * bytes && last.cost > 0.9 * bytes;
}

float fstq_design(struct fstq_encoder *e, double bytes, double *slope)
{
    const struct fstq_sample *s = &e->sample;
    struct fstq_counts count;
    begin_levels(e);
    // Between what high-resolution theory says, 2^(-2 r), and none at all.
    double bits = 8 * bytes / (double)e->w.c->shape->n_values, power = 0, n = 0;
    for (size_t i = 0; i < s->n; i += 1 + s->n / 4096, n++)
        power += (double)s->w[i] * (double)s->x[i] * (double)s->x[i];
    float lambda = (float)(power / (n + 1) * fmath_exp(-1.1 * bits));
    *slope = bytes / 2;
    for (int round = 0; round < ROUNDS; round++) {
        bool solved = solve(e, bytes, 0.02 * bytes, round ? 4 : 12, &lambda, slope, &count);
        for (int k = 1; k < e->w.a.count; k++)
            if (e->w.a.bits[k] < 16)
                refine_level(e, k, round == 0);
        if (solved)
            set_rates(e, &count);
    }
    solve(e, bytes, 0.0005 * bytes, 12, &lambda, slope, &count);
    return lambda;
}

// Scales of all values.

// The end of the pieces of a group that begins at piece i.
static uint32_t group_end(const struct fstq_work *w, uint32_t i)
{
    uint32_t g = w->group[w->piece[i].tensor];
    while (i < w->pieces && w->group[w->piece[i].tensor] == g)
        i++;
    return i;
}

void fstq_fit(struct fstq_encoder *e)
{
    struct fstq_work *w = &e->w;
    fstq_spans(e);
    for (uint32_t i = 0, end; i < w->pieces; i = end) {
        end = group_end(w, i);
        for (int k = 1; k < w->a.count; k++) {
            float max = 0;
            for (uint32_t p = i; p < end; p++)
                max = e->tier[p][k].max > max ? e->tier[p][k].max : max;
            for (uint32_t p = i; p < end; p++)
                e->tier[p][k].max = max;
        }
    }
    if (w->opt->scale == SCALE_MSE)
        fstq_bins(e);
    for (uint32_t i = 0, end; i < w->pieces; i = end) {
        uint32_t g = w->group[w->piece[i].tensor];
        end = group_end(w, i);
        for (int k = 1; k < w->a.count; k++) {
            struct alloc_tier all = e->tier[i][k];
            for (uint32_t p = i + 1; p < end; p++) {
                all.abs += e->tier[p][k].abs;
                all.n += e->tier[p][k].n;
                for (int b = 0; b < ALLOC_BINS; b++)
                    all.bin[b] += e->tier[p][k].bin[b];
            }
            if (fstq_has_scale(w->opt, w->a.bits[k]))
                w->scale[g][k] = fstq_rounded(w->opt, fit(w, &all, e->group_max[g], w->a.bits[k]));
        }
    }
}
