// What a frame costs over raw MPI: header, matched probe, buffers from the pool, with and without
// XXH3. Raw messages and frames take turns in one run, and the ratios are medians over neighbouring
// samples.
#include "base/check.h"
#include "base/table.h"
#include "bench/pingpong.h"

struct xfer_params {
    int64_t min_bytes, max_bytes;
};

static struct xfer_params params;

static const struct opt options[] = {
    OPT(struct xfer_params, min_bytes, "xfer.min_bytes", "0", 0, 1e11, "B", "smallest payload"),
    OPT(struct xfer_params, max_bytes, "xfer.max_bytes", "67108864", 0, 1e11, "B",
        "largest payload; sizes grow fourfold"),
};

static const struct table_col columns[] = {
    {"Size", "B", 11, TABLE_LEFT},         {"raw", "us", 9, TABLE_RIGHT},
    {"frame", "us", 9, TABLE_RIGHT},       {"+xxh3", "us", 9, TABLE_RIGHT},
    {"frame/raw", "", 9, TABLE_RIGHT},     {"+xxh3/raw", "", 9, TABLE_RIGHT},
    {"raw", "MB/s", 9, TABLE_RIGHT},       {"frame", "MB/s", 9, TABLE_RIGHT},
    {"+xxh3", "MB/s", 9, TABLE_RIGHT},     {"frame bw", "% raw", 8, TABLE_RIGHT},
    {"+xxh3 bw", "% raw", 8, TABLE_RIGHT}, {"Validation", "", 10, TABLE_RIGHT},
};

static void measure_size(struct bench_ctx *c, const struct table *t, struct pingpong *p, size_t n)
{
    static const char *const names[PINGPONG_MODES] = {"raw", "frame", "frame_xxh3"};
    struct pingpong_arg args[PINGPONG_MODES];
    struct bench_case cases[PINGPONG_MODES];
    struct bench_result r[PINGPONG_MODES];
    bool ok = true;
    for (int k = 0; k < PINGPONG_MODES; k++) {
        args[k] = (struct pingpong_arg){p, (enum pingpong_mode)k, n};
        cases[k] = (struct bench_case){names[k], pingpong_prepare, pingpong_loop, &args[k]};
        ok &= pingpong_intact(p, (enum pingpong_mode)k, n);
    }
    bench_measure(c, cases, PINGPONG_MODES, r);
    ok &= p->bad == 0;
    for (int k = 0; k < PINGPONG_MODES; k++)
        ok &= pingpong_intact(p, (enum pingpong_mode)k, n);
    char cell[11][32], row[64];
    double slower[PINGPONG_MODES] = {1, bench_ratio(&r[1], &r[0]), bench_ratio(&r[2], &r[0])};
    snprintf(cell[0], sizeof cell[0], "%zu", n);
    for (int k = 0; k < PINGPONG_MODES; k++) {
        fmt_fixed(cell[1 + k], r[k].ns.median / 2e3, 9, 2); // one way: half a round trip
        fmt_fixed(cell[6 + k], bench_mb_per_s((int64_t)n, r[k].ns.median / 2), 9, 1);
        const struct bench_counter over = {"time_over_raw", slower[k]};
        snprintf(row, sizeof row, "%s/%zu", names[k], n);
        bench_report(c, row, &r[k], 2 * (int64_t)n, &over, 1, ok ? NULL : "bytes differ");
    }
    for (int k = 1; k < PINGPONG_MODES; k++) {
        fmt_fixed(cell[3 + k], slower[k], 9, 2);
        fmt_fixed(cell[8 + k], 100 / slower[k], 8, 1);
    }
    const char *cells[12] = {NULL};
    for (int i = 0; i < 11; i++)
        cells[i] = cell[i];
    cells[11] = bench_check(c, ok);
    bench_row(c, t, cells);
    fflush(c->out);
}

static void run(struct bench_ctx *c)
{
    struct pingpong p;
    pingpong_open(&p, (size_t)params.max_bytes);
    if (c->rank == 0) {
        struct table t = {.out = c->out, .n_cols = (int)ARRAY_LEN(columns)};
        for (int i = 0; i < t.n_cols; i++)
            t.col[i] = columns[i];
        fprintf(c->out,
                "# payloads between ranks 0 and 1 and back, one way is half a round trip; a "
                "frame adds %d bytes\n",
                FRAME_HEADER_BYTES);
        bench_leave_out(c, 7 << 6); // MB/s
        bench_head(c, &t);
        size_t n = (size_t)params.min_bytes;
        for (; n <= (size_t)params.max_bytes; n = n ? 4 * n : 1)
            measure_size(c, &t, &p, n);
        pingpong_stop(&p);
    } else {
        pingpong_serve(&p);
    }
    pingpong_close(&p);
}

const struct bench bench_xfer = {
    .name = "xfer",
    .help = "frames through the transport beside raw MPI, by turns: without and with checksum",
    .ranks = 2,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
