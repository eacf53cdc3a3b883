#include "bench/pack.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "dev/dev.h"
#include "kernels/stages.h"

#include <string.h>

enum { GROUP = 256 };

struct passes {
    struct dev dev;
    const struct quant_stages *quant;
    const struct kernel_ctx *cx;
    size_t n, groups;
    struct quant_run run;
    struct quant_rule rule;
    struct quant_stats *stats;
    float *x, *scale, *back;         // the host's: (n), (groups), (n)
    float *there, *out, *other;      // the device's (n)
    uint8_t *packed, *packed_by_cpu; // the host's
};

static void copy_loop(void *arg, int64_t n)
{
    struct passes *p = arg;
    for (int64_t i = 0; i < n; i++)
        p->dev.row->copy(&p->dev, 0, p->other, p->there, p->n * sizeof(float));
    p->dev.row->wait(&p->dev, 0);
}

static void fit_loop(void *arg, int64_t n)
{
    struct passes *p = arg;
    for (int64_t i = 0; i < n; i++)
        p->quant->fit(p->cx, p->there, &p->run, 1, 0, p->stats, NULL);
    p->dev.row->wait(&p->dev, 0);
}

static void code_loop(void *arg, int64_t n)
{
    struct passes *p = arg;
    for (int64_t i = 0; i < n; i++)
        p->quant->code(p->cx, p->there, &p->run, 1, &p->rule, p->scale, p->packed);
    p->dev.row->wait(&p->dev, 0);
}

static void give_loop(void *arg, int64_t n)
{
    struct passes *p = arg;
    for (int64_t i = 0; i < n; i++)
        p->quant->give(p->cx, p->packed, &p->run, 1, &p->rule, p->scale,
                       (struct quant_sink){p->out, 1, false}, true);
    p->dev.row->wait(&p->dev, 0);
}

// The same by the CPU: bytes, and what they say.
static bool same(struct passes *p)
{
    float *by_cpu = mem_alloc(MEM_CODEC, p->n * sizeof *by_cpu);
    size_t bytes = (p->n * p->rule.width + 7) / 8;
    quant_stages_cpu.code(NULL, p->x, &p->run, 1, &p->rule, p->scale, p->packed_by_cpu);
    quant_stages_cpu.give(NULL, p->packed_by_cpu, &p->run, 1, &p->rule, p->scale,
                          (struct quant_sink){by_cpu, 1, false}, false);
    dev_get(&p->dev, p->back, p->out, p->n * sizeof *p->back);
    bool ok = memcmp(p->packed, p->packed_by_cpu, bytes) == 0 &&
              memcmp(p->back, by_cpu, p->n * sizeof *by_cpu) == 0;
    mem_free(by_cpu);
    return ok;
}

static void set_width(struct passes *p, unsigned width)
{
    int q = width > 1 ? (1 << (width - 1)) - 1 : 1;
    p->rule = (struct quant_rule){.kind = width > 1 ? QUANT_NEAREST : QUANT_SIGN,
                                  .q = q,
                                  .kinds = width > 1 ? (unsigned)(2 * q + 1) : 2,
                                  .width = width,
                                  .scales = 1};
    quant_stages_cpu.fit(NULL, p->x, &p->run, 1, 0, p->stats, NULL);
    for (size_t g = 0; g < p->groups; g++) {
        float most;
        memcpy(&most, &p->stats[g].max_bits, sizeof most);
        p->scale[g] = most / (float)q;
    }
}

