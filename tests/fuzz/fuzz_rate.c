// Every reader of rates on any bytes: the first byte chooses the format, or to tell it from the
// rest. What was read must carry bits, and a transfer over it must end where its bits do.
#include "net/rate.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct rate_trace *t)
{
    if (t->n == 0)
        return;
    double all = t->bits[t->n];
    if (!(all > 0) || rate_trace_period_ns(t) <= 0)
        abort();
    for (size_t i = 0; i < t->n; i++)
        if (t->t_ns[i] >= t->t_ns[i + 1] || t->bits[i] > t->bits[i + 1])
            abort();
    int64_t from = rate_trace_period_ns(t) / 3, until;
    if (!(rate_trace_bps(t, from, &until) >= 0) || until <= from)
        abort();
    int64_t to = rate_trace_leave(t, from, all / 7);
    double moved = rate_trace_bits(t, to) - rate_trace_bits(t, from);
    // A nanosecond moves at most 10^4 bits.
    if (to < from || fabs(moved - all / 7) > 1e4 + all * 1e-9)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int n = 0;
    while (rate_reader_table[n])
        n++;
    if (size == 0)
        return 0;
    struct rate_set set = {0};
    struct rate_how how = {.format = data[0] % (n + 1) - 1, .step_s = 0.5};
    struct err err = {""};
    if (rate_read(&set, "fuzz", (const char *)data + 1, size - 1, &how, &err) && !err.text[0])
        abort(); // refused without a word
    for (size_t i = 0; i < set.n; i++) {
        const struct rate_source *s = &set.source[i];
        if (s->up.n == 0 && !(s->up_bps > 0 && s->down_bps > 0 && s->up_sigma_bps >= 0))
            abort();
        check(&s->up);
        check(&s->down);
    }
    rate_close(&set);
    return 0;
}
