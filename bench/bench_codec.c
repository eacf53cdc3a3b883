// Codecs on one update: bytes, error and speed of each, beside a copy of the same update.
#include "base/check.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/bench.h"
#include "bench/update.h"
#include "codec/codec.h"
#include "dev/dev.h"
#include "kernels/simd.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SORT_NONE, SORT_NAME, SORT_BITS, SORT_NMSE, SORT_ENCODE, SORT_DECODE };
static const char *const sorts[] = {"none", "name", "bits", "nmse", "encode", "decode", NULL};

struct codec_params {
    char methods[4096], shape[128], file[256];
    int64_t values;
    int32_t dev; // row of dev_table
    int32_t dist, threads, draws, sort;
    bool parts;
};

static struct codec_params params;
static struct dev dev;

static const char *dev_name(int32_t i)
{
    return dev_table[i] ? dev_table[i]->name : NULL;
}

static const struct opt options[] = {
    OPT_STRING(
        struct codec_params, methods, "codec.methods", "",
        "codecs with options and wrappers, separated by ';' or blanks; empty = a choice of all"),
    OPT_STRING(struct codec_params, shape, "codec.shape", "16x4096,4096x16",
               "matrices like 16x4096,4096x16, or MODEL-rN-TARGETS such as llama2-7b-r16-all"),
    OPT(struct codec_params, values, "codec.values", "4194304", 0, 1e9, "",
        "the shape is repeated until there are at least this many values"),
    OPT_ROW(struct codec_params, dev, "codec.dev", "cpu", dev_name,
            "where the update lies; a codec without stages there fetches it"),
    OPT_ENUM(struct codec_params, dist, "codec.dist", "normal", update_dists,
             "how the values are distributed"),
    OPT_STRING(struct codec_params, file, "codec.file", "",
               "the update of codec.dist=file: one that trace.updates kept, another .safetensors, "
               "with its "
               "own shape, or little-endian floats"),
    OPT(struct codec_params, threads, "codec.threads", "1", 1, 1024, "", "threads"),
    OPT(struct codec_params, draws, "codec.draws", "8", 1, 1000, "",
        "messages whose mean shows the bias of codecs that claim to have none"),
    OPT_ENUM(struct codec_params, sort, "codec.sort", "none", sorts, "order of the rows"),
    OPT(struct codec_params, parts, "codec.parts", "off", 0, 1, "",
        "shows the bits per value by part of the message instead of times"),
};

// One line a codec, and more where options make another codec of it.
static const char *const choice[] = {"raw",
                                     "fp32",
                                     "fp16",
                                     "bf16",
                                     "int8",
                                     "int4",
                                     "int2",
                                     "nf4",
                                     "qsgd",
                                     "qsgd:norm=max",
                                     "qsgd:code=gamma",
                                     "qsgd:code=rans",
                                     "terngrad",
                                     "terngrad:code=base3",
                                     "sign",
                                     "sign:group=class,scale=bf16",
                                     "onebit",
                                     "signsgd",
                                     "fedbat",
                                     "natural",
                                     "natural:levels=4,norm=l2,bucket=512",
                                     "threelc",
                                     "eden:bits=1",
                                     "eden:bits=2",
                                     "eden:bits=4",
                                     "uniform",
                                     "uniform:round=dither",
                                     "topk",
                                     "topk:ratio=0.1",
                                     "randk",
                                     "stc",
                                     "stc:ratio=0.1,group=class,scale=bf16",
                                     "sbc",
                                     "dgc",
                                     "ecolora",
                                     "cocktail",
                                     "powersgd",
                                     "powersgd:mode=alternating",
                                     "fstq",
                                     "fstq-paper",
                                     "fstq:tags=bitmap,values=packed",
                                     "sign+ef",
                                     "threelc+ef",
                                     "topk+ef21:init=zero",
                                     "topk+ef",
                                     "int4+rans",
                                     "int4+zstd",
                                     "int4+lz4",
                                     NULL};

