#include "bench/noise.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOISE_LEVEL 0.05f

const char *const noise_words[NOISE_KINDS] = {
    [NOISE_WAITED] = "waited for a core",
    [NOISE_STOLEN] = "lost time to the host (steal)",
    [NOISE_CLOCK] = "ran at a lower clock",
    [NOISE_THROTTLED] = "were throttled (heat or power)",
};

// /proc/thread-self/schedstat: ns run, ns ready to run but not running, slices.
static int64_t waited_ns(void)
{
    FILE *f = fopen("/proc/thread-self/schedstat", "r");
    long long ran, waited;
    bool ok = f && fscanf(f, "%lld %lld", &ran, &waited) == 2;
    if (f)
        fclose(f);
    return ok ? waited : -1;
}

// A core's mean: /proc/stat adds up all of them, in clock ticks.
static int64_t stolen_ns(void)
{
    FILE *f = fopen("/proc/stat", "r");
    long long v[8];
    bool ok = f && fscanf(f, "cpu %lld %lld %lld %lld %lld %lld %lld %lld", &v[0], &v[1], &v[2],
                          &v[3], &v[4], &v[5], &v[6], &v[7]) == 8;
    if (f)
        fclose(f);
    return ok ? v[7] * (1000000000 / sysconf(_SC_CLK_TCK)) / sysconf(_SC_NPROCESSORS_ONLN) : -1;
}

static int64_t throttles(void)
{
    FILE *f = fopen("/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "r");
    long long n;
    bool ok = f && fscanf(f, "%lld", &n) == 1;
    if (f)
        fclose(f);
    return ok ? n : -1;
}

// Multiplications that wait for one another take as many cycles on any day: their time says what
// the clock is, whatever the kernel reports. The quickest of three, so that an interrupt in one
// does not count.
static double chain_ns(void)
{
    double best = INFINITY;
    for (int k = 0; k < 3; k++) {
        uint64_t x = 1;
        int64_t t = clock_ns();
        for (int i = 0; i < 8000; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            __asm__ volatile("" : "+r"(x)); // one at a time, and none left out
        }
        t = clock_ns() - t;
        best = (double)t < best ? (double)t : best;
    }
    return best;
}

struct noise_mark noise_begin(void)
{
    return (struct noise_mark){.waited_ns = waited_ns(),
                               .stolen_ns = stolen_ns(),
                               .throttles = throttles(),
                               .wall_ns = clock_ns()};
}

static float share(int64_t before, int64_t after, int64_t wall_ns)
{
    return before < 0 || after < 0 || wall_ns <= 0 ? NAN : (float)(after - before) / (float)wall_ns;
}

struct noise noise_end(const struct noise_mark *m)
{
    static double fastest_ns = INFINITY;
    int64_t wall = clock_ns() - m->wall_ns;
    struct noise n = {.waited = share(m->waited_ns, waited_ns(), wall),
                      .stolen = share(m->stolen_ns, stolen_ns(), wall),
                      .throttled = m->throttles >= 0 && throttles() > m->throttles};
    double ns = chain_ns();
    fastest_ns = ns < fastest_ns ? ns : fastest_ns;
    n.clock = (float)(fastest_ns / ns);
    return n;
}

unsigned noise_kinds(const struct noise *n)
{
    return (unsigned)(n->waited > NOISE_LEVEL) << NOISE_WAITED |
           (unsigned)(n->stolen > NOISE_LEVEL) << NOISE_STOLEN |
           (unsigned)(n->clock < 1 - 2 * NOISE_LEVEL) << NOISE_CLOCK |
           (unsigned)n->throttled << NOISE_THROTTLED;
}

void noise_add(struct noise_tally *t, const struct noise *n)
{
    unsigned kinds = noise_kinds(n);
    t->samples++;
    t->noisy += kinds != 0;
    for (int k = 0; k < NOISE_KINDS; k++)
        t->of[k] += (int)(kinds >> k & 1);
}

void noise_join(struct noise_tally *t, const struct noise_tally *more)
{
    t->samples += more->samples;
    t->noisy += more->noisy;
    for (int k = 0; k < NOISE_KINDS; k++)
        t->of[k] += more->of[k];
}
