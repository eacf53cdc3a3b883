// Which coordinates: the k largest, and bit allocation by threshold, greedily and by rate and
// distortion. The clock excludes quantising and packing.
#include "base/check.h"
#include "base/mem.h"
#include "base/table.h"
#include "bench/bench.h"
#include "bench/update.h"
#include "codec/fstq.h"
#include "dev/dev.h"
#include "kernels/simd.h"
#include "kernels/stages.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct select_params {
    char shape[128];
    int64_t values;
    int32_t dist, dev; // dev: row of dev_table
};

static struct select_params params;

static const char *dev_name(int32_t i)
{
    return dev_table[i] ? dev_table[i]->name : NULL;
}

static const struct opt options[] = {
    OPT_ROW(struct select_params, dev, "select.dev", "cpu", dev_name, "who chooses"),
    OPT_STRING(struct select_params, shape, "select.shape", "16x4096,4096x16",
               "matrices, as in codec.shape; e.g. llama2-7b-r16-all"),
    OPT(struct select_params, values, "select.values", "4194304", 64, 4e9, "",
        "the shape is repeated until there are at least this many values"),
    OPT_ENUM(struct select_params, dist, "select.dist", "normal", update_dists,
             "how the values are distributed"),
};

struct job {
    struct shape shape;
    float *x, *sens;
    uint32_t *at, *by_cpu;
    size_t k, found;
    struct dev dev;
    struct codec_device
        on; // where x_there and sens_there lie; dev NULL = the host, and they do not
    float *x_there, *sens_there;
    struct codec_inst *c;
    void *scratch;
    struct fstq_encoder e;
    double target, got;
    struct err err;
    bool bad;
};

static void topk_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    for (int64_t i = 0; i < n; i++) {
        struct select_threshold c;
        select_threshold_begin(&c, j->k);
        for (int level = 0; level < SELECT_LEVELS; level++) {
            uint32_t count[SELECT_BINS] = {0};
            select_count(j->x, j->shape.n_values, SELECT_ABS, level, c.prefix, count);
            select_threshold_next(&c, count);
        }
        j->found = select_take(j->x, j->shape.n_values, SELECT_ABS, c.prefix, &c.left, 0, j->at);
    }
}

// The same by the device's stages.
static void topk_there_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    const struct select_stages *s = j->dev.row->codec->select;
    const struct kernel_ctx *cx = &j->dev.lane[0].cx;
    const struct select_run run = {.n = j->shape.n_values};
    for (int64_t i = 0; i < n; i++) {
        struct select_choice c = {.side = SELECT_ABS};
        select_threshold_begin(&c.threshold, j->k);
        for (int level = 0; level < SELECT_LEVELS; level++) {
            uint32_t count[SELECT_BINS] = {0};
            s->count(cx, j->x_there, &run, 1, SELECT_ABS, level, c.threshold.prefix, count);
            select_threshold_next(&c.threshold, count);
        }
        j->found = s->take(cx, j->x_there, &run, 1, &c, j->at);
    }
}

static bool topk_ok(struct job *j)
{
    uint32_t *at = j->at;
    bool ok = j->found == j->k;
    if (!j->on.dev)
        return ok;
    j->at = j->by_cpu;
    topk_loop(j, 1);
    j->at = at;
    return ok && memcmp(at, j->by_cpu, j->k * sizeof *at) == 0;
}

// Values and a bitmap with tags of two bits.
static double plain_cost(const void *arg, const int64_t count[ALLOC_LEVELS])
{
    const struct job *j = arg;
    double bits = (double)j->shape.n_values;
    for (int k = 1; k < j->e.w.a.count; k++)
        bits += (double)count[k] * (j->e.w.a.bits[k] + 2);
    return bits / 8;
}