struct job {
    struct codec_inst *c;
    struct codec_input in;
    uint8_t *msg;
    size_t len, bound;
    float *out, *mean;
    void *scratch;
    struct codec_report report;
    struct err err;
    int64_t status;
    // Where host code cannot touch the device's memory: the same there.
    struct codec_device on; // dev NULL: all is the host's
    struct codec_input there;
    float *out_there, *mean_there;
    uint8_t *again;               // the message as the host makes it
    int64_t events_ns, encodings; // by the device's clock, summed
};

enum { MARK_BEGIN, MARK_END, MARKS };

struct row {
    int64_t device_ns; // of an encoding, by the device's events; 0: on the host
    char text[256];
    double bits, nmse, cosine, bias, parts[6];
    struct bench_result copy, encode, decode, add;
    size_t state_bytes, scratch_bytes, decode_scratch, update_bytes;
    const char *verdict, *coded_on;
    struct noise_tally noise;
};

static void copy_loop(void *arg, int64_t n)
{
    const struct job *j = arg;
    const size_t bytes = j->c->shape->n_values * sizeof(float);
    for (int64_t i = 0; i < n && j->on.dev; i++)
        dev.row->copy(&dev, 0, j->out_there, j->there.x, bytes);
    if (j->on.dev)
        dev.row->wait(&dev, 0);
    for (int64_t i = 0; i < n && !j->on.dev; i++) {
        memcpy(j->out, j->in.x, bytes);
        bench_use(j->out);
    }
}

// Events stand before the first and after the last of what an encoding queues.
static void encode_there(struct job *j)
{
    dev.row->mark(&dev, 0, MARK_BEGIN);
    int64_t len = codec_encode(j->c, &j->there, j->msg, j->bound, j->scratch, &j->report, &j->err);
    dev.row->mark(&dev, 0, MARK_END);
    dev.row->wait(&dev, 0);
    j->events_ns += dev.row->marked(&dev, 0, MARK_END) - dev.row->marked(&dev, 0, MARK_BEGIN);
    j->encodings++;
    j->status |= len - (int64_t)j->len;
}

static void encode_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    for (int64_t i = 0; i < n && j->on.dev; i++)
        encode_there(j);
    for (int64_t i = 0; i < n && !j->on.dev; i++) {
        int64_t len = codec_encode(j->c, &j->in, j->msg, j->bound, j->scratch, &j->report, &j->err);
        j->status |= len - (int64_t)j->len;
    }
}

static void decode_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    const bool away = j->on.dev != NULL;
    const struct codec_output to = {.on = away ? &j->on : NULL,
                                    .sink = {away ? j->out_there : j->out, 1, false}};
    for (int64_t i = 0; i < n; i++)
        j->status |= codec_decode_to(j->c, &j->in.key, j->msg, j->len, to, j->scratch, &j->err);
}

static void add_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    const bool away = j->on.dev != NULL;
    const struct codec_output to = {.on = away ? &j->on : NULL,
                                    .sink = {away ? j->mean_there : j->mean, 1e-3f, true}};
    for (int64_t i = 0; i < n; i++)
        j->status |= codec_decode_to(j->c, &j->in.key, j->msg, j->len, to, j->scratch, &j->err);
}

// Error of the mean of several messages, times their number, over the error of one: 1 without bias.
static double bias_of(struct job *j, double nmse)
{
    size_t n = j->c->shape->n_values;
    struct codec_key key = j->in.key;
    if (!(codec_flags(j->c) & CODEC_UNBIASED) || nmse < 1e-12 || params.draws < 2)
        return NAN;
    memset(j->mean, 0, n * sizeof *j->mean);
    for (int r = 0; r < params.draws; r++) {
        j->in.key.version = (uint32_t)r;
        int64_t len = codec_encode(j->c, &j->in, j->msg, j->bound, j->scratch, NULL, &j->err);
        float part = 1.0f / (float)params.draws;
        if (len < 0 || codec_decode_add(j->c, &j->in.key, j->msg, (size_t)len, part, j->mean,
                                        j->scratch, &j->err))
            return INFINITY;
    }
    j->in.key = key;
    return codec_nmse(j->in.x, j->mean, n) * params.draws / nmse;
}

