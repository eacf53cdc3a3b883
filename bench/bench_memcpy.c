// One core against memory: what any codec, frame or file can at most reach here. The floor row of
// every other table.
#include "bench/bench.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/table.h"
#include "net/wire.h"

#include <string.h>
#include <xxhash.h>

struct memcpy_params {
    int64_t min_bytes, max_bytes;
};

static struct memcpy_params params;

static const struct opt options[] = {
    OPT(struct memcpy_params, min_bytes, "memcpy.min_bytes", "4096", 1, 1e12, "B", "smallest size"),
    OPT(struct memcpy_params, max_bytes, "memcpy.max_bytes", "67108864", 1, 1e12, "B",
        "largest size; sizes grow fourfold"),
};

struct pair {
    uint8_t *from, *to;
    size_t n;
    uint64_t hash;
};

static void copy_loop(void *arg, int64_t n)
{
    const struct pair *p = arg;
    for (int64_t i = 0; i < n; i++) {
        memcpy(p->to, p->from, p->n);
        bench_use(p->to);
    }
}

static void hash_loop(void *arg, int64_t n)
{
    struct pair *p = arg;
    for (int64_t i = 0; i < n; i++) {
        p->hash = frame_hash(p->from, p->n);
        bench_use(p);
    }
}

static bool hash_agrees(const struct pair *p)
{
    XXH3_state_t *state = XXH3_createState(); // the streaming way to the same value
    bool ok = state && XXH3_64bits_reset(state) == XXH_OK;
    for (size_t at = 0; ok && at < p->n;) {
        size_t part = p->n - at < 1000 ? p->n - at : 1000;
        ok = XXH3_64bits_update(state, p->from + at, part) == XXH_OK;
        at += part;
    }
    ok = ok && XXH3_64bits_digest(state) == p->hash;
    XXH3_freeState(state);
    return ok;
}

static void measure_size(struct bench_ctx *c, const struct table *t, struct pair *p)
{
    memset(p->to, 0xE5, p->n);
    struct bench_case cases[] = {{"memcpy", NULL, copy_loop, p}, {"xxh3", NULL, hash_loop, p}};
    struct bench_result r[2];
    bench_measure(c, cases, 2, r);
    bool ok = memcmp(p->to, p->from, p->n) == 0 && hash_agrees(p);
    const char *verdict = bench_check(c, ok);
    char cell[6][32], row[64];
    int64_t n = (int64_t)p->n;
    snprintf(cell[0], sizeof cell[0], "%zu", p->n);
    fmt_fixed(cell[1], bench_mb_per_s(n, r[0].ns.median), 9, 0);
    fmt_fixed(cell[2], bench_mb_per_s(n, r[0].ns.ci_high), 9, 0);
    fmt_fixed(cell[3], bench_mb_per_s(n, r[0].ns.ci_low), 9, 0);
    fmt_fixed(cell[4], bench_mb_per_s(n, r[1].ns.median), 9, 0);
    fmt_fixed(cell[5], bench_ratio(&r[0], &r[1]), 9, 2);
    bench_row(c, t,
              (const char *[]){cell[0], cell[1], cell[2], cell[3], cell[4], cell[5], verdict});
    for (int k = 0; k < 2; k++) {
        snprintf(row, sizeof row, "%s/%zu", cases[k].name, p->n);
        bench_report(c, row, &r[k], n, NULL, 0, ok ? NULL : "copy or hash differs");
    }
}

static void run(struct bench_ctx *c)
{
    const struct table t = {.out = c->out,
                            .n_cols = 7,
                            .col = {{"Size", "B", 11, TABLE_LEFT},
                                    {"memcpy", "MB/s", 9, TABLE_RIGHT},
                                    {"95% low", "MB/s", 9, TABLE_RIGHT},
                                    {"95% high", "MB/s", 9, TABLE_RIGHT},
                                    {"XXH3", "MB/s", 9, TABLE_RIGHT},
                                    {"of memcpy", "", 9, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    size_t max = (size_t)params.max_bytes;
    struct pair p = {.from = mem_alloc(MEM_OTHER, max), .to = mem_alloc(MEM_OTHER, max)};
    bench_fill(p.from, max, 1);
    fprintf(c->out,
            "# bytes copied or hashed per second, one core; a copy reads and writes each byte\n");
    bench_head(c, &t);
    for (p.n = (size_t)params.min_bytes; p.n <= max; p.n *= 4)
        measure_size(c, &t, &p);
    mem_free(p.from);
    mem_free(p.to);
}

const struct bench bench_memcpy = {
    .name = "memcpy",
    .help = "one core's bandwidth: memcpy and XXH3 over sizes, the yardstick of codecs and frames",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
