// CocktailSGD: a random subset of the coordinates, drawn by both sides from the key; the largest of
// it; those quantised to a few bits. Meant for error feedback: a client keeps what it did not send.
//
// Message: header, count, positions within the subset, scales, codes. A bucket of codes shares a
// scale and ends where A ends and B begins.
#include "base/half.h"
#include "base/rng.h"
#include "codec/coding.h"
#include "codec/largest.h"
#include "codec/message.h"
#include "codec/positions.h"
#include "codec/rows.h"
#include "kernels/stages.h"

#include <math.h>

#define BUCKET_MAX 1024

struct cocktail_opt {
    double sample, ratio;
    int32_t chunk, bits, bucket, index;
};

static const struct opt cocktail_options[] = {
    OPT(struct cocktail_opt, sample, "sample", "0.1", 1e-6, 1, "", "share drawn at random"),
    OPT(struct cocktail_opt, ratio, "ratio", "0.2", 1e-6, 1, "", "share of those that is kept"),
    OPT(struct cocktail_opt, chunk, "chunk", "0", 0, 1 << 30, "values",
        "of those, in a row, of each of which that share is kept; 0 = of all together"),
    OPT(struct cocktail_opt, bits, "bits", "4", 2, 8, "bits", "of a kept value"),
    OPT(struct cocktail_opt, bucket, "bucket", "128", 1, BUCKET_MAX, "values",
        "kept values that share a scale (bf16)"),
    OPT_ENUM(struct cocktail_opt, index, "index", "auto", positions_choices,
             "coding of positions within the subset"),
};

static const struct cocktail_opt *options(const struct codec_inst *c)
{
    return c->opt;
}

static size_t share(double ratio, size_t n)
{
    double k = ceil(ratio * (double)n - 1e-6);
    return k < (double)n ? (size_t)k : n;
}

static size_t drawn(const struct codec_inst *c)
{
    return share(options(c)->sample, c->shape->n_values);
}

static size_t chunk_of(const struct codec_inst *c)
{
    size_t n = drawn(c), chunk = (size_t)options(c)->chunk;
    return chunk > 0 && chunk < n ? chunk : n;
}

static size_t most_kept(const struct codec_inst *c)
{
    const double ratio = options(c)->ratio;
    const size_t n = drawn(c), chunk = chunk_of(c);
    return n ? n / chunk * share(ratio, chunk) + share(ratio, n % chunk) : 0;
}

static int cocktail_check(const struct codec_inst *c, struct err *err)
{
    if (c->shape->n_values > UINT32_MAX)
        return err_set(err, "positions have 32 bits, the update has %zu values",
                       c->shape->n_values);
    return 0;
}

static int levels_of(const struct codec_inst *c) // codes are -q..q
{
    return (1 << (options(c)->bits - 1)) - 1;
}

struct room {
    uint32_t *from; // (drawn) the subset, ascending
    float *x;       // (drawn) its values; then the kept ones
    uint32_t *at;   // (kept) positions in it
    uint8_t *code;  // (kept)
    float *scale;   // (buckets)
};

static struct room lay_room(const struct codec_inst *c, void *scratch)
{
    struct room r;
    r.from = scratch_take(&scratch, drawn(c) * sizeof(uint32_t));
    r.x = scratch_take(&scratch, drawn(c) * sizeof(float));
    r.at = scratch_take(&scratch, (most_kept(c) + 16) * sizeof(uint32_t));
    r.code = scratch_take(&scratch, most_kept(c));
    r.scale = scratch;
    return r;
}

static size_t most_buckets(const struct codec_inst *c)
{
    return most_kept(c) / (size_t)options(c)->bucket + c->shape->n_tensors + 1;
}

static size_t cocktail_scratch(const struct codec_inst *c)
{
    return SCRATCH_ROUND(drawn(c) * sizeof(uint32_t)) + SCRATCH_ROUND(drawn(c) * sizeof(float)) +
           SCRATCH_ROUND((most_kept(c) + 16) * sizeof(uint32_t)) + SCRATCH_ROUND(most_kept(c)) +
           most_buckets(c) * sizeof(float);
}

static size_t cocktail_bound(const struct codec_inst *c)
{
    size_t k = most_kept(c);
    return 1 + 5 + 2 * most_buckets(c) +
           positions_bound(k, drawn(c), (enum positions_code)options(c)->index) +
           pack_bytes(k, (unsigned)options(c)->bits);
}

// The same on both sides.
static void draw_subset(const struct codec_inst *c, const struct codec_key *key, uint32_t *from)
{
    struct rng r = rng_stream(key->seed, RNG_CODEC, key->client, key->version, UINT32_MAX);
    coords_draw(r.key, r.ctr, c->shape->n_values, drawn(c), 0, from);
}

// The end of the bucket that begins with kept value i; *t is a tensor at or before it.
static size_t bucket_end(const struct codec_inst *c, const struct room *r, size_t i, size_t count,
                         uint32_t *t)
{
    const struct shape_tensor *row = c->shape->tensors;
    size_t end = i + (size_t)options(c)->bucket;
    for (size_t k = i; k < count && k < end; k++) {
        uint32_t before = *t;
        while (r->from[r->at[k]] >= row[*t].offset + (size_t)row[*t].rows * row[*t].cols)
            ++*t;
        if (k > i && row[*t].kind != row[before].kind)
            return k;
    }
    return end < count ? end : count;
}

static size_t count_buckets(const struct codec_inst *c, const struct room *r, size_t count)
{
    size_t buckets = 0;
    uint32_t t = 0;
    for (size_t i = 0; i < count; i = bucket_end(c, r, i, count, &t))
        buckets++;
    return buckets;
}