static double cosine(const float *x, const float *y, size_t n)
{
    double xx = quant_sum_sq(x, n), yy = quant_sum_sq(y, n), norms = sqrt(xx * yy);
    return norms > 0 ? quant_dot(x, y, n) / norms : xx == yy; // nothing of something: 0
}

static bool all_finite(const float *x, size_t n)
{
    return quant_absmax_bits(x, n) < 0x7f800000u;
}

// Whether the device makes the host's message, and decodes it to the host's values.
static const char *prove_there(struct job *j)
{
    const size_t n = j->c->shape->n_values;
    memcpy(j->again, j->msg, j->len);
    int64_t len = codec_encode(j->c, &j->there, j->msg, j->bound, j->scratch, &j->report, &j->err);
    if (len != (int64_t)j->len || memcmp(j->again, j->msg, j->len) != 0)
        return len < 0 ? j->err.text : "the device makes another message";
    decode_loop(j, 1);
    dev_get(&dev, j->mean, j->out_there, n * sizeof(float));
    return memcmp(j->mean, j->out, n * sizeof(float)) == 0 ? NULL : "the device decodes otherwise";
}

// Encodes twice, decodes, and says what is wrong; NULL when nothing is.
static const char *prove(struct job *j, struct row *row)
{
    size_t n = j->c->shape->n_values;
    int64_t len = codec_encode(j->c, &j->in, j->msg, j->bound, j->scratch, &j->report, &j->err);
    if (len < 0)
        return j->err.text;
    j->len = (size_t)len;
    if (codec_decode(j->c, &j->in.key, j->msg, j->len, j->out, j->scratch, &j->err))
        return j->err.text;
    if (!all_finite(j->out, n))
        return "a decoded value is not finite";
    if ((codec_flags(j->c) & CODEC_EXACT) && memcmp(j->out, j->in.x, n * sizeof(float)) != 0)
        return "an exact codec changed a value";
    const struct codec_parts *p = &j->report.parts;
    const int64_t parts[] = {p->header, p->directory, p->scales, p->indices, p->tags, p->values};
    for (size_t k = 0; k < ARRAY_LEN(parts); k++)
        row->parts[k] = 8 * (double)parts[k] / (double)n;
    row->bits = 8 * (double)len / (double)n;
    row->nmse = codec_nmse(j->in.x, j->out, n);
    row->cosine = cosine(j->in.x, j->out, n);
    row->bias = bias_of(j, row->nmse);
    len = codec_encode(j->c, &j->in, j->msg, j->bound, j->scratch, &j->report, &j->err);
    if (len != (int64_t)j->len)
        return "two encodings differ";
    return j->on.dev ? prove_there(j) : NULL;
}

