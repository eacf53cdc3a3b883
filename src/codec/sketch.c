// FetchSGD: a client sends a count sketch of its update, rows of cells in which every coordinate is
// added with a sign of its own. Sketches add up like the updates themselves, so momentum and error
// feedback live at the server, in sketches, and clients keep nothing.
//
// The server: S_u = rho S_u + S, S_e += S_u, the coordinates whose estimates are largest move the
// model, and the cells they touch are cleared in both. Subtracting them instead diverges.
//
// Hashes are Philox words keyed by the seed alone, the same for every client and round: the lowest
// bit is the sign, the others choose the cell.
#include "base/half.h"
#include "base/pool.h"
#include "base/rng.h"
#include "codec/largest.h"
#include "codec/message.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

#include <math.h>

#define TILE       1024
#define ROWS_MAX   9
#define CELL_LIMIT 0x1p120f // |x| < 2^100, and a million of them in one cell

struct sketch_opt {
    int32_t rows;
    int64_t cols;
    double cells, ratio, momentum;
};

static const struct opt sketch_options[] = {
    OPT(struct sketch_opt, rows, "rows", "5", 1, ROWS_MAX, "", "estimates per coordinate, odd"),
    OPT(struct sketch_opt, cols, "cols", "0", 0, 1e9, "cells", "of a row; 0 = from cells"),
    OPT(struct sketch_opt, cells, "cells", "0.1", 1e-6, 10, "", "cells of all rows per coordinate"),
    OPT(struct sketch_opt, ratio, "ratio", "0.01", 1e-6, 1, "", "coordinates the server moves"),
    OPT(struct sketch_opt, momentum, "momentum", "0.9", 0, 0.999, "", "rho, at the server"),
};

static const struct sketch_opt *options(const struct codec_inst *c)
{
    return c->opt;
}

static size_t rows_of(const struct codec_inst *c)
{
    return (size_t)options(c)->rows;
}

static size_t cols_of(const struct codec_inst *c)
{
    const struct sketch_opt *o = options(c);
    double cols = ceil(o->cells * (double)c->shape->n_values / o->rows - 1e-6);
    return o->cols > 0 ? (size_t)o->cols : cols < 1 ? 1 : (size_t)cols;
}

static size_t cells_of(const struct codec_inst *c)
{
    return rows_of(c) * cols_of(c);
}

static size_t moved(const struct codec_inst *c)
{
    double k = ceil(options(c)->ratio * (double)c->shape->n_values - 1e-6);
    return (size_t)k;
}

static int sketch_check(const struct codec_inst *c, struct err *err)
{
    if (c->shape->n_values > UINT32_MAX)
        return err_set(err, "positions have 32 bits, the update has %zu values",
                       c->shape->n_values);
    if (rows_of(c) % 2 == 0)
        return err_set(err, "rows=%d is even: the median of estimates needs an odd number",
                       (int)options(c)->rows);
    if (cols_of(c) > INT32_MAX)
        return err_set(err, "%zu cells a row are more than a hash can choose from", cols_of(c));
    return 0;
}

// Hashing.

static void hash_rows(const struct codec_inst *c, uint64_t seed, struct hash_row row[ROWS_MAX])
{
    for (uint32_t r = 0; r < rows_of(c); r++) {
        struct rng s = rng_stream(seed, RNG_CODEC, UINT32_MAX, UINT32_MAX, r);
        memcpy(row[r].key, s.key, sizeof s.key);
        memcpy(row[r].ctr, s.ctr, sizeof s.ctr);
    }
}

struct sketch_job {
    const struct codec_inst *c;
    struct hash_row row[ROWS_MAX];
    const float *x;
    float *cells;
};

static void sketch_row(void *arg, uint32_t r)
{
    const struct sketch_job *j = arg;
    size_t cols = cols_of(j->c);
    hash_add(&j->row[r], j->x, j->c->shape->n_values, cols, j->cells + r * cols);
}

static void make_sketch(const struct codec_inst *c, uint64_t seed, const float *x, float *cells)
{
    struct sketch_job j = {.c = c, .x = x, .cells = cells};
    hash_rows(c, seed, j.row);
    memset(cells, 0, cells_of(c) * sizeof *cells);
    pool_each(c->shape->n_values, (uint32_t)rows_of(c), sketch_row, &j);
}

struct estimate_job {
    const struct codec_inst *c;
    struct hash_row row[ROWS_MAX];
    const float *cells;
    float *x;
};

static void estimate_tile(void *arg, size_t from, size_t to)
{
    const struct estimate_job *j = arg;
    hash_estimate(j->row, rows_of(j->c), j->cells, cols_of(j->c), from, to - from, j->x + from);
}

static void estimate(const struct codec_inst *c, uint64_t seed, const float *cells, float *x)
{
    struct estimate_job j = {.c = c, .cells = cells, .x = x};
    hash_rows(c, seed, j.row);
    pool_spans(c->shape->n_values, TILE, estimate_tile, &j);
}

// The message: header, cells row after row.

static size_t sketch_bound(const struct codec_inst *c)
{
    return 1 + 4 * cells_of(c);
}

struct room {
    float *cells, *x;
    uint32_t *at;
};

static struct room lay_room(const struct codec_inst *c, void *scratch)
{
    struct room r;
    r.cells = scratch_take(&scratch, cells_of(c) * sizeof(float));
    r.x = scratch_take(&scratch, c->shape->n_values * sizeof(float));
    r.at = scratch_take(&scratch, (moved(c) + 16) * sizeof(uint32_t));
    return r;
}

static size_t sketch_scratch(const struct codec_inst *c)
{
    return SCRATCH_ROUND(cells_of(c) * sizeof(float)) +
           SCRATCH_ROUND(c->shape->n_values * sizeof(float)) +
           SCRATCH_ROUND((moved(c) + 16) * sizeof(uint32_t));
}

