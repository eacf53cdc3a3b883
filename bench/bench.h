// The measuring harness: it knows nothing of what it measures. A benchmark is one row and one
// object; its loops are calibrated until a sample lasts long enough, samples of all that it
// compares are interleaved, and everything printed or stored goes through one report.
#ifndef FSTQ_BENCH_BENCH_H
#define FSTQ_BENCH_BENCH_H

#include "base/jsonw.h"
#include "base/opt.h"
#include "base/stats.h"
#include "base/table.h"
#include "bench/noise.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define BENCH_SAMPLES_MAX 201
#define BENCH_CASES_MAX   8

struct bench_ctx {
    const char *name;  // of the benchmark that runs
    double min_time_s; // a shorter sample is no sample
    int samples;
    int rank, size;
    FILE *out;                           // the human's table; rank 0 only
    struct jsonw *json;                  // NULL = not asked for
    int failures;                        // checks that failed
    struct noise_tally row_noise, noise; // of samples since the last row; of the rows before it
    int threads;                         // that the rows in hand use, for the JSON file; 0 = 1
    int families;                        // of the JSON file
    bool wide;                           // tables with the columns that a screen has no room for
    unsigned left_out;                   // those columns of the table in hand, a bit each
    int64_t items;                       // what the row in hand measures: column Size
    const char *unit;                    // NULL = the table says it itself
};

struct bench {
    const char *name, *help;
    int ranks;              // how many it needs; 1 runs without mpirun
    const struct opt *opts; // over *params, named "memcpy.max_bytes"
    int n_opts;
    void *params;
    void (*run)(struct bench_ctx *c); // on every rank where ranks > 1, else on rank 0
};

extern const struct bench bench_memcpy, bench_mpi, bench_xfer, bench_link, bench_trace, bench_codec,
    bench_drift, bench_factors, bench_pack, bench_rans, bench_select, bench_side;
extern const struct bench bench_gemm, bench_leak, bench_ops, bench_step, bench_fisher, bench_tokens,
    bench_infer;
extern const struct bench *const bench_table[]; // NULL-terminated; cmd_bench.c

// One loop to measure. prepare stands outside the clock: it tells a peer what comes, cools or
// fills.
struct bench_case {
    const char *name;
    void (*prepare)(void *arg, int64_t n); // may be NULL
    void (*loop)(void *arg, int64_t n);    // n iterations
    void *arg;
};

struct bench_result {
    struct stats ns;    // wall time of one iteration
    double cpu_ns;      // median CPU time of one, all threads of this rank
    int64_t iterations; // in the last sample
    int samples, discarded;
    // In the order they were taken, so that cases measured together can be paired.
    double sample_ns[BENCH_SAMPLES_MAX], sample_cpu_ns[BENCH_SAMPLES_MAX];
    struct noise noise[BENCH_SAMPLES_MAX]; // what disturbed each
};

// Calibrates every case (which warms it up), then takes ctx->samples of each in turn: A B C A B C,
// so that whatever disturbs the machine disturbs all of them.
void bench_measure(struct bench_ctx *c, const struct bench_case *cases, int n,
                   struct bench_result *results);
// Median over the pairs of a's time to b's.
double bench_ratio(const struct bench_result *a, const struct bench_result *b);

struct bench_counter {
    const char *name;
    double value;
};

// One result into the JSON file, in Google Benchmark's schema: every sample, then the aggregates.
// bytes: moved by one iteration, 0 = does not apply. error: NULL, or what the check found wrong.
void bench_report(struct bench_ctx *c, const char *row, const struct bench_result *r, int64_t bytes,
                  const struct bench_counter *counters, int n_counters, const char *error);
// A bench's table, with its name as title and two more columns: bench_size's before all others, and
// before Validation the share of samples since the last row that something disturbed.
void bench_head(const struct bench_ctx *c, const struct table *t);
void bench_row(struct bench_ctx *c, const struct table *t, const char *const *cells);
// Size of what the rows from here on measure; its unit may not change within a table.
void bench_size(struct bench_ctx *c, int64_t size, const char *unit);
// Columns, a bit each, that a screen does not show of the next table; --wide and -o do.
void bench_leave_out(struct bench_ctx *c, unsigned columns);
// For samples taken without bench_measure, and for rows that are printed later than measured.
void bench_noise(struct bench_ctx *c, const struct noise_mark *begun, struct bench_result *r,
                 int sample);
struct noise_tally bench_take_noise(struct bench_ctx *c);

// A check of the measured path: counts failures, returns the word for the Validation column.
const char *bench_check(struct bench_ctx *c, bool ok);

double bench_mb_per_s(int64_t bytes, double ns); // 10^6 bytes

// A pattern in which a shifted, swapped or missing byte shows; cheap, for 64 MiB of it are made.
void bench_fill(uint8_t *to, size_t n, uint32_t salt);
bool bench_same(const uint8_t *got, size_t n, uint32_t salt);

// Keeps the compiler from dropping what a loop computes.
static inline void bench_use(const void *p)
{
    __asm__ volatile("" : : "r"(p) : "memory");
}

// The JSON file's frame: context, then rows.
bool bench_json_begin(struct jsonw *j, FILE *out, int argc, char **argv);
void bench_json_end(struct jsonw *j);

#endif