static void measure(struct bench_ctx *c, struct job *j, struct row *row)
{
    struct bench_case cases[] = {{"memcpy", NULL, copy_loop, j},
                                 {"encode", NULL, encode_loop, j},
                                 {"decode", NULL, decode_loop, j},
                                 {"decode_add", NULL, add_loop, j}};
    struct bench_result r[4];
    const char *wrong = prove(j, row);
    size_t n = j->c->shape->n_values;
    memset(r, 0, sizeof r);
    if (!wrong) {
        j->status = 0;
        memset(j->mean, 0, n * sizeof *j->mean);
        bench_measure(c, cases, 4, r);
        wrong = j->status ? "a measured call failed" : NULL;
    }
    row->copy = r[0];
    row->encode = r[1];
    row->decode = r[2];
    row->add = r[3];
    row->verdict = bench_check(c, !wrong);
    row->noise = bench_take_noise(c);
    row->coded_on = j->report.ran_on ? j->report.ran_on : "-";
    row->state_bytes = codec_state_floats(j->c) * sizeof(float);
    row->scratch_bytes = codec_scratch_bytes(j->c);
    row->decode_scratch = codec_decode_scratch(j->c);
    row->update_bytes = n * sizeof(float);
    row->device_ns = j->encodings ? j->events_ns / j->encodings : 0;
    const struct bench_counter counters[] = {{"bits_per_value", row->bits},
                                             {"ratio", 32 / row->bits},
                                             {"nmse", row->nmse},
                                             {"cosine", row->cosine},
                                             {"bias", row->bias},
                                             {"header_bits", row->parts[0]},
                                             {"directory_bits", row->parts[1]},
                                             {"scales_bits", row->parts[2]},
                                             {"indices_bits", row->parts[3]},
                                             {"tags_bits", row->parts[4]},
                                             {"values_bits", row->parts[5]},
                                             {"state_bytes", (double)row->state_bytes},
                                             {"scratch_bytes", (double)row->scratch_bytes},
                                             {"decode_scratch", (double)row->decode_scratch},
                                             {"encode_device_ns", (double)row->device_ns}};
    for (int k = 0; k < 4; k++) {
        char name[320];
        snprintf(name, sizeof name, "codec/%s/%s", row->text, cases[k].name);
        const bool there = k == 1 && row->device_ns > 0;
        bench_report(c, name, &r[k], (int64_t)row->update_bytes, counters,
                     (int)ARRAY_LEN(counters) - !there, wrong);
    }
    if (wrong)
        fprintf(c->out, "# %s: %s\n", row->text, wrong);
}

static double gb_per_s(const struct row *row, double ns)
{
    return ns > 0 ? (double)row->update_bytes / ns : NAN;
}

static double of_copy(const struct row *row, const struct bench_result *r)
{
    return r->samples ? 100 * bench_ratio(&row->copy, r) : NAN;
}

// Ratio, cosine, bias, 99th percentiles, adding, the copy itself, memory.
enum { CODEC_WIDE = 1 << 2 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 10 | 7 << 12 | 3 << 15 };
static const struct table speed_table = {.n_cols = 19,
                                         .col = {{"Codec", "", 26, TABLE_LEFT},
                                                 {"bits", "/value", 7, TABLE_RIGHT},
                                                 {"ratio", "to fp32", 8, TABLE_RIGHT},
                                                 {"NMSE", "", 8, TABLE_RIGHT},
                                                 {"cosine", "", 7, TABLE_RIGHT},
                                                 {"bias", "xNMSE", 6, TABLE_RIGHT},
                                                 {"encode", "GB/s", 7, TABLE_RIGHT},
                                                 {"p99", "GB/s", 7, TABLE_RIGHT},
                                                 {"of copy", "%", 7, TABLE_RIGHT},
                                                 {"decode", "GB/s", 7, TABLE_RIGHT},
                                                 {"p99", "GB/s", 7, TABLE_RIGHT},
                                                 {"of copy", "%", 7, TABLE_RIGHT},
                                                 {"add", "GB/s", 7, TABLE_RIGHT},
                                                 {"of copy", "%", 7, TABLE_RIGHT},
                                                 {"copy", "GB/s", 6, TABLE_RIGHT},
                                                 {"state", "B/value", 8, TABLE_RIGHT},
                                                 {"scratch", "B/value", 8, TABLE_RIGHT},
                                                 {"coded", "on", 5, TABLE_RIGHT},
                                                 {"Validation", "", 10, TABLE_RIGHT}}};

static const struct table parts_table = {.n_cols = 10,
                                         .col = {{"Codec", "", 26, TABLE_LEFT},
                                                 {"bits", "/value", 9, TABLE_RIGHT},
                                                 {"header", "/value", 9, TABLE_RIGHT},
                                                 {"directory", "/value", 9, TABLE_RIGHT},
                                                 {"scales", "/value", 9, TABLE_RIGHT},
                                                 {"indices", "/value", 9, TABLE_RIGHT},
                                                 {"tags", "/value", 9, TABLE_RIGHT},
                                                 {"values", "/value", 9, TABLE_RIGHT},
                                                 {"NMSE", "", 9, TABLE_RIGHT},
                                                 {"Validation", "", 10, TABLE_RIGHT}}};

