// Raw MPI ping-pong in the shape of the OSU latency and bandwidth tests: the yardstick of frames.
#include "base/check.h"
#include "base/table.h"
#include "bench/pingpong.h"

struct mpi_params {
    int64_t max_bytes;
};

static struct mpi_params params;

static const struct opt options[] = {
    OPT(struct mpi_params, max_bytes, "mpi.max_bytes", "67108864", 0, 1e11, "B",
        "largest message; sizes grow fourfold"),
};

static const struct table_col columns[] = {
    {"Size", "B", 11, TABLE_LEFT},      {"Latency", "us", 10, TABLE_RIGHT},
    {"95% low", "us", 10, TABLE_RIGHT}, {"95% high", "us", 10, TABLE_RIGHT},
    {"Min", "us", 10, TABLE_RIGHT},     {"Bandwidth", "MB/s", 10, TABLE_RIGHT},
    {"CPU", "us", 10, TABLE_RIGHT},     {"Validation", "", 10, TABLE_RIGHT},
};

static void measure_size(struct bench_ctx *c, const struct table *t, struct pingpong *p, size_t n)
{
    struct pingpong_arg arg = {p, PINGPONG_RAW, n};
    const struct bench_case raw = {"raw", pingpong_prepare, pingpong_loop, &arg};
    bool ok = pingpong_intact(p, PINGPONG_RAW, n);
    struct bench_result r;
    bench_measure(c, &raw, 1, &r);
    ok &= pingpong_intact(p, PINGPONG_RAW, n);
    char cell[7][32], row[64];
    const double us[] = {r.ns.median, r.ns.ci_low, r.ns.ci_high, r.ns.min};
    snprintf(cell[0], sizeof cell[0], "%zu", n);
    for (int i = 0; i < 4; i++) // one way: half a round trip
        fmt_fixed(cell[1 + i], us[i] / 2e3, 10, 2);
    fmt_fixed(cell[5], bench_mb_per_s((int64_t)n, r.ns.median / 2), 10, 1);
    fmt_fixed(cell[6], r.cpu_ns / 2e3, 10, 2);
    bench_row(c, t,
              (const char *[]){cell[0], cell[1], cell[2], cell[3], cell[4], cell[5], cell[6],
                               bench_check(c, ok)});
    snprintf(row, sizeof row, "pingpong/%zu", n);
    bench_report(c, row, &r, 2 * (int64_t)n, NULL, 0, ok ? NULL : "bytes differ");
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
                "# MPI_Send and MPI_Recv between ranks 0 and 1; one way is half a round trip\n");
        bench_head(c, &t);
        for (size_t n = 0; n <= (size_t)params.max_bytes; n = n ? 4 * n : 1)
            measure_size(c, &t, &p, n);
        pingpong_stop(&p);
    } else {
        pingpong_serve(&p);
    }
    pingpong_close(&p);
}

const struct bench bench_mpi = {
    .name = "mpi",
    .help = "raw MPI ping-pong over message sizes: latency and bandwidth of the network as it is",
    .ranks = 2,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