static void quantise(const struct codec_inst *c, const struct room *r, size_t count,
                     uint8_t *scales)
{
    int q = levels_of(c);
    uint32_t t = 0;
    for (size_t i = 0; i < count; scales += 2) {
        size_t end = bucket_end(c, r, i, count, &t);
        float max = f32_from_bits(quant_absmax_bits(r->x + i, end - i)) / (float)q;
        uint16_t half = max >= 0x1p-110f ? bf16_from_f32(max) : 0; // reciprocals stay finite
        float step = bf16_to_f32(half);
        put_u16(scales, half);
        quant_nearest_u8(r->x + i, end - i, half ? 1 / step : 0, q, r->code + i);
        i = end;
    }
}

static size_t keep_largest(const struct codec_inst *c, const struct room *r)
{
    const size_t n = drawn(c), chunk = chunk_of(c);
    size_t count = 0;
    for (size_t from = 0; from < n; from += chunk) {
        size_t len = n - from < chunk ? n - from : chunk;
        count +=
            largest(r->x + from, len, share(options(c)->ratio, len), (uint32_t)from, r->at + count);
    }
    return count;
}

static int64_t cocktail_encode(const struct codec_inst *c, const struct codec_input *in,
                               uint8_t *out, size_t cap, void *scratch, struct codec_report *report,
                               struct err *err)
{
    struct room r = lay_room(c, scratch);
    size_t n = drawn(c);
    draw_subset(c, &in->key, r.from);
    codec_column(in->on)->select->gather(codec_context(in->on), in->x, r.from, n, r.x);
    size_t count = keep_largest(c, &r);
    coords_gather(r.x, r.at, count, r.x); // ascending: read before they are written over
    lap(in->laps, STAGE_SELECT);
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *scales = NULL, *codes = NULL;
    if (!msg_put_header(&o, 0) && !msg_put_varint(&o, PART_DIRECTORY, count) &&
        !positions_put(&o, r.at, count, 0, n, (enum positions_code)options(c)->index))
        scales = msg_take(&o, PART_SCALES, 2 * count_buckets(c, &r, count));
    if (scales)
        codes = msg_take(&o, PART_VALUES, pack_bytes(count, (unsigned)options(c)->bits));
    if (!codes)
        return msg_full(&o, err);
    lap(in->laps, STAGE_PACK);
    quantise(c, &r, count, scales);
    lap(in->laps, STAGE_QUANTISE);
    pack_u8(r.code, count, (unsigned)options(c)->bits, codes);
    lap(in->laps, STAGE_PACK);
    report->kept[record_width_of[options(c)->bits]] = (int64_t)count;
    report->kept[0] = (int64_t)(c->shape->n_values - count);
    return msg_len(&o);
}

static int cocktail_parse(const struct codec_inst *c, const struct codec_key *key,
                          const uint8_t *in, size_t len, struct room *r, size_t *n_kept,
                          struct err *err)
{
    unsigned bits = (unsigned)options(c)->bits;
    uint64_t count;
    struct msg_in m;
    if (msg_open_plain(&m, in, len, err))
        return -1;
    if (msg_get_varint(&m, &count))
        return msg_short("directory", err);
    if (count > most_kept(c))
        return msg_bad("directory", "more values than the options allow", err);
    draw_subset(c, key, r->from);
    if (positions_get(&m, r->at, (size_t)count, 0, drawn(c), err))
        return -1;
    size_t buckets = count_buckets(c, r, (size_t)count);
    const uint8_t *scales = msg_need(&m, 2 * buckets);
    if (!scales)
        return msg_short("scales", err);
    const uint8_t *codes = msg_need(&m, pack_bytes((size_t)count, bits));
    if (!codes)
        return msg_short("values", err);
    if (msg_end(&m, err))
        return -1;
    for (size_t i = 0; i < buckets; i++) {
        r->scale[i] = bf16_to_f32(get_u16(scales + 2 * i));
        if (!msg_scale_ok(r->scale[i]))
            return msg_bad("scales", "one is not finite, or too large", err);
    }
    unpack_u8(codes, (size_t)count, bits, r->code);
    *n_kept = (size_t)count;
    return 0;
}

static int cocktail_decode(const struct codec_inst *c, const struct codec_key *key,
                           const uint8_t *in, size_t len, struct codec_output to, void *scratch,
                           struct err *err)
{
    struct room r = lay_room(c, scratch);
    size_t count = 0;
    if (cocktail_parse(c, key, in, len, &r, &count, err))
        return -1;
    uint32_t t = 0;
    size_t b = 0;
    for (size_t i = 0; i < count; b++) {
        size_t end = bucket_end(c, &r, i, count, &t);
        struct quant_sink set = {r.x + i, 1, false};
        quant_linear_from_u8(r.code + i, end - i, levels_of(c), r.scale[b], set);
        i = end;
    }
    coords_map(r.from, r.at, count);
    codec_column(to.on)->select->give(codec_context(to.on), r.at, r.x, count, c->shape->n_values,
                                      to.sink);
    return 0;
}

const struct codec codec_cocktail = {
    .name = "cocktail",
    .help = "a random subset, its largest, in a few bits; wants +ef",
    .source = "Wang et al. 2023 (CocktailSGD)",
    .options = cocktail_options,
    .n_options = ARRAY_LEN(cocktail_options),
    .option_bytes = sizeof(struct cocktail_opt),
    .flags = CODEC_RANDOM,
    .stages = CODEC_ON_SELECT | CODEC_ON_QUANT, // quant: a look at the values
    .check = cocktail_check,
    .scratch_bytes = cocktail_scratch,
    .bound = cocktail_bound,
    .encode = cocktail_encode,
    .decode = cocktail_decode,
};