static void print_parts(struct bench_ctx *c, const struct table *t, const struct row *row)
{
    char cell[8][32];
    fmt_fixed(cell[0], row->bits, 9, 4);
    for (int k = 0; k < 6; k++)
        fmt_fixed(cell[k + 1], row->parts[k], 9, 4);
    fmt_fixed(cell[7], row->nmse, 9, 5);
    bench_row(c, t,
              (const char *[]){row->text, cell[0], cell[1], cell[2], cell[3], cell[4], cell[5],
                               cell[6], cell[7], row->verdict});
}

static void print_speed(struct bench_ctx *c, const struct table *t, const struct row *row)
{
    const double values[] = {row->bits,
                             32 / row->bits,
                             row->nmse,
                             row->cosine,
                             row->bias,
                             gb_per_s(row, row->encode.ns.median),
                             gb_per_s(row, row->encode.ns.p99),
                             of_copy(row, &row->encode),
                             gb_per_s(row, row->decode.ns.median),
                             gb_per_s(row, row->decode.ns.p99),
                             of_copy(row, &row->decode),
                             gb_per_s(row, row->add.ns.median),
                             of_copy(row, &row->add),
                             gb_per_s(row, row->copy.ns.median),
                             (double)row->state_bytes / (double)row->update_bytes * 4,
                             (double)row->scratch_bytes / (double)row->update_bytes * 4};
    static const int decimals[] = {3, 1, 5, 4, 3, 2, 2, 0, 2, 2, 0, 2, 0, 1, 1, 1};
    char cell[ARRAY_LEN(values)][32];
    const char *cells[TABLE_COLS] = {row->text};
    for (size_t k = 0; k < ARRAY_LEN(values); k++)
        cells[k + 1] = fmt_fixed(cell[k], values[k], t->col[k + 1].width, decimals[k]);
    cells[ARRAY_LEN(values) + 1] = row->coded_on;
    cells[ARRAY_LEN(values) + 2] = row->verdict;
    bench_row(c, t, cells);
}

static int by_key(const void *a, const void *b)
{
    const struct row *p = a, *q = b;
    double d = 0;
    switch (params.sort) {
    case SORT_NAME:
        return strcmp(p->text, q->text);
    case SORT_BITS:
        d = p->bits - q->bits;
        break;
    case SORT_NMSE:
        d = p->nmse - q->nmse;
        break;
    case SORT_ENCODE:
        d = p->encode.ns.median - q->encode.ns.median;
        break;
    case SORT_DECODE:
        d = p->decode.ns.median - q->decode.ns.median;
        break;
    default:
        break;
    }
    return (d > 0) - (d < 0);
}

static void job_open(struct job *j, const struct shape *s, const float *x, const float *side)
{
    size_t n = s->n_values, st = codec_state_floats(j->c) + 1;
    j->bound = codec_bound(j->c);
    j->msg = mem_alloc(MEM_CODEC, j->bound + 1);
    j->scratch = mem_alloc(MEM_CODEC, codec_scratch_bytes(j->c) + 1);
    j->out = mem_alloc(MEM_CODEC, (n + 1) * sizeof(float));
    j->mean = mem_alloc(MEM_CODEC, (n + 1) * sizeof(float));
    float *state = mem_alloc(MEM_CODEC, st * sizeof(float));
    float *next = mem_alloc(MEM_CODEC, st * sizeof(float));
    memset(j->out, 0xE5, n * sizeof(float));
    j->in = (struct codec_input){.x = x,
                                 .sens = side,
                                 .grad = side,
                                 .state = state,
                                 .state_next = next,
                                 .key = {.seed = 1, .client = 2, .version = 3},
                                 .budget_bytes = -1};
}

static const float *send(const float *x, size_t n)
{
    float *there = dev.row->alloc(&dev, MEM_CODEC, (n + 1) * sizeof *x);
    if (x)
        dev_put(&dev, there, x, n * sizeof *x);
    return there;
}

