// Rates over time: piecewise constant traces with sums, so that a transfer of any length ends by
// one search, and the readers of the formats in which people keep them.
#ifndef FSTQ_NET_RATE_H
#define FSTQ_NET_RATE_H

#include "base/check.h"

#include <stddef.h>
#include <stdint.h>

// Begins again at its end. Piece i lasts from t_ns[i] to t_ns[i + 1] and moves bits[i + 1] -
// bits[i].
struct rate_trace {
    size_t n;      // pieces
    int64_t *t_ns; // (n + 1) from 0, ascending
    double *bits;  // (n + 1) from 0, moved since the start
};

// One client's link, as a file tells of it: a trace a direction, or a mean and a spread.
struct rate_source {
    char name[64];
    struct rate_trace up, down; // n = 0: none; no down beside an up: the same
    double up_bps, up_sigma_bps, down_bps, down_sigma_bps; // where there are no traces
    double rtt_ms;                                         // as the file says, -1 = it does not
};

struct rate_set {
    struct rate_source *source;
    size_t n, cap;
};

struct rate_how {   // what a file's bytes do not tell
    int32_t format; // of rate_reader_table, -1 = told from the bytes
    double step_s;  // between lines that have no time
};

struct rate_reader {
    const char *name, *help;
    // Appends to the set what the bytes say. where: named in errors.
    int (*read)(struct rate_set *set, const char *where, const char *bytes, size_t n,
                const struct rate_how *how, struct err *err);
};
extern const struct rate_reader *const rate_reader_table[]; // NULL-terminated

// A file, or every file of a folder, in the order of their names; NAME.up and NAME.down are the two
// directions of one link. Hidden files and those called README, LICENSE or COPYING are passed over.
int rate_load(struct rate_set *set, const char *path, const struct rate_how *how, struct err *err);
int rate_read(struct rate_set *set, const char *where, const char *bytes, size_t n,
              const struct rate_how *how, struct err *err);
void rate_close(struct rate_set *set);

// From lengths and rates. -1: none of them moves a bit, or the sums leave what a double counts.
int rate_trace_build(struct rate_trace *t, const double *seconds, const double *bps, size_t n,
                     const char *where, struct err *err);
void rate_trace_free(struct rate_trace *t);
static inline int64_t rate_trace_period_ns(const struct rate_trace *t)
{
    return t->t_ns[t->n];
}
double rate_trace_bps(const struct rate_trace *t, int64_t t_ns, int64_t *until_ns);
double rate_trace_bits(const struct rate_trace *t, int64_t t_ns); // moved from 0 to t_ns
// When bits that begin to leave at t_ns have left, to the nanosecond; INT64_MAX = beyond 292 years.
int64_t rate_trace_leave(const struct rate_trace *t, int64_t t_ns, double bits);

#endif
