// What a codec does to a federation's mean rather than to one message: how much of where the
// adapter goes in later rounds survives in the decoded mean, and how evenly.
#include "base/check.h"
#include "base/mem.h"
#include "base/table.h"
#include "bench/bench.h"
#include "codec/basis.h"
#include "codec/codec.h"
#include "fed/product.h"
#include "kernels/kernels.h"
#include "model/update_file.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { DIRECTIONS = 8, CLIENTS_MOST = 4096 };

struct drift_params {
    char updates[256], methods[4096];
    int32_t round, ahead;
};

static struct drift_params params;

static const struct opt options[] = {
    OPT_STRING(struct drift_params, updates, "drift.updates", "",
               "the folder NAME.updates of a run with trace.updates_of=all"),
    OPT(struct drift_params, round, "drift.round", "30", 1, 1e6, "",
        "the round whose updates are coded"),
    OPT(struct drift_params, ahead, "drift.ahead", "20", 1, 1e6, "rounds",
        "the adapter's way leads from this round's to that of so many rounds later"),
    OPT_STRING(struct drift_params, methods, "drift.methods", "fp32;sign;uniform;eden;fstq;klt",
               "codecs with options and wrappers, separated by ';' or blanks"),
};

struct round {
    struct shape shape;
    int clients;
    uint32_t id[CLIENTS_MOST];
    float **x;   // (clients) updates
    float *way;  // (n) of the adapter
    double base; // squared cosine of the updates' mean with it
    float *from; // (n) the adapter that they were trained from
    float *mean, *out;
};

struct figures {
    double bits, nmse, survives, gain[DIRECTIONS];
};

static int read_one(const char *name, struct shape *s, float **x, struct err *err)
{
    char path[640];
    snprintf(path, sizeof path, "%s/%s", params.updates, name);
    return update_file_read(path, s, x, err);
}

static int read_adapter(int32_t round, struct shape *s, float **x, struct err *err)
{
    char name[64];
    snprintf(name, sizeof name, "r%04d-adapter.safetensors", round);
    return read_one(name, s, x, err);
}

// Which clients have an update of the round, in order.
static int find_clients(struct round *r, struct err *err)
{
    DIR *d = opendir(params.updates);
    if (!d)
        return err_set(err, "drift.updates: cannot open %s: %s", params.updates, strerror(errno));
    for (struct dirent *e; (e = readdir(d)) != NULL && r->clients < CLIENTS_MOST;) {
        unsigned round, client;
        int end = 0;
        if (sscanf(e->d_name, "r%u-c%u.safetensors%n", &round, &client, &end) != 2 || !end ||
            round != (unsigned)params.round)
            continue;
        int at = r->clients++;
        for (; at > 0 && r->id[at - 1] > client; at--)
            r->id[at] = r->id[at - 1];
        r->id[at] = client;
    }
    closedir(d);
    return r->clients ? 0
                      : err_set(err, "%s has no update of round %d: run with trace.updates >= %d",
                                params.updates, params.round, params.round);
}

static double cos_sq(const float *x, const float *y, size_t n)
{
    double dot = quant_dot(x, y, n), norms = quant_sum_sq(x, n) * quant_sum_sq(y, n);
    return norms > 0 ? dot * dot / norms : 0;
}

static void set_mean(struct round *r)
{
    const size_t n = r->shape.n_values;
    mix_fill(0, n, r->mean);
    for (int k = 0; k < r->clients; k++)
        mix_sum(1, r->mean, 1 / (float)r->clients, r->x[k], n, r->mean);
}

static int same_shape(const struct shape *a, const struct shape *b, const char *what,
                      struct err *err)
{
    return a->hash == b->hash ? 0
                              : err_set(err, "%s: %s is not of the shape of the round's updates",
                                        params.updates, what);
}

static int round_read(struct round *r, struct err *err)
{
    struct shape s, later;
    float *from, *to;
    if (find_clients(r, err))
        return -1;
    r->x = mem_alloc(MEM_DATA, (size_t)r->clients * sizeof *r->x);
    for (int k = 0; k < r->clients; k++) {
        char name[64];
        snprintf(name, sizeof name, "r%04d-c%04u.safetensors", params.round, r->id[k]);
        if (read_one(name, k ? &s : &r->shape, &r->x[k], err) ||
            (k && same_shape(&s, &r->shape, name, err)))
            return -1;
        if (k)
            shape_free(&s);
    }
    if (read_adapter(params.round, &s, &from, err) ||
        read_adapter(params.round + params.ahead, &later, &to, err) ||
        same_shape(&s, &r->shape, "an adapter", err) ||
        same_shape(&later, &r->shape, "an adapter", err))
        return -1;
    const size_t n = r->shape.n_values;
    r->way = to;
    r->from = from;
    mix_sum(1, to, -1, from, n, r->way);
    r->mean = mem_alloc(MEM_DATA, (n + 1) * sizeof *r->mean);
    r->out = mem_alloc(MEM_DATA, (n + 1) * sizeof *r->out);
    set_mean(r);
    r->base = cos_sq(r->mean, r->way, n);
    shape_free(&s);
    shape_free(&later);
    return r->base > 0 ? 0 : err_set(err, "the adapter does not move after round %d", params.round);
}