// The job's vectors on the device, where that has memory of its own.
static void job_send(struct job *j, size_t n, size_t state)
{
    if (dev.row->host)
        return;
    j->on = (struct codec_device){
        .dev = &dev,
        .stage = dev.row->stage(&dev, codec_stage_bytes(j->c, &dev) + 1),
        .room = dev.row->alloc(&dev, MEM_CODEC, codec_device_bytes(j->c, &dev) + 1)};
    j->there = j->in;
    j->there.on = &j->on;
    j->there.x = send(j->in.x, n);
    j->there.sens = send(j->in.sens, n);
    j->there.grad = send(j->in.grad, n);
    j->there.state = send(j->in.state, state);
    j->there.state_next = (float *)(uintptr_t)send(j->in.state_next, state);
    j->out_there = (float *)(uintptr_t)send(NULL, n);
    j->mean_there = (float *)(uintptr_t)send(NULL, n);
    j->again = mem_alloc(MEM_CODEC, j->bound + 1);
}

static void job_leave(struct job *j)
{
    const void *const blocks[] = {j->on.room,    j->there.x,     j->there.sens,
                                  j->there.grad, j->there.state, j->there.state_next,
                                  j->out_there,  j->mean_there};
    for (size_t i = 0; i < ARRAY_LEN(blocks) && j->on.dev; i++)
        dev.row->free(&dev, (void *)(uintptr_t)blocks[i]);
    if (j->on.dev)
        dev.row->unstage(&dev, j->on.stage);
    mem_free(j->again);
}

static void job_close(struct job *j)
{
    job_leave(j);
    mem_free((void *)(uintptr_t)j->in.state);
    mem_free(j->in.state_next);
    mem_free(j->msg);
    mem_free(j->scratch);
    mem_free(j->out);
    mem_free(j->mean);
    codec_close(j->c);
}

static bool run_one(struct bench_ctx *c, const char *text, const struct shape *s, const float *x,
                    const float *side, struct row *row)
{
    struct job *j = mem_alloc(MEM_CODEC, sizeof *j);
    snprintf(row->text, sizeof row->text, "%s", text);
    j->c = codec_open(text, s, &j->err);
    bool opened = j->c != NULL;
    if (opened) {
        job_open(j, s, x, side);
        job_send(j, s->n_values, codec_state_floats(j->c));
        measure(c, j, row);
        job_close(j);
    } else {
        fprintf(c->out, "# %s\n", j->err.text);
        bench_check(c, false);
    }
    mem_free(j);
    return opened;
}

static bool chosen(const char *name)
{
    size_t len = strlen(name);
    for (int i = 0; choice[i]; i++)
        if (strncmp(choice[i], name, len) == 0 && !isalnum((unsigned char)choice[i][len]))
            return true;
    return false;
}

// The choice, then every codec that it left out.
static bool next_choice(int *k, char *text, size_t size)
{
    const int n = (int)ARRAY_LEN(choice) - 1;
    while (*k >= n && codec_table[*k - n] &&
           (chosen(codec_table[*k - n]->name) || strcmp(codec_table[*k - n]->name, "int") == 0))
        ++*k;
    const char *name = *k < n ? choice[*k] : codec_table[*k - n] ? codec_table[*k - n]->name : NULL;
    ++*k;
    return name && snprintf(text, size, "%s", name) > 0;
}

// The next method of the list into text; false at its end.
static bool next_method(const char **rest, int *k, char *text, size_t size)
{
    if (!params.methods[0])
        return next_choice(k, text, size);
    while (**rest == ';' || isspace((unsigned char)**rest))
        ++*rest;
    size_t len = strcspn(*rest, "; \t\n");
    snprintf(text, size, "%.*s", (int)len, *rest);
    *rest += len;
    return len > 0;
}

static void print_row(struct bench_ctx *c, const struct table *t, const struct row *row)
{
    c->row_noise = row->noise;
    if (params.parts)
        print_parts(c, t, row);
    else
        print_speed(c, t, row);
    fflush(t->out);
}