// By rank: importance of all, thresholds, tags. By rate and distortion: the design on a sample, and
// the widths that follow from it.
static void alloc_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    const struct codec_input here = {.x = j->x, .sens = j->sens, .key = {1, 2, 3}};
    const struct codec_input there = {
        .on = &j->on, .x = j->x_there, .sens = j->sens_there, .key = {1, 2, 3}};
    const struct codec_input in = j->on.dev ? there : here;
    for (int64_t i = 0; i < n; i++) {
        j->bad |= fstq_begin(j->c, &in, j->scratch, &j->e, &j->err) != 0;
        struct fstq_work *w = &j->e.w;
        if (w->a.policy == POLICY_RD) {
            double slope;
            fstq_set_costs(&j->e, fstq_design(&j->e, j->target, &slope));
            fstq_choose(&j->e, 0, j->shape.n_values);
        } else {
            fstq_rank(&j->e, j->target, plain_cost, j);
        }
    }
}

static void open_allocation(struct job *j, int policy)
{
    char text[160];
    snprintf(text, sizeof text,
             "fstq:policy=%s,gamma=1,budget=%s,shares=0.005/0.04/0.08,tags=bitmap,values=packed",
             bitalloc_policies[policy], policy == POLICY_PERCENTILE ? "0" : "0.15");
    j->target = policy == POLICY_PERCENTILE ? -1 : 0.15 * 2 * (double)j->shape.n_values;
    j->c = codec_open(text, &j->shape, &j->err);
    if (!j->c)
        die(STATUS_USAGE, "%s", j->err.text);
    j->scratch = mem_alloc(MEM_CODEC, codec_scratch_bytes(j->c));
    if (!j->on.dev)
        return;
    j->on.stage = j->dev.row->stage(&j->dev, codec_stage_bytes(j->c, &j->dev) + 1);
    j->on.room = j->dev.row->alloc(&j->dev, MEM_CODEC, codec_device_bytes(j->c, &j->dev) + 1);
}

static void close_allocation(struct job *j)
{
    if (j->on.dev) {
        j->dev.row->unstage(&j->dev, j->on.stage);
        j->dev.row->free(&j->dev, j->on.room);
    }
    mem_free(j->scratch);
    codec_close(j->c);
}

// The message costs nearly what was asked for: by rank never more, from a sample within a per cent.
static bool allocation_ok(struct job *j)
{
    fstq_count(&j->e.w);
    fstq_sum_counts(&j->e.w);
    j->got = plain_cost(j, j->e.w.total);
    double most = j->e.w.a.policy == POLICY_RD ? 1.01 : 1;
    return !j->bad && (j->target < 0 || (j->got <= most * j->target && j->got > 0.99 * j->target));
}

static void print(struct bench_ctx *c, const struct table *t, const struct job *j, const char *name,
                  const struct bench_result *r, double kept, bool ok)
{
    char cell[4][32];
    double n = (double)j->shape.n_values;
    fmt_fixed(cell[0], 100 * kept / n, 8, 2);
    fmt_whole(cell[1], (int64_t)r->ns.median);
    fmt_fixed(cell[2], r->ns.median / n, 8, 3);
    fmt_fixed(cell[3], 4 * n / r->ns.median, 8, 2);
    bench_row(c, t, (const char *[]){name, cell[0], cell[1], cell[2], cell[3], bench_check(c, ok)});
    bench_report(c, name, r, 4 * (int64_t)j->shape.n_values, NULL, 0, ok ? NULL : "wrong choice");
}

static void run_topk(struct bench_ctx *c, const struct table *t, struct job *j)
{
    static const double ratios[] = {.001, .01, .1};
    for (size_t i = 0; i < ARRAY_LEN(ratios); i++) {
        struct bench_case one = {"topk", NULL, j->on.dev ? topk_there_loop : topk_loop, j};
        struct bench_result r;
        char name[48];
        j->k = (size_t)(ratios[i] * (double)j->shape.n_values);
        bench_measure(c, &one, 1, &r);
        snprintf(name, sizeof name, "select/topk/%g", ratios[i]);
        print(c, t, j, name, &r, (double)j->found, topk_ok(j));
    }
}