static void measure(struct bench_ctx *c, const struct table *t, struct passes *p, unsigned width)
{
    static const char *const names[] = {"copy", "fit", "code", "give"};
    const struct bench_case cases[] = {{names[0], NULL, copy_loop, p},
                                       {names[1], NULL, fit_loop, p},
                                       {names[2], NULL, code_loop, p},
                                       {names[3], NULL, give_loop, p}};
    enum { CASES = ARRAY_LEN(cases) };
    struct bench_result r[CASES];
    char cell[2 + CASES][32], row[64];
    const char *cells[TABLE_COLS];
    int64_t bytes = (int64_t)(p->n * sizeof(float));
    set_width(p, width);
    bench_measure(c, cases, CASES, r);
    bool ok = same(p);
    snprintf(cell[0], sizeof cell[0], "%u", width);
    cells[0] = cell[0];
    for (int k = 0; k < CASES; k++) {
        fmt_fixed(cell[1 + k], (double)bytes / r[k].ns.median, 9, 3);
        cells[1 + k] = cell[1 + k];
        snprintf(row, sizeof row, "%s/%u/%s", names[k], width, p->dev.row->name);
        bench_report(c, row, &r[k], bytes, NULL, 0, ok ? NULL : "bytes are not the CPU's");
    }
    fmt_fixed(cell[1 + CASES], 100 * bench_ratio(&r[0], &r[2]), 7, 0);
    cells[1 + CASES] = cell[1 + CASES];
    cells[2 + CASES] = bench_check(c, ok);
    bench_row(c, t, cells);
}

static void *device_floats(struct passes *p)
{
    return p->dev.row->alloc(&p->dev, MEM_CODEC, p->n * sizeof(float));
}

static void open_passes(struct passes *p, int32_t dev, size_t values)
{
    struct err err;
    struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
    if (dev_open(&p->dev, dev, 1, &err))
        die(STATUS_ENV, "%s", err.text);
    p->quant = p->dev.row->codec ? p->dev.row->codec->quant : NULL;
    if (!p->quant)
        die(STATUS_USAGE, "bench pack --dev %s: codecs have no stages there", p->dev.row->name);
    p->cx = &p->dev.lane[0].cx;
    p->n = values;
    p->groups = (values + GROUP - 1) / GROUP;
    p->run = (struct quant_run){.n = values, .group = GROUP};
    p->stats = mem_alloc(MEM_CODEC, p->groups * sizeof *p->stats);
    p->x = mem_alloc(MEM_DATA, values * sizeof *p->x);
    p->back = mem_alloc(MEM_DATA, values * sizeof *p->back);
    p->scale = mem_alloc(MEM_CODEC, p->groups * sizeof *p->scale);
    p->packed = p->dev.row->stage(&p->dev, values + 64);
    p->packed_by_cpu = mem_alloc(MEM_CODEC, values + 64);
    p->there = device_floats(p);
    p->out = device_floats(p);
    p->other = device_floats(p);
    for (size_t i = 0; i < values; i++)
        p->x[i] = (float)rng_unit(&r) - 0.5f;
    dev_put(&p->dev, p->there, p->x, values * sizeof *p->x);
}

static void close_passes(struct passes *p)
{
    float *there[] = {p->there, p->out, p->other};
    void *here[] = {p->stats, p->x, p->back, p->scale, p->packed_by_cpu};
    for (size_t i = 0; i < ARRAY_LEN(there); i++)
        p->dev.row->free(&p->dev, there[i]);
    p->dev.row->unstage(&p->dev, p->packed);
    for (size_t i = 0; i < ARRAY_LEN(here); i++)
        mem_free(here[i]);
    dev_close(&p->dev);
}

void pack_on_device(struct bench_ctx *c, int32_t dev, size_t values)
{
    static const unsigned widths[] = {1, 2, 3, 4, 6, 8};
    struct passes *p = mem_alloc(MEM_OTHER, sizeof *p);
    const struct table t = {.out = c->out,
                            .n_cols = 7,
                            .col = {{"Width", "bits", 6, TABLE_LEFT},
                                    {"copy", "GB/s", 9, TABLE_RIGHT},
                                    {"scales", "GB/s", 9, TABLE_RIGHT},
                                    {"pack", "GB/s", 9, TABLE_RIGHT},
                                    {"unpack", "GB/s", 9, TABLE_RIGHT},
                                    {"pack", "% copy", 7, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    open_passes(p, dev, values);
    fprintf(c->out,
            "# %zu values on %s, scales by %d; GB/s of fp32 in or out, with what goes to the host "
            "and back: statistics,\n"
            "# scales, packed bytes; copy: within the device's memory\n",
            values, p->dev.row->name, GROUP);
    bench_size(c, (int64_t)values, "values");
    bench_head(c, &t);
    for (size_t i = 0; i < ARRAY_LEN(widths); i++)
        measure(c, &t, p, widths[i]);
    close_passes(p);
    mem_free(p);
}
