// Which coordinates: the k largest, and bit allocation by threshold, greedily and by rate and
// distortion. The clock excludes quantising and packing.
#include "base/check.h"
#include "base/mem.h"
#include "base/table.h"
#include "bench/bench.h"
#include "bench/update.h"
#include "codec/bitalloc.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct select_params {
    char shape[128];
    int64_t values;
    int32_t dist;
};

static struct select_params params;

static const struct opt options[] = {
    OPT_STRING(struct select_params, shape, "select.shape", "16x4096,4096x16",
               "as codec.shape, e.g. llama2-7b-r16-all"),
    OPT(struct select_params, values, "select.values", "4194304", 64, 4e9, "",
        "the shape is repeated until there are at least so many"),
    OPT_ENUM(struct select_params, dist, "select.dist", "normal", update_dists,
             "what the values are"),
};

struct job {
    struct shape shape;
    float *x, *sens, *u;
    uint8_t *tag;
    uint32_t *at, *group;
    size_t *place;
    size_t k, found;
    void *scratch;
    struct bitalloc a;
    struct bitalloc_run run;
    struct alloc_levels levels;
    double target, got;
    struct err err;
    bool bad;
};

static void topk_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    for (int64_t i = 0; i < n; i++) {
        struct select_cut c;
        select_cut_begin(&c, j->k);
        for (int level = 0; level < SELECT_LEVELS; level++) {
            uint32_t count[SELECT_BINS] = {0};
            select_count(j->x, j->shape.n_values, SELECT_ABS, level, c.prefix, count);
            select_cut_next(&c, count);
        }
        j->found = select_take(j->x, j->shape.n_values, SELECT_ABS, c.prefix, &c.left, 0, j->at);
    }
}

// Values and a bitmap with tags of two bits.
static double plain_cost(const void *arg, const int64_t count[ALLOC_LEVELS])
{
    const struct job *j = arg;
    double bits = (double)j->shape.n_values;
    for (int k = 1; k < j->a.count; k++)
        bits += (double)count[k] * (j->a.bits[k] + 2);
    return bits / 8;
}

static void alloc_loop(void *arg, int64_t n)
{
    struct job *j = arg;
    struct codec_input in = {.x = j->x, .sens = j->sens, .key = {1, 2, 3}};
    for (int64_t i = 0; i < n; i++) {
        j->bad |= bitalloc_prepare(&j->run, &j->a, &in, &j->levels, j->group, j->u, j->scratch,
                                   &j->err) != 0;
        bitalloc_assign(&j->run, j->target, plain_cost, j, j->place, j->tag);
    }
}

static void set_allocation(struct job *j, int policy)
{
    double n = (double)j->shape.n_values, rms = sqrt(quant_sum_sq(j->x, j->shape.n_values) / n);
    j->a = (struct bitalloc){.shape = &j->shape,
                             .count = 4,
                             .bits = {0, 2, 4, 16},
                             .importance = IMPORTANCE_FISHER,
                             .norm = NORM_TENSOR,
                             .policy = policy,
                             .gamma16 = 16,
                             .share = {0, .08, .04, .005}};
    j->target = policy == POLICY_PERCENTILE ? -1 : 0.15 * 2 * n;
    struct alloc_levels *l = &j->levels;
    memset(l, 0, sizeof *l);
    l->count = 4;
    for (int k = 1; k < 4; k++) {
        l->kind[k] = k == 3 ? ALLOC_FP16 : ALLOC_INT;
        l->q[k] = k == 1 ? 1 : 7;
        l->scale[k] = (float)(rms * (k == 1 ? 1.4 : 0.45));
        l->inverse[k] = 1 / l->scale[k];
        for (int c = 0; c < k; c++)
            l->per_bit[c][k] = 1 / (float)(j->a.bits[k] - j->a.bits[c] + (c ? 0 : 2));
    }
}

// The message never costs more than asked for, and nearly that much.
static bool allocation_ok(struct job *j)
{
    int64_t count[ALLOC_LEVELS];
    uint64_t found[256];
    pack_count_u8(j->tag, j->shape.n_values, found);
    for (int k = 0; k < ALLOC_LEVELS; k++)
        count[k] = (int64_t)found[k];
    j->got = plain_cost(j, count);
    return !j->bad && (j->target < 0 || (j->got <= j->target && j->got > 0.995 * j->target));
}