static void round_free(struct round *r)
{
    for (int k = 0; k < r->clients; k++)
        mem_free(r->x[k]);
    mem_free(r->x);
    mem_free(r->way);
    mem_free(r->from);
    mem_free(r->mean);
    mem_free(r->out);
    shape_free(&r->shape);
}

// Row i of the few, at column j.
static float at(const struct shape_tensor *t, const float *x, size_t i, size_t j)
{
    return t->rows <= t->cols ? x[i * t->cols + j] : x[j * t->cols + i];
}

// Adds, by principal direction of a matrix, its values' squares and products with what is decoded.
static void by_direction(const struct shape_tensor *t, const float *x, const float *y,
                         double met[DIRECTIONS], double sq[DIRECTIONS])
{
    const size_t rows = t->rows < t->cols ? t->rows : t->cols;
    const size_t length = t->rows < t->cols ? t->cols : t->rows;
    static double g[BASIS_DIM * BASIS_DIM], cross[BASIS_DIM * BASIS_DIM], v[BASIS_DIM * BASIS_DIM];
    double value[BASIS_DIM];
    if (rows == 0 || rows > BASIS_DIM)
        return;
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < rows; k++) {
            double same = 0, other = 0;
            for (size_t j = 0; j < length; j++) {
                same += (double)at(t, x, i, j) * (double)at(t, x, k, j);
                other += (double)at(t, x, i, j) * (double)at(t, y, k, j);
            }
            g[i * rows + k] = same;
            cross[i * rows + k] = other;
        }
    basis_eigen(g, (int)rows, v, value);
    for (size_t d = 0; d < rows && d < DIRECTIONS; d++)
        for (size_t i = 0; i < rows; i++)
            for (size_t k = 0; k < rows; k++) {
                double w = v[d * rows + i] * v[d * rows + k];
                sq[d] += w * g[i * rows + k];
                met[d] += w * cross[i * rows + k];
            }
}

// Of client k's adapter, as it was after its training.
static int set_reach(const struct round *r, int k, float *reach, struct err *err)
{
    struct products pairs;
    if (products_open(&pairs, &r->shape, err))
        return -1;
    products_reach(&pairs, r->from, r->x[k], r->shape.n_values, reach);
    products_close(&pairs);
    return 0;
}

static int code_one(struct round *r, const struct codec_inst *c, int k, void *room[4],
                    struct figures *f, struct err *err)
{
    const size_t n = r->shape.n_values;
    const struct codec_input in = {.x = r->x[k],
                                   .sens = room[3],
                                   .grad = room[3],
                                   .state = room[1],
                                   .state_next = room[2],
                                   .key = {1, r->id[k], (uint32_t)params.round},
                                   .budget_bytes = -1};
    struct codec_report report;
    if (codec_needs(c) & CODEC_REACH && set_reach(r, k, room[3], err))
        return -1;
    memset(room[1], 0, codec_state_floats(c) * sizeof(float));
    uint8_t *msg = mem_alloc(MEM_CODEC, codec_bound(c) + 1);
    int64_t len = codec_encode(c, &in, msg, codec_bound(c), room[0], &report, err);
    int bad = len < 0 || codec_decode(c, &in.key, msg, (size_t)len, r->out, room[0], err);
    mem_free(msg);
    if (bad)
        return -1;
    f->bits += 8 * (double)len / (double)n / r->clients;
    f->nmse += codec_nmse(r->x[k], r->out, n) / r->clients;
    return 0;
}