static int64_t sketch_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                             size_t cap, void *scratch, struct codec_report *report,
                             struct err *err)
{
    struct room r = lay_room(c, scratch);
    struct msg_out o;
    msg_init(&o, out, cap, report);
    uint8_t *p = msg_put_header(&o, 0) ? NULL : msg_take(&o, PART_VALUES, 4 * cells_of(c));
    if (!p)
        return msg_full(&o, err);
    make_sketch(c, in->key.seed, in->x, r.cells);
    if (!(f32_from_bits(quant_absmax_bits(r.cells, cells_of(c))) <= CELL_LIMIT))
        return err_set(err, "the update is too large for a sketch");
    lap(in->laps, STAGE_QUANTISE);
    quant_f32_to_le(r.cells, cells_of(c), p);
    lap(in->laps, STAGE_PACK);
    report->kept[record_width_of[32]] = (int64_t)cells_of(c);
    return msg_len(&o);
}

static const uint8_t *sketch_payload(const struct codec_inst *c, const uint8_t *in, size_t len,
                                     struct err *err)
{
    struct msg_in m;
    if (msg_open_plain(&m, in, len, err))
        return NULL;
    const uint8_t *p = msg_need(&m, 4 * cells_of(c));
    if (!p)
        msg_short("values", err);
    else if (msg_end(&m, err) == 0) {
        if (f32_from_bits(quant_absmax_bits_le(p, cells_of(c))) <= CELL_LIMIT)
            return p;
        msg_bad("values", "one is not finite, or too large", err);
    }
    return NULL;
}

// One sketch alone: the largest of its estimates.
static int sketch_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                         size_t len, struct codec_output to, void *scratch, struct err *err)
{
    struct room r = lay_room(c, scratch);
    const uint8_t *p = sketch_payload(c, in, len, err);
    if (!p)
        return -1;
    quant_f32_from_le(p, cells_of(c), (struct quant_sink){r.cells, 1, false});
    estimate(c, key->seed, r.cells, r.x);
    size_t count = largest(r.x, c->shape->n_values, moved(c), 0, r.at);
    if (!to.sink.add)
        memset(to.sink.to, 0, c->shape->n_values * sizeof *to.sink.to);
    coords_gather(r.x, r.at, count, r.x); // ascending: read before they are written over
    coords_give(r.at, r.x, count, to.sink);
    return 0;
}

// The server. State of a round: the seed of its hashes, then cells, estimates, positions.

static size_t agg_state(const struct codec_inst *c, size_t n)
{
    (void)n;
    return 64 + sketch_scratch(c);
}

static size_t agg_keep(const struct codec_inst *c, size_t n) // S_u, then S_e
{
    (void)n;
    return 2 * cells_of(c);
}

static struct room agg_room(const struct codec_inst *c, void *state, uint64_t **seed)
{
    *seed = scratch_take(&state, sizeof **seed);
    return lay_room(c, state);
}

static void agg_begin(const struct codec_inst *c, void *state, size_t n)
{
    (void)n;
    uint64_t *seed;
    struct room r = agg_room(c, state, &seed);
    memset(r.cells, 0, cells_of(c) * sizeof *r.cells);
}

static int agg_add(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                   size_t len, double weight, void *state, struct err *err)
{
    uint64_t *seed;
    struct room r = agg_room(c, state, &seed);
    const uint8_t *p = sketch_payload(c, in, len, err);
    if (!p)
        return -1;
    *seed = key->seed;
    quant_f32_from_le(p, cells_of(c), (struct quant_sink){r.cells, (float)weight, true});
    return 0;
}

static void agg_finish(const struct codec_inst *c, void *state, float *keep, double weight_sum,
                       float *delta, size_t n)
{
    uint64_t *seed;
    struct room r = agg_room(c, state, &seed);
    size_t cells = cells_of(c);
    float *u = keep, *e = keep + cells, rho = (float)options(c)->momentum;
    mix_sum(rho, u, (float)(1 / weight_sum), r.cells, cells, r.cells); // S_u
    bool finite = mix_finite(e, r.cells, cells);
    mix_fill(finite ? 0 : NAN, n, delta);
    if (!finite)
        return;
    memcpy(u, r.cells, cells * sizeof *u);
    quant_f32_give(u, cells, (struct quant_sink){e, 1, true}); // S_e += S_u
    estimate(c, *seed, e, r.x);
    size_t count = largest(r.x, n, moved(c), 0, r.at);
    coords_gather(r.x, r.at, count, r.x);
    coords_give(r.at, r.x, count, (struct quant_sink){delta, 1, false});
    struct hash_row row[ROWS_MAX];
    hash_rows(c, *seed, row);
    hash_clear(row, rows_of(c), cols_of(c), r.at, count, u);
    hash_clear(row, rows_of(c), cols_of(c), r.at, count, e);
}

static const struct codec_agg sketch_agg = {agg_state, agg_keep, agg_begin, agg_add, agg_finish};

const struct codec codec_fetchsgd = {
    .name = "fetchsgd",
    .help = "a count sketch; sketches add up, momentum and error feedback are the server's",
    .source = "Rothchild et al. 2020",
    .options = sketch_options,
    .n_options = ARRAY_LEN(sketch_options),
    .option_bytes = sizeof(struct sketch_opt),
    .needs = CODEC_OWN_AGG,
    .flags = CODEC_MASKABLE | CODEC_NO_EF | CODEC_RANDOM,
    .check = sketch_check,
    .scratch_bytes = sketch_scratch,
    .bound = sketch_bound,
    .encode = sketch_encode,
    .decode = sketch_decode,
    .agg = &sketch_agg,
};
