// Fixed-width packing by itself: codes in the second-level cache, so that instructions count and
// not memory.
#include "base/check.h"
#include "base/mem.h"
#include "base/table.h"
#include "bench/pack.h"
#include "dev/dev.h"
#include "kernels/kernels_codec.h"
#include "kernels/simd.h"

#include <string.h>

struct pack_params {
    int64_t values;
    int32_t dev; // row of dev_table
};

static struct pack_params params;

static const char *dev_name(int32_t i)
{
    return dev_table[i] ? dev_table[i]->name : NULL;
}

static const struct opt options[] = {
    OPT_ROW(struct pack_params, dev, "pack.dev", "cpu", dev_name,
            "who packs; the CPU by instruction set, others beside a copy of their memory"),
    OPT(struct pack_params, values, "pack.values", "65536", 8, 1e9, "", "codes that are packed"),
};

struct codes {
    unsigned width;
    size_t n;
    uint8_t *code8, *back8, *packed;
    uint16_t *code16, *back16;
    uint32_t *code32;
};

static void pack_loop(void *arg, int64_t n)
{
    const struct codes *c = arg;
    for (int64_t i = 0; i < n; i++) {
        if (c->width <= 8)
            pack_u8(c->code8, c->n, c->width, c->packed);
        else if (c->width <= 16)
            pack_u16(c->code16, c->n, c->width, c->packed);
        else
            memcpy(c->packed, c->code32, c->n * 4);
        bench_use(c->packed);
    }
}

static void unpack_loop(void *arg, int64_t n)
{
    const struct codes *c = arg;
    for (int64_t i = 0; i < n; i++) {
        if (c->width <= 8)
            unpack_u8(c->packed, c->n, c->width, c->back8);
        else if (c->width <= 16)
            unpack_u16(c->packed, c->n, c->width, c->back16);
        else
            memcpy(c->code32, c->packed, c->n * 4);
        bench_use(c->packed);
    }
}

static bool came_back(const struct codes *c)
{
    if (c->width <= 8)
        return memcmp(c->code8, c->back8, c->n) == 0;
    return c->width > 16 || memcmp(c->code16, c->back16, 2 * c->n) == 0;
}

static void measure(struct bench_ctx *ctx, const struct table *t, struct codes *c)
{
    for (size_t i = 0; i < c->n; i++) {
        c->code16[i] = (uint16_t)((i * 2654435761u >> 7) & ((1u << (c->width % 17)) - 1));
        c->code8[i] = (uint8_t)(c->code16[i] & 0xff);
        c->code32[i] = (uint32_t)i;
    }
    struct bench_case cases[] = {{"pack", NULL, pack_loop, c}, {"unpack", NULL, unpack_loop, c}};
    char cell[1 + 2 * SIMD_ISA_COUNT][32];
    const char *cells[TABLE_COLS];
    bool ok = true;
    snprintf(cell[0], sizeof cell[0], "%u", c->width);
    cells[0] = cell[0];
    for (int isa = 0; isa < SIMD_ISA_COUNT; isa++) {
        struct bench_result r[2];
        simd_limit((enum simd_isa)isa);
        cells[1 + 2 * isa] = cells[1 + 2 * isa + 1] = "-"; // not on this processor
        if (simd_isa() != (enum simd_isa)isa)
            continue;
        bench_measure(ctx, cases, 2, r);
        ok &= came_back(c);
        for (int k = 0; k < 2; k++) {
            char row[64];
            int at = 1 + 2 * isa + k;
            fmt_fixed(cell[at], (double)c->n / r[k].ns.median * 1e3, 9, 0);
            cells[at] = cell[at];
            snprintf(row, sizeof row, "%s/%u/%s", cases[k].name, c->width, simd_isa_name[isa]);
            bench_report(ctx, row, &r[k], (int64_t)c->n, NULL, 0, ok ? NULL : "codes differ");
        }
    }
    simd_limit(SIMD_AVX512);
    cells[1 + 2 * SIMD_ISA_COUNT] = bench_check(ctx, ok);
    bench_row(ctx, t, cells);
}

static void run(struct bench_ctx *ctx)
{
    if (params.dev != 0) {
        pack_on_device(ctx, params.dev, (size_t)params.values);
        return;
    }
    const struct table t = {.out = ctx->out,
                            .n_cols = 8,
                            .col = {{"Width", "bits", 6, TABLE_LEFT},
                                    {"pack", "base", 9, TABLE_RIGHT},
                                    {"unpack", "base", 9, TABLE_RIGHT},
                                    {"pack", "avx2", 9, TABLE_RIGHT},
                                    {"unpack", "avx2", 9, TABLE_RIGHT},
                                    {"pack", "avx512", 9, TABLE_RIGHT},
                                    {"unpack", "avx512", 9, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    size_t n = (size_t)params.values;
    struct codes c = {.n = n,
                      .code8 = mem_alloc(MEM_CODEC, n),
                      .back8 = mem_alloc(MEM_CODEC, n),
                      .packed = mem_alloc(MEM_CODEC, 4 * n + 8),
                      .code16 = mem_alloc(MEM_CODEC, 2 * n),
                      .back16 = mem_alloc(MEM_CODEC, 2 * n),
                      .code32 = mem_alloc(MEM_CODEC, 4 * n)};
    fprintf(
        ctx->out,
        "# %zu codes; millions per second by instruction set (one that this machine lacks runs as\n"
        "# the next below); width 32 is memcpy\n",
        n);
    bench_size(ctx, (int64_t)n, "codes that are packed");
    bench_head(ctx, &t);
    for (c.width = 1; c.width <= 16; c.width++)
        measure(ctx, &t, &c);
    c.width = 32;
    measure(ctx, &t, &c);
    mem_free(c.code8);
    mem_free(c.back8);
    mem_free(c.packed);
    mem_free(c.code16);
    mem_free(c.back16);
    mem_free(c.code32);
}

const struct bench bench_pack = {
    .name = "pack",
    .help = "fixed-width packing of 1 to 16 and 32 bits, by instruction set",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