static int measure(struct round *r, const char *text, struct figures *f, struct err *err)
{
    const size_t n = r->shape.n_values;
    struct codec_inst *c = codec_open(text, &r->shape, err);
    if (!c)
        return -1;
    double met[DIRECTIONS] = {0}, sq[DIRECTIONS] = {0};
    const size_t state = (codec_state_floats(c) + 1) * sizeof(float);
    void *room[4] = {mem_alloc(MEM_CODEC, codec_scratch_bytes(c) + 1), mem_alloc(MEM_CODEC, state),
                     mem_alloc(MEM_CODEC, state), mem_alloc(MEM_CODEC, (n + 1) * sizeof(float))};
    mix_fill(1, n, room[3]);
    mix_fill(0, n, r->mean);
    *f = (struct figures){0};
    int bad = 0;
    for (int k = 0; k < r->clients && !bad; k++) {
        bad = code_one(r, c, k, room, f, err);
        mix_sum(1, r->mean, 1 / (float)r->clients, r->out, n, r->mean);
        for (uint32_t t = 0; t < r->shape.n_tensors && !bad; t++) {
            const size_t from = r->shape.tensors[t].offset;
            by_direction(&r->shape.tensors[t], r->x[k] + from, r->out + from, met, sq);
        }
    }
    f->survives = cos_sq(r->mean, r->way, n) / r->base;
    for (int d = 0; d < DIRECTIONS; d++)
        f->gain[d] = sq[d] > 0 ? met[d] / sq[d] : NAN;
    for (int i = 0; i < 4; i++)
        mem_free(room[i]);
    codec_close(c);
    return bad;
}

enum { DRIFT_WIDE = 1 << 6 | 1 << 8 | 1 << 9 | 1 << 10 }; // gains of the 3rd, 5th, 6th, 7th
static const struct table drift_table = {.n_cols = 5 + DIRECTIONS,
                                         .col = {{"Codec", "", 26, TABLE_LEFT},
                                                 {"bits", "/value", 7, TABLE_RIGHT},
                                                 {"NMSE", "", 7, TABLE_RIGHT},
                                                 {"way", "of fp32", 7, TABLE_RIGHT},
                                                 {"gain", "1st", 6, TABLE_RIGHT},
                                                 {"gain", "2nd", 6, TABLE_RIGHT},
                                                 {"gain", "3rd", 6, TABLE_RIGHT},
                                                 {"gain", "4th", 6, TABLE_RIGHT},
                                                 {"gain", "5th", 6, TABLE_RIGHT},
                                                 {"gain", "6th", 6, TABLE_RIGHT},
                                                 {"gain", "7th", 6, TABLE_RIGHT},
                                                 {"gain", "8th", 6, TABLE_RIGHT},
                                                 {"Validation", "", 10, TABLE_RIGHT}}};

static void print_figures(struct bench_ctx *c, const struct table *t, const char *text,
                          const struct figures *f)
{
    char cell[3 + DIRECTIONS][32];
    const char *cells[TABLE_COLS] = {text};
    const double head[3] = {f->bits, f->nmse, f->survives};
    for (int k = 0; k < 3 + DIRECTIONS; k++)
        cells[1 + k] = fmt_fixed(cell[k], k < 3 ? head[k] : f->gain[k - 3], t->col[k + 1].width,
                                 k < 3 ? 3 : 2);
    cells[4 + DIRECTIONS] = bench_check(c, f->bits > 0 && f->nmse >= 0 && isfinite(f->survives));
    bench_row(c, t, cells);
    fflush(t->out);
}

static void run(struct bench_ctx *c)
{
    struct err err = {""};
    struct round *r = mem_alloc(MEM_OTHER, sizeof *r);
    if (!params.updates[0]) {
        fprintf(c->out, "# drift: nothing to look at: drift.updates names the folder of a run with "
                        "trace.updates_of=all\n");
        mem_free(r);
        return;
    }
    if (round_read(r, &err))
        die(STATUS_USAGE, "%s", err.text);
    fprintf(
        c->out,
        "# round %d, %d clients, %zu values; way: squared cosine of the decoded mean with where "
        "the adapter goes in %d rounds, over the exact mean's, %.4f\n"
        "# gain: what is left of the updates' principal directions across the rank, the "
        "strongest first. Error that\n"
        "# does not touch the way costs nothing, and one gain for all directions is made good "
        "by the server's step.\n",
        params.round, r->clients, r->shape.n_values, params.ahead, r->base);
    struct table t = drift_table;
    t.out = c->out;
    bench_size(c, (int64_t)r->shape.n_values, "values");
    bench_leave_out(c, DRIFT_WIDE);
    bench_head(c, &t);
    for (const char *rest = params.methods; *rest;) {
        char text[256];
        struct figures f;
        size_t len = strcspn(rest, "; \t\n");
        snprintf(text, sizeof text, "%.*s", (int)len, rest);
        rest += len + (rest[len] != '\0');
        if (!len)
            continue;
        if (measure(r, text, &f, &err)) {
            fprintf(c->out, "# %s: %s\n", text, err.text);
            bench_check(c, false);
            continue;
        }
        print_figures(c, &t, text, &f);
    }
    round_free(r);
    mem_free(r);
}

const struct bench bench_drift = {
    .name = "drift",
    .help = "codecs on a round's updates: what survives of the adapter's way, and by direction",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