// By the device's own clock.
static void print_events(struct bench_ctx *c, const struct row *rows, int n)
{
    char text[32];
    if (!dev.row->host)
        fprintf(c->out,
                "# an encoding by the device's events, from the first copy or kernel to the "
                "last, the host's part between\n# them included:\n");
    for (int i = 0; i < n; i++)
        if (rows[i].device_ns > 0)
            fprintf(c->out, "#   %s: %s\n", rows[i].text, fmt_time(text, rows[i].device_ns));
}

static void run_all(struct bench_ctx *c, const struct shape *s, const float *x, const float *side)
{
    enum { MOST = 256 };
    struct table t = params.parts ? parts_table : speed_table;
    struct row *rows = mem_alloc(MEM_OTHER, MOST * sizeof *rows);
    const char *rest = params.methods;
    char text[256];
    int k = 0, n = 0;
    t.out = c->out;
    bench_size(c, (int64_t)s->n_values, "values");
    bench_leave_out(c, params.parts ? 0 : CODEC_WIDE);
    bench_head(c, &t);
    while (n < MOST && next_method(&rest, &k, text, sizeof text))
        if (run_one(c, text, s, x, side, &rows[n]) && ++n && params.sort == SORT_NONE)
            print_row(c, &t, &rows[n - 1]);
    if (params.sort != SORT_NONE) {
        qsort(rows, (size_t)n, sizeof *rows, by_key);
        for (int i = 0; i < n; i++)
            print_row(c, &t, &rows[i]);
    }
    print_events(c, rows, n);
    mem_free(rows);
}

// The update and its shape.
static float *open_update(struct shape *s)
{
    struct err err;
    float *x;
    bool file = params.dist == UPDATE_FILE;
    if (file && update_has_shape(params.file)) {
        if (update_read(params.file, (size_t)params.values, s, &x, &err))
            die(STATUS_USAGE, "codec.file: %s", err.text);
        snprintf(params.shape, sizeof params.shape, "of the file");
        return x;
    }
    if (update_shape(params.shape, (size_t)params.values, s, &err))
        die(STATUS_USAGE, "codec.shape: %s", err.text);
    x = mem_alloc(MEM_DATA, (s->n_values + 1) * sizeof *x);
    if (update_fill((enum update_dist)params.dist, params.file, x, s->n_values, &err))
        die(STATUS_USAGE, "codec.%s: %s", file ? "file" : "dist", err.text);
    return x;
}

static void run(struct bench_ctx *c)
{
    struct shape s;
    struct err err;
    float *x = open_update(&s);
    float *side = mem_alloc(MEM_DATA, (s.n_values + 1) * sizeof *x);
    if (update_fill(UPDATE_LAPLACE, "", side, s.n_values, &err))
        die(STATUS_USAGE, "%s", err.text);
    for (size_t i = 0; i < s.n_values; i++) // sensitivities: squares of gradients
        side[i] *= side[i];
    pool_open(params.threads);
    if (dev_open(&dev, params.dev, params.threads, &err))
        die(STATUS_ENV, "%s", err.text);
    fprintf(c->out,
            "# %zu values in %u matrices (%s), %s, %d thread%s, %s\n# GB/s are of fp32 in or "
            "out; copy is memcpy of the "
            "same\n",
            s.n_values, s.n_tensors, params.shape, update_dists[params.dist], params.threads,
            params.threads == 1 ? "" : "s", simd_text());
    if (!dev.row->host)
        fprintf(c->out, "# encode: from the call to the message in the host's memory, with the "
                        "copies and waits between\n# stages; copy is the device's own\n");
    dev_reserve(&dev, 0, MARKS);
    c->threads = params.threads;
    run_all(c, &s, x, side);
    c->threads = 0;
    dev_close(&dev);
    pool_close();
    mem_free(x);
    mem_free(side);
    shape_free(&s);
}

const struct bench bench_codec = {
    .name = "codec",
    .help = "every compressor on one update: bits, error, bias, speed against memcpy, memory",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