static void run_alloc(struct bench_ctx *c, const struct table *t, struct job *j)
{
    for (int policy = POLICY_PERCENTILE; policy <= POLICY_RD; policy++) {
        struct bench_case one = {"alloc", NULL, alloc_loop, j};
        struct bench_result r;
        char name[48];
        open_allocation(j, policy);
        bench_measure(c, &one, 1, &r);
        bool ok = allocation_ok(j);
        double kept = (double)j->shape.n_values - (double)j->e.w.total[0];
        snprintf(name, sizeof name, "select/%s", bitalloc_policies[policy]);
        print(c, t, j, name, &r, kept, ok);
        close_allocation(j);
    }
}

static void open_device(struct job *j)
{
    const size_t bytes = j->shape.n_values * sizeof(float);
    struct err err;
    if (params.dev == 0)
        return;
    if (dev_open(&j->dev, params.dev, 1, &err))
        die(STATUS_ENV, "%s", err.text);
    const struct codec_stages *has = j->dev.row->codec;
    if (!has || !has->select || !has->alloc)
        die(STATUS_USAGE, "bench select --dev %s: codecs have no stages there", j->dev.row->name);
    j->on = (struct codec_device){.dev = &j->dev};
    j->x_there = j->dev.row->alloc(&j->dev, MEM_CODEC, bytes);
    j->sens_there = j->dev.row->alloc(&j->dev, MEM_CODEC, bytes);
    dev_put(&j->dev, j->x_there, j->x, bytes);
    dev_put(&j->dev, j->sens_there, j->sens, bytes);
}

static void close_device(struct job *j)
{
    if (!j->on.dev)
        return;
    j->dev.row->free(&j->dev, j->x_there);
    j->dev.row->free(&j->dev, j->sens_there);
    dev_close(&j->dev);
}

static void run(struct bench_ctx *c)
{
    const struct table t = {.out = c->out,
                            .n_cols = 6,
                            .col = {{"Choice", "", 20, TABLE_LEFT},
                                    {"kept", "%", 8, TABLE_RIGHT},
                                    {"time", "", 10, TABLE_NS},
                                    {"each", "ns", 8, TABLE_RIGHT},
                                    {"fp32", "GB/s", 8, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    struct job *j = mem_alloc(MEM_CODEC, sizeof *j);
    struct err err;
    if (update_shape(params.shape, (size_t)params.values, &j->shape, &err))
        die(STATUS_USAGE, "select.shape: %s", err.text);
    size_t n = j->shape.n_values;
    j->x = mem_alloc(MEM_DATA, n * sizeof(float));
    j->sens = mem_alloc(MEM_DATA, n * sizeof(float));
    j->at = mem_alloc(MEM_CODEC, (n + 16) * sizeof(uint32_t));
    j->by_cpu = mem_alloc(MEM_CODEC, (n + 16) * sizeof(uint32_t));
    if (update_fill((enum update_dist)params.dist, "", j->x, n, &err) ||
        update_fill(UPDATE_LAPLACE, "", j->sens, n, &err))
        die(STATUS_USAGE, "select.dist: %s", err.text);
    for (size_t i = 0; i < n; i++)
        j->sens[i] *= j->sens[i];
    open_device(j);
    fprintf(c->out, "# %zu values in %u matrices, %s, one thread, %s, on %s\n", n,
            j->shape.n_tensors, update_dists[params.dist], simd_text(),
            dev_table[params.dev]->name);
    bench_size(c, (int64_t)n, "values");
    bench_head(c, &t);
    run_topk(c, &t, j);
    run_alloc(c, &t, j);
    close_device(j);
    mem_free(j->by_cpu);
    mem_free(j->x);
    mem_free(j->sens);
    mem_free(j->at);
    shape_free(&j->shape);
    mem_free(j);
}

const struct bench bench_select = {
    .name = "select",
    .help = "the k largest values, and bits by importance: threshold, greedy, rate-distortion",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
