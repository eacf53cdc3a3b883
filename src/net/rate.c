#include "net/rate.h"

#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define NS_MAX   9e18   // 285 years
#define BITS_MAX 4.5e15 // whole bits are exact in a double, and halves

int rate_trace_build(struct rate_trace *t, const double *seconds, const double *bps, size_t n,
                     const char *where, struct err *err)
{
    double at_s = 0;
    *t = (struct rate_trace){0};
    t->t_ns = mem_alloc(MEM_NET, (n + 1) * sizeof *t->t_ns);
    t->bits = mem_alloc(MEM_NET, (n + 1) * sizeof *t->bits);
    for (size_t i = 0; i < n; i++) {
        at_s += seconds[i];
        if (!(seconds[i] >= 0 && bps[i] >= 0 && at_s * 1e9 < NS_MAX)) {
            rate_trace_free(t);
            return err_set(err, "%s: step %zu: %g s at %g bit/s is no step", where, i + 1,
                           seconds[i], bps[i]);
        }
        int64_t end_ns = (int64_t)(at_s * 1e9 + 0.5), ns = end_ns - t->t_ns[t->n];
        if (ns == 0)
            continue;
        t->n++;
        t->t_ns[t->n] = end_ns;
        t->bits[t->n] = t->bits[t->n - 1] + bps[i] * ((double)ns * 1e-9);
    }
    double all = t->bits[t->n];
    if (all > 0 && all < BITS_MAX)
        return 0;
    rate_trace_free(t);
    return err_set(err, "%s: %s", where,
                   all > 0 ? "moves more than 4.5e15 bits; cut it into shorter traces"
                           : "moves nothing: no rate above 0 that lasts");
}

void rate_trace_free(struct rate_trace *t)
{
    mem_free(t->t_ns);
    mem_free(t->bits);
    *t = (struct rate_trace){0};
}

static double piece_bps(const struct rate_trace *t, size_t i)
{
    return (t->bits[i + 1] - t->bits[i]) / ((double)(t->t_ns[i + 1] - t->t_ns[i]) * 1e-9);
}

// The piece that holds at t_ns in [0, period).
static size_t piece_at(const struct rate_trace *t, int64_t t_ns)
{
    size_t low = 0, high = t->n;
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (t->t_ns[mid] <= t_ns)
            low = mid;
        else
            high = mid;
    }
    return low;
}

double rate_trace_bps(const struct rate_trace *t, int64_t t_ns, int64_t *until_ns)
{
    int64_t at = t_ns % rate_trace_period_ns(t);
    size_t i = piece_at(t, at);
    *until_ns = t_ns + (t->t_ns[i + 1] - at);
    return piece_bps(t, i);
}

// Within one turn: at in [0, period].
static double bits_within(const struct rate_trace *t, int64_t at)
{
    if (at == rate_trace_period_ns(t))
        return t->bits[t->n];
    size_t i = piece_at(t, at);
    return t->bits[i] + piece_bps(t, i) * ((double)(at - t->t_ns[i]) * 1e-9);
}

double rate_trace_bits(const struct rate_trace *t, int64_t t_ns)
{
    int64_t period = rate_trace_period_ns(t);
    return (double)(t_ns / period) * t->bits[t->n] + bits_within(t, t_ns % period);
}

// The first moment of a turn by which so many bits have moved, 0 < bits <= those of a turn.
static double moment_ns(const struct rate_trace *t, double bits)
{
    size_t low = 0, high = t->n; // bits[low] < bits <= bits[high]
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (t->bits[mid] < bits)
            low = mid;
        else
            high = mid;
    }
    double part = (bits - t->bits[low]) / (t->bits[high] - t->bits[low]);
    return (double)t->t_ns[low] + part * (double)(t->t_ns[high] - t->t_ns[low]);
}

int64_t rate_trace_leave(const struct rate_trace *t, int64_t t_ns, double bits)
{
    assert(t_ns >= 0);
    if (bits <= 0)
        return t_ns;
    int64_t period = rate_trace_period_ns(t), at = t_ns % period;
    double turn = t->bits[t->n], target = bits_within(t, at) + bits, turns = floor(target / turn);
    double rest = target - turns * turn;
    if (rest <= 0) { // ends with a turn, or in the zeros before its end
        turns -= 1;
        rest = turn;
    }
    double end_ns = turns * (double)period + moment_ns(t, rest) - (double)at + (double)t_ns + 0.5;
    if (!(end_ns < 0x1p63))
        return INT64_MAX;
    return (int64_t)end_ns > t_ns ? (int64_t)end_ns : t_ns;
}