static void print(struct bench_ctx *c, const struct table *t, const struct job *j, const char *name,
                  const struct bench_result *r, double kept, bool ok)
{
    char cell[4][32];
    double n = (double)j->shape.n_values;
    fmt_fixed(cell[0], 100 * kept / n, 8, 2);
    fmt_time(cell[1], (int64_t)r->ns.median);
    fmt_fixed(cell[2], r->ns.median / n, 8, 3);
    fmt_fixed(cell[3], 4 * n / r->ns.median, 8, 2);
    table_row(t, (const char *[]){name, cell[0], cell[1], cell[2], cell[3], bench_check(c, ok)});
    bench_report(c, name, r, 4 * (int64_t)j->shape.n_values, NULL, 0, ok ? NULL : "wrong choice");
}

static void run_topk(struct bench_ctx *c, const struct table *t, struct job *j)
{
    static const double ratios[] = {.001, .01, .1};
    for (size_t i = 0; i < ARRAY_LEN(ratios); i++) {
        struct bench_case one = {"topk", NULL, topk_loop, j};
        struct bench_result r;
        char name[48];
        j->k = (size_t)(ratios[i] * (double)j->shape.n_values);
        bench_measure(c, &one, 1, &r);
        snprintf(name, sizeof name, "select/topk/%g", ratios[i]);
        print(c, t, j, name, &r, (double)j->found, j->found == j->k);
    }
}

static void run_alloc(struct bench_ctx *c, const struct table *t, struct job *j)
{
    for (int policy = POLICY_PERCENTILE; policy <= POLICY_RD; policy++) {
        struct bench_case one = {"alloc", NULL, alloc_loop, j};
        struct bench_result r;
        char name[48];
        set_allocation(j, policy);
        bench_measure(c, &one, 1, &r);
        bool ok = allocation_ok(j);
        double kept = 0;
        for (size_t i = 0; i < j->shape.n_values; i++)
            kept += j->tag[i] != 0;
        snprintf(name, sizeof name, "select/%s", bitalloc_policies[policy]);
        print(c, t, j, name, &r, kept, ok);
    }
}

static void run(struct bench_ctx *c)
{
    const struct table t = {.out = c->out,
                            .n_cols = 6,
                            .col = {{"Choice", "", 20, TABLE_LEFT},
                                    {"kept", "%", 8, TABLE_RIGHT},
                                    {"time", "", 10, TABLE_RIGHT},
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
    j->u = mem_alloc(MEM_CODEC, n * sizeof(float));
    j->tag = mem_alloc(MEM_CODEC, n);
    j->at = mem_alloc(MEM_CODEC, (n + 16) * sizeof(uint32_t));
    j->group = mem_alloc(MEM_CODEC, j->shape.n_tensors * sizeof(uint32_t));
    j->place = mem_alloc(MEM_CODEC, j->shape.n_tensors * sizeof(size_t));
    const struct bitalloc largest = {.shape = &j->shape, .policy = POLICY_RD};
    j->scratch = mem_alloc(MEM_CODEC, bitalloc_scratch(&largest));
    for (uint32_t i = 0; i < j->shape.n_tensors; i++)
        j->place[i] = j->shape.tensors[i].offset;
    if (update_fill((enum update_dist)params.dist, "", j->x, n, &err) ||
        update_fill(UPDATE_LAPLACE, "", j->sens, n, &err))
        die(STATUS_USAGE, "select.dist: %s", err.text);
    for (size_t i = 0; i < n; i++)
        j->sens[i] *= j->sens[i];
    fprintf(c->out, "# %zu values in %u matrices, %s, one thread, %s\n", n, j->shape.n_tensors,
            update_dists[params.dist], kernel_isa_text());
    table_head(&t);
    run_topk(c, &t, j);
    run_alloc(c, &t, j);
    mem_free(j->x);
    mem_free(j->sens);
    mem_free(j->u);
    mem_free(j->tag);
    mem_free(j->at);
    mem_free(j->group);
    mem_free(j->place);
    mem_free(j->scratch);
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
