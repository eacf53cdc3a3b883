// What disturbed a sample, as far as this machine tells: time this thread waited for a core, time
// the host took from the machine, a clock below the fastest seen, a processor that throttled. It
// is asked outside the measured time.
#ifndef FSTQ_BENCH_NOISE_H
#define FSTQ_BENCH_NOISE_H

#include <stdbool.h>
#include <stdint.h>

struct noise_mark {
    int64_t wall_ns, waited_ns, stolen_ns, throttles; // -1 = this machine does not say
};

// Of one sample. Shares of its wall time; clock: of the fastest that this process has seen. NaN
// where it cannot be known.
struct noise {
    float waited, stolen, clock;
    bool throttled;
};

struct noise_mark noise_begin(void);
struct noise noise_end(const struct noise_mark *m);

enum noise_kind { NOISE_WAITED, NOISE_STOLEN, NOISE_CLOCK, NOISE_THROTTLED, NOISE_KINDS };
extern const char *const noise_words[NOISE_KINDS];
// More than a twentieth of the sample: a bit a kind, 0 = it stands.
unsigned noise_kinds(const struct noise *n);

// Over the samples of a row, of a benchmark.
struct noise_tally {
    int samples, noisy, of[NOISE_KINDS];
};
void noise_add(struct noise_tally *t, const struct noise *n);
void noise_join(struct noise_tally *t, const struct noise_tally *more);

#endif
